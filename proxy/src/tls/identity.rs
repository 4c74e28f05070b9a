//! What is kept of a session: what was agreed, and who the peer is.

use std::cell::OnceCell;

use rustls::{CommonState, HandshakeKind, ProtocolVersion, pki_types::CertificateDer};
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _};

use super::{names::Names, params};

/// One established session, as headers and rules see it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Identity {
    pub(crate) alpn: Option<Vec<u8>>,
    pub(crate) resumed: bool,
    /// As Envoy and OpenSSL write them.
    pub(crate) version: &'static str,
    pub(crate) cipher: &'static str,
    /// The peer's certificate, if it showed one.
    pub(crate) peer: Option<Peer>,
    /// The URI and DNS names of the certificate that we showed.
    pub(crate) local: Names,
}

/// A peer's certificate.
#[derive(Debug, Clone, Default)]
pub(crate) struct Peer {
    /// The chain as the peer sent it, its own certificate first.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) names: Names,
    /// As RFC 2253 writes it, the way Envoy does.
    pub(crate) subject: String,
    /// Made when somebody asks.
    fingerprint: OnceCell<String>,
    uris: OnceCell<String>,
}

// === impl Identity ===

impl Identity {
    pub(super) fn of(state: &CommonState, local: Names) -> Self {
        Self {
            alpn: state.alpn_protocol().map(<[u8]>::to_vec),
            version: match state.protocol_version() {
                Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
                Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
                _ => "",
            },
            cipher: state.negotiated_cipher_suite().map_or("", params::cipher_name),
            resumed: state.handshake_kind() == Some(HandshakeKind::Resumed),
            peer: state.peer_certificates().and_then(Peer::of),
            local,
        }
    }
}

// === impl Peer ===

impl Peer {
    fn of(chain: &[CertificateDer<'_>]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(chain.first()?).ok()?;
        Some(Self {
            chain: chain.iter().map(|certificate| certificate.clone().into_owned()).collect(),
            // Whoever asked for particular names has refused malformed ones already.
            names: Names::of_parsed(&certificate).unwrap_or_default(),
            subject: certificate.subject().to_string(),
            fingerprint: OnceCell::new(),
            uris: OnceCell::new(),
        })
    }

    /// SHA-256 of the certificate, hexadecimal.
    pub(crate) fn fingerprint(&self) -> &str {
        self.fingerprint.get_or_init(|| {
            self.chain.first().map(|certificate| hex(&sha256(certificate))).unwrap_or_default()
        })
    }

    /// The URIs of the certificate, with commas between them.
    pub(crate) fn uris(&self) -> &str {
        match self.names.uri.as_slice() {
            [only] => only,
            several => self.uris.get_or_init(|| several.join(",")),
        }
    }

    /// The certificate as PEM, percent-encoded as Envoy does for headers.
    pub(crate) fn pem_encoded(&self) -> String {
        let text: String = self.chain.first().map(|certificate| pem(certificate)).unwrap_or_default();
        percent(&text)
    }

    /// The whole chain, likewise.
    pub(crate) fn chain_encoded(&self) -> String {
        percent(&self.chain.iter().map(|certificate| pem(certificate)).collect::<String>())
    }
}

pub(super) fn sha256(data: &[u8]) -> [u8; 32] {
    use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;

    // The provider's own hash: the one suite that every build of it has names it.
    let mut digest = [0; 32];
    if let rustls::SupportedCipherSuite::Tls13(suite) = TLS13_AES_128_GCM_SHA256 {
        digest.copy_from_slice(suite.common.hash_provider.hash(data).as_ref());
    }
    digest
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn pem(certificate: &[u8]) -> String {
    use base64::Engine as _;

    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = after;
    }
    pem + "-----END CERTIFICATE-----\n"
}

fn percent(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len() * 2), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
        encoded
    })
}
