//! Paths and operations.

use serde_json::{Map, Value, json};

use super::components::{DELETE_OPTIONS, Dialect, STATUS, definition_of, list_definition, reference};
use super::{group_version_kind, object};
use crate::registry::{Resource, Subresource};

const BODY_TYPES: &[&str] = &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
const PATCH_TYPES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

/// Name, JSON type and meaning of a query parameter.
type Parameter = (&'static str, &'static str, &'static str);

const DRY_RUN: Parameter = (
    "dryRun",
    "string",
    "When present, indicates that modifications should not be persisted. Valid value: All, all dry run stages are processed.",
);
const FIELD_MANAGER: Parameter =
    ("fieldManager", "string", "A name associated with the actor or entity that is making these changes.");
const FIELD_VALIDATION: Parameter = (
    "fieldValidation",
    "string",
    "How the server treats unknown and duplicate fields in the body. Valid values: Ignore, Warn, Strict.",
);
const LIST: &[Parameter] = &[
    ("allowWatchBookmarks", "boolean", "Ask for events of type BOOKMARK."),
    ("continue", "string", "Token of the previous page."),
    ("fieldSelector", "string", "Restrict the result by fields. Defaults to everything."),
    ("labelSelector", "string", "Restrict the result by labels. Defaults to everything."),
    ("limit", "integer", "Maximum number of objects of one page."),
    ("resourceVersion", "string", "Revision that the result must have seen."),
    ("resourceVersionMatch", "string", "How resourceVersion is applied to a list."),
    ("timeoutSeconds", "integer", "When the request ends, however busy."),
    ("watch", "boolean", "Stream the changes."),
];
const DELETE: &[Parameter] = &[
    DRY_RUN,
    ("gracePeriodSeconds", "integer", "Seconds before the object is deleted. Zero means at once."),
    ("propagationPolicy", "string", "What happens to dependents: Orphan, Background or Foreground."),
];

/// All paths of the resources.
pub(super) fn paths(resources: &[&Resource], dialect: Dialect) -> Value {
    let mut out = Map::new();
    for resource in resources {
        let root = match resource.group {
            "" => format!("/api/{}", resource.version),
            group => format!("/apis/{group}/{}", resource.version),
        };
        let writer = Writer { resource, dialect };
        let scope = if resource.namespaced { "/namespaces/{namespace}" } else { "" };
        let collection = format!("{root}{scope}/{}", resource.plural);
        if resource.namespaced && resource.has_verb("list") {
            out.insert(format!("{root}/{}", resource.plural), writer.all_namespaces());
        }
        if resource.has_verb("get") {
            out.insert(format!("{collection}/{{name}}"), writer.item());
        }
        for sub in resource.subresources {
            out.insert(format!("{collection}/{{name}}/{}", sub.name), writer.subresource(sub));
        }
        out.insert(collection, writer.collection());
    }
    Value::Object(out)
}

struct Writer<'a> {
    resource: &'a Resource,
    dialect: Dialect,
}

/// One operation, whatever the dialect.
struct Operation<'a> {
    /// Value of `x-kubernetes-action`.
    action: &'a str,
    /// Group, version and kind that the operation exchanges.
    kind: Value,
    parameters: &'a [Parameter],
    /// Media types and definition of the body.
    body: Option<(&'a [&'a str], Option<String>)>,
    /// Definition of the answer.
    answer: Option<String>,
}

