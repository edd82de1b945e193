//! Google Compute Engine, by the few calls of its REST API (v1) that this operator makes.
//!
//! | Call | Right that the account needs |
//! |---|---|
//! | `instances.get` | `compute.instances.get` |
//! | `instances.reset`, `instances.start` | `compute.instances.reset`, `compute.instances.start` |
//! | `instances.setMetadata` | `compute.instances.setMetadata`, and `iam.serviceAccounts.actAs` on the account that the instance runs as, if it has one |
//! | `zoneOperations.wait` | `compute.zoneOperations.get` |
//!
//! # Why not Google's own client
//!
//! `google-cloud-compute-v1` (4.1) was looked at. It can do without OpenSSL and aws-lc, and its endpoint can be changed.
//! But its model is half a million lines of generated source for the few calls above, it brings gRPC and OpenTelemetry
//! along, and it reads answers of any size into memory, with no way to bound them. Its companion `google-cloud-auth`
//! (1.18) keeps a task for each account that asks for tokens whether they are needed or not, and does not ask the key's
//! `token_uri`. So: REST, by `reqwest`. The assertion for a token is three strings in base64 and one signature, which
//! is ring's; the libraries for JWT bring a second RSA implementation for it.
//!
//! # What is kept off the wire
//!
//! Answers are asked for by field: an instance's metadata, which may hold other people's secrets, is read only to add a
//! key. No redirect is followed. A proxy that the environment names (`HTTPS_PROXY`) is not used, as for Kubernetes; where
//! Google can be reached by a private address only, `--gce-endpoint` names it.

mod credentials;
mod endpoint;
mod metadata;
mod token;
mod wire;

#[cfg(test)]
pub(crate) mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use binder_crds::references::GceHost;
use binder_crds::text::{Checked, CloudName};
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Method, Uri};
use jiff::Timestamp;
use secrecy::SecretString;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::{Fault, Instance, KeyAdded, Operation, Power, PowerError, Retryability, SshKey, State, request_id};
use crate::hosts::{HttpPath, sanitize};
use binder_core::gate::Permit;
use credentials::Credentials;
use metadata::{WithKey, with_key};
use token::Tokens;
use wire::{Ask, Body, Wire};

pub use credentials::BadCredentials;
pub use endpoint::{BadEndpoint, Endpoint};

/// Where Google's API is.
pub const ENDPOINT: &str = "https://compute.googleapis.com";

/// The entry of a credentials Secret that holds the JSON file with the service account's key.
pub const SECRET_KEY: &str = "credentials.json";

/// One request and its answer. Google's own clients wait for up to a minute; what takes longer than this is not well.
const CALL: Duration = Duration::from_secs(15);

/// From asking for a change until the cloud has made it. A reset takes some 20 s there, a start up to a minute.
const OPERATION: Duration = Duration::from_secs(180);

/// How long one `wait` may hold its answer back. The API's own limit is 2 minutes; proxies have less patience.
const WAIT: Duration = Duration::from_secs(30);

/// Between two looks at an operation.
const PAUSE: Duration = Duration::from_millis(500);

/// How often a key is added anew after somebody else has changed the metadata meanwhile.
const TRIES: u32 = 5;

/// Compute Engine, as all hosts share it: the endpoint, the connections, the tokens. Clones are the same.
#[derive(Clone)]
pub struct Gce {
    shared: Arc<Shared>,
}

struct Shared {
    endpoint: Endpoint,
    wire: Wire,
    tokens: Tokens,
    patience: RetryPolicy,
}

/// How long is waited for what.
#[derive(Clone, Copy)]
struct RetryPolicy {
    call: Duration,
    operation: Duration,
}

impl Gce {
    /// The API at an endpoint. Nothing is asked of it yet.
    pub fn new(endpoint: Endpoint) -> Self {
        Self::with_patience(endpoint, RetryPolicy { call: CALL, operation: OPERATION })
    }

    fn with_patience(endpoint: Endpoint, patience: RetryPolicy) -> Self {
        let wire = Wire::new(endpoint.is_loopback());
        Self { shared: Arc::new(Shared { endpoint, wire, tokens: Tokens::default(), patience }) }
    }

