//! Scrubbing: everything that the index holds is read from the disk and verified, step by step, so that decay is found
//! before the last good copy has decayed too.
//!
//! A pass goes through the groups of every slot and then through the index's own pages. Within a step the blocks are
//! read in the order of the log, neighbours with one read. Appends, reads, checkpoints and cleaning go on meanwhile: a
//! block that does not match is damage only if the index still says that it lies there. What is not in the index yet is
//! verified by the pass after the next checkpoint. Only a block's current version is looked at: an older one serves no
//! read, and goes once the watermark has passed the newer.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};

use serde::{Deserialize, Serialize};

use crate::base::block::BLOCK_BYTES;
use crate::base::id::{SlotKey, Stamp, VolumeId};
use crate::store::error::{Operation, Result, StoreError};
use crate::store::index::each_group;
use crate::store::keys::{BLOCKS, GROUP_BLOCKS, decode_row, encode_row, unpack};
use crate::store::pages::PAGE_BYTES;
use crate::store::silo::Silo;
use crate::store::slots::Slot;
use crate::store::version::{Place, Version};

const BLOCK: usize = BLOCK_BYTES as usize;
/// Bytes between two blocks that are read over rather than read around: the heads of the records between them.
const GAP_BYTES_MAX: u32 = 16 << 10;
/// Bytes of one read.
const READ_BYTES_MAX: u32 = 1 << 20;
const NOTE_NAME: &str = "scrub";
/// Far more than the damaged blocks that are remembered take.
const NOTE_BYTES_MAX: u64 = 1 << 20;
/// Groups of one step at the most, however little data they name.
const STEP_GROUPS_MAX: usize = 4096;

/// Where a pass goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubCursor {
    /// The number of the slot whose turn it is, and the first of its groups that was not verified.
    slot: u32,
    group: u64,
    /// Set once all slots were verified: the next page of the index.
    page: Option<u64>,
}

/// How far scrubbing has come: kept in the silo's file `scrub`, so that a restart goes on.
///
/// ```text
/// offset size
///      0    4  CRC32C of what follows
///      4       version byte, postcard of this and of the damaged blocks that are known; the first scrubs noted none
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubNote {
    /// Where the pass under way goes on.
    pub cursor: Option<ScrubCursor>,
    /// What it, or the last one, has verified.
    pub bytes: u64,
    pub passes: u64,
    /// When the last pass ended, or, before the first one, when the waiting for it began: seconds of wall time.
    pub finished_at: u64,
    /// Damaged blocks found so far, and of them those that were repaired.
    pub found: u64,
    pub repaired: u64,
}

/// What one step found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubStep {
    /// Bytes that were read and verified.
    pub bytes: u64,
    /// Blocks whose current bytes do not match their checksum or cannot be read, with the version they should be.
    pub damaged: Vec<(SlotKey, u64, Stamp)>,
    /// Where to go on; nothing at the end of the pass.
    pub next: Option<ScrubCursor>,
}

/// A block as the index has it.
#[derive(Clone, Copy)]
struct Placed {
    segment: u32,
    offset: u32,
    crc: u32,
    block: u64,
    stamp: Stamp,
}

impl Silo {
    /// Verifies about `budget_bytes` from `at` on: of one volume if it is given, else of all of them, and the index. A
    /// damaged page of the index takes the silo out of service, as a read of it does.
    pub fn scrub(&self, at: ScrubCursor, volume: Option<VolumeId>, budget_bytes: usize) -> Result<ScrubStep> {
        if let Some(page) = at.page {
            return self.scrub_index(page, budget_bytes);
        }
        let mut slots = self.all_slots();
        slots.retain(|slot| slot.number >= at.slot && volume.is_none_or(|volume| slot.key.volume == volume));
        let Some(slot) = slots.first() else {
            return Ok(ScrubStep { next: Some(ScrubCursor { page: Some(0), ..at }), ..ScrubStep::default() });
        };
        let from = if slot.number == at.slot { at.group } else { 0 };
        let (mut placed, next_group) = self.guard_read(self.placed(slot, from, budget_bytes))?;
        placed.sort_unstable_by_key(|placed| (placed.segment, placed.offset));
        let mut step = ScrubStep::default();
        let near = |one: &Placed, next: &Placed| {
            let end = one.offset + BLOCK as u32;
            one.segment == next.segment && next.offset <= end.saturating_add(GAP_BYTES_MAX)
        };
        for run in placed.chunk_by(near) {
            for part in parts(run) {
                self.scrub_part(slot, part, &mut step)?;
            }
        }
        step.next = Some(match next_group {
            Some(group) => ScrubCursor { slot: slot.number, group, page: None },
            None => ScrubCursor { slot: slot.number + 1, group: 0, page: None },
        });
        Ok(step)
    }

    /// What [`Self::scrub`] of one volume has to verify: its blocks with data, as far as they are in the index, and the
    /// index itself. Reads the volume's part of the index.
    pub fn scrub_bytes(&self, volume: VolumeId) -> Result<u64> {
        let mut bytes = self.index.file().pages() * PAGE_BYTES as u64;
        for slot in self.all_slots().iter().filter(|slot| slot.key.volume == volume) {
            let mut from = Some(0);
            while let Some(group) = from {
                let (placed, next) = self.guard_read(self.placed(slot, group, STEP_GROUPS_MAX * BLOCK))?;
                bytes += (placed.len() * BLOCK) as u64;
                from = next;
            }
        }
        Ok(bytes)
    }

