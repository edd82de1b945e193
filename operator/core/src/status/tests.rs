//! From a decision, which is data, to what people read.

use super::*;
use crate::facets::{Check, Drift, DriftKind, Rung, services};
use crate::plan::evidence::Demanded;
use crate::plan::{Next, WATCH};
use crate::seen::{Reason, Unknown};
use binder_crds::BinderHostSpec;
use std::time::Duration;

fn now() -> Timestamp {
    "2026-11-22T14:00:00Z".parse().unwrap()
}

fn later() -> Timestamp {
    "2026-11-22T14:02:10Z".parse().unwrap()
}

/// The status that is made of what was found and reasoned.
fn told(mode: Mode, looked: &Looked, grounds: Grounds) -> BinderHostStatus {
    let spec = BinderHostSpec { address: "192.0.2.1".into(), ..BinderHostSpec::default() };
    let host = Host {
        name: "web",
        uid: "uid-1",
        generation: 3,
        spec: &spec,
        mode,
        suspended: Some("the fleet is suspended"),
        previous: &BinderHostStatus::default(),
        demanded: &Demanded::default(),
    };
    let decision =
        Decision { finish: Vec::new(), next: Next::Nothing, look_again: WATCH, demanded: Demanded::default(), grounds };
    of(&host, looked, &decision, &FleetView::default(), now())
}

fn seen(mode: Mode, grounds: Grounds) -> BinderHostStatus {
    told(mode, &Looked::Seen(Box::new(Observation::nothing(now()))), grounds)
}

fn drift(kind: DriftKind, subject: Subject) -> Drift {
    let (short, evidence) = (format!("{subject}: not running"), format!("pm2 does not hold {subject}"));
    Drift { kind, subject, short, evidence }
}

fn web() -> Drift {
    drift(DriftKind::ProcessMissing, Subject::named("web"))
}

fn start(component: &str) -> Rung {
    let start = crate::catalogue::Start::Server { name: component.to_owned() };
    let step = services::Step::StartProcess { component: component.to_owned(), start, path: None };
    Rung::new(step, Duration::from_secs(60))
}

fn candidate(drift: Drift, rung: Option<Rung>, blocked: Option<BlockedBy>) -> Candidate {
    Candidate { drift, rung, made: 0, allowed: 3, blocked }
}

fn checked(condition: &'static str, result: Result<Check, Unknown>) -> Checked {
    Checked { condition, result, due: Vec::new() }
}

/// A host whose services differ, with the steps to come.
fn differs(candidates: Vec<Candidate>) -> Grounds {
    let drifts = candidates.iter().map(|candidate| candidate.drift.clone()).collect();
    let checks = vec![checked(types::SERVICES_RUNNING, Ok(Check { drifts, ..Check::default() }))];
    Grounds { checks, candidates, ..Grounds::default() }
}

fn condition<'s>(status: &'s BinderHostStatus, kind: &str) -> (&'s str, &'s str) {
    find(status, kind).map_or(("", ""), |found| (found.status.as_str(), found.reason.as_str()))
}

/// The columns of `kubectl get bh`: what differs, what comes next, what that waits for.
fn columns(status: &BinderHostStatus) -> [&str; 3] {
    [&status.drift, &status.next, &status.waits_for]
}

#[test]
fn what_differs_is_in_the_columns_with_what_comes_next_and_what_that_waits_for() {
    let order = BlockedBy::Order { what: "db on tester".to_owned() };
    let used_up = BlockedBy::Attempts { made: 3 };
    let health = drift(DriftKind::ProcessMissing, Subject::named("health"));
    let of = |blocked| differs(vec![candidate(web(), Some(start("web")), blocked)]);
    for (what, grounds, expected, stalled, reconciling) in [
        ("runs now", of(None), ["web: not running", "start web (1/3)", ""], "", "Remedying"),
        ("waits", of(Some(order.clone())), ["web: not running", "start web (1/3)", "db on tester"], "", "Remedying"),
        (
            "used up",
            of(Some(used_up)),
            ["web: not running", "start web (1/3)", "a person: 3 attempts are used up"],
            "AttemptsUsedUp",
            "",
        ),
        (
            "no remedy",
            differs(vec![candidate(web(), None, None)]),
            ["web: not running", "", "a person"],
            "NeedsPerson",
            "",
        ),
        (
            "two of them",
            differs(vec![
                candidate(web(), Some(start("web")), None),
                candidate(health, Some(start("health")), Some(order)),
            ]),
            ["web: not running (+1)", "start web (1/3)", ""],
            "",
            "Remedying",
        ),
    ] {
        let status = seen(Mode::Enforce, grounds);
        assert_eq!(columns(&status), expected, "{what}");
        assert_eq!(condition(&status, types::HEALTHY), ("False", "Drifted"), "{what}");
        assert_eq!(condition(&status, types::STALLED).1, stalled, "{what}");
        assert_eq!(condition(&status, types::RECONCILING).1, reconciling, "{what}");
        assert!(status.summary.starts_with("Not as described: pm2 does not hold web"), "{what}: {}", status.summary);
    }
}

