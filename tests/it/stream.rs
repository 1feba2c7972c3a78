//! What happens on a site, as it happens: nothing is left out, nobody hears what is not theirs.

use std::time::Duration;

use pulsehook::domain::access::Role;
use pulsehook::domain::event::{Addressee, Data, Event};
use pulsehook::domain::ids::{EventId, SiteId, WebhookId};
use pulsehook::domain::time::Timestamp;
use pulsehook::http::stream::{HEARTBEAT, LONGEST, MOST_OF_ONE, REACHES_BACK, RECHECK};
use pulsehook::store::outbox::{Fired, Step};
use pulsehook::store::shards::shard_of;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::Database;
use crate::support::app::{Answer, SITE, TestApp, text};
use crate::support::events::{Listener, Told};
use crate::support::on_both;
use crate::support::zoo::{Behaviour, Endpoint};

const STREAM: &str = "/api/sites/example.com/stream";

/// What came, in short.
fn short(told: &[Told]) -> Vec<(&str, &str)> {
    let word = |told: &Told| match told.event.as_str() {
        "attempt" => "outcome",
        _ => "status",
    };
    told.iter().map(|one| (one.event.as_str(), one.data[word(one)].as_str().unwrap_or_default())).collect()
}

/// Leaves visitors out: they come when they come.
fn of_deliveries(told: Vec<Told>) -> Vec<Told> {
    told.into_iter().filter(|told| told.event != "current_visitors").collect()
}

/// An event recorded at `moment`, as another node would that takes its time to commit.
async fn record_at(app: &TestApp, webhook: &Value, moment: Timestamp) -> EventId {
    let id = EventId(pulsehook::chance::Chance::from_system().uuid_v7(moment));
    let site_id: SiteId = text(&webhook["site_id"]).parse().unwrap();
    let webhook_id: WebhookId = text(&webhook["id"]).parse().unwrap();
    let addressee = Addressee {
        account_id: app.account_id,
        site_id,
        site_domain: SITE,
        webhook_id,
        format: pulsehook::domain::webhook::Format::Json,
        trigger: None,
    };
    let event = Event::new(id, &addressee, format!("test:{id}"), Data::test(), moment);
    let fired = Fired { event, shard: shard_of(site_id), trigger_version: None, state: None, shadow: false };
    app.store.record(Step { fired: vec![fired], ..Step::default() }, moment).await.unwrap();
    id
}

