//! Watch, call the loop, record: the part of the operator that knows the Kubernetes API.

mod access;
mod backups;
mod brake;
mod disruption;
mod fleet;
mod host;
mod keys;
mod outage;
mod power;
mod record;

pub(crate) use crate::chain::chain;
use crate::config::Config;
use crate::hosts::Hosts;
use crate::metrics::Metrics;
use crate::plan::evidence::Demanded;
use crate::plan::memory::Memory;
use crate::power::gce::Gce;
use crate::seen::lasting::Lasting;
use crate::seen::restarts::History;
use binder_crds::{BinderFleet, BinderHost, BinderHostStatus};
use futures::StreamExt;
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
use tokio_util::sync::CancellationToken;

/// The name under which the operator writes: field manager and event source.
pub const MANAGER: &str = "binder-operator";

/// The first pause after an error of the API; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause after errors of the API.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What every reconciliation shares.
pub struct Context {
    pub(crate) client: Client,
    pub(crate) ssh: Hosts,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) config: Config,
    pub(crate) recorder: Recorder,
    pub(crate) hosts: Store<BinderHost>,
    pub(crate) fleets: Store<BinderFleet>,
    /// True once the operator has been told to end: nothing new is begun.
    pub(crate) stop: CancellationToken,
    pub(crate) logins: access::Logins,
    pub(crate) gce: Gce,
    /// Held from the last look at the budget until the intention to disrupt a host is recorded.
    pub(crate) disrupting: tokio::sync::Mutex<()>,
    pub(crate) api_keys: access::ApiKeys,
    pub(crate) key_search: keys::Search,
    pub(crate) backups: backups::Seen,
    pub(crate) brakes: brake::Brakes,
    pub(crate) altered: fleet::Altered,
    pub(crate) neighbours: Arc<outage::Neighbours>,
    known: Mutex<HashMap<String, Known>>,
}

/// What the operator itself remembers of one host between two looks. All of it can be read back from the API, or is only
/// there to wait longer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    /// The status that it wrote last: the cache may not have caught up with it.
    pub(crate) status: Option<BinderHostStatus>,
    /// What was tried; `None` when it must be read again.
    pub(crate) memory: Option<Memory>,
    /// Since when what the looks show has been so.
    pub(crate) lasting: Lasting,
    /// The steps that the last look led to, for the next one to confirm.
    pub(crate) demanded: Demanded,
    /// Restart counts of earlier looks; lost with the process, and then learned again.
    pub(crate) restarts: History,
    /// Errors of the API in a row.
    pub(crate) errors: u32,
    /// Namespace and name, for when the object is gone.
    pub(crate) namespace: String,
    /// See `namespace`.
    pub(crate) name: String,
}

impl Context {
    /// What is known of a host; kept by its UID, so that a host of the same name made later is another one.
    pub(crate) fn known(&self) -> MutexGuard<'_, HashMap<String, Known>> {
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

    /// The pause after an error, longer with each in a row.
    pub(crate) fn pause(&self, uid: &str) -> Duration {
        let mut known = self.known();
        let errors = &mut known.entry(uid.to_owned()).or_default().errors;
        *errors = errors.saturating_add(1);
        FIRST_PAUSE.saturating_mul(1 << errors.saturating_sub(1).min(8)).min(LONGEST_PAUSE)
    }
}

/// Why a reconciliation could not be brought to its end. Only the API can be the reason: what concerns a host is a
/// condition.
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
}

impl Error {
    pub(crate) fn api(verb: &'static str, what: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let what = what.into();
        move |source| Self::Api { verb, what, source }
    }
}

