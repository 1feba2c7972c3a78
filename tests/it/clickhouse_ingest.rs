//! Hits of our own in ClickHouse: whatever happens to it or to us, what was answered 202 is there, once.

use std::time::Duration;

use pulsehook::analytics::clickhouse::{ClickHouse as Store, Mode};
use pulsehook::analytics::{Analytics, AnalyticsError};
use pulsehook::chance::Chance;
use pulsehook::clock::{Clock, ManualClock};
use pulsehook::domain::hit::{Hit, PAGEVIEW, Page};
use pulsehook::domain::ids::{NodeId, SiteId};
use pulsehook::domain::time::Timestamp;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::app::{Answer, BROWSER, SITE, START, Setup, TestApp, http_client};
use crate::support::clickhouse::{CURRENT, ClickHouse};
use crate::support::process::{Served, key, pulsehook, succeeded};
use crate::support::{Database, in_time};

/// What the writer's statements have in them, and no others.
const INSERTS: &str = "containing=INSERT INTO events_v2";

fn setup(clickhouse: &ClickHouse) -> Setup {
    Setup { settings: vec![("analytics_url", clickhouse.url())], ..Setup::default() }
}

async fn start(clickhouse: &ClickHouse) -> TestApp {
    TestApp::start_with(Database::sqlite(), setup(clickhouse)).await
}

/// A pageview of a page of its own.
async fn post(app: &TestApp, number: usize) -> Answer {
    let body = json!({"n": "pageview", "u": format!("https://{SITE}/{number}"), "d": SITE});
    let request = app.request(Method::POST, "/api/event").header("user-agent", BROWSER);
    let address = format!("203.0.113.{}", number % 250 + 1);
    Answer::of(request.header("x-forwarded-for", address).json(&body)).await
}

/// Rows, and how many pages they are of.
async fn stored(clickhouse: &ClickHouse) -> (usize, usize) {
    let text = clickhouse.run("SELECT count(), uniqExact(pathname) FROM events_v2").await;
    let (rows, pages) = text.trim().split_once('\t').unwrap();
    (rows.parse().unwrap(), pages.parse().unwrap())
}

/// Lets time pass until so many rows are there, each of its own page.
async fn arrive(app: &TestApp, clickhouse: &ClickHouse, count: usize) {
    loop {
        let (rows, pages) = stored(clickhouse).await;
        assert!(rows <= count, "{rows} of {count} are stored");
        if rows == count {
            assert_eq!(pages, count, "some are there twice, others not at all");
            return;
        }
        app.advance(Duration::from_millis(200));
    }
}

/// Waits until nothing is on its way any more, while nothing goes wrong.
async fn settle(app: &TestApp) {
    let Analytics::ClickHouse(store) = &app.analytics else { panic!("it is another store") };
    store.settle().await.unwrap();
}

