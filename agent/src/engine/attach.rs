//! Live stdio: a shim connection becomes an [`AttachStream`]. A client may attach before the start; it is then connected
//! after the container is created and before its process runs, so that it misses nothing.

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader, DuplexStream, copy};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::oneshot;

use super::Engine;
use super::container::Container;
use super::error::{EngineError, Result};
use super::request::{AttachOptions, AttachStream, OutputChunk, StdStream};
use super::shim::{Connection, Shim};
use super::state::Status;

/// Typed ahead of the start, at most this many bytes.
const TYPE_AHEAD: usize = 64 << 10;
/// The shim sends frames as large as its reads; anything longer is not its work.
const FRAME_LIMIT: usize = 1 << 20;

impl Engine {
    /// The live ends of its process. Works on a created container too: output starts with the start.
    ///
    /// # Errors
    /// No such container, or its shim cannot be reached.
    pub async fn attach(&self, name: &str, options: AttachOptions) -> Result<AttachStream> {
        let container = self.registry.find(name)?;
        let record = container.record();
        self.announce(&record, "attach", &[]);
        let stdin = options.stdin && record.config.open_stdin;
        let options = AttachOptions { stdin, ..options };
        // Starting holds the lock: either it has not taken its pending clients yet, or it is through.
        let _lifecycle = container.lifecycle.lock().await;
        match container.state().status {
            Status::Running => {
                let connection = container
                    .shim()
                    .attach(stdin, options.stdout, options.stderr)
                    .await?;
                Ok(live(connection, record.config.tty, stdin))
            }
            Status::Removing | Status::Dead => Err(EngineError::Conflict(format!(
                "container {} is being removed",
                container.id
            ))),
            Status::Created | Status::Exited | Status::Restarting => Ok(wait_for_start(&container, options)),
        }
    }
}

/// A client that attached before the start.
#[derive(Debug)]
pub(crate) struct Pending {
    options: AttachOptions,
    give: oneshot::Sender<Connection>,
}

impl Pending {
    /// Connects the client; its failure is its own affair.
    pub(crate) async fn connect(self, shim: &Shim) {
        let AttachOptions {
            stdin,
            stdout,
            stderr,
        } = self.options;
        match shim.attach(stdin, stdout, stderr).await {
            Ok(connection) => drop(self.give.send(connection)),
            Err(error) => tracing::debug!("a waiting client could not be attached: {error}"),
        }
    }

    /// The client has left.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.give.is_closed()
    }
}

/// The ends of a connected process.
pub(crate) fn live(connection: Connection, tty: bool, stdin: bool) -> AttachStream {
    let Connection { reader, writer } = connection;
    if stdin {
        AttachStream {
            tty,
            output: frames(reader, None),
            input: Some(Box::pin(writer)),
        }
    } else {
        AttachStream {
            tty,
            output: frames(reader, Some(writer)),
            input: None,
        }
    }
}

fn wait_for_start(container: &Container, options: AttachOptions) -> AttachStream {
    let (give, connection) = oneshot::channel();
    let (ours, theirs) = tokio::io::duplex(TYPE_AHEAD);
    let (ready, started) = oneshot::channel();
    container.add_pending(Pending { options, give });
    tokio::spawn(hand_over(connection, theirs, ready, options.stdin));
    let output = stream::once(started).flat_map(|started| match started {
        Ok((reader, writer)) => frames(reader, writer),
        Err(_) => stream::empty().boxed(),
    });
    AttachStream {
        tty: container.record().config.tty,
        output: output.boxed(),
        input: options.stdin.then(|| Box::pin(ours) as _),
    }
}

type Reader = (BufReader<OwnedReadHalf>, Option<OwnedWriteHalf>);

/// Waits for the start, or for the client to leave; then passes input on until its end.
async fn hand_over(
    connection: oneshot::Receiver<Connection>,
    mut input: DuplexStream,
    mut ready: oneshot::Sender<Reader>,
    stdin: bool,
) {
    let connection = tokio::select! {
        connection = connection => connection,
        () = ready.closed() => return,
    };
    let Ok(Connection { reader, mut writer }) = connection else {
        return;
    };
    if !stdin {
        drop(ready.send((reader, Some(writer))));
    } else if ready.send((reader, None)).is_ok() {
        // An error means that the process or the client is gone, which the output side sees too.
        let _ = copy(&mut input, &mut writer).await;
        let _ = writer.shutdown().await;
    }
}

/// Decodes stdcopy frames. Dropping a write half is end-of-file to the shim, so an unused one is kept until the end.
fn frames(
    reader: BufReader<OwnedReadHalf>,
    unused: Option<OwnedWriteHalf>,
) -> BoxStream<'static, OutputChunk> {
    stream::unfold((reader, unused), |(mut reader, unused)| async move {
        let chunk = next_frame(&mut reader).await?;
        Some((chunk, (reader, unused)))
    })
    .boxed()
}

async fn next_frame(reader: &mut BufReader<OwnedReadHalf>) -> Option<OutputChunk> {
    let mut header = [0u8; 8];
    reader.read_exact(&mut header).await.ok()?;
    let stream = if header[0] == 2 {
        StdStream::Stderr
    } else {
        StdStream::Stdout
    };
    let length = u32::from_be_bytes([header[4], header[5], header[6], header[7]]) as usize;
    if length > FRAME_LIMIT {
        return None;
    }
    let mut payload = vec![0; length];
    reader.read_exact(&mut payload).await.ok()?;
    Some(OutputChunk {
        stream,
        bytes: Bytes::from(payload),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::stream::stdcopy_frame;
    use tokio::net::UnixStream;

    fn pair() -> (Connection, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (reader, writer) = ours.into_split();
        (
            Connection {
                reader: BufReader::new(reader),
                writer,
            },
            theirs,
        )
    }

    #[tokio::test]
    async fn frames_become_chunks_until_the_end() {
        let (connection, mut shim) = pair();
        let attached = live(connection, false, false);
        for (stream, text) in [(StdStream::Stdout, &b"out"[..]), (StdStream::Stderr, b"err")] {
            shim.write_all(&stdcopy_frame(stream, text)).await.unwrap();
        }
        drop(shim);
        let chunks: Vec<OutputChunk> = attached.output.collect().await;
        assert_eq!(chunks.len(), 2);
        assert_eq!(
            (chunks[1].stream, &chunks[1].bytes[..]),
            (StdStream::Stderr, &b"err"[..])
        );
    }

    #[tokio::test]
    async fn without_stdin_the_write_side_stays_open() {
        let (connection, mut shim) = pair();
        let attached = live(connection, false, false);
        let mut byte = [0u8; 1];
        let silent = tokio::time::timeout(std::time::Duration::from_millis(50), shim.read(&mut byte)).await;
        assert!(silent.is_err(), "the shim saw an end of input");
        drop(attached);
        assert_eq!(shim.read(&mut byte).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_torn_or_absurd_frame_ends_the_stream() {
        let (connection, mut shim) = pair();
        shim.write_all(&[1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 1])
            .await
            .unwrap();
        assert_eq!(live(connection, false, false).output.count().await, 0);
    }
}
