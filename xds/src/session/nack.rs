//! How refusals of single resources travel in one `google.rpc.Status`.
//!
//! The message is for people and for every xDS server. The details repeat it as one
//! `envoy.service.discovery.v3.ResourceError` per resource, so that our server knows that the others were accepted.

use crate::{
    any,
    pb::{
        envoy::service::discovery::v3::{ResourceError, ResourceName},
        google::rpc::Status,
    },
    resource::Rejected,
};

/// `google.rpc.Code.INVALID_ARGUMENT`
const INVALID_ARGUMENT: i32 = 3;

/// A message must not grow with the number of bad resources without bound; the details are complete.
const MAX_NAMED: usize = 20;

pub(super) fn to_status(rejected: &[Rejected]) -> Status {
    let mut named: Vec<_> = rejected.iter().take(MAX_NAMED).map(describe).collect();
    if rejected.len() > MAX_NAMED {
        named.push(format!("and {} more", rejected.len() - MAX_NAMED));
    }
    let details = rejected.iter().filter(|one| !one.name.is_empty()).map(|one| {
        any::pack(&ResourceError {
            resource_name: Some(ResourceName { name: one.name.clone(), ..Default::default() }),
            error_detail: Some(status(one.reason.clone())),
        })
    });
    Status { details: details.collect(), ..status(named.join("; ")) }
}

/// The resources that a refusal names; empty if it means the response as a whole or does not tell.
pub(super) fn from_status(status: &Status) -> Vec<Rejected> {
    let read = |detail| {
        let error: ResourceError = any::unpack(detail).ok()?;
        Some(Rejected {
            name: error.resource_name?.name,
            reason: error.error_detail.map(|status| status.message).unwrap_or_default(),
        })
    };
    status.details.iter().filter_map(read).collect()
}

fn describe(one: &Rejected) -> String {
    match one.name.as_str() {
        "" => one.reason.clone(),
        name => format!("{name}: {}", one.reason),
    }
}

fn status(message: String) -> Status {
    Status { code: INVALID_ARGUMENT, message, details: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refused_resource_is_read_back() {
        let rejected: Vec<_> =
            (0..30).map(|i| Rejected { name: format!("r{i}"), reason: "bad".into() }).collect();
        let status = to_status(&rejected);
        assert!(status.message.starts_with("r0: bad; r1: bad"));
        assert!(status.message.ends_with("and 10 more"));
        assert_eq!(from_status(&status), rejected);
    }

    #[test]
    fn a_refusal_of_the_whole_response_names_no_resource() {
        let status = to_status(&[Rejected { name: String::new(), reason: "twice the same".into() }]);
        assert_eq!(status.message, "twice the same");
        assert!(from_status(&status).is_empty());
    }
}
