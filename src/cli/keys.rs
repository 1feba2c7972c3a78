//! API keys: `create` works on the machine's database, so that nobody needs a key to get the first one.

use anyhow::Context as _;
use serde_json::json;

use super::client::{Connection, id_of};
use super::{Flags, output};
use crate::app;
use crate::chance::Chance;
use crate::clock::Clock;
use crate::config::DirectoryPlace;
use crate::directory::{Grant, issue_key};
use crate::domain::access::{Role, Who};
use crate::domain::ids::AccountId;
use crate::domain::time::{Timestamp, parse_span};
use crate::store::Store;
use crate::store::audit::Change;
use crate::store::keys::MOST_KEYS;
use crate::store::mirror::DIRECTORY;

#[derive(Debug, clap::Subcommand)]
pub enum Keys {
    /// Create a key on this machine, with the account when there is none of that name
    Create(Create),
    /// List the account's keys
    List {
        #[command(flatten)]
        connection: Connection,
    },
    /// Delete a key; it stops working at once
    Delete {
        /// Id of the key
        id: String,
        #[command(flatten)]
        connection: Connection,
    },
}

#[derive(Debug, clap::Args)]
pub struct Create {
    /// Name of the account; beside Plausible the team's name and id, as in "My Personal Sites (12)", or the id alone
    #[arg(long)]
    account: String,
    /// owner, admin, editor or viewer
    #[arg(long, default_value = "owner")]
    role: Role,
    /// What the key is for
    #[arg(long, default_value = "Made on the machine")]
    name: String,
    /// How long it works, such as 90d; for ever when absent
    #[arg(long)]
    expires: Option<String>,
    /// Print a JSON object instead of the bare key
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    flags: Flags,
}

impl Keys {
    pub async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Create(create) => create.run().await,
            Self::List { connection } => list(&connection).await,
            Self::Delete { id, connection } => {
                connection.client()?.delete(&format!("/api/keys/{}", id_of(&id))).await?;
                output::hint("Deleted.");
                Ok(())
            }
        }
    }
}

impl Create {
    async fn run(self) -> anyhow::Result<()> {
        let account = self.account.trim();
        anyhow::ensure!((1..=255).contains(&account.chars().count()), "--account must be 1 to 255 characters");
        let span = self.expires.as_deref().map(parse_span).transpose()?;
        let config = self.flags.config()?;
        app::prepare_data_dir(&config.data_dir)?;
        let store = app::open_store(&config).await?;
        let (clock, chance) = (Clock::system(), Chance::from_system());
        let now = clock.now();
        let account_id = account_of(&store, &config.directory, account, now).await?;
        let change = Change::without_request(account_id, Who::Operator, now, chance.uuid_v7(now));
        let grant =
            Grant { name: self.name.clone(), role: self.role, site_id: None, expires_at: span.map(|span| now + span) };
        let made = issue_key(&store, &change, grant, &chance).await?;
        let (key, text) = made.with_context(|| format!("the account has {MOST_KEYS} keys; delete one nobody uses"))?;
        store.close().await;
        if self.json {
            output::json(&json!({
                "key": text.expose(), "id": key.id, "account_id": account_id, "account": account, "role": self.role,
            }));
        } else {
            output::say(text.expose());
            output::hint(&format!(
                "A key with the role {} for the account \"{account}\". It is not shown again.",
                self.role
            ));
        }
        Ok(())
    }
}

/// The account of this name. Beside Plausible that is a team, which its id names too, and nobody makes one here.
async fn account_of(
    store: &Store,
    directory: &DirectoryPlace,
    account: &str,
    now: Timestamp,
) -> anyhow::Result<AccountId> {
    let is_own = store.fact(DIRECTORY).await?.is_none_or(|directory| directory == "own");
    if is_own && *directory == DirectoryPlace::Own {
        return Ok(store.find_or_create_account(account, now).await?);
    }
    if let Some(id) = store.operator_account_named(account).await? {
        return Ok(id);
    }
    for external_id in [format!("team:{account}"), format!("user:{account}")] {
        if let Some(holder) = store.operator_account_there(&external_id).await? {
            return Ok(holder.account_id);
        }
    }
    anyhow::bail!(
        "Plausible has no team \"{account}\" that is known here; write its name with its id, such as \"My Personal Sites \
         (12)\", or the id alone. What Plausible has is known ten seconds after pulsehook serve started."
    )
}

async fn list(connection: &Connection) -> anyhow::Result<()> {
    let answer = connection.client()?.get("/api/keys").await?;
    if connection.json {
        output::json(&answer);
        return Ok(());
    }
    let rows: Vec<_> = answer["keys"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|key| {
            ["id", "name", "role", "site_id", "prefix", "last_used_at", "expires_at"]
                .map(|field| output::plain(&key[field]))
                .to_vec()
        })
        .collect();
    output::table(&["id", "name", "role", "site", "prefix", "last used", "expires"], &rows);
    Ok(())
}
