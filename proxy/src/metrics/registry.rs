//! Which cells exist: found by name, shared by everything that counts under that name.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;

use super::{ClusterCells, HttpCells, ListenerCells, PerWorker, TcpCells};

/// All cells of the process. Only configuration changes and scrapes lock it.
#[derive(Debug)]
pub(crate) struct Registry {
    workers: usize,
    clusters: Family<ClusterCells>,
    http: Family<HttpCells>,
    tcp: Family<TcpCells>,
    listeners: Family<ListenerCells>,
}

type Family<T> = Mutex<BTreeMap<String, Arc<PerWorker<T>>>>;

// === impl Registry ===

impl Registry {
    pub(crate) fn new(workers: usize) -> Self {
        Self {
            workers,
            clusters: Mutex::default(),
            http: Mutex::default(),
            tcp: Mutex::default(),
            listeners: Mutex::default(),
        }
    }

    pub(crate) fn cluster(&self, name: &str) -> Arc<PerWorker<ClusterCells>> {
        self.cells(&self.clusters, name)
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

    /// Drops the cells that nothing counts in any more: a cluster that is gone must not be scraped for ever.
    pub(crate) fn forget_unused(&self) {
        fn sweep<T>(family: &Family<T>) {
            family.lock().retain(|_, cells| Arc::strong_count(cells) > 1);
        }
        sweep(&self.clusters);
        sweep(&self.http);
        sweep(&self.tcp);
        sweep(&self.listeners);
    }

    pub(super) fn clusters(&self) -> Vec<(String, Arc<PerWorker<ClusterCells>>)> {
        all(&self.clusters)
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
