//! Noticing in Plausible's ClickHouse: what is there is reported, once; what does not answer is not known.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use pulsehook::analytics::clickhouse::{Asked, ClickHouse as Store, HitRow, Limits, Mode, Seconds, Sites, Visitors};
use pulsehook::analytics::{AnalyticsError, Dimension};
use pulsehook::chance::Chance;
use pulsehook::clock::ManualClock;
use pulsehook::domain::goal::{Goal, GoalKind};
use pulsehook::domain::goal_index::GoalIndex;
use pulsehook::domain::hit::Hit;
use pulsehook::domain::ids::{GoalId, NodeId, SiteId};
use pulsehook::domain::time::Timestamp;
use pulsehook::store::shards::shard_of;
use serde_json::{Value, json};

use crate::support::app::{SITE, START, Setup, TestApp, text};
use crate::support::clickhouse::{CURRENT, ClickHouse, OLDEST, Row};
use crate::support::zoo::{Behaviour, Endpoint};
use crate::support::{in_time, on_both};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn start() -> Timestamp {
    START.parse().unwrap()
}

static PAGEVIEW: LazyLock<[String; 1]> = LazyLock::new(|| ["pageview".to_owned()]);

fn pageviews(sites: &[SiteId]) -> Asked<'_> {
    Asked { sites: Sites(sites), names: &*PAGEVIEW, with_place: true }
}

async fn connect(database: &ClickHouse) -> Result<Store, AnalyticsError> {
    let node = NodeId(Chance::seeded(1).uuid_v7(start()));
    Store::connect(&database.address(), node, ManualClock::at(start()).clock(), Mode::Theirs).await
}

/// An app that looks at the traffic of `clickhouse`, and an endpoint that takes everything.
async fn app_at(clickhouse: &ClickHouse, database: crate::support::Database) -> TestApp {
    let setup = Setup { settings: vec![("analytics_url", clickhouse.url())], ..Setup::default() };
    TestApp::start_with(database, setup).await
}

async fn always() -> Endpoint {
    Endpoint::http([Behaviour::status(200)]).await
}

async fn site_id(app: &TestApp) -> i64 {
    text(&app.site().await["id"]).parse().unwrap()
}

/// An app beside a ClickHouse, its one site, and an endpoint that is told of every sign-up.
async fn told_of_signups(database: crate::support::Database) -> (ClickHouse, Endpoint, TestApp, i64) {
    let clickhouse = ClickHouse::empty().await;
    let endpoint = always().await;
    let app = app_at(&clickhouse, database).await;
    let site = site_id(&app).await;
    app.goal(json!({"event_name": "Signup"})).await;
    app.webhook(&endpoint.url(), json!([{"type": "goal_completion"}])).await;
    app.drain().await;
    (clickhouse, endpoint, app, site)
}

/// Completions the endpoint was told of, by goal.
fn told(endpoint: &Endpoint) -> BTreeMap<String, u64> {
    let mut told = BTreeMap::new();
    for arrived in endpoint.arrived() {
        let data = &arrived.json()["data"];
        *told.entry(text(&data["goal_name"]).to_owned()).or_default() += data["count"].as_u64().unwrap();
    }
    told
}

