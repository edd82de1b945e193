//! The figures of each host's last look, encoded when somebody asks for them: what is gone from a look, or with its host,
//! is gone from here.

use binder_core::inspect::Figures;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;
use std::collections::BTreeMap;
use std::fmt::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The last figures of each host, by namespace and name. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Inspection(Arc<Mutex<Hosts>>);

type Hosts = BTreeMap<(String, String), Figures>;
type Label<'h> = (&'static str, &'h str);

impl Inspection {
    pub(super) fn set(&self, namespace: &str, host: &str, figures: Figures) {
        self.hosts().insert((namespace.to_owned(), host.to_owned()), figures);
    }

    pub(super) fn remove(&self, namespace: &str, host: &str) {
        self.hosts().remove(&(namespace.to_owned(), host.to_owned()));
    }

    fn hosts(&self) -> MutexGuard<'_, Hosts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One gauge of all hosts.
fn gauge<'h, S: EncodeLabelSet>(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help, unit): (&str, &str, Option<&Unit>),
    values: impl IntoIterator<Item = (S, Option<u64>)> + 'h,
) -> Result<(), Error> {
    let mut metric = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
    for (labels, value) in values {
        if let Some(value) = value {
            let value = i64::try_from(value).unwrap_or(i64::MAX);
            metric.encode_family(&labels)?.encode_gauge(&value)?;
        }
    }
    Ok(())
}

impl Collector for Inspection {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let hosts = self.hosts();
        let encoder = &mut encoder;
        let of = |key: &'_ (String, String)| [("namespace", key.0.clone()), ("host", key.1.clone())];
        let counted = |count: Option<usize>| count.and_then(|count| u64::try_from(count).ok());
        gauge(
            encoder,
            ("host_uptime", "Time since the machine's boot", Some(&Unit::Seconds)),
            hosts.iter().map(|(key, figures)| (of(key), figures.uptime)),
        )?;
        gauge(
            encoder,
            ("host_listeners", "TCP ports with a listener", None),
            hosts.iter().map(|(key, figures)| (of(key), counted(figures.listeners))),
        )?;
        let states = hosts.iter().flat_map(|(key, figures)| {
            figures.pm2.iter().map(move |(state, count)| (labels(key, ("state", state)), counted(Some(*count))))
        });
        gauge(encoder, ("pm2_processes", "Processes in pm2's table, by state", None), states)?;
        let processes = || {
            hosts.iter().flat_map(|(key, figures)| {
                figures.processes.iter().map(move |(name, process)| (labels(key, ("process", name)), *process))
            })
        };
        gauge(
            encoder,
            ("process_entries", "How often a described process is in pm2's table", None),
            processes().map(|(labels, process)| (labels, counted(Some(process.entries)))),
        )?;
        gauge(
            encoder,
            ("process_restarts", "pm2's restart count of a described process", None),
            processes().map(|(labels, process)| (labels, Some(process.restarts))),
        )?;
        gauge(
            encoder,
            (
                "process_uptime",
                "Time since a described process was last started, 0 while it does not run",
                Some(&Unit::Seconds),
            ),
            processes().map(|(labels, process)| (labels, Some(process.uptime))),
        )?;
        let modules = hosts.iter().flat_map(|(key, figures)| {
            figures.modules.iter().map(move |(name, version)| {
                let [namespace, host, module] = labels(key, ("module", name));
                ([namespace, host, module, ("version", version)], Some(1))
            })
        });
        gauge(encoder, ("module_installed", "1 for the installed version of a described npm module", None), modules)?;
        let disks = hosts.iter().flat_map(|(key, figures)| {
            figures.disks.iter().map(move |(path, used)| (labels(key, ("path", path)), Some(u64::from(*used))))
        });
        gauge(encoder, ("disk_used_percent", "Use of a described file system, as df counts it", None), disks)
    }
}

fn labels<'h>(key: &'h (String, String), more: Label<'h>) -> [Label<'h>; 3] {
    [("namespace", &key.0), ("host", &key.1), more]
}
