//! Access logs of nginx and Apache, common and combined: which lines are visits, and why the others are not.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use url::Url;

use super::bots;
use super::sources::{source, without_www};
use crate::domain::hit::{Origin, PAGEVIEW, Page, TrackedEvent};
use crate::domain::time::Timestamp;

/// Endings of what pages are made of.
const ASSETS: &[&str] = &[
    "css",
    "js",
    "mjs",
    "map",
    "png",
    "jpg",
    "jpeg",
    "gif",
    "svg",
    "webp",
    "avif",
    "ico",
    "bmp",
    "tif",
    "tiff",
    "woff",
    "woff2",
    "ttf",
    "otf",
    "eot",
    "mp3",
    "mp4",
    "webm",
    "ogg",
    "wav",
    "avi",
    "mov",
    "m4a",
    "m4v",
    "swf",
    "json",
    "xml",
    "txt",
    "webmanifest",
    "wasm",
    "zip",
    "gz",
    "tgz",
    "bz2",
    "xz",
    "tar",
    "rpm",
    "deb",
    "jar",
    "exe",
    "dmg",
    "iso",
    "bin",
];
/// Parts of paths that feed readers ask for.
const FEEDS: &[&str] = &["/feed", "/rss", "/atom", ".rss", ".atom", ".rdf", "flav=rss20", "flav=atom"];

/// One request, as the log tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line<'a> {
    /// The client: an address, or a name where the server resolved it.
    pub client: &'a str,
    pub at: Timestamp,
    pub method: &'a str,
    /// Path and query as requested.
    pub target: Cow<'a, str>,
    pub status: u16,
    /// Empty when not logged.
    pub referrer: Cow<'a, str>,
    pub user_agent: Cow<'a, str>,
}

/// The line is none of an access log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a line of a common or combined access log")]
pub struct Malformed;

/// What a line is to us.
#[derive(Debug, Clone, PartialEq)]
pub enum Judged {
    Visit(Box<TrackedEvent>),
    Left(Reason),
}

/// Why a line is no visit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    Asset,
    Robot,
    Feed,
    Error,
    Redirect,
    NotGet,
    SpamReferrer,
    Malformed,
}

impl Reason {
    /// In words that stand after a number of lines.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Asset => "assets: images, styles, scripts, downloads",
            Self::Robot => "robots, by their user agent",
            Self::Feed => "feeds",
            Self::Error => "errors: status 400 and above",
            Self::Redirect => "redirects and not-modified answers",
            Self::NotGet => "not GET",
            Self::SpamReferrer => "referrer spam",
            Self::Malformed => "not understood",
        }
    }

    pub fn code(self) -> &'static str {
        match self {
            Self::Asset => "asset",
            Self::Robot => "robot",
            Self::Feed => "feed",
            Self::Error => "error",
            Self::Redirect => "redirect",
            Self::NotGet => "not_get",
            Self::SpamReferrer => "spam_referrer",
            Self::Malformed => "malformed",
        }
    }
}

impl<'a> Line<'a> {
    /// Reads `client - user [time] "request" status bytes ["referrer" "user agent"]`.
    ///
    /// # Errors
    /// The line has another shape. It never panics, whatever the bytes.
    pub fn parse(line: &'a str) -> Result<Self, Malformed> {
        let (client, rest) = line.trim_end().split_once(' ').ok_or(Malformed)?;
        let (_, rest) = rest.split_once('[').ok_or(Malformed)?;
        let (time, rest) = rest.split_once("] ").ok_or(Malformed)?;
        let (request, rest) = quoted(rest)?;
        let (status, rest) = rest.trim_start().split_once(' ').unwrap_or((rest.trim_start(), ""));
        let rest = rest.split_once(' ').map_or("", |(_bytes, rest)| rest);
        let (referrer, rest) = quoted(rest).unwrap_or((Cow::Borrowed(""), ""));
        let (user_agent, _) = quoted(rest.trim_start()).unwrap_or((Cow::Borrowed(""), ""));
        let (method, target) = split_request(request)?;
        Ok(Self {
            client,
            at: parse_time(time).ok_or(Malformed)?,
            method,
            target,
            status: status.parse().map_err(|_| Malformed)?,
            referrer: dash_is_nothing(referrer),
            user_agent: dash_is_nothing(user_agent),
        })
    }

    /// The address to tell visitors apart by. A name stands for itself by a hash: nothing is resolved.
    pub fn address(&self) -> IpAddr {
        self.client.trim_matches(['[', ']']).parse().unwrap_or_else(|_| {
            use std::hash::Hasher as _;
            let mut hasher = siphasher::sip::SipHasher24::new();
            hasher.write(self.client.as_bytes());
            let bits = u128::from(hasher.finish());
            // Within the documentation range, so that it is nobody's.
            IpAddr::V6(std::net::Ipv6Addr::from((0x2001_0db8_u128 << 96) | bits))
        })
    }

