//! One open connection to one machine: how it is made, and what is common to every use of it.
//!
//! The uses themselves are in [`look`](super::look), [`change`](super::change), [`http`](super::http) and
//! [`reach`](super::reach), each adding its method to [`Session`]. Knows SSH; does not decide when to connect
//! ([`pool`](super::pool) does) or what to run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use russh::AlgorithmKind;
use russh::client::{AuthResult, Handle};
use russh::keys::{HashAlg, PrivateKeyWithHashAlg};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::algorithms::preferred;
use super::client::{Client, Ending, HandshakeError, Notes, in_words};
use super::limits::Limits;
use super::pool::Kept;
use super::target::{Endpoint, Target};
use super::wire::{Dial, MeteredStream, StreamGuard, Tcp};
use super::{ConnectError, Presented, Stage, sanitize};

/// Commands that run at once over one connection. sshd allows 10 (`MaxSessions`); a person or a late one of ours may
/// hold some.
const COMMANDS_AT_ONCE: usize = 6;

/// Channels that we had to close before the machine did leave a few KiB behind in the library for as long as the
/// connection lives. After so many (some 2 MiB) a connection is worn and should be replaced when it is idle.
const WORN_AFTER: u32 = 500;

/// An open, authenticated connection to a machine. Dropping it closes the connection at once.
pub struct Session {
    pub(super) host: String,
    pub(super) at: Endpoint,
    pub(super) limits: Limits,
    pub(super) handle: Arc<Handle<Client>>,
    pub(super) notes: Arc<Notes>,
    pub(super) commands: Arc<Semaphore>,
    pub(super) leaked_channels: Arc<AtomicU32>,
    guard: CutOnDrop,
    opened: Instant,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("at", &self.at).field("open", &self.is_open()).finish_non_exhaustive()
    }
}

/// However a session or an attempt at one ends, its stream ends with it.
struct CutOnDrop(Arc<StreamGuard>);

impl Drop for CutOnDrop {
    fn drop(&mut self) {
        self.0.cut();
    }
}

impl Session {
    /// Connects over TCP, checks the host key and logs in, all within `limits.connect` and `limits.handshake`. Exactly
    /// one login is attempted, with the one key.
    pub async fn connect(target: &Target, limits: &Limits) -> Result<Self, ConnectError> {
        Self::connect_over(&Tcp(limits.networks.clone()), target, limits).await
    }

    /// As [`Session::connect`], over a stream from `dial`.
    pub async fn connect_over(dial: &dyn Dial, target: &Target, limits: &Limits) -> Result<Self, ConnectError> {
        let at = target.endpoint();
        if target.host_keys.is_empty() {
            return Err(ConnectError::NoHostKeyPinned { at });
        }
        let stream =
            dial.dial(target, limits.connect).await.map_err(|why| ConnectError::Unreachable { at: at.clone(), why })?;
        let guard = CutOnDrop(Arc::default());
        let handshake = Handshake {
            target,
            at: at.clone(),
            guard: Arc::clone(&guard.0),
            notes: Arc::default(),
            logging_in: AtomicBool::new(false),
        };
        let wire = MeteredStream::new(stream, Arc::clone(&guard.0), limits.handshake_bytes);
        let handle = match tokio::time::timeout(limits.handshake, handshake.run(wire, limits)).await {
            Ok(result) => result?,
            Err(_) => return Err(ConnectError::Hung { at, stage: handshake.stage(), after: limits.handshake }),
        };
        guard.0.admit();
        Ok(Self {
            host: target.id.clone(),
            at,
            limits: limits.clone(),
            handle: Arc::new(handle),
            notes: handshake.notes,
            commands: Arc::new(Semaphore::new(COMMANDS_AT_ONCE)),
            leaked_channels: Arc::default(),
            guard,
            opened: Instant::now(),
        })
    }

    /// The UID of the `BinderHost` whose machine this is.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Name and address of the machine, for messages.
    pub fn endpoint(&self) -> &Endpoint {
        &self.at
    }

