//! All versions of 64 neighbouring blocks, unpacked to be changed.
//!
//! Cleaning unpacks one for every block that it looks at, and checkpoints one for nearly every block that was written at
//! random: so all versions lie in one piece of memory.

use std::ops::Range;

use crate::base::id::{Seq, Stamp};
use crate::store::error::Result;
use crate::store::keys::{Entry, GROUP_BLOCKS, pack, unpack};
use crate::store::version::{Place, Retention, Version};

/// Versions in order of block, then of stamp.
#[derive(Clone)]
pub(crate) struct Group {
    /// The index in the group of the block that each version is of.
    blocks: Vec<u8>,
    versions: Vec<Version>,
}

impl Group {
    pub(crate) fn empty() -> Self {
        Self { blocks: Vec::new(), versions: Vec::new() }
    }

    pub(crate) fn unpack(bytes: &[u8]) -> Result<Self> {
        let (blocks, versions) = unpack(bytes)?.into_iter().unzip();
        Ok(Self { blocks, versions })
    }

    /// The packed value, nothing if there is no version left.
    pub(crate) fn pack(&self) -> Option<Vec<u8>> {
        let entries: Vec<Entry> = self.blocks.iter().copied().zip(self.versions.iter().copied()).collect();
        (!entries.is_empty()).then(|| pack(&entries))
    }

    /// Adds a version of the block with this index; one with the same stamp takes the new place.
    pub(crate) fn insert(&mut self, index: usize, version: Version) {
        let held = self.range(index);
        let at = held.start + self.versions[held.clone()].partition_point(|other| other.stamp < version.stamp);
        match self.versions[..held.end].get_mut(at) {
            Some(same) if same.stamp == version.stamp => *same = version,
            _ => {
                // An index is less than 64.
                self.blocks.insert(at, index as u8);
                self.versions.insert(at, version);
            }
        }
    }

    /// Calls `changed` with -1 for each version that is not there afterwards, and with 1 for each that was not here before:
    /// for one that lies elsewhere with both.
    pub(crate) fn compare(&self, after: &Group, mut changed: impl FnMut(&Version, i64)) {
        let (mut here, mut there) = (self.keyed().peekable(), after.keyed().peekable());
        loop {
            match (here.peek(), there.peek()) {
                (Some((key, version)), Some((other_key, other))) if key == other_key => {
                    if version != other {
                        changed(version, -1);
                        changed(other, 1);
                    }
                    here.next();
                    there.next();
                }
                (Some((key, version)), other) if other.is_none_or(|(other_key, _)| key < other_key) => {
                    changed(version, -1);
                    here.next();
                }
                (_, Some((_, version))) => {
                    changed(version, 1);
                    there.next();
                }
                (_, None) => return,
            }
        }
    }

    fn keyed(&self) -> impl Iterator<Item = ((u8, Stamp), &Version)> {
        self.blocks.iter().zip(&self.versions).map(|(block, version)| ((*block, version.stamp), version))
    }

    /// Lets a version lie where it was copied to, if it still lies where it was copied from.
    pub(crate) fn relocate(&mut self, index: usize, from: Version, to: Place) {
        let held = self.range(index);
        if let Some(held) = self.versions[held].iter_mut().find(|held| **held == from) {
            held.place = to;
        }
    }

    /// The versions of the block with this index, oldest first.
    pub(crate) fn block(&self, index: usize) -> &[Version] {
        &self.versions[self.range(index)]
    }

    /// Drops what `keep` refuses, given the block's index.
    pub(crate) fn retain(&mut self, keep: impl Fn(usize, &Version) -> bool) {
        let kept =
            self.blocks.iter().zip(&self.versions).filter(|(block, version)| keep(usize::from(**block), version));
        (self.blocks, self.versions) = kept.map(|(block, version)| (*block, *version)).unzip();
    }

    /// The number that the watermark must pass for older versions of some block to go, or for the trim on top of it;
    /// nothing if none is waiting for it.
    pub(crate) fn unsettled(&self, retention: &Retention) -> Option<Seq> {
        let waits = |versions: &&[Version]| versions.len() > 1 || versions.iter().any(|v| !v.exists());
        let newest =
            self.each_block().map(|(_, versions)| versions).filter(waits).filter_map(|versions| versions.last());
        newest.map(|version| version.stamp.seq).filter(|seq| *seq > retention.committed).max()
    }

