//! API keys.

use axum::Json;
use axum::extract::{Path, State};
use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::auth::Asking;
use super::body::{Fields, JsonObject};
use super::error::{ApiError, Problem, Result};
use crate::directory::{Grant, issue_key};
use crate::domain::access::Role;
use crate::domain::ids::KeyId;
use crate::domain::time::Timestamp;
use crate::store::keys::{ApiKey, MOST_KEYS};

const MAX_NAME_CHARS: usize = 255;

/// A key without its secret part.
#[derive(Serialize, ToSchema)]
#[schema(as = ApiKey)]
pub struct KeyView {
    id: String,
    name: String,
    #[schema(value_type = String)]
    role: Role,
    /// Enough to recognise the key.
    prefix: String,
    /// The only site it is for; absent when it is for the whole account.
    #[serde(skip_serializing_if = "Option::is_none")]
    site_id: Option<String>,
    /// Who made it, as in the audit log.
    created_by: String,
    #[schema(format = DateTime)]
    expires_at: Option<String>,
    #[schema(format = DateTime)]
    last_used_at: Option<String>,
    #[schema(format = DateTime)]
    inserted_at: String,
}

#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is read field by field")]
pub struct KeyBody {
    #[schema(example = "Deploy script", min_length = 1, max_length = 255)]
    name: String,
    /// `owner`, `admin`, `editor` or `viewer`, at most your own.
    role: String,
    /// Id or domain of the only site it is to be for; the whole account when absent. Such a key is `editor` or `viewer`.
    site: Option<String>,
    #[schema(format = DateTime)]
    expires_at: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub struct KeyAnswer {
    /// The key itself. It is shown only now.
    key: String,
    api_key: KeyView,
}

#[derive(Serialize, ToSchema)]
pub struct KeysAnswer {
    keys: Vec<KeyView>,
}

impl From<ApiKey> for KeyView {
    fn from(key: ApiKey) -> Self {
        let text = |moment: Timestamp| moment.to_string();
        Self {
            id: key.id.to_string(),
            name: key.name,
            role: key.role,
            prefix: key.prefix,
            site_id: key.site_id.map(|site| site.to_string()),
            created_by: key.created_by,
            expires_at: key.expires_at.map(text),
            last_used_at: key.last_used_at.map(text),
            inserted_at: text(key.inserted_at),
        }
    }
}

/// Keys of the account
#[utoipa::path(get, path = "/api/keys", tag = "account", security(("key" = []), ("session" = [])),
    responses((status = 200, body = KeysAnswer), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 503, body = Problem)))]
pub async fn list_keys(State(api): State<Api>, asking: Asking) -> Result<Json<KeysAnswer>> {
    asking.of_the_account()?;
    let actor = asking.at_least(Role::Admin)?;
    let keys = api.store.keys(actor.account_id).await?;
    Ok(Json(KeysAnswer { keys: keys.into_iter().map(KeyView::from).collect() }))
}

/// Create a key; it is shown once
#[utoipa::path(post, path = "/api/keys", tag = "account", security(("key" = []), ("session" = [])),
    request_body = KeyBody,
    responses((status = 201, body = KeyAnswer), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 403, body = Problem), (status = 409, body = Problem), (status = 413, body = Problem),
        (status = 422, body = Problem), (status = 503, body = Problem)))]
pub async fn create_key(
    State(api): State<Api>,
    asking: Asking,
    JsonObject(body): JsonObject,
) -> Result<(StatusCode, Json<KeyAnswer>)> {
    asking.of_the_account()?;
    let actor = asking.at_least(Role::Admin)?;
    let now = api.clock.now();
    let mut fields = Fields::of(&body, &[]);
    fields.require("name");
    fields.require("role");
    let name = fields.text("name").unwrap_or_default().trim().to_owned();
    if fields.has("name") && !(1..=MAX_NAME_CHARS).contains(&name.chars().count()) {
        fields.invalid.add("name", "must be 1 to 255 characters");
    }
    let role = fields.parsed::<Role>("role");
    let expires_at = fields.parsed::<Timestamp>("expires_at");
    if expires_at.is_some_and(|moment| moment <= now) {
        fields.invalid.add("expires_at", "must lie in the future");
    }
    let site = match fields.text("site") {
        None => None,
        Some(site) => {
            let site = api.store.site(actor.account_id, site).await?;
            if site.is_none() {
                fields.invalid.add("site", "must be the id or domain of a site of this account");
            }
            if role.is_some_and(|role| role > Role::Editor) {
                fields.invalid.add("role", "of a key for one site must be editor or viewer");
            }
            site
        }
    };
    let role = fields.finish(role)?.unwrap_or(Role::Viewer);
    if role > actor.role {
        return Err(ApiError::role_too_low(role));
    }
    let grant = Grant { name, role, site_id: site.map(|site| site.id), expires_at };
    let made = issue_key(&api.store, &api.change(&actor), grant, &api.chance).await?;
    let (key, text) = made.ok_or_else(|| {
        ApiError::limit_reached(format!("An account may have at most {MOST_KEYS} keys. Delete one nobody uses."))
    })?;
    Ok((StatusCode::CREATED, Json(KeyAnswer { key: text.expose().to_owned(), api_key: key.into() })))
}

/// Delete a key; it stops working at once
#[utoipa::path(delete, path = "/api/keys/{id}", tag = "account", security(("key" = []), ("session" = [])),
    params(("id" = String, Path)),
    responses((status = 204), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 503, body = Problem)))]
pub async fn delete_key(State(api): State<Api>, asking: Asking, Path(id): Path<String>) -> Result<StatusCode> {
    asking.of_the_account()?;
    let actor = asking.at_least(Role::Admin)?;
    let id: KeyId = id.parse().map_err(|_| ApiError::not_found())?;
    if !api.store.delete_key(&api.change(&actor), id).await? {
        return Err(ApiError::not_found());
    }
    Ok(StatusCode::NO_CONTENT)
}
