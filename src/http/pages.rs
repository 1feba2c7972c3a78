//! The few pages this server draws itself: a welcome, the set-up form and invitations, where the web interface was not built in. No
//! script; the style is a file of its own. Addresses are relative, so that they hold below a path.

use axum::Router;
use axum::extract::{Query, Request, State};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, options};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderValue, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::Api;
use super::auth::{From, refuse_other_sites};
use super::body::{API_BYTES, read};
use super::error::{ApiError, Result};
use super::invitations::InvitedAnswer;
use super::session::{network, with_cookie};
use super::{event, invitations, setup};
use crate::directory::SESSION_FOR;

pub fn router() -> Router<Api> {
    Router::new().route("/style.css", get(style)).route("/api/event", options(event::preflight))
}

/// What stands in for the web interface.
pub fn plain() -> Router<Api> {
    Router::new()
        .route("/", get(welcome))
        .route("/setup", get(setup_form).post(setup_submit))
        .route("/invitation", get(invitation_form).post(invitation_submit))
}

/// Text that may come from anybody, for use between tags and in quoted attributes.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

/// A whole page.
pub fn page(title: &str, content: &str) -> Html<String> {
    Html(format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{}</title>\n\
         <link rel=\"stylesheet\" href=\"style.css\">\n</head>\n<body>\n<main>\n{content}\n</main>\n</body>\n</html>\n",
        escape(title)
    ))
}

async fn style() -> Response {
    let headers = [(CONTENT_TYPE, "text/css; charset=utf-8"), (CACHE_CONTROL, "public, max-age=3600")];
    (headers, include_str!("style.css")).into_response()
}

async fn welcome(State(api): State<Api>) -> Result<Html<String>> {
    let next = if api.settings.mirrors_plausible {
        "<p>Sites and goals are those of the Plausible beside it. Use a token of a site's Plugins API as the key, or run \
         <code>pulsehook keys create --account TEAM</code> on the machine with the id of the team; then \
         <code>pulsehook webhooks create</code> and <code>pulsehook webhooks test</code>.</p>"
    } else if api.store.operator_is_set_up().await? {
        "<p>Next steps: <code>pulsehook sites create</code>, <code>pulsehook webhooks create</code>, \
         <code>pulsehook webhooks test</code>. Every command has <code>--help</code>.</p>"
    } else {
        "<p>Nobody has set this server up yet. Its log shows a one-time link when it starts; or run \
         <code>pulsehook keys create --account NAME --role owner</code> on the machine.</p>"
    };
    Ok(page(
        "Pulsehook",
        &format!(
            "<h1>Pulsehook</h1>\n<p>Webhooks for web analytics: it notices the moment and delivers it, signed, retried and \
             recorded.</p>\n{next}\n<p><a href=\"docs\">API reference</a></p>"
        ),
    ))
}

#[derive(Deserialize)]
struct TokenQuery {
    #[serde(default)]
    token: String,
}

async fn setup_form(State(api): State<Api>, Query(query): Query<TokenQuery>) -> Result<Response> {
    if !setup::token_is_right(&api, &query.token).await? {
        let content = "<h1>This link does not work</h1>\n<p>It is not the one this server printed last, or it was used \
                       already. A new one is printed when the server starts and nobody has set it up.</p>";
        return Ok((StatusCode::FORBIDDEN, page("Set up Pulsehook", content)).into_response());
    }
    Ok(form(&query.token, &Map::new(), None).into_response())
}

async fn setup_submit(State(api): State<Api>, From(origin): From, request: Request) -> Result<Response> {
    let (parts, fields) = submitted(&api, request).await?;
    let token = fields.get("token").and_then(Value::as_str).unwrap_or_default().to_owned();
    match setup::run(&api, &fields, origin, &parts.headers).await {
        Ok((answer, session)) => {
            let content = format!(
                "<h1>Welcome</h1>\n<p>Your account is ready. This is your API key with the role owner; it is shown only \
                 now:</p>\n<pre>{}</pre>\n<p>Use it like this:</p>\n<pre>export PULSEHOOK_KEY={}\npulsehook sites create \
                 example.com</pre>\n<p><a href=\"docs\">API reference</a></p>",
                escape(&answer.key),
                escape(&answer.key)
            );
            let mut response = page("Welcome to Pulsehook", &content).into_response();
            response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
            Ok(with_cookie(response, &api, &session, SESSION_FOR))
        }
        Err(error) if error.is_server_error() => Err(error),
        Err(error) if error.code() == "wrong_setup_token" => Ok(Redirect::to("setup").into_response()),
        Err(error) => {
            let status = error.status();
            Ok((status, form(&token, &fields, Some(error.detail()))).into_response())
        }
    }
}

