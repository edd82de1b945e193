//! The chart, rendered by real Helm and judged by the API server: taken as it is, with no more rights than are listed
//! here, and a pod that passes the strictest of the Pod Security Standards.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use binder_lab::command::{Output, Run};
use binder_lab::files;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::rbac::v1::{PolicyRule, RoleRef, Subject};
use kube::config::{KubeConfigOptions, Kubeconfig};
use libtest_mimic::{Failed, Trial};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cases::owners_file;
use crate::place::{Api, Place, chart};
use crate::{Outcome, ensure, trial};

/// What the operator may do: API group, resource, verbs. A right that the chart gives beyond these fails a test, so that
/// a wider one is a decision, made here, and not an accident.
const RIGHTS: &[(&str, &str, &[&str])] = &[
    ("", "secrets", &["get"]),
    ("events.k8s.io", "events", &["create", "patch"]),
    ("fleet.binder-project.org", "binderactions", &["create", "delete", "list", "watch"]),
    ("fleet.binder-project.org", "binderactions/status", &["patch"]),
    ("fleet.binder-project.org", "binderfleets", &["get", "list", "watch"]),
    ("fleet.binder-project.org", "binderfleets/finalizers", &["update"]),
    ("fleet.binder-project.org", "binderfleets/status", &["patch"]),
    ("fleet.binder-project.org", "binderhosts", &["create", "delete", "get", "list", "patch", "watch"]),
    ("fleet.binder-project.org", "binderhosts/status", &["patch"]),
];

/// An image name that leads nowhere; nothing is pulled.
const IMAGE: &str = "image.repository=registry.example.org/binder-operator";

/// A volume for backups.
const VOLUME: &str = "backups.volume.persistentVolumeClaim.claimName=binder-backups";

/// Who may read the metrics.
const PEER: &str = "networkPolicy.from[0].namespaceSelector.matchLabels.team=monitoring";

/// The tests of this module.
pub(crate) fn trials(place: &Arc<Place>, trials: &mut Vec<Trial>) {
    trials.push(trial(place, "chart::lint_finds_nothing", lint));
    trials.push(trial(place, "chart::without_an_image_it_says_so", no_image));
    trials.push(trial(place, "chart::bad_values_are_refused_by_name", bad_values));
    trials.push(trial(place, "chart::rights_are_exactly_those_listed", rights));
    trials.push(trial(place, "chart::every_object_is_labelled", labels));
    trials.push(trial(place, "chart::one_operator_at_a_time", one_at_a_time));
    trials.push(trial(place, "chart::who_reaches_the_operator_and_whom_it_reaches_is_a_value", networks));
    trials.push(trial(place, "chart::the_api_server_takes_it", taken));
    trials.push(trial(place, "chart::its_pod_is_restricted", restricted));
    trials.push(trial(place, "chart::the_api_server_grants_its_rights_and_no_others", granted));
    trials.push(trial(place, "chart::only_the_operator_writes_binder_actions", protected));
    trials.push(trial(place, "chart::an_api_key_may_be_written_only_where_the_values_say_so", may_write));
}

async fn lint(place: &Place) -> Outcome {
    let all = [IMAGE, "watchNamespace=binder", "metrics.service.enabled=true", "networkPolicy.enabled=true", VOLUME];
    for values in [&[][..], &[IMAGE], &all] {
        let said = helm(place, &["lint", "--strict"], values).await?;
        ensure(said.ok(), || format!("{values:?}: {}", said.said()))?;
    }
    Ok(())
}

async fn no_image(place: &Place) -> Outcome {
    let said = helm(place, &["template", "case"], &[]).await?;
    let words = "there is no public image yet";
    ensure(!said.ok() && said.stderr.contains(words), || format!("expected `{words}`: {}", said.said()))
}

