//! A module that is older than asked for, from the difference to the running server; and a new version that does not come up.

use crate::component_named;
use crate::operator::Operator;
use crate::well;
use binder_core::facets::Step;
use binder_core::plan::memory::Disrupted;
use binder_crds::conditions;
use binder_crds::desired::Module;
use binder_crds::fleet::{Purpose, Window};
use binder_world::World;

const OLD: &str = "1.1.16";
const NEW: &str = "1.1.17";

/// A host that is well, with `binder-web` in a version and another one asked for.
fn asked(installed: &str, asked: &str) -> (Operator, World) {
    let (mut operator, mut world) = well();
    world.web_module = Some((installed.to_owned(), 0));
    let module = Module { name: "binder-web".into(), version: asked.into(), ..Module::default() };
    operator.spec.desired.modules = vec![module];
    (operator, world)
}

fn ask(operator: &mut Operator, version: &str) {
    operator.spec.desired.modules[0].version = version.into();
}

fn message(operator: &Operator, kind: &str) -> String {
    let found = operator.status.conditions.iter().find(|condition| condition.type_ == kind);
    found.map(|condition| condition.message.clone()).unwrap_or_default()
}

#[test]
fn an_older_module_is_replaced_and_what_uses_it_is_started_again() {
    let (mut operator, mut world) = asked(OLD, NEW);
    operator.pass(&mut world);
    assert_eq!(operator.condition(conditions::MODULES_AT_VERSION), ("False", "ModuleOld"));
    operator.run(&mut world, 40);
    assert_eq!(operator.ran, ["InstallModule", "DeleteEntries", "StartProcess"]);
    let touched: Vec<&str> = operator.memory.actions.iter().rev().take(2).map(|past| past.subject.as_str()).collect();
    assert_eq!(touched, ["web", "web"], "only what uses it");
    assert!(operator.healthy(), "{:#?}", operator.status);
    let writes = operator.writes;
    operator.run(&mut world, 10);
    assert_eq!((operator.writes, operator.ran.len()), (writes, 3), "deciding again changes nothing");
}

#[test]
fn the_description_is_taken_back_as_it_was_brought_forward() {
    let (mut operator, mut world) = asked(NEW, NEW);
    operator.run(&mut world, 5);
    assert!(operator.healthy() && operator.ran.is_empty(), "{:?}", operator.ran);
    ask(&mut operator, OLD);
    operator.pass(&mut world);
    assert_eq!(operator.condition(conditions::MODULES_AT_VERSION), ("False", "ModuleNewer"));
    operator.run(&mut world, 40);
    assert_eq!(operator.ran, ["InstallModule", "DeleteEntries", "StartProcess"]);
    assert!(operator.healthy());
}

#[test]
fn a_version_that_does_not_come_up_is_taken_back_once_and_said() {
    let (mut operator, mut world) = asked(OLD, NEW);
    world.bad_version = NEW;
    operator.run(&mut world, 200);
    let steps = ["InstallModule", "DeleteEntries", "StartProcess", "RevertModule", "DeleteEntries", "StartProcess"];
    assert_eq!(operator.ran, steps);
    assert_eq!(world.web_module.as_ref().unwrap().0, OLD);
    assert!(world.listeners.contains_key(&3000), "the page is served again");
    assert_eq!(operator.condition(conditions::SERVICES_RUNNING).0, "True");
    assert_eq!(operator.condition(conditions::STALLED), ("True", "NeedsPerson"));
    let said = message(&operator, conditions::MODULES_AT_VERSION);
    assert_eq!(
        said,
        "binder-web 1.1.16 is installed in /opt/binder, and 1.1.17 is asked for; 1.1.17 was installed, and web did not \
         come up with it (pm2 has given binder-web-start up), so 1.1.16 was installed again"
    );
    let writes = operator.writes;
    operator.run(&mut world, 50);
    assert_eq!((operator.writes, operator.ran.len()), (writes, steps.len()), "not in a loop");
    // Another version is another try.
    ask(&mut operator, "1.1.18");
    operator.run(&mut world, 40);
    assert_eq!(operator.ran[steps.len()..], ["InstallModule", "DeleteEntries", "StartProcess"]);
    assert!(operator.healthy(), "{:#?}", operator.status);
}

#[test]
fn going_back_waits_for_no_window_and_no_budget() {
    let (mut operator, mut world) = asked(OLD, NEW);
    world.bad_version = NEW;
    while operator.ran.last().map(String::as_str) != Some("StartProcess") {
        operator.run(&mut world, 1);
    }
    operator.fleet.budget.max_disrupted = 0;
    operator.fleet.updating = vec!["other".to_owned()];
    operator.run(&mut world, 100);
    assert_eq!(world.web_module.as_ref().unwrap().0, OLD);
    assert_eq!(operator.ran.iter().filter(|step| *step == "RevertModule").count(), 1);
}

