//! The API of Binder's proxy (configurable-http-proxy), found through the kubectl proxy of a host, and the cluster's word on
//! an app.
//!
//! The token of that API is read from the proxy's pod, as `deploy-kubernetes` reads it, wrapped at once, and shown nowhere.

use super::ask::{ANSWERS_WITHIN, To, get};
use crate::hosts::Session;
use binder_core::seen::routes::AppId;
use binder_crds::text::{Address, Checked};
use http::header::AUTHORIZATION;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

/// Where `deploy-kubernetes` keeps its proxy (`lib/proxy.js`).
const NAMESPACE: &str = "default";
/// The service of the proxy's API.
const SERVICE: &str = "proxy-registration";
/// The proxy's pod.
const POD: &str = "proxy-server";
/// The variable of the pod that holds the token.
const TOKEN: &str = "CONFIGPROXY_AUTH_TOKEN";

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
        (AUTHORIZATION, SecretString::from(format!("token {}", self.token.expose_secret())))
    }

    /// Every route.
    pub(crate) async fn get(&self, session: &Session) -> Result<Vec<u8>, String> {
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

/// An object or a list of the cluster behind a kubectl proxy.
pub(crate) async fn kubernetes(session: &Session, port: u16, path: &[&str]) -> Result<Vec<u8>, String> {
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
