//! Binder's own software as the operator talks to it: its database, and the servers' HTTP APIs.
//!
//! I/O and its limits, and no judgement: what was read becomes plain facts in [`binder_core::seen`], and whatever changes
//! something takes the gate's permit by value. Knows [`crate::hosts`], by which it reaches everything; must not know the
//! Kubernetes API, facets' reasons or what was tried before.

pub(crate) mod ask;
pub mod build_server;
pub mod database;
pub(crate) mod proxy;
pub mod screen;
