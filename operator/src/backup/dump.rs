//! A database becomes a backup: written, read again at its source, read back from where it lies, and only then a good one.

use super::BackupError;
use super::extjson;
use super::manifest::{FILE, Manifest, Part, Sum, Tally, VERSION, sum};
use super::store::{self, Store, told};
use crate::hosts::sanitize;
use binder_core::seen::backups::Good;
use futures::TryStreamExt;
use jiff::Timestamp;
use mongodb::bson::{Bson, Document, RawDocumentBuf, doc};
use mongodb::{Cursor, Database};
use object_store::buffered::BufWriter;
use std::collections::BTreeSet;
use tokio::io::AsyncWriteExt;

/// The most that a whole backup takes in, in bytes, over all collections and all rounds: a database that never ends must not
/// fill the place of storage.
const MOST_BYTES: u64 = 64 * 1024 * 1024 * 1024;
/// The most collections.
const MOST_COLLECTIONS: usize = 1000;
/// The most that the description of one collection or index takes, in bytes. The library copies what is nested once for each
/// level, so that a large one would take many times its size in memory; MongoDB's own are below 10 KB.
const MOST_DESCRIPTION: usize = 256 * 1024;
/// How often what has changed meanwhile is written anew.
const ROUNDS: u32 = 4;
/// The longest name of a file that `mongodump` gives, without its ending.
const LONGEST_FILE: usize = 238;

/// A collection as the database lists it.
struct Listed {
    name: String,
    /// `collection`, `view` or `timeseries`.
    kind: String,
    options: Document,
    uuid: Option<String>,
}

impl Listed {
    fn is_view(&self) -> bool {
        self.kind == "view"
    }
}

/// Backs a database up into a new folder of the store. The permit was the caller's to spend: nothing on the host changes.
///
/// # Errors
/// [`BackupError`]; what was written until then is no backup, and goes with the next clean-up.
pub async fn dump(database: &Database, store: &Store, now: Timestamp) -> Result<Good, BackupError> {
    let name = store::name(now);
    let folder = store.folder(&name)?;
    let server_version = server_version(database).await?;
    let collections = collections(database).await?;

    let mut parts: Vec<Option<Part>> = collections.iter().map(|_| None).collect();
    let mut moved: BTreeSet<usize> = (0..collections.len()).collect();
    let mut left = MOST_BYTES;
    for _ in 0..ROUNDS {
        for at in &moved {
            let part = write(database, &folder, &collections[*at], left).await?;
            left = left.saturating_sub(part.bson.as_ref().map_or(0, |bson| bson.bytes));
            parts[*at] = Some(part);
        }
        moved = changed(database, &collections, &parts).await?;
        if moved.is_empty() {
            break;
        }
    }
    let parts: Vec<Part> = parts.into_iter().flatten().collect();
    for part in &parts {
        read_back(&folder, part).await?;
    }

    let prelude = serde_json::json!({ "ServerVersion": server_version, "ToolVersion": tool() });
    folder.write("prelude.json", prelude.to_string().into_bytes()).await?;
    let manifest = Manifest {
        version: VERSION,
        database: database.name().to_owned(),
        server_version,
        begun: now,
        finished: Timestamp::now(),
        moved: moved.iter().map(|at| collections[*at].name.clone()).collect(),
        collections: parts,
    };
    let text = serde_json::to_vec_pretty(&manifest)
        .map_err(|error| BackupError::Unreadable { file: FILE.to_owned(), why: error.to_string() })?;
    folder.write(FILE, text).await?;
    Ok(Good { name, at: now, documents: manifest.documents(), bytes: manifest.bytes() })
}

fn tool() -> String {
    format!("binder-operator {}", env!("CARGO_PKG_VERSION"))
}

async fn server_version(database: &Database) -> Result<String, BackupError> {
    let info = database.run_command(doc! { "buildInfo": 1 }).await.map_err(BackupError::database("its version"))?;
    Ok(sanitize(info.get_str("version").unwrap_or("unknown").as_bytes(), 40))
}

