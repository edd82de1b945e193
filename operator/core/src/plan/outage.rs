//! A host that nobody can look at: is it dead, and who says so?
//!
//! Pure. The operator's `controllers` hand over testimony as data; what each witness's is worth, [`super::witness`] says. Our own
//! silence is one witness and never enough: a power-cycle takes a second one in another place, and the cloud (the runbook's
//! "Services node": SSH fails *and* the database port is closed from `binder-web-deploy`). Whoever sees the host alive ends the
//! matter: then the fault is between it and us.

use super::memory::FleetView;
pub use super::witness::{Carrier, Greeting, Heard, Over, Says, Testimony, Witness, greets, judge, preference};
use super::{Host, LookFailure};
use crate::conditions::find;
use crate::facets::machine::{BOOTS_WITHIN, Step};
use crate::facets::{Drift, DriftKind, Rung, Subject};
use crate::words::time_of_day;
use binder_crds::host::ProvenAt;
use binder_crds::{BinderHostSpec, conditions};
use jiff::{SignedDuration, Timestamp};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

/// How long the machine's agent may take to put a key of the metadata into place: it is told at once, and asks again every
/// minute or so when it was not.
pub const AUTHORIZED_WITHIN: Duration = Duration::from_secs(90);

/// What others say of a host that does not answer us.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outage {
    /// Other hosts of the fleet that were asked.
    pub witnesses: Vec<Witness>,
    /// What its cloud says.
    pub cloud: CloudSays,
    /// What its cloud knows of the instance; `None` when it was not asked or did not answer.
    pub instance: Option<Instance>,
    /// What the described address is.
    pub address: Addressed,
    /// The hosts of the fleet that this one's endpoint has greeted, by name.
    pub greets: BTreeSet<String>,
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

/// What a cloud knows of an instance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Instance {
    /// The instance, in words.
    pub name: String,
    /// Its addresses, internal and external.
    pub addresses: BTreeSet<IpAddr>,
    /// For how long it has been on, by the cloud's own clock, as far as the cloud says.
    pub on_for: Option<SignedDuration>,
}

/// What a described address is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Addressed {
    /// Nobody looked.
    #[default]
    NotAsked,
    /// These addresses.
    At(BTreeSet<IpAddr>),
    /// A name that does not resolve where the operator runs.
    Unresolved,
}

/// Whether an instance is the machine that is described.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Belongs {
    /// It has the described address.
    Yes,
    /// It has other addresses, and why that is said.
    No(String),
    /// Nobody can tell, and why.
    Unknown(String),
}

/// Compares what is described with what the cloud knows of the instance.
pub fn belongs(described: &str, outage: &Outage) -> Belongs {
    let Some(instance) = &outage.instance else {
        return Belongs::Unknown("its cloud does not say which addresses the instance has".to_owned());
    };
    if instance.addresses.is_empty() {
        return Belongs::Unknown(format!("{} has no address that its cloud tells", instance.name));
    }
    let ours = match &outage.address {
        Addressed::At(ours) => ours,
        Addressed::NotAsked | Addressed::Unresolved => {
            return Belongs::Unknown(format!("{described} does not resolve where the operator runs"));
        }
    };
    let plain = |addresses: &BTreeSet<IpAddr>| addresses.iter().map(IpAddr::to_canonical).collect::<BTreeSet<_>>();
    if plain(ours).is_disjoint(&plain(&instance.addresses)) {
        let theirs: Vec<String> = instance.addresses.iter().map(ToString::to_string).collect();
        return Belongs::No(format!(
            "{described} is described, and {} has {}: correct the host's address or power.gce.instance",
            instance.name,
            theirs.join(", ")
        ));
    }
    Belongs::Yes
}

/// The endpoint that a description names, as it is kept once it was logged in to.
pub fn endpoint(spec: &BinderHostSpec) -> ProvenAt {
    // The order of the keys and their comments mean nothing.
    let keys: BTreeSet<String> =
        spec.host_keys.iter().map(|key| key.0.split_whitespace().take(2).collect::<Vec<_>>().join(" ")).collect();
    let mut hash = Sha256::new();
    for key in keys {
        hash.update(key.as_bytes());
        hash.update([0]);
    }
    let host_keys = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    ProvenAt { address: spec.address.0.clone(), port: spec.port, host_keys, greets: Vec::new() }
}

