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

/// Cheap to clone. Without an engine in this process it does nothing: the engine's own sweep finds out.
#[derive(Clone, Default)]
pub struct Wake {
    evaluator: Option<mpsc::Sender<ToEvaluator>>,
    dispatcher: Option<mpsc::Sender<ToDispatcher>>,
}

impl Wake {
    pub fn new(evaluator: mpsc::Sender<ToEvaluator>, dispatcher: mpsc::Sender<ToDispatcher>) -> Self {
        Self { evaluator: Some(evaluator), dispatcher: Some(dispatcher) }
    }

    /// Returns once no evaluation uses the old configuration any more.
    pub async fn configuration_changed(&self) {
        self.ask_evaluator(ToEvaluator::ConfigurationChanged).await;
    }

    /// Returns once no attempt can start that the old state of the webhook would have allowed.
    pub async fn webhook_changed(&self, id: WebhookId) {
        self.ask_dispatcher(|answer| ToDispatcher::WebhookChanged(id, answer)).await;
        self.configuration_changed().await;
    }

    /// Something was put into the queue.
    pub async fn queue_changed(&self) {
        if let Some(dispatcher) = &self.dispatcher {
            // A closed channel means the engine is stopping; what is in the queue stays there.
            let _ = dispatcher.send(ToDispatcher::QueueChanged).await;
        }
    }

    /// Returns once everything committed so far has been evaluated and everything due has been attempted.
    pub async fn drain(&self) {
        self.ask_evaluator(ToEvaluator::Look).await;
        self.ask_dispatcher(ToDispatcher::Drain).await;
    }

    async fn ask_evaluator(&self, call: impl FnOnce(Answer) -> ToEvaluator) {
        if let Some(evaluator) = &self.evaluator {
            let (answer, answered) = oneshot::channel();
            if evaluator.send(call(answer)).await.is_ok() {
                let _ = answered.await;
            }
        }
    }

    async fn ask_dispatcher(&self, call: impl FnOnce(Answer) -> ToDispatcher) {
        if let Some(dispatcher) = &self.dispatcher {
            let (answer, answered) = oneshot::channel();
            if dispatcher.send(call(answer)).await.is_ok() {
                let _ = answered.await;
            }
        }
    }
}