    /// Lets go of what nothing needs.
    pub(crate) fn prune(&mut self, retention: &Retention) {
        // Nearly always each block has one version, which stays.
        let single = self.blocks.windows(2).all(|pair| pair[0] != pair[1]);
        if single && self.versions.iter().all(Version::exists) {
            return;
        }
        let count = self.versions.len();
        let mut kept = Group { blocks: Vec::with_capacity(count), versions: Vec::with_capacity(count) };
        let mut versions = Vec::new();
        for (block, held) in self.each_block() {
            if let [version] = held
                && version.exists()
            {
                kept.blocks.push(block);
                kept.versions.push(*version);
                continue;
            }
            versions.extend_from_slice(held);
            retention.prune_all(&mut versions);
            kept.blocks.extend(std::iter::repeat_n(block, versions.len()));
            kept.versions.append(&mut versions);
        }
        *self = kept;
    }

    /// Where the versions of a block are.
    fn range(&self, index: usize) -> Range<usize> {
        debug_assert!(index < GROUP_BLOCKS as usize);
        let start = self.blocks.partition_point(|block| usize::from(*block) < index);
        let count = self.blocks[start..].iter().take_while(|block| usize::from(**block) == index).count();
        start..start + count
    }

    fn each_block(&self) -> impl Iterator<Item = (u8, &[Version])> {
        let mut rest = &self.versions[..];
        self.blocks.chunk_by(|block, next| block == next).map(move |same| {
            let (versions, later) = rest.split_at(same.len());
            rest = later;
            (same[0], versions)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::Epoch;

    fn at(seq: u64, segment: u32) -> Version {
        Version { stamp: Stamp::new(Epoch(1), Seq(seq)), place: Place::Data { segment, offset: 64, crc: 7 } }
    }

    fn group(versions: &[(usize, Version)]) -> Group {
        let mut group = Group::empty();
        versions.iter().for_each(|(index, version)| group.insert(*index, *version));
        group
    }

    #[test]
    fn versions_are_in_order_however_they_came() {
        let mixed = group(&[(9, at(5, 1)), (3, at(8, 1)), (9, at(2, 1)), (63, at(1, 1)), (3, at(8, 2)), (9, at(7, 1))]);
        assert_eq!((mixed.block(3), mixed.block(4).len()), (&[at(8, 2)][..], 0));
        assert_eq!(mixed.block(9), [at(2, 1), at(5, 1), at(7, 1)]);
        let again = Group::unpack(&mixed.pack().unwrap()).unwrap();
        assert_eq!((again.blocks, again.versions), (mixed.blocks.clone(), mixed.versions.clone()));
        let mut rest = mixed;
        rest.retain(|index, version| index == 9 && version.stamp.seq.0 > 2);
        assert_eq!((rest.block(9), rest.block(3).len(), rest.block(63).len()), (&[at(5, 1), at(7, 1)][..], 0, 0));
        let committed = |seq| Retention { committed: Seq(seq), incomplete: None, markers: [].into() };
        assert_eq!(rest.unsettled(&committed(6)), Some(Seq(7)));
        rest.prune(&committed(6));
        assert_eq!(rest.block(9).len(), 2);
        rest.prune(&committed(7));
        assert_eq!((rest.block(9), rest.unsettled(&committed(7))), (&[at(7, 1)][..], None));
    }

    #[test]
    fn exactly_what_differs_is_lost_and_gained() {
        let before = group(&[(1, at(1, 1)), (2, at(2, 1)), (2, at(4, 1)), (5, at(3, 1))]);
        let after = group(&[(0, at(9, 4)), (2, at(4, 1)), (2, at(6, 4)), (5, at(3, 2)), (7, at(8, 4))]);
        let mut changes = Vec::new();
        before.compare(&after, |version, by| changes.push((*version, by)));
        let (gained, lost): (Vec<_>, Vec<_>) = changes.into_iter().partition(|(_, by)| *by > 0);
        assert_eq!(lost, [at(1, 1), at(2, 1), at(3, 1)].map(|version| (version, -1)));
        assert_eq!(gained, [at(9, 4), at(6, 4), at(3, 2), at(8, 4)].map(|version| (version, 1)));
    }
}
