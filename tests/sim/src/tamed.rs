//! What would differ from run to run, tamed: entropy and clocks of this process's threads, for those that simulate.
//!
//! The order of std's hash maps inside kube's runtime hangs on `getrandom`, event names and caches' ages on `clock_gettime`.
//! Both are defined here and take the place of libc's in every program that this crate is linked into. A thread that has not
//! called [`enter`] gets the real thing.

#![allow(
    unsafe_code,
    reason = "two functions of libc are replaced, with their signatures; a thread that simulates nothing gets libc's own"
)]

use std::cell::Cell;
use std::sync::Once;
use std::time::Duration;

/// When every simulated world begins: 2026-11-22T03:00:00Z, in seconds since 1970.
pub const EPOCH: i64 = 1_795_316_400;

thread_local! {
    /// The state of this thread's entropy; 0: the real one.
    static ENTROPY: Cell<u64> = const { Cell::new(0) };
    /// Nanoseconds since the world's beginning, plus one a reading; `None`: the real clock.
    static NOW: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Begins to simulate on this thread, which must be a fresh one: std draws a thread's keys for hash maps once.
pub fn enter(seed: u64) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Its keys are drawn once for the whole process: under a fixed seed, whoever comes first, and on a thread of their own,
        // so that the first world of a process is like any other.
        let first = std::thread::spawn(|| {
            ENTROPY.set(0x5eed);
            // Somebody may have been there before; then a test in which traces are compared says so.
            let _ = ahash::random_state::set_random_source(Addresses);
            let _ = ahash::RandomState::new();
        });
        let _ = first.join();
    });
    ENTROPY.set(seed | 1);
    NOW.set(Some(0));
    fastrand::seed(seed);
}

/// Tells this thread what time it is in its world.
pub fn tick(since: Duration) {
    let now = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
    // Readings within one moment differ by a nanosecond: events are named by the time.
    NOW.set(Some(NOW.get().unwrap_or_default().max(now)));
}

/// In place of addresses and a counter of the whole process.
struct Addresses;

impl ahash::random_state::RandomSource for Addresses {
    fn gen_hasher_seed(&self) -> usize {
        usize::try_from(draw()).unwrap_or_default()
    }
}

fn draw() -> u64 {
    let mut rng = crate::rng::Rng::new(ENTROPY.get());
    let drawn = rng.draw();
    // Never 0, which would be the real thing.
    ENTROPY.set(ENTROPY.get().wrapping_add(0x9e37_79b9_7f4a_7c16) | 1);
    drawn
}

/// In place of libc's: fills a buffer, for a thread that simulates from its seed.
///
/// # Safety
/// As of libc's function: `buffer` has room for `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut libc::c_void, length: usize, flags: libc::c_uint) -> isize {
    if ENTROPY.try_with(Cell::get).unwrap_or_default() == 0 {
        // SAFETY: the same arguments, to the kernel itself.
        let got = unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, flags) };
        return isize::try_from(got).unwrap_or(-1);
    }
    // SAFETY: the caller promises room for `length` bytes.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length) };
    for chunk in bytes.chunks_mut(8) {
        chunk.copy_from_slice(&draw().to_le_bytes()[..chunk.len()]);
    }
    isize::try_from(length).unwrap_or(-1)
}

/// In place of libc's: tells the time, for a thread that simulates that of its world.
///
/// # Safety
/// As of libc's function: `at` is a valid place for the time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(id: libc::clockid_t, at: *mut libc::timespec) -> libc::c_int {
    let Some(now) = NOW.try_with(Cell::get).unwrap_or_default() else {
        // SAFETY: the same arguments, to the kernel itself.
        let said = unsafe { libc::syscall(libc::SYS_clock_gettime, id, at) };
        return libc::c_int::try_from(said).unwrap_or(-1);
    };
    NOW.set(Some(now + 1));
    let (seconds, rest) = (now / 1_000_000_000, now % 1_000_000_000);
    let wall = matches!(id, libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE);
    // A monotonic clock never reads so little that something can be subtracted to before its beginning.
    let base = if wall { EPOCH } else { 1_000_000 };
    // SAFETY: the caller promises a valid place.
    unsafe {
        (*at).tv_sec = base + i64::try_from(seconds).unwrap_or_default();
        (*at).tv_nsec = i64::try_from(rest).unwrap_or_default();
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::time::SystemTime;

    fn order(seed: u64) -> Vec<u32> {
        let run = move || {
            enter(seed);
            (0..100u32).map(|n| (n, ())).collect::<HashMap<_, _>>().into_keys().collect()
        };
        std::thread::spawn(run).join().unwrap_or_default()
    }

    #[test]
    fn a_seed_has_its_own_order_and_its_own_time() {
        assert_eq!(order(3), order(3));
        assert_ne!(order(3), order(4));
        let told = || {
            enter(1);
            tick(Duration::from_secs(9));
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map(|at| at.as_secs()).ok()
        };
        assert_eq!(std::thread::spawn(told).join().ok().flatten(), u64::try_from(EPOCH + 9).ok());
    }

    #[test]
    fn who_simulates_nothing_has_the_real_thing() {
        let (one, other) = (SystemTime::now(), rand_word());
        assert!(one.duration_since(SystemTime::UNIX_EPOCH).is_ok_and(|at| at.as_secs() > 1_700_000_000));
        assert_ne!(other, rand_word());
    }

    fn rand_word() -> u64 {
        let mut word = [0u8; 8];
        // SAFETY: the buffer is as long as said.
        assert_eq!(unsafe { getrandom(word.as_mut_ptr().cast(), word.len(), 0) }, 8);
        u64::from_le_bytes(word)
    }
}
