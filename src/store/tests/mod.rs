//! The store against toy models: what a slot holds is the fold of its history, nothing more.

mod basics;
mod cleaning;
mod crashes;
mod damage;
mod formats;
mod full;
mod measure;
mod opening;
mod overwrites;
mod scripts;
mod scrub;
mod three_silos;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::base::block::BLOCK_BYTES;
use crate::base::id::{Epoch, Incarnation, Seq, SiloId, SlotIndex, SlotKey, Stamp, VolumeId};
use crate::base::record::Record;
use crate::store::commit::{Change, SlotCommit};
use crate::store::error::Result;
use crate::store::faulty::FaultyDisk;
use crate::store::read::Allocation;
use crate::store::silo::{Silo, SiloOptions};
use crate::store::slot::SlotState;

pub(super) const SILO: SiloId = SiloId([8; 16]);
pub(super) const KEY: SlotKey = SlotKey { volume: VolumeId([1; 16]), slot: SlotIndex(0) };
/// Blocks that the tests write to: 8 extents.
pub(super) const BLOCKS: u64 = 2048;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Data,
    Zero,
    Trim,
}

/// One operation of a slot's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Op {
    pub stamp: Stamp,
    pub first: u64,
    pub count: u64,
    pub kind: Kind,
}

pub(super) fn stamp(epoch: u64, seq: u64) -> Stamp {
    Stamp::new(Epoch(epoch), Seq(seq))
}

/// The content of every block that this version writes.
pub(super) fn content(stamp: Stamp) -> Vec<u8> {
    let mut block = vec![stamp.seq.0 as u8; BLOCK_BYTES as usize];
    block[..8].copy_from_slice(&stamp.seq.0.to_le_bytes());
    block[8..16].copy_from_slice(&stamp.epoch.0.to_le_bytes());
    block
}

impl Op {
    pub fn record(&self) -> Record {
        let (position, length) = (self.first * BLOCK_BYTES, self.count * BLOCK_BYTES);
        match self.kind {
            Kind::Data => {
                let data: Bytes = content(self.stamp).repeat(self.count as usize).into();
                Record::write(KEY, position, self.stamp, data)
            }
            Kind::Zero => Record::zeroes(KEY, position, length, self.stamp),
            Kind::Trim => Record::trim(KEY, position, length, self.stamp),
        }
    }
}

/// What each block holds after a history.
pub(super) fn fold(history: &[Op]) -> BTreeMap<u64, (Stamp, Kind)> {
    let mut blocks = BTreeMap::new();
    for op in history {
        for block in op.first..op.first + op.count {
            match op.kind {
                Kind::Trim => blocks.remove(&block),
                kind => blocks.insert(block, (op.stamp, kind)),
            };
        }
    }
    blocks
}

/// Asserts that the slot holds exactly what the history says, as its digest tells.
pub(super) fn assert_holds(silo: &Silo, history: &[Op], what: &str) {
    let expected: BTreeMap<u64, (Stamp, u32)> = fold(history)
        .into_iter()
        .map(|(block, (stamp, kind))| {
            let bytes = if kind == Kind::Data { content(stamp) } else { vec![0; BLOCK_BYTES as usize] };
            (block, (stamp, crc32c::crc32c(&bytes)))
        })
        .collect();
    let digest = silo.digest(KEY).unwrap();
    if digest != expected {
        let blocks: std::collections::BTreeSet<u64> = digest.keys().chain(expected.keys()).copied().collect();
        let wrong = blocks.into_iter().filter(|block| digest.get(block) != expected.get(block)).take(8);
        let told: Vec<_> = wrong.map(|b| (b, digest.get(&b), expected.get(&b))).collect();
        panic!("{what}: (block, found, expected): {told:?}");
    }
}

/// Asserts that reading and asking for allocation agree with the history.
pub(super) fn assert_reads(silo: &Silo, history: &[Op], first: u64, count: u32, what: &str) {
    let blocks = fold(history);
    let run = silo.read(KEY, first, count).unwrap();
    let mut allocations = Vec::new();
    for (blocks, what) in silo.status(KEY, first, count.into()).unwrap() {
        allocations.extend(std::iter::repeat_n(what, blocks as usize));
    }
    assert_eq!(allocations.len(), count as usize);
    for (index, seen) in allocations.iter().enumerate() {
        let found = &run.data[index * BLOCK_BYTES as usize..(index + 1) * BLOCK_BYTES as usize];
        let (bytes, allocation) = match blocks.get(&(first + index as u64)) {
            Some((stamp, Kind::Data)) => (content(*stamp), Allocation::Data),
            Some((_, _)) => (vec![0; BLOCK_BYTES as usize], Allocation::Zero),
            None => (vec![0; BLOCK_BYTES as usize], Allocation::Hole),
        };
        assert!(found == bytes, "{what}: block {} reads wrong", first + index as u64);
        assert_eq!(*seen, allocation, "{what}: block {}", first + index as u64);
    }
}

/// Small segments and frequent checkpoints, so that tests cross many of them.
pub(super) fn options(incarnation: u64) -> SiloOptions {
    SiloOptions {
        segment_bytes: 512 << 10,
        index_cache_bytes: 1 << 20,
        checkpoint_log_bytes: 4 << 20,
        ..SiloOptions::new(1 << 40, Incarnation(incarnation), [1; 16])
    }
}

pub(super) fn open(disk: &FaultyDisk, incarnation: u64) -> Result<Silo> {
    Silo::open(Arc::new(disk.clone()), options(incarnation))
}

/// A formatted disk with an open silo that knows the slot, in epoch 1.
pub(super) fn fresh(seed: u64) -> (FaultyDisk, Silo) {
    let disk = FaultyDisk::new(seed);
    Silo::format(Arc::new(disk.clone()), SILO).unwrap();
    let silo = open(&disk, 1).unwrap();
    silo.commit(&[commit(SlotState { promise: Epoch(1), adopted: Epoch(1), ..SlotState::default() }, Change::Keep)])
        .unwrap();
    (disk, silo)
}

pub(super) fn commit(state: SlotState, change: Change) -> SlotCommit {
    SlotCommit { key: KEY, state, change }
}

/// A small deterministic generator: xorshift, which is enough to choose operations.
pub(super) struct Chooser(u64);

impl Chooser {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % bound
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// An operation somewhere in the tested blocks.
    pub fn op(&mut self, stamp: Stamp) -> Op {
        let (kind, most) = match self.below(10) {
            0 => (Kind::Zero, 32),
            1 => (Kind::Trim, 32),
            2 => (Kind::Trim, 1500),
            3 | 4 => (Kind::Data, 32),
            _ => (Kind::Data, 3),
        };
        let count = 1 + self.below(most);
        Op { stamp, first: self.below(BLOCKS - count), count, kind }
    }
}
