//! From what a host's spec names (address, host keys, Secrets) to what the transport needs. Secrets are read by name, in
//! the host's own namespace, when they are needed ([`secrets`] keeps them for a moment); none is ever shown.

use super::secrets::{self, Age};
use super::{Context, Error};
use crate::hosts::{HostKey, LoginKey, Target};
use binder_core::plan::{self, FailureKind, LookFailure};
use binder_crds::references::SecretKeyRef;
use binder_crds::text::Checked;
use binder_crds::{BinderHost, BinderHostSpec, PURPOSE_API_KEY, PURPOSE_BACKUP, PURPOSE_LABEL};
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use secrecy::SecretString;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The type that a Secret with a login key must have (Kubernetes' own convention).
const SSH_AUTH: &str = "kubernetes.io/ssh-auth";

fn wrong(reason: &'static str, message: String) -> LookFailure {
    LookFailure { reason, message, kind: FailureKind::Person, not_before: None }
}

/// Everything that it takes to log in to a host, or what the owner has to put right first.
///
/// # Errors
/// [`Error`] when the API fails; what is wrong with the objects is the inner result.
pub(crate) async fn target(
    context: &Context,
    namespace: &str,
    uid: &str,
    host: &BinderHost,
    spec: &BinderHostSpec,
) -> Result<Result<Target, LookFailure>, Error> {
    let Some(access) = &spec.access else {
        return Ok(Err(wrong(
            "NoAccess",
            "no login is described: set spec.access, or give the host a label that a fleet's hostSelector selects"
                .to_owned(),
        )));
    };
    let checked = spec.address.checked().and(access.user.checked());
    if let Err(bad) = checked {
        return Ok(Err(wrong("InvalidSpec", format!("spec.address or spec.access.user is {bad}"))));
    }
    let mut host_keys = Vec::new();
    for text in &spec.host_keys {
        match HostKey::parse(&text.0) {
            Ok(key) => host_keys.push(key),
            Err(bad) => return Ok(Err(wrong("InvalidHostKey", format!("one of spec.hostKeys cannot be used: {bad}")))),
        }
    }
    let name = &access.key_secret_ref.name.0;
    let key = match login_key(context, namespace, name, Age::for_looks(plan::usual(spec))).await? {
        Ok(key) => key,
        Err(failure) => {
            context.secrets.doubt(namespace, name);
            return Ok(Err(failure));
        }
    };
    Ok(Ok(Target {
        id: uid.to_owned(),
        name: host.name_any(),
        address: spec.address.0.clone(),
        port: spec.port,
        user: access.user.0.clone(),
        host_keys,
        key,
    }))
}

async fn login_key(
    context: &Context,
    namespace: &str,
    name: &str,
    age: Age,
) -> Result<Result<LoginKey, LookFailure>, Error> {
    let Some(secret) = secret(context, namespace, name, age).await? else {
        return Ok(Err(wrong(
            "SecretMissing",
            format!(
                "the Secret {name} with the login key does not exist: kubectl create secret generic {name} --type={SSH_AUTH} --from-file=ssh-privatekey=FILE"
            ),
        )));
    };
    if secret.type_.as_deref() != Some(SSH_AUTH) {
        return Ok(Err(wrong(
            "SecretWrongType",
            format!(
                "the Secret {name} is not of type {SSH_AUTH}: delete it and create it with that type; the type of a Secret cannot be changed"
            ),
        )));
    }
    let Some(pem) = field(&secret, "ssh-privatekey") else {
        return Ok(Err(wrong("SecretIncomplete", format!("the Secret {name} holds no text under ssh-privatekey"))));
    };
    let version = secrets::version(&secret);
    if let Some(key) = context.secrets.login(namespace, name, &version) {
        return Ok(Ok(key));
    }
    match LoginKey::parse(&pem, version) {
        Ok(key) => {
            context.secrets.parsed(namespace, name, &key);
            Ok(Ok(key))
        }
        Err(bad) => Ok(Err(wrong("KeyUnusable", format!("the key in the Secret {name} cannot be used: {bad}")))),
    }
}

/// Why the API key is not known. In words: what a step that needs the key waits for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum KeyProblem {
    /// Nobody says where it is.
    #[error("a Secret with the API key to be named in spec.apiKeySecretRef")]
    NotNamed,
    /// There is no such Secret.
    #[error("the Secret {0} with the API key, which does not exist")]
    NoSecret(String),
    /// The Secret is not meant for it: its value would go to the machine that the host names.
    #[error(
        "the label {PURPOSE_LABEL}={PURPOSE_API_KEY} on the Secret {0}: without it the operator sends none of its values to a \
         machine (kubectl label secret {0} {PURPOSE_LABEL}={PURPOSE_API_KEY})"
    )]
    NotMeant(String),
    /// The Secret has no such entry, or an empty one.
    #[error("the API key under {entry} in the Secret {name}, which has none there")]
    NoEntry {
        /// The Secret.
        name: String,
        /// The entry.
        entry: String,
    },
}

