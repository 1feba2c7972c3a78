//! Sites, goals, webhooks, triggers and deliveries: clients of the API.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use serde_json::{Map, Value};

use super::client::{Client, Connection, id_of};
use super::output::{self, plain};
use crate::clock::Clock;

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

#[derive(Debug, Subcommand)]
pub enum Goals {
    /// List the goals of a site
    List {
        /// Id or domain
        #[arg(long)]
        site: String,
        #[command(flatten)]
        connection: Connection,
    },
    /// Create a goal: a custom event, a page, or so much of a page seen
    Create(CreateGoal),
    /// Delete a goal
    Delete {
        /// Id of the goal
        id: String,
        /// Id or domain
        #[arg(long)]
        site: String,
        #[command(flatten)]
        connection: Connection,
    },
}

#[derive(Debug, Args)]
pub struct CreateGoal {
    /// Id or domain
    #[arg(long)]
    site: String,
    /// Name of a custom event
    #[arg(long, conflicts_with = "page_path")]
    event_name: Option<String>,
    /// Path of a page; * stands for any characters
    #[arg(long)]
    page_path: Option<String>,
    /// Percent of the page that must be seen
    #[arg(long)]
    scroll_threshold: Option<u8>,
    /// Name in lists and payloads
    #[arg(long)]
    display_name: Option<String>,
    /// Property that must have this value; up to three
    #[arg(long = "prop", value_name = "NAME=VALUE")]
    props: Vec<String>,
    #[command(flatten)]
    connection: Connection,
}

