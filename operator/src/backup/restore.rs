//! A backup becomes a database, where there is none: nothing that is there is ever changed, merged or dropped.

use super::BackupError;
use super::dump::{Reading, read_back};
use super::extjson;
use super::manifest::{MOST_BYTES, MOST_OF_A_DOCUMENT, Manifest};
use super::store::Store;
use crate::hosts::sanitize;
use futures::TryStreamExt;
use mongodb::bson::{Bson, Document, RawDocumentBuf, doc};
use mongodb::options::ClientOptions;
use mongodb::{Client, Database};
use std::collections::BTreeMap;
use std::time::Duration;

/// The most documents that go in one insertion, and the most bytes: below what a message to the server may hold.
const BATCH: usize = 1000;
const BATCH_BYTES: usize = 16 * 1024 * 1024;
/// How long the server may take to be found.
const CONNECT: Duration = Duration::from_secs(10);

/// What was brought back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The database.
    pub database: String,
    /// From where.
    pub from: String,
    /// Documents, by collection.
    pub documents: BTreeMap<String, u64>,
    /// Whether counts and checksums were compared with the backup's manifest, or only counts with the files.
    pub checked: bool,
}

/// One collection to bring back.
struct Piece {
    name: String,
    metadata: Document,
    bson: Option<String>,
    /// The checksum of the documents, if the manifest says it.
    sha256: Option<String>,
}

/// Connects to a database by its URI, for a person at a keyboard.
///
/// # Errors
/// [`BackupError::Database`]; the URI, which may hold a password, is in no message.
pub async fn connect(uri: &str) -> Result<Client, BackupError> {
    let wrong = |_| BackupError::Place("the database's URI cannot be read: write mongodb://HOST:PORT".to_owned());
    let mut options = ClientOptions::parse(uri).await.map_err(wrong)?;
    options.app_name = Some("binder-operator restore".to_owned());
    options.server_selection_timeout = Some(CONNECT);
    options.connect_timeout = Some(CONNECT);
    Client::with_options(options).map_err(BackupError::database("its options"))
}

/// Brings a backup back into an empty database.
///
/// `from` is a backup's folder, or the folder of several, of which the newest good one is taken. `into` names the database;
/// without it, it is the one that was backed up.
///
/// # Errors
/// [`BackupError`]. Nothing is written before the whole backup was read and compared with its manifest, and the database
/// was found empty.
pub async fn restore(
    client: &Client,
    from: &Store,
    into: Option<&str>,
    mut tell: impl FnMut(&str),
) -> Result<Restored, BackupError> {
    let (folder, manifest) = found(from).await?;
    tell(&format!("from {}", folder.shown()));
    let (name, pieces) = match &manifest {
        Some(manifest) => {
            for part in &manifest.collections {
                read_back(&folder, part).await?;
            }
            tell(&format!("every checksum agrees; {} documents", manifest.documents()));
            if !manifest.moved.is_empty() {
                tell(&format!("changed all the time while it was backed up: {}", manifest.moved.join(", ")));
            }
            of_manifest(&folder, manifest).await?
        }
        None => {
            tell("no manifest, so no checksums to compare");
            of_files(&folder).await?
        }
    };
    let name = into.map_or(name, str::to_owned);
    let database = client.database(&name);
    let there = empty(&database).await?;

    let mut restored = Restored {
        database: name,
        from: folder.shown().to_owned(),
        documents: BTreeMap::new(),
        checked: manifest.is_some(),
    };
    for piece in &pieces {
        if !there.contains(&piece.name) {
            create(&database, piece).await?;
        }
        let mut written = 0;
        if let Some(file) = &piece.bson {
            written = insert(&database, &folder, &piece.name, file).await?;
        }
        index(&database, piece).await?;
        if piece.bson.is_some() {
            verify(&database, piece, written).await?;
        }
        tell(&format!("{}: {written} documents", sanitize(piece.name.as_bytes(), 80)));
        restored.documents.insert(piece.name.clone(), written);
    }
    Ok(restored)
}

