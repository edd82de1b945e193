//! One look at a host: the probe and the questions to its servers, side by side on its one open connection. I/O, and no
//! judgement: what came back goes to the parsers in [`binder_core::seen`], and what it means is the facets' to say.
//!
//! A fact that needs more than a section of the probe (an answer over HTTP, a port of another machine, the database) is a
//! module here that fills its field of the [`Observation`]; it asks only when the description has a use for the answer.

mod cluster;
mod database;
pub mod kubernetes;
#[doc(hidden)]
pub mod local;
mod reach;
mod routes;
mod servers;

use crate::hosts::{
    ConnectError, LoginKey, LookError, NotConnected, Probe, Retry, Section, SectionOutput, Session, Unreached,
};
use binder_core::catalogue;
use binder_core::facets;
use binder_core::plan::{FailureKind, LookFailure, Looked};
use binder_core::seen::servers::Key;
use binder_core::seen::{Answer, Ask, Blind, Observation, Reason, keys};
use binder_crds::Desired;
use jiff::Timestamp;
use secrecy::SecretString;
use std::collections::BTreeMap;
use std::time::Duration;

/// What a look may use beside the host's own connection and description.
#[derive(Debug, Default)]
pub struct Around {
    /// Addresses of the fleet's hosts, by name.
    pub addresses: BTreeMap<String, String>,
    /// The address of the host that is described to run the build server.
    pub build_server: Option<String>,
    /// The API key of Binder's servers, or what stands in the way of knowing it; `None` where nobody needs it.
    pub api_key: Option<Result<SecretString, String>>,
    /// Whether the API key is to be looked for in the servers' logs.
    pub search_logs: bool,
    /// The way to the fleet's cluster.
    pub cluster: Option<kubernetes::Way>,
}

/// Looks at a host. The time of the look is that at which all answers are there.
pub async fn look(session: &Session, desired: &Desired, around: &Around) -> Looked {
    let mut asks = facets::asks(desired);
    if around.search_logs {
        asks.insert(0, keys::ask(server_processes(desired)));
    }
    let sections = asks.iter().map(section).collect();
    let probe = match Probe::new(sections) {
        Ok(probe) => probe,
        Err(bad) => {
            return Looked::Failed(LookFailure {
                reason: "InvalidSpec",
                message: format!("what is described cannot be looked at: {bad}"),
                kind: FailureKind::Person,
                not_before: None,
            });
        }
    };
    let (looked, cluster, database, reaches, servers, kubernetes, routes) = tokio::join!(
        session.look(&probe),
        cluster::identity(session, desired),
        database::look(session, desired),
        reach::ask(session, desired, around),
        servers::ask(session, desired, around),
        kubernetes::ask(session, desired, around),
        routes::ask(session, desired),
    );
    match looked {
        Ok(look) => {
            let answers: BTreeMap<String, Answer> =
                look.sections.into_iter().map(|(name, output)| (name.to_owned(), answer(output))).collect();
            let seen = Observation::read(Timestamp::now(), &asks, &answers, cluster);
            Looked::Seen(Box::new(Observation { database, reaches, servers, kubernetes, routes, ..seen }))
        }
        Err(error) => Looked::Failed(lost(&error)),
    }
}

fn section(ask: &Ask) -> Section {
    Section {
        name: ask.name,
        script: ask.script,
        args: ask.args.clone(),
        limit: Duration::from_secs(ask.seconds),
        max_bytes: ask.max_bytes,
    }
}

fn answer(output: SectionOutput) -> Answer {
    let not = |reason, message: String| Answer::Not(Blind { reason, message });
    match output {
        SectionOutput::Complete { bytes, exit } => Answer::Said { bytes, exit },
        SectionOutput::TimedOut { after } => {
            not(Reason::ProbeTimedOut, format!("looking took longer than {} s", after.as_secs()))
        }
        SectionOutput::TooLarge { limit } => {
            not(Reason::TooMuchOutput, format!("the host said more than {limit} bytes"))
        }
        SectionOutput::Missing => not(Reason::NotSeen, "the look ended before it".to_owned()),
        SectionOutput::Malformed => {
            not(Reason::Garbage, "the answer cannot be read (does the host have timeout, head and base64?)".to_owned())
        }
    }
}

fn lost(error: &LookError) -> LookFailure {
    let (reason, kind) = match error {
        LookError::BadProbe(_) => ("InvalidSpec", FailureKind::Person),
        LookError::NotStarted { .. } => ("LookRefused", FailureKind::Passing),
        LookError::NoAnswer { .. } => ("NoAnswer", FailureKind::Silent),
        LookError::Lost { .. } => ("ConnectionLost", FailureKind::Silent),
        LookError::NoShell { .. } => ("NoShell", FailureKind::Person),
    };
    LookFailure { reason, message: error.to_string(), kind, not_before: None }
}

