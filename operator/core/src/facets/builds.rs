//! Facet `builds`: no build has been running for longer than a build takes, and each that had is built again (runbook,
//! "Hung build"). The build server never notices a build that hangs; it only leaves it `running` in the database.
//!
//! What is owed another try is remembered by the database itself, in the build's `error`
//! ([`HUNG_MARK`](crate::seen::database::HUNG_MARK)). A build younger than the limit is never a drift, and neither is one
//! that does not say when it was started. Templates are not even looked at here.
//!
//! When a build was started was written by the build server's clock. It is compared with that of the host of the database, and
//! only while that one agrees with ours; the step waits while the build server's own does not (`plan::order`).

use super::step::{
    Edit, Effect, How, HttpCall, Later, Nature, OfModules, Recovers, Remedy, Touches, kinds_of_steps, plain,
};
use super::{Check, Drift, DriftKind, Facet, Rung, Subject};
use crate::catalogue::Place;
use crate::gate::demands::Demands;
use crate::seen::database::{Build, RUNNING, built_as};
use crate::seen::{Ask, Observation, Reason, Unknown, clock};
use binder_crds::text::BadText;
use binder_crds::{Desired, conditions};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How long the database may take to show an edit.
const SHOWS: Duration = Duration::from_secs(30);
/// How long the build server may take to write down that it has begun.
const BEGINS: Duration = Duration::from_secs(60);
/// The limit where the owner's cannot be read, which an older object may bring about: the safe reading is a long one.
const UNREADABLE: Duration = Duration::from_secs(24 * 3600);
/// How many builds a condition names.
const NAMED: usize = 5;

/// The facet.
pub struct Builds;

impl Facet for Builds {
    fn condition(&self) -> &'static str {
        conditions::BUILDS_ADVANCING
    }

    fn in_use(&self, desired: &Desired) -> bool {
        desired.database.as_ref().is_some_and(|database| database.hung_builds.is_some())
    }

    fn asks(&self, _: &Desired) -> Vec<Ask> {
        Vec::new()
    }

    fn check(&self, desired: &Desired, seen: &Observation) -> Result<Check, Unknown> {
        let Some(spec) = desired.database.as_ref().and_then(|database| database.hung_builds.as_ref()) else {
            return Ok(Check::default());
        };
        let database = seen.machine.get().and(seen.database.get())?;
        if let Some(off) = clock::off(seen) {
            return Err(Unknown {
                reason: Reason::NotSeen,
                message: format!("how old a build is cannot be told: the clock of this machine is {}", off.words()),
            });
        }
        let after = spec.after.duration().unwrap_or(UNREADABLE);
        let mut check = Check::default();
        for build in hung(seen, after) {
            let name = build.name.shown();
            let since = build.started.map(|at| at.strftime("%Y-%m-%d %H:%M:%SZ").to_string()).unwrap_or_default();
            let unnamed = if build.name.plain().is_some() {
                ""
            } else {
                "; its name is none that a repository can have, so it is left to a person"
            };
            check.drifts.push(Drift {
                kind: DriftKind::HungBuild,
                subject: subject(build),
                short: format!("build {name} hangs"),
                evidence: format!("the build {name} has been running since {since}, over {}{unnamed}", spec.after),
            });
        }
        if spec.rebuild {
            for build in &database.owed {
                let name = build.name.shown();
                let why = match repository(build) {
                    Some(_) => "and has not been built again",
                    None => "and its repository is not one that would be built under this name: a person must build it",
                };
                check.drifts.push(Drift {
                    kind: DriftKind::BuildNotRebuilt,
                    subject: subject(build),
                    short: format!("build {name} is to be built again"),
                    evidence: format!("the build {name} was set to failed since it hung, {why}"),
                });
            }
            for build in database.running.iter().filter(|build| build.marked && !is_hung(seen, build, after)) {
                let name = build.name.shown();
                check.progressing.push((subject(build), format!("the build {name} is being built again")));
            }
        }
        check.as_described = format!("no build has been running for over {}", spec.after);
        if database.more_running {
            check.as_described.push_str(&format!(" (of the {RUNNING} oldest)"));
        }
        Ok(check)
    }

    fn rank(&self, _: &Desired, _: &Drift) -> u8 {
        super::LAST
    }

    fn ladder(&self, desired: &Desired, seen: &Observation, drift: &Drift) -> Vec<Rung> {
        let (Some(spec), Some(database)) = (&desired.database, seen.database.seen()) else { return Vec::new() };
        let place = Place::of(spec);
        let of = |build: &&Build| subject(build) == drift.subject;
        match drift.kind {
            DriftKind::HungBuild => {
                // The very build that this look saw: by name and by start.
                let build = database.running.iter().find(of);
                let step = build.and_then(|build| {
                    Some(Step::FailBuild { place, name: build.name.plain()?.to_owned(), started: build.started? })
                });
                step.map(|step| Rung::new(step, SHOWS)).into_iter().collect()
            }
            DriftKind::BuildNotRebuilt => {
                let build = database.owed.iter().find(of);
                let step = build.and_then(|build| {
                    let name = build.name.plain()?.to_owned();
                    Some(Step::RebuildBuild { name, repository: repository(build)?.to_owned() })
                });
                step.map(|step| Rung::new(step, BEGINS)).into_iter().collect()
            }
            _ => Vec::new(),
        }
    }
}

