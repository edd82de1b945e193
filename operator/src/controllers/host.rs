//! One host, again and again: observe, decide, execute, record.

mod act;
mod look;
#[cfg(test)]
mod tests;
mod view;

use super::actions::Remembered;
use super::{Context, Error, HostCache, PASS, chain, fleet, outage, pace, record};
use crate::panics;
use act::{Decided, end_backups_that_nobody_makes, execute};
use binder_core::facets::Step;
use binder_core::inspect;
use binder_core::plan::memory::History;
use binder_core::plan::{self, FailureKind, Host, LookFailure, Looked, Next};
use binder_core::status::{self, events, failed};
use binder_crds::{BinderFleet, BinderHost, BinderHostSpec, BinderHostStatus, Mode};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use look::{api_key_problem, observe, try_login_once_more};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tracing::Instrument;
use view::view;

/// A host with everything that its object and its fleet say of it.
struct Described {
    object: Arc<BinderHost>,
    namespace: String,
    uid: String,
    generation: i64,
    spec: BinderHostSpec,
    mode: Mode,
    suspended: Option<String>,
    fleet: Option<Arc<BinderFleet>>,
    /// The fleet that it names and that does not govern it, or not any more: then it is only observed.
    missing_fleet: Option<String>,
    /// What is wrong with the objects themselves.
    wrong: Option<LookFailure>,
}

/// One pass over one host.
pub(super) async fn reconcile(object: Arc<BinderHost>, context: Arc<Context>) -> Result<Action, Error> {
    let span = tracing::info_span!(
        "host",
        host = object.name_any(),
        namespace = object.namespace().unwrap_or_default(),
        action = tracing::field::Empty
    );
    if !context.have_read().await {
        return Ok(Action::await_change());
    }
    if let Some(wait) = first_look_waits(&object, &context).or_else(|| next_look_waits(&object, &context)) {
        return Ok(Action::requeue(wait));
    }
    let work = panics::caught(Box::pin(pass(object.clone(), &context)).instrument(span));
    let done = match tokio::time::timeout(PASS, work).await {
        Ok(Ok(done)) => done,
        Ok(Err(place)) => Err(Error::Defect { place }),
        Err(_) => Err(Error::TooLong { after: PASS }),
    };
    let uid = object.uid().unwrap_or_default();
    if context
        .hosts
        .get(&ObjectRef::from_obj(&*object))
        .is_none_or(|there| there.uid().as_deref() != Some(uid.as_str()))
    {
        // It went while it was looked at: a session that was opened meanwhile would be nobody's.
        context.known().remove(&uid);
        context.forget(&uid);
        context.metrics.host_gone(&object.namespace().unwrap_or_default(), &object.name_any());
        return Ok(Action::await_change());
    }
    if done.is_ok()
        && let Some(known) = context.known().get_mut(&uid)
    {
        known.errors = 0;
    }
    // Another operator that acts at the same moment is no failure, unless it goes on.
    let first = context.known().get(&uid).is_none_or(|known| known.errors < 2);
    if let Err(error) = &done
        && let Some(why) = error.told()
        && !(first && matches!(error, Error::NameTaken(_)))
    {
        tell_failure(&object, &context, &why).await;
    }
    done
}

/// The first looks after a start are spread over some seconds, the more the more hosts there are; how long this one waits.
fn first_look_waits(object: &BinderHost, context: &Context) -> Option<Duration> {
    let (uid, namespace) = (object.uid()?, object.namespace()?);
    let hosts = context.hosts.len();
    let mut all = context.known();
    let known =
        all.entry(uid).or_insert_with(|| HostCache { namespace, name: object.name_any(), ..HostCache::default() });
    if std::mem::replace(&mut known.looked_at, true) {
        return None;
    }
    let wait = pace::spread(hosts, context.dice.part());
    (wait >= Duration::from_millis(1)).then_some(wait)
}

