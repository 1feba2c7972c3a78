//! A node under a supervisor: the real binary, started again whenever it was killed, as an init system would.

use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::history::{Fault, FaultKind, History, Moment};
use crate::support::Database;
use crate::support::process::{is_turn_of_the_past, pulsehook_in_turn};

/// How long a node that could not start is left alone.
const BETWEEN_STARTS: Duration = Duration::from_millis(100);
/// A start takes no longer; a process that ends later has ended by itself.
const START: Duration = Duration::from_secs(2);
/// What it logged last is shown when it ends by itself.
const REMEMBERED_LINES: usize = 30;

/// It is killed when dropped.
pub struct Node {
    url: watch::Receiver<Option<String>>,
    orders: mpsc::UnboundedSender<Order>,
    ended: JoinHandle<ExitStatus>,
    turns: Arc<AtomicUsize>,
}

#[derive(Debug)]
enum Order {
    /// SIGKILL, and a new start after a while.
    Kill {
        down_for: Duration,
    },
    /// SIGSTOP, until [`Order::Continue`].
    Pause,
    Continue,
    /// SIGTERM, and no new start.
    Stop,
}

/// What the supervisor does once a process has ended.
enum Next {
    StartAfter(Duration),
    Stop,
}

struct Supervisor {
    number: usize,
    /// Whose turn is next: a process each.
    turns: Arc<AtomicUsize>,
    home: Arc<Database>,
    url: watch::Sender<Option<String>>,
    orders: mpsc::UnboundedReceiver<Order>,
    history: Arc<History>,
}

impl Node {
    /// Starts it and waits until it listens.
    pub async fn start(number: usize, home: Arc<Database>, history: Arc<History>) -> Self {
        let (orders, taken) = mpsc::unbounded_channel();
        let (announce, url) = watch::channel(None);
        let turns = Arc::new(AtomicUsize::new(number));
        let supervisor = Supervisor { number, turns: Arc::clone(&turns), home, url: announce, orders: taken, history };
        let node = Self { url, orders, ended: tokio::spawn(supervisor.run()), turns };
        node.listens().await;
        node
    }

    /// Where it listens now; `None` while it is down.
    pub fn url(&self) -> Option<String> {
        self.url.borrow().clone()
    }

    /// Waits until it listens.
    pub async fn listens(&self) -> String {
        let mut url = self.url.clone();
        let listening = url.wait_for(Option::is_some).await.expect("its supervisor lives until it is stopped");
        listening.clone().expect("it was waited for")
    }

    /// Kills it where it stands and has it start again after `down_for`.
    pub fn kill(&self, down_for: Duration) {
        self.order(Order::Kill { down_for });
    }

    /// Whether an earlier version runs there, and not this one.
    pub fn is_of_the_past(&self) -> bool {
        is_turn_of_the_past(self.turns.load(Ordering::SeqCst) - 1)
    }

    /// Kills it and waits until the next process listens.
    pub async fn restart(&self) {
        let before = self.turns.load(Ordering::SeqCst);
        let mut url = self.url.clone();
        self.kill(Duration::ZERO);
        let next = |url: &Option<String>| url.is_some() && self.turns.load(Ordering::SeqCst) > before;
        url.wait_for(next).await.expect("its supervisor lives until it is stopped");
    }

    pub fn pause(&self) {
        self.order(Order::Pause);
    }

    pub fn resume(&self) {
        self.order(Order::Continue);
    }

    /// Asks it to stop, and answers how it did.
    pub async fn stop(self) -> ExitStatus {
        self.order(Order::Stop);
        self.ended.await.expect("the supervisor does not panic")
    }

    fn order(&self, order: Order) {
        self.orders.send(order).expect("its supervisor lives until it is stopped");
    }
}

impl Supervisor {
    async fn run(mut self) -> ExitStatus {
        loop {
            let (status, next) = self.run_once().await;
            self.url.send_replace(None);
            match next {
                Next::StartAfter(span) => self.history.pause(span).await,
                Next::Stop => return status,
            }
        }
    }

    /// One process, from its start to its end.
    async fn run_once(&mut self) -> (ExitStatus, Next) {
        let mut command = pulsehook_in_turn(self.turns.fetch_add(1, Ordering::SeqCst), &self.home);
        command.arg("serve").env("PULSEHOOK_LOG_FORMAT", "text").stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary is there");
        let mut lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        let mut said: Vec<String> = Vec::new();
        let mut killed: Option<Duration> = None;
        let mut pause: Option<usize> = None;
        let mut asked_to_stop = false;
        let started_at = self.history.now();
        loop {
            tokio::select! {
                line = lines.next_line() => match line {
                    Ok(Some(line)) => {
                        if let Some((_, url)) = line.split_once("listens on ") {
                            self.url.send_replace(Some(url.trim().to_owned()));
                        }
                        said.push(line);
                        said.drain(..said.len().saturating_sub(REMEMBERED_LINES));
                    }
                    // It has ended: nobody else has the other end.
                    _ => break,
                },
                order = self.orders.recv() => match order {
                    Some(Order::Kill { down_for }) => {
                        let fault = self.history.begin(FaultKind::Kill, Some(self.number));
                        self.url.send_replace(None);
                        let _ = child.start_kill();
                        self.history.end(fault);
                        killed = Some(down_for);
                    }
                    Some(Order::Pause) if pause.is_none() => {
                        pause = Some(self.history.begin(FaultKind::Pause, Some(self.number)));
                        signal(&child, "STOP").await;
                    }
                    Some(Order::Pause) => {}
                    Some(Order::Continue) => {
                        signal(&child, "CONT").await;
                        self.end(&mut pause);
                    }
                    Some(Order::Stop) => {
                        asked_to_stop = true;
                        signal(&child, "TERM").await;
                    }
                    // The test is over; the process goes with it.
                    None => {
                        let _ = child.start_kill();
                        asked_to_stop = true;
                    }
                },
            }
        }
        self.end(&mut pause);
        let status = child.wait().await.expect("it can be waited for");
        let panics: Vec<_> = said.iter().filter(|line| line.contains("panicked at")).collect();
        if !panics.is_empty() {
            self.history.complain(format!("node {} panicked: {panics:?}", self.number));
        }
        let starting = self.url.borrow().is_none() || self.met_trouble_when_starting(started_at);
        let next = match (asked_to_stop, killed) {
            (true, _) => Next::Stop,
            (false, Some(down_for)) => Next::StartAfter(down_for),
            (false, None) if starting => {
                self.history.log().failed_starts += 1;
                Next::StartAfter(BETWEEN_STARTS)
            }
            (false, None) => {
                self.history.complain(format!("node {} ended by itself ({status}): {said:#?}", self.number));
                Next::StartAfter(BETWEEN_STARTS)
            }
        };
        (status, next)
    }

    /// Whether the database went away in the moment between listening and being through with the start.
    fn met_trouble_when_starting(&self, started_at: Moment) -> bool {
        let just_started = self.history.now() < started_at + START;
        let trouble =
            |fault: &Fault| fault.kind == FaultKind::Restart && fault.until.is_none_or(|end| end > started_at);
        just_started && self.history.log().faults.iter().any(trouble)
    }

    fn end(&self, pause: &mut Option<usize>) {
        if let Some(fault) = pause.take() {
            self.history.end(fault);
        }
    }
}

/// Nothing happens to a process that has ended.
async fn signal(child: &Child, name: &str) {
    if let Some(id) = child.id() {
        let _ = Command::new("kill").arg(format!("-{name}")).arg(id.to_string()).status().await;
    }
}
