//! One host of the lab: what lies on its disk, how it boots and ends, and the way into it.
//!
//! | module | |
//! |---|---|
//! | [`root`] | its file system |
//! | [`furnish`] | what is written there before the first boot |
//! | [`init`] | its first process |
//! | [`power`] | the power button |
//! | [`memory`] | what it believes about its memory |
//! | [`enter`] | running commands on it, past the operator or as the operator does |

pub mod enter;
pub mod furnish;
pub mod init;
pub mod memory;
pub mod power;
pub mod root;
