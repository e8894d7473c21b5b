//! openraft's way to the other members, over a [`Transport`].

use std::sync::Arc;
use std::time::Duration;

use openraft::error::{
    Fatal, NetworkError, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable,
};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{AnyError, OptionalSend, Snapshot, Vote};
use tokio::time::timeout;

use super::message::{Request, Response, SnapshotTransfer, Transport, TransportError};
use super::peers::Peers;
use super::{Member, Types};

/// Between two attempts to reach a member that could not be reached.
const RETRY: Duration = Duration::from_millis(100);

/// How long a member may take to receive a snapshot and keep it, and how much longer for each MiB of it. openraft sets no
/// limit of its own: it would wait for a lost one for ever, and send nothing else to that member.
const TRANSFER: Duration = Duration::from_secs(5);
const TRANSFER_PER_MIB: Duration = Duration::from_secs(1);

type Answer<T> = Result<T, RPCError<u64, Member, RaftError<u64>>>;

/// Makes a [`Line`] to each member.
#[derive(Clone)]
pub(super) struct Network {
    pub(super) transport: Arc<dyn Transport>,
    pub(super) peers: Arc<Peers>,
}

/// The line to one member.
pub(super) struct Line {
    network: Network,
    member: Member,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Line;

    async fn new_client(&mut self, _: u64, member: &Member) -> Line {
        Line {
            network: self.clone(),
            member: member.clone(),
        }
    }
}

impl Line {
    async fn send(&self, request: Request) -> Result<Response, Unreachable> {
        let sent = self.network.transport.send(&self.member, request).await;
        sent.map_err(|error| Unreachable::new(&error))
    }
}

impl RaftNetwork<Types> for Line {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        _: RPCOption,
    ) -> Answer<AppendEntriesResponse<u64>> {
        // Followers must be free to choose another leader, so they must hear nothing of this one.
        if self.network.peers.is_muted() {
            return Err(Unreachable::new(&AnyError::error("this leader has lost the others")).into());
        }
        match self.send(Request::Append(request)).await? {
            Response::Append(answer) => Ok(answer),
            other => Err(confused(&other).into()),
        }
    }

    async fn vote(&mut self, request: VoteRequest<u64>, _: RPCOption) -> Answer<VoteResponse<u64>> {
        match self.send(Request::Vote(request)).await? {
            Response::Vote(answer) => Ok(answer),
            other => Err(confused(&other).into()),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote<u64>,
        snapshot: Snapshot<Types>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<u64>, StreamingError<Types, Fatal<u64>>> {
        let transfer = SnapshotTransfer {
            vote,
            meta: snapshot.meta,
            data: Arc::new(snapshot.snapshot.into_inner()),
        };
        let limit =
            TRANSFER + TRANSFER_PER_MIB * u32::try_from(transfer.data.len() >> 20).unwrap_or(u32::MAX);
        let answer = tokio::select! {
            biased;
            closed = cancel => return Err(closed.into()),
            answer = timeout(limit, self.send(Request::Snapshot(transfer))) => answer,
        };
        let late = |_| {
            Unreachable::new(&AnyError::error(format!(
                "no answer to a snapshot within {limit:?}"
            )))
        };
        let answer = answer.map_err(late)??;
        match answer {
            Response::Snapshot(answer) => Ok(answer),
            other => Err(confused(&other).into()),
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(RETRY))
    }
}

fn confused(answer: &Response) -> NetworkError {
    NetworkError::new(&TransportError {
        address: String::new(),
        reason: format!("its answer is another question's: {answer:?}"),
        dismissed: false,
    })
}
