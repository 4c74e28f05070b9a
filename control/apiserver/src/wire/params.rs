//! Query parameters.

use std::time::Duration;

use percent_encoding::percent_decode_str;
use weft_api::{
    registry::Resource,
    selector::{FieldSelector, LabelSelector},
    status::Status,
};
use weft_store::Revision;

/// What any watch lasts at most, so that every deadline is a time that there is; its client watches again.
const MAX_TIMEOUT: Duration = Duration::from_secs(86_400);

/// The parameters of a request, decoded, in their order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Params(Vec<(String, String)>);

/// What to do with fields that the kind does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    Strict,
    Warn,
    Ignore,
}

/// Parameters of every write.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WriteParams {
    pub(crate) dry_run: bool,
    pub(crate) field_validation: FieldValidation,
}

/// How the revision of a list is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RevisionMatch {
    /// What is newest now.
    Newest,
    /// Whatever is at hand.
    Any,
    NotOlderThan(Revision),
    Exact(Revision),
}

/// Parameters of lists and watches.
#[derive(Debug, Clone)]
pub(crate) struct ListParams {
    pub(crate) labels: LabelSelector,
    pub(crate) fields: FieldSelector,
    pub(crate) limit: Option<usize>,
    pub(crate) continue_token: Option<String>,
    pub(crate) revision: RevisionMatch,
    pub(crate) watch: bool,
    pub(crate) bookmarks: bool,
    pub(crate) initial_events: bool,
    pub(crate) timeout: Option<Duration>,
}

// === impl Params ===

impl Params {
    pub(crate) fn parse(query: Option<&str>) -> Self {
        let decode =
            |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
        let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(key), decode(value))
                })
                .collect(),
        )
    }

    /// The first value of a parameter; one that is empty counts as not given.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let mut values = self.0.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str());
        values.next().filter(|value| !value.is_empty())
    }

    /// Like Kubernetes: a parameter that is there without a value is set.
    pub(crate) fn flag(&self, name: &str) -> bool {
        let value = self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        value.is_some_and(|value| !matches!(value, "0" | "false" | "False" | "FALSE" | "f" | "F"))
    }

    pub(crate) fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, Status> {
        let parse = |text: &str| {
            text.parse()
                .map_err(|_| Status::bad_request(format!("invalid value {text:?} for parameter {name:?}")))
        };
        self.get(name).map(parse).transpose()
    }

    pub(crate) fn write(&self) -> Result<WriteParams, Status> {
        let dry_run = match self.get("dryRun") {
            None => false,
            Some("All") => true,
            Some(other) => {
                return Err(Status::unprocessable(format!(
                    "dryRun: Unsupported value: {other:?}: supported values: \"All\""
                )));
            }
        };
        let field_validation = match self.get("fieldValidation") {
            Some("Strict") => FieldValidation::Strict,
            // As kube-apiserver since 1.27.
            None | Some("Warn") => FieldValidation::Warn,
            Some("Ignore") => FieldValidation::Ignore,
            Some(other) => {
                return Err(Status::unprocessable(format!(
                    "fieldValidation: Unsupported value: {other:?}: supported values: \"Ignore\", \"Strict\", \"Warn\""
                )));
            }
        };
        Ok(WriteParams { dry_run, field_validation })
    }

    pub(crate) fn list(&self, resource: &Resource) -> Result<ListParams, Status> {
        let labels = LabelSelector::parse(self.get("labelSelector").unwrap_or_default())
            .map_err(|error| Status::bad_request(error.to_string()))?;
        let fields = FieldSelector::parse(self.get("fieldSelector").unwrap_or_default())
            .and_then(|fields| fields.check(resource).map(|()| fields))
            .map_err(|error| Status::bad_request(error.to_string()))?;
        let limit: Option<usize> = self.number("limit")?;
        Ok(ListParams {
            labels,
            fields,
            limit: limit.filter(|limit| *limit > 0),
            continue_token: self.get("continue").map(str::to_owned),
            revision: self.revision()?,
            watch: self.flag("watch"),
            bookmarks: self.flag("allowWatchBookmarks"),
            initial_events: self.flag("sendInitialEvents"),
            timeout: self
                .number("timeoutSeconds")?
                .filter(|seconds| *seconds > 0)
                .map(|seconds| Duration::from_secs(seconds).min(MAX_TIMEOUT)),
        })
    }

    /// The revision that is asked for, as Kubernetes' table of `resourceVersion` and `resourceVersionMatch` has it.
    pub(crate) fn revision(&self) -> Result<RevisionMatch, Status> {
        let text = self.get("resourceVersion");
        let revision: Option<Revision> = match text.map(str::parse) {
            Some(Err(_)) => {
                let text = text.unwrap_or_default();
                return Err(Status::bad_request(format!("resourceVersion: Invalid value: {text:?}")));
            }
            Some(Ok(revision)) => Some(revision),
            None => None,
        };
        let refused =
            |why: &str| Err(Status::unprocessable(format!("resourceVersionMatch: Forbidden: {why}")));
        match (self.get("resourceVersionMatch"), revision) {
            (None, None) => Ok(RevisionMatch::Newest),
            (None, Some(0)) | (Some("NotOlderThan"), Some(0)) => Ok(RevisionMatch::Any),
            (None, Some(revision)) | (Some("NotOlderThan"), Some(revision)) => {
                Ok(RevisionMatch::NotOlderThan(revision))
            }
            (Some("Exact"), Some(0)) => {
                refused("resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\"")
            }
            (Some("Exact"), Some(revision)) => Ok(RevisionMatch::Exact(revision)),
            // The start of a streaming list: as of the newest state.
            (Some("NotOlderThan"), None) if self.flag("sendInitialEvents") => Ok(RevisionMatch::Newest),
            (Some("Exact" | "NotOlderThan"), None) => {
                refused("resourceVersionMatch is forbidden unless resourceVersion is provided")
            }
            (Some(other), _) => Err(Status::unprocessable(format!(
                "resourceVersionMatch: Unsupported value: {other:?}: supported values: \"Exact\", \"NotOlderThan\""
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use weft_api::registry;

    use super::*;

    #[test]
    fn parameters_are_decoded_and_checked() {
        let pods = registry::find("", "v1", "pods").unwrap();
        let params =
            Params::parse(Some("labelSelector=app%3Dweb&limit=5&watch&timeoutSeconds=7&resourceVersion=9"));
        let list = params.list(pods).unwrap();
        assert_eq!((list.limit, list.watch, list.timeout), (Some(5), true, Some(Duration::from_secs(7))));
        assert_eq!(list.revision, RevisionMatch::NotOlderThan(9));
        let endless = Params::parse(Some("watch&timeoutSeconds=18446744073709551615")).list(pods).unwrap();
        assert_eq!(endless.timeout, Some(MAX_TIMEOUT));
        for (query, code) in [
            ("limit=x", 400),
            ("resourceVersion=x", 400),
            ("fieldSelector=spec.nope%3D1", 400),
            ("labelSelector=a%3D%3D%3Db", 400),
            ("resourceVersionMatch=Exact", 422),
            ("resourceVersionMatch=Soon&resourceVersion=1", 422),
        ] {
            assert_eq!(Params::parse(Some(query)).list(pods).unwrap_err().code, code, "{query}");
        }
        assert_eq!(Params::parse(Some("dryRun=Some")).write().unwrap_err().code, 422);
        assert!(Params::parse(Some("dryRun=All")).write().unwrap().dry_run);
    }
}
