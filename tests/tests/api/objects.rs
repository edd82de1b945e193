//! Whole objects: the owner's file, the least that can be written and what is filled in, and records that stay as they
//! are.

use std::sync::Arc;

use binder_crds::{BinderFleet, BinderHost};
use libtest_mimic::{Failed, Trial};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::cases::{action, by_hand, owners_file};
use crate::place::{NAMESPACE, Place, checkout};
use crate::{Outcome, ensure, trial};

/// The tests of this module.
pub(crate) fn trials(place: &Arc<Place>, trials: &mut Vec<Trial>) {
    trials.push(trial(place, "objects::the_owners_file_is_taken_as_it_is", the_owners_file));
    trials.push(trial(place, "objects::every_default_is_the_safe_one", defaults));
    trials.push(trial(place, "objects::types_and_schema_agree", types_and_schema_agree));
    trials.push(trial(place, "objects::a_rendered_host_is_taken", rendered_hosts));
    trials.push(trial(place, "objects::a_new_object_has_not_been_observed", not_observed));
    trials.push(trial(place, "objects::a_status_takes_no_part_in_the_spec", status_is_apart));
    trials.push(trial(place, "objects::an_actions_spec_cannot_be_changed", immutable));
}

/// By `kubectl apply`, client-side and server-side; and what comes back is what was written.
async fn the_owners_file(place: &Place) -> Outcome {
    let api = place.api().await?;
    let file = checkout().join("examples/fleet.yaml");
    let file = file.to_str().ok_or("the checkout's path is not UTF-8")?;
    for how in [&["apply", "-f", file][..], &["apply", "--server-side", "--force-conflicts", "-f", file]] {
        let said = api.kubectl(how).await?;
        ensure(said.ok() && said.stderr.is_empty(), || format!("{how:?}: {}", said.said()))?;
    }
    let got = api.kubectl(["get", "bf", "binder", "-n", NAMESPACE, "-o", "json"]).await?;
    let got: Value = serde_json::from_str(&got.stdout)?;
    contains(&got["spec"], &owners_file()?["spec"], "spec")?;
    let removed = api.kubectl(["delete", "bf", "binder", "-n", NAMESPACE]).await?;
    ensure(removed.ok(), || removed.said())
}

async fn defaults(place: &Place) -> Outcome {
    let api = place.api().await?;
    let [fleet, host, parts] = minimal(place, "defaults").await?;
    same(
        &api.create(&fleet, false).await?["spec"],
        json!({
            "mode": "Observe",
            "budget": { "maxDisrupted": 1, "maxDisruptedPerDomain": 1 },
            "remedies": { "attempts": 3, "retryPeriod": "30s", "unreachableTimeout": "5m", "perDay": 1, "minHealthyPeriod": "15m" },
            "access": fleet["spec"]["access"],
        }),
    )?;
    // No mode: the fleet's, and without a fleet a host is only observed.
    same(
        &api.create(&host, false).await?["spec"],
        json!({
            "address": host["spec"]["address"], "port": 22, "hostKeys": host["spec"]["hostKeys"],
        }),
    )?;
    let parts = api.create(&parts, false).await?["spec"].clone();
    for (part, expected) in [
        ("kubectlProxy", json!({ "kubectl": "/usr/bin/kubectl", "port": 8085 })),
        ("disks", json!([{ "path": "/", "maxUsed": "85%" }])),
        (
            "docker",
            json!({ "reclaim": { "unusedFor": "1h", "keep": ["andrewosh/binder-*", "mongo", "elasticsearch", "kibana", "andrewosh/logstash-binder"] } }),
        ),
        (
            "database",
            json!({
                "port": 9050,
                "name": "binder",
                "backups": { "schedule": "0 2 * * *", "to": { "directory": "binder" }, "keep": 7, "freshFor": "1h" },
                "hungBuilds": { "after": "3h", "rebuild": false },
                "names": { "failUnusable": false },
            }),
        ),
    ] {
        same(&parts[part], expected)?;
    }
    Ok(())
}

/// What the types make of an object, defaults included, is what the server makes of it: nothing is lost on the way in or
/// out, and no default stands in one of the two only.
async fn types_and_schema_agree(place: &Place) -> Outcome {
    let [fleet, host, parts] = minimal(place, "agreed").await?;
    let api = place.api().await?;
    for object in [&fleet, &in_namespace(owners_file()?, "agreed")] {
        same(&api.create(object, true).await?["spec"], through::<BinderFleet>(object)?)?;
    }
    for object in [&host, &parts, &in_namespace(by_hand()?, "agreed")] {
        same(&api.create(object, true).await?["spec"], through::<BinderHost>(object)?)?;
    }
    Ok(())
}

/// The spec, read into its type and written again.
fn through<K: DeserializeOwned + Serialize>(object: &Value) -> Result<Value, Failed> {
    let mut written = serde_json::to_value(K::deserialize(object)?)?;
    Ok(written["spec"].take())
}

