//! `rotate-key`: what is kept secret is sealed with the newest master key, while the server runs.
//!
//! A few rows at a time, each written only if it is still what was read, so that whoever edits a webhook meanwhile wins and
//! an interrupted run loses nothing: the next one goes on where it finds something to do.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use uuid::Uuid;

use super::{Flags, output};
use crate::app;
use crate::chance::Chance;
use crate::clock::Clock;
use crate::config::Config;
use crate::domain::endpoint_url::only_host;
use crate::domain::ids::{AccountId, WebhookId};
use crate::domain::vault::{ANSWERS, CannotOpen, Keyring, Place};
use crate::store::Store;
use crate::store::facts::MASTER_KEYS;
use crate::store::sealed::{SealedAnswer, SealedWebhook};

/// Rows read and written at a time: a writer who waits for us does not notice.
const BATCH: i64 = 25;
/// Looks at everything before somebody who edits without a pause is left to do it.
const MOST_LOOKS: usize = 10;
/// Whoever read a webhook before it was moved may write it back as it was; until then he has.
const LET_OTHERS_WRITE: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
pub struct RotateKey {
    /// Make a new key first and put it in front of the others in DATA_DIR/master.key (with SQLite)
    #[arg(long)]
    generate: bool,
    /// Do not mind servers that were not restarted with the new key: they do not run any more
    #[arg(long)]
    force: bool,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    flags: Flags,
}

/// What came of it.
#[derive(Default)]
struct Rotated {
    webhooks: u64,
    answers: u64,
    /// What could not be opened, and why, each once.
    unreadable: Vec<String>,
    /// Somebody else was faster until the end.
    overtaken: bool,
    /// Servers that began meanwhile and seal with an older key.
    behind: Vec<Server>,
}

impl RotateKey {
    pub async fn run(self) -> anyhow::Result<()> {
        let config = self.flags.config()?;
        let (clock, chance) = (Clock::system(), Chance::from_system());
        let place = place_of_keys(&config)?;
        if self.generate {
            let Some(path) = &place else {
                bail!(
                    "master_key is set, so its place is yours to change: make a key with `openssl rand -base64 32`, put it \
                     and a comma in front of the value, restart the server, and run `pulsehook rotate-key`"
                );
            };
            put_new_key_first(&config.data_dir, path, &chance)?;
            output::hint(&format!(
                "A new key is the first in {}; keep a copy of that file apart from the database.",
                path.display()
            ));
        }
        let keyring = match (&config.master_key, &place) {
            (Some(keyring), _) => keyring.clone(),
            (None, Some(path)) => app::master_key_in(path)?,
            (None, None) => bail!("there is no master key"),
        };
        app::prepare_data_dir(&config.data_dir)?;
        let store = app::open_store(&config).await?;
        let behind = servers_that_do_not_know(&store, &keyring).await?;
        if !behind.is_empty() && !self.force {
            store.close().await;
            return self.wait_for(&behind, &keyring);
        }
        for server in &behind {
            store.forget_fact(&format!("{MASTER_KEYS}{}", server.node)).await?;
        }
        let mut rotated = rotate(&store, &keyring, &clock, &chance).await?;
        rotated.behind = servers_that_do_not_know(&store, &keyring).await?;
        store.close().await;
        self.tell(&rotated, &keyring, place.as_deref())
    }

    /// Nothing may be sealed with a key that a server which runs does not know.
    fn wait_for(&self, behind: &[Server], keyring: &Keyring) -> anyhow::Result<()> {
        let names = names(behind);
        if self.generate {
            if self.json {
                output::json(&json!({
                    "newest_key": keyring.newest(), "webhooks": 0, "answers": 0, "unreadable": [],
                    "servers_to_restart": nodes(behind),
                    "old_keys_can_be_removed": false,
                }));
            } else {
                output::say(&format!(
                    "Now restart the server, which works with the old key: {names}. Then run `pulsehook rotate-key`."
                ));
            }
            return Ok(());
        }
        bail!(
            "nothing was changed: a server does not have key {} as its newest and could not read what is sealed with it: \
             {names}. Restart it with this master_key. If it does not run any more, say --force",
            keyring.newest()
        )
    }

