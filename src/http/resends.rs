//! Ranges of deliveries that are sent once more: counted, started, looked at, paused, resumed and cancelled.

use axum::Json;
use axum::extract::{Path, State};
use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::auth::Asking;
use super::body::{Fields, JsonObject};
use super::deliveries::{TYPES, refuse_unless_live};
use super::error::{ApiError, Problem, Result};
use super::webhooks::find_webhook;
use crate::domain::access::{Actor, Role};
use crate::domain::ids::ResendId;
use crate::domain::resend::{Range, Status};
use crate::domain::settle::Ended;
use crate::store::resends::Resend;
use crate::store::shards::shard_of;

/// Most ranges a list has.
const LISTED: i64 = 100;

/// A range of deliveries on its way once more.
#[derive(Serialize, ToSchema)]
#[schema(as = Resend)]
pub struct ResendView {
    id: String,
    webhook_id: String,
    /// `running`, `paused`, `cancelled`, or `done` when everything was put into the queue.
    status: String,
    /// Deliveries there were when it was asked for.
    total: i64,
    /// Deliveries put into the queue so far.
    queued: i64,
    /// Of these: `failed`, `success` or `cancelled`.
    delivery_status: String,
    trigger_type: Option<String>,
    #[schema(format = DateTime)]
    from: Option<String>,
    #[schema(format = DateTime)]
    to: Option<String>,
    #[schema(format = DateTime)]
    inserted_at: String,
    #[schema(format = DateTime)]
    updated_at: String,
}

#[derive(Serialize, ToSchema)]
pub struct StartedAnswer {
    /// Deliveries in the range.
    count: i64,
    /// `null` when there was nothing to send, or nothing was to be sent.
    resend: Option<ResendView>,
}

#[derive(Serialize, ToSchema)]
pub struct ResendAnswer {
    resend: ResendView,
}

#[derive(Serialize, ToSchema)]
pub struct ResendsAnswer {
    resends: Vec<ResendView>,
}

/// What is resent: every ended delivery that passes.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is read field by field")]
pub struct RangeBody {
    /// `failed` (when absent), `success` or `cancelled`.
    status: Option<String>,
    trigger_type: Option<String>,
    #[schema(format = DateTime)]
    from: Option<String>,
    #[schema(format = DateTime)]
    to: Option<String>,
    /// Only count them.
    dry_run: Option<bool>,
}

#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is read field by field")]
pub struct ResendBody {
    /// `paused`, `running` or `cancelled`.
    status: String,
}

/// Send a range of ended deliveries once more, at a share of the endpoint's rate
#[utoipa::path(post, path = "/api/sites/{site}/webhooks/{id}/resend", tag = "deliveries",
    security(("key" = []), ("session" = [])),
    params(("site" = String, Path, description = "Id or domain"), ("id" = String, Path)), request_body = RangeBody,
    responses((status = 200, description = "Counted only", body = StartedAnswer), (status = 202, body = StartedAnswer),
        (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 409, body = Problem), (status = 413, body = Problem),
        (status = 422, body = Problem), (status = 503, body = Problem)))]
pub async fn resend_range(
    State(api): State<Api>,
    asking: Asking,
    Path((site, id)): Path<(String, String)>,
    JsonObject(body): JsonObject,
) -> Result<(StatusCode, Json<StartedAnswer>)> {
    let actor = asking.at_least(Role::Editor)?;
    let webhook = find_webhook(&api, &actor, &site, &id).await?;
    let mut fields = Fields::of(&body, &[]);
    let ended = one_of(&mut fields, "status", &Ended::ALL, Ended::as_str).unwrap_or(Ended::Failed);
    let event_type = one_of(&mut fields, "trigger_type", &TYPES, |name| name);
    let dry_run = fields.flag("dry_run").unwrap_or(false);
    let range = Range {
        ended,
        event_type: event_type.map(str::to_owned),
        from_at: fields.parsed("from"),
        to_at: fields.parsed("to"),
    };
    let range = fields.finish(range)?;
    let change = api.change(&actor);
    if dry_run {
        let count = api.store.count_range(webhook.account_id, webhook.id, &range, change.now).await?;
        return Ok((StatusCode::OK, Json(StartedAnswer { count, resend: None })));
    }
    refuse_unless_live(&webhook)?;
    let count = api.store.count_range(webhook.account_id, webhook.id, &range, change.now).await?;
    if count == 0 {
        return Ok((StatusCode::ACCEPTED, Json(StartedAnswer { count, resend: None })));
    }
    let id = ResendId(api.chance.uuid_v7(change.now));
    let resend = api.store.start_resend(&change, id, webhook.id, shard_of(webhook.site_id), range, count).await?;
    api.wake.resend_wanted().await;
    Ok((StatusCode::ACCEPTED, Json(StartedAnswer { count, resend: Some(resend.into()) })))
}