async fn bad_values(place: &Place) -> Outcome {
    for (value, field) in [
        ("imagee.repository=x", "imagee"),
        ("image.repositori=x", "repositori"),
        ("image.repository=Not A Name", "repository"),
        ("image.tag=a b", "tag"),
        ("image.pullPolicy=Sometimes", "pullPolicy"),
        ("watchNamespace=Not_A_Name", "watchNamespace"),
        ("concurrency=0", "concurrency"),
        ("concurrency=65536", "concurrency"),
        ("keepActionsHours=0", "keepActionsHours"),
        ("lookMemory=8", "lookMemory"),
        ("networks.allow={10.0.0.1}", "networks"),
        ("networks.deny={all}", "networks"),
        ("networkPolicy.enable=true", "enable"),
        ("minUnreachableTimeout=soon", "minUnreachableTimeout"),
        ("allowAmbientCloudIdentity=perhaps", "allowAmbientCloudIdentity"),
        ("admission.protectAction=false", "protectAction"),
        ("gceEndpoint=http://compute.example.org", "gceEndpoint"),
        ("backups.volume.hostPath.path=/", "volume"),
        ("apiKeySecrets=binder-api-key", "apiKeySecrets"),
        ("apiKeySecrets={Not_A_Name}", "apiKeySecrets"),
        ("backups.volume.name=mine", "volume"),
        ("log.format=xml", "format"),
        ("runAsUser=0", "runAsUser"),
        ("metrics.service.port=0", "port"),
        ("terminationGracePeriodSeconds=5", "terminationGracePeriodSeconds"),
        ("replicas=2", "replicas"),
    ] {
        let said = helm(place, &["template", "case"], &[IMAGE, value]).await?;
        let refused = !said.ok() && said.stderr.contains("values don't meet the specifications");
        ensure(refused && said.stderr.contains(field), || format!("{value}: {}", said.said()))?;
    }
    Ok(())
}

async fn rights(place: &Place) -> Outcome {
    let expected: BTreeSet<String> =
        RIGHTS.iter().flat_map(|(group, resource, verbs)| each(group, resource, verbs)).collect();
    for (values, roles, namespace) in [
        (&[IMAGE][..], ["ClusterRole", "ClusterRoleBinding"], None),
        (&[IMAGE, "watchNamespace=binder"], ["Role", "RoleBinding"], Some("binder")),
    ] {
        let objects = rendered(place, values).await?;
        let about: Vec<&Value> =
            objects.iter().filter(|object| object["apiVersion"] == "rbac.authorization.k8s.io/v1").collect();
        let kinds: Vec<&str> = about.iter().filter_map(|object| object["kind"].as_str()).collect();
        ensure(kinds == roles, || format!("{values:?}: {kinds:?}, not {roles:?}"))?;
        for object in &about {
            let at = object["metadata"]["namespace"].as_str();
            ensure(at == namespace, || format!("{} is in {at:?}, not {namespace:?}", object["kind"]))?;
        }
        let got = listed(Vec::<PolicyRule>::deserialize(&about[0]["rules"])?)?;
        let [wider, narrower] = [got.difference(&expected), expected.difference(&got)].map(Vec::from_iter);
        ensure(wider.is_empty() && narrower.is_empty(), || {
            format!("{values:?}: the chart gives what is not listed: {wider:?}; and does not give: {narrower:?}")
        })?;

        let to = RoleRef::deserialize(&about[1]["roleRef"])?;
        let role = (to.kind.as_str(), Some(to.name.as_str()));
        ensure(role == (roles[0], about[0]["metadata"]["name"].as_str()), || format!("the binding leads to {to:?}"))?;
        let subjects = Vec::<Subject>::deserialize(&about[1]["subjects"])?;
        let account = one(&objects, "ServiceAccount")?;
        let [subject] = &subjects[..] else { return Err(Failed::from(format!("bound to {subjects:?}"))) };
        ensure(
            subject.kind == "ServiceAccount"
                && account["metadata"]["name"] == subject.name.as_str()
                && subject.namespace.as_deref() == Some("binder-system"),
            || format!("bound to {subject:?}"),
        )?;
    }
    Ok(())
}

