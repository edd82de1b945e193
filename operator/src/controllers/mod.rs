//! Watch, call the loop, record: the part of the operator that knows the Kubernetes API.

mod access;
mod actions;
mod api;
mod backups;
mod brake;
mod disruption;
mod fleet;
mod host;
mod keys;
mod members;
mod outage;
mod pace;
mod power;
mod record;
mod secrets;
#[cfg(test)]
mod tests;

pub use self::api::{CannotConnect, Clients};
pub(crate) use crate::chain::chain;
use crate::clock::{Clock, Dice};
use crate::config::Config;
use crate::heartbeat::{self, Heartbeat};
use crate::hosts::{Hosts, sanitize};
use crate::machines::{Machine, Outside, Surroundings};
use crate::metrics::Metrics;
use binder_core::plan::evidence::Demanded;
use binder_core::seen::history::EarlierLooks;
use binder_core::status::failed::Failed;
use binder_crds::{BinderAction, BinderFleet, BinderHost, BinderHostStatus};
use futures::{Stream, StreamExt, TryStreamExt};
use jiff::Timestamp;
use kube::runtime::controller::{self, Controller};
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{WatchStreamExt, predicates, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::SetOnce;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The name under which the operator writes: field manager and event source.
pub const MANAGER: &str = "binder-operator";

/// The first pause after an error of the API; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause after errors of the API.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How long one pass may take: a look (its sections and questions run side by side, 20 s), witnesses, a step (at most 60 s),
/// and the calls to the API around them, each limited by itself.
const PASS: Duration = Duration::from_secs(240);

/// What every reconciliation shares.
pub struct Context {
    pub(crate) client: Client,
    pub(crate) ssh: Hosts<dyn Machine>,
    pub(crate) outside: Arc<dyn Outside>,
    pub(crate) clock: Clock,
    pub(crate) dice: Dice,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) config: Config,
    pub(crate) recorder: Recorder,
    pub(crate) hosts: Store<BinderHost>,
    pub(crate) fleets: Store<BinderFleet>,
    pub(crate) actions: actions::Actions,
    /// True once the operator has been told to end: nothing new is begun.
    pub(crate) stop: CancellationToken,
    /// Hosts by their fleets.
    pub(crate) members: Arc<members::Members>,
    pub(crate) secrets: secrets::Secrets,
    /// Held from the last look at the budget until the intention to disrupt a host is recorded.
    pub(crate) disrupting: tokio::sync::Mutex<()>,
    pub(crate) key_search: keys::Search,
    pub(crate) backups: backups::Seen,
    pub(crate) brakes: brake::Brakes,
    pub(crate) altered: fleet::Altered,
    pub(crate) neighbours: Arc<outage::Neighbours>,
    /// True once hosts, fleets and actions have been read, all of them: what a fleet forbids and what was tried is not known
    /// before.
    /// Whoever waits goes on in the order in which they came; a `watch` channel would wake them by the dice.
    pub(crate) read: SetOnce<()>,
    known: Mutex<HashMap<String, HostCache>>,
    /// Errors in a row, of fleets by their UID.
    fleet_errors: Mutex<HashMap<String, u32>>,
}

/// What the operator itself remembers of one host between two looks. All of it can be read back from the API, or is only
/// there to wait longer.
#[derive(Clone, Debug, Default)]
pub(crate) struct HostCache {
    /// The status that it wrote last: the cache may not have caught up with it.
    pub(crate) status: Option<BinderHostStatus>,
    /// When it wrote that.
    pub(crate) wrote: Option<Instant>,
    /// The steps that the last look led to, for the next one to confirm.
    pub(crate) demanded: Demanded,
    /// What earlier looks know; lost with the process, and then learned again.
    pub(crate) history: EarlierLooks,
    /// Errors of the API in a row.
    pub(crate) errors: u32,
    /// How slow the looks at it were.
    pub(crate) slowness: pace::Slowness,
    /// Whether it was looked at since the operator started.
    pub(crate) looked_at: bool,
    /// When the last look ended, and at which generation of the spec.
    pub(crate) last_look: Option<(Instant, i64)>,
    /// BinderActions that somebody else wrote and that were said once.
    pub(crate) strangers: HashSet<String>,
    /// The BinderAction after which a refused login was tried once more.
    pub(crate) tried_login_after: Option<String>,
    /// Namespace and name, for when the object is gone.
    pub(crate) namespace: String,
    /// See `namespace`.
    pub(crate) name: String,
}