    fn tell(&self, rotated: &Rotated, keyring: &Keyring, place: Option<&Path>) -> anyhow::Result<()> {
        let newest = keyring.newest();
        let done = rotated.unreadable.is_empty() && rotated.behind.is_empty() && !rotated.overtaken;
        if self.json {
            output::json(&json!({
                "newest_key": newest, "webhooks": rotated.webhooks, "answers": rotated.answers,
                "unreadable": rotated.unreadable, "servers_to_restart": nodes(&rotated.behind), "old_keys_can_be_removed": done,
            }));
        } else {
            if rotated.webhooks + rotated.answers == 0 {
                output::say(&format!("There was nothing to move to key {newest}."));
            } else {
                output::say(&format!(
                    "Moved to key {newest}: the secrets of {} and {}.",
                    count(rotated.webhooks, "webhook"),
                    count(rotated.answers, "kept answer")
                ));
            }
            if done && keyring.ids().len() > 1 {
                let place = place.map_or_else(|| "master_key".to_owned(), |path| path.display().to_string());
                output::say(&format!(
                    "The older keys can be removed from {place} now. Keep them as long as you keep backups from before."
                ));
            }
            for what in &rotated.unreadable {
                output::hint(&format!("Cannot be opened: {what}"));
            }
        }
        if !rotated.unreadable.is_empty() {
            bail!(
                "{} cannot be opened, so no key can be removed yet: add the key that is named to master_key, or give \
                 the webhook a new secret and its address once more, or delete it (answers are kept for a day only); then \
                 run this again",
                count(rotated.unreadable.len() as u64, "value")
            );
        }
        if !rotated.behind.is_empty() {
            bail!(
                "a server that began meanwhile does not have key {newest} as its newest: {}. Restart it with this \
                 master_key and run this again",
                names(&rotated.behind)
            );
        }
        if rotated.overtaken {
            bail!("others kept changing what was to be moved, so no key can be removed yet; run this again");
        }
        Ok(())
    }
}

fn nodes(servers: &[Server]) -> Vec<&str> {
    servers.iter().map(|server| server.node.as_str()).collect()
}

fn names(servers: &[Server]) -> String {
    let names: Vec<_> = servers.iter().map(|server| format!("{} (since {})", server.node, server.since)).collect();
    names.join(", ")
}

fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// The file the keys are in, unless a setting has them.
fn place_of_keys(config: &Config) -> anyhow::Result<Option<PathBuf>> {
    if config.master_key.is_some() {
        return Ok(None);
    }
    let path = config.data_dir.join(app::MASTER_KEY_FILE);
    anyhow::ensure!(
        path.exists(),
        "there is no {}: is data_dir right? `pulsehook serve` makes it with its first start",
        path.display()
    );
    Ok(Some(path))
}

/// Whoever looks at the file sees the keys before or the keys after, and never less.
fn put_new_key_first(folder: &Path, path: &Path, chance: &Chance) -> anyhow::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let locked = File::open(folder).with_context(|| format!("{} cannot be opened", folder.display()))?;
    // Of two at once, the second would lose the key of the first.
    locked.lock().with_context(|| format!("{} cannot be locked", folder.display()))?;
    app::master_key_in(path)?;
    let old = std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let new = path.with_extension("key.new");
    let write = || -> std::io::Result<()> {
        match std::fs::remove_file(&new) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        writeln!(file, "{},{}", STANDARD.encode(chance.bytes::<32>()), old.trim())?;
        file.sync_all()?;
        std::fs::rename(&new, path)?;
        locked.sync_all()
    };
    write().with_context(|| format!("{} cannot be written", path.display()))
}

/// A process that works with other keys.
struct Server {
    node: String,
    since: String,
}

/// Servers whose newest key is not ours: they could not read what we write, or would seal with an older one.
async fn servers_that_do_not_know(store: &Store, keyring: &Keyring) -> anyhow::Result<Vec<Server>> {
    let mut behind = Vec::new();
    for (name, value) in store.operator_master_keys().await? {
        let (since, keys) = value.split_once(' ').unwrap_or_default();
        if keys.split(',').next() != Some(keyring.newest()) {
            let node = name.trim_start_matches(MASTER_KEYS).to_owned();
            behind.push(Server { node, since: since.to_owned() });
        }
    }
    Ok(behind)
}

