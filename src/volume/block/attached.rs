//! An attached block volume as a [`Device`]: requests are cut at slots and at a length, and handed to the writer.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::future::{BoxFuture, try_join_all};

use crate::base::block::BLOCK_BYTES;
use crate::cluster::replication::driver::DriverHandle;
use crate::cluster::replication::message::RunKind;
use crate::cluster::replication::writer::{Request, RequestError, Response, Stands};
use crate::volume::block::device::{Allocation, Device, Extent, IoError, IoResult, Origin};

/// Bytes read with one request to a silo: long reads are cut, so that their parts overlap in time.
const READ_BYTES_MAX: u64 = 256 << 10;
/// Blocks whose allocation is asked for at once.
const ALLOCATION_BLOCKS_MAX: u64 = 1 << 20;

/// A volume attached to this node.
#[derive(Clone)]
pub struct AttachedVolume {
    driver: DriverHandle,
    size_bytes: u64,
    slot_bytes: u64,
}

impl AttachedVolume {
    pub fn new(driver: DriverHandle, size_bytes: u64, slot_bytes: u64) -> Self {
        Self { driver, size_bytes, slot_bytes }
    }

    pub fn driver(&self) -> &DriverHandle {
        &self.driver
    }

    fn check(&self, offset: u64, length: u64) -> IoResult<()> {
        match offset.checked_add(length) {
            Some(end) if end <= self.size_bytes => Ok(()),
            _ => Err(IoError::OutOfRange),
        }
    }

    async fn done(&self, request: Request) -> IoResult<()> {
        self.driver.request(request).await.map(|_| ()).map_err(io_error)
    }

    async fn read_range(&self, offset: u64, length: u64) -> IoResult<Bytes> {
        self.check(offset, length)?;
        if length == 0 {
            return Ok(Bytes::new());
        }
        let start = offset / BLOCK_BYTES * BLOCK_BYTES;
        let end = (offset + length).next_multiple_of(BLOCK_BYTES);
        let parts = cut(start, end, READ_BYTES_MAX, self.slot_bytes);
        let mut read = try_join_all(parts.into_iter().map(|(at, len)| async move {
            let request = Request::Read { first_block: at / BLOCK_BYTES, blocks: (len / BLOCK_BYTES) as u32 };
            match self.driver.request(request).await.map_err(io_error)? {
                Response::Data(bytes) if bytes.len() as u64 == len => Ok(bytes),
                _ => Err(IoError::Unreadable("a silo answered with something else".to_owned())),
            }
        }))
        .await?;
        let skip = (offset - start) as usize;
        let whole = match read.len() {
            1 => read.remove(0),
            _ => {
                let mut whole = BytesMut::with_capacity((end - start) as usize);
                read.iter().for_each(|part| whole.extend_from_slice(part));
                whole.freeze()
            }
        };
        Ok(whole.slice(skip..skip + length as usize))
    }

    /// The parts of blocks at the ends of a range are written as zeroes; the whole blocks between are one request.
    async fn zero_range(&self, offset: u64, length: u64, keep: bool, fua: bool, stands: Stands) -> IoResult<()> {
        self.check(offset, length)?;
        let end = offset + length;
        let (inner_start, inner_end) = (offset.next_multiple_of(BLOCK_BYTES), end / BLOCK_BYTES * BLOCK_BYTES);
        let zeroes = |from: u64, to: u64| {
            let data = Bytes::from(vec![0; (to - from) as usize]);
            Request::Write { position: from, data, fua, stands: stands.clone() }
        };
        if inner_start >= inner_end {
            return if length == 0 { Ok(()) } else { self.done(zeroes(offset, end)).await };
        }
        let mut parts = Vec::new();
        if offset < inner_start {
            parts.push(zeroes(offset, inner_start));
        }
        let (position, length) = (inner_start, inner_end - inner_start);
        parts.push(if keep {
            Request::Zero { position, length, fua, stands: stands.clone() }
        } else {
            Request::Trim { position, length, fua, stands: stands.clone() }
        });
        if inner_end < end {
            parts.push(zeroes(inner_end, end));
        }
        try_join_all(parts.into_iter().map(|part| self.done(part))).await.map(|_| ())
    }

