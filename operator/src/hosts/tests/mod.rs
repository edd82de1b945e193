//! The transport against machines: a scripted one on an in-memory pipe ([`fake`]), which runs commands for real, and a
//! real sshd ([`sshd`]).

mod change;
mod connect;
mod fake;
mod forward;
mod http;
mod keys;
mod look;
mod pool;
mod sshd;

use std::time::Duration;

use super::*;
use binder_core::gate::demands::{Demands, Evidence};
use binder_core::gate::{self, Permit, Request};
use binder_crds::Mode;
pub(super) use keys::key_pair;
pub(crate) use keys::login_key;

/// A session for the tests of those who use one, to the scripted machine with the id `uid-1`, whose tunnels lead to this
/// computer. It lives as long as what comes with it.
pub(crate) async fn session() -> (Box<dyn std::any::Any>, Session) {
    let machine = fake::Machine::new();
    let session = machine.connect().await;
    (Box::new(machine), session)
}

/// A scripted machine for the tests of those who log in by themselves, with a key pair that it lets in or refuses.
pub(crate) struct Lodge {
    machine: fake::Machine,
    /// The private key's file.
    pub(crate) key: secrecy::SecretString,
    /// The host key, as a description pins it.
    pub(crate) host_key: String,
}

impl Lodge {
    pub(crate) fn new(lets_in: bool) -> Self {
        let logins = if lets_in { fake::Logins::Accepted } else { fake::Logins::Refused };
        let machine = fake::Machine::new().logins(logins);
        let host_key = machine.host_key();
        Self { machine, key: key_pair(&["-t", "ed25519", "-N", ""]).0, host_key }
    }

    /// What a process that has just started knows of machines: nothing; every address leads to this one.
    pub(crate) fn ssh(&self) -> Ssh {
        Ssh::over(std::sync::Arc::new(self.machine.clone()), limits())
    }

    /// How often a key was shown to it.
    pub(crate) fn keys_shown(&self) -> usize {
        self.machine.seen.keys_shown()
    }
}

/// A permit as the gate gives it, for the host with this UID and the action of this name.
pub(crate) fn permit(host: &str, action: &str) -> Permit {
    permit_by_way_of(host, None, action)
}

/// The same for a step that is done by way of another host.
pub(crate) fn permit_by_way_of(host: &str, via: Option<&str>, action: &str) -> Permit {
    gate::admit(&Request {
        host,
        via,
        action,
        suspended: false,
        mode: Mode::Enforce,
        held: None,
        waits_for: None,
        taking_effect: None,
        attempts: 0,
        max_attempts: 1,
        retry_at: None,
        demands: Demands { looks: 1, lasting: false, warranted: false, booted: false, per_day: false },
        evidence: Evidence { looks: 1, ..Evidence::default() },
        witness: None,
        closed_until: None,
        over_budget: None,
        now: jiff::Timestamp::UNIX_EPOCH,
    })
    .unwrap()
}

/// Limits that a test can wait for.
fn limits() -> Limits {
    Limits {
        connect: Duration::from_secs(2),
        handshake: Duration::from_secs(15),
        open_channel: Duration::from_secs(5),
        look: Duration::from_secs(20),
        change: Duration::from_secs(20),
        http: Duration::from_secs(5),
        reach: Duration::from_secs(2),
        ..Limits::default()
    }
}

/// A section that prints at most 64 KiB within 5 s.
fn section(name: &'static str, script: &'static str) -> Section {
    Section { name, script, args: vec![], limit: Duration::from_secs(5), max_bytes: 64 * 1024 }
}

fn probe(sections: Vec<Section>) -> Probe {
    Probe::new(sections).unwrap()
}

fn complete(text: &str) -> SectionOutput {
    SectionOutput::Complete { bytes: text.as_bytes().to_vec(), exit: 0 }
}
