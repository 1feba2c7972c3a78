//! No `Retry-After` makes us wait longer than a day, or panics.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use pulsehook::domain::outcome::parse_retry_after;
use pulsehook::domain::time::Timestamp;

fuzz_target!(|input: (i64, &str)| {
    let (now, text) = input;
    if let Some(wait) = parse_retry_after(text, Timestamp::from_micros(now)) {
        assert!(wait <= Duration::from_secs(86_400));
    }
});
