use std::{
    collections::BTreeMap,
    sync::{Condvar, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures::StreamExt as _;
use proptest::prelude::*;
use redb::{StorageBackend, backends::InMemoryBackend};

use super::*;
use crate::types::{Change, Expectation};

fn store_in(directory: &tempfile::TempDir, keep_revisions: usize) -> EmbeddedStore {
    let options = Options { keep_revisions, ..Options::default() };
    EmbeddedStore::open(&directory.path().join("data").join("store.redb"), options).unwrap()
}

fn put(key: &str, expect: Expectation, value: &str) -> Write {
    let value = Bytes::copy_from_slice(value.as_bytes());
    Write { key: key.into(), expect, change: Change::Put { value, stamp: None } }
}

fn delete(key: &str, revision: Revision) -> Write {
    Write { key: key.into(), expect: Expectation::Revision(revision), change: Change::Delete }
}

async fn keys(store: &EmbeddedStore, request: ListRequest) -> Vec<String> {
    store.list(request).await.unwrap().entries.iter().map(|entry| entry.key.to_string()).collect()
}

#[tokio::test]
async fn a_write_whose_expectation_fails_changes_nothing_and_says_what_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let store = store_in(&directory, 100);
    let created = store.commit(put("/a", Expectation::Absent, "1")).await.unwrap();
    for refused in
        [put("/a", Expectation::Absent, "2"), put("/a", Expectation::Revision(99), "2"), delete("/a", 99)]
    {
        match store.commit(refused).await {
            Err(CommitError::Conflict { current: Some(current), .. }) => {
                assert_eq!(current.revision, created.revision)
            }
            other => panic!("expected a conflict, got {other:?}"),
        }
    }
    assert!(matches!(
        store.commit(delete("/none", 1)).await,
        Err(CommitError::Conflict { current: None, .. })
    ));
    assert_eq!(store.revision().await.unwrap(), created.revision);
    assert_eq!(store.get("/a").await.unwrap().unwrap().value, "1");
}

#[tokio::test]
async fn who_loses_a_race_finds_the_winner_when_reading_again() {
    const WRITERS: usize = 20;

    let directory = tempfile::tempdir().unwrap();
    let store = store_in(&directory, 100);
    store.commit(put("/a", Expectation::Absent, "0")).await.unwrap();
    let writers = (0..WRITERS).map(|_| async {
        // Each attempt that is lost means that another writer succeeded, so this many are enough.
        for _ in 0..WRITERS {
            let seen = store.get("/a").await.unwrap().unwrap().revision;
            match store.commit(put("/a", Expectation::Revision(seen), "1")).await {
                Ok(_) => return,
                Err(CommitError::Conflict { current: Some(current), .. }) => {
                    assert!(store.get("/a").await.unwrap().unwrap().revision >= current.revision);
                }
                Err(error) => panic!("{error}"),
            }
        }
        panic!("lost more often than there are others");
    });
    futures::future::join_all(writers).await;
}

#[tokio::test]
async fn the_stamp_writes_the_revision_into_the_value() {
    let directory = tempfile::tempdir().unwrap();
    let store = store_in(&directory, 100);
    let value = Bytes::from_static(br#"{"revision":""}"#);
    let change = Change::Put { value, stamp: Some(13) };
    let event = store.commit(Write { key: "/a".into(), expect: Expectation::Absent, change }).await.unwrap();
    let expected = format!(r#"{{"revision":"{}"}}"#, event.revision);
    assert_eq!(event.current.as_ref().unwrap().value, expected);
    assert_eq!(store.get("/a").await.unwrap().unwrap().value, expected);
}

#[tokio::test]
async fn pages_of_one_revision_fit_together_while_keys_come_and_go() {
    let directory = tempfile::tempdir().unwrap();
    let store = store_in(&directory, 100);
    for key in ["/a/1", "/a/2", "/a/3", "/a/4", "/b/1"] {
        store.commit(put(key, Expectation::Absent, "x")).await.unwrap();
    }
    let request = ListRequest { prefix: "/a/".into(), limit: Some(2), ..ListRequest::default() };
    let first = store.list(request.clone()).await.unwrap();
    assert_eq!(first.remaining, 2);
    let third = store.get("/a/3").await.unwrap().unwrap();
    store.commit(delete("/a/3", third.revision)).await.unwrap();
    store.commit(put("/a/5", Expectation::Absent, "x")).await.unwrap();
    let next = ListRequest { after: Some("/a/2".into()), at: Some(first.revision), ..request.clone() };
    assert_eq!(keys(&store, next.clone()).await, ["/a/3", "/a/4"]);
    assert_eq!(keys(&store, ListRequest { at: None, ..next.clone() }).await, ["/a/4", "/a/5"]);
    store.compact(first.revision + 1).await.unwrap();
    assert!(matches!(store.list(next).await, Err(ReadError::Compacted { .. })));
    let future = ListRequest { at: Some(1000), ..request };
    assert!(matches!(store.list(future).await, Err(ReadError::Future { .. })));
}

#[tokio::test]
async fn a_watch_that_fell_behind_the_compaction_ends_with_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let store = store_in(&directory, 100);
    let start = store.revision().await.unwrap();
    let mut watch = store.watch("/", start).await.unwrap();
    for key in ["/1", "/2", "/3"] {
        store.commit(put(key, Expectation::Absent, "x")).await.unwrap();
    }
    store.compact(start + 2).await.unwrap();
    assert!(matches!(watch.next().await, Some(Err(crate::WatchError::Compacted { .. }))));
    assert!(watch.next().await.is_none());
    assert!(matches!(store.watch("/", start).await, Err(ReadError::Compacted { .. })));
}

#[tokio::test]
async fn a_watch_ends_when_the_store_closes_after_delivering_everything() {
    let directory = tempfile::tempdir().unwrap();
    let store = store_in(&directory, 100);
    let mut watch = store.watch("/a", store.revision().await.unwrap()).await.unwrap();
    store.commit(put("/a", Expectation::Absent, "x")).await.unwrap();
    store.commit(put("/b", Expectation::Absent, "x")).await.unwrap();
    drop(store);
    assert_eq!(watch.next().await.unwrap().unwrap().key.as_ref(), "/a");
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn history_is_bounded_on_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let store = store_in(&directory, 8);
    let mut revision = store.commit(put("/a", Expectation::Absent, "0")).await.unwrap().revision;
    for n in 1..100 {
        let write = put("/a", Expectation::Revision(revision), &n.to_string());
        revision = store.commit(write).await.unwrap().revision;
    }
    let kept = store.statistics().revision - store.statistics().compacted;
    assert!((8..=11).contains(&kept), "{kept} revisions are kept");
    drop(store);
    let store = store_in(&directory, 8);
    assert_eq!(store.statistics().revision, revision);
    assert_eq!(store.get("/a").await.unwrap().unwrap().value, "99");
}

#[test]
fn a_second_opener_is_refused_with_a_clear_error() {
    let directory = tempfile::tempdir().unwrap();
    let store = store_in(&directory, 8);
    let path = directory.path().join("data").join("store.redb");
    let error = EmbeddedStore::open(&path, Options::default()).unwrap_err();
    assert!(error.to_string().contains("in use by another process"), "{error}");
    drop(store);
    EmbeddedStore::open(&path, Options::default()).unwrap();
}

#[test]
fn a_file_that_the_disk_changed_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let store = EmbeddedStore::open(&path, Options::default()).unwrap();
    runtime.block_on(store.commit(put("/a", Expectation::Absent, "a-value-to-be-found"))).unwrap();
    drop(store);
    let mut bytes = std::fs::read(&path).unwrap();
    let needle = b"a-value-to-be-found";
    let at = bytes.windows(needle.len()).position(|window| window == needle).unwrap();
    bytes[at] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    EmbeddedStore::open(&path, Options::default()).unwrap_err();
}

/// A disk whose next sync waits until it is let go.
#[derive(Debug, Default)]
struct Gate {
    closed: Mutex<bool>,
    waiting: Mutex<bool>,
    changed: Condvar,
}

#[derive(Debug)]
struct GatedBackend(InMemoryBackend, Arc<Gate>);

impl StorageBackend for GatedBackend {
    fn len(&self) -> Result<u64, std::io::Error> {
        self.0.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), std::io::Error> {
        self.0.read(offset, out)
    }
    fn set_len(&self, len: u64) -> Result<(), std::io::Error> {
        self.0.set_len(len)
    }
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), std::io::Error> {
        self.0.write(offset, data)
    }
    fn sync_data(&self) -> Result<(), std::io::Error> {
        let mut closed = self.1.closed.lock().unwrap();
        while *closed {
            *self.1.waiting.lock().unwrap() = true;
            closed = self.1.changed.wait(closed).unwrap();
        }
        self.0.sync_data()
    }
}

