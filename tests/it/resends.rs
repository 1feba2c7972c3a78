//! What was missed is sent once more: counted first, then a little at a time, and stopped whenever its owner wants.

use std::time::Duration;

use pulsehook::chance::Chance;
use pulsehook::domain::event::{Addressee, Data, Event};
use pulsehook::domain::ids::EventId;
use pulsehook::store::outbox::{Fired, Step};
use pulsehook::store::shards::shard_of;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::app::{Answer, Hook, SITE, TestApp, text};
use crate::support::on_both;
use crate::support::zoo::{Behaviour, Endpoint};

/// More than waits in the queue at once: an endpoint that is sent 50 a second is resent 5, and two seconds of that wait.
const MISSED: usize = 25;
const WAITING: u64 = 10;

/// An endpoint that lost what it was sent: so many tests.
async fn after_an_accident<'a>(app: &'a TestApp, endpoint: &Endpoint, missed: usize) -> Hook<'a> {
    let hook = app.webhook_at(endpoint).await;
    for _ in 0..missed {
        hook.send_test().await;
    }
    app.drain().await;
    assert_eq!(endpoint.arrived().len(), missed);
    hook
}

async fn well() -> Endpoint {
    Endpoint::http([Behaviour::status(200)]).await
}

/// What was delivered is to be sent once more.
fn delivered() -> Value {
    json!({"status": "success"})
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is not a number"))
}

/// Starts a range and answers its path.
async fn start(app: &TestApp, hook: &Hook<'_>) -> String {
    let started = app.post(&format!("{}/resend", hook.path), delivered()).await.expect(202);
    format!("{}/resends/{}", hook.path, text(&started["resend"]["id"]))
}

/// Lets so many seconds pass, one after the other.
async fn live_through(app: &TestApp, seconds: u32) {
    for _ in 0..seconds {
        app.advance(Duration::from_secs(1));
        app.drain().await;
    }
}

async fn show(app: &TestApp, path: &str) -> Value {
    app.get(path).await.expect(200)["resend"].clone()
}

