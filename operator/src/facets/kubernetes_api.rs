//! Facet `kubernetes_api`: the API that this host serves answers, in time, and has as many Ready nodes as described (runbook,
//! "Kubernetes master unresponsive": `kubectl get nodes`). Seen through another host's kubectl proxy, as Binder sees it.

use super::step::BOOTS_WITHIN;
use super::{BLIP, Check, Drift, DriftKind, Facet, Rung, Step};
use crate::seen::kubernetes::{Answers, LATE_MARK, OBJECTIVE, SILENT_MARK, SLOW, SLOW_MARK, nodes_mark};
use crate::seen::{Ask, Blind, Observation, Reason};
use binder_crds::{Desired, conditions};
use std::time::Duration;

/// The facet.
pub struct KubernetesApi;

/// The part of a machine's memory, in per cent, below which whatever it serves can be expected to crawl: the kernel's own
/// reserves and caches begin to be fought for.
const STARVED: u8 = 5;

/// How long an API may take after its machine was started. A control plane of static pods needs one to two
/// minutes.
const STARTS_WITHIN: Duration = Duration::from_secs(120);

/// What order and actions call it.
const SUBJECT: &str = "kubernetes-api";

impl Facet for KubernetesApi {
    fn condition(&self) -> &'static str {
        conditions::KUBERNETES_API_ANSWERING
    }

    fn in_use(&self, desired: &Desired) -> bool {
        desired.kubernetes_api.is_some()
    }

    fn asks(&self, _: &Desired) -> Vec<Ask> {
        Vec::new()
    }

    fn check(&self, desired: &Desired, seen: &Observation) -> Result<Check, Blind> {
        let Some(spec) = &desired.kubernetes_api else { return Ok(Check::default()) };
        let api = seen.kubernetes.get()?;
        let via = &api.via;
        let wanted = spec.ready_nodes;
        let (kind, mark, short, evidence) = match (&api.answer, &api.nodes) {
            (Answers::Not(why), _) => (
                DriftKind::ApiNotAnswering,
                SILENT_MARK.to_owned(),
                "the Kubernetes API does not answer".to_owned(),
                format!("the Kubernetes API does not answer, asked through {via}: {why}"),
            ),
            (Answers::Status(status), _) => (
                DriftKind::ApiNotAnswering,
                SILENT_MARK.to_owned(),
                "the Kubernetes API is not well".to_owned(),
                format!("the Kubernetes API is not well: /healthz answers with HTTP {status}, asked through {via}"),
            ),
            (Answers::Well(after), _) if *after > OBJECTIVE && starved(seen) => (
                DriftKind::ApiStarved,
                LATE_MARK.to_owned(),
                "the Kubernetes API is slow, memory is near full".to_owned(),
                format!(
                    "the Kubernetes API takes longer than {} s to say that it is well, asked through {via}, and no more than \
                     {STARVED} % of the machine's memory are left",
                    OBJECTIVE.as_secs()
                ),
            ),
            (Answers::Well(after), _) if *after > SLOW => (
                DriftKind::ApiSlow,
                SLOW_MARK.to_owned(),
                "the Kubernetes API is slow".to_owned(),
                format!(
                    "the Kubernetes API takes longer than {} s to say that it is well, asked through {via}",
                    SLOW.as_secs()
                ),
            ),
            (Answers::Well(_), Err(why)) => {
                let message = format!("its nodes are not known, asked through {via}: {why}");
                return Err(Blind { reason: Reason::NotAnswered, message });
            }
            (Answers::Well(_), Ok(nodes)) if nodes.ready < wanted => {
                let more =
                    usize::try_from(nodes.not_ready_count).unwrap_or(usize::MAX).saturating_sub(nodes.not_ready.len());
                let names = match (nodes.not_ready.is_empty(), more) {
                    (true, _) => "no other is registered".to_owned(),
                    (false, 0) => format!("not Ready: {}", nodes.not_ready.join(", ")),
                    (false, more) => format!("not Ready: {} and {more} more", nodes.not_ready.join(", ")),
                };
                (
                    DriftKind::NodesNotReady,
                    nodes_mark(nodes.ready),
                    format!("{} of {wanted} nodes Ready", nodes.ready),
                    format!("{} nodes are Ready and {wanted} must be; {names}", nodes.ready),
                )
            }
            (Answers::Well(_), Ok(_)) => {
                let as_described = format!("it answers, and {wanted} nodes or more are Ready");
                return Ok(Check { as_described, ..Check::default() });
            }
        };
        // After a boot the API takes a while.
        let booting = kind != DriftKind::NodesNotReady
            && seen.machine.seen().is_some_and(|machine| machine.up_for() < STARTS_WITHIN.as_secs());
        // A restart of the API server, a lost packet.
        Ok(if booting || seen.lasting.age(&mark, seen.at) < BLIP {
            Check { settling: vec![(SUBJECT.to_owned(), short)], ..Check::default() }
        } else {
            let drift = Drift { kind, subject: SUBJECT.to_owned(), short, evidence };
            Check { drifts: vec![drift], ..Check::default() }
        })
    }

    fn ladder(&self, desired: &Desired, seen: &Observation, drift: &Drift) -> Vec<Rung> {
        match drift.kind {
            // The runbook restarts the master. That it is slow alone says nothing about the master itself.
            DriftKind::ApiNotAnswering | DriftKind::ApiStarved => seen
                .boot_id()
                .map(|boot_id| Rung { step: Step::Reboot { boot_id: boot_id.to_owned() }, takes_effect: BOOTS_WITHIN })
                .into_iter()
                .collect(),
            DriftKind::NodesNotReady if desired.kubernetes_api.as_ref().is_some_and(|spec| spec.may_restart_nodes) => {
                let nodes = seen.kubernetes.seen().and_then(|api| api.nodes.as_ref().ok());
                let names = nodes.map_or(&[][..], |nodes| &nodes.not_ready);
                let rung =
                    |node: &String| Rung { step: Step::RestartNode { node: node.clone() }, takes_effect: BOOTS_WITHIN };
                names.iter().map(rung).collect()
            }
            _ => Vec::new(),
        }
    }
}

