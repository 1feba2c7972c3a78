//! Webhooks of a site.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use serde_json::{Map, Value};

use super::super::client::{Client, Connection, id_of};
use super::super::output::{self, plain, printable};
use super::deliveries::show_delivery;
use super::triggers::trigger;
use super::{confirm, object, pairs, show_list, show_one, site_path};
use crate::clock::Clock;

#[derive(Debug, Subcommand)]
pub enum Webhooks {
    /// List the webhooks of a site
    List {
        /// Id or domain
        #[arg(long)]
        site: String,
        #[command(flatten)]
        connection: Connection,
    },
    /// Look at an address, step by step, before making a webhook of it; exit code 1 when something is wrong
    Check {
        /// Where deliveries would go
        url: String,
        /// Send a test event there too
        #[arg(long)]
        ping: bool,
        /// File with the secret to sign it with; one made for it alone when absent
        #[arg(long, value_name = "FILE", requires = "ping")]
        secret_file: Option<PathBuf>,
        /// Shape of the test event: json, cloudevents, slack, discord, teams or ntfy
        #[arg(long, requires = "ping")]
        format: Option<String>,
        /// Id or domain
        #[arg(long)]
        site: String,
        #[command(flatten)]
        connection: Connection,
    },
    /// Create a webhook
    Create(WebhookFields),
    /// Show a webhook
    Show(OneWebhook),
    /// Change a webhook
    Update {
        #[command(flatten)]
        webhook: OneWebhook,
        #[arg(long)]
        url: Option<String>,
        #[arg(long)]
        name: Option<String>,
        #[arg(long)]
        format: Option<String>,
        /// Waits between attempts such as 1m,5m,15m
        #[arg(long)]
        retry_schedule: Option<String>,
    },
    /// Stop watching and delivering until it is resumed
    Pause(OneWebhook),
    /// Go on after a pause, or after it was disabled
    Resume(OneWebhook),
    /// Deliver a test event
    Test {
        #[command(flatten)]
        webhook: OneWebhook,
        /// Wait for the outcome; exit code 1 when it is not delivered
        #[arg(long)]
        wait: bool,
    },
    /// Give it a new secret; the old one signs too for a while
    RotateSecret {
        #[command(flatten)]
        webhook: OneWebhook,
        /// How long both sign
        #[arg(long, default_value = "24h")]
        overlap: String,
    },
    /// Send ended deliveries once more
    Resend {
        #[command(flatten)]
        webhook: OneWebhook,
        /// failed, success or cancelled
        #[arg(long, default_value = "failed")]
        status: String,
        /// Earliest moment, such as 2026-02-25T10:00:00Z
        #[arg(long)]
        from: Option<String>,
        /// Latest moment
        #[arg(long)]
        to: Option<String>,
        /// Only say how many there are
        #[arg(long)]
        dry_run: bool,
    },
    /// Delete a webhook with its triggers and deliveries
    Delete {
        #[command(flatten)]
        webhook: OneWebhook,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Args)]
pub struct OneWebhook {
    /// Id of the webhook
    id: String,
    /// Id or domain
    #[arg(long)]
    site: String,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Args)]
pub struct WebhookFields {
    /// Id or domain
    #[arg(long)]
    site: String,
    /// Where deliveries go
    #[arg(long)]
    url: String,
    /// Name in lists
    #[arg(long)]
    name: String,
    /// When it fires: `visitor_spike`, `goal_completion,goal_id=7`, `custom_event,event_name=Download`, `no_data,after=1h`, `milestone,metric=visitors,step=1000`, or a JSON object; may be given several times
    #[arg(long = "trigger", value_name = "TYPE[,NAME=VALUE…]", required = true)]
    triggers: Vec<String>,
    /// Make a signing secret and show it once
    #[arg(long, conflicts_with = "secret_file")]
    generate_secret: bool,
    /// File with a signing secret of your own
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// json, cloudevents, slack, discord, teams or ntfy
    #[arg(long)]
    format: Option<String>,
    /// Custom header; may be given several times
    #[arg(long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// Waits between attempts such as 1m,5m,15m
    #[arg(long)]
    retry_schedule: Option<String>,
    #[command(flatten)]
    connection: Connection,
}

impl OneWebhook {
    fn path(&self) -> String {
        format!("{}/webhooks/{}", site_path(&self.site), id_of(&self.id))
    }
}

