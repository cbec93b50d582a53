//! Why a command is refused, and how a person is told.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::clock::rfc3339;
use crate::base::error::{Fault, Kind};
use crate::base::id::{ConfigNumber, Epoch, NodeId, SiloId, SlotIndex, VolumeId};
use crate::base::units::{Size, Span};
use crate::cluster::state::settings::DOWN_AFTER_MS;
use crate::cluster::state::volume::{LEASE_MS, REPLICAS_MAX, VOLUME_NAME_BYTES_MAX};

/// A command was refused and changed nothing. Lies in logs and snapshots: new reasons are added at the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// No genesis yet.
    NoNetwork,
    /// A genesis for another network than the one this group belongs to.
    OtherNetwork {
        network: String,
    },
    Revoked {
        node: NodeId,
    },
    InvitationExpired {
        /// Seconds since 1970.
        expired_at: u64,
    },
    InvitationUsedUp {
        uses_max: u32,
    },
    NoSuchNode {
        node: NodeId,
    },
    NoSuchSilo {
        silo: SiloId,
    },
    NoSuchVolume {
        volume: VolumeId,
    },
    LastMember,
    NodeAttached {
        node: String,
        volume: String,
    },
    NodeHoldsSlots {
        node: String,
        volume: String,
    },
    /// A node with silos cannot become one that gives none.
    HoldsSilos {
        node: String,
    },
    RoleGivesNoSilos {
        node: String,
    },
    /// The silo's chain does not lead to the incarnation that the cluster knows: a restored copy, or not this silo.
    ForeignSilo {
        silo: SiloId,
    },
    BadName {
        name: String,
    },
    BadSize {
        size_bytes: u64,
    },
    BadReplicas {
        replicas: u8,
    },
    BadLease {
        lease_ms: u32,
    },
    TooFewNodes {
        replicas: u8,
        /// Nodes with a silo in service.
        nodes: u32,
    },
    NameTaken {
        name: String,
    },
    VolumeIdUsed {
        volume: VolumeId,
    },
    Attached {
        volume: String,
        node: NodeId,
        host: String,
    },
    NotResumable {
        volume: String,
    },
    StaleEpoch {
        volume: String,
        epoch: Epoch,
        current: Epoch,
    },
    DeleteAttached {
        volume: String,
        host: String,
    },
    /// A late repetition of a proposal whose proposer has its answer already.
    Superseded,
    NoSuchSlot {
        volume: String,
        slot: SlotIndex,
    },
    /// The slot's silos have changed since.
    StaleConfiguration {
        volume: String,
        slot: SlotIndex,
        config: ConfigNumber,
        current: ConfigNumber,
    },
    BadSilos {
        silos: u32,
    },
    TwoOfANode {
        node: String,
    },
    /// Without this node there are too few for the copies of a volume that it holds data of.
    NoRoomElsewhere {
        node: String,
        volume: String,
        replicas: u8,
        /// Nodes that would be left to hold copies.
        nodes: u32,
    },
    BadDownAfter {
        down_after_ms: u64,
    },
    /// Some member runs an older version.
    NotAllUnderstand,
    /// A volume has no other copy than on this node.
    LastCopy {
        node: String,
        volume: String,
    },
}

impl Refusal {
    /// The exit code's kind.
    pub fn kind(&self) -> Kind {
        match self {
            Refusal::BadName { .. }
            | Refusal::BadSize { .. }
            | Refusal::BadReplicas { .. }
            | Refusal::BadDownAfter { .. }
            | Refusal::BadLease { .. } => Kind::Usage,
            Refusal::NoNetwork
            | Refusal::NoSuchNode { .. }
            | Refusal::NoSuchSilo { .. }
            | Refusal::NoSuchVolume { .. }
            | Refusal::NoSuchSlot { .. } => Kind::NotFound,
            Refusal::NameTaken { .. }
            | Refusal::VolumeIdUsed { .. }
            | Refusal::Attached { .. }
            | Refusal::DeleteAttached { .. }
            | Refusal::NodeAttached { .. }
            | Refusal::NodeHoldsSlots { .. }
            | Refusal::HoldsSilos { .. }
            | Refusal::OtherNetwork { .. } => Kind::Conflict,
            Refusal::Revoked { .. }
            | Refusal::InvitationExpired { .. }
            | Refusal::InvitationUsedUp { .. }
            | Refusal::RoleGivesNoSilos { .. }
            | Refusal::ForeignSilo { .. }
            | Refusal::NotResumable { .. }
            | Refusal::StaleEpoch { .. }
            | Refusal::StaleConfiguration { .. } => Kind::Refused,
            Refusal::LastMember
            | Refusal::TooFewNodes { .. }
            | Refusal::NoRoomElsewhere { .. }
            | Refusal::NotAllUnderstand
            | Refusal::LastCopy { .. }
            | Refusal::Superseded
            | Refusal::BadSilos { .. }
            | Refusal::TwoOfANode { .. } => Kind::Failed,
        }
    }

