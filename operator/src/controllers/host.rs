//! One host, again and again: observe, decide, execute, record.

use super::{
    Context, Error, Known, PASS, access, backups, brake, chain, disruption, fleet, keys, list_all, outage, pace, power,
    record,
};
use crate::execute::{self, Means, Sent};
use crate::facets::backups::SHOWS;
use crate::facets::{Disruption, Step};
use crate::hosts::Session;
use crate::inspect;
use crate::observe::kubernetes::Way;
use crate::observe::{self, Around};
use crate::panics;
use crate::plan::memory::{BuildServer, FleetView, Memory, Past};
use crate::plan::outage::Outage;
use crate::plan::{self, FailureKind, Host, LookFailure, Looked, Next, Run};
use crate::status::{self, events, failed};
use binder_crds::desired::Server;
use binder_crds::{ActionOutcome, BinderFleet, BinderFleetSpec, BinderHost, BinderHostSpec, BinderHostStatus, Mode};
use jiff::Timestamp;
use kube::ResourceExt;
use kube::api::ListParams;
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use rand::RngExt;
use secrecy::{ExposeSecret, SecretString};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::Instrument;

/// How old what was seen may be when a step that rests on it is sent: the pause between two looks at a host that differs is
/// 10 s, and a look takes some seconds. What took longer than this on the way (an API server at its limits, a lock) is
/// decided anew.
const GOOD_FOR: Duration = Duration::from_secs(15);
/// How long after its key was authorized a refused login is tried once more: Compute Engine's guest agent takes over keys
/// within seconds. Once, since machines shut out who is refused again and again (fail2ban: 5 times in 10 min).
const KEY_ARRIVES: Duration = Duration::from_secs(10);

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
    if let Some(wait) = first_look_waits(&object, &context) {
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
    let known = all.entry(uid).or_insert_with(|| Known { namespace, name: object.name_any(), ..Known::default() });
    if std::mem::replace(&mut known.looked_at, true) {
        return None;
    }
    let wait = pace::spread(hosts, rand::rng().random_range(0.0..=1.0));
    (wait >= Duration::from_millis(1)).then_some(wait)
}

/// Says in the host's status that a pass did not come to its end, and why. That this itself fails is logged and no more.
async fn tell_failure(object: &BinderHost, context: &Context, why: &failed::Failed) {
    let uid = object.uid().unwrap_or_default();
    let written = context.known().get(&uid).and_then(|known| known.status.clone());
    let previous = written.or_else(|| object.status.clone()).unwrap_or_default();
    let generation = object.metadata.generation.unwrap_or_default();
    let status = failed::status(&previous, generation, why, Timestamp::now());
    context.metrics.host(&object.namespace().unwrap_or_default(), &object.name_any(), None);
    if status == previous {
        return;
    }
    match record::status(context, object, &status).await {
        Ok(()) => {
            if let Some(known) = context.known().get_mut(&uid) {
                known.status = Some(status);
            }
            record::tell(context, object, failed::event(&previous, why).into_iter().collect()).await;
        }
        Err(error) => tracing::warn!(error = chain(&error), "the failure could not be told"),
    }
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
    let known = {
        let mut all = context.known();
        let known = all.entry(described.uid.clone()).or_insert_with(|| Known {
            namespace: described.namespace.clone(),
            name: described.object.name_any(),
            ..Known::default()
        });
        known.clone()
    };
    let previous = known.status.or_else(|| described.object.status.clone()).unwrap_or_default();

    let mut memory = match known.memory {
        Some(memory) => memory,
        None => {
            let patience = described
                .fleet
                .as_ref()
                .map(|fleet| fleet::patience(&fleet.spec.remedies, &context.config))
                .unwrap_or_default();
            let keep =
                record::Keep::of(context.config.keep_actions(), &previous, patience.refill_after, Timestamp::now());
            record::memory(context, &described.object, &described.uid, keep).await?
        }
    };
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
    // What was seen is as old as the end of the look.
    let mut evidence_at = Instant::now();
    if let (Looked::Seen(seen), Some(known)) = (&mut looked, context.known().get_mut(&described.uid)) {
        known.restarts.add(seen);
        seen.climbing = known.restarts.climbing(seen.at);
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
        deleted: false,
        previous: &previous,
        demanded: &known.demanded,
    };
    let now = Timestamp::now();
    let mut decision = plan::decide(&host, &looked, &memory, &fleet_view, now);
    decision.status.refused_login = refused_login(&looked, session.is_some(), &previous, context, &described);

    record_ends(&described, context, &mut memory, &decision.finish).await?;
    record_status(&described, context, &previous, &decision.status).await?;
    let busy = memory.open().any(|past| !matches!(past.step, Some(Step::BackUp { .. })))
        || matches!(decision.next, Next::Run(_))
        || status::is_healthy(&decision.status) == Some(false);
    let went = pace::Went { took, timed_out: pace::timed_out(&decision.status), busy };
    let mut slowness = known.slowness;
    if let Some(known) = context.known().get_mut(&described.uid) {
        known.demanded = decision.demanded.clone();
        // What cannot be reached at all has pauses of its own.
        if matches!(looked, Looked::Seen(_)) {
            known.slowness = known.slowness.after(went);
        }
        slowness = known.slowness;
        // What a drifted host was tried with is read anew each time: a person may have deleted actions to have it tried
        // again. A healthy host costs no read.
        let quiet = decision.next == Next::Nothing && memory.open().next().is_none();
        known.memory = quiet.then(|| memory.clone());
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
        let decided = Decided { at: now, evidence_at };
        Box::pin(execute(&described, context, *run, session, &looked, &fleet_view, decided)).await?;
        again = plan::WATCH.max(took);
    }
    Ok(Action::requeue(pace::jittered(again, rand::rng().random_range(0.0..=1.0))))
}

