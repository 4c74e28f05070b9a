//! TLS with the tools that people and auditors use: openssl, curl and testssl.sh.

use std::{fs, path::PathBuf, process::Stdio, time::Duration};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;
use weft_tests::{
    bootstrap::Bootstrap,
    curl::{self, curl},
    need, process,
    proxy::Proxy,
    upstream::Upstream,
};

/// The name that our certificate is for.
const NAME: &str = "front.test";
const DOWNSTREAM: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";

/// Findings of testssl.sh that are about the certificate authority of this test, not about the proxy.
const ABOUT_OUR_PKI: &[(&str, &str)] = &[(
    "cert_revocation",
    "a private authority publishes no list and runs no responder; its leaves live 90 days",
)];

/// A proxy with the listeners `open`, and `mutual`, which wants a certificate of the same authority.
struct Setup {
    proxy: Proxy,
    pki: Pki,
    _upstream: Upstream,
}

/// An authority with certificates for a server and a client, in files.
struct Pki(TempDir);

#[tokio::test]
async fn openssl_agrees_on_versions_protocols_groups_and_sessions() -> anyhow::Result<()> {
    need!("tls: openssl", process::find("openssl", "openssl"));
    let setup = Setup::start().await?;
    for (flag, version) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let said = setup.s_client("open", &[flag]).await?;
        ensure!(said.contains(&format!("{version}, Cipher is")), "{flag}: {said}");
        ensure!(said.contains("Verify return code: 0 (ok)"), "{flag}: {said}");
        // A second connection takes up what the first has left in a file.
        let session = setup.proxy.file("session").to_string_lossy().into_owned();
        let first = setup.s_client("open", &[flag, "-sess_out", &session]).await?;
        let second = setup.s_client("open", &[flag, "-sess_in", &session]).await?;
        ensure!(first.contains("New, ") && second.contains("Reused, "), "{flag}: {second}");
    }
    // Six connections, five of which use the first one's session again.
    let said = setup.s_client("open", &["-tls1_2", "-reconnect"]).await?;
    ensure!(said.matches("Reused, TLSv1.2").count() == 5, "{said}");
    // Which alert is the choice of rustls: such a client names no signature algorithms, which it looks for first.
    for flag in ["-tls1", "-tls1_1"] {
        let said = setup.s_client("open", &[flag, "-cipher", "ALL@SECLEVEL=0"]).await?;
        ensure!(said.contains("Cipher is (NONE)") && said.contains("SSL alert number"), "{flag}: {said}");
    }
    for protocol in ["h2", "http/1.1"] {
        let said = setup.s_client("open", &["-alpn", protocol]).await?;
        ensure!(said.contains(&format!("ALPN protocol: {protocol}")), "{said}");
    }
    let said = setup.s_client("open", &["-alpn", "imap"]).await?;
    ensure!(said.contains("alert no application protocol"), "{said}");
    for group in ["X25519", "P-256", "P-384"] {
        for flag in ["-tls1_2", "-tls1_3"] {
            let said = setup.s_client("open", &[flag, "-groups", group]).await?;
            ensure!(said.contains("Verify return code: 0 (ok)"), "{group} {flag}: {said}");
        }
    }
    let said = setup.s_client("open", &["-groups", "X448"]).await?;
    ensure!(said.contains("alert handshake failure"), "{said}");
    setup.proxy.finish().await
}

#[tokio::test]
async fn openssl_shows_its_certificate_or_is_told_that_it_must() -> anyhow::Result<()> {
    need!("tls: client certificates", process::find("openssl", "openssl"));
    let setup = Setup::start().await?;
    let (certificate, key) = (setup.pki.path("client.pem"), setup.pki.path("client.key"));
    for flag in ["-tls1_2", "-tls1_3"] {
        let said = setup.s_client("mutual", &[flag, "-cert", &certificate, "-key", &key]).await?;
        ensure!(said.contains("HTTP/1.1 200"), "{flag}: {said}");
        let said = setup.s_client("mutual", &[flag]).await?;
        ensure!(!said.contains("HTTP/1.1"), "{flag}: {said}");
    }
    // What TLS 1.3 has an alert for.
    let said = setup.s_client("mutual", &["-tls1_3"]).await?;
    ensure!(said.contains("certificate required"), "{said}");
    setup.proxy.metric_becomes("envoy_listener_ssl_fail_verify_no_cert", "", 3.0).await?;
    setup.proxy.finish().await
}