on_both!({
    async fn a_range_is_counted_before_anything_is_sent(database: Database) {
        let app = TestApp::start(database).await;
        let endpoint = well().await;
        let hook = after_an_accident(&app, &endpoint, 3).await;
        let path = format!("{}/resend", hook.path);
        let sent = endpoint.arrived().len();
        let counted = app.post(&path, json!({"status": "success", "dry_run": true})).await.expect(200);
        assert_eq!(counted, json!({"count": 3, "resend": null}));
        let later = (app.now() + Duration::from_secs(60)).to_string();
        for nothing in [
            json!({}),
            json!({"status": "success", "from": later}),
            json!({"status": "success", "trigger_type": "visitor_spike"}),
        ] {
            assert_eq!(app.post(&path, nothing).await.expect(202), json!({"count": 0, "resend": null}));
        }
        app.drain().await;
        assert_eq!(endpoint.arrived().len(), sent);
        app.stop().await;
    }

    async fn a_long_range_goes_out_at_a_share_of_the_rate_and_can_be_held(database: Database) {
        let app = TestApp::start(database).await;
        let endpoint = well().await;
        let hook = after_an_accident(&app, &endpoint, MISSED).await;
        let before = endpoint.arrived().len();
        let started = app.post(&format!("{}/resend", hook.path), delivered()).await.expect(202);
        assert_eq!(started["count"], MISSED);
        let resend = format!("{}/resends/{}", hook.path, text(&started["resend"]["id"]));
        let first = show(&app, &resend).await;
        assert_eq!((number(&first["queued"]), text(&first["status"])), (WAITING, "running"));

        app.patch(&resend, json!({"status": "paused"})).await.expect(200);
        live_through(&app, 10).await;
        let held = show(&app, &resend).await;
        assert_eq!((number(&held["queued"]), text(&held["status"])), (WAITING, "paused"));
        assert_eq!(endpoint.arrived().len() - before, 10, "what was in the queue went out, and nothing else");

        app.patch(&resend, json!({"status": "running"})).await.expect(200);
        let resumed = endpoint.arrived().len();
        let mut seconds = 0;
        while text(&show(&app, &resend).await["status"]) == "running" {
            live_through(&app, 1).await;
            seconds += 1;
            let sent = endpoint.arrived().len() - resumed;
            assert!(sent <= 5 * (seconds + 1), "{sent} in {seconds} s");
        }
        live_through(&app, 10).await;
        assert_eq!(number(&show(&app, &resend).await["queued"]), MISSED as u64);
        assert_eq!(endpoint.arrived().len() - before, MISSED, "each once, and no more");
        app.stop().await;
    }

    async fn a_range_that_is_cancelled_or_through_is_over(database: Database) {
        let app = TestApp::start(database).await;
        let endpoint = well().await;
        let hook = after_an_accident(&app, &endpoint, MISSED).await;
        let before = endpoint.arrived().len();
        let resend = start(&app, &hook).await;
        app.patch(&resend, json!({"status": "cancelled"})).await.expect(200);
        live_through(&app, 20).await;
        assert_eq!(endpoint.arrived().len() - before, 10);
        for status in ["running", "paused", "cancelled"] {
            let refused = app.patch(&resend, json!({"status": status})).await.expect(409);
            assert_eq!(refused["code"], "resend_over");
        }
        let listed = app.get(&format!("{}/resends", hook.path)).await.expect(200)["resends"].clone();
        assert_eq!(listed.as_array().unwrap().len(), 1);
        assert_eq!(listed[0]["status"], "cancelled");
        app.stop().await;
    }

    async fn a_range_waits_while_its_webhook_is_paused_and_survives_a_restart(database: Database) {
        let app = TestApp::start(database).await;
        let endpoint = well().await;
        let hook = after_an_accident(&app, &endpoint, MISSED).await;
        let before = endpoint.arrived().len();
        let resend = start(&app, &hook).await;
        app.patch(&hook.path, json!({"active": false})).await.expect(200);
        let sent = endpoint.arrived().len();
        live_through(&app, 10).await;
        assert_eq!(endpoint.arrived().len(), sent);
        assert_eq!(number(&show(&app, &resend).await["queued"]), WAITING);
        app.patch(&hook.path, json!({"active": true})).await.expect(200);
        let clock = app.clock.clone();
        let app = TestApp::start_at(app.stop().await, crate::support::app::Setup::default(), clock).await;
        live_through(&app, 40).await;
        assert_eq!(show(&app, &resend).await["status"], "done");
        assert_eq!(endpoint.arrived().len() - before, MISSED);
        app.stop().await;
    }

    async fn what_is_not_meant_is_passed_over_however_much_it_is(database: Database) {
        let endpoint = well().await;
        let app = TestApp::start(database).await;
        let hook = after_an_accident(&app, &endpoint, 1).await;
        let site = app.store.site(app.account_id, SITE).await.unwrap().unwrap();
        let addressee = Addressee {
            account_id: app.account_id,
            site_id: site.id,
            site_domain: SITE,
            webhook_id: text(&hook.show().await["id"]).parse().unwrap(),
            format: "json".parse().unwrap(),
            trigger: None,
        };
        // Of a shadow trigger: recorded and never sent, twice as many as are looked at in one go.
        let chance = Chance::seeded(2_500);
        let shadow = |number: u32| {
            let id = EventId(chance.uuid_v7(app.now()));
            let event = Event::new(id, &addressee, format!("shadow:{number}"), Data::test(), app.now());
            Fired { event, shard: shard_of(site.id), trigger_version: None, state: None, shadow: true }
        };
        app.advance(Duration::from_secs(1));
        let step = Step { fired: (0..2_500).map(shadow).collect(), ..Step::default() };
        app.store.record(step, app.now()).await.unwrap();
        app.advance(Duration::from_secs(1));
        hook.send_test().await;
        app.drain().await;
        let resend = start(&app, &hook).await;
        app.drain().await;
        let shown = show(&app, &resend).await;
        assert_eq!((number(&shown["queued"]), text(&shown["status"])), (2, "done"));
        assert_eq!(endpoint.arrived().len(), 4);
        app.stop().await;
    }

    async fn a_repeated_request_starts_one_range(database: Database) {
        let app = TestApp::start(database).await;
        let endpoint = well().await;
        let hook = after_an_accident(&app, &endpoint, 3).await;
        let before = endpoint.arrived().len();
        let path = format!("{}/resend", hook.path);
        let ask = async || {
            let request = app.request(Method::POST, &path).header("idempotency-key", "after the accident");
            Answer::of(request.bearer_auth(&app.key).json(&delivered())).await.expect(202)
        };
        assert_eq!(ask().await, ask().await);
        app.drain().await;
        assert_eq!(endpoint.arrived().len() - before, 3);
        assert_eq!(
            app.get(&format!("{}/resends", hook.path)).await.expect(200)["resends"].as_array().unwrap().len(),
            1
        );
        app.stop().await;
    }

    async fn what_is_wrong_with_a_request_is_said(database: Database) {
        let app = TestApp::start(database).await;
        let endpoint = well().await;
        let hook = after_an_accident(&app, &endpoint, 1).await;
        let path = format!("{}/resend", hook.path);
        let body = json!({"status": "late", "trigger_type": "x", "from": "yesterday", "dry_run": "yes", "more": 1});
        let errors = app.post(&path, body).await.expect(422)["errors"].clone();
        for field in ["status", "trigger_type", "from", "dry_run", "more"] {
            assert!(errors[field].is_array(), "{field}: {errors}");
        }
        let started = app.post(&path, delivered()).await.expect(202);
        let resend = format!("{}/resends/{}", hook.path, text(&started["resend"]["id"]));
        for body in [json!({}), json!({"status": "done"}), json!({"status": 1})] {
            app.patch(&resend, body).await.expect(422);
        }
        app.get(&format!("{}/resends/nothing", hook.path)).await.expect(404);
        app.get(&format!("/api/sites/{SITE}/webhooks/nothing/resends")).await.expect(404);
        app.stop().await;
    }
});
