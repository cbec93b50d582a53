//! Where cleaning puts what it keeps: segments of their own, outside the chain that is replayed.
//!
//! A copy counts only once the index refers to it, and the index does so only after it is durable. So a replay has no
//! business with copies, and they need no place in the log's order: a stop in the middle leaves bytes that nothing
//! refers to, in a segment that the next cleaning removes. Apart from the stream they delay no sync of the foreground,
//! the tail to replay stays short, and what has lived long lies with its like, so that segments of the stream empty
//! faster than if the two were mixed.

use std::sync::{Arc, MutexGuard, PoisonError};

use crate::base::record::Record;
use crate::store::disk::{Caching, DiskFile};
use crate::store::error::Operation;
use crate::store::log::{Current, Log, LogError};
use crate::store::position::Position;
use crate::store::segment::{SEGMENT_HEADER_BYTES, entry_bytes};

/// The end that copies are appended to.
#[derive(Default)]
pub(crate) struct Cold {
    current: Option<Current>,
    /// A segment made ahead, so that cleaning can begin on a full disk.
    spare: Option<Current>,
    /// Segments with copies that are not synced yet.
    unsynced: Vec<Arc<dyn DiskFile>>,
}

impl Log {
    /// Appends copies and says where the entry of each begins. `limit_bytes` bounds all segments together.
    pub(crate) fn append_copies(&self, copies: &[Record], limit_bytes: u64) -> Result<Vec<Position>, LogError> {
        let mut cold = self.cold();
        let mut places = Vec::with_capacity(copies.len());
        for copy in copies {
            let bytes = entry_bytes(copy.len());
            if cold.current.as_ref().is_none_or(|current| current.room() < bytes) {
                let next = match cold.spare.take() {
                    Some(spare) => spare,
                    None => self.make_cold(limit_bytes)?,
                };
                if next.room() < bytes {
                    return Err(LogError::TooLong);
                }
                cold.current = Some(next);
            }
            let Cold { current: Some(current), unsynced, .. } = &mut *cold else { return Err(LogError::NoSpace) };
            if unsynced.last().is_none_or(|last| !Arc::ptr_eq(last, &current.file)) {
                unsynced.push(current.file.clone());
            }
            // Copies are no part of the log's order; they say nothing of how far it is durable.
            let one = std::slice::from_ref(copy);
            let written = self.write(current, one, Position(0), Caching::Keep, &(0..0), &mut places);
            written.map_err(|error| LogError::Failed(Operation::Write, error))?;
        }
        Ok(places)
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

    /// Whether cleaning has a segment made ahead.
    pub(crate) fn has_cold_spare(&self) -> bool {
        self.cold().spare.is_some()
    }

    fn make_cold(&self, limit_bytes: u64) -> Result<Current, LogError> {
        let number = self.take_number();
        let file = self.make_segment(number, 0, limit_bytes)?;
        Ok(Current { number, file, offset: SEGMENT_HEADER_BYTES, bytes: self.segment_bytes() })
    }

    fn cold(&self) -> MutexGuard<'_, Cold> {
        // As with the log's own end: a panic has ended the cleaning.
        self.cold.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
