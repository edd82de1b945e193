//! From what a host's spec says of its power to what can ask and change it. The credentials' Secret is read by name, in the
//! host's own namespace, when it is needed.

use super::secrets::Age;
use super::{Context, Error, access, chain};
use crate::power::{Power, gce};
use binder_core::plan::outage::CloudSays;
use binder_crds::BinderHostSpec;
use binder_crds::text::CloudName;

/// The power of a host, or of a node, whose instance has its name: `None` if none is described, else what can reach it, or in
/// words why nothing can.
///
/// # Errors
/// [`Error`] when the API fails.
pub(super) async fn of(
    context: &Context,
    namespace: &str,
    spec: &BinderHostSpec,
    node: Option<&str>,
    age: Age,
) -> Result<Option<Result<Box<dyn Power>, String>>, Error> {
    let Some(described) = spec.power.as_ref().and_then(|power| power.gce.as_ref()) else { return Ok(None) };
    let mut described = described.clone();
    if let Some(node) = node {
        described.instance = CloudName(node.to_owned());
    }
    let name = &described.credentials_secret_ref.name;
    let key = gce::SECRET_KEY;
    let Some(secret) = access::secret(context, namespace, &name.0, age).await? else {
        return Ok(Some(Err(format!("the Secret {name} with the cloud's credentials does not exist"))));
    };
    let Some(credentials) = access::field(&secret, key) else {
        return Ok(Some(Err(format!("the Secret {name} holds no text under {key}"))));
    };
    Ok(Some(match context.outside.cloud(&described, &credentials) {
        Ok(instance) => Ok(instance),
        Err(error) => Err(chain(&error)),
    }))
}

/// A cloud that does not answer may have refused the credentials: their Secret is read again soon.
pub(super) fn doubt(context: &Context, namespace: &str, spec: &BinderHostSpec, said: &CloudSays) {
    if let (CloudSays::Unanswered(_), Some(gce)) = (said, spec.power.as_ref().and_then(|power| power.gce.as_ref())) {
        context.secrets.doubt(namespace, &gce.credentials_secret_ref.name.0);
    }
}
