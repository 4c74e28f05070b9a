//! What a client keeps on disk of one type, to start from when its server is away.
//!
//! A line of JSON says what the file is; a `DeltaDiscoveryResponse` with everything in force follows.
//!
//! # Guarantees
//! * A file that is cut, changed, of another node or of another type is told from a good one, and nothing of it is used.
//! * What another version of the program kept is used without the server's versions, so that the server sends it anew:
//!   this program may understand more of it than what the other one wrote down.

use prost::Message as _;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh64::Xxh64;

use crate::{
    pb::envoy::service::discovery::v3::{DeltaDiscoveryResponse, Resource as Wrapped},
    resource::{Resource, ResourceType, ResourceUpdate},
};

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// Its first line is not what we write.
    #[error("it does not begin as a kept configuration does")]
    Header(#[source] Option<serde_json::Error>),
    /// Written by a program that we know nothing of.
    #[error("its format is {0}, ours is {FORMAT}")]
    Format(u32),
    /// It is about something else.
    #[error("it is of {found:?}, not of {expected:?}")]
    Other {
        /// Node or type in the file.
        found: String,
        /// Ours.
        expected: String,
    },
    /// It is not as it was written.
    #[error("it is damaged")]
    Damaged,
    /// Written as it is, and still no message.
    #[error("it holds no resources")]
    Decode(#[source] prost::DecodeError),
}

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    format: u32,
    program: String,
    node: String,
    type_url: String,
    /// Who gave it; empty for the aggregated stream.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    server: String,
    /// Of what follows the line.
    length: usize,
    /// Over the fields before and what follows the line.
    xxh64: String,
}

const FORMAT: u32 = 1;
const PROGRAM: &str = env!("CARGO_PKG_VERSION");

/// The file's content: all of a type that is in force at the node of this id, and came from this server, which is empty for
/// the aggregated stream.
pub fn write(kept: &ResourceUpdate, node: &str, server: &str) -> Vec<u8> {
    let wrapped = |resource: &Resource| Wrapped {
        name: resource.name.clone(),
        version: resource.version.clone(),
        resource: Some(resource.body.clone()),
        ..Wrapped::default()
    };
    let body = DeltaDiscoveryResponse {
        system_version_info: kept.version.clone(),
        resources: kept.upserts.iter().map(wrapped).collect(),
        type_url: kept.type_.type_url().to_owned(),
        ..DeltaDiscoveryResponse::default()
    }
    .encode_to_vec();
    let mut header = Header {
        format: FORMAT,
        program: PROGRAM.to_owned(),
        node: node.to_owned(),
        type_url: kept.type_.type_url().to_owned(),
        server: server.to_owned(),
        length: body.len(),
        xxh64: String::new(),
    };
    header.xxh64 = header.digest(&body);
    let mut file = serde_json::to_vec(&header).expect("texts and numbers have a JSON form");
    file.push(b'\n');
    file.extend(body);
    file
}

/// What a file holds that must be of this type, node and server.
pub fn read(type_: ResourceType, node: &str, server: &str, file: &[u8]) -> Result<ResourceUpdate, KeptError> {
    let end = file.iter().position(|byte| *byte == b'\n').ok_or(KeptError::Header(None))?;
    let (line, body) = (&file[..end], &file[end + 1..]);
    let header: Header = serde_json::from_slice(line).map_err(|error| KeptError::Header(Some(error)))?;
    if header.format != FORMAT {
        return Err(KeptError::Format(header.format));
    }
    if header.length != body.len() || header.xxh64 != header.digest(body) {
        return Err(KeptError::Damaged);
    }
    let is = [(&header.node, node), (&header.type_url, type_.type_url()), (&header.server, server)];
    for (found, expected) in is {
        if found != expected {
            return Err(KeptError::Other { found: found.clone(), expected: expected.to_owned() });
        }
    }
    let response = DeltaDiscoveryResponse::decode(body).map_err(KeptError::Decode)?;
    let ours = header.program == PROGRAM;
    let version = |version: String| if ours { version } else { String::new() };
    let resources = response.resources.into_iter().filter_map(|wrapped| {
        Some(Resource {
            name: wrapped.name,
            version: version(wrapped.version),
            body: wrapped.resource?,
            caused_at: None,
            aliases: Vec::new(),
        })
    });
    let upserts = resources.collect();
    Ok(ResourceUpdate { type_, version: version(response.system_version_info), upserts, removed: Vec::new() })
}

