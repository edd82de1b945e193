//! What people read: conditions, summary, plan. Every line is about the owner's world (ports, services, disks), in words
//! that a person searches the runbook for.
//!
//! Pure. Made of a [`Decision`], which is data; nothing is decided here. The same facts give the same words: nothing here changes by the passing of time alone, so that a converged fleet
//! writes nothing.

mod database;
pub mod events;
pub mod failed;
pub mod fleet;

pub use crate::conditions;
use crate::facets::Subject;
use crate::gate::BlockedBy;
use crate::plan::clock as clock_rules;
use crate::plan::memory::{Attempt, FleetView, History};
use crate::plan::{Candidate, Checked, Decision, FailureKind, Grounds, Host, LookFailure, Looked, outage};
use crate::seen::Observation;
use crate::words::{shorten, time_of_day};
use binder_crds::conditions as types;
use binder_crds::host::{PastAction, PlannedStep, ProvenAt};
use binder_crds::{ActionOutcome, BinderHostStatus, Mode};
use conditions::{Conditions, Is, find};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// How many attempts a status shows.
const LAST_ACTIONS: usize = 5;
/// How many steps a status shows.
const LONGEST_PLAN: usize = 16;

/// What a status is made of.
struct Story<'a> {
    host: &'a Host<'a>,
    grounds: &'a Grounds,
    fleet: &'a FleetView,
    /// The operator's clock.
    now: Timestamp,
}

/// The status of a host, by what was decided at a look and what that rests on.
pub fn of(
    host: &Host<'_>,
    looked: &Looked,
    decision: &Decision,
    fleet: &FleetView,
    now: Timestamp,
) -> BinderHostStatus {
    let story = Story { host, grounds: &decision.grounds, fleet, now };
    match looked {
        Looked::Seen(seen) => self::seen(&story, seen),
        Looked::Failed(failure) => not_seen(&story, decision.grounds.failure.as_ref().unwrap_or(failure)),
        Looked::Suspended => suspended(&story),
    }
}

/// The status of a host that was seen.
fn seen(story: &Story<'_>, seen: &Observation) -> BinderHostStatus {
    let Story { host, grounds, .. } = *story;
    let Grounds { checks, candidates, .. } = grounds;
    // A task that is due is a step to come, and no difference.
    let drifts: Vec<&Candidate> = candidates.iter().filter(|candidate| !candidate.drift.kind.is_scheduled()).collect();
    let checked = checks.len();
    let blind: Vec<&Checked> = checks.iter().filter(|checked| checked.result.is_err()).collect();
    let progressing: Vec<&str> = checks
        .iter()
        .filter_map(|checked| checked.result.as_ref().ok())
        .flat_map(|check| check.progressing.iter().map(|(_, why)| why.as_str()))
        .collect();

    let mut list = Conditions::new(&host.previous.conditions, host.generation, story.now);
    list.set(types::READY, Is::True, "Applied", format!("generation {} is acted on", host.generation));
    let healthy = healthy(&drifts, &blind, &progressing, checked);
    list.set(types::HEALTHY, healthy.0, healthy.1, healthy.2);
    let (is, reason, message) = remediation(host, story.fleet);
    list.set(types::REMEDIATION_ALLOWED, is, reason, message);
    if !drifts.is_empty() {
        held(&mut list, story.fleet);
    }
    let stalled = stalled(&drifts, grounds);
    let working =
        drifts.iter().any(|candidate| !candidate.is_hopeless() && candidate.blocked != Some(BlockedBy::Observe));
    if let Some((reason, message)) = &stalled {
        list.set(types::STALLED, Is::True, reason, message.clone());
    } else if (working || !progressing.is_empty()) && host.mode > Mode::Observe {
        let message = drifts
            .iter()
            .find(|candidate| candidate.rung.is_some())
            .map_or_else(|| progressing.first().copied().unwrap_or_default().to_owned(), |next| next_words(next));
        list.set(types::RECONCILING, Is::True, if drifts.is_empty() { "Progressing" } else { "Remedying" }, message);
    }
    list.set(types::REACHABLE, Is::True, "LoggedIn", "answers over SSH with its pinned host key");
    if let Some(off) = clock_rules::message(seen) {
        list.set(types::CLOCK_IN_SYNC, Is::False, clock_rules::CLOCK_OFF, off);
    }
    another_machine(&mut list, host, story.fleet);
    for checked in checks {
        facet(&mut list, checked, grounds);
    }

    let first = candidates
        .iter()
        .find(|candidate| candidate.rung.is_some() && candidate.blocked.is_none())
        .or_else(|| candidates.iter().find(|candidate| candidate.rung.is_some()));
    BinderHostStatus {
        observed_generation: host.generation,
        summary: summary(&drifts, &blind, &progressing),
        drift: column(&drifts, &blind, &progressing),
        next: first.map(next_words).unwrap_or_default(),
        waits_for: match first {
            Some(candidate) => candidate.blocked.as_ref().map(blocked_words).unwrap_or_default(),
            None if !drifts.is_empty() => match drifts.iter().all(|drift| drift.blocked.is_some()) {
                true => drifts[0].blocked.as_ref().map(blocked_words).unwrap_or_default(),
                false => "a person".to_owned(),
            },
            None if blind.is_empty() && !progressing.is_empty() => "startup to finish".to_owned(),
            None => String::new(),
        },
        conditions: list.list(),
        plan: plan(candidates),
        last_actions: last_actions(&grounds.memory),
        boot_id: seen.boot_id().map(str::to_owned),
        drift_since: grounds.since.clone(),
        has_run: grounds.has_run.clone(),
        incident_since: grounds.incident.map(Time),
        proven_at: Some(ProvenAt {
            greets: story.fleet.outage.greets.iter().cloned().collect(),
            ..outage::endpoint(story.host.spec)
        }),
        schedules: grounds.schedules.clone(),
        database: database::status(host, seen),
        refused_login: None,
    }
}

