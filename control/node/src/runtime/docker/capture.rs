//! Transparent capture: in a pod's network namespace all TCP goes through its sidecar.
//!
//! * What the pod's processes send leaves to the sidecar's port 15001; what arrives goes to its port 15006. The
//!   original destination stays readable from the socket.
//! * The sidecar's own traffic, told by its user, is exempt, and so is what stays within the pod.
//! * Port 53 of the bridge's gateway, where the resolver's configuration points, is the mesh's DNS server.
//!
//! The namespace is entered by a thread of its own, which ends there: a namespace belongs to a thread.

use std::{
    fs::File,
    io::{self, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    process::{Command, Stdio},
    time::Duration,
};

use nix::sched::{CloneFlags, setns};
use weft_api::mesh::{ADMIN_PORT, INBOUND_CAPTURE_PORT, OUTBOUND_CAPTURE_PORT, SIDECAR_UID};

use crate::runtime::RuntimeError;

/// What the rules depend on.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    pub(super) gateway: Ipv4Addr,
    /// Port of the mesh's DNS server on the gateway.
    pub(super) dns_port: Option<u16>,
}

/// The program that writes the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tool {
    Nft,
    IptablesRestore,
}

/// Which program this machine has; nft first, as it replaces a whole table at once.
pub(super) fn find_tool() -> Result<Tool, RuntimeError> {
    let works = |program: &str| {
        let mut command = Command::new(program);
        command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    if works("nft") {
        Ok(Tool::Nft)
    } else if works("iptables-restore") {
        Ok(Tool::IptablesRestore)
    } else {
        let needed =
            "capturing the pods' traffic needs nft or iptables-restore; install nftables or iptables";
        Err(RuntimeError::Unsupported(needed.into()))
    }
}

/// Writes the rules into the namespace of a process. Blocks.
pub(super) fn apply(pid: i32, rules: &Rules) -> Result<(), RuntimeError> {
    run(pid, find_tool()?, rules)
}

fn run(pid: i32, tool: Tool, rules: &Rules) -> Result<(), RuntimeError> {
    let (program, arguments, input): (_, &[&str], _) = match tool {
        Tool::Nft => ("nft", &["-f", "-"], rules.nft()),
        Tool::IptablesRestore => ("iptables-restore", &["--noflush"], rules.iptables()),
    };
    let output = inside(pid, move || {
        // A child belongs to the namespace of the thread that starts it.
        let mut child =
            Command::new(program).args(arguments).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes())?;
        }
        child.wait_with_output()
    })
    .map_err(RuntimeError::io(format!("capture the pod's traffic with {program}")))?;
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(RuntimeError::Failed(format!("{program} cannot capture the pod's traffic: {reason}")))
}

/// Connects from within the namespace of a process, so past the capture. Blocks.
pub(super) fn connect_inside(pid: i32, address: SocketAddr, bound: Duration) -> io::Result<TcpStream> {
    // A socket stays in the namespace in which it was made, whoever uses it later.
    inside(pid, move || TcpStream::connect_timeout(&address, bound))
}

fn inside<T: Send + 'static>(
    pid: i32,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let namespace = File::open(format!("/proc/{pid}/ns/net"))?;
    let thread = std::thread::Builder::new().name("netns".into()).spawn(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        work()
    })?;
    thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread in the pod's network failed")))
}

// === impl Rules ===

impl Rules {
    fn nft(&self) -> String {
        let Self { gateway, .. } = self;
        let dns = self.dns_port.map(|port| {
            format!(
                "ip daddr {gateway} udp dport 53 dnat to {gateway}:{port}\n\
                 ip daddr {gateway} tcp dport 53 dnat to {gateway}:{port}\n"
            )
        });
        let dns = dns.unwrap_or_default();
        // Adding before deleting makes the deletion work whether or not the table is there.
        format!(
            "add table ip weft\n\
             delete table ip weft\n\
             table ip weft {{\n\
             chain output {{\n\
             type nat hook output priority -110; policy accept;\n\
             {dns}\
             meta skuid {SIDECAR_UID} return\n\
             oifname \"lo\" return\n\
             ip daddr 127.0.0.0/8 return\n\
             meta l4proto tcp redirect to :{OUTBOUND_CAPTURE_PORT}\n\
             }}\n\
             chain prerouting {{\n\
             type nat hook prerouting priority -110; policy accept;\n\
             iifname \"lo\" return\n\
             tcp dport {{ {ADMIN_PORT}, {OUTBOUND_CAPTURE_PORT}, {INBOUND_CAPTURE_PORT} }} return\n\
             meta l4proto tcp redirect to :{INBOUND_CAPTURE_PORT}\n\
             }}\n\
             }}\n"
        )
    }

