//! What members of consensus say to each other, and the way it takes.

use std::sync::Arc;

use futures::future::BoxFuture;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{LogId, Vote};
use serde::{Deserialize, Serialize};

use super::snapshot::Meta;
use super::{Member, Types};

/// From one member to another.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Request {
    /// The leader's entries.
    Append(AppendEntriesRequest<Types>),
    /// A candidate asks for a vote.
    Vote(VoteRequest<u64>),
    /// A member asks whether it would get a vote, before it disturbs anybody by asking for one.
    PreVote(PreVote),
    /// The leader's sign of life. Apart from the log, so that a slow disk is not taken for a dead leader.
    Ping(Ping),
    /// The leader's state, for a member that is too far behind.
    Snapshot(SnapshotTransfer),
}

impl Request {
    /// Says nothing but that somebody asks: to see whether there is an answer.
    pub fn hello() -> Self {
        Self::Ping(Ping { leader: 0, term: 0 })
    }
}

/// The answer to a [`Request`] of the same name.
#[derive(Debug, Serialize, Deserialize)]
pub enum Response {
    /// To [`Request::Append`].
    Append(AppendEntriesResponse<u64>),
    /// To [`Request::Vote`].
    Vote(VoteResponse<u64>),
    /// To [`Request::PreVote`]: whether the vote would be given.
    PreVote(bool),
    /// To [`Request::Ping`]: whether the member follows this leader.
    Ping(bool),
    /// To [`Request::Snapshot`].
    Snapshot(SnapshotResponse<u64>),
}

/// What decides whether a member would get a vote.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct PreVote {
    pub(super) candidate: u64,
    pub(super) last_log_id: Option<LogId<u64>>,
}

/// Who leads.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Ping {
    pub(super) leader: u64,
    pub(super) term: u64,
}

/// A snapshot on its way.
#[derive(Clone, Serialize, Deserialize)]
pub struct SnapshotTransfer {
    pub(super) vote: Vote<u64>,
    pub(super) meta: Meta,
    /// The bytes of the snapshot file. A transport sends them beside the rest.
    #[serde(skip)]
    pub data: Arc<Vec<u8>>,
}

impl std::fmt::Debug for SnapshotTransfer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnapshotTransfer")
            .field("meta", &self.meta)
            .field("bytes", &self.data.len())
            .finish_non_exhaustive()
    }
}

/// Why a member did not answer. It may have heard the request all the same.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the manager at {address} did not answer: {reason}")]
pub struct TransportError {
    /// Whom.
    pub address: String,
    /// Why not.
    pub reason: String,
    /// Whether it said that who asks is no member.
    pub dismissed: bool,
}

/// The way to the other members.
pub trait Transport: Send + Sync + 'static {
    /// Sends a request and waits for its answer. It may take as long as it likes: whoever calls has a time limit, and
    /// drops the future then.
    fn send(&self, to: &Member, request: Request) -> BoxFuture<'static, Result<Response, TransportError>>;
}

/// There is no way: for groups of one.
#[derive(Debug, Clone, Copy, Default)]
pub struct Nowhere;

impl Transport for Nowhere {
    fn send(&self, to: &Member, _request: Request) -> BoxFuture<'static, Result<Response, TransportError>> {
        let error = TransportError {
            address: to.address.clone(),
            reason: "this group has one member".to_owned(),
            dismissed: false,
        };
        Box::pin(async move { Err(error) })
    }
}