/// Rights as a set of sentences. What cannot be written so (names, URLs) is more than the list can say.
fn listed(rules: Vec<PolicyRule>) -> Result<BTreeSet<String>, Failed> {
    let mut rights = BTreeSet::new();
    for rule in rules {
        if rule.non_resource_urls.is_some() || rule.resource_names.is_some() {
            return Err(Failed::from(format!("a rule of a kind that the list does not know: {rule:?}")));
        }
        let verbs: Vec<&str> = rule.verbs.iter().map(String::as_str).collect();
        for group in rule.api_groups.iter().flatten() {
            rights.extend(rule.resources.iter().flatten().flat_map(|resource| each(group, resource, &verbs)));
        }
    }
    Ok(rights)
}

fn each(group: &str, resource: &str, verbs: &[&str]) -> Vec<String> {
    verbs.iter().map(|verb| format!("{verb} {group}/{resource}")).collect()
}

async fn labels(place: &Place) -> Outcome {
    let objects = rendered(place, &[IMAGE, "metrics.service.enabled=true", "networkPolicy.enabled=true"]).await?;
    for object in &objects {
        let labels = &object["metadata"]["labels"];
        for (label, value) in [
            ("app.kubernetes.io/name", "binder-operator"),
            ("app.kubernetes.io/instance", "case"),
            ("app.kubernetes.io/managed-by", "Helm"),
        ] {
            ensure(labels[label] == value, || format!("{}: {label} is {}", object["kind"], labels[label]))?;
        }
    }
    let [service, deployment] = [one(&objects, "Service")?, one(&objects, "Deployment")?];
    let chosen = service["spec"]["selector"].as_object().ok_or("the Service selects nothing")?;
    let pod = &deployment["spec"]["template"];
    let wears = chosen.iter().all(|(label, value)| pod["metadata"]["labels"][label] == *value);
    ensure(wears, || "the Service does not select the operator's pod".to_owned())?;
    ensure(deployment["spec"]["selector"]["matchLabels"] == service["spec"]["selector"], || {
        "Service and Deployment select by other labels".to_owned()
    })
}

async fn one_at_a_time(place: &Place) -> Outcome {
    let values = [IMAGE, "watchNamespace=binder", "concurrency=7", "log.filter=info\\,russh=off"];
    let objects = rendered(place, &values).await?;
    let deployment = Deployment::deserialize(one(&objects, "Deployment")?)?;
    let spec = deployment.spec;
    let strategy = spec.strategy.and_then(|strategy| strategy.type_);
    ensure(spec.replicas == Some(1) && strategy.as_deref() == Some("Recreate"), || {
        format!("{:?} replicas by {strategy:?}: two operators could run at once", spec.replicas)
    })?;
    let pod = spec.template.spec.ok_or("the pod has no spec")?;
    let [container] = &pod.containers[..] else { return Err(Failed::from("not one container")) };
    let expected = [
        "--listen=0.0.0.0:8080",
        "--namespace=binder",
        "--concurrency=7",
        "--look-memory=96",
        "--keep-actions-hours=168",
        "--min-unreachable-timeout=5m",
        "--min-retry-period=10s",
        "--min-healthy-period=5m",
        "--log=info,russh=off",
        "--log-format=json",
    ];
    ensure(container.args.as_deref().unwrap_or_default() == expected, || format!("{:?}", container.args))?;
    for (probe, path) in [(&container.liveness_probe, "/healthz"), (&container.readiness_probe, "/readyz")] {
        let get = probe.as_ref().and_then(|probe| probe.http_get.as_ref());
        ensure(get.is_some_and(|get| get.path.as_deref() == Some(path)), || format!("no probe of {path}"))?;
    }
    Ok(())
}

