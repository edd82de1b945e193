//! An instance's metadata, and one more login key in it. Pure.
//!
//! A key is one line of the item `ssh-keys`, `USER:TYPE BASE64 COMMENT`; the agent on the machine puts it into that user's
//! `authorized_keys`. Every other item and line is kept as it is, byte for byte.

use serde_json::{Value, json};

use crate::power::SshKey;

/// The item that holds login keys.
const KEYS: &str = "ssh-keys";

/// The item that says that login keys in metadata are not looked at.
const OS_LOGIN: &str = "enable-oslogin";

/// What a key is marked with: who put it there.
const COMMENT: &str = "binder-operator";

/// What metadata becomes with one more key.
#[derive(Debug, PartialEq)]
pub(super) enum WithKey {
    /// This.
    Changed(Value),
    /// Nothing else: the key is there.
    AlreadyThere,
    /// Nothing else: keys are not looked at.
    OsLogin,
    /// It cannot be told, since this is no metadata.
    Unreadable(&'static str),
}

/// Adds a key to an instance's `metadata` as the API gives it. What comes out has the fingerprint of what went in, so that
/// the API refuses it once somebody else has changed something.
pub(super) fn with_key(metadata: &Value, key: &SshKey) -> WithKey {
    let Some(fingerprint) = metadata["fingerprint"].as_str() else {
        return WithKey::Unreadable("its metadata has no fingerprint");
    };
    let mut items = match &metadata["items"] {
        Value::Null => Vec::new(),
        Value::Array(items) => items.clone(),
        _ => return WithKey::Unreadable("its metadata has no list of items"),
    };
    let value = |name: &str| items.iter().find(|item| item["key"] == name).and_then(|item| item["value"].as_str());
    if value(OS_LOGIN).is_some_and(|value| value.trim().eq_ignore_ascii_case("true")) {
        return WithKey::OsLogin;
    }
    let there = value(KEYS).unwrap_or_default();
    if there.lines().any(|line| is(line, key)) {
        return WithKey::AlreadyThere;
    }
    let mut lines = there.to_owned();
    if !lines.is_empty() && !lines.ends_with('\n') {
        lines.push('\n');
    }
    lines.push_str(&format!("{}:{} {COMMENT}", key.user(), key.key()));
    match items.iter_mut().find(|item| item["key"] == KEYS) {
        Some(item) => item["value"] = json!(lines),
        None => items.push(json!({"key": KEYS, "value": lines})),
    }
    WithKey::Changed(json!({"fingerprint": fingerprint, "items": items}))
}

/// Whether a line lets this key in, for good: one that expires (its comment begins with `google-ssh`) may have done so.
fn is(line: &str, key: &SshKey) -> bool {
    let Some((user, rest)) = line.trim().split_once(':') else { return false };
    let mut parts = rest.split_whitespace();
    let found = (parts.next(), parts.next());
    user == key.user()
        && format!("{} {}", found.0.unwrap_or_default(), found.1.unwrap_or_default()) == key.key()
        && parts.next() != Some("google-ssh")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BODY: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIGI";

    fn key() -> SshKey {
        SshKey::new("andrew", &format!("ssh-ed25519 {BODY} anybody@anywhere")).unwrap()
    }

    fn metadata(items: Value) -> Value {
        json!({"kind": "compute#metadata", "fingerprint": "f1", "items": items})
    }

    #[test]
    fn every_other_item_and_key_stays() {
        let before = metadata(json!([
            {"key": "startup-script", "value": "#!/bin/sh\nssh-keys\n"},
            {"key": "ssh-keys", "value": "carol:ssh-rsa AAAAB carol@home\nandrew:ssh-ed25519 AAAAother x"},
            {"key": "serial-port-enable", "value": "1"},
        ]));
        let WithKey::Changed(after) = with_key(&before, &key()) else { panic!("not changed") };
        assert_eq!(
            after,
            json!({"fingerprint": "f1", "items": [
                {"key": "startup-script", "value": "#!/bin/sh\nssh-keys\n"},
                {"key": "ssh-keys", "value": format!("carol:ssh-rsa AAAAB carol@home\nandrew:ssh-ed25519 AAAAother x\nandrew:ssh-ed25519 {BODY} binder-operator")},
                {"key": "serial-port-enable", "value": "1"},
            ]})
        );
        assert_eq!(with_key(&after, &key()), WithKey::AlreadyThere);
    }

    #[test]
    fn an_instance_without_keys_or_items_gets_them() {
        for before in [metadata(json!([])), json!({"fingerprint": "f1"})] {
            let WithKey::Changed(after) = with_key(&before, &key()) else { panic!("not changed") };
            assert_eq!(
                after["items"],
                json!([{"key": "ssh-keys", "value": format!("andrew:ssh-ed25519 {BODY} binder-operator")}])
            );
        }
    }

    #[test]
    fn the_same_key_for_another_user_or_for_a_while_is_another() {
        for line in [
            format!("carol:ssh-ed25519 {BODY}"),
            format!("andrew:ssh-ed25519 {BODY} google-ssh {{\"expireOn\":\"2016\"}}"),
        ] {
            let before = metadata(json!([{"key": "ssh-keys", "value": line}]));
            assert!(matches!(with_key(&before, &key()), WithKey::Changed(_)), "{line}");
        }
    }

    #[test]
    fn where_keys_are_not_looked_at_none_is_added() {
        let before = metadata(json!([{"key": "enable-oslogin", "value": "TRUE"}]));
        assert_eq!(with_key(&before, &key()), WithKey::OsLogin);
    }

    #[test]
    fn without_a_fingerprint_nothing_is_written() {
        for bad in [json!({}), json!(null), json!({"fingerprint": 1}), json!({"fingerprint": "f", "items": "x"})] {
            assert!(matches!(with_key(&bad, &key()), WithKey::Unreadable(_)), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_there_stays_and_the_key_is_added_once(lines in proptest::collection::vec("[ -~]{0,30}", 0..5), other in "\\PC{0,40}") {
            let value = lines.join("\n");
            let before = metadata(json!([{"key": "other", "value": other}, {"key": "ssh-keys", "value": value}]));
            if let WithKey::Changed(after) = with_key(&before, &key()) {
                prop_assert_eq!(&after["items"][0], &before["items"][0]);
                prop_assert!(after["items"][1]["value"].as_str().unwrap().starts_with(&value));
                prop_assert_eq!(with_key(&after, &key()), WithKey::AlreadyThere);
            }
        }
    }
}
