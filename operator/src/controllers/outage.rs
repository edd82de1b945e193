//! What others say of a host that does not answer: its neighbours, asked over their own connections, and its cloud. I/O
//! only: testimony is handed over as data, and what it means is [`binder_core::plan::outage`]'s to say.
//!
//! A witness is believed only where it was greeted before, so while hosts are well, a few neighbours of each are greeted by it
//! now and then ([`greet`]). Who was is kept in the host's status, so that it is known after a restart as well.

use super::secrets::Age;
use super::{Context, Error, chain, fleet, power};
use crate::hosts::{Greeting as Answer, Reach};
use crate::machines::{Machine, Outside};
use crate::observe::Eyes;
use crate::power::{Power, State};
use binder_core::catalogue::{self, Component};
use binder_core::facets::step::CloudCall;
use binder_core::facets::{How, Step, services};
use binder_core::plan;
use binder_core::plan::outage::{
    Addressed, Belongs, Carrier, CloudSays, Greeting, Heard, Instance, Outage, Over, Testimony, Witness, belongs,
    greets, preference, proven,
};
use binder_core::seen::kubernetes::{NodeInstance, Nodes};
use binder_core::seen::proxy::Cluster;
use binder_core::seen::settings::Settings;
use binder_core::seen::{Fact, Observation};
use binder_crds::desired::Server;
use binder_crds::host::ProvenAt;
use binder_crds::references::HostPower;
use binder_crds::text::Checked;
use binder_crds::{BinderFleet, BinderHost, BinderHostSpec};
use futures::future::join_all;
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How many neighbours are asked. One that is sure is enough; a second one may see what the first cannot.
const NEIGHBOURS: usize = 2;

/// How many neighbours each host greets while it is well. More than are asked, since one may be away itself.
const GREETED_BY: usize = 3;

/// A greeting is asked for anew after this time: often enough to notice a firewall that has changed, seldom enough to be no
/// load for anybody's sshd, which also counts connections that never log in.
const GREETED_EVERY: Duration = Duration::from_secs(10 * 60);

/// One that did not come is asked for again after this time.
const MISSED_AGAIN: Duration = Duration::from_secs(60);

/// Between two times that a host's neighbours are gone through: soon in a small fleet, where it is no work.
const ROUND: Duration = Duration::from_secs(5);

/// The same in a fleet of more than [`FEW`] hosts.
const LONG_ROUND: Duration = Duration::from_secs(60);

/// As many hosts are few.
const FEW: usize = 50;

/// As many are greeted after one look.
const AT_ONCE: usize = 4;

/// How often a cloud is asked which machine the instance of a host is that can be looked at: one question in an hour for each
/// host. Compute Engine asks no money for it, and allows 1500 reads a minute in a project.
const WHICH_AGAIN: Duration = Duration::from_secs(60 * 60);

/// The same where it did not answer.
const WHICH_MISSED: Duration = Duration::from_secs(10 * 60);

/// As long a look waits for that answer.
const WHICH: Duration = Duration::from_secs(5);

/// As many ports of what is described are asked beside SSH.
const PORTS: usize = 8;

/// As long the last look before a restart waits for a connection, and then for a greeting.
const LAST_LOOK: Duration = Duration::from_secs(3);

/// What the operator remembers of who has greeted whom, and of what proxies told. Lost with the process; who was greeted is in
/// status as well.
#[derive(Debug, Default)]
pub(crate) struct Neighbours(Mutex<Remembered>);

/// What witnesses were told by one endpoint: by a witness's UID, its name and that.
type Witnesses = HashMap<String, (String, Greeting<Instant>)>;

/// By a host's name, the names of those for whom it has to be greeted.
type Vouching = HashMap<String, BTreeSet<String>>;

/// Which machine an instance is, as its cloud told.
#[derive(Debug, Clone)]
struct Asked {
    at: Instant,
    /// The host's address and what is described of its power: another description is another question.
    of: (String, HostPower),
    instance: Option<Instance>,
    address: Addressed,
}

