//! `import config`: has sites, goals, webhooks and triggers be as a file says. What is there already stays, whatever the file
//! does not name stays too unless somebody says `--prune`, and a second run finds nothing to do.
//!
//! Everything in the file is read and judged before anything is changed; what only the server can judge is named with its
//! place in the file, and a repeated run goes on from there.

use std::collections::{BTreeMap, HashSet};
use std::io::Read as _;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use serde_json::{Map, Value, json};

use super::client::{Client, Connection, id_of};
use super::export::SiteState;
use super::output::{self, plain};

mod plan;
mod wanted;

use plan::{Action, Planner, Step};
use wanted::{WantedSite, wanted_sites};

#[derive(Debug, clap::Args)]
pub struct ImportConfig {
    /// TOML or JSON as `pulsehook export` writes it; - for standard input
    file: PathBuf,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Delete goals, webhooks and triggers of the sites in the file that are not in it; sites are never deleted
    #[arg(long)]
    prune: bool,
    /// Make a secret for each new webhook that was signed where it comes from, and show it once
    #[arg(long)]
    generate_secrets: bool,
    #[command(flatten)]
    connection: Connection,
}

impl ImportConfig {
    pub async fn run(self) -> anyhow::Result<()> {
        let file = self.read()?;
        let mut problems = Vec::new();
        let sites = wanted_sites(&file, &mut problems);
        if problems.is_empty() {
            let client = self.connection.client()?;
            let known = client.get("/api/sites").await?;
            let mut plans = Vec::new();
            for site in &sites {
                let there = find_site(&known, &site.domain);
                let state = match there {
                    Some(there) => SiteState::read(&client, there).await?,
                    None => SiteState::default(),
                };
                plans.push((site, Planner::new(&self, site, state, &mut problems).plan(there)));
            }
            if problems.is_empty() {
                return self.carry_out(&client, &known, plans).await;
            }
        }
        bail!("nothing was changed:\n       {}", problems.join("\n       "))
    }

    fn read(&self) -> anyhow::Result<Value> {
        let mut text = String::new();
        let cannot = || format!("{} cannot be read", self.file.display());
        if self.file.as_os_str() == "-" {
            std::io::stdin().read_to_string(&mut text).with_context(cannot)?;
        } else {
            text = std::fs::read_to_string(&self.file).with_context(cannot)?;
        }
        if text.trim_start().starts_with('{') {
            return serde_json::from_str(&text).with_context(cannot);
        }
        toml::from_str(&text).with_context(cannot)
    }

    async fn carry_out(
        &self,
        client: &Client,
        known: &Value,
        plans: Vec<(&WantedSite, Vec<Action>)>,
    ) -> anyhow::Result<()> {
        let (mut done, mut secrets, mut hints) = (Vec::new(), Vec::new(), Vec::new());
        let json = self.connection.json;
        for (site, plan) in plans {
            let created: HashSet<_> = plan
                .iter()
                .filter(|action| matches!(action.step, Step::CreateWebhook { .. }))
                .map(|action| action.place.clone())
                .collect();
            let mut site_id = find_site(known, &site.domain).map(|there| plain(&there["id"]));
            let mut goals = None;
            for action in plan {
                if !self.dry_run {
                    let answer = carry_out(client, &mut site_id, &mut goals, &action.step).await;
                    let answer = answer.with_context(|| action.place.clone())?;
                    if let Some(secret) = answer["webhook"]["signing_secret"].as_str() {
                        secrets.push(json!({ "webhook": action.name, "signing_secret": secret }));
                    }
                }
                if !json {
                    output::say(&format!("{} {} {}", action.sign, action.what, action.name).replace('\n', " "));
                }
                let (sign, what, name, place) = (action.sign.to_string(), action.what, action.name, action.place);
                done.push(json!({ "action": sign, "what": what, "name": name, "place": place }));
            }
            for webhook in site.webhooks.iter().flatten().filter(|webhook| created.contains(&webhook.place)) {
                if webhook.signed && !self.generate_secrets {
                    hints.push(format!(
                        "{}: was signed where it comes from and is not signed here; give it a secret with `webhooks \
                         rotate-secret`, or import with --generate-secrets.",
                        webhook.name
                    ));
                }
                if !webhook.header_names.is_empty() {
                    let names = webhook.header_names.join(", ");
                    hints.push(format!("{}: had the headers {names}, whose values are not in the file.", webhook.name));
                }
            }
        }
        if json {
            output::json(&json!({ "plan": done, "applied": !self.dry_run, "secrets": secrets, "hints": hints }));
            return Ok(());
        }
        if done.is_empty() {
            output::say("Everything is as the file says.");
        }
        for secret in &secrets {
            output::say(&format!("{}: {}", plain(&secret["webhook"]), plain(&secret["signing_secret"])));
        }
        if !secrets.is_empty() {
            output::hint("Keep these secrets now: they are not shown again.");
        }
        for hint in hints {
            output::hint(&hint);
        }
        if self.dry_run && !done.is_empty() {
            output::hint("Nothing was changed.");
        }
        Ok(())
    }
}

