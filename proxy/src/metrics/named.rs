//! Counters whose names their owner brings along: what filters count.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;

use super::{Counter, GaugeSet, PerWorker, text::Families};

/// As many counters as fill a cache line.
const MOST: usize = 8;

/// All sets of the process, by their first name and labels. Only configuration changes and scrapes lock it.
#[derive(Debug, Default)]
pub(crate) struct NamedCounters {
    workers: usize,
    sets: Mutex<BTreeMap<Key, Arc<CounterSet>>>,
    gauges: Mutex<BTreeMap<Key, Arc<GaugeSet>>>,
}

type Key = (String, Vec<(&'static str, String)>);

/// Some counters with the same labels.
#[derive(Debug)]
pub(crate) struct CounterSet {
    /// What all names begin with.
    prefix: String,
    names: &'static [&'static str],
    cells: PerWorker<Line>,
}

#[derive(Debug, Default)]
#[repr(align(64))]
struct Line([Counter; MOST]);

// === impl NamedCounters ===

impl NamedCounters {
    pub(crate) fn new(workers: usize) -> Self {
        Self { workers, sets: Mutex::default(), gauges: Mutex::default() }
    }

    /// The counters of these names, as they are scraped, with these labels; eight names at most.
    pub(crate) fn get(
        &self,
        names: &'static [&'static str],
        labels: &[(&'static str, &str)],
    ) -> Arc<CounterSet> {
        self.with_prefix("", names, labels)
    }

    /// The same where a part of the names is configured.
    pub(crate) fn with_prefix(
        &self,
        prefix: &str,
        names: &'static [&'static str],
        labels: &[(&'static str, &str)],
    ) -> Arc<CounterSet> {
        debug_assert!((1..=MOST).contains(&names.len()));
        let first = format!("{prefix}{}", names.first().copied().unwrap_or_default());
        let key = (first, labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect());
        let mut sets = self.sets.lock();
        let set = sets.entry(key).or_insert_with(|| {
            let cells = PerWorker::new(self.workers);
            Arc::new(CounterSet { prefix: prefix.to_owned(), names, cells })
        });
        Arc::clone(set)
    }

    /// The gauges of these names with these labels.
    pub(crate) fn gauges(
        &self,
        names: &'static [&'static str],
        labels: &[(&'static str, &str)],
    ) -> Arc<GaugeSet> {
        let first = names.first().copied().unwrap_or_default().to_owned();
        let key = (first, labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect());
        Arc::clone(self.gauges.lock().entry(key).or_insert_with(|| Arc::new(GaugeSet::new(names))))
    }

    pub(super) fn forget_unused(&self) {
        self.sets.lock().retain(|_, set| Arc::strong_count(set) > 1);
        self.gauges.lock().retain(|_, set| Arc::strong_count(set) > 1);
    }

    pub(super) fn write(&self, families: &mut Families) {
        for ((_, labels), set) in &*self.sets.lock() {
            let labels: Vec<_> = labels.iter().map(|(name, value)| (*name, value.as_str())).collect();
            for (index, name) in set.names.iter().enumerate() {
                let name = format!("{}{name}", set.prefix);
                families.counter(&name, &labels, set.cells.sum(|line| &line.0[index]));
            }
        }
        for ((_, labels), set) in &*self.gauges.lock() {
            let labels: Vec<_> = labels.iter().map(|(name, value)| (*name, value.as_str())).collect();
            for (name, value) in set.read() {
                families.gauge(name, &labels, value);
            }
        }
    }
}

// === impl CounterSet ===

impl CounterSet {
    /// Counts one more under the name at `index`. Only the worker itself may call this.
    pub(crate) fn add(&self, worker: usize, index: usize) {
        self.add_many(worker, index, 1);
    }

    /// Counts so many.
    pub(crate) fn add_many(&self, worker: usize, index: usize, count: u64) {
        self.cells.at(worker).0[index].add(count);
    }
}
