//! The routes of Binder's proxy against the namespaces of its cluster, all of it through the kubectl proxy of the host.

use crate::binder::proxy::{ProxyApi, kubernetes};
use crate::hosts::Session;
use binder_core::seen::kubernetes::namespace_names;
use binder_core::seen::routes::{Routes, routes};
use binder_core::seen::{Fact, Reason, Unknown};
use binder_crds::Desired;
use binder_crds::desired::Server;

/// Whether a description has routes to look after: `deploy-kubernetes` makes them, behind the kubectl proxy.
fn described(desired: &Desired) -> Option<u16> {
    let deploys = desired.servers.contains(&Server::DeployKubernetes);
    desired.kubectl_proxy.as_ref().filter(|_| deploys).map(|proxy| proxy.port)
}

/// Reads routes and namespaces.
pub(super) async fn ask(session: &Session, desired: &Desired) -> Fact<Routes> {
    let Some(port) = described(desired) else { return Fact::NotAsked };
    match read(session, port).await {
        Ok(routes) => Fact::Seen(routes),
        Err(why) => Fact::Unknown(Unknown {
            reason: Reason::NotAnswered,
            message: format!("the proxy's routes are not known: {why}"),
        }),
    }
}

async fn read(session: &Session, port: u16) -> Result<Routes, String> {
    let proxy = ProxyApi::find(session, port).await?;
    // In this order: what is made meanwhile has a namespace before it has a route.
    let table = proxy.get(session).await?;
    let names = kubernetes(session, port, &["api", "v1", "namespaces"]).await?;
    let names = namespace_names(&names).map_err(|why| format!("the cluster behind {port}: {why}"))?;
    routes(&table, &names).map_err(|why| format!("the proxy at {}: {why}", proxy.host))
}