#[derive(Debug, Default)]
struct Remembered {
    /// By the address and port that greets, and the witness's UID; with the witness's name.
    greetings: HashMap<(String, u16), Witnesses>,
    /// When each host was last looked at, by UID.
    seen: HashMap<String, Instant>,
    /// When each host's neighbours were last gone through, by UID.
    rounds: HashMap<String, Instant>,
    /// Which cluster each host's kubectl proxy told of last, by UID.
    clusters: HashMap<String, String>,
    /// What each host's cloud said last of which machine its instance is, by UID.
    instances: HashMap<String, Asked>,
    /// Who has to be greeted by whom, by the fleet's UID, with the [`shape`] for which it was worked out.
    vouching: HashMap<String, (u64, Arc<Vouching>)>,
    /// What each host's settings said last, by UID: on which ports its servers are asked from elsewhere.
    settings: HashMap<String, Settings>,
}

impl Neighbours {
    fn lock(&self) -> MutexGuard<'_, Remembered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets a host that is gone.
    pub(crate) fn forget(&self, uid: &str) {
        let mut all = self.lock();
        all.greetings.values_mut().for_each(|witnesses| drop(witnesses.remove(uid)));
        all.greetings.retain(|_, witnesses| !witnesses.is_empty());
        all.seen.remove(uid);
        all.rounds.remove(uid);
        all.clusters.remove(uid);
        all.settings.remove(uid);
        all.instances.remove(uid);
    }

    /// For whom a host has to be greeted. Worked out once for the hosts of a fleet as they are, since it takes each of them with
    /// each other one.
    fn vouches_for(&self, of: &BinderFleet, all: &[Arc<BinderHost>], name: &str) -> BTreeSet<String> {
        let (fleet, shape) = (of.uid().unwrap_or_default(), shape(all));
        let known =
            self.lock().vouching.get(&fleet).filter(|(known, _)| *known == shape).map(|(_, all)| Arc::clone(all));
        let all = known.unwrap_or_else(|| {
            let new = Arc::new(vouching(all));
            self.lock().vouching.insert(fleet, (shape, Arc::clone(&new)));
            new
        });
        all.get(name).cloned().unwrap_or_default()
    }

    /// Forgets fleets that are gone.
    pub(crate) fn keep_fleets(&self, there: &HashSet<String>) {
        self.lock().vouching.retain(|fleet, _| there.contains(fleet));
    }

    /// Which cluster a host's kubectl proxy told of when it last told.
    pub(crate) fn cluster(&self, uid: &str) -> Option<String> {
        self.lock().clusters.get(uid).cloned()
    }

    /// What a host's settings said when they were last read; not asked while they never were.
    pub(crate) fn settings(&self, uid: &str) -> Fact<Settings> {
        self.lock().settings.get(uid).cloned().map_or(Fact::NotAsked, Fact::Seen)
    }

    /// The port on which one of a host's servers is asked, once the host's settings were read.
    pub(crate) fn port(&self, uid: &str, server: Server) -> Option<u16> {
        let settings = self.settings(uid);
        settings.seen().and_then(|_| services::port(server, &settings).ok())
    }
}

/// A host that was looked at: this is remembered, and those of its neighbours that it has to know are asked for a greeting, in
/// the background.
pub(super) fn seen(
    context: &Context,
    host: &BinderHost,
    uid: &str,
    of: Option<&BinderFleet>,
    seen: &Observation,
    session: Option<&Arc<dyn Machine>>,
) {
    let now = Instant::now();
    {
        let mut all = context.neighbours.lock();
        all.seen.insert(uid.to_owned(), now);
        if let Fact::Seen(proxy) = &seen.proxy
            && let Cluster::Identity(identity) = &proxy.cluster
        {
            all.clusters.insert(uid.to_owned(), identity.clone());
        }
        if let Fact::Seen(settings) = &seen.settings {
            all.settings.insert(uid.to_owned(), settings.clone());
        }
        let round = if of.is_some_and(|of| of.spec.hosts.len() > FEW) { LONG_ROUND } else { ROUND };
        if all.rounds.get(uid).is_some_and(|last| now.duration_since(*last) < round) {
            return;
        }
        all.rounds.insert(uid.to_owned(), now);
    }
    let (Some(of), Some(session)) = (of, session) else { return };
    greet(context, host, uid, of, session, now);
}

