//! What a host believes about its memory.
//!
//! `/proc/meminfo` is not told apart by namespaces, so every host would see this computer's. A host with a size of its own
//! sees a file instead: its size, less what its own processes hold. Bounded by nothing: a host that takes more than its
//! size takes it from this computer.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cgroup::Cgroup;
use crate::files::{self, FileError};

/// How often the file is written anew.
const EVERY: Duration = Duration::from_millis(500);

/// The size of a page of memory in KiB, on every computer that the lab runs on.
const PAGE: u64 = 4;

/// Keeps the file current with what the processes of a group hold, of `total` MiB, until the runtime ends.
///
/// # Errors
/// The file cannot be written.
pub fn believe(group: Cgroup, file: PathBuf, total: u32) -> Result<(), FileError> {
    let total = u64::from(total) << 10;
    files::write(&file, describe(total, 0), 0o444)?;
    tokio::spawn(async move {
        loop {
            let held = group.processes().unwrap_or_default().into_iter().filter_map(held).sum();
            if let Err(error) = overwrite(&file, &describe(total, held)) {
                tracing::error!(error = crate::said(&error), "cannot tell a host its memory");
            }
            tokio::time::sleep(EVERY).await;
        }
    });
    Ok(())
}

/// Writes a text over one of the same length. In place: what shows inside is this very file; and never empty, not even for
/// a moment.
fn overwrite(file: &Path, text: &str) -> Result<(), FileError> {
    let failed = |source| FileError::new("write", file, source);
    let mut open = std::fs::OpenOptions::new().write(true).open(file).map_err(failed)?;
    open.write_all(text.as_bytes()).map_err(failed)
}

/// What a process holds for itself alone, in KiB. None when it is gone.
fn held(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("statm")).ok()?;
    let mut fields = text.split(' ').skip(1).map_while(|field| field.parse::<u64>().ok());
    let (resident, shared) = (fields.next()?, fields.next()?);
    Some(resident.saturating_sub(shared) * PAGE)
}

/// The lines that `free` and everybody else reads, in KiB. Padded to one length, so that a reader never sees half of one
/// text and half of another.
fn describe(total: u64, held: u64) -> String {
    let free = total.saturating_sub(held);
    let line = |name: &str, size: u64| format!("{:<15}{size:>10} kB\n", format!("{name}:"));
    [
        ("MemTotal", total),
        ("MemFree", free),
        ("MemAvailable", free),
        ("Buffers", 0),
        ("Cached", 0),
        ("SwapCached", 0),
        ("SwapTotal", 0),
        ("SwapFree", 0),
        ("Shmem", 0),
        ("SReclaimable", 0),
    ]
    .into_iter()
    .map(|(name, size)| line(name, size))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_not_available() {
        let text = describe(1 << 20, 1000);
        assert!(text.contains("MemTotal:         1048576 kB\n"), "{text}");
        assert!(text.contains("MemAvailable:     1047576 kB\n"), "{text}");
        assert!(describe(10, 20).contains("MemAvailable:           0 kB\n"));
        assert!(held(std::process::id()).is_some_and(|held| held > 100));
        assert_eq!(text.len(), describe(1 << 20, 0).len());
    }
}