/// When a step was decided.
#[derive(Clone, Copy)]
struct Decided {
    /// By the operator's clock.
    at: Timestamp,
    /// When what it rests on was seen.
    evidence_at: Instant,
}

impl Decided {
    /// How old what it rests on is, if that is too old to act on.
    fn too_old(&self) -> Option<Duration> {
        Some(self.evidence_at.elapsed()).filter(|age| *age > GOOD_FOR)
    }
}

/// A backup is made by this process beside the looks. One that is open in the records and that nobody makes was cut off with
/// an earlier process; one that has ended and is not seen soon after has failed. Neither is waited for.
async fn end_backups_that_nobody_makes(
    described: &Described,
    context: &Context,
    memory: &mut Memory,
) -> Result<(), Error> {
    let now = Timestamp::now();
    let over: Vec<plan::Finish> = memory
        .open()
        .filter(|past| matches!(past.step, Some(Step::BackUp { .. })))
        .filter_map(|past| backup_over(past, context.backups.is_being_made(&past.name), now))
        .collect();
    record_ends(described, context, memory, &over).await
}

/// How an open attempt at a backup has ended, if it has, without regard to what is seen.
fn backup_over(past: &Past, being_made: bool, now: Timestamp) -> Option<plan::Finish> {
    let finish = |outcome, message: String| {
        Some(plan::Finish { action: past.name.clone(), outcome, evidence: String::new(), message })
    };
    match past.sent_at {
        _ if being_made => None,
        Some(sent) if now.duration_since(sent).unsigned_abs() > SHOWS => {
            finish(ActionOutcome::Failed, format!("no backup came of it: {}", past.said))
        }
        Some(_) => None,
        None => finish(
            ActionOutcome::Unknown,
            "the operator ended while it was made: what was written is no backup, and the next one removes it"
                .to_owned(),
        ),
    }
}

