//! Sites.

use clap::Subcommand;
use serde_json::Value;

use super::super::client::Connection;
use super::super::output;
use super::{confirm, object, show_list, show_one, site_path};

#[derive(Debug, Subcommand)]
pub enum Sites {
    /// List sites
    List {
        #[command(flatten)]
        connection: Connection,
    },
    /// Create a site
    Create {
        /// Domain such as example.com
        domain: String,
        /// Time zone such as Europe/Berlin
        #[arg(long)]
        timezone: Option<String>,
        #[command(flatten)]
        connection: Connection,
    },
    /// Show a site
    Show {
        /// Id or domain
        site: String,
        #[command(flatten)]
        connection: Connection,
    },
    /// Change a site
    Update {
        /// Id or domain
        site: String,
        #[arg(long)]
        domain: Option<String>,
        #[arg(long)]
        timezone: Option<String>,
        #[command(flatten)]
        connection: Connection,
    },
    /// Delete a site with its goals, webhooks, deliveries and traffic
    Delete {
        /// Id or domain
        site: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        connection: Connection,
    },
}

impl Sites {
    pub async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::List { connection } => {
                let answer = connection.client()?.get("/api/sites").await?;
                show_list(&connection, &answer, "sites", &["id", "domain", "timezone", "inserted_at"]);
            }
            Self::Create { domain, timezone, connection } => {
                let body = object([("domain", Some(domain.into())), ("timezone", timezone.map(Value::from))]);
                let answer = connection.client()?.post("/api/sites", body).await?;
                show_one(&connection, &answer, "site");
                output::hint("Next: send its traffic to /api/event, then `pulsehook webhooks create`.");
            }
            Self::Show { site, connection } => {
                let answer = connection.client()?.get(&site_path(&site)).await?;
                show_one(&connection, &answer, "site");
            }
            Self::Update { site, domain, timezone, connection } => {
                let body = object([("domain", domain.map(Value::from)), ("timezone", timezone.map(Value::from))]);
                let answer = connection.client()?.patch(&site_path(&site), body).await?;
                show_one(&connection, &answer, "site");
            }
            Self::Delete { site, yes, connection } => {
                confirm(yes, &format!("Delete {site} with all its webhooks, deliveries and traffic?"))?;
                connection.client()?.delete(&site_path(&site)).await?;
                output::hint("Deleted.");
            }
        }
        Ok(())
    }
}
