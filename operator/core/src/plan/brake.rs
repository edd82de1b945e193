//! The brake of a whole fleet: when much breaks at once, the operator doubts its own sight before it acts on it.
//!
//! One machine that differs is a machine that broke. The same difference on many machines at once is rather one cause: a
//! tool that another version of the system answers differently, a network of ours, a description that was mistyped, a
//! remedy that does harm. Then no step that disrupts a service or a host is done anywhere in the fleet; what disrupts
//! nothing (start what is missing, insert a redirect) goes on, and so does what is under way.
//!
//! Pure: signs in, an answer out. What each host says comes from its status ([`signs`]), so that an operator that is
//! started anew learns it again; [`Brake`] is what one process remembers of one fleet.
//!
//! # When it holds
//!
//! | Reason | When |
//! |---|---|
//! | `SameDriftOnManyHosts` | one kind of drift lasts on at least 3 hosts (6, if it is cured by what disrupts nothing), and on a third of those that are described to have it, and began there within 5 minutes |
//! | `DriftsAfterStart` | within 5 minutes of the operator's start, drifts of any kinds began on at least 6 hosts, and on a third of all |
//! | `DriftsAfterChange` | the same within 5 minutes of a change of what is described |
//! | `RemediesFail` | one kind of step failed the last two times (for a whole host: the last time) on at least 3 hosts, and on a third of all, within 30 minutes |
//!
//! # How the numbers were chosen
//!
//! - **Three hosts**: two hosts that break in the same minute are met in practice (a database and what needs it), and a
//!   fleet of one or two must never wait for a person. In a fleet of three to five it takes the *same* kind on three of
//!   them, and one that is cured by ending something.
//! - **Six** for any kinds, and for what is only missing: a fleet of up to five whose power failed shows that on every host,
//!   at the operator's start too, and must be healed.
//! - **A third**: as machine health checks of others do (`maxUnhealthy` 40 %, `minHealthy` 51 %), on the careful side.
//! - **Five minutes**: ten looks at the usual interval; every host has been looked at, also while looks are slow.
//! - **Thirty minutes**: three attempts with doubling pauses and a boot between them.
//!
//! The first two hosts are acted on before the third one shows the same: two cannot be told from two faults.
//!
//! # When it opens
//!
//! When no reason holds any more for as long as [`CALM_LOOKS`] looks (2 minutes at the usual interval), or at a person's word
//! that is later than its beginning ([`binder_crds::RELEASE_ANNOTATION`]); what began before that word no longer counts. It
//! does not open by the passing of time alone: what has been seen wrongly for an hour is no truer for it.
//!
//! # Right after the start
//!
//! For [`SETTLES`] after its own start the operator disrupts only for a kind of drift that the host's status told already:
//! what others are, a connection that is still missing, a first answer that is half, must not count as a difference.

use super::memory::FleetView;
use crate::facets::{Disruption, DriftKind, OnMany, Step};
use binder_crds::{BinderHostStatus, conditions};
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// For so long after its start the operator disrupts only for what was known before: three looks at a host that differs.
pub const SETTLES: Duration = Duration::from_secs(20);
/// As many looks long no reason must hold before the brake opens.
pub const CALM_LOOKS: u32 = 4;

/// The same kind on so many hosts.
const SAME: usize = 3;
/// Any kinds on so many hosts.
const ANY: usize = 6;
/// One host in so many.
const SHARE: usize = 3;
/// What begins within this began together, or soon after.
const TOGETHER: SignedDuration = SignedDuration::from_mins(5);
/// Remedies that ended longer ago say nothing of today.
const FAILING: SignedDuration = SignedDuration::from_mins(30);
/// As many remedies are remembered of one fleet.
const REMEMBERED: usize = 4096;
/// A release from the future, by more than clocks differ, is no word of today.
const CLOCKS: SignedDuration = SignedDuration::from_mins(1);
/// As many hosts are named.
const NAMED: usize = 3;

/// The brake holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The condition's reason.
    pub reason: &'static str,
    /// Why, in words that stay as they are for as long as it holds.
    pub words: String,
}

/// The same kind of drift lasts on many hosts.
pub const SAME_DRIFT: &str = "SameDriftOnManyHosts";
/// Many hosts differ since the operator was started.
pub const AFTER_START: &str = "DriftsAfterStart";
/// Many hosts differ since what is described was changed.
pub const AFTER_CHANGE: &str = "DriftsAfterChange";
/// A kind of step fails on many hosts.
pub const REMEDIES_FAIL: &str = "RemediesFail";
/// Every reason.
pub const REASONS: [&str; 4] = [SAME_DRIFT, AFTER_START, AFTER_CHANGE, REMEDIES_FAIL];