/// One look after so long.
async fn look_after(app: &TestApp, span: Duration) {
    app.advance(span);
    app.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn current_visitors_are_plausibles() {
    in_time(async {
        for version in [CURRENT, OLDEST] {
            let database = ClickHouse::plausible(version).await;
            let store = connect(&database).await.unwrap();
            let now = start() + Duration::from_millis(700);
            let row = |visitor, ago, name| Row { visitor, at: start() - SECOND * ago, name, ..Row::default() };
            let rows = [
                row(1, 0, "pageview"),
                row(1, 10, "pageview"),
                row(2, 299, "Signup"),
                // Exactly five minutes ago, cut to the second, is still now; a second earlier is not.
                row(3, 300, "pageview"),
                row(4, 301, "pageview"),
                row(5, 600, "pageview"),
                row(6, 601, "pageview"),
                row(7, 5, "engagement"),
                Row { site: 2, ..row(1, 5, "pageview") },
            ];
            // Tables of old versions do not know how far a page was scrolled; rows say nothing of it here.
            database.insert_as(version, &rows).await;
            for sites in [vec![SiteId(1)], (0..900).map(SiteId).collect()] {
                let visitors = store.visitors(Sites(&sites), now).await.unwrap();
                assert_eq!(visitors[&SiteId(1)], Visitors { current: 3, previous: 2, open: 1 });
                assert_eq!(visitors.get(&SiteId(3)), None);
                assert_eq!(visitors.contains_key(&SiteId(2)), sites.len() > 1);
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_says_that_too_many_ask_is_there() {
    in_time(async {
        let database = ClickHouse::plausible(CURRENT).await;
        let store = connect(&database).await.unwrap();
        for (code, is_there) in [(202, true), (159, false), (202, true)] {
            database.fault(&format!("kind=error&code={code}")).await;
            assert_eq!(store.ping().await.is_ok(), is_there, "{code}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paths_match_as_in_plausibles_own_test() {
    in_time(async {
        let database = ClickHouse::plausible(CURRENT).await;
        let store = connect(&database).await.unwrap();
        let case: Value = serde_json::from_str(include_str!("../fixtures/plausible/page_paths.json")).unwrap();
        let paths = case["paths"].as_array().unwrap().iter().map(text);
        let rows: Vec<_> = paths.map(|path| Row { path, at: start(), ..Row::default() }).collect();
        database.insert(&rows).await;
        let visited = case["visited"].as_array().unwrap();
        let goal = |(id, of): (usize, &Value)| Goal {
            id: GoalId(i64::try_from(id).unwrap()),
            site_id: SiteId(1),
            display_name: text(&of[0]).to_owned(),
            kind: GoalKind::Page { path: text(&of[0]).to_owned() },
            custom_props: Vec::new(),
            currency: None,
            inserted_at: start(),
        };
        let index = GoalIndex::new(visited.iter().enumerate().map(goal).collect());
        let mut counts = vec![0; visited.len()];
        let sites = [SiteId(1)];
        let mut hit = Hit::new(SiteId(0), start(), 0, "");
        let each = |row: &HitRow<'_>| {
            row.write_to(&mut hit);
            for goal in index.matches(&hit) {
                counts[usize::try_from(goal.id.0).unwrap()] += 1;
            }
        };
        store.hits(pageviews(&sites), Seconds::Only(&[start().secs()]), each).await.unwrap();
        assert_eq!(counts, visited.iter().map(|of| of[1].as_u64().unwrap()).collect::<Vec<_>>());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_missing_is_said() {
    in_time(async {
        let said = |outcome: Result<Store, AnalyticsError>| match outcome {
            Err(AnalyticsError::Refused(sentence) | AnalyticsError::NoTable(sentence)) => sentence,
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("it was taken"),
        };
        let database = ClickHouse::empty().await;
        let sentence = said(connect(&database).await);
        assert!(sentence.contains("has no table events_v2 that this user may read"), "{sentence}");
        database.run("CREATE TABLE events_v2 (timestamp DateTime, name String) ENGINE = Memory").await;
        let sentence = said(connect(&database).await);
        assert!(sentence.contains("has no column site_id, user_id, session_id, pathname"), "{sentence}");
        for version in [CURRENT, OLDEST] {
            let store = connect(&ClickHouse::plausible(version).await).await.unwrap();
            assert_eq!(store.shape().has_scroll_depth, version == CURRENT);
            assert_eq!(store.shape().limits, Limits::AskedFor);
        }
        let database = ClickHouse::plausible(CURRENT).await;
        database.fault("kind=error&code=516").await;
        let sentence = said(connect(&database).await);
        assert!(sentence.contains("password") || sentence.contains("Authentication"), "{sentence}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_are_bounded_and_known_by_name() {
    in_time(async {
        let database = ClickHouse::plausible(CURRENT).await;
        let store = connect(&database).await.unwrap();
        let sites = [SiteId(1)];
        store.visitors(Sites(&sites), start()).await.unwrap();
        store.digests(pageviews(&sites), start().secs()..start().secs() + 1).await.unwrap();
        store.hits(pageviews(&sites), Seconds::Only(&[start().secs()]), |_| {}).await.unwrap();
        store.top(SiteId(1), None, start(), start(), Dimension::Page, 3).await.unwrap();
        store.first_hit_at(SiteId(1)).await.unwrap();
        store.rows_by_minute(start(), start() + MINUTE).await.unwrap();
        let queries = database.queries().await;
        let ours: Vec<_> = queries.iter().filter(|query| text(&query["query_id"]).starts_with("pulsehook-")).collect();
        assert_eq!(ours.len(), 6);
        for query in ours {
            assert_eq!(query["settings"]["readonly"], "2", "{query}");
            assert_eq!(query["settings"]["max_execution_time"], "20", "{query}");
            assert_eq!(query["settings"]["result_overflow_mode"], "throw", "{query}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_goes_wrong_is_an_error_and_not_a_zero() {
    in_time(async {
        let database = ClickHouse::plausible(CURRENT).await;
        let store = connect(&database).await.unwrap();
        let rows: Vec<_> = (0..2_000).map(|visitor| Row { visitor, at: start(), ..Row::default() }).collect();
        database.insert(&rows).await;
        let sites = [SiteId(1)];
        for fault in [
            "kind=close",
            "kind=reset",
            "kind=error&code=159",
            "kind=error&code=241",
            "kind=error&code=202",
            "kind=error&code=516",
            "kind=error&code=60",
            "kind=http&status=502&text=Bad%20Gateway",
            "kind=exception&form=text&code=159",
            "kind=exception&form=marker&code=159",
            "kind=exception&form=tagged&code=159",
            "kind=cut",
            "kind=garbage",
        ] {
            database.fault(&format!("{fault}&count=3")).await;
            let visitors = store.visitors(Sites(&sites), start()).await;
            let digests = store.digests(pageviews(&sites), start().secs()..start().secs() + 1).await;
            let hits = store.hits(pageviews(&sites), Seconds::Only(&[start().secs()]), |_| {}).await;
            assert!(visitors.is_err(), "{fault}: {visitors:?}");
            assert!(digests.is_err(), "{fault}: {digests:?}");
            let error = hits.expect_err(fault).to_string();
            assert!(error.len() < 500 && !error.contains('\n'), "{fault}: {error}");
            database.heal().await;
            assert_eq!(store.visitors(Sites(&sites), start()).await.unwrap()[&SiteId(1)].current, 2_000);
        }
    })
    .await;
}

on_both!({
    async fn what_is_there_is_reported_once(database: Database) {
        let clickhouse = ClickHouse::empty().await;
        let endpoint = always().await;
        let app = app_at(&clickhouse, database).await;
        let site = site_id(&app).await;
        let row = |name, path, ago| Row { site, name, path, at: app.now() - SECOND * ago, ..Row::default() };
        clickhouse.insert(&[row("Signup", "/", 1), row("pageview", "/thanks", 1)]).await;
        app.goal(json!({"event_name": "Signup"})).await;
        app.goal(json!({"page_path": "/thanks"})).await;
        app.goal(json!({"page_path": "/blog/**", "scroll_threshold": 60})).await;
        app.goal(json!({"event_name": "Buy", "custom_props": {"plan": "pro"}})).await;
        app.webhook(&endpoint.url(), json!([{"type": "goal_completion"}])).await;
        look_after(&app, 5 * SECOND).await;
        assert_eq!(told(&endpoint), BTreeMap::new(), "what was before a trigger is none of its business");
        // In the second a trigger was made in, what happened counts: rows know whole seconds only.
        let scroll = |depth, ago| Row { scroll_depth: depth, ..row("engagement", "/blog/a/b", ago) };
        let buy = |plan, ago| {
            let props: &[(&str, &str)] = if plan { &[("plan", "pro"), ("plan", "x")] } else { &[("plan", "free")] };
            Row { props, ..row("Buy", "/", ago) }
        };
        clickhouse
            .insert(&[
                row("Signup", "/", 0),
                row("Signup", "/", 0),
                row("signup", "/", 0),
                row("pageview", "/thanks", 0),
                row("pageview", "/thanks/", 0),
                scroll(60, 0),
                scroll(59, 1),
                scroll(255, 2),
                buy(true, 0),
                buy(false, 0),
            ])
            .await;
        look_after(&app, 5 * SECOND).await;
        let all = |signups, others| {
            let goals =
                [("Signup", signups), ("Visit /thanks", others), ("Scroll 60% on /blog/**", others), ("Buy", others)];
            goals.map(|(name, count)| (name.to_owned(), count)).into()
        };
        assert_eq!(told(&endpoint), all(2, 1), "twins are two");
        for _ in 0..3 {
            look_after(&app, 5 * SECOND).await;
        }
        assert_eq!(told(&endpoint), all(2, 1));
        // A third twin of the same second, and a row that lands half a minute late.
        clickhouse.insert(&[row("Signup", "/", 20), row("Signup", "/x", 19)]).await;
        look_after(&app, 5 * SECOND).await;
        assert_eq!(told(&endpoint), all(4, 1));
        let database = app.stop().await;
        let app = app_at_later(&clickhouse, database, 40 * SECOND).await;
        app.drain().await;
        assert_eq!(told(&endpoint), all(4, 1), "nothing is told again after a restart");
        app.stop().await;
    }

    async fn more_rows_than_are_kept_at_once_are_each_counted_once(database: Database) {
        let clickhouse = ClickHouse::empty().await;
        let endpoint = always().await;
        let app = app_at(&clickhouse, database).await;
        let created = app.post("/api/sites", json!({"domain": "other.example"})).await.expect(201);
        let sites = [site_id(&app).await, text(&created["site"]["id"]).parse().unwrap()];
        for domain in [SITE, "other.example"] {
            app.post(&format!("/api/sites/{domain}/goals"), json!({"event_name": "Signup"})).await.expect(201);
            let webhook = json!({"name": "w", "url": endpoint.url(), "triggers": [{"type": "goal_completion"}]});
            app.post(&format!("/api/sites/{domain}/webhooks"), webhook).await.expect(201);
        }
        app.drain().await;
        // Both limits are passed: that of rows, and with the second part that of texts.
        let long = format!("/{}", "long/".repeat(300));
        let row = |path, number| Row {
            site: sites[usize::from(number % 3 == 0)],
            name: "Signup",
            path,
            visitor: number,
            at: app.now(),
            ..Row::default()
        };
        let rows: Vec<_> = (0..9_000).map(|number| row("/", number)).collect();
        clickhouse.insert(&rows).await;
        look_after(&app, 5 * SECOND).await;
        let count = |count| BTreeMap::from([("Signup".to_owned(), count)]);
        assert_eq!(told(&endpoint), count(9_000));
        let rows: Vec<_> = (0..6_000).map(|number| row(long.as_str(), number)).collect();
        clickhouse.insert(&rows).await;
        for _ in 0..2 {
            look_after(&app, 5 * SECOND).await;
            assert_eq!(told(&endpoint), count(15_000));
        }
        assert_eq!(endpoint.arrived().len(), 4, "one event a goal and look");
        app.stop().await;
    }

    /// A machine of Plausible's has a clock that is hours ahead.
    async fn a_row_of_the_future_is_told_once_and_hides_nothing(database: Database) {
        let (clickhouse, endpoint, app, site) = told_of_signups(database).await;
        let ahead = 2 * 60 * MINUTE;
        let row = |visitor, at| Row { site, name: "Signup", visitor, at, ..Row::default() };
        clickhouse.insert(&[row(1, app.now() + ahead)]).await;
        look_after(&app, 5 * SECOND).await;
        for visitor in 2..=20 {
            clickhouse.insert(&[row(visitor, app.now())]).await;
            look_after(&app, 5 * SECOND).await;
            assert_eq!(told(&endpoint), BTreeMap::from([("Signup".to_owned(), visitor)]));
        }
        // Its moment comes and goes.
        for _ in 0..30 {
            look_after(&app, 5 * MINUTE).await;
        }
        assert_eq!(endpoint.arrived().len(), 20);
        app.stop().await;
    }

    /// A look asks two or three things at once; a profile may take one.
    async fn a_server_that_takes_one_statement_at_a_time_is_asked_so(database: Database) {
        let clickhouse = ClickHouse::empty().await;
        let endpoint = always().await;
        let app = app_at(&clickhouse, database).await;
        let site = site_id(&app).await;
        app.goal(json!({"event_name": "Signup"})).await;
        let spike = json!({"type": "visitor_spike", "baseline": "previous"});
        app.webhook(&endpoint.url(), json!([{"type": "goal_completion"}, spike])).await;
        app.drain().await;
        let row = |visitor| Row { site, name: "Signup", visitor, at: app.now(), ..Row::default() };
        clickhouse.insert(&[row(1)]).await;
        clickhouse.fault("kind=crowded&ms=50&count=1000").await;
        look_after(&app, 5 * SECOND).await;
        // What nobody waits for any more runs to its end all the same.
        while clickhouse.queries().await.iter().any(|query| query["state"] == "running") {}
        let refused = async || clickhouse.queries().await.iter().filter(|query| query["code"] == 202).count();
        let before = refused().await;
        assert!(before > 0, "that look asked too much");
        for visitor in 2..=4 {
            clickhouse.insert(&[row(visitor)]).await;
            look_after(&app, 5 * SECOND).await;
            assert_eq!(told(&endpoint), BTreeMap::from([("Signup".to_owned(), visitor)]));
        }
        assert_eq!(refused().await, before);
        app.stop().await;
    }

    async fn what_lands_very_late_is_found_by_the_sweep(database: Database) {
        let (clickhouse, endpoint, app, site) = told_of_signups(database).await;
        let made = app.now();
        for _ in 0..6 {
            look_after(&app, 50 * SECOND).await;
        }
        clickhouse.insert(&[Row { site, name: "Signup", at: made + SECOND, ..Row::default() }]).await;
        look_after(&app, 60 * SECOND).await;
        assert_eq!(told(&endpoint), BTreeMap::from([("Signup".to_owned(), 1)]));
        look_after(&app, 60 * SECOND).await;
        assert_eq!(endpoint.arrived().len(), 1);
        app.stop().await;
    }

    async fn a_few_statements_answer_for_every_site(database: Database) {
        let clickhouse = ClickHouse::empty().await;
        let endpoint = always().await;
        let setup = Setup {
            settings: vec![("analytics_url", clickhouse.url()), ("max_webhooks_per_account", "100".to_owned())],
            ..Setup::default()
        };
        let app = TestApp::start_with(database, setup).await;
        for number in 0..5 {
            let domain = format!("site-{number}.example");
            app.post("/api/sites", json!({"domain": domain})).await.expect(201);
            let goal = json!({"event_name": "Signup"});
            app.post(&format!("/api/sites/{domain}/goals"), goal).await.expect(201);
            let triggers = json!([{"type": "goal_completion"}, {"type": "visitor_spike", "baseline": "previous"}]);
            let webhook = json!({"name": "w", "url": endpoint.url(), "triggers": triggers});
            app.post(&format!("/api/sites/{domain}/webhooks"), webhook).await.expect(201);
        }
        let shown = app.get("/api/sites/site-0.example").await.expect(200);
        let site = text(&shown["site"]["id"]).parse().unwrap();
        let asked = async || {
            let before = clickhouse.queries().await.len();
            app.drain().await;
            let queries = clickhouse.queries().await;
            let mut times = BTreeMap::new();
            for query in &queries[before..] {
                *times.entry(purpose(query)).or_insert(0) += 1;
            }
            times
        };
        let times = |names: &[(&str, usize)]| -> BTreeMap<_, _> {
            names.iter().map(|(name, times)| ((*name).to_owned(), *times)).collect()
        };
        asked().await;
        assert_eq!(asked().await, times(&[("hits", 1), ("visitors", 1)]));
        let row = Row { site, name: "Signup", at: app.now(), ..Row::default() };
        clickhouse.insert(&[row]).await;
        assert_eq!(asked().await, times(&[("hits", 1), ("visitors", 1)]));
        // Seconds before the newest that was read are not read again; one more row, and theirs are.
        look_after(&app, Duration::from_secs(6)).await;
        app.advance(Duration::from_secs(6));
        let newer = Row { at: app.now(), visitor: 2, ..row };
        clickhouse.insert(&[newer]).await;
        assert_eq!(asked().await, times(&[("digests", 1), ("hits", 1), ("visitors", 1)]));
        assert_eq!(asked().await, times(&[("digests", 1), ("hits", 1), ("visitors", 1)]));
        clickhouse.insert(&[row]).await;
        assert_eq!(asked().await, times(&[("digests", 1), ("hits", 2), ("visitors", 1)]));
        assert_eq!(asked().await, times(&[("digests", 1), ("hits", 1), ("visitors", 1)]));
        app.drain().await;
        assert_eq!(told(&endpoint), BTreeMap::from([("Signup".to_owned(), 3)]));
        app.stop().await;
    }

    async fn a_rush_is_told_once_and_silence_of_clickhouse_is_not_the_end_of_it(database: Database) {
        let clickhouse = ClickHouse::empty().await;
        let endpoint = always().await;
        let app = app_at(&clickhouse, database).await;
        let site = site_id(&app).await;
        let spike = json!({"type": "visitor_spike", "baseline": "fixed", "min_visitors": 20, "cooldown": "1m"});
        app.webhook(&endpoint.url(), json!([spike])).await;
        let visits = |count: u64| {
            let at = app.now();
            (0..count).map(move |visitor| Row {
                site,
                visitor,
                at,
                source: "Hacker News",
                path: "/new",
                ..Row::default()
            })
        };
        clickhouse.insert(&visits(19).collect::<Vec<_>>()).await;
        look_after(&app, 5 * SECOND).await;
        assert_eq!(endpoint.arrived().len(), 0);
        clickhouse.insert(&visits(20).collect::<Vec<_>>()).await;
        look_after(&app, 5 * SECOND).await;
        let arrived = endpoint.arrived();
        assert_eq!(arrived.len(), 1);
        let data = &arrived[0].json()["data"];
        assert_eq!(data["current_visitors"], 20);
        assert_eq!(data["top_sources"], json!([{"source": "Hacker News", "visitors": 20}]));
        assert_eq!(data["top_pages"], json!([{"page": "/new", "visitors": 20}]));
        // Were no answer taken for nobody, the trigger would be armed again and fire a second time.
        for _ in 0..5 {
            clickhouse.fault("kind=error&code=159&count=10&containing=FROM%20events_v2").await;
            look_after(&app, 30 * SECOND).await;
            clickhouse.heal().await;
            look_after(&app, 15 * SECOND).await;
            assert_eq!(endpoint.arrived().len(), 1);
        }
        app.stop().await;
    }

    async fn what_was_missed_is_made_up_for_up_to_a_limit(database: Database) {
        let (clickhouse, endpoint, app, site) = told_of_signups(database).await;
        let signup = |at| Row { site, name: "Signup", at, ..Row::default() };
        // Ten minutes without an answer: all of it is made up for.
        clickhouse.fault("kind=error&code=159&count=1000&containing=FROM%20events_v2").await;
        for _ in 0..10 {
            app.advance(MINUTE);
            clickhouse.insert(&[signup(app.now())]).await;
            app.drain().await;
        }
        assert_eq!(endpoint.arrived().len(), 0);
        clickhouse.heal().await;
        look_after(&app, MINUTE).await;
        assert_eq!(told(&endpoint), BTreeMap::from([("Signup".to_owned(), 10)]));
        let gaps = format!("/api/sites/{SITE}/gaps");
        assert_eq!(app.get(&gaps).await.expect(200), json!({"gaps": [], "unknown_since": null}));
        // An hour away: the last quarter of it is made up for, and the rest is noted.
        let left = app.now();
        clickhouse.insert(&[signup(left + 20 * MINUTE), signup(left + 50 * MINUTE)]).await;
        let database = app.stop().await;
        let app = app_at_later(&clickhouse, database, 11 * MINUTE + 60 * MINUTE).await;
        app.drain().await;
        assert_eq!(told(&endpoint), BTreeMap::from([("Signup".to_owned(), 11)]));
        let answer = app.get(&gaps).await.expect(200);
        let noted = answer["gaps"].as_array().unwrap();
        assert_eq!(noted.len(), 1, "{answer}");
        let (from, until): (Timestamp, Timestamp) =
            (text(&noted[0]["from"]).parse().unwrap(), text(&noted[0]["until"]).parse().unwrap());
        assert!(left.since(from) <= MINUTE && until.since(left) == 45 * MINUTE, "{answer}");
        app.stop().await;
    }

    /// To save it writes every shard: what is told meanwhile is remembered by itself.
    async fn how_far_was_looked_is_saved_twice_a_minute_and_nothing_told_twice(database: Database) {
        let (clickhouse, endpoint, app, site) = told_of_signups(database).await;
        let saved = async || app.store.operator_looked_until(shard_of(SiteId(site))).await.unwrap();
        look_after(&app, 30 * SECOND).await;
        let before = app.now();
        for visitor in 1..=7 {
            clickhouse.insert(&[Row { site, name: "Signup", visitor, at: app.now(), ..Row::default() }]).await;
            look_after(&app, 5 * SECOND).await;
            assert_eq!(told(&endpoint), BTreeMap::from([("Signup".to_owned(), visitor)]));
            assert_eq!(saved().await, Some(before + 30 * SECOND * u32::from(visitor >= 6)));
        }
        // Whoever goes on from there looks again at what was told, and knows it.
        let database = app.stop().await;
        let app = app_at_later(&clickhouse, database, 70 * SECOND).await;
        app.drain().await;
        assert_eq!(told(&endpoint), BTreeMap::from([("Signup".to_owned(), 7)]));
        app.stop().await;
    }

    async fn nothing_is_missed_or_doubled_whatever_becomes_of_the_rows(database: Database) {
        let stream = Stream::of(400, 30);
        let (clickhouse, replica) = (ClickHouse::empty().await, ClickHouse::plausible(CURRENT).await);
        let endpoint = always().await;
        let mut app = app_at(&clickhouse, database).await;
        let site = site_id(&app).await;
        for name in &stream.names {
            app.goal(json!({"event_name": name})).await;
        }
        app.webhook(&endpoint.url(), json!([{"type": "goal_completion"}])).await;
        app.drain().await;
        let began = app.now();
        let mut shown = [0, 0];
        let mut dice = Chance::seeded(7);
        // Past the end, so that the slowest rows have landed and a sweep has gone over them.
        for second in (0..780).step_by(5) {
            for (index, (store, lag)) in [(&clickhouse, 0), (&replica, 3)].into_iter().enumerate() {
                let landed = stream.landed_by(second - lag);
                let rows: Vec<_> = landed[shown[index]..].iter().map(|row| row.at_site(site, began, &stream)).collect();
                if !rows.is_empty() {
                    store.insert(&rows).await;
                }
                shown[index] = landed.len();
            }
            // Each look meets either of two replicas, one of which is behind.
            if one_in(&mut dice, 2) {
                clickhouse.fault(&format!("kind=replica&to={}&containing=FROM%20events_v2", replica.name)).await;
            }
            if one_in(&mut dice, 20) {
                let database = app.stop().await;
                app = app_at_later(&clickhouse, database, Duration::from_secs(second.unsigned_abs())).await;
            }
            look_after(&app, 5 * SECOND).await;
            clickhouse.heal().await;
        }
        let expected = stream.rows.iter().fold(BTreeMap::new(), |mut counts, row| {
            *counts.entry(stream.names[row.name].clone()).or_default() += 1;
            counts
        });
        assert_eq!(told(&endpoint), expected);
        app.stop().await;
    }

    async fn an_hour_without_clickhouse_is_said_and_not_made_up(database: Database) {
        let clickhouse = ClickHouse::empty().await;
        let endpoint = always().await;
        let app = app_at(&clickhouse, database).await;
        let site = site_id(&app).await;
        app.goal(json!({"event_name": "Signup"})).await;
        let spike = json!({"type": "visitor_spike", "baseline": "fixed", "min_visitors": 20, "cooldown": "1m"});
        app.webhook(&endpoint.url(), json!([{"type": "goal_completion"}, spike])).await;
        app.drain().await;
        clickhouse.fault("kind=error&code=159&count=10000&containing=FROM%20events_v2").await;
        for _ in 0..60 {
            app.advance(MINUTE);
            clickhouse.insert(&[Row { site, name: "Signup", at: app.now(), ..Row::default() }]).await;
            app.drain().await;
        }
        assert_eq!(endpoint.arrived().len(), 0);
        let metrics = app.get("/metrics").await.expect_text(200);
        let unknown = metrics.lines().any(|line| line.starts_with("pulsehook_analytics_unknown_seconds "));
        assert!(unknown, "how long nothing has been known is a metric");
        let gaps = format!("/api/sites/{SITE}/gaps");
        let answer = app.get(&gaps).await.expect(200);
        let since: Timestamp = text(&answer["unknown_since"]).parse().unwrap();
        assert!((3_600..3_700).contains(&app.now().since(since).as_secs()), "{answer}");
        clickhouse.heal().await;
        look_after(&app, 30 * SECOND).await;
        app.drain().await;
        let told = told(&endpoint)["Signup"];
        assert!((15..=16).contains(&told), "{told} of the last quarter of an hour");
        let answer = app.get(&gaps).await.expect(200);
        assert_eq!(answer["gaps"].as_array().unwrap().len(), 1, "{answer}");
        assert_eq!(answer["unknown_since"], json!(null));
        app.stop().await;
    }

    async fn however_many_names_there_are_they_are_looked_for(database: Database) {
        let clickhouse = ClickHouse::empty().await;
        let endpoint = always().await;
        let app = app_at(&clickhouse, database).await;
        let site = site_id(&app).await;
        let name = |number: usize| format!("{number} {}", "x".repeat(100));
        let draft = |number| pulsehook::store::goals::GoalDraft {
            site_id: SiteId(site),
            display_name: name(number),
            kind: GoalKind::Event { name: name(number) },
            custom_props: Vec::new(),
            currency: None,
        };
        for number in 0..400 {
            app.store.create_goal(&app.change(app.account_id), &draft(number)).await.unwrap();
        }
        app.webhook(&endpoint.url(), json!([{"type": "goal_completion"}])).await;
        let wanted = name(399);
        let row = Row { site, at: app.now(), ..Row::default() };
        clickhouse.insert(&[Row { name: &wanted, ..row }, Row { name: "Another", ..row }]).await;
        look_after(&app, 5 * SECOND).await;
        assert_eq!(told(&endpoint), BTreeMap::from([(wanted, 1)]));
        let queries = clickhouse.queries().await;
        let hits: Vec<_> = queries.iter().filter(|query| purpose(query) == "hits").collect();
        assert!(!hits.is_empty() && hits.iter().all(|query| query["params"].to_string().len() < 40_000));
        app.stop().await;
    }

    async fn what_lands_too_late_is_counted(database: Database) {
        let clickhouse = ClickHouse::empty().await;
        let app = app_at(&clickhouse, database).await;
        let site = site_id(&app).await;
        let late = async || {
            let metrics = app.get("/metrics").await.expect_text(200);
            let line = metrics.lines().find_map(|line| line.strip_prefix("pulsehook_late_rows_total "));
            line.map_or(0, |value| value.parse::<u64>().unwrap())
        };
        let before = late().await;
        let at = app.now() + 5 * MINUTE;
        clickhouse.insert(&[Row { site, at, ..Row::default() }]).await;
        for tens in 1..=9 {
            look_after(&app, 10 * MINUTE).await;
            if tens == 4 {
                clickhouse.insert(&[Row { site, at, ..Row::default() }]).await;
            }
        }
        assert!(late().await > before);
        app.stop().await;
    }

    async fn typical_is_learned_for_all_sites_at_once(database: Database) {
        let clickhouse = ClickHouse::empty().await;
        let endpoint = always().await;
        let app = app_at(&clickhouse, database).await;
        let site = site_id(&app).await;
        let mut rows = Vec::new();
        for window in 1..=(10 * 288u32) {
            let at = app.now() - 5 * MINUTE * window;
            let visitors = 20 + u64::from(window % 3);
            rows.extend((0..visitors).map(|visitor| Row { site, visitor, at, ..Row::default() }));
        }
        for rows in rows.chunks(20_000) {
            clickhouse.insert(rows).await;
        }
        app.webhook(&endpoint.url(), json!([{"type": "visitor_spike"}])).await;
        app.drain().await;
        app.drain().await;
        let asked = clickhouse.queries().await.iter().filter(|query| purpose(query) == "history").count();
        assert_eq!(asked, 1);
        let rush =
            |count: u64| (100..100 + count).map(|visitor| Row { site, visitor, at: app.now(), ..Row::default() });
        clickhouse.insert(&rush(80).collect::<Vec<_>>()).await;
        look_after(&app, 15 * SECOND).await;
        let arrived = endpoint.arrived();
        assert_eq!(arrived.len(), 1);
        let data = &arrived[0].json()["data"];
        assert_eq!((&data["baseline"], &data["previous_visitors"]), (&json!("typical"), &json!(21)));
        app.stop().await;
    }
});

/// The same a while later: a process that starts again.
async fn app_at_later(clickhouse: &ClickHouse, database: crate::support::Database, later: Duration) -> TestApp {
    let setup = Setup { settings: vec![("analytics_url", clickhouse.url())], ..Setup::default() };
    TestApp::start_at(database, setup, ManualClock::at(start() + later)).await
}

/// What one of our statements is for, as its id says.
fn purpose(query: &Value) -> String {
    let id = text(&query["query_id"]);
    id.rsplit('-').nth(1).unwrap_or_default().to_owned()
}

/// Rows as a busy Plausible writes them: flushed every five seconds and a bit, some much later, some twice.
struct Stream {
    names: Vec<String>,
    /// In the order they land.
    rows: Vec<Landing>,
}

#[derive(Debug, Clone, Copy)]
struct Landing {
    /// Seconds after the beginning.
    happens: i64,
    lands: i64,
    name: usize,
    visitor: u64,
}

/// A number below `sides`.
fn dice(chance: &Chance, sides: u64) -> u64 {
    u64::from_le_bytes(chance.bytes()) % sides
}

fn one_in(chance: &mut Chance, sides: u64) -> bool {
    dice(chance, sides) == 0
}

impl Stream {
    fn of(seconds: i64, names: usize) -> Self {
        let chance = Chance::seeded(3);
        let mut rows = Vec::new();
        for happens in 0..seconds {
            for _ in 0..dice(&chance, 8) {
                let flushed = happens + 5 - happens % 5 + dice(&chance, 3) as i64;
                let lands = match dice(&chance, 1_000) {
                    0..=1 => flushed + 200 + dice(&chance, 90) as i64,
                    2..=21 => flushed + 20 + dice(&chance, 30) as i64,
                    _ => flushed,
                };
                let name = usize::try_from(dice(&chance, names as u64)).unwrap();
                let row = Landing { happens, lands, name, visitor: dice(&chance, 50) };
                rows.push(row);
                if dice(&chance, 20) == 0 {
                    rows.push(row);
                }
            }
        }
        rows.sort_by_key(|row| row.lands);
        Self { names: (0..names).map(|name| format!("Goal {name}")).collect(), rows }
    }

    /// What is there by then.
    fn landed_by(&self, second: i64) -> &[Landing] {
        &self.rows[..self.rows.partition_point(|row| row.lands <= second)]
    }
}

impl Landing {
    fn at_site<'a>(&self, site: i64, began: Timestamp, stream: &'a Stream) -> Row<'a> {
        let at = began + Duration::from_secs(self.happens.unsigned_abs());
        Row { site, at, name: &stream.names[self.name], visitor: self.visitor, ..Row::default() }
    }
}
