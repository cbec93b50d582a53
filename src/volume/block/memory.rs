//! A device in memory: sparse, with a delay, held ranges and failures on demand. Tests of the interfaces run on it, and
//! it shows what an interface costs by itself.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::{self, BoxFuture};
use tokio::sync::watch;

use crate::base::block::BLOCK_BYTES;
use crate::volume::block::device::{Allocation, Device, Extent, IoError, IoResult, Origin};

/// Bytes of a piece of memory; each keeps the allocation of its blocks.
const PIECE_BYTES: u64 = 64 << 10;
const PIECE_BLOCKS: u64 = PIECE_BYTES / BLOCK_BYTES;

/// A disk in memory. Each request is carried out at one moment, so requests that overlap never mix.
pub struct Memory {
    size: u64,
    delay: Option<Duration>,
    pieces: RwLock<HashMap<u64, Piece>>,
    failures: Mutex<VecDeque<IoError>>,
    held: watch::Sender<Vec<Range<u64>>>,
    waiting: watch::Sender<usize>,
    flushes: AtomicU64,
    fua: AtomicU64,
}

/// One piece of the disk. A block is allocated, or a hole; an allocated one may be known to be zero.
struct Piece {
    bytes: Box<[u8]>,
    allocated: u16,
    data: u16,
}

/// A range whose requests wait until this is dropped.
pub struct Hold<'m> {
    memory: &'m Memory,
    range: Range<u64>,
}

impl Memory {
    /// An empty disk.
    pub fn new(size: u64) -> Self {
        Self {
            size,
            delay: None,
            pieces: RwLock::default(),
            failures: Mutex::default(),
            held: watch::Sender::new(Vec::new()),
            waiting: watch::Sender::new(0),
            flushes: AtomicU64::new(0),
            fua: AtomicU64::new(0),
        }
    }

    /// The same, but each request takes this long.
    pub fn delayed(mut self, delay: Duration) -> Self {
        self.delay = Some(delay);
        self
    }

    /// The next request fails so; several are used up one by one.
    pub fn fail_next(&self, error: IoError) {
        lock(&self.failures).push_back(error);
    }