/// Says in the host's status that a pass did not come to its end, and why. That this itself fails is logged and no more.
async fn tell_failure(object: &BinderHost, context: &Context, why: &failed::Failed) {
    let uid = object.uid().unwrap_or_default();
    let written = context.known().get(&uid).and_then(|known| known.status.clone());
    let previous = written.or_else(|| object.status.clone()).unwrap_or_default();
    let generation = object.metadata.generation.unwrap_or_default();
    let status = failed::status(&previous, generation, why, context.clock.now());
    context.metrics.host(&object.namespace().unwrap_or_default(), &object.name_any(), None);
    if status == previous {
        return;
    }
    match record::status(context, object, &status).await {
        Ok(()) => {
            if let Some(known) = context.known().get_mut(&uid) {
                (known.status, known.wrote) = (Some(status), Some(Instant::now()));
            }
            record::tell(context, object, failed::event(&previous, why).into_iter().collect()).await;
        }
        Err(error) => tracing::warn!(error = chain(&error), "the failure could not be told"),
    }
}

/// How long the next look waits, if one has only just ended: whatever wakes the controller (the status of the fleet changes
/// with that of each host), looks at one host are no closer together than [`plan::WATCH`], but for a changed description.
fn next_look_waits(object: &BinderHost, context: &Context) -> Option<Duration> {
    let (ended, generation) = context.known().get(object.uid()?.as_str())?.last_look?;
    if object.metadata.generation != Some(generation) {
        return None;
    }
    plan::WATCH.checked_sub(ended.elapsed()).filter(|left| !left.is_zero())
}

/// After an error of the API: again, less and less often.
pub(super) fn on_error(object: Arc<BinderHost>, error: &Error, context: Arc<Context>) -> Action {
    if let Error::Behind(_) = error {
        // Somebody changed the description: nothing failed.
        tracing::info!(host = object.name_any(), "{error}");
    } else {
        context.metrics.failed("host");
        tracing::warn!(host = object.name_any(), error = chain(error), "will be tried again");
    }
    Action::requeue(context.pause(&object.uid().unwrap_or_default()))
}

