//! Docker's disk and its clean-up: from what is wrong, or due, to what is not.

use super::world::{Operator, World};
use crate::facets::docker::Step;
use crate::seen::docker::{Answers, Config, Container, Docker, Image};
use binder_crds::desired::{Disk, Docker as Described, Reclaim};
use binder_crds::text::{HostPath, ImagePattern, Percent, Schedule, Span};
use binder_crds::{Desired, Mode, conditions};
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeSet;

const MB: u64 = 1_000_000;

fn id(number: usize) -> String {
    format!("{number:064x}")
}

/// A build host whose disk of 1000 MB holds `images` old images of 20 MB each that nothing uses, one that a running container
/// uses, and `others` MB of other things.
fn host(images: usize, others: u64) -> (Operator, World) {
    let mut operator = Operator::new(Mode::Enforce);
    let reclaim = Reclaim {
        schedule: Some(Schedule::from("0 5 * * *")),
        time_zone: None,
        unused_for: Span::from("1h"),
        keep: vec![ImagePattern::from("andrewosh/binder-*")],
    };
    operator.spec.desired = Desired {
        disks: vec![Disk { path: HostPath::from("/"), max_used: Percent::from("85%") }],
        docker: Some(Described { reclaim: Some(reclaim) }),
        ..Desired::default()
    };
    let mut world = World::bare();
    let image = |number: usize, name: &str| Image {
        id: format!("sha256:{}", id(number)),
        parent: None,
        since: world.now - SignedDuration::from_hours(9),
        tagged: String::new(),
        size: 20 * MB,
        tags: vec![name.to_owned()],
    };
    let mut all: Vec<Image> = (1..=images).map(|number| image(number, "litter:1")).collect();
    all.push(image(1000, "in-use:1"));
    let used = (others * MB + all.len() as u64 * 20 * MB).min(1000 * MB);
    let running = Container {
        id: id(7),
        stopped: false,
        left: None,
        image: format!("sha256:{}", id(1000)),
        since: world.now - SignedDuration::from_hours(8),
        finished: String::new(),
    };
    world.docker = Some(Docker {
        answers: Answers::Yes,
        said: String::new(),
        root: Some("/var/lib/docker".to_owned()),
        used,
        available: 1000 * MB - used,
        holds: BTreeSet::from(["/".to_owned()]),
        building: false,
        containers: vec![running],
        unlisted_containers: 0,
        images: all,
        unlisted_images: 0,
        configs: Vec::new(),
        apt_cache: 0,
    });
    (operator, world)
}

/// What a step does to this Docker.
pub(super) fn apply(world: &mut World, step: &Step) {
    let Some(docker) = &mut world.docker else { return };
    let before: u64 = docker.images.iter().map(|image| image.size).sum();
    match step {
        Step::RemoveContainers { containers } => {
            docker.containers.retain(|there| !containers.iter().any(|one| one.id == there.id));
        }
        Step::RemoveImages { images } => {
            docker.images.retain(|there| !images.iter().any(|one| one.id == there.id));
        }
        Step::EmptyPackageCache => {
            docker.used -= docker.apt_cache;
            docker.available += docker.apt_cache;
            docker.apt_cache = 0;
        }
        Step::DeleteEmptyDockerConfig { paths } => {
            docker.configs.retain(|there| there.size > 0 || !paths.contains(&there.path));
        }
        Step::RestartDocker if docker.available > 0 => docker.answers = Answers::Yes,
        Step::RestartDocker => {}
    }
    let freed = before - docker.images.iter().map(|image| image.size).sum::<u64>();
    docker.used -= freed;
    docker.available += freed;
}

fn left(world: &World) -> usize {
    world.docker.as_ref().unwrap().images.len()
}

#[test]
fn a_disk_is_brought_below_its_threshold_and_no_further() {
    // 920 MB: 120 MB and a little are over 80 %.
    let (mut operator, mut world) = host(15, 600);
    operator.pass(&mut world);
    assert_eq!(operator.condition(conditions::DISK_BELOW_THRESHOLD), ("False", "OverThreshold"));
    operator.run(&mut world, 20);
    assert!(operator.healthy(), "{:#?}", operator.status);
    assert_eq!((operator.ran.as_slice(), left(&world)), (&["RemoveImages".to_owned()][..], 10));
    let (ran, writes) = (operator.ran.len(), operator.writes);
    operator.run(&mut world, 50);
    assert_eq!((operator.ran.len(), operator.writes), (ran, writes));
}

#[test]
fn more_than_one_step_can_hold_is_no_failure() {
    // Images of 2 MB: each step takes ten of them, and many more are needed than attempts are allowed.
    let (mut operator, mut world) = host(70, 0);
    let docker = world.docker.as_mut().unwrap();
    docker.images.iter_mut().for_each(|image| image.size = 2 * MB);
    (docker.used, docker.available) = (950 * MB, 50 * MB);
    operator.run(&mut world, 60);
    assert!(operator.healthy(), "{:#?}", operator.status);
    assert_eq!(operator.ran, ["RemoveImages"; 5], "below the threshold it ends");
}

