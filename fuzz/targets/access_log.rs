//! A line of an access log is understood or malformed, whatever its bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pulsehook::analytics::access_log::{Judged, Line};

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(line) = Line::parse(&text) {
        let _ = line.address();
        if let Judged::Visit(event) = line.judge("example.com") {
            assert!(line.status < 300 && line.method == "GET", "{line:?}");
            assert!(!event.origin.referrer.contains('?'), "{event:?}");
        }
    }
});
