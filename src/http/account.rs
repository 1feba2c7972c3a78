//! The account: who I am, who else is in it, what was changed.

use axum::Json;
use axum::extract::{Query, State};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::Api;
use super::auth::Asking;
use super::error::{Problem, Result};
use crate::domain::access::Role;
use crate::domain::invalid::Invalid;

const DEFAULT_LIMIT: i64 = 50;
const MAX_LIMIT: i64 = 100;

#[derive(Serialize, ToSchema)]
pub struct MeAnswer {
    account: AccountView,
    #[schema(value_type = String)]
    role: Role,
    /// `key:…`, `user:…`, `plugin_token:…` or `plausible_key:…`, as in the audit log.
    who: String,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Account)]
pub struct AccountView {
    id: String,
    name: String,
}

#[derive(Serialize, ToSchema)]
pub struct MembersAnswer {
    members: Vec<MemberView>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Member)]
pub struct MemberView {
    id: String,
    email: String,
    #[schema(value_type = String)]
    role: Role,
    #[schema(format = DateTime)]
    inserted_at: String,
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
    #[schema(format = DateTime)]
    inserted_at: String,
}

#[derive(Deserialize, IntoParams)]
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
    let account = AccountView { id: actor.account_id.to_string(), name };
    Ok(Json(MeAnswer { account, role: actor.role, who: actor.who.to_string() }))
}

/// People of the account
#[utoipa::path(get, path = "/api/members", tag = "account", security(("key" = []), ("session" = [])),
    responses((status = 200, body = MembersAnswer), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 503, body = Problem)))]
pub async fn list_members(State(api): State<Api>, asking: Asking) -> Result<Json<MembersAnswer>> {
    let members = api.store.members(asking.of_the_account()?.account_id).await?;
    let view = |member: crate::store::accounts::Member| MemberView {
        id: member.user_id.to_string(),
        email: member.email,
        role: member.role,
        inserted_at: member.inserted_at.to_string(),
    };
    Ok(Json(MembersAnswer { members: members.into_iter().map(view).collect() }))
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
    let actor = asking.at_least(Role::Admin)?;
    let (limit, before) = read_query(&query)?;
    let entries = api.store.audit_log(actor.account_id, before, limit).await?;
    let full = i64::try_from(entries.len()).is_ok_and(|count| count == limit);
    let next_cursor = entries.last().filter(|_| full).map(|last| last.id.to_string());
    let view = |entry: crate::store::audit::Entry| AuditView {
        id: entry.id.to_string(),
        actor: entry.actor,
        action: entry.action,
        object: entry.object,
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
