//! What tests share.

pub mod app;
pub mod clickhouse;
pub mod events;
pub mod postgres;
pub mod process;
pub mod zoo;

/// Runs each test on both databases: `on_both!({ async fn name(database: Database) { … } … });`. A block in parentheses,
/// since that is what rustfmt looks into.
macro_rules! on_both {
    ({ $($(#[$attribute:meta])* async fn $name:ident($database:ident: Database) $body:block)* }) => {
        $(
            mod $name {
                use super::*;

                $(#[$attribute])*
                async fn run($database: $crate::support::Database) $body

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn sqlite() {
                    $crate::support::in_time(run($crate::support::Database::sqlite())).await;
                }

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn postgres() {
                    $crate::support::in_time(async { run($crate::support::Database::postgres().await).await }).await;
                }
            }
        )*
    };
}
pub(crate) use on_both;

/// A test that waits for something that never comes fails instead of hanging.
pub fn in_time<T>(test: impl Future<Output = T>) -> impl Future<Output = T> {
    within(std::time::Duration::from_secs(180), test)
}

/// The same for one that takes longer.
#[expect(clippy::disallowed_methods, reason = "the clock of a test stands still; this one must not")]
pub async fn within<T>(limit: std::time::Duration, test: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(limit, test).await;
    done.unwrap_or_else(|_| panic!("the test did not end within {} s", limit.as_secs()))
}

/// An empty database of one kind, and a folder that goes with it.
pub struct Database {
    pub url: String,
    pub folder: tempfile::TempDir,
}

impl Database {
    /// Changes one row behind our back: `$1` of the statement is a text, `$2` the row's id.
    pub async fn rewrite(&self, sql: &'static str, text: &str, id: &str) {
        use sqlx::Connection as _;
        let id: uuid::Uuid = id.parse().unwrap();
        let changed = if self.url.starts_with("sqlite:") {
            let mut connection = sqlx::SqliteConnection::connect(&self.url).await.unwrap();
            let done = sqlx::query(sql).bind(text).bind(id).execute(&mut connection).await.unwrap();
            connection.close().await.unwrap();
            done.rows_affected()
        } else {
            let mut connection = sqlx::PgConnection::connect(&self.url).await.unwrap();
            let done = sqlx::query(sql).bind(text).bind(id).execute(&mut connection).await.unwrap();
            connection.close().await.unwrap();
            done.rows_affected()
        };
        assert_eq!(changed, 1);
    }

    pub fn sqlite() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        Self { url: format!("sqlite://{}", folder.path().join("pulsehook.db").display()), folder }
    }

    pub async fn postgres() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        Self { url: postgres::database().await, folder }
    }
}
