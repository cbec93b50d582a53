//! The disk as an interface sees it: NBD today, iSCSI and the kernel later sit on this one trait.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;

/// Tells whether the connection a request came from still stands. A parked request of a dead connection must not be
/// executed: its client may have sent it again elsewhere (rule 5 of the protocol).
pub trait Origin: Send + Sync + 'static {
    fn stands(&self) -> bool;
}

/// An origin that always stands: a request of this process's own.
pub struct Local;

impl Origin for Local {
    fn stands(&self) -> bool {
        true
    }
}

/// What a stretch of the disk holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocation {
    Data,
    /// Allocated, and reads as zeroes.
    Zero,
    /// Not allocated; reads as zeroes.
    Hole,
}

/// A stretch of the disk with one allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    pub length: u64,
    pub allocation: Allocation,
}

/// Why a request was not done. Each interface maps these to its own codes, at its edge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IoError {
    /// The range does not lie within the disk.
    OutOfRange,
    NoSpace,
    ReadOnly,
    /// The volume is being detached or its writer was fenced.
    Shutdown,
    /// The connection of the request is gone; nobody waits for the answer.
    Abandoned,
    /// The policy says that I/O fails, not waits, when a majority is missing for so long.
    TimedOut,
    /// No silo could give these bytes.
    Unreadable(String),
}

impl fmt::Display for IoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IoError::OutOfRange => f.write_str("the range does not lie within the volume"),
            IoError::NoSpace => f.write_str("no majority of the slot's silos has space"),
            IoError::ReadOnly => f.write_str("the volume is attached read-only"),
            IoError::Shutdown => f.write_str("the volume is no longer attached here"),
            IoError::Abandoned => f.write_str("the client's connection is gone"),
            IoError::TimedOut => f.write_str("no majority of the slot's silos answered in time"),
            IoError::Unreadable(why) => write!(f, "no silo could give these bytes: {why}"),
        }
    }
}

impl std::error::Error for IoError {}

pub type IoResult<T> = Result<T, IoError>;

/// A disk of bytes. Any offset and length within the size are served; requests may complete out of order, and two
/// that overlap are carried out one after the other.
pub trait Device: Send + Sync + 'static {
    /// Bytes of the disk.
    fn size(&self) -> u64;
    fn read(&self, offset: u64, length: u32) -> BoxFuture<'_, IoResult<Bytes>>;
    /// `fua`: answered only once this write is durable.
    fn write(&self, offset: u64, data: Bytes, fua: bool, origin: Arc<dyn Origin>) -> BoxFuture<'_, IoResult<()>>;
    /// Every write answered before this call is durable once it returns.
    fn flush(&self) -> BoxFuture<'_, IoResult<()>>;
    /// The range reads as zeroes; `keep` leaves it allocated.
    fn zero(
        &self,
        offset: u64,
        length: u64,
        keep: bool,
        fua: bool,
        origin: Arc<dyn Origin>,
    ) -> BoxFuture<'_, IoResult<()>>;
    /// The range's space is given back; it reads as zeroes.
    fn trim(&self, offset: u64, length: u64, fua: bool, origin: Arc<dyn Origin>) -> BoxFuture<'_, IoResult<()>>;
    /// The allocation of the range, in order; may end early, but never empty.
    fn status(&self, offset: u64, length: u64) -> BoxFuture<'_, IoResult<Vec<Extent>>>;
}