/// A failed connection as a condition. What only a person or a changed object can end is told from what may pass.
pub fn not_connected(failed: &NotConnected, key: &LoginKey) -> LookFailure {
    let (reason, kind) = match &*failed.why {
        ConnectError::Unreachable { why, .. } => unreached(why),
        ConnectError::Hung { .. } => ("Hung", FailureKind::Silent),
        ConnectError::Closed { .. } => ("ConnectionClosed", FailureKind::Passing),
        // Who lets us in again and again is alive.
        ConnectError::Unsteady { .. } => ("ConnectionUnsteady", FailureKind::Passing),
        ConnectError::NotSsh { .. } => ("NotSsh", FailureKind::Person),
        ConnectError::Protocol { .. } => ("NoCommonProtocol", FailureKind::Person),
        ConnectError::HostKeyMismatch { .. } => ("HostKeyMismatch", FailureKind::Person),
        ConnectError::NoHostKeyPinned { .. } => ("NoHostKey", FailureKind::Person),
        ConnectError::LoginRefused { .. } => {
            ("LoginRefused", FailureKind::Refused { public_key: key.authorized_line() })
        }
        ConnectError::MoreProofWanted { .. } => ("MoreProofWanted", FailureKind::Person),
    };
    let remedy = match reason {
        "HostKeyMismatch" => {
            "; if the machine was replaced, put its new key into hostKeys, else somebody may stand between"
        }
        "LoginRefused" => {
            "; so as not to be locked out it is tried again only when the Secret changes (kubectl annotate secret counts)"
        }
        _ => "",
    };
    let not_before = match failed.retry {
        Retry::At(at) => Some(at),
        Retry::WhenLoginChanges | Retry::WhenHostKeyPinned => None,
    };
    LookFailure { reason, message: format!("{}{remedy}", failed.why), kind, not_before }
}

/// What it means that there is no connection at all. Only silence may be a dead machine: a refusal is the word of a living
/// one, and that our own resolver or network knows no way there is about us.
fn unreached(why: &Unreached) -> (&'static str, FailureKind) {
    match why {
        Unreached::TimedOut { .. } => ("Unreachable", FailureKind::Silent),
        Unreached::Refused => ("PortClosed", FailureKind::Passing),
        Unreached::Reset => ("ConnectionClosed", FailureKind::Passing),
        Unreached::NoRoute => ("NoRoute", FailureKind::Passing),
        Unreached::NameNotFound => ("NameNotFound", FailureKind::Passing),
        // Another address or another flag must end it.
        Unreached::NotAllowed { .. } => ("AddressNotAllowed", FailureKind::Person),
        Unreached::Other(_) => ("NotConnected", FailureKind::Passing),
    }
}

/// Whether a description has something that takes the API key: a server that is started with it, a build that is asked for.
pub fn needs_api_key(desired: &Desired) -> bool {
    let rebuilds = desired.database.as_ref().and_then(|database| database.hung_builds.as_ref());
    rebuilds.is_some_and(|hung| hung.rebuild)
        || catalogue::described(desired)
            .iter()
            .any(|component| matches!(component.start, catalogue::Start::Server { .. }))
}

/// The names in pm2 of a description's servers, whose logs may tell the API key.
fn server_processes(desired: &Desired) -> Vec<String> {
    let server = |component: &catalogue::Component| matches!(component.start, catalogue::Start::Server { .. });
    catalogue::described(desired).into_iter().filter(server).map(|component| component.process).collect()
}

/// Whether a description has a server that can be asked about the API key.
pub fn asks_with_api_key(desired: &Desired) -> bool {
    desired.servers.iter().any(|server| catalogue::key_route(*server).is_some())
}

/// Whether a server refused the key that it was asked with.
pub fn key_was_refused(looked: &Looked) -> bool {
    let Looked::Seen(seen) = looked else { return false };
    seen.servers.seen().is_some_and(|servers| servers.keys.values().any(|key| *key == Key::Refused))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_silence_may_be_a_dead_machine() {
        let kind = |why| unreached(&why);
        assert_eq!(kind(Unreached::TimedOut { after: Duration::from_secs(10) }), ("Unreachable", FailureKind::Silent));
        let metadata = Unreached::NotAllowed { address: std::net::Ipv4Addr::new(169, 254, 169, 254).into() };
        assert_eq!(kind(metadata), ("AddressNotAllowed", FailureKind::Person));
        for (why, reason) in [
            (Unreached::Refused, "PortClosed"),
            (Unreached::Reset, "ConnectionClosed"),
            (Unreached::NoRoute, "NoRoute"),
            (Unreached::NameNotFound, "NameNotFound"),
            (Unreached::Other("too many open files".to_owned()), "NotConnected"),
        ] {
            assert_eq!(kind(why), (reason, FailureKind::Passing));
        }
    }
}