    /// Requests that touch the range wait until the hold is dropped. Flushes are not held.
    pub fn hold(&self, range: Range<u64>) -> Hold<'_> {
        self.held.send_modify(|held| held.push(range.clone()));
        Hold { memory: self, range }
    }

    /// Returns once so many requests wait for holds.
    pub async fn waiting(&self, count: usize) {
        // The sender lives in `self`, so the channel cannot close.
        let _ = self.waiting.subscribe().wait_for(|waiting| *waiting == count).await;
    }

    /// How many requests wait for holds at this moment.
    pub fn waiting_now(&self) -> usize {
        *self.waiting.borrow()
    }

    /// How many flushes were done.
    pub fn flushes(&self) -> u64 {
        self.flushes.load(Ordering::Relaxed)
    }

    /// How many requests asked to be durable before their answer.
    pub fn fua(&self) -> u64 {
        self.fua.load(Ordering::Relaxed)
    }

    /// Carries out a request: waits as long as it must, then does it at one moment.
    fn run<'m, T: Send + 'm>(
        &'m self,
        range: Range<u64>,
        origin: Option<Arc<dyn Origin>>,
        work: impl FnOnce() -> T + Send + 'm,
    ) -> BoxFuture<'m, IoResult<T>> {
        if range.end > self.size || range.start > range.end {
            return Box::pin(future::ready(Err(IoError::OutOfRange)));
        }
        if let Some(error) = lock(&self.failures).pop_front() {
            return Box::pin(future::ready(Err(error)));
        }
        if self.delay.is_none() && !touches(&self.held.borrow(), &range) {
            return Box::pin(future::ready(Ok(work())));
        }
        Box::pin(async move {
            if let Some(delay) = self.delay {
                tokio::time::sleep(delay).await;
            }
            self.released(&range).await;
            if origin.is_some_and(|origin| !origin.stands()) {
                return Err(IoError::Abandoned);
            }
            Ok(work())
        })
    }

    async fn released(&self, range: &Range<u64>) {
        let mut held = self.held.subscribe();
        if touches(&held.borrow_and_update(), range) {
            let _waiting = Waiting::count(&self.waiting);
            // The sender lives in `self`, so the channel cannot close.
            let _ = held.wait_for(|held| !touches(held, range)).await;
        }
    }

    fn read_now(&self, offset: u64, length: u32) -> Bytes {
        let mut data = BytesMut::with_capacity(length as usize);
        let pieces = self.pieces();
        for (index, within) in parts(offset, length.into()) {
            match pieces.get(&index) {
                Some(piece) => data.extend_from_slice(&piece.bytes[within]),
                None => data.resize(data.len() + within.len(), 0),
            }
        }
        data.freeze()
    }

    fn write_now(&self, offset: u64, data: &[u8]) {
        let mut pieces = self.pieces_mut();
        let mut rest = data;
        for (index, within) in parts(offset, data.len() as u64) {
            let piece = pieces.entry(index).or_insert_with(Piece::hole);
            let (now, later) = rest.split_at(within.len());
            let blocks = block_bits(&within, Touched::InPart);
            piece.allocated |= blocks;
            piece.data |= blocks;
            piece.bytes[within].copy_from_slice(now);
            rest = later;
        }
    }

    /// Zeroes the range. Blocks that lie in it entirely become zero (`keep`) or holes.
    fn zero_now(&self, offset: u64, length: u64, keep: bool) {
        let mut pieces = self.pieces_mut();
        for (index, within) in parts(offset, length) {
            if !keep && within.len() as u64 == PIECE_BYTES {
                pieces.remove(&index);
                continue;
            }
            if !keep && !pieces.contains_key(&index) {
                continue;
            }
            let piece = pieces.entry(index).or_insert_with(Piece::hole);
            let whole = block_bits(&within, Touched::Entirely);
            piece.data &= !whole;
            if keep {
                piece.allocated |= block_bits(&within, Touched::InPart);
            } else {
                piece.allocated &= !whole;
            }
            piece.bytes[within].fill(0);
        }
    }

    fn status_now(&self, offset: u64, length: u64) -> Vec<Extent> {
        let pieces = self.pieces();
        let mut extents: Vec<Extent> = Vec::new();
        let (mut at, end) = (offset, offset + length);
        while at < end {
            let (allocation, stretch_end) = match pieces.get(&(at / PIECE_BYTES)) {
                Some(piece) => (piece.allocation(at % PIECE_BYTES / BLOCK_BYTES), (at / BLOCK_BYTES + 1) * BLOCK_BYTES),
                None => (Allocation::Hole, (at / PIECE_BYTES + 1) * PIECE_BYTES),
            };
            let stretch = stretch_end.min(end) - at;
            match extents.last_mut() {
                Some(last) if last.allocation == allocation => last.length += stretch,
                _ => extents.push(Extent { length: stretch, allocation }),
            }
            at += stretch;
        }
        extents
    }

    fn count_fua(&self, fua: bool) {
        self.fua.fetch_add(fua.into(), Ordering::Relaxed);
    }

    fn pieces(&self) -> RwLockReadGuard<'_, HashMap<u64, Piece>> {
        self.pieces.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn pieces_mut(&self) -> RwLockWriteGuard<'_, HashMap<u64, Piece>> {
        self.pieces.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Device for Memory {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, offset: u64, length: u32) -> BoxFuture<'_, IoResult<Bytes>> {
        self.run(range(offset, length.into()), None, move || self.read_now(offset, length))
    }

    fn write(&self, offset: u64, data: Bytes, fua: bool, origin: Arc<dyn Origin>) -> BoxFuture<'_, IoResult<()>> {
        self.count_fua(fua);
        self.run(range(offset, data.len() as u64), Some(origin), move || self.write_now(offset, &data))
    }

    fn flush(&self) -> BoxFuture<'_, IoResult<()>> {
        self.run(0..0, None, || {
            self.flushes.fetch_add(1, Ordering::Relaxed);
        })
    }

    fn zero(
        &self,
        offset: u64,
        length: u64,
        keep: bool,
        fua: bool,
        origin: Arc<dyn Origin>,
    ) -> BoxFuture<'_, IoResult<()>> {
        self.count_fua(fua);
        self.run(range(offset, length), Some(origin), move || self.zero_now(offset, length, keep))
    }

    fn trim(&self, offset: u64, length: u64, fua: bool, origin: Arc<dyn Origin>) -> BoxFuture<'_, IoResult<()>> {
        self.count_fua(fua);
        self.run(range(offset, length), Some(origin), move || self.zero_now(offset, length, false))
    }

    fn status(&self, offset: u64, length: u64) -> BoxFuture<'_, IoResult<Vec<Extent>>> {
        self.run(range(offset, length), None, move || self.status_now(offset, length))
    }
}

impl Piece {
    fn hole() -> Self {
        Self { bytes: vec![0; PIECE_BYTES as usize].into(), allocated: 0, data: 0 }
    }

    fn allocation(&self, block: u64) -> Allocation {
        match (self.allocated >> block & 1, self.data >> block & 1) {
            (0, _) => Allocation::Hole,
            (_, 0) => Allocation::Zero,
            _ => Allocation::Data,
        }
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.memory.held.send_modify(|held| {
            if let Some(index) = held.iter().position(|range| *range == self.range) {
                held.swap_remove(index);
            }
        });
    }
}

/// A request that waits, for as long as it does.
struct Waiting<'w>(&'w watch::Sender<usize>);

