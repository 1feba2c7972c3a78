//! The only room that knows axum: the API, the ingestion endpoint, health and documents.
//!
//! Handlers read state and write intentions; they never call the engine, only [`crate::wake::Wake`]. One file a resource,
//! and the router below is the table of contents. The OpenAPI document comes out of the same routes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, STRICT_TRANSPORT_SECURITY,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderName, HeaderValue, StatusCode};
use ipnet::IpNet;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::OpenApi as _;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::analytics::Analytics;
use crate::analytics::recorder::Recorder;
use crate::chance::Chance;
use crate::clock::Clock;
use crate::directory::Directory;
use crate::domain::access::Actor;
use crate::domain::address::AddressPolicy;
use crate::domain::ids::SiteId;
use crate::domain::vault::Keyring;
use crate::store::Store;
use crate::store::audit::Change;
use crate::wake::Wake;

pub mod account;
pub mod auth;
pub mod backtests;
pub mod body;
pub mod deliveries;
pub mod docs;
pub mod error;
pub mod event;
pub mod goals;
pub mod health;
pub mod idempotency;
pub mod inbox;
pub mod invitations;
pub mod keys;
mod listener;
pub mod members;
pub mod operation;
pub mod origin;
pub mod pages;
pub mod pulse;
pub mod resends;
pub mod schemas;
pub mod session;
pub mod setup;
pub mod sites;
pub mod stream;
pub mod throttle;
pub mod triggers;
#[cfg(feature = "ui")]
pub mod ui;
pub mod url_check;
pub mod webhooks;

use error::ApiError;
use origin::RequestId;
use throttle::Throttle;

/// What handlers work with. Cheap to clone.
#[derive(Clone)]
pub struct Api(Arc<Parts>);

pub struct Parts {
    pub store: Store,
    pub analytics: Analytics,
    pub recorder: Recorder,
    pub directory: Directory,
    pub wake: Wake,
    /// Which addresses webhooks may have.
    pub policy: AddressPolicy,
    pub keyring: Keyring,
    pub clock: Clock,
    pub chance: Chance,
    pub metrics: PrometheusHandle,
    pub settings: Settings,
    /// False once the process is stopping.
    ready: AtomicBool,
    /// How often who may ask.
    throttle: Throttle,
    /// Who watches a site.
    pub streams: stream::Streams,
    /// Who looked at addresses lately.
    checks: url_check::Checks,
    /// Who was recognised as robot or browser lately.
    agents: event::Agents,
    /// What is being written into audit logs while nobody waits for it.
    notes: TaskTracker,
}

pub struct Settings {
    pub base_url: String,
    pub max_webhooks_per_account: u32,
    pub max_sites_per_account: u32,
    /// Requests a second a credential may make; 0 for as many as it likes.
    pub api_rate: u32,
    /// Connections held at once, and of one address.
    pub max_connections: usize,
    pub max_connections_per_address: usize,
    /// Whether strangers may found accounts.
    pub sign_up: bool,
    pub trusted_proxies: Vec<IpNet>,
    /// Whether this process answers the API and its pages.
    pub answers_api: bool,
    /// Whether it takes hits in.
    pub takes_hits: bool,
    /// Whether sites and goals are Plausible's to change.
    pub mirrors_plausible: bool,
}

impl std::ops::Deref for Api {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl Api {
    #[expect(clippy::too_many_arguments, reason = "every handle of the room, named at the one place that builds it")]
    pub fn new(
        store: Store,
        analytics: Analytics,
        recorder: Recorder,
        directory: Directory,
        wake: Wake,
        policy: AddressPolicy,
        keyring: Keyring,
        clock: Clock,
        chance: Chance,
        metrics: PrometheusHandle,
        settings: Settings,
    ) -> Self {
        let throttle = Throttle::new(&clock, settings.api_rate);
        let notes = TaskTracker::new();
        // Closed, it can be waited for whenever nothing is under way.
        notes.close();
        Self(Arc::new(Parts {
            store,
            analytics,
            recorder,
            directory,
            wake,
            policy,
            keyring,
            clock,
            chance,
            metrics,
            settings,
            ready: AtomicBool::new(true),
            throttle,
            streams: stream::Streams::default(),
            checks: url_check::Checks::default(),
            agents: event::Agents::default(),
            notes,
        }))
    }

    /// Load balancers are told to look elsewhere, and streams, which would go on for long, end.
    pub fn stop_being_ready(&self) {
        self.ready.store(false, Ordering::Relaxed);
        self.streams.stop();
    }

    /// A change by `actor`, now.
    fn change(&self, actor: &Actor) -> Change {
        let now = self.clock.now();
        Change::by(actor, now, self.chance.uuid_v7(now))
    }

