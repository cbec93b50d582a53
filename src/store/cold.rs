//! Where cleaning puts what it keeps: segments of their own, outside the chain that is replayed.
//!
//! A copy counts only once the index refers to it, and the index does so only after it is durable. So a replay has no
//! business with copies, and they need no place in the log's order: a stop in the middle leaves bytes that nothing
//! refers to, in a segment that the next cleaning removes. Apart from the stream they delay no sync of the foreground,
//! the tail to replay stays short, and what has lived long lies with its like, so that segments of the stream empty
//! faster than if the two were mixed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::base::record::Record;
use crate::store::disk::{Caching, DiskFile};
use crate::store::error::Operation;
use crate::store::log::{Current, Log, LogError};
use crate::store::position::Position;
use crate::store::segment::{SEGMENT_HEADER_BYTES, entry_bytes};

/// Where copies go, and what appends need to know of it, which must not wait for the copies that are being written.
#[derive(Default)]
pub(crate) struct Cold {
    end: Mutex<ColdEnd>,
    /// The segments known to be outside the chain, with the blocks that were copied there in this life. Others are told
    /// from it by the checkpoint, which lies in it.
    segments: Mutex<BTreeMap<u32, Option<u32>>>,
    has_spare: AtomicBool,
    room_bytes: AtomicU64,
}

/// The end that copies are appended to. One thread cleans at a time, and holds it while it writes.
#[derive(Default)]
struct ColdEnd {
    current: Option<Current>,
    /// A segment made ahead, so that cleaning can begin on a full disk.
    spare: Option<Current>,
    /// Segments with copies that are not synced yet.
    unsynced: Vec<Arc<dyn DiskFile>>,
}

impl Log {
    /// Appends copies, as many as there is room for, and says where the entry of each of these begins; `NoSpace` if there is
    /// none for the first. `limit_bytes` bounds all segments together.
    pub(crate) fn append_copies(&self, copies: &[Record], limit_bytes: u64) -> Result<Vec<Position>, LogError> {
        let mut cold = self.cold();
        let mut places = Vec::with_capacity(copies.len());
        let mut rest = copies;
        while !rest.is_empty() {
            let fitting = self.fitting(cold.current.as_ref(), rest);
            if fitting == 0 {
                match self.roll_cold(&mut cold, &rest[0], limit_bytes) {
                    Err(LogError::NoSpace) if !places.is_empty() => break,
                    other => other?,
                }
                continue;
            }
            let (some, later) = rest.split_at(fitting);
            let ColdEnd { current: Some(current), unsynced, .. } = &mut *cold else { return Err(LogError::NoSpace) };
            if unsynced.last().is_none_or(|last| !Arc::ptr_eq(last, &current.file)) {
                unsynced.push(current.file.clone());
            }
            // Copies are no part of the log's order; they say nothing of how far it is durable.
            let written = self.write(current, some, Position(0), Caching::Keep, &(0..0), &mut places);
            written.map_err(|error| LogError::Failed(Operation::Write, error))?;
            self.cold.room_bytes.store(u64::from(current.room()), Ordering::Relaxed);
            // A segment has less than 2^32 bytes.
            let blocks: u64 = some.iter().map(|copy| copy.header.block_count()).sum();
            *self.cold_segments().entry(current.number).or_default().get_or_insert(0) += blocks as u32;
            rest = later;
        }
        Ok(places)
    }

    /// Goes on in the next segment, which must have room for this copy.
    fn roll_cold(&self, cold: &mut ColdEnd, copy: &Record, limit_bytes: u64) -> Result<(), LogError> {
        let next = match cold.spare.take() {
            Some(spare) => spare,
            None => self.make_cold(limit_bytes)?,
        };
        self.cold.has_spare.store(false, Ordering::Relaxed);
        if next.room() < entry_bytes(copy.len()) {
            return Err(LogError::TooLong);
        }
        cold.current = Some(next);
        Ok(())
    }

    /// Makes all copies durable.
    pub(crate) fn sync_copies(&self) -> Result<(), LogError> {
        let mut cold = self.cold();
        for file in &cold.unsynced {
            file.sync_data().map_err(|error| LogError::Failed(Operation::Sync, error))?;
        }
        cold.unsynced.clear();
        Ok(())
    }

    /// Makes the segment ahead that cleaning needs to begin with; false if there is no space for it.
    pub(crate) fn prepare_cold(&self, limit_bytes: u64) -> Result<bool, LogError> {
        let mut cold = self.cold();
        if cold.spare.is_some() {
            return Ok(true);
        }
        match self.make_cold(limit_bytes) {
            Ok(spare) => {
                cold.spare = Some(spare);
                self.cold.has_spare.store(true, Ordering::Relaxed);
                Ok(true)
            }
            Err(LogError::NoSpace) => Ok(false),
            Err(other) => Err(other),
        }
    }

    /// Whether the segment is one that copies are being appended to, or will be.
    pub(crate) fn is_cold_end(&self, number: u32) -> bool {
        let cold = self.cold();
        cold.current.iter().chain(&cold.spare).any(|segment| segment.number == number)
    }

    /// Whether no replay would read the segment, wherever the checkpoint is: appends may stand still for long while copies
    /// are written and become useless.
    pub(crate) fn is_cold(&self, number: u32) -> bool {
        self.cold_segments().contains_key(&number)
    }

    /// The blocks that were copied to a segment, if that was in this life.
    pub(crate) fn copies_in(&self, number: u32) -> Option<u32> {
        self.cold_segments().get(&number).copied().flatten()
    }

    /// Takes note of segments that lie behind the end of a log that was closed in order.
    pub(crate) fn know_cold(&self, numbers: impl Iterator<Item = u32>) {
        self.cold_segments().extend(numbers.map(|number| (number, None)));
    }

    pub(super) fn forget_cold(&self, number: u32) {
        self.cold_segments().remove(&number);
    }

    fn cold_segments(&self) -> MutexGuard<'_, BTreeMap<u32, Option<u32>>> {
        self.cold.segments.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether cleaning has a segment made ahead.
    pub(crate) fn has_cold_spare(&self) -> bool {
        self.cold.has_spare.load(Ordering::Relaxed)
    }

    /// Bytes left in the segment that copies are being appended to.
    pub(crate) fn cold_room_bytes(&self) -> u64 {
        self.cold.room_bytes.load(Ordering::Relaxed)
    }

    fn make_cold(&self, limit_bytes: u64) -> Result<Current, LogError> {
        let number = self.take_number();
        let file = self.make_segment(number, 0, limit_bytes)?;
        self.cold_segments().insert(number, Some(0));
        Ok(Current { number, file, offset: SEGMENT_HEADER_BYTES, bytes: self.segment_bytes() })
    }

    fn cold(&self) -> MutexGuard<'_, ColdEnd> {
        // As with the log's own end: a panic has ended the cleaning.
        self.cold.end.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
