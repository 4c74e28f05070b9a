//! Logs as the Engine keeps them.

use std::{io, pin::pin};

use bollard::{Docker, query_parameters::LogsOptionsBuilder};
use bytes::Bytes;
use futures::StreamExt as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    logs::{LogLine, LogOptions, Selection},
    runtime::LogStream,
};

/// The log as a stream; dropping it ends the question to the Engine.
pub(super) fn stream(docker: &Docker, id: &str, options: LogOptions) -> LogStream {
    let (sender, receiver) = mpsc::channel(4);
    let (docker, id) = (docker.clone(), id.to_owned());
    tokio::spawn(async move {
        tokio::select! {
            () = send(&docker, &id, &options, &sender) => {}
            () = sender.closed() => {}
        }
    });
    ReceiverStream::new(receiver).boxed()
}

async fn send(docker: &Docker, id: &str, options: &LogOptions, sender: &mpsc::Sender<io::Result<Bytes>>) {
    let mut query =
        LogsOptionsBuilder::default().follow(options.follow).stdout(true).stderr(true).timestamps(true);
    if let Some(tail) = options.tail {
        query = query.tail(&tail.to_string());
    }
    if let Some(since) = options.since.and_then(|since| i32::try_from(since.as_second()).ok()) {
        // Whole seconds; what is too old by less is left out below.
        query = query.since(since);
    }
    let mut selection = Selection::new(options);
    let mut lines = pin!(docker.logs(id, Some(query.build())));
    while let Some(line) = lines.next().await {
        let line = match line {
            Ok(line) => line.into_bytes(),
            Err(error) => {
                let _ = sender.send(Err(io::Error::other(error))).await;
                return;
            }
        };
        let Some(parsed) = LogLine::parse_docker(&line) else { continue };
        let mut output = Vec::with_capacity(line.len());
        let wanted = selection.apply(&parsed, &mut output);
        if !output.is_empty() && sender.send(Ok(output.into())).await.is_err() {
            return;
        }
        if !wanted {
            return;
        }
    }
}
