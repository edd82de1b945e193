//! How full file systems are, in bytes and in inodes, from `df`.

use super::script::{self, script};
use super::{Answer, Ask, Reason, Unknown};
use crate::sanitize;
use std::collections::BTreeMap;

/// The section's name.
pub const NAME: &str = "disks";

/// One `df` a path, so that a path that is gone does not hide the others: what `df` says of it is told in its place. Last of the
/// sections: a file system that hangs can hold a process beyond any signal.
const SCRIPT: &str = script!(
    r#"
for path in "$@"; do
  printf 'path %s\n' "$path"
  if try df -P -B1 -- "$path"; then
    run df printf '%s\n' "$out"
    if try df -P -i -- "$path"; then run inodes printf '%s\n' "$out"; fi
  else
    [ "$code" -lt 124 ] || fail df
    run refused printf '%s\n' "${words:-exit code $code}"
  fi
done
end
"#
);

/// The section of the probe.
pub fn ask(paths: Vec<String>) -> Ask {
    Ask { name: NAME, script: SCRIPT, args: paths, seconds: 6, max_bytes: 1 << 16 }
}

/// How full a file system is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Use {
    /// As `df` counts it: used of what is usable by the login, in percent, rounded up.
    Percent(u8),
    /// Its inodes are used up more than its bytes: used inodes and used bytes, each in percent. Without an inode nothing can
    /// be written, however much room there is.
    Inodes {
        /// Used inodes.
        inodes: u8,
        /// Used bytes.
        bytes: u8,
    },
    /// The path could not be asked about: what `df` says.
    Unreadable(String),
}

/// Reads the section.
///
/// # Errors
/// [`Unknown`] when the section was not completed or tells nothing.
pub fn read(answer: Option<&Answer>) -> Result<BTreeMap<String, Use>, Unknown> {
    let text = script::whole(answer, "the disks")?;
    let mut disks: BTreeMap<String, Use> = BTreeMap::new();
    let mut path = String::new();
    for line in text.lines() {
        let Some((kind, rest)) = line.split_once(' ') else { continue };
        if kind == "path" {
            rest.clone_into(&mut path);
            disks.insert(path.clone(), Use::Unreadable("nothing".to_owned()));
            continue;
        }
        let Some(found) = disks.get_mut(&path) else { continue };
        match (kind, percent(rest), &*found) {
            ("df", Some(percent), _) => *found = Use::Percent(percent),
            // The last line that is no answer: the header comes before it.
            ("df" | "refused", None, Use::Unreadable(_)) => *found = Use::Unreadable(sanitize(rest.as_bytes(), 120)),
            ("inodes", Some(inodes), Use::Percent(bytes)) if inodes > *bytes => {
                *found = Use::Inodes { inodes, bytes: *bytes };
            }
            _ => {}
        }
    }
    if disks.is_empty() {
        return Err(Unknown {
            reason: Reason::Garbage,
            message: "the disks: df said nothing that can be read".to_owned(),
        });
    }
    Ok(disks)
}

/// `DEVICE SIZE USED AVAILABLE USE% MOUNT`: the device's name may hold blanks, so the percentage is found by its sign; so may it
/// hold that sign, and then no number. A file system that is used beyond its reserve is full.
fn percent(line: &str) -> Option<u8> {
    let mut percents = line.split_whitespace().filter_map(|word| word.strip_suffix('%')?.parse::<u16>().ok());
    percents.next().and_then(|percent| u8::try_from(percent.min(100)).ok())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::*;
    use crate::seen::script::stand_in::Stage;
    use proptest::prelude::*;

    #[test]
    fn each_path_has_its_answer() {
        let text = "path /\ndf Filesystem 1-blocks Used Available Capacity Mounted on\ndf overlay 105089261568 52 44 93% /\n\
            inodes Filesystem Inodes IUsed IFree IUse% Mounted on\ninodes overlay 100 1 99 1% /\n\
            path /gone\nrefused df: /gone: No such file or directory\npath /full\ndf a% b 1 1 0 101% /full\n\
            path /proc\ndf proc 0 0 0 - /proc\nend\n";
        let disks = read(Some(&Answer::Said { bytes: text.as_bytes().to_vec(), exit: 0 })).unwrap();
        assert_eq!(disks["/"], Use::Percent(93));
        assert_eq!(disks["/gone"], Use::Unreadable("df: /gone: No such file or directory".to_owned()));
        assert_eq!(disks["/full"], Use::Percent(100));
        assert_eq!(disks["/proc"], Use::Unreadable("proc 0 0 0 - /proc".to_owned()));
    }

    #[test]
    fn a_file_system_without_inodes_is_full() {
        // moby/moby#9755, and `df` of a tmpfs: `df none 20971520 0 20971520 0% /`.
        let df = "case $* in *-i*) echo 'Filesystem Inodes IUsed IFree IUse% Mounted on'; echo '/dev/sda1 30736384 30736384 0 100% /' ;; \
            *) echo 'Filesystem 1-blocks Used Available Capacity Mounted on'; echo 'none 20971520 0 20971520 0% /' ;; esac";
        for shell in [&["sh"][..], &["bash"], &["busybox", "sh"]] {
            let stage = Stage::new().tool("df", df);
            // Busybox prefers its own df, which tells of this machine.
            let disks = read(Some(&stage.run_with(shell, &ask(vec!["/".to_owned()])))).unwrap();
            assert!(
                shell[0] == "busybox" || disks["/"] == Use::Inodes { inodes: 100, bytes: 0 },
                "{shell:?}: {disks:?}"
            );
        }
    }

    #[test]
    fn a_df_that_is_missing_or_hangs_is_no_path_that_is_gone() {
        let paths = || ask(vec!["/".to_owned()]);
        assert_eq!(read(Some(&Stage::new().without("df").run(&paths()))).unwrap_err().reason, Reason::NotInstalled);
        let refuses = Stage::new().tool("df", "echo 'df: /: Stale file handle' >&2; exit 1");
        let disks = read(Some(&refuses.run(&paths()))).unwrap();
        assert_eq!(disks["/"], Use::Unreadable("df: /: Stale file handle".to_owned()));
    }

    proptest! {
        #[test]
        fn any_output_is_survived(text in "(path |df |inodes )?.{0,100}\n(df )?.{0,100}") {
            let _ = read(Some(&Answer::Said { bytes: format!("{text}\nend").into_bytes(), exit: 0 }));
        }
    }
}
