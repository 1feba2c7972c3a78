//! Times the phases of an attempt. The client opens a connection in the task of whoever asked it for one, but tells its connector
//! only where to; so the stopwatch is the task's, and the connector finds it there.

use std::cell::Cell;
use std::time::Duration;

use tokio::task::futures::TaskLocalFuture;

use crate::domain::phases::Phases;

tokio::task_local! {
    static STOPWATCH: Stopwatch;
}

/// Of one attempt.
pub struct Stopwatch {
    began: Duration,
    phases: Cell<Phases>,
}

/// Does `attempt` with a stopwatch that was started at `began`, on the monotonic clock.
pub fn timed<F: Future>(began: Duration, attempt: F) -> TaskLocalFuture<Stopwatch, F> {
    STOPWATCH.scope(Stopwatch { began, phases: Cell::default() }, attempt)
}

/// When the attempt that this is done for began. `None` when it is done for nobody: a connection that somebody else's request
/// made superfluous is opened to its end all the same.
pub fn began() -> Option<Duration> {
    STOPWATCH.try_with(|watch| watch.began).ok()
}

/// What the opening of a connection took, whether there is one now or not. Only when it is over, since a request may get
/// another connection meanwhile, and has opened none then.
pub fn opened(phases: Phases) {
    // Where nobody takes the time there is nothing to note.
    let _ = STOPWATCH.try_with(|watch| watch.phases.set(phases));
}

/// The answer is not waited for any more: its head came, or it will not come.
pub fn waited(now: Duration, answered: bool) {
    let _ = STOPWATCH.try_with(|watch| {
        let mut phases = watch.phases.get();
        phases.waited(now.saturating_sub(watch.began), answered);
        watch.phases.set(phases);
    });
}

/// How long the attempt took until now, and its phases.
pub fn read(now: Duration) -> (Duration, Phases) {
    STOPWATCH.with(|watch| (now.saturating_sub(watch.began), watch.phases.get()))
}
