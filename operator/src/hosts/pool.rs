//! The sessions of a whole fleet: one a machine, kept open, made when someone asks.
//!
//! Nothing here loops: an attempt happens when a session is asked for and an attempt is due. What keeps attempts apart
//! is data, returned with each failure, so that a status can say when the next one may be. Two failures are no matter
//! of time:
//!
//! - **A refused login** is final for that user and that version of the key at that machine. Trying again would change
//!   nothing, and sshd answers a series of them by shutting the operator out (`PerSourcePenalties`, fail2ban).
//! - **A host key that is not pinned** is tried again when the pinned keys or the address change, or after ten
//!   minutes: no login is involved, so it locks nobody out, and a machine that was fixed should be noticed.
//!
//! Does not know what sessions are used for.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use jiff::Timestamp;
use tokio::time::Instant;

use super::backoff::{Jitter, delay, random_jitter};
use super::limits::Limits;
use super::session::Session;
use super::target::Target;
use super::wire::{Dial, Tcp};
use super::{ConnectError, locked};
use crate::clock::Clock;

/// After a host key that is not pinned.
const AFTER_MISMATCH: Duration = Duration::from_secs(10 * 60);

/// A session that broke sooner counts as a failed attempt, so that a machine that drops every login is not asked in a
/// tight loop.
const STEADY_AFTER: Duration = Duration::from_secs(10);

/// So many refused logins are remembered for each machine; more would mean that a key changes all the time.
const REFUSALS_KEPT: usize = 16;

/// What the pool has to know of the sessions that it keeps.
pub trait Kept: Send + Sync {
    /// Whether the connection still stands, as far as is known here.
    fn is_open(&self) -> bool;

    /// Whether it has been used so much that a fresh one would be better. It still works.
    fn needs_reconnect(&self) -> bool;

    /// Closes the connection now, under whatever runs over it.
    fn close(&self);

    /// When the login was done.
    fn opened(&self) -> Instant;

    /// How the connection ended, for a message. Only meaningful when it did.
    fn ending_in_words(&self) -> String;
}

/// How the pool comes by a session.
pub trait Connect<S: ?Sized>: Send + Sync {
    /// One attempt, bounded in time: connects, checks the host key, and logs in once.
    fn connect<'a>(&'a self, target: &'a Target) -> BoxFuture<'a, Result<Arc<S>, ConnectError>>;
}

/// Over SSH.
pub struct Ssh {
    dial: Arc<dyn Dial>,
    limits: Limits,
}

impl Ssh {
    /// Over streams from `dial`.
    pub fn over(dial: Arc<dyn Dial>, limits: Limits) -> Self {
        Self { dial, limits }
    }

    /// One attempt.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn session(&self, target: &Target) -> Result<Arc<Session>, ConnectError> {
        Session::connect_over(self.dial.as_ref(), target, &self.limits).await.map(Arc::new)
    }
}

impl Default for Ssh {
    /// Over TCP.
    fn default() -> Self {
        let limits = Limits::default();
        Self::over(Arc::new(Tcp(limits.networks.clone())), limits)
    }
}

impl Connect<Session> for Ssh {
    fn connect<'a>(&'a self, target: &'a Target) -> BoxFuture<'a, Result<Arc<Session>, ConnectError>> {
        self.session(target).boxed()
    }
}

/// The sessions of all machines. Cheap to clone; clones share them. Dropping the last one closes them all.
pub struct Hosts<S: ?Sized = Session> {
    shared: Arc<HostsShared<S>>,
}

impl<S: ?Sized> Clone for Hosts<S> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

struct HostsShared<S: ?Sized> {
    connect: Arc<dyn Connect<S>>,
    chance: Chance,
    slots: Mutex<HashMap<String, Arc<Slot<S>>>>,
}

/// What the time of the next attempt is worked out from.
#[derive(Clone)]
struct Chance {
    jitter: Jitter,
    clock: Clock,
}

/// Why there is no session now, and when there may be one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotConnected {
    /// What the last attempt came to.
    pub why: Arc<ConnectError>,
    /// When another attempt will be made if someone asks.
    pub retry: Retry,
}

/// When an attempt is made again. Until then, asking again gives the same answer and touches no network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// From this time on.
    At(Timestamp),
    /// When the login key (another version of the Secret), the user, or the machine's address or pinned keys change.
    WhenLoginChanges,
    /// When a host key is pinned.
    WhenHostKeyPinned,
}