/// Once its key was authorized, a machine that refused a login is asked once more: once for each such step.
fn try_login_once_more(described: &Described, context: &Context, memory: &Memory, tried_after: Option<&str>) {
    let now = Timestamp::now();
    let Some(past) = memory.open().find(|past| {
        matches!(past.step, Some(Step::AuthorizeKey { .. }))
            && past.sent_at.is_some_and(|sent| now.duration_since(sent).unsigned_abs() >= KEY_ARRIVES)
    }) else {
        return;
    };
    if tried_after == Some(past.name.as_str()) {
        return;
    }
    context.ssh.forget_refusals(&described.uid);
    if let Some(known) = context.known().get_mut(&described.uid) {
        known.tried_login_after = Some(past.name.clone());
    }
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
    let governing = fleet::governing(&context.fleets, &object);
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
            let all = context.hosts.state();
            if let Some(twin) = outage::twin(&described.object, &all, |other| fleet::governs(fleet, other)) {
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

type Seen = (Looked, Option<Arc<Session>>);

/// Looks, unless nobody may.
async fn observe(described: &Described, context: &Context, previous: &BinderHostStatus) -> Result<Seen, Error> {
    if described.suspended.is_some() {
        context.ssh.disconnect(&described.uid);
        return Ok((Looked::Suspended, None));
    }
    if let Some(wrong) = &described.wrong {
        return Ok((Looked::Failed(wrong.clone()), None));
    }
    let target =
        access::target(context, &described.namespace, &described.uid, &described.object, &described.spec).await?;
    let target = match target {
        Ok(target) => target,
        Err(failure) => {
            // What may no longer be entered is not kept open.
            context.ssh.disconnect(&described.uid);
            context.metrics.looked(failure.reason, 0.0);
            return Ok((Looked::Failed(failure), None));
        }
    };
    // A refused login is final for that version of the key, also after a restart of the operator.
    context.ssh.remember_refusal(&target, previous.refused_login.as_deref());
    let begun = Instant::now();
    let (looked, session) = match context.ssh.session(&target).await {
        Ok(session) => {
            let name = described.object.name_any();
            let (looked, backups) = tokio::join!(
                look(described, context, &session),
                backups::look(context, &described.namespace, &described.uid, &name, &described.spec)
            );
            let mut looked = looked?;
            if let Looked::Seen(seen) = &mut looked {
                seen.backups = backups?;
            }
            (carried(described, context, looked), Some(session))
        }
        Err(failed) => (Looked::Failed(observe::not_connected(&failed, &target.key)), None),
    };
    let result = match &looked {
        Looked::Seen(_) => "Seen",
        Looked::Failed(failure) => failure.reason,
        Looked::Suspended => "Suspended",
    };
    context.metrics.looked(result, begun.elapsed().as_secs_f64());
    match &looked {
        Looked::Seen(seen) => context.metrics.seen(&described.namespace, &described.object.name_any(), seen),
        Looked::Failed(_) | Looked::Suspended => {
            context.metrics.not_seen(&described.namespace, &described.object.name_any());
        }
    }
    tracing::debug!(result, seconds = begun.elapsed().as_secs_f64(), "looked");
    Ok((looked, session))
}

/// Looks, with what the fleet's other hosts are and with the API key where one is needed. A key that a server refuses may be
/// an old one of ours: only the Secret's present one may blame the server.
async fn look(described: &Described, context: &Context, session: &crate::hosts::Session) -> Result<Looked, Error> {
    let desired = &described.spec.desired;
    let mut around = around(described, context);
    if !observe::asks_with_api_key(desired) {
        return Ok(Box::pin(observe::look(session, desired, &around)).await);
    }
    let (namespace, reference) = (&described.namespace, described.spec.api_key_secret_ref.as_ref());
    let every = plan::usual(&described.spec);
    let key = access::ApiKeys::get(context, namespace, reference, every).await?;
    if let Err(problem) = &key {
        let about =
            keys::About { namespace, uid: &described.uid, name: &described.object.name_any(), spec: &described.spec };
        return Ok(Box::pin(keys::look(context, &about, session, around, problem)).await);
    }
    context.key_search.end(namespace, reference);
    around.api_key = Some(key.clone().map_err(|problem| problem.to_string()));
    let looked = Box::pin(observe::look(session, desired, &around)).await;
    if !observe::key_was_refused(&looked) {
        return Ok(looked);
    }
    context.api_keys.forget(namespace, reference);
    let now = access::ApiKeys::get(context, namespace, reference, every).await?;
    let same = matches!((&key, &now), (Ok(key), Ok(now)) if key.expose_secret() == now.expose_secret());
    if same {
        return Ok(looked);
    }
    around.api_key = Some(now.map_err(|problem| problem.to_string()));
    Ok(Box::pin(observe::look(session, desired, &around)).await)
}

/// What a look may use beside the host itself: what the fleet's other hosts are.
fn around(described: &Described, context: &Context) -> Around {
    let mut around = Around::default();
    let desired = &described.spec.desired;
    let wanted =
        !desired.reaches.is_empty() || desired.kubernetes_api.is_some() || desired.servers.contains(&Server::Health);
    let Some(fleet) = described.fleet.as_ref().filter(|_| wanted) else { return around };
    // What the fleet lists is there, also while its object has still to be made.
    for member in &fleet.spec.hosts {
        around.addresses.insert(member.name.0.clone(), member.address.0.clone());
    }
    let mut ways: Vec<Way> = Vec::new();
    // Always the same one of several.
    for other in &fleet::members(context, fleet) {
        around.addresses.insert(other.name_any(), other.spec.address.0.clone());
        if other.spec.desired.servers.contains(&Server::Build) && around.build_server.is_none() {
            around.build_server = Some(other.spec.address.0.clone());
        }
        if let Some(way) = way(other, context) {
            ways.push(way);
        }
    }
    // The first that leads to the cluster that is meant, else the first: it then says which one it leads to.
    let meant = desired.kubernetes_api.as_ref().and_then(|api| api.cluster_id.as_ref()).map(|id| id.0.as_str());
    let leads_there = |way: &Way| meant.is_some_and(|meant| way.leads_to() == Some(meant));
    let first = ways.iter().position(leads_there).unwrap_or_default();
    around.cluster = (first < ways.len()).then(|| ways.swap_remove(first));
    around
}

/// The way to the cluster behind a host's kubectl proxy, if it has one and is connected.
fn way(host: &BinderHost, context: &Context) -> Option<Way> {
    let proxy = host.spec.desired.kubectl_proxy.as_ref()?;
    let uid = host.uid()?;
    let session = context.ssh.open_session(&uid)?;
    Some(Way {
        host: host.name_any(),
        session,
        port: proxy.port,
        described: proxy.cluster_id.as_ref().map(|id| id.0.clone()),
        told: context.neighbours.cluster(&uid),
    })
}

/// What was seen, with the time since when it has been so.
fn carried(described: &Described, context: &Context, looked: Looked) -> Looked {
    let Looked::Seen(mut seen) = looked else { return looked };
    if let Some(known) = context.known().get_mut(&described.uid) {
        known.lasting = known.lasting.carried(seen.marks(), seen.at);
        seen.lasting = known.lasting.clone();
    }
    Looked::Seen(seen)
}

/// What stands in the way of starting servers, if the description has any: the API key must be there first.
async fn api_key_problem(described: &Described, context: &Context) -> Result<Option<String>, Error> {
    // Reading a Secret for nothing is a read too many: only a host that differs may need the key now.
    let healthy = described.object.status.as_ref().and_then(status::is_healthy) == Some(true);
    if described.suspended.is_some() || healthy || !observe::needs_api_key(&described.spec.desired) {
        return Ok(None);
    }
    let key = keys::usable(context, &described.namespace, described.spec.api_key_secret_ref.as_ref()).await?;
    Ok(key.err().map(|problem| problem.to_string()))
}

/// What the fleet means for one of its hosts.
async fn view(
    described: &Described,
    looked: &Looked,
    context: &Context,
    api_key_problem: Option<String>,
    previous: &BinderHostStatus,
) -> Result<FleetView, Error> {
    let mut view = FleetView { api_key_problem, ..FleetView::default() };
    view.just_started = context.brakes.just_started(&described.uid, described.object.status.as_ref());
    let Described { object, namespace, uid, spec, fleet, .. } = described;
    let greeted = outage::greeted_by(context, uid, spec, fleet.as_deref(), previous.proven_at.as_ref());
    view.outage = match looked {
        Looked::Failed(failure) if failure.kind == FailureKind::Silent => {
            outage::ask(context, namespace, object, spec, fleet.as_deref(), greeted).await?
        }
        Looked::Failed(_) => outage::ask_which(context, namespace, spec, greeted).await?,
        Looked::Seen(_) | Looked::Suspended => Outage { greets: greeted, ..Outage::default() },
    };
    let Some(fleet) = &described.fleet else { return Ok(view) };
    // A healthy host has no use for the budget, and asking the API for nothing is a read too many.
    if described.object.status.as_ref().and_then(status::is_healthy) != Some(true) {
        let others = disruption::others(context, &described.namespace, &described.uid, Some(fleet)).await?;
        (view.disrupted, view.updating) = (others.disrupted, others.updating);
    }
    let spec: &BinderFleetSpec = &fleet.spec;
    view.fleet = Some(fleet.name_any());
    view.held = brake::look(context, fleet).await?;
    view.patience = fleet::patience(&spec.remedies, &context.config);
    view.budget = spec.budget.clone();
    view.windows = spec.windows.clone();
    let hosts = fleet::members(context, fleet);
    let written = context.known();
    view.build_server = build_server(context, fleet, &hosts);
    // By name, and the first one that lacks something is the one that is told: the same every time.
    for other in &hosts {
        let uid = other.uid().unwrap_or_default();
        if uid == described.uid {
            continue;
        }
        // What the operator wrote itself is newer than what the cache holds.
        let status = written.get(&uid).and_then(|known| known.status.as_ref()).or(other.status.as_ref());
        let current = status.is_none_or(|status| {
            status::conditions::find(status, binder_crds::conditions::MODULES_AT_VERSION)
                .is_none_or(|condition| condition.status == "True")
        });
        if !current {
            for component in crate::catalogue::described(&other.spec.desired) {
                view.outdated.entry(component.name).or_insert_with(|| other.name_any());
            }
        }
        let running = status.is_some_and(|status| {
            status::conditions::find(status, binder_crds::conditions::SERVICES_RUNNING)
                .is_some_and(|condition| condition.status == "True")
        });
        // Whatever needs it waits for it, and is not started against its owner's word.
        for component in crate::catalogue::stopped(&other.spec.desired) {
            view.missing.entry(component.name).or_insert_with(|| other.name_any());
        }
        if !running {
            for component in crate::catalogue::described(&other.spec.desired) {
                view.missing.entry(component.name).or_insert_with(|| other.name_any());
            }
        }
        let reachable = status.is_some_and(|status| {
            status::conditions::find(status, binder_crds::conditions::REACHABLE)
                .is_some_and(|condition| condition.status == "True")
        });
        if other.spec.desired.kubernetes_api.is_some() && !reachable {
            let api = crate::catalogue::KUBERNETES_API.to_owned();
            view.missing.entry(api).or_insert_with(|| other.name_any());
        }
    }
    Ok(view)
}

/// The host of the fleet that is described to run the build server, and whether it may be asked for something.
fn build_server(context: &Context, fleet: &BinderFleet, hosts: &[Arc<BinderHost>]) -> Option<BuildServer> {
    let host = hosts.iter().find(|host| host.spec.desired.servers.contains(&Server::Build))?;
    let mode = fleet::mode(fleet, host);
    let uid = host.uid()?;
    let closed = if host.spec.suspend {
        Some("it is suspended".to_owned())
    } else if mode < Mode::Enforce {
        Some("its mode is not Enforce".to_owned())
    } else if context.ssh.open_session(&uid).is_none() {
        Some("there is no connection to it".to_owned())
    } else {
        None
    };
    // `ClockInSync` is there only while the clocks differ.
    let clock_off = host.status.as_ref().is_some_and(|status| {
        status.conditions.iter().any(|condition| condition.type_ == "ClockInSync" && condition.status == "False")
    });
    Some(BuildServer { host: host.name_any(), uid, closed, clock_off })
}

async fn record_ends(
    described: &Described,
    context: &Context,
    memory: &mut Memory,
    finish: &[plan::Finish],
) -> Result<(), Error> {
    let now = Timestamp::now();
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
        known.status = Some(status.clone());
    }
    if status.summary != previous.summary {
        tracing::info!(summary = status.summary, "status");
    }
    record::tell(context, &described.object, events::transitions(previous, status)).await;
    Ok(())
}

/// Does a step: asks once more whether it still holds, records the intention, sends, records that it was sent. Whether it
/// helped is the next look's to see.
async fn execute(
    described: &Described,
    context: &Arc<Context>,
    run: Run,
    session: Option<Arc<Session>>,
    looked: &Looked,
    fleet_view: &FleetView,
    decided: Decided,
) -> Result<(), Error> {
    if context.stop.is_cancelled() {
        return Ok(());
    }
    let key = if run.step.needs_api_key() {
        let key = keys::usable(context, &described.namespace, described.spec.api_key_secret_ref.as_ref()).await?;
        match key {
            Ok(key) => Some(key),
            // It was there a moment ago; the next pass will say what is missing.
            Err(_) => return Ok(()),
        }
    } else {
        None
    };
    if !still_described(described, context).await? {
        // Again, and less and less often: a cache that stays behind is no reason to look every two seconds.
        return Err(Error::Behind(format!("BinderHost {}", described.object.name_any())));
    }
    // The brake may hold since this was decided: what other hosts showed meanwhile counts.
    if let Some(fleet) = described.fleet.as_deref().filter(|_| run.step.disruption() > Disruption::None)
        && let Some(held) = brake::look(context, fleet).await?
    {
        tracing::info!(reason = held.reason, "the fleet's brake holds meanwhile: decided anew");
        return Ok(());
    }
    let boot_id = match looked {
        Looked::Seen(seen) => seen.boot_id(),
        Looked::Failed(_) | Looked::Suspended => None,
    };
    // One at a time from here until the intention is recorded: two hosts that are decided on side by side must not both
    // find the budget free.
    let turn = if run.step.takes_turns() {
        let turn = context.disrupting.lock().await;
        let mut now = FleetView::default();
        let fleet = described.fleet.as_deref();
        now.budget = fleet.map(|fleet| fleet.spec.budget.clone()).unwrap_or_default();
        let others = disruption::others(context, &described.namespace, &described.uid, fleet).await?;
        now.disrupted = others.disrupted;
        if let Some(host) = others.updating.first().filter(|_| run.step.changes_module().is_some()) {
            tracing::info!(waits_for = host, "another host is given a new version meanwhile: decided anew");
            return Ok(());
        }
        if let Some(what) = now.over_budget(described.spec.domain.as_ref().map(|domain| domain.0.as_str()), run.purpose)
        {
            tracing::info!(waits_for = what, "another host is disrupted meanwhile: decided anew");
            return Ok(());
        }
        Some(turn)
    } else {
        None
    };
    if let Some(age) = decided.too_old() {
        tracing::info!(seconds = age.as_secs(), "what was seen is too old by now: decided anew");
        return Ok(());
    }
    tracing::Span::current().record("action", run.permit.action());
    let fleet = described.fleet.as_ref().map(|fleet| fleet.name_any());
    let past = record::intend(context, &described.object, fleet.as_deref(), &run, boot_id, decided.at).await?;
    let Some(past) = past else {
        return Err(Error::NameTaken(run.permit.action().to_owned()));
    };
    let words = run.step.words();
    tracing::info!(attempt = run.attempt, drift = run.drift.kind.as_str(), "{words}");
    let told = events::starting(run.step.kind(), &past.subject, &words, &past.name, run.attempt, run.allowed);
    record::tell(context, &described.object, vec![told]).await;

    drop(turn);
    if let Step::BackUp { .. } = run.step {
        return back_up(described, context, run, session, past).await;
    }
    let at = Timestamp::now();
    let means = means(described, context, &run.step, session.as_deref(), fleet_view, key).await?;
    let sent = match not_any_more(described, &run.step, fleet_view, &means, decided).await {
        None => execute::carry_out(&run.step, run.permit.recorded(&past.uid), means).await,
        Some(why) => Sent { may_have_run: false, said: why },
    };
    let status = record::sent(sent, at);
    tracing::info!(said = status.said, "sent");
    if status.outcome == Some(ActionOutcome::Abandoned) {
        context.metrics.finished(run.step.kind(), ActionOutcome::Abandoned.as_str());
    }
    record::update(context, &described.namespace, &past.name, &status).await
}

/// What a step is carried out with.
async fn means<'s>(
    described: &Described,
    context: &Context,
    step: &Step,
    session: Option<&'s Session>,
    fleet_view: &FleetView,
    key: Option<SecretString>,
) -> Result<Means<'s>, Error> {
    let power = if step.needs_power() {
        power::of(context, &described.namespace, &described.spec, Some(step)).await?
    } else {
        None
    };
    let build_server = match &fleet_view.build_server {
        Some(build) if step.goes_to_build_server() => context.ssh.open_session(&build.uid),
        _ => None,
    };
    let key_place = keys::place(context, &described.namespace, step);
    Ok(Means { session, api_key: key, power, build_server, key_place, backups: None })
}