/// Runs both controllers until told to stop, then waits for what they are in the middle of.
pub async fn run(
    client: Client,
    config: Config,
    metrics: Arc<Metrics>,
    ready: Arc<AtomicBool>,
    stop: CancellationToken,
) {
    let hosts_api: Api<BinderHost> = scoped(&client, &config);
    let fleets_api: Api<BinderFleet> = scoped(&client, &config);
    let (hosts, hosts_writer) = reflector::store();
    let (fleets, fleets_writer) = reflector::store();
    // A host is looked at when its spec, its labels (another fleet may govern it) or its deletion change; its own status
    // is no reason.
    let hosts_stream = watcher(hosts_api.clone(), watcher::Config::default())
        .default_backoff()
        .reflect(hosts_writer)
        .applied_objects()
        .predicate_filter(changed, Default::default());
    let fleets_stream = watcher(fleets_api.clone(), watcher::Config::default())
        .default_backoff()
        .reflect(fleets_writer)
        .applied_objects()
        .predicate_filter(changed, Default::default());

    let context = Arc::new(Context {
        ssh: Hosts::default(),
        metrics,
        recorder: Recorder::new(client.clone(), Reporter { controller: MANAGER.to_owned(), instance: None }),
        hosts: hosts.clone(),
        fleets: fleets.clone(),
        stop: stop.clone(),
        logins: access::Logins::default(),
        gce: Gce::new(config.gce_endpoint.clone()),
        disrupting: tokio::sync::Mutex::default(),
        api_keys: access::ApiKeys::default(),
        key_search: keys::Search::default(),
        backups: backups::Seen::default(),
        brakes: brake::Brakes::default(),
        altered: fleet::Altered::default(),
        neighbours: Arc::default(),
        known: Mutex::default(),
        config: config.clone(),
        client,
    });

    let hosts_of_fleet = {
        let hosts = hosts.clone();
        move |fleet: BinderFleet| -> Vec<ObjectRef<BinderHost>> {
            let mine = hosts.state();
            mine.iter().filter(|host| fleet::governs(&fleet, host)).map(|host| ObjectRef::from_obj(&**host)).collect()
        }
    };
    let fleets_of_host = {
        let fleets = fleets.clone();
        move |host: BinderHost| -> Vec<ObjectRef<BinderFleet>> {
            let all = fleets.state();
            all.iter().filter(|fleet| fleet::governs(fleet, &host)).map(|fleet| ObjectRef::from_obj(&**fleet)).collect()
        }
    };

    // Each controller has a watch of its own on the other's kind: what triggers it differs (a host's look must not be
    // triggered by a host's status, a fleet's summary must).
    let host_controller = Controller::for_stream(hosts_stream, hosts.clone())
        .with_config(controller::Config::default().concurrency(config.concurrency))
        .watches(fleets_api, watcher::Config::default(), hosts_of_fleet)
        .graceful_shutdown_on(stop.clone().cancelled_owned())
        .run(host::reconcile, host::on_error, context.clone())
        .for_each(|_| std::future::ready(()));
    let fleet_controller = Controller::for_stream(fleets_stream, fleets.clone())
        .with_config(controller::Config::default().concurrency(4).debounce(Duration::from_millis(200)))
        .watches(hosts_api, watcher::Config::default(), fleets_of_host)
        .graceful_shutdown_on(stop.clone().cancelled_owned())
        .run(fleet::reconcile, fleet::on_error, context.clone())
        .for_each(|_| std::future::ready(()));

    let background = tokio::spawn(housekeeping(context.clone(), ready));
    futures::join!(host_controller, fleet_controller);
    background.abort();
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

/// Says when the first lists have been read, and forgets hosts that are gone: their sessions are closed.
async fn housekeeping(context: Arc<Context>, ready: Arc<AtomicBool>) {
    // Asked again and again: of several who wait for a store, kube wakes only the one that asked last, and the controllers
    // wait for the same ones.
    loop {
        let both =
            async { context.hosts.wait_until_ready().await.is_ok() && context.fleets.wait_until_ready().await.is_ok() };
        match tokio::time::timeout(Duration::from_millis(200), both).await {
            Ok(true) => break,
            Ok(false) => return,
            Err(_) => {}
        }
    }
    ready.store(true, Ordering::Relaxed);
    tracing::info!("hosts and fleets have been read");
    loop {
        tokio::time::sleep(Duration::from_secs(5)).await;
        let there: HashSet<String> = context.hosts.state().iter().filter_map(|host| host.uid()).collect();
        let gone: Vec<(String, Known)> = {
            let mut known = context.known();
            let gone: Vec<String> = known.keys().filter(|uid| !there.contains(*uid)).cloned().collect();
            gone.into_iter().filter_map(|uid| known.remove(&uid).map(|host| (uid, host))).collect()
        };
        for (uid, host) in gone {
            context.ssh.forget(&uid);
            context.backups.forget(&uid);
            context.neighbours.forget(&uid);
            context.key_search.forget(&uid);
            context.metrics.host_gone(&host.namespace, &host.name);
            tracing::info!(host = host.name, "no longer described: its connection is closed");
        }
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