    /// The same for a pass over the whole silo, as it stands now; older versions that cleaning still keeps are in it.
    pub fn scrub_bytes_all(&self) -> u64 {
        self.usage.total() * BLOCK_BYTES + self.index.file().pages() * PAGE_BYTES as u64
    }

    /// The current blocks with data of some groups, and the group to go on with.
    fn placed(&self, slot: &Slot, from: u64, budget_bytes: usize) -> Result<(Vec<Placed>, Option<u64>)> {
        let (txn, mut placed) = (self.index.read()?, Vec::new());
        let (mut groups, mut next) = (0, None);
        each_group(&txn.open_table(BLOCKS)?, slot.number, from..=u64::MAX, |group, bytes| {
            if groups == STEP_GROUPS_MAX || placed.len() * BLOCK >= budget_bytes {
                next = Some(group);
                return Ok(false);
            }
            groups += 1;
            // In order of block and stamp: the last one of a block is its newest.
            let newest: BTreeMap<u8, Version> = unpack(bytes)?.into_iter().collect();
            for (index, version) in newest {
                if let Place::Data { segment, offset, crc } = version.place {
                    let block = group * GROUP_BLOCKS + u64::from(index);
                    placed.push(Placed { segment, offset, crc, block, stamp: version.stamp });
                }
            }
            Ok(true)
        })?;
        Ok((placed, next))
    }

    fn scrub_part(&self, slot: &Slot, part: &[Placed], step: &mut ScrubStep) -> Result<()> {
        let (Some(first), Some(last)) = (part.first(), part.last()) else { return Ok(()) };
        let mut buffer = vec![0; (last.offset - first.offset) as usize + BLOCK];
        // Where the whole cannot be read, each block is: one bad sector must not condemn its neighbours.
        let whole = self.log.read(first.segment, first.offset, &mut buffer).is_ok();
        for placed in part {
            let at = (placed.offset - first.offset) as usize;
            let bytes = &mut buffer[at..at + BLOCK];
            let read = whole || self.log.read(placed.segment, placed.offset, bytes).is_ok();
            step.bytes += BLOCK as u64;
            if (!read || crc32c::crc32c(bytes) != placed.crc) && self.is_current(slot, placed)? {
                step.damaged.push((slot.key, placed.block, placed.stamp));
            }
        }
        Ok(())
    }

    /// Whether the block's current bytes lie there still: it may have been written, trimmed, repaired or moved.
    fn is_current(&self, slot: &Slot, placed: &Placed) -> Result<bool> {
        let current = self.current_versions(slot, placed.block, 1)?;
        let Placed { segment, offset, crc, stamp, .. } = *placed;
        Ok(current[0] == Version { stamp, place: Place::Data { segment, offset, crc } })
    }

    fn scrub_index(&self, page: u64, budget_bytes: usize) -> Result<ScrubStep> {
        let file = self.index.file();
        let pages = file.pages();
        let end = page.saturating_add((budget_bytes / PAGE_BYTES).max(1) as u64).min(pages);
        if let Err(error) = file.verify(page..end) {
            return Err(self.fail(Operation::Index, error.to_string()));
        }
        let next = (end < pages).then_some(ScrubCursor { page: Some(end), ..ScrubCursor::default() });
        Ok(ScrubStep { bytes: end.saturating_sub(page) * PAGE_BYTES as u64, damaged: Vec::new(), next })
    }

    /// How far scrubbing had come, and which damage was known; nothing if it was never noted, or the note did not survive.
    pub fn load_scrub_note(&self) -> Option<(ScrubNote, Vec<(SlotKey, u64)>)> {
        let file = self.disk.open(NOTE_NAME).ok()?;
        let mut bytes = vec![0; file.size().ok()?.min(NOTE_BYTES_MAX) as usize];
        file.read_at(&mut bytes, 0).ok()?;
        let (crc, row) = bytes.split_first_chunk::<4>()?;
        if crc32c::crc32c(row).to_le_bytes() != *crc {
            return None;
        }
        let first = || Some((decode_row("scrub", row).ok()?, Vec::new()));
        decode_row("scrub", row).ok().or_else(first)
    }

    /// Notes how far scrubbing has come, and the damaged blocks that are known. A power loss may take the note, and then
    /// a pass begins anew.
    pub fn save_scrub_note(&self, note: &ScrubNote, damaged: &[(SlotKey, u64)]) -> io::Result<()> {
        let row = encode_row(&(note, damaged));
        let crc = crc32c::crc32c(&row).to_le_bytes();
        let file = match self.disk.open(NOTE_NAME) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.disk.create(NOTE_NAME)?,
            other => other?,
        };
        file.write_vectored_at(&mut [IoSlice::new(&crc), IoSlice::new(&row)], 0)?;
        file.set_len((crc.len() + row.len()) as u64)
    }

    /// Whether the block's current bytes are whole again, or needed no more. Damage is an answer here, not an error.
    pub fn is_whole(&self, key: SlotKey, block: u64) -> Result<bool> {
        match self.read(key, block, 1) {
            Ok(_) | Err(StoreError::UnknownSlot(_)) => Ok(true),
            Err(StoreError::BadBlock { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Cuts neighbours into pieces of one read each.
fn parts(run: &[Placed]) -> Vec<&[Placed]> {
    let (mut parts, mut from) = (Vec::new(), 0);
    for (index, placed) in run.iter().enumerate() {
        if placed.offset - run[from].offset >= READ_BYTES_MAX {
            parts.push(&run[from..index]);
            from = index;
        }
    }
    parts.push(&run[from..]);
    parts
}
