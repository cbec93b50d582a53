//! What can go wrong in a silo, so that a caller knows whether to repair a block, answer "no space" or give up.

use std::fmt;
use std::io;

use crate::base::id::{SiloId, SlotKey, Stamp};
use crate::base::record::RecordError;

/// Why a silo could not do what it was asked.
#[derive(Debug)]
pub enum StoreError {
    /// Another process, or another handle of this one, holds the silo.
    Locked,
    /// The directory holds no silo.
    NotFormatted,
    /// Formatting was begun and not finished; nothing was stored yet, and formatting again is safe.
    HalfFormatted,
    /// The directory holds a silo already.
    AlreadyFormatted(SiloId),
    /// The directory holds a file that is not the store's; nothing is ever formatted over it.
    Foreign(String),
    /// Written by a newer Infinit.
    Newer { found: u32, known: u32 },
    /// A file of the silo is not what it must be.
    Damaged(Damage),
    /// The silo's hard limit, or the disk, is reached. Nothing was written.
    NoSpace,
    /// A write or a sync failed earlier: final for this silo, across restarts too.
    Faulted(Fault),
    /// The slot has no state here: it is created by its first commit.
    UnknownSlot(SlotKey),
    /// The record cannot be stored as it is; nothing of its batch was written.
    BadRecord(RecordError),
    /// The record or the range lies beyond what a volume can be.
    OutOfRange,
    /// The stored bytes of this block do not match their checksum, or cannot be read.
    BadBlock { block: u64, stamp: Stamp },
    /// The index could not be read or written.
    Index(redb::Error),
    /// The disk refused an operation that is not part of the log.
    Io { doing: &'static str, error: io::Error },
}

/// Which part of a silo is damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Damage {
    /// The superblock does not match its checksum, or is no superblock.
    Superblock,
    /// The index belongs to another silo.
    IndexOfAnother(SiloId),
    /// The index lacks a row, or holds one that does not decode; the text names the kind of row.
    IndexRow(&'static str),
    /// The index names a segment that is not there.
    SegmentMissing(u32),
    /// The index was cut, or holds bytes that redb refuses.
    Index(String),
}

/// Which operation failed for good, and what the system said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub operation: Operation,
    /// The operating system's words, for people.
    pub cause: String,
}

/// The operations whose failure is final.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Appending to a segment or making a new one.
    Write,
    /// Making a segment durable.
    Sync,
    /// A transaction of the index.
    Commit,
    /// Reading the index: a page is damaged, or could not be read.
    Index,
}

pub type Result<T, E = StoreError> = std::result::Result<T, E>;

impl StoreError {
    pub(crate) fn io(doing: &'static str) -> impl FnOnce(io::Error) -> StoreError {
        move |error| StoreError::Io { doing, error }
    }
}

impl Operation {
    /// The one word that stands for this operation in the silo's fault file.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Operation::Write => "write",
            Operation::Sync => "sync",
            Operation::Commit => "commit",
            Operation::Index => "index",
        }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::Locked => f.write_str("another process holds this silo"),
            StoreError::NotFormatted => f.write_str("there is no silo in this directory"),
            StoreError::HalfFormatted => f.write_str("this silo was being formatted when the machine stopped"),
            StoreError::AlreadyFormatted(id) => write!(f, "the directory holds silo {} already", id.short()),
            StoreError::Foreign(name) => write!(f, "the directory holds '{name}', which is not a silo's"),
            StoreError::Newer { found, known } => {
                write!(f, "the silo has format {found}, written by a newer Infinit; this one knows up to {known}")
            }
            StoreError::Damaged(damage) => write!(f, "the silo is damaged: {damage}"),
            StoreError::NoSpace => f.write_str("no space left in the silo"),
            StoreError::Faulted(fault) => write!(f, "the silo takes nothing since a {fault}"),
            StoreError::UnknownSlot(key) => {
                write!(f, "slot {} of volume {} is not on this silo", key.slot, key.volume.short())
            }
            StoreError::BadRecord(error) => write!(f, "a record was refused: {error}"),
            StoreError::OutOfRange => f.write_str("the range lies beyond the largest volume"),
            StoreError::BadBlock { block, stamp } => write!(f, "block {block} of version {stamp:?} is unreadable"),
            StoreError::Index(error) => write!(f, "the silo's index failed: {error}"),
            StoreError::Io { doing, error } => write!(f, "cannot {doing}: {}", crate::base::error::plain(error)),
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Damage::Superblock => f.write_str("its superblock does not match its checksum"),
            Damage::IndexOfAnother(id) => write!(f, "its index belongs to silo {}", id.short()),
            Damage::IndexRow(kind) => write!(f, "its index lacks a readable row of kind '{kind}'"),
            Damage::SegmentMissing(number) => write!(f, "segment {number} is missing"),
            Damage::Index(why) => write!(f, "its index cannot be opened: {why}"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.operation {
            Operation::Index => write!(f, "reading the index failed: {}", self.cause),
            operation => write!(f, "{} failed: {}", operation.word(), self.cause),
        }
    }
}

impl std::error::Error for StoreError {}

/// redb has an error type a call; all of them mean that the index could not be used.
macro_rules! from_redb {
    ($($error:ty),*) => {$(
        impl From<$error> for StoreError {
            fn from(error: $error) -> Self {
                StoreError::Index(error.into())
            }
        }
    )*};
}

from_redb!(redb::StorageError, redb::TableError, redb::TransactionError, redb::CommitError, redb::DatabaseError);
