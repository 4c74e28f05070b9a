//! The last good configuration on disk, for a start without a control plane.
//!
//! # Guarantees
//! * A file is all of one type as it was in force at one moment; it is replaced in one step, after it is on disk.
//! * What is damaged, or was kept by another proxy, is refused with a warning and a count, and nothing of it is used.
//! * Changes are written together, every other second at most, and never by a thread that carries traffic.
//!
//! # Caveats
//! * Each type of each server has a file of its own, so that a change of endpoints writes no clusters. If the machine stops between two
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
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Notify;
use weft_kit::error::chain;
use weft_xds::{ResourceType, ResourceUpdate, kept};

use super::{servers::ServerSource, state::State};

/// A directory with what is in force, and what is known of it.
#[derive(Debug)]
pub(crate) struct LastGood {
    directory: PathBuf,
    /// The proxy's id: another's files are not used.
    node: String,
    /// Of what the disk does not have what is in force.
    changed: Mutex<BTreeSet<Origin>>,
    change: Notify,
    /// Held while files are written, so that an older state never replaces a younger one.
    writing: Mutex<()>,
    /// What is in force from disk, while who gave it was not reached since.
    in_force: Mutex<BTreeSet<Origin>>,
    pub(crate) counts: Counts,
}

/// What a file is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Origin {
    pub(crate) type_: ResourceType,
    /// `None` for the aggregated stream.
    pub(crate) server: Option<ServerSource>,
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
/// How the names of files end.
const ENDING: &str = ".last-good";
/// How long changes are gathered: a configuration that comes in pieces is written once.
const GATHER: Duration = Duration::from_millis(500);
/// How long the disk is left alone after a write: endpoints may change all the time, of all proxies of a machine.
const REST: Duration = Duration::from_secs(2);
/// How long after a failure the next attempt is made, if nothing changes before.
const RETRY: Duration = Duration::from_secs(30);
/// Control has this long for its first word; a restart of it takes less.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

// === impl Origin ===

impl Origin {
    /// Tells the server from others; empty for the aggregated stream.
    fn label(&self) -> String {
        self.server.as_ref().map(ServerSource::label).unwrap_or_default()
    }
}

// === impl LastGood ===

impl LastGood {
    pub(crate) fn new(directory: PathBuf, node: String) -> Self {
        Self {
            directory,
            node,
            changed: Mutex::default(),
            change: Notify::new(),
            writing: Mutex::default(),
            in_force: Mutex::default(),
            counts: Counts::default(),
        }
    }

    /// Something of this came into force or left it.
    pub(crate) fn changed(&self, origin: Origin) {
        self.changed.lock().insert(origin);
        self.change.notify_one();
    }