/// Why a step is not to be sent any more, asked at the last moment: what was seen is too old, or what machine and cloud say
/// right before the cloud restarts or starts something speaks against it.
async fn not_any_more(
    described: &Described,
    step: &Step,
    fleet: &FleetView,
    means: &Means<'_>,
    decided: Decided,
) -> Option<String> {
    if let Some(age) = decided.too_old() {
        return Some(format!("what it rests on was seen {} s ago: it is looked at and decided anew", age.as_secs()));
    }
    let Some(Ok(power)) = &means.power else { return None };
    let last = outage::objection(&described.spec, step, power.as_ref(), fleet.patience.dead_after);
    match tokio::time::timeout(GOOD_FOR, last).await {
        Ok(objection) => objection,
        Err(_) => Some("its cloud did not answer at the last moment: decided anew".to_owned()),
    }
}

/// Makes a backup beside the looks: it takes up to half an hour, and the host is seen meanwhile. Its end is recorded when it
/// comes; an operator that ends before that leaves an action that nobody makes, which the next one ends.
async fn back_up(
    described: &Described,
    context: &Arc<Context>,
    run: Run,
    session: Option<Arc<Session>>,
    past: Past,
) -> Result<(), Error> {
    let (context, namespace, uid) = (Arc::clone(context), described.namespace.clone(), described.uid.clone());
    // What is there afterwards is asked anew, and not remembered.
    context.backups.forget(&uid);
    let name = described.object.name_any();
    let place = backups::place(&context, &namespace, &name, &described.spec).await?.and_then(Result::ok);
    let being_made = context.backups.begin(&past.name);
    let stop = context.stop.clone();
    let work = async move {
        let means = Means { session: session.as_deref(), backups: place, ..Means::default() };
        let at = Timestamp::now();
        let done = panics::caught(Box::pin(execute::carry_out(&run.step, run.permit, means))).await;
        let sent = done.unwrap_or_else(|place| Sent { may_have_run: true, said: format!("a defect at {place}") });
        let status = record::sent(sent, at);
        tracing::info!(said = status.said, "the backup came to its end");
        context.backups.forget(&uid);
        if let Err(error) = record::update(&context, &namespace, &past.name, &status).await {
            tracing::warn!(error = chain(&error), "how a backup ended could not be recorded");
        }
        drop(being_made);
    };
    tokio::spawn(
        async move {
            tokio::select! { () = work => {}, () = stop.cancelled() => {} }
        }
        .in_current_span(),
    );
    Ok(())
}

