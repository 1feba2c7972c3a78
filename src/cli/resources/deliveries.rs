//! Deliveries of a webhook.

use clap::{Args, Subcommand};
use serde_json::{Map, Value};

use super::super::client::{Connection, id_of};
use super::super::output::{self, plain};
use super::{OfWebhook, show_list};

#[derive(Debug, Subcommand)]
pub enum Deliveries {
    /// List deliveries, newest first
    List {
        #[command(flatten)]
        of: OfWebhook,
        /// pending, retrying, success, failed or cancelled
        #[arg(long)]
        status: Option<String>,
        /// How many, at most 100
        #[arg(long, default_value_t = 20)]
        limit: u32,
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
    #[command(flatten)]
    of: OfWebhook,
}

impl OneDelivery {
    fn path(&self) -> String {
        self.of.path_of("deliveries", &self.id)
    }
}

impl Deliveries {
    pub async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::List { of, status, limit } => {
                let status = status.map_or_else(String::new, |status| format!("&status={}", id_of(&status)));
                let path = format!("{}?limit={limit}{status}", of.path("deliveries"));
                let answer = of.connection.client()?.get(&path).await?;
                let columns =
                    ["id", "event_type", "status", "attempt", "response_code", "inserted_at", "error_message"];
                show_list(&of.connection, &answer, "deliveries", &columns);
                let total = answer["pagination"]["total_count"].as_u64().unwrap_or(0);
                if !of.connection.json && total > u64::from(limit) {
                    output::hint(&format!("{total} in all; the newest {limit} are shown."));
                }
            }
            Self::Show(delivery) => {
                let answer = delivery.of.connection.client()?.get(&delivery.path()).await?;
                show_delivery(&delivery.of.connection, &answer);
            }
            Self::Resend(delivery) => {
                let path = format!("{}/resend", delivery.path());
                let answer = delivery.of.connection.client()?.post(&path, Map::new()).await?;
                show_delivery(&delivery.of.connection, &answer);
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
        if let Some(line) = phases(&attempt["phases"]) {
            output::say(&format!("    {line}"));
        }
        for field in ["error_message", "response_body"] {
            let text = output::printable(&plain(&attempt[field]));
            if !text.is_empty() {
                output::say(&format!("    {}", text.replace('\n', "\n    ")));
            }
        }
    }
}

/// Where the time of an attempt went, on one line. `None` when nobody took it, also on a server of before.
fn phases(told: &Value) -> Option<String> {
    const NAMES: [(&str, &str); 5] = [
        ("dns_ms", "look-up"),
        ("connect_ms", "connection"),
        ("tls_ms", "TLS"),
        ("first_byte_ms", "first byte"),
        ("body_ms", "body"),
    ];
    let spans = NAMES.into_iter().filter_map(|(field, name)| Some(format!("{name} {} ms", told[field].as_i64()?)));
    let kept = (told["connect_ms"].is_null() && !told["first_byte_ms"].is_null()).then(|| "connection kept".to_owned());
    let parts: Vec<_> = kept.into_iter().chain(spans).collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}
