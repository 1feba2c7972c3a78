//! What no single hit shows: silence, goals that stall, milestones, and traffic that cannot be seen. On both stores of
//! traffic.

use std::time::Duration;

use pulsehook::domain::hit::{Hit, PAGEVIEW, Page};
use pulsehook::domain::ids::SiteId;
use pulsehook::domain::time::Timestamp;
use serde_json::{Value, json};

use crate::support::app::{SITE, Setup, TestApp, text};
use crate::support::clickhouse::{ClickHouse, Row};
use crate::support::on_both;
use crate::support::zoo::{Arrived, Behaviour, Endpoint};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const DAYS: u32 = 10;

async fn always() -> Endpoint {
    Endpoint::http([Behaviour::status(200)]).await
}

/// The same app on the same database, later.
async fn restarted(app: TestApp, setup: impl FnOnce() -> Setup) -> TestApp {
    let (clock, key) = (app.clock.clone(), app.key.clone());
    let mut app = TestApp::start_at(app.stop().await, setup(), clock).await;
    app.key = key;
    app
}

async fn site(app: &TestApp, domain: &str) -> SiteId {
    let site = app.post("/api/sites", json!({"domain": domain})).await.expect(201)["site"].clone();
    SiteId(text(&site["id"]).parse().unwrap())
}

async fn webhook_of(app: &TestApp, domain: &str, endpoint: &Endpoint, triggers: Value) -> Value {
    let body = json!({"name": "Test", "url": endpoint.url(), "triggers": triggers});
    app.post(&format!("/api/sites/{domain}/webhooks"), body).await.expect(201)["webhook"].clone()
}

fn hit(site_id: SiteId, at: Timestamp, visitor: u64, name: &str) -> Hit {
    let page = Page { hostname: SITE.to_owned(), pathname: "/".to_owned() };
    Hit { page, ..Hit::new(site_id, at, visitor, name) }
}

/// Ten days in which something happened every so often, until now.
fn history(app: &TestApp, site_id: SiteId, every: Duration, name: &str) -> Vec<Hit> {
    let times = DAYS * 86_400 / u32::try_from(every.as_secs()).unwrap();
    (1..times).map(|ago| hit(site_id, app.now() - every * ago, u64::from(ago), name)).collect()
}

/// Everything that arrived, each fitting its schema.
fn events(endpoint: &Endpoint) -> Vec<Value> {
    let events: Vec<_> = endpoint.arrived().iter().map(Arrived::json).collect();
    for event in &events {
        let schema = pulsehook::http::schemas::schema(text(&event["event_type"])).expect("every type has a schema");
        assert!(jsonschema::is_valid(&schema, event), "{event:#}");
    }
    events
}

fn kinds(endpoint: &Endpoint) -> Vec<String> {
    events(endpoint).iter().map(|event| text(&event["event_type"]).to_owned()).collect()
}

/// One look after so long.
async fn look_after(app: &TestApp, span: Duration) {
    app.advance(span);
    app.drain().await;
}

