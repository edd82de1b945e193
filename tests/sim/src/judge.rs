//! The judge: what must be so whatever happens. Each invariant is a function with its name; all of them look at the world and
//! at the API's objects as they are, and at nothing that the operator says of itself.
//!
//! Most are asked at the moment at which a step reaches a machine or a cloud, the others when a status is written, and at the
//! end, in the calm.

use crate::api::{Kind, Store, text};
use crate::case::Case;
use crate::machine::Power;
use crate::state::State;
use binder_core::facets::{Disruption, Step, builds, machine};
use binder_core::gate::Permit;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How old what a step rests on may be when it is sent: `GOOD_FOR` of the controllers.
const GOOD_FOR: Duration = Duration::from_secs(15);
/// The way from the last question to the sending, within one process: nothing is awaited but the network.
const WAY: Duration = Duration::from_secs(1);
/// A day, for `remedies.perDay`.
const DAY: Duration = Duration::from_secs(24 * 3600);
/// How long a machine must have been well reachable for a restart from outside to be a mistake.
const CLEARLY_ALIVE: Duration = Duration::from_secs(45);

/// Every invariant, with what it says.
pub const INVARIANTS: &[(&str, &str)] = &[
    (
        "recorded",
        "a step is carried out only for a BinderAction that is recorded, says this very step, and is still open",
    ),
    ("once", "no BinderAction is carried out twice"),
    ("alone", "a host has one open BinderAction at a time, beside a backup"),
    ("allowed", "nothing is carried out that mode, suspension or deletion forbade when the API was last asked"),
    ("warranted", "a host that was as described at the last look is not touched"),
    ("fresh", "no step rests on facts older than 15 s"),
    ("alive", "no machine is restarted from outside while it lives and a reachable neighbour can reach it"),
    ("patient", "no machine is restarted from outside before it was silent for remedies.unreachableTimeout"),
    ("known", "no machine is restarted from outside that nobody ever looked at"),
    ("booted", "no machine is restarted that was started less than remedies.unreachableTimeout ago"),
    ("confirmed", "what ends, replaces or restarts something was led to by two looks in a row"),
    ("paused", "a step that failed is not begun again within remedies.retryPeriod"),
    ("lockout", "a login that was refused is not tried again with the same key, but once after the key was authorized"),
    ("daily", "a host has at most remedies.perDay restarts within 24 hours"),
    ("single", "a host has at most one restart of a kind in an incident"),
    ("budget", "no more machines are in restarts of ours at once than budget.maxDisrupted"),
    (
        "honest",
        "a status says Healthy only if the last look was at a machine as described, and not healthy only if not",
    ),
    ("ends", "in the calm every host becomes as described, or Stalled, or waits for a person who is named"),
    ("true-end", "in the calm a status says what is so"),
    ("quiet", "in the calm, once ended, nothing is written and nothing is done"),
];

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The invariant's name.
    pub invariant: &'static str,
    /// When.
    pub at: Duration,
    /// What.
    pub what: String,
}

/// What an operator saw when it last looked at a host.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot {
    /// Whether the machine was as described, in truth; `None`: it could not be looked at.
    pub well: Option<bool>,
    /// How many looks in a row came to the same, this one included.
    pub looks: u32,
}

/// An action that was ever recorded.
#[derive(Clone, Debug)]
struct Recorded {
    name: String,
    host: String,
    parameters: Value,
}

/// A restart of a machine that was sent.
#[derive(Clone, Debug)]
struct Restart {
    at: Duration,
    kind: &'static str,
    incident: String,
}

