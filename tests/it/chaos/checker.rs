//! The judge: looks at the evidence of a run after it is over and says what is wrong with it. Nothing here does I/O.
//!
//! Each rule is a function from the evidence to findings, one sentence each. No finding means: nothing lost, nothing made
//! up, and every repeat explained by a node that was killed or paused.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use super::evidence::{Evidence, Hook, Stored, completions};
use super::history::{Answer, Fault, FaultKind, Log, Moment, Request};

/// An outcome is on disk so long after the answer at the latest; a node that dies later has forgotten nothing.
const WRITTEN_WITHIN: Duration = Duration::from_secs(5);
/// So much later when the database was in trouble meanwhile: the longest pause between two tries to write.
const TRIES_AGAIN_WITHIN: Duration = Duration::from_secs(6);
/// What a node had sent before it was killed may be read by the receiver so much later.
const ON_ITS_WAY: Duration = Duration::from_millis(250);
/// Work of a node that is dead or paused is taken over so soon.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(30);

/// What came of it.
#[derive(Debug, Default)]
pub struct Verdict {
    pub findings: Vec<String>,
    pub repeats: Vec<Repeat>,
}

/// A request that nobody asked for, and what explains it.
#[derive(Debug, PartialEq, Eq)]
pub struct Repeat {
    pub cause: FaultKind,
    /// From the beginning of the fault to the repeat.
    pub after: Duration,
}

/// By webhook and goal.
pub type Counts = BTreeMap<(String, String), u64>;

pub fn check(evidence: &Evidence) -> Verdict {
    let (repeats, unexplained) = repeats(&evidence.log);
    let rules = [
        evidence.log.complaints.clone(),
        hits(evidence),
        reports(evidence),
        moments(evidence),
        lists(evidence),
        tests(evidence),
        resends(&evidence.log),
        endings(evidence),
        requests(evidence),
        unexplained,
    ];
    Verdict { findings: rules.concat(), repeats }
}

/// What each webhook is to be told about each goal, from what the nodes have taken in.
pub fn expected(hooks: &[Hook], stored: &[Stored]) -> Counts {
    let mut expected = Counts::new();
    for hook in hooks {
        for (goal_id, name) in &hook.goals {
            let hits = stored.iter().filter(|stored| stored.site_id == hook.site_id && stored.name == *name);
            expected.insert((hook.id.clone(), goal_id.clone()), hits.map(|stored| stored.count).sum());
        }
    }
    expected
}

/// What each webhook was told about each goal, every event once.
pub fn delivered(hooks: &[Hook], log: &Log) -> Counts {
    let mut seen = HashSet::new();
    let mut delivered = Counts::new();
    for request in log.requests.iter().filter(|request| request.succeeded()) {
        if let Some((goal_id, count)) = completions(&request.body)
            && seen.insert(&request.id)
        {
            *delivered.entry((hooks[request.hook].id.clone(), goal_id)).or_default() += count;
        }
    }
    delivered
}

/// A hit that was answered 202 is on disk at the node that answered, and none is there that nobody sent.
fn hits(evidence: &Evidence) -> Vec<String> {
    let mut sent: BTreeMap<_, (u64, u64)> = BTreeMap::new();
    for hit in &evidence.log.hits {
        let (promised, unknown) = sent.entry((hit.node, hit.site_id, hit.name.to_owned())).or_default();
        match hit.answer {
            Answer::Promised => *promised += 1,
            Answer::Unknown => *unknown += 1,
        }
    }
    let mut stored: BTreeMap<_, u64> = BTreeMap::new();
    for row in &evidence.stored {
        *stored.entry((row.node, row.site_id, row.name.clone())).or_default() += row.count;
    }
    let places: BTreeSet<_> = sent.keys().chain(stored.keys()).cloned().collect();
    let wrong = places.into_iter().filter_map(|place| {
        let (promised, unknown) = sent.get(&place).copied().unwrap_or_default();
        let stored = stored.get(&place).copied().unwrap_or_default();
        let (node, site_id, name) = place;
        (!(promised..=promised + unknown).contains(&stored)).then(|| {
            format!(
                "node {node} has {stored} {name} of site {site_id}, but promised {promised} and left {unknown} unanswered"
            )
        })
    });
    wrong.collect()
}

