//! How those who write intentions reach those who act on them. The API knows the engine only through this.

use tokio::sync::{mpsc, oneshot};

use crate::domain::ids::WebhookId;

/// A call that is answered once it has been acted upon.
pub type Answer = oneshot::Sender<()>;

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
    /// A webhook was edited, paused, resumed or deleted: no attempt after the answer uses what was before.
    WebhookChanged(WebhookId, Answer),
    /// Something was put into the queue from outside.
    QueueChanged,
    /// Answered when nothing is due any more and nothing is under way. For tests and shutdown.
    Drain(Answer),
}

/// What the keeper of the leases is asked.
#[derive(Debug)]
pub enum ToLeases {
    /// Renew now. For tests, whose clock jumps further than a lease lasts.
    Renew(Answer),
}

/// What the learner is asked.
#[derive(Debug)]
pub enum ToLearner {
    /// Learn now what is due, and do so before anything else.
    Learn(Answer),
}

/// Cheap to clone. Without an engine in this process it does nothing: the engine's own sweep finds out.
#[derive(Clone, Default)]
pub struct Wake {
    evaluator: Option<mpsc::Sender<ToEvaluator>>,
    dispatcher: Option<mpsc::Sender<ToDispatcher>>,
    learner: Option<mpsc::Sender<ToLearner>>,
    leases: Option<mpsc::Sender<ToLeases>>,
}

impl Wake {
    pub fn new(
        evaluator: mpsc::Sender<ToEvaluator>,
        dispatcher: mpsc::Sender<ToDispatcher>,
        learner: mpsc::Sender<ToLearner>,
        leases: mpsc::Sender<ToLeases>,
    ) -> Self {
        Self { evaluator: Some(evaluator), dispatcher: Some(dispatcher), learner: Some(learner), leases: Some(leases) }
    }

    /// Returns once no evaluation uses the old configuration any more.
    pub async fn configuration_changed(&self) {
        ask(self.evaluator.as_ref(), ToEvaluator::ConfigurationChanged).await;
    }

    /// Returns once no attempt can start that the old state of the webhook would have allowed.
    pub async fn webhook_changed(&self, id: WebhookId) {
        ask(self.dispatcher.as_ref(), |answer| ToDispatcher::WebhookChanged(id, answer)).await;
        self.configuration_changed().await;
    }

    /// Something was put into the queue.
    pub async fn queue_changed(&self) {
        if let Some(dispatcher) = &self.dispatcher {
            // A closed channel means the engine is stopping; what is in the queue stays there.
            let _ = dispatcher.send(ToDispatcher::QueueChanged).await;
        }
    }

    /// Returns once everything committed so far has been learned from and evaluated, and everything due was attempted.
    pub async fn drain(&self) {
        ask(self.leases.as_ref(), ToLeases::Renew).await;
        ask(self.learner.as_ref(), ToLearner::Learn).await;
        ask(self.evaluator.as_ref(), ToEvaluator::Look).await;
        ask(self.dispatcher.as_ref(), ToDispatcher::Drain).await;
    }
}

/// A closed channel means the engine is stopping: there is nobody left to wait for.
async fn ask<T>(whom: Option<&mpsc::Sender<T>>, call: impl FnOnce(Answer) -> T) {
    if let Some(whom) = whom {
        let (answer, answered) = oneshot::channel();
        if whom.send(call(answer)).await.is_ok() {
            let _ = answered.await;
        }
    }
}
