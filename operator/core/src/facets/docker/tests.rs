//! What goes, what stays, and when Docker is started anew.

use super::super::step::Remedy;
use super::super::{Effect, FACETS, Later};
use super::*;
use crate::seen::Fact;
use crate::seen::docker::Config;
use crate::seen::machine::Process;
use binder_crds::desired::{Disk, Docker as Described};
use binder_crds::text::{HostPath, ImagePattern, Percent, Schedule, Span, TimeZone};
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
        machine: Fact::Seen(machine),
        disks: Fact::Seen(disks),
        docker: Fact::Seen(docker),
        ..Observation::nothing(Timestamp::from_second(NOW).unwrap())
    }
}

const DOWN: &str = "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?";

/// The same look, at the end of so many seconds in which it was so.
fn lasting(mut seen: Observation, seconds: i64) -> Observation {
    let since = seen.at - jiff::SignedDuration::from_secs(seconds);
    seen.lasting = crate::seen::lasting::Lasting::default().carried(seen.marks(), since);
    seen
}

/// The look with dockerd among the processes, old enough to have come up.
fn with_daemon(mut seen: Observation, command: &str) -> Observation {
    if let Fact::Seen(machine) = &mut seen.machine {
        let process = Process { parent: 1, uid: 0, started_ticks: 1, command: command.to_owned() };
        (machine.ticks, _) = (100, machine.processes.insert(812, process));
    }
    seen
}

/// What is said of Docker itself, and the step against it.
/// The step of a rung, which is one of Docker's.
fn own(rung: Rung) -> Step {
    match rung.step {
        crate::facets::Step::Docker(step) => step,
        other => panic!("{other:?}"),
    }
}

/// Judges a step by what a look shows, so long after it was sent.
fn effect(step: &Step, seen: &Observation, age: Duration) -> Result<Effect, Unknown> {
    step.effect(&Later { seen, checks: &[], age })
}

