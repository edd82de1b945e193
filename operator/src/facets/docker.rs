//! Facet `docker`: Docker answers, its client's login files are not empty, and what is in no use is removed when it is due.
//! What to remove is worked out here for the facet `disks` as well ([`reclaim`]).
//!
//! The rule is that of the runbook's docker-gc ("Build server"): stopped containers, and images that no container was made
//! of, both for longer than `unusedFor`. Never what runs, never a base of another image, never what is on the keep list, and
//! no image at all while a build is under way, which may be about to use any of them.

use super::step::{StoppedContainer, UnusedImage};
use super::{Check, Chore, Done, Drift, DriftKind, Facet, Rung, Step};
use crate::schedule::Timetable;
use crate::seen::docker::{Answers, Container, Docker as Seen, Image};
use crate::seen::machine::{Machine, Process};
use crate::seen::{Ask, Blind, Observation, docker};
use binder_crds::desired::Reclaim;
use binder_crds::{Desired, conditions};
use std::collections::BTreeSet;
use std::time::Duration;

/// The facet.
pub struct Docker;

/// The subject of what is wrong with Docker itself.
pub const DOCKER: &str = "docker";
/// The subject of its login files.
pub const CONFIG: &str = "docker-config";
/// The clean-up's name in `status.schedules`.
pub const RECLAIM: &str = "docker-reclaim";

/// How many containers or images one step removes at most: few enough to be done within a command's minute, and to look
/// again soon.
const PER_STEP: usize = 10;
/// How far below its threshold a disk is brought, in points of per cent, as far as the images' sizes tell: a disk that is
/// only just below would be over it again with the next build.
pub const MARGIN: u8 = 5;
/// Below this, in bytes, Docker cannot start: it makes a folder and a file for its database first.
pub const NO_ROOM: u64 = 1 << 20;
/// A command that removes may take a minute.
const REMOVED_WITHIN: Duration = Duration::from_secs(90);
/// How long Docker may take to answer after a start: it goes through all its containers.
const ANSWERS_WITHIN: Duration = Duration::from_secs(120);
/// A file is deleted, a cache emptied at once.
const AT_ONCE: Duration = Duration::from_secs(40);

