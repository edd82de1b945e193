//! `decide`: from what is described, what was seen and what was tried to what is said and what is done next.
//!
//! Pure: no I/O, no clock, no randomness. It reads as a person's reasoning: what differs (the facets) - what came of what
//! is under way - what explains what and what comes first ([`order`]) - which rung ([`memory`]) - may we ([`crate::gate`]).
//! "Waiting" is data with a reason, not an error. It says no words to anybody: a [`Decision`] is data, and [`crate::status`]
//! makes a status of it.

pub mod brake;
pub mod candidates;
pub mod clock;
mod docker;
pub mod evidence;
pub mod memory;
pub mod order;
pub mod outage;
pub mod scheduled;
mod updates;
pub mod windows;
pub mod witness;

use crate::facets::{Check, Drift, Effect, FACETS, Later, Step};
use crate::gate::{BlockedBy, Permit};
use crate::seen::{Observation, Unknown};
use binder_crds::fleet::Purpose;
use binder_crds::host::{DriftSince, HasRun, ScheduleStatus};
use binder_crds::text::Span;
use binder_crds::{ActionOutcome, BinderHostSpec, BinderHostStatus, Mode, conditions};
pub use candidates::Candidate;
use candidates::{Reasoning, Weighed};
use evidence::Demanded;
use jiff::{SignedDuration, Timestamp};
use memory::{Attempt, FleetView, History};
use std::time::Duration;

/// A host as its object and its fleet describe it.
#[derive(Clone, Debug)]
pub struct Host<'a> {
    /// The object's name.
    pub name: &'a str,
    /// The object's UID.
    pub uid: &'a str,
    /// The generation of its spec.
    pub generation: i64,
    /// Its spec, with what it leaves to the fleet filled in.
    pub spec: &'a BinderHostSpec,
    /// The lower one of the fleet's and the host's mode.
    pub mode: Mode,
    /// Why nothing is looked at, if so: `the fleet is suspended`.
    pub suspended: Option<&'a str>,
    /// Its status as it was last written.
    pub previous: &'a BinderHostStatus,
    /// The steps that the last look led to.
    pub demanded: &'a Demanded,
}

/// The result of a look.
#[derive(Clone, Debug, PartialEq)]
pub enum Looked {
    /// The host was seen.
    Seen(Box<Observation>),
    /// It could not be: the condition's reason and message, and when to try again at the earliest.
    Failed(LookFailure),
    /// Nobody looked, since host or fleet is suspended.
    Suspended,
}

/// Why a host could not be looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookFailure {
    /// The reason of the condition `Reachable`, such as `HostKeyMismatch`.
    pub reason: &'static str,
    /// In the owner's words, clean. Holds nothing that changes from look to look.
    pub message: String,
    /// What it takes to end it.
    pub kind: FailureKind,
    /// When another attempt makes sense at the earliest.
    pub not_before: Option<Timestamp>,
}

impl LookFailure {
    /// What the time of a failure is counted by: silence is one state however it shows (a look without an answer, then a
    /// connection that does not come about), everything else is what its reason says.
    pub fn state(&self) -> &'static str {
        if self.kind == FailureKind::Silent { "Silent" } else { self.reason }
    }
}

/// What it takes to end a failure to look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// A person or a changed object. Never grounds for a heavier step.
    Person,
    /// The login was refused: the machine is alive, so this is never grounds for a restart. What is needed is the public
    /// half of our key on the machine.
    Refused {
        /// That half, as a line of `authorized_keys`.
        public_key: String,
    },
    /// Time, or somebody elsewhere: the machine answers and something on it is in the way, or the operator's own network or
    /// resolver knows no way to it. Says nothing of a machine's death, so it is never grounds for a step.
    Passing,
    /// Silence over SSH, and no word of anybody's that explains it: the machine may be dead. Whether it is, [`outage`] says.
    Silent,
}

/// One facet's result.
#[derive(Clone, Debug, PartialEq)]
pub struct Checked {
    /// The facet's condition.
    pub condition: &'static str,
    /// What it found, or why it could not see.
    pub result: Result<Check, Unknown>,
    /// Its scheduled that are due, each as the drift that stands for it.
    pub due: Vec<Drift>,
}

/// What to do.
#[derive(Debug, PartialEq)]
pub struct Decision {
    /// Attempts that have come to their end.
    pub finish: Vec<Finish>,
    /// The next step.
    pub next: Next,
    /// When to look again.
    pub look_again: Duration,
    /// The steps that this look led to, for the next one to confirm.
    pub demanded: Demanded,
    /// What it rests on.
    pub grounds: Grounds,
}

