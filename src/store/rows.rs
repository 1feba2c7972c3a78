//! Many rows in one statement, for SQLite: it has no arrays to unnest, and each statement is a trip to the driver's thread.

use std::sync::OnceLock;

use sqlx::Sqlite;
use sqlx::sqlite::SqliteArguments;

/// Rows the largest statement takes.
pub(super) const MOST_ROWS: usize = 256;
/// Statements for 1, 2, 4 … [`MOST_ROWS`] rows.
const SIZES: usize = MOST_ROWS.ilog2() as usize + 1;

pub(super) type Query<'q> = sqlx::query::Query<'q, Sqlite, SqliteArguments>;

/// A statement over a list of rows: `before (VALUES …) after`. Rows of NULLs fill up what is missing to the next size, so
/// that few texts are prepared; the statement must pass over them. One that writes says `OR FAIL`: otherwise SQLite
/// copies every page it touches to a file, in case it must take back the rows before one that is refused, and whoever
/// gets an error here gives the whole transaction up anyway.
pub(super) struct Rows {
    before: &'static str,
    columns: usize,
    after: &'static str,
    texts: [OnceLock<String>; SIZES],
}

impl Rows {
    pub(super) const fn new(before: &'static str, columns: usize, after: &'static str) -> Self {
        Self { before, columns, after, texts: [const { OnceLock::new() }; SIZES] }
    }

    /// The statement for up to [`MOST_ROWS`] rows, with `bind` called for each.
    pub(super) fn query<'q, T>(
        &'static self,
        rows: &'q [T],
        bind: impl Fn(Query<'q>, &'q T) -> Query<'q>,
    ) -> Query<'q> {
        let size = rows.len().next_power_of_two();
        let text = self.texts[size.ilog2() as usize].get_or_init(|| {
            let row = format!("({})", vec!["?"; self.columns].join(", "));
            format!("{} (VALUES {}) {}", self.before, vec![row.as_str(); size].join(", "), self.after)
        });
        let mut query = sqlx::query(sqlx::AssertSqlSafe(text.as_str()));
        for row in rows {
            query = bind(query, row);
        }
        for _ in 0..(size - rows.len()) * self.columns {
            query = query.bind(None::<i64>);
        }
        query
    }
}