    /// What an earlier run kept of what came over the aggregated stream, or from a server that is asked for one type
    /// alone, in the order in which it is to be put in force.
    fn read(&self, server: Option<(&ServerSource, ResourceType)>) -> Vec<ResourceUpdate> {
        let mut found = Vec::new();
        for type_ in ORDER.into_iter().filter(|type_| server.is_none_or(|(_, only)| *type_ == only)) {
            let origin = Origin { type_, server: server.map(|(server, _)| server.clone()) };
            let path = self.file(&origin);
            let bytes = match fs::read(&path) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => {
                    self.refused(&path, &error);
                    continue;
                }
            };
            match kept::read(type_, &self.node, &origin.label(), &bytes) {
                Ok(update) => found.push(update),
                Err(error) => self.refused(&path, &error),
            }
        }
        found
    }

    /// Puts in force what an earlier run kept; what of it now is, for the server to be told.
    pub(crate) fn resume(
        &self,
        state: &Mutex<State>,
        server: Option<(&ServerSource, ResourceType)>,
    ) -> Vec<ResourceUpdate> {
        let updates = self.read(server);
        if updates.is_empty() {
            tracing::warn!(directory = %self.directory.display(), "control plane is away and no configuration was kept");
            return updates;
        }
        let mut resumed = Vec::new();
        let mut state = state.lock();
        for mut update in updates {
            let type_ = update.type_;
            let origin = Origin { type_, server: server.map(|(server, _)| server.clone()) };
            if let Err(rejected) = state.apply_from(&origin, update.clone()) {
                let bad: BTreeSet<_> = rejected.into_iter().map(|rejected| rejected.name).collect();
                update.upserts.retain(|resource| !bad.contains(&resource.name));
                update.version.clear();
            }
            tracing::warn!(%type_, resources = update.upserts.len(), version = update.version,
                "control plane is away, the last good configuration is in force");
            // The file holds it already.
            self.changed.lock().remove(&origin);
            self.in_force.lock().insert(origin);
            resumed.push(update);
        }
        if server.is_none() {
            state.do_without_endpoints_over_ads();
        }
        resumed
    }

    /// The control plane is there, and was told what is in force.
    pub(crate) fn reached(&self, server: Option<(&ServerSource, ResourceType)>) {
        let mut in_force = self.in_force.lock();
        let before = in_force.len();
        in_force.retain(|origin| match server {
            None => origin.server.is_some(),
            Some((server, type_)) => origin.server.as_ref() != Some(server) || origin.type_ != type_,
        });
        if in_force.len() < before {
            tracing::info!("control plane is back, its configuration replaces the one from disk");
        }
    }

    /// Whether some of what is in force came from disk.
    pub(crate) fn is_in_force(&self) -> bool {
        !self.in_force.lock().is_empty()
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
            changed.into_iter().map(|origin| (state.given(&origin), origin)).collect()
        };
        for (done, (update, origin)) in updates.iter().enumerate() {
            let path = self.file(origin);
            let content = kept::write(update, &self.node, &origin.label());
            if let Err(error) = self.replace(&path, &content) {
                self.counts.write_failures.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(path = %path.display(), error = chain(&error), "the last good configuration cannot be kept");
                self.changed.lock().extend(updates[done..].iter().map(|(_, origin)| origin.clone()));
                return false;
            }
            self.counts.writes.fetch_add(1, Ordering::Relaxed);
        }
        true
    }

    /// As `/config_dump` shows it.
    pub(crate) fn as_json(&self) -> Value {
        let files: serde_json::Map<String, Value> = fs::read_dir(&self.directory)
            .into_iter()
            .flatten()
            .filter_map(|file| {
                let file = file.ok()?;
                let data = file.metadata().ok()?;
                let name = file.file_name().into_string().ok()?.strip_suffix(ENDING)?.to_owned();
                let at = data.modified().ok().and_then(|at| jiff::Timestamp::try_from(at).ok());
                Some((name, json!({"bytes": data.len(), "written": at.map(|at| at.to_string())})))
            })
            .collect();
        json!({"last_good_config": {
            "directory": self.directory.display().to_string(), "in_force": self.is_in_force(), "files": files}})
    }

    fn file(&self, origin: &Origin) -> PathBuf {
        let type_ = origin.type_;
        self.directory.join(match origin.label().as_str() {
            "" => format!("{type_}{ENDING}"),
            label => {
                // Names of clusters and addresses may be of any bytes, those of files may not.
                let label: String = label
                    .bytes()
                    .map(|byte| match byte {
                        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => char::from(byte).to_string(),
                        other => format!("%{other:02X}"),
                    })
                    .collect();
                format!("{type_}.from-{label}{ENDING}")
            }
        })
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

    fn over_ads(type_: ResourceType) -> Origin {
        Origin { type_, server: None }
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
            let path = last_good.file(&over_ads(type_));
            for _ in 0..2 {
                last_good.replace(&path, &kept::write(&update(type_), "one", "")).expect("written");
            }
        }
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode(&directory), 0o700);
        let files: Vec<_> = fs::read_dir(&directory).expect("a folder").flatten().collect();
        assert_eq!(files.len(), ResourceType::ALL.len(), "nothing else is left");
        assert!(files.iter().all(|file| mode(&file.path()) == 0o600));
        assert_eq!(last_good.read(None), ORDER.map(update), "in the order of use");
    }

    #[test]
    fn what_is_damaged_is_left_out_and_counted() {
        let folder = tempfile::tempdir().expect("a folder");
        let last_good = last_good(folder.path());
        for type_ in [ResourceType::Cluster, ResourceType::Listener] {
            let path = last_good.file(&over_ads(type_));
            last_good.replace(&path, &kept::write(&update(type_), "one", "")).expect("written");
        }
        fs::write(last_good.file(&over_ads(ResourceType::Cluster)), "garbage").expect("written");
        assert_eq!(last_good.read(None), [update(ResourceType::Listener)]);
        assert_eq!(last_good.counts.files_refused.load(Ordering::Relaxed), 1);
    }
}