/// The status of a host that could not be looked at.
fn not_seen(story: &Story<'_>, failure: &LookFailure) -> BinderHostStatus {
    let Story { host, grounds, fleet, now } = *story;
    let Grounds { candidates, memory, incident, since: began, .. } = grounds;
    let step = candidates.iter().find(|candidate| candidate.rung.is_some());
    let needs_person = match failure.kind {
        FailureKind::Person => true,
        FailureKind::Refused { .. } => step.is_none(),
        FailureKind::Silent | FailureKind::Passing => false,
    };
    let restart_held = step
        .and_then(|step| step.blocked.as_ref())
        .filter(|blocked| matches!(blocked, BlockedBy::Unwarranted { .. } | BlockedBy::PerDay { .. }));
    let used_up = step.filter(|step| matches!(step.blocked, Some(BlockedBy::Attempts { .. })));
    let evidence = candidates.first().map_or(failure.message.as_str(), |candidate| candidate.drift.evidence.as_str());
    let mut list = Conditions::new(&host.previous.conditions, host.generation, now);
    list.set(types::READY, Is::False, failure.reason, failure.message.clone());
    list.set(types::HEALTHY, Is::Unknown, failure.reason, format!("not seen: {evidence}"));
    let (is, reason, message) = if needs_person {
        (Is::False, failure.reason, "nothing is done to a host before its identity is certain".to_owned())
    } else {
        remediation(host, fleet)
    };
    list.set(types::REMEDIATION_ALLOWED, is, reason, message);
    held(&mut list, fleet);
    if needs_person {
        list.set(types::STALLED, Is::True, failure.reason, failure.message.clone());
    } else if let Some(used_up) = used_up {
        let page = used_up.drift.kind.runbook();
        let what = used_up.rung.as_ref().map(|rung| rung.step.words()).unwrap_or_default();
        let message = format!("to {what} did not help: {evidence}. A person is needed, see docs/runbook/{page}.md");
        list.set(types::STALLED, Is::True, "AttemptsUsedUp", message);
    } else if let Some(held) = restart_held {
        let message = format!("{evidence}. To restart the machine waits for {}", blocked_words(held));
        list.set(types::STALLED, Is::True, "RestartHeld", message);
    } else {
        list.set(types::RECONCILING, Is::True, failure.reason, "retrying with growing pauses");
    }
    list.set(types::REACHABLE, Is::False, failure.reason, failure.message.clone());
    another_machine(&mut list, host, fleet);
    for facet in crate::facets::FACETS.iter().filter(|facet| facet.in_use(&host.spec.desired)) {
        list.set(facet.condition(), Is::Unknown, "NotSeen", "the host could not be looked at");
    }
    let list = list.list();
    let since = list
        .iter()
        .find(|condition| condition.type_ == types::REACHABLE)
        .map(|condition| time_of_day(condition.last_transition_time.0))
        .unwrap_or_default();
    BinderHostStatus {
        observed_generation: host.generation,
        summary: shorten(&format!("Not seen: {evidence}."), 400),
        drift: match candidates.first() {
            Some(candidate) => candidate.drift.short.clone(),
            None if needs_person => failure.message.clone(),
            None if failure.kind == FailureKind::Passing => format!("not seen since {since}"),
            None => format!("no answer since {since}"),
        },
        next: match step {
            Some(step) => next_words(step),
            None if needs_person => String::new(),
            None => "look again".to_owned(),
        },
        waits_for: match step {
            Some(step) => step.blocked.as_ref().map(blocked_words).unwrap_or_default(),
            None if needs_person => "a person".to_owned(),
            None if candidates.iter().any(|candidate| candidate.blocked.is_some()) => candidates
                .iter()
                .find_map(|candidate| candidate.blocked.as_ref())
                .map(blocked_words)
                .unwrap_or_default(),
            None => "the host to answer".to_owned(),
        },
        conditions: list,
        plan: plan(candidates),
        last_actions: last_actions(memory),
        boot_id: host.previous.boot_id.clone(),
        drift_since: began.clone(),
        has_run: host.previous.has_run.clone(),
        incident_since: incident.map(Time),
        proven_at: outage::proven(host.previous.proven_at.as_ref(), host.spec).cloned(),
        schedules: host.previous.schedules.clone(),
        database: host.previous.database.clone(),
        refused_login: None,
    }
}

