//! Webhooks: create, look at, change, rotate the secret, delete.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use http::StatusCode;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::Api;
use super::auth::Asking;
use super::body::{Fields, JsonObject};
use super::error::{ApiError, Problem, Result};
use super::sites::find;
use super::triggers::{TriggerBody, TriggerView, exists, goals_of, read_triggers, refuse_too_many_filters, trigger_of};
use crate::domain::access::{Actor, Role};
use crate::domain::endpoint_url::{EndpointUrl, cut};
use crate::domain::headers;
use crate::domain::ids::WebhookId;
use crate::domain::inbox::INBOX;
use crate::domain::retry::RetrySchedule;
use crate::domain::signature::SigningSecret;
use crate::domain::time::parse_span;
use crate::domain::trigger::Trigger;
use crate::domain::webhook::{Format, Health, MAX_HEADERS, MAX_NAME_CHARS, Status, Webhook};
use crate::store::shards::shard_of;
use crate::store::webhooks::Created;

/// In place of a header's value, which is written and never read again. Sent back, it means: as it was.
const REDACTED: &str = "[redacted]";
/// Attempts a second an owner may ask for.
const MAX_RATE: u64 = 1_000;
const DEFAULT_OVERLAP: Duration = Duration::from_secs(86_400);
const LONGEST_OVERLAP: Duration = Duration::from_secs(7 * 86_400);
const READ_ONLY: &[&str] = &[
    "id",
    "site_id",
    "status",
    "status_reason",
    "failing_since",
    "left_alone_until",
    "signing_secret",
    "previous_secret_valid_until",
    "inserted_at",
    "updated_at",
];

/// A webhook as the API shows it.
#[derive(Serialize, ToSchema)]
#[schema(as = Webhook)]
pub struct WebhookView {
    id: String,
    site_id: String,
    url: String,
    name: String,
    active: bool,
    /// `active`, `paused`, `failing` or `disabled`.
    #[schema(value_type = String)]
    status: Status,
    /// Why it is disabled.
    #[serde(skip_serializing_if = "Option::is_none")]
    status_reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    failing_since: Option<String>,
    /// Most attempts failed lately: until then none is made, and none is used up.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    left_alone_until: Option<String>,
    /// Whether deliveries are signed.
    secret: bool,
    #[schema(value_type = String)]
    format: Format,
    /// Names of the custom headers; values are not shown again.
    headers: BTreeMap<String, String>,
    /// Attempts a second at most; `null`: what the operator set for all.
    rate_limit: Option<u32>,
    /// Waits between attempts.
    retry_schedule: String,
    triggers: Vec<TriggerView>,
    /// Until when deliveries are signed with the previous secret too.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    previous_secret_valid_until: Option<String>,
    /// Shown once, when it is created: the secret in its standard spelling.
    #[serde(skip_serializing_if = "Option::is_none")]
    signing_secret: Option<String>,
    #[schema(format = DateTime)]
    inserted_at: String,
    #[schema(format = DateTime)]
    updated_at: String,
}

/// What a client sends for a webhook. To change one, any part of it.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is read field by field")]
pub struct WebhookBody {
    /// An address with `https://`; or `inbox:`, whose deliveries are only shown here (`GET …/inbox`).
    #[schema(example = "https://hooks.example.com/pulsehook", max_length = 2048)]
    url: String,
    #[schema(example = "Chat room", min_length = 1, max_length = 255)]
    name: String,
    /// At least 16 characters, or `whsec_` and base64. `null` removes it.
    secret: Option<String>,
    /// Makes a secret and shows it once.
    generate_secret: Option<bool>,
    /// `json` (when absent), `cloudevents`, `slack`, `discord`, `teams` or `ntfy`.
    format: Option<String>,
    headers: Option<BTreeMap<String, String>>,
    /// Attempts a second at most, 1 to 1000. `null` for what the operator set for all.
    #[schema(minimum = 1, maximum = 1000)]
    rate_limit: Option<u32>,
    /// Waits between attempts such as `1m,5m,15m`. `null` for the default.
    retry_schedule: Option<String>,
    /// `false` pauses it.
    active: Option<bool>,
    triggers: Option<Vec<TriggerBody>>,
}