// === impl Header ===

impl Header {
    fn digest(&self, body: &[u8]) -> String {
        let mut hasher = Xxh64::new(u64::from(self.format));
        // As it was before there were others than the aggregated stream.
        let server = Some(&self.server).filter(|server| !server.is_empty());
        for field in [&self.program, &self.node, &self.type_url].into_iter().chain(server) {
            hasher.update(field.as_bytes());
            hasher.update(b"\n");
        }
        hasher.update(body);
        format!("{:016x}", hasher.digest())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::google::protobuf::Any;

    const TYPE: ResourceType = ResourceType::Cluster;

    fn kept() -> ResourceUpdate {
        let resource = |name: &str, version: &str| Resource {
            name: name.into(),
            version: version.into(),
            body: Any { type_url: TYPE.type_url().into(), value: name.as_bytes().to_vec() },
            caused_at: None,
            aliases: Vec::new(),
        };
        let upserts = vec![resource("a", "1"), resource("b", "")];
        ResourceUpdate { type_: TYPE, version: "v2".into(), upserts, removed: Vec::new() }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let file = write(&kept(), "one", "");
        assert_eq!(read(TYPE, "one", "", &file).expect("good"), kept());
        let line = String::from_utf8_lossy(&file).lines().next().expect("a line").to_owned();
        assert!(line.contains(r#""format":1"#) && line.contains(r#""node":"one""#), "{line}");
    }

    #[test]
    fn a_file_of_another_server_is_not_used() {
        let file = write(&kept(), "one", "a");
        assert_eq!(read(TYPE, "one", "a", &file).expect("good"), kept());
        assert!(matches!(read(TYPE, "one", "b", &file), Err(KeptError::Other { .. })));
        assert!(matches!(read(TYPE, "one", "", &file), Err(KeptError::Other { .. })));
        for bit in 0..file.len() * 8 {
            let mut flipped = file.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(
                read(TYPE, "one", "a", &flipped).is_err(),
                "bit {bit}: {}",
                String::from_utf8_lossy(&flipped)
            );
        }
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_noticed() {
        let file = write(&kept(), "one", "");
        for length in 0..file.len() {
            assert!(read(TYPE, "one", "", &file[..length]).is_err(), "cut at {length}");
        }
        for bit in 0..file.len() * 8 {
            let mut flipped = file.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            // The letters of a field's name may be of either case for nobody: each flip is an error.
            assert!(
                read(TYPE, "one", "", &flipped).is_err(),
                "bit {bit}: {}",
                String::from_utf8_lossy(&flipped)
            );
        }
    }

    #[test]
    fn a_file_of_another_node_type_or_format_is_not_used() {
        let file = write(&kept(), "one", "");
        assert!(matches!(read(TYPE, "two", "", &file), Err(KeptError::Other { .. })));
        assert!(matches!(read(ResourceType::Listener, "one", "", &file), Err(KeptError::Other { .. })));
        let text = |text: &str| text.as_bytes().to_vec();
        assert!(matches!(read(TYPE, "one", "", b""), Err(KeptError::Header(None))));
        assert!(matches!(read(TYPE, "one", "", &text("{}\n")), Err(KeptError::Header(Some(_)))));
        let end = file.iter().position(|byte| *byte == b'\n').expect("a line");
        let later = String::from_utf8_lossy(&file[..end]).replace("\"format\":1", "\"format\":2");
        let later = [later.as_bytes(), &file[end..]].concat();
        assert!(matches!(read(TYPE, "one", "", &later), Err(KeptError::Format(2))));
    }

    #[test]
    fn what_another_version_of_the_program_kept_has_no_versions() {
        let file = write(&kept(), "one", "");
        let end = file.iter().position(|byte| *byte == b'\n').expect("a line");
        let mut header: Header = serde_json::from_slice(&file[..end]).expect("ours");
        header.program = "0.0.1".into();
        header.xxh64 = header.digest(&file[end + 1..]);
        let line = serde_json::to_vec(&header).expect("JSON");
        let got = read(TYPE, "one", "", &[&line, &file[end..]].concat()).expect("good");
        assert_eq!((got.version.as_str(), got.upserts.len()), ("", 2));
        assert!(got.upserts.iter().all(|resource| resource.version.is_empty()));
    }
}
