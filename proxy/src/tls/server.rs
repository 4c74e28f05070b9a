//! Our side of sessions with clients.

use std::{future::poll_fn, sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use rustls::{ServerConfig, server::UnbufferedServerConnection};
use tokio::net::TcpStream;

use super::{
    Identity,
    material::Material,
    names::Names,
    records::Session,
    stream::{HandshakeError, TlsStream},
};
use crate::{
    metrics::TlsCells,
    worker::timer::{Deadline, Timer},
};

/// The TLS of a filter chain. Empty until the secrets that it names are there; their renewal replaces what is in it,
/// and connections keep what they began with.
#[derive(Debug)]
pub(crate) struct ServerTls {
    pub(super) current: ArcSwapOption<ServerSettings>,
    /// How long a handshake may take.
    pub(crate) timeout: Option<Duration>,
}

/// One state of it.
#[derive(Debug)]
pub(crate) struct ServerSettings {
    pub(crate) config: Arc<ServerConfig>,
    /// The names in our first certificate.
    pub(crate) local: Names,
    pub(crate) material: Material,
}

// === impl ServerTls ===

impl ServerTls {
    pub(crate) fn new(timeout: Option<Duration>) -> Self {
        Self { current: ArcSwapOption::empty(), timeout }
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.current.load().is_some()
    }

    pub(crate) fn set(&self, settings: ServerSettings) {
        self.current.store(Some(Arc::new(settings)));
    }

    /// What is in force, for people.
    pub(crate) fn material(&self) -> Option<Material> {
        self.current.load().as_ref().map(|settings| settings.material.clone())
    }

    /// Agrees with a client on a session; `received` is what was read of it already. `None` if there is none, which is
    /// counted, and the client has been told.
    pub(crate) async fn accept(
        &self,
        socket: TcpStream,
        received: &[u8],
        timer: &Timer,
        cells: &TlsCells,
    ) -> Option<(TlsStream, Identity)> {
        let settings = self.current.load_full()?;
        let session = UnbufferedServerConnection::new(Arc::clone(&settings.config)).ok()?;
        let stream = TlsStream::new(socket, Session::Server(Box::new(session)), received);
        timer.arm(Deadline::Downstream, self.timeout);
        let result = timer.limit(Deadline::Downstream, poll_fn(|cx| stream.poll_handshake(cx))).await;
        timer.disarm(Deadline::Downstream);
        match result {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                cells.count_failure(&error);
                // The alert must not be lost to a reset.
                let _ = stream.end();
                return None;
            }
            Err(_) => {
                cells.connection_error.add(1);
                return None;
            }
        }
        let identity = stream.with_state(|state| Identity::of(state, settings.local.clone()));
        cells.count_success(identity.resumed, identity.peer.is_some());
        Some((stream, identity))
    }
}

// === impl TlsCells ===

impl TlsCells {
    pub(super) fn count_success(&self, resumed: bool, has_peer: bool) {
        self.handshake.add(1);
        if resumed {
            self.session_reused.add(1);
        }
        if !has_peer {
            self.no_certificate.add(1);
        }
    }

    pub(super) fn count_failure(&self, error: &HandshakeError) {
        use rustls::{CertificateError, Error};

        let HandshakeError::Tls(error) = error else {
            self.connection_error.add(1);
            return;
        };
        tracing::debug!(%error, "tls handshake failed");
        match error {
            Error::NoCertificatesPresented => &self.fail_verify_no_cert,
            Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            ) => &self.fail_verify_san,
            Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure) => {
                &self.fail_verify_cert_hash
            }
            Error::InvalidCertificate(_) => &self.fail_verify_error,
            _ => &self.connection_error,
        }
        .add(1);
    }
}
