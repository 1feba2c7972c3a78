//! Deliveries of a webhook.

use clap::{Args, Subcommand};
use serde_json::{Map, Value};

use super::super::client::{Connection, id_of};
use super::super::output::{self, plain};
use super::{show_list, site_path};

#[derive(Debug, Subcommand)]
pub enum Deliveries {
    /// List deliveries, newest first
    List {
        /// Id of the webhook
        #[arg(long)]
        webhook: String,
        /// Id or domain
        #[arg(long)]
        site: String,
        /// pending, retrying, success, failed or cancelled
        #[arg(long)]
        status: Option<String>,
        /// How many, at most 100
        #[arg(long, default_value_t = 20)]
        limit: u32,
        #[command(flatten)]
        connection: Connection,
    },
    /// Show a delivery with its attempts
    Show(OneDelivery),
    /// Send a delivery once more
    Resend(OneDelivery),
}

#[derive(Debug, Args)]
pub struct OneDelivery {
    /// Id of the delivery
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

impl OneDelivery {
    fn path(&self) -> String {
        format!("{}/webhooks/{}/deliveries/{}", site_path(&self.site), id_of(&self.webhook), id_of(&self.id))
    }
}

impl Deliveries {
    pub async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::List { webhook, site, status, limit, connection } => {
                let status = status.map_or_else(String::new, |status| format!("&status={}", id_of(&status)));
                let path =
                    format!("{}/webhooks/{}/deliveries?limit={limit}{status}", site_path(&site), id_of(&webhook));
                let answer = connection.client()?.get(&path).await?;
                let columns =
                    ["id", "event_type", "status", "attempt", "response_code", "inserted_at", "error_message"];
                show_list(&connection, &answer, "deliveries", &columns);
                let total = answer["pagination"]["total_count"].as_u64().unwrap_or(0);
                if !connection.json && total > u64::from(limit) {
                    output::hint(&format!("{total} in all; the newest {limit} are shown."));
                }
            }
            Self::Show(delivery) => {
                let answer = delivery.connection.client()?.get(&delivery.path()).await?;
                show_delivery(&delivery.connection, &answer);
            }
            Self::Resend(delivery) => {
                let path = format!("{}/resend", delivery.path());
                let answer = delivery.connection.client()?.post(&path, Map::new()).await?;
                show_delivery(&delivery.connection, &answer);
            }
        }
        Ok(())
    }
}

pub(super) fn show_delivery(connection: &Connection, answer: &Value) {
    if connection.json {
        output::json(answer);
        return;
    }
    let delivery = &answer["delivery"];
    let fields = ["id", "event_type", "status", "reason", "attempt", "next_attempt_at", "inserted_at"];
    let pairs: Vec<_> = fields
        .iter()
        .filter(|field| !delivery[**field].is_null())
        .map(|field| (*field, plain(&delivery[*field])))
        .collect();
    output::facts(&pairs);
    for attempt in delivery["attempts"].as_array().into_iter().flatten() {
        let code = plain(&attempt["response_code"]);
        output::say(&format!(
            "\n  attempt {} at {}: {}{} in {} ms",
            attempt["number"],
            plain(&attempt["started_at"]),
            plain(&attempt["outcome"]),
            if code.is_empty() { String::new() } else { format!(" ({code})") },
            attempt["duration_ms"],
        ));
        for field in ["error_message", "response_body"] {
            let text = output::printable(&plain(&attempt[field]));
            if !text.is_empty() {
                output::say(&format!("    {}", text.replace('\n', "\n    ")));
            }
        }
    }
}
