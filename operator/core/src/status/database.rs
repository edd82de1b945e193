//! What a status tells of a database: totals and the builds that have been running for longest. Figures that change only
//! when a build begins or ends; the age of anything is for the reader's clock, and for metrics.

use crate::plan::Host;
use crate::seen::Observation;
use binder_crds::host::{DatabaseStatus, LastBackup, RunningBuild};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// How many running builds a status names.
const NAMED: usize = 5;

/// The part of a host's status about its database; what was not seen this time stays as it was.
pub(super) fn status(host: &Host<'_>, seen: &Observation) -> Option<DatabaseStatus> {
    host.spec.desired.database.as_ref()?;
    let mut status = host.previous.database.clone();
    if let Some(database) = seen.database.seen() {
        let fresh = status.get_or_insert_default();
        fresh.builds = database.builds;
        fresh.templates = database.templates;
        fresh.running_builds = u32::try_from(database.running.len()).unwrap_or(u32::MAX);
        fresh.longest_running = database
            .running
            .iter()
            .take(NAMED)
            .map(|build| RunningBuild { name: build.name.shown(), since: build.started.map(Time) })
            .collect();
    }
    if let Some(backups) = seen.backups.seen() {
        status.get_or_insert_default().last_backup = backups.last.as_ref().map(|good| LastBackup {
            name: good.name.clone(),
            at: Time(good.at),
            documents: good.documents,
            bytes: good.bytes,
            kept: backups.count,
        });
    }
    status
}