/// Has a host greeted by the neighbours that it is to vouch for, where that is due.
fn greet(context: &Context, host: &BinderHost, uid: &str, of: &BinderFleet, session: &Arc<dyn Machine>, now: Instant) {
    let all = fleet::members(context, of);
    let name = host.name_any();
    let vouches_for = context.neighbours.vouches_for(of, &all, &name);
    let mut due: Vec<(String, u16)> = Vec::new();
    {
        let remembered = context.neighbours.lock();
        for other in all.iter().filter(|other| vouches_for.contains(&other.name_any())) {
            // Where the operator itself was never let in, no neighbour is sent to ask either: any address can be described.
            if !other.uid().is_some_and(|other| remembered.seen.contains_key(&other)) {
                continue;
            }
            let place = (other.spec.address.0.clone(), other.spec.port);
            let record = remembered.greetings.get(&place).and_then(|witnesses| witnesses.get(uid));
            let fresh = record.is_some_and(|(_, record)| {
                let within = |at: Option<Instant>, limit| at.is_some_and(|at| now.duration_since(at) < limit);
                within(record.greeted, GREETED_EVERY) || within(record.missed, MISSED_AGAIN)
            });
            if !fresh {
                due.push(place);
            }
            if due.len() == AT_ONCE {
                break;
            }
        }
    }
    if due.is_empty() {
        return;
    }
    let (neighbours, session, uid) = (Arc::clone(&context.neighbours), Arc::clone(session), uid.to_owned());
    tokio::spawn(async move {
        // One after another: sshd does not say which of several connections a refusal belongs to.
        for (address, port) in due {
            let greeted = session.greeting(&address, port, &[]).await == Answer::Ssh;
            if !greeted && !session.is_alive().await {
                return;
            }
            let at = Instant::now();
            let mut all = neighbours.lock();
            let witnesses = all.greetings.entry((address, port)).or_default();
            let (_, record) = witnesses.entry(uid.clone()).or_insert_with(|| (name.clone(), Greeting::default()));
            if greeted {
                record.greeted = Some(at);
            } else {
                record.missed = Some(at);
            }
        }
    });
}

/// For whom each host is among the first that would be asked, by the host's name: it has to be greeted there.
fn vouching(all: &[Arc<BinderHost>]) -> Vouching {
    let mut vouching = Vouching::new();
    for other in all {
        let of = other.name_any();
        let near = |witness: &BinderHost| other.spec.domain.is_some() && witness.spec.domain == other.spec.domain;
        let witnesses = all.iter().filter(|witness| witness.name_any() != of);
        let mut ranked: Vec<_> = witnesses
            .map(|witness| {
                let name = witness.name_any();
                (preference(&name, &of, true, near(witness)), name)
            })
            .collect();
        ranked.sort_unstable();
        for (_, witness) in ranked.into_iter().take(GREETED_BY) {
            vouching.entry(witness).or_default().insert(of.clone());
        }
    }
    vouching
}

/// What of a fleet's hosts [`vouching`] rests on.
fn shape(all: &[Arc<BinderHost>]) -> u64 {
    let mut hash = DefaultHasher::new();
    for host in all {
        (host.name_any(), host.spec.domain.as_ref().map(|domain| domain.0.as_str())).hash(&mut hash);
    }
    hash.finish()
}

