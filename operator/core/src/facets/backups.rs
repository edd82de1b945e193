//! Facet `backups`: the database is backed up by its schedule, and there is a fresh backup before it is edited (runbook,
//! "Hung build": there should be periodic backups, since this edits the database by hand).
//!
//! That a scheduled backup is due is a task and no fault. An edit that finds no fresh backup waits for one
//! ([`plan::order`](crate::plan::order)), and a backup that cannot be made blocks every edit.

use super::step::{Effect, How, Later, Nature, OfModules, Recovers, Remedy, Touches, all_plain, kinds_of_steps, plain};
use super::{Check, Done, Drift, DriftKind, Facet, Rung, Subject, Task};
use crate::catalogue::Place;
use crate::facets::{builds, names};
use crate::gate::demands::Demands;
use crate::seen::{Ask, Observation, Unknown};
use binder_crds::desired::Backups as Spec;
use binder_crds::text::BadText;
use binder_crds::{Desired, conditions};
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How long a backup that was made may take to show in its place of storage.
pub const SHOWS: Duration = Duration::from_secs(30);
/// How long a backup may take until it shows: it is made in the background, within half an hour
/// (`binder::database` of the operator), and the host is looked at meanwhile.
const MADE_WITHIN: Duration = Duration::from_secs(31 * 60);
/// How fresh a backup must be where the owner's word cannot be read: the safe reading is a short one.
const UNREADABLE: Duration = Duration::from_secs(60);

/// The facet.
pub struct Backups;

impl Facet for Backups {
    fn condition(&self) -> &'static str {
        conditions::BACKED_UP
    }

    fn in_use(&self, desired: &Desired) -> bool {
        spec(desired).is_some()
    }

    fn asks(&self, _: &Desired) -> Vec<Ask> {
        Vec::new()
    }

    fn check(&self, desired: &Desired, seen: &Observation) -> Result<Check, Unknown> {
        let Some(spec) = spec(desired) else { return Ok(Check::default()) };
        let backups = seen.backups.get()?;
        let mut check = Check::default();
        if let Some(why) = &backups.unusable {
            check.drifts.push(Drift {
                kind: DriftKind::BackupPlaceUnusable,
                subject: Subject::Backup,
                short: "backups have no place".to_owned(),
                evidence: why.clone(),
            });
            return Ok(check);
        }
        let fresh = backups.last.as_ref().is_some_and(|last| {
            let limit = SignedDuration::try_from(spec.fresh_for.duration().unwrap_or(UNREADABLE));
            limit.is_ok_and(|limit| seen.at.duration_since(last.at) <= limit)
        });
        if !fresh && edits(desired, seen) {
            check.drifts.push(Drift {
                kind: DriftKind::NoFreshBackup,
                subject: Subject::BackupBeforeAnEdit,
                short: "no fresh backup".to_owned(),
                evidence: format!(
                    "the database is to be edited, and no good backup is younger than {}",
                    spec.fresh_for
                ),
            });
        }
        check.as_described = match &backups.last {
            Some(last) => format!("the last good backup is {}, of {} that are kept", last.name, backups.count),
            None => format!("there is no backup yet; the schedule is \"{}\"", spec.schedule),
        };
        Ok(check)
    }

    fn scheduled(&self, desired: &Desired) -> Vec<Task> {
        spec(desired)
            .map(|spec| Task {
                subject: Subject::Backup,
                kind: DriftKind::BackupDue,
                words: "the backup of the database",
                schedule: spec.schedule.clone(),
                time_zone: spec.time_zone.clone(),
                done: Done::Once,
            })
            .into_iter()
            .collect()
    }

    fn rank(&self, _: &Desired, _: &Drift) -> u8 {
        // Before any edit of the database.
        65
    }

    fn ladder(&self, desired: &Desired, seen: &Observation, drift: &Drift) -> Vec<Rung> {
        let (Some(database), Some(backups)) = (&desired.database, seen.backups.seen()) else { return Vec::new() };
        match drift.kind {
            DriftKind::NoFreshBackup | DriftKind::BackupDue if backups.unusable.is_none() => {
                let last = backups.last.as_ref().map(|last| last.name.clone());
                vec![Rung::new(Step::BackUp { place: Place::of(database), last }, MADE_WITHIN)]
            }
            _ => Vec::new(),
        }
    }
}

fn spec(desired: &Desired) -> Option<&Spec> {
    desired.database.as_ref()?.backups.as_ref()
}