async fn networks(place: &Place) -> Outcome {
    let plain = rendered(place, &[IMAGE]).await?;
    ensure(one(&plain, "NetworkPolicy").is_err(), || "a NetworkPolicy that nobody asked for".to_owned())?;
    let arguments = |objects: &[Value]| -> Result<Vec<String>, Failed> {
        Ok(Vec::deserialize(&one(objects, "Deployment")?["spec"]["template"]["spec"]["containers"][0]["args"])?)
    };
    let given = |arguments: &[String]| arguments.iter().any(|one| one.contains("-network="));
    ensure(!given(&arguments(&plain)?), || "networks that nobody gave".to_owned())?;

    let values = [IMAGE, "networks.allow={10.0.0.0/8,2001:db8::/32}", "networks.deny={10.9.0.0/16}"];
    let flags = arguments(&rendered(place, &values).await?)?;
    for flag in ["--allow-network=10.0.0.0/8", "--allow-network=2001:db8::/32", "--deny-network=10.9.0.0/16"] {
        ensure(flags.iter().any(|one| one == flag), || format!("{flag} is not among {flags:?}"))?;
    }

    let closed = rendered(place, &[IMAGE, "networkPolicy.enabled=true"]).await?;
    let spec = &one(&closed, "NetworkPolicy")?["spec"];
    ensure(spec["ingress"] == json!([]) && spec["policyTypes"] == json!(["Ingress"]), || format!("{spec}"))?;
    let pod = &one(&closed, "Deployment")?["spec"]["selector"]["matchLabels"];
    ensure(spec["podSelector"]["matchLabels"] == *pod, || format!("{spec} is not about the operator's pod"))?;
    let open = rendered(place, &[IMAGE, "networkPolicy.enabled=true", PEER]).await?;
    let rule = &one(&open, "NetworkPolicy")?["spec"]["ingress"][0];
    let peers = json!([{"namespaceSelector": {"matchLabels": {"team": "monitoring"}}}]);
    ensure(rule["from"] == peers && rule["ports"][0]["port"] == "http", || format!("{rule}"))
}

/// By `kubectl apply --dry-run=server`, as a pipeline would ask.
async fn taken(place: &Place) -> Outcome {
    let api = place.api().await?;
    for namespace in ["chart-release", "chart-watched"] {
        api.namespace(namespace, json!({})).await?;
    }
    for (name, values) in [
        ("whole", &[IMAGE][..]),
        ("scoped", &[IMAGE, "watchNamespace=chart-watched"]),
        ("backups", &[IMAGE, VOLUME]),
        ("all", &[IMAGE, "metrics.service.enabled=true", "runAsUser=null", "podLabels.a=b", "nodeSelector.disk=ssd"]),
        ("policy", &[IMAGE, "networkPolicy.enabled=true", PEER]),
        ("digest", &[IMAGE, "image.tag=sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"]),
    ] {
        let said = helm(place, &["template", "case", "--include-crds", "--namespace", "chart-release"], values).await?;
        ensure(said.ok(), || format!("{name}: {}", said.said()))?;
        let file = place.folder("chart")?.join(format!("{name}.yaml"));
        files::write(&file, &said.stdout, 0o644)?;
        let file = file.to_str().ok_or("the folder's path is not UTF-8")?;
        // Server-side, since the definitions exist already, applied that way.
        let how = ["apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-f", file];
        let applied = api.kubectl(how).await?;
        ensure(applied.ok() && applied.stderr.is_empty(), || format!("{name}: {}", applied.said()))?;
        let objects = applied.stdout.lines().count();
        ensure(objects >= 7, || format!("{name}: only {objects} objects:\n{}", applied.stdout))?;
    }
    Ok(())
}

