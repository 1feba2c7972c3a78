//! From a hit to a webhook that was received, through the front door.

use std::collections::BTreeMap;
use std::time::Duration;

use pulsehook::clock::ManualClock;
use pulsehook::domain::hit::{Hit, PAGEVIEW, Page};
use pulsehook::domain::ids::SiteId;
use serde_json::{Value, json};

use crate::support::app::{SITE, START, Setup, TestApp, names, text};
use crate::support::on_both;
use crate::support::zoo::{Behaviour, Endpoint};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
/// Jitter only ever adds, and at most a tenth.
const MOST_JITTER: f64 = 1.1;

fn ids(deliveries: &[Value]) -> Vec<&str> {
    deliveries.iter().map(|delivery| text(&delivery["id"])).collect()
}

async fn always(status: u16) -> Endpoint {
    Endpoint::http([Behaviour::status(status)]).await
}

on_both!({
    async fn a_signup_reaches_the_endpoint(database: Database) {
        let endpoint = always(200).await;
        let app = TestApp::start(database).await;
        app.site().await;
        let goal = app.goal(json!({"event_name": "Signup"})).await;
        let webhook = app.webhook(&endpoint.url(), json!([{"type": "goal_completion", "goal_id": goal["id"]}])).await;
        app.visit(1, "/pricing").await;
        app.convert(1, "Signup").await;
        app.convert(2, "Other").await;
        app.drain().await;

        let arrived = endpoint.arrived();
        assert_eq!(arrived.len(), 1);
        let payload = arrived[0].json();
        assert_eq!(payload["event_type"], "goal_completion");
        assert_eq!(payload["site_domain"], SITE);
        assert_eq!(payload["webhook_id"], webhook["id"]);
        assert_eq!(payload["trigger_id"], webhook["triggers"][0]["id"]);
        assert_eq!(payload["data"]["goal_id"], goal["id"]);
        assert_eq!(payload["data"]["goal_name"], "Signup");
        assert_eq!(payload["data"]["count"], 1);
        assert_eq!(arrived[0].header("webhook-id"), payload["event_id"].as_str());
        assert_eq!(arrived[0].header("x-webhook-event-type"), Some("goal_completion"));
        app.stop().await;
    }

    async fn counts_add_up_to_the_completions_however_they_are_spread(database: Database) {
        let endpoint = always(200).await;
        let app = TestApp::start(database).await;
        let hook = app.webhook_at(&endpoint).await;
        app.goal(json!({"event_name": "Signup"})).await;
        for completions in [1, 7, 0, 3, 20] {
            for visitor in 0..completions {
                app.convert(visitor, "Signup").await;
            }
            app.drain().await;
        }
        let counts: u64 = endpoint.arrived().iter().map(|one| one.json()["data"]["count"].as_u64().unwrap()).sum();
        assert_eq!(counts, 31);
        assert_eq!(hook.deliveries().await.len(), endpoint.arrived().len());
        app.stop().await;
    }

    async fn pages_scrolls_and_properties_convert_as_plausible_says(database: Database) {
        let endpoint = always(200).await;
        let app = TestApp::start(database).await;
        app.webhook_at(&endpoint).await;
        app.goal(json!({"page_path": "/blog/**", "display_name": "Reads"})).await;
        app.goal(json!({"page_path": "/blog/a", "scroll_threshold": 80, "display_name": "Reads to the end"})).await;
        app.goal(json!({"event_name": "Buy", "custom_props": {"plan": "pro"}, "display_name": "Buys pro"})).await;
        let page = format!("https://{SITE}/blog/a");
        app.visit(1, "/blog/a").await;
        app.visit(1, "/about").await;
        app.track(1, json!({"n": "engagement", "u": page, "d": SITE, "sd": 40, "e": 1000})).await;
        app.track(1, json!({"n": "engagement", "u": page, "d": SITE, "sd": 90, "e": 2000})).await;
        app.track(1, json!({"n": "Buy", "u": page, "d": SITE, "p": {"plan": "free"}})).await;
        app.track(1, json!({"n": "Buy", "u": page, "d": SITE, "p": {"plan": "pro"}})).await;
        app.drain().await;
        let mut seen: Vec<_> = endpoint
            .arrived()
            .iter()
            .map(|one| {
                let data = &one.json()["data"];
                (
                    text(&data["goal_name"]).to_owned(),
                    text(&data["goal_type"]).to_owned(),
                    data["count"].as_u64().unwrap(),
                )
            })
            .collect();
        seen.sort();
        let expected = [("Buys pro", "event", 1), ("Reads", "page", 1), ("Reads to the end", "scroll", 1)];
        assert_eq!(seen, expected.map(|(name, kind, count)| (name.to_owned(), kind.to_owned(), count)));
        app.stop().await;
    }

    async fn what_completes_hundreds_of_goals_is_told_of_each_once(database: Database) {
        const GOALS: usize = 60;
        const WEBHOOKS: usize = 5;
        let app = TestApp::start(database).await;
        app.site().await;
        for number in 0..GOALS {
            app.goal(json!({"page_path": format!("/docs{}", "*".repeat(number + 1))})).await;
        }
        let mut webhooks = Vec::new();
        for _ in 0..WEBHOOKS {
            webhooks
                .push(app.webhook("https://example.com/", json!([{"type": "goal_completion", "shadow": true}])).await);
        }
        app.visit(1, "/docs/start").await;
        app.drain().await;
        for webhook in webhooks {
            let path = format!("/api/sites/{SITE}/webhooks/{}/deliveries", text(&webhook["id"]));
            let listed = app.get(&format!("{path}?limit=100")).await.expect(200);
            let mut told = BTreeMap::new();
            for delivery in listed["deliveries"].as_array().unwrap() {
                let shown = app.get(&format!("{path}/{}", text(&delivery["id"]))).await.expect(200);
                let data = &shown["delivery"]["payload"]["data"];
                *told.entry(text(&data["goal_name"]).to_owned()).or_insert(0) += data["count"].as_u64().unwrap();
            }
            assert_eq!(told.len(), GOALS);
            assert!(told.values().all(|count| *count == 1), "{told:?}");
        }
        app.stop().await;
    }

    async fn a_rush_is_told_once_and_again_only_after_it_ended(database: Database) {
        let endpoint = always(200).await;
        let app = TestApp::start(database).await;
        app.site().await;
        let spike = json!({"type": "visitor_spike", "baseline": "fixed", "min_visitors": 3, "cooldown": "10m"});
        app.webhook(&endpoint.url(), json!([spike])).await;
        for visitor in 1..=2 {
            app.visit(visitor, "/pricing").await;
        }
        app.drain().await;
        assert_eq!(endpoint.arrived().len(), 0);
        for visitor in 1..=6 {
            let body = json!({
                "n": "pageview", "u": format!("https://{SITE}/launch"), "d": SITE, "r": "https://news.ycombinator.com/"
            });
            app.track(visitor, body).await;
            app.drain().await;
        }
        let arrived = endpoint.arrived();
        assert_eq!(arrived.len(), 1, "one rush is one event");
        let payload = arrived[0].json();
        assert_eq!(payload["event_type"], "visitor_spike");
        assert_eq!(payload["data"]["current_visitors"], 3);
        assert_eq!(payload["data"]["baseline"], "fixed");
        assert_eq!(payload["data"]["window_seconds"], 300);
        assert_eq!(payload["data"]["top_pages"][0], json!({"page": "/launch", "visitors": 3}));

        // It ends, and the cooldown passes.
        app.advance(20 * MINUTE);
        app.drain().await;
        for visitor in 11..=13 {
            app.visit(visitor, "/again").await;
        }
        app.drain().await;
        assert_eq!(endpoint.arrived().len(), 2);
        app.stop().await;
    }

    async fn a_spike_is_measured_against_the_window_before(database: Database) {
        let endpoint = always(200).await;
        let app = TestApp::start(database).await;
        app.site().await;
        let spike = json!({"type": "visitor_spike", "baseline": "previous", "threshold": 100, "min_visitors": 6});
        app.webhook(&endpoint.url(), json!([spike])).await;
        for visitor in 0..5 {
            app.visit(visitor, "/").await;
        }
        app.advance(5 * MINUTE + SECOND);
        for visitor in 10..19 {
            app.visit(visitor, "/").await;
        }
        app.drain().await;
        assert_eq!(endpoint.arrived().len(), 0, "nine after five are 80 percent more");
        app.visit(19, "/").await;
        app.drain().await;
        let arrived = endpoint.arrived();
        assert_eq!(arrived.len(), 1);
        let data = arrived[0].json()["data"].clone();
        assert_eq!((data["current_visitors"].as_u64(), data["previous_visitors"].as_u64()), (Some(10), Some(5)));
        assert_eq!((data["change_percent"].as_u64(), data["threshold"].as_u64()), (Some(100), Some(100)));
        app.stop().await;
    }

    async fn typical_is_what_the_sites_own_history_says(database: Database) {
        let endpoint = always(200).await;
        let app = TestApp::start(database).await;
        let site = app.site().await;
        let site_id = SiteId(text(&site["id"]).parse().unwrap());
        app.analytics.import(ten_days_of_twenty_visitors(site_id, &app.clock)).await.unwrap();
        app.webhook(&endpoint.url(), json!([{"type": "visitor_spike"}])).await;
        app.drain().await;
        // Half as many again would be enough by percent, but not beyond this site's noise.
        for visitor in 0..31 {
            app.visit(visitor, "/").await;
        }
        app.drain().await;
        assert_eq!(endpoint.arrived().len(), 0, "31 instead of 20 is within what twenty visitors do by chance");
        for visitor in 31..60 {
            app.visit(visitor, "/").await;
        }
        app.drain().await;
        let arrived = endpoint.arrived();
        assert_eq!(arrived.len(), 1);
        let data = &arrived[0].json()["data"];
        assert_eq!(data["baseline"], "typical");
        assert_eq!(data["previous_visitors"], 20);
        let current = data["current_visitors"].as_u64().unwrap();
        assert_eq!(data["change_percent"].as_u64().unwrap(), (current - 20) * 5);
        app.stop().await;
    }

    async fn what_was_noticed_before_a_restart_is_not_noticed_again(database: Database) {
        let endpoint = always(200).await;
        let app = TestApp::start(database).await;
        app.site().await;
        app.goal(json!({"event_name": "Signup"})).await;
        let spike = json!({"type": "visitor_spike", "baseline": "fixed", "min_visitors": 2});
        app.webhook(&endpoint.url(), json!([spike, {"type": "goal_completion"}])).await;
        for visitor in 1..=2 {
            app.visit(visitor, "/").await;
            app.convert(visitor, "Signup").await;
        }
        app.drain().await;
        let before = endpoint.arrived().len();
        let clock = app.clock.clone();
        let database = app.stop().await;
        let app = TestApp::start_at(database, Setup::default(), clock).await;
        app.visit(3, "/").await;
        app.drain().await;
        assert_eq!(endpoint.arrived().len(), before);
        app.convert(3, "Signup").await;
        app.drain().await;
        assert_eq!(endpoint.arrived().len(), before + 1);
        app.stop().await;
    }

    async fn a_new_trigger_starts_with_its_creation(database: Database) {
        let endpoint = always(200).await;
        let app = TestApp::start(database).await;
        app.site().await;
        app.goal(json!({"event_name": "Signup"})).await;
        app.convert(1, "Signup").await;
        app.advance(SECOND);
        app.webhook(&endpoint.url(), json!([{"type": "goal_completion"}])).await;
        app.drain().await;
        assert_eq!(endpoint.arrived().len(), 0);
        app.convert(2, "Signup").await;
        app.drain().await;
        assert_eq!(endpoint.arrived().len(), 1);
        app.stop().await;
    }

    async fn a_shadow_trigger_records_and_sends_nothing(database: Database) {
        let endpoint = always(200).await;
        let app = TestApp::start(database).await;
        app.site().await;
        app.goal(json!({"event_name": "Signup"})).await;
        let webhook = app.webhook(&endpoint.url(), json!([{"type": "goal_completion", "shadow": true}])).await;
        app.convert(1, "Signup").await;
        app.drain().await;
        assert_eq!(endpoint.arrived().len(), 0);
        let path = format!("/api/sites/{SITE}/webhooks/{}/deliveries", text(&webhook["id"]));
        let listed = app.get(&path).await.expect(200);
        assert_eq!(listed["deliveries"][0]["status"], "cancelled");
        assert_eq!(listed["deliveries"][0]["reason"], "shadow");
        app.stop().await;
    }

    async fn a_failing_endpoint_is_tried_again_on_schedule_with_the_same_id_and_body(database: Database) {
        let endpoint = Endpoint::http([500, 503, 200].map(Behaviour::status)).await;
        let app = TestApp::start(database).await;
        let hook = app.webhook_at(&endpoint).await;
        let id = hook.send_test().await;
        app.drain().await;
        let delivery = hook.delivery(&id).await;
        assert_eq!(delivery["status"], "retrying");
        assert_eq!(delivery["response_code"], 500);
        assert_eq!(delivery["attempt"], 1);
        assert!(text(&delivery["error_message"]).contains("Look into its logs"), "{delivery}");
        assert_eq!(hook.show().await["status"], "failing");

        // One microsecond too early nothing happens.
        app.advance(5 * SECOND - Duration::from_micros(1));
        app.drain().await;
        assert_eq!(endpoint.arrived().len(), 1);
        app.advance((5 * SECOND).mul_f64(MOST_JITTER - 1.0) + Duration::from_micros(1));
        app.drain().await;
        assert_eq!(endpoint.arrived().len(), 2);
        app.advance(MINUTE.mul_f64(MOST_JITTER));
        app.drain().await;

        let arrived = endpoint.arrived();
        assert_eq!(arrived.len(), 3);
        assert!(arrived.iter().all(|one| one.header("webhook-id") == Some(id.as_str())));
        assert!(arrived.iter().all(|one| one.body == arrived[0].body));
        assert_ne!(arrived[0].header("webhook-timestamp"), arrived[2].header("webhook-timestamp"));
        let delivery = hook.delivery(&id).await;
        assert_eq!(delivery["status"], "success");
        assert_eq!(delivery["error_message"], Value::Null);
        let outcomes: Vec<_> =
            delivery["attempts"].as_array().unwrap().iter().map(|attempt| text(&attempt["outcome"])).collect();
        assert_eq!(outcomes, ["server_error", "server_error", "success"]);
        assert_eq!(hook.show().await["status"], "active");
        app.stop().await;
    }

    async fn ten_attempts_are_enough_and_a_resend_is_a_new_round(database: Database) {
        let endpoint = Endpoint::http((0..10).map(|_| 500).chain([200]).map(Behaviour::status)).await;
        let app = TestApp::start(database).await;
        let hook = app.webhook_at(&endpoint).await;
        let id = hook.send_test().await;
        let waits = [5 * SECOND, MINUTE, 5 * MINUTE, 15 * MINUTE, HOUR, 3 * HOUR, 6 * HOUR, 12 * HOUR, 24 * HOUR];
        for wait in waits {
            app.drain().await;
            app.advance(wait.mul_f64(MOST_JITTER));
        }
        app.drain().await;
        let delivery = hook.delivery(&id).await;
        assert_eq!((text(&delivery["status"]), text(&delivery["reason"])), ("failed", "attempts_exhausted"));
        assert_eq!(delivery["next_attempt_at"], Value::Null);
        assert_eq!(endpoint.arrived().len(), 10);

        let answer = app.post(&format!("{}/deliveries/{id}/resend", hook.path), json!({})).await.expect(202);
        assert_eq!(answer["delivery"]["status"], "pending");
        app.drain().await;
        let delivery = hook.delivery(&id).await;
        assert_eq!((text(&delivery["status"]), delivery["attempt"].as_u64()), ("success", Some(11)));
        assert_eq!(endpoint.arrived()[10].header("webhook-id"), Some(id.as_str()));
        app.stop().await;
    }

    async fn retry_after_is_honoured(database: Database) {
        let slow_down = Behaviour::with_headers(429, "retry-after: 90\r\n");
        let endpoint = Endpoint::http([slow_down, Behaviour::status(200)]).await;
        let app = TestApp::start(database).await;
        let hook = app.webhook_at(&endpoint).await;
        let id = hook.send_test().await;
        app.drain().await;
        let delivery = hook.delivery(&id).await;
        assert_eq!(delivery["attempts"][0]["response_headers"]["retry-after"], "90");
        app.advance(89 * SECOND);
        app.drain().await;
        assert_eq!(endpoint.arrived().len(), 1);
        app.advance(SECOND);
        app.drain().await;
        assert_eq!(hook.delivery(&id).await["status"], "success");
        app.stop().await;
    }

    async fn an_endpoint_that_answers_410_is_disabled_until_somebody_enables_it(database: Database) {
        let endpoint = Endpoint::http([410, 200].map(Behaviour::status)).await;
        let app = TestApp::start(database).await;
        let hook = app.webhook_at(&endpoint).await;
        app.goal(json!({"event_name": "Signup"})).await;
        let id = hook.send_test().await;
        app.drain().await;
        let delivery = hook.delivery(&id).await;
        assert_eq!((text(&delivery["status"]), text(&delivery["reason"])), ("failed", "endpoint_gone"));
        let webhook = hook.show().await;
        assert_eq!(webhook["status"], "disabled");
        assert!(text(&webhook["status_reason"]).contains("410"), "{webhook}");
        assert_eq!(app.post(&format!("{}/test", hook.path), json!({})).await.expect(409)["code"], "webhook_disabled");
        app.convert(1, "Signup").await;
        app.drain().await;
        assert_eq!(endpoint.arrived().len(), 1);

        app.advance(SECOND);
        let answer = app.patch(&hook.path, json!({"active": true})).await.expect(200);
        assert_eq!(answer["webhook"]["status"], "active");
        app.convert(2, "Signup").await;
        app.drain().await;
        assert_eq!(endpoint.arrived().len(), 2);
        app.stop().await;
    }

    async fn what_is_too_old_is_given_up(database: Database) {
        let endpoint = always(500).await;
        let app = TestApp::start(database).await;
        app.site().await;
        let spike = json!({"type": "visitor_spike", "baseline": "fixed", "min_visitors": 1});
        let webhook = app.webhook(&endpoint.url(), json!([spike])).await;
        app.visit(1, "/").await;
        for _ in 0..12 {
            app.drain().await;
            app.advance(6 * HOUR);
        }
        let path = format!("/api/sites/{SITE}/webhooks/{}/deliveries", text(&webhook["id"]));
        let delivery = &app.get(&path).await.expect(200)["deliveries"][0];
        assert_eq!((text(&delivery["status"]), text(&delivery["reason"])), ("failed", "expired"));
        app.stop().await;
    }

    async fn pausing_is_a_barrier_and_resuming_sends_what_waited(database: Database) {
        let endpoint = Endpoint::http([500, 200].map(Behaviour::status)).await;
        let app = TestApp::start(database).await;
        let hook = app.webhook_at(&endpoint).await;
        app.goal(json!({"event_name": "Signup"})).await;
        let id = hook.send_test().await;
        app.drain().await;
        let answer = app.patch(&hook.path, json!({"active": false})).await.expect(200);
        assert_eq!(answer["webhook"]["status"], "paused");
        app.advance(HOUR);
        app.convert(1, "Signup").await;
        app.drain().await;
        assert_eq!(endpoint.arrived().len(), 1, "nothing is attempted while it is paused");
        app.advance(SECOND);
        app.patch(&hook.path, json!({"active": true})).await.expect(200);
        app.drain().await;
        assert_eq!(hook.delivery(&id).await["status"], "success");
        assert_eq!(hook.deliveries().await.len(), 1, "what happened meanwhile is not made up for");
        app.stop().await;
    }

    async fn an_edit_holds_for_the_very_next_attempt(database: Database) {
        let (old, new) = (always(500).await, always(200).await);
        let app = TestApp::start(database).await;
        let hook = app.webhook_at(&old).await;
        let id = hook.send_test().await;
        app.drain().await;
        app.patch(&hook.path, json!({"url": new.url(), "headers": {"X-Token": "t0p"}})).await.expect(200);
        app.advance(6 * SECOND);
        app.drain().await;
        assert_eq!((old.arrived().len(), new.arrived().len()), (1, 1));
        assert_eq!(new.arrived()[0].header("x-token"), Some("t0p"));
        assert_eq!(hook.delivery(&id).await["status"], "success");
        app.stop().await;
    }

    async fn deleting_a_webhook_takes_everything_with_it(database: Database) {
        let endpoint = always(500).await;
        let app = TestApp::start(database).await;
        let hook = app.webhook_at(&endpoint).await;
        let id = hook.send_test().await;
        app.drain().await;
        assert_eq!(app.delete(&hook.path).await.status, 204);
        app.advance(HOUR);
        app.drain().await;
        assert_eq!(endpoint.arrived().len(), 1);
        for path in [hook.path.clone(), format!("{}/deliveries", hook.path), format!("{}/deliveries/{id}", hook.path)] {
            app.get(&path).await.expect(404);
        }
        app.stop().await;
    }

    async fn deleting_a_goal_or_a_trigger_silences_it(database: Database) {
        let endpoint = always(200).await;
        let app = TestApp::start(database).await;
        app.site().await;
        let first = app.goal(json!({"event_name": "First"})).await;
        app.goal(json!({"event_name": "Second"})).await;
        let webhook =
            app.webhook(&endpoint.url(), json!([{"type": "goal_completion"}, {"type": "visitor_spike"}])).await;
        let site = format!("/api/sites/{SITE}");
        app.delete(&format!("{site}/goals/{}", text(&first["id"]))).await.expect(204);
        app.convert(1, "First").await;
        app.convert(1, "Second").await;
        app.drain().await;
        assert_eq!(endpoint.arrived().len(), 1);
        let (webhook_id, trigger_id) = (text(&webhook["id"]), text(&webhook["triggers"][0]["id"]));
        app.delete(&format!("{site}/webhooks/{webhook_id}/triggers/{trigger_id}")).await.expect(204);
        app.convert(2, "Second").await;
        app.drain().await;
        assert_eq!(endpoint.arrived().len(), 1);
        app.stop().await;
    }

    async fn a_range_of_failures_is_resent(database: Database) {
        let endpoint = Endpoint::http([500, 500, 500, 200].map(Behaviour::status)).await;
        let app = TestApp::start(database).await;
        let hook = app.webhook_at(&endpoint).await;
        app.patch(&hook.path, json!({"retry_schedule": "1s"})).await.expect(200);
        let id = hook.send_test().await;
        app.drain().await;
        app.advance(2 * SECOND);
        app.drain().await;
        assert_eq!(hook.delivery(&id).await["status"], "failed");
        let later = app.now() + HOUR;
        let none = app.post(&format!("{}/resend", hook.path), json!({"from": later.to_string()})).await.expect(202);
        assert_eq!(none["count"], 0);
        let some = app.post(&format!("{}/resend", hook.path), json!({})).await.expect(202);
        assert_eq!(some["count"], 1);
        app.drain().await;
        app.advance(2 * SECOND);
        app.drain().await;
        assert_eq!(hook.delivery(&id).await["status"], "success");
        app.stop().await;
    }

    async fn one_endpoint_that_hangs_does_not_hold_up_another(database: Database) {
        let (dead, alive) = (Endpoint::http([Behaviour::HangAfterReading]).await, always(200).await);
        let app = TestApp::start(database).await;
        let hook = app.webhook_at(&dead).await;
        app.goal(json!({"event_name": "Signup"})).await;
        let other = app.webhook(&alive.url(), json!([{"type": "goal_completion"}])).await;
        // More than an endpoint that nobody knows yet may have under way at once.
        for _ in 0..40 {
            hook.send_test().await;
        }
        dead.wait_for(2).await;
        let path = format!("/api/sites/{SITE}/webhooks/{}/test", text(&other["id"]));
        app.post(&path, json!({})).await.expect(202);
        app.convert(1, "Signup").await;
        // Long enough for the evaluator to look, and nothing like the fifteen seconds the dead endpoint has.
        app.advance(SECOND);
        alive.wait_for(2).await;
        assert_eq!(dead.arrived().len(), 2);
        app.delete(&hook.path).await.expect(204);
        app.advance(15 * SECOND);
        app.stop().await;
    }

    async fn a_host_has_so_much_room_whoever_it_serves(database: Database) {
        let (slow, alive) = (Endpoint::http([Behaviour::HangAfterReading]).await, always(200).await);
        let setup = Setup {
            settings: vec![("host_in_flight", "3".to_owned())],
            resolver: Some(names([("slow.example", &["127.0.0.1"]), ("quick.example", &["127.0.0.1"])])),
            ..Setup::default()
        };
        let app = TestApp::start_with(database, setup).await;
        app.site().await;
        let at = |name: &str, endpoint: &Endpoint| format!("http://{name}:{}/hook", endpoint.address.port());
        let mut paths = Vec::new();
        // Five endpoints of one host, with more than it has room for.
        for _ in 0..5 {
            let webhook = app.webhook(&at("slow.example", &slow), json!([{"type": "goal_completion"}])).await;
            let path = format!("/api/sites/{SITE}/webhooks/{}", text(&webhook["id"]));
            app.post(&format!("{path}/test"), json!({})).await.expect(202);
            paths.push(path);
        }
        slow.wait_for(3).await;
        let other = app.webhook(&at("quick.example", &alive), json!([{"type": "goal_completion"}])).await;
        app.post(&format!("/api/sites/{SITE}/webhooks/{}/test", text(&other["id"])), json!({})).await.expect(202);
        alive.wait_for(1).await;
        assert_eq!(slow.arrived().len(), 3, "the host has no more room");
        for path in paths {
            app.delete(&path).await.expect(204);
        }
        app.advance(15 * SECOND);
        app.stop().await;
    }

    async fn what_is_owed_at_the_end_is_sent_at_the_next_start(database: Database) {
        let endpoint = Endpoint::http([500, 200].map(Behaviour::status)).await;
        let app = TestApp::start(database).await;
        let hook = app.webhook_at(&endpoint).await;
        let (id, path) = (hook.send_test().await, hook.path.clone());
        app.drain().await;
        let clock = app.clock.clone();
        let database = app.stop().await;
        clock.advance(10 * SECOND);
        let app = TestApp::start_at(database, Setup::default(), clock).await;
        app.drain().await;
        let delivery = app.get(&format!("{path}/deliveries/{id}")).await.expect(200);
        assert_eq!(delivery["delivery"]["status"], "success");
        app.stop().await;
    }

    async fn during_a_rotation_both_secrets_sign(database: Database) {
        let endpoint = always(200).await;
        let app = TestApp::start(database).await;
        let hook = app.webhook_at(&endpoint).await;
        let rotated = app.post(&format!("{}/secret/rotate", hook.path), json!({"overlap": "1h"})).await.expect(200);
        assert!(text(&rotated["signing_secret"]).starts_with("whsec_"));
        assert_eq!(rotated["previous_valid_until"], "2026-02-25T11:00:00Z");
        let webhook = hook.show().await;
        assert!(!webhook.to_string().contains(text(&rotated["signing_secret"])));
        hook.send_test().await;
        app.drain().await;
        app.advance(HOUR);
        hook.send_test().await;
        app.drain().await;
        let signatures = |index: usize| {
            let header = endpoint.arrived()[index].header("webhook-signature").unwrap().to_owned();
            header.split(' ').count()
        };
        assert_eq!((signatures(0), signatures(1)), (2, 1));
        app.stop().await;
    }

    async fn old_deliveries_are_removed(database: Database) {
        let endpoint = always(200).await;
        let setup = Setup { settings: vec![("retention", "1d".to_owned())], ..Setup::default() };
        let app = TestApp::start_with(database, setup).await;
        let hook = app.webhook_at(&endpoint).await;
        let old = hook.send_test().await;
        app.drain().await;
        // PostgreSQL forgets whole days.
        app.advance(49 * HOUR);
        let new = hook.send_test().await;
        app.drain().await;
        let before = app.now() - 24 * HOUR;
        // The janitor may have been faster.
        app.store.operator_prune_events(before, 100).await.unwrap();
        app.store.operator_drop_days(before).await.unwrap();
        let deliveries = hook.deliveries().await;
        assert_eq!(ids(&deliveries), [new.as_str()]);
        app.get(&format!("{}/deliveries/{old}", hook.path)).await.expect(404);
        app.stop().await;
    }

    async fn what_waits_for_a_paused_webhook_goes_when_its_time_is_over(database: Database) {
        let endpoint = always(500).await;
        let setup = Setup { settings: vec![("retention", "1d".to_owned())], ..Setup::default() };
        let app = TestApp::start_with(database, setup).await;
        let paused = app.webhook_at(&endpoint).await;
        let live = app.webhook(&endpoint.url(), json!([{"type": "goal_completion"}])).await;
        let live = format!("/api/sites/{SITE}/webhooks/{}", text(&live["id"]));
        let old = paused.send_test().await;
        let tried = app.post(&format!("{live}/test"), json!({})).await.expect(202)["delivery"]["id"].clone();
        app.drain().await;
        app.patch(&paused.path, json!({"active": false})).await.expect(200);
        let remove = async |before| {
            // The janitor may have been faster.
            app.store.operator_give_up_old(before, 100).await.unwrap();
            app.store.operator_prune_events(before, 100).await.unwrap();
            app.store.operator_drop_days(before).await.unwrap();
        };
        remove(app.now() - 24 * HOUR).await;
        assert_eq!(paused.delivery(&old).await["status"], "retrying", "it may be resumed yet");
        remove(app.now() + 24 * HOUR).await;
        // PostgreSQL keeps the day of what is still owed, but nothing of this one is.
        let gone = app.get(&format!("{}/deliveries/{old}", paused.path)).await;
        assert!(gone.status == 404 || gone.json()["delivery"]["status"] == "cancelled", "{}", gone.text());
        let owed = app.get(&format!("{live}/deliveries/{}", text(&tried))).await.expect(200);
        assert_eq!(owed["delivery"]["status"], "retrying", "it is still owed");
        app.stop().await;
    }
});

/// Twenty visitors in every five minutes, for ten days that end now.
fn ten_days_of_twenty_visitors(site_id: SiteId, clock: &ManualClock) -> Vec<Hit> {
    assert_eq!(clock.now().to_string(), START);
    let mut hits = Vec::new();
    for window in 1..=10 * 288_u32 {
        for visitor in 0..20 {
            let at = clock.now() - 300 * SECOND * window + SECOND;
            let page = Page { hostname: SITE.to_owned(), pathname: "/".to_owned() };
            hits.push(Hit { session: 1, page, ..Hit::new(site_id, at, u64::from(window * 100 + visitor), PAGEVIEW) });
        }
    }
    hits
}
