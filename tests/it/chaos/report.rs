//! What a run was like, in a dozen lines.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::Plan;
use super::checker::Verdict;
use super::evidence::Evidence;
use super::history::{Answer, FaultKind, Moment};

pub struct Report<'a> {
    pub plan: Plan,
    pub evidence: &'a Evidence,
    pub verdict: &'a Verdict,
    /// From the last fault until nothing was owed.
    pub healed_within: Duration,
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Evidence { log, stored, events, .. } = self.evidence;
        let promised = log.hits.iter().filter(|hit| hit.answer == Answer::Promised).count();
        let on_disk: u64 = stored.iter().map(|stored| stored.count).sum();
        let mut faults: BTreeMap<FaultKind, usize> = BTreeMap::new();
        log.faults.iter().for_each(|fault| *faults.entry(fault.kind).or_default() += 1);
        let mut causes: BTreeMap<FaultKind, usize> = BTreeMap::new();
        self.verdict.repeats.iter().for_each(|repeat| *causes.entry(repeat.cause).or_default() += 1);
        let takeover = self.verdict.repeats.iter().map(|repeat| repeat.after).max().unwrap_or_default();
        writeln!(f, "{}", self.plan)?;
        writeln!(f, "  faults             {}", listed(&faults))?;
        writeln!(f, "  failed starts      {} (the database was away)", log.failed_starts)?;
        writeln!(
            f,
            "  hits               {promised} promised, {} unanswered, {on_disk} stored",
            log.hits.len() - promised
        )?;
        writeln!(f, "  tests, resends     {}, {} asked for", log.tests.len(), log.resends.len())?;
        writeln!(f, "  events             {}", events.len())?;
        writeln!(f, "  requests received  {}", log.requests.len())?;
        writeln!(f, "  repeats            {}", listed(&causes))?;
        writeln!(f, "  slowest repeat     {:.1} s after its fault", takeover.as_secs_f64())?;
        writeln!(
            f,
            "  slowest first try  {:.1} s after its event was recorded",
            self.slowest_first_try().as_secs_f64()
        )?;
        writeln!(f, "  healed within      {:.1} s", self.healed_within.as_secs_f64())?;
        match self.verdict.findings.len() {
            0 => write!(f, "  lost, made up or unexplained: 0"),
            count => {
                write!(f, "  WRONG: {count}")?;
                self.verdict.findings.iter().try_for_each(|finding| write!(f, "\n  - {finding}"))?;
                write!(f, "\n  What went wrong when:")?;
                log.faults.iter().try_for_each(|fault| {
                    let until = fault.until.unwrap_or(Moment::MAX).as_secs_f64();
                    let (from, name) = (fault.from.as_secs_f64(), name(fault.kind));
                    let whose = fault.node.map(|node| format!(" (node {node})")).unwrap_or_default();
                    write!(f, "\n  {from:>8.3} - {until:>8.3} s  {name}{whose}")
                })
            }
        }
    }
}

impl Report<'_> {
    /// The longest an event waited for its first request: what a takeover costs.
    fn slowest_first_try(&self) -> Duration {
        let mut first: BTreeMap<&str, Moment> = BTreeMap::new();
        for request in &self.evidence.log.requests {
            first.entry(&request.id).or_insert(request.arrived_at);
        }
        let waits = self.evidence.events.iter().filter_map(|event| {
            let arrived_at = first.get(event.id.as_str())?;
            Some(arrived_at.saturating_sub(event.recorded_at))
        });
        waits.max().unwrap_or_default()
    }
}

fn listed(counts: &BTreeMap<FaultKind, usize>) -> String {
    let parts: Vec<_> = counts.iter().map(|(kind, count)| format!("{count} {}", name(*kind))).collect();
    if parts.is_empty() { "none".to_owned() } else { parts.join(", ") }
}

fn name(kind: FaultKind) -> &'static str {
    match kind {
        FaultKind::Kill => "killed",
        FaultKind::Pause => "paused",
        FaultKind::Restart => "PostgreSQL crashed",
        FaultKind::CutAfterCommit => "cut after a commit",
        FaultKind::CutBeforeCommit => "cut before a commit",
    }
}
