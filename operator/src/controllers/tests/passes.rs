//! Whole passes over one host: what is written, what is remembered, how often a login is tried.

use super::*;
use crate::hosts::Ssh;
use crate::hosts::tests::Lodge;
use base64::Engine;
use kube::runtime::controller::Action;
use secrecy::ExposeSecret;

const SECRETS: &str = "/api/v1/namespaces/binder/secrets";

/// A host that is reached by this key, and the Secret with it.
fn described(server: &Server, lodge: &Lodge, spec: Value, status: Value) -> BinderHost {
    let key = base64::engine::general_purpose::STANDARD.encode(lodge.key.expose_secret());
    if server.get(&format!("{SECRETS}/login")).is_none() {
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "login"}, "type": "kubernetes.io/ssh-auth",
            "data": {"ssh-privatekey": key},
        });
        server.put(SECRETS, secret);
    }
    let mut host = json!({
        "apiVersion": "fleet.binder-project.org/v1alpha1", "kind": "BinderHost",
        "metadata": {"name": "web", "uid": "h", "generation": 1},
        "spec": {
            "address": "192.0.2.1", "hostKeys": [lodge.host_key],
            "access": {"user": "andrew", "keySecretRef": {"name": "login"}},
        },
    });
    if !status.is_null() {
        host["status"] = status;
    }
    for (field, value) in spec.as_object().unwrap() {
        host["spec"][field] = value.clone();
    }
    object(server.put(HOSTS, host))
}

/// One pass, however soon after the one before.
async fn pass(context: &Arc<Context>, host: &BinderHost) -> Result<Action, Error> {
    if let Some(known) = context.known().get_mut("h") {
        known.last_look = None;
    }
    let known = || HostCache { namespace: "binder".to_owned(), name: "web".to_owned(), ..HostCache::default() };
    context.known().entry("h".to_owned()).or_insert_with(known).looked_at = true;
    host::reconcile(Arc::new(host.clone()), Arc::clone(context)).await
}

#[tokio::test]
async fn a_status_that_was_not_written_is_not_remembered_as_written() {
    let (server, lodge) = (Server::default(), Lodge::new(true));
    let host = described(&server, &lodge, json!({"suspend": true}), json!(null));
    let context = process(&server, std::slice::from_ref(&host), lodge.ssh());
    server.refuse(|method, path| (*method == http::Method::PATCH && path.ends_with("/status")).then_some(409));
    assert!(matches!(pass(&context, &host).await, Err(Error::Conflict(_))));
    assert!(context.known()["h"].status.is_none());
    server.refuse(|_, _| None);
    server.asked();
    assert!(pass(&context, &host).await.is_ok());
    assert_eq!(server.asked().iter().filter(|asked| asked.contains("web/status")).count(), 1, "it is written again");
    assert!(context.known()["h"].status.is_some());
    assert!(pass(&context, &host).await.is_ok());
    assert_eq!(server.asked().iter().filter(|asked| asked.contains("web/status")).count(), 0);
}

#[tokio::test]
async fn a_session_that_was_opened_while_its_host_went_is_closed() {
    let (server, lodge) = (Server::default(), Lodge::new(true));
    let host = described(&server, &lodge, json!({}), json!(null));
    let there = process(&server, std::slice::from_ref(&host), lodge.ssh());
    assert!(pass(&there, &host).await.is_ok());
    assert_eq!(there.ssh.open_sessions(), 1, "as long as it is described");
    let gone = process(&server, &[], lodge.ssh());
    assert_eq!(pass(&gone, &host).await.unwrap(), Action::await_change());
    assert_eq!(lodge.keys_shown(), 2, "it was logged in to");
    assert_eq!(gone.ssh.open_sessions(), 0);
    assert!(gone.known().is_empty());
}

#[tokio::test]
async fn a_cache_that_stays_behind_makes_no_hot_loop() {
    let server = Server::default();
    let context = process(&server, &[host("h")], Ssh::default());
    context.known().insert("h".to_owned(), HostCache::default());
    let pause = || host::on_error(Arc::new(host("h")), &Error::Behind("it".to_owned()), Arc::clone(&context));
    let seconds = |seconds| Action::requeue(Duration::from_secs(seconds));
    let pauses: Vec<Action> = (0..9).map(|_| pause()).collect();
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60].map(seconds));
}

#[tokio::test]
async fn a_fleets_errors_are_its_own_and_end_with_a_pass_that_does_not_fail() {
    let server = Server::default();
    let context = process(&server, &[], Ssh::default());
    let fleet: BinderFleet = object(json!({
        "apiVersion": "fleet.binder-project.org/v1alpha1", "kind": "BinderFleet",
        "metadata": {"name": "binder", "namespace": "binder", "uid": "f"},
        "spec": {"access": {"user": "andrew", "keySecretRef": {"name": "login"}}},
    }));
    let pause = || fleet::on_error(Arc::new(fleet.clone()), &Error::Incomplete(String::new()), Arc::clone(&context));
    let seconds = |seconds| Action::requeue(Duration::from_secs(seconds));
    assert_eq!([pause(), pause(), pause()], [1, 2, 4].map(seconds));
    assert!(context.known().is_empty(), "housekeeping would take it for a host that is gone");
    fleet::reconcile(Arc::new(fleet.clone()), Arc::clone(&context)).await.unwrap();
    assert_eq!(pause(), seconds(1));
}

