//! The cluster group: how every member comes to hold the same [`crate::cluster::state::ClusterState`].
//!
//! It is a Raft group (openraft) in which every member of the network is told of every change and one or three of them
//! vote. A command is proposed on any member ([`Group::propose`]), travels to the leader, into a majority's logs, and is
//! applied everywhere in the same order; the proposer returns once its own state has it too. Reading is local
//! ([`Group::state`]); a reader that must not be behind asks the leader how far to wait ([`Group::current`]).
//!
//! The group is off the I/O path: volumes that are attached go on while it has no quorum. Then proposals fail, in
//! bounded time and saying so.
//!
//! From the bottom: [`log_file`](self) is one redb file a node with one group commit for all groups, `stored` the
//! encodings in it, `log_store` and `machine` what openraft reads and writes, `session` what makes a repeated proposal
//! harmless, `wire` and `network` the messages, `membership` who votes, `status` whether it works, `group` the whole.
//! `runtime` is what all of them take from their surroundings: time, tasks and chance.
//!
//! This module opens one file and no socket: messages go through [`Rpc`], which the daemon implements.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::base::error::Fault;
use crate::base::id::NodeId;
use crate::cluster::state::refusal::Refusal;
use crate::transport::network::ConnectError;

mod group;
mod log_file;
mod log_store;
mod machine;
mod membership;
mod network;
pub mod recovery;
pub(crate) mod runtime;
mod session;
mod status;
mod stored;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod told;
mod types;
mod wire;

pub use crate::cluster::consensus::group::Group;
pub use crate::cluster::consensus::log_file::{Damage, GroupNumber, LogError, LogFile, make_ready};
pub use crate::cluster::consensus::status::GroupStatus;
pub use crate::cluster::consensus::stored::{fuzz_stored, fuzz_stored_inputs};
pub use crate::cluster::consensus::types::Tuning;
pub use crate::cluster::consensus::wire::{fuzz_message, fuzz_message_inputs};

/// The Raft group of the cluster state.
pub const CLUSTER_GROUP: GroupNumber = GroupNumber(0);
/// The largest command, encoded: a passport and a few addresses need a few hundred bytes.
pub const PROPOSAL_BYTES_MAX: usize = 16 << 10;
/// Proposals of one member under way at once; more wait.
pub const PROPOSALS_MAX: usize = 64;
/// The largest state that is sent to a member that is far behind.
pub const SNAPSHOT_BYTES_MAX: u64 = 256 << 20;

/// Carries a request to a member and brings its answer. The daemon implements it over the transport.
///
/// Requests may be lost, repeated, delayed and overtake one another.
pub trait Rpc: Send + Sync + 'static {
    /// Delivers `request` to [`Group::serve`] of `to`, and its answer back, within `limit`.
    fn call(&self, to: NodeId, request: Bytes, limit: Duration) -> BoxFuture<'_, Result<Bytes, RpcError>>;
}

/// A request has no answer; whether it was carried out is unknown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RpcError {
    /// The member cannot be reached.
    Connect(ConnectError),
    /// The connection broke while the answer was awaited.
    Broken,
    TimedOut,
}

impl fmt::Display for RpcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RpcError::Connect(error) => error.fmt(f),
            RpcError::Broken => f.write_str("the connection broke"),
            RpcError::TimedOut => f.write_str("no answer in time"),
        }
    }
}

impl std::error::Error for RpcError {}

/// Where a group keeps its log.
#[derive(Clone, Debug)]
pub enum Storage {
    /// A file of its own, created if missing; closed by [`Group::shutdown`].
    File(PathBuf),
    /// A file that several groups share; closed by its owner.
    Shared(LogFile),
}

/// What a group needs to start.
pub struct GroupOptions {
    pub node: NodeId,
    pub storage: Storage,
    pub rpc: Arc<dyn Rpc>,
    /// Members to ask for the leader while none is known otherwise: those who admitted this node, say.
    pub peers: Vec<NodeId>,
    pub tuning: Tuning,
}

/// A proposal was not carried out, or nobody knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProposeError {
    /// The cluster state refuses it; nothing has changed.
    Refused(Refusal),
    /// No leader with a majority was found in time. If the proposal was under way, it may still be carried out.
    NoQuorum,
    /// There is a leader, but no answer came in time. The proposal may still be carried out.
    TimedOut,
    /// The command is larger than [`PROPOSAL_BYTES_MAX`].
    TooLarge,
    /// This member has stopped.
    Stopped,
}

impl fmt::Display for ProposeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProposeError::Refused(refusal) => refusal.fmt(f),
            ProposeError::NoQuorum => f.write_str("the cluster has no quorum: too few of its nodes are reachable"),
            ProposeError::TimedOut => f.write_str("the cluster did not answer in time"),
            ProposeError::TooLarge => write!(f, "the request is larger than {PROPOSAL_BYTES_MAX} bytes"),
            ProposeError::Stopped => f.write_str("this node no longer takes part in the cluster"),
        }
    }
}

impl std::error::Error for ProposeError {}

impl From<ProposeError> for Fault {
    fn from(error: ProposeError) -> Self {
        let message = error.to_string();
        match error {
            ProposeError::Refused(refusal) => refusal.into(),
            ProposeError::NoQuorum => Fault::unreachable(message).hint("infinit node list"),
            ProposeError::TimedOut => Fault::timed_out(message).hint("infinit status"),
            ProposeError::TooLarge => Fault::usage(message),
            ProposeError::Stopped => Fault::unreachable(message).hint("restart it: infinit node run"),
        }
    }
}

impl From<LogError> for Fault {
    fn from(error: LogError) -> Self {
        let message = error.to_string();
        match error {
            LogError::InUse => Fault::conflict(message).hint("is another infinit running on this home?"),
            LogError::Version(_) => Fault::failed(message).hint("install the newer infinit again"),
            LogError::Damaged { .. } | LogError::Inconsistent(_) => {
                Fault::failed(message).hint("remove this node and join again with a new home")
            }
            LogError::Open(_) | LogError::Database(_) | LogError::Closed => Fault::failed(message),
        }
    }
}
