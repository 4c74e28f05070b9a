//! The promise of the store under violence: a process is killed in the middle of 64 concurrent writers, and what it
//! acknowledged must be there.

use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};

use weft_store::{Change, EmbeddedStore, Expectation, ListRequest, Options, Store, Write};

/// Names the store's file to the child process; without it the child's test does nothing.
const PATH: &str = "WEFT_STORE_KILL_TEST";
const WRITERS: usize = 64;
/// Acknowledgements after which the child is killed, one number for each round.
const ROUNDS: [usize; 4] = [1, 100, 1_000, 3_000];

fn value(key: &str) -> String {
    format!("value of {key} {}", "x".repeat(500))
}

#[test]
fn child_writes_until_it_is_killed() {
    let Ok(path) = std::env::var(PATH) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let store = Arc::new(EmbeddedStore::open(Path::new(&path), Options::default()).unwrap());
    runtime.block_on(async {
        let start = store.revision().await.unwrap();
        let writers = (0..WRITERS).map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                for n in 0.. {
                    let key = format!("/{start}/{writer}/{n}");
                    let change = Change::Put { value: value(&key).into(), stamp: None };
                    let write = Write { key: key.as_str().into(), expect: Expectation::Absent, change };
                    store.commit(write).await.unwrap();
                    // One write call for each line: what the parent reads whole was acknowledged.
                    std::io::stdout().write_all(format!("acked {key}\n").as_bytes()).unwrap();
                }
            })
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.await.unwrap();
        }
    });
}

#[tokio::test]
async fn every_acknowledged_write_survives_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let mut acked = BTreeSet::new();
    let mut revision = 0;
    for enough in ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_writes_until_it_is_killed", "--nocapture"])
            .env(PATH, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut key_of = |line: String| line.split_once("acked ").map(|(_, key)| key.to_owned());
        let keys = lines.by_ref().map_while(Result::ok).filter_map(&mut key_of).take(enough);
        acked.extend(keys);
        child.kill().unwrap();
        child.wait().unwrap();
        // What it said between the last line read and its death counts as well; a line without an end does not.
        let mut rest: Vec<_> = lines.map_while(Result::ok).filter_map(key_of).collect();
        rest.pop();
        acked.extend(rest);

        let store = EmbeddedStore::open(&path, Options::default()).unwrap();
        let list = store.list(ListRequest { prefix: "/".into(), ..ListRequest::default() }).await.unwrap();
        let found: BTreeSet<_> = list.entries.iter().map(|entry| entry.key.to_string()).collect();
        let lost: Vec<_> = acked.difference(&found).collect();
        assert!(lost.is_empty(), "{} of {} acknowledged writes are lost: {lost:?}", lost.len(), acked.len());
        for entry in &list.entries {
            assert_eq!(entry.value, value(&entry.key), "the value of {} is whole", entry.key);
        }
        assert!(list.revision > revision, "revisions never go back");
        revision = list.revision;
    }
    assert!(acked.len() >= ROUNDS.iter().sum(), "{} writes were acknowledged", acked.len());
}
