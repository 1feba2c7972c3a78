//! Ranges of deliveries that are sent once more.

use clap::{Args, Subcommand};
use serde_json::Value;

use super::{OfWebhook, object, show_list, show_one};

#[derive(Debug, Subcommand)]
pub enum Resends {
    /// List the ranges of a webhook, newest first
    List(OfWebhook),
    /// Show how far a range has come
    Show(OneResend),
    /// Hold a range; what is in the queue already goes out
    Pause(OneResend),
    /// Go on with a range that was paused
    Resume(OneResend),
    /// End a range before it is through
    Cancel(OneResend),
}

#[derive(Debug, Args)]
pub struct OneResend {
    /// Id of the range
    id: String,
    #[command(flatten)]
    of: OfWebhook,
}

impl OneResend {
    fn path(&self) -> String {
        self.of.path_of("resends", &self.id)
    }
}

impl Resends {
    pub async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::List(of) => {
                let answer = of.connection.client()?.get(&of.path("resends")).await?;
                let columns = ["id", "status", "queued", "total", "delivery_status", "from", "to", "inserted_at"];
                show_list(&of.connection, &answer, "resends", &columns);
            }
            Self::Show(resend) => {
                let answer = resend.of.connection.client()?.get(&resend.path()).await?;
                show_one(&resend.of.connection, &answer, "resend");
            }
            Self::Pause(resend) => set(&resend, "paused").await?,
            Self::Resume(resend) => set(&resend, "running").await?,
            Self::Cancel(resend) => set(&resend, "cancelled").await?,
        }
        Ok(())
    }
}

async fn set(resend: &OneResend, status: &str) -> anyhow::Result<()> {
    let body = object([("status", Some(Value::from(status)))]);
    let answer = resend.of.connection.client()?.patch(&resend.path(), body).await?;
    show_one(&resend.of.connection, &answer, "resend");
    Ok(())
}
