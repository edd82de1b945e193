//! Restarts of the whole machine: when they are done, and when they must not be.

use crate::operator::{Operator, PUBLIC_KEY};
use crate::well;
use binder_core::plan::brake::{Held, REMEDIES_FAIL};
use binder_core::plan::memory::Disrupted;
use binder_core::plan::outage::{Addressed, Carrier, CloudSays, Heard, Instance, Outage, Over, Testimony, Witness};
use binder_crds::fleet::{Purpose, Window};
use binder_crds::references::{Access, GceHost, HostPower};
use binder_crds::{ActionOutcome, Mode, conditions};
use binder_world::World;
use std::collections::BTreeSet;

pub(crate) fn sees_it_dead() -> Outage {
    let address = "192.0.2.1".parse().unwrap();
    let instance = Instance { name: "instance web-1".to_owned(), addresses: BTreeSet::from([address]), on_for: None };
    Outage {
        witnesses: vec![witness(Heard::TimedOut)],
        cloud: CloudSays::Running,
        instance: Some(instance),
        address: Addressed::At(BTreeSet::from([address])),
        greets: BTreeSet::from(["binder-services".to_owned()]),
    }
}

fn witness(ssh: Heard) -> Witness {
    Witness {
        host: "binder-services".to_owned(),
        domain: None,
        before: Carrier::Alive,
        after: Carrier::Alive,
        greeted: true,
        heard: vec![Testimony { over: Over::Ssh, port: 22, heard: ssh }],
    }
}

/// A host that was well and has fallen silent.
fn silent(outage: Outage) -> (Operator, World) {
    let (mut operator, mut world) = well();
    world.silent = true;
    operator.fleet.outage = outage;
    (operator, world)
}

#[test]
fn a_dead_host_is_power_cycled_once_a_witness_agrees_and_comes_up_in_order() {
    let (mut operator, mut world) = silent(sees_it_dead());
    operator.run(&mut world, 80);
    assert_eq!(operator.ran.first().map(String::as_str), Some("PowerCycle"), "{:?}", operator.ran);
    assert_eq!(operator.ran.iter().filter(|step| *step == "PowerCycle").count(), 1);
    let subjects: Vec<&str> = operator.memory.actions.iter().rev().take(5).map(|past| past.subject.as_str()).collect();
    assert_eq!(subjects, ["redirect eth0:80", "health", "deploy-kubernetes", "kubectl-proxy", "web"]);
    assert!(operator.healthy(), "{:#?}", operator.status);
    assert_eq!(operator.status.boot_id.as_deref(), Some("boot-0002"));
}

#[test]
fn a_blip_is_waited_out() {
    let (mut operator, mut world) = silent(sees_it_dead());
    for _ in 0..5 {
        operator.pass(&mut world);
        world.pass(10);
    }
    assert!(operator.ran.is_empty());
    assert!(operator.status.waits_for.starts_with("recovery without a step"), "{}", operator.status.waits_for);
    world.silent = false;
    operator.run(&mut world, 3);
    assert!(operator.ran.is_empty() && operator.healthy());
}

#[test]
fn without_a_second_witness_nothing_is_done() {
    let alone = Outage { witnesses: Vec::new(), ..sees_it_dead() };
    let heard = |heard| Outage { witnesses: vec![witness(heard)], ..sees_it_dead() };
    let (alive, refused) = (heard(Heard::Spoke), heard(Heard::Refused));
    let (unknown, no_route) = (heard(Heard::NameNotFound), heard(Heard::NoRoute));
    let (unsure, accepted) = (heard(Heard::Unknown("no tunnels".to_owned())), heard(Heard::AcceptedSilent));
    let hung =
        Outage { witnesses: vec![Witness { after: Carrier::Unproven, ..witness(Heard::TimedOut) }], ..sees_it_dead() };
    let stranger = Outage { witnesses: vec![Witness { greeted: false, ..witness(Heard::TimedOut) }], ..sees_it_dead() };
    let elsewhere = Outage { address: Addressed::At(BTreeSet::from(["192.0.2.2".parse().unwrap()])), ..sees_it_dead() };
    let nameless = Outage { address: Addressed::Unresolved, ..sees_it_dead() };
    let deaf = Outage { cloud: CloudSays::Unanswered("403".to_owned()), ..sees_it_dead() };
    let undescribed = Outage { cloud: CloudSays::NotAsked, ..sees_it_dead() };
    for outage in [
        alone,
        alive,
        refused,
        unknown,
        no_route,
        unsure,
        accepted,
        hung,
        stranger,
        elsewhere,
        nameless,
        deaf,
        undescribed,
    ] {
        let (mut operator, mut world) = silent(outage.clone());
        operator.run(&mut world, 60);
        assert!(operator.ran.is_empty(), "{outage:?}");
        assert_eq!(operator.condition(conditions::HEALTHY).0, "Unknown");
        assert!(!operator.status.waits_for.is_empty());
    }
}

