//! Deleting stale routes of Binder's proxy, one by one. Right before each deletion the cluster is asked once more whether
//! that app's namespace is gone: a route whose app is there is left alone, whatever was seen before.

use super::Sent;
use crate::binder::proxy::{ProxyApi, namespace_is_gone};
use crate::hosts::{HttpPath, LocalHttp, LocalHttpChange, Method, Session};
use binder_core::gate::Permit;
use binder_core::seen::routes::AppId;
use std::time::{Duration, Instant};

/// The whole step; what is not done by then is done by the next one.
const LIMIT: Duration = Duration::from_secs(40);

/// Deletes exactly these routes.
pub(super) async fn delete(session: &Session, permit: Permit, routes: &[AppId], port: u16) -> Sent {
    let proxy = match ProxyApi::find(session, port).await {
        Ok(proxy) => proxy,
        Err(why) => return Sent { may_have_run: false, said: why },
    };
    let mut changes = match session.http_changes(permit) {
        Ok(changes) => changes,
        Err(wrong) => return Sent { may_have_run: false, said: wrong.to_string() },
    };
    let began = Instant::now();
    let (mut deleted, mut gone, mut kept, mut trouble) = (0u32, 0u32, 0u32, None);
    for id in routes {
        if began.elapsed() > LIMIT {
            trouble = Some(format!("stopped after {} s", LIMIT.as_secs()));
            break;
        }
        match namespace_is_gone(session, port, id).await {
            Ok(true) => {}
            Ok(false) => {
                kept += 1;
                continue;
            }
            Err(why) => {
                trouble = Some(why);
                break;
            }
        }
        // Three plain words and 32 digits: always a path.
        let Ok(path) = HttpPath::of(["api", "routes", "user", id.as_str()]) else { continue };
        let to = LocalHttp { host: proxy.host.clone(), port: proxy.port, path, headers: vec![proxy.proof()] };
        match changes.change(LocalHttpChange { to, method: Method::Delete, json: None }).await {
            Ok(answer) if answer.status == 404 => gone += 1,
            Ok(answer) if (200..300).contains(&answer.status) => deleted += 1,
            Ok(answer) => {
                trouble = Some(format!("the proxy answers with HTTP {}", answer.status));
                break;
            }
            Err(error) => {
                trouble = Some(error.to_string());
                break;
            }
        }
    }
    let trouble = trouble.map(|why| format!("; {why}")).unwrap_or_default();
    Sent {
        may_have_run: true,
        said: format!(
            "{deleted} deleted, {gone} gone already, {kept} left alone since their app is there again{trouble}"
        ),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::*;
    use axum::body::Bytes;
    use axum::http::{HeaderMap, Method, StatusCode, Uri};
    use std::collections::BTreeSet;
    use std::sync::{Arc, Mutex};

    const TOKEN: &str = "t0ken-of-the-proxy";

    /// A cluster behind a kubectl proxy and Binder's proxy, on one port of this computer.
    #[derive(Default)]
    struct World {
        namespaces: BTreeSet<String>,
        routes: BTreeSet<String>,
        /// What the cluster answers of a namespace that is not there, if not its "not found".
        instead: Option<(u16, &'static str)>,
        deleted: Vec<String>,
        untold: usize,
    }

    async fn serve(world: Arc<Mutex<World>>) -> u16 {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let answer = move |method: Method, uri: Uri, headers: HeaderMap, _: Bytes| {
            let world = world.clone();
            async move {
                let mut world = world.lock().unwrap();
                let text = |status: u16, body: String| (StatusCode::from_u16(status).unwrap(), body);
                let proven = headers.get("authorization").is_some_and(|value| *value == format!("token {TOKEN}"));
                let path = uri.path();
                if path == "/api/v1/namespaces/default/services/proxy-registration" {
                    let service = serde_json::json!({"spec": {"ports": [{"port": port}]},
                        "status": {"loadBalancer": {"ingress": [{"ip": "127.0.0.1"}]}}});
                    return text(200, service.to_string());
                }
                if path == "/api/v1/namespaces/default/pods/proxy-server" {
                    let pod = serde_json::json!({"spec": {"containers": [
                        {"env": [{"name": "CONFIGPROXY_AUTH_TOKEN", "value": TOKEN}]}]}});
                    return text(200, pod.to_string());
                }
                if let Some(name) = path.strip_prefix("/api/v1/namespaces/") {
                    return match (world.namespaces.contains(name), world.instead) {
                        (true, _) => text(200, "{}".to_owned()),
                        (false, Some((status, body))) => text(status, body.to_owned()),
                        (false, None) => text(404, r#"{"kind":"Status","reason":"NotFound"}"#.to_owned()),
                    };
                }
                match path.strip_prefix("/api/routes/user/") {
                    Some(_) if !proven => text(403, String::new()),
                    Some(id) if method == Method::DELETE => {
                        world.deleted.push(id.to_owned());
                        text(if world.routes.remove(id) { 204 } else { 404 }, String::new())
                    }
                    _ => {
                        world.untold += 1;
                        text(500, String::new())
                    }
                }
            }
        };
        tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(answer)).await });
        port
    }

    fn id(number: usize) -> AppId {
        AppId::try_from(format!("{number:032x}")).unwrap()
    }

    async fn deleting(world: World, ids: &[AppId], host: &str) -> (Sent, World) {
        let world = Arc::new(Mutex::new(world));
        let port = serve(world.clone()).await;
        let (_machine, session) = crate::hosts::tests::session().await;
        let sent = delete(&session, crate::hosts::tests::permit(host, "web-1"), ids, port).await;
        let after = std::mem::take(&mut *world.lock().unwrap());
        assert_eq!(after.untold, 0, "something else was asked for");
        assert!(!format!("{sent:?}").contains(TOKEN));
        (sent, after)
    }

    fn three() -> World {
        World { routes: (1..=3).map(|number| id(number).as_str().to_owned()).collect(), ..World::default() }
    }

    #[tokio::test]
    async fn exactly_the_named_routes_whose_namespaces_are_gone_are_deleted() {
        let mut world = three();
        // The second one's namespace is there again since it was looked at.
        world.namespaces.insert(id(2).as_str().to_owned());
        let (sent, after) = deleting(world, &[id(1), id(2), id(9)], "uid-1").await;
        assert_eq!(after.deleted, [id(1).as_str(), id(9).as_str()]);
        assert_eq!(after.routes, BTreeSet::from([id(2).as_str().to_owned(), id(3).as_str().to_owned()]));
        assert_eq!(sent.said, "1 deleted, 1 gone already, 1 left alone since their app is there again");
    }

    #[tokio::test]
    async fn what_is_not_the_clusters_own_not_found_deletes_nothing() {
        for instead in
            [(500, "{}"), (404, "no such page"), (404, r#"{"kind":"Status","reason":"Forbidden"}"#), (403, "")]
        {
            let world = World { instead: Some(instead), ..three() };
            let (_, after) = deleting(world, &[id(1), id(2), id(3)], "uid-1").await;
            assert!(after.deleted.is_empty() && after.routes.len() == 3, "{instead:?}");
        }
    }

    #[tokio::test]
    async fn a_permit_for_another_host_deletes_nothing() {
        let (sent, after) = deleting(three(), &[id(1)], "uid-2").await;
        assert!(!sent.may_have_run && after.deleted.is_empty());
    }
}
