//! Faults of the cluster that Binder's apps run in: the routes of its proxy.

use super::{Act, Fault, FaultError, Healer, Site, Target, shows};
use crate::Host;
use crate::inventory::Role;

pub(super) const FAULTS: &[Fault] = &[Fault {
    name: "stale-routes",
    does: "Binder's proxy has three routes to apps whose namespaces are gone, beside one whose namespace is there",
    healed_by: Healer::Operator,
    target: Target::The(Role::WebDeploy),
    inflict: ADD_ROUTES,
    undo: None,
}];

const ADD_ROUTES: Act = |site| Box::pin(add_routes(site));

/// Apps that are not there. None of Binder's can have such an id but by the greatest of chances.
pub const STALE: [&str; 3] =
    ["dead0000000000000000000000000001", "dead0000000000000000000000000002", "dead0000000000000000000000000003"];
/// An app whose namespace is there.
pub const LIVE: &str = "beef0000000000000000000000000001";

/// Adds a route for each id to the real proxy, through its API, and a namespace for the first of them.
const ROUTES: &str = r#"
kubectl=~/kubernetes/cluster/kubectl.sh
$kubectl create namespace "$1" --dry-run=client -o yaml | $kubectl apply -f - >/dev/null
$kubectl label --overwrite namespace "$1" binder=true >/dev/null
CONFIGPROXY_AUTH_TOKEN=$($kubectl get pod proxy-server -o 'jsonpath={.spec.containers[0].env[0].value}')
PROXY=$($kubectl get service proxy-registration -o 'jsonpath={.status.loadBalancer.ingress[0].ip}')
export CONFIGPROXY_AUTH_TOKEN PROXY
exec node -e '
  const headers = { Authorization: "token " + process.env.CONFIGPROXY_AUTH_TOKEN }
  const main = async () => {
    for (const id of process.argv.slice(1)) {
      const url = `http://${process.env.PROXY}/api/routes/user/${id}`
      const answer = await fetch(url, { method: "POST", headers, body: JSON.stringify({ target: "http://198.19.0.1:8888" }) })
      if (answer.status !== 201) throw new Error(`${url}: HTTP ${answer.status}`)
    }
  }
  main().catch((error) => { console.error(String(error)); process.exit(1) })
' "$@"
"#;

/// Prints the paths of all routes, one a line.
pub const LIST_ROUTES: &str = r#"
kubectl=~/kubernetes/cluster/kubectl.sh
CONFIGPROXY_AUTH_TOKEN=$($kubectl get pod proxy-server -o 'jsonpath={.spec.containers[0].env[0].value}')
PROXY=$($kubectl get service proxy-registration -o 'jsonpath={.status.loadBalancer.ingress[0].ip}')
export CONFIGPROXY_AUTH_TOKEN PROXY
exec node -e '
  const headers = { Authorization: "token " + process.env.CONFIGPROXY_AUTH_TOKEN }
  fetch(`http://${process.env.PROXY}/api/routes`, { headers }).then((answer) => answer.json())
    .then((routes) => Object.keys(routes).forEach((path) => console.log(path)))
    .catch((error) => { console.error(String(error)); process.exit(1) })
'
"#;

async fn add_routes(site: Site<'_>) -> Result<(), FaultError> {
    let look = |host: Host| async move {
        // The proxy's pod and its service may just be made anew: until they are there, it is tried again.
        let added = host.script_as_user(ROUTES, &[LIVE, STALE[0], STALE[1], STALE[2]]).await;
        added.map_err(|error| crate::said(&error))?;
        let routes = host.script_as_user(LIST_ROUTES, &[]).await.map_err(|error| crate::said(&error))?;
        let there = |id: &str| routes.lines().any(|path| path.strip_prefix("/user/") == Some(id));
        if STALE.iter().all(|id| there(id)) && there(LIVE) { Ok(()) } else { Err(routes) }
    };
    site.host.until("the proxy has the routes", super::SHOWS, look).await?;
    shows(
        site.host,
        "no namespace is there for them",
        "! runuser -u andrew -- env HOME=/home/andrew /home/andrew/kubernetes/cluster/kubectl.sh get namespace \"$1\"",
        &[STALE[0]],
    )
    .await
}
