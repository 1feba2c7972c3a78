//! Where time comes from. Nothing else in the crate asks the operating system what time it is.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::sync::watch;

use crate::domain::time::Timestamp;

/// The time of day and the ability to wait. Cheap to clone; tests hold a [`ManualClock`] beside it.
#[derive(Clone)]
pub struct Clock(Source);

#[derive(Clone)]
enum Source {
    System,
    Manual(ManualClock),
}

impl Clock {
    pub fn system() -> Self {
        Self(Source::System)
    }

    #[expect(clippy::disallowed_methods, reason = "the one place that asks the operating system")]
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::System => Timestamp::from_micros(jiff::Timestamp::now().as_microsecond()),
            Source::Manual(clock) => clock.now(),
        }
    }

    /// Time that only moves forward, whatever happens to the time of day. Only differences mean something.
    #[expect(clippy::disallowed_methods, reason = "the one place that asks the operating system")]
    pub fn monotonic(&self) -> Duration {
        static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
        match &self.0 {
            Source::System => START.get_or_init(std::time::Instant::now).elapsed(),
            Source::Manual(clock) => clock.now().since(Timestamp::EPOCH),
        }
    }

    /// Returns once `span` has passed on this clock. With a manual clock that takes somebody to advance it, and counts from
    /// the call, whenever the first look at it is.
    #[expect(clippy::disallowed_methods, reason = "the one place that waits on the operating system's timer")]
    pub fn sleep(&self, span: Duration) -> impl Future<Output = ()> {
        let manual = match &self.0 {
            Source::System => None,
            Source::Manual(clock) => Some((clock, clock.now() + span)),
        };
        async move {
            match manual {
                None => tokio::time::sleep(span).await,
                Some((clock, moment)) => clock.wait_until(moment).await,
            }
        }
    }

    /// What comes of `work`, or `None` when `span` passed first.
    pub fn within<T>(&self, span: Duration, work: impl Future<Output = T>) -> impl Future<Output = Option<T>> {
        Within { work, passed: self.sleep(span) }
    }

    /// Returns once `moment` has come; at once when it is past.
    pub async fn sleep_until(&self, moment: Timestamp) {
        self.sleep(moment.since(self.now())).await;
    }
}

pin_project! {
    /// Written out, because an `async fn` that is given a future has room for it twice: where it came, and where it is
    /// polled. One in the other, they become thousands of bytes that are moved about with every attempt.
    struct Within<W, P> {
        #[pin]
        work: W,
        #[pin]
        passed: P,
    }
}

impl<W: Future, P: Future<Output = ()>> Future for Within<W, P> {
    type Output = Option<W::Output>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let within = self.project();
        match within.work.poll(context) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending => within.passed.poll(context).map(|()| None),
        }
    }
}

/// A clock that stands still until it is told to move.
#[derive(Clone)]
pub struct ManualClock(Arc<Hands>);

struct Hands {
    micros: AtomicI64,
    moved: watch::Sender<i64>,
    sleepers: watch::Sender<Sleepers>,
}

/// Who waits.
#[derive(Default)]
struct Sleepers {
    /// For each moment how many do, and the number of the one that came last.
    by_moment: BTreeMap<i64, (usize, u64)>,
    /// How many have come so far.
    came: u64,
}

impl ManualClock {
    pub fn at(start: Timestamp) -> Self {
        Self(Arc::new(Hands {
            micros: AtomicI64::new(start.micros()),
            moved: watch::channel(start.micros()).0,
            sleepers: watch::channel(Sleepers::default()).0,
        }))
    }

    pub fn clock(&self) -> Clock {
        Clock(Source::Manual(self.clone()))
    }

    pub fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.0.micros.load(Ordering::SeqCst))
    }

    /// Moves time forward and wakes everybody whose moment has come.
    pub fn advance(&self, span: Duration) {
        let target = (self.now() + span).micros();
        self.0.micros.store(target, Ordering::SeqCst);
        self.0.moved.send_replace(target);
    }

    /// Returns once somebody who comes from now on waits for exactly the moment `span` from now: then it is time to advance.
    /// Others may wait for that moment already, or cease to, which says nothing about who is meant.
    pub fn another_waits(&self, span: Duration) -> impl Future<Output = ()> + use<> {
        let moment = (self.now() + span).micros();
        let mut sleepers = self.0.sleepers.subscribe();
        let before = sleepers.borrow().came;
        let hands = Arc::clone(&self.0);
        async move {
            let came = |sleepers: &Sleepers| sleepers.by_moment.get(&moment).is_some_and(|(_, last)| *last > before);
            let _ = sleepers.wait_for(came).await;
            // The sender lives in `hands`, so that waiting only ends when somebody came.
            drop(hands);
        }
    }

    async fn wait_until(&self, moment: Timestamp) {
        let _asleep = Asleep::until(&self.0, moment.micros());
        let mut moved = self.0.moved.subscribe();
        // The sender lives in `self`, so waiting only ends when the moment has come.
        let _ = moved.wait_for(|micros| *micros >= moment.micros()).await;
    }
}

/// Somebody who waits, counted until they do not any more.
struct Asleep<'a> {
    hands: &'a Hands,
    moment: i64,
}

impl<'a> Asleep<'a> {
    fn until(hands: &'a Hands, moment: i64) -> Self {
        hands.sleepers.send_modify(|sleepers| {
            sleepers.came += 1;
            let (count, last) = sleepers.by_moment.entry(moment).or_default();
            *count += 1;
            *last = sleepers.came;
        });
        Self { hands, moment }
    }
}

impl Drop for Asleep<'_> {
    fn drop(&mut self) {
        self.hands.sleepers.send_modify(|Sleepers { by_moment, .. }| match by_moment.get_mut(&self.moment) {
            Some((count, _)) if *count > 1 => *count -= 1,
            _ => drop(by_moment.remove(&self.moment)),
        });
    }
}
