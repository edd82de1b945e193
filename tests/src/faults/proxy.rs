//! Faults of the `kubectl proxy` itself: the port is served, and by the wrong one.

use std::net::Ipv4Addr;
use std::path::Path;

use serde_json::Value;
use tokio::net::TcpStream;

use super::cluster::silence;
use super::{Act, Fault, FaultError, Healer, Site, Target, shows, unseen};
use crate::cgroup::Cgroup;
use crate::files;
use crate::inventory::{Role, USER};
use crate::process::ProcessSpec;

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "proxy-wrong-cluster",
        does: "8085 is served by a kubectl with another cluster's kubeconfig: the lab's other control plane answers there",
        healed_by: Healer::Operator,
        target: Target::The(Role::WebDeploy),
        inflict: WRONG_CLUSTER,
        undo: None,
    },
    Fault {
        name: "proxy-wrong-kubectl",
        does: "pm2's binder-kubernetes-proxy runs another release's kubectl.sh on 8085, as when that comes first on the \
               PATH; it serves another path, so nobody finds the cluster behind it",
        healed_by: Healer::Operator,
        target: Target::The(Role::WebDeploy),
        inflict: WRONG_KUBECTL,
        undo: None,
    },
];

const WRONG_CLUSTER: Act = |site| Box::pin(unseen(site, wrong_cluster(site)));
const WRONG_KUBECTL: Act = |site| Box::pin(unseen(site, wrong_kubectl(site)));

/// The name that the operator's API server has in its certificate.
const SERVER_NAME: &str = "kubernetes";

/// Where, on this computer, the hosts reach the operator's control plane, which is on loopback only.
const PORT: u16 = 6444;

/// Takes connections at the address `argv[1]` and port `argv[2]` on to this computer's loopback port `argv[3]`.
const FORWARD: &str = "const net = require('net'); const [address, port, to] = process.argv.slice(1); \
    net.createServer((one) => { const other = net.connect(Number(to), '127.0.0.1'); \
    for (const end of [one, other]) end.on('error', () => { one.destroy(); other.destroy() }); \
    one.pipe(other).pipe(one) }).listen(Number(port), address)";

/// Starts the proxy on 8085 with the kubeconfig `$1`, as a person in another window would.
pub(super) const START_WITH: &str = "setsid -f /home/andrew/kubernetes/cluster/kubectl.sh --kubeconfig=\"$1\" proxy --port=8085 \
    </dev/null >>/home/andrew/kubectl-proxy.log 2>&1";

/// Succeeds when `$1` is in what the proxy on 8085 says of the namespace that every cluster has.
pub(super) const ANSWERS: &str = "timeout 5 bash -c 'exec 3<>/dev/tcp/127.0.0.1/8085; \
    printf \"GET /api/v1/namespaces/kube-system HTTP/1.0\\r\\nHost: localhost\\r\\n\\r\\n\" >&3; cat <&3' | grep -F -- \"$1\"";

async fn wrong_cluster(site: Site<'_>) -> Result<(), FaultError> {
    let status = site.lab.status()?;
    let nothing = |what: &str| FaultError::NothingToBreak { host: site.host.name().to_owned(), what: what.to_owned() };
    let mut config: Value = serde_json::from_str(&files::read(&status.kubeconfig)?)
        .map_err(|_| nothing("the other control plane has no kubeconfig"))?;
    let cluster = &mut config["clusters"][0]["cluster"];
    let port: u16 = cluster["server"]
        .as_str()
        .and_then(|server| server.rsplit(':').next()?.parse().ok())
        .ok_or_else(|| nothing("the other control plane has no port"))?;
    let computer = status.network().computer();
    cluster["server"] = format!("https://{computer}:{PORT}").into();
    cluster["tls-server-name"] = SERVER_NAME.into();

    if TcpStream::connect((computer, PORT)).await.is_err() {
        forward(site, computer, port)?;
    }
    let inside = format!("/home/{USER}/.kube/other");
    files::write(&site.host.path(&inside)?, config.to_string(), 0o600)?;
    site.host.script("chown andrew: \"$1\"", &[&inside]).await?;
    silence(site).await?;
    site.host.script_as_user(START_WITH, &[&inside]).await?;
    let main = identity(&status.kubeconfig).await.map_err(|said| nothing(&said))?;
    shows(site.host, "the other cluster answers on 8085", ANSWERS, &[&main]).await
}

/// Lets the hosts reach this computer's loopback port. It ends with the lab.
fn forward(site: Site<'_>, computer: Ipv4Addr, port: u16) -> Result<(), FaultError> {
    let forwarder = ProcessSpec {
        name: "other-cluster".into(),
        program: "node".into(),
        args: ["-e", FORWARD, &computer.to_string(), &PORT.to_string(), &port.to_string()].map(str::to_owned).to_vec(),
        env: Vec::new(),
        log: site.lab.layout().dir().join("other-cluster.log"),
    };
    let group = Cgroup::of_lab(site.lab.layout().id())?.child("other-cluster");
    group.create()?;
    let running = forwarder.start()?;
    Ok(group.adopt(running.pid.unsigned_abs())?)
}

/// The identity of the cluster that a kubeconfig leads to.
async fn identity(kubeconfig: &Path) -> Result<String, String> {
    let client = crate::cluster::kubeconfig::client(kubeconfig).await.map_err(|error| crate::said(&error))?;
    let namespaces: kube::Api<k8s_openapi::api::core::v1::Namespace> = kube::Api::all(client);
    let system = namespaces.get("kube-system").await.map_err(|error| crate::said(&error))?;
    system.metadata.uid.ok_or_else(|| "the other control plane has no identity".to_owned())
}

/// Another release beside the right one. Its `kubectl.sh` stays as the parent of what it runs, as those of 2016 do, and its
/// kubectl serves the API below another path, as releases of the time differ in it.
const OTHER_RELEASE: &str = r#"
other=/home/andrew/kubernetes-0.9
mkdir -p "$other/cluster" "$other/platforms/linux/amd64"
ln -sf /home/andrew/kubernetes/platforms/linux/amd64/kubectl "$other/platforms/linux/amd64/kubectl"
cat >"$other/cluster/kubectl.sh" <<'END'
#!/bin/bash
kubectl=$(dirname "${BASH_SOURCE[0]}")/../platforms/linux/amd64/kubectl
trap 'kill $child' TERM INT
"$kubectl" "$@" --api-prefix=/old/ & child=$!
wait $child
END
chmod +x "$other/cluster/kubectl.sh"
pm2 start "$other/cluster/kubectl.sh" --name binder-kubernetes-proxy --interpreter none -- proxy --port=8085 >/dev/null
"#;

async fn wrong_kubectl(site: Site<'_>) -> Result<(), FaultError> {
    silence(site).await?;
    site.host.script_as_user(OTHER_RELEASE, &[]).await?;
    let open = "ss -ltnH \"sport = :$1\" | grep -q . && pgrep -f 'kubernetes-0.9/cluster/kubectl.sh proxy'";
    shows(site.host, "the other release's kubectl serves 8085", open, &["8085"]).await
}