/// Who was greeted by a host, as far as it is remembered.
pub(super) fn greeted_by(
    context: &Context,
    uid: &str,
    spec: &BinderHostSpec,
    of: Option<&BinderFleet>,
    previous: Option<&ProvenAt>,
) -> BTreeSet<String> {
    let Some(of) = of else { return BTreeSet::new() };
    let remembered = context.neighbours.lock();
    let place = (spec.address.0.clone(), spec.port);
    let records: Vec<(String, Greeting<Instant>)> =
        remembered.greetings.get(&place).map(|witnesses| witnesses.values().cloned().collect()).unwrap_or_default();
    let mut names = greets(proven(previous, spec), &records, remembered.seen.get(uid).copied());
    drop(remembered);
    let namespace = of.namespace().unwrap_or_default();
    names.retain(|name| context.hosts.get(&ObjectRef::new(name).within(&namespace)).is_some());
    names
}

/// Asks whoever can be asked about a host that is silent. `greeted` are those that it has greeted before.
///
/// # Errors
/// [`Error`] when the API fails.
pub(super) async fn ask(
    context: &Context,
    namespace: &str,
    host: &BinderHost,
    spec: &BinderHostSpec,
    of: Option<&BinderFleet>,
    greeted: BTreeSet<String>,
) -> Result<Outage, Error> {
    let neighbours = of.map(|of| neighbours(context, host, of, &greeted)).unwrap_or_default();
    let power = power::of(context, namespace, spec, None, Age::for_looks(plan::usual(spec))).await?;
    let settings = host.uid().map_or(Fact::NotAsked, |uid| context.neighbours.settings(&uid));
    let asked = questions(spec, &settings);
    let (witnesses, (cloud, instance), address) = tokio::join!(
        join_all(neighbours.iter().map(|(host, session)| witness(host, &**session, spec, &asked, &greeted))),
        cloud(power.as_ref()),
        context.outside.resolve(&spec.address.0),
    );
    power::doubt(context, namespace, spec, &cloud);
    Ok(Outage { witnesses, cloud, instance, address, greets: greeted })
}

/// Asks the cloud alone which machine the instance is: for a host that answers otherwise than ours does, or to which there is
/// no way. No neighbour is asked, since nothing is done about such a host.
///
/// # Errors
/// [`Error`] when the API fails.
pub(super) async fn ask_which(
    context: &Context,
    namespace: &str,
    spec: &BinderHostSpec,
    greeted: BTreeSet<String>,
) -> Result<Outage, Error> {
    let power = power::of(context, namespace, spec, None, Age::for_looks(plan::usual(spec))).await?;
    let ((cloud, instance), address) = tokio::join!(cloud(power.as_ref()), context.outside.resolve(&spec.address.0));
    power::doubt(context, namespace, spec, &cloud);
    Ok(Outage { witnesses: Vec::new(), cloud, instance, address, greets: greeted })
}

/// Which machine a host's instance is, for a host that can be looked at: a mistake in the description is said before it is needed.
/// The cloud is asked once the host was logged in to, and then seldom; in between, what it said last is so.
///
/// # Errors
/// [`Error`] when the API fails.
pub(super) async fn which(
    context: &Context,
    namespace: &str,
    uid: &str,
    spec: &BinderHostSpec,
) -> Result<(Option<Instance>, Addressed), Error> {
    let Some(described) = spec.power.clone().filter(|power| power.gce.is_some()) else {
        return Ok((None, Addressed::NotAsked));
    };
    let of = (spec.address.0.clone(), described);
    let known = context.neighbours.lock().instances.get(uid).filter(|asked| asked.of == of).cloned();
    if let Some(asked) = known.filter(|asked| {
        let good_for = if asked.instance.is_some() { WHICH_AGAIN } else { WHICH_MISSED };
        asked.at.elapsed() < good_for
    }) {
        return Ok((asked.instance, asked.address));
    }
    let power = power::of(context, namespace, spec, None, Age::for_looks(plan::usual(spec))).await?;
    let question = async { tokio::join!(cloud(power.as_ref()), context.outside.resolve(&spec.address.0)) };
    // The look at the host is not to get old over it.
    let (instance, address) = match tokio::time::timeout(WHICH, question).await {
        Ok(((said, instance), address)) => {
            power::doubt(context, namespace, spec, &said);
            (instance, address)
        }
        Err(_) => (None, Addressed::NotAsked),
    };
    let asked = Asked { at: Instant::now(), of, instance: instance.clone(), address: address.clone() };
    context.neighbours.lock().instances.insert(uid.to_owned(), asked);
    Ok((instance, address))
}

