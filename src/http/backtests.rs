//! What a trigger would have done, over the site's own history.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::time::Duration;

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
use super::triggers::{BatchBody, refuse_unknown_goal};
use crate::analytics::{Alike, Analytics};
use crate::domain::backtest::counts::{self, Named, TOGETHER};
use crate::domain::backtest::silence::{self, Traffic};
use crate::domain::backtest::{self, Backtest, Firing, Heard, Point, Suggestion};
use crate::domain::baseline::{Basis, HISTORY, WINDOW, window_start};
use crate::domain::condition::Metric;
use crate::domain::filter::Filter;
use crate::domain::goal::Goal;
use crate::domain::goal_index::GoalIndex;
use crate::domain::habit::{LEARN_EVERY, LEARNED, QUARTER, Quarters, quarter_start};
use crate::domain::ids::{GoalId, SiteId};
use crate::domain::invalid::Invalid;
use crate::domain::time::Timestamp;
use crate::domain::trigger::{
    CustomEvent, Direction, GoalCompletion, GoalStalled, Milestone, NoData, Settings, VisitorChange,
};

/// Days that are looked at when nobody says how many.
const DAYS: u64 = 30;
const MOST_DAYS: u64 = 366;
/// Points of the series that are answered at most: as many as a chart can show.
const POINTS: usize = 2_000;
/// Firings that are answered at most.
const FIRINGS: usize = 1_000;
const NOT_TRIED: &str = "must be visitor_spike, visitor_drop, goal_completion, custom_event, goal_stalled, milestone or no_data: \
    the history of a site does not say what else went wrong";

/// A trigger, saved or not, and the time it is tried on.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is read field by field")]
pub struct BacktestBody {
    /// `visitor_spike`, `visitor_drop`, `goal_completion`, `custom_event`, `goal_stalled`, `milestone` or `no_data`, with the
    /// settings of such a trigger.
    #[schema(rename = "type", example = "visitor_spike")]
    r#type: String,
    threshold: Option<u32>,
    baseline: Option<String>,
    sensitivity: Option<String>,
    min_visitors: Option<u32>,
    cooldown: Option<String>,
    min_duration: Option<String>,
    notify_end: Option<bool>,
    goal_id: Option<String>,
    after: Option<String>,
    metric: Option<String>,
    period: Option<String>,
    step: Option<u64>,
    list: Option<Vec<u64>>,
    event_name: Option<String>,
    properties: Option<std::collections::BTreeMap<String, String>>,
    include_properties: Option<Vec<String>>,
    #[schema(inline)]
    batch: Option<BatchBody>,
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
    /// Width of a window: quarter hours of what stays away, five minutes of everything else.
    window_seconds: u64,
    /// How many windows were looked at.
    windows: usize,
    /// What the last expectation rests on; absent without history.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Object)]
    basis: Option<Basis>,
    /// When it would have fired, the last thousand times: `timestamp` (the start of the window, or the moment a silence or a batch
    /// is told), `observed`, `reason`; `expected` and `score` where something is expected, `change_percent` of spikes and drops,
    /// `ended_at` of what ends.
    #[schema(value_type = Vec<Object>)]
    firings: Vec<Firing>,
    /// How often it would have fired.
    firings_total: usize,
    /// What was observed, and of spikes and drops what was expected with the band of what is usual: `timestamp`, `observed`,
    /// `expected`, `low`, `high`. Of milestones the count of the period so far. Of long times each point is the window furthest
    /// from what was expected in its part, or the highest.
    #[schema(value_type = Vec<Object>)]
    series: Vec<Point>,
    /// Spikes and drops: the lowest thresholds that keep to `per_month` firings in thirty days: `per_month`, `threshold`, `firings`.
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
    let goals = api.store.goals(asking.0.account_id, site.id).await?;
    refuse_unknown_goal(&settings, &goals.iter().map(|goal| goal.id).collect())?;
    let zone = TimeZone::get(&site.timezone).unwrap_or(TimeZone::UTC);
    let history = History { analytics: &api.analytics, site_id: site.id, zone: &zone, goals: &goals, span: from..to };
    let (done, window) = match &settings {
        Settings::VisitorSpike(change) => (history.changes(Direction::Rise, change).await?, WINDOW),
        Settings::VisitorDrop(change) => (history.changes(Direction::Fall, change).await?, WINDOW),
        Settings::GoalCompletion(completion) => (history.completions(completion).await?, WINDOW),
        Settings::CustomEvent(event) => (history.custom_events(event).await?, WINDOW),
        Settings::Milestone(milestone) => (history.milestones(milestone).await?, WINDOW),
        Settings::NoData(no_data) => (history.no_data(no_data).await?, QUARTER),
        Settings::GoalStalled(stalled) => (history.goal_stalled(stalled).await?, QUARTER),
        Settings::ErrorCondition(_) | Settings::WebhookHealth(_) => return Err(Invalid::one("type", NOT_TRIED).into()),
    };
    let firings_total = done.firings.len();
    let mut firings = done.firings;
    firings.drain(..firings_total.saturating_sub(FIRINGS));
    Ok(Json(BacktestAnswer {
        from,
        to,
        window_seconds: window.as_secs(),
        windows: done.series.len(),
        basis: done.basis,
        firings,
        firings_total,
        series: backtest::thin(done.series, POINTS),
        suggestions: done.suggestions,
    }))
}

