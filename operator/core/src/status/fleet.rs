//! What people read of a fleet: counts and the worst few hosts, never a row per host.

use super::is_healthy;
use crate::conditions::{Conditions, Is, find};
use crate::plan::brake::{CALM_LOOKS, Held};
use crate::plan::windows;
use crate::words::shorten;
use binder_crds::fleet::{HostProblem, Window};
use binder_crds::{
    BinderFleetSpec, BinderFleetStatus, BinderHost, BinderHostStatus, Mode, RELEASE_ANNOTATION, conditions as types,
};
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

/// Everything that a fleet's status tells.
#[derive(Clone, Copy, Debug)]
pub struct Story<'a> {
    /// The fleet's name.
    pub name: &'a str,
    /// The generation of its spec.
    pub generation: i64,
    /// Its spec.
    pub spec: &'a BinderFleetSpec,
    /// Its hosts, by name.
    pub hosts: &'a [&'a BinderHost],
    /// What could not be done for it.
    pub refused: &'a [Refused],
    /// Why its brake holds.
    pub held: Option<&'a Held>,
    /// Fields that ask for less patience than the operator's flags allow.
    pub raised: &'a [&'static str],
    /// The operator's clock.
    pub now: Timestamp,
}

/// What stands between why the brake holds and what opens it.
const HOLDS: &str = ". No step that disrupts a service or a host is done in this fleet: is it one cause";

/// The condition's message: why the brake holds, and what opens it.
pub fn held_message(held: &Held, fleet: &str) -> String {
    format!(
        "{}{HOLDS}, or the operator's own sight? It opens when {CALM_LOOKS} looks long nothing of it is seen, or by kubectl \
         annotate bf {fleet} --overwrite {RELEASE_ANNOTATION}=$(date -u +%FT%TZ)",
        held.words
    )
}

/// Why the brake holds, out of the condition's message.
pub fn why_held(message: &str) -> String {
    message.split_once(HOLDS).map_or(message, |(why, _)| why).to_owned()
}

/// A fleet's status from its hosts.
pub fn summarize(previous: &BinderFleetStatus, story: &Story<'_>) -> BinderFleetStatus {
    let Story { name, generation, spec, hosts, refused, held, raised, now } = *story;
    let (mode, suspended) = (spec.mode, spec.suspend);
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
        (false, Mode::Enforce) if held.is_some() => {
            (Is::False, "Held", "the fleet's brake holds: only steps that disrupt nothing are done".to_owned())
        }
        (false, Mode::Enforce) if !raised.is_empty() => {
            let words = raised.join(", ");
            (
                Is::True,
                "ModeEnforce",
                format!("mode Enforce; shorter than the operator allows, so its flag counts: {words}"),
            )
        }
        (false, Mode::Enforce) => (Is::True, "ModeEnforce", "mode Enforce".to_owned()),
        (false, Mode::Approve) => (Is::False, "ModeApprove", "mode Approve: every step waits for a person".to_owned()),
        (false, Mode::Observe) => {
            (Is::False, "ModeObserve", "mode Observe: set mode Enforce to have remedies done".to_owned())
        }
    };
    list.set(types::REMEDIATION_ALLOWED, is, reason, message);
    if let Some(held) = held {
        list.set(types::REMEDIATION_HELD, Is::True, held.reason, held_message(held, name));
    }
    if !spec.windows.is_empty() {
        windows_valid(&mut list, &spec.windows);
    }
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

/// Whether each window can open. One that cannot holds back what is planned for good, if it is the only one.
fn windows_valid(list: &mut Conditions<'_>, windows: &[Window]) {
    let never: Vec<String> = windows::never_open(windows)
        .iter()
        .map(|(place, why)| format!("windows[{place}] never opens: {why}"))
        .collect();
    if never.is_empty() {
        list.set(types::WINDOWS_VALID, Is::True, "AsDescribed", "every window can open");
    } else {
        list.set(types::WINDOWS_VALID, Is::False, "WindowNeverOpens", never.join("; "));
    }
}

fn few(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [one] => one.clone(),
        [first, rest @ ..] => format!("{first} and {} more", rest.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use binder_crds::text::{Schedule, Span};

    fn status(spec: &BinderFleetSpec, held: Option<&Held>, raised: &[&'static str]) -> BinderFleetStatus {
        let now = Timestamp::UNIX_EPOCH;
        let story = Story { name: "binder", generation: 1, spec, hosts: &[], refused: &[], held, raised, now };
        summarize(&BinderFleetStatus::default(), &story)
    }

    fn condition(status: &BinderFleetStatus, kind: &str) -> Option<(String, String, String)> {
        let found = status.conditions.iter().find(|condition| condition.type_ == kind)?;
        Some((found.status.clone(), found.reason.clone(), found.message.clone()))
    }

    #[test]
    fn a_window_that_can_never_open_is_a_condition() {
        let window = |schedule: &str| Window {
            schedule: Schedule::from(schedule),
            duration: Span::from("1h"),
            ..Window::default()
        };
        let of = |windows: Vec<Window>| {
            let spec = BinderFleetSpec { windows, ..BinderFleetSpec::default() };
            condition(&status(&spec, None, &[]), types::WINDOWS_VALID)
        };
        assert_eq!(of(Vec::new()), None);
        assert_eq!(of(vec![window("0 3 * * *")]).map(|found| found.0).as_deref(), Some("True"));
        let (is, reason, message) = of(vec![window("0 3 * * *"), window("0 3 30 2 *")]).unwrap_or_default();
        assert_eq!((is.as_str(), reason.as_str()), ("False", "WindowNeverOpens"));
        assert!(message.starts_with("windows[1] never opens: "), "{message}");
    }

    #[test]
    fn a_brake_that_holds_says_why_and_what_opens_it() {
        let spec = BinderFleetSpec { mode: Mode::Enforce, ..BinderFleetSpec::default() };
        let held = Held { reason: "RemediesFail", words: "Reboot failed on 3 of 4 hosts".to_owned() };
        let (is, reason, message) =
            condition(&status(&spec, Some(&held), &[]), types::REMEDIATION_HELD).unwrap_or_default();
        assert_eq!((is.as_str(), reason.as_str()), ("True", "RemediesFail"));
        assert!(message.contains("annotate bf binder --overwrite fleet.binder-project.org/release="), "{message}");
        assert_eq!(why_held(&message), held.words);
        let open = status(&spec, None, &[]);
        assert_eq!(condition(&open, types::REMEDIATION_HELD), None);
        assert_eq!(condition(&open, types::REMEDIATION_ALLOWED).map(|found| found.0).as_deref(), Some("True"));
        let below = status(&spec, None, &["remedies.unreachableTimeout (--min-unreachable-timeout)"]);
        assert!(
            condition(&below, types::REMEDIATION_ALLOWED).is_some_and(|found| found.2.contains("unreachableTimeout"))
        );
    }
}
