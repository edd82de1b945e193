//! Who a machine is and how to reach it, parsed: past this module there are no strings that still could be wrong.
//!
//! Knows the formats of keys. Does not know where they are kept, and never shows a private one: no error and no
//! `Debug` of this module holds key material.

use std::fmt;
use std::sync::Arc;

use russh::keys::{Algorithm, EcdsaCurve, HashAlg, PrivateKey, PublicKey, PublicKeyBase64};
use secrecy::{ExposeSecret, SecretString};

use super::sanitize;

/// Everything it takes to log in to one machine.
#[derive(Debug, Clone)]
pub struct Target {
    /// The UID of the `BinderHost`, which tells two machines of the same name apart.
    pub id: String,
    /// The name that the owner gave it, for messages.
    pub name: String,
    /// A DNS name or an IP address.
    pub address: String,
    /// Where its sshd listens.
    pub port: u16,
    /// The login user.
    pub user: String,
    /// The keys it may prove itself with. One is enough; none means that nothing can be trusted, and no connection is
    /// made.
    pub host_keys: Vec<HostKey>,
    /// What we prove ourselves with.
    pub key: LoginKey,
}

impl Target {
    /// Name, address and port, for messages.
    pub fn endpoint(&self) -> Endpoint {
        Endpoint { name: self.name.clone(), address: self.address.clone(), port: self.port }
    }

    /// The login in one line: who, where, and with which version of the key. Holds no secret.
    pub fn login(&self) -> String {
        format!("{}@{}:{} {}", self.user, self.address, self.port, self.key.version)
    }

    /// Whether a session to `self` may be used for `other`: same machine, same login, same proof expected.
    pub(super) fn same_session(&self, other: &Target) -> bool {
        self.same_place(other) && self.same_login(other)
    }

    /// Whether both are reached at the same place and must prove the same there.
    pub(super) fn same_place(&self, other: &Target) -> bool {
        self.address == other.address && self.port == other.port && same_keys(&self.host_keys, &other.host_keys)
    }

    /// Whether both log in as the same user with the same version of the key.
    pub(super) fn same_login(&self, other: &Target) -> bool {
        self.user == other.user && self.key.version == other.key.version
    }
}

/// The order in which an owner lists keys means nothing.
fn same_keys(a: &[HostKey], b: &[HostKey]) -> bool {
    a.iter().all(|key| b.contains(key)) && b.iter().all(|key| a.contains(key))
}

/// A machine in a message: `binder-web-deploy (198.18.0.12:22)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The owner's name for it.
    pub name: String,
    /// Its address.
    pub address: String,
    /// The port of its sshd.
    pub port: u16,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // An IPv6 address needs its brackets before a port.
        let (open, close) = if self.address.contains(':') { ("[", "]") } else { ("", "") };
        write!(f, "{} ({open}{}{close}:{})", self.name, self.address, self.port)
    }
}

/// A pinned host key: the machine must prove that it holds the private half.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostKey(PublicKey);

/// A text that is not a host key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadHostKey {
    /// Nothing there.
    #[error("the host key is empty; write what `ssh-keyscan` prints after the host's name, as `ssh-ed25519 AAAA...`")]
    Empty,
    /// A line of a `known_hosts` file, which begins with the name of a host.
    #[error("`{first}` is not an algorithm; leave out the host's name that stands before `{algorithm}`")]
    KnownHostsLine {
        /// The first word.
        first: String,
        /// The second word, which is an algorithm.
        algorithm: String,
    },
    /// Of a kind that is not accepted: DSA, a hardware key, a certificate, or something unknown.
    #[error("host keys of the kind `{algorithm}` are not accepted; use ssh-ed25519, ecdsa-sha2-nistp* or ssh-rsa")]
    Algorithm {
        /// The first word.
        algorithm: String,
    },
    /// Not base64, cut off, or of another kind than its first word says.
    #[error("the key after `{algorithm}` cannot be read; was it cut off or broken over lines?")]
    Unreadable {
        /// The first word.
        algorithm: String,
    },
}

impl HostKey {
    /// Reads `ssh-ed25519 AAAA...`, as in a public key file; a comment may follow.
    pub fn parse(text: &str) -> Result<Self, BadHostKey> {
        let mut words = text.split_whitespace();
        let first = words.next().ok_or(BadHostKey::Empty)?;
        if !is_algorithm(first) {
            return Err(match words.next().filter(|word| is_algorithm(word)) {
                Some(algorithm) => BadHostKey::KnownHostsLine { first: shown(first), algorithm: algorithm.to_owned() },
                None => BadHostKey::Algorithm { algorithm: shown(first) },
            });
        }
        let unreadable = || BadHostKey::Unreadable { algorithm: first.to_owned() };
        let blob = words.next().ok_or_else(unreadable)?;
        // The comment is left out: two keys are the same whatever it says.
        let key = PublicKey::from_openssh(&format!("{first} {blob}")).map_err(|_| unreadable())?;
        if key.algorithm().as_str() != first {
            return Err(unreadable());
        }
        Ok(Self(key))
    }

