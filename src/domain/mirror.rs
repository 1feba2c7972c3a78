//! What has to change here so that accounts, sites and goals are what another directory says they are.

use std::collections::{HashMap, HashSet};

use super::goal::{Goal, GoalKind};
use super::ids::{AccountId, GoalId, SiteId};
use super::time::Timestamp;

/// What the other directory says.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Truth {
    pub owners: Vec<Owner>,
    pub sites: Vec<SiteThere>,
    pub goals: Vec<Goal>,
}

/// Whoever owns sites there: an account here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    pub external_id: String,
    /// What the same owner was called before, if that changed: the account stays the same.
    pub formerly: Option<String>,
    /// Unique.
    pub name: String,
    /// Nothing is noticed or sent for them.
    pub suspended: bool,
}

/// A site as the other directory has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteThere {
    pub id: SiteId,
    /// By external id. `None`: nobody can tell at the moment, so it stays where it is.
    pub owner: Option<String>,
    pub domain: String,
    pub timezone: String,
    pub inserted_at: Timestamp,
}

/// What came from there before.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Known {
    pub accounts: Vec<AccountHere>,
    pub sites: Vec<SiteHere>,
    pub goals: Vec<Goal>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountHere {
    pub id: AccountId,
    pub external_id: String,
    pub name: String,
    pub suspended: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteHere {
    pub id: SiteId,
    pub account_id: AccountId,
    pub domain: String,
    pub timezone: String,
}

/// The difference. What is forgotten goes first, so that its names are free for what comes.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Changes {
    pub forgotten_sites: Vec<SiteHere>,
    pub forgotten_accounts: Vec<AccountId>,
    /// Those that changed are forgotten and come again: nothing hangs on the row itself.
    pub forgotten_goals: Vec<Goal>,
    /// As they are now, and whether that suspends or resumes them.
    pub accounts: Vec<(AccountHere, bool)>,
    pub new_accounts: Vec<Owner>,
    pub sites: Vec<SiteHere>,
    /// With an owner each.
    pub new_sites: Vec<SiteThere>,
    /// Their sites are there by then.
    pub new_goals: Vec<Goal>,
}

impl Changes {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What turns `known` into `truth`.
    pub fn between(known: &Known, truth: &Truth) -> Self {
        let mut changes = Self::default();
        let accounts = changes.settle_accounts(known, truth);
        changes.settle_sites(known, truth, &accounts);
        changes.settle_goals(known, truth);
        changes
    }

    /// Answers which account each owner has, where there is one.
    fn settle_accounts(&mut self, known: &Known, truth: &Truth) -> HashMap<String, AccountId> {
        let mut here: HashMap<&str, &AccountHere> =
            known.accounts.iter().map(|account| (account.external_id.as_str(), account)).collect();
        let present: HashSet<&str> = truth.owners.iter().map(|owner| owner.external_id.as_str()).collect();
        let mut accounts = HashMap::new();
        // Those that kept their name first: nobody else takes their account over.
        let (kept, others): (Vec<_>, Vec<_>) =
            truth.owners.iter().partition(|owner| here.contains_key(owner.external_id.as_str()));
        for owner in kept.into_iter().chain(others) {
            let formerly = owner.formerly.as_deref().filter(|name| !present.contains(name));
            let account =
                here.remove(owner.external_id.as_str()).or_else(|| formerly.and_then(|name| here.remove(name)));
            let Some(account) = account else {
                self.new_accounts.push(owner.clone());
                continue;
            };
            accounts.insert(owner.external_id.clone(), account.id);
            let now = AccountHere {
                id: account.id,
                external_id: owner.external_id.clone(),
                name: owner.name.clone(),
                suspended: owner.suspended,
            };
            if now != *account {
                self.accounts.push((now, owner.suspended != account.suspended));
            }
        }
        // Who has a site that nobody can tell the owner of stays until somebody can.
        let unclear: HashSet<_> = truth.sites.iter().filter(|site| site.owner.is_none()).map(|site| site.id).collect();
        let kept: HashSet<_> =
            known.sites.iter().filter(|site| unclear.contains(&site.id)).map(|site| site.account_id).collect();
        let gone = here.into_values().map(|account| account.id).filter(|id| !kept.contains(id));
        self.forgotten_accounts.extend(gone);
        self.forgotten_accounts.sort();
        accounts
    }

