//! The lab's control planes, for real: the programs are built if they are not there, and started on loopback.
//!
//! One scenario for the operator's control plane and one for the cluster with nodes; each starts its processes once.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use binder_lab::cluster::minions::Minions;
use binder_lab::cluster::{Cluster, Config, kubeconfig};
use binder_lab::process::Running;
use binder_lab::tools::Tools;
use binder_lab::tools::progress::Lines;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret, Service, ServiceAccount};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

/// A start takes seconds; on a machine that also compiles it may take many.
const START: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread")]
async fn the_operators_control_plane() {
    let programs = tools().main_control_plane().await.unwrap();
    let place = Place::new("main");
    let cluster = Cluster::prepare(Config::main(&place.folder, programs).unwrap()).unwrap();
    let mut owned = up(&cluster).await;
    let client = cluster.client().await.unwrap();

    objects_go_away_with_what_owns_them(&client).await;
    a_namespace_lives_and_dies(&client).await;
    let account = service_accounts_work_and_are_audited(&cluster, &client).await;
    users_have_only_their_rights(&cluster, &place).await;

    // The plan is data: another command reads it back and starts the same control plane again.
    let written = serde_json::to_string(&cluster).unwrap();
    let begin = Instant::now();
    binder_lab::process::end_all(&owned.0, Duration::from_secs(10)).await.unwrap();
    eprintln!("ended in {:.1?}", begin.elapsed());
    let cluster: Cluster = serde_json::from_str(&written).unwrap();
    owned = up(&cluster).await;
    let maps: Api<ConfigMap> = Api::namespaced(kubeconfig::client(&account).await.unwrap(), "tenant");
    assert_eq!(code(maps.list(&ListParams::default()).await), 403, "the token is still one");
    drop(owned);
}

async fn objects_go_away_with_what_owns_them(client: &Client) {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let owner = maps.create(&PostParams::default(), &object(json!({"metadata": {"name": "owner"}}))).await.unwrap();
    let reference = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner.uid()}]);
    let owned = object(json!({"metadata": {"name": "owned", "ownerReferences": reference}}));
    maps.create(&PostParams::default(), &owned).await.unwrap();
    maps.delete("owner", &DeleteParams::default()).await.unwrap();
    eventually("the garbage collector", Duration::from_secs(30), async || {
        maps.get_opt("owned").await.unwrap().is_none()
    })
    .await;
}

async fn a_namespace_lives_and_dies(client: &Client) {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces.create(&PostParams::default(), &object(json!({"metadata": {"name": "short-lived"}}))).await.unwrap();
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "short-lived");
    eventually("the default service account", Duration::from_secs(10), async || {
        accounts.get_opt("default").await.unwrap().is_some()
    })
    .await;
    namespaces.delete("short-lived", &DeleteParams::default()).await.unwrap();
    eventually("the end of the namespace", Duration::from_secs(60), async || {
        namespaces.get_opt("short-lived").await.unwrap().is_none()
    })
    .await;
}

/// Returns the account's kubeconfig.
async fn service_accounts_work_and_are_audited(cluster: &Cluster, client: &Client) -> PathBuf {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces.create(&PostParams::default(), &object(json!({"metadata": {"name": "tenant"}}))).await.unwrap();
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "tenant");
    accounts.create(&PostParams::default(), &object(json!({"metadata": {"name": "worker"}}))).await.unwrap();
    let day = Duration::from_secs(24 * 60 * 60);
    let text = cluster.kubeconfig_for_service_account("tenant", "worker", day).await.unwrap();
    let path = cluster.config().dir.join("worker.kubeconfig");
    binder_lab::files::write(&path, text, 0o600).unwrap();

    let log = cluster.audit_log().unwrap();
    let user = "system:serviceaccount:tenant:worker";
    let mark = log.now().unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(kubeconfig::client(&path).await.unwrap(), "tenant");
    assert_eq!(code(maps.list(&ListParams::default()).await), 403);
    let map = object(json!({"metadata": {"name": "not-allowed"}}));
    assert_eq!(code(maps.create(&PostParams::default(), &map).await), 403);
    eventually("the record", Duration::from_secs(5), async || !log.writes_since(mark, user).unwrap().is_empty()).await;
    let writes = log.writes_since(mark, user).unwrap();
    assert_eq!(writes.len(), 1, "{writes:?}");
    let write = &writes[0];
    assert_eq!((write.verb.as_str(), write.resource.as_str(), write.code), ("create", "configmaps", 403), "{write}");
    assert!(log.writes_since(log.now().unwrap(), user).unwrap().is_empty());
    path
}

