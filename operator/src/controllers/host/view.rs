//! What the other hosts of a fleet mean for one of them. Data only: what follows from it is `plan`'s to say.

use super::super::{Context, Error, brake, disruption, fleet, outage};
use super::Described;
use binder_core::plan::memory::{BuildServer, FleetView};
use binder_core::plan::outage::Outage;
use binder_core::plan::{FailureKind, Looked};
use binder_core::status::{self};
use binder_crds::desired::Server;
use binder_crds::{BinderFleet, BinderFleetSpec, BinderHost, BinderHostStatus, Mode};
use kube::ResourceExt;
use std::sync::Arc;

/// What the fleet means for one of its hosts.
pub(super) async fn view(
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
        Looked::Seen(_) => {
            let (instance, address) = outage::which(context, namespace, uid, spec).await?;
            Outage { greets: greeted, instance, address, ..Outage::default() }
        }
        Looked::Suspended => Outage { greets: greeted, ..Outage::default() },
    };
    let Some(fleet) = &described.fleet else { return Ok(view) };
    // A healthy host has no use for the budget.
    if described.object.status.as_ref().and_then(status::is_healthy) != Some(true) {
        let others = disruption::others(context, &described.namespace, &described.uid, Some(fleet));
        (view.disrupted, view.updating) = (others.disrupted, others.updating);
    }
    let spec: &BinderFleetSpec = &fleet.spec;
    view.fleet = Some(fleet.name_any());
    view.held = brake::look(context, fleet);
    view.patience = fleet::patience(&spec.remedies, &context.config);
    view.budget = spec.budget.clone();
    view.windows = spec.windows.clone();
    let hosts = fleet::members(context, fleet);
    let written = context.known();
    view.build_server = build_server(context, fleet, &hosts);
    // By name, and the first one that lacks something is the one that is told: the same every time.
    for other in hosts.iter() {
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
            for component in binder_core::catalogue::described(&other.spec.desired) {
                view.outdated.entry(component.name).or_insert_with(|| other.name_any());
            }
        }
        let running = status.is_some_and(|status| {
            status::conditions::find(status, binder_crds::conditions::SERVICES_RUNNING)
                .is_some_and(|condition| condition.status == "True")
        });
        // Whatever needs it waits for it, and is not started against its owner's word.
        for component in binder_core::catalogue::stopped(&other.spec.desired) {
            view.missing.entry(component.name).or_insert_with(|| other.name_any());
        }
        if !running {
            for component in binder_core::catalogue::described(&other.spec.desired) {
                view.missing.entry(component.name).or_insert_with(|| other.name_any());
            }
        }
        let reachable = status.is_some_and(|status| {
            status::conditions::find(status, binder_crds::conditions::REACHABLE)
                .is_some_and(|condition| condition.status == "True")
        });
        if other.spec.desired.kubernetes_api.is_some() && !reachable {
            let api = binder_core::catalogue::KUBERNETES_API.to_owned();
            view.missing.entry(api).or_insert_with(|| other.name_any());
        }
    }
    Ok(view)
}

/// The host of the fleet that is described to run the build server, and whether it may be asked for something.
pub(super) fn build_server(context: &Context, fleet: &BinderFleet, hosts: &[Arc<BinderHost>]) -> Option<BuildServer> {
    let host = hosts.iter().find(|host| host.spec.desired.servers.contains(&Server::Build))?;
    let mode = fleet::mode(fleet, host);
    let uid = host.uid()?;
    let closed = if host.spec.suspend {
        Some("it is suspended".to_owned())
    } else if mode < Mode::Enforce {
        Some("its mode is not Enforce".to_owned())
    } else if context.ssh.open_session(&uid).is_none() {
        Some("not connected".to_owned())
    } else {
        None
    };
    let port = context.neighbours.port(&uid, Server::Build);
    // `ClockInSync` is there only while the clocks differ.
    let clock_off = host.status.as_ref().is_some_and(|status| {
        status.conditions.iter().any(|condition| condition.type_ == "ClockInSync" && condition.status == "False")
    });
    Some(BuildServer { host: host.name_any(), uid, port, closed, clock_off })
}
