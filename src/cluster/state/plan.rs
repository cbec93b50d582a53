//! What is to move, by the state and the time alone: every member that looks comes to the same.
//!
//! A volume prefers the node that it is attached to: a copy that lies there stays, and one is to lie there. The latter would move
//! copies after every attach, so an attachment must have lasted for as long as the network waits for a silo to come back; of a
//! volume's first one that is not waited for, since nothing was written before it.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::id::{ConfigNumber, Epoch, NodeId, SiloId, SlotIndex, VolumeId};
use crate::cluster::placement::balance::{Held, targets};
use crate::cluster::state::ClusterState;
use crate::cluster::state::volume::{SlotPlacement, Volume};

/// A slot that is to lie elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    pub slot: SlotIndex,
    /// The configuration that this starts from.
    pub config: ConfigNumber,
    pub silos: Vec<SiloId>,
}

impl ClusterState {
    /// The moves of each volume that has any; `now` is in seconds since 1970.
    pub fn moves(&self, now: u64) -> BTreeMap<VolumeId, Vec<Move>> {
        let mut held = Vec::new();
        let mut configs = Vec::new();
        for (id, volume) in &self.volumes {
            let near = volume.attachment.as_ref().map(|held| held.node);
            let brought = self.settled_at(volume).is_some_and(|at| at <= now);
            for (index, slot) in volume.slots.iter().enumerate() {
                let index = SlotIndex(index as u32);
                configs.push(slot.config);
                held.push(Held {
                    volume: *id,
                    slot: index,
                    len: volume.slot_len(index),
                    replicas: usize::from(volume.policy.replicas),
                    silos: slot.silos.clone(),
                    near,
                    brought,
                });
            }
        }
        let targets = targets(&self.placement_candidates(), &held);
        let mut moves: BTreeMap<VolumeId, Vec<Move>> = BTreeMap::new();
        for ((slot, config), target) in held.iter().zip(configs).zip(targets) {
            let silos = self.without_loss(slot, target);
            let is_same = silos.len() == slot.silos.len() && silos.iter().all(|silo| slot.silos.contains(silo));
            if !is_same {
                moves.entry(slot.volume).or_default().push(Move { slot: slot.slot, config, silos });
            }
        }
        moves
    }

    /// From when on a copy is to lie on the node that a volume is attached to, in seconds since 1970.
    pub fn settled_at(&self, volume: &Volume) -> Option<u64> {
        let held = volume.attachment.as_ref()?;
        let first = held.epoch == Epoch::ZERO.next();
        let wait = if first { 0 } else { self.settings.down_after_ms.div_ceil(1000) };
        Some(held.since.saturating_add(wait))
    }

    /// The volumes that have copies on a node which none of these moves takes from there: for want of another place.
    pub fn stuck_on(&self, node: NodeId, moves: &BTreeMap<VolumeId, Vec<Move>>) -> Vec<VolumeId> {
        let is_there = |silo: &SiloId| self.silos.get(silo).is_some_and(|info| info.node == node);
        let is_stuck = |id: &VolumeId, index: usize, slot: &SlotPlacement| {
            let planned = moves.get(id).into_iter().flatten().find(|planned| planned.slot.0 as usize == index);
            planned.map_or(&slot.silos, |planned| &planned.silos).iter().any(is_there)
        };
        let stuck = self
            .volumes
            .iter()
            .filter(|(id, volume)| volume.slots.iter().enumerate().any(|(index, slot)| is_stuck(id, index, slot)));
        stuck.map(|(id, _)| *id).collect()
    }

    /// Where there are too few nodes for all copies, those that there are stay, wherever they lie: no copy is given up for
    /// want of a better place.
    fn without_loss(&self, slot: &Held, mut target: Vec<SiloId>) -> Vec<SiloId> {
        let node_of = |silo: &SiloId| self.silos.get(silo).map(|info| info.node);
        let mut nodes: BTreeSet<Option<NodeId>> = target.iter().map(node_of).collect();
        for silo in &slot.silos {
            if target.len() < slot.replicas && !target.contains(silo) && nodes.insert(node_of(silo)) {
                target.push(*silo);
            }
        }
        target
    }
}