/// Says that the cloud knows the described instance by no address of the host's.
fn another_machine(list: &mut Conditions, host: &Host<'_>, fleet: &FleetView) {
    if let Some(mismatch) = outage::mismatch(host, &fleet.outage) {
        let message = format!("{mismatch}. Nothing is done through the cloud");
        list.set(types::INSTANCE_MISMATCH, Is::True, "OtherAddress", message);
    }
}

/// The status of a host that is not looked at because host or fleet is suspended.
fn suspended(story: &Story<'_>) -> BinderHostStatus {
    let Story { host, grounds: Grounds { memory, incident, .. }, now, .. } = *story;
    let why = host.suspended.unwrap_or("it is suspended");
    let mut list = Conditions::new(&host.previous.conditions, host.generation, now);
    list.set(types::READY, Is::True, "Suspended", format!("{why}: neither looked at nor acted on"));
    list.set(types::HEALTHY, Is::Unknown, "Suspended", format!("{why}: not looked at"));
    list.set(types::REMEDIATION_ALLOWED, Is::False, "Suspended", why);
    BinderHostStatus {
        observed_generation: host.generation,
        summary: format!("Not looked at: {why}."),
        drift: String::new(),
        next: String::new(),
        waits_for: "spec.suspend: false".to_owned(),
        conditions: list.list(),
        plan: Vec::new(),
        last_actions: last_actions(memory),
        boot_id: host.previous.boot_id.clone(),
        drift_since: Vec::new(),
        has_run: host.previous.has_run.clone(),
        incident_since: incident.map(Time),
        proven_at: outage::proven(host.previous.proven_at.as_ref(), host.spec).cloned(),
        schedules: host.previous.schedules.clone(),
        database: host.previous.database.clone(),
        refused_login: None,
    }
}

