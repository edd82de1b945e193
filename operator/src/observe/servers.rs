//! What Binder's servers on a host say: whether they take the API key, and what `/health/` tells.

use super::Around;
use crate::binder::ask::{ANSWERS_WITHIN, To, get};
use crate::hosts::{HttpAnswer, Session};
use binder_core::catalogue::{self, EXAMPLE, KeyRoute};
use binder_core::seen::servers::{self, Key, Servers};
use binder_core::seen::{Blind, Known, Reason};
use binder_crds::Desired;
use binder_crds::desired::Server;
use futures::future::join_all;
use http::header::AUTHORIZATION;
use secrecy::SecretString;

/// Asks all of them at once.
pub(super) async fn ask(session: &Session, desired: &Desired, around: &Around) -> Known<Servers> {
    let routes: Vec<(Server, KeyRoute)> =
        desired.servers.iter().filter_map(|server| Some((*server, catalogue::key_route(*server)?))).collect();
    if routes.is_empty() {
        return Known::NotAsked;
    }
    let key = match &around.api_key {
        Some(Ok(key)) => key,
        Some(Err(problem)) => {
            let message = format!("the servers cannot be asked without {problem}");
            return Known::Unknown(Blind { reason: Reason::KeyUnknown, message });
        }
        None => return Known::NotAsked,
    };
    let own = join_all(routes.into_iter().map(|(server, route)| async move {
        (server, question(session, "127.0.0.1", route.port, route.path, route.slash, key).await)
    }));
    let health = desired.servers.contains(&Server::Health);
    let build = async {
        let host = around.build_server.as_ref().filter(|_| health)?;
        // What the health checker asks: it is there, and its database as well.
        let asked = question(session, host, BUILD_PORT, &["builds", EXAMPLE], false, key).await;
        Some(matches!(asked, Ok(HttpAnswer { status: 200, .. })))
    };
    let (own, build) = tokio::join!(own, build);

    let mut seen = Servers::default();
    if build == Some(true) {
        seen.works.insert("build".to_owned());
    }
    for (server, answer) in own {
        if server == Server::DeployKubernetes && matches!(answer, Ok(HttpAnswer { status: 200, .. })) {
            seen.works.insert("deploy".to_owned());
        }
        if server == Server::Health {
            seen.health = Some(match &answer {
                Ok(HttpAnswer { status: 200, body }) => servers::health(body),
                Ok(HttpAnswer { status, .. }) => Err(format!("it answers with HTTP {status}")),
                Err(why) => Err(why.clone()),
            });
        }
        let key = match answer {
            Ok(HttpAnswer { status: 403, .. }) => Key::Refused,
            Ok(_) => Key::Accepted,
            Err(why) => Key::Silent(why),
        };
        seen.keys.insert(catalogue::server(server).name, key);
    }
    Known::Seen(seen)
}

/// The build server's port.
const BUILD_PORT: u16 = 8082;

async fn question(
    session: &Session,
    host: &str,
    port: u16,
    path: &[&str],
    slash: bool,
    key: &SecretString,
) -> Result<HttpAnswer, String> {
    let to = To { host, port, path, slash, query: &[], secret: Some((AUTHORIZATION, key.clone())) };
    get(session, to, ANSWERS_WITHIN).await.map_err(|why| why.to_string())
}