/// Whether host and fleet are, in the API itself and not in a cache, what was decided on.
async fn still_described(described: &Described, context: &Context) -> Result<bool, Error> {
    let name = described.object.name_any();
    let hosts = context.api::<BinderHost>(&described.namespace);
    let host = hosts.get_opt(&name).await.map_err(Error::api("read", format!("BinderHost {name}")))?;
    let Some(host) = host else { return Ok(false) };
    let same_host = host.uid().as_deref() == Some(described.uid.as_str())
        && host.metadata.generation == Some(described.generation)
        && host.metadata.deletion_timestamp.is_none()
        && host.labels() == described.object.labels()
        && host.owner_references() == described.object.owner_references();
    if !same_host {
        return Ok(false);
    }
    // Every fleet, and not only the one that was known: one that was made meanwhile may forbid what is to be done.
    let fleets =
        list_all(&context.api::<BinderFleet>(&described.namespace), &ListParams::default(), "BinderFleets").await?;
    Ok(governed_as_known(described.fleet.as_deref(), &host, &fleets))
}

/// Whether the fleets that there are govern a host as it was decided on.
fn governed_as_known(known: Option<&BinderFleet>, host: &BinderHost, fleets: &[BinderFleet]) -> bool {
    let governing: Vec<&BinderFleet> = fleets.iter().filter(|fleet| fleet::governs(fleet, host)).collect();
    match (known, governing.as_slice()) {
        (None, []) => true,
        (Some(known), [fleet]) => {
            fleet.uid() == known.uid()
                && fleet.metadata.generation == known.metadata.generation
                && fleet.metadata.deletion_timestamp.is_none()
        }
        _ => false,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::*;
    use serde_json::json;

    fn host(labels: serde_json::Value, owner: Option<&str>) -> BinderHost {
        let owners: Vec<serde_json::Value> = owner
            .map(|uid| json!({"apiVersion": "fleet.binder-project.org/v1alpha1", "kind": "BinderFleet", "name": "binder", "uid": uid, "controller": true}))
            .into_iter()
            .collect();
        serde_json::from_value(json!({
            "apiVersion": "fleet.binder-project.org/v1alpha1", "kind": "BinderHost",
            "metadata": {"name": "web", "namespace": "binder", "uid": "h", "labels": labels, "ownerReferences": owners},
            "spec": {"address": "10.0.0.1", "hostKeys": ["ssh-ed25519 AAAA"]},
        }))
        .unwrap()
    }

    fn a_fleet(uid: &str, generation: i64, deleted: bool) -> BinderFleet {
        let mut fleet =
            BinderFleet::new("binder", BinderFleetSpec { mode: Mode::Enforce, ..BinderFleetSpec::default() });
        fleet.metadata.namespace = Some("binder".to_owned());
        fleet.metadata.uid = Some(uid.to_owned());
        fleet.metadata.generation = Some(generation);
        fleet.metadata.deletion_timestamp =
            deleted.then_some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::UNIX_EPOCH));
        fleet.spec.host_selector = serde_json::from_value(json!({"matchLabels": {"team": "binder"}})).unwrap();
        fleet
    }

    #[test]
    fn a_fleet_that_was_not_known_ends_what_was_decided_without_it() {
        let host = host(json!({"team": "binder"}), None);
        let fleet = a_fleet("f", 1, false);
        assert!(governed_as_known(None, &host, &[]));
        assert!(!governed_as_known(None, &host, std::slice::from_ref(&fleet)), "the list of fleets came later");
        assert!(governed_as_known(Some(&fleet), &host, std::slice::from_ref(&fleet)));
        assert!(!governed_as_known(Some(&fleet), &host, &[a_fleet("f", 2, false)]), "its owner has changed it");
        assert!(!governed_as_known(Some(&fleet), &host, &[a_fleet("f", 1, true)]), "it is being deleted");
        assert!(!governed_as_known(Some(&fleet), &host, &[fleet.clone(), a_fleet("g", 1, false)]));
        assert!(!governed_as_known(Some(&fleet), &host, &[]));
    }

    #[test]
    fn a_host_whose_fleet_is_missing_is_known_by_owner_and_label() {
        assert_eq!(fleet::named_by(&host(json!({}), Some("gone"))).as_deref(), Some("binder"));
        let orphan = host(json!({"fleet.binder-project.org/fleet": "other"}), None);
        assert_eq!(fleet::named_by(&orphan).as_deref(), Some("other"), "deleted with --cascade=orphan");
        assert_eq!(fleet::named_by(&host(json!({"team": "binder"}), None)), None);
    }

    #[test]
    fn a_fleet_that_is_being_deleted_allows_nothing() {
        let host = host(json!({"team": "binder"}), None);
        assert_eq!(fleet::mode(&a_fleet("f", 1, false), &host), Mode::Enforce);
        assert_eq!(fleet::mode(&a_fleet("f", 1, true), &host), Mode::Observe);
    }

    #[test]
    fn a_backup_that_nobody_makes_is_not_waited_for() {
        let now: Timestamp = "2026-05-01T12:00:00Z".parse().unwrap();
        let ago = |seconds| now - jiff::SignedDuration::from_secs(seconds);
        let past = |sent_at| Past {
            name: "services-1".to_owned(),
            uid: String::new(),
            step: None,
            kind: "BackUp".to_owned(),
            subject: "backup".to_owned(),
            words: String::new(),
            attempt: 1,
            created: ago(600),
            deadline: now,
            sent_at,
            said: "the bucket refuses".to_owned(),
            outcome: None,
            finished_at: None,
            message: String::new(),
        };
        assert_eq!(backup_over(&past(None), true, now), None, "it is being made, for ten minutes now");
        let outcome = |past: &Past| backup_over(past, false, now).map(|finish| finish.outcome);
        assert_eq!(outcome(&past(None)), Some(ActionOutcome::Unknown), "an earlier process was killed over it");
        assert_eq!(outcome(&past(Some(ago(5)))), None, "it may still be seen");
        assert_eq!(outcome(&past(Some(ago(60)))), Some(ActionOutcome::Failed));
    }

    #[test]
    fn what_was_seen_long_ago_is_not_acted_on() {
        let seconds = |seconds| Instant::now().checked_sub(Duration::from_secs(seconds)).unwrap();
        let decided = |evidence_at| Decided { at: Timestamp::UNIX_EPOCH, evidence_at };
        assert_eq!(decided(seconds(10)).too_old(), None);
        assert!(decided(seconds(16)).too_old().is_some());
    }
}
