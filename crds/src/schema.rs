//! The CustomResourceDefinitions as the API server gets them, and as the files in `crds/yaml` hold them.

use crate::{BinderAction, BinderFleet, BinderHost};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{CustomResourceDefinition, JSON};
use kube::CustomResourceExt;
use std::path::Path;

/// Every kind's definition with the name of its file.
pub fn definitions() -> Vec<(&'static str, CustomResourceDefinition)> {
    vec![
        ("binderfleets.yaml", born_unobserved(BinderFleet::crd())),
        ("binderhosts.yaml", born_unobserved(BinderHost::crd())),
        ("binderactions.yaml", BinderAction::crd()),
    ]
}

/// Every file of `crds/yaml` with its content.
///
/// # Errors
/// If a definition cannot be written as YAML, which would be a bug of the serializer.
pub fn files() -> Result<Vec<(&'static str, String)>, serde_saphyr::ser::Error> {
    definitions()
        .into_iter()
        .map(|(name, definition)| {
            let yaml = serde_saphyr::to_string(&definition)?;
            Ok((
                name,
                format!("# Generated from the types in crds/src by `cargo run -p binder-crds`. Do not edit.\n{yaml}"),
            ))
        })
        .collect()
}

/// The files that differ from what the types say, under one folder.
///
/// # Errors
/// As [`files`].
pub fn stale(folder: &Path) -> Result<Vec<&'static str>, serde_saphyr::ser::Error> {
    let mut stale = Vec::new();
    for (name, content) in files()? {
        if std::fs::read_to_string(folder.join(name)).ok().as_deref() != Some(content.as_str()) {
            stale.push(name);
        }
    }
    Ok(stale)
}

/// Gives status the default `observedGeneration: -1`, so that a tool that reads a new object before the operator did
/// sees that its generation has not been observed (the convention of Flux and kstatus). A default within a derived type
/// would not do: defaults apply only inside an object that is there.
fn born_unobserved(mut definition: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut definition.spec.versions {
        let status = version
            .schema
            .as_mut()
            .and_then(|schema| schema.open_api_v3_schema.as_mut())
            .and_then(|schema| schema.properties.as_mut())
            .and_then(|properties| properties.get_mut("status"));
        if let Some(status) = status {
            status.default = Some(JSON(serde_json::json!({ "observedGeneration": -1 })));
            status.nullable = None;
        }
    }
    definition
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::*;

    #[test]
    fn the_generated_files_are_fresh() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        for folder in [root.join("yaml"), root.join("../charts/binder-operator/crds")] {
            let stale = stale(&folder).unwrap();
            assert!(stale.is_empty(), "run `cargo run -p binder-crds`: stale in {}: {stale:?}", folder.display());
        }
    }
}
