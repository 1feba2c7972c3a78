//! Deliveries: tests, lists, details, resends.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, Query, State};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::auth::Asking;
use super::error::{ApiError, Problem, Result};
use super::sites::find;
use super::webhooks::find_webhook;
use crate::domain::access::Role;
use crate::domain::event::{Addressee, Data, Event};
use crate::domain::ids::{EventId, WebhookId};
use crate::domain::invalid::Invalid;
use crate::domain::phases::{Phases, Spans};
use crate::domain::webhook::{Status, Webhook};
use crate::store::deliveries::{Attempt, Delivery, Filter};
use crate::store::outbox::{Fired, Step};
use crate::store::shards::shard_of;

const DEFAULT_LIMIT: u32 = 20;
const MAX_LIMIT: u32 = 100;
const STATUSES: [&str; 6] = ["pending", "sending", "retrying", "success", "failed", "cancelled"];
pub(super) const TYPES: [&str; 15] = super::schemas::TYPES;

/// A delivery as the API shows it. Its id is the event's: one name from the trigger to the receiver's log.
#[derive(Serialize, ToSchema)]
#[schema(as = Delivery)]
pub struct DeliveryView {
    id: String,
    event_id: String,
    webhook_id: String,
    event_type: String,
    trigger_id: Option<String>,
    /// `null` for a test.
    trigger_type: Option<String>,
    /// `pending`, `sending`, `retrying`, `success`, `failed` or `cancelled`.
    status: String,
    /// Why it ended, when not by success: `attempts_exhausted`, `expired` or `endpoint_gone`; `shadow` when it was
    /// never to be sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// Of the last attempt.
    response_code: Option<i32>,
    response_body: Option<String>,
    /// What went wrong with the last attempt and what to do about it.
    error_message: Option<String>,
    /// Attempts made so far.
    attempt: i32,
    #[schema(format = DateTime)]
    next_attempt_at: Option<String>,
    /// What is sent: an object, or a text where the format is one.
    #[schema(value_type = Object)]
    payload: Value,
    #[schema(format = DateTime)]
    inserted_at: String,
    #[schema(format = DateTime)]
    updated_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts: Option<Vec<AttemptView>>,
}

/// One HTTP exchange.
#[derive(Serialize, ToSchema)]
#[schema(as = Attempt)]
pub struct AttemptView {
    number: i32,
    #[schema(format = DateTime)]
    started_at: String,
    duration_ms: i64,
    /// Where the time went. `null` when nothing was sent over a network, or nobody took the time.
    #[schema(required = true)]
    phases: Option<PhasesView>,
    /// `success`, or what kind of failure.
    outcome: String,
    error_message: Option<String>,
    response_code: Option<i32>,
    response_headers: BTreeMap<String, String>,
    /// The first 4 KiB.
    response_body: Option<String>,
}

/// Milliseconds of each phase; together as long as the attempt. `null` for what was not gone through: on a connection that was
/// kept open there is no look-up, connection or TLS, and after the phase that failed nothing follows.
#[derive(Serialize, ToSchema)]
#[schema(as = Phases)]
pub struct PhasesView {
    /// Looking up the host's addresses and judging them.
    #[schema(required = true)]
    dns_ms: Option<i64>,
    /// Opening a connection to one of them.
    #[schema(required = true)]
    connect_ms: Option<i64>,
    /// The TLS handshake.
    #[schema(required = true)]
    tls_ms: Option<i64>,
    /// From then on until the status and headers of the answer had come.
    #[schema(required = true)]
    first_byte_ms: Option<i64>,
    /// Reading the beginning of its body.
    #[schema(required = true)]
    body_ms: Option<i64>,
}

#[derive(Serialize, ToSchema)]
pub struct DeliveryAnswer {
    delivery: DeliveryView,
}

#[derive(Serialize, ToSchema)]
pub struct DeliveriesAnswer {
    deliveries: Vec<DeliveryView>,
    pagination: Pagination,
}

#[derive(Serialize, ToSchema)]
pub struct Pagination {
    page: u32,
    limit: u32,
    total_pages: i64,
    total_count: i64,
    /// For the next page of a deep list: `cursor=` it.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub struct SiteDeliveriesAnswer {
    deliveries: Vec<DeliveryView>,
    pagination: SitePagination,
}

