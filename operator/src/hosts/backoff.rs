//! How long to wait after so many failures: exponential, with full jitter, so that a fleet that lost its network does
//! not come back in one step.
//!
//! Pure but for the randomness, which is injected.

use std::sync::Arc;
use std::time::Duration;

/// Picks a time between zero and its argument.
pub type Jitter = Arc<dyn Fn(Duration) -> Duration + Send + Sync>;

/// Evenly distributed.
pub fn random_jitter() -> Jitter {
    Arc::new(|ceiling| rand::random_range(Duration::ZERO..=ceiling))
}

/// The ceiling after the first failure; doubled with each further one.
const BASE: Duration = Duration::from_secs(1);
/// The ceiling never gets higher, so that a machine that comes back is noticed within minutes.
const CAP: Duration = Duration::from_secs(5 * 60);
/// Full jitter may pick zero; this keeps even an unlucky run from hammering.
const FLOOR: Duration = Duration::from_millis(250);

/// How long to wait after `failures` failures in a row, of which there is at least one.
pub(super) fn delay(failures: u32, jitter: &Jitter) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    let ceiling = BASE.saturating_mul(1 << doublings).min(CAP);
    jitter(ceiling).clamp(FLOOR, ceiling)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ceilings_double_up_to_five_minutes() {
        let most: Jitter = Arc::new(|ceiling| ceiling);
        let seconds: Vec<u64> = (1..=11).map(|failures| delay(failures, &most).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert_eq!(delay(u32::MAX, &most), CAP);
    }

    #[test]
    fn never_at_once_and_never_over_the_ceiling() {
        let least: Jitter = Arc::new(|_| Duration::ZERO);
        assert_eq!(delay(9, &least), FLOOR);
        let random = random_jitter();
        for failures in 1..30 {
            let waited = delay(failures, &random);
            assert!(waited >= FLOOR && waited <= CAP);
        }
    }
}
