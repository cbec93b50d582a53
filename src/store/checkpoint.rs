//! Checkpoints: the overlay moves into the index, so that memory and the tail to replay stay bounded.
//!
//! The overlays are frozen at one place of the log; the log is synced up to there; the frozen versions are merged into
//! the index in bounded transactions, and the last one moves the checkpoint's place forward, with the slots' rows, the
//! extents and the trims. Until then a crash replays from the old place, and finding some of the versions in the index
//! already changes nothing: a version is known by its stamp. Appends and reads go on all the while.
//!
//! Where there is no space in the index for what was appended, the checkpoint ends with [`StoreError::NoSpace`] and what was
//! frozen is put back beneath the overlay: nothing is lost, and the next checkpoint begins anew.
//!
//! [`StoreError::NoSpace`]: crate::store::error::StoreError::NoSpace
//!
//! Afterwards what the committed watermark has passed is carried out: trims remove what they hide, and the rows of
//! forgotten slots go, again in bounded transactions.

use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use redb::{ReadableTable, TableHandle, WriteTransaction};

use crate::base::id::{Seq, SlotKey};
use crate::base::mutant::{Mutant, on};
use crate::store::append::lock_gates;
use crate::store::error::{Result, StoreError};
use crate::store::index::{Blocks, Leaves, Turn, change_group, each_group};
use crate::store::keys::{
    BLOCKS, EXTENTS, FORGOTTEN, GROUP_BLOCKS, MARKERS, SILO, SILO_KEY, SLOTS, SiloRow, TRIMS, edge_key, encode_row,
    marker_key, place_key, slot_key, trim_key, unpack,
};
use crate::store::position::Position;
use crate::store::silo::Silo;
use crate::store::slots::{Content, Frozen, Slot};
use crate::store::superblock::IN_USE_NAME;
use crate::store::trims::Trim;
use crate::store::usage::Tally;
use crate::store::version::{Place, Retention, Version};

/// Groups that one transaction changes: 50 to 100 ms on a large index, the longest that a commit waits.
const BATCH_GROUPS: usize = 2048;
/// The same while the index cannot grow: every one may take a page until the transaction is over.
const BATCH_GROUPS_SHORT: usize = 64;

/// The frozen slots and how far their versions were merged.
struct Progress {
    slots: Vec<(Arc<Slot>, Arc<Frozen>)>,
    slot: usize,
    block: u64,
}

impl Progress {
    /// The slots with something to merge that are incomplete.
    fn incomplete(&self) -> Vec<Arc<Slot>> {
        let to_merge = self.slots.iter().filter(|(_, frozen)| !frozen.overlay.is_empty());
        to_merge.map(|(slot, _)| slot.clone()).filter(|slot| slot.read().state.incomplete.is_some()).collect()
    }
}

impl Silo {
    /// Moves what was appended so far into the index and carries out what the watermarks allow. Runs in the background,
    /// one at a time; a second call waits for the first.
    pub fn checkpoint(&self) -> Result<()> {
        self.merge(false)?;
        self.tidy()
    }

    /// Carries out what the watermarks have come to allow: trims, and what a checkpoint had to keep beneath versions that
    /// were not committed yet. Removes what is left of forgotten slots.
    pub fn tidy(&self) -> Result<()> {
        self.check_fault()?;
        self.carry_out_trims()?;
        for slot in self.all_slots() {
            while self.settle_groups(&slot)? {}
        }
        while self.clear_forgotten()? {}
        Ok(())
    }

    /// Whether [`Silo::tidy`] would free anything that no checkpoint is due for.
    pub fn tidy_due(&self) -> bool {
        let due = |slot: &Arc<Slot>| {
            let content = slot.read();
            next_ripe(&content).is_some() || content.next_settled().is_some()
        };
        self.fault.get().is_none() && self.all_slots().iter().any(due)
    }

    /// Prunes some groups that were merged before the watermark had passed them; false once there are none left.
    fn settle_groups(&self, slot: &Slot) -> Result<bool> {
        let turn = self.index.turn(false);
        let (groups, retention) = {
            let mut content = slot.write();
            let mut groups = Vec::new();
            while groups.len() < self.batch_groups()
                && let Some(group) = content.next_settled()
            {
                content.unsettled.remove(&group);
                groups.push(group.1);
            }
            (groups, content.retention())
        };
        if groups.is_empty() {
            return Ok(false);
        }
        let settled = self.change_index(&turn, Leaves::Nothing, |txn, tally| {
            let mut table = txn.open_table(BLOCKS)?;
            for group in &groups {
                change_group(&mut table, tally, slot.number, *group, |blocks| blocks.prune(&retention))?;
            }
            Ok(true)
        });
        if settled.is_err() {
            slot.write().unsettled.extend(groups.iter().map(|group| (Seq::ZERO, *group)));
        }
        settled
    }