#[derive(Serialize, ToSchema)]
pub struct SitePagination {
    limit: u32,
    total_count: i64,
    /// For the next page: `cursor=` it.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// From 1.
    #[param(value_type = Option<u32>, minimum = 1)]
    page: Option<String>,
    #[param(value_type = Option<u32>, minimum = 1, maximum = 100)]
    limit: Option<String>,
    status: Option<String>,
    trigger_type: Option<String>,
    /// Earliest moment, RFC 3339.
    from: Option<String>,
    /// Latest moment, RFC 3339.
    to: Option<String>,
    /// Where the page before ended.
    cursor: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct SiteListQuery {
    /// Only of this webhook.
    webhook_id: Option<String>,
    #[param(value_type = Option<u32>, minimum = 1, maximum = 100)]
    limit: Option<String>,
    status: Option<String>,
    trigger_type: Option<String>,
    /// Earliest moment, RFC 3339.
    from: Option<String>,
    /// Latest moment, RFC 3339.
    to: Option<String>,
    /// Where the page before ended.
    cursor: Option<String>,
}

/// Deliver a test event
#[utoipa::path(post, path = "/api/sites/{site}/webhooks/{id}/test", tag = "webhooks",
    security(("key" = []), ("session" = [])),
    params(("site" = String, Path, description = "Id or domain"), ("id" = String, Path)),
    responses((status = 202, body = DeliveryAnswer), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 403, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem),
        (status = 413, body = Problem), (status = 422, body = Problem), (status = 503, body = Problem)))]
pub async fn send_test(
    State(api): State<Api>,
    asking: Asking,
    Path((site, id)): Path<(String, String)>,
) -> Result<(StatusCode, Json<DeliveryAnswer>)> {
    let actor = asking.at_least(Role::Editor)?;
    api.throttle.test(actor.account_id)?;
    let webhook = find_webhook(&api, &actor, &site, &id).await?;
    refuse_unless_live(&webhook)?;
    let site = find(&api, &actor, &site).await?;
    let now = api.clock.now();
    let id = EventId(api.chance.uuid_v7(now));
    let addressee = Addressee {
        account_id: actor.account_id,
        site_id: site.id,
        site_domain: &site.domain,
        webhook_id: webhook.id,
        format: webhook.format,
        trigger: None,
    };
    let event = Event::new(id, &addressee, format!("test:{id}"), Data::test(), now);
    let shard = shard_of(site.id);
    let fired = Fired { event, shard, trigger_version: None, state: None, shadow: false };
    let (_, owed) = api.store.record(Step { fired: vec![fired], ..Step::default() }, now).await?;
    if owed.is_empty() {
        return Err(ApiError::not_found());
    }
    let delivery = find_delivery(&api, &webhook, id).await;
    api.wake.queue_changed(shard).await;
    let delivery = delivery?;
    Ok((StatusCode::ACCEPTED, Json(DeliveryAnswer { delivery: delivery.into() })))
}

/// Deliveries of a webhook, newest first
#[utoipa::path(get, path = "/api/sites/{site}/webhooks/{id}/deliveries", tag = "deliveries",
    security(("key" = []), ("session" = [])),
    params(("site" = String, Path, description = "Id or domain"), ("id" = String, Path), ListQuery),
    responses((status = 200, body = DeliveriesAnswer), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 422, body = Problem), (status = 503, body = Problem)))]
pub async fn list_deliveries(
    State(api): State<Api>,
    asking: Asking,
    Path((site, id)): Path<(String, String)>,
    Query(query): Query<ListQuery>,
) -> Result<Json<DeliveriesAnswer>> {
    let webhook = find_webhook(&api, &asking.0, &site, &id).await?;
    let (filter, page, limit) = read_query(&query)?;
    let rows = usize::try_from(limit).unwrap_or(usize::MAX);
    let pages_before = if filter.before.is_some() { 0 } else { usize::try_from(page - 1).unwrap_or(usize::MAX) };
    let account_id = webhook.account_id;
    let offset = pages_before.saturating_mul(rows);
    let deliveries = api.store.deliveries(account_id, webhook.id, &filter, rows, offset).await?;
    let total_count = api.store.count_deliveries(account_id, webhook.id, &filter).await?;
    let full = deliveries.len() == rows;
    let next_cursor = deliveries.last().filter(|_| full).map(|last| last.id.to_string());
    Ok(Json(DeliveriesAnswer {
        deliveries: deliveries.into_iter().map(DeliveryView::from).collect(),
        pagination: Pagination {
            page,
            limit,
            total_pages: total_count.unsigned_abs().div_ceil(u64::from(limit)).cast_signed(),
            total_count,
            next_cursor,
        },
    }))
}

/// Deliveries of every webhook of a site, newest first
#[utoipa::path(get, path = "/api/sites/{site}/deliveries", tag = "deliveries",
    security(("key" = []), ("session" = [])),
    params(("site" = String, Path, description = "Id or domain"), SiteListQuery),
    responses((status = 200, body = SiteDeliveriesAnswer), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 422, body = Problem), (status = 503, body = Problem)))]
