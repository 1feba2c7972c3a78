//! A range of deliveries that is to be sent once more.

use std::time::Duration;

use super::settle::Ended;
use super::time::Timestamp;

/// Which deliveries of a webhook.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Range {
    pub ended: Ended,
    /// A trigger's type, or `test`.
    pub event_type: Option<String>,
    /// Of events recorded at this moment or later.
    pub from_at: Option<Timestamp>,
    /// Of events recorded at this moment or earlier.
    pub to_at: Option<Timestamp>,
}

/// How far a range has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Status {
    Running,
    Paused,
    Cancelled,
    /// Everything was put into the queue.
    Done,
}

impl Status {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Cancelled => "cancelled",
            Self::Done => "done",
        }
    }
}

/// How many resends of a webhook wait in the queue at most, when it may be sent `per_second` of them and is looked after
/// every `every`: enough that it never waits for more, and few enough that a pause is one.
pub fn kept_waiting(per_second: f64, every: Duration) -> u32 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small and positive")]
    let most = (per_second * every.as_secs_f64() * 2.0).ceil().clamp(1.0, 10_000.0) as u32;
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_what_two_looks_take() {
        let second = Duration::from_secs(1);
        assert_eq!(kept_waiting(5.0, second), 10);
        assert_eq!(kept_waiting(0.1, second), 1);
        assert_eq!(kept_waiting(1e9, second), 10_000);
    }
}
