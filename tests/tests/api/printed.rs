//! What `kubectl get` and `kubectl explain` print: the columns of each kind, quiet when all is well, and the words of
//! the API's documentation.

use std::sync::Arc;

use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::cases::{action, owners_file};
use crate::place::{Api, Place};
use crate::{Outcome, ensure, trial};

/// The namespace of these tests' objects.
const NAMESPACE: &str = "printed";

/// The tests of this module.
pub(crate) fn trials(place: &Arc<Place>, trials: &mut Vec<Trial>) {
    trials.push(trial(place, "printed::columns_rows_and_the_category", columns));
    trials.push(trial(place, "printed::explain_has_the_words", explain));
}

async fn columns(place: &Place) -> Outcome {
    let api = place.api().await?;
    api.namespace(NAMESPACE, json!({})).await?;
    let fleet = in_namespace(owners_file()?);
    api.create(&fleet, false).await?;
    let well = host(&fleet, 1);
    let drifted = host(&fleet, 0);
    let record = in_namespace(action()?);
    for object in [&well, &drifted, &record] {
        api.create(object, false).await?;
    }

    // Before anything was seen, nothing is claimed.
    row(api, &["bh", "binder-services"], "NAME HEALTHY DRIFT NEXT WAITS FOR AGE", "binder-services").await?;
    row(api, &["bf"], "NAME HOSTS HEALTHY MODE PROBLEM AGE", "binder 0 0 Enforce").await?;

    tell(api, &fleet, json!({ "hosts": 4, "healthy": 2, "problem": "binder-web-deploy: 2 things are not so" })).await?;
    tell(api, &well, json!({ "conditions": [healthy("True", "AsDescribed")] })).await?;
    let story = json!({
        "conditions": [healthy("False", "Drifted")],
        "drift": "8085: nothing serves (+1)",
        "next": "start kubectl proxy (2/3)",
        "waitsFor": "retry in 40s",
        "summary": "Not as described: nothing serves port 8085",
    });
    tell(api, &drifted, story).await?;
    tell(api, &record, json!({ "outcome": "Failed", "message": "the port never answered" })).await?;

    row(
        api,
        &["bf"],
        "NAME HOSTS HEALTHY MODE PROBLEM AGE",
        "binder 4 2 Enforce binder-web-deploy: 2 things are not so",
    )
    .await?;
    let header = "NAME HEALTHY DRIFT NEXT WAITS FOR AGE";
    row(api, &["bh", "binder-services"], header, "binder-services True").await?;
    row(
        api,
        &["bh", "binder-web-deploy"],
        header,
        "binder-web-deploy False 8085: nothing serves (+1) start kubectl proxy (2/3) retry in 40s",
    )
    .await?;
    row(
        api,
        &["bh", "binder-web-deploy", "-o", "wide"],
        "NAME HEALTHY DRIFT NEXT WAITS FOR ADDRESS SUMMARY AGE",
        "binder-web-deploy False 8085: nothing serves (+1) start kubectl proxy (2/3) retry in 40s 198.18.0.12 \
         Not as described: nothing serves port 8085",
    )
    .await?;
    row(
        api,
        &["ba"],
        "NAME HOST STEP SUBJECT ATTEMPT OUTCOME AGE",
        "binder-web-deploy-8f3a binder-web-deploy StartKubectlProxy 8085 1 Failed",
    )
    .await?;

    let all = api.kubectl(["get", "binder", "-n", NAMESPACE, "-o", "name"]).await?;
    let mut names: Vec<&str> = all.stdout.lines().collect();
    names.sort_unstable();
    let expected = [
        "binderaction.fleet.binder-project.org/binder-web-deploy-8f3a",
        "binderfleet.fleet.binder-project.org/binder",
        "binderhost.fleet.binder-project.org/binder-services",
        "binderhost.fleet.binder-project.org/binder-web-deploy",
    ];
    ensure(names == expected, || format!("`kubectl get binder` finds {names:?}"))
}

async fn explain(place: &Place) -> Outcome {
    let api = place.api().await?;
    for (what, words) in [
        (
            "bh.spec.portRedirects",
            &["each by exactly one rule", "PREROUTING", "The interface that the connections"][..],
        ),
        ("bf.spec.mode", &["A new fleet only observes", "ENUM: Observe Approve Enforce"]),
        ("bf.spec.hosts.hostKeys", &["there is no trust on first use"]),
        ("bf.spec.access.keySecretRef", &["kubernetes.io/ssh-auth"]),
        ("bh.status.observedGeneration", &["-1 before the first look"]),
        ("ba.spec", &["What the step is to cure"]),
    ] {
        let said = api.kubectl(["explain", what]).await?;
        ensure(said.ok(), || said.said())?;
        let text = squeezed(&said.stdout);
        for words in words {
            ensure(text.contains(words), || format!("`kubectl explain {what}` lacks `{words}`:\n{}", said.stdout))?;
        }
    }
    Ok(())
}

/// Compares the header and the first row, blanks squeezed, the row without its age.
async fn row(api: &Api, what: &[&str], header: &str, expected: &str) -> Outcome {
    let said = api.kubectl(["get", "-n", NAMESPACE].iter().chain(what)).await?;
    ensure(said.ok(), || said.said())?;
    let mut lines = said.stdout.lines().map(squeezed);
    let (got_header, got_row) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    ensure(got_header == header, || format!("{what:?}: the header is `{got_header}`, not `{header}`"))?;
    let (without_age, age) = got_row.rsplit_once(' ').unwrap_or_default();
    ensure(age.ends_with(['s', 'm']), || format!("{what:?}: no age at the end of `{got_row}`"))?;
    ensure(without_age == expected, || format!("{what:?}: the row is `{without_age}`, not `{expected}`"))
}

fn squeezed(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

async fn tell(api: &Api, object: &Value, status: Value) -> kube::Result<()> {
    api.merge(object, "/status", &json!({ "status": status })).await.map(drop)
}

fn healthy(status: &str, reason: &str) -> Value {
    json!({
        "type": "Healthy", "status": status, "reason": reason, "message": "", "lastTransitionTime": "2016-06-01T14:02:10Z",
    })
}

/// A host as the fleet's list has it, as far as columns care.
fn host(fleet: &Value, index: usize) -> Value {
    let member = &fleet["spec"]["hosts"][index];
    json!({
        "apiVersion": fleet["apiVersion"],
        "kind": "BinderHost",
        "metadata": { "name": member["name"], "namespace": NAMESPACE },
        "spec": { "address": member["address"], "hostKeys": member["hostKeys"] },
    })
}

fn in_namespace(mut object: Value) -> Value {
    object["metadata"]["namespace"] = json!(NAMESPACE);
    object
}