on_both!({
    async fn deliveries_and_attempts_show_as_they_happen(database: Database) {
        let endpoint = Endpoint::http([500, 200].map(Behaviour::status)).await;
        let app = TestApp::start(database).await;
        let hook = app.webhook_at(&endpoint).await;
        let before = hook.send_test().await;
        app.drain().await;
        let mut listener = Listener::start(&app).await;
        // What was there before is no news; what comes is.
        let id = hook.send_test().await;
        app.drain().await;
        app.api.streams.look(&app.api).await;
        let told = of_deliveries(listener.until("delivery", "id", &id).await);
        assert_eq!(short(&told), [("attempt", "success"), ("delivery", "success")], "{told:?}");
        assert_eq!(told[0].data["delivery_id"], *id);
        assert_eq!(told[0].data["response_code"], 200);
        // The same as the API shows.
        let mut shown = hook.delivery(&id).await;
        shown.as_object_mut().unwrap().remove("attempts");
        assert_eq!(told[1].data, shown);
        // A retry, and a delivery sent once more long after.
        app.advance(Duration::from_secs(10));
        app.drain().await;
        app.api.streams.look(&app.api).await;
        let told = of_deliveries(listener.until("delivery", "id", &before).await);
        assert_eq!(short(&told), [("attempt", "success"), ("delivery", "success")], "{told:?}");
        assert_eq!(told[0].data["number"], 2);
        app.advance(Duration::from_secs(7_200));
        listener.ended().await;
        let mut listener = Listener::start(&app).await;
        app.post(&format!("{}/deliveries/{before}/resend", hook.path), json!({})).await.expect(202);
        app.drain().await;
        app.api.streams.look(&app.api).await;
        let told = of_deliveries(listener.until("delivery", "id", &before).await);
        assert_eq!(short(&told), [("attempt", "success"), ("delivery", "success")], "{told:?}");
        assert_eq!((&told[0].data["number"], &told[1].data["attempt"]), (&json!(3), &json!(3)));
        app.stop().await;
        listener.ended().await;
    }

    async fn what_waits_shows_too(database: Database) {
        let endpoint = Endpoint::http([Behaviour::status(503)]).await;
        let app = TestApp::start(database).await;
        let hook = app.webhook_at(&endpoint).await;
        let mut listener = Listener::start(&app).await;
        let id = hook.send_test().await;
        app.drain().await;
        app.api.streams.look(&app.api).await;
        let told = of_deliveries(listener.until("delivery", "id", &id).await);
        assert_eq!(short(&told), [("attempt", "server_error"), ("delivery", "retrying")], "{told:?}");
        // Asked for again while nobody sends: it waits, and that shows.
        let webhook = hook.show().await;
        let moment = app.now();
        let waiting = record_at(&app, &webhook, moment).await.to_string();
        app.api.streams.look(&app.api).await;
        let told = of_deliveries(listener.until("delivery", "id", &waiting).await);
        assert_eq!(told.last().unwrap().data["next_attempt_at"], moment.to_string());
        app.stop().await;
    }

    async fn visitors_show_when_their_number_changes(database: Database) {
        let app = TestApp::start(database).await;
        app.site().await;
        app.visit(1, "/").await;
        let mut listener = Listener::start(&app).await;
        let visitors = |told: &Told| {
            assert_eq!(told.event, "current_visitors");
            told.data["current_visitors"].as_u64().unwrap()
        };
        assert_eq!(visitors(&listener.now(&app).await), 1);
        app.visit(2, "/").await;
        app.visit(2, "/again").await;
        assert_eq!(visitors(&listener.now(&app).await), 2);
        // The same number is no news: the next one that is told is another.
        app.visit(1, "/again").await;
        app.api.streams.look(&app.api).await;
        app.advance(Duration::from_secs(200));
        app.visit(1, "/").await;
        app.api.streams.look(&app.api).await;
        app.advance(Duration::from_secs(200));
        assert_eq!(visitors(&listener.now(&app).await), 1);
        // Whoever comes later hears the number at once.
        let mut second = Listener::start(&app).await;
        assert_eq!(visitors(&second.next().await.unwrap()), 1);
        app.stop().await;
    }

    async fn whoever_comes_back_is_told_what_he_missed(database: Database) {
        let endpoint = Endpoint::http([Behaviour::status(200)]).await;
        let app = TestApp::start(database).await;
        let hook = app.webhook_at(&endpoint).await;
        let old = hook.send_test().await;
        app.drain().await;
        app.advance(Duration::from_secs(1_000));
        let mut listener = Listener::start(&app).await;
        let first = hook.send_test().await;
        app.drain().await;
        app.api.streams.look(&app.api).await;
        listener.until("delivery", "id", &first).await;
        let id = listener.last_id.unwrap();
        drop(listener);
        // While nobody listens: an event, an old delivery sent once more, and another event much later.
        app.advance(Duration::from_secs(600));
        let second = hook.send_test().await;
        app.post(&format!("{}/deliveries/{old}/resend", hook.path), json!({})).await.expect(202);
        app.drain().await;
        app.advance(Duration::from_secs(600));
        let third = hook.send_test().await;
        app.drain().await;
        let mut listener = Listener::resume(&app, id).await;
        let told = of_deliveries(listener.until("delivery", "id", &third).await);
        for wanted in [&old, &second, &third] {
            let delivery = told.iter().find(|told| told.event == "delivery" && told.data["id"] == **wanted);
            assert_eq!(delivery.unwrap_or_else(|| panic!("{wanted} is missing: {told:?}")).data["status"], "success");
        }
        let resent = told.iter().find(|told| told.event == "attempt" && told.data["delivery_id"] == *old).unwrap();
        assert_eq!(resent.data["number"], 2, "the first attempt is old");
        // Cut off in the middle of it, he asks for all of it again.
        assert!(told.iter().all(|told| told.id == id), "{told:?}");
        let fourth = hook.send_test().await;
        app.drain().await;
        app.api.streams.look(&app.api).await;
        let told = listener.until("delivery", "id", &fourth).await;
        assert!(told.last().unwrap().id > id);
        // The address can say it too, for those who cannot send the header; who was away for too long reads the lists.
        let asked = app.request(Method::GET, &format!("{STREAM}?last_event_id={id}")).bearer_auth(&app.key);
        let mut listener = Listener::of(asked).await;
        listener.until("delivery", "id", &third).await;
        app.advance(REACHES_BACK);
        let mut listener = Listener::resume(&app, id).await;
        assert_eq!(listener.next().await.unwrap().event, "reset");
        let nonsense = app.request(Method::GET, STREAM).bearer_auth(&app.key).header("last-event-id", "x");
        assert!(Answer::of(nonsense).await.complaint("last_event_id").contains("id of an event"));
        app.stop().await;
    }

    async fn what_commits_late_is_not_missed(database: Database) {
        let endpoint = Endpoint::http([Behaviour::status(200)]).await;
        let app = TestApp::start(database).await;
        let hook = app.webhook_at(&endpoint).await;
        let webhook = hook.show().await;
        let mut listener = Listener::start(&app).await;
        let began = app.now();
        app.advance(Duration::from_secs(12));
        let prompt = hook.send_test().await;
        app.drain().await;
        app.api.streams.look(&app.api).await;
        listener.until("delivery", "id", &prompt).await;
        let (id, visitors) = (listener.last_id.unwrap(), listener);
        // Its id is older than everything that was told.
        let late = record_at(&app, &webhook, began + Duration::from_secs(1)).await.to_string();
        app.drain().await;
        app.api.streams.look(&app.api).await;
        let mut listener = visitors;
        let told = of_deliveries(listener.until("delivery", "id", &late).await);
        assert!(told.iter().all(|told| told.id > id), "ids grow all the same: {told:?}");
        // And so it is for whoever was not there then.
        let mut second = Listener::resume(&app, id).await;
        second.until("delivery", "id", &late).await;
        app.stop().await;
    }

    async fn nobody_hears_what_is_not_theirs(database: Database) {
        let endpoint = Endpoint::http([Behaviour::status(200)]).await;
        let app = TestApp::start(database).await;
        let hook = app.webhook_at(&endpoint).await;
        let (_, stranger) = app.account("Stranger", Role::Owner).await;
        let ask = async |key: &str, path: &str| Answer::of(app.request(Method::GET, path).bearer_auth(key)).await;
        let foreign = ask(&stranger, STREAM).await;
        let unknown = ask(&stranger, "/api/sites/nowhere.example/stream").await;
        assert_eq!((foreign.status.as_u16(), &foreign.body), (404, &unknown.body));
        ask("phk_wrong", STREAM).await.expect(401);
        Answer::of(app.request(Method::GET, STREAM)).await.expect(401);
        // A site of the stranger's own, and what happens next door.
        app.post_as(&stranger, "/api/sites", json!({"domain": "other.example"})).await.expect(201);
        let request = app.request(Method::GET, "/api/sites/other.example/stream").bearer_auth(&stranger);
        let mut other = Listener::begun(request).await;
        // Whoever may read may listen.
        let (_, viewer) = app.account("Test account", Role::Viewer).await;
        let mut listener = Listener::begun(app.request(Method::GET, STREAM).bearer_auth(&viewer)).await;
        let id = hook.send_test().await;
        app.drain().await;
        app.api.streams.look(&app.api).await;
        listener.until("delivery", "id", &id).await;
        let own = json!({"name": "x", "url": endpoint.url(), "triggers": [{"type": "goal_completion"}]});
        let made = app.post_as(&stranger, "/api/sites/other.example/webhooks", own).await.expect(201);
        let path = format!("/api/sites/other.example/webhooks/{}/test", text(&made["webhook"]["id"]));
        let own = app.post_as(&stranger, &path, json!({})).await.expect(202);
        app.drain().await;
        app.api.streams.look(&app.api).await;
        let own = text(&own["delivery"]["id"]);
        let told = of_deliveries(other.until("delivery", "id", own).await);
        for one in told {
            assert_eq!(*one.data.get("delivery_id").unwrap_or(&one.data["id"]), *own);
        }
        app.stop().await;
    }

    async fn a_stream_ends_with_its_key(database: Database) {
        let app = TestApp::start(database).await;
        app.site().await;
        let made = app.post("/api/keys", json!({"name": "x", "role": "viewer"})).await.expect(201);
        let key = text(&made["key"]).to_owned();
        let listener = Listener::begun(app.request(Method::GET, STREAM).bearer_auth(&key)).await;
        let mut other = Listener::start(&app).await;
        app.delete(&format!("/api/keys/{}", text(&made["api_key"]["id"]))).await.expect(204);
        app.advance(RECHECK);
        listener.ended().await;
        // Whose key still works hears on.
        app.visit(1, "/").await;
        app.api.streams.look(&app.api).await;
        while other.next().await.unwrap().data["current_visitors"] != 1 {}
        // And with its site.
        app.delete(&format!("/api/sites/{SITE}")).await.expect(204);
        app.advance(RECHECK);
        other.ended().await;
        app.stop().await;
    }
});

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_says_that_it_lives_and_ends_in_time() {
    crate::support::in_time(Box::pin(async {
        let app = TestApp::start(Database::sqlite()).await;
        app.site().await;
        let mut listener = Listener::start(&app).await;
        for _ in 0..3 {
            app.advance(HEARTBEAT);
            listener.heartbeat().await;
        }
        app.advance(LONGEST);
        listener.ended().await;
        // It ends at once when the process does.
        let listener = Listener::start(&app).await;
        app.stop().await;
        listener.ended().await;
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_one_key_are_counted() {
    crate::support::in_time(Box::pin(async {
        let app = TestApp::start(Database::sqlite()).await;
        app.site().await;
        let mut listeners = Vec::new();
        for _ in 0..MOST_OF_ONE {
            listeners.push(Listener::start(&app).await);
        }
        let ask = async || Answer::of(app.request(Method::GET, STREAM).bearer_auth(&app.key)).await;
        let refused = ask().await;
        assert_eq!(refused.expect(429)["code"], "too_many_requests");
        assert!(refused.header("retry-after").is_some());
        // Another key has places of its own.
        let (_, other) = app.account("Test account", Role::Viewer).await;
        Listener::begun(app.request(Method::GET, STREAM).bearer_auth(&other)).await;
        // Whoever goes makes room; that he is gone is seen when something is to be said to him.
        listeners.pop();
        loop {
            app.advance(HEARTBEAT);
            let again = app.request(Method::GET, STREAM).bearer_auth(&app.key).send().await.unwrap();
            if again.status() == 200 {
                break;
            }
        }
        app.stop().await;
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_who_does_not_read_is_cut_off_and_resumes() {
    crate::support::in_time(Box::pin(async {
        let endpoint = Endpoint::http([Behaviour::status(200)]).await;
        let app = TestApp::start(Database::sqlite()).await;
        let hook = app.webhook_at(&endpoint).await;
        let mut lazy = Listener::start(&app).await;
        let mut diligent = Listener::start(&app).await;
        let id = lazy.last_id.unwrap();
        let mut all = Vec::new();
        // More than buffers of sockets take.
        let webhook = hook.show().await;
        let mut rounds = 0;
        while !cut_off(&app) {
            rounds += 1;
            assert!(rounds < 200, "nobody is cut off");
            for _ in 0..50 {
                all.push(record_at(&app, &webhook, app.now()).await.to_string());
            }
            app.api.streams.look(&app.api).await;
            diligent.until("delivery", "id", all.last().unwrap()).await;
        }
        let mut heard = std::collections::BTreeSet::new();
        while let Some(told) = lazy.next().await {
            assert!(told.id >= id);
            heard.insert(told.data["id"].as_str().unwrap_or_default().to_owned());
            lazy.last_id = Some(told.id);
        }
        assert!(!all.iter().all(|id| heard.contains(id)), "he was not cut off");
        let mut again = Listener::resume(&app, lazy.last_id.unwrap()).await;
        let mut told = again.next().await.unwrap();
        while told.event != "reset" && !all.iter().all(|id| heard.contains(id)) {
            heard.insert(told.data["id"].as_str().unwrap_or_default().to_owned());
            told = again.next().await.unwrap();
        }
        // A thousand deliveries are told again; of more he hears that there were more.
        assert_eq!(told.event == "reset", all.len() >= 1_000, "{} deliveries", all.len());
        app.stop().await;
    }))
    .await;
}

fn cut_off(app: &TestApp) -> bool {
    app.api
        .metrics
        .render()
        .lines()
        .any(|line| line.starts_with("pulsehook_streams_cut_total ") && !line.ends_with(" 0"))
}
