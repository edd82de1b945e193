//! Which algorithms a connection may use.
//!
//! Only current ones: no SHA-1, no CBC, no compression. What an old sshd of the fleet's time (OpenSSH 6.6, 2014)
//! offers is enough to get along. The lists are ours and not the library's defaults, so that an update of the library
//! cannot widen them.

use std::borrow::Cow;

use russh::keys::{Algorithm, HashAlg};
use russh::{Preferred, cipher, compression, kex, mac};

use super::target::HostKey;

/// Most wanted first. The last two are no algorithms but flags: `ext-info-c` asks which signatures the server takes
/// (RFC 8308), `kex-strict-c` closes the hole that Terrapin (CVE-2023-48795) found in the handshake.
const KEX: &[kex::Name] = &[
    kex::MLKEM768X25519_SHA256,
    kex::CURVE25519,
    kex::CURVE25519_PRE_RFC_8731,
    kex::DH_G18_SHA512,
    kex::DH_G16_SHA512,
    kex::DH_G14_SHA256,
    kex::EXTENSION_SUPPORT_AS_CLIENT,
    kex::EXTENSION_OPENSSH_STRICT_KEX_AS_CLIENT,
];

/// GCM before ChaCha20: Terrapin does not touch it, even with a server that knows no strict key exchange.
const CIPHERS: &[cipher::Name] = &[
    cipher::AES_256_GCM,
    cipher::AES_128_GCM,
    cipher::CHACHA20_POLY1305,
    cipher::AES_256_CTR,
    cipher::AES_192_CTR,
    cipher::AES_128_CTR,
];

const MACS: &[mac::Name] = &[mac::HMAC_SHA512_ETM, mac::HMAC_SHA256_ETM, mac::HMAC_SHA512, mac::HMAC_SHA256];

const COMPRESSION: &[compression::Name] = &[compression::NONE];

/// What is offered to a machine with these pinned keys. Of the kinds of host key only those that are pinned: a machine
/// has several, and would otherwise present the one that *it* likes best, which need not be a pinned one.
pub(super) fn preferred(pinned: &[HostKey]) -> Preferred {
    let mut kinds: Vec<Algorithm> = Vec::new();
    for key in pinned {
        let offered = match key.algorithm() {
            Algorithm::Rsa { .. } => {
                vec![Algorithm::Rsa { hash: Some(HashAlg::Sha512) }, Algorithm::Rsa { hash: Some(HashAlg::Sha256) }]
            }
            other => vec![other],
        };
        for algorithm in offered {
            if !kinds.contains(&algorithm) {
                kinds.push(algorithm);
            }
        }
    }
    Preferred {
        kex: Cow::Borrowed(KEX),
        key: Cow::Owned(kinds),
        host_key_certificates: Cow::Borrowed(&[]),
        cipher: Cow::Borrowed(CIPHERS),
        mac: Cow::Borrowed(MACS),
        compression: Cow::Borrowed(COMPRESSION),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hosts::tests::key_pair;

    fn pinned(kind: &str) -> HostKey {
        HostKey::parse(&key_pair(&["-t", kind, "-N", ""]).1).unwrap()
    }

    #[test]
    fn nothing_old_is_offered() {
        let offered = preferred(&[pinned("ed25519"), pinned("rsa")]);
        let names = (offered.kex.iter().map(AsRef::as_ref))
            .chain(offered.cipher.iter().map(AsRef::as_ref))
            .chain(offered.mac.iter().map(AsRef::as_ref))
            .chain(offered.key.iter().map(Algorithm::as_str));
        for name in names {
            assert!(!name.contains("sha1") && !name.contains("cbc") && name != "none" && name != "ssh-rsa", "{name}");
        }
        assert_eq!(offered.compression.iter().map(AsRef::<str>::as_ref).collect::<Vec<_>>(), ["none"]);
    }

    #[test]
    fn only_the_kinds_of_the_pinned_keys_are_offered() {
        let two = [pinned("ed25519"), pinned("ed25519")];
        assert_eq!(preferred(&two).key.as_ref(), [Algorithm::Ed25519]);
        let names: Vec<String> = preferred(&[pinned("rsa")]).key.iter().map(|a| a.as_str().to_owned()).collect();
        assert_eq!(names, ["rsa-sha2-512", "rsa-sha2-256"]);
    }
}