/// Whether some row of the database is about to be changed by this facet.
pub(super) fn edits(desired: &Desired, seen: &Observation) -> bool {
    let spec = desired.database.as_ref().and_then(|database| database.hung_builds.as_ref());
    let Some(spec) = spec else { return false };
    let after = spec.after.duration().unwrap_or(UNREADABLE);
    hung(seen, after).any(|build| build.name.plain().is_some())
}

/// Builds that have been running for longer than `after`, oldest first.
fn hung(seen: &Observation, after: Duration) -> impl Iterator<Item = &Build> {
    let running = seen.database.seen().map(|database| &database.running[..]).unwrap_or_default();
    running.iter().filter(move |build| is_hung(seen, build, after))
}

fn is_hung(seen: &Observation, build: &Build, after: Duration) -> bool {
    let (Some(machine), Ok(limit)) = (seen.machine.seen(), SignedDuration::try_from(after)) else { return false };
    let Ok(clock) = Timestamp::from_second(machine.clock) else { return false };
    clock::off(seen).is_none() && build.started.is_some_and(|started| clock.duration_since(started) > limit)
}

/// The repository of a build, if the build server would build it under the same name: a build of another name would leave
/// this one as it is, and start something that nobody asked for.
fn repository(build: &Build) -> Option<&str> {
    let repository = build.repository.as_deref()?;
    (built_as(repository).as_deref() == Some(build.name.plain()?)).then_some(repository)
}

fn subject(build: &Build) -> Subject {
    Subject::Build(build.name.shown())
}

/// The builds that a summary names, in words: the first few, and how many more.
pub(super) fn few(names: &[String]) -> String {
    let mut words = names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > NAMED {
        words.push_str(&format!(" and {} more", names.len() - NAMED));
    }
    words
}

/// A step against builds that hang.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all_fields = "camelCase")]
pub enum Step {
    /// Set a build to `failed`, if it still is the running one that was seen.
    FailBuild {
        /// The database.
        place: Place,
        /// The build's name.
        name: String,
        /// When it was started, as the database says.
        started: Timestamp,
    },
    /// Have the build server build a repository again.
    RebuildBuild {
        /// The name that the build has and will have.
        name: String,
        /// The repository.
        repository: String,
    },
}

kinds_of_steps!(Step: FailBuild, RebuildBuild);

impl Remedy for Step {
    fn words(&self) -> String {
        match self {
            Self::FailBuild { name, .. } => format!("set the hung build {name} to failed"),
            Self::RebuildBuild { name, .. } => format!("have {name} built again"),
        }
    }

