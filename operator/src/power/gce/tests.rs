//! The client against a server that answers as it is told: what a cloud may do that the lab's stand-in does not.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Mutex;

use axum::body::to_bytes;
use axum::extract::Request;
use axum::response::IntoResponse;
use serde_json::json;
use tokio::net::TcpListener;

use super::credentials::tests::key_file;
use super::*;

const BODY: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIGI";
const TOKEN: &str = "ya29.a-token-that-is-nobodys-to-see";

/// What a server that is told what to say was asked: method, path with query, body, token.
type Asked = Arc<Mutex<Vec<(String, String, String, Option<String>)>>>;

/// A cloud that answers by a function of method, path with query, and how often this was asked before.
pub(crate) struct Cloud {
    pub(crate) base: String,
    asked: Asked,
}

impl Cloud {
    pub(crate) async fn that(
        answers: impl Fn(&str, &str, usize) -> (u16, Value) + Clone + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let asked = Asked::default();
        let log = asked.clone();
        let handle = move |request: Request| {
            let (answers, log) = (answers.clone(), log.clone());
            async move {
                let (method, path) = (request.method().to_string(), request.uri().to_string());
                let token = request.headers().get("authorization").map(|value| value.to_str().unwrap().to_owned());
                let body = to_bytes(request.into_body(), 1 << 20).await.unwrap();
                let body = String::from_utf8(body.to_vec()).unwrap();
                let before = {
                    let mut log = log.lock().unwrap();
                    let same = |entry: &&(String, String, String, _)| entry.0 == method && entry.1 == path;
                    let before = log.iter().filter(same).count();
                    log.push((method.clone(), path.clone(), body, token));
                    before
                };
                let (status, body) = match path.as_str() {
                    "/token" => (200, json!({"access_token": TOKEN, "expires_in": 3599, "token_type": "Bearer"})),
                    _ => answers(&method, &path, before),
                };
                (axum::http::StatusCode::from_u16(status).unwrap(), body.to_string()).into_response()
            }
        };
        let router = axum::Router::new().fallback(handle);
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { base, asked }
    }

    fn instance(&self) -> GceInstance {
        instance(&self.base)
    }

    /// A key file that is good for its tokens.
    pub(crate) fn credentials(&self) -> String {
        key_file(&format!("{}/token", self.base)).to_string()
    }

    pub(crate) fn paths(&self) -> Vec<String> {
        self.asked.lock().unwrap().iter().map(|entry| format!("{} {}", entry.0, entry.1)).collect()
    }
}

fn instance(base: &str) -> GceInstance {
    let patience = RetryPolicy { call: Duration::from_millis(500), operation: Duration::from_secs(2) };
    let gce = Gce::with_patience(base.parse().unwrap(), patience);
    gce.instance(&host(), &SecretString::from(key_file(&format!("{base}/token")).to_string())).unwrap()
}

fn host() -> GceHost {
    GceHost {
        project: "binder-testing".into(),
        zone: "us-central1-f".into(),
        instance: "Binder-Web_1".into(),
        ..GceHost::default()
    }
}

fn permit() -> Permit {
    crate::hosts::tests::permit("uid", "services-1")
}

fn key() -> SshKey {
    SshKey::new("andrew", &format!("ssh-ed25519 {BODY}")).unwrap()
}

const ZONE: &str = "/compute/v1/projects/binder-testing/zones/us-central1-f";

#[tokio::test]
async fn a_reset_is_asked_for_once_and_awaited_to_its_end() {
    let cloud = Cloud::that(|_, path, before| match path {
        _ if path.contains("/reset") => (200, json!({"name": "operation-1", "status": "PENDING"})),
        _ if before == 0 => (503, json!({})),
        _ => (200, json!({"name": "operation-1", "status": "DONE"})),
    })
    .await;
    cloud.instance().reset(permit()).await.unwrap();
    let id = request_id(&permit(), "reset");
    let reset = format!("POST {ZONE}/instances/Binder-Web_1/reset?requestId={id}");
    let wait = format!("POST {ZONE}/operations/operation-1/wait");
    assert_eq!(cloud.paths(), ["POST /token".to_owned(), reset, wait.clone(), wait]);
    let asked = cloud.asked.lock().unwrap();
    assert!(asked[0].2.starts_with("grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=ey"));
    assert!(asked[0].3.is_none());
    assert!(asked[1..].iter().all(|entry| entry.3.as_deref() == Some(&format!("Bearer {TOKEN}"))));
}

