//! The Kubernetes API that a host serves, asked in two ways: as the runbook's `kubectl get nodes` asks, through the kubectl
//! proxy of another host of the fleet, and on the machine's own loopback address, over its own connection.

use super::{Eyes, FleetContext};
use crate::binder::ask::{NoAnswer, To, get};
use crate::hosts::{HttpAnswer, HttpError, HttpPath, LocalHttp, Reach, Session};
use binder_core::seen::kubernetes::{self, Answers, Api, Identified, Namespaces, Nodes, Proxied};
use binder_core::seen::{Fact, proxy};
use binder_crds::Desired;
use binder_crds::desired::KubernetesApi;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long it may take: longer than what is called slow.
const ANSWERS_WITHIN: Duration = Duration::from_secs(8);

/// The way to a cluster: a host with a kubectl proxy, and its open connection.
#[derive(Clone, Debug)]
pub struct Way {
    /// The host's name.
    pub host: String,
    /// Its connection.
    pub session: Arc<dyn Eyes>,
    /// The kubectl proxy's port.
    pub port: u16,
    /// Which cluster is described behind it.
    pub described: Option<String>,
    /// Which cluster it told of when it last told.
    pub told: Option<String>,
}

impl Way {
    /// The cluster that it leads to, as it told last, or as is described.
    pub fn leads_to(&self) -> Option<&str> {
        self.told.as_deref().or(self.described.as_deref())
    }
}

/// Asks, where an API is described: over the machine's own connection, and on the way to its cluster.
pub(super) async fn ask(session: &Session, desired: &Desired, around: &FleetContext) -> Fact<Api> {
    let Some(spec) = &desired.kubernetes_api else { return Fact::NotAsked };
    let (own, through) = tokio::join!(own(session, spec), async {
        match &around.cluster {
            Some(way) => Some(way.session.cluster(way, spec).await),
            None => None,
        }
    });
    let nobody = "no host of the fleet with a kubectlProxy can be asked, and the API is seen through one";
    let (proxied, nodes, namespaces) = match through {
        Some((proxied, nodes, namespaces)) => (Ok(proxied), nodes, namespaces),
        None => (Err(nobody.to_owned()), Err(nobody.to_owned()), None),
    };
    Fact::Seen(Api { own_port: spec.own_port(), own, proxied, nodes, namespaces })
}

/// How the API answers on the machine's own loopback address.
async fn own(session: &Session, spec: &KubernetesApi) -> Answers {
    let Ok(path) = HttpPath::of(["healthz"]) else { return Answers::Unclear("it has no path".to_owned()) };
    let request = LocalHttp { host: "127.0.0.1".to_owned(), port: spec.own_port(), path, headers: Vec::new() };
    let began = Instant::now();
    let asked =
        async { if spec.plain_http { session.http(request).await } else { session.https_unproven(request).await } };
    match tokio::time::timeout(ANSWERS_WITHIN, asked).await {
        Err(_) | Ok(Err(HttpError::TimedOut { .. })) => Answers::Silent,
        Ok(Ok(HttpAnswer { status: 200, .. })) => Answers::Well(began.elapsed()),
        Ok(Ok(HttpAnswer { status, .. })) => Answers::Status(status),
        Ok(Err(HttpError::NotReached { reach: Reach::TimedOut { .. }, .. })) => Answers::Silent,
        Ok(Err(HttpError::NotReached { reach: Reach::Refused, .. })) => Answers::Closed,
        Ok(Err(HttpError::NotReached { reach, .. })) => Answers::Unclear(reach.to_string()),
        Ok(Err(_)) => {
            let what = if spec.plain_http { "HTTP" } else { "HTTP in TLS (is it kubernetesApi.plainHttp?)" };
            Answers::Unclear(format!("what listens there does not speak {what}"))
        }
    }
}

/// What comes through a kubectl proxy: how the API answers, its nodes, Binder's namespaces if they could be listed.
pub type Through = (Proxied, Result<Nodes, String>, Option<Namespaces>);

/// What comes through a kubectl proxy. `session` is the connection to its host.
pub(super) async fn through(session: &Session, way: &Way, spec: &KubernetesApi) -> Through {
    let question = |path: &'static [&'static str]| {
        let to = To { host: "127.0.0.1", port: way.port, path, slash: false, query: &[], secret: None };
        get(session, to, ANSWERS_WITHIN)
    };
    let healthz = || async {
        let began = Instant::now();
        (question(&["healthz"]).await, began.elapsed())
    };
    let health = async {
        match healthz().await {
            (Err(NoAnswer::TimedOut(_) | NoAnswer::Other(_)), _) => again(session, way, healthz()).await,
            answered => Ok(answered),
        }
    };
    let labelled = To {
        host: "127.0.0.1",
        port: way.port,
        path: &["api", "v1", "namespaces"],
        slash: false,
        query: &[("labelSelector", "binder=true")],
        secret: None,
    };
    let (health, nodes, namespaces, told) = tokio::join!(
        health,
        question(&["api", "v1", "nodes"]),
        get(session, labelled, ANSWERS_WITHIN),
        question(&["api", "v1", "namespaces", "kube-system"])
    );
    let told = told.ok().filter(|answer| answer.status == 200).and_then(|answer| proxy::identity(&answer.body));
    let meant = spec.cluster_id.as_ref().map(|id| id.0.as_str()).or(way.described.as_deref());
    let cluster = kubernetes::identify(meant, told.as_deref(), way.told.as_deref());
    let answer = match health {
        Err(unknown) => Answers::Unclear(unknown),
        // Nobody serves the proxy's port: that says nothing about what would be behind it.
        Ok((Err(NoAnswer::NotReached), _)) => Answers::Closed,
        Ok((Err(NoAnswer::TimedOut(_)), _)) => Answers::Silent,
        Ok((Err(NoAnswer::Other(why)), _)) => Answers::Unclear(format!("/healthz through {}: {why}", way.host)),
        Ok((Ok(HttpAnswer { status: 200, .. }), after)) => Answers::Well(after),
        Ok((Ok(HttpAnswer { status, .. }), _)) => Answers::Status(status),
    };
    let nodes = match nodes {
        // Another cluster's nodes are nobody's business here.
        _ if matches!(cluster, Identified::Another(_)) => Err("it leads to another cluster".to_owned()),
        Ok(HttpAnswer { status: 200, body }) => kubernetes::nodes(&body),
        Ok(HttpAnswer { status, .. }) => Err(format!("it answers with HTTP {status}")),
        Err(why) => Err(why.to_string()),
    };
    let namespaces = namespaces.ok().filter(|answer| answer.status == 200);
    let namespaces = namespaces.and_then(|answer| kubernetes::namespaces(&answer.body));
    (Proxied { via: way.host.clone(), answer, cluster }, nodes, namespaces)
}

/// Asks once more what had no answer, if the machine in between is alive: one that hangs carries no answer of anybody's, and
/// says nothing about what is behind it. Its life is looked at before and after the question, so that one which came back in the
/// meantime is not taken for one that was there all along.
async fn again<A>(session: &Session, way: &Way, question: impl Future<Output = A>) -> Result<A, String> {
    let carries = async || match session.can_reach("127.0.0.1", way.port).await {
        Reach::Open => Ok(()),
        Reach::Refused => Err(format!("the kubectl proxy on {} does not answer", way.host)),
        other => Err(format!("{} does not carry the question: {other}", way.host)),
    };
    carries().await?;
    let answer = question.await;
    carries().await?;
    Ok(answer)
}
