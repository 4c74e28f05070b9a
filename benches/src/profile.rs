//! What the time of a proxy goes into: samples of perf and counts of strace, as Markdown.

use std::{collections::BTreeMap, fmt::Write as _};

/// Functions by the first pattern that their symbol contains.
const GROUPS: &[(&str, &[&str])] = &[
    ("TLS", &["rustls", "aws_lc", "aws-lc", "ring_core", "gcm", "sha256", "x25519", "ecp_", "bignum"]),
    ("HTTP/2 (h2, hyper)", &["h2::", "hyper", "http::header"]),
    ("HTTP/1: parse, frame, compose", &["weft_proxy::http::h1", "httparse"]),
    ("exchange: plan, retry, account", &["weft_proxy::http::exchange"]),
    ("HTTP: the rest", &["weft_proxy::http"]),
    ("route and filters", &["weft_proxy::route", "weft_proxy::filter"]),
    ("balance and pool", &["weft_proxy::balance", "weft_proxy::pool", "weft_proxy::cluster"]),
    ("metrics and access log", &["weft_proxy::metrics", "weft_proxy::access_log"]),
    ("TCP", &["weft_proxy::tcp"]),
    ("proxy: the rest", &["weft_proxy", "weft_xds", "weft_kit"]),
    ("runtime (tokio, mio)", &["tokio", "mio::", "futures"]),
    ("allocator", &["malloc", "free", "calloc", "realloc", "alloc::alloc", "mi_", "je_", "_int_"]),
    ("memory copies and searches", &["memcpy", "memmove", "memset", "memcmp", "memchr", "memrchr"]),
    ("clock", &["vdso", "clock_gettime", "Instant", "Timespec"]),
    (
        "system call wrappers (libc, std)",
        &["recv", "send", "read", "write", "epoll", "std::", "core::", "__errno", "pthread"],
    ),
];

/// The kernel's functions, likewise.
const KERNEL_GROUPS: &[(&str, &[&str])] = &[
    ("kernel: polling", &["epoll", "ep_", "eventfd", "poll"]),
    (
        "kernel: scheduling and wake-ups",
        &[
            "sched",
            "wake",
            "enqueue",
            "dequeue",
            "pick_",
            "schedule",
            "rq_",
            "switch",
            "update_load",
            "hrtimer",
        ],
    ),
    ("kernel: copies", &["copy_", "_copy", "rep_movs", "memcpy"]),
    (
        "kernel: network",
        &[
            "tcp", "ip_", "inet", "skb", "sock", "net", "loopback", "dev_", "__dev", "xmit", "softirq",
            "nf_", "fib", "dst", "gro", "qdisc", "kfree", "kmem", "slab", "__alloc",
        ],
    ),
    (
        "kernel: system call entry",
        &["entry", "syscall", "fdget", "fput", "__x64", "vfs", "import_", "ksys", "security"],
    ),
    ("kernel: locks and interrupts", &["spin", "lock", "irq", "bh_", "rcu", "ipi"]),
];

/// One function with the number of samples in it.
pub type Functions = BTreeMap<(String, bool), u64>;

/// Reads `perf script -F ip,sym,dso`: one line per sample.
pub fn functions(script: &str) -> Functions {
    let mut functions = Functions::new();
    for line in script.lines() {
        let Some((_, rest)) = line.trim().split_once(' ') else { continue };
        let Some((symbol, object)) = rest.rsplit_once(" (") else { continue };
        let kernel = object.starts_with("[kernel") || object.starts_with("[guest.kernel");
        let symbol = if object.starts_with("[vdso]") { "vdso" } else { symbol };
        *functions.entry((symbol.trim().to_owned(), kernel)).or_default() += 1;
    }
    functions
}

/// Both tables of the samples, of which all together are `cost` in `unit`: groups, and the functions of the proxy itself that take most.
pub fn samples(functions: &Functions, cost: f64, unit: &str) -> String {
    let total = functions.values().sum::<u64>().max(1) as f64;
    let mut groups: BTreeMap<&str, u64> = BTreeMap::new();
    for ((symbol, kernel), count) in functions {
        *groups.entry(group(symbol, *kernel)).or_default() += count;
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let mut text = format!("| group | share | {unit} |\n|---|---:|---:|\n");
    for (name, count) in groups {
        let share = count as f64 / total;
        _ = writeln!(text, "| {name} | {:.1} % | {:.2} |", share * 100.0, share * cost);
    }
    let mut own: Vec<_> = functions.iter().filter(|((_, kernel), _)| !kernel).collect();
    own.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    text.push_str("\n| function outside the kernel | share |\n|---|---:|\n");
    for ((symbol, _), count) in own.into_iter().take(25) {
        _ = writeln!(text, "| `{}` | {:.1} % |", symbol.replace('|', "\\|"), *count as f64 / total * 100.0);
    }
    text
}

/// The table of `strace -c`, per request.
pub fn calls(strace: &str, requests: u64) -> String {
    let mut text = "| system call | per request |\n|---|---:|\n".to_owned();
    for line in strace.lines() {
        // % time, seconds, usecs/call, calls, [errors], syscall
        let words: Vec<&str> = line.split_whitespace().collect();
        let (Some(name), Some(Ok(calls))) = (words.last(), words.get(3).map(|word| word.parse::<u64>()))
        else {
            continue;
        };
        let per_request = calls as f64 / requests.max(1) as f64;
        if *name != "total" && per_request >= 0.005 {
            _ = writeln!(text, "| {name} | {per_request:.2} |");
        }
    }
    text
}

fn group(symbol: &str, kernel: bool) -> &'static str {
    let groups = if kernel { KERNEL_GROUPS } else { GROUPS };
    let holds = |patterns: &[&str]| patterns.iter().any(|pattern| symbol.contains(pattern));
    let found = groups.iter().find(|(_, patterns)| holds(patterns));
    found.map_or(if kernel { "kernel: the rest" } else { "the rest" }, |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_counted_by_group() {
        let script = "    5581 weft_proxy::http::h1::parse::head (/x/weft-proxy)\n    \
                      5582 httparse::simd (/x/weft-proxy)\n  ffffffff81 tcp_sendmsg ([kernel.kallsyms])\n\
                      7ffd __vdso_clock_gettime ([vdso])\n";
        let text = samples(&functions(script), 10.0, "µs");
        assert!(text.contains("| HTTP/1: parse, frame, compose | 50.0 % | 5.00 |"), "{text}");
        assert!(text.contains("| kernel: network | 25.0 % | 2.50 |"), "{text}");
        assert!(text.contains("| clock | 25.0 % | 2.50 |"), "{text}");
    }

    #[test]
    fn calls_are_divided_by_requests() {
        let strace = "% time     seconds  usecs/call     calls    errors syscall\n------ ----------- ----------- --------- --------- ----------------\n \
                      60.00    0.010000          10      2000           sendto\n 40.00    0.005000          10       500       100 epoll_wait\n------ \n100.00    0.015000          10      2500       100 total\n";
        let text = calls(strace, 1000);
        assert!(text.contains("| sendto | 2.00 |") && text.contains("| epoll_wait | 0.50 |"), "{text}");
        assert!(!text.contains("total"), "{text}");
    }
}