/// What one host shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostSigns {
    /// The object's UID.
    pub uid: String,
    /// Its name.
    pub host: String,
    /// The generation of its spec.
    pub generation: i64,
    /// The conditions that its description has.
    pub described: BTreeSet<String>,
    /// What differs.
    pub signs: Vec<Sign>,
}

/// A kind of drift on a host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sign {
    /// Which condition tells it.
    pub of: String,
    /// The kind.
    pub kind: DriftKind,
    /// Since when, as far as that is known.
    pub since: Timestamp,
}

/// How a remedy ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remedy {
    /// The UID of the host.
    pub uid: String,
    /// The host's name.
    pub host: String,
    /// The kind of step.
    pub step: String,
    /// Whether it was done to the whole host: that is done once in an incident.
    pub whole: bool,
    /// When its end was known.
    pub at: Timestamp,
    /// Whether its effect was seen.
    pub helped: bool,
}

/// Everything that is judged.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The hosts of the fleet.
    pub hosts: &'a [HostSigns],
    /// How remedies ended, oldest first.
    pub remedies: &'a [Remedy],
    /// When the operator was started.
    pub started: Timestamp,
    /// When what is described was last changed, if this process has seen it.
    pub changed: Option<Timestamp>,
    /// A person's word: what began before does not count.
    pub released: Option<Timestamp>,
}

/// What the status of a host tells: the conditions that it has, and what differs by them.
pub fn signs(uid: &str, host: &str, generation: i64, status: &BinderHostStatus) -> HostSigns {
    let sign = |condition: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition| {
        let kind = kind(&condition.type_, &condition.reason).filter(|_| condition.status == "False")?;
        Some(Sign { of: condition.type_.clone(), kind, since: condition.last_transition_time.0 })
    };
    HostSigns {
        uid: uid.to_owned(),
        host: host.to_owned(),
        generation,
        described: status.conditions.iter().map(|condition| condition.type_.clone()).collect(),
        signs: status.conditions.iter().filter_map(sign).collect(),
    }
}

/// The kind of drift that a condition's reason tells. What is held back by something else is explained, and no sign.
fn kind(condition: &str, reason: &str) -> Option<DriftKind> {
    let silent = ["Unreachable", "Hung", "ConnectionLost", "NoAnswer"];
    if condition == conditions::REACHABLE && silent.contains(&reason) {
        return Some(DriftKind::HostSilent);
    }
    DriftKind::ALL.iter().copied().find(|kind| kind.as_str() == reason)
}

/// Whether a kind on many hosts at once says anything.
fn counts(kind: DriftKind) -> bool {
    kind.on_many() != OnMany::Told
}

/// On how many hosts a kind must be at once. That steps which disrupt nothing fail on many hosts has a reason of its own.
fn least(kind: DriftKind) -> usize {
    match kind.on_many() {
        OnMany::Mild => ANY,
        OnMany::Told | OnMany::Grave => SAME,
    }
}

/// Whether the brake must hold.
pub fn judge(facts: &Facts<'_>, now: Timestamp) -> Option<Held> {
    let released = facts.released.filter(|released| *released <= now + CLOCKS);
    let begun = |sign: &&Sign| counts(sign.kind) && released.is_none_or(|released| sign.since > released);
    same_drift(facts, &begun)
        .or_else(|| soon_after(facts, facts.started, &begun).map(|words| after_start(&words)))
        .or_else(|| soon_after(facts, facts.changed?, &begun).map(|words| after_change(&words)))
        .or_else(|| remedies_fail(facts, released, now))
}

fn after_start(words: &str) -> Held {
    Held { reason: AFTER_START, words: format!("{words} within 5 min of the operator's start") }
}

fn after_change(words: &str) -> Held {
    Held { reason: AFTER_CHANGE, words: format!("{words} within 5 min of a change of what is described") }
}

fn enough(hosts: usize, least: usize, of: usize) -> bool {
    hosts >= least && hosts >= of.div_ceil(SHARE)
}

