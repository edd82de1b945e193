//! Backups of Binder's database, in the format of `mongodump`, and the way back.
//!
//! | Module | |
//! |---|---|
//! | [`store`] | where backups lie: a directory, or a bucket; what is there, and what goes |
//! | [`dump`] | a database becomes a backup |
//! | [`restore`] | a backup becomes a database, where there is none |
//! | [`manifest`] | what a backup says of itself; it is written last, and makes a backup a good one |
//! | [`extjson`] | the text in which `mongodump` writes options and indexes |
//!
//! # What a backup is
//!
//! A folder as `mongodump --out` makes it: `DATABASE/COLLECTION.bson` with the documents as they are stored, one behind the
//! other, `DATABASE/COLLECTION.metadata.json` with options and indexes, and `prelude.json`. `mongorestore FOLDER` brings it
//! back. Beside that lies `binder-manifest.json` with counts and checksums, which `mongorestore` skips with a line in its log.
//!
//! # How consistent it is
//!
//! A standalone MongoDB gives no snapshot over several collections: that takes a replica set, and Binder has none. So each
//! collection is read in the order of `_id`, and when all are written, all are read once more: where the second reading gives
//! the same checksum for every collection, nothing has changed in between, and the backup is what the database held at that
//! moment. What has changed is written anew, a few times over. What still moves after that (the health checker writes its rows
//! every 40 s) is named in the manifest: each such collection holds every document that was there during the whole reading,
//! but may be from another moment than the rest.
//!
//! Knows the database and the store; must not know the Kubernetes API or what a backup is due for.

pub mod dump;
pub mod extjson;
pub mod manifest;
pub mod restore;
pub mod store;

/// Why there is no good backup, or no database out of one.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The place of storage refuses or fails.
    #[error("cannot {verb} {what} in {place}: {said}")]
    Store {
        /// What was to be done.
        verb: &'static str,
        /// With what.
        what: String,
        /// Where.
        place: String,
        /// What the library said, clean and bounded.
        said: String,
    },
    /// The place of storage cannot be used as it is described.
    #[error("{0}")]
    Place(String),
    /// The database refuses or fails.
    #[error("the database, at {what}: {said}")]
    Database {
        /// What was asked of it, or which collection.
        what: String,
        /// What the driver said, clean and bounded.
        said: String,
    },
    /// The database holds more than a backup takes.
    #[error("{what} exceeds the limit of a backup")]
    TooLarge {
        /// What, and how much.
        what: String,
    },
    /// A collection has a name that is no file's.
    #[error("the collection {0} has a name that cannot be a file's")]
    Name(String),
    /// What was written is not what is there.
    #[error("{file} differs from what was written: {why}")]
    NotWhatWasWritten {
        /// The file.
        file: String,
        /// How it differs.
        why: String,
    },
    /// Text of a dump that cannot be written or read.
    #[error("{file}: {source}")]
    Text {
        /// The file.
        file: String,
        /// Why not.
        #[source]
        source: extjson::ExtJsonError,
    },
    /// A file of a backup that means nothing.
    #[error("{file} cannot be read: {why}")]
    Unreadable {
        /// The file.
        file: String,
        /// Why not.
        why: String,
    },
    /// There is no backup there.
    #[error("there is no backup in {0}: neither a manifest nor a folder as mongodump makes it")]
    NoBackup(String),
    /// The database is not empty.
    #[error(
        "the database {name} is not empty ({holds}): a backup is only brought back into an empty one. Name another by --into, or \
         drop this one yourself if it is lost"
    )]
    NotEmpty {
        /// The database.
        name: String,
        /// What it holds.
        holds: String,
    },
}

impl BackupError {
    fn database(what: impl Into<String>) -> impl FnOnce(mongodb::error::Error) -> Self {
        let what = what.into();
        move |error| Self::Database { what, said: crate::hosts::sanitize(error.to_string().as_bytes(), 300) }
    }
}
