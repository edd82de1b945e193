//! A panic is a defect of this program: it is caught where one pass over one object ends, and told by where it happened.
//!
//! What a panic says may repeat what it stumbled over, a secret or a host's words; so only the place in the code is logged
//! and shown.

use futures::FutureExt;
use std::cell::RefCell;
use std::future::Future;
use std::panic::AssertUnwindSafe;

thread_local! {
    /// Where the last panic of this thread happened.
    static PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Has panics logged by where they happened and no more.
pub fn log_only_where() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
        tracing::error!(place, "a defect of this program");
        PLACE.with(|last| *last.borrow_mut() = Some(place));
    }));
}

/// Runs a future to its end, or to its panic: then the place in the code, as far as it is known.
///
/// # Errors
/// The place.
pub async fn caught<T>(future: impl Future<Output = T>) -> Result<T, String> {
    // What the future held is gone with it; what it shares with others is behind locks that recover from a panic.
    match AssertUnwindSafe(future).catch_unwind().await {
        Ok(value) => Ok(value),
        // The hook ran on this thread, within the same poll.
        Err(_) => Err(PLACE.with(|last| last.borrow_mut().take()).unwrap_or_else(|| "an unknown place".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_ends_one_pass_and_does_not_repeat_what_it_stumbled_over() {
        let broken = caught(async { assert!(std::hint::black_box(false), "s3cret of a host") }).await;
        assert!(broken.is_err_and(|place| !place.contains("s3cret")));
        assert_eq!(caught(async { 7 }).await, Ok(7));
    }
}