fn healthy(
    drifts: &[&Candidate],
    blind: &[&Checked],
    progressing: &[&str],
    checked: usize,
) -> (Is, &'static str, String) {
    if !drifts.is_empty() {
        let things = if drifts.len() == 1 { "1 thing is".to_owned() } else { format!("{} things are", drifts.len()) };
        return (Is::False, "Drifted", format!("{things} not as described"));
    }
    if let Some(first) = blind.first() {
        let why = first.result.as_ref().err().map(|blind| blind.message.clone()).unwrap_or_default();
        return (Is::Unknown, "NotAllSeen", format!("{} of {checked} checks could not be made: {why}", blind.len()));
    }
    if let Some(first) = progressing.first() {
        return (Is::False, "Progressing", (*first).to_owned());
    }
    match checked {
        0 => (Is::True, "AsDescribed", "it answers; nothing more is described that this version checks".to_owned()),
        1 => (Is::True, "AsDescribed", "the 1 check agrees".to_owned()),
        more => (Is::True, "AsDescribed", format!("all {more} checks agree")),
    }
}

fn remediation(host: &Host<'_>, fleet: &FleetView) -> (Is, &'static str, String) {
    if let Some(missing) = &fleet.missing_fleet {
        let message = format!(
            "only observed: the host names the fleet {missing}, which does not govern it or is not there; make that fleet \
             again, or take the host's label {} and its ownerReference away",
            binder_crds::FLEET_LABEL
        );
        return (Is::False, "FleetMissing", message);
    }
    let whose = fleet.fleet.as_ref().map_or_else(|| "no fleet".to_owned(), |fleet| format!("fleet {fleet}"));
    match host.mode {
        Mode::Observe => (
            Is::False,
            "ModeObserve",
            format!("mode Observe ({whose}): dry run, planned steps are not executed; set mode: Enforce to act"),
        ),
        Mode::Approve => {
            (Is::False, "ModeApprove", format!("mode Approve ({whose}): every step waits for a person's approval"))
        }
        Mode::Enforce => (Is::True, "ModeEnforce", format!("mode Enforce ({whose})")),
    }
}

/// That the fleet's brake holds, on a host that differs or is not seen: where somebody looks who waits for a step.
fn held(list: &mut Conditions<'_>, fleet: &FleetView) {
    if let (Some(held), Some(name)) = (&fleet.held, &fleet.fleet) {
        list.set(types::REMEDIATION_HELD, Is::True, held.reason, fleet::held_message(held, name));
    }
}

/// Nothing more will be tried for at least one drift, and nothing else can be done meanwhile that might cure it.
fn stalled(drifts: &[&Candidate], grounds: &Grounds) -> Option<(&'static str, String)> {
    let hopeless = |candidate: &&&Candidate| match &candidate.blocked {
        // What is explained by something else that is not in place waits for that.
        Some(blocked) => blocked.is_final(),
        None => candidate.rung.is_none(),
    };
    let first = drifts.iter().find(hopeless)?;
    // While another remedy is still possible, the host is not given up.
    let possible = drifts.iter().any(|candidate| {
        !candidate.is_hopeless() && !matches!(candidate.blocked, Some(BlockedBy::Order { .. } | BlockedBy::Observe))
    });
    if possible {
        return None;
    }
    let page = format!("docs/runbook/{}.md", first.drift.kind.runbook());
    Some(match &first.blocked {
        Some(BlockedBy::Attempts { made }) => (
            "AttemptsUsedUp",
            format!(
                "{made} attempts did not fix it: {}{}. A person is needed, see {page}",
                first.drift.evidence,
                last_words(first, grounds)
            ),
        ),
        Some(blocked @ (BlockedBy::Unwarranted { .. } | BlockedBy::PerDay { .. })) => (
            "RestartHeld",
            format!(
                "{}{}. What is left is to restart the machine, and that waits for {}. See {page}",
                first.drift.evidence,
                last_words(first, grounds),
                blocked_words(blocked)
            ),
        ),
        _ => (
            "NeedsPerson",
            format!("{}. No step is allowed for it: a person is needed, see {page}", first.drift.evidence),
        ),
    })
}