#[tokio::test]
async fn how_an_operation_failed_is_told_cleaned() {
    let error = json!({"errors": [{"code": "INTERNAL\u{7}_ERROR", "message": "no\n\u{1b}[2Jhost"}]});
    let cloud =
        Cloud::that(move |_, _, _| (200, json!({"name": "operation-1", "status": "DONE", "error": error}))).await;
    let error = cloud.instance().start(permit()).await.unwrap_err();
    assert_eq!((error.retryability(), error.may_have_happened()), (Retryability::Later, true));
    assert_eq!(
        chain(&error),
        "cannot start instance Binder-Web_1 (project binder-testing, zone us-central1-f): \
         the cloud's operation operation-1 failed with INTERNAL_ERROR: no | host"
    );
}

#[tokio::test]
async fn an_operation_without_an_end_or_that_may_not_be_seen_is_not_waited_for_for_ever() {
    let open = json!({"name": "operation-1", "status": "RUNNING"});
    let cloud = Cloud::that({
        let open = open.clone();
        move |_, _, _| (200, open.clone())
    })
    .await;
    let error = cloud.instance().reset(permit()).await.unwrap_err();
    assert!(matches!(error.fault, Fault::OperationOpen { last: None, .. }) && error.may_have_happened(), "{error:?}");

    let cloud = Cloud::that(move |_, path, _| match path.contains("/operations/") {
        true => (403, json!({"error": {"message": "compute.zoneOperations.get is missing"}})),
        false => (200, open.clone()),
    })
    .await;
    let error = cloud.instance().reset(permit()).await.unwrap_err();
    assert_eq!((error.retryability(), error.may_have_happened()), (Retryability::Person, true));
    assert!(chain(&error).contains("compute.zoneOperations.get"), "{}", chain(&error));
}

#[tokio::test]
async fn an_operation_that_is_named_like_a_path_is_none() {
    let cloud = Cloud::that(|_, _, _| (200, json!({"name": "../../instances/x/reset", "status": "RUNNING"}))).await;
    let error = cloud.instance().reset(permit()).await.unwrap_err();
    assert!(matches!(error.fault, Fault::Unreadable { .. }), "{error:?}");
    assert_eq!(cloud.paths().len(), 2);
}

#[tokio::test]
async fn a_token_is_used_again_and_replaced_once_when_it_is_not_accepted() {
    let cloud = Cloud::that(|_, _, before| match before {
        1 => (401, json!({"error": {"message": "Invalid Credentials"}})),
        _ => (200, json!({"status": "RUNNING", "lastStartTimestamp": "2016-06-01T03:04:05.678-07:00"})),
    })
    .await;
    let instance = cloud.instance();
    let seen = instance.state().await.unwrap();
    assert_eq!(seen.state, State::Running);
    assert_eq!(seen.last_start.unwrap().to_string(), "2016-06-01T10:04:05.678Z");
    instance.state().await.unwrap();
    let tokens = cloud.paths().iter().filter(|path| *path == "POST /token").count();
    assert_eq!((tokens, cloud.paths().len()), (2, 5));

    let cloud = Cloud::that(|_, _, _| (401, json!({"error": {"message": "Invalid Credentials"}}))).await;
    let error = cloud.instance().reset(permit()).await.unwrap_err();
    assert_eq!((error.retryability(), error.may_have_happened()), (Retryability::Person, false));
    assert_eq!(cloud.paths().len(), 4);
}

#[tokio::test]
async fn addresses_and_labels_of_an_instance_are_read_and_its_age_by_the_clouds_own_clock() {
    let cloud = Cloud::that(|_, _, _| {
        let nic = json!({
            "networkIP": "10.128.0.7", "ipv6Address": "fd20::7",
            "accessConfigs": [{"natIP": "203.0.113.9"}, {"name": "without"}],
            "ipv6AccessConfigs": [{"externalIpv6": "2001:db8::9"}],
        });
        let labels = json!({"cluster": "binder", "odd": 7});
        let now = Timestamp::now().to_string();
        let interfaces = json!([nic, {"networkIP": "no address"}]);
        (
            200,
            json!({"status": "RUNNING", "lastStartTimestamp": now, "networkInterfaces": interfaces, "labels": labels}),
        )
    })
    .await;
    let seen = cloud.instance().state().await.unwrap();
    let addresses: Vec<String> = seen.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.128.0.7", "203.0.113.9", "2001:db8::9", "fd20::7"]);
    assert_eq!(seen.labels, BTreeMap::from([("cluster".to_owned(), "binder".to_owned())]));
    let age = seen.on_for();
    assert!(age.unwrap().abs() < jiff::SignedDuration::from_secs(5), "{age:?}");
    // Whatever else it says is no address.
    for odd in [json!(null), json!({}), json!([null, 7, {"networkIP": 7, "accessConfigs": "x"}])] {
        assert!(super::addresses(&odd).is_empty());
    }
}

