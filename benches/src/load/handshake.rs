//! Full TLS 1.3 handshakes: no resumption, no request.

use std::{io::ErrorKind, net::Ipv4Addr, sync::Arc, time::Duration};

use anyhow::Context as _;
use rustls::{
    ClientConfig, DigitallySignedStruct, NamedGroup, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::{PATIENCE, Report, repeat};

/// Believes anything: checking signatures costs a client more than making them costs the proxy, and the proxy is what
/// is measured.
#[derive(Debug)]
struct Trusting;

/// `tasks` handshakes at a time for `length`; every proxy agrees on the one group that is offered.
pub async fn run(port: u16, tasks: u32, length: Duration) -> anyhow::Result<Report> {
    let connector = TlsConnector::from(Arc::new(config()?));
    repeat(tasks, length, || {
        let connector = connector.clone();
        async move { timeout(PATIENCE, once(port, connector)).await.context("too slow")? }
    })
    .await
}

async fn once(port: u16, connector: TlsConnector) -> anyhow::Result<()> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.context("cannot connect")?;
    let name = ServerName::try_from("localhost").context("not a name")?;
    let mut stream = connector.connect(name, stream).await.context("no handshake")?;
    // The server has done its part only when it has seen ours: it then answers the end of the connection with its own.
    stream.shutdown().await.context("cannot end")?;
    let mut rest = [0; 64];
    loop {
        match stream.read(&mut rest).await {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            // nginx ends the connection without saying so in TLS first.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error).context("no end"),
        }
    }
}

fn config() -> anyhow::Result<ClientConfig> {
    let mut provider = (**ClientConfig::builder().crypto_provider()).clone();
    provider.kx_groups.retain(|group| group.name() == NamedGroup::X25519);
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .context("no TLS 1.3")?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Trusting))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(config)
}

// === impl Trusting ===

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}