    /// The power of one instance. `credentials` is the JSON file of a service account's key, as the console gives it.
    ///
    /// # Errors
    /// The description or the credentials cannot be used; nothing was asked of anybody.
    pub fn instance(&self, host: &GceHost, credentials: &SecretString) -> Result<GceInstance, PowerError> {
        let checked = |field, name: &CloudName| match name.checked() {
            Ok(text) => Ok(text.to_owned()),
            Err(bad) => Err(Fault::Description { field, bad }),
        };
        let parts = || -> Result<_, Fault> {
            Ok((
                checked("power.gce.project", &host.project)?,
                checked("power.gce.zone", &host.zone)?,
                checked("power.gce.instance", &host.instance)?,
                Credentials::parse(credentials, &self.shared.endpoint)?,
            ))
        };
        let words = |project: &str, zone: &str, name: &str| format!("instance {name} (project {project}, zone {zone})");
        match parts() {
            Ok((project, zone, name, credentials)) => {
                let words = words(&project, &zone, &name);
                Ok(GceInstance { shared: self.shared.clone(), project, zone, name, words, credentials })
            }
            Err(fault) => {
                let clean = |name: &CloudName| sanitize(name.0.as_bytes(), 128);
                let instance = words(&clean(&host.project), &clean(&host.zone), &clean(&host.instance));
                Err(PowerError { instance, doing: Operation::Asking, fault })
            }
        }
    }
}

/// One instance.
pub struct GceInstance {
    shared: Arc<Shared>,
    project: String,
    zone: String,
    name: String,
    words: String,
    credentials: Credentials,
}

impl Power for GceInstance {
    fn instance(&self) -> &str {
        &self.words
    }

    fn state(&self) -> BoxFuture<'_, Result<Instance, PowerError>> {
        self.doing(Operation::Asking, async {
            let path = self.uri(&["instances", &self.name], &[("fields", FIELDS)])?;
            let (answer, asked_at) = self.ask_when(Method::GET, path, &Body::None, self.shared.patience.call).await?;
            let word = answer["status"].as_str().ok_or_else(|| self.unreadable("it does not say its status"))?;
            let last_start = answer["lastStartTimestamp"].as_str().and_then(|text| text.parse::<Timestamp>().ok());
            Ok(Instance {
                state: state(word),
                last_start,
                asked_at,
                addresses: addresses(&answer["networkInterfaces"]),
                labels: labels(&answer["labels"]),
            })
        })
    }

    fn reset(&self, permit: Permit) -> BoxFuture<'_, Result<(), PowerError>> {
        self.doing(Operation::Reset, self.change("reset", request_id(&permit, "reset"), Body::None))
    }

    fn start(&self, permit: Permit) -> BoxFuture<'_, Result<(), PowerError>> {
        self.doing(Operation::Start, self.change("start", request_id(&permit, "start"), Body::None))
    }

    fn add_ssh_key(&self, permit: Permit, key: SshKey) -> BoxFuture<'_, Result<KeyAdded, PowerError>> {
        self.doing(Operation::AddSshKey, async move {
            for _ in 0..TRIES {
                let answer = self.get(&[], &[("fields", "metadata")]).await?;
                let changed = match with_key(&answer["metadata"], &key) {
                    WithKey::Changed(changed) => changed,
                    WithKey::AlreadyThere => return Ok(KeyAdded::AlreadyThere),
                    WithKey::OsLogin => return Err(Fault::OsLogin),
                    WithKey::Unreadable(what) => return Err(self.unreadable(what)),
                };
                // What is asked for differs from try to try, so its id must too.
                let fingerprint = changed["fingerprint"].as_str().unwrap_or_default();
                let id = request_id(&permit, &format!("setMetadata {fingerprint}"));
                match self.change("setMetadata", id, Body::Json(changed)).await {
                    Ok(()) => return Ok(KeyAdded::Added),
                    Err(Fault::Conflict { .. }) => {}
                    Err(Fault::OperationFailed { code, .. }) if code == "CONDITION_NOT_MET" => {}
                    Err(other) => return Err(other),
                }
            }
            Err(Fault::KeepsChanging { tries: TRIES })
        })
    }
}

