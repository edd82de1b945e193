//! What a step waits for until enough speaks for it.

use crate::operator::Operator;
use crate::outage::sees_it_dead;
use crate::well;
use binder_core::catalogue;
use binder_core::plan::evidence::Demanded;
use binder_core::plan::{Looked, Next, WATCH};
use binder_core::seen::pm2::State;
use binder_crds::{ActionOutcome, Mode, conditions};
use binder_world::{World, web};

/// A server that pm2 says is stopped: its entry is to be deleted.
fn stopped(world: &mut World) {
    let pid = world.rows.iter().find(|row| row.name == "binder-web-start").and_then(|row| row.pid).unwrap();
    world.end(pid);
    for row in world.rows.iter_mut().filter(|row| row.name == "binder-web-start") {
        (row.state, row.pid) = (State::Stopped, None);
    }
}

#[test]
fn what_ends_something_waits_for_a_second_look_which_comes_soon() {
    let (mut operator, mut world) = well();
    stopped(&mut world);
    let pause = operator.pass(&mut world);
    assert!(operator.ran.is_empty());
    assert_eq!(operator.status.waits_for, "a second look that shows the same");
    assert_eq!(pause, WATCH);
    world.pass(2);
    operator.pass(&mut world);
    assert_eq!(operator.ran, ["DeleteEntries"]);
}

#[test]
fn what_is_gone_at_the_second_look_is_left_alone() {
    let (mut operator, mut world) = well();
    let healthy = world.clone();
    stopped(&mut world);
    operator.pass(&mut world);
    let mut world = World { now: world.now, uptime: world.uptime, ..healthy };
    operator.run(&mut world, 5);
    assert!(operator.ran.is_empty() && operator.healthy());
    // And begins anew when it comes back.
    stopped(&mut world);
    operator.pass(&mut world);
    assert!(operator.ran.is_empty());
}

#[test]
fn a_new_process_looks_twice_itself() {
    let (mut operator, mut world) = well();
    stopped(&mut world);
    operator.pass(&mut world);
    operator.demanded = Demanded::default();
    world.pass(2);
    operator.pass(&mut world);
    assert!(operator.ran.is_empty());
    world.pass(2);
    operator.pass(&mut world);
    assert_eq!(operator.ran, ["DeleteEntries"]);
}

#[test]
fn what_comes_later_in_the_order_does_not_overtake_what_waits_for_its_second_look() {
    let (mut operator, mut world) = well();
    stopped(&mut world);
    world.redirects = 0;
    operator.pass(&mut world);
    assert!(operator.ran.is_empty());
    assert_eq!(operator.status.plan[1].waits_for, "delete web from pm2");
    operator.run(&mut world, 40);
    assert_eq!(operator.ran, ["DeleteEntries", "StartProcess", "InsertRedirect"]);
}

#[test]
fn a_server_that_unwarranted_does_not_restart_its_machine() {
    let (mut operator, mut world) = (Operator::new(Mode::Enforce), World::bare());
    world.broken = vec!["binder-web-start".to_owned()];
    operator.run(&mut world, 400);
    assert_eq!(operator.ran.iter().filter(|step| *step == "Reboot").count(), 0, "{:?}", operator.ran);
    assert_eq!(operator.condition(conditions::STALLED), ("True", "RestartHeld"));
    let said = &operator.status.waits_for;
    assert!(said.contains("web has not been seen to run as it is described now"), "{said}");
}

#[test]
fn a_start_whose_program_is_missing_does_not_restart_the_machine() {
    for code in [126, 127] {
        let (mut operator, mut world) = well();
        world.delete("binder-web-start");
        world.broken = vec!["binder-web-start".to_owned()];
        for _ in 0..400 {
            let wait = operator.pass(&mut world);
            for past in operator.memory.actions.iter_mut().filter(|past| past.kind == "StartProcess") {
                past.said = format!("exit code {code}: sh: 1: binder-control: not found");
            }
            world.pass(wait.as_secs().max(1));
        }
        assert_eq!(operator.ran, ["StartProcess"; 3]);
        assert_eq!(operator.condition(conditions::STALLED), ("True", "RestartHeld"));
        assert!(operator.status.waits_for.contains(&format!("exit code {code}")), "{}", operator.status.waits_for);
    }
}

