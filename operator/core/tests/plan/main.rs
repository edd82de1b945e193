//! `decide` against a host in memory ([`binder_world`]).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that panics is a test that fails")]

mod database;
mod docker;
mod evidence;
mod keys;
mod modules;
mod operator;
mod outage;
mod servers;

use binder_core::catalogue::{self, Component, Start};
use binder_core::facets::services;
use binder_core::facets::step::Remedy;
use binder_core::gate::BlockedBy;
use binder_core::plan::memory::History;
use binder_core::plan::{FailureKind, LookFailure, Looked, Next};
use binder_core::seen::pm2::State;
use binder_crds::desired::Server;
use binder_crds::{ActionOutcome, Desired, Mode, conditions};
use binder_world::{World, web};
use operator::Operator;
use proptest::prelude::*;
use std::sync::LazyLock;

fn component_named(name: &str) -> Component {
    catalogue::described(&web()).into_iter().find(|component| component.name == name).unwrap()
}

/// A host that is as described for a while. Worked out once, since every test begins with it.
fn well() -> (Operator, World) {
    static WELL: LazyLock<(Operator, World)> = LazyLock::new(become_well);
    WELL.clone()
}

fn become_well() -> (Operator, World) {
    let (mut operator, mut world) = (Operator::new(Mode::Enforce), World::bare());
    operator.run(&mut world, 60);
    assert!(operator.healthy(), "{:#?}", operator.status);
    world.pass(300);
    operator.pass(&mut world);
    operator.ran.clear();
    (operator, world)
}

#[test]
fn a_bare_host_is_brought_up_in_the_runbooks_order() {
    let (mut operator, mut world) = (Operator::new(Mode::Enforce), World::bare());
    operator.run(&mut world, 60);
    let subjects: Vec<&str> = operator.memory.actions.iter().map(|past| past.subject.as_str()).collect();
    assert_eq!(subjects, ["web", "kubectl-proxy", "deploy-kubernetes", "health", "redirect eth0:80"]);
    assert!(operator.healthy());
}

#[test]
fn a_row_that_is_not_healthy_is_never_empty() {
    let (mut operator, mut world) = (Operator::new(Mode::Enforce), World::bare());
    let first = component_named("web");
    world.start(&first);
    world.listeners.clear();
    operator.spec.desired = Desired { servers: vec![Server::Web], ..Desired::default() };
    operator.pass(&mut world);
    assert_eq!(operator.condition(conditions::HEALTHY), ("False", "Progressing"));
    assert_eq!(operator.status.drift, "web is starting and does not listen on 3000 yet");
    assert_eq!(operator.status.waits_for, "startup to finish");
}

#[test]
fn a_healthy_host_is_written_of_no_more() {
    let (mut operator, mut world) = well();
    let before = operator.writes;
    for _ in 0..200 {
        operator.pass(&mut world);
        world.pass(17);
    }
    assert_eq!(operator.writes, before);
    assert!(operator.ran.is_empty());
}

#[test]
fn a_server_lost_by_pm2_with_two_daemons_is_ended_cleared_and_started() {
    let (mut operator, mut world) = well();
    world.lose("binder-deploy-kubernetes-start");
    let extra = world.spawn("node child");
    world.row("binder-kubernetes-daemon", extra);
    operator.pass(&mut world);
    // It may be one that pm2 is just ending.
    assert_eq!(operator.condition(conditions::SERVICES_RUNNING), ("False", "Progressing"));
    world.pass(5);
    operator.pass(&mut world);
    assert_eq!(operator.condition(conditions::SERVICES_RUNNING), ("False", "LostByPm2"));
    operator.run(&mut world, 40);
    assert_eq!(operator.ran, ["EndOrphan", "DeleteEntries", "StartProcess"]);
    assert!(operator.healthy());
}

#[test]
fn somebody_elses_process_on_the_port_is_reported_and_left_alone() {
    let (mut operator, mut world) = well();
    world.delete("binder-web-start");
    let other = world.spawn("python3 -m http.server 3000");
    world.listeners.insert(3000, other);
    operator.run(&mut world, 20);
    assert!(operator.ran.is_empty());
    assert!(world.processes.contains_key(&other));
    assert_eq!(operator.condition(conditions::SERVICES_RUNNING), ("False", "PortTaken"));
    assert_eq!(operator.condition(conditions::STALLED).1, "NeedsPerson");
}

