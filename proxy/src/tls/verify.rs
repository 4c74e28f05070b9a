//! Whom to believe: chains by rustls' own verifiers, and on top of them the conditions of a validation context.
//!
//! As in Envoy the trusted authorities vouch for a chain and the matchers for the name in it; without matchers any name
//! that an authority vouched for will do.

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::WebPkiServerVerifier,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};

use super::{
    identity::sha256,
    names::{NameMatch, Names},
};

/// Conditions beyond the chain. Each kind that is there must hold.
#[derive(Debug, Default)]
pub(crate) struct Conditions {
    /// One of these names.
    pub(crate) names: Vec<NameMatch>,
    /// One of these certificates (SHA-256) or public keys (SHA-256 of the SubjectPublicKeyInfo).
    pub(crate) certificates: Vec<[u8; 32]>,
    pub(crate) keys: Vec<[u8; 32]>,
}

/// Judges clients.
#[derive(Debug)]
pub(crate) struct ClientVerifier {
    pub(crate) chain: Arc<dyn ClientCertVerifier>,
    pub(crate) conditions: Conditions,
}

/// Judges servers.
#[derive(Debug)]
pub(crate) struct ServerVerifier {
    /// `None` believes everybody, which is what no trusted authority means.
    pub(crate) chain: Option<Arc<WebPkiServerVerifier>>,
    pub(crate) conditions: Conditions,
    /// Whether the certificate must be for the name that was asked for.
    pub(crate) check_name: bool,
    pub(crate) algorithms: WebPkiSupportedAlgorithms,
}

// === impl Conditions ===

impl Conditions {
    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        if !self.names.is_empty() {
            let names = Names::of(certificate)
                .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
            if !names.match_any(&self.names) {
                return Err(Error::InvalidCertificate(CertificateError::NotValidForName));
            }
        }
        if self.certificates.is_empty() && self.keys.is_empty() {
            return Ok(());
        }
        let pinned = self.certificates.contains(&sha256(certificate)) || {
            let parsed = rustls::server::ParsedCertificate::try_from(certificate)?;
            self.keys.contains(&sha256(&parsed.subject_public_key_info()))
        };
        if pinned {
            Ok(())
        } else {
            Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
        }
    }
}

// === impl ClientVerifier ===

impl ClientCertVerifier for ClientVerifier {
    fn offer_client_auth(&self) -> bool {
        self.chain.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.chain.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        self.conditions.check(end_entity)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

// === impl ServerVerifier ===

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(chain) = &self.chain {
            let verdict =
                chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
            match verdict {
                Ok(_) => {}
                // The chain was good: the name is looked at last.
                Err(Error::InvalidCertificate(
                    CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
                )) if !self.check_name => {}
                Err(error) => return Err(error),
            }
        }
        self.conditions.check(end_entity)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