    /// Stops in order: what was appended is durable and the next opening has nothing to replay. The last call; the lock
    /// is released when the silo is dropped. Should something be appended nevertheless, the next opening replays it.
    pub fn close(&self) -> Result<()> {
        self.merge(true)?;
        self.disk.remove(IN_USE_NAME).map_err(StoreError::io("note that the silo is closed"))
    }

    /// `clean` says that the log ends where this checkpoint does.
    fn merge(&self, clean: bool) -> Result<()> {
        let _one = self.checkpointing.lock().unwrap_or_else(PoisonError::into_inner);
        self.check_fault()?;
        let pending = [self.pending_versions.load(Ordering::Relaxed), self.pending_bytes.load(Ordering::Relaxed)];
        let trimmed = self.space.trimmed.load(Ordering::Relaxed);
        let (end, progress) = self.freeze()?;
        let merged = self.merge_frozen(end, progress, clean);
        if merged.is_err() {
            self.pending_versions.fetch_add(pending[0], Ordering::Relaxed);
            self.pending_bytes.fetch_add(pending[1], Ordering::Relaxed);
            self.space.trimmed.fetch_or(trimmed, Ordering::Relaxed);
        }
        merged
    }

    fn merge_frozen(&self, end: Position, mut progress: Progress, clean: bool) -> Result<()> {
        if !on(Mutant::CheckpointCoversUnsynced) {
            self.sync_log()?;
        }
        while self.merge_batch(&mut progress)? {
            self.clean_between()?;
        }
        self.finish_checkpoint(end, &progress, clean)
    }

