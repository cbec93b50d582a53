//! What a node tells of a silo's room and of the damage on it.

use serde::{Deserialize, Serialize};

use crate::base::id::VolumeId;

/// How a silo's capacity is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Space {
    /// Bytes of blocks that volumes hold there, older versions that are about to go included.
    pub live_bytes: u64,
    /// Bytes of new writes that it could take, once all is cleaned that can be.
    pub free_bytes: u64,
    /// It takes no new writes; trims, deletes and what was promised go on.
    pub full: bool,
    /// How much has to become free before it takes them again; 0 unless it is full.
    pub missing_bytes: u64,
    pub cleaning: Cleaning,
}

/// What cleaning has done since the silo was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cleaning {
    /// Bytes appended by clients and other silos meanwhile, and bytes of blocks that cleaning copied forward.
    pub written_bytes: u64,
    pub moved_bytes: u64,
    /// Segments that were removed.
    pub removed_segments: u64,
    /// Damaged places that it came across.
    pub damaged_places: u64,
}

/// How the silo's own scrub stands, which reads everything once in two weeks, and what damage is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scrub {
    /// A pass is under way.
    pub running: bool,
    /// What it, or the last one, has verified, and what there is to verify now.
    pub checked_bytes: u64,
    pub total_bytes: u64,
    /// When the last pass ended; null before the first one has.
    #[serde(default)]
    pub finished_at: Option<String>,
    /// Blocks found damaged since the silo was made, by whichever scrub, and of them those that are whole again.
    pub found_blocks: u64,
    pub repaired_blocks: u64,
    /// Damaged blocks known now; they are repaired from another copy while their volume is attached.
    pub damaged_blocks: u64,
    /// Where they are: the first few.
    pub damage: Vec<Damage>,
}

/// A damaged range of a volume's copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damage {
    pub volume: VolumeId,
    /// The volume's name, unless it was deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(flatten)]
    pub range: Range,
}

/// A range of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    pub offset_bytes: u64,
    pub length_bytes: u64,
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.offset_bytes, self.offset_bytes + self.length_bytes.saturating_sub(1))
    }
}
