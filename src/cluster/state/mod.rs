//! What the whole cluster agrees on: the network and its members, silos and their incarnations, volumes with their
//! policies, slots, epochs and attachments.
//!
//! [`ClusterState`] is a plain value and [`ClusterState::apply`] its only way to change: deterministic, without clock,
//! randomness or I/O, so that every member that applies the same commands in the same order holds the same state. Time
//! and fresh ids come with the command. A command that is refused changes nothing.
//!
//! What a silo holds and how far it got is not here: that is the replication's business, off this path. The state only
//! says who may write (the epoch) and where the slots lie (the configuration).
//!
//! Stored and sent states carry a version (`stored`), so that a later Infinit reads an older one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::base::id::{InvitationId, NetworkId, NodeId, SiloId, VolumeId};

pub mod command;
pub mod level;
pub mod member;
pub mod plan;
pub mod reconfiguration;
pub mod refusal;
pub mod settings;
pub mod silo;
mod stored;
#[cfg(test)]
mod tests;
pub mod volume;

use crate::cluster::state::command::{Command, Outcome};
use crate::cluster::state::level::Level;
use crate::cluster::state::member::{InvitationUse, Member};
use crate::cluster::state::refusal::Refusal;
use crate::cluster::state::settings::Settings;
use crate::cluster::state::silo::SiloInfo;
use crate::cluster::state::volume::Volume;

/// The network itself: set once, by its genesis.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    pub id: NetworkId,
    pub name: String,
    /// Seconds since 1970, by the founder's clock.
    pub created_at: u64,
}

/// Everything the cluster agrees on. Grows with nodes, silos and volumes times slots; never with bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterState {
    /// `None` until the genesis is applied.
    pub network: Option<Network>,
    pub members: BTreeMap<NodeId, Member>,
    /// Nodes whose passports count no more, and since when (seconds since 1970).
    pub revoked: BTreeMap<NodeId, u64>,
    pub invitations: BTreeMap<InvitationId, InvitationUse>,
    pub silos: BTreeMap<SiloId, SiloInfo>,
    pub volumes: BTreeMap<VolumeId, Volume>,
    /// Volumes that were deleted, and when: a silo that holds data of one may forget it. 24 bytes each, for ever.
    pub deleted: BTreeMap<VolumeId, u64>,
    pub settings: Settings,
    /// What all members understand.
    pub level: Level,
}

impl ClusterState {
    /// Applies a command. On a refusal nothing has changed.
    pub fn apply(&mut self, command: Command) -> Result<Outcome, Refusal> {
        self.check_level(&command)?;
        match command {
            Command::Genesis(genesis) => self.genesis(genesis),
            Command::Join(join) => self.join(join),
            Command::Announce(announcement) => self.announce(announcement),
            Command::Leave { node, at } => self.leave(node, at),
            Command::OpenSilo(opening) => self.open_silo(opening),
            Command::SetSiloState { silo, state } => self.set_silo_state(silo, state),
            Command::CreateVolume(creation) => self.create_volume(creation),
            Command::Attach { volume, node, mode, at } => self.attach(volume, node, mode, at),
            Command::CloseExport { volume, epoch } => self.close_export(volume, epoch),
            Command::Detach { volume, epoch } => self.detach(volume, epoch),
            Command::DeleteVolume { volume, at } => self.delete_volume(volume, at),
            Command::Reconfigure(reconfiguration) => self.reconfigure(reconfiguration),
            Command::Maintain { volume, node, .. } => self.maintain(volume, node),
            Command::SetDuty { node, duty } => self.set_duty(node, duty),
            Command::SetRole { node, role } => self.set_role(node, role),
            Command::SetReplicas { volume, replicas } => self.set_replicas(volume, replicas),
            Command::Raise { level } => self.raise(level),
            Command::SetDownAfter { down_after_ms } => self.set_down_after(down_after_ms),
        }
    }

    /// The volume with this name.
    pub fn volume_named(&self, name: &str) -> Option<(VolumeId, &Volume)> {
        self.volumes.iter().find(|(_, volume)| volume.name == name).map(|(id, volume)| (*id, volume))
    }

    /// The members with this host name: people may give two hosts the same one.
    pub fn members_named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (NodeId, &'a Member)> {
        self.members.iter().filter(move |(_, member)| member.name == name).map(|(id, member)| (*id, member))
    }

    /// What to call a node in a message: its host name, or its short id if it is no member.
    pub fn node_label(&self, node: NodeId) -> String {
        match self.members.get(&node) {
            Some(member) if !member.name.is_empty() => member.name.clone(),
            _ => node.short(),
        }
    }

    /// Refuses every command but the genesis until there is a network.
    fn founded(&self) -> Result<&Network, Refusal> {
        self.network.as_ref().ok_or(Refusal::NoNetwork)
    }
}