    fn nature(&self) -> Nature<'_> {
        let (demands, rests_on_age) = match self {
            // It has been running for longer than a build takes.
            Self::FailBuild { .. } => (Demands::TWO_LOOKS, true),
            // What is owed another try has a mark, whatever its age.
            Self::RebuildBuild { .. } => (Demands::ONE_LOOK, false),
        };
        Nature {
            touches: Touches::Nothing,
            demands,
            in_turn: false,
            parts: 1,
            modules: OfModules::Apart,
            opens_way_in: false,
            rests_on_age,
            starts: false,
            recovers: Recovers::Nothing,
        }
    }

    fn checked(&self) -> Result<(), BadText> {
        match self {
            Self::FailBuild { place, name, .. } => {
                plain("database", &place.name)?;
                plain("build", name)
            }
            Self::RebuildBuild { name, repository } => {
                plain("build", name)?;
                plain("repository", repository)
            }
        }
    }

    fn effect(&self, later: &Later<'_>) -> Result<Effect, Unknown> {
        let database = later.seen.database.get()?;
        Ok(match self {
            Self::FailBuild { name, started, .. } => {
                // The running builds are listed oldest first: one as old as this cannot be beyond the end of the list.
                let there =
                    |build: &Build| build.name.plain() == Some(name.as_str()) && build.started == Some(*started);
                if database.running.iter().any(there) {
                    Effect::NotYet(format!("the build {name} is still said to be running"))
                } else {
                    Effect::Seen(format!("the build {name} of that start is not running any more"))
                }
            }
            Self::RebuildBuild { name, .. } => {
                if database.owed.iter().any(|build| build.name.plain() == Some(name.as_str())) {
                    Effect::NotYet(format!("the build {name} has not started again"))
                } else {
                    Effect::Seen(format!("a new build of {name} has begun"))
                }
            }
        })
    }

    fn how(&self) -> How {
        match self {
            Self::FailBuild { place, name, started } => How::Database {
                place: place.clone(),
                edit: Edit::FailRunning { name: name.clone(), started: *started },
            },
            Self::RebuildBuild { repository, .. } => How::Http(HttpCall::Build { repository: repository.clone() }),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::*;
    use crate::seen::Fact;
    use crate::seen::database::{Database, Name};
    use crate::seen::machine::Machine;
    use binder_crds::desired;

    const NOW: &str = "2026-05-01T12:00:00Z";

    fn build(name: &str, started: Option<&str>) -> Build {
        Build {
            name: Name::of(name),
            started: started.map(|at| at.parse().unwrap()),
            repository: Some(format!("https://github.com/{}", name.replacen('-', "/", 1))),
            marked: false,
        }
    }

    fn desired(rebuild: bool) -> Desired {
        let hung_builds = Some(desired::HungBuilds { after: "3h".into(), rebuild });
        Desired { database: Some(desired::Database { hung_builds, ..Default::default() }), ..Desired::default() }
    }

    fn seen(database: Database) -> Observation {
        let at: Timestamp = NOW.parse().unwrap();
        let machine = Machine { clock: at.as_second(), ..Machine::default() };
        Observation { database: Fact::Seen(database), machine: Fact::Seen(machine), ..Observation::nothing(at) }
    }

    fn hang(seen: &Observation) -> usize {
        Builds.check(&desired(true), seen).unwrap().drifts.len()
    }

    #[test]
    fn no_age_is_told_while_the_hosts_clock_and_ours_differ() {
        let running = vec![build("a-old", Some("2026-05-01T08:00:00Z"))];
        let mut seen = seen(Database { running, ..Database::default() });
        assert_eq!(hang(&seen), 1);
        // GCE#554: by exactly an hour; H 32: by five.
        for off in [-18_000, -3600, 3600, 90] {
            if let Fact::Seen(machine) = &mut seen.machine {
                machine.clock = seen.at.as_second() + off;
            }
            let blind = Builds.check(&desired(true), &seen).unwrap_err();
            assert!(blind.message.contains("clock"), "{}", blind.message);
            assert!(!edits(&desired(true), &seen));
        }
    }

    #[test]
    fn a_build_hangs_when_it_is_older_than_the_limit_and_not_a_moment_before() {
        let running = vec![
            build("a-old", Some("2026-05-01T08:59:59Z")),
            build("a-young", Some("2026-05-01T09:00:00Z")),
            build("a-future", Some("2027-01-01T00:00:00Z")),
            build("a-timeless", None),
        ];
        let seen = seen(Database { running, ..Database::default() });
        let check = Builds.check(&desired(true), &seen).unwrap();
        let subjects: Vec<String> = check.drifts.iter().map(|drift| drift.subject.to_string()).collect();
        assert_eq!(subjects, ["build a-old"]);
        let ladder = Builds.ladder(&desired(true), &seen, &check.drifts[0]);
        let started = "2026-05-01T08:59:59Z".parse().unwrap();
        assert!(
            matches!(&ladder[..], [Rung { step: super::super::Step::Builds(Step::FailBuild { name, started: at, .. }), .. }] if name == "a-old" && *at == started)
        );
    }

    #[test]
    fn a_hostile_name_is_said_and_never_acted_on() {
        let running = vec![
            build("$(reboot)", Some("2026-01-01T00:00:00Z")),
            build("a\u{1b}[31m\nb", Some("2026-01-01T00:00:00Z")),
        ];
        let seen = seen(Database { running, ..Database::default() });
        let check = Builds.check(&desired(true), &seen).unwrap();
        assert_eq!(check.drifts.len(), 2);
        for drift in &check.drifts {
            assert!(Builds.ladder(&desired(true), &seen, drift).is_empty());
            assert!(!drift.evidence.chars().any(char::is_control), "{drift:?}");
        }
    }

    #[test]
    fn what_was_set_to_failed_is_owed_another_try_only_where_that_is_asked_for() {
        let mut other = build("a-b", None);
        other.repository = Some("https://github.com/c/d".to_owned());
        let owed = vec![build("a-owed", None), other];
        let seen = seen(Database { owed, ..Database::default() });
        assert_eq!(Builds.check(&desired(false), &seen).unwrap().drifts, []);
        let check = Builds.check(&desired(true), &seen).unwrap();
        let ladders: Vec<usize> =
            check.drifts.iter().map(|drift| Builds.ladder(&desired(true), &seen, drift).len()).collect();
        assert_eq!(ladders, [1, 0], "the other's repository would be built under another name");
    }

    #[test]
    fn a_build_that_is_built_again_settles() {
        let again = Build { marked: true, ..build("a-b", Some("2026-05-01T11:59:00Z")) };
        let seen = seen(Database { running: vec![again], ..Database::default() });
        let check = Builds.check(&desired(true), &seen).unwrap();
        assert!(check.drifts.is_empty());
        assert_eq!(check.progressing.len(), 1);
    }

    #[test]
    fn what_could_not_be_seen_is_not_judged() {
        let nothing = Observation::nothing(NOW.parse().unwrap());
        assert!(Builds.check(&desired(true), &nothing).is_err());
    }
}
