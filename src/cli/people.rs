//! Accounts and people on this machine: what its operator does, whoever is in them. Nobody needs a key for it.

use std::io::{IsTerminal as _, Read as _};

use anyhow::{Context as _, bail, ensure};
use serde_json::json;

use super::resources::confirm;
use super::{Flags, output};
use crate::app;
use crate::chance::Chance;
use crate::clock::Clock;
use crate::config::{Config, DirectoryPlace};
use crate::directory::password;
use crate::domain::access::Who;
use crate::domain::ids::AccountId;
use crate::domain::person;
use crate::domain::webhook::BELIEVED_FOR;
use crate::store::Store;
use crate::store::accounts::AccountRow;
use crate::store::audit::Change;

#[derive(Debug, clap::Subcommand)]
pub enum Accounts {
    /// List the accounts of this server
    List {
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        flags: Flags,
    },
    /// Stop everything of an account: nothing is noticed or sent, and nobody of it comes in; nothing is lost
    Suspend(OneAccount),
    /// Have a suspended account go on, from now
    Resume(OneAccount),
    /// Delete an account with everything in it
    Delete {
        #[command(flatten)]
        one: OneAccount,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, clap::Args)]
pub struct OneAccount {
    /// Name of the account
    name: String,
    #[command(flatten)]
    flags: Flags,
}

#[derive(Debug, clap::Subcommand)]
pub enum Users {
    /// List the people who can sign in
    List {
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        flags: Flags,
    },
    /// Give somebody another password, read from standard input; they are signed out everywhere
    SetPassword(OneUser),
    /// Sign somebody out everywhere
    SignOut(OneUser),
}

#[derive(Debug, clap::Args)]
pub struct OneUser {
    /// E-mail address
    email: String,
    #[command(flatten)]
    flags: Flags,
}

/// What these commands work with.
struct Machine {
    config: Config,
    store: Store,
    clock: Clock,
    chance: Chance,
}

impl Machine {
    async fn open(flags: &Flags) -> anyhow::Result<Self> {
        let config = flags.config()?;
        app::prepare_data_dir(&config.data_dir)?;
        let store = app::open_store(&config).await?;
        Ok(Self { config, store, clock: Clock::system(), chance: Chance::from_system() })
    }

    fn change(&self, account_id: AccountId) -> Change {
        let now = self.clock.now();
        Change::without_request(account_id, Who::Operator, now, self.chance.uuid_v7(now))
    }

    async fn account(&self, name: &str) -> anyhow::Result<AccountRow> {
        let mut accounts = self.store.operator_accounts().await?.into_iter();
        accounts.find(|account| account.name == name.trim()).with_context(|| format!("there is no account \"{name}\""))
    }

    fn refuse_plausible(&self) -> anyhow::Result<()> {
        ensure!(
            self.config.directory == DirectoryPlace::Own,
            "accounts and people are Plausible's here: change them there"
        );
        Ok(())
    }
}

impl Accounts {
    pub async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::List { json, flags } => list_accounts(&Machine::open(&flags).await?, json).await,
            Self::Suspend(one) => suspend(&one, true).await,
            Self::Resume(one) => suspend(&one, false).await,
            Self::Delete { one, yes } => delete(&one, yes).await,
        }
    }
}

async fn list_accounts(machine: &Machine, json: bool) -> anyhow::Result<()> {
    let accounts = machine.store.operator_accounts().await?;
    let status = |account: &AccountRow| if account.active { "active" } else { "suspended" };
    if json {
        let view = |account: &AccountRow| {
            json!({
                "id": account.id, "name": account.name, "status": status(account), "sites": account.sites,
                "webhooks": account.webhooks, "members": account.members, "inserted_at": account.inserted_at,
            })
        };
        output::json(&json!({ "accounts": accounts.iter().map(view).collect::<Vec<_>>() }));
        return Ok(());
    }
    if accounts.is_empty() {
        output::hint("There is no account yet: `pulsehook keys create --account NAME` makes one.");
        return Ok(());
    }
    let rows: Vec<_> = accounts
        .iter()
        .map(|account| {
            let counts = [account.sites, account.webhooks, account.members].map(|count| count.to_string());
            let mut row = vec![account.id.to_string(), account.name.clone(), status(account).to_owned()];
            row.extend(counts);
            row
        })
        .collect();
    output::table(&["id", "name", "status", "sites", "webhooks", "members"], &rows);
    Ok(())
}

