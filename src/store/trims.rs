//! Long trims: a range and a stamp each, O(1) to append however long, kept until the committed watermark has passed
//! them and a checkpoint has removed what they hide. Short ones are holes among the versions of their blocks.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::base::id::Stamp;
use crate::store::position::Position;

/// One pending trim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trim {
    pub(crate) stamp: Stamp,
    pub(crate) blocks: Range<u64>,
    /// Where its record begins in the log; `None` once the index has it.
    pub(crate) unsaved: Option<Position>,
}

/// The pending trims of a slot.
#[derive(Clone, Default)]
pub(crate) struct Trims {
    /// By stamp and first block; the value is the end and the record's place.
    list: BTreeMap<(Stamp, u64), (u64, Option<Position>)>,
    /// Which trim hides most, range by range without overlap: first block → (end, stamp).
    cover: BTreeMap<u64, (u64, Stamp)>,
}

impl Trims {
    pub(crate) fn insert(&mut self, trim: Trim) {
        let held = self.list.entry((trim.stamp, trim.blocks.start)).or_insert((trim.blocks.end, trim.unsaved));
        *held = (held.0.max(trim.blocks.end), trim.unsaved);
        self.cover(trim.blocks, trim.stamp);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Trim> + '_ {
        self.list.iter().map(|(&(stamp, first), &(end, unsaved))| Trim { stamp, blocks: first..end, unsaved })
    }

    /// Drops the trims that `keep` refuses.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&Trim) -> bool) {
        let before = self.list.len();
        self.list.retain(|&(stamp, first), &mut (end, unsaved)| keep(&Trim { stamp, blocks: first..end, unsaved }));
        if self.list.len() != before {
            self.rebuild();
        }
    }

    /// Notes that the index has the trims whose records lie before `end`.
    pub(crate) fn saved_before(&mut self, end: Position) {
        for (_, unsaved) in self.list.values_mut() {
            if unsaved.is_some_and(|at| at < end) {
                *unsaved = None;
            }
        }
    }

    /// A saved trim was carried out up to `first`: it is smaller or gone.
    pub(crate) fn shrink(&mut self, trim: &Trim, first: u64) {
        if self.list.remove(&(trim.stamp, trim.blocks.start)).is_some() && first < trim.blocks.end {
            self.list.insert((trim.stamp, first), (trim.blocks.end, None));
        }
        self.rebuild();
    }

    /// The pieces of `blocks` that are trimmed, with the stamp that counts there, in order.
    pub(crate) fn within(&self, blocks: Range<u64>) -> impl Iterator<Item = (Range<u64>, Stamp)> + '_ {
        let from = self.cover.range(..=blocks.start).next_back().map_or(blocks.start, |(first, _)| *first);
        self.cover.range(from..blocks.end.max(from)).filter_map(move |(&first, &(end, stamp))| {
            let piece = first.max(blocks.start)..end.min(blocks.end);
            (!piece.is_empty()).then_some((piece, stamp))
        })
    }

    fn rebuild(&mut self) {
        self.cover.clear();
        let all: Vec<_> = self.list.iter().map(|(&(stamp, first), &(end, _))| (first..end, stamp)).collect();
        for (blocks, stamp) in all {
            self.cover(blocks, stamp);
        }
    }

    /// Lets `stamp` count wherever nothing newer does.
    fn cover(&mut self, blocks: Range<u64>, stamp: Stamp) {
        let overlapping: Vec<(u64, u64, Stamp)> = {
            let from = self.cover.range(..=blocks.start).next_back().map_or(blocks.start, |(first, _)| *first);
            let near = self.cover.range(from..blocks.end).map(|(&first, &(end, stamp))| (first, end, stamp));
            near.filter(|(first, end, _)| *first < blocks.end && *end > blocks.start).collect()
        };
        let mut next = blocks.start;
        for (first, end, old) in overlapping {
            if old >= stamp {
                self.put(next, first, stamp);
                next = end;
                continue;
            }
            self.cover.remove(&first);
            self.put(first, blocks.start, old);
            self.put(blocks.end, end, old);
        }
        self.put(next, blocks.end, stamp);
    }

    fn put(&mut self, first: u64, end: u64, stamp: Stamp) {
        if first < end {
            self.cover.insert(first, (end, stamp));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::{Epoch, Seq};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_highest_stamp_counts_in_every_block(
            trims in prop::collection::vec((1u64..40, 0u64..60, 1u64..30), 0..25),
            dropped in 1u64..40,
        ) {
            let mut set = Trims::default();
            for &(seq, first, len) in &trims {
                let stamp = Stamp::new(Epoch(1), Seq(seq));
                set.insert(Trim { stamp, blocks: first..first + len, unsaved: None });
            }
            // One (stamp, first block) is one trim: of equal ones the longest counts.
            let mut list: BTreeMap<(u64, u64), u64> = BTreeMap::new();
            for &(seq, first, len) in &trims {
                let end = list.entry((seq, first)).or_default();
                *end = (*end).max(first + len);
            }
            for _ in 0..2 {
                let mut expected = vec![Stamp::ZERO; 100];
                for (&(seq, first), &end) in &list {
                    for block in first..end {
                        expected[block as usize] = expected[block as usize].max(Stamp::new(Epoch(1), Seq(seq)));
                    }
                }
                let mut seen = vec![Stamp::ZERO; 100];
                for (blocks, stamp) in set.within(0..100) {
                    for block in blocks { seen[block as usize] = stamp; }
                }
                prop_assert_eq!(&seen, &expected);
                for (blocks, stamp) in set.within(20..30) {
                    prop_assert!(blocks.start >= 20 && blocks.end <= 30 && expected[blocks.start as usize] == stamp);
                }
                list.retain(|(seq, _), _| *seq != dropped);
                set.retain(|trim| trim.stamp.seq.0 != dropped);
            }
        }
    }
}