impl Facet for Docker {
    fn condition(&self) -> &'static str {
        conditions::DOCKER_READY
    }

    fn in_use(&self, desired: &Desired) -> bool {
        desired.docker.is_some()
    }

    fn asks(&self, desired: &Desired) -> Vec<Ask> {
        vec![docker::ask(desired.disks.iter().map(|disk| disk.path.0.clone()).collect())]
    }

    fn check(&self, desired: &Desired, seen: &Observation) -> Result<Check, Blind> {
        let (machine, docker) = (seen.machine.get()?, seen.docker.get()?);
        let mut check = Check::default();
        let empty: Vec<&str> = empty_configs(docker);
        if !empty.is_empty() {
            check.drifts.push(Drift {
                kind: DriftKind::DockerConfigEmpty,
                subject: CONFIG.to_owned(),
                short: format!("{} is empty", empty.join(" and ")),
                evidence: format!(
                    "{} is empty: Docker wrote it while its disk was full, and has no login",
                    empty.join(" and ")
                ),
            });
        }
        if docker.answers != Answers::Yes {
            let how = match docker.answers {
                Answers::Hangs => "Docker takes questions and does not answer them",
                _ => "Docker does not answer",
            };
            if starting(machine) {
                check.settling.push((DOCKER.to_owned(), format!("{how} yet: it has just been started")));
            } else {
                let why = match &docker.root {
                    Some(root) if docker.available < NO_ROOM => {
                        format!("; the disk of {root} is full, and it cannot start without room")
                    }
                    _ => String::new(),
                };
                check.drifts.push(Drift {
                    kind: DriftKind::DockerNotAnswering,
                    subject: DOCKER.to_owned(),
                    short: "Docker does not answer".to_owned(),
                    evidence: format!("{how}{why}"),
                });
            }
        }
        if let Some(reclaim) = described(desired) {
            if let Some(Err(bad)) = reclaim.schedule.as_ref().map(|at| Timetable::read(at, reclaim.time_zone.as_ref()))
            {
                check.drifts.push(Drift {
                    kind: DriftKind::ScheduleInvalid,
                    subject: format!("schedule {RECLAIM}"),
                    short: "docker.reclaim has no schedule that comes".to_owned(),
                    evidence: format!("docker.reclaim: {bad}"),
                });
            }
            // Whatever wants to remove images waits for the build, containers may go; without Docker nothing can.
            let left = removable(reclaim, docker, machine.clock);
            let images_next = left.containers.is_empty() && !left.images.is_empty();
            let held_by = match docker.answers {
                Answers::Yes if docker.building && images_next => Some("the build that is under way"),
                Answers::Yes => None,
                Answers::Refuses | Answers::Hangs => make_room(docker).is_empty().then_some("Docker"),
            };
            if let Some(what) = held_by {
                let subjects = docker.holds.iter().map(|path| format!("disk {path}"));
                check.held = subjects.chain([RECLAIM.to_owned()]).map(|subject| (subject, what.to_owned())).collect();
            }
        }
        check.as_described = match described(desired) {
            Some(reclaim) => format!("it answers; what is in no use for {} goes when it is due", reclaim.unused_for),
            None => "it answers".to_owned(),
        };
        Ok(check)
    }

    fn ladder(&self, desired: &Desired, seen: &Observation, drift: &Drift) -> Vec<Rung> {
        let Some(docker) = seen.docker.seen() else { return Vec::new() };
        match drift.kind {
            DriftKind::DockerConfigEmpty => {
                let paths = empty_configs(docker).into_iter().map(str::to_owned).collect();
                vec![Rung { step: Step::DeleteEmptyDockerConfig { paths }, takes_effect: AT_ONCE }]
            }
            DriftKind::DockerNotAnswering if docker.available < NO_ROOM => make_room(docker),
            DriftKind::DockerNotAnswering => vec![Rung { step: Step::RestartDocker, takes_effect: ANSWERS_WITHIN }],
            DriftKind::ReclaimDue => reclaim(desired, seen, None),
            _ => Vec::new(),
        }
    }

    fn chores(&self, desired: &Desired) -> Vec<Chore> {
        let reclaim = described(desired);
        let chore = reclaim.and_then(|reclaim| {
            Some(Chore {
                name: RECLAIM,
                kind: DriftKind::ReclaimDue,
                words: "the clean-up of Docker",
                schedule: reclaim.schedule.clone()?,
                time_zone: reclaim.time_zone.clone(),
                done: Done::NothingLeft,
            })
        });
        chore.into_iter().collect()
    }
}

/// Whether Docker's daemon, or the whole machine, was started a moment ago.
fn starting(machine: &Machine) -> bool {
    let daemon =
        |command: &str| command.split(' ').next().is_some_and(|program| program.rsplit('/').next() == Some("dockerd"));
    let just_now = |process: &&Process| daemon(&process.command) && machine.age(process) < ANSWERS_WITHIN.as_secs();
    machine.uptime < ANSWERS_WITHIN.as_secs() || machine.processes.values().find(just_now).is_some()
}

fn described(desired: &Desired) -> Option<&Reclaim> {
    desired.docker.as_ref()?.reclaim.as_ref()
}

fn empty_configs(docker: &Seen) -> Vec<&str> {
    docker.configs.iter().filter(|config| config.size == 0).map(|config| config.path.as_str()).collect()
}

/// What makes room without Docker: the packages that apt has downloaded and installed, which it fetches again if it ever
/// needs them. Logs stay, since they are somebody's evidence, and so does everything whose owner is not known.
pub(super) fn make_room(docker: &Seen) -> Vec<Rung> {
    let worth_it = docker.answers != Answers::Yes && docker.available < NO_ROOM && docker.apt_cache >= NO_ROOM;
    if worth_it { vec![Rung { step: Step::EmptyPackageCache, takes_effect: AT_ONCE }] } else { Vec::new() }
}

