//! Files that hold what a server would send: a `DiscoveryResponse`.

use std::path::Path;

use prost::Message as _;
use serde_json::Value;
use weft_kit::error::chain;

use crate::{
    json::{self, Format},
    pb::envoy::service::discovery::v3::DiscoveryResponse,
    resource::{Rejected, Resource, ResourceType},
    session::client::sort,
};

/// Why a file cannot be used, all of it.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Not a text.
    #[error("it is no UTF-8")]
    Text(#[source] std::str::Utf8Error),
    /// Not the document that its name promises.
    #[error("it is no DiscoveryResponse")]
    Parse(#[source] json::ConfigError),
    /// Not the message.
    #[error("it is no DiscoveryResponse")]
    Decode(#[source] prost::DecodeError),
    /// Its form is known to Envoy and not to us.
    #[error("the text form of protobuf is not supported")]
    TextForm,
    /// A resource has no name, or one that is there twice.
    #[error("{0}")]
    Resources(String),
}

/// What a file says.
#[derive(Debug)]
pub struct FileContent {
    /// `version_info`
    pub version: String,
    /// In the order of the file.
    pub resources: Vec<Resource>,
    /// Those of another type.
    pub rejected: Vec<Rejected>,
}

/// Reads a file with resources of one type. As in Envoy its name tells the form: `.pb` is the binary message, `.yaml`
/// and `.yml` are YAML, all others JSON.
pub fn read(type_: ResourceType, name: &Path, content: &[u8]) -> Result<FileContent, FileError> {
    let form = name.extension().and_then(|form| form.to_str()).unwrap_or_default().to_ascii_lowercase();
    let response = match form.as_str() {
        "pb" => DiscoveryResponse::decode(content).map_err(FileError::Decode)?,
        "pb_text" => return Err(FileError::TextForm),
        "yaml" | "yml" => parse(content, Format::Yaml)?,
        _ => parse(content, Format::Json)?,
    };
    let (resources, rejected) =
        sort(type_, response.resources).map_err(|error| FileError::Resources(error.reason))?;
    Ok(FileContent { version: response.version_info, resources, rejected })
}

fn parse(content: &[u8], format: Format) -> Result<DiscoveryResponse, FileError> {
    let text = std::str::from_utf8(content).map_err(FileError::Text)?;
    let value: Value = json::parse_value(text, format).map_err(FileError::Parse)?;
    json::from_json(&value).map_err(FileError::Parse)
}

// === impl FileError ===

impl FileError {
    /// With its causes, for people.
    pub fn describe(&self) -> String {
        chain(self).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{any, pb::envoy::config::cluster::v3::Cluster};

    const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";

    fn names(file: &str, content: &[u8]) -> Result<Vec<String>, FileError> {
        let content = read(ResourceType::Cluster, Path::new(file), content)?;
        assert!(content.rejected.is_empty());
        Ok(content.resources.into_iter().map(|resource| resource.name).collect())
    }

    #[test]
    fn the_same_is_read_from_each_form() {
        let yaml = format!("version_info: v1\nresources:\n- \"@type\": {CLUSTER}\n  name: a\n");
        let json =
            format!(r#"{{"version_info": "v1", "resources": [{{"@type": "{CLUSTER}", "name": "a"}}]}}"#);
        let cluster = Cluster { name: "a".into(), ..Cluster::default() };
        let binary =
            DiscoveryResponse { resources: vec![any::pack(&cluster)], ..DiscoveryResponse::default() };
        assert_eq!(names("x/cds.yaml", yaml.as_bytes()).expect("good"), ["a"]);
        assert_eq!(names("x/cds.YML", yaml.as_bytes()).expect("good"), ["a"]);
        assert_eq!(names("x/cds.json", json.as_bytes()).expect("good"), ["a"]);
        assert_eq!(names("x/cds.conf", json.as_bytes()).expect("good"), ["a"]);
        assert_eq!(names("x/cds.pb", &binary.encode_to_vec()).expect("good"), ["a"]);
        let version =
            read(ResourceType::Cluster, Path::new("a.yaml"), yaml.as_bytes()).expect("good").version;
        assert_eq!(version, "v1");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let error =
            |file: &str, content: &str| names(file, content.as_bytes()).expect_err(content).describe();
        assert!(error("a.json", "{").contains("line 1"));
        assert!(error("a.yaml", "resource: []").contains("resource"));
        let wrong = format!("resources: [{{ \"@type\": {CLUSTER}, name: a, nam: b }}]");
        assert!(error("a.yaml", &wrong).contains("nam"), "{}", error("a.yaml", &wrong));
        let twice =
            format!("resources: [{{ \"@type\": {CLUSTER}, name: a }}, {{ \"@type\": {CLUSTER}, name: a }}]");
        assert!(error("a.yaml", &twice).contains("there twice"));
        assert!(error("a.pb", "garbage").contains("DiscoveryResponse"));
        assert!(error("a.pb_text", "").contains("text form"));
    }

    #[test]
    fn one_of_another_type_is_refused_alone() {
        let other = "type.googleapis.com/envoy.config.listener.v3.Listener";
        let yaml =
            format!("resources: [{{ \"@type\": {CLUSTER}, name: a }}, {{ \"@type\": {other}, name: b }}]");
        let content = read(ResourceType::Cluster, Path::new("a.yaml"), yaml.as_bytes()).expect("good");
        assert_eq!((content.resources.len(), content.rejected.len()), (1, 1));
        assert_eq!(content.rejected[0].name, "b");
    }
}
