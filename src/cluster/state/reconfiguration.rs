//! Which silos a slot has changes: a compare-and-set on the volume's epoch and the slot's configuration.

use std::collections::BTreeSet;

use crate::base::id::{NodeId, SiloId, VolumeId};
use crate::base::mutant::{Mutant, on};
use crate::cluster::state::ClusterState;
use crate::cluster::state::command::{Outcome, Reconfiguration};
use crate::cluster::state::refusal::Refusal;

/// Silos of one slot at the most: seven copies, and as many that take their place.
pub const SLOT_SILOS_MAX: usize = 14;

impl ClusterState {
    pub(super) fn reconfigure(&mut self, change: Reconfiguration) -> Result<Outcome, Refusal> {
        let Reconfiguration { volume: id, slot, epoch, config, silos } = change;
        let volume = self.volumes.get(&id).ok_or(Refusal::NoSuchVolume { volume: id })?;
        if volume.epoch != epoch {
            let (volume, current) = (volume.name.clone(), volume.epoch);
            return Err(Refusal::StaleEpoch { volume, epoch, current });
        }
        let name = &volume.name;
        let placed =
            volume.slots.get(slot.0 as usize).ok_or_else(|| Refusal::NoSuchSlot { volume: name.clone(), slot })?;
        if placed.config == config.next() && placed.silos == silos {
            return Ok(Outcome::Reconfigured { config: placed.config });
        }
        if placed.config != config && !on(Mutant::StaleConfigurationAccepted) {
            let (volume, current) = (name.clone(), placed.config);
            return Err(Refusal::StaleConfiguration { volume, slot, config, current });
        }
        self.check_silos(&silos)?;
        let volume = self.volumes.get_mut(&id).ok_or(Refusal::NoSuchVolume { volume: id })?;
        let placed = &mut volume.slots[slot.0 as usize];
        placed.config = placed.config.next();
        placed.silos = silos;
        Ok(Outcome::Reconfigured { config: placed.config })
    }

    /// Copies lie on silos that there are, one a node.
    fn check_silos(&self, silos: &[SiloId]) -> Result<(), Refusal> {
        if silos.is_empty() || silos.len() > SLOT_SILOS_MAX {
            return Err(Refusal::BadSilos { silos: silos.len() as u32 });
        }
        let mut nodes = BTreeSet::new();
        for silo in silos {
            let info = self.silos.get(silo).ok_or(Refusal::NoSuchSilo { silo: *silo })?;
            if !nodes.insert(info.node) {
                return Err(Refusal::TwoOfANode { node: self.node_label(info.node) });
            }
        }
        Ok(())
    }

    /// The next epoch, and nobody is attached by it: whoever attaches gets the one after, and ends the work.
    pub(super) fn maintain(&mut self, id: VolumeId, node: NodeId) -> Result<Outcome, Refusal> {
        if !self.members.contains_key(&node) {
            return Err(Refusal::NoSuchNode { node });
        }
        let volume = self.volumes.get(&id).ok_or(Refusal::NoSuchVolume { volume: id })?;
        if let Some(held) = &volume.attachment {
            let host = self.node_label(held.node);
            return Err(Refusal::Attached { volume: volume.name.clone(), node: held.node, host });
        }
        let volume = self.volumes.get_mut(&id).ok_or(Refusal::NoSuchVolume { volume: id })?;
        volume.epoch = volume.epoch.next();
        Ok(Outcome::Granted { epoch: volume.epoch })
    }
}