/// What the last attempt that did not help said itself: where the cause often is, and otherwise only in the BinderAction.
fn last_words(candidate: &Candidate, grounds: &Grounds) -> String {
    let Some(rung) = &candidate.rung else { return String::new() };
    let attempts = grounds.memory.attempts(&rung.step, &candidate.drift.subject, grounds.incident);
    let failed = attempts.filter(|past| past.outcome != Some(ActionOutcome::Succeeded) && !past.said.is_empty()).last();
    failed
        .map(|past| format!("; the last one said: {}", shorten(past.said.trim_end_matches('.'), 160)))
        .unwrap_or_default()
}

fn facet(list: &mut Conditions<'_>, checked: &Checked, grounds: &Grounds) {
    let check = match &checked.result {
        Err(blind) => {
            list.set(checked.condition, Is::Unknown, blind.reason.as_str(), blind.message.clone());
            return;
        }
        Ok(check) => check,
    };
    let Some(first) = check.drifts.first() else {
        match (check.progressing.first(), checked.due.first()) {
            (Some(_), _) => {
                let why: Vec<&str> = check.progressing.iter().map(|(_, why)| why.as_str()).collect();
                list.set(checked.condition, Is::False, "Progressing", why.join("; "));
            }
            // That something is due is no fault of what is described.
            (None, Some(due)) => list.set(checked.condition, Is::True, due.kind.as_str(), due.evidence.clone()),
            (None, None) => list.set(checked.condition, Is::True, "AsDescribed", check.as_described.clone()),
        }
        return;
    };
    let held = |subject: &Subject| {
        grounds.candidates.iter().find(|candidate| candidate.drift.subject == *subject).and_then(|candidate| {
            match &candidate.blocked {
                Some(BlockedBy::Order { what }) => Some(what.as_str()),
                _ => None,
            }
        })
    };
    let parts: Vec<String> = check
        .drifts
        .iter()
        .map(|drift| {
            let waits = held(&drift.subject).map(|what| format!(", and waits for {what}")).unwrap_or_default();
            let tried = tried(&grounds.memory, &drift.subject, grounds.incident).unwrap_or_default();
            format!("{}{waits}{tried}", drift.evidence)
        })
        .collect();
    // What only takes its turn after another step is no less a difference of its own.
    let all_held =
        check.drifts.iter().all(|drift| held(&drift.subject).is_some() && drift.kind.explained_by_dependency());
    let reason = if all_held { "HeldBack" } else { first.kind.as_str() };
    list.set(checked.condition, Is::False, reason, parts.join("; "));
}

/// What came of the last attempt at a subject, if it was no good.
fn tried(memory: &History, subject: &Subject, since: Option<Timestamp>) -> Option<String> {
    let subject = subject.to_string();
    let last = memory
        .actions
        .iter()
        .rev()
        .find(|past| past.subject == subject && since.is_none_or(|since| past.created >= since))?;
    let outcome = last.outcome?;
    if outcome == ActionOutcome::Succeeded || outcome == ActionOutcome::Abandoned {
        return None;
    }
    let said = if last.said.is_empty() { String::new() } else { format!(" (it said: {})", shorten(&last.said, 200)) };
    Some(format!("; attempt {} ({}) failed{said}", last.attempt, last.words))
}

fn summary(drifts: &[&Candidate], blind: &[&Checked], progressing: &[&str]) -> String {
    let Some(first) = drifts.first() else {
        if let Some(first) = blind.first() {
            let why = first.result.as_ref().err().map(|blind| blind.message.clone()).unwrap_or_default();
            return format!("No drift found, but not all checks could run: {why}.");
        }
        return match progressing.first() {
            Some(first) => format!("Starting: {first}."),
            None => "As described.".to_owned(),
        };
    };
    let held: Vec<String> = drifts
        .iter()
        .skip(1)
        .filter(|candidate| matches!(candidate.blocked, Some(BlockedBy::Order { .. })))
        .map(|candidate| candidate.drift.subject.to_string())
        .collect();
    let others = drifts.len() - 1 - held.len();
    let mut words = format!("Not as described: {}", first.drift.evidence);
    if !held.is_empty() {
        words.push_str(&format!(
            ", so {} {} held back",
            held.join(" and "),
            if held.len() == 1 { "is" } else { "are" }
        ));
    }
    if others > 0 {
        words.push_str(&format!("; and {others} more"));
    }
    words.push('.');
    shorten(&words, 400)
}

