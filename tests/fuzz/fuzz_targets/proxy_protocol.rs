//! PROXY protocol headers: one verdict, which no later byte changes, and in text what a naive reader of it sees.
#![no_main]

use std::net::{IpAddr, SocketAddr};

use libfuzzer_sys::fuzz_target;
use weft_proxy::fuzzing::{Reading, proxy_header};

/// The longest header of version 1.
const LINE: usize = 107;

fuzz_target!(|input: &[u8]| {
    let verdict = proxy_header(input);
    for end in 0..input.len() {
        let early = proxy_header(&input[..end]);
        assert!(early == Reading::Incomplete || early == verdict, "{early:?} at {end}, then {verdict:?}");
    }
    if verdict == Reading::Incomplete {
        assert!(input.len() <= LINE, "nobody waits for ever");
    }
    if let Reading::Complete(Some((length, addresses))) = verdict
        && input.starts_with(b"PROXY ")
    {
        assert!(length <= LINE && input[..length].ends_with(b"\r\n"));
        let line = std::str::from_utf8(&input[..length - 2]).expect("a line of text");
        assert_eq!(addresses, naive(line), "{line:?}");
    }
});

/// Source and destination of a line that was accepted.
fn naive(line: &str) -> Option<(SocketAddr, SocketAddr)> {
    let words: Vec<&str> = line.split(' ').collect();
    if words[1] == "UNKNOWN" {
        return None;
    }
    let [_, family, source, destination, from, to] = words[..] else { panic!("six words: {line:?}") };
    let address = |ip: &str, port: &str| {
        let ip: IpAddr = ip.parse().expect("an address");
        assert_eq!(ip.is_ipv4(), family == "TCP4", "the family that is announced");
        SocketAddr::new(ip, port.parse().expect("a port"))
    };
    Some((address(source, from), address(destination, to)))
}
