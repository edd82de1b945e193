//! The brake's table: what holds it, what does not, and what opens it.

#![allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]

use super::*;
use crate::conditions::{Conditions, Is};
use crate::facets::{machine, port_redirects, services};

fn at(seconds: i64) -> Timestamp {
    "2026-11-22T12:00:00Z".parse::<Timestamp>().unwrap() + SignedDuration::from_secs(seconds)
}

fn host(number: usize, signs: &[(&str, DriftKind, i64)]) -> HostSigns {
    let all = [conditions::REACHABLE, conditions::SERVICES_RUNNING, conditions::PROXY_SERVING];
    HostSigns {
        uid: format!("uid-{number}"),
        host: format!("host-{number}"),
        generation: 1,
        described: all.iter().map(|name| (*name).to_owned()).collect(),
        signs: signs
            .iter()
            .map(|(of, kind, since)| Sign { of: (*of).to_owned(), kind: *kind, since: at(*since) })
            .collect(),
    }
}

/// So many hosts, the first of them with a kind that began at these seconds.
fn hosts(of: usize, kind: DriftKind, begun: &[i64]) -> Vec<HostSigns> {
    (0..of)
        .map(|number| match begun.get(number) {
            Some(since) => host(number, &[(conditions::SERVICES_RUNNING, kind, *since)]),
            None => host(number, &[]),
        })
        .collect()
}

fn remedy(host: usize, step: &str, at_second: i64, helped: bool) -> Remedy {
    Remedy {
        uid: format!("uid-{host}"),
        host: format!("host-{host}"),
        step: step.to_owned(),
        whole: step == "Reboot",
        at: at(at_second),
        helped,
    }
}

fn reason(facts: &Facts<'_>) -> Option<&'static str> {
    judge(facts, at(600)).map(|held| held.reason)
}

fn facts(hosts: &[HostSigns]) -> Facts<'_> {
    Facts { hosts, remedies: &[], started: at(-86_400), changed: None, released: None }
}

const LOST: DriftKind = DriftKind::NotListening;

#[test]
fn the_same_drift_on_many_hosts_at_once_holds() {
    for (words, hosts, wanted) in [
        ("one of one", hosts(1, LOST, &[0]), None),
        ("two of two", hosts(2, LOST, &[0, 1]), None),
        ("two of four: the lab's two faults", hosts(4, LOST, &[0, 1]), None),
        ("three of three", hosts(3, LOST, &[0, 1, 2]), Some(SAME_DRIFT)),
        ("three of nine", hosts(9, LOST, &[0, 100, 300]), Some(SAME_DRIFT)),
        ("three of ten is below a third", hosts(10, LOST, &[0, 1, 2]), None),
        ("four of ten", hosts(10, LOST, &[0, 1, 2, 3]), Some(SAME_DRIFT)),
        ("three that began one after the other", hosts(9, LOST, &[0, 200, 400]), None),
        ("old ones and three new ones", hosts(9, LOST, &[-9000, -8000, 10, 20, 30]), Some(SAME_DRIFT)),
        ("a new version that the owner asks for", hosts(4, DriftKind::ModuleOld, &[0, 0, 0, 0]), None),
        ("what the owner wants stopped", hosts(4, DriftKind::StillRunning, &[0, 0, 0, 0]), None),
        ("a Secret that is gone", hosts(4, DriftKind::KeyUnknown, &[0, 0, 0, 0]), None),
        ("a small fleet after a power failure", hosts(5, DriftKind::ProcessMissing, &[0, 1, 2, 3, 4]), None),
        ("a large one", hosts(9, DriftKind::ProcessMissing, &[0, 1, 2, 3, 4, 5]), Some(SAME_DRIFT)),
        ("everything silent", hosts(4, DriftKind::HostSilent, &[0, 0, 0, 0]), Some(SAME_DRIFT)),
    ] {
        assert_eq!(reason(&facts(&hosts)), wanted, "{words}");
    }
}

