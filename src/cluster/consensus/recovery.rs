//! A network that lost the majority of its voters for good goes on with what one member knows. A person decides that, on one
//! member, whose daemon does not run: what others know beyond it is lost, and no software can tell a voter that is gone for good
//! from one that will be back.
//!
//! The member's log, committed or not, is taken for decided and becomes the state of a snapshot; the member is the only
//! voter, in a term whose upper half, the **generation**, is one higher than before. So a member that knows more than the recovered
//! network, or a majority that comes back after all, is told from the others by its term, and refused; one that knows
//! less takes the snapshot and is a member like before. Volumes' epochs are lifted so far that a writer which the lost half may
//! have admitted meanwhile is fenced by the first that the recovered network admits.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::base::id::NodeId;
use crate::cluster::consensus::CLUSTER_GROUP;
use crate::cluster::consensus::log_file::{Change, Damage, Fact, Found, LogError, LogFile};
use crate::cluster::consensus::log_store::LogStore;
use crate::cluster::consensus::machine::Machine;
use crate::cluster::consensus::stored::{self, Image};
use crate::cluster::consensus::types::{LeaderId, LogId, Membership, RaftVote, SnapshotMeta, StoredMembership};
use crate::cluster::state::ClusterState;

/// Terms of one generation.
const TERMS: u32 = 32;

/// How often the network was recovered before this term.
pub(super) fn generation(term: u64) -> u64 {
    term >> TERMS
}

/// What a member knows of its network, its daemon not running.
#[derive(Clone, Debug, PartialEq)]
pub struct Known {
    /// How often the network was recovered.
    pub generation: u64,
    /// The term of the last change, within the generation, and how many changes there were.
    pub term: u64,
    pub changes: u64,
    pub voters: BTreeSet<NodeId>,
    pub state: ClusterState,
}

struct Remains {
    image: Image,
    /// Nothing that this member knows or promised is later.
    term: u64,
}

/// Reads what a member knows. Fails if its daemon runs.
pub async fn known(path: PathBuf) -> Result<Known, LogError> {
    let file = LogFile::open(path).await?;
    let remains = remains(&file, &file.take(CLUSTER_GROUP));
    file.close().await;
    Ok(remains?.known())
}

/// Makes this member the only voter, of all that it knows. Returns what that is. Repeating it is harmless.
pub async fn recover(path: PathBuf, node: NodeId) -> Result<Known, LogError> {
    let file = LogFile::open(path).await?;
    let recovered = recover_in(&file, node).await;
    file.close().await;
    recovered
}

/// The same in an open file.
pub(super) async fn recover_in(file: &LogFile, node: NodeId) -> Result<Known, LogError> {
    let Remains { image, term } = remains(file, &file.take(CLUSTER_GROUP))?;
    let mut cluster = image.cluster.clone();
    cluster.outlive();
    let leader_id = LeaderId { term: (generation(term) + 1) << TERMS, node_id: node };
    let index = image.meta.last_log_id.map_or(0, |last| last.index + 1);
    let last = LogId { leader_id, index };
    let alone = Membership::new(vec![BTreeSet::from([node])], BTreeMap::from([(node, ())]));
    let alone = alone.map_err(|error| LogError::Inconsistent(error.to_string()))?;
    let meta = SnapshotMeta { last_log_id: Some(last), last_membership: StoredMembership::new(Some(last), alone) };
    let recovered = Image { meta, sessions: image.sessions.clone(), cluster };
    let fact = |fact, bytes| Change::Fact { fact, bytes };
    let changes = vec![
        Change::CutFrom(0),
        fact(Fact::Snapshot, recovered.encode().to_vec()),
        fact(Fact::Purged, stored::encode_id(Some(last))),
        fact(Fact::Committed, stored::encode_id(Some(last))),
        fact(Fact::Vote, stored::encode_vote(&RaftVote { leader_id, committed: false })),
    ];
    file.write_and_wait(CLUSTER_GROUP, changes).await.map_err(|_| LogError::Closed)?;
    Ok(Remains { image, term }.known())
}

/// The snapshot, and whatever the log has beyond it: what is not known to be committed may have been.
fn remains(file: &LogFile, found: &Found) -> Result<Remains, LogError> {
    let log = LogStore::new(file.clone(), CLUSTER_GROUP, found)?;
    let mut machine = Machine::new(file.clone(), CLUSTER_GROUP, found)?;
    machine.replay(log.entries());
    let vote = match found.fact(Fact::Vote) {
        Some(bytes) => Some(
            stored::decode_vote(bytes)
                .map_err(|_| LogError::Damaged { group: CLUSTER_GROUP, what: Damage::Fact(Fact::Vote as u8) })?,
        ),
        None => None,
    };
    let image = machine.image();
    let last = image.meta.last_log_id.map(|last| last.leader_id.term);
    Ok(Remains { term: last.max(vote.map(|vote| vote.leader_id.term)).unwrap_or(0), image })
}

impl Remains {
    fn known(self) -> Known {
        let last = self.image.meta.last_log_id;
        let members = self.image.meta.last_membership.membership();
        Known {
            generation: generation(self.term),
            term: last.map_or(0, |last| last.leader_id.term & u64::from(u32::MAX)),
            changes: last.map_or(0, |last| last.index + 1),
            voters: members.voter_ids().collect(),
            state: self.image.cluster,
        }
    }
}
