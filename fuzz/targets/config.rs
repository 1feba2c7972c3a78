//! A file of settings is understood or refused with a sentence that holds no secret.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pulsehook::config::{Config, Sources, read_file};

fuzz_target!(|text: &str| {
    let Ok(file) = read_file(text) else { return };
    let secret = file.get("master_key").cloned().filter(|secret| secret.len() >= 16);
    let told = match Config::from_sources(&Sources { file, ..Sources::default() }) {
        Ok(config) => format!("{config:?}"),
        Err(sentence) => sentence.to_string(),
    };
    if let Some(secret) = secret {
        assert!(!told.contains(&secret), "{told}");
    }
});