/// What the judge remembers.
#[derive(Debug)]
pub struct Judge {
    /// What was found; the first counts.
    pub found: Vec<Violation>,
    /// Whether nothing more may be written or done.
    pub quiet: bool,
    recorded: BTreeMap<String, Recorded>,
    carried: BTreeSet<String>,
    snapshots: BTreeMap<(usize, String), Snapshot>,
    evidence: BTreeMap<(usize, String), Duration>,
    asked: BTreeMap<(usize, String), (Duration, Option<&'static str>)>,
    restarts: BTreeMap<String, Vec<Restart>>,
    last_seen: BTreeMap<usize, Duration>,
    refused: BTreeMap<(usize, String, String), u32>,
    authorized: BTreeMap<String, u32>,
    /// Hosts whose records somebody took away: what they had is not known any more.
    forgotten: BTreeSet<String>,
    /// The clock jumped: times of the day mean nothing.
    jumped: bool,
    unreachable_timeout: Duration,
    per_day: usize,
}

impl Judge {
    /// The judge of a case.
    pub fn new(case: &Case) -> Self {
        Self {
            found: Vec::new(),
            quiet: false,
            recorded: BTreeMap::new(),
            carried: BTreeSet::new(),
            snapshots: BTreeMap::new(),
            evidence: BTreeMap::new(),
            asked: BTreeMap::new(),
            restarts: BTreeMap::new(),
            last_seen: BTreeMap::new(),
            refused: BTreeMap::new(),
            authorized: BTreeMap::new(),
            forgotten: BTreeSet::new(),
            jumped: false,
            unreachable_timeout: Duration::from_secs(case.unreachable_timeout),
            per_day: usize::try_from(case.per_day).unwrap_or(usize::MAX),
        }
    }

    /// Something must not be.
    pub fn finds(&mut self, invariant: &'static str, at: Duration, what: String) {
        self.found.push(Violation { invariant, at, what });
    }

    /// A look at a host was answered, or failed.
    pub fn looked(&mut self, who: usize, host: &str, machine: usize, well: Option<bool>, now: Duration) {
        let place = (who, host.to_owned());
        let before = self.snapshots.get(&place).filter(|before| before.well == well).map_or(0, |before| before.looks);
        self.snapshots.insert(place, Snapshot { well, looks: before + 1 });
        if well.is_some() {
            self.last_seen.insert(machine, now);
        }
    }

    /// An operator has just learned something of a host: a look ended, or a witness or cloud answered for one that is silent.
    pub fn learned(&mut self, who: usize, host: &str, now: Duration) {
        self.evidence.insert((who, host.to_owned()), now);
    }

    /// A machine refused a login.
    pub fn login_refused(&mut self, who: usize, host: &str, key: &str, now: Duration) {
        let times = self.refused.entry((who, host.to_owned(), key.to_owned())).or_default();
        *times += 1;
        let times = *times;
        let allowed = 1 + self.authorized.get(host).copied().unwrap_or_default();
        if times > allowed {
            self.finds("lockout", now, format!("operator {who} was refused by {host} {times} times with one key"));
        }
    }

    /// The clock jumped.
    pub fn clock_jumped(&mut self) {
        self.jumped = true;
    }

    /// Somebody took records of a host away; empty: of all.
    pub fn records_gone(&mut self, host: &str) {
        if host.is_empty() {
            let all: Vec<String> = self.restarts.keys().cloned().collect();
            self.forgotten.extend(all);
            let all: Vec<String> = self.recorded.values().map(|record| record.host.clone()).collect();
            self.forgotten.extend(all);
        } else {
            self.forgotten.insert(host.to_owned());
        }
    }
}

/// Why nothing may be done on a host, by the objects as they are; `None`: it may.
pub fn forbidden(store: &Store, uid: &str) -> Option<&'static str> {
    let Some(host) = store.all(Kind::Host).find(|host| host["metadata"]["uid"] == uid) else {
        return Some("there is no such host");
    };
    let owner = host["metadata"]["ownerReferences"].as_array().and_then(|owners| owners.first());
    let fleet = owner.and_then(|owner| store.all(Kind::Fleet).find(|fleet| fleet["metadata"]["uid"] == owner["uid"]));
    let (fleet_mode, fleet_suspended) = match (owner, fleet) {
        (Some(_), None) => return Some("its fleet is gone"),
        (Some(_), Some(fleet)) => {
            (text(fleet, &["spec", "mode"]).unwrap_or("Observe"), fleet["spec"]["suspend"] == true)
        }
        (None, _) => (text(host, &["spec", "mode"]).unwrap_or("Observe"), false),
    };
    let mode = text(host, &["spec", "mode"]).unwrap_or("Enforce");
    match () {
        () if fleet_suspended => Some("its fleet is suspended"),
        () if host["spec"]["suspend"] == true => Some("it is suspended"),
        () if fleet_mode != "Enforce" => Some("its fleet's mode is not Enforce"),
        () if mode != "Enforce" => Some("its mode is not Enforce"),
        () => None,
    }
}