#[tokio::test]
async fn concurrent_writers_share_a_commit() {
    let gate = Arc::new(Gate::default());
    let backend = GatedBackend(InMemoryBackend::new(), gate.clone());
    let store = EmbeddedStore::start(Disk::with_backend(backend).unwrap(), Options::default()).unwrap();
    let store = Arc::new(store);
    let spawn = |n: usize| {
        let store = store.clone();
        tokio::spawn(async move { store.commit(put(&format!("/{n}"), Expectation::Absent, "x")).await })
    };
    *gate.closed.lock().unwrap() = true;
    let mut writers = vec![spawn(0)];
    while !*gate.waiting.lock().unwrap() {
        tokio::task::yield_now().await;
    }
    // The disk is busy with the first; the others must gather behind it.
    writers.extend((1..=64).map(spawn));
    while store.requests.as_ref().unwrap().capacity() != QUEUE - 64 {
        tokio::task::yield_now().await;
    }
    assert_eq!(store.statistics().writes, 0, "nothing is acknowledged before it is durable");
    *gate.closed.lock().unwrap() = false;
    gate.changed.notify_all();
    let mut revisions = Vec::new();
    for writer in writers {
        revisions.push(writer.await.unwrap().unwrap().revision);
    }
    revisions.sort_unstable();
    assert!(revisions.windows(2).all(|pair| pair[1] == pair[0] + 1), "each write has a revision of its own");
    let statistics = store.statistics();
    assert_eq!((statistics.writes, statistics.commits), (65, 2));
}

