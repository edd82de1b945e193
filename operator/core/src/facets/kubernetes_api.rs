//! Facet `kubernetes_api`: the API that this host serves answers, in time, and has as many Ready nodes as described (runbook,
//! "Kubernetes master unresponsive": `kubectl get nodes`). Asked through another host's kubectl proxy, as Binder asks, and on the
//! machine's own loopback: nothing is done unless both agree.

use super::machine::{self, BOOTS_WITHIN};
use super::step::{CloudCall, Effect, How, Later, Nature, OfModules, Recovers, Remedy, Touches, kinds_of_steps, plain};
use super::{BLIP, Check, Drift, DriftKind, Facet, Rung, Subject};
use crate::gate::demands::Demands;
use crate::seen::kubernetes::{Api, LATE_MARK, Nodes, OBJECTIVE, SILENT_MARK, SLOW, SLOW_MARK, Verdict, nodes_mark};
use crate::seen::{Ask, Observation, Reason, Unknown};
use binder_crds::text::BadText;
use binder_crds::{Desired, conditions, desired};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The facet.
pub struct KubernetesApi;

/// The part of a machine's memory, in per cent, below which whatever it serves can be expected to crawl: the kernel's own
/// reserves and caches begin to be fought for.
const STARVED: u8 = 5;

/// How long an API may take after its machine was started. A control plane of static pods needs one to two
/// minutes.
const STARTS_WITHIN: Duration = Duration::from_secs(120);

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

    fn check(&self, desired: &Desired, seen: &Observation) -> Result<Check, Unknown> {
        let Some(spec) = &desired.kubernetes_api else { return Ok(Check::default()) };
        let api = seen.kubernetes.get()?;
        let wanted = spec.ready_nodes;
        let via = api.proxied.as_ref().map_or("nobody", |proxied| proxied.via.as_str());
        let (kind, mark, short, evidence) = match (api.verdict(), &api.nodes) {
            // First, so that an API that is now late and now silent is the same all the time.
            _ if api.is_late_everywhere() && starved(seen) => (
                DriftKind::ApiStarved,
                LATE_MARK.to_owned(),
                "the Kubernetes API is slow, memory is near full".to_owned(),
                format!(
                    "the Kubernetes API takes longer than {} s to say that it is well, asked through {via} and on the machine \
                     itself, and no more than {STARVED} % of the machine's memory are left",
                    OBJECTIVE.as_secs()
                ),
            ),
            (Verdict::NotAnswering(how), _) => (
                DriftKind::ApiNotAnswering,
                SILENT_MARK.to_owned(),
                "the Kubernetes API does not answer".to_owned(),
                format!("the Kubernetes API does not answer, or not well: {how}"),
            ),
            (Verdict::Unknown(blind), _) => return Err(blind),
            (Verdict::Well(after), _) if after > SLOW => (
                DriftKind::ApiSlow,
                SLOW_MARK.to_owned(),
                "the Kubernetes API is slow".to_owned(),
                format!(
                    "the Kubernetes API takes longer than {} s to say that it is well, asked through {via}",
                    SLOW.as_secs()
                ),
            ),
            (Verdict::Well(_), Err(why)) => {
                let message = format!("its nodes are not known, asked through {via}: {why}");
                return Err(Unknown { reason: Reason::NotAnswered, message });
            }
            (Verdict::Well(_), Ok(nodes)) if nodes.ready < wanted => {
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
                    format!("{} nodes are Ready and {wanted} must be; {names}{}", nodes.ready, kept(spec, api, nodes)),
                )
            }
            (Verdict::Well(_), Ok(_)) => {
                let as_described = format!("it answers, and {wanted} nodes or more are Ready");
                return Ok(Check { as_described, ..Check::default() });
            }
        };
        // After a boot the API takes a while.
        let booting = kind != DriftKind::NodesNotReady
            && seen.machine.seen().is_some_and(|machine| machine.up_for() < STARTS_WITHIN.as_secs());
        // A restart of the API server, a lost packet.
        Ok(if booting || seen.lasting.age(&mark, seen.at) < BLIP {
            Check { progressing: vec![(Subject::KubernetesApi, short)], ..Check::default() }
        } else {
            let drift = Drift { kind, subject: Subject::KubernetesApi, short, evidence };
            Check { drifts: vec![drift], ..Check::default() }
        })
    }

    fn rank(&self, _: &Desired, _: &Drift) -> u8 {
        super::LAST
    }

    fn ladder(&self, desired: &Desired, seen: &Observation, drift: &Drift) -> Vec<Rung> {
        match drift.kind {
            // The runbook restarts the master. That it is slow alone says nothing about the master itself.
            DriftKind::ApiNotAnswering | DriftKind::ApiStarved => seen
                .boot_id()
                .map(|boot_id| Rung::new(machine::Step::Reboot { boot_id: boot_id.to_owned() }, BOOTS_WITHIN))
                .into_iter()
                .collect(),
            DriftKind::NodesNotReady => {
                let (Some(spec), Some(api)) = (&desired.kubernetes_api, seen.kubernetes.seen()) else {
                    return Vec::new();
                };
                let rung = |node: &String| Rung::new(Step::RestartNode { node: node.clone() }, BOOTS_WITHIN);
                let nodes = api.nodes.as_ref().map_or(&[][..], |nodes| &nodes.not_ready);
                nodes.iter().filter(|node| why_kept(spec, api, node).is_none()).map(rung).collect()
            }
            _ => Vec::new(),
        }
    }
}

