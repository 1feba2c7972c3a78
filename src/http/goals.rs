//! Goals of a site.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, State};
use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::auth::Asking;
use super::body::JsonObject;
use super::error::{ApiError, Problem, Result};
use super::sites::find;
use crate::domain::access::Role;
use crate::domain::goal::{Goal, GoalKind, MAX_GOALS_PER_SITE, NewGoal};
use crate::domain::ids::GoalId;
use crate::store::StoreError;
use crate::store::goals::GoalDraft;

/// A goal as the API shows it.
#[derive(Serialize, ToSchema)]
#[schema(as = Goal)]
pub struct GoalView {
    id: String,
    /// `event`, `page` or `scroll`.
    goal_type: &'static str,
    event_name: Option<String>,
    page_path: Option<String>,
    scroll_threshold: Option<u8>,
    display_name: String,
    custom_props: BTreeMap<String, String>,
    currency: Option<String>,
    #[schema(format = DateTime)]
    inserted_at: String,
}

/// What a client sends for a goal: `event_name`, or `page_path` with or without `scroll_threshold`.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is read field by field")]
pub struct GoalBody {
    #[schema(example = "Signup", max_length = 120)]
    event_name: Option<String>,
    /// `*` stands for any characters.
    page_path: Option<String>,
    #[schema(minimum = 0, maximum = 100)]
    scroll_threshold: Option<u8>,
    display_name: Option<String>,
    /// Up to three properties that must have exactly these values.
    custom_props: Option<BTreeMap<String, String>>,
    currency: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub struct GoalAnswer {
    goal: GoalView,
}

#[derive(Serialize, ToSchema)]
pub struct GoalsAnswer {
    goals: Vec<GoalView>,
}

impl From<Goal> for GoalView {
    fn from(goal: Goal) -> Self {
        let goal_type = goal.kind.goal_type();
        let (event_name, page_path, scroll_threshold) = match goal.kind {
            GoalKind::Event { name } => (Some(name), None, None),
            GoalKind::Page { path } => (None, Some(path), None),
            GoalKind::Scroll { path, threshold } => (None, Some(path), Some(threshold)),
        };
        Self {
            id: goal.id.to_string(),
            goal_type,
            event_name,
            page_path,
            scroll_threshold,
            display_name: goal.display_name,
            custom_props: goal.custom_props.into_iter().collect(),
            currency: goal.currency,
            inserted_at: goal.inserted_at.to_string(),
        }
    }
}

/// Goals of a site
#[utoipa::path(get, path = "/api/sites/{site}/goals", tag = "sites", security(("key" = []), ("session" = [])),
    params(("site" = String, Path, description = "Id or domain")),
    responses((status = 200, body = GoalsAnswer), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 503, body = Problem)))]
pub async fn list_goals(State(api): State<Api>, asking: Asking, Path(site): Path<String>) -> Result<Json<GoalsAnswer>> {
    let site = find(&api, &asking.0, &site).await?;
    let goals = api.store.goals(asking.0.account_id, site.id).await?;
    Ok(Json(GoalsAnswer { goals: goals.into_iter().map(GoalView::from).collect() }))
}

/// Create a goal
#[utoipa::path(post, path = "/api/sites/{site}/goals", tag = "sites", security(("key" = []), ("session" = [])),
    params(("site" = String, Path, description = "Id or domain")), request_body = GoalBody,
    responses((status = 201, body = GoalAnswer), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 403, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem),
        (status = 413, body = Problem), (status = 422, body = Problem), (status = 503, body = Problem)))]
pub async fn create_goal(
    State(api): State<Api>,
    asking: Asking,
    Path(site): Path<String>,
    JsonObject(body): JsonObject,
) -> Result<(StatusCode, Json<GoalAnswer>)> {
    let actor = asking.at_least(Role::Editor)?;
    let site = find(&api, &actor, &site).await?;
    api.refuse_what_is_mirrored()?;
    let goal = NewGoal::parse(&body)?;
    if api.store.goals(actor.account_id, site.id).await?.len() >= MAX_GOALS_PER_SITE {
        return Err(ApiError::limit_reached(format!("A site may have at most {MAX_GOALS_PER_SITE} goals.")));
    }
    let draft = GoalDraft {
        site_id: site.id,
        display_name: goal.display_name,
        kind: goal.kind,
        custom_props: goal.custom_props,
        currency: goal.currency,
    };
    let goal = api.store.create_goal(&api.change(&actor), &draft).await.map_err(|error| match error {
        StoreError::Conflict(_) => {
            ApiError::conflict("goal_exists", "The site already has such a goal, or one with this display name.")
        }
        error => error.into(),
    })?;
    api.configuration_changed().await?;
    Ok((StatusCode::CREATED, Json(GoalAnswer { goal: goal.into() })))
}

/// Delete a goal
#[utoipa::path(delete, path = "/api/sites/{site}/goals/{id}", tag = "sites", security(("key" = []), ("session" = [])),
    params(("site" = String, Path, description = "Id or domain"), ("id" = String, Path)),
    responses((status = 204), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 409, body = Problem), (status = 503, body = Problem)))]
pub async fn delete_goal(
    State(api): State<Api>,
    asking: Asking,
    Path((site, id)): Path<(String, String)>,
) -> Result<StatusCode> {
    let actor = asking.at_least(Role::Editor)?;
    let site = find(&api, &actor, &site).await?;
    api.refuse_what_is_mirrored()?;
    let id: GoalId = id.parse().map_err(|_| ApiError::not_found())?;
    if !api.store.delete_goal(&api.change(&actor), site.id, id).await? {
        return Err(ApiError::not_found());
    }
    api.configuration_changed().await?;
    Ok(StatusCode::NO_CONTENT)
}
