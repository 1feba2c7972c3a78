//! What a trigger would have done, over the site's own history.

use axum::Json;
use axum::extract::{Path, State};
use jiff::tz::TimeZone;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::Api;
use super::auth::Asking;
use super::body::JsonObject;
use super::error::{Problem, Result};
use super::sites::find;
use crate::domain::backtest::{self, Firing, Point, Suggestion};
use crate::domain::baseline::{Basis, HISTORY, WINDOW, window_start};
use crate::domain::filter::Filter;
use crate::domain::invalid::Invalid;
use crate::domain::time::Timestamp;
use crate::domain::trigger::Settings;

/// Days that are looked at when nobody says how many.
const DAYS: u64 = 30;
const MOST_DAYS: u64 = 366;
/// Points of the series that are answered at most: as many as a chart can show.
const POINTS: usize = 2_000;

/// A trigger, saved or not, and the time it is tried on.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is read field by field")]
pub struct BacktestBody {
    /// `visitor_spike` or `visitor_drop`, with the settings of such a trigger.
    #[schema(rename = "type", example = "visitor_spike")]
    r#type: String,
    threshold: Option<u32>,
    baseline: Option<String>,
    sensitivity: Option<String>,
    min_visitors: Option<u32>,
    cooldown: Option<String>,
    min_duration: Option<String>,
    notify_end: Option<bool>,
    page: Option<String>,
    source: Option<String>,
    country: Option<String>,
    hostname: Option<String>,
    shadow: Option<bool>,
    /// The last so many days before `to`; 30 when neither this nor `from` is given.
    #[schema(minimum = 1, maximum = 366)]
    days: Option<u32>,
    #[schema(format = DateTime)]
    from: Option<String>,
    /// Now when absent.
    #[schema(format = DateTime)]
    to: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub struct BacktestAnswer {
    #[schema(format = DateTime, value_type = String)]
    from: Timestamp,
    #[schema(format = DateTime, value_type = String)]
    to: Timestamp,
    window_seconds: u64,
    /// How many windows were looked at.
    windows: usize,
    /// What the last expectation rests on; absent without history.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Object)]
    basis: Option<Basis>,
    /// When it would have fired: `timestamp` (the start of the window), `observed`, `expected`, `change_percent`, `score`,
    /// `reason`, `ended_at`.
    #[schema(value_type = Vec<Object>)]
    firings: Vec<Firing>,
    /// What was observed and expected, with the band of what is usual: `timestamp`, `observed`, `expected`, `low`, `high`. Of
    /// long times each point is the window furthest from what was expected in its part.
    #[schema(value_type = Vec<Object>)]
    series: Vec<Point>,
    /// The lowest thresholds that keep to `per_month` firings in thirty days: `per_month`, `threshold`, `firings`.
    #[schema(value_type = Vec<Object>)]
    suggestions: Vec<Suggestion>,
}

/// Try a trigger on the site's history
#[utoipa::path(post, path = "/api/sites/{site}/triggers/backtest", tag = "webhooks",
    security(("key" = []), ("session" = [])),
    params(("site" = String, Path, description = "Id or domain")), request_body = BacktestBody,
    responses((status = 200, body = BacktestAnswer), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 404, body = Problem), (status = 413, body = Problem), (status = 422, body = Problem),
        (status = 503, body = Problem)))]
pub async fn backtest(
    State(api): State<Api>,
    asking: Asking,
    Path(site): Path<String>,
    JsonObject(mut body): JsonObject,
) -> Result<Json<BacktestAnswer>> {
    let site = find(&api, &asking.0, &site).await?;
    let (from, to) = span(&mut body, api.clock.now())?;
    let settings = Settings::parse(&body)?;
    let Some((direction, change)) = settings.visitor_change() else {
        return Err(Invalid::one("type", "must be visitor_spike or visitor_drop to be tried on the history").into());
    };
    let first = api.analytics.first_hit_at(site.id).await?;
    let since = first.map_or(to, |first| window_start(first).max(from - HISTORY));
    let filter = Filter::new(&change.filters);
    let windows = if since < to {
        api.analytics.window_counts_of(site.id, filter.as_ref(), since, to, WINDOW).await?
    } else {
        Vec::new()
    };
    let zone = TimeZone::get(&site.timezone).unwrap_or(TimeZone::UTC);
    let done = backtest::run(direction, change, windows, &zone, from);
    Ok(Json(BacktestAnswer {
        from,
        to,
        window_seconds: WINDOW.as_secs(),
        windows: done.series.len(),
        basis: done.basis,
        firings: done.firings,
        series: backtest::thin(done.series, POINTS),
        suggestions: done.suggestions,
    }))
}

/// Takes the time out of the body and leaves the trigger in it. Both ends are the beginnings of windows.
fn span(body: &mut Map<String, Value>, now: Timestamp) -> Result<(Timestamp, Timestamp), Invalid> {
    let mut invalid = Invalid::new();
    let mut moment = |name: &str| {
        let value = body.remove(name).filter(|value| !value.is_null())?;
        let moment = value.as_str().and_then(|text| text.parse::<Timestamp>().ok());
        if moment.is_none() {
            invalid.add(name, "must be a time such as 2026-02-25T10:00:00Z");
        }
        moment
    };
    let (from, to) = (moment("from"), moment("to"));
    let days = body.remove("days").filter(|value| !value.is_null());
    let whole = days.as_ref().and_then(Value::as_u64).filter(|days| (1..=MOST_DAYS).contains(days));
    if days.is_some() && whole.is_none() {
        invalid.add("days", format!("must be a whole number from 1 to {MOST_DAYS}"));
    }
    if days.is_some() && from.is_some() {
        invalid.add("days", "cannot be said together with from");
    }
    if to.is_some_and(|to| to > now) {
        invalid.add("to", "must not lie in the future");
    }
    let to = window_start(to.unwrap_or(now).min(now));
    let day = std::time::Duration::from_secs(86_400);
    let from = from.map_or(to - day * u32::try_from(whole.unwrap_or(DAYS)).unwrap_or(1), window_start);
    if from >= to {
        invalid.add("from", "must lie before to");
    } else if to.since(from) > day * u32::try_from(MOST_DAYS).unwrap_or(1) {
        invalid.add("from", format!("must not lie more than {MOST_DAYS} days before to"));
    }
    invalid.into_result((from, to))
}
