//! Tasks that stay for the next piece of work. To make a task of an attempt's size, move it into place and free it on
//! another thread costs a tenth of the attempt, so one that is through waits for the next.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

/// What the tasks of a crew do.
pub trait Work: Clone + Send + 'static {
    type Order: Send;

    /// Does it, and tells whoever has the crew which seat is free again: [`Crew::take_back`]. `false`: nobody wants to
    /// know, and the task ends.
    fn carry_out(&self, order: Self::Order, seat: Seat<Self::Order>) -> impl Future<Output = bool> + Send;
}

/// Where a task of the crew is given its orders. It ends when it is called and there is none.
pub struct Seat<O>(Arc<Place<O>>);

struct Place<O> {
    order: Mutex<Option<O>>,
    called: Notify,
}

pub struct Crew<W: Work> {
    work: W,
    /// Those that came back last are asked first: what they use is still at hand.
    idle: Vec<Seat<W::Order>>,
    /// Of whom so many were not needed since [`Crew::thin_out`].
    fewest_idle: usize,
}

impl<W: Work> Crew<W> {
    pub fn new(work: W) -> Self {
        Self { work, idle: Vec::new(), fewest_idle: 0 }
    }

    /// Has somebody carry it out who is idle, or else somebody new among `tasks`.
    pub fn give(&mut self, order: W::Order, tasks: &TaskTracker) {
        let seat = self.idle.pop().unwrap_or_else(|| {
            let seat = Seat(Arc::new(Place { order: Mutex::new(None), called: Notify::new() }));
            let (work, its_seat) = (self.work.clone(), Seat(Arc::clone(&seat.0)));
            tasks.spawn(async move {
                while let Some(order) = its_seat.order().await {
                    if !work.carry_out(order, Seat(Arc::clone(&its_seat.0))).await {
                        break;
                    }
                }
            });
            seat
        });
        self.fewest_idle = self.fewest_idle.min(self.idle.len());
        seat.call(Some(order));
    }

    /// Whoever is through is there for the next.
    pub fn take_back(&mut self, seat: Seat<W::Order>) {
        self.idle.push(seat);
    }

    /// Lets those go who have had nothing to do since this was last called.
    pub fn thin_out(&mut self) {
        self.idle.drain(..self.fewest_idle).for_each(Seat::dismiss);
        self.fewest_idle = self.idle.len();
    }
}

/// Those who are idle go with it, the others with [`Seat::dismiss`] or when nobody wants to know what they did.
impl<W: Work> Drop for Crew<W> {
    fn drop(&mut self) {
        self.idle.drain(..).for_each(Seat::dismiss);
    }
}

impl<O> Seat<O> {
    /// Its task ends.
    pub fn dismiss(self) {
        self.call(None);
    }

    fn call(&self, order: Option<O>) {
        *self.0.order.lock().unwrap_or_else(PoisonError::into_inner) = order;
        self.0.called.notify_one();
    }

    async fn order(&self) -> Option<O> {
        self.0.called.notified().await;
        self.0.order.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    #[derive(Clone)]
    struct Echo(mpsc::UnboundedSender<(u32, Seat<u32>)>);

    impl Work for Echo {
        type Order = u32;

        async fn carry_out(&self, order: u32, seat: Seat<u32>) -> bool {
            self.0.send((order, seat)).is_ok()
        }
    }

    #[tokio::test]
    async fn whoever_is_through_is_asked_again_and_whoever_is_not_needed_goes() {
        let (done, mut through) = mpsc::unbounded_channel();
        let (tasks, mut crew) = (TaskTracker::new(), Crew::new(Echo(done)));
        for number in 0..3 {
            crew.give(number, &tasks);
        }
        let mut told = Vec::new();
        for _ in 0..3 {
            let (number, seat) = through.recv().await.unwrap();
            told.push(number);
            crew.take_back(seat);
        }
        told.sort_unstable();
        assert_eq!((told, tasks.len()), (vec![0, 1, 2], 3));
        // They were needed a moment ago.
        crew.thin_out();
        crew.give(3, &tasks);
        let (number, seat) = through.recv().await.unwrap();
        crew.take_back(seat);
        assert_eq!((number, tasks.len()), (3, 3), "one of them did it");
        crew.thin_out();
        assert_eq!(crew.idle.len(), 1, "two had nothing to do");
        drop(crew);
        tasks.close();
        tasks.wait().await;
    }

    #[tokio::test]
    async fn nobody_stays_where_nobody_listens() {
        let (done, through) = mpsc::unbounded_channel();
        let (tasks, mut crew) = (TaskTracker::new(), Crew::new(Echo(done)));
        crew.give(1, &tasks);
        drop((crew, through));
        tasks.close();
        tasks.wait().await;
    }
}
