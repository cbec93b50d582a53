//! What a silo remembers of each slot besides its blocks: promise, adopted epoch, how far its history goes.
//!
//! The meaning of these fields is the replication protocol's (`cluster/replication`); the store keeps them, raises
//! `applied` from the log after a crash, and never cleans what they still protect.

use serde::{Deserialize, Serialize};

use crate::base::id::{ConfigNumber, Epoch, NodeId, Seq, SiloId};

/// The state of one (volume, slot) on one silo, persisted by `Silo::commit`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotState {
    pub config: ConfigNumber,
    /// `P`: epochs below this one are refused, for as long as the volume exists.
    pub promise: Epoch,
    /// The node the promise was given to; it alone may release the lease of its own dead epoch.
    pub holder: Option<NodeId>,
    /// `A`: the last epoch whose history this silo adopted.
    pub adopted: Epoch,
    /// `S`: the last write of the slot's stream that is applied in order. Raised by replay after a crash.
    pub applied: Seq,
    /// The highest write known to be durable on a majority; everything up to it is common to all histories.
    pub committed: Seq,
    /// Set while versions out of prefix are stored: the silo then votes with this `(A, S)` and counts nowhere.
    pub incomplete: Option<Vote>,
    /// The longest lease ever granted for this slot, in milliseconds; waited out after a restart.
    pub lease_ms_max: u64,
    /// The boot id of the machine when the epoch was adopted: the same one means the page cache was kept since.
    pub adopted_boot: [u8; 16],
    /// What the writer last reported of the slot's other silos: `(A, D)`.
    pub peers: Vec<(SiloId, Epoch, Seq)>,
}

/// How far a silo's complete history goes: the epoch it was adopted in first, the number second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Vote {
    pub adopted: Epoch,
    pub applied: Seq,
}

impl SlotState {
    /// The `(A, S)` this silo votes with.
    pub fn vote(&self) -> Vote {
        self.incomplete.unwrap_or(Vote { adopted: self.adopted, applied: self.applied })
    }
}
