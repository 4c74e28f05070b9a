//! Replacing objects.

use http::{Response, StatusCode};
use weft_api::status::Status;

use super::{
    decode::{self, Expected},
    render::Renderer,
    write::{self, Outcome},
};
use crate::{
    admission::{self, Part},
    context::{Context, add_warnings},
    wire::body::Body,
};

pub(crate) async fn update(context: &Context, body: Body) -> Result<Response<Body>, Status> {
    let (resource, name) = (context.resource, context.name()?);
    let renderer = Renderer::new(context)?;
    let params = context.params.write()?;
    let mut decoded = decode::read(&context.headers, body).await?;
    decoded.expect(&Expected::from(resource))?;
    let warnings = decoded.check(resource, params.field_validation)?;
    let mut object = decoded.value;
    admission::place(resource, context.namespace(), &mut object)?;
    match object["metadata"]["name"].as_str().unwrap_or_default() {
        "" => object["metadata"]["name"] = name.into(),
        other if other == name => {}
        other => {
            return Err(Status::bad_request(format!(
                "the name of the object ({other}) does not match the name on the URL ({name})"
            )));
        }
    }
    let part = Part::of(context.path.subresource.as_deref());
    let outcome = write::change(context, part, params.dry_run, |_| Ok(object.clone())).await?;
    let mut response = respond(&renderer, outcome);
    add_warnings(&mut response, &warnings);
    Ok(response)
}

pub(crate) fn respond(renderer: &Renderer, outcome: Outcome) -> Response<Body> {
    match outcome {
        Outcome::Stored(stored) => renderer.respond(StatusCode::OK, &stored),
        Outcome::Dry(object) => renderer.respond_value(StatusCode::OK, object),
    }
}