/// Every stored hit is in exactly one event of every webhook that wants it.
fn reports(evidence: &Evidence) -> Vec<String> {
    let expected = expected(&evidence.hooks, &evidence.stored);
    let mut reported = Counts::new();
    for event in &evidence.events {
        if let Some((goal_id, count)) = event.completions() {
            *reported.entry((event.webhook_id.clone(), goal_id)).or_default() += count;
        }
    }
    let keys: BTreeSet<_> = expected.keys().chain(reported.keys()).collect();
    let wrong = keys.into_iter().filter_map(|key| {
        let expected = expected.get(key).copied().unwrap_or_default();
        let reported = reported.get(key).copied().unwrap_or_default();
        (expected != reported).then(|| {
            let (webhook_id, goal_id) = key;
            let what = if reported < expected { "lost" } else { "counted twice or made up" };
            let difference = expected.abs_diff(reported);
            format!(
                "webhook {webhook_id}, goal {goal_id}: {expected} completions were stored and {reported} reported: \
                 {difference} {what}"
            )
        })
    });
    wrong.collect()
}

fn moments(evidence: &Evidence) -> Vec<String> {
    let mut seen = HashSet::new();
    let twice = evidence.events.iter().filter(|event| !seen.insert((&event.trigger_id, &event.moment)));
    twice.map(|event| format!("event {} reports {} once more", event.id, event.moment)).collect()
}

/// Every event is in the list of its webhook, once and where it belongs.
fn lists(evidence: &Evidence) -> Vec<String> {
    let wrong = evidence.hooks.iter().filter_map(|hook| {
        let newest_first = evidence.events.iter().rev().filter(|event| event.webhook_id == hook.id);
        let there: Vec<_> = newest_first.map(|event| event.id.as_str()).collect();
        let listed = evidence.listed.get(&hook.id).map_or(&[][..], Vec::as_slice);
        let differs = (0..there.len().max(listed.len()))
            .find(|place| there.get(*place).copied() != listed.get(*place).map(String::as_str))?;
        Some(format!(
            "webhook {} lists {:?} where {:?} belongs, {differs} from the newest",
            hook.id,
            listed.get(differs),
            there.get(differs)
        ))
    });
    wrong.collect()
}

/// A promised test is there, and there are no more tests than were asked for.
fn tests(evidence: &Evidence) -> Vec<String> {
    let there: HashSet<_> =
        evidence.events.iter().filter(|event| event.trigger_id.is_none()).map(|event| event.id.as_str()).collect();
    let promised: HashSet<_> = evidence.log.tests.iter().filter_map(|test| test.id.as_deref()).collect();
    let lost = promised.difference(&there).map(|id| format!("test {id} was promised and does not exist"));
    let mut wrong: Vec<_> = lost.collect();
    for (number, hook) in evidence.hooks.iter().enumerate() {
        let unknown = evidence.log.tests.iter().filter(|test| test.hook == number && test.id.is_none()).count();
        let nobodys = evidence.events.iter().filter(|event| {
            event.trigger_id.is_none() && event.webhook_id == hook.id && !promised.contains(event.id.as_str())
        });
        let nobodys = nobodys.count();
        if nobodys > unknown {
            wrong.push(format!(
                "webhook {} has {nobodys} tests that nobody was promised, for {unknown} unanswered requests",
                hook.id
            ));
        }
    }
    wrong
}

/// After a resend was promised, its delivery arrives once more.
fn resends(log: &Log) -> Vec<String> {
    let promised = log.resends.iter().filter(|resend| resend.answer == Answer::Promised);
    let lost = promised.filter(|resend| {
        !log.requests.iter().any(|request| request.id == resend.id && request.arrived_at >= resend.sent_at)
    });
    lost.map(|resend| format!("the resend of {} was promised and never came", resend.id)).collect()
}

/// Endpoints heal, so every delivery ends well; one that did was really answered 2xx.
fn endings(evidence: &Evidence) -> Vec<String> {
    let answered: HashSet<_> =
        evidence.log.requests.iter().filter(|request| request.succeeded()).map(|request| &request.id).collect();
    let mut wrong = Vec::new();
    for event in &evidence.events {
        if event.owed {
            wrong.push(format!("delivery {} is still owed", event.id));
        } else if event.ended.as_deref() != Some("success") {
            wrong.push(format!("delivery {} ended as {:?}", event.id, event.ended));
        } else if !answered.contains(&event.id) {
            wrong.push(format!("delivery {} counts as delivered, but never was", event.id));
        }
    }
    wrong
}

