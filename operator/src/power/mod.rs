//! Power: what a cloud says of a machine, and how it is restarted from outside when nothing on it answers any more.
//!
//! One module for each way to do so; today Google Compute Engine, [`gce`]. [`Power`] is what they have in common, and
//! all that the rooms above know of them. This room does what it is told: whether a machine is dead, who else must say
//! so, and how often it may be restarted is decided elsewhere, and whoever asks for a change shows a [`Permit`] for it.
//!
//! Must not know Kubernetes, facets, or what an answer means for a machine. Of the room below it takes the cleaning of
//! text only: no way leads from here to a machine but the cloud's own.

// A test that cannot go on should panic; what is not a test is checked in the build without them.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod gce;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use binder_crds::text::{BadText, Checked, PublicKey, UserName};
use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use sha2::{Digest, Sha256};

use binder_core::gate::Permit;

/// A machine's power, from outside. Every call is bounded in time.
///
/// What changes something takes its [`Permit`] by value and sends a request id that is made from it, so that the same
/// permit can never restart a machine twice, not even when the first request was lost on its way back. How it ended is
/// told for the record; whether it helped is seen by looking at the machine.
pub trait Power: Send + Sync {
    /// The instance in words, for messages.
    fn instance(&self) -> &str;

    /// What the cloud says of the instance.
    fn state(&self) -> BoxFuture<'_, Result<Instance, PowerError>>;

    /// Cuts it off and switches it on again, in whatever state its system is; comes back when the cloud has done it.
    fn reset(&self, permit: Permit) -> BoxFuture<'_, Result<(), PowerError>>;

    /// Switches on an instance that is stopped; comes back when the cloud has done it.
    fn start(&self, permit: Permit) -> BoxFuture<'_, Result<(), PowerError>>;

    /// Adds a login key to the keys that the cloud puts on the machine. Nothing that is there is changed or removed, and
    /// nothing is restarted.
    fn add_ssh_key(&self, permit: Permit, key: SshKey) -> BoxFuture<'_, Result<KeyAdded, PowerError>>;
}

/// What a cloud says of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// How it is.
    pub state: State,
    /// When it was last started, by the cloud's clock. A reset need not change it.
    pub last_start: Option<Timestamp>,
    /// The cloud's clock when it said so: what is compared with `last_start`, and no other clock.
    pub asked_at: Option<Timestamp>,
    /// Its addresses, internal and external.
    pub addresses: BTreeSet<IpAddr>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

impl Instance {
    /// For how long it has been on, by the cloud's clock; `None` when the cloud does not say.
    pub fn on_for(&self) -> Option<SignedDuration> {
        Some(self.asked_at?.duration_since(self.last_start?))
    }
}

/// How an instance is, in the cloud's eyes. A machine whose system hangs is `Running` to its cloud.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It is on.
    Running,
    /// It is being switched on.
    Starting,
    /// It is being switched off.
    Stopping,
    /// It is off: [`Power::start`] is what helps, not a reset.
    Stopped,
    /// It is asleep, or falls asleep; only a person resumes it.
    Suspended,
    /// The cloud is moving it to hardware that works.
    Repairing,
    /// A word that this version does not know, cleaned.
    Unknown(String),
}

impl State {
    /// The state in words, for a sentence such as "the cloud says that it is running".
    pub fn words(&self) -> &str {
        match self {
            Self::Running => "running",
            Self::Starting => "being started",
            Self::Stopping => "being stopped",
            Self::Stopped => "stopped",
            Self::Suspended => "suspended",
            Self::Repairing => "under repair",
            Self::Unknown(word) => word,
        }
    }
}

/// A login's name and a public key that is to open it, both checked: neither can end its line and begin another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SshKey {
    user: String,
    kind: String,
    body: String,
}

impl SshKey {
    /// `key` as OpenSSH writes it, `TYPE BASE64 [COMMENT]`; the comment is left out.
    ///
    /// # Errors
    /// [`BadText`], which does not repeat the text.
    pub fn new(user: &str, key: &str) -> Result<Self, BadText> {
        let user = UserName::from(user).checked()?.to_owned();
        let key = PublicKey::from(key.trim_end());
        let mut parts = key.checked()?.split(' ').map(str::to_owned);
        let (kind, body) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        Ok(Self { user, kind, body })
    }