    fn settle_sites(&mut self, known: &Known, truth: &Truth, accounts: &HashMap<String, AccountId>) {
        let mut there: HashMap<_, _> = truth.sites.iter().map(|site| (site.id, site)).collect();
        for site in &known.sites {
            let now = there.get(&site.id).filter(|now| match &now.owner {
                None => true,
                // What is sent for a site goes to whoever owned it; a new owner begins anew.
                Some(owner) => accounts.get(owner) == Some(&site.account_id),
            });
            let Some(now) = now else {
                self.forgotten_sites.push(site.clone());
                continue;
            };
            let now = SiteHere { domain: now.domain.clone(), timezone: now.timezone.clone(), ..site.clone() };
            if now != *site {
                self.sites.push(now);
            }
            there.remove(&site.id);
        }
        self.new_sites
            .extend(truth.sites.iter().filter(|site| site.owner.is_some() && there.contains_key(&site.id)).cloned());
    }

    fn settle_goals(&mut self, known: &Known, truth: &Truth) {
        let lost: HashSet<_> = self.forgotten_sites.iter().map(|site| site.id).collect();
        let stay = known.sites.iter().map(|site| site.id).filter(|id| !lost.contains(id));
        let sites: HashSet<_> = stay.chain(self.new_sites.iter().map(|site| site.id)).collect();
        let mut there: HashMap<GoalId, Goal> = possible(&truth.goals)
            .into_iter()
            .filter(|goal| sites.contains(&goal.site_id))
            .map(|goal| (goal.id, goal))
            .collect();
        // Goals of a site that is forgotten go with it.
        for goal in known.goals.iter().filter(|goal| !lost.contains(&goal.site_id)) {
            match there.get(&goal.id) {
                Some(now) if now == goal => drop(there.remove(&goal.id)),
                _ => self.forgotten_goals.push(goal.clone()),
            }
        }
        self.new_goals.extend(there.into_values());
        self.new_goals.sort_by_key(|goal| goal.id);
    }
}

