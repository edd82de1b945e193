//! Secrets that were read, for a short time: one read serves the passes over a whole fleet. What is found wrong, or refused
//! by whom it was shown to, is read again sooner. What is about to be acted with is read at that moment ([`Age::now`]).
//!
//! Nothing here is ever shown, and nothing stays once it is not fresh any more.

use crate::hosts::LoginKey;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long what was read is used at most.
const FRESH: Duration = Duration::from_secs(30);
/// The same where something about it is not as it must be: its owner is about to mend it.
const DOUBTED: Duration = Duration::from_secs(5);
/// For how many looks: whoever looks more often wants to know sooner.
const LOOKS: u32 = 2;

/// How old what is used may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Age(Duration);

impl Age {
    /// It is read now.
    pub(super) fn now() -> Self {
        Self(Duration::ZERO)
    }

    /// For one of the looks that come `every` so often.
    pub(super) fn for_looks(every: Duration) -> Self {
        Self(FRESH.min(every.saturating_mul(LOOKS)))
    }
}

struct Read {
    at: Instant,
    good_for: Duration,
    /// `None`: there was none.
    secret: Option<Arc<Secret>>,
    /// The login key in it, once it was parsed.
    login: Option<LoginKey>,
}

/// What was read, by namespace and name.
#[derive(Default)]
pub(crate) struct Secrets(Mutex<HashMap<(String, String), Read>>);

impl Secrets {
    fn lock(&self) -> MutexGuard<'_, HashMap<(String, String), Read>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was read of a Secret, if that is not too old; the inner `None`: it did not exist.
    pub(super) fn fresh(&self, namespace: &str, name: &str, age: Age) -> Option<Option<Arc<Secret>>> {
        let all = self.lock();
        let read = all.get(&(namespace.to_owned(), name.to_owned()))?;
        (read.at.elapsed() < read.good_for.min(age.0)).then(|| read.secret.clone())
    }

    /// Keeps what was read; a login key of the same version stays parsed.
    pub(super) fn keep(&self, namespace: &str, name: &str, secret: Option<&Arc<Secret>>) {
        let mut all = self.lock();
        let before = all.remove(&(namespace.to_owned(), name.to_owned()));
        let version = secret.map(|secret| version(secret));
        let login = before.and_then(|read| read.login).filter(|key| Some(key.version()) == version.as_deref());
        let good_for = if secret.is_some() { FRESH } else { DOUBTED };
        let read = Read { at: Instant::now(), good_for, secret: secret.cloned(), login };
        all.insert((namespace.to_owned(), name.to_owned()), read);
    }

    /// The login key of a version of a Secret, if it was parsed.
    pub(super) fn login(&self, namespace: &str, name: &str, version: &str) -> Option<LoginKey> {
        let all = self.lock();
        let login = all.get(&(namespace.to_owned(), name.to_owned()))?.login.clone();
        login.filter(|key| key.version() == version)
    }

    /// Keeps a login key that was parsed.
    pub(super) fn parsed(&self, namespace: &str, name: &str, key: &LoginKey) {
        if let Some(read) = self.lock().get_mut(&(namespace.to_owned(), name.to_owned())) {
            read.login = Some(key.clone());
        }
    }

    /// What a Secret holds is not as it must be, or is refused: it is read again soon, at whichever look comes first.
    pub(super) fn doubt(&self, namespace: &str, name: &str) {
        if let Some(read) = self.lock().get_mut(&(namespace.to_owned(), name.to_owned())) {
            read.good_for = DOUBTED;
        }
    }

    /// Lets go of what would be read again anyway: the keys of fleets that are gone stay in no memory.
    pub(crate) fn let_go_of_old(&self) {
        self.lock().retain(|_, read| read.at.elapsed() < read.good_for);
    }
}

/// What tells one version of a Secret from every other one, also from one of the same name that was made later.
pub(super) fn version(secret: &Secret) -> String {
    format!("{}/{}", secret.uid().unwrap_or_default(), secret.resource_version().unwrap_or_default())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::*;

    const LOOKS: Age = Age(FRESH);

    /// As if it had been read so long ago.
    fn later(secrets: &Secrets, by: Duration) {
        for read in secrets.lock().values_mut() {
            read.at = read.at.checked_sub(by).unwrap();
        }
    }

    #[test]
    fn what_was_read_is_used_for_a_while_and_then_in_no_memory() {
        let secrets = Secrets::default();
        secrets.keep("binder", "login", Some(&Arc::default()));
        assert!(secrets.fresh("binder", "login", LOOKS).is_some_and(|secret| secret.is_some()));
        assert!(secrets.fresh("binder", "login", Age::now()).is_none());
        assert!(secrets.fresh("other", "login", LOOKS).is_none(), "of another namespace");
        later(&secrets, Duration::from_secs(10));
        assert!(secrets.fresh("binder", "login", LOOKS).is_some());
        assert!(secrets.fresh("binder", "login", Age::for_looks(Duration::from_secs(4))).is_none(), "looks come often");
        secrets.let_go_of_old();
        assert_eq!(secrets.lock().len(), 1);
        later(&secrets, Duration::from_secs(20));
        assert!(secrets.fresh("binder", "login", LOOKS).is_none());
        secrets.let_go_of_old();
        assert_eq!(secrets.lock().len(), 0);
    }

    #[test]
    fn what_is_missing_or_refused_is_read_again_soon() {
        let secrets = Secrets::default();
        secrets.keep("binder", "missing", None);
        secrets.keep("binder", "refused", Some(&Arc::default()));
        secrets.doubt("binder", "refused");
        for name in ["missing", "refused"] {
            assert!(secrets.fresh("binder", name, LOOKS).is_some(), "not in each pass: {name}");
        }
        later(&secrets, DOUBTED);
        for name in ["missing", "refused"] {
            assert!(secrets.fresh("binder", name, LOOKS).is_none(), "{name}");
        }
    }
}