    /// For whoever wants to change sites or goals.
    ///
    /// # Errors
    /// 409 when they are mirrored.
    fn refuse_what_is_mirrored(&self) -> Result<(), ApiError> {
        if !self.settings.mirrors_plausible {
            return Ok(());
        }
        Err(ApiError::conflict(
            "managed_in_plausible",
            "Sites and goals are Plausible's: change them there, in the site's settings. What you change is known here \
             within ten seconds.",
        ))
    }

    /// For whoever wants to change accounts, members or passwords.
    ///
    /// # Errors
    /// 409 when people are Plausible's.
    fn refuse_people_of_plausible(&self) -> Result<(), ApiError> {
        if !self.settings.mirrors_plausible {
            return Ok(());
        }
        Err(ApiError::conflict(
            "managed_in_plausible",
            "Accounts and people are Plausible's: change them there, in the team's settings. What you change is known here \
             within half a minute.",
        ))
    }

    /// Removes the traffic of sites that are gone. Traffic of years takes a while; nobody can see it any more.
    fn forget_traffic(&self, sites: Vec<SiteId>) {
        let analytics = self.analytics.clone();
        tokio::spawn(async move {
            for site_id in sites {
                if let Err(error) = analytics.delete_site(site_id).await {
                    tracing::warn!(%error, site.id = %site_id, "Traffic of a deleted site is still there: {error}");
                }
            }
        });
    }

    /// After a change of what is watched: returns once everybody here works with it.
    async fn configuration_changed(&self) -> Result<(), ApiError> {
        self.directory.reload().await?;
        self.wake.configuration_changed().await;
        Ok(())
    }
}

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Pulsehook",
        description = "Webhooks for web analytics. Ids are opaque strings; times are RFC 3339 in UTC. Errors are \
            `application/problem+json` with a stable `code`. A POST with an `Idempotency-Key` can be repeated for a day \
            without happening twice.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    modifiers(&Security),
    tags(
        (name = "sites", description = "Sites and their goals"),
        (name = "webhooks", description = "Endpoints, their triggers and secrets"),
        (name = "deliveries", description = "What was sent, and what came back"),
        (name = "account", description = "Keys, members, audit log, signing in"),
        (name = "events", description = "Where trackers send what happens"),
        (name = "operation", description = "Health, metrics and documents")
    )
)]
struct Document;

struct Security;

impl utoipa::Modify for Security {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
        let components = document.components.get_or_insert_default();
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("phk_…").build();
        components.add_security_scheme("key", SecurityScheme::Http(bearer));
        let cookie = ApiKey::Cookie(ApiKeyValue::new(auth::SESSION_COOKIE));
        components.add_security_scheme("session", SecurityScheme::ApiKey(cookie));
    }
}

fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(sites::list_sites, sites::create_site))
        .routes(routes!(sites::list_gaps))
        .routes(routes!(sites::show_traffic))
        .routes(routes!(sites::show_site, sites::update_site, sites::delete_site))
        .routes(routes!(goals::list_goals, goals::create_goal))
        .routes(routes!(goals::delete_goal))
        .routes(routes!(webhooks::list_webhooks, webhooks::create_webhook))
        .routes(routes!(
            webhooks::show_webhook,
            webhooks::replace_webhook,
            webhooks::update_webhook,
            webhooks::delete_webhook
        ))
        .routes(routes!(webhooks::rotate_secret))
        .routes(routes!(inbox::show_inbox))
        .routes(routes!(url_check::check_url))
        .routes(routes!(triggers::create_trigger))
        .routes(routes!(triggers::update_trigger, triggers::delete_trigger))
        .routes(routes!(backtests::backtest))
        .routes(routes!(deliveries::send_test))
        .routes(routes!(resends::resend_range))
        .routes(routes!(resends::list_resends))
        .routes(routes!(resends::show_resend, resends::update_resend))
        .routes(routes!(deliveries::list_deliveries))
        .routes(routes!(deliveries::list_site_deliveries))
        .routes(routes!(pulse::show_pulse))
        .routes(routes!(deliveries::show_delivery))
        .routes(routes!(deliveries::resend_delivery))
        .routes(routes!(stream::watch_site))
        .routes(routes!(keys::list_keys, keys::create_key))
        .routes(routes!(keys::delete_key))
        .routes(routes!(account::me))
        .routes(routes!(account::rename_account, account::delete_account))
        .routes(routes!(account::list_audit))
        .routes(routes!(members::list_members))
        .routes(routes!(members::update_member, members::remove_member))
        .routes(routes!(invitations::list_invitations, invitations::invite))
        .routes(routes!(invitations::revoke_invitation))
        .routes(routes!(invitations::look))
        .routes(routes!(invitations::accept))
        .routes(routes!(setup::set_up))
        .routes(routes!(setup::sign_up))
        .routes(routes!(session::sign_in, session::sign_out))
        .routes(routes!(session::list_sessions, session::sign_out_everywhere))
        .routes(routes!(session::close_session))
        .routes(routes!(session::switch_account))
        .routes(routes!(session::change_password))
        .routes(routes!(event::take_event))
        .routes(routes!(health::live))
        .routes(routes!(health::ready))
        .routes(routes!(health::metrics))
        .routes(routes!(operation::show_operation))
        .routes(routes!(schemas::list_schemas))
        .routes(routes!(schemas::show_schema))
}