/// What arrived is an event of that webhook, byte for byte.
fn requests(evidence: &Evidence) -> Vec<String> {
    let events: HashMap<_, _> = evidence.events.iter().map(|event| (&event.id, event)).collect();
    let mut wrong = Vec::new();
    for request in &evidence.log.requests {
        let Some(event) = events.get(&request.id) else {
            wrong.push(format!("request {} belongs to no event", request.id));
            continue;
        };
        if event.payload != request.body {
            wrong.push(format!("a request of {} has another payload than its event", request.id));
        }
        if evidence.hooks[request.hook].id != event.webhook_id {
            wrong.push(format!("a request of {} came to another webhook's address", request.id));
        }
        if !String::from_utf8_lossy(&request.body).contains(&request.id) {
            wrong.push(format!("the payload of {} does not name it", request.id));
        }
    }
    wrong
}

/// Finds requests that came although an earlier one of the same delivery had succeeded or was still under way. A resend
/// explains one of them; a fault explains one of each delivery.
fn repeats(log: &Log) -> (Vec<Repeat>, Vec<String>) {
    let mut by_id: BTreeMap<&str, Vec<&Request>> = BTreeMap::new();
    for request in &log.requests {
        by_id.entry(&request.id).or_default().push(request);
    }
    let (mut explained, mut unexplained) = (Vec::new(), Vec::new());
    for (id, mut requests) in by_id {
        requests.sort_by_key(|request| request.arrived_at);
        let mut resends: Vec<_> =
            log.resends.iter().filter(|resend| resend.id == id).map(|resend| resend.sent_at).collect();
        // Those that are over first go first, so that one explains as much as it can.
        let mut faults: Vec<_> = log.faults.iter().filter(|fault| fault.kind.excuses_a_repeat()).collect();
        faults.sort_by_key(|fault| fault.until.unwrap_or(Moment::MAX));
        let mut before: Option<&Request> = None;
        for request in requests {
            let doubled = before.filter(|before| before.succeeded() || is_under_way(before, request.arrived_at));
            if let Some(before) = doubled {
                let resend = resends.iter().position(|sent_at| *sent_at <= request.arrived_at);
                let fault = faults.iter().position(|fault| explains(fault, before, request, log));
                if let Some(resend) = resend {
                    resends.remove(resend);
                } else if let Some(fault) = fault {
                    // The last one is the likely cause.
                    let likely = faults.iter().filter(|fault| explains(fault, before, request, log));
                    let likely = likely.max_by_key(|fault| fault.from).expect("there is one");
                    explained.push(Repeat { cause: likely.kind, after: request.arrived_at - likely.from });
                    faults.remove(fault);
                } else {
                    unexplained.push(format!(
                        "{id} came again at {:?} although the request of {:?} had {}, and nobody was killed or paused",
                        request.arrived_at,
                        before.arrived_at,
                        if before.succeeded() { "succeeded" } else { "not ended" },
                    ));
                }
            }
            before = Some(request);
        }
    }
    (explained, unexplained)
}

fn is_under_way(request: &Request, at: Moment) -> bool {
    request.finished_at.is_none_or(|finished_at| finished_at > at)
}

/// Whether `fault` may be why nobody remembered `before` when `repeat` was sent.
fn explains(fault: &Fault, before: &Request, repeat: &Request, log: &Log) -> bool {
    let until = fault.until.unwrap_or(Moment::MAX);
    fault.from <= repeat.arrived_at
        && until.saturating_add(ON_ITS_WAY) >= before.arrived_at
        && fault.from <= in_doubt_until(before, log)
        && repeat.arrived_at <= until.saturating_add(TAKEN_OVER_WITHIN)
}

/// By when the outcome of a request is on disk, whatever happened to the database.
fn in_doubt_until(request: &Request, log: &Log) -> Moment {
    let mut until = request.finished_at.unwrap_or(Moment::MAX).saturating_add(WRITTEN_WITHIN);
    for fault in log.faults.iter().filter(|fault| !fault.kind.excuses_a_repeat()) {
        let over = fault.until.unwrap_or(Moment::MAX);
        if fault.from <= until && over >= request.arrived_at {
            until = until.max(over.saturating_add(TRIES_AGAIN_WITHIN));
        }
    }
    until
}

#[cfg(test)]
#[path = "checker_tests.rs"]
mod tests;
