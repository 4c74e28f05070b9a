//! Streams of changes of proxies.

use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{Stream, stream};
use http_body::Frame;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use weft_api::status::Status;

use super::{
    GROUP, VERSION,
    feed::{Change, EVERY, Event, Expired, Feed},
    object,
    params::Params,
    table,
};

/// How often a quiet watch is told how far it is, and how long one lasts that names no time; as kube-apiserver.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);
const TIMEOUT: Duration = Duration::from_secs(1800);

/// A running watch. `position` is canonical: everything up to it was told or does not concern the client.
pub(super) struct Watch {
    feed: Arc<Feed>,
    params: Params,
    /// The version of the table that the client wants instead of objects.
    table: Option<&'static str>,
    position: Option<u64>,
    /// Columns go with the first table only.
    columns: bool,
    waiting: VecDeque<Bytes>,
    next_look: Instant,
    next_bookmark: Instant,
    deadline: Instant,
    ended: bool,
    shutdown: CancellationToken,
}

// === impl Watch ===

impl Watch {
    /// Begins at the position that the parameters name, if that is still known.
    pub(super) fn new(
        feed: Arc<Feed>,
        params: Params,
        table: Option<&'static str>,
        shutdown: CancellationToken,
    ) -> Result<Self, Status> {
        let now = Instant::now();
        let mut watch = Self {
            feed,
            table,
            position: params.position,
            columns: true,
            waiting: VecDeque::new(),
            next_look: now + EVERY,
            next_bookmark: now + BOOKMARK_INTERVAL,
            deadline: now + params.timeout.unwrap_or(TIMEOUT),
            ended: false,
            shutdown,
            params,
        };
        watch.advance().map_err(expired)?;
        if watch.params.initial_events && watch.params.bookmarks {
            watch.bookmark(true);
        }
        Ok(watch)
    }

    /// As the body of a response.
    pub(super) fn frames(self) -> impl Stream<Item = Result<Frame<Bytes>, Infallible>> + Send {
        stream::unfold(self, |mut watch| async move {
            let piece = watch.next().await?;
            Some((Ok(Frame::data(piece)), watch))
        })
    }

    /// The next event; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(piece) = self.waiting.pop_front() {
                return Some(piece);
            }
            if self.ended {
                return None;
            }
            tokio::select! {
                () = sleep_until(self.next_look) => {
                    self.next_look = Instant::now() + EVERY;
                    if let Err(error) = self.advance() {
                        self.push("ERROR", &expired(error).to_json());
                        self.ended = true;
                    }
                }
                () = sleep_until(self.next_bookmark), if self.params.bookmarks => {
                    self.next_bookmark = Instant::now() + BOOKMARK_INTERVAL;
                    self.bookmark(false);
                }
                () = sleep_until(self.deadline) => {
                    self.ended = true;
                    if self.params.bookmarks {
                        self.bookmark(false);
                    }
                }
                () = self.shutdown.cancelled() => self.ended = true,
            }
        }
    }

    fn advance(&mut self) -> Result<(), Expired> {
        let (events, position) = self.feed.after(self.position)?;
        self.position = Some(position);
        for Event { change, books, revision } in events {
            if !self.params.selection.selects(&books.node.id) {
                continue;
            }
            let kind = match change {
                Change::Added => "ADDED",
                Change::Modified => "MODIFIED",
                Change::Deleted => "DELETED",
            };
            let object = match self.table {
                None => object::proxy(&books, revision),
                Some(version) => {
                    let columns = std::mem::take(&mut self.columns);
                    let proxies = [(books, revision)];
                    table::table(version, &proxies, revision, self.params.include, columns)
                }
            };
            self.push(kind, &object);
        }
        Ok(())
    }

    /// Says how far the client is, after everything up to there.
    fn bookmark(&mut self, end_of_initial: bool) {
        let Some(position) = self.position else { return };
        let mut metadata = json!({ "resourceVersion": position.to_string(), "creationTimestamp": null });
        if end_of_initial {
            metadata["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
        }
        let object = match self.table {
            None => {
                json!({ "kind": "Proxy", "apiVersion": format!("{GROUP}/{VERSION}"), "metadata": metadata })
            }
            Some(version) => {
                let api_version = format!("meta.k8s.io/{version}");
                let object = json!({ "kind": "PartialObjectMetadata", "apiVersion": api_version, "metadata": metadata });
                json!({ "kind": "Table", "apiVersion": api_version, "columnDefinitions": [],
                        "metadata": { "resourceVersion": position.to_string() },
                        "rows": [{ "cells": [], "object": object }] })
            }
        };
        self.push("BOOKMARK", &object);
    }

    fn push(&mut self, kind: &str, object: &Value) {
        let line = json!({ "type": kind, "object": object }).to_string() + "\n";
        self.waiting.push_back(Bytes::from(line));
    }
}

