//! The gate: may this step run on this host, now?
//!
//! One function with one answer. [`admit`] gives a [`Permit`] or says what blocks; nothing that changes a host can be
//! sent without a permit, because [`Permit`] has no other constructor and the transport asks for one by value.
//!
//! Knows plain data only: no API types, no transport, no clock. Later checks (frozen, window, budget, circuit breaker,
//! vantage, approval, lease) are further fields of [`Request`] and further arms of [`BlockedBy`].

/// Proof that the gate was passed, for one command on one host. Not `Clone`: one permit, one command.
#[derive(Debug)]
#[must_use]
pub struct Permit {
    host: String,
    action: String,
}

impl Permit {
    /// The UID of the `BinderHost` this permit is for.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The name of the `BinderAction` that records the intention.
    pub fn action(&self) -> &str {
        &self.action
    }
}