    async fn allocation(&self, offset: u64, length: u64) -> IoResult<Vec<Extent>> {
        self.check(offset, length)?;
        let start = offset / BLOCK_BYTES * BLOCK_BYTES;
        let end = (offset + length).next_multiple_of(BLOCK_BYTES);
        let mut extents: Vec<Extent> = Vec::new();
        let mut skip = offset - start;
        let mut left = length;
        for (at, len) in cut(start, end, ALLOCATION_BLOCKS_MAX * BLOCK_BYTES, self.slot_bytes).into_iter().take(1) {
            let request = Request::Allocation { first_block: at / BLOCK_BYTES, blocks: len / BLOCK_BYTES };
            let Response::Runs(runs) = self.driver.request(request).await.map_err(io_error)? else { continue };
            for run in runs {
                let allocation = match run.kind {
                    RunKind::Data => Allocation::Data,
                    RunKind::Zero => Allocation::Zero,
                    RunKind::Hole => Allocation::Hole,
                };
                let bytes = (run.blocks * BLOCK_BYTES - skip).min(left);
                skip = 0;
                left -= bytes;
                match extents.last_mut() {
                    Some(last) if last.allocation == allocation => last.length += bytes,
                    _ if bytes > 0 => extents.push(Extent { length: bytes, allocation }),
                    _ => {}
                }
            }
        }
        Ok(extents)
    }
}

impl Device for AttachedVolume {
    fn size(&self) -> u64 {
        self.size_bytes
    }

    fn read(&self, offset: u64, length: u32) -> BoxFuture<'_, IoResult<Bytes>> {
        Box::pin(self.read_range(offset, u64::from(length)))
    }

    fn write(&self, offset: u64, data: Bytes, fua: bool, origin: Arc<dyn Origin>) -> BoxFuture<'_, IoResult<()>> {
        Box::pin(async move {
            self.check(offset, data.len() as u64)?;
            if data.is_empty() {
                return Ok(());
            }
            self.done(Request::Write { position: offset, data, fua, stands: stands(origin) }).await
        })
    }

    fn flush(&self) -> BoxFuture<'_, IoResult<()>> {
        Box::pin(self.done(Request::Flush))
    }

    fn zero(
        &self,
        offset: u64,
        length: u64,
        keep: bool,
        fua: bool,
        origin: Arc<dyn Origin>,
    ) -> BoxFuture<'_, IoResult<()>> {
        Box::pin(self.zero_range(offset, length, keep, fua, stands(origin)))
    }

    /// Only whole blocks hold space that can be given back; the parts of blocks at the ends are zeroed.
    fn trim(&self, offset: u64, length: u64, fua: bool, origin: Arc<dyn Origin>) -> BoxFuture<'_, IoResult<()>> {
        Box::pin(self.zero_range(offset, length, false, fua, stands(origin)))
    }

    fn status(&self, offset: u64, length: u64) -> BoxFuture<'_, IoResult<Vec<Extent>>> {
        Box::pin(self.allocation(offset, length))
    }
}

fn stands(origin: Arc<dyn Origin>) -> Stands {
    Arc::new(move || origin.stands())
}

fn io_error(error: RequestError) -> IoError {
    match error {
        RequestError::NoSpace => IoError::NoSpace,
        RequestError::Abandoned => IoError::Abandoned,
        RequestError::Fenced => IoError::Shutdown,
        RequestError::TimedOut => IoError::TimedOut,
        RequestError::Unreadable => IoError::Unreadable("every copy of a block is damaged".to_owned()),
    }
}

/// Cuts `start..end` into pieces of at most `most` bytes, none across a slot's border.
fn cut(start: u64, end: u64, most: u64, slot_bytes: u64) -> Vec<(u64, u64)> {
    let mut parts = Vec::new();
    let mut at = start;
    while at < end {
        let slot_end = (at / slot_bytes + 1) * slot_bytes;
        let len = (end - at).min(most).min(slot_end - at);
        parts.push((at, len));
        at += len;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_at_slots_and_at_a_length() {
        assert_eq!(cut(0, 4096, 8192, 1 << 20), [(0, 4096)]);
        assert_eq!(cut(4096, 20480, 8192, 1 << 20), [(4096, 8192), (12288, 8192)]);
        assert_eq!(
            cut((1 << 20) - 4096, (1 << 20) + 4096, 1 << 20, 1 << 20),
            [((1 << 20) - 4096, 4096), (1 << 20, 4096)]
        );
    }
}
