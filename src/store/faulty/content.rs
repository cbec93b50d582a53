//! One file of the faulty disk: what is seen, what is durable, and the changes in between.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, LazyLock};

const CHUNK_BYTES: u64 = 4096;
/// Disks write sectors whole; a write is torn between two of them.
const SECTOR_BYTES: usize = 512;

type Chunk = [u8; CHUNK_BYTES as usize];

/// All chunks of written zeroes are this one.
static ZEROES: LazyLock<Arc<Chunk>> = LazyLock::new(|| Arc::new([0; CHUNK_BYTES as usize]));

/// A small deterministic generator (SplitMix64): the disk must not depend on anything but its seed.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(super) fn coin(&mut self) -> bool {
        self.next() & 1 == 0
    }
}

/// Bytes, sparse: a chunk that is not there is zeroes. Cloning shares the chunks.
#[derive(Clone, Default)]
struct Content {
    len: u64,
    /// So much of it has its space, whether it was written or not.
    reserved_bytes: u64,
    chunks: BTreeMap<u64, Arc<Chunk>>,
}

impl Content {
    fn set_len(&mut self, len: u64) {
        if len < self.len {
            let _cut = self.chunks.split_off(&len.div_ceil(CHUNK_BYTES));
            let within = (len % CHUNK_BYTES) as usize;
            if within > 0
                && let Some(chunk) = self.chunks.get_mut(&(len / CHUNK_BYTES))
            {
                Arc::make_mut(chunk)[within..].fill(0);
            }
        }
        self.len = len;
        self.reserved_bytes = self.reserved_bytes.min(len);
    }

    fn reserve(&mut self, len: u64) {
        self.len = self.len.max(len);
        self.reserved_bytes = self.reserved_bytes.max(len);
    }

    fn write(&mut self, mut offset: u64, mut data: &[u8]) {
        if data.is_empty() {
            return;
        }
        self.len = self.len.max(offset + data.len() as u64);
        while !data.is_empty() {
            let within = (offset % CHUNK_BYTES) as usize;
            let (some, rest) = data.split_at(data.len().min(CHUNK_BYTES as usize - within));
            let number = offset / CHUNK_BYTES;
            if let Ok(whole) = <&Chunk>::try_from(some) {
                let chunk = if whole == &**ZEROES { ZEROES.clone() } else { Arc::new(*whole) };
                self.chunks.insert(number, chunk);
            } else {
                let chunk = self.chunks.entry(number).or_insert_with(|| ZEROES.clone());
                Arc::make_mut(chunk)[within..within + some.len()].copy_from_slice(some);
            }
            offset += some.len() as u64;
            data = rest;
        }
    }

    /// Takes the chunks that this range touches as they are in the other content.
    fn share(&mut self, offset: u64, len: u64, other: &Content) {
        if len == 0 {
            return;
        }
        self.len = self.len.max(offset + len);
        for number in offset / CHUNK_BYTES..(offset + len).div_ceil(CHUNK_BYTES) {
            match other.chunks.get(&number) {
                Some(chunk) => self.chunks.insert(number, chunk.clone()),
                None => self.chunks.remove(&number),
            };
        }
    }

    fn read(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        if offset + buffer.len() as u64 > self.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        while !buffer.is_empty() {
            let within = (offset % CHUNK_BYTES) as usize;
            let taken = buffer.len().min(CHUNK_BYTES as usize - within);
            let (some, rest) = buffer.split_at_mut(taken);
            match self.chunks.get(&(offset / CHUNK_BYTES)) {
                Some(chunk) => some.copy_from_slice(&chunk[within..within + taken]),
                None => some.fill(0),
            }
            offset += taken as u64;
            buffer = rest;
        }
        Ok(())
    }
}

enum Change {
    Write { offset: u64, data: Vec<u8> },
    Length(u64),
    Reserve(u64),
}

impl Change {
    fn apply(&self, content: &mut Content) {
        match self {
            Change::Write { offset, data } => content.write(*offset, data),
            Change::Length(len) => content.set_len(*len),
            Change::Reserve(len) => content.reserve(*len),
        }
    }
}

/// One file: what the processes see, what a power loss leaves, and the unsynced changes between them in order.
#[derive(Default)]
pub(super) struct Inode {
    seen: Content,
    durable: Content,
    unsynced: Vec<Change>,
    /// A sync failed: what is seen is more than what is durable and the changes since.
    diverged: bool,
}