#[test]
fn nothing_is_done_in_observe_and_it_says_what_would_be() {
    let (mut operator, mut world) = (Operator::new(Mode::Observe), World::bare());
    operator.run(&mut world, 20);
    assert!(operator.ran.is_empty());
    assert_eq!(operator.condition(conditions::REMEDIATION_ALLOWED), ("False", "ModeObserve"));
    assert_eq!(operator.status.waits_for, "mode Enforce");
    assert_eq!(operator.status.plan.len(), 5);
}

#[test]
fn without_a_proxy_deploy_kubernetes_waits_and_says_for_what() {
    let (mut operator, mut world) = well();
    world.delete("binder-deploy-kubernetes-start");
    ["binder-kubernetes-proxy", "binder-kubernetes-daemon"].iter().for_each(|name| world.delete(name));
    let proxy = world.listeners[&8085];
    world.end(proxy);
    operator.pass(&mut world);
    assert_eq!(operator.condition(conditions::SERVICES_RUNNING), ("False", "HeldBack"));
    assert!(operator.status.summary.contains("nothing listens on 8085"), "{}", operator.status.summary);
    assert!(operator.status.summary.contains("deploy-kubernetes"), "{}", operator.status.summary);
    operator.run(&mut world, 40);
    assert_eq!(operator.ran, ["StartKubectlProxy", "StartProcess"]);
}

#[test]
fn what_deploy_kubernetes_left_when_it_ended_without_a_proxy_is_deleted_before_the_proxy_is_started() {
    let (mut operator, mut world) = well();
    let proxy = world.listeners[&8085];
    world.end(proxy);
    world.delete("binder-deploy-kubernetes-start");
    operator.pass(&mut world);
    assert_eq!(operator.condition(conditions::SERVICES_RUNNING), ("False", "ChildrenLeftOver"));
    operator.run(&mut world, 40);
    assert_eq!(operator.ran, ["DeleteEntries", "StartKubectlProxy", "StartProcess"]);
    assert!(operator.healthy());
}

#[test]
fn deploy_kubernetes_that_was_started_without_a_proxy_is_deleted_before_the_proxy_is_started() {
    let (mut operator, mut world) = well();
    let proxy = world.listeners[&8085];
    world.end(proxy);
    world.listeners.remove(&8084);
    operator.pass(&mut world);
    assert_eq!(operator.condition(conditions::SERVICES_RUNNING), ("False", "StartedTooEarly"));
    operator.run(&mut world, 40);
    assert_eq!(operator.ran, ["DeleteEntries", "StartKubectlProxy", "StartProcess"]);
    assert!(operator.healthy());
}

#[test]
fn a_remedy_that_never_helps_is_given_up_after_its_attempts() {
    let (mut operator, mut world) = well();
    world.delete("binder-web-start");
    world.deaf = true;
    operator.run(&mut world, 400);
    // The last rung is a restart of the machine, which does not help either.
    assert_eq!(operator.ran, ["StartProcess", "StartProcess", "StartProcess", "Reboot"]);
    assert_eq!(operator.condition(conditions::STALLED).1, "AttemptsUsedUp");
    assert!(operator.status.conditions.iter().any(|condition| condition.message.contains("docs/runbook/services.md")));
    // What was deleted by a person is tried again.
    operator.memory = History::default();
    world.deaf = false;
    operator.run(&mut world, 20);
    assert!(operator.healthy());
}

#[test]
fn a_fault_that_comes_back_after_each_heal_ends_with_a_person() {
    let (mut operator, mut world) = well();
    for _ in 0..30 {
        if operator.healthy() {
            world.redirects = 0;
        }
        operator.run(&mut world, 1);
    }
    assert_eq!(operator.ran, ["InsertRedirect"; 3]);
    assert_eq!(operator.condition(conditions::STALLED).1, "AttemptsUsedUp");
}

#[test]
fn a_fault_that_comes_back_after_a_long_healthy_time_is_a_new_incident() {
    let (mut operator, mut world) = well();
    for _ in 0..6 {
        world.redirects = 0;
        operator.run(&mut world, 5);
        assert!(operator.healthy());
        world.pass(120);
        operator.pass(&mut world);
    }
    assert_eq!(operator.ran, ["InsertRedirect"; 6]);
}