#[test]
fn in_observe_a_dead_host_is_only_spoken_of() {
    let (mut operator, mut world) = silent(sees_it_dead());
    operator.mode = Mode::Observe;
    operator.run(&mut world, 60);
    assert!(operator.ran.is_empty());
    assert!(operator.status.next.starts_with("power-cycle"), "{}", operator.status.next);
    assert_eq!(operator.status.waits_for, "mode Enforce");
}

#[test]
fn a_machine_that_is_off_is_started_on_its_clouds_word_only_where_that_is_allowed() {
    let off = Outage { witnesses: Vec::new(), cloud: CloudSays::Off, ..sees_it_dead() };
    let (mut operator, mut world) = silent(off.clone());
    operator.run(&mut world, 60);
    assert!(operator.ran.is_empty());
    assert_eq!(operator.status.waits_for, "a person: set power.mayStart: true to have it started, or start it");
    assert!(operator.status.drift.starts_with("switched off since"), "{}", operator.status.drift);

    let (mut operator, mut world) = silent(off);
    operator.spec.power = Some(HostPower { may_start: true, ..HostPower::default() });
    operator.run(&mut world, 60);
    assert_eq!(operator.ran[0], "PowerOn");
    assert!(operator.healthy());
}

#[test]
fn a_mistyped_address_is_never_power_cycled() {
    let (mut operator, mut world) = silent(sees_it_dead());
    // The endpoint that was logged in to is another one.
    operator.spec.port = 2222;
    operator.run(&mut world, 60);
    assert!(operator.ran.is_empty(), "{:?}", operator.ran);
    assert!(operator.status.waits_for.starts_with("a first login at "), "{}", operator.status.waits_for);
    assert_eq!(operator.status.proven_at, None);
}

#[test]
fn an_instance_that_is_another_machine_is_a_condition_and_no_step() {
    let elsewhere = Outage { address: Addressed::At(BTreeSet::from(["192.0.2.2".parse().unwrap()])), ..sees_it_dead() };
    let (mut operator, mut world) = silent(elsewhere);
    operator.run(&mut world, 60);
    assert!(operator.ran.is_empty());
    assert_eq!(operator.condition(conditions::INSTANCE_MISMATCH), ("True", "OtherAddress"));
    world.silent = false;
    operator.run(&mut world, 3);
    assert!(operator.healthy(), "the machine is well; its description is not");
    assert_eq!(operator.condition(conditions::INSTANCE_MISMATCH), ("True", "OtherAddress"));
    operator.fleet.outage = sees_it_dead();
    operator.run(&mut world, 3);
    assert!(!operator.status.conditions.iter().any(|one| one.type_ == conditions::INSTANCE_MISMATCH));
}

#[test]
fn a_machine_that_was_just_started_is_given_the_time_to_boot() {
    let booting = |seconds| {
        let mut outage = sees_it_dead();
        outage.instance.as_mut().unwrap().on_for = Some(jiff::SignedDuration::from_secs(seconds));
        outage
    };
    let (mut operator, mut world) = silent(booting(5));
    operator.run(&mut world, 60);
    assert!(operator.ran.is_empty(), "as long as its cloud says that it was started just now");
    assert!(operator.status.waits_for.starts_with("the machine to finish booting"), "{}", operator.status.waits_for);
    operator.fleet.outage = booting(3600);
    operator.run(&mut world, 80);
    assert_eq!(operator.ran.first().map(String::as_str), Some("PowerCycle"));
}

