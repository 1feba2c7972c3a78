//! What a file wants. It is read and judged as a whole, each problem with its place in the file.

use serde_json::{Map, Value};

use crate::cli::export::{GOAL_FIELDS, VERSION, WEBHOOK_FIELDS, fields};
use crate::cli::output::plain;
use crate::domain::goal::NewGoal;
use crate::domain::invalid::Invalid;
use crate::domain::trigger::Settings;

/// A site as the file has it. What is absent is not looked at.
pub struct WantedSite {
    pub place: String,
    pub domain: String,
    pub timezone: Option<String>,
    pub goals: Option<Vec<WantedGoal>>,
    pub webhooks: Option<Vec<WantedWebhook>>,
}

pub struct WantedGoal {
    pub place: String,
    pub body: Map<String, Value>,
    pub goal: NewGoal,
}

pub struct WantedWebhook {
    pub place: String,
    pub name: String,
    pub url: String,
    /// The fields beside name and address that the file has.
    pub body: Map<String, Value>,
    pub signed: bool,
    pub header_names: Vec<String>,
    pub triggers: Vec<WantedTrigger>,
}

pub struct WantedTrigger {
    pub place: String,
    /// By its display name.
    pub goal: Option<String>,
    /// Without its goal.
    pub body: Map<String, Value>,
    pub settings: Settings,
}

impl WantedWebhook {
    pub fn title(&self) -> String {
        format!("{} → {}", self.name, self.url)
    }
}

impl WantedTrigger {
    /// What it is, and for which goal.
    pub fn title(&self) -> String {
        let kind = plain(&self.body["type"]);
        self.goal.as_ref().map_or_else(|| kind.clone(), |goal| format!("{kind} ({goal})"))
    }
}

/// The spelling the server keeps, where there is one.
pub fn canonical(url: &str) -> String {
    url::Url::parse(url).map_or_else(|_| url.to_owned(), String::from)
}

/// Reads the file; whatever is wrong is noted with its place.
pub fn wanted_sites(file: &Value, problems: &mut Vec<String>) -> Vec<WantedSite> {
    let Some(top) = object(file, "the file", problems) else { return Vec::new() };
    known_fields(top, "", &["version", "sites"], problems);
    if top.get("version") != Some(&VERSION.into()) {
        problems.push(format!("version must be {VERSION}"));
    }
    let mut sites: Vec<WantedSite> = Vec::new();
    for (place, site) in items(top, "", "sites", problems).unwrap_or_default() {
        let Some(site) = object(site, &place, problems) else { continue };
        known_fields(site, &place, &["domain", "timezone", "goals", "webhooks"], problems);
        let domain = needed(site, &place, "domain", problems).trim().to_lowercase();
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
        let name = needed(all, &place, "name", problems);
        let url = needed(all, &place, "url", problems);
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
        match settings_of(&body, goal.as_deref()) {
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

/// The settings of a trigger whose goal, if it has one, is known by its name: its id is that of some goal.
pub fn settings_of(body: &Map<String, Value>, goal: Option<&str>) -> Result<Settings, Invalid> {
    let mut body = body.clone();
    if goal.is_some() {
        body.insert("goal_id".to_owned(), "0".into());
    }
    Settings::parse(&body)
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

/// A text that has to be there.
fn needed(of: &Map<String, Value>, place: &str, field: &str, problems: &mut Vec<String>) -> String {
    let is_blank = |value: &Value| value.as_str().is_some_and(|text| text.trim().is_empty());
    if of.get(field).is_none_or(is_blank) {
        problems.push(format!("{place}.{field} can't be blank"));
        return String::new();
    }
    text(of, place, field, problems).unwrap_or_default()
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
