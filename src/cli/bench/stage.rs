//! What customers have set up before anything happens: sites with goals, and webhooks that watch them.

use futures_util::{StreamExt as _, TryStreamExt as _};
use serde_json::{Value, json};

use super::home::Account;
use super::served::Served;
use crate::domain::ids::{AccountId, SiteId, TriggerId, WebhookId};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
/// Requests to the API under way at once.
const AT_ONCE: usize = 16;

/// A webhook as the figures know it.
#[derive(Debug, Clone)]
pub struct Hook {
    pub account_id: AccountId,
    pub site_id: SiteId,
    pub domain: String,
    pub webhook_id: WebhookId,
    pub trigger_id: TriggerId,
}

/// A site to be, with the addresses its webhooks go to.
#[derive(Debug, Clone)]
pub struct Plan {
    pub account: Account,
    pub domain: String,
    pub urls: Vec<String>,
    /// Goals as the API takes them. With any, the webhooks fire whenever one is completed; without, never.
    pub goals: Vec<Value>,
}

impl Plan {
    /// A site whose webhooks nothing fires: what they are owed is put into the queue.
    pub fn silent(account: &Account, domain: &str, urls: Vec<String>) -> Self {
        Self { account: account.clone(), domain: domain.to_owned(), urls, goals: Vec::new() }
    }

    /// A site whose webhooks fire when somebody signs up.
    pub fn with_signups(account: &Account, domain: &str, urls: Vec<String>) -> Self {
        Self { goals: vec![json!({"event_name": "Signup"})], ..Self::silent(account, domain, urls) }
    }
}

/// Sets everything up through the API and answers the webhooks, site by site.
pub async fn set_up(served: &Served, plans: &[Plan]) -> anyhow::Result<Vec<Vec<Hook>>> {
    let sites: Vec<_> = plans.iter().map(|plan| site(served, plan)).collect();
    futures_util::stream::iter(sites).buffered(AT_ONCE).try_collect().await
}

async fn site(served: &Served, plan: &Plan) -> anyhow::Result<Vec<Hook>> {
    let made = served.api.post(&plan.account, "/api/sites", &json!({"domain": plan.domain})).await?;
    let site_id = id(&made["site"])?;
    for goal in &plan.goals {
        served.api.post(&plan.account, &format!("/api/sites/{site_id}/goals"), goal).await?;
    }
    let kind = if plan.goals.is_empty() { "visitor_spike" } else { "goal_completion" };
    let mut hooks = Vec::with_capacity(plan.urls.len());
    for (index, url) in plan.urls.iter().enumerate() {
        let body = json!({"url": url, "name": index.to_string(), "secret": SECRET, "triggers": [{"type": kind}]});
        let made = served.api.post(&plan.account, &format!("/api/sites/{site_id}/webhooks"), &body).await?;
        let webhook = &made["webhook"];
        hooks.push(Hook {
            account_id: plan.account.id,
            site_id,
            domain: plan.domain.clone(),
            webhook_id: id(webhook)?,
            trigger_id: id(&webhook["triggers"][0])?,
        });
    }
    Ok(hooks)
}

fn id<T: std::str::FromStr>(object: &Value) -> anyhow::Result<T> {
    let text = object["id"].as_str().unwrap_or_default();
    text.parse().map_err(|_| anyhow::anyhow!("the API answered an object without its id: {object}"))
}