/// What a former status says of the endpoint that is described now; `None` when nobody was ever logged in there.
pub fn proven<'s>(previous: Option<&'s ProvenAt>, spec: &BinderHostSpec) -> Option<&'s ProvenAt> {
    let now = endpoint(spec);
    previous.filter(|was| (&was.address, was.port, &was.host_keys) == (&now.address, now.port, &now.host_keys))
}

/// What to do about a host that does not answer, as far as it itself can tell.
#[derive(Clone, Debug, PartialEq)]
pub struct Diagnosis {
    /// What is not so.
    pub drift: Drift,
    /// The step.
    pub ladder: Vec<Rung>,
    /// When the instance will have been on for long enough to have booted, if that is ahead.
    pub booted_at: Option<Timestamp>,
    /// Who has yet to agree.
    pub witness: Option<String>,
}

/// Since when a host has been silent, by its status: what the conditions say, since a person counts from there.
fn silent_since(host: &Host<'_>, now: Timestamp) -> Timestamp {
    find(host.previous, conditions::REACHABLE)
        .filter(|condition| condition.status == "False")
        .map_or(now, |condition| condition.last_transition_time.0)
}

/// When something that has been so since a moment has lasted long enough to be taken for dead.
pub fn dead_at(since: Timestamp, fleet: &FleetView) -> Timestamp {
    let wait = SignedDuration::try_from(fleet.patience.unreachable_timeout).unwrap_or(SignedDuration::from_hours(24));
    since.checked_add(wait).unwrap_or(Timestamp::MAX)
}

/// Until when an instance that was just started may be booting; `None` when it has been on for long enough, or nobody knows.
fn boots_until(outage: &Outage, fleet: &FleetView, now: Timestamp) -> Option<Timestamp> {
    let on_for = outage.instance.as_ref()?.on_for?;
    let began = now.checked_sub(on_for.max(SignedDuration::ZERO)).ok()?;
    Some(dead_at(began, fleet)).filter(|until| *until > now)
}

/// Whether the instance is another machine than the one that is described, in words.
pub fn mismatch(host: &Host<'_>, outage: &Outage) -> Option<String> {
    match belongs(&host.spec.address.0, outage) {
        Belongs::No(why) => Some(why),
        Belongs::Yes | Belongs::Unknown(_) => None,
    }
}

