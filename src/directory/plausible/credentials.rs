//! Who is behind a credential of Plausible's: a token of its Plugins API, or an API key if we know the secret they are
//! hashed with. Plausible keeps hashes only, and so these are what is looked for.

use sha2::{Digest, Sha256};
use sqlx::FromRow;
use uuid::Uuid;

use super::shape::Shape;
use super::truth::{team, user};
use super::{Plausible, Result};
use crate::domain::access::Role;
use crate::domain::ids::SiteId;

const TOKEN_PREFIX: &str = "plausible-plugin-";
const KEY_CHARS: usize = 64;

/// Whether it may be a token of the Plugins API.
pub fn is_plugin_token(text: &str) -> bool {
    text.starts_with(TOKEN_PREFIX)
}

/// A token and the one site it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PluginToken {
    pub id: Uuid,
    pub site_id: SiteId,
}

/// What an API key opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyHolder {
    /// An account by its external id, with what its user may do there.
    Account { key_id: i64, external_id: String, role: Role },
    /// Its user is a guest of the team: there are sites of it they may not see.
    Guest,
    /// It is for no team and its user is in several.
    Ambiguous,
}

/// A membership of the user whose key it is.
#[derive(Debug, Clone, FromRow)]
struct KeyRow {
    id: i64,
    user_id: i64,
    team_id: Option<i64>,
    role: Option<String>,
}

impl Plausible {
    /// # Errors
    /// The database cannot be read: nobody knows whether the token is one.
    pub async fn plugin_token(&self, text: &str) -> Result<Option<PluginToken>> {
        const SQL: &str = "SELECT id, site_id FROM plugins_api_tokens WHERE token_hash = $1 LIMIT 1";
        let mut tx = self.snapshot().await?;
        let found: Option<(Uuid, i64)> = if Shape::of(&mut tx).await?.has_plugin_tokens()? {
            let hash = Sha256::digest(text.as_bytes()).to_vec();
            sqlx::query_as(SQL).bind(hash).fetch_optional(&mut *tx).await?
        } else {
            None
        };
        tx.commit().await?;
        Ok(found.map(|(id, site_id)| PluginToken { id, site_id: SiteId(site_id) }))
    }

    /// Always `None` without the secret.
    ///
    /// # Errors
    /// The database cannot be read: nobody knows whether the key is one.
    pub async fn api_key(&self, text: &str) -> Result<Option<KeyHolder>> {
        // The owner's own team first.
        const TEAMS: &str = "
            SELECT api_keys.id, api_keys.user_id, memberships.team_id, memberships.role::text AS role
            FROM api_keys
            LEFT JOIN team_memberships AS memberships
                ON memberships.user_id = api_keys.user_id
                AND (api_keys.team_id IS NULL OR memberships.team_id = api_keys.team_id)
            WHERE api_keys.key_hash = $1
            ORDER BY memberships.role = 'owner' DESC, memberships.is_autocreated DESC, memberships.team_id";
        const USERS: &str = "
            SELECT id, user_id, NULL::bigint AS team_id, NULL::text AS role FROM api_keys WHERE key_hash = $1";
        let Some(secret) = &self.secret_key_base else { return Ok(None) };
        if text.len() != KEY_CHARS || !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)) {
            return Ok(None);
        }
        let hash = key_hash(secret, text);
        let mut tx = self.snapshot().await?;
        let shape = Shape::of(&mut tx).await?;
        shape.has_keys()?;
        let has_teams = shape.has_teams()?;
        let sql = if has_teams { TEAMS } else { USERS };
        let rows: Vec<KeyRow> = sqlx::query_as(sql).bind(hash).fetch_all(&mut *tx).await?;
        tx.commit().await?;
        Ok(if has_teams { in_a_team(&rows) } else { alone(&rows) })
    }
}

/// As Plausible hashes a key: no separator between the two.
fn key_hash(secret_key_base: &str, key: &str) -> String {
    hex::encode(Sha256::new().chain_update(secret_key_base).chain_update(key).finalize())
}

/// The team of the key, while its user is a member; of a key without one the team its user owns, else the only one. A key
/// never does more than change webhooks: it was made for statistics.
fn in_a_team(rows: &[KeyRow]) -> Option<KeyHolder> {
    let memberships: Vec<_> =
        rows.iter().filter_map(|row| Some((row.id, row.team_id?, row.role.as_deref()?))).collect();
    // Nobody is a member any more.
    memberships.first()?;
    let with_role: Vec<_> =
        memberships.iter().filter_map(|(id, team_id, role)| Some((*id, *team_id, *role, role_of(role)?))).collect();
    match with_role.as_slice() {
        [] => Some(KeyHolder::Guest),
        [(_, _, first, _), _, ..] if *first != "owner" => Some(KeyHolder::Ambiguous),
        [(key_id, team_id, _, role), ..] => {
            Some(KeyHolder::Account { key_id: *key_id, external_id: team(*team_id), role: (*role).min(Role::Editor) })
        }
    }
}

/// Without teams a key is its user's, and the account is what the user owns.
fn alone(rows: &[KeyRow]) -> Option<KeyHolder> {
    let row = rows.first()?;
    Some(KeyHolder::Account { key_id: row.id, external_id: user(row.user_id), role: Role::Editor })
}

/// What a role of Plausible's is here; nothing for guests.
pub(super) fn role_of(role: &str) -> Option<Role> {
    match role {
        "owner" => Some(Role::Owner),
        "admin" => Some(Role::Admin),
        "editor" => Some(Role::Editor),
        "viewer" | "billing" => Some(Role::Viewer),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(team_id: i64, role: &str) -> KeyRow {
        KeyRow { id: 9, user_id: 1, team_id: Some(team_id), role: Some(role.to_owned()) }
    }

    #[test]
    fn keys_are_hashed_as_plausible_does() {
        let secret = "0123456789abcdef".repeat(4);
        let expected = "c56bbea1e9c69a49baa5e3806576f5593fee17cdcc07fdd0aa631744f321e53f";
        assert_eq!(key_hash(&secret, &"k".repeat(64)), expected);
    }

    #[test]
    fn a_key_opens_one_team() {
        let account =
            |team_id: i64, role| Some(KeyHolder::Account { key_id: 9, external_id: format!("team:{team_id}"), role });
        let no_member = KeyRow { id: 9, user_id: 1, team_id: None, role: None };
        for (rows, expected) in [
            (vec![], None),
            (vec![no_member], None),
            (vec![row(5, "owner")], account(5, Role::Editor)),
            (vec![row(5, "admin")], account(5, Role::Editor)),
            (vec![row(5, "editor")], account(5, Role::Editor)),
            (vec![row(5, "viewer")], account(5, Role::Viewer)),
            (vec![row(5, "billing")], account(5, Role::Viewer)),
            (vec![row(5, "guest")], Some(KeyHolder::Guest)),
            (vec![row(5, "owner"), row(6, "owner"), row(7, "viewer")], account(5, Role::Editor)),
            (vec![row(5, "guest"), row(6, "viewer")], account(6, Role::Viewer)),
            (vec![row(5, "viewer"), row(6, "editor")], Some(KeyHolder::Ambiguous)),
        ] {
            assert_eq!(in_a_team(&rows), expected, "{rows:?}");
        }
    }
}