async fn pass(object: Arc<BinderHost>, context: &Arc<Context>) -> Result<Action, Error> {
    if context.stop.is_cancelled() || object.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let described = describe(object, context)?;
    let mut known = {
        let mut all = context.known();
        let known = all.entry(described.uid.clone()).or_insert_with(|| HostCache {
            namespace: described.namespace.clone(),
            name: described.object.name_any(),
            ..HostCache::default()
        });
        known.clone()
    };
    if let Some(found) = written_by_another(&described, context, &known).await? {
        known.status = Some(found);
    }
    let mut previous = known.status.or_else(|| described.object.status.clone()).unwrap_or_default();
    let patience = described.fleet.as_ref().map(|fleet| fleet::patience(&fleet.spec.remedies, &context.config));
    let min_healthy_period = patience.unwrap_or_default().min_healthy_period;
    if previous.observed_generation < 0 {
        let (namespace, name) = (&described.namespace, described.object.name_any());
        let inherited = record::inherited(context, namespace, &name, min_healthy_period, context.clock.now());
        previous.incident_since = previous.incident_since.or(inherited.map(Time));
    }
    let keep = record::Keep::of(context.config.keep_actions(), &previous, min_healthy_period, context.clock.now());
    let mut memory = record::memory(context, &described.object, &described.uid, keep).await?;
    end_backups_that_nobody_makes(&described, context, &mut memory).await?;
    try_login_once_more(&described, context, &memory, known.tried_login_after.as_deref());
    let begun = Instant::now();
    let (mut looked, session) = Box::pin(observe(&described, context, &previous)).await?;
    if let Looked::Seen(seen) = &mut looked {
        let fleet = described.fleet.as_deref();
        outage::look_at_nodes(context, &described.namespace, &described.spec, fleet, seen).await?;
        outage::seen(context, &described.object, &described.uid, fleet, seen, session.as_ref());
    }
    let took = begun.elapsed();
    if let Some(known) = context.known().get_mut(&described.uid) {
        known.last_look = Some((Instant::now(), described.generation));
    }
    // What was seen is as old as the end of the look.
    let mut evidence_at = Instant::now();
    if let (Looked::Seen(seen), Some(known)) = (&mut looked, context.known().get_mut(&described.uid)) {
        known.history.take_in(seen);
    }
    let figures = match &looked {
        Looked::Seen(seen) => Some(inspect::figures(&described.spec.desired, seen)),
        Looked::Failed(_) | Looked::Suspended => None,
    };
    context.metrics.inspected(&described.namespace, &described.object.name_any(), figures);
    let key = api_key_problem(&described, context).await?;
    let mut fleet_view = view(&described, &looked, context, key, &previous).await?;
    fleet_view.missing_fleet = described.missing_fleet.clone();
    if matches!(&looked, Looked::Failed(failure) if failure.kind == FailureKind::Silent) {
        // Witnesses were asked after that, and theirs is the word that counts.
        evidence_at = Instant::now();
    }
    let host = Host {
        name: &described.object.name_any(),
        uid: &described.uid,
        generation: described.generation,
        spec: &described.spec,
        mode: described.mode,
        suspended: described.suspended.as_deref(),
        previous: &previous,
        demanded: &known.demanded,
    };
    let now = context.clock.now();
    let decision = plan::decide(&host, &looked, &memory, &fleet_view, now);
    let mut status = status::of(&host, &looked, &decision, &fleet_view, now);
    status.refused_login = refused_login(&looked, session.is_some(), &previous, context, &described);

    record_ends(&described, context, &mut memory, &decision.finish).await?;
    record_status(&described, context, &previous, &status).await?;
    let busy = memory.open().any(|past| !matches!(past.step, Some(Step::Backups(_))))
        || matches!(decision.next, Next::Run(_))
        || status::is_healthy(&status) == Some(false);
    let went = pace::Went { took, timed_out: pace::timed_out(&status), busy };
    let mut slowness = known.slowness;
    if let Some(known) = context.known().get_mut(&described.uid) {
        known.demanded = decision.demanded.clone();
        // What cannot be reached at all has pauses of its own.
        if matches!(looked, Looked::Seen(_)) {
            known.slowness = known.slowness.after(went);
        }
        slowness = known.slowness;
    }
    let mut again = decision.look_again;
    if !busy && memory.open().next().is_some() {
        // A backup that is being made: half an hour need not be watched every two seconds.
        again = again.max(plan::DRIFTED.min(plan::usual(&described.spec)));
    }
    if matches!(looked, Looked::Seen(_)) {
        again = slowness.pause(again, plan::usual(&described.spec), went);
    }
    if let Next::Run(run) = decision.next {
        let incident = status.incident_since.as_ref().map(|since| since.0);
        let decided = Decided { at: now, evidence_at, incident, remembered: Remembered::of(&memory) };
        Box::pin(execute(&described, context, *run, session, &looked, &fleet_view, decided)).await?;
        again = plan::WATCH.max(took);
    }
    Ok(Action::requeue(pace::jittered(again, context.dice.part())))
}

/// How long a cache may take to catch up with what this process wrote. A watch that lags more is asked past.
const CATCHES_UP: Duration = Duration::from_secs(60);

/// The status in the API itself, where the cache has long had the time to catch up with what this process wrote last and still
/// says otherwise: another operator has written meanwhile, somebody has edited it, etcd was restored. What is remembered would
/// else be taken for what is written, and the other one would stay.
async fn written_by_another(
    described: &Described,
    context: &Context,
    known: &HostCache,
) -> Result<Option<BinderHostStatus>, Error> {
    let (Some(status), Some(wrote)) = (&known.status, known.wrote) else { return Ok(None) };
    if described.object.status.as_ref() == Some(status) || wrote.elapsed() < CATCHES_UP {
        return Ok(None);
    }
    let name = described.object.name_any();
    let api = context.api::<BinderHost>(&described.namespace);
    let host = api.get_opt(&name).await.map_err(Error::api("read", format!("BinderHost {name}")))?;
    let Some(host) = host.filter(|host| host.uid().as_deref() == Some(described.uid.as_str())) else { return Ok(None) };
    let found = host.status.unwrap_or_default();
    if let Some(known) = context.known().get_mut(&described.uid) {
        (known.status, known.wrote) = (Some(found.clone()), Some(Instant::now()));
    }
    if found == *status {
        return Ok(None);
    }
    tracing::info!("somebody else has written this host's status: it is taken as it is");
    Ok(Some(found))
}