fn same_drift(facts: &Facts<'_>, begun: &dyn Fn(&&Sign) -> bool) -> Option<Held> {
    let mut kinds: BTreeMap<DriftKind, BTreeMap<(Timestamp, &str), &str>> = BTreeMap::new();
    for host in facts.hosts {
        for sign in host.signs.iter().filter(begun) {
            kinds.entry(sign.kind).or_default().insert((sign.since, &host.host), &sign.of);
        }
    }
    for (kind, hosts) in kinds {
        let sorted: Vec<(Timestamp, &str)> = hosts.keys().copied().collect();
        let of = facts.hosts.iter().filter(|host| hosts.values().any(|of| host.described.contains(*of))).count();
        for (first, (since, _)) in sorted.iter().enumerate() {
            let together = sorted[first..].iter().take_while(|(at, _)| at.duration_since(*since) <= TOGETHER);
            let names: BTreeSet<&str> = together.map(|(_, host)| *host).collect();
            if enough(names.len(), least(kind), of) {
                let words =
                    format!("{} began on {} of {of} hosts within 5 min ({})", kind.as_str(), names.len(), few(&names));
                return Some(Held { reason: SAME_DRIFT, words });
            }
        }
    }
    None
}

fn soon_after(facts: &Facts<'_>, moment: Timestamp, begun: &dyn Fn(&&Sign) -> bool) -> Option<String> {
    let soon = |sign: &&Sign| {
        let after = sign.since.duration_since(moment);
        !after.is_negative() && after <= TOGETHER
    };
    let differs = |host: &&HostSigns| host.signs.iter().filter(begun).any(|sign| soon(&sign));
    let names: BTreeSet<&str> = facts.hosts.iter().filter(differs).map(|host| host.host.as_str()).collect();
    let of = facts.hosts.len();
    enough(names.len(), ANY, of).then(|| format!("{} of {of} hosts began to differ ({})", names.len(), few(&names)))
}

fn remedies_fail(facts: &Facts<'_>, released: Option<Timestamp>, now: Timestamp) -> Option<Held> {
    let recent = |remedy: &&Remedy| {
        now.duration_since(remedy.at) <= FAILING && released.is_none_or(|released| remedy.at > released)
    };
    let here: BTreeSet<&str> = facts.hosts.iter().map(|host| host.uid.as_str()).collect();
    // How often a kind of step has failed in a row on a host, up to now.
    let mut rows: BTreeMap<&str, BTreeMap<&str, (usize, &Remedy)>> = BTreeMap::new();
    for remedy in facts.remedies.iter().filter(recent).filter(|remedy| here.contains(remedy.uid.as_str())) {
        let row = rows.entry(&remedy.step).or_default().entry(&remedy.uid).or_insert((0, remedy));
        *row = (if remedy.helped { 0 } else { row.0 + 1 }, remedy);
    }
    let of = facts.hosts.len();
    rows.into_iter().find_map(|(step, hosts)| {
        let fails = hosts.values().filter(|(failed, last)| *failed >= if last.whole { 1 } else { 2 });
        let names: BTreeSet<&str> = fails.map(|(_, last)| last.host.as_str()).collect();
        let words = || format!("{step} failed again and again on {} of {of} hosts ({})", names.len(), few(&names));
        enough(names.len(), SAME, of).then(|| Held { reason: REMEDIES_FAIL, words: words() })
    })
}