/// What a decision rests on, for whoever says it ([`crate::status::of`]).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Grounds {
    /// Why the host could not be looked at, with what a person can do where nothing else is left.
    pub failure: Option<LookFailure>,
    /// What each facet found.
    pub checks: Vec<Checked>,
    /// The steps to come, in the runbook's order.
    pub candidates: Vec<Candidate>,
    /// What was tried, with what has ended just now.
    pub memory: History,
    /// Since when attempts count.
    pub incident: Option<Timestamp>,
    /// What is done on a schedule.
    pub schedules: Vec<ScheduleStatus>,
    /// Since when what a restart of the machine may come of has been so.
    pub since: Vec<DriftSince>,
    /// What has run as it is described now.
    pub has_run: Vec<HasRun>,
}

/// The end of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finish {
    /// The BinderAction's name.
    pub action: String,
    /// How it ended.
    pub outcome: ActionOutcome,
    /// What was seen after.
    pub evidence: String,
    /// In one sentence.
    pub message: String,
}

/// The next step.
#[derive(Debug, PartialEq)]
pub enum Next {
    /// There is nothing to do.
    Nothing,
    /// This, now.
    Run(Box<Run>),
    /// This, but not yet, or only by a person.
    Wait(BlockedBy),
}

/// A step that may be done.
#[derive(Debug, PartialEq)]
pub struct Run {
    /// The gate's permit.
    pub permit: Permit,
    /// The step.
    pub step: Step,
    /// The drift that it is to cure.
    pub drift: Drift,
    /// Whether it disrupts something that works, or recovers what is dead: the budget counts accordingly.
    pub purpose: Purpose,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// How many are allowed.
    pub allowed: u32,
    /// By when its effect must be seen.
    pub deadline: Timestamp,
}

/// The shortest pause between two looks: what is under way is watched this closely.
pub const WATCH: Duration = Duration::from_secs(2);
/// The pause between two looks at a host with an open drift.
pub const DRIFTED: Duration = Duration::from_secs(10);
/// The pause between two looks at a healthy host, unless the spec says otherwise.
pub const USUAL: Duration = Duration::from_secs(30);

/// Decides.
pub fn decide(host: &Host<'_>, looked: &Looked, memory: &History, fleet: &FleetView, now: Timestamp) -> Decision {
    let seen = match looked {
        Looked::Seen(seen) => seen,
        Looked::Failed(failure) => return not_seen(host, failure, memory, fleet, now),
        Looked::Suspended => {
            let incident = incident_since(host.previous, Standing::Unknown, fleet, now);
            return Decision {
                finish: Vec::new(),
                next: Next::Wait(BlockedBy::Suspended),
                look_again: USUAL,
                demanded: Demanded::default(),
                grounds: Grounds { memory: memory.clone(), incident, ..Grounds::default() },
            };
        }
    };
    let told = docker::tell_refused(seen, memory);
    let seen = told.as_ref().unwrap_or(seen);
    let mut checks = what_differs(host, seen);
    let finish = what_came_of_it(memory, seen, &checks, now);
    let incident = incident_since(host.previous, Standing::of(&checks), fleet, now);
    // An attempt that ends with this look no longer blocks, and it counts with the outcome that it has now.
    let after = finished(memory, &finish, now);
    updates::tell(&mut checks, &host.spec.desired, updates::Tried { memory: &after, incident });
    let schedules = scheduled::due(FACETS, host, seen, &mut checks, &after, fleet.patience.attempts, now);
    let has_run = evidence::has_run(&host.spec.desired, &host.previous.has_run, &checks);
    let reasoning = Reasoning {
        host,
        memory: &after,
        fleet,
        incident,
        schedules: &schedules,
        seen: Some(seen),
        has_run: &has_run,
        now,
    };
    let Weighed { candidates, run, since, demanded } = reasoning.what_next(seen, &checks);
    let busy = after.open().next().is_some();
    let look_again = look_again(host, &checks, &candidates, &schedules, busy || run.is_some(), now);
    let next = match run {
        Some(run) => Next::Run(Box::new(run)),
        None => candidates.iter().find_map(|candidate| candidate.blocked.clone()).map_or(Next::Nothing, Next::Wait),
    };
    let grounds = Grounds { failure: None, checks, candidates, memory: after, incident, schedules, since, has_run };
    Decision { finish, next, look_again, demanded, grounds }
}

/// What differs: every facet in use, in order.
fn what_differs(host: &Host<'_>, seen: &Observation) -> Vec<Checked> {
    let desired = &host.spec.desired;
    FACETS
        .iter()
        .filter(|facet| facet.in_use(desired))
        .map(|facet| Checked { condition: facet.condition(), result: facet.check(desired, seen), due: Vec::new() })
        .collect()
}

