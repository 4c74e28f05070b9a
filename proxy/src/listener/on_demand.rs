//! Holding a connection until the listener at the address that it was going to is known.

use std::{net::SocketAddr, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

/// What a listener says about those that it hands over to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OnDemandSettings {
    /// How long a connection waits at most; it goes on without then.
    pub(crate) hold: Duration,
    /// How long a listener without any connection is kept.
    pub(crate) idle: Duration,
}

/// "Which listener is at this address?"
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) address: SocketAddr,
    /// Told when it is there, or known not to exist.
    pub(crate) answer: oneshot::Sender<()>,
    pub(crate) idle_timeout: Duration,
}

/// The way from the data threads to the control thread.
#[derive(Debug)]
pub(crate) struct Asks {
    sender: mpsc::UnboundedSender<Ask>,
    receiver: Mutex<Option<mpsc::UnboundedReceiver<Ask>>>,
}

// === impl Asks ===

impl Asks {
    /// The end of the control thread; there is one.
    pub(crate) fn take(&self) -> Option<mpsc::UnboundedReceiver<Ask>> {
        self.receiver.lock().take()
    }

    /// Returns when it is known what is at `address`, or when that took too long. Only the one connection waits.
    pub(super) async fn ask(&self, address: SocketAddr, settings: &OnDemandSettings) {
        let (answer, told) = oneshot::channel();
        // Without a control thread nobody answers, and the connection goes on at once.
        if self.sender.send(Ask { address, answer, idle_timeout: settings.idle }).is_ok() {
            // Whatever the end of the wait is, the listeners are looked at again.
            let _ = timeout(settings.hold, told).await;
        }
    }
}

impl Default for Asks {
    fn default() -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        Self { sender, receiver: Mutex::new(Some(receiver)) }
    }
}
