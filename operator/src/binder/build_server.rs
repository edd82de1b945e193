//! The build server's API (binder-build), asked on its own machine through that machine's SSH connection.

use crate::hosts::{HttpPath, LocalHttp, LocalHttpChange, Method, Session, sanitize};
use binder_core::gate::Permit;
use http::header::AUTHORIZATION;
use secrecy::SecretString;

/// What came of asking for a build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Whether a build may have been started.
    pub may_have_run: bool,
    /// What was said, clean and bounded.
    pub said: String,
}

/// Asks for a build of a repository, never by force: a build of that name that somebody has started meanwhile is theirs,
/// and the server then refuses ours. `port` is the one that the settings of its machine say.
pub async fn build(session: &Session, permit: Permit, port: u16, repository: &str, api_key: SecretString) -> Asked {
    let path = match HttpPath::of(["builds"]) {
        Ok(path) => path.slash(),
        Err(bad) => return Asked { may_have_run: false, said: bad.to_string() },
    };
    let change = LocalHttpChange {
        to: LocalHttp { host: "127.0.0.1".to_owned(), port, path, headers: vec![(AUTHORIZATION, api_key)] },
        method: Method::Post,
        json: Some(serde_json::json!({ "repository": repository, "force": false }).to_string().into_bytes()),
    };
    match session.http_change(permit, change).await {
        Ok(answer) => {
            Asked { may_have_run: true, said: format!("status {}: {}", answer.status, sanitize(&answer.body, 200)) }
        }
        Err(error) => Asked { may_have_run: error.may_have_run(), said: error.to_string() },
    }
}
