//! The dispatcher for this node: gRPC over a pipe in memory.

use futures::StreamExt;
use hyper_util::rt::TokioIo;
use proto::wire::dispatcher_client::DispatcherClient;
use proto::wire::dispatcher_server::DispatcherServer;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Request;
use tonic::transport::{Channel, Endpoint, Server, Uri};
use tower::service_fn;

use super::{Caller, Dispatcher};

/// Bytes that either side may be ahead of the other.
const PIPE: usize = 64 << 10;

/// Starts a server that lives as long as the client or a clone of it.
pub(super) fn serve(dispatcher: &Dispatcher) -> DispatcherClient<Channel> {
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
    let connector = service_fn(move |_: Uri| {
        let (ours, theirs) = tokio::io::duplex(PIPE);
        let sent = connections.send(theirs);
        async move {
            sent.map_err(|_| std::io::Error::from(std::io::ErrorKind::ConnectionRefused))?;
            Ok::<_, std::io::Error>(TokioIo::new(ours))
        }
    });
    // The name is never resolved; the connector makes the pipe.
    let channel = Endpoint::from_static("http://dispatcher.internal").connect_with_connector_lazy(connector);
    DispatcherClient::new(channel)
}
