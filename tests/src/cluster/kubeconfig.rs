//! Kubeconfig files: how a client finds an API server, knows that it is the right one, and says who it is.
//!
//! Every file holds all that it needs, so it can be copied to another machine. Knows nothing of how the server is run.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::json;

use crate::files::{self, FileError};
use crate::pki::Identity;

/// How long one call to an API server on this computer may take: it answers in milliseconds, or it hangs.
const CALL: Duration = Duration::from_secs(10);

/// A kubeconfig could not be used.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// It is no kubeconfig.
    #[error("`{path}` is no usable kubeconfig")]
    Kubeconfig {
        /// The file, or what stands for it.
        path: String,
        /// Why not.
        #[source]
        source: Box<kube::config::KubeconfigError>,
    },
    /// No client can be made of it.
    #[error("cannot make a client of `{path}`")]
    Client {
        /// The file, or what stands for it.
        path: String,
        /// Why not.
        #[source]
        source: Box<kube::Error>,
    },
    /// The API server gave no token.
    #[error("no token for the service account {namespace}/{name}")]
    Token {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// What the API server said; none if it answered without a token.
        #[source]
        source: Option<Box<kube::Error>>,
    },
}

/// How a client proves who it is.
pub(super) enum Credential<'a> {
    Certificate(&'a Identity),
    Token(&'a str),
}

/// An API server as its clients know it.
pub(super) struct Server<'a> {
    /// The name of the cluster, for people.
    pub cluster: &'a str,
    pub address: SocketAddr,
    /// The certificate of the authority that signed the server's, as PEM.
    pub authority: &'a str,
}

impl Server<'_> {
    /// The text of a kubeconfig for one user. `namespace` is what `kubectl` takes when none is said.
    pub(super) fn kubeconfig(&self, user: &str, credential: &Credential<'_>, namespace: &str) -> String {
        let base64 = |pem: &str| ByteString(pem.as_bytes().to_vec());
        let credential = match credential {
            Credential::Certificate(identity) => json!({
                "client-certificate-data": base64(&identity.certificate),
                "client-key-data": base64(&identity.key),
            }),
            Credential::Token(token) => json!({"token": token}),
        };
        // JSON is YAML. Laid out over lines, it can be read and edited as well.
        let text = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": self.cluster, "cluster": {
                "server": format!("https://{}", self.address),
                "certificate-authority-data": base64(self.authority),
            }}],
            "users": [{"name": user, "user": credential}],
            "contexts": [{"name": self.cluster, "context": {
                "cluster": self.cluster, "user": user, "namespace": namespace,
            }}],
            "current-context": self.cluster,
        });
        format!("{text:#}\n")
    }
}

/// A client of whom and what this kubeconfig file names. Its calls end after 10 s, watches excepted.
///
/// # Errors
/// The file cannot be read or used.
pub async fn client(path: &Path) -> Result<Client, AccessError> {
    let name = || path.display().to_string();
    let parsed = Kubeconfig::from_yaml(&files::read(path)?)
        .map_err(|source| AccessError::Kubeconfig { path: name(), source: Box::new(source) })?;
    let mut config = Config::from_custom_kubeconfig(parsed, &KubeConfigOptions::default())
        .await
        .map_err(|source| AccessError::Kubeconfig { path: name(), source: Box::new(source) })?;
    config.connect_timeout = Some(CALL);
    config.write_timeout = Some(CALL);
    Client::try_from(config).map_err(|source| AccessError::Client { path: name(), source: Box::new(source) })
}

/// A token with which a program acts as a service account.
///
/// # Errors
/// The account does not exist, the client may not ask, or the server is away.
pub async fn token(client: &Client, namespace: &str, name: &str, valid: Duration) -> Result<String, AccessError> {
    let failed = |source: Option<kube::Error>| AccessError::Token {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        source: source.map(Box::new),
    };
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            expiration_seconds: Some(i64::try_from(valid.as_secs()).unwrap_or(i64::MAX)),
            ..TokenRequestSpec::default()
        }),
        ..TokenRequest::default()
    };
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let answer = accounts
        .create_token_request(name, &PostParams::default(), &request)
        .await
        .map_err(|error| failed(Some(error)))?;
    answer.status.and_then(|status| status.token).ok_or_else(|| failed(None))
}
