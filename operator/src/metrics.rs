//! What is counted and measured, for `/metrics`. Labels come from enums and names of objects, never from a host.

mod database;
mod inspection;
mod seen;

use binder_core::inspect::Figures;
use inspection::Inspection;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Every metric of the operator.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    looks: Family<LookLabels, Counter>,
    look_time: Histogram,
    actions: Family<ActionLabels, Counter>,
    healthy: Family<HostLabels, Gauge>,
    held: Family<FleetLabels, Gauge>,
    writes: Family<WriteLabels, Counter>,
    failures: Family<FailureLabels, Counter>,
    seen: seen::SeenGauges,
    inspection: Inspection,
    database: database::DatabaseGauges,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LookLabels {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ActionLabels {
    step: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HostLabels {
    namespace: String,
    host: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FleetLabels {
    namespace: String,
    fleet: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WriteLabels {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailureLabels {
    controller: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("binder");
        let looks = Family::<LookLabels, Counter>::default();
        registry.register("looks", "Looks at hosts, by result", looks.clone());
        let look_time = Histogram::new([0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0]);
        registry.register_with_unit("look", "Time that a look took", Unit::Seconds, look_time.clone());
        let actions = Family::<ActionLabels, Counter>::default();
        registry.register("actions", "Finished attempts at runbook steps, by step and outcome", actions.clone());
        let healthy = Family::<HostLabels, Gauge>::default();
        registry.register("host_healthy", "1 as described, 0 not, -1 not seen", healthy.clone());
        let held = Family::<FleetLabels, Gauge>::default();
        let words = "1 while the fleet's brake holds every step that disrupts a service or a host, else 0";
        registry.register("fleet_remediation_held", words, held.clone());
        let writes = Family::<WriteLabels, Counter>::default();
        registry.register("api_writes", "Writes to the Kubernetes API, by kind of object", writes.clone());
        let failures = Family::<FailureLabels, Counter>::default();
        registry.register("reconcile_failures", "Reconciliations that ended in an error", failures.clone());
        let seen = seen::SeenGauges::default();
        seen.register(&mut registry);
        let inspection = Inspection::default();
        registry.register_collector(Box::new(inspection.clone()));
        let database = database::DatabaseGauges::default();
        database.register(&mut registry);
        Self { registry, looks, look_time, actions, healthy, held, writes, failures, seen, inspection, database }
    }
}

impl Metrics {
    /// A look came to its end: `seen`, or the reason why not.
    pub fn looked(&self, result: &'static str, seconds: f64) {
        self.looks.get_or_create(&LookLabels { result }).inc();
        self.look_time.observe(seconds);
    }

    /// What a look showed of a host.
    pub fn seen(&self, namespace: &str, host: &str, seen: &binder_core::seen::Observation) {
        self.seen.set(namespace, host, seen);
        self.database.set(namespace, host, seen);
    }

    /// A host could not be looked at: what was seen before is no figure of today.
    pub fn not_seen(&self, namespace: &str, host: &str) {
        self.seen.forget(namespace, host);
        self.database.forget(namespace, host);
    }

    /// An attempt came to its end.
    pub fn finished(&self, step: &str, outcome: &'static str) {
        self.actions.get_or_create(&ActionLabels { step: step.to_owned(), outcome }).inc();
    }

    /// How a host is.
    pub fn host(&self, namespace: &str, host: &str, healthy: Option<bool>) {
        let labels = HostLabels { namespace: namespace.to_owned(), host: host.to_owned() };
        self.healthy.get_or_create(&labels).set(healthy.map_or(-1, i64::from));
    }

    /// Whether a fleet's brake holds.
    pub fn fleet(&self, namespace: &str, fleet: &str, held: bool) {
        let labels = FleetLabels { namespace: namespace.to_owned(), fleet: fleet.to_owned() };
        self.held.get_or_create(&labels).set(i64::from(held));
    }

    /// A fleet is gone.
    pub fn fleet_gone(&self, namespace: &str, fleet: &str) {
        self.held.remove(&FleetLabels { namespace: namespace.to_owned(), fleet: fleet.to_owned() });
    }

    /// What the last look at a host saw; `None`: it was not seen, so nothing is known.
    pub fn inspected(&self, namespace: &str, host: &str, figures: Option<Figures>) {
        match figures {
            Some(figures) => self.inspection.set(namespace, host, figures),
            None => self.inspection.remove(namespace, host),
        }
    }

    /// A host is gone.
    pub fn host_gone(&self, namespace: &str, host: &str) {
        self.inspection.remove(namespace, host);
        self.healthy.remove(&HostLabels { namespace: namespace.to_owned(), host: host.to_owned() });
        self.not_seen(namespace, host);
    }

    /// Something was written to the API.
    pub fn wrote(&self, kind: &'static str) {
        self.writes.get_or_create(&WriteLabels { kind }).inc();
    }

    /// A reconciliation ended in an error.
    pub fn failed(&self, controller: &'static str) {
        self.failures.get_or_create(&FailureLabels { controller }).inc();
    }

    /// Everything in the OpenMetrics text format.
    ///
    /// # Errors
    /// If a metric cannot be written as text, which would be a bug of the library.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut out = String::new();
        text::encode(&mut out, &self.registry)?;
        Ok(out)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::*;
    use binder_core::inspect::Process;
    use std::collections::BTreeMap;

    #[test]
    fn what_was_seen_is_told_and_goes_with_its_host() {
        let metrics = Metrics::default();
        let process = Process { entries: 1, restarts: 7, uptime: 60 };
        let figures = Figures {
            uptime: Some(500),
            listeners: Some(3),
            pm2: BTreeMap::from([("online", 2)]),
            processes: BTreeMap::from([("binder-web-start".to_owned(), process)]),
            modules: BTreeMap::from([("binder-web".to_owned(), "1.1.17".to_owned())]),
            disks: BTreeMap::from([("/".to_owned(), 40)]),
        };
        metrics.inspected("binder", "web", Some(figures));
        let text = metrics.text().unwrap();
        for line in [
            "binder_host_uptime_seconds{namespace=\"binder\",host=\"web\"} 500",
            "binder_module_installed{namespace=\"binder\",host=\"web\",module=\"binder-web\",version=\"1.1.17\"} 1",
            "binder_host_listeners{namespace=\"binder\",host=\"web\"} 3",
            "binder_pm2_processes{namespace=\"binder\",host=\"web\",state=\"online\"} 2",
            "binder_process_entries{namespace=\"binder\",host=\"web\",process=\"binder-web-start\"} 1",
            "binder_process_restarts{namespace=\"binder\",host=\"web\",process=\"binder-web-start\"} 7",
            "binder_process_uptime_seconds{namespace=\"binder\",host=\"web\",process=\"binder-web-start\"} 60",
            "binder_disk_used_percent{namespace=\"binder\",host=\"web\",path=\"/\"} 40",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        metrics.host_gone("binder", "web");
        assert!(!metrics.text().unwrap().contains("binder_process_restarts{"));
    }
}
