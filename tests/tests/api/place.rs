//! Where the tests run: a folder, and a control plane that is started when it is first asked for.
//!
//! Knows how to talk to the API as people do (`kubectl`) and as clients do (HTTP), and not what is said.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use binder_lab::cluster::{Cluster, ClusterError, Config};
use binder_lab::command::{Output, Run};
use binder_lab::files::{self, FileError};
use binder_lab::process::{self, Running};
use binder_lab::said;
use binder_lab::tools::progress::Lines;
use binder_lab::tools::{ToolError, Tools};
use kube::Client;
use libtest_mimic::Failed;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::OnceCell;

/// Until the control plane is ready: seconds on an idle computer, far more on one that also compiles.
const START: Duration = Duration::from_secs(120);

/// Until a definition that was applied is served.
const ESTABLISHED: Duration = Duration::from_secs(30);

/// How long the control plane may take to end by itself.
const END: Duration = Duration::from_secs(5);

/// The namespace that the owner's file names.
pub(crate) const NAMESPACE: &str = "binder";

/// The place cannot be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlaceError {
    /// A folder.
    #[error(transparent)]
    File(#[from] FileError),
    /// The runtime.
    #[error("cannot start the tests' runtime")]
    Runtime(#[source] std::io::Error),
    /// The tools.
    #[error(transparent)]
    Tools(#[from] ToolError),
}

/// Where the tests run.
pub(crate) struct Place {
    runtime: Runtime,
    folder: PathBuf,
    tools: Tools,
    api: OnceCell<Result<Api, String>>,
    helm: OnceCell<Result<PathBuf, String>>,
}

/// A control plane that has our definitions.
pub(crate) struct Api {
    /// A client that may do everything.
    pub client: Client,
    /// What `kubectl apply` said, on both outputs, when the definitions were applied.
    pub applied: String,
    cluster: Cluster,
    kubectl: PathBuf,
    running: Vec<Running>,
}

impl Place {
    /// A place with nothing in it yet.
    pub(crate) fn new() -> Result<Self, PlaceError> {
        let runtime = Runtime::new().map_err(PlaceError::Runtime)?;
        let folder = std::env::temp_dir().join(format!("binder-api-{}", std::process::id()));
        let progress = Lines::new(Duration::from_secs(30), |line: &str| eprintln!("{line}"));
        let tools = Tools::new(Arc::new(progress))?;
        Ok(Self { runtime, folder, tools, api: OnceCell::new(), helm: OnceCell::new() })
    }

    /// Runs a test to its end.
    pub(crate) fn block_on<T>(&self, test: impl Future<Output = T>) -> T {
        self.runtime.block_on(test)
    }

    /// The control plane; started now if it was not. One that could not be started is not tried again.
    pub(crate) async fn api(&self) -> Result<&Api, Failed> {
        let api = self.api.get_or_init(async || self.up().await.map_err(|error| said(error.as_ref()))).await;
        api.as_ref().map_err(|said| Failed::from(format!("there is no control plane: {said}")))
    }

    /// Helm, built now if it was not.
    pub(crate) async fn helm(&self) -> Result<&Path, Failed> {
        let helm = self.helm.get_or_init(async || self.tools.helm().await.map_err(|error| said(&error))).await;
        helm.as_deref().map_err(|said| Failed::from(format!("there is no Helm: {said}")))
    }

    /// A folder of a test's own, empty.
    pub(crate) fn folder(&self, name: &str) -> Result<PathBuf, FileError> {
        let folder = self.folder.join(name);
        files::make_dir(&folder)?;
        Ok(folder)
    }

    async fn up(&self) -> Result<Api, Box<dyn std::error::Error + Send + Sync>> {
        let programs = self.tools.main_control_plane().await?;
        let begin = Instant::now();
        let folder = self.folder("cluster")?;
        let kubectl = programs.kubectl.clone();
        let cluster = Cluster::prepare(Config::main(&folder, programs)?)?;
        let running = cluster.start().await?;
        end_when_interrupted(running.clone(), self.folder.clone());
        match Self::furnish(&cluster, &kubectl, &running).await {
            Ok((client, applied)) => {
                eprintln!("the control plane is ready, with our definitions, after {:.1?}", begin.elapsed());
                Ok(Api { client, applied, cluster, kubectl, running })
            }
            Err(error) => {
                process::end_all(&running, END).await?;
                Err(error)
            }
        }
    }

    async fn furnish(
        cluster: &Cluster,
        kubectl: &Path,
        running: &[Running],
    ) -> Result<(Client, String), Box<dyn std::error::Error + Send + Sync>> {
        cluster.wait_ready(START, running).await?;
        let client = cluster.client().await?;
        let crds = chart().join("crds");
        let run = kubectl_run(kubectl, cluster).args(["apply", "--server-side", "-f"]).args([&crds]);
        let applied = run.output().await?;
        if !applied.ok() {
            return Err(format!("the definitions are refused:\n{}", applied.said()).into());
        }
        let limit = format!("--timeout={}s", ESTABLISHED.as_secs());
        let wait = ["wait", "--for=condition=Established", limit.as_str(), "-f"];
        kubectl_run(kubectl, cluster).args(wait).args([&crds]).succeed().await?;
        kubectl_run(kubectl, cluster).args(["create", "namespace", NAMESPACE]).succeed().await?;
        Ok((client, format!("{}{}", applied.stdout, applied.stderr)))
    }

    /// Ends what was started, and removes the folder unless its logs may be wanted.
    pub(crate) fn down(&self, keep: bool) {
        if let Some(Ok(api)) = self.api.get()
            && let Err(error) = self.block_on(process::end_all(&api.running, END))
        {
            eprintln!("the control plane could not be ended: {error}");
        }
        if keep && self.folder.exists() {
            eprintln!("the control plane's logs are under {}", self.folder.display());
        } else if let Err(error) = files::remove(&self.folder) {
            eprintln!("{error}");
        }
    }
}

impl Drop for Place {
    /// For a way out of `main` that was not foreseen: nothing is left running.
    fn drop(&mut self) {
        if let Some(Ok(api)) = self.api.get() {
            kill(&api.running);
        }
    }
}

impl Api {
    /// Makes an object, or with `dry` has everything checked but not kept; unknown fields are errors, as `kubectl` has
    /// it by default. Gives back what the server made of it.
    pub(crate) async fn create(&self, object: &Value, dry: bool) -> kube::Result<Value> {
        self.send("POST", &collection(object), "application/json", object, dry).await
    }

    /// Merges into an object, or into its `status` subresource.
    pub(crate) async fn merge(&self, object: &Value, subresource: &str, patch: &Value) -> kube::Result<Value> {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let path = format!("{}/{name}{subresource}", collection(object));
        self.send("PATCH", &path, "application/merge-patch+json", patch, false).await
    }

    async fn send(&self, verb: &str, path: &str, kind: &str, body: &Value, dry: bool) -> kube::Result<Value> {
        let dry = if dry { "&dryRun=All" } else { "" };
        let request = http::Request::builder()
            .method(verb)
            .uri(format!("{path}?fieldValidation=Strict{dry}"))
            .header(http::header::CONTENT_TYPE, kind)
            .body(serde_json::to_vec(body).map_err(kube::Error::SerdeError)?)
            .map_err(kube::Error::HttpError)?;
        self.client.request(request).await
    }

    /// Makes a namespace.
    pub(crate) async fn namespace(&self, name: &str, labels: Value) -> kube::Result<()> {
        let metadata = json!({ "name": name, "labels": labels });
        self.create(&json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": metadata }), false).await?;
        Ok(())
    }

    /// `kubectl`, run to its end.
    pub(crate) async fn kubectl<S: AsRef<std::ffi::OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
    ) -> Result<Output, Failed> {
        Ok(kubectl_run(&self.kubectl, &self.cluster).args(arguments).output().await?)
    }

    /// The text of a kubeconfig that acts as a service account, good for an hour. It is a secret.
    pub(crate) async fn kubeconfig_for(&self, namespace: &str, account: &str) -> Result<String, ClusterError> {
        self.cluster.kubeconfig_for_service_account(namespace, account, Duration::from_secs(3600)).await
    }
}

/// The root of the checkout.
pub(crate) fn checkout() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The chart.
pub(crate) fn chart() -> PathBuf {
    checkout().join("charts/binder-operator")
}

fn kubectl_run(kubectl: &Path, cluster: &Cluster) -> Run {
    let kubeconfig = cluster.kubeconfig();
    Run::new(kubectl)
        .args([std::ffi::OsStr::new("--kubeconfig"), kubeconfig.as_os_str()])
        .args([std::ffi::OsStr::new("--cache-dir"), cluster.config().dir.join("kubectl-cache").as_os_str()])
}

/// The path of the collection that an object belongs to.
fn collection(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let version = text(&object["apiVersion"]);
    let root = if version.contains('/') { format!("/apis/{version}") } else { format!("/api/{version}") };
    let namespace = match object["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("/namespaces/{namespace}"),
        None => String::new(),
    };
    let kind = text(&object["kind"]).to_lowercase();
    // As English has it, which is how the API names its resources: `policies`.
    let plural = kind.strip_suffix('y').map_or_else(|| format!("{kind}s"), |stem| format!("{stem}ies"));
    format!("{root}{namespace}/{plural}")
}

/// Ends the control plane when the run is interrupted: it does not get the terminal's signals, and would stay.
fn end_when_interrupted(running: Vec<Running>, folder: PathBuf) {
    tokio::spawn(async move {
        let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
        else {
            return;
        };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        kill(&running);
        if let Err(error) = files::remove(&folder) {
            eprintln!("{error}");
        }
        std::process::exit(130);
    });
}

fn kill(running: &[Running]) {
    for process in running.iter().rev() {
        if let Err(error) = process.kill() {
            eprintln!("{error}");
        }
    }
    // They write into a folder that is removed next. A killed process cannot stay for long.
    let deadline = Instant::now() + END;
    while running.iter().any(Running::is_alive) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
}
