//! The status of a host whose pass did not come to its end: nothing was decided, and nothing is known of it any more.

use super::events::Tell;
use crate::conditions::{Conditions, Is};
use binder_crds::conditions as types;
use binder_crds::{BinderHostStatus, conditions};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

/// Why a pass did not come to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// In one CamelCase word.
    pub reason: &'static str,
    /// In a sentence without figures that change.
    pub message: String,
}

/// The status after a pass that failed. What was there stays, but for what would pass for knowledge: an unknown host is not
/// a healthy one.
pub fn status(previous: &BinderHostStatus, generation: i64, failed: &Failed, now: Timestamp) -> BinderHostStatus {
    let mut list = Conditions::new(&previous.conditions, generation, now);
    list.set(types::READY, Is::False, failed.reason, failed.message.clone());
    list.set(types::HEALTHY, Is::Unknown, failed.reason, format!("not looked at: {}", failed.message));
    list.set(types::RECONCILE_FAILED, Is::True, failed.reason, failed.message.clone());
    let mut list = list.list();
    let replaced: Vec<String> = list.iter().map(|condition| condition.type_.clone()).collect();
    let stays = |condition: &&Condition| {
        !replaced.contains(&condition.type_)
            && ![types::RECONCILING, types::STALLED].contains(&condition.type_.as_str())
    };
    list.extend(previous.conditions.iter().filter(stays).cloned());
    BinderHostStatus {
        observed_generation: generation,
        summary: crate::words::shorten(&format!("Not looked at: {}.", failed.message), 400),
        next: "look again".to_owned(),
        waits_for: String::new(),
        plan: Vec::new(),
        conditions: list,
        ..previous.clone()
    }
}

/// What a person is told, once for each reason.
pub fn event(previous: &BinderHostStatus, failed: &Failed) -> Option<Tell> {
    let told = crate::conditions::find(previous, conditions::RECONCILE_FAILED)
        .is_some_and(|before| before.status == "True" && before.reason == failed.reason);
    (!told).then(|| Tell {
        warning: true,
        reason: conditions::RECONCILE_FAILED.to_owned(),
        action: "Look".to_owned(),
        note: failed.message.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conditions::find;

    #[test]
    fn a_pass_that_failed_leaves_no_healthy_host_and_changes_nothing_the_second_time() {
        let now = Timestamp::UNIX_EPOCH;
        let mut list = Conditions::new(&[], 1, now);
        list.set(types::READY, Is::True, "Applied", "");
        list.set(types::HEALTHY, Is::True, "AsDescribed", "");
        list.set(types::SERVICES_RUNNING, Is::True, "AsDescribed", "");
        let before = BinderHostStatus { conditions: list.list(), ..BinderHostStatus::default() };
        let failed = Failed { reason: "Defect", message: "a defect of this program at src/x.rs:1:2".to_owned() };
        let after = status(&before, 1, &failed, now);
        let is = |kind: &str| find(&after, kind).map(|condition| condition.status.clone());
        assert_eq!(is(types::HEALTHY).as_deref(), Some("Unknown"));
        assert_eq!(is(types::READY).as_deref(), Some("False"));
        assert_eq!(is(types::RECONCILE_FAILED).as_deref(), Some("True"));
        assert_eq!(is(types::SERVICES_RUNNING).as_deref(), Some("True"), "kept, so that nothing else flickers");
        assert!(event(&before, &failed).is_some());
        let later = now + jiff::SignedDuration::from_secs(60);
        assert_eq!(status(&after, 1, &failed, later), after);
        assert_eq!(event(&after, &failed), None);
    }
}