/// Diagnoses a host that is silent.
pub fn diagnose(host: &Host<'_>, failure: &LookFailure, fleet: &FleetView, now: Timestamp) -> Diagnosis {
    let outage = &fleet.outage;
    let mut evidence = failure.message.clone();
    for witness in &outage.witnesses {
        let (Says::Dead(words) | Says::Alive(words) | Says::Unsure(words)) = judge(witness);
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
    let rung = |step: Step| vec![Rung::new(step, BOOTS_WITHIN)];
    let may_start = host.spec.power.as_ref().is_some_and(|power| power.may_start);
    let (kind, short, ladder) = match &outage.cloud {
        CloudSays::NotAsked => (DriftKind::HostSilent, "no answer", Vec::new()),
        CloudSays::Off if may_start => (DriftKind::HostOff, "switched off", rung(Step::PowerOn { boot_id })),
        CloudSays::Off => (DriftKind::HostOff, "switched off", Vec::new()),
        CloudSays::Running | CloudSays::Changing(_) | CloudSays::Unanswered(_) => {
            (DriftKind::HostSilent, "no answer", rung(Step::PowerCycle { boot_id }))
        }
    };
    let since = silent_since(host, now);
    Diagnosis {
        drift: Drift {
            kind,
            subject: Subject::Machine,
            short: format!("{short} since {}", time_of_day(since)),
            evidence,
        },
        ladder,
        booted_at: boots_until(outage, fleet, now),
        witness: missing_witness(host, outage),
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
            subject: Subject::Login,
            short: format!("{}: login refused", access.user),
            evidence: failure.message.clone(),
        },
        ladder: vec![Rung::new(step, AUTHORIZED_WITHIN)],
        booted_at: None,
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

/// Who has yet to agree that the host may be power-cycled or started; `None` when enough do.
fn missing_witness(host: &Host<'_>, outage: &Outage) -> Option<String> {
    let says: Vec<(&str, Says)> =
        outage.witnesses.iter().map(|witness| (witness.host.as_str(), judge(witness))).collect();
    if let Some((alive, _)) = says.iter().find(|(_, says)| matches!(says, Says::Alive(_))) {
        return Some(format!("a person: {alive} sees it alive, so the fault lies between it and the operator"));
    }
    if outage.cloud == CloudSays::NotAsked {
        return None;
    }
    let spec = host.spec;
    if proven(host.previous.proven_at.as_ref(), spec).is_none() {
        return Some(format!(
            "a first login at {}:{}: no login there with these host keys yet",
            spec.address, spec.port
        ));
    }
    match &outage.cloud {
        CloudSays::Changing(word) => return Some(format!("its cloud, which says {word}")),
        CloudSays::Unanswered(_) => return Some("its cloud to answer".to_owned()),
        CloudSays::NotAsked | CloudSays::Running | CloudSays::Off => {}
    }
    match belongs(&spec.address.0, outage) {
        Belongs::Yes => {}
        Belongs::No(why) => return Some(format!("a person: {why}")),
        Belongs::Unknown(why) => return Some(format!("certainty that the instance is this machine: {why}")),
    }
    if outage.cloud == CloudSays::Off {
        // The cloud is a witness of another kind, and it is sure.
        let may_start = spec.power.as_ref().is_some_and(|power| power.may_start);
        return (!may_start).then(|| "a person: set power.mayStart: true to have it started, or start it".to_owned());
    }
    if says.iter().any(|(_, says)| matches!(says, Says::Dead(_))) {
        return None;
    }
    Some(
        match says.iter().find_map(|(name, says)| match says {
            Says::Unsure(why) => Some((name, why)),
            Says::Dead(_) | Says::Alive(_) => None,
        }) {
            None => "a second witness: no other host of the fleet can be reached, so the fault may be the operator's"
                .to_owned(),
            Some((name, why)) => format!("a second witness: no other host can tell ({name}: {why})"),
        },
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::*;
    use crate::plan::witness::tests::witness;
    use binder_crds::BinderHostStatus;
    use binder_crds::Mode;
    use binder_crds::references::HostPower;

    fn spec() -> BinderHostSpec {
        BinderHostSpec {
            address: "198.18.0.11".into(),
            port: 22,
            host_keys: vec!["ssh-ed25519 AAAA a".into(), "ssh-rsa BBBB".into()],
            power: Some(HostPower::default()),
            ..BinderHostSpec::default()
        }
    }

    fn instance(address: &str) -> Instance {
        Instance {
            name: "instance services-1".to_owned(),
            addresses: BTreeSet::from([address.parse().unwrap(), "10.128.0.7".parse().unwrap()]),
            on_for: Some(SignedDuration::from_hours(9)),
        }
    }

    /// Everybody agrees.
    fn agreed() -> Outage {
        Outage {
            witnesses: vec![witness(Heard::TimedOut)],
            cloud: CloudSays::Running,
            instance: Some(instance("198.18.0.11")),
            address: Addressed::At(BTreeSet::from(["198.18.0.11".parse().unwrap()])),
            greets: BTreeSet::new(),
        }
    }

    fn waits(outage: &Outage, spec: &BinderHostSpec, proven: Option<ProvenAt>) -> Option<String> {
        let previous = BinderHostStatus { proven_at: proven, ..BinderHostStatus::default() };
        let host = Host {
            name: "services",
            uid: "u",
            generation: 1,
            spec,
            mode: Mode::Enforce,
            suspended: None,
            previous: &previous,
            demanded: &crate::plan::evidence::Demanded::default(),
        };
        missing_witness(&host, outage)
    }

    #[test]
    fn no_one_witness_is_enough_and_one_that_sees_it_alive_ends_the_matter() {
        let agree = |outage: Outage| waits(&outage, &spec(), Some(endpoint(&spec())));
        assert_eq!(agree(agreed()), None);
        let (dead, alive) = (witness(Heard::TimedOut), witness(Heard::Spoke));
        let unsure = Witness { greeted: false, ..dead.clone() };
        assert_eq!(agree(Outage { witnesses: vec![unsure.clone(), dead.clone()], ..agreed() }), None);
        for (cloud, witnesses, says) in [
            (CloudSays::Running, vec![], "a second witness: no other host of the fleet can be reached"),
            (CloudSays::Running, vec![unsure], "a second witness: no other host can tell (web: "),
            (CloudSays::Running, vec![dead.clone(), alive.clone()], "a person: web sees it alive"),
            (CloudSays::Off, vec![alive], "a person: web sees it alive"),
            (CloudSays::Off, vec![], "a person: set power.mayStart: true"),
            (CloudSays::Changing("STAGING".to_owned()), vec![dead.clone()], "its cloud, which says STAGING"),
            (CloudSays::Unanswered("403".to_owned()), vec![dead], "its cloud to answer"),
        ] {
            let waits = agree(Outage { cloud: cloud.clone(), witnesses, ..agreed() }).unwrap_or_default();
            assert!(waits.starts_with(says), "{cloud:?}: {waits}");
        }
        let may_start = BinderHostSpec { power: Some(HostPower { may_start: true, ..HostPower::default() }), ..spec() };
        let off = Outage { cloud: CloudSays::Off, witnesses: Vec::new(), ..agreed() };
        assert_eq!(waits(&off, &may_start, Some(endpoint(&may_start))), None);
    }

    #[test]
    fn where_nobody_was_ever_logged_in_there_is_no_power_step() {
        let spec = spec();
        let says = waits(&agreed(), &spec, None).unwrap();
        assert_eq!(says, "a first login at 198.18.0.11:22: no login there with these host keys yet");
        // Another address, port or key is another endpoint; the order of the keys and a comment are not.
        let at = |change: fn(&mut BinderHostSpec)| {
            let mut was = spec.clone();
            change(&mut was);
            waits(&agreed(), &spec, Some(endpoint(&was)))
        };
        assert!(at(|was| was.address = "198.18.0.12".into()).is_some());
        assert!(at(|was| was.port = 2222).is_some());
        assert!(at(|was| was.host_keys[0] = "ssh-ed25519 CCCC".into()).is_some());
        assert!(at(|was| was.host_keys.reverse()).is_none());
        assert!(at(|was| was.host_keys[0] = "ssh-ed25519 AAAA".into()).is_none());
    }

    #[test]
    fn an_instance_with_other_addresses_is_another_machine() {
        let waits = |outage: &Outage| waits(outage, &spec(), Some(endpoint(&spec()))).unwrap_or_default();
        let other = Outage { instance: Some(instance("198.18.0.99")), ..agreed() };
        assert_eq!(
            waits(&other),
            "a person: 198.18.0.11 is described, and instance services-1 has 10.128.0.7, 198.18.0.99: correct the host's \
             address or power.gce.instance"
        );
        let nameless = Outage { address: Addressed::Unresolved, ..agreed() };
        assert!(waits(&nameless).starts_with("certainty that the instance is this machine"), "{}", waits(&nameless));
        let unsaid = Outage { instance: None, ..agreed() };
        assert!(waits(&unsaid).starts_with("certainty"), "{}", waits(&unsaid));
        let bare = Outage { instance: Some(Instance::default()), ..agreed() };
        assert!(waits(&bare).starts_with("certainty"), "{}", waits(&bare));
        let mapped =
            Outage { address: Addressed::At(BTreeSet::from(["::ffff:198.18.0.11".parse().unwrap()])), ..agreed() };
        assert_eq!(waits(&mapped), "");
    }

    #[test]
    fn a_machine_that_was_just_switched_on_is_booting() {
        let fleet = FleetView::default();
        let now = Timestamp::UNIX_EPOCH + SignedDuration::from_hours(100);
        let until = |on_for: Option<i64>| {
            let on_for = on_for.map(SignedDuration::from_secs);
            let outage = Outage { instance: Some(Instance { on_for, ..instance("198.18.0.11") }), ..agreed() };
            boots_until(&outage, &fleet, now).map(|until| until.duration_since(now).as_secs())
        };
        let wait = i64::try_from(fleet.patience.unreachable_timeout.as_secs()).unwrap();
        assert_eq!(until(Some(10)), Some(wait - 10));
        assert_eq!(until(Some(-5)), Some(wait));
        assert_eq!(until(Some(wait)), None);
        assert_eq!(until(None), None);
    }
}
