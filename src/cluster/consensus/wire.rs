//! What the members of a group send one another: a request, an answer.
//!
//! Byte map of a message: version (1), group (8, little endian), CRC32C of the rest (4, little endian), the body in
//! postcard. The channel below is authenticated; the checksum is against our own mistakes.
//!
//! History of the version: 1, the first.

use std::fmt;

use bytes::Bytes;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::base::id::NodeId;
use crate::cluster::consensus::log_file::GroupNumber;
use crate::cluster::consensus::stored::fuzz_proposals;
use crate::cluster::consensus::types::{Proposal, RaftVote, Types};
use crate::cluster::state::command::Outcome;
use crate::cluster::state::refusal::Refusal;

const VERSION: u8 = 1;
const HEAD_BYTES: usize = 13;

/// A request of one member to another.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    Append {
        entries: AppendEntriesRequest<Types>,
        /// The leader has heard from a majority lately: only then does its heartbeat say that the group has a quorum.
        quorum: bool,
    },
    Vote(VoteRequest<Types>),
    PreVote(VoteRequest<Types>),
    Snapshot(SnapshotPart),
    Transfer(TransferLeaderRequest<Types>),
    Propose(Proposal),
    /// How many log entries a linearizable read has to wait for.
    ReadIndex,
}

/// A piece of a snapshot: it shares a connection with heartbeats and must not keep them waiting.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SnapshotPart {
    pub vote: RaftVote,
    /// Drawn at random for each transfer.
    pub transfer: u64,
    pub offset: u64,
    /// The bytes of the whole.
    pub total: u64,
    pub bytes: Vec<u8>,
}

/// The answer to a request.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    Append(AppendEntriesResponse<Types>),
    Vote(VoteResponse<Types>),
    PreVote(VoteResponse<Types>),
    /// `None` until the last part is there and installed.
    Snapshot(Option<SnapshotResponse<Types>>),
    Transfer(TransferLeaderResponse<Types>),
    Proposed {
        answer: Result<Outcome, Refusal>,
        /// How many log entries include it.
        applied: u64,
    },
    ReadIndex(u64),
    /// Ask this one, if any.
    NotLeader(Option<NodeId>),
    Failed(Failure),
}

/// Why a request was not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Failure {
    /// The bytes are no request of this version.
    Malformed,
    OtherGroup,
    /// The request speaks for another node than the one that sent it, or contradicts itself.
    Forged,
    /// This member has stopped.
    Stopped,
    /// The leader did not get a majority's answer in time.
    NoQuorum,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Failure::Malformed => "the message could not be read",
            Failure::OtherGroup => "the message is for another group",
            Failure::Forged => "the message contradicts itself or its sender",
            Failure::Stopped => "the member has stopped",
            Failure::NoQuorum => "the leader has no quorum",
        })
    }
}

impl std::error::Error for Failure {}

pub(super) fn encode(group: GroupNumber, body: &impl Serialize) -> Bytes {
    let mut message = Vec::with_capacity(256);
    message.push(VERSION);
    message.extend_from_slice(&group.0.to_le_bytes());
    message.extend_from_slice(&[0; 4]);
    // Plain types into a growing vector: nothing here can fail.
    let mut message = postcard::to_extend(body, message).expect("messages are always serializable");
    let sum = crc32c::crc32c(&message[HEAD_BYTES..]);
    message[HEAD_BYTES - 4..HEAD_BYTES].copy_from_slice(&sum.to_le_bytes());
    message.into()
}

pub(super) fn decode<T: DeserializeOwned>(group: GroupNumber, message: &[u8]) -> Result<T, Failure> {
    let (head, body) = message.split_first_chunk::<HEAD_BYTES>().ok_or(Failure::Malformed)?;
    let (version, rest) = head.split_first_chunk::<1>().ok_or(Failure::Malformed)?;
    let (number, sum) = rest.split_first_chunk::<8>().ok_or(Failure::Malformed)?;
    if version != &[VERSION] || sum != crc32c::crc32c(body).to_le_bytes() {
        return Err(Failure::Malformed);
    }
    if u64::from_le_bytes(*number) != group.0 {
        return Err(Failure::OtherGroup);
    }
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        Ok(_) | Err(_) => Err(Failure::Malformed),
    }
}

/// What a fuzzer feeds: any bytes as the body of a message between members.
pub fn fuzz_message(body: &[u8]) {
    let mut message = vec![VERSION];
    message.extend_from_slice(&7_u64.to_le_bytes());
    message.extend_from_slice(&crc32c::crc32c(body).to_le_bytes());
    message.extend_from_slice(body);
    if let Ok(request) = decode::<Request>(GroupNumber(7), &message) {
        // Whether it is sound is not asked here.
        let _ = check(NodeId([1; 32]), &request);
    }
    let _ = decode::<Answer>(GroupNumber(7), &message);
}

/// Inputs for [`fuzz_message`] that are valid.
pub fn fuzz_message_inputs() -> Vec<Vec<u8>> {
    let bytes = vec![1, 2, 3];
    let vote = RaftVote::new(3, NodeId([1; 32]));
    let part = Request::Snapshot(SnapshotPart { vote, transfer: 5, offset: 0, total: 3, bytes });
    let answer = Answer::NotLeader(Some(NodeId([1; 32])));
    let mut bodies = vec![
        encode(GroupNumber(7), &part),
        encode(GroupNumber(7), &Request::ReadIndex),
        encode(GroupNumber(7), &answer),
    ];
    bodies.extend(fuzz_proposals().into_iter().map(|proposal| encode(GroupNumber(7), &Request::Propose(proposal))));
    bodies.iter().map(|message| message[HEAD_BYTES..].to_vec()).collect()
}

/// Checks what openraft takes for granted: the request speaks for its sender, and its entries follow one another.
pub(super) fn check(from: NodeId, request: &Request) -> Result<(), Failure> {
    let sound = match request {
        Request::Append { entries, .. } => {
            let mut next = entries.prev_log_id.map_or(0, |id| id.index.wrapping_add(1));
            let mut last = entries.prev_log_id;
            let follow = entries.entries.iter().all(|entry| {
                let follows = entry.log_id.index == next && Some(entry.log_id) > last;
                next = next.wrapping_add(1);
                last = Some(entry.log_id);
                follows && entry.log_id.leader_id <= entries.vote.leader_id
            });
            follow && entries.vote.committed && entries.vote.leader_id.node_id == from
        }
        Request::Vote(vote) | Request::PreVote(vote) => !vote.vote.committed && vote.vote.leader_id.node_id == from,
        Request::Snapshot(part) => part.vote.committed && part.vote.leader_id.node_id == from,
        Request::Transfer(transfer) => {
            transfer.from_leader().committed && transfer.from_leader().leader_id.node_id == from
        }
        Request::Propose(proposal) => proposal.ticket.node == from,
        Request::ReadIndex => true,
    };
    if sound { Ok(()) } else { Err(Failure::Forged) }
}