impl Writer<'_> {
    fn all_namespaces(&self) -> Value {
        json!({"get": self.list(), "parameters": []})
    }

    fn collection(&self) -> Value {
        let mut out = json!({"parameters": self.path_parameters(false)});
        if self.resource.has_verb("list") {
            out["get"] = self.list();
        }
        if self.resource.has_verb("create") {
            out["post"] = self.write("post", &[DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION], BODY_TYPES);
        }
        if self.resource.has_verb("deletecollection") {
            out["delete"] = self.delete("deletecollection");
        }
        out
    }

    fn item(&self) -> Value {
        let mut out = json!({"parameters": self.path_parameters(true)});
        out["get"] = self.operation(&Operation {
            action: "get",
            kind: self.kind(),
            parameters: &[],
            body: None,
            answer: Some(self.resource.definition.into()),
        });
        if self.resource.has_verb("update") {
            out["put"] = self.write("put", &[DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION], BODY_TYPES);
        }
        if self.resource.has_verb("patch") {
            out["patch"] = self.write("patch", &[DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION], PATCH_TYPES);
        }
        if self.resource.has_verb("delete") {
            out["delete"] = self.delete("delete");
        }
        out
    }

    fn subresource(&self, sub: &Subresource) -> Value {
        let definition = definition_of(sub.group, sub.version, sub.kind);
        let mut out = json!({"parameters": self.path_parameters(true)});
        for verb in sub.verbs {
            let (method, parameters, types): (&str, &[Parameter], &[&str]) = match *verb {
                "get" => ("get", &[], &[]),
                "create" => ("post", &[DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION], BODY_TYPES),
                "update" => ("put", &[DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION], BODY_TYPES),
                "patch" => ("patch", &[DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION], PATCH_TYPES),
                _ => continue,
            };
            out[method] = self.operation(&Operation {
                action: method,
                kind: group_version_kind(sub.group, sub.version, sub.kind),
                parameters,
                body: (!types.is_empty()).then(|| (types, definition.clone())),
                answer: definition.clone(),
            });
        }
        out
    }

    fn list(&self) -> Value {
        self.operation(&Operation {
            action: "list",
            kind: self.kind(),
            parameters: LIST,
            body: None,
            answer: Some(list_definition(self.resource)),
        })
    }

    fn write(&self, action: &str, parameters: &[Parameter], types: &[&str]) -> Value {
        let definition = self.resource.definition.to_owned();
        self.operation(&Operation {
            action,
            kind: self.kind(),
            parameters,
            body: Some((types, Some(definition.clone()))),
            answer: Some(definition),
        })
    }

    fn delete(&self, action: &str) -> Value {
        self.operation(&Operation {
            action,
            kind: self.kind(),
            parameters: DELETE,
            body: Some((BODY_TYPES, Some(DELETE_OPTIONS.into()))),
            answer: Some(STATUS.into()),
        })
    }

    fn kind(&self) -> Value {
        group_version_kind(self.resource.group, self.resource.version, self.resource.kind)
    }

    fn path_parameters(&self, named: bool) -> Value {
        let mut out = Vec::new();
        if named {
            out.push(self.parameter(&("name", "string", "Name of the object."), "path"));
        }
        if self.resource.namespaced {
            out.push(self.parameter(&("namespace", "string", "Namespace of the object."), "path"));
        }
        Value::Array(out)
    }

    fn parameter(&self, (name, json_type, description): &Parameter, place: &str) -> Value {
        let mut out = json!({"name": name, "in": place, "description": description});
        if place == "path" {
            out["required"] = true.into();
        }
        match self.dialect {
            Dialect::V2 => {
                out["type"] = (*json_type).into();
                out["uniqueItems"] = true.into();
            }
            Dialect::V3 => out["schema"] = json!({"type": json_type, "uniqueItems": true}),
        }
        out
    }

    fn operation(&self, operation: &Operation<'_>) -> Value {
        let Operation { action, kind, parameters, body, answer } = operation;
        let mut list: Vec<Value> = parameters.iter().map(|p| self.parameter(p, "query")).collect();
        let answer = answer.as_deref().map(|name| reference(name, self.dialect));
        let mut out = json!({
            "description": format!("{action} {}", self.resource.kind),
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": kind,
        });
        match self.dialect {
            Dialect::V2 => {
                out["consumes"] = body.as_ref().map_or_else(|| json!(["*/*"]), |(types, _)| json!(types));
                out["produces"] = json!(["application/json"]);
                let mut ok = json!({"description": "OK"});
                if let Some(answer) = answer {
                    ok["schema"] = answer;
                }
                out["responses"] = json!({"200": ok});
                if let Some((_, Some(name))) = body {
                    let schema = reference(name, self.dialect);
                    list.push(json!({"name": "body", "in": "body", "required": true, "schema": schema}));
                }
            }
            Dialect::V3 => {
                let content = |types: &[&str], schema: Value| {
                    object(types.iter().map(|media| ((*media).to_owned(), json!({"schema": schema}))))
                };
                let mut ok = json!({"description": "OK"});
                if let Some(answer) = answer {
                    ok["content"] = content(&["application/json"], answer);
                }
                out["responses"] = json!({"200": ok});
                if let Some((types, name)) = body {
                    let schema =
                        name.as_deref().map_or_else(|| json!({}), |name| reference(name, self.dialect));
                    out["requestBody"] = json!({"content": content(types, schema), "required": true});
                }
            }
        }
        out["parameters"] = Value::Array(list);
        out
    }
}
