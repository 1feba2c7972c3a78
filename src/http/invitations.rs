//! Invitations: a link that somebody is sent, and what comes of it.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode};
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::auth::{Asking, From, refuse_other_sites};
use super::body::{Fields, JsonObject};
use super::error::{ApiError, Problem, Result};
use super::session::{network, note_a_wrong_password, open, with_cookie};
use super::setup::{checked, hash, wrong};
use crate::directory::{SESSION_FOR, new_token, token_hash};
use crate::domain::access::{Origin, Role, Who};
use crate::domain::ids::{AccountId, InvitationId};
use crate::domain::person;
use crate::store::StoreError;
use crate::store::audit::Change;
use crate::store::invitations::{Invitation, Invited, Newcomer};

/// How long a link works.
const WORKS_FOR: Duration = Duration::from_secs(7 * 86_400);
/// Members and invitations an account may have.
const MOST_PEOPLE: i64 = 500;

#[derive(Serialize, ToSchema)]
pub struct InvitationsAnswer {
    invitations: Vec<InvitationView>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Invitation)]
pub struct InvitationView {
    id: String,
    email: String,
    #[schema(value_type = String)]
    role: Role,
    /// Who asked, as in the audit log.
    invited_by: String,
    #[schema(format = DateTime)]
    expires_at: String,
    #[schema(format = DateTime)]
    inserted_at: String,
}

#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is read field by field")]
pub struct InvitationBody {
    email: String,
    /// `owner`, `admin`, `editor` or `viewer`, at most your own.
    role: String,
}

#[derive(Serialize, ToSchema)]
pub struct InvitationAnswer {
    invitation: InvitationView,
    /// To be sent to whoever is invited. It is shown only now, and works once.
    link: String,
}

#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is read field by field")]
pub struct TokenBody {
    /// From the link.
    token: String,
}

#[derive(Serialize, ToSchema)]
pub struct InvitedAnswer {
    pub account: String,
    pub email: String,
    #[schema(value_type = String)]
    pub role: Role,
    /// Whether somebody with this address has a password here already, and needs that one.
    pub has_password: bool,
    #[schema(format = DateTime)]
    expires_at: String,
}

#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is read field by field")]
pub struct AcceptBody {
    /// From the link.
    token: String,
    /// Yours if you have one here; otherwise the one you want, at least 12 characters.
    password: String,
}

#[derive(Serialize, ToSchema)]
pub struct AcceptedAnswer {
    account_id: String,
}

impl std::convert::From<Invitation> for InvitationView {
    fn from(invitation: Invitation) -> Self {
        Self {
            id: invitation.id.to_string(),
            email: invitation.email,
            role: invitation.role,
            invited_by: invitation.invited_by,
            expires_at: invitation.expires_at.to_string(),
            inserted_at: invitation.inserted_at.to_string(),
        }
    }
}

/// Invitations that can still be accepted
#[utoipa::path(get, path = "/api/invitations", tag = "account", security(("key" = []), ("session" = [])),
    responses((status = 200, body = InvitationsAnswer), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 503, body = Problem)))]
pub async fn list_invitations(State(api): State<Api>, asking: Asking) -> Result<Json<InvitationsAnswer>> {
    asking.of_the_account()?;
    let actor = asking.at_least(Role::Admin)?;
    let invitations = api.store.invitations(actor.account_id, api.clock.now()).await?;
    Ok(Json(InvitationsAnswer { invitations: invitations.into_iter().map(InvitationView::from).collect() }))
}

/// Invite somebody by a link that you send them
///
/// The link works for seven days and once. Who was invited before gets a new link; the old one works no more.
#[utoipa::path(post, path = "/api/invitations", tag = "account", security(("key" = []), ("session" = [])),
    request_body = InvitationBody,
    responses((status = 201, body = InvitationAnswer), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 403, body = Problem), (status = 409, body = Problem), (status = 413, body = Problem),
        (status = 422, body = Problem), (status = 503, body = Problem)))]
pub async fn invite(
    State(api): State<Api>,
    asking: Asking,
    JsonObject(body): JsonObject,
) -> Result<(StatusCode, Json<InvitationAnswer>)> {
    asking.of_the_account()?;
    let actor = asking.at_least(Role::Admin)?;
    api.refuse_people_of_plausible()?;
    let mut fields = Fields::of(&body, &[]);
    fields.require("email");
    fields.require("role");
    let email = checked(&mut fields, "email", person::email);
    let role = fields.parsed::<Role>("role");
    let role = fields.finish(role)?.unwrap_or(Role::Viewer);
    if role > actor.role {
        return Err(ApiError::role_too_low(role));
    }
    let change = api.change(&actor);
    let invitation = Invitation {
        id: InvitationId(api.chance.uuid_v7(change.now)),
        account_id: actor.account_id,
        email,
        role,
        invited_by: actor.who.to_string(),
        expires_at: change.now + WORKS_FOR,
        inserted_at: change.now,
    };
    let token = new_token(&api.chance);
    match api.store.invite(&change, &invitation, &token_hash(&token), MOST_PEOPLE).await? {
        Invited::Done => {}
        Invited::AlreadyIn => {
            return Err(ApiError::conflict("already_a_member", "Somebody with this address is a member already."));
        }
        Invited::LimitReached => {
            let sentence = format!("An account may have at most {MOST_PEOPLE} members and invitations.");
            return Err(ApiError::limit_reached(sentence));
        }
    }
    let link = format!("{}/invitation?token={token}", api.settings.base_url);
    Ok((StatusCode::CREATED, Json(InvitationAnswer { invitation: invitation.into(), link })))
}

