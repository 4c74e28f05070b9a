//! Requests that wait to be sent, which they may for long where their number is limited.
//!
//! # Guarantees
//! * A server that sends without waiting for answers does not make the queue grow without bound: no further response is
//!   read while the answers to [`MAX_UNSENT`] wait. HTTP/2 then slows the server down.
//! * A queue whose other end is gone keeps nobody waiting.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// To how many responses the answers wait at most. A server that waits for answers leads to one for each type, or a few.
const MAX_UNSENT: usize = 64;

/// Where requests go in.
pub(super) struct Queue<R> {
    requests: mpsc::UnboundedSender<Queued<R>>,
    room: Arc<Semaphore>,
}

/// A request with the room that it takes until it is sent.
pub(super) struct Queued<R> {
    pub(super) request: R,
    _room: Option<Room>,
}

/// Room for the answers to one response.
pub(super) struct Room {
    _permit: OwnedSemaphorePermit,
}

/// Both ends of a queue.
pub(super) fn queue<R>() -> (Queue<R>, mpsc::UnboundedReceiver<Queued<R>>) {
    let (requests, receiver) = mpsc::unbounded_channel();
    (Queue { requests, room: Arc::new(Semaphore::new(MAX_UNSENT)) }, receiver)
}

// === impl Queue ===

impl<R> Queue<R> {
    /// Waits until one more response may be read.
    pub(super) async fn room(&self) -> Option<Room> {
        // Never closed.
        Arc::clone(&self.room).acquire_owned().await.ok().map(|permit| Room { _permit: permit })
    }

    /// Puts in the answers to a response, or what has another cause and takes no room. Returns whether anybody is there
    /// to send them.
    pub(super) fn send(&self, mut requests: Vec<R>, room: Option<Room>) -> bool {
        // They leave in their order, so that the room is free when the last one did.
        let last = requests.pop().map(|request| Queued { request, _room: room });
        let others = requests.into_iter().map(|request| Queued { request, _room: None });
        others.chain(last).all(|queued| self.requests.send(queued).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    /// With the answers to as many responses as there is room for.
    fn full() -> (Queue<u8>, mpsc::UnboundedReceiver<Queued<u8>>) {
        let (queue, receiver) = queue();
        for _ in 0..MAX_UNSENT {
            let room = queue.room().now_or_never().expect("there is room");
            assert!(queue.send(vec![1, 2], room));
        }
        assert!(queue.room().now_or_never().is_none());
        (queue, receiver)
    }

    #[test]
    fn nothing_more_is_read_while_the_answers_to_many_responses_wait_to_be_sent() {
        let (queue, mut receiver) = full();
        assert!(queue.send(vec![3], None), "what has another cause does not wait");
        assert_eq!(receiver.try_recv().map(|queued| queued.request), Ok(1));
        assert!(queue.room().now_or_never().is_none(), "one of two answers waits still");
        assert_eq!(receiver.try_recv().map(|queued| queued.request), Ok(2));
        let room = queue.room().now_or_never().expect("there is room");
        assert!(
            queue.send(Vec::new(), room) && queue.room().now_or_never().is_some(),
            "no answer needs none"
        );
    }

    #[test]
    fn a_queue_whose_other_end_is_gone_keeps_nobody_waiting() {
        let (queue, receiver) = full();
        drop(receiver);
        let room = queue.room().now_or_never().expect("there is room");
        assert!(!queue.send(vec![1], room));
    }
}
