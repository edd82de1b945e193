//! A stand-in for the Compute Engine API: the few calls that an operator makes, answered over HTTP, and carried out on
//! the lab's hosts.
//!
//! `instances.get`, `reset`, `start`, `stop`, `setMetadata` and the zone's `operations.get` and
//! `wait`, with the paths, field names and error bodies of the v1 REST API, so that the official clients can be pointed
//! at it. A reset is a real one: every process of the host ends and it boots again. As in the cloud, a changing call
//! answers at once with an operation that is finished later, and a `requestId` that was seen before gives the operation
//! of then instead of a second reset.
//!
//! Who asks shows a token, and gets one at `/token` for an assertion that is signed with a service account's key. Knows
//! hosts by their power buttons and the files of their users' keys only.

pub mod accounts;
pub mod metadata;
mod operations;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{Form, Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cgroup::Cgroup;
use crate::host::power::{Order, PowerButton};
use crate::inventory::{Machine, NODE_LABEL, Network, PROJECT, Role};
use crate::layout::HostLayout;
use accounts::{Account, Accounts, Allowed};
use metadata::{Agent, Metadata};
use operations::{Kind, Operations};

/// How long `operations.wait` holds a request, as the real one does (about 2 minutes).
const WAIT_LIMIT: Duration = Duration::from_secs(120);

/// The stand-in could not listen.
#[derive(Debug, thiserror::Error)]
#[error("the stand-in for the cloud cannot listen on loopback")]
pub struct CloudError(#[source] std::io::Error);

/// One instance of the cloud: a host of the lab.
#[derive(Debug, Clone)]
pub struct Instance {
    /// Its machine.
    pub machine: &'static Machine,
    /// Its power button.
    pub button: PowerButton,
    /// Its files, for its console and its metadata.
    pub files: HostLayout,
    /// The group of its processes: while that is frozen, nothing on it acts on metadata.
    pub group: Cgroup,
}

/// What every request sees.
struct Cloud {
    network: Network,
    base: String,
    instances: BTreeMap<&'static str, Instance>,
    operations: Operations,
    accounts: Accounts,
    /// When each instance was last started. Held while metadata is compared and written, too: one change at a time.
    started: Mutex<BTreeMap<&'static str, Timestamp>>,
}

/// A stand-in that runs.
#[derive(Clone)]
pub struct Service {
    cloud: Arc<Cloud>,
}

impl Service {
    /// Its base URL, such as `http://127.0.0.1:41234`.
    pub fn base(&self) -> &str {
        &self.cloud.base
    }

    /// Takes every token back, as when a key is revoked.
    pub fn revoke_tokens(&self) {
        self.cloud.accounts.revoke();
    }
}

/// Serves the API on loopback until the runtime ends.
///
/// # Errors
/// No port is free.
pub async fn serve(network: Network, instances: Vec<Instance>, accounts: Vec<Account>) -> Result<Service, CloudError> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listener = tokio::net::TcpListener::bind(address).await.map_err(CloudError)?;
    let base = format!("http://{}", listener.local_addr().map_err(CloudError)?);
    for Instance { button, files, group, .. } in &instances {
        let (metadata, root, button, group) = (files.metadata(), files.root(), button.clone(), group.clone());
        tokio::spawn(Agent { metadata, root, button, group }.run());
    }
    let now = Timestamp::now();
    let started = instances.iter().map(|instance| (instance.machine.name, now)).collect();
    let instances = instances.into_iter().map(|instance| (instance.machine.name, instance)).collect();
    let cloud = Arc::new(Cloud {
        network,
        base,
        instances,
        operations: Operations::default(),
        accounts: Accounts::new(accounts),
        started: Mutex::new(started),
    });
    let zone = "/compute/v1/projects/{project}/zones/{zone}";
    let router = axum::Router::new()
        .route("/token", post(token))
        .route(&format!("{zone}/instances/{{name}}"), get(instance))
        .route(&format!("{zone}/instances/{{name}}/setMetadata"), post(set_metadata))
        .route(&format!("{zone}/instances/{{name}}/{{verb}}"), post(change))
        .route(&format!("{zone}/operations/{{name}}"), get(operation))
        .route(&format!("{zone}/operations/{{name}}/wait"), post(wait))
        .with_state(cloud.clone());
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "the stand-in for the cloud ended");
        }
    });
    Ok(Service { cloud })
}

