//! Facet `disks`: every described file system is below its threshold. Seen and said; what makes room is the business of
//! the facet `docker`, which is still to come.

use super::{Check, Drift, DriftKind, Facet, Rung};
use crate::seen::{Ask, Blind, Observation, disks};
use binder_crds::{Desired, conditions};

/// The facet.
pub struct Disks;

impl Facet for Disks {
    fn condition(&self) -> &'static str {
        conditions::DISK_BELOW_THRESHOLD
    }

    fn in_use(&self, desired: &Desired) -> bool {
        !desired.disks.is_empty()
    }

    fn asks(&self, desired: &Desired) -> Vec<Ask> {
        vec![disks::ask(desired.disks.iter().map(|disk| disk.path.0.clone()).collect())]
    }

    fn check(&self, desired: &Desired, seen: &Observation) -> Result<Check, Blind> {
        let uses = seen.disks.get()?;
        let mut check = Check::default();
        let mut fine = Vec::new();
        for disk in &desired.disks {
            // A threshold that the schema would refuse is from an older object: the strictest reading is the safe one.
            let limit = disk.max_used.value().unwrap_or(1);
            let subject = format!("disk {}", disk.path);
            match uses.get(&disk.path.0) {
                Some(disks::Use::Percent(used)) if *used > limit => check.drifts.push(Drift {
                    kind: DriftKind::OverThreshold,
                    subject,
                    short: format!("{} is at {used} %, over {limit} %", disk.path),
                    evidence: format!("{} is at {used} %, over its threshold of {limit} %", disk.path),
                }),
                Some(disks::Use::Percent(_)) => fine.push(format!("{} is at {limit} % or below", disk.path)),
                Some(disks::Use::Unreadable) | None => check.drifts.push(Drift {
                    kind: DriftKind::DiskUnreadable,
                    subject,
                    short: format!("{} cannot be read", disk.path),
                    evidence: format!("df cannot tell how full {} is: does the path exist?", disk.path),
                }),
            }
        }
        check.as_described = fine.join("; ");
        Ok(check)
    }

    fn ladder(&self, _: &Desired, _: &Observation, _: &Drift) -> Vec<Rung> {
        Vec::new()
    }
}
