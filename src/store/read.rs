//! Reading: which version of each block is current, and its bytes, verified.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use bytes::Bytes;
use redb::ReadableTable;

use crate::base::block::{BLOCK_BYTES, VOLUME_BYTES_MAX};
use crate::base::id::{Seq, SlotKey, Stamp};
use crate::store::error::{Result, StoreError};
use crate::store::index::each_group;
use crate::store::keys::{BLOCKS, Entry, GROUP_BLOCKS, place_key, unpack};
use crate::store::silo::Silo;
use crate::store::slots::{Content, Slot};
use crate::store::version::{Place, Version};

/// The most stretches that one question about allocation is answered with; the asker comes again for the rest.
const STRETCHES_MAX: usize = 4096;
/// The most blocks that one question about allocation covers: 1 GiB, for which the answer is made in 8 MiB of memory.
const STATUS_BLOCKS_MAX: u64 = 1 << 18;
/// The most blocks of one read: 256 MiB, beyond what any interface asks for.
const READ_BLOCKS_MAX: u32 = 1 << 16;
/// The most blocks that are read at once: more take long enough for another thread to be worth waking.
const AT_ONCE_BLOCKS_MAX: u32 = 8;
const BLOCK: usize = BLOCK_BYTES as usize;

/// The bytes of neighbouring blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockRun {
    pub first_block: u64,
    /// 4096 bytes a block; zeroes where there is none.
    pub data: Bytes,
}

/// What a stretch of blocks holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocation {
    Data,
    /// Written with zeroes: exists, takes no space.
    Zero,
    /// Never written, or trimmed.
    Hole,
}

/// A place in the log whose bytes make some neighbouring blocks of the answer.
struct Piece {
    /// Index of the first block in the answer.
    first: usize,
    segment: u32,
    offset: u32,
    /// Of each block its checksum and stamp.
    blocks: Vec<(u32, Stamp)>,
}

impl Silo {
    /// The current bytes of `count` blocks. Every block is verified against its checksum; a bad one fails the whole read
    /// and is named, with the version it should be.
    pub fn read(&self, key: SlotKey, first_block: u64, count: u32) -> Result<BlockRun> {
        if count > READ_BLOCKS_MAX {
            return Err(StoreError::OutOfRange);
        }
        let slot = self.find(key)?;
        let data = self.read_current(
            || self.current_versions(&slot, first_block, count.into()),
            |versions| self.read_versions(first_block, versions),
        )?;
        Ok(BlockRun { first_block, data })
    }

    /// As [`Silo::read`], if that neither asks the disk nor waits for anybody; none if it might, or if something is wrong,
    /// which [`Silo::read`] tells.
    pub fn read_at_once(&self, key: SlotKey, first_block: u64, count: u32) -> Option<BlockRun> {
        if count > AT_ONCE_BLOCKS_MAX {
            return None;
        }
        let slot = self.find(key).ok()?;
        let versions = self.look_up_at_once(&slot, first_block, count.into())?;
        let mut data = vec![0; versions.len() * BLOCK];
        for piece in pieces(&versions) {
            let target = piece.target(&mut data);
            let read = self.log.read_at_once(piece.segment, piece.offset, target);
            if !read || piece.bad_block(target).is_some() {
                return None;
            }
        }
        Some(BlockRun { first_block, data: data.into() })
    }

    /// What the blocks hold, in order, without reading their data: `(blocks, what)`. May cover fewer blocks than asked
    /// for, but never none.
    pub fn status(&self, key: SlotKey, first_block: u64, count: u64) -> Result<Vec<(u64, Allocation)>> {
        let slot = self.find(key)?;
        let count = count.min(STATUS_BLOCKS_MAX);
        let mut stretches: Vec<(u64, Allocation)> = Vec::new();
        for version in self.current_versions(&slot, first_block, count)? {
            let what = match version.place {
                Place::Data { .. } => Allocation::Data,
                Place::Zero => Allocation::Zero,
                Place::Hole => Allocation::Hole,
            };
            let full = stretches.len() == STRETCHES_MAX;
            match stretches.last_mut() {
                Some((blocks, last)) if *last == what => *blocks += 1,
                _ if full => break,
                _ => stretches.push((1, what)),
            }
        }
        Ok(stretches)
    }