/// The next step of the clean-up. `over`: the threshold of a disk, in per cent, below which it is to be brought; `None`:
/// everything that may go is to go. Empty when there is nothing (more) that may go, or when `spec.docker.reclaim` is not
/// described.
pub(super) fn reclaim(desired: &Desired, seen: &Observation, over: Option<u8>) -> Vec<Rung> {
    let (Some(reclaim), Some(docker), Some(machine)) = (described(desired), seen.docker.seen(), seen.machine.seen())
    else {
        return Vec::new();
    };
    if docker.answers != Answers::Yes {
        return Vec::new();
    }
    let left = removable(reclaim, docker, machine.clock);
    let step = if left.containers.is_empty() {
        let mut missing = over.map(|limit| too_much(docker, limit));
        let enough = left.images.iter().take_while(|image| match &mut missing {
            Some(0) => false,
            Some(missing) => {
                *missing = missing.saturating_sub(image.size);
                true
            }
            None => true,
        });
        Step::RemoveImages {
            images: enough
                .take(PER_STEP)
                .map(|image| UnusedImage { id: image.id.clone(), tagged: image.tagged.clone() })
                .collect(),
        }
    } else {
        let some = left.containers.iter().take(PER_STEP);
        Step::RemoveContainers {
            containers: some
                .map(|container| StoppedContainer { id: container.id.clone(), finished: container.finished.clone() })
                .collect(),
        }
    };
    let nothing = matches!(&step, Step::RemoveImages { images } if images.is_empty());
    if nothing { Vec::new() } else { vec![Rung { step, takes_effect: REMOVED_WITHIN }] }
}

/// How many bytes must go for a disk to be [`MARGIN`] points below its threshold; at least one, since it is over it.
fn too_much(docker: &Seen, limit: u8) -> u64 {
    let all = docker.used.saturating_add(docker.available);
    let target = all / 100 * u64::from(limit.saturating_sub(MARGIN));
    docker.used.saturating_sub(target).max(1)
}

/// What Docker holds, for whoever must make room by hand. `None` when there is something to remove, or nobody knows.
pub(super) fn what_fills_it(desired: &Desired, seen: &Observation) -> Option<String> {
    let reclaim = described(desired)?;
    let (docker, machine) = (seen.docker.seen()?, seen.machine.seen()?);
    if docker.answers != Answers::Yes {
        return Some("Docker does not answer, so nothing of it can be removed".to_owned());
    }
    let left = removable(reclaim, docker, machine.clock);
    if !(left.containers.is_empty() && left.images.is_empty()) {
        return None;
    }
    let used = in_use(docker);
    let size = |images: &mut dyn Iterator<Item = &Image>| {
        let (count, bytes) = images.fold((0u32, 0u64), |(n, sum), image| (n + 1, sum.saturating_add(image.size)));
        format!("{count} ({} MB)", bytes / 1_000_000)
    };
    let running = docker.containers.iter().filter(|container| !container.stopped).count();
    Some(format!(
        "nothing of Docker's may go: {running} containers that run and {} that ended less than {} ago; images in use: {}; kept \
         by docker.reclaim.keep: {}; others, younger than {}: {}; what else fills the disk is not Docker's",
        docker.containers.len() - running,
        reclaim.unused_for,
        size(&mut docker.images.iter().filter(|image| used.contains(image.id.as_str()))),
        size(&mut docker.images.iter().filter(|image| !used.contains(image.id.as_str()) && kept(image, reclaim))),
        reclaim.unused_for,
        size(&mut docker.images.iter().filter(|image| !used.contains(image.id.as_str()) && !kept(image, reclaim))),
    ))
}

/// What may go, oldest first.
#[derive(Debug, PartialEq)]
struct Removable<'a> {
    containers: Vec<&'a Container>,
    images: Vec<&'a Image>,
}

/// `clock` is the host's own, by which Docker's times are too.
fn removable<'a>(reclaim: &Reclaim, docker: &'a Seen, clock: i64) -> Removable<'a> {
    let mut left = Removable { containers: Vec::new(), images: Vec::new() };
    // An age that the schema would refuse is from an older object: then nothing is old enough.
    let Ok(age) = reclaim.unused_for.duration() else { return left };
    let age = i64::try_from(age.as_secs()).unwrap_or(i64::MAX);
    let old = |since: jiff::Timestamp| clock.saturating_sub(since.as_second()) > age;
    left.containers = docker.containers.iter().filter(|container| container.stopped && old(container.since)).collect();
    left.containers.sort_by_key(|container| container.since);
    // A container that was not told may use any image.
    if docker.unlisted_containers > 0 {
        return left;
    }
    let used = in_use(docker);
    let bases: BTreeSet<&str> = docker.images.iter().filter_map(|image| image.parent.as_deref()).collect();
    left.images = docker
        .images
        .iter()
        .filter(|image| {
            old(image.since)
                && !used.contains(image.id.as_str())
                && !bases.contains(image.id.as_str())
                && !kept(image, reclaim)
        })
        .collect();
    left.images.sort_by_key(|image| image.since);
    left
}

