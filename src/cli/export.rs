//! `export`: sites, goals, webhooks and triggers as one file to be read, kept under version control, and brought in elsewhere
//! with `import config`. Nothing secret is in it: the API does not tell secrets, and values of headers neither.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;

use anyhow::Context as _;
use serde_json::{Map, Value, json};

use super::client::{Client, id_of};
use super::output::{self, plain};

/// What the file is like; another number means that older versions cannot read it.
pub const VERSION: u64 = 1;
/// What is told of a webhook beside its name and address.
pub const WEBHOOK_FIELDS: [&str; 4] = ["format", "active", "retry_schedule", "rate_limit"];
/// What is told of a goal.
pub const GOAL_FIELDS: [&str; 6] =
    ["display_name", "event_name", "page_path", "scroll_threshold", "custom_props", "currency"];

#[derive(Debug, clap::Args)]
pub struct Export {
    /// Only this site, by id or domain; may be given several times
    #[arg(long = "site", value_name = "SITE")]
    sites: Vec<String>,
    /// File to be made; it must not exist. Standard output when absent
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// JSON instead of TOML
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: super::client::Place,
}

impl Export {
    pub async fn run(self) -> anyhow::Result<()> {
        let client = self.place.client()?;
        let file = read_everything(&client, &self.sites).await?;
        let text = if self.json {
            serde_json::to_string_pretty(&file)? + "\n"
        } else {
            toml::to_string(&file).context("the configuration cannot be put into TOML")?
        };
        match &self.output {
            None if std::io::stdout().is_terminal() => output::say(text.trim_end()),
            None => output::raw(text.as_bytes()),
            Some(path) => {
                let made = std::fs::OpenOptions::new().write(true).create_new(true).open(path);
                let written = made.and_then(|mut file| file.write_all(text.as_bytes()));
                written.with_context(|| format!("{} cannot be made", path.display()))?;
                output::hint(&format!("Written: {}", path.display()));
            }
        }
        output::hint(
            "Secrets and values of headers are not in it. Addresses are: those of chat rooms are secrets themselves.",
        );
        Ok(())
    }
}

async fn read_everything(client: &Client, wanted: &[String]) -> anyhow::Result<Value> {
    let mut sites = Vec::new();
    if wanted.is_empty() {
        let answer = client.get("/api/sites").await?;
        sites.extend(answer["sites"].as_array().cloned().unwrap_or_default());
    }
    for site in wanted {
        sites.push(client.get(&format!("/api/sites/{}", id_of(site))).await?["site"].clone());
    }
    let mut exported = Vec::new();
    for site in sites {
        let state = SiteState::read(client, &site).await?;
        let goals: Vec<_> = state.goals.iter().map(|goal| Value::Object(fields(goal, &GOAL_FIELDS))).collect();
        let webhooks: Vec<_> = state.webhooks.iter().map(|webhook| export_webhook(webhook, &state)).collect();
        let mut one = fields(&site, &["domain", "timezone"]);
        one.insert("goals".to_owned(), goals.into());
        one.insert("webhooks".to_owned(), webhooks.into());
        exported.push(Value::Object(one));
    }
    Ok(json!({ "version": VERSION, "sites": exported }))
}

fn export_webhook(webhook: &Value, state: &SiteState) -> Value {
    let mut one = fields(webhook, &["name", "url"]);
    one.append(&mut fields(webhook, &WEBHOOK_FIELDS));
    if webhook["secret"] == true {
        one.insert("signed".to_owned(), true.into());
    }
    let headers: Vec<_> = webhook["headers"].as_object().into_iter().flat_map(Map::keys).cloned().collect();
    if !headers.is_empty() {
        one.insert("header_names".to_owned(), headers.into());
    }
    let triggers = webhook["triggers"].as_array().into_iter().flatten();
    let triggers: Vec<_> = triggers.map(|trigger| Value::Object(state.trigger_by_name(trigger))).collect();
    one.insert("triggers".to_owned(), triggers.into());
    Value::Object(one)
}

/// Those of the fields that say something.
pub fn fields(of: &Value, names: &[&str]) -> Map<String, Value> {
    let told = |value: &Value| !value.is_null() && value.as_object().is_none_or(|object| !object.is_empty());
    names.iter().filter(|name| told(&of[**name])).map(|name| ((*name).to_owned(), of[*name].clone())).collect()
}

/// What there is of a site.
#[derive(Default)]
pub struct SiteState {
    pub goals: Vec<Value>,
    pub webhooks: Vec<Value>,
}

impl SiteState {
    /// # Errors
    /// The server does not say.
    pub async fn read(client: &Client, site: &Value) -> anyhow::Result<Self> {
        let path = format!("/api/sites/{}", id_of(&plain(&site["id"])));
        let list = |answer: Value, name: &str| answer[name].as_array().cloned().unwrap_or_default();
        Ok(Self {
            goals: list(client.get(&format!("{path}/goals")).await?, "goals"),
            webhooks: list(client.get(&format!("{path}/webhooks")).await?, "webhooks"),
        })
    }

    /// A trigger's settings, with its goal by name: ids belong to one installation.
    pub fn trigger_by_name(&self, trigger: &Value) -> Map<String, Value> {
        let mut settings = trigger.as_object().cloned().unwrap_or_default();
        for field in ["id", "inserted_at"] {
            settings.shift_remove(field);
        }
        if let Some(id) = settings.shift_remove("goal_id").filter(|id| !id.is_null()) {
            let goal = self.goals.iter().find(|goal| goal["id"] == id);
            settings.insert("goal".to_owned(), goal.map_or(id, |goal| goal["display_name"].clone()));
        }
        settings.retain(|_, value| !value.is_null());
        settings
    }
}