    /// Whether it is a visit of a page of `domain`.
    pub fn judge(&self, domain: &str) -> Judged {
        let path = self.target.split(['?', '#']).next().unwrap_or_default();
        let ending = path.rsplit('/').next().and_then(|name| name.rsplit_once('.')).map(|(_, ending)| ending);
        let left = if self.method != "GET" {
            Some(Reason::NotGet)
        } else if bots::is_bot(&self.user_agent) {
            Some(Reason::Robot)
        } else if FEEDS.iter().any(|mark| self.target.contains(mark)) {
            Some(Reason::Feed)
        } else if ending.is_some_and(|ending| ASSETS.contains(&ending.to_ascii_lowercase().as_str())) {
            Some(Reason::Asset)
        } else if self.status >= 400 {
            Some(Reason::Error)
        } else if self.status >= 300 || self.status < 200 {
            Some(Reason::Redirect)
        } else {
            None
        };
        if let Some(reason) = left {
            return Judged::Left(reason);
        }
        let Ok(url) = Url::parse(&format!("https://{domain}/")).and_then(|base| base.join(&self.target)) else {
            return Judged::Left(Reason::Malformed);
        };
        let referrer = Url::parse(&self.referrer).ok().filter(Url::has_host);
        if referrer.as_ref().and_then(Url::host_str).is_some_and(bots::is_spam_referrer) {
            return Judged::Left(Reason::SpamReferrer);
        }
        Judged::Visit(Box::new(visit(domain, &url, referrer.as_ref())))
    }
}

fn visit(domain: &str, url: &Url, referrer: Option<&Url>) -> TrackedEvent {
    let host = domain.split('/').next().unwrap_or(domain);
    let path = percent_encoding::percent_decode_str(url.path()).decode_utf8_lossy().trim_end().to_owned();
    let external = referrer.filter(|referrer| referrer.host_str().map(without_www) != Some(host));
    TrackedEvent {
        domains: vec![domain.to_owned()],
        name: PAGEVIEW.to_owned(),
        page: Page {
            hostname: without_www(host).to_owned(),
            pathname: if path.is_empty() { "/".into() } else { path },
        },
        origin: Origin {
            source: source(url, referrer),
            referrer: external.map_or_else(String::new, |referrer| {
                let host = referrer.host_str().map(without_www).unwrap_or_default();
                format!("{host}{}", referrer.path().trim_end_matches('/'))
            }),
            ..Origin::default()
        },
        props: Vec::new(),
        interactive: true,
        scroll_depth: None,
        engagement_ms: 0,
        revenue: None,
    }
}

/// A quoted text, with its escapes taken away, and what follows it.
fn quoted(text: &str) -> Result<(Cow<'_, str>, &str), Malformed> {
    let inner = text.trim_start().strip_prefix('"').ok_or(Malformed)?;
    let mut escaped = false;
    for (index, byte) in inner.bytes().enumerate() {
        match byte {
            b'\\' if !escaped => escaped = true,
            b'"' if !escaped => {
                // A quote is one byte, so this is a boundary.
                return Ok((unescape(&inner[..index]), &inner[index + 1..]));
            }
            _ => escaped = false,
        }
    }
    Err(Malformed)
}

fn unescape(text: &str) -> Cow<'_, str> {
    if !text.contains('\\') {
        return Cow::Borrowed(text);
    }
    // nginx writes \x22 for a quote, Apache \" .
    Cow::Owned(text.replace("\\x22", "\"").replace("\\x5C", "\\").replace("\\\"", "\"").replace("\\\\", "\\"))
}

/// Method and target; the protocol behind them may be missing.
fn split_request(request: Cow<'_, str>) -> Result<(&'static str, Cow<'_, str>), Malformed> {
    let mut words = request.split(' ');
    let method = match words.next() {
        Some("GET") => "GET",
        Some("HEAD") => "HEAD",
        Some("POST") => "POST",
        Some(other) if !other.is_empty() && other.bytes().all(|byte| byte.is_ascii_uppercase()) => "OTHER",
        _ => return Err(Malformed),
    };
    let target = words.next().filter(|target| !target.is_empty()).ok_or(Malformed)?.to_owned();
    Ok((method, Cow::Owned(target)))
}

fn dash_is_nothing(text: Cow<'_, str>) -> Cow<'_, str> {
    if text == "-" { Cow::Borrowed("") } else { text }
}

/// `17/May/2015:10:05:03 +0000`.
fn parse_time(text: &str) -> Option<Timestamp> {
    let zoned = jiff::fmt::strtime::parse("%d/%b/%Y:%H:%M:%S %z", text).ok()?;
    Some(Timestamp::from_micros(zoned.to_timestamp().ok()?.as_microsecond()))
}

/// What was taken and what was left out, and why.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    pub taken: u64,
    pub left: BTreeMap<Reason, u64>,
}

impl Summary {
    pub fn leave(&mut self, reason: Reason) {
        *self.left.entry(reason).or_default() += 1;
    }