async fn rows(clickhouse: &ClickHouse, sql: &str) -> Vec<Value> {
    let text =
        clickhouse.run(&format!("{sql} FORMAT JSONEachRow SETTINGS output_format_json_quote_64bit_integers = 0")).await;
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_posted_is_in_the_table_as_plausible_would_have_it() {
    in_time(Box::pin(async {
        let clickhouse = ClickHouse::empty().await;
        let app = start(&clickhouse).await;
        let site = app.site().await;
        let url = format!("https://www.{SITE}/pricing%20list/?utm_source=news&utm_medium=mail&utm_campaign=c&utm_content=d&utm_term=e");
        app.track(1, json!({"n": "pageview", "u": url, "d": SITE, "r": "https://news.ycombinator.com/item?id=1"})).await;
        let signup = json!({"n": "Signup", "u": format!("https://{SITE}/join"), "d": SITE, "p": {"plan": "pro ✓", "seats": 3}});
        app.track(1, signup).await;
        let page = format!("https://{SITE}/pricing%20list");
        app.track(1, json!({"n": "engagement", "u": page, "d": SITE, "sd": 70, "e": 4_500})).await;
        app.track(1, json!({"n": "engagement", "u": page, "d": SITE, "e": 10})).await;
        app.track(2, json!({"n": "pageview", "u": format!("https://{SITE}/"), "d": SITE})).await;
        settle(&app).await;

        let all = "SELECT toUnixTimestamp(timestamp) AS at, *, hex(country_code) AS country_hex, hex(revenue_source_currency) AS currency_hex
            FROM events_v2 ORDER BY name, engagement_time, hostname, pathname DESC";
        let stored = rows(&clickhouse, all).await;
        let names: Vec<_> = stored.iter().map(|row| row["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["Signup", "engagement", "engagement", "pageview", "pageview"]);
        let [signup, unscrolled, scrolled, visit, other] = &stored[..] else { panic!() };
        let start: Timestamp = START.parse().unwrap();
        for row in &stored {
            assert_eq!(row["at"], start.secs());
            assert_eq!(row["site_id"].to_string(), site["id"].as_str().unwrap());
            assert_eq!((&row["hostname"], &row["screen_size"]), (&json!(SITE), &json!("Desktop")));
            assert_eq!((&row["browser"], &row["operating_system"]), (&json!("Firefox"), &json!("GNU/Linux")));
            assert_eq!((&row["country_hex"], &row["currency_hex"]), (&json!("0000"), &json!("000000")));
            assert_eq!(row["revenue_source_amount"], Value::Null);
        }
        assert_eq!(visit["pathname"], "/pricing list/");
        assert_eq!((&visit["referrer"], &visit["referrer_source"]), (&json!("news.ycombinator.com/item"), &json!("news")));
        let utm = ["utm_source", "utm_medium", "utm_campaign", "utm_content", "utm_term"].map(|name| visit[name].as_str().unwrap());
        assert_eq!(utm, ["news", "mail", "c", "d", "e"]);
        assert_eq!((&signup["meta.key"], &signup["meta.value"]), (&json!(["plan", "seats"]), &json!(["pro ✓", "3"])));
        assert_eq!((&scrolled["scroll_depth"], &scrolled["engagement_time"]), (&json!(70), &json!(4_500)));
        // 255 is "not known" on engagement; on everything else there is a zero.
        assert_eq!((&unscrolled["scroll_depth"], &visit["scroll_depth"], &signup["scroll_depth"]), (&json!(255), &json!(0), &json!(0)));
        for row in [signup, unscrolled, scrolled] {
            assert_eq!((&row["user_id"], &row["session_id"]), (&visit["user_id"], &visit["session_id"]));
        }
        assert_ne!(other["user_id"], visit["user_id"]);
        assert_ne!(other["session_id"], visit["session_id"]);
        app.stop().await;
    }))
    .await;
}

/// While inserts fail like this, hits are taken; afterwards each is there once.
async fn survives(fault: &str) {
    let clickhouse = ClickHouse::empty().await;
    let app = start(&clickhouse).await;
    app.site().await;
    for number in 0..5 {
        assert_eq!(post(&app, number).await.status, 202);
    }
    arrive(&app, &clickhouse, 5).await;
    clickhouse.fault(&format!("{fault}&count=4&{INSERTS}")).await;
    let mut next = 5;
    // Until every fault has been met: batches of a few, while time passes.
    for round in 0..40 {
        let posts = (next..next + 5).map(|number| post(&app, number));
        for answer in futures_util::future::join_all(posts).await {
            assert_eq!(answer.status, 202, "round {round}: {}", answer.text());
        }
        next += 5;
        app.advance(Duration::from_millis(700));
    }
    clickhouse.heal().await;
    arrive(&app, &clickhouse, next).await;
    let database = app.stop().await;
    assert_eq!(stored(&clickhouse).await, (next, next));
    let metrics = std::fs::read_dir(database.folder.path().join("spill")).unwrap();
    let left: Vec<_> = metrics
        .map(|entry| entry.unwrap().file_name())
        .filter(|name| name.to_string_lossy().contains("hits"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    let faults = clickhouse.queries().await.iter().filter(|query| !query["fault"].is_null()).count();
    assert!(faults >= 1, "nothing went wrong");
}

macro_rules! survives {
    ($($name:ident: $fault:literal,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                in_time(Box::pin(survives($fault))).await;
            }
        )*
    };
}

survives! {
    inserts_that_run_out_of_memory: "kind=error&code=241",
    inserts_that_somebody_has_to_mend: "kind=error&code=516",
    inserts_whose_answers_are_lost: "kind=lose_answer",
    inserts_whose_answers_are_cut: "kind=cut",
    inserts_that_hang: "kind=hang&ms=60000",
    inserts_whose_connections_end: "kind=close",
    inserts_whose_connections_are_reset: "kind=reset",
    inserts_answered_by_a_proxy: "kind=http&status=502",
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clickhouse_that_is_away_when_we_start_is_waited_for() {
    in_time(Box::pin(async {
        let clickhouse = ClickHouse::empty().await;
        clickhouse.fault("kind=close&count=1000000").await;
        let app = start(&clickhouse).await;
        app.site().await;
        for number in 0..20 {
            assert_eq!(post(&app, number).await.status, 202);
        }
        app.get("/health/ready").await.expect(200);
        let metrics = app.get("/metrics").await.expect_text(200);
        assert!(
            metrics.contains("pulsehook_spill_bytes") && metrics.contains("pulsehook_spill_oldest_seconds"),
            "{metrics}"
        );
        clickhouse.heal().await;
        // The table is made by whoever needs it first.
        while clickhouse.run("EXISTS TABLE events_v2").await.trim() != "1" {
            app.advance(Duration::from_millis(200));
        }
        arrive(&app, &clickhouse, 20).await;
        let metrics = app.get("/metrics").await.expect_text(200);
        for name in ["rows_total", "batches_total", "insert_failures_total"] {
            assert!(metrics.contains(&format!("\npulsehook_clickhouse_{name} ")), "{name}: {metrics}");
        }
        app.stop().await;
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_spill_refuses_and_loses_nothing_it_took() {
    in_time(Box::pin(async {
        let clickhouse = ClickHouse::empty().await;
        let settings = vec![("analytics_url", clickhouse.url()), ("spill_limit", "64KiB".to_owned())];
        let app = TestApp::start_with(Database::sqlite(), Setup { settings, ..Setup::default() }).await;
        app.site().await;
        clickhouse.fault(&format!("kind=error&code=241&count=1000000&{INSERTS}")).await;
        let mut taken = 0;
        let refused = loop {
            let answer = post(&app, taken).await;
            if answer.status != 202 {
                break answer;
            }
            taken += 1;
        };
        assert!(taken > 100, "{taken}");
        assert_eq!(refused.status, 503);
        assert!(refused.header("retry-after").is_some());
        assert_eq!(app.get("/health/ready").await.status, 503);
        clickhouse.heal().await;
        arrive(&app, &clickhouse, taken).await;
        settle(&app).await;
        assert_eq!(post(&app, taken).await.status, 202);
        app.get("/health/ready").await.expect(200);
        arrive(&app, &clickhouse, taken + 1).await;
        app.stop().await;
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_visitor_is_the_same_on_every_node_today_and_after_midnight() {
    in_time(Box::pin(async {
        let clickhouse = ClickHouse::empty().await;
        // Of today, because ClickHouse forgets salts by its own clock.
        let day = Duration::from_secs(86_400);
        let midnight = Timestamp::from_secs(Clock::system().now().secs().div_euclid(86_400) * 86_400) + day;
        let evening = ManualClock::at(midnight - Duration::from_secs(60));
        let first = TestApp::start_at(Database::sqlite(), setup(&clickhouse), evening.clone()).await;
        let second = TestApp::start_at(Database::sqlite(), setup(&clickhouse), evening.clone()).await;
        for app in [&first, &second] {
            app.site().await;
        }
        for (number, wait) in [(0, 0), (1, 120)] {
            evening.advance(Duration::from_secs(wait));
            // Somebody who is on no other node, so that a session hides nothing.
            for app in [&first, &second] {
                let body = json!({"n": "pageview", "u": format!("https://{SITE}/{number}"), "d": SITE});
                app.track(number, body).await;
            }
        }
        first.stop().await;
        second.stop().await;
        let visitors = rows(&clickhouse, "SELECT pathname, count() AS rows, uniqExact(user_id) AS visitors FROM events_v2 GROUP BY pathname ORDER BY pathname").await;
        assert_eq!(visitors, [json!({"pathname": "/0", "rows": 2, "visitors": 1}), json!({"pathname": "/1", "rows": 2, "visitors": 1})]);
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_disk_damaged_is_set_aside_and_the_rest_arrives() {
    in_time(Box::pin(async {
        let clickhouse = ClickHouse::empty().await;
        let app = start(&clickhouse).await;
        app.site().await;
        clickhouse.fault(&format!("kind=error&code=241&count=1000000&{INSERTS}")).await;
        for number in 0..5 {
            assert_eq!(post(&app, number).await.status, 202);
        }
        let database = app.stop().await;
        clickhouse.heal().await;
        let spill = database.folder.path().join("spill");
        let with = |ending: &str| -> Vec<_> {
            let paths = std::fs::read_dir(&spill).unwrap().map(|entry| entry.unwrap().path());
            paths.filter(|path| path.extension().is_some_and(|found| found == ending)).collect()
        };
        let mut files = with("hits1");
        files.sort();
        let mut bytes = std::fs::read(&files[0]).unwrap();
        // In the first record, and a last one that was begun when the power went.
        bytes[40] ^= 1;
        bytes.extend([200, 0, 0, 0, 1, 2, 3]);
        std::fs::write(&files[0], &bytes).unwrap();
        let app = TestApp::start_with(database, setup(&clickhouse)).await;
        arrive(&app, &clickhouse, 4).await;
        let _database = app.stop().await;
        assert_eq!(stored(&clickhouse).await, (4, 4));
        assert_eq!((with("hits1").len(), with("damaged").len()), (0, 1));
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_is_sent_before_the_process_ends() {
    in_time(Box::pin(async {
        let clickhouse = ClickHouse::empty().await;
        let app = start(&clickhouse).await;
        app.site().await;
        for number in 0..3 {
            assert_eq!(post(&app, number).await.status, 202);
        }
        app.stop().await;
        assert_eq!(stored(&clickhouse).await, (3, 3));
    }))
    .await;
}

/// A hit of history.
fn hit(site: i64, at: &str, page: usize) -> Hit {
    Hit {
        page: Page { hostname: SITE.to_owned(), pathname: format!("/{page}") },
        country: "DE".to_owned(),
        ..Hit::new(SiteId(site), at.parse().unwrap(), 1, PAGEVIEW)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_goes_in_and_sites_and_old_months_are_forgotten() {
    in_time(Box::pin(async {
        let clickhouse = ClickHouse::empty().await;
        let app = start(&clickhouse).await;
        let days = ["2019-05-03T00:00:00Z", "2026-01-31T23:59:59Z", "2026-02-01T00:00:00Z", "2026-02-10T00:00:00Z"];
        let history =
            || days.iter().enumerate().flat_map(|(page, at)| [hit(1, at, page), hit(2, at, 10 + page)]).collect();
        clickhouse.fault(&format!("kind=lose_answer&{INSERTS}")).await;
        let waits = app.clock.another_waits(Duration::from_secs(2));
        let importing = app.analytics.import(history());
        let (imported, ()) = tokio::join!(importing, async {
            waits.await;
            app.advance(Duration::from_secs(2));
        });
        imported.unwrap();
        assert_eq!(stored(&clickhouse).await, (8, 8));
        // The same once more is somebody's wish.
        app.analytics.import(history()).await.unwrap();
        assert_eq!(stored(&clickhouse).await, (16, 8));
        // Never more than whole months.
        app.analytics.prune("2026-02-05T00:00:00Z".parse().unwrap()).await.unwrap();
        assert_eq!(stored(&clickhouse).await, (8, 4));
        assert_eq!(app.analytics.first_hit_at(SiteId(1)).await.unwrap(), Some(days[2].parse().unwrap()));
        app.analytics.delete_site(SiteId(1)).await.unwrap();
        while stored(&clickhouse).await != (4, 2) {}
        assert_eq!(app.analytics.first_hit_at(SiteId(1)).await.unwrap(), None);
        app.stop().await;
    }))
    .await;
}

/// Columns of a table: name, type and what kind of column it is.
async fn columns(clickhouse: &ClickHouse) -> Vec<String> {
    let sql = "SELECT name, replaceAll(type, 'DateTime(\\'UTC\\')', 'DateTime'), default_kind, compression_codec FROM system.columns
        WHERE database = currentDatabase() AND table = 'events_v2'";
    clickhouse.run(sql).await.lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn migrate_makes_a_table_of_plausibles_shape_and_may_be_repeated() {
    in_time(Box::pin(async {
        let (clickhouse, plausible) = (ClickHouse::empty().await, ClickHouse::plausible(CURRENT).await);
        let database = Database::sqlite();
        for _ in 0..2 {
            let output = pulsehook(&database).arg("migrate").env("PULSEHOOK_ANALYTICS_URL", clickhouse.url()).output().await.unwrap();
            succeeded(&output);
        }
        let ours = columns(&clickhouse).await;
        for column in columns(&plausible).await {
            assert!(ours.contains(&column), "{column} is not among {ours:#?}");
        }
        let keys = "SELECT engine, partition_key, sorting_key, primary_key, sampling_key FROM system.tables WHERE database = currentDatabase() AND name = 'events_v2'";
        assert_eq!(clickhouse.run(keys).await, plausible.run(keys).await);
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plausibles_table_is_never_written_into() {
    in_time(Box::pin(async {
        let plausible = ClickHouse::plausible(CURRENT).await;
        for command in ["serve", "migrate"] {
            let database = Database::sqlite();
            let output = pulsehook(&database)
                .arg(command)
                .env("PULSEHOOK_ANALYTICS_URL", plausible.url())
                .output()
                .await
                .unwrap();
            assert_eq!(output.status.code(), Some(1));
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(said.contains("was not made by Pulsehook") && said.contains("directory to plausible"), "{said}");
        }
        assert_eq!(plausible.run("EXISTS TABLE pulsehook_salts").await.trim(), "0");
        assert_eq!(stored(&plausible).await, (0, 0));
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beside_plausible_only_questions_are_asked() {
    in_time(Box::pin(async {
        let plausible = ClickHouse::plausible(CURRENT).await;
        let before = plausible.queries().await.len();
        let chance = Chance::from_system();
        let node = NodeId(chance.uuid_v7(Clock::system().now()));
        let store = Store::connect(&plausible.address(), node, Clock::system(), Mode::Theirs).await.unwrap();
        store.take_hits(std::path::Path::new("/nowhere"), 1).unwrap();
        let now: Timestamp = START.parse().unwrap();
        for refused in [store.record(vec![hit(1, START, 1)]).await, store.import(vec![hit(1, START, 1)]).await] {
            assert!(matches!(refused, Err(AnalyticsError::Refused(_))), "{refused:?}");
        }
        store.keep_salt(1, b"salt").await.unwrap();
        assert_eq!(store.salts().await.unwrap(), []);
        store.delete_site(SiteId(1)).await.unwrap();
        store.prune(now).await.unwrap();
        store.ping().await.unwrap();
        store.close().await;
        let asked = plausible.queries().await;
        for query in &asked[before..] {
            assert!(query["query"].as_str().unwrap().trim_start().starts_with("SELECT"), "{query}");
        }
    }))
    .await;
}

/// The real binary, and what was answered 202.
struct Stage {
    database: Database,
    clickhouse: ClickHouse,
    http: reqwest::Client,
    next: usize,
    acknowledged: Vec<usize>,
}

impl Stage {
    async fn new() -> Self {
        let (database, clickhouse) = (Database::sqlite(), ClickHouse::empty().await);
        let stage = Self { database, clickhouse, http: http_client(), next: 0, acknowledged: Vec::new() };
        let key = key(&stage.database).await;
        let served = stage.serve(None).await;
        let request = stage.http.post(format!("{}/api/sites", served.url)).bearer_auth(key);
        Answer::of(request.json(&json!({"domain": SITE}))).await.expect(201);
        assert!(served.stop().await.success());
        stage
    }

    async fn serve(&self, failpoint: Option<&str>) -> Served {
        let mut command = pulsehook(&self.database);
        command.env("PULSEHOOK_ANALYTICS_URL", self.clickhouse.url());
        if let Some(failpoint) = failpoint {
            command.env("PULSEHOOK_FAILPOINT", failpoint);
        }
        Served::run(command).await
    }

    async fn post(&mut self, served: &Served) {
        let number = self.next;
        self.next += 1;
        let body = json!({"n": "pageview", "u": format!("https://{SITE}/{number}"), "d": SITE});
        let request = self.http.post(format!("{}/api/event", served.url)).header("user-agent", BROWSER);
        if matches!(request.json(&body).send().await, Ok(answer) if answer.status() == 202) {
            self.acknowledged.push(number);
        }
    }

    /// Waits until everything acknowledged is there, and finds nothing twice.
    async fn check(&self) {
        loop {
            let text = self.clickhouse.run("SELECT pathname FROM events_v2 ORDER BY pathname").await;
            let pages: Vec<usize> = text.lines().map(|line| line.trim_start_matches('/').parse().unwrap()).collect();
            let mut once = pages.clone();
            once.sort_unstable();
            once.dedup();
            assert_eq!(once.len(), pages.len(), "something is there twice");
            if self.acknowledged.iter().all(|number| once.binary_search(number).is_ok()) {
                return;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_killed_between_answer_and_insert_loses_nothing() {
    in_time(Box::pin(async {
        let mut stage = Stage::new().await;
        for kind in ["kind=hang&ms=60000", "kind=lose_answer", "kind=close"] {
            let served = stage.serve(None).await;
            stage.clickhouse.fault(&format!("{kind}&count=1000000&{INSERTS}")).await;
            for _ in 0..10 {
                stage.post(&served).await;
            }
            // An insert has begun: what becomes of it nobody will know.
            while !stage
                .clickhouse
                .queries()
                .await
                .iter()
                .any(|query| kind.contains(query["fault"].as_str().unwrap_or("none")))
            {}
            stage.post(&served).await;
            served.kill().await;
            stage.clickhouse.heal().await;
        }
        let served = stage.serve(None).await;
        stage.check().await;
        assert!(served.stop().await.success());
        stage.check().await;
        assert_eq!(stage.acknowledged.len(), 33);
        assert_eq!(stored(&stage.clickhouse).await, (33, 33));
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_is_imported_beside_a_running_node() {
    in_time(Box::pin(async {
        let mut stage = Stage::new().await;
        let served = stage.serve(None).await;
        stage.post(&served).await;
        let line = |hour: u32| {
            format!("203.0.113.{hour} - - [25/Feb/2026:{hour:02}:00:00 +0000] \"GET /1{hour} HTTP/1.1\" 200 512 \"-\" \"{BROWSER}\"\n")
        };
        let log = stage.database.folder.path().join("access.log");
        std::fs::write(&log, (10..20).map(line).collect::<String>()).unwrap();
        let mut command = pulsehook(&stage.database);
        command.env("PULSEHOOK_ANALYTICS_URL", stage.clickhouse.url());
        command.args(["import", "access-log", log.to_str().unwrap(), "--site", SITE, "--json"]);
        let said: Value = serde_json::from_str(&succeeded(&command.output().await.unwrap())).unwrap();
        assert_eq!(said["taken"], 10);
        assert!(served.stop().await.success());
        stage.check().await;
        assert_eq!(stored(&stage.clickhouse).await, (11, 11));
    }))
    .await;
}

/// Dies at a step, and comes back.
async fn dies_at(failpoint: &str) {
    let mut stage = Stage::new().await;
    let mut served = stage.serve(Some(failpoint)).await;
    stage.post(&served).await;
    stage.post(&served).await;
    let status = served.died().await;
    assert!(!status.success(), "{status}");
    let served = stage.serve(None).await;
    stage.post(&served).await;
    stage.check().await;
    assert!(served.stop().await.success());
    stage.check().await;
    assert!(!stage.acknowledged.is_empty());
}

macro_rules! dies_at {
    ($($name:ident: $failpoint:literal,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                in_time(Box::pin(dies_at($failpoint))).await;
            }
        )*
    };
}

dies_at! {
    killed_before_a_hit_is_on_disk: "spill.before_sync:2",
    killed_after_a_hit_is_on_disk: "spill.after_sync:2",
    killed_before_a_batch_is_inserted: "spill.before_insert",
    killed_after_a_batch_is_inserted: "spill.after_insert",
}
