//! A stand-in for the Compute Engine API: the few calls that an operator makes, answered over HTTP, and carried out on
//! the lab's hosts.
//!
//! `instances.get`, `reset`, `start`, `stop` and the zone's `operations.get` and `wait`, with the paths, field names and
//! error bodies of the v1 REST API, so that the official clients can be pointed at it. A reset is a real one: every
//! process of the host ends and it boots again. As in the cloud, a changing call answers at once with an operation that
//! is finished later, and a `requestId` that was seen before gives the operation of then instead of a second reset.
//!
//! It asks for no credentials: it listens on loopback, and who may do what is not what it is for. Knows hosts by their
//! power buttons only.

mod operations;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::host::power::{Order, PowerButton};
use crate::inventory::{Machine, Network, PROJECT};
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
}

/// What every request sees.
struct Cloud {
    network: Network,
    base: String,
    instances: BTreeMap<&'static str, Instance>,
    operations: Operations,
}

/// Serves the API on loopback until the runtime ends; gives its base URL, such as `http://127.0.0.1:41234`.
///
/// # Errors
/// No port is free.
pub async fn serve(network: Network, instances: Vec<Instance>) -> Result<String, CloudError> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listener = tokio::net::TcpListener::bind(address).await.map_err(CloudError)?;
    let base = format!("http://{}", listener.local_addr().map_err(CloudError)?);
    let instances = instances.into_iter().map(|instance| (instance.machine.name, instance)).collect();
    let cloud = Cloud { network, base: base.clone(), instances, operations: Operations::default() };
    let zone = "/compute/v1/projects/{project}/zones/{zone}";
    let router = axum::Router::new()
        .route(&format!("{zone}/instances/{{name}}"), get(instance))
        .route(&format!("{zone}/instances/{{name}}/{{verb}}"), post(change))
        .route(&format!("{zone}/operations/{{name}}"), get(operation))
        .route(&format!("{zone}/operations/{{name}}/wait"), post(wait))
        .with_state(Arc::new(cloud));
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "the stand-in for the cloud ended");
        }
    });
    Ok(base)
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

impl Cloud {
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
    fn describe(&self, instance: &Instance) -> Value {
        let Instance { machine, button } = instance;
        let under_way = self.operations.under_way(machine.name);
        let status = match (under_way, button.power().on) {
            (Some(Kind::Stop), _) => "STOPPING",
            (Some(Kind::Start), false) => "STAGING",
            // A reset is no change of state to the cloud: the instance is running, whatever its system is doing.
            (Some(Kind::Reset), _) | (_, true) => "RUNNING",
            (None, false) => "TERMINATED",
        };
        json!({
            "kind": "compute#instance",
            "id": (1_000_000_000_000_u64 + u64::from(machine.octet)).to_string(),
            "name": machine.name,
            "zone": self.zone_url(machine.zone),
            "selfLink": self.instance_url(machine),
            "status": status,
            "networkInterfaces": [{
                "kind": "compute#networkInterface",
                "name": "nic0",
                "networkIP": self.network.address(machine.octet).to_string(),
            }],
        })
    }
}

async fn instance(
    State(cloud): State<Arc<Cloud>>,
    Path((project, zone, name)): Path<(String, String, String)>,
) -> Result<Json<Value>, Refusal> {
    Ok(Json(cloud.describe(cloud.instance(&project, &zone, &name)?)))
}

#[derive(Debug, Deserialize)]
struct Asked {
    #[serde(rename = "requestId")]
    request_id: Option<String>,
}

async fn change(
    State(cloud): State<Arc<Cloud>>,
    Path((project, zone, name, verb)): Path<(String, String, String, String)>,
    Query(asked): Query<Asked>,
) -> Result<Json<Value>, Refusal> {
    let instance = cloud.instance(&project, &zone, &name)?.clone();
    let kind = match verb.as_str() {
        "reset" => Kind::Reset,
        "start" => Kind::Start,
        "stop" => Kind::Stop,
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
        let (cloud, name) = (cloud.clone(), operation.name.clone());
        tokio::spawn(async move {
            let order = match kind {
                Kind::Reset => Order::Reset,
                Kind::Start => Order::Start,
                Kind::Stop => Order::Stop,
            };
            let outcome = instance.button.press(order).await.map_err(|error| crate::said(&error));
            cloud.operations.finish(&name, outcome, Timestamp::now());
        });
    }
    Ok(Json(operation.describe(&cloud.zone_url(instance.machine.zone))))
}

async fn operation(
    State(cloud): State<Arc<Cloud>>,
    Path((project, zone, name)): Path<(String, String, String)>,
) -> Result<Json<Value>, Refusal> {
    let found = cloud.operations.get(&name).filter(|found| project == PROJECT && found.zone == zone);
    match found {
        Some(found) => Ok(Json(found.describe(&cloud.zone_url(&zone)))),
        None => Err(not_found(format!("projects/{project}/zones/{zone}/operations/{name}"))),
    }
}

async fn wait(
    State(cloud): State<Arc<Cloud>>,
    Path((project, zone, name)): Path<(String, String, String)>,
) -> Result<Json<Value>, Refusal> {
    // One that is not finished in time is described as it is; the caller waits again.
    let _ = tokio::time::timeout(WAIT_LIMIT, cloud.operations.finished(&name)).await;
    operation(State(cloud), Path((project, zone, name))).await
}
