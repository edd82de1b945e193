//! Waiting for a control plane to work, rather than for it to run.
//!
//! A controller manager has nothing to ask, so its controllers are made to show their work: a config map that one of
//! them keeps in every namespace is deleted, and has to come back. Knows nothing of how the processes are started.

use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, ServiceAccount};
use kube::api::{DeleteParams, ListParams};
use kube::{Api, Client};
use tokio::time::{Instant, sleep};

use crate::process::{self, Running};

/// Between two looks. A start takes seconds, a look milliseconds.
const LOOK: Duration = Duration::from_millis(100);

/// What a controller keeps in every namespace.
const ROOT_CA: &str = "kube-root-ca.crt";

/// Something does not get ready.
#[derive(Debug, thiserror::Error)]
pub enum NotReady {
    /// It had its time.
    #[error("not ready after {limit:?}: {waiting_for}: {last}{}", log.as_deref().unwrap_or_default())]
    TimedOut {
        /// How long was waited in all.
        limit: Duration,
        /// What did not come.
        waiting_for: String,
        /// What was seen last.
        last: String,
        /// The end of the log of what did not come; none when there is no such log.
        log: Option<String>,
    },
    /// A process that it needs is gone.
    #[error("{name} ended; the end of its log:\n{said}")]
    Ended {
        /// The process.
        name: String,
        /// The end of its log.
        said: String,
    },
}

/// The log of each process, by its name.
type Logs = [(String, PathBuf)];

fn log_of<'a>(logs: &'a Logs, name: &str) -> Option<&'a PathBuf> {
    logs.iter().find(|(process, _)| process == name).map(|(_, log)| log)
}

/// A time to be ready in, and what to say when it is over.
struct Wait<'a> {
    begin: Instant,
    limit: Duration,
    running: &'a [Running],
}

impl<'a> Wait<'a> {
    fn new(limit: Duration, running: &'a [Running]) -> Self {
        Self { begin: Instant::now(), limit, running }
    }

    async fn api(&self, client: &Client, logs: &Logs) -> Result<(), NotReady> {
        self.until("the API server", log_of(logs, super::API_SERVER), async || {
            let request = http::Request::get("/readyz").body(Vec::new()).map_err(|error| error.to_string())?;
            client.request_text(request).await.map(drop).map_err(|error| crate::said(&error))
        })
        .await
    }

    /// Looks again and again until `look` gives something. `log` is whose log belongs into the error.
    async fn until<T>(
        &self,
        waiting_for: &str,
        log: Option<&PathBuf>,
        mut look: impl AsyncFnMut() -> Result<T, String>,
    ) -> Result<T, NotReady> {
        loop {
            let last = match look().await {
                Ok(found) => return Ok(found),
                Err(last) => last,
            };
            if let Some(ended) = self.running.iter().find(|process| !process.is_alive()) {
                return Err(NotReady::Ended { name: ended.name.clone(), said: ended.said() });
            }
            if self.begin.elapsed() >= self.limit {
                let log = log.map(|path| format!("; the end of `{}`:\n{}", path.display(), process::tail(path)));
                return Err(NotReady::TimedOut { limit: self.limit, waiting_for: waiting_for.to_owned(), last, log });
            }
            sleep(LOOK).await;
        }
    }
}

/// The API server says that it is ready.
pub(super) async fn api(client: &Client, logs: &Logs, limit: Duration, running: &[Running]) -> Result<(), NotReady> {
    Wait::new(limit, running).api(client, logs).await
}

/// The API server says that it is ready, and the controllers do their work.
pub(super) async fn control_plane(
    client: &Client,
    logs: &Logs,
    limit: Duration,
    running: &[Running],
) -> Result<(), NotReady> {
    let wait = Wait::new(limit, running);
    wait.api(client, logs).await?;

    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "default");
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let controllers = log_of(logs, super::CONTROLLER_MANAGER);
    wait.until("the service account controller", controllers, async || {
        accounts.get("default").await.map(drop).map_err(|error| crate::said(&error))
    })
    .await?;
    let published = async || maps.get(ROOT_CA).await.map_err(|error| crate::said(&error));
    let before = wait.until("the root certificate controller", controllers, published).await?;
    wait.until("the root certificate controller", controllers, async || {
        let params = DeleteParams::default();
        match maps.delete(ROOT_CA, &params).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(crate::said(&error)),
        }
    })
    .await?;
    wait.until("the root certificate controller", controllers, async || {
        let after = published().await?;
        if after.metadata.uid == before.metadata.uid {
            return Err(format!("{ROOT_CA} is still the old one"));
        }
        Ok(())
    })
    .await
}

/// This many nodes are Ready.
pub(super) async fn nodes(client: &Client, count: usize, limit: Duration) -> Result<(), NotReady> {
    let nodes: Api<Node> = Api::all(client.clone());
    let wait = Wait::new(limit, &[]);
    wait.until("nodes", None, async || {
        let all = nodes.list(&ListParams::default()).await.map_err(|error| crate::said(&error))?;
        let ready = all.iter().filter(|node| is_ready(node)).count();
        if ready < count {
            return Err(format!("{ready} of {count} are Ready"));
        }
        Ok(())
    })
    .await
}

/// The UID of the namespace `kube-system`, which tells a cluster from any other.
pub(super) async fn identity(client: &Client, limit: Duration) -> Result<String, NotReady> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let wait = Wait::new(limit, &[]);
    wait.until("the namespace kube-system", None, async || {
        let system = namespaces.get("kube-system").await.map_err(|error| crate::said(&error))?;
        system.metadata.uid.ok_or_else(|| "it has no UID".to_owned())
    })
    .await
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True"))
}