#[tokio::test]
async fn metadata_that_keeps_changing_is_given_up_and_never_overwritten() {
    let cloud = Cloud::that(|method, _, before| match method {
        "GET" => (200, json!({"metadata": {"fingerprint": format!("f{before}"), "items": []}})),
        _ => (412, json!({"error": {"message": "stale", "errors": [{"reason": "conditionNotMet"}]}})),
    })
    .await;
    let error = cloud.instance().add_ssh_key(permit(), key()).await.unwrap_err();
    assert!(matches!(error.fault, Fault::KeepsChanging { tries: TRIES }), "{error:?}");
    assert_eq!((error.retryability(), error.may_have_happened()), (Retryability::Later, false));
    let asked = cloud.asked.lock().unwrap();
    let written: Vec<_> = asked.iter().filter(|entry| entry.1.contains("setMetadata")).collect();
    let prints: Vec<Value> =
        written.iter().map(|entry| serde_json::from_str::<Value>(&entry.2).unwrap()["fingerprint"].clone()).collect();
    assert_eq!(prints, ["f0", "f1", "f2", "f3", "f4"]);
    let mut ids: Vec<_> = written.iter().map(|entry| &entry.1).collect();
    ids.dedup();
    assert_eq!(ids.len(), 5, "another request has another id");
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_a_word_that_is_new_is_kept_clean() {
    let cloud = Cloud::that(|_, _, _| (302, json!({}))).await;
    let error = cloud.instance().state().await.unwrap_err();
    assert!(matches!(error.fault, Fault::Refused { status: 302, .. }), "{error:?}");
    assert_eq!(state("ON\u{1b}[2J FIRE"), State::Unknown("ON FIRE".into()));
    assert_eq!(state("TERMINATED"), State::Stopped);
}

/// Accepts connections and does with each what it is told, after it has read something of the request.
async fn server(answer: &'static [u8], repeat: bool) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 4096]).await;
                while stream.write_all(answer).await.is_ok() && repeat {}
                std::future::pending::<()>().await;
            });
        }
    });
    base
}

/// An instance of a cloud whose tokens are there already.
async fn with_token(base: &str) -> GceInstance {
    let instance = instance(base);
    let giver = Cloud::that(|_, _, _| (404, json!({}))).await;
    let json = key_file(&format!("{}/token", giver.base)).to_string();
    let credentials = Credentials::parse(&SecretString::from(json), &giver.base.parse().unwrap()).unwrap();
    instance.shared.tokens.get(&instance.shared.wire, &credentials).await.unwrap();
    GceInstance { credentials, ..instance }
}

#[tokio::test]
async fn a_cloud_that_hangs_costs_its_time_limit_and_may_have_acted() {
    let instance = with_token(&server(b"", false).await).await;
    let error = instance.reset(permit()).await.unwrap_err();
    assert!(matches!(error.fault, Fault::TimedOut { .. }), "{error:?}");
    assert_eq!((error.retryability(), error.may_have_happened()), (Retryability::Later, true));
}

#[tokio::test]
async fn an_answer_without_end_is_not_kept() {
    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n";
    let flood: &'static [u8] = Box::leak([&head[..], &[b' '; 1 << 20]].concat().into_boxed_slice());
    let instance = with_token(&server(flood, true).await).await;
    let error = instance.state().await.unwrap_err();
    assert!(matches!(error.fault, Fault::TooLong { .. }), "{error:?}");
}

#[tokio::test]
async fn nobody_there_is_certain_not_to_have_acted() {
    let port = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await.unwrap().local_addr().unwrap();
    let instance = with_token(&format!("http://{port}")).await;
    let error = instance.reset(permit()).await.unwrap_err();
    assert!(matches!(error.fault, Fault::Unreachable { sent: false, .. }), "{error:?}");
    assert!(!error.may_have_happened());
}

#[tokio::test]
async fn no_error_shows_a_token_or_a_key() {
    let echo = json!({"error": {"message": "no"}});
    let cloud = Cloud::that(move |_, _, _| (403, echo.clone())).await;
    let instance = cloud.instance();
    let error = instance.reset(permit()).await.unwrap_err();
    let shown = format!("{error:?} {} {:?}", chain(&error), instance.credentials);
    assert!(!shown.contains(TOKEN) && !shown.contains("PRIVATE") && !shown.contains("eyJ"), "{shown}");
}

#[tokio::test]
async fn a_description_that_is_none_asks_nobody() {
    let gce = Gce::new(ENDPOINT.parse().unwrap());
    let json = SecretString::from(key_file("https://oauth2.googleapis.com/token").to_string());
    for bad in ["", "../x", "a b", "x/reset", "-"] {
        let host = GceHost { instance: bad.into(), ..host() };
        let error = gce.instance(&host, &json).err().unwrap();
        assert!(matches!(error.fault, Fault::Description { field: "power.gce.instance", .. }), "{bad}: {error:?}");
    }
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