/// An error body, as the API gives it.
struct Refusal {
    status: StatusCode,
    reason: &'static str,
    message: String,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self { status, reason, message } = self;
        let errors = [json!({"message": message, "domain": "global", "reason": reason})];
        let body = json!({"error": {"code": status.as_u16(), "message": message, "errors": errors}});
        (status, Json(body)).into_response()
    }
}

fn not_found(resource: String) -> Refusal {
    let message = format!("The resource '{resource}' was not found");
    Refusal { status: StatusCode::NOT_FOUND, reason: "notFound", message }
}

/// Something of the stand-in's own is broken.
fn broken(error: &dyn std::error::Error) -> Refusal {
    Refusal { status: StatusCode::INTERNAL_SERVER_ERROR, reason: "internalError", message: crate::said(error) }
}

impl Cloud {
    /// Lets through whoever shows a token of an account that may do this.
    fn allow(&self, headers: &HeaderMap, right: &str, to: &str) -> Result<(), Refusal> {
        let header = headers.get("authorization").and_then(|value| value.to_str().ok());
        match self.accounts.allow(header, right, Timestamp::now()) {
            Allowed::Yes => Ok(()),
            Allowed::No => Err(Refusal {
                status: StatusCode::FORBIDDEN,
                reason: "forbidden",
                message: format!("Required '{right}' permission for '{to}'"),
            }),
            Allowed::Stranger => Err(Refusal {
                status: StatusCode::UNAUTHORIZED,
                reason: "authError",
                message: "Request had invalid authentication credentials. Expected OAuth 2 access token.".to_owned(),
            }),
        }
    }

    fn instance(&self, project: &str, zone: &str, name: &str) -> Result<&Instance, Refusal> {
        let found = self.instances.get(name).filter(|found| project == PROJECT && found.machine.zone == zone);
        found.ok_or_else(|| not_found(format!("projects/{project}/zones/{zone}/instances/{name}")))
    }

    fn zone_url(&self, zone: &str) -> String {
        format!("{}/compute/v1/projects/{PROJECT}/zones/{zone}", self.base)
    }

    fn instance_url(&self, machine: &Machine) -> String {
        format!("{}/instances/{}", self.zone_url(machine.zone), machine.name)
    }

    /// The instance resource, with the fields that tell what it is and how it is.
    fn describe(&self, instance: &Instance) -> Result<Value, Refusal> {
        let Instance { machine, button, files, .. } = instance;
        let metadata = Metadata::read(&files.metadata()).map_err(|error| broken(&error))?;
        let started = self.started.lock().unwrap_or_else(PoisonError::into_inner).get(machine.name).copied();
        let under_way = self.operations.under_way(machine.name);
        let status = match (under_way, button.power().on) {
            (Some(Kind::Stop), _) => "STOPPING",
            (Some(Kind::Start), false) => "STAGING",
            // A reset is no change of state to the cloud: the instance is running, whatever its system is doing.
            (Some(Kind::Reset), _) | (_, true) => "RUNNING",
            (None | Some(Kind::SetMetadata), false) => "TERMINATED",
        };
        Ok(json!({
            "kind": "compute#instance",
            "id": (1_000_000_000_000_u64 + u64::from(machine.octet)).to_string(),
            "name": machine.name,
            "zone": self.zone_url(machine.zone),
            "selfLink": self.instance_url(machine),
            "status": status,
            "lastStartTimestamp": started.unwrap_or_default().to_string(),
            "metadata": metadata.describe(),
            "labels": labels(machine),
            "networkInterfaces": [{
                "kind": "compute#networkInterface",
                "name": "nic0",
                "networkIP": self.network.address(machine.octet).to_string(),
            }],
        }))
    }
}

