//! For those who run it: is it alive, can it work, what does it count.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde::Serialize;
use std::sync::atomic::Ordering;
use utoipa::ToSchema;

use super::Api;

#[derive(Serialize, ToSchema)]
pub struct Live {
    ok: bool,
}

#[derive(Serialize, ToSchema)]
pub struct Ready {
    ok: bool,
    /// The configuration and queue database answers.
    database: bool,
    /// The analytics database answers.
    analytics: bool,
    /// It is on its way out.
    stopping: bool,
}

/// The process is alive
#[utoipa::path(get, path = "/health/live", tag = "operation", responses((status = 200, body = Live)))]
pub async fn live() -> Json<Live> {
    Json(Live { ok: true })
}

/// The process can do its work
#[utoipa::path(get, path = "/health/ready", tag = "operation",
    responses((status = 200, body = Ready), (status = 503, body = Ready)))]
pub async fn ready(State(api): State<Api>) -> Response {
    let database = api.store.ping().await.is_ok();
    let analytics = api.analytics.ping().await.is_ok();
    let stopping = !api.ready.load(Ordering::Relaxed);
    let ok = database && analytics && !stopping;
    let status = if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Ready { ok, database, analytics, stopping })).into_response()
}

/// Metrics in Prometheus' text format
#[utoipa::path(get, path = "/metrics", tag = "operation",
    responses((status = 200, body = String, content_type = "text/plain")))]
pub async fn metrics(State(api): State<Api>) -> Response {
    api.metrics.run_upkeep();
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], api.metrics.render()).into_response()
}
