//! The owner's file for a lab: what its owner would write, with the lab's addresses and host keys in it.

use serde_json::{Value, json};

use super::{API_KEY_SECRET, CLOUD_SECRET, LOGIN_SECRET, NAMESPACE};
use crate::inventory::{NODE_LABEL, PROJECT};
use crate::status::{HostStatus, Status};

/// The fleet's name.
pub const FLEET: &str = "binder";

/// The disk that the lab's build host can fill: Docker's own.
pub const DISK: &str = "/var/lib/docker";

/// When Docker's clean-up is due on the build host: once a year, so that it is not in the middle of something else. What
/// shows it sets another time.
pub const RECLAIM_AT: &str = "15 3 1 1 *";
/// In which time zone.
pub const RECLAIM_ZONE: &str = "Europe/Berlin";

/// After so many healthy seconds a host's attempts count afresh.
pub const MIN_HEALTHY_PERIOD: i64 = 6;

/// The fleet of a lab, as JSON that `kubectl apply` takes. `mode` as the API says it.
///
/// The lab's patience is short (looks every 3 s, pauses from 1 s, attempts counted afresh after [`MIN_HEALTHY_PERIOD`]), so that
/// a demo and its tests need not wait as a real fleet should; and its machines may be restarted as often as faults are shown.
pub fn file(status: &Status, mode: &str) -> Value {
    let mut hosts: Vec<Value> = Vec::new();
    for host in &status.hosts {
        let mut member = member(host);
        match host.name.as_str() {
            "binder-web-deploy" => {
                member["profile"] = json!("web");
                member["reaches"] = json!([{"host": "binder-services", "port": 9050}]);
            }
            "binder-services" => {
                member["services"] = json!(["db", "logging"]);
                member["database"] = json!({"hungBuilds": {"after": "3h", "rebuild": true}, "names": {}});
            }
            "binder-tester-2" => {
                member["servers"] = json!(["build"]);
                // As in the runbook's file: this machine has no power that anybody described.
                member.as_object_mut().map(|fields| fields.remove("power"));
                member["disks"] = json!([{"path": DISK, "maxUsed": "85%"}]);
                member["docker"] =
                    json!({"reclaim": {"schedule": RECLAIM_AT, "timeZone": RECLAIM_ZONE, "unusedFor": "1h"}});
            }
            "kubernetes-master" => {
                let label = format!("{}={}", NODE_LABEL.0, NODE_LABEL.1);
                member["kubernetesApi"] = json!({"readyNodes": 2, "mayRestartNodes": true, "nodeLabel": label});
                if let Some(identity) = &status.cluster_id {
                    member["kubernetesApi"]["clusterId"] = json!(identity);
                }
            }
            _ => {}
        }
        hosts.push(member);
    }
    // The lab has two control planes, and only one of them is the fleet's own.
    let mut proxy = json!({"port": 8085, "kubectl": "/home/andrew/kubernetes/cluster/kubectl.sh"});
    if let Some(identity) = &status.cluster_id {
        proxy["clusterId"] = json!(identity);
    }
    json!({
        "apiVersion": format!("{}/v1alpha1", binder_crds::GROUP),
        "kind": "BinderFleet",
        "metadata": {"name": FLEET, "namespace": NAMESPACE},
        "spec": {
            "mode": mode,
            "interval": "3s",
            "remedies": {"retryPeriod": "3s", "attempts": 3, "minHealthyPeriod": format!("{MIN_HEALTHY_PERIOD}s"), "unreachableTimeout": "10s", "perDay": 100},
            "access": {
                "user": status.hosts.first().map(|host| host.user.clone()),
                "keySecretRef": {"name": LOGIN_SECRET},
                "mayAuthorizeKey": true,
                "mayWriteApiKey": true,
            },
            "apiKeySecretRef": {"name": API_KEY_SECRET, "key": "api-key"},
            "power": {"gce": {"project": PROJECT, "credentialsSecretRef": {"name": CLOUD_SECRET}}},
            "profiles": {"web": {
                "servers": ["web", "deploy-kubernetes", "health"],
                "kubectlProxy": proxy,
                "portRedirects": [{"interface": "eth0", "from": 80, "to": 3000}],
            }},
            "hosts": hosts,
        },
    })
}

/// How a fleet names and reaches one host of the lab.
pub fn member(host: &HostStatus) -> Value {
    json!({
        "name": host.name,
        "address": host.address.to_string(),
        "port": host.port,
        "hostKeys": [host.host_key],
        "domain": host.zone,
        "power": {"gce": {"instance": host.name, "zone": host.zone}},
    })
}