/// Does one thing. Goals are read anew when a trigger names one and there may be new ones.
async fn carry_out(
    client: &Client,
    site_id: &mut Option<String>,
    goals: &mut Option<BTreeMap<String, String>>,
    step: &Step,
) -> anyhow::Result<Value> {
    if let Step::CreateSite(body) = step {
        let answer = client.post("/api/sites", body.clone()).await?;
        *site_id = Some(plain(&answer["site"]["id"]));
        return Ok(answer);
    }
    let site_id = site_id.as_deref().context("the site is not there")?;
    let site = format!("/api/sites/{}", id_of(site_id));
    let with_goal =
        async |goals: &mut Option<BTreeMap<String, String>>, mut body: Map<String, Value>, goal: &Option<String>| {
            if let Some(name) = goal {
                if goals.is_none() {
                    let answer = client.get(&format!("{site}/goals")).await?;
                    let pair = |goal: &Value| (plain(&goal["display_name"]), plain(&goal["id"]));
                    *goals = Some(answer["goals"].as_array().into_iter().flatten().map(pair).collect());
                }
                let id = goals.as_ref().and_then(|goals| goals.get(name));
                let id = id.with_context(|| format!("the goal \"{name}\" is not there"))?;
                body.insert("goal_id".to_owned(), id.clone().into());
            }
            anyhow::Ok(body)
        };
    match step {
        Step::CreateSite(_) => unreachable!("that was first"),
        Step::ChangeSite(body) => client.patch(&site, body.clone()).await,
        Step::CreateGoal(body) => {
            *goals = None;
            client.post(&format!("{site}/goals"), body.clone()).await
        }
        Step::CreateWebhook { body, triggers } => {
            let mut body = body.clone();
            let mut with_ids = Vec::new();
            for (trigger, goal) in triggers {
                with_ids.push(Value::Object(with_goal(goals, trigger.clone(), goal).await?));
            }
            body.insert("triggers".to_owned(), with_ids.into());
            client.post(&format!("{site}/webhooks"), body).await
        }
        Step::ChangeWebhook { id, body } => client.patch(&format!("{site}/webhooks/{}", id_of(id)), body.clone()).await,
        Step::CreateTrigger { webhook, body, goal } => {
            let body = with_goal(goals, body.clone(), goal).await?;
            client.post(&format!("{site}/webhooks/{}/triggers", id_of(webhook)), body).await
        }
        Step::Delete(path) => client.delete(&format!("{site}/{path}")).await,
    }
}

fn find_site<'a>(known: &'a Value, domain: &str) -> Option<&'a Value> {
    known["sites"].as_array()?.iter().find(|site| site["domain"] == domain)
}