    /// A step of cleaning between two batches, where it cannot wait for the end of the checkpoint: whoever appends would
    /// have to make it.
    fn clean_between(&self) -> Result<()> {
        if !self.is_short() {
            return Ok(());
        }
        match self.clean() {
            // No reason to end the checkpoint, which may make room itself.
            Ok(_) | Err(StoreError::NoSpace | StoreError::Io { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn batch_groups(&self) -> usize {
        if self.index.can_grow() { BATCH_GROUPS } else { BATCH_GROUPS_SHORT }
    }

    /// Splits all overlays at one place of the log.
    fn freeze(&self) -> Result<(Position, Progress)> {
        let _turn = self.index.turn(false);
        let slots = self.all_slots();
        let _gates = lock_gates(&slots)?;
        let end = self.log.end();
        self.pending_versions.store(0, Ordering::Relaxed);
        self.pending_bytes.store(0, Ordering::Relaxed);
        self.space.trimmed.store(false, Ordering::Relaxed);
        let mut frozen = Vec::with_capacity(slots.len());
        for slot in &slots {
            let mut content = slot.write();
            content.thaw();
            let overlay = std::mem::take(&mut content.active);
            let content_frozen = Arc::new(Frozen { overlay, applied: content.state.applied });
            content.frozen = Some(content_frozen.clone());
            drop(content);
            frozen.push((slot.clone(), content_frozen));
        }
        Ok((end, Progress { slots: frozen, slot: 0, block: 0 }))
    }

    /// Merges some of the frozen versions in one transaction; false once there are none left.
    fn merge_batch(&self, progress: &mut Progress) -> Result<bool> {
        if progress.slots[progress.slot..].iter().all(|(_, frozen)| frozen.overlay.is_empty()) {
            return Ok(false);
        }
        let turn = self.index.turn(false);
        let incomplete = if (progress.slot, progress.block) == (0, 0) { progress.incomplete() } else { Vec::new() };
        let merged = self.change_index(&turn, Leaves::Enough, |txn, tally| {
            // What an incomplete slot received goes at the next opening, without having been replayed: by then only its
            // extents tell which groups to look at.
            for slot in &incomplete {
                save_extents(txn, slot.number, &mut slot.write())?;
            }
            let mut table = txn.open_table(BLOCKS)?;
            let mut budget = self.batch_groups();
            while budget > 0
                && let Some((slot, frozen)) = progress.slots.get(progress.slot)
            {
                let retention = slot.read().retention_of(frozen);
                let next = frozen.overlay.range(progress.block..).next().map(|(block, _)| block / GROUP_BLOCKS);
                if let (Some(retention), Some(group)) = (retention, next) {
                    let unsettled = merge_group(&mut table, tally, slot.number, group, frozen, &retention)?;
                    slot.write().unsettled.extend(unsettled.map(|until| (until, group)));
                    progress.block = (group + 1) * GROUP_BLOCKS;
                    budget -= 1;
                } else {
                    (progress.slot, progress.block) = (progress.slot + 1, 0);
                }
            }
            Ok(true)
        });
        if merged.is_err() {
            incomplete.iter().for_each(|slot| slot.write().extents.count_as_changed());
        }
        merged
    }

    /// Moves the checkpoint's place to `end` and lets the frozen overlays go.
    fn finish_checkpoint(&self, end: Position, progress: &Progress, clean: bool) -> Result<()> {
        let turn = self.index.turn(false);
        let row = SiloRow { checkpoint: end, clean, ..self.row().clone() };
        let mut saved_before = Vec::new();
        let saved = self.guard(turn.write(Leaves::Enough, |txn| {
            for (slot, frozen) in &progress.slots {
                let mut content = slot.write();
                if content.is_frozen(frozen) {
                    let before = std::mem::replace(&mut content.saved_applied, frozen.applied);
                    saved_before.push((slot, before));
                    save_slot(txn, slot, &mut content, end)?;
                }
            }
            txn.open_table(SILO)?.insert(SILO_KEY, &encode_row(&row)[..])?;
            Ok(())
        }));
        if saved.is_err() {
            for (slot, before) in saved_before {
                let mut content = slot.write();
                content.saved_applied = before;
                content.extents.count_as_changed();
            }
        }
        saved?;
        *self.row() = row;
        for (slot, frozen) in &progress.slots {
            let mut content = slot.write();
            if content.is_frozen(frozen) {
                content.frozen = None;
                content.trims.saved_before(end);
                content.markers.saved_before(end);
            }
        }
        Ok(())
    }

    /// Removes from the index what trims hide that the watermarks have passed.
    fn carry_out_trims(&self) -> Result<()> {
        for slot in self.all_slots() {
            loop {
                let Some(trim) = next_ripe(&slot.read()) else { break };
                let turn = self.index.turn(false);
                self.carry_out(&turn, &slot, trim)?;
            }
        }
        Ok(())
    }

    /// Carries out a part of one trim in one transaction.
    fn carry_out(&self, turn: &Turn<'_>, slot: &Slot, trim: Trim) -> Result<()> {
        let retention = {
            let content = slot.read();
            // A commit may have changed the slot's history before it was our turn.
            let stands = !content.forgotten && content.trims.iter().any(|pending| pending == trim);
            if !stands || !content.retention().may_clean(trim.stamp) {
                return Ok(());
            }
            content.retention()
        };
        let most = self.batch_groups();
        let done = self.change_index(turn, Leaves::Nothing, |txn, tally| {
            let mut table = txn.open_table(BLOCKS)?;
            let mut groups = Vec::new();
            let range = trim.blocks.start / GROUP_BLOCKS..=(trim.blocks.end - 1) / GROUP_BLOCKS;
            each_group(&table, slot.number, range, |group, _| {
                groups.push(group);
                Ok(groups.len() < most)
            })?;
            for group in &groups {
                trim_group(&mut table, tally, slot.number, *group, &trim, &retention)?;
            }
            let full = groups.len() == most;
            let done = match groups.last() {
                Some(last) if full => ((last + 1) * GROUP_BLOCKS).min(trim.blocks.end),
                _ => trim.blocks.end,
            };
            let mut trims = txn.open_table(TRIMS)?;
            trims.remove(&trim_key(slot.number, trim.stamp, trim.blocks.start))?;
            if done < trim.blocks.end {
                trims.insert(&trim_key(slot.number, trim.stamp, done), trim.blocks.end)?;
            }
            Ok(done)
        })?;
        slot.write().trims.shrink(&trim, done);
        Ok(())
    }

    /// Removes some rows of forgotten slots; false once there are none left.
    fn clear_forgotten(&self) -> Result<bool> {
        if !self.guard_read(self.has_forgotten())? {
            return Ok(false);
        }
        let turn = self.index.turn(false);
        let most = self.batch_groups();
        self.change_index(&turn, Leaves::Nothing, |txn, tally| {
            let mut forgotten = txn.open_table(FORGOTTEN)?;
            let Some(number) = forgotten.first()?.map(|(number, _)| number.value()) else { return Ok(false) };
            if clear_slot(txn, tally, number, most)? {
                forgotten.remove(number)?;
            }
            Ok(true)
        })
    }
}

impl Silo {
    fn has_forgotten(&self) -> Result<bool> {
        Ok(self.index.read()?.open_table(FORGOTTEN)?.first()?.is_some())
    }
}

impl Content {
    /// A group from which the watermark has come to let something go.
    fn next_settled(&self) -> Option<(Seq, u64)> {
        let ready = self.state.incomplete.is_none() && !self.forgotten;
        self.unsettled.first().copied().filter(|(until, _)| ready && *until <= self.state.committed)
    }

    /// The rule to merge this overlay by; nothing if a commit that changed the slot's history took it away.
    fn retention_of(&self, frozen: &Arc<Frozen>) -> Option<Retention> {
        self.is_frozen(frozen).then(|| self.retention())
    }

    /// Whether this is the overlay that is being merged.
    fn is_frozen(&self, frozen: &Arc<Frozen>) -> bool {
        !self.forgotten && self.frozen.as_ref().is_some_and(|current| Arc::ptr_eq(current, frozen))
    }
}

/// Writes what a slot has besides its blocks: the row, the changed extents, the trims and markers from before `end`.
pub(crate) fn save_slot(txn: &WriteTransaction, slot: &Slot, content: &mut Content, end: Position) -> Result<()> {
    save_row(txn, slot.key, content, slot.number)?;
    save_extents(txn, slot.number, content)?;
    let mut trims = txn.open_table(TRIMS)?;
    for trim in content.trims.iter().filter(|trim| trim.unsaved.is_some_and(|at| at < end)) {
        trims.insert(&trim_key(slot.number, trim.stamp, trim.blocks.start), trim.blocks.end)?;
    }
    let mut markers = txn.open_table(MARKERS)?;
    for (stamp, snapshot, unsaved) in content.markers.iter() {
        if unsaved.is_some_and(|at| at < end) {
            markers.insert(&marker_key(slot.number, stamp), &snapshot.0)?;
        }
    }
    Ok(())
}

fn save_extents(txn: &WriteTransaction, number: u32, content: &mut Content) -> Result<()> {
    let mut extents = txn.open_table(EXTENTS)?;
    for (page, bytes) in content.extents.take_changed() {
        extents.insert(&place_key(number, page), &bytes[..])?;
    }
    Ok(())
}

/// Writes a slot's row.
pub(crate) fn save_row(txn: &WriteTransaction, key: SlotKey, content: &Content, number: u32) -> Result<()> {
    let row = content.row(number, content.position, content.saved_applied);
    txn.open_table(SLOTS)?.insert(&slot_key(key), &encode_row(&row)[..])?;
    Ok(())
}

/// Moves the frozen versions of a group into the index; returns which number the watermark must pass for more of it to
/// go, if any.
fn merge_group(
    table: &mut Blocks<'_>,
    tally: &mut Tally,
    number: u32,
    group: u64,
    frozen: &Frozen,
    retention: &Retention,
) -> Result<Option<Seq>> {
    let first = group * GROUP_BLOCKS;
    let mut unsettled = None;
    change_group(table, tally, number, group, |content| {
        for (block, versions) in frozen.overlay.range(first..first + GROUP_BLOCKS) {
            versions.as_slice().iter().for_each(|version| content.insert((block - first) as usize, *version));
        }
        content.prune(retention);
        unsettled = content.unsettled(retention);
    })?;
    Ok(unsettled)
}

fn trim_group(
    table: &mut Blocks<'_>,
    tally: &mut Tally,
    number: u32,
    group: u64,
    trim: &Trim,
    retention: &Retention,
) -> Result<()> {
    let first = group * GROUP_BLOCKS;
    let hole = Version { stamp: trim.stamp, place: Place::Hole };
    change_group(table, tally, number, group, |content| {
        for index in 0..GROUP_BLOCKS as usize {
            if trim.blocks.contains(&(first + index as u64)) && !content.block(index).is_empty() {
                content.insert(index, hole);
            }
        }
        content.prune(retention);
    })
}

/// The first trim that the index has and that the watermark has passed.
fn next_ripe(content: &Content) -> Option<Trim> {
    let retention = content.retention();
    content.trims.iter().find(|trim| trim.unsaved.is_none() && retention.may_clean(trim.stamp))
}

/// Removes up to `most` rows of a slot number; true once there are none left.
fn clear_slot(txn: &WriteTransaction, tally: &mut Tally, number: u32, most: usize) -> Result<bool> {
    let mut left = most;
    for definition in [BLOCKS, EXTENTS] {
        let mut table = txn.open_table(definition)?;
        let mut places = Vec::new();
        each_group(&table, number, 0..=u64::MAX, |place, value| {
            places.push(place);
            if definition.name() == BLOCKS.name() {
                unpack(value)?.iter().for_each(|(_, version)| tally.change(version, -1));
            }
            Ok(places.len() < left)
        })?;
        for place in &places {
            table.remove(&place_key(number, *place))?;
        }
        left -= places.len();
        if left == 0 {
            return Ok(false);
        }
    }
    txn.open_table(TRIMS)?.retain_in::<&[u8; 28], _>(&edge_key(number, 0)..=&edge_key(number, 0xff), |_, _| false)?;
    txn.open_table(MARKERS)?.retain_in::<&[u8; 20], _>(&edge_key(number, 0)..=&edge_key(number, 0xff), |_, _| false)?;
    Ok(true)
}
