//! Hung builds and the backups that an edit waits for, against a database in memory.

use crate::operator::Operator;
use binder_core::plan::memory::BuildServer;
use binder_core::seen::backups::Backups;
use binder_core::seen::database::{Build, Database, Name};
use binder_crds::desired::{self, HungBuilds};
use binder_crds::{Desired, Mode, conditions};
use binder_world::World;
use jiff::SignedDuration;

fn build(world: &World, name: &str, hours: i64) -> Build {
    Build {
        name: Name::of(name),
        started: Some(world.now - SignedDuration::from_hours(hours)),
        repository: Some(format!("https://github.com/{}", name.replacen('-', "/", 1))),
        marked: false,
    }
}

fn begin(backups: bool) -> (Operator, World) {
    let (mut operator, mut world) = (Operator::new(Mode::Enforce), World::bare());
    let described = desired::Backups { schedule: "0 2 * * *".into(), fresh_for: "1h".into(), ..Default::default() };
    operator.spec.desired = Desired {
        database: Some(desired::Database {
            port: 9050,
            name: "binder".into(),
            backups: backups.then_some(described),
            hung_builds: Some(HungBuilds { after: "3h".into(), rebuild: true }),
            names: None,
        }),
        ..Desired::default()
    };
    operator.fleet.build_server = Some(BuildServer {
        host: "tester".into(),
        uid: "uid-2".into(),
        port: Some(8082),
        closed: None,
        clock_off: false,
    });
    world.database = Some(Database::default());
    world.backups = backups.then(Backups::default);
    operator.run(&mut world, 5);
    assert!(operator.healthy(), "{:#?}", operator.status);
    (operator, world)
}

#[test]
fn a_hung_build_is_set_to_failed_and_built_again_and_a_young_one_stays() {
    let (mut operator, mut world) = begin(false);
    let young = build(&world, "a-young", 2);
    let hung = build(&world, "a-hung", 5);
    world.database.as_mut().unwrap().running = vec![hung, young.clone()];
    operator.run(&mut world, 10);
    assert_eq!(operator.ran, ["FailBuild", "RebuildBuild"]);
    assert_eq!(operator.condition(conditions::BUILDS_ADVANCING), ("False", "Progressing"));
    let database = world.database.as_mut().unwrap();
    assert!(database.running.contains(&young));
    // It ends by itself.
    database.running.retain(|build| !build.marked);
    operator.run(&mut world, 3);
    assert!(operator.healthy());
}

#[test]
fn a_build_of_a_server_whose_clock_is_off_is_not_set_to_failed() {
    let (mut operator, mut world) = begin(false);
    operator.fleet.build_server.as_mut().unwrap().clock_off = true;
    world.database.as_mut().unwrap().running = vec![build(&world, "binder-example", 5)];
    operator.run(&mut world, 20);
    assert!(operator.ran.is_empty(), "{:?}", operator.ran);
    assert_eq!(operator.status.waits_for, "the clock of tester, which is off");
    operator.fleet.build_server.as_mut().unwrap().clock_off = false;
    operator.run(&mut world, 10);
    assert_eq!(operator.ran[0], "FailBuild");
}

#[test]
fn a_build_that_hangs_each_time_ends_with_a_person() {
    let (mut operator, mut world) = begin(false);
    world.database.as_mut().unwrap().running = vec![build(&world, "a-hung", 5)];
    for _ in 0..8 {
        operator.run(&mut world, 10);
        world.pass(4 * 3600);
    }
    operator.run(&mut world, 3);
    assert_eq!(operator.ran.iter().filter(|kind| *kind == "FailBuild").count(), 3);
    assert_eq!(operator.condition(conditions::STALLED), ("True", "AttemptsUsedUp"));
}

#[test]
fn an_edit_waits_for_a_fresh_backup() {
    let (mut operator, mut world) = begin(true);
    world.database.as_mut().unwrap().running = vec![build(&world, "a-hung", 5)];
    operator.run(&mut world, 12);
    assert_eq!(operator.ran, ["BackUp", "FailBuild", "RebuildBuild"]);
    let writes = operator.writes;
    world.database.as_mut().unwrap().running.clear();
    operator.run(&mut world, 3);
    assert!(operator.healthy() && operator.writes > writes);
}

#[test]
fn a_failed_backup_blocks_the_edit() {
    let (mut operator, mut world) = begin(true);
    world.backups_fail = true;
    world.database.as_mut().unwrap().running = vec![build(&world, "a-hung", 5)];
    // A backup has half an hour; that it failed sooner is told by whoever makes it.
    for _ in 0..4 {
        operator.run(&mut world, 10);
        world.pass(32 * 60);
    }
    operator.run(&mut world, 5);
    assert_eq!(operator.ran, ["BackUp", "BackUp", "BackUp"]);
    assert_eq!(operator.condition(conditions::BUILDS_ADVANCING), ("False", "HungBuild"));
    let message = operator.status.conditions.iter().find(|it| it.type_ == conditions::BUILDS_ADVANCING).unwrap();
    assert!(message.message.contains("waits for a fresh backup"), "{}", message.message);
    assert_eq!(operator.condition(conditions::STALLED), ("True", "AttemptsUsedUp"));
    assert_eq!(world.database.unwrap().running.len(), 1);
}

#[test]
fn without_a_build_server_that_may_be_asked_nothing_is_built() {
    let (mut operator, mut world) = begin(false);
    let closed = Some("its mode is not Enforce".to_owned());
    operator.fleet.build_server =
        Some(BuildServer { host: "tester".into(), uid: "uid-2".into(), port: Some(8082), closed, clock_off: false });
    world.database.as_mut().unwrap().running = vec![build(&world, "a-hung", 5)];
    operator.run(&mut world, 20);
    assert_eq!(operator.ran, ["FailBuild"]);
    assert_eq!(operator.status.waits_for, "tester: its mode is not Enforce");
}

#[test]
fn a_build_server_whose_port_nobody_has_read_is_not_asked() {
    let (mut operator, mut world) = begin(false);
    operator.fleet.build_server.as_mut().unwrap().port = None;
    world.database.as_mut().unwrap().running = vec![build(&world, "a-hung", 5)];
    operator.run(&mut world, 20);
    assert_eq!(operator.ran, ["FailBuild"]);
    assert!(operator.status.waits_for.contains("to be read"), "{}", operator.status.waits_for);
}