/// The labels of an instance: those of the cluster's nodes say so, as an owner would have it.
fn labels(machine: &Machine) -> Value {
    match machine.role {
        Role::Minion => json!({ NODE_LABEL.0: NODE_LABEL.1 }),
        _ => json!({}),
    }
}

/// How a resource is named in messages.
fn path(project: &str, zone: &str, name: &str) -> String {
    format!("projects/{project}/zones/{zone}/instances/{name}")
}

#[derive(Debug, Deserialize)]
struct Grant {
    grant_type: String,
    assertion: String,
}

async fn token(State(cloud): State<Arc<Cloud>>, Form(grant): Form<Grant>) -> Response {
    let audience = accounts::token_uri(&cloud.base);
    let given = match grant.grant_type.as_str() {
        "urn:ietf:params:oauth:grant-type:jwt-bearer" => {
            cloud.accounts.token(&grant.assertion, &audience, Timestamp::now()).map_err(|why| ("invalid_grant", why))
        }
        _ => Err(("unsupported_grant_type", "Invalid grant_type")),
    };
    match given {
        Ok(token) => Json(token).into_response(),
        Err((error, why)) => {
            (StatusCode::BAD_REQUEST, Json(json!({"error": error, "error_description": why}))).into_response()
        }
    }
}

#[derive(Debug, Deserialize)]
struct Fields {
    fields: Option<String>,
}

impl Fields {
    /// Leaves only the fields that were asked for. What is asked for of a field (`networkInterfaces/networkIP`,
    /// `networkInterfaces(networkIP)`) brings all of it.
    fn of(&self, mut resource: Value) -> Value {
        if let (Some(fields), Some(object)) = (&self.fields, resource.as_object_mut()) {
            let asked = asked_fields(fields);
            object.retain(|name, _| asked.contains(&name.as_str()));
        }
        resource
    }
}

/// The names of the fields in a selector, without what is asked for of them.
fn asked_fields(selector: &str) -> Vec<&str> {
    let mut depth = 0_usize;
    let outside = selector.split(|c| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    });
    outside.map(|field| field.split(['(', '/']).next().unwrap_or_default().trim()).collect()
}

async fn instance(
    State(cloud): State<Arc<Cloud>>,
    Path((project, zone, name)): Path<(String, String, String)>,
    Query(fields): Query<Fields>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    cloud.allow(&headers, "compute.instances.get", &path(&project, &zone, &name))?;
    Ok(Json(fields.of(cloud.describe(cloud.instance(&project, &zone, &name)?)?)))
}

#[derive(Debug, Deserialize)]
struct Asked {
    #[serde(rename = "requestId")]
    request_id: Option<String>,
}

#[derive(Debug, Deserialize)]
struct NewMetadata {
    #[serde(default)]
    fingerprint: String,
    #[serde(flatten)]
    metadata: Metadata,
}

async fn set_metadata(
    State(cloud): State<Arc<Cloud>>,
    Path((project, zone, name)): Path<(String, String, String)>,
    Query(asked): Query<Asked>,
    headers: HeaderMap,
    Json(new): Json<NewMetadata>,
) -> Result<Json<Value>, Refusal> {
    cloud.allow(&headers, "compute.instances.setMetadata", &path(&project, &zone, &name))?;
    let instance = cloud.instance(&project, &zone, &name)?;
    let zone_url = cloud.zone_url(instance.machine.zone);
    if let Some(known) = asked.request_id.as_deref().and_then(|request| cloud.operations.of_request(request)) {
        return Ok(Json(known.describe(&zone_url)));
    }
    let file = instance.files.metadata();
    let one_at_a_time = cloud.started.lock().unwrap_or_else(PoisonError::into_inner);
    let old = Metadata::read(&file).map_err(|error| broken(&error))?;
    if new.fingerprint != old.fingerprint() {
        return Err(Refusal {
            status: StatusCode::PRECONDITION_FAILED,
            reason: "conditionNotMet",
            message: "Supplied fingerprint does not match current metadata fingerprint.".to_owned(),
        });
    }
    new.metadata.write(&file).map_err(|error| broken(&error))?;
    let (operation, _) = cloud.operations.begin(Kind::SetMetadata, instance.machine, asked.request_id);
    note(instance, Kind::SetMetadata)?;
    drop(one_at_a_time);
    cloud.operations.finish(&operation.name, Ok(()), Timestamp::now());
    Ok(Json(operation.describe(&zone_url)))
}