/// Whether the machine's memory is near full.
fn starved(seen: &Observation) -> bool {
    seen.machine.seen().and_then(|machine| machine.memory_left).is_some_and(|left| left <= STARVED)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::*;
    use crate::seen::Known;
    use crate::seen::kubernetes::{Api, Nodes};
    use crate::seen::lasting::Lasting;
    use crate::seen::machine::Machine;
    use binder_crds::desired;
    use jiff::{SignedDuration, Timestamp};
    use std::time::Duration;

    fn looked(answer: Answers, nodes: Result<Nodes, String>, for_seconds: i64) -> Result<Check, Blind> {
        looked_with(answer, nodes, for_seconds, 50)
    }

    fn looked_with(
        answer: Answers,
        nodes: Result<Nodes, String>,
        for_seconds: i64,
        memory_left: u8,
    ) -> Result<Check, Blind> {
        let desired = Desired {
            kubernetes_api: Some(desired::KubernetesApi { ready_nodes: 2, may_restart_nodes: false }),
            ..Desired::default()
        };
        let at = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(1000);
        let mut seen = Observation::nothing(at);
        seen.kubernetes = Known::Seen(Api { via: "web".to_owned(), answer, nodes, namespaces: None });
        let machine = Machine { uptime: 9000, memory_left: Some(memory_left), ..Machine::default() };
        seen.machine = Known::Seen(machine);
        let first = Lasting::default().carried(seen.marks(), at - SignedDuration::from_secs(for_seconds));
        seen.lasting = first.carried(seen.marks(), at);
        KubernetesApi.check(&desired, &seen)
    }

    fn ready(ready: u32) -> Result<Nodes, String> {
        let not_ready = if ready < 2 { vec!["minion-2".to_owned()] } else { Vec::new() };
        Ok(Nodes { ready, not_ready_count: u32::try_from(not_ready.len()).unwrap(), not_ready })
    }

    #[test]
    fn what_an_api_says_is_judged_and_a_blip_is_waited_out() {
        let well = || Answers::Well(Duration::from_millis(20));
        assert!(looked(well(), ready(3), 60).unwrap().drifts.is_empty());
        let kind = |check: Result<Check, Blind>| check.unwrap().drifts.first().map(|drift| drift.kind);
        assert_eq!(kind(looked(well(), ready(1), 60)), Some(DriftKind::NodesNotReady));
        assert_eq!(kind(looked(Answers::Well(Duration::from_secs(6)), ready(2), 60)), Some(DriftKind::ApiSlow));
        assert_eq!(kind(looked(Answers::Status(500), ready(2), 60)), Some(DriftKind::ApiNotAnswering));
        let silent = || Answers::Not("no answer within 8 s".to_owned());
        assert_eq!(kind(looked(silent(), Err("x".to_owned()), 60)), Some(DriftKind::ApiNotAnswering));
        assert_eq!(kind(looked(silent(), Err("x".to_owned()), 3)), None);
        assert_eq!(looked(well(), Err("HTTP 500".to_owned()), 60).unwrap_err().reason, Reason::NotAnswered);
    }

    #[test]
    fn an_api_that_misses_its_objective_is_starved_only_where_memory_is_near_full() {
        let kind = |after, for_seconds, memory_left| {
            let answer = Answers::Well(Duration::from_millis(after));
            looked_with(answer, ready(2), for_seconds, memory_left).unwrap().drifts.first().map(|drift| drift.kind)
        };
        assert_eq!(kind(1500, 60, 5), Some(DriftKind::ApiStarved));
        assert_eq!(kind(6000, 60, 5), Some(DriftKind::ApiStarved));
        assert_eq!(kind(1500, 5, 5), None, "a blip");
        assert_eq!(kind(1500, 60, 6), None);
        assert_eq!(kind(900, 60, 5), None);
        assert_eq!(kind(6000, 60, 6), Some(DriftKind::ApiSlow));
    }

    #[test]
    fn an_api_that_is_now_late_and_now_silent_is_starved_all_the_same() {
        let at = |seconds: i64| Timestamp::UNIX_EPOCH + SignedDuration::from_secs(1000 + seconds);
        let look = |answer, seconds| {
            let mut seen = Observation::nothing(at(seconds));
            seen.kubernetes = Known::Seen(Api { via: "web".to_owned(), answer, nodes: ready(2), namespaces: None });
            let machine = Machine { uptime: 9000, memory_left: Some(4), ..Machine::default() };
            seen.machine = Known::Seen(machine);
            seen
        };
        let mut lasting = Lasting::default();
        for (answer, seconds) in
            [(Answers::Well(Duration::from_secs(3)), 0), (Answers::Status(500), 6), (Answers::Not("x".to_owned()), 9)]
        {
            lasting = lasting.carried(look(answer, seconds).marks(), at(seconds));
        }
        let mut last = look(Answers::Well(Duration::from_secs(2)), 12);
        last.lasting = lasting.carried(last.marks(), at(12));
        let desired = Desired {
            kubernetes_api: Some(desired::KubernetesApi { ready_nodes: 2, may_restart_nodes: false }),
            ..Desired::default()
        };
        let check = KubernetesApi.check(&desired, &last).unwrap();
        assert_eq!(check.drifts.first().map(|drift| drift.kind), Some(DriftKind::ApiStarved));
    }

    #[test]
    fn a_node_is_restarted_only_where_that_is_allowed_and_a_slow_master_only_when_it_is_starved() {
        let spec = |may_restart_nodes| Desired {
            kubernetes_api: Some(desired::KubernetesApi { ready_nodes: 2, may_restart_nodes }),
            ..Desired::default()
        };
        let mut seen = Observation::nothing(Timestamp::UNIX_EPOCH);
        seen.kubernetes = Known::Seen(Api {
            via: "web".to_owned(),
            answer: Answers::Well(Duration::from_millis(5)),
            nodes: ready(1),
            namespaces: None,
        });
        seen.machine = Known::Seen(Machine { boot_id: "boot-0001".to_owned(), ..Machine::default() });
        let steps = |allowed, kind| -> Vec<&'static str> {
            let drift = Drift { kind, subject: String::new(), short: String::new(), evidence: String::new() };
            KubernetesApi.ladder(&spec(allowed), &seen, &drift).iter().map(|rung| rung.step.kind()).collect()
        };
        assert_eq!(steps(true, DriftKind::NodesNotReady), ["RestartNode"]);
        assert!(steps(false, DriftKind::NodesNotReady).is_empty());
        assert!(steps(true, DriftKind::ApiSlow).is_empty());
        assert_eq!(steps(false, DriftKind::ApiStarved), ["Reboot"]);
        assert_eq!(steps(false, DriftKind::ApiNotAnswering), ["Reboot"]);
    }
}
