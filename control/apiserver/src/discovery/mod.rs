//! What the server has, told in the three forms in which clients ask.

mod aggregated;
mod legacy;

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde_json::Value;
use weft_api::{
    registry::{self, Resource},
    status::Status,
};

use crate::{
    aggregate::Aggregation,
    wire::{
        body::{self, Body},
        media::{self, DiscoveryForm},
    },
};

/// One resource, from the registry or from an aggregated service.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    name: String,
    singular: String,
    kind: String,
    namespaced: bool,
    verbs: Vec<String>,
    short_names: &'static [&'static str],
    categories: &'static [&'static str],
    subresources: &'static [registry::Subresource],
}

/// A version of a group and what is in it.
#[derive(Debug, Clone)]
pub(crate) struct GroupVersion {
    group: String,
    version: String,
    entries: Vec<Entry>,
}

/// Everything that the server has, the core group first, in the order of the registry.
pub(crate) fn catalogue(aggregations: &[Arc<Aggregation>]) -> Vec<GroupVersion> {
    let mut catalogue: Vec<GroupVersion> = Vec::new();
    let mut add = |group: &str, version: &str, entry: Entry| match catalogue
        .iter_mut()
        .find(|gv| gv.group == group && gv.version == version)
    {
        Some(found) => found.entries.push(entry),
        None => catalogue.push(GroupVersion {
            group: group.to_owned(),
            version: version.to_owned(),
            entries: vec![entry],
        }),
    };
    for resource in registry::all().iter().chain(registry::reviews()) {
        add(resource.group, resource.version, Entry::from(resource));
    }
    for aggregation in aggregations {
        for resource in &aggregation.resources {
            let entry = Entry {
                name: resource.name.clone(),
                singular: resource.singular.clone(),
                kind: resource.kind.clone(),
                namespaced: resource.namespaced,
                verbs: resource.verbs.clone(),
                short_names: &[],
                categories: &[],
                subresources: &[],
            };
            add(&aggregation.group, &aggregation.version, entry);
        }
    }
    catalogue
}

/// `/api` and `/api/VERSION`.
pub(crate) fn core(
    catalogue: &[GroupVersion],
    version: Option<&str>,
    address: &str,
    headers: &HeaderMap,
) -> Result<Response<Body>, Status> {
    let form = media::discovery_form(headers)?;
    let core = || catalogue.iter().filter(|gv| gv.group.is_empty());
    match (version, form) {
        (None, DiscoveryForm::Aggregated(form)) => Ok(aggregated(form, core())),
        (None, DiscoveryForm::Legacy) => Ok(plain(&legacy::versions(core(), address))),
        (Some(version), _) => {
            let found = core().find(|gv| gv.version == version).ok_or_else(Status::no_such_path)?;
            Ok(plain(&legacy::resources(found)))
        }
    }
}

/// `/apis`, `/apis/GROUP` and `/apis/GROUP/VERSION`.
pub(crate) fn groups(
    catalogue: &[GroupVersion],
    group: Option<&str>,
    version: Option<&str>,
    headers: &HeaderMap,
) -> Result<Response<Body>, Status> {
    let form = media::discovery_form(headers)?;
    let named = || catalogue.iter().filter(|gv| !gv.group.is_empty());
    let Some(group) = group else {
        return Ok(match form {
            DiscoveryForm::Aggregated(form) => aggregated(form, named()),
            DiscoveryForm::Legacy => plain(&legacy::group_list(named())),
        });
    };
    let mut of_group = named().filter(|gv| gv.group == group).peekable();
    if of_group.peek().is_none() {
        return Err(Status::no_such_path());
    }
    match version {
        None => Ok(plain(&legacy::group(group, of_group))),
        Some(version) => {
            let found = of_group.find(|gv| gv.version == version).ok_or_else(Status::no_such_path)?;
            Ok(plain(&legacy::resources(found)))
        }
    }
}

fn aggregated<'a>(form: &str, content: impl Iterator<Item = &'a GroupVersion>) -> Response<Body> {
    let mut response = plain(&aggregated::list(form, content));
    // Clients tell the forms apart by this header alone.
    let media = format!("application/json;g=apidiscovery.k8s.io;v={form};as=APIGroupDiscoveryList");
    if let Ok(media) = HeaderValue::from_str(&media) {
        response.headers_mut().insert(header::CONTENT_TYPE, media);
    }
    response
}

fn plain(value: &Value) -> Response<Body> {
    let mut response = body::json(StatusCode::OK, value);
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}

// === impl Entry ===

impl From<&'static Resource> for Entry {
    fn from(resource: &'static Resource) -> Self {
        Self {
            name: resource.plural.to_owned(),
            singular: resource.singular.to_owned(),
            kind: resource.kind.to_owned(),
            namespaced: resource.namespaced,
            verbs: resource.verbs.iter().map(|verb| (*verb).to_owned()).collect(),
            short_names: resource.short_names,
            categories: resource.categories,
            subresources: resource.subresources,
        }
    }
}

// === impl GroupVersion ===

impl GroupVersion {
    /// As in `apiVersion`.
    fn text(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }
}
