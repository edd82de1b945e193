//! The Binder software of 2016 as the lab's hosts run it.
//!
//! | module | |
//! |---|---|
//! | [`software`] | the npm packages, installed once and kept |

pub mod software;
