//! Doing a step: asks once more whether it still holds, records the intention, sends, records that it was sent. Whether it
//! helped is the next look's to see.

use super::super::actions::Remembered;
use super::super::secrets::Age;
use super::super::{Context, Error, backups, brake, chain, disruption, fleet, keys, list_all, outage, power, record};
use super::{Described, record_ends};
use crate::execute::{self, Hands, Means, Sent};
use crate::machines::{Machine, Outside};
use crate::panics;
use binder_core::facets::backups::SHOWS;
use binder_core::facets::step::CloudCall;
use binder_core::facets::{Disruption, How, Step};
use binder_core::plan::memory::{Attempt, FleetView, History};
use binder_core::plan::{self, Looked, Run};
use binder_core::status::events;
use binder_crds::{ActionOutcome, BinderFleet, BinderHost};
use jiff::Timestamp;
use kube::ResourceExt;
use kube::api::ListParams;
use secrecy::SecretString;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tracing::Instrument;

/// How old what was seen may be when a step that rests on it is sent: the pause between two looks at a host that differs is
/// 10 s, and a look takes some seconds. What took longer than this on the way (an API server at its limits, a lock) is
/// decided anew.
pub(super) const GOOD_FOR: Duration = Duration::from_secs(15);

/// When a step was decided.
#[derive(Clone, Copy)]
pub(super) struct Decided {
    /// By the operator's clock.
    pub(super) at: Timestamp,
    /// When what it rests on was seen.
    pub(super) evidence_at: Instant,
    /// Since when the host's incident lasts.
    pub(super) incident: Option<Timestamp>,
    /// What was remembered of earlier attempts.
    pub(super) remembered: Remembered,
}

impl Decided {
    /// How old what it rests on is, if that is too old to act on.
    pub(super) fn too_old(&self) -> Option<Duration> {
        Some(self.evidence_at.elapsed()).filter(|age| *age > GOOD_FOR)
    }
}

/// A backup is made by this process beside the looks. One that is open in the records and that nobody makes was cut off with
/// an earlier process; one that has ended and is not seen soon after has failed. Neither is waited for.
pub(super) async fn end_backups_that_nobody_makes(
    described: &Described,
    context: &Context,
    memory: &mut History,
) -> Result<(), Error> {
    let now = context.clock.now();
    let over: Vec<plan::Finish> = memory
        .open()
        .filter(|past| matches!(past.step, Some(Step::Backups(_))))
        .filter_map(|past| backup_over(past, context.backups.is_being_made(&past.name), now))
        .collect();
    record_ends(described, context, memory, &over).await
}

/// How an open attempt at a backup has ended, if it has, without regard to what is seen.
pub(super) fn backup_over(past: &Attempt, being_made: bool, now: Timestamp) -> Option<plan::Finish> {
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
            "the operator ended while it was being made; the incomplete files are removed by the next backup"
                .to_owned(),
        ),
    }
}

