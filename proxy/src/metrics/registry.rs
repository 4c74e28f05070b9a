//! Which cells exist: found by name, shared by everything that counts under that name.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;

use crate::cluster::outlier::counts as outlier;

use super::{
    ClusterCells, ConnectionLimitCells, HttpCells, ListenerCells, NamedCounters, PerWorker, Propagation,
    ProxyProtocolCells, TcpCells, TlsInspectorCells,
};

/// All cells of the process. Only configuration changes and scrapes lock it.
#[derive(Debug)]
pub(crate) struct Registry {
    workers: usize,
    clusters: Family<ClusterCells>,
    outliers: Mutex<BTreeMap<String, Arc<outlier::Counts>>>,
    http: Family<HttpCells>,
    tcp: Family<TcpCells>,
    listeners: Family<ListenerCells>,
    proxy_protocol: Family<ProxyProtocolCells>,
    connection_limits: Family<ConnectionLimitCells>,
    /// One for all: as in Envoy, whose inspectors have no prefix.
    tls_inspectors: Arc<PerWorker<TlsInspectorCells>>,
    /// What filters count.
    pub(crate) named: Arc<NamedCounters>,
    pub(crate) propagation: Propagation,
}

type Family<T> = Mutex<BTreeMap<String, Arc<PerWorker<T>>>>;

// === impl Registry ===

impl Registry {
    pub(crate) fn new(workers: usize) -> Self {
        Self {
            workers,
            clusters: Mutex::default(),
            outliers: Mutex::default(),
            http: Mutex::default(),
            tcp: Mutex::default(),
            listeners: Mutex::default(),
            proxy_protocol: Mutex::default(),
            connection_limits: Mutex::default(),
            tls_inspectors: Arc::new(PerWorker::new(workers)),
            named: Arc::new(NamedCounters::new(workers)),
            propagation: Propagation::default(),
        }
    }

    pub(crate) fn cluster(&self, name: &str) -> Arc<PerWorker<ClusterCells>> {
        self.cells(&self.clusters, name)
    }

    /// What outlier detection counts; only clusters with it have any.
    pub(crate) fn outlier(&self, name: &str) -> Arc<outlier::Counts> {
        Arc::clone(self.outliers.lock().entry(name.to_owned()).or_default())
    }

    pub(crate) fn http(&self, stat_prefix: &str) -> Arc<PerWorker<HttpCells>> {
        self.cells(&self.http, stat_prefix)
    }

    pub(crate) fn tcp(&self, stat_prefix: &str) -> Arc<PerWorker<TcpCells>> {
        self.cells(&self.tcp, stat_prefix)
    }

    pub(crate) fn listener(&self, address: &str) -> Arc<PerWorker<ListenerCells>> {
        self.cells(&self.listeners, address)
    }

    pub(crate) fn proxy_protocol(&self, stat_prefix: &str) -> Arc<PerWorker<ProxyProtocolCells>> {
        self.cells(&self.proxy_protocol, stat_prefix)
    }

    pub(crate) fn connection_limit(&self, stat_prefix: &str) -> Arc<PerWorker<ConnectionLimitCells>> {
        self.cells(&self.connection_limits, stat_prefix)
    }

    pub(crate) fn tls_inspectors(&self) -> Arc<PerWorker<TlsInspectorCells>> {
        Arc::clone(&self.tls_inspectors)
    }

    /// Drops the cells that nothing counts in any more: a cluster that is gone must not be scraped for ever.
    pub(crate) fn forget_unused(&self) {
        fn sweep<T>(family: &Family<T>) {
            family.lock().retain(|_, cells| Arc::strong_count(cells) > 1);
        }
        sweep(&self.clusters);
        self.outliers.lock().retain(|_, counts| Arc::strong_count(counts) > 1);
        sweep(&self.http);
        sweep(&self.tcp);
        sweep(&self.listeners);
        sweep(&self.proxy_protocol);
        sweep(&self.connection_limits);
        self.named.forget_unused();
    }

    pub(super) fn clusters(&self) -> Vec<(String, Arc<PerWorker<ClusterCells>>)> {
        all(&self.clusters)
    }

    pub(super) fn outliers(&self) -> Vec<(String, Arc<outlier::Counts>)> {
        self.outliers.lock().iter().map(|(name, counts)| (name.clone(), Arc::clone(counts))).collect()
    }

    pub(super) fn http_managers(&self) -> Vec<(String, Arc<PerWorker<HttpCells>>)> {
        all(&self.http)
    }

    pub(super) fn tcp_proxies(&self) -> Vec<(String, Arc<PerWorker<TcpCells>>)> {
        all(&self.tcp)
    }

    pub(super) fn listeners(&self) -> Vec<(String, Arc<PerWorker<ListenerCells>>)> {
        all(&self.listeners)
    }

    pub(super) fn proxy_protocols(&self) -> Vec<(String, Arc<PerWorker<ProxyProtocolCells>>)> {
        all(&self.proxy_protocol)
    }

    pub(super) fn connection_limits(&self) -> Vec<(String, Arc<PerWorker<ConnectionLimitCells>>)> {
        all(&self.connection_limits)
    }

    /// Connections of clients that are open now.
    pub(crate) fn open_connections(&self) -> u64 {
        all(&self.listeners)
            .iter()
            .map(|(_, cells)| cells.sum(|c| &c.cx_total).saturating_sub(cells.sum(|c| &c.cx_destroy)))
            .sum()
    }

    fn cells<T: Default>(&self, family: &Family<T>, name: &str) -> Arc<PerWorker<T>> {
        Arc::clone(
            family.lock().entry(name.to_owned()).or_insert_with(|| Arc::new(PerWorker::new(self.workers))),
        )
    }
}

fn all<T>(family: &Family<T>) -> Vec<(String, Arc<PerWorker<T>>)> {
    family.lock().iter().map(|(name, cells)| (name.clone(), Arc::clone(cells))).collect()
}