    /// The login.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Type and key, with one blank between them.
    pub fn key(&self) -> String {
        format!("{} {}", self.kind, self.body)
    }
}

/// What came of adding a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyAdded {
    /// It was added. The machine's own agent takes it from there, usually within seconds, if it runs.
    Added,
    /// It was there already, so nothing was changed: whatever refuses the login is on the machine.
    AlreadyThere,
}

/// What was being done when it went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// [`Power::state`]
    Asking,
    /// [`Power::reset`]
    Reset,
    /// [`Power::start`]
    Start,
    /// [`Power::add_ssh_key`]
    AddSshKey,
}

impl std::fmt::Display for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Asking => "ask after",
            Self::Reset => "reset",
            Self::Start => "start",
            Self::AddSshKey => "add an SSH key to",
        })
    }
}

/// A cloud could not be asked, or did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {instance}")]
pub struct PowerError {
    /// The instance, with its project and zone.
    pub instance: String,
    /// What was being done.
    pub doing: Operation,
    /// What went wrong.
    #[source]
    pub fault: Fault,
}

impl PowerError {
    /// Whether trying again helps, or only a person does.
    pub fn retryability(&self) -> Retryability {
        self.fault.retryability()
    }

    /// Whether the change may have been made all the same. False is certain; true is not.
    pub fn may_have_happened(&self) -> bool {
        self.doing != Operation::Asking && self.fault.may_have_happened()
    }
}

/// What helps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retryability {
    /// The same request may succeed later.
    Later,
    /// It will not, until a person has changed something: rights, names, the Secret.
    Person,
}

/// What went wrong between this operator and a cloud. No text of the cloud's is in it that was not cleaned, and none of
/// the credentials'.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The description of the instance is no such thing.
    #[error("{field} is {bad}")]
    Description {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        bad: BadText,
    },
    /// The credentials are none.
    #[error("the Secret with the cloud's credentials cannot be used")]
    Credentials(#[from] gce::BadCredentials),
    /// There is no token for the credentials, so nothing was asked.
    #[error("no token for {account}")]
    Token {
        /// The account.
        account: String,
        /// Why not.
        #[source]
        fault: Box<Fault>,
    },
    /// TLS cannot be set up on this side.
    #[error("this operator cannot make TLS connections: {why}")]
    Tls {
        /// Why not, such as that there are no root certificates.
        why: String,
    },
    /// 401: the credentials are not accepted (any more).
    #[error("the cloud rejects the credentials (HTTP 401): {said}")]
    NotAccepted {
        /// What the cloud said.
        said: String,
    },
    /// 403: the account may not do this.
    #[error("not allowed (HTTP 403): {said}")]
    Forbidden {
        /// What the cloud said.
        said: String,
    },
    /// 404: no such thing, or an account that may not see it.
    #[error("not found (HTTP 404): {said}")]
    NotFound {
        /// What the cloud said.
        said: String,
    },
    /// 409 or 412: it changed or is being changed by somebody else.
    #[error("changed concurrently (HTTP {status}): {said}")]
    Conflict {
        /// The status.
        status: u16,
        /// What the cloud said.
        said: String,
    },
    /// 429, or 403 for the same reason: too many requests.
    #[error("too many requests (HTTP {status}): {said}")]
    TooMany {
        /// The status.
        status: u16,
        /// What the cloud said.
        said: String,
    },
    /// 5xx: the cloud itself is not well.
    #[error("the cloud reports a server error (HTTP {status}): {said}")]
    Unwell {
        /// The status.
        status: u16,
        /// What the cloud said.
        said: String,
    },
    /// 400 because the instance is in no state for it.
    #[error("the instance is not in a state for this (HTTP 400): {said}")]
    NotReady {
        /// What the cloud said.
        said: String,
    },
    /// Any other refusal.
    #[error("refused (HTTP {status}): {said}")]
    Refused {
        /// The status.
        status: u16,
        /// What the cloud said.
        said: String,
    },
    /// The request cannot be put into words. Nothing was sent.
    #[error("the request to {to} cannot be written")]
    Unwritable {
        /// Who was to be asked: host and port.
        to: String,
        /// Why not.
        #[source]
        source: http::Error,
    },
    /// Nobody answers there.
    #[error("cannot reach {from}")]
    Unreachable {
        /// Who was asked: host and port.
        from: String,
        /// Whether the request may have arrived.
        sent: bool,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It took too long.
    #[error("{from} did not answer completely within {} s", limit.as_secs())]
    TimedOut {
        /// Who was asked: host and port.
        from: String,
        /// How long was waited.
        limit: Duration,
    },
    /// The answer is longer than any that makes sense.
    #[error("the answer from {from} exceeds {limit} bytes")]
    TooLong {
        /// Who was asked: host and port.
        from: String,
        /// The limit, in bytes.
        limit: usize,
    },
    /// The answer is not what it should be.
    #[error("cannot read the answer from {from}: {what}")]
    Unreadable {
        /// Who was asked: host and port.
        from: String,
        /// What is wrong with it, without its text.
        what: &'static str,
    },
    /// The cloud took the request and did not manage.
    #[error("the cloud's operation {operation} failed with {code}: {said}")]
    OperationFailed {
        /// The operation.
        operation: String,
        /// The cloud's word for why.
        code: String,
        /// What it said.
        said: String,
    },
    /// The cloud took the request, and how that ended is not known.
    #[error("operation {operation} did not finish within {} s", limit.as_secs())]
    OperationOpen {
        /// The operation.
        operation: String,
        /// How long was waited.
        limit: Duration,
        /// Why it could not be asked after, the last time, if that was so.
        #[source]
        last: Option<Box<Fault>>,
    },
    /// The metadata changed before each of several attempts could be written.
    #[error("the instance's metadata changed during each of {tries} attempts")]
    KeepsChanging {
        /// How often it was tried.
        tries: u32,
    },
    /// Keys in the metadata are not looked at on this instance.
    #[error(
        "the instance uses OS Login (metadata enable-oslogin), so keys in its metadata have no effect: add the key to the account's OS Login profile"
    )]
    OsLogin,
}

