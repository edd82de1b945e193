//! binder-core: everything that binder-operator decides and says, without a connection to anything.
//!
//! Data comes in (what is described, what a look found, what was done before, the time), data goes out (what differs, the
//! next step or the reason to wait, the words that people read). No clock, no network, no process, no file: `cargo tree`
//! has neither tokio nor russh, mongodb, object_store or a client of Kubernetes in it, and `tests/purity.rs` of this crate asks.
//!
//! The rooms, each of which knows only those below it:
//!
//! - [`status`] - the words that people read;
//! - [`plan`] - `decide`: drift -> order -> gate -> step;
//! - [`facets`] - one aspect of a host each: what it must see, what differs, its ladder;
//! - [`gate`] - permits, and what a step demands as evidence;
//! - [`inspect`] - what a look found, as figures for `/metrics`;
//! - [`seen`] - what a look found: the probe's sections and their parsers;
//! - [`catalogue`] - what runs under pm2, as data;
//! - [`schedule`] - the owner's schedules as moments;
//! - [`conditions`] and [`words`] - lists of conditions and text, as several rooms shape them;
//! - [`mod@sanitize`] - bytes from a host become text that a person can be shown.

pub mod catalogue;
pub mod conditions;
pub mod facets;
pub mod gate;
pub mod inspect;
pub mod plan;
pub mod sanitize;
pub mod schedule;
pub mod seen;
pub mod status;
pub mod words;

pub use sanitize::{sanitize, sanitize_tail};
