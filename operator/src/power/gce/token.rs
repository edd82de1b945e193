//! Tokens for service accounts: an assertion is exchanged for one (RFC 7523), and that is kept until shortly before it
//! ends.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::Method;
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;

use super::credentials::Credentials;
use super::wire::{Ask, Body, Wire};
use crate::power::Fault;

/// From asking for a token to having it.
const LIMIT: Duration = Duration::from_secs(10);

/// How long before its end a token is used no more: longer than any request takes.
const MARGIN: Duration = Duration::from_secs(300);

/// What a token is good for at most, whatever its giver says. Google's are good for one hour.
const LONGEST: Duration = Duration::from_secs(3600);

/// How many are kept: one for each project's Secret, and room for those that were changed.
const KEPT: usize = 64;

/// The tokens that are good now, by their key's fingerprint.
#[derive(Default)]
pub(super) struct Tokens {
    kept: Mutex<HashMap<[u8; 32], (SecretString, Instant)>>,
}

impl Tokens {
    fn kept(&self) -> MutexGuard<'_, HashMap<[u8; 32], (SecretString, Instant)>> {
        // No change leaves the map half made.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A token for an account.
    pub(super) async fn get(&self, wire: &Wire, credentials: &Credentials) -> Result<SecretString, Fault> {
        let now = Instant::now();
        if let Some((token, _)) = self.kept().get(&credentials.fingerprint()).filter(|(_, until)| *until > now) {
            return Ok(token.clone());
        }
        let asked = ask(wire, credentials).await;
        let (token, lasts) =
            asked.map_err(|fault| Fault::Token { account: credentials.account(), fault: Box::new(fault) })?;
        let mut kept = self.kept();
        kept.retain(|_, (_, until)| *until > now);
        if kept.len() < KEPT {
            // A short-lived one is used for half its life, so that there is always a margin.
            let until = now + lasts.saturating_sub(MARGIN).max(lasts / 2);
            kept.insert(credentials.fingerprint(), (token.clone(), until));
        }
        Ok(token)
    }

    /// Forgets an account's token, which was not accepted.
    pub(super) fn forget(&self, credentials: &Credentials) {
        self.kept().remove(&credentials.fingerprint());
    }
}

/// A new token, and for how long it is good.
async fn ask(wire: &Wire, credentials: &Credentials) -> Result<(SecretString, Duration), Fault> {
    let assertion = credentials.assertion(Timestamp::now().as_second())?;
    // Both values consist of characters that a form takes as they are, apart from the colons that are encoded here.
    let form = format!(
        "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion={}",
        assertion.expose_secret()
    );
    let uri = credentials.token_uri().clone();
    let from = super::endpoint::host(&uri);
    let body = Body::Form(SecretString::from(form));
    let answer = wire.ask(Ask { method: Method::POST, uri, bearer: None, body, limit: LIMIT }).await;
    let (answer, _) = answer.map_err(not_repaired_by_time)?;
    let token = answer["access_token"].as_str().filter(|token| !token.is_empty() && token.is_ascii());
    let seconds = answer["expires_in"].as_u64();
    match (token, seconds) {
        (Some(token), Some(seconds)) => {
            Ok((SecretString::from(token.to_owned()), Duration::from_secs(seconds).min(LONGEST)))
        }
        _ => Err(Fault::Unreadable { from, what: "it holds no token" }),
    }
}

/// A token's giver says 400 to an assertion that is wrong: the account or its key is gone, or a clock is.
fn not_repaired_by_time(fault: Fault) -> Fault {
    match fault {
        Fault::Refused { status: 400, said } | Fault::NotReady { said } => Fault::NotAccepted { said },
        other => other,
    }
}
