//! Facet `disks`: every described file system is below its threshold. Room is made on the one that holds Docker's data, if
//! `docker.reclaim` is described: what may go is for the facet `docker` to say. Any other is seen and said.

use super::{Check, Drift, DriftKind, Facet, Rung, Subject, docker};
use crate::seen::{Ask, Observation, Unknown, disks};
use binder_crds::desired::Disk;
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

    fn check(&self, desired: &Desired, seen: &Observation) -> Result<Check, Unknown> {
        let uses = seen.disks.get()?;
        let mut check = Check::default();
        let mut fine = Vec::new();
        for disk in &desired.disks {
            // A threshold that the schema would refuse is from an older object: the strictest reading is the safe one.
            let limit = disk.max_used.value().unwrap_or(1);
            let subject = subject(disk);
            let over = |short: String, evidence: String| {
                let why = if holds(&disk.path.0, seen) { docker::what_fills_it(desired, seen) } else { None };
                let why = why.map(|why| format!("; {why}")).unwrap_or_default();
                let evidence = format!("{evidence}{why}");
                Drift { kind: DriftKind::OverThreshold, subject: subject.clone(), short, evidence }
            };
            match uses.get(&disk.path.0) {
                Some(disks::Use::Percent(used)) if *used > limit => check.drifts.push(over(
                    format!("{} is at {used} %, over {limit} %", disk.path),
                    format!("{} is at {used} %, over its threshold of {limit} %", disk.path),
                )),
                Some(disks::Use::Inodes { inodes, bytes }) if *inodes > limit => check.drifts.push(over(
                    format!("{} has used {inodes} % of its inodes, over {limit} %", disk.path),
                    format!(
                        "{} has used {inodes} % of its inodes, over its threshold of {limit} % (and {bytes} % of its bytes): \
                         many small files fill it",
                        disk.path
                    ),
                )),
                Some(disks::Use::Percent(_) | disks::Use::Inodes { .. }) => {
                    fine.push(format!("{} is at {limit} % or below", disk.path));
                }
                unreadable => {
                    let said = match unreadable {
                        Some(disks::Use::Unreadable(said)) => format!(" (`{said}`)"),
                        _ => String::new(),
                    };
                    check.drifts.push(Drift {
                        kind: DriftKind::DiskUnreadable,
                        subject,
                        short: format!("{} cannot be read", disk.path),
                        evidence: format!(
                            "df cannot tell how full {} is{said}: correct disks[].path, or look at that file system",
                            disk.path
                        ),
                    });
                }
            }
        }
        check.as_described = fine.join("; ");
        Ok(check)
    }

    fn rank(&self, _: &Desired, _: &Drift) -> u8 {
        // Room comes before Docker, which needs it.
        60
    }

    fn ladder(&self, desired: &Desired, seen: &Observation, drift: &Drift) -> Vec<Rung> {
        let disk = desired.disks.iter().find(|disk| drift.subject == subject(disk));
        let Some(disk) = disk.filter(|disk| drift.kind == DriftKind::OverThreshold && holds(&disk.path.0, seen)) else {
            return Vec::new();
        };
        let reclaims = desired.docker.as_ref().is_some_and(|docker| docker.reclaim.is_some());
        let limit = disk.max_used.value().unwrap_or(1);
        match seen.docker.seen() {
            Some(seen_docker) if reclaims => {
                let room = docker::make_room(seen_docker);
                // How many inodes an image gives back is not known: then all that may go.
                let inodes = seen
                    .disks
                    .seen()
                    .and_then(|uses| uses.get(&disk.path.0))
                    .is_some_and(|used| matches!(used, disks::Use::Inodes { .. }));
                let limit = (!inodes).then_some(limit);
                if room.is_empty() { docker::reclaim(desired, seen, limit) } else { room }
            }
            _ => Vec::new(),
        }
    }
}

fn subject(disk: &Disk) -> Subject {
    Subject::Disk(disk.path.0.clone())
}

/// Whether Docker's data is on this file system.
fn holds(path: &str, seen: &Observation) -> bool {
    seen.docker.seen().is_some_and(|docker| docker.holds.contains(path))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::*;
    use crate::seen::Fact;
    use std::collections::BTreeMap;

    #[test]
    fn inodes_count_as_bytes_do() {
        let desired = Desired { disks: vec![Disk { path: "/".into(), max_used: "85%".into() }], ..Desired::default() };
        let kinds = |used| {
            let seen = Observation {
                disks: Fact::Seen(BTreeMap::from([("/".to_owned(), used)])),
                ..Observation::nothing(jiff::Timestamp::UNIX_EPOCH)
            };
            Disks.check(&desired, &seen).unwrap().drifts.into_iter().map(|drift| drift.kind).collect::<Vec<_>>()
        };
        assert_eq!(kinds(disks::Use::Inodes { inodes: 100, bytes: 3 }), [DriftKind::OverThreshold]);
        assert_eq!(kinds(disks::Use::Inodes { inodes: 80, bytes: 3 }), []);
        assert_eq!(kinds(disks::Use::Unreadable("df: /: Stale file handle".to_owned())), [DriftKind::DiskUnreadable]);
    }
}
