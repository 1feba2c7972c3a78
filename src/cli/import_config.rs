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
use super::export::{GOAL_FIELDS, SiteState, VERSION, WEBHOOK_FIELDS, fields};
use super::output::{self, plain};
use crate::domain::goal::NewGoal;
use crate::domain::invalid::Invalid;
use crate::domain::retry::RetrySchedule;
use crate::domain::trigger::Settings;

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

/// A site as the file has it. What is absent is not looked at.
struct WantedSite {
    place: String,
    domain: String,
    timezone: Option<String>,
    goals: Option<Vec<WantedGoal>>,
    webhooks: Option<Vec<WantedWebhook>>,
}

struct WantedGoal {
    place: String,
    body: Map<String, Value>,
    goal: NewGoal,
}

struct WantedWebhook {
    place: String,
    name: String,
    url: String,
    /// The fields beside name and address that the file has.
    body: Map<String, Value>,
    signed: bool,
    header_names: Vec<String>,
    triggers: Vec<WantedTrigger>,
}

struct WantedTrigger {
    place: String,
    /// By its display name.
    goal: Option<String>,
    /// Without its goal.
    body: Map<String, Value>,
    settings: Settings,
}

/// One thing to do.
struct Action {
    place: String,
    sign: char,
    what: &'static str,
    name: String,
    step: Step,
}

enum Step {
    CreateSite(Map<String, Value>),
    ChangeSite(Map<String, Value>),
    CreateGoal(Map<String, Value>),
    CreateWebhook {
        body: Map<String, Value>,
        triggers: Vec<(Map<String, Value>, Option<String>)>,
    },
    ChangeWebhook {
        id: String,
        body: Map<String, Value>,
    },
    CreateTrigger {
        webhook: String,
        body: Map<String, Value>,
        goal: Option<String>,
    },
    /// What is at this path below the site.
    Delete(String),
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
                plans.push((site, self.plan(&client, &known, site, &mut problems).await?));
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

