//! The last good configuration on disk, for a start without a control plane.
//!
//! # Guarantees
//! * A file is all of one type as it was in force at one moment; it is replaced in one step, after it is on disk.
//! * What is damaged, or was kept by another proxy, is refused with a warning and a count, and nothing of it is used.
//! * Changes are written together, every other second at most, and never by a thread that carries traffic.
//!
//! # Caveats
//! * Each type has a file of its own, so that a change of endpoints writes no clusters. If the machine stops between two
//!   files, they are of different moments; what then refers to nothing waits for the control plane.
//! * Keys of certificates that came over SDS are among what is kept. Only the proxy's own user may read it.

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Notify;
use weft_kit::error::chain;
use weft_xds::{ResourceType, ResourceUpdate, kept};

use super::state::State;

/// A directory with what is in force, and what is known of it.
#[derive(Debug)]
pub(crate) struct LastGood {
    directory: PathBuf,
    /// The proxy's id: another's files are not used.
    node: String,
    /// Types of which the disk does not have what is in force.
    changed: Mutex<BTreeSet<ResourceType>>,
    change: Notify,
    /// Held while files are written, so that an older state never replaces a younger one.
    writing: Mutex<()>,
    /// What is in force came from disk, and the control plane was not reached since.
    in_force: AtomicBool,
    pub(crate) counts: Counts,
}

/// How often what happened.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) writes: AtomicU64,
    pub(crate) write_failures: AtomicU64,
    pub(crate) files_refused: AtomicU64,
}

/// What refers to others first: endpoints, routes and secrets that nothing asks for are not kept in memory.
const ORDER: [ResourceType; ResourceType::ALL.len()] = [
    ResourceType::Runtime,
    ResourceType::Cluster,
    ResourceType::ClusterLoadAssignment,
    ResourceType::Listener,
    ResourceType::ExtensionConfig,
    ResourceType::ScopedRouteConfiguration,
    ResourceType::RouteConfiguration,
    ResourceType::VirtualHost,
    ResourceType::Secret,
];
/// How long changes are gathered: a configuration that comes in pieces is written once.
const GATHER: Duration = Duration::from_millis(500);
/// How long the disk is left alone after a write: endpoints may change all the time, of all proxies of a machine.
const REST: Duration = Duration::from_secs(2);
/// How long after a failure the next attempt is made, if nothing changes before.
const RETRY: Duration = Duration::from_secs(30);
/// Control has this long for its first word; a restart of it takes less.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

// === impl LastGood ===

impl LastGood {
    pub(crate) fn new(directory: PathBuf, node: String) -> Self {
        Self {
            directory,
            node,
            changed: Mutex::default(),
            change: Notify::new(),
            writing: Mutex::default(),
            in_force: AtomicBool::new(false),
            counts: Counts::default(),
        }
    }

    /// Something of this type came into force or left it.
    pub(crate) fn changed(&self, type_: ResourceType) {
        self.changed.lock().insert(type_);
        self.change.notify_one();
    }

