//! Facet `docker`: Docker answers, its client's login files are not empty, and what is in no use is removed when it is due.
//! What to remove is worked out here for the facet `disks` as well ([`reclaim`]).
//!
//! The rule is that of the runbook's docker-gc ("Build server"): stopped containers, and images that no container was made
//! of, both for longer than `unusedFor`. Never what runs, never a base of another image, never what is on the keep list or
//! belongs to a described service, and no image at all while a build is under way, which may be about to use any of them.
//! What Docker could not remove, never started, or keeps a volume with, is passed over.
//!
//! Docker is started where its daemon does not run, and restarted where it has hung for minutes. What its client says is no
//! proof of more: a daemon that runs and refuses is well, and a person is told what was said.

use super::step::{StoppedContainer, UnusedImage};
use super::{BLIP, Check, Chore, Done, Drift, DriftKind, Facet, Rung, Step, clocks};
use crate::catalogue::{self, Component};
use crate::schedule::Timetable;
use crate::seen::docker::{Answers, Container, Docker as Seen, Image, Left, Trouble};
use crate::seen::machine::Machine;
use crate::seen::pm2::State;
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
        if let Some(state) = state(machine, docker) {
            let lasts = docker::mark(machine, docker).map(|mark| seen.lasting.age(&mark, seen.at)).unwrap_or_default();
            let how = state.words(docker);
            if starting(machine) {
                check.settling.push((DOCKER.to_owned(), format!("{how}: it has just been started")));
            } else if lasts < state.patience() {
                let minutes = state.patience().as_secs() / 60;
                let watched =
                    if minutes > 0 { format!("it is watched for {minutes} min") } else { "it is watched".to_owned() };
                check.settling.push((DOCKER.to_owned(), format!("{how}: {watched}")));
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
                    subject: DOCKER.to_owned(),
                    short: state.short().to_owned(),
                    evidence: format!("{how}{why}{ends}"),
                });
                if let Some(what) = keeps_from_restarting(docker, machine) {
                    check.held.push((DOCKER.to_owned(), what.to_owned()));
                }
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
            let left = removable(desired, reclaim, docker, machine.clock);
            let images_next = left.containers.is_empty() && !left.images.is_empty();
            let held_by = match docker.answers {
                _ if clocks::differ(machine, seen.at) => Some(clocks::HELD),
                Answers::Yes if docker.building && images_next => Some(BUILD),
                Answers::Yes => None,
                Answers::Refuses | Answers::Hangs => make_room(docker).is_empty().then_some("Docker"),
            };
            if let Some(what) = held_by {
                let subjects = docker.holds.iter().map(|path| format!("disk {path}"));
                check.held.extend(subjects.chain([RECLAIM.to_owned()]).map(|subject| (subject, what.to_owned())));
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
            DriftKind::DockerNotAnswering if docker.has_less_than(NO_ROOM) => make_room(docker),
            DriftKind::DockerNotAnswering => {
                let Some(machine) = seen.machine.seen() else { return Vec::new() };
                let helps = state(machine, docker).is_some_and(|state| state.remedy());
                if helps && ended_by_restart(desired, seen, machine).is_none() {
                    vec![Rung { step: Step::RestartDocker, takes_effect: ANSWERS_WITHIN }]
                } else {
                    Vec::new()
                }
            }
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
    if clocks::differ(machine, seen.at) {
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
    if docker.unlisted_containers > 0 {
        parts.push(format!("{} containers could not be read, so no image is removed", docker.unlisted_containers));
    }
    Some(format!(
        "nothing of Docker's may go: {}; what else fills the disk may be logs of containers, volumes or the build cache, \
         which are never removed (docker system df), or not Docker's",
        parts.join("; ")
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
    let goes = |container: &&Container| container.stopped && container.left.is_none() && old(container.since);
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
mod tests {
    use super::super::{FACETS, effect};
    use super::*;
    use crate::seen::Known;
    use crate::seen::docker::Config;
    use crate::seen::machine::Process;
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
            left: None,
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

    const DOWN: &str =
        "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?";

    /// The same look, at the end of so many seconds in which it was so.
    fn lasting(mut seen: Observation, seconds: i64) -> Observation {
        let since = seen.at - jiff::SignedDuration::from_secs(seconds);
        seen.lasting = crate::seen::lasting::Lasting::default().carried(seen.marks(), since);
        seen
    }

    /// The look with dockerd among the processes, old enough to have come up.
    fn with_daemon(mut seen: Observation, command: &str) -> Observation {
        if let Known::Seen(machine) = &mut seen.machine {
            let process = Process { parent: 1, uid: 0, started_ticks: 1, command: command.to_owned() };
            (machine.ticks, _) = (100, machine.processes.insert(812, process));
        }
        seen
    }

    /// What is said of Docker itself, and the step against it.
    fn of_docker(desired: &Desired, seen: &Observation) -> (String, Option<Step>) {
        let check = Docker.check(desired, seen).unwrap();
        let settling = check.settling.iter().find(|(subject, _)| subject == DOCKER).map(|(_, why)| why.clone());
        match check.drifts.iter().find(|drift| drift.subject == DOCKER) {
            Some(drift) => {
                let held = check.held.iter().any(|(subject, _)| subject == DOCKER);
                let step = Docker.ladder(desired, seen, drift).into_iter().next().map(|rung| rung.step);
                (drift.evidence.clone(), step.filter(|_| !held))
            }
            None => (settling.unwrap_or_default(), None),
        }
    }

    fn silent(answers: Answers, said: &str) -> Observation {
        seen(Seen { answers, said: said.to_owned(), ..docker() }, 40)
    }

    #[test]
    fn a_daemon_that_runs_and_refuses_is_never_restarted_and_its_clients_words_are_said() {
        for (daemon, said, tells) in [
            ("/usr/bin/docker daemon -H tcp://0.0.0.0:2376", DOWN, "have it listen there"),
            (
                "/usr/bin/dockerd -H fd://",
                "dial unix /var/run/docker.sock: connect: no such file or directory",
                "-H unix://",
            ),
            (
                "/usr/bin/docker daemon",
                "Error response from daemon: client is newer than server (client API version: 1.23, server API version: 1.21)",
                "do not fit together",
            ),
            (
                "/usr/bin/dockerd",
                "Error response from daemon: client version 1.41 is too old. Minimum supported API version is 1.44, please upgrade",
                "do not fit together",
            ),
            ("/usr/bin/dockerd", "Error response from daemon: something of its own", "not known to help"),
        ] {
            for seconds in [0, 10, 600, 86_400] {
                let looked = lasting(with_daemon(silent(Answers::Refuses, said), daemon), seconds);
                let (words, step) = of_docker(&desired(), &looked);
                assert_eq!(step, None, "{said}");
                assert!(words.contains(said) && words.contains(tells), "{words}");
            }
        }
        // A mismatch says that somebody answered, whether or not its process was found.
        let mismatch = silent(Answers::Refuses, "Error: client is newer than server");
        assert_eq!(of_docker(&desired(), &lasting(mismatch, 600)).1, None);
    }

    #[test]
    fn a_daemon_that_does_not_run_is_started_after_a_moment() {
        let down = silent(Answers::Refuses, DOWN);
        assert_eq!(of_docker(&desired(), &lasting(down.clone(), 0)).1, None);
        assert_eq!(of_docker(&desired(), &lasting(down.clone(), 10)).1, Some(Step::RestartDocker));
        // One of a container's own is none.
        let mut inside = with_daemon(down.clone(), "dockerd");
        if let Known::Seen(machine) = &mut inside.machine {
            let shim =
                Process { parent: 1, uid: 0, started_ticks: 1, command: "containerd-shim-runc-v2 -id x".to_owned() };
            machine.processes.insert(700, shim);
            machine.processes.get_mut(&812).unwrap().parent = 700;
        }
        assert_eq!(of_docker(&desired(), &lasting(inside, 10)).1, Some(Step::RestartDocker));
        // While packages are installed it is none of ours.
        let mut busy = down;
        if let Known::Seen(machine) = &mut busy.machine {
            let dpkg =
                Process { parent: 1, uid: 0, started_ticks: 1, command: "/usr/bin/dpkg --unpack x.deb".to_owned() };
            machine.processes.insert(700, dpkg);
        }
        assert_eq!(of_docker(&desired(), &lasting(busy, 10)).1, None);
    }

    #[test]
    fn one_slow_answer_restarts_nothing_and_minutes_of_silence_do() {
        let hangs = with_daemon(silent(Answers::Hangs, ""), "/usr/bin/dockerd");
        for seconds in [0, 10, 60, 299] {
            let (words, step) = of_docker(&desired(), &lasting(hangs.clone(), seconds));
            assert_eq!((step, words.ends_with("it is watched for 5 min")), (None, true), "{words}");
        }
        assert_eq!(of_docker(&desired(), &lasting(hangs, 300)).1, Some(Step::RestartDocker));
    }

    #[test]
    fn a_build_and_a_service_that_run_in_docker_are_not_ended_by_a_restart() {
        let building = with_daemon(silent(Answers::Hangs, ""), "/usr/bin/dockerd");
        let mut by_folder = building.clone();
        if let Known::Seen(docker) = &mut by_folder.docker {
            docker.building = true;
        }
        let mut by_client = building.clone();
        if let Known::Seen(machine) = &mut by_client.machine {
            let client = Process { parent: 1, uid: 1000, started_ticks: 1, command: "docker build -t x .".to_owned() };
            machine.processes.insert(900, client);
        }
        for looked in [by_folder, by_client] {
            let looked = lasting(looked, 9999);
            let check = Docker.check(&desired(), &looked).unwrap();
            assert!(check.held.contains(&(DOCKER.to_owned(), BUILD.to_owned())), "{check:?}");
        }
        let mut services = desired();
        services.services = vec![binder_crds::desired::Service::Db];
        let mut with_db = building;
        let (words, step) = of_docker(&services, &lasting(with_db.clone(), 9999));
        assert_eq!(step, None, "pm2 was not seen, so that db may run: {words}");
        with_db.pm2 = Known::Seen(crate::seen::pm2::Table { daemon: true, rows: Vec::new() });
        assert_eq!(of_docker(&services, &lasting(with_db.clone(), 9999)).1, Some(Step::RestartDocker));
        if let Known::Seen(machine) = &mut with_db.machine {
            machine.listeners.insert(9050, vec![812]);
        }
        let (words, step) = of_docker(&services, &lasting(with_db, 9999));
        assert_eq!((step, words.contains("would end db")), (None, true), "{words}");
    }

    #[test]
    fn what_docker_could_not_remove_never_ran_or_keeps_a_volume_is_passed_over() {
        let mut world = docker();
        for left in [Left::Dead, Left::NeverStarted, Left::Volume, Left::Service] {
            world.containers = vec![Container { left: Some(left), ..container('1', 5 * HOUR, true, 'a') }];
            world.images = vec![image('a', 9 * HOUR, "used:1"), image('b', 9 * HOUR, "x:1")];
            // H 15: three images in no use were never reached.
            assert_eq!(images_of(step(&seen(world.clone(), 93), DriftKind::OverThreshold)), ['b'], "{left:?}");
            world.images.clear();
            let looked = seen(world.clone(), 93);
            assert_eq!(reclaim(&desired(), &looked, None), [], "{left:?}: the clean-up by the clock gets done");
            assert!(what_fills_it(&desired(), &looked).unwrap().contains("logs of containers"));
        }
    }

    #[test]
    fn the_image_of_a_stopped_service_stays() {
        use binder_crds::desired::Service;
        let mut world = docker();
        world.images = vec![
            image('a', 90 * HOUR, "mongo:latest"),
            image('b', 90 * HOUR, "elasticsearch:latest"),
            image('c', 90 * HOUR, "andrewosh/logstash-binder:latest"),
            image('d', 90 * HOUR, "x:1"),
        ];
        let looked = seen(world, 93);
        let all = |desired: &Desired| images_of(reclaim(desired, &looked, None).pop().map(|rung| rung.step));
        // The default keeps them on every host, and a list of the owner's own where the service is described.
        let mut plain = desired();
        plain.docker.as_mut().unwrap().reclaim = serde_json::from_str("{}").unwrap();
        assert_eq!(all(&plain), ['d']);
        assert_eq!(all(&desired()).len(), 4);
        for (running, stopped) in [(true, false), (false, true)] {
            let mut services = desired();
            if running {
                services.services = vec![Service::Db, Service::Logging];
            }
            if stopped {
                services.stopped = serde_json::from_str(r#"["db", "logging"]"#).unwrap();
            }
            assert_eq!(all(&services), ['d']);
        }
    }

    #[test]
    fn a_clock_that_jumped_makes_nothing_old() {
        let mut world = docker();
        world.containers = vec![container('1', 60, true, 'a')];
        let mut looked = seen(world, 93);
        if let Known::Seen(machine) = &mut looked.machine {
            machine.clock += 24 * HOUR;
        }
        let check = Docker.check(&desired(), &looked).unwrap();
        let held: Vec<&str> = check.held.iter().map(|(subject, _)| subject.as_str()).collect();
        assert_eq!(held, ["disk /", RECLAIM]);
        assert_eq!(check.held[0].1, clocks::HELD);
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
            drift.evidence.contains(
                "images in use: 2 (200 MB); kept by docker.reclaim.keep or for a described service: 2 (200 MB)"
            ),
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
        world.said = DOWN.to_owned();
        world.available = 0;
        world.configs = vec![
            Config { path: "/home/andrew/.dockercfg".to_owned(), size: 0 },
            Config { path: "/root/.docker/config.json".to_owned(), size: 57 },
        ];
        // Nothing that is surely nobody's: a person.
        let looked = lasting(seen(world.clone(), 100), 10);
        assert_eq!(step(&looked, DriftKind::OverThreshold), None);
        assert_eq!(step(&looked, DriftKind::DockerNotAnswering), None);
        world.apt_cache = 9 * MB;
        let looked = lasting(seen(world.clone(), 100), 10);
        assert_eq!(step(&looked, DriftKind::OverThreshold), Some(Step::EmptyPackageCache));
        assert_eq!(step(&looked, DriftKind::DockerNotAnswering), Some(Step::EmptyPackageCache));
        let paths = vec!["/home/andrew/.dockercfg".to_owned()];
        let delete = Step::DeleteEmptyDockerConfig { paths };
        assert_eq!(step(&looked, DriftKind::DockerConfigEmpty), Some(delete.clone()));
        assert!(matches!(effect(&delete, &looked, &[], Duration::ZERO), Ok(Effect::NotYet(_))));
        world.available = 9 * MB;
        world.configs.remove(0);
        let looked = lasting(seen(world, 98), 10);
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