/// Why a node's instance is not restarted, in words; `None` when it may be.
fn why_kept(spec: &desired::KubernetesApi, api: &Api, node: &str) -> Option<String> {
    if !spec.may_restart_nodes {
        return Some("kubernetesApi.mayRestartNodes does not allow it".to_owned());
    }
    if !api.nodes_are_its_own() {
        return Some("which cluster tells so is not known: set kubernetesApi.clusterId".to_owned());
    }
    let label = spec.node_label.as_ref().and_then(|label| label.0.split_once('='));
    api.nodes.as_ref().map_or_else(|why| Some(why.clone()), |nodes| nodes.why_not(node, label))
}

/// What is said of nodes that might be restarted and are not.
fn kept(spec: &desired::KubernetesApi, api: &Api, nodes: &Nodes) -> String {
    if !spec.may_restart_nodes {
        return String::new();
    }
    let said = nodes.not_ready.iter().filter_map(|node| Some((node, why_kept(spec, api, node)?)));
    said.map(|(node, why)| format!("; {node} is not restarted: {why}")).collect()
}

/// Whether the machine's memory is near full.
fn starved(seen: &Observation) -> bool {
    seen.machine.seen().and_then(|machine| machine.memory_left).is_some_and(|left| left <= STARVED)
}

/// A step against nodes that are not Ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all_fields = "camelCase")]
pub enum Step {
    /// Reset the instance of a node that is not Ready, or start it if it is off. Instances are named as their nodes.
    RestartNode {
        /// The node's name.
        node: String,
    },
}

kinds_of_steps!(Step: RestartNode);

impl Remedy for Step {
    fn words(&self) -> String {
        let Self::RestartNode { node } = self;
        format!("restart the instance of the node {node}")
    }