/// The API key of Binder's servers, or what stands in the way.
///
/// # Errors
/// [`Error`] when the API fails.
pub(crate) async fn api_key(
    context: &Context,
    namespace: &str,
    reference: Option<&SecretKeyRef>,
    age: Age,
) -> Result<Result<SecretString, KeyProblem>, Error> {
    let Some(reference) = reference else { return Ok(Err(KeyProblem::NotNamed)) };
    let (name, entry) = (reference.name.0.clone(), reference.key.clone());
    let secret = secret(context, namespace, &name, age).await?;
    let key = match &secret {
        None => Err(KeyProblem::NoSecret(name)),
        Some(secret) if !is_meant_for(secret, PURPOSE_API_KEY) => Err(KeyProblem::NotMeant(name)),
        Some(secret) => field(secret, &entry).ok_or(KeyProblem::NoEntry { name, entry }),
    };
    if key.is_err() {
        context.secrets.doubt(namespace, &reference.name.0);
    }
    Ok(key)
}

/// Whether the owner of a Secret has labelled it for this purpose. Whoever may write a host and may read no Secret could
/// otherwise name any Secret of the namespace, and have its value sent to a machine of his own.
pub(super) fn is_meant_for(secret: &Secret, purpose: &str) -> bool {
    secret.labels().get(PURPOSE_LABEL).is_some_and(|label| label == purpose)
}

/// Every entry of a bucket's Secret that is text; in words what the owner has to put right otherwise.
///
/// # Errors
/// [`Error`] when the API fails.
pub(crate) async fn bucket_entries(
    context: &Context,
    namespace: &str,
    name: &str,
) -> Result<Result<BTreeMap<String, SecretString>, String>, Error> {
    let Some(secret) = secret(context, namespace, name, Age::now()).await? else {
        return Ok(Err(format!("the Secret {name} with what the bucket needs does not exist")));
    };
    if !is_meant_for(&secret, PURPOSE_BACKUP) {
        return Ok(Err(format!(
            "the Secret {name} has not the label {PURPOSE_LABEL}={PURPOSE_BACKUP}, without which it is used for no bucket: \
             kubectl label secret {name} {PURPOSE_LABEL}={PURPOSE_BACKUP}"
        )));
    }
    let keys = secret.data.iter().flat_map(|data| data.keys());
    Ok(Ok(keys.filter_map(|key| Some((key.clone(), field(&secret, key)?))).collect()))
}

/// A Secret, as it was at most so long ago; `None`: there was none.
///
/// # Errors
/// [`Error`] when the API fails.
pub(super) async fn secret(
    context: &Context,
    namespace: &str,
    name: &str,
    age: Age,
) -> Result<Option<Arc<Secret>>, Error> {
    if let Some(known) = context.secrets.fresh(namespace, name, age) {
        return Ok(known);
    }
    let api = context.api::<Secret>(namespace);
    let read = api.get_opt(name).await.map_err(Error::api("read", format!("Secret {namespace}/{name}")))?.map(Arc::new);
    context.secrets.keep(namespace, name, read.as_ref());
    Ok(read)
}

/// A field of a Secret as text, if it is there, is text and is not empty.
pub(super) fn field(secret: &Secret, key: &str) -> Option<SecretString> {
    let bytes = &secret.data.as_ref()?.get(key)?.0;
    let text = std::str::from_utf8(bytes).ok()?;
    let text = if key == "ssh-privatekey" { text } else { text.trim_end_matches(['\r', '\n']) };
    (!text.is_empty()).then(|| SecretString::from(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_secret_that_is_meant_for_it_is_sent_anywhere() {
        let mut secret = Secret::default();
        assert!(!is_meant_for(&secret, PURPOSE_API_KEY));
        secret.metadata.labels = Some(BTreeMap::from([(PURPOSE_LABEL.to_owned(), PURPOSE_BACKUP.to_owned())]));
        assert!(!is_meant_for(&secret, PURPOSE_API_KEY) && is_meant_for(&secret, PURPOSE_BACKUP));
        let said = KeyProblem::NotMeant("default-token".to_owned()).to_string();
        assert!(said.contains("kubectl label secret default-token fleet.binder-project.org/purpose=api-key"), "{said}");
    }
}