/// What a client sends to change the secret.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is read field by field")]
pub struct RotateBody {
    /// The new secret; one is generated when absent.
    secret: Option<String>,
    /// How long the old one signs too: `24h` when absent, at most `7d`.
    overlap: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub struct WebhookAnswer {
    webhook: WebhookView,
}

#[derive(Serialize, ToSchema)]
pub struct WebhooksAnswer {
    webhooks: Vec<WebhookView>,
}

#[derive(Serialize, ToSchema)]
pub struct RotateAnswer {
    signing_secret: String,
    #[schema(format = DateTime)]
    previous_valid_until: Option<String>,
}

/// Webhooks of a site
#[utoipa::path(get, path = "/api/sites/{site}/webhooks", tag = "webhooks", security(("key" = []), ("session" = [])),
    params(("site" = String, Path, description = "Id or domain")),
    responses((status = 200, body = WebhooksAnswer), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 503, body = Problem)))]
pub async fn list_webhooks(
    State(api): State<Api>,
    asking: Asking,
    Path(site): Path<String>,
) -> Result<Json<WebhooksAnswer>> {
    let site = find(&api, &asking.0, &site).await?;
    let webhooks = api.store.webhooks_of_site(asking.0.account_id, site.id).await?;
    let triggers = api.store.triggers_of_site(asking.0.account_id, site.id).await?;
    let webhooks =
        webhooks.iter().map(|webhook| view(&api, asking.0.role, webhook, &triggers, None)).collect::<Result<_>>()?;
    Ok(Json(WebhooksAnswer { webhooks }))
}

/// Create a webhook
#[utoipa::path(post, path = "/api/sites/{site}/webhooks", tag = "webhooks", security(("key" = []), ("session" = [])),
    params(("site" = String, Path, description = "Id or domain")), request_body = WebhookBody,
    responses((status = 201, body = WebhookAnswer), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 403, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem),
        (status = 413, body = Problem), (status = 422, body = Problem), (status = 503, body = Problem)))]
pub async fn create_webhook(
    State(api): State<Api>,
    asking: Asking,
    Path(site): Path<String>,
    JsonObject(body): JsonObject,
) -> Result<(StatusCode, Json<WebhookAnswer>)> {
    let actor = asking.at_least(Role::Editor)?;
    let site = find(&api, &actor, &site).await?;
    let now = api.clock.now();
    let mut webhook = Webhook {
        id: WebhookId(api.chance.uuid_v7(now)),
        account_id: actor.account_id,
        site_id: site.id,
        name: String::new(),
        url: String::new(),
        sealed_url: None,
        format: Format::default(),
        headers: None,
        retry_schedule: None,
        secret: None,
        previous_secret: None,
        previous_valid_until: None,
        active: true,
        rate_limit: None,
        health: Health::default(),
        disabled_at: None,
        disabled_reason: None,
        version: 1,
        inserted_at: now,
        updated_at: now,
    };
    let mut fields = Fields::of(&body, READ_ONLY);
    fields.require("url");
    fields.require("name");
    let secret = apply(&api, &mut webhook, &mut fields)?;
    let goals = goals_of(&api, &actor, site.id).await?;
    let triggers = read_triggers(fields.value("triggers"), &goals, &[]).unwrap_or_else(|problem| {
        fields.invalid.merge("", problem);
        Vec::new()
    });
    let triggers: Vec<_> =
        fields.finish(triggers)?.into_iter().map(|wanted| trigger_of(&api, &webhook, wanted, now)).collect();
    let wanted = triggers.iter().map(|trigger| &trigger.settings);
    refuse_too_many_filters(&api, &actor, site.id, wanted).await?;
    let limit = api.settings.max_webhooks_per_account;
    match api.store.create_webhook(&api.change(&actor), &webhook, &triggers, limit).await? {
        Created::LimitReached => {
            return Err(ApiError::limit_reached(format!(
                "An account may have at most {limit} webhooks. Delete one you no longer need, or ask your administrator \
                 to raise max_webhooks_per_account."
            )));
        }
        Created::Done => {}
    }
    api.configuration_changed().await?;
    let view = view(&api, actor.role, &webhook, &triggers, secret.as_ref())?;
    Ok((StatusCode::CREATED, Json(WebhookAnswer { webhook: view })))
}