    /// Whether the connection still stands, as far as is known here: a machine that froze a moment ago looks open
    /// until the keepalives say otherwise.
    pub fn is_open(&self) -> bool {
        !self.handle.is_closed() && !self.guard.0.is_cut()
    }

    /// Whether the connection has been used so much that a fresh one would be better. It still works.
    pub fn needs_reconnect(&self) -> bool {
        self.leaked_channels.load(Ordering::Relaxed) >= WORN_AFTER
    }

    /// Closes the connection now, under whatever runs over it.
    pub fn close(&self) {
        self.guard.0.cut();
    }

    /// When the login was done.
    pub(super) fn opened(&self) -> Instant {
        self.opened
    }

    /// How the connection ended, for a message. Only meaningful when it did.
    pub(super) fn ending_in_words(&self) -> String {
        match self.notes.ending() {
            Some(Ending::Said(words)) if !words.is_empty() => words,
            Some(Ending::Broke(words)) => words,
            _ => "the connection was lost".to_owned(),
        }
    }
}

impl Kept for Session {
    fn is_open(&self) -> bool {
        self.is_open()
    }

    fn needs_reconnect(&self) -> bool {
        self.needs_reconnect()
    }

    fn close(&self) {
        self.close();
    }

    fn opened(&self) -> Instant {
        self.opened()
    }

    fn ending_in_words(&self) -> String {
        self.ending_in_words()
    }
}

/// What it takes to get from a stream to a login.
struct Handshake<'a> {
    target: &'a Target,
    at: Endpoint,
    guard: Arc<StreamGuard>,
    notes: Arc<Notes>,
    logging_in: AtomicBool,
}

