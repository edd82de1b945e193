//! The fleets' brakes: what hosts' statuses and BinderActions tell goes to [`binder_core::plan::brake`], which judges. I/O and
//! the process's memory; nothing is judged here.

use super::{Context, fleet};
use binder_core::facets::{Disruption, DriftKind};
use binder_core::plan::brake::{self, Brake, Fleet, Held, Remedy, SETTLES};
use binder_core::plan::memory::Attempt;
use binder_core::plan::usual_interval;
use binder_crds::{ActionOutcome, BinderFleet, BinderHostStatus, RELEASE_ANNOTATION, conditions};
use jiff::Timestamp;
use kube::ResourceExt;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// A fleet's brake is worked out at most this often, however many of its hosts are looked at meanwhile.
const AFRESH: Duration = Duration::from_secs(1);

/// Every fleet's brake, and since when this process runs.
#[derive(Debug)]
pub(crate) struct Brakes {
    started: Timestamp,
    up: Instant,
    all: Mutex<All>,
}

#[derive(Debug, Default)]
struct All {
    /// By the fleet's UID.
    fleets: HashMap<String, Readings>,
    /// What hosts' statuses told before this process wrote any, by the host's UID; forgotten when it is no longer asked for.
    before: HashMap<String, BTreeSet<DriftKind>>,
}

#[derive(Debug, Default)]
struct Readings {
    brake: Brake,
    looked: Option<(Instant, Option<Held>)>,
    namespace: String,
    name: String,
}

impl Brakes {
    /// Of a process that starts now.
    pub(super) fn of_a_start(now: Timestamp) -> Self {
        Self { started: now, up: Instant::now(), all: Mutex::default() }
    }

    fn all(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A remedy of a host of a fleet came to its end.
    pub(super) fn ended(&self, fleet: &BinderFleet, uid: &str, host: &str, past: &Attempt) {
        let (Some(known), Some(remedy)) = (fleet.uid(), remedy(uid, host, past)) else { return };
        if let Some(known) = self.all().fleets.get_mut(&known) {
            known.brake.ended(remedy);
        }
    }

    /// While this process has only just started: the kinds of drift that a host's status told before.
    pub(super) fn just_started(&self, uid: &str, status: Option<&BinderHostStatus>) -> Option<BTreeSet<DriftKind>> {
        let mut all = self.all();
        if self.up.elapsed() >= SETTLES {
            all.before.clear();
            return None;
        }
        let kinds = || {
            let signs = status.map(|status| brake::signs(uid, "", 0, status).signs).unwrap_or_default();
            signs.into_iter().map(|sign| sign.kind).collect()
        };
        Some(all.before.entry(uid.to_owned()).or_insert_with(kinds).clone())
    }
}

/// Looks at a fleet's brake; gives why it holds, if it does. A process that has just started takes what remedies came to from
/// BinderActions.
pub(super) fn look(context: &Context, of: &BinderFleet) -> Option<Held> {
    let uid = of.uid().unwrap_or_default();
    let remembered = context.brakes.all().fleets.contains_key(&uid);
    let learned = if remembered { None } else { Some(learn(context, of)) };
    let hosts = fleet::members(context, of);
    let there: BTreeSet<String> = context.fleets.state().iter().filter_map(|fleet| fleet.uid()).collect();
    // What the operator wrote itself is newer than what the cache holds.
    let signs = {
        let written = context.known();
        let nothing = BinderHostStatus::default();
        let sign = |host: &std::sync::Arc<binder_crds::BinderHost>| {
            let uid = host.uid().unwrap_or_default();
            let status = written.get(&uid).and_then(|known| known.status.as_ref()).or(host.status.as_ref());
            let generation = host.metadata.generation.unwrap_or_default();
            brake::signs(&uid, &host.name_any(), generation, status.unwrap_or(&nothing))
        };
        hosts.iter().map(sign).collect::<Vec<_>>()
    };
    let mut all = context.brakes.all();
    all.fleets.retain(|known, fleet| {
        let stays = *known == uid || there.contains(known);
        if !stays {
            context.metrics.fleet_gone(&fleet.namespace, &fleet.name);
        }
        stays
    });
    let known = all.fleets.entry(uid).or_insert_with(|| Readings {
        brake: learned.unwrap_or_default(),
        looked: None,
        namespace: of.namespace().unwrap_or_default(),
        name: of.name_any(),
    });
    let released = released(of);
    if let Some((at, held)) = &known.looked
        && at.elapsed() < AFRESH
        && (held.is_none() || released.is_none())
    {
        return held.clone();
    }
    let fleet = Fleet {
        generation: of.metadata.generation.unwrap_or_default(),
        observed_generation: of.status.as_ref().map_or(-1, |status| status.observed_generation),
        interval: usual_interval(of.spec.interval.as_ref()),
        released,
    };
    let held = known.brake.look(&fleet, signs, context.brakes.started, context.clock.now());
    known.looked = Some((Instant::now(), held.clone()));
    held
}

/// A person's word that the brake may open.
fn released(of: &BinderFleet) -> Option<Timestamp> {
    of.annotations().get(RELEASE_ANNOTATION)?.trim().parse().ok()
}

/// What the API tells of the time before this process: whether the brake held, and how remedies ended.
fn learn(context: &Context, of: &BinderFleet) -> Brake {
    let mut brake = Brake::default();
    let held = of.status.as_ref().and_then(|status| {
        let is_it = |condition: &&_| is_held(condition);
        status.conditions.iter().find(is_it)
    });
    if let Some(held) = held {
        brake.resume(&held.reason, &binder_core::status::fleet::why_held(&held.message), held.last_transition_time.0);
    }
    let namespace = of.namespace().unwrap_or_default();
    let mut remedies: Vec<Remedy> = Vec::new();
    for host in fleet::members(context, of).iter() {
        let name = host.name_any();
        let its = context.actions.of(&namespace, &name);
        let ours = its.iter().filter(|one| one.stranger.is_none());
        remedies.extend(ours.filter_map(|one| remedy(&one.host_uid, &name, &one.past)));
    }
    remedies.sort_by_key(|remedy| remedy.at);
    remedies.into_iter().for_each(|remedy| brake.ended(remedy));
    brake
}

fn is_held(condition: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition) -> bool {
    condition.type_ == conditions::REMEDIATION_HELD && condition.status == "True"
}

/// An attempt as the brake counts it. One that was never sent says nothing.
fn remedy(uid: &str, host: &str, past: &Attempt) -> Option<Remedy> {
    let outcome = past.outcome.filter(|outcome| *outcome != ActionOutcome::Abandoned)?;
    Some(Remedy {
        uid: uid.to_owned(),
        host: host.to_owned(),
        step: past.kind.clone(),
        whole: past.disruption() == Disruption::Host,
        at: past.finished_at?,
        helped: outcome == ActionOutcome::Succeeded,
    })
}