impl Goals {
    pub async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::List { site, connection } => {
                let answer = connection.client()?.get(&format!("{}/goals", site_path(&site))).await?;
                show_list(
                    &connection,
                    &answer,
                    "goals",
                    &["id", "display_name", "goal_type", "event_name", "page_path"],
                );
            }
            Self::Create(goal) => {
                let props = pairs(&goal.props, '=')?;
                let body = object([
                    ("event_name", goal.event_name.map(Value::from)),
                    ("page_path", goal.page_path.map(Value::from)),
                    ("scroll_threshold", goal.scroll_threshold.map(Value::from)),
                    ("display_name", goal.display_name.map(Value::from)),
                    ("custom_props", (!props.is_empty()).then(|| props.into())),
                ]);
                let path = format!("{}/goals", site_path(&goal.site));
                let answer = goal.connection.client()?.post(&path, body).await?;
                show_one(&goal.connection, &answer, "goal");
            }
            Self::Delete { id, site, connection } => {
                connection.client()?.delete(&format!("{}/goals/{}", site_path(&site), id_of(&id))).await?;
                output::hint("Deleted.");
            }
        }
        Ok(())
    }
}

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
    /// When it fires: `visitor_spike`, `goal_completion,goal_id=7`, or a JSON object; may be given several times
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
            Self::Resend { webhook, status, from, to } => {
                let body = object([
                    ("status", Some(status.into())),
                    ("from", from.map(Value::from)),
                    ("to", to.map(Value::from)),
                ]);
                let answer = webhook.connection.client()?.post(&format!("{}/resend", webhook.path()), body).await?;
                if webhook.connection.json {
                    output::json(&answer);
                } else {
                    output::say(&format!("{} deliveries are on their way once more.", answer["count"]));
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

async fn create_webhook(fields: WebhookFields) -> anyhow::Result<()> {
    let secret = match &fields.secret_file {
        Some(path) => Some(
            std::fs::read_to_string(path)
                .with_context(|| format!("{} cannot be read", path.display()))?
                .trim()
                .to_owned(),
        ),
        None => None,
    };
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
        bail!("the test was not delivered");
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

#[derive(Debug, Subcommand)]
pub enum Triggers {
    /// Add a trigger to a webhook
    Add {
        /// Id of the webhook
        #[arg(long)]
        webhook: String,
        /// Id or domain
        #[arg(long)]
        site: String,
        /// `visitor_spike`, `goal_completion,goal_id=7`, or a JSON object
        trigger: String,
        #[command(flatten)]
        connection: Connection,
    },
    /// Change the settings of a trigger
    Update {
        /// Id of the trigger
        id: String,
        #[arg(long)]
        webhook: String,
        #[arg(long)]
        site: String,
        /// What changes, such as threshold=80
        #[arg(required = true, value_name = "NAME=VALUE")]
        settings: Vec<String>,
        #[command(flatten)]
        connection: Connection,
    },
    /// Delete a trigger
    Delete {
        /// Id of the trigger
        id: String,
        #[arg(long)]
        webhook: String,
        #[arg(long)]
        site: String,
        #[command(flatten)]
        connection: Connection,
    },
}

impl Triggers {
    pub async fn run(self) -> anyhow::Result<()> {
        let path = |site: &str, webhook: &str| format!("{}/webhooks/{}/triggers", site_path(site), id_of(webhook));
        match self {
            Self::Add { webhook, site, trigger: text, connection } => {
                let Value::Object(body) = trigger(&text)? else { bail!("the trigger must be an object") };
                let answer = connection.client()?.post(&path(&site, &webhook), body).await?;
                show_one(&connection, &answer, "trigger");
            }
            Self::Update { id, webhook, site, settings, connection } => {
                let mut body = Map::new();
                for setting in &settings {
                    let (name, value) = setting.split_once('=').context("settings look like threshold=80")?;
                    body.insert(name.to_owned(), setting_value(value));
                }
                let path = format!("{}/{}", path(&site, &webhook), id_of(&id));
                let answer = connection.client()?.patch(&path, body).await?;
                show_one(&connection, &answer, "trigger");
            }
            Self::Delete { id, webhook, site, connection } => {
                connection.client()?.delete(&format!("{}/{}", path(&site, &webhook), id_of(&id))).await?;
                output::hint("Deleted.");
            }
        }
        Ok(())
    }
}

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

fn site_path(site: &str) -> String {
    format!("/api/sites/{}", id_of(site))
}

/// The fields that were given.
fn object<const N: usize>(fields: [(&str, Option<Value>); N]) -> Map<String, Value> {
    fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

/// `type,name=value,…`, or a JSON object.
fn trigger(text: &str) -> anyhow::Result<Value> {
    if text.trim_start().starts_with('{') {
        return serde_json::from_str(text).context("the trigger is not JSON");
    }
    let mut parts = text.split(',');
    let mut object = Map::new();
    object.insert("type".to_owned(), parts.next().unwrap_or_default().trim().into());
    for part in parts {
        let (name, value) = part.split_once('=').with_context(|| format!("\"{part}\" is not NAME=VALUE"))?;
        object.insert(name.trim().to_owned(), setting_value(value.trim()));
    }
    Ok(object.into())
}

/// Numbers and flags as such; ids and spans of time are texts.
fn setting_value(text: &str) -> Value {
    match text {
        "true" => true.into(),
        "false" => false.into(),
        _ => text.parse::<u64>().map_or_else(|_| text.into(), Value::from),
    }
}

fn pairs(texts: &[String], separator: char) -> anyhow::Result<Map<String, Value>> {
    texts
        .iter()
        .map(|text| {
            let (name, value) =
                text.split_once(separator).with_context(|| format!("\"{text}\" is not NAME{separator}VALUE"))?;
            Ok((name.trim().to_owned(), value.trim().into()))
        })
        .collect()
}

/// Asks on a terminal; elsewhere `--yes` is the answer.
fn confirm(yes: bool, question: &str) -> anyhow::Result<()> {
    use std::io::{BufRead as _, IsTerminal as _};
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        bail!("this cannot be undone; say --yes to do it");
    }
    output::hint(&format!("{question} Type yes to do it:"));
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).context("no answer could be read")?;
    if answer.trim() == "yes" { Ok(()) } else { bail!("nothing was changed") }
}

fn show_list(connection: &Connection, answer: &Value, name: &str, columns: &[&str]) {
    if connection.json {
        output::json(answer);
        return;
    }
    let items = answer[name].as_array().map(Vec::as_slice).unwrap_or_default();
    if items.is_empty() {
        output::hint(&format!("There are no {name} yet."));
        return;
    }
    let cell = |item: &Value, column: &str| match &item[column] {
        Value::Array(items) => {
            let names: Vec<_> = items.iter().map(|item| plain(&item["type"])).collect();
            names.join(", ")
        }
        value => plain(value),
    };
    let rows: Vec<_> = items.iter().map(|item| columns.iter().map(|column| cell(item, column)).collect()).collect();
    let headings: Vec<_> = columns.iter().map(|column| column.replace('_', " ")).collect();
    output::table(&headings.iter().map(String::as_str).collect::<Vec<_>>(), &rows);
}

fn show_one(connection: &Connection, answer: &Value, name: &str) {
    if connection.json {
        output::json(answer);
        return;
    }
    let Some(object) = answer[name].as_object() else { return };
    let pairs: Vec<_> = object
        .iter()
        .filter(|(_, value)| !value.is_null())
        .map(|(name, value)| match value {
            Value::Array(items) => {
                let lines: Vec<_> = items.iter().map(Value::to_string).collect();
                (name.as_str(), lines.join("\n"))
            }
            value => (name.as_str(), plain(value)),
        })
        .collect();
    output::facts(&pairs);
}

fn show_delivery(connection: &Connection, answer: &Value) {
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn triggers_are_short_to_write() {
        assert_eq!(
            trigger("visitor_spike,threshold=80,baseline=previous,cooldown=1h,shadow=true").unwrap(),
            json!({"type": "visitor_spike", "threshold": 80, "baseline": "previous", "cooldown": "1h", "shadow": true})
        );
        assert_eq!(trigger(r#"{"type":"goal_completion"}"#).unwrap(), json!({"type": "goal_completion"}));
        assert!(trigger("visitor_spike,threshold").is_err());
    }
}
