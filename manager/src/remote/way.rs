//! A channel that goes on over a new connection when the node's certificate is another, without losing a call.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::watch;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::transport::{Channel, Error, channel::ResponseFuture};
use tower::Service;

use super::channel::Link;

/// To the managers. Calls that are under way end on the connection on which they began; the next one takes a connection made
/// with what the node shows now.
#[derive(Clone)]
pub struct NodeChannel {
    inner: Channel,
    link: Option<(Arc<Link>, watch::Receiver<u64>)>,
}

impl NodeChannel {
    pub(super) fn new(link: Arc<Link>) -> Self {
        let mut renewals = link.renewals();
        renewals.mark_unchanged();
        Self {
            inner: link.connection(),
            link: Some((link, renewals)),
        }
    }
}

/// Within this process nothing is ever renewed.
impl From<Channel> for NodeChannel {
    fn from(inner: Channel) -> Self {
        Self { inner, link: None }
    }
}

impl Service<Request<Body>> for NodeChannel {
    type Response = Response<Body>;
    type Error = Error;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if let Some((link, renewals)) = &mut self.link
            && renewals.has_changed().unwrap_or(false)
        {
            renewals.mark_unchanged();
            self.inner = link.connection();
        }
        Service::poll_ready(&mut self.inner, cx)
    }

    fn call(&mut self, request: Request<Body>) -> ResponseFuture {
        Service::call(&mut self.inner, request)
    }
}

impl fmt::Debug for NodeChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeChannel").finish_non_exhaustive()
    }
}
