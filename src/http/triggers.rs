//! Triggers of a webhook.

use std::collections::HashSet;

use axum::Json;
use axum::extract::{Path, State};
use http::StatusCode;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::Api;
use super::auth::Asking;
use super::body::JsonObject;
use super::error::{ApiError, Problem, Result};
use super::webhooks::find_webhook;
use crate::domain::access::{Actor, Role};
use crate::domain::filter::Filters;
use crate::domain::ids::{GoalId, SiteId, TriggerId};
use crate::domain::invalid::Invalid;
use crate::domain::time::Timestamp;
use crate::domain::trigger::{Baseline, Settings, Trigger};
use crate::domain::webhook::Webhook;
use crate::store::StoreError;
use crate::store::triggers::MOST_TRIGGERS;

/// Different filters for which it is learned what is usual, for each site.
const MOST_FILTERS: usize = 20;

/// A trigger as the API shows it: its settings stand beside id and type.
#[derive(Serialize, ToSchema)]
#[schema(as = Trigger)]
pub struct TriggerView {
    id: String,
    #[serde(flatten)]
    #[schema(inline)]
    settings: SettingsView,
    #[schema(format = DateTime)]
    inserted_at: String,
}

#[derive(Serialize)]
#[serde(transparent)]
struct SettingsView(Settings);

impl utoipa::PartialSchema for SettingsView {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        TriggerBody::schema()
    }
}

impl ToSchema for SettingsView {}

/// What a client sends for a trigger.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is read field by field")]
pub struct TriggerBody {
    /// `visitor_spike`, `visitor_drop`, `goal_completion`, `goal_stalled`, `milestone`, `no_data`, `custom_event`,
    /// `error_condition` (the site's traffic cannot be seen), or `webhook_health` (another webhook of the account fails or was
    /// disabled).
    #[schema(rename = "type", example = "visitor_spike")]
    r#type: String,
    /// Spikes and drops: percent above or below what is expected; 50 when absent. Drops: 100 at most.
    #[schema(minimum = 1, maximum = 10_000)]
    threshold: Option<u32>,
    /// Spikes and drops: `typical` (when absent), `previous` or `fixed`.
    baseline: Option<String>,
    /// Spikes and drops, `typical`, and goals that stall: `low` (noise alone fires less than once in two months), `normal` (when
    /// absent; about once in two weeks at most) or `high`.
    sensitivity: Option<String>,
    /// Spikes: fewer current visitors than this never fire. Drops: where fewer are expected nothing fires. 10 when absent.
    #[schema(minimum = 1)]
    min_visitors: Option<u32>,
    /// Spikes and drops: shortest time between two events; `30m` when absent.
    #[schema(example = "30m")]
    cooldown: Option<String>,
    /// Spikes and drops: it has to last so long before it is told; `0` when absent.
    #[schema(example = "10m")]
    min_duration: Option<String>,
    /// Whether `…_ended` is told too, once it is over; not when absent. Not of what counts: completions, custom events and
    /// milestones.
    notify_end: Option<bool>,
    /// Completions and milestones of conversions: the goal; every goal when absent. Goals that stall: required.
    goal_id: Option<String>,
    /// Sites that send nothing: for how long; `1h` when absent, from `5m` to `7d`. What breaks on our side: `5m` when absent,
    /// from `1m` to `1d`.
    #[schema(example = "1h")]
    after: Option<String>,
    /// What breaks on our side: `analytics_unreachable` or `data_stale`; either when absent.
    condition: Option<String>,
    /// Milestones, required: `visitors`, `pageviews` or `conversions`.
    metric: Option<String>,
    /// Milestones: `day` (when absent), `week` (from Monday) or `month`, in the site's time zone.
    period: Option<String>,
    /// Milestones: every multiple of this is one. Either this or `list`.
    #[schema(minimum = 1, example = 1000)]
    step: Option<u64>,
    /// Milestones: these numbers are; fifty at most.
    list: Option<Vec<u64>>,
    /// Custom events: the name under which the site reports it; required.
    #[schema(example = "Download")]
    event_name: Option<String>,
    /// Custom events: properties it must have with exactly these values; three at most.
    properties: Option<std::collections::BTreeMap<String, String>>,
    /// Custom events: properties whose values are counted and told; none when absent, ten at most.
    include_properties: Option<Vec<String>>,
    /// Completions and custom events: told together, so long after the first (`15m`; from `1m` to `1d`) or so many (`100`; from 2
    /// to 10,000, a day after the first at the latest); each look's at once when absent.
    #[schema(inline)]
    batch: Option<BatchBody>,
    /// Completions, custom events, spikes and drops: only on this path, in which `*` stands for any characters.
    #[schema(example = "/blog/*")]
    page: Option<String>,
    /// The same four: only of visits from this source, exactly as it is shown; `Direct / None` for those without one.
    #[schema(example = "Hacker News")]
    source: Option<String>,
    /// The same four: only from this country, by its two letters. Only Plausible's traffic says so.
    #[schema(example = "DE")]
    country: Option<String>,
    /// The same four: only on this host, without `www.`.
    hostname: Option<String>,
    /// Evaluated and recorded, but not sent.
    shadow: Option<bool>,
}