#[test]
fn what_crashes_in_a_version_that_was_taken_back_is_started_anew() {
    let (mut operator, mut world) = asked(OLD, NEW);
    world.bad_version = NEW;
    while operator.ran.last().map(String::as_str) != Some("RevertModule") {
        operator.run(&mut world, 1);
    }
    world.delete("binder-web-start");
    world.start(&component_named("web"));
    world.climbing = Some("binder-web-start");
    while operator.ran.last().map(String::as_str) == Some("RevertModule") {
        operator.run(&mut world, 1);
    }
    assert_eq!(operator.condition(conditions::SERVICES_RUNNING), ("False", "RestartsClimbing"));
    world.climbing = None;
    operator.run(&mut world, 40);
    assert_eq!(operator.ran[4..], ["DeleteEntries", "StartProcess"]);
    assert_eq!(operator.condition(conditions::STALLED), ("True", "NeedsPerson"));
}

#[test]
fn one_host_at_a_time_in_the_order_of_dependency_and_within_the_budget() {
    let (mut operator, mut world) = asked(OLD, NEW);
    operator.fleet.updating = vec!["binder-tester-2".to_owned()];
    operator.run(&mut world, 5);
    assert_eq!(operator.status.waits_for, "binder-tester-2 to be well with its modules: one host at a time");
    operator.fleet.updating.clear();
    operator.fleet.outdated.insert("db".to_owned(), "binder-services".to_owned());
    operator.run(&mut world, 5);
    assert_eq!(operator.status.waits_for, "the modules of binder-services, whose services come first");
    operator.fleet.outdated.clear();
    operator.fleet.disrupted = vec![Disrupted { host: "kubernetes-master".to_owned(), domain: None, under_way: true }];
    operator.run(&mut world, 5);
    assert!(
        operator.status.waits_for.starts_with("kubernetes-master to be well again"),
        "{}",
        operator.status.waits_for
    );
    operator.fleet.disrupted.clear();
    let window = |schedule: &str| Window {
        holds: vec![Purpose::Planned],
        schedule: schedule.into(),
        time_zone: None,
        duration: "1h".into(),
    };
    operator.fleet.windows = vec![window("0 20 * * *")];
    operator.run(&mut world, 5);
    assert!(operator.status.waits_for.starts_with("the window that opens at"), "{}", operator.status.waits_for);
    assert!(operator.ran.is_empty());
    operator.fleet.windows.clear();
    operator.run(&mut world, 40);
    assert!(operator.healthy());
}

#[test]
fn nothing_is_installed_that_could_not_be_started_afterwards() {
    let (mut operator, mut world) = asked(OLD, NEW);
    operator.fleet.api_key_problem = Some("the Secret binder-api-key".to_owned());
    operator.run(&mut world, 5);
    assert!(operator.ran.is_empty());
    operator.fleet.api_key_problem = None;
    operator.fleet.missing.insert("db".to_owned(), "binder-services".to_owned());
    operator.run(&mut world, 5);
    assert!(operator.ran.is_empty());
    assert_eq!(operator.status.waits_for, "db on binder-services");
}

#[test]
fn npm_that_gets_nothing_is_tried_as_often_as_allowed_and_stops_nothing() {
    let (mut operator, mut world) = asked(OLD, NEW);
    world.npm_fails = true;
    operator.run(&mut world, 200);
    assert_eq!(operator.ran.iter().filter(|step| *step == "InstallModule").count(), 3);
    assert!(operator.ran.iter().all(|step| step == "InstallModule"), "{:?}", operator.ran);
    assert_eq!(operator.condition(conditions::STALLED), ("True", "AttemptsUsedUp"));
    assert!(world.listeners.contains_key(&3000));
}

#[test]
fn a_server_that_is_missing_for_another_reason_is_started_and_its_module_stays() {
    let (mut operator, mut world) = asked(OLD, NEW);
    operator.run(&mut world, 40);
    assert!(operator.healthy());
    world.delete("binder-web-start");
    operator.run(&mut world, 40);
    assert_eq!(operator.ran.last().map(String::as_str), Some("StartProcess"));
    assert_eq!(world.web_module.as_ref().unwrap().0, NEW);
    assert!(operator.healthy());
}

#[test]
fn the_step_survives_its_record() {
    let (mut operator, mut world) = asked(OLD, NEW);
    operator.run(&mut world, 2);
    let step = operator.memory.actions.iter().rev().find_map(|past| past.step.clone()).unwrap();
    let again: Step = serde_json::from_value(serde_json::to_value(&step).unwrap()).unwrap();
    assert_eq!(step, again);
    assert_eq!(step.words(), "install binder-web 1.1.17");
}
