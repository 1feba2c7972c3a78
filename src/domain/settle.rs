//! What an outcome does to a delivery. The one place where that is decided.

use std::time::Duration;

use super::outcome::{Attempted, Outcome};
use super::retry::{RetrySchedule, jittered};
use super::time::Timestamp;

/// After a failure of our own we try again this soon.
const OUR_FAULT: Duration = Duration::from_secs(5);

/// How a delivery ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Ended {
    Success,
    Failed,
    Cancelled,
}

impl Ended {
    pub const ALL: [Self; 3] = [Self::Failed, Self::Success, Self::Cancelled];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Where a delivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Attempts made in this round, including the one that just ended.
    pub attempt: u32,
    /// After this moment it is not worth delivering any more.
    pub expires_at: Option<Timestamp>,
}

/// What happens next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    Delivered,
    Retry {
        due_at: Timestamp,
        /// Whether the attempt counts against the schedule.
        counted: bool,
    },
    GiveUp {
        reason: GiveUpReason,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GiveUpReason {
    AttemptsExhausted,
    Expired,
    /// 410: the webhook is to be disabled.
    EndpointGone,
}

impl GiveUpReason {
    pub fn code(self) -> &'static str {
        match self {
            Self::AttemptsExhausted => "attempts_exhausted",
            Self::Expired => "expired",
            Self::EndpointGone => "endpoint_gone",
        }
    }
}

/// Success ends a delivery, 410 ends it and the webhook's life, a failure of ours costs nothing, and everything else is
/// tried again on the schedule: never earlier than it says, and never earlier than the endpoint asked for.
/// `jitter` is uniform in `0.0..1.0`.
pub fn settle(
    standing: &Standing,
    attempted: &Attempted,
    schedule: &RetrySchedule,
    jitter: f64,
    now: Timestamp,
) -> Next {
    let outcome = &attempted.outcome;
    if outcome.is_success() {
        return Next::Delivered;
    }
    let (wait, counted) = match outcome {
        Outcome::Expired => return Next::GiveUp { reason: GiveUpReason::Expired },
        Outcome::Responded { status: 410, .. } => return Next::GiveUp { reason: GiveUpReason::EndpointGone },
        _ if outcome.is_ours() => (OUR_FAULT, false),
        _ => match schedule.wait_after(standing.attempt) {
            Some(wait) => (wait, true),
            None => return Next::GiveUp { reason: GiveUpReason::AttemptsExhausted },
        },
    };
    let asked = attempted.response.as_ref().and_then(|response| response.retry_after).unwrap_or_default();
    let due_at = now + jittered(wait, jitter).max(asked);
    match standing.expires_at {
        Some(expires_at) if due_at > expires_at => Next::GiveUp { reason: GiveUpReason::Expired },
        _ => Next::Retry { due_at, counted },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::outcome::{LONGEST_RETRY_AFTER, Response, Stage};
    use super::super::phases::Phases;
    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_000_000);

    fn answered(status: u16, retry_after: Option<Duration>) -> Attempted {
        Attempted {
            outcome: Outcome::Responded { status, location: None },
            started_at: NOW,
            duration: Duration::from_millis(5),
            phases: Phases::default(),
            response: Some(Response { status, headers: Vec::new(), body: Vec::new(), retry_after }),
        }
    }

    fn failed(outcome: Outcome) -> Attempted {
        Attempted { outcome, started_at: NOW, duration: Duration::ZERO, phases: Phases::default(), response: None }
    }

    fn next(attempt: u32, attempted: &Attempted) -> Next {
        settle(&Standing { attempt, expires_at: None }, attempted, &RetrySchedule::default(), 0.0, NOW)
    }

    fn retry(secs: u64) -> Next {
        Next::Retry { due_at: NOW + Duration::from_secs(secs), counted: true }
    }

    #[test]
    fn any_2xx_is_success_and_nothing_else() {
        for status in 200..300 {
            assert_eq!(next(1, &answered(status, None)), Next::Delivered);
        }
        for status in [100, 199, 300, 301, 304, 400, 404, 500, 599] {
            assert_eq!(next(1, &answered(status, None)), retry(5), "{status}");
        }
    }

    #[test]
    fn gone_is_gone() {
        assert_eq!(next(1, &answered(410, None)), Next::GiveUp { reason: GiveUpReason::EndpointGone });
    }

    #[test]
    fn retry_after_can_only_make_it_later() {
        assert_eq!(next(1, &answered(429, Some(Duration::from_secs(90)))), retry(90));
        assert_eq!(next(4, &answered(503, Some(Duration::from_secs(90)))), retry(900));
        assert_eq!(next(1, &answered(500, Some(Duration::ZERO))), retry(5));
    }

    #[test]
    fn the_tenth_attempt_is_the_last() {
        let timeout = failed(Outcome::Timeout(Stage::Response));
        assert_eq!(next(9, &timeout), retry(86_400));
        assert_eq!(next(10, &timeout), Next::GiveUp { reason: GiveUpReason::AttemptsExhausted });
    }

    #[test]
    fn our_own_failures_cost_nothing() {
        for outcome in [Outcome::DnsFailed, Outcome::DnsTimeout, Outcome::Internal { what: "x" }] {
            assert_eq!(
                next(10, &failed(outcome)),
                Next::Retry { due_at: NOW + Duration::from_secs(5), counted: false }
            );
        }
    }

    #[test]
    fn what_would_come_too_late_is_given_up_now() {
        let standing = Standing { attempt: 9, expires_at: Some(NOW + Duration::from_secs(3_600)) };
        let attempted = failed(Outcome::ConnectRefused);
        let next = settle(&standing, &attempted, &RetrySchedule::default(), 0.0, NOW);
        assert_eq!(next, Next::GiveUp { reason: GiveUpReason::Expired });
    }

    proptest! {
        /// Never earlier than the schedule and the endpoint want, never later than a day and a tenth unless the
        /// schedule says so, and never more attempts than the schedule has.
        #[test]
        fn retries_are_bounded(
            attempt in 1u32..30,
            status in prop::sample::select(vec![301u16, 400, 404, 429, 500, 503]),
            asked in prop::option::of(0u64..100_000),
            jitter in 0.0f64..1.0,
        ) {
            let asked = asked.map(|secs| Duration::from_secs(secs).min(LONGEST_RETRY_AFTER));
            let schedule = RetrySchedule::default();
            let standing = Standing { attempt, expires_at: None };
            match settle(&standing, &answered(status, asked), &schedule, jitter, NOW) {
                Next::Retry { due_at, counted } => {
                    let wait = schedule.wait_after(attempt).unwrap();
                    prop_assert!(counted);
                    prop_assert!(due_at >= NOW + wait.max(asked.unwrap_or_default()));
                    prop_assert!(due_at <= NOW + wait.mul_f64(1.1).max(LONGEST_RETRY_AFTER).mul_f64(1.11));
                }
                Next::GiveUp { reason } => {
                    prop_assert_eq!(reason, GiveUpReason::AttemptsExhausted);
                    prop_assert!(attempt as usize >= schedule.attempts());
                }
                Next::Delivered => prop_assert!(false),
            }
        }
    }
}