/// Moves everything, and looks again until there is nothing to move.
async fn rotate(store: &Store, keyring: &Keyring, clock: &Clock, chance: &Chance) -> anyhow::Result<Rotated> {
    let mut rotated = Rotated::default();
    for _ in 0..MOST_LOOKS {
        rotated.unreadable.clear();
        let found = move_webhooks(store, keyring, chance, &mut rotated).await?
            + move_answers(store, keyring, chance, &mut rotated).await?;
        rotated.overtaken = found > 0;
        if !rotated.overtaken {
            break;
        }
        clock.sleep(LET_OTHERS_WRITE).await;
    }
    Ok(rotated)
}

/// Answers how many were found that an older key had sealed, whoever moved or changed them.
async fn move_webhooks(
    store: &Store,
    keyring: &Keyring,
    chance: &Chance,
    rotated: &mut Rotated,
) -> anyhow::Result<usize> {
    let mut found = 0;
    let mut after = WebhookId(Uuid::nil());
    loop {
        let rows = store.operator_sealed_webhooks(after, BATCH).await?;
        let Some(last) = rows.last() else { return Ok(found) };
        after = last.id;
        let mut pairs = Vec::new();
        for row in rows {
            let mut renewed = row.clone();
            let SealedWebhook { id, account_id, url, sealed_url, headers, secret, previous_secret } = &mut renewed;
            // Written before addresses were sealed.
            if sealed_url.is_none()
                && let Some(host) = only_host(url)
            {
                let place = Place { account_id: *account_id, row: id.0, column: "url" };
                *sealed_url = Some(keyring.seal(&place, chance.bytes(), url.as_bytes()));
                *url = host;
            }
            let columns =
                [("url", sealed_url), ("headers", headers), ("secret", secret), ("previous_secret", previous_secret)];
            for (column, sealed) in columns {
                let place = Place { account_id: *account_id, row: id.0, column };
                if let Err(problem) = renew(keyring, &place, chance, sealed) {
                    rotated.unreadable.push(format!("{column} of webhook {id} of account {account_id}: {problem}"));
                }
            }
            if renewed != row {
                pairs.push((row, renewed));
            }
        }
        if !pairs.is_empty() {
            found += pairs.len();
            rotated.webhooks += store.operator_reseal_webhooks(&pairs).await?;
        }
    }
}

/// The same for answers that are kept for a day.
async fn move_answers(
    store: &Store,
    keyring: &Keyring,
    chance: &Chance,
    rotated: &mut Rotated,
) -> anyhow::Result<usize> {
    let mut found = 0;
    let mut after = (AccountId(i64::MIN), String::new());
    loop {
        let rows = store.operator_sealed_answers(after.0, &after.1, BATCH).await?;
        let Some(last) = rows.last() else { return Ok(found) };
        after = (last.account_id, last.key.clone());
        let mut pairs = Vec::new();
        for row in rows {
            let place = Place { account_id: row.account_id, row: Uuid::nil(), column: ANSWERS };
            match keyring.renew(&place, chance.bytes(), &row.response) {
                Ok(None) => {}
                Ok(Some(response)) => pairs.push((row.clone(), SealedAnswer { response, ..row })),
                Err(problem) => {
                    let account_id = row.account_id;
                    let what = format!("an answer kept for a repeated request of account {account_id}: {problem}");
                    rotated.unreadable.push(what);
                }
            }
        }
        if !pairs.is_empty() {
            found += pairs.len();
            rotated.answers += store.operator_reseal_answers(&pairs).await?;
        }
    }
}

/// What cannot be opened stays as it is.
fn renew(keyring: &Keyring, place: &Place, chance: &Chance, sealed: &mut Option<Vec<u8>>) -> Result<(), CannotOpen> {
    if let Some(old) = sealed
        && let Some(renewed) = keyring.renew(place, chance.bytes(), old)?
    {
        *sealed = Some(renewed);
    }
    Ok(())
}
