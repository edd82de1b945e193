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
    ConnectError, Greeting, LoginKey, LookError, NotConnected, Probe, Retry, Section, SectionOutput, Session, Unreached,
};
use binder_core::catalogue;
use binder_core::facets;
use binder_core::plan::{FailureKind, LookFailure, Looked};
use binder_core::seen::servers::Key;
use binder_core::seen::{Answer, Ask, Observation, Reason, Unknown, keys, known, settings};
use binder_crds::Desired;
use binder_crds::desired::KubernetesApi;
use futures::future::{BoxFuture, FutureExt};
use jiff::Timestamp;
use secrecy::SecretString;
use std::collections::BTreeMap;
use std::time::Duration;

/// What a look may use beside the host's own connection and description.
#[derive(Debug, Default)]
pub struct FleetContext {
    /// Addresses of the fleet's hosts, by name.
    pub addresses: BTreeMap<String, String>,
    /// Where the fleet's build server is; `None` as well while the settings of its host, which say its port, are not known.
    pub build_server: Option<BuildServer>,
    /// The API key of Binder's servers, or what stands in the way of knowing it; `None` where nobody needs it.
    pub api_key: Option<Result<SecretString, String>>,
    /// Whether the API key is to be looked for in the servers' logs.
    pub search_logs: bool,
    /// The way to the fleet's cluster.
    pub cluster: Option<kubernetes::Way>,
}

/// Where a build server is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildServer {
    /// The address of its host.
    pub address: String,
    /// Its port, as the settings of that host say.
    pub port: u16,
}

/// What can be asked through an open connection to a machine.
pub trait Eyes: Send + Sync + std::fmt::Debug {
    /// One look at the machine.
    fn look<'a>(&'a self, desired: &'a Desired, around: &'a FleetContext) -> BoxFuture<'a, Looked>;

    /// Asks the servers of the machine once more, with what is known by now, and nothing else: the rest of the look stays.
    fn ask_servers<'a>(
        &'a self,
        desired: &'a Desired,
        around: &'a FleetContext,
        seen: &'a mut Observation,
    ) -> BoxFuture<'a, ()>;

    /// What the machine tells of the cluster behind its kubectl proxy, which is to be the described one.
    fn cluster<'a>(&'a self, way: &'a kubernetes::Way, spec: &'a KubernetesApi) -> BoxFuture<'a, kubernetes::Through>;

    /// What the machine hears from an address and port after it said `opener`.
    fn greeting<'a>(&'a self, address: &'a str, port: u16, opener: &'a [u8]) -> BoxFuture<'a, Greeting>;

    /// Whether the machine's own end of the connection answers.
    fn is_alive(&self) -> BoxFuture<'_, bool>;
}

impl Eyes for Session {
    fn look<'a>(&'a self, desired: &'a Desired, around: &'a FleetContext) -> BoxFuture<'a, Looked> {
        look(self, desired, around).boxed()
    }

    fn ask_servers<'a>(
        &'a self,
        desired: &'a Desired,
        around: &'a FleetContext,
        seen: &'a mut Observation,
    ) -> BoxFuture<'a, ()> {
        async move { seen.servers = servers::ask(self, desired, around, &seen.settings).await }.boxed()
    }

    fn cluster<'a>(&'a self, way: &'a kubernetes::Way, spec: &'a KubernetesApi) -> BoxFuture<'a, kubernetes::Through> {
        kubernetes::through(self, way, spec).boxed()
    }

    fn greeting<'a>(&'a self, address: &'a str, port: u16, opener: &'a [u8]) -> BoxFuture<'a, Greeting> {
        self.greeting(address, port, opener).boxed()
    }

    fn is_alive(&self) -> BoxFuture<'_, bool> {
        self.is_alive().boxed()
    }
}

/// Looks at a host. The time of the look is that at which all answers are there.
pub async fn look(session: &Session, desired: &Desired, around: &FleetContext) -> Looked {
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
    let probed = async {
        let look = session.look(&probe).await?;
        let answers: BTreeMap<String, Answer> =
            look.sections.into_iter().map(|(name, output)| (name.to_owned(), answer(output))).collect();
        // Which port a server is asked on, only its host's settings tell.
        let settings = known(&asks, &answers, settings::NAME, settings::read);
        let servers = servers::ask(session, desired, around, &settings).await;
        Ok::<_, LookError>((answers, servers))
    };
    let (probed, cluster, database, reaches, kubernetes, routes) = tokio::join!(
        probed,
        cluster::identity(session, desired),
        database::look(session, desired),
        reach::ask(session, desired, around),
        kubernetes::ask(session, desired, around),
        routes::ask(session, desired),
    );
    match probed {
        Ok((answers, servers)) => {
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
    let not = |reason, message: String| Answer::Not(Unknown { reason, message });
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
        // Whether the key is there is not known, so that to add it is no remedy.
        ConnectError::RsaNotTaken { .. } => ("RsaKeyNotTaken", FailureKind::Person),
        ConnectError::MoreProofWanted { .. } => ("MoreProofWanted", FailureKind::Person),
    };
    let remedy = match reason {
        "HostKeyMismatch" => {
            "; if the machine was replaced, put its new key into hostKeys; if it was not, somebody may intercept the connection"
        }
        "LoginRefused" | "RsaKeyNotTaken" => {
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
pub fn key_was_refused(seen: &Observation) -> bool {
    seen.servers.seen().is_some_and(|servers| servers.keys.values().any(|key| *key == Key::Refused))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_added_only_where_it_is_surely_refused() {
        let key = crate::hosts::tests::login_key("secret/1");
        let at = crate::hosts::Endpoint { name: "web".to_owned(), address: "192.0.2.1".to_owned(), port: 22 };
        let (user, fingerprint, key_version) = ("andrew".to_owned(), "SHA256:x".to_owned(), "secret/1".to_owned());
        let says = |why| {
            let failed = NotConnected { why: std::sync::Arc::new(why), retry: Retry::WhenLoginChanges };
            let failure = not_connected(&failed, &key);
            (failure.reason, matches!(failure.kind, FailureKind::Refused { .. }))
        };
        let refused = ConnectError::LoginRefused {
            at: at.clone(),
            user: user.clone(),
            fingerprint: fingerprint.clone(),
            key_version: key_version.clone(),
        };
        assert_eq!(says(refused), ("LoginRefused", true));
        let more =
            ConnectError::MoreProofWanted { at: at.clone(), user: user.clone(), key_version: key_version.clone() };
        assert_eq!(says(more), ("MoreProofWanted", false));
        assert_eq!(says(ConnectError::RsaNotTaken { at, user, fingerprint, key_version }), ("RsaKeyNotTaken", false));
    }

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
