//! Whether the group works: who leads, and whether a majority stands behind it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use openraft::Instant as _;
use openraft::async_runtime::watch::WatchReceiver;
use tokio::sync::watch;

use crate::base::id::NodeId;
use crate::cluster::consensus::machine::Machine;
use crate::cluster::consensus::recovery::generation;
use crate::cluster::consensus::runtime::{self, Instant};
use crate::cluster::consensus::types::{Metrics, Types};

/// The group as this member sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupStatus {
    /// The leader, if it was heard lately and a majority hears it.
    pub leader: Option<NodeId>,
    pub term: u64,
    /// How often the network was recovered, as far as this member knows.
    pub generation: u64,
    /// Those who vote; while that changes, those who did until now.
    pub voters: BTreeSet<NodeId>,
    /// Members that are told of everything but do not vote.
    pub learners: BTreeSet<NodeId>,
    /// How many log entries are applied to the local state.
    pub applied: u64,
    pub has_quorum: bool,
    /// Why this member no longer takes part: its log failed.
    pub stopped: Option<String>,
}

/// What the status is made of.
pub(super) struct Sources {
    pub raft: openraft::Raft<Types, Machine>,
    /// When a leader with a majority was last heard.
    pub heard: watch::Receiver<Option<Instant>>,
    pub applied: watch::Receiver<u64>,
    /// Set while this member leads with a majority.
    pub quorum: Arc<AtomicBool>,
    /// How old a sign of life may be.
    pub stale: Duration,
}

/// The status, and until when it holds if nothing happens.
fn status(metrics: &Metrics, heard: Option<Instant>, applied: u64, stale: Duration) -> (GroupStatus, Option<Instant>) {
    let committed = metrics.committed_membership_config.membership();
    let voters = committed.get_joint_config().first().cloned().unwrap_or_default();
    let learners = committed.nodes().map(|(node, ())| *node).filter(|node| !voters.contains(node)).collect();
    let leads = metrics.state.is_leader() && metrics.current_leader == Some(metrics.id);
    // What counts for a majority is the newest membership, committed or not.
    let alone = metrics.membership_config.voter_ids().eq([metrics.id]);
    let sign =
        if leads { metrics.last_quorum_acked.and_then(|at| runtime::now().checked_sub(at.elapsed())) } else { heard };
    let until = sign.map(|at| at + stale);
    let stopped = metrics.running_state.as_ref().err().map(ToString::to_string);
    let lately = until.is_some_and(|until| runtime::now() < until);
    let has_quorum = stopped.is_none() && metrics.current_leader.is_some() && (lately || leads && alone);
    let status = GroupStatus {
        leader: metrics.current_leader.filter(|_| has_quorum),
        term: metrics.current_term,
        generation: generation(metrics.current_term),
        voters,
        learners,
        applied,
        has_quorum,
        stopped,
    };
    (status, until.filter(|_| has_quorum && !(leads && alone)))
}

/// Keeps the status for as long as the group runs.
pub(super) async fn keep(sources: Sources, published: watch::Sender<GroupStatus>) {
    let Sources { raft, mut heard, mut applied, quorum, stale } = sources;
    let mut metrics = raft.metrics();
    drop(raft);
    loop {
        let (now, until) = {
            let metrics = metrics.borrow_watched();
            let (now, until) = status(&metrics, *heard.borrow_and_update(), *applied.borrow_and_update(), stale);
            quorum.store(now.has_quorum && metrics.state.is_leader(), Ordering::Relaxed);
            (now, until)
        };
        let had_quorum = now.has_quorum;
        published.send_if_modified(|status| {
            let changed = *status != now;
            *status = now;
            changed
        });
        let expired = async {
            match until {
                Some(until) => runtime::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            changed = metrics.changed() => if changed.is_err() { break },
            changed = applied.changed() => if changed.is_err() { break },
            // While there is a quorum each heartbeat only confirms it.
            changed = heard.changed(), if !had_quorum => if changed.is_err() { break },
            () = expired => (),
        }
    }
    published.send_modify(|status| {
        status.has_quorum = false;
        status.leader = None;
    });
}
