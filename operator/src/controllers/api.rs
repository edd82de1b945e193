//! How the API is called: with a time limit for each call, and once.
//!
//! kube would ask again by itself, up to fifteen times and for minutes, where the API says 429, 503 or 504. What was to be
//! created may be there by then, and what was decided may be long out of date; so a call that fails fails, and the pass
//! after it decides anew. Only watches are asked again, by their own back-off.

use kube::{Client, Config};
use std::time::Duration;

/// To get a connection to the API server.
const CONNECT: Duration = Duration::from_secs(5);
/// How long the API server may be silent in a call. Its own limit for a request is 60 s; a step that waits so long is not
/// worth doing any more, and a webhook in between has 10 s by default.
const ANSWER: Duration = Duration::from_secs(12);
/// How long a watch may be silent: kube asks the server to end one after 290 s, and bookmarks come about every minute.
const WATCH: Duration = Duration::from_secs(320);

/// The two ways to the API.
#[derive(Clone)]
pub struct Clients {
    /// For calls.
    pub(super) calls: Client,
    /// For watches, which are silent for long.
    pub(super) watches: Client,
}

/// The API cannot be called at all.
#[derive(Debug, thiserror::Error)]
pub enum CannotConnect {
    /// Nobody says where it is.
    #[error("cannot find out where the Kubernetes API is")]
    Config(#[from] kube::config::InferConfigError),
    /// What it takes to call it is no good.
    #[error("cannot prepare calls to the Kubernetes API")]
    Client(#[from] kube::Error),
}

impl Clients {
    /// These.
    pub fn of(calls: Client, watches: Client) -> Self {
        Self { calls, watches }
    }

    /// As `kubectl` would find the API, or a pod.
    ///
    /// # Errors
    /// [`CannotConnect`].
    pub async fn connect() -> Result<Self, CannotConnect> {
        let found = Config::infer().await?;
        Ok(Self {
            calls: Client::try_from(limited(found.clone(), ANSWER))?,
            watches: Client::try_from(limited(found, WATCH))?,
        })
    }
}

fn limited(mut config: Config, silent: Duration) -> Config {
    config.connect_timeout = Some(CONNECT);
    config.write_timeout = Some(ANSWER);
    config.read_timeout = Some(silent);
    // Else the time that a connection was idle in the pool would count.
    config.reset_reader_on_write = true;
    config.default_retry = false;
    config
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::*;
    use binder_crds::BinderAction;
    use kube::Api;
    use kube::api::{ListParams, PostParams};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// A server that answers each request so, or never; it counts what it was asked.
    async fn server(answer: Option<&'static str>) -> (Client, Arc<AtomicUsize>) {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let count = Arc::clone(&count);
                tokio::spawn(async move {
                    let mut buffer = [0; 4096];
                    while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {
                        count.fetch_add(1, Ordering::SeqCst);
                        match answer {
                            Some(answer) => stream.write_all(answer.as_bytes()).await.unwrap(),
                            None => std::future::pending().await,
                        }
                    }
                });
            }
        });
        let config = Config::new(format!("http://{at}").parse().unwrap());
        (Client::try_from(limited(config, Duration::from_millis(300))).unwrap(), asked)
    }

    #[tokio::test]
    async fn a_call_to_a_server_that_never_answers_ends() {
        let (client, _) = server(None).await;
        let api: Api<BinderAction> = Api::namespaced(client, "binder");
        let listed = tokio::time::timeout(Duration::from_secs(5), api.list(&ListParams::default())).await;
        assert!(listed.is_ok_and(|listed| listed.is_err()));
    }

    #[tokio::test]
    async fn what_the_api_is_too_busy_for_is_not_asked_again_silently() {
        let busy = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";
        let (client, asked) = server(Some(busy)).await;
        let api: Api<binder_crds::BinderFleet> = Api::namespaced(client, "binder");
        assert!(api.list(&ListParams::default()).await.is_err());
        let fleet = binder_crds::BinderFleet::new("binder", binder_crds::BinderFleetSpec::default());
        let created = api.create(&PostParams::default(), &fleet).await;
        assert!(created.is_err());
        assert!(asked.load(Ordering::SeqCst) <= 3, "one request may come in two pieces: {asked:?}");
    }
}
