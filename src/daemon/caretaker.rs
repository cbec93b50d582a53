//! What the leader of the cluster group sees to for all: a silo that nobody reached for long is given up, so that its copies go
//! elsewhere, and counts again once it is reached; a node that is to leave does so once it holds nothing; and what a new
//! version brought is let in once all members run it.
//!
//! Only the leader acts, and only what the cluster state says counts: a leader that is cut off can decide nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::base::clock::{Moment, wall_seconds};
use crate::base::id::{NodeId, SiloId};
use crate::cluster::consensus::{Group, ProposeError};
use crate::cluster::state::ClusterState;
use crate::cluster::state::command::Command;
use crate::cluster::state::level::Level;
use crate::cluster::state::member::Duty;
use crate::cluster::state::silo::SiloState;
use crate::daemon::attachments::GROUP_LIMIT;
use crate::daemon::peers::{Peers, SiloLife, own_version};
use crate::daemon::silos::SiloViews;
use crate::daemon::standing::Standing;

/// How often the leader looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A leader that did not look for so long was stopped, and does not know what happened meanwhile.
const STOPPED_AFTER: Duration = Duration::from_secs(10);

/// A member that is down for so long does not keep what is new from the others: should it come back with an older version, it
/// says so and ends.
const AWAITED_FOR: Duration = Duration::from_secs(600);

/// How a silo is, as far as the leader can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presence {
    Here,
    /// Its node is not reached, or has it not, or its disk failed.
    Away,
    /// The leader has not asked yet.
    Unknown,
}

/// Since when silos and nodes are away.
#[derive(Default)]
struct Watch {
    away: BTreeMap<SiloId, Moment>,
    down: BTreeMap<NodeId, Moment>,
    looked: Option<Moment>,
}

impl Watch {
    /// The leader looks again: whoever did not for long begins anew.
    fn wake(&mut self, now: Moment) {
        if self.looked.is_none_or(|looked| now.since(looked) > STOPPED_AFTER) {
            self.away.clear();
            self.down.clear();
        }
        self.looked = Some(now);
    }

    /// What all members understand, this one included.
    fn understood(&mut self, now: Moment, node: NodeId, state: &ClusterState, peers: &Peers) -> Level {
        self.wake(now);
        self.down.retain(|node, _| state.members.contains_key(node));
        let mut level = Level::of_version(&own_version());
        // One that never ran is not waited for.
        let ran = state.members.iter().filter(|(id, member)| **id != node && !member.data_addresses.is_empty());
        for (id, _) in ran {
            let theirs = match peers.standing(*id) {
                Standing::Up { life, .. } => {
                    self.down.remove(id);
                    Level::of_version(&life.version)
                }
                Standing::Unknown => state.level,
                Standing::Down { .. } if now.since(*self.down.entry(*id).or_insert(now)) >= AWAITED_FOR => continue,
                Standing::Down { .. } => state.level,
            };
            level = level.min(theirs);
        }
        level
    }

    /// What is to change by what is seen now.
    fn look(&mut self, now: Moment, state: &ClusterState, presence: impl Fn(SiloId) -> Presence) -> Vec<Command> {
        self.wake(now);
        self.away.retain(|silo, _| state.silos.contains_key(silo));
        let down_after = Duration::from_millis(state.settings.down_after_ms);
        let mut changes = Vec::new();
        for (silo, info) in &state.silos {
            let (silo, presence) = (*silo, presence(*silo));
            match (presence, info.state) {
                (Presence::Unknown, _) | (_, SiloState::Retired) | (Presence::Away, SiloState::Down) => {}
                (Presence::Here, SiloState::InService) => {
                    self.away.remove(&silo);
                }
                (Presence::Here, SiloState::Down) => {
                    self.away.remove(&silo);
                    changes.push(Command::SetSiloState { silo, state: SiloState::InService });
                }
                (Presence::Away, SiloState::InService) => {
                    if now.since(*self.away.entry(silo).or_insert(now)) >= down_after {
                        changes.push(Command::SetSiloState { silo, state: SiloState::Down });
                    }
                }
            }
        }
        let leaving = state.members.iter().filter(|(_, member)| member.duty == Duty::Leaves);
        let empty = leaving.filter(|(node, _)| !state.holds_anything(**node));
        changes.extend(empty.map(|(node, _)| Command::Leave { node: *node, at: wall_seconds() }));
        changes
    }
}

/// Looks after the network, whenever this node leads the cluster group.
pub async fn take_care(node: NodeId, group: Group, peers: Peers, silos: SiloViews) {
    let mut watched = Watch::default();
    let status = group.watch_status();
    let mut tick = tokio::time::interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        if status.borrow().leader != Some(node) {
            watched = Watch::default();
            continue;
        }
        let state: Arc<ClusterState> = group.state().borrow().clone();
        let here = fit(silos.lives().iter());
        let standings: BTreeMap<NodeId, Option<BTreeSet<SiloId>>> = state
            .members
            .keys()
            .filter(|member| **member != node)
            .filter_map(|member| match peers.standing(*member) {
                Standing::Unknown => None,
                Standing::Up { life, .. } => Some((*member, Some(fit(life.silos.iter())))),
                Standing::Down { .. } => Some((*member, None)),
            })
            .collect();
        let level = watched.understood(Moment::now(), node, &state, &peers);
        if level > state.level {
            propose(&group, Command::Raise { level }).await;
        }
        if state.level < Level(1) {
            continue;
        }
        let presence = |silo: SiloId| {
            let Some(info) = state.silos.get(&silo) else { return Presence::Unknown };
            let fit = match (info.node == node, standings.get(&info.node)) {
                (true, _) => Some(&here),
                (false, Some(fit)) => fit.as_ref(),
                (false, None) => return Presence::Unknown,
            };
            if fit.is_some_and(|fit| fit.contains(&silo)) { Presence::Here } else { Presence::Away }
        };
        for change in watched.look(Moment::now(), &state, presence) {
            propose(&group, change).await;
        }
    }
}

