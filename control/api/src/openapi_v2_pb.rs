//! The OpenAPI v2 document in gnostic's protobuf form, the only one that kubectl before 1.27 asks for.

use prost::Message as _;
use serde_json::Value;

use crate::access::{entries, items, text};
use crate::openapi::openapi_v2;
use crate::openapi::v2_proto::{
    AdditionalProperties, AnyYaml, Document, Info, Items, NamedAny, NamedPathItem, NamedSchema, NamedSchemas,
    NonBodyParameter, Operation, Parameter, ParametersItem, PathItem, Paths, QueryParameter, Schema,
    TypeItem,
};

/// The media type that clients ask for.
pub const MEDIA_TYPE: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// [`openapi_v2`] encoded. Left out is what no client reads: bodies and answers of operations, parameters in paths.
pub fn encode() -> Vec<u8> {
    document(&openapi_v2()).encode_to_vec()
}

fn document(source: &Value) -> Document {
    let info = source.get("info").unwrap_or(&Value::Null);
    let path = entries(source, "paths")
        .map(|(name, value)| NamedPathItem { name: name.clone(), value: Some(path_item(value)) })
        .collect();
    Document {
        swagger: text(source, "swagger").into(),
        info: Some(Info { title: text(info, "title").into(), version: text(info, "version").into() }),
        paths: Some(Paths { path }),
        definitions: schemas(source, "definitions"),
    }
}

fn path_item(source: &Value) -> PathItem {
    let method = |name: &str| source.get(name).map(operation);
    PathItem {
        get: method("get"),
        put: method("put"),
        post: method("post"),
        delete: method("delete"),
        patch: method("patch"),
    }
}

fn operation(source: &Value) -> Operation {
    Operation {
        description: text(source, "description").into(),
        produces: texts(source, "produces"),
        consumes: texts(source, "consumes"),
        parameters: items(source, "parameters")
            .iter()
            .filter(|p| text(p, "in") == "query")
            .map(query_parameter)
            .collect(),
        vendor_extension: extensions(source),
    }
}

fn query_parameter(source: &Value) -> ParametersItem {
    let query = QueryParameter {
        r#in: text(source, "in").into(),
        description: text(source, "description").into(),
        name: text(source, "name").into(),
        r#type: text(source, "type").into(),
    };
    let non_body_parameter = Some(NonBodyParameter { query_parameter_sub_schema: Some(query) });
    ParametersItem { parameter: Some(Parameter { non_body_parameter }) }
}

fn schemas(source: &Value, key: &str) -> Option<NamedSchemas> {
    source.get(key)?;
    let additional_properties = entries(source, key)
        .map(|(name, value)| NamedSchema { name: name.clone(), value: Some(schema(value)) })
        .collect();
    Some(NamedSchemas { additional_properties })
}

fn schema(source: &Value) -> Schema {
    let json_type = text(source, "type");
    Schema {
        reference: text(source, "$ref").into(),
        format: text(source, "format").into(),
        description: text(source, "description").into(),
        required: texts(source, "required"),
        additional_properties: source
            .get("additionalProperties")
            .map(|value| Box::new(AdditionalProperties { schema: Some(schema(value)) })),
        r#type: (!json_type.is_empty()).then(|| TypeItem { value: vec![json_type.into()] }),
        items: source.get("items").map(|value| Items { schema: vec![schema(value)] }),
        properties: schemas(source, "properties"),
        vendor_extension: extensions(source),
    }
}

/// Extensions travel as YAML, and JSON is YAML.
fn extensions(source: &Value) -> Vec<NamedAny> {
    source
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(name, _)| name.starts_with("x-"))
        .map(|(name, value)| NamedAny {
            name: name.clone(),
            value: Some(AnyYaml { yaml: value.to_string() }),
        })
        .collect()
}

fn texts(source: &Value, key: &str) -> Vec<String> {
    items(source, key).iter().filter_map(|item| item.as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_encoded_document_says_what_the_json_one_says() {
        let document = Document::decode(encode().as_slice()).unwrap();
        assert_eq!(document.swagger, "2.0");
        let definitions = document.definitions.unwrap().additional_properties;
        let spec = definitions
            .iter()
            .find(|d| d.name == "io.k8s.api.core.v1.PodSpec")
            .unwrap()
            .value
            .as_ref()
            .unwrap();
        assert_eq!(spec.required, ["containers"]);
        let properties = &spec.properties.as_ref().unwrap().additional_properties;
        let containers = properties.iter().find(|p| p.name == "containers").unwrap().value.as_ref().unwrap();
        assert_eq!(
            containers.items.as_ref().unwrap().schema[0].reference,
            "#/definitions/io.k8s.api.core.v1.Container"
        );
        let key =
            containers.vendor_extension.iter().find(|e| e.name == "x-kubernetes-patch-merge-key").unwrap();
        assert_eq!(key.value.as_ref().unwrap().yaml, "\"name\"");
        let paths = document.paths.unwrap().path;
        let pod = paths.iter().find(|p| p.name == "/api/v1/namespaces/{namespace}/pods/{name}").unwrap();
        let patch = pod.value.as_ref().unwrap().patch.as_ref().unwrap();
        assert!(patch.consumes.contains(&"application/strategic-merge-patch+json".to_owned()));
        assert_eq!(patch.parameters.len(), 3);
    }
}
