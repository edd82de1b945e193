//! What a Kubernetes API says of itself and of its nodes, and the namespaces of Binder's apps.

use jiff::Timestamp;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::time::Duration;

/// From then on an API is slow whatever the reason: five times [`OBJECTIVE`].
pub const SLOW: Duration = Duration::from_secs(5);

/// What Kubernetes sets itself as an objective for a call about one object (its SLO "API call latency"). An API that misses it
/// is slow where something else says why.
pub const OBJECTIVE: Duration = Duration::from_secs(1);

/// As many nodes are named.
const NAMED: usize = 5;

/// What was seen of an API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Api {
    /// The host through whose kubectl proxy it was asked.
    pub via: String,
    /// How it answers `/healthz`.
    pub answer: Answers,
    /// Its nodes, or why they are not known.
    pub nodes: Result<Nodes, String>,
    /// The namespaces of Binder's apps, if they could be listed.
    pub namespaces: Option<Namespaces>,
}

/// How an API answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answers {
    /// It says that it is well, after so long.
    Well(Duration),
    /// It answers with an HTTP status that is no "well".
    Status(u16),
    /// It does not answer: why, in words that do not change from look to look.
    Not(String),
}

/// The nodes of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nodes {
    /// How many are Ready.
    pub ready: u32,
    /// Names of some that are not, in order.
    pub not_ready: Vec<String>,
    /// How many are not.
    pub not_ready_count: u32,
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
    let list: List<T> = serde_json::from_slice(body).map_err(|_| format!("its answer is no {kind}"))?;
    if list.kind != kind {
        return Err(format!("its answer is no {kind}"));
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
        status: Status,
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
            not_ready.push(clean(&node.metadata.name));
        }
    }
    not_ready.sort();
    not_ready.truncate(NAMED);
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

/// What is wrong with an API, if that lasts.
pub(super) fn marks(api: &Api) -> BTreeSet<String> {
    let mut marks = BTreeSet::new();
    match &api.answer {
        Answers::Well(after) => {
            marks.extend((*after > OBJECTIVE).then(|| LATE_MARK.to_owned()));
            marks.extend((*after > SLOW).then(|| SLOW_MARK.to_owned()));
        }
        // What does not answer misses every objective as well: an API that crawls is now late, now silent.
        Answers::Status(_) | Answers::Not(_) => {
            marks.extend([SILENT_MARK, SLOW_MARK, LATE_MARK].map(str::to_owned));
        }
    }
    if let Ok(nodes) = &api.nodes {
        marks.insert(nodes_mark(nodes.ready));
    }
    marks
}

/// So many nodes are Ready.
pub fn nodes_mark(ready: u32) -> String {
    format!("{ready} nodes are Ready")
}

/// The API misses its objective.
pub const LATE_MARK: &str = "the Kubernetes API is late";
/// The API is slow.
pub const SLOW_MARK: &str = "the Kubernetes API is slow";
/// The API does not answer, or not well.
pub const SILENT_MARK: &str = "the Kubernetes API does not answer";

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
        items.push(serde_json::json!({"metadata": {"name": "minion-3"}}));
        let body = serde_json::json!({"kind": "NodeList", "metadata": {}, "items": items}).to_string();
        let nodes = nodes(body.as_bytes()).unwrap();
        assert_eq!((nodes.ready, nodes.not_ready_count), (1, 3));
        assert_eq!(nodes.not_ready, ["minion-2", "minion-3", "minion-9??31m"]);
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
