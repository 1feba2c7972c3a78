//! Who is not a visitor: robots by their user agent, and referrers that exist to be seen in reports.

use std::collections::HashSet;
use std::sync::LazyLock;

use regex::RegexSet;

static CRAWLERS: LazyLock<RegexSet> = LazyLock::new(|| {
    let patterns = include_str!("../../data/crawlers.txt").lines().filter(|line| !line.is_empty());
    // Headless browsers are driven by programs.
    RegexSet::new(patterns.chain(["HeadlessChrome", "PhantomJS"])).expect("the list holds regular expressions")
});

static SPAM: LazyLock<HashSet<&'static str>> =
    LazyLock::new(|| include_str!("../../data/spam-referrers.txt").lines().filter(|line| !line.is_empty()).collect());

/// Whether a user agent says that it is a program. An empty one says nothing: servers that send events have none.
pub fn is_bot(user_agent: &str) -> bool {
    CRAWLERS.is_match(user_agent)
}

/// Whether a host, or a domain it belongs to, is known for referrer spam.
pub fn is_spam_referrer(host: &str) -> bool {
    let host = host.trim_start_matches("www.");
    let mut rest = Some(host);
    while let Some(domain) = rest {
        if SPAM.contains(domain) {
            return true;
        }
        rest = domain.split_once('.').map(|(_, parent)| parent);
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn robots_are_told_from_browsers() {
        for agent in [
            "Googlebot/2.1 (+http://www.google.com/bot.html)",
            "Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)",
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) HeadlessChrome/120.0.0.0 Safari/537.36",
            "curl/8.5.0",
        ] {
            assert!(is_bot(agent), "{agent}");
        }
        for agent in [
            "",
            "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.2 Safari/605.1.15",
            "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:121.0) Gecko/20100101 Firefox/121.0",
        ] {
            assert!(!is_bot(agent), "{agent}");
        }
    }

    #[test]
    fn spam_is_known_by_its_domain() {
        for (host, spam) in [
            ("semalt.com", true),
            ("www.semalt.com", true),
            ("a.b.semalt.com", true),
            ("google.com", false),
            ("com", false),
        ] {
            assert_eq!(is_spam_referrer(host), spam, "{host}");
        }
    }
}