async fn cloud(power: Option<&Result<Box<dyn Power>, String>>) -> (CloudSays, Option<Instance>) {
    let power = match power {
        None => return (CloudSays::NotAsked, None),
        Some(Err(why)) => return (CloudSays::Unanswered(why.clone()), None),
        Some(Ok(power)) => power,
    };
    match power.state().await {
        Ok(found) => {
            let instance = Instance {
                name: power.instance().to_owned(),
                addresses: found.addresses.clone(),
                on_for: found.on_for(),
            };
            let says = match &found.state {
                State::Running => CloudSays::Running,
                State::Stopped => CloudSays::Off,
                // A machine that its cloud is busy with, or that is asleep, is not ours to reset.
                State::Starting | State::Stopping | State::Suspended | State::Repairing | State::Unknown(_) => {
                    CloudSays::Changing(found.state.words().to_owned())
                }
            };
            (says, Some(instance))
        }
        Err(error) => (CloudSays::Unanswered(chain(&error)), None),
    }
}

/// Other hosts of the fleet with an open connection, those that can tell most first.
fn neighbours(
    context: &Context,
    of: &BinderHost,
    fleet: &BinderFleet,
    greeted: &BTreeSet<String>,
) -> Vec<(Arc<BinderHost>, Arc<dyn Machine>)> {
    let mut others: Vec<(Arc<BinderHost>, Arc<dyn Machine>)> = fleet::members(context, fleet)
        .iter()
        .filter(|host| host.uid() != of.uid())
        .filter_map(|host| {
            let session = context.ssh.open_session(&host.uid()?)?;
            Some((Arc::clone(host), session))
        })
        .collect();
    let near = |host: &BinderHost| of.spec.domain.is_some() && host.spec.domain == of.spec.domain;
    others.sort_by_key(|(host, _)| {
        let name = host.name_any();
        preference(&name, &of.name_any(), greeted.contains(&name), near(host))
    });
    others.truncate(NEIGHBOURS);
    others
}

/// What one neighbour hears of a host.
async fn witness(
    host: &BinderHost,
    session: &dyn Machine,
    spec: &BinderHostSpec,
    asked: &[(Over, u16)],
    greeted: &BTreeSet<String>,
) -> Witness {
    let name = host.name_any();
    let carrier = async || if session.is_alive().await { Carrier::Alive } else { Carrier::Unproven };
    let before = carrier().await;
    let heard = if before == Carrier::Alive {
        join_all(asked.iter().map(|(over, port)| question(session, &spec.address.0, *over, *port))).await
    } else {
        Vec::new()
    };
    let after = carrier().await;
    let domain = host.spec.domain.as_ref().map(|domain| domain.0.clone());
    Witness { greeted: greeted.contains(&name), host: name, domain, before, after, heard }
}

/// What is asked of a silent host: its sshd, and the ports of what is described there, each as its protocol wants. The ports are
/// those that its settings said last; where nobody has read them since the operator started, the usual ones.
fn questions(spec: &BinderHostSpec, settings: &Fact<Settings>) -> Vec<(Over, u16)> {
    let desired = &spec.desired;
    let mut all = vec![(Over::Ssh, spec.port)];
    let ports = |component: Component| {
        services::with_settings(component, settings).map(|component| component.ports).unwrap_or_default()
    };
    for server in &desired.servers {
        all.extend(ports(catalogue::server(*server)).into_iter().map(|port| (Over::Http, port)));
    }
    all.extend(desired.kubernetes_api.iter().map(|api| (Over::Http, api.own_port())));
    for service in &desired.services {
        let service = catalogue::service(*service);
        let over = if service.name == "db" { Over::MongoDb } else { Over::Tcp };
        all.extend(ports(service).into_iter().map(|port| (over, port)));
    }
    all.extend(desired.processes.iter().flat_map(|process| process.ports.iter().map(|port| (Over::Tcp, *port))));
    all.truncate(1 + PORTS);
    all
}

