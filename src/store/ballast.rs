//! Room for the index, kept ahead: redb cannot live through a write that lacks space, so it must never meet one.
//!
//! The index file is allocated whole whenever it grows, so that no page in it can lack space; and beside it lies a file
//! as large as its next growth, which makes way for it on a disk that is full. Until the file is there again the silo
//! takes no new writes, and what the grown index has free is for those that were promised.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::store::disk::{Disk, DiskFile, is_full};

pub(crate) const BALLAST_NAME: &str = "reserve";

/// redb doubles its file up to this, then grows by as much.
const GROWTH_BYTES_MAX: u64 = 4 << 30;
/// A transaction may need this much of a file that was just made.
const GROWTH_BYTES_MIN: u64 = 4 << 20;

/// What must be free beside the growth, so that others who write to the disk in the same moment do not take it.
const FREE_BYTES_SPARE: u64 = 4 << 20;

/// The file that keeps the room.
pub(crate) struct Ballast {
    disk: Arc<dyn Disk>,
    bytes: AtomicU64,
}

/// How much an index of this size grows by.
pub(crate) fn growth_bytes(index_bytes: u64) -> u64 {
    index_bytes.clamp(GROWTH_BYTES_MIN, GROWTH_BYTES_MAX)
}

impl Ballast {
    /// What an earlier life left.
    pub(crate) fn open(disk: Arc<dyn Disk>) -> io::Result<Self> {
        let bytes = match disk.open(BALLAST_NAME) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            other => other?.size()?,
        };
        Ok(Self { disk, bytes: AtomicU64::new(bytes) })
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Makes the file at least so long; false if there is no space.
    pub(crate) fn keep(&self, bytes: u64) -> io::Result<bool> {
        if self.bytes() >= bytes {
            return Ok(true);
        }
        let file = match self.disk.open(BALLAST_NAME) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.disk.create(BALLAST_NAME),
            other => other,
        };
        match file.and_then(|file| file.allocate(bytes)) {
            Ok(()) => {
                self.bytes.store(bytes, Ordering::Relaxed);
                Ok(true)
            }
            Err(error) if is_full(&error) => {
                // A part of it may have been allocated.
                self.bytes.store(0, Ordering::Relaxed);
                match self.disk.remove(BALLAST_NAME) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                    _ => Ok(false),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Whether an index of this size can grow, come what may.
    pub(crate) fn assures_growth(&self, index_bytes: u64) -> bool {
        let growth = growth_bytes(index_bytes);
        self.bytes() >= growth || self.disk.free_bytes().is_ok_and(|free| free >= growth + FREE_BYTES_SPARE)
    }

    /// Gives the room back.
    pub(crate) fn release(&self) -> io::Result<()> {
        if self.bytes.swap(0, Ordering::Relaxed) > 0 { self.disk.remove(BALLAST_NAME) } else { Ok(()) }
    }
}

/// Lets a file of the index grow to `len` bytes into the ballast's room, so that the two together take no more than before.
pub(crate) fn grow(file: &dyn DiskFile, ballast: Option<&Ballast>, len: u64) -> io::Result<()> {
    if let Some(ballast) = ballast {
        ballast.release()?;
    }
    file.allocate(len)
}
