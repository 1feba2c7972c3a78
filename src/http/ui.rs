//! The web interface: what `ui/` builds, inside the binary.
//!
//! Everything with a hash in its name may be kept for ever; the one page, and what has no hash, is asked for again each
//! time. Below a path (`base_url` ends in one) only the page's `<base>` changes: every other address is relative to it.

use std::sync::Arc;

use axum::Router;
use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use rust_embed::Embed;
use sha2::{Digest as _, Sha256};

use super::Api;
use super::error::ApiError;
use super::pages::escape;

/// Read from the folder while debugging, part of the binary in a release. Without Node the folder is empty.
#[derive(Embed)]
#[folder = "ui/dist"]
#[exclude = ".*"]
pub struct Built;

/// What the page draws. Everything else stays unknown, so that a wrong address of the API is told as one.
const PAGES: [&str; 11] = [
    "/",
    "/setup",
    "/start",
    "/sign-in",
    "/sites",
    "/sites/{*rest}",
    "/account/{*rest}",
    "/help/{*rest}",
    "/operation",
    "/invitation",
    "/sign-up",
];

/// No script and no style but ours, and nothing from elsewhere.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
     form-action 'self'; base-uri 'self'; frame-ancestors 'none'",
);

const FOR_EVER: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");
const ASK_AGAIN: HeaderValue = HeaderValue::from_static("no-cache");

/// The pages and their files; `None` when they were not built.
pub fn router<Files: Embed + 'static>(base_url: &str) -> Option<Router<Api>> {
    let page = Arc::new(Page::below::<Files>(base_url)?);
    let router = Router::new()
        .route("/assets/{file}", get(asset::<Files>))
        .route("/theme.js", get(async |headers: HeaderMap| file::<Files>("theme.js", &headers, ASK_AGAIN)))
        .route("/favicon.svg", get(async |headers: HeaderMap| file::<Files>("favicon.svg", &headers, ASK_AGAIN)));
    Some(PAGES.iter().fold(router, |router, path| {
        let page = Arc::clone(&page);
        router.route(path, get(async move |headers: HeaderMap| page.answer(&headers)))
    }))
}

async fn asset<Files: Embed>(Path(name): Path<String>, headers: HeaderMap) -> Response {
    file::<Files>(&format!("assets/{name}"), &headers, FOR_EVER)
}

/// The one page, which draws all of them.
struct Page {
    html: Bytes,
    tag: HeaderValue,
}

impl Page {
    fn below<Files: Embed>(base_url: &str) -> Option<Self> {
        let file = Files::get("index.html")?;
        let path = url::Url::parse(base_url).map_or_else(|_| "/".to_owned(), |url| url.path().to_owned());
        let path = if path.ends_with('/') { path } else { format!("{path}/") };
        let base = format!("<base href=\"{}\" />", escape(&path));
        let html = String::from_utf8_lossy(&file.data).replace("<base href=\"/\" />", &base);
        let tag = tag(&Sha256::digest(&html));
        Some(Self { html: html.into(), tag })
    }

    fn answer(&self, headers: &HeaderMap) -> Response {
        let mut response = if is_known(headers, &self.tag) {
            StatusCode::NOT_MODIFIED.into_response()
        } else {
            ([(CONTENT_TYPE, "text/html; charset=utf-8")], self.html.clone()).into_response()
        };
        finish(&mut response, self.tag.clone(), ASK_AGAIN);
        response
    }
}

fn file<Files: Embed>(path: &str, headers: &HeaderMap, cache: HeaderValue) -> Response {
    let Some(plain) = Files::get(path) else { return ApiError::not_found().into_response() };
    let tag = tag(&plain.metadata.sha256_hash());
    let mut response = if is_known(headers, &tag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let small = [("br", "br"), ("gzip", "gz")].into_iter().find_map(|(encoding, ending)| {
            accepts(headers, encoding).then(|| Some((encoding, Files::get(&format!("{path}.{ending}"))?)))?
        });
        let (encoding, file) = small.map_or((None, plain), |(encoding, file)| (Some(encoding), file));
        let mut response = Bytes::from(file.data.into_owned()).into_response();
        response.headers_mut().insert(CONTENT_TYPE, kind(path));
        if let Some(encoding) = encoding {
            response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static(encoding));
        }
        response
    };
    finish(&mut response, tag, cache);
    response.headers_mut().insert(VARY, HeaderValue::from_static("accept-encoding"));
    response
}

