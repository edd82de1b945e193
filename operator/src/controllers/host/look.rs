//! One look at a host: the connection, the probe, the questions, and what is carried from look to look. Decides nothing.

use super::super::secrets::Age;
use super::super::{Context, Error, access, backups, fleet, keys};
use super::Described;
use crate::hosts::ConnectError;
use crate::machines::Machine;
use crate::observe::kubernetes::Way;
use crate::observe::{self, FleetContext};
use binder_core::facets::{Step, machine};
use binder_core::plan::memory::History;
use binder_core::plan::{self, Looked};
use binder_core::status::{self};
use binder_crds::desired::Server;
use binder_crds::{BinderHost, BinderHostStatus};
use kube::ResourceExt;
use secrecy::ExposeSecret;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long after its key was authorized a refused login is tried once more: Compute Engine's guest agent takes over keys
/// within seconds. Once, since machines shut out who is refused again and again (fail2ban: 5 times in 10 min).
pub(super) const KEY_ARRIVES: Duration = Duration::from_secs(10);

/// Once its key was authorized, a machine that refused a login is asked once more: once for each such step.
pub(super) fn try_login_once_more(
    described: &Described,
    context: &Context,
    memory: &History,
    tried_after: Option<&str>,
) {
    let now = context.clock.now();
    let Some(past) = memory.open().find(|past| {
        matches!(past.step, Some(Step::Machine(machine::Step::AuthorizeKey { .. })))
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

pub(super) type Seen = (Looked, Option<Arc<dyn Machine>>);

/// Looks, unless nobody may.
pub(super) async fn observe(
    described: &Described,
    context: &Context,
    previous: &BinderHostStatus,
) -> Result<Seen, Error> {
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
                look(described, context, &*session),
                backups::look(context, &described.namespace, &described.uid, &name, &described.spec)
            );
            let mut looked = looked?;
            if let Looked::Seen(seen) = &mut looked {
                seen.backups = backups?;
            }
            (looked, Some(session))
        }
        Err(failed) => {
            if matches!(*failed.why, ConnectError::LoginRefused { .. } | ConnectError::MoreProofWanted { .. })
                && let Some(login) = &described.spec.access
            {
                // Its owner may just have put another key there.
                context.secrets.doubt(&described.namespace, &login.key_secret_ref.name.0);
            }
            (Looked::Failed(observe::not_connected(&failed, &target.key)), None)
        }
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
pub(super) async fn look(described: &Described, context: &Context, session: &dyn Machine) -> Result<Looked, Error> {
    let desired = &described.spec.desired;
    let mut around = around(described, context);
    if !observe::asks_with_api_key(desired) {
        return Ok(session.look(desired, &around).await);
    }
    let (namespace, reference) = (&described.namespace, described.spec.api_key_secret_ref.as_ref());
    let age = Age::for_looks(plan::usual(&described.spec));
    let key = access::api_key(context, namespace, reference, age).await?;
    if let Err(problem) = &key {
        let about =
            keys::About { namespace, uid: &described.uid, name: &described.object.name_any(), spec: &described.spec };
        return Ok(Box::pin(keys::look(context, &about, session, around, problem)).await);
    }
    context.key_search.end(namespace, reference);
    around.api_key = Some(key.clone().map_err(|problem| problem.to_string()));
    let mut looked = session.look(desired, &around).await;
    let Looked::Seen(seen) = &mut looked else { return Ok(looked) };
    if !observe::key_was_refused(seen) {
        return Ok(looked);
    }
    let now = access::api_key(context, namespace, reference, Age::now()).await?;
    let same = matches!((&key, &now), (Ok(key), Ok(now)) if key.expose_secret() == now.expose_secret());
    if same {
        return Ok(looked);
    }
    around.api_key = Some(now.map_err(|problem| problem.to_string()));
    session.ask_servers(desired, &around, seen).await;
    Ok(looked)
}

/// What a look may use beside the host itself: what the fleet's other hosts are.
pub(super) fn around(described: &Described, context: &Context) -> FleetContext {
    let mut around = FleetContext::default();
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
    for other in fleet::members(context, fleet).iter() {
        around.addresses.insert(other.name_any(), other.spec.address.0.clone());
        if other.spec.desired.servers.contains(&Server::Build) && around.build_server.is_none() {
            let port = other.uid().and_then(|uid| context.neighbours.port(&uid, Server::Build));
            let address = other.spec.address.0.clone();
            around.build_server = port.map(|port| observe::BuildServer { address, port });
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
pub(super) fn way(host: &BinderHost, context: &Context) -> Option<Way> {
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

/// What stands in the way of starting servers, if the description has any: the API key must be there first.
pub(super) async fn api_key_problem(described: &Described, context: &Context) -> Result<Option<String>, Error> {
    // Only a host that differs may need the key now.
    let healthy = described.object.status.as_ref().and_then(status::is_healthy) == Some(true);
    if described.suspended.is_some() || healthy || !observe::needs_api_key(&described.spec.desired) {
        return Ok(None);
    }
    let age = Age::for_looks(plan::usual(&described.spec));
    let key = keys::usable(context, &described.namespace, described.spec.api_key_secret_ref.as_ref(), age).await?;
    Ok(key.err().map(|problem| problem.to_string()))
}