async fn propose(group: &Group, change: Command) {
    tracing::info!("the network is looked after: {change}");
    match group.propose(change, GROUP_LIMIT).await {
        Ok(_) | Err(ProposeError::Stopped) => {}
        Err(error) => tracing::warn!("that is put off: {error}"),
    }
}

/// The silos that serve.
fn fit<'a>(silos: impl Iterator<Item = &'a SiloLife>) -> BTreeSet<SiloId> {
    // A disk that owes an answer for long is as good as lost, until it answers.
    let serves = |silo: &&SiloLife| silo.fault.is_none() && silo.foreign.is_none() && silo.stalled_ms.is_none();
    silos.filter(serves).map(|silo| silo.id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::{Incarnation, NetworkId};
    use crate::cluster::state::command::{Genesis, Invitation, Join, NewMember, SiloOpening};
    use crate::cluster::state::member::Role;

    fn node(index: u8) -> NodeId {
        NodeId([index; 32])
    }

    fn silo(index: u8) -> SiloId {
        SiloId([index; 16])
    }

    fn member(index: u8) -> NewMember {
        NewMember {
            name: format!("host-{index}"),
            role: Role::Storage,
            passport: vec![],
            data_addresses: vec![],
            discovery_addresses: vec![],
            zone: None,
        }
    }

    /// Two nodes with a silo each, replaced after 60 seconds.
    fn two() -> ClusterState {
        let mut state = ClusterState::default();
        let network = NetworkId([1; 32]);
        let (founder, name) = (node(0), "prod".to_owned());
        let invitation = Invitation { id: Default::default(), uses_max: 9, expires_at: 10 };
        let opening = |index| SiloOpening {
            silo: silo(index),
            node: node(index),
            capacity_bytes: 1 << 40,
            chain: vec![Incarnation(1)],
        };
        let commands = [
            Command::Genesis(Genesis { network, name, founder, member: member(0), at: 1 }),
            Command::Join(Join { node: node(1), member: member(1), invitation, at: 2 }),
            Command::OpenSilo(opening(0)),
            Command::OpenSilo(opening(1)),
            Command::Raise { level: Level::OWN },
            Command::SetDownAfter { down_after_ms: 60_000 },
        ];
        for command in commands {
            state.apply(command).unwrap();
        }
        state
    }

    fn at(seconds: u64) -> Moment {
        Moment::default() + Duration::from_secs(1000 + seconds)
    }

    /// Looks every second from the first to the last, and applies what comes of it.
    fn look(
        watch: &mut Watch,
        state: &mut ClusterState,
        seconds: std::ops::Range<u64>,
        second: Presence,
    ) -> Vec<(u64, Command)> {
        let mut seen = Vec::new();
        for now in seconds {
            let presence = |id: SiloId| if id == silo(1) { second } else { Presence::Here };
            for change in watch.look(at(now), state, presence) {
                state.apply(change.clone()).unwrap();
                seen.push((now, change));
            }
        }
        seen
    }

    #[test]
    fn a_silo_away_for_long_is_given_up_and_taken_back_when_it_is_here_again() {
        let (mut watch, mut state) = (Watch::default(), two());
        let given_up = Command::SetSiloState { silo: silo(1), state: SiloState::Down };
        let taken_back = Command::SetSiloState { silo: silo(1), state: SiloState::InService };
        assert_eq!(look(&mut watch, &mut state, 0..30, Presence::Here), []);
        assert_eq!(look(&mut watch, &mut state, 30..95, Presence::Away), [(90, given_up.clone())]);
        assert_eq!(state.placement_candidates().len(), 1);
        assert_eq!(look(&mut watch, &mut state, 95..100, Presence::Here), [(95, taken_back)]);
        assert_eq!(state.placement_candidates().len(), 2);
        // A link that flaps is none that is gone, and what is unknown counts as nothing.
        for start in (100..400).step_by(50) {
            assert_eq!(look(&mut watch, &mut state, start..start + 49, Presence::Away), []);
            assert_eq!(look(&mut watch, &mut state, start + 49..start + 50, Presence::Here), []);
        }
        assert_eq!(look(&mut watch, &mut state, 400..450, Presence::Away), []);
        assert_eq!(look(&mut watch, &mut state, 450..500, Presence::Unknown), []);
        assert_eq!(look(&mut watch, &mut state, 500..502, Presence::Away), [(500, given_up)]);
    }

    #[test]
    fn a_leader_that_was_stopped_begins_anew() {
        let (mut watch, mut state) = (Watch::default(), two());
        assert_eq!(look(&mut watch, &mut state, 0..20, Presence::Away), []);
        assert_eq!(look(&mut watch, &mut state, 500..559, Presence::Away), []);
        assert_eq!(look(&mut watch, &mut state, 559..561, Presence::Away).len(), 1);
    }

    #[test]
    fn a_node_that_is_to_leave_does_so_once_it_holds_nothing() {
        let (mut watch, mut state) = (Watch::default(), two());
        state.apply(Command::SetDuty { node: node(1), duty: Duty::Leaves }).unwrap();
        assert!(state.placement_candidates().iter().all(|candidate| candidate.node == node(0)));
        let changes = look(&mut watch, &mut state, 0..2, Presence::Away);
        assert!(matches!(changes.as_slice(), [(0, Command::Leave { node: left, .. })] if *left == node(1)));
        assert!(!state.members.contains_key(&node(1)) && state.revoked.contains_key(&node(1)));
    }
}
