//! Delta: what a silo that fell behind needs, extent by extent (rule 16 of the protocol).

use std::collections::BTreeSet;

use crate::base::block::{BLOCK_BYTES, EXTENT_BLOCKS, FRAME_DATA_MAX};
use crate::base::id::{Seq, SlotKey, Stamp};
use crate::base::mutant::{Mutant, on};
use crate::base::record::Record;
use crate::store::error::Result;
use crate::store::read::ReadError;
use crate::store::silo::Silo;
use crate::store::slots::Slot;
use crate::store::staging::ExtentListing;
use crate::store::version::{Place, Version};

/// Bytes of an answer that a listing takes, beside its records.
const LISTING_BYTES: usize = 48;
const RECORD_BLOCKS_MAX: usize = FRAME_DATA_MAX / BLOCK_BYTES as usize;

/// Some compared extents, each with the records of the versions above the base.
#[derive(Clone, Debug, Default)]
pub struct Delta {
    /// Per extent which blocks exist, and records marked as transfer, with their first stamps, of at most 128 KiB.
    pub extents: Vec<(ExtentListing, Vec<Record>)>,
    /// Where to go on; nothing once all extents were given.
    pub next_extent: Option<u64>,
}

impl Silo {
    /// The extents whose highest version is above `base`, in order.
    pub fn changed_extents(&self, key: SlotKey, base: Seq) -> Result<Vec<u64>> {
        Ok(self.find(key)?.read().extents.above(base).collect())
    }

    /// The extents that changed above `base` here, and those in `also` that changed at the receiver, from `from_extent`
    /// on, until the answer holds `budget_bytes` (at least one extent). Each extent is read as of one moment, its floor;
    /// later extents may have later floors.
    pub fn delta(&self, key: SlotKey, base: Seq, also: &[u64], from_extent: u64, budget_bytes: usize) -> Result<Delta> {
        let slot = self.find(key)?;
        let mut extents: BTreeSet<u64> = slot.read().extents.above_from(base, from_extent).collect();
        extents.extend(also);
        let mut delta = Delta::default();
        let mut spent = 0;
        for extent in extents.range(from_extent..) {
            if spent >= budget_bytes && !delta.extents.is_empty() {
                delta.next_extent = Some(*extent);
                break;
            }
            let (listing, records) = self.read_extent(&slot, *extent, base)?;
            spent += LISTING_BYTES + records.iter().map(Record::len).sum::<usize>();
            delta.extents.push((listing, records));
        }
        Ok(delta)
    }

    /// The newest version of a block as a transfer record, verified; none if the block holds no data.
    pub fn version(&self, key: SlotKey, block: u64) -> Result<Option<Record>> {
        let slot = self.find(key)?;
        self.read_current(
            || self.current_versions(&slot, block, 1),
            |versions| match versions[0].place {
                Place::Data { .. } => self.record_of(key, block, versions).map(Some),
                Place::Zero | Place::Hole => Ok(None),
            },
        )
    }

    /// The stamp of a block's newest version; none if the block holds no data.
    pub fn indexed(&self, key: SlotKey, block: u64) -> Result<Option<Stamp>> {
        let slot = self.find(key)?;
        let current = self.current_versions(&slot, block, 1)?[0];
        Ok(matches!(current.place, Place::Data { .. }).then_some(current.stamp))
    }

    /// The version of a block with this stamp as a transfer record, verified, whether or not it is the newest; none if it
    /// is not here or holds no data.
    pub fn version_of(&self, key: SlotKey, block: u64, stamp: Stamp) -> Result<Option<Record>> {
        let slot = self.find(key)?;
        self.read_current(
            || self.version_with(&slot, block, stamp),
            |version| match version {
                Some(version) => self.record_of(key, block, std::slice::from_ref(version)).map(Some),
                None => Ok(None),
            },
        )
    }

    fn read_extent(&self, slot: &Slot, extent: u64, base: Seq) -> Result<(ExtentListing, Vec<Record>)> {
        let first = extent * EXTENT_BLOCKS;
        self.read_current(
            || self.versions_as_of(slot, first, EXTENT_BLOCKS),
            |(floor, versions)| self.records_above(slot.key, extent, base, *floor, versions),
        )
    }

    /// What an extent holds as of a floor, and the records of its versions above the base.
    fn records_above(
        &self,
        key: SlotKey,
        extent: u64,
        base: Seq,
        floor: Seq,
        versions: &[Version],
    ) -> std::result::Result<(ExtentListing, Vec<Record>), ReadError> {
        let first = extent * EXTENT_BLOCKS;
        let mut listing = ExtentListing::empty(extent, floor);
        for (index, _) in versions.iter().enumerate().filter(|(_, version)| version.exists()) {
            listing.set(index);
        }
        let mut records = Vec::new();
        let mut index = 0;
        while index < versions.len() {
            let run = run_of(&versions[index..]);
            if versions[index].exists() && versions[index].stamp.seq > base {
                records.push(self.record_of(key, first + index as u64, &versions[index..index + run])?);
            }
            index += run;
        }
        Ok((listing, records))
    }

    /// One record of neighbouring blocks with one stamp.
    fn record_of(&self, key: SlotKey, first: u64, versions: &[Version]) -> std::result::Result<Record, ReadError> {
        let (position, mut stamp) = (first * BLOCK_BYTES, versions[0].stamp);
        if on(Mutant::TailRestamped) {
            stamp.epoch = self.slot(key).map_or(stamp.epoch, |state| state.adopted);
        }
        let record = match versions[0].place {
            Place::Zero => Record::zeroes(key, position, versions.len() as u64 * BLOCK_BYTES, stamp),
            Place::Data { .. } | Place::Hole => {
                Record::write(key, position, stamp, self.read_versions(first, versions)?)
            }
        };
        Ok(record.into_transfer())
    }
}

/// How many of the versions from the first on belong in one record.
fn run_of(versions: &[Version]) -> usize {
    let kind = |version: &Version| std::mem::discriminant(&version.place);
    let like = |version: &&Version| version.stamp == versions[0].stamp && kind(version) == kind(&versions[0]);
    versions.iter().take(RECORD_BLOCKS_MAX).take_while(like).count()
}