#[test]
fn a_long_healthy_time_counts_although_something_could_not_be_seen_after_it() {
    let (mut operator, mut world) = well();
    for suspended in [false, true, false, true, false, true] {
        // Unknown or suspended for a moment, and only then does something differ.
        if suspended {
            operator.status = operator.decide(&Looked::Suspended, world.now).status;
        } else {
            world.blind_nat = true;
            operator.pass(&mut world);
            world.blind_nat = false;
        }
        assert_eq!(operator.condition(conditions::HEALTHY).0, "Unknown");
        world.redirects = 0;
        operator.run(&mut world, 5);
        assert!(operator.healthy());
        world.pass(120);
        operator.pass(&mut world);
    }
    assert_eq!(operator.ran, ["InsertRedirect"; 6]);
}

#[test]
fn what_cannot_be_seen_is_unknown_and_nothing_is_done_about_it() {
    let (mut operator, mut world) = well();
    world.redirects = 0;
    world.blind_nat = true;
    operator.run(&mut world, 10);
    assert!(operator.ran.is_empty());
    assert_eq!(operator.condition(conditions::REDIRECT_IN_PLACE), ("Unknown", "ProbeTimedOut"));
    assert_eq!(operator.condition(conditions::HEALTHY), ("Unknown", "NotAllSeen"));
}

#[test]
fn an_intention_whose_sending_nobody_saw_is_judged_by_looking() {
    // Killed between the record and the command: nothing happened, and the attempt fails when its time is up.
    let (mut operator, mut world) = well();
    world.redirects = 0;
    operator.pass_with(&mut world, |_, _| {});
    operator.memory.actions.last_mut().unwrap().sent_at = None;
    operator.run(&mut world, 30);
    assert_eq!(operator.ran, ["InsertRedirect"; 2]);
    assert!(operator.healthy());
    // Killed after the command: its effect is there, and nothing is done twice.
    let (mut operator, mut world) = well();
    world.redirects = 0;
    operator.pass(&mut world);
    operator.memory.actions.last_mut().unwrap().sent_at = None;
    operator.run(&mut world, 30);
    assert_eq!(operator.ran, ["InsertRedirect"]);
}

#[test]
fn servers_wait_for_the_database_of_another_host() {
    let (mut operator, mut world) = (Operator::new(Mode::Enforce), World::bare());
    operator.fleet.missing.insert("db".to_owned(), "binder-services".to_owned());
    operator.run(&mut world, 30);
    assert!(!operator.ran.iter().any(|step| step == "StartProcess"));
    assert!(operator.status.plan.iter().any(|step| step.waits_for == "db on binder-services"));
    operator.fleet.missing.clear();
    operator.run(&mut world, 60);
    assert!(operator.healthy());
}

#[test]
fn restarts_that_climb_without_the_database_wait_for_it_and_nobody_is_called() {
    let (mut operator, mut world) = well();
    operator.fleet.missing.insert("db".to_owned(), "binder-services".to_owned());
    world.climbing = Some("binder-web-start");
    operator.run(&mut world, 20);
    assert!(operator.ran.is_empty());
    assert_eq!(operator.condition(conditions::SERVICES_RUNNING), ("False", "HeldBack"));
    assert_eq!(operator.condition(conditions::STALLED), ("", ""));
    assert_eq!(operator.status.waits_for, "db on binder-services");
    // With the database there it is a crash of its own, which nobody but a person can end.
    operator.fleet.missing.clear();
    let before = operator.writes;
    operator.run(&mut world, 20);
    assert!(operator.ran.is_empty());
    assert_eq!(operator.condition(conditions::SERVICES_RUNNING), ("False", "RestartsClimbing"));
    assert_eq!(operator.condition(conditions::STALLED).1, "NeedsPerson");
    assert_eq!(operator.writes, before + 1, "a climb that goes on is said once");
    world.climbing = None;
    operator.run(&mut world, 5);
    assert!(operator.healthy());
}