/// Take an invitation back
#[utoipa::path(delete, path = "/api/invitations/{id}", tag = "account", security(("key" = []), ("session" = [])),
    params(("id" = String, Path)),
    responses((status = 204), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 503, body = Problem)))]
pub async fn revoke_invitation(State(api): State<Api>, asking: Asking, Path(id): Path<String>) -> Result<StatusCode> {
    asking.of_the_account()?;
    let actor = asking.at_least(Role::Admin)?;
    let id: InvitationId = id.parse().map_err(|_| ApiError::not_found())?;
    if !api.store.revoke_invitation(&api.change(&actor), id).await? {
        return Err(ApiError::not_found());
    }
    Ok(StatusCode::NO_CONTENT)
}

/// What an invitation is for
#[utoipa::path(post, path = "/api/invitations/look", tag = "account", request_body = TokenBody,
    responses((status = 200, body = InvitedAnswer), (status = 400, body = Problem), (status = 403, body = Problem),
        (status = 413, body = Problem), (status = 422, body = Problem), (status = 503, body = Problem)))]
pub async fn look(
    State(api): State<Api>,
    From(origin): From,
    JsonObject(body): JsonObject,
) -> Result<Json<InvitedAnswer>> {
    let mut fields = Fields::of(&body, &[]);
    fields.require("token");
    let token = fields.text("token").unwrap_or_default().to_owned();
    fields.finish(())?;
    api.throttle.stranger(network(origin))?;
    Ok(Json(invited(&api, &token).await?))
}

/// What the invitation with this token is for.
///
/// # Errors
/// 403 when there is none.
pub async fn invited(api: &Api, token: &str) -> Result<InvitedAnswer> {
    let invitation = find(api, token).await?;
    let account = api.store.account_name(invitation.account_id).await?.ok_or_else(wrong_invitation)?;
    let has_password = api.store.user(&invitation.email).await?.is_some();
    Ok(InvitedAnswer {
        account,
        email: invitation.email,
        role: invitation.role,
        has_password,
        expires_at: invitation.expires_at.to_string(),
    })
}

/// Accept an invitation; you are signed in to the account afterwards
#[utoipa::path(post, path = "/api/invitations/accept", tag = "account", request_body = AcceptBody,
    responses((status = 201, body = AcceptedAnswer), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 403, body = Problem), (status = 409, body = Problem), (status = 413, body = Problem),
        (status = 422, body = Problem), (status = 503, body = Problem)))]
pub async fn accept(
    State(api): State<Api>,
    From(origin): From,
    headers: HeaderMap,
    JsonObject(body): JsonObject,
) -> Result<Response> {
    refuse_other_sites(&headers)?;
    let mut fields = Fields::of(&body, &[]);
    fields.require("token");
    fields.require("password");
    let token = fields.text("token").unwrap_or_default().to_owned();
    let password = fields.text("password").unwrap_or_default().to_owned();
    fields.finish(())?;
    let (account_id, session) = join(&api, &token, password, origin, &headers).await?;
    let answer = AcceptedAnswer { account_id: account_id.to_string() };
    Ok(with_cookie((StatusCode::CREATED, Json(answer)).into_response(), &api, &session, SESSION_FOR))
}

/// Lets somebody into the account he is invited to, and answers its id and the token of his session.
///
/// # Errors
/// 403 when there is no such invitation, 401 when he has another password, 422 when he may not have this one.
pub async fn join(
    api: &Api,
    token: &str,
    password: String,
    origin: Origin,
    headers: &HeaderMap,
) -> Result<(AccountId, String)> {
    let invitation = find(api, token).await?;
    api.throttle.password(&invitation.email, network(origin))?;
    let known = api.store.user(&invitation.email).await?;
    let kept;
    let newcomer = match &known {
        Some(user) if api.directory.has_password(user, &password).await? => Newcomer::Known(user.id),
        Some(_) => {
            note_a_wrong_password(api, invitation.email, origin);
            return Err(ApiError::wrong_password());
        }
        None => {
            let account = api.store.account_name(invitation.account_id).await?.unwrap_or_default();
            person::password(&password, &[&invitation.email, &account]).map_err(|text| wrong("password", &text))?;
            kept = hash(api, password).await?;
            Newcomer::New(&kept)
        }
    };
    let now = api.clock.now();
    let id = api.chance.uuid_v7(now);
    let change = Change { account_id: invitation.account_id, who: Who::Stranger, now, id, origin };
    let accepted = api.store.accept_invitation(&change, &invitation, newcomer).await.map_err(|error| match error {
        StoreError::Conflict(_) => ApiError::conflict("taken", "Somebody with this address came in just now."),
        error => error.into(),
    })?;
    let user_id = accepted.ok_or_else(wrong_invitation)?;
    let session = open(api, invitation.account_id, user_id, origin, headers).await?;
    Ok((invitation.account_id, session))
}

async fn find(api: &Api, token: &str) -> Result<Invitation> {
    api.store.operator_invitation(&token_hash(token), api.clock.now()).await?.ok_or_else(wrong_invitation)
}

fn wrong_invitation() -> ApiError {
    ApiError::forbidden(
        "wrong_invitation",
        "This invitation does not work: it was used, taken back or has expired. Ask for another.",
    )
}