/// One webhook
#[utoipa::path(get, path = "/api/sites/{site}/webhooks/{id}", tag = "webhooks", security(("key" = []), ("session" = [])),
    params(("site" = String, Path, description = "Id or domain"), ("id" = String, Path)),
    responses((status = 200, body = WebhookAnswer), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 503, body = Problem)))]
pub async fn show_webhook(
    State(api): State<Api>,
    asking: Asking,
    Path((site, id)): Path<(String, String)>,
) -> Result<Json<WebhookAnswer>> {
    let webhook = find_webhook(&api, &asking.0, &site, &id).await?;
    answer(&api, asking.0.role, &webhook, None).await
}

/// Change a webhook: any part of it
#[utoipa::path(put, path = "/api/sites/{site}/webhooks/{id}", tag = "webhooks", security(("key" = []), ("session" = [])),
    params(("site" = String, Path, description = "Id or domain"), ("id" = String, Path)), request_body = WebhookBody,
    responses((status = 200, body = WebhookAnswer), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 403, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem),
        (status = 413, body = Problem), (status = 422, body = Problem), (status = 503, body = Problem)))]
pub async fn replace_webhook(
    state: State<Api>,
    asking: Asking,
    path: Path<(String, String)>,
    body: JsonObject,
) -> Result<Json<WebhookAnswer>> {
    update_webhook(state, asking, path, body).await
}

/// Change a webhook: any part of it
#[utoipa::path(patch, path = "/api/sites/{site}/webhooks/{id}", tag = "webhooks",
    security(("key" = []), ("session" = [])),
    params(("site" = String, Path, description = "Id or domain"), ("id" = String, Path)), request_body = WebhookBody,
    responses((status = 200, body = WebhookAnswer), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 403, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem),
        (status = 413, body = Problem), (status = 422, body = Problem), (status = 503, body = Problem)))]
pub async fn update_webhook(
    State(api): State<Api>,
    asking: Asking,
    Path((site, id)): Path<(String, String)>,
    JsonObject(body): JsonObject,
) -> Result<Json<WebhookAnswer>> {
    let actor = asking.at_least(Role::Editor)?;
    let before = find_webhook(&api, &actor, &site, &id).await?;
    let mut webhook = before.clone();
    let mut fields = Fields::of(&body, READ_ONLY);
    let secret = apply(&api, &mut webhook, &mut fields)?;
    let triggers = match fields.value("triggers") {
        None => None,
        sent => {
            let mut present = api.store.triggers_of_site(actor.account_id, webhook.site_id).await?;
            present.retain(|trigger| trigger.webhook_id == webhook.id);
            let goals = goals_of(&api, &actor, webhook.site_id).await?;
            read_triggers(sent, &goals, &present).map_err(|problem| fields.invalid.merge("", problem)).ok()
        }
    };
    let now = api.clock.now();
    let triggers: Option<Vec<_>> = fields
        .finish(triggers)?
        .map(|wanted| wanted.into_iter().map(|wanted| trigger_of(&api, &webhook, wanted, now)).collect());
    let wanted = triggers.iter().flatten().map(|trigger| &trigger.settings);
    refuse_too_many_filters(&api, &actor, webhook.site_id, wanted).await?;
    // Whoever says that it is to be active wants a disabled one back.
    let enable = body.get("active") == Some(&Value::Bool(true));
    let change = api.change(&actor);
    if !api.store.update_webhook(&change, &before, &webhook, enable, triggers.as_deref()).await.map_err(exists)? {
        return Err(changed_meanwhile());
    }
    api.wake.webhook_changed(webhook.id, shard_of(webhook.site_id)).await;
    let webhook = api.store.webhook(actor.account_id, webhook.id).await?.ok_or_else(ApiError::not_found)?;
    answer(&api, actor.role, &webhook, secret.as_ref()).await
}

