//! Docker's disk and its clean-up: from what is wrong, or due, to what is not.

use crate::operator::Operator;
use binder_core::facets::{Step, docker};
use binder_core::seen::docker::{Answers, Config, Container, Docker, Image};
use binder_crds::desired::{Disk, Docker as Described, Reclaim};
use binder_crds::text::{HostPath, ImagePattern, Percent, Schedule, Span};
use binder_crds::{Desired, Mode, conditions};
use binder_world::World;
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
        refused: BTreeSet::new(),
        configs: Vec::new(),
        apt_cache: 0,
    });
    (operator, world)
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

/// Passes over a world whose Docker refuses to remove some of its images and containers.
fn run_refused(operator: &mut Operator, world: &mut World, passes: usize, refuses: &dyn Fn(&str) -> bool) {
    for _ in 0..passes {
        let (before, mut said) = (operator.memory.actions.len(), String::new());
        let wait = operator.pass_with(world, |world, step| {
            let mut rest = step.clone();
            let mut refused: Vec<String> = Vec::new();
            let mut keep = |id: &str| {
                let kept = refuses(id);
                refused.extend(kept.then(|| id.trim_start_matches("sha256:")[..12].to_owned()));
                !kept
            };
            match &mut rest {
                Step::Docker(docker::Step::RemoveImages { images }) => images.retain(|one| keep(&one.id)),
                Step::Docker(docker::Step::RemoveContainers { containers }) => containers.retain(|one| keep(&one.id)),
                _ => {}
            }
            world.apply(&rest);
            if !refused.is_empty() {
                said = format!("exit code 1: Error response from daemon: conflict refused {}", refused.join(" "));
            }
        });
        if operator.memory.actions.len() > before {
            operator.memory.actions.last_mut().unwrap().said = said;
        }
        world.pass(wait.as_secs().max(1));
    }
}

/// An image or container of this number, written large enough to be told by its first digits.
fn early(number: usize) -> String {
    format!("{number:012x}{:052x}", 0)
}

#[test]
fn images_that_docker_refuses_to_remove_are_passed_over_and_use_up_no_attempts() {
    // 920 MB; the 35 oldest cannot be removed, and six of the others are enough.
    let (mut operator, mut world) = host(45, 0);
    let now = world.now;
    for (index, image) in world.docker.as_mut().unwrap().images.iter_mut().enumerate() {
        image.id = format!("sha256:{}", early(index));
        image.since = now - SignedDuration::from_hours(99 - i64::try_from(index).unwrap());
    }
    let docker = world.docker.as_mut().unwrap();
    docker.containers[0].image = docker.images[45].id.clone();
    let refuses = |id: &str| usize::from_str_radix(&id.trim_start_matches("sha256:")[..12], 16).unwrap() < 35;
    run_refused(&mut operator, &mut world, 1, &refuses);
    for _ in 0..600 {
        if operator.healthy() {
            break;
        }
        run_refused(&mut operator, &mut world, 1, &refuses);
    }
    assert!(operator.healthy(), "{:#?}", operator.status);
    // Six images a step: six steps meet the 35 and one other, the seventh is the rest.
    assert_eq!(operator.ran.len(), 7, "{:?}", operator.ran);
    let message = &operator.status.conditions.iter().find(|one| one.type_ == conditions::DOCKER_READY).unwrap().message;
    assert!(message.contains("passed over since Docker refuses"), "{message}");
    // And the clean-up that is due is done, with the rest.
    world.pass(86_400);
    let writes = operator.writes;
    run_refused(&mut operator, &mut world, 300, &refuses);
    assert_eq!(operator.status.schedules[0].last_outcome, "Done");
    assert_eq!(left(&world), 36, "what Docker refuses, and what is in use");
    assert!(operator.writes > writes && operator.healthy());
}

#[test]
fn a_container_that_docker_cannot_remove_keeps_no_image_on_the_disk() {
    // moby#27381: `Driver devicemapper failed to remove root filesystem: Device is Busy`.
    let (mut operator, mut world) = host(15, 600);
    let since = world.now - SignedDuration::from_hours(9);
    let docker = world.docker.as_mut().unwrap();
    let of = docker.images[15].id.clone();
    let stuck = Container { id: early(1), stopped: true, left: None, image: of, since, finished: "f".to_owned() };
    docker.containers.push(stuck);
    run_refused(&mut operator, &mut world, 100, &|id| id.starts_with("000000000001"));
    assert!(operator.healthy(), "{:#?}", operator.status);
    assert_eq!(operator.ran, ["RemoveContainers", "RemoveImages"]);
}

#[test]
fn what_was_not_refused_counts_as_an_attempt() {
    // The command does not run at all: sudo refuses, say. Nothing is known of what Docker would do.
    let (mut operator, mut world) = host(15, 600);
    for _ in 0..200 {
        let wait = operator.pass_with(&mut world, |_, _| ());
        world.pass(wait.as_secs().max(1));
    }
    assert_eq!(operator.ran, ["RemoveImages"; 3]);
    assert_eq!(operator.condition(conditions::STALLED), ("True", "AttemptsUsedUp"));
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
