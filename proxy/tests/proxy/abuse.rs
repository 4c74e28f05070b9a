//! Many bad clients at once: the others do not notice, and nothing is left behind.

use std::{
    future::Future,
    net::SocketAddr,
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    process::{Child, Command},
};

use crate::support::{Upstream, bootstrap, raw, read_request, statuses};

const CLIENTS: usize = 500;
/// Every timer of the proxy.
const TIMER: Duration = Duration::from_secs(2);
/// How long an ordinary request may take: far less than to wait for hundreds of others one after the other, each up to its
/// timer, and enough for a busy machine on which all of them begin at once.
const GRACE: Duration = Duration::from_secs(30);
/// What these clients may cost.
const MEMORY_KB: u64 = 30 * 1024;
/// What may stay of that for the next that come: the heap does not shrink while something lives at its end.
const KEPT_KB: u64 = MEMORY_KB / 2;

/// weft-proxy in a process of its own, because its memory is looked at. It has one worker: nobody can step aside.
struct ProxyProcess {
    child: Child,
    at: SocketAddr,
    admin: SocketAddr,
    _directory: tempfile::TempDir,
}

// === impl ProxyProcess ===

impl ProxyProcess {
    async fn start(upstream: SocketAddr) -> Self {
        let seconds = TIMER.as_secs();
        let manager = format!(
            "request_headers_timeout: {seconds}s\nstream_idle_timeout: {seconds}s\ncommon_http_protocol_options: {{ idle_timeout: {seconds}s }}"
        );
        let directory = tempfile::tempdir().expect("a folder");
        let file = |name: &str| -> PathBuf { directory.path().join(name) };
        let admin = "admin: { address: { socket_address: { address: 127.0.0.1, port_value: 0 } } }\n";
        let route = "timeout: 0s";
        let text = format!("{admin}{}", bootstrap(&[upstream], &manager, route, ""));
        std::fs::write(file("bootstrap.yaml"), text).expect("writes");
        let child = Command::new(env!("CARGO_BIN_EXE_weft-proxy"))
            .arg("--config-path")
            .arg(file("bootstrap.yaml"))
            .arg("--admin-address-path")
            .arg(file("admin"))
            .args(["--concurrency", "1", "--log-level", "error"])
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("weft-proxy starts");
        let admin = eventually("an admin address", || async {
            std::fs::read_to_string(file("admin")).ok()?.parse::<SocketAddr>().ok()
        })
        .await;
        let listeners = eventually("listeners", || async {
            let answer = raw(admin, "GET /listeners HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
            answer.lines().find_map(|line| line.strip_prefix("http::")?.parse::<SocketAddr>().ok())
        })
        .await;
        Self { child, at: listeners, admin, _directory: directory }
    }

    fn resident_kb(&self) -> u64 {
        let pid = self.child.id().expect("it runs");
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a line of the kernel");
        line.split_whitespace().nth(1).and_then(|kb| kb.parse().ok()).expect("a number of the kernel")
    }

    async fn metric(&self, name: &str) -> f64 {
        metric(self.admin, name).await
    }

    /// Runs `abuse` while ordinary requests are made, and looks at the memory all the time.
    async fn withstands(self, what: &str, kept_kb: u64, abuse: impl Future<Output = ()>) {
        // Everything that is needed once is there before it is measured.
        for _ in 0..20 {
            assert!(ordinary(self.at).await < GRACE);
        }
        let before = self.resident_kb();
        let (mut peak, mut slowest) = (before, Duration::ZERO);
        let mut abuse = std::pin::pin!(abuse);
        loop {
            tokio::select! {
                () = &mut abuse => break,
                took = ordinary(self.at) => slowest = slowest.max(took),
            }
            peak = peak.max(self.resident_kb());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        println!(
            "{what}: {before} KiB before, {peak} at most, {} at the end; slowest ordinary request {slowest:?}",
            self.resident_kb()
        );
        assert!(slowest < GRACE, "{what}: an ordinary request took {slowest:?}");
        assert!(peak - before <= MEMORY_KB, "{what}: memory grew from {before} to {peak} KiB");
        eventually("every connection is gone", || async {
            (self.metric("envoy_http_downstream_rq_active").await < 0.5
                && self.metric("envoy_listener_downstream_cx_active").await < 0.5)
                .then_some(())
        })
        .await;
        eventually("memory falls again", || async { (self.resident_kb() <= before + kept_kb).then_some(()) })
            .await;
        assert!(self.metric("weft_server_caught_panics_total").await < 0.5);
    }
}

/// Waits for something that must come within seconds.
async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut probe: impl FnMut() -> F) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{what}: not in time");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn metric(admin: SocketAddr, name: &str) -> f64 {
    let request = "GET /stats/prometheus HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    raw(admin, request)
        .await
        .lines()
        .filter(|line| line.split(['{', ' ']).next() == Some(name))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

/// How long a request of an honest client takes.
async fn ordinary(at: SocketAddr) -> Duration {
    let began = Instant::now();
    let answer = raw(at, "GET /ordinary HTTP/1.1\r\nHost: w\r\nConnection: close\r\n\r\n").await;
    assert_eq!(statuses(&answer), ["200"], "{answer}");
    began.elapsed()
}

/// Answers `/endless` with a body that never ends, and everything else with "ok".
async fn upstream() -> Upstream {
    Upstream::scripted(|mut stream, _| async move {
        let mut buffer = Vec::new();
        while let Some(request) = read_request(&mut stream, &mut buffer).await {
            if request.starts_with(b"GET /endless") {
                let _ = SockRef::from(&stream).set_send_buffer_size(64 * 1024);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n").await;
                while stream.write_all(&[b'x'; 16 * 1024]).await.is_ok() {}
                return;
            }
            if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.is_err() {
                return;
            }
        }
    })
    .await
}

/// Opens all clients. Each sends `first` and then a byte now and then, `bytes` of them at most; waits until each is let go.
async fn slow(at: SocketAddr, first: &'static [u8], bytes: usize) {
    let client = move || async move {
        let mut stream = TcpStream::connect(at).await.expect("connects");
        stream.write_all(first).await.expect("writes");
        let mut answer = [0; 1024];
        for _ in 0..bytes {
            match tokio::time::timeout(TIMER / 8, stream.read(&mut answer)).await {
                Err(_) => drop(stream.try_write(b"a")),
                Ok(Ok(count)) if count > 0 => {}
                Ok(_) => return,
            }
        }
        while matches!(stream.read(&mut answer).await, Ok(count) if count > 0) {}
    };
    let clients = (0..CLIENTS).map(|_| tokio::spawn(client()));
    let all = futures::future::join_all(clients);
    let ended = tokio::time::timeout(10 * TIMER, all).await.expect("slow clients are let go");
    assert!(ended.iter().all(Result::is_ok));
}

/// Opens all clients. Each asks for a body without end and never reads; waits until the proxy has let go of all.
async fn stuck_readers(at: SocketAddr, admin: SocketAddr, wave: usize) {
    let connect = |_| async move {
        let socket = TcpSocket::new_v4().expect("a socket");
        // As on a real network; with those of a loopback interface, the kernel takes megabytes for each of them.
        SockRef::from(&socket).set_tcp_mss(1400).expect("an option of the kernel");
        socket.set_recv_buffer_size(32 * 1024).expect("an option of the kernel");
        let mut stream = socket.connect(at).await.expect("connects");
        stream.write_all(b"GET /endless HTTP/1.1\r\nHost: w\r\n\r\n").await.expect("writes");
        stream
    };
    let clients = futures::future::join_all((0..CLIENTS).map(connect)).await;
    eventually("every client is let go", || async {
        let ended = metric(admin, "envoy_cluster_upstream_rq_total").await >= (wave * CLIENTS) as f64
            && metric(admin, "envoy_http_downstream_rq_active").await < CLIENTS as f64 / 100.0;
        ended.then_some(())
    })
    .await;
    drop(clients);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_heads_are_let_go_and_nobody_else_waits() {
    let upstream = upstream().await;
    let proxy = ProxyProcess::start(upstream.address).await;
    let at = proxy.at;
    proxy.withstands("slow heads", KEPT_KB, slow(at, b"GET / HTTP/1.1\r\nHost: w\r\nX: ", usize::MAX)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_bodies_are_let_go_and_nobody_else_waits() {
    let upstream = upstream().await;
    let proxy = ProxyProcess::start(upstream.address).await;
    let head = b"POST / HTTP/1.1\r\nHost: w\r\nContent-Length: 1000\r\n\r\n";
    let at = proxy.at;
    proxy.withstands("slow bodies", KEPT_KB, slow(at, head, 4)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_never_read_are_let_go_and_nobody_else_waits() {
    let upstream = upstream().await;
    let proxy = ProxyProcess::start(upstream.address).await;
    let (at, admin) = (proxy.at, proxy.admin);
    // Freed buffers of many sizes stay in the heap; that they are not lost shows in that a second wave needs no more.
    let waves = async {
        stuck_readers(at, admin, 1).await;
        stuck_readers(at, admin, 2).await;
    };
    proxy.withstands("stuck readers", MEMORY_KB, waves).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_resets_leaves_nothing_behind() {
    let upstream = upstream().await;
    let proxy = ProxyProcess::start(upstream.address).await;
    let at = proxy.at;
    let flood = async {
        for round in 0..40 {
            let resets = (0..100).map(|number| async move {
                let Ok(mut stream) = TcpStream::connect(at).await else { return };
                // In every state that a request can be in.
                let request: &[u8] = match (round + number) % 4 {
                    0 => b"",
                    1 => b"GET / HT",
                    2 => b"POST / HTTP/1.1\r\nHost: w\r\nContent-Length: 9\r\n\r\nabc",
                    _ => b"GET /endless HTTP/1.1\r\nHost: w\r\n\r\n",
                };
                let _ = stream.write_all(request).await;
                let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            });
            futures::future::join_all(resets).await;
        }
    };
    proxy.withstands("resets", KEPT_KB, flood).await;
}
