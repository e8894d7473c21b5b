//! The dispatcher for this node: gRPC over a pipe in memory.

use futures::StreamExt;
use proto::wire::dispatcher_server::DispatcherServer;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Request;
use tonic::transport::Server;

use super::{Caller, Dispatcher};

/// Bytes that either side may be ahead of the other.
const PIPE: usize = 64 << 10;

/// The way in. The server lives as long as it or a clone of it.
#[derive(Debug, Clone)]
pub(crate) struct Door {
    connections: mpsc::UnboundedSender<DuplexStream>,
}

impl Door {
    pub(super) fn open(dispatcher: &Dispatcher) -> Self {
        let (connections, incoming) = mpsc::unbounded_channel::<DuplexStream>();
        let incoming = UnboundedReceiverStream::new(incoming).map(Ok::<_, std::io::Error>);
        let service = DispatcherServer::with_interceptor(dispatcher.clone(), |mut request: Request<()>| {
            request.extensions_mut().insert(Caller::InProcess);
            Ok(request)
        });
        let server = Server::builder().serve_with_incoming(service, incoming);
        tokio::spawn(async move {
            if let Err(error) = server.await {
                tracing::warn!(
                    error = crate::files::chain(&error),
                    "the dispatcher in this process ended"
                );
            }
        });
        Self { connections }
    }

    /// A connection.
    ///
    /// # Errors
    /// The server has ended.
    pub(crate) fn connect(&self) -> std::io::Result<DuplexStream> {
        let (ours, theirs) = tokio::io::duplex(PIPE);
        let sent = self.connections.send(theirs);
        sent.map_err(|_| std::io::Error::from(std::io::ErrorKind::ConnectionRefused))?;
        Ok(ours)
    }
}