    fn iptables(&self) -> String {
        let Self { gateway, .. } = self;
        let dns: String = match self.dns_port {
            Some(port) => ["udp", "tcp"]
                .map(|protocol| {
                    format!("-A WEFT_OUTPUT -d {gateway} -p {protocol} --dport 53 -j DNAT --to-destination {gateway}:{port}\n")
                })
                .concat(),
            None => String::new(),
        };
        // Naming a chain empties it, so that a second run replaces the first.
        format!(
            "*nat\n\
             :WEFT_OUTPUT - [0:0]\n\
             :WEFT_INBOUND - [0:0]\n\
             {dns}\
             -A WEFT_OUTPUT -m owner --uid-owner {SIDECAR_UID} -j RETURN\n\
             -A WEFT_OUTPUT -o lo -j RETURN\n\
             -A WEFT_OUTPUT -d 127.0.0.0/8 -j RETURN\n\
             -A WEFT_OUTPUT -p tcp -j REDIRECT --to-ports {OUTBOUND_CAPTURE_PORT}\n\
             -A WEFT_INBOUND -i lo -j RETURN\n\
             -A WEFT_INBOUND -p tcp -m multiport --dports {ADMIN_PORT},{OUTBOUND_CAPTURE_PORT},{INBOUND_CAPTURE_PORT} -j RETURN\n\
             -A WEFT_INBOUND -p tcp -j REDIRECT --to-ports {INBOUND_CAPTURE_PORT}\n\
             -I OUTPUT 1 -j WEFT_OUTPUT\n\
             -I PREROUTING 1 -j WEFT_INBOUND\n\
             COMMIT\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(dns_port: Option<u16>) -> Rules {
        Rules { gateway: Ipv4Addr::new(172, 18, 0, 1), dns_port }
    }

    #[test]
    fn the_sidecar_is_exempt_before_anything_is_redirected() {
        for text in [rules(None).nft(), rules(None).iptables()] {
            let exempt = text.find("1337").expect("the sidecar's user");
            let redirected = text.find("15001\n").expect("the outbound port");
            assert!(exempt < redirected, "{text}");
            assert!(!text.contains("dnat") && !text.contains("DNAT"), "{text}");
        }
    }

    #[test]
    fn dns_is_sent_to_the_mesh_whoever_asks() {
        for text in [rules(Some(5353)).nft(), rules(Some(5353)).iptables()] {
            let dns = text.find("172.18.0.1:5353").expect("the server");
            assert!(dns < text.find("1337").expect("the sidecar's user"), "{text}");
        }
    }

    /// Runs in a network namespace of a thread's own, in which nothing can be broken, if we may.
    fn in_own_network(work: impl FnOnce() + Send + 'static) {
        let has_ip = Command::new("ip").arg("-V").output().is_ok_and(|output| output.status.success());
        if !nix::unistd::geteuid().is_root() || !has_ip || find_tool().is_err() {
            weft_tests::record::skip("node: capture", "needs root, ip and nft or iptables-restore");
            return;
        }
        let thread = std::thread::spawn(move || {
            nix::sched::unshare(CloneFlags::CLONE_NEWNET).expect("root may");
            for command in [
                "link set lo up",
                "link add pod0 type veth peer name pod1",
                "addr add 172.18.0.1/24 dev pod0",
                "link set pod0 up",
                "link set pod1 up",
            ] {
                let status = Command::new("ip").args(command.split(' ')).status().expect("ip runs");
                assert!(status.success(), "ip {command}");
            }
            work();
        });
        thread.join().expect("no panic");
    }

    fn check_redirection() {
        let sidecar =
            std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, OUTBOUND_CAPTURE_PORT)).expect("free");
        let dns = std::net::UdpSocket::bind("172.18.0.1:5353").expect("free");
        // Nobody has this address: without the capture the connection would time out.
        let bound = Duration::from_secs(5);
        TcpStream::connect_timeout(&"172.18.0.99:80".parse().expect("an address"), bound).expect("captured");
        sidecar.accept().expect("here");
        let client = std::net::UdpSocket::bind("172.18.0.1:0").expect("free");
        client.send_to(b"question", "172.18.0.1:53").expect("sent");
        dns.set_read_timeout(Some(bound)).expect("settable");
        let mut buffer = [0; 16];
        assert_eq!(dns.recv(&mut buffer).expect("arrives"), 8);
        // What stays on loopback is the pod's own business.
        let own = std::net::TcpListener::bind("127.0.0.1:0").expect("free");
        TcpStream::connect_timeout(&own.local_addr().expect("bound"), bound).expect("not captured");
        own.accept().expect("here");
    }

    #[test]
    fn connections_and_questions_are_captured_by_nft() {
        in_own_network(|| {
            let pid = nix::unistd::gettid().as_raw();
            apply(pid, &rules(None)).expect("accepted");
            apply(pid, &rules(Some(5353))).expect("accepted in place of the first");
            check_redirection();
        });
    }

    #[test]
    fn connections_and_questions_are_captured_by_iptables() {
        if !Command::new("iptables-restore")
            .arg("--version")
            .output()
            .is_ok_and(|output| output.status.success())
        {
            weft_tests::record::skip("node: capture", "needs iptables-restore");
            return;
        }
        in_own_network(|| {
            let pid = nix::unistd::gettid().as_raw();
            run(pid, Tool::IptablesRestore, &rules(Some(5353))).expect("accepted");
            check_redirection();
        });
    }
}