impl Webhooks {
    pub async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::List { site, connection } => {
                let answer = connection.client()?.get(&format!("{}/webhooks", site_path(&site))).await?;
                show_list(&connection, &answer, "webhooks", &["id", "name", "status", "url", "triggers"]);
            }
            Self::Check { url, ping, secret_file, format, site, connection } => {
                let body = object([
                    ("url", Some(url.into())),
                    ("ping", ping.then_some(true.into())),
                    ("secret", secret_in(secret_file.as_deref())?.map(Value::from)),
                    ("format", format.map(Value::from)),
                ]);
                check_url(&connection, &site, body).await?;
            }
            Self::Create(fields) => create_webhook(fields).await?,
            Self::Show(webhook) => {
                let answer = webhook.connection.client()?.get(&webhook.path()).await?;
                show_one(&webhook.connection, &answer, "webhook");
            }
            Self::Update { webhook, url, name, format, retry_schedule } => {
                let body = object([
                    ("url", url.map(Value::from)),
                    ("name", name.map(Value::from)),
                    ("format", format.map(Value::from)),
                    ("retry_schedule", retry_schedule.map(Value::from)),
                ]);
                change(&webhook, body).await?;
            }
            Self::Pause(webhook) => change(&webhook, object([("active", Some(false.into()))])).await?,
            Self::Resume(webhook) => change(&webhook, object([("active", Some(true.into()))])).await?,
            Self::Test { webhook, wait } => test_webhook(&webhook, wait).await?,
            Self::RotateSecret { webhook, overlap } => {
                let body = object([("overlap", Some(overlap.into()))]);
                let answer =
                    webhook.connection.client()?.post(&format!("{}/secret/rotate", webhook.path()), body).await?;
                if webhook.connection.json {
                    output::json(&answer);
                } else {
                    output::say(&plain(&answer["signing_secret"]));
                    output::hint(&format!(
                        "The new secret; it is not shown again. The old one signs too until {}.",
                        plain(&answer["previous_valid_until"])
                    ));
                }
            }
            Self::Resend { webhook, status, from, to, dry_run } => {
                let body = object([
                    ("status", Some(status.into())),
                    ("from", from.map(Value::from)),
                    ("to", to.map(Value::from)),
                    ("dry_run", dry_run.then_some(true.into())),
                ]);
                let answer = webhook.connection.client()?.post(&format!("{}/resend", webhook.path()), body).await?;
                if webhook.connection.json {
                    output::json(&answer);
                } else if dry_run {
                    output::say(&format!("{} deliveries would be sent once more.", answer["count"]));
                } else {
                    output::say(&format!("{} deliveries are on their way once more.", answer["count"]));
                    if let Some(id) = answer["resend"]["id"].as_str() {
                        output::hint(&format!("`pulsehook resends` shows, pauses and cancels it: {id}"));
                    }
                }
            }
            Self::Delete { webhook, yes } => {
                confirm(yes, "Delete this webhook with its triggers and deliveries?")?;
                webhook.connection.client()?.delete(&webhook.path()).await?;
                output::hint("Deleted.");
            }
        }
        Ok(())
    }
}

fn secret_in(file: Option<&Path>) -> anyhow::Result<Option<String>> {
    let Some(path) = file else { return Ok(None) };
    let text = std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
    Ok(Some(text.trim().to_owned()))
}

async fn check_url(connection: &Connection, site: &str, body: Map<String, Value>) -> anyhow::Result<()> {
    let answer = connection.client()?.post(&format!("{}/webhooks/check", site_path(site)), body).await?;
    if connection.json {
        output::json(&answer);
    } else {
        for step in answer["steps"].as_array().into_iter().flatten() {
            let [name, state, message] = ["step", "state", "message"].map(|field| plain(&step[field]));
            output::say(&printable(&format!("{name:<11}  {state:<7}  {message}")));
            if let Some(fix) = step["fix"].as_str() {
                output::say(&printable(&format!("{:22}{fix}", "")));
            }
        }
    }
    if answer["ok"] != true {
        bail!("a delivery would not arrive there as it is");
    }
    Ok(())
}

async fn create_webhook(fields: WebhookFields) -> anyhow::Result<()> {
    let secret = secret_in(fields.secret_file.as_deref())?;
    let triggers: Vec<_> = fields.triggers.iter().map(|text| trigger(text)).collect::<anyhow::Result<_>>()?;
    let headers = pairs(&fields.headers, ':')?;
    let body = object([
        ("url", Some(fields.url.into())),
        ("name", Some(fields.name.into())),
        ("triggers", Some(triggers.into())),
        ("secret", secret.map(Value::from)),
        ("generate_secret", fields.generate_secret.then_some(true.into())),
        ("format", fields.format.map(Value::from)),
        ("headers", (!headers.is_empty()).then(|| headers.into())),
        ("retry_schedule", fields.retry_schedule.map(Value::from)),
    ]);
    let path = format!("{}/webhooks", site_path(&fields.site));
    let answer = fields.connection.client()?.post(&path, body).await?;
    show_one(&fields.connection, &answer, "webhook");
    if !answer["webhook"]["signing_secret"].is_null() {
        output::hint("Keep signing_secret now: it is not shown again.");
    }
    output::hint(&format!(
        "Next: pulsehook webhooks test {} --site {} --wait",
        plain(&answer["webhook"]["id"]),
        fields.site
    ));
    Ok(())
}

async fn change(webhook: &OneWebhook, body: Map<String, Value>) -> anyhow::Result<()> {
    let answer = webhook.connection.client()?.patch(&webhook.path(), body).await?;
    show_one(&webhook.connection, &answer, "webhook");
    Ok(())
}

async fn test_webhook(webhook: &OneWebhook, wait: bool) -> anyhow::Result<()> {
    let client = webhook.connection.client()?;
    let mut answer = client.post(&format!("{}/test", webhook.path()), Map::new()).await?;
    if wait {
        let id = plain(&answer["delivery"]["id"]);
        answer = wait_for_the_first_attempt(&client, &format!("{}/deliveries/{}", webhook.path(), id_of(&id))).await?;
    }
    show_delivery(&webhook.connection, &answer);
    if wait && answer["delivery"]["status"] != "success" {
        bail!("the test was not delivered: {}", printable(&plain(&answer["delivery"]["error_message"])));
    }
    Ok(())
}

async fn wait_for_the_first_attempt(client: &Client, path: &str) -> anyhow::Result<Value> {
    let clock = Clock::system();
    let give_up = clock.now() + Duration::from_secs(30);
    loop {
        let answer = client.get(path).await?;
        if answer["delivery"]["attempt"].as_i64().unwrap_or(0) > 0 || clock.now() > give_up {
            return Ok(answer);
        }
        clock.sleep(Duration::from_millis(200)).await;
    }
}
