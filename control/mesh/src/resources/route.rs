//! Route configurations.

use std::time::Duration;

use weft_xds::pb::envoy::config::route::v3::{
    RetryPolicy, Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, route, route_action,
    route_match,
};

use super::{bool_value, duration, u32_value};
use crate::policy::ServicePolicy;

/// Failures after which another endpoint may be tried. Where the endpoint may have seen something of the request
/// (`reset`), our proxy tries again only if the method is idempotent.
const RETRY_ON: &str = "connect-failure,refused-stream,reset";

/// All requests of a service's port, to its cluster of the same name unless the service brings routes of its own.
pub fn service(name: &str, policy: &ServicePolicy) -> RouteConfiguration {
    if !policy.routes.is_empty() {
        return configuration(name, policy.routes.clone());
    }
    let retry = (policy.retries > 0).then(|| RetryPolicy {
        retry_on: RETRY_ON.to_owned(),
        num_retries: u32_value(policy.retries),
        ..RetryPolicy::default()
    });
    to_cluster(name, name, policy.request_timeout, retry)
}

/// All requests of an inbound port, to the workload. The client's side decides about retries and timeouts.
pub fn workload(name: &str, cluster: &str) -> RouteConfiguration {
    to_cluster(name, cluster, None, None)
}

fn to_cluster(
    name: &str,
    cluster: &str,
    timeout: Option<Duration>,
    retry_policy: Option<RetryPolicy>,
) -> RouteConfiguration {
    let route = Route {
        r#match: Some(RouteMatch {
            path_specifier: Some(route_match::PathSpecifier::Prefix("/".to_owned())),
            ..RouteMatch::default()
        }),
        action: Some(route::Action::Route(RouteAction {
            cluster_specifier: Some(route_action::ClusterSpecifier::Cluster(cluster.to_owned())),
            // Without it there is a limit of 15 s; zero means none.
            timeout: Some(duration(timeout.unwrap_or_default())),
            retry_policy,
            ..RouteAction::default()
        })),
        ..Route::default()
    };
    configuration(name, vec![route])
}

/// One virtual host for every name.
fn configuration(name: &str, routes: Vec<Route>) -> RouteConfiguration {
    RouteConfiguration {
        name: name.to_owned(),
        virtual_hosts: vec![VirtualHost {
            name: name.to_owned(),
            domains: vec!["*".to_owned()],
            routes,
            ..VirtualHost::default()
        }],
        // Cluster and route travel separately: a route may be there first.
        validate_clusters: bool_value(false),
        ..RouteConfiguration::default()
    }
}
