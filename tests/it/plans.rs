//! How the databases go about our statements: by an index, from the front, whatever the tables come to hold.

use std::collections::{BTreeSet, HashMap};

use serde_json::Value;
use sqlx::sqlite::{SqliteConnectOptions, SqliteRow};
use sqlx::{Connection as _, PgConnection, Row as _, SqliteConnection};

use crate::support::Database;

/// Tables that do not grow with use, and rows that come from the statement itself.
const SMALL: [&str; 26] = [
    "facts",
    "gaps",
    // Folded every few seconds.
    "gathered",
    "lease",
    "listened",
    "moved",
    "ours",
    "nodes",
    "removals",
    "salts",
    "shards",
    "source",
    "watermarks",
    "CONSTANT",
    "credentials",
    "delivery",
    "heard",
    "held",
    "news",
    "json_each",
    "next",
    "numbers",
    "places",
    "told",
    "waiting",
    "wanted",
];
/// Indexes of a few rows of a table, which is what they are read for.
const PARTIAL: [&str; 2] = ["resends_running_idx", "webhooks_failing_idx"];

/// Statements that are meant to read everything, by their beginnings.
const MEANT: &[&str] = &[
    // What is watched, read once and again when the configuration changed; what is remembered of it; whose hits are whose.
    "SELECT triggers.id, triggers.account_id, triggers.site_id, webhook_id, settings, triggers.version",
    "SELECT id, site_id, event_name, page_path, scroll_threshold, display_name, custom_props, currency, inserted_at FROM goals \
     WHERE site_id IN (SELECT value FROM json_each($1))",
    "SELECT id, site_id, event_name, page_path, scroll_threshold, display_name, custom_props, currency, inserted_at FROM goals \
     WHERE site_id = ANY ($1)",
    "SELECT trigger_id, fired, state FROM trigger_states",
    "SELECT site_id, profile FROM site_profiles",
    "SELECT sites.id, sites.domain FROM sites JOIN accounts",
    // All of them, for whoever runs the server.
    "SELECT id, email, (SELECT count(*) FROM memberships",
    "SELECT id, name, status = 'active' AS active",
    // What is mirrored, compared as a whole with what the other directory says.
    "SELECT id, external_id, name, status FROM accounts",
    "SELECT external_id, id FROM accounts",
    "SELECT id, account_id, domain, timezone FROM sites ORDER BY id",
    "SELECT id, site_id, event_name, page_path, scroll_threshold, display_name, custom_props, currency, inserted_at FROM goals \
     ORDER BY id",
    // An account goes once, with what is left of it.
    "DELETE FROM accounts",
    // Batches of triggers that are gone, once a minute.
    "DELETE FROM gathered WHERE NOT EXISTS",
    // The queue's depth: the longer it takes, the less often it is asked for.
    "SELECT count(*) AS deliveries, min(due_at) AS oldest_due_at FROM queue",
    // Its first row; the rest goes by keys.
    "WITH RECURSIVE waiting (event_id",
    "WITH RECURSIVE waiting AS ( ( SELECT",
    // Events of no day, which only a clock that is far off makes.
    "SELECT id, lists FROM events_rest AS events",
    // SQLite says how it would look for children that came before their parent, which is never.
    "INSERT INTO accounts",
    // The first row of either.
    "SELECT count(*) FROM (SELECT 1 AS one FROM users",
    "SELECT count(*) FROM (SELECT 1 AS one FROM accounts",
];

/// Tables that a surge fills in a second. A connection keeps a plan until somebody analyses a table, which is a minute later.
const SURGES: [&str; 3] = ["queue", "events", "attempts"];
/// When plans are made, and what happens before: an idle night ends with tables that are known to be empty.
const MOMENTS: [(&str, &[&str]); 3] = [
    ("at first", &[]),
    ("after a vacuum", &["VACUUM ANALYZE"]),
    ("while nothing is there", &["TRUNCATE queue, events, attempts", "VACUUM ANALYZE"]),
];

