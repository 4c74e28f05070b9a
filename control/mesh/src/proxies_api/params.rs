//! Query parameters of lists and watches.

use std::time::Duration;

use percent_encoding::percent_decode_str;
use serde_json::json;
use weft_api::{selector::LabelSelector, status::Status};

use super::table::Include;

/// What any watch lasts at most, so that every deadline is a time that there is; its client watches again.
const MAX_TIMEOUT: Duration = Duration::from_secs(86_400);

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Params {
    pub(super) include: Include,
    pub(super) selection: Selection,
    pub(super) watch: bool,
    /// Where a watch starts; without, with everything that there is.
    pub(super) position: Option<u64>,
    pub(super) bookmarks: bool,
    /// Whether a watch that starts with everything says when that is over.
    pub(super) initial_events: bool,
    /// A day at most.
    pub(super) timeout: Option<Duration>,
}

/// Which proxies are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Selection {
    All,
    Named(String),
    /// Of labels, which proxies have none of.
    Nothing,
}

// === impl Params ===

impl Params {
    pub(super) fn parse(query: Option<&str>) -> Result<Self, Status> {
        let pairs: Vec<(String, String)> = query
            .unwrap_or_default()
            .split('&')
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .map(|(key, value)| (decoded(key), decoded(value)))
            .collect();
        let get = |name: &str| pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let given = |name: &str| get(name).filter(|value| !value.is_empty());
        // Like Kubernetes: a parameter that is there without a value is set.
        let flag =
            |name: &str| get(name).is_some_and(|value| !matches!(value, "0" | "false" | "False" | "f"));
        let number = |name: &str| {
            let wrong = |text| Status::bad_request(format!("invalid value {text:?} for parameter {name:?}"));
            given(name).map(|text| text.parse::<u64>().map_err(|_| wrong(text))).transpose()
        };
        let initial_events = flag("sendInitialEvents");
        Ok(Self {
            include: include(get("includeObject"))?,
            selection: selection(given("fieldSelector"), given("labelSelector"))?,
            watch: flag("watch"),
            position: number("resourceVersion")?.filter(|position| *position > 0 && !initial_events),
            bookmarks: flag("allowWatchBookmarks"),
            initial_events,
            timeout: number("timeoutSeconds")?
                .filter(|seconds| *seconds > 0)
                .map(|seconds| Duration::from_secs(seconds).min(MAX_TIMEOUT)),
        })
    }
}

// === impl Selection ===

impl Selection {
    pub(super) fn selects(&self, id: &str) -> bool {
        match self {
            Self::All => true,
            Self::Named(name) => name == id,
            Self::Nothing => false,
        }
    }
}

fn decoded(text: &str) -> String {
    percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()
}

fn include(text: Option<&str>) -> Result<Include, Status> {
    match text {
        None | Some("" | "Metadata") => Ok(Include::Metadata),
        Some("None") => Ok(Include::Nothing),
        Some("Object") => Ok(Include::Object),
        Some(other) => Err(Status::bad_request(format!(
            "invalid includeObject value: {other:?}, must be None, Metadata or Object"
        ))),
    }
}

fn selection(fields: Option<&str>, labels: Option<&str>) -> Result<Selection, Status> {
    if let Some(labels) = labels {
        let labels = LabelSelector::parse(labels).map_err(|error| Status::bad_request(error.to_string()))?;
        if !labels.matches_object(&json!({})) {
            return Ok(Selection::Nothing);
        }
    }
    let Some(fields) = fields else { return Ok(Selection::All) };
    let named = fields.strip_prefix("metadata.name=").map(|name| name.strip_prefix('=').unwrap_or(name));
    named.map(|name| Selection::Named(name.to_owned())).ok_or_else(|| {
        Status::bad_request(format!(
            "field selector {fields:?}: proxies are selected by metadata.name=NAME only"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_those_of_kubernetes() {
        let parse = |query| Params::parse(Some(query));
        let all = Params::parse(None).unwrap();
        assert_eq!((all.include, all.watch, all.position), (Include::Metadata, false, None));
        let watch =
            parse("watch=true&resourceVersion=17&timeoutSeconds=5&allowWatchBookmarks=1&includeObject=None");
        let watch = watch.unwrap();
        assert_eq!((watch.include, watch.watch, watch.position), (Include::Nothing, true, Some(17)));
        assert_eq!((watch.bookmarks, watch.timeout), (true, Some(Duration::from_secs(5))));
        assert_eq!(parse("watch&resourceVersion=0").unwrap().position, None);
        let endless = parse("watch=1&timeoutSeconds=18446744073709551615").unwrap();
        assert_eq!(endless.timeout, Some(MAX_TIMEOUT));
        assert!(!parse("watch=false").unwrap().watch);
        let one = parse("fieldSelector=metadata.name%3Dsidecar~default~a").unwrap().selection;
        assert!(one.selects("sidecar~default~a") && !one.selects("sidecar~default~b"));
        assert_eq!(parse("labelSelector=app%3Dweb").unwrap().selection, Selection::Nothing);
        assert_eq!(parse("labelSelector=%21app").unwrap().selection, Selection::All);
        for wrong in [
            "fieldSelector=status.state%3DStale",
            "resourceVersion=x",
            "includeObject=Some",
            "labelSelector=%3D",
        ] {
            assert_eq!(parse(wrong).unwrap_err().code, 400, "{wrong}");
        }
    }
}
