//! Sites.

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
use crate::domain::access::{Actor, Role};
use crate::domain::invalid::Invalid;
use crate::store::StoreError;
use crate::store::observations::Gap;
use crate::store::shards::shard_of;
use crate::store::sites::Site;

const MAX_DOMAIN_CHARS: usize = 253;
/// It is saved every half minute how far was looked, and an interval may be long; after this time something is wrong.
const LOOKED_AT_WITHIN: Duration = Duration::from_secs(120);
const DEFAULT_ZONE: &str = "Etc/UTC";
const READ_ONLY: &[&str] = &["id", "inserted_at", "updated_at"];

/// A site as the API shows it.
#[derive(Serialize, ToSchema)]
#[schema(as = Site)]
pub struct SiteView {
    id: String,
    /// Lower case, without scheme and `www.`.
    #[schema(example = "example.com")]
    domain: String,
    /// IANA name.
    #[schema(example = "Europe/Berlin")]
    timezone: String,
    #[schema(format = DateTime)]
    inserted_at: String,
}

/// What a client sends for a site.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is read field by field")]
pub struct SiteBody {
    #[schema(example = "example.com")]
    domain: String,
    /// IANA name; `Etc/UTC` when absent.
    #[schema(example = "Europe/Berlin")]
    timezone: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub struct SiteAnswer {
    site: SiteView,
}

#[derive(Serialize, ToSchema)]
pub struct SitesAnswer {
    sites: Vec<SiteView>,
}

/// A span in which nobody looked at the traffic of the site: what happened then was not reported.
#[derive(Serialize, ToSchema)]
#[schema(as = Gap)]
pub struct GapView {
    #[schema(format = DateTime)]
    from: String,
    #[schema(format = DateTime)]
    until: String,
}

#[derive(Serialize, ToSchema)]
pub struct GapsAnswer {
    gaps: Vec<GapView>,
    /// Since when the traffic cannot be looked at; `null` while it can. What happens meanwhile is made up for when that is
    /// over soon, and a gap otherwise. Where traffic is taken in by Pulsehook itself and kept in its own file it is always
    /// `null`.
    #[schema(format = DateTime)]
    unknown_since: Option<String>,
}

/// Whether there is traffic to look at.
#[derive(Serialize, ToSchema)]
pub struct TrafficAnswer {
    /// When the first event of the site happened, as far back as they are kept; `null` before there is one.
    #[schema(format = DateTime)]
    first_event_at: Option<String>,
}

impl From<Site> for SiteView {
    fn from(site: Site) -> Self {
        Self {
            id: site.id.to_string(),
            domain: site.domain,
            timezone: site.timezone,
            inserted_at: site.inserted_at.to_string(),
        }
    }
}

/// Sites of the account
#[utoipa::path(get, path = "/api/sites", tag = "sites", security(("key" = []), ("session" = [])),
    responses((status = 200, body = SitesAnswer), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 503, body = Problem)))]
pub async fn list_sites(State(api): State<Api>, asking: Asking) -> Result<Json<SitesAnswer>> {
    let sites = api.store.sites(asking.0.account_id).await?;
    let seen = sites.into_iter().filter(|site| asking.0.sees(site.id));
    Ok(Json(SitesAnswer { sites: seen.map(SiteView::from).collect() }))
}

/// Create a site
#[utoipa::path(post, path = "/api/sites", tag = "sites", security(("key" = []), ("session" = [])),
    request_body = SiteBody,
    responses((status = 201, body = SiteAnswer), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 403, body = Problem), (status = 409, body = Problem), (status = 413, body = Problem),
        (status = 422, body = Problem), (status = 503, body = Problem)))]
