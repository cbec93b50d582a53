//! Silos: which node gives them, and the incarnation by which a restored or foreign disk is told from the real one.

use serde::{Deserialize, Serialize};

use crate::base::id::{Incarnation, NodeId, SiloId};
use crate::base::mutant::{Mutant, on};
use crate::cluster::state::ClusterState;
use crate::cluster::state::command::{Outcome, SiloOpening};
use crate::cluster::state::refusal::Refusal;

/// Whether a silo is given new slots. Slots that it already has are another matter: they are the slot's configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SiloState {
    InService,
    /// Gets no new slots: its disk failed, or it is being emptied.
    Retired,
    /// Nobody reached it for so long that its copies go elsewhere; in service again once it is reached.
    Down,
}

/// One directory (disk) of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiloInfo {
    pub node: NodeId,
    pub capacity_bytes: u64,
    /// The one of its last opening that the cluster knows of.
    pub incarnation: Incarnation,
    pub state: SiloState,
}

impl ClusterState {
    /// A known silo must prove by its chain that it is the one last seen: a copy restored from a backup cannot.
    pub(super) fn open_silo(&mut self, opening: SiloOpening) -> Result<Outcome, Refusal> {
        let member = self.members.get(&opening.node).ok_or(Refusal::NoSuchNode { node: opening.node })?;
        if !member.role.holds_data() && !on(Mutant::WitnessHoldsData) {
            return Err(Refusal::RoleGivesNoSilos { node: self.node_label(opening.node) });
        }
        let Some(&incarnation) = opening.chain.last() else {
            return Err(Refusal::ForeignSilo { silo: opening.silo });
        };
        let Some(silo) = self.silos.get_mut(&opening.silo) else {
            let info = SiloInfo {
                node: opening.node,
                capacity_bytes: opening.capacity_bytes,
                incarnation,
                state: SiloState::InService,
            };
            self.silos.insert(opening.silo, info);
            return Ok(Outcome::SiloOpened { new: true, moved_from: None });
        };
        if !opening.chain.contains(&silo.incarnation) {
            return Err(Refusal::ForeignSilo { silo: opening.silo });
        }
        let moved_from = (silo.node != opening.node).then_some(silo.node);
        silo.node = opening.node;
        silo.capacity_bytes = opening.capacity_bytes;
        silo.incarnation = incarnation;
        Ok(Outcome::SiloOpened { new: false, moved_from })
    }

    pub(super) fn set_silo_state(&mut self, silo: SiloId, state: SiloState) -> Result<Outcome, Refusal> {
        let info = self.silos.get_mut(&silo).ok_or(Refusal::NoSuchSilo { silo })?;
        info.state = state;
        Ok(Outcome::Done)
    }
}
