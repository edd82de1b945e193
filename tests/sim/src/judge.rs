//! The judge: what must be so whatever happens. Each invariant is a function with its name; all of them look at the world and
//! at the API's objects as they are, and at nothing that the operator says of itself.
//!
//! Most are asked at the moment at which a step reaches a machine or a cloud, the others when a status is written, and at the
//! end, in the calm.

mod calm;
mod steps;

pub use calm::End;

use crate::api::{Kind, Store, text};
use crate::case::Case;
use crate::state::State;
use binder_core::facets::{Disruption, Step, machine};
use binder_core::gate::Permit;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use steps::{
    alive, allowed, alone, booted, budget, confirmed, daily, fresh, honest, once, patient, paused, recorded, single,
    warranted,
};

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
