//! What names a page, an object, a moment or a key in a request is understood or refused; what is understood can be said
//! again and means the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pulsehook::domain::ids::{AccountId, EventId};
use pulsehook::domain::key::KeyText;
use pulsehook::domain::retry::RetrySchedule;
use pulsehook::domain::time::{Timestamp, format_span, parse_span};

fuzz_target!(|text: &str| {
    if let Ok(id) = text.parse::<EventId>() {
        assert_eq!(id.to_string().parse(), Ok(id));
    }
    if let Ok(id) = text.parse::<AccountId>() {
        assert_eq!(id.to_string().parse(), Ok(id));
    }
    if let Ok(moment) = text.parse::<Timestamp>() {
        assert_eq!(moment.to_string().parse::<Timestamp>().ok(), Some(moment), "{moment}");
    }
    if let Ok(span) = parse_span(text) {
        assert_eq!(parse_span(&format_span(span)).ok(), Some(span), "{span:?}");
    }
    if let Ok(schedule) = RetrySchedule::parse(text) {
        assert_eq!(RetrySchedule::parse(&schedule.to_string()), Ok(schedule));
    }
    if let Ok(key) = KeyText::parse(text) {
        assert_eq!(key.expose(), text);
    }
});