/// Does a step: asks once more whether it still holds, records the intention, sends, records that it was sent. Whether it
/// helped is the next look's to see.
pub(super) async fn execute(
    described: &Described,
    context: &Arc<Context>,
    run: Run,
    session: Option<Arc<dyn Machine>>,
    looked: &Looked,
    fleet_view: &FleetView,
    decided: Decided,
) -> Result<(), Error> {
    if context.stop.is_cancelled() {
        return Ok(());
    }
    let key = if run.step.needs_api_key() {
        let key =
            keys::usable(context, &described.namespace, described.spec.api_key_secret_ref.as_ref(), Age::now()).await?;
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
        && let Some(held) = brake::look(context, fleet)
    {
        tracing::info!(reason = held.reason, "the fleet's brake engaged meanwhile; replanning");
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
        if let Some(fleet) = fleet {
            disruption::refresh(context, &described.namespace, fleet).await?;
        }
        let others = disruption::others(context, &described.namespace, &described.uid, fleet);
        now.disrupted = others.disrupted;
        if let Some(host) = others.updating.first().filter(|_| run.step.changes_module().is_some()) {
            tracing::info!(waits_for = host, "another host started a module update meanwhile; replanning");
            return Ok(());
        }
        if let Some(what) = now.over_budget(described.spec.domain.as_ref().map(|domain| domain.0.as_str()), run.purpose)
        {
            tracing::info!(waits_for = what, "another host is disrupted meanwhile; replanning");
            return Ok(());
        }
        Some(turn)
    } else {
        None
    };
    // What was tried, by the API itself: a watch that is behind may put a step off and never bring one about.
    if !record::still_remembered(context, &described.object, decided.remembered).await? {
        return Err(Error::Behind(format!("what was tried on BinderHost {}", described.object.name_any())));
    }
    if let Some(age) = decided.too_old() {
        tracing::info!(seconds = age.as_secs(), "the observation is too old; looking again");
        return Ok(());
    }
    tracing::Span::current().record("action", run.permit.action());
    let fleet = described.fleet.as_ref().map(|fleet| fleet.name_any());
    let when = record::Decided { at: decided.at, incident: decided.incident };
    let past = record::intend(context, &described.object, fleet.as_deref(), &run, boot_id, when).await?;
    let Some(past) = past else {
        return Err(Error::NameTaken(run.permit.action().to_owned()));
    };
    let words = run.step.words();
    tracing::info!(attempt = run.attempt, drift = run.drift.kind.as_str(), "{words}");
    let told = events::starting(run.step.kind(), &past.subject, &words, &past.name, run.attempt, run.allowed);
    record::tell(context, &described.object, vec![told]).await;

    drop(turn);
    if let How::Backup { .. } = run.step.how() {
        return back_up(described, context, run, session, past).await;
    }
    let at = context.clock.now();
    let means = means(described, context, &run.step, session.as_deref(), fleet_view, key).await?;
    let sent = match not_any_more(&*context.outside, described, &run.step, fleet_view, &means, decided).await {
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
pub(super) async fn means<'s>(
    described: &Described,
    context: &Context,
    step: &Step,
    session: Option<&'s dyn Machine>,
    fleet_view: &FleetView,
    key: Option<SecretString>,
) -> Result<Means<'s>, Error> {
    let power = match step.how() {
        How::Cloud(CloudCall::RestartNode { node }) => {
            power::of(context, &described.namespace, &described.spec, Some(&node), Age::now()).await?
        }
        How::Cloud(_) => power::of(context, &described.namespace, &described.spec, None, Age::now()).await?,
        How::Command(_)
        | How::Http(_)
        | How::Database { .. }
        | How::Secret { .. }
        | How::Backup { .. }
        | How::Impossible(_) => None,
    };
    let build_server = match &fleet_view.build_server {
        Some(build) if step.goes_to_build_server() => {
            context.ssh.open_session(&build.uid).map(|session| session as Arc<dyn Hands>).zip(build.port)
        }
        _ => None,
    };
    let key_place = keys::place(context, &described.namespace, step);
    let session = session.map(|session| session as &dyn Hands);
    Ok(Means { session, api_key: key, power, build_server, key_place, backups: None })
}

/// Why a step is not to be sent any more, asked at the last moment: what was seen is too old, or what machine and cloud say
/// right before the cloud restarts or starts something speaks against it.
pub(super) async fn not_any_more(
    outside: &dyn Outside,
    described: &Described,
    step: &Step,
    fleet: &FleetView,
    means: &Means<'_>,
    decided: Decided,
) -> Option<String> {
    if let Some(age) = decided.too_old() {
        return Some(format!("the observation is {} s old; looking again", age.as_secs()));
    }
    let Some(Ok(power)) = &means.power else { return None };
    let last = outage::objection(outside, &described.spec, step, power.as_ref(), fleet.patience.unreachable_timeout);
    match tokio::time::timeout(GOOD_FOR, last).await {
        Ok(objection) => objection,
        Err(_) => Some("its cloud did not answer the last check; replanning".to_owned()),
    }
}

/// Makes a backup beside the looks: it takes up to half an hour, and the host is seen meanwhile. Its end is recorded when it
/// comes; an operator that ends before that leaves an action that nobody makes, which the next one ends.
pub(super) async fn back_up(
    described: &Described,
    context: &Arc<Context>,
    run: Run,
    session: Option<Arc<dyn Machine>>,
    past: Attempt,
) -> Result<(), Error> {
    let (context, namespace, uid) = (Arc::clone(context), described.namespace.clone(), described.uid.clone());
    // What is there afterwards is asked anew, and not remembered.
    context.backups.forget(&uid);
    let name = described.object.name_any();
    let place = backups::place(&context, &namespace, &name, &described.spec).await?.and_then(Result::ok);
    let being_made = context.backups.begin(&past.name);
    let stop = context.stop.clone();
    let work = async move {
        let session = session.as_deref().map(|session| session as &dyn Hands);
        let means = Means { session, backups: place, ..Means::default() };
        let at = context.clock.now();
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
            tokio::select! { biased; () = work => {}, () = stop.cancelled() => {} }
        }
        .in_current_span(),
    );
    Ok(())
}

/// Whether host and fleet are, in the API itself and not in a cache, what was decided on.
pub(super) async fn still_described(described: &Described, context: &Context) -> Result<bool, Error> {
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
pub(super) fn governed_as_known(known: Option<&BinderFleet>, host: &BinderHost, fleets: &[BinderFleet]) -> bool {
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
