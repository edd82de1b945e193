//! The API server's own record of who did what: how a test counts the writes of the operator.
//!
//! [`POLICY`] decides what is recorded, [`AuditLog`] reads it. Knows nothing of what the writes mean.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::files::FileError;

/// The audit policy: who, what and when of every write and of every read of the operator's own objects, each once, when
/// it is answered. No contents, so no secrets.
pub(super) const POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted, Panic]
rules:
- level: Metadata
  verbs: [create, update, patch, delete, deletecollection]
- level: Metadata
  resources: [{group: fleet.binder-project.org}]
- level: None
";

/// The log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The file is not readable.
    #[error(transparent)]
    File(#[from] FileError),
    /// A line of it is no audit event.
    #[error("`{}`, after byte {after}: no audit event: {line}", path.display())]
    Line {
        /// The log.
        path: PathBuf,
        /// Where the reading began.
        after: u64,
        /// The line.
        line: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

/// The audit log of one API server.
#[derive(Debug, Clone)]
pub struct AuditLog {
    path: PathBuf,
}

/// A place in the log: what is after it happened later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(u64);

/// One request that was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Who asked, such as `system:serviceaccount:binder:binder-operator`.
    pub user: String,
    /// What for: `get`, `patch`, ...
    pub verb: String,
    /// The plural name of what it was about; empty for a request that was about no object.
    pub resource: String,
    /// `status`, `token`, ...; empty for the object itself.
    pub subresource: String,
    /// The namespace of the object; empty if it has none.
    pub namespace: String,
    /// The object; empty where the verb is about many, or the server was to choose the name.
    pub name: String,
    /// The HTTP status of the answer.
    pub code: u16,
    /// When the request came, as the server wrote it (RFC 3339, microseconds).
    pub at: String,
}

impl Entry {
    /// Whether it asked for something to be changed; whether anything was is another question.
    pub fn is_write(&self) -> bool {
        matches!(self.verb.as_str(), "create" | "update" | "patch" | "delete" | "deletecollection")
    }
}

impl std::fmt::Display for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { user, verb, resource, subresource, namespace, name, code, at } = self;
        write!(f, "{at} {user}: {verb} {resource}")?;
        if !subresource.is_empty() {
            write!(f, "/{subresource}")?;
        }
        write!(f, " {namespace}/{name} -> {code}")
    }
}

impl AuditLog {
    /// The log in this file, which need not exist yet.
    pub fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// The file: one JSON object a line.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The end of the log as it is now.
    ///
    /// # Errors
    /// It cannot be read. One that does not exist yet ends at its beginning.
    pub fn now(&self) -> Result<Mark, AuditError> {
        match std::fs::metadata(&self.path) {
            Ok(about) => Ok(Mark(about.len())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Mark(0)),
            Err(source) => Err(FileError::new("read", &self.path, source).into()),
        }
    }

    /// Everything that was recorded after `mark`. A line that is being written right now is left for the next call.
    ///
    /// # Errors
    /// The log cannot be read, or does not hold audit events.
    pub fn since(&self, mark: Mark) -> Result<Vec<Entry>, AuditError> {
        let mut text = Vec::new();
        let mut read = || -> std::io::Result<()> {
            let mut file = File::open(&self.path)?;
            file.seek(SeekFrom::Start(mark.0))?;
            file.read_to_end(&mut text).map(drop)
        };
        match read() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(FileError::new("read", &self.path, source).into()),
            Ok(()) => {}
        }
        text.split_inclusive(|byte| *byte == b'\n')
            .filter(|line| line.ends_with(b"\n"))
            .map(|line| self.parse(mark, line))
            .collect()
    }

    /// The writes of one user after `mark`: none of a converged fleet's operator.
    ///
    /// # Errors
    /// As for [`AuditLog::since`].
    pub fn writes_since(&self, mark: Mark, user: &str) -> Result<Vec<Entry>, AuditError> {
        let mut entries = self.since(mark)?;
        entries.retain(|entry| entry.user == user && entry.is_write());
        Ok(entries)
    }

    fn parse(&self, mark: Mark, line: &[u8]) -> Result<Entry, AuditError> {
        let event: Event = serde_json::from_slice(line).map_err(|source| AuditError::Line {
            path: self.path.clone(),
            after: mark.0,
            line: String::from_utf8_lossy(line).trim().to_owned(),
            source,
        })?;
        let object = event.object_ref.unwrap_or_default();
        Ok(Entry {
            user: event.user.username,
            verb: event.verb,
            resource: object.resource,
            subresource: object.subresource,
            namespace: object.namespace,
            name: object.name,
            code: event.response_status.map(|status| status.code).unwrap_or_default(),
            at: event.request_received_timestamp,
        })
    }
}

/// The part of `audit.k8s.io/v1` `Event` that is read here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    verb: String,
    user: User,
    request_received_timestamp: String,
    object_ref: Option<ObjectRef>,
    response_status: Option<ResponseStatus>,
}

#[derive(Deserialize)]
struct User {
    username: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ObjectRef {
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ResponseStatus {
    code: u16,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::Write;

    use super::*;

    fn line(user: &str, verb: &str) -> String {
        format!(
            r#"{{"kind":"Event","level":"Metadata","stage":"ResponseComplete","verb":"{verb}","user":{{"username":"{user}"}},"objectRef":{{"resource":"binderhosts","namespace":"binder","name":"a","subresource":"status"}},"responseStatus":{{"metadata":{{}},"code":200}},"requestReceivedTimestamp":"2016-01-01T00:00:00.000001Z"}}"#
        )
    }

    #[test]
    fn counts_the_writes_of_one_user_after_a_mark() {
        let path = std::env::temp_dir().join(format!("binder-lab-audit-{}.jsonl", std::process::id()));
        let log = AuditLog::at(path.clone());
        assert_eq!(log.now().unwrap(), Mark(0));
        assert!(log.since(Mark(0)).unwrap().is_empty());

        let mut file = File::create(&path).unwrap();
        writeln!(file, "{}", line("operator", "patch")).unwrap();
        let mark = log.now().unwrap();
        for (user, verb) in [("operator", "get"), ("someone", "patch"), ("operator", "create")] {
            writeln!(file, "{}", line(user, verb)).unwrap();
        }
        write!(file, "{{\"half a line").unwrap();

        assert_eq!(log.since(Mark(0)).unwrap().len(), 4);
        let writes = log.writes_since(mark, "operator").unwrap();
        assert_eq!(
            writes.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["2016-01-01T00:00:00.000001Z operator: create binderhosts/status binder/a -> 200"]
        );
        writeln!(file).unwrap();
        assert!(log.since(mark).unwrap_err().to_string().contains("no audit event: {\"half a line"));
        std::fs::remove_file(path).unwrap();
    }
}
