//! Facet `docker`: Docker answers, its client's login files are not empty, and what is in no use is removed when it is due.
//! What to remove is worked out here for the facet `disks` as well ([`reclaim`]).
//!
//! The rule is that of the runbook's docker-gc ("Build server"): stopped containers, and images that no container was made
//! of, both for longer than `unusedFor`. Never what runs, never a base of another image, never what is on the keep list or
//! belongs to a described service, and no image at all while a build is under way, which may be about to use any of them.
//! What Docker could not remove or refused to, never started, or keeps a volume with, is passed over.
//!
//! Docker is started where its daemon does not run, and restarted where it has hung for minutes. What its client says is no
//! proof of more: a daemon that runs and refuses is well, and a person is told what was said.

mod steps;

pub use steps::{Step, StoppedContainer, UnusedImage};

use super::{BLIP, Check, Done, Drift, DriftKind, Facet, Rung, Subject, Task};
use crate::catalogue::{self, Component};
use crate::schedule::Timetable;
use crate::seen::docker::{Answers, Container, Docker as Seen, Image, Left, Trouble};
use crate::seen::machine::Machine;
use crate::seen::pm2::State;
use crate::seen::{Ask, Observation, Unknown, clock, docker};
use binder_crds::desired::Reclaim;
use binder_crds::{Desired, conditions};
use std::collections::BTreeSet;
use std::time::Duration;

/// The facet.
pub struct Docker;

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
/// A daemon that runs and takes questions without answering is given so long: a build server under load is slow for a minute
/// or two (moby#13885, moby#26995), and a restart ends its containers.
const HANGS_FOR: Duration = Duration::from_secs(300);
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

    fn check(&self, desired: &Desired, seen: &Observation) -> Result<Check, Unknown> {
        let (machine, docker) = (seen.machine.get()?, seen.docker.get()?);
        let mut check = Check::default();
        let empty: Vec<&str> = empty_configs(docker);
        if !empty.is_empty() {
            check.drifts.push(Drift {
                kind: DriftKind::DockerConfigEmpty,
                subject: Subject::DockerConfig,
                short: format!("{} is empty", empty.join(" and ")),
                evidence: format!(
                    "{} is empty: Docker wrote it while its disk was full, and has no login",
                    empty.join(" and ")
                ),
            });
        }
        if let Some(state) = state(machine, docker) {
            let lasts = docker::mark(machine, docker).map(|mark| seen.lasting.age(&mark, seen.at)).unwrap_or_default();
            let how = state.words(docker);
            if starting(machine) {
                check.progressing.push((Subject::Docker, format!("{how}: it has just been started")));
            } else if lasts < state.patience() && !(state == Silence::Down && docker.has_less_than(NO_ROOM)) {
                let minutes = state.patience().as_secs() / 60;
                let watched =
                    if minutes > 0 { format!("it is watched for {minutes} min") } else { "it is watched".to_owned() };
                check.progressing.push((Subject::Docker, format!("{how}: {watched}")));
            } else {
                let why = match &docker.root {
                    Some(root) if docker.has_less_than(NO_ROOM) => {
                        format!("; the disk of {root} is full, and it cannot start without room")
                    }
                    _ => String::new(),
                };
                let ends = match (state.remedy(), ended_by_restart(desired, seen, machine)) {
                    (true, Some(what)) => {
                        format!("; a restart of Docker would end {what}, which runs in it: a person decides")
                    }
                    _ => String::new(),
                };
                check.drifts.push(Drift {
                    kind: DriftKind::DockerNotAnswering,
                    subject: Subject::Docker,
                    short: state.short().to_owned(),
                    evidence: format!("{how}{why}{ends}"),
                });
                if let Some(what) = keeps_from_restarting(docker, machine) {
                    check.held.push((Subject::Docker, what.to_owned()));
                }
            }
        }
        if let Some(reclaim) = described(desired) {
            if let Some(Err(bad)) = reclaim.schedule.as_ref().map(|at| Timetable::read(at, reclaim.time_zone.as_ref()))
            {
                check.drifts.push(Drift {
                    kind: DriftKind::ScheduleInvalid,
                    subject: Subject::ReclaimSchedule,
                    short: "docker.reclaim has no schedule that comes".to_owned(),
                    evidence: format!("docker.reclaim: {bad}"),
                });
            }
            // Whatever wants to remove images waits for the build, containers may go; without Docker nothing can.
            let left = removable(desired, reclaim, docker, machine.clock);
            let images_next = left.containers.is_empty() && !left.images.is_empty();
            let held_by = match docker.answers {
                Answers::Yes if docker.building && images_next => Some(BUILD),
                Answers::Yes => None,
                Answers::Refuses | Answers::Hangs => make_room(docker).is_empty().then_some("Docker"),
            };
            if let Some(what) = held_by {
                let subjects = docker.holds.iter().map(|path| Subject::Disk(path.clone()));
                check.held.extend(subjects.chain([Subject::DockerReclaim]).map(|subject| (subject, what.to_owned())));
            }
        }
        check.as_described = match described(desired) {
            Some(reclaim) => {
                let refused = refused(docker).map(|words| format!("; {words}")).unwrap_or_default();
                format!("it answers; what is in no use for {} goes when it is due{refused}", reclaim.unused_for)
            }
            None => "it answers".to_owned(),
        };
        Ok(check)
    }

    fn rank(&self, _: &Desired, drift: &Drift) -> u8 {
        // The runbook's order ("Build server"): room, the empty file, Docker itself.
        match drift.subject {
            Subject::DockerConfig => 61,
            Subject::Docker => 62,
            _ => super::LAST,
        }
    }

    fn ladder(&self, desired: &Desired, seen: &Observation, drift: &Drift) -> Vec<Rung> {
        let Some(docker) = seen.docker.seen() else { return Vec::new() };
        match drift.kind {
            DriftKind::DockerConfigEmpty => {
                let paths = empty_configs(docker).into_iter().map(str::to_owned).collect();
                vec![Rung::new(Step::DeleteEmptyDockerConfig { paths }, AT_ONCE)]
            }
            DriftKind::DockerNotAnswering if docker.has_less_than(NO_ROOM) => make_room(docker),
            DriftKind::DockerNotAnswering => {
                let Some(machine) = seen.machine.seen() else { return Vec::new() };
                let helps = state(machine, docker).is_some_and(|state| state.remedy());
                if helps && ended_by_restart(desired, seen, machine).is_none() {
                    vec![Rung::new(Step::RestartDocker, ANSWERS_WITHIN)]
                } else {
                    Vec::new()
                }
            }
            DriftKind::ReclaimDue => reclaim(desired, seen, None),
            _ => Vec::new(),
        }
    }

    fn scheduled(&self, desired: &Desired) -> Vec<Task> {
        let reclaim = described(desired);
        let task = reclaim.and_then(|reclaim| {
            Some(Task {
                subject: Subject::DockerReclaim,
                kind: DriftKind::ReclaimDue,
                words: "the clean-up of Docker",
                schedule: reclaim.schedule.clone()?,
                time_zone: reclaim.time_zone.clone(),
                done: Done::NothingLeft,
            })
        });
        task.into_iter().collect()
    }
}