    /// What is to be done for a site.
    async fn plan(
        &self,
        client: &Client,
        known: &Value,
        site: &WantedSite,
        problems: &mut Vec<String>,
    ) -> anyhow::Result<Vec<Action>> {
        let mut plan = Vec::new();
        let mut act = |place: &str, sign, what, name: String, step| {
            plan.push(Action { place: place.to_owned(), sign, what, name, step });
        };
        let there = find_site(known, &site.domain);
        let state = match there {
            Some(there) => SiteState::read(client, there).await?,
            None => SiteState { goals: Vec::new(), webhooks: Vec::new() },
        };
        let timezone = site.timezone.as_ref().map(|zone| ("timezone".to_owned(), Value::from(zone.clone())));
        match there {
            None => {
                let domain = ("domain".to_owned(), Value::from(site.domain.clone()));
                let body = std::iter::once(domain).chain(timezone).collect();
                act(&site.place, '+', "site", site.domain.clone(), Step::CreateSite(body));
            }
            Some(there) => {
                if let Some((name, zone)) = timezone.filter(|(_, zone)| there["timezone"] != *zone) {
                    let change = format!("{}: timezone {} → {}", site.domain, plain(&there["timezone"]), plain(&zone));
                    act(&site.place, '~', "site", change, Step::ChangeSite(Map::from_iter([(name, zone)])));
                }
            }
        }
        // What there will be, so that triggers can name it.
        let mut goals: HashSet<String> = state.goals.iter().map(|goal| plain(&goal["display_name"])).collect();
        let mut kept_goals = HashSet::new();
        for wanted in site.goals.iter().flatten() {
            let same = |goal: &&Value| {
                NewGoal::parse(&fields(goal, &GOAL_FIELDS)).is_ok_and(|goal| {
                    (&goal.kind, &goal.custom_props) == (&wanted.goal.kind, &wanted.goal.custom_props)
                })
            };
            let name = &wanted.goal.display_name;
            match state.goals.iter().find(same) {
                Some(goal) if plain(&goal["display_name"]) == *name => {
                    kept_goals.insert(plain(&goal["id"]));
                }
                Some(goal) => problems.push(format!(
                    "{}.display_name is \"{}\" on the server, where goals cannot be renamed",
                    wanted.place,
                    plain(&goal["display_name"])
                )),
                None if goals.contains(name) => {
                    problems.push(format!("{}.display_name is that of another goal on the server", wanted.place));
                }
                None => {
                    goals.insert(name.clone());
                    act(
                        &wanted.place,
                        '+',
                        "goal",
                        format!("{name} of {}", site.domain),
                        Step::CreateGoal(wanted.body.clone()),
                    );
                }
            }
        }
        let mut kept_webhooks = HashSet::new();
        for wanted in site.webhooks.iter().flatten() {
            for trigger in &wanted.triggers {
                if let Some(goal) = trigger.goal.as_ref().filter(|goal| !goals.contains(*goal)) {
                    problems.push(format!("{}.goal \"{goal}\" is no goal of {}", trigger.place, site.domain));
                }
            }
            let there = state.webhooks.iter().find(|webhook| {
                plain(&webhook["name"]) == wanted.name && canonical(&plain(&webhook["url"])) == canonical(&wanted.url)
            });
            let title = format!("{} → {}", wanted.name, wanted.url);
            let Some(there) = there else {
                if wanted.triggers.is_empty() {
                    problems.push(format!("{}.triggers must have at least one trigger", wanted.place));
                }
                let mut body = wanted.body.clone();
                body.insert("name".to_owned(), wanted.name.clone().into());
                body.insert("url".to_owned(), wanted.url.clone().into());
                if wanted.signed && self.generate_secrets {
                    body.insert("generate_secret".to_owned(), true.into());
                }
                let triggers = wanted.triggers.iter().map(|trigger| (trigger.body.clone(), trigger.goal.clone()));
                act(&wanted.place, '+', "webhook", title, Step::CreateWebhook { body, triggers: triggers.collect() });
                continue;
            };
            let id = plain(&there["id"]);
            kept_webhooks.insert(id.clone());
            let mut body = wanted.body.clone();
            body.retain(|field, value| !is_same(field, value, &there[field.as_str()]));
            if !body.is_empty() {
                let changes: Vec<_> = body
                    .iter()
                    .map(|(field, value)| format!("{field} {} → {}", plain(&there[field.as_str()]), plain(value)))
                    .collect();
                let name = format!("{title}: {}", changes.join(", "));
                act(&wanted.place, '~', "webhook", name, Step::ChangeWebhook { id: id.clone(), body });
            }
            let mut others: Vec<_> = there["triggers"].as_array().into_iter().flatten().collect();
            for trigger in &wanted.triggers {
                let same = others.iter().position(|other| {
                    let mut other = state.trigger_by_name(other);
                    let goal = other.shift_remove("goal").map(|goal| plain(&goal));
                    goal == trigger.goal && Settings::parse(&other).is_ok_and(|other| other == trigger.settings)
                });
                if let Some(position) = same {
                    others.remove(position);
                    continue;
                }
                let name = format!("{} for {}", trigger.title(), wanted.name);
                let step =
                    Step::CreateTrigger { webhook: id.clone(), body: trigger.body.clone(), goal: trigger.goal.clone() };
                act(&trigger.place, '+', "trigger", name, step);
            }
            for other in others.into_iter().filter(|_| self.prune) {
                let name = format!("{} of {}", plain(&other["type"]), wanted.name);
                let path = format!("webhooks/{}/triggers/{}", id_of(&id), id_of(&plain(&other["id"])));
                act(&wanted.place, '-', "trigger", name, Step::Delete(path));
            }
        }
        if self.prune && site.webhooks.is_some() {
            for webhook in state.webhooks.iter().filter(|webhook| !kept_webhooks.contains(&plain(&webhook["id"]))) {
                let name = format!("{} → {}", plain(&webhook["name"]), plain(&webhook["url"]));
                let path = format!("webhooks/{}", id_of(&plain(&webhook["id"])));
                act(&site.place, '-', "webhook", name, Step::Delete(path));
            }
        }
        if self.prune && site.goals.is_some() {
            for goal in state.goals.iter().filter(|goal| !kept_goals.contains(&plain(&goal["id"]))) {
                let name = format!("{} of {}", plain(&goal["display_name"]), site.domain);
                let path = format!("goals/{}", id_of(&plain(&goal["id"])));
                act(&site.place, '-', "goal", name, Step::Delete(path));
            }
        }
        Ok(plan)
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

/// The spelling the server keeps, where there is one.
fn canonical(url: &str) -> String {
    url::Url::parse(url).map_or_else(|_| url.to_owned(), String::from)
}

fn is_same(field: &str, wanted: &Value, there: &Value) -> bool {
    let schedule = |value: &Value| value.as_str().and_then(|text| RetrySchedule::parse(text).ok());
    wanted == there || (field == "retry_schedule" && schedule(wanted).is_some_and(|one| Some(one) == schedule(there)))
}

impl WantedTrigger {
    fn title(&self) -> String {
        let kind = plain(&self.body["type"]);
        self.goal.as_ref().map_or_else(|| kind.clone(), |goal| format!("{kind} ({goal})"))
    }
}

/// Reads the file; whatever is wrong is noted with its place.
fn wanted_sites(file: &Value, problems: &mut Vec<String>) -> Vec<WantedSite> {
    let Some(top) = object(file, "the file", problems) else { return Vec::new() };
    known_fields(top, "", &["version", "sites"], problems);
    if top.get("version") != Some(&VERSION.into()) {
        problems.push(format!("version must be {VERSION}"));
    }
    let mut sites: Vec<WantedSite> = Vec::new();
    for (place, site) in items(top, "", "sites", problems).unwrap_or_default() {
        let Some(site) = object(site, &place, problems) else { continue };
        known_fields(site, &place, &["domain", "timezone", "goals", "webhooks"], problems);
        let domain = text(site, &place, "domain", problems).unwrap_or_else(|| {
            problems.push(format!("{place}.domain can't be blank"));
            String::new()
        });
        let domain = domain.trim().to_lowercase();
        if let Some(first) = sites.iter().find(|other| other.domain == domain && !domain.is_empty()) {
            problems.push(format!("{place}.domain is that of {} too", first.place));
        }
        let timezone = text(site, &place, "timezone", problems);
        let goals = wanted_goals(site, &place, problems);
        let webhooks = wanted_webhooks(site, &place, problems);
        sites.push(WantedSite { place, domain, timezone, goals, webhooks });
    }
    sites
}

fn wanted_goals(site: &Map<String, Value>, place: &str, problems: &mut Vec<String>) -> Option<Vec<WantedGoal>> {
    let mut goals: Vec<WantedGoal> = Vec::new();
    for (place, goal) in items(site, place, "goals", problems)? {
        let Some(body) = object(goal, &place, problems) else { continue };
        known_fields(body, &place, &GOAL_FIELDS, problems);
        match NewGoal::parse(body) {
            Err(invalid) => note(&invalid, &place, problems),
            Ok(goal) => {
                if let Some(first) = goals.iter().find(|other| other.goal.display_name == goal.display_name) {
                    problems.push(format!("{place}.display_name is that of {} too", first.place));
                }
                goals.push(WantedGoal { place, body: body.clone(), goal });
            }
        }
    }
    Some(goals)
}

fn wanted_webhooks(site: &Map<String, Value>, place: &str, problems: &mut Vec<String>) -> Option<Vec<WantedWebhook>> {
    const OTHERS: [&str; 5] = ["name", "url", "signed", "header_names", "triggers"];
    let mut webhooks: Vec<WantedWebhook> = Vec::new();
    for (place, webhook) in items(site, place, "webhooks", problems)? {
        let Some(all) = object(webhook, &place, problems) else { continue };
        known_fields(all, &place, &[&OTHERS[..], &WEBHOOK_FIELDS[..]].concat(), problems);
        let mut needed = |field| {
            text(all, &place, field, problems).unwrap_or_else(|| {
                problems.push(format!("{place}.{field} can't be blank"));
                String::new()
            })
        };
        let (name, url) = (needed("name"), needed("url"));
        let twin = |other: &&WantedWebhook| other.name == name && canonical(&other.url) == canonical(&url);
        if let Some(first) = webhooks.iter().find(twin) {
            problems.push(format!("{place} has the name and url of {} too", first.place));
        }
        let signed = match all.get("signed") {
            None => false,
            Some(Value::Bool(signed)) => *signed,
            Some(_) => {
                problems.push(format!("{place}.signed must be true or false"));
                false
            }
        };
        let names = items(all, &place, "header_names", problems).unwrap_or_default();
        let header_names = names.into_iter().map(|(_, name)| plain(name)).collect();
        let triggers = wanted_triggers(all, &place, problems);
        let body = fields(webhook, &WEBHOOK_FIELDS);
        webhooks.push(WantedWebhook { place, name, url, body, signed, header_names, triggers });
    }
    Some(webhooks)
}

fn wanted_triggers(webhook: &Map<String, Value>, place: &str, problems: &mut Vec<String>) -> Vec<WantedTrigger> {
    let mut triggers: Vec<WantedTrigger> = Vec::new();
    for (place, trigger) in items(webhook, place, "triggers", problems).unwrap_or_default() {
        let Some(all) = object(trigger, &place, problems) else { continue };
        if all.contains_key("goal_id") {
            problems
                .push(format!("{place}.goal_id belongs to one server; name the goal as goal = \"its display name\""));
            continue;
        }
        let goal = text(all, &place, "goal", problems);
        let mut body = all.clone();
        body.shift_remove("goal");
        match Settings::parse(&body) {
            Err(invalid) => note(&invalid, &place, problems),
            Ok(settings) => {
                let twin = |other: &&WantedTrigger| other.settings == settings && other.goal == goal;
                if let Some(first) = triggers.iter().find(twin) {
                    problems.push(format!("{place} is the same as {}", first.place));
                }
                triggers.push(WantedTrigger { place, goal, body, settings });
            }
        }
    }
    triggers
}

fn note(invalid: &Invalid, place: &str, problems: &mut Vec<String>) {
    for (field, sentences) in invalid.fields() {
        problems.extend(sentences.iter().map(|sentence| format!("{place}.{field} {sentence}")));
    }
}

fn object<'a>(value: &'a Value, place: &str, problems: &mut Vec<String>) -> Option<&'a Map<String, Value>> {
    if value.as_object().is_none() {
        problems.push(format!("{place} must be a table"));
    }
    value.as_object()
}