/// Delete a webhook with its triggers and deliveries
#[utoipa::path(delete, path = "/api/sites/{site}/webhooks/{id}", tag = "webhooks",
    security(("key" = []), ("session" = [])),
    params(("site" = String, Path, description = "Id or domain"), ("id" = String, Path)),
    responses((status = 204), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 503, body = Problem)))]
pub async fn delete_webhook(
    State(api): State<Api>,
    asking: Asking,
    Path((site, id)): Path<(String, String)>,
) -> Result<StatusCode> {
    let actor = asking.at_least(Role::Editor)?;
    let webhook = find_webhook(&api, &actor, &site, &id).await?;
    if !api.store.delete_webhook(&api.change(&actor), webhook.id).await? {
        return Err(ApiError::not_found());
    }
    api.wake.webhook_changed(webhook.id, shard_of(webhook.site_id)).await;
    Ok(StatusCode::NO_CONTENT)
}

/// Give a webhook a new secret; the old one signs too for a while
#[utoipa::path(post, path = "/api/sites/{site}/webhooks/{id}/secret/rotate", tag = "webhooks",
    security(("key" = []), ("session" = [])),
    params(("site" = String, Path, description = "Id or domain"), ("id" = String, Path)), request_body = RotateBody,
    responses((status = 200, body = RotateAnswer), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 403, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem),
        (status = 413, body = Problem), (status = 422, body = Problem), (status = 503, body = Problem)))]
pub async fn rotate_secret(
    State(api): State<Api>,
    asking: Asking,
    Path((site, id)): Path<(String, String)>,
    JsonObject(body): JsonObject,
) -> Result<Json<RotateAnswer>> {
    let actor = asking.at_least(Role::Editor)?;
    let before = find_webhook(&api, &actor, &site, &id).await?;
    let mut webhook = before.clone();
    let mut fields = Fields::of(&body, &[]);
    let secret = fields.text("secret").map(SigningSecret::parse).transpose().unwrap_or_else(|problem| {
        fields.invalid.add("secret", problem.to_string());
        None
    });
    let overlap = match fields.text("overlap").map(|text| parse_span(text).ok().filter(|span| *span <= LONGEST_OVERLAP))
    {
        None => DEFAULT_OVERLAP,
        Some(Some(span)) => span,
        Some(None) => {
            fields.invalid.add("overlap", "must be a span such as 24h, at most 7d");
            DEFAULT_OVERLAP
        }
    };
    fields.finish(())?;
    let secret = secret.unwrap_or_else(|| SigningSecret::generate(api.chance.bytes()));
    // The old value was sealed for another column; it moves by being opened and sealed again.
    let old = match &webhook.secret {
        Some(sealed) if !overlap.is_zero() => {
            Some(api.keyring.open(&webhook.place("secret"), sealed).map_err(ApiError::internal)?)
        }
        _ => None,
    };
    let until = api.clock.now() + overlap;
    webhook.previous_valid_until = old.as_ref().map(|_| until);
    webhook.previous_secret =
        old.map(|plain| api.keyring.seal(&webhook.place("previous_secret"), api.chance.bytes(), &plain));
    webhook.secret = Some(seal_secret(&api, &webhook, &secret));
    if !api.store.update_webhook(&api.change(&actor), &before, &webhook, false, None).await? {
        return Err(changed_meanwhile());
    }
    api.wake.webhook_changed(webhook.id, shard_of(webhook.site_id)).await;
    Ok(Json(RotateAnswer {
        signing_secret: secret.expose_standard(),
        previous_valid_until: webhook.previous_valid_until.map(|until| until.to_string()),
    }))
}

/// The actor's webhook of this site.
///
/// # Errors
/// 404 when there is none, or it is somebody else's.
pub async fn find_webhook(api: &Api, actor: &Actor, site: &str, id: &str) -> Result<Webhook> {
    let site = find(api, actor, site).await?;
    let id: WebhookId = id.parse().map_err(|_| ApiError::not_found())?;
    let webhook = api.store.webhook(actor.account_id, id).await?;
    webhook.filter(|webhook| webhook.site_id == site.id).ok_or_else(ApiError::not_found)
}

