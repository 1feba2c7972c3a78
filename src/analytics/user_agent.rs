//! What kind of browser a user agent names, as far as we care to know: screen size, browser, system.

use crate::domain::hit::Device;

/// Marks of browsers, the telling ones first: nearly all of them also claim to be Chrome or Safari.
const BROWSERS: &[(&str, &str)] = &[
    ("Edg/", "Microsoft Edge"),
    ("EdgA/", "Microsoft Edge"),
    ("EdgiOS/", "Microsoft Edge"),
    ("Edge/", "Microsoft Edge"),
    ("OPR/", "Opera"),
    ("Opera", "Opera"),
    ("SamsungBrowser/", "Samsung Browser"),
    ("YaBrowser/", "Yandex Browser"),
    ("Vivaldi/", "Vivaldi"),
    ("DuckDuckGo/", "DuckDuckGo Privacy Browser"),
    ("Firefox/", "Firefox"),
    ("FxiOS/", "Firefox"),
    ("CriOS/", "Chrome"),
    ("Chromium/", "Chromium"),
    ("Chrome/", "Chrome"),
    ("MSIE ", "Internet Explorer"),
    ("Trident/", "Internet Explorer"),
    ("Safari/", "Safari"),
];

const SYSTEMS: &[(&str, &str)] = &[
    ("iPhone", "iOS"),
    ("iPad", "iOS"),
    ("iPod", "iOS"),
    ("Android", "Android"),
    ("CrOS", "Chrome OS"),
    ("Windows", "Windows"),
    ("Macintosh", "Mac"),
    ("Mac OS X", "Mac"),
    ("Linux", "GNU/Linux"),
    ("FreeBSD", "FreeBSD"),
];

pub fn device(user_agent: &str) -> Device {
    let find = |marks: &[(&str, &str)]| {
        marks
            .iter()
            .find(|(mark, _)| user_agent.contains(mark))
            .map_or_else(String::new, |(_, name)| (*name).to_owned())
    };
    Device { screen_size: screen_size(user_agent).to_owned(), browser: find(BROWSERS), operating_system: find(SYSTEMS) }
}

fn screen_size(user_agent: &str) -> &'static str {
    let has = |mark| user_agent.contains(mark);
    if user_agent.is_empty() {
        ""
    } else if has("iPad") || has("Tablet") || (has("Android") && !has("Mobile")) {
        "Tablet"
    } else if has("Mobi") || has("iPhone") || has("iPod") {
        "Mobile"
    } else {
        "Desktop"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_common_browsers_are_recognised() {
        for (agent, expected) in [
            (
                "Mozilla/5.0 (iPhone; CPU iPhone OS 17_2 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.2 Mobile/15E148 Safari/604.1",
                ("Mobile", "Safari", "iOS"),
            ),
            (
                "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36 Edg/120.0.0.0",
                ("Desktop", "Microsoft Edge", "Windows"),
            ),
            (
                "Mozilla/5.0 (Linux; Android 13; SM-X906C) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36",
                ("Tablet", "Chrome", "Android"),
            ),
            (
                "Mozilla/5.0 (X11; Linux x86_64; rv:121.0) Gecko/20100101 Firefox/121.0",
                ("Desktop", "Firefox", "GNU/Linux"),
            ),
            ("", ("", "", "")),
        ] {
            let device = device(agent);
            assert_eq!((&*device.screen_size, &*device.browser, &*device.operating_system), expected, "{agent}");
        }
    }
}
