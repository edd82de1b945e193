//! What time it is, and the dice: the two things that a pass takes from nowhere. Whoever starts the controllers hands them
//! in, so that an operator can be run with a clock that is off, or twice with the same dice.
//!
//! How long something took is measured with tokio's clock, which no jump of the wall's moves.

use jiff::Timestamp;
use std::sync::Arc;

/// The operator's own clock: what it writes and compares as times.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Clock {
    /// This computer's.
    pub fn system() -> Self {
        Self::of(Timestamp::now)
    }

    /// One that tells the time so.
    pub fn of(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        (self.0)()
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Clock").field(&self.now()).finish()
    }
}

/// Where chance comes from: pauses that differ from host to host, and what an attempt is known by.
#[derive(Clone)]
pub struct Dice(Arc<dyn Fn() -> u64 + Send + Sync>);

impl Dice {
    /// This computer's.
    pub fn random() -> Self {
        Self::of(rand::random::<u64>)
    }

    /// Ones that fall so.
    pub fn of(throw: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(throw))
    }

    /// A part of a whole, from 0 to less than 1, evenly distributed.
    pub fn part(&self) -> f64 {
        // As many bits as an f64 holds exactly.
        const BITS: u32 = f64::MANTISSA_DIGITS;
        #[allow(clippy::cast_precision_loss, reason = "53 bits are exact")]
        let part = ((self.0)() >> (u64::BITS - BITS)) as f64 / (1u64 << BITS) as f64;
        part
    }

    /// A number that nobody else has: 128 bits.
    pub fn nonce(&self) -> u128 {
        (u128::from((self.0)()) << 64) | u128::from((self.0)())
    }
}

impl std::fmt::Debug for Dice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Dice")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_never_less_than_nothing_nor_the_whole() {
        assert!(Dice::of(|| 0).part().abs() < f64::EPSILON);
        let most = Dice::of(|| u64::MAX).part();
        assert!(most < 1.0 && most > 0.999_999);
        assert_eq!(Dice::of(|| 1).nonce(), (1 << 64) | 1);
    }

    #[test]
    fn a_clock_tells_what_it_was_given() {
        assert_eq!(Clock::of(|| Timestamp::UNIX_EPOCH).now(), Timestamp::UNIX_EPOCH);
    }
}