/// The backup's folder and its manifest.
async fn found(from: &Store) -> Result<(Store, Option<Manifest>), BackupError> {
    if let Some(manifest) = from.manifest().await? {
        return Ok((from.clone(), Some(manifest)));
    }
    if let Some(last) = from.look().await?.last {
        let folder = from.folder(&last.name)?;
        let manifest = folder.manifest().await?;
        return Ok((folder, manifest));
    }
    Ok((from.clone(), None))
}

async fn of_manifest(folder: &Store, manifest: &Manifest) -> Result<(String, Vec<Piece>), BackupError> {
    let mut pieces = Vec::new();
    for part in &manifest.collections {
        pieces.push(Piece {
            name: part.name.clone(),
            metadata: metadata(folder, &part.metadata.file).await?,
            bson: part.bson.as_ref().map(|sum| sum.file.clone()),
            sha256: part.bson.as_ref().map(|sum| sum.sha256.clone()),
        });
    }
    Ok((manifest.database.clone(), pieces))
}

/// What `mongodump` alone has left: `DATABASE/COLLECTION.metadata.json` and `.bson`.
async fn of_files(folder: &Store) -> Result<(String, Vec<Piece>), BackupError> {
    let files = folder.files().await?;
    let mut names: Vec<&str> = files
        .iter()
        .filter_map(|file| file.strip_suffix(".metadata.json")?.split_once('/').map(|(database, _)| database))
        .collect();
    names.dedup();
    let [database] = names.as_slice() else { return Err(BackupError::NoBackup(folder.shown().to_owned())) };
    let mut pieces = Vec::new();
    for file in files.iter().filter(|file| file.ends_with(".metadata.json") && file.matches('/').count() == 1) {
        let metadata = metadata(folder, file).await?;
        let name = metadata.get_str("collectionName").map(str::to_owned).map_err(|_| BackupError::Unreadable {
            file: file.clone(),
            why: "it does not name its collection: was it written by a mongodump before 100.0?".to_owned(),
        })?;
        let bson = file.replace(".metadata.json", ".bson");
        pieces.push(Piece { name, metadata, bson: files.contains(&bson).then_some(bson), sha256: None });
    }
    Ok(((*database).to_owned(), pieces))
}

async fn metadata(folder: &Store, file: &str) -> Result<Document, BackupError> {
    let unreadable = |why: &str| BackupError::Unreadable { file: file.to_owned(), why: why.to_owned() };
    let bytes = folder.read(file, MOST_BYTES).await?.ok_or_else(|| unreadable("it is not there"))?;
    let text = std::str::from_utf8(&bytes).map_err(|_| unreadable("it is not text"))?;
    extjson::read(text).map_err(|source| BackupError::Text { file: file.to_owned(), source })
}

/// The empty collections that are there already, such as servers make that wait for their database. One with documents is
/// an error.
async fn empty(database: &Database) -> Result<Vec<String>, BackupError> {
    let names = database.list_collection_names().await.map_err(BackupError::database("the list of collections"))?;
    let mut holds = Vec::new();
    for name in names.iter().filter(|name| !name.starts_with("system.")) {
        let shown = sanitize(name.as_bytes(), 80);
        let first = database.collection::<RawDocumentBuf>(name).find_one(doc! {}).await;
        if first.map_err(BackupError::database(shown.clone()))?.is_some() {
            holds.push(shown);
        }
    }
    if holds.is_empty() {
        return Ok(names);
    }
    Err(BackupError::NotEmpty { name: database.name().to_owned(), holds: holds.join(", ") })
}

async fn create(database: &Database, piece: &Piece) -> Result<(), BackupError> {
    let mut command = doc! { "create": &piece.name };
    if let Ok(options) = piece.metadata.get_document("options") {
        command.extend(options.clone());
    }
    let failed = BackupError::database(sanitize(piece.name.as_bytes(), 80));
    database.run_command(command).await.map(|_| ()).map_err(failed)
}

