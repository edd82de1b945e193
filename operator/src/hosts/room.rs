//! How many bytes of answers may be held over all looks at once. Each answer has a limit of its own; this is for when many of
//! them are large at the same time.
//!
//! Nobody waits for room: a host that hangs would hold up the looks at all others. An answer that finds none is cut off and not
//! seen, and looked at again later; the first bytes of each, which is all that a healthy one has, need none.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The first bytes of each answer are not counted. 256 looks at once (`--concurrency`), each with the probe and some ten
/// questions, come to some 45 MiB of them at worst.
const FREE: usize = 16 * 1024;

/// An answer that is larger than this, and no answer of a healthy host is, may use half of the room: a few hosts that flood
/// leave the other half to everybody else.
const MODEST: usize = 1024 * 1024;

/// The room there is by default, in bytes. The chart gives the process 512 MiB. It needs some 60 MiB for itself, 45 MiB for
/// [`FREE`] bytes; what was answered is there in base64, decoded and parsed, at worst three times over, for a moment:
/// 3 * (96 + 45) + 60 is 483 MiB.
pub const ROOM: usize = 96 * 1024 * 1024;

/// Room for answers, shared by its clones.
#[derive(Debug, Clone)]
pub struct Room(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    size: usize,
    taken: AtomicUsize,
}

impl PartialEq for Room {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Room {}

impl Default for Room {
    fn default() -> Self {
        Self::new(ROOM)
    }
}

/// There is no room for an answer of this size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the operator has no room for so large an answer beside those of other hosts (--look-memory)")]
pub struct NoRoom;

impl Room {
    /// For so many bytes.
    pub fn new(size: usize) -> Self {
        Self(Arc::new(Inner { size, taken: AtomicUsize::new(0) }))
    }

    /// For one answer, of which nothing has come yet.
    pub(super) fn guest(&self) -> Guest {
        Guest { room: self.clone(), held: 0 }
    }

    /// How many bytes are taken now.
    pub fn taken(&self) -> usize {
        self.0.taken.load(Ordering::Relaxed)
    }
}

/// What one answer takes of the room; dropping it gives it back.
#[derive(Debug)]
pub(super) struct Guest {
    room: Room,
    held: usize,
}

impl Guest {
    /// Takes room for an answer of which so many bytes are there by now, or gives some back.
    pub(super) fn hold(&mut self, bytes: usize) -> Result<(), NoRoom> {
        let wanted = bytes.saturating_sub(FREE);
        let inner = &self.room.0;
        if wanted <= self.held {
            inner.taken.fetch_sub(self.held - wanted, Ordering::Relaxed);
            self.held = wanted;
            return Ok(());
        }
        let (more, most) = (wanted - self.held, if bytes > MODEST { inner.size / 2 } else { inner.size });
        let fits = |taken: usize| taken.checked_add(more).filter(|sum| *sum <= most);
        inner.taken.try_update(Ordering::Relaxed, Ordering::Relaxed, fits).map_err(|_| NoRoom)?;
        self.held = wanted;
        Ok(())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.room.0.taken.fetch_sub(self.held, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_answers_of_a_few_leave_room_for_everybody_else() {
        let room = Room::new(8 * MODEST);
        let mut flooding: Vec<Guest> = (0..4).map(|_| room.guest()).collect();
        let took = flooding.iter_mut().filter_map(|guest| guest.hold(2 * MODEST).ok()).count();
        assert_eq!(took, 2, "they have half of it together");
        let mut others: Vec<Guest> = (0..4).map(|_| room.guest()).collect();
        assert!(others.iter_mut().all(|guest| guest.hold(MODEST).is_ok()));
        let mut last = room.guest();
        assert_eq!(last.hold(MODEST), Err(NoRoom));
        assert_eq!(last.hold(FREE), Ok(()), "a small answer needs none");
        drop((flooding, others));
        assert_eq!((last.hold(MODEST), room.taken()), (Ok(()), MODEST - FREE));
        assert_eq!((last.hold(0), room.taken()), (Ok(()), 0), "what was handed on is given back");
    }
}