/// What came of what is under way: each open attempt is judged by what this look saw.
fn what_came_of_it(memory: &History, seen: &Observation, checks: &[Checked], now: Timestamp) -> Vec<Finish> {
    let results: Vec<&Check> = checks.iter().filter_map(|checked| checked.result.as_ref().ok()).collect();
    memory.open().filter_map(|past| judge(past, seen, &results, now)).collect()
}

fn judge(past: &Attempt, seen: &Observation, checks: &[&Check], now: Timestamp) -> Option<Finish> {
    let finish = |outcome, evidence: String, message: String| {
        Some(Finish { action: past.name.clone(), outcome, evidence, message })
    };
    let Some(step) = &past.step else {
        let why = "recorded by a version that knew another kind of step".to_owned();
        return finish(ActionOutcome::Unknown, String::new(), why);
    };
    // Without a time of sending the intention may or may not have been carried out: its effect decides, as for any other.
    let since = past.sent_at.unwrap_or(past.created);
    let age = Duration::try_from(now.duration_since(since)).unwrap_or_default();
    let late = now >= past.deadline;
    match step.effect(&Later { seen, checks, age }) {
        Ok(Effect::Seen(evidence)) => {
            let message = if past.sent_at.is_some() {
                "its effect was seen"
            } else {
                "its effect was seen after a restart of the operator"
            };
            finish(ActionOutcome::Succeeded, evidence, message.to_owned())
        }
        Ok(Effect::Failed(evidence)) => {
            let message = evidence.clone();
            finish(ActionOutcome::Failed, evidence, message)
        }
        // What could not even be started is not waited for; that it did not help is seen all the same.
        Ok(Effect::NotYet(evidence)) if evidence::cannot_run(past).is_some() => {
            let message = format!("its program is missing or may not be run: {}; {evidence}", past.said);
            finish(ActionOutcome::Failed, evidence, message)
        }
        Ok(Effect::NotYet(evidence)) if late => {
            let message = format!("no effect in time: {evidence}");
            finish(ActionOutcome::Failed, evidence, message)
        }
        Err(blind) if late => {
            let message = format!("its effect could not be seen in time: {}", blind.message);
            finish(ActionOutcome::Unknown, String::new(), message)
        }
        Ok(Effect::NotYet(_)) | Err(_) => None,
    }
}

/// How a host is found at a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// As described.
    Well,
    /// Something differs.
    Drifted,
    /// Not all of it was seen, or it is on its way.
    Unknown,
}

impl Standing {
    fn of(checks: &[Checked]) -> Self {
        let mut found = checks.iter().map(|checked| checked.result.as_ref());
        if found.clone().any(|result| result.is_ok_and(|check| !check.drifts.is_empty())) {
            return Self::Drifted;
        }
        if found.all(|result| result.is_ok_and(|check| check.progressing.is_empty())) {
            Self::Well
        } else {
            Self::Unknown
        }
    }
}

/// Since when attempts count: an incident begins when a host that has been healthy for a while differs. What was before such a
/// while is over as soon as the host is anything else than healthy: who looks later no longer sees how long it was.
fn incident_since(
    previous: &BinderHostStatus,
    standing: Standing,
    fleet: &FleetView,
    now: Timestamp,
) -> Option<Timestamp> {
    let known = previous.incident_since.as_ref().map(|time| time.0);
    let refill = SignedDuration::try_from(fleet.patience.min_healthy_period).unwrap_or(SignedDuration::from_hours(24));
    let healthy_for = previous
        .conditions
        .iter()
        .find(|condition| condition.type_ == conditions::HEALTHY && condition.status == "True")
        .map(|condition| now.duration_since(condition.last_transition_time.0));
    let goes_on = known.filter(|_| healthy_for.is_none_or(|healthy_for| healthy_for < refill));
    match standing {
        Standing::Well => known,
        Standing::Unknown => goes_on,
        // Whole seconds, as the API keeps times: an attempt that is recorded within this second belongs to the incident.
        Standing::Drifted => goes_on.or_else(|| Some(Timestamp::from_second(now.as_second()).unwrap_or(now))),
    }
}

/// The history as it will be once what ended is recorded.
fn finished(memory: &History, finish: &[Finish], now: Timestamp) -> History {
    let mut memory = memory.clone();
    for past in &mut memory.actions {
        if let Some(end) = finish.iter().find(|finish| finish.action == past.name) {
            past.end(end, now);
        }
    }
    memory
}

/// The pause between two looks at a healthy host.
pub fn usual(spec: &BinderHostSpec) -> Duration {
    usual_interval(spec.interval.as_ref())
}