impl State {
    /// The API was asked for one host: what was so then is what the operator knew.
    pub fn asked_for_host(&mut self, who: usize, name: &str, now: Duration) {
        let host = self.store.get(Kind::Host, crate::state::NAMESPACE, name);
        let Some(uid) = host.and_then(|host| text(host, &["metadata", "uid"])).map(str::to_owned) else { return };
        let why = forbidden(&self.store, &uid);
        self.judge.asked.insert((who, uid), (now, why));
    }

    /// An action was recorded.
    pub fn judge_record(&mut self, action: &Value, now: Duration) {
        let (Some(uid), Some(name)) = (text(action, &["metadata", "uid"]), text(action, &["metadata", "name"])) else {
            return;
        };
        let host = text(action, &["spec", "hostUid"]).unwrap_or_default().to_owned();
        crate::coverage::count(&mut self.coverage.drifts, text(action, &["spec", "drift"]).unwrap_or_default());
        let parameters = action["spec"]["parameters"].clone();
        alone(self, &host, uid, now);
        paused(self, &host, action, now);
        self.judge.recorded.insert(uid.to_owned(), Recorded { name: name.to_owned(), host, parameters });
    }

    /// A step reaches a machine, or a cloud for a machine.
    pub fn judge_step(&mut self, who: usize, step: &Step, permit: &Permit, machine: usize, now: Duration) {
        crate::coverage::count(&mut self.coverage.steps, step.kind());
        let uid = recorded(self, step, permit, now);
        let Some((uid, host)) = uid else { return };
        once(self, &uid, now);
        allowed(self, who, &host, now);
        warranted(self, who, &host, step, now);
        fresh(self, who, &host, step, now);
        confirmed(self, who, &host, step, now);
        if let Step::Machine(machine::Step::AuthorizeKey { .. }) = step {
            *self.judge.authorized.entry(host.clone()).or_default() += 1;
        }
        if step.needs_power() && step.disruption() == Disruption::Host {
            alive(self, machine, now);
            patient(self, machine, now);
        }
        if step.disruption() == Disruption::Host {
            booted(self, machine, now);
            budget(self, &host, now);
            let status = self.store.all(Kind::Host).find(|object| object["metadata"]["uid"] == host.as_str());
            let incident = status.and_then(|object| text(object, &["status", "incidentSince"])).unwrap_or_default();
            let incident = incident.to_owned();
            daily(self, &host, now);
            single(self, &host, step, &incident, now);
            let restart = Restart { at: now, kind: step.kind(), incident };
            self.judge.restarts.entry(host).or_default().push(restart);
        }
        if self.judge.quiet {
            self.judge.finds("quiet", now, format!("{} was done in the calm", step.words()));
        }
    }