impl Inode {
    /// What is seen, as if it had been synced.
    pub(super) fn copy(&self) -> Inode {
        let (seen, durable) = (self.seen.clone(), self.seen.clone());
        Inode { seen, durable, ..Inode::default() }
    }

    pub(super) fn len(&self) -> u64 {
        self.seen.len
    }

    pub(super) fn is_dirty(&self) -> bool {
        !self.unsynced.is_empty()
    }

    pub(super) fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.seen.read(buffer, offset)
    }

    pub(super) fn write(&mut self, offset: u64, data: Vec<u8>) {
        self.change(Change::Write { offset, data });
    }

    pub(super) fn set_len(&mut self, len: u64) {
        self.change(Change::Length(len));
    }

    pub(super) fn allocate(&mut self, len: u64) {
        self.change(Change::Reserve(len));
    }

    pub(super) fn sync(&mut self) {
        for change in self.unsynced.drain(..) {
            match change {
                // Whatever changed in these chunks becomes durable now, or with a change that follows.
                Change::Write { offset, data } if !self.diverged => {
                    self.durable.share(offset, data.len() as u64, &self.seen);
                }
                change => change.apply(&mut self.durable),
            }
        }
    }

    /// The pages count as clean from here on, but each reached the disk or did not.
    pub(super) fn fail_sync(&mut self, dice: &mut Dice) {
        self.diverged = true;
        for change in self.unsynced.drain(..) {
            if dice.coin() {
                change.apply(&mut self.durable);
            }
        }
    }

    /// What is seen is what is durable; everything was synced, or a sync of it failed.
    pub(super) fn forget_cache(&mut self) {
        self.diverged = false;
        self.seen = self.durable.clone();
    }

    /// Keeps, loses or tears each unsynced change.
    pub(super) fn lose_power(&mut self, dice: &mut Dice) {
        for change in self.unsynced.drain(..) {
            match (dice.below(3), change) {
                (0, _) => {}
                (1, change) => change.apply(&mut self.durable),
                (_, change @ (Change::Length(_) | Change::Reserve(_))) => change.apply(&mut self.durable),
                (_, Change::Write { offset, data }) => {
                    for (index, sector) in sectors(offset, &data) {
                        if dice.coin() {
                            self.durable.write(offset + index as u64, sector);
                        }
                    }
                }
            }
        }
        self.diverged = false;
        self.seen = self.durable.clone();
    }

    /// Loses each unsynced change.
    pub(super) fn lose_unsynced(&mut self) {
        self.unsynced.clear();
        self.diverged = false;
        self.seen = self.durable.clone();
    }

    pub(super) fn flip_bit(&mut self, byte: u64, bit: u8) -> bool {
        let mut flipped = false;
        for content in [&mut self.durable, &mut self.seen] {
            let mut value = [0];
            flipped = content.read(&mut value, byte).is_ok();
            if flipped {
                content.write(byte, &[value[0] ^ (1 << (bit % 8))]);
            }
        }
        flipped
    }

    /// Bytes this file takes on the disk.
    pub(super) fn allocated_bytes(&self) -> u64 {
        self.seen.reserved_bytes.max(self.seen.chunks.len() as u64 * CHUNK_BYTES)
    }

    /// Bytes that a write of this range would have to take from the free space.
    pub(super) fn missing_bytes(&self, offset: u64, len: u64) -> u64 {
        let unreserved = offset.max(self.seen.reserved_bytes)..offset + len;
        if unreserved.is_empty() {
            return 0;
        }
        let chunks = unreserved.start / CHUNK_BYTES..unreserved.end.div_ceil(CHUNK_BYTES);
        let there = self.seen.chunks.range(chunks.clone()).count() as u64;
        (chunks.end - chunks.start - there) * CHUNK_BYTES
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.seen);
        self.unsynced.push(change);
    }
}

/// The pieces of a write that lie in one sector of the disk each, with their place in the write.
fn sectors(offset: u64, data: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let first = (SECTOR_BYTES - (offset as usize % SECTOR_BYTES)).min(data.len());
    let (head, rest) = data.split_at(first);
    let tail = rest.chunks(SECTOR_BYTES).enumerate().map(move |(i, piece)| (first + i * SECTOR_BYTES, piece));
    std::iter::once((0, head)).chain(tail)
}