/// What holds a step back while Docker builds.
const BUILD: &str = "the build that is under way";

/// What is known of a Docker that does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Silence {
    /// Its daemon is not among the processes, and nobody listens.
    Down,
    /// It takes questions and gives no answer.
    Hangs,
    /// Its daemon runs, and does not listen where it is asked.
    Elsewhere,
    /// Its daemon runs, and does not speak the client's version of the API.
    VersionMismatch,
    /// The client failed for another reason.
    ClientFailed,
}

impl Silence {
    fn words(self, docker: &Seen) -> String {
        let said = if docker.said.is_empty() { String::new() } else { format!(" (docker says: `{}`)", docker.said) };
        match self {
            Self::Down => format!("Docker's daemon does not run{said}"),
            Self::Hangs => "Docker takes questions and does not answer them".to_owned(),
            Self::Elsewhere => format!(
                "dockerd runs and does not listen on /var/run/docker.sock{said}: have it listen there (-H unix://), a \
                 restart would not change that"
            ),
            Self::VersionMismatch => format!(
                "Docker's client and its daemon are of versions that do not fit together{said}: install the same version \
                 of both, the daemon itself is well"
            ),
            Self::ClientFailed => {
                format!("`docker version` fails{said}: see what it says, a restart is not known to help")
            }
        }
    }

    fn short(self) -> &'static str {
        match self {
            Self::Down => "Docker does not run",
            Self::Hangs => "Docker does not answer",
            Self::Elsewhere => "Docker listens elsewhere",
            Self::VersionMismatch => "Docker's client and daemon do not fit",
            Self::ClientFailed => "Docker's client fails",
        }
    }

    /// How long it must have been so before it is more than a moment.
    fn patience(self) -> Duration {
        match self {
            Self::Hangs => HANGS_FOR,
            Self::Down | Self::Elsewhere | Self::VersionMismatch | Self::ClientFailed => BLIP,
        }
    }

    /// Whether starting Docker anew helps.
    fn remedy(self) -> bool {
        matches!(self, Self::Down | Self::Hangs)
    }
}