#[test]
fn what_is_well_on_its_way_or_not_seen_is_told_apart() {
    let fine = Check { as_described: "web under pm2, once each".to_owned(), ..Check::default() };
    let progressing = vec![(Subject::named("web"), "web is starting".to_owned())];
    let blind = Unknown { reason: Reason::ProbeTimedOut, message: "pm2 took too long".to_owned() };
    for (result, expected, healthy, summary) in [
        (Ok(fine), ["", "", ""], ("True", "AsDescribed"), "As described."),
        (
            Ok(Check { progressing, ..Check::default() }),
            ["web is starting", "", "startup to finish"],
            ("False", "Progressing"),
            "Starting: web is starting.",
        ),
        (
            Err(blind),
            ["ServicesRunning not seen: ProbeTimedOut", "", ""],
            ("Unknown", "NotAllSeen"),
            "No drift found, but not all checks could run: pm2 took too long.",
        ),
    ] {
        let checks = vec![checked(types::SERVICES_RUNNING, result)];
        let status = seen(Mode::Enforce, Grounds { checks, ..Grounds::default() });
        assert_eq!(columns(&status), expected);
        assert_eq!(condition(&status, types::HEALTHY), healthy);
        assert_eq!(status.summary, summary);
    }
}

#[test]
fn a_host_that_is_only_observed_is_neither_stalled_nor_worked_on() {
    let grounds = differs(vec![candidate(web(), Some(start("web")), Some(BlockedBy::Observe))]);
    let status = seen(Mode::Observe, grounds);
    assert_eq!(columns(&status), ["web: not running", "start web (1/3)", "mode Enforce"]);
    assert_eq!(condition(&status, types::REMEDIATION_ALLOWED), ("False", "ModeObserve"));
    assert_eq!((condition(&status, types::STALLED).0, condition(&status, types::RECONCILING).0), ("", ""));
}

#[test]
fn a_chore_that_is_due_is_a_step_and_no_difference() {
    let due = drift(DriftKind::BackupDue, Subject::Backup);
    let step = crate::facets::backups::Step::BackUp {
        place: crate::catalogue::Place { port: 27017, name: "binder".to_owned() },
        last: None,
    };
    let checks = vec![Checked { condition: types::BACKED_UP, result: Ok(Check::default()), due: vec![due.clone()] }];
    let rung = Rung::new(step, Duration::from_secs(60));
    let status = seen(
        Mode::Enforce,
        Grounds { checks, candidates: vec![candidate(due, Some(rung), None)], ..Grounds::default() },
    );
    assert_eq!(columns(&status), ["", "back up the database (1/3)", ""]);
    assert_eq!(condition(&status, types::HEALTHY), ("True", "AsDescribed"));
    assert_eq!(condition(&status, types::BACKED_UP), ("True", "BackupDue"));
    assert_eq!(status.plan.len(), 1);
}

fn failure(kind: FailureKind) -> Looked {
    Looked::Failed(LookFailure {
        reason: "Unreachable",
        message: "192.0.2.1:22 cannot be reached".to_owned(),
        kind,
        not_before: None,
    })
}

#[test]
fn why_a_host_is_not_seen_says_who_must_act() {
    let refused = || FailureKind::Refused { public_key: "ssh-ed25519 AAAA operator".to_owned() };
    let silent = drift(DriftKind::HostSilent, Subject::Machine);
    let cycle = Rung::new(crate::facets::machine::Step::PowerCycle { boot_id: None }, Duration::from_secs(300));
    let witness = BlockedBy::Witness { what: "another host".to_owned() };
    let step = candidate(silent, Some(cycle), Some(witness));
    let since = "since 14:00:00Z";
    for (kind, candidates, expected, stalled) in [
        (FailureKind::Person, vec![], ["192.0.2.1:22 cannot be reached", "", "a person"], "Unreachable"),
        (refused(), vec![], ["192.0.2.1:22 cannot be reached", "", "a person"], "Unreachable"),
        (FailureKind::Passing, vec![], [&format!("not seen {since}")[..], "look again", "the host to answer"], ""),
        (FailureKind::Silent, vec![], [&format!("no answer {since}")[..], "look again", "the host to answer"], ""),
        (
            FailureKind::Silent,
            vec![step],
            ["machine: not running", "power-cycle the machine (1/3)", "another host"],
            "",
        ),
    ] {
        let status = told(Mode::Enforce, &failure(kind.clone()), Grounds { candidates, ..Grounds::default() });
        assert_eq!(columns(&status), expected, "{kind:?}");
        assert_eq!(condition(&status, types::STALLED).1, stalled, "{kind:?}");
        assert_eq!(condition(&status, types::HEALTHY), ("Unknown", "Unreachable"), "{kind:?}");
        assert_eq!(condition(&status, types::REACHABLE), ("False", "Unreachable"), "{kind:?}");
    }
}

