//! Which hosts of a fleet are disrupted: what the fleet's budget counts.
//!
//! What our own steps do is told by BinderActions, found by the host's name, so that a host whose object was made anew counts.
//! Before one is done, those that disrupt a host of the fleet are read from the API itself ([`refresh`]): a host that another
//! step of ours has just taken down must count. Hosts that are down by themselves are told by their status, as a
//! PodDisruptionBudget counts pods that are not ready, whoever took them down.

use super::{Context, Error, fleet, list_all};
use binder_core::facets::{Disruption, Step};
use binder_core::plan::memory::{Attempt, Disrupted};
use binder_core::status::conditions::find;
use binder_crds::{
    ActionOutcome, BinderAction, BinderFleet, BinderHostStatus, DISRUPTS_LABEL, FLEET_LABEL, conditions,
};
use kube::ResourceExt;
use kube::api::ListParams;

/// The kind of the step that gives a host a new version of a module.
const INSTALL: &str = "InstallModule";

/// What keeps this host from taking its turn.
#[derive(Clone, Debug, Default)]
pub(super) struct Others {
    /// The other hosts of the fleet that are disrupted, by a step of ours or by themselves.
    pub(super) disrupted: Vec<Disrupted>,
    /// Those that were given a new version of a module and are not well with it: it must prove itself on one host before the
    /// next one gets it.
    pub(super) updating: Vec<String>,
}

/// Reads from the API itself which steps disrupt a host of a fleet.
///
/// # Errors
/// [`Error`] when the API fails.
pub(super) async fn refresh(context: &Context, namespace: &str, of: &BinderFleet) -> Result<(), Error> {
    let selector = format!("{DISRUPTS_LABEL}=host,{FLEET_LABEL}={}", of.name_any());
    let api = context.api::<BinderAction>(namespace);
    let actions = list_all(&api, &ListParams::default().labels(&selector), "BinderActions").await?;
    actions.iter().for_each(|action| context.actions.wrote(action));
    Ok(())
}

/// The other hosts of the fleet that stand in this one's way.
pub(super) fn others(context: &Context, namespace: &str, uid: &str, of: Option<&BinderFleet>) -> Others {
    let Some(of) = of else { return Others::default() };
    let mut others = Others::default();
    for host in fleet::members(context, of).iter() {
        let other = host.uid().unwrap_or_default();
        if other == uid {
            continue;
        }
        let written = context.known().get(&other).and_then(|known| known.status.clone());
        let status = written.or_else(|| host.status.clone()).unwrap_or_default();
        let name = host.name_any();
        let its = context.actions.of(namespace, &name);
        let its: Vec<&Attempt> = its.iter().filter(|one| one.stranger.is_none()).map(|one| &one.past).collect();
        let under_way = its.iter().any(|past| takes_turns(past) && past.outcome.is_none());
        let ours = its.iter().any(|past| disrupts(past, &status));
        if ours || (!host.spec.suspend && is_down(&status)) {
            let domain = host.spec.domain.as_ref().map(|domain| domain.0.clone());
            others.disrupted.push(Disrupted { host: name, domain, under_way });
        }
        if its.iter().any(|past| updates(past, &status)) {
            others.updating.push(host.name_any());
        }
    }
    others
}

/// Whether an attempt is at a step that disrupts a whole host: one that this version does not know may be.
fn takes_turns(past: &Attempt) -> bool {
    past.step.as_ref().map_or(past.disruption() == Disruption::Host, Step::takes_turns)
}

/// Whether a host does not do its work, by its status: nobody has looked at it yet, nobody can, what it is described to run
/// does not all run, or the Kubernetes API that it serves does not answer. A host that only refuses our login serves on.
fn is_down(status: &BinderHostStatus) -> bool {
    let is_false = |kind: &str, reasons: &[&str]| {
        find(status, kind).is_some_and(|condition| {
            condition.status == "False" && (reasons.is_empty() || reasons.contains(&condition.reason.as_str()))
        })
    };
    status.observed_generation < 0
        || is_false(conditions::REACHABLE, &["Unreachable", "Hung", "ConnectionLost", "NoAnswer"])
        || is_false(conditions::SERVICES_RUNNING, &[])
        || is_false(conditions::KUBERNETES_API_ANSWERING, &["ApiNotAnswering", "ApiStarved"])
}

/// An attempt disrupts while nobody knows how it ended, and after that until the host's services are back, whatever came
/// of it: a host that a step of ours took down and that stays down is the last reason to take down another.
fn disrupts(past: &Attempt, status: &BinderHostStatus) -> bool {
    use binder_crds::ActionOutcome::{Abandoned, Failed, Succeeded, Unknown};
    match past.outcome.filter(|_| takes_turns(past)) {
        None => takes_turns(past),
        Some(Abandoned) => false,
        Some(Succeeded | Failed | Unknown) => {
            this_incident(past, status)
                && !(is(status, conditions::REACHABLE) && is(status, conditions::SERVICES_RUNNING))
        }
    }
}

