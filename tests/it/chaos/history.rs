//! What was promised, what arrived and what was done to the nodes, as it happened. Entries are added and never changed,
//! but that a request or a fault gets an end.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use pulsehook::clock::Clock;
use tokio::sync::watch;

/// On the one clock of the test process, which only moves forward.
pub type Moment = Duration;

/// What a client was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// 202.
    Promised,
    /// Anything else, or nothing: it may have happened or not.
    Unknown,
}

/// A goal completion posted to a node.
#[derive(Debug, Clone)]
pub struct Hit {
    pub node: usize,
    pub site_id: i64,
    pub name: &'static str,
    pub answer: Answer,
}

/// A test delivery asked for.
#[derive(Debug, Clone)]
pub struct Test {
    pub hook: usize,
    /// As answered; `None` when nobody answered.
    pub id: Option<String>,
}

/// One more round asked for a delivery that had ended.
#[derive(Debug, Clone)]
pub struct Resend {
    pub id: String,
    pub sent_at: Moment,
    pub answer: Answer,
}

/// A request as the receiver saw it.
#[derive(Debug, Clone)]
pub struct Request {
    /// Whose address it came to.
    pub hook: usize,
    /// Its `webhook-id`.
    pub id: String,
    pub body: Vec<u8>,
    pub arrived_at: Moment,
    /// When it was answered, or hung up on.
    pub finished_at: Option<Moment>,
    /// `None`: hung up on.
    pub status: Option<u16>,
}

impl Request {
    pub fn succeeded(&self) -> bool {
        self.status == Some(200)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FaultKind {
    /// SIGKILL.
    Kill,
    /// SIGSTOP, and SIGCONT when it ends.
    Pause,
    /// PostgreSQL crashed and started again.
    Restart,
    /// A connection cut after a commit was carried out, before anybody was told.
    CutAfterCommit,
    /// A connection cut with a commit under way to a database that never saw it.
    CutBeforeCommit,
}

impl FaultKind {
    /// Whether an attempt can be forgotten because of it, so that it is made again. A commit that nobody confirmed is
    /// looked up, so trouble with the database alone is no excuse.
    pub fn excuses_a_repeat(self) -> bool {
        matches!(self, Self::Kill | Self::Pause)
    }
}

#[derive(Debug, Clone)]
pub struct Fault {
    pub kind: FaultKind,
    /// `None`: the database.
    pub node: Option<usize>,
    pub from: Moment,
    /// `None`: it still lasts.
    pub until: Option<Moment>,
}

/// Everything so far.
#[derive(Debug, Clone, Default)]
pub struct Log {
    pub hits: Vec<Hit>,
    pub tests: Vec<Test>,
    pub resends: Vec<Resend>,
    pub requests: Vec<Request>,
    pub faults: Vec<Fault>,
    /// What is wrong whatever else happened, such as a node that ended by itself.
    pub complaints: Vec<String>,
    /// Nodes that could not start because the database was away, and were started again.
    pub failed_starts: usize,
}

pub struct History {
    clock: Clock,
    log: Mutex<Log>,
    /// Moves with every request that is answered.
    answered: watch::Sender<usize>,
}

impl History {
    pub fn new() -> Self {
        Self { clock: Clock::system(), log: Mutex::default(), answered: watch::channel(0).0 }
    }

    pub fn now(&self) -> Moment {
        self.clock.monotonic()
    }

    /// How far the clock of the day is ahead of this one, in microseconds.
    pub fn day_began(&self) -> i64 {
        self.clock.now().micros() - i64::try_from(self.now().as_micros()).expect("no run takes that long")
    }

    /// Waits: real processes need real time, and here is the only place that gives it.
    pub async fn pause(&self, span: Duration) {
        self.clock.sleep(span).await;
    }

    pub fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().expect("nobody panics with the log")
    }

    /// Notes that something begins, and answers where it stands.
    pub fn begin(&self, kind: FaultKind, node: Option<usize>) -> usize {
        let fault = Fault { kind, node, from: self.now(), until: None };
        let faults = &mut self.log().faults;
        faults.push(fault);
        faults.len() - 1
    }

    pub fn end(&self, fault: usize) {
        let now = self.now();
        self.log().faults[fault].until = Some(now);
    }

    pub fn complain(&self, sentence: String) {
        self.log().complaints.push(sentence);
    }

    /// Notes how a request ended.
    pub fn finish(&self, request: usize, status: Option<u16>) {
        let now = self.now();
        let entry = &mut self.log().requests[request];
        (entry.finished_at, entry.status) = (Some(now), status);
        self.answered.send_modify(|count| *count += 1);
    }

    /// Returns once another request was answered since the last call on this receiver.
    pub fn answers(&self) -> watch::Receiver<usize> {
        self.answered.subscribe()
    }
}
