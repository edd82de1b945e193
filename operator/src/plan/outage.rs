//! A host that nobody can look at: is it dead, and who says so?
//!
//! Pure. Our own silence is one witness and never enough: a power-cycle takes a second one of another kind or in another
//! place (the runbook's "Services node": SSH fails *and* the database port is closed from `binder-web-deploy`). Whoever
//! sees the host alive ends the matter: then the fault is between it and us.

use super::memory::FleetView;
use super::{Host, LookFailure};
use crate::facets::step::BOOTS_WITHIN;
use crate::facets::{Drift, DriftKind, Rung, Step};
use crate::status::conditions::find;
use binder_crds::conditions;
use jiff::Timestamp;
use std::time::Duration;

/// What an outage and the steps against it are about.
pub const SUBJECT: &str = "machine";

/// What a refused login is about.
pub const LOGIN: &str = "login";

/// How long the machine's agent may take to put a key of the metadata into place: it is told at once, and asks again every
/// minute or so when it was not.
pub const AUTHORIZED_WITHIN: Duration = Duration::from_secs(90);

/// What others say of a host that does not answer us.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outage {
    /// Other hosts of the fleet that were asked, by name.
    pub witnesses: Vec<Witness>,
    /// What its cloud says.
    pub cloud: CloudSays,
}

/// What one other host found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witness {
    /// The host that looked.
    pub host: String,
    /// What it found.
    pub says: Says,
}

/// What a witness found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Says {
    /// Nothing of it answers; in words that do not change from look to look.
    Dead(String),
    /// Something of it answers.
    Alive(String),
    /// The witness could not tell.
    Unsure(String),
}

/// What the cloud says of the host's instance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CloudSays {
    /// Nobody described how to ask: without power there is no power-cycle.
    #[default]
    NotAsked,
    /// It runs. That says nothing about what runs in it.
    Running,
    /// It is off.
    Off,
    /// It is on its way from one state to another; the cloud's word for it.
    Changing(String),
    /// The cloud could not be asked, and why.
    Unanswered(String),
}

/// What to do about a host that does not answer, as far as it itself can tell.
#[derive(Clone, Debug, PartialEq)]
pub struct Diagnosis {
    /// What is not so.
    pub drift: Drift,
    /// The step.
    pub ladder: Vec<Rung>,
    /// Who has yet to agree.
    pub witness: Option<String>,
}

/// Since when a host has been silent, by its status: what the conditions say, since a person counts from there.
fn silent_since(host: &Host<'_>, now: Timestamp) -> Timestamp {
    find(host.previous, conditions::REACHABLE)
        .filter(|condition| condition.status == "False")
        .map_or(now, |condition| condition.last_transition_time.0)
}

/// Diagnoses a host that is silent.
pub fn diagnose(host: &Host<'_>, failure: &LookFailure, fleet: &FleetView, now: Timestamp) -> Diagnosis {
    let outage = &fleet.outage;
    let mut evidence = failure.message.clone();
    for witness in &outage.witnesses {
        let (Says::Dead(words) | Says::Alive(words) | Says::Unsure(words)) = &witness.says;
        evidence.push_str(&format!("; seen from {}: {words}", witness.host));
    }
    match &outage.cloud {
        CloudSays::NotAsked => {}
        CloudSays::Running => evidence.push_str("; its cloud says that it runs"),
        CloudSays::Off => evidence.push_str("; its cloud says that it is off"),
        CloudSays::Changing(word) => evidence.push_str(&format!("; its cloud says {word}")),
        CloudSays::Unanswered(why) => evidence.push_str(&format!("; its cloud could not be asked: {why}")),
    }
    let boot_id = host.previous.boot_id.clone();
    let rung = |step| vec![Rung { step, takes_effect: BOOTS_WITHIN }];
    let (kind, short, ladder) = match &outage.cloud {
        CloudSays::NotAsked => (DriftKind::HostSilent, "no answer", Vec::new()),
        CloudSays::Off => (DriftKind::HostOff, "switched off", rung(Step::PowerOn { boot_id })),
        CloudSays::Running | CloudSays::Changing(_) | CloudSays::Unanswered(_) => {
            (DriftKind::HostSilent, "no answer", rung(Step::PowerCycle { boot_id }))
        }
    };
    let since = silent_since(host, now);
    Diagnosis {
        drift: Drift {
            kind,
            subject: SUBJECT.to_owned(),
            short: format!("{short} since {}", crate::status::clock(since)),
            evidence,
        },
        ladder,
        witness: missing_witness(outage),
    }
}

