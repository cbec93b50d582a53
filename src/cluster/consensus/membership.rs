//! Who votes. The leader keeps the group's membership as the cluster state wants it: every member of the network is
//! told (a learner), and some of those that hold data vote.
//!
//! [`plan`] is pure: one step at a time from what is to what should be. The loop around it runs on every member and
//! acts on the leader, woken by changes of the state and of the leader's knowledge.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::{ChangeMembers, Instant};
use tokio::sync::watch;

use crate::base::id::NodeId;
use crate::cluster::consensus::machine::Machine;
use crate::cluster::consensus::runtime;
use crate::cluster::consensus::types::{Metrics, Types};
use crate::cluster::state::ClusterState;

/// A learner this many entries behind the leader's commit may become a voter: it is there in a heartbeat or two.
const BEHIND_MAX: u64 = 64;
/// How long one change of the membership may take before the loop looks again.
const CHANGE_LIMIT: Duration = Duration::from_secs(10);
/// Between two tries after a failed one: the reason (an earlier change under way) takes a round trip or two.
const RETRY_AFTER: Duration = Duration::from_millis(250);

/// How many voters a network has with so many nodes that may vote. Two voters would be worse than one: both are needed, and
/// so four would be worse than three.
fn voters_wanted(nodes: usize) -> usize {
    match nodes {
        0..=2 => 1,
        3..=4 => 3,
        _ => 5,
    }
}

/// What the leader knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct View {
    pub leader: NodeId,
    /// The set that votes; two while it changes, the newer one last.
    pub configs: Vec<BTreeSet<NodeId>>,
    pub nodes: BTreeSet<NodeId>,
    /// Members that answered lately.
    pub answering: BTreeSet<NodeId>,
    /// Those of them that have nearly all of the log.
    pub ready: BTreeSet<NodeId>,
    /// Members without silos that have not answered for as long as silos are waited for.
    pub lost: BTreeSet<NodeId>,
}

/// Since when members have not answered. Whether those with silos are lost is for the cluster state to say.
#[derive(Default)]
struct Silences {
    since: BTreeMap<NodeId, runtime::Instant>,
}

impl Silences {
    /// Those of a leader's view that have been silent for too long.
    fn lost(&mut self, now: runtime::Instant, state: &ClusterState, view: &View) -> BTreeSet<NodeId> {
        self.since.retain(|node, _| view.nodes.contains(node) && !view.answering.contains(node));
        for node in view.nodes.difference(&view.answering) {
            self.since.entry(*node).or_insert(now);
        }
        let down_after = Duration::from_millis(state.settings.down_after_ms);
        let has_silo = |node: &NodeId| state.silos.values().any(|silo| silo.node == *node);
        let long = self.since.iter().filter(|(_, since)| now.duration_since(**since) >= down_after);
        long.map(|(node, _)| *node).filter(|node| !has_silo(node)).collect()
    }
}

impl View {
    /// Whether what a node does is for others to do.
    fn is_going(&self, state: &ClusterState, node: NodeId) -> bool {
        state.is_going(node) || self.lost.contains(&node)
    }
}

/// One step of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// These are told from now on.
    Tell(BTreeSet<NodeId>),
    /// These are told no more.
    Forget(BTreeSet<NodeId>),
    /// These vote from now on.
    Vote(BTreeSet<NodeId>),
}

/// The next step, if there is anything to do.
pub(super) fn plan(state: &ClusterState, view: &View) -> Option<Step> {
    let voters = view.configs.last()?;
    if view.configs.len() > 1 {
        // An earlier leader did not finish.
        return Some(Step::Vote(voters.clone()));
    }
    let new: BTreeSet<_> = state.members.keys().filter(|node| !view.nodes.contains(node)).copied().collect();
    if !new.is_empty() {
        return Some(Step::Tell(new));
    }
    let next = next_voters(state, view, voters);
    if !next.is_empty() && next != *voters {
        return Some(Step::Vote(next));
    }
    let gone = |node: &NodeId| !state.members.contains_key(node) && !voters.contains(node);
    let gone: BTreeSet<_> = view.nodes.iter().copied().filter(gone).collect();
    if gone.is_empty() { None } else { Some(Step::Forget(gone)) }
}