#[test]
fn a_host_that_is_not_seen_keeps_its_open_attempt_until_its_time_is_up() {
    let (mut operator, mut world) = well();
    world.redirects = 0;
    operator.pass(&mut world);
    let failure = LookFailure {
        reason: "Unreachable",
        message: "no route".to_owned(),
        kind: FailureKind::Passing,
        not_before: None,
    };
    let early = operator.decide(&Looked::Failed(failure.clone()), world.now);
    assert!(early.finish.is_empty());
    world.pass(600);
    let late = operator.decide(&Looked::Failed(failure), world.now);
    assert_eq!(late.finish[0].outcome, ActionOutcome::Unknown);
    assert_eq!(late.next, Next::Nothing);
}

#[test]
fn an_abandoned_attempt_neither_counts_nor_takes_the_next_ones_name() {
    let (mut operator, mut world) = well();
    world.redirects = 0;
    operator.pass_with(&mut world, |_, _| {});
    operator.memory.actions.last_mut().unwrap().outcome = Some(ActionOutcome::Abandoned);
    operator.run(&mut world, 10);
    assert!(operator.healthy());
    assert_eq!(operator.memory.actions.last().unwrap().attempt, 1);
}

#[derive(Clone, Copy, Debug)]
enum Break {
    Delete(&'static str),
    Lose(&'static str),
    Stop(&'static str),
    Double(&'static str),
    KillProxy,
    Redirects(usize),
    EndProcess(u16),
}

fn breaks() -> impl Strategy<Value = Vec<Break>> {
    let name = prop::sample::select(vec![
        "binder-web-start",
        "binder-deploy-kubernetes-start",
        "binder-kubernetes-daemon",
        "binder-health-checker-start",
        "binder-health-checker",
    ]);
    let one = prop_oneof![
        name.clone().prop_map(Break::Delete),
        name.clone().prop_map(Break::Lose),
        name.clone().prop_map(Break::Stop),
        name.prop_map(Break::Double),
        Just(Break::KillProxy),
        (0usize..4).prop_map(Break::Redirects),
        prop::sample::select(vec![3000u16, 8084, 8086]).prop_map(Break::EndProcess),
    ];
    prop::collection::vec(one, 1..6)
}

fn broken(world: &mut World, fault: Break) {
    match fault {
        Break::Delete(name) => world.delete(name),
        Break::Lose(name) => world.lose(name),
        Break::Stop(name) => {
            let pids: Vec<u32> = world.rows.iter().filter(|row| row.name == name).filter_map(|row| row.pid).collect();
            pids.into_iter().for_each(|pid| world.end(pid));
            for row in world.rows.iter_mut().filter(|row| row.name == name) {
                (row.state, row.pid) = (State::Stopped, None);
            }
        }
        Break::Double(name) => {
            let pid = world.spawn("node child");
            world.row(name, pid);
        }
        Break::KillProxy => {
            if let Some(pid) = world.listeners.get(&8085).copied() {
                world.end(pid);
            }
        }
        Break::Redirects(count) => world.redirects = count,
        Break::EndProcess(port) => {
            if let Some(pid) = world.listeners.get(&port).copied() {
                world.end(pid);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// Whatever pm2, the proxy and the rules were made to be, the host ends as described, and then nothing more is done.
    #[test]
    fn any_faults_together_are_healed(faults in breaks()) {
        let (mut operator, mut world) = well();
        let bystander = world.spawn("somebody else's");
        faults.into_iter().for_each(|fault| broken(&mut world, fault));
        operator.run(&mut world, 200);
        prop_assert!(operator.healthy(), "{:#?}\n{:?}", operator.status, operator.ran);
        prop_assert!(world.processes.contains_key(&bystander));
        prop_assert_eq!(world.redirects, 1);
        let (ran, writes) = (operator.ran.len(), operator.writes);
        operator.run(&mut world, 50);
        prop_assert_eq!((operator.ran.len(), operator.writes), (ran, writes));
    }
}

#[test]
fn every_blocked_by_has_words() {
    let blocked = BlockedBy::RetryPeriod { until: "2026-11-22T14:02:10Z".parse().unwrap() };
    assert_eq!(binder_core::status::blocked_words(&blocked), "retry at 14:02:10Z");
    let start = Start::Service { name: "db".to_owned() };
    let step = services::Step::StartProcess { component: "db".to_owned(), start, path: None };
    assert_eq!(step.words(), "start the service db");
}