fn expired(Expired { oldest }: Expired) -> Status {
    Status::expired(format!("too old resource version: what changed is known since {oldest}"))
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use weft_xds::server::ProxyBooks;

    use super::{super::feed::tests, *};

    fn watch(query: &str, table: bool) -> (Watch, Arc<Mutex<Vec<ProxyBooks>>>) {
        let (feed, proxies) = tests::feed(vec![tests::proxy("a", "1"), tests::proxy("b", "1")]);
        let (_, revision) = feed.list();
        let query = query.replace("NOW", &revision.to_string());
        let params = Params::parse(Some(&query)).unwrap();
        let watch = Watch::new(feed, params, table.then_some("v1"), CancellationToken::new()).unwrap();
        (watch, proxies)
    }

    async fn next(watch: &mut Watch) -> Value {
        serde_json::from_slice(&watch.next().await.expect("an event")).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_tells_who_comes_changes_and_goes() {
        let (mut watch, proxies) =
            watch("watch=true&resourceVersion=NOW&timeoutSeconds=9&allowWatchBookmarks=1", false);
        *proxies.lock() = vec![tests::proxy("a", "2"), tests::proxy("c", "1")];
        let mut last = 0;
        for (kind, name) in [("DELETED", "b"), ("MODIFIED", "a"), ("ADDED", "c")] {
            let event = next(&mut watch).await;
            assert_eq!((&event["type"], &event["object"]["metadata"]["name"]), (&kind.into(), &name.into()));
            let version: u64 =
                event["object"]["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
            assert!(version > last, "in order");
            last = version;
        }
        let started = Instant::now();
        let event = next(&mut watch).await;
        assert_eq!(event["type"], "BOOKMARK");
        assert_eq!(event["object"]["metadata"]["resourceVersion"], last.to_string());
        assert_eq!(watch.next().await, None);
        assert_eq!(started.elapsed(), Duration::from_secs(8), "its time was over");
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_from_nowhere_starts_with_what_there_is_and_one_may_ask_for_one_proxy() {
        let (mut all, _proxies) = watch("watch=1&sendInitialEvents=true&allowWatchBookmarks=true", false);
        for (kind, name) in [("ADDED", "a".into()), ("ADDED", "b".into()), ("BOOKMARK", Value::Null)] {
            let event = next(&mut all).await;
            assert_eq!((&event["type"], &event["object"]["metadata"]["name"]), (&kind.into(), &name));
        }
        let (mut one, proxies) = watch("watch=1&fieldSelector=metadata.name%3Db", true);
        let event = next(&mut one).await;
        assert_eq!(
            (&event["object"]["kind"], &event["object"]["rows"][0]["cells"][0]),
            (&"Table".into(), &"b".into())
        );
        assert!(!event["object"]["columnDefinitions"].as_array().unwrap().is_empty());
        *proxies.lock() = vec![tests::proxy("a", "2"), tests::proxy("b", "2")];
        let event = next(&mut one).await;
        assert_eq!(
            (&event["type"], &event["object"]["rows"][0]["cells"][0]),
            (&"MODIFIED".into(), &"b".into())
        );
        assert_eq!(event["object"]["columnDefinitions"], json!([]), "once is enough");
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_is_to_last_for_ever_starts_like_any_other() {
        let (mut watch, _proxies) = watch("watch=1&timeoutSeconds=18446744073709551615", false);
        assert_eq!(next(&mut watch).await["type"], "ADDED");
    }

    #[tokio::test]
    async fn a_watch_from_before_a_restart_has_to_list_again_and_one_ends_with_control() {
        let (feed, _) = tests::feed(vec![]);
        let params = Params::parse(Some("watch=1&resourceVersion=5")).unwrap();
        let token = CancellationToken::new();
        let error = Watch::new(feed.clone(), params, None, token.clone()).err().expect("it is refused");
        assert_eq!((error.code, error.reason), (410, "Expired"));
        let mut watch =
            Watch::new(feed, Params::parse(Some("watch=1")).unwrap(), None, token.clone()).unwrap();
        token.cancel();
        assert_eq!(watch.next().await, None);
    }
}