/// Whether some row of the database is about to be changed.
fn edits(desired: &Desired, seen: &Observation) -> bool {
    builds::edits(desired, seen) || names::edits(desired, seen)
}

/// A step for backups of the database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all_fields = "camelCase")]
pub enum Step {
    /// Back the database up.
    BackUp {
        /// The database.
        place: Place,
        /// The name of the last good backup before this one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        last: Option<String>,
    },
}

kinds_of_steps!(Step: BackUp);

impl Remedy for Step {
    fn words(&self) -> String {
        "back up the database".to_owned()
    }

    fn nature(&self) -> Nature<'_> {
        Nature {
            touches: Touches::Nothing,
            demands: Demands::ONE_LOOK,
            in_turn: false,
            parts: 1,
            modules: OfModules::Apart,
            opens_way_in: false,
            // Due by the operator's clock, and one too many does no harm.
            rests_on_age: false,
            starts: false,
            recovers: Recovers::Nothing,
        }
    }

    fn checked(&self) -> Result<(), BadText> {
        let Self::BackUp { place, last } = self;
        plain("database", &place.name)?;
        all_plain("backup", last)
    }

    fn effect(&self, later: &Later<'_>) -> Result<Effect, Unknown> {
        let Self::BackUp { last, .. } = self;
        Ok(match &later.seen.backups.get()?.last {
            Some(good) if Some(&good.name) != last.as_ref() => {
                Effect::Seen(format!("the backup {} was verified: {} documents", good.name, good.documents))
            }
            _ => Effect::NotYet("no new verified backup yet".to_owned()),
        })
    }

    fn how(&self) -> How {
        let Self::BackUp { place, .. } = self;
        How::Backup { place: place.clone() }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::*;
    use crate::seen::Fact;
    use crate::seen::backups::{self, Good};
    use crate::seen::database::{Build, Database, Name};
    use crate::seen::machine::Machine;
    use binder_crds::desired;

    fn desired() -> Desired {
        let backups = desired::Backups {
            schedule: "0 2 * * *".into(),
            keep: 7,
            fresh_for: "1h".into(),
            ..desired::Backups::default()
        };
        let hung_builds = Some(desired::HungBuilds { after: "3h".into(), rebuild: false });
        let database = desired::Database { backups: Some(backups), hung_builds, ..Default::default() };
        Desired { database: Some(database), ..Desired::default() }
    }

    fn seen(last: Option<&str>, hung: bool) -> Observation {
        let last = last.map(|at| Good { name: "n".into(), at: at.parse().unwrap(), documents: 1, bytes: 1 });
        let build = Build {
            name: Name::of("a-b"),
            started: Some("2026-01-01T00:00:00Z".parse().unwrap()),
            repository: None,
            marked: false,
        };
        let running = if hung { vec![build] } else { Vec::new() };
        let at: jiff::Timestamp = "2026-05-01T12:00:00Z".parse().unwrap();
        Observation {
            machine: Fact::Seen(Machine { clock: at.as_second(), ..Machine::default() }),
            database: Fact::Seen(Database { running, ..Database::default() }),
            backups: Fact::Seen(backups::Backups { count: last.iter().count() as u32, last, unusable: None }),
            ..Observation::nothing(at)
        }
    }

    #[test]
    fn a_backup_is_wanted_when_an_edit_is_and_not_else() {
        let kinds = |seen: &Observation| -> Vec<DriftKind> {
            Backups.check(&desired(), seen).unwrap().drifts.iter().map(|drift| drift.kind).collect()
        };
        assert_eq!(kinds(&seen(None, false)), [], "what is only due is a task");
        assert_eq!(kinds(&seen(None, true)), [DriftKind::NoFreshBackup]);
        assert_eq!(kinds(&seen(Some("2026-05-01T10:59:59Z"), true)), [DriftKind::NoFreshBackup]);
        assert_eq!(kinds(&seen(Some("2026-05-01T11:00:00Z"), true)), []);
    }

    #[test]
    fn a_place_that_cannot_be_used_is_for_a_person() {
        let mut seen = seen(None, true);
        seen.backups =
            Fact::Seen(backups::Backups { unusable: Some("no volume".into()), ..backups::Backups::default() });
        let check = Backups.check(&desired(), &seen).unwrap();
        assert_eq!(check.drifts[0].kind, DriftKind::BackupPlaceUnusable);
        assert!(Backups.ladder(&desired(), &seen, &check.drifts[0]).is_empty());
    }
}
