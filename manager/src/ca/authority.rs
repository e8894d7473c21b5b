//! The gRPC service through which nodes get their certificates.
//!
//! A join token makes a node: its object is in the store before its certificate leaves this process, so that a certificate
//! without a node is a removed node's.

use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use proto::object::{NodeDescription, TlsInfo};
use proto::spec::{Availability, NodeRole};
use proto::wire::node_ca_server::{NodeCa, NodeCaServer};
use proto::wire::{
    GetRootCertificateRequest, GetRootCertificateResponse, IssueNodeCertificateRequest,
    IssueNodeCertificateResponse, ManagerAddress, RenewNodeCertificateRequest, RenewNodeCertificateResponse,
    RootMessage, WatchRootRequest,
};
use proto::{Cluster, Node, NodeId, NodeSpec};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::root::key_digest;
use super::{CaError, JoinToken, RootCa, node_life};
use crate::dispatcher::{Caller, Dispatcher};
use crate::files::chain;
use crate::state::{Filter, Kind, Reader, Store, StoreError, WriteTx};

/// Bytes of a request at most: anyone may send one.
const REQUEST: usize = 256 << 10;

/// Signs nodes' certificates.
#[derive(Debug, Clone)]
pub struct Authority {
    store: Store,
    dispatcher: Dispatcher,
}

impl Authority {
    /// The authority of the cluster in the store. New nodes are expected at the dispatcher.
    pub fn new(store: Store, dispatcher: Dispatcher) -> Self {
        Self { store, dispatcher }
    }

    /// The gRPC service.
    pub fn service(self) -> NodeCaServer<Self> {
        NodeCaServer::new(self).max_decoding_message_size(REQUEST)
    }

    fn cluster(&self) -> Result<(Cluster, RootCa), Status> {
        let cluster = self.store.view(|tx| tx.all::<Cluster>().into_iter().next());
        let cluster = cluster.ok_or_else(|| Status::unavailable("the manager has no cluster yet"))?;
        let root = cluster.root_ca.as_ref().map(RootCa::from_object);
        let root = root.ok_or_else(|| Status::unavailable("the manager has no root certificate yet"))?;
        Ok((Cluster::clone(&cluster), root))
    }

    fn managers(&self) -> Vec<ManagerAddress> {
        let nodes = self.store.view(|tx| tx.all::<Node>());
        let managers = nodes
            .iter()
            .filter_map(|node| node.manager_status.as_ref().map(|status| (node, status)));
        managers
            .map(|(node, status)| ManagerAddress {
                node_id: node.id.to_string(),
                address: status.addr.clone(),
            })
            .collect()
    }
}

/// What nodes are told of the root.
fn root_message(cluster: Option<Arc<Cluster>>) -> Option<RootMessage> {
    let root = RootCa::from_object(cluster?.root_ca.as_ref()?);
    Some(RootMessage {
        signer: root.signer_id().ok()?,
        trusted: root.cert().to_owned(),
    })
}

/// Sends what is to be trusted and what signs, now and whenever it changes.
async fn tell_of_root(store: Store, sender: mpsc::Sender<Result<RootMessage, Status>>) {
    let (cluster, mut events) = store.view_and_watch(Filter::kinds(&[Kind::Cluster]), |tx| {
        tx.all::<Cluster>().into_iter().next()
    });
    let (mut told, mut now) = (None, root_message(cluster));
    loop {
        if let Some(message) = now.filter(|now| told.as_ref() != Some(now)) {
            told = Some(message.clone());
            if sender.send(Ok(message)).await.is_err() {
                return;
            }
        }
        tokio::select! {
            event = events.next() => if event.is_none() { return },
            () = sender.closed() => return,
        }
        now = root_message(store.view(|tx| tx.all::<Cluster>().into_iter().next()));
    }
}

#[tonic::async_trait]
impl NodeCa for Authority {
    type WatchRootStream = Pin<Box<dyn Stream<Item = Result<RootMessage, Status>> + Send>>;

