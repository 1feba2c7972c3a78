//! The body of `POST /api/event`: Plausible's Events API, long and short keys, JSON or a form, with its limits and its
//! words for what is wrong.

use serde_json::{Map, Value};
use url::Url;

use super::sources::{source, without_www};
use crate::domain::hit::{ENGAGEMENT, Origin, PAGEVIEW, Page, Revenue, TrackedEvent};
use crate::domain::invalid::Invalid;

const MAX_NAME_CHARS: usize = 120;
const MAX_URL_BYTES: usize = 2_000;
const MAX_REFERRER_CHARS: usize = 2_000;
const MAX_PROPS: usize = 30;
const MAX_PROP_KEY_BYTES: usize = 300;
const MAX_PROP_VALUE_BYTES: usize = 2_000;
/// Attention of a month or more is a broken clock.
const MAX_ENGAGEMENT_MS: u64 = 30 * 86_400_000;

/// Names the tracker itself gives, which always end a bounce.
const SYSTEM_EVENTS: &[&str] = &[
    PAGEVIEW,
    ENGAGEMENT,
    "Outbound Link: Click",
    "Cloaked Link: Click",
    "File Download",
    "404",
    "WP Form Completions",
    "Form: Submission",
];
/// System events about a place on the site: their `path` property is the page when nothing else was said.
const ABOUT_A_PATH: &[&str] = &["404", "WP Form Completions", "Form: Submission"];

/// Reads a request. `content_type` decides only whether it is a form; trackers send JSON as `text/plain` to spare
/// themselves a preflight.
///
/// # Errors
/// By field: `request`, `url`, `domain`, `event_name`, `props`.
pub fn parse(content_type: Option<&str>, body: &[u8]) -> Result<TrackedEvent, Invalid> {
    let says_form = content_type.is_some_and(|text| text.trim_start().starts_with("application/x-www-form-urlencoded"));
    // What curl says of everything; no form begins like this.
    let form = says_form && !body.trim_ascii_start().starts_with(b"{");
    let fields = if form { read_form(body) } else { read_json(body)? };
    let mut invalid = Invalid::new();
    let name = event_name(&fields, &mut invalid);
    let url = page_url(&fields, &mut invalid);
    let domains = domains(&fields, url.as_ref(), &mut invalid);
    let mut props = props(&fields, &mut invalid);
    let (scroll_depth, engagement_ms) = engagement(&fields, &name, &mut invalid);
    let Some(url) = url else { return Err(invalid) };
    let page = page(&url, is_true(first(&fields, &["h", "hashMode"])));
    if ABOUT_A_PATH.contains(&name.as_str()) && !props.iter().any(|(key, _)| key == "path") {
        props.push(("path".to_owned(), page.pathname.clone()));
    }
    let interactive = SYSTEM_EVENTS.contains(&name.as_str()) || !is_false(first(&fields, &["i", "interactive"]));
    let event = TrackedEvent {
        domains,
        page,
        origin: origin(&fields, &url),
        props,
        interactive,
        scroll_depth,
        engagement_ms,
        revenue: revenue(&fields),
        name,
    };
    invalid.into_result(event)
}

fn read_json(body: &[u8]) -> Result<Map<String, Value>, Invalid> {
    match serde_json::from_slice(body) {
        Ok(Value::Object(fields)) => Ok(fields),
        _ => Err(Invalid::one("request", "Unable to parse request body as json")),
    }
}

fn read_form(body: &[u8]) -> Map<String, Value> {
    url::form_urlencoded::parse(body)
        .map(|(name, value)| (name.into_owned(), Value::String(value.into_owned())))
        .collect()
}

/// The first of these keys that is there and says something.
fn first<'a>(fields: &'a Map<String, Value>, names: &[&str]) -> Option<&'a Value> {
    names.iter().find_map(|name| fields.get(*name).filter(|value| !value.is_null()))
}

fn is_true(value: Option<&Value>) -> bool {
    match value {
        Some(Value::Bool(flag)) => *flag,
        Some(Value::Number(number)) => number.as_i64() == Some(1),
        Some(Value::String(text)) => text == "1" || text == "true",
        _ => false,
    }
}

fn is_false(value: Option<&Value>) -> bool {
    matches!(value, Some(Value::Bool(false))) || value.and_then(Value::as_str) == Some("false")
}