impl Handshake<'_> {
    async fn run(&self, wire: MeteredStream, limits: &Limits) -> Result<Handle<Client>, ConnectError> {
        let client = Client::new(self.target.host_keys.clone(), Arc::clone(&self.notes));
        let config = Arc::new(config(self.target, limits));
        let mut handle = russh::client::connect_stream(config, wire, client).await.map_err(|t| self.no_keys(t))?;
        self.logging_in.store(true, Ordering::Relaxed);
        self.log_in(&mut handle).await?;
        Ok(handle)
    }

    fn stage(&self) -> Stage {
        if self.logging_in.load(Ordering::Relaxed) {
            Stage::Login
        } else if self.guard.received() > 0 {
            Stage::KeyExchange
        } else {
            Stage::Greeting
        }
    }

    /// What a failure before the login means.
    fn no_keys(&self, trouble: HandshakeError) -> ConnectError {
        let at = self.at.clone();
        let error = match trouble {
            HandshakeError::NotPinned(presented) => return self.mismatch(presented),
            HandshakeError::Ssh(error) => error,
        };
        if self.guard.flooded() {
            return self.flood();
        }
        match error {
            russh::Error::Version => {
                // For whoever reads the operator's log: a status is read by more people than may know what listens where.
                tracing::debug!(%at, said = sanitize(&self.guard.first_line(), 80), "does not speak SSH");
                ConnectError::NotSsh { at }
            }
            russh::Error::NoCommonAlgo { kind: AlgorithmKind::Key, theirs, .. } => {
                let kinds = theirs.iter().take(10).map(|kind| sanitize(kind.as_bytes(), 60)).collect();
                self.mismatch(Presented::Kinds(kinds))
            }
            russh::Error::Disconnect | russh::Error::HUP | russh::Error::IO(_) => {
                let said = match self.notes.ending() {
                    Some(Ending::Said(words)) => words,
                    // Before its greeting an sshd says in plain text why it will not talk.
                    _ => mode(&self.guard.first_line()).to_owned(),
                };
                ConnectError::Closed { at, stage: self.stage(), said }
            }
            other => ConnectError::Protocol { at, why: in_words(&other) },
        }
    }

    fn mismatch(&self, presented: Presented) -> ConnectError {
        let pinned = self.target.host_keys.iter().map(ToString::to_string).collect();
        ConnectError::HostKeyMismatch { at: self.at.clone(), presented, pinned }
    }

    fn flood(&self) -> ConnectError {
        let why = format!("it sent {} bytes before the login was done", self.guard.received());
        ConnectError::Protocol { at: self.at.clone(), why }
    }

    /// One attempt, with the one key.
    async fn log_in(&self, handle: &mut Handle<Client>) -> Result<(), ConnectError> {
        let key = &self.target.key;
        let announced = if key.is_rsa() { Some(self.rsa_hash(handle).await?) } else { None };
        // A server that does not say what it takes gets SHA-256, which it refuses if it is too old to know it.
        let hash = announced.map(|announced| announced.unwrap_or(HashAlg::Sha256));
        let proof = PrivateKeyWithHashAlg::new(key.private(), hash);
        let result =
            handle.authenticate_publickey(self.target.user.as_str(), proof).await.map_err(|error| self.lost(&error))?;
        match result {
            AuthResult::Success => Ok(()),
            AuthResult::Failure { partial_success: true, .. } => Err(ConnectError::MoreProofWanted {
                at: self.at.clone(),
                user: self.target.user.clone(),
                key_version: key.version().to_owned(),
            }),
            // The library answers so too when the connection ended under the attempt, and that is no refusal: it must
            // not be remembered as one. A real one names what else could be tried, or ends in `NoWayToLogIn`, or in a
            // goodbye ("Too many authentication failures").
            AuthResult::Failure { remaining_methods, .. } => match self.notes.ending() {
                Some(Ending::Broke(why)) if remaining_methods.is_empty() => Err(self.broke_off(why)),
                _ if announced == Some(None) => Err(ConnectError::RsaNotTaken {
                    at: self.at.clone(),
                    user: self.target.user.clone(),
                    fingerprint: key.fingerprint().to_owned(),
                    key_version: key.version().to_owned(),
                }),
                _ => Err(ConnectError::LoginRefused {
                    at: self.at.clone(),
                    user: self.target.user.clone(),
                    fingerprint: key.fingerprint().to_owned(),
                    key_version: key.version().to_owned(),
                }),
            },
        }
    }

    /// The hash to sign with, as the server says: never SHA-1. `None`: it does not say what it takes (before OpenSSH 7.2).
    async fn rsa_hash(&self, handle: &Handle<Client>) -> Result<Option<HashAlg>, ConnectError> {
        match handle.best_supported_rsa_hash().await.map_err(|error| self.lost(&error))? {
            Some(Some(hash)) => Ok(Some(hash)),
            None => Ok(None),
            Some(None) => Err(ConnectError::Protocol {
                at: self.at.clone(),
                why: "it takes RSA keys only with SHA-1, which is broken; use an Ed25519 or ECDSA key".to_owned(),
            }),
        }
    }

    /// The connection's task is gone.
    fn lost(&self, error: &russh::Error) -> ConnectError {
        let why = match self.notes.ending() {
            Some(Ending::Said(words) | Ending::Broke(words)) => words,
            _ => in_words(error),
        };
        self.broke_off(why)
    }

    fn broke_off(&self, said: String) -> ConnectError {
        if self.guard.flooded() {
            return self.flood();
        }
        ConnectError::Closed { at: self.at.clone(), stage: Stage::Login, said }
    }
}

/// What an sshd says in plain text before its greeting, when it will not talk, as OpenSSH words it. What is anything else is
/// not told on: an address is described by whoever may write a BinderHost, and its answer is no affair of theirs unless it is
/// an sshd's.
fn mode(line: &[u8]) -> &'static str {
    const KNOWN: [&str; 4] = [
        "Exceeded MaxStartups",
        "Not allowed at this time",
        "Protocol mismatch.",
        "Invalid SSH identification string.",
    ];
    KNOWN.into_iter().find(|known| line.starts_with(known.as_bytes())).unwrap_or_default()
}

/// What the library is told. Everything that it leaves open by default is closed here.
fn config(target: &Target, limits: &Limits) -> russh::client::Config {
    russh::client::Config {
        preferred: preferred(&target.host_keys),
        keepalive_interval: Some(limits.keepalive),
        keepalive_max: limits.keepalive_max,
        inactivity_timeout: Some(limits.inactivity),
        nodelay: true,
        ..russh::client::Config::default()
    }
}
