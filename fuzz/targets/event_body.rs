//! What trackers send is understood within its limits, or refused with words.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pulsehook::analytics::event_body::parse;

fuzz_target!(|body: &[u8]| {
    for content_type in [None, Some("application/x-www-form-urlencoded")] {
        if let Ok(event) = parse(content_type, body) {
            assert!(event.name.chars().count() <= 120, "{event:?}");
            assert!(event.props.len() <= 31, "{event:?}");
            assert!(event.scroll_depth.is_none_or(|depth| depth <= 100), "{event:?}");
            // Search terms and tokens are nobody's business.
            assert!(!event.origin.referrer.contains('?'), "{event:?}");
        }
    }
});