pub async fn create_site(
    State(api): State<Api>,
    asking: Asking,
    JsonObject(body): JsonObject,
) -> Result<(StatusCode, Json<SiteAnswer>)> {
    asking.of_the_account()?;
    let actor = asking.at_least(Role::Editor)?;
    api.refuse_what_is_mirrored()?;
    let (domain, timezone) = read(&body, true)?;
    let domain = domain.unwrap_or_default();
    let timezone = timezone.unwrap_or_else(|| DEFAULT_ZONE.to_owned());
    let limit = api.settings.max_sites_per_account;
    let site = api.store.create_site(&api.change(&actor), &domain, &timezone, limit).await.map_err(taken)?;
    let site = site.ok_or_else(|| {
        ApiError::limit_reached(format!(
            "An account may have at most {limit} sites. Delete one you no longer need, or ask your administrator to raise \
             max_sites_per_account."
        ))
    })?;
    api.configuration_changed().await?;
    Ok((StatusCode::CREATED, Json(SiteAnswer { site: site.into() })))
}

/// One site
#[utoipa::path(get, path = "/api/sites/{site}", tag = "sites", security(("key" = []), ("session" = [])),
    params(("site" = String, Path, description = "Id or domain")),
    responses((status = 200, body = SiteAnswer), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 503, body = Problem)))]
pub async fn show_site(State(api): State<Api>, asking: Asking, Path(site): Path<String>) -> Result<Json<SiteAnswer>> {
    let site = find(&api, &asking.0, &site).await?;
    Ok(Json(SiteAnswer { site: site.into() }))
}

/// Whether a site's events arrive
#[utoipa::path(get, path = "/api/sites/{site}/traffic", tag = "sites", security(("key" = []), ("session" = [])),
    params(("site" = String, Path, description = "Id or domain")),
    responses((status = 200, body = TrafficAnswer), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 503, body = Problem)))]
pub async fn show_traffic(
    State(api): State<Api>,
    asking: Asking,
    Path(site): Path<String>,
) -> Result<Json<TrafficAnswer>> {
    let site = find(&api, &asking.0, &site).await?;
    let first = api.analytics.first_hit_at(site.id).await?;
    Ok(Json(TrafficAnswer { first_event_at: first.map(|at| at.to_string()) }))
}

/// Spans in which nobody looked at the traffic, newest first
///
/// Pulsehook or its analytics store was away for longer than is made up for.
#[utoipa::path(get, path = "/api/sites/{site}/gaps", tag = "sites", security(("key" = []), ("session" = [])),
    params(("site" = String, Path, description = "Id or domain")),
    responses((status = 200, body = GapsAnswer), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 503, body = Problem)))]
pub async fn list_gaps(State(api): State<Api>, asking: Asking, Path(site): Path<String>) -> Result<Json<GapsAnswer>> {
    let site = find(&api, &asking.0, &site).await?;
    let gaps = api.store.gaps(shard_of(site.id)).await?;
    // What was before the site is none of its history.
    let of_site = gaps.into_iter().filter(|gap| gap.until_at > site.inserted_at);
    let view =
        |gap: Gap| GapView { from: gap.from_at.max(site.inserted_at).to_string(), until: gap.until_at.to_string() };
    let unknown_since = match api.analytics.is_asked() {
        true => api.store.operator_looked_until(shard_of(site.id)).await?,
        false => None,
    };
    let unknown_since = unknown_since.filter(|until| api.clock.now().since(*until) > LOOKED_AT_WITHIN);
    Ok(Json(GapsAnswer {
        gaps: of_site.map(view).collect(),
        unknown_since: unknown_since.map(|since| since.max(site.inserted_at).to_string()),
    }))
}

/// Change a site
#[utoipa::path(patch, path = "/api/sites/{site}", tag = "sites", security(("key" = []), ("session" = [])),
    params(("site" = String, Path, description = "Id or domain")), request_body = SiteBody,
    responses((status = 200, body = SiteAnswer), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 403, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem),
        (status = 413, body = Problem), (status = 422, body = Problem), (status = 503, body = Problem)))]
pub async fn update_site(
    State(api): State<Api>,
    asking: Asking,
    Path(site): Path<String>,
    JsonObject(body): JsonObject,
) -> Result<Json<SiteAnswer>> {
    let actor = asking.at_least(Role::Editor)?;
    let site = find(&api, &actor, &site).await?;
    api.refuse_what_is_mirrored()?;
    let (domain, timezone) = read(&body, false)?;
    let domain = domain.unwrap_or_else(|| site.domain.clone());
    let timezone = timezone.unwrap_or_else(|| site.timezone.clone());
    let site = api.store.update_site(&api.change(&actor), &site, &domain, &timezone).await.map_err(taken)?;
    let site = site.ok_or_else(ApiError::not_found)?;
    api.configuration_changed().await?;
    Ok(Json(SiteAnswer { site: site.into() }))
}

