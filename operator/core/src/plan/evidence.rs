//! What speaks for a step: how often in a row it was led to, since when its reason has been so, what has run before, what
//! the machine went through today. The demands themselves are the gate's table ([`crate::gate::demands`]).
//!
//! Pure. What must survive a restart of the operator is in the host's status (`driftSince`, `hasRun`) and in BinderActions;
//! how many looks in a row led to a step is lost with the process, and then takes one more look.

use super::memory::{Attempt, FleetView, History};
use super::{Checked, outage};
use crate::catalogue;
use crate::facets::{Disruption, Drift, DriftKind, Step, Subject, services};
use crate::gate::demands::Evidence;
use crate::seen::Observation;
use binder_crds::host::{DriftSince, HasRun};
use binder_crds::{ActionOutcome, Desired, conditions};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use sha2::{Digest, Sha256};
use std::time::Duration;

/// How far two looks may be apart for the second one to confirm the first: what was seen before a longer pause is forgotten.
const SOON: SignedDuration = SignedDuration::from_secs(60);

/// How long a day is, for `remedies.perDay`.
const DAY: SignedDuration = SignedDuration::from_hours(24);

/// The steps that the last look led to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Demanded(Vec<Entry>);

#[derive(Clone, Debug, PartialEq)]
struct Entry {
    kind: DriftKind,
    subject: Subject,
    step: Step,
    looks: u32,
    at: Timestamp,
}

impl Demanded {
    /// How many looks in a row have led to a step for a drift, one at `now` included. The step is compared with all its
    /// values: another process id, another boot or another list of routes is another step.
    pub(super) fn looks(&self, drift: &Drift, step: &Step, now: Timestamp) -> u32 {
        let same = |entry: &&Entry| entry.kind == drift.kind && entry.subject == drift.subject && entry.step == *step;
        let soon = |entry: &&Entry| (SignedDuration::ZERO..=SOON).contains(&now.duration_since(entry.at));
        self.0.iter().find(|entry| same(entry) && soon(entry)).map_or(1, |entry| entry.looks.saturating_add(1))
    }

    /// Takes in that a look has led to a step.
    pub(super) fn add(&mut self, drift: &Drift, step: &Step, looks: u32, at: Timestamp) {
        let (kind, subject, step) = (drift.kind, drift.subject.clone(), step.clone());
        self.0.push(Entry { kind, subject, step, looks, at });
    }
}

/// Since when things have been so for their present reasons, each as `(subject, reason)`. What is on its way (`progressing`)
/// keeps its time: a server that is started again and again has not run meanwhile.
pub(super) fn since(
    previous: &[DriftSince],
    present: &[(String, String)],
    progressing: &[String],
    now: Timestamp,
) -> Vec<DriftSince> {
    // Whole seconds, as the API keeps times; a time in the future is of another clock.
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let known = |subject: &str, reason: &str| {
        previous.iter().find(|known| known.subject == subject && known.reason == reason && known.since.0 <= now)
    };
    let mut all: Vec<DriftSince> = Vec::new();
    for (subject, reason) in present {
        if all.iter().any(|known| known.subject == *subject && known.reason == *reason) {
            continue;
        }
        let since = known(subject, reason).map_or(now, |known| known.since.0);
        all.push(DriftSince { subject: subject.clone(), reason: reason.clone(), since: Time(since) });
    }
    let on_their_way = previous.iter().filter(|known| progressing.contains(&known.subject) && known.since.0 <= now);
    for known in on_their_way {
        if !all.iter().any(|present| present.subject == known.subject) {
            all.push(known.clone());
        }
    }
    all
}

/// The reason that a drift's time is counted for. The ways in which a server does not run follow each other while it is
/// deleted and started again: they are one reason.
pub(super) fn reason(kind: DriftKind) -> &'static str {
    if kind.reboot_helps() { "NotRunning" } else { kind.as_str() }
}