pub async fn list_site_deliveries(
    State(api): State<Api>,
    asking: Asking,
    Path(site): Path<String>,
    Query(query): Query<SiteListQuery>,
) -> Result<Json<SiteDeliveriesAnswer>> {
    let account_id = asking.0.account_id;
    let site = find(&api, &asking.0, &site).await?;
    let SiteListQuery { webhook_id, limit, status, trigger_type, from, to, cursor } = query;
    let query = ListQuery { page: None, limit, status, trigger_type, from, to, cursor };
    let (filter, _, limit) = read_query(&query)?;
    let webhooks = api.store.webhooks_of_site(account_id, site.id).await?;
    let wanted =
        |id: WebhookId| webhook_id.as_ref().filter(|text| !text.is_empty()).is_none_or(|text| *text == id.to_string());
    let ids: Vec<_> = webhooks.iter().map(|webhook| webhook.id).filter(|id| wanted(*id)).collect();
    let rows = usize::try_from(limit).unwrap_or(usize::MAX);
    let deliveries = api.store.deliveries_of(account_id, &ids, &filter, rows).await?;
    let mut total_count = 0;
    for id in &ids {
        total_count += api.store.count_deliveries(account_id, *id, &filter).await?;
    }
    let full = deliveries.len() == rows;
    let next_cursor = deliveries.last().filter(|_| full).map(|last| last.id.to_string());
    Ok(Json(SiteDeliveriesAnswer {
        deliveries: deliveries.into_iter().map(DeliveryView::from).collect(),
        pagination: SitePagination { limit, total_count, next_cursor },
    }))
}

/// One delivery with its attempts
#[utoipa::path(get, path = "/api/sites/{site}/webhooks/{id}/deliveries/{delivery_id}", tag = "deliveries",
    security(("key" = []), ("session" = [])),
    params(("site" = String, Path, description = "Id or domain"), ("id" = String, Path), ("delivery_id" = String, Path)),
    responses((status = 200, body = DeliveryAnswer), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 503, body = Problem)))]
pub async fn show_delivery(
    State(api): State<Api>,
    asking: Asking,
    Path((site, id, delivery_id)): Path<(String, String, String)>,
) -> Result<Json<DeliveryAnswer>> {
    let webhook = find_webhook(&api, &asking.0, &site, &id).await?;
    let delivery_id = delivery_id.parse().map_err(|_| ApiError::not_found())?;
    let delivery = find_delivery(&api, &webhook, delivery_id).await?;
    let attempts = api.store.attempts(webhook.account_id, delivery_id).await?;
    let attempts = Some(attempts.into_iter().map(AttemptView::from).collect());
    Ok(Json(DeliveryAnswer { delivery: DeliveryView { attempts, ..delivery.into() } }))
}

/// Send a delivery once more, under the same event id
#[utoipa::path(post, path = "/api/sites/{site}/webhooks/{id}/deliveries/{delivery_id}/resend", tag = "deliveries",
    security(("key" = []), ("session" = [])),
    params(("site" = String, Path, description = "Id or domain"), ("id" = String, Path), ("delivery_id" = String, Path)),
    responses((status = 202, body = DeliveryAnswer), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 403, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem),
        (status = 413, body = Problem), (status = 422, body = Problem), (status = 503, body = Problem)))]
pub async fn resend_delivery(
    State(api): State<Api>,
    asking: Asking,
    Path((site, id, delivery_id)): Path<(String, String, String)>,
) -> Result<(StatusCode, Json<DeliveryAnswer>)> {
    let actor = asking.at_least(Role::Editor)?;
    let webhook = find_webhook(&api, &actor, &site, &id).await?;
    let delivery_id = delivery_id.parse().map_err(|_| ApiError::not_found())?;
    find_delivery(&api, &webhook, delivery_id).await?;
    refuse_unless_live(&webhook)?;
    let shard = shard_of(webhook.site_id);
    if !api.store.resend(&api.change(&actor), webhook.id, delivery_id, shard).await? {
        return Err(ApiError::not_found());
    }
    // What was asked for is what is answered, not what became of it meanwhile.
    let delivery = find_delivery(&api, &webhook, delivery_id).await;
    api.wake.queue_changed(shard).await;
    let delivery = delivery?;
    Ok((StatusCode::ACCEPTED, Json(DeliveryAnswer { delivery: delivery.into() })))
}

