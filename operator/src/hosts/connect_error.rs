//! Why there is no session with a machine, in words for its owner.
//!
//! Plain data, so that it can be kept, compared and shown again. Everything a machine said is already sanitized here.

use std::fmt;
use std::time::Duration;

use super::target::Endpoint;
use super::wire::Unreached;

/// Why a machine could not be logged in to. Each message names the machine and its address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// No TCP connection. The only kind of failure that can mean a dead machine.
    #[error("{at} cannot be reached: {why}")]
    Unreachable {
        /// The machine.
        at: Endpoint,
        /// What the network said.
        why: Unreached,
    },
    /// A connection, and then silence: a frozen machine or a starved sshd.
    #[error("{at} accepts connections, but {stage} did not finish within {} s", after.as_secs_f32())]
    Hung {
        /// The machine.
        at: Endpoint,
        /// How far it got.
        stage: Stage,
        /// How long was waited.
        after: Duration,
    },
    /// The machine ended the connection before the login was decided. An sshd does this when it is overloaded
    /// (`MaxStartups`) or has had enough of the operator's address (`PerSourcePenalties`).
    #[error("{at} closed the connection during {stage}{}", saying(said))]
    Closed {
        /// The machine.
        at: Endpoint,
        /// How far it got.
        stage: Stage,
        /// What it said in mode, if anything.
        said: String,
    },
    /// Something else listens there. What it said is not told: it may be anybody's.
    #[error("{at} does not speak SSH")]
    NotSsh {
        /// The machine.
        at: Endpoint,
    },
    /// SSH, but broken or with nothing in common.
    #[error("{at} and the operator cannot agree on a secure connection: {why}")]
    Protocol {
        /// The machine.
        at: Endpoint,
        /// What went wrong.
        why: String,
    },
    /// The machine proved to hold another key than the pinned ones: it was reinstalled, it is another machine, or
    /// someone is in between. No login was tried.
    #[error("{at} is not the machine described: it presents {presented}, pinned is {}", pinned.join(", "))]
    HostKeyMismatch {
        /// The machine.
        at: Endpoint,
        /// What it showed.
        presented: Presented,
        /// The pinned keys, as algorithm and fingerprint.
        pinned: Vec<String>,
    },
    /// No key is pinned, so nothing could prove that this is the right machine. No connection was made.
    #[error("{at} has no pinned host key, so nothing could prove that it is the right machine")]
    NoHostKeyPinned {
        /// The machine.
        at: Endpoint,
    },
    /// The machine does not let this user in with this key. Final for this version of the key: trying again would
    /// change nothing, and could lock us out.
    #[error("{at} refuses the login as `{user}` with the key {fingerprint}")]
    LoginRefused {
        /// The machine.
        at: Endpoint,
        /// The login user.
        user: String,
        /// The public half of the key.
        fingerprint: String,
        /// [`LoginKey::version`](super::LoginKey::version).
        key_version: String,
    },
    /// The machine refuses an RSA key and does not say that it knows the signatures that it gets: an sshd before OpenSSH 7.2
    /// (2016) knows those of SHA-1 alone, which are broken and not made here. Whether it knows the key cannot be told. Final
    /// as [`ConnectError::LoginRefused`] is.
    #[error(
        "{at} refuses the login as `{user}` with the RSA key {fingerprint}, and does not say that it knows RSA signatures with \
         SHA-2: an sshd before OpenSSH 7.2 knows `ssh-rsa` with SHA-1 alone, which is broken. Log in with an Ed25519 key: \
         ssh-keygen -t ed25519, its public half into the machine's authorized_keys, the key into the Secret"
    )]
    RsaNotTaken {
        /// The machine.
        at: Endpoint,
        /// The login user.
        user: String,
        /// The public half of the key.
        fingerprint: String,
        /// [`LoginKey::version`](super::LoginKey::version).
        key_version: String,
    },
    /// The key was accepted, and the machine wants something more, such as a code that a person types.
    #[error("{at} accepts the key of `{user}` but asks for a further proof, which an operator cannot give")]
    MoreProofWanted {
        /// The machine.
        at: Endpoint,
        /// The login user.
        user: String,
        /// [`LoginKey::version`](super::LoginKey::version).
        key_version: String,
    },
    /// Sessions were opened and lost at once, as when every login ends in a crash.
    #[error("{at} drops the connection right after the login{}", saying(why))]
    Unsteady {
        /// The machine.
        at: Endpoint,
        /// How the last session ended.
        why: String,
    },
}

impl ConnectError {
    /// The machine that this is about.
    pub fn endpoint(&self) -> &Endpoint {
        match self {
            Self::Unreachable { at, .. }
            | Self::Hung { at, .. }
            | Self::Closed { at, .. }
            | Self::NotSsh { at, .. }
            | Self::Protocol { at, .. }
            | Self::HostKeyMismatch { at, .. }
            | Self::NoHostKeyPinned { at }
            | Self::LoginRefused { at, .. }
            | Self::RsaNotTaken { at, .. }
            | Self::MoreProofWanted { at, .. }
            | Self::Unsteady { at, .. } => at,
        }
    }
}

/// ``: `...` `` or nothing.
fn saying(said: &str) -> String {
    if said.is_empty() { String::new() } else { format!(": `{said}`") }
}

/// How far a connection got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Nothing came at all.
    Greeting,
    /// It greeted; keys are being agreed on.
    KeyExchange,
    /// The machine has proved who it is; the login is being decided.
    Login,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Greeting => "its greeting",
            Self::KeyExchange => "the key exchange",
            Self::Login => "the login",
        })
    }
}

/// What a machine showed in place of a pinned host key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presented {
    /// Another key of a pinned kind.
    Key {
        /// `ssh-ed25519` and the like.
        algorithm: String,
        /// `SHA256:...`
        fingerprint: String,
    },
    /// It has no key of any pinned kind; these it has.
    Kinds(Vec<String>),
}

impl fmt::Display for Presented {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key { algorithm, fingerprint } => write!(f, "{algorithm} {fingerprint}"),
            Self::Kinds(kinds) => write!(f, "only keys of other kinds ({})", kinds.join(", ")),
        }
    }
}
