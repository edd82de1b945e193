//! Faults of those that are asked: an address that nobody has, a witness that hangs, a login that the cluster refuses,
//! another cluster that is ill. The machine that they speak of is well, and nothing is to be done to it; `mend` takes
//! them back.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use binder_crds::BinderFleet;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::cluster::{nothing, silence};
use super::proxy::{ANSWERS, START_WITH};
use super::tools::usual_proxy;
use super::way_in::HELD;
use super::{Act, Fault, FaultError, HOLD_SSH, Healer, OPEN_SSH, Site, Target, shows, unseen};
use crate::cluster::kubeconfig;
use crate::files;
use crate::host::enter::Host;
use crate::inventory::{Role, USER, with_role};
use crate::stage::{NAMESPACE, owner};

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "address-wrong",
        does: "the owner's file gives binder-services an address that nobody has; the machine is well",
        healed_by: Healer::Mend,
        target: Target::The(Role::Services),
        inflict: MISTYPE,
        undo: Some(CORRECT),
    },
    Fault {
        name: "witness-hangs",
        does: "the operator's way to binder-services' sshd is cut, and the sshd of every neighbour that could say how it is \
               hangs; binder-services is well",
        healed_by: Healer::Mend,
        target: Target::The(Role::Services),
        inflict: HANG_WITNESSES,
        undo: Some(LET_WITNESSES_GO),
    },
    Fault {
        name: "api-forbidden",
        does: "the kubectl proxy runs with a login that the cluster refuses, as when it has expired: 401 to everything",
        healed_by: Healer::Mend,
        target: Target::The(Role::WebDeploy),
        inflict: REFUSE_LOGIN,
        undo: Some(USUAL_PROXY),
    },
    Fault {
        name: "wrong-cluster-proxy-and-sick-neighbour",
        does: "8085 leads to another cluster, whose nodes have the same names, and that one is ill: /healthz says 500, and \
               no node is Ready",
        healed_by: Healer::Mend,
        target: Target::The(Role::WebDeploy),
        inflict: SICK_CLUSTER,
        undo: Some(END_SICK_CLUSTER),
    },
];

const MISTYPE: Act = |site| Box::pin(mistype(site));
const CORRECT: Act = |site| Box::pin(correct(site));
const HANG_WITNESSES: Act = |site| Box::pin(hang_witnesses(site));
const LET_WITNESSES_GO: Act = |site| Box::pin(let_witnesses_go(site));
const REFUSE_LOGIN: Act = |site| Box::pin(unseen(site, refuse_login(site)));
const USUAL_PROXY: Act = |site| Box::pin(unseen(site, usual_proxy(site)));
const SICK_CLUSTER: Act = |site| Box::pin(unseen(site, sick_cluster(site)));
const END_SICK_CLUSTER: Act = |site| Box::pin(unseen(site, end_sick_cluster(site)));

/// The last part of an address that no machine of a lab has.
const NOBODY: u8 = 99;

/// The address that the mistyped file has.
///
/// # Errors
/// The lab is gone.
fn nobodys(site: Site<'_>) -> Result<Ipv4Addr, FaultError> {
    Ok(site.lab.status()?.network().address(NOBODY))
}

async fn mistype(site: Site<'_>) -> Result<(), FaultError> {
    let nobody = nobodys(site)?;
    if let Ok(Ok(_)) = timeout(Duration::from_secs(1), TcpStream::connect((nobody, 22))).await {
        return Err(nothing(site, format!("somebody listens on {nobody}")));
    }
    set_address(site, nobody).await
}

async fn correct(site: Site<'_>) -> Result<(), FaultError> {
    let address = site.host.status()?.address;
    set_address(site, address).await
}

/// Changes the address of the host in the owner's file.
async fn set_address(site: Site<'_>, address: Ipv4Addr) -> Result<(), FaultError> {
    let client = kubeconfig::client(&site.lab.status()?.kubeconfig).await?;
    let fleets = Api::<BinderFleet>::namespaced(client, NAMESPACE);
    let failed = |source| FaultError::Api { what: format!("the fleet {}", owner::FLEET), source: Box::new(source) };
    let fleet = fleets.get(owner::FLEET).await.map_err(failed)?;
    let mut hosts = serde_json::to_value(&fleet.spec).map(|mut spec| spec["hosts"].take()).unwrap_or_default();
    let mut found = false;
    for host in hosts.as_array_mut().into_iter().flatten().filter(|host| host["name"] == site.host.name()) {
        host["address"] = json!(address.to_string());
        found = true;
    }
    if !found {
        return Err(nothing(site, "the fleet does not have it".to_owned()));
    }
    let patch = Patch::Merge(json!({"spec": {"hosts": hosts}}));
    fleets.patch(owner::FLEET, &PatchParams::default(), &patch).await.map_err(failed)?;
    Ok(())
}

/// Takes back that nothing from `$1` arrives at sshd.
const JOIN: &str = "while iptables -w 10 -D INPUT -s \"$1\" -p tcp --dport 22 -j DROP 2>/dev/null; do :; done";
/// Drops whatever comes from `$1` for sshd, also of connections that are there.
const CUT: &str = "iptables -w 10 -I INPUT -s \"$1\" -p tcp --dport 22 -j DROP";

/// Those that could say how the host is: all others, but for the master, whose machine is not in its zone.
fn witnesses(site: Site<'_>) -> Result<Vec<Host>, FaultError> {
    let away = [site.host.name(), with_role(Role::Master).name];
    let status = site.lab.status()?;
    let names = status.hosts.iter().filter(|host| host.powered && !away.contains(&host.name.as_str()));
    Ok(names.map(|host| site.lab.host(&host.name)).collect::<Result<_, _>>()?)
}