impl Fault {
    /// Whether trying again helps, or only a person does.
    pub fn retryability(&self) -> Retryability {
        match self {
            Self::Token { fault, .. } | Self::OperationOpen { last: Some(fault), .. } => fault.retryability(),
            Self::Conflict { .. }
            | Self::TooMany { .. }
            | Self::Unwell { .. }
            | Self::NotReady { .. }
            | Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::OperationFailed { .. }
            | Self::OperationOpen { .. }
            | Self::KeepsChanging { .. } => Retryability::Later,
            Self::Description { .. }
            | Self::Credentials(_)
            | Self::Tls { .. }
            | Self::Unwritable { .. }
            | Self::NotAccepted { .. }
            | Self::Forbidden { .. }
            | Self::NotFound { .. }
            | Self::Refused { .. }
            | Self::TooLong { .. }
            | Self::Unreadable { .. }
            | Self::OsLogin => Retryability::Person,
        }
    }

    /// Whether a change that ended like this may have been made all the same.
    fn may_have_happened(&self) -> bool {
        match self {
            Self::Unreachable { sent, .. } => *sent,
            Self::Unwell { .. }
            | Self::TimedOut { .. }
            | Self::TooLong { .. }
            | Self::Unreadable { .. }
            | Self::OperationFailed { .. }
            | Self::OperationOpen { .. } => true,
            Self::Description { .. }
            | Self::Credentials(_)
            | Self::Token { .. }
            | Self::Tls { .. }
            | Self::Unwritable { .. }
            | Self::NotAccepted { .. }
            | Self::Forbidden { .. }
            | Self::NotFound { .. }
            | Self::Conflict { .. }
            | Self::TooMany { .. }
            | Self::NotReady { .. }
            | Self::Refused { .. }
            | Self::KeepsChanging { .. }
            | Self::OsLogin => false,
        }
    }
}

/// The id under which a change is asked of a cloud: the same for the same recorded attempt and purpose, so that a cloud that
/// knows it already does nothing more. An attempt is told from an earlier one of the same name, whose BinderAction a person has
/// deleted, by its object's UID. A UUID as RFC 9562 shapes version 5, from SHA-256.
fn request_id(permit: &Permit, purpose: &str) -> String {
    let mut digest = Sha256::new();
    for part in ["binder-operator", permit.host(), permit.action(), permit.record(), purpose] {
        // With their lengths, so that no two lists of parts read the same.
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part.as_bytes());
    }
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest.finalize()[..16]);
    bytes[6] = 0x50 | (bytes[6] & 0x0f);
    bytes[8] = 0x80 | (bytes[8] & 0x3f);
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}