#[test]
fn who_was_greeted_stays_known_while_the_host_is_silent() {
    let (mut operator, mut world) = well();
    operator.fleet.outage = sees_it_dead();
    operator.run(&mut world, 2);
    let greets = |operator: &Operator| operator.status.proven_at.clone().unwrap().greets;
    assert_eq!(greets(&operator), ["binder-services"]);
    world.silent = true;
    operator.run(&mut world, 2);
    assert_eq!(greets(&operator), ["binder-services"]);
}

#[test]
fn a_power_cycle_that_does_not_help_is_not_done_twice() {
    let (mut operator, mut world) = silent(sees_it_dead());
    world.deaf = true;
    operator.run(&mut world, 400);
    assert_eq!(operator.ran, ["PowerCycle"]);
    assert_eq!(operator.memory.actions.last().unwrap().outcome, Some(ActionOutcome::Failed));
    assert_eq!(operator.condition(conditions::STALLED), ("True", "AttemptsUsedUp"));
}

#[test]
fn one_disrupted_host_at_a_time() {
    let (mut operator, mut world) = silent(sees_it_dead());
    operator.fleet.disrupted = vec![Disrupted { host: "binder-services".to_owned(), domain: None, under_way: true }];
    operator.run(&mut world, 40);
    assert!(operator.ran.is_empty());
    assert!(operator.status.waits_for.starts_with("binder-services to be well again"), "{}", operator.status.waits_for);
    operator.fleet.disrupted.clear();
    operator.run(&mut world, 80);
    assert!(operator.healthy());
    // A budget of none forbids it for good.
    let (mut operator, mut world) = silent(sees_it_dead());
    operator.fleet.budget.max_disrupted = 0;
    operator.run(&mut world, 40);
    assert!(operator.ran.is_empty());
}

/// The world begins at 3 in the night.
fn at_five(holds: &[Purpose]) -> Vec<Window> {
    vec![Window { holds: holds.to_vec(), schedule: "0 5 * * *".into(), time_zone: None, duration: "1h".into() }]
}

#[test]
fn a_dead_machine_waits_for_no_window_unless_one_is_for_recoveries() {
    let (mut operator, mut world) = silent(sees_it_dead());
    operator.fleet.windows = at_five(&[Purpose::Planned]);
    operator.run(&mut world, 80);
    assert_eq!(operator.ran.first().map(String::as_str), Some("PowerCycle"), "{:?}", operator.ran);
    assert!(operator.healthy());

    let (mut operator, mut world) = silent(sees_it_dead());
    operator.fleet.windows = at_five(&[Purpose::Planned, Purpose::Recovery]);
    operator.run(&mut world, 40);
    assert!(operator.ran.is_empty());
    assert_eq!(operator.status.waits_for, "the window that opens at 2026-11-22 05:00Z");
    // No light step waits for it.
    world.silent = false;
    world.redirects = 0;
    operator.run(&mut world, 10);
    assert_eq!(operator.ran, ["InsertRedirect"]);
}

#[test]
fn a_reboot_of_a_machine_that_still_serves_waits_for_its_window() {
    let (mut operator, mut world) = well();
    operator.fleet.windows = at_five(&[Purpose::Planned]);
    world.delete("binder-web-start");
    world.broken = vec!["binder-web-start".to_owned()];
    // deploy-kubernetes and health still serve.
    operator.run(&mut world, 100);
    assert_eq!(operator.status.waits_for, "the window that opens at 2026-11-22 05:00Z", "{:?}", operator.ran);
    assert!(!operator.ran.iter().any(|step| step == "Reboot"), "{:?}", operator.ran);
    // Into the window.
    let opens: jiff::Timestamp = "2026-11-22T05:00:10Z".parse().unwrap();
    world.pass(u64::try_from(opens.duration_since(world.now).as_secs()).unwrap());
    operator.run(&mut world, 40);
    assert_eq!(operator.ran.iter().filter(|step| *step == "Reboot").count(), 1, "{:?}", operator.ran);
}

