//! The routes of Binder's proxy against the namespaces of its cluster, all of it through the kubectl proxy of the host.
//!
//! The token of the proxy's API is read from its pod, as `deploy-kubernetes` reads it, wrapped at once, and shown nowhere.

use super::ask::{ANSWERS_WITHIN, To, get};
use crate::hosts::Session;
use crate::seen::kubernetes::namespace_names;
use crate::seen::routes::{AppId, Routes, routes};
use crate::seen::{Blind, Known, Reason};
use binder_crds::Desired;
use binder_crds::desired::Server;
use binder_crds::text::{Address, Checked};
use http::header::AUTHORIZATION;
use secrecy::SecretString;
use serde::Deserialize;

/// Where `deploy-kubernetes` keeps its proxy (`lib/proxy.js`).
const NAMESPACE: &str = "default";
/// The service of the proxy's API.
const SERVICE: &str = "proxy-registration";
/// The proxy's pod.
const POD: &str = "proxy-server";
/// The variable of the pod that holds the token.
const TOKEN: &str = "CONFIGPROXY_AUTH_TOKEN";

/// Whether a description has routes to look after: `deploy-kubernetes` makes them, behind the kubectl proxy.
pub(super) fn described(desired: &Desired) -> Option<u16> {
    let deploys = desired.servers.contains(&Server::DeployKubernetes);
    desired.kubectl_proxy.as_ref().filter(|_| deploys).map(|proxy| proxy.port)
}