    /// The command or change that mends it.
    fn hint(&self) -> Option<String> {
        Some(match self {
            Refusal::NoNetwork => "infinit network create NAME".into(),
            Refusal::Revoked { .. } => "join with a new home: infinit --home DIR network join TOKEN".into(),
            Refusal::InvitationExpired { .. } | Refusal::InvitationUsedUp { .. } => {
                "on a member: infinit network invite".into()
            }
            Refusal::NoSuchNode { .. } => "infinit node list".into(),
            Refusal::NoSuchVolume { .. } => "infinit volume list".into(),
            Refusal::NodeAttached { volume, .. } | Refusal::DeleteAttached { volume, .. } => {
                format!("infinit volume detach {volume}")
            }
            Refusal::NodeHoldsSlots { node, .. } => format!("infinit node drain {node} --wait"),
            Refusal::NoRoomElsewhere { volume, nodes, .. } => match copies_that_fit(*nodes) {
                0 => "add a node with a silo".into(),
                fit => format!("add a node, or: infinit volume set {volume} --replicas {fit}"),
            },
            Refusal::LastCopy { volume, .. } => format!("if it may be lost: infinit volume delete {volume}"),
            Refusal::NotAllUnderstand => "see the versions: infinit node list".into(),
            Refusal::BadDownAfter { .. } => "the default of --down-after 10m suits most".into(),
            Refusal::RoleGivesNoSilos { .. } => "infinit network invite --role storage".into(),
            Refusal::ForeignSilo { .. } => "give another, empty directory: infinit node run --silo DIR".into(),
            Refusal::BadSize { .. } => "write a size like --size 20GiB".into(),
            Refusal::BadReplicas { .. } => "use --replicas 3, or --replicas 1 for a single copy".into(),
            Refusal::TooFewNodes { nodes: 0, .. } => "give a node a silo: infinit node run --silo PATH".into(),
            Refusal::TooFewNodes { nodes, .. } => match copies_that_fit(*nodes) {
                0 | 1 => "--replicas 1 accepts a single copy".into(),
                fit => format!("--replicas {fit} fits, --replicas 1 accepts a single copy; or add nodes"),
            },
            Refusal::NameTaken { .. } => "infinit volume list".into(),
            Refusal::Attached { volume, .. } => format!("infinit volume attach {volume} --takeover"),
            Refusal::NotResumable { volume } => format!("infinit volume attach {volume}"),
            Refusal::BadLease { .. } => "the default of --lease 5s suits most".into(),
            Refusal::BadName { .. } => "write a name like pg-data".into(),
            Refusal::LastMember => "to end the network, stop its node and remove its home and silos".into(),
            Refusal::OtherNetwork { .. }
            | Refusal::NoSuchSilo { .. }
            | Refusal::HoldsSilos { .. }
            | Refusal::VolumeIdUsed { .. }
            | Refusal::StaleEpoch { .. }
            | Refusal::NoSuchSlot { .. }
            | Refusal::StaleConfiguration { .. }
            | Refusal::BadSilos { .. }
            | Refusal::TwoOfANode { .. }
            | Refusal::Superseded => return None,
        })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::NoNetwork => f.write_str("there is no network yet"),
            Refusal::OtherNetwork { network } => write!(f, "this node already belongs to network '{network}'"),
            Refusal::Revoked { node } => write!(f, "node {} has left or was removed from the network", node.short()),
            Refusal::InvitationExpired { expired_at } => {
                write!(f, "the invitation expired at {}", rfc3339(*expired_at))
            }
            Refusal::InvitationUsedUp { uses_max } => {
                write!(f, "the invitation is used up: it was good for {uses_max}")
            }
            Refusal::NoSuchNode { node } => write!(f, "node {} is not a member of the network", node.short()),
            Refusal::NoSuchSilo { silo } => write!(f, "there is no silo {}", silo.short()),
            Refusal::NoSuchVolume { volume } => write!(f, "there is no volume {}", volume.short()),
            Refusal::LastMember => f.write_str("the last member cannot leave the network"),
            Refusal::NodeAttached { node, volume } => write!(f, "volume '{volume}' is attached to node {node}"),
            Refusal::NodeHoldsSlots { node, volume } => write!(f, "node {node} holds data of volume '{volume}'"),
            Refusal::HoldsSilos { node } => {
                write!(f, "node {node} has silos and cannot become one that stores nothing")
            }
            Refusal::RoleGivesNoSilos { node } => write!(f, "node {node} joined as a client and gives no silos"),
            Refusal::ForeignSilo { silo } => write!(
                f,
                "silo {} is not the one the cluster knows by this id: it was restored from a copy, or damaged",
                silo.short()
            ),
            Refusal::BadName { name } => write!(
                f,
                "'{name}' is no name for a volume: 1 to {VOLUME_NAME_BYTES_MAX} bytes, no '/', no control characters"
            ),
            Refusal::BadSize { size_bytes } => write!(
                f,
                "{} is no size for a volume: a multiple of 4KiB, more than 0, at most 64TiB",
                exact(*size_bytes)
            ),
            Refusal::BadReplicas { replicas } => {
                write!(f, "{replicas} replicas are not possible: it must be 1 to {REPLICAS_MAX}")
            }
            Refusal::BadLease { lease_ms } => write!(
                f,
                "a lease of {} is not possible: it lasts from {} to {}",
                term(*lease_ms),
                term(*LEASE_MS.start()),
                term(*LEASE_MS.end())
            ),
            Refusal::TooFewNodes { replicas, nodes } => write!(
                f,
                "{replicas} replicas need {replicas} nodes with a silo, and there {} {nodes}",
                if *nodes == 1 { "is" } else { "are" }
            ),
            Refusal::NameTaken { name } => write!(f, "a volume named '{name}' exists already"),
            Refusal::VolumeIdUsed { volume } => write!(f, "the volume id {volume} was used before"),
            Refusal::Attached { volume, host, node } => {
                write!(f, "volume '{volume}' is attached to node {host} ({})", node.short())
            }
            Refusal::NotResumable { volume } => {
                write!(f, "volume '{volume}' is no longer attached as this node remembers it")
            }
            Refusal::StaleEpoch { volume, epoch, current } => {
                write!(f, "volume '{volume}' has moved on: this is of epoch {epoch}, the current one is {current}")
            }
            Refusal::DeleteAttached { volume, host } => {
                write!(f, "volume '{volume}' is attached to node {host} and cannot be deleted")
            }
            Refusal::Superseded => f.write_str("the proposal is an old repetition"),
            Refusal::NoSuchSlot { volume, slot } => write!(f, "volume '{volume}' has no slot {slot}"),
            Refusal::StaleConfiguration { volume, slot, config, current } => write!(
                f,
                "slot {slot} of volume '{volume}' has moved on: this is of configuration {config}, the current one is {current}"
            ),
            Refusal::BadSilos { silos } => write!(f, "a slot cannot lie on {silos} silos"),
            Refusal::TwoOfANode { node } => write!(f, "two copies would lie on node {node}"),
            Refusal::NoRoomElsewhere { node, volume, replicas, nodes } => write!(
                f,
                "volume '{volume}' has {replicas} {}, and without node {node} there {} with a silo to hold them",
                if *replicas == 1 { "copy" } else { "copies" },
                match nodes {
                    0 => "is no node".to_owned(),
                    1 => "is 1 node".to_owned(),
                    several => format!("are {several} nodes"),
                }
            ),
            Refusal::LastCopy { node, volume } => {
                write!(f, "volume '{volume}' has no other copy of some of its data than on node {node}")
            }
            Refusal::NotAllUnderstand => {
                f.write_str("a node of the network runs a version that does not know this yet")
            }
            Refusal::BadDownAfter { down_after_ms } => write!(
                f,
                "{} is no time after which a silo is replaced: from {} to {}",
                Span(Duration::from_millis(*down_after_ms)),
                Span(Duration::from_millis(*DOWN_AFTER_MS.start())),
                Span(Duration::from_millis(*DOWN_AFTER_MS.end()))
            ),
        }
    }
}

/// A lease's term as people write it; one that does not even fit is only called long.
fn term(lease_ms: u32) -> String {
    match lease_ms {
        u32::MAX => "more than 49d".to_owned(),
        fits => Span(Duration::from_millis(u64::from(fits))).to_string(),
    }
}

/// The largest number of copies that this many nodes can hold.
fn copies_that_fit(nodes: u32) -> u32 {
    nodes.min(REPLICAS_MAX.into())
}

/// A size that does not round what is wrong with it away.
fn exact(size_bytes: u64) -> String {
    let size = Size(size_bytes);
    match size.to_string().parse::<Size>() {
        Ok(read) if read == size => size.to_string(),
        _ => format!("{size_bytes} bytes"),
    }
}

impl std::error::Error for Refusal {}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        let fault = Fault::new(refusal.kind(), refusal.to_string());
        match refusal.hint() {
            Some(hint) => fault.hint(hint),
            None => fault,
        }
    }
}