impl GceInstance {
    /// Puts instance and purpose before what went wrong.
    fn doing<'a, T: 'a>(
        &'a self,
        doing: Operation,
        work: impl Future<Output = Result<T, Fault>> + Send + 'a,
    ) -> BoxFuture<'a, Result<T, PowerError>> {
        work.map(move |done| done.map_err(|fault| PowerError { instance: self.words.clone(), doing, fault })).boxed()
    }

    fn unreadable(&self, what: &'static str) -> Fault {
        Fault::Unreadable { from: self.shared.endpoint.host(), what }
    }

    /// The address of something in the instance's zone.
    fn uri(&self, path: &[&str], query: &[(&str, &str)]) -> Result<Uri, Fault> {
        let zone = ["compute", "v1", "projects", &self.project, "zones", &self.zone];
        // Every segment was checked: none is empty or a dot.
        let path =
            HttpPath::of(zone.iter().chain(path).copied()).map_err(|_| self.unreadable("a name in it is none"))?;
        let path = query.iter().fold(path, |path, (name, value)| path.query(name, value));
        let endpoint = &self.shared.endpoint;
        endpoint.resource(&path).map_err(|source| Fault::Unwritable { to: endpoint.host(), source })
    }

    /// Reads something of the instance.
    async fn get(&self, path: &[&str], query: &[(&str, &str)]) -> Result<Value, Fault> {
        let path: Vec<&str> = ["instances", &self.name].iter().chain(path).copied().collect();
        self.ask(Method::GET, self.uri(&path, query)?, &Body::None, self.shared.patience.call).await
    }

    /// Asks for a change under an id, and waits until the cloud has made it.
    async fn change(&self, verb: &str, id: String, body: Body) -> Result<(), Fault> {
        let uri = self.uri(&["instances", &self.name, verb], &[("requestId", &id)])?;
        let operation = self.ask(Method::POST, uri, &body, self.shared.patience.call).await?;
        self.finish(operation).await
    }

    /// Waits for the end of an operation.
    async fn finish(&self, mut operation: Value) -> Result<(), Fault> {
        let name = operation["name"].as_str().map(CloudName::from);
        let name = name.as_ref().and_then(|name| name.checked().ok());
        let name = name.ok_or_else(|| self.unreadable("it names no operation"))?.to_owned();
        let limit = self.shared.patience.operation;
        let until = Instant::now() + limit;
        let mut last = None;
        while operation["status"] != "DONE" {
            sleep(PAUSE.min(limit / 4)).await;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Fault::OperationOpen { operation: name, limit, last });
            }
            let uri = self.uri(&["operations", &name, "wait"], &[])?;
            match self.ask(Method::POST, uri, &Body::None, left.min(WAIT)).await {
                Ok(now) => (operation, last) = (now, None),
                // The change is being made all the same, so a bad answer is no reason to stop asking, if it may get better.
                Err(fault) if fault.retryability() == Retryability::Later => last = Some(Box::new(fault)),
                Err(fault) => return Err(Fault::OperationOpen { operation: name, limit, last: Some(Box::new(fault)) }),
            }
        }
        let error = &operation["error"]["errors"][0];
        if error.is_null() {
            return Ok(());
        }
        let text = |name, chars| sanitize(error[name].as_str().unwrap_or("no word of it").as_bytes(), chars);
        Err(Fault::OperationFailed { operation: name, code: text("code", 64), said: text("message", 300) })
    }

    /// One call, with a token.
    async fn ask(&self, method: Method, uri: Uri, body: &Body, limit: Duration) -> Result<Value, Fault> {
        self.ask_when(method, uri, body, limit).await.map(|(answer, _)| answer)
    }

    /// One call, with a token; with a new one if the cloud does not take it, which it then has not acted on. With the
    /// cloud's clock at the answer, if it tells it.
    async fn ask_when(
        &self,
        method: Method,
        uri: Uri,
        body: &Body,
        limit: Duration,
    ) -> Result<(Value, Option<Timestamp>), Fault> {
        let Shared { wire, tokens, .. } = &*self.shared;
        let mut again = true;
        loop {
            let token = tokens.get(wire, &self.credentials).await?;
            let (method, uri, body) = (method.clone(), uri.clone(), body.clone());
            match wire.ask(Ask { method, uri, bearer: Some(&token), body, limit }).await {
                Err(Fault::NotAccepted { .. }) if again => {
                    tokens.forget(&self.credentials);
                    again = false;
                }
                other => return other,
            }
        }
    }
}

/// What is asked of an instance.
const FIELDS: &str = "status,lastStartTimestamp,networkInterfaces,labels";

/// So many addresses and labels are read; an instance has at most 8 interfaces and 64 labels.
const MOST: usize = 256;

/// The addresses of an instance's interfaces: its own, and those by which others know it.
fn addresses(interfaces: &Value) -> BTreeSet<IpAddr> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut found = BTreeSet::new();
    for interface in list(interfaces).iter().take(MOST) {
        let ways = [list(&interface["accessConfigs"]), list(&interface["ipv6AccessConfigs"])].concat();
        let own = [&interface["networkIP"], &interface["ipv6Address"]];
        let others = ways.iter().take(MOST).flat_map(|way| [&way["natIP"], &way["externalIpv6"]]);
        found.extend(own.into_iter().chain(others).filter_map(|text| text.as_str()?.parse::<IpAddr>().ok()));
    }
    found
}

/// The labels of an instance.
fn labels(labels: &Value) -> BTreeMap<String, String> {
    let Some(labels) = labels.as_object() else { return BTreeMap::new() };
    labels.iter().take(MOST).filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

/// What the API's words for an instance's state mean.
fn state(word: &str) -> State {
    match word {
        "RUNNING" => State::Running,
        "PROVISIONING" | "STAGING" | "PENDING" => State::Starting,
        "STOPPING" | "PENDING_STOP" | "DEPROVISIONING" => State::Stopping,
        "STOPPED" | "TERMINATED" => State::Stopped,
        "SUSPENDING" | "SUSPENDED" => State::Suspended,
        "REPAIRING" => State::Repairing,
        other => State::Unknown(sanitize(other.as_bytes(), 40)),
    }
}
