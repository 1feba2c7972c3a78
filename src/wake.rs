//! How those who write intentions reach those who act on them. The API knows the engine only through this.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::clock::Clock;
use crate::domain::ids::WebhookId;
use crate::domain::url_check::{Verdict, Wanted};

/// A call that is answered once it has been acted upon.
pub type Answer<T = ()> = oneshot::Sender<T>;

/// What the evaluator is asked.
#[derive(Debug)]
pub enum ToEvaluator {
    /// Sites, goals, webhooks or triggers changed: no step after the answer uses what was before.
    ConfigurationChanged(Answer),
    /// Look now, at everything committed so far. For tests and the demo.
    Look(Answer),
}

/// What the dispatcher is asked.
#[derive(Debug)]
pub enum ToDispatcher {
    /// A webhook of this shard was edited, paused, resumed or deleted: no attempt after the answer uses what was before.
    /// Answers whether another node may send for the shard.
    WebhookChanged(WebhookId, i32, Answer<bool>),
    /// Something was put into the queue of this shard, which another node may own.
    QueueChanged(i32),
    /// Another node put something into the queue of these shards.
    Heard(Vec<i32>),
    /// Answered when nothing is due any more and nothing is under way. For tests and shutdown.
    Drain(Answer),
}

/// What the keeper of the leases is asked.
#[derive(Debug)]
pub enum ToLeases {
    /// Renew now. For tests, whose clock jumps further than a lease lasts.
    Renew(Answer),
}

/// What the keeper of failing endpoints is asked.
#[derive(Debug)]
pub enum ToKeeper {
    /// Look now. For tests, whose clock stands still.
    Look(Answer),
}

/// What the one who feeds resends into the queue is asked.
#[derive(Debug)]
pub enum ToResender {
    /// Somebody wants something sent once more: feed now.
    Look(Answer),
}

/// What the mirror of another directory is asked.
#[derive(Debug)]
pub enum ToMirror {
    /// Look at the other directory now. Answered once what is there is here too, or it cannot be read.
    Look(Answer),
}

/// What the checker of addresses is asked.
#[derive(Debug)]
pub enum ToChecker {
    /// Look at this address. Given up when nobody waits for the answer any more.
    Check(Box<Wanted>, Answer<Verdict>),
}

/// What the learner is asked.
#[derive(Debug)]
pub enum ToLearner {
    /// Learn now what is due, and do so before anything else.
    Learn(Answer),
}

/// What the lookout is asked.
#[derive(Debug)]
pub enum ToLookout {
    /// Look now. For tests, whose clock stands still.
    Look(Answer),
}

/// Cheap to clone. What is not in this process is not asked: its own sweep finds out.
#[derive(Clone)]
pub struct Wake {
    pub clock: Clock,
    pub evaluator: Option<mpsc::Sender<ToEvaluator>>,
    pub dispatcher: Option<mpsc::Sender<ToDispatcher>>,
    pub learner: Option<mpsc::Sender<ToLearner>>,
    pub lookout: Option<mpsc::Sender<ToLookout>>,
    pub leases: Option<mpsc::Sender<ToLeases>>,
    pub keeper: Option<mpsc::Sender<ToKeeper>>,
    pub resender: Option<mpsc::Sender<ToResender>>,
    pub mirror: Option<mpsc::Sender<ToMirror>>,
    pub checker: Option<mpsc::Sender<ToChecker>>,
    /// To other nodes.
    pub notify: mpsc::Sender<i32>,
    /// How long another node may act on what it read before.
    pub others_notice_within: Duration,
}

impl Wake {
    /// Returns once no evaluation uses the old configuration any more.
    pub async fn configuration_changed(&self) {
        ask(self.evaluator.as_ref(), ToEvaluator::ConfigurationChanged).await;
    }

    /// Returns once no attempt can start, on any node, that the old state of the webhook would have allowed.
    pub async fn webhook_changed(&self, id: WebhookId, shard: i32) {
        let call = |answer| ToDispatcher::WebhookChanged(id, shard, answer);
        let elsewhere = match &self.dispatcher {
            Some(_) => ask(self.dispatcher.as_ref(), call).await.unwrap_or(false),
            None => true,
        };
        self.configuration_changed().await;
        if elsewhere {
            self.clock.sleep(self.others_notice_within).await;
        }
    }

    /// These webhooks, by shard, and other things changed without anybody asking for it. Returns once neither an evaluation
    /// nor an attempt of this node uses the old configuration any more; other nodes notice by themselves.
    pub async fn webhooks_changed(&self, webhooks: &[(WebhookId, i32)]) {
        for (id, shard) in webhooks {
            let call = |answer| ToDispatcher::WebhookChanged(*id, *shard, answer);
            ask(self.dispatcher.as_ref(), call).await;
        }
        self.configuration_changed().await;
    }

    /// Something was put into the queue of this shard.
    pub async fn queue_changed(&self, shard: i32) {
        match &self.dispatcher {
            // A closed channel means the engine is stopping; what is in the queue stays there.
            Some(dispatcher) => drop(dispatcher.send(ToDispatcher::QueueChanged(shard)).await),
            None => drop(self.notify.try_send(shard)),
        }
    }

    /// A range of deliveries is to be sent once more. Returns once its first part is in the queue, if this node does that.
    pub async fn resend_wanted(&self) {
        ask(self.resender.as_ref(), ToResender::Look).await;
    }

    /// How far one comes with this address, within half a minute. `None` when the engine is stopping.
    pub async fn check_url(&self, wanted: Wanted) -> Option<Verdict> {
        ask(self.checker.as_ref(), |answer| ToChecker::Check(Box::new(wanted), answer)).await
    }

    /// Returns once what another directory says is known, everything committed so far has been learned from and evaluated,
    /// and everything due was attempted.
    pub async fn drain(&self) {
        ask(self.leases.as_ref(), ToLeases::Renew).await;
        ask(self.mirror.as_ref(), ToMirror::Look).await;
        ask(self.learner.as_ref(), ToLearner::Learn).await;
        ask(self.evaluator.as_ref(), ToEvaluator::Look).await;
        ask(self.lookout.as_ref(), ToLookout::Look).await;
        ask(self.dispatcher.as_ref(), ToDispatcher::Drain).await;
        ask(self.keeper.as_ref(), ToKeeper::Look).await;
        ask(self.resender.as_ref(), ToResender::Look).await;
        ask(self.dispatcher.as_ref(), ToDispatcher::Drain).await;
    }
}

/// A closed channel means the engine is stopping: there is nobody left to wait for.
async fn ask<T, A>(whom: Option<&mpsc::Sender<T>>, call: impl FnOnce(Answer<A>) -> T) -> Option<A> {
    let (answer, answered) = oneshot::channel();
    whom?.send(call(answer)).await.ok()?;
    answered.await.ok()
}