fn event_name(fields: &Map<String, Value>, invalid: &mut Invalid) -> String {
    let name = match first(fields, &["n", "name"]) {
        Some(Value::String(text)) => text.trim().to_owned(),
        // A page that reports its status sends the number.
        Some(Value::Number(number)) if number.is_i64() || number.is_u64() => number.to_string(),
        Some(_) => {
            invalid.add("event_name", "is invalid");
            return String::new();
        }
        None => String::new(),
    };
    if name.is_empty() {
        invalid.add("event_name", "can't be blank");
    } else if name.chars().count() > MAX_NAME_CHARS {
        invalid.add("event_name", format!("should be at most {MAX_NAME_CHARS} character(s)"));
    }
    name
}

fn page_url(fields: &Map<String, Value>, invalid: &mut Invalid) -> Option<Url> {
    let problem = match first(fields, &["u", "url"]) {
        None => "is required",
        Some(Value::String(text)) if text.is_empty() => "is required",
        Some(Value::String(text)) if text.len() > MAX_URL_BYTES => "is too long",
        Some(Value::String(text)) => match Url::parse(text) {
            Ok(url) if url.scheme() == "data" => "scheme is not allowed",
            Ok(url) => return Some(url),
            Err(_) => "must be a valid url",
        },
        Some(_) => "must be a string",
    };
    invalid.add("url", problem);
    None
}

fn domains(fields: &Map<String, Value>, url: Option<&Url>, invalid: &mut Invalid) -> Vec<String> {
    let clean = |text: &str| without_www(&text.trim().to_lowercase()).to_owned();
    let domains: Vec<_> = match first(fields, &["d", "domain"]) {
        Some(Value::String(text)) => text.split(',').map(clean).filter(|domain| !domain.is_empty()).collect(),
        Some(_) => Vec::new(),
        None => match url {
            Some(url) => url.host_str().map(clean).into_iter().collect(),
            // The address is reported already.
            None => return Vec::new(),
        },
    };
    if domains.is_empty() {
        invalid.add("domain", "can't be blank");
    }
    domains
}

fn props(fields: &Map<String, Value>, invalid: &mut Invalid) -> Vec<(String, String)> {
    let parsed;
    let object = match first(fields, &["m", "meta", "p", "props"]) {
        Some(Value::Object(object)) => object,
        Some(Value::String(text)) => match serde_json::from_str(text) {
            Ok(Value::Object(object)) => {
                parsed = object;
                &parsed
            }
            _ => return Vec::new(),
        },
        _ => return Vec::new(),
    };
    let pairs: Vec<_> = object
        .iter()
        .filter_map(|(key, value)| {
            let value = match value {
                Value::String(text) => text.clone(),
                Value::Number(number) => number.to_string(),
                Value::Bool(flag) => flag.to_string(),
                Value::Null | Value::Array(_) | Value::Object(_) => return None,
            };
            (!value.trim().is_empty() && !key.trim().is_empty()).then(|| (key.clone(), value))
        })
        .collect();
    if pairs.len() > MAX_PROPS {
        invalid.add("props", format!("should have at most {MAX_PROPS} item(s)"));
    }
    if pairs.iter().any(|(key, value)| key.len() > MAX_PROP_KEY_BYTES || value.len() > MAX_PROP_VALUE_BYTES) {
        invalid.add(
            "props",
            format!("keys should have at most {MAX_PROP_KEY_BYTES} bytes and values {MAX_PROP_VALUE_BYTES} bytes"),
        );
    }
    pairs
}

