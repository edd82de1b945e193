//! Events: what a person is told once, at a transition. The reason carries what differs, since an event of the same
//! reason and object within minutes is only counted; the current values are in status.

use crate::conditions::find;
use crate::facets::FACETS;
use binder_crds::conditions as types;
use binder_crds::{ActionOutcome, BinderFleetStatus, BinderHostStatus};

/// An event to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tell {
    /// Whether it needs attention.
    pub warning: bool,
    /// Why, in one CamelCase word.
    pub reason: String,
    /// What was being done: `Look`, or the kind of step.
    pub action: String,
    /// The sentence.
    pub note: String,
}

/// What changed between two statuses of a host.
pub fn transitions(before: &BinderHostStatus, after: &BinderHostStatus) -> Vec<Tell> {
    let mut told = Vec::new();
    let kinds =
        [types::REACHABLE, types::CLOCK_IN_SYNC].into_iter().chain(FACETS.iter().map(|facet| facet.condition()));
    for kind in kinds {
        let (was, is) = (find(before, kind), find(after, kind));
        let Some(is) = is else { continue };
        let changed = was.is_none_or(|was| was.status != is.status || was.reason != is.reason);
        match is.status.as_str() {
            // Waiting for something else is no news of its own, and neither is not seeing what the host does not show.
            "False" if changed && is.reason != "HeldBack" && is.reason != "Progressing" => {
                told.push(Tell {
                    warning: true,
                    reason: is.reason.clone(),
                    action: "Look".to_owned(),
                    note: is.message.clone(),
                });
            }
            "True" if was.is_some_and(|was| was.status == "False") => {
                told.push(Tell {
                    warning: false,
                    reason: kind.to_owned(),
                    action: "Look".to_owned(),
                    note: is.message.clone(),
                });
            }
            _ => {}
        }
    }
    if let Some(stalled) = find(after, types::STALLED)
        && find(before, types::STALLED).is_none_or(|was| was.reason != stalled.reason)
    {
        told.push(Tell {
            warning: true,
            reason: types::STALLED.to_owned(),
            action: "Look".to_owned(),
            note: stalled.message.clone(),
        });
    }
    told
}

/// What changed between two statuses of a fleet: its brake, and windows that can never open.
pub fn fleet_transitions(before: &BinderFleetStatus, after: &BinderFleetStatus) -> Vec<Tell> {
    let find = |status: &BinderFleetStatus, kind: &str, is: &str| {
        status.conditions.iter().find(|condition| condition.type_ == kind && condition.status == is).cloned()
    };
    let mut told = Vec::new();
    let mut tell = |warning, reason: &str, note: String| {
        told.push(Tell { warning, reason: reason.to_owned(), action: "Look".to_owned(), note });
    };
    let held = |status| find(status, types::REMEDIATION_HELD, "True");
    match (held(before), held(after)) {
        (was, Some(is)) if was.as_ref().is_none_or(|was| was.reason != is.reason) => {
            tell(true, types::REMEDIATION_HELD, is.message);
        }
        (Some(_), None) => {
            tell(false, "RemediationReleased", "steps that disrupt a service or a host are done again".to_owned());
        }
        _ => {}
    }
    let windows = |status| find(status, types::WINDOWS_VALID, "False");
    if let (None, Some(is)) = (windows(before), windows(after)) {
        tell(true, &is.reason, is.message);
    }
    told
}

/// A step is about to be done.
///
/// The action names the subject too: else starting one server would be counted as starting another once more.
pub fn starting(kind: &str, subject: &str, words: &str, action: &str, attempt: u32, allowed: u32) -> Tell {
    Tell {
        warning: false,
        reason: kind.to_owned(),
        action: format!("{kind} {subject}"),
        note: format!("{words}, attempt {attempt} of {allowed} ({action})"),
    }
}

/// A step came to its end.
pub fn ended(kind: &str, subject: &str, words: &str, action: &str, outcome: ActionOutcome, message: &str) -> Tell {
    Tell {
        warning: !matches!(outcome, ActionOutcome::Succeeded | ActionOutcome::Abandoned),
        reason: format!("{kind}{}", outcome.as_str()),
        action: format!("{kind} {subject}"),
        note: format!("{words}: {message} ({action})"),
    }
}
