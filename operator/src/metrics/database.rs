//! What looks show of a database and its backups, as gauges.

use binder_core::seen::Observation;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// What of a database is counted.
const COUNTED: [&str; 4] = ["builds", "running builds", "templates", "apps"];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CountLabels {
    namespace: String,
    host: String,
    of: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HostLabels {
    namespace: String,
    host: String,
}

/// The gauges.
#[derive(Clone, Debug, Default)]
pub(super) struct DatabaseGauges {
    documents: Family<CountLabels, Gauge>,
    backup_age: Family<HostLabels, Gauge>,
}

impl DatabaseGauges {
    /// Names them in a registry.
    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "What Binder's database holds: builds, running builds, templates, apps";
        registry.register("database_documents", help, self.documents.clone());
        let help = "Time since the last good backup of a host's database was begun";
        registry.register_with_unit("last_backup_age", help, Unit::Seconds, self.backup_age.clone());
    }

    /// Takes in a look; what it did not see is not told.
    pub(super) fn set(&self, namespace: &str, host: &str, seen: &Observation) {
        let labels = || HostLabels { namespace: namespace.to_owned(), host: host.to_owned() };
        match seen.database.seen() {
            Some(database) => {
                let counts = [database.builds, database.running.len() as u64, database.templates, database.apps];
                for (of, count) in COUNTED.iter().zip(counts) {
                    let labels = CountLabels { namespace: namespace.to_owned(), host: host.to_owned(), of };
                    self.documents.get_or_create(&labels).set(i64::try_from(count).unwrap_or(i64::MAX));
                }
            }
            None => self.forget_documents(namespace, host),
        }
        match seen.backups.seen().and_then(|backups| backups.last.as_ref()) {
            Some(last) => {
                self.backup_age.get_or_create(&labels()).set(seen.at.duration_since(last.at).as_secs());
            }
            None => {
                self.backup_age.remove(&labels());
            }
        }
    }

    /// Takes everything of a host away: it is gone, or was not seen.
    pub(super) fn forget(&self, namespace: &str, host: &str) {
        self.forget_documents(namespace, host);
        self.backup_age.remove(&HostLabels { namespace: namespace.to_owned(), host: host.to_owned() });
    }

    fn forget_documents(&self, namespace: &str, host: &str) {
        for of in COUNTED {
            self.documents.remove(&CountLabels { namespace: namespace.to_owned(), host: host.to_owned(), of });
        }
    }
}
