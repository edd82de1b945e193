//! One look: the probe and the question to the cluster behind the proxy, side by side on the host's open connection.

use crate::catalogue;
use crate::facets;
use crate::hosts::{
    ConnectError, HttpPath, LocalHttp, LookError, NotConnected, Probe, Retry, Section, SectionOutput, Session,
};
use crate::plan::{LookFailure, Looked};
use crate::seen::proxy::{self, Cluster};
use crate::seen::{Answer, Ask, Blind, Observation, Reason};
use binder_crds::Desired;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::time::Duration;

/// Looks at a host. `now` is read when the answers are there.
pub(super) async fn look(session: &Session, desired: &Desired) -> Looked {
    let asks = facets::asks(desired);
    let sections = asks.iter().map(section).collect();
    let probe = match Probe::new(sections) {
        Ok(probe) => probe,
        Err(bad) => {
            return Looked::Failed(LookFailure {
                reason: "InvalidSpec",
                message: format!("what is described cannot be looked at: {bad}"),
                needs_person: true,
                not_before: None,
            });
        }
    };
    let (looked, cluster) = tokio::join!(session.look(&probe), cluster(session, desired));
    match looked {
        Ok(look) => {
            let answers: BTreeMap<String, Answer> =
                look.sections.into_iter().map(|(name, output)| (name.to_owned(), answer(output))).collect();
            Looked::Seen(Box::new(Observation::read(Timestamp::now(), &asks, &answers, cluster)))
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

/// Which cluster answers through the proxy, asked as `deploy-kubernetes` would ask, through a tunnel.
async fn cluster(session: &Session, desired: &Desired) -> Cluster {
    let Some(spec) = &desired.kubectl_proxy else { return Cluster::NotAsked };
    let path = match HttpPath::of(["api", "v1", "namespaces", "kube-system"]) {
        Ok(path) => path,
        Err(bad) => return Cluster::NoAnswer(bad.to_string()),
    };
    let request = LocalHttp { host: "127.0.0.1".to_owned(), port: spec.port, path, headers: Vec::new() };
    match session.http(request).await {
        Ok(answer) if answer.status == 200 => match proxy::identity(&answer.body) {
            Some(identity) => Cluster::Identity(identity),
            None => Cluster::NoAnswer("it says nothing that a Kubernetes API says".to_owned()),
        },
        Ok(answer) => Cluster::Status(answer.status),
        Err(error) => Cluster::NoAnswer(error.to_string()),
    }
}

fn lost(error: &LookError) -> LookFailure {
    let (reason, needs_person) = match error {
        LookError::BadProbe(_) => ("InvalidSpec", true),
        LookError::NotStarted { .. } => ("LookRefused", false),
        LookError::NoAnswer { .. } => ("NoAnswer", false),
        LookError::Lost { .. } => ("ConnectionLost", false),
        LookError::NoShell { .. } => ("NoShell", true),
    };
    LookFailure { reason, message: error.to_string(), needs_person, not_before: None }
}

/// A failed connection as a condition. What only a person or a changed object can end is told from what may pass.
pub(super) fn not_connected(failed: &NotConnected) -> LookFailure {
    let (reason, needs_person) = match &*failed.why {
        ConnectError::Unreachable { .. } => ("Unreachable", false),
        ConnectError::Hung { .. } => ("Hung", false),
        ConnectError::Closed { .. } => ("ConnectionClosed", false),
        ConnectError::Unsteady { .. } => ("ConnectionLost", false),
        ConnectError::NotSsh { .. } => ("NotSsh", true),
        ConnectError::Protocol { .. } => ("NoCommonProtocol", true),
        ConnectError::HostKeyMismatch { .. } => ("HostKeyMismatch", true),
        ConnectError::NoHostKeyPinned { .. } => ("NoHostKey", true),
        ConnectError::LoginRefused { .. } => ("LoginRefused", true),
        ConnectError::MoreProofWanted { .. } => ("MoreProofWanted", true),
    };
    let remedy = match reason {
        "HostKeyMismatch" => {
            "; if the machine was replaced, put its new key into hostKeys, else somebody may stand between"
        }
        "LoginRefused" => {
            "; put the public half of the key into the login's authorized_keys, or correct the Secret; so as not to be locked out it is tried again only when the Secret changes (kubectl annotate secret counts)"
        }
        _ => "",
    };
    let not_before = match failed.retry {
        Retry::At(at) => Some(at),
        Retry::WhenLoginChanges | Retry::WhenHostKeyPinned => None,
    };
    LookFailure { reason, message: format!("{}{remedy}", failed.why), needs_person, not_before }
}

/// Whether a description has a server that is started with the API key.
pub(super) fn needs_api_key(desired: &Desired) -> bool {
    catalogue::described(desired).iter().any(|component| matches!(component.start, catalogue::Start::Server { .. }))
}