#[test]
fn two_dead_hosts_do_not_wait_for_each_other_and_nothing_that_works_is_disrupted_meanwhile() {
    let down = |under_way| vec![Disrupted { host: "binder-services".to_owned(), domain: None, under_way }];
    // The other one is down by itself, or we could not bring it back.
    let (mut operator, mut world) = silent(sees_it_dead());
    operator.fleet.disrupted = down(false);
    operator.run(&mut world, 80);
    assert!(operator.ran.contains(&"PowerCycle".to_owned()) && operator.healthy(), "{:?}", operator.ran);
    // One after the other.
    let (mut operator, mut world) = silent(sees_it_dead());
    operator.fleet.disrupted = down(true);
    operator.run(&mut world, 80);
    assert!(operator.ran.is_empty());
    // A machine that still serves is not rebooted while its neighbour is down.
    let (mut operator, mut world) = well();
    operator.fleet.disrupted = down(false);
    world.delete("binder-web-start");
    world.broken = vec!["binder-web-start".to_owned()];
    operator.run(&mut world, 200);
    assert!(!operator.ran.iter().any(|step| step == "Reboot"), "{:?}", operator.ran);
    assert!(operator.status.waits_for.starts_with("binder-services to be well again"), "{}", operator.status.waits_for);
}

#[test]
fn the_fleets_brake_holds_what_disrupts_and_nothing_else() {
    let held = || Some(Held { reason: REMEDIES_FAIL, words: "Reboot failed on 3 of 4 hosts".to_owned() });
    let (mut operator, mut world) = silent(sees_it_dead());
    operator.fleet.held = held();
    operator.run(&mut world, 60);
    assert!(operator.ran.is_empty());
    assert_eq!(operator.status.waits_for, "the fleet's brake: Reboot failed on 3 of 4 hosts");
    assert_eq!(operator.condition(conditions::REMEDIATION_HELD), ("True", REMEDIES_FAIL));
    let writes = operator.writes;
    operator.run(&mut world, 20);
    assert_eq!(operator.writes, writes, "it says so once");
    operator.fleet.held = None;
    operator.run(&mut world, 80);
    assert!(operator.healthy());
    assert_eq!(operator.condition(conditions::REMEDIATION_HELD), ("", ""));

    let (mut operator, mut world) = well();
    operator.fleet.held = held();
    world.lose("binder-health-start");
    world.listeners.clear();
    world.redirects = 0;
    operator.run(&mut world, 60);
    let light = ["InsertRedirect", "StartKubectlProxy", "StartProcess"];
    assert!(
        !operator.ran.is_empty() && operator.ran.iter().all(|step| light.contains(&step.as_str())),
        "{:?}",
        operator.ran
    );
}

#[test]
fn a_clock_that_is_off_is_said_once_and_stops_nothing_that_rests_on_no_age() {
    let (mut operator, mut world) = well();
    world.clock_off = -7200;
    operator.run(&mut world, 3);
    assert_eq!(operator.condition(conditions::CLOCK_IN_SYNC), ("False", "ClockOff"));
    let writes = operator.writes;
    operator.run(&mut world, 20);
    assert_eq!(operator.writes, writes);
    world.redirects = 0;
    operator.run(&mut world, 10);
    assert_eq!(operator.ran, ["InsertRedirect"]);
    world.clock_off = 0;
    operator.run(&mut world, 3);
    assert_eq!(operator.condition(conditions::CLOCK_IN_SYNC), ("", ""));
    assert!(operator.healthy());
}

#[test]
fn what_the_light_steps_do_not_cure_is_rebooted_once_and_started_again_in_order() {
    let (mut operator, mut world) = well();
    operator.memory.actions.clear();
    world.delete("binder-web-start");
    world.broken = vec!["binder-web-start".to_owned()];
    operator.run(&mut world, 200);
    assert_eq!(operator.ran[..4], ["StartProcess", "StartProcess", "StartProcess", "Reboot"]);
    assert_eq!(operator.ran.iter().filter(|step| *step == "Reboot").count(), 1);
    // After the boot everything else came back, and what is really broken had its attempts anew, then a person is asked.
    assert_eq!(operator.condition(conditions::STALLED), ("True", "AttemptsUsedUp"));
    assert_eq!(operator.memory.actions.iter().filter(|past| past.subject == "web").count(), 7);
    world.broken.clear();
    let since = world.now;
    world.restart();
    operator.memory.actions.clear();
    operator.status.incident_since = None;
    operator.run(&mut world, 80);
    assert!(operator.healthy() && world.now > since);
}

