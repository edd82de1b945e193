//! Fresh keys, from `ssh-keygen`.

use std::process::Command;

use secrecy::SecretString;

use crate::hosts::{HostKey, LoginKey};

/// A key pair by `ssh-keygen ARGS`, as private and public file.
pub(in crate::hosts) fn key_pair(args: &[&str]) -> (SecretString, String) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key");
    let output =
        Command::new("ssh-keygen").args(["-q", "-C", "a comment"]).args(args).arg("-f").arg(&file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let private = std::fs::read_to_string(&file).unwrap();
    (private.into(), std::fs::read_to_string(file.with_extension("pub")).unwrap())
}

/// An Ed25519 key to log in with.
pub(crate) fn login_key(version: &str) -> LoginKey {
    LoginKey::parse(&key_pair(&["-t", "ed25519", "-N", ""]).0, version).unwrap()
}

/// An RSA key to log in with.
pub(super) fn rsa_login_key(version: &str) -> LoginKey {
    LoginKey::parse(&key_pair(&["-t", "rsa", "-b", "2048", "-N", ""]).0, version).unwrap()
}

/// A pinned key that no machine holds.
pub(super) fn foreign_host_key(kind: &str) -> HostKey {
    HostKey::parse(&key_pair(&["-t", kind, "-N", ""]).1).unwrap()
}
