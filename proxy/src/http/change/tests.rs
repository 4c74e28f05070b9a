use std::rc::Rc;

use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::{
    http::{h1::body::BodyReader, io::RecvBuf},
    net::Stream,
    worker::timer::{Deadline, Timer, Timers},
};

/// Doubles each byte, and keeps the last one back until it is flushed.
#[derive(Default)]
struct Doubled(Vec<u8>);

impl Transform for Doubled {
    fn data(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), Spoilt> {
        self.flush(out)?;
        out.extend(data[..data.len() - 1].iter().flat_map(|byte| [*byte, *byte]));
        self.0.extend([data[data.len() - 1]; 2]);
        Ok(())
    }

    fn flush(&mut self, out: &mut Vec<u8>) -> Result<(), Spoilt> {
        out.append(&mut self.0);
        Ok(())
    }

    fn end(&mut self, trailers: &mut Trailers, out: &mut Vec<u8>) -> Result<(), Spoilt> {
        self.flush(out)?;
        out.push(b'.');
        trailers.push((b"doubled".to_vec(), b"yes".to_vec()));
        Ok(())
    }
}

/// Fails at a `!`.
struct Quiet;

impl Transform for Quiet {
    fn data(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), Spoilt> {
        out.extend_from_slice(data);
        if data.contains(&b'!') { Err(Spoilt) } else { Ok(()) }
    }
}

/// A connection, and the peer that writes to it.
async fn connection() -> (Stream, TcpStream, Timer) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (peer, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    let timer = Rc::new(Timers::default()).register(Vec::new());
    (Stream::Plain(accepted.expect("accepts").0), peer.expect("connects"), timer)
}

fn source<'a>(stream: &'a Stream, recv: &'a mut RecvBuf, timer: &'a Timer, length: BodyLength) -> Source<'a> {
    Source::H1(BodyReader::new(stream, recv, length, timer, Deadline::Downstream, None))
}

/// Sends this and waits until it is in the buffer.
async fn send(peer: &TcpStream, data: &[u8]) {
    let mut sent = 0;
    while sent < data.len() {
        peer.writable().await.expect("open");
        sent += peer.try_write(&data[sent..]).unwrap_or(0);
    }
}

/// All that is there, as far as it goes without waiting.
fn take(source: &mut Source<'_>) -> (Vec<u8>, Step) {
    let mut taken = Vec::new();
    loop {
        match source.step().expect("well formed") {
            Step::Data(count) => {
                taken.extend_from_slice(&source.data()[..count]);
                source.consume(count);
            }
            step => return (taken, step),
        }
    }
}

#[tokio::test]
async fn what_a_transformation_holds_back_goes_on_when_there_is_no_more_for_now() {
    let (stream, peer, timer) = connection().await;
    let mut recv = RecvBuf::default();
    let mut changes = Changes::default();
    changes.push(Box::new(Doubled::default()));
    changes.push(Box::new(Doubled::default()));
    let mut body = source(&stream, &mut recv, &timer, BodyLength::Chunked).changed(changes);
    send(&peer, b"2\r\nab\r\n").await;
    body.wait().await.expect("data");
    assert_eq!(take(&mut body), (b"aaaabbbb".to_vec(), Step::Wait));
    send(&peer, b"1\r\nc\r\n0\r\nx: y\r\n\r\n").await;
    body.wait().await.expect("data");
    // The first stage's full stop goes through the second, which adds its own.
    assert_eq!(take(&mut body), (b"cccc...".to_vec(), Step::End));
    let names: Vec<_> = body.take_trailers().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, [&b"x"[..], b"doubled", b"doubled"]);
    assert_eq!(body.received(), 3, "as it came");
}

#[tokio::test]
async fn a_body_that_was_all_there_still_is_once_it_is_changed_and_has_a_length() {
    let (stream, peer, timer) = connection().await;
    let mut recv = RecvBuf::default();
    send(&peer, b"abcdefgh").await;
    recv.fill(&stream, 1024, &timer, Deadline::Downstream).await.expect("data");
    let mut body = source(&stream, &mut recv, &timer, BodyLength::Exact(8));
    struct Removed;
    impl Transform for Removed {
        fn data(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), Spoilt> {
            out.extend(data.iter().filter(|byte| **byte != b'c'));
            Ok(())
        }
    }
    body.change(Box::new(Removed)).expect("changed");
    assert_eq!(body.complete(), Some(&b"abdefgh"[..]));
    assert_eq!(body.length(BodyLength::Exact(8)), BodyLength::Exact(7));
    body.change(Box::new(Removed)).expect("changed again");
    assert_eq!(body.whole(), Some(&b"abdefgh"[..]));
    assert_eq!(take(&mut body), (b"abdefgh".to_vec(), Step::End));
    assert_eq!(body.complete(), None, "it was sent");
    assert_eq!(body.change(Box::new(Quiet)), Ok(()));
}

#[tokio::test]
async fn a_body_is_held_until_it_is_all_there_but_not_if_it_is_too_long() {
    let (stream, peer, timer) = connection().await;
    for (limit, held) in [(5, Held::All), (4, Held::TooLong)] {
        let mut recv = RecvBuf::default();
        send(&peer, b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n").await;
        let mut body = source(&stream, &mut recv, &timer, BodyLength::Chunked);
        assert_eq!(body.hold(limit).await.expect("well formed"), held);
        let length = if held == Held::All { BodyLength::Exact(5) } else { BodyLength::Chunked };
        assert_eq!(body.length(BodyLength::Chunked), length);
        assert!(body.discard_buffered());
    }
}

#[tokio::test]
async fn a_body_that_a_transformation_cannot_read_is_malformed() {
    let (stream, peer, timer) = connection().await;
    let mut recv = RecvBuf::default();
    let mut body = source(&stream, &mut recv, &timer, BodyLength::Exact(2));
    body.change(Box::new(Quiet)).expect("nothing came yet");
    send(&peer, b"a!").await;
    body.wait().await.expect("data");
    assert!(matches!(body.step(), Err(SourceError::Malformed)));
    let mut changes = Changes::default();
    changes.push(Box::new(Quiet));
    assert_eq!(changes.whole(b"a!", &mut Trailers::new()), Err(Spoilt));
}