fn of_docker(desired: &Desired, seen: &Observation) -> (String, Option<Step>) {
    let check = Docker.check(desired, seen).unwrap();
    let progressing =
        check.progressing.iter().find(|(subject, _)| *subject == Subject::Docker).map(|(_, why)| why.clone());
    match check.drifts.iter().find(|drift| drift.subject == Subject::Docker) {
        Some(drift) => {
            let held = check.held.iter().any(|(subject, _)| *subject == Subject::Docker);
            let step = Docker.ladder(desired, seen, drift).into_iter().next().map(own);
            (drift.evidence.clone(), step.filter(|_| !held))
        }
        None => (progressing.unwrap_or_default(), None),
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
    if let Fact::Seen(machine) = &mut inside.machine {
        let shim = Process { parent: 1, uid: 0, started_ticks: 1, command: "containerd-shim-runc-v2 -id x".to_owned() };
        machine.processes.insert(700, shim);
        machine.processes.get_mut(&812).unwrap().parent = 700;
    }
    assert_eq!(of_docker(&desired(), &lasting(inside, 10)).1, Some(Step::RestartDocker));
    // While packages are installed it is none of ours.
    let mut busy = down;
    if let Fact::Seen(machine) = &mut busy.machine {
        let dpkg = Process { parent: 1, uid: 0, started_ticks: 1, command: "/usr/bin/dpkg --unpack x.deb".to_owned() };
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
    if let Fact::Seen(docker) = &mut by_folder.docker {
        docker.building = true;
    }
    let mut by_client = building.clone();
    if let Fact::Seen(machine) = &mut by_client.machine {
        let client = Process { parent: 1, uid: 1000, started_ticks: 1, command: "docker build -t x .".to_owned() };
        machine.processes.insert(900, client);
    }
    for looked in [by_folder, by_client] {
        let looked = lasting(looked, 9999);
        let check = Docker.check(&desired(), &looked).unwrap();
        assert!(check.held.contains(&(Subject::Docker, BUILD.to_owned())), "{check:?}");
    }
    let mut services = desired();
    services.services = vec![binder_crds::desired::Service::Db];
    let mut with_db = building;
    let (words, step) = of_docker(&services, &lasting(with_db.clone(), 9999));
    assert_eq!(step, None, "pm2 was not seen, so that db may run: {words}");
    with_db.pm2 = Fact::Seen(crate::seen::pm2::Table { daemon: true, rows: Vec::new(), ..Default::default() });
    assert_eq!(of_docker(&services, &lasting(with_db.clone(), 9999)).1, Some(Step::RestartDocker));
    if let Fact::Seen(machine) = &mut with_db.machine {
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
    let all = |desired: &Desired| images_of(reclaim(desired, &looked, None).pop().map(own));
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

/// The first step against the only drift of a kind.
fn step(seen: &Observation, kind: DriftKind) -> Option<Step> {
    let (facet, drift) = FACETS
        .iter()
        .filter(|facet| facet.in_use(&desired()))
        .flat_map(|facet| facet.check(&desired(), seen).unwrap().drifts.into_iter().map(move |drift| (facet, drift)))
        .find(|(_, drift)| drift.kind == kind)
        .unwrap();
    facet.ladder(&desired(), seen, &drift).into_iter().next().map(own)
}

fn images_of(step: Option<Step>) -> Vec<char> {
    match step {
        Some(Step::RemoveImages { images }) => images.iter().map(|image| image.id.chars().last().unwrap()).collect(),
        None => Vec::new(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn containers_go_first_and_then_the_oldest_images_until_there_is_room() {
    let mut world = docker();
    world.containers = vec![container('1', 5 * HOUR, true, 'a')];
    world.images = vec![image('a', 2 * HOUR, "x:1"), image('b', 9 * HOUR, "y:1"), image('c', 5 * HOUR, "")];
    let Some(Step::RemoveContainers { containers }) = step(&seen(world.clone(), 93), DriftKind::OverThreshold) else {
        panic!("containers first")
    };
    assert_eq!(containers, [StoppedContainer { id: id('1'), finished: "finished-1".to_owned() }]);
    world.containers.clear();
    // 130 MB are over the target of 80 %: two images of 100 MB, the oldest ones.
    assert_eq!(images_of(step(&seen(world.clone(), 93), DriftKind::OverThreshold)), ['b', 'c']);
    // The clean-up by the clock takes all that may go.
    assert_eq!(images_of(reclaim(&desired(), &seen(world, 40), None).pop().map(own)), ['b', 'c', 'a']);
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
        drift
            .evidence
            .contains("images in use: 2 (200 MB); kept by docker.reclaim.keep or for a described service: 2 (200 MB)"),
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
    if let Fact::Seen(docker) = &mut elsewhere.docker {
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
    let held: Vec<String> = check.held.iter().map(|(subject, _)| subject.to_string()).collect();
    assert_eq!(held, ["disk /", "docker-reclaim"]);
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
    assert!(matches!(effect(&delete, &looked, Duration::ZERO), Ok(Effect::NotYet(_))));
    world.available = 9 * MB;
    world.configs.remove(0);
    let looked = lasting(seen(world, 98), 10);
    assert_eq!(step(&looked, DriftKind::OverThreshold), None);
    assert_eq!(step(&looked, DriftKind::DockerNotAnswering), Some(Step::RestartDocker));
    assert!(matches!(effect(&delete, &looked, Duration::ZERO), Ok(Effect::Seen(_))));
    assert!(matches!(effect(&Step::EmptyPackageCache, &looked, Duration::ZERO), Ok(Effect::Seen(_))));
    assert!(matches!(effect(&Step::RestartDocker, &looked, Duration::ZERO), Ok(Effect::NotYet(_))));
    assert!(matches!(effect(&Step::RestartDocker, &seen(docker(), 40), Duration::ZERO), Ok(Effect::Seen(_))));
}

#[test]
fn a_removal_is_judged_by_what_docker_holds_after() {
    let mut world = docker();
    world.images = vec![image('a', 9 * HOUR, "x:1"), image('b', 9 * HOUR, "y:1")];
    let both = own(reclaim(&desired(), &seen(world.clone(), 93), None).remove(0));
    let judge = |world: &Seen, seconds| effect(&both, &seen(world.clone(), 93), Duration::from_secs(seconds)).unwrap();
    assert!(matches!(judge(&world, 300), Effect::NotYet(_)));
    world.images.pop();
    assert!(matches!(judge(&world, 5), Effect::NotYet(_)), "the command may still run");
    assert_eq!(judge(&world, 61), Effect::Seen("1 of 2 are gone".to_owned()));
    world.images.clear();
    assert!(matches!(judge(&world, 1), Effect::Seen(_)));
    world.answers = Answers::Hangs;
    assert!(effect(&both, &seen(world, 93), Duration::ZERO).is_err());
}

#[test]
fn a_schedule_that_never_comes_is_said() {
    let mut wrong = desired();
    wrong.docker.as_mut().unwrap().reclaim.as_mut().unwrap().time_zone = Some(TimeZone::from("Europe/Atlantis"));
    let check = Docker.check(&wrong, &seen(docker(), 40)).unwrap();
    assert_eq!(check.drifts[0].kind, DriftKind::ScheduleInvalid);
    assert_eq!(Docker.scheduled(&desired()).len(), 1);
}
