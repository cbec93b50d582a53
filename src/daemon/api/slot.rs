//! A volume's slots and their copies, and what of them is being copied.

use serde::{Deserialize, Serialize};

use crate::base::id::{ConfigNumber, SiloId, SlotIndex};
use crate::daemon::api::{NodeRef, VolumeState};

/// One slot of a volume and its copies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    pub slot: SlotIndex,
    pub configuration: ConfigNumber,
    pub state: VolumeState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub replicas: Vec<Replica>,
    /// Copies that are being made and count for nothing yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub joining: Vec<Replica>,
}

/// One copy of a slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replica {
    pub silo: SiloId,
    pub node: NodeRef,
    pub state: ReplicaState,
    /// The bytes of the writes that it lacks, and their number, trims included; null where that is not known: nobody
    /// has the volume attached, or more was written since than is remembered.
    #[serde(default)]
    pub behind_bytes: Option<u64>,
    #[serde(default)]
    pub behind_writes: Option<u64>,
    /// What it has received so far of what it missed; absent unless it is catching up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moved_bytes: Option<u64>,
    /// How fast that was so far, and how long the rest takes if it goes on so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_ms: Option<u64>,
    /// Another copy takes its place.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leaves: bool,
}

/// How one copy stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReplicaState {
    UpToDate,
    /// Receives what it misses; counts in majorities once it has it.
    CatchingUp,
    /// Within reach, and compared with the others at the next attach: nobody has the volume attached now.
    Idle,
    Down,
    Damaged,
    /// Its silo is not the one that the cluster knows.
    Foreign,
    /// Its silo's disk has not answered for some seconds.
    Stalled,
    /// Whether its node is up is not known yet.
    Unknown,
}

/// Copies that are being made or brought up to date.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moving {
    /// How many receive data now.
    pub copies: u32,
    /// What they have received so far.
    pub moved_bytes: u64,
    /// How fast that was so far; null before anything was moved.
    #[serde(default)]
    pub bytes_per_second: Option<u64>,
    /// What these copies lack still, and how long it takes, if the rest is as dense as what was moved and goes as fast;
    /// null while one of them cannot tell. Slots that wait for their turn are not in it.
    #[serde(default)]
    pub left_bytes: Option<u64>,
    #[serde(default)]
    pub left_ms: Option<u64>,
}