/// The document of every route below.
pub fn openapi() -> utoipa::openapi::OpenApi {
    routes_and_document().1
}

fn routes_and_document() -> (Router<Api>, utoipa::openapi::OpenApi) {
    let (router, mut document) = routes().split_for_parts();
    docs::with_budgets(&mut document);
    docs::say_what_is_derived_wrong(&mut document);
    (router, document)
}

/// Everything this process answers.
pub fn router(api: Api) -> Router {
    let (router, document) = routes_and_document();
    router
        .merge(docs::router(document))
        .merge(pages::router())
        .merge(interface(&api.settings.base_url))
        .method_not_allowed_fallback(async || ApiError::method_not_allowed())
        .fallback(async || ApiError::not_found())
        .layer(middleware::from_fn_with_state(api.clone(), idempotency::repeat_or_run))
        .layer(middleware::from_fn_with_state(api.clone(), in_its_role))
        .layer(middleware::map_response(in_our_words))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn_with_state(api.clone(), with_headers))
        .with_state(api)
}

/// The web interface, or the plain pages where it was not built.
fn interface(base_url: &str) -> Router<Api> {
    #[cfg(feature = "ui")]
    if let Some(pages) = ui::router::<ui::Built>(base_url) {
        return pages;
    }
    let _ = base_url;
    pages::plain()
}

/// Answers on `listener` until `stop`.
pub async fn serve(listener: TcpListener, api: Api, stop: impl Future<Output = ()> + Send + 'static) {
    let room = listener::Room {
        connections: api.settings.max_connections,
        per_address: api.settings.max_connections_per_address,
        proxies: api.settings.trusted_proxies.clone(),
    };
    let routers = listener::Routers {
        everybody: router(api.clone()),
        no_room: refusing(&api, ApiError::busy),
        no_more: refusing(&api, || ApiError::too_many(1)),
    };
    listener::serve(listener, room, routers, stop).await;
    api.notes.wait().await;
}

/// What is answered to whoever comes too much. That the process lives is told even then: nobody is to restart it for having
/// many visitors.
fn refusing(api: &Api, error: fn() -> ApiError) -> Router {
    Router::new()
        .route("/health/live", axum::routing::get(health::live))
        .fallback(async move || error())
        .layer(middleware::from_fn_with_state(api.clone(), with_headers))
}

fn panicked(cause: Box<dyn std::any::Any + Send>) -> Response {
    let text = cause.downcast_ref::<String>().map(String::as_str).or_else(|| cause.downcast_ref::<&str>().copied());
    ApiError::internal(anyhow::anyhow!("a handler panicked: {}", text.unwrap_or("without a word"))).into_response()
}

/// Where work is split over several nodes, each answers only what is its own; health and metrics are everybody's.
async fn in_its_role(State(api): State<Api>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let answers = match path {
        "/health/live" | "/health/ready" | "/metrics" => true,
        "/api/event" => api.settings.takes_hits,
        _ => api.settings.answers_api,
    };
    if answers { next.run(request).await } else { ApiError::not_found().into_response() }
}

/// What the framework refuses before a handler sees it (a parameter given twice, bytes that are no text) it says in plain
/// text; whoever reads our answers reads problems.
async fn in_our_words(response: Response) -> Response {
    let content_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let is_plain = content_type.is_some_and(|text| text.starts_with("text/plain"));
    if response.status() == StatusCode::BAD_REQUEST && is_plain {
        return ApiError::unreadable_address().into_response();
    }
    response
}

/// What every answer carries: a request id, and what keeps browsers from making more of it than it is.
async fn with_headers(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
    const OPENER: HeaderName = HeaderName::from_static("cross-origin-opener-policy");
    const PERMISSIONS: HeaderName = HeaderName::from_static("permissions-policy");
    let id = api.chance.uuid_v7(api.clock.now());
    request.extensions_mut().insert(RequestId(id));
    let id = id.to_string();
    let is_api = request.uri().path().starts_with("/api/");
    let span =
        tracing::debug_span!("request", request.id = %id, method = %request.method(), path = request.uri().path());
    let mut response = tracing::Instrument::instrument(next.run(request), span).await;
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, HeaderValue::from_str(&id).expect("a UUID is visible text"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    headers.insert(OPENER, HeaderValue::from_static("same-origin"));
    headers
        .insert(PERMISSIONS, HeaderValue::from_static("camera=(), geolocation=(), microphone=(), payment=(), usb=()"));
    if api.settings.base_url.starts_with("https://") {
        headers.insert(STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000"));
    }
    headers.entry(CONTENT_SECURITY_POLICY).or_insert(HeaderValue::from_static(
        "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ));
    if is_api {
        headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    }
    response
}