async fn collections(database: &Database) -> Result<Vec<Listed>, BackupError> {
    let failed = || BackupError::database("the list of collections");
    let mut cursor = database.run_cursor_command(doc! { "listCollections": 1 }).await.map_err(failed())?;
    let mut found = Vec::new();
    while cursor.advance().await.map_err(failed())? {
        bounded(cursor.current().as_bytes(), "the description of a collection")?;
        let row = Document::try_from(cursor.current()).map_err(|error| failed()(error.into()))?;
        let name = row.get_str("name").unwrap_or_default().to_owned();
        // MongoDB's own bookkeeping, which no tool brings back.
        if name.starts_with("system.") {
            continue;
        }
        found.push(Listed {
            kind: row.get_str("type").unwrap_or("collection").to_owned(),
            options: row.get_document("options").cloned().unwrap_or_default(),
            uuid: uuid(&row),
            name,
        });
        if found.len() > MOST_COLLECTIONS {
            return Err(BackupError::TooLarge { what: format!("over {MOST_COLLECTIONS} collections") });
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

fn bounded(bytes: &[u8], what: &str) -> Result<(), BackupError> {
    if bytes.len() <= MOST_DESCRIPTION {
        return Ok(());
    }
    Err(BackupError::TooLarge { what: format!("{what} of {} bytes", bytes.len()) })
}

fn uuid(row: &Document) -> Option<String> {
    match row.get_document("info").ok()?.get("uuid")? {
        Bson::Binary(binary) if binary.bytes.len() == 16 => {
            Some(binary.bytes.iter().map(|byte| format!("{byte:02x}")).collect())
        }
        _ => None,
    }
}

/// The name of a collection's files, as `mongodump` makes it: Go's `url.QueryEscape`.
fn escaped(collection: &str) -> Result<String, BackupError> {
    let mut name = String::new();
    for byte in collection.bytes() {
        match byte {
            b' ' => name.push('+'),
            _ if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') => {
                name.push(char::from(byte))
            }
            _ => name.push_str(&format!("%{byte:02X}")),
        }
    }
    if name.is_empty() || name.len() > LONGEST_FILE || name.starts_with('.') {
        return Err(BackupError::Name(sanitize(collection.as_bytes(), 80)));
    }
    Ok(name)
}

/// The text of a collection's options and indexes.
async fn metadata(database: &Database, listed: &Listed) -> Result<String, BackupError> {
    let failed = || BackupError::database(format!("the indexes of {}", sanitize(listed.name.as_bytes(), 80)));
    let mut indexes = Vec::new();
    if !listed.is_view() {
        let command = doc! { "listIndexes": &listed.name };
        let mut cursor = database.run_cursor_command(command).await.map_err(failed())?;
        while cursor.advance().await.map_err(failed())? {
            bounded(cursor.current().as_bytes(), "the description of an index")?;
            let index = Document::try_from(cursor.current()).map_err(|error| failed()(error.into()))?;
            indexes.push(Bson::Document(index));
        }
    }
    let mut metadata = Document::new();
    if !listed.options.is_empty() {
        metadata.insert("options", listed.options.clone());
    }
    metadata.insert("indexes", indexes);
    if let Some(uuid) = &listed.uuid {
        metadata.insert("uuid", uuid);
    }
    metadata.insert("collectionName", &listed.name);
    metadata.insert("type", &listed.kind);
    let file = || sanitize(listed.name.as_bytes(), 80);
    extjson::write(&metadata).map_err(|source| BackupError::Text { file: file(), source })
}

/// The next document, if there is one and it fits into what a backup may still take in.
fn fits(document: Option<&[u8]>, left: u64) -> Result<Option<&[u8]>, BackupError> {
    match document {
        Some(document) if document.len() as u64 > left => {
            Err(BackupError::TooLarge { what: format!("a database of over {MOST_BYTES} bytes") })
        }
        document => Ok(document),
    }
}

/// Writes one collection, of at most `left` bytes.
async fn write(database: &Database, folder: &Store, listed: &Listed, mut left: u64) -> Result<Part, BackupError> {
    let file = format!("{}/{}", database.name(), escaped(&listed.name)?);
    let text = metadata(database, listed).await?;
    let described =
        Sum { file: format!("{file}.metadata.json"), bytes: text.len() as u64, sha256: sum(text.as_bytes()) };
    folder.write(&described.file, text.into_bytes()).await?;
    if listed.is_view() {
        return Ok(Part { name: listed.name.clone(), bson: None, metadata: described, documents: 0 });
    }
    let file = format!("{file}.bson");
    let (inner, path) = folder.file(&file)?;
    let mut writer = BufWriter::new(inner, path);
    let failed = |error: std::io::Error| BackupError::Store {
        verb: "write",
        what: file.clone(),
        place: folder.shown().to_owned(),
        said: told(&error),
    };
    let mut reading = Reading::of(database, &listed.name).await?;
    loop {
        let next = reading.next().await.and_then(|document| fits(document, left));
        match next {
            Ok(Some(document)) => {
                left = left.saturating_sub(document.len() as u64);
                writer.write_all(document).await.map_err(failed)?;
            }
            Ok(None) => break,
            Err(error) => {
                // Else a bucket keeps the pieces that it has, and shows them to nobody. That it could not be told to let go
                // of them changes nothing of what failed.
                let _ = writer.abort().await;
                return Err(error);
            }
        }
    }
    writer.shutdown().await.map_err(failed)?;
    let (bytes, documents) = (reading.tally.bytes(), reading.tally.documents());
    let sha256 = reading.tally.end().map_err(|why| BackupError::Unreadable { file: file.clone(), why })?;
    Ok(Part { name: listed.name.clone(), bson: Some(Sum { file, bytes, sha256 }), metadata: described, documents })
}

/// A collection that is being read: every document in the order of `_id`, as the database stores it.
pub(super) struct Reading {
    cursor: Cursor<RawDocumentBuf>,
    shown: String,
    /// What has been read.
    pub(super) tally: Tally,
}

impl Reading {
    /// Begins.
    pub(super) async fn of(database: &Database, collection: &str) -> Result<Self, BackupError> {
        let shown = sanitize(collection.as_bytes(), 80);
        let documents = database.collection::<RawDocumentBuf>(collection);
        let found = documents.find(doc! {}).sort(doc! { "_id": 1 }).await;
        let cursor = found.map_err(BackupError::database(shown.clone()))?;
        Ok(Self { cursor, shown, tally: Tally::default() })
    }

    /// The next document.
    pub(super) async fn next(&mut self) -> Result<Option<&[u8]>, BackupError> {
        if !self.cursor.advance().await.map_err(BackupError::database(self.shown.clone()))? {
            return Ok(None);
        }
        let bytes = self.cursor.current().as_bytes();
        self.tally.take(bytes).map_err(|why| BackupError::Unreadable { file: self.shown.clone(), why })?;
        if self.tally.bytes() > MOST_BYTES {
            return Err(BackupError::TooLarge { what: format!("{} of over {MOST_BYTES} bytes", self.shown) });
        }
        Ok(Some(bytes))
    }

    /// Reads the rest.
    pub(super) async fn rest(mut self) -> Result<Tally, BackupError> {
        while self.next().await?.is_some() {}
        Ok(self.tally)
    }
}

/// The collections that are not what was written of them any more.
async fn changed(
    database: &Database,
    collections: &[Listed],
    parts: &[Option<Part>],
) -> Result<BTreeSet<usize>, BackupError> {
    let mut moved = BTreeSet::new();
    for (at, (listed, part)) in collections.iter().zip(parts).enumerate() {
        let Some(part) = part else { continue };
        let same_metadata = sum(metadata(database, listed).await?.as_bytes()) == part.metadata.sha256;
        let same = match &part.bson {
            None => true,
            Some(written) => {
                let tally = Reading::of(database, &listed.name).await?.rest().await?;
                let file = written.file.clone();
                tally.end().map_err(|why| BackupError::Unreadable { file, why })? == written.sha256
            }
        };
        if !same || !same_metadata {
            moved.insert(at);
        }
    }
    Ok(moved)
}

/// Reads what was written back from where it lies, and compares.
pub(super) async fn read_back(folder: &Store, part: &Part) -> Result<(), BackupError> {
    for (sum, documents) in part.bson.iter().map(|sum| (sum, Some(part.documents))).chain([(&part.metadata, None)]) {
        let wrong = |why: String| BackupError::NotWhatWasWritten { file: sum.file.clone(), why };
        let found = match documents {
            Some(documents) => {
                let mut tally = Tally::default();
                let mut pieces = folder.pieces(&sum.file).await?;
                while let Some(piece) = pieces.try_next().await? {
                    tally.take(&piece).map_err(wrong)?;
                }
                if tally.documents() != documents {
                    return Err(wrong(format!("it holds {} documents and not {documents}", tally.documents())));
                }
                tally.end().map_err(wrong)?
            }
            None => {
                let most = usize::try_from(sum.bytes).unwrap_or(usize::MAX);
                let bytes = folder.read(&sum.file, most).await?;
                super::manifest::sum(&bytes.ok_or_else(|| wrong("it is not there".to_owned()))?)
            }
        };
        if found != sum.sha256 {
            return Err(wrong("its checksum is another".to_owned()));
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::*;

    #[test]
    fn files_are_named_as_mongodump_names_them() {
        assert_eq!(escaped("builds").unwrap(), "builds");
        assert_eq!(escaped("a b/c%d$é").unwrap(), "a+b%2Fc%25d%24%C3%A9");
        for bad in ["", "..", ".hidden", &"x".repeat(239)] {
            assert!(escaped(bad).is_err(), "{bad}");
        }
    }
}
