//! `on_demand`: holds a request for a host or a cluster that is not known until its server was asked (VHDS, ODCDS).
//!
//! Source: Envoy's `envoy.extensions.filters.http.on_demand.v3`. As there, a request whose host came passes all filters
//! from the first one on, with its route.

use std::{sync::Arc, time::Duration};

use weft_xds::{
    any,
    pb::envoy::{
        config::core::v3::config_source::ConfigSourceSpecifier,
        extensions::filters::http::on_demand::v3::{OnDemand as Proto, OnDemandCds, PerRouteConfig},
    },
};

use super::{Filter, Kind, Request, Step};
use crate::{
    config::{ConfigError, Path, unsupported, value},
    http::exchange::{Reason, Reply},
    route::demand::Answer,
};

pub(super) const KIND: Kind = Kind {
    message: "envoy.extensions.filters.http.on_demand.v3.OnDemand",
    compile: |path, config, _| {
        let message = value::unpacked(path, any::unpack::<Proto>(config))?;
        Ok(Box::new(OnDemand { clusters: clusters(path, message.odcds.as_ref())? }))
    },
    of_route: Some(("envoy.extensions.filters.http.on_demand.v3.PerRouteConfig", |path, config, _| {
        let message = value::unpacked(path, any::unpack::<PerRouteConfig>(config))?;
        Ok(Arc::new(clusters(path, message.odcds.as_ref())?))
    })),
};

/// Envoy's.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The filter.
#[derive(Debug)]
struct OnDemand {
    clusters: Clusters,
}

/// Whether clusters are asked for, and how long one is waited for.
#[derive(Debug, Clone, Copy)]
struct Clusters(Option<Duration>);

// === impl OnDemand ===

impl Filter for OnDemand {
    fn on_request<'r>(&'r self, request: Request<'r>) -> Step<'r> {
        if request.route.is_none() {
            return wait_for_host(request);
        }
        let Clusters(timeout) = request.own.most_specific::<Clusters>().copied().unwrap_or(self.clusters);
        let Some(timeout) = timeout else { return Step::Continue };
        let Some(name) = request.missing_cluster() else { return Step::Continue };
        match request.cx.worker.shared.wanted_clusters.ask(name) {
            None => Step::Continue,
            // Whatever the answer is: the router says what there is to say about a cluster that is not there.
            Some(answer) => Step::Wait(Box::pin(async move {
                wait(answer, Some(timeout)).await;
                Ok(())
            })),
        }
    }
}

fn wait_for_host(request: Request<'_>) -> Step<'_> {
    let Some(table) = request.cx.manager.routes.table(request.head) else { return Step::Continue };
    let Some(on_demand) = &table.on_demand else { return Step::Continue };
    let authority = request.head.authority();
    // There is one, and it has no route for this request.
    if table.has_host(authority) {
        return Step::Continue;
    }
    let Some(answer) = on_demand.ask(&table.host(authority)) else {
        // It may have come since the look above.
        return look_again(request).map_or_else(Step::Reply, |()| Step::Continue);
    };
    Step::Wait(Box::pin(async move {
        wait(answer, request.cx.manager.timeouts.stream_idle).await;
        look_again(request)
    }))
}

/// Has the request begin anew if there is a host for it by now.
fn look_again(request: Request<'_>) -> Result<(), Box<Reply>> {
    let table = request.cx.manager.routes.table(request.head);
    if !table.is_some_and(|table| table.has_host(request.head.authority())) {
        return Ok(());
    }
    request.record.look_again = true;
    Err(Box::new(Reply::new(404, Reason::RouteNotFound, "")))
}

/// What does not come in time is not there.
async fn wait(answer: Answer, patience: Option<Duration>) {
    match patience {
        Some(patience) => drop(tokio::time::timeout(patience, answer.known()).await),
        None => answer.known().await,
    }
}

fn clusters(path: &Path, message: Option<&OnDemandCds>) -> Result<Clusters, ConfigError> {
    let Some(message) = message else { return Ok(Clusters(None)) };
    let path = path.field("odcds");
    unsupported!(path, message; resources_locator);
    let source = path.field("source");
    match message.source.as_ref().and_then(|source| source.config_source_specifier.as_ref()) {
        Some(ConfigSourceSpecifier::Ads(_) | ConfigSourceSpecifier::Self_(_)) => {}
        Some(_) => return Err(source.error("only ads is supported")),
        None => return Err(source.missing()),
    }
    let timeout = value::maybe_duration(&path.field("timeout"), message.timeout.as_ref())?;
    Ok(Clusters(Some(timeout.unwrap_or(TIMEOUT))))
}