    /// A status of a host was written.
    pub fn judge_status(&mut self, who: usize, host: &Value, now: Duration) {
        let conditions = host["status"]["conditions"].as_array().map_or(&[][..], Vec::as_slice);
        for condition in conditions {
            let name = format!(
                "{}={}/{}",
                condition["type"].as_str().unwrap_or_default(),
                condition["status"].as_str().unwrap_or_default(),
                condition["reason"].as_str().unwrap_or_default()
            );
            crate::coverage::count(&mut self.coverage.conditions, &name);
            if condition["type"] == "RemediationAllowed" {
                crate::coverage::count(&mut self.coverage.answers, condition["reason"].as_str().unwrap_or_default());
            }
        }
        let waits: Vec<String> = host["status"]["plan"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|step| step["waitsFor"].as_str())
            .map(|words| words.split([' ', ':']).take(2).collect::<Vec<_>>().join(" "))
            .collect();
        for words in waits {
            crate::coverage::count(&mut self.coverage.answers, &format!("waits for {words}"));
        }
        honest(self, who, host, now);
    }
}

/// `recorded`. Gives the action's and the host's UID.
fn recorded(state: &mut State, step: &Step, permit: &Permit, now: Duration) -> Option<(String, String)> {
    // A backup is carried out under the action's name alone.
    let known = match permit.record() {
        "" => state.judge.recorded.iter().find(|(_, record)| record.name == permit.action()),
        uid => state.judge.recorded.get_key_value(uid),
    };
    let Some((uid, record)) = known.map(|(uid, record)| (uid.clone(), record.clone())) else {
        state.judge.finds(
            "recorded",
            now,
            format!("{}: no action {} was ever recorded", step.words(), permit.action()),
        );
        return None;
    };
    let said = serde_json::to_value(step).unwrap_or_default();
    if record.name != permit.action() || record.parameters != said {
        let what = format!("{}: the action {} says {}", step.words(), record.name, record.parameters);
        state.judge.finds("recorded", now, what);
    }
    if record.host != permit.host() && !step.goes_to_build_server() {
        state.judge.finds("recorded", now, format!("{}: the action is of another host", step.words()));
    }
    let object = state.store.get(Kind::Action, crate::state::NAMESPACE, &record.name);
    let ended = object
        .filter(|object| object["metadata"]["uid"] == uid.as_str())
        .and_then(|object| text(object, &["status", "outcome"]).map(str::to_owned));
    if let Some(outcome) = ended {
        let what = format!("{}: the action {} has ended ({outcome}) before it was sent", step.words(), record.name);
        state.judge.finds("recorded", now, what);
    }
    Some((uid, record.host))
}

fn once(state: &mut State, uid: &str, now: Duration) {
    if !state.judge.carried.insert(uid.to_owned()) {
        state.judge.finds("once", now, format!("the action {uid} was carried out twice"));
    }
}

fn alone(state: &mut State, host: &str, uid: &str, now: Duration) {
    let open = state.store.all(Kind::Action).find(|action| {
        action["spec"]["hostUid"] == host
            && action["metadata"]["uid"] != uid
            && action["spec"]["step"] != "BackUp"
            && action["status"].get("outcome").is_none()
    });
    if let Some(other) = open.and_then(|other| text(other, &["metadata", "name"])).map(str::to_owned) {
        state.judge.finds("alone", now, format!("an action of {host} was recorded while {other} is open"));
    }
}

fn allowed(state: &mut State, who: usize, host: &str, now: Duration) {
    let asked = state.judge.asked.get(&(who, host.to_owned())).copied();
    match asked {
        None => state.judge.finds("allowed", now, format!("the API was never asked for {host} itself")),
        Some((at, _)) if now.saturating_sub(at) > GOOD_FOR * 2 + WAY => {
            state.judge.finds("allowed", now, format!("the API was asked for {host} {:?} ago", now.saturating_sub(at)));
        }
        Some((_, Some(why))) => state.judge.finds("allowed", now, format!("a step on {host}, though {why}")),
        Some((_, None)) => {}
    }
}

fn warranted(state: &mut State, who: usize, host: &str, step: &Step, now: Duration) {
    // A task is due by the clock, on a healthy host.
    if matches!(step, Step::Backups(_) | Step::Builds(builds::Step::RebuildBuild { .. })) {
        return;
    }
    if let Some(Snapshot { well: Some(true), .. }) = state.judge.snapshots.get(&(who, host.to_owned())) {
        state.judge.finds("warranted", now, format!("{} on {host}, which was as described", step.words()));
    }
}

