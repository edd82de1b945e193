//! binder-operator: keeps machines that are not Kubernetes nodes as their owner described them, over SSH.
//!
//! The rooms, each of which knows only those below it:
//!
//! - [`controllers`] - fleet and host; watch, call the loop, record;
//! - [`machines`] - the way out: everything that is reached beyond the Kubernetes API, as traits;
//! - [`plan`] - `decide`, pure: drift -> order -> gate -> step;
//! - [`status`] - the words that people read, pure;
//! - [`execute`] - a step as what carries it out: a command, a call;
//! - [`observe`] - one look at a host;
//! - [`facets`] - one aspect of a host each, pure: what it must see, what differs, its ladder;
//! - [`seen`] - what a look saw, pure: the probe's sections and their parsers;
//! - [`catalogue`] - what runs under pm2, as data;
//! - [`schedule`] - the owner's schedules as moments, pure;
//! - [`gate`] - permits;
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