#[tokio::test]
async fn curl_speaks_http_over_tls() -> anyhow::Result<()> {
    need!("tls: curl", curl::find());
    need!("tls: curl", process::find("openssl", "openssl"));
    let setup = Setup::start().await?;
    let port = setup.proxy.at("open")?.port();
    let (resolve, authority) = (format!("{NAME}:{port}:127.0.0.1"), setup.pki.path("ca.pem"));
    let url = format!("https://{NAME}:{port}");
    for (flag, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
        for limit in ["1.2", "1.3"] {
            let common = [flag, "--tls-max", limit, "--resolve", &resolve, "--cacert", &authority];
            let get = format!("{url}/bytes/3000000");
            let answer = curl(&[&common[..], &[&get]].concat()).await?;
            ensure!(answer.status == 200 && answer.version == version, "{flag} {limit}: {answer:?}");
            ensure!(answer.body.len() == 3_000_000, "{flag} {limit}: {} bytes", answer.body.len());
            let upload = format!("@{authority}");
            let put = format!("{url}/echo");
            let answer = curl(&[&common[..], &["--data-binary", &upload, &put]].concat()).await?;
            ensure!(answer.body == fs::read(&authority)?, "{flag} {limit}: {answer:?}");
        }
    }
    // Without our authority curl believes nobody.
    let answer = curl(&["--resolve", &resolve, &format!("{url}/bytes/1")]).await?;
    ensure!(answer.exit == 60, "{answer:?}");
    setup.proxy.finish().await
}

#[tokio::test]
async fn testssl_finds_nothing_above_low() -> anyhow::Result<()> {
    let program = need!("tls: testssl.sh", testssl());
    need!("tls: testssl.sh", process::find("hexdump", "bsdmainutils"));
    need!("tls: testssl.sh", process::find("openssl", "openssl"));
    let setup = Setup::start().await?;
    let found = setup.proxy.file("testssl.json");
    let mut command = Command::new(program);
    command.args(["--quiet", "--color", "0", "--warnings", "off", "--nodns", "none"]);
    command.args(["--connect-timeout", "10", "--openssl-timeout", "10", "--ip", "127.0.0.1"]);
    command.arg("--add-ca").arg(setup.pki.path("ca.pem")).arg("--jsonfile").arg(&found);
    command.args(["--protocols", "--standard", "--pfs", "--server-preference", "--server-defaults"]);
    command.arg("--vulnerable").arg(format!("{NAME}:{}", setup.proxy.at("open")?.port()));
    let run = process::output(command.stdin(Stdio::null()).env("TERM", "dumb"));
    let output =
        tokio::time::timeout(Duration::from_secs(400), run).await.context("testssl.sh does not end")??;
    let text = process::text(&output);
    let found = fs::read_to_string(&found).with_context(|| format!("no findings:\n{text}"))?;
    let found: Vec<Value> = serde_json::from_str(&found).with_context(|| format!("no JSON: {found}"))?;
    let is = |id: &str, wanted: &str| {
        found.iter().any(|finding| {
            finding["id"] == id && finding["finding"].as_str().is_some_and(|text| text.starts_with(wanted))
        })
    };
    // It did reach the proxy, and came to its end.
    for (id, wanted) in [
        ("SSLv3", "not offered"),
        ("TLS1", "not offered"),
        ("TLS1_1", "not offered"),
        ("TLS1_2", "offered"),
        ("TLS1_3", "offered"),
        ("cert_chain_of_trust", "passed"),
        ("heartbleed", "not vulnerable"),
        ("ROBOT", "not vulnerable"),
        ("secure_renego", "supported"),
        ("RC4", "not vulnerable"),
    ] {
        ensure!(is(id, wanted), "{id} is not {wanted:?}:\n{text}");
    }
    let bad: Vec<&Value> = found
        .iter()
        .filter(|finding| {
            !["OK", "INFO", "LOW", "WARN", "DEBUG"].iter().any(|fine| finding["severity"] == *fine)
        })
        .filter(|finding| !ABOUT_OUR_PKI.iter().any(|(id, _)| finding["id"] == *id))
        .collect();
    ensure!(bad.is_empty(), "{bad:#?}\n{text}");
    setup.proxy.finish().await
}

