//! The client's end of the streams to a server, one after the other.
//!
//! # Guarantees
//! * What was accepted is remembered across streams: a delta server is told what the client has, and what a
//!   state-of-the-world server repeats unchanged is not handed out again.
//! * What was asked for by another name than its own is given under that name, and gone under it when it is gone
//!   (incremental).
//! * Resources that were not asked for are ignored, and the rest of the response is acknowledged.
//! * A response with the same name twice, or with a resource whose name cannot be read, is refused as a whole; a
//!   resource of the wrong type is refused alone.
//! * A refused resource keeps its last good version, and is offered again as soon as the server sends it.
//! * An acknowledgement that is held back holds back nothing else: what is wanted is asked for at once, and each other
//!   type is answered as always. A refusal is never held back; it comes after what was held back of its type.
//! * A resource with a time to live is gone when that is over, stream or not, unless the server sent it again or a sign
//!   of life: its name and version without a body. As in Envoy it is then as if the server had removed it, and a
//!   resource or sign of life that comes without a time has the resource live for ever.
//!
//! # Caveats
//! * Whether all of a type is wanted is read when it is first asked for on a stream.
//! * In the state of the world, each request for a type answers its last response. So one that asks for other names of it
//!   is the acknowledgement that was held back.
//! * What an earlier run kept lives until the server says otherwise: how long it had left is not known.

mod aliases;
mod delta;
mod lifetime;
mod sotw;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use self::aliases::Aliases;
pub use self::{delta::DeltaClient, sotw::SotwClient};
use super::Version;
use crate::{
    any::type_name,
    pb::google::protobuf::Any,
    resource::{Rejected, Resource, ResourceType, ResourceUpdate, Subscriptions},
};

/// The client's end in one variant of the protocol; see the [module](self).
///
/// The order of calls: [`open`](Self::open) for a new stream; then for each response [`receive`](Self::receive) and,
/// if that gave an update, [`answer`](Self::answer).
pub trait ClientSession: Send {
    /// What goes to the server.
    type Request: Send + 'static;
    /// What comes from it.
    type Response: Send + 'static;

    /// Takes note of what is in force of a type from an earlier run of the program: all of it, as it was accepted.
    ///
    /// Only before the first stream or between two, so that the next one tells the server. A version that is empty, of
    /// a resource or of the type, has the server send it anew.
    fn resume(&mut self, kept: &ResourceUpdate);

    /// The first requests of a new stream.
    fn open(&mut self, wanted: &Subscriptions) -> Vec<Self::Request>;

    /// Takes a response that came now.
    fn receive(&mut self, response: Self::Response, now: Instant) -> Received<Self::Request>;

    /// The requests that follow from what became of the update, if there is one that was not answered, and from what is
    /// now wanted.
    fn answer(&mut self, verdict: Result<(), Vec<Rejected>>, wanted: &Subscriptions) -> Vec<Self::Request>;

    /// The same for an update that was accepted, but that its acknowledgement waits for
    /// [`acknowledge`](Self::acknowledge), or for the end of the stream.
    fn hold_back(&mut self, wanted: &Subscriptions) -> Vec<Self::Request>;

    /// Whether acknowledgements of this type were held back.
    fn holds_back(&self, type_: ResourceType) -> bool;

    /// The acknowledgements of a type that were held back.
    fn acknowledge(&mut self, type_: ResourceType) -> Vec<Self::Request>;

    /// When the next resource expires, if any does.
    fn deadline(&self) -> Option<Instant>;

    /// What has expired by now, by type; to be applied, and followed by [`answer`](Self::answer) if a stream is open. Not
    /// between [`receive`](Self::receive) and its answer.
    fn expire(&mut self, now: Instant) -> Vec<ResourceUpdate>;
}

/// What a response was.
#[derive(Debug)]
pub enum Received<Request> {
    /// To be applied, then answered.
    Update(ResourceUpdate),
    /// Not usable; the refusal goes to the server.
    Refused {
        /// Of the response.
        type_: ResourceType,
        /// Why; without a name, as all of it is meant.
        rejected: Rejected,
        /// What goes to the server.
        answer: Request,
    },
    /// Of a type that was not asked for.
    Ignored(String),
}

const TYPES: usize = ResourceType::ALL.len();

/// What is held of one type; survives streams.
#[derive(Debug, Default)]
struct Held {
    /// Accepted resources.
    resources: BTreeMap<String, HeldResource>,
    /// The type's version in the last response that was accepted as a whole.
    version: String,
    /// Under which names they were asked for beside their own.
    aliases: Aliases,
    /// Whether any resource ever had a time to live: few servers give one, and most are not to pay for looking.
    mortal: bool,
}

#[derive(Debug)]
struct HeldResource {
    /// The server's name for it; empty in state-of-the-world mode.
    version: String,
    digest: Version,
    /// When it is gone without a further word; `None` for never.
    expires: Option<Instant>,
}

/// The name that stands for everything.
const WILDCARD: &str = "*";

