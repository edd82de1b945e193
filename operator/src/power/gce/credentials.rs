//! A service account's key, as Google's console writes it into a JSON file and an owner into a Secret; and the assertion
//! that is signed with it.
//!
//! Nothing of what the Secret holds is ever in an error: a person looks it up there.

use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Uri;
use http::uri::Scheme;
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::endpoint::{Endpoint, has_user};
use crate::hosts::sanitize;

/// What an account asks to be allowed: Compute Engine, and no other of Google's APIs.
const SCOPE: &str = "https://www.googleapis.com/auth/compute";

/// How long an assertion is good for, in seconds: the longest that Google takes.
const ASSERTION_SECONDS: i64 = 3600;

/// More than any key file, in bytes. One with an RSA key of 4096 bits has 4 KiB.
const MAX_JSON: usize = 64 << 10;

/// Where accounts of Google's get their tokens. Subdomains are fine: private access has names of its own below it.
const GOOGLE: [&str; 2] = ["googleapis.com", "accounts.google.com"];

/// What is no usable service account's key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadCredentials {
    /// It is much too long.
    #[error(
        "it is longer than {MAX_JSON} bytes: put the JSON file with the service account's key into it, and nothing else"
    )]
    TooLong,
    /// It is no JSON.
    #[error(
        "it is not JSON (line {line}, column {column}): put the JSON file with the service account's key into it as it is"
    )]
    NotJson {
        /// Where it stops being JSON.
        line: usize,
        /// See `line`.
        column: usize,
    },
    /// It is a key of another kind.
    #[error("its `type` is not `service_account`: make a key of a service account, in format JSON")]
    OtherType,
    /// A field is missing.
    #[error("it has no text under `{0}`: put the JSON file with the service account's key into it as it is")]
    Missing(&'static str),
    /// Tokens would be asked of a stranger.
    #[error("its `token_uri` is neither Google's nor at the operator's --gce-endpoint")]
    TokenUri,
    /// The private key is none.
    #[error("its `private_key` is not an RSA key in PEM (`BEGIN PRIVATE KEY`)")]
    PrivateKey,
}

/// A service account's key, ready to sign. Clones are the same key.
#[derive(Clone)]
pub(super) struct Credentials {
    account: String,
    key_id: Option<String>,
    token_uri: Uri,
    key: Arc<RsaKeyPair>,
    fingerprint: [u8; 32],
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("account", &self.account()).finish_non_exhaustive()
    }
}

impl Credentials {
    /// Reads a key file. `endpoint` is where the token is for: its own origin may give tokens too.
    pub(super) fn parse(text: &SecretString, endpoint: &Endpoint) -> Result<Self, BadCredentials> {
        let text = text.expose_secret();
        if text.len() > MAX_JSON {
            return Err(BadCredentials::TooLong);
        }
        // Never the parser's own words, which repeat what they stumbled over.
        let json: Value = serde_json::from_str(text)
            .map_err(|error| BadCredentials::NotJson { line: error.line(), column: error.column() })?;
        let field = |name| json[name].as_str().filter(|text| !text.is_empty()).ok_or(BadCredentials::Missing(name));
        if field("type")? != "service_account" {
            return Err(BadCredentials::OtherType);
        }
        field("project_id")?;
        let (account, private) = (field("client_email")?, field("private_key")?);
        let token_uri = field("token_uri")?.parse::<Uri>().map_err(|_| BadCredentials::TokenUri)?;
        if !gives_tokens(&token_uri, endpoint) {
            return Err(BadCredentials::TokenUri);
        }
        let der = PrivatePkcs8KeyDer::from_pem_slice(private.as_bytes()).map_err(|_| BadCredentials::PrivateKey)?;
        let key = RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()).map_err(|_| BadCredentials::PrivateKey)?;
        Ok(Self {
            account: account.to_owned(),
            key_id: json["private_key_id"].as_str().map(str::to_owned),
            token_uri,
            key: Arc::new(key),
            fingerprint: Sha256::digest(text.as_bytes()).into(),
        })
    }

    /// The account's name, fit to be shown.
    pub(super) fn account(&self) -> String {
        sanitize(self.account.as_bytes(), 128)
    }

    /// Where its tokens are given.
    pub(super) fn token_uri(&self) -> &Uri {
        &self.token_uri
    }

    /// What tells this key from every other.
    pub(super) fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }

    /// The signed assertion that a token is given for (RFC 7523): a JWT (RFC 7519) with RS256. `now` is in seconds since
    /// 1970.
    pub(super) fn assertion(&self, now: i64) -> Result<SecretString, BadCredentials> {
        let mut header = json!({"alg": "RS256", "typ": "JWT"});
        if let Some(id) = &self.key_id {
            header["kid"] = json!(id);
        }
        let claims = json!({
            "iss": self.account,
            "scope": SCOPE,
            "aud": self.token_uri.to_string(),
            "iat": now,
            "exp": now + ASSERTION_SECONDS,
        });
        let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
        let mut token = format!("{}.{}", part(&header), part(&claims));
        let mut signature = vec![0; self.key.public().modulus_len()];
        self.key
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), token.as_bytes(), &mut signature)
            .map_err(|_| BadCredentials::PrivateKey)?;
        token.push('.');
        token.push_str(&URL_SAFE_NO_PAD.encode(signature));
        Ok(SecretString::from(token))
    }
}

