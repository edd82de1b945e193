//! One host, again and again: observe, decide, execute, record.

use super::{Context, Error, Known, access, backups, brake, chain, disruption, fleet, keys, outage, power, record};
use crate::execute::{self, Means, Sent};
use crate::facets::{Disruption, Step};
use crate::inspect;
use crate::observe::kubernetes::Way;
use crate::observe::{self, Around};
use crate::plan::memory::{BuildServer, FleetView, Memory};
use crate::plan::{self, FailureKind, Host, LookFailure, Looked, Next, Run};
use crate::status::{self, events};
use binder_crds::desired::Server;
use binder_crds::{ActionOutcome, BinderFleet, BinderFleetSpec, BinderHost, BinderHostSpec, BinderHostStatus, Mode};
use jiff::Timestamp;
use kube::ResourceExt;
use kube::runtime::controller::Action;
use rand::RngExt;
use secrecy::ExposeSecret;
use std::sync::Arc;
use std::time::Duration;
use tracing::Instrument;

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
    pass(object, &context).instrument(span).await
}

/// After an error of the API: again, less and less often.
pub(super) fn on_error(object: Arc<BinderHost>, error: &Error, context: Arc<Context>) -> Action {
    context.metrics.failed("host");
    tracing::warn!(host = object.name_any(), error = chain(error), "will be tried again");
    Action::requeue(context.pause(&object.uid().unwrap_or_default()))
}

async fn pass(object: Arc<BinderHost>, context: &Context) -> Result<Action, Error> {
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
        None => record::memory(context, &described.namespace, &described.uid).await?,
    };
    if memory.open().any(|past| matches!(past.step, Some(Step::AuthorizeKey { .. }))) {
        // Our key is on its way to the machine: the refusal that is remembered is of before.
        context.ssh.forget_refusals(&described.uid);
    }
    let (mut looked, session) = observe(&described, context).await?;
    if let Looked::Seen(seen) = &mut looked {
        let fleet = described.fleet.as_deref();
        outage::look_at_nodes(context, &described.namespace, &described.spec, fleet, seen).await?;
        outage::seen(context, &described.object, &described.uid, fleet, seen, session.as_ref());
    }
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
    let fleet_view = view(&described, &looked, context, key, &previous).await?;
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
    let decision = plan::decide(&host, &looked, &memory, &fleet_view, Timestamp::now());

    record_ends(&described, context, &mut memory, &decision.finish).await?;
    record_status(&described, context, &previous, &decision.status).await?;
    if let Some(known) = context.known().get_mut(&described.uid) {
        known.errors = 0;
        known.demanded = decision.demanded.clone();
        // What a drifted host was tried with is read anew each time: a person may have deleted actions to have it tried
        // again. A healthy host costs no read.
        let quiet = decision.next == Next::Nothing && memory.open().next().is_none();
        known.memory = quiet.then_some(memory);
    }
    let mut again = decision.look_again;
    if let Next::Run(run) = decision.next {
        execute(&described, context, *run, session.as_deref(), &looked, &fleet_view).await?;
        again = plan::WATCH;
    }
    Ok(Action::requeue(jittered(again)))
}