async fn find_delivery(api: &Api, webhook: &Webhook, id: EventId) -> Result<Delivery> {
    api.store.delivery(webhook.account_id, webhook.id, id).await?.ok_or_else(ApiError::not_found)
}

pub(super) fn refuse_unless_live(webhook: &Webhook) -> Result<()> {
    match webhook.status() {
        Status::Paused => Err(ApiError::conflict("webhook_paused", "The webhook is paused; resume it first.")),
        Status::Disabled => Err(ApiError::conflict(
            "webhook_disabled",
            "The webhook is disabled; set active to true to enable it again.",
        )),
        Status::Active | Status::Failing => Ok(()),
    }
}

fn read_query(query: &ListQuery) -> Result<(Filter, u32, u32), Invalid> {
    let mut invalid = Invalid::new();
    let mut number = |name: &str, text: &Option<String>, default: u32, max: u32| match text {
        None => default,
        Some(text) => text.parse().ok().filter(|number| (1..=max).contains(number)).unwrap_or_else(|| {
            invalid.add(name, format!("must be a whole number from 1 to {max}"));
            default
        }),
    };
    let page = number("page", &query.page, 1, 1_000_000);
    let limit = number("limit", &query.limit, DEFAULT_LIMIT, MAX_LIMIT);
    let mut one_of = |name: &str, text: &Option<String>, allowed: &[&str]| {
        let text = text.clone().filter(|text| !text.is_empty());
        if text.as_ref().is_some_and(|text| !allowed.contains(&text.as_str())) {
            invalid.add(name, format!("must be one of {}", allowed.join(", ")));
        }
        text
    };
    let status = one_of("status", &query.status, &STATUSES);
    let event_type = one_of("trigger_type", &query.trigger_type, &TYPES);
    let mut moment = |name: &str, text: &Option<String>| {
        let text = text.as_ref().filter(|text| !text.is_empty())?;
        text.parse().map_err(|problem| invalid.add(name, format!("{problem}"))).ok()
    };
    let from = moment("from", &query.from);
    let to = moment("to", &query.to);
    let before = match query.cursor.as_ref().filter(|cursor| !cursor.is_empty()).map(|cursor| cursor.parse()) {
        None => None,
        Some(Ok(id)) => Some(id),
        Some(Err(_)) => {
            invalid.add("cursor", "must be the next_cursor of the page before");
            None
        }
    };
    invalid.into_result((Filter { status, event_type, from, to, before }, page, limit))
}

impl From<Delivery> for DeliveryView {
    fn from(delivery: Delivery) -> Self {
        let failed = delivery.outcome.as_deref().is_some_and(|outcome| outcome != "success");
        let payload = serde_json::from_slice(&delivery.payload)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&delivery.payload).into_owned()));
        Self {
            id: delivery.id.to_string(),
            event_id: delivery.id.to_string(),
            webhook_id: delivery.webhook_id.to_string(),
            trigger_type: delivery.trigger_id.map(|_| delivery.event_type.clone()),
            trigger_id: delivery.trigger_id.map(|id| id.to_string()),
            event_type: delivery.event_type,
            status: delivery.status,
            reason: delivery.reason,
            response_code: delivery.response_code,
            response_body: delivery.response_body.map(text),
            error_message: delivery.advice.filter(|_| failed),
            attempt: delivery.attempts,
            next_attempt_at: delivery.next_attempt_at.map(|moment| moment.to_string()),
            payload,
            inserted_at: delivery.inserted_at.to_string(),
            updated_at: delivery.updated_at.to_string(),
            attempts: None,
        }
    }
}

impl From<Attempt> for AttemptView {
    fn from(attempt: Attempt) -> Self {
        let headers: Vec<(String, String)> =
            attempt.response_headers.and_then(|headers| serde_json::from_str(&headers).ok()).unwrap_or_default();
        let phases = attempt.phases.map(|packed| Phases::unpack(packed).spans(attempt.duration_ms));
        Self {
            number: attempt.number,
            started_at: attempt.started_at.to_string(),
            duration_ms: attempt.duration_ms,
            phases: phases.map(PhasesView::from),
            error_message: attempt.advice,
            outcome: attempt.outcome,
            response_code: attempt.response_code,
            response_headers: headers.into_iter().collect(),
            response_body: attempt.response_body.map(text),
        }
    }
}

impl From<Spans> for PhasesView {
    fn from(Spans { dns, connect, tls, first_byte, body }: Spans) -> Self {
        Self { dns_ms: dns, connect_ms: connect, tls_ms: tls, first_byte_ms: first_byte, body_ms: body }
    }
}

/// What an endpoint answered is anything; it is only ever shown as text.
fn text(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}