impl Context {
    /// What is known of a host; kept by its UID, so that a host of the same name made later is another one.
    pub(crate) fn known(&self) -> MutexGuard<'_, HashMap<String, HostCache>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An API for one namespace's objects.
    pub(crate) fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// The pause after an error with a host, longer with each in a row. A host that is not known (any more) is not
    /// remembered for it.
    pub(crate) fn pause(&self, uid: &str) -> Duration {
        let mut known = self.known();
        let mut first = 0;
        let errors = known.get_mut(uid).map_or(&mut first, |known| &mut known.errors);
        longer(errors)
    }

    /// The same with a fleet.
    pub(crate) fn fleet_pause(&self, uid: &str) -> Duration {
        let mut errors = self.fleet_errors.lock().unwrap_or_else(PoisonError::into_inner);
        longer(errors.entry(uid.to_owned()).or_default())
    }

    /// A pass over a fleet came to its end, or the fleet is gone.
    pub(crate) fn fleet_well(&self, uid: &str) {
        self.fleet_errors.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }

    /// Lets go of what the process holds for a host that is gone.
    pub(crate) fn forget(&self, uid: &str) {
        self.ssh.forget(uid);
        self.backups.forget(uid);
        self.key_search.forget(uid);
        self.neighbours.forget(uid);
    }

    /// Waits until hosts, fleets and actions have been read. False: the operator ends before that.
    pub(crate) async fn have_read(&self) -> bool {
        tokio::select! {
            biased;
            &() = self.read.wait() => true,
            () = self.stop.cancelled() => false,
        }
    }
}

fn longer(errors: &mut u32) -> Duration {
    *errors = errors.saturating_add(1);
    FIRST_PAUSE.saturating_mul(1 << errors.saturating_sub(1).min(8)).min(LONGEST_PAUSE)
}

/// Why a reconciliation could not be brought to its end. Only the API or a defect can be the reason: what concerns a host is
/// a condition.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A call to the API failed.
    #[error("cannot {verb} {what}")]
    Api {
        /// What was to be done.
        verb: &'static str,
        /// With which object.
        what: String,
        /// Why not.
        #[source]
        source: kube::Error,
    },
    /// An object came without what every object has.
    #[error("{0} has no UID or namespace")]
    Incomplete(String),
    /// Something of ours cannot be written as JSON, which would be a bug.
    #[error("cannot write {what} as JSON")]
    Json {
        /// What.
        what: String,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
    /// A status was not written, since the object was changed at the same moment. It is written again.
    #[error("the status of {0} was not written: it was changed at the same moment")]
    Conflict(String),
    /// The API has another object than the cache that was decided on.
    #[error("the spec of {0} changed meanwhile; replanning")]
    Behind(String),
    /// A BinderAction has the name that the next one would have, and is not remembered.
    #[error("the BinderAction {0} already exists and this operator did not write it; replanning")]
    NameTaken(String),
    /// A panic.
    #[error("bug in the operator at {place}")]
    Defect {
        /// Where in the code.
        place: String,
    },
    /// It took too long, so it was given up.
    #[error("a pass took longer than {} s and was given up", after.as_secs())]
    TooLong {
        /// How long it may take.
        after: Duration,
    },
}

impl Error {
    /// What a person is told of it in the host's status, where waiting alone does not help: a defect, and what the API
    /// refuses to have written.
    pub(crate) fn told(&self) -> Option<Failed> {
        match self {
            Self::Defect { place } => Some(Failed {
                reason: "Defect",
                message: format!(
                    "bug in the operator at {place} ends every pass over this host; nothing is done to it; report the \
                     place, and try another version"
                ),
            }),
            Self::TooLong { .. } => {
                Some(Failed { reason: "TooLong", message: format!("{self}; nothing is done to the host meanwhile") })
            }
            Self::NameTaken(name) => Some(Failed {
                reason: "ActionNotKnown",
                message: format!(
                    "the BinderAction {name} has the name of this host's next step and is not one of its actions: delete it"
                ),
            }),
            Self::Api { verb, what, source: kube::Error::Api(status) } if status.is_invalid() => Some(Failed {
                reason: "NotRecorded",
                message: format!(
                    "the API refuses what has to be recorded before a step is done, so it is not done: cannot {verb} {what}: {}",
                    sanitize(status.message.as_bytes(), 400)
                ),
            }),
            Self::Api { .. } | Self::Incomplete(_) | Self::Json { .. } | Self::Conflict(_) | Self::Behind(_) => None,
        }
    }

    pub(crate) fn api(verb: &'static str, what: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let what = what.into();
        move |source| Self::Api { verb, what, source }
    }
}

