//! The Binder software of 2016 as the lab's hosts run it.
//!
//! | module | |
//! |---|---|
//! | [`software`] | the npm packages, installed once and kept |
//! | [`database`] | the database, by hand |
//! | [`seed`] | what the database holds before its first start |
//! | [`settle`] | started by hand, in the runbook's order |

pub mod database;
pub mod seed;
pub mod settle;
pub mod software;
