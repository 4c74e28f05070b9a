//! Virtual hosts that come by themselves, for route tables that say so (VHDS).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use weft_xds::pb::envoy::config::route::v3::{RouteConfiguration, VirtualHost};

use super::State;
use crate::{
    config::{ConfigError, Path, route},
    route::demand::OnDemand,
};

impl State {
    /// Compiles a route table with the virtual hosts that came for it.
    pub(super) fn compile_routes(
        &mut self,
        path: &Path,
        message: &RouteConfiguration,
    ) -> Result<crate::route::table::RouteTable, ConfigError> {
        if message.vhds.is_none() {
            return route::compile(path, message, &mut self.names);
        }
        if !self.incremental {
            return Err(path.field("vhds.config_source").error("needs an incremental stream (DELTA_GRPC)"));
        }
        let hosts: Vec<&VirtualHost> =
            hosts_of(&self.virtual_hosts, &message.name).map(|(_, host)| host).collect();
        let demand = Arc::clone(&self.names.demand);
        let mut table = route::compile_with_hosts(path, message, &hosts, &mut self.names)?;
        table.on_demand = Some(OnDemand { table: message.name.as_str().into(), demand });
        Ok(table)
    }

    /// Takes over a virtual host; its table has it after [`place_virtual_hosts`](Self::place_virtual_hosts).
    pub(super) fn set_virtual_host(
        &mut self,
        path: &Path,
        name: &str,
        message: VirtualHost,
        changed: &mut BTreeSet<String>,
    ) -> Result<(), ConfigError> {
        let Some((table, _)) = name.rsplit_once('/') else {
            return Err(path.field("name").error("must be the name of a route table, a slash and a host"));
        };
        for routes in self.routes.values().filter(|routes| routes.name == table && routes.vhds.is_some()) {
            route::check_host(path, routes, &message, &mut self.names)?;
            let known = routes.virtual_hosts.iter();
            let others = hosts_of(&self.virtual_hosts, table).filter(|(other, _)| *other != name);
            let known = known.chain(others.map(|(_, host)| host));
            let taken: BTreeSet<_> =
                known.flat_map(|host| &host.domains).map(|domain| domain.to_ascii_lowercase()).collect();
            let twice = message.domains.iter().find(|domain| taken.contains(&domain.to_ascii_lowercase()));
            if let Some(domain) = twice {
                return Err(path
                    .field("domains")
                    .error(format!("domain {domain:?} is in more than one place")));
            }
        }
        changed.insert(table.to_owned());
        self.virtual_hosts.insert(name.to_owned(), message);
        Ok(())
    }

    /// It does not exist, or not any more.
    pub(super) fn remove_virtual_host(&mut self, name: &str, changed: &mut BTreeSet<String>) {
        if self.virtual_hosts.remove(name).is_some()
            && let Some((table, _)) = name.rsplit_once('/')
        {
            changed.insert(table.to_owned());
        }
        self.names.demand.absent(name);
    }

    /// Puts in place the tables of which virtual hosts came or went, and tells who waits for these.
    pub(super) fn place_virtual_hosts(&mut self, changed: &BTreeSet<String>) {
        let open = self.open_tables();
        for (key, _) in open.iter().filter(|(_, table)| changed.contains(*table)) {
            let Some(message) = self.routes.remove(key) else { continue };
            match self.compile_routes(&Path::root("route").field(key), &message) {
                Ok(table) => self.names.known_route(key.clone()).set(Some(Arc::new(table))),
                // Each host was looked at by itself; what remains is that two do not go together.
                Err(error) => tracing::error!(routes = key, %error, "virtual hosts not put in place"),
            }
            self.routes.insert(key.clone(), message);
        }
        for (key, mut next) in std::mem::take(&mut self.next_routes) {
            if next.message.vhds.is_some() && changed.contains(&next.message.name) {
                match self.compile_routes(&Path::root("route").field(&key), &next.message) {
                    Ok(table) => next.table = table,
                    Err(error) => tracing::error!(routes = key, %error, "virtual hosts not put in place"),
                }
            }
            self.next_routes.insert(key, next);
        }
        for name in self.names.demand.waited() {
            let Some((table, host)) = name.rsplit_once('/') else { continue };
            let keys = open.iter().filter(|(_, name)| *name == table);
            for (key, _) in keys {
                let routes = self.names.known_route(key.clone()).get();
                let has = routes.is_some_and(|routes| routes.has_host(host.as_bytes()));
                // One that came and is not for its own name will not be for it by waiting.
                if has || self.virtual_hosts.contains_key(&name) {
                    self.names.demand.found(&name);
                }
            }
        }
        self.settle();
    }

    /// Keys and names of the route tables whose virtual hosts come by themselves.
    pub(super) fn open_tables(&self) -> BTreeMap<String, String> {
        let open = self.routes.iter().filter(|(_, message)| message.vhds.is_some());
        open.map(|(key, message)| (key.clone(), message.name.clone())).collect()
    }
}

/// Those of one table, by the names of the resources.
fn hosts_of<'h>(
    all: &'h BTreeMap<String, VirtualHost>,
    key: &str,
) -> impl Iterator<Item = (&'h str, &'h VirtualHost)> + use<'h> {
    let prefix = format!("{key}/");
    all.range(prefix.clone()..)
        .map(|(name, host)| (name.as_str(), host))
        .take_while(move |(name, _)| name.starts_with(&prefix))
        // The name of a table may have slashes of its own.
        .filter({
            let length = key.len() + 1;
            move |(name, _)| !name[length..].contains('/')
        })
}
