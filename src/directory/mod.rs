//! Who owns what: who is behind a credential, and whose site a domain is.
//!
//! The `own` directory keeps that in our tables. With `plausible` our tables mirror what a Plausible beside us says, and its
//! credentials work here too ([`guest`], [`plausible`]). This room knows `domain` and `store`; it does not know HTTP, and it
//! does not know webhooks. Passwords are hashed here ([`password`]).

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

use crate::chance::Chance;
use crate::clock::Clock;
use crate::domain::access::{Actor, Origin, Role, Who};
use crate::domain::ids::{AccountId, KeyId, SiteId, UserId};
use crate::domain::key::KeyText;
use crate::domain::person::MAX_PASSWORD_BYTES;
use crate::domain::time::Timestamp;
use crate::store::audit::Change;
use crate::store::keys::ApiKey;
use crate::store::people::User;
use crate::store::sessions::NewSession;
use crate::store::{Result, Store, StoreError};

pub mod guest;
pub mod password;
pub mod plausible;

use guest::Guests;
use plausible::{Plausible, PlausibleError};

/// How old the list of domains may become.
const DOMAINS_FOR: Duration = Duration::from_secs(5);
/// How soon a domain nobody knows is asked for again.
const UNKNOWN_FOR: Duration = Duration::from_millis(250);
/// A key's last use is noted this often.
const TOUCH_EVERY: Duration = Duration::from_secs(60);
/// How long somebody stays signed in.
pub const SESSION_FOR: Duration = Duration::from_secs(7 * 86_400);
/// A session nobody used for so long ends.
pub const SESSION_IDLE_FOR: Duration = Duration::from_secs(12 * 3_600);
/// As much of what a browser calls itself as is kept.
const MAX_AGENT_CHARS: usize = 255;

/// Nobody works in an account that is suspended.
pub const SUSPENDED: DirectoryError = DirectoryError::Refused {
    code: "account_suspended",
    sentence: "This account is suspended by the operator of this server, or its team is locked in Plausible: nothing is noticed or \
        sent until that changes; what waits is kept.",
};
const NO_ACCOUNT: DirectoryError = DirectoryError::Refused {
    code: "no_account",
    sentence: "You are a member of no account any more. Ask for an invitation.",
};

/// Cheap to clone; clones share what they know.
#[derive(Clone)]
pub struct Directory {
    store: Store,
    clock: Clock,
    domains: Arc<RwLock<Domains>>,
    /// Who comes with a credential of Plausible's, where there is one beside us.
    guests: Option<Arc<Guests>>,
}

/// Why nobody can say who somebody is.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The other directory does not answer. Whoever asks may be somebody or nobody.
    #[error(transparent)]
    Plausible(#[from] PlausibleError),
    /// A password could not be checked.
    #[error("{0}")]
    Broken(anyhow::Error),
    /// The credential is right, and opens nothing.
    #[error("{sentence}")]
    Refused { code: &'static str, sentence: &'static str },
}

#[derive(Default)]
struct Domains {
    version: i64,
    checked_at: Timestamp,
    sites: HashMap<String, SiteId>,
}

impl Directory {
    /// # Errors
    /// The database does not answer.
    pub async fn load(store: Store, clock: Clock, plausible: Option<Plausible>) -> Result<Self> {
        let guests = plausible.map(|plausible| Arc::new(Guests::new(plausible, store.clone(), clock.clone())));
        let directory = Self { store, clock, domains: Arc::default(), guests };
        directory.reload().await?;
        Ok(directory)
    }

    /// Who has this key, if anybody: one of ours, or a credential of the Plausible beside us.
    ///
    /// # Errors
    /// Nobody can tell now, or the credential opens nothing.
    pub async fn by_key(&self, text: &str) -> Result<Option<Actor>, DirectoryError> {
        let Ok(key) = KeyText::parse(text) else {
            return match &self.guests {
                Some(guests) => guests.actor(text).await,
                None => Ok(None),
            };
        };
        let now = self.clock.now();
        let Some(found) = self.store.operator_key_by_hash(&key.hash(), now).await? else { return Ok(None) };
        if !found.active {
            return Err(SUSPENDED);
        }
        if found.last_used_at.is_none_or(|used| now.since(used) >= TOUCH_EVERY) {
            self.store.touch_key(found.account_id, found.id, now).await?;
        }
        let who = Who::Key(found.id);
        Ok(Some(Actor {
            account_id: found.account_id,
            role: found.role,
            only_site: found.site_id,
            who,
            origin: Origin::default(),
        }))
    }

    /// Who is signed in with this token, if anybody.
    ///
    /// # Errors
    /// Nobody can tell now, or the account is suspended.
    pub async fn by_session(&self, token: &str) -> Result<Option<Actor>, DirectoryError> {
        let now = self.clock.now();
        let hash = token_hash(token);
        let Some(session) = self.store.session(&hash, now, now - SESSION_IDLE_FOR).await? else { return Ok(None) };
        let role = match &self.guests {
            Some(guests) => guests.role_of(&session).await?,
            None if !session.active => return Err(SUSPENDED),
            None => Some(session.role),
        };
        if now.since(session.last_used_at) >= TOUCH_EVERY {
            self.store.touch_session(&hash, now).await?;
        }
        let Some(role) = role else { return Ok(None) };
        let who = Who::User(session.user_id);
        Ok(Some(Actor { account_id: session.account_id, role, only_site: None, who, origin: Origin::default() }))
    }