impl NotConnected {
    /// When the next attempt may be made, unless it waits for a change of the object.
    pub fn next_attempt_at(&self) -> Option<Timestamp> {
        match self.retry {
            Retry::At(at) => Some(at),
            Retry::WhenLoginChanges | Retry::WhenHostKeyPinned => None,
        }
    }
}

impl fmt::Display for NotConnected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; ", self.why)?;
        match self.retry {
            Retry::At(at) => write!(f, "next attempt at {at:.0}"),
            Retry::WhenLoginChanges => f.write_str("not tried again until the login key or user changes"),
            Retry::WhenHostKeyPinned => f.write_str("not tried until a host key is pinned"),
        }
    }
}

impl std::error::Error for NotConnected {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(self.why.as_ref())
    }
}

type Outcome<S> = Result<Arc<S>, NotConnected>;

/// What is known of one machine.
struct Slot<S: ?Sized> {
    state: Mutex<State<S>>,
}

impl<S: ?Sized> Default for Slot<S> {
    fn default() -> Self {
        let state = State { now: Now::Nothing, attempts: 0, refused: Vec::new(), taken_over: false };
        Self { state: Mutex::new(state) }
    }
}

struct State<S: ?Sized> {
    now: Now<S>,
    /// Attempts so far, to tell a late result from the current one.
    attempts: u64,
    /// Logins that were refused, newest last.
    refused: Vec<(Target, Arc<ConnectError>)>,
    /// Whether a refusal was taken over from an earlier process: once is enough, and a person may have it forgotten.
    taken_over: bool,
}

enum Now<S: ?Sized> {
    Nothing,
    Connecting {
        target: Target,
        attempt: u64,
        outcome: Shared<BoxFuture<'static, Outcome<S>>>,
    },
    Open {
        target: Target,
        session: Arc<S>,
        failures: u32,
    },
    Failed {
        target: Target,
        failures: u32,
        why: NotConnected,
        /// When the next attempt is due, if ever.
        due: Option<Instant>,
    },
}

impl Default for Hosts {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

impl Hosts {
    /// Over TCP, with random jitter.
    pub fn new(limits: Limits) -> Self {
        Self::over(Arc::new(Tcp(limits.networks.clone())), limits, random_jitter())
    }

    /// Over streams from `dial`, with back-off times picked by `jitter`.
    pub fn over(dial: Arc<dyn Dial>, limits: Limits, jitter: Jitter) -> Self {
        Self::by(Arc::new(Ssh::over(dial, limits)), jitter, Clock::system())
    }
}

impl<S: Kept + ?Sized + 'static> Hosts<S> {
    /// Sessions that `connect` makes, with back-off times picked by `jitter` and told by `clock`.
    pub fn by(connect: Arc<dyn Connect<S>>, jitter: Jitter, clock: Clock) -> Self {
        Self { shared: Arc::new(HostsShared { connect, chance: Chance { jitter, clock }, slots: Mutex::default() }) }
    }

    /// The open session to a machine, or a new one if an attempt is due. All who ask at the same time share one
    /// attempt, and it is finished even when nobody waits for it any more: what it learns is not lost.
    pub async fn session(&self, target: &Target) -> Result<Arc<S>, NotConnected> {
        let slot = Arc::clone(locked(&self.shared.slots).entry(target.id.clone()).or_default());
        let outcome = {
            let mut state = locked(&slot.state);
            match state.without_attempt(target, &self.shared.chance) {
                SlotView::Outcome(outcome) => return outcome,
                SlotView::UnderWay(outcome) => outcome,
                SlotView::AttemptDue { failures } => state.attempt(&slot, target, failures, &self.shared),
            }
        };
        outcome.await
    }

    /// The session to a machine if one is open, without any attempt. For a witness, who is asked only if at hand.
    pub fn open_session(&self, id: &str) -> Option<Arc<S>> {
        let slot = Arc::clone(locked(&self.shared.slots).get(id)?);
        match &locked(&slot.state).now {
            Now::Open { session, .. } if session.is_open() => Some(Arc::clone(session)),
            _ => None,
        }
    }

    /// Closes the session to a machine, under whatever runs over it, but still knows which logins it refused. For a
    /// machine that is not to be entered for a while.
    pub fn disconnect(&self, id: &str) {
        let slot = locked(&self.shared.slots).get(id).cloned();
        if let Some(slot) = slot {
            locked(&slot.state).close();
        }
    }

    /// Closes the session to a machine, under whatever runs over it, and forgets all about it, refused logins too. For
    /// a machine that is no longer described, or whose owner asks for another try.
    pub fn forget(&self, id: &str) {
        let slot = locked(&self.shared.slots).remove(id);
        if let Some(slot) = slot {
            locked(&slot.state).close();
        }
    }