    pub fn lines(&self) -> u64 {
        self.taken + self.left.values().sum::<u64>()
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:>9}  lines read", self.lines())?;
        writeln!(f, "{:>9}  page views taken", self.taken)?;
        for (reason, count) in &self.left {
            writeln!(f, "{count:>9}  left out: {}", reason.sentence())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use proptest::prelude::*;

    use super::*;

    const COMBINED: &str = r#"198.18.0.2 - - [17/May/2015:10:05:03 +0200] "GET /a%20b?q=1 HTTP/1.1" 200 203023 "https://www.google.com/search" "Mozilla/5.0 (X11; Linux x86_64; rv:121.0) Gecko/20100101 Firefox/121.0""#;

    #[test]
    fn a_combined_line_is_a_visit() {
        let line = Line::parse(COMBINED).unwrap();
        assert_eq!(line.at.to_string(), "2015-05-17T08:05:03Z");
        assert_eq!((line.method, &*line.target, line.status), ("GET", "/a%20b?q=1", 200));
        let Judged::Visit(event) = line.judge("example.com") else { panic!() };
        assert_eq!(event.page, Page { hostname: "example.com".into(), pathname: "/a b".into() });
        assert_eq!((&*event.origin.source, &*event.origin.referrer), ("Google", "google.com/search"));
    }

    #[test]
    fn other_shapes_of_lines_are_read() {
        for (line, client, agent) in [
            (r#"::1 - - [17/May/2015:10:05:03 +0000] "GET / HTTP/1.1" 200 5"#, "::1", ""),
            (r#"a.example - bob [17/May/2015:10:05:03 +0000] "GET / HTTP/1.0" 200 - "-" "-""#, "a.example", ""),
            (r#"::1 - - [17/May/2015:10:05:03 +0000] "GET / HTTP/1.1" 200 5 "-" "a \"b\" c""#, "::1", "a \"b\" c"),
            (r#"::1 - - [17/May/2015:10:05:03 +0000] "GET / HTTP/1.1" 200 5 "-" "a \x22b\x22""#, "::1", "a \"b\""),
            (r#"::1 - - [17/May/2015:10:05:03 +0000] "GET /" 200 5 "-" "x" "extra""#, "::1", "x"),
        ] {
            let parsed = Line::parse(line).expect(line);
            assert_eq!((parsed.client, &*parsed.user_agent), (client, agent), "{line}");
            parsed.address();
        }
    }

    #[test]
    fn what_is_no_visit_has_a_reason() {
        let line = |request: &str, status: u16, agent: &str| {
            format!(r#"198.18.0.2 - - [17/May/2015:10:05:03 +0000] "{request} HTTP/1.1" {status} 1 "-" "{agent}""#)
        };
        for (text, reason) in [
            (line("GET /style.CSS?v=1", 200, "Firefox/1"), Reason::Asset),
            (line("GET /", 200, "Googlebot/2.1"), Reason::Robot),
            (line("GET /?flav=rss20", 200, "Firefox/1"), Reason::Feed),
            (line("GET /none", 404, "Firefox/1"), Reason::Error),
            (line("GET /moved", 301, "Firefox/1"), Reason::Redirect),
            (line("POST /form", 200, "Firefox/1"), Reason::NotGet),
        ] {
            assert_eq!(Line::parse(&text).unwrap().judge("example.com"), Judged::Left(reason), "{text}");
        }
        for text in [
            "",
            "nonsense",
            "a b c",
            r#"::1 - - [x] "GET / HTTP/1.1" 200 5"#,
            r#"::1 - - [17/May/2015:10:05:03 +0000] "" 400 5"#,
            r#"::1 - - [17/May/2015:10:05:03 +0000] "GET / HTTP/1.1" x 5"#,
        ] {
            assert_eq!(Line::parse(text), Err(Malformed), "{text}");
        }
    }

    /// The counts of assets, methods and statuses were checked with awk over the same file.
    #[test]
    fn the_real_log_is_understood() {
        let mut text = Vec::new();
        let log = include_bytes!("../../data/semicomplete-2015-05.access.log.gz");
        flate2::read::GzDecoder::new(log.as_slice()).read_to_end(&mut text).unwrap();
        let text = String::from_utf8_lossy(&text);
        let mut summary = Summary::default();
        for line in text.lines() {
            match Line::parse(line).map(|line| line.judge("semicomplete.com")) {
                Ok(Judged::Visit(_)) => summary.taken += 1,
                Ok(Judged::Left(reason)) => summary.leave(reason),
                Err(Malformed) => summary.leave(Reason::Malformed),
            }
        }
        assert_eq!(summary.lines(), 10_000);
        assert_eq!(summary.left.get(&Reason::Malformed), None);
        assert_eq!((summary.taken, summary.left[&Reason::NotGet]), (1_888, 48));
    }

    proptest! {
        #[test]
        fn no_line_is_too_strange(text in "\\PC*") {
            if let Ok(line) = Line::parse(&text) {
                line.judge("example.com");
                line.address();
            }
        }

        #[test]
        fn no_part_of_a_line_is_too_strange(cut in 0usize..200, junk in "\\PC{0,5}") {
            let cut = (0..=cut.min(COMBINED.len())).rev().find(|index| COMBINED.is_char_boundary(*index)).unwrap();
            let _ = Line::parse(&format!("{}{junk}{}", &COMBINED[..cut], &COMBINED[cut..]));
        }
    }
}