    async fn watch_root(
        &self,
        request: Request<WatchRootRequest>,
    ) -> Result<Response<Self::WatchRootStream>, Status> {
        Caller::of(&request)?;
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(tell_of_root(self.store.clone(), sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn get_root_certificate(
        &self,
        _: Request<GetRootCertificateRequest>,
    ) -> Result<Response<GetRootCertificateResponse>, Status> {
        let certificate = self.cluster()?.1.cert().to_owned();
        Ok(Response::new(GetRootCertificateResponse { certificate }))
    }

    async fn issue_node_certificate(
        &self,
        request: Request<IssueNodeCertificateRequest>,
    ) -> Result<Response<IssueNodeCertificateResponse>, Status> {
        let request = request.into_inner();
        let (cluster, root, role, id) = loop {
            let (cluster, root) = self.cluster()?;
            let role = role(&cluster, &request.token)?;
            let node = node(&cluster, &root, role, &request)?;
            let admitted = self.store.update(|tx| admit(tx, node, &cluster)).await;
            let admitted = admitted.map_err(|error: StoreError| Status::unavailable(chain(&error)))?;
            if let Some(id) = admitted {
                break (cluster, root, role, id);
            }
        };
        let certificate = root
            .sign(&request.csr, &cluster.id, &id, role, node_life(&cluster))
            .map_err(|error| refused(&error))?;
        self.dispatcher.expect(id.clone());
        tracing::info!(node.id = %id, "node joined");
        Ok(Response::new(IssueNodeCertificateResponse {
            node_id: id.into(),
            certificate,
            root: root.cert().to_owned(),
            managers: self.managers(),
        }))
    }

    async fn renew_node_certificate(
        &self,
        request: Request<RenewNodeCertificateRequest>,
    ) -> Result<Response<RenewNodeCertificateResponse>, Status> {
        let Caller::Node { id, .. } = Caller::of(&request)? else {
            return Err(Status::failed_precondition("a manager signs its own certificate"));
        };
        let (cluster, root) = self.cluster()?;
        let node = self.store.view(|tx| tx.get::<Node>(&id));
        let node = node.ok_or_else(|| Caller::removed(&id))?;
        let csr = request.into_inner().csr;
        let certificate = root
            .sign(&csr, &cluster.id, &id, node.spec.role, node_life(&cluster))
            .map_err(|error| refused(&error))?;
        tracing::info!(node.id = %id, "certificate renewed");
        Ok(Response::new(RenewNodeCertificateResponse { certificate }))
    }
}

/// What the token makes of its bearer. Both tokens are compared, whichever matches.
fn role(cluster: &Cluster, token: &str) -> Result<NodeRole, Status> {
    let refused = || Status::permission_denied("A valid join token is necessary to join this cluster");
    let shown: JoinToken = token.parse().map_err(|_| refused())?;
    let matches = |kept: &str| kept.parse::<JoinToken>().is_ok_and(|kept| kept.matches(&shown));
    let (worker, manager) = (
        matches(&cluster.join_tokens.worker),
        matches(&cluster.join_tokens.manager),
    );
    match (worker, manager) {
        (true, _) => Ok(NodeRole::Worker),
        (_, true) => Ok(NodeRole::Manager),
        _ => Err(refused()),
    }
}

/// Makes the node, unless it is there already: the answer to an earlier request with the same key was lost. `None` if the root
/// is no longer that of `cluster`: an exchange that did not wait for this node would leave it with a root that is gone.
fn admit(tx: &mut WriteTx<'_>, node: Node, cluster: &Cluster) -> Result<Option<NodeId>, StoreError> {
    let now = tx.all::<Cluster>().into_iter().next();
    if now.is_none_or(|now| now.root_ca != cluster.root_ca) {
        return Ok(None);
    }
    let before = tx
        .all::<Node>()
        .into_iter()
        .find(|known| known.join_key == node.join_key);
    if let Some(before) = before {
        return Ok(Some(before.id.clone()));
    }
    let id = node.id.clone();
    tx.create(node).map(|()| Some(id))
}

/// The object of the node that joins.
fn node(
    cluster: &Cluster,
    root: &RootCa,
    role: NodeRole,
    request: &IssueNodeCertificateRequest,
) -> Result<Node, Status> {
    let invalid = |what: &str| Status::invalid_argument(format!("the {what} of the node makes no sense"));
    let description: NodeDescription =
        serde_json::from_slice(&request.description).map_err(|_| invalid("description"))?;
    let availability: Availability =
        serde_json::from_slice(&request.availability).map_err(|_| invalid("availability"))?;
    Ok(Node {
        id: NodeId::random(),
        spec: NodeSpec {
            role,
            availability,
            ..NodeSpec::default()
        },
        description: NodeDescription {
            tls_info: TlsInfo {
                trust_root: root.cert().to_owned(),
                ..cluster.tls_info.clone()
            },
            ..description
        },
        join_key: Some(key_digest(&request.csr).map_err(|error| refused(&error))?),
        ..Node::default()
    })
}

fn refused(error: &CaError) -> Status {
    match error {
        CaError::Request(_) => Status::invalid_argument(chain(error)),
        _ => Status::internal(chain(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Store;

    #[tokio::test]
    async fn nobody_joins_under_a_root_that_is_being_exchanged_meanwhile() {
        let store = Store::in_memory();
        let old = Cluster {
            id: "c".into(),
            root_ca: Some(RootCa::generate().unwrap().to_object()),
            ..Cluster::default()
        };
        let new = Cluster {
            root_ca: Some(RootCa::generate().unwrap().to_object()),
            ..old.clone()
        };
        let node = |id: &str| Node {
            id: id.into(),
            join_key: Some(id.to_owned()),
            ..Node::default()
        };
        store.update(|tx| tx.create(new.clone())).await.unwrap();
        let late = store.update(|tx| admit(tx, node("a"), &old)).await;
        assert_eq!(late.unwrap(), None::<NodeId>);
        let made = store.update(|tx| admit(tx, node("b"), &new)).await;
        assert_eq!(made.unwrap(), Some("b".into()));
        assert_eq!(store.view(|tx| tx.all::<Node>()).len(), 1);
    }
}
