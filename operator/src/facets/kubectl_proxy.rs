//! Facet `kubectl_proxy`: the port is served, by the right kubectl, for the right cluster.
//!
//! Who serves it does not matter (a person's `screen`, pm2's `binder-kubernetes-proxy`, the operator): what counts is what
//! `deploy-kubernetes` meets on the port.

use super::step::ProcessId;
use super::{Check, Drift, DriftKind, Facet, Rung, Step};
use crate::catalogue::KUBECTL_PROXY;
use crate::seen::machine::Machine;
use crate::seen::proxy::{Cluster, Kubectl, Proxy};
use crate::seen::{Ask, Blind, Observation, proxy};
use binder_crds::{Desired, conditions, desired};
use std::time::Duration;

/// The facet.
pub struct KubectlProxy;

/// A kubectl proxy answers within moments; a machine under load gets more.
const TAKES_EFFECT: Duration = Duration::from_secs(20);

impl Facet for KubectlProxy {
    fn condition(&self) -> &'static str {
        conditions::PROXY_SERVING
    }

    fn in_use(&self, desired: &Desired) -> bool {
        desired.kubectl_proxy.is_some()
    }

    fn asks(&self, desired: &Desired) -> Vec<Ask> {
        desired.kubectl_proxy.iter().map(|spec| proxy::ask(spec.port, spec.kubectl.0.clone())).collect()
    }

    fn check(&self, desired: &Desired, seen: &Observation) -> Result<Check, Blind> {
        let Some(spec) = &desired.kubectl_proxy else { return Ok(Check::default()) };
        let (machine, proxy) = (seen.machine.get()?, seen.proxy.get()?);
        let drift = look(spec, machine, proxy).map(|(kind, short, evidence)| Drift {
            kind,
            subject: KUBECTL_PROXY.to_owned(),
            short: format!("{}: {short}", spec.port),
            evidence,
        });
        let pinned = if spec.cluster_id.is_some() { "the described cluster" } else { "cluster" };
        let cluster = match &proxy.cluster {
            Cluster::Identity(identity) => format!("{pinned} {identity}"),
            _ => "a cluster".to_owned(),
        };
        Ok(Check {
            drifts: drift.into_iter().collect(),
            as_described: format!("{} is served by kubectl for {cluster}", spec.port),
            ..Check::default()
        })
    }

    fn ladder(&self, desired: &Desired, seen: &Observation, drift: &Drift) -> Vec<Rung> {
        let (Some(spec), Some(machine)) = (&desired.kubectl_proxy, seen.machine.seen()) else { return Vec::new() };
        let rung = |step| vec![Rung { step, takes_effect: TAKES_EFFECT }];
        match drift.kind {
            DriftKind::NothingListens => {
                rung(Step::StartKubectlProxy { port: spec.port, kubectl: spec.kubectl.0.clone() })
            }
            // The wrong one is ended only if it is a kubectl proxy of the login's own; the right one is started after.
            DriftKind::WrongKubectl | DriftKind::WrongCluster => own_kubectl(spec.port, machine)
                .map_or_else(Vec::new, |process| rung(Step::EndKubectlProxy { port: spec.port, process })),
            _ => Vec::new(),
        }
    }
}

fn look(spec: &desired::KubectlProxy, machine: &Machine, proxy: &Proxy) -> Option<(DriftKind, String, String)> {
    let (port, kubectl) = (spec.port, &spec.kubectl);
    let Some(pids) = machine.listeners.get(&port) else {
        return Some(match &proxy.kubectl {
            Kubectl::Missing => (
                DriftKind::KubectlUnusable,
                "nothing serves, kubectl not found".to_owned(),
                format!(
                    "nothing listens on {port}, and {kubectl} does not exist: correct kubectlProxy.kubectl or put it there"
                ),
            ),
            Kubectl::Forbidden => (
                DriftKind::KubectlUnusable,
                "nothing serves, kubectl not executable".to_owned(),
                format!("nothing listens on {port}, and {kubectl} may not be executed: chmod +x it"),
            ),
            Kubectl::Script | Kubectl::Binary(_) => {
                (DriftKind::NothingListens, "nothing serves".to_owned(), format!("nothing listens on {port}"))
            }
        });
    };
    let process = pids.first().and_then(|pid| machine.processes.get(pid));
    if let Some(process) = process.filter(|process| !is_kubectl(&process.command)) {
        let program: String = process.command.split(' ').next().unwrap_or_default().chars().take(60).collect();
        return Some((
            DriftKind::NotKubectl,
            "taken by something else".to_owned(),
            format!(
                "{program} (user id {}) listens on {port}, which is no kubectl proxy: end it or free the port",
                process.uid
            ),
        ));
    }
    if let (Some(wanted), Cluster::Identity(found)) = (&spec.cluster_id, &proxy.cluster)
        && wanted.0 != *found
    {
        return Some((
            DriftKind::WrongCluster,
            "another cluster".to_owned(),
            format!("{port} leads to the cluster {found}, not to {wanted}"),
        ));
    }
    if let (Kubectl::Binary(wanted), Some(found)) = (&proxy.kubectl, &proxy.program)
        && wanted != found
    {
        return Some((
            DriftKind::WrongKubectl,
            "another kubectl".to_owned(),
            format!("{found} serves {port}, not {wanted}"),
        ));
    }
    if let Some(other) = pids.first().and_then(|pid| other_script(*pid, &kubectl.0, machine)) {
        return Some((
            DriftKind::WrongKubectl,
            "another kubectl".to_owned(),
            format!("{other} serves {port}, not {kubectl}"),
        ));
    }
    match &proxy.cluster {
        Cluster::Identity(_) | Cluster::NotAsked => None,
        Cluster::Status(status) => Some((
            DriftKind::ClusterNotAnswering,
            "no cluster behind it".to_owned(),
            format!("the proxy on {port} runs, but the cluster behind it answers with HTTP {status}"),
        )),
        Cluster::NoAnswer(why) => Some((
            DriftKind::ClusterNotAnswering,
            "does not answer".to_owned(),
            format!("something listens on {port} but does not answer as a kubectl proxy: {why}"),
        )),
    }
}

/// Whether a command line is that of `kubectl proxy`.
fn is_kubectl(command: &str) -> bool {
    let mut words = command.split_whitespace();
    let kubectl =
        words.next().and_then(|program| program.rsplit('/').next()).is_some_and(|name| name.starts_with("kubectl"));
    kubectl && words.any(|word| word == "proxy")
}

/// Another wrapper script among the ancestors of what serves the port. A wrapper that replaced itself by kubectl leaves no
/// trace, and then only the cluster's identity tells.
fn other_script<'m>(pid: u32, kubectl: &str, machine: &'m Machine) -> Option<&'m str> {
    machine
        .lineage(pid)
        .into_iter()
        .flat_map(|process| process.command.split_whitespace())
        .find(|word| word.starts_with('/') && word.ends_with("/kubectl.sh") && kubectl.ends_with(".sh"))
        .filter(|word| *word != kubectl)
}

fn own_kubectl(port: u16, machine: &Machine) -> Option<ProcessId> {
    machine.listeners.get(&port)?.iter().find_map(|pid| {
        let process = machine.processes.get(pid)?;
        let ours = process.uid == machine.uid && is_kubectl(&process.command) && process.started_ticks > 0;
        ours.then(|| ProcessId { pid: *pid, started_ticks: process.started_ticks, signature: "kubectl".to_owned() })
    })
}
