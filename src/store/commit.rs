//! Commits: the replication protocol's durable decisions about slots, several in one transaction.
//!
//! Most only change a slot's row. Those that change its history (adopting a transferred one, going back to the complete
//! prefix) rewrite what is concerned of it in the same transaction, see [`crate::store::history`].

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use redb::WriteTransaction;

use crate::base::id::{Seq, SlotKey};
use crate::base::mutant::{Mutant, on};
use crate::store::append::lock_gates;
use crate::store::checkpoint::{save_row, save_slot};
use crate::store::error::Result;
use crate::store::history::{History, rewrite};
use crate::store::index::Leaves;
use crate::store::keys::{FORGOTTEN, SILO, SILO_KEY, SLOTS, SiloRow, SlotRow, encode_row, slot_key};
use crate::store::position::Position;
use crate::store::silo::Silo;
use crate::store::slot::{SlotState, Vote};
use crate::store::slots::{Content, Markers, Slot};
use crate::store::staging::Staging;
use crate::store::trims::Trims;
use crate::store::usage::Tally;

/// What a commit does to a slot's blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing. The state's `applied` and `committed` are not taken from the commit: appends and
    /// [`Silo::set_committed`] raise them.
    Keep,
    /// The slot adopts the state's epoch and with it exactly the history that was compared above `base`: what was staged
    /// replaces everything there, except what was received live above the floor of each listing. The slot's `committed`
    /// stays at the base or below until the writer's watermark has passed the highest floor.
    Adopt { base: Seq },
    /// Back to the complete prefix: everything above `vote` goes, staged versions too. The state becomes complete, with
    /// `adopted` and `applied` of the vote.
    Revert { vote: Vote },
    /// The silo has left the slot: only the state remains, and none of the blocks.
    Vacate,
    /// The volume was deleted: nothing of the slot remains.
    Forget,
}

/// One slot's part of a commit. A slot that is not known yet is created by it.
#[derive(Clone, Debug)]
pub struct SlotCommit {
    pub key: SlotKey,
    pub state: SlotState,
    pub change: Change,
}

/// A commit with its slot, and what it comes down to.
struct Step<'a> {
    commit: &'a SlotCommit,
    slot: Arc<Slot>,
    history: Option<History>,
    /// What takes the place of a slot that is vacated: one without blocks, of another number.
    vacant: Option<Arc<Slot>>,
}

/// What a commit changes of a slot in memory, as it was: if there is no space for the commit, nothing has happened. The
/// overlays are let go only once it is done.
struct Before {
    state: SlotState,
    forgotten: bool,
    position: Position,
    saved_applied: Seq,
    settles: Seq,
    live_committed: Seq,
    staging: Option<Staging>,
    /// Only of a slot whose history changes.
    lists: Option<(Trims, Markers)>,
}

impl Silo {
    /// Makes the given states durable, all or none. Data that a state rests on is synced first. Of several commits for
    /// one slot the last counts. With `NoSpace` nothing has changed, in memory neither.
    pub fn commit(&self, commits: &[SlotCommit]) -> Result<()> {
        self.check_fault()?;
        let turn = self.index.turn(true);
        let mut next_slot = self.row().next_slot;
        let slots = self.slots_of_commits(commits, &mut next_slot);
        let _gates = lock_gates(slots.values())?;
        let last: BTreeMap<SlotKey, &SlotCommit> = commits.iter().map(|commit| (commit.key, commit)).collect();
        let mut steps = Vec::with_capacity(slots.len());
        for (key, commit) in last {
            if let Some(slot) = slots.get(&key) {
                let history = History::of(commit, &slot.read());
                let vacant = (commit.change == Change::Vacate).then(|| self.blank(commit, &mut next_slot));
                steps.push(Step { commit, slot: slot.clone(), history, vacant });
            }
        }
        if steps.iter().any(Step::rests_on_data) && !on(Mutant::FlushIgnoresTail) {
            self.sync_log()?;
        }
        let end = self.log.end();
        // A reader waits until a rewritten history is whole; appends to these slots wait at the gates.
        let mut contents: Vec<_> = steps.iter().map(|step| step.slot.write()).collect();
        let row = SiloRow { next_slot, ..self.row().clone() };
        let before: Vec<Before> = steps
            .iter()
            .zip(&mut contents)
            .map(|(step, content)| Before::take(content, step.history.is_some()))
            .collect();
        let adopts = commits.iter().any(|commit| matches!(commit.change, Change::Adopt { .. }));
        let leaves = match adopts {
            true => Leaves::Enough,
            // A history that goes back to its complete prefix gives up more than it takes.
            false => Leaves::Nothing,
        };
        let changed = self.change_index(&turn, leaves, |txn, tally| {
            for ((step, content), before) in steps.iter().zip(&mut contents).zip(&before) {
                step.save(txn, tally, content, before.staging.as_ref(), end)?;
            }
            txn.open_table(SILO)?.insert(SILO_KEY, &encode_row(&row)[..])?;
            Ok(())
        });
        for ((step, content), before) in steps.iter().zip(&mut contents).zip(before) {
            match &changed {
                Ok(()) if step.history.is_some() => {
                    content.active.clear();
                    content.frozen = None;
                }
                Ok(()) => content.staging = before.staging,
                Err(_) => before.put_back(content),
            }
        }
        changed?;
        drop(contents);
        *self.row() = row;
        let mut known = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        for step in &steps {
            match step.commit.change {
                Change::Forget => known.remove(&step.commit.key),
                Change::Keep | Change::Adopt { .. } | Change::Revert { .. } | Change::Vacate => {
                    let slot = step.vacant.as_ref().unwrap_or(&step.slot);
                    known.insert(step.commit.key, slot.clone())
                }
            };
        }
        Ok(())
    }

