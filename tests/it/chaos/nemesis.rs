//! What goes wrong in a run, and when. Each kind of trouble has its own rhythm and its own dice.

use std::cell::Cell;
use std::time::Duration;

use super::dice::{Chooser, Dice};
use super::history::{FaultKind, Moment};
use super::world::{Postgres, World};

/// Rests between two troubles of a kind. `None`: there is none of it.
#[derive(Debug, Clone, Copy)]
pub struct Rhythm {
    pub kills: (Duration, Duration),
    /// With PostgreSQL only.
    pub cuts: (Duration, Duration),
    /// With PostgreSQL only.
    pub restarts: (Duration, Duration),
    /// With several nodes only.
    pub pauses: Option<(Duration, Duration)>,
}

/// A killed node is started again after so long.
const DOWN_FOR: (Duration, Duration) = (Duration::ZERO, Duration::from_millis(300));
/// Longer than a lease lasts (15 s) and than others take to notice that it has run out (5 s).
const PAUSED_FOR: (Duration, Duration) = (Duration::from_secs(17), Duration::from_secs(22));

impl Rhythm {
    /// Enough of everything within a few seconds.
    pub fn short() -> Self {
        let millis = Duration::from_millis;
        Self {
            kills: (millis(200), millis(1_200)),
            cuts: (millis(200), millis(1_500)),
            restarts: (millis(2_500), millis(4_500)),
            pauses: None,
        }
    }

    pub fn long() -> Self {
        let secs = Duration::from_secs_f64;
        Self {
            kills: (secs(0.2), secs(3.0)),
            cuts: (secs(0.1), secs(2.0)),
            restarts: (secs(5.0), secs(20.0)),
            pauses: Some((secs(10.0), secs(25.0))),
        }
    }
}

/// Makes trouble until `until`, and leaves everything as it should be: nobody paused, no cut waiting.
pub async fn run(world: &World, rhythm: Rhythm, until: Moment) {
    let nemesis = Nemesis { world, until, paused: Cell::new(None) };
    let dice = |chooser| Dice::new(world.plan.seed, chooser);
    let on_the_database = async {
        if let Some(postgres) = &world.postgres {
            tokio::join!(
                nemesis.restart(postgres, dice(Chooser::Restarter), rhythm.restarts),
                nemesis.cut(postgres, dice(Chooser::Cutter), rhythm.cuts),
            );
        }
    };
    let pauses = async {
        if let Some(rest) = rhythm.pauses.filter(|_| world.nodes.len() > 1) {
            nemesis.pause(dice(Chooser::Pauser), rest).await;
        }
    };
    tokio::join!(nemesis.kill(dice(Chooser::Killer), rhythm.kills), pauses, on_the_database);
}

struct Nemesis<'a> {
    world: &'a World,
    until: Moment,
    /// Which node is, so that it is left alone until it goes on.
    paused: Cell<Option<usize>>,
}

impl Nemesis<'_> {
    async fn kill(&self, mut dice: Dice, rest: (Duration, Duration)) {
        while self.go_on_after(dice.span(rest)).await {
            let (number, down_for) = (dice.below(self.world.nodes.len()), dice.span(DOWN_FOR));
            if self.paused.get() != Some(number) {
                self.world.nodes[number].kill(down_for);
            }
        }
    }

    /// One node at a time, while others are killed.
    async fn pause(&self, mut dice: Dice, rest: (Duration, Duration)) {
        while self.go_on_after(dice.span(rest)).await {
            let number = dice.below(self.world.nodes.len());
            self.paused.set(Some(number));
            self.world.nodes[number].pause();
            self.world.history.pause(dice.span(PAUSED_FOR)).await;
            self.world.nodes[number].resume();
            self.paused.set(None);
        }
    }

    async fn restart(&self, postgres: &Postgres, mut dice: Dice, rest: (Duration, Duration)) {
        while self.go_on_after(dice.span(rest)).await {
            postgres.restart(&self.world.history).await;
        }
    }

    async fn cut(&self, postgres: &Postgres, mut dice: Dice, rest: (Duration, Duration)) {
        while self.go_on_after(dice.span(rest)).await {
            let kind = if dice.happens(75) { FaultKind::CutAfterCommit } else { FaultKind::CutBeforeCommit };
            dice.pick(&postgres.proxies).cut_next_commit(kind);
        }
        postgres.proxies.iter().for_each(super::proxy::Proxy::disarm);
    }

    /// Waits for the next moment; whether it lies before the end.
    async fn go_on_after(&self, rest: Duration) -> bool {
        let moment = self.world.history.now() + rest;
        self.world.history.pause(moment.min(self.until).saturating_sub(self.world.history.now())).await;
        moment < self.until
    }
}
