//! Before anything is sent: one form for the request, and a route.

use std::{net::IpAddr, sync::Arc};

use super::{Exchange, Reason, Reply};
use crate::{
    http::{
        h1::framing::BodyLength,
        head::{Known, Method, Version, tokens},
        manager::{Forwarded, ServerHeader, Underscores},
    },
    overload,
    route::{Action, Route, Target, WeightedCluster, matcher::Asked},
};

impl Exchange<'_> {
    /// Cleans the request up and finds its route, if there is one; a reply if it goes no further than here.
    pub(super) fn plan(&mut self) -> Result<(), Reply> {
        let worker = &self.cx.worker;
        if worker.shared.overload.wants(overload::Action::StopAcceptingRequests, &worker.random) {
            self.cx.manager.stats.at(worker.index).rq_overload_close.add(1);
            return Err(Reply::new(503, Reason::Overload, "envoy overloaded"));
        }
        match self.cx.manager.path_rules.apply(self.request.target()) {
            // A CONNECT has no path.
            _ if self.method == Method::Connect => {}
            Ok(None) => {}
            Ok(Some(normal)) => {
                let target = self.request.intern(&normal);
                self.request.set_target(target);
            }
            Err(_) => {
                self.close = true;
                return Err(Reply::new(400, Reason::PathNormalization, ""));
            }
        }
        let underscores = self.cx.manager.underscores;
        if underscores != Underscores::Allow
            && self.request.remove_underscored()
            && underscores == Underscores::Reject
        {
            self.close = true;
            return Err(Reply::new(400, Reason::UnexpectedUnderscore, ""));
        }
        self.upgrade = if self.method == Method::Connect {
            // Whatever the answer is, what follows on this connection may not be HTTP.
            self.close = true;
            Some(b"connect".to_vec())
        } else {
            self.wanted_upgrade()
        };
        self.wants_trailers = self
            .request
            .all_known(Known::Te)
            .flat_map(tokens)
            .any(|token| token.eq_ignore_ascii_case(b"trailers"));
        if !self.request.strip_hop_by_hop() {
            self.close = true;
            return Err(Reply::new(400, Reason::ConnectionNomination, ""));
        }
        self.add_request_fields();
        self.find_route();
        Ok(())
    }

    /// Finds the route of the request as it is, and draws one of its clusters if it has several.
    pub(super) fn find_route(&mut self) {
        let cx = self.cx;
        let table = cx.manager.routes.table(self.request);
        // As in Envoy, nobody is inside unless configured to be, and that is not supported.
        if self.followed.is_none() {
            table.iter().flat_map(|table| &table.internal_only).for_each(|field| self.request.remove(field));
        }
        let asked = Asked {
            head: self.request,
            certificate: cx.is_mesh_peer(),
            random: &cx.worker.random,
            runtime: &cx.worker.shared.runtime,
            parameters: true,
        };
        let route = table.as_ref().and_then(|table| table.find(&asked));
        self.record.route = route.map(Arc::clone);
        if let Some(Action::Forward(forward)) = route.map(|route| &route.action)
            && let Target::Weighted { total, clusters, by } = &forward.target
        {
            let by = by.as_ref().and_then(|field| self.request.get(field));
            let number = by.and_then(|text| std::str::from_utf8(text).ok()?.trim().parse::<u64>().ok());
            let runtime = &cx.worker.shared.runtime;
            let weight = |cluster: &WeightedCluster| {
                let keyed = cluster.key.as_ref().and_then(|key| runtime.integer(key));
                keyed.map_or(cluster.weight, |weight| u32::try_from(weight).unwrap_or(u32::MAX))
            };
            let keyed = clusters.iter().any(|cluster| cluster.key.is_some());
            let sum = keyed.then(|| clusters.iter().map(|cluster| u64::from(weight(cluster))).sum());
            let total = sum.filter(|sum| *sum > 0).unwrap_or(u64::from(*total));
            let point = match number {
                Some(number) => number % total,
                None => cx.worker.random.below(total as usize) as u64,
            };
            self.weighted = if sum.is_some_and(|sum| sum > 0) {
                draw(clusters, point, weight)
            } else {
                draw(clusters, point, |cluster| cluster.weight)
            };
        }
    }

    /// What the route wants done, once the filters have let the request pass; a reply if that is an answer.
    pub(super) fn decide(&mut self, length: BodyLength) -> Result<Arc<Route>, Reply> {
        let cx = self.cx;
        let manager = &cx.manager;
        let Some(route) = self.record.route.as_ref().map(Arc::clone) else {
            manager.stats.at(cx.worker.index).no_route.add(1);
            return Err(Reply::new(404, Reason::RouteNotFound, ""));
        };
        match &route.action {
            Action::Forward(forward) => {
                if let Some(protocol) = &self.upgrade {
                    let name = String::from_utf8_lossy(protocol).to_ascii_lowercase();
                    let by_route = forward.upgrades.iter().find(|(upgrade, _)| *upgrade == name);
                    let allowed =
                        by_route.map_or_else(|| manager.upgrades.contains(&name), |(_, allowed)| *allowed);
                    // An upgrade with a body leaves open where the new protocol begins.
                    if !allowed || length != BodyLength::Empty {
                        // What follows may be the other protocol already.
                        self.close = true;
                        return Err(Reply::new(403, Reason::UpgradeFailed, ""));
                    }
                }
                Ok(route)
            }
            Action::Direct { status, body } => {
                let mut reply = Reply::new(*status, Reason::DirectResponse, "");
                reply.body = body.clone().into();
                reply.mutations = Some(Arc::clone(&route));
                Err(reply)
            }
            Action::Redirect(redirect) => {
                let mut reply = Reply::new(redirect.status, Reason::DirectResponse, "");
                let location = redirect.location(
                    &route,
                    self.cx.tls.is_some(),
                    self.request.authority(),
                    self.request.target(),
                );
                reply.fields.push((b"location", location));
                reply.mutations = Some(Arc::clone(&route));
                Err(reply)
            }
        }
    }

    /// The protocol of an `Upgrade` that must be answered one way or the other. `h2c` is ignored, as RFC 9113 wants.
    fn wanted_upgrade(&self) -> Option<Vec<u8>> {
        if self.version != Version::Http11 {
            return None;
        }
        let protocol = self.request.known(Known::Upgrade)?;
        let asked = self
            .request
            .all_known(Known::Connection)
            .flat_map(tokens)
            .any(|token| token.eq_ignore_ascii_case(b"upgrade"));
        let protocol = tokens(protocol).find(|token| {
            !token.eq_ignore_ascii_case(b"h2c") && token.iter().all(|byte| byte.is_ascii_graphic())
        })?;
        asked.then(|| protocol.to_vec())
    }

    /// Adds what upstreams are to know about the client. Runs after the hop-by-hop fields are gone, so that no client
    /// can nominate these away.
    fn add_request_fields(&mut self) {
        let Forwarded { use_remote_address, skip_append } = self.cx.manager.forwarded;
        let peer = self.cx.peer.ip().to_canonical();
        if use_remote_address && !skip_append {
            let peer = peer.to_string();
            let chain = self.request.all_known(Known::XForwardedFor).fold(Vec::new(), |mut chain, value| {
                chain.extend_from_slice(value);
                chain.extend_from_slice(b",");
                chain
            });
            self.request.remove_known(Known::XForwardedFor);
            self.request.append(b"x-forwarded-for", &[&chain, peer.as_bytes()].concat());
        }
        if use_remote_address {
            self.request.remove_known(Known::XForwardedProto);
        }
        if self.request.known(Known::XForwardedProto).is_none() {
            let scheme: &[u8] = if self.cx.tls.is_some() { b"https" } else { b"http" };
            self.request.append(b"x-forwarded-proto", scheme);
        }
        self.add_client_certificate();
        let rules = self.cx.manager.request_id;
        if rules.generate {
            let external = use_remote_address && !is_internal(peer);
            if external && !rules.preserve_external {
                self.request.remove_known(Known::XRequestId);
            }
            if self.request.known(Known::XRequestId).is_none() {
                let id = self.cx.worker.random_uuid();
                self.request.append(b"x-request-id", &id);
            }
        }
    }

    /// Adds what clients are to know about us.
    pub(super) fn add_response_fields(&mut self) {
        let cx = self.cx;
        let manager = &cx.manager;
        if self.response.known(Known::Date).is_none() {
            cx.worker.with_date(|date| self.response.append(b"date", date));
        }
        match manager.server_header {
            ServerHeader::Overwrite => {
                self.response.remove_known(Known::Server);
                self.response.append(b"server", &manager.server_name);
            }
            ServerHeader::AppendIfAbsent if self.response.known(Known::Server).is_none() => {
                self.response.append(b"server", &manager.server_name);
            }
            ServerHeader::AppendIfAbsent | ServerHeader::PassThrough => {}
        }
        if manager.request_id.in_response
            && let Some(id) = self.request.known(Known::XRequestId)
        {
            let id = id.to_vec();
            self.response.append(b"x-request-id", &id);
        }
    }
}

/// Which cluster a number below the sum of the weights falls on.
fn draw(clusters: &[WeightedCluster], mut point: u64, weight: impl Fn(&WeightedCluster) -> u32) -> usize {
    clusters
        .iter()
        .position(|cluster| {
            let weight = u64::from(weight(cluster));
            let here = point < weight;
            point = point.saturating_sub(weight);
            here
        })
        .unwrap_or(0)
}

/// Whether an address is one of a private network, as Envoy sees it.
pub(crate) fn is_internal(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_private() || address.is_loopback(),
        IpAddr::V6(address) => address.is_loopback() || address.is_unique_local(),
    }
}