/// The same by what fleet or host says.
pub fn usual_interval(interval: Option<&Span>) -> Duration {
    interval.and_then(|span| span.duration().ok()).unwrap_or(USUAL).max(WATCH)
}

fn look_again(
    host: &Host<'_>,
    checks: &[Checked],
    candidates: &[Candidate],
    schedules: &[ScheduleStatus],
    busy: bool,
    now: Timestamp,
) -> Duration {
    let usual = usual(host.spec);
    let progressing =
        checks.iter().any(|checked| checked.result.as_ref().is_ok_and(|check| !check.progressing.is_empty()));
    if busy {
        return WATCH.min(usual);
    }
    let mut pause = usual;
    for ahead in schedules.iter().filter_map(|task| Duration::try_from(task.next_run.0.duration_since(now)).ok()) {
        pause = pause.min(ahead.max(WATCH));
    }
    if progressing || checks.iter().any(|checked| checked.result.is_err()) {
        pause = pause.min(DRIFTED / 2);
    }
    for candidate in candidates {
        pause = match candidate.blocked.as_ref().and_then(BlockedBy::until) {
            Some(until) => {
                let wait = Duration::try_from(until.duration_since(now)).unwrap_or_default();
                pause.min(wait.max(WATCH))
            }
            None if candidate.blocked == Some(BlockedBy::Observe) => pause,
            None => pause.min(DRIFTED),
        };
    }
    pause
}

/// The host could not be looked at: nothing is known of what it is described to be. What can be known is whether it is
/// dead; attempts whose time is up are unknown, but for those that were to make it possible again.
fn not_seen(host: &Host<'_>, failure: &LookFailure, memory: &History, fleet: &FleetView, now: Timestamp) -> Decision {
    let finish: Vec<Finish> = memory
        .open()
        .filter(|past| now >= past.deadline)
        .map(|past| {
            let way_in = past.step.as_ref().is_some_and(|step| step.nature().opens_way_in);
            let (outcome, message) = if way_in {
                (ActionOutcome::Failed, "the host still could not be looked at in time")
            } else {
                (ActionOutcome::Unknown, "the host could not be looked at in time")
            };
            Finish {
                action: past.name.clone(),
                outcome,
                evidence: String::new(),
                message: format!("{message}: {}", failure.message),
            }
        })
        .collect();
    let after = finished(memory, &finish, now);
    let silent = failure.kind == FailureKind::Silent;
    let refused = matches!(failure.kind, FailureKind::Refused { .. });
    let standing = if silent || refused { Standing::Drifted } else { Standing::Unknown };
    let incident = incident_since(host.previous, standing, fleet, now);
    let has_run = &host.previous.has_run;
    let reasoning = Reasoning { host, memory: &after, fleet, incident, schedules: &[], seen: None, has_run, now };
    let weighed = match &failure.kind {
        FailureKind::Silent => Some(outage::diagnose(host, failure, fleet, now)),
        FailureKind::Refused { public_key } => outage::refused(host, failure, public_key),
        FailureKind::Person | FailureKind::Passing => None,
    };
    let weighed = weighed.map_or_else(Weighed::default, |diagnosis| reasoning.against(diagnosis, failure.state()));
    let Weighed { candidates, run, since, demanded } = weighed;
    let by_hand = match &failure.kind {
        FailureKind::Refused { public_key } if candidates.iter().all(Candidate::is_hopeless) => {
            let what = outage::let_in_by_hand(host, public_key);
            Some(LookFailure { message: format!("{}; {what}", failure.message), ..failure.clone() })
        }
        _ => None,
    };
    let failure = by_hand.as_ref().unwrap_or(failure);
    let busy = run.is_some() || after.open().next().is_some();
    // A login that was refused is not hammered at, even while a remedy is taking effect.
    let second = candidates.iter().any(|candidate| candidate.blocked == Some(BlockedBy::SecondLook));
    let busy = busy || second;
    let pause = if busy && !refused { WATCH } else { usual(host.spec).max(DRIFTED) };
    let wait = failure
        .not_before
        .filter(|_| !busy)
        .and_then(|at| Duration::try_from(at.duration_since(now)).ok())
        .unwrap_or(pause);
    let next = match run {
        Some(run) => Next::Run(Box::new(run)),
        None => candidates.iter().find_map(|candidate| candidate.blocked.clone()).map_or(Next::Nothing, Next::Wait),
    };
    let grounds =
        Grounds { failure: Some(failure.clone()), candidates, memory: after, incident, since, ..Grounds::default() };
    Decision { finish, next, look_again: wait.max(WATCH).min(pause), demanded, grounds }
}
