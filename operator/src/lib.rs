//! binder-operator: keeps machines that are not Kubernetes nodes as their owner described them, over SSH.
//!
//! What is decided and said is the core's ([`binder_core`]). Here is the shell around it, in rooms, each of which knows only those
//! below it:
//!
//! - [`controllers`] - fleet and host: watch, call the loop, record;
//! - [`machines`] - the way out as traits, so that the controllers can be put into another world;
//! - [`execute`] - a step as what carries it out: a command, a call;
//! - [`observe`] - one look at a host;
//! - [`power`] - what a cloud says of a machine, and restarting it from outside;
//! - [`backup`] - backups of the database, and the way back;
//! - [`binder`] - Binder's database and its servers' APIs, through the hosts;
//! - [`hosts`] - SSH sessions, the probe's framing, tunnels.

// A pass is a deep chain of futures: one that is large in place takes the stack of a worker thread.
#![warn(clippy::large_futures)]

pub mod backup;
pub mod binder;
pub mod chain;
pub mod clock;
pub mod commands;
pub mod config;
pub mod controllers;
pub mod execute;
pub mod heartbeat;
pub mod hosts;
pub mod machines;
pub mod metrics;
pub mod observe;
pub mod panics;
pub mod power;
pub mod serve;
