//! Invitations into an account. The link holds the token; its hash is what is kept.

use super::audit::Change;
use super::{Result, Store, on};
use crate::domain::access::{Role, Who};
use crate::domain::ids::{AccountId, InvitationId, UserId};
use crate::domain::time::Timestamp;

#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct Invitation {
    pub id: InvitationId,
    pub account_id: AccountId,
    pub email: String,
    pub role: Role,
    /// Who asked, as in the audit log.
    pub invited_by: String,
    pub expires_at: Timestamp,
    pub inserted_at: Timestamp,
}

/// Who comes with an invitation.
#[derive(Debug, Clone, Copy)]
pub enum Newcomer<'a> {
    /// Somebody who is here already.
    Known(UserId),
    /// Somebody new, with this hash of their password.
    New(&'a str),
}

/// What came of an invitation.
#[derive(Debug, Clone, PartialEq)]
pub enum Invited {
    Done,
    /// The account has as many invitations or members as it may.
    LimitReached,
    /// Somebody with this address is a member already.
    AlreadyIn,
}

impl Store {
    /// Invites somebody; an earlier invitation of the same address works no more. The account may have `limit` members and
    /// invitations together.
    pub async fn invite(
        &self,
        change: &Change,
        invitation: &Invitation,
        token_hash: &[u8],
        limit: i64,
    ) -> Result<Invited> {
        const IN: &str = "
            SELECT count(*)
            FROM memberships
            JOIN users ON users.id = memberships.user_id
            WHERE memberships.account_id = $1 AND users.email = $2";
        const COUNT: &str = "
            SELECT (SELECT count(*) FROM memberships WHERE account_id = $1)
                + (SELECT count(*) FROM invitations WHERE account_id = $1 AND email <> $2)";
        const SQL: &str = "
            INSERT INTO invitations (id, account_id, email, role, token_hash, invited_by, expires_at, inserted_at)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
            ON CONFLICT (account_id, email) DO UPDATE
            SET id = excluded.id, role = excluded.role, token_hash = excluded.token_hash,
                invited_by = excluded.invited_by, expires_at = excluded.expires_at, inserted_at = excluded.inserted_at";
        let mut tx = self.begin().await?;
        tx.lock_account(change.account_id).await?;
        let members: i64 = on!(&mut tx.0, tx => sqlx::query_scalar(IN)
            .bind(change.account_id).bind(&invitation.email).fetch_one(&mut **tx).await)?;
        if members > 0 {
            return Ok(Invited::AlreadyIn);
        }
        let count: i64 = on!(&mut tx.0, tx => sqlx::query_scalar(COUNT)
            .bind(change.account_id).bind(&invitation.email).fetch_one(&mut **tx).await)?;
        if count >= limit {
            return Ok(Invited::LimitReached);
        }
        on!(&mut tx.0, tx => sqlx::query(SQL)
            .bind(invitation.id)
            .bind(change.account_id)
            .bind(&invitation.email)
            .bind(invitation.role)
            .bind(token_hash)
            .bind(&invitation.invited_by)
            .bind(invitation.expires_at)
            .bind(invitation.inserted_at)
            .execute(&mut **tx)
            .await
            .map(drop))?;
        let detail = serde_json::json!({ "role": invitation.role });
        tx.audit_with(change, "invitation.create", &invitation.email, &detail).await?;
        tx.commit().await?;
        Ok(Invited::Done)
    }

    /// Those of an account that can still be accepted.
    pub async fn invitations(&self, account_id: AccountId, now: Timestamp) -> Result<Vec<Invitation>> {
        const SQL: &str = "
            SELECT id, account_id, email, role, invited_by, expires_at, inserted_at
            FROM invitations
            WHERE account_id = $1 AND expires_at > $2
            ORDER BY email";
        Ok(on!(self.reader(), pool => sqlx::query_as(SQL).bind(account_id).bind(now).fetch_all(pool).await)?)
    }

    /// The invitation of this token, if it can still be accepted. Knowing the token is being invited, so this is where the
    /// account comes from.
    pub async fn operator_invitation(&self, token_hash: &[u8], now: Timestamp) -> Result<Option<Invitation>> {
        const SQL: &str = "
            SELECT invitations.id, invitations.account_id, email, role, invited_by, expires_at, invitations.inserted_at
            FROM invitations
            JOIN accounts ON accounts.id = invitations.account_id
            WHERE token_hash = $1 AND expires_at > $2 AND accounts.status = 'active'";
        Ok(on!(self.reader(), pool => sqlx::query_as(SQL).bind(token_hash).bind(now).fetch_optional(pool).await)?)
    }

    /// Whether there was such an invitation.
    pub async fn revoke_invitation(&self, change: &Change, id: InvitationId) -> Result<bool> {
        const SQL: &str = "DELETE FROM invitations WHERE account_id = $1 AND id = $2 RETURNING email";
        let mut tx = self.begin().await?;
        let email: Option<String> = on!(&mut tx.0, tx => sqlx::query_scalar(SQL)
            .bind(change.account_id).bind(id).fetch_optional(&mut **tx).await)?;
        let Some(email) = email else { return Ok(false) };
        tx.audit(change, "invitation.delete", &email).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Makes a member of whoever was invited. `change` is noted as theirs, whoever it names. `None` when the invitation was
    /// used or taken back meanwhile.
    ///
    /// # Errors
    /// [`super::StoreError::Conflict`] when somebody with the address came in meanwhile.
    pub async fn accept_invitation(
        &self,
        change: &Change,
        invitation: &Invitation,
        newcomer: Newcomer<'_>,
    ) -> Result<Option<UserId>> {
        const TAKE: &str = "DELETE FROM invitations WHERE account_id = $1 AND id = $2";
        let mut tx = self.begin().await?;
        let taken = on!(&mut tx.0, tx => sqlx::query(TAKE)
            .bind(invitation.account_id).bind(invitation.id)
            .execute(&mut **tx).await.map(|done| done.rows_affected()))?;
        if taken == 0 {
            return Ok(None);
        }
        let user_id = match newcomer {
            Newcomer::Known(id) => id,
            Newcomer::New(password_hash) => tx.insert_user(&invitation.email, password_hash, change.now).await?,
        };
        tx.set_role(invitation.account_id, user_id, invitation.role, change.now).await?;
        let detail = serde_json::json!({ "role": invitation.role, "invited_by": invitation.invited_by });
        let change = Change { who: Who::User(user_id), ..*change };
        tx.audit_with(&change, "member.create", &format!("user:{user_id}"), &detail).await?;
        tx.commit().await?;
        Ok(Some(user_id))
    }

    pub async fn operator_prune_invitations(&self, now: Timestamp) -> Result<u64> {
        const SQL: &str = "DELETE FROM invitations WHERE expires_at <= $1";
        Ok(on!(self.writer(), pool => sqlx::query(SQL)
            .bind(now).execute(pool).await.map(|done| done.rows_affected()))?)
    }
}
