//! How the webhooks of a site are doing, at a glance.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::auth::Asking;
use super::deliveries::DeliveryView;
use super::error::{Problem, Result};
use super::sites::find;
use crate::domain::webhook::Webhook;
use crate::store::deliveries::Filter;

const DAY: Duration = Duration::from_secs(86_400);

#[derive(Serialize, ToSchema)]
pub struct PulseAnswer {
    pulses: Vec<PulseView>,
}

/// What a webhook was sent lately.
#[derive(Serialize, ToSchema)]
#[schema(as = Pulse)]
pub struct PulseView {
    webhook_id: String,
    /// `null` when nothing is kept, or ever was.
    #[schema(required = true)]
    last: Option<DeliveryView>,
    /// Of the last 24 hours.
    deliveries: i64,
    delivered: i64,
    failed: i64,
}

/// The last delivery of each webhook of a site, and what became of those of a day
#[utoipa::path(get, path = "/api/sites/{site}/pulse", tag = "webhooks", security(("key" = []), ("session" = [])),
    params(("site" = String, Path, description = "Id or domain")),
    responses((status = 200, body = PulseAnswer), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 503, body = Problem)))]
pub async fn show_pulse(State(api): State<Api>, asking: Asking, Path(site): Path<String>) -> Result<Json<PulseAnswer>> {
    let site = find(&api, &asking.0, &site).await?;
    let mut pulses = Vec::new();
    for webhook in api.store.webhooks_of_site(asking.0.account_id, site.id).await? {
        pulses.push(pulse(&api, &webhook).await?);
    }
    Ok(Json(PulseAnswer { pulses }))
}

async fn pulse(api: &Api, webhook: &Webhook) -> Result<PulseView> {
    let (account_id, id) = (webhook.account_id, webhook.id);
    let mut last = api.store.deliveries(account_id, id, &Filter::default(), 1, 0).await?;
    let since = Filter { from: Some(api.clock.now() - DAY), ..Filter::default() };
    let count = async |status: Option<&str>| {
        let filter = Filter { status: status.map(str::to_owned), ..since.clone() };
        api.store.count_deliveries(account_id, id, &filter).await
    };
    Ok(PulseView {
        webhook_id: id.to_string(),
        last: last.pop().map(DeliveryView::from),
        deliveries: count(None).await?,
        delivered: count(Some("success")).await?,
        failed: count(Some("failed")).await?,
    })
}
