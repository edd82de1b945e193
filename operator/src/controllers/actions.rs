//! Every BinderAction that is there, by the host that its spec names: followed by one watch, so that a pass over a host asks
//! the API for nothing. What the operator writes itself is taken in at once, so that the next pass sees it.
//!
//! A watch can be behind. What is read here may therefore put a step off and never bring one about: right before an
//! intention is recorded, that host's actions are listed once more ([`refresh`]), and what was decided on others is decided
//! again. Judges nothing: what an attempt means is [`binder_core::plan`]'s to say.

use super::{Context, Error, chain, list_all, record};
use binder_core::plan::memory::{Attempt, History};
use binder_crds::{BinderAction, HOST_LABEL};
use futures::{Stream, StreamExt};
use jiff::Timestamp;
use kube::ResourceExt;
use kube::api::ListParams;
use kube::runtime::watcher::{self, Event};
use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// A namespace, and the name of a host in it.
pub(super) type HostName = (String, String);

/// How long the watch may be behind what this process wrote. kube gives a watch up that has told nothing for 295 s; one that is
/// alive is behind by seconds.
const CATCHES_UP: Duration = Duration::from_secs(300);

type ByHost = HashMap<HostName, BTreeMap<String, Arc<Recorded>>>;

/// One action, as far as anything here rests on it.
#[derive(Clone, Debug)]
pub(super) struct Recorded {
    /// The attempt.
    pub(super) past: Attempt,
    /// The UID of the host's object when it was made.
    pub(super) host_uid: String,
    /// Since when the incident lasted in which it was decided.
    pub(super) incident: Option<Timestamp>,
    /// In words, why it is not one of the operator's own; `None` if it is.
    pub(super) stranger: Option<&'static str>,
    /// Whether a list by its host's label finds it.
    labelled: bool,
    /// The API's count of writes at its last one; 0 when it cannot be told.
    version: u64,
    /// When this process wrote or read it past the watch.
    wrote: Option<Instant>,
}

impl Recorded {
    fn of(action: &BinderAction) -> Self {
        Self {
            past: record::past(action),
            host_uid: action.spec.host_uid.clone(),
            incident: action.spec.incident_since.as_ref().map(|since| since.0),
            stranger: record::written_by_us(action).err(),
            labelled: action.labels().get(HOST_LABEL) == Some(&action.spec.host.0),
            version: action.resource_version().and_then(|version| version.parse().ok()).unwrap_or_default(),
            wrote: None,
        }
    }

    /// Whether the watch may not have told of it yet.
    fn is_ahead(&self) -> bool {
        self.wrote.is_some_and(|wrote| wrote.elapsed() < CATCHES_UP)
    }

    /// Whether this is what another one has become since: versions of one object grow (KEP-5504 makes them comparable, and
    /// they have always been so). Where they cannot be told, what comes later is taken for newer. A lower one is older only
    /// while the watch may be behind: after that, etcd was restored from a copy of earlier, and what it has is what is so.
    fn succeeds(&self, other: &Self) -> bool {
        self.past.uid != other.past.uid || self.version == 0 || self.version >= other.version || !other.is_ahead()
    }
}

fn place(action: &BinderAction) -> HostName {
    (action.namespace().unwrap_or_default(), action.spec.host.0.clone())
}

/// All actions.
#[derive(Debug, Default)]
pub(crate) struct Actions(Mutex<All>);

#[derive(Debug, Default)]
struct All {
    by_host: ByHost,
    /// A list that is being read, until it is whole.
    listed: Option<ByHost>,
    /// Whether a list has been read to its end.
    read: bool,
}

impl Actions {
    fn lock(&self) -> MutexGuard<'_, All> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether every action has been read once.
    pub(super) fn are_read(&self) -> bool {
        self.lock().read
    }

    /// Takes in what the watch tells.
    pub(super) fn told(&self, event: Event<BinderAction>) {
        let mut all = self.lock();
        match event {
            Event::Apply(action) => all.by_host.take(&action),
            Event::Delete(action) => all.by_host.drop_of(&place(&action), &action.name_any(), action.uid().as_deref()),
            Event::Init => all.listed = Some(ByHost::default()),
            Event::InitApply(action) => all.listed.get_or_insert_default().take(&action),
            Event::InitDone => {
                // The list was asked for after `Init`: it has all that was written before, and what was written since is in it
                // already ([`Actions::wrote`]). What it lacks is gone, also where etcd was restored from a copy of earlier.
                all.by_host = all.listed.take().unwrap_or_default();
                all.read = true;
            }
        }
    }

    /// Takes in what the operator has written, or has just read.
    pub(super) fn wrote(&self, action: &BinderAction) {
        let mut all = self.lock();
        all.by_host.put(action);
        if let Some(listed) = &mut all.listed {
            listed.put(action);
        }
    }

