//! `/metrics`, `/healthz` and `/readyz`.

use crate::heartbeat::Heartbeat;
use crate::metrics::Metrics;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// What the endpoints tell of.
#[derive(Clone, Debug)]
pub struct Served {
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// Whether the first lists of objects have been read.
    pub ready: Arc<AtomicBool>,
    /// Whether the controllers are at work.
    pub heartbeat: Arc<Heartbeat>,
}

/// The endpoints could not be served.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve metrics and probes on `{address}`")]
pub struct CannotServe {
    address: SocketAddr,
    #[source]
    source: std::io::Error,
}

/// Serves until told to stop.
///
/// # Errors
/// [`CannotServe`] when the address cannot be had.
pub async fn run(address: SocketAddr, served: Served, stop: CancellationToken) -> Result<(), CannotServe> {
    let failed = |source| CannotServe { address, source };
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthy))
        .route("/readyz", get(ready))
        .with_state(served);
    let listener = tokio::net::TcpListener::bind(address).await.map_err(failed)?;
    axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await.map_err(failed)
}

async fn metrics(State(served): State<Served>) -> impl IntoResponse {
    match served.metrics.text() {
        Ok(text) => {
            let kind = [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")];
            (StatusCode::OK, kind, text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Alive as long as both controllers are at work: with one that stands still, no host is looked at any more.
async fn healthy(State(served): State<Served>) -> impl IntoResponse {
    let stale = served.heartbeat.stale(Instant::now());
    if stale.is_empty() {
        return (StatusCode::OK, "ok".to_owned());
    }
    let told: Vec<String> = stale
        .iter()
        .map(|(which, age)| format!("the {} controller has done nothing for {} s", which.as_str(), age.as_secs()))
        .collect();
    (StatusCode::SERVICE_UNAVAILABLE, told.join("; "))
}

async fn ready(State(served): State<Served>) -> impl IntoResponse {
    if served.ready.load(Ordering::Relaxed) {
        (StatusCode::OK, "ok")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the first lists of objects have not been read yet")
    }
}