/// Keeps the voters there are, and adds the longest-standing ready nodes, those in other zones first. Grows to the full
/// number or not at all: half-way, more voters stand less, not more. One that is lost, or is to go, is replaced once there is
/// another to take its place; until then it counts as before.
fn next_voters(state: &ClusterState, view: &View, voters: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
    let may_vote = |node: &NodeId| state.members.get(node).is_some_and(|member| member.role.votes());
    let wanted = voters_wanted(state.members.values().filter(|member| member.role.votes()).count());
    let kept: BTreeSet<_> = voters.iter().copied().filter(may_vote).collect();
    // A leader that is to go stays among several; alone, it hands over while it is a member still.
    let standing = |node: &NodeId| (*node == view.leader && wanted > 1) || !view.is_going(state, *node);
    let fresh = fill(state, view, kept.iter().copied().filter(standing).collect(), wanted);
    if fresh.len() == wanted {
        return fresh;
    }
    let next = fill(state, view, kept.clone(), wanted);
    if next.len() < wanted && kept.len() == voters.len() { kept } else { next }
}

/// As many of these as are wanted, or these and others until there are.
fn fill(state: &ClusterState, view: &View, mut next: BTreeSet<NodeId>, wanted: usize) -> BTreeSet<NodeId> {
    if next.len() > wanted {
        // The leader stays if it may, then those that are ready.
        let mut order: Vec<_> = next.into_iter().collect();
        order.sort_by_key(|node| (*node != view.leader, !view.ready.contains(node), *node));
        return order.into_iter().take(wanted).collect();
    }
    let zone = |node: &NodeId| state.members.get(node).and_then(|member| member.zone.as_deref());
    let may_vote = |node: &NodeId| state.members.get(node).is_some_and(|member| member.role.votes());
    while next.len() < wanted {
        let zones: BTreeSet<_> = next.iter().filter_map(zone).collect();
        let free =
            view.ready.iter().filter(|node| may_vote(node) && !view.is_going(state, **node) && !next.contains(node));
        let best = free.min_by_key(|node| {
            let repeated = zone(node).is_some_and(|zone| zones.contains(zone));
            (repeated, state.members.get(node).map(|member| member.joined_at), **node)
        });
        let Some(node) = best.copied() else { break };
        next.insert(node);
    }
    next
}

/// What the leader knows now; `None` on any other member.
fn view(metrics: &Metrics, stale: Duration) -> Option<View> {
    if !metrics.state.is_leader() {
        return None;
    }
    let committed = metrics.local_committed.map_or(0, |id| id.index);
    let replication = metrics.replication.as_ref()?;
    let heartbeat = metrics.heartbeat.as_ref()?;
    let caught_up = |node: &NodeId| {
        let matched = replication.get(node).copied().flatten();
        matched.is_some_and(|id| id.index + BEHIND_MAX >= committed)
    };
    let answers = |node: &NodeId| {
        let acked = heartbeat.get(node).copied().flatten();
        *node == metrics.id || acked.is_some_and(|at| at.elapsed() <= stale)
    };
    let membership = metrics.membership_config.membership();
    let nodes: BTreeSet<_> = membership.nodes().map(|(node, ())| *node).collect();
    let answering: BTreeSet<_> = nodes.iter().copied().filter(answers).collect();
    let ready = answering.iter().copied().filter(|node| *node == metrics.id || caught_up(node)).collect();
    let configs = membership.get_joint_config().clone();
    Some(View { leader: metrics.id, configs, nodes, answering, ready, lost: BTreeSet::new() })
}