fn fresh(state: &mut State, who: usize, host: &str, step: &Step, now: Duration) {
    // A cloud is asked once more in between, which takes its own time.
    let limit = if step.needs_power() { GOOD_FOR * 2 + WAY } else { GOOD_FOR + WAY };
    let learned = state.judge.evidence.get(&(who, host.to_owned())).copied();
    let age = learned.map(|at| now.saturating_sub(at));
    if age.is_none_or(|age| age > limit) && !matches!(step, Step::Backups(_)) {
        state.judge.finds("fresh", now, format!("{} on {host} rests on what was seen {age:?} ago", step.words()));
    }
}

fn alive(state: &mut State, machine: usize, now: Duration) {
    use crate::case::End::{Machine, Operator};
    let long = |since: Option<Duration>| since.is_some_and(|since| now.saturating_sub(since) >= CLEARLY_ALIVE);
    if !long(state.machines[machine].alive_since) {
        return;
    }
    let open = |one, other| {
        state.parted(one, other, now).is_none() && state.parted(one, other, now.saturating_sub(CLEARLY_ALIVE)).is_none()
    };
    let neighbour = (0..state.machines.len()).find(|other| {
        *other != machine
            && long(state.machines[*other].alive_since)
            && !state.machines[*other].refuses
            && state.machines[*other].key == 0
            && open(Operator, Machine(*other))
            && open(Machine(*other), Machine(machine))
    });
    if open(Operator, Machine(machine)) || neighbour.is_some() {
        let what = format!("machine {machine} lives, and is restarted from outside (neighbour {neighbour:?})");
        state.judge.finds("alive", now, what);
    }
}

fn patient(state: &mut State, machine: usize, now: Duration) {
    let Some(seen) = state.judge.last_seen.get(&machine).copied() else {
        state.judge.finds(
            "known",
            now,
            format!("machine {machine} was never looked at, and is restarted from outside"),
        );
        return;
    };
    let silent = now.saturating_sub(seen);
    // The API keeps whole seconds.
    let least = state.judge.unreachable_timeout.saturating_sub(Duration::from_secs(2));
    if silent < least && !state.judge.jumped {
        state.judge.finds(
            "patient",
            now,
            format!("machine {machine} was looked at {silent:?} ago, and is restarted from outside"),
        );
    }
}

fn booted(state: &mut State, machine: usize, now: Duration) {
    let started = state.machines[machine].started;
    let up = now.saturating_sub(started);
    let least = state.judge.unreachable_timeout.saturating_sub(Duration::from_secs(2));
    if !started.is_zero() && up < least && !state.judge.jumped {
        state.judge.finds("booted", now, format!("machine {machine} was started {up:?} ago, and is restarted"));
    }
}

fn confirmed(state: &mut State, who: usize, host: &str, step: &Step, now: Duration) {
    if step.disruption() == Disruption::None {
        return;
    }
    let looks = state.judge.snapshots.get(&(who, host.to_owned())).map_or(0, |snapshot| snapshot.looks);
    if looks < 2 {
        state.judge.finds("confirmed", now, format!("{} on {host} after {looks} look", step.words()));
    }
}

