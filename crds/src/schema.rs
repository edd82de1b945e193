//! The CustomResourceDefinitions as the API server gets them, and as the files in `crds/yaml` hold them.

use crate::{BinderAction, BinderFleet, BinderHost};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;
use std::path::Path;

/// Every kind's definition with the name of its file.
pub fn definitions() -> Vec<(&'static str, CustomResourceDefinition)> {
    vec![
        ("binderfleets.yaml", born_unobserved(plain(BinderFleet::crd()))),
        ("binderhosts.yaml", born_unobserved(plain(BinderHost::crd()))),
        ("binderactions.yaml", plain(BinderAction::crd())),
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

/// Takes out what the generator writes and Kubernetes means otherwise: an optional field is left out, not set to null (a
/// null would count as present in a CEL rule), and the unsigned formats are Rust's own, about which the API server warns
/// whoever applies the definition; their bounds are in `minimum` and `maximum`.
fn plain(mut definition: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut definition.spec.versions {
        if let Some(schema) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) {
            plain_schema(schema);
        }
    }
    definition
}

fn plain_schema(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    if let Some("uint8" | "uint16" | "uint32" | "uint64") = schema.format.as_deref() {
        schema.format = Some("int64".to_owned());
    }
    schema.properties.iter_mut().flat_map(|properties| properties.values_mut()).for_each(plain_schema);
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => plain_schema(items),
        Some(JSONSchemaPropsOrArray::Schemas(items)) => items.iter_mut().for_each(plain_schema),
        None => {}
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        plain_schema(values);
    }
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
