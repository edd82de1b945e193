//! The one way in: everything the operator learns from a machine or does to it passes through here, over the one SSH
//! connection that is open to it.
//!
//! | Module | What it holds |
//! |---|---|
//! | [`target`] | who a machine is and how to reach it: address, user, pinned host keys, login key |
//! | [`limits`] | every time limit and size limit of this room, in one place |
//! | [`pool`] | [`Hosts`]: one session a machine, shared attempts, back-off, logins that are not tried again |
//! | [`session`] | [`Session`]: connect, prove, log in; what is common to every use of a connection |
//! | [`look`] | a look: many sections, one command, nothing changed |
//! | [`change`] | a change: one command, which costs a [`Permit`](binder_core::gate::Permit) |
//! | [`http`] | HTTP to a server as the machine sees it, through the connection |
//! | [`forward`] | a port of ours that leads to a port of its, for one piece of work |
//! | [`reach`] | can this machine reach that port? |
//! | [`mod@sanitize`] | bytes from a machine become text that a person can be shown |
//!
//! This room knows nothing of the Kubernetes API, of facets or of judgement: it says what happened, in types. What a
//! machine sends is hostile input here: bounded in size and time, never parsed by a shell, never trusted to end.
//!
//! The login user's shell must be a POSIX one (`sh`, `dash`, `bash`, `ksh`, `zsh`, `ash`), and the machine needs the
//! coreutils (`timeout`, `head`, `base64`). Nothing else is asked of it, and nothing is written to it by a look.

// A test that cannot go on should panic; what is not a test is checked in the build without them.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod algorithms;
mod backoff;
mod channel;
mod client;
mod connect_error;
mod framing;
mod quote;
mod tls;
mod wire;

pub mod change;
pub mod forward;
pub mod http;
pub mod limits;
#[doc(hidden)]
pub mod local;
pub mod look;
pub mod networks;
pub mod pool;
pub mod probe;
pub mod reach;
pub mod room;
pub mod session;
pub mod target;

#[cfg(test)]
pub(crate) mod tests;

pub use backoff::{Jitter, random_jitter};
pub use binder_core::{sanitize, sanitize_tail};
pub use change::{Change, ChangeError, Ran};
pub use connect_error::{ConnectError, Presented, Stage};
pub use forward::{ForwardError, Forwarding, Screen};
pub use http::{BadPath, HttpAnswer, HttpChanges, HttpError, HttpPath, LocalHttp, LocalHttpChange, Method};
pub use limits::Limits;
pub use look::{Look, LookEnd, LookError};
pub use networks::Networks;
pub use pool::{Connect, Hosts, Kept, NotConnected, Retry, Ssh};
pub use probe::{BadProbe, Probe, Section, SectionOutput};
pub use quote::BadArgument;
pub use reach::{Greeting, Reach, knock};
pub use room::Room;
pub use session::Session;
pub use target::{BadHostKey, BadLoginKey, Endpoint, HostKey, LoginKey, Target};
pub use wire::{Dial, HostStream, Tcp, Unreached};

/// Locks a mutex whose data is whole at every instant: a panic elsewhere while it was held breaks nothing in it.
fn locked<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