/// Runs for as long as the group does.
pub(super) async fn keep(
    raft: openraft::Raft<Types, Machine>,
    mut state: watch::Receiver<Arc<ClusterState>>,
    stale: Duration,
) {
    let mut metrics = raft.metrics();
    let mut silences = Silences::default();
    loop {
        let view = view(&metrics.borrow_watched(), stale);
        let step = match view {
            None => {
                // The next time begins anew.
                silences = Silences::default();
                None
            }
            Some(mut view) => {
                let state = state.borrow_and_update();
                view.lost = silences.lost(runtime::now(), &state, &view);
                plan(&state, &view)
            }
        };
        if let Some(step) = step {
            tracing::debug!(?step, "the cluster group changes its members");
            let map = |nodes: &BTreeSet<NodeId>| nodes.iter().map(|node| (*node, ())).collect::<BTreeMap<_, _>>();
            let change = match &step {
                Step::Tell(nodes) => ChangeMembers::AddNodes(map(nodes)),
                Step::Forget(nodes) => ChangeMembers::RemoveNodes(nodes.clone()),
                Step::Vote(nodes) => ChangeMembers::ReplaceAllVoters(nodes.clone()),
            };
            match runtime::timeout(CHANGE_LIMIT, raft.change_membership(change, true)).await {
                Ok(Ok(_)) => continue,
                Ok(Err(error)) => tracing::debug!(?step, %error, "the change is put off"),
                Err(_) => tracing::debug!(?step, "the change takes long"),
            }
            runtime::sleep(RETRY_AFTER).await;
        }
        tokio::select! {
            biased;
            changed = metrics.changed() => if changed.is_err() { return },
            changed = state.changed() => if changed.is_err() { return },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::{Incarnation, SiloId};
    use crate::cluster::state::member::{Duty, Member, Role};
    use crate::cluster::state::silo::{SiloInfo, SiloState};

    fn node(index: u8) -> NodeId {
        NodeId([index; 32])
    }

    fn nodes<const N: usize>(indices: [u8; N]) -> BTreeSet<NodeId> {
        indices.map(node).into()
    }

    fn state(members: &[(u8, Role, Option<&str>)]) -> ClusterState {
        let member = |index: u8, role, zone: Option<&str>| Member {
            name: format!("host-{index}"),
            role,
            passport: vec![],
            data_addresses: vec![],
            discovery_addresses: vec![],
            zone: zone.map(str::to_owned),
            joined_at: u64::from(index),
            invitation: None,
            duty: Duty::Stores,
        };
        let members = members.iter().map(|(index, role, zone)| (node(*index), member(*index, *role, *zone))).collect();
        ClusterState { members, ..ClusterState::default() }
    }

    fn view(voters: BTreeSet<NodeId>, all: BTreeSet<NodeId>) -> View {
        let (answering, ready) = (all.clone(), all.clone());
        View { leader: node(0), configs: vec![voters], nodes: all, answering, ready, lost: BTreeSet::new() }
    }

    const PLAIN: [(u8, Role, Option<&str>); 4] =
        [(0, Role::Admin, None), (1, Role::Client, None), (2, Role::Storage, None), (3, Role::Storage, None)];

    #[test]
    fn members_are_told_first_and_vote_when_the_third_is_ready() {
        let founded = state(&PLAIN[..1]);
        assert_eq!(plan(&founded, &view(nodes([0]), nodes([0]))), None);
        let all = state(&PLAIN);
        assert_eq!(plan(&all, &view(nodes([0]), nodes([0]))), Some(Step::Tell(nodes([1, 2, 3]))));
        let mut known = view(nodes([0]), nodes([0, 1, 2, 3]));
        assert_eq!(plan(&all, &known), Some(Step::Vote(nodes([0, 2, 3]))));
        known.ready = nodes([0, 1, 2]);
        assert_eq!(plan(&all, &known), None);
        assert_eq!(plan(&state(&PLAIN[..3]), &view(nodes([0]), nodes([0, 1, 2]))), None);
        assert_eq!(plan(&all, &view(nodes([0, 2, 3]), nodes([0, 1, 2, 3]))), None);
    }

    #[test]
    fn a_change_that_was_interrupted_is_finished() {
        let mut half = view(nodes([0]), nodes([0, 1, 2, 3]));
        half.configs.push(nodes([0, 2, 3]));
        assert_eq!(plan(&state(&PLAIN), &half), Some(Step::Vote(nodes([0, 2, 3]))));
    }

    #[test]
    fn voters_lie_in_several_zones_if_they_can() {
        let zones = state(&[
            (0, Role::Storage, Some("a")),
            (1, Role::Storage, Some("a")),
            (2, Role::Storage, Some("b")),
            (3, Role::Storage, Some("c")),
        ]);
        let known = view(nodes([0]), nodes([0, 1, 2, 3]));
        assert_eq!(plan(&zones, &known), Some(Step::Vote(nodes([0, 2, 3]))));
    }

    #[test]
    fn a_voter_that_is_lost_or_to_go_is_replaced_once_another_can_take_its_place() {
        let mut four = state(&[0, 1, 2, 3].map(|index| (index, Role::Storage, None)));
        let mut known = view(nodes([0, 1, 2]), nodes([0, 1, 2, 3]));
        assert_eq!(plan(&four, &known), None);
        for duty in [Duty::Drains, Duty::Leaves] {
            four.members.get_mut(&node(1)).unwrap().duty = duty;
            known.ready = nodes([0, 2, 3]);
            assert_eq!(plan(&four, &known), Some(Step::Vote(nodes([0, 2, 3]))));
            known.ready = nodes([0, 2]);
            assert_eq!(plan(&four, &known), None);
        }
        four.members.get_mut(&node(1)).unwrap().duty = Duty::Stores;
        let silo = |state| SiloInfo { node: node(1), capacity_bytes: 1, incarnation: Incarnation(1), state };
        four.silos.insert(SiloId([1; 16]), silo(SiloState::Down));
        known.ready = nodes([0, 2, 3]);
        assert_eq!(plan(&four, &known), Some(Step::Vote(nodes([0, 2, 3]))));
        four.silos.insert(SiloId([2; 16]), silo(SiloState::InService));
        assert_eq!(plan(&four, &known), None);
    }

    #[test]
    fn a_voter_without_silos_is_replaced_once_it_was_silent_for_long() {
        let four = state(&[
            (0, Role::Storage, None),
            (1, Role::Witness, None),
            (2, Role::Storage, None),
            (3, Role::Storage, None),
        ]);
        let mut known = view(nodes([0, 1, 2]), nodes([0, 1, 2, 3]));
        let begun = runtime::now();
        let mut silences = Silences::default();
        assert_eq!(silences.lost(begun, &four, &known), nodes([]));
        known.answering = nodes([0, 2, 3]);
        known.ready = nodes([0, 2, 3]);
        let down_after = Duration::from_millis(four.settings.down_after_ms);
        assert_eq!(silences.lost(begun, &four, &known), nodes([]));
        assert_eq!(silences.lost(begun + down_after - Duration::from_secs(1), &four, &known), nodes([]));
        assert_eq!(plan(&four, &known), None);
        known.lost = silences.lost(begun + down_after, &four, &known);
        assert_eq!(known.lost, nodes([1]));
        assert_eq!(plan(&four, &known), Some(Step::Vote(nodes([0, 2, 3]))));
        // One that answers in between begins anew, and of one with silos the cluster state says whether it is lost.
        known.answering = nodes([0, 1, 2, 3]);
        assert_eq!(silences.lost(begun + down_after, &four, &known), nodes([]));
        known.answering = nodes([0, 2, 3]);
        assert_eq!(silences.lost(begun + down_after, &four, &known), nodes([]));
        let mut with_a_silo = four.clone();
        let silo =
            SiloInfo { node: node(1), capacity_bytes: 1, incarnation: Incarnation(1), state: SiloState::InService };
        with_a_silo.silos.insert(SiloId([1; 16]), silo);
        assert_eq!(silences.lost(begun + 3 * down_after, &with_a_silo, &known), nodes([]));
        assert_eq!(silences.lost(begun + 3 * down_after, &four, &known), nodes([1]));
    }

    #[test]
    fn two_nodes_and_a_witness_vote() {
        let two = state(&[(0, Role::Storage, None), (1, Role::Storage, None), (2, Role::Witness, None)]);
        assert_eq!(plan(&two, &view(nodes([0]), nodes([0, 1, 2]))), Some(Step::Vote(nodes([0, 1, 2]))));
    }

    #[test]
    fn a_voter_that_left_is_replaced_or_the_number_shrinks() {
        let four = state(&[
            (0, Role::Storage, None),
            (2, Role::Storage, None),
            (3, Role::Storage, None),
            (4, Role::Storage, None),
        ]);
        let known = view(nodes([0, 1, 2]), nodes([0, 1, 2, 3, 4]));
        assert_eq!(plan(&four, &known), Some(Step::Vote(nodes([0, 2, 3]))));
        let replaced = view(nodes([0, 2, 3]), nodes([0, 1, 2, 3, 4]));
        assert_eq!(plan(&four, &replaced), Some(Step::Forget(nodes([1]))));
        let two = state(&[(0, Role::Storage, None), (2, Role::Storage, None)]);
        assert_eq!(plan(&two, &view(nodes([0, 1, 2]), nodes([0, 1, 2]))), Some(Step::Vote(nodes([0]))));
        let only = |count: u8| [0, 1, 2, 3, 4].map(|index| (index, Role::Storage, None)).into_iter().take(count.into());
        let five = state(&only(5).collect::<Vec<_>>());
        let mut ready = view(nodes([0, 1, 2]), nodes([0, 1, 2, 3, 4]));
        assert_eq!(plan(&five, &ready), Some(Step::Vote(nodes([0, 1, 2, 3, 4]))));
        ready.ready = nodes([0, 1, 2, 3]);
        assert_eq!(plan(&five, &ready), None);
        // The leader itself left.
        let others = state(&[(1, Role::Storage, None), (2, Role::Storage, None)]);
        assert_eq!(plan(&others, &view(nodes([0]), nodes([0, 1, 2]))), Some(Step::Vote(nodes([1]))));
    }
}