fn state(machine: &Machine, docker: &Seen) -> Option<Silence> {
    let runs = docker::daemon(machine).is_some();
    match (docker.answers, docker.trouble()) {
        (Answers::Yes, _) => None,
        (Answers::Hangs, _) => Some(Silence::Hangs),
        (Answers::Refuses, Trouble::VersionMismatch) => Some(Silence::VersionMismatch),
        (Answers::Refuses, Trouble::NobodyListens) => Some(if runs { Silence::Elsewhere } else { Silence::Down }),
        (Answers::Refuses, Trouble::Other) => Some(Silence::ClientFailed),
    }
}

/// What a restart must wait for. A daemon that does not run builds nothing, whatever lies in its folders.
fn keeps_from_restarting(docker: &Seen, machine: &Machine) -> Option<&'static str> {
    let program = |command: &str| {
        command.split(' ').next().and_then(|program| program.rsplit('/').next()).unwrap_or_default().to_owned()
    };
    let runs = docker::daemon(machine).is_some();
    let building = machine.processes.values().any(|process| {
        let mut words = process.command.split(' ');
        let client =
            words.next().is_some_and(|program| matches!(program.rsplit('/').next(), Some("docker" | "docker-buildx")));
        client && words.any(|word| matches!(word, "build" | "bake" | "push" | "pull"))
    });
    if machine.processes.values().any(|process| matches!(program(&process.command).as_str(), "dpkg" | "rpm")) {
        Some("the installation of packages that is under way")
    } else if runs && (docker.building || building) {
        Some(BUILD)
    } else {
        None
    }
}

/// The described services that run in Docker and that a restart would end, in words. Where it cannot be told whether they run,
/// they do.
fn ended_by_restart(desired: &Desired, seen: &Observation, machine: &Machine) -> Option<String> {
    // Without a daemon, what is left of containers are their own processes.
    if docker::daemon(machine).is_none() && !docker::containers_run(machine) {
        return None;
    }
    let runs = |component: &Component| {
        let table = seen.pm2.seen();
        let online = table.is_none_or(|table| table.named(&component.process).any(|row| row.state == State::Online));
        online || component.ports.iter().any(|port| machine.listeners.contains_key(port))
    };
    let names: Vec<String> = catalogue::described(desired)
        .into_iter()
        .filter(|component| component.in_docker && runs(component))
        .map(|component| component.name)
        .collect();
    if names.is_empty() { None } else { Some(names.join(" and ")) }
}

/// Whether Docker's daemon, or the whole machine, was started a moment ago.
fn starting(machine: &Machine) -> bool {
    let young = |age: u64| age < ANSWERS_WITHIN.as_secs();
    young(machine.uptime) || docker::daemon(machine).is_some_and(|(_, process)| young(machine.age(process)))
}

/// The images that binder-control's services are made of (its `services/*/docker-compose.yml`, which name no tag): while such
/// a service is described, running or stopped, they stay, whatever `keep` says. Fetched anew, they would be of today, and
/// today's MongoDB refuses the files of the one that is there.
const SERVICE_IMAGES: &[(&str, &[&str])] =
    &[("db", &["mongo"]), ("logging", &["elasticsearch", "kibana", "andrewosh/logstash-binder"])];