/// A span of time, or a number.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum BatchBody {
    #[schema(example = "15m")]
    Every(String),
    Count(u32),
}

#[derive(Serialize, ToSchema)]
pub struct TriggerAnswer {
    trigger: TriggerView,
}

impl From<Trigger> for TriggerView {
    fn from(trigger: Trigger) -> Self {
        Self {
            id: trigger.id.to_string(),
            settings: SettingsView(trigger.settings),
            inserted_at: trigger.inserted_at.to_string(),
        }
    }
}

/// Add a trigger to a webhook
#[utoipa::path(post, path = "/api/sites/{site}/webhooks/{id}/triggers", tag = "webhooks",
    security(("key" = []), ("session" = [])),
    params(("site" = String, Path, description = "Id or domain"), ("id" = String, Path)), request_body = TriggerBody,
    responses((status = 201, body = TriggerAnswer), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 403, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem),
        (status = 413, body = Problem), (status = 422, body = Problem), (status = 503, body = Problem)))]
pub async fn create_trigger(
    State(api): State<Api>,
    asking: Asking,
    Path((site, id)): Path<(String, String)>,
    JsonObject(body): JsonObject,
) -> Result<(StatusCode, Json<TriggerAnswer>)> {
    let actor = asking.at_least(Role::Editor)?;
    let webhook = find_webhook(&api, &actor, &site, &id).await?;
    let settings = Settings::parse(&body)?;
    let goals = goals_of(&api, &actor, webhook.site_id).await?;
    refuse_unknown_goal(&settings, &goals)?;
    refuse_too_many_filters(&api, &actor, webhook.site_id, [&settings]).await?;
    let trigger = trigger_of(&api, &webhook, (None, settings), api.clock.now());
    if !api.store.create_trigger(&api.change(&actor), &trigger).await.map_err(exists)? {
        return Err(ApiError::limit_reached(format!("A webhook may have at most {MOST_TRIGGERS} triggers.")));
    }
    api.configuration_changed().await?;
    Ok((StatusCode::CREATED, Json(TriggerAnswer { trigger: trigger.into() })))
}

/// Change a trigger's settings
#[utoipa::path(patch, path = "/api/sites/{site}/webhooks/{id}/triggers/{trigger_id}", tag = "webhooks",
    security(("key" = []), ("session" = [])),
    params(("site" = String, Path, description = "Id or domain"), ("id" = String, Path), ("trigger_id" = String, Path)),
    request_body = TriggerBody,
    responses((status = 200, body = TriggerAnswer), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 403, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem),
        (status = 413, body = Problem), (status = 422, body = Problem), (status = 503, body = Problem)))]
pub async fn update_trigger(
    State(api): State<Api>,
    asking: Asking,
    Path((site, id, trigger_id)): Path<(String, String, String)>,
    JsonObject(body): JsonObject,
) -> Result<Json<TriggerAnswer>> {
    let actor = asking.at_least(Role::Editor)?;
    let webhook = find_webhook(&api, &actor, &site, &id).await?;
    let trigger_id: TriggerId = trigger_id.parse().map_err(|_| ApiError::not_found())?;
    let triggers = api.store.triggers_of_site(actor.account_id, webhook.site_id).await?;
    let trigger = triggers
        .into_iter()
        .find(|trigger| trigger.id == trigger_id && trigger.webhook_id == webhook.id)
        .ok_or_else(ApiError::not_found)?;
    let settings = trigger.settings.patched(&body)?;
    refuse_unknown_goal(&settings, &goals_of(&api, &actor, webhook.site_id).await?)?;
    refuse_too_many_filters(&api, &actor, webhook.site_id, [&settings]).await?;
    if settings == trigger.settings {
        return Ok(Json(TriggerAnswer { trigger: trigger.into() }));
    }
    let updated = api.store.update_trigger(&api.change(&actor), &trigger, &settings).await.map_err(exists)?;
    let updated = updated.ok_or_else(|| {
        ApiError::conflict("changed_meanwhile", "Somebody else changed this trigger just now; look again and repeat.")
    })?;
    api.configuration_changed().await?;
    Ok(Json(TriggerAnswer { trigger: updated.into() }))
}

/// Delete a trigger
#[utoipa::path(delete, path = "/api/sites/{site}/webhooks/{id}/triggers/{trigger_id}", tag = "webhooks",
    security(("key" = []), ("session" = [])),
    params(("site" = String, Path, description = "Id or domain"), ("id" = String, Path), ("trigger_id" = String, Path)),
    responses((status = 204), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 503, body = Problem)))]
