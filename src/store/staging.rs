//! What a slot receives while it catches up: versions whose bytes are in the log already, and the listings that say
//! which blocks exist. All of it lives in memory and counts for nothing until a commit adopts it; a restart forgets it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::base::block::EXTENT_BLOCKS;
use crate::base::id::{Seq, SnapshotId, Stamp};
use crate::store::version::{Place, Version};

/// What the source of a catching-up says of one compared extent: which of its 256 blocks exist as of its `floor`.
/// What it does not name is absent there (rule 16 of the protocol).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtentListing {
    /// The extent's index in the volume.
    pub extent: u64,
    /// Bit `i % 8` of byte `i / 8` is block `i` of the extent.
    pub present: [u8; EXTENT_BLOCKS as usize / 8],
    /// What the source had applied when it read the extent.
    pub floor: Seq,
}

impl ExtentListing {
    /// A listing of an extent without any block.
    pub fn empty(extent: u64, floor: Seq) -> Self {
        Self { extent, present: [0; EXTENT_BLOCKS as usize / 8], floor }
    }

    /// Whether the block with this index in the extent exists.
    pub fn has(&self, index: usize) -> bool {
        self.present[index / 8] & (1 << (index % 8)) != 0
    }

    /// Names the block with this index in the extent.
    pub fn set(&mut self, index: usize) {
        self.present[index / 8] |= 1 << (index % 8);
    }

    /// Whether no block of the extent exists.
    pub fn is_empty(&self) -> bool {
        self.present.iter().all(|byte| *byte == 0)
    }
}

/// The staged versions and listings of one slot.
#[derive(Default)]
pub(crate) struct Staging {
    listings: BTreeMap<u64, ExtentListing>,
    /// The newest staged version of each block.
    versions: BTreeMap<u64, Version>,
    /// The segments that staged versions lie in. The index does not count them, so this keeps them.
    pins: BTreeSet<u32>,
    pub(crate) markers: BTreeMap<Stamp, SnapshotId>,
}

impl Staging {
    /// Takes note of a listing; a later one of the same extent replaces it.
    pub(crate) fn list(&mut self, listing: &ExtentListing) {
        self.listings.insert(listing.extent, listing.clone());
    }

    pub(crate) fn add(&mut self, block: u64, version: Version) {
        if let Place::Data { segment, .. } = version.place {
            self.pins.insert(segment);
        }
        let held = self.versions.entry(block).or_insert(version);
        if held.stamp <= version.stamp {
            *held = version;
        }
    }

    /// The segments that must stay while this is staged.
    pub(crate) fn pins(&self) -> &BTreeSet<u32> {
        &self.pins
    }

    pub(crate) fn listings(&self) -> impl Iterator<Item = &ExtentListing> {
        self.listings.values()
    }

    pub(crate) fn listing_of(&self, block: u64) -> Option<&ExtentListing> {
        self.listings.get(&(block / EXTENT_BLOCKS))
    }

    /// The staged version of a block.
    pub(crate) fn version(&self, block: u64) -> Option<Version> {
        self.versions.get(&block).copied()
    }

    /// The highest staged number in an extent.
    pub(crate) fn highest(&self, extent: u64) -> Seq {
        let blocks = extent * EXTENT_BLOCKS..(extent + 1) * EXTENT_BLOCKS;
        self.versions.range(blocks).map(|(_, version)| version.stamp.seq).max().unwrap_or(Seq::ZERO)
    }
}