    /// Every block that exists, with its version and the checksum of its bytes: what replicas must agree on. Reads the
    /// whole index of the slot; for checks and tests.
    pub fn digest(&self, key: SlotKey) -> Result<BTreeMap<u64, (Stamp, u32)>> {
        let slot = self.find(key)?;
        let zeroes = crc32c::crc32c(&[0; BLOCK]);
        let (overlay, txn) = {
            let content = slot.read();
            (Overlaid::of(&content, 0..u64::MAX), self.index.read()?)
        };
        let mut newest: BTreeMap<u64, Version> = BTreeMap::new();
        let gathered = txn.open_table(BLOCKS).map_err(StoreError::from).and_then(|table| {
            each_group(&table, slot.number, 0..=u64::MAX, |group, bytes| {
                for (index, version) in unpack(bytes)? {
                    newest.insert(group * GROUP_BLOCKS + u64::from(index), version);
                }
                Ok(true)
            })
        });
        self.guard_read(gathered)?;
        newest.extend(overlay.versions);
        for (blocks, stamp) in overlay.trims {
            newest.extract_if(blocks, |_, version| version.stamp < stamp).for_each(drop);
        }
        let exists = newest.into_iter().filter_map(|(block, version)| match version.place {
            Place::Data { crc, .. } => Some((block, (version.stamp, crc))),
            Place::Zero => Some((block, (version.stamp, zeroes))),
            Place::Hole => None,
        });
        Ok(exists.collect())
    }

    /// The newest version of each block, trims applied.
    pub(crate) fn current_versions(&self, slot: &Slot, first: u64, count: u64) -> Result<Vec<Version>> {
        self.versions_as_of(slot, first, count).map(|(_, versions)| versions)
    }

    /// The same, with how far the slot's stream was applied at that moment.
    pub(crate) fn versions_as_of(&self, slot: &Slot, first: u64, count: u64) -> Result<(Seq, Vec<Version>)> {
        self.guard_read(self.look_up(slot, first, count))
    }

    fn look_up(&self, slot: &Slot, first: u64, count: u64) -> Result<(Seq, Vec<Version>)> {
        let end = first.checked_add(count).filter(|end| *end <= VOLUME_BYTES_MAX / BLOCK_BYTES);
        let blocks = first..end.ok_or(StoreError::OutOfRange)?;
        // The transaction begins under the lock: a version leaves the overlay only after the index has it.
        let (applied, overlay, commits, txn) = {
            let content = slot.read();
            let overlay = Overlaid::of(&content, blocks.clone());
            let whole = overlay.versions.len() as u64 == count;
            let commits = self.index.commits();
            (content.state.applied, overlay, commits, if whole { None } else { Some(self.index.read()?) })
        };
        let mut current = vec![Version::ABSENT; count as usize];
        if let Some(txn) = txn {
            let table = txn.open_table(BLOCKS)?;
            newest_indexed(&table, slot.number, &blocks, &mut current, |group, entries| {
                // A long read goes through many groups, most of them once.
                if count <= u64::from(AT_ONCE_BLOCKS_MAX) {
                    self.recent.keep(commits, slot.number, group, entries);
                }
            })?;
        }
        overlay.lay_over(first, &mut current);
        Ok((applied, current))
    }

    /// The newest versions as far as the memory has them all.
    fn look_up_at_once(&self, slot: &Slot, first: u64, count: u64) -> Option<Vec<Version>> {
        let blocks = first..first.checked_add(count)?;
        if blocks.is_empty() {
            return None;
        }
        // As with a transaction, under one lock: what a commit takes from the overlay is counted before it goes.
        let content = slot.try_read()?;
        let overlay = Overlaid::of(&content, blocks.clone());
        let mut current = vec![Version::ABSENT; count as usize];
        if (overlay.versions.len() as u64) < count {
            let commits = self.index.commits();
            for group in blocks.start / GROUP_BLOCKS..=(blocks.end - 1) / GROUP_BLOCKS {
                let known = self.recent.look_up(commits, slot.number, group, |(index, version)| {
                    let block = group * GROUP_BLOCKS + index as u64;
                    if blocks.contains(&block) {
                        current[(block - first) as usize] = *version;
                    }
                });
                if !known {
                    return None;
                }
            }
        }
        overlay.lay_over(first, &mut current);
        Some(current)
    }