#[test]
fn a_third_is_of_those_that_are_described_to_have_it() {
    let mut all = hosts(60, LOST, &[0, 1, 2]);
    assert_eq!(reason(&facts(&all)), None);
    for host in all.iter_mut().skip(8) {
        host.described.remove(conditions::SERVICES_RUNNING);
    }
    assert_eq!(reason(&facts(&all)), Some(SAME_DRIFT), "three of eight that run services");
}

#[test]
fn different_faults_on_every_host_of_a_small_fleet_are_healed() {
    // `together::everything`: all that can be broken at once on the lab's four hosts, while no operator runs.
    let all = [
        host(
            0,
            &[
                (conditions::SERVICES_RUNNING, DriftKind::ProcessMissing, 0),
                (conditions::PROXY_SERVING, DriftKind::NothingListens, 0),
            ],
        ),
        host(1, &[(conditions::SERVICES_RUNNING, DriftKind::ProcessMissing, 1)]),
        host(2, &[(conditions::SERVICES_RUNNING, DriftKind::RestartsClimbing, 2)]),
        host(3, &[(conditions::REACHABLE, DriftKind::HostSilent, 3)]),
    ];
    assert_eq!(reason(&Facts { started: at(0), changed: Some(at(0)), ..facts(&all) }), None);
}

#[test]
fn many_drifts_right_after_the_start_or_a_change_hold() {
    let kinds = [
        DriftKind::ProcessMissing,
        DriftKind::NothingListens,
        DriftKind::RedirectMissing,
        DriftKind::DockerNotAnswering,
        DriftKind::KeyRefused,
        DriftKind::RestartsClimbing,
    ];
    let all: Vec<HostSigns> = (0..18)
        .map(|number| match kinds.get(number) {
            Some(kind) => host(number, &[(conditions::SERVICES_RUNNING, *kind, 60)]),
            None => host(number, &[]),
        })
        .collect();
    assert_eq!(reason(&facts(&all)), None, "in the middle of a day");
    assert_eq!(reason(&Facts { started: at(0), ..facts(&all) }), Some(AFTER_START));
    assert_eq!(reason(&Facts { changed: Some(at(30)), ..facts(&all) }), Some(AFTER_CHANGE));
    assert_eq!(reason(&Facts { changed: Some(at(61)), ..facts(&all) }), None, "they were there before");
    assert_eq!(reason(&Facts { started: at(-300), ..facts(&all) }), None, "later than minutes after");
    assert_eq!(reason(&Facts { started: at(0), ..facts(&all[1..]) }), None, "five");
    let large: Vec<HostSigns> = all.iter().cloned().chain((18..24).map(|number| host(number, &[]))).collect();
    assert_eq!(reason(&Facts { started: at(0), ..facts(&large) }), None, "six of 24");
}

#[test]
fn remedies_that_fail_on_many_hosts_hold() {
    let four = hosts(4, LOST, &[]);
    let failing = |hosts: &[usize], step: &str, times: i64| -> Vec<Remedy> {
        let each = |host: &usize| (0..times).map(move |time| (*host, time)).collect::<Vec<_>>();
        hosts.iter().flat_map(each).map(|(host, time)| remedy(host, step, time, false)).collect()
    };
    let of = |remedies: &[Remedy]| reason(&Facts { remedies, ..facts(&four) });
    assert_eq!(of(&failing(&[0, 1], "StartProcess", 3)), None, "two hosts");
    assert_eq!(of(&failing(&[0, 1, 2], "StartProcess", 1)), None, "once each");
    assert_eq!(of(&failing(&[0, 1, 2], "StartProcess", 2)), Some(REMEDIES_FAIL));
    assert_eq!(of(&failing(&[0, 1, 2], "Reboot", 1)), Some(REMEDIES_FAIL), "a whole machine, once");
    let mut healed = failing(&[0, 1, 2], "StartProcess", 2);
    healed.push(remedy(1, "StartProcess", 9, true));
    assert_eq!(of(&healed), None, "it helped one of them in the end");
    let mut old = failing(&[0, 1, 2], "StartProcess", 2);
    old.iter_mut().for_each(|remedy| remedy.at = at(-1300));
    assert_eq!(of(&old), None, "longer ago");
    let strangers = failing(&[7, 8, 9], "StartProcess", 2);
    assert_eq!(of(&strangers), None, "hosts that are gone");
}

