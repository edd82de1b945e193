//! `decide` on what Binder's servers say: another API key, a health status that is not so, stale routes, a database that
//! cannot be reached.

use crate::component_named;
use crate::operator::Operator;
use crate::well;
use binder_core::plan::Looked;
use binder_core::seen::Fact;
use binder_core::seen::reach::{Reached, subject};
use binder_core::seen::routes::AppId;
use binder_crds::desired::Reach;
use binder_crds::text::HostName;
use binder_crds::{Desired, conditions};
use binder_world::{World, web};
use std::collections::BTreeMap;

#[test]
fn a_server_with_another_key_is_started_again_with_the_secrets() {
    let (mut operator, mut world) = well();
    world.other_key.insert("deploy-kubernetes".to_owned());
    operator.pass(&mut world);
    assert_eq!(operator.condition(conditions::API_KEY_ACCEPTED), ("False", "KeyRefused"));
    operator.run(&mut world, 40);
    assert_eq!(operator.ran, ["DeleteEntries", "StartProcess"]);
    assert!(operator.healthy(), "{:#?}", operator.status);
}

#[test]
fn after_the_key_was_replaced_one_server_after_the_other_is_started_again_in_order() {
    let (mut operator, mut world) = well();
    world.other_key.extend(["health".to_owned(), "deploy-kubernetes".to_owned()]);
    operator.run(&mut world, 80);
    let subjects: Vec<&str> = operator.memory.actions.iter().rev().take(4).map(|past| past.subject.as_str()).collect();
    assert_eq!(subjects, ["health", "health", "deploy-kubernetes", "deploy-kubernetes"]);
    assert!(operator.healthy(), "{:#?}", operator.status);
}

#[test]
fn a_403_of_something_else_on_the_port_restarts_nothing() {
    let (mut operator, mut world) = well();
    world.other_key.insert("health".to_owned());
    let other = world.spawn("python3 -m http.server 8086");
    world.listeners.insert(8086, other);
    operator.run(&mut world, 40);
    assert!(operator.ran.is_empty(), "{:?}", operator.ran);
    assert!(world.processes.contains_key(&other));
}

#[test]
fn a_health_checker_that_stopped_is_started_again() {
    let (mut operator, mut world) = well();
    world.checker_stopped = Some(world.now.as_second());
    operator.run(&mut world, 3);
    assert!(operator.ran.is_empty() && operator.healthy(), "a verdict of a moment ago is no difference");
    world.pass(151);
    operator.pass(&mut world);
    assert_eq!(operator.condition(conditions::HEALTH_STATUS_CURRENT), ("False", "HealthStale"));
    operator.run(&mut world, 40);
    assert_eq!(operator.ran, ["DeleteEntries", "StartProcess"]);
    assert!(operator.healthy(), "{:#?}", operator.status);
}

#[test]
fn down_is_wrong_only_when_a_round_says_so_that_began_after_it_worked() {
    let (mut operator, mut world) = well();
    world.checker_wrong = true;
    // The round that says so first may have met it down.
    operator.pass(&mut world);
    assert!(operator.ran.is_empty() && operator.healthy());
    for _ in 0..8 {
        world.pass(10);
        operator.pass(&mut world);
    }
    operator.run(&mut world, 40);
    assert_eq!(operator.ran, ["DeleteEntries", "StartProcess"]);
    assert!(operator.healthy(), "{:#?}", operator.status);
}

#[test]
fn down_is_no_difference_of_the_health_server_while_it_is_so() {
    let (mut operator, mut world) = well();
    // Deploy does not answer, and cannot be put right.
    world.checker_wrong = true;
    world.deaf = true;
    world.delete(&component_named("deploy-kubernetes").process);
    let before = operator.memory.actions.len();
    operator.run(&mut world, 60);
    assert!(operator.memory.actions.iter().skip(before).all(|past| past.subject != "health"), "{:?}", operator.ran);
    assert_eq!(operator.condition(conditions::HEALTH_STATUS_CURRENT).0, "True");
}

#[test]
fn exactly_the_stale_routes_are_deleted_and_not_before_they_are() {
    let (mut operator, mut world) = well();
    let id = AppId::try_from("0123456789abcdef0123456789abcdef".to_owned()).unwrap();
    world.orphans.insert(id);
    operator.pass(&mut world);
    assert!(operator.healthy(), "an app that is just being culled");
    world.pass(31);
    operator.pass(&mut world);
    assert_eq!(operator.condition(conditions::ROUTES_LIVE), ("False", "RoutesStale"));
    operator.run(&mut world, 10);
    assert_eq!(operator.ran, ["DeleteRoutes"]);
    assert!(operator.healthy() && world.orphans.is_empty());
}

#[test]
fn a_port_that_cannot_be_reached_asks_for_nobody_while_the_other_host_is_the_cause() {
    let (mut operator, mut world) = well();
    let wanted = Reach { host: Some(HostName::from("binder-services")), address: None, port: 9050 };
    operator.spec.desired = Desired { reaches: vec![wanted.clone()], ..web() };
    operator.fleet.missing.insert("db".to_owned(), "binder-services".to_owned());
    let said = |operator: &mut Operator, world: &mut World, seconds| {
        world.pass(seconds);
        let looked = refused(operator, world, &wanted, Reached::Refused);
        let decision = operator.decide(&looked, world.now);
        operator.status = decision.status;
        let (condition, stalled) = (conditions::ENDPOINTS_REACHABLE, conditions::STALLED);
        (operator.condition(condition).1.to_owned(), operator.condition(stalled).1.to_owned())
    };
    assert_eq!(said(&mut operator, &mut world, 1).0, "Progressing");
    assert_eq!(said(&mut operator, &mut world, 20), ("HeldBack".to_owned(), String::new()));
    assert_eq!(operator.status.waits_for, "what is missing on binder-services");
    operator.fleet.missing.clear();
    assert_eq!(said(&mut operator, &mut world, 1), ("PortRefused".to_owned(), "NeedsPerson".to_owned()));
}

/// A look that finds a port so.
fn refused(operator: &mut Operator, world: &World, wanted: &Reach, found: Reached) -> Looked {
    let mut seen = world.observe();
    seen.reaches = Fact::Seen(BTreeMap::from([(subject(wanted), found)]));
    operator.history.take_in(&mut seen);
    Looked::Seen(Box::new(seen))
}

#[test]
fn a_server_is_not_started_while_the_database_cannot_be_reached_from_its_host() {
    let (mut operator, mut world) = well();
    let wanted = Reach { host: Some(HostName::from("binder-services")), address: None, port: 9050 };
    operator.spec.desired = Desired { reaches: vec![wanted.clone()], ..web() };
    world.delete("binder-web-start");
    for _ in 0..3 {
        world.pass(20);
        let looked = refused(&mut operator, &world, &wanted, Reached::NoAnswer);
        let decision = operator.decide(&looked, world.now);
        assert!(!matches!(decision.next, binder_core::plan::Next::Run(_)));
        operator.status = decision.status;
    }
    assert!(operator.status.plan.iter().any(|step| step.waits_for == "binder-services:9050 to be reachable from here"));
}
