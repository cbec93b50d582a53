//! Recovery at attach, and catching up: from a promise to a silo that counts (rules 8, 12 and 13).

use super::actions::Model;
use super::state::{Mode, NONE, Replica, Set, State, View, Write};
use super::variants::Variant;

impl Model {
    /// A higher epoch ends a catching-up: the silo goes back to its last complete history, which it votes with.
    pub(super) fn raise_promise(&self, replica: &mut Replica, state_end: impl Fn(Set) -> u8, epoch: u8) {
        if replica.promise == epoch {
            return;
        }
        replica.promise = epoch;
        replica.shadow = (NONE, 0);
        if replica.incomplete != NONE {
            if !self.is(Variant::IncompleteVotesAsItIs) {
                replica.history = replica.incomplete;
            }
            replica.incomplete = NONE;
            replica.synced = replica.history;
            replica.durable = state_end(replica.history);
        }
        replica.stop_catching_up();
    }

    pub(super) fn promise(&self, state: &mut State, epoch: u8, silo: usize) -> Option<()> {
        let before = *state;
        let mut replicas = self.replicas_of_silo(silo);
        let refused =
            replicas.any(|replica| state.replicas[replica].promise > epoch || state.view(epoch, replica).current);
        if refused {
            return None;
        }
        for index in self.replicas_of_silo(silo) {
            let asked = self.is(Variant::VoteBeforePromise) && state.replicas[index].promise < epoch;
            if !asked {
                self.raise_promise(&mut state.replicas[index], |set| before.end_of(set), epoch);
            }
            let mode = if asked { Mode::Asked } else { Mode::Voted };
            *state.view_mut(epoch, index) = View { mode, current: true, ..View::default() };
        }
        for index in self.replicas_of_silo(silo) {
            let (vote, replica) = (self.vote(state, index), state.replicas[index]);
            let is_damaged = vote < replica.reported;
            let view = state.view_mut(epoch, index);
            (view.vote, view.history) = (vote, replica.complete());
            (view.watermark, view.durable) = (replica.watermark, replica.durable);
            view.incomplete = replica.incomplete != NONE;
            if is_damaged && !self.is(Variant::TornBelowReported) {
                *view = View { mode: Mode::Away, current: true, ..View::default() };
            }
        }
        Some(())
    }

    pub(super) fn confirm(&self, state: &mut State, epoch: u8, silo: usize) -> Option<()> {
        let before = *state;
        for index in self.replicas_of_silo(silo) {
            let view = state.view(epoch, index);
            if view.mode != Mode::Asked || !view.current || state.replicas[index].promise > epoch {
                return None;
            }
            self.raise_promise(&mut state.replicas[index], |set| before.end_of(set), epoch);
            state.view_mut(epoch, index).mode = Mode::Voted;
        }
        Some(())
    }

    pub(super) fn choose(&self, state: &mut State, epoch: u8, slot: usize, votes: u8) -> Option<()> {
        let chosen = state.writer(epoch).slots[slot];
        let again = self.is(Variant::SecondChoice) && !chosen.adopted;
        let voted = |index: usize| self.slot_of(index) == slot && state.view(epoch, index).mode == Mode::Voted;
        let among = |index: &usize| votes >> index & 1 == 1;
        if (chosen.chosen && !again)
            || (votes.count_ones() as usize) < self.majority(slot)
            || !(0..self.shape.replicas.len()).filter(among).all(voted)
        {
            return None;
        }
        let reports = (0..self.shape.replicas.len()).filter(among).map(|index| *state.view(epoch, index));
        // Equal votes stand for equal histories, but for broken variants: there the set decides, whoever has it.
        let rank = |view: &View| match self.variant {
            Some(Variant::SeqWithoutEpoch) => (view.vote.1, view.vote.0, view.history),
            _ => (view.vote.0, view.vote.1, view.history),
        };
        let highest = reports.clone().max_by_key(rank)?;
        let top = reports.map(|view| view.vote.1).max()?;
        if chosen.chosen && highest.vote <= chosen.choice {
            return None;
        }
        let writer = state.writer_mut(epoch);
        writer.next_seq = writer.next_seq.max(top + 1);
        let slot = &mut writer.slots[slot];
        (slot.chosen, slot.choice, slot.history, slot.last) = (true, highest.vote, highest.history, highest.vote.1);
        Some(())
    }

    pub(super) fn place(&self, state: &mut State, epoch: u8, replica: usize) -> Option<()> {
        let slot_index = self.slot_of(replica);
        let (view, slot) = (*state.view(epoch, replica), state.writer(epoch).slots[slot_index]);
        if view.mode != Mode::Voted || !slot.chosen || !self.reaches(state, epoch, replica) {
            return None;
        }
        let remembered = self.memory_starts(state, epoch, slot_index) <= view.vote.1 && view.vote.1 <= slot.last;
        if !view.incomplete && remembered && view.vote.0 == epoch {
            self.go_live(state, epoch, replica, view.vote.1, view.durable.min(slot.last));
        } else if !view.incomplete && remembered && view.vote == slot.choice {
            self.commit_adoption(state, epoch, replica, state.replicas[replica].history, true);
        } else if self.is(Variant::TailRestamped) {
            return self.restamp(state, epoch, replica);
        } else {
            let is_part = view.vote.0 == slot.choice.0 && view.vote.1 <= slot.choice.1;
            let base = if view.vote.0 == epoch || is_part {
                view.vote.1
            } else if self.is(Variant::ComparedFromItsEnd) {
                view.vote.1.min(slot.choice.1)
            } else {
                view.watermark.min(view.vote.1)
            };
            return self.start_catch_up(state, epoch, replica, base);
        }
        Some(())
    }