/// A new version of a module is under way until the host is as described with it, or until its owner asks for another.
fn updates(past: &Attempt, status: &BinderHostStatus) -> bool {
    let all = [conditions::REACHABLE, conditions::SERVICES_RUNNING, conditions::MODULES_AT_VERSION];
    past.kind == INSTALL
        && match past.outcome {
            None => true,
            Some(ActionOutcome::Abandoned) => false,
            Some(_) => this_incident(past, status) && !all.iter().all(|kind| is(status, kind)),
        }
}

fn is(status: &BinderHostStatus, kind: &str) -> bool {
    find(status, kind).is_none_or(|condition| condition.status == "True")
}

fn this_incident(past: &Attempt, status: &BinderHostStatus) -> bool {
    // Both by the operator's own clock, as far as the action tells it.
    status.incident_since.as_ref().is_some_and(|since| past.created >= since.0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::super::record;
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
    use serde_json::json;

    fn action(step: &str, outcome: Option<ActionOutcome>) -> Attempt {
        let mut action: BinderAction = serde_json::from_value(json!({
            "apiVersion": "fleet.binder-project.org/v1alpha1",
            "kind": "BinderAction",
            "metadata": {"name": "a", "creationTimestamp": "2026-11-22T03:00:10Z"},
            "spec": {
                "host": "web", "hostUid": "uid", "step": step, "subject": "module binder-web@1.1.18", "description": "",
                "parameters": {}, "drift": "ModuleOld", "evidence": "", "attempt": 1, "deadline": "2026-11-22T03:05:00Z",
            },
        }))
        .unwrap();
        action.status = outcome.map(|outcome| binder_crds::BinderActionStatus {
            outcome: Some(outcome),
            ..binder_crds::BinderActionStatus::default()
        });
        record::past(&action)
    }

    fn status(services: &str, modules: &str, since: &str) -> BinderHostStatus {
        let since = Time(since.parse().unwrap());
        let condition = |kind: &str, is: &str| Condition {
            type_: kind.to_owned(),
            status: is.to_owned(),
            reason: "Any".to_owned(),
            message: String::new(),
            observed_generation: None,
            last_transition_time: since.clone(),
        };
        BinderHostStatus {
            incident_since: Some(since.clone()),
            conditions: vec![
                condition(conditions::SERVICES_RUNNING, services),
                condition(conditions::MODULES_AT_VERSION, modules),
            ],
            ..BinderHostStatus::default()
        }
    }

    const NOW: &str = "2026-11-22T03:00:00Z";

    #[test]
    fn a_new_version_holds_the_next_host_back_until_it_has_proven_itself() {
        let done = action("InstallModule", Some(ActionOutcome::Succeeded));
        assert!(updates(&action("InstallModule", None), &status("True", "True", NOW)));
        assert!(updates(&done, &status("True", "False", NOW)), "installed, and not run yet");
        assert!(updates(&done, &status("False", "True", NOW)), "what uses it is not up");
        assert!(updates(&done, &status("True", "Unknown", NOW)), "unknown is not well");
        assert!(!updates(&done, &status("True", "True", NOW)));
        assert!(!updates(&done, &status("True", "False", "2026-11-22T04:00:00Z")), "another incident, not ours");
        assert!(!updates(&action("InstallModule", Some(ActionOutcome::Abandoned)), &status("True", "False", NOW)));
        assert!(!updates(&action("Reboot", Some(ActionOutcome::Succeeded)), &status("False", "False", NOW)));
    }

    #[test]
    fn a_host_that_is_down_by_itself_is_disrupted() {
        let of = |kind: &str, is: &str, reason: &str| {
            let mut status = status("True", "True", NOW);
            status.observed_generation = 1;
            status.conditions.push(Condition {
                type_: kind.to_owned(),
                status: is.to_owned(),
                reason: reason.to_owned(),
                message: String::new(),
                observed_generation: None,
                last_transition_time: Time(NOW.parse().unwrap()),
            });
            is_down(&status)
        };
        assert!(of(conditions::REACHABLE, "False", "Unreachable"));
        assert!(!of(conditions::REACHABLE, "False", "LoginRefused"), "it serves, and does not let us in");
        assert!(of(conditions::KUBERNETES_API_ANSWERING, "False", "ApiNotAnswering"));
        assert!(!of(conditions::KUBERNETES_API_ANSWERING, "False", "NodesNotReady"));
        assert!(!of(conditions::MODULES_AT_VERSION, "False", "ModuleOld"));
        let mut down = status("False", "True", NOW);
        down.observed_generation = 1;
        assert!(is_down(&down));
        assert!(is_down(&BinderHostStatus::default()), "made anew: not looked at yet");
    }

    #[test]
    fn a_version_that_was_taken_back_holds_no_restart_of_another_machine_back() {
        let done = action("InstallModule", Some(ActionOutcome::Succeeded));
        let taken_back = status("True", "False", NOW);
        assert!(updates(&done, &taken_back), "no other host is given it");
        assert!(!disrupts(&done, &taken_back));
        assert!(disrupts(&done, &status("False", "True", NOW)));
    }
}
