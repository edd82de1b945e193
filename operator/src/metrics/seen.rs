//! What looks show of a cluster, as gauges: nodes, namespaces of apps, routes, and the verdicts of `/health/`. Ages change
//! by themselves, so they are here and not in a status.

use binder_core::seen::Observation;
use binder_core::seen::kubernetes::{Api, Verdict};
use binder_core::seen::servers::JUDGED;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use std::sync::atomic::AtomicU64;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HostLabels {
    namespace: String,
    host: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    namespace: String,
    host: String,
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VerdictLabels {
    namespace: String,
    host: String,
    component: &'static str,
}

/// The gauges.
#[derive(Clone, Debug, Default)]
pub(super) struct SeenGauges {
    nodes: Family<StateLabels, Gauge>,
    namespaces: Family<StateLabels, Gauge>,
    terminating: Family<HostLabels, Gauge>,
    api: Family<HostLabels, Gauge<f64, AtomicU64>>,
    routes: Family<StateLabels, Gauge>,
    verdicts: Family<VerdictLabels, Gauge>,
}

impl SeenGauges {
    /// Names them in a registry.
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("nodes", "Nodes of the cluster whose API the host serves, by state", self.nodes.clone());
        registry.register(
            "app_namespaces",
            "Namespaces of Binder's apps in that cluster, by state",
            self.namespaces.clone(),
        );
        let help = "For how long the longest of them has been terminating";
        registry.register_with_unit("app_namespace_terminating", help, Unit::Seconds, self.terminating.clone());
        let help = "Time that the Kubernetes API took to say that it is well";
        registry.register_with_unit("kubernetes_api_answer", help, Unit::Seconds, self.api.clone());
        registry.register("routes", "Routes of Binder's proxy, by state", self.routes.clone());
        registry.register("health_running", "What /health/ says: 1 running, 0 down", self.verdicts.clone());
    }

    /// Takes in a look.
    pub(super) fn set(&self, namespace: &str, host: &str, seen: &Observation) {
        match seen.kubernetes.seen() {
            Some(api) => self.api(namespace, host, seen, api),
            None => self.forget_api(namespace, host),
        }
        for (state, count) in [
            ("live", seen.routes.seen().map(|routes| i64::from(routes.live))),
            ("orphaned", seen.routes.seen().and_then(|routes| i64::try_from(routes.orphans.len()).ok())),
        ] {
            put(&self.routes, state_labels(namespace, host, state), count);
        }
        let health = seen.servers.seen().and_then(|servers| servers.health.as_ref()?.as_ref().ok());
        for component in JUDGED {
            let verdict = health.and_then(|health| health.verdicts.get(component));
            let labels = VerdictLabels { namespace: namespace.to_owned(), host: host.to_owned(), component };
            put(&self.verdicts, labels, verdict.map(|verdict| i64::from(verdict.running)));
        }
    }

    fn api(&self, namespace: &str, host: &str, seen: &Observation, api: &Api) {
        let nodes = api.nodes.as_ref().ok();
        put(&self.nodes, state_labels(namespace, host, "ready"), nodes.map(|nodes| i64::from(nodes.ready)));
        put(
            &self.nodes,
            state_labels(namespace, host, "not_ready"),
            nodes.map(|nodes| i64::from(nodes.not_ready_count)),
        );
        let apps = api.namespaces;
        put(&self.namespaces, state_labels(namespace, host, "active"), apps.map(|apps| i64::from(apps.active)));
        put(
            &self.namespaces,
            state_labels(namespace, host, "terminating"),
            apps.map(|apps| i64::from(apps.terminating)),
        );
        let oldest = apps.map(|apps| apps.oldest_terminating.map_or(0, |since| (seen.at.as_second() - since).max(0)));
        let labels = HostLabels { namespace: namespace.to_owned(), host: host.to_owned() };
        put(&self.terminating, labels.clone(), oldest);
        match api.verdict() {
            Verdict::Well(after) => {
                self.api.get_or_create(&labels).set(after.as_secs_f64());
            }
            Verdict::NotAnswering(_) | Verdict::Unknown(_) => {
                self.api.remove(&labels);
            }
        }
    }

    fn forget_api(&self, namespace: &str, host: &str) {
        for state in ["ready", "not_ready"] {
            self.nodes.remove(&state_labels(namespace, host, state));
        }
        for state in ["active", "terminating"] {
            self.namespaces.remove(&state_labels(namespace, host, state));
        }
        let labels = HostLabels { namespace: namespace.to_owned(), host: host.to_owned() };
        self.terminating.remove(&labels);
        self.api.remove(&labels);
    }

    /// A host is gone, or not seen any more: what was seen of it is no figure of today.
    pub(super) fn forget(&self, namespace: &str, host: &str) {
        self.set(namespace, host, &Observation::nothing(jiff::Timestamp::UNIX_EPOCH));
    }
}

fn state_labels(namespace: &str, host: &str, state: &'static str) -> StateLabels {
    StateLabels { namespace: namespace.to_owned(), host: host.to_owned(), state }
}

/// Sets a gauge, or takes it away when its figure is not known.
fn put<L>(family: &Family<L, Gauge>, labels: L, value: Option<i64>)
where
    L: Clone + std::fmt::Debug + PartialEq + Eq + std::hash::Hash,
{
    match value {
        Some(value) => {
            family.get_or_create(&labels).set(value);
        }
        None => {
            family.remove(&labels);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use crate::metrics::Metrics;
    use binder_core::seen::kubernetes::{Answers, Api, Identified, Namespaces, Nodes, Proxied};
    use binder_core::seen::{Fact, Observation};
    use jiff::Timestamp;
    use std::time::Duration;

    #[test]
    fn what_is_not_seen_any_more_is_no_figure() {
        let metrics = Metrics::default();
        let mut seen = Observation::nothing(Timestamp::from_second(1000).unwrap());
        seen.kubernetes = Fact::Seen(Api {
            own_port: 6443,
            own: Answers::Well(Duration::from_millis(5)),
            proxied: Ok(Proxied {
                via: "web".to_owned(),
                answer: Answers::Well(Duration::from_millis(250)),
                cluster: Identified::Told,
            }),
            nodes: Ok(Nodes { ready: 2, ..Nodes::default() }),
            namespaces: Some(Namespaces { active: 3, terminating: 1, oldest_terminating: Some(940) }),
        });
        metrics.seen("binder", "kubernetes-master", &seen);
        let text = metrics.text().unwrap();
        let labels = r#"{namespace="binder",host="kubernetes-master""#;
        for line in [
            format!("binder_nodes{labels},state=\"ready\"}} 2"),
            format!("binder_app_namespaces{labels},state=\"terminating\"}} 1"),
            format!("binder_app_namespace_terminating_seconds{labels}}} 60"),
            format!("binder_kubernetes_api_answer_seconds{labels}}} 0.25"),
        ] {
            assert!(text.contains(&line), "{line} in {text}");
        }
        metrics.seen("binder", "kubernetes-master", &Observation::nothing(seen.at));
        assert!(!metrics.text().unwrap().contains("kubernetes-master"));
    }
}
