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
//! Stored and sent states carry a version ([`ClusterState::encode`]), so that a later Infinit reads an older one.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::base::id::{InvitationId, NetworkId, NodeId, SiloId, VolumeId};

pub mod command;
pub mod member;
pub mod refusal;
pub mod silo;
#[cfg(test)]
mod tests;
pub mod volume;

use crate::cluster::state::command::{Command, Outcome};
use crate::cluster::state::member::{InvitationUse, Member};
use crate::cluster::state::refusal::Refusal;
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
}

/// The versions of a stored state. New versions are added at the end; old ones stay and are converted when read.
#[derive(Deserialize)]
enum Versioned {
    /// The first.
    V1(ClusterState),
}

/// The same, borrowed, for writing the newest version.
#[derive(Serialize)]
enum VersionedRef<'a> {
    V1(&'a ClusterState),
}

/// Bytes that are no cluster state, or one of a newer Infinit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadState;

impl fmt::Display for BadState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the cluster state is damaged or was written by a newer Infinit")
    }
}

impl std::error::Error for BadState {}

impl ClusterState {
    /// Applies a command. On a refusal nothing has changed.
    pub fn apply(&mut self, command: Command) -> Result<Outcome, Refusal> {
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

    /// The state as stored in snapshots, with its version in front.
    pub fn encode(&self) -> Vec<u8> {
        // Serializing plain maps and integers into a growing vector has no way to fail.
        postcard::to_stdvec(&VersionedRef::V1(self)).expect("a cluster state is always serializable")
    }

    /// Reads a state of this or an older version.
    pub fn decode(bytes: &[u8]) -> Result<Self, BadState> {
        match postcard::take_from_bytes(bytes) {
            Ok((Versioned::V1(state), [])) => Ok(state),
            Ok(_) | Err(_) => Err(BadState),
        }
    }

    /// Refuses every command but the genesis until there is a network.
    fn founded(&self) -> Result<&Network, Refusal> {
        self.network.as_ref().ok_or(Refusal::NoNetwork)
    }
}
