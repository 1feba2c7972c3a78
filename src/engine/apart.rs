//! Two things at once.

use std::sync::{Mutex, PoisonError};
use std::thread;

/// Does both, one of them on a thread of its own, and waits for it. Where the system has no thread to spare, this one does
/// all of it. It is for what mostly waits for memory and takes milliseconds: to begin a thread takes some fifty microseconds.
pub fn side_by_side<A, B: Send>(here: impl FnOnce() -> A, apart: impl FnOnce() -> B + Send) -> (A, B) {
    let apart = Mutex::new(Some(apart));
    let do_apart = || {
        let apart = apart.lock().unwrap_or_else(PoisonError::into_inner).take();
        apart.map(|apart| apart())
    };
    let (first, second) = thread::scope(|threads| {
        let thread = thread::Builder::new().spawn_scoped(threads, do_apart);
        let first = here();
        let second = match thread {
            Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            Err(_) => do_apart(),
        };
        (first, second)
    });
    (first, second.expect("it is done once, by whichever thread"))
}
