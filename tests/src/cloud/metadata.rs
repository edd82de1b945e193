//! An instance's metadata, as a file that a person can read and a fault can change; and the agent on the machine that
//! acts on the login keys in it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::Digest;

use crate::cgroup::Cgroup;
use crate::files::{self, FileError};
use crate::host::power::PowerButton;

/// The item that holds login keys, one a line: `USER:TYPE BASE64 COMMENT`.
pub const KEYS: &str = "ssh-keys";

/// How often the agent looks. The real one is told at once.
const LOOK: Duration = Duration::from_millis(300);

/// What the agent writes before each key that is its own in `authorized_keys`.
const MARK: &str = "# Added by Google";

/// The metadata could not be used.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// Its file could not be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// Its file holds something else.
    #[error("`{}` holds no metadata", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

/// One item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// Its name.
    pub key: String,
    /// What it says.
    #[serde(default)]
    pub value: String,
}

/// The metadata of one instance.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// Its items.
    #[serde(default)]
    pub items: Vec<Item>,
}

impl Metadata {
    /// Reads it. A file that is not there holds none.
    ///
    /// # Errors
    /// The file is there and cannot be read.
    pub fn read(path: &Path) -> Result<Self, MetadataError> {
        match files::read(path) {
            Ok(text) => serde_json::from_str(&text)
                .map_err(|source| MetadataError::Unreadable { path: path.to_owned(), source }),
            Err(error) if error.is_missing() => Ok(Self::default()),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes it.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), MetadataError> {
        let text = serde_json::to_string_pretty(self)
            .map_err(|source| MetadataError::Unreadable { path: path.to_owned(), source })?;
        Ok(files::replace(path, text + "\n", 0o600)?)
    }

    /// What changes when anything in it does.
    pub fn fingerprint(&self) -> String {
        let mut digest = sha2::Sha256::new();
        for Item { key, value } in &self.items {
            digest.update(format!("{} {} {key} {value} ", key.len(), value.len()));
        }
        digest.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
    }

    /// As the API describes it.
    pub(super) fn describe(&self) -> Value {
        json!({"kind": "compute#metadata", "fingerprint": self.fingerprint(), "items": self.items})
    }

    /// The value of an item.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.items.iter().find(|item| item.key == key).map(|item| item.value.as_str())
    }

    /// Sets an item.
    pub fn set(&mut self, key: &str, value: String) {
        match self.items.iter_mut().find(|item| item.key == key) {
            Some(item) => item.value = value,
            None => self.items.push(Item { key: key.to_owned(), value }),
        }
    }

    /// The login keys of each user, without the expiring ones, of which the lab knows nothing.
    fn keys(&self) -> BTreeMap<&str, Vec<&str>> {
        let mut keys: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for line in self.get(KEYS).unwrap_or_default().lines() {
            if let Some((user, key)) = line.trim().split_once(':')
                && !key.contains(" google-ssh ")
            {
                keys.entry(user).or_default().push(key);
            }
        }
        keys
    }
}

/// The agent of one machine. The real one is a process of the machine; this one only acts as if: not while the machine is
/// off or hangs.
pub(super) struct Agent {
    pub(super) metadata: PathBuf,
    pub(super) root: PathBuf,
    pub(super) button: PowerButton,
    pub(super) group: Cgroup,
}

impl Agent {
    /// Acts on what is in the metadata whenever that changes, and at each boot, until the runtime ends.
    pub(super) async fn run(self) {
        let mut done = None;
        loop {
            let power = self.button.power();
            let now = Metadata::read(&self.metadata).map(|metadata| (power.boot_id, metadata));
            match now {
                Ok(now) if power.on && !self.group.is_frozen() && done.as_ref() != Some(&now) => {
                    match apply(&self.root, &now.1) {
                        Ok(()) => done = Some(now),
                        Err(error) => tracing::error!(error = crate::said(&error), "cannot place login keys"),
                    }
                }
                Ok(_) => {}
                Err(error) => tracing::error!(error = crate::said(&error), "cannot read metadata"),
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Puts the keys in metadata into the files of their users, and takes away those that it had put there before. What
/// people put there themselves stays.
pub(super) fn apply(root: &Path, metadata: &Metadata) -> Result<(), FileError> {
    let keys = metadata.keys();
    for line in files::read(&root.join("etc/passwd"))?.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        let &[user, _, uid, gid, _, home, _] = fields.as_slice() else { continue };
        let file = root.join(home.trim_start_matches('/')).join(".ssh/authorized_keys");
        let (Ok(uid), Ok(gid), Ok(old)) = (uid.parse(), gid.parse(), files::read(&file)) else { continue };
        let new = placed(&old, keys.get(user).map_or(&[], Vec::as_slice));
        if new != old {
            files::replace(&file, new, 0o600)?;
            files::give(&file, uid, gid)?;
        }
    }
    Ok(())
}

/// The file with these keys of the agent's and no others of its own.
fn placed(old: &str, keys: &[&str]) -> String {
    let mut text = String::new();
    let mut lines = old.lines();
    while let Some(line) = lines.next() {
        if line == MARK {
            lines.next();
        } else {
            text.push_str(line);
            text.push('\n');
        }
    }
    for key in keys {
        text.push_str(&format!("{MARK}\n{key}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_keeps_what_is_not_its_own() {
        let own = "ssh-rsa AAAA me@home\n";
        let one = placed(own, &["ssh-ed25519 AAAA1 x"]);
        assert_eq!(one, "ssh-rsa AAAA me@home\n# Added by Google\nssh-ed25519 AAAA1 x\n");
        assert_eq!(placed(&one, &["ssh-ed25519 AAAA1 x"]), one);
        assert_eq!(placed(&one, &["b"]), "ssh-rsa AAAA me@home\n# Added by Google\nb\n");
        assert_eq!(placed(&one, &[]), own);
    }

    #[test]
    fn a_fingerprint_changes_with_any_item() {
        let mut metadata = Metadata::default();
        let empty = metadata.fingerprint();
        metadata.set(KEYS, "carol:ssh-rsa AAAA".into());
        let one = metadata.fingerprint();
        metadata.set(KEYS, "carol:ssh-rsa AAAB".into());
        assert!(empty != one && one != metadata.fingerprint());
        assert_eq!(metadata.keys().into_iter().collect::<Vec<_>>(), [("carol", vec!["ssh-rsa AAAB"])]);
    }
}
