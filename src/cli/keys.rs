//! API keys: `create` works on the machine's database, so that nobody needs a key to get the first one.

use serde_json::json;

use super::client::{Connection, id_of};
use super::{Flags, output};
use crate::app;
use crate::chance::Chance;
use crate::clock::Clock;
use crate::directory::{Grant, issue_key};
use crate::domain::access::{Role, Who};
use crate::domain::time::parse_span;
use crate::store::audit::Change;

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
    /// Name of the account
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
        let account_id = store.find_or_create_account(account, now).await?;
        let change = Change { account_id, who: Who::Operator, now, id: chance.uuid_v7(now) };
        let grant = Grant { name: self.name.clone(), role: self.role, expires_at: span.map(|span| now + span) };
        let (key, text) = issue_key(&store, &change, grant, &chance).await?;
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
            ["id", "name", "role", "prefix", "last_used_at", "expires_at"]
                .map(|field| output::plain(&key[field]))
                .to_vec()
        })
        .collect();
    output::table(&["id", "name", "role", "prefix", "last used", "expires"], &rows);
    Ok(())
}