/// What anybody who speaks HTTP answers, if only with an error; so does a server that wants TLS.
const HTTP: &[u8] = b"GET / HTTP/1.0\r\n\r\n";

/// `isMaster` as MongoDB's drivers have always greeted, an OP_QUERY on `admin.$cmd`, which servers of all versions answer:
/// length 58, request 1, opcode 2004; no flags, one document; `{isMaster: 1}`.
const MONGODB: &[u8] = b"\x3a\0\0\0\x01\0\0\0\0\0\0\0\xd4\x07\0\0\0\0\0\0admin.$cmd\0\0\0\0\0\xff\xff\xff\xff\x13\0\0\0\x10isMaster\0\x01\0\0\0\0";

async fn question(session: &dyn Eyes, address: &str, over: Over, port: u16) -> Testimony {
    let opener = match over {
        Over::Ssh | Over::Tcp => &[][..],
        Over::Http => HTTP,
        Over::MongoDb => MONGODB,
    };
    let heard = match session.greeting(address, port, opener).await {
        Answer::Ssh | Answer::Spoke => Heard::Spoke,
        Answer::Silent => Heard::AcceptedSilent,
        Answer::Ended => Heard::Ended,
        Answer::Not(Reach::Refused) => Heard::Refused,
        Answer::Not(Reach::TimedOut { .. }) => Heard::TimedOut,
        Answer::Not(Reach::NoRoute) => Heard::NoRoute,
        Answer::Not(Reach::NameNotFound) => Heard::NameNotFound,
        Answer::Not(Reach::Unknown(why)) => Heard::Unknown(why),
        Answer::Not(Reach::Open) => Heard::Unknown("it is open".to_owned()),
    };
    Testimony { over, port, heard }
}

/// What the cloud says of the instances of nodes that are not Ready, where they may be restarted.
///
/// # Errors
/// [`Error`] when the API fails.
pub(super) async fn look_at_nodes(
    context: &Context,
    namespace: &str,
    spec: &BinderHostSpec,
    of: Option<&BinderFleet>,
    seen: &mut Observation,
) -> Result<(), Error> {
    if !spec.desired.kubernetes_api.as_ref().is_some_and(|api| api.may_restart_nodes) {
        return Ok(());
    }
    let Fact::Seen(api) = &mut seen.kubernetes else { return Ok(()) };
    let own = api.nodes_are_its_own();
    let Ok(Nodes { not_ready, instances, .. }) = &mut api.nodes else { return Ok(()) };
    if !own {
        return Ok(());
    }
    for node in not_ready.iter() {
        let instance = node_instance(context, namespace, spec, of, node).await?;
        instances.insert(node.clone(), instance);
    }
    Ok(())
}

/// What the cloud says of a node's instance.
async fn node_instance(
    context: &Context,
    namespace: &str,
    spec: &BinderHostSpec,
    of: Option<&BinderFleet>,
    node: &str,
) -> Result<Result<NodeInstance, String>, Error> {
    let Some(own) = spec.power.as_ref().and_then(|power| power.gce.as_ref()) else {
        return Ok(Err("the master has no power.gce, which says where instances are".to_owned()));
    };
    if binder_crds::text::CloudName::from(node).checked().is_err() {
        return Ok(Err("its name is not a valid instance name".to_owned()));
    }
    let listed = of.is_some_and(|of| {
        fleet::members(context, of).iter().any(|host| {
            let gce = host.spec.power.as_ref().and_then(|power| power.gce.as_ref());
            gce.is_some_and(|gce| gce.instance.0 == node && gce.project == own.project && gce.zone == own.zone)
        })
    });
    let power = power::of(context, namespace, spec, Some(node), Age::for_looks(plan::usual(spec))).await?;
    Ok(match power {
        None => Err("the master has no power.gce, which says where instances are".to_owned()),
        Some(Err(why)) => Err(why),
        Some(Ok(power)) => match power.state().await {
            Ok(found) => Ok(NodeInstance {
                listed,
                labels: found.labels,
                not_running: (found.state != State::Running).then(|| found.state.words().to_owned()),
            }),
            Err(error) => Err(chain(&error)),
        },
    })
}