    /// The version of a block with this stamp, if it holds data: the newest one, or one that is kept beneath it.
    pub(crate) fn version_with(&self, slot: &Slot, block: u64, stamp: Stamp) -> Result<Option<Version>> {
        let end = block.checked_add(1).ok_or(StoreError::OutOfRange)?;
        let is_it = |version: &Version| version.stamp == stamp && matches!(version.place, Place::Data { .. });
        let mut found = None;
        let txn = {
            let content = slot.read();
            // Of two places the later is the one that was mended.
            content.overlaid_versions(block..end, |_, version| found = Some(version).filter(is_it).or(found));
            self.index.read()
        };
        if found.is_some() {
            return Ok(found);
        }
        let (group, index) = (block / GROUP_BLOCKS, block % GROUP_BLOCKS);
        let gathered = txn.and_then(|txn| {
            let table = txn.open_table(BLOCKS)?;
            each_group(&table, slot.number, group..=group, |_, bytes| {
                let held = unpack(bytes)?.into_iter().filter(|(at, _)| u64::from(*at) == index);
                found = held.map(|(_, version)| version).find(is_it);
                Ok(true)
            })
        });
        self.guard_read(gathered)?;
        Ok(found)
    }

    /// Looks up where things lie and reads them; again if a segment was cleaned away in between, for then they lie
    /// elsewhere. A segment that is missing without that is damage.
    pub(crate) fn read_current<L: PartialEq, T>(
        &self,
        mut look_up: impl FnMut() -> Result<L>,
        mut read: impl FnMut(&L) -> std::result::Result<T, ReadError>,
    ) -> Result<T> {
        let mut last = None;
        loop {
            let found = look_up()?;
            match read(&found) {
                Ok(done) => return Ok(done),
                Err(ReadError::Store(error)) => return Err(error),
                Err(ReadError::Gone { block, stamp }) if last.as_ref() == Some(&found) => {
                    return Err(StoreError::BadBlock { block, stamp });
                }
                Err(ReadError::Gone { .. }) => last = Some(found),
            }
        }
    }

    /// The bytes of these versions of neighbouring blocks, one read for each piece of the log.
    pub(crate) fn read_versions(
        &self,
        first_block: u64,
        versions: &[Version],
    ) -> std::result::Result<Bytes, ReadError> {
        let mut data = vec![0; versions.len() * BLOCK];
        for piece in pieces(versions) {
            let target = piece.target(&mut data);
            self.read_piece(first_block + piece.first as u64, &piece, target)?;
        }
        Ok(data.into())
    }

    fn read_piece(&self, first_block: u64, piece: &Piece, target: &mut [u8]) -> std::result::Result<(), ReadError> {
        if let Err(error) = self.log.read(piece.segment, piece.offset, target) {
            if error.kind() == io::ErrorKind::NotFound {
                return Err(ReadError::Gone { block: first_block, stamp: piece.blocks[0].1 });
            }
            // One bad sector must not condemn its neighbours: find out which block it is.
            for (index, (_, stamp)) in piece.blocks.iter().enumerate() {
                let offset = piece.offset + (index * BLOCK) as u32;
                let read = self.log.read(piece.segment, offset, &mut target[index * BLOCK..(index + 1) * BLOCK]);
                read.map_err(|_| StoreError::BadBlock { block: first_block + index as u64, stamp: *stamp })?;
            }
        }
        match piece.bad_block(target) {
            Some((index, stamp)) => Err(StoreError::BadBlock { block: first_block + index as u64, stamp }.into()),
            None => Ok(()),
        }
    }
}

