//! Facet `disks`: every described file system is below its threshold. Room is made on the one that holds Docker's data, if
//! `docker.reclaim` is described: what may go is for the facet `docker` to say. Any other is seen and said.

use super::{Check, Drift, DriftKind, Facet, Rung, docker};
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
                    evidence: {
                        let why = if holds(&disk.path.0, seen) { docker::what_fills_it(desired, seen) } else { None };
                        let why = why.map(|why| format!("; {why}")).unwrap_or_default();
                        format!("{} is at {used} %, over its threshold of {limit} %{why}", disk.path)
                    },
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

    fn ladder(&self, desired: &Desired, seen: &Observation, drift: &Drift) -> Vec<Rung> {
        let disk = desired.disks.iter().find(|disk| drift.subject == format!("disk {}", disk.path));
        let Some(disk) = disk.filter(|disk| drift.kind == DriftKind::OverThreshold && holds(&disk.path.0, seen)) else {
            return Vec::new();
        };
        let reclaims = desired.docker.as_ref().is_some_and(|docker| docker.reclaim.is_some());
        let limit = disk.max_used.value().unwrap_or(1);
        match seen.docker.seen() {
            Some(seen_docker) if reclaims => {
                let room = docker::make_room(seen_docker);
                if room.is_empty() { docker::reclaim(desired, seen, Some(limit)) } else { room }
            }
            _ => Vec::new(),
        }
    }
}

/// Whether Docker's data is on this file system.
fn holds(path: &str, seen: &Observation) -> bool {
    seen.docker.seen().is_some_and(|docker| docker.holds.contains(path))
}
