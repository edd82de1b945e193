//! How full file systems are, from `df`.

use super::{Answer, Ask, Blind, Reason, text};
use std::collections::BTreeMap;

/// The section's name.
pub const NAME: &str = "disks";

/// One `df` a path, so that a path that is gone does not hide the others. Last of the sections: a file system that hangs
/// can hold a process beyond any signal.
const SCRIPT: &str = r#"
set -u
for path in "$@"; do
  printf 'path %s\n' "$path"
  df -P -B1 -- "$path" 2>&1 | sed -n '$s/^/df /p'
done
"#;

/// The section of the probe.
pub fn ask(paths: Vec<String>) -> Ask {
    Ask { name: NAME, script: SCRIPT, args: paths, seconds: 6, max_bytes: 1 << 16 }
}

/// How full a file system is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Use {
    /// As `df` counts it: used of what is usable by the login, in percent, rounded up.
    Percent(u8),
    /// The path could not be asked about.
    Unreadable,
}

/// Reads the section.
///
/// # Errors
/// [`Blind`] when the section was not completed or tells nothing.
pub fn read(answer: Option<&Answer>) -> Result<BTreeMap<String, Use>, Blind> {
    let text = text(answer, "the disks")?;
    let mut disks = BTreeMap::new();
    let mut path = None;
    for line in text.lines() {
        match line.split_once(' ') {
            Some(("path", rest)) => {
                path = Some(rest.to_owned());
                disks.insert(rest.to_owned(), Use::Unreadable);
            }
            Some(("df", rest)) => {
                if let (Some(path), Some(percent)) = (path.take(), percent(rest)) {
                    disks.insert(path, Use::Percent(percent));
                }
            }
            _ => {}
        }
    }
    if disks.is_empty() {
        return Err(Blind {
            reason: Reason::Garbage,
            message: "the disks: df said nothing that can be read".to_owned(),
        });
    }
    Ok(disks)
}

/// `DEVICE SIZE USED AVAILABLE USE% MOUNT`: the device's name may hold blanks, so the percentage is found by its sign.
fn percent(line: &str) -> Option<u8> {
    let word = line.split_whitespace().find(|word| word.len() > 1 && word.ends_with('%'))?;
    word.trim_end_matches('%').parse().ok().filter(|percent| *percent <= 100)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_path_has_its_answer() {
        let text = "path /\ndf overlay 105089261568 52 44 93% /\npath /gone\ndf df: /gone: No such file or directory\n";
        let disks = read(Some(&Answer::Said { bytes: text.as_bytes().to_vec(), exit: 0 })).unwrap();
        assert_eq!(disks["/"], Use::Percent(93));
        assert_eq!(disks["/gone"], Use::Unreadable);
    }

    proptest! {
        #[test]
        fn any_output_is_survived(text in "(path |df )?.{0,100}\n(df )?.{0,100}") {
            let _ = read(Some(&Answer::Said { bytes: text.into_bytes(), exit: 0 }));
        }
    }
}