    /// `SHA256:...`, as `ssh-keygen -l` shows it.
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.0)
    }

    pub(super) fn is(&self, presented: &PublicKey) -> bool {
        self.0.key_data() == presented.key_data()
    }

    pub(super) fn algorithm(&self) -> Algorithm {
        self.0.algorithm()
    }
}

impl fmt::Display for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.0.algorithm().as_str(), self.fingerprint())
    }
}

impl std::str::FromStr for HostKey {
    type Err = BadHostKey;

    fn from_str(text: &str) -> Result<Self, BadHostKey> {
        Self::parse(text)
    }
}

/// `SHA256:...` of a public key.
pub(super) fn fingerprint(key: &PublicKey) -> String {
    key.fingerprint(HashAlg::Sha256).to_string()
}

fn is_algorithm(word: &str) -> bool {
    ACCEPTED.iter().any(|algorithm| algorithm.as_str() == word)
}

/// What an owner typed, as far as a message repeats it.
fn shown(word: &str) -> String {
    sanitize(word.as_bytes(), 40)
}

/// The kinds of key that are accepted, of hosts and for logins. An RSA key counts here by its own name (`ssh-rsa`);
/// signatures with SHA-1 are refused elsewhere.
const ACCEPTED: [Algorithm; 5] = [
    Algorithm::Ed25519,
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 },
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP384 },
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP521 },
    Algorithm::Rsa { hash: None },
];

/// The private key that a machine is logged in to with. Clones share the one copy in memory, which is wiped when the
/// last is dropped.
#[derive(Clone)]
pub struct LoginKey {
    private: Arc<PrivateKey>,
    version: String,
    fingerprint: String,
}

/// A text that is not a private key we can use. Says nothing of what it holds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadLoginKey {
    /// Nothing there.
    #[error("the private key is empty")]
    Empty,
    /// A passphrase cannot be typed by an operator.
    #[error("the private key is protected by a passphrase; store one without (`ssh-keygen -p -N ''` takes it off)")]
    Passphrase,
    /// The `.pub` file was stored in place of the private one.
    #[error("this is a public key; the private one is needed (the file without `.pub`)")]
    Public,
    /// DSA, a hardware key, or something unknown.
    #[error("private keys of this kind are not accepted; use Ed25519, ECDSA or RSA")]
    Algorithm,
    /// Neither OpenSSH, PEM nor PuTTY format, or damaged.
    #[error("the private key cannot be read; expected is OpenSSH's format, or PEM (PKCS#1, PKCS#8, SEC1)")]
    Unreadable,
}

impl LoginKey {
    /// Reads a private key. `version` names this very version of it (the Secret's UID and `resourceVersion`): a login
    /// that was refused is tried again only with another version.
    pub fn parse(pem: &SecretString, version: impl Into<String>) -> Result<Self, BadLoginKey> {
        let pem = pem.expose_secret().trim();
        if pem.is_empty() {
            return Err(BadLoginKey::Empty);
        }
        if pem.split_whitespace().next().is_some_and(is_algorithm) {
            return Err(BadLoginKey::Public);
        }
        if says_encrypted(pem) {
            return Err(BadLoginKey::Passphrase);
        }
        // The library's errors are dropped on purpose: some repeat a part of what they could not read.
        let private = match russh::keys::decode_secret_key(pem, None) {
            Ok(key) => key,
            Err(russh::keys::Error::KeyIsEncrypted) => return Err(BadLoginKey::Passphrase),
            Err(russh::keys::Error::UnknownAlgorithm(_) | russh::keys::Error::UnsupportedKeyType { .. }) => {
                return Err(BadLoginKey::Algorithm);
            }
            Err(_) => return Err(BadLoginKey::Unreadable),
        };
        if !is_algorithm(private.algorithm().as_str()) {
            return Err(BadLoginKey::Algorithm);
        }
        let fingerprint = fingerprint(private.public_key());
        Ok(Self { private: Arc::new(private), version: version.into(), fingerprint })
    }

    /// Which version of the key this is, as given to [`LoginKey::parse`].
    pub fn version(&self) -> &str {
        &self.version
    }

    /// `SHA256:...` of the public half, which an owner can look for in `authorized_keys`.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The public half as a line of `authorized_keys`, without a comment.
    pub fn authorized_line(&self) -> String {
        let public = self.private.public_key();
        format!("{} {}", public.algorithm().as_str(), public.public_key_base64())
    }

    pub(super) fn private(&self) -> Arc<PrivateKey> {
        Arc::clone(&self.private)
    }