/// A pause that differs by up to a tenth, so that hosts described together are not looked at together for ever.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::rng().random_range(0.9..=1.0))
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
        wrong: None,
        object,
    };
    match governing.as_slice() {
        [] => {}
        [fleet] => {
            described.spec = fleet.spec.inherit(&described.object.spec);
            described.mode = fleet.spec.mode.min(described.object.spec.mode.unwrap_or(Mode::Enforce));
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

type Seen = (Looked, Option<Arc<crate::hosts::Session>>);

/// Looks, unless nobody may.
async fn observe(described: &Described, context: &Context) -> Result<Seen, Error> {
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
    let begun = std::time::Instant::now();
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
        return Ok(observe::look(session, desired, &around).await);
    }
    let (namespace, reference) = (&described.namespace, described.spec.api_key_secret_ref.as_ref());
    let every = plan::usual(&described.spec);
    let key = access::ApiKeys::get(context, namespace, reference, every).await?;
    if let Err(problem) = &key {
        let about =
            keys::About { namespace, uid: &described.uid, name: &described.object.name_any(), spec: &described.spec };
        return Ok(keys::look(context, &about, session, around, problem).await);
    }
    context.key_search.end(namespace, reference);
    around.api_key = Some(key.clone().map_err(|problem| problem.to_string()));
    let looked = observe::look(session, desired, &around).await;
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
    Ok(observe::look(session, desired, &around).await)
}

/// What a look may use beside the host itself: what the fleet's other hosts are.
fn around(described: &Described, context: &Context) -> Around {
    let mut around = Around::default();
    let desired = &described.spec.desired;
    let wanted =
        !desired.reaches.is_empty() || desired.kubernetes_api.is_some() || desired.servers.contains(&Server::Health);
    let Some(fleet) = described.fleet.as_ref().filter(|_| wanted) else { return around };
    let mut hosts = context.hosts.state();
    // Always the same one of several.
    hosts.sort_by_key(|host| host.name_any());
    let mut ways: Vec<Way> = Vec::new();
    for other in hosts.iter().filter(|other| fleet::governs(fleet, other)) {
        around.addresses.insert(other.name_any(), other.spec.address.0.clone());
        if other.spec.desired.servers.contains(&Server::Build) {
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
    if matches!(looked, Looked::Failed(failure) if failure.kind == FailureKind::Silent) {
        view.outage = outage::ask(context, namespace, object, spec, fleet.as_deref(), greeted).await?;
    } else {
        view.outage.greets = greeted;
    }
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
    let mode = fleet.spec.mode.min(host.spec.mode.unwrap_or(Mode::Enforce));
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
    context: &Context,
    run: Run,
    session: Option<&crate::hosts::Session>,
    looked: &Looked,
    fleet_view: &FleetView,
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
        tracing::info!("what is described has changed meanwhile: decided anew");
        return Ok(());
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
    tracing::Span::current().record("action", run.permit.action());
    let fleet = described.fleet.as_ref().map(|fleet| fleet.name_any());
    let Some(past) = record::intend(context, &described.object, fleet.as_deref(), &run, boot_id).await? else {
        tracing::warn!(action = run.permit.action(), "another writer has recorded this attempt: decided anew");
        return Ok(());
    };
    let words = run.step.words();
    tracing::info!(attempt = run.attempt, drift = run.drift.kind.as_str(), "{words}");
    let told = events::starting(run.step.kind(), &past.subject, &words, &past.name, run.attempt, run.allowed);
    record::tell(context, &described.object, vec![told]).await;

    drop(turn);
    let at = Timestamp::now();
    let power = if run.step.needs_power() {
        power::of(context, &described.namespace, &described.spec, Some(&run.step)).await?
    } else {
        None
    };
    let build_server = match &fleet_view.build_server {
        Some(build) if run.step.goes_to_build_server() => context.ssh.open_session(&build.uid),
        _ => None,
    };
    let backups = if matches!(run.step, Step::BackUp { .. }) {
        // What is there afterwards is asked anew, and not remembered.
        context.backups.forget(&described.uid);
        let name = described.object.name_any();
        backups::place(context, &described.namespace, &name, &described.spec).await?.and_then(Result::ok)
    } else {
        None
    };
    let key_place = keys::place(context, &described.namespace, &run.step);
    let means = Means { session, api_key: key, power, build_server, key_place, backups };
    let sent = match last_objection(&run.step, described, fleet_view, &means).await {
        Some(said) => Sent { may_have_run: false, said },
        None => execute::carry_out(&run.step, run.permit.recorded(&past.uid), means).await,
    };
    let status = record::sent(sent, at);
    tracing::info!(said = status.said, "sent");
    if status.outcome == Some(ActionOutcome::Abandoned) {
        context.metrics.finished(run.step.kind(), ActionOutcome::Abandoned.as_str());
    }
    record::update(context, &described.namespace, &past.name, &status).await
}

/// What machine and cloud say right before the cloud restarts or starts something, where that speaks against it.
async fn last_objection(step: &Step, described: &Described, fleet: &FleetView, means: &Means<'_>) -> Option<String> {
    let Some(Ok(power)) = &means.power else { return None };
    outage::objection(&described.spec, step, power.as_ref(), fleet.patience.dead_after).await
}

/// Whether host and fleet are, in the API itself and not in a cache, what was decided on.
async fn still_described(described: &Described, context: &Context) -> Result<bool, Error> {
    let name = described.object.name_any();
    let hosts = context.api::<BinderHost>(&described.namespace);
    let host = hosts.get_opt(&name).await.map_err(Error::api("read", format!("BinderHost {name}")))?;
    let same_host = host.is_some_and(|host| {
        host.uid().as_deref() == Some(described.uid.as_str())
            && host.metadata.generation == Some(described.generation)
            && host.metadata.deletion_timestamp.is_none()
            && host.labels() == described.object.labels()
    });
    if !same_host {
        return Ok(false);
    }
    let Some(known) = &described.fleet else { return Ok(true) };
    let name = known.name_any();
    let fleets = context.api::<BinderFleet>(&described.namespace);
    let fleet = fleets.get_opt(&name).await.map_err(Error::api("read", format!("BinderFleet {name}")))?;
    Ok(fleet.is_some_and(|fleet| {
        fleet.uid() == known.uid()
            && fleet.metadata.generation == known.metadata.generation
            && fleet.metadata.deletion_timestamp.is_none()
    }))
}
