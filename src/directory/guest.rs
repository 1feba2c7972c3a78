//! Those who come with a credential of the Plausible beside us, or with the password they have there.
//!
//! Who somebody is stays known for [`KNOWN_FOR`]: that long a credential works after it was revoked there, and while
//! Plausible's database is away. Who is not known is never remembered.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::plausible::Plausible;
use super::plausible::credentials::{KeyHolder, is_plugin_token};
use super::plausible::people::Membership;
use super::plausible::truth::user;
use super::{DirectoryError, password, token_hash};
use crate::clock::Clock;
use crate::domain::access::{Actor, Origin, Role, Who};
use crate::domain::ids::{AccountId, UserId};
use crate::store::Store;
use crate::store::mirror::Holder;
use crate::store::sessions::Session;

/// How long who has a credential is believed without asking.
pub const KNOWN_FOR: Duration = Duration::from_secs(30);
/// More than this at once are not remembered.
const MOST: usize = 10_000;

const GUEST: DirectoryError = DirectoryError::Refused {
    code: "guest",
    sentence: "A guest of a team may see some of its sites only. Ask for a token of the site's Plugins API, or to become a \
        member.",
};

/// Knows who has which credential of Plausible's.
pub struct Guests {
    plausible: Plausible,
    store: Store,
    clock: Clock,
    /// By the hash of the credential; when it was asked for, on the monotonic clock.
    known: Mutex<HashMap<[u8; 32], (Actor, Duration)>>,
    /// What people who signed in may do, the same way.
    members: Mutex<HashMap<(AccountId, UserId), (Role, Duration)>>,
}

impl Guests {
    pub fn new(plausible: Plausible, store: Store, clock: Clock) -> Self {
        Self { plausible, store, clock, known: Mutex::default(), members: Mutex::default() }
    }

    /// Who has this credential, if anybody.
    pub async fn actor(&self, text: &str) -> Result<Option<Actor>, DirectoryError> {
        let hash = token_hash(text);
        let now = self.clock.monotonic();
        {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((actor, asked_at)) = known.get(&hash)
                && self.is_fresh(*asked_at)
            {
                return Ok(Some(*actor));
            }
        }
        let found =
            if is_plugin_token(text) { self.by_plugin_token(text).await? } else { self.by_api_key(text).await? };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST {
            known.retain(|_, (_, asked_at)| self.is_fresh(*asked_at));
        }
        match found {
            Some(actor) if known.len() < MOST => drop(known.insert(hash, (actor, now))),
            _ => drop(known.remove(&hash)),
        }
        Ok(found)
    }

    /// Whose e-mail address and password these are in Plausible, if anybody's.
    pub async fn by_password(
        &self,
        email: &str,
        password: &str,
    ) -> Result<Option<(AccountId, UserId)>, DirectoryError> {
        let person = self.plausible.person(email).await?;
        let hash = person.as_ref().and_then(|person| person.password_hash.clone());
        let matches = password::verify_bcrypt(password.to_owned(), hash).await.map_err(DirectoryError::Broken)?;
        let Some(person) = person.filter(|_| matches) else { return Ok(None) };
        if person.second_factor {
            return Err(DirectoryError::Refused {
                code: "second_factor",
                sentence: "You sign in to Plausible with a second factor, which nobody asks for here. Use an API key, or a \
                    token of the site's Plugins API.",
            });
        }
        let (external_id, role) = match self.plausible.membership(person.id, None).await? {
            Membership::Of { external_id, role } => (external_id, role),
            Membership::Guest => return Err(GUEST),
            Membership::None => {
                return Err(DirectoryError::Refused {
                    code: "no_team",
                    sentence: "You have no sites in Plausible, and no team you are a member of has.",
                });
            }
        };
        let Some(account_id) = of_active(self.store.operator_account_there(&external_id).await?, |id| id)? else {
            return Err(DirectoryError::Refused {
                code: "unknown_team",
                sentence: "Your team is not known here yet; try again in ten seconds.",
            });
        };
        let now = self.clock.now();
        let user_id = self.store.welcome(account_id, &user(person.id), email, role, now).await?;
        self.remember_member(account_id, user_id, role);
        Ok(Some((account_id, user_id)))
    }

