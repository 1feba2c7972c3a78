//! Clients: visitors who complete goals, owners who ask for tests and resends. Whatever they were promised is in the
//! history; whatever nobody answered is there as unknown.

use std::collections::HashSet;
use std::time::Duration;

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use super::dice::{Chooser, Dice};
use super::history::{Answer, Hit, Moment, Resend, Test};
use super::world::{GOALS, World};
use crate::support::app::{BROWSER, text};

const VISITORS: u8 = 4;
const BETWEEN_HITS: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(60));
const BETWEEN_TESTS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(250));
const BETWEEN_RESENDS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(500));
/// A node that is paused does not answer; nobody waits for it longer.
const PATIENCE: Duration = Duration::from_secs(3);

/// Clients come and go until `until`; returns when the last one has its answer.
pub async fn run(world: &World, until: Moment) {
    let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().expect("a client can be made");
    let clients = Clients { world, http, until };
    let dice = |chooser| Dice::new(world.plan.seed, chooser);
    let visits = (0..VISITORS).map(|number| clients.visit(dice(Chooser::Visitor(number))));
    tokio::join!(
        futures_util::future::join_all(visits),
        clients.ask_for_tests(dice(Chooser::Tester)),
        clients.ask_for_resends(dice(Chooser::Resender)),
    );
}

struct Clients<'a> {
    world: &'a World,
    http: reqwest::Client,
    until: Moment,
}

impl Clients<'_> {
    async fn visit(&self, mut dice: Dice) {
        while self.go_on_after(dice.span(BETWEEN_HITS)).await {
            let node = dice.below(self.world.plan.takers);
            let (site, goal) = (dice.pick(&self.world.sites), dice.below(GOALS.len()));
            let visitor = format!("203.0.113.{}", dice.below(250));
            let Some(url) = self.world.nodes[node].url() else { continue };
            let body = json!({"n": GOALS[goal], "u": format!("https://{}/", site.domain), "d": site.domain});
            let request = self.http.request(Method::POST, format!("{url}/api/event"));
            let request = request.header("user-agent", BROWSER).header("x-forwarded-for", visitor).json(&body);
            let answer = match request.send().await {
                Ok(response) if response.status() == 202 => {
                    if response.headers().contains_key("x-plausible-dropped") {
                        self.world.history.complain(format!("node {node} does not know {}", site.domain));
                    }
                    Answer::Promised
                }
                Err(error) if error.is_connect() => continue,
                _ => Answer::Unknown,
            };
            self.world.history.log().hits.push(Hit { node, site_id: site.id, name: GOALS[goal], answer });
        }
    }

    async fn ask_for_tests(&self, mut dice: Dice) {
        while self.go_on_after(dice.span(BETWEEN_TESTS)).await {
            let hook = dice.below(self.world.hooks.len());
            let Some(url) = self.url_of(hook, dice.below(self.world.nodes.len())) else { continue };
            let id = match self.ask(self.http.post(format!("{url}/test")), hook).await {
                Asked::Accepted(answer) => Some(text(&answer["delivery"]["id"]).to_owned()),
                Asked::Unknown => None,
                Asked::NeverSent => continue,
            };
            self.world.history.log().tests.push(Test { hook, id });
        }
    }

    /// Each delivery at most once, and only when it has ended: then whatever arrives afterwards is the resend's.
    async fn ask_for_resends(&self, mut dice: Dice) {
        let mut chosen = HashSet::new();
        while self.go_on_after(dice.span(BETWEEN_RESENDS)).await {
            let node = dice.below(self.world.nodes.len());
            let delivered: Vec<_> = {
                let log = self.world.history.log();
                let delivered = log.requests.iter().filter(|request| request.succeeded());
                delivered.map(|request| (request.hook, request.id.clone())).collect()
            };
            if delivered.is_empty() {
                continue;
            }
            let (hook, id) = dice.pick(&delivered).clone();
            let Some(url) = self.url_of(hook, node).filter(|_| !chosen.contains(&id)) else { continue };
            let url = format!("{url}/deliveries/{id}");
            match self.ask(self.http.get(&url), hook).await {
                Asked::Accepted(answer) if answer["delivery"]["status"] == "success" => {}
                _ => continue,
            }
            chosen.insert(id.clone());
            let sent_at = self.world.history.now();
            let answer = match self.ask(self.http.post(format!("{url}/resend")), hook).await {
                Asked::Accepted(_) => Answer::Promised,
                Asked::Unknown => Answer::Unknown,
                Asked::NeverSent => continue,
            };
            self.world.history.log().resends.push(Resend { id, sent_at, answer });
        }
    }

    /// Where `node` has the webhook, unless it is down.
    fn url_of(&self, hook: usize, node: usize) -> Option<String> {
        let url = self.world.nodes[node].url()?;
        Some(format!("{url}/api/sites/{}/webhooks/{}", self.world.site_of(hook).domain, self.world.hooks[hook].id))
    }

    async fn ask(&self, request: RequestBuilder, hook: usize) -> Asked {
        let answer = request.bearer_auth(&self.world.site_of(hook).key).send().await;
        match answer {
            Ok(response) if response.status().is_success() => match response.json().await {
                Ok(answer) => Asked::Accepted(answer),
                Err(_) => Asked::Unknown,
            },
            Ok(response) if response.status().is_client_error() => {
                self.world.history.complain(format!("a request that was right was answered {}", response.status()));
                Asked::Unknown
            }
            Err(error) if error.is_connect() => Asked::NeverSent,
            _ => Asked::Unknown,
        }
    }

    /// Waits a little; whether there is time for one more.
    async fn go_on_after(&self, span: Duration) -> bool {
        self.world.history.pause(span).await;
        self.world.history.now() < self.until
    }
}

/// What came of a request to the API.
enum Asked {
    Accepted(Value),
    Unknown,
    NeverSent,
}
