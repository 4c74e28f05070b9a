//! Configuration from files: each is read at the start, and again when it is moved into place.
//!
//! # Guarantees
//! * A file that cannot be read as a whole changes nothing; of one that can, each resource that cannot be used keeps its
//!   last good version.
//! * What is written in place is not looked at: half a file is never taken for all of it. As Envoy, we wait for a move,
//!   of the file itself or, with `watched_directory`, of anything into that directory.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use nix::sys::inotify::{AddWatchFlags, WatchDescriptor};
use parking_lot::Mutex;
use weft_kit::error::chain;
use weft_xds::{ResourceType, ResourceUpdate, file};

use super::{source::FileSource, state::State};
use crate::sys;

/// One thing that comes from one file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FileRef {
    pub(crate) type_: ResourceType,
    pub(crate) source: FileSource,
    /// Which resource of the file, and what it is known by here; `None` for all of them.
    pub(crate) one: Option<(String, String)>,
}

/// Reads the files that the configuration names.
pub(crate) struct Files {
    state: Arc<Mutex<State>>,
    /// Those that were read.
    known: BTreeSet<FileRef>,
    /// There once the first file is.
    watcher: Option<Watcher>,
}

/// What tells of moves.
struct Watcher {
    moves: sys::Moves,
    /// Under each name that it has: two of them may mean the same one.
    directories: HashMap<WatchDescriptor, BTreeSet<PathBuf>>,
}

/// What was moved into a directory; every name if what happened was lost count of.
type Moves = BTreeMap<PathBuf, BTreeSet<Option<OsString>>>;

// === impl Files ===

impl Files {
    pub(crate) fn new(state: Arc<Mutex<State>>) -> Self {
        Self { state, known: BTreeSet::new(), watcher: None }
    }

    /// Reads what is named and was not read yet, and what that names in turn.
    pub(crate) fn sync(&mut self) {
        loop {
            let wanted = self.state.lock().wanted_files();
            self.known.retain(|known| wanted.contains(known));
            let new: Vec<_> = wanted.difference(&self.known).cloned().collect();
            if new.is_empty() {
                break;
            }
            for file in new {
                // Before it is read, so that no move goes unnoticed.
                self.watch(&file);
                self.load(&file);
                self.known.insert(file);
            }
        }
        let directories: BTreeSet<_> = self.known.iter().map(FileRef::directory).collect();
        if let Some(watcher) = &mut self.watcher {
            watcher.retain(|directory| directories.contains(directory));
        }
    }

    /// Follows the files until it is dropped.
    pub(crate) async fn run(mut self) {
        let changed = Arc::clone(&self.state.lock().references);
        loop {
            let moves = match &mut self.watcher {
                None => {
                    changed.notified().await;
                    Moves::new()
                }
                Some(watcher) => tokio::select! {
                    () = changed.notified() => Moves::new(),
                    moves = watcher.moves() => moves,
                },
            };
            let affected: Vec<_> = self.known.iter().filter(|file| file.is_among(&moves)).cloned().collect();
            for file in affected {
                self.load(&file);
            }
            self.sync();
        }
    }

    fn watch(&mut self, file: &FileRef) {
        let watched = match &mut self.watcher {
            Some(watcher) => watcher.add(file.directory()),
            none => Watcher::new().and_then(|watcher| none.insert(watcher).add(file.directory())),
        };
        if let Err(error) = watched {
            let directory = file.directory();
            tracing::error!(directory = %directory.display(), %error, "changes of configuration files go unnoticed");
        }
    }

    fn load(&self, file: &FileRef) {
        let path = &file.source.path;
        let content = match fs::read(path) {
            Ok(content) => content,
            Err(error) => return self.failed(file, &error.to_string()),
        };
        let content = match file::read(file.type_, path, &content) {
            Ok(content) => content,
            Err(error) => return self.failed(file, &chain(&error).to_string()),
        };
        let mut upserts = content.resources;
        if let Some((name, key)) = &file.one {
            upserts.retain(|resource| resource.name == *name);
            let Some(only) = upserts.first_mut() else {
                return self.failed(file, &format!("it holds no {} {name:?}", file.type_));
            };
            only.name.clone_from(key);
        }
        for refused in &content.rejected {
            tracing::warn!(path = %path.display(), resource = refused.name, reason = refused.reason, "resource refused");
        }
        let mut state = self.state.lock();
        let mut removed = Vec::new();
        if file.one.is_none() {
            let stays: BTreeSet<&str> = upserts.iter().map(|resource| resource.name.as_str()).collect();
            let refused: BTreeSet<&str> = content.rejected.iter().map(|one| one.name.as_str()).collect();
            removed = state.dynamic_names(file.type_);
            removed.retain(|name| !stays.contains(name.as_str()) && !refused.contains(name.as_str()));
        }
        let update = ResourceUpdate { type_: file.type_, version: content.version, upserts, removed };
        let applied = state.apply(update);
        state.wanted_changed.notify_one();
        match applied {
            Ok(()) if content.rejected.is_empty() => {
                tracing::info!(type_ = %file.type_, path = %path.display(), "configuration file taken over");
            }
            Ok(()) => state.updates.rejected(file.type_),
            // Each was logged with its reason, and counted.
            Err(_) => {}
        }
    }

    fn failed(&self, file: &FileRef, reason: &str) {
        self.state.lock().updates.rejected(file.type_);
        let path = file.source.path.display();
        tracing::warn!(type_ = %file.type_, %path, reason, "configuration file refused, the last good one stays");
    }
}

// === impl FileRef ===

impl FileRef {
    /// What is watched for it.
    fn directory(&self) -> &Path {
        let beside = self.source.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        self.source.watched_directory.as_deref().or(beside).unwrap_or(Path::new("."))
    }

    fn is_among(&self, moves: &Moves) -> bool {
        let Some(names) = moves.get(self.directory()) else { return false };
        self.source.watched_directory.is_some()
            || names.contains(&None)
            || names.contains(&self.source.path.file_name().map(OsString::from))
    }
}

// === impl Watcher ===

impl Watcher {
    fn new() -> io::Result<Self> {
        Ok(Self { moves: sys::Moves::new()?, directories: HashMap::new() })
    }

    fn add(&mut self, directory: &Path) -> io::Result<()> {
        let descriptor = self.moves.add(directory)?;
        self.directories.entry(descriptor).or_default().insert(directory.to_owned());
        Ok(())
    }

    fn retain(&mut self, wanted: impl Fn(&Path) -> bool) {
        let moves = &self.moves;
        self.directories.retain(|descriptor, names| {
            names.retain(|name| wanted(name));
            let stays = !names.is_empty();
            if !stays {
                // Fails only for what is gone by itself.
                let _ = moves.remove(*descriptor);
            }
            stays
        });
    }

    /// Waits until something was moved into one of the directories.
    async fn moves(&mut self) -> Moves {
        let mut moves = Moves::new();
        for event in self.moves.next().await.into_iter().flatten() {
            if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                for directory in self.directories.values().flatten() {
                    moves.entry(directory.clone()).or_default().insert(None);
                }
            } else if event.name.is_some() {
                for directory in self.directories.get(&event.wd).into_iter().flatten() {
                    moves.entry(directory.clone()).or_default().insert(event.name.clone());
                }
            }
        }
        moves
    }
}
