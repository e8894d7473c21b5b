//! A channel that goes on over a new connection when the node's certificate is another, or when who answers does not
//! lead, without losing a call.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::watch;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::transport::{Channel, Error};
use tonic::{Code, Status};
use tower::Service;

use super::channel::Link;

/// To the managers. Calls that are under way end on the connection on which they began; the next one takes a connection made
/// with what the node shows now, to who leads now. Who was taken for the leader and is none stays connected and answers
/// every call in vain: nothing but its answer tells.
#[derive(Clone)]
pub struct NodeChannel {
    inner: Channel,
    way: Option<Way>,
}

/// How the connection was made, and whether that still is how to make it.
#[derive(Clone)]
struct Way {
    link: Arc<Link>,
    made: u64,
    now: watch::Receiver<u64>,
}

impl Way {
    /// The next call takes a new connection, unless that is so already.
    fn leads_astray(&self) {
        self.link.look_again(self.made);
    }
}

impl NodeChannel {
    pub(super) fn new(link: Arc<Link>) -> Self {
        let mut now = link.renewals();
        let made = *now.borrow_and_update();
        Self {
            inner: link.connection(),
            way: Some(Way { link, made, now }),
        }
    }
}

/// Within this process nothing is ever renewed.
impl From<Channel> for NodeChannel {
    fn from(inner: Channel) -> Self {
        Self { inner, way: None }
    }
}

impl Service<Request<Body>> for NodeChannel {
    type Response = Response<Body>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if let Some(way) = &mut self.way
            && way.now.has_changed().unwrap_or(false)
        {
            way.made = *way.now.borrow_and_update();
            self.inner = way.link.connection();
        }
        Service::poll_ready(&mut self.inner, cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (answer, way) = (Service::call(&mut self.inner, request), self.way.clone());
        Box::pin(async move {
            let answer = answer.await?;
            if let Some(way) = way.filter(|_| is_in_vain(&answer)) {
                way.leads_astray();
            }
            Ok(answer)
        })
    }
}

/// Whether a manager says that it can't serve: it does not lead, or knows nobody who does.
fn is_in_vain(answer: &Response<Body>) -> bool {
    Status::from_header_map(answer.headers()).is_some_and(|status| status.code() == Code::Unavailable)
}

impl fmt::Debug for NodeChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeChannel").finish_non_exhaustive()
    }
}