async fn hang_witnesses(site: Site<'_>) -> Result<(), FaultError> {
    for witness in witnesses(site)? {
        witness.script(HOLD_SSH, &["300"]).await?;
        shows(&witness, "every sshd is held", HELD, &[]).await?;
    }
    let computer = site.lab.status()?.network().computer().to_string();
    site.host.script(CUT, &[&computer]).await?;
    let at = SocketAddr::from((site.host.status()?.address, 22));
    let cut = |_| async move {
        match timeout(Duration::from_secs(1), TcpStream::connect(at)).await {
            Err(_) => Ok(()),
            Ok(answer) => Err(format!("{at}: {answer:?}")),
        }
    };
    Ok(site.host.until("its sshd does not answer the operator", super::SHOWS, cut).await?)
}

async fn let_witnesses_go(site: Site<'_>) -> Result<(), FaultError> {
    let computer = site.lab.status()?.network().computer().to_string();
    site.host.script(JOIN, &[&computer]).await?;
    for witness in witnesses(site)? {
        witness.script(OPEN_SSH, &[]).await?;
    }
    let at = SocketAddr::from((site.host.status()?.address, 22));
    let open = |_| async move {
        match timeout(Duration::from_secs(1), TcpStream::connect(at)).await {
            Ok(Ok(_)) => Ok(()),
            answer => Err(format!("{at}: {answer:?}")),
        }
    };
    Ok(site.host.until("its sshd answers", super::SHOWS, open).await?)
}

/// A kubeconfig of the login's own beside the usual one.
async fn write_kubeconfig(site: Site<'_>, name: &str, config: &Value) -> Result<String, FaultError> {
    let inside = format!("/home/{USER}/.kube/{name}");
    files::write(&site.host.path(&inside)?, config.to_string(), 0o600)?;
    site.host.script("chown andrew: \"$1\"", &[&inside]).await?;
    Ok(inside)
}

async fn refuse_login(site: Site<'_>) -> Result<(), FaultError> {
    let usual = files::read(&site.host.path(&format!("/home/{USER}/.kube/config"))?)?;
    let mut config: Value =
        serde_json::from_str(&usual).map_err(|_| nothing(site, "it has no kubeconfig".to_owned()))?;
    for user in config["users"].as_array_mut().into_iter().flatten() {
        user["user"] = json!({"token": "expired"});
    }
    let inside = write_kubeconfig(site, "refused", &config).await?;
    silence(site).await?;
    site.host.script_as_user(START_WITH, &[&inside]).await?;
    shows(site.host, "the cluster refuses whoever asks on 8085", ANSWERS, &["401 Unauthorized"]).await
}

/// Another cluster, as far as anybody sees of it through a proxy: its identity, its nodes, and that it is ill.
const SICK_API: &str = r#"
const http = require('http')
const now = new Date().toISOString().replace(/\.\d+Z/, 'Z')
const ready = { type: 'Ready', status: 'Unknown', reason: 'NodeStatusUnknown', lastTransitionTime: now,
  message: 'Kubelet stopped posting node status.' }
const node = (name) => ({ metadata: { name, uid: name }, spec: {}, status: { conditions: [ready] } })
const answers = {
  '/api/v1/namespaces/kube-system': [200, { kind: 'Namespace', apiVersion: 'v1',
    metadata: { name: 'kube-system', uid: 'aaaaaaaa-0000-4000-8000-00000000516c' }, spec: {}, status: { phase: 'Active' } }],
  '/api/v1/nodes': [200, { kind: 'NodeList', apiVersion: 'v1', metadata: { resourceVersion: '1' },
    items: [node('kubernetes-minion-1'), node('kubernetes-minion-2')] }]
}
const ill = [500, { kind: 'Status', apiVersion: 'v1', status: 'Failure', reason: 'InternalError', code: 500,
  message: '[-]etcd failed: reason withheld' }]
http.createServer((request, answer) => {
  const [code, body] = answers[request.url.split('?')[0]] || ill
  answer.writeHead(code, { 'Content-Type': 'application/json' })
  answer.end(JSON.stringify(body))
}).listen(6445, '127.0.0.1')
"#;
/// Its program, by which it is ended.
const SICK_PROGRAM: &str = "/home/andrew/binder-lab-sick-cluster.js";
const START_SICK: &str = "ss -ltnH 'sport = :6445' | grep -q . || setsid -f node \"$1\" </dev/null >/dev/null 2>&1";
const END_SICK: &str = "pkill -f '^node .*/binder-lab-sick-cluster.js' || true; rm -f \"$1\"";

async fn sick_cluster(site: Site<'_>) -> Result<(), FaultError> {
    files::write(&site.host.path(SICK_PROGRAM)?, SICK_API, 0o644)?;
    site.host.script_as_user(START_SICK, &[SICK_PROGRAM]).await?;
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "sick",
        "clusters": [{"name": "sick", "cluster": {"server": "http://127.0.0.1:6445"}}],
        "users": [],
        "contexts": [{"name": "sick", "context": {"cluster": "sick", "user": ""}}],
    });
    let inside = write_kubeconfig(site, "sick", &config).await?;
    silence(site).await?;
    site.host.script_as_user(START_WITH, &[&inside]).await?;
    shows(site.host, "the other cluster answers on 8085", ANSWERS, &["aaaaaaaa-0000-4000-8000-00000000516c"]).await
}

async fn end_sick_cluster(site: Site<'_>) -> Result<(), FaultError> {
    usual_proxy(site).await?;
    site.host.script(END_SICK, &[SICK_PROGRAM]).await?;
    Ok(())
}