#[test]
fn a_server_that_still_serves_is_no_reason_to_restart_its_machine() {
    let (mut operator, mut world) = well();
    world.rows.retain(|row| row.name != "binder-kubernetes-daemon");
    world.deaf = true;
    operator.run(&mut world, 400);
    assert_eq!(operator.ran, ["DeleteEntries"; 3]);
    assert_eq!(operator.condition(conditions::STALLED), ("True", "RestartHeld"));
    assert!(operator.status.waits_for.contains("still listens on 8084"), "{}", operator.status.waits_for);
}

#[test]
fn a_machine_that_has_just_booted_is_not_rebooted() {
    let (mut operator, mut world) = well();
    operator.fleet.patience.unreachable_timeout = std::time::Duration::from_secs(3600);
    world.delete("binder-web-start");
    world.broken = vec!["binder-web-start".to_owned()];
    world.uptime = 10;
    for process in world.processes.values_mut() {
        process.started_ticks = 1;
    }
    operator.run(&mut world, 60);
    assert_eq!(operator.ran.iter().filter(|step| *step == "Reboot").count(), 0);
}

#[test]
fn a_reason_that_changes_begins_its_time_anew() {
    let (mut operator, mut world) = well();
    operator.fleet.outage = sees_it_dead();
    // An hour in which our login was refused: the machine was alive.
    world.refuses = true;
    operator.run(&mut world, 120);
    world.refuses = false;
    world.silent = true;
    for _ in 0..5 {
        operator.pass(&mut world);
        world.pass(10);
    }
    assert!(operator.ran.is_empty(), "{:?}", operator.ran);
    assert!(operator.status.waits_for.starts_with("recovery without a step"), "{}", operator.status.waits_for);
    operator.run(&mut world, 10);
    assert_eq!(operator.ran[0], "PowerCycle");
}

#[test]
fn the_time_survives_a_restart_of_the_operator() {
    let (mut operator, mut world) = well();
    operator.fleet.outage = sees_it_dead();
    world.silent = true;
    operator.pass(&mut world);
    let began = operator.status.drift_since[0].clone();
    assert_eq!((began.subject.as_str(), began.reason.as_str()), ("machine", "Silent"));
    world.pass(61);
    operator.demanded = Demanded::default();
    operator.run(&mut world, 2);
    assert_eq!(operator.ran, ["PowerCycle"]);
}

#[test]
fn a_machine_is_restarted_once_a_day_over_all_incidents() {
    let (mut operator, mut world) = well();
    operator.fleet.patience.per_day = 1;
    operator.fleet.outage = sees_it_dead();
    world.silent = true;
    operator.run(&mut world, 80);
    assert_eq!(operator.ran[0], "PowerCycle");
    assert!(operator.healthy());
    // A long healthy time: the next outage is another incident.
    world.pass(3600);
    operator.run(&mut world, 2);
    operator.ran.clear();
    world.silent = true;
    operator.run(&mut world, 60);
    assert!(operator.ran.is_empty());
    assert_eq!(operator.condition(conditions::STALLED), ("True", "RestartHeld"));
    assert!(operator.status.waits_for.contains("remedies.perDay"), "{}", operator.status.waits_for);
    // The day passes.
    world.pass(86_400);
    operator.run(&mut world, 3);
    assert_eq!(operator.ran[0], "PowerCycle");
}

#[test]
fn of_two_operators_that_decide_on_different_steps_only_one_can_record_its_own() {
    let (operator, mut world) = well();
    world.delete("binder-web-start");
    let name = |operator: &Operator, world: &World| {
        let decision = operator.decide(&Looked::Seen(Box::new(world.observe())), world.now);
        let Next::Run(run) = decision.next else { panic!("{:?}", decision.next) };
        (run.step.kind(), run.permit.action().to_owned())
    };
    let (one, first) = name(&operator, &world);
    // The other one looked a moment later, and has the same memory.
    let mut later = world.clone();
    let component = catalogue::described(&web()).into_iter().find(|component| component.name == "web").unwrap();
    later.start(&component);
    later.redirects = 0;
    let (other, second) = name(&operator, &later);
    assert_ne!(one, other);
    assert_eq!(first, second, "the API lets one writer create it");
    // Once either is remembered, the next attempt has another name.
    let mut after = operator;
    after.pass_with(&mut world, |_, _| ());
    let past = after.memory.actions.last_mut().unwrap();
    past.outcome = Some(ActionOutcome::Abandoned);
    assert_ne!(name(&after, &later).1, second);
}
