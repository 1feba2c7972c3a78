//! People of Plausible's who sign in here with the password they have there.

use sqlx::AssertSqlSafe;

use super::credentials::role_of;
use super::shape::Shape;
use super::truth::{team, user};
use super::{Plausible, PlausibleError, Result};
use crate::domain::access::Role;

/// Somebody with this e-mail address.
pub struct Person {
    pub id: i64,
    /// bcrypt's. Absent for somebody who signs in elsewhere.
    pub password_hash: Option<String>,
    /// The password alone is not enough for Plausible.
    pub second_factor: bool,
}

/// Where somebody belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Membership {
    Of {
        external_id: String,
        role: Role,
    },
    /// They see some sites of a team only.
    Guest,
    None,
}

impl Plausible {
    /// # Errors
    /// The database cannot be read, or the role may not read what signing in takes.
    pub async fn person(&self, email: &str) -> Result<Option<Person>> {
        let mut tx = self.snapshot().await?;
        let shape = Shape::of(&mut tx).await?;
        if !(shape.has("users", "email")? && shape.has("users", "password_hash")?) {
            return Err(PlausibleError::Unusable("Plausible's users have no passwords".to_owned()));
        }
        let second_factor = if shape.has("users", "totp_enabled")? { "totp_enabled" } else { "false" };
        let sql = format!(
            "SELECT id, password_hash::text, {second_factor} FROM users WHERE lower(email::text) = lower($1) LIMIT 1"
        );
        let found: Option<(i64, Option<String>, bool)> =
            sqlx::query_as(AssertSqlSafe(sql)).bind(email).fetch_optional(&mut *tx).await?;
        tx.commit().await?;
        Ok(found.map(|(id, password_hash, second_factor)| Person { id, password_hash, second_factor }))
    }

    /// Where this person belongs first: to a team with sites before one without, to their own before others'. With `only`,
    /// whether they belong to that account.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn membership(&self, person: i64, only: Option<&str>) -> Result<Membership> {
        const TEAMS: &str = "
            SELECT memberships.team_id, memberships.role::text
            FROM team_memberships AS memberships
            WHERE memberships.user_id = $1
            ORDER BY EXISTS (SELECT FROM sites WHERE sites.team_id = memberships.team_id) DESC,
                memberships.role = 'owner' DESC, memberships.is_autocreated DESC, memberships.team_id";
        const OWNS: &str = "
            SELECT user_id, 'owner' FROM site_memberships WHERE user_id = $1 AND role = 'owner' LIMIT 1";
        let mut tx = self.snapshot().await?;
        let has_teams = Shape::of(&mut tx).await?.has_teams()?;
        let sql = if has_teams { TEAMS } else { OWNS };
        let rows: Vec<(i64, String)> = sqlx::query_as(sql).bind(person).fetch_all(&mut *tx).await?;
        tx.commit().await?;
        let name = if has_teams { team } else { user };
        let mut rows = rows.into_iter().map(|(id, role)| (name(id), role_of(&role)));
        let mut guest = false;
        let found = rows.find_map(|(external_id, role)| {
            if only.is_some_and(|only| only != external_id) {
                return None;
            }
            guest |= role.is_none();
            Some(Membership::Of { external_id, role: role? })
        });
        Ok(found.unwrap_or(if guest { Membership::Guest } else { Membership::None }))
    }
}
