//! Facet `names`: no two builds or templates differ by case alone, and each can be launched. Build names keep the case of the
//! repository, while image and Kubernetes names must be in lower case: `Org-Repo` and `org-repo` are two builds and one image
//! (the runbook's open issue "something with lowercase/uppercase names").
//!
//! Reported, with what it breaks. Where the owner allows it, a completed build of which nothing can be launched is set to
//! `failed` with the reason. Nothing is merged, renamed or deleted, and templates are never touched.

use super::step::{Edit, Effect, How, Later, Nature, OfModules, Recovers, Remedy, Touches, kinds_of_steps, plain};
use super::{Check, Drift, DriftKind, Facet, Rung, Subject};
use crate::catalogue::Place;
use crate::gate::demands::Demands;
use crate::seen::database::{Cased, NAMES, Names as Seen, Status};
use crate::seen::{Ask, Observation, Unknown};
use binder_crds::text::BadText;
use binder_crds::{Desired, conditions};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How long the database may take to show an edit.
const SHOWS: Duration = Duration::from_secs(30);
/// The most drifts of this facet: of more, a person needs no list in a status.
const MOST: usize = 16;

/// The facet.
pub struct Names;

impl Facet for Names {
    fn condition(&self) -> &'static str {
        conditions::NAMES_USABLE
    }

    fn in_use(&self, desired: &Desired) -> bool {
        desired.database.as_ref().is_some_and(|database| database.names.is_some())
    }

    fn asks(&self, _: &Desired) -> Vec<Ask> {
        Vec::new()
    }

    fn check(&self, _: &Desired, seen: &Observation) -> Result<Check, Unknown> {
        let database = seen.database.get()?;
        let Some(names) = &database.names else { return Ok(Check::default()) };
        let mut drifts: Vec<Drift> = Vec::new();
        drifts.extend(names.builds.iter().map(|cased| drift("build", build(cased), cased)));
        drifts.extend(
            names.templates.iter().map(|cased| drift("template", Subject::TemplateName(cased.name.shown()), cased)),
        );
        drifts.truncate(MOST);
        let mut as_described = "no two names differ by case alone, and all are in lower case".to_owned();
        if names.cut {
            as_described.push_str(&format!(" (of the first {NAMES})"));
        }
        Ok(Check { drifts, as_described, ..Check::default() })
    }

    fn rank(&self, _: &Desired, _: &Drift) -> u8 {
        super::LAST
    }

    fn ladder(&self, desired: &Desired, seen: &Observation, drift: &Drift) -> Vec<Rung> {
        let (Some(database), Some(names)) =
            (&desired.database, seen.database.seen().and_then(|database| database.names.as_ref()))
        else {
            return Vec::new();
        };
        let cased = unusable(desired, names).find(|cased| build(cased) == drift.subject);
        cased
            .and_then(|cased| cased.name.plain())
            .map(|name| Rung::new(Step::FailUnusableBuild { place: Place::of(database), name: name.to_owned() }, SHOWS))
            .into_iter()
            .collect()
    }
}

fn build(cased: &Cased) -> Subject {
    Subject::BuildName(cased.name.shown())
}

fn drift(what: &str, subject: Subject, cased: &Cased) -> Drift {
    let name = cased.name.shown();
    let others: Vec<String> = cased.others.iter().map(|other| other.shown()).collect();
    let mut breaks = Vec::new();
    if !others.is_empty() {
        breaks.push(format!(
            "differs from {} by case alone, and both are one image: each build overwrites the other's",
            super::builds::few(&others)
        ));
    }
    if cased.not_lower {
        breaks.push(
            "is not in lower case, as image and Kubernetes names must be: nothing of it can be launched".to_owned(),
        );
    }
    Drift {
        kind: if cased.not_lower { DriftKind::NameNotLower } else { DriftKind::NamesCollide },
        subject,
        short: format!("{what} {name}: case"),
        evidence: format!("the {what} {name} {}", breaks.join(", and ")),
    }
}

/// The builds that the owner allows to be set to `failed`: completed, and not one thing of them can be launched.
fn unusable<'s>(desired: &Desired, names: &'s Seen) -> impl Iterator<Item = &'s Cased> {
    let allowed =
        desired.database.as_ref().and_then(|database| database.names.as_ref()).is_some_and(|names| names.fail_unusable);
    names
        .builds
        .iter()
        .filter(move |cased| allowed && cased.not_lower && cased.status == Status::Completed)
        .filter(|cased| cased.name.plain().is_some())
}