/// Reads what an owner may set into `webhook`. Answers a secret that is to be shown.
fn apply(api: &Api, webhook: &mut Webhook, fields: &mut Fields<'_>) -> Result<Option<SigningSecret>> {
    match fields.text("url") {
        None => {}
        Some(INBOX) => (webhook.url, webhook.sealed_url) = (INBOX.to_owned(), None),
        Some(text) => match EndpointUrl::parse(text, &api.policy) {
            // As it was it stays: sealed anew it would be taken for another.
            Ok(url) if webhook.address(&api.keyring).is_ok_and(|address| address == url.as_str()) => {}
            Ok(url) => webhook.set_address(url.as_str(), &api.keyring, api.chance.bytes()),
            Err(problem) => fields.invalid.add("url", problem.to_string()),
        },
    }
    if let Some(text) = fields.text("name") {
        let name = text.trim();
        if !(1..=MAX_NAME_CHARS).contains(&name.chars().count()) || name.chars().any(char::is_control) {
            fields.invalid.add("name", "must be 1 to 255 characters");
        }
        webhook.name = name.to_owned();
    }
    if let Some(format) = fields.parsed::<Format>("format") {
        webhook.format = format;
    }
    if let Some(active) = fields.flag("active") {
        webhook.active = active;
    }
    if fields.has("rate_limit") {
        webhook.rate_limit = match fields.value("rate_limit") {
            None => None,
            Some(value) => {
                let rate = value.as_u64().filter(|rate| (1..=MAX_RATE).contains(rate));
                if rate.is_none() {
                    fields.invalid.add("rate_limit", format!("must be a whole number from 1 to {MAX_RATE}, or null"));
                }
                rate.and_then(|rate| u32::try_from(rate).ok())
            }
        };
    }
    if fields.has("retry_schedule") {
        webhook.retry_schedule = None;
        if let Some(text) = fields.text("retry_schedule") {
            match RetrySchedule::parse(text) {
                Ok(schedule) => {
                    webhook.retry_schedule = (schedule != RetrySchedule::default()).then(|| schedule.to_string());
                }
                Err(problem) => fields.invalid.add("retry_schedule", problem.to_string()),
            }
        }
    }
    apply_headers(api, webhook, fields)?;
    Ok(apply_secret(api, webhook, fields))
}

fn apply_headers(api: &Api, webhook: &mut Webhook, fields: &mut Fields<'_>) -> Result<()> {
    if !fields.has("headers") {
        return Ok(());
    }
    let empty = Map::new();
    let sent = match fields.value("headers") {
        None => &empty,
        Some(Value::Object(headers)) => headers,
        Some(_) => {
            fields.invalid.add("headers", "must be an object of names and texts");
            return Ok(());
        }
    };
    let known = open_headers(api, webhook)?;
    let mut headers = BTreeMap::new();
    if sent.len() > MAX_HEADERS {
        fields.invalid.add("headers", format!("must be at most {MAX_HEADERS}"));
    }
    for (name, value) in sent {
        let Some(value) = value.as_str() else {
            fields.invalid.add("headers", format!("{name} must have a text"));
            continue;
        };
        let kept = known.get(&name.to_ascii_lowercase()).filter(|_| value == REDACTED);
        match headers::check(name, kept.map_or(value, String::as_str)) {
            Ok((name, _)) => {
                headers.insert(name.as_str().to_owned(), kept.map_or(value, String::as_str).to_owned());
            }
            Err(problem) => fields.invalid.add("headers", format!("{name} {problem}")),
        }
    }
    webhook.headers = (!headers.is_empty()).then(|| {
        let plain = serde_json::to_vec(&headers).expect("texts serialise");
        api.keyring.seal(&webhook.place("headers"), api.chance.bytes(), &plain)
    });
    Ok(())
}

