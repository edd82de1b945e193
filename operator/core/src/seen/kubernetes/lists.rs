//! What a Kubernetes API lists: its nodes, and the namespaces of Binder's apps. A part of a list is none. Must not know how the
//! API was asked, or whether it is well.

use jiff::Timestamp;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// As many nodes are named.
const NAMED: usize = 5;

/// The nodes of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nodes {
    /// How many are Ready.
    pub ready: u32,
    /// Names of some that are not, in order.
    pub not_ready: Vec<String>,
    /// How many are not.
    pub not_ready_count: u32,
    /// Those of the named ones that somebody has cordoned.
    pub cordoned: BTreeSet<String>,
    /// What the cloud says of the instances of the named ones, where they may be restarted; or why it says nothing.
    pub instances: BTreeMap<String, Result<NodeInstance, String>>,
}

/// What the cloud says of a node's instance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeInstance {
    /// Whether the fleet lists the instance as that of one of its hosts.
    pub listed: bool,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// How it is, in the cloud's word; `None` when it runs.
    pub not_running: Option<String>,
}

impl Nodes {
    /// Why a node's instance may not be restarted, in words; `None` when it may. `label` is the one that the cluster's instances
    /// carry, as key and value.
    pub fn why_not(&self, node: &str, label: Option<(&str, &str)>) -> Option<String> {
        let all = self.ready.saturating_add(self.not_ready_count);
        // So many at once are not the nodes' fault: their network's, or the control plane's.
        if self.not_ready_count > 1 && self.not_ready_count.saturating_mul(3) > all {
            return Some(format!(
                "{} of {all} nodes are not Ready, which no restart of one cures",
                self.not_ready_count
            ));
        }
        if self.cordoned.contains(node) {
            return Some("it is cordoned".to_owned());
        }
        let instance = match self.instances.get(node) {
            None => return Some("nothing is known of its instance".to_owned()),
            Some(Err(why)) => return Some(why.clone()),
            Some(Ok(instance)) => instance,
        };
        if let Some(word) = &instance.not_running {
            return Some(format!("its cloud says that it is {word}"));
        }
        let labelled = label.is_some_and(|(key, value)| instance.labels.get(key).is_some_and(|is| is == value));
        match (instance.listed || labelled, label) {
            (true, _) => None,
            (false, Some((key, value))) => {
                Some(format!("its instance is not a host of this fleet and lacks the label {key}={value}"))
            }
            (false, None) => {
                Some("its instance is not a host of this fleet, and kubernetesApi.nodeLabel is not set".to_owned())
            }
        }
    }
}

/// The namespaces of Binder's apps, by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Namespaces {
    /// How many are in use.
    pub active: u32,
    /// How many are being deleted.
    pub terminating: u32,
    /// Since when the longest of those has been, seconds since 1970 by the cluster's clock.
    pub oldest_terminating: Option<i64>,
}

#[derive(Deserialize)]
struct List<T> {
    kind: String,
    #[serde(default)]
    metadata: ListMetadata,
    items: Vec<T>,
}

#[derive(Default, Deserialize)]
struct ListMetadata {
    #[serde(default, rename = "continue")]
    next: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: String,
    #[serde(default)]
    deletion_timestamp: Option<String>,
}

/// The items of a whole list; a part of one is none.
fn list<T: for<'d> Deserialize<'d>>(body: &[u8], kind: &str) -> Result<Vec<T>, String> {
    let list: List<T> = serde_json::from_slice(body).map_err(|_| format!("its answer is not a {kind}"))?;
    if list.kind != kind {
        return Err(format!("its answer is not a {kind}"));
    }
    if list.metadata.next.is_some_and(|next| !next.is_empty()) {
        return Err(format!("it gives only a part of the {kind}"));
    }
    Ok(list.items)
}

/// A name of an object as a person can be shown it.
fn clean(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '.') { c } else { '?' }).take(63).collect()
}

