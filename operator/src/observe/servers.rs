//! What Binder's servers on a host say: whether they take the API key, and what `/health/` tells. Each is asked on the port that
//! the settings of its host say, so they are asked once those are read.

use super::FleetContext;
use crate::binder::ask::{ANSWERS_WITHIN, To, get};
use crate::hosts::{HttpAnswer, Session};
use binder_core::catalogue::{self, EXAMPLE, KeyRoute};
use binder_core::facets::services;
use binder_core::seen::servers::{self, Key, Servers};
use binder_core::seen::settings::Settings;
use binder_core::seen::{Fact, Reason, Unknown};
use binder_crds::Desired;
use binder_crds::desired::Server;
use futures::future::join_all;
use http::header::AUTHORIZATION;
use secrecy::SecretString;

/// Asks all of them at once. `settings` are those of this host, as this look read them.
pub(super) async fn ask(
    session: &Session,
    desired: &Desired,
    around: &FleetContext,
    settings: &Fact<Settings>,
) -> Fact<Servers> {
    let routes: Vec<(Server, KeyRoute)> =
        desired.servers.iter().filter_map(|server| Some((*server, catalogue::key_route(*server)?))).collect();
    if routes.is_empty() {
        return Fact::NotAsked;
    }
    let key = match &around.api_key {
        Some(Ok(key)) => key,
        Some(Err(problem)) => {
            let message = format!("the servers cannot be asked without {problem}");
            return Fact::Unknown(Unknown { reason: Reason::KeyUnknown, message });
        }
        None => return Fact::NotAsked,
    };
    let own = join_all(routes.into_iter().map(|(server, route)| async move {
        let answer = match services::port(server, settings) {
            Ok(port) => question(session, "127.0.0.1", port, route.path, route.slash, key).await,
            Err(blind) => Err(format!("its port is not known: {}", blind.message)),
        };
        (server, answer)
    }));
    let health = desired.servers.contains(&Server::Health);
    let build = async {
        let server = around.build_server.as_ref().filter(|_| health)?;
        // What the health checker asks: it is there, and its database as well.
        let asked = question(session, &server.address, server.port, &["builds", EXAMPLE], false, key).await;
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
    Fact::Seen(seen)
}

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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::*;
    use crate::hosts::tests::session;
    use crate::observe::BuildServer;
    use binder_core::seen::{Answer, settings};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    /// A server that answers every question with 200, on a port of this computer. Gives the questions that it got.
    async fn server() -> (u16, UnboundedReceiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sender, questions) = unbounded_channel();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = stream.read_u8().await else { break };
                    head.push(byte);
                }
                let head = String::from_utf8_lossy(&head).into_owned();
                let _ = sender.send(head.lines().next().unwrap_or_default().to_owned());
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]").await;
            }
        });
        (port, questions)
    }

    fn said(text: &str) -> Fact<Settings> {
        Fact::Seen(settings::read(Some(&Answer::Said { bytes: text.as_bytes().to_vec(), exit: 0 })).unwrap())
    }

    #[tokio::test]
    async fn each_server_is_asked_on_the_port_that_its_settings_say() {
        let (_machine, session) = session().await;
        let ((build, mut of_build), (health, mut of_health)) = (server().await, server().await);
        let desired = Desired { servers: vec![Server::Build, Server::Health], ..Desired::default() };
        let around = FleetContext {
            api_key: Some(Ok("k".to_owned().into())),
            build_server: Some(BuildServer { address: "127.0.0.1".to_owned(), port: build }),
            ..FleetContext::default()
        };
        let settings =
            said(&format!("conf build {{\"port\": {build}}}\nconf health {{\"port\": \"{health}\"}}\nend\n"));
        let seen = ask(&session, &desired, &around, &settings).await;
        let Fact::Seen(seen) = seen else { panic!("{seen:?}") };
        assert!(seen.keys.values().all(|key| *key == Key::Accepted), "{seen:?}");
        assert_eq!(seen.health, Some(Ok(servers::Health::default())));
        assert!(seen.works.contains("build"));
        let mut asked = [of_build.recv().await.unwrap(), of_build.recv().await.unwrap()];
        asked.sort();
        assert!(asked[0].contains("/builds/") && asked[1].contains("/templates/"), "{asked:?}");
        assert!(of_health.recv().await.unwrap().contains("/health/"));
    }

    #[tokio::test]
    async fn the_servers_are_asked_again_and_the_rest_of_the_look_stays() {
        let (_machine, session) = session().await;
        let (port, mut questions) = server().await;
        let desired = Desired { servers: vec![Server::Build], ..Desired::default() };
        let mut seen = binder_core::seen::Observation::nothing(jiff::Timestamp::UNIX_EPOCH);
        seen.settings = said(&format!("conf build {{\"port\": {port}}}\nend\n"));
        let before = seen.clone();
        let around = FleetContext { api_key: Some(Ok("k".to_owned().into())), ..FleetContext::default() };
        crate::observe::Eyes::ask_servers(&session, &desired, &around, &mut seen).await;
        assert!(matches!(&seen.servers, Fact::Seen(servers) if servers.keys["build"] == Key::Accepted));
        assert!(questions.recv().await.unwrap().contains("/templates/"));
        assert_eq!(binder_core::seen::Observation { servers: Fact::NotAsked, ..seen }, before);
    }

    #[tokio::test]
    async fn where_settings_cannot_be_read_nobody_is_asked() {
        let (_machine, session) = session().await;
        let desired = Desired { servers: vec![Server::Build, Server::Health], ..Desired::default() };
        let around = FleetContext { api_key: Some(Ok("k".to_owned().into())), ..FleetContext::default() };
        let why = Unknown { reason: Reason::ProbeFailed, message: "Binder's settings: head failed".to_owned() };
        let Fact::Seen(seen) = ask(&session, &desired, &around, &Fact::Unknown(why)).await else { panic!() };
        let silent = |key: &Key| matches!(key, Key::Silent(why) if why.contains("head failed"));
        assert!(seen.keys.len() == 2 && seen.keys.values().all(silent), "{seen:?}");
        assert!(matches!(&seen.health, Some(Err(why)) if why.contains("head failed")), "{seen:?}");
    }
}