/// What can be done about a refused login, if the owner allows it: the public half of our key is added to the instance's
/// SSH keys (runbook, "Permissions"). `None`: a person is needed.
pub fn refused(host: &Host<'_>, failure: &LookFailure, public_key: &str) -> Option<Diagnosis> {
    let access = host.spec.access.as_ref().filter(|access| access.may_authorize_key)?;
    host.spec.power.as_ref()?.gce.as_ref()?;
    let step = Step::AuthorizeKey { user: access.user.0.clone(), public_key: public_key.to_owned() };
    Some(Diagnosis {
        drift: Drift {
            kind: DriftKind::LoginRefused,
            subject: LOGIN.to_owned(),
            short: format!("{}: login refused", access.user),
            evidence: failure.message.clone(),
        },
        ladder: vec![Rung { step, takes_effect: AUTHORIZED_WITHIN }],
        witness: None,
    })
}

/// What a person does about a refused login, with what to paste and where: the public half of our key, which is no secret.
pub fn let_in_by_hand(host: &Host<'_>, public_key: &str) -> String {
    let user = host.spec.access.as_ref().map_or("USER", |access| access.user.0.as_str());
    match host.spec.power.as_ref().and_then(|power| power.gce.as_ref()) {
        Some(gce) => format!(
            "put this line into the SSH keys of the instance {} (its metadata item ssh-keys, beside what is there): {user}:{public_key}",
            gce.instance
        ),
        None => format!("put this line into ~{user}/.ssh/authorized_keys on the machine: {public_key}"),
    }
}

/// Who has yet to agree that the host is dead; `None` when enough do.
fn missing_witness(outage: &Outage) -> Option<String> {
    if let Some(alive) = outage.witnesses.iter().find(|witness| matches!(witness.says, Says::Alive(_))) {
        return Some(format!("a person: {} sees it alive, so the fault lies between it and the operator", alive.host));
    }
    match &outage.cloud {
        // The cloud is a witness of another kind, and it is sure.
        CloudSays::Off => None,
        CloudSays::NotAsked => None,
        CloudSays::Changing(word) => Some(format!("its cloud, which says {word}")),
        CloudSays::Unanswered(_) => Some("its cloud to answer".to_owned()),
        CloudSays::Running if outage.witnesses.iter().any(|witness| matches!(witness.says, Says::Dead(_))) => None,
        CloudSays::Running if outage.witnesses.is_empty() => Some(
            "a second witness: no other host of the fleet can be reached, so the fault may be the operator's"
                .to_owned(),
        ),
        CloudSays::Running => Some("a second witness: no other host can tell".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outage(cloud: CloudSays, says: &[Says]) -> Outage {
        let witnesses = says.iter().map(|says| Witness { host: "web".to_owned(), says: says.clone() }).collect();
        Outage { witnesses, cloud }
    }

    #[test]
    fn no_one_witness_is_enough_and_one_that_sees_it_alive_ends_the_matter() {
        let dead = Says::Dead("SSH is silent".to_owned());
        let alive = Says::Alive("9050 answers".to_owned());
        let unsure = Says::Unsure("it forbids tunnels".to_owned());
        let agrees = |cloud, says: &[Says]| missing_witness(&outage(cloud, says)).is_none();
        assert!(agrees(CloudSays::Running, std::slice::from_ref(&dead)));
        assert!(agrees(CloudSays::Running, &[unsure.clone(), dead.clone()]));
        assert!(agrees(CloudSays::Off, &[]));
        for (cloud, says) in [
            (CloudSays::Running, vec![]),
            (CloudSays::Running, vec![unsure]),
            (CloudSays::Running, vec![dead.clone(), alive.clone()]),
            (CloudSays::Off, vec![alive]),
            (CloudSays::Changing("STAGING".to_owned()), vec![dead.clone()]),
            (CloudSays::Unanswered("403".to_owned()), vec![dead]),
        ] {
            assert!(!agrees(cloud.clone(), &says), "{cloud:?} {says:?}");
        }
    }
}
