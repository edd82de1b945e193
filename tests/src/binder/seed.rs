//! The database as it is before the services host has ever started it: some builds and templates.
//!
//! Filled through the wire protocol by the very driver that Binder uses, in a folder of this computer; the files then
//! become the services host's.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::time::Duration;

use super::software::Software;
use crate::command::{CommandError, Run};
use crate::files::{self, FileError};
use crate::process::{ProcessError, ProcessSpec};

/// How long a database of a few documents may take to close its files.
const CLOSE: Duration = Duration::from_secs(10);

/// The database could not be filled.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// A file could not be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The database does not run.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// It could not be filled; `said` is what it said.
    #[error("cannot fill the database, which said: {said}")]
    Fill {
        /// The end of the database's log.
        said: String,
        /// What the driver said.
        #[source]
        source: CommandError,
    },
    /// No port is free on loopback.
    #[error("no free port on loopback")]
    NoPort(#[source] std::io::Error),
}

/// Fills a new database in `folder`, whose files end up in its sub-folder `data`.
///
/// # Errors
/// The database does not start, or refuses what Binder would write.
pub async fn seed(folder: &Path, ferretdb: &Path, software: &Software) -> Result<(), SeedError> {
    let data = folder.join("data");
    files::make_dir(&data)?;
    let script = folder.join("seed.js");
    files::write(&script, include_str!("../../host/seed.js"), 0o644)?;
    let port = free_port().map_err(SeedError::NoPort)?;
    let listen = format!("127.0.0.1:{port}");
    let database = ProcessSpec {
        name: "seed-database".into(),
        program: ferretdb.to_owned(),
        args: vec!["--listen".into(), listen.clone(), "--data".into(), data.display().to_string()],
        env: Vec::new(),
        log: folder.join("database.log"),
    }
    .start()?;
    let filled = Run::new("node")
        .args([script.as_os_str(), format!("mongodb://{listen}/binder").as_ref()])
        .env("NODE_PATH", software.modules())
        .succeed()
        .await;
    database.end(CLOSE).await?;
    filled.map_err(|source| SeedError::Fill { said: database.said(), source })?;
    Ok(())
}

/// A port that was free a moment ago.
fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
