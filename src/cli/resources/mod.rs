//! Clients of the API, one file a resource. What is shared: paths, fields that were given, and how answers are shown.

use anyhow::{Context as _, bail};
use serde_json::{Map, Value};

use super::client::{Connection, id_of};
use super::output::{self, plain};

pub mod deliveries;
pub mod goals;
pub mod members;
pub mod resends;
pub mod sites;
pub mod triggers;
pub mod webhooks;

/// Something of a webhook.
#[derive(Debug, clap::Args)]
pub struct OfWebhook {
    /// Id of the webhook
    #[arg(long)]
    webhook: String,
    /// Id or domain
    #[arg(long)]
    site: String,
    #[command(flatten)]
    connection: Connection,
}

impl OfWebhook {
    /// Where the API has the webhook's `what`, such as `deliveries`.
    fn path(&self, what: &str) -> String {
        format!("{}/webhooks/{}/{what}", site_path(&self.site), id_of(&self.webhook))
    }

    /// The one with this id.
    fn path_of(&self, what: &str, id: &str) -> String {
        format!("{}/{}", self.path(what), id_of(id))
    }
}

fn site_path(site: &str) -> String {
    format!("/api/sites/{}", id_of(site))
}

/// The fields that were given.
fn object<const N: usize>(fields: [(&str, Option<Value>); N]) -> Map<String, Value> {
    fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
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
pub fn confirm(yes: bool, question: &str) -> anyhow::Result<()> {
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
