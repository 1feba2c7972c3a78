//! Where a visit came from, by the name people know.

use url::Url;

/// Hosts (and what an `utm_source` may say) by the name they are known under. A host stands for its subdomains too.
const KNOWN: &[(&str, &[&str])] = &[
    ("Google", &["google", "adwords", "googleads"]),
    ("Bing", &["bing.com", "bing"]),
    ("DuckDuckGo", &["duckduckgo.com", "duckduckgo", "ddg.gg"]),
    ("Yahoo!", &["yahoo", "search.yahoo.com"]),
    ("Yandex", &["yandex", "ya.ru"]),
    ("Baidu", &["baidu.com", "baidu"]),
    ("Ecosia", &["ecosia.org", "ecosia"]),
    ("Qwant", &["qwant.com", "qwant"]),
    ("Brave", &["search.brave.com", "brave"]),
    ("Startpage", &["startpage.com"]),
    ("Kagi", &["kagi.com"]),
    ("Perplexity", &["perplexity.ai", "perplexity"]),
    ("ChatGPT", &["chatgpt.com", "chat.openai.com"]),
    ("Claude", &["claude.ai"]),
    ("Gemini", &["gemini.google.com"]),
    ("Facebook", &["facebook.com", "fb.com", "facebook", "fb", "fb.me", "fbclid"]),
    ("Instagram", &["instagram.com", "instagram", "ig"]),
    ("Threads", &["threads.net", "threads"]),
    ("Twitter", &["twitter.com", "t.co", "x.com", "twitter"]),
    ("Bluesky", &["bsky.app", "bluesky"]),
    ("LinkedIn", &["linkedin.com", "lnkd.in", "linkedin"]),
    ("Pinterest", &["pinterest", "pin.it"]),
    ("Reddit", &["reddit.com", "redd.it", "reddit"]),
    ("TikTok", &["tiktok.com", "tiktok"]),
    ("Snapchat", &["snapchat.com", "snapchat"]),
    ("Tumblr", &["tumblr.com", "tumblr", "t.umblr.com"]),
    ("Quora", &["quora.com", "quora"]),
    ("Hacker News", &["news.ycombinator.com", "hackernews", "hn", "hckrnews.com", "hackerweb.app"]),
    ("Lobsters", &["lobste.rs"]),
    ("Product Hunt", &["producthunt.com", "producthunt"]),
    ("Indie Hackers", &["indiehackers.com"]),
    ("GitHub", &["github.com", "github"]),
    ("GitLab", &["gitlab.com"]),
    ("Stack Overflow", &["stackoverflow.com", "stackoverflow"]),
    ("Dev.to", &["dev.to"]),
    ("Medium", &["medium.com"]),
    ("Substack", &["substack.com"]),
    ("Youtube", &["youtube.com", "youtu.be", "youtube"]),
    ("Vimeo", &["vimeo.com"]),
    ("Twitch", &["twitch.tv"]),
    ("WhatsApp", &["whatsapp.com", "wa.me", "whatsapp"]),
    ("Telegram", &["telegram.org", "t.me", "org.telegram.messenger", "telegram"]),
    ("Slack", &["slack.com", "com.slack", "slack"]),
    ("Discord", &["discord.com", "discordapp.com", "discord"]),
    ("Gmail", &["mail.google.com", "com.google.android.gm"]),
    ("Outlook.com", &["outlook.live.com", "outlook.com"]),
    ("Wikipedia", &["wikipedia.org", "wikipedia"]),
    ("Feedly", &["feedly.com"]),
    ("Amazon", &["amazon"]),
    ("VK", &["vk.com", "vkontakte.ru"]),
    ("Weibo", &["weibo.com", "weibo.cn"]),
    ("Xing", &["xing.com"]),
    ("Mastodon", &["mastodon.social", "mastodon.online"]),
    ("Canva", &["canva.com"]),
    ("Figma", &["figma.com"]),
    ("Notion", &["notion.so"]),
    ("Google Ads", &["google_ads", "googleadservices.com"]),
];

/// Names that stand for every top-level domain: `google` for google.com, google.co.uk and so on.
const ANY_SUFFIX: [&str; 5] = ["google", "yahoo", "yandex", "pinterest", "amazon"];

/// The source of a page view: what the page's address says (`utm_source`, `source`, `ref`), else who referred, else
/// nothing, which is "Direct / None".
pub fn source(page: &Url, referrer: Option<&Url>) -> String {
    let said = ["utm_source", "source", "ref"]
        .iter()
        .find_map(|wanted| page.query_pairs().find(|(name, value)| name == wanted && !value.is_empty()));
    if let Some((_, said)) = said {
        return name_of(&said).map_or_else(|| said.trim().to_owned(), str::to_owned);
    }
    let Some(host) = referrer.and_then(Url::host_str).map(without_www) else { return String::new() };
    // A link within the site says nothing about where somebody came from.
    if page.host_str().map(without_www) == Some(host) {
        return String::new();
    }
    name_of(host).map_or_else(|| host.to_owned(), str::to_owned)
}

/// Without a leading `www.`.
pub fn without_www(host: &str) -> &str {
    host.strip_prefix("www.").unwrap_or(host)
}

fn name_of(text: &str) -> Option<&'static str> {
    let text = text.trim().to_ascii_lowercase();
    let registrable = psl::domain_str(&text);
    let brand = registrable.and_then(|domain| domain.split('.').next()).filter(|brand| ANY_SUFFIX.contains(brand));
    // The most specific host wins: mail.google.com is Gmail before it is Google.
    let hosts = std::iter::successors(Some(text.as_str()), |host| host.split_once('.').map(|(_, parent)| parent));
    for host in hosts.chain(brand) {
        if let Some((name, _)) = KNOWN.iter().find(|(_, hosts)| hosts.contains(&host)) {
            return Some(name);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_have_the_names_people_know() {
        for (page, referrer, expected) in [
            ("https://a.example/", Some("https://www.google.co.uk/search?q=x"), "Google"),
            ("https://a.example/", Some("https://news.ycombinator.com/item?id=1"), "Hacker News"),
            ("https://a.example/", Some("https://t.co/abc"), "Twitter"),
            ("https://a.example/", Some("https://mail.google.com/"), "Gmail"),
            ("https://a.example/", Some("https://m.facebook.com/"), "Facebook"),
            ("https://a.example/", Some("https://blog.somebody.example/post"), "blog.somebody.example"),
            ("https://a.example/", Some("https://www.a.example/other"), ""),
            ("https://a.example/", None, ""),
            ("https://a.example/?utm_source=newsletter", Some("https://t.co/abc"), "newsletter"),
            ("https://a.example/?ref=producthunt", None, "Product Hunt"),
            ("https://a.example/?utm_source=&source=HN", None, "Hacker News"),
        ] {
            let page = Url::parse(page).unwrap();
            let referrer = referrer.map(|text| Url::parse(text).unwrap());
            assert_eq!(source(&page, referrer.as_ref()), expected, "{page} from {referrer:?}");
        }
    }
}
