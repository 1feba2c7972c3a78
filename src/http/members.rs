//! The people of an account.

use axum::Json;
use axum::extract::{Path, State};
use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::auth::Asking;
use super::body::{Fields, JsonObject};
use super::error::{ApiError, Problem, Result};
use crate::domain::access::{Role, Who};
use crate::domain::ids::UserId;
use crate::store::people::{Changed, Member};

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

#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is read field by field")]
pub struct MemberBody {
    /// `owner`, `admin`, `editor` or `viewer`, at most your own.
    role: String,
}

#[derive(Serialize, ToSchema)]
pub struct MemberAnswer {
    member: MemberView,
}

impl From<Member> for MemberView {
    fn from(member: Member) -> Self {
        Self {
            id: member.user_id.to_string(),
            email: member.email,
            role: member.role,
            inserted_at: member.inserted_at.to_string(),
        }
    }
}

/// People of the account
#[utoipa::path(get, path = "/api/members", tag = "account", security(("key" = []), ("session" = [])),
    responses((status = 200, body = MembersAnswer), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 503, body = Problem)))]
pub async fn list_members(State(api): State<Api>, asking: Asking) -> Result<Json<MembersAnswer>> {
    let members = api.store.members(asking.of_the_account()?.account_id).await?;
    Ok(Json(MembersAnswer { members: members.into_iter().map(MemberView::from).collect() }))
}

/// Give a member another role
#[utoipa::path(patch, path = "/api/members/{id}", tag = "account", security(("key" = []), ("session" = [])),
    params(("id" = String, Path)), request_body = MemberBody,
    responses((status = 200, body = MemberAnswer), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 403, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem),
        (status = 413, body = Problem), (status = 422, body = Problem), (status = 503, body = Problem)))]
pub async fn update_member(
    State(api): State<Api>,
    asking: Asking,
    Path(id): Path<String>,
    JsonObject(body): JsonObject,
) -> Result<Json<MemberAnswer>> {
    asking.of_the_account()?;
    let actor = asking.at_least(Role::Admin)?;
    let user_id: UserId = id.parse().map_err(|_| ApiError::not_found())?;
    let find = async || -> Result<Member> {
        let mut members = api.store.members(actor.account_id).await?.into_iter();
        members.find(|member| member.user_id == user_id).ok_or_else(ApiError::not_found)
    };
    find().await?;
    api.refuse_people_of_plausible()?;
    let mut fields = Fields::of(&body, &["id", "email", "inserted_at"]);
    fields.require("role");
    let role = fields.parsed::<Role>("role");
    let role = fields.finish(role)?.unwrap_or(Role::Viewer);
    done(api.store.change_member(&api.change(&actor), actor.role, user_id, role).await?)?;
    Ok(Json(MemberAnswer { member: find().await?.into() }))
}

/// Remove a member, or leave the account yourself
///
/// Their sessions in the account end at once. Keys they made are the account's and go on working: delete those that only they
/// know (`created_by` in the list of keys).
#[utoipa::path(delete, path = "/api/members/{id}", tag = "account", security(("key" = []), ("session" = [])),
    params(("id" = String, Path)),
    responses((status = 204), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 409, body = Problem), (status = 503, body = Problem)))]
pub async fn remove_member(State(api): State<Api>, asking: Asking, Path(id): Path<String>) -> Result<StatusCode> {
    let user_id: UserId = id.parse().map_err(|_| ApiError::not_found())?;
    let leaves = asking.0.who == Who::User(user_id);
    asking.of_the_account()?;
    let actor = if leaves { asking.0 } else { asking.at_least(Role::Admin)? };
    let members = api.store.members(actor.account_id).await?;
    if !members.iter().any(|member| member.user_id == user_id) {
        return Err(ApiError::not_found());
    }
    api.refuse_people_of_plausible()?;
    done(api.store.remove_member(&api.change(&actor), actor.role, user_id).await?)?;
    Ok(StatusCode::NO_CONTENT)
}

fn done(changed: Changed) -> Result<()> {
    match changed {
        Changed::Done => Ok(()),
        Changed::NotFound => Err(ApiError::not_found()),
        Changed::Above(role) => Err(ApiError::role_too_low(role)),
        Changed::LastOwner => Err(ApiError::conflict(
            "last_owner",
            "An account needs an owner: make another member owner first, or delete the account.",
        )),
    }
}