/// The items of a list, each with its place. `None` when it is absent.
fn items<'a>(
    of: &'a Map<String, Value>,
    place: &str,
    field: &str,
    problems: &mut Vec<String>,
) -> Option<Vec<(String, &'a Value)>> {
    let dot = if place.is_empty() { "" } else { "." };
    let value = of.get(field)?;
    let Some(list) = value.as_array() else {
        problems.push(format!("{place}{dot}{field} must be a list"));
        return None;
    };
    Some(list.iter().enumerate().map(|(index, item)| (format!("{place}{dot}{field}[{index}]"), item)).collect())
}

fn text(of: &Map<String, Value>, place: &str, field: &str, problems: &mut Vec<String>) -> Option<String> {
    match of.get(field) {
        None => None,
        Some(Value::String(text)) => Some(text.clone()),
        Some(_) => {
            problems.push(format!("{place}.{field} must be a text"));
            // Said once is enough.
            Some(String::new())
        }
    }
}

fn known_fields(of: &Map<String, Value>, place: &str, known: &[&str], problems: &mut Vec<String>) {
    let dot = if place.is_empty() { "" } else { "." };
    let unknown = of.keys().filter(|field| !known.contains(&field.as_str()));
    problems.extend(unknown.map(|field| format!("{place}{dot}{field} is not known here")));
}