/// Reads an answer to `GET /api/v1/nodes`.
///
/// # Errors
/// It is no whole list of nodes.
pub fn nodes(body: &[u8]) -> Result<Nodes, String> {
    #[derive(Deserialize)]
    struct Node {
        metadata: Metadata,
        #[serde(default)]
        spec: Spec,
        #[serde(default)]
        status: Status,
    }
    #[derive(Default, Deserialize)]
    struct Spec {
        #[serde(default)]
        unschedulable: bool,
    }
    #[derive(Default, Deserialize)]
    struct Status {
        #[serde(default)]
        conditions: Vec<Condition>,
    }
    #[derive(Deserialize)]
    struct Condition {
        #[serde(rename = "type")]
        kind: String,
        status: String,
    }
    let mut nodes = Nodes::default();
    let mut not_ready: Vec<String> = Vec::new();
    for node in list::<Node>(body, "NodeList")? {
        if node.status.conditions.iter().any(|condition| condition.kind == "Ready" && condition.status == "True") {
            nodes.ready += 1;
        } else {
            nodes.not_ready_count += 1;
            let name = clean(&node.metadata.name);
            if node.spec.unschedulable {
                nodes.cordoned.insert(name.clone());
            }
            not_ready.push(name);
        }
    }
    not_ready.sort();
    not_ready.truncate(NAMED);
    nodes.cordoned.retain(|name| not_ready.contains(name));
    nodes.not_ready = not_ready;
    Ok(nodes)
}

/// Reads an answer to `GET /api/v1/namespaces` for Binder's label.
pub fn namespaces(body: &[u8]) -> Option<Namespaces> {
    #[derive(Deserialize)]
    struct Namespace {
        metadata: Metadata,
    }
    let mut seen = Namespaces::default();
    for namespace in list::<Namespace>(body, "NamespaceList").ok()? {
        match namespace.metadata.deletion_timestamp {
            None => seen.active += 1,
            Some(since) => {
                seen.terminating += 1;
                let since = since.parse::<Timestamp>().ok().map(Timestamp::as_second);
                seen.oldest_terminating = seen.oldest_terminating.into_iter().chain(since).min();
            }
        }
    }
    Some(seen)
}