fn paused(state: &mut State, host: &str, action: &Value, now: Duration) {
    let time = |text: Option<&str>| text.and_then(|text| text.parse::<jiff::Timestamp>().ok());
    let decided = time(text(action, &["spec", "decidedAt"]));
    let same = |other: &&Value| {
        other["spec"]["hostUid"] == host
            && other["spec"]["step"] == action["spec"]["step"]
            && other["spec"]["subject"] == action["spec"]["subject"]
            && matches!(other["status"]["outcome"].as_str(), Some("Failed" | "Unknown"))
    };
    let last = state
        .store
        .all(Kind::Action)
        .filter(same)
        .filter_map(|other| time(text(other, &["status", "finishedAt"])))
        .max();
    let Some((decided, last)) = decided.zip(last) else { return };
    let pause = decided.duration_since(last);
    // The API keeps whole seconds.
    if pause.as_secs() < 8 && !state.judge.jumped {
        let step = text(action, &["spec", "description"]).unwrap_or_default().to_owned();
        state.judge.finds("paused", now, format!("{step} on {host} again {pause:#} after it failed"));
    }
}

fn daily(state: &mut State, host: &str, now: Duration) {
    let done = state
        .judge
        .restarts
        .get(host)
        .map_or(0, |restarts| restarts.iter().filter(|restart| now.saturating_sub(restart.at) < DAY).count());
    if done >= state.judge.per_day && !state.judge.forgotten.contains(host) && !state.judge.jumped {
        state.judge.finds("daily", now, format!("restart {} of {host} within a day", done + 1));
    }
}

fn single(state: &mut State, host: &str, step: &Step, incident: &str, now: Duration) {
    let again = state
        .judge
        .restarts
        .get(host)
        .into_iter()
        .flatten()
        .any(|restart| restart.kind == step.kind() && restart.incident == incident);
    if again && !state.judge.forgotten.contains(host) {
        state.judge.finds("single", now, format!("{} for {host} again in the incident since {incident}", step.kind()));
    }
}

fn budget(state: &mut State, host: &str, now: Duration) {
    // Turns are taken within one process; two at once know of each other only what is recorded.
    if state.living() > 1 {
        return;
    }
    let under_way: Vec<String> = state
        .store
        .all(Kind::Action)
        .filter(|action| {
            let kind = action["spec"]["step"].as_str().unwrap_or_default();
            action["spec"]["hostUid"] != host
                && matches!(kind, "Reboot" | "PowerCycle" | "PowerOn" | "RestartNode")
                && action["status"].get("outcome").is_none()
        })
        .filter_map(|action| text(action, &["metadata", "name"]).map(str::to_owned))
        .collect();
    if !under_way.is_empty() {
        state.judge.finds("budget", now, format!("{host} is restarted while {} are under way", under_way.join(", ")));
    }
}

fn honest(state: &mut State, who: usize, host: &Value, now: Duration) {
    let Some(uid) = text(host, &["metadata", "uid"]).map(str::to_owned) else { return };
    let healthy = host["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|condition| condition["type"] == "Healthy")
        .and_then(|condition| condition["status"].as_str())
        .unwrap_or_default();
    let well = state.judge.snapshots.get(&(who, uid.clone())).and_then(|snapshot| snapshot.well);
    match (healthy, well) {
        ("True", Some(false) | None) => {
            state.judge.finds("honest", now, format!("{uid} is said to be healthy, and was not: {well:?}"));
        }
        ("False", Some(true)) => {
            let why = host["status"]["drift"].as_str().unwrap_or_default();
            state.judge.finds("honest", now, format!("{uid} is said not to be healthy ({why}), and was as described"));
        }
        _ => {}
    }
}

/// How a host has ended, in the calm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// As described, and said so.
    Well,
    /// A person is asked.
    Stalled,
    /// It waits for what a person has set.
    Waits(String),
    /// It has not ended.
    Open(String),
}

/// How it is said that somebody is waited for: a person, or what only people bring about.
const PEOPLE: &[&str] = &[
    "a person",
    "a second witness",
    "a first login",
    "certainty that the instance",
    "the clock of the machine",
    "mode ",
    "approval",
];

fn condition<'v>(object: &'v Value, kind: &str) -> (&'v str, &'v str, &'v str) {
    let found =
        object["status"]["conditions"].as_array().into_iter().flatten().find(|condition| condition["type"] == kind);
    let word = |key: &str| found.and_then(|condition| condition[key].as_str()).unwrap_or_default();
    (word("status"), word("reason"), word("message"))
}