/// The last look before the cloud restarts or starts something: the machine is knocked at and the cloud is asked, both once
/// more. In words what speaks against it now; `None` when nothing does.
pub(super) async fn objection(
    outside: &dyn Outside,
    spec: &BinderHostSpec,
    step: &Step,
    power: &dyn Power,
    unreachable_timeout: Duration,
) -> Option<String> {
    let How::Cloud(call) = step.how() else { return None };
    let (wanted, node) = match call {
        CloudCall::Reset => (State::Running, false),
        CloudCall::Start => (State::Stopped, false),
        CloudCall::RestartNode { .. } => (State::Running, true),
        CloudCall::AddKey { .. } => return None,
    };
    let knocks = async { if node { None } else { Some(outside.knock(&spec.address.0, spec.port, LAST_LOOK).await) } };
    let (heard, found, address) = tokio::join!(knocks, power.state(), outside.resolve(&spec.address.0));
    match heard {
        None | Some(Answer::Not(Reach::TimedOut { .. }) | Answer::Silent) => {}
        // An instance that is off has no way to it, whatever the operator's network says of that.
        Some(Answer::Not(Reach::NoRoute)) if wanted == State::Stopped => {}
        Some(Answer::Ssh | Answer::Spoke | Answer::Ended) => return Some("the machine answers again".to_owned()),
        Some(Answer::Not(reach)) => return Some(format!("the machine is not silent any more: {reach}")),
    }
    let found = match found {
        Ok(found) => found,
        Err(error) => return Some(format!("the cloud does not answer: {}", chain(&error))),
    };
    if found.state != wanted {
        return Some(format!("its cloud says that it is {}", found.state.words()));
    }
    if node {
        return None;
    }
    let booting = found.on_for().and_then(|on_for| Duration::try_from(on_for).ok());
    if wanted == State::Running && booting.is_some_and(|on_for| on_for < unreachable_timeout) {
        return Some("its cloud says that it was started just now".to_owned());
    }
    let instance =
        Instance { name: power.instance().to_owned(), addresses: found.addresses.clone(), on_for: found.on_for() };
    let outage = Outage { instance: Some(instance), address, ..Outage::default() };
    match belongs(&spec.address.0, &outage) {
        Belongs::Yes => None,
        Belongs::No(why) | Belongs::Unknown(why) => Some(why),
    }
}

