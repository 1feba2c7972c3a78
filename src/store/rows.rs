//! Many rows in one statement, for SQLite: it has no arrays to unnest, and each statement is a trip to the driver's thread.

use std::sync::OnceLock;

use sqlx::Sqlite;
use sqlx::sqlite::SqliteArguments;

/// Rows the largest statement takes.
pub(super) const MOST_ROWS: usize = 256;
/// Statements for so many rows: what fills one up is bound and gone through like the rest.
const SIZES: [usize; 16] = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, MOST_ROWS];

pub(super) type Query<'q> = sqlx::query::Query<'q, Sqlite, SqliteArguments>;

/// A statement over a list of rows. Rows of NULLs fill up what is missing to the next size, so that few texts are prepared;
/// the statement must pass over them. One that writes says `OR FAIL`: otherwise SQLite copies every page it touches to a
/// file, in case it must take back the rows before one that is refused, and whoever gets an error here gives the whole
/// transaction up anyway.
pub(super) struct Rows {
    before: &'static str,
    columns: usize,
    after: &'static str,
    texts: [OnceLock<String>; SIZES.len()],
}

impl Rows {
    /// `before (VALUES …) after`, rows of so many columns.
    pub(super) const fn new(before: &'static str, columns: usize, after: &'static str) -> Self {
        Self { before, columns, after, texts: [const { OnceLock::new() }; SIZES.len()] }
    }

    fn text(&self, rows: usize) -> String {
        let row = format!("({})", vec!["?"; self.columns].join(", "));
        let list = vec![row.as_str(); rows].join(", ");
        format!("{} (VALUES {list}) {}", self.before, self.after)
    }

    /// The statement for up to [`MOST_ROWS`] rows, with `bind` called for each.
    pub(super) fn query<'q, T>(
        &'static self,
        rows: &'q [T],
        bind: impl Fn(Query<'q>, &'q T) -> Query<'q>,
    ) -> Query<'q> {
        self.bind(sqlx::query(sqlx::AssertSqlSafe(self.text_for(rows.len()))), rows, bind)
    }

    /// Its text, for so many rows; nothing for none.
    pub(super) fn text_for(&'static self, rows: usize) -> &'static str {
        index_for(rows).map_or("", |index| self.texts[index].get_or_init(|| self.text(SIZES[index])))
    }

    /// Binds what that text asks for, behind what is bound already.
    pub(super) fn bind<'q, T>(
        &self,
        mut query: Query<'q>,
        rows: &'q [T],
        bind: impl Fn(Query<'q>, &'q T) -> Query<'q>,
    ) -> Query<'q> {
        for row in rows {
            query = bind(query, row);
        }
        let size = index_for(rows.len()).map_or(0, |index| SIZES[index]);
        for _ in 0..(size - rows.len()) * self.columns {
            query = query.bind(None::<i64>);
        }
        query
    }
}

/// Which of [`SIZES`] is the smallest that takes so many rows.
fn index_for(rows: usize) -> Option<usize> {
    (rows > 0).then(|| SIZES.partition_point(|size| *size < rows))
}
