//! `POST /v1/volumes/{name}/recover`.

use serde::{Deserialize, Serialize};

use crate::base::id::{Epoch, Seq, VolumeId};

/// Asks to make a volume attachable again whose silos lost data.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecoverVolume {
    /// Go on with what is left, even if answered and flushed writes are gone.
    #[serde(default)]
    pub accept_loss: bool,
    /// Give up after so long; the daemon's default if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// What a volume goes on from; it is detached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveredVolume {
    pub id: VolumeId,
    pub name: String,
    /// Whether the loss had to be accepted.
    pub lost: bool,
    pub slots: Vec<RecoveredSlot>,
}

/// One slot of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveredSlot {
    pub slot: u32,
    /// The history that it goes on from.
    pub from: History,
    /// The longest one that is known to have been on a disk.
    pub known: History,
}

/// How far a history goes: up to a write of an epoch. Writes are numbered across the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    pub epoch: Epoch,
    pub write: Seq,
}