/// Of the hosts of one fleet, by name, the first that is described as the same machine as another: one address and port, or one
/// instance. With its name and what they share.
pub(super) fn twin(host: &BinderHost, fleet: &[Arc<BinderHost>]) -> Option<String> {
    let gce = |host: &BinderHost| {
        let gce = host.spec.power.as_ref()?.gce.as_ref()?;
        Some((gce.project.0.clone(), gce.zone.0.clone(), gce.instance.0.clone()))
    };
    let own = gce(host);
    fleet.iter().filter(|other| other.metadata.uid != host.metadata.uid).find_map(|other| {
        let same_place = (&other.spec.address, other.spec.port) == (&host.spec.address, host.spec.port);
        let instance = own.as_ref().filter(|own| gce(other).as_ref() == Some(*own)).map(|(_, _, instance)| instance);
        if !(same_place || instance.is_some()) {
            return None;
        }
        let name = other.name_any();
        Some(match instance {
            _ if same_place => {
                format!("{name} has the same address and port, {}:{}", host.spec.address, host.spec.port)
            }
            Some(instance) => format!("{name} has the same instance, {instance}"),
            None => name,
        })
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::*;
    use binder_core::seen::Answer::Said;
    use binder_core::seen::settings;
    use binder_crds::references::{GceHost, HostPower};
    use binder_crds::{Desired, desired};

    #[test]
    fn the_question_to_a_database_is_whole() {
        assert_eq!(MONGODB.len(), usize::from(MONGODB[0]));
        let document = &MONGODB[MONGODB.len() - 19..];
        let document = mongodb::bson::Document::from_reader(document);
        assert!(document.is_ok(), "{document:?}");
    }

    #[test]
    fn a_silent_host_is_asked_over_what_is_described_there() {
        let spec = BinderHostSpec {
            port: 2222,
            desired: Desired {
                servers: vec![Server::Web],
                services: vec![desired::Service::Db],
                kubernetes_api: Some(desired::KubernetesApi::default()),
                ..Desired::default()
            },
            ..BinderHostSpec::default()
        };
        let all = questions(&spec, &Fact::NotAsked);
        for question in [(Over::Ssh, 2222), (Over::Http, 3000), (Over::Http, 6443), (Over::MongoDb, 9050)] {
            assert!(all.contains(&question), "{question:?} in {all:?}");
        }
        // As the host's settings said last.
        let moved = b"conf web {\"port\": 8080}\nconf db {\"port\": 27017}\nend\n".to_vec();
        let moved = Fact::Seen(settings::read(Some(&Said { bytes: moved, exit: 0 })).unwrap());
        let all = questions(&spec, &moved);
        assert!(all.contains(&(Over::Http, 8080)) && all.contains(&(Over::MongoDb, 27017)), "{all:?}");
        assert!(!all.contains(&(Over::Http, 3000)) && !all.contains(&(Over::MongoDb, 9050)), "{all:?}");
    }

    fn host(name: &str, address: &str, port: u16, instance: Option<&str>) -> Arc<BinderHost> {
        let gce = |instance: &str| GceHost { instance: instance.into(), zone: "z".into(), ..GceHost::default() };
        let power = instance.map(|instance| HostPower { gce: Some(gce(instance)), may_start: false });
        let spec = BinderHostSpec { address: address.into(), port, power, ..BinderHostSpec::default() };
        let mut host = BinderHost::new(name, spec);
        host.metadata.uid = Some(format!("uid-{name}"));
        Arc::new(host)
    }

    #[test]
    fn two_hosts_with_one_endpoint_or_one_instance_are_one_machine() {
        let all = [
            host("a", "192.0.2.1", 22, Some("one")),
            host("b", "192.0.2.1", 22, Some("two")),
            host("c", "192.0.2.1", 2222, Some("one")),
            host("d", "192.0.2.2", 22, Some("three")),
            host("e", "192.0.2.3", 22, None),
            host("f", "192.0.2.4", 22, None),
        ];
        let says = |index: usize| twin(&all[index], &all).unwrap_or_default();
        assert_eq!(says(0), "b has the same address and port, 192.0.2.1:22");
        assert_eq!(says(1), "a has the same address and port, 192.0.2.1:22");
        assert_eq!(says(2), "a has the same instance, one");
        assert!([3, 4, 5].into_iter().all(|index| says(index).is_empty()));
    }

    #[test]
    fn every_host_is_known_by_some_neighbours_and_nobody_by_all() {
        let all: Vec<Arc<BinderHost>> =
            (0..40).map(|n| host(&format!("h{n}"), &format!("192.0.2.{n}"), 22, None)).collect();
        let vouching = vouching(&all);
        for of in &all {
            let name = of.name_any();
            assert!(!vouching.get(&name).is_some_and(|others| others.contains(&name)));
            assert_eq!(vouching.values().filter(|others| others.contains(&name)).count(), GREETED_BY);
        }
        let pair = &all[..2];
        assert_eq!(super::vouching(pair)["h1"], BTreeSet::from(["h0".to_owned()]));
        assert_ne!(shape(&all), shape(pair));
    }
}
