//! openraft's calls to other members, over [`Rpc`].
//!
//! openraft's own `stream_append` is kept: it sends one append after the other. Several at once would need a transport
//! that delivers requests in order up to the core task; out of order, the second one's conflict looks to the leader as
//! if a follower had lost what it acknowledged. While one is under way the next grows, so nothing is lost by it.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{Either, select};
use openraft::RPCTypes;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};

use crate::base::id::NodeId;
use crate::cluster::consensus::log_file::GroupNumber;
use crate::cluster::consensus::runtime;
use crate::cluster::consensus::types::{RaftVote, Snapshot, Types};
use crate::cluster::consensus::wire::{self, Answer, Failure, Request, SnapshotPart};
use crate::cluster::consensus::{Rpc, RpcError};

/// How long one part of a snapshot may take; the last one includes the installation.
const PART_LIMIT: Duration = Duration::from_secs(10);
/// Bytes of a snapshot in one message.
const PART_BYTES: usize = 256 << 10;

/// What is needed to ask other members anything.
#[derive(Clone)]
pub(super) struct Peers {
    pub node: NodeId,
    pub group: GroupNumber,
    pub rpc: Arc<dyn Rpc>,
    /// How long an append may take before it is sent again, which is harmless.
    pub patience: Duration,
    /// This member leads, and has heard from a majority lately.
    pub quorum: Arc<AtomicBool>,
}

impl Peers {
    /// Sends a request and waits for its answer.
    pub async fn ask(&self, to: NodeId, request: &Request, limit: Duration) -> Result<Answer, RpcError> {
        let message = wire::encode(self.group, request);
        let answer = runtime::timeout(limit, self.rpc.call(to, message, limit)).await;
        let answer = answer.map_err(|_| RpcError::TimedOut)??;
        Ok(wire::decode(self.group, &answer).unwrap_or_else(Answer::Failed))
    }
}

impl RaftNetworkFactory<Types> for Peers {
    type Network = Peer;

    async fn new_client(&mut self, target: NodeId, _node: &()) -> Peer {
        Peer { peers: self.clone(), target }
    }
}

/// One other member.
pub(super) struct Peer {
    peers: Peers,
    target: NodeId,
}

impl Peer {
    async fn ask(&self, action: RPCTypes, request: &Request, limit: Duration) -> Result<Answer, RPCError<Types>> {
        match self.peers.ask(self.target, request, limit).await {
            Ok(Answer::Failed(failure)) => Err(unreachable(&failure)),
            Ok(answer) => Ok(answer),
            Err(RpcError::TimedOut) => {
                Err(Timeout { action, id: self.peers.node, target: self.target, timeout: limit }.into())
            }
            Err(error) => Err(unreachable(&error)),
        }
    }
}

/// Every failure that is not a timeout makes openraft wait a little longer before each further try.
fn unreachable(error: &(impl std::error::Error + 'static)) -> RPCError<Types> {
    Unreachable::new(error).into()
}

/// An answer to another question.
fn wrong() -> RPCError<Types> {
    unreachable(&Failure::Malformed)
}

impl RaftNetworkV2<Types> for Peer {
    type SnapshotData = Bytes;

    async fn append_entries(
        &mut self,
        entries: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let from_the_start = entries.prev_log_id.is_none();
        let quorum = self.peers.quorum.load(Ordering::Relaxed);
        let request = Request::Append { entries, quorum };
        match self.ask(RPCTypes::AppendEntries, &request, self.peers.patience).await? {
            // Nothing precedes the first entry, so nothing can be in conflict with it; openraft would panic.
            Answer::Append(AppendEntriesResponse::Conflict) if from_the_start => Err(wrong()),
            Answer::Append(response) => Ok(response),
            _ => Err(wrong()),
        }
    }

    async fn vote(
        &mut self,
        vote: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        match self.ask(RPCTypes::Vote, &Request::Vote(vote), option.hard_ttl()).await? {
            Answer::Vote(response) => Ok(response),
            _ => Err(wrong()),
        }
    }

    async fn pre_vote(
        &mut self,
        vote: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        match self.ask(RPCTypes::Vote, &Request::PreVote(vote), option.hard_ttl()).await? {
            Answer::PreVote(response) => Ok(response),
            _ => Err(wrong()),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: RaftVote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + openraft::OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let sending = Box::pin(self.send_parts(vote, snapshot.snapshot));
        match select(sending, Box::pin(cancel)).await {
            Either::Left((sent, _)) => Ok(sent?),
            Either::Right((closed, _)) => Err(closed.into()),
        }
    }

    async fn transfer_leader(
        &mut self,
        transfer: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        match self.ask(RPCTypes::TransferLeader, &Request::Transfer(transfer), option.hard_ttl()).await? {
            Answer::Transfer(response) => Ok(response),
            _ => Err(wrong()),
        }
    }
}

impl Peer {
    async fn send_parts(&self, vote: RaftVote, whole: Bytes) -> Result<SnapshotResponse<Types>, RPCError<Types>> {
        let transfer = runtime::random();
        let total = whole.len() as u64;
        let mut offset = 0;
        for bytes in whole.chunks(PART_BYTES) {
            let part = SnapshotPart { vote, transfer, offset, total, bytes: bytes.to_vec() };
            offset += bytes.len() as u64;
            match self.ask(RPCTypes::InstallSnapshot, &Request::Snapshot(part), PART_LIMIT).await? {
                // The whole is installed, or the receiver knows a newer leader.
                Answer::Snapshot(Some(response)) => return Ok(response),
                Answer::Snapshot(None) => (),
                _ => return Err(wrong()),
            }
        }
        Err(wrong())
    }
}