impl<'w> Waiting<'w> {
    fn count(waiting: &'w watch::Sender<usize>) -> Self {
        waiting.send_modify(|count| *count += 1);
        Self(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Touched {
    InPart,
    Entirely,
}

/// A bit for each block of a piece that these bytes of it touch.
fn block_bits(within: &Range<usize>, touched: Touched) -> u16 {
    let block = BLOCK_BYTES as usize;
    let (first, end) = match touched {
        Touched::InPart => (within.start / block, within.end.div_ceil(block)),
        Touched::Entirely => (within.start.div_ceil(block), within.end / block),
    };
    (first..end).fold(0, |bits, block| bits | 1 << block)
}

/// The pieces that a range lies in, and which bytes of each.
fn parts(offset: u64, length: u64) -> impl Iterator<Item = (u64, Range<usize>)> {
    let end = offset + length;
    let pieces = if length == 0 { 0..0 } else { offset / PIECE_BYTES..end.div_ceil(PIECE_BYTES) };
    pieces.map(move |index| {
        let start = index * PIECE_BYTES;
        let within = |at: u64| (at.clamp(start, start + PIECE_BYTES) - start) as usize;
        (index, within(offset)..within(end))
    })
}

/// A range of the disk; one that wraps around ends before it starts, and is refused.
fn range(offset: u64, length: u64) -> Range<u64> {
    offset..offset.wrapping_add(length)
}

fn touches(held: &[Range<u64>], range: &Range<u64>) -> bool {
    held.iter().any(|held| held.start < range.end && range.start < held.end)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const _: () = assert!(PIECE_BLOCKS == u16::BITS as u64, "a piece has a bit a block");

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::volume::block::device::Local;

    const SIZE: usize = 300_000;

    #[derive(Clone, Debug)]
    enum Step {
        Write(Range<usize>, u8),
        Zero(Range<usize>, bool),
        Trim(Range<usize>),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let range = || (0..SIZE, 1usize..140_000).prop_map(|(start, length)| start..(start + length).min(SIZE));
        let step = prop_oneof![
            (range(), 1u8..).prop_map(|(range, byte)| Step::Write(range, byte)),
            (range(), any::<bool>()).prop_map(|(range, keep)| Step::Zero(range, keep)),
            range().prop_map(Step::Trim),
        ];
        prop::collection::vec(step, 1..12)
    }

    async fn apply(memory: &Memory, model: &mut [u8], step: Step) {
        let origin = || Arc::new(Local) as Arc<dyn Origin>;
        let at = |range: &Range<usize>| (range.start as u64, range.len() as u64);
        match step {
            Step::Write(range, byte) => {
                model[range.clone()].fill(byte);
                let data = Bytes::from(vec![byte; range.len()]);
                memory.write(range.start as u64, data, false, origin()).await.unwrap();
            }
            Step::Zero(range, keep) => {
                let (offset, length) = at(&range);
                model[range].fill(0);
                memory.zero(offset, length, keep, false, origin()).await.unwrap();
            }
            Step::Trim(range) => {
                let (offset, length) = at(&range);
                model[range].fill(0);
                memory.trim(offset, length, false, origin()).await.unwrap();
            }
        }
    }

    proptest! {
        #[test]
        fn it_reads_as_a_plain_array_and_only_zeroes_are_called_zero(steps in steps()) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let memory = Memory::new(SIZE as u64);
                let mut model = vec![0; SIZE];
                for step in steps {
                    apply(&memory, &mut model, step).await;
                }
                prop_assert_eq!(&memory.read(0, SIZE as u32).await.unwrap()[..], &model[..]);
                let mut at = 0;
                for extent in memory.status(0, SIZE as u64).await.unwrap() {
                    let end = at + extent.length as usize;
                    prop_assert!(extent.allocation == Allocation::Data || model[at..end].iter().all(|b| *b == 0));
                    at = end;
                }
                prop_assert_eq!(at, SIZE);
                Ok(())
            })?;
        }
    }

    #[tokio::test]
    async fn ranges_beyond_the_end_and_failures_on_demand_are_errors() {
        let memory = Memory::new(8192);
        assert_eq!(memory.read(8191, 2).await, Err(IoError::OutOfRange));
        assert_eq!(memory.trim(u64::MAX, 2, false, Arc::new(Local)).await, Err(IoError::OutOfRange));
        memory.fail_next(IoError::NoSpace);
        assert_eq!(memory.write(0, Bytes::from_static(b"x"), true, Arc::new(Local)).await, Err(IoError::NoSpace));
        assert_eq!(memory.read(0, 1).await, Ok(Bytes::from_static(&[0])));
        memory.flush().await.unwrap();
        assert_eq!((memory.flushes(), memory.fua()), (1, 1));
    }

    #[tokio::test]
    async fn a_held_request_waits_and_dies_with_its_connection() {
        struct Gone;
        impl Origin for Gone {
            fn stands(&self) -> bool {
                false
            }
        }
        let memory = Memory::new(8192);
        let hold = memory.hold(4096..8192);
        memory.write(0, Bytes::from_static(b"free"), false, Arc::new(Local)).await.unwrap();
        let standing = memory.write(4096, Bytes::from_static(b"kept"), false, Arc::new(Local));
        let gone = memory.write(5000, Bytes::from_static(b"lost"), false, Arc::new(Gone));
        let release = async {
            memory.waiting(2).await;
            drop(hold);
        };
        let (standing, gone, ()) = tokio::join!(standing, gone, release);
        assert_eq!((standing, gone), (Ok(()), Err(IoError::Abandoned)));
        assert_eq!(memory.read(4096, 4).await.unwrap(), "kept");
        assert_eq!(memory.read(5000, 4).await.unwrap(), Bytes::from_static(&[0; 4]));
    }
}
