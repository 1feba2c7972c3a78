//! Beside a Plausible Community Edition: its accounts, sites and goals are ours, its credentials open the same doors, and
//! nothing is ever written there.

use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use pulsehook::app::App;
use pulsehook::chance::Chance;
use pulsehook::clock::Clock;
use pulsehook::config::{Config, Sources};
use pulsehook::domain::access::Role;
use pulsehook::domain::goal::Goal;
use pulsehook::domain::ids::SiteId;
use pulsehook::store::catalog::Selection;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, PgConnection, Row as _};

use crate::support::app::{Answer, Setup, TestApp, text};
use crate::support::clickhouse::{CURRENT, ClickHouse, Row};
use crate::support::process::{key_of, pulsehook};
use crate::support::zoo::{Behaviour, Endpoint};
use crate::support::{Database, on_both, postgres};

const SECRET_KEY_BASE: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const TOKEN: &str = "plausible-plugin-selfhost-c29tZXRoaW5nIHJhbmRvbSBoZXJlIG9rPz8/";

/// Which of Plausible's versions.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Version {
    V2_0,
    V2_1,
    Current,
}

/// Plausible's PostgreSQL.
struct Plausible {
    url: String,
    connection: tokio::sync::Mutex<PgConnection>,
}

impl Plausible {
    async fn of(version: Version) -> Self {
        let url = postgres::database().await;
        let plausible = Self { connection: tokio::sync::Mutex::new(connect(&url).await), url };
        let files = [
            (Version::V2_0, "postgres_v2_0.sql"),
            (Version::V2_1, "postgres_v2_1.sql"),
            (Version::Current, "postgres_current.sql"),
        ];
        for (_, name) in files.iter().filter(|(since, _)| *since <= version) {
            plausible.run(&file(&format!("tests/fixtures/plausible/{name}"))).await;
        }
        plausible
    }

    async fn current() -> Self {
        Self::of(Version::Current).await
    }

    /// Brings it from 2.1 to the current version, as an upgrade would.
    async fn upgrade(&self) {
        self.run(&file("tests/fixtures/plausible/postgres_current.sql")).await;
    }

    async fn run(&self, sql: &str) {
        let mut connection = self.connection.lock().await;
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
            .execute(&mut *connection)
            .await
            .unwrap_or_else(|e| panic!("{sql}: {e}"));
    }

    /// A number that a statement answers.
    async fn number(&self, sql: &str) -> i64 {
        let mut connection = self.connection.lock().await;
        let row = sqlx::query(AssertSqlSafe(sql.to_owned())).fetch_one(&mut *connection).await;
        row.unwrap_or_else(|error| panic!("{sql}: {error}")).get(0)
    }

    async fn user(&self, email: &str) -> i64 {
        self.number(&format!("SELECT fixture_user('{email}')")).await
    }

    async fn site(&self, owner: i64, domain: &str) -> i64 {
        self.number(&format!("SELECT fixture_site({owner}, '{domain}', 'Europe/Berlin')")).await
    }

    async fn team_of(&self, site: i64) -> i64 {
        self.number(&format!("SELECT team_id FROM sites WHERE id = {site}")).await
    }

    /// Nobody gets in any more until [`Plausible::come_back`].
    async fn go_away(&self) {
        let name = self.url.rsplit('/').next().unwrap();
        self.run(&format!(
            "ALTER DATABASE {name} CONNECTION LIMIT 0;
             ALTER ROLE {ROLE} NOLOGIN;
             SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}' AND application_name = 'pulsehook'",
            ROLE = self.role()
        ))
        .await;
    }

    async fn come_back(&self) {
        let name = self.url.rsplit('/').next().unwrap();
        self.run(&format!("ALTER DATABASE {name} CONNECTION LIMIT -1; ALTER ROLE {} LOGIN", self.role())).await;
    }

    /// A role of this test's own with what the file for operators grants, and nothing else.
    fn role(&self) -> String {
        format!("reader_{}", self.url.rsplit('/').next().unwrap())
    }

    async fn grant(&self) {
        let sql = file("deploy/plausible/postgres-reader.sql").replace("pulsehook_reader", &self.role());
        self.run(&sql).await;
    }

    /// The address for that role.
    async fn reader(&self) -> String {
        self.grant().await;
        self.url.replace("postgres@", &format!("{}@", self.role()))
    }
}

/// Not logged: another test reads the statements of our own store off the log.
async fn connect(url: &str) -> PgConnection {
    url.parse::<PgConnectOptions>().unwrap().disable_statement_logging().connect().await.unwrap()
}

