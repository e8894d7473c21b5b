//! The gRPC service between managers.

use std::sync::Arc;
use std::time::Duration;

use proto::spec::NodeRole;
use proto::wire::managers_server::{Managers, ManagersServer};
use proto::wire::{
    ConsensusMessage, GetLeaderRequest, GetLeaderResponse, JoinManagersRequest, JoinManagersResponse,
    LeaveManagersRequest, LeaveManagersResponse, ManagerAddress, SnapshotPart,
};
use proto::{Node, NodeId};
use tonic::{Request, Response, Status, Streaming};

use super::wire::MESSAGE;
use crate::dispatcher::Caller;
use crate::files::chain;
use crate::seat::Seat;
use crate::state::consensus::message::{self, Transport};
use crate::state::consensus::{Member, MembershipError};
use crate::state::{Reader, Store, StoreError};

/// A manager that joins must answer at its address within this time.
const DIAL_BACK: Duration = Duration::from_secs(5);
/// Bytes of a snapshot at most.
const SNAPSHOT: usize = 1 << 30;

/// Answers other managers.
pub(super) struct Service {
    pub(super) seat: Seat,
    pub(super) store: Store,
    pub(super) transport: Arc<dyn Transport>,
}

impl Service {
    pub(super) fn service(self) -> ManagersServer<Self> {
        ManagersServer::new(self)
            .max_decoding_message_size(MESSAGE)
            .max_encoding_message_size(MESSAGE)
    }

    async fn answer(&self, request: message::Request) -> Result<Response<ConsensusMessage>, Status> {
        let answer = self.seat.consensus().handle(request).await;
        let answer = answer.map_err(|error| Status::unavailable(chain(&error)))?;
        let json = serde_json::to_vec(&answer).map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(ConsensusMessage { json }))
    }

    /// The member must be where it says, or the group could lose its majority by taking it in.
    async fn dial_back(&self, member: &Member) -> Result<(), Status> {
        let answer = self.transport.send(member, message::Request::hello());
        let answer = tokio::time::timeout(DIAL_BACK, answer).await;
        let reason = match answer {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => error.reason,
            Err(_) => format!("no answer within {} s", DIAL_BACK.as_secs()),
        };
        Err(Status::failed_precondition(format!(
            "could not connect to prospective new cluster member using its advertised address {}: {reason}",
            member.address
        )))
    }

    /// What an earlier life of the node has left in the group.
    async fn forget_earlier(&self, node: &NodeId, member: u64) -> Result<(), Status> {
        let members = self.seat.consensus().members();
        for old in members
            .iter()
            .filter(|old| old.member.node == *node && old.id != member)
        {
            self.seat.consensus().remove(old.id).await.map_err(refused)?;
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl Managers for Service {
    async fn get_leader(&self, _: Request<GetLeaderRequest>) -> Result<Response<GetLeaderResponse>, Status> {
        let members = self.seat.consensus().members();
        Ok(Response::new(GetLeaderResponse {
            leader: self.seat.leader().map(address),
            managers: members
                .into_iter()
                .filter(|member| member.votes)
                .map(|member| address(member.member))
                .collect(),
        }))
    }

    async fn deliver(
        &self,
        request: Request<ConsensusMessage>,
    ) -> Result<Response<ConsensusMessage>, Status> {
        let request = serde_json::from_slice(&request.into_inner().json);
        let request = request.map_err(|_| Status::invalid_argument("the message makes no sense"))?;
        self.answer(request).await
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<SnapshotPart>>,
    ) -> Result<Response<ConsensusMessage>, Status> {
        let mut parts = request.into_inner();
        let senseless = || Status::invalid_argument("the message makes no sense");
        let head = parts.message().await?.ok_or_else(senseless)?;
        let mut data = head.data;
        while let Some(part) = parts.message().await? {
            if data.len() + part.data.len() > SNAPSHOT {
                return Err(Status::resource_exhausted("the snapshot is too large"));
            }
            data.extend(part.data);
        }
        match serde_json::from_slice(&head.json) {
            Ok(message::Request::Snapshot(mut transfer)) => {
                transfer.data = Arc::new(data);
                self.answer(message::Request::Snapshot(transfer)).await
            }
            _ => Err(senseless()),
        }
    }

    async fn join(
        &self,
        request: Request<JoinManagersRequest>,
    ) -> Result<Response<JoinManagersResponse>, Status> {
        let node = caller(&request)?;
        let request = request.into_inner();
        let role = self
            .store
            .view(|tx| tx.get::<Node>(&node))
            .map(|node| node.spec.role);
        if role != Some(NodeRole::Manager) {
            return Err(Status::failed_precondition("the node is not to be a manager"));
        }
        if request.member == 0 {
            return Err(Status::invalid_argument("0 is no member's number"));
        }
        let member = Member {
            address: request.address,
            node,
        };
        self.dial_back(&member).await?;
        self.forget_earlier(&member.node, request.member).await?;
        tracing::info!(node.id = %member.node, address = member.address, "a manager joins");
        self.seat
            .consensus()
            .add(request.member, member)
            .await
            .map_err(refused)?;
        Ok(Response::new(JoinManagersResponse {}))
    }

    async fn leave(
        &self,
        request: Request<LeaveManagersRequest>,
    ) -> Result<Response<LeaveManagersResponse>, Status> {
        let node = caller(&request)?;
        tracing::info!(node.id = %node, "a manager leaves");
        let members = self.seat.consensus().members();
        for member in members.iter().filter(|member| member.member.node == node) {
            self.seat.consensus().remove(member.id).await.map_err(refused)?;
        }
        let left = self.store.update(|tx| tx.modify(&node, Node::leave)).await;
        left.map_err(|error: StoreError| Status::unavailable(chain(&error)))?;
        Ok(Response::new(LeaveManagersResponse {}))
    }
}

fn caller<T>(request: &Request<T>) -> Result<NodeId, Status> {
    match Caller::of(request)? {
        Caller::Node { id, .. } => Ok(id),
        Caller::InProcess => Err(Status::internal("a manager does not call itself")),
    }
}

fn address(member: Member) -> ManagerAddress {
    ManagerAddress {
        node_id: member.node.into(),
        address: member.address,
    }
}

fn refused(error: MembershipError) -> Status {
    match error {
        MembershipError::NotLeader => Status::unavailable(error.to_string()),
        other => Status::failed_precondition(other.to_string()),
    }
}
