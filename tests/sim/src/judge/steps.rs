//! The invariants that are asked while things happen: when a step reaches a machine or a cloud, when something is recorded, when
//! a status is written.

use super::Snapshot;
use crate::api::{Kind, text};
use crate::state::State;
use binder_core::facets::{Disruption, Step, builds};
use binder_core::gate::Permit;
use serde_json::Value;
use std::time::Duration;

/// How old what a step rests on may be when it is sent: `GOOD_FOR` of the controllers.
const GOOD_FOR: Duration = Duration::from_secs(15);
/// The way from the last question to the sending, within one process: nothing is awaited but the network.
const WAY: Duration = Duration::from_secs(1);
/// A day, for `remedies.perDay`.
const DAY: Duration = Duration::from_secs(24 * 3600);
/// How long a machine must have been well reachable for a restart from outside to be a mistake.
const CLEARLY_ALIVE: Duration = Duration::from_secs(45);

/// `recorded`. Gives the action's and the host's UID.
pub(super) fn recorded(state: &mut State, step: &Step, permit: &Permit, now: Duration) -> Option<(String, String)> {
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

pub(super) fn once(state: &mut State, uid: &str, now: Duration) {
    if !state.judge.carried.insert(uid.to_owned()) {
        state.judge.finds("once", now, format!("the action {uid} was carried out twice"));
    }
}

pub(super) fn alone(state: &mut State, host: &str, uid: &str, now: Duration) {
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

pub(super) fn allowed(state: &mut State, who: usize, host: &str, now: Duration) {
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

pub(super) fn warranted(state: &mut State, who: usize, host: &str, step: &Step, now: Duration) {
    // A chore is due by the clock, on a healthy host.
    if matches!(step, Step::Backups(_) | Step::Builds(builds::Step::RebuildBuild { .. })) {
        return;
    }
    if let Some(Snapshot { well: Some(true), .. }) = state.judge.snapshots.get(&(who, host.to_owned())) {
        state.judge.finds("warranted", now, format!("{} on {host}, which was as described", step.words()));
    }
}

pub(super) fn fresh(state: &mut State, who: usize, host: &str, step: &Step, now: Duration) {
    // A cloud is asked once more in between, which takes its own time.
    let limit = if step.needs_power() { GOOD_FOR * 2 + WAY } else { GOOD_FOR + WAY };
    let learned = state.judge.evidence.get(&(who, host.to_owned())).copied();
    let age = learned.map(|at| now.saturating_sub(at));
    if age.is_none_or(|age| age > limit) && !matches!(step, Step::Backups(_)) {
        state.judge.finds("fresh", now, format!("{} on {host} rests on what was seen {age:?} ago", step.words()));
    }
}

pub(super) fn alive(state: &mut State, machine: usize, now: Duration) {
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

pub(super) fn patient(state: &mut State, machine: usize, now: Duration) {
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

pub(super) fn booted(state: &mut State, machine: usize, now: Duration) {
    let started = state.machines[machine].started;
    let up = now.saturating_sub(started);
    let least = state.judge.unreachable_timeout.saturating_sub(Duration::from_secs(2));
    if !started.is_zero() && up < least && !state.judge.jumped {
        state.judge.finds("booted", now, format!("machine {machine} was started {up:?} ago, and is restarted"));
    }
}

pub(super) fn confirmed(state: &mut State, who: usize, host: &str, step: &Step, now: Duration) {
    // A silent host is not dialled at each look; what is due there is `patient`.
    if step.disruption() == Disruption::None || step.needs_power() {
        return;
    }
    let looks = state.judge.snapshots.get(&(who, host.to_owned())).map_or(0, |snapshot| snapshot.looks);
    if looks < 2 {
        state.judge.finds("confirmed", now, format!("{} on {host} after {looks} look", step.words()));
    }
}

pub(super) fn paused(state: &mut State, host: &str, action: &Value, now: Duration) {
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

pub(super) fn daily(state: &mut State, host: &str, now: Duration) {
    let done = state
        .judge
        .restarts
        .get(host)
        .map_or(0, |restarts| restarts.iter().filter(|restart| now.saturating_sub(restart.at) < DAY).count());
    if done >= state.judge.per_day && !state.judge.forgotten.contains(host) && !state.judge.jumped {
        state.judge.finds("daily", now, format!("restart {} of {host} within a day", done + 1));
    }
}

pub(super) fn single(state: &mut State, host: &str, step: &Step, incident: &str, now: Duration) {
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

pub(super) fn budget(state: &mut State, host: &str, now: Duration) {
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

pub(super) fn honest(state: &mut State, who: usize, host: &Value, now: Duration) {
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
