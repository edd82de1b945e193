//! `decide` while the Secret does not have the API key: what is put back, by whom, and when a person is asked.

use crate::operator::Operator;
use crate::well;
use binder_core::seen::keys::{Found, KeySearch, Put};
use binder_crds::{Mode, conditions};
use binder_world::World;

fn agreed() -> Found {
    let logs = vec!["binder-health-checker-start on web".to_owned(), "binder-web-start on web".to_owned()];
    Found::Agreed { logs, taken_by: vec!["health on web".to_owned()] }
}

/// A host that was well, and whose fleet's Secret is gone.
fn searching(found: Found, put: Put) -> (Operator, World) {
    let (operator, mut world) = well();
    world.key_search = Some(KeySearch {
        namespace: "binder".to_owned(),
        secret: "binder-api-key".to_owned(),
        entry: "api-key".to_owned(),
        secret_is_there: false,
        found,
        put,
    });
    (operator, world)
}

fn message<'o>(operator: &'o Operator, kind: &str) -> &'o str {
    operator.status.conditions.iter().find(|one| one.type_ == kind).map_or("", |one| one.message.as_str())
}

#[test]
fn a_key_that_the_logs_agree_on_is_put_back_where_that_is_allowed() {
    let (mut operator, mut world) = searching(agreed(), Put::Here);
    operator.pass(&mut world);
    assert_eq!(operator.condition(conditions::API_KEY_ACCEPTED), ("False", "KeyUnknown"));
    assert_eq!(
        message(&operator, conditions::API_KEY_ACCEPTED),
        "the Secret binder-api-key with the API key does not exist; the logs of binder-health-checker-start on web and \
         binder-web-start on web tell the same one, which health on web took"
    );
    operator.run(&mut world, 10);
    assert_eq!(operator.ran, ["WriteApiKey"]);
    assert!(operator.healthy(), "{:#?}", operator.status);
}

#[test]
fn a_secret_that_cannot_be_written_is_tried_some_times_only() {
    let (mut operator, mut world) = searching(agreed(), Put::Here);
    world.deaf = true;
    operator.run(&mut world, 200);
    assert_eq!(operator.ran, ["WriteApiKey"; 3]);
    assert_eq!(operator.condition(conditions::STALLED), ("True", "AttemptsUsedUp"));
}

#[test]
fn once_is_enough_for_a_fleet() {
    let (mut operator, mut world) = searching(agreed(), Put::ByWayOf("binder-tester-2".to_owned()));
    operator.run(&mut world, 20);
    assert!(operator.ran.is_empty());
    assert_eq!(operator.status.waits_for, "binder-tester-2 to put the API key into the Secret");
    assert_eq!(operator.condition(conditions::STALLED), ("", ""));
    world.key_search = None;
    operator.pass(&mut world);
    assert!(operator.healthy());
}

#[test]
fn where_it_is_not_allowed_a_person_is_told_a_command_without_the_key() {
    let (mut operator, mut world) = searching(agreed(), Put::ByHand("ssh andrew@web 'grep ...'".to_owned()));
    operator.run(&mut world, 20);
    assert!(operator.ran.is_empty());
    assert_eq!(operator.condition(conditions::STALLED), ("True", "NeedsPerson"));
    let says = "; put it there: ssh andrew@web 'grep ...' | kubectl -n binder create secret generic binder-api-key \
                --from-file=api-key=/dev/stdin --dry-run=client -o yaml \
                | kubectl label --local -f - fleet.binder-project.org/purpose=api-key -o yaml \
                | kubectl -n binder apply --server-side -f -";
    assert!(message(&operator, conditions::API_KEY_ACCEPTED).ends_with(says));
    assert!(message(&operator, conditions::STALLED).contains(says));
}

#[test]
fn what_does_not_fit_together_is_never_written() {
    let who = || "binder-web-start on web".to_owned();
    for (found, reason, says) in [
        (
            Found::Disagree(vec![who(), "binder-build-start on t".to_owned()]),
            "KeysDisagree",
            "different ones: binder-web-start on web; binder-build-start on t",
        ),
        (
            Found::Refused("health on web".to_owned()),
            "KeysDisagree",
            "health on web refuses the one that the servers' logs tell",
        ),
        (Found::Odd(who()), "KeysDisagree", "not a key made by Binder"),
        (Found::Unproven(who()), "KeyUnknown", "only the log of binder-web-start on web tells one"),
        (Found::Nowhere, "KeyUnknown", "no log of a server tells one"),
    ] {
        for put in [Put::Here, Put::ByWayOf("t".to_owned()), Put::ByHand("ssh t".to_owned())] {
            let (mut operator, mut world) = searching(found.clone(), put);
            operator.run(&mut world, 30);
            assert!(operator.ran.is_empty(), "{found:?}: {:?}", operator.ran);
            assert_eq!(operator.condition(conditions::API_KEY_ACCEPTED), ("False", reason));
            assert_eq!(operator.condition(conditions::STALLED), ("True", "NeedsPerson"));
            let message = message(&operator, conditions::STALLED);
            assert!(message.contains(says) && message.contains("--from-file=api-key=FILE"), "{message}");
        }
    }
}

#[test]
fn what_was_not_seen_leads_to_no_step() {
    let (mut operator, mut world) = searching(Found::Unseen("the logs on t: too slow".to_owned()), Put::Here);
    operator.run(&mut world, 20);
    assert!(operator.ran.is_empty());
    assert_eq!(operator.condition(conditions::API_KEY_ACCEPTED), ("Unknown", "NotSeen"));
}

#[test]
fn in_observe_it_is_only_said() {
    let (mut operator, mut world) = searching(agreed(), Put::Here);
    operator.mode = Mode::Observe;
    operator.run(&mut world, 20);
    assert!(operator.ran.is_empty());
    assert_eq!(operator.status.next, "put the API key from the servers' logs into the Secret binder-api-key (1/3)");
    assert_eq!(operator.status.waits_for, "mode Enforce");
}