/// Rows that come with a statement, and what they are joined with, of which there are not more than shards: which of them is
/// gone through for each of the other is a matter of how often shards were written since the vacuum.
const FEW: [&str; 1] = ["lease"];

/// Not the engine's: on their connections the planner may join by hashing, which the engine's may not, and read a table that is
/// small.
const MAY_HASH: &[&str] = &["DELETE FROM gathered USING"];

/// Ours, one at a time, and not meant to read everything.
fn is_to_be_checked(statement: &str) -> bool {
    let plain = ["SELECT", "INSERT", "UPDATE", "DELETE", "WITH"].iter().any(|verb| statement.starts_with(verb));
    plain
        && !["pg_", "information_schema", "sqlite_", "_sqlx_migrations", ";"]
            .iter()
            .any(|text| statement.contains(text))
        && !MEANT.iter().any(|beginning| statement.starts_with(beginning))
}

/// Those of the statements that read a table, or an index, from one end to the other.
pub async fn astray_on_sqlite(database: &Database, statements: BTreeSet<String>) -> Vec<String> {
    let mut astray = Vec::new();
    for (name, tables) in [("pulsehook.db", "queue"), ("analytics.db", "hits")] {
        let options = SqliteConnectOptions::new().filename(database.folder.path().join(name));
        let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
        let ours: i64 = sqlx::query_scalar("SELECT count(*) FROM sqlite_master WHERE name = $1")
            .bind(tables)
            .fetch_one(&mut connection)
            .await
            .unwrap();
        assert_eq!(ours, 1, "{name} has no {tables}");
        for statement in statements.iter().filter(|statement| is_to_be_checked(statement)) {
            let explain = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {statement}"));
            // A statement of the other file knows no such table here.
            let Ok(steps) = sqlx::query(explain).fetch_all(&mut connection).await else { continue };
            if places_come_first(&steps) {
                astray.push(format!("SQLite: lists are looked for in each of their places: {statement}"));
            }
            // What is done instead of an insert is not covered by what the insert says of conflicts.
            if statement.contains(" OR FAIL ") && !statement.contains(" DO UPDATE ") {
                let explain = sqlx::AssertSqlSafe(format!("EXPLAIN {statement}"));
                let operations = sqlx::query(explain).fetch_all(&mut connection).await.unwrap();
                let copies =
                    operations.iter().find(|operation| may_abort(operation)).map(|row| row.get::<String, _>("opcode"));
                astray.extend(copies.map(|why| format!("SQLite: copies the pages it touches, for {why}: {statement}")));
                if makes_a_table_of_each_row(&operations) {
                    astray.push(format!("SQLite: makes a table, in memory, with every row: {statement}"));
                }
            }
            let scans = steps.iter().map(|step| step.get::<String, _>("detail")).filter(|step| {
                let rest = step.strip_prefix("SCAN ").filter(|rest| !rest.contains("-ROW VALUES"));
                let table = rest.map(|rest| rest.split(' ').next().unwrap_or_default());
                table.is_some_and(|table| {
                    let comes_from_the_statement = SMALL.contains(&table) || table.starts_with("(subquery-");
                    !comes_from_the_statement && !PARTIAL.iter().any(|index| step.contains(index))
                })
            });
            astray.extend(scans.map(|scan| format!("SQLite: {scan}: {statement}")));
        }
    }
    astray
}

/// Whether SQLite has to be able to take back half a statement for this operation: it copies every page that a statement of
/// several rows touches then. A function may fail, and what is not as it must be is refused (`sqlite3VdbeAssertMayAbort`).
fn may_abort(operation: &SqliteRow) -> bool {
    const ABORT: i64 = 2;
    match operation.get::<&str, _>("opcode") {
        "Function" | "PureFunc" => true,
        "Halt" | "HaltIfNull" => operation.get::<i64, _>("p1") != 0 && operation.get::<i64, _>("p2") == ABORT,
        "FkCounter" => operation.get::<i64, _>("p1") == 0 && operation.get::<i64, _>("p2") == 1,
        _ => false,
    }
}

