//! Ways to a dispatcher that tests alone go.

use hyper_util::rt::TokioIo;
use proto::wire::dispatcher_client::DispatcherClient;
use tonic::transport::{Endpoint, Uri};
use tower::service_fn;

use super::Dispatcher;
use crate::remote::NodeChannel;
use crate::state::{Store, StoreError};

impl Dispatcher {
    /// A dispatcher over the store that has begun to lead.
    pub(crate) async fn start(store: Store) -> Result<Self, StoreError> {
        let this = Self::new(store);
        this.lead().await?;
        Ok(this)
    }

    /// A client for the node in this process.
    pub(crate) fn serve_in_process(&self) -> DispatcherClient<NodeChannel> {
        let door = self.door();
        let connector = service_fn(move |_: Uri| {
            let connection = door.connect().map(TokioIo::new);
            async move { connection }
        });
        // The name is never resolved; the connector makes the pipe.
        let endpoint = Endpoint::from_static("http://dispatcher.internal");
        DispatcherClient::new(endpoint.connect_with_connector_lazy(connector).into())
    }
}