    /// The slots of the commits; those not known yet get numbers, except to be forgotten.
    fn slots_of_commits(&self, commits: &[SlotCommit], next_slot: &mut u32) -> BTreeMap<SlotKey, Arc<Slot>> {
        let mut slots = BTreeMap::new();
        for commit in commits {
            if let Ok(slot) = self.find(commit.key) {
                slots.insert(commit.key, slot);
            } else if commit.change != Change::Forget && !slots.contains_key(&commit.key) {
                slots.insert(commit.key, self.blank(commit, next_slot));
            }
        }
        slots
    }

    /// A slot without blocks, of the next number. What the log holds of one of this name belongs to an earlier one.
    fn blank(&self, commit: &SlotCommit, next_slot: &mut u32) -> Arc<Slot> {
        let state = if commit.change == Change::Vacate { commit.state.clone() } else { SlotState::default() };
        let row = SlotRow { number: *next_slot, position: self.log.end(), settles: Seq::ZERO, state };
        *next_slot += 1;
        Arc::new(Slot::new(commit.key, row))
    }
}

impl Before {
    fn take(content: &mut Content, changes_history: bool) -> Self {
        Self {
            state: content.state.clone(),
            forgotten: content.forgotten,
            position: content.position,
            saved_applied: content.saved_applied,
            settles: content.settles,
            live_committed: content.live_committed,
            staging: content.staging.take(),
            lists: changes_history.then(|| (content.trims.clone(), content.markers.clone())),
        }
    }

    fn put_back(self, content: &mut Content) {
        content.state = self.state;
        content.forgotten = self.forgotten;
        content.position = self.position;
        content.saved_applied = self.saved_applied;
        content.settles = self.settles;
        content.live_committed = self.live_committed;
        content.staging = self.staging;
        if let Some((trims, markers)) = self.lists {
            (content.trims, content.markers) = (trims, markers);
            content.extents.count_as_changed();
        }
    }
}

impl Step<'_> {
    /// Whether the new state claims that something in the log is there for good.
    fn rests_on_data(&self) -> bool {
        match self.commit.change {
            Change::Keep => {
                let state = &self.commit.state;
                let before = self.slot.read();
                let adopts = state.adopted != before.state.adopted && !on(Mutant::AdoptionNotSynced);
                state.incomplete != before.state.incomplete || adopts
            }
            Change::Adopt { .. } => !on(Mutant::AdoptionNotSynced),
            Change::Revert { .. } => true,
            Change::Vacate | Change::Forget => false,
        }
    }

    fn save(
        &self,
        txn: &WriteTransaction,
        tally: &mut Tally,
        content: &mut Content,
        staged: Option<&Staging>,
        end: Position,
    ) -> Result<()> {
        if matches!(self.commit.change, Change::Forget | Change::Vacate) {
            txn.open_table(SLOTS)?.remove(&slot_key(self.slot.key))?;
            txn.open_table(FORGOTTEN)?.insert(self.slot.number, ())?;
            content.forgotten = true;
            return match &self.vacant {
                Some(vacant) => save_row(txn, vacant.key, &vacant.read(), vacant.number),
                None => Ok(()),
            };
        }
        let mut state = self.commit.state.clone();
        let claimed = std::mem::replace(&mut state.committed, content.state.committed);
        if let Change::Revert { vote } = self.commit.change {
            (state.adopted, state.applied, state.incomplete) = (vote.adopted, vote.applied, None);
            state.committed = state.committed.min(vote.applied);
        }
        let adopts = matches!(self.commit.change, Change::Adopt { .. });
        match &self.history {
            Some(history) => {
                if let History::Adopt { base, .. } = history {
                    state.committed = state.committed.min(*base);
                }
                content.state = state;
                rewrite(txn, tally, self.slot.number, content, staged, history)?;
                content.position = end;
                content.saved_applied = content.state.applied;
                content.live_committed = Seq::ZERO;
                if adopts {
                    content.advance_watermark(claimed);
                }
                save_slot(txn, &self.slot, content, end)?;
                content.trims.saved_before(end);
                content.markers.saved_before(end);
            }
            None => {
                state.applied = content.state.applied;
                if state.incomplete != content.state.incomplete {
                    content.live_committed = Seq::ZERO;
                }
                content.state = state;
                if adopts {
                    content.advance_watermark(claimed);
                }
                save_row(txn, self.slot.key, content, self.slot.number)?;
            }
        }
        Ok(())
    }
}