#[tokio::test]
async fn a_refused_login_is_tried_once_for_a_version_of_its_key_over_all_restarts() {
    let (server, lodge) = (Server::default(), Lodge::new(false));
    let mut host = described(&server, &lodge, json!({}), json!(null));
    for _ in 0..3 {
        let context = process(&server, std::slice::from_ref(&host), lodge.ssh());
        for _ in 0..3 {
            pass(&context, &host).await.unwrap();
        }
        host = object(server.get(&format!("{HOSTS}/web")).unwrap());
        assert!(host.status.as_ref().unwrap().refused_login.is_some(), "what the next process goes by");
    }
    assert_eq!(lodge.keys_shown(), 1);
    // Another version of the Secret is another key.
    let mut secret = server.get(&format!("{SECRETS}/login")).unwrap();
    secret["metadata"]["annotations"] = json!({"rotated": "yes"});
    server.put(SECRETS, secret);
    for _ in 0..2 {
        let context = process(&server, std::slice::from_ref(&host), lodge.ssh());
        pass(&context, &host).await.unwrap();
        host = object(server.get(&format!("{HOSTS}/web")).unwrap());
    }
    assert_eq!(lodge.keys_shown(), 2);
}

#[tokio::test]
async fn a_key_that_is_being_authorized_has_the_login_tried_once_more_and_not_in_each_pass() {
    let (server, lodge) = (Server::default(), Lodge::new(false));
    let host = described(&server, &lodge, json!({}), json!(null));
    let context = process(&server, std::slice::from_ref(&host), lodge.ssh());
    pass(&context, &host).await.unwrap();
    let mut authorized = action("web-1", "h");
    let now = Timestamp::now();
    authorized["spec"]["step"] = json!("AuthorizeKey");
    authorized["spec"]["parameters"] =
        json!({"step": "AuthorizeKey", "user": "andrew", "publicKey": "ssh-ed25519 AAAA"});
    authorized["spec"]["decidedAt"] = json!(now.to_string());
    authorized["spec"]["deadline"] = json!((now + jiff::SignedDuration::from_mins(10)).to_string());
    authorized["status"] = json!({"sentAt": (now - jiff::SignedDuration::from_secs(20)).to_string()});
    context.actions.wrote(&object(server.put(ACTIONS, authorized)));
    for _ in 0..4 {
        pass(&context, &host).await.unwrap();
    }
    assert_eq!(lodge.keys_shown(), 2);
}

#[tokio::test]
async fn a_secret_is_read_once_for_a_whole_fleet_and_forgotten_when_it_is_old() {
    let (server, lodge) = (Server::default(), Lodge::new(true));
    let host = described(&server, &lodge, json!({}), json!(null));
    let context = process(&server, std::slice::from_ref(&host), lodge.ssh());
    let reads = || server.asked().iter().filter(|asked| asked.contains("/secrets/")).count();
    for _ in 0..5 {
        pass(&context, &host).await.unwrap();
    }
    assert_eq!(reads(), 1);
    let age = secrets::Age::for_looks(Duration::from_secs(30));
    for _ in 0..5 {
        access::secret(&context, "binder", "login", age).await.unwrap();
    }
    assert_eq!(reads(), 0);
    access::secret(&context, "binder", "login", secrets::Age::now()).await.unwrap();
    assert_eq!(reads(), 1, "for a step it is read at that moment");
}

/// The conditions that the API has of the host, as type and status.
fn conditions(server: &Server) -> Vec<(String, String)> {
    let host: BinderHost = object(server.get(&format!("{HOSTS}/web")).unwrap());
    host.status.unwrap().conditions.into_iter().map(|condition| (condition.type_, condition.status)).collect()
}

#[tokio::test]
async fn an_instance_that_is_another_machine_is_said_while_the_host_is_well() {
    let address = Arc::new(Mutex::new("10.0.0.9"));
    let cloud = {
        let address = Arc::clone(&address);
        let answer =
            move || json!({"status": "RUNNING", "networkInterfaces": [{"networkIP": *address.lock().unwrap()}]});
        crate::power::gce::tests::Cloud::that(move |_, _, _| (200, answer())).await
    };
    let (server, lodge) = (Server::default(), Lodge::new(true));
    let key = base64::engine::general_purpose::STANDARD.encode(cloud.credentials());
    server.put(
        SECRETS,
        json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "cloud"},
            "data": {crate::power::gce::SECRET_KEY: key},
        }),
    );
    let power = json!({"power": {"gce": {
        "project": "binder-testing", "zone": "us-central1-f", "instance": "web",
        "credentialsSecretRef": {"name": "cloud"},
    }}});
    let host = described(&server, &lodge, power, json!(null));
    let flags = ["--gce-endpoint", cloud.base.as_str()];
    let context = with_flags(&server, std::slice::from_ref(&host), lodge.ssh(), &flags);
    for _ in 0..3 {
        pass(&context, &host).await.unwrap();
        let mismatch = ("InstanceMismatch".to_owned(), "True".to_owned());
        assert!(conditions(&server).contains(&mismatch), "{:?}", conditions(&server));
    }
    let asked = || cloud.paths().iter().filter(|asked| asked.starts_with("GET")).count();
    assert_eq!(asked(), 1, "once, and then at most hourly");
    *address.lock().unwrap() = "192.0.2.1";
    let context = with_flags(&server, std::slice::from_ref(&host), lodge.ssh(), &flags);
    for _ in 0..3 {
        pass(&context, &host).await.unwrap();
    }
    assert!(!conditions(&server).iter().any(|(kind, _)| kind == "InstanceMismatch"));
    assert_eq!(asked(), 2);
}
