//! Our side of an SSH connection, as the library calls it: checks the host key, notes how a connection ended, and
//! opens no door to the machine.
//!
//! Runs in the connection's own task, so it only takes notes; [`session`](super::session) reads them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use russh::client::{ChannelOpenHandle, DisconnectReason, Handler, Msg, Session};
use russh::keys::PublicKeyOrCertificate;
use russh::{Channel, ChannelId, ChannelOpenFailure};

use super::target::{HostKey, fingerprint};
use super::{Presented, locked, sanitize};

/// What the connection's task notes for those who use the connection.
#[derive(Debug, Default)]
pub(super) struct Notes {
    ending: Mutex<Option<Ending>>,
    tunnel_refusals: Mutex<TunnelRefusals>,
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ending {
    /// The machine said goodbye, with these words.
    Said(String),
    /// It refused every way to log in, and the library gave up.
    NoWayToLogIn,
    /// It broke off.
    Broke(String),
}

/// Tunnels that a machine could not open, newest last. The library tells the words of a refusal only here, without
/// saying whose tunnel it was; [`reach`](super::reach) puts the two together.
#[derive(Debug, Default)]
struct TunnelRefusals {
    count: u64,
    latest: VecDeque<(u64, Refusal)>,
}

/// Why a machine did not open a tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: ChannelOpenFailure,
    /// In the machine's words, sanitized.
    pub(super) words: String,
}

/// More refusals than can be in flight at once are not kept.
const REFUSALS_KEPT: usize = 64;

impl Notes {
    pub(super) fn ending(&self) -> Option<Ending> {
        locked(&self.ending).clone()
    }

    /// How many tunnels were refused so far.
    pub(super) fn refusals(&self) -> u64 {
        locked(&self.tunnel_refusals).count
    }

    /// The refusals after the first `seen`.
    pub(super) fn refusals_since(&self, seen: u64) -> Vec<Refusal> {
        locked(&self.tunnel_refusals).latest.iter().filter(|(at, _)| *at > seen).map(|(_, door)| door.clone()).collect()
    }

    fn note_ending(&self, ending: Ending) {
        locked(&self.ending).get_or_insert(ending);
    }

    fn note_refusal(&self, refusal: Refusal) {
        let mut doors = locked(&self.tunnel_refusals);
        doors.count += 1;
        let at = doors.count;
        doors.latest.push_back((at, refusal));
        if doors.latest.len() > REFUSALS_KEPT {
            doors.latest.pop_front();
        }
    }
}

/// Our side of one connection.
pub(super) struct Client {
    pinned: Vec<HostKey>,
    notes: Arc<Notes>,
}

impl Client {
    pub(super) fn new(pinned: Vec<HostKey>, notes: Arc<Notes>) -> Self {
        Self { pinned, notes }
    }
}

/// Why the connection's task gave up.
#[derive(Debug)]
pub(super) enum HandshakeError {
    /// The library's reasons.
    Ssh(russh::Error),
    /// Ours: the wrong machine.
    NotPinned(Presented),
}

impl From<russh::Error> for HandshakeError {
    fn from(error: russh::Error) -> Self {
        Self::Ssh(error)
    }
}

impl Handler for Client {
    type Error = HandshakeError;

    async fn check_server_key(&mut self, presented: &PublicKeyOrCertificate) -> Result<bool, HandshakeError> {
        let key = presented.public_key();
        // A certificate is never asked for, so one that comes is not a pinned key, whatever key it holds.
        if presented.certificate().is_none() && self.pinned.iter().any(|pinned| pinned.is(&key)) {
            return Ok(true);
        }
        Err(HandshakeError::NotPinned(Presented::Key {
            algorithm: sanitize(key.algorithm().as_str().as_bytes(), 60),
            fingerprint: fingerprint(&key),
        }))
    }

    async fn channel_open_failure(
        &mut self,
        _: ChannelId,
        code: ChannelOpenFailure,
        words: &str,
        _: &str,
        _: &mut Session,
    ) -> Result<(), HandshakeError> {
        self.notes.note_refusal(Refusal { code, words: sanitize(words.as_bytes(), 120) });
        Ok(())
    }

    async fn disconnected(&mut self, reason: DisconnectReason<HandshakeError>) -> Result<(), HandshakeError> {
        match reason {
            DisconnectReason::ReceivedDisconnect(info) => {
                self.notes.note_ending(Ending::Said(sanitize(info.message.as_bytes(), 160)));
                Ok(())
            }
            DisconnectReason::Error(trouble) => {
                self.notes.note_ending(match &trouble {
                    HandshakeError::Ssh(russh::Error::NoAuthMethod) => Ending::NoWayToLogIn,
                    HandshakeError::Ssh(error) => Ending::Broke(in_words(error)),
                    HandshakeError::NotPinned(presented) => Ending::Broke(format!("it presented {presented}")),
                });
                Err(trouble)
            }
        }
    }

    // The library's defaults accept whatever channel a server opens. A machine has no business opening any: each
    // handle that is dropped here is a refusal.

    async fn server_channel_open_forwarded_tcpip(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        _: &str,
        _: u32,
        door: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), HandshakeError> {
        refuse(door).await
    }

    async fn server_channel_open_forwarded_streamlocal(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        door: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), HandshakeError> {
        refuse(door).await
    }

    async fn server_channel_open_agent_forward(
        &mut self,
        _: Channel<Msg>,
        door: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), HandshakeError> {
        refuse(door).await
    }

    async fn server_channel_open_session(
        &mut self,
        _: Channel<Msg>,
        door: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), HandshakeError> {
        refuse(door).await
    }

    async fn server_channel_open_direct_tcpip(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        _: &str,
        _: u32,
        door: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), HandshakeError> {
        refuse(door).await
    }

    async fn server_channel_open_direct_streamlocal(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        door: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), HandshakeError> {
        refuse(door).await
    }

    async fn server_channel_open_x11(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        door: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), HandshakeError> {
        refuse(door).await
    }
}

async fn refuse(door: ChannelOpenHandle) -> Result<(), HandshakeError> {
    door.reject(ChannelOpenFailure::AdministrativelyProhibited).await;
    Ok(())
}

/// The library's error for a person: bounded, printable, and plain where it happens every day.
pub(super) fn in_words(error: &russh::Error) -> String {
    match error {
        russh::Error::Disconnect | russh::Error::HUP => "the connection was closed".to_owned(),
        russh::Error::KeepaliveTimeout => "it stopped answering (keepalive)".to_owned(),
        russh::Error::InactivityTimeout => "nothing moved on the connection".to_owned(),
        russh::Error::NoCommonAlgo { kind, theirs, .. } => {
            sanitize(format!("nothing in common for {kind:?}; it offers {}", theirs.join(", ")).as_bytes(), 240)
        }
        other => sanitize(other.to_string().as_bytes(), 200),
    }
}