impl State {
    /// How a host has ended.
    pub fn end(&self, host: &Value) -> End {
        let uid = text(host, &["metadata", "uid"]).unwrap_or_default();
        if self
            .store
            .all(Kind::Action)
            .any(|action| action["spec"]["hostUid"] == uid && action["status"].get("outcome").is_none())
        {
            return End::Open("an action is open".to_owned());
        }
        let waits = text(host, &["status", "waitsFor"]).unwrap_or_default();
        match condition(host, "Healthy") {
            _ if host["status"]["observedGeneration"] != host["metadata"]["generation"] => {
                End::Open("its status is of an older generation".to_owned())
            }
            ("True", ..) => End::Well,
            _ if condition(host, "Stalled").0 == "True" => End::Stalled,
            _ if forbidden(&self.store, uid).is_some() => End::Waits("a person has set it so".to_owned()),
            _ if PEOPLE.iter().any(|who| waits.starts_with(who)) => End::Waits(waits.to_owned()),
            // Somebody answers there, who is not the machine or does not let us in.
            _ if matches!(
                condition(host, "Reachable").1,
                "HostKeyMismatch" | "LoginRefused" | "MoreProofWanted" | "PortClosed" | "Hung"
            ) =>
            {
                End::Waits(condition(host, "Reachable").1.to_owned())
            }
            _ if waits.contains("the fleet's brake") || waits.contains("held") => End::Waits(waits.to_owned()),
            (status, reason, message) => End::Open(format!("Healthy={status} {reason}: {message}; waits for {waits}")),
        }
    }

    /// In the calm: `ends` and `true-end`, for every host.
    pub fn judge_end(&mut self, now: Duration) {
        let hosts: Vec<Value> = self.store.all(Kind::Host).cloned().collect();
        let ends: Vec<End> = hosts.iter().map(|host| self.end(host)).collect();
        for (host, end) in hosts.iter().zip(&ends) {
            let name = text(host, &["metadata", "name"]).unwrap_or_default();
            let address = text(host, &["spec", "address"]).unwrap_or_default();
            let word = match end {
                End::Well => "well",
                End::Stalled => "stalled",
                End::Waits(_) => "waits",
                End::Open(_) => "open",
            };
            crate::coverage::count(&mut self.coverage.ends, word);
            let Some(machine) = self.at(address) else { continue };
            let (well, power) = (self.machines[machine].well_since.is_some(), self.machines[machine].power);
            let seen = self.machines[machine].key == 0 && !self.machines[machine].refuses;
            let others_wait = ends.iter().zip(&hosts).any(|(other, of)| of != host && *other != End::Well);
            match end {
                End::Open(why) if !others_wait => {
                    self.judge.finds(
                        "ends",
                        now,
                        format!("{name} has not ended (truth: well {well}, {power:?}): {why}"),
                    );
                }
                End::Well if !well => {
                    self.judge.finds("true-end", now, format!("{name} is said to be healthy, and is not ({power:?})"));
                }
                End::Stalled | End::Waits(_) if well && seen && forbidden_to_look(host).is_none() => {
                    let what = text(host, &["status", "summary"]).unwrap_or_default();
                    let fleet = self.store.all(Kind::Fleet).any(|fleet| fleet["spec"]["suspend"] == true);
                    if !fleet {
                        self.judge.finds(
                            "true-end",
                            now,
                            format!("{name} is as described, and its status says: {what}"),
                        );
                    }
                }
                _ => {}
            }
            if condition(host, "Reachable").0 == "True" && !matches!(power, Power::On) {
                self.judge.finds("true-end", now, format!("{name} is said to be reachable, and is {power:?}"));
            }
        }
    }
}

fn forbidden_to_look(host: &Value) -> Option<&'static str> {
    (host["spec"]["suspend"] == true).then_some("suspended")
}
