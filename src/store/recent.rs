//! The groups of the index that were read last, so that reading there again needs neither the index nor a thread that
//! may wait for the disk.
//!
//! Remembered is the newest version of each block of a group, as one transaction saw it, with the number of commits
//! that were counted before that transaction began. It is believed as long as no more are counted. A commit is counted
//! once it is done and before anything that it moved leaves the overlay; until then a reader is like one whose
//! transaction began before the commit.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, TryLockError};

use crate::store::keys::{Entry, GROUP_BLOCKS};
use crate::store::version::Version;

/// Groups of each half, of some 2 KiB each: 256 MiB to 1 GiB that is read at random, in 16 MiB of memory at the most.
const GROUPS_MAX: usize = 4096;

/// The newest version of each block of a group.
type Newest = Box<[Version; GROUP_BLOCKS as usize]>;
/// A slot's number and a group's.
type Place = (u32, u64);

#[derive(Default)]
pub(crate) struct Recent {
    groups: Mutex<Groups>,
}

/// What is used moves to the younger half; when that is full it becomes the older one, whose rest is forgotten.
#[derive(Default)]
struct Groups {
    commits: u64,
    young: HashMap<Place, Newest>,
    old: HashMap<Place, Newest>,
}

impl Recent {
    /// Remembers a group, read by a transaction that began when so many commits were counted.
    pub(crate) fn keep(&self, commits: u64, slot: u32, group: u64, entries: &[Entry]) {
        let Some(mut groups) = self.at_once() else { return };
        if commits < groups.commits {
            return;
        }
        groups.advance_to(commits);
        let mut newest = Box::new([Version::ABSENT; GROUP_BLOCKS as usize]);
        // In order of block and stamp: the last one of a block is its newest.
        for (block, version) in entries {
            newest[usize::from(*block)] = *version;
        }
        groups.insert((slot, group), newest);
    }

    /// Gives each block of a group that is remembered to `each`; false if it is not, or somebody else is looking.
    pub(crate) fn look_up(&self, commits: u64, slot: u32, group: u64, each: impl FnMut((usize, &Version))) -> bool {
        let Some(mut groups) = self.at_once() else { return false };
        groups.advance_to(commits);
        match groups.find((slot, group)) {
            Some(newest) => newest.iter().enumerate().for_each(each),
            None => return false,
        }
        true
    }

    fn at_once(&self) -> Option<MutexGuard<'_, Groups>> {
        match self.groups.try_lock() {
            Ok(groups) => Some(groups),
            // Whoever panicked left a map that is whole.
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

impl Groups {
    fn advance_to(&mut self, commits: u64) {
        if self.commits < commits {
            *self = Self { commits, ..Self::default() };
        }
    }

    fn find(&mut self, place: Place) -> Option<&Newest> {
        if let Some(newest) = self.old.remove(&place) {
            self.insert(place, newest);
        }
        self.young.get(&place)
    }

    fn insert(&mut self, place: Place, newest: Newest) {
        if self.young.len() >= GROUPS_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(place, newest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::{Epoch, Seq, Stamp};

    fn entry(block: u8, seq: u64) -> Entry {
        (block, Version { stamp: Stamp::new(Epoch(1), Seq(seq)), ..Version::ABSENT })
    }

    /// The number of a group's block.
    fn seq_of(recent: &Recent, commits: u64, group: u64, block: usize) -> Option<Seq> {
        let mut found = None;
        let known = recent.look_up(commits, 1, group, |(at, version)| {
            found = if at == block { Some(version.stamp.seq) } else { found };
        });
        assert_eq!(known, found.is_some());
        found
    }

    #[test]
    fn the_newest_versions_hold_until_the_next_commit() {
        let recent = Recent::default();
        recent.keep(5, 1, 7, &[entry(3, 10), entry(3, 12), entry(9, 11)]);
        assert_eq!(seq_of(&recent, 5, 7, 3), Some(Seq(12)));
        assert_eq!(seq_of(&recent, 5, 7, 9), Some(Seq(11)));
        assert_eq!(seq_of(&recent, 5, 7, 4), Some(Seq(0)), "absent");
        assert_eq!(seq_of(&recent, 5, 8, 3), None);
        assert_eq!(seq_of(&recent, 6, 7, 3), None, "a commit was counted");
        recent.keep(5, 1, 7, &[entry(3, 10)]);
        assert_eq!(seq_of(&recent, 6, 7, 3), None, "read before that commit");
        recent.keep(7, 1, 7, &[entry(3, 20)]);
        assert_eq!(seq_of(&recent, 7, 7, 3), Some(Seq(20)));
    }

    #[test]
    fn what_is_used_stays() {
        let recent = Recent::default();
        for group in 0..5 * GROUPS_MAX as u64 {
            recent.keep(0, 1, group, &[entry(0, group + 1)]);
            assert_eq!(seq_of(&recent, 0, 0, 0), Some(Seq(1)));
        }
        assert_eq!(seq_of(&recent, 0, 2, 0), None);
        let groups = recent.at_once().unwrap();
        assert!(groups.young.len() <= GROUPS_MAX && groups.old.len() <= GROUPS_MAX);
    }
}
