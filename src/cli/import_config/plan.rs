//! What is to be done for a site: what the file wants beside what is there.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::ImportConfig;
use super::wanted::{WantedGoal, WantedSite, WantedTrigger, WantedWebhook, canonical, settings_of};
use crate::cli::client::id_of;
use crate::cli::export::{GOAL_FIELDS, SiteState, fields};
use crate::cli::output::plain;
use crate::domain::goal::NewGoal;
use crate::domain::retry::RetrySchedule;

/// One thing to do.
pub struct Action {
    pub place: String,
    pub sign: char,
    pub what: &'static str,
    pub name: String,
    pub step: Step,
}

pub enum Step {
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

/// Gathers what is to be done, and what cannot be.
pub struct Planner<'a> {
    options: &'a ImportConfig,
    site: &'a WantedSite,
    /// What the site has; nothing when there is none yet.
    state: SiteState,
    problems: &'a mut Vec<String>,
    actions: Vec<Action>,
}

impl<'a> Planner<'a> {
    pub fn new(
        options: &'a ImportConfig,
        site: &'a WantedSite,
        state: SiteState,
        problems: &'a mut Vec<String>,
    ) -> Self {
        Self { options, site, state, problems, actions: Vec::new() }
    }

    /// `there` is the site as the server has it.
    pub fn plan(mut self, there: Option<&Value>) -> Vec<Action> {
        self.site(there);
        let kept_goals = self.goals();
        let kept_webhooks = self.webhooks();
        if self.options.prune {
            self.prune(&kept_goals, &kept_webhooks);
        }
        self.actions
    }

    fn act(&mut self, place: &str, sign: char, what: &'static str, name: String, step: Step) {
        self.actions.push(Action { place: place.to_owned(), sign, what, name, step });
    }

    fn site(&mut self, there: Option<&Value>) {
        let site = self.site;
        let timezone = site.timezone.as_ref().map(|zone| ("timezone".to_owned(), Value::from(zone.clone())));
        let Some(there) = there else {
            let domain = ("domain".to_owned(), Value::from(site.domain.clone()));
            let body = std::iter::once(domain).chain(timezone).collect();
            return self.act(&site.place, '+', "site", site.domain.clone(), Step::CreateSite(body));
        };
        if let Some((name, zone)) = timezone.filter(|(_, zone)| there["timezone"] != *zone) {
            let change = format!("{}: timezone {} → {}", site.domain, plain(&there["timezone"]), plain(&zone));
            self.act(&site.place, '~', "site", change, Step::ChangeSite(Map::from_iter([(name, zone)])));
        }
    }

    /// Answers the ids of the goals that stay.
    fn goals(&mut self) -> HashSet<String> {
        let (site, mut kept) = (self.site, HashSet::new());
        let mut names = goal_names(&self.state);
        for wanted in site.goals.iter().flatten() {
            let name = &wanted.goal.display_name;
            match self.state.goals.iter().find(|goal| is_same_goal(goal, wanted)) {
                Some(goal) if plain(&goal["display_name"]) == *name => {
                    kept.insert(plain(&goal["id"]));
                }
                Some(goal) => self.problems.push(format!(
                    "{}.display_name is \"{}\" on the server, where goals cannot be renamed",
                    wanted.place,
                    plain(&goal["display_name"])
                )),
                None if names.contains(name) => {
                    self.problems.push(format!("{}.display_name is that of another goal on the server", wanted.place));
                }
                None => {
                    names.insert(name.clone());
                    let title = format!("{name} of {}", site.domain);
                    self.act(&wanted.place, '+', "goal", title, Step::CreateGoal(wanted.body.clone()));
                }
            }
        }
        kept
    }

    /// Answers the ids of the webhooks that stay.
    fn webhooks(&mut self) -> HashSet<String> {
        let (site, mut kept) = (self.site, HashSet::new());
        // What there will be, so that triggers can name it.
        let mut goals = goal_names(&self.state);
        goals.extend(site.goals.iter().flatten().map(|wanted| wanted.goal.display_name.clone()));
        for wanted in site.webhooks.iter().flatten() {
            for trigger in &wanted.triggers {
                if let Some(goal) = trigger.goal.as_ref().filter(|goal| !goals.contains(*goal)) {
                    self.problems.push(format!("{}.goal \"{goal}\" is no goal of {}", trigger.place, site.domain));
                }
            }
            let there = self.state.webhooks.iter().find(|webhook| is_same_webhook(webhook, wanted)).cloned();
            match there {
                None => self.new_webhook(wanted),
                Some(there) => {
                    self.changed_webhook(wanted, &there);
                    self.triggers(wanted, &there);
                    kept.insert(plain(&there["id"]));
                }
            }
        }
        kept
    }

