//! What a person does at a keyboard with this program beside running the operator.

use crate::backup::BackupError;
use crate::backup::restore::{self, Restored};
use crate::backup::store::Store;
use secrecy::{ExposeSecret, SecretString};

/// The commands; without one, the operator runs.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Command {
    /// Bring a backup of Binder's database back into an empty database.
    Restore(Restore),
}

/// Flags of `restore`.
#[derive(Clone, Debug, clap::Args)]
pub struct Restore {
    /// The backup's folder, or the folder of several, of which the newest good one is taken: a directory, or s3://BUCKET/FOLDER
    /// or gs://BUCKET/FOLDER, with what the bucket needs in the environment (AWS_ACCESS_KEY_ID, ...).
    #[arg(long)]
    pub from: String,

    /// The server: mongodb://HOST:PORT. One with a password in it belongs into the environment, not into a command line.
    #[arg(long, env = "BINDER_DATABASE", hide_env_values = true)]
    pub database: SecretString,

    /// The name of the database to make. Without it, the name of the one that was backed up.
    #[arg(long)]
    pub into: Option<String>,
}

/// Brings a backup back, telling what is done line by line.
///
/// # Errors
/// [`BackupError`]; an empty database stays empty unless the error came while it was being filled.
pub async fn restore(flags: &Restore, tell: impl FnMut(&str)) -> Result<Restored, BackupError> {
    let uri = flags.database.expose_secret();
    if has_password(uri) && std::env::args().any(|argument| argument.contains(uri)) {
        return Err(BackupError::Place(
            "a password in a command line can be read by every user of this computer: give the URI as BINDER_DATABASE"
                .to_owned(),
        ));
    }
    let from = Store::at(&flags.from)?;
    let client = restore::connect(uri).await?;
    restore::restore(&client, &from, flags.into.as_deref(), tell).await
}

fn has_password(uri: &str) -> bool {
    let authority = uri.split_once("://").map_or(uri, |(_, rest)| rest).split('/').next().unwrap_or_default();
    authority.rsplit_once('@').is_some_and(|(login, _)| login.contains(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_noticed() {
        assert!(has_password("mongodb://me:secret@host:9050/binder"));
        assert!(!has_password("mongodb://host:9050/binder"));
        assert!(!has_password("mongodb://me@host:9050"));
    }
}
