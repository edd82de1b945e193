//! Which cluster answers behind the kubectl proxy.

use crate::hosts::{HttpPath, LocalHttp, Session};
use binder_core::seen::proxy::{self, Cluster};
use binder_crds::Desired;

/// Which cluster answers through the proxy, asked as `deploy-kubernetes` would ask, through a tunnel.
pub(super) async fn identity(session: &Session, desired: &Desired) -> Cluster {
    let Some(spec) = &desired.kubectl_proxy else { return Cluster::NotAsked };
    let path = match HttpPath::of(["api", "v1", "namespaces", "kube-system"]) {
        Ok(path) => path,
        Err(bad) => return Cluster::NoAnswer(bad.to_string()),
    };
    let request = LocalHttp { host: "127.0.0.1".to_owned(), port: spec.port, path, headers: Vec::new() };
    match session.http(request).await {
        Ok(answer) if answer.status == 200 => match proxy::identity(&answer.body) {
            Some(identity) => Cluster::Identity(identity),
            None => Cluster::NoAnswer("it says nothing that a Kubernetes API says".to_owned()),
        },
        Ok(answer) => Cluster::Status(answer.status),
        Err(error) => Cluster::NoAnswer(error.to_string()),
    }
}
