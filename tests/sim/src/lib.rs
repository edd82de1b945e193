//! The simulated fleet: the whole operator, controllers included, in one process under paused time, from one seed.
//!
//! A [`case::Case`] says everything that a run hangs on. [`run::run`] plays it: machines in memory that steps really change,
//! an API server in memory, a network that parts, clouds, owners and people who do what they do, and anything that can happen
//! to a single call on its way. The [`judge`] looks at the world as it is, and knows what must never be. A case that fails is
//! made shorter by [`shrink`], and kept as a test.

#![allow(clippy::large_futures, reason = "a world's futures are built once a run")]

pub mod api;
pub mod case;
mod cloud;
pub mod coverage;
pub mod judge;
pub mod machine;
pub mod mutations;
pub mod outside;
pub mod owner;
pub mod play;
pub mod rng;
pub mod run;
pub mod shrink;
pub mod state;
pub mod tamed;
