//! How votes, log entries and snapshots are encoded, on disk and (snapshots) on the wire: types of our own, each with a
//! version in front, so that another version of the consensus library changes nothing on disk.

use std::collections::BTreeSet;
use std::fmt;

use bytes::Bytes;
use openraft::entry::RaftEntry;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::base::id::{ConfigNumber, Epoch, NodeId, SiloId, SlotIndex, VolumeId};
use crate::cluster::consensus::session::{Sessions, Ticket};
use crate::cluster::consensus::types::{
    Entry, LeaderId, LogId, Membership, Payload, Proposal, RaftVote, SnapshotMeta, StoredMembership,
};
use crate::cluster::state::ClusterState;
use crate::cluster::state::command::{Command, Reconfiguration};
use crate::cluster::state::level::Level;
use crate::cluster::state::member::{Duty, Role};
use crate::cluster::state::refusal::Refusal;
use crate::cluster::state::silo::SiloState;

/// Bytes that are not what they should be, or of a newer Infinit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadBytes;

impl fmt::Display for BadBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the bytes are damaged or were written by a newer Infinit")
    }
}

impl std::error::Error for BadBytes {}

/// The id of a log entry: the term and leader that wrote it, and its place.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Id {
    term: u64,
    leader: NodeId,
    index: u64,
}

#[derive(Serialize, Deserialize)]
enum StoredId {
    V1(Option<Id>),
}

#[derive(Serialize, Deserialize)]
enum StoredVote {
    V1 { term: u64, leader: NodeId, committed: bool },
}

#[derive(Serialize, Deserialize)]
enum StoredEntry {
    V1 { id: Id, content: Content },
}

#[derive(Serialize, Deserialize)]
enum Content {
    Blank,
    /// Boxed for its size; the encoding is the same.
    Proposal(Box<Proposal>),
    Members(Members),
}

/// Who votes (two sets while they change) and who else is told.
#[derive(Serialize, Deserialize)]
struct Members {
    voters: Vec<BTreeSet<NodeId>>,
    nodes: BTreeSet<NodeId>,
}

#[derive(Serialize, Deserialize)]
enum StoredSnapshot {
    V1 {
        last: Option<Id>,
        members_at: Option<Id>,
        members: Members,
        sessions: Sessions,
        /// [`ClusterState::encode`]: it has a version of its own.
        cluster: Vec<u8>,
    },
}

/// The replicated state as of one log entry.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Image {
    pub meta: SnapshotMeta,
    pub sessions: Sessions,
    pub cluster: ClusterState,
}

impl From<LogId> for Id {
    fn from(id: LogId) -> Self {
        Self { term: id.leader_id.term, leader: id.leader_id.node_id, index: id.index }
    }
}

impl From<Id> for LogId {
    fn from(id: Id) -> Self {
        LogId { leader_id: LeaderId { term: id.term, node_id: id.leader }, index: id.index }
    }
}

impl Members {
    fn of(membership: &Membership) -> Self {
        Self {
            voters: membership.get_joint_config().clone(),
            nodes: membership.nodes().map(|(node, ())| *node).collect(),
        }
    }

    fn membership(self) -> Result<Membership, BadBytes> {
        if self.voters.is_empty() && self.nodes.is_empty() {
            return Ok(Membership::default());
        }
        let nodes = self.nodes.into_iter().map(|node| (node, ())).collect::<std::collections::BTreeMap<_, _>>();
        Membership::new(self.voters, nodes).map_err(|_| BadBytes)
    }
}

pub(super) fn encode_id(id: Option<LogId>) -> Vec<u8> {
    encode(&StoredId::V1(id.map(Id::from)))
}

pub(super) fn decode_id(bytes: &[u8]) -> Result<Option<LogId>, BadBytes> {
    let StoredId::V1(id) = decode(bytes)?;
    Ok(id.map(LogId::from))
}

pub(super) fn encode_vote(vote: &RaftVote) -> Vec<u8> {
    let RaftVote { leader_id, committed } = *vote;
    encode(&StoredVote::V1 { term: leader_id.term, leader: leader_id.node_id, committed })
}