    fn new_webhook(&mut self, wanted: &WantedWebhook) {
        if wanted.triggers.is_empty() {
            self.problems.push(format!("{}.triggers must have at least one trigger", wanted.place));
        }
        let mut body = wanted.body.clone();
        body.insert("name".to_owned(), wanted.name.clone().into());
        body.insert("url".to_owned(), wanted.url.clone().into());
        if wanted.signed && self.options.generate_secrets {
            body.insert("generate_secret".to_owned(), true.into());
        }
        let triggers = wanted.triggers.iter().map(|trigger| (trigger.body.clone(), trigger.goal.clone())).collect();
        self.act(&wanted.place, '+', "webhook", wanted.title(), Step::CreateWebhook { body, triggers });
    }

    fn changed_webhook(&mut self, wanted: &WantedWebhook, there: &Value) {
        let mut body = wanted.body.clone();
        body.retain(|field, value| !is_same(field, value, &there[field.as_str()]));
        if body.is_empty() {
            return;
        }
        let changes: Vec<_> = body
            .iter()
            .map(|(field, value)| format!("{field} {} → {}", plain(&there[field.as_str()]), plain(value)))
            .collect();
        let name = format!("{}: {}", wanted.title(), changes.join(", "));
        self.act(&wanted.place, '~', "webhook", name, Step::ChangeWebhook { id: plain(&there["id"]), body });
    }

    /// Those the webhook lacks, and those it has too many of.
    fn triggers(&mut self, wanted: &WantedWebhook, there: &Value) {
        let id = plain(&there["id"]);
        let mut others: Vec<_> = there["triggers"].as_array().into_iter().flatten().collect();
        for trigger in &wanted.triggers {
            if let Some(position) = others.iter().position(|other| is_same_trigger(&self.state, other, trigger)) {
                others.remove(position);
                continue;
            }
            let name = format!("{} for {}", trigger.title(), wanted.name);
            let (body, goal) = (trigger.body.clone(), trigger.goal.clone());
            self.act(&trigger.place, '+', "trigger", name, Step::CreateTrigger { webhook: id.clone(), body, goal });
        }
        for other in others.into_iter().filter(|_| self.options.prune) {
            let name = format!("{} of {}", plain(&other["type"]), wanted.name);
            let path = format!("webhooks/{}/triggers/{}", id_of(&id), id_of(&plain(&other["id"])));
            self.act(&wanted.place, '-', "trigger", name, Step::Delete(path));
        }
    }

    /// What the file has a list of and does not name.
    fn prune(&mut self, kept_goals: &HashSet<String>, kept_webhooks: &HashSet<String>) {
        let site = self.site;
        let gone = |rows: &[Value], kept: &HashSet<String>| -> Vec<Value> {
            rows.iter().filter(|row| !kept.contains(&plain(&row["id"]))).cloned().collect()
        };
        if site.webhooks.is_some() {
            for webhook in gone(&self.state.webhooks, kept_webhooks) {
                let name = format!("{} → {}", plain(&webhook["name"]), plain(&webhook["url"]));
                let path = format!("webhooks/{}", id_of(&plain(&webhook["id"])));
                self.act(&site.place, '-', "webhook", name, Step::Delete(path));
            }
        }
        if site.goals.is_some() {
            for goal in gone(&self.state.goals, kept_goals) {
                let name = format!("{} of {}", plain(&goal["display_name"]), site.domain);
                let path = format!("goals/{}", id_of(&plain(&goal["id"])));
                self.act(&site.place, '-', "goal", name, Step::Delete(path));
            }
        }
    }
}

fn goal_names(state: &SiteState) -> HashSet<String> {
    state.goals.iter().map(|goal| plain(&goal["display_name"])).collect()
}

fn is_same_goal(goal: &Value, wanted: &WantedGoal) -> bool {
    NewGoal::parse(&fields(goal, &GOAL_FIELDS))
        .is_ok_and(|goal| (&goal.kind, &goal.custom_props) == (&wanted.goal.kind, &wanted.goal.custom_props))
}

fn is_same_webhook(webhook: &Value, wanted: &WantedWebhook) -> bool {
    plain(&webhook["name"]) == wanted.name && canonical(&plain(&webhook["url"])) == canonical(&wanted.url)
}

fn is_same_trigger(state: &SiteState, other: &Value, wanted: &WantedTrigger) -> bool {
    let mut other = state.trigger_by_name(other);
    let goal = other.shift_remove("goal").map(|goal| plain(&goal));
    goal == wanted.goal && settings_of(&other, goal.as_deref()).is_ok_and(|other| other == wanted.settings)
}

fn is_same(field: &str, wanted: &Value, there: &Value) -> bool {
    let schedule = |value: &Value| value.as_str().and_then(|text| RetrySchedule::parse(text).ok());
    wanted == there || (field == "retry_schedule" && schedule(wanted).is_some_and(|one| Some(one) == schedule(there)))
}
