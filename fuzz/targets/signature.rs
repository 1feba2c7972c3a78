//! No header but the right one verifies, and no secret breaks the signing of anything.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pulsehook::domain::signature::{SigningSecret, verify_body, verify_standard};

const NOW: i64 = 1_772_013_600;

fuzz_target!(|input: (&str, &str, &str, &str, &[u8])| {
    let (secret, id, timestamp, header, body) = input;
    let Ok(secret) = SigningSecret::parse(secret) else { return };
    let expected = secret.sign_standard(id, NOW, body);
    if verify_standard(&secret, id, timestamp, header, body, NOW).is_ok() {
        let secs: i64 = timestamp.parse().unwrap();
        assert!(secs.abs_diff(NOW) <= 300);
        assert!(header.split(' ').any(|entry| entry == secret.sign_standard(id, secs, body)));
    }
    assert_eq!(verify_body(&secret, header, body).is_ok(), header == secret.sign_body(body));
    // The right one is found among any others; a part of it is not enough.
    let now = NOW.to_string();
    assert!(verify_standard(&secret, id, &now, &format!("{header} {expected}"), body, NOW).is_ok());
    for cut in ["", "v1", "v1,", &expected[..expected.len() - 1]] {
        assert!(verify_standard(&secret, id, &now, cut, body, NOW).is_err(), "{cut:?}");
    }
    let again = SigningSecret::parse(&secret.expose_standard());
    assert!(again.is_err() || again.is_ok_and(|again| again.sign_body(body) == secret.sign_body(body)));
});