    pub(super) fn is_rsa(&self) -> bool {
        matches!(self.private.algorithm(), Algorithm::Rsa { .. })
    }
}

impl fmt::Debug for LoginKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoginKey")
            .field("version", &self.version)
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}

/// The PEM formats say so in plain text: PKCS#8 in its label, PKCS#1 in a header. (OpenSSH's own says it inside.)
fn says_encrypted(pem: &str) -> bool {
    pem.lines().any(|line| {
        line.starts_with("-----BEGIN ENCRYPTED ")
            || line.starts_with("Proc-Type:") && line.contains("ENCRYPTED")
            || line.starts_with("Encryption:") && !line.contains("none")
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::hosts::tests::key_pair;

    #[test]
    fn keys_of_every_accepted_kind_and_format() {
        for kind in [&["-t", "ed25519"][..], &["-t", "ecdsa", "-b", "384"], &["-t", "rsa", "-b", "2048"]] {
            for format in [&[][..], &["-m", "PEM"], &["-m", "PKCS8"]] {
                if kind[1] == "ed25519" && !format.is_empty() {
                    continue; // ssh-keygen writes Ed25519 keys in its own format only
                }
                let (private, public) = key_pair(&[kind, format, &["-N", ""]].concat());
                let key = LoginKey::parse(&private, "uid/7").unwrap_or_else(|e| panic!("{kind:?} {format:?}: {e}"));
                let host_key = HostKey::parse(&public).unwrap();
                assert_eq!(key.fingerprint(), host_key.fingerprint());
                assert!(host_key.fingerprint().starts_with("SHA256:"));
                assert_eq!(key.version(), "uid/7");
            }
        }
    }

    #[test]
    fn a_passphrase_is_said_to_be_one() {
        for format in [&[][..], &["-m", "PEM"], &["-m", "PKCS8"]] {
            let (private, _) = key_pair(&[&["-t", "ecdsa"][..], format, &["-N", "secret"]].concat());
            assert_eq!(LoginKey::parse(&private, "").unwrap_err(), BadLoginKey::Passphrase, "{format:?}");
        }
    }

    #[test]
    fn a_public_key_is_not_a_login_key() {
        let (_, public) = key_pair(&["-t", "ed25519", "-N", ""]);
        assert_eq!(LoginKey::parse(&public.into(), "").unwrap_err(), BadLoginKey::Public);
        assert_eq!(LoginKey::parse(&" \n".into(), "").unwrap_err(), BadLoginKey::Empty);
    }

    #[test]
    fn nothing_of_a_private_key_is_shown() {
        let (private, _) = key_pair(&["-t", "ed25519", "-N", ""]);
        let body: Vec<&str> = private.expose_secret().lines().filter(|l| !l.starts_with('-')).collect();
        let key = LoginKey::parse(&private, "v").unwrap();
        let damaged: SecretString = private.expose_secret().replacen(&body[1][..8], "!!!!!!!!", 1).into();
        let error = LoginKey::parse(&damaged, "v").unwrap_err();
        for shown in [format!("{key:?}"), format!("{error} {error:?}")] {
            for line in &body {
                assert!(!shown.contains(&line[..16]), "{shown}");
            }
        }
    }

    #[test]
    fn host_keys_that_are_not() {
        let (_, public) = key_pair(&["-t", "ed25519", "-N", ""]);
        let blob = public.split_whitespace().nth(1).unwrap().to_owned();
        assert_eq!(HostKey::parse("  "), Err(BadHostKey::Empty));
        assert!(matches!(HostKey::parse(&format!("10.0.0.1 {public}")), Err(BadHostKey::KnownHostsLine { .. })));
        assert!(matches!(HostKey::parse("ssh-dss AAAA"), Err(BadHostKey::Algorithm { .. })));
        assert!(matches!(HostKey::parse("ssh-ed25519"), Err(BadHostKey::Unreadable { .. })));
        assert!(matches!(HostKey::parse(&format!("ssh-rsa {blob}")), Err(BadHostKey::Unreadable { .. })));
        assert!(matches!(HostKey::parse(&format!("ssh-ed25519 {}", &blob[..40])), Err(BadHostKey::Unreadable { .. })));
    }

    #[test]
    fn a_comment_makes_no_difference() {
        let (_, public) = key_pair(&["-t", "ed25519", "-N", ""]);
        let bare: Vec<&str> = public.split_whitespace().take(2).collect();
        assert_eq!(HostKey::parse(&public), HostKey::parse(&bare.join(" ")));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parsers_panic(text in ".{0,200}") {
            let _ = HostKey::parse(&text);
            let _ = HostKey::parse(&format!("ssh-ed25519 {text}"));
            let _ = LoginKey::parse(&text.clone().into(), "");
            let _ = LoginKey::parse(&format!("-----BEGIN OPENSSH PRIVATE KEY-----\n{text}\n").into(), "");
        }
    }
}