impl Piece {
    /// Where its bytes go in the answer.
    fn target<'a>(&self, data: &'a mut [u8]) -> &'a mut [u8] {
        &mut data[self.first * BLOCK..(self.first + self.blocks.len()) * BLOCK]
    }

    /// The first of its blocks of which these are not the bytes.
    fn bad_block(&self, bytes: &[u8]) -> Option<(usize, Stamp)> {
        let blocks = self.blocks.iter().zip(bytes.chunks_exact(BLOCK)).enumerate();
        blocks
            .filter(|(_, ((crc, _), bytes))| crc32c::crc32c(bytes) != *crc)
            .map(|(at, ((_, stamp), _))| (at, *stamp))
            .next()
    }
}

/// Why bytes could not be read.
pub(crate) enum ReadError {
    /// The segment is not there.
    Gone {
        block: u64,
        stamp: Stamp,
    },
    Store(StoreError),
}

impl From<StoreError> for ReadError {
    fn from(error: StoreError) -> Self {
        ReadError::Store(error)
    }
}

/// What the memory knows of a range, taken under the slot's lock.
pub(crate) struct Overlaid {
    pub(crate) versions: BTreeMap<u64, Version>,
    pub(crate) trims: Vec<(Range<u64>, Stamp)>,
}

impl Overlaid {
    pub(crate) fn of(content: &Content, blocks: Range<u64>) -> Self {
        let mut versions = BTreeMap::new();
        content.overlaid(blocks.clone(), |block, version| {
            versions.insert(block, version);
        });
        Self { versions, trims: content.trims.within(blocks).collect() }
    }

    /// Completes what the index has of the blocks from `first` on.
    fn lay_over(self, first: u64, current: &mut [Version]) {
        for (block, version) in self.versions {
            current[(block - first) as usize] = version;
        }
        for (trimmed, stamp) in self.trims {
            let hole = Version { stamp, place: Place::Hole };
            let covered = (trimmed.start - first) as usize..(trimmed.end - first) as usize;
            current[covered].iter_mut().filter(|version| version.stamp < stamp).for_each(|version| *version = hole);
        }
    }
}

/// Puts the newest version that the index has of each block in its place; `each` is shown the groups that it went through.
pub(crate) fn newest_indexed(
    table: &impl ReadableTable<&'static [u8; 12], &'static [u8]>,
    number: u32,
    blocks: &Range<u64>,
    current: &mut [Version],
    mut each: impl FnMut(u64, &[Entry]),
) -> Result<()> {
    let mut take = |group: u64, entries: Vec<Entry>| {
        each(group, &entries);
        // In order of block and stamp: the last one of a block is its newest.
        for (index, version) in entries {
            let block = group * GROUP_BLOCKS + u64::from(index);
            if blocks.contains(&block) {
                current[(block - blocks.start) as usize] = version;
            }
        }
    };
    if blocks.is_empty() {
        return Ok(());
    }
    let groups = blocks.start / GROUP_BLOCKS..=(blocks.end - 1) / GROUP_BLOCKS;
    if groups.start() == groups.end() {
        if let Some(value) = table.get(&place_key(number, *groups.start()))? {
            take(*groups.start(), unpack(value.value())?);
        }
        return Ok(());
    }
    each_group(table, number, groups, |group, bytes| {
        take(group, unpack(bytes)?);
        Ok(true)
    })
}

/// Joins blocks that lie side by side in the log.
fn pieces(versions: &[Version]) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    for (index, version) in versions.iter().enumerate() {
        let Place::Data { segment, offset, crc } = version.place else { continue };
        match pieces.last_mut() {
            Some(last)
                if last.segment == segment
                    && last.first + last.blocks.len() == index
                    && last.offset as usize + last.blocks.len() * BLOCK == offset as usize =>
            {
                last.blocks.push((crc, version.stamp));
            }
            _ => pieces.push(Piece { first: index, segment, offset, blocks: vec![(crc, version.stamp)] }),
        }
    }
    pieces
}