fn few(names: &BTreeSet<&str>) -> String {
    let named: Vec<&str> = names.iter().take(NAMED).copied().collect();
    match names.len().saturating_sub(NAMED) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

/// What one process remembers of one fleet's brake.
#[derive(Clone, Debug, Default)]
pub struct Brake {
    hosts: BTreeMap<String, BTreeMap<(String, DriftKind), Timestamp>>,
    generations: BTreeMap<String, i64>,
    fleet_generation: Option<i64>,
    changed: Option<Timestamp>,
    remedies: Vec<Remedy>,
    held: Option<(Held, Timestamp)>,
    calm_since: Option<Timestamp>,
}

/// The fleet, as far as its brake goes.
#[derive(Clone, Debug)]
pub struct Fleet {
    /// The generation of its spec.
    pub generation: i64,
    /// The generation that its status speaks of.
    pub observed_generation: i64,
    /// How often its hosts are looked at.
    pub interval: Duration,
    /// A person's word that it may open.
    pub released: Option<Timestamp>,
}

impl Brake {
    /// Takes up what the fleet's status told before this process: the brake held, for a reason and since when.
    pub fn resume(&mut self, reason: &str, words: &str, since: Timestamp) {
        if let Some(reason) = REASONS.iter().find(|known| **known == reason) {
            self.held = Some((Held { reason, words: words.to_owned() }, since));
        }
    }

    /// A remedy came to its end.
    pub fn ended(&mut self, remedy: Remedy) {
        let excess = (self.remedies.len() + 1).saturating_sub(REMEMBERED);
        self.remedies.drain(..excess);
        self.remedies.push(remedy);
    }

    /// Looks at the whole fleet; gives why it holds, if it does.
    pub fn look(&mut self, fleet: &Fleet, hosts: Vec<HostSigns>, started: Timestamp, now: Timestamp) -> Option<Held> {
        self.note_changes(fleet, &hosts, now);
        let hosts = self.since_when(hosts, now);
        self.remedies.retain(|remedy| now.duration_since(remedy.at) <= FAILING);
        let facts =
            Facts { hosts: &hosts, remedies: &self.remedies, started, changed: self.changed, released: fleet.released };
        let cause = judge(&facts, now);
        let released = fleet.released.filter(|released| *released <= now + CLOCKS);
        match (&self.held, cause) {
            (None, None) => {}
            (None, Some(cause)) => {
                self.held = Some((cause, now));
                self.calm_since = None;
            }
            // What a person let go is over, also when something new is there at once.
            (Some((_, since)), cause) if released.is_some_and(|released| released >= *since) => {
                self.held = cause.map(|cause| (cause, now));
                self.calm_since = None;
            }
            (Some((held, since)), Some(cause)) => {
                // The words stay as long as the reason does: a count that grows is no news.
                let same = held.reason == cause.reason;
                self.held = Some(if same { (held.clone(), *since) } else { (cause, *since) });
                self.calm_since = None;
            }
            (Some(_), None) => {
                let calm_since = *self.calm_since.get_or_insert(now);
                let calm = SignedDuration::try_from(fleet.interval * CALM_LOOKS).unwrap_or(TOGETHER);
                if now.duration_since(calm_since) >= calm {
                    (self.held, self.calm_since) = (None, None);
                } else if now < calm_since {
                    // A clock that was set back makes no calm longer.
                    self.calm_since = Some(now);
                }
            }
        }
        self.held.as_ref().map(|(held, _)| held.clone())
    }

    /// When what is described was last changed: by the generations that this process has seen, and by one that the status
    /// of the fleet does not speak of yet.
    fn note_changes(&mut self, fleet: &Fleet, hosts: &[HostSigns], now: Timestamp) {
        let known = self.fleet_generation.replace(fleet.generation);
        let mut changed = match known {
            Some(known) => known != fleet.generation,
            None => fleet.observed_generation >= 0 && fleet.observed_generation != fleet.generation,
        };
        for host in hosts {
            let known = self.generations.insert(host.uid.clone(), host.generation);
            changed |= known.is_some_and(|known| known != host.generation);
        }
        self.generations.retain(|uid, _| hosts.iter().any(|host| host.uid == *uid));
        if changed {
            self.changed = Some(now);
        }
    }

    /// Since when each kind is there. A condition's time does not change with its reason, so a kind that follows another one
    /// has begun when this process first saw it.
    fn since_when(&mut self, hosts: Vec<HostSigns>, now: Timestamp) -> Vec<HostSigns> {
        let before = std::mem::take(&mut self.hosts);
        let mut dated = hosts;
        for host in &mut dated {
            let known = before.get(&host.uid);
            for sign in &mut host.signs {
                let key = (sign.of.clone(), sign.kind);
                sign.since = match known.map(|known| known.get(&key)) {
                    Some(Some(since)) => *since,
                    // It may be seen some moments after it began.
                    Some(None) if now.duration_since(sign.since) > TOGETHER => now,
                    Some(None) | None => sign.since,
                };
            }
            let kinds = host.signs.iter().map(|sign| ((sign.of.clone(), sign.kind), sign.since)).collect();
            self.hosts.insert(host.uid.clone(), kinds);
        }
        dated
    }
}

/// What a step waits for because of the brake; `None` when it may go on.
pub fn holds(fleet: &FleetView, step: &Step, drift: DriftKind) -> Option<String> {
    if step.disruption() == Disruption::None {
        return None;
    }
    if let Some(held) = &fleet.held {
        return Some(format!("the fleet's brake: {}", held.words));
    }
    let known = fleet.just_started.as_ref()?;
    // Which of the two a silent host is, its cloud says and no status.
    let drift = if drift == DriftKind::HostOff { DriftKind::HostSilent } else { drift };
    (!known.contains(&drift))
        .then(|| format!("another look: the operator was started less than {} s ago", SETTLES.as_secs()))
}

#[cfg(test)]
mod tests;