/// A disk whose syncs fail once told so.
#[derive(Debug)]
struct BrokenBackend(InMemoryBackend, Arc<std::sync::atomic::AtomicBool>);

impl StorageBackend for BrokenBackend {
    fn len(&self) -> Result<u64, std::io::Error> {
        self.0.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), std::io::Error> {
        self.0.read(offset, out)
    }
    fn set_len(&self, len: u64) -> Result<(), std::io::Error> {
        self.0.set_len(len)
    }
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), std::io::Error> {
        self.0.write(offset, data)
    }
    fn sync_data(&self) -> Result<(), std::io::Error> {
        if self.1.load(Ordering::Relaxed) {
            Err(std::io::Error::other("disk on fire"))
        } else {
            self.0.sync_data()
        }
    }
}

/// Set in the process that is to die of a failed sync.
const FAILS: &str = "WEFT_STORE_FAILED_SYNC_TEST";

#[test]
fn the_process_stops_after_a_failed_sync() {
    if std::env::var_os(FAILS).is_none() {
        let name = "embedded::tests::the_process_stops_after_a_failed_sync";
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        let output = child.args(["--exact", name, "--nocapture"]).env(FAILS, "1").output().unwrap();
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&output.status),
            Some(6),
            "ended by SIGABRT"
        );
        return;
    }
    let broken = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let backend = BrokenBackend(InMemoryBackend::new(), broken.clone());
    let store = EmbeddedStore::start(Disk::with_backend(backend).unwrap(), Options::default()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(store.commit(put("/a", Expectation::Absent, "x"))).unwrap();
    broken.store(true, Ordering::Relaxed);
    let answer = runtime.block_on(store.commit(put("/b", Expectation::Absent, "x")));
    panic!("a write whose sync failed was answered: {answer:?}");
}

#[derive(Debug, Clone)]
enum Op {
    Put { key: u8, stale: bool },
    Delete { key: u8, stale: bool },
    Compact { back: u64 },
    Reopen,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        12 => (0u8..6, prop::bool::weighted(0.2)).prop_map(|(key, stale)| Op::Put { key, stale }),
        6 => (0u8..6, prop::bool::weighted(0.2)).prop_map(|(key, stale)| Op::Delete { key, stale }),
        1 => (0u64..8).prop_map(|back| Op::Compact { back }),
        1 => Just(Op::Reopen),
    ]
}

/// What a store must show: the whole state at each revision, kept naively.
#[derive(Default)]
struct Model {
    states: BTreeMap<Revision, BTreeMap<String, (Revision, String)>>,
    changes: BTreeMap<Revision, String>,
    compacted: Revision,
}

