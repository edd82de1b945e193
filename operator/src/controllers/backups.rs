//! Where a host's backups lie, from what its spec names (a folder of the operator's volume, a bucket, a Secret), and what
//! is there. A bucket is asked seldom: what is there changes only when the operator itself backs up.

use super::{Context, Error, access};
use crate::backup::store::Keep;
use crate::execute;
use binder_core::seen::backups::Backups;
use binder_core::seen::{Fact, Reason, Unknown};
use binder_crds::BinderHostSpec;
use binder_crds::desired::Backups as Spec;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How long what is in a bucket is known without asking again. A directory is asked at each look.
const FRESH: Duration = Duration::from_secs(300);
/// The same where it could not be told: a bucket that hangs must not hold up each look at its host.
const ASK_AGAIN: Duration = Duration::from_secs(30);
/// How long a place of storage may take to tell what it has.
const LOOK: Duration = Duration::from_secs(15);

/// What was seen of backups, by the host's UID and the described place.
#[derive(Default)]
pub(crate) struct Seen {
    seen: Mutex<HashMap<String, Look>>,
    /// The BinderActions whose backups this process is making.
    being_made: Arc<Mutex<HashSet<String>>>,
}

/// A backup that is being made; dropping it says that it is no more.
pub(super) struct BeingMade {
    all: Arc<Mutex<HashSet<String>>>,
    action: String,
}

impl Drop for BeingMade {
    fn drop(&mut self) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.action);
    }
}

/// One look at a place of storage.
struct Look {
    at: Instant,
    of: Spec,
    backups: Fact<Backups>,
}

impl Seen {
    fn fresh(&self, uid: &str, spec: &Spec) -> Option<Fact<Backups>> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let last = seen.get(uid)?;
        let good_for = if last.backups.seen().is_some() { FRESH } else { ASK_AGAIN };
        (last.of == *spec && last.at.elapsed() < good_for && spec.to.bucket.is_some()).then(|| last.backups.clone())
    }

    fn keep(&self, uid: &str, spec: &Spec, backups: &Fact<Backups>) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let look = Look { at: Instant::now(), of: spec.clone(), backups: backups.clone() };
        seen.insert(uid.to_owned(), look);
    }

    /// Notes that a backup is being made for an action.
    pub(super) fn begin(&self, action: &str) -> BeingMade {
        self.being_made.lock().unwrap_or_else(PoisonError::into_inner).insert(action.to_owned());
        BeingMade { all: Arc::clone(&self.being_made), action: action.to_owned() }
    }

    /// Whether this process is making the backup of an action.
    pub(super) fn is_being_made(&self, action: &str) -> bool {
        self.being_made.lock().unwrap_or_else(PoisonError::into_inner).contains(action)
    }

    /// Has the place asked again at the next look: something was written there, or the host is gone.
    pub(crate) fn forget(&self, uid: &str) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

fn described(spec: &BinderHostSpec) -> Option<&Spec> {
    spec.desired.database.as_ref()?.backups.as_ref()
}

/// The place and what is kept there; the inner error says what the owner has to put right.
///
/// # Errors
/// [`Error`] when the API fails.
pub(super) async fn place(
    context: &Context,
    namespace: &str,
    host: &str,
    spec: &BinderHostSpec,
) -> Result<Option<Result<execute::Backups, String>>, Error> {
    let Some(spec) = described(spec) else { return Ok(None) };
    let mut entries = BTreeMap::new();
    if let Some(bucket) = &spec.to.bucket {
        let name = &bucket.credentials_secret_ref.name.0;
        match access::bucket_entries(context, namespace, name).await? {
            Ok(found) => entries = found,
            Err(why) => return Ok(Some(Err(why))),
        }
    }
    let store = context.outside.store(&spec.to, namespace, host, &entries);
    let age = spec.keep_for.as_ref().and_then(|age| age.duration().ok());
    Ok(Some(match store {
        Ok(store) => Ok(execute::Backups { store, keep: Keep { number: spec.keep, age } }),
        Err(error) => Err(error.to_string()),
    }))
}

/// What is there, if backups are described.
///
/// # Errors
/// [`Error`] when the API fails.
pub(super) async fn look(
    context: &Context,
    namespace: &str,
    uid: &str,
    host: &str,
    spec: &BinderHostSpec,
) -> Result<Fact<Backups>, Error> {
    let Some(described) = described(spec) else { return Ok(Fact::NotAsked) };
    if let Some(known) = context.backups.fresh(uid, described) {
        return Ok(known);
    }
    let unknown = |message: String| Fact::Unknown(Unknown { reason: Reason::NotAnswered, message });
    let store = match place(context, namespace, host, spec).await? {
        None => return Ok(Fact::NotAsked),
        Some(Err(why)) => return Ok(Fact::Seen(Backups { unusable: Some(why), ..Backups::default() })),
        Some(Ok(backups)) => backups.store,
    };
    let known = match tokio::time::timeout(LOOK, store.look()).await {
        Ok(Ok(backups)) => Fact::Seen(backups),
        Ok(Err(error)) => unknown(format!("the backups cannot be seen: {error}")),
        Err(_) => unknown(format!("the backups cannot be seen: no answer within {} s", LOOK.as_secs())),
    };
    context.backups.keep(uid, described, &known);
    Ok(known)
}
