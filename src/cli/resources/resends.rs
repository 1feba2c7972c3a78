//! Ranges of deliveries that are sent once more.

use clap::{Args, Subcommand};
use serde_json::Value;

use super::super::client::{Connection, id_of};
use super::{object, show_list, show_one, site_path};

#[derive(Debug, Subcommand)]
pub enum Resends {
    /// List the ranges of a webhook, newest first
    List {
        /// Id of the webhook
        #[arg(long)]
        webhook: String,
        /// Id or domain
        #[arg(long)]
        site: String,
        #[command(flatten)]
        connection: Connection,
    },
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
    /// Id of the webhook
    #[arg(long)]
    webhook: String,
    /// Id or domain
    #[arg(long)]
    site: String,
    #[command(flatten)]
    connection: Connection,
}

impl OneResend {
    fn path(&self) -> String {
        format!("{}/webhooks/{}/resends/{}", site_path(&self.site), id_of(&self.webhook), id_of(&self.id))
    }
}

impl Resends {
    pub async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::List { webhook, site, connection } => {
                let path = format!("{}/webhooks/{}/resends", site_path(&site), id_of(&webhook));
                let answer = connection.client()?.get(&path).await?;
                let columns = ["id", "status", "queued", "total", "delivery_status", "from", "to", "inserted_at"];
                show_list(&connection, &answer, "resends", &columns);
            }
            Self::Show(resend) => {
                let answer = resend.connection.client()?.get(&resend.path()).await?;
                show_one(&resend.connection, &answer, "resend");
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
    let answer = resend.connection.client()?.patch(&resend.path(), body).await?;
    show_one(&resend.connection, &answer, "resend");
    Ok(())
}
