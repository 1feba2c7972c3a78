//! Where a run happens: a folder, a database, the accounts in it.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::World;
use super::database::Database;
use super::postgres::Meter;
use super::report::Kind;
use super::served::{Launch, Served};
use crate::directory::{Grant, issue_key};
use crate::domain::access::{Role, Who};
use crate::domain::ids::AccountId;
use crate::store::audit::Change;

/// A data folder, a database, and one account with its key.
pub struct Home {
    pub folder: Folder,
    pub database: Database,
    pub account: Account,
}

/// An account and the key its owner works with.
#[derive(Debug, Clone)]
pub struct Account {
    pub id: AccountId,
    pub key: String,
}

/// A folder that is gone when it is dropped.
pub struct Folder(PathBuf);

impl Home {
    pub async fn new(world: &World, kind: Kind) -> anyhow::Result<Self> {
        let folder = Folder::new(world)?;
        let database = Database::create(world, kind, folder.path()).await?;
        let account = accounts(world, &database, 1).await?.remove(0);
        Ok(Self { folder, database, account })
    }

    /// Starts the server on it and waits until it can work.
    pub async fn serve(&self, world: &World, launch: &Launch) -> anyhow::Result<Served> {
        Served::start(world, &self.database.url, self.folder.path(), launch).await
    }

    /// What reads PostgreSQL's use; nothing where the database is another.
    pub async fn meter(&self) -> anyhow::Result<Option<Meter>> {
        match &self.database.place {
            Some((cluster, _)) => Ok(Some(cluster.meter().await?)),
            None => Ok(None),
        }
    }

    pub async fn discard(self) -> anyhow::Result<()> {
        self.database.discard().await
    }
}

/// So many new accounts, each with an owner's key.
pub async fn accounts(world: &World, database: &Database, count: usize) -> anyhow::Result<Vec<Account>> {
    let store = database.store().await?;
    let mut accounts = Vec::with_capacity(count);
    for _ in 0..count {
        let now = world.clock.now();
        let name = format!("Bench {}", hex::encode(world.chance.bytes::<6>()));
        let id = store.find_or_create_account(&name, now).await?;
        let change = Change::without_request(id, Who::Operator, now, world.chance.uuid_v7(now));
        let grant = Grant { name, role: Role::Owner, site_id: None, expires_at: None };
        let made = issue_key(&store, &change, grant, &world.chance).await?;
        let (_, key) = made.context("a new account has as many keys as it may")?;
        accounts.push(Account { id, key: key.expose().to_owned() });
    }
    store.close().await;
    Ok(accounts)
}

impl Folder {
    pub fn new(world: &World) -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("pulsehook-bench-{}", hex::encode(world.chance.bytes::<6>())));
        std::fs::create_dir(&path).with_context(|| format!("{} cannot be created", path.display()))?;
        Ok(Self(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left of a throw-away folder bothers nobody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
