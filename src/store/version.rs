//! The versions of one block: where each lies, which one is current, and which may go.
//!
//! Along one history stamps order the versions. A silo whose history forked off (a stale suffix) drops what is above
//! the fork and must find beneath it what was there before, so [`Retention`] keeps every version above the committed
//! watermark and the newest at or below it, and for each snapshot marker the newest that the snapshot sees.

use std::sync::Arc;

use crate::base::id::{Seq, Stamp};
use crate::base::mutant::{Mutant, on};
use crate::store::slot::{SlotState, Vote};

/// Where a version's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// 4096 bytes at this offset of this segment, with their CRC32C.
    Data { segment: u32, offset: u32, crc: u32 },
    /// The block exists and reads as zeroes.
    Zero,
    /// The block was trimmed: it does not exist from this version on.
    Hole,
}

/// One version of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) stamp: Stamp,
    pub(crate) place: Place,
}

impl Version {
    /// What a block is before anything was written to it.
    pub(crate) const ABSENT: Version = Version { stamp: Stamp::ZERO, place: Place::Hole };

    pub(crate) fn exists(&self) -> bool {
        self.place != Place::Hole
    }
}

/// The versions of a block, oldest first. Most blocks have one, which then needs no allocation.
#[derive(Clone, Debug)]
pub(crate) enum Versions {
    One(Version),
    Many(Vec<Version>),
}

impl Versions {
    pub(crate) fn as_slice(&self) -> &[Version] {
        match self {
            Versions::One(version) => std::slice::from_ref(version),
            Versions::Many(versions) => versions,
        }
    }

    pub(crate) fn newest(&self) -> Version {
        // Neither form is ever empty: versions are only added, and pruning keeps the newest.
        self.as_slice().last().copied().unwrap_or(Version::ABSENT)
    }

    /// Adds a version and lets those go that it makes superfluous.
    pub(crate) fn add(&mut self, version: Version, retention: &Retention) {
        let mut all = match self {
            Versions::One(one) if one.stamp == version.stamp => {
                *one = version;
                return;
            }
            Versions::One(one) => vec![*one],
            Versions::Many(many) => std::mem::take(many),
        };
        insert(&mut all, version);
        retention.prune(&mut all);
        *self = match all[..] {
            [one] => Versions::One(one),
            _ => Versions::Many(all),
        };
    }
}

/// Puts a version in its place; one with the same stamp is the same version and takes the new place.
pub(crate) fn insert(versions: &mut Vec<Version>, version: Version) {
    let at = versions.partition_point(|other| other.stamp < version.stamp);
    match versions.get_mut(at) {
        Some(same) if same.stamp == version.stamp => *same = version,
        _ => versions.insert(at, version),
    }
}

/// Which versions of a slot are still needed.
#[derive(Clone, Debug)]
pub(crate) struct Retention {
    /// Everything up to here is common to all histories.
    pub(crate) committed: Seq,
    /// While the slot is incomplete: how far its complete prefix goes, and the watermark of what lies above it.
    pub(crate) incomplete: Option<(Vote, Seq)>,
    /// The stamps of the snapshots, oldest first.
    pub(crate) markers: Arc<[Stamp]>,
}

impl Retention {
    /// The rule for a slot in this state; `live_committed` is the watermark of what an incomplete slot receives.
    pub(crate) fn of(state: &SlotState, live_committed: Seq, markers: Arc<[Stamp]>) -> Self {
        let committed = if on(Mutant::TombstoneBeforeLaggard) { Seq(u64::MAX) } else { state.committed };
        Self { committed, incomplete: state.incomplete.map(|vote| (vote, live_committed)), markers }
    }

    /// Lets go of the versions that nothing needs; the newest always stays.
    ///
    /// An incomplete slot has two zones that are judged apart: its complete prefix must stay as it is, since the slot
    /// votes with it, and above it lies what is being received.
    pub(crate) fn prune(&self, versions: &mut Vec<Version>) {
        if versions.len() < 2 {
            return;
        }
        let mut covered = false;
        let mut above_vote = true;
        let mut newer = None;
        let mut keep = vec![true; versions.len()];
        for (index, version) in versions.iter().enumerate().rev() {
            let mut limit = self.committed;
            if let Some((vote, live_committed)) = self.incomplete {
                if version.stamp > vote.stamp() {
                    limit = live_committed;
                } else {
                    limit = limit.min(vote.applied);
                    covered &= !above_vote;
                    above_vote = false;
                }
            }
            keep[index] = !covered || self.is_seen(version.stamp, newer);
            covered |= version.stamp.seq <= limit;
            newer = Some(version.stamp);
        }
        let mut keep = keep.into_iter();
        versions.retain(|_| keep.next().unwrap_or(true));
    }

    /// As [`Retention::prune`], for all versions that a block has: trims with nothing beneath them go as well. An
    /// incomplete slot keeps its trims, since older versions may still arrive beneath them.
    pub(crate) fn prune_all(&self, versions: &mut Vec<Version>) {
        self.prune(versions);
        if let Some(limit) = self.cleans_upto() {
            let superfluous = versions.iter().take_while(|v| v.place == Place::Hole && v.stamp.seq <= limit).count();
            versions.drain(..superfluous);
        }
    }

    /// Trims up to here may go once nothing lies beneath them; none of an incomplete slot may.
    fn cleans_upto(&self) -> Option<Seq> {
        match self.incomplete {
            None => Some(self.committed),
            Some((_, live_committed)) => on(Mutant::IncompleteCleansTombstone).then_some(live_committed),
        }
    }

