//! All versions of 64 neighbouring blocks, unpacked to be changed.

use crate::store::error::Result;
use crate::store::keys::{Entry, GROUP_BLOCKS, pack, unpack};
use crate::store::version::{Retention, Version, insert};

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

    /// Lets go of what nothing needs.
    pub(crate) fn prune(&mut self, retention: &Retention) {
        self.blocks.iter_mut().for_each(|versions| retention.prune_all(versions));
    }
}
