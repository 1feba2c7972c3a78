//! What the built-in inbox took of a webhook.

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::auth::Asking;
use super::error::{Problem, Result};
use super::webhooks::find_webhook;
use crate::domain::inbox::Verdict;
use crate::store::inbox::InboxRequest;

/// A request as an endpoint would have got it.
#[derive(Serialize, ToSchema)]
#[schema(as = InboxRequest)]
pub struct RequestView {
    id: String,
    /// Of the delivery: the same on every retry and resend.
    event_id: String,
    /// Found out as a receiver would: `verified`, `unsigned` (the webhook has no secret) or `mismatch`.
    #[schema(value_type = String)]
    verdict: Verdict,
    /// As they were sent. Values of custom headers are not shown.
    headers: Vec<HeaderView>,
    /// The bytes that were signed, as text.
    body: String,
    #[schema(format = DateTime)]
    received_at: String,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Header)]
pub struct HeaderView {
    name: String,
    value: String,
}

#[derive(Serialize, ToSchema)]
pub struct InboxAnswer {
    requests: Vec<RequestView>,
}

/// What the inbox took of a webhook whose `url` is `inbox:`, newest first
///
/// The inbox shows deliveries before there is an endpoint of one's own: nothing leaves the server. It keeps the last 50
/// requests of a webhook for a day, and takes ten a second.
#[utoipa::path(get, path = "/api/sites/{site}/webhooks/{id}/inbox", tag = "webhooks",
    security(("key" = []), ("session" = [])),
    params(("site" = String, Path, description = "Id or domain"), ("id" = String, Path)),
    responses((status = 200, body = InboxAnswer), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 503, body = Problem)))]
pub async fn show_inbox(
    State(api): State<Api>,
    asking: Asking,
    Path((site, id)): Path<(String, String)>,
) -> Result<Json<InboxAnswer>> {
    let webhook = find_webhook(&api, &asking.0, &site, &id).await?;
    let requests = api.store.inbox(webhook.account_id, webhook.id).await?;
    Ok(Json(InboxAnswer { requests: requests.into_iter().map(RequestView::from).collect() }))
}

impl From<InboxRequest> for RequestView {
    fn from(request: InboxRequest) -> Self {
        let headers: Vec<(String, String)> = serde_json::from_str(&request.headers).unwrap_or_default();
        Self {
            id: request.id.to_string(),
            event_id: request.event_id.to_string(),
            verdict: request.verdict,
            headers: headers.into_iter().map(|(name, value)| HeaderView { name, value }).collect(),
            body: String::from_utf8_lossy(&request.body).into_owned(),
            received_at: request.received_at.to_string(),
        }
    }
}
