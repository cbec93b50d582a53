//! Appending: records go to the log in one write, then into the overlay, where reads find them.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard};

use crate::base::block::VOLUME_BYTES_MAX;
use crate::base::id::SlotKey;
use crate::base::mutant::{Mutant, on};
use crate::base::record::{Record, RecordError, RecordKind};
use crate::store::disk::Caching;
use crate::store::error::{Result, StoreError};
use crate::store::keys::EPOCH_MAX;
use crate::store::position::Position;
use crate::store::silo::Silo;
use crate::store::slots::{Slot, placed_versions};
use crate::store::staging::{ExtentListing, Staging};
use crate::store::version::{Place, Version};

impl Silo {
    /// Appends a batch: one vectored write, two where it runs into the next segment. Once this returns, reads see it,
    /// and the death of the process loses nothing; [`Silo::sync`] makes it survive a power loss.
    ///
    /// A record of a slot's stream raises the slot's `applied`, also while the slot is incomplete. A record marked as
    /// transfer is staged and counts for nothing until a commit adopts it. The batch is taken whole or, with
    /// `NoSpace`, `UnknownSlot`, `BadRecord` and `OutOfRange`, not at all. Records of a slot come in its order.
    pub fn append(&self, records: &[Record]) -> Result<()> {
        self.append_with(records, Caching::Keep)
    }

    /// As [`Silo::append`], and says whether the records are likely to be read here.
    pub fn append_with(&self, records: &[Record], caching: Caching) -> Result<()> {
        self.check_fault()?;
        records.iter().try_for_each(check)?;
        if self.checkpoint_overdue() {
            self.checkpoint()?;
        }
        self.make_room(records.iter().map(|record| record.len() as u64).sum())?;
        let slots = self.slots_of(records)?;
        let _gates = lock_gates(slots.values())?;
        let places = self.write(records, caching)?;
        let mut added = 0;
        for (record, at) in records.iter().zip(places) {
            let Some(slot) = slots.get(&record.header.key()) else { continue };
            let mut content = slot.write();
            if record.header.transfer {
                content.stage(record, at);
            } else {
                added += content.apply(record, at);
            }
        }
        self.pending_versions.fetch_add(added, Ordering::Relaxed);
        if records.iter().any(|record| record.header.kind == RecordKind::Trim) {
            self.space.trimmed.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Makes everything appended before the call survive a power loss. May run beside appends.
    pub fn sync(&self) -> Result<()> {
        self.check_fault()?;
        self.sync_log()?;
        self.log.prepare(|| self.log_limit_bytes()).map_err(|error| self.log_failure(error))
    }

    /// Whether [`Silo::zero_ahead`] has something to do.
    pub fn zeroes_due(&self) -> bool {
        self.log.zeroes_due()
    }

    /// Makes the next small syncs cheaper, if there are any. May run beside appends and syncs.
    pub fn zero_ahead(&self) -> Result<()> {
        self.check_fault()?;
        self.log.zero_ahead().map_err(|error| self.log_failure(error))
    }

    /// Stores the bytes of blocks again whose stored ones turned out bad: `record` is a write with exactly the stamp and the
    /// bytes, by their checksum, that are indexed, read from another silo. Blocks that were written since are left alone.
    /// Returns how many were mended.
    pub fn repair(&self, record: &Record) -> Result<u64> {
        self.check_fault()?;
        check(record)?;
        let record = record.clone().into_transfer();
        let slot = self.find(record.header.key())?;
        let _gates = lock_gates([&slot])?;
        let (first, count) = (record.header.first_block(), record.header.block_count());
        let current = self.current_versions(&slot, first, count)?;
        let any = on(Mutant::RepairFromOlder) || on(Mutant::AnyVersionForTheNamed);
        let matching = current.iter().any(|version| any || version.stamp == record.header.stamp);
        if record.header.kind != RecordKind::Write || !matching {
            return Ok(0);
        }
        // As a transfer the record is no part of the stream: a replay passes over it. If the machine stops before the
        // next checkpoint, the block is bad again and is mended again.
        let Some(at) = self.write(std::slice::from_ref(&record), Caching::Keep)?.pop() else { return Ok(0) };
        let mut mended = Vec::new();
        for (held, (block, version)) in current.iter().zip(placed_versions(&record, at)) {
            let crc_of = |place| if let Place::Data { crc, .. } = place { Some(crc) } else { None };
            let same = held.stamp == version.stamp && crc_of(held.place) == crc_of(version.place);
            if (any || same) && crc_of(held.place).is_some() {
                mended.push((block, Version { stamp: held.stamp, ..version }));
            }
        }
        let added = slot.write().add(mended.into_iter());
        self.pending_versions.fetch_add(added, Ordering::Relaxed);
        Ok(added)
    }

    /// Takes note, while catching up, of which blocks of an extent exist at the source.
    pub fn stage_listing(&self, key: SlotKey, listing: &ExtentListing) -> Result<()> {
        if listing.extent >= VOLUME_BYTES_MAX >> 20 {
            return Err(StoreError::OutOfRange);
        }
        self.find(key)?.write().staging.get_or_insert_with(Staging::default).list(listing);
        Ok(())
    }

    /// Forgets what was staged for a slot.
    pub fn discard_staging(&self, key: SlotKey) -> Result<()> {
        self.find(key)?.write().staging = None;
        Ok(())
    }

    pub(crate) fn sync_log(&self) -> Result<Position> {
        self.log.sync().map_err(|error| self.log_failure(error))
    }

    /// Writes to the log; the gates of the records' slots are held.
    pub(crate) fn write(&self, records: &[Record], caching: Caching) -> Result<Vec<Position>> {
        let written = self.log.append_with(records, || self.log_limit_bytes(), caching);
        let places = written.map_err(|error| self.log_failure(error))?;
        let bytes: usize = records.iter().map(Record::len).sum();
        self.pending_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.space.written(bytes as u64, self.options.segment_bytes);
        Ok(places)
    }

    fn slots_of(&self, records: &[Record]) -> Result<BTreeMap<SlotKey, Arc<Slot>>> {
        let mut slots = BTreeMap::new();
        for record in records {
            let key = record.header.key();
            if let Entry::Vacant(vacant) = slots.entry(key) {
                vacant.insert(self.find(key)?);
            }
        }
        Ok(slots)
    }
}

/// Takes the gates of slots in the order of their numbers; fails if one was forgotten meanwhile.
pub(crate) fn lock_gates<'a>(slots: impl IntoIterator<Item = &'a Arc<Slot>>) -> Result<Vec<MutexGuard<'a, ()>>> {
    let mut ordered: Vec<&Arc<Slot>> = slots.into_iter().collect();
    ordered.sort_by_key(|slot| slot.number);
    ordered.dedup_by_key(|slot| slot.number);
    let mut gates = Vec::with_capacity(ordered.len());
    for slot in ordered {
        gates.push(slot.gate());
        if slot.read().forgotten {
            return Err(StoreError::UnknownSlot(slot.key));
        }
    }
    Ok(gates)
}

/// Refuses what must never get into the log: a replay would end at a record with a bad checksum, and a range beyond any
/// volume would fill the memory.
fn check(record: &Record) -> Result<()> {
    let header = &record.header;
    if header.kind == RecordKind::Chunk {
        return Err(StoreError::BadRecord(RecordError::Kind(4)));
    }
    if header.position.saturating_add(header.length) > VOLUME_BYTES_MAX || header.stamp.epoch.0 > EPOCH_MAX {
        return Err(StoreError::OutOfRange);
    }
    record.verify().map_err(StoreError::BadRecord)
}