/// Debian calls it `testssl`, upstream `testssl.sh`.
fn testssl() -> anyhow::Result<PathBuf> {
    process::find("testssl", "testssl.sh").or_else(|_| process::find("testssl.sh", "testssl.sh"))
}

// === impl Setup ===

impl Setup {
    async fn start() -> anyhow::Result<Self> {
        let pki = Pki::new().await?;
        let upstream = Upstream::start().await?;
        let bootstrap = Bootstrap::default()
            .http("open", "up", json!({}))
            .with_chain("open", json!({"transport_socket": pki.socket(false)}))
            .http("mutual", "up", json!({}))
            .with_chain("mutual", json!({"transport_socket": pki.socket(true)}))
            .cluster("up", &[upstream.address], json!({}));
        Ok(Self { proxy: Proxy::start(bootstrap).await?, pki, _upstream: upstream })
    }

    /// What `openssl s_client` says of a connection with one request, after which the proxy ends it.
    async fn s_client(&self, listener: &str, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-ign_eof", "-connect", &self.proxy.at(listener)?.to_string()]);
        command.args(["-servername", NAME, "-verify_hostname", NAME, "-CAfile", &self.pki.path("ca.pem")]);
        let request = self.proxy.file("request");
        fs::write(&request, format!("GET /bytes/10 HTTP/1.1\r\nhost: {NAME}\r\nconnection: close\r\n\r\n"))?;
        command.args(arguments).stdin(fs::File::open(&request)?);
        Ok(process::text(&process::output(&mut command).await?))
    }
}

// === impl Pki ===

impl Pki {
    async fn new() -> anyhow::Result<Self> {
        let pki = Self(tempfile::Builder::new().prefix("weft-test-pki-").tempdir()?);
        let authority = ["basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign"];
        pki.issue("ca", "/O=Weft/CN=Test authority", &authority, &[]).await?;
        let (ca, key) = (pki.path("ca.pem"), pki.path("ca.key"));
        for (file, usage, names) in [
            ("server", "serverAuth", format!("subjectAltName=DNS:{NAME},IP:127.0.0.1")),
            ("client", "clientAuth", "subjectAltName=URI:spiffe://mesh.test/client".to_owned()),
        ] {
            let usage = format!("extendedKeyUsage={usage}");
            let fields =
                ["basicConstraints=critical,CA:FALSE", "keyUsage=critical,digitalSignature", &usage, &names];
            pki.issue(file, &format!("/CN={NAME}"), &fields, &["-CA", &ca, "-CAkey", &key]).await?;
        }
        Ok(pki)
    }

    async fn issue(&self, file: &str, subject: &str, fields: &[&str], by: &[&str]) -> anyhow::Result<()> {
        let mut command = Command::new("openssl");
        command.args(["req", "-x509", "-nodes", "-days", "90", "-subj", subject]);
        command.args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
        command.args([
            "-out",
            &self.path(&format!("{file}.pem")),
            "-keyout",
            &self.path(&format!("{file}.key")),
        ]);
        command.args(by);
        for field in fields {
            command.args(["-addext", field]);
        }
        process::run(&mut command).await.map(drop)
    }

    fn path(&self, file: &str) -> String {
        self.0.path().join(file).to_string_lossy().into_owned()
    }

    fn socket(&self, mutual: bool) -> Value {
        let file = |name: &str| json!({"filename": self.path(name)});
        let mut context = json!({
            "alpn_protocols": ["h2", "http/1.1"],
            "tls_certificates": [{"certificate_chain": file("server.pem"), "private_key": file("server.key")}],
        });
        if mutual {
            context["validation_context"] = json!({"trusted_ca": file("ca.pem")});
        }
        json!({
            "name": "tls",
            "typed_config":
                {"@type": DOWNSTREAM, "common_tls_context": context, "require_client_certificate": mutual},
        })
    }
}