async fn users_have_only_their_rights(cluster: &Cluster, place: &Place) {
    for (user, group, expected) in [("alice", Some("system:masters"), 200), ("bob", None, 403)] {
        let path = place.folder.join(format!("{user}.kubeconfig"));
        binder_lab::files::write(&path, cluster.kubeconfig_for_user(user, group).unwrap(), 0o600).unwrap();
        let secrets: Api<Secret> = Api::all(kubeconfig::client(&path).await.unwrap());
        assert_eq!(code(secrets.list(&ListParams::default()).await), expected, "{user}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn binders_cluster() {
    let tools = tools();
    let programs = tools.control_plane().await.unwrap();
    let kwok = tools.kwok().await.unwrap();
    let place = Place::new("hosted");
    let address = "127.0.0.1".parse().unwrap();
    let mut config = Config::hosted("kubernetes-master", address, Path::new("/"), &place.folder, programs.clone());
    // Here there is no network of its own.
    let own_ports = Config::main(&place.folder, programs.clone()).unwrap();
    (config.api, config.etcd_port) = (own_ports.api, own_ports.etcd_port);
    let cluster = Cluster::prepare(config).unwrap();
    let mut owned = up(&cluster).await;

    let minions = Minions {
        kubeconfig: cluster.kubeconfig_inside(),
        dir: place.folder.join("minions"),
        nodes: vec!["kubernetes-minion-1".to_owned(), "kubernetes-minion-2".to_owned()],
        lookup: "198.18.0.30".parse().unwrap(),
        registration: "198.18.0.31".parse().unwrap(),
        proxy: Some(place.proxy()),
        path: None,
    };
    let begin = Instant::now();
    for spec in minions.processes(&programs, &kwok) {
        owned.0.push(spec.start().unwrap());
    }
    cluster.wait_nodes(2, Duration::from_secs(60)).await.unwrap();
    eprintln!("nodes Ready in {:.1?}", begin.elapsed());

    let client = cluster.client().await.unwrap();
    a_pod_runs(&client).await;
    a_service_gets_its_address(&client, "proxy-lookup", "198.18.0.30").await;
    the_proxy_lives_as_long_as_its_pod(&client, &place).await;

    // The master is away for a while, and what surrounds it finds it again by itself.
    let apiserver = owned.0.iter().position(|process| process.name == "kube-apiserver").unwrap();
    owned.0.remove(apiserver).end(Duration::ZERO).await.unwrap();
    tokio::time::sleep(Duration::from_secs(8)).await;
    let again = cluster.processes().into_iter().find(|spec| spec.name == "kube-apiserver").unwrap();
    owned.0.push(again.start().unwrap());
    cluster.wait_ready(START, &[]).await.unwrap();
    a_service_gets_its_address(&client, "proxy-registration", "198.18.0.31").await;
    eprintln!("{}", memory(&owned.0));
}

async fn a_pod_runs(client: &Client) {
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    let pod = json!({"metadata": {"name": "app"}, "spec": {"containers": [{"name": "app", "image": "nowhere/app"}]}});
    let begin = Instant::now();
    // The namespace's service account may be a moment away; a pod is refused without it.
    pods.create(&PostParams::default(), &object(pod)).await.unwrap();
    eventually("the pod", Duration::from_secs(20), async || {
        let status = pods.get("app").await.unwrap().status.unwrap_or_default();
        status.phase.as_deref() == Some("Running") && status.pod_ip.is_some_and(|ip| ip.starts_with("198.19."))
    })
    .await;
    eprintln!("pod Running in {:.1?}", begin.elapsed());
    pods.delete("app", &DeleteParams::default()).await.unwrap();
    eventually("the end of the pod", Duration::from_secs(20), async || pods.get_opt("app").await.unwrap().is_none())
        .await;
}

async fn a_service_gets_its_address(client: &Client, name: &str, address: &str) {
    let services: Api<Service> = Api::namespaced(client.clone(), "default");
    let service = json!({"metadata": {"name": name}, "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}});
    let begin = Instant::now();
    services.create(&PostParams::default(), &object(service)).await.unwrap();
    eventually("the address of the service", Duration::from_secs(10), async || {
        let service = services.get(name).await.unwrap();
        let ingress = service.status.and_then(|status| status.load_balancer).and_then(|balancer| balancer.ingress);
        ingress.is_some_and(|all| all.iter().any(|one| one.ip.as_deref() == Some(address)))
    })
    .await;
    eprintln!("{name} has its address after {:.1?}", begin.elapsed());
}

async fn the_proxy_lives_as_long_as_its_pod(client: &Client, place: &Place) {
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    let pod = |token: &str| {
        let env = json!([{"name": "CONFIGPROXY_AUTH_TOKEN", "value": token}]);
        let spec = json!({"containers": [{"name": "proxy", "image": "nowhere/proxy", "env": env}]});
        object(json!({"metadata": {"name": "proxy-server"}, "spec": spec}))
    };
    let arguments = "--ip 198.18.0.30 --port 80 --api-ip 198.18.0.31 --api-port 80";
    for token in ["first", "second"] {
        pods.create(&PostParams::default(), &pod(token)).await.unwrap();
        let expected = format!("{arguments} token={token}\n");
        eventually("the proxy", Duration::from_secs(10), async || place.proxy_runs().as_deref() == Some(&expected))
            .await;
        pods.delete("proxy-server", &DeleteParams::default()).await.unwrap();
        eventually("the end of the proxy", Duration::from_secs(20), async || place.proxy_runs().is_none()).await;
        eventually("the end of its pod", Duration::from_secs(20), async || {
            pods.get_opt("proxy-server").await.unwrap().is_none()
        })
        .await;
    }
}

/// A folder of its own, gone at the end of a test that passed; one that failed leaves its logs.
struct Place {
    folder: PathBuf,
}

impl Place {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("binder-lab-{}-{name}", std::process::id()));
        binder_lab::files::make_dir(&folder).unwrap();
        Self { folder }
    }

    /// In place of configurable-http-proxy, which needs the lab's addresses: says how it was called while it runs.
    fn proxy(&self) -> PathBuf {
        let (program, said) = (self.folder.join("proxy"), self.folder.join("proxy-runs"));
        let script = format!(
            "#!/bin/sh\ntrap 'rm {said}; exit 0' TERM\necho \"$* token=$CONFIGPROXY_AUTH_TOKEN\" > {said}\n\
             while :; do sleep 0.1; done\n",
            said = said.display()
        );
        binder_lab::files::write(&program, script, 0o755).unwrap();
        assert_ne!(std::fs::metadata(&program).unwrap().permissions().mode() & 0o100, 0);
        program
    }

    fn proxy_runs(&self) -> Option<String> {
        std::fs::read_to_string(self.folder.join("proxy-runs")).ok()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("logs are under {}", self.folder.display());
        } else {
            std::fs::remove_dir_all(&self.folder).unwrap();
        }
    }
}

/// Processes that end with the test, however it ends.
struct Owned(Vec<Running>);

impl Drop for Owned {
    fn drop(&mut self) {
        for process in self.0.iter().rev() {
            if let Err(error) = process.kill() {
                eprintln!("{error}");
            }
        }
        // They write into a folder that is removed next.
        while self.0.iter().any(Running::is_alive) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn tools() -> Tools {
    let progress = Lines::new(Duration::from_secs(30), |line: &str| eprintln!("{line}"));
    Tools::new(Arc::new(progress)).unwrap()
}

async fn up(cluster: &Cluster) -> Owned {
    let begin = Instant::now();
    let owned = Owned(cluster.start().await.unwrap());
    cluster.wait_ready(START, &owned.0).await.unwrap_or_else(|error| panic!("{error}"));
    eprintln!("{} ready in {:.1?}; {}", cluster.config().name, begin.elapsed(), memory(&owned.0));
    owned
}

/// The resident memory of each process.
fn memory(running: &[Running]) -> String {
    let of = |process: &Running| {
        let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid)).unwrap_or_default();
        let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok());
        format!("{} {} MB", process.name, kib.unwrap_or(0_u64) / 1024)
    };
    running.iter().map(of).collect::<Vec<_>>().join(", ")
}

fn object<T: serde::de::DeserializeOwned>(json: serde_json::Value) -> T {
    serde_json::from_value(json).unwrap()
}

/// The HTTP status of an answer.
fn code<T>(answer: kube::Result<T>) -> u16 {
    match answer {
        Ok(_) => 200,
        Err(kube::Error::Api(status)) => status.code,
        Err(error) => panic!("no answer: {error}"),
    }
}

async fn eventually(what: &str, limit: Duration, mut so: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !so().await {
        assert!(Instant::now() < deadline, "{what}: not within {limit:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