#[test]
fn a_persons_word_takes_away_what_began_before_it() {
    let all = hosts(4, LOST, &[0, 1, 2]);
    let released = |second| Facts { released: Some(at(second)), ..facts(&all) };
    assert_eq!(reason(&released(2)), None);
    assert_eq!(reason(&released(-1)), Some(SAME_DRIFT), "an old word");
    assert_eq!(reason(&released(86_400)), Some(SAME_DRIFT), "a word from the future");
}

fn fleet(released: Option<i64>) -> Fleet {
    Fleet { generation: 1, observed_generation: 1, interval: Duration::from_secs(30), released: released.map(at) }
}

#[test]
fn it_opens_by_itself_when_looks_agree_for_a_while_and_not_before() {
    let mut brake = Brake::default();
    let mut look = |hosts: Vec<HostSigns>, second| brake.look(&fleet(None), hosts, at(-86_400), at(second));
    assert_eq!(look(hosts(4, LOST, &[]), 0), None);
    let held = look(hosts(4, LOST, &[1, 2, 3]), 10).unwrap();
    // More of the same is no news.
    assert_eq!(look(hosts(4, LOST, &[1, 2, 3, 4]), 20), Some(held.clone()));
    // It lasts for hours: still held.
    assert_eq!(look(hosts(4, LOST, &[1, 2, 3, 4]), 20_000), Some(held.clone()));
    assert_eq!(look(hosts(4, LOST, &[1]), 20_010), Some(held.clone()));
    assert_eq!(look(hosts(4, LOST, &[1]), 20_129), Some(held.clone()));
    // It flaps: the time of calm begins anew.
    assert_eq!(look(hosts(4, LOST, &[1, 20_129, 20_129, 20_129]), 20_130), Some(held.clone()));
    assert_eq!(look(hosts(4, LOST, &[1]), 20_140), Some(held.clone()));
    assert_eq!(look(hosts(4, LOST, &[1]), 20_259), Some(held));
    assert_eq!(look(hosts(4, LOST, &[1]), 20_260), None);
}

#[test]
fn a_persons_word_opens_it_at_once_and_it_stays_open() {
    let mut brake = Brake::default();
    let all = || hosts(4, LOST, &[1, 2, 3]);
    assert!(brake.look(&fleet(None), all(), at(-86_400), at(10)).is_some());
    assert!(brake.look(&fleet(Some(5)), all(), at(-86_400), at(11)).is_some(), "a word from before it began");
    assert_eq!(brake.look(&fleet(Some(12)), all(), at(-86_400), at(13)), None);
    assert_eq!(brake.look(&fleet(Some(12)), all(), at(-86_400), at(5000)), None);
    let again = hosts(4, LOST, &[6000, 6001, 6002]);
    // The same kind went and came anew.
    assert_eq!(brake.look(&fleet(Some(12)), hosts(4, LOST, &[]), at(-86_400), at(5500)), None);
    assert!(brake.look(&fleet(Some(12)), again, at(-86_400), at(6003)).is_some());
}

#[test]
fn a_restart_learns_it_again_from_statuses() {
    let all = hosts(4, LOST, &[1, 2, 3]);
    let mut new = Brake::default();
    assert!(new.look(&fleet(None), all, at(9000), at(9001)).is_some());
    // What held before and has gone meanwhile is still waited for.
    let mut resumed = Brake::default();
    resumed.resume(SAME_DRIFT, "words", at(1));
    assert_eq!(resumed.look(&fleet(None), hosts(4, LOST, &[]), at(9000), at(9001)).unwrap().words, "words");
    assert_eq!(resumed.look(&fleet(None), hosts(4, LOST, &[]), at(9000), at(9121)), None);
    let mut unknown = Brake::default();
    unknown.resume("Other", "words", at(1));
    assert_eq!(unknown.look(&fleet(None), hosts(4, LOST, &[]), at(9000), at(9001)), None);
}