    fn nature(&self) -> Nature<'_> {
        let Self::RestartNode { node } = self;
        Nature {
            touches: Touches::Node(node),
            demands: Demands::SILENT,
            in_turn: true,
            parts: 1,
            modules: OfModules::Apart,
            opens_way_in: false,
            rests_on_age: false,
            starts: false,
            recovers: Recovers::TheDead,
        }
    }

    fn checked(&self) -> Result<(), BadText> {
        let Self::RestartNode { node } = self;
        plain("node", node)
    }

    fn effect(&self, later: &Later<'_>) -> Result<Effect, Unknown> {
        let Self::RestartNode { node } = self;
        let api = later.seen.kubernetes.get()?;
        let unseen = |message: &String| Unknown { reason: Reason::NotAnswered, message: message.clone() };
        let nodes = api.nodes.as_ref().map_err(unseen)?;
        let all_told = nodes.not_ready.len() == usize::try_from(nodes.not_ready_count).unwrap_or(usize::MAX);
        Ok(if all_told && !nodes.not_ready.contains(node) {
            Effect::Seen(format!("{node} is Ready, {} nodes are", nodes.ready))
        } else {
            Effect::NotYet(format!("{node} is not Ready yet, {} nodes are", nodes.ready))
        })
    }

    fn how(&self) -> How {
        let Self::RestartNode { node } = self;
        How::Cloud(CloudCall::RestartNode { node: node.clone() })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::*;
    use crate::seen::Fact;
    use crate::seen::kubernetes::{Answers, Identified, NodeInstance, Proxied};
    use crate::seen::lasting::Lasting;
    use crate::seen::machine::Machine;
    use jiff::{SignedDuration, Timestamp};
    use std::collections::BTreeMap;
    use std::time::Duration;

    fn desired() -> Desired {
        let api = desired::KubernetesApi { ready_nodes: 2, ..desired::KubernetesApi::default() };
        Desired { kubernetes_api: Some(api), ..Desired::default() }
    }

    fn api(own: Answers, answer: Answers, nodes: Result<Nodes, String>) -> Api {
        let proxied = Ok(Proxied { via: "web".to_owned(), answer, cluster: Identified::Told });
        Api { own_port: 6443, own, proxied, nodes, namespaces: None }
    }

    fn look(api: Api, at: Timestamp, memory_left: u8) -> Observation {
        let mut seen = Observation::nothing(at);
        seen.kubernetes = Fact::Seen(api);
        let machine = Machine { uptime: 9000, memory_left: Some(memory_left), ..Machine::default() };
        seen.machine = Fact::Seen(machine);
        seen
    }

    fn looked(api: Api, for_seconds: i64, memory_left: u8) -> Result<Check, Unknown> {
        let at = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(1000);
        let mut seen = look(api, at, memory_left);
        let first = Lasting::default().carried(seen.marks(), at - SignedDuration::from_secs(for_seconds));
        seen.lasting = first.carried(seen.marks(), at);
        KubernetesApi.check(&desired(), &seen)
    }

    fn kind(check: Result<Check, Unknown>) -> Option<DriftKind> {
        check.unwrap().drifts.first().map(|drift| drift.kind)
    }

    fn ready(ready: u32) -> Result<Nodes, String> {
        let not_ready = if ready < 2 { vec!["minion-2".to_owned()] } else { Vec::new() };
        Ok(Nodes { ready, not_ready_count: u32::try_from(not_ready.len()).unwrap(), not_ready, ..Nodes::default() })
    }

    fn well(millis: u64) -> Answers {
        Answers::Well(Duration::from_millis(millis))
    }

    #[test]
    fn what_an_api_says_is_judged_and_a_blip_is_waited_out() {
        let quick = || well(20);
        assert!(looked(api(quick(), quick(), ready(3)), 60, 50).unwrap().drifts.is_empty());
        assert_eq!(kind(looked(api(quick(), quick(), ready(1)), 60, 50)), Some(DriftKind::NodesNotReady));
        assert_eq!(kind(looked(api(quick(), well(6000), ready(2)), 60, 50)), Some(DriftKind::ApiSlow));
        let sick = || Answers::Status(500);
        assert_eq!(kind(looked(api(sick(), sick(), ready(2)), 60, 50)), Some(DriftKind::ApiNotAnswering));
        let silent = |seconds| looked(api(Answers::Silent, Answers::Silent, Err("x".to_owned())), seconds, 50);
        assert_eq!(kind(silent(60)), Some(DriftKind::ApiNotAnswering));
        assert_eq!(kind(silent(3)), None);
        let blind = looked(api(quick(), quick(), Err("HTTP 500".to_owned())), 60, 50).unwrap_err();
        assert_eq!(blind.reason, Reason::NotAnswered);
    }

    /// kubernetes/kubernetes#39532: /healthz is forbidden to the proxy's login, while both nodes are told and Ready.
    #[test]
    fn an_api_that_is_well_and_forbids_us_to_ask_is_no_fault() {
        for status in [401, 403, 404, 429, 502] {
            let blind = looked(api(well(5), Answers::Status(status), ready(2)), 3600, 50).unwrap_err();
            assert_eq!(blind.reason, Reason::AskerRefused, "{status}");
            let blind = looked(api(Answers::Silent, Answers::Status(status), ready(2)), 3600, 2).unwrap_err();
            assert_eq!(blind.reason, Reason::AskerRefused, "{status}");
        }
    }

    #[test]
    fn an_api_that_misses_its_objective_is_starved_only_where_memory_is_near_full_and_both_ways_agree() {
        let kind = |own, after, for_seconds, memory_left| {
            kind(looked(api(well(own), well(after), ready(2)), for_seconds, memory_left))
        };
        assert_eq!(kind(1500, 1500, 60, 5), Some(DriftKind::ApiStarved));
        assert_eq!(kind(6000, 6000, 60, 5), Some(DriftKind::ApiStarved));
        assert_eq!(kind(1500, 1500, 5, 5), None, "a blip");
        assert_eq!(kind(1500, 1500, 60, 6), None);
        assert_eq!(kind(900, 900, 60, 5), None);
        assert_eq!(kind(6000, 6000, 60, 6), Some(DriftKind::ApiSlow));
        assert_eq!(kind(20, 1500, 60, 5), None, "it is the way that is slow");
        assert_eq!(kind(20, 6000, 60, 5), Some(DriftKind::ApiSlow));
    }

    #[test]
    fn an_api_that_is_now_late_and_now_silent_is_starved_all_the_same() {
        let at = |seconds: i64| Timestamp::UNIX_EPOCH + SignedDuration::from_secs(1000 + seconds);
        let look = |own, answer, seconds| look(api(own, answer, ready(2)), at(seconds), 4);
        let mut lasting = Lasting::default();
        for (own, answer, seconds) in [
            (well(3000), well(3000), 0),
            (Answers::Silent, Answers::Status(500), 6),
            (Answers::Silent, Answers::Silent, 9),
            (well(2000), Answers::Silent, 11),
            (well(2000), well(2000), 12),
        ] {
            let mut seen = look(own, answer, seconds);
            lasting = lasting.carried(seen.marks(), at(seconds));
            seen.lasting = lasting.clone();
            let starved = kind(KubernetesApi.check(&desired(), &seen));
            assert_eq!(starved, (seconds > 10).then_some(DriftKind::ApiStarved), "{seconds}");
        }
    }

    #[test]
    fn a_node_is_restarted_only_where_that_is_allowed_and_a_slow_master_only_when_it_is_starved() {
        let spec = |may_restart_nodes| {
            let mut desired = desired();
            desired.kubernetes_api.as_mut().unwrap().may_restart_nodes = may_restart_nodes;
            desired
        };
        let mut nodes = ready(1).unwrap();
        let instance = NodeInstance { listed: true, ..NodeInstance::default() };
        nodes.instances = BTreeMap::from([("minion-2".to_owned(), Ok(instance))]);
        let mut seen = Observation::nothing(Timestamp::UNIX_EPOCH);
        seen.kubernetes = Fact::Seen(api(well(5), well(5), Ok(nodes.clone())));
        seen.machine = Fact::Seen(Machine { boot_id: "boot-0001".to_owned(), ..Machine::default() });
        let steps = |seen: &Observation, allowed, kind| -> Vec<&'static str> {
            let drift = Drift { kind, subject: Subject::KubernetesApi, short: String::new(), evidence: String::new() };
            KubernetesApi.ladder(&spec(allowed), seen, &drift).iter().map(|rung| rung.step.kind()).collect()
        };
        assert_eq!(steps(&seen, true, DriftKind::NodesNotReady), ["RestartNode"]);
        assert!(steps(&seen, false, DriftKind::NodesNotReady).is_empty());
        assert!(steps(&seen, true, DriftKind::ApiSlow).is_empty());
        assert_eq!(steps(&seen, false, DriftKind::ApiStarved), ["Reboot"]);
        assert_eq!(steps(&seen, false, DriftKind::ApiNotAnswering), ["Reboot"]);
        // A cluster that nobody has named restarts nobody's machines.
        for cluster in [Identified::Unnamed, Identified::Never, Identified::Before] {
            let proxied = Proxied { via: "web".to_owned(), answer: well(5), cluster };
            let told = api(well(5), well(5), Ok(nodes.clone()));
            seen.kubernetes = Fact::Seen(Api { proxied: Ok(proxied), ..told });
            assert!(steps(&seen, true, DriftKind::NodesNotReady).is_empty());
        }
    }

    #[test]
    fn a_node_that_is_left_alone_is_said_with_its_reason() {
        let mut desired = desired();
        desired.kubernetes_api.as_mut().unwrap().may_restart_nodes = true;
        let at = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(1000);
        let mut seen = look(api(well(5), well(5), ready(1)), at, 50);
        seen.lasting =
            Lasting::default().carried(seen.marks(), at - SignedDuration::from_secs(60)).carried(seen.marks(), at);
        let check = KubernetesApi.check(&desired, &seen).unwrap();
        let evidence = &check.drifts.first().unwrap().evidence;
        assert!(evidence.ends_with("; minion-2 is not restarted: nothing is known of its instance"), "{evidence}");
    }
}
