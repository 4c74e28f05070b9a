//! `header_mutation`: fields added, replaced and removed, on the way in and on the way out.
//!
//! Source: Envoy's `envoy.extensions.filters.http.header_mutation.v3`.

use std::sync::Arc;

use weft_xds::{
    any,
    pb::envoy::{
        config::common::mutation_rules::v3::{HeaderMutation as ProtoChange, header_mutation::Action},
        extensions::filters::http::header_mutation::v3::{
            HeaderMutation as Proto, HeaderMutationPerRoute, Mutations as ProtoMutations,
        },
    },
};

use super::{Filter, Kind, Request, Response, Step};
use crate::{
    config::{ConfigError, Path, matcher, unsupported, value},
    http::head::Head,
    route::{
        matcher::TextMatch,
        mutate::{Addition, Scene},
    },
};

pub(super) const KIND: Kind = Kind {
    message: "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
    compile: |path, config, _| {
        let message = value::unpacked(path, any::unpack::<Proto>(config))?;
        Ok(Box::new(HeaderMutation {
            base: changes(&path.field("mutations"), message.mutations.as_ref())?,
            specific_last: message.most_specific_header_mutations_wins,
        }))
    },
    of_route: Some((
        "envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute",
        |path, config, _| {
            let message = value::unpacked(path, any::unpack::<HeaderMutationPerRoute>(config))?;
            Ok(Arc::new(changes(&path.field("mutations"), message.mutations.as_ref())?))
        },
    )),
};

/// The filter.
#[derive(Debug)]
struct HeaderMutation {
    base: Changes,
    /// Whether the most specific level is applied last, so that it wins; as in Envoy it is applied first by default.
    specific_last: bool,
}

/// What one level changes.
#[derive(Debug)]
struct Changes {
    request: Vec<Change>,
    response: Vec<Change>,
}

/// One change; they happen in order.
#[derive(Debug)]
enum Change {
    Remove(Vec<u8>),
    /// Every field whose name matches.
    RemoveMatching(TextMatch),
    Add(Addition),
}

// === impl HeaderMutation ===

impl Filter for HeaderMutation {
    fn on_request<'r>(&'r self, request: Request<'r>) -> Step<'r> {
        let scene = Scene::of_request(request.cx, request.record);
        apply(&self.base.request, request.head, &scene);
        self.each_level(request.own.all(), |level| apply(&level.request, request.head, &scene));
        Step::Continue
    }

    fn on_response(&self, response: Response<'_>) {
        let scene = Scene::of_response(response.cx, response.record, response.request);
        apply(&self.base.response, response.head, &scene);
        self.each_level(response.own.all(), |level| apply(&level.response, response.head, &scene));
    }
}

impl HeaderMutation {
    /// Does something with the levels of the route, in the order that is configured.
    fn each_level<'c>(
        &self,
        levels: impl DoubleEndedIterator<Item = &'c Changes>,
        change: impl FnMut(&'c Changes),
    ) {
        if self.specific_last { levels.for_each(change) } else { levels.rev().for_each(change) }
    }
}

fn apply(changes: &[Change], head: &mut Head, scene: &Scene<'_>) {
    for change in changes {
        match change {
            Change::Remove(name) => head.remove(name),
            Change::RemoveMatching(matcher) => head.remove_matching(|name| matcher.matches(name)),
            Change::Add(addition) => addition.apply(head, scene),
        }
    }
}

// === from the configuration ===

fn changes(path: &Path, message: Option<&ProtoMutations>) -> Result<Changes, ConfigError> {
    let message = message.ok_or_else(|| path.missing())?;
    unsupported!(path, message; query_parameter_mutations, response_trailers_mutations, request_trailers_mutations);
    let list = |name: &str, changes: &[ProtoChange]| {
        let changes = changes.iter().enumerate();
        let changes = changes.map(|(index, message)| change(&path.item(name, index), message));
        changes.collect::<Result<_, ConfigError>>()
    };
    Ok(Changes {
        request: list("request_mutations", &message.request_mutations)?,
        response: list("response_mutations", &message.response_mutations)?,
    })
}

fn change(path: &Path, message: &ProtoChange) -> Result<Change, ConfigError> {
    match message.action.as_ref().ok_or_else(|| path.field("append").missing())? {
        Action::Remove(name) => Ok(Change::Remove(value::removable(&path.field("remove"), name)?)),
        Action::Append(option) => Ok(Change::Add(value::addition(&path.field("append"), option)?)),
        Action::RemoveOnMatch(remove) => {
            let path = path.field("remove_on_match.key_matcher");
            let matcher = remove.key_matcher.as_ref().ok_or_else(|| path.missing())?;
            Ok(Change::RemoveMatching(matcher::text_match(&path, matcher)?))
        }
    }
}