    /// Forgets the logins that a machine has refused, so that they are tried once more. For when something was done about
    /// the refusal.
    pub fn forget_refusals(&self, id: &str) {
        let slot = locked(&self.shared.slots).get(id).cloned();
        if let Some(slot) = slot {
            let mut state = locked(&slot.state);
            if !state.refused.is_empty() {
                state.refused.clear();
                state.now = Now::Nothing;
            }
        }
    }

    /// The login that a machine refused last, if it refused one, as [`Target::login`] names it.
    pub fn refused_login(&self, id: &str) -> Option<String> {
        let slot = Arc::clone(locked(&self.shared.slots).get(id)?);
        let state = locked(&slot.state);
        let refused = |(target, why): &(Target, Arc<ConnectError>)| match why.as_ref() {
            ConnectError::RsaNotTaken { .. } => target.login() + OF_RSA,
            ConnectError::MoreProofWanted { .. } => target.login() + NOT_ENOUGH,
            _ => target.login(),
        };
        state.refused.last().map(refused)
    }

    /// Takes over from an earlier process which login a machine has refused ([`Hosts::refused_login`]): it is not tried again.
    /// Of a machine that this process has tried by itself, it knows better.
    pub fn remember_refusal(&self, target: &Target, refused: Option<&str>) {
        let Some(how) = refused.and_then(|refused| refused.strip_prefix(target.login().as_str())) else { return };
        let slot = Arc::clone(locked(&self.shared.slots).entry(target.id.clone()).or_default());
        let mut state = locked(&slot.state);
        if state.attempts == 0 && !state.taken_over {
            state.taken_over = true;
            let (at, user) = (target.endpoint(), target.user.clone());
            let (fingerprint, key_version) = (target.key.fingerprint().to_owned(), target.key.version().to_owned());
            let why = match how {
                "" => ConnectError::LoginRefused { at, user, fingerprint, key_version },
                OF_RSA => ConnectError::RsaNotTaken { at, user, fingerprint, key_version },
                NOT_ENOUGH => ConnectError::MoreProofWanted { at, user, key_version },
                _ => return,
            };
            state.refused.push((target.clone(), Arc::new(why)));
        }
    }

    /// How many sessions are open.
    pub fn open_sessions(&self) -> usize {
        let slots: Vec<Arc<Slot<S>>> = locked(&self.shared.slots).values().cloned().collect();
        slots
            .iter()
            .filter(|slot| matches!(&locked(&slot.state).now, Now::Open { session, .. } if session.is_open()))
            .count()
    }
}

/// What can be said without an attempt.
enum SlotView<S: ?Sized> {
    Outcome(Outcome<S>),
    UnderWay(Shared<BoxFuture<'static, Outcome<S>>>),
    AttemptDue { failures: u32 },
}

impl<S: Kept + ?Sized + 'static> State<S> {
    fn without_attempt(&mut self, target: &Target, chance: &Chance) -> SlotView<S> {
        if let Some((_, why)) = self.refused.iter().rev().find(|(refused, _)| refused.same_session(target)) {
            let why = NotConnected { why: Arc::clone(why), retry: Retry::WhenLoginChanges };
            return SlotView::Outcome(Err(why));
        }
        match &self.now {
            Now::Connecting { target: to, outcome, .. } if to.same_session(target) => {
                SlotView::UnderWay(outcome.clone())
            }
            Now::Open { target: to, session, failures } if to.same_session(target) => {
                if session.is_open() {
                    // A worn session is replaced when nobody uses it.
                    if session.needs_reconnect() && Arc::strong_count(session) == 1 {
                        return SlotView::AttemptDue { failures: 0 };
                    }
                    return SlotView::Outcome(Ok(Arc::clone(session)));
                }
                if session.opened().elapsed() >= STEADY_AFTER {
                    return SlotView::AttemptDue { failures: 0 };
                }
                let why = ConnectError::Unsteady { at: target.endpoint(), why: session.ending_in_words() };
                let failures = failures.saturating_add(1);
                SlotView::Outcome(Err(self.fail(target, failures, Arc::new(why), chance)))
            }
            Now::Failed { target: to, why, due, failures } if to.same_session(target) => match due {
                Some(due) if *due <= Instant::now() => SlotView::AttemptDue { failures: *failures },
                _ => SlotView::Outcome(Err(why.clone())),
            },
            // Another address, user or key: whatever was learnt is not about this.
            _ => SlotView::AttemptDue { failures: 0 },
        }
    }