#[test]
fn a_disk_that_something_else_fills_ends_with_a_person_who_is_told_what() {
    let (mut operator, mut world) = host(2, 900);
    operator.run(&mut world, 40);
    assert_eq!(operator.ran, ["RemoveImages"]);
    assert_eq!(operator.condition(conditions::STALLED), ("True", "NeedsPerson"));
    let said = operator.status.conditions.iter().find(|condition| condition.type_ == conditions::STALLED).unwrap();
    assert!(said.message.contains("images in use: 1 (20 MB)"), "{}", said.message);
}

#[test]
fn nothing_is_removed_for_its_age_while_the_clock_is_off() {
    let (mut operator, mut world) = host(15, 600);
    world.clock_off = 3 * 3600;
    operator.run(&mut world, 20);
    assert!(operator.ran.is_empty(), "{:?}", operator.ran);
    assert_eq!(operator.status.waits_for, "the clock of the machine to be set right");
    assert_eq!(operator.condition(conditions::CLOCK_IN_SYNC), ("False", "ClockOff"));
    world.clock_off = 0;
    operator.run(&mut world, 20);
    assert!(operator.healthy() && operator.ran == ["RemoveImages"], "{:?}", operator.ran);
}

#[test]
fn the_images_wait_for_a_build_and_say_so() {
    let (mut operator, mut world) = host(15, 600);
    world.docker.as_mut().unwrap().building = true;
    operator.run(&mut world, 20);
    assert!(operator.ran.is_empty());
    assert_eq!(operator.status.waits_for, "the build that is under way");
    assert_eq!(operator.condition(conditions::STALLED), ("", ""));
    world.docker.as_mut().unwrap().building = false;
    operator.run(&mut world, 20);
    assert!(operator.healthy());
}

#[test]
fn a_docker_that_is_stuck_on_a_full_disk_is_brought_out_in_the_runbooks_order() {
    let (mut operator, mut world) = host(15, 680);
    let docker = world.docker.as_mut().unwrap();
    docker.answers = Answers::Refuses;
    docker.said = "Cannot connect to the Docker daemon at unix:///var/run/docker.sock.".to_owned();
    docker.apt_cache = 3 * MB;
    docker.configs = vec![
        Config { path: "/home/andrew/.dockercfg".to_owned(), size: 0 },
        Config { path: "/root/.docker/config.json".to_owned(), size: 9 },
    ];
    assert_eq!(docker.available, 0);
    operator.run(&mut world, 60);
    assert!(operator.healthy(), "{:#?}", operator.status);
    let expected = ["EmptyPackageCache", "DeleteEmptyDockerConfig", "RestartDocker", "RemoveImages"];
    assert_eq!(operator.ran, expected);
    assert_eq!(world.docker.as_ref().unwrap().configs.len(), 1);
}

#[test]
fn a_clean_up_that_is_due_is_done_on_a_healthy_host_and_missed_ones_once() {
    let (mut operator, mut world) = host(25, 100);
    operator.pass(&mut world);
    assert!(operator.healthy());
    let at = |text: &str| text.parse::<Timestamp>().unwrap();
    assert_eq!(operator.status.schedules[0].next_run.0, at("2026-11-22T05:00:00Z"));
    let writes = operator.writes;
    operator.run(&mut world, 20);
    assert_eq!((operator.writes, operator.ran.len()), (writes, 0), "nothing in between");
    // The operator is away for three days.
    world.pass(3 * 86_400);
    operator.pass(&mut world);
    assert!(operator.healthy(), "{:#?}", operator.status);
    assert_eq!(operator.condition(conditions::DOCKER_READY), ("True", "ReclaimDue"));
    assert_eq!(operator.status.next, "remove 10 images in no use (1/3)");
    operator.run(&mut world, 30);
    assert_eq!(operator.ran, ["RemoveImages"; 3], "ten, ten and five");
    assert_eq!(left(&world), 1, "the one in use");
    assert_eq!(operator.status.incident_since, None);
    let schedule = &operator.status.schedules[0];
    assert_eq!((schedule.last_outcome.as_str(), schedule.next_run.0), ("Done", at("2026-11-25T05:00:00Z")));
    assert_eq!(operator.condition(conditions::DOCKER_READY), ("True", "AsDescribed"));
}

#[test]
fn a_clean_up_in_observe_stays_due() {
    let (mut operator, mut world) = host(5, 100);
    operator.mode = Mode::Observe;
    operator.pass(&mut world);
    world.pass(3 * 3600);
    operator.run(&mut world, 10);
    assert!(operator.ran.is_empty() && operator.healthy());
    assert_eq!(operator.status.waits_for, "mode Enforce");
    operator.mode = Mode::Enforce;
    operator.run(&mut world, 10);
    assert_eq!(operator.ran, ["RemoveImages"]);
}
