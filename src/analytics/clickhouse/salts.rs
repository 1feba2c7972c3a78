//! Salts that all nodes share through ClickHouse, so that a visitor has one id wherever their hits come in.
//!
//! Tomorrow's salt is made today, so that everybody has the same one at midnight. Nobody waits for ClickHouse to have one: a
//! node that is cut off makes its own, keeps it, and gives it up for that of the others when it finds them again.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use ::clickhouse::{Client, Row};
use bytes::Bytes;
use serde::Deserialize;
use tracing::warn;

use super::errors::explain;
use crate::analytics::Result;
use crate::analytics::visitor::{SALT_BYTES, day_of};
use crate::chance::Chance;
use crate::domain::time::Timestamp;

/// How often everybody looks at what there is.
pub const REFRESH: Duration = Duration::from_secs(90);

const KNOWN: &str = "
    SELECT toUInt16(day) AS day, hex(min(salt)) AS salt
    FROM pulsehook_salts
    WHERE toUInt16(day) >= {since:UInt16}
    GROUP BY day";
const INSERT: &str = "INSERT INTO pulsehook_salts (day, salt) FORMAT RowBinary";

#[derive(Row, Deserialize)]
struct Known {
    day: u16,
    salt: String,
}

/// The salts as this node knows them.
pub struct Salts {
    chance: Chance,
    known: Mutex<BTreeMap<i64, Vec<u8>>>,
    /// Where they outlive the process.
    file: OnceLock<PathBuf>,
}

impl Salts {
    /// Knows none yet.
    pub fn new(chance: Chance) -> Self {
        Self { chance, known: Mutex::default(), file: OnceLock::new() }
    }

    /// Keeps them in a file from now on, with those that are in it already.
    pub fn keep_in(&self, path: &Path) {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let read = text.lines().filter_map(|line| {
            let (day, salt) = line.split_once(' ')?;
            Some((day.parse().ok()?, hex::decode(salt).ok().filter(|salt| salt.len() == SALT_BYTES)?))
        });
        let _ = self.file.set(path.to_owned());
        self.change(|known| {
            for (day, salt) in read {
                known.entry(day).or_insert(salt);
            }
        });
    }

    /// Newest first.
    pub fn all(&self) -> Vec<(i64, Vec<u8>)> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone().into_iter().rev().collect()
    }

    /// Keeps `salt` for `day` unless there is one, and forgets what is older than the day before.
    pub fn keep(&self, day: i64, salt: &[u8]) {
        self.change(|known| {
            known.entry(day).or_insert_with(|| salt.to_vec());
            known.retain(|known, _| *known >= day - 1);
        });
    }

    /// Learns what the others have, and offers ours for today and tomorrow where nobody has any.
    ///
    /// # Errors
    /// ClickHouse does not answer; what was known is still known.
    pub async fn refresh(&self, client: &Client, now: Timestamp) -> Result<()> {
        let today = day_of(now);
        let theirs = shared(client, today).await?;
        let mut offered = Vec::new();
        for day in [today, today + 1].into_iter().filter(|day| !theirs.contains_key(day)) {
            let ours = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&day).cloned();
            let salt = ours.unwrap_or_else(|| self.chance.bytes::<SALT_BYTES>().to_vec());
            offered.extend_from_slice(&u16::try_from(day).unwrap_or(0).to_le_bytes());
            offered.push(u8::try_from(salt.len()).unwrap_or(0));
            offered.extend_from_slice(&salt);
        }
        let theirs = if offered.is_empty() {
            theirs
        } else {
            // Not in the statement, which servers write into their logs.
            let mut insert = client.insert_formatted_with(INSERT);
            insert.send(Bytes::from(offered)).await.map_err(explain)?;
            insert.end().await.map_err(explain)?;
            shared(client, today).await?
        };
        self.change(|known| {
            known.extend(theirs);
            known.retain(|day, _| *day >= today - 1);
        });
        Ok(())
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<i64, Vec<u8>>)) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.clone();
        change(&mut known);
        if *known != before
            && let Some(path) = self.file.get()
            && let Err(error) = write(path, &known)
        {
            warn!(%error, "The salts of visitor ids cannot be kept in {}: {error}", path.display());
        }
    }
}

/// By day, what everybody uses.
async fn shared(client: &Client, today: i64) -> Result<BTreeMap<i64, Vec<u8>>> {
    let since = u16::try_from(today - 1).unwrap_or(0);
    let rows: Vec<Known> = client.query(KNOWN).param("since", since).fetch_all().await.map_err(explain)?;
    let salt = |row: Known| Some((i64::from(row.day), hex::decode(row.salt).ok()?));
    Ok(rows.into_iter().filter_map(salt).collect())
}

fn write(path: &Path, salts: &BTreeMap<i64, Vec<u8>>) -> std::io::Result<()> {
    let text: String = salts.iter().map(|(day, salt)| format!("{day} {}\n", hex::encode(salt))).collect();
    let new = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_a_day_is_kept_also_over_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("salts");
        let salts = Salts::new(Chance::seeded(1));
        salts.keep_in(&path);
        for (day, byte) in [(1, 1), (2, 2), (2, 9), (3, 3)] {
            salts.keep(day, &[byte; SALT_BYTES]);
        }
        let expected = vec![(3, vec![3; SALT_BYTES]), (2, vec![2; SALT_BYTES])];
        assert_eq!(salts.all(), expected);
        let salts = Salts::new(Chance::seeded(1));
        salts.keep_in(&path);
        assert_eq!(salts.all(), expected);
    }
}
