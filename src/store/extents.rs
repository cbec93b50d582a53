//! The highest version of each 1 MiB extent of a slot, so that catching up compares only what changed (rule 16 of the
//! protocol): 8 bytes a MiB, thus 8 MiB of RAM a TiB of written volume. Numbers only rise; one that is too high costs a
//! comparison, one that is too low would lose a block.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use crate::base::block::EXTENT_BLOCKS;
use crate::base::id::Seq;

/// Extents of one page, the unit that a checkpoint saves: 2 KiB, since redb doubles values from 4 KiB on.
pub(crate) const PAGE_EXTENTS: u64 = 256;
/// Bytes of a page as saved: the numbers, little-endian.
pub(crate) const PAGE_BYTES: usize = PAGE_EXTENTS as usize * 8;

struct Page {
    versions: Box<[u64; PAGE_EXTENTS as usize]>,
    changed: bool,
}

/// The extents of one slot.
#[derive(Default)]
pub(crate) struct Extents {
    pages: BTreeMap<u64, Page>,
}

impl Extents {
    /// Raises every extent that holds one of these blocks.
    pub(crate) fn raise_blocks(&mut self, first: u64, count: u64, seq: Seq) {
        if count > 0 {
            self.raise(first / EXTENT_BLOCKS..=(first + count - 1) / EXTENT_BLOCKS, seq);
        }
    }

    /// Raises these extents.
    pub(crate) fn raise(&mut self, extents: RangeInclusive<u64>, seq: Seq) {
        let (mut next, last) = extents.into_inner();
        while next <= last {
            let page = self.pages.entry(next / PAGE_EXTENTS).or_insert_with(Page::empty);
            let end = last.min(next / PAGE_EXTENTS * PAGE_EXTENTS + PAGE_EXTENTS - 1);
            let within = (next % PAGE_EXTENTS) as usize..=(end % PAGE_EXTENTS) as usize;
            for version in &mut page.versions[within] {
                if *version < seq.0 {
                    *version = seq.0;
                    page.changed = true;
                }
            }
            next = end + 1;
        }
    }

    /// The extents changed after `base`, in order.
    pub(crate) fn above(&self, base: Seq) -> impl Iterator<Item = u64> + '_ {
        self.above_from(base, 0)
    }

    /// The same from the page on that holds the extent `from`.
    pub(crate) fn above_from(&self, base: Seq, from: u64) -> impl Iterator<Item = u64> + '_ {
        self.pages.range(from / PAGE_EXTENTS..).flat_map(move |(page, content)| {
            let changed = content.versions.iter().enumerate().filter(move |(_, version)| **version > base.0);
            changed.map(move |(index, _)| page * PAGE_EXTENTS + index as u64)
        })
    }

    /// Takes over a saved page.
    pub(crate) fn load(&mut self, page: u64, bytes: &[u8; PAGE_BYTES]) {
        let mut loaded = Page::empty();
        for (version, raw) in loaded.versions.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *version = u64::from_le_bytes(*raw);
        }
        self.pages.insert(page, loaded);
    }

    /// What was taken to be saved was not.
    pub(crate) fn count_as_changed(&mut self) {
        self.pages.values_mut().for_each(|page| page.changed = true);
    }

    /// The pages changed since they were last saved; they count as saved from here on.
    pub(crate) fn take_changed(&mut self) -> Vec<(u64, Vec<u8>)> {
        let changed = self.pages.iter_mut().filter(|(_, page)| page.changed);
        changed
            .map(|(number, page)| {
                page.changed = false;
                (*number, page.versions.iter().flat_map(|version| version.to_le_bytes()).collect())
            })
            .collect()
    }
}

impl Page {
    fn empty() -> Self {
        Self { versions: Box::new([0; PAGE_EXTENTS as usize]), changed: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_rise_only_and_are_saved_page_by_page() {
        let mut extents = Extents::default();
        extents.raise_blocks(0, 1, Seq(5));
        extents.raise_blocks(EXTENT_BLOCKS - 1, 2, Seq(7));
        extents.raise(250..=600, Seq(3));
        extents.raise(1..=1, Seq(4));
        assert_eq!(extents.above(Seq(4)).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(extents.above(Seq(2)).count(), 2 + 351);
        let saved = extents.take_changed();
        assert_eq!(saved.iter().map(|(page, _)| *page).collect::<Vec<_>>(), [0, 1, 2]);
        assert!(extents.take_changed().is_empty());
        let mut loaded = Extents::default();
        for (page, bytes) in &saved {
            loaded.load(*page, bytes[..].try_into().unwrap());
        }
        assert_eq!(loaded.above(Seq(2)).collect::<Vec<_>>(), extents.above(Seq(2)).collect::<Vec<_>>());
        loaded.raise(600..=600, Seq(9));
        assert_eq!(loaded.take_changed().len(), 1);
    }
}