/// Reads routes and namespaces.
pub(super) async fn ask(session: &Session, desired: &Desired) -> Known<Routes> {
    let Some(port) = described(desired) else { return Known::NotAsked };
    match read(session, port).await {
        Ok(routes) => Known::Seen(routes),
        Err(why) => Known::Unknown(Blind {
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

/// Where the proxy's API is, and its token.
pub(crate) struct ProxyApi {
    /// Its address.
    pub(crate) host: String,
    /// Its port.
    pub(crate) port: u16,
    token: SecretString,
}

impl ProxyApi {
    /// Asks the cluster behind a kubectl proxy for it.
    pub(crate) async fn find(session: &Session, port: u16) -> Result<Self, String> {
        let (service, pod) = tokio::try_join!(
            kubernetes(session, port, &["api", "v1", "namespaces", NAMESPACE, "services", SERVICE]),
            kubernetes(session, port, &["api", "v1", "namespaces", NAMESPACE, "pods", POD]),
        )?;
        let (host, port) = address(&service).ok_or_else(|| format!("the service {SERVICE} has no address"))?;
        let token = token(&pod).ok_or_else(|| format!("the pod {POD} holds no {TOKEN}"))?;
        Ok(Self { host, port, token })
    }

    /// The header that proves us.
    pub(crate) fn proof(&self) -> (http::HeaderName, SecretString) {
        use secrecy::ExposeSecret;
        (AUTHORIZATION, SecretString::from(format!("token {}", self.token.expose_secret())))
    }

    /// Every route.
    async fn get(&self, session: &Session) -> Result<Vec<u8>, String> {
        let proof = Some(self.proof());
        let to =
            To { host: &self.host, port: self.port, path: &["api", "routes"], slash: false, query: &[], secret: proof };
        let answer =
            get(session, to, ANSWERS_WITHIN).await.map_err(|why| format!("the proxy at {}: {why}", self.host))?;
        match answer.status {
            200 => Ok(answer.body),
            status => Err(format!("the proxy at {} answers with HTTP {status}", self.host)),
        }
    }
}

/// Whether the namespace of an app is gone; anything but the API's own "not found" is an error.
pub(crate) async fn namespace_is_gone(session: &Session, port: u16, id: &AppId) -> Result<bool, String> {
    #[derive(Deserialize)]
    struct Status {
        kind: String,
        reason: String,
    }
    let path = ["api", "v1", "namespaces", id.as_str()];
    let to = To { host: "127.0.0.1", port, path: &path, slash: false, query: &[], secret: None };
    let answer = get(session, to, ANSWERS_WITHIN).await.map_err(|why| format!("the kubectl proxy on {port}: {why}"))?;
    match answer.status {
        200 => Ok(false),
        404 => match serde_json::from_slice::<Status>(&answer.body) {
            Ok(status) if status.kind == "Status" && status.reason == "NotFound" => Ok(true),
            _ => Err(format!("{port} says 404, but not as a Kubernetes API does")),
        },
        status => Err(format!("the cluster behind {port} answers with HTTP {status}")),
    }
}

async fn kubernetes(session: &Session, port: u16, path: &[&str]) -> Result<Vec<u8>, String> {
    let to = To { host: "127.0.0.1", port, path, slash: false, query: &[], secret: None };
    let answer = get(session, to, ANSWERS_WITHIN).await.map_err(|why| format!("the kubectl proxy on {port}: {why}"))?;
    match answer.status {
        200 => Ok(answer.body),
        404 => Err(format!("the cluster behind {port} has no {}", path.last().unwrap_or(&"such thing"))),
        status => Err(format!("the cluster behind {port} answers with HTTP {status}")),
    }
}

/// Address and port of a service with a load balancer.
fn address(service: &[u8]) -> Option<(String, u16)> {
    #[derive(Deserialize)]
    struct Service {
        spec: Spec,
        status: Status,
    }
    #[derive(Deserialize)]
    struct Spec {
        ports: Vec<Port>,
    }
    #[derive(Deserialize)]
    struct Port {
        port: u16,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Status {
        load_balancer: LoadBalancer,
    }
    #[derive(Deserialize)]
    struct LoadBalancer {
        ingress: Vec<Ingress>,
    }
    #[derive(Deserialize)]
    struct Ingress {
        ip: Option<String>,
        hostname: Option<String>,
    }
    let service: Service = serde_json::from_slice(service).ok()?;
    let ingress = service.status.load_balancer.ingress.into_iter().next()?;
    let host = Address(ingress.ip.or(ingress.hostname)?);
    host.checked().ok()?;
    Some((host.0, service.spec.ports.first()?.port))
}

/// The token in the proxy's pod.
fn token(pod: &[u8]) -> Option<SecretString> {
    #[derive(Deserialize)]
    struct Pod {
        spec: Spec,
    }
    #[derive(Deserialize)]
    struct Spec {
        containers: Vec<Container>,
    }
    #[derive(Deserialize)]
    struct Container {
        #[serde(default)]
        env: Vec<Variable>,
    }
    // No `Debug`: a value may be the token.
    #[derive(Deserialize)]
    struct Variable {
        name: String,
        #[serde(default)]
        value: Option<String>,
    }
    let pod: Pod = serde_json::from_slice(pod).ok()?;
    let variables = pod.spec.containers.into_iter().flat_map(|container| container.env);
    variables.filter(|variable| variable.name == TOKEN).find_map(|variable| variable.value).map(SecretString::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;

    #[test]
    fn address_and_token_are_found_where_deploy_kubernetes_puts_them() {
        let service = |ingress: serde_json::Value| {
            serde_json::json!({"spec": {"ports": [{"port": 80, "targetPort": 8081}]}, "status": {"loadBalancer": {"ingress": ingress}}})
                .to_string()
        };
        let found = address(service(serde_json::json!([{"ip": "198.18.0.22"}])).as_bytes());
        assert_eq!(found, Some(("198.18.0.22".to_owned(), 80)));
        assert_eq!(address(service(serde_json::json!([])).as_bytes()), None);
        assert_eq!(address(service(serde_json::json!([{"ip": "a b\r\nc"}])).as_bytes()), None);

        let pod = serde_json::json!({"spec": {"containers": [
            {"name": "proxy-db"}, {"env": [{"name": "A", "value": "b"}, {"name": TOKEN, "value": "t0ken"}]}]}});
        let found = token(pod.to_string().as_bytes());
        assert_eq!(found.as_ref().map(|token| token.expose_secret()), Some("t0ken"));
        assert!(!format!("{found:?}").contains("t0ken"));
        assert!(token(b"{}").is_none());
    }
}