async fn suspend(one: &OneAccount, suspended: bool) -> anyhow::Result<()> {
    let machine = Machine::open(&one.flags).await?;
    machine.refuse_plausible()?;
    let account = machine.account(&one.name).await?;
    let turned = machine.store.suspend_account(&machine.change(account.id), suspended).await?;
    match turned {
        None if suspended => output::hint("It is suspended already."),
        None => output::hint("It is not suspended."),
        Some(webhooks) => {
            // What a node knows of a webhook it believes for so long without asking.
            machine.clock.sleep(BELIEVED_FOR).await;
            let does = if suspended { "Suspended: no attempt starts for its" } else { "Goes on with its" };
            output::hint(&format!("{does} {} webhooks.", webhooks.len()));
        }
    }
    Ok(())
}

async fn delete(one: &OneAccount, yes: bool) -> anyhow::Result<()> {
    let machine = Machine::open(&one.flags).await?;
    machine.refuse_plausible()?;
    let account = machine.account(&one.name).await?;
    let (sites, webhooks) = (account.sites, account.webhooks);
    confirm(
        yes,
        &format!("Delete \"{}\" with {sites} sites, {webhooks} webhooks and all their traffic?", account.name),
    )?;
    let gone = machine.store.delete_account(account.id, machine.clock.now()).await?;
    let node = crate::domain::ids::NodeId(machine.chance.uuid_v7(machine.clock.now()));
    let analytics = app::open_analytics(&machine.config, node, &machine.clock, &machine.chance).await?;
    for site in gone.sites {
        analytics.delete_site(site).await?;
    }
    analytics.close().await;
    output::hint("Deleted.");
    Ok(())
}

impl Users {
    pub async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::List { json, flags } => list_users(&Machine::open(&flags).await?, json).await,
            Self::SetPassword(one) => set_password(&one).await,
            Self::SignOut(one) => sign_out(&one).await,
        }
    }
}

async fn list_users(machine: &Machine, json: bool) -> anyhow::Result<()> {
    let users = machine.store.operator_users().await?;
    if json {
        let view = |(id, email, accounts): &(crate::domain::ids::UserId, String, i64)| json!({ "id": id, "email": email, "accounts": accounts });
        output::json(&json!({ "users": users.iter().map(view).collect::<Vec<_>>() }));
        return Ok(());
    }
    if users.is_empty() {
        output::hint("Nobody can sign in yet: `pulsehook members invite EMAIL` prints a link.");
        return Ok(());
    }
    let rows: Vec<_> =
        users.iter().map(|(id, email, accounts)| vec![id.to_string(), email.clone(), accounts.to_string()]).collect();
    output::table(&["id", "email", "accounts"], &rows);
    Ok(())
}

async fn set_password(one: &OneUser) -> anyhow::Result<()> {
    let machine = Machine::open(&one.flags).await?;
    machine.refuse_plausible()?;
    let user = machine.store.user(&one.email.trim().to_lowercase()).await?;
    let user = user.with_context(|| format!("nobody signs in as {}", one.email))?;
    if std::io::stdin().is_terminal() {
        output::hint("Type the new password and press Ctrl-D; it is shown while you type:");
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).context("standard input cannot be read")?;
    let text = text.trim_end_matches(['\r', '\n']);
    if let Err(problem) = person::password(text, &[&user.email]) {
        bail!("the password {problem}");
    }
    let hash = password::hash(text.to_owned(), machine.chance.bytes()).await?;
    let account = machine.store.memberships(user.id).await?.into_iter().next();
    let account = account.with_context(|| format!("{} is a member of no account", user.email))?;
    machine.store.set_password(&machine.change(account.account_id), user.id, &hash, None).await?;
    output::hint(&format!("{} has a new password and is signed out everywhere.", user.email));
    Ok(())
}

async fn sign_out(one: &OneUser) -> anyhow::Result<()> {
    let machine = Machine::open(&one.flags).await?;
    let user = machine.store.user(&one.email.trim().to_lowercase()).await?;
    let user = user.with_context(|| format!("nobody signs in as {}", one.email))?;
    let account = machine.store.memberships(user.id).await?.into_iter().next();
    let account = account.with_context(|| format!("{} is a member of no account", user.email))?;
    let closed = machine.store.close_sessions(&machine.change(account.account_id), user.id, None).await?;
    output::hint(&format!("Ended {closed} sessions of {}.", user.email));
    Ok(())
}
