//! The judge is judged: a good run passes, and each way a run can be bad is found.

use super::*;
use crate::chaos::evidence::Event;
use crate::chaos::history::{Hit, Resend, Test};

const HOOK: &str = "hook";
const GOAL: &str = "7";
const SITE: i64 = 1;

fn secs(secs: u64) -> Moment {
    Moment::from_secs(secs)
}

fn hit(answer: Answer) -> Hit {
    Hit { node: 0, site_id: SITE, name: "Signup", answer }
}

fn payload(id: &str, count: Option<u64>) -> Vec<u8> {
    let data = count.map(|count| serde_json::json!({"goal_id": GOAL, "count": count}));
    serde_json::json!({"event_id": id, "data": data}).to_string().into_bytes()
}

/// `None`: a test.
fn event(id: &str, count: Option<u64>) -> Event {
    Event {
        id: id.to_owned(),
        webhook_id: HOOK.to_owned(),
        trigger_id: count.map(|_| "trigger".to_owned()),
        moment: format!("moment of {id}"),
        payload: payload(id, count),
        recorded_at: Moment::ZERO,
        owed: false,
        ended: Some("success".to_owned()),
    }
}

/// Answered with 200 a second after it arrived.
fn request(id: &str, count: Option<u64>, at: u64) -> Request {
    Request {
        hook: 0,
        id: id.to_owned(),
        body: payload(id, count),
        arrived_at: secs(at),
        finished_at: Some(secs(at + 1)),
        status: Some(200),
    }
}

fn fault(kind: FaultKind, from: u64, until: u64) -> Fault {
    Fault { kind, node: Some(0), from: secs(from), until: Some(secs(until)) }
}

/// Three hits in two events, one of which failed first; a test; a request nobody answered.
fn good() -> Evidence {
    let failed = Request { status: Some(500), ..request("a", Some(2), 10) };
    Evidence {
        log: Log {
            hits: [Answer::Promised, Answer::Promised, Answer::Unknown, Answer::Unknown].map(hit).to_vec(),
            tests: vec![Test { hook: 0, id: Some("t".to_owned()) }],
            requests: vec![failed, request("a", Some(2), 12), request("b", Some(1), 20), request("t", None, 30)],
            ..Log::default()
        },
        hooks: vec![Hook { id: HOOK.to_owned(), site_id: SITE, goals: vec![(GOAL.to_owned(), "Signup")] }],
        stored: vec![Stored { node: 0, site_id: SITE, name: "Signup".to_owned(), count: 3 }],
        events: vec![event("a", Some(2)), event("b", Some(1)), event("t", None)],
        listed: [(HOOK.to_owned(), ["t", "b", "a"].map(str::to_owned).to_vec())].into(),
    }
}

/// The findings after `spoil`; each must contain the text.
#[track_caller]
fn finds(text: &str, spoil: impl FnOnce(&mut Evidence)) {
    let mut evidence = good();
    spoil(&mut evidence);
    let findings = check(&evidence).findings;
    assert!(findings.iter().any(|finding| finding.contains(text)), "{findings:#?}");
}

#[track_caller]
fn passes(change: impl FnOnce(&mut Evidence)) -> Vec<Repeat> {
    let mut evidence = good();
    change(&mut evidence);
    let verdict = check(&evidence);
    assert!(verdict.findings.is_empty(), "{:#?}", verdict.findings);
    verdict.repeats
}

#[test]
fn a_good_run_passes() {
    assert_eq!(passes(|_| {}), []);
}

#[test]
fn a_promised_hit_that_was_not_stored_is_found() {
    finds("has 1 Signup of site 1, but promised 2", |run| run.stored[0].count = 1);
    finds("has 0 Signup of site 1, but promised 2", |run| run.stored.clear());
    finds("has 3 Signup of site 1, but promised 0", |run| run.stored[0].node = 1);
}

#[test]
fn a_hit_that_nobody_sent_is_found() {
    finds("has 5 Signup of site 1, but promised 2 and left 2 unanswered", |run| run.stored[0].count = 5);
}

#[test]
fn a_hit_that_was_not_reported_is_found() {
    finds("4 completions were stored and 3 reported: 1 lost", |run| run.stored[0].count = 4);
    finds("3 completions were stored and 2 reported: 1 lost", |run| {
        run.events.remove(1);
    });
}

#[test]
fn a_hit_that_was_reported_twice_is_found() {
    finds("2 completions were stored and 3 reported: 1 counted twice", |run| run.stored[0].count = 2);
    finds("event b reports moment of a once more", |run| run.events[1].moment = run.events[0].moment.clone());
}

#[test]
fn an_event_that_is_not_listed_is_found() {
    let listed = |run: &mut Evidence, ids: &[&str]| {
        run.listed.insert(HOOK.to_owned(), ids.iter().map(|id| (*id).to_owned()).collect());
    };
    finds("lists Some(\"a\") where Some(\"b\") belongs, 1 from", |run| listed(run, &["t", "a"]));
    finds("lists Some(\"b\") where Some(\"a\") belongs, 2 from", |run| listed(run, &["t", "b", "b", "a"]));
    finds("lists Some(\"x\") where None belongs, 3 from", |run| listed(run, &["t", "b", "a", "x"]));
    finds("lists Some(\"b\") where Some(\"t\") belongs, 0 from", |run| listed(run, &["b", "t", "a"]));
    finds("lists None where Some(\"t\") belongs, 0 from", |run| run.listed.clear());
}