fn file(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// An empty database of the same kind.
async fn another(database: &Database) -> Database {
    if database.url.starts_with("sqlite") { Database::sqlite() } else { Database::postgres().await }
}

/// Settings of a server beside it.
async fn beside(url: String) -> Setup {
    let traffic = ClickHouse::plausible(CURRENT).await;
    beside_both(url, traffic.url())
}

/// The same with its traffic.
fn beside_both(url: String, analytics_url: String) -> Setup {
    Setup {
        settings: vec![
            ("analytics_url", analytics_url),
            ("directory", "plausible".to_owned()),
            ("plausible_database_url", url),
            ("plausible_secret_key_base", SECRET_KEY_BASE.to_owned()),
        ],
        ..Setup::default()
    }
}

async fn start(database: Database, plausible: &Plausible) -> TestApp {
    let app = TestApp::start_with(database, beside(plausible.reader().await).await).await;
    app.drain().await;
    app
}

/// Signs in as an owner of a mirrored account.
async fn become_owner(app: &mut TestApp, account: &str) {
    let mirrored = app.store.operator_account_named(account).await.unwrap();
    assert!(mirrored.is_some(), "{account} is not mirrored");
    (app.account_id, app.key) = app.account(account, Role::Owner).await;
}

async fn webhook(app: &TestApp, domain: &str, endpoint: &Endpoint) -> String {
    let body = json!({"name": "Test", "url": endpoint.url(), "triggers": [{"type": "goal_completion"}]});
    let answer = app.post(&format!("/api/sites/{domain}/webhooks"), body).await.expect(201);
    format!("/api/sites/{domain}/webhooks/{}", text(&answer["webhook"]["id"]))
}

async fn as_bearer(app: &TestApp, method: Method, path: &str, credential: &str) -> Answer {
    Answer::of(app.request(method, path).bearer_auth(credential)).await
}

async fn goals(app: &TestApp, site: i64) -> Vec<Goal> {
    app.store.goals(app.account_id, SiteId(site)).await.unwrap()
}

fn domains(answer: &Value) -> Vec<String> {
    let sites = answer["sites"].as_array().unwrap();
    sites.iter().map(|site| text(&site["domain"]).to_owned()).collect()
}

/// What a server with these settings says when it does not start.
async fn refusal(database: &Database, settings: Vec<(&'static str, String)>) -> String {
    let folder = tempfile::tempdir().unwrap();
    let mut flags = std::collections::BTreeMap::from([
        ("listen".to_owned(), "127.0.0.1:0".to_owned()),
        ("data_dir".to_owned(), folder.path().display().to_string()),
        ("database_url".to_owned(), database.url.clone()),
        ("master_key".to_owned(), "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=".to_owned()),
    ]);
    flags.extend(settings.into_iter().map(|(name, value)| (name.to_owned(), value)));
    let config = Config::from_sources(&Sources { flags, ..Sources::default() }).unwrap();
    match App::build(config, Clock::system(), Chance::from_system()).await {
        Ok(_) => panic!("it started"),
        Err(error) => format!("{error:#}"),
    }
}

on_both!({
    async fn sites_and_goals_are_those_of_plausible(database: Database) {
        let plausible = Plausible::current().await;
        let ann = plausible.user("ann@example.com").await;
        let site = plausible.site(ann, "one.example").await;
        let team = plausible.team_of(site).await;
        plausible
            .run(&format!(
                "INSERT INTO sites (domain, timezone, team_id, consolidated, inserted_at, updated_at)
            VALUES ('sum.example', 'Etc/UTC', {team}, true, now(), now())"
            ))
            .await;
        let signup = plausible
            .number(&format!("SELECT fixture_event_goal({site}, 'Signup', '{{\"plan\": \"pro\", \"a\": \"b\"}}')"))
            .await;
        let scroll = plausible.number(&format!("SELECT fixture_page_goal({site}, '/blog*', 50)")).await;
        let mut app = start(database, &plausible).await;
        become_owner(&mut app, &format!("My Personal Sites ({team})")).await;
        let sites = app.get("/api/sites").await.expect(200);
        assert_eq!(domains(&sites), ["one.example"]);
        assert_eq!(sites["sites"][0]["id"], site.to_string());
        assert_eq!(sites["sites"][0]["timezone"], "Europe/Berlin");
        assert_eq!(sites["sites"][0]["inserted_at"], "2024-01-01T00:00:00Z");
        let found = app.get("/api/sites/one.example/goals").await.expect(200)["goals"].clone();
        assert_eq!(found[0]["id"], signup.to_string());
        assert_eq!(found[0]["custom_props"], json!({"a": "b", "plan": "pro"}));
        assert_eq!((&found[1]["id"], &found[1]["scroll_threshold"]), (&json!(scroll.to_string()), &json!(50)));

        // The second look finds nothing to do.
        let version = app.store.catalog_version().await.unwrap();
        app.drain().await;
        assert_eq!(app.store.catalog_version().await.unwrap(), version);

        // Two sites swap their domains, two goals their names, one goal is edited and one is new.
        let other = plausible.site(ann, "two.example").await;
        let buy = plausible.number(&format!("SELECT fixture_event_goal({site}, 'Buy')")).await;
        app.drain().await;
        plausible.run(&format!("
            UPDATE sites SET domain = 'between.example' WHERE id = {site};
            UPDATE sites SET domain = 'one.example' WHERE id = {other};
            UPDATE sites SET domain = 'two.example', domain_changed_from = 'former.example', timezone = 'Asia/Tokyo' WHERE id = {site};
            UPDATE goals SET display_name = 'between' WHERE id = {signup};
            UPDATE goals SET display_name = 'Signup {{\"a\": \"b\", \"plan\": \"pro\"}}', event_name = ' Bought ' WHERE id = {buy};
            UPDATE goals SET display_name = 'Buy', custom_props = '{{}}' WHERE id = {signup};
            DELETE FROM goals WHERE id = {scroll}")).await;
        app.drain().await;
        let sites = app.get("/api/sites/two.example").await.expect(200);
        assert_eq!(
            (&sites["site"]["id"], &sites["site"]["timezone"]),
            (&json!(site.to_string()), &json!("Asia/Tokyo"))
        );
        let found: Vec<_> = goals(&app, site)
            .await
            .into_iter()
            .map(|goal| (goal.id.0, goal.display_name, goal.custom_props.len()))
            .collect();
        assert_eq!(
            found,
            [(signup, "Buy".to_owned(), 0), (buy, "Signup {\"a\": \"b\", \"plan\": \"pro\"}".to_owned(), 0)]
        );
        assert!(format!("{:?}", goals(&app, site).await[1].kind).contains("\"Bought\""), "names are trimmed");

        // Nobody changes them here.
        for (method, path) in [
            (Method::POST, "/api/sites".to_owned()),
            (Method::PATCH, "/api/sites/two.example".to_owned()),
            (Method::DELETE, "/api/sites/two.example".to_owned()),
            (Method::POST, "/api/sites/two.example/goals".to_owned()),
            (Method::DELETE, format!("/api/sites/two.example/goals/{buy}")),
        ] {
            let request = app
                .request(method, &path)
                .bearer_auth(&app.key)
                .json(&json!({"domain": "x.example", "event_name": "x"}));
            let problem = Answer::of(request).await.expect(409);
            assert_eq!(problem["code"], "managed_in_plausible", "{path}");
        }
        let hit = app
            .request(Method::POST, "/api/event")
            .json(&json!({"n": "pageview", "u": "https://two.example/", "d": "two.example"}));
        assert_eq!(Answer::of(hit).await.status, 404, "Plausible takes hits in");
        app.stop().await;
    }

    async fn what_happens_in_plausible_reaches_the_endpoint(database: Database) {
        let plausible = Plausible::current().await;
        let traffic = ClickHouse::plausible(CURRENT).await;
        let ann = plausible.user("ann@example.com").await;
        let site = plausible.site(ann, "one.example").await;
        plausible.run(&format!("SELECT fixture_event_goal({site}, 'Signup')")).await;
        plausible.run(&format!("SELECT fixture_plugin_token({site}, '{TOKEN}')")).await;
        let setup = beside_both(plausible.reader().await, traffic.url());
        let app = TestApp::start_with(database, setup).await;
        app.drain().await;
        let endpoint = Endpoint::http([Behaviour::status(200)]).await;
        let body = json!({"name": "Test", "url": endpoint.url(), "triggers": [{"type": "goal_completion"}]});
        app.post_as(TOKEN, "/api/sites/one.example/webhooks", body).await.expect(201);
        let happens = async |name: &'static str| {
            app.advance(Duration::from_secs(5));
            traffic.insert(&[Row { site, name, at: app.now(), ..Row::default() }]).await;
            app.drain().await;
        };
        happens("Signup").await;
        let arrived = endpoint.arrived();
        assert_eq!(arrived.len(), 1);
        let told = arrived[0].json();
        assert_eq!((&told["site_domain"], &told["data"]["goal_name"]), (&json!("one.example"), &json!("Signup")));
        // A goal that was made and a domain that was changed there are known with the next look.
        plausible
            .run(&format!(
                "SELECT fixture_event_goal({site}, 'Buy');
            UPDATE sites SET domain = 'new.example', domain_changed_from = 'one.example' WHERE id = {site};
            UPDATE goals SET inserted_at = '2024-01-01' WHERE site_id = {site}"
            ))
            .await;
        app.drain().await;
        happens("Buy").await;
        let told = endpoint.arrived()[1].json();
        assert_eq!((&told["site_domain"], &told["data"]["goal_name"]), (&json!("new.example"), &json!("Buy")));
        // Nothing is noticed for a locked team, and what happened meanwhile is none of its business afterwards.
        plausible.run(&format!("SELECT fixture_lock({site})")).await;
        app.drain().await;
        happens("Signup").await;
        app.advance(Duration::from_secs(10));
        plausible.run(&format!("SELECT fixture_lock({site}, false)")).await;
        app.drain().await;
        assert_eq!(endpoint.arrived().len(), 2);
        happens("Signup").await;
        assert_eq!(endpoint.arrived().len(), 3);
        app.stop().await;
    }

    async fn whoever_may_read_is_enough(database: Database) {
        let second = another(&database).await;
        for (user, database) in [("reader", database), ("strict", second)] {
            let plausible = Plausible::current().await;
            let traffic = ClickHouse::plausible(CURRENT).await;
            let ann = plausible.user("ann@example.com").await;
            let site = plausible.site(ann, "one.example").await;
            plausible.run(&format!("SELECT fixture_event_goal({site}, 'Signup')")).await;
            plausible.run(&format!("SELECT fixture_plugin_token({site}, '{TOKEN}')")).await;
            let setup = beside_both(plausible.reader().await, traffic.url_as(user));
            let app = TestApp::start_with(database, setup).await;
            app.drain().await;
            let endpoint = Endpoint::http([Behaviour::status(200)]).await;
            let spike = json!({"type": "visitor_spike", "baseline": "fixed", "min_visitors": 5});
            let typical = json!({"type": "visitor_drop"});
            let triggers = json!([{"type": "goal_completion"}, spike, typical]);
            let body = json!({"name": "Test", "url": endpoint.url(), "triggers": triggers});
            app.post_as(TOKEN, "/api/sites/one.example/webhooks", body).await.expect(201);
            app.advance(Duration::from_secs(5));
            let row = |visitor| Row { site, visitor, name: "Signup", source: "Bing", at: app.now(), ..Row::default() };
            traffic.insert(&(0..5).map(row).collect::<Vec<_>>()).await;
            app.drain().await;
            let told: Vec<_> = endpoint.arrived().iter().map(|arrived| arrived.json()["event_type"].clone()).collect();
            assert_eq!(told.len(), 2, "{user}: {told:?}");
            assert!(told.contains(&json!("goal_completion")) && told.contains(&json!("visitor_spike")), "{told:?}");
            app.stop().await;
        }
    }

    async fn the_doctor_looks_at_plausible_too(database: Database) {
        let plausible = Plausible::current().await;
        let ann = plausible.user("ann@example.com").await;
        let site = plausible.site(ann, "one.example").await;
        plausible.run(&format!("SELECT fixture_event_goal({site}, 'Signup'); SELECT fixture_lock({site})")).await;
        let traffic = ClickHouse::plausible(CURRENT).await;
        let said = async |url: String| {
            let mut command = pulsehook(&database);
            command.args(["doctor", "--json"]).env("PULSEHOOK_DIRECTORY", "plausible");
            command.env("PULSEHOOK_PLAUSIBLE_DATABASE_URL", url).env("PULSEHOOK_ANALYTICS_URL", traffic.url());
            let output = command.output().await.unwrap();
            let said: Value = serde_json::from_slice(&output.stdout).unwrap();
            let checks = said["checks"].as_array().unwrap().clone();
            let check = checks.into_iter().find(|check| check["check"] == "plausible").unwrap();
            (text(&check["state"]).to_owned(), text(&check["message"]).to_owned())
        };
        let fine = ("ok".to_owned(), "1 sites and 1 goals can be read; 1 teams are locked and left alone".to_owned());
        assert_eq!(said(plausible.reader().await).await, fine);
        let (state, sentence) = said("postgres://nobody@127.0.0.1:1/x".to_owned()).await;
        assert!(state == "fault" && sentence.contains("does not answer"), "{sentence}");
        plausible.run(&format!("REVOKE SELECT (domain) ON sites FROM {}", plausible.role())).await;
        let url = plausible.url.replace("postgres@", &format!("{}@", plausible.role()));
        let (state, sentence) = said(url).await;
        assert!(state == "fault" && sentence.contains("postgres-reader.sql"), "{sentence}");
    }

    async fn versions_without_teams_have_accounts_of_users(database: Database) {
        let second = another(&database).await;
        for (version, own) in [(Version::V2_0, database), (Version::V2_1, second)] {
            let plausible = Plausible::of(version).await;
            let ann = plausible.user("ann@example.com").await;
            let site = plausible.site(ann, "old.example").await;
            let bob = plausible.user("bob@example.com").await;
            plausible.number(&format!("SELECT fixture_event_goal({site}, 'Signup')")).await;
            plausible.number(&format!("SELECT fixture_page_goal({site}, '/thanks')")).await;
            if version == Version::V2_0 {
                // Nothing forbade these.
                plausible.number(&format!("SELECT fixture_event_goal({site}, 'Signup')")).await;
                plausible
                    .run(&format!("INSERT INTO goals (site_id, inserted_at, updated_at) VALUES ({site}, now(), now())"))
                    .await;
            }
            let key = "v".repeat(64);
            plausible.number(&format!("SELECT fixture_api_key({ann}, '{key}', '{SECRET_KEY_BASE}')")).await;
            plausible
                .number(&format!("SELECT fixture_api_key({bob}, '{}', '{SECRET_KEY_BASE}')", "b".repeat(64)))
                .await;
            let mut app = start(own, &plausible).await;
            become_owner(&mut app, &format!("Somebody ({ann})")).await;
            let found = app.get("/api/sites/old.example/goals").await.expect(200);
            let names: Vec<_> =
                found["goals"].as_array().unwrap().iter().map(|goal| text(&goal["display_name"]).to_owned()).collect();
            assert_eq!(names, ["Signup", "Visit /thanks"]);
            assert_eq!(as_bearer(&app, Method::GET, "/api/me", &key).await.expect(200)["role"], "editor");
            assert_eq!(as_bearer(&app, Method::GET, "/api/me", &"b".repeat(64)).await.status, 401, "owns nothing");
            plausible.run(&format!("SELECT fixture_lock({site})")).await;
            app.drain().await;
            assert!(!app.store.operator_account_there(&format!("user:{ann}")).await.unwrap().unwrap().active);
            app.stop().await;
        }
    }

    async fn an_upgrade_to_teams_keeps_accounts_and_webhooks(database: Database) {
        let plausible = Plausible::of(Version::V2_1).await;
        let ann = plausible.user("ann@example.com").await;
        let site = plausible.site(ann, "old.example").await;
        let mut app = start(database, &plausible).await;
        become_owner(&mut app, &format!("Somebody ({ann})")).await;
        let endpoint = Endpoint::http([Behaviour::status(200)]).await;
        let path = webhook(&app, "old.example", &endpoint).await;
        plausible.upgrade().await;
        // Nothing of it may be read yet, and then nobody can tell whose the site is.
        app.drain().await;
        app.get(&path).await.expect(200);
        plausible.grant().await;
        app.drain().await;
        app.get(&path).await.expect(200);
        plausible
            .run(&format!(
                "
            WITH team AS (
                INSERT INTO teams (identifier, name, inserted_at, updated_at)
                VALUES (gen_random_uuid(), 'My Personal Sites', now(), now()) RETURNING id
            ), membership AS (
                INSERT INTO team_memberships (team_id, user_id, role, is_autocreated, inserted_at, updated_at)
                SELECT id, {ann}, 'owner', true, now(), now() FROM team
            )
            UPDATE sites SET team_id = (SELECT id FROM team) WHERE id = {site}"
            ))
            .await;
        app.drain().await;
        app.get(&path).await.expect(200);
        let team = plausible.team_of(site).await;
        assert_eq!(app.get("/api/me").await.expect(200)["account"]["name"], format!("My Personal Sites ({team})"));
        let holder = app.store.operator_account_there(&format!("team:{team}")).await.unwrap().unwrap();
        assert_eq!(holder.account_id, app.account_id);
        app.stop().await;
    }

    async fn a_locked_team_waits_and_what_waited_is_sent(database: Database) {
        let plausible = Plausible::current().await;
        let ann = plausible.user("ann@example.com").await;
        let site = plausible.site(ann, "one.example").await;
        let team = plausible.team_of(site).await;
        let mut app = start(database, &plausible).await;
        become_owner(&mut app, &format!("My Personal Sites ({team})")).await;
        let endpoint = Endpoint::http([Behaviour::status(500), Behaviour::status(200), Behaviour::status(200)]).await;
        let path = webhook(&app, "one.example", &endpoint).await;
        app.drain().await;
        assert_eq!(app.store.watched(Selection::All).await.unwrap().triggers.len(), 1);
        app.post(&format!("{path}/test"), json!({})).await.expect(202);
        app.drain().await;
        assert_eq!(endpoint.arrived().len(), 1, "it failed and is to be tried again");

        plausible.run(&format!("SELECT fixture_lock({site})")).await;
        app.drain().await;
        for _ in 0..5 {
            app.advance(Duration::from_secs(60));
            app.drain().await;
        }
        assert_eq!(endpoint.arrived().len(), 1, "nothing is sent");
        assert!(app.store.watched(Selection::All).await.unwrap().triggers.is_empty(), "nothing is noticed");
        assert_eq!(app.get("/api/me").await.expect(403)["code"], "account_suspended");

        plausible.run(&format!("SELECT fixture_lock({site}, false)")).await;
        app.drain().await;
        app.drain().await;
        assert_eq!(endpoint.arrived().len(), 2, "what waited is sent");
        let watched = app.store.watched(Selection::All).await.unwrap().triggers;
        assert_eq!(
            watched.iter().map(|watched| watched.since).collect::<Vec<_>>(),
            [app.now()],
            "what happened meanwhile is not made up for"
        );
        let entries = app.get("/api/audit").await.expect(200)["entries"].clone();
        assert_eq!((&entries[0]["actor"], &entries[0]["action"]), (&json!("plausible"), &json!("account.resume")));
        let deliveries = app.get(&format!("{path}/deliveries")).await.expect(200)["deliveries"].clone();
        assert_eq!(deliveries[0]["status"], "success");
        app.stop().await;
    }

    async fn keys_made_on_the_machine_are_for_teams(database: Database) {
        let plausible = Plausible::current().await;
        let ann = plausible.user("ann@example.com").await;
        let site = plausible.site(ann, "one.example").await;
        let team = plausible.team_of(site).await;
        let app = start(database, &plausible).await;
        for account in [format!("My Personal Sites ({team})"), team.to_string()] {
            let made = key_of(&app.database, &account).await;
            assert_eq!(domains(&as_bearer(&app, Method::GET, "/api/sites", &made).await.expect(200)), ["one.example"]);
            as_bearer(&app, Method::GET, "/api/keys", &made).await.expect(200);
        }
        let refused =
            pulsehook(&app.database).args(["keys", "create", "--account", "My Personal Sites"]).output().await.unwrap();
        assert!(String::from_utf8_lossy(&refused.stderr).contains("Plausible has no team \"My Personal Sites\""));
        app.stop().await;
    }

    async fn traffic_that_is_taken_until_today_is_not_watched_today(database: Database) {
        let plausible = Plausible::current().await;
        let ann = plausible.user("ann@example.com").await;
        let site = plausible.site(ann, "one.example").await;
        let team = format!("team:{}", plausible.team_of(site).await);
        let app = start(database, &plausible).await;
        for (day, active) in [("2026-02-24", false), ("2026-02-25", false), ("2026-02-26", true), ("2126-01-01", true)]
        {
            plausible.run(&format!("SELECT fixture_accept_traffic_until({site}, '{day}')")).await;
            app.drain().await;
            let holder = app.store.operator_account_there(&team).await.unwrap().unwrap();
            assert_eq!(holder.active, active, "{day}");
        }
        plausible.run(&format!("SELECT fixture_accept_traffic_until({site}, '2026-02-26')")).await;
        app.drain().await;
        // Fourteen hours later it is that day.
        app.advance(Duration::from_secs(14 * 3_600));
        app.drain().await;
        assert!(!app.store.operator_account_there(&team).await.unwrap().unwrap().active);
        app.stop().await;
    }

    async fn a_site_that_is_gone_or_changes_hands_takes_its_webhooks_along(database: Database) {
        let plausible = Plausible::current().await;
        let ann = plausible.user("ann@example.com").await;
        let bob = plausible.user("bob@example.com").await;
        let (gone, given) = (plausible.site(ann, "gone.example").await, plausible.site(ann, "given.example").await);
        let theirs = plausible.site(bob, "theirs.example").await;
        let (team, other) = (plausible.team_of(gone).await, plausible.team_of(theirs).await);
        plausible.number(&format!("SELECT fixture_event_goal({given}, 'Signup')")).await;
        let mut app = start(database, &plausible).await;
        become_owner(&mut app, &format!("My Personal Sites ({team})")).await;
        let endpoint = Endpoint::http([Behaviour::status(500), Behaviour::status(200)]).await;
        for domain in ["gone.example", "given.example"] {
            let path = webhook(&app, domain, &endpoint).await;
            app.post(&format!("{path}/test"), json!({})).await.expect(202);
            app.drain().await;
        }
        let before = endpoint.arrived().len();
        plausible
            .run(&format!("DELETE FROM sites WHERE id = {gone}; UPDATE sites SET team_id = {other} WHERE id = {given}"))
            .await;
        app.drain().await;
        app.advance(Duration::from_secs(600));
        app.drain().await;
        assert_eq!(endpoint.arrived().len(), before, "nothing is owed any more");
        assert_eq!(app.store.operator_depth().await.unwrap().deliveries, 0);
        app.get("/api/sites/gone.example").await.expect(404);
        app.get("/api/sites/given.example").await.expect(404);
        become_owner(&mut app, &format!("My Personal Sites ({other})")).await;
        assert_eq!(domains(&app.get("/api/sites").await.expect(200)), ["given.example", "theirs.example"]);
        assert_eq!(app.get("/api/sites/given.example/webhooks").await.expect(200)["webhooks"], json!([]));
        assert_eq!(goals(&app, given).await.len(), 1);
        // A team that is gone takes its account along.
        plausible.run(&format!("DELETE FROM teams WHERE id = {team}")).await;
        app.drain().await;
        assert_eq!(app.store.operator_account_there(&format!("team:{team}")).await.unwrap(), None);
        app.stop().await;
    }

    async fn while_plausible_is_away_what_is_known_stays(database: Database) {
        let plausible = Plausible::current().await;
        let ann = plausible.user("ann@example.com").await;
        let site = plausible.site(ann, "one.example").await;
        plausible.run(&format!("SELECT fixture_plugin_token({site}, '{TOKEN}')")).await;
        let team = plausible.team_of(site).await;
        let mut app = start(database, &plausible).await;
        become_owner(&mut app, &format!("My Personal Sites ({team})")).await;
        let endpoint = Endpoint::http([Behaviour::status(200)]).await;
        let path = webhook(&app, "one.example", &endpoint).await;
        as_bearer(&app, Method::GET, "/api/sites", TOKEN).await.expect(200);
        plausible.go_away().await;
        app.drain().await;
        app.post(&format!("{path}/test"), json!({})).await.expect(202);
        app.drain().await;
        assert_eq!(endpoint.arrived().len(), 1);
        as_bearer(&app, Method::GET, "/api/sites", TOKEN).await.expect(200);
        let unknown = as_bearer(&app, Method::GET, "/api/sites", &format!("{TOKEN}x")).await;
        assert_eq!(unknown.expect(503)["code"], "unavailable");
        assert!(unknown.header("retry-after").is_some());
        app.advance(Duration::from_secs(30));
        as_bearer(&app, Method::GET, "/api/sites", TOKEN).await.expect(503);
        plausible.come_back().await;
        as_bearer(&app, Method::GET, "/api/sites", TOKEN).await.expect(200);
        as_bearer(&app, Method::GET, "/api/sites", &format!("{TOKEN}x")).await.expect(401);
        app.stop().await;
    }

    async fn a_plugin_token_opens_its_site_and_no_other(database: Database) {
        let plausible = Plausible::current().await;
        let ann = plausible.user("ann@example.com").await;
        let site = plausible.site(ann, "one.example").await;
        let other = plausible.site(ann, "two.example").await;
        plausible.run(&format!("SELECT fixture_plugin_token({site}, '{TOKEN}')")).await;
        let mut app = start(database, &plausible).await;
        let team = plausible.team_of(site).await;
        become_owner(&mut app, &format!("My Personal Sites ({team})")).await;
        let endpoint = Endpoint::http([Behaviour::status(200)]).await;
        let theirs = webhook(&app, "two.example", &endpoint).await;
        for user_info in [format!("{TOKEN}:"), format!("any:{TOKEN}"), TOKEN.to_owned()] {
            let encoded = base64::engine::general_purpose::STANDARD.encode(user_info);
            let request = app.request(Method::GET, "/api/sites").header("authorization", format!("Basic {encoded}"));
            assert_eq!(domains(&Answer::of(request).await.expect(200)), ["one.example"]);
        }
        let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{}:", app.key));
        let request = app.request(Method::GET, "/api/sites").header("authorization", format!("Basic {encoded}"));
        Answer::of(request).await.expect(401);
        assert_eq!(domains(&as_bearer(&app, Method::GET, "/api/sites", TOKEN).await.expect(200)), ["one.example"]);
        let me = as_bearer(&app, Method::GET, "/api/me", TOKEN).await.expect(200);
        assert_eq!(me["role"], "editor");
        assert_eq!((&me["directory"], &me["analytics"]), (&json!("plausible"), &json!("clickhouse")));
        assert!(text(&me["who"]).starts_with("plugin_token:"));
        let body = json!({"name": "Test", "url": endpoint.url(), "triggers": [{"type": "goal_completion"}]});
        let made = app.post_as(TOKEN, "/api/sites/one.example/webhooks", body.clone()).await.expect(201);
        let own = format!("/api/sites/one.example/webhooks/{}", text(&made["webhook"]["id"]));
        as_bearer(&app, Method::GET, &own, TOKEN).await.expect(200);
        app.post_as(TOKEN, "/api/sites/two.example/webhooks", body).await.expect(404);
        for path in [
            theirs.clone(),
            format!("{theirs}/deliveries"),
            format!("/api/sites/{other}"),
            "/api/sites/two.example/goals".to_owned(),
        ] {
            as_bearer(&app, Method::GET, &path, TOKEN).await.expect(404);
        }
        // Not under the site that is theirs either.
        as_bearer(&app, Method::GET, &theirs.replace("two.example", "one.example"), TOKEN).await.expect(404);
        for path in ["/api/keys", "/api/audit", "/api/members"] {
            as_bearer(&app, Method::GET, path, TOKEN).await.expect(403);
        }
        // Revoked, it works half a minute longer at most.
        plausible.run("DELETE FROM plugins_api_tokens").await;
        app.advance(Duration::from_secs(30));
        as_bearer(&app, Method::GET, "/api/sites", TOKEN).await.expect(401);
        app.stop().await;
    }

    async fn an_api_key_opens_the_team_of_its_user(database: Database) {
        let plausible = Plausible::current().await;
        let ann = plausible.user("ann@example.com").await;
        let site = plausible.site(ann, "one.example").await;
        let bob = plausible.user("bob@example.com").await;
        plausible.site(bob, "bob.example").await;
        let team = plausible.team_of(site).await;
        let key = "k".repeat(64);
        plausible.number(&format!("SELECT fixture_api_key({ann}, '{key}', '{SECRET_KEY_BASE}')")).await;
        let stored = plausible
            .number(
                "SELECT count(*) FROM api_keys
            WHERE key_hash = 'c56bbea1e9c69a49baa5e3806576f5593fee17cdcc07fdd0aa631744f321e53f'",
            )
            .await;
        assert_eq!(stored, 1, "the hash is Plausible's");
        let app = start(database, &plausible).await;
        let me = async |key: &str| as_bearer(&app, Method::GET, "/api/me", key).await;
        let found = me(&key).await.expect(200);
        assert_eq!(
            (&found["role"], &found["account"]["name"]),
            (&json!("editor"), &json!(format!("My Personal Sites ({team})")))
        );
        as_bearer(&app, Method::GET, "/api/keys", &key).await.expect(403);
        me(&"x".repeat(64)).await.expect(401);

        // Bob's key is for Ann's team, and does what Bob may do there.
        let theirs = "b".repeat(64);
        plausible.run(&format!("SELECT fixture_member({site}, {bob}, 'viewer')")).await;
        plausible.number(&format!("SELECT fixture_api_key({bob}, '{theirs}', '{SECRET_KEY_BASE}')")).await;
        let set = async |what: String| {
            plausible.run(&what).await;
            app.advance(Duration::from_secs(30));
            app.drain().await;
        };
        set(format!("UPDATE api_keys SET team_id = {team} WHERE user_id = {bob}")).await;
        for (role, expected) in [
            ("viewer", "viewer"),
            ("billing", "viewer"),
            ("editor", "editor"),
            ("admin", "editor"),
            ("owner", "editor"),
        ] {
            set(format!("SELECT fixture_member({site}, {bob}, '{role}')")).await;
            let found = me(&theirs).await.expect(200);
            assert_eq!(found["role"], expected, "{role}");
            assert_eq!(found["account"]["name"], format!("My Personal Sites ({team})"));
        }
        set(format!("SELECT fixture_guest({site}, {bob}, 'editor')")).await;
        assert_eq!(me(&theirs).await.expect(403)["code"], "guest");
        set(format!("DELETE FROM team_memberships WHERE user_id = {bob} AND team_id = {team}")).await;
        me(&theirs).await.expect(401);
        // From before teams: what its user owns.
        set(format!("UPDATE api_keys SET team_id = NULL WHERE user_id = {bob}")).await;
        assert_eq!(domains(&as_bearer(&app, Method::GET, "/api/sites", &theirs).await.expect(200)), ["bob.example"]);
        set("SELECT fixture_lock(id) FROM sites WHERE domain = 'bob.example'".to_owned()).await;
        assert_eq!(me(&theirs).await.expect(403)["code"], "account_suspended");
        set(format!("DELETE FROM api_keys WHERE user_id = {ann}")).await;
        me(&key).await.expect(401);
        app.stop().await;
    }

    async fn people_sign_in_with_the_password_they_have_there(database: Database) {
        // "a password of some length", at the lowest cost.
        let hash = bcrypt::hash("a password of some length", 4).unwrap();
        let plausible = Plausible::current().await;
        let ann = plausible.user("Ann@example.com").await;
        let site = plausible.site(ann, "one.example").await;
        let bob = plausible.user("bob@example.com").await;
        let app = start(database, &plausible).await;
        let sign_in = async |email: &str, password: &str| {
            let body = json!({"email": email, "password": password});
            Answer::of(app.request(Method::POST, "/api/session").json(&body)).await
        };
        let cookie = |answer: &Answer| answer.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
        let me = async |cookie: &str| Answer::of(app.request(Method::GET, "/api/me").header("cookie", cookie)).await;

        // The file for operators leaves passwords out; whoever wants this adds them.
        sign_in("ann@example.com", "a password of some length").await.expect(503);
        plausible
            .run(&format!(
                "
            GRANT SELECT (email, password_hash, totp_enabled) ON users TO {};
            UPDATE users SET password_hash = '{hash}'",
                plausible.role()
            ))
            .await;
        assert_eq!(sign_in("ann@example.com", "another password").await.expect(401)["code"], "wrong_password");
        assert_eq!(
            sign_in("nobody@example.com", "a password of some length").await.expect(401)["code"],
            "wrong_password"
        );
        let entered = sign_in("ann@example.com", "a password of some length").await;
        entered.expect(204);
        let session = cookie(&entered);
        let found = me(&session).await.expect(200);
        assert_eq!(
            (&found["role"], &found["account"]["name"]),
            (&json!("owner"), &json!(format!("My Personal Sites ({})", plausible.team_of(site).await)))
        );

        // Bob has a team without sites; he is an editor where there are some, then an admin, then out.
        plausible.run(&format!("SELECT fixture_member({site}, {bob}, 'editor')")).await;
        let entered = sign_in("bob@example.com", "a password of some length").await;
        entered.expect(204);
        let theirs = cookie(&entered);
        assert_eq!(me(&theirs).await.expect(200)["role"], "editor");
        plausible.run(&format!("SELECT fixture_member({site}, {bob}, 'admin')")).await;
        app.advance(Duration::from_secs(30));
        assert_eq!(me(&theirs).await.expect(200)["role"], "admin");
        plausible.run(&format!("SELECT fixture_lock({site})")).await;
        app.drain().await;
        app.advance(Duration::from_secs(30));
        assert_eq!(me(&theirs).await.expect(403)["code"], "account_suspended");
        let no_longer = |role| format!("DELETE FROM team_memberships WHERE user_id = {bob} AND role = '{role}'");
        plausible.run(&format!("SELECT fixture_lock({site}, false); {}", no_longer("admin"))).await;
        app.drain().await;
        app.advance(Duration::from_secs(30));
        me(&theirs).await.expect(401);
        me(&session).await.expect(200);
        plausible.run(&format!("SELECT fixture_guest({site}, {bob}, 'viewer'); {}", no_longer("owner"))).await;
        assert_eq!(sign_in("bob@example.com", "a password of some length").await.expect(403)["code"], "guest");
        plausible.run("UPDATE users SET totp_enabled = true").await;
        assert_eq!(sign_in("ann@example.com", "a password of some length").await.expect(403)["code"], "second_factor");
        assert_eq!(sign_in("ann@example.com", "wrong").await.expect(401)["code"], "wrong_password");
        // While Plausible is away nobody can say whether somebody still belongs there.
        plausible.go_away().await;
        app.advance(Duration::from_secs(30));
        me(&session).await.expect(503);
        plausible.come_back().await;
        me(&session).await.expect(200);
        app.stop().await;
    }

    async fn a_database_belongs_to_one_directory(database: Database) {
        let plausible = Plausible::current().await;
        let traffic = ClickHouse::plausible(CURRENT).await;
        let beside = vec![
            ("analytics_url", traffic.url()),
            ("directory", "plausible".to_owned()),
            ("plausible_database_url", plausible.reader().await),
        ];
        let own = TestApp::start(database).await.stop().await;
        let sentence = refusal(&own, beside.clone()).await;
        assert!(sentence.contains("this database has the accounts of another directory"), "{sentence}");
        let fresh = another(&own).await;
        let theirs =
            TestApp::start_with(fresh, Setup { settings: beside.clone(), ..Setup::default() }).await.stop().await;
        let sentence = refusal(&theirs, Vec::new()).await;
        assert!(sentence.contains("directory is own, but this database has the accounts of another"), "{sentence}");
        // With its own directory it starts again.
        TestApp::start_with(theirs, Setup { settings: beside, ..Setup::default() }).await.stop().await;
    }

    async fn what_cannot_be_read_is_said_in_a_sentence(database: Database) {
        let traffic = ClickHouse::plausible(CURRENT).await;
        let plausible = Plausible::current().await;
        let settings = |url: String| {
            vec![
                ("analytics_url", traffic.url()),
                ("directory", "plausible".to_owned()),
                ("plausible_database_url", url),
                ("plausible_secret_key_base", SECRET_KEY_BASE.to_owned()),
            ]
        };
        let reader = plausible.reader().await;
        let empty = postgres::database().await;
        for (undo, url, expected) in [
            ("", empty.clone(), "leads to a database without sites.id"),
            ("", format!("{empty}_missing"), "there is no such database"),
            ("REVOKE SELECT (locked) ON teams FROM", reader.clone(), "may not read teams.locked"),
            ("REVOKE SELECT (key_hash) ON api_keys FROM", reader.clone(), "may not read api_keys.key_hash"),
            ("REVOKE SELECT (domain) ON sites FROM", reader.clone(), "may not read sites.domain"),
        ] {
            plausible.grant().await;
            if !undo.is_empty() {
                plausible.run(&format!("{undo} {}", plausible.role())).await;
            }
            let sentence = refusal(&database, settings(url)).await;
            assert!(sentence.contains(expected), "{sentence}");
        }
    }

    async fn the_reader_reads_what_it_needs_and_nothing_else(database: Database) {
        let plausible = Plausible::current().await;
        let ann = plausible.user("ann@example.com").await;
        plausible.site(ann, "one.example").await;
        let app = start(database, &plausible).await;
        assert_eq!(app.store.mirrored().await.unwrap().sites.len(), 1, "it suffices");
        let mut reader = connect(&plausible.reader().await).await;
        // It could have this off; what it may do is another matter.
        let off = sqlx::raw_sql("INSERT INTO goals (site_id) VALUES (1)").execute(&mut reader).await.map(drop);
        assert!(off.unwrap_err().to_string().contains("read-only transaction"));
        sqlx::raw_sql("SET default_transaction_read_only = off").execute(&mut reader).await.unwrap();
        for statement in [
            "SELECT password_hash FROM users",
            "SELECT email FROM users",
            "SELECT totp_secret FROM users",
            "SELECT * FROM users",
            "SELECT salt FROM salts",
            "SELECT status FROM subscriptions",
            "SELECT name FROM api_keys",
            "UPDATE sites SET domain = 'x'",
            "DELETE FROM goals",
            "INSERT INTO goals (site_id) VALUES (1)",
            "CREATE TABLE things (id bigint)",
        ] {
            let error = sqlx::raw_sql(statement).execute(&mut reader).await.map(drop).expect_err(statement);
            assert!(error.to_string().contains("permission denied"), "{statement}: {error}");
        }
        app.stop().await;
    }
});
