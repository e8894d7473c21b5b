//! Bodies of other nodes' answers: small ones whole, large ones for code that blocks.

use std::io::{self, Read};
use std::time::Duration;

use axum::body::Body;
use bytes::{Buf, Bytes};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::{Request, Response};
use proto::NodeId;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use crate::peer::{CallError, Client};

/// Longest document that is read into memory: an image's configuration, an offer.
const DOCUMENT: usize = 8 << 20;
/// A body that says nothing for so long will not go on.
const SILENCE: Duration = Duration::from_secs(15);
/// Pieces between the network and the reader.
const DEPTH: usize = 16;

/// Another node's answer could not be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    /// Nor its head.
    #[error(transparent)]
    Call(#[from] CallError),
    /// Its body broke off.
    #[error("read the answer of the node")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It is none.
    #[error("the answer of the node cannot be read")]
    Json(#[from] serde_json::Error),
}

/// A path of the port between nodes with one parameter.
pub(super) fn path(path: &str, key: &str, value: &str) -> String {
    let mut text = format!("{path}?{key}=");
    for byte in value.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                text.push(char::from(byte))
            }
            other => text.push_str(&format!("%{other:02X}")),
        }
    }
    text
}

/// Asks a node.
pub(super) async fn get(client: &Client, node: &NodeId, path: &str) -> Result<Response<Incoming>, CallError> {
    // Paths are made here of checked parts.
    let request = Request::get(path).body(Body::empty()).unwrap_or_default();
    client.ask(node, request).await
}

/// Asks a node for a document.
pub(super) async fn document(client: &Client, node: &NodeId, path: &str) -> Result<Bytes, WireError> {
    let body = Limited::new(get(client, node, path).await?.into_body(), DOCUMENT);
    let late = |_| Err("nothing more came".into());
    let body = timeout(SILENCE, body.collect()).await.unwrap_or_else(late);
    Ok(body.map_err(WireError::Body)?.to_bytes())
}

/// A body that may take its time, as long as it is not silent.
pub(super) async fn patiently(mut body: Incoming) -> Result<Vec<u8>, WireError> {
    let mut bytes = Vec::new();
    loop {
        let frame = timeout(SILENCE, body.frame()).await;
        let frame = frame.map_err(|_| WireError::Body("nothing more came".into()))?;
        let Some(frame) = frame else { return Ok(bytes) };
        let data = frame.map_err(|error| WireError::Body(error.into()))?.into_data();
        bytes.extend_from_slice(&data.unwrap_or_default());
        if bytes.len() > DOCUMENT {
            return Err(WireError::Body("it is too long".into()));
        }
    }
}

/// Asks a node for something to be read.
pub(super) async fn json<T: DeserializeOwned>(
    client: &Client,
    node: &NodeId,
    path: &str,
) -> Result<T, WireError> {
    Ok(serde_json::from_slice(&document(client, node, path).await?)?)
}

/// A body to be read on a blocking thread. It ends with an error when it breaks off, when it is silent for too long, and
/// when `guard` is dropped: who gave up waiting stops the thread too.
pub(super) fn reader(body: Incoming) -> (BodyReader, AbortOnDropHandle<()>) {
    let (sender, pieces) = mpsc::channel(DEPTH);
    let guard = AbortOnDropHandle::new(tokio::spawn(forward(body, sender)));
    let reader = BodyReader {
        pieces,
        current: Bytes::new(),
        ended: false,
    };
    (reader, guard)
}

/// See [`reader`].
#[derive(Debug)]
pub(super) struct BodyReader {
    /// An empty piece is the end.
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
    ended: bool,
}

async fn forward(mut body: Incoming, to: mpsc::Sender<io::Result<Bytes>>) {
    loop {
        let piece = match timeout(SILENCE, body.frame()).await {
            Err(_) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("nothing came for {} s", SILENCE.as_secs()),
            )),
            Ok(Some(Err(error))) => Err(io::Error::other(error)),
            Ok(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) if !data.is_empty() => Ok(data),
                _ => continue,
            },
            Ok(None) => Ok(Bytes::new()),
        };
        let last = piece.as_ref().map_or(true, Bytes::is_empty);
        if to.send(piece).await.is_err() || last {
            return;
        }
    }
}

impl Read for BodyReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() && !self.ended {
            self.current = match self.pieces.blocking_recv() {
                Some(piece) => piece?,
                None => return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "given up")),
            };
            self.ended = self.current.is_empty();
        }
        let count = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}
