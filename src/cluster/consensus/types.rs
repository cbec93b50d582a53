//! The types this group gives openraft, and its timing.

use std::fmt;
use std::time::Duration;

use openraft::OptionalSend;
use openraft::impls::{BoxedErrorSource, InlineBatch, OneshotResponder, Vote, leader_id_adv};
use serde::{Deserialize, Serialize};

use crate::base::id::NodeId;
use crate::base::mutant::{self, Mutant};
use crate::cluster::consensus::runtime::RaftRuntime;
use crate::cluster::consensus::session::Ticket;
use crate::cluster::state::command::{Command, Outcome};
use crate::cluster::state::refusal::Refusal;

/// openraft's types. A node is named by its whole public key, so that no two can be taken for one another; terms may
/// have several candidates of which the highest wins, so that two that stand at once do not both fail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Types;

pub(super) type LeaderId = leader_id_adv::LeaderId<u64, NodeId>;
pub(super) type LogId = openraft::LogId<LeaderId>;
pub(super) type RaftVote = Vote<LeaderId>;
pub(super) type Payload = openraft::EntryPayload<Proposal, NodeId, ()>;
pub(super) type Entry = openraft::Entry<LeaderId, Payload>;
pub(super) type Membership = openraft::Membership<NodeId, ()>;
pub(super) type StoredMembership = openraft::StoredMembership<LeaderId, NodeId, ()>;
pub(super) type SnapshotMeta = openraft::SnapshotMeta<LeaderId, NodeId, ()>;
pub(super) type Snapshot = openraft::Snapshot<LeaderId, NodeId, (), bytes::Bytes>;
pub(super) type Metrics = openraft::RaftMetrics<Types>;

impl openraft::RaftTypeConfig for Types {
    type D = Proposal;
    type R = Reply;
    type NodeId = NodeId;
    type Node = ();
    type Term = u64;
    type LeaderId = LeaderId;
    type Vote = RaftVote;
    type Payload = Payload;
    type Entry = Entry;
    type AsyncRuntime = RaftRuntime;
    type Responder<T>
        = OneshotResponder<Self, T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = BoxedErrorSource;
}

/// One command on its way into the log, with what tells a repetition from a new one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Proposal {
    pub ticket: Ticket,
    pub command: Command,
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.command, self.ticket)
    }
}

/// What applying a log entry answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Reply {
    /// The entry was the group's own: a new leader's first, or a change of its members.
    Nothing,
    Decided(Result<Outcome, Refusal>),
}

/// The group's timing and sizes. The defaults are the product's; tests shrink the sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// How often a leader shows that it lives.
    pub heartbeat: Duration,
    /// A follower that hears no leader stands for election after `election_max` (the leader's lease, during which it
    /// grants no vote either) plus a random time from `election_min` to `election_max`, drawn anew each time. With the
    /// defaults that is 1.2 to 1.6 s after the last heartbeat, and each further attempt 0.4 to 0.8 s later.
    pub election_min: Duration,
    pub election_max: Duration,
    /// Log entries between two snapshots.
    pub snapshot_every: u64,
    /// Log entries kept behind a snapshot, so that a member that was away shortly needs no snapshot.
    pub log_kept: u64,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(200),
            election_min: Duration::from_millis(400),
            election_max: Duration::from_millis(800),
            snapshot_every: 2_000,
            log_kept: 1_000,
        }
    }
}

impl Tuning {
    /// How old the last sign of a quorum may be to count.
    pub(super) fn stale(&self) -> Duration {
        self.election_max + self.election_min
    }

    /// openraft's configuration. Where its defaults do nothing they are overridden:
    /// - pre-vote is off; with it, a member that was cut off does not depose the leader when it comes back;
    /// - a leader without a quorum heartbeats for ever, and if only its outgoing packets pass, nobody replaces it;
    /// - a restarted leader carries on in its old term, though entries that it had sent but not yet synced are lost: it
    ///   would give their numbers and term to others.
    pub(super) fn raft_config(&self) -> Result<openraft::Config, openraft::ConfigError> {
        let ms = |time: Duration| time.as_millis() as u64;
        openraft::Config {
            cluster_name: "infinit".to_owned(),
            heartbeat_interval: ms(self.heartbeat),
            election_timeout_min: ms(self.election_min),
            election_timeout_max: ms(self.election_max),
            install_snapshot_timeout: ms(SNAPSHOT_LIMIT),
            max_payload_entries: PAYLOAD_ENTRIES_MAX,
            snapshot_policy: openraft::SnapshotPolicy::LogsSinceLast(self.snapshot_every),
            max_in_snapshot_log_to_keep: self.log_kept,
            replication_lag_threshold: self.snapshot_every + self.log_kept,
            enable_pre_vote: Some(true),
            enable_leader_restore: Some(mutant::on(Mutant::GroupLeaderRestored)),
            quorum_loss_probe_interval: Some(2 * ms(self.election_max)),
            backoff: "100ms 200ms ...1s".to_owned(),
            api_channel_size: Some(CHANNEL_MESSAGES_MAX),
            notification_channel_size: Some(CHANNEL_MESSAGES_MAX),
            ..openraft::Config::default()
        }
        .validate()
    }
}

/// Log entries in one replication message: with [`super::PROPOSAL_BYTES_MAX`] it stays at a mebibyte.
const PAYLOAD_ENTRIES_MAX: u64 = 64;
/// Messages that wait for the group's core task before their senders wait: far above what the few members send.
const CHANNEL_MESSAGES_MAX: u64 = 8_192;
/// How long a snapshot may take from the first part to installed.
pub(super) const SNAPSHOT_LIMIT: Duration = Duration::from_secs(30);
