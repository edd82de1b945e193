//! The definitions themselves: taken by the API server without a warning, served, and free of what it merely tolerates.

use std::sync::Arc;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, ResourceExt};
use libtest_mimic::{Failed, Trial};
use serde_json::json;

use crate::place::Place;
use crate::{Outcome, ensure, trial};

/// Every constant of the API's conditions, as its source has them: one that is added is tested without being named here.
const CONDITIONS: &str = include_str!("../../../crds/src/conditions.rs");

const NAMES: [&str; 3] = [
    "binderactions.fleet.binder-project.org",
    "binderfleets.fleet.binder-project.org",
    "binderhosts.fleet.binder-project.org",
];

/// The tests of this module.
pub(crate) fn trials(place: &Arc<Place>, trials: &mut Vec<Trial>) {
    trials.push(trial(place, "definitions::taken_without_a_warning", without_a_warning));
    trials.push(trial(place, "definitions::served_and_structural", served_and_structural));
    trials.push(trial(place, "definitions::condition_types_and_reasons_are_valid", condition_names));
}

/// The rules' cost is bounded at the largest sizes, or they would have been refused; formats are known, or there would be
/// a warning.
async fn without_a_warning(place: &Place) -> Outcome {
    let said = &place.api().await?.applied;
    for name in NAMES {
        ensure(said.contains(&format!("{name} serverside-applied")), || format!("{name} is missing in:\n{said}"))?;
    }
    ensure(said.lines().count() == NAMES.len(), || format!("more was said than that they are applied:\n{said}"))
}

async fn served_and_structural(place: &Place) -> Outcome {
    let api: Api<CustomResourceDefinition> = Api::all(place.api().await?.client.clone());
    for name in NAMES {
        let definition = api.get(name).await?;
        let status = definition.status.clone().unwrap_or_default();
        let conditions = status.conditions.unwrap_or_default();
        let of = |type_: &str| conditions.iter().find(|condition| condition.type_ == type_);
        for good in ["NamesAccepted", "Established"] {
            let is = of(good).is_some_and(|condition| condition.status == "True");
            ensure(is, || format!("{name}: {good} is not True: {conditions:?}"))?;
        }
        // Present only when it is so.
        if let Some(condition) = of("NonStructuralSchema").filter(|condition| condition.status == "True") {
            return Err(Failed::from(format!("{name}: {:?}", condition.message)));
        }
        for version in &definition.spec.versions {
            let status = version.subresources.as_ref().is_some_and(|subresources| subresources.status.is_some());
            ensure(status, || format!("{name} {} has no status subresource", version.name))?;
        }
        ensure(definition.name_any() == name, || format!("asked for {name}"))?;
    }
    Ok(())
}

/// Lets the API server judge the names, by its own check of conditions in a kind of its own that has it.
async fn condition_names(place: &Place) -> Outcome {
    let api = place.api().await?;
    let budget = json!({
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": { "name": "conditions", "namespace": "default" },
        "spec": { "maxUnavailable": 1, "selector": { "matchLabels": { "none": "has-this" } } },
    });
    api.create(&budget, false).await?;
    let judge = async |type_: &str, reason: &str| {
        let condition = json!({
            "type": type_, "status": "True", "reason": reason, "message": "", "lastTransitionTime": "2016-06-01T14:02:10Z",
        });
        api.merge(&budget, "/status", &json!({ "status": { "conditions": [condition] } })).await
    };
    ensure(judge("not a type", "Reason").await.is_err(), || "the API server's check of types is gone".to_owned())?;
    ensure(judge("Type", "not a reason").await.is_err(), || "the API server's check of reasons is gone".to_owned())?;
    let names: Vec<&str> = CONDITIONS
        .lines()
        .filter(|line| line.starts_with("pub const "))
        .filter_map(|line| line.split('"').nth(1))
        .collect();
    ensure(names.len() > 10, || format!("only {names:?} were found"))?;
    for name in names {
        judge(name, name).await.map_err(|error| format!("`{name}`: {error}"))?;
    }
    Ok(())
}