impl Model {
    fn newest(&self) -> (Revision, BTreeMap<String, (Revision, String)>) {
        self.states.last_key_value().map(|(revision, state)| (*revision, state.clone())).unwrap()
    }
}

async fn step(store: &EmbeddedStore, model: &mut Model, key: u8, stale: bool, value: Option<String>) {
    // Half of the keys share a prefix with the others.
    let key = format!("/{}/{key}", ["even", "odd"][usize::from(key % 2)]);
    let (revision, mut state) = model.newest();
    let existing = state.get(&key).map(|(revision, _)| *revision);
    let expect = match (existing, stale) {
        (Some(at), false) => Expectation::Revision(at),
        (Some(_), true) | (None, false) => Expectation::Absent,
        (None, true) => Expectation::Revision(revision),
    };
    let holds = match expect {
        Expectation::Absent => existing.is_none(),
        Expectation::Revision(at) => existing == Some(at),
    };
    let write = match &value {
        Some(value) => put(&key, expect, value),
        None => Write { key: key.as_str().into(), expect, change: Change::Delete },
    };
    match store.commit(write).await {
        Ok(event) => {
            assert!(holds, "{expect:?} does not hold");
            assert_eq!(event.revision, revision + 1);
            match value {
                Some(value) => state.insert(key.clone(), (event.revision, value)),
                None => state.remove(&key),
            };
            model.states.insert(event.revision, state);
            model.changes.insert(event.revision, key);
        }
        Err(_) => assert!(!holds, "{expect:?} holds"),
    }
}

async fn check(store: &EmbeddedStore, model: &Model) {
    let (newest, _) = model.newest();
    for (&revision, expected) in &model.states {
        for prefix in ["/", "/even/", "/odd/3"] {
            let list = store
                .list(ListRequest { prefix: prefix.into(), at: Some(revision), ..ListRequest::default() })
                .await;
            let watch = store.watch(prefix, revision).await;
            if revision < model.compacted {
                assert!(matches!(list, Err(ReadError::Compacted { .. })));
                assert!(matches!(watch, Err(ReadError::Compacted { .. })));
                continue;
            }
            let listed: Vec<_> = list
                .unwrap()
                .entries
                .iter()
                .map(|e| (e.key.to_string(), (e.revision, String::from_utf8(e.value.to_vec()).unwrap())))
                .collect();
            let expected: Vec<_> = expected
                .iter()
                .filter(|(key, _)| key.starts_with(prefix))
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect();
            assert_eq!(listed, expected);
            let expected: Vec<_> =
                model.changes.range(revision + 1..).filter(|(_, key)| key.starts_with(prefix)).collect();
            let events: Vec<_> = watch.unwrap().take(expected.len()).map(Result::unwrap).collect().await;
            for (event, (at, key)) in events.iter().zip(expected) {
                assert_eq!((event.revision, event.key.as_ref()), (*at, key.as_str()));
                let value = |state: &BTreeMap<String, (Revision, String)>| state.get(key).map(|(at, _)| *at);
                assert_eq!(event.current.as_ref().map(|e| e.revision), value(&model.states[at]));
                assert_eq!(event.previous.as_ref().map(|e| e.revision), value(&model.states[&(at - 1)]));
            }
        }
    }
    assert_eq!(store.revision().await.unwrap(), newest);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn behaves_as_its_model(ops in prop::collection::vec(op(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let directory = tempfile::tempdir().unwrap();
            let mut store = store_in(&directory, 1000);
            let mut model = Model::default();
            model.states.insert(store.revision().await.unwrap(), BTreeMap::new());
            model.compacted = store.statistics().compacted;
            for (n, op) in ops.into_iter().enumerate() {
                match op {
                    Op::Put { key, stale } => step(&store, &mut model, key, stale, Some(format!("value {n}"))).await,
                    Op::Delete { key, stale } => step(&store, &mut model, key, stale, None).await,
                    Op::Compact { back } => {
                        let to = model.newest().0.saturating_sub(back);
                        store.compact(to).await.unwrap();
                        model.compacted = model.compacted.max(to);
                    }
                    Op::Reopen => {
                        drop(store);
                        store = store_in(&directory, 1000);
                    }
                }
            }
            tokio::time::timeout(Duration::from_secs(20), check(&store, &model)).await.unwrap();
            drop(store);
            let store = store_in(&directory, 1000);
            tokio::time::timeout(Duration::from_secs(20), check(&store, &model)).await.unwrap();
        });
    }
}