fn service_images(desired: &Desired) -> Vec<&'static str> {
    let described: Vec<Component> =
        catalogue::described(desired).into_iter().chain(catalogue::stopped(desired)).collect();
    let here = |name: &str| described.iter().any(|component| component.name == name);
    SERVICE_IMAGES.iter().filter(|(name, _)| here(name)).flat_map(|(_, images)| images.iter().copied()).collect()
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
    let worth_it = docker.answers != Answers::Yes && docker.has_less_than(NO_ROOM) && docker.apt_cache >= NO_ROOM;
    if worth_it { vec![Rung::new(Step::EmptyPackageCache, AT_ONCE)] } else { Vec::new() }
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
    let left = removable(desired, reclaim, docker, machine.clock);
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
    if nothing { Vec::new() } else { vec![Rung::new(step, REMOVED_WITHIN)] }
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
    if clock::off(seen).is_some() {
        return None;
    }
    let left = removable(desired, reclaim, docker, machine.clock);
    if !(left.containers.is_empty() && left.images.is_empty()) {
        return None;
    }
    let (used, services) = (in_use(docker), service_images(desired));
    let size = |images: &mut dyn Iterator<Item = &Image>| {
        let (count, bytes) = images.fold((0u32, 0u64), |(n, sum), image| (n + 1, sum.saturating_add(image.size)));
        format!("{count} ({} MB)", bytes / 1_000_000)
    };
    let is_used = |image: &&Image| used.contains(image.id.as_str());
    let is_kept = |image: &&Image| kept(image, reclaim, &services);
    let running = docker.containers.iter().filter(|container| !container.stopped).count();
    let mut parts = vec![
        format!("{running} containers that run"),
        format!(
            "{} that ended less than {} ago",
            docker.containers.iter().filter(|one| one.stopped && one.left.is_none()).count(),
            reclaim.unused_for
        ),
    ];
    for (left, words) in [
        (Left::NeverStarted, "that never ran"),
        (Left::Dead, "dead, which Docker could not remove"),
        (Left::Volume, "stopped, with a volume"),
        (Left::Service, "stopped services of docker-compose"),
    ] {
        let count = docker.containers.iter().filter(|one| one.stopped && one.left == Some(left)).count();
        if count > 0 {
            parts.push(format!("{count} {words}"));
        }
    }
    parts.push(format!("images in use: {}", size(&mut docker.images.iter().filter(is_used))));
    parts.push(format!(
        "kept by docker.reclaim.keep or for a described service: {}",
        size(&mut docker.images.iter().filter(|image| !is_used(image) && is_kept(image)))
    ));
    parts.push(format!(
        "others, younger than {} or built upon: {}",
        reclaim.unused_for,
        size(&mut docker.images.iter().filter(|image| !is_used(image) && !is_kept(image)))
    ));
    parts.extend(refused(docker));
    if docker.unlisted_containers > 0 {
        parts.push(format!("{} containers could not be read, so no image is removed", docker.unlisted_containers));
    }
    Some(format!(
        "nothing of Docker's may go: {}; what else fills the disk may be logs of containers, volumes or the build cache, \
         which are never removed (docker system df), or not Docker's",
        parts.join("; ")
    ))
}

/// What Docker refuses to remove, in words.
fn refused(docker: &Seen) -> Option<String> {
    let first = docker.refused.iter().next()?;
    let id = first.strip_prefix("sha256:").unwrap_or(first).get(..12).unwrap_or(first);
    let (which, what) = if first.starts_with("sha256:") { ("the image", "rmi") } else { ("the container", "rm") };
    Some(format!(
        "{} passed over since Docker refuses to remove them (docker {what} {id} says why of {which} {id})",
        docker.refused.len()
    ))
}

/// What may go, oldest first.
#[derive(Debug, PartialEq)]
struct Removable<'a> {
    containers: Vec<&'a Container>,
    images: Vec<&'a Image>,
}

/// `clock` is the host's own, by which Docker's times are too.
fn removable<'a>(desired: &Desired, reclaim: &Reclaim, docker: &'a Seen, clock: i64) -> Removable<'a> {
    let mut left = Removable { containers: Vec::new(), images: Vec::new() };
    // An age that the schema would refuse is from an older object: then nothing is old enough.
    let Ok(age) = reclaim.unused_for.duration() else { return left };
    let age = i64::try_from(age.as_secs()).unwrap_or(i64::MAX);
    let old = |since: jiff::Timestamp| clock.saturating_sub(since.as_second()) > age;
    let goes = |container: &&Container| {
        container.stopped && container.left.is_none() && old(container.since) && !docker.refused.contains(&container.id)
    };
    left.containers = docker.containers.iter().filter(goes).collect();
    left.containers.sort_by_key(|container| container.since);
    // A container that was not told may use any image.
    if docker.unlisted_containers > 0 {
        return left;
    }
    let (used, services) = (in_use(docker), service_images(desired));
    let bases: BTreeSet<&str> = docker.images.iter().filter_map(|image| image.parent.as_deref()).collect();
    left.images = docker
        .images
        .iter()
        .filter(|image| {
            old(image.since)
                && !used.contains(image.id.as_str())
                && !bases.contains(image.id.as_str())
                && !kept(image, reclaim, &services)
                && !docker.refused.contains(&image.id)
        })
        .collect();
    left.images.sort_by_key(|image| image.since);
    left
}

/// The images that containers were made of, whether these run or not.
fn in_use(docker: &Seen) -> BTreeSet<&str> {
    docker.containers.iter().map(|container| container.image.as_str()).collect()
}

/// Whether one of its names is on the keep list, with or without its tag, or is the image of a described service.
fn kept(image: &Image, reclaim: &Reclaim, services: &[&str]) -> bool {
    image.tags.iter().any(|name| {
        let repository = match name.rsplit_once(['@', ':']) {
            // A colon before a slash belongs to a registry's port, one within brackets to its address.
            Some((before, after)) if !after.contains(['/', ']']) => before.trim_end_matches("@sha256"),
            _ => name.as_str(),
        };
        services.contains(&repository)
            || reclaim.keep.iter().any(|pattern| pattern.matches(name) || pattern.matches(repository))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests;