/// What the controllers share with the rest of the process.
#[derive(Clone, Debug)]
pub struct Shared {
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// Set once hosts and fleets have been read.
    pub ready: Arc<AtomicBool>,
    /// Where each controller leaves its marks.
    pub heartbeat: Arc<Heartbeat>,
    /// Tells them to end.
    pub stop: CancellationToken,
}

/// A controller that ended although nobody told it to.
#[derive(Debug, thiserror::Error)]
#[error("the {0} ended unexpectedly")]
pub struct Ended(&'static str);

/// Runs both controllers in these surroundings until told to stop, then waits for what they are in the middle of.
///
/// # Errors
/// [`Ended`] when one of them ends by itself: the process must end too, since a part of the work is done by nobody.
pub async fn run(clients: Clients, config: Config, shared: Shared, surroundings: Surroundings) -> Result<(), Ended> {
    let Surroundings { outside, clock, dice, jitter } = surroundings;
    let Shared { metrics, ready, heartbeat, stop } = shared;
    let Clients { calls: client, watches } = clients;
    let hosts_api: Api<BinderHost> = scoped(&watches, &config);
    let fleets_api: Api<BinderFleet> = scoped(&watches, &config);
    let actions_stream =
        watcher(scoped::<BinderAction>(&watches, &config), watcher::Config::default()).default_backoff();
    let members = Arc::new(members::Members::default());
    let (hosts, hosts_writer) = reflector::store();
    let (fleets, fleets_writer) = reflector::store();
    // A host is looked at when its spec, its labels (another fleet may govern it) or its deletion change; its own status
    // is no reason.
    let hosts_stream = watcher(hosts_api.clone(), watcher::Config::default())
        .default_backoff()
        .reflect(hosts_writer)
        .inspect_ok({
            let members = Arc::clone(&members);
            move |event| members.host(event)
        })
        .applied_objects()
        .predicate_filter(changed, Default::default());
    let fleets_stream = watcher(fleets_api.clone(), watcher::Config::default())
        .default_backoff()
        .reflect(fleets_writer)
        .inspect_ok({
            let members = Arc::clone(&members);
            move |event| members.fleet(event)
        })
        .applied_objects()
        .predicate_filter(changed, Default::default());

    let context = Arc::new(Context {
        ssh: Hosts::by(outside.clone(), jitter, clock.clone()),
        metrics,
        recorder: Recorder::new(client.clone(), Reporter { controller: MANAGER.to_owned(), instance: None }),
        hosts: hosts.clone(),
        fleets: fleets.clone(),
        actions: actions::Actions::default(),
        stop: stop.clone(),
        members: Arc::clone(&members),
        secrets: secrets::Secrets::default(),
        disrupting: tokio::sync::Mutex::default(),
        key_search: keys::Search::default(),
        backups: backups::Seen::default(),
        brakes: brake::Brakes::of_a_start(clock.now()),
        outside,
        clock,
        dice,
        altered: fleet::Altered::default(),
        neighbours: Arc::default(),
        read: SetOnce::new(),
        known: Mutex::default(),
        fleet_errors: Mutex::default(),
        config: config.clone(),
        client,
    });

    let hosts_of_fleet = {
        let hosts = hosts.clone();
        move |fleet: BinderFleet| -> Vec<ObjectRef<BinderHost>> {
            let mut mine = hosts.state();
            mine.sort_by_key(|host| host.name_any());
            mine.iter().filter(|host| fleet::governs(&fleet, host)).map(|host| ObjectRef::from_obj(&**host)).collect()
        }
    };
    let fleets_of_host = {
        let fleets = fleets.clone();
        move |host: BinderHost| -> Vec<ObjectRef<BinderFleet>> {
            let mut all = fleets.state();
            all.sort_by_key(|fleet| fleet.name_any());
            all.iter().filter(|fleet| fleet::governs(fleet, &host)).map(|fleet| ObjectRef::from_obj(&**fleet)).collect()
        }
    };

    // Each controller has a watch of its own on the other's kind: what triggers it differs (a host's look must not be
    // triggered by a host's status, a fleet's summary must).
    let host_controller = Controller::for_stream(hosts_stream, hosts.clone())
        .with_config(controller::Config::default().concurrency(config.concurrency))
        .watches(fleets_api, watcher::Config::default(), hosts_of_fleet)
        .graceful_shutdown_on(stop.clone().cancelled_owned())
        .run(host::reconcile, host::on_error, context.clone());
    let fleet_controller = Controller::for_stream(fleets_stream, fleets.clone())
        .with_config(controller::Config::default().concurrency(4).debounce(Duration::from_millis(200)))
        .watches(hosts_api, watcher::Config::default(), fleets_of_host)
        .graceful_shutdown_on(stop.clone().cancelled_owned())
        .run(fleet::reconcile, fleet::on_error, context.clone());

    // What ends although it should not is told, so that nobody takes an operator that does half its work for a whole one.
    let unless_told = |what: &'static str| if stop.is_cancelled() { Ok(()) } else { Err(Ended(what)) };
    let hosts_work = async {
        drive(host_controller, heartbeat::Controller::Hosts, &heartbeat).await;
        unless_told("host controller")
    };
    let fleets_work = async {
        drive(fleet_controller, heartbeat::Controller::Fleets, &heartbeat).await;
        unless_told("fleet controller")
    };
    let actions_work = async {
        tokio::select! {
            biased;
            () = actions::follow(actions_stream, &context.actions) => unless_told("watch of BinderActions"),
            () = stop.cancelled() => Ok(()),
        }
    };
    let housekeeping = async {
        tokio::select! {
            biased;
            () = housekeeping(&context, &ready) => unless_told("housekeeping"),
            () = stop.cancelled() => Ok(()),
        }
    };
    futures::try_join!(hosts_work, fleets_work, actions_work, housekeeping).map(|_| ())
}

/// Runs a controller, and leaves a mark whenever it has done something or has had nothing to do for a while.
async fn drive<T>(work: impl Stream<Item = T>, which: heartbeat::Controller, heartbeat: &Heartbeat) {
    let mut work = std::pin::pin!(work);
    let mut tick = tokio::time::interval(heartbeat::TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            done = work.next() => {
                if done.is_none() {
                    return;
                }
            }
            _ = tick.tick() => {}
        }
        heartbeat.beat(which, Instant::now());
    }
}