/// Whatever a fleet may list, its host is taken too: the one schema is stricter than the other in nothing.
async fn rendered_hosts(place: &Place) -> Outcome {
    let api = place.api().await?;
    let mut owners = owners_file()?;
    // And one member with something of every facet.
    let mut member = by_hand()?["spec"].take();
    member["name"] = json!("by-hand");
    member["power"] = json!({ "gce": { "instance": "Binder_Web", "zone": "us-central1-f" } });
    let whole = member.as_object_mut().ok_or("host.yaml has no spec")?;
    // What a member leaves to its fleet.
    whole.retain(|field, _| field != "apiKeySecretRef" && field != "interval");
    owners["spec"]["hosts"].as_array_mut().ok_or("the fleet lists no hosts")?.push(member);
    owners["metadata"]["name"] = json!("rendered");
    api.create(&owners, true).await?;

    let fleet = BinderFleet::deserialize(&owners)?;
    for member in &fleet.spec.hosts {
        let mut host =
            serde_json::to_value(BinderHost::new(&format!("rendered-{}", member.name), fleet.spec.render(member)))?;
        host["metadata"]["namespace"] = json!(NAMESPACE);
        let made = api.create(&host, true).await.map_err(|error| format!("{}: {error}", member.name))?;
        same(&made["spec"], host["spec"].take())?;
    }
    ensure(fleet.spec.hosts.len() == 5, || format!("{} hosts were rendered", fleet.spec.hosts.len()))
}

/// So that a tool which waits by kstatus does not take a new object for a finished one.
async fn not_observed(place: &Place) -> Outcome {
    let api = place.api().await?;
    for object in minimal(place, "unobserved").await? {
        let status = api.create(&object, false).await?["status"].clone();
        ensure(status["observedGeneration"] == -1, || format!("{} has {status}", object["kind"]))?;
    }
    Ok(())
}

async fn status_is_apart(place: &Place) -> Outcome {
    let api = place.api().await?;
    let [_, host, _] = minimal(place, "apart").await?;
    let made = api.create(&host, false).await?;
    let told = api.merge(&host, "/status", &json!({ "status": { "summary": "well" }, "spec": { "port": 1 } })).await?;
    same(&told["spec"], made["spec"].clone())?;
    ensure(told["metadata"]["generation"] == 1, || format!("a status makes a generation: {}", told["metadata"]))?;
    let again = api.merge(&host, "", &json!({ "status": { "summary": "forged" }, "spec": { "port": 23 } })).await?;
    ensure(again["status"]["summary"] == "well", || format!("whoever writes specs writes status: {}", again["status"]))
}

async fn immutable(place: &Place) -> Outcome {
    let api = place.api().await?;
    api.namespace("records", json!({})).await?;
    let mut record = action()?;
    record["metadata"]["namespace"] = json!("records");
    let made = api.create(&record, false).await?;
    let spec = made["spec"].as_object().ok_or("the action has no spec")?;
    for (field, value) in spec {
        let other = match value {
            Value::Number(number) => json!(number.as_u64().unwrap_or_default() + 1),
            Value::Object(_) => json!({ "more": 1 }),
            _ if field == "deadline" => json!("2016-06-01T15:02:10Z"),
            _ => json!("another"),
        };
        match api.merge(&record, "", &json!({ "spec": { field: other } })).await {
            Err(kube::Error::Api(status)) if status.code == 422 => {
                let said = &status.message;
                ensure(said.contains("spec") && said.contains("cannot be changed"), || format!("{field}: {said}"))?;
            }
            other => return Err(Failed::from(format!("{field} could be changed: {other:?}"))),
        }
    }
    ensure(spec.len() > 10, || format!("only {} fields were tried", spec.len()))?;
    // What is not the intention may change: how it ended, and labels.
    api.merge(&record, "/status", &json!({ "status": { "outcome": "Succeeded" } })).await?;
    api.merge(&record, "", &json!({ "metadata": { "labels": { "kept": "yes" } } })).await?;
    let bad = api.merge(&record, "/status", &json!({ "status": { "outcome": "Fine" } })).await;
    ensure(bad.is_err_and(|error| error.to_string().contains("status.outcome")), || {
        "an outcome that does not exist was taken".to_owned()
    })
}

/// The objects of `minimal.yaml`, in a namespace of a test's own.
async fn minimal(place: &Place, namespace: &str) -> Result<[Value; 3], Failed> {
    place.api().await?.namespace(namespace, json!({})).await?;
    let mut objects = Vec::new();
    for document in serde_yaml::Deserializer::from_str(include_str!("minimal.yaml")) {
        let mut object = Value::deserialize(document)?;
        object["metadata"]["namespace"] = json!(namespace);
        objects.push(object);
    }
    objects.try_into().map_err(|_| Failed::from("minimal.yaml has not three objects"))
}

fn in_namespace(mut object: Value, namespace: &str) -> Value {
    object["metadata"]["namespace"] = json!(namespace);
    object
}

fn same(got: &Value, expected: Value) -> Outcome {
    ensure(*got == expected, || format!("expected {expected:#}\ngot {got:#}"))
}

/// Whether everything that was written is there; more may be.
fn contains(got: &Value, written: &Value, at: &str) -> Outcome {
    match (got, written) {
        (Value::Object(got), Value::Object(written)) => written.iter().try_for_each(|(key, value)| {
            let at = format!("{at}.{key}");
            contains(got.get(key).ok_or_else(|| format!("{at} is gone"))?, value, &at)
        }),
        (Value::Array(got), Value::Array(written)) if got.len() == written.len() => got
            .iter()
            .zip(written)
            .enumerate()
            .try_for_each(|(index, (got, written))| contains(got, written, &format!("{at}[{index}]"))),
        _ => ensure(got == written, || format!("{at} was {written}, and comes back as {got}")),
    }
}
