//! Looking at an address before a webhook is made of it. It is looked at with the eyes of a delivery, in the engine; here it
//! is asked for, and not too often.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::auth::Asking;
use super::body::{Fields, JsonObject};
use super::error::{ApiError, Problem, Result};
use super::sites::find;
use crate::domain::access::Role;
use crate::domain::endpoint_url::EndpointUrl;
use crate::domain::event::{Addressee, Data, Event};
use crate::domain::ids::{AccountId, EventId, WebhookId};
use crate::domain::inbox::INBOX;
use crate::domain::signature::SigningSecret;
use crate::domain::time::Timestamp;
use crate::domain::url_check::{Finding, Ping, State as StepState, Step, Wanted};
use crate::domain::webhook::Format;

/// Checks of one account within [`WITHIN`]: enough for people who try, too few to look around with.
const MOST: u32 = 30;
const WITHIN: Duration = Duration::from_secs(60);
/// Checks of one account under way at once.
const AT_ONCE: u32 = 4;
/// When to come again while so many are under way: most of them take less than a second.
const COME_AGAIN_SECS: u64 = 2;
/// Accounts remembered before those that rest are forgotten.
const MAX_TRACKED: usize = 10_000;

/// What a client sends.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is read field by field")]
pub struct CheckBody {
    #[schema(example = "https://hooks.example.com/pulsehook")]
    url: String,
    /// Whether a test event is to be sent there too. It is signed, and is in no list of deliveries.
    ping: Option<bool>,
    /// What to sign the ping with; a secret made for it alone when absent.
    secret: Option<String>,
    /// Shape of the ping: `json` (when absent), `cloudevents`, `slack`, `discord`, `teams` or `ntfy`.
    format: Option<String>,
}

/// One step of a check.
#[derive(Serialize, ToSchema)]
#[schema(as = CheckStep)]
pub struct StepView {
    /// `syntax`, `https`, `address`, `dns`, `connection`, `certificate` or `ping`.
    #[schema(value_type = String)]
    step: Step,
    /// `ok`, `failed` or `skipped`.
    #[schema(value_type = String)]
    state: StepState,
    /// What was found.
    message: String,
    /// What to do about it.
    #[schema(required = true)]
    fix: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub struct CheckAnswer {
    /// Whether nothing failed.
    ok: bool,
    steps: Vec<StepView>,
}

impl From<Finding> for StepView {
    fn from(finding: Finding) -> Self {
        Self { step: finding.step, state: finding.state, message: finding.message, fix: finding.fix }
    }
}

/// Look at an address before making a webhook of it
///
/// Step by step, as a delivery would go; redirects are not followed. A webhook may be saved whatever comes of it, as long as
/// policy has nothing against the address. At most 30 a minute for an account, 4 of them at once.
#[utoipa::path(post, path = "/api/sites/{site}/webhooks/check", tag = "webhooks",
    security(("key" = []), ("session" = [])),
    params(("site" = String, Path, description = "Id or domain")), request_body = CheckBody,
    responses((status = 200, body = CheckAnswer), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 403, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem),
        (status = 413, body = Problem), (status = 422, body = Problem), (status = 429, body = Problem),
        (status = 503, body = Problem)))]
pub async fn check_url(
    State(api): State<Api>,
    asking: Asking,
    Path(site): Path<String>,
    JsonObject(body): JsonObject,
) -> Result<Json<CheckAnswer>> {
    let actor = asking.at_least(Role::Editor)?;
    let site = find(&api, &actor, &site).await?;
    let mut fields = Fields::of(&body, &[]);
    fields.require("url");
    let url = fields.text("url").unwrap_or_default().to_owned();
    let wants_ping = fields.flag("ping").unwrap_or(false);
    let format = fields.parsed::<Format>("format").unwrap_or_default();
    let secret = fields.text("secret").map(SigningSecret::parse).transpose().unwrap_or_else(|problem| {
        fields.invalid.add("secret", problem.to_string());
        None
    });
    fields.finish(())?;
    if url == INBOX {
        return Ok(Json(CheckAnswer { ok: true, steps: vec![inbox_is_here().into()] }));
    }
    let now = api.clock.now();
    let _under_way = api.checks.begin(actor.account_id, now)?;
    // What policy refuses is not looked at.
    if let Ok(address) = EndpointUrl::parse(&url, &api.policy) {
        api.throttle.check(&address)?;
    }
    let ping = wants_ping.then(|| {
        let id = EventId(api.chance.uuid_v7(now));
        let addressee = Addressee {
            account_id: actor.account_id,
            site_id: site.id,
            site_domain: &site.domain,
            // There is no webhook yet.
            webhook_id: WebhookId(api.chance.uuid_v7(now)),
            format,
            trigger: None,
        };
        let event = Event::new(id, &addressee, format!("check:{id}"), Data::test(), now);
        let secret = secret.unwrap_or_else(|| SigningSecret::generate(api.chance.bytes()));
        Ping { event, secret }
    });
    let verdict = api.wake.check_url(Wanted { url, ping }).await;
    let verdict = verdict.ok_or_else(|| ApiError::unavailable(anyhow::anyhow!("nobody here looks at addresses")))?;
    let steps: Vec<_> = verdict.findings(wants_ping).into_iter().map(StepView::from).collect();
    Ok(Json(CheckAnswer { ok: steps.iter().all(|step| step.state != StepState::Failed), steps }))
}

/// There is nothing to look at: it is in this very process.
fn inbox_is_here() -> Finding {
    let message = "The built-in inbox takes it; nothing leaves this server.".to_owned();
    Finding { step: Step::Syntax, state: StepState::Ok, message, fix: None }
}

/// How often each account looked lately, at this process.
#[derive(Default)]
pub struct Checks(Mutex<HashMap<AccountId, Looks>>);

#[derive(Debug, Clone, Copy)]
struct Looks {
    since: Timestamp,
    count: u32,
    under_way: u32,
}

/// A check that has begun. Dropped, it is over.
struct UnderWay<'a> {
    checks: &'a Checks,
    account_id: AccountId,
}

impl Checks {
    /// # Errors
    /// 429 when the account has to wait.
    fn begin(&self, account_id: AccountId, now: Timestamp) -> Result<UnderWay<'_>> {
        let mut looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if looks.len() > MAX_TRACKED {
            looks.retain(|_, looks| looks.under_way > 0 || now.since(looks.since) < WITHIN);
        }
        let looks = looks.entry(account_id).or_insert(Looks { since: now, count: 0, under_way: 0 });
        if now.since(looks.since) >= WITHIN {
            *looks = Looks { since: now, count: 0, ..*looks };
        }
        if looks.count >= MOST {
            return Err(ApiError::too_many(WITHIN.saturating_sub(now.since(looks.since)).as_secs().max(1)));
        }
        if looks.under_way >= AT_ONCE {
            return Err(ApiError::too_many(COME_AGAIN_SECS));
        }
        looks.count += 1;
        looks.under_way += 1;
        Ok(UnderWay { checks: self, account_id })
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut looks = self.checks.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(looks) = looks.get_mut(&self.account_id) {
            looks.under_way -= 1;
        }
    }
}
