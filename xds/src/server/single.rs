//! The services of single types, which are the aggregated one restricted: on the wire they differ in nothing else.

use tonic::{
    Status,
    body::Body,
    codegen::http::{self, Uri, uri::PathAndQuery},
};

use crate::{any::type_name, resource::ResourceType};

/// Comes with a request to the service of this type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Only(ResourceType);

/// The methods of the aggregated service, by how those of the others begin.
const AGGREGATED: [(&str, &str); 2] = [
    ("Stream", "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"),
    ("Delta", "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"),
];

/// Has a request to the service of a single type go to the aggregated one, with the restriction beside it; others stay.
pub(super) fn redirect(request: &mut http::Request<Body>) {
    let Some((type_, method)) = find(request.uri().path()) else { return };
    let mut parts = request.uri().clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::from_static(method));
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
        request.extensions_mut().insert(Only(type_));
    }
}

fn find(path: &str) -> Option<(ResourceType, &'static str)> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    let type_ = ResourceType::ALL.into_iter().find(|type_| type_.grpc_service().0 == service)?;
    let variant = method.strip_suffix(type_.grpc_service().1)?;
    let (_, method) = AGGREGATED.into_iter().find(|(name, _)| *name == variant)?;
    (variant == "Delta" || type_.has_sotw()).then_some((type_, method))
}

// === impl Only ===

impl Only {
    /// Says of a request without a type which one is meant; one of another type is refused.
    pub(super) fn restrict(self, type_url: &mut String) -> Result<(), Status> {
        let expected = self.0.type_url();
        if type_url.is_empty() {
            expected.clone_into(type_url);
        } else if type_name(type_url) != type_name(expected) {
            return Err(Status::invalid_argument(format!(
                "this service has {expected} only, not {type_url}"
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_services_of_single_types_are_told_from_others() {
        let found = |path: &str| find(path).map(|(type_, method)| (type_, method.contains("/Delta")));
        let clusters = "/envoy.service.cluster.v3.ClusterDiscoveryService";
        let hosts = "/envoy.service.route.v3.VirtualHostDiscoveryService";
        assert_eq!(found(&format!("{clusters}/StreamClusters")), Some((ResourceType::Cluster, false)));
        assert_eq!(found(&format!("{clusters}/DeltaClusters")), Some((ResourceType::Cluster, true)));
        assert_eq!(found(&format!("{hosts}/DeltaVirtualHosts")), Some((ResourceType::VirtualHost, true)));
        for other in ["/FetchClusters", "/Clusters", "/StreamListeners", ""] {
            assert_eq!(found(&format!("{clusters}{other}")), None, "{other}");
        }
        assert_eq!(found(&format!("{hosts}/StreamVirtualHosts")), None);
        assert_eq!(found(AGGREGATED[0].1), None);
    }

    #[test]
    fn a_service_has_one_type() {
        let only = Only(ResourceType::Listener);
        let mut url = String::new();
        only.restrict(&mut url).expect("none is this one");
        assert_eq!(url, ResourceType::Listener.type_url());
        only.restrict(&mut url).expect("this one");
        only.restrict(&mut ResourceType::Cluster.type_url().to_owned()).expect_err("another one");
    }
}
