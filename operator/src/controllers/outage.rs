//! What others say of a host that does not answer: its neighbours, asked over their own connections, and its cloud. I/O
//! only; what it means is [`crate::plan::outage`]'s to say.

use super::{Context, Error, chain, fleet, power};
use crate::catalogue;
use crate::hosts::{HttpPath, LocalHttp, Reach, Session};
use crate::plan::outage::{CloudSays, Outage, Says, Witness};
use crate::power::{Power, State};
use binder_crds::desired::Server;
use binder_crds::{BinderFleet, BinderHost, BinderHostSpec};
use futures::future::join_all;
use kube::ResourceExt;
use std::sync::Arc;

/// How many neighbours are asked. One that is sure is enough; a second one may see what the first cannot.
const NEIGHBOURS: usize = 2;

/// Asks whoever can be asked.
///
/// # Errors
/// [`Error`] when the API fails.
pub(super) async fn ask(
    context: &Context,
    namespace: &str,
    uid: &str,
    spec: &BinderHostSpec,
    of: Option<&BinderFleet>,
) -> Result<Outage, Error> {
    let neighbours = of.map(|of| neighbours(context, uid, of)).unwrap_or_default();
    let power = power::of(context, namespace, spec, None).await?;
    let (witnesses, cloud) = tokio::join!(
        join_all(neighbours.iter().map(|(host, session)| witness(host, session, spec))),
        cloud(power.as_ref()),
    );
    Ok(Outage { witnesses, cloud })
}

async fn cloud(power: Option<&Result<Box<dyn Power>, String>>) -> CloudSays {
    let power = match power {
        None => return CloudSays::NotAsked,
        Some(Err(why)) => return CloudSays::Unanswered(why.clone()),
        Some(Ok(power)) => power,
    };
    match power.state().await {
        Ok(instance) => match &instance.state {
            State::Running => CloudSays::Running,
            State::Stopped => CloudSays::Off,
            // A machine that its cloud is busy with, or that is asleep, is not ours to reset.
            State::Starting | State::Stopping | State::Suspended | State::Repairing | State::Unknown(_) => {
                CloudSays::Changing(instance.state.words().to_owned())
            }
        },
        Err(error) => CloudSays::Unanswered(chain(&error)),
    }
}

/// Other hosts of the fleet with an open connection, by name: whoever is asked first is asked first the next time too.
fn neighbours(context: &Context, uid: &str, of: &BinderFleet) -> Vec<(Arc<BinderHost>, Arc<Session>)> {
    let mut others: Vec<(Arc<BinderHost>, Arc<Session>)> = context
        .hosts
        .state()
        .into_iter()
        .filter(|host| host.uid().as_deref() != Some(uid) && fleet::governs(of, host))
        .filter_map(|host| {
            let session = context.ssh.open_session(&host.uid()?)?;
            Some((host, session))
        })
        .collect();
    // Who leads to the cluster can also ask for the cluster.
    others.sort_by_key(|(host, _)| (host.spec.desired.kubectl_proxy.is_none(), host.name_any()));
    others.truncate(NEIGHBOURS);
    others
}

async fn witness(host: &BinderHost, session: &Session, spec: &BinderHostSpec) -> Witness {
    let address = &spec.address.0;
    let desired = &spec.desired;
    let http = desired.servers.iter().map(|server| http_port(*server));
    let (ssh, servers, ports, cluster) = tokio::join!(
        session.is_greeted(address, spec.port),
        join_all(http.map(|port| answers(session, address, port))),
        join_all(
            silent_ports(spec).into_iter().map(|port| async move { (port, session.can_reach(address, port).await) })
        ),
        cluster(session, host, spec),
    );
    let mut said = Vec::new();
    let (mut alive, mut sure) = (false, true);
    match &ssh {
        Reach::Open => {
            alive = true;
            said.push("its SSH answers".to_owned());
        }
        Reach::Unknown(why) => {
            sure = false;
            said.push(why.clone());
        }
        Reach::TimedOut { .. } => said.push("its SSH is silent".to_owned()),
        other => said.push(format!("its SSH: {other}")),
    }
    for (port, answered) in servers {
        alive |= answered;
        said.push(if answered { format!("{port} answers") } else { format!("{port} does not answer") });
    }
    for (port, reach) in ports {
        alive |= reach == Reach::Open;
        said.push(format!("{port} is {}", if reach == Reach::Open { "open" } else { "closed" }));
    }
    if let Some(answered) = cluster {
        alive |= answered;
        said.push(format!("its Kubernetes API {}", if answered { "answers" } else { "does not answer" }));
    }
    let words = said.join(", ");
    let says = match (alive, sure) {
        (true, _) => Says::Alive(words),
        (false, true) => Says::Dead(words),
        (false, false) => Says::Unsure(words),
    };
    Witness { host: host.name_any(), says }
}

fn http_port(server: Server) -> u16 {
    catalogue::server(server).ports.first().copied().unwrap_or_default()
}

/// Ports of what is described there and does not speak HTTP.
fn silent_ports(spec: &BinderHostSpec) -> Vec<u16> {
    let services = spec.desired.services.iter().flat_map(|service| catalogue::service(*service).ports);
    let others = spec.desired.processes.iter().flat_map(|process| process.ports.iter().copied());
    services.chain(others).take(8).collect()
}

/// Whether a web server there answers anything at all.
async fn answers(session: &Session, address: &str, port: u16) -> (u16, bool) {
    let Ok(path) = HttpPath::of([]) else { return (port, false) };
    let request = LocalHttp { host: address.to_owned(), port, path, headers: Vec::new() };
    (port, session.http(request).await.is_ok())
}

/// Whether the cluster that the host serves answers through the neighbour's proxy.
async fn cluster(session: &Session, neighbour: &BinderHost, spec: &BinderHostSpec) -> Option<bool> {
    let proxy = neighbour.spec.desired.kubectl_proxy.as_ref().filter(|_| spec.desired.kubernetes_api.is_some())?;
    let path = HttpPath::of(["healthz"]).ok()?;
    let request = LocalHttp { host: "127.0.0.1".to_owned(), port: proxy.port, path, headers: Vec::new() };
    Some(session.http(request).await.is_ok_and(|answer| answer.status == 200))
}