/// The names of all namespaces in an answer to `GET /api/v1/namespaces`.
///
/// # Errors
/// It is no whole list of namespaces.
pub fn namespace_names(body: &[u8]) -> Result<BTreeSet<String>, String> {
    #[derive(Deserialize)]
    struct Namespace {
        metadata: Metadata,
    }
    let names: BTreeSet<String> =
        list::<Namespace>(body, "NamespaceList")?.into_iter().map(|namespace| namespace.metadata.name).collect();
    // Every cluster has it: a list without it is of something else, and all that is not in it would seem to be gone.
    if !names.contains("kube-system") {
        return Err("its list of namespaces lacks kube-system".to_owned());
    }
    Ok(names)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nodes_are_counted_and_some_are_named() {
        let node = |name: &str, ready: &str| {
            serde_json::json!({"metadata": {"name": name}, "status": {"conditions": [
                {"type": "MemoryPressure", "status": "False"}, {"type": "Ready", "status": ready}]}})
        };
        let mut items =
            vec![node("minion-1", "True"), node("minion-9\u{1b}[31m", "Unknown"), node("minion-2", "False")];
        items.push(serde_json::json!({"metadata": {"name": "minion-3"}, "spec": {"unschedulable": true}}));
        let body = serde_json::json!({"kind": "NodeList", "metadata": {}, "items": items}).to_string();
        let nodes = nodes(body.as_bytes()).unwrap();
        assert_eq!((nodes.ready, nodes.not_ready_count), (1, 3));
        assert_eq!(nodes.not_ready, ["minion-2", "minion-3", "minion-9??31m"]);
        assert_eq!(nodes.cordoned.into_iter().collect::<Vec<_>>(), ["minion-3"]);
    }

    #[test]
    fn no_node_is_restarted_that_is_cordoned_off_unknown_or_one_of_many() {
        let instance = NodeInstance {
            labels: BTreeMap::from([("cluster".to_owned(), "binder".to_owned())]),
            ..NodeInstance::default()
        };
        let nodes = |ready, not_ready_count| Nodes {
            ready,
            not_ready: vec!["m1".to_owned()],
            not_ready_count,
            instances: BTreeMap::from([("m1".to_owned(), Ok(instance.clone()))]),
            ..Nodes::default()
        };
        let label = Some(("cluster", "binder"));
        for (ready, not_ready, may) in [
            (1, 1, true),
            (0, 1, true),
            (2, 1, true),
            (4, 2, true),
            (6, 3, true),
            (3, 2, false),
            (0, 2, false),
            (5, 3, false),
        ] {
            assert_eq!(nodes(ready, not_ready).why_not("m1", label).is_none(), may, "{ready} {not_ready}");
        }
        let says = |change: fn(&mut Nodes), label| {
            let mut nodes = nodes(2, 1);
            change(&mut nodes);
            nodes.why_not("m1", label).unwrap_or_default()
        };
        assert_eq!(
            says(
                |nodes| {
                    nodes.cordoned.insert("m1".to_owned());
                },
                label
            ),
            "it is cordoned"
        );
        assert_eq!(says(|nodes| nodes.instances.clear(), label), "nothing is known of its instance");
        assert!(says(|_| (), Some(("cluster", "other"))).contains("lacks the label cluster=other"));
        assert!(says(|_| (), None).contains("nodeLabel"));
        let stopped = |nodes: &mut Nodes| {
            nodes
                .instances
                .values_mut()
                .flatten()
                .for_each(|instance| instance.not_running = Some("stopped".to_owned()));
        };
        assert_eq!(says(stopped, label), "its cloud says that it is stopped");
        let listed =
            |nodes: &mut Nodes| nodes.instances.values_mut().flatten().for_each(|instance| instance.listed = true);
        assert_eq!(says(listed, None), "");
    }

    #[test]
    fn namespaces_are_counted_by_state() {
        let body = serde_json::json!({"kind": "NamespaceList", "items": [
            {"metadata": {"name": "a"}},
            {"metadata": {"name": "b", "deletionTimestamp": "2016-06-01T12:00:00Z"}},
            {"metadata": {"name": "c", "deletionTimestamp": "2016-06-01T11:00:00Z"}}]});
        let seen = namespaces(body.to_string().as_bytes()).unwrap();
        assert_eq!((seen.active, seen.terminating, seen.oldest_terminating), (1, 2, Some(1_464_778_800)));
    }

    #[test]
    fn a_list_of_namespaces_without_kube_system_is_none() {
        let names =
            |items: &str| namespace_names(format!(r#"{{"kind":"NamespaceList","items":[{items}]}}"#).as_bytes());
        assert!(names("").is_err());
        assert!(names(r#"{"metadata":{"name":"default"}}"#).is_err());
        assert_eq!(names(r#"{"metadata":{"name":"kube-system"}}"#).unwrap().len(), 1);
    }

    #[test]
    fn a_part_of_a_list_or_another_kind_is_no_list() {
        for body in [
            r#"{"kind":"NamespaceList","metadata":{"continue":"abc"},"items":[]}"#,
            r#"{"kind":"Status","items":[]}"#,
            r#"{"kind":"NamespaceList"}"#,
            r#"{"kind":"NamespaceList","items":[{}]}"#,
            "<html>",
        ] {
            assert!(namespace_names(body.as_bytes()).is_err(), "{body}");
        }
        let whole = r#"{"kind":"NamespaceList","metadata":{"resourceVersion":"7"},"items":[{"metadata":{"name":"kube-system"}}]}"#;
        assert_eq!(namespace_names(whole.as_bytes()).unwrap().len(), 1);
    }

    proptest! {
        #[test]
        fn any_answer_is_survived(body in ".{0,300}") {
            let _ = nodes(body.as_bytes());
            let _ = namespaces(format!("{{\"kind\":\"NamespaceList\",\"items\":[{body}]}}").as_bytes());
        }
    }
}