    /// What an earlier run kept, in the order in which it is to be put in force.
    pub(crate) fn read(&self) -> Vec<ResourceUpdate> {
        let mut found = Vec::new();
        for type_ in ORDER {
            let path = self.file(type_);
            let bytes = match fs::read(&path) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => {
                    self.refused(&path, &error);
                    continue;
                }
            };
            match kept::read(type_, &self.node, &bytes) {
                Ok(update) => found.push(update),
                Err(error) => self.refused(&path, &error),
            }
        }
        found
    }

    /// Puts in force what an earlier run kept; what of it now is, for the server to be told.
    pub(crate) fn resume(&self, state: &Mutex<State>) -> Vec<ResourceUpdate> {
        let updates = self.read();
        if updates.is_empty() {
            tracing::warn!(directory = %self.directory.display(), "control plane is away and no configuration was kept");
            return updates;
        }
        let mut resumed = Vec::new();
        let mut state = state.lock();
        for mut update in updates {
            let type_ = update.type_;
            if let Err(rejected) = state.apply(update.clone()) {
                let bad: BTreeSet<_> = rejected.into_iter().map(|rejected| rejected.name).collect();
                update.upserts.retain(|resource| !bad.contains(&resource.name));
                update.version.clear();
            }
            tracing::warn!(%type_, resources = update.upserts.len(), version = update.version,
                "control plane is away, the last good configuration is in force");
            resumed.push(update);
        }
        self.in_force.store(true, Ordering::Relaxed);
        // The files hold it already.
        self.changed.lock().clear();
        resumed
    }

    /// The control plane is there, and was told what is in force.
    pub(crate) fn reached(&self) {
        if self.in_force.swap(false, Ordering::Relaxed) {
            tracing::info!("control plane is back, its configuration replaces the one from disk");
        }
    }

    /// Whether what is in force came from disk.
    pub(crate) fn is_in_force(&self) -> bool {
        self.in_force.load(Ordering::Relaxed)
    }

    /// Keeps the files in step until it is dropped.
    pub(crate) async fn run(self: Arc<Self>, state: Arc<Mutex<State>>) {
        loop {
            self.change.notified().await;
            tokio::time::sleep(GATHER).await;
            let (this, state) = (Arc::clone(&self), Arc::clone(&state));
            let written = tokio::task::spawn_blocking(move || this.write(&state)).await;
            if matches!(written, Ok(true)) {
                tokio::time::sleep(REST).await;
            } else {
                let _ = tokio::time::timeout(RETRY, self.change.notified()).await;
                self.change.notify_one();
            }
        }
    }

    /// Writes every type that changed; whether all of it is on disk now.
    pub(crate) fn write(&self, state: &Mutex<State>) -> bool {
        let _writing = self.writing.lock();
        let changed = std::mem::take(&mut *self.changed.lock());
        if changed.is_empty() {
            return true;
        }
        let updates: Vec<_> = {
            let state = state.lock();
            changed.iter().map(|type_| state.given(*type_)).collect()
        };
        for (done, update) in updates.iter().enumerate() {
            let path = self.file(update.type_);
            if let Err(error) = self.replace(&path, &kept::write(update, &self.node)) {
                self.counts.write_failures.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(path = %path.display(), error = chain(&error), "the last good configuration cannot be kept");
                self.changed.lock().extend(updates[done..].iter().map(|update| update.type_));
                return false;
            }
            self.counts.writes.fetch_add(1, Ordering::Relaxed);
        }
        true
    }

    /// As `/config_dump` shows it.
    pub(crate) fn as_json(&self) -> Value {
        let files: serde_json::Map<String, Value> = ResourceType::ALL
            .into_iter()
            .filter_map(|type_| {
                let data = fs::metadata(self.file(type_)).ok()?;
                let at = data.modified().ok().and_then(|at| jiff::Timestamp::try_from(at).ok());
                Some((
                    type_.to_string(),
                    json!({"bytes": data.len(), "written": at.map(|at| at.to_string())}),
                ))
            })
            .collect();
        json!({"last_good_config": {
            "directory": self.directory.display().to_string(), "in_force": self.is_in_force(), "files": files}})
    }

    fn file(&self, type_: ResourceType) -> PathBuf {
        self.directory.join(format!("{type_}.last-good"))
    }

    fn refused(&self, path: &Path, error: &(dyn std::error::Error + 'static)) {
        self.counts.files_refused.fetch_add(1, Ordering::Relaxed);
        tracing::error!(path = %path.display(), error = chain(error), "kept configuration refused and ignored");
    }

    fn replace(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        let new = path.with_extension("new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        // One that was left behind may have been made by somebody with another idea of who may read it.
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        File::open(&self.directory)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last_good(directory: &Path) -> LastGood {
        LastGood::new(directory.to_owned(), "one".into())
    }

    fn update(type_: ResourceType) -> ResourceUpdate {
        ResourceUpdate { type_, version: "1".into(), upserts: Vec::new(), removed: Vec::new() }
    }

    #[test]
    fn files_are_replaced_whole_and_only_for_their_owner() {
        let folder = tempfile::tempdir().expect("a folder");
        let directory = folder.path().join("a").join("b");
        let last_good = last_good(&directory);
        for type_ in ResourceType::ALL {
            let path = last_good.file(type_);
            for _ in 0..2 {
                last_good.replace(&path, &kept::write(&update(type_), "one")).expect("written");
            }
        }
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode(&directory), 0o700);
        let files: Vec<_> = fs::read_dir(&directory).expect("a folder").flatten().collect();
        assert_eq!(files.len(), ResourceType::ALL.len(), "nothing else is left");
        assert!(files.iter().all(|file| mode(&file.path()) == 0o600));
        assert_eq!(last_good.read(), ORDER.map(update), "in the order of use");
    }

    #[test]
    fn what_is_damaged_is_left_out_and_counted() {
        let folder = tempfile::tempdir().expect("a folder");
        let last_good = last_good(folder.path());
        for type_ in [ResourceType::Cluster, ResourceType::Listener] {
            let path = last_good.file(type_);
            last_good.replace(&path, &kept::write(&update(type_), "one")).expect("written");
        }
        fs::write(last_good.file(ResourceType::Cluster), "garbage").expect("written");
        assert_eq!(last_good.read(), [update(ResourceType::Listener)]);
        assert_eq!(last_good.counts.files_refused.load(Ordering::Relaxed), 1);
    }
}