on_both!({
    async fn a_site_that_falls_silent_is_told_once_and_its_return_once(database: Database) {
        let (endpoint, cold) = (always().await, always().await);
        let app = TestApp::start(database).await;
        let site_id = site(&app, SITE).await;
        site(&app, "cold.example").await;
        app.analytics.import(history(&app, site_id, 5 * MINUTE, PAGEVIEW)).await.unwrap();
        let trigger = json!([{"type": "no_data", "notify_end": true}]);
        webhook_of(&app, SITE, &endpoint, trigger.clone()).await;
        webhook_of(&app, "cold.example", &cold, trigger).await;
        // One that only watches is recorded, and sends nothing.
        let shadow = webhook_of(&app, SITE, &cold, json!([{"type": "no_data", "shadow": true}])).await;
        app.drain().await;
        look_after(&app, 55 * MINUTE).await;
        assert_eq!(kinds(&endpoint), [""; 0], "not yet");
        look_after(&app, 6 * MINUTE).await;
        assert_eq!(kinds(&endpoint), ["no_data"]);
        let path = format!("/api/sites/{SITE}/webhooks/{}/deliveries?trigger_type=no_data", text(&shadow["id"]));
        let recorded = app.get(&path).await.expect(200)["deliveries"].clone();
        assert_eq!((recorded.as_array().unwrap().len(), &recorded[0]["reason"]), (1, &json!("shadow")));
        let data = events(&endpoint)[0]["data"].clone();
        assert_eq!((&data["observed"], &data["silent_seconds"]), (&json!(0), &json!(66 * 60)));
        assert!((11.0..13.0).contains(&data["expected"].as_f64().unwrap()), "{data}");
        assert!(text(&data["reason"]).contains("No event for 66 minutes"), "{data}");
        look_after(&app, 3 * HOUR).await;
        let app = restarted(app, Setup::default).await;
        look_after(&app, 3 * HOUR).await;
        assert_eq!(kinds(&endpoint), ["no_data"], "once an incident");

        app.visit(1, "/").await;
        app.drain().await;
        assert_eq!(kinds(&endpoint), ["no_data", "no_data_ended"]);
        let ended = events(&endpoint)[1]["data"].clone();
        assert_eq!(ended["started_event_id"], events(&endpoint)[0]["event_id"]);
        assert_eq!(ended["ended_at"], app.now().to_string());
        look_after(&app, 50 * MINUTE).await;
        app.visit(2, "/").await;
        look_after(&app, 50 * MINUTE).await;
        assert_eq!(kinds(&endpoint).len(), 2, "it is heard of");
        look_after(&app, 20 * MINUTE).await;
        assert_eq!(kinds(&endpoint), ["no_data", "no_data_ended", "no_data"]);
        assert_eq!(kinds(&cold), [""; 0], "of a site that nobody visits nothing is missed");
        app.stop().await;
    }

    async fn time_in_which_nobody_took_hits_is_no_silence(database: Database) {
        let endpoint = always().await;
        let app = TestApp::start(database).await;
        let site_id = site(&app, SITE).await;
        app.analytics.import(history(&app, site_id, 5 * MINUTE, PAGEVIEW)).await.unwrap();
        webhook_of(&app, SITE, &endpoint, json!([{"type": "no_data"}])).await;
        app.drain().await;
        let clock = app.clock.clone();
        let database = app.stop().await;
        clock.advance(5 * HOUR);
        let app = TestApp::start_at(database, Setup::default(), clock).await;
        look_after(&app, 30 * MINUTE).await;
        assert_eq!(kinds(&endpoint), [""; 0]);
        look_after(&app, 31 * MINUTE).await;
        assert_eq!(kinds(&endpoint), ["no_data"]);
        app.stop().await;
    }

    async fn when_all_sites_are_silent_it_is_our_side_and_no_sites(database: Database) {
        let (silent, source) = (always().await, always().await);
        let app = TestApp::start(database).await;
        let site_id = site(&app, SITE).await;
        let other = site(&app, "other.example").await;
        app.analytics.import(history(&app, site_id, 5 * MINUTE, PAGEVIEW)).await.unwrap();
        app.analytics.import(history(&app, other, 2 * MINUTE, PAGEVIEW)).await.unwrap();
        webhook_of(&app, SITE, &silent, json!([{"type": "no_data"}])).await;
        webhook_of(&app, SITE, &source, json!([{"type": "error_condition", "notify_end": true}])).await;
        app.drain().await;
        for _ in 0..12 {
            look_after(&app, 10 * MINUTE).await;
        }
        assert_eq!(kinds(&source), ["error_condition"]);
        let data = events(&source)[0]["data"].clone();
        assert_eq!(data["condition"], "data_stale");
        assert!(text(&data["reason"]).contains("no event of any site"), "{data}");
        assert_eq!(kinds(&silent), [""; 0], "what nobody can tell is no silence");

        // The other comes back, and this one does not.
        for minutes in 1..=7u64 {
            app.analytics.record(vec![hit(other, app.now(), minutes, PAGEVIEW)]).await.unwrap();
            app.drain().await;
            assert_eq!(kinds(&source), ["error_condition", "error_condition_ended"]);
            assert_eq!(kinds(&silent), [""; 0], "its silence counts from then on");
            look_after(&app, 9 * MINUTE).await;
        }
        assert_eq!(kinds(&silent), ["no_data"]);
        assert_eq!(kinds(&source).len(), 2);
        app.stop().await;
    }

    async fn a_goal_that_stops_is_told_while_visitors_come(database: Database) {
        let endpoint = always().await;
        let app = TestApp::start(database).await;
        let site_id = site(&app, SITE).await;
        let goal = app.goal(json!({"event_name": "Signup"})).await;
        let rare = app.goal(json!({"event_name": "Rare"})).await;
        app.analytics.import(history(&app, site_id, 5 * MINUTE, PAGEVIEW)).await.unwrap();
        app.analytics.import(history(&app, site_id, 30 * MINUTE, "Signup")).await.unwrap();
        app.analytics.import(vec![hit(site_id, app.now() - 30 * HOUR, 1, "Rare")]).await.unwrap();
        let triggers = json!([
            {"type": "goal_stalled", "goal_id": goal["id"], "notify_end": true},
            {"type": "goal_stalled", "goal_id": rare["id"]},
        ]);
        webhook_of(&app, SITE, &endpoint, triggers).await;
        app.drain().await;
        // Nobody at all is no matter of the goal.
        for _ in 0..8 {
            look_after(&app, HOUR).await;
        }
        assert_eq!(kinds(&endpoint), [""; 0]);
        let mut silent = 0;
        for visitor in 0..72 {
            app.analytics.record(vec![hit(site_id, app.now(), visitor, PAGEVIEW)]).await.unwrap();
            look_after(&app, 5 * MINUTE).await;
            if kinds(&endpoint).is_empty() {
                silent += 5;
            }
        }
        assert_eq!(kinds(&endpoint), ["goal_stalled"]);
        // Once in two weeks chance alone leaves a gap of six and a half completions where there are 48 a day.
        assert!((180..=240).contains(&silent), "after {silent} minutes");
        let data = events(&endpoint)[0]["data"].clone();
        assert_eq!((text(&data["goal_name"]), &data["goal_id"]), ("Signup", &goal["id"]));
        let app = restarted(app, Setup::default).await;
        look_after(&app, MINUTE).await;
        assert_eq!(kinds(&endpoint).len(), 1);
        app.convert(1, "Signup").await;
        app.drain().await;
        assert_eq!(kinds(&endpoint), ["goal_stalled", "goal_stalled_ended"]);
        app.stop().await;
    }

    async fn milestones_are_told_once_a_period_whatever_restarts(database: Database) {
        let endpoint = always().await;
        let app = TestApp::start(database).await;
        site(&app, SITE).await;
        let goal = app.goal(json!({"event_name": "Signup"})).await;
        for visitor in 0..2 {
            app.visit(visitor, "/").await;
        }
        let triggers = json!([
            {"type": "milestone", "metric": "visitors", "step": 2},
            {"type": "milestone", "metric": "pageviews", "list": [3, 7]},
            {"type": "milestone", "metric": "conversions", "goal_id": goal["id"], "step": 2, "period": "month"},
        ]);
        // A moment later, so that what was before it was before.
        app.advance(MINUTE);
        webhook_of(&app, SITE, &endpoint, triggers).await;
        let told = || {
            let told = events(&endpoint).into_iter().map(|event| {
                let data = &event["data"];
                (text(&data["metric"]).to_owned(), data["milestone"].as_u64().unwrap(), data["count"].as_u64().unwrap())
            });
            let mut told: Vec<_> = told.collect();
            told.sort();
            told
        };
        let told_of = |metric: &str| {
            let of = told().into_iter().filter(|(of, ..)| of == metric).map(|(_, milestone, count)| (milestone, count));
            of.collect::<Vec<_>>()
        };
        look_after(&app, MINUTE).await;
        assert_eq!(told(), [], "two were there before");
        app.visit(2, "/").await;
        look_after(&app, MINUTE).await;
        assert_eq!((told_of("visitors"), told_of("pageviews")), (vec![], vec![(3, 3)]));
        app.convert(3, "Signup").await;
        app.convert(4, "Signup").await;
        look_after(&app, MINUTE).await;
        assert_eq!((told_of("visitors"), told_of("conversions")), (vec![(4, 5)], vec![(2, 2)]));
        let app = restarted(app, Setup::default).await;
        // Its first look is not to come upon some of the visits.
        app.drain().await;
        for _ in 0..6 {
            app.visit(5, "/").await;
        }
        look_after(&app, MINUTE).await;
        look_after(&app, MINUTE).await;
        assert_eq!(told_of("visitors"), [(4, 5), (6, 6)]);
        assert_eq!(told_of("pageviews"), [(3, 3), (7, 9)]);

        // A new day begins anew; the month goes on.
        app.advance(24 * HOUR);
        app.convert(6, "Signup").await;
        // It is counted between two that come at the same moment.
        app.drain().await;
        app.convert(7, "Signup").await;
        look_after(&app, MINUTE).await;
        assert_eq!(told_of("visitors"), [(2, 2), (4, 5), (6, 6)]);
        assert_eq!(told_of("conversions"), [(2, 2), (4, 4)]);
        assert_eq!(told_of("pageviews").len(), 2);
        app.stop().await;
    }

    async fn in_clickhouse_it_is_the_same(database: Database) {
        let clickhouse = ClickHouse::empty().await;
        let setup = || Setup { settings: vec![("analytics_url", clickhouse.url())], ..Setup::default() };
        let (quiet, stalls, counts, ours) = (always().await, always().await, always().await, always().await);
        let app = TestApp::start_with(database, setup()).await;
        let (one, other) = (site(&app, SITE).await, site(&app, "other.example").await);
        let goal = app.goal(json!({"event_name": "Signup"})).await;
        let row = |site: SiteId, at, visitor, name| Row { site: site.0, at, visitor, name, ..Row::default() };
        let now = app.now();
        let every = |span: Duration| {
            (1..DAYS * 86_400 / u32::try_from(span.as_secs()).unwrap())
                .map(move |ago| (now - span * ago, u64::from(ago)))
        };
        let mut rows: Vec<_> = every(5 * MINUTE).map(|(at, visitor)| row(one, at, visitor, "pageview")).collect();
        rows.extend(every(5 * MINUTE).map(|(at, visitor)| row(other, at, visitor, "pageview")));
        rows.extend(every(30 * MINUTE).map(|(at, visitor)| row(one, at, visitor, "Signup")));
        clickhouse.insert(&rows).await;
        webhook_of(&app, "other.example", &quiet, json!([{"type": "no_data", "notify_end": true}])).await;
        webhook_of(&app, SITE, &stalls, json!([{"type": "goal_stalled", "goal_id": goal["id"]}])).await;
        let milestones = json!([
            {"type": "milestone", "metric": "visitors", "step": 500},
            {"type": "milestone", "metric": "conversions", "list": [1, 1000]},
        ]);
        webhook_of(&app, SITE, &counts, milestones).await;
        webhook_of(&app, SITE, &ours, json!([{"type": "error_condition", "notify_end": true}])).await;
        app.drain().await;
        // The store does not answer for a while, which says nothing about any site.
        clickhouse.fault("kind=error&code=209&count=100000&containing=last_at").await;
        for _ in 0..4 {
            look_after(&app, 40 * MINUTE).await;
        }
        assert_eq!((kinds(&ours), kinds(&quiet), kinds(&stalls)), (vec!["error_condition".to_owned()], vec![], vec![]));
        assert_eq!(events(&ours)[0]["data"]["condition"], "analytics_unreachable");
        clickhouse.heal().await;
        // This one is visited as ever and converts no more; the other is not.
        for visitor in 0..26u64 {
            clickhouse.insert(&[row(one, app.now(), 100_000 + visitor, "pageview")]).await;
            look_after(&app, 10 * MINUTE).await;
            if visitor == 1 {
                assert_eq!(kinds(&quiet), [""; 0], "its silence counts from now on");
            }
        }
        assert_eq!(kinds(&ours), ["error_condition", "error_condition_ended"]);
        assert_eq!(kinds(&quiet), ["no_data"]);
        assert_eq!(kinds(&stalls), ["goal_stalled"]);
        clickhouse.insert(&[row(other, app.now(), 1, "pageview")]).await;
        let many: Vec<_> = (0..600).map(|visitor| row(one, app.now(), 200_000 + visitor, "pageview")).collect();
        clickhouse.insert(&many).await;
        for _ in 0..2 {
            look_after(&app, MINUTE).await;
            assert_eq!(kinds(&quiet), ["no_data", "no_data_ended"]);
            assert_eq!(kinds(&counts), ["milestone"]);
        }
        let data = events(&counts)[0]["data"].clone();
        assert_eq!((&data["metric"], &data["milestone"]), (&json!("visitors"), &json!(500)));
        let app = restarted(app, setup).await;
        look_after(&app, MINUTE).await;
        let all = [&quiet, &stalls, &counts, &ours].map(|endpoint| kinds(endpoint).len());
        assert_eq!(all, [2, 1, 1, 2], "nothing is told again after a restart");
        app.stop().await;
    }
});