#[test]
fn a_lost_test_is_found() {
    finds("test t was promised and does not exist", |run| {
        run.events.pop();
    });
    finds("delivery t counts as delivered, but never was", |run| {
        run.log.requests.pop();
    });
}

#[test]
fn a_test_that_nobody_asked_for_is_found() {
    finds("has 1 tests that nobody was promised, for 0 unanswered requests", |run| run.log.tests.clear());
    passes(|run| run.log.tests[0].id = None);
}

#[test]
fn a_phantom_is_found() {
    finds("request x belongs to no event", |run| run.log.requests.push(request("x", None, 40)));
}

#[test]
fn a_duplicate_under_another_id_is_found() {
    // The same completion once more as an event of its own.
    finds("1 counted twice or made up", |run| {
        run.log.faults.push(fault(FaultKind::Kill, 21, 21));
        run.events.push(event("b2", Some(1)));
        run.log.requests.push(request("b2", Some(1), 22));
    });
}

#[test]
fn a_duplicate_needs_a_crash_near_it() {
    let again = |run: &mut Evidence| run.log.requests.push(request("b", Some(1), 27));
    finds("b came again at 27s although the request of 20s had succeeded", again);
    for (kind, from, until) in [
        (FaultKind::Kill, 2, 2),
        (FaultKind::Kill, 28, 28),
        (FaultKind::Pause, 1, 19),
        (FaultKind::Restart, 21, 22),
        (FaultKind::CutAfterCommit, 21, 21),
    ] {
        finds("b came again", |run| {
            again(run);
            run.log.faults.push(fault(kind, from, until));
        });
    }
    let repeats = passes(|run| {
        again(run);
        run.log.faults.push(fault(FaultKind::Kill, 22, 22));
    });
    assert_eq!(repeats, [Repeat { cause: FaultKind::Kill, after: secs(5) }]);
}

#[test]
fn an_outcome_takes_longer_to_be_written_when_the_database_is_away() {
    let run = |restart: bool| {
        let mut run = good();
        run.log.requests.push(request("b", Some(1), 40));
        run.log.faults.push(fault(FaultKind::Kill, 31, 31));
        if restart {
            run.log.faults.push(fault(FaultKind::Restart, 21, 26));
        }
        check(&run).findings.len()
    };
    assert_eq!((run(true), run(false)), (0, 1));
}

#[test]
fn a_crash_explains_one_duplicate_of_a_delivery() {
    finds("b came again at 26s", |run| {
        run.log.faults.push(fault(FaultKind::Kill, 21, 21));
        run.log.requests.extend([24, 26].map(|at| request("b", Some(1), at)));
    });
    // Of each.
    let repeats = passes(|run| {
        run.log.faults.push(fault(FaultKind::Kill, 21, 21));
        run.log.requests[1].arrived_at = secs(20);
        run.log.requests[1].finished_at = Some(secs(21));
        run.log.requests.extend([request("a", Some(2), 24), request("b", Some(1), 24)]);
    });
    assert_eq!(repeats.len(), 2);
}

#[test]
fn a_takeover_has_an_end() {
    finds("b came again at 60s", |run| {
        run.log.faults.push(fault(FaultKind::Kill, 21, 21));
        run.log.requests.push(request("b", Some(1), 60));
    });
}

#[test]
fn two_attempts_at_once_are_found() {
    finds("t came again at 31s although the request of 30s had not ended", |run| {
        let last = run.log.requests.last_mut().unwrap();
        (last.finished_at, last.status) = (Some(secs(33)), Some(500));
        run.log.requests.push(request("t", None, 31));
    });
}

#[test]
fn a_resend_explains_one_more_request() {
    let resend = |answer| Resend { id: "b".to_owned(), sent_at: secs(25), answer };
    for answer in [Answer::Promised, Answer::Unknown] {
        let repeats = passes(|run| {
            run.log.resends.push(resend(answer));
            run.log.requests.push(request("b", Some(1), 26));
        });
        assert_eq!(repeats, []);
        finds("b came again at 28s", |run| {
            run.log.resends.push(resend(answer));
            run.log.requests.extend([26, 28].map(|at| request("b", Some(1), at)));
        });
    }
    finds("the resend of b was promised and never came", |run| run.log.resends.push(resend(Answer::Promised)));
    passes(|run| run.log.resends.push(resend(Answer::Unknown)));
}

#[test]
fn another_payload_on_a_retry_is_found() {
    finds("a request of a has another payload", |run| run.log.requests[1].body.push(b' '));
    finds("a request of a came to another webhook's address", |run| {
        run.hooks.push(Hook { id: "other".to_owned(), ..run.hooks[0].clone() });
        run.hooks[1].goals.clear();
        run.log.requests[0].hook = 1;
    });
}

#[test]
fn a_delivery_that_did_not_end_well_is_found() {
    finds("delivery b is still owed", |run| run.events[1].owed = true);
    finds("delivery b ended as Some(\"failed\")", |run| run.events[1].ended = Some("failed".to_owned()));
    finds("delivery b ended as None", |run| run.events[1].ended = None);
}

#[test]
fn a_node_that_ended_by_itself_is_found() {
    finds("node 1 ended by itself", |run| run.log.complaints.push("node 1 ended by itself".to_owned()));
}
