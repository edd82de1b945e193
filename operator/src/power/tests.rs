//! What every way to power-cycle has in common.

use super::*;

#[test]
fn the_same_permit_gives_the_same_request_and_no_other_does() {
    let id = |host: &str, action: &str, purpose| request_id(&crate::hosts::tests::permit(host, action), purpose);
    let one = id("uid", "services-1", "reset");
    assert_eq!(one, id("uid", "services-1", "reset"));
    for other in [
        id("uid", "services-2", "reset"),
        id("uid2", "services-1", "reset"),
        id("uid", "services-1", "start"),
        id("uids", "ervices-1", "reset"),
    ] {
        assert_ne!(one, other);
    }
    // An action that was deleted comes again under the same name, as another object: another attempt.
    let recorded = |uid: &str| request_id(&crate::hosts::tests::permit("uid", "services-1").recorded(uid), "reset");
    assert_eq!(recorded("a"), recorded("a"));
    assert_ne!(recorded("a"), recorded("b"));
    let groups: Vec<usize> = one.split('-').map(str::len).collect();
    assert_eq!(groups, [8, 4, 4, 4, 12]);
    assert_eq!(one.as_bytes()[14], b'5');
    assert!("89ab".contains(char::from(one.as_bytes()[19])));
}

#[test]
fn a_key_that_could_begin_another_line_is_none() {
    let body = "AAAAC3NzaC1lZDI1NTE5AAAAIGI";
    let key = SshKey::new("andrew", &format!("ssh-ed25519 {body} me@home\n"));
    assert_eq!(key.map(|key| (key.user().to_owned(), key.key())), Ok(("andrew".into(), format!("ssh-ed25519 {body}"))));
    for (user, key) in [
        ("root:x", format!("ssh-ed25519 {body}")),
        ("a\nroot", format!("ssh-ed25519 {body}")),
        ("andrew", format!("ssh-ed25519 {body}\nroot:ssh-ed25519 {body}")),
        ("andrew", format!("command=\"reboot\" ssh-ed25519 {body}")),
        ("andrew", String::new()),
    ] {
        assert!(SshKey::new(user, &key).is_err(), "{user} {key}");
    }
}

#[test]
fn what_was_never_sent_never_happened() {
    let error = |doing, fault| PowerError { instance: "x".into(), doing, fault };
    let slow = || Fault::TimedOut { from: "cloud".into(), limit: Duration::from_secs(1) };
    assert!(error(Operation::Reset, slow()).may_have_happened());
    assert!(!error(Operation::Asking, slow()).may_have_happened());
    let token = Fault::Token { account: "a".into(), fault: Box::new(slow()) };
    assert_eq!(token.retryability(), Retryability::Later);
    assert!(!error(Operation::Reset, token).may_have_happened());
}