/// Ranges that were asked for, newest first
#[utoipa::path(get, path = "/api/sites/{site}/webhooks/{id}/resends", tag = "deliveries",
    security(("key" = []), ("session" = [])),
    params(("site" = String, Path, description = "Id or domain"), ("id" = String, Path)),
    responses((status = 200, body = ResendsAnswer), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 503, body = Problem)))]
pub async fn list_resends(
    State(api): State<Api>,
    asking: Asking,
    Path((site, id)): Path<(String, String)>,
) -> Result<Json<ResendsAnswer>> {
    let webhook = find_webhook(&api, &asking.0, &site, &id).await?;
    let resends = api.store.resends(webhook.account_id, webhook.id, LISTED).await?;
    Ok(Json(ResendsAnswer { resends: resends.into_iter().map(ResendView::from).collect() }))
}

/// One range and how far it has come
#[utoipa::path(get, path = "/api/sites/{site}/webhooks/{id}/resends/{resend_id}", tag = "deliveries",
    security(("key" = []), ("session" = [])),
    params(("site" = String, Path, description = "Id or domain"), ("id" = String, Path), ("resend_id" = String, Path)),
    responses((status = 200, body = ResendAnswer), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 503, body = Problem)))]
pub async fn show_resend(
    State(api): State<Api>,
    asking: Asking,
    Path((site, id, resend_id)): Path<(String, String, String)>,
) -> Result<Json<ResendAnswer>> {
    let resend = find_resend(&api, &asking.0, &site, &id, &resend_id).await?;
    Ok(Json(ResendAnswer { resend: resend.into() }))
}

/// Pause, resume or cancel a range
#[utoipa::path(patch, path = "/api/sites/{site}/webhooks/{id}/resends/{resend_id}", tag = "deliveries",
    security(("key" = []), ("session" = [])),
    params(("site" = String, Path, description = "Id or domain"), ("id" = String, Path), ("resend_id" = String, Path)),
    request_body = ResendBody,
    responses((status = 200, body = ResendAnswer), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 403, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem),
        (status = 413, body = Problem), (status = 422, body = Problem), (status = 503, body = Problem)))]
pub async fn update_resend(
    State(api): State<Api>,
    asking: Asking,
    Path((site, id, resend_id)): Path<(String, String, String)>,
    JsonObject(body): JsonObject,
) -> Result<Json<ResendAnswer>> {
    const ALLOWED: [Status; 3] = [Status::Paused, Status::Running, Status::Cancelled];
    let actor = asking.at_least(Role::Editor)?;
    let resend = find_resend(&api, &actor, &site, &id, &resend_id).await?;
    let mut fields = Fields::of(&body, &[]);
    fields.require("status");
    let status = one_of(&mut fields, "status", &ALLOWED, Status::as_str);
    let status = fields.finish(status)?.unwrap_or(resend.status);
    if !api.store.set_resend_status(&api.change(&actor), resend.id, status).await? {
        return Err(ApiError::conflict("resend_over", "It is over: cancelled, or everything is on its way."));
    }
    if status == Status::Running {
        api.wake.resend_wanted().await;
    }
    let resend = find_resend(&api, &actor, &site, &id, &resend_id).await?;
    Ok(Json(ResendAnswer { resend: resend.into() }))
}

async fn find_resend(api: &Api, actor: &Actor, site: &str, webhook: &str, id: &str) -> Result<Resend> {
    let webhook = find_webhook(api, actor, site, webhook).await?;
    let id = id.parse().map_err(|_| ApiError::not_found())?;
    api.store.find_resend(webhook.account_id, webhook.id, id).await?.ok_or_else(ApiError::not_found)
}

/// A text that is the name of one of `allowed`.
fn one_of<T: Copy>(
    fields: &mut Fields<'_>,
    name: &'static str,
    allowed: &[T],
    text: impl Fn(T) -> &'static str,
) -> Option<T> {
    let given = fields.text(name)?;
    let found = allowed.iter().copied().find(|one| text(*one) == given);
    if found.is_none() {
        let names: Vec<_> = allowed.iter().map(|one| text(*one)).collect();
        fields.invalid.add(name, format!("must be one of {}", names.join(", ")));
    }
    found
}

impl From<Resend> for ResendView {
    fn from(resend: Resend) -> Self {
        Self {
            id: resend.id.to_string(),
            webhook_id: resend.webhook_id.to_string(),
            status: resend.status.as_str().to_owned(),
            total: resend.total,
            queued: resend.queued,
            delivery_status: resend.range.ended.as_str().to_owned(),
            trigger_type: resend.range.event_type,
            from: resend.range.from_at.map(|moment| moment.to_string()),
            to: resend.range.to_at.map(|moment| moment.to_string()),
            inserted_at: resend.inserted_at.to_string(),
            updated_at: resend.updated_at.to_string(),
        }
    }
}
