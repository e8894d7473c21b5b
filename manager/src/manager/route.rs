//! The way from the worker on this node to the dispatcher that leads: a pipe in memory, or the wire.

use std::io;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use proto::wire::dispatcher_client::DispatcherClient;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::transport::{Endpoint, Uri};
use tower::service_fn;

use crate::dispatcher::Door;
use crate::remote::NodeChannel;
use crate::rpc::Wire;
use crate::seat::Seat;
use crate::tls::Cut;
use std::sync::Arc;

/// How long a call waits for a leader to be there.
const PATIENCE: Duration = Duration::from_secs(3);
/// A silent connection is asked this often whether it still is one …
const KEEPALIVE: Duration = Duration::from_secs(2);
/// … and has this long to answer.
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(3);

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A client of whichever dispatcher leads. Its connection ends with each change of the leader.
pub(super) fn client(seat: Seat, door: Door, wire: Arc<Wire>) -> DispatcherClient<NodeChannel> {
    let connector = service_fn(move |_: Uri| {
        let (seat, door, wire) = (seat.clone(), door.clone(), wire.clone());
        async move { connect(seat, door, wire).await.map(TokioIo::new) }
    });
    // The name is never resolved; the connector knows where the leader is.
    let channel = Endpoint::from_static("http://dispatcher.internal")
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_ANSWER)
        .keep_alive_while_idle(true)
        .connect_with_connector_lazy(connector);
    DispatcherClient::new(channel.into())
}

async fn connect(seat: Seat, door: Door, wire: Arc<Wire>) -> io::Result<Cut<Box<dyn Stream>>> {
    let leader = tokio::time::timeout(PATIENCE, seat.await_leader()).await;
    let leader =
        leader.map_err(|_| io::Error::new(io::ErrorKind::NotConnected, "the cluster has no leader"))?;
    let stream: Box<dyn Stream> = match leader == *seat.own() {
        true => Box::new(door.connect()?),
        false => Box::new(wire.dial(&leader).await.map_err(io::Error::other)?),
    };
    Ok(Cut::new(stream, seat.until_deposed(leader)))
}