    /// What somebody who is signed in may do, as Plausible says now or said a moment ago. Nothing when they are no member
    /// any more: then they are signed out.
    pub async fn role_of(&self, session: &Session) -> Result<Option<Role>, DirectoryError> {
        let (account_id, user_id) = (session.account_id, session.user_id);
        {
            let members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((role, asked_at)) = members.get(&(account_id, user_id))
                && self.is_fresh(*asked_at)
            {
                return Ok(Some(*role));
            }
        }
        let membership = match self.store.names_there(account_id, user_id).await? {
            Some((person, external_id)) => match person.strip_prefix("user:").and_then(|id| id.parse().ok()) {
                Some(person) => self.plausible.membership(person, Some(&external_id)).await?,
                None => Membership::None,
            },
            None => Membership::None,
        };
        let Membership::Of { external_id, role } = membership else {
            self.store.dismiss(account_id, user_id).await?;
            return Ok(None);
        };
        of_active(self.store.operator_account_there(&external_id).await?, drop)?;
        if role != session.role {
            self.store.set_role(account_id, user_id, role, self.clock.now()).await?;
        }
        self.remember_member(account_id, user_id, role);
        Ok(Some(role))
    }

    fn remember_member(&self, account_id: AccountId, user_id: UserId, role: Role) {
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        if members.len() >= MOST {
            members.retain(|_, (_, asked_at)| self.is_fresh(*asked_at));
        }
        if members.len() < MOST {
            members.insert((account_id, user_id), (role, self.clock.monotonic()));
        }
    }

    fn is_fresh(&self, asked_at: Duration) -> bool {
        self.clock.monotonic().saturating_sub(asked_at) < KNOWN_FOR
    }

    async fn by_plugin_token(&self, text: &str) -> Result<Option<Actor>, DirectoryError> {
        let Some(token) = self.plausible.plugin_token(text).await? else { return Ok(None) };
        let who = Who::PluginToken(token.id);
        let only_site = Some(token.site_id);
        let holder = self.store.operator_holder_of(token.site_id).await?;
        of_active(holder, |account_id| Actor {
            account_id,
            role: Role::Editor,
            only_site,
            who,
            origin: Origin::default(),
        })
    }

    async fn by_api_key(&self, text: &str) -> Result<Option<Actor>, DirectoryError> {
        match self.plausible.api_key(text).await? {
            None => Ok(None),
            Some(KeyHolder::Account { key_id, external_id, role }) => {
                let who = Who::PlausibleKey(key_id);
                let holder = self.store.operator_account_there(&external_id).await?;
                of_active(holder, |account_id| Actor {
                    account_id,
                    role,
                    only_site: None,
                    who,
                    origin: Origin::default(),
                })
            }
            Some(KeyHolder::Guest) => Err(GUEST),
            Some(KeyHolder::Ambiguous) => Err(DirectoryError::Refused {
                code: "ambiguous_key",
                sentence: "This key is for no team, and its user is in several; make a key for one of them in Plausible.",
            }),
        }
    }
}

/// A site or account that is not mirrored yet is nobody's for a few seconds more.
fn of_active<T>(holder: Option<Holder>, whom: impl FnOnce(AccountId) -> T) -> Result<Option<T>, DirectoryError> {
    match holder {
        None => Ok(None),
        Some(Holder { active: false, .. }) => Err(DirectoryError::Refused {
            code: "account_suspended",
            sentence: "The team is locked in Plausible, or its traffic is not taken in any more. Nothing is noticed or \
                sent until that changes; what waits is kept.",
        }),
        Some(Holder { account_id, active: true }) => Ok(Some(whom(account_id))),
    }
}
