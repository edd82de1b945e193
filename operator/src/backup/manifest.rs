//! What a backup says of itself: which collections, how many documents, which checksums. Pure.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The manifest's file in a backup's folder.
pub const FILE: &str = "binder-manifest.json";
/// The version of the manifest that is written, and the only one that is read.
pub const VERSION: u32 = 1;
/// The largest manifest that is read, in bytes.
pub const MOST_BYTES: usize = 1 << 20;

/// A backup, as it was verified after it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// [`VERSION`].
    pub version: u32,
    /// The database's name.
    pub database: String,
    /// What the server said of its version.
    pub server_version: String,
    /// When the first collection began to be read.
    pub begun: Timestamp,
    /// When all was written and verified.
    pub finished: Timestamp,
    /// Collections that changed all the time while they were read: each may be from another moment than the rest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub moved: Vec<String>,
    /// The collections.
    pub collections: Vec<Part>,
}

/// One collection of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Part {
    /// Its name.
    pub name: String,
    /// Its documents' file, relative to the manifest; `None` of a view, which has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bson: Option<Sum>,
    /// The file of its options and indexes.
    pub metadata: Sum,
    /// How many documents.
    pub documents: u64,
}

/// A file with what it must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sum {
    /// The file, relative to the manifest.
    pub file: String,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256, in hex.
    pub sha256: String,
}

impl Manifest {
    /// How many documents the backup holds.
    pub fn documents(&self) -> u64 {
        self.collections.iter().map(|part| part.documents).sum()
    }

    /// How many bytes its files take.
    pub fn bytes(&self) -> u64 {
        let bson = |part: &Part| part.bson.as_ref().map_or(0, |sum| sum.bytes);
        self.collections.iter().map(|part| bson(part) + part.metadata.bytes).sum()
    }
}

/// The checksum and size of what passes by, and how many BSON documents it is.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    hash: Sha256,
    bytes: u64,
    documents: u64,
    /// The bytes of a length that is not whole yet, and how many bytes of the present document are still to come.
    length: Vec<u8>,
    left: u64,
}

impl Tally {
    /// Takes in what comes next, cut anywhere.
    ///
    /// # Errors
    /// A length that no document has.
    pub fn take(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        while !bytes.is_empty() {
            if self.left == 0 {
                let missing = 4 - self.length.len();
                let (head, rest) = bytes.split_at(missing.min(bytes.len()));
                self.length.extend_from_slice(head);
                bytes = rest;
                if let Ok(length) = <[u8; 4]>::try_from(self.length.as_slice()) {
                    let length = u32::from_le_bytes(length);
                    if !(5..=MOST_OF_A_DOCUMENT).contains(&length) {
                        return Err(format!("a document of {length} bytes"));
                    }
                    self.left = u64::from(length) - 4;
                    self.length.clear();
                }
            } else {
                let here = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
                self.left -= here as u64;
                bytes = &bytes[here..];
                if self.left == 0 {
                    self.documents += 1;
                }
            }
        }
        Ok(())
    }

    /// How many whole documents passed by.
    pub fn documents(&self) -> u64 {
        self.documents
    }

    /// How many bytes passed by.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The checksum, in hex.
    ///
    /// # Errors
    /// The last document is not whole.
    pub fn end(self) -> Result<String, String> {
        if self.left > 0 || !self.length.is_empty() {
            return Err("the last document is cut off".to_owned());
        }
        Ok(hex(self.hash))
    }
}

/// The largest document: MongoDB's own limit of 16 MiB, and its allowance beyond it.
pub const MOST_OF_A_DOCUMENT: u32 = 16 * 1024 * 1024 + 16 * 1024;

/// The SHA-256 of some bytes, in hex.
pub fn sum(bytes: &[u8]) -> String {
    hex(Sha256::new_with_prefix(bytes))
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::*;
    use mongodb::bson::{doc, serialize_to_vec};
    use proptest::prelude::*;

    #[test]
    fn what_is_cut_off_is_noticed() {
        let bytes = serialize_to_vec(&doc! { "a": 1 }).unwrap();
        let mut tally = Tally::default();
        tally.take(&bytes[..bytes.len() - 1]).unwrap();
        assert!(tally.end().is_err());
        assert!(Tally::default().take(&[1, 0, 0, 0]).is_err());
        assert!(Tally::default().take(&[255, 255, 255, 127]).is_err());
        assert_eq!(Tally::default().end().unwrap(), sum(&[]));
    }

    proptest! {
        #[test]
        fn documents_are_counted_however_they_are_cut(count in 0usize..9, cut in 1usize..50) {
            let mut all = Vec::new();
            for at in 0..count {
                all.extend(serialize_to_vec(&doc! { "_id": at as i64, "text": "x".repeat(at * 7) }).unwrap());
            }
            let mut tally = Tally::default();
            for chunk in all.chunks(cut) {
                tally.take(chunk).unwrap();
            }
            prop_assert_eq!(tally.documents(), count as u64);
            prop_assert_eq!(tally.bytes(), all.len() as u64);
            prop_assert_eq!(tally.end().unwrap(), sum(&all));
        }

        #[test]
        fn any_bytes_are_survived(bytes in any::<Vec<u8>>()) {
            let _ = Tally::default().take(&bytes);
        }
    }
}