/// The API shows `secret` as true or false; sent back like that it changes nothing.
fn apply_secret(api: &Api, webhook: &mut Webhook, fields: &mut Fields<'_>) -> Option<SigningSecret> {
    let generate = fields.flag("generate_secret").unwrap_or(false);
    let removed = fields.has("secret");
    let secret = match fields.value("secret") {
        Some(Value::Bool(_)) => None,
        Some(Value::String(_)) if generate => {
            fields.invalid.add("secret", "cannot go together with generate_secret");
            None
        }
        Some(Value::String(text)) => match SigningSecret::parse(text) {
            Ok(secret) => Some(secret),
            Err(problem) => {
                fields.invalid.add("secret", problem.to_string());
                None
            }
        },
        Some(_) => {
            fields.invalid.add("secret", "must be a text");
            None
        }
        None if generate => Some(SigningSecret::generate(api.chance.bytes())),
        None => {
            if removed {
                webhook.secret = None;
                webhook.previous_secret = None;
                webhook.previous_valid_until = None;
            }
            None
        }
    }?;
    webhook.secret = Some(seal_secret(api, webhook, &secret));
    // Replaced outright, not rotated: the old one is not to sign any more.
    webhook.previous_secret = None;
    webhook.previous_valid_until = None;
    Some(secret)
}

fn seal_secret(api: &Api, webhook: &Webhook, secret: &SigningSecret) -> Vec<u8> {
    api.keyring.seal(&webhook.place("secret"), api.chance.bytes(), secret.expose().as_bytes())
}

fn open_headers(api: &Api, webhook: &Webhook) -> Result<BTreeMap<String, String>> {
    let Some(sealed) = &webhook.headers else { return Ok(BTreeMap::new()) };
    let plain = api.keyring.open(&webhook.place("headers"), sealed).map_err(ApiError::internal)?;
    serde_json::from_slice(&plain).map_err(ApiError::internal)
}

fn changed_meanwhile() -> ApiError {
    ApiError::conflict("changed_meanwhile", "Somebody else changed this webhook just now; look again and repeat.")
}

async fn answer(
    api: &Api,
    role: Role,
    webhook: &Webhook,
    secret: Option<&SigningSecret>,
) -> Result<Json<WebhookAnswer>> {
    let triggers = api.store.triggers_of_site(webhook.account_id, webhook.site_id).await?;
    Ok(Json(WebhookAnswer { webhook: view(api, role, webhook, &triggers, secret)? }))
}

fn views_of(webhook: &Webhook, triggers: &[Trigger]) -> Vec<TriggerView> {
    let of_webhook = triggers.iter().filter(|trigger| trigger.webhook_id == webhook.id);
    of_webhook.cloned().map(TriggerView::from).collect()
}

/// A webhook as somebody with this role sees it.
fn view(
    api: &Api,
    role: Role,
    webhook: &Webhook,
    triggers: &[Trigger],
    secret: Option<&SigningSecret>,
) -> Result<WebhookView> {
    // One that cannot be opened is not to hide the others; the log says that nothing can be sent to it.
    let address = webhook.address(&api.keyring).unwrap_or_else(|_| webhook.url.clone());
    let headers = open_headers(api, webhook)?.into_keys().map(|name| (name, REDACTED.to_owned())).collect();
    let overlap = webhook.previous_valid_until.filter(|until| *until > api.clock.now());
    Ok(WebhookView {
        id: webhook.id.to_string(),
        site_id: webhook.site_id.to_string(),
        url: if role < Role::Editor { cut(&address) } else { address },
        name: webhook.name.clone(),
        active: webhook.active,
        status: webhook.status(),
        status_reason: webhook.disabled_reason.clone(),
        left_alone_until: webhook
            .health
            .parked
            .filter(|parked| parked.until > api.clock.now())
            .map(|parked| parked.until.to_string()),
        failing_since: webhook.health.failing_since.map(|since| since.to_string()),
        secret: webhook.secret.is_some(),
        format: webhook.format,
        headers,
        rate_limit: webhook.rate_limit,
        retry_schedule: webhook.retry_schedule.clone().unwrap_or_else(|| RetrySchedule::default().to_string()),
        triggers: views_of(webhook, triggers),
        previous_secret_valid_until: overlap.map(|until| until.to_string()),
        signing_secret: secret.map(SigningSecret::expose_standard),
        inserted_at: webhook.inserted_at.to_string(),
        updated_at: webhook.updated_at.to_string(),
    })
}
