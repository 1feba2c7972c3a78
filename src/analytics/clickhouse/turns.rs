//! Statements one after the other, for a server that takes no more at once: a profile may say so
//! (`max_concurrent_queries_for_user`), or others may leave no room. A look asks two or three things at once elsewhere.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{Mutex, MutexGuard};
use tracing::info;

#[derive(Debug, Default)]
pub struct Turns {
    one_by_one: AtomicBool,
    turn: Mutex<()>,
}

impl Turns {
    /// Waits until a statement may be sent. What is answered is kept until the server has answered.
    pub async fn take(&self) -> Option<MutexGuard<'_, ()>> {
        if self.one_by_one.load(Ordering::Relaxed) { Some(self.turn.lock().await) } else { None }
    }

    /// The server said that there were too many: from now on, and until the process ends, it gets them one by one.
    pub fn crowded(&self) {
        if !self.one_by_one.swap(true, Ordering::Relaxed) {
            info!("ClickHouse takes no more statements at once; it is asked one after the other from now on");
        }
    }
}
