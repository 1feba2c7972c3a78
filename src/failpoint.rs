//! Places where a test can kill the process, to prove that nothing is lost there.
//!
//! In debug builds `PULSEHOOK_FAILPOINT=name` (or `name:3`, the third time) makes the process abort when it passes the
//! named place. Release builds contain nothing of this.

/// Passes the place called `name`, or dies there.
#[cfg(debug_assertions)]
pub fn hit(name: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    static ARMED: OnceLock<Option<(String, AtomicU32)>> = OnceLock::new();
    let armed = ARMED.get_or_init(|| {
        let text = std::env::var("PULSEHOOK_FAILPOINT").ok()?;
        let (name, count) = text.split_once(':').unwrap_or((&text, "1"));
        Some((name.to_owned(), AtomicU32::new(count.parse().ok()?)))
    });
    if let Some((armed_name, left)) = armed
        && armed_name == name
        && left.fetch_sub(1, Ordering::SeqCst) == 1
    {
        std::process::abort();
    }
}

#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn hit(_name: &str) {}