/// What is read of a site to try a trigger on.
struct History<'a> {
    analytics: &'a Analytics,
    site_id: SiteId,
    zone: &'a TimeZone,
    goals: &'a [Goal],
    span: Range<Timestamp>,
}

impl History<'_> {
    async fn changes(&self, direction: Direction, change: &VisitorChange) -> Result<Backtest> {
        let Range { start: from, end: to } = self.span;
        let first = self.analytics.first_hit_at(self.site_id).await?;
        let since = first.map_or(to, |first| window_start(first).max(from - HISTORY));
        let filter = Filter::new(&change.filters);
        let windows = if since < to {
            self.analytics.window_counts_of(self.site_id, filter.as_ref(), since, to, WINDOW).await?
        } else {
            Vec::new()
        };
        Ok(backtest::run(direction, change, windows, self.zone, from))
    }

    async fn completions(&self, completion: &GoalCompletion) -> Result<Backtest> {
        let filter = Filter::new(&completion.filters);
        let wanted = self.goals.iter().filter(|goal| completion.goal_id.is_none_or(|id| id == goal.id));
        let wanted: Vec<_> = wanted.cloned().collect();
        let mut of_goals = self.completed(&wanted, filter.as_ref(), self.span.clone(), TOGETHER).await?;
        let named = wanted.iter().map(|goal| Named {
            what: format!("\"{}\" was completed", goal.display_name),
            heard: of_goals.remove(&goal.id).unwrap_or_default(),
        });
        Ok(counts::completions(completion.batch, &named.collect::<Vec<_>>(), self.span.clone()))
    }

    async fn custom_events(&self, event: &CustomEvent) -> Result<Backtest> {
        let filter = Filter::new(&event.filters);
        let asked = [(self.site_id, vec![event.event_name.as_str()])];
        let mut minutes = BTreeMap::new();
        self.analytics
            .alike(&asked, filter.as_ref(), self.span.clone(), TOGETHER, |hit, alike| {
                if hit.name == event.event_name && event.wants_props_of(hit) {
                    add(&mut minutes, &alike);
                }
            })
            .await?;
        let what = format!("\"{}\" happened", event.event_name);
        let named = Named { what, heard: minutes.into_values().collect() };
        Ok(counts::completions(event.batch, &[named], self.span.clone()))
    }

    async fn milestones(&self, milestone: &Milestone) -> Result<Backtest> {
        let Milestone { metric, period, marks, .. } = milestone;
        let begin = period.start(self.span.start, self.zone);
        let grows = match metric {
            Metric::Pageviews => self.analytics.pageviews(self.site_id, begin..self.span.end, WINDOW).await?,
            Metric::Visitors => {
                let anew = period.starts(begin..self.span.end, self.zone);
                self.analytics.new_visitors(self.site_id, &anew, self.span.end, WINDOW).await?
            }
            Metric::Conversions => {
                let wanted = self.goals.iter().filter(|goal| milestone.goal_id.is_none_or(|id| id == goal.id));
                let wanted: Vec<_> = wanted.cloned().collect();
                let of_goals = self.completed(&wanted, None, begin..self.span.end, WINDOW).await?;
                let mut windows = BTreeMap::new();
                for heard in of_goals.into_values().flatten() {
                    *windows.entry(window_start(heard.first_at)).or_insert(0) += heard.count;
                }
                windows.into_iter().collect()
            }
        };
        let goal = self.goals.iter().find(|goal| milestone.goal_id == Some(goal.id));
        let what = metric.of(goal.map(|goal| goal.display_name.as_str()));
        Ok(counts::milestones(marks, *period, &what, &grows, self.zone, self.span.clone()))
    }

    async fn no_data(&self, no_data: &NoData) -> Result<Backtest> {
        let (quarters, heard) = self.visits().await?;
        let traffic = Traffic { site_id: self.site_id, zone: self.zone, quarters: &quarters, heard: &heard };
        Ok(silence::no_data(no_data, traffic, self.span.clone()))
    }

    async fn goal_stalled(&self, stalled: &GoalStalled) -> Result<Backtest> {
        let wanted: Vec<_> = self.goals.iter().filter(|goal| goal.id == stalled.goal_id).cloned().collect();
        let Some(goal) = wanted.first() else { return Ok(Backtest::default()) };
        let (visits, of_goals) = tokio::join!(self.visits(), self.completed(&wanted, None, self.learned(), WINDOW));
        let ((quarters, heard), mut of_goals) = (visits?, of_goals?);
        let site = Traffic { site_id: self.site_id, zone: self.zone, quarters: &quarters, heard: &heard };
        let heard = of_goals.remove(&goal.id).unwrap_or_default();
        let quarters = silence::quarters(&heard);
        let completions = Traffic { quarters: &quarters, heard: &heard, ..site };
        Ok(silence::goal_stalled(stalled, &goal.display_name, completions, Some(site), self.span.clone()))
    }

    /// The time that is tried, and what was learned from at its beginning.
    fn learned(&self) -> Range<Timestamp> {
        quarter_start(self.span.start - LEARNED - LEARN_EVERY)..self.span.end
    }

    /// How busy each quarter hour was, and when the site was heard of.
    async fn visits(&self) -> Result<(Quarters, Vec<Heard>)> {
        let learned = self.learned();
        let mut quarters = Quarters::new();
        let site = [self.site_id];
        let busyness = self.analytics.quarters(&site, learned.start, learned.end, |_, windows| {
            let busy = windows.iter().filter(|window| window.visitors > 0);
            quarters.extend(busy.map(|window| (window.start, u64::from(window.visitors))));
        });
        let heard = self.analytics.heard(self.site_id, learned.clone(), WINDOW);
        // Both read the same months, and neither needs the other.
        let ((), heard) = tokio::try_join!(busyness, heard)?;
        Ok((quarters, heard))
    }

    /// When each of the goals was completed, together within windows of `width`.
    async fn completed(
        &self,
        goals: &[Goal],
        filter: Option<&Filter>,
        span: Range<Timestamp>,
        width: Duration,
    ) -> Result<HashMap<GoalId, Vec<Heard>>> {
        let index = GoalIndex::new(goals.to_vec());
        let mut names: Vec<_> = goals.iter().map(|goal| goal.kind.hit_name()).collect();
        names.sort_unstable();
        names.dedup();
        let mut of_goals: HashMap<GoalId, BTreeMap<Timestamp, Heard>> = HashMap::new();
        self.analytics
            .alike(&[(self.site_id, names)], filter, span, width, |hit, alike| {
                for goal in index.matches(hit) {
                    add(of_goals.entry(goal.id).or_default(), &alike);
                }
            })
            .await?;
        Ok(of_goals.into_iter().map(|(goal_id, windows)| (goal_id, windows.into_values().collect())).collect())
    }
}

/// Counts what is alike into its window.
fn add(windows: &mut BTreeMap<Timestamp, Heard>, alike: &Alike) {
    let Alike { start, count, first_at, last_at } = *alike;
    let heard = windows.entry(start).or_insert(Heard { first_at, last_at, count: 0 });
    heard.count += count;
    heard.first_at = heard.first_at.min(first_at);
    heard.last_at = heard.last_at.max(last_at);
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