fn column(drifts: &[&Candidate], blind: &[&Checked], progressing: &[&str]) -> String {
    match (drifts.first(), blind.first()) {
        (Some(first), _) if drifts.len() > 1 => format!("{} (+{})", first.drift.short, drifts.len() - 1),
        (Some(first), _) => first.drift.short.clone(),
        (None, Some(first)) => {
            let reason = first.result.as_ref().err().map_or("", |blind| blind.reason.as_str());
            format!("{} not seen: {reason}", first.condition)
        }
        (None, None) => progressing.first().map(|why| (*why).to_owned()).unwrap_or_default(),
    }
}

fn next_words(candidate: &Candidate) -> String {
    match &candidate.rung {
        Some(rung) => {
            let attempt = (candidate.made + 1).min(candidate.allowed);
            format!("{} ({attempt}/{})", rung.step.words(), candidate.allowed)
        }
        None => String::new(),
    }
}

/// What blocks a step, in a few words.
pub fn blocked_words(blocked: &BlockedBy) -> String {
    match blocked {
        BlockedBy::Suspended => "spec.suspend: false".to_owned(),
        BlockedBy::Observe => "mode Enforce".to_owned(),
        BlockedBy::Approval => "approval".to_owned(),
        BlockedBy::Attempts { made } => format!("a person: {made} attempts are used up"),
        BlockedBy::Order { what } => what.clone(),
        BlockedBy::TakingEffect { step, until } => format!("the effect of \"{step}\" until {}", time_of_day(*until)),
        BlockedBy::RetryPeriod { until } => format!("retry at {}", time_of_day(*until)),
        BlockedBy::Unwarranted { what } => what.clone(),
        BlockedBy::PerDay { done, until } => {
            let again = until.map(|until| format!(", or {}", until.strftime("%Y-%m-%d %H:%MZ"))).unwrap_or_default();
            format!(
                "a person{again}: the machine was restarted {done} times within 24 hours, as often as remedies.perDay allows"
            )
        }
        BlockedBy::MayPass { until } => format!("recovery without a step, until {}", time_of_day(*until)),
        BlockedBy::Booting { until } => format!("the machine to finish booting, until {}", time_of_day(*until)),
        BlockedBy::SecondLook => "a second look that shows the same".to_owned(),
        BlockedBy::Window { opens: Some(opens) } => {
            format!("the window that opens at {}", opens.strftime("%Y-%m-%d %H:%MZ"))
        }
        BlockedBy::Window { opens: None } => "a window, and none that is described ever opens".to_owned(),
        BlockedBy::Held { what } | BlockedBy::Witness { what } | BlockedBy::Budget { what } => what.clone(),
    }
}

fn plan(candidates: &[Candidate]) -> Vec<PlannedStep> {
    candidates
        .iter()
        .filter_map(|candidate| candidate.rung.as_ref().map(|rung| (candidate, rung)))
        .take(LONGEST_PLAN)
        .map(|(candidate, rung)| PlannedStep {
            step: rung.step.words(),
            attempt: format!("{} of {}", (candidate.made + 1).min(candidate.allowed), candidate.allowed),
            waits_for: candidate.blocked.as_ref().map(blocked_words).unwrap_or_default(),
        })
        .collect()
}

fn last_actions(memory: &History) -> Vec<PastAction> {
    let told = |past: &Attempt| PastAction {
        name: past.name.clone(),
        step: format!("{} ({})", past.words, past.attempt),
        outcome: past.outcome.map_or("TakingEffect", ActionOutcome::as_str).to_owned(),
        message: shorten(&past.message, 200),
    };
    memory.actions.iter().rev().take(LAST_ACTIONS).map(told).collect()
}

/// Whether a host is healthy, by its status; `None` when that is not known.
pub fn is_healthy(status: &BinderHostStatus) -> Option<bool> {
    match find(status, types::HEALTHY)?.status.as_str() {
        "True" => Some(true),
        "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests;