async fn restricted(place: &Place) -> Outcome {
    let api = place.api().await?;
    let namespace = "chart-restricted";
    api.namespace(namespace, json!({ "pod-security.kubernetes.io/enforce": "restricted" })).await?;
    let objects = rendered(place, &[IMAGE, VOLUME]).await?;
    let mut account = one(&objects, "ServiceAccount")?.clone();
    account["metadata"]["namespace"] = json!(namespace);
    api.create(&account, false).await?;

    let template = &one(&objects, "Deployment")?["spec"]["template"];
    let mut pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": "operator", "namespace": namespace, "labels": template["metadata"]["labels"] },
        "spec": template["spec"],
    });
    api.create(&pod, true).await?;
    // What the standard does not ask for.
    let container = &template["spec"]["containers"][0];
    ensure(container["securityContext"]["readOnlyRootFilesystem"] == true, || "its root can be written".to_owned())?;
    ensure(container["resources"]["limits"]["memory"].is_string(), || "its memory has no limit".to_owned())?;
    // Were the standard not enforced, everything would pass.
    pod["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = json!(true);
    let lax = api.create(&pod, true).await;
    ensure(lax.is_err_and(|error| error.to_string().contains("PodSecurity")), || "nothing is enforced".to_owned())
}

/// Applies account and rights for one namespace, and acts as the account.
async fn granted(place: &Place) -> Outcome {
    let api = place.api().await?;
    for namespace in ["binder-system", "chart-granted", "chart-foreign"] {
        api.namespace(namespace, json!({})).await?;
    }
    let objects = rendered(place, &[IMAGE, "watchNamespace=chart-granted"]).await?;
    for kind in ["ServiceAccount", "Role", "RoleBinding"] {
        api.create(one(&objects, kind)?, false).await?;
    }
    let account = one(&objects, "ServiceAccount")?["metadata"]["name"].as_str().ok_or("the account has no name")?;
    let kubeconfig = Kubeconfig::from_yaml(&api.kubeconfig_for("binder-system", account).await?)?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let operator = kube::Client::try_from(config)?;

    for (group, resource, verbs) in RIGHTS {
        for verb in ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"] {
            let expected = verbs.contains(&verb);
            let may = allowed(&operator, "chart-granted", group, resource, verb).await?;
            ensure(may == expected, || format!("{verb} {resource} of {group:?}: {may}, expected {expected}"))?;
            let elsewhere = allowed(&operator, "chart-foreign", group, resource, verb).await?;
            ensure(!elsewhere, || format!("{verb} {resource} of {group:?} in a namespace that is not watched"))?;
        }
    }
    for (group, resource) in
        [("", "pods"), ("", "configmaps"), ("rbac.authorization.k8s.io", "roles"), ("apps", "deployments")]
    {
        let may = allowed(&operator, "chart-granted", group, resource, "get").await?;
        ensure(!may, || format!("it may read {resource}"))?;
    }
    works(api, operator).await
}

