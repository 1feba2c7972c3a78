//! What tests share.

pub mod app;
pub mod postgres;
pub mod zoo;

/// Runs each test on both databases: `on_both!(async fn name(database: Database) { … })`.
macro_rules! on_both {
    ($($(#[$attribute:meta])* async fn $name:ident($database:ident: Database) $body:block)*) => {
        $(
            mod $name {
                use super::*;

                $(#[$attribute])*
                async fn run($database: $crate::support::Database) $body

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn sqlite() {
                    run($crate::support::Database::sqlite()).await;
                }

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn postgres() {
                    run($crate::support::Database::postgres().await).await;
                }
            }
        )*
    };
}
pub(crate) use on_both;

/// An empty database of one kind, and a folder that goes with it.
pub struct Database {
    pub url: String,
    pub folder: tempfile::TempDir,
}

impl Database {
    pub fn sqlite() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        Self { url: format!("sqlite://{}", folder.path().join("pulsehook.db").display()), folder }
    }

    pub async fn postgres() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        Self { url: postgres::database().await, folder }
    }
}