/// What has run here as it is described now: what this look shows to be in place, and what earlier ones did.
pub(super) fn has_run(desired: &Desired, previous: &[HasRun], checks: &[Checked]) -> Vec<HasRun> {
    let mut list = Vec::new();
    for (subject, condition, description) in subjects(desired) {
        let found = checks.iter().find(|checked| checked.condition == condition);
        let runs = found.and_then(|checked| checked.result.as_ref().ok()).is_some_and(|check| {
            !check.drifts.iter().any(|drift| drift.subject == subject)
                && !check.progressing.iter().any(|(progressing, _)| *progressing == subject)
        });
        let known = HasRun { name: subject.to_string(), description };
        if runs || previous.contains(&known) {
            list.push(known);
        }
    }
    list
}

/// Everything that a machine may be restarted for, with the condition that speaks of it and a hash of its description.
fn subjects(desired: &Desired) -> Vec<(Subject, &'static str, String)> {
    let mut subjects: Vec<(Subject, &'static str, String)> = catalogue::described(desired)
        .into_iter()
        .map(|component| {
            let how = serde_json::json!([component.process, component.start, component.ports]);
            (Subject::from(&component), conditions::SERVICES_RUNNING, hash(&how))
        })
        .collect();
    if let Some(proxy) = &desired.kubectl_proxy {
        let how = serde_json::json!([proxy.port, proxy.kubectl]);
        subjects.push((Subject::KubectlProxy, conditions::PROXY_SERVING, hash(&how)));
    }
    if desired.kubernetes_api.is_some() {
        // How many nodes it must have says nothing about how it is served.
        let how = serde_json::json!("api");
        subjects.push((Subject::KubernetesApi, conditions::KUBERNETES_API_ANSWERING, hash(&how)));
    }
    subjects
}

fn hash(how: &serde_json::Value) -> String {
    Sha256::digest(how.to_string().as_bytes()).iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

/// When a machine that was seen will have been up for long enough, if that is ahead.
pub(super) fn booted_at(seen: &Observation, fleet: &FleetView, now: Timestamp) -> Option<Timestamp> {
    let up_for = Duration::from_secs(seen.machine.seen()?.up_for());
    let left = fleet.patience.unreachable_timeout.checked_sub(up_for)?;
    now.checked_add(SignedDuration::try_from(left).ok()?).ok()
}

/// What speaks for one step.
pub(super) struct Case<'a> {
    pub(super) desired: &'a Desired,
    pub(super) memory: &'a History,
    pub(super) fleet: &'a FleetView,
    /// What was seen; `None` of a host that could not be looked at.
    pub(super) seen: Option<&'a Observation>,
    pub(super) has_run: &'a [HasRun],
    pub(super) since: &'a [DriftSince],
    pub(super) now: Timestamp,
}

impl Case<'_> {
    /// The evidence for a step against a drift that `looks` looks in a row have led to, but for whether the machine has booted.
    pub(super) fn of(&self, drift: &Drift, reason: &str, step: &Step, looks: u32) -> Evidence {
        let subject = drift.subject.to_string();
        let since = self.since.iter().find(|since| since.subject == subject && since.reason == reason);
        let began = since.map_or(self.now, |since| since.since.0);
        let (today, day_ends) = self.today(step);
        Evidence {
            looks,
            lasted_at: Some(outage::dead_at(began, self.fleet)),
            booted_at: None,
            unwarranted: self.unwarranted(drift),
            today,
            per_day: self.fleet.patience.per_day,
            day_ends,
        }
    }

    /// How many steps of a step's weight this machine had within the last day, and when the oldest of them is a day old.
    fn today(&self, step: &Step) -> (u32, Option<Timestamp>) {
        if step.disruption() != Disruption::Host {
            return (0, None);
        }
        let done = self.memory.actions.iter().filter(|past| {
            past.outcome != Some(ActionOutcome::Abandoned)
                // A step that this version does not know may have been of this weight.
                && past.step.as_ref().is_none_or(|done| step.restarts_same_machine(done))
                && self.now.duration_since(past.created) < DAY
        });
        let created: Vec<Timestamp> = done.map(|past| past.created).collect();
        let ends = created.iter().min().and_then(|oldest| oldest.checked_add(DAY).ok());
        (u32::try_from(created.len()).unwrap_or(u32::MAX), ends)
    }

    /// Why a restart of the machine cannot be expected to help or would end what works: its subject never ran as it is
    /// described now, could not even be started, or serves.
    fn unwarranted(&self, drift: &Drift) -> Option<String> {
        let subject = drift.subject.to_string();
        if let Some(ports) = self.still_serves(drift) {
            return Some(format!(
                "a person: {subject} still listens on {ports}, and a reboot would end what works: put pm2's table in order \
                 by hand"
            ));
        }
        let impossible = self
            .memory
            .actions
            .iter()
            .rev()
            .find(|past| past.step.as_ref().is_some_and(|step| step.nature().starts) && past.subject == subject);
        if let Some(code) = impossible.and_then(cannot_run) {
            return Some(format!(
                "a person: {subject} cannot be started (exit code {code}: its program is missing or may not be run), so a \
                 reboot would not help"
            ));
        }
        (!self.has_run.iter().any(|known| known.name == subject)).then(|| {
            format!(
                "a person: {subject} has not been seen to run as it is described now, so a reboot is not known to help: \
                 correct the description or start it once by hand"
            )
        })
    }
}