/// With the chart's policy, an action that anybody else writes is refused, and one of the operator's account is taken.
async fn protected(place: &Place) -> Outcome {
    let api = place.api().await?;
    let namespace = "chart-protected";
    api.namespace(namespace, json!({})).await?;
    let watched = format!("watchNamespace={namespace}");
    let without = rendered(place, &[IMAGE, &watched, "admission.protectActions=false"]).await?;
    ensure(one(&without, "ValidatingAdmissionPolicy").is_err(), || "the switch does nothing".to_owned())?;
    let mut objects = rendered(place, &[IMAGE, &watched]).await?;
    for object in &mut objects {
        // The release is put into the namespace that it watches, so as to share no account with other tests.
        let elsewhere = object
            .to_string()
            .replace("system:serviceaccount:binder-system:", "system:serviceaccount:chart-protected:");
        *object = serde_json::from_str(&elsewhere)?;
        if object["metadata"]["namespace"].is_string() {
            object["metadata"]["namespace"] = json!(namespace);
        }
        if object["kind"] == "RoleBinding" {
            object["subjects"][0]["namespace"] = json!(namespace);
        }
    }
    for kind in
        ["ServiceAccount", "Role", "RoleBinding", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"]
    {
        api.create(one(&objects, kind)?, false).await?;
    }
    let action = json!({
        "apiVersion": "fleet.binder-project.org/v1alpha1", "kind": "BinderAction",
        "metadata": { "name": "web-1", "namespace": namespace },
        "spec": {
            "host": "web", "hostUid": "uid", "step": "Reboot", "subject": "web", "description": "reboot", "parameters": {},
            "drift": "Unresponsive", "evidence": "", "attempt": 1, "deadline": "2030-01-01T00:00:00Z",
        },
    });
    // A policy is in force some moments after it was made.
    let mut last = String::new();
    for _ in 0..100 {
        match api.create(&action, true).await {
            Err(error) if error.to_string().contains("only binder-operator writes BinderActions") => {
                last.clear();
                break;
            }
            other => last = format!("{other:?}"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    ensure(last.is_empty(), || format!("an administrator's action is not refused: {last}"))?;
    let account = one(&objects, "ServiceAccount")?["metadata"]["name"].as_str().ok_or("the account has no name")?;
    let kubeconfig = Kubeconfig::from_yaml(&api.kubeconfig_for(namespace, account).await?)?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let operator = kube::Client::try_from(config)?;
    let request =
        http::Request::post(format!("/apis/fleet.binder-project.org/v1alpha1/namespaces/{namespace}/binderactions"))
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(serde_json::to_vec(&action)?)?;
    operator.request::<Value>(request).await?;
    Ok(())
}

/// With the value `apiKeySecrets`, a Secret of that name may be made and added to by server-side apply; no other one may.
async fn may_write(place: &Place) -> Outcome {
    let api = place.api().await?;
    let namespace = "chart-keys";
    api.namespace(namespace, json!({})).await?;
    let watched = format!("watchNamespace={namespace}");
    let mut objects = rendered(place, &[IMAGE, &watched, "apiKeySecrets={the-key}"]).await?;
    let rules = Vec::<PolicyRule>::deserialize(&one(&objects, "Role")?["rules"])?;
    let named: Vec<&PolicyRule> = rules.iter().filter(|rule| rule.resource_names.is_some()).collect();
    let [rule] = &named[..] else { return Err(Failed::from(format!("{named:?}"))) };
    ensure(rule.resource_names.as_deref() == Some(&["the-key".to_owned()]), || format!("{rule:?}"))?;
    ensure(rule.verbs == ["create", "patch"], || format!("{rule:?}"))?;
    for object in &mut objects {
        object["metadata"]["namespace"] = json!(namespace);
        if object["kind"] == "RoleBinding" {
            object["subjects"][0]["namespace"] = json!(namespace);
        }
    }
    for kind in ["ServiceAccount", "Role", "RoleBinding"] {
        api.create(one(&objects, kind)?, false).await?;
    }
    let account = one(&objects, "ServiceAccount")?["metadata"]["name"].as_str().ok_or("the account has no name")?;
    let kubeconfig = Kubeconfig::from_yaml(&api.kubeconfig_for(namespace, account).await?)?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let operator = kube::Client::try_from(config)?;
    let write = async |name: &str, entry: &str| {
        let secret =
            json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name }, "data": { entry: "eA==" } });
        let path = format!("/api/v1/namespaces/{namespace}/secrets/{name}?fieldManager=binder-operator");
        let request = http::Request::patch(path)
            .header(http::header::CONTENT_TYPE, "application/apply-patch+yaml")
            .body(serde_json::to_vec(&secret).map_err(kube::Error::SerdeError)?)
            .map_err(kube::Error::HttpError)?;
        operator.request::<Value>(request).await
    };
    write("the-key", "api-key").await?;
    write("the-key", "another").await?;
    let other = write("another", "api-key").await;
    let forbidden = matches!(&other, Err(kube::Error::Api(status)) if status.code == 403);
    ensure(forbidden, || format!("another Secret was written: {other:?}"))
}

/// What the operator does first, really done: hosts made by server-side apply for a fleet that they block.
async fn works(api: &Api, operator: kube::Client) -> Outcome {
    let mut fleet = owners_file()?;
    fleet["metadata"]["namespace"] = json!("chart-granted");
    let fleet = api.create(&fleet, false).await?;
    let member = &fleet["spec"]["hosts"][0];
    let host = json!({
        "apiVersion": fleet["apiVersion"],
        "kind": "BinderHost",
        "metadata": { "name": member["name"], "namespace": "chart-granted", "ownerReferences": [{
            "apiVersion": fleet["apiVersion"], "kind": "BinderFleet", "name": "binder", "uid": fleet["metadata"]["uid"],
            "controller": true, "blockOwnerDeletion": true,
        }] },
        "spec": { "address": member["address"], "hostKeys": member["hostKeys"] },
    });
    let root = "/apis/fleet.binder-project.org/v1alpha1/namespaces/chart-granted/binderhosts/binder-web-deploy";
    let apply = async |path: String, body: &Value| {
        let request = http::Request::patch(format!("{path}?fieldManager=binder-operator&force=true"))
            .header(http::header::CONTENT_TYPE, "application/apply-patch+yaml")
            .body(serde_json::to_vec(body).map_err(kube::Error::SerdeError)?)
            .map_err(kube::Error::HttpError)?;
        operator.request::<Value>(request).await
    };
    apply(root.to_owned(), &host).await?;
    let status = json!({
        "apiVersion": host["apiVersion"], "kind": "BinderHost", "metadata": { "name": member["name"] },
        "status": { "observedGeneration": 1, "summary": "as described" },
    });
    let told = apply(format!("{root}/status"), &status).await?;
    ensure(told["status"]["summary"] == "as described", || format!("{}", told["status"]))
}

/// Whether the client may, by the API server's own judgement of it.
async fn allowed(
    client: &kube::Client,
    namespace: &str,
    group: &str,
    resource: &str,
    verb: &str,
) -> Result<bool, Failed> {
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": { "resourceAttributes": {
            "namespace": namespace, "group": group, "resource": resource, "subresource": subresource, "verb": verb,
        } },
    });
    let request = http::Request::post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews")
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(serde_json::to_vec(&review)?)?;
    let answer: Value = client.request(request).await?;
    answer["status"]["allowed"].as_bool().ok_or_else(|| Failed::from(format!("no answer to {review}: {answer}")))
}