async fn change(
    State(cloud): State<Arc<Cloud>>,
    Path((project, zone, name, verb)): Path<(String, String, String, String)>,
    Query(asked): Query<Asked>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    cloud.allow(&headers, &format!("compute.instances.{verb}"), &path(&project, &zone, &name))?;
    let instance = cloud.instance(&project, &zone, &name)?.clone();
    let (kind, order) = match verb.as_str() {
        "reset" => (Kind::Reset, Order::Reset),
        "start" => (Kind::Start, Order::Start),
        "stop" => (Kind::Stop, Order::Stop),
        _ => return Err(not_found(format!("instances/{name}/{verb}"))),
    };
    if kind == Kind::Reset && !instance.button.power().on && cloud.operations.under_way(instance.machine.name).is_none()
    {
        let message =
            format!("The resource '{}' is not ready: it is not running", cloud.instance_url(instance.machine));
        return Err(Refusal { status: StatusCode::BAD_REQUEST, reason: "resourceNotReady", message });
    }
    let (operation, is_new) = cloud.operations.begin(kind, instance.machine, asked.request_id);
    if is_new {
        note(&instance, kind)?;
        let (cloud, operation) = (cloud.clone(), operation.name.clone());
        tokio::spawn(async move {
            let outcome = instance.button.press(order).await.map_err(|error| crate::said(&error));
            if kind == Kind::Start && outcome.is_ok() {
                let mut started = cloud.started.lock().unwrap_or_else(PoisonError::into_inner);
                started.insert(instance.machine.name, Timestamp::now());
            }
            cloud.operations.finish(&operation, outcome, Timestamp::now());
        });
    }
    Ok(Json(operation.describe(&cloud.zone_url(instance.machine.zone))))
}

/// Writes down what is about to be done to an instance.
fn note(instance: &Instance, kind: Kind) -> Result<(), Refusal> {
    let path = instance.files.operations();
    let line = format!("{} {}\n", Timestamp::now(), kind.name());
    let written = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .and_then(|mut file| std::io::Write::write_all(&mut file, line.as_bytes()));
    written.map_err(|source| broken(&crate::files::FileError::new("write", &path, source)))
}

async fn operation(
    State(cloud): State<Arc<Cloud>>,
    Path((project, zone, name)): Path<(String, String, String)>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    cloud.allow(
        &headers,
        "compute.zoneOperations.get",
        &format!("projects/{project}/zones/{zone}/operations/{name}"),
    )?;
    let found = cloud.operations.get(&name).filter(|found| project == PROJECT && found.zone == zone);
    match found {
        Some(found) => Ok(Json(found.describe(&cloud.zone_url(&zone)))),
        None => Err(not_found(format!("projects/{project}/zones/{zone}/operations/{name}"))),
    }
}

async fn wait(
    State(cloud): State<Arc<Cloud>>,
    Path((project, zone, name)): Path<(String, String, String)>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    cloud.allow(
        &headers,
        "compute.zoneOperations.get",
        &format!("projects/{project}/zones/{zone}/operations/{name}"),
    )?;
    // One that is not finished in time is described as it is; the caller waits again.
    let _ = tokio::time::timeout(WAIT_LIMIT, cloud.operations.finished(&name)).await;
    operation(State(cloud), Path((project, zone, name)), headers).await
}

#[cfg(test)]
mod tests {
    use super::asked_fields;

    #[test]
    fn a_selector_names_fields_whatever_it_wants_of_them() {
        assert_eq!(asked_fields("status,lastStartTimestamp"), ["status", "lastStartTimestamp"]);
        let nested = "networkInterfaces(networkIP,accessConfigs(natIP)),status,metadata/items";
        assert_eq!(asked_fields(nested), ["networkInterfaces", "status", "metadata"]);
    }
}