#[test]
fn a_reboot_waits_for_the_lighter_steps() {
    let (mut operator, mut world) = well();
    world.delete("binder-web-start");
    world.broken = vec!["binder-web-start".to_owned()];
    while operator.ran.len() < 3 {
        operator.run(&mut world, 1);
    }
    // The proxy dies too: it is started before a whole machine is restarted for the web server.
    world.listeners.remove(&8085);
    operator.run(&mut world, 30);
    let reboot = operator.ran.iter().position(|step| step == "Reboot").unwrap();
    let proxy = operator.ran.iter().position(|step| step == "StartKubectlProxy").unwrap();
    assert!(proxy < reboot, "{:?}", operator.ran);
}

#[test]
fn a_full_disk_or_a_strangers_process_restarts_no_machine() {
    let (mut operator, mut world) = well();
    world.disk = 99;
    operator.run(&mut world, 100);
    assert!(operator.ran.is_empty());
}

/// A host that was well and refuses our login, with an instance in a cloud or without.
fn refusing(allowed: bool, instance: Option<&str>) -> (Operator, World) {
    let (mut operator, mut world) = well();
    operator.spec.access = Some(Access { user: "andrew".into(), may_authorize_key: allowed, ..Access::default() });
    let gce = |instance: &str| GceHost { instance: instance.into(), ..GceHost::default() };
    operator.spec.power = instance.map(|instance| HostPower { gce: Some(gce(instance)), may_start: false });
    // Even when everybody would agree to a restart.
    operator.fleet.outage = sees_it_dead();
    world.refuses = true;
    (operator, world)
}

fn message<'o>(operator: &'o Operator, kind: &str) -> &'o str {
    operator.status.conditions.iter().find(|one| one.type_ == kind).map_or("", |one| one.message.as_str())
}

#[test]
fn a_refused_login_is_no_dead_host_and_our_key_is_added_where_that_is_allowed() {
    let (mut operator, mut world) = refusing(true, Some("Web-1"));
    operator.run(&mut world, 30);
    assert_eq!(operator.ran, ["AuthorizeKey"]);
    assert!(operator.healthy(), "{:#?}", operator.status);
    assert_eq!(operator.status.boot_id.as_deref(), Some("boot-0001"));
}

#[test]
fn where_it_is_not_allowed_a_person_is_told_what_to_paste_where() {
    for (allowed, instance, paste) in [
        (
            false,
            Some("Web-1"),
            format!(
                "the SSH keys of the instance Web-1 (its metadata item ssh-keys, beside what is there): andrew:{PUBLIC_KEY}"
            ),
        ),
        (true, None, format!("~andrew/.ssh/authorized_keys on the machine: {PUBLIC_KEY}")),
    ] {
        let (mut operator, mut world) = refusing(allowed, instance);
        operator.run(&mut world, 60);
        assert!(operator.ran.is_empty(), "{:?}", operator.ran);
        assert_eq!(operator.condition(conditions::STALLED), ("True", "LoginRefused"));
        for kind in [conditions::STALLED, conditions::REACHABLE] {
            assert!(message(&operator, kind).ends_with(&paste), "{}", message(&operator, kind));
        }
    }
}

#[test]
fn a_key_that_does_not_help_is_added_some_times_and_never_becomes_a_restart() {
    let (mut operator, mut world) = refusing(true, Some("Web-1"));
    world.deaf = true;
    operator.run(&mut world, 400);
    assert_eq!(operator.ran, ["AuthorizeKey"; 3]);
    assert_eq!(operator.condition(conditions::STALLED), ("True", "AttemptsUsedUp"));
    assert!(message(&operator, conditions::REACHABLE).ends_with(PUBLIC_KEY));
}
