//! Between async HTTP and the store's blocking calls: a body as `Read`, a `Write` as a body, a call on its own thread.

use std::io::{self, Read, Write};

use axum::body::Body;
use bytes::{Buf, Bytes};
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::error::{ApiError, ApiResult};

/// Chunks in flight between a body and its blocking reader or writer.
const DEPTH: usize = 16;
/// Smallest chunk worth sending on its own.
const CHUNK: usize = 64 << 10;

/// Runs a blocking call on a thread of its own.
pub async fn call<T, E, F>(work: F) -> ApiResult<T>
where
    T: Send + 'static,
    E: Into<ApiError> + Send + 'static,
    F: FnOnce() -> Result<T, E> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome.map_err(Into::into),
        Err(panic) => Err(ApiError::internal(&panic)),
    }
}

/// A request body to be read on a blocking thread. A client that leaves early is a read error, not an end of file.
///
/// What nobody reads any more, after an error, is received all the same and dropped: clients read the answer only when
/// they have sent everything, and one whose connection is closed before reports a broken pipe instead of the reason.
#[derive(Debug)]
pub struct BodyReader {
    chunks: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
}

impl BodyReader {
    /// Begins to forward the body.
    pub fn new(body: Body) -> Self {
        let (sender, chunks) = mpsc::channel(DEPTH);
        tokio::spawn(async move {
            let mut stream = body.into_data_stream();
            while let Some(chunk) = stream.next().await {
                let failed = chunk.is_err();
                let _ = sender.send(chunk.map_err(io::Error::other)).await;
                if failed {
                    return;
                }
            }
        });
        Self {
            chunks,
            current: Bytes::new(),
        }
    }
}

impl Read for BodyReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.chunks.blocking_recv() {
                Some(chunk) => self.current = chunk?,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

/// The writing end of a response body.
#[derive(Debug)]
pub struct BodyWriter {
    sender: mpsc::Sender<io::Result<Bytes>>,
    pending: Vec<u8>,
}

impl BodyWriter {
    /// Breaks the body off: the client sees an aborted transfer instead of a short archive.
    pub fn fail(&self, error: io::Error) {
        // Without a client there is nobody to tell.
        let _ = self.sender.blocking_send(Err(error));
    }
}

impl Write for BodyWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.pending.extend_from_slice(bytes);
        if self.pending.len() >= CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let chunk = Bytes::from(std::mem::take(&mut self.pending));
        self.sender
            .blocking_send(Ok(chunk))
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// A body that `write` fills on a blocking thread.
pub fn body_from(write: impl FnOnce(&mut BodyWriter) -> io::Result<()> + Send + 'static) -> Body {
    let (sender, receiver) = mpsc::channel(DEPTH);
    tokio::task::spawn_blocking(move || {
        let mut writer = BodyWriter {
            sender,
            pending: Vec::new(),
        };
        if let Err(error) = write(&mut writer).and_then(|()| writer.flush()) {
            tracing::warn!("response broken off: {error}");
            writer.fail(error);
        }
    });
    Body::from_stream(ReceiverStream::new(receiver))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    #[tokio::test]
    async fn bytes_survive_both_ways() {
        let text = vec![7u8; 3 * CHUNK + 5];
        let expected = text.clone();
        let body = body_from(move |writer| text.chunks(1000).try_for_each(|chunk| writer.write_all(chunk)));
        let mut reader = BodyReader::new(body);
        let read = tokio::task::spawn_blocking(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).map(|_| all)
        });
        assert_eq!(read.await.unwrap().unwrap(), expected);
    }

    #[tokio::test]
    async fn a_failure_breaks_the_body_off() {
        let body = body_from(|_| Err(io::Error::other("disk")));
        assert!(body.collect().await.is_err());
    }
}
