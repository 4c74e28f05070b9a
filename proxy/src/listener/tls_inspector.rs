//! The filter that reads a ClientHello in passing (Envoy's TLS inspector).

use std::{borrow::Cow, sync::Arc};

use super::{
    filter::{Facts, Look, Stop},
    hello::{Hello, Inspector, Verdict},
    matching::Transport,
};
use crate::metrics::{PerWorker, TlsInspectorCells};

/// The filter's settings.
#[derive(Debug)]
pub(crate) struct TlsInspector {
    pub(crate) max_hello: usize,
    /// Refuse what is not TLS, instead of passing it on as plain.
    pub(crate) only_tls: bool,
    pub(crate) stats: Arc<PerWorker<TlsInspectorCells>>,
}

/// Reads until it is clear whether the connection begins with a ClientHello, and what that says.
pub(super) async fn run(filter: &TlsInspector, facts: &mut Facts, look: &mut Look<'_>) -> Result<(), Stop> {
    let cells = filter.stats.at(look.worker);
    let mut inspector = Inspector::new(filter.max_hello);
    loop {
        match inspector.look(look.recv.data()) {
            Verdict::Unclear => {}
            Verdict::NotTls => {
                cells.tls_not_found.add(1);
                return if filter.only_tls { Err(Stop::Refused) } else { Ok(()) };
            }
            Verdict::TooLarge => {
                cells.client_hello_too_large.add(1);
                return Err(Stop::Refused);
            }
            Verdict::Hello(hello) => {
                filter.found(hello, facts, look.worker);
                return Ok(());
            }
        }
        look.more(filter.max_hello).await?;
    }
}

// === impl TlsInspector ===

impl TlsInspector {
    fn found(&self, hello: Hello, facts: &mut Facts, worker: usize) {
        let cells = self.stats.at(worker);
        cells.tls_found.add(1);
        if hello.server_name.is_some() { &cells.sni_found } else { &cells.sni_not_found }.add(1);
        let offers = !hello.application_protocols.is_empty();
        if offers { &cells.alpn_found } else { &cells.alpn_not_found }.add(1);
        facts.traits.transport = Transport::Tls;
        facts.traits.server_name = hello.server_name;
        facts.traits.applications = hello.application_protocols.into_iter().map(Cow::Owned).collect();
    }
}
