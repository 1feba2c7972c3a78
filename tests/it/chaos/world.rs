//! Everything a run needs: nodes, their database, the receiver, and what owners set up before it begins.

use std::sync::{Arc, Mutex};

use reqwest::Method;
use serde_json::{Value, json};

use super::Plan;
use super::dice::{Chooser, Dice};
use super::history::{FaultKind, History};
use super::node::Node;
use super::proxy::Proxy;
use super::receiver::Receiver;
use crate::support::Database;
use crate::support::app::{Answer, http_client, text};
use crate::support::postgres::Cluster;
use crate::support::process::key_of;

const ACCOUNTS: [&str; 2] = ["Acme", "Birch"];
const SITES: [(&str, usize); 3] = [("acme.example", 0), ("acme-shop.example", 0), ("birch.example", 1)];
pub const GOALS: [&str; 2] = ["Signup", "Purchase"];
/// Site, and the goal whose completions it wants; all of them where there is none.
const HOOKS: [(usize, Option<usize>); 4] = [(0, None), (0, Some(1)), (1, None), (2, None)];
/// Twenty retries: more than a receiver that heals can use up.
const RETRIES: &str = "1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s";

pub struct World {
    pub plan: Plan,
    pub history: Arc<History>,
    pub nodes: Vec<Node>,
    /// Their data folders and database addresses; they outlive the nodes.
    pub homes: Vec<Arc<Database>>,
    pub receiver: Receiver,
    pub sites: Vec<Site>,
    pub hooks: Vec<Hook>,
    /// Where the database is read without the proxies.
    pub database_url: String,
    pub postgres: Option<Postgres>,
}

/// The cluster, and the proxy of each node.
pub struct Postgres {
    pub proxies: Vec<Proxy>,
    cluster: Arc<Mutex<Cluster>>,
}

pub struct Site {
    pub id: i64,
    pub domain: &'static str,
    pub key: String,
    /// Ids in the order of [`GOALS`].
    pub goals: Vec<String>,
}

pub struct Hook {
    pub id: String,
    pub site: usize,
    /// Which of [`GOALS`] it is told about.
    pub goals: Vec<usize>,
}

impl World {
    pub async fn start(plan: Plan) -> Self {
        let history = Arc::new(History::new());
        let receiver = Receiver::start(Arc::clone(&history), Dice::new(plan.seed, Chooser::Receiver)).await;
        let (database_url, homes, postgres) = match plan.on_postgres {
            true => postgres(plan.nodes, &history).await,
            false => {
                let home = Database::sqlite();
                (home.url.clone(), vec![home], None)
            }
        };
        let homes: Vec<_> = homes.into_iter().map(Arc::new).collect();
        let mut keys = Vec::new();
        for account in ACCOUNTS {
            keys.push(key_of(&homes[0], account).await);
        }
        let mut nodes = vec![Node::start(0, Arc::clone(&homes[0]), Arc::clone(&history)).await];
        let (sites, hooks) = set_up(&nodes[0], &keys, &receiver).await;
        // The others find everything in place.
        for (number, home) in homes.iter().enumerate().skip(1) {
            nodes.push(Node::start(number, Arc::clone(home), Arc::clone(&history)).await);
        }
        Self { plan, history, nodes, homes, receiver, sites, hooks, database_url, postgres }
    }

    pub fn site_of(&self, hook: usize) -> &Site {
        &self.sites[self.hooks[hook].site]
    }

    /// Stops every node; says so when one does not end well.
    pub async fn stop(&mut self) {
        for (number, node) in self.nodes.drain(..).enumerate() {
            let status = node.stop().await;
            if !status.success() {
                self.history.complain(format!("node {number} was asked to stop and ended with {status}"));
            }
        }
    }
}

async fn postgres(nodes: usize, history: &Arc<History>) -> (String, Vec<Database>, Option<Postgres>) {
    let cluster = tokio::task::spawn_blocking(Cluster::of_its_own).await.expect("the cluster starts");
    let url = cluster.database().await;
    let name = url.rsplit('/').find_map(|part| part.split_once('?')).expect("it says where the socket is").0;
    let (mut proxies, mut homes) = (Vec::new(), Vec::new());
    for number in 0..nodes {
        let proxy = Proxy::start(number, cluster.socket(), Arc::clone(history)).await;
        let url = format!("postgres://postgres@{}/{name}", proxy.address());
        homes.push(Database { url, folder: tempfile::tempdir().expect("a temporary folder can be made") });
        proxies.push(proxy);
    }
    (url.clone(), homes, Some(Postgres { proxies, cluster: Arc::new(Mutex::new(cluster)) }))
}

impl Postgres {
    /// Crashes the server and starts it again.
    pub async fn restart(&self, history: &History) {
        let cluster = Arc::clone(&self.cluster);
        let fault = history.begin(FaultKind::Restart, None);
        let restarted = tokio::task::spawn_blocking(move || cluster.lock().unwrap().restart_immediately());
        restarted.await.expect("the server starts again");
        history.end(fault);
    }
}

/// Accounts have sites, sites have goals and webhooks.
async fn set_up(node: &Node, keys: &[String], receiver: &Receiver) -> (Vec<Site>, Vec<Hook>) {
    let (http, url) = (http_client(), node.listens().await);
    let post = async |key: &str, path: &str, body: Value| {
        let request = http.request(Method::POST, format!("{url}{path}")).bearer_auth(key).json(&body);
        Answer::of(request).await.expect(201)
    };
    let mut sites = Vec::new();
    for (domain, account) in SITES {
        let key = &keys[account];
        let site = post(key, "/api/sites", json!({"domain": domain})).await;
        let mut goals = Vec::new();
        for name in GOALS {
            let goal = post(key, &format!("/api/sites/{domain}/goals"), json!({"event_name": name})).await;
            goals.push(text(&goal["goal"]["id"]).to_owned());
        }
        let id = text(&site["site"]["id"]).parse().expect("sites are numbered");
        sites.push(Site { id, domain, key: key.clone(), goals });
    }
    let mut hooks = Vec::new();
    for (number, (site, goal)) in HOOKS.into_iter().enumerate() {
        let Site { domain, key, goals, .. } = &sites[site];
        let trigger = match goal {
            Some(goal) => json!({"type": "goal_completion", "goal_id": goals[goal]}),
            None => json!({"type": "goal_completion"}),
        };
        let body = json!({
            "url": receiver.url(number), "name": format!("Hook {number}"), "retry_schedule": RETRIES,
            "triggers": [trigger],
        });
        let webhook = post(key, &format!("/api/sites/{domain}/webhooks"), body).await;
        let goals = goal.map_or_else(|| (0..GOALS.len()).collect(), |goal| vec![goal]);
        hooks.push(Hook { id: text(&webhook["webhook"]["id"]).to_owned(), site, goals });
    }
    (sites, hooks)
}
