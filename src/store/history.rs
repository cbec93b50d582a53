//! Changing the history of a slot: adopting a transferred one, or going back to the complete prefix.
//!
//! Everything that the slot has in memory is merged into the index in the same transaction, with the new row, and the
//! row's position moves to the end of the log: what lies before it is in the index or belongs to no history any more,
//! and is never replayed. So a crash leaves the old history or the new one, and no mixture.
//!
//! Only what a silo alone knows to be common to all histories (up to its watermark) lies for certain beneath a new
//! history, so an adopted absence is a hole or a trim *above* the versions that it hides, not their removal: if the
//! adopted history turns out to be the stale suffix of a later one, they come back.
//!
//! A source sends the newest version of each block only. So after an adoption the slot can go back to its base, or hold
//! any history beyond the floors, but it does not know what lay at a point in between. Its watermark therefore stands
//! still at the base or below until the writer's passes the highest floor: were it to follow at once, a later history
//! that forks off between the watermark and a floor would be compared from a point whose versions are not here.

use std::collections::BTreeSet;

use redb::WriteTransaction;

use crate::base::block::EXTENT_BLOCKS;
use crate::base::id::{Epoch, Seq, Stamp};
use crate::base::mutant::{Mutant, on};
use crate::store::commit::{Change, SlotCommit};
use crate::store::error::Result;
use crate::store::group::Group;
use crate::store::index::change_group;
use crate::store::keys::{BLOCKS, GROUP_BLOCKS, MARKERS, TRIMS, marker_key, trim_key};
use crate::store::position::Position;
use crate::store::slot::Vote;
use crate::store::slots::Content;
use crate::store::staging::{ExtentListing, Staging};
use crate::store::trims::Trim;
use crate::store::usage::Tally;
use crate::store::version::{Place, Retention, Version};

/// What did not come by a record of the slot's stream counts as older than any end of the log, so that it is saved with
/// the slot.
const UNSAVED: Option<Position> = Some(Position(0));

/// How a slot's history changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum History {
    /// What is above `base` is replaced by what was staged for epoch `adopted`.
    Adopt { base: Seq, adopted: Epoch },
    /// What is above `vote` goes; everything up to `common` is known to lie below it.
    Revert { vote: Vote, common: Seq },
}

impl History {
    /// What a commit does to the history; nothing if it only changes the row.
    ///
    /// A complete slot that adopts an epoch and has nothing above the base already holds exactly that history. That is
    /// the usual case at an attach, and costs no rewriting.
    pub(crate) fn of(commit: &SlotCommit, content: &Content) -> Option<Self> {
        match commit.change {
            Change::Keep | Change::Vacate | Change::Forget => None,
            Change::Revert { vote } => {
                Some(History::Revert { vote, common: content.state.committed.min(vote.applied) })
            }
            Change::Adopt { base } => {
                let same = content.staging.is_none()
                    && content.state.incomplete.is_none()
                    && content.state.applied == commit.state.applied
                    && content.extents.above(base).next().is_none()
                    && content.markers.iter().all(|(stamp, _, _)| stamp.seq <= base);
                (!same).then_some(History::Adopt { base, adopted: commit.state.adopted })
            }
        }
    }

    /// Whether a version, trim or marker that no listing names belongs to the new history.
    fn keeps(self, stamp: Stamp) -> bool {
        match self {
            History::Adopt { .. } if on(Mutant::StaleSuffixKept) => true,
            History::Adopt { base, adopted } => stamp.seq <= base || stamp.epoch >= adopted,
            History::Revert { vote, .. } => stamp <= vote.stamp(),
        }
    }

    /// The same for a version in a listed extent: the listing tells all between the base and its floor.
    fn keeps_listed(self, stamp: Stamp, listing: &ExtentListing) -> bool {
        let told = matches!(self, History::Adopt { base, .. } if stamp.seq > base && stamp.seq <= listing.floor);
        self.keeps(stamp) && !told
    }

    /// No version up to here can be concerned.
    fn unconcerned(self) -> Seq {
        match self {
            History::Adopt { base, .. } => base,
            History::Revert { common, .. } => common,
        }
    }
}

