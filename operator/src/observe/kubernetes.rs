//! The Kubernetes API that a host serves, asked as the runbook's `kubectl get nodes` asks: through the kubectl proxy of
//! another host of the fleet.

use super::Around;
use crate::binder::ask::{NoAnswer, To, get};
use crate::hosts::{HttpAnswer, Reach, Session};
use crate::seen::kubernetes::{self, Answers, Api};
use crate::seen::{Blind, Known, Reason};
use binder_crds::Desired;
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
    pub session: Arc<Session>,
    /// The kubectl proxy's port.
    pub port: u16,
}

/// Asks, where an API is described and there is a way to it.
pub(super) async fn ask(desired: &Desired, around: &Around) -> Known<Api> {
    if desired.kubernetes_api.is_none() {
        return Known::NotAsked;
    }
    let blind = |message: String| Known::Unknown(Blind { reason: Reason::NotAnswered, message });
    let Some(way) = &around.cluster else {
        return blind(
            "no host of the fleet with a kubectlProxy can be asked, and the API is seen through one".to_owned(),
        );
    };
    let question = |path: &'static [&'static str]| {
        let to = To { host: "127.0.0.1", port: way.port, path, slash: false, query: &[], secret: None };
        get(&way.session, to, ANSWERS_WITHIN)
    };
    let healthz = || async {
        let began = Instant::now();
        (question(&["healthz"]).await, began.elapsed())
    };
    let health = async {
        match healthz().await {
            (Err(NoAnswer::TimedOut(_) | NoAnswer::Other(_)), _) => again(way, healthz()).await,
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
    let (health, nodes, namespaces) =
        tokio::join!(health, question(&["api", "v1", "nodes"]), get(&way.session, labelled, ANSWERS_WITHIN));
    let answer = match health {
        Err(unknown) => return blind(unknown),
        // Nobody serves the proxy's port: that says nothing about what would be behind it.
        Ok((Err(NoAnswer::NotReached), _)) => {
            return blind(format!("the kubectl proxy on {} does not answer", way.host));
        }
        Ok((Err(why), _)) => Answers::Not(why.to_string()),
        Ok((Ok(HttpAnswer { status: 200, .. }), after)) => Answers::Well(after),
        Ok((Ok(HttpAnswer { status, .. }), _)) => Answers::Status(status),
    };
    let nodes = match nodes {
        Ok(HttpAnswer { status: 200, body }) => kubernetes::nodes(&body),
        Ok(HttpAnswer { status, .. }) => Err(format!("it answers with HTTP {status}")),
        Err(why) => Err(why.to_string()),
    };
    let namespaces = namespaces.ok().filter(|answer| answer.status == 200);
    Known::Seen(Api {
        via: way.host.clone(),
        answer,
        nodes,
        namespaces: namespaces.and_then(|answer| kubernetes::namespaces(&answer.body)),
    })
}

/// Asks once more what had no answer, if the machine in between is alive: one that hangs carries no answer of anybody's, and
/// says nothing about what is behind it. Its life is looked at before and after the question, so that one which came back in the
/// meantime is not taken for one that was there all along.
async fn again<A>(way: &Way, question: impl Future<Output = A>) -> Result<A, String> {
    let carries = async || match way.session.can_reach("127.0.0.1", way.port).await {
        Reach::Open => Ok(()),
        Reach::Refused => Err(format!("the kubectl proxy on {} does not answer", way.host)),
        other => Err(format!("{} does not carry the question: {other}", way.host)),
    };
    carries().await?;
    let answer = question.await;
    carries().await?;
    Ok(answer)
}