/// The fields of a form that was sent from a page of ours.
async fn submitted(api: &Api, request: Request) -> Result<(Parts, Map<String, Value>)> {
    let (parts, body) = request.into_parts();
    refuse_other_sites(&parts.headers)?;
    let body = read(&api.clock, body, API_BYTES).await?;
    let fields = url::form_urlencoded::parse(&body)
        .map(|(name, value)| (name.into_owned(), Value::String(value.into_owned())))
        .collect();
    Ok((parts, fields))
}

async fn invitation_form(
    State(api): State<Api>,
    From(origin): From,
    Query(query): Query<TokenQuery>,
) -> Result<Response> {
    api.throttle.stranger(network(origin))?;
    match invitations::invited(&api, &query.token).await {
        Ok(invited) => Ok(invitation(&query.token, &invited, None).into_response()),
        Err(error) if error.is_server_error() => Err(error),
        Err(error) => Ok(no_invitation(&error)),
    }
}

async fn invitation_submit(State(api): State<Api>, From(origin): From, request: Request) -> Result<Response> {
    let (parts, fields) = submitted(&api, request).await?;
    let text = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let token = text("token");
    api.throttle.stranger(network(origin))?;
    let invited = match invitations::invited(&api, &token).await {
        Err(error) if error.is_server_error() => return Err(error),
        Err(error) => return Ok(no_invitation(&error)),
        Ok(invited) => invited,
    };
    match invitations::join(&api, &token, text("password"), origin, &parts.headers).await {
        Ok((_, session)) => {
            let content = format!(
                "<h1>Welcome</h1>\n<p>You are a member of {} now, as {}.</p>\n<p>This server was built without its pages, so \
                 there is nothing more to see here: ask an admin of the account for an API key, and use it with the \
                 <code>pulsehook</code> command or the API.</p>\n<p><a href=\"docs\">API reference</a></p>",
                escape(&invited.account),
                escape(&invited.email)
            );
            Ok(with_cookie(page("Welcome to Pulsehook", &content).into_response(), &api, &session, SESSION_FOR))
        }
        Err(error) if error.is_server_error() => Err(error),
        Err(error) => Ok((error.status(), invitation(&token, &invited, Some(error.detail()))).into_response()),
    }
}

fn no_invitation(error: &ApiError) -> Response {
    let content = format!("<h1>This link does not work</h1>\n<p>{}</p>", escape(error.detail()));
    (error.status(), page("An invitation to Pulsehook", &content)).into_response()
}

fn invitation(token: &str, invited: &InvitedAnswer, problem: Option<&str>) -> Html<String> {
    let (label, completes, least) = if invited.has_password {
        ("Your password here", "current-password", "")
    } else {
        ("A password for you, at least 12 characters", "new-password", " minlength=\"12\"")
    };
    page(
        "An invitation to Pulsehook",
        &format!(
            "<h1>Join {}</h1>\n<p>You are invited as {}. The link works once.</p>\n{}\
             <form method=\"post\" action=\"invitation\">\n<input type=\"hidden\" name=\"token\" value=\"{}\">\n\
             <label>{label} <input name=\"password\" type=\"password\" required{least} autocomplete=\"{completes}\"></label>\n\
             <button>Join</button>\n</form>",
            escape(&invited.account),
            escape(&invited.email),
            alert(problem),
            escape(token)
        ),
    )
}

fn alert(problem: Option<&str>) -> String {
    problem.map_or_else(String::new, |text| format!("<p class=\"problem\" role=\"alert\">{}</p>\n", escape(text)))
}

fn form(token: &str, fields: &Map<String, Value>, problem: Option<&str>) -> Html<String> {
    let value = |name: &str| escape(fields.get(name).and_then(Value::as_str).unwrap_or_default());
    let problem = alert(problem);
    page(
        "Set up Pulsehook",
        &format!(
            "<h1>Set up Pulsehook</h1>\n<p>This makes the first account and its owner. The link works once.</p>\n{problem}\
             <form method=\"post\" action=\"setup\">\n<input type=\"hidden\" name=\"token\" value=\"{}\">\n\
             <label>Account name <input name=\"account\" required maxlength=\"255\" value=\"{}\"></label>\n\
             <label>E-mail address <input name=\"email\" type=\"email\" required autocomplete=\"email\" value=\"{}\"></label>\n\
             <label>Password, at least 12 characters <input name=\"password\" type=\"password\" required minlength=\"12\" \
             autocomplete=\"new-password\"></label>\n<button>Create account</button>\n</form>",
            escape(token),
            value("account"),
            value("email")
        ),
    )
}