    /// Whose e-mail address and password these are, if anybody's, and the account they belong to.
    ///
    /// # Errors
    /// Nobody can tell now, or they are right and not enough.
    pub async fn by_password(
        &self,
        email: &str,
        password: &str,
    ) -> Result<Option<(AccountId, UserId)>, DirectoryError> {
        if password.len() > MAX_PASSWORD_BYTES {
            return Ok(None);
        }
        if let Some(guests) = &self.guests {
            return guests.by_password(email, password).await;
        }
        let user = self.store.user(email).await?;
        let hash = user.as_ref().map(|user| user.password_hash.clone());
        let matches = password::verify(password.to_owned(), hash).await.map_err(DirectoryError::Broken)?;
        let Some(user) = user.filter(|_| matches) else { return Ok(None) };
        let first = self.store.memberships(user.id).await?.into_iter().next().ok_or(NO_ACCOUNT)?;
        Ok(Some((first.account_id, user.id)))
    }

    /// Whether this is the password of somebody who has one of ours.
    ///
    /// # Errors
    /// Nobody can tell now.
    pub async fn has_password(&self, user: &User, password: &str) -> Result<bool, DirectoryError> {
        if password.len() > MAX_PASSWORD_BYTES {
            return Ok(false);
        }
        let hash = Some(user.password_hash.clone());
        password::verify(password.to_owned(), hash).await.map_err(DirectoryError::Broken)
    }

    /// Ends the session of this token, if it goes on; its account may be suspended. `change` says for which account and person.
    pub async fn sign_out(&self, token: &str, change: impl FnOnce(AccountId, UserId) -> Change) -> Result<()> {
        let (hash, now) = (token_hash(token), self.clock.now());
        let Some(session) = self.store.session(&hash, now, now - SESSION_IDLE_FOR).await? else { return Ok(()) };
        self.store.close_session(&change(session.account_id, session.user_id), &hash).await
    }

    /// Signs somebody in to the account of `change` and answers the token of the session.
    pub async fn sign_in(&self, change: &Change, user_id: UserId, user_agent: &str, chance: &Chance) -> Result<String> {
        let token = new_token(chance);
        self.store.open_session(change, new_session(change, user_id, user_agent, &token)).await?;
        Ok(token)
    }

    /// Has a session go on in the account of `change`, under another token, which is answered.
    pub async fn switch(
        &self,
        change: &Change,
        old: &str,
        user_id: UserId,
        user_agent: &str,
        chance: &Chance,
    ) -> Result<String> {
        let token = new_token(chance);
        let session = new_session(change, user_id, user_agent, &token);
        self.store.replace_session(change, &token_hash(old), session).await?;
        Ok(token)
    }

    /// Whose hits these are. A site that was just created through another node is known here too.
    pub async fn site_of(&self, domain: &str) -> Result<Option<SiteId>> {
        let (known, age) = {
            let domains = self.read();
            (domains.sites.get(domain).copied(), self.clock.now().since(domains.checked_at))
        };
        if age < if known.is_some() { DOMAINS_FOR } else { UNKNOWN_FOR } {
            return Ok(known);
        }
        self.reload().await?;
        Ok(self.read().sites.get(domain).copied())
    }

    /// Reads the domains again if anything changed since.
    pub async fn reload(&self) -> Result<()> {
        let version = self.store.catalog_version().await?;
        let checked_at = self.clock.now();
        let unchanged = {
            let known = self.read();
            known.checked_at != Timestamp::EPOCH && known.version == version
        };
        if unchanged {
            self.domains.write().unwrap_or_else(PoisonError::into_inner).checked_at = checked_at;
            return Ok(());
        }
        let sites = self.store.operator_domains().await?.into_iter().map(|(id, domain)| (domain, id)).collect();
        *self.domains.write().unwrap_or_else(PoisonError::into_inner) = Domains { version, checked_at, sites };
        Ok(())
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Domains> {
        self.domains.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a new key is to be.
#[derive(Debug, Clone)]
pub struct Grant {
    pub name: String,
    pub role: Role,
    /// Nothing of the account but this site is to be there for it.
    pub site_id: Option<SiteId>,
    pub expires_at: Option<Timestamp>,
}

/// Makes a key for the account of `change`. Its text exists only in the answer. `None` when the account has as many as it
/// may.
pub async fn issue_key(
    store: &Store,
    change: &Change,
    grant: Grant,
    chance: &Chance,
) -> Result<Option<(ApiKey, KeyText)>> {
    let text = KeyText::generate(chance.bytes());
    let key = ApiKey {
        id: KeyId(chance.uuid_v7(change.now)),
        account_id: change.account_id,
        name: grant.name,
        role: grant.role,
        prefix: text.shown().to_owned(),
        site_id: grant.site_id,
        created_by: change.who.to_string(),
        expires_at: grant.expires_at,
        last_used_at: None,
        inserted_at: change.now,
    };
    let made = store.create_key(change, &key, &text.hash()).await?;
    Ok(made.then_some((key, text)))
}

fn new_session<'a>(change: &Change, user_id: UserId, user_agent: &'a str, token: &str) -> NewSession<'a> {
    let end = user_agent.char_indices().nth(MAX_AGENT_CHARS).map_or(user_agent.len(), |(at, _)| at);
    NewSession {
        user_id,
        token_hash: token_hash(token),
        user_agent: &user_agent[..end],
        expires_at: change.now + SESSION_FOR,
    }
}

/// A token for whoever holds it: 256 random bits.
pub fn new_token(chance: &Chance) -> String {
    URL_SAFE_NO_PAD.encode(chance.bytes::<32>())
}

/// Only the hash of a token is stored. Tokens are random, so a plain one is enough.
pub fn token_hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}