#[test]
fn a_kind_that_follows_another_one_has_begun_when_it_was_first_seen() {
    let mut brake = Brake::default();
    let climbing = hosts(4, DriftKind::RestartsClimbing, &[0, 2000, 4000]);
    assert_eq!(brake.look(&fleet(None), climbing, at(-86_400), at(9000)), None);
    // The conditions stay False, with the times of their own transitions.
    let lost = hosts(4, LOST, &[0, 2000, 4000]);
    assert!(brake.look(&fleet(None), lost.clone(), at(-86_400), at(9030)).is_some());
    let words: Vec<Option<Held>> =
        (1..4).map(|n| brake.look(&fleet(None), lost.clone(), at(-86_400), at(9030 + n))).collect();
    assert!(words.iter().all(Option::is_some));
}

#[test]
fn a_changed_description_is_noticed() {
    let many = |since: i64| -> Vec<HostSigns> {
        let kinds = DriftKind::ALL.iter().copied().filter(|kind| counts(*kind));
        kinds.take(6).enumerate().map(|(n, kind)| host(n, &[(conditions::SERVICES_RUNNING, kind, since)])).collect()
    };
    let healthy = || (0..6).map(|number| host(number, &[])).collect::<Vec<_>>();
    let mut brake = Brake::default();
    assert_eq!(brake.look(&fleet(None), healthy(), at(-86_400), at(0)), None);
    let changed = Fleet { generation: 2, ..fleet(None) };
    assert_eq!(brake.look(&changed, healthy(), at(-86_400), at(10)), None);
    assert_eq!(brake.look(&changed, many(40), at(-86_400), at(41)).unwrap().reason, AFTER_CHANGE);
    // A host's own description counts as well.
    let mut brake = Brake::default();
    assert_eq!(brake.look(&fleet(None), healthy(), at(-86_400), at(0)), None);
    let mut hosts = many(40);
    hosts[3].generation = 2;
    assert_eq!(brake.look(&fleet(None), hosts, at(-86_400), at(40)).unwrap().reason, AFTER_CHANGE);
}

#[test]
fn signs_are_what_conditions_tell() {
    let mut list = Conditions::new(&[], 1, at(5));
    list.set(conditions::REACHABLE, Is::False, "Hung", "");
    list.set(conditions::SERVICES_RUNNING, Is::False, "HeldBack", "");
    list.set(conditions::PROXY_SERVING, Is::False, "WrongKubectl", "");
    list.set(conditions::DOCKER_READY, Is::True, "ReclaimDue", "");
    list.set(conditions::HEALTHY, Is::False, "Drifted", "");
    let status = BinderHostStatus { conditions: list.list(), ..BinderHostStatus::default() };
    let found: Vec<DriftKind> = signs("uid", "web", 1, &status).signs.iter().map(|sign| sign.kind).collect();
    assert_eq!(found, [DriftKind::HostSilent, DriftKind::WrongKubectl]);
}

#[test]
fn only_what_disrupts_is_held_and_right_after_the_start_only_for_what_is_new() {
    let held = Held { reason: SAME_DRIFT, words: "NotListening began on 3 of 4 hosts".to_owned() };
    let view = FleetView { held: Some(held), ..FleetView::default() };
    let delete = services::Step::DeleteEntries { component: "web".to_owned(), processes: Vec::new() }.into();
    let redirect = port_redirects::Step::InsertRedirect { interface: "eth0".to_owned(), from: 80, to: 3000 }.into();
    assert!(holds(&view, &delete, LOST).unwrap().starts_with("the fleet's brake"));
    assert_eq!(holds(&view, &redirect, DriftKind::RedirectMissing), None);
    let started =
        |known: &[DriftKind]| FleetView { just_started: Some(known.iter().copied().collect()), ..FleetView::default() };
    assert!(holds(&started(&[]), &delete, LOST).is_some());
    assert_eq!(holds(&started(&[LOST]), &delete, LOST), None);
    assert_eq!(holds(&started(&[]), &redirect, DriftKind::RedirectMissing), None);
    let on = machine::Step::PowerOn { boot_id: None }.into();
    assert_eq!(holds(&started(&[DriftKind::HostSilent]), &on, DriftKind::HostOff), None);
    assert_eq!(holds(&FleetView::default(), &delete, LOST), None);
}