/// Whether an assertion may be sent there: to Google over TLS, or to the API's own origin, which the operator's flag names.
/// Whoever may write a Secret could otherwise have this operator talk to any address that it can reach.
fn gives_tokens(uri: &Uri, endpoint: &Endpoint) -> bool {
    let name = uri.host().unwrap_or_default();
    let google = GOOGLE
        .iter()
        .any(|google| name.strip_suffix(google).is_some_and(|before| before.is_empty() || before.ends_with('.')));
    // An endpoint is on TLS or on this computer.
    !has_user(uri) && ((google && uri.scheme() == Some(&Scheme::HTTPS)) || endpoint.is_origin_of(uri))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use ring::signature::{KeyPair, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};

    /// A key file as the console writes it, with a key that was made for it.
    pub(in super::super) fn key_file(token_uri: &str) -> Value {
        json!({
            "type": "service_account",
            "project_id": "binder-testing",
            "private_key_id": "0123abcd",
            "private_key": private_key(),
            "client_email": "binder-operator@binder-testing.iam.gserviceaccount.com",
            "client_id": "1",
            "token_uri": token_uri,
        })
    }

    fn private_key() -> String {
        static MADE: std::sync::OnceLock<String> = std::sync::OnceLock::new();
        MADE.get_or_init(|| {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("key");
            let made = std::process::Command::new("ssh-keygen")
                .args(["-q", "-t", "rsa", "-b", "2048", "-m", "PKCS8", "-N", "", "-f"])
                .arg(&file)
                .status()
                .unwrap();
            assert!(made.success());
            std::fs::read_to_string(file).unwrap()
        })
        .clone()
    }

    fn google() -> Endpoint {
        "https://compute.googleapis.com".parse().unwrap()
    }

    fn parse(json: &Value) -> Result<Credentials, BadCredentials> {
        Credentials::parse(&SecretString::from(json.to_string()), &google())
    }

    #[test]
    fn an_assertion_says_who_for_what_and_until_when_and_is_signed() {
        let credentials = parse(&key_file("https://oauth2.googleapis.com/token")).unwrap();
        let token = credentials.assertion(1_000_000).unwrap();
        let token = token.expose_secret();
        let parts: Vec<&str> = token.split('.').collect();
        let read = |part: &str| -> Value { serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap() };
        assert_eq!(read(parts[0]), json!({"alg": "RS256", "typ": "JWT", "kid": "0123abcd"}));
        assert_eq!(
            read(parts[1]),
            json!({
                "iss": "binder-operator@binder-testing.iam.gserviceaccount.com",
                "scope": "https://www.googleapis.com/auth/compute",
                "aud": "https://oauth2.googleapis.com/token",
                "iat": 1_000_000,
                "exp": 1_003_600,
            })
        );
        let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, credentials.key.public_key());
        let signed = format!("{}.{}", parts[0], parts[1]);
        public.verify(signed.as_bytes(), &URL_SAFE_NO_PAD.decode(parts[2]).unwrap()).unwrap();
        assert!(public.verify(b"other", &URL_SAFE_NO_PAD.decode(parts[2]).unwrap()).is_err());
    }

    #[test]
    fn what_is_wrong_is_said_and_what_is_secret_is_not() {
        let good = key_file("https://oauth2.googleapis.com/token");
        let with = |name: &str, value: Value| {
            let mut json = good.clone();
            json[name] = value;
            json
        };
        for (json, why) in [
            (with("type", json!("authorized_user")), BadCredentials::OtherType),
            (with("project_id", json!("")), BadCredentials::Missing("project_id")),
            (with("client_email", Value::Null), BadCredentials::Missing("client_email")),
            (with("private_key", json!(7)), BadCredentials::Missing("private_key")),
            (with("private_key", json!("hunter2")), BadCredentials::PrivateKey),
            (
                with("private_key", json!("-----BEGIN PRIVATE KEY-----\naHVudGVyMg==\n-----END PRIVATE KEY-----\n")),
                BadCredentials::PrivateKey,
            ),
            (with("token_uri", json!("hunter2")), BadCredentials::TokenUri),
            (json!(["hunter2"]), BadCredentials::Missing("type")),
        ] {
            let bad = parse(&json).unwrap_err();
            assert_eq!(bad, why);
            assert!(!format!("{bad} {bad:?}").contains("hunter2"));
        }
        let bad = Credentials::parse(&SecretString::from("{\"private_key\": hunter2"), &google()).unwrap_err();
        assert_eq!(bad, BadCredentials::NotJson { line: 1, column: 17 });
        let long = SecretString::from(" ".repeat(MAX_JSON + 1));
        assert_eq!(Credentials::parse(&long, &google()).unwrap_err(), BadCredentials::TooLong);
        let shown = format!("{:?}", parse(&good).unwrap());
        assert!(shown.contains("binder-operator@") && !shown.contains("KEY") && shown.len() < 150, "{shown}");
    }

    #[test]
    fn assertions_go_to_google_or_to_the_endpoint() {
        let lab: Endpoint = "http://127.0.0.1:4000".parse().unwrap();
        let private: Endpoint = "https://compute.example.org".parse().unwrap();
        for (uri, endpoint, fine) in [
            ("https://oauth2.googleapis.com/token", google(), true),
            ("https://oauth2-mine.p.googleapis.com/token", google(), true),
            ("https://accounts.google.com/o/oauth2/token", google(), true),
            ("http://oauth2.googleapis.com/token", google(), false),
            ("https://evilgoogleapis.com/token", google(), false),
            ("https://googleapis.com.example.org/token", google(), false),
            ("https://me@oauth2.googleapis.com/token", google(), false),
            ("http://127.0.0.1:4000/token", google(), false),
            ("http://169.254.169.254/token", google(), false),
            ("http://127.0.0.1:4000/token", lab.clone(), true),
            ("http://127.0.0.1:4001/token", lab, false),
            ("https://compute.example.org/token", private.clone(), true),
            ("https://other.example.org/token", private, false),
        ] {
            let uri: Uri = uri.parse().unwrap();
            assert_eq!(gives_tokens(&uri, &endpoint), fine, "{uri} {endpoint}");
        }
    }
}