pub(super) fn decode_vote(bytes: &[u8]) -> Result<RaftVote, BadBytes> {
    let StoredVote::V1 { term, leader, committed } = decode(bytes)?;
    Ok(RaftVote { leader_id: LeaderId { term, node_id: leader }, committed })
}

pub(super) fn encode_entry(entry: &Entry) -> Vec<u8> {
    let content = match &entry.payload {
        Payload::Blank => Content::Blank,
        Payload::Normal(proposal) => Content::Proposal(Box::new(proposal.clone())),
        Payload::Membership(membership) => Content::Members(Members::of(membership)),
    };
    encode(&StoredEntry::V1 { id: entry.log_id.into(), content })
}

pub(super) fn decode_entry(bytes: &[u8]) -> Result<Entry, BadBytes> {
    let StoredEntry::V1 { id, content } = decode(bytes)?;
    let payload = match content {
        Content::Blank => Payload::Blank,
        Content::Proposal(proposal) => Payload::Normal(*proposal),
        Content::Members(members) => Payload::Membership(members.membership()?),
    };
    Ok(Entry::new(id.into(), payload))
}

impl Image {
    pub fn encode(&self) -> Bytes {
        let membership = &self.meta.last_membership;
        let stored = StoredSnapshot::V1 {
            last: self.meta.last_log_id.map(Id::from),
            members_at: membership.log_id().map(Id::from),
            members: Members::of(membership.membership()),
            sessions: self.sessions.clone(),
            cluster: self.cluster.encode(),
        };
        encode(&stored).into()
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, BadBytes> {
        let StoredSnapshot::V1 { last, members_at, members, sessions, cluster } = decode(bytes)?;
        let last_membership = StoredMembership::new(members_at.map(LogId::from), members.membership()?);
        let meta = SnapshotMeta { last_log_id: last.map(LogId::from), last_membership };
        Ok(Self { meta, sessions, cluster: ClusterState::decode(&cluster).map_err(|_| BadBytes)? })
    }
}

fn encode(value: &impl Serialize) -> Vec<u8> {
    // Maps, integers and byte strings into a growing vector: nothing here can fail.
    postcard::to_stdvec(value).expect("stored types are always serializable")
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, BadBytes> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        Ok(_) | Err(_) => Err(BadBytes),
    }
}

/// What a fuzzer feeds: any bytes as each thing that the log file holds, and as a snapshot that another node sent.
/// What is read must be written the same way again.
pub fn fuzz_stored(bytes: &[u8]) {
    if let Ok(entry) = decode_entry(bytes) {
        assert!(decode_entry(&encode_entry(&entry)).is_ok_and(|again| again == entry));
    }
    if let Ok(image) = Image::decode(bytes) {
        assert!(Image::decode(&image.encode()).is_ok());
    }
    // Whether they are any is not asked here.
    let _ = (decode_id(bytes).is_ok(), decode_vote(bytes).is_ok());
}

/// Inputs for [`fuzz_stored`] that are valid.
pub fn fuzz_stored_inputs() -> Vec<Vec<u8>> {
    let leader_id = LeaderId { term: 7, node_id: NodeId([3; 32]) };
    let id = LogId { leader_id, index: 9 };
    let voters = vec![BTreeSet::from([NodeId([1; 32])])];
    let members = Members { voters, nodes: BTreeSet::from([NodeId([1; 32]), NodeId([2; 32])]) };
    // Every voter is among the nodes, so this is a membership.
    let members = members.membership().unwrap_or_default();
    let last_membership = StoredMembership::new(Some(id), members.clone());
    let image = Image {
        meta: SnapshotMeta { last_log_id: Some(id), last_membership },
        sessions: Sessions::default(),
        cluster: ClusterState::default(),
    };
    let mut later = Image { cluster: ClusterState { level: Level::OWN, ..ClusterState::default() }, ..image.clone() };
    let proposals = fuzz_proposals();
    for proposal in &proposals {
        // What it answers is of no interest here.
        let _ = later
            .sessions
            .once(&proposal.ticket, || Err(Refusal::LastCopy { node: "a".to_owned(), volume: "pg".to_owned() }));
    }
    let mut inputs = vec![
        encode_id(Some(id)),
        encode_vote(&RaftVote { leader_id, committed: true }),
        encode_entry(&Entry::new(id, Payload::Blank)),
        encode_entry(&Entry::new(id, Payload::Membership(members))),
        image.encode().to_vec(),
        later.encode().to_vec(),
    ];
    inputs.extend(proposals.into_iter().map(|proposal| encode_entry(&Entry::new(id, Payload::Normal(proposal)))));
    inputs
}

