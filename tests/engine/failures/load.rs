//! An open loop: requests leave when it is their turn, whatever became of those before.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    sync::watch,
    task::{JoinHandle, JoinSet},
};
use weft_tests::proxy::Proxy;

use super::backend::NAME;

/// A load of known rate and count that is under way.
pub(super) struct Load {
    task: JoinHandle<Answers>,
    sent: watch::Receiver<usize>,
    /// Requests that wait for their answer; changes with each answer.
    waiting: watch::Receiver<BTreeSet<usize>>,
}

/// What the clients got, in the order in which they asked.
#[derive(Debug)]
pub(super) struct Answers(Vec<Answer>);

/// What one client got.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    /// 0 if there was none.
    status: u16,
    /// The backend that gave it; empty if none did.
    from: String,
    /// Whether it says that somebody is overloaded.
    overloaded: bool,
    took: Duration,
    /// What went wrong, for people.
    #[expect(dead_code, reason = "shown with the first few that failed")]
    text: String,
}

/// Connections that clients share, one request at a time on each.
#[derive(Clone, Default)]
struct Idle(Arc<Mutex<Vec<SendRequest<Empty<Bytes>>>>>);

/// Longer than anything that ends takes.
const PATIENCE: Duration = Duration::from_secs(30);

// === impl Load ===

impl Load {
    /// Begins to send `count` requests to a listener, `per_second` in each second.
    pub(super) fn start(
        proxy: &Proxy,
        listener: &str,
        count: usize,
        per_second: u32,
    ) -> anyhow::Result<Self> {
        let (at, (tell, sent)) = (proxy.at(listener)?, watch::channel(0));
        let (outstanding, waiting) = watch::channel(BTreeSet::new());
        let task = tokio::spawn(async move {
            let (idle, mut asking) = (Idle::default(), JoinSet::new());
            // A turn that was missed because the machine is busy is made up for: the number counts.
            let mut turns = tokio::time::interval(Duration::from_secs(1) / per_second);
            for number in 0..count {
                turns.tick().await;
                let (idle, outstanding) = (idle.clone(), outstanding.clone());
                outstanding.send_modify(|waiting| _ = waiting.insert(number));
                asking.spawn(async move {
                    let answer = ask(at, &idle).await;
                    outstanding.send_modify(|waiting| _ = waiting.remove(&number));
                    (number, answer)
                });
                tell.send_replace(number + 1);
            }
            let mut answers = asking.join_all().await;
            answers.sort_by_key(|(number, _)| *number);
            Answers(answers.into_iter().map(|(_, answer)| answer).collect())
        });
        Ok(Self { task, sent, waiting })
    }

    /// Waits until so many requests were sent.
    pub(super) async fn sent(&mut self, count: usize) -> anyhow::Result<()> {
        self.sent.wait_for(|sent| *sent >= count).await.context("the load ended before")?;
        Ok(())
    }

    /// Waits until everything that was sent so far has its answer, and gives the number.
    pub(super) async fn settled(&mut self) -> anyhow::Result<usize> {
        let sent = self.sent_so_far();
        let all = |waiting: &BTreeSet<usize>| waiting.first().is_none_or(|first| *first >= sent);
        self.waiting.wait_for(all).await.context("the load ended before")?;
        Ok(sent)
    }

    /// How many requests were sent so far.
    pub(super) fn sent_so_far(&self) -> usize {
        *self.sent.borrow()
    }

    /// Waits until every request has its answer.
    pub(super) async fn end(self) -> anyhow::Result<Answers> {
        let answers = self.task.await.context("the load broke")?;
        print!("{} requests:", answers.0.len());
        let mut seen: Vec<_> = answers.0.iter().map(|answer| (answer.status, answer.from.as_str())).collect();
        seen.sort_unstable();
        for group in seen.chunk_by(|a, b| a == b) {
            print!(" {}× {} {}", group.len(), group[0].0, group[0].1);
        }
        println!();
        Ok(answers)
    }
}

// === impl Answers ===

impl Answers {
    /// Those of some of the requests, by the order in which they were sent.
    pub(super) fn of(&self, numbers: Range<usize>) -> Answers {
        Answers(self.0[numbers].to_vec())
    }

    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// How many were not as they should be; says what the first few were.
    pub(super) fn failed(&self) -> usize {
        let failed: Vec<_> = self.0.iter().filter(|answer| answer.status != 200).collect();
        for answer in failed.iter().take(5) {
            println!("failed: {answer:?}");
        }
        failed.len()
    }

    pub(super) fn with_status(&self, status: u16) -> usize {
        self.0.iter().filter(|answer| answer.status == status).count()
    }

    /// How many were refused for overload, and say so.
    pub(super) fn refused(&self) -> usize {
        self.0.iter().filter(|answer| answer.status == 503 && answer.overloaded).count()
    }

    /// How many of the good answers a backend gave.
    pub(super) fn from(&self, backend: &str) -> usize {
        self.0.iter().filter(|answer| answer.status == 200 && answer.from == backend).count()
    }

    /// How many good answers took longer than `limit`.
    pub(super) fn good_but_later_than(&self, limit: Duration) -> usize {
        self.0.iter().filter(|answer| answer.status == 200 && answer.took > limit).count()
    }
}

// === impl Idle ===

impl Idle {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<SendRequest<Empty<Bytes>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn take(&self, at: SocketAddr) -> anyhow::Result<SendRequest<Empty<Bytes>>> {
        loop {
            let Some(mut kept) = self.lock().pop() else { break };
            // One that was closed meanwhile is no failed request.
            if kept.ready().await.is_ok() {
                return Ok(kept);
            }
        }
        let stream = TcpStream::connect(at).await.context("cannot connect")?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }
}

async fn ask(at: SocketAddr, idle: &Idle) -> Answer {
    let started = Instant::now();
    let exchange = async {
        let mut connection = idle.take(at).await?;
        let request = Request::get("/").header("host", "failures").body(Empty::new())?;
        let (head, body) = connection.send_request(request).await?.into_parts();
        let body = body.collect().await.context("the body broke")?.to_bytes();
        idle.lock().push(connection);
        anyhow::Ok((head, String::from_utf8_lossy(&body).into_owned()))
    };
    let result = tokio::time::timeout(PATIENCE, exchange).await.context("no answer").flatten();
    let took = started.elapsed();
    match result {
        Ok((head, text)) => {
            let field = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
            Answer {
                status: head.status.as_u16(),
                from: field(NAME).unwrap_or_default().to_owned(),
                overloaded: field("x-envoy-overloaded") == Some("true"),
                took,
                text,
            }
        }
        Err(error) => {
            let text = format!("{error:#}");
            Answer { status: 0, from: String::new(), overloaded: false, took, text }
        }
    }
}
