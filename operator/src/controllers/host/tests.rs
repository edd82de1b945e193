//! What of a pass over a host can be judged without an API.

#![allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]

use super::act::*;
use super::*;
use binder_core::plan::memory::Attempt;
use binder_crds::{ActionOutcome, BinderFleetSpec};
use jiff::Timestamp;
use serde_json::json;

fn host(labels: serde_json::Value, owner: Option<&str>) -> BinderHost {
    let owners: Vec<serde_json::Value> = owner
        .map(|uid| json!({"apiVersion": "fleet.binder-project.org/v1alpha1", "kind": "BinderFleet", "name": "binder", "uid": uid, "controller": true}))
        .into_iter()
        .collect();
    serde_json::from_value(json!({
        "apiVersion": "fleet.binder-project.org/v1alpha1", "kind": "BinderHost",
        "metadata": {"name": "web", "namespace": "binder", "uid": "h", "labels": labels, "ownerReferences": owners},
        "spec": {"address": "10.0.0.1", "hostKeys": ["ssh-ed25519 AAAA"]},
    }))
    .unwrap()
}

fn a_fleet(uid: &str, generation: i64, deleted: bool) -> BinderFleet {
    let mut fleet = BinderFleet::new("binder", BinderFleetSpec { mode: Mode::Enforce, ..BinderFleetSpec::default() });
    fleet.metadata.namespace = Some("binder".to_owned());
    fleet.metadata.uid = Some(uid.to_owned());
    fleet.metadata.generation = Some(generation);
    fleet.metadata.deletion_timestamp =
        deleted.then_some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::UNIX_EPOCH));
    fleet.spec.host_selector = serde_json::from_value(json!({"matchLabels": {"team": "binder"}})).unwrap();
    fleet
}

#[test]
fn a_fleet_that_was_not_known_ends_what_was_decided_without_it() {
    let host = host(json!({"team": "binder"}), None);
    let fleet = a_fleet("f", 1, false);
    assert!(governed_as_known(None, &host, &[]));
    assert!(!governed_as_known(None, &host, std::slice::from_ref(&fleet)), "the list of fleets came later");
    assert!(governed_as_known(Some(&fleet), &host, std::slice::from_ref(&fleet)));
    assert!(!governed_as_known(Some(&fleet), &host, &[a_fleet("f", 2, false)]), "its owner has changed it");
    assert!(!governed_as_known(Some(&fleet), &host, &[a_fleet("f", 1, true)]), "it is being deleted");
    assert!(!governed_as_known(Some(&fleet), &host, &[fleet.clone(), a_fleet("g", 1, false)]));
    assert!(!governed_as_known(Some(&fleet), &host, &[]));
}

#[test]
fn a_host_whose_fleet_is_missing_is_known_by_owner_and_label() {
    assert_eq!(fleet::named_by(&host(json!({}), Some("gone"))).as_deref(), Some("binder"));
    let orphan = host(json!({"fleet.binder-project.org/fleet": "other"}), None);
    assert_eq!(fleet::named_by(&orphan).as_deref(), Some("other"), "deleted with --cascade=orphan");
    assert_eq!(fleet::named_by(&host(json!({"team": "binder"}), None)), None);
}

#[test]
fn a_fleet_that_is_being_deleted_allows_nothing() {
    let host = host(json!({"team": "binder"}), None);
    assert_eq!(fleet::mode(&a_fleet("f", 1, false), &host), Mode::Enforce);
    assert_eq!(fleet::mode(&a_fleet("f", 1, true), &host), Mode::Observe);
}

#[test]
fn a_backup_that_nobody_makes_is_not_waited_for() {
    let now: Timestamp = "2026-05-01T12:00:00Z".parse().unwrap();
    let ago = |seconds| now - jiff::SignedDuration::from_secs(seconds);
    let past = |sent_at| Attempt {
        name: "services-1".to_owned(),
        uid: String::new(),
        step: None,
        kind: "BackUp".to_owned(),
        subject: "backup".to_owned(),
        words: String::new(),
        attempt: 1,
        created: ago(600),
        deadline: now,
        sent_at,
        said: "the bucket refuses".to_owned(),
        outcome: None,
        finished_at: None,
        message: String::new(),
    };
    assert_eq!(backup_over(&past(None), true, now), None, "it is being made, for ten minutes now");
    let outcome = |past: &Attempt| backup_over(past, false, now).map(|finish| finish.outcome);
    assert_eq!(outcome(&past(None)), Some(ActionOutcome::Unknown), "an earlier process was killed over it");
    assert_eq!(outcome(&past(Some(ago(5)))), None, "it may still be seen");
    assert_eq!(outcome(&past(Some(ago(60)))), Some(ActionOutcome::Failed));
}

#[test]
fn what_was_seen_long_ago_is_not_acted_on() {
    let seconds = |seconds| Instant::now().checked_sub(Duration::from_secs(seconds)).unwrap();
    let decided = |evidence_at| Decided {
        at: Timestamp::UNIX_EPOCH,
        evidence_at,
        incident: None,
        remembered: Remembered::of(&binder_core::plan::memory::History::default()),
    };
    assert_eq!(decided(seconds(10)).too_old(), None);
    assert!(decided(seconds(16)).too_old().is_some());
}
