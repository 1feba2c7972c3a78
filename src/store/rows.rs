//! Many rows in one statement, for SQLite, which has no arrays to unnest.

use std::sync::OnceLock;

use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use sqlx::Sqlite;
use sqlx::sqlite::SqliteArguments;
use uuid::Uuid;

use super::direct::statement;
use crate::domain::ids::{AccountId, EventId, GoalId, SiteId, TriggerId, WebhookId};
use crate::domain::time::Timestamp;

/// Rows the largest statement takes.
pub(super) const MOST_ROWS: usize = 256;
/// Rows that are bound at a time by [`Rows::write`]: what SQLite keeps of their values until they are written has its place in
/// the memory each connection has for that (`.cargo/config.toml`).
const WRITTEN_AT_ONCE: usize = 32;
/// Statements for so many rows: what fills one up is bound and gone through like the rest.
const SIZES: [usize; 16] = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, MOST_ROWS];

pub(super) type Query<'q> = sqlx::query::Query<'q, Sqlite, SqliteArguments>;

/// A statement over a list of rows of so many columns. Rows of NULLs fill up what is missing to the next size, so that few texts
/// are prepared; the statement must pass over them. One that writes says `OR FAIL`: otherwise SQLite copies every page it
/// touches to a file, in case it must take back the rows before one that is refused, and whoever gets an error here gives the
/// whole transaction up anyway.
pub(super) struct Rows<const COLUMNS: usize> {
    before: &'static str,
    after: &'static str,
    texts: [OnceLock<String>; SIZES.len()],
}

/// What is in a column of a row.
#[derive(Debug, Clone, Copy)]
pub(super) enum Value<'q> {
    Null,
    Integer(i64),
    Text(&'q str),
    Blob(&'q [u8]),
}

/// A row of [`Value`]s.
macro_rules! values {
    ($($value:expr),+ $(,)?) => {
        [$($crate::store::rows::Value::from($value)),+]
    };
}
pub(super) use values;

impl<const COLUMNS: usize> Rows<COLUMNS> {
    /// `before (VALUES …) after`.
    pub(super) const fn new(before: &'static str, after: &'static str) -> Self {
        Self { before, after, texts: [const { OnceLock::new() }; SIZES.len()] }
    }

    /// For so many rows, or a few more.
    fn text(&'static self, rows: usize) -> &'static str {
        let index = SIZES.partition_point(|size| *size < rows);
        self.texts[index].get_or_init(|| {
            let row = format!("({})", ["?"; COLUMNS].join(", "));
            let list = vec![row.as_str(); SIZES[index]].join(", ");
            format!("{} (VALUES {list}) {}", self.before, self.after)
        })
    }

    /// The statement for up to [`MOST_ROWS`] rows, and at least one.
    pub(super) fn query<'q, T>(
        &'static self,
        rows: &'q [T],
        values: impl Fn(&'q T) -> [Value<'q>; COLUMNS],
    ) -> Query<'q> {
        let query = sqlx::query(sqlx::AssertSqlSafe(self.text(rows.len())));
        filled_up(rows, values).fold(query, |query, value| match value {
            Value::Null => query.bind(None::<i64>),
            Value::Integer(number) => query.bind(number),
            Value::Text(text) => query.bind(text),
            Value::Blob(bytes) => query.bind(bytes),
        })
    }

    /// Runs the statement, without the driver, for however many rows. Answers how many it changed.
    pub(super) fn write<'q, T>(
        &'static self,
        connection: &rusqlite::Connection,
        rows: &'q [T],
        values: impl Fn(&'q T) -> [Value<'q>; COLUMNS],
    ) -> rusqlite::Result<usize> {
        let mut changed = 0;
        for rows in rows.chunks(WRITTEN_AT_ONCE) {
            let mut write = statement(connection, self.text(rows.len()))?;
            for (index, value) in (1..).zip(filled_up(rows, &values)) {
                write.raw_bind_parameter(index, value)?;
            }
            changed += write.raw_execute()?;
        }
        Ok(changed)
    }
}

/// What is bound for these rows.
fn filled_up<'q, T, const COLUMNS: usize>(
    rows: &'q [T],
    values: impl Fn(&'q T) -> [Value<'q>; COLUMNS],
) -> impl Iterator<Item = Value<'q>> {
    let size = SIZES[SIZES.partition_point(|size| *size < rows.len())];
    rows.iter().flat_map(values).chain(std::iter::repeat_n(Value::Null, (size - rows.len()) * COLUMNS))
}

impl ToSql for Value<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Integer(number) => ValueRef::Integer(*number),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

impl<'q, T: Into<Value<'q>>> From<Option<T>> for Value<'q> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

impl<'q> From<&'q str> for Value<'q> {
    fn from(text: &'q str) -> Self {
        Self::Text(text)
    }
}

impl<'q> From<&'q [u8]> for Value<'q> {
    fn from(bytes: &'q [u8]) -> Self {
        Self::Blob(bytes)
    }
}

impl<'q> From<&'q Uuid> for Value<'q> {
    fn from(id: &'q Uuid) -> Self {
        Self::Blob(id.as_bytes())
    }
}

impl From<i64> for Value<'_> {
    fn from(number: i64) -> Self {
        Self::Integer(number)
    }
}

impl From<i32> for Value<'_> {
    fn from(number: i32) -> Self {
        Self::Integer(number.into())
    }
}

impl From<bool> for Value<'_> {
    fn from(holds: bool) -> Self {
        Self::Integer(holds.into())
    }
}

impl From<Timestamp> for Value<'_> {
    fn from(moment: Timestamp) -> Self {
        Self::Integer(moment.micros())
    }
}

macro_rules! ids {
    (numbers: $($number:ty),+; uuids: $($uuid:ty),+) => {
        $(impl From<$number> for Value<'_> {
            fn from(id: $number) -> Self {
                Self::Integer(id.0)
            }
        })+
        $(impl<'q> From<&'q $uuid> for Value<'q> {
            fn from(id: &'q $uuid) -> Self {
                Self::from(&id.0)
            }
        })+
    };
}

ids!(numbers: AccountId, SiteId, GoalId; uuids: EventId, WebhookId, TriggerId);
