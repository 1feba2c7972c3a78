//! How often who may ask for what. Everybody has a budget that fills up again; who has spent his is told when to come back.
//!
//! Budgets are this process's own: with several nodes somebody has as many as there are nodes he is led to.

use std::hash::Hash;
use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::Clock as _;
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};
use ipnet::IpNet;
use url::Host;

use super::error::{ApiError, Result};
use crate::clock::Clock;
use crate::domain::access::{Who, network_of};
use crate::domain::endpoint_url::EndpointUrl;
use crate::domain::ids::AccountId;

/// Above so many, those that have their whole budget back are forgotten.
const REMEMBERED: usize = 10_000;
/// How many seconds of its rate a credential may ask for at once.
const BURST_SECS: u32 = 10;

/// A clock the budgets go by.
#[derive(Clone)]
struct Time(Clock);

impl governor::clock::Clock for Time {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.0.monotonic()
    }
}

type Limiter<K> = RateLimiter<K, DashMapStateStore<K>, Time, NoOpMiddleware<Duration>>;

/// A budget for each of many.
struct Budgets<K: Hash + Eq + Clone> {
    limiter: Limiter<K>,
    time: Time,
}

impl<K: Hash + Eq + Clone> Budgets<K> {
    /// `burst` at once, and one more each `every`.
    fn new(clock: &Clock, burst: u32, every: Duration) -> Self {
        let time = Time(clock.clone());
        let quota = Quota::with_period(every.max(Duration::from_nanos(1))).expect("a period that is not nothing");
        let quota = quota.allow_burst(NonZeroU32::new(burst.max(1)).expect("at least one"));
        Self { limiter: RateLimiter::new(quota, DashMapStateStore::default(), time.clone()), time }
    }

    fn spend(&self, whose: &K) -> Result<()> {
        if self.limiter.len() > REMEMBERED {
            self.limiter.retain_recent();
        }
        self.limiter.check_key(whose).map_err(|refused| {
            let wait = refused.wait_time_from(self.time.now());
            ApiError::too_many(wait.as_secs() + u64::from(wait.subsec_nanos() > 0))
        })
    }
}

pub struct Throttle {
    /// Requests with a credential; `None` when the operator set no limit.
    callers: Option<Budgets<(AccountId, Who)>>,
    /// Requests with none, or with one nobody knows.
    strangers: Budgets<IpNet>,
    /// Tries of a password: of one person from one network, of one person, and from one network.
    tries: Budgets<(String, IpNet)>,
    tries_of: Budgets<String>,
    tries_from: Budgets<IpNet>,
    /// Accounts that are founded.
    sign_ups: Budgets<IpNet>,
    tests: Budgets<AccountId>,
    /// Looks at one host, whoever looks.
    checks: Budgets<String>,
}

impl Throttle {
    /// `rate` is how many requests a second a credential may make; 0 for as many as it likes.
    pub fn new(clock: &Clock, rate: u32) -> Self {
        let every = |secs: u64| Duration::from_secs(secs);
        Self {
            callers: (rate > 0)
                .then(|| Budgets::new(clock, rate.saturating_mul(BURST_SECS), Duration::from_secs(1) / rate)),
            strangers: Budgets::new(clock, 300, Duration::from_millis(100)),
            tries: Budgets::new(clock, 10, every(6)),
            tries_of: Budgets::new(clock, 100, every(36)),
            tries_from: Budgets::new(clock, 60, every(1)),
            sign_ups: Budgets::new(clock, 5, every(600)),
            tests: Budgets::new(clock, 300, Duration::from_millis(200)),
            checks: Budgets::new(clock, 60, every(1)),
        }
    }

    /// # Errors
    /// 429 when a credential asks too often.
    pub fn caller(&self, account_id: AccountId, who: Who) -> Result<()> {
        self.callers.as_ref().map_or(Ok(()), |budgets| budgets.spend(&(account_id, who)))
    }

    /// # Errors
    /// 429 when so many requests from there had no credential that is known.
    pub fn stranger(&self, network: IpNet) -> Result<()> {
        self.strangers.spend(&network)
    }

    /// Before a password is compared. Somebody who knows an address can keep its owner out from his own network only, or
    /// with a hundred networks for as long as he goes on.
    ///
    /// # Errors
    /// 429 when it was tried too often.
    pub fn password(&self, email: &str, network: IpNet) -> Result<()> {
        self.tries_from.spend(&network)?;
        self.tries.spend(&(email.to_owned(), network))?;
        self.tries_of.spend(&email.to_owned())
    }

    /// # Errors
    /// 429 when too many accounts come from there.
    pub fn sign_up(&self, network: IpNet) -> Result<()> {
        self.sign_ups.spend(&network)
    }

    /// Before an address is looked at. All accounts together are not to be what somebody is overrun with, nor a list of
    /// names that all belong to him: what counts is the domain somebody registered.
    ///
    /// # Errors
    /// 429 when there is looked too often.
    pub fn check(&self, url: &EndpointUrl) -> Result<()> {
        let host = match url.host() {
            Some(Host::Domain(name)) => psl::domain_str(name).unwrap_or(name).to_owned(),
            Some(Host::Ipv4(address)) => address.to_string(),
            Some(Host::Ipv6(address)) => network_of(address.into()).to_string(),
            None => return Ok(()),
        };
        self.checks.spend(&host)
    }

    /// # Errors
    /// 429 when an account sends too many tests.
    pub fn test(&self, account_id: AccountId) -> Result<()> {
        self.tests.spend(&account_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::domain::time::Timestamp;

    #[test]
    fn a_budget_fills_up_again() {
        let clock = ManualClock::at(Timestamp::from_secs(1_000));
        let budgets = Budgets::new(&clock.clock(), 3, Duration::from_secs(10));
        let spend = |whose: &str| budgets.spend(&whose.to_owned()).is_ok();
        assert_eq!([spend("a"), spend("a"), spend("a"), spend("a"), spend("b")], [true, true, true, false, true]);
        clock.advance(Duration::from_secs(9));
        assert!(!spend("a"));
        clock.advance(Duration::from_secs(1));
        assert_eq!([spend("a"), spend("a")], [true, false]);
    }
}