fn finish(response: &mut Response, tag: HeaderValue, cache: HeaderValue) {
    let headers = response.headers_mut();
    headers.insert(ETAG, tag);
    headers.insert(CACHE_CONTROL, cache);
    headers.insert(CONTENT_SECURITY_POLICY, POLICY);
    headers.insert(HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin"));
}

fn tag(hash: &[u8]) -> HeaderValue {
    HeaderValue::from_str(&format!("W/\"{}\"", hex::encode(&hash[..16]))).expect("hexadecimal is visible text")
}

fn is_known(headers: &HeaderMap, tag: &HeaderValue) -> bool {
    headers.get(IF_NONE_MATCH).is_some_and(|known| known == tag)
}

fn accepts(headers: &HeaderMap, encoding: &str) -> bool {
    let accepted = headers.get(ACCEPT_ENCODING).and_then(|value| value.to_str().ok()).unwrap_or_default();
    accepted.split(',').any(|one| {
        let (name, weight) = one.split_once(';').unwrap_or((one, ""));
        name.trim() == encoding && !matches!(weight.trim(), "q=0" | "q=0.0")
    })
}

fn kind(path: &str) -> HeaderValue {
    HeaderValue::from_static(match path.rsplit_once('.').map(|(_, ending)| ending) {
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "application/octet-stream",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Embed)]
    #[folder = "tests/fixtures/ui"]
    struct Fixture;

    #[derive(Embed)]
    #[folder = "tests/fixtures/ui"]
    #[include = "none"]
    struct Nothing;

    fn asking(pairs: &[(HeaderName, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    fn text(response: &Response, name: HeaderName) -> &str {
        response.headers().get(name).map_or("", |value| value.to_str().unwrap())
    }

    #[test]
    fn the_page_knows_the_path_it_lives_under() {
        for (base_url, base) in [
            ("http://127.0.0.1:8080", "/"),
            ("https://example.com/hooks", "/hooks/"),
            ("https://example.com/a/b/", "/a/b/"),
        ] {
            let page = Page::below::<Fixture>(base_url).unwrap();
            let html = std::str::from_utf8(&page.html).unwrap();
            assert!(html.contains(&format!("<base href=\"{base}\" />")), "{base_url}: {html}");
        }
        let (here, there) = ("http://localhost", "http://localhost/below");
        assert_ne!(Page::below::<Fixture>(here).unwrap().tag, Page::below::<Fixture>(there).unwrap().tag);
    }

    #[test]
    fn without_a_build_there_are_no_pages() {
        assert!(Page::below::<Nothing>("http://localhost").is_none());
        assert!(router::<Nothing>("http://localhost").is_none());
        assert!(router::<Fixture>("http://localhost").is_some());
    }

    #[test]
    fn the_page_is_asked_for_again_and_not_sent_twice() {
        let page = Page::below::<Fixture>("http://localhost").unwrap();
        let first = page.answer(&HeaderMap::new());
        assert_eq!(first.status(), StatusCode::OK);
        assert_eq!(text(&first, CACHE_CONTROL), "no-cache");
        let again = page.answer(&HeaderMap::from_iter([(IF_NONE_MATCH, page.tag.clone())]));
        assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
        for response in [first, again] {
            let policy = text(&response, CONTENT_SECURITY_POLICY);
            assert!(policy.contains("script-src 'self'") && !policy.contains("unsafe"), "{policy}");
        }
    }

    #[test]
    fn files_come_in_the_smallest_form_the_browser_takes_and_stay() {
        let get =
            |accepted| file::<Fixture>("assets/index-abc123.js", &asking(&[(ACCEPT_ENCODING, accepted)]), FOR_EVER);
        for (accepted, encoding) in [
            ("gzip, deflate, br", "br"),
            ("gzip, deflate", "gzip"),
            ("br;q=0, gzip", "gzip"),
            ("identity", ""),
            ("brotli", ""),
        ] {
            let response = get(accepted);
            assert_eq!(text(&response, CONTENT_ENCODING), encoding, "{accepted}");
            assert_eq!(text(&response, CONTENT_TYPE), "text/javascript; charset=utf-8");
            assert!(text(&response, CACHE_CONTROL).contains("immutable"));
            assert_eq!(text(&response, VARY), "accept-encoding");
        }
        let theme = file::<Fixture>("theme.js", &HeaderMap::new(), ASK_AGAIN);
        assert_eq!((theme.status(), text(&theme, CACHE_CONTROL)), (StatusCode::OK, "no-cache"));
        let unknown = file::<Fixture>("assets/nothing.js", &HeaderMap::new(), FOR_EVER);
        assert_eq!((unknown.status(), text(&unknown, CACHE_CONTROL)), (StatusCode::NOT_FOUND, ""));
    }
}