    /// An action is gone.
    pub(super) fn gone(&self, namespace: &str, host: &str, past: &Attempt) {
        let (place, mut all) = ((namespace.to_owned(), host.to_owned()), self.lock());
        all.by_host.drop_of(&place, &past.name, Some(&past.uid));
        if let Some(listed) = &mut all.listed {
            listed.drop_of(&place, &past.name, Some(&past.uid));
        }
    }

    /// What is recorded of a host of this name, oldest first.
    pub(super) fn of(&self, namespace: &str, host: &str) -> Vec<Arc<Recorded>> {
        let all = self.lock();
        let known = all.by_host.get(&(namespace.to_owned(), host.to_owned()));
        let mut known: Vec<Arc<Recorded>> = known.map(|known| known.values().cloned().collect()).unwrap_or_default();
        drop(all);
        known.sort_by(|one, other| {
            let order = |it: &Recorded| (it.past.created, it.past.attempt);
            order(one).cmp(&order(other))
        });
        known
    }

    /// The hosts of which anything is recorded.
    pub(super) fn hosts(&self) -> Vec<HostName> {
        let mut hosts: Vec<HostName> = self.lock().by_host.keys().cloned().collect();
        hosts.sort_unstable();
        hosts
    }

    /// Puts what a list by the host's label has found in place of what was known; what that label does not find stays.
    fn replace(&self, place: &HostName, listed: &[BinderAction]) {
        let mut all = self.lock();
        if let Some(known) = all.by_host.get_mut(place) {
            known.retain(|name, one| !one.labelled || listed.iter().any(|action| action.name_any() == *name));
        }
        for action in listed {
            all.by_host.put(action);
        }
        if let Some(list) = &mut all.listed {
            listed.iter().for_each(|action| list.put(action));
        }
    }
}

trait Index {
    /// What the watch tells, which may be behind.
    fn take(&mut self, action: &BinderAction);
    /// What the API itself has just answered.
    fn put(&mut self, action: &BinderAction);
    fn drop_of(&mut self, place: &HostName, name: &str, uid: Option<&str>);
}

impl Index for ByHost {
    fn take(&mut self, action: &BinderAction) {
        let new = Arc::new(Recorded::of(action));
        let known = self.entry(place(action)).or_default();
        match known.get(&new.past.name) {
            Some(old) if !new.succeeds(old) => {}
            _ => drop(known.insert(new.past.name.clone(), new)),
        }
    }

    fn put(&mut self, action: &BinderAction) {
        let new = Recorded { wrote: Some(Instant::now()), ..Recorded::of(action) };
        self.entry(place(action)).or_default().insert(new.past.name.clone(), Arc::new(new));
    }

    fn drop_of(&mut self, place: &HostName, name: &str, uid: Option<&str>) {
        let Some(known) = self.get_mut(place) else { return };
        if known.get(name).is_some_and(|one| uid.is_none_or(|uid| one.past.uid == uid)) {
            known.remove(name);
        }
        if known.is_empty() {
            self.remove(place);
        }
    }
}

/// Follows the watch until it ends. What fails is tried again by the watch's own back-off.
pub(super) async fn follow(watch: impl Stream<Item = Result<Event<BinderAction>, watcher::Error>>, actions: &Actions) {
    let mut watch = std::pin::pin!(watch);
    while let Some(told) = watch.next().await {
        match told {
            Ok(event) => actions.told(event),
            Err(error) => tracing::warn!(error = chain(&error), "BinderActions cannot be followed for now"),
        }
    }
}

/// Reads a host's actions from the API itself. Those that the host's label does not find (made by an earlier version, or
/// somebody has taken the label away) are the ones that the watch has told of.
///
/// # Errors
/// [`Error`] when the API fails.
pub(super) async fn refresh(context: &Context, namespace: &str, host: &str) -> Result<(), Error> {
    let api = context.api::<BinderAction>(namespace);
    let listed =
        list_all(&api, &ListParams::default().labels(&format!("{HOST_LABEL}={host}")), "BinderActions").await?;
    context.actions.replace(&(namespace.to_owned(), host.to_owned()), &listed);
    Ok(())
}

/// What was remembered when something was decided, to be compared with what is remembered when it is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Remembered(u64);

impl Remembered {
    /// Which attempts there were, and how each of them had ended.
    pub(super) fn of(memory: &History) -> Self {
        let mut hash = DefaultHasher::new();
        let mut all: Vec<_> = memory.actions.iter().map(|past| (&past.name, &past.uid, past.outcome)).collect();
        all.sort_unstable_by_key(|(name, _, _)| *name);
        for (name, uid, outcome) in all {
            (name, uid, outcome.map(binder_crds::ActionOutcome::as_str)).hash(&mut hash);
        }
        Self(hash.finish())
    }
}
