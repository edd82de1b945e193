//! The wire form of every step: what a BinderAction records of it, and what is read back after a restart or by the next
//! version. `steps.json` has each kind with typical values, as `spec.step`, `subject`, `description` and `parameters` of the
//! object have it. An action that is there outlives the program that wrote it: this file only grows.

#![allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]

use binder_core::facets::Step;
use serde::Deserialize;
use std::collections::BTreeSet;

/// A step as it is recorded.
#[derive(Deserialize)]
struct Recorded {
    step: String,
    description: String,
    disrupts: String,
    parameters: serde_json::Value,
}

fn recorded() -> Vec<Recorded> {
    serde_json::from_str(include_str!("steps.json")).unwrap()
}

#[test]
fn a_step_is_read_back_as_it_was_recorded() {
    for Recorded { step: kind, description, disrupts, parameters } in recorded() {
        let step: Step = serde_json::from_value(parameters.clone()).unwrap_or_else(|bad| panic!("{kind}: {bad}"));
        assert_eq!(step.kind(), kind);
        assert_eq!(step.words(), description);
        assert_eq!(format!("{:?}", step.disruption()), disrupts, "{kind}");
        assert_eq!(step.checked(), Ok(()), "{kind}");
        assert_eq!(serde_json::to_value(&step).unwrap(), parameters);
    }
}

#[test]
fn a_step_that_lacks_a_value_or_is_of_another_kind_is_none() {
    for Recorded { step: kind, parameters, .. } in recorded() {
        let mut unknown = parameters.clone();
        unknown["step"] = "MendEverything".into();
        assert!(serde_json::from_value::<Step>(unknown).is_err());
        let optional = ["step", "path", "last"];
        let values = parameters.as_object().unwrap().keys().filter(|value| !optional.contains(&value.as_str()));
        for value in values.filter(|value| *value != "bootId" || kind == "Reboot") {
            let mut lacks = parameters.clone();
            lacks.as_object_mut().unwrap().remove(value);
            assert!(serde_json::from_value::<Step>(lacks).is_err(), "{kind} without {value}");
        }
    }
}

#[test]
fn every_kind_is_recorded() {
    let have: BTreeSet<String> = recorded().into_iter().map(|recorded| recorded.step).collect();
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/steps.md")).unwrap();
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let listed: BTreeSet<String> = rows.map(str::to_owned).collect();
    assert_eq!(have, listed, "docs/steps.md and steps.json");
    assert!(have.len() >= 26, "{have:?}");
}
