//! The life of an endpoint that fails: its account is warned, and at last it is disabled. The numbers are those of the
//! Standard Webhooks' advice and of Svix: nothing but failures for five days, and those not all at one time.

use std::time::Duration;

use super::time::Timestamp;
use super::webhook::Health;

const HOUR: Duration = Duration::from_secs(3_600);
/// When the account is told that a webhook fails, after it began to.
const WARN_AFTER: [Duration; 3] = [HOUR, Duration::from_secs(24 * 3_600), Duration::from_secs(4 * 86_400)];
/// A webhook without a success for so long is disabled…
pub const DISABLE_AFTER: Duration = Duration::from_secs(5 * 86_400);
/// …if its failures lie so far apart: one bad hour with nothing to send afterwards is not the end.
const SPREAD: Duration = Duration::from_secs(12 * 3_600);
/// What counts as warnings given once the account knows that it is disabled: one more than there are.
pub const TOLD_ALL: u32 = 4;

/// What a failing endpoint comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The account is to be warned; how often it will have been then.
    Warn {
        warnings: u32,
    },
    Disable,
}

/// What is due for an endpoint now.
pub fn next_step(health: &Health, now: Timestamp) -> Option<Step> {
    let since = health.failing_since?;
    let spread = health.failed_at.unwrap_or(since).since(since);
    if now.since(since) >= DISABLE_AFTER && spread >= SPREAD {
        return Some(Step::Disable);
    }
    let due = WARN_AFTER.iter().filter(|after| now.since(since) >= **after).count();
    let due = u32::try_from(due).unwrap_or(u32::MAX);
    // Whoever was away for days is warned once, not three times.
    (due > health.warnings).then_some(Step::Warn { warnings: due })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BEGAN: Timestamp = Timestamp::from_secs(1_000_000);

    fn failing(hours_of_failures: u64, warnings: u32) -> Health {
        let failed_at = Some(BEGAN + HOUR * u32::try_from(hours_of_failures).unwrap());
        Health { failing_since: Some(BEGAN), failed_at, warnings, ..Health::default() }
    }

    fn after(hours: u32) -> Timestamp {
        BEGAN + HOUR * hours
    }

    #[test]
    fn warnings_come_at_an_hour_a_day_and_four_days_and_the_end_at_five() {
        for (hours, warnings, expected) in [
            (0, 0, None),
            (1, 0, Some(Step::Warn { warnings: 1 })),
            (23, 1, None),
            (24, 1, Some(Step::Warn { warnings: 2 })),
            (24, 0, Some(Step::Warn { warnings: 2 })),
            (96, 2, Some(Step::Warn { warnings: 3 })),
            (119, 3, None),
            (120, 3, Some(Step::Disable)),
        ] {
            assert_eq!(next_step(&failing(40, warnings), after(hours)), expected, "{hours} h, {warnings} warnings");
        }
    }

    #[test]
    fn one_bad_hour_is_not_the_end() {
        assert_eq!(next_step(&failing(11, 3), after(500)), None);
        assert_eq!(next_step(&failing(12, 3), after(500)), Some(Step::Disable));
        assert_eq!(next_step(&Health::default(), after(500)), None, "nor is silence");
    }

    proptest! {
        /// However often and however late somebody looks, no warning is given twice.
        #[test]
        fn each_warning_once(mut looks in prop::collection::vec(0u32..200, 1..60)) {
            looks.sort_unstable();
            let mut health = failing(1, 0);
            let mut given = Vec::new();
            for hours in looks {
                if let Some(Step::Warn { warnings }) = next_step(&health, after(hours)) {
                    prop_assert!(warnings > health.warnings && warnings < TOLD_ALL);
                    health.warnings = warnings;
                    given.push(warnings);
                }
            }
            prop_assert!(given.len() <= WARN_AFTER.len());
        }
    }
}
