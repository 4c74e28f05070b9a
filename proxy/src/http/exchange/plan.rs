//! Before anything is sent: one form for the request, and a route.

use std::{net::IpAddr, sync::Arc};

use super::{Exchange, Reply, flags};
use crate::{
    http::{
        h1::framing::BodyLength,
        head::{Known, Version, tokens},
        manager::{Forwarded, ServerHeader},
    },
    route::{Action, Route},
};

impl Exchange<'_> {
    /// Cleans the request up and finds its route; a reply if it goes no further than here.
    pub(super) fn plan(&mut self, length: BodyLength) -> Result<Arc<Route>, Reply> {
        match self.cx.manager.path_rules.apply(self.request.target()) {
            Ok(None) => {}
            Ok(Some(normal)) => {
                let target = self.request.intern(&normal);
                self.request.set_target(target);
            }
            Err(_) => return Err(Reply::new(400, flags::DOWNSTREAM_PROTOCOL, "")),
        }
        let wanted = self.wanted_upgrade();
        self.wants_trailers = self
            .request
            .all_known(Known::Te)
            .flat_map(tokens)
            .any(|token| token.eq_ignore_ascii_case(b"trailers"));
        self.request.strip_hop_by_hop();
        self.add_request_fields();
        let cx = self.cx;
        let manager = &cx.manager;
        let table = manager.routes.get();
        let route = table.as_ref().and_then(|table| table.find(self.request, &self.cx.worker.random));
        let Some(route) = route.map(Arc::clone) else {
            manager.stats.at(self.cx.worker.index).no_route.add(1);
            return Err(Reply::new(404, flags::NO_ROUTE, ""));
        };
        self.record.route = Some(Arc::clone(&route));
        match &route.action {
            Action::Forward(forward) => {
                if let Some(protocol) = wanted {
                    let name = String::from_utf8_lossy(&protocol).to_ascii_lowercase();
                    let by_route = forward.upgrades.iter().find(|(upgrade, _)| *upgrade == name);
                    let allowed =
                        by_route.map_or_else(|| manager.upgrades.contains(&name), |(_, allowed)| *allowed);
                    // An upgrade with a body leaves open where the new protocol begins.
                    if !allowed || length != BodyLength::Empty {
                        return Err(Reply::new(403, flags::NONE, ""));
                    }
                    self.upgrade = Some(protocol);
                }
                Ok(route)
            }
            Action::Direct { status, body } => {
                let mut reply = Reply::new(*status, flags::NONE, "");
                reply.body = body.clone().into();
                reply.mutations = Some(Arc::clone(&route));
                Err(reply)
            }
            Action::Redirect(redirect) => {
                let mut reply = Reply::new(redirect.status, flags::NONE, "");
                reply.location =
                    Some(redirect.location(&route, self.request.authority(), self.request.target()));
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
            self.request.remove_known(|known| known == Known::XForwardedFor);
            self.request.append(b"x-forwarded-for", &[&chain, peer.as_bytes()].concat());
        }
        if use_remote_address {
            self.request.remove_known(|known| known == Known::XForwardedProto);
        }
        if self.request.known(Known::XForwardedProto).is_none() {
            self.request.append(b"x-forwarded-proto", b"http");
        }
        let rules = self.cx.manager.request_id;
        if rules.generate {
            let external = use_remote_address && !is_internal(peer);
            if external && !rules.preserve_external {
                self.request.remove_known(|known| known == Known::XRequestId);
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
                self.response.remove_known(|known| known == Known::Server);
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

/// Whether an address is one of a private network, as Envoy sees it.
fn is_internal(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_private() || address.is_loopback(),
        IpAddr::V6(address) => address.is_loopback() || address.is_unique_local(),
    }
}