/// One of each kind of command that came with slots that move.
pub(super) fn fuzz_proposals() -> Vec<Proposal> {
    let (volume, node, silo) = (VolumeId([7; 16]), NodeId([1; 32]), SiloId([2; 16]));
    let change = Reconfiguration {
        volume,
        slot: SlotIndex(1),
        epoch: Epoch(3),
        config: ConfigNumber(2),
        silos: vec![silo, SiloId([3; 16])],
    };
    let commands = [
        Command::Reconfigure(change),
        Command::Maintain { volume, node, at: 5 },
        Command::SetDuty { node, duty: Duty::Drains },
        Command::SetRole { node, role: Role::Witness },
        Command::SetReplicas { volume, replicas: 2 },
        Command::SetSiloState { silo, state: SiloState::Down },
        Command::SetDownAfter { down_after_ms: 60_000 },
        Command::Raise { level: Level::OWN },
    ];
    let ticket = |number| Ticket { node, session: 5, number, settled: 3 };
    (6..).zip(commands).map(|(number, command)| Proposal { ticket: ticket(number), command }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(index: u64) -> LogId {
        LogId { leader_id: LeaderId { term: 7, node_id: NodeId([3; 32]) }, index }
    }

    fn membership() -> Membership {
        let voters = vec![BTreeSet::from([NodeId([1; 32])]), BTreeSet::from([NodeId([1; 32]), NodeId([2; 32])])];
        Membership::new_with_defaults(voters, [NodeId([4; 32])])
    }

    #[test]
    fn entries_and_votes_read_back() {
        let ticket = Ticket { node: NodeId([1; 32]), session: 5, number: 6, settled: 3 };
        let command = Command::Leave { node: NodeId([9; 32]), at: 8 };
        let payloads =
            [Payload::Blank, Payload::Normal(Proposal { ticket, command }), Payload::Membership(membership())];
        for payload in payloads {
            let entry = Entry::new(id(4), payload);
            let bytes = encode_entry(&entry);
            assert_eq!(decode_entry(&bytes), Ok(entry));
            assert_eq!(decode_entry(&bytes[..bytes.len() - 1]), Err(BadBytes));
            assert_eq!(decode_entry(&[&bytes[..], &[0]].concat()), Err(BadBytes));
        }
        let vote = RaftVote { leader_id: id(0).leader_id, committed: true };
        assert_eq!(decode_vote(&encode_vote(&vote)), Ok(vote));
        assert_eq!(decode_id(&encode_id(Some(id(1)))), Ok(Some(id(1))));
        assert_eq!(decode_id(&encode_id(None)), Ok(None));
    }

    #[test]
    fn an_image_reads_back_also_an_empty_one() {
        let meta = SnapshotMeta {
            last_log_id: Some(id(9)),
            last_membership: StoredMembership::new(Some(id(5)), membership()),
        };
        let image = Image { meta, sessions: Sessions::default(), cluster: ClusterState::default() };
        assert_eq!(Image::decode(&image.encode()), Ok(image.clone()));
        let empty = Image { meta: SnapshotMeta::default(), ..image };
        assert_eq!(Image::decode(&empty.encode()), Ok(empty));
        assert_eq!(Image::decode(&[1, 2, 3]), Err(BadBytes));
    }
}