/// Scroll depth and attention; only an engagement has them, and it must have one of them.
fn engagement(fields: &Map<String, Value>, name: &str, invalid: &mut Invalid) -> (Option<u8>, u32) {
    if name != ENGAGEMENT {
        return (None, 0);
    }
    #[expect(clippy::cast_possible_truncation, reason = "a fraction of a percent or millisecond is nothing")]
    let number = |field: &str| match fields.get(field)? {
        Value::Number(number) => number.as_u64().or_else(|| number.as_f64().filter(|n| *n >= 0.0).map(|n| n as u64)),
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    let depth = number("sd").map(|depth| u8::try_from(depth.min(100)).unwrap_or(100));
    let attention = number("e").filter(|ms| *ms < MAX_ENGAGEMENT_MS);
    if depth.is_none() && attention.is_none() {
        invalid.add(
            "event_name",
            "engagement event requires a valid integer value for at least one of 'sd' or 'e' fields",
        );
    }
    (depth, attention.and_then(|ms| u32::try_from(ms).ok()).unwrap_or(0))
}

fn revenue(fields: &Map<String, Value>) -> Option<Revenue> {
    let parsed: Value;
    let value = match first(fields, &["$", "revenue"])? {
        Value::String(text) => {
            parsed = serde_json::from_str(text).ok()?;
            &parsed
        }
        value => value,
    };
    let amount = match value.get("amount")? {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.trim().parse().ok()?,
        _ => return None,
    };
    let currency = value.get("currency")?.as_str()?.trim().to_ascii_uppercase();
    let is_code = currency.len() == 3 && currency.bytes().all(|byte| byte.is_ascii_uppercase());
    (amount.is_finite() && amount.abs() < 1e15 && is_code).then(|| Revenue { amount: format!("{amount:.3}"), currency })
}

fn page(url: &Url, with_fragment: bool) -> Page {
    let hostname = url.host_str().map_or_else(|| "(none)".to_owned(), |host| without_www(host).to_owned());
    let path = percent_encoding::percent_decode_str(url.path()).decode_utf8_lossy();
    let mut pathname = path.trim_end().to_owned();
    if pathname.is_empty() {
        pathname.push('/');
    }
    if with_fragment && let Some(fragment) = url.fragment() {
        let fragment = percent_encoding::percent_decode_str(fragment).decode_utf8_lossy();
        pathname = format!("{pathname}#{}", fragment.trim_end());
    }
    Page { hostname, pathname }
}

fn origin(fields: &Map<String, Value>, url: &Url) -> Origin {
    let text = first(fields, &["r", "referrer"]).and_then(Value::as_str).unwrap_or_default();
    let text: String = text.chars().take(MAX_REFERRER_CHARS).collect();
    let referrer = Url::parse(&text).ok().filter(Url::has_host);
    let internal = referrer.as_ref().and_then(Url::host_str).map(without_www) == url.host_str().map(without_www);
    let query = |wanted: &str| {
        url.query_pairs().find(|(name, _)| name == wanted).map_or_else(String::new, |(_, value)| value.into_owned())
    };
    Origin {
        source: source(url, referrer.as_ref()),
        // Without its query: search terms and tokens are nobody's business.
        referrer: referrer.filter(|_| !internal).map_or_else(String::new, |referrer| {
            let host = referrer.host_str().map(without_www).unwrap_or_default();
            format!("{host}{}", referrer.path().trim_end_matches('/'))
        }),
        utm_medium: query("utm_medium"),
        utm_source: query("utm_source"),
        utm_campaign: query("utm_campaign"),
        utm_content: query("utm_content"),
        utm_term: query("utm_term"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn parse_json(body: Value) -> Result<TrackedEvent, Invalid> {
        parse(Some("application/json"), body.to_string().as_bytes())
    }

    fn pageview(extra: Value) -> TrackedEvent {
        let mut body = json!({"n": "pageview", "u": "https://www.example.com/a%20b/?x=1#top", "d": "example.com"});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        parse_json(body).unwrap()
    }

    #[test]
    fn short_and_long_keys_mean_the_same() {
        let short = pageview(json!({"r": "https://t.co/x", "p": {"a": "1"}, "i": false, "h": 1}));
        let long = parse_json(json!({
            "name": "pageview", "url": "https://www.example.com/a%20b/?x=1#top", "domain": "example.com",
            "referrer": "https://t.co/x", "props": {"a": "1"}, "interactive": false, "hashMode": true
        }))
        .unwrap();
        assert_eq!(short, long);
        assert_eq!(short.page, Page { hostname: "example.com".into(), pathname: "/a b/#top".into() });
        assert_eq!(short.origin.source, "Twitter");
        assert!(short.interactive, "a page view always ends a bounce");
    }

    #[test]
    fn text_and_forms_are_read_too() {
        let body = br#"{"n":"pageview","u":"https://example.com/","d":"example.com"}"#;
        assert!(parse(Some("text/plain"), body).is_ok());
        assert!(parse(None, body).is_ok());
        let form = b"name=Signup&url=https%3A%2F%2Fexample.com%2F&domain=example.com&props=%7B%22a%22%3A1%7D";
        let event = parse(Some("application/x-www-form-urlencoded"), form).unwrap();
        assert_eq!((event.name.as_str(), event.props), ("Signup", vec![("a".into(), "1".into())]));
    }

    #[test]
    fn what_is_wrong_is_said_in_plausibles_words() {
        for (body, field, text) in [
            (json!([]), "request", "Unable to parse request body as json"),
            (json!({"n": "pageview", "d": "a.example"}), "url", "is required"),
            (json!({"n": "pageview", "u": "nowhere", "d": "a.example"}), "url", "must be a valid url"),
            (json!({"n": "pageview", "u": 5, "d": "a.example"}), "url", "must be a string"),
            (json!({"n": "pageview", "u": "data:text/html,x", "d": "a.example"}), "url", "scheme is not allowed"),
            (json!({"u": "https://a.example/", "d": "a.example"}), "event_name", "can't be blank"),
            (json!({"n": {}, "u": "https://a.example/"}), "event_name", "is invalid"),
            (json!({"n": "pageview", "u": "https://a.example/", "d": ""}), "domain", "can't be blank"),
            (json!({"n": "pageview", "u": "https://a.example/", "d": " , "}), "domain", "can't be blank"),
        ] {
            let invalid = parse_json(body.clone()).expect_err(&body.to_string());
            assert_eq!(invalid.fields()[field], [text], "{body}");
        }
        let many: Map<_, _> = (0..31).map(|n| (n.to_string(), json!("x"))).collect();
        for (field, extra) in [
            ("props", json!({"p": many})),
            ("props", json!({"p": {"a": "x".repeat(2_001)}})),
            ("props", json!({"p": {"x".repeat(301): "a"}})),
            ("url", json!({"u": format!("https://a.example/{}", "x".repeat(2_000))})),
            ("event_name", json!({"n": "x".repeat(121)})),
            ("event_name", json!({"n": "engagement"})),
        ] {
            let mut body = json!({"n": "x", "u": "https://a.example/", "d": "a.example"});
            body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            assert!(parse_json(body).unwrap_err().fields().contains_key(field), "{extra}");
        }
    }

    #[test]
    fn properties_are_texts_and_the_rest_is_left_out() {
        let event = pageview(json!({"p": {"a": 1, "b": true, "c": [1], "d": {"x": 1}, "e": "", "f": null, "g": "x"}}));
        let expected = [("a", "1"), ("b", "true"), ("g", "x")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(event.props, expected);
        assert_eq!(pageview(json!({"m": {"a": "1"}, "props": {"b": "2"}})).props, [("a".to_owned(), "1".to_owned())]);
    }

    #[test]
    fn engagement_reports_depth_and_time_within_reason() {
        for (extra, expected) in [
            (json!({"sd": 50}), (Some(50), 0)),
            (json!({"sd": 130, "e": 1_500}), (Some(100), 1_500)),
            (json!({"sd": -1, "e": 10}), (None, 10)),
            (json!({"sd": 5, "e": MAX_ENGAGEMENT_MS}), (Some(5), 0)),
        ] {
            let mut fields = extra.clone();
            fields.as_object_mut().unwrap().insert("n".into(), "engagement".into());
            let event = pageview(fields);
            assert_eq!((event.scroll_depth, event.engagement_ms), expected, "{extra}");
        }
        assert_eq!(pageview(json!({"sd": 50})).scroll_depth, None, "a page view has no depth");
    }

    #[test]
    fn several_sites_can_be_meant_and_a_missing_one_is_guessed() {
        assert_eq!(pageview(json!({"d": "a.example, WWW.b.example"})).domains, ["a.example", "b.example"]);
        let event = parse_json(json!({"n": "pageview", "u": "https://www.example.com/"})).unwrap();
        assert_eq!(event.domains, ["example.com"]);
    }

    #[test]
    fn a_missing_page_names_its_path() {
        assert_eq!(pageview(json!({"n": "404"})).props, [("path".to_owned(), "/a b/".to_owned())]);
        assert_eq!(pageview(json!({"n": 404})).name, "404");
    }

    #[test]
    fn revenue_is_an_amount_and_a_currency() {
        let of =
            |value| pageview(json!({"n": "Buy", "$": value})).revenue.map(|revenue| (revenue.amount, revenue.currency));
        let expected = Some(("12.500".to_owned(), "EUR".to_owned()));
        assert_eq!(of(json!({"amount": 12.5, "currency": "eur"})), expected);
        assert_eq!(of(json!("{\"amount\": \"12.5\", \"currency\": \"EUR\"}")), expected);
        for nonsense in [json!({"amount": "x", "currency": "EUR"}), json!({"amount": 1}), json!(5), json!("x")] {
            assert_eq!(of(nonsense.clone()), None, "{nonsense}");
        }
    }

    proptest! {
        #[test]
        fn no_body_is_too_much(body in prop::collection::vec(any::<u8>(), 0..300), form in any::<bool>()) {
            let _ = parse(form.then_some("application/x-www-form-urlencoded"), &body);
        }
    }
}