/// The login that the host has refused, as its status is to say it: kept while nothing else is known.
fn refused_login(
    looked: &Looked,
    connected: bool,
    previous: &BinderHostStatus,
    context: &Context,
    described: &Described,
) -> Option<String> {
    if connected {
        return None;
    }
    let now = context.ssh.refused_login(&described.uid);
    now.or_else(|| previous.refused_login.clone().filter(|_| !matches!(looked, Looked::Seen(_))))
}

/// What host and fleet say together.
fn describe(object: Arc<BinderHost>, context: &Context) -> Result<Described, Error> {
    let incomplete = || Error::Incomplete(format!("BinderHost {}", object.name_any()));
    let namespace = object.namespace().ok_or_else(incomplete)?;
    let uid = object.uid().ok_or_else(incomplete)?;
    let generation = object.metadata.generation.unwrap_or_default();
    let governing = fleet::governing(context, &object);
    let mut described = Described {
        namespace,
        uid,
        generation,
        spec: object.spec.clone(),
        mode: object.spec.mode.unwrap_or_default(),
        suspended: object.spec.suspend.then(|| "spec.suspend is true".to_owned()),
        fleet: None,
        missing_fleet: None,
        wrong: None,
        object,
    };
    match governing.as_slice() {
        [] => {
            described.missing_fleet = fleet::named_by(&described.object);
            if described.missing_fleet.is_some() {
                described.mode = Mode::Observe;
            }
        }
        [fleet] => {
            described.spec = fleet.spec.inherit(&described.object.spec);
            described.mode = fleet::mode(fleet, &described.object);
            if fleet.spec.suspend {
                described.suspended = Some(format!("fleet {} is suspended", fleet.name_any()));
            }
            described.fleet = Some(fleet.clone());
            if let Some(twin) = outage::twin(&described.object, &fleet::members(context, fleet)) {
                described.wrong = Some(LookFailure {
                    reason: "DescribedTwice",
                    message: format!("two hosts are described as one machine: {twin}; correct one of them"),
                    kind: FailureKind::Person,
                    not_before: None,
                });
            }
        }
        several => {
            let names: Vec<String> = several.iter().map(|fleet| fleet.name_any()).collect();
            described.mode = Mode::Observe;
            described.wrong = Some(LookFailure {
                reason: "GovernedTwice",
                message: format!(
                    "the fleets {} select this host at once: change a hostSelector or the host's labels",
                    names.join(", ")
                ),
                kind: FailureKind::Person,
                not_before: None,
            });
        }
    }
    Ok(described)
}

async fn record_ends(
    described: &Described,
    context: &Context,
    memory: &mut History,
    finish: &[plan::Finish],
) -> Result<(), Error> {
    let now = context.clock.now();
    for end in finish {
        record::update(context, &described.namespace, &end.action, &record::ended(end, now)).await?;
        let Some(past) = memory.actions.iter_mut().find(|past| past.name == end.action) else { continue };
        past.end(end, now);
        if let Some(fleet) = described.fleet.as_deref() {
            context.brakes.ended(fleet, &described.uid, &described.object.name_any(), past);
        }
        context.metrics.finished(&past.kind, end.outcome.as_str());
        tracing::info!(action = past.name, outcome = end.outcome.as_str(), message = end.message, "{}", past.words);
        let told = events::ended(&past.kind, &past.subject, &past.words, &past.name, end.outcome, &end.message);
        record::tell(context, &described.object, vec![told]).await;
    }
    Ok(())
}

async fn record_status(
    described: &Described,
    context: &Context,
    previous: &BinderHostStatus,
    status: &BinderHostStatus,
) -> Result<(), Error> {
    let name = described.object.name_any();
    context.metrics.host(&described.namespace, &name, status::is_healthy(status));
    if status == previous {
        return Ok(());
    }
    record::status(context, &described.object, status).await?;
    if let Some(known) = context.known().get_mut(&described.uid) {
        (known.status, known.wrote) = (Some(status.clone()), Some(Instant::now()));
    }
    if status.summary != previous.summary {
        tracing::info!(summary = status.summary, "status");
    }
    record::tell(context, &described.object, events::transitions(previous, status)).await;
    Ok(())
}
