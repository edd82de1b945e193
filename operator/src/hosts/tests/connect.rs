//! Getting a session, and every way of not getting one.

use std::time::{Duration, Instant};

use russh::keys::{Algorithm, HashAlg};

use super::fake::{Logins, Machine};
use super::keys::{foreign_host_key, rsa_login_key};
use super::*;

async fn refused(machine: &Machine) -> ConnectError {
    Session::connect_over(machine, &machine.target, &limits()).await.unwrap_err()
}

#[tokio::test]
async fn a_machine_that_proves_itself_is_logged_in_to_with_one_key_shown_once() {
    let machine = Machine::new();
    let session = machine.connect().await;
    assert!(session.is_open());
    assert_eq!((session.host(), machine.seen.keys_shown()), ("uid-1", 1));
    assert_eq!(session.endpoint().to_string(), "binder-test (198.18.0.1:22)");
}

#[tokio::test]
async fn one_of_several_pinned_keys_is_enough() {
    let mut machine = Machine::new();
    machine.target.host_keys.insert(0, foreign_host_key("ed25519"));
    machine.target.host_keys.insert(0, foreign_host_key("ecdsa"));
    machine.connect().await;
}

#[tokio::test]
async fn another_machine_is_told_by_its_key_and_sees_no_login() {
    let mut machine = Machine::new();
    let real = machine.target.host_keys.remove(0);
    let pinned = foreign_host_key("ed25519");
    machine.target.host_keys.push(pinned.clone());
    let error = refused(&machine).await;
    let ConnectError::HostKeyMismatch { presented: Presented::Key { fingerprint, .. }, pinned: told, .. } = &error
    else {
        panic!("{error:?}")
    };
    assert_eq!(*fingerprint, real.fingerprint());
    assert_eq!(*told, [pinned.to_string()]);
    assert_eq!(machine.seen.keys_shown(), 0);
    assert!(error.to_string().contains("is not the machine described"), "{error}");
}

#[tokio::test]
async fn a_machine_without_a_key_of_a_pinned_kind_is_another_machine_too() {
    let mut machine = Machine::new();
    machine.target.host_keys = vec![foreign_host_key("ecdsa")];
    let error = refused(&machine).await;
    let ConnectError::HostKeyMismatch { presented: Presented::Kinds(kinds), .. } = &error else { panic!("{error:?}") };
    assert_eq!(*kinds, ["ssh-ed25519"]);
}

#[tokio::test]
async fn without_a_pinned_key_there_is_not_even_a_connection() {
    let mut machine = Machine::new();
    machine.target.host_keys.clear();
    assert!(matches!(refused(&machine).await, ConnectError::NoHostKeyPinned { .. }));
    assert_eq!(machine.seen.connections(), 0);
}

#[tokio::test]
async fn a_refused_login_is_one_key_shown_once() {
    for logins in [Logins::Refused, Logins::RefusedForGood] {
        let machine = Machine::new().logins(logins);
        let error = refused(&machine).await;
        let ConnectError::LoginRefused { user, key_version, fingerprint, .. } = &error else { panic!("{error:?}") };
        assert_eq!((user.as_str(), key_version.as_str()), ("andrew", "secret/1"));
        assert_eq!(fingerprint, machine.target.key.fingerprint());
        assert_eq!(machine.seen.keys_shown(), 1);
    }
}

#[tokio::test]
async fn an_rsa_key_that_an_old_sshd_may_not_know_the_signature_of_is_told_from_one_that_is_not_there() {
    let sha256 = Algorithm::Rsa { hash: Some(HashAlg::Sha256) };
    for (kinds, old) in [(vec![Algorithm::Ed25519], true), (vec![Algorithm::Ed25519, sha256], false)] {
        let mut machine = Machine::new().logins(Logins::Refused).announces(&kinds);
        machine.target.key = rsa_login_key("secret/1");
        let error = refused(&machine).await;
        assert_eq!(matches!(error, ConnectError::RsaNotTaken { .. }), old, "{error:?}");
        assert_eq!(matches!(error, ConnectError::LoginRefused { .. }), !old, "{error:?}");
        assert_eq!(error.to_string().contains("ssh-keygen -t ed25519"), old, "{error}");
        assert_eq!(machine.seen.keys_shown(), 1);
    }
    // One that knows it lets us in all the same.
    let mut machine = Machine::new().announces(&[Algorithm::Ed25519]);
    machine.target.key = rsa_login_key("secret/1");
    machine.connect().await;
}

