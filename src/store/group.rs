//! All versions of 64 neighbouring blocks, unpacked to be changed.

use crate::base::id::Seq;
use crate::store::error::Result;
use crate::store::keys::{Entry, GROUP_BLOCKS, pack, unpack};
use crate::store::version::{Place, Retention, Version, insert};

#[derive(Clone)]
pub(crate) struct Group {
    blocks: Vec<Vec<Version>>,
}

impl Group {
    pub(crate) fn empty() -> Self {
        Self { blocks: vec![Vec::new(); GROUP_BLOCKS as usize] }
    }

    pub(crate) fn unpack(bytes: &[u8]) -> Result<Self> {
        let mut group = Self::empty();
        for (block, version) in unpack(bytes)? {
            group.blocks[usize::from(block)].push(version);
        }
        Ok(group)
    }

    /// The packed value, nothing if there is no version left.
    pub(crate) fn pack(&self) -> Option<Vec<u8>> {
        let entries: Vec<Entry> =
            (0u8..).zip(&self.blocks).flat_map(|(block, versions)| versions.iter().map(move |v| (block, *v))).collect();
        (!entries.is_empty()).then(|| pack(&entries))
    }

    /// Adds a version of the block with this index; one with the same stamp takes the new place.
    pub(crate) fn insert(&mut self, index: usize, version: Version) {
        insert(&mut self.blocks[index], version);
    }

    /// All versions.
    pub(crate) fn versions(&self) -> impl Iterator<Item = &Version> {
        self.blocks.iter().flatten()
    }

    /// Lets a version lie where it was copied to, if it still lies where it was copied from.
    pub(crate) fn relocate(&mut self, index: usize, from: Version, to: Place) {
        if let Some(held) = self.blocks[index].iter_mut().find(|held| **held == from) {
            held.place = to;
        }
    }

    /// The versions of the block with this index, oldest first.
    pub(crate) fn block(&self, index: usize) -> &[Version] {
        &self.blocks[index]
    }

    /// Drops what `keep` refuses, given the block's index.
    pub(crate) fn retain(&mut self, keep: impl Fn(usize, &Version) -> bool) {
        for (index, versions) in self.blocks.iter_mut().enumerate() {
            versions.retain(|version| keep(index, version));
        }
    }

    /// The number that the watermark must pass for older versions of some block to go, or for the trim on top of it;
    /// nothing if none is waiting for it.
    pub(crate) fn unsettled(&self, retention: &Retention) -> Option<Seq> {
        let waits = |versions: &&Vec<Version>| versions.len() > 1 || versions.iter().any(|v| !v.exists());
        let newest = self.blocks.iter().filter(waits).filter_map(|versions| versions.last());
        newest.map(|version| version.stamp.seq).filter(|seq| *seq > retention.committed).max()
    }

    /// Lets go of what nothing needs.
    pub(crate) fn prune(&mut self, retention: &Retention) {
        self.blocks.iter_mut().for_each(|versions| retention.prune_all(versions));
    }
}