/// Delete a site with its goals, webhooks, deliveries and traffic
#[utoipa::path(delete, path = "/api/sites/{site}", tag = "sites", security(("key" = []), ("session" = [])),
    params(("site" = String, Path, description = "Id or domain")),
    responses((status = 204), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 409, body = Problem), (status = 503, body = Problem)))]
pub async fn delete_site(State(api): State<Api>, asking: Asking, Path(site): Path<String>) -> Result<StatusCode> {
    let actor = asking.at_least(Role::Editor)?;
    let site = find(&api, &actor, &site).await?;
    api.refuse_what_is_mirrored()?;
    let webhooks = api.store.webhooks_of_site(actor.account_id, site.id).await?;
    if !api.store.delete_site(&api.change(&actor), site.id).await? {
        return Err(ApiError::not_found());
    }
    for webhook in webhooks {
        api.wake.webhook_changed(webhook.id, shard_of(webhook.site_id)).await;
    }
    api.configuration_changed().await?;
    api.forget_traffic(vec![site.id]);
    Ok(StatusCode::NO_CONTENT)
}

/// The actor's site, by id or domain.
///
/// # Errors
/// 404 when there is none, or it is somebody else's, or another than the one the actor may see.
pub async fn find(api: &Api, actor: &Actor, id_or_domain: &str) -> Result<Site> {
    let site = api.store.site(actor.account_id, id_or_domain).await?;
    site.filter(|site| actor.sees(site.id)).ok_or_else(ApiError::not_found)
}

fn read(body: &Map<String, Value>, required: bool) -> Result<(Option<String>, Option<String>), Invalid> {
    let mut fields = Fields::of(body, READ_ONLY);
    if required {
        fields.require("domain");
    }
    let domain = fields.text("domain").map(canonical_domain);
    let domain = match domain {
        Some(Err(problem)) => {
            fields.invalid.add("domain", problem);
            None
        }
        Some(Ok(domain)) => Some(domain),
        None => None,
    };
    let timezone = fields.text("timezone").map(str::to_owned);
    if let Some(name) = &timezone
        && jiff::tz::TimeZone::get(name).is_err()
    {
        fields.invalid.add("timezone", "must be a time zone such as Europe/Berlin");
    }
    fields.finish((domain, timezone))
}

/// Lower case, without scheme, `www.` and slashes at its ends; it may have a path inside, as with Plausible.
fn canonical_domain(text: &str) -> Result<String, &'static str> {
    let text = text.trim().to_lowercase();
    let text = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or(&text);
    let text = text.strip_prefix("www.").unwrap_or(text).trim_matches('/');
    let allowed = |c: char| c.is_alphanumeric() || matches!(c, '-' | '.' | '/' | '_' | ':');
    if text.is_empty() {
        return Err("can't be blank");
    }
    if text.chars().count() > MAX_DOMAIN_CHARS {
        return Err("must be at most 253 characters");
    }
    if !text.chars().all(allowed) || text.split(['.', '/']).any(str::is_empty) {
        return Err("must be a domain such as example.com");
    }
    // A number alone would be taken for an id.
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("must not be a number");
    }
    Ok(text.to_owned())
}

fn taken(error: StoreError) -> ApiError {
    match error {
        StoreError::Conflict(_) => ApiError::conflict("domain_taken", "This domain is already taken."),
        error => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_are_put_into_one_form() {
        for (text, expected) in [
            ("Example.com", "example.com"),
            ("https://www.example.com/", "example.com"),
            ("example.com/blog/", "example.com/blog"),
            ("localhost:3000", "localhost:3000"),
            ("bücher.example", "bücher.example"),
        ] {
            assert_eq!(canonical_domain(text).as_deref(), Ok(expected), "{text}");
        }
        for text in ["", "https://", "exa mple.com", "example..com", "a@b", "12345", &"a".repeat(254)] {
            assert!(canonical_domain(text).is_err(), "{text}");
        }
    }
}
