//! New objects.

use http::{Response, StatusCode};
use rand::Rng as _;
use serde_json::Value;
use weft_api::{convert, status::Status, validate};

use super::{
    decode::{self, Expected},
    render::Renderer,
};
use crate::{
    admission,
    context::{Context, add_warnings},
    storage::WriteError,
    wire::body::Body,
};

/// Attempts to find a name that nobody has; as kube-apiserver.
const NAME_ATTEMPTS: usize = 8;
/// Characters of generated names: no vowels, so that no words come out.
const NAME_LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const NAME_SUFFIX: usize = 5;
/// A generated name leaves room for its suffix in a DNS label.
const NAME_BASE: usize = 63 - NAME_SUFFIX;

pub(crate) async fn create(context: &Context, body: Body) -> Result<Response<Body>, Status> {
    let (resource, app) = (context.resource, &context.app);
    let renderer = Renderer::new(context)?;
    let params = context.params.write()?;
    let mut decoded = decode::read(&context.headers, body).await?;
    decoded.expect(&Expected::from(resource))?;
    let warnings = decoded.check(resource, params.field_validation)?;
    let mut object = decoded.value;
    admission::place(resource, context.namespace(), &mut object)?;
    if object["metadata"]["resourceVersion"].as_str().is_some_and(|version| !version.is_empty()) {
        return Err(Status::bad_request("resourceVersion should not be set on objects to be created"));
    }
    if let Some(namespace) = context.namespace() {
        admission::check_namespace(&app.storage, resource, namespace).await?;
    }
    convert::to_storage(resource, &mut object);
    let base = generated_base(&object)?;
    for attempt in 1.. {
        let mut object = object.clone();
        if let Some(base) = &base {
            object["metadata"]["name"] = generate(base).into();
        }
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        context.check_name(&name)?;
        admission::prepare_create(resource, &mut object);
        let reservation = admission::allocate_create(&app.services, resource, &mut object)?;
        let errors = validate::create(resource, &object);
        if !errors.is_empty() {
            return Err(Status::invalid(resource, &name, errors));
        }
        if params.dry_run {
            if app.storage.get(resource, context.namespace(), &name).await.is_ok() {
                return Err(Status::already_exists(resource, &name));
            }
            let mut response = renderer.respond_value(StatusCode::CREATED, object);
            add_warnings(&mut response, &warnings);
            return Ok(response);
        }
        match app.storage.put(resource, &object, None).await {
            Ok(stored) => {
                reservation.keep();
                let mut response = renderer.respond(StatusCode::CREATED, &stored);
                add_warnings(&mut response, &warnings);
                return Ok(response);
            }
            Err(WriteError::Conflict) if base.is_some() && attempt < NAME_ATTEMPTS => {}
            Err(WriteError::Conflict) => return Err(Status::already_exists(resource, &name)),
            Err(WriteError::Failed(status)) => return Err(status),
        }
    }
    Err(Status::internal("no name was found"))
}

/// What the name is to be generated from, if the object has none.
fn generated_base(object: &Value) -> Result<Option<String>, Status> {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
    if !text("name").is_empty() {
        return Ok(None);
    }
    match text("generateName") {
        "" => Err(Status::unprocessable("resource name may not be empty: name or generateName is required")),
        base => Ok(Some(base.to_owned())),
    }
}

fn generate(base: &str) -> String {
    let mut rng = rand::rng();
    let suffix = (0..NAME_SUFFIX).map(|_| char::from(NAME_LETTERS[rng.random_range(0..NAME_LETTERS.len())]));
    base.chars().take(NAME_BASE).chain(suffix).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_fit_into_a_label() {
        let name = generate(&"x".repeat(100));
        assert_eq!(name.len(), 63);
        assert!(validate::is_dns_label(&name));
        assert!(generate("web-").starts_with("web-"));
    }
}