fn scoped<K>(client: &Client, config: &Config) -> Api<K>
where
    K: Resource<Scope = kube::core::NamespaceResourceScope> + Clone + DeserializeOwned + std::fmt::Debug,
    K::DynamicType: Default,
{
    match &config.namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// What of an object triggers: generation, labels, deletion.
fn changed<K: Resource>(object: &K) -> Option<u64> {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hash = DefaultHasher::new();
    predicates::generation(object).hash(&mut hash);
    predicates::labels(object).hash(&mut hash);
    object.meta().deletion_timestamp.is_some().hash(&mut hash);
    Some(hash.finish())
}

/// Says when the first lists have been read, and forgets what is gone: sessions are closed, keys let go of.
async fn housekeeping(context: &Context, ready: &AtomicBool) {
    // Asked again and again: of several who wait for a store, kube wakes only the one that asked last, and the controllers
    // wait for the same ones.
    loop {
        let both =
            async { context.hosts.wait_until_ready().await.is_ok() && context.fleets.wait_until_ready().await.is_ok() };
        match tokio::time::timeout(Duration::from_millis(200), both).await {
            Ok(true) if context.actions.are_read() => break,
            Ok(true) => tokio::time::sleep(Duration::from_millis(50)).await,
            Ok(false) => return,
            Err(_) => {}
        }
    }
    // Set by nobody else.
    let _ = context.read.set(());
    ready.store(true, Ordering::Relaxed);
    tracing::info!("hosts, fleets and actions have been read");
    loop {
        tokio::time::sleep(Duration::from_secs(5)).await;
        let there: HashSet<String> = context.hosts.state().iter().filter_map(|host| host.uid()).collect();
        let gone: Vec<(String, HostCache)> = {
            let mut known = context.known();
            let gone: Vec<String> = known.keys().filter(|uid| !there.contains(*uid)).cloned().collect();
            gone.into_iter().filter_map(|uid| known.remove(&uid).map(|host| (uid, host))).collect()
        };
        for (uid, host) in gone {
            context.forget(&uid);
            context.metrics.host_gone(&host.namespace, &host.name);
            tracing::info!(host = host.name, "no longer described: its connection is closed");
        }
        let fleets: HashSet<String> = context.fleets.state().iter().filter_map(|fleet| fleet.uid()).collect();
        context.fleet_errors.lock().unwrap_or_else(PoisonError::into_inner).retain(|uid, _| fleets.contains(uid));
        if let Err(error) = record::tidy(context, Timestamp::now()).await {
            tracing::warn!(error = chain(&error), "what was tried on hosts that are gone could not be looked after");
        }
        context.neighbours.keep_fleets(&fleets);
        context.secrets.let_go_of_old();
    }
}

/// Reads every object of a list, for callers that may not trust a cache.
pub(crate) async fn list_all<K>(
    api: &Api<K>,
    parameters: &kube::api::ListParams,
    what: &'static str,
) -> Result<Vec<K>, Error>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    api.list(parameters).await.map(|list| list.items).map_err(Error::api("list", what))
}