/// Whether some row of the database is about to be changed by this facet.
pub(super) fn edits(desired: &Desired, seen: &Observation) -> bool {
    let names = seen.database.seen().and_then(|database| database.names.as_ref());
    names.is_some_and(|names| unusable(desired, names).next().is_some())
}

/// A step against builds of which nothing can be launched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all_fields = "camelCase")]
pub enum Step {
    /// Set a completed build of which nothing can be launched to `failed`, with the reason.
    FailUnusableBuild {
        /// The database.
        place: Place,
        /// The build's name.
        name: String,
    },
}

kinds_of_steps!(Step: FailUnusableBuild);

impl Remedy for Step {
    fn words(&self) -> String {
        let Self::FailUnusableBuild { name, .. } = self;
        format!("set the build {name}, which cannot be launched, to failed")
    }

    fn nature(&self) -> Nature<'_> {
        Nature {
            touches: Touches::Nothing,
            demands: Demands::TWO_LOOKS,
            in_turn: false,
            parts: 1,
            modules: OfModules::Apart,
            opens_way_in: false,
            rests_on_age: false,
            starts: false,
            recovers: Recovers::Nothing,
        }
    }

    fn checked(&self) -> Result<(), BadText> {
        let Self::FailUnusableBuild { place, name } = self;
        plain("database", &place.name)?;
        plain("build", name)
    }

    fn effect(&self, later: &Later<'_>) -> Result<Effect, Unknown> {
        let Self::FailUnusableBuild { name, .. } = self;
        let names = &later.seen.database.get()?.names;
        let unusable = |cased: &Cased| cased.name.plain() == Some(name.as_str());
        Ok(if names.as_ref().is_some_and(|names| names.builds.iter().any(unusable)) {
            Effect::NotYet(format!("the build {name} is not said to have failed"))
        } else {
            Effect::Seen(format!("the build {name} is said to have failed, and why"))
        })
    }

    fn how(&self) -> How {
        let Self::FailUnusableBuild { place, name } = self;
        How::Database { place: place.clone(), edit: Edit::FailUnusable { name: name.clone() } }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::*;
    use crate::seen::Fact;
    use crate::seen::database::{Database, Name, Row, cased};
    use binder_crds::desired;

    fn desired(fail_unusable: bool) -> Desired {
        let names = Some(desired::Names { fail_unusable });
        Desired { database: Some(desired::Database { names, ..Default::default() }), ..Desired::default() }
    }

    fn seen(builds: &[(&str, Status)]) -> Observation {
        let rows: Vec<Row> =
            builds.iter().map(|(name, status)| Row { name: Name::of(name), image: None, status: *status }).collect();
        let names = Some(Seen { builds: cased(&rows), ..Seen::default() });
        Observation {
            database: Fact::Seen(Database { names, ..Database::default() }),
            ..Observation::nothing("2026-05-01T12:00:00Z".parse().unwrap())
        }
    }

    #[test]
    fn what_collides_is_reported_and_nothing_is_done() {
        let seen =
            seen(&[("Org-Repo", Status::Completed), ("org-repo", Status::Completed), ("fine", Status::Completed)]);
        let check = Names.check(&desired(false), &seen).unwrap();
        let kinds: Vec<DriftKind> = check.drifts.iter().map(|drift| drift.kind).collect();
        assert_eq!(kinds, [DriftKind::NameNotLower, DriftKind::NamesCollide]);
        assert!(check.drifts[1].evidence.contains("Org-Repo by case alone"), "{}", check.drifts[1].evidence);
        for drift in &check.drifts {
            assert!(Names.ladder(&desired(false), &seen, drift).is_empty());
        }
    }

    #[test]
    fn only_a_completed_build_that_cannot_be_launched_is_set_to_failed_where_that_is_allowed() {
        let seen = seen(&[
            ("Org-Repo", Status::Completed),
            ("org-repo", Status::Completed),
            ("Busy", Status::Running),
            ("Evil $(reboot)", Status::Completed),
        ]);
        let allowed = desired(true);
        let check = Names.check(&allowed, &seen).unwrap();
        let acted: Vec<String> = check
            .drifts
            .iter()
            .filter(|drift| !Names.ladder(&allowed, &seen, drift).is_empty())
            .map(|drift| drift.subject.to_string())
            .collect();
        assert_eq!(acted, ["name of build Org-Repo"]);
    }
}