/// Whether in a loop, and not only when it is gone through for the first time, a table is made in memory: a constraint with a
/// list of three or more makes one of the list for every row it is held against.
fn makes_a_table_of_each_row(operations: &[SqliteRow]) -> bool {
    let opcode = |operation: &SqliteRow| operation.get::<String, _>("opcode");
    let target = |operation: &SqliteRow| usize::try_from(operation.get::<i64, _>("p2")).ok();
    // Behind the last `Halt` is what a statement begins with, and a jump back to its body.
    let end = operations.iter().rposition(|operation| opcode(operation) == "Halt").unwrap_or(operations.len());
    let begin_of_loop = |within: usize| {
        let back = operations[within..end].iter().filter(|jump| ["Goto", "Next"].contains(&opcode(jump).as_str()));
        back.filter_map(target).filter(|to| (1..=within).contains(to)).min()
    };
    let is_made_again = |(at, operation): (usize, &SqliteRow)| {
        opcode(operation) == "OpenEphemeral"
            && begin_of_loop(at).is_some_and(|begin| {
                let is_passed_over = |once: &SqliteRow| opcode(once) == "Once" && target(once) > Some(at);
                !operations[begin..at].iter().any(is_passed_over)
            })
    };
    operations.iter().enumerate().any(is_made_again)
}

/// Whether SQLite goes through the places that a list may have and looks for lists in each of them, not the other way round.
fn places_come_first(steps: &[SqliteRow]) -> bool {
    let detail = |step: &SqliteRow| step.get::<String, _>("detail");
    let parent = |step: &SqliteRow| step.get::<i64, _>("parent");
    steps.iter().enumerate().filter(|(_, step)| detail(step) == "SCAN places").any(|(position, places)| {
        let within = steps[position..].iter().filter(|step| parent(step) == parent(places));
        within.map(detail).any(|step| step.contains("events_listed_idx"))
    })
}