/// Inserts what a file holds, in its order.
async fn insert(database: &Database, folder: &Store, name: &str, file: &str) -> Result<u64, BackupError> {
    let collection = database.collection::<RawDocumentBuf>(name);
    let failed = || BackupError::database(sanitize(name.as_bytes(), 80));
    let unreadable = |why: String| BackupError::Unreadable { file: file.to_owned(), why };
    let (mut buffer, mut batch): (Vec<u8>, Vec<RawDocumentBuf>) = (Vec::new(), Vec::new());
    let (mut size, mut written) = (0usize, 0u64);
    let mut pieces = folder.pieces(file).await?;
    while let Some(piece) = pieces.try_next().await? {
        buffer.extend_from_slice(&piece);
        let mut at = 0;
        while let Some(document) = document(&buffer[at..]).map_err(unreadable)? {
            at += document.as_bytes().len();
            size += document.as_bytes().len();
            batch.push(document);
            if batch.len() >= BATCH || size >= BATCH_BYTES {
                written += batch.len() as u64;
                collection.insert_many(&batch).ordered(true).await.map_err(failed())?;
                batch.clear();
                size = 0;
            }
        }
        buffer.drain(..at);
    }
    if !buffer.is_empty() {
        return Err(unreadable("its last document is cut off".to_owned()));
    }
    if !batch.is_empty() {
        written += batch.len() as u64;
        collection.insert_many(&batch).ordered(true).await.map_err(failed())?;
    }
    Ok(written)
}

/// The first document of some bytes; `None` while it is not whole.
fn document(bytes: &[u8]) -> Result<Option<RawDocumentBuf>, String> {
    let Some(length) = bytes.get(..4).and_then(|head| <[u8; 4]>::try_from(head).ok()) else { return Ok(None) };
    let length = u32::from_le_bytes(length);
    if !(5..=MOST_OF_A_DOCUMENT).contains(&length) {
        return Err(format!("a document of {length} bytes"));
    }
    let Some(document) = bytes.get(..length as usize) else { return Ok(None) };
    RawDocumentBuf::from_bytes(document.to_vec()).map(Some).map_err(|error| error.to_string())
}

async fn index(database: &Database, piece: &Piece) -> Result<(), BackupError> {
    let indexes: Vec<Bson> = piece
        .metadata
        .get_array("indexes")
        .into_iter()
        .flatten()
        .filter_map(Bson::as_document)
        // Every collection has that one, and `ns` is of a time before MongoDB 4.4.
        .filter(|index| index.get_str("name").ok() != Some("_id_"))
        .map(|index| {
            let mut index = index.clone();
            index.remove("ns");
            // The version that every server gives an index by itself since MongoDB 3.4; not every one takes it as an option.
            if matches!(index.get("v"), Some(Bson::Int32(2) | Bson::Int64(2))) {
                index.remove("v");
            }
            Bson::Document(index)
        })
        .collect();
    if indexes.is_empty() {
        return Ok(());
    }
    let command = doc! { "createIndexes": &piece.name, "indexes": indexes };
    let failed = BackupError::database(format!("the indexes of {}", sanitize(piece.name.as_bytes(), 80)));
    database.run_command(command).await.map(|_| ()).map_err(failed)
}

/// Reads the collection and compares it with the backup.
async fn verify(database: &Database, piece: &Piece, written: u64) -> Result<(), BackupError> {
    let tally = Reading::of(database, &piece.name).await?.rest().await?;
    let wrong = |why: String| BackupError::NotWhatWasWritten { file: sanitize(piece.name.as_bytes(), 80), why };
    if tally.documents() != written {
        return Err(wrong(format!("the database holds {} documents of {written}", tally.documents())));
    }
    match &piece.sha256 {
        // Both are in the order of `_id`.
        Some(sha256) if *sha256 != tally.end().map_err(wrong)? => {
            Err(wrong("its documents' checksum in the database is another".to_owned()))
        }
        _ => Ok(()),
    }
}