    fn attempt(
        &mut self,
        slot: &Arc<Slot<S>>,
        target: &Target,
        failures: u32,
        hosts: &HostsShared<S>,
    ) -> Shared<BoxFuture<'static, Outcome<S>>> {
        self.attempts += 1;
        let attempt = self.attempts;
        let (connect, chance) = (Arc::clone(&hosts.connect), hosts.chance.clone());
        let (task_slot, to) = (Arc::clone(slot), target.clone());
        let (at, clock) = (target.endpoint(), chance.clock.clone());
        let task = tokio::spawn(async move {
            let result = connect.connect(&to).await;
            locked(&task_slot.state).settle(attempt, &to, failures, result, &chance)
        });
        let outcome = async move {
            task.await.unwrap_or_else(|error| {
                // Only a panic or the end of the runtime gets here.
                let why = ConnectError::Protocol { at, why: format!("the attempt was given up: {error}") };
                Err(NotConnected { why: Arc::new(why), retry: Retry::At(clock.now()) })
            })
        }
        .boxed()
        .shared();
        self.now = Now::Connecting { target: target.clone(), attempt, outcome: outcome.clone() };
        outcome
    }

    /// Takes in what an attempt came to.
    fn settle(
        &mut self,
        attempt: u64,
        target: &Target,
        failures: u32,
        result: Result<Arc<S>, ConnectError>,
        chance: &Chance,
    ) -> Outcome<S> {
        let current = matches!(&self.now, Now::Connecting { attempt: number, .. } if *number == attempt);
        match result {
            Ok(session) => {
                tracing::debug!(host = %target.endpoint(), "connected");
                if current {
                    self.now = Now::Open { target: target.clone(), session: Arc::clone(&session), failures };
                }
                Ok(session)
            }
            Err(why) => {
                tracing::debug!(%why, "not connected");
                let why = Arc::new(why);
                if is_final(&why) {
                    self.refused.push((target.clone(), Arc::clone(&why)));
                    let excess = self.refused.len().saturating_sub(REFUSALS_KEPT);
                    self.refused.drain(..excess);
                }
                if current {
                    Err(self.fail(target, failures.saturating_add(1), why, chance))
                } else {
                    let (why, _) = not_connected(why, failures.saturating_add(1), chance);
                    Err(why)
                }
            }
        }
    }

    fn fail(&mut self, target: &Target, failures: u32, why: Arc<ConnectError>, chance: &Chance) -> NotConnected {
        let (why, due) = not_connected(why, failures, chance);
        self.now = Now::Failed { target: target.clone(), failures, why: why.clone(), due };
        why
    }

    fn close(&mut self) {
        if let Now::Open { session, .. } = std::mem::replace(&mut self.now, Now::Nothing) {
            session.close();
        }
    }
}

/// What stands after a refused login of which the machine may only be too old for RSA ([`ConnectError::RsaNotTaken`]).
const OF_RSA: &str = " rsa-sha2";
/// What stands after one of which the key was right and not enough ([`ConnectError::MoreProofWanted`]).
const NOT_ENOUGH: &str = " further-proof";

/// Whether a failure is remembered against any further attempt with the same login.
fn is_final(why: &ConnectError) -> bool {
    matches!(
        why,
        ConnectError::LoginRefused { .. } | ConnectError::RsaNotTaken { .. } | ConnectError::MoreProofWanted { .. }
    )
}

/// When to try again after a failure, on the wall's clock and on ours.
fn not_connected(why: Arc<ConnectError>, failures: u32, chance: &Chance) -> (NotConnected, Option<Instant>) {
    let wait = match why.as_ref() {
        ConnectError::LoginRefused { .. } | ConnectError::RsaNotTaken { .. } | ConnectError::MoreProofWanted { .. } => {
            return (NotConnected { why, retry: Retry::WhenLoginChanges }, None);
        }
        ConnectError::NoHostKeyPinned { .. } => {
            return (NotConnected { why, retry: Retry::WhenHostKeyPinned }, None);
        }
        ConnectError::HostKeyMismatch { .. } => AFTER_MISMATCH,
        ConnectError::Unreachable { .. }
        | ConnectError::Hung { .. }
        | ConnectError::Closed { .. }
        | ConnectError::NotSsh { .. }
        | ConnectError::Protocol { .. }
        | ConnectError::Unsteady { .. } => delay(failures, &chance.jitter),
    };
    let at = chance.clock.now().saturating_add(wait);
    (NotConnected { why, retry: Retry::At(at.unwrap_or(Timestamp::MAX)) }, Some(Instant::now() + wait))
}
