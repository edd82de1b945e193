//! Which ports of other machines this one can reach, as the machine itself found: the runbook's `telnet`.

use std::collections::{BTreeMap, BTreeSet};

/// What the machine found at one port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reached {
    /// Something accepts connections.
    Open,
    /// The other machine answers, and nothing listens there.
    Refused,
    /// Nothing answered in time.
    NoAnswer,
    /// There is no way to it.
    NoRoute,
    /// Its name does not resolve on this machine.
    NameNotFound,
    /// It could not be found out, and why, clean. Says nothing about the port.
    Unknown(String),
    /// The description names a host that the fleet does not have.
    NoSuchHost,
}

/// What was found, by the subject of the described port ([`subject`]).
pub type Reaches = BTreeMap<String, Reached>;

/// How a described port is spoken of: `reach binder-services:9050`.
pub fn subject(wanted: &binder_crds::desired::Reach) -> String {
    format!("reach {}", words(wanted))
}

/// A described port in words: `binder-services:9050`.
pub fn words(wanted: &binder_crds::desired::Reach) -> String {
    let host = wanted.host.as_ref().map(|host| host.0.as_str());
    let other = host.or(wanted.address.as_ref().map(|address| address.0.as_str())).unwrap_or_default();
    if other.contains(':') { format!("[{other}]:{}", wanted.port) } else { format!("{other}:{}", wanted.port) }
}

/// The ports that cannot be reached: how long that lasts matters.
pub(super) fn marks(reaches: &Reaches) -> BTreeSet<String> {
    let closed = |(_, reached): &(&String, &Reached)| !matches!(reached, Reached::Open | Reached::Unknown(_));
    reaches.iter().filter(closed).map(|(subject, _)| subject.clone()).collect()
}
