//! The commands that change the cluster state, and what an accepted one answers.
//!
//! Commands lie in logs: new ones are added at the end, and one that needs another field becomes a new one.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::base::address::Address;
use crate::base::id::{ConfigNumber, Epoch, Incarnation, InvitationId, NetworkId, NodeId, SiloId, SlotIndex, VolumeId};
use crate::cluster::state::level::Level;
use crate::cluster::state::member::{Duty, Role};
use crate::cluster::state::silo::SiloState;
use crate::cluster::state::volume::Policy;

/// One change of the cluster state. Times are seconds since 1970 by the proposer's clock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// The first command of a network; repeating it for the same network is accepted and changes nothing.
    Genesis(Genesis),
    Join(Join),
    Announce(Announcement),
    /// The node leaves for good: it must hold no slot and no attachment, and its passport counts no more.
    Leave {
        node: NodeId,
        at: u64,
    },
    OpenSilo(SiloOpening),
    /// Whether the silo may be given new slots.
    SetSiloState {
        silo: SiloId,
        state: SiloState,
    },
    CreateVolume(VolumeCreation),
    /// Grants the next epoch of the volume to the node, if the mode allows.
    Attach {
        volume: VolumeId,
        node: NodeId,
        mode: AttachMode,
        at: u64,
    },
    /// The attachment stands, but its old clients may not be served again; see rule 15 of the protocol.
    CloseExport {
        volume: VolumeId,
        epoch: Epoch,
    },
    /// Accepted again once it is done.
    Detach {
        volume: VolumeId,
        epoch: Epoch,
    },
    /// Accepted again once it is done.
    DeleteVolume {
        volume: VolumeId,
        at: u64,
    },
    Reconfigure(Reconfiguration),
    /// Grants the next epoch of a volume that nobody is attached to, for work on its slots (rule 19).
    Maintain {
        volume: VolumeId,
        node: NodeId,
        at: u64,
    },
    /// Whether a node's silos hold copies.
    SetDuty {
        node: NodeId,
        duty: Duty,
    },
    /// Whether a member that may store does, or is a witness.
    SetRole {
        node: NodeId,
        role: Role,
    },
    /// How many copies a volume is to have.
    SetReplicas {
        volume: VolumeId,
        replicas: u8,
    },
    /// All members understand this much.
    Raise {
        level: Level,
    },
    /// After how long a silo that nobody reaches is replaced, in milliseconds.
    SetDownAfter {
        down_after_ms: u64,
    },
}

/// A slot gets other silos: taken only in the epoch and from the configuration that it was worked out in, which is a majority
/// of the new silos' word that nothing is lost by it (rule 18). Accepted again once it is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reconfiguration {
    pub volume: VolumeId,
    pub slot: SlotIndex,
    pub epoch: Epoch,
    pub config: ConfigNumber,
    pub silos: Vec<SiloId>,
}

/// The founding of a network by its first node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Genesis {
    pub network: NetworkId,
    pub name: String,
    pub founder: NodeId,
    pub member: NewMember,
    pub at: u64,
}

/// What a node tells of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewMember {
    /// The host name, for people.
    pub name: String,
    pub role: Role,
    /// Opaque here: the proposer has verified it.
    pub passport: Vec<u8>,
    pub data_addresses: Vec<Address>,
    /// Multiaddresses.
    pub discovery_addresses: Vec<String>,
    pub zone: Option<String>,
}

/// A node joins by an invitation, whose signature the proposer has verified.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    pub node: NodeId,
    pub member: NewMember,
    pub invitation: Invitation,
    pub at: u64,
}

/// What the verified token says of an invitation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invitation {
    pub id: InvitationId,
    /// How many nodes may join by it.
    pub uses_max: u32,
    /// Seconds since 1970.
    pub expires_at: u64,
}

/// A member says where it is reached now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    pub node: NodeId,
    pub name: String,
    pub data_addresses: Vec<Address>,
    pub discovery_addresses: Vec<String>,
    pub zone: Option<String>,
}

/// A silo was opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiloOpening {
    pub silo: SiloId,
    pub node: NodeId,
    pub capacity_bytes: u64,
    /// Its incarnations since the last one that the cluster confirmed, oldest first; the last is the one of this
    /// opening.
    pub chain: Vec<Incarnation>,
}

/// A volume is to be created; its slots are placed when the command is applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeCreation {
    pub id: VolumeId,
    pub name: String,
    pub size_bytes: u64,
    pub policy: Policy,
    pub at: u64,
}

/// On which ground a node wants to write a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AttachMode {
    /// Nobody is attached, or this node is with its export closed.
    Fresh,
    /// Whoever is attached loses it.
    Takeover,
    /// This node was attached with this epoch and restarted.
    Resume { epoch: Epoch },
}

/// What an accepted command answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    Done,
    /// The passport that counts for the node: the first one it was given by this invitation.
    Joined {
        passport: Vec<u8>,
    },
    SiloOpened {
        /// The cluster has not seen this silo before.
        new: bool,
        /// The node whose silo it was until now.
        moved_from: Option<NodeId>,
    },
    Created {
        volume: VolumeId,
    },
    Granted {
        epoch: Epoch,
    },
    Reconfigured {
        config: ConfigNumber,
    },
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Command::Genesis(genesis) => write!(f, "genesis of {}", genesis.name),
            Command::Join(join) => write!(f, "join of {}", join.node.short()),
            Command::Announce(announcement) => write!(f, "announcement of {}", announcement.node.short()),
            Command::Leave { node, .. } => write!(f, "leave of {}", node.short()),
            Command::OpenSilo(opening) => write!(f, "opening of silo {}", opening.silo.short()),
            Command::SetSiloState { silo, state } => write!(f, "silo {} {state:?}", silo.short()),
            Command::CreateVolume(creation) => write!(f, "creation of volume {}", creation.name),
            Command::Attach { volume, node, mode, .. } => {
                write!(f, "{mode:?} attach of volume {} to {}", volume.short(), node.short())
            }
            Command::CloseExport { volume, epoch } => write!(f, "close export of {} {epoch}", volume.short()),
            Command::Detach { volume, epoch } => write!(f, "detach of {} {epoch}", volume.short()),
            Command::DeleteVolume { volume, .. } => write!(f, "delete of volume {}", volume.short()),
            Command::Reconfigure(Reconfiguration { volume, slot, config, .. }) => {
                write!(f, "change of the silos of {} slot {slot} from configuration {config}", volume.short())
            }
            Command::Maintain { volume, node, .. } => {
                write!(f, "maintenance of {} by {}", volume.short(), node.short())
            }
            Command::SetDuty { node, duty } => write!(f, "duty of {}: {duty:?}", node.short()),
            Command::SetRole { node, role } => write!(f, "role of {}: {role:?}", node.short()),
            Command::SetReplicas { volume, replicas } => write!(f, "{replicas} copies of {}", volume.short()),
            Command::Raise { level } => write!(f, "level {}", level.0),
            Command::SetDownAfter { down_after_ms } => write!(f, "down after {down_after_ms} ms"),
        }
    }
}
