//! Triggers that count what visitors do, on both stores of traffic.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::app::{SITE, Setup, TestApp, text};
use crate::support::clickhouse::{ClickHouse, Row};
use crate::support::on_both;
use crate::support::zoo::{Behaviour, Endpoint};

const SECOND: Duration = Duration::from_secs(1);

async fn always() -> Endpoint {
    Endpoint::http([Behaviour::status(200)]).await
}

fn data(endpoint: &Endpoint) -> Vec<Value> {
    endpoint.arrived().iter().map(|one| one.json()["data"].clone()).collect()
}

fn total(endpoint: &Endpoint) -> u64 {
    data(endpoint).iter().map(|data| data["count"].as_u64().unwrap()).sum()
}

/// The same app on the same database, later.
async fn restarted(app: TestApp, setup: impl FnOnce() -> Setup) -> TestApp {
    let clock = app.clock.clone();
    TestApp::start_at(app.stop().await, setup(), clock).await
}

fn download(url: &str, plan: &str) -> Value {
    json!({"n": "Download", "u": url, "d": SITE, "p": {"plan": plan, "email": "somebody@example.org"}})
}

on_both!({
    async fn one_trigger_that_cannot_be_read_stops_no_other(database: Database) {
        let endpoint = always().await;
        let app = TestApp::start(database).await;
        app.site().await;
        app.goal(json!({"event_name": "Signup"})).await;
        let broken = app.webhook(&endpoint.url(), json!([{"type": "goal_completion"}])).await;
        app.webhook(&endpoint.url(), json!([{"type": "goal_completion"}])).await;
        // As a node of a later version may have written it.
        let settings = json!({"type": "from_tomorrow"}).to_string();
        let sql = "UPDATE triggers SET settings = $1 WHERE id = $2";
        app.database.rewrite(sql, &settings, text(&broken["triggers"][0]["id"])).await;
        let app = restarted(app, Setup::default).await;
        app.convert(1, "Signup").await;
        app.drain().await;
        assert_eq!(total(&endpoint), 1);
        app.stop().await;
    }

    async fn a_custom_event_is_counted_and_tells_only_the_properties_that_are_listed(database: Database) {
        let endpoint = always().await;
        let app = TestApp::start(database).await;
        app.site().await;
        let trigger = json!({"type": "custom_event", "event_name": "Download", "include_properties": ["plan", "size"]});
        let webhook = app.webhook(&endpoint.url(), json!([trigger])).await;
        assert_eq!(webhook["triggers"][0]["include_properties"], json!(["plan", "size"]));
        let page = format!("https://{SITE}/files");
        app.track(1, download(&page, "pro")).await;
        app.track(2, download(&page, "free")).await;
        app.track(3, download(&page, "pro")).await;
        app.convert(1, "Other").await;
        app.visit(1, "/files").await;
        app.drain().await;
        assert_eq!(total(&endpoint), 3);
        let mut plans = std::collections::BTreeMap::new();
        for arrived in endpoint.arrived() {
            assert_eq!(arrived.header("x-webhook-event-type"), Some("custom_event"));
            let payload = arrived.json();
            let schema = app.get("/api/schemas/custom_event").await.expect(200);
            let validator = jsonschema::validator_for(&schema).unwrap();
            assert!(validator.is_valid(&payload), "{payload}");
            assert!(!payload.to_string().contains("somebody"), "{payload}");
            let data = &payload["data"];
            assert_eq!(data["event_name"], "Download");
            assert_eq!(data["top_pages"][0]["page"], "/files");
            assert_eq!(data["properties"]["size"], json!([]));
            for value in data["properties"]["plan"].as_array().unwrap() {
                *plans.entry(text(&value["value"]).to_owned()).or_insert(0) += value["count"].as_u64().unwrap();
            }
        }
        assert_eq!(plans, [("free".to_owned(), 1), ("pro".to_owned(), 2)].into());

        let app = restarted(app, Setup::default).await;
        app.drain().await;
        assert_eq!(total(&endpoint), 3, "nothing is told again after a restart");
        app.track(4, download(&page, "pro")).await;
        app.drain().await;
        assert_eq!(data(&endpoint).last().unwrap()["reason"], "\"Download\" happened once.");
        assert_eq!(total(&endpoint), 4);
        app.stop().await;
    }

    async fn filters_let_through_what_is_like_them(database: Database) {
        let app = TestApp::start(database).await;
        app.site().await;
        app.goal(json!({"event_name": "Signup"})).await;
        let endpoints = [always().await, always().await, always().await, always().await, always().await];
        let event = json!({"type": "custom_event", "event_name": "Download"});
        let triggers = [
            json!({"type": "goal_completion", "page": "/blog/*"}),
            json!({"type": "goal_completion", "source": "Direct / None", "hostname": "www.shop.example.com"}),
            json!({"type": "custom_event", "event_name": "Download", "properties": {"plan": "pro"}, "page": "/a"}),
            json!({"type": "custom_event", "event_name": "Download", "source": "Hacker News"}),
            event,
        ];
        for (endpoint, trigger) in endpoints.iter().zip(&triggers) {
            app.webhook(&endpoint.url(), json!([trigger])).await;
        }
        for (visitor, (name, url, referrer)) in [
            ("Signup", format!("https://{SITE}/blog/a/b"), ""),
            ("Signup", format!("https://{SITE}/blogs"), "https://news.ycombinator.com/"),
            ("Signup", "https://shop.example.com/".to_owned(), ""),
            ("Signup", "https://shop.example.com/".to_owned(), "https://news.ycombinator.com/"),
        ]
        .into_iter()
        .enumerate()
        {
            let visitor = u32::try_from(visitor).unwrap();
            app.track(visitor, json!({"n": name, "u": url, "d": SITE, "r": referrer})).await;
        }
        let hacker_news = |plan, path| {
            let mut body = download(&format!("https://{SITE}{path}"), plan);
            body["r"] = json!("https://news.ycombinator.com/");
            body
        };
        app.track(11, hacker_news("pro", "/a")).await;
        app.track(12, hacker_news("free", "/a")).await;
        app.track(13, hacker_news("pro", "/a/b")).await;
        app.track(14, download(&format!("https://{SITE}/a"), "pro")).await;
        app.drain().await;
        assert_eq!(endpoints.each_ref().map(total), [1, 1, 2, 3, 4]);
        app.stop().await;
    }

    async fn what_is_gathered_is_told_together_and_once(database: Database) {
        let (by_time, by_count) = (always().await, always().await);
        let app = TestApp::start(database).await;
        app.site().await;
        app.goal(json!({"event_name": "Signup"})).await;
        let trigger =
            json!({"type": "custom_event", "event_name": "Download", "batch": "15m", "include_properties": ["plan"]});
        let webhook = app.webhook(&by_time.url(), json!([trigger])).await;
        let counted = app.webhook(&by_count.url(), json!([{"type": "goal_completion", "batch": 3}])).await;
        let page = format!("https://{SITE}/files");
        app.track(1, download(&page, "pro")).await;
        app.track(2, download(&page, "free")).await;
        app.convert(1, "Signup").await;
        app.convert(2, "Signup").await;
        app.drain().await;
        app.advance(300 * SECOND);
        app.convert(3, "Signup").await;
        app.drain().await;
        assert_eq!(data(&by_time), [Value::Null; 0]);
        assert_eq!(data(&by_count).len(), 1);
        assert_eq!(data(&by_count)[0]["count"], 3);
        let key = app.key.clone();
        let mut app = restarted(app, Setup::default).await;
        app.key = key;
        app.track(3, download(&page, "pro")).await;
        app.drain().await;
        assert_eq!(data(&by_time), [Value::Null; 0]);
        app.advance(600 * SECOND);
        for _ in 0..2 {
            app.drain().await;
            let [told] = &data(&by_time)[..] else { panic!("{:?}", data(&by_time)) };
            assert_eq!((&told["count"], &told["window_start"]), (&json!(3), &json!(crate::support::app::START)));
            let plans = json!([{"value": "pro", "count": 2}, {"value": "free", "count": 1}]);
            assert_eq!(told["properties"]["plan"], plans);
            assert_eq!(told["top_pages"], json!([{"page": "/files", "visitors": 3}]));
        }
        // What waits when its trigger stops gathering is told then.
        app.track(4, download(&page, "pro")).await;
        app.drain().await;
        assert_eq!(total(&by_time), 3);
        let path = format!("/api/sites/{SITE}/webhooks/{}", text(&webhook["id"]));
        let trigger = format!("{path}/triggers/{}", text(&webhook["triggers"][0]["id"]));
        app.patch(&trigger, json!({"batch": null})).await.expect(200);
        app.drain().await;
        assert_eq!(total(&by_time), 4);
        app.track(5, download(&page, "pro")).await;
        app.drain().await;
        assert_eq!(total(&by_time), 5);

        // Many looks make many parts, and few of a number are told after a day; a pause keeps them.
        for visitor in 0..60 {
            app.advance(SECOND);
            app.convert(visitor, if visitor == 7 { "Signup" } else { "Other" }).await;
        }
        app.drain().await;
        let path = format!("/api/sites/{SITE}/webhooks/{}", text(&counted["id"]));
        app.patch(&path, json!({"active": false})).await.expect(200);
        app.advance(86_400 * SECOND);
        app.drain().await;
        assert_eq!(total(&by_count), 3);
        app.patch(&path, json!({"active": true})).await.expect(200);
        app.drain().await;
        assert_eq!(total(&by_count), 4);
        app.stop().await;
    }

    async fn a_batch_of_many_looks_is_folded_and_loses_nothing(database: Database) {
        let endpoint = always().await;
        let app = TestApp::start(database).await;
        app.site().await;
        app.goal(json!({"event_name": "Signup"})).await;
        app.webhook(&endpoint.url(), json!([{"type": "goal_completion", "batch": 120}])).await;
        for visitor in 0..119 {
            app.convert(visitor, "Signup").await;
            app.drain().await;
        }
        let [batch] = app.store.operator_batches().await.unwrap()[..] else { panic!("one batch waits") };
        assert!(batch.count == 119 && batch.parts < 60, "{batch:?}");
        assert_eq!(total(&endpoint), 0);
        app.convert(119, "Signup").await;
        app.drain().await;
        assert_eq!(data(&endpoint).len(), 1);
        assert_eq!(total(&endpoint), 120);
        assert_eq!(app.store.operator_batches().await.unwrap(), []);
        app.stop().await;
    }

    async fn in_clickhouse_batches_are_the_same(database: Database) {
        let clickhouse = ClickHouse::empty().await;
        let setup = || Setup { settings: vec![("analytics_url", clickhouse.url())], ..Setup::default() };
        let endpoint = always().await;
        let app = TestApp::start_with(database, setup()).await;
        let site: i64 = text(&app.site().await["id"]).parse().unwrap();
        let trigger = json!({"type": "custom_event", "event_name": "Download", "batch": 4});
        app.webhook(&endpoint.url(), json!([trigger])).await;
        app.drain().await;
        let mut app = app;
        for visitor in 1..=4 {
            assert_eq!(total(&endpoint), 0);
            clickhouse.insert(&[Row { site, name: "Download", visitor, at: app.now(), ..Row::default() }]).await;
            app.advance(5 * SECOND);
            app.drain().await;
            if visitor == 2 {
                app = restarted(app, setup).await;
            }
        }
        app.advance(5 * SECOND);
        app.drain().await;
        assert_eq!((data(&endpoint).len(), total(&endpoint)), (1, 4));
        app.stop().await;
    }

    async fn a_spike_behind_a_filter_counts_only_what_is_like_it(database: Database) {
        let app = TestApp::start(database).await;
        app.site().await;
        let endpoints = [always().await, always().await, always().await];
        let spike = |filter: Value| {
            let mut trigger = json!({"type": "visitor_spike", "baseline": "fixed", "min_visitors": 3});
            trigger.as_object_mut().unwrap().extend(filter.as_object().unwrap().clone());
            trigger
        };
        let filters =
            [json!({"page": "/blog/*"}), json!({"source": "Hacker News", "hostname": "example.com"}), json!({})];
        for (endpoint, filter) in endpoints.iter().zip(filters) {
            app.webhook(&endpoint.url(), json!([spike(filter)])).await;
        }
        let visit = async |app: &TestApp, visitor, path: &str, referrer: &str| {
            let url = format!("https://{SITE}{path}");
            app.track(visitor, json!({"n": "pageview", "u": url, "d": SITE, "r": referrer})).await;
        };
        const HACKER_NEWS: &str = "https://news.ycombinator.com/";
        // An hour before.
        visit(&app, 100, "/", "").await;
        app.drain().await;
        app.advance(Duration::from_secs(3_660));
        visit(&app, 1, "/", HACKER_NEWS).await;
        visit(&app, 1, "/blog/a", HACKER_NEWS).await;
        visit(&app, 2, "/blog/b", "").await;
        app.drain().await;
        let fired = |endpoints: &[Endpoint; 3]| endpoints.each_ref().map(|endpoint| endpoint.arrived().len());
        assert_eq!(fired(&endpoints), [0, 0, 0]);
        // What was seen before a restart still counts.
        let key = app.key.clone();
        let mut app = restarted(app, Setup::default).await;
        app.key = key;
        visit(&app, 3, "/about", HACKER_NEWS).await;
        app.drain().await;
        assert_eq!(fired(&endpoints), [0, 0, 1]);
        visit(&app, 4, "/blog/a", HACKER_NEWS).await;
        app.drain().await;
        assert_eq!(fired(&endpoints), [1, 1, 1]);
        let told = |endpoint: &Endpoint| {
            let data = data(endpoint)[0].clone();
            let pages: Vec<_> =
                data["top_pages"].as_array().unwrap().iter().map(|page| text(&page["page"]).to_owned()).collect();
            (data["current_visitors"].as_u64().unwrap(), pages)
        };
        assert_eq!(told(&endpoints[0]), (3, vec!["/blog/a".to_owned(), "/blog/b".to_owned()]));
        let of_source = told(&endpoints[1]);
        assert_eq!((of_source.0, of_source.1.len()), (3, 3));
        // Where the rise of the whole site comes from: two of Hacker News against none an hour before.
        let data = data(&endpoints[2])[0].clone();
        let hacker_news = json!({"name": "Hacker News", "visitors": 2, "visitors_before": 0, "share_percent": 100});
        assert_eq!(data["rise_by_source"], json!([hacker_news]));
        assert_eq!(data["rise_by_page"][0]["name"], "/about");
        assert_eq!(data["rise_by_country"], json!([]));
        for endpoint in &endpoints {
            let payload = endpoint.arrived()[0].json();
            let schema = pulsehook::http::schemas::schema("visitor_spike").unwrap();
            assert!(jsonschema::is_valid(&schema, &payload), "{payload}");
        }
        app.stop().await;
    }

    async fn what_is_usual_is_learned_for_so_many_filters(database: Database) {
        let app = TestApp::start(database).await;
        app.site().await;
        let spike = |path: usize| json!({"type": "visitor_spike", "page": format!("/{path}")});
        let webhook = app.webhook("https://93.184.216.34/", (0..20).map(spike).collect()).await;
        let path = format!("/api/sites/{SITE}/webhooks/{}/triggers", text(&webhook["id"]));
        let refused = app.post(&path, spike(20)).await;
        assert!(text(&refused.expect(422)["detail"]).contains("20 different filters"), "{}", refused.text());
        let known = json!({"type": "visitor_drop", "page": "/7"});
        app.post(&path, known).await.expect(201);
        let sliding = json!({"type": "visitor_spike", "page": "/new", "baseline": "previous"});
        app.post(&path, sliding).await.expect(201);
        app.stop().await;
    }

    async fn in_clickhouse_filters_are_the_same(database: Database) {
        let clickhouse = ClickHouse::empty().await;
        let setup = || Setup { settings: vec![("analytics_url", clickhouse.url())], ..Setup::default() };
        let app = TestApp::start_with(database, setup()).await;
        let site: i64 = text(&app.site().await["id"]).parse().unwrap();
        let filters = [
            json!({"page": "/blog.posts/*"}),
            json!({"page": "/a"}),
            json!({"source": "Direct / None"}),
            json!({"country": "DE", "hostname": "shop.example.com"}),
        ];
        let mut endpoints = Vec::new();
        for filter in &filters {
            let mut trigger = json!({"type": "visitor_spike", "baseline": "fixed", "min_visitors": 2});
            trigger.as_object_mut().unwrap().extend(filter.as_object().unwrap().clone());
            let endpoint = always().await;
            app.webhook(&endpoint.url(), json!([trigger])).await;
            endpoints.push(endpoint);
        }
        app.drain().await;
        let row = |visitor, path, source, country, hostname| Row {
            site,
            at: app.now(),
            visitor,
            path,
            source,
            country,
            hostname,
            ..Row::default()
        };
        clickhouse
            .insert(&[
                row(1, "/blog.posts/x", "Google", "DE", "shop.example.com"),
                row(2, "/blogXposts/x", "Google", "DE", "example.com"),
                row(3, "/a", "Google", "FR", "shop.example.com"),
                row(4, "/b", "", "FR", "example.com"),
            ])
            .await;
        let look = async || {
            app.advance(5 * SECOND);
            app.drain().await;
            endpoints.iter().map(|endpoint| endpoint.arrived().len()).collect::<Vec<_>>()
        };
        assert_eq!(look().await, [0, 0, 0, 0]);
        clickhouse.insert(&[row(5, "/blog.posts/y", "Google", "", ""), row(6, "/a", "Google", "", "")]).await;
        assert_eq!(look().await, [1, 1, 0, 0]);
        clickhouse.insert(&[row(7, "/c", "", "", ""), row(8, "/c", "Google", "DE", "shop.example.com")]).await;
        assert_eq!(look().await, [1, 1, 1, 1]);
        let told = data(&endpoints[3])[0].clone();
        assert_eq!((&told["current_visitors"], &told["top_sources"][0]["visitors"]), (&json!(2), &json!(2)));
        let germany = json!({"name": "DE", "visitors": 2, "visitors_before": 0, "share_percent": 100});
        assert_eq!(told["rise_by_country"], json!([germany]));
        assert_eq!(data(&endpoints[0])[0]["top_pages"][0]["page"], "/blog.posts/x");
        app.stop().await;
    }

    async fn in_clickhouse_the_same_is_counted_once(database: Database) {
        let clickhouse = ClickHouse::empty().await;
        let setup = || Setup { settings: vec![("analytics_url", clickhouse.url())], ..Setup::default() };
        let app = TestApp::start_with(database, setup()).await;
        let site: i64 = text(&app.site().await["id"]).parse().unwrap();
        app.goal(json!({"event_name": "Signup"})).await;
        let [plain, from_germany, on_shop] = [always().await, always().await, always().await];
        let event = json!({"type": "custom_event", "event_name": "Download", "include_properties": ["plan"]});
        app.webhook(&plain.url(), json!([event, {"type": "goal_completion"}])).await;
        let german = json!({"type": "custom_event", "event_name": "Download", "country": "de"});
        app.webhook(&from_germany.url(), json!([german])).await;
        let shop = json!({"type": "goal_completion", "hostname": "shop.example.com"});
        app.webhook(&on_shop.url(), json!([shop])).await;
        app.drain().await;
        let row = |name, hostname, country| {
            let props = &[("plan", "pro"), ("email", "somebody@example.org")];
            Row { site, name, hostname, country, props, at: app.now(), ..Row::default() }
        };
        // Rows that differ in nothing but where they were, each in one order and then in the other.
        let rows = [
            row("Download", "example.com", "DE"),
            row("Download", "example.com", ""),
            row("Signup", "example.com", "FR"),
            row("Signup", "shop.example.com", "FR"),
        ];
        let look = async |app: &TestApp| {
            app.advance(5 * SECOND);
            app.drain().await;
        };
        clickhouse.insert(&rows[1..3]).await;
        look(&app).await;
        let counts = || [&plain, &from_germany, &on_shop].map(total);
        assert_eq!(counts(), [2, 0, 0]);
        clickhouse.insert(&[rows[0], rows[3]]).await;
        for _ in 0..3 {
            look(&app).await;
            assert_eq!(counts(), [4, 1, 1]);
        }
        let downloads: Vec<_> = data(&plain).into_iter().filter(|data| !data["event_name"].is_null()).collect();
        assert_eq!(downloads[0]["properties"], json!({"plan": [{"value": "pro", "count": 1}]}));
        let app = restarted(app, setup).await;
        look(&app).await;
        assert_eq!(counts(), [4, 1, 1], "nothing is told again after a restart");
        app.stop().await;
    }
});
