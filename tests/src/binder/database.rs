//! The database as somebody at its keyboard changes it and reads it: past the operator, by the driver that Binder uses.

use serde_json::Value;

use crate::binder::software;
use crate::host::enter::HostError;
use crate::inventory::{Role, with_role};
use crate::lab::{Lab, LabError};

/// What is done, as verbs; see the file.
const SCRIPT: &str = include_str!("../../host/database.js");

/// Something could not be done in the database.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The lab is gone.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// The services host cannot run it.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The database refuses, or does not answer.
    #[error("the database did not do `{verb}`: {said}")]
    Refused {
        /// What was asked.
        verb: String,
        /// What was said.
        said: String,
    },
    /// What it said is no JSON.
    #[error("the database's answer to `{verb}` cannot be read")]
    Json {
        /// What was asked.
        verb: String,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
}

impl Lab {
    /// Does one of `host/database.js`'s verbs in the lab's database, on the services host; gives what it says.
    ///
    /// # Errors
    /// The database does not answer or refuses.
    pub async fn database(&self, verb: &str, args: &[&str]) -> Result<Value, DatabaseError> {
        let uri = self.status()?.database;
        let host = self.host(with_role(Role::Services).name)?;
        let modules = format!("NODE_PATH={}/node_modules", software::INSIDE);
        let mut argv = vec!["env", &modules, "node", "-e", SCRIPT, "--", &uri, verb];
        argv.extend(args);
        let output = host.exec(&argv).await?;
        if !output.ok() {
            return Err(DatabaseError::Refused { verb: verb.to_owned(), said: output.said() });
        }
        serde_json::from_str(output.stdout.trim())
            .map_err(|source| DatabaseError::Json { verb: verb.to_owned(), source })
    }
}
