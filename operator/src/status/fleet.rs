//! What people read of a fleet: counts and the worst few hosts, never a row per host.

use super::conditions::{Conditions, Is, find, shorten};
use super::is_healthy;
use binder_crds::fleet::HostProblem;
use binder_crds::{BinderFleetStatus, BinderHost, BinderHostStatus, Mode, conditions as types};
use jiff::Timestamp;
use kube::ResourceExt;

/// How many hosts a fleet's status names.
const WORST: usize = 5;

/// What the operator could not do for a fleet, in the owner's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The condition's reason.
    pub reason: &'static str,
    /// What is wrong and what to do.
    pub message: String,
}

/// A fleet's status from its hosts.
pub fn summarize(
    previous: &BinderFleetStatus,
    generation: i64,
    mode: Mode,
    suspended: bool,
    hosts: &[&BinderHost],
    refused: &[Refused],
    now: Timestamp,
) -> BinderFleetStatus {
    let nothing = BinderHostStatus::default();
    let status = |host: &BinderHost| host.status.clone().unwrap_or_else(|| nothing.clone());
    let current = |host: &BinderHost| {
        host.status.as_ref().is_some_and(|status| Some(status.observed_generation) == host.metadata.generation)
    };
    let ready = |host: &BinderHost| {
        current(host)
            && host
                .status
                .as_ref()
                .and_then(|status| find(status, types::READY))
                .is_some_and(|ready| ready.status == "True")
    };
    let healthy =
        |host: &BinderHost| current(host) && host.status.as_ref().and_then(is_healthy).is_some_and(|healthy| healthy);

    // The worst first: not seen at all, then stalled, then differing; by name within each.
    let mut worst: Vec<(u8, String, String)> = hosts
        .iter()
        .filter(|host| !healthy(host))
        .map(|host| {
            let status = status(host);
            let severity = match (is_healthy(&status), find(&status, types::STALLED)) {
                (None, Some(_)) => 0,
                (None, None) if status.observed_generation >= 0 => 1,
                (Some(_), Some(_)) => 2,
                (Some(_), None) => 3,
                (None, None) => 4,
            };
            let problem = if status.observed_generation < 0 { "not looked at yet".to_owned() } else { status.summary };
            (severity, host.name_any(), problem)
        })
        .collect();
    worst.sort();
    let count = hosts.len();
    let fine = count - worst.len();
    let unready: Vec<String> = hosts.iter().filter(|host| !ready(host)).map(|host| host.name_any()).collect();

    let mut list = Conditions::new(&previous.conditions, generation, now);
    if let Some(first) = refused.first() {
        list.set(types::READY, Is::False, first.reason, first.message.clone());
    } else if unready.is_empty() {
        list.set(types::READY, Is::True, "Applied", format!("generation {generation} is acted on at every host"));
    } else {
        list.set(types::READY, Is::False, "HostsNotReady", format!("not acted on yet at {}", few(&unready)));
    }
    if fine == count {
        list.set(types::HEALTHY, Is::True, "AsDescribed", format!("{count} of {count} hosts are as described"));
    } else {
        let unknown = worst.iter().all(|(severity, ..)| matches!(severity, 0 | 1 | 4));
        let is = if unknown { Is::Unknown } else { Is::False };
        list.set(types::HEALTHY, is, "HostsDiffer", format!("{fine} of {count} hosts are as described"));
    }
    let (is, reason, message) = match (suspended, mode) {
        (true, _) => (Is::False, "Suspended", "the fleet is suspended: no host is looked at or acted on".to_owned()),
        (false, Mode::Enforce) => (Is::True, "ModeEnforce", "mode Enforce".to_owned()),
        (false, Mode::Approve) => (Is::False, "ModeApprove", "mode Approve: every step waits for a person".to_owned()),
        (false, Mode::Observe) => {
            (Is::False, "ModeObserve", "mode Observe: set mode Enforce to have remedies done".to_owned())
        }
    };
    list.set(types::REMEDIATION_ALLOWED, is, reason, message);
    if let Some(first) = refused.first() {
        list.set(types::STALLED, Is::True, first.reason, first.message.clone());
    } else if !unready.is_empty() {
        list.set(types::RECONCILING, Is::True, "HostsNotReady", format!("waiting for {}", few(&unready)));
    }
    let problem = match worst.first() {
        None => refused.first().map(|first| shorten(&first.message, 120)).unwrap_or_default(),
        Some((_, host, problem)) if worst.len() == 1 => shorten(&format!("{host}: {problem}"), 120),
        Some((_, host, problem)) => format!("{} (+{})", shorten(&format!("{host}: {problem}"), 110), worst.len() - 1),
    };
    BinderFleetStatus {
        observed_generation: generation,
        summary: if fine == count {
            format!("All {count} hosts are as described.")
        } else {
            format!("{fine} of {count} hosts are as described.")
        },
        hosts: u32::try_from(count).unwrap_or(u32::MAX),
        healthy: u32::try_from(fine).unwrap_or(u32::MAX),
        problem,
        worst: worst
            .into_iter()
            .take(WORST)
            .map(|(_, host, problem)| HostProblem { host, problem: shorten(&problem, 200) })
            .collect(),
        conditions: list.list(),
    }
}

fn few(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [one] => one.clone(),
        [first, rest @ ..] => format!("{first} and {} more", rest.len()),
    }
}