#[test]
fn what_a_person_can_do_about_a_refused_login_is_said_in_place_of_the_bare_failure() {
    let looked = failure(FailureKind::Person);
    let Looked::Failed(bare) = looked.clone() else { panic!("{looked:?}") };
    let by_hand = LookFailure { message: format!("{}; put this line there", bare.message), ..bare };
    let status = told(Mode::Enforce, &looked, Grounds { failure: Some(by_hand), ..Grounds::default() });
    assert_eq!(status.drift, "192.0.2.1:22 cannot be reached; put this line there");
}

#[test]
fn a_suspended_host_says_so_and_nothing_else() {
    let status = told(Mode::Enforce, &Looked::Suspended, differs(vec![candidate(web(), Some(start("web")), None)]));
    assert_eq!(columns(&status), ["", "", "spec.suspend: false"]);
    assert_eq!(condition(&status, types::HEALTHY), ("Unknown", "Suspended"));
    assert_eq!(status.summary, "Not looked at: the fleet is suspended.");
    assert!(status.plan.is_empty());
}

fn attempt(outcome: Option<ActionOutcome>, said: &str) -> Attempt {
    let step = start("web").step;
    Attempt {
        name: "web-1".to_owned(),
        uid: String::new(),
        kind: step.kind().to_owned(),
        subject: "web".to_owned(),
        words: step.words(),
        step: Some(step),
        attempt: 1,
        created: now(),
        deadline: later(),
        sent_at: Some(now()),
        said: said.to_owned(),
        outcome,
        finished_at: outcome.map(|_| now()),
        message: "no effect in time".to_owned(),
    }
}

#[test]
fn an_attempt_that_did_not_help_is_told_with_its_own_words_and_one_that_did_is_not() {
    let used_up = || differs(vec![candidate(web(), Some(start("web")), Some(BlockedBy::Attempts { made: 3 }))]);
    for (outcome, listed, blamed) in [
        (Some(ActionOutcome::Failed), "Failed", true),
        (Some(ActionOutcome::Unknown), "Unknown", true),
        (Some(ActionOutcome::Succeeded), "Succeeded", false),
    ] {
        let memory = History { actions: vec![attempt(outcome, "no such file")] };
        let status = seen(Mode::Enforce, Grounds { memory, ..used_up() });
        assert_eq!(status.last_actions[0].outcome, listed);
        let message = |kind| find(&status, kind).map(|found| found.message.as_str()).unwrap_or_default();
        assert_eq!(message(types::STALLED).contains("the last one said: no such file"), blamed, "{listed}");
        let services = "attempt 1 (start web) failed (it said: no such file)";
        assert_eq!(message(types::SERVICES_RUNNING).contains(services), blamed, "{listed}");
    }
}

#[test]
fn everything_that_blocks_a_step_has_words() {
    let (until, what) = (later(), || "db is down".to_owned());
    for (blocked, words) in [
        (BlockedBy::Suspended, "spec.suspend: false"),
        (BlockedBy::Observe, "mode Enforce"),
        (BlockedBy::Approval, "approval"),
        (BlockedBy::Held { what: what() }, "db is down"),
        (BlockedBy::Attempts { made: 2 }, "a person: 2 attempts are used up"),
        (BlockedBy::Order { what: what() }, "db is down"),
        (
            BlockedBy::TakingEffect { step: "start web".to_owned(), until },
            "the effect of \"start web\" until 14:02:10Z",
        ),
        (BlockedBy::RetryPeriod { until }, "retry at 14:02:10Z"),
        (BlockedBy::Unwarranted { what: what() }, "db is down"),
        (
            BlockedBy::PerDay { done: 1, until: Some(until) },
            "a person, or 2026-11-22 14:02Z: the machine was restarted 1 times within 24 hours, as often as \
             remedies.perDay allows",
        ),
        (BlockedBy::MayPass { until }, "recovery without a step, until 14:02:10Z"),
        (BlockedBy::Booting { until }, "the machine to finish booting, until 14:02:10Z"),
        (BlockedBy::Witness { what: what() }, "db is down"),
        (BlockedBy::SecondLook, "a second look that shows the same"),
        (BlockedBy::Window { opens: Some(until) }, "the window that opens at 2026-11-22 14:02Z"),
        (BlockedBy::Window { opens: None }, "a window, and none that is described ever opens"),
        (BlockedBy::Budget { what: what() }, "db is down"),
    ] {
        assert_eq!(blocked_words(&blocked), words);
    }
}
