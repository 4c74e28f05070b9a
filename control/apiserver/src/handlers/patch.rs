//! Changing parts of objects.

use http::Response;
use serde_json::Value;
use weft_api::{
    json,
    patch::{self, PatchError},
    registry::Resource,
    status::Status,
};

use super::{
    decode::{self, Expected},
    render::Renderer,
    update, write,
};
use crate::{
    admission::{self, Part},
    context::{Context, add_warnings},
    wire::{
        body::{self, Body},
        media::{self, PatchType},
    },
};

/// A patch, read but not applied to anything yet.
#[derive(Debug)]
pub(crate) struct Patch {
    kind: PatchType,
    value: Value,
    /// Fields that occurred more than once.
    duplicates: Vec<String>,
}

pub(crate) async fn patch(context: &Context, body: Body) -> Result<Response<Body>, Status> {
    let (resource, name) = (context.resource, context.name()?);
    let renderer = Renderer::new(context)?;
    let params = context.params.write()?;
    let patch = Patch::read(context, body).await?;
    let part = Part::of(context.path.subresource.as_deref());
    let mut warnings = Vec::new();
    let outcome = write::change(context, part, params.dry_run, |current| {
        let mut object = patch.apply(resource, current)?;
        if !object.is_object() {
            return Err(Status::unprocessable("the patched object is not an object"));
        }
        if ["apiVersion", "kind"].into_iter().any(|field| object[field] != current[field]) {
            let expected = Expected::from(resource);
            return Err(Status::bad_request(format!(
                "a patch cannot change the apiVersion or kind of an object ({}, {})",
                expected.api_version, expected.kind
            )));
        }
        // What is stored has no unknown field, so all that are found came with the patch.
        warnings = decode::check(resource, &mut object, &patch.duplicates, params.field_validation)?;
        if object["metadata"]["name"].as_str() != Some(name) {
            return Err(Status::bad_request("a patch cannot change the name of an object"));
        }
        admission::place(resource, context.namespace(), &mut object)?;
        Ok(object)
    })
    .await?;
    let mut response = update::respond(&renderer, outcome);
    add_warnings(&mut response, &warnings);
    Ok(response)
}

// === impl Patch ===

impl Patch {
    pub(crate) async fn read(context: &Context, body: Body) -> Result<Self, Status> {
        let kind = media::patch_type(&context.headers)?;
        let bytes = body::read(body).await?;
        let parsed = json::parse(&bytes);
        let parsed =
            parsed.map_err(|error| Status::bad_request(format!("the patch is not valid: {error}")))?;
        let fits = if kind == PatchType::Json { parsed.value.is_array() } else { parsed.value.is_object() };
        if !fits {
            let expected = if kind == PatchType::Json { "a list of operations" } else { "an object" };
            return Err(Status::bad_request(format!("the patch is not valid: it must be {expected}")));
        }
        // Within a JSON patch the paths would be those of the operations.
        let duplicates = if kind == PatchType::Json { Vec::new() } else { parsed.duplicates };
        Ok(Self { kind, value: parsed.value, duplicates })
    }

    /// A strategic patch follows the merge keys of `resource`.
    pub(crate) fn apply(&self, resource: &Resource, current: &Value) -> Result<Value, Status> {
        let patched = match self.kind {
            PatchType::Json => patch::json(current, &self.value),
            PatchType::Merge => patch::merge(current, &self.value),
            PatchType::Strategic => patch::strategic(resource, current, &self.value),
        };
        patched.map_err(|error| match error {
            PatchError::Malformed(_) => Status::bad_request(error.to_string()),
            PatchError::Unprocessable(_) => Status::unprocessable(error.to_string()),
            PatchError::TooManyOperations(_) | PatchError::TooLarge => {
                Status::new(413, "RequestEntityTooLarge", error.to_string())
            }
        })
    }

    /// A patch of a kind without merge keys.
    pub(crate) fn apply_plain(&self, resource: &Resource, current: &Value) -> Result<Value, Status> {
        match self.kind {
            PatchType::Strategic => {
                Self { kind: PatchType::Merge, value: self.value.clone(), duplicates: Vec::new() }
                    .apply(resource, current)
            }
            _ => self.apply(resource, current),
        }
    }
}