/// Those that can stand beside each other: old versions of Plausible let a site have the same goal twice, and then the
/// first is the one.
fn possible(goals: &[Goal]) -> Vec<Goal> {
    let mut goals: Vec<_> = goals.iter().collect();
    goals.sort_by_key(|goal| goal.id);
    let mut names = HashSet::new();
    let mut kinds = HashSet::new();
    let kind = |goal: &Goal| {
        let (path, name, threshold) = match &goal.kind {
            GoalKind::Event { name } => (None, Some(name.clone()), None),
            GoalKind::Page { path } => (Some(path.clone()), None, None),
            GoalKind::Scroll { path, threshold } => (Some(path.clone()), None, Some(*threshold)),
        };
        (goal.site_id, path, name, threshold, goal.custom_props.clone())
    };
    goals.retain(|goal| {
        !names.contains(&(goal.site_id, goal.display_name.clone()))
            && !kinds.contains(&kind(goal))
            && names.insert((goal.site_id, goal.display_name.clone()))
            && kinds.insert(kind(goal))
    });
    goals.into_iter().cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(external_id: &str) -> Owner {
        Owner {
            external_id: external_id.into(),
            formerly: None,
            name: format!("Name of {external_id}"),
            suspended: false,
        }
    }

    fn account(id: i64, external_id: &str) -> AccountHere {
        let name = format!("Name of {external_id}");
        AccountHere { id: AccountId(id), external_id: external_id.into(), name, suspended: false }
    }

    fn there(id: i64, owner: Option<&str>) -> SiteThere {
        SiteThere {
            id: SiteId(id),
            owner: owner.map(str::to_owned),
            domain: format!("{id}.example"),
            timezone: "Etc/UTC".into(),
            inserted_at: Timestamp::EPOCH,
        }
    }

    fn here(id: i64, account_id: i64) -> SiteHere {
        let site = there(id, None);
        SiteHere { id: site.id, account_id: AccountId(account_id), domain: site.domain, timezone: site.timezone }
    }

    fn goal(id: i64, site_id: i64, name: &str) -> Goal {
        Goal {
            id: GoalId(id),
            site_id: SiteId(site_id),
            display_name: name.into(),
            kind: GoalKind::Event { name: name.into() },
            custom_props: Vec::new(),
            currency: None,
            inserted_at: Timestamp::EPOCH,
        }
    }

    #[test]
    fn what_is_the_same_changes_nothing() {
        let known =
            Known { accounts: vec![account(1, "team:5")], sites: vec![here(7, 1)], goals: vec![goal(3, 7, "Signup")] };
        let truth = Truth {
            owners: vec![owner("team:5")],
            sites: vec![there(7, Some("team:5"))],
            goals: vec![goal(3, 7, "Signup"), goal(4, 7, "Signup"), goal(9, 99, "Of nobody")],
        };
        assert!(Changes::between(&known, &truth).is_empty());
    }

    #[test]
    fn a_site_that_changes_hands_begins_anew() {
        let known =
            Known { accounts: vec![account(1, "team:5")], sites: vec![here(7, 1)], goals: vec![goal(3, 7, "Signup")] };
        let truth = Truth {
            owners: vec![owner("team:5"), owner("team:6")],
            sites: vec![there(7, Some("team:6"))],
            goals: vec![goal(3, 7, "Signup")],
        };
        let changes = Changes::between(&known, &truth);
        assert_eq!(changes.new_accounts, [owner("team:6")]);
        assert_eq!(changes.forgotten_sites, [here(7, 1)]);
        assert_eq!(changes.new_sites, [there(7, Some("team:6"))]);
        assert_eq!(changes.new_goals, [goal(3, 7, "Signup")], "they went with the site");
        assert!(changes.forgotten_goals.is_empty() && changes.forgotten_accounts.is_empty());
    }

    #[test]
    fn an_owner_under_a_new_name_keeps_account_and_sites() {
        let known = Known { accounts: vec![account(1, "user:2")], sites: vec![here(7, 1)], goals: Vec::new() };
        let owner = Owner { formerly: Some("user:2".into()), ..owner("team:5") };
        let truth = Truth { owners: vec![owner], sites: vec![there(7, Some("team:5"))], goals: Vec::new() };
        let changes = Changes::between(&known, &truth);
        let expected = Changes { accounts: vec![(account(1, "team:5"), false)], ..Changes::default() };
        assert_eq!(changes, expected);
    }

    #[test]
    fn a_site_whose_owner_cannot_be_told_stays() {
        let known = Known { accounts: vec![account(1, "user:2")], sites: vec![here(7, 1)], goals: Vec::new() };
        let truth = Truth { sites: vec![there(7, None), there(8, None)], ..Truth::default() };
        assert!(Changes::between(&known, &truth).is_empty());
    }

    #[test]
    fn what_is_gone_is_forgotten_and_what_differs_comes_again() {
        let known = Known {
            accounts: vec![account(1, "team:5"), account(2, "team:6")],
            sites: vec![here(7, 1), here(8, 2)],
            goals: vec![goal(3, 7, "Signup"), goal(4, 7, "Buy"), goal(5, 8, "Gone with its site")],
        };
        let locked = Owner { suspended: true, ..owner("team:5") };
        let moved = SiteThere { domain: "new.example".into(), ..there(7, Some("team:5")) };
        let truth = Truth { owners: vec![locked], sites: vec![moved], goals: vec![goal(3, 7, "Sign up")] };
        let changes = Changes::between(&known, &truth);
        assert_eq!(changes.accounts, [(AccountHere { suspended: true, ..account(1, "team:5") }, true)]);
        assert_eq!(changes.forgotten_accounts, [AccountId(2)]);
        assert_eq!(changes.forgotten_sites, [here(8, 2)]);
        assert_eq!(changes.sites, [SiteHere { domain: "new.example".into(), ..here(7, 1) }]);
        assert_eq!(changes.forgotten_goals, [goal(3, 7, "Signup"), goal(4, 7, "Buy")]);
        assert_eq!(changes.new_goals, [goal(3, 7, "Sign up")]);
    }
}