pub async fn delete_trigger(
    State(api): State<Api>,
    asking: Asking,
    Path((site, id, trigger_id)): Path<(String, String, String)>,
) -> Result<StatusCode> {
    let actor = asking.at_least(Role::Editor)?;
    let webhook = find_webhook(&api, &actor, &site, &id).await?;
    let trigger_id: TriggerId = trigger_id.parse().map_err(|_| ApiError::not_found())?;
    if !api.store.delete_trigger(&api.change(&actor), webhook.id, trigger_id).await? {
        return Err(ApiError::not_found());
    }
    api.configuration_changed().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The triggers a webhook is to have. One with the id, or with exactly the settings, of a trigger in `present` stays that
/// trigger; the others are new.
///
/// # Errors
/// Everything that is wrong with any of them, under `triggers[0].…`.
pub fn read_triggers(
    value: Option<&Value>,
    goals: &HashSet<GoalId>,
    present: &[Trigger],
) -> Result<Vec<(Option<TriggerId>, Settings)>, Invalid> {
    let items = match value {
        Some(Value::Array(items)) if !items.is_empty() => items,
        Some(Value::Array(_)) | None => return Err(Invalid::one("triggers", "must have at least one trigger")),
        Some(_) => return Err(Invalid::one("triggers", "must be a list of triggers")),
    };
    if i64::try_from(items.len()).is_ok_and(|count| count > MOST_TRIGGERS) {
        return Err(Invalid::one("triggers", format!("must be at most {MOST_TRIGGERS}")));
    }
    let mut invalid = Invalid::new();
    let mut triggers: Vec<(Option<TriggerId>, Settings)> = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        let Some(object) = item.as_object() else {
            invalid.add(format!("triggers[{index}]"), "must be an object");
            continue;
        };
        let settings = Settings::parse(object).and_then(|settings| check_goal(&settings, goals).map(|()| settings));
        match settings {
            Ok(settings) if triggers.iter().any(|(_, other)| *other == settings) => {
                invalid.add(format!("triggers[{index}]"), "is identical to another trigger of this webhook");
            }
            Ok(settings) => {
                let id = object.get("id").and_then(Value::as_str).and_then(|id| id.parse().ok());
                let same = present.iter().find(|trigger| Some(trigger.id) == id || trigger.settings == settings);
                triggers.push((same.map(|trigger| trigger.id), settings));
            }
            Err(problem) => invalid.merge(&format!("triggers[{index}]."), problem),
        }
    }
    invalid.into_result(triggers)
}

/// A trigger as it is to be; a new one where there is no `id`.
pub fn trigger_of(
    api: &Api,
    webhook: &Webhook,
    (id, settings): (Option<TriggerId>, Settings),
    now: Timestamp,
) -> Trigger {
    Trigger {
        id: id.unwrap_or_else(|| TriggerId(api.chance.uuid_v7(now))),
        account_id: webhook.account_id,
        site_id: webhook.site_id,
        webhook_id: webhook.id,
        settings,
        version: 1,
        inserted_at: now,
        updated_at: now,
    }
}

pub async fn goals_of(api: &Api, actor: &Actor, site_id: SiteId) -> Result<HashSet<GoalId>> {
    let goals = api.store.goals(actor.account_id, site_id).await?;
    Ok(goals.into_iter().map(|goal| goal.id).collect())
}

fn check_goal(settings: &Settings, goals: &HashSet<GoalId>) -> Result<(), Invalid> {
    match settings.goal_id() {
        Some(id) if !goals.contains(&id) => Err(Invalid::one("goal_id", "must be the id of a goal of this site")),
        _ => Ok(()),
    }
}

/// What is usual is learned for every filter by itself, so there is an end to them.
pub async fn refuse_too_many_filters(
    api: &Api,
    actor: &Actor,
    site_id: SiteId,
    wanted: impl IntoIterator<Item = &Settings>,
) -> Result<()> {
    let learned = |settings: &Settings| {
        let (_, change) = settings.visitor_change()?;
        let is_learned = change.baseline == Baseline::Typical && change.filters != Filters::default();
        is_learned.then(|| change.filters.clone())
    };
    let wanted: HashSet<Filters> = wanted.into_iter().filter_map(learned).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let present = api.store.triggers_of_site(actor.account_id, site_id).await?;
    let present: HashSet<Filters> = present.iter().filter_map(|trigger| learned(&trigger.settings)).collect();
    if wanted.is_subset(&present) || wanted.union(&present).count() <= MOST_FILTERS {
        return Ok(());
    }
    Err(ApiError::limit_reached(format!(
        "A site may have at most {MOST_FILTERS} different filters on spikes and drops against what is typical. With the \
         baseline previous or fixed there is no limit."
    )))
}

pub fn refuse_unknown_goal(settings: &Settings, goals: &HashSet<GoalId>) -> Result<()> {
    check_goal(settings, goals).map_err(ApiError::from)
}

pub fn exists(error: StoreError) -> ApiError {
    match error {
        StoreError::Conflict(_) => {
            ApiError::conflict("trigger_exists", "The webhook already has a trigger with exactly these settings.")
        }
        error => error.into(),
    }
}