#[tokio::test]
async fn a_login_that_wants_more_is_told_apart() {
    let machine = Machine::new().logins(Logins::MoreWanted);
    assert!(matches!(refused(&machine).await, ConnectError::MoreProofWanted { .. }));
}

#[tokio::test]
async fn a_connection_that_breaks_during_the_login_is_no_refusal() {
    let machine = Machine::new().logins(Logins::Cut);
    let error = refused(&machine).await;
    assert!(matches!(error, ConnectError::Closed { stage: Stage::Login, .. }), "{error:?}");
}

#[tokio::test]
async fn silence_ends_at_the_limit_whenever_it_falls() {
    let limits = Limits { handshake: Duration::from_secs(2), ..limits() };
    let silent = Machine::new().greets(b"", false);
    let greeted = Machine::new().greets(b"SSH-2.0-frozen\r\n", false);
    let undecided = Machine::new().logins(Logins::Silent);
    for (machine, at) in [(silent, Stage::Greeting), (greeted, Stage::KeyExchange), (undecided, Stage::Login)] {
        let started = Instant::now();
        let error = Session::connect_over(&machine, &machine.target, &limits).await.unwrap_err();
        assert!(matches!(&error, ConnectError::Hung { stage, .. } if *stage == at), "{error:?}");
        assert!(started.elapsed() < Duration::from_secs(10));
    }
}

#[tokio::test]
async fn what_does_not_speak_ssh_is_not_quoted() {
    for closes in [true, false] {
        let machine =
            Machine::new().greets(b"220 mail.internal ESMTP Postfix\r\nHTTP/1.1 400 Bad Request\r\n\r\n", closes);
        let error = refused(&machine).await;
        assert!(!error.to_string().contains("Postfix") && !error.to_string().contains("HTTP"), "{error}");
    }
    let long = Machine::new().greets(&[b'x'; 5000], false);
    assert!(matches!(refused(&long).await, ConnectError::NotSsh { .. }));
}

#[tokio::test]
async fn an_sshd_that_hangs_up_is_quoted() {
    let machine = Machine::new().greets(b"Not allowed at this time\r\n", true);
    let error = refused(&machine).await;
    let ConnectError::Closed { said, .. } = &error else { panic!("{error:?}") };
    assert_eq!(said, "Not allowed at this time");
    assert!(matches!(refused(&Machine::new().greets(b"", true)).await, ConnectError::Closed { .. }));
}

#[tokio::test]
async fn garbage_for_a_key_exchange_is_refused() {
    let machine =
        Machine::new().greets(b"SSH-2.0-evil\r\n\xff\xff\xff\xff\x00\x00\x00\x00garbage garbage garbage", true);
    let error = refused(&machine).await;
    assert!(matches!(error, ConnectError::Protocol { .. } | ConnectError::Closed { .. }), "{error:?}");
}

#[tokio::test]
async fn a_banner_is_ignored_and_a_flood_of_it_is_refused() {
    Machine::new().banner("Authorised access only!\r\n".repeat(20)).connect().await;

    let limits = Limits { handshake_bytes: 8 * 1024, ..limits() };
    let machine = Machine::new().banner("x".repeat(20 * 1024));
    let error = Session::connect_over(&machine, &machine.target, &limits).await.unwrap_err();
    assert!(matches!(error, ConnectError::Protocol { .. }), "{error:?}");
    assert!(error.to_string().contains("before the login was done"), "{error}");
}

#[tokio::test]
async fn closing_and_dropping_end_the_connection() {
    let machine = Machine::new();
    let session = machine.connect().await;
    session.close();
    assert!(!session.is_open());
    let error = session.look(&probe(vec![section("a", "echo a")])).await.unwrap_err();
    assert!(matches!(error, LookError::NotStarted { .. }), "{error:?}");
}

#[tokio::test]
async fn real_networks_are_told_apart() {
    let mut target = Machine::new().target;
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    (target.address, target.port) = ("127.0.0.1".into(), closed.port());
    let error = Session::connect(&target, &limits()).await.unwrap_err();
    assert!(matches!(error, ConnectError::Unreachable { why: Unreached::Refused, .. }), "{error:?}");
    assert!(error.to_string().starts_with("binder-test (127.0.0.1:"), "{error}");

    target.address = "no-such-host.invalid".into();
    let error = Session::connect(&target, &limits()).await.unwrap_err();
    assert!(matches!(error, ConnectError::Unreachable { why: Unreached::NameNotFound, .. }), "{error:?}");
}
