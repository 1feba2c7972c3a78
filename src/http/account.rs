//! The account: who I am, what it is called, what was changed, and how it ends.

use std::time::Duration;

use axum::Json;
use axum::extract::{Query, State};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::Api;
use super::auth::Asking;
use super::body::{Fields, JsonObject};
use super::error::{ApiError, Problem, Result};
use super::setup::checked;
use crate::analytics::Analytics;
use crate::domain::access::{Role, Who};
use crate::domain::ids::UserId;
use crate::domain::invalid::Invalid;
use crate::domain::person;
use crate::store::StoreError;
use crate::store::people::Membership;

/// Longest the log waits for what is being written into it.
const NOTES_WITHIN: Duration = Duration::from_secs(5);
const DEFAULT_LIMIT: i64 = 50;
const MAX_LIMIT: i64 = 100;

#[derive(Serialize, ToSchema)]
pub struct MeAnswer {
    account: AccountView,
    #[schema(value_type = String)]
    role: Role,
    /// `key:…`, `user:…`, `plugin_token:…` or `plausible_key:…`, as in the audit log.
    who: String,
    /// Who is signed in; absent with a key.
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<UserView>,
    /// Every account whoever is signed in can go on in; with a key just the one.
    accounts: Vec<MembershipView>,
    /// The only site there is for this key.
    #[serde(skip_serializing_if = "Option::is_none")]
    site_id: Option<String>,
    /// Who knows sites, goals and people: `own` or `plausible`.
    directory: &'static str,
    /// Where the traffic is: in a file of the server's own, `embedded`, or in `clickhouse`.
    analytics: &'static str,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Account)]
pub struct AccountView {
    id: String,
    name: String,
}

#[derive(Serialize, ToSchema)]
#[schema(as = User)]
pub struct UserView {
    id: String,
    email: String,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Membership)]
pub struct MembershipView {
    id: String,
    name: String,
    #[schema(value_type = String)]
    role: Role,
}

#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is read field by field")]
pub struct AccountBody {
    #[schema(min_length = 1, max_length = 255)]
    name: String,
}

#[derive(Serialize, ToSchema)]
pub struct AccountAnswer {
    account: AccountView,
}

#[derive(Serialize, ToSchema)]
pub struct AuditAnswer {
    entries: Vec<AuditView>,
    /// For the next page: `cursor=` it.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = AuditEntry)]
pub struct AuditView {
    id: String,
    actor: String,
    #[schema(example = "webhook.create")]
    action: String,
    object: String,
    /// What was changed into what: `{"name": ["before", "after"]}`. Nothing secret is in it.
    #[schema(value_type = Object)]
    detail: serde_json::Value,
    /// The network it was asked from; the address is not kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    network: Option<String>,
    /// The `x-request-id` of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
    #[schema(format = DateTime)]
    inserted_at: String,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct AuditQuery {
    #[param(value_type = Option<u32>, minimum = 1, maximum = 100)]
    limit: Option<String>,
    /// Where the page before ended.
    cursor: Option<String>,
}

/// Who is asking
#[utoipa::path(get, path = "/api/me", tag = "account", security(("key" = []), ("session" = [])),
    responses((status = 200, body = MeAnswer), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 503, body = Problem)))]
pub async fn me(State(api): State<Api>, asking: Asking) -> Result<Json<MeAnswer>> {
    let actor = asking.0;
    let name = api.store.account_name(actor.account_id).await?.unwrap_or_default();
    let (user, accounts) = match actor.who {
        Who::User(user_id) => {
            let user = api.store.user_by_id(user_id).await?;
            (
                user.map(|user| UserView { id: user.id.to_string(), email: user.email }),
                memberships(&api, user_id).await?,
            )
        }
        _ => (None, vec![MembershipView { id: actor.account_id.to_string(), name: name.clone(), role: actor.role }]),
    };
    Ok(Json(MeAnswer {
        account: AccountView { id: actor.account_id.to_string(), name },
        role: actor.role,
        who: actor.who.to_string(),
        user,
        accounts,
        site_id: actor.only_site.map(|site| site.to_string()),
        directory: if api.settings.mirrors_plausible { "plausible" } else { "own" },
        analytics: match api.analytics {
            Analytics::Embedded(_) => "embedded",
            Analytics::ClickHouse(_) => "clickhouse",
        },
    }))
}

async fn memberships(api: &Api, user_id: UserId) -> Result<Vec<MembershipView>> {
    let accounts = api.store.memberships(user_id).await?.into_iter();
    let view = |account: Membership| MembershipView {
        id: account.account_id.to_string(),
        name: account.name,
        role: account.role,
    };
    Ok(accounts.map(view).collect())
}