impl Case<'_> {
    /// The ports of a component on which something listens although pm2's table says that it does not run as it should. The
    /// table is one witness, the kernel's list of listeners another.
    fn still_serves(&self, drift: &Drift) -> Option<String> {
        if !drift.kind.rests_on_table() {
            return None;
        }
        let seen = self.seen?;
        let machine = seen.machine.seen()?;
        // With the ports that its settings on the host say.
        let components = services::components(self.desired, seen).ok()?;
        let component = components.iter().find(|component| drift.subject.is(component))?;
        let serves =
            !component.ports.is_empty() && component.ports.iter().all(|port| machine.listeners.contains_key(port));
        let ports: Vec<String> = component.ports.iter().map(u16::to_string).collect();
        serves.then(|| ports.join(" and "))
    }
}

/// The exit code of an attempt whose program is missing or may not be run; `None` for any other attempt.
pub(super) fn cannot_run(past: &Attempt) -> Option<i32> {
    past.exit_code().filter(|code| CANNOT_RUN.contains(code))
}

/// The exit codes of a shell for a program that may not be executed and for one that is not there (POSIX, 2.8.2).
const CANNOT_RUN: [i32; 2] = [126, 127];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facets::Check;
    use crate::seen::Fact;
    use crate::seen::machine::Machine;
    use crate::seen::settings::Settings;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds)
    }

    fn drift(kind: DriftKind, subject: &str) -> Drift {
        Drift { kind, subject: Subject::named(subject), short: String::new(), evidence: String::new() }
    }

    #[test]
    fn looks_count_for_the_same_step_for_the_same_reason_soon_after() {
        let stopped = drift(DriftKind::ProcessStopped, "web");
        let delete = |name: &str| -> Step {
            services::Step::DeleteEntries { component: "web".to_owned(), processes: vec![name.to_owned()] }.into()
        };
        let none = Demanded::default();
        assert_eq!(none.looks(&stopped, &delete("a"), at(0)), 1);
        let mut once = Demanded::default();
        once.add(&stopped, &delete("a"), 1, at(0));
        assert_eq!(once.looks(&stopped, &delete("a"), at(2)), 2);
        assert_eq!(once.looks(&stopped, &delete("b"), at(2)), 1, "another step");
        assert_eq!(once.looks(&drift(DriftKind::NotListening, "web"), &delete("a"), at(2)), 1, "another reason");
        assert_eq!(once.looks(&stopped, &delete("a"), at(61)), 1, "too late");
        assert_eq!(once.looks(&stopped, &delete("a"), at(-1)), 1, "a clock that was set back");
    }

    #[test]
    fn time_counts_from_when_this_reason_began() {
        let present = |reason: &str| vec![("machine".to_owned(), reason.to_owned())];
        let first = since(&[], &present("ConnectionClosed"), &[], at(10));
        assert_eq!(first[0].since.0, at(10));
        let same = since(&first, &present("ConnectionClosed"), &[], at(500));
        assert_eq!(same[0].since.0, at(10));
        let other = since(&same, &present("Unreachable"), &[], at(600));
        assert_eq!((other.len(), other[0].since.0), (1, at(600)));
        let again = since(&other, &present("ConnectionClosed"), &[], at(700));
        assert_eq!(again[0].since.0, at(700));
        assert_eq!(since(&again, &[], &[], at(800)), []);
        // A time of a clock that was ahead is no evidence.
        assert_eq!(since(&again, &present("ConnectionClosed"), &[], at(5))[0].since.0, at(5));
    }

    #[test]
    fn what_is_being_started_keeps_its_time() {
        let not_running = vec![("web".to_owned(), "NotRunning".to_owned())];
        let first = since(&[], &not_running, &[], at(0));
        let starting = since(&first, &[], &["web".to_owned()], at(30));
        assert_eq!(starting, first);
        assert_eq!(since(&starting, &not_running, &[], at(60)), first);
        assert_eq!(since(&starting, &[], &["health".to_owned()], at(60)), []);
    }

    #[test]
    fn what_ran_is_known_until_it_is_described_otherwise() {
        let mut desired = Desired { servers: vec![binder_crds::desired::Server::Web], ..Desired::default() };
        let checked = |drifts: Vec<Drift>, progressing: &[&str]| {
            let progressing = progressing.iter().map(|name| (Subject::named(name), String::new())).collect();
            let check = Check { drifts, progressing, ..Check::default() };
            vec![Checked { condition: conditions::SERVICES_RUNNING, result: Ok(check), due: Vec::new() }]
        };
        let down = || vec![drift(DriftKind::ProcessMissing, "web")];
        assert_eq!(has_run(&desired, &[], &checked(down(), &[])), []);
        assert_eq!(has_run(&desired, &[], &checked(Vec::new(), &["web"])), []);
        assert_eq!(has_run(&desired, &[], &[]), [], "not looked at");
        let ran = has_run(&desired, &[], &checked(Vec::new(), &[]));
        assert_eq!(ran[0].name, "web");
        assert_eq!(has_run(&desired, &ran, &checked(down(), &[])), ran);
        desired.servers.clear();
        let start = |path: &str| binder_crds::desired::Process {
            name: "web".into(),
            start: vec![path.to_owned()],
            ports: vec![3000],
            ..binder_crds::desired::Process::default()
        };
        desired.processes = vec![start("/opt/a")];
        assert_eq!(has_run(&desired, &ran, &checked(down(), &[])), [], "started in another way");
        let ran = has_run(&desired, &[], &checked(Vec::new(), &[]));
        desired.processes = vec![start("/opt/b")];
        assert_eq!(has_run(&desired, &ran, &checked(down(), &[])), [], "another path");
    }

    #[test]
    fn a_server_that_moved_by_its_settings_is_seen_to_serve() {
        let desired = Desired { servers: vec![binder_crds::desired::Server::Web], ..Desired::default() };
        let serves = |listens: u16| {
            let machine = Machine { listeners: [(listens, Vec::new())].into(), ..Machine::default() };
            let mut seen = Observation::nothing(at(0));
            seen.machine = Fact::Seen(machine);
            seen.settings = Fact::Seen(Settings::of("web", &["port"], 8080));
            let (memory, fleet) = (History::default(), FleetView::default());
            let case = Case {
                desired: &desired,
                memory: &memory,
                fleet: &fleet,
                seen: Some(&seen),
                has_run: &[],
                since: &[],
                now: at(0),
            };
            case.still_serves(&drift(DriftKind::ProcessDoubled, "web"))
        };
        assert_eq!(serves(8080).as_deref(), Some("8080"));
        assert_eq!(serves(3000), None);
    }
}