/// What was asked for of one type on this stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Asked {
    all: bool,
    names: BTreeSet<String>,
    /// What names begin with, before their last slash, that are welcome without being asked for.
    namespaces: BTreeSet<String>,
}

/// An update that was handed out and is not answered yet.
#[derive(Debug)]
struct Pending {
    type_: ResourceType,
    nonce: String,
    version: String,
    upserts: Vec<(String, HeldResource)>,
    /// The other names that those of `upserts` were asked for by, where there are any.
    aliases: Vec<(String, Vec<String>)>,
    removed: Vec<String>,
    /// Refused before it was handed out.
    refused: Vec<Rejected>,
}

// === impl Held ===

impl Held {
    /// What is in force from an earlier run.
    fn resumed(kept: &ResourceUpdate) -> Self {
        let resources = kept.upserts.iter().map(|resource| (resource.name.clone(), held(resource, None)));
        Self { resources: resources.collect(), version: kept.version.clone(), ..Self::default() }
    }

    /// Takes over what was accepted of an update, and gives what was refused.
    fn settle(&mut self, pending: &mut Pending, verdict: Result<(), Vec<Rejected>>) -> Vec<Rejected> {
        let mut refused = std::mem::take(&mut pending.refused);
        refused.extend(verdict.err().into_iter().flatten());
        aliases::of_resources(&mut refused, &pending.aliases);
        let bad: BTreeSet<_> = refused.iter().map(|rejected| rejected.name.as_str()).collect();
        // A refusal without a name is of everything.
        if !bad.contains("") {
            for (name, held) in pending.upserts.drain(..).filter(|(name, _)| !bad.contains(name.as_str())) {
                self.resources.insert(name, held);
            }
            for name in pending.removed.iter().filter(|name| !bad.contains(name.as_str())) {
                self.resources.remove(name);
                self.aliases.remove(name);
            }
            for (name, aliases) in pending.aliases.drain(..).filter(|(name, _)| !bad.contains(name.as_str()))
            {
                self.aliases.add(&name, aliases);
            }
        }
        if refused.is_empty() {
            self.version.clone_from(&pending.version);
        }
        refused
    }

    fn retain(&mut self, asked: &Asked) {
        self.aliases.retain(&mut self.resources, asked);
    }
}

// === impl Asked ===

impl Asked {
    /// What of a type is wanted; `None` if nothing.
    fn from_wanted(type_: ResourceType, wanted: &Subscriptions) -> Option<Self> {
        let all = wanted.all(type_);
        let names = wanted.names(type_).cloned().unwrap_or_default();
        let namespaces = wanted.namespaces(type_).cloned().unwrap_or_default();
        let any = all || !names.is_empty() || !namespaces.is_empty();
        any.then_some(Self { all, names, namespaces })
    }

    fn covers(&self, name: &str) -> bool {
        self.all
            || self.names.contains(name)
            || name.rsplit_once('/').is_some_and(|(space, _)| self.namespaces.contains(space))
    }

    /// The names as they are told, where none are needed to ask for everything.
    fn spelled(&self) -> Vec<String> {
        let everything = (self.all && !self.names.is_empty()).then(|| WILDCARD.to_owned());
        everything.into_iter().chain(self.names.iter().cloned()).collect()
    }
}

/// Reads the names of what came without them, and sorts as [`check`] does.
pub(crate) fn sort(
    type_: ResourceType,
    bodies: Vec<Any>,
) -> Result<(Vec<Resource>, Vec<Rejected>), Rejected> {
    let resources: Result<Vec<_>, _> = bodies.into_iter().map(|body| sotw::unwrap(type_, body)).collect();
    check(type_, resources?.into_iter().filter_map(|item| item.resource))
}

/// Sorts the resources of a response: into those to hand out, and those to refuse one by one.
///
/// An error refuses the response.
fn check(
    type_: ResourceType,
    resources: impl IntoIterator<Item = Resource>,
) -> Result<(Vec<Resource>, Vec<Rejected>), Rejected> {
    let mut seen = BTreeSet::new();
    let (mut good, mut refused) = (Vec::new(), Vec::new());
    for resource in resources {
        if resource.name.is_empty() {
            return Err(whole(format!("a {type_} resource has no name")));
        }
        if !seen.insert(resource.name.clone()) {
            return Err(whole(format!("{type_} {:?} is there twice", resource.name)));
        }
        match wrong_type(type_, &resource.body) {
            Some(reason) => refused.push(Rejected { name: resource.name, reason }),
            None => good.push(resource),
        }
    }
    Ok((good, refused))
}

fn wrong_type(type_: ResourceType, body: &Any) -> Option<String> {
    let (found, expected) = (type_name(&body.type_url), type_name(type_.type_url()));
    (found != expected).then(|| format!("type is {found:?}, expected {expected:?}"))
}

fn whole(reason: String) -> Rejected {
    Rejected { name: String::new(), reason }
}

fn held(resource: &Resource, expires: Option<Instant>) -> HeldResource {
    HeldResource { version: resource.version.clone(), digest: Version::of_body(&resource.body), expires }
}