    /// The next record of the chosen tail, as if it were one of this epoch's.
    pub(super) fn restamp(&self, state: &mut State, epoch: u8, index: usize) -> Option<()> {
        let slot = state.writer(epoch).slots[self.slot_of(index)];
        let kept = state.replicas[index].history & slot.history;
        let next = state.each(slot.history & !kept).next();
        let history = next.map_or(kept, |(next, _)| kept | 1 << next);
        let end = state.end_of(history);
        let replica = &mut state.replicas[index];
        (replica.history, replica.synced, replica.durable, replica.adopted) = (history, history, end, epoch);
        let view = state.view_mut(epoch, index);
        (view.vote, view.history) = ((epoch, end), history);
        if history == slot.history {
            self.go_live(state, epoch, index, end, end);
        }
        Some(())
    }

    pub(super) fn go_live(&self, state: &mut State, epoch: u8, replica: usize, applied: u8, durable: u8) {
        let view = View { mode: Mode::Live, current: true, applied, durable, ..View::default() };
        *state.view_mut(epoch, replica) = view;
    }

    /// The one commit that changes the epoch and the history of a replica, its data synced before.
    pub(super) fn commit_adoption(&self, state: &mut State, epoch: u8, index: usize, history: Set, as_it_is: bool) {
        let end = state.end_of(history);
        let replica = &mut state.replicas[index];
        if self.is(Variant::AdoptionNotSynced) {
            replica.shadow = (replica.adopted, replica.complete());
        }
        if !(as_it_is && self.is(Variant::NoAdoptionOnEmptyTail)) {
            replica.adopted = epoch;
        }
        let was_synced = replica.synced;
        (replica.history, replica.synced, replica.durable, replica.incomplete) = (history, history, end, NONE);
        if self.is(Variant::AdoptionBeforeItsData) {
            replica.synced = was_synced & history;
        }
        replica.stop_catching_up();
        let applied = self.applied(state, index);
        self.go_live(state, epoch, index, applied, applied);
    }

    pub(super) fn start_catch_up(&self, state: &mut State, epoch: u8, index: usize, base: u8) -> Option<()> {
        let slot = self.slot_of(index);
        let mut others = self.replicas_of_slot(slot).filter(|other| *other != index);
        if !others.any(|other| state.view(epoch, other).mode == Mode::Live) {
            return None;
        }
        let floor = state.writer(epoch).slots[slot].last;
        let complete = state.replicas[index].complete();
        let kept = if self.is(Variant::DropBeforeAdoption) { state.upto(complete, base) } else { complete };
        let end = state.end_of(kept);
        let replica = &mut state.replicas[index];
        (replica.history, replica.incomplete, replica.synced, replica.durable) = (kept, kept, kept, end);
        (replica.base, replica.live, replica.staged, replica.needs) = (base, floor, NONE, floor);
        *state.view_mut(epoch, index) = View { mode: Mode::CatchingUp, current: true, ..View::default() };
        Some(())
    }

    pub(super) fn transfer(&self, state: &mut State, epoch: u8, index: usize, source: usize) -> Option<()> {
        let (slot, replica) = (self.slot_of(index), state.replicas[index]);
        let catches_up = state.view(epoch, index).mode == Mode::CatchingUp && replica.is_catching_up();
        if !catches_up || replica.staged != NONE || !self.reaches(state, epoch, index) {
            return None;
        }
        let (view, floor) = (state.view(epoch, source), replica.needs);
        let able = view.mode == Mode::Live && view.applied >= floor && self.applied(state, source) >= floor;
        if self.slot_of(source) != slot || source == index || !able || !self.reaches(state, epoch, source) {
            return None;
        }
        if !self.serves(state, epoch, source) {
            return None;
        }
        let staged = state.only(state.replicas[source].history, |write| write.seq > replica.base);
        let needs = floor.max(self.applied(state, source));
        let replica = &mut state.replicas[index];
        (replica.staged, replica.needs) = (staged, needs);
        Some(())
    }

    pub(super) fn adopt(&self, state: &mut State, epoch: u8, index: usize) -> Option<()> {
        let replica = state.replicas[index];
        let ready = replica.is_catching_up() && replica.staged != NONE && replica.live >= replica.needs;
        if !ready || state.view(epoch, index).mode != Mode::CatchingUp || !self.reaches(state, epoch, index) {
            return None;
        }
        let own = |write: &Write| write.seq <= replica.base || (write.epoch >= epoch && write.seq > replica.needs);
        let kept = if self.is(Variant::StaleSuffixKept) { replica.history } else { state.only(replica.history, own) };
        state.replicas[index].watermark = replica.watermark.min(replica.base);
        self.commit_adoption(state, epoch, index, kept | replica.staged, false);
        Some(())
    }
}