/// Moves the slot's overlay into the index and changes its history there, with what was `staged`. The content has its new
/// state already; its overlays are for the caller to let go.
pub(crate) fn rewrite(
    txn: &WriteTransaction,
    tally: &mut Tally,
    number: u32,
    content: &mut Content,
    staged: Option<&Staging>,
    history: &History,
) -> Result<()> {
    let none = Staging::default();
    let staging = match history {
        History::Adopt { .. } => staged.unwrap_or(&none),
        History::Revert { .. } => &none,
    };
    drop_trims_and_markers(txn, number, content, *history)?;
    for (stamp, snapshot) in &staging.markers {
        content.markers.insert(*stamp, *snapshot, UNSAVED);
    }
    let retention = Retention::of(&content.state, Seq::ZERO, content.markers.stamps());
    let mut table = txn.open_table(BLOCKS)?;
    for group in concerned_groups(content, staging, *history) {
        change_group(&mut table, tally, number, group, |blocks| {
            let first = group * GROUP_BLOCKS;
            content.overlaid_versions(first..first + GROUP_BLOCKS, |block, version| {
                blocks.insert((block - first) as usize, version);
            });
            rewrite_group(blocks, first, staging, *history);
            blocks.prune(&retention);
        })?;
    }
    if let History::Adopt { adopted, .. } = history {
        note_listings(content, staging, *adopted);
    }
    Ok(())
}

/// The groups whose versions may change or are in memory only.
fn concerned_groups(content: &Content, staging: &Staging, history: History) -> BTreeSet<u64> {
    let mut groups = BTreeSet::new();
    let frozen = content.frozen.as_ref().map(|frozen| &frozen.overlay);
    for overlay in frozen.into_iter().chain([&content.active]) {
        groups.extend(overlay.keys().map(|block| block / GROUP_BLOCKS));
    }
    let listed = staging.listings().filter(|listing| !listing.is_empty()).map(|listing| listing.extent);
    for extent in content.extents.above(history.unconcerned()).chain(listed) {
        groups.extend(extent * EXTENT_BLOCKS / GROUP_BLOCKS..(extent + 1) * EXTENT_BLOCKS / GROUP_BLOCKS);
    }
    groups
}

fn rewrite_group(blocks: &mut Group, first: u64, staging: &Staging, history: History) {
    // An extent is a whole number of groups, so one listing tells of the whole group or none does.
    let Some(listing) = staging.listing_of(first) else {
        blocks.retain(|_, version| history.keeps(version.stamp));
        return;
    };
    let History::Adopt { adopted, .. } = history else { return };
    blocks.retain(|_, version| history.keeps_listed(version.stamp, listing));
    let absent = Version { stamp: Stamp::new(adopted, listing.floor), place: Place::Hole };
    for index in 0..GROUP_BLOCKS as usize {
        let block = first + index as u64;
        if listing.has((block % EXTENT_BLOCKS) as usize) {
            if let Some(version) = staging.version(block) {
                blocks.insert(index, version);
            }
        } else if !listing.is_empty() {
            let beneath = blocks.block(index).iter().rev().find(|version| version.stamp <= absent.stamp);
            if beneath.is_some_and(Version::exists) {
                blocks.insert(index, absent);
            }
        }
    }
}

fn drop_trims_and_markers(txn: &WriteTransaction, number: u32, content: &mut Content, history: History) -> Result<()> {
    let mut trims = txn.open_table(TRIMS)?;
    for trim in content.trims.iter().filter(|trim| !history.keeps(trim.stamp)) {
        trims.remove(&trim_key(number, trim.stamp, trim.blocks.start))?;
    }
    content.trims.retain(|trim| history.keeps(trim.stamp));
    let mut markers = txn.open_table(MARKERS)?;
    for (stamp, _, _) in content.markers.iter().filter(|(stamp, _, _)| !history.keeps(*stamp)) {
        markers.remove(&marker_key(number, stamp))?;
    }
    content.markers.retain(|stamp| history.keeps(stamp));
    Ok(())
}

/// Takes over what the listings say beyond single blocks: whole absent extents become trims, each as long as possible,
/// and what changed here counts as changed for later comparisons.
fn note_listings(content: &mut Content, staging: &Staging, adopted: Epoch) {
    let mut absent: Option<Trim> = None;
    for listing in staging.listings() {
        content.settles = content.settles.max(listing.floor);
        let blocks = listing.extent * EXTENT_BLOCKS..(listing.extent + 1) * EXTENT_BLOCKS;
        let full = listing.present.iter().all(|byte| *byte == 0xff);
        let changed = if full { staging.highest(listing.extent) } else { listing.floor };
        content.extents.raise(listing.extent..=listing.extent, changed);
        if !listing.is_empty() {
            continue;
        }
        let stamp = Stamp::new(adopted, listing.floor);
        match &mut absent {
            Some(trim) if trim.stamp == stamp && trim.blocks.end == blocks.start => trim.blocks.end = blocks.end,
            _ => {
                let next = Trim { stamp, blocks, unsaved: UNSAVED };
                absent.replace(next).into_iter().for_each(|trim| content.trims.insert(trim));
            }
        }
    }
    absent.into_iter().for_each(|trim| content.trims.insert(trim));
}
