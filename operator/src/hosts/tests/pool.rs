//! The pool: shared attempts, back-off, and logins that are not tried again. Under paused time; no command is run.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use russh::keys::Algorithm;
use tokio::time::{Instant, advance};

use super::fake::{Logins, Machine};
use super::keys::{foreign_host_key, login_key, rsa_login_key};
use super::*;

/// Waits as long as it may, so that times are known.
fn longest() -> Jitter {
    Arc::new(|ceiling| ceiling)
}

fn hosts(machine: &Machine) -> Hosts {
    Hosts::over(Arc::new(machine.clone()), limits(), longest())
}

/// A network on which nobody answers.
#[derive(Default)]
struct Nobody(AtomicUsize);

impl Nobody {
    fn dialled(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

struct To(Arc<Nobody>);

impl Dial for To {
    fn dial<'a>(&'a self, _: &'a Target, _: Duration) -> BoxFuture<'a, Result<Box<dyn HostStream>, Unreached>> {
        self.0.0.fetch_add(1, Ordering::SeqCst);
        Box::pin(async { Err(Unreached::Refused) })
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_is_kept_and_an_attempt_is_shared() {
    let machine = Machine::new();
    let hosts = hosts(&machine);
    let sessions = futures::future::join_all((0..10).map(|_| hosts.session(&machine.target)))
        .await
        .into_iter()
        .map(Result::unwrap);
    let first = hosts.session(&machine.target).await.unwrap();
    for session in sessions {
        assert!(Arc::ptr_eq(&session, &first));
    }
    assert_eq!((machine.seen.connections(), hosts.open_sessions()), (1, 1));
    assert!(Arc::ptr_eq(&hosts.open_session("uid-1").unwrap(), &first));
}

#[tokio::test(start_paused = true)]
async fn attempts_back_off_and_asking_in_between_costs_nothing() {
    let nobody = Arc::new(Nobody::default());
    let hosts = Hosts::over(Arc::new(To(Arc::clone(&nobody))), limits(), longest());
    let target = Machine::new().target;
    for (attempt, wait) in [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300].into_iter().enumerate() {
        let asked = Instant::now();
        let error = hosts.session(&target).await.unwrap_err();
        assert!(matches!(*error.why, ConnectError::Unreachable { why: Unreached::Refused, .. }));
        assert!(error.next_attempt_at().is_some());
        assert_eq!(nobody.dialled(), attempt + 1);
        advance(Duration::from_secs(wait) - Duration::from_millis(1)).await;
        // The same answer, word for word, and no attempt.
        assert_eq!(hosts.session(&target).await.unwrap_err(), error);
        assert_eq!(nobody.dialled(), attempt + 1, "after {:?}", asked.elapsed());
        advance(Duration::from_millis(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn all_who_wait_share_a_failure() {
    let nobody = Arc::new(Nobody::default());
    let hosts = Hosts::over(Arc::new(To(Arc::clone(&nobody))), limits(), Arc::new(|_| Duration::ZERO));
    let target = Machine::new().target;
    let results = futures::future::join_all((0..10).map(|_| hosts.session(&target))).await;
    assert!(results.iter().all(Result::is_err));
    assert_eq!(nobody.dialled(), 1);
}

#[tokio::test(start_paused = true)]
async fn another_address_is_tried_at_once() {
    let nobody = Arc::new(Nobody::default());
    let hosts = Hosts::over(Arc::new(To(Arc::clone(&nobody))), limits(), longest());
    let mut target = Machine::new().target;
    hosts.session(&target).await.unwrap_err();
    target.address = "198.18.0.2".into();
    hosts.session(&target).await.unwrap_err();
    assert_eq!(nobody.dialled(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_refused_login_is_never_tried_again_until_the_key_or_the_user_changes() {
    for logins in [Logins::Refused, Logins::MoreWanted] {
        let machine = Machine::new().logins(logins);
        let hosts = hosts(&machine);
        let mut target = machine.target.clone();
        for _ in 0..50 {
            let error = hosts.session(&target).await.unwrap_err();
            assert_eq!((error.retry, error.next_attempt_at()), (Retry::WhenLoginChanges, None));
            advance(Duration::from_secs(3600)).await;
        }
        assert_eq!((machine.seen.keys_shown(), machine.seen.connections()), (1, 1));

        let first = target.key.clone();
        target.key = login_key("secret/2");
        hosts.session(&target).await.unwrap_err();
        assert_eq!(machine.seen.keys_shown(), 2);
        target.user = "binder".into();
        hosts.session(&target).await.unwrap_err();
        assert_eq!(machine.seen.keys_shown(), 3);
        // Back to the first: still remembered.
        (target.user, target.key) = ("andrew".into(), first);
        hosts.session(&target).await.unwrap_err();
        assert_eq!(machine.seen.keys_shown(), 3);
    }
}

#[tokio::test]
async fn a_refused_rsa_key_is_remembered_as_one_after_a_restart() {
    let rsa = || {
        let mut machine = Machine::new().logins(Logins::Refused).announces(&[Algorithm::Ed25519]);
        machine.target.key = rsa_login_key("secret/1");
        machine
    };
    for (machine, says) in [
        (Machine::new().logins(Logins::Refused), "refuses the login"),
        (Machine::new().logins(Logins::MoreWanted), "further proof"),
        (rsa(), "OpenSSH 7.2"),
    ] {
        let before = hosts(&machine);
        before.session(&machine.target).await.unwrap_err();
        let told = before.refused_login("uid-1");
        let after = hosts(&machine);
        after.remember_refusal(&machine.target, told.as_deref());
        let error = after.session(&machine.target).await.unwrap_err();
        assert_eq!(error.retry, Retry::WhenLoginChanges);
        assert!(error.why.to_string().contains(says), "{}", error.why);
        assert_eq!((machine.seen.keys_shown(), after.refused_login("uid-1")), (1, told));
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_login_is_remembered_even_if_nobody_waited_for_it() {
    let machine = Machine::new().logins(Logins::Refused);
    let hosts = hosts(&machine);
    {
        let mut asked = Box::pin(hosts.session(&machine.target));
        assert!(futures::poll!(&mut asked).is_pending());
    }
    tokio::time::sleep(Duration::from_secs(10)).await;
    hosts.session(&machine.target).await.unwrap_err();
    assert_eq!((machine.seen.keys_shown(), machine.seen.connections()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_foreign_host_key_is_looked_at_again_after_ten_minutes_or_when_the_pin_changes() {
    let machine = Machine::new();
    let hosts = hosts(&machine);
    let mut target = machine.target.clone();
    target.host_keys = vec![foreign_host_key("ed25519")];
    for minute in 0..20 {
        let error = hosts.session(&target).await.unwrap_err();
        assert!(matches!(*error.why, ConnectError::HostKeyMismatch { .. }));
        assert_eq!(machine.seen.connections(), 1 + minute / 10);
        advance(Duration::from_secs(60)).await;
    }
    hosts.session(&machine.target).await.unwrap();
    assert_eq!(machine.seen.keys_shown(), 1);
}

#[tokio::test(start_paused = true)]
async fn no_pin_is_said_without_an_attempt() {
    let machine = Machine::new();
    let hosts = hosts(&machine);
    let mut target = machine.target.clone();
    target.host_keys.clear();
    for _ in 0..3 {
        assert_eq!(hosts.session(&target).await.unwrap_err().retry, Retry::WhenHostKeyPinned);
        advance(Duration::from_secs(3600)).await;
    }
    assert_eq!(machine.seen.connections(), 0);
    hosts.session(&machine.target).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_changed_target_gets_a_new_session_and_the_order_of_keys_is_no_change() {
    let machine = Machine::new();
    let hosts = hosts(&machine);
    let mut target = machine.target.clone();
    target.host_keys.push(foreign_host_key("ed25519"));
    let first = hosts.session(&target).await.unwrap();
    target.host_keys.reverse();
    assert!(Arc::ptr_eq(&hosts.session(&target).await.unwrap(), &first));
    target.key = login_key("secret/2");
    let second = hosts.session(&target).await.unwrap();
    assert!(!Arc::ptr_eq(&second, &first));
    // Whoever still uses the old one may finish.
    assert!(first.is_open());
    assert_eq!(machine.seen.connections(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_lost_session_is_made_anew_at_once_if_it_was_steady() {
    let machine = Machine::new();
    let hosts = hosts(&machine);
    let first = hosts.session(&machine.target).await.unwrap();
    advance(Duration::from_secs(11)).await;
    machine.cut();
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert!(!first.is_open());
    let second = hosts.session(&machine.target).await.unwrap();
    assert!(second.is_open());
    assert_eq!(machine.seen.connections(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_drops_every_login_is_not_asked_in_a_tight_loop() {
    let machine = Machine::new();
    let hosts = hosts(&machine);
    let mut made = 0;
    for _ in 0..600 {
        if let Ok(session) = hosts.session(&machine.target).await {
            made += 1;
            machine.cut();
            while session.is_open() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        advance(Duration::from_millis(100)).await;
    }
    // A minute at 1, 2, 4, 8, 16 and 32 s.
    assert!((5..=7).contains(&made), "{made}");
    let error = hosts.session(&machine.target).await.unwrap_err();
    assert!(matches!(*error.why, ConnectError::Unsteady { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_machine_is_disconnected() {
    let machine = Machine::new();
    let hosts = hosts(&machine);
    let session = hosts.session(&machine.target).await.unwrap();
    hosts.forget("uid-1");
    assert!(!session.is_open());
    assert_eq!(hosts.open_sessions(), 0);
    assert!(hosts.open_session("uid-1").is_none());
    hosts.forget("never-known");
}

#[tokio::test(start_paused = true)]
async fn a_disconnected_machine_is_remembered_and_a_forgotten_one_is_not() {
    let machine = Machine::new();
    let pool = hosts(&machine);
    let session = pool.session(&machine.target).await.unwrap();
    pool.disconnect("uid-1");
    assert!(!session.is_open());
    // Not held against it: the end was ours.
    assert!(pool.session(&machine.target).await.unwrap().is_open());

    let machine = Machine::new().logins(Logins::Refused);
    let pool = hosts(&machine);
    pool.session(&machine.target).await.unwrap_err();
    pool.disconnect("uid-1");
    pool.session(&machine.target).await.unwrap_err();
    assert_eq!(machine.seen.keys_shown(), 1);
    pool.forget("uid-1");
    pool.session(&machine.target).await.unwrap_err();
    assert_eq!(machine.seen.keys_shown(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_worn_session_is_replaced_when_nobody_uses_it() {
    let machine = Machine::new();
    let hosts = hosts(&machine);
    let session = hosts.session(&machine.target).await.unwrap();
    session.leaked_channels.store(u32::MAX, Ordering::Relaxed);
    assert!(Arc::ptr_eq(&hosts.session(&machine.target).await.unwrap(), &session));
    drop(session);
    assert!(!hosts.session(&machine.target).await.unwrap().needs_reconnect());
    assert_eq!(machine.seen.connections(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_frozen_machine_is_noticed_by_its_silence() {
    let machine = Machine::new();
    let session = machine.connect().await;
    machine.freeze();
    tokio::time::sleep(Duration::from_secs(55)).await;
    assert!(session.is_open());
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(!session.is_open());
}