/// Give the account another name
#[utoipa::path(patch, path = "/api/account", tag = "account", security(("key" = []), ("session" = [])),
    request_body = AccountBody,
    responses((status = 200, body = AccountAnswer), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 403, body = Problem), (status = 409, body = Problem), (status = 413, body = Problem),
        (status = 422, body = Problem), (status = 503, body = Problem)))]
pub async fn rename_account(
    State(api): State<Api>,
    asking: Asking,
    JsonObject(body): JsonObject,
) -> Result<Json<AccountAnswer>> {
    asking.of_the_account()?;
    let actor = asking.at_least(Role::Admin)?;
    api.refuse_people_of_plausible()?;
    let mut fields = Fields::of(&body, &["id"]);
    fields.require("name");
    let name = checked(&mut fields, "name", person::account_name);
    fields.finish(())?;
    api.store.rename_account(&api.change(&actor), &name).await.map_err(|error| match error {
        StoreError::Conflict(_) => ApiError::conflict("taken", "Another account has this name."),
        error => error.into(),
    })?;
    Ok(Json(AccountAnswer { account: AccountView { id: actor.account_id.to_string(), name } }))
}

/// Delete the account with everything in it: sites, traffic, webhooks, deliveries, keys, members and its audit log
///
/// The body names the account, so that nobody does it by mistake. It cannot be undone.
#[utoipa::path(delete, path = "/api/account", tag = "account", security(("key" = []), ("session" = [])),
    request_body = AccountBody,
    responses((status = 204), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 403, body = Problem), (status = 409, body = Problem), (status = 413, body = Problem),
        (status = 422, body = Problem), (status = 503, body = Problem)))]
pub async fn delete_account(
    State(api): State<Api>,
    asking: Asking,
    JsonObject(body): JsonObject,
) -> Result<StatusCode> {
    asking.of_the_account()?;
    let actor = asking.at_least(Role::Owner)?;
    api.refuse_people_of_plausible()?;
    let known = api.store.account_name(actor.account_id).await?.unwrap_or_default();
    let mut fields = Fields::of(&body, &[]);
    fields.require("name");
    if fields.text("name").is_some_and(|name| name.trim() != known) {
        fields.invalid.add("name", "must be the name of the account that is to be deleted");
    }
    fields.finish(())?;
    let gone = api.store.delete_account(actor.account_id, api.clock.now()).await?;
    tracing::info!(account.id = %actor.account_id, by = %actor.who, "An account was deleted");
    for (webhook, shard) in gone.webhooks {
        api.wake.webhook_changed(webhook, shard).await;
    }
    api.configuration_changed().await?;
    api.forget_traffic(gone.sites);
    Ok(StatusCode::NO_CONTENT)
}

/// What was changed, newest first
#[utoipa::path(get, path = "/api/audit", tag = "account", security(("key" = []), ("session" = [])),
    params(AuditQuery),
    responses((status = 200, body = AuditAnswer), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 422, body = Problem), (status = 503, body = Problem)))]
pub async fn list_audit(
    State(api): State<Api>,
    asking: Asking,
    Query(query): Query<AuditQuery>,
) -> Result<Json<AuditAnswer>> {
    asking.of_the_account()?;
    let actor = asking.at_least(Role::Admin)?;
    let (limit, before) = read_query(&query)?;
    // What was answered before is in it.
    let _ = api.clock.within(NOTES_WITHIN, api.notes.wait()).await;
    let entries = api.store.audit_log(actor.account_id, before, limit).await?;
    let full = i64::try_from(entries.len()).is_ok_and(|count| count == limit);
    let next_cursor = entries.last().filter(|_| full).map(|last| last.id.to_string());
    let view = |entry: crate::store::audit::Entry| AuditView {
        id: entry.id.to_string(),
        actor: entry.actor,
        action: entry.action,
        object: entry.object,
        detail: serde_json::from_str(&entry.detail).unwrap_or_default(),
        network: Some(entry.network).filter(|network| !network.is_empty()),
        request_id: entry.request_id.map(|id| id.to_string()),
        inserted_at: entry.inserted_at.to_string(),
    };
    Ok(Json(AuditAnswer { entries: entries.into_iter().map(view).collect(), next_cursor }))
}

fn read_query(query: &AuditQuery) -> Result<(i64, Option<Uuid>), Invalid> {
    let mut invalid = Invalid::new();
    let limit = match &query.limit {
        None => DEFAULT_LIMIT,
        Some(text) => text.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit)).unwrap_or_else(|| {
            invalid.add("limit", format!("must be a whole number from 1 to {MAX_LIMIT}"));
            DEFAULT_LIMIT
        }),
    };
    let before = query.cursor.as_ref().filter(|cursor| !cursor.is_empty()).and_then(|cursor| {
        cursor.parse().map_err(|_| invalid.add("cursor", "must be the next_cursor of the page before")).ok()
    });
    invalid.into_result((limit, before))
}