/// The same. Plans are made for any values, as the engine's are, and a table is read from end to end only where there is
/// no other way.
pub async fn astray_on_postgres(database: &Database, statements: BTreeSet<String>) -> Vec<String> {
    let mut connection = PgConnection::connect(&database.url).await.unwrap();
    sqlx::raw_sql(
        "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_hashjoin = off;
        SET enable_mergejoin = off; SET enable_memoize = off; SET jit = off",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    let leading = leading_columns(&mut connection).await;
    let mut astray = Vec::new();
    for (when, before) in MOMENTS {
        for command in before {
            sqlx::raw_sql(*command).execute(&mut connection).await.unwrap();
        }
        for statement in statements.iter().filter(|statement| is_to_be_checked(statement)) {
            let plan = plan_of(&mut connection, statement).await;
            let mut found = Vec::new();
            let is_ours = !MAY_HASH.iter().any(|beginning| statement.starts_with(beginning));
            full_scans(&plan, &leading, &mut found);
            found
                .retain(|(table, _)| before.is_empty() || is_ours && SURGES.iter().any(|name| table.starts_with(name)));
            if is_ours {
                quadratic(&plan, &mut found);
                found.retain(|(name, _)| before.is_empty() || !FEW.contains(&name.as_str()));
            }
            astray.extend(found.into_iter().map(|(_, found)| format!("PostgreSQL, {when}: {found}: {statement}")));
        }
    }
    astray
}

/// The first column of each index, or the expression.
async fn leading_columns(connection: &mut PgConnection) -> HashMap<String, String> {
    let columns = "SELECT pg_class.relname::text, pg_get_indexdef(indexrelid, 1, true)
        FROM pg_index
        JOIN pg_class ON pg_class.oid = indexrelid";
    sqlx::query_as(columns).fetch_all(connection).await.unwrap().into_iter().collect()
}

async fn plan_of(connection: &mut PgConnection, statement: &str) -> Value {
    let parameters = (1..).take_while(|number| statement.contains(&format!("${number}"))).count();
    prepare(connection, statement, &mut vec!["unknown"; parameters]).await;
    let values = vec!["NULL"; parameters];
    let call = if values.is_empty() { String::new() } else { format!("({})", values.join(", ")) };
    let explain = sqlx::AssertSqlSafe(format!("EXPLAIN (FORMAT JSON) EXECUTE one{call}"));
    let mut plan: Value = sqlx::raw_sql(explain).fetch_one(&mut *connection).await.unwrap().get(0);
    sqlx::raw_sql("DEALLOCATE one").execute(connection).await.unwrap();
    plan[0]["Plan"].take()
}

/// What is only compared with NULL, or with itself, has a type because our driver says so; here it is found by trying.
async fn prepare(connection: &mut PgConnection, statement: &str, types: &mut Vec<&str>) {
    let try_it = async |connection: &mut PgConnection, types: &[&str]| {
        let types = if types.is_empty() { String::new() } else { format!("({})", types.join(", ")) };
        let text = sqlx::AssertSqlSafe(format!("PREPARE one{types} AS {statement}"));
        sqlx::raw_sql(text).execute(connection).await.err().map(|error| error.to_string())
    };
    let untyped = |error: &Option<String>| {
        let number = error.as_ref()?.split_once("data type of parameter $")?.1.split(' ').next()?;
        number.parse::<usize>().ok()
    };
    let mut error = try_it(connection, types).await;
    while let Some(number) = untyped(&error) {
        for candidate in ["text", "bigint", "uuid"] {
            types[number - 1] = candidate;
            error = try_it(connection, types).await;
            if error.is_none() || untyped(&error).is_some_and(|next| next != number) {
                break;
            }
        }
    }
    assert_eq!(error, None, "{statement}");
}

/// Each with its table.
fn full_scans(node: &Value, leading: &HashMap<String, String>, found: &mut Vec<(String, String)>) {
    let kind = node["Node Type"].as_str().unwrap_or_default();
    let table = node["Relation Name"].as_str().or(node["Index Name"].as_str()).unwrap_or_default();
    let index = node["Index Name"].as_str().unwrap_or_default();
    let whole = kind == "Seq Scan" || (kind.contains("Index") && node["Index Cond"].is_null());
    if whole && !table.is_empty() && !SMALL.contains(&table) && !PARTIAL.contains(&index) {
        found.push((table.to_owned(), format!("{kind} of {table}")));
    }
    // An index that is asked by a later column alone is read to its end.
    if let Some(column) = leading.get(index).filter(|_| !whole && !node["Index Cond"].is_null())
        && !words(node["Index Cond"].as_str().unwrap_or_default()).any(|word| word == column)
    {
        found.push((table.to_owned(), format!("all of {index}, which begins with {column}")));
    }
    // PostgreSQL goes by its first column where to stop: in an index whose first column is the same for many it goes on.
    let condition = node["Index Cond"].as_str().unwrap_or_default();
    if condition.contains(") < ROW(") || condition.contains(") <= ROW(") {
        found.push((table.to_owned(), format!("all of {table} that have the first column in common")));
    }
    for child in node["Plans"].as_array().into_iter().flatten() {
        full_scans(child, leading, found);
    }
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// Rows that came with the statement, gone through from the first to the last for each row of something else. They are
/// thought to be ten and may be thousands.
fn quadratic(node: &Value, found: &mut Vec<(String, String)>) {
    let plans = || node["Plans"].as_array().into_iter().flatten();
    if node["Node Type"] == "Nested Loop" {
        let inner = plans().filter(|child| child["Parent Relationship"] == "Inner");
        let from_the_statement =
            inner.filter(|child| child["Node Type"].as_str().is_some_and(comes_with_the_statement));
        let names = from_the_statement.map(|child| child["Alias"].as_str().unwrap_or_default());
        found.extend(names.map(|name| (name.to_owned(), format!("all of {name} for each of another"))));
    }
    for child in plans() {
        quadratic(child, found);
    }
}

fn comes_with_the_statement(kind: &str) -> bool {
    ["Function Scan", "CTE Scan"].contains(&kind)
}
