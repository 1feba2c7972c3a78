//! Looks at an address before somebody makes a webhook of it, by the way a delivery would go: the same connector, the same
//! sender. Nothing is remembered from one look to the next, and what nobody waits for any more is given up.

use std::sync::Arc;

use http::Uri;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service as _;

use super::egress::EgressConnector;
use super::sender::{Address, Outgoing, Sender};
use crate::clock::Clock;
use crate::domain::address::AddressPolicy;
use crate::domain::endpoint_url::UrlProblem;
use crate::domain::outcome::Outcome;
use crate::domain::url_check::{Ping, Step, Verdict, Wanted, judge};
use crate::wake::ToChecker;

/// Checks under way at once in this process; whoever comes later waits.
const AT_ONCE: usize = 64;

/// Cheap to clone.
#[derive(Clone)]
pub struct Checker {
    connector: EgressConnector,
    sender: Arc<Sender>,
    policy: AddressPolicy,
    clock: Clock,
}

impl Checker {
    pub fn new(connector: EgressConnector, policy: AddressPolicy, clock: Clock) -> Self {
        let connector = connector.without_memory();
        // None of its connections is kept.
        let sender = Arc::new(Sender::new(connector.clone(), clock.clone(), 0));
        Self { connector, sender, policy, clock }
    }

    pub async fn run(self, mut calls: mpsc::Receiver<ToChecker>, stop: CancellationToken) -> anyhow::Result<()> {
        let room = Arc::new(Semaphore::new(AT_ONCE));
        let tasks = TaskTracker::new();
        loop {
            let (place, call) = tokio::select! {
                () = stop.cancelled() => break,
                Some(next) = next(&room, &mut calls) => next,
            };
            let (checker, stop) = (self.clone(), stop.clone());
            tasks.spawn(async move {
                let ToChecker::Check(wanted, mut answer) = call;
                let verdict = tokio::select! {
                    verdict = checker.check(&wanted) => verdict,
                    () = answer.closed() => return,
                    () = stop.cancelled() => return,
                };
                drop(place);
                // Whoever asked may have gone this very moment.
                let _ = answer.send(verdict);
            });
        }
        tasks.close();
        tasks.wait().await;
        Ok(())
    }

    /// Bounded by the budgets of its parts: 13 seconds to a connection, and 15 for a ping.
    async fn check(&self, wanted: &Wanted) -> Verdict {
        let url = match judge(&wanted.url, &self.policy) {
            Ok(url) => url,
            Err(verdict) => return verdict,
        };
        let Ok(uri) = url.as_str().parse::<Uri>() else {
            return Verdict::Refused { at: Step::Syntax, problem: UrlProblem::Unreadable };
        };
        if let Err(failure) = self.connector.clone().call(uri).await {
            return Verdict::Unreachable { url, at: failure.at, outcome: failure.outcome };
        }
        let ping = match &wanted.ping {
            Some(ping) => Some(self.ping(Address::new(Ok(url.clone()), &[]), ping).await),
            None => None,
        };
        Verdict::Reached { url, ping }
    }

    async fn ping(&self, address: Address, ping: &Ping) -> Outcome {
        let body = ping.event.payload.clone().into();
        let outgoing = Outgoing {
            address: &address,
            secret: Some(&ping.secret),
            previous_secret: None,
            event_id: ping.event.id,
            event_type: &ping.event.event_type,
            content_type: ping.event.format.content_type(),
            body: &body,
        };
        self.sender.attempt(&outgoing, self.clock.now()).await.outcome
    }
}

/// The next call, once there is room for it. `None` when nobody can call any more.
async fn next(
    room: &Arc<Semaphore>,
    calls: &mut mpsc::Receiver<ToChecker>,
) -> Option<(tokio::sync::OwnedSemaphorePermit, ToChecker)> {
    let place = Arc::clone(room).acquire_owned().await.ok()?;
    Some((place, calls.recv().await?))
}
