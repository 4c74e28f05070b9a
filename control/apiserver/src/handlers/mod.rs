//! What happens for each verb and sub-resource.

mod create;
pub(crate) mod decode;
mod delete;
mod eviction;
mod list;
mod node;
mod patch;
mod render;
pub(crate) mod review;
mod scale;
mod token;
mod update;
mod watch;
mod write;

use http::{Method, Response};
use weft_api::{selector::FieldSelector, status::Status};

use crate::{
    context::Context,
    wire::{body::Body, params::Params, path::ResourcePath},
};

/// The verb of a request, as authorisation and metrics name it. `None` for a method that no resource has.
pub(crate) fn verb(method: &Method, path: &ResourcePath, params: &Params) -> Option<&'static str> {
    let collection = path.name.is_none();
    Some(match *method {
        Method::GET if params.flag("watch") && path.subresource.is_none() => "watch",
        Method::GET if collection => "list",
        Method::GET => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if collection => "deletecollection",
        Method::DELETE => "delete",
        _ => return None,
    })
}

/// Answers a request that is understood and allowed.
pub(crate) async fn handle(
    context: Context,
    verb: &'static str,
    body: Body,
) -> Result<Response<Body>, Status> {
    let subresource = context.path.subresource.as_deref().unwrap_or_default();
    if subresource != "proxy" && context.path.rest.is_some() {
        return Err(Status::no_such_path());
    }
    if subresource.is_empty() && !context.resource.has_verb(verb) {
        return Err(Status::method_not_allowed());
    }
    if !subresource.is_empty() {
        let found = context.resource.subresource(subresource).ok_or_else(Status::no_such_path)?;
        if !found.verbs.contains(&verb) {
            return Err(Status::method_not_allowed());
        }
    }
    // Boxed: each of these is large and only one of them runs.
    match (subresource, verb) {
        ("", "watch" | "list") => read_many(&context).await,
        ("" | "status", "get") => list::get(&context).await,
        ("", "create") if context.path.name.is_some() => Err(Status::method_not_allowed()),
        ("", "create") => Box::pin(create::create(&context, body)).await,
        ("" | "status" | "finalize", "update") => Box::pin(update::update(&context, body)).await,
        ("" | "status", "patch") => Box::pin(patch::patch(&context, body)).await,
        ("", "delete") => Box::pin(delete::delete(&context, body)).await,
        ("", "deletecollection") => Box::pin(delete::collection(&context, body)).await,
        ("scale", "get") => scale::get(&context).await,
        ("scale", "update") => Box::pin(scale::update(&context, body)).await,
        ("scale", "patch") => Box::pin(scale::patch(&context, body)).await,
        ("binding", "create") => Box::pin(eviction::bind(&context, body)).await,
        ("eviction", "create") => Box::pin(eviction::evict(&context, body)).await,
        ("token", "create") => Box::pin(token::create(&context, body)).await,
        ("log", "get") => Box::pin(node::log(&context)).await,
        ("proxy", _) => Box::pin(node::proxy(&context, verb, body)).await,
        _ => Err(Status::method_not_allowed()),
    }
}

async fn read_many(context: &Context) -> Result<Response<Body>, Status> {
    let mut params = context.params.list(context.resource)?;
    if let Some(name) = &context.path.name {
        // Watching one object by its path.
        if params.fields.exact("metadata.name").is_some_and(|other| other != name) {
            return Err(Status::bad_request("the field selector names another object than the path"));
        }
        let only = FieldSelector::parse(&format!("metadata.name={name}"));
        params.fields = only.map_err(|error| Status::bad_request(error.to_string()))?;
    }
    if params.watch {
        return Box::pin(watch::watch(context, &params)).await;
    }
    list::list(context, &params).await
}
