//! The operator.
pub mod gate;