/// The chart's objects for a release `case` in `binder-system`.
async fn rendered(place: &Place, values: &[&str]) -> Result<Vec<Value>, Failed> {
    let said = helm(place, &["template", "case", "--namespace", "binder-system"], values).await?;
    ensure(said.ok(), || said.said())?;
    let mut objects = Vec::new();
    for document in serde_yaml::Deserializer::from_str(&said.stdout) {
        let object = Value::deserialize(document)?;
        if !object.is_null() {
            objects.push(object);
        }
    }
    Ok(objects)
}

fn one<'a>(objects: &'a [Value], kind: &str) -> Result<&'a Value, Failed> {
    let mut found = objects.iter().filter(|object| object["kind"] == kind);
    match (found.next(), found.next()) {
        (Some(object), None) => Ok(object),
        _ => Err(Failed::from(format!("there is not exactly one {kind}"))),
    }
}

/// Helm over the chart, with a home of its own: nobody's settings, repositories or plugins.
async fn helm(place: &Place, arguments: &[&str], values: &[&str]) -> Result<Output, Failed> {
    let (program, home, chart) = (place.helm().await?, place.folder("helm")?, chart());
    let mut run = Run::new(program).args(arguments).args([Path::new(&chart)]);
    for value in values {
        run = run.args(["--set", value]);
    }
    for variable in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
        run = run.env(variable, home.join(variable.to_lowercase()));
    }
    // It reads no cluster, and is not to find one.
    Ok(run.env("KUBECONFIG", "").output().await?)
}
