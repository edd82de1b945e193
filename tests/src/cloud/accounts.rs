//! Who may ask the stand-in what: service accounts with keys, and tokens that are given for assertions signed with these,
//! as Google does it (RFC 7523).
//!
//! An account's key file has the form of the console's, so that any client of Google's takes it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use ring::signature::{KeyPair, RSA_PKCS1_2048_8192_SHA256, RsaKeyPair, UnparsedPublicKey};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};

use crate::command::{CommandError, Run};
use crate::files::{self, FileError};
use crate::inventory::PROJECT;

/// For how long a token is good, in seconds, as Google's.
const TOKEN_SECONDS: i64 = 3600;

/// For how long an assertion may be good, in seconds.
const ASSERTION_SECONDS: i64 = 3600;

/// The scope that Compute Engine asks for.
const SCOPE: &str = "https://www.googleapis.com/auth/compute";

/// Every right that the operator's account has: the list of docs/runbook/power.md.
pub const OPERATOR_RIGHTS: &[&str] = &[
    "compute.instances.get",
    "compute.instances.reset",
    "compute.instances.setMetadata",
    "compute.instances.start",
    "compute.zoneOperations.get",
];

/// An account could not be made.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// `ssh-keygen` failed.
    #[error("cannot make a key for {account}")]
    Key {
        /// The account.
        account: String,
        /// Why not.
        #[source]
        source: CommandError,
    },
    /// The key could not be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The key is of another kind than it should be.
    #[error("the key in `{}` is not one that can be verified", .0.display())]
    Unusable(PathBuf),
}

/// A service account. Not `Debug`: it holds its private key.
#[derive(Clone)]
pub struct Account {
    email: String,
    rights: &'static [&'static str],
    private: String,
    public: Vec<u8>,
}

impl Account {
    /// Makes an account of a name with some rights, and a key for it in `folder`.
    ///
    /// # Errors
    /// There is no `ssh-keygen`, or the folder cannot be written.
    pub async fn make(folder: &Path, name: &str, rights: &'static [&'static str]) -> Result<Self, AccountError> {
        let file = folder.join(format!("{name}.pem"));
        Run::new("ssh-keygen")
            .args(["-q", "-t", "rsa", "-b", "2048", "-m", "PKCS8", "-N", "", "-f"])
            .args([&file])
            .succeed()
            .await
            .map_err(|source| AccountError::Key { account: name.to_owned(), source })?;
        let private = files::read(&file)?;
        let unusable = || AccountError::Unusable(file.clone());
        let der = PrivatePkcs8KeyDer::from_pem_slice(private.as_bytes()).map_err(|_| unusable())?;
        let pair = RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()).map_err(|_| unusable())?;
        let email = format!("{name}@{PROJECT}.iam.gserviceaccount.com");
        Ok(Self { email, rights, private, public: pair.public_key().as_ref().to_vec() })
    }

    /// The key file, for a stand-in at this base URL.
    pub fn key_file(&self, base: &str) -> Value {
        json!({
            "type": "service_account",
            "project_id": PROJECT,
            "private_key_id": "0b1dde70000000000000000000000000b1dde700",
            "private_key": self.private,
            "client_email": self.email,
            "client_id": "100000000000000000001",
            "token_uri": token_uri(base),
        })
    }
}

/// Where tokens are given.
pub(super) fn token_uri(base: &str) -> String {
    format!("{base}/token")
}

/// The accounts, and the tokens that are good now.
pub(super) struct Accounts {
    accounts: Vec<Account>,
    /// Each token's account, by its place in the list, and its end in seconds since 1970.
    tokens: Mutex<BTreeMap<String, (usize, i64)>>,
}

/// What somebody who shows a token may do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Allowed {
    Yes,
    /// The account may not.
    No,
    /// There is no token, or none that is good.
    Stranger,
}

impl Accounts {
    pub(super) fn new(accounts: Vec<Account>) -> Self {
        Self { accounts, tokens: Mutex::default() }
    }

    /// Gives a token for an assertion that was signed for `audience`; or says why not.
    pub(super) fn token(&self, assertion: &str, audience: &str, now: Timestamp) -> Result<Value, &'static str> {
        let account = self.signer(assertion, audience, now.as_second())?;
        let token = files::read(Path::new("/proc/sys/kernel/random/uuid")).map_err(|_| "no randomness")?;
        let token = format!("ya29.{}", token.trim());
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.insert(token.clone(), (account, now.as_second() + TOKEN_SECONDS));
        Ok(json!({"access_token": token, "expires_in": TOKEN_SECONDS, "token_type": "Bearer"}))
    }

    /// Which account signed an assertion, if that is a good one.
    fn signer(&self, assertion: &str, audience: &str, now: i64) -> Result<usize, &'static str> {
        let (signed, signature) = assertion.rsplit_once('.').ok_or("Assertion is not a JWT.")?;
        let (header, claims) = signed.split_once('.').ok_or("Assertion is not a JWT.")?;
        let read = |part: &str| -> Option<Value> { serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok() };
        let (header, claims) = (read(header).ok_or("Bad header.")?, read(claims).ok_or("Bad claims.")?);
        if header["alg"] != "RS256" {
            return Err("Unsupported algorithm.");
        }
        let found = self.accounts.iter().position(|account| claims["iss"] == account.email.as_str());
        let account = found.ok_or("Invalid grant: account not found")?;
        let key = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &self.accounts[account].public);
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| "Invalid JWT Signature.")?;
        key.verify(signed.as_bytes(), &signature).map_err(|_| "Invalid JWT Signature.")?;
        if claims["aud"] != audience {
            return Err("Invalid JWT: wrong audience.");
        }
        if claims["scope"] != SCOPE {
            return Err("Invalid scope.");
        }
        let time = |name: &str| claims[name].as_i64().unwrap_or_default();
        let (from, to) = (time("iat"), time("exp"));
        // A minute for clocks that differ.
        if from > now + 60 || to < now - 60 || to - from > ASSERTION_SECONDS {
            return Err("Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe.");
        }
        Ok(account)
    }

    /// Whether whoever shows this `Authorization` header may do something.
    pub(super) fn allow(&self, header: Option<&str>, right: &str, now: Timestamp) -> Allowed {
        let tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let token = header.and_then(|value| value.strip_prefix("Bearer ")).and_then(|token| tokens.get(token));
        match token.filter(|(_, until)| *until > now.as_second()) {
            None => Allowed::Stranger,
            Some((account, _)) if self.accounts[*account].rights.contains(&right) => Allowed::Yes,
            Some(_) => Allowed::No,
        }
    }

    /// Takes every token back, as when a key is revoked.
    pub(super) fn revoke(&self) {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