/// The images that containers were made of, whether these run or not.
fn in_use(docker: &Seen) -> BTreeSet<&str> {
    docker.containers.iter().map(|container| container.image.as_str()).collect()
}

/// Whether one of its names is on the keep list, with or without its tag.
fn kept(image: &Image, reclaim: &Reclaim) -> bool {
    image.tags.iter().any(|name| {
        let repository = match name.rsplit_once(['@', ':']) {
            // A colon before a slash belongs to a registry's port.
            Some((before, after)) if !after.contains('/') => before.trim_end_matches("@sha256"),
            _ => name.as_str(),
        };
        reclaim.keep.iter().any(|pattern| pattern.matches(name) || pattern.matches(repository))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::super::{FACETS, effect};
    use super::*;
    use crate::seen::Known;
    use crate::seen::docker::Config;
    use binder_crds::desired::{Disk, Docker as Described};
    use binder_crds::text::{HostPath, ImagePattern, Percent, Schedule, Span, TimeZone};
    use effect::{Effect, effect};
    use jiff::Timestamp;
    use std::collections::BTreeMap;

    const NOW: i64 = 1_780_000_000;
    const HOUR: i64 = 3600;
    const MB: u64 = 1_000_000;

    fn id(digit: char) -> String {
        digit.to_string().repeat(64)
    }

    fn image(digit: char, age: i64, name: &str) -> Image {
        Image {
            id: format!("sha256:{}", id(digit)),
            parent: None,
            since: Timestamp::from_second(NOW - age).unwrap(),
            tagged: format!("tagged-{digit}"),
            size: 100 * MB,
            tags: if name.is_empty() { Vec::new() } else { vec![name.to_owned()] },
        }
    }

    fn container(digit: char, age: i64, stopped: bool, of: char) -> Container {
        Container {
            id: id(digit),
            stopped,
            image: format!("sha256:{}", id(of)),
            since: Timestamp::from_second(NOW - age).unwrap(),
            finished: format!("finished-{digit}"),
        }
    }

    fn desired() -> Desired {
        let reclaim = Reclaim {
            schedule: Some(Schedule::from("15 * * * *")),
            time_zone: Some(TimeZone::from("Europe/Berlin")),
            unused_for: Span::from("1h"),
            keep: vec![ImagePattern::from("andrewosh/binder-*")],
        };
        Desired {
            disks: vec![Disk { path: HostPath::from("/"), max_used: Percent::from("85%") }],
            docker: Some(Described { reclaim: Some(reclaim) }),
            ..Desired::default()
        }
    }

    /// A disk of 1000 MB at 93 %, with nothing of Docker's on it yet.
    fn docker() -> Seen {
        Seen {
            answers: Answers::Yes,
            root: Some("/var/lib/docker".to_owned()),
            used: 930 * MB,
            available: 70 * MB,
            holds: BTreeSet::from(["/".to_owned()]),
            ..Seen::default()
        }
    }

    fn seen(docker: Seen, percent: u8) -> Observation {
        let machine = Machine { clock: NOW, uptime: 9999, ..Machine::default() };
        let disks = BTreeMap::from([("/".to_owned(), crate::seen::disks::Use::Percent(percent))]);
        Observation {
            machine: Known::Seen(machine),
            disks: Known::Seen(disks),
            docker: Known::Seen(docker),
            ..Observation::nothing(Timestamp::from_second(NOW).unwrap())
        }
    }

    /// The first step against the only drift of a kind.
    fn step(seen: &Observation, kind: DriftKind) -> Option<Step> {
        let (facet, drift) = FACETS
            .iter()
            .filter(|facet| facet.in_use(&desired()))
            .flat_map(|facet| {
                facet.check(&desired(), seen).unwrap().drifts.into_iter().map(move |drift| (facet, drift))
            })
            .find(|(_, drift)| drift.kind == kind)
            .unwrap();
        facet.ladder(&desired(), seen, &drift).into_iter().next().map(|rung| rung.step)
    }

    fn images_of(step: Option<Step>) -> Vec<char> {
        match step {
            Some(Step::RemoveImages { images }) => {
                images.iter().map(|image| image.id.chars().last().unwrap()).collect()
            }
            None => Vec::new(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn containers_go_first_and_then_the_oldest_images_until_there_is_room() {
        let mut world = docker();
        world.containers = vec![container('1', 5 * HOUR, true, 'a')];
        world.images = vec![image('a', 2 * HOUR, "x:1"), image('b', 9 * HOUR, "y:1"), image('c', 5 * HOUR, "")];
        let Some(Step::RemoveContainers { containers }) = step(&seen(world.clone(), 93), DriftKind::OverThreshold)
        else {
            panic!("containers first")
        };
        assert_eq!(containers, [StoppedContainer { id: id('1'), finished: "finished-1".to_owned() }]);
        world.containers.clear();
        // 130 MB are over the target of 80 %: two images of 100 MB, the oldest ones.
        assert_eq!(images_of(step(&seen(world.clone(), 93), DriftKind::OverThreshold)), ['b', 'c']);
        // The clean-up by the clock takes all that may go.
        assert_eq!(images_of(reclaim(&desired(), &seen(world, 40), None).pop().map(|rung| rung.step)), ['b', 'c', 'a']);
    }

    #[test]
    fn what_must_never_go_does_not() {
        let mut world = docker();
        world.containers = vec![container('1', 5 * HOUR, false, 'a'), container('2', HOUR / 2, true, 'b')];
        let mut base = image('d', 9 * HOUR, "base:1");
        base.tags.push("other:1".to_owned());
        let built = Image { parent: Some(base.id.clone()), ..image('e', HOUR / 3, "built:1") };
        world.images = vec![
            image('a', 9 * HOUR, "running:1"),
            image('b', 9 * HOUR, "of-a-container-that-ended-just-now:1"),
            image('c', HOUR / 2, "young:1"),
            base,
            built,
            image('f', 9 * HOUR, "andrewosh/binder-base:latest"),
            image('0', 9 * HOUR, "andrewosh/binder-python-3.5@sha256:0"),
        ];
        let looked = seen(world.clone(), 93);
        assert_eq!(step(&looked, DriftKind::OverThreshold), None);
        assert_eq!(reclaim(&desired(), &looked, None), []);
        let drift = super::super::disks::Disks.check(&desired(), &looked).unwrap().drifts.remove(0);
        assert!(
            drift.evidence.contains("images in use: 2 (200 MB); kept by docker.reclaim.keep: 2 (200 MB)"),
            "{}",
            drift.evidence
        );
        // A container that was not told may use any image.
        world.images = vec![image('a', 9 * HOUR, "x:1")];
        world.containers.clear();
        world.unlisted_containers = 1;
        assert_eq!(reclaim(&desired(), &seen(world, 93), None), []);
    }

    #[test]
    fn without_a_clean_up_that_is_described_nothing_goes() {
        let mut world = docker();
        world.images = vec![image('a', 9 * HOUR, "x:1")];
        let looked = seen(world, 93);
        let mut plain = desired();
        plain.docker = None;
        let facet = super::super::disks::Disks;
        let drift = facet.check(&plain, &looked).unwrap().drifts.remove(0);
        assert_eq!(facet.ladder(&plain, &looked, &drift), []);
        plain.docker = Some(Described::default());
        assert_eq!(facet.ladder(&plain, &looked, &drift), []);
        // Nor on a disk that does not hold Docker's data.
        let mut elsewhere = seen(docker(), 93);
        if let Known::Seen(docker) = &mut elsewhere.docker {
            docker.images = vec![image('a', 9 * HOUR, "x:1")];
            docker.holds.clear();
        }
        assert_eq!(facet.ladder(&desired(), &elsewhere, &drift), []);
    }

    #[test]
    fn a_build_that_is_under_way_holds_the_images() {
        let mut world = docker();
        world.building = true;
        world.images = vec![image('a', 9 * HOUR, "x:1")];
        let check = Docker.check(&desired(), &seen(world.clone(), 93)).unwrap();
        let held: Vec<&str> = check.held.iter().map(|(subject, _)| subject.as_str()).collect();
        assert_eq!(held, ["disk /", RECLAIM]);
        // What has stopped is not the build's.
        world.containers = vec![container('1', 5 * HOUR, true, 'a')];
        assert_eq!(Docker.check(&desired(), &seen(world, 93)).unwrap().held, []);
    }

    #[test]
    fn a_full_disk_is_given_room_before_docker_is_restarted() {
        let mut world = docker();
        world.answers = Answers::Refuses;
        world.available = 0;
        world.configs = vec![
            Config { path: "/home/andrew/.dockercfg".to_owned(), size: 0 },
            Config { path: "/root/.docker/config.json".to_owned(), size: 57 },
        ];
        // Nothing that is surely nobody's: a person.
        let looked = seen(world.clone(), 100);
        assert_eq!(step(&looked, DriftKind::OverThreshold), None);
        assert_eq!(step(&looked, DriftKind::DockerNotAnswering), None);
        world.apt_cache = 9 * MB;
        let looked = seen(world.clone(), 100);
        assert_eq!(step(&looked, DriftKind::OverThreshold), Some(Step::EmptyPackageCache));
        assert_eq!(step(&looked, DriftKind::DockerNotAnswering), Some(Step::EmptyPackageCache));
        let paths = vec!["/home/andrew/.dockercfg".to_owned()];
        let delete = Step::DeleteEmptyDockerConfig { paths };
        assert_eq!(step(&looked, DriftKind::DockerConfigEmpty), Some(delete.clone()));
        assert!(matches!(effect(&delete, &looked, &[], Duration::ZERO), Ok(Effect::NotYet(_))));
        world.available = 9 * MB;
        world.configs.remove(0);
        let looked = seen(world, 98);
        assert_eq!(step(&looked, DriftKind::OverThreshold), None);
        assert_eq!(step(&looked, DriftKind::DockerNotAnswering), Some(Step::RestartDocker));
        assert!(matches!(effect(&delete, &looked, &[], Duration::ZERO), Ok(Effect::Seen(_))));
        assert!(matches!(effect(&Step::EmptyPackageCache, &looked, &[], Duration::ZERO), Ok(Effect::Seen(_))));
        assert!(matches!(effect(&Step::RestartDocker, &looked, &[], Duration::ZERO), Ok(Effect::NotYet(_))));
        assert!(matches!(effect(&Step::RestartDocker, &seen(docker(), 40), &[], Duration::ZERO), Ok(Effect::Seen(_))));
    }

    #[test]
    fn a_removal_is_judged_by_what_docker_holds_after() {
        let mut world = docker();
        world.images = vec![image('a', 9 * HOUR, "x:1"), image('b', 9 * HOUR, "y:1")];
        let both = reclaim(&desired(), &seen(world.clone(), 93), None).remove(0).step;
        let judge =
            |world: &Seen, seconds| effect(&both, &seen(world.clone(), 93), &[], Duration::from_secs(seconds)).unwrap();
        assert!(matches!(judge(&world, 300), Effect::NotYet(_)));
        world.images.pop();
        assert!(matches!(judge(&world, 5), Effect::NotYet(_)), "the command may still run");
        assert_eq!(judge(&world, 61), Effect::Seen("1 of 2 are gone".to_owned()));
        world.images.clear();
        assert!(matches!(judge(&world, 1), Effect::Seen(_)));
        world.answers = Answers::Hangs;
        assert!(effect(&both, &seen(world, 93), &[], Duration::ZERO).is_err());
    }

    #[test]
    fn a_schedule_that_never_comes_is_said() {
        let mut wrong = desired();
        wrong.docker.as_mut().unwrap().reclaim.as_mut().unwrap().time_zone = Some(TimeZone::from("Europe/Atlantis"));
        let check = Docker.check(&wrong, &seen(docker(), 40)).unwrap();
        assert_eq!(check.drifts[0].kind, DriftKind::ScheduleInvalid);
        assert_eq!(Docker.chores(&desired()).len(), 1);
    }
}