    /// Whether trims up to the watermark may be carried out.
    pub(crate) fn may_clean(&self, trim: Stamp) -> bool {
        self.cleans_upto().is_some_and(|limit| trim.seq <= limit)
    }

    /// Whether a snapshot sees the version that `newer` replaced.
    fn is_seen(&self, stamp: Stamp, newer: Option<Stamp>) -> bool {
        let next = self.markers.partition_point(|marker| *marker < stamp);
        if on(Mutant::CleaningDropsSnapshotVersion) {
            return false;
        }
        self.markers.get(next).is_some_and(|marker| newer.is_none_or(|newer| *marker < newer))
    }
}

impl Vote {
    /// The highest stamp that this vote's history can hold.
    pub(crate) fn stamp(self) -> Stamp {
        Stamp::new(self.adopted, self.applied)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::Epoch;
    use crate::base::mutant::with;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    use std::collections::BTreeSet;

    fn at(epoch: u64, seq: u64) -> Version {
        Version { stamp: Stamp::new(Epoch(epoch), Seq(seq)), place: Place::Zero }
    }

    fn none() -> Arc<[Stamp]> {
        [].into()
    }

    fn pruned(retention: &Retention, versions: &[Version]) -> Vec<u64> {
        let mut versions = versions.to_vec();
        retention.prune(&mut versions);
        versions.iter().map(|v| v.stamp.seq.0).collect()
    }

    #[test]
    fn all_above_the_watermark_and_the_newest_below_stay() {
        let retention = Retention { committed: Seq(20), incomplete: None, markers: none() };
        assert_eq!(pruned(&retention, &[at(1, 5), at(1, 10), at(1, 20), at(1, 21), at(2, 22)]), [20, 21, 22]);
        assert_eq!(pruned(&retention, &[at(1, 5), at(1, 10)]), [10]);
        assert_eq!(pruned(&retention, &[at(1, 21), at(1, 22)]), [21, 22]);
    }

    #[test]
    fn a_marker_pins_the_version_it_sees() {
        let markers = [Stamp::new(Epoch(1), Seq(7)), Stamp::new(Epoch(1), Seq(8))];
        let retention = Retention { committed: Seq(99), incomplete: None, markers: markers.into() };
        assert_eq!(pruned(&retention, &[at(1, 5), at(1, 6), at(1, 9), at(1, 10)]), [6, 10]);
    }

    /// Prunes some versions of a block; whether each snapshot and the present still see what they saw before.
    fn pruning_hides_nothing(seed: u64) -> bool {
        let mut dice = StdRng::seed_from_u64(seed);
        let mut seqs = |most: usize| -> BTreeSet<u64> {
            (0..dice.random_range(0..=most)).map(|_| dice.random_range(1..40)).collect()
        };
        let mut versions: Vec<Version> = seqs(8).into_iter().map(|seq| at(1, seq)).collect();
        let markers: Arc<[Stamp]> = seqs(4).into_iter().map(|seq| Stamp::new(Epoch(1), Seq(seq))).collect();
        let committed = seqs(1).first().map_or(Seq::ZERO, |seq| Seq(*seq));
        let before = versions.clone();
        Retention { committed, incomplete: None, markers: markers.clone() }.prune(&mut versions);
        let sees = |versions: &[Version], upto: Stamp| versions.iter().rev().find(|v| v.stamp <= upto).copied();
        let present = Stamp::new(Epoch(2), Seq::ZERO);
        markers.iter().chain([&present]).all(|upto| sees(&before, *upto) == sees(&versions, *upto))
    }

    #[test]
    fn snapshots_see_the_same_whatever_is_cleaned() {
        assert!((1..=1000).all(pruning_hides_nothing));
        let dropped = || (1..=20).any(|seed| !pruning_hides_nothing(seed));
        assert!(with(Some(Mutant::CleaningDropsSnapshotVersion), dropped), "the deliberate bug is not found");
    }

    #[test]
    fn an_incomplete_slot_keeps_its_prefix_apart_from_what_it_receives() {
        let vote = Vote { adopted: Epoch(1), applied: Seq(15) };
        let retention = Retention { committed: Seq(10), incomplete: Some((vote, Seq(40))), markers: none() };
        let versions = [at(1, 3), at(1, 8), at(1, 12), at(2, 11), at(2, 30), at(2, 35), at(2, 41)];
        assert_eq!(pruned(&retention, &versions), [8, 12, 35, 41]);
    }

    #[test]
    fn trims_go_once_nothing_lies_beneath_them() {
        let hole = |epoch, seq| Version { place: Place::Hole, ..at(epoch, seq) };
        let retention = Retention { committed: Seq(20), incomplete: None, markers: none() };
        let mut versions = vec![at(1, 5), hole(1, 9)];
        retention.prune_all(&mut versions);
        assert!(versions.is_empty());
        let mut versions = vec![at(1, 5), hole(1, 21)];
        retention.prune_all(&mut versions);
        assert_eq!(versions.len(), 2);
    }

    #[test]
    fn versions_arriving_out_of_order_or_again_end_up_in_order() {
        let retention = Retention { committed: Seq(0), incomplete: None, markers: none() };
        let mut versions = Versions::One(at(1, 5));
        versions.add(at(1, 3), &retention);
        versions.add(Version { place: Place::Hole, ..at(1, 5) }, &retention);
        assert_eq!(versions.as_slice().iter().map(|v| v.stamp.seq.0).collect::<Vec<_>>(), [3, 5]);
        assert_eq!(versions.newest().place, Place::Hole);
    }
}
