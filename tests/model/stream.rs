//! Serving: writes are numbered, sent, and synced (rules 1, 3 and 4).

use super::actions::Model;
use super::state::{Mode, State, View, Write};
use super::variants::Variant;

impl Model {
    pub(super) fn append(&self, state: &mut State, epoch: u8, index: usize) -> Option<()> {
        let (slot, view, replica) = (self.slot_of(index), *state.view(epoch, index), state.replicas[index]);
        let follows = match view.mode {
            Mode::Live => self.serves(state, epoch, index),
            Mode::CatchingUp => replica.is_catching_up(),
            Mode::Away | Mode::Asked | Mode::Voted => false,
        };
        let late = self.is(Variant::OldEpochAcknowledged) && replica.adopted == epoch && replica.promise > epoch;
        let takes_late = late && view.mode == Mode::Live && view.current;
        let takes = follows && self.reaches(state, epoch, index);
        if !takes && !takes_late {
            return None;
        }
        let catching_up = view.mode == Mode::CatchingUp;
        let (sent, at) =
            if catching_up { (replica.live, replica.live) } else { (view.applied, self.applied(state, index)) };
        let rest = state.only(self.stream(state, epoch, slot), |write| write.seq > sent);
        let (next, write) = state.each(rest).next()?;
        if sent < self.memory_starts(state, epoch, slot) || at != self.previous(state, epoch, slot, write.seq) {
            return None;
        }
        let replica = &mut state.replicas[index];
        replica.history |= 1 << next;
        if catching_up {
            replica.live = write.seq;
        }
        state.view_mut(epoch, index).applied = write.seq;
        Some(())
    }

    pub(super) fn fall_behind(&self, state: &mut State, epoch: u8, index: usize) -> Option<()> {
        let (view, memory_starts) = (*state.view(epoch, index), self.memory_starts(state, epoch, self.slot_of(index)));
        if !self.reaches(state, epoch, index) {
            return None;
        }
        match view.mode {
            Mode::Live if view.applied < memory_starts => self.start_catch_up(state, epoch, index, view.applied),
            Mode::CatchingUp if state.replicas[index].live < memory_starts => {
                // Promise and vote are asked for again.
                *state.view_mut(epoch, index) = View::default();
                Some(())
            }
            _ => None,
        }
    }

    pub(super) fn write(&self, state: &mut State, epoch: u8, slot: usize) -> Option<()> {
        if state.written == self.shape.bounds.writes || !state.writer(epoch).serving {
            return None;
        }
        let writer = state.writer_mut(epoch);
        let seq = writer.next_seq;
        writer.next_seq += 1;
        writer.slots[slot].last = seq;
        state.writes[usize::from(state.written)] = Write { epoch, seq, slot: slot as u8 };
        state.written += 1;
        Some(())
    }

    pub(super) fn sync(&self, state: &mut State, silo: usize) -> Option<()> {
        let mut synced = false;
        for index in self.replicas_of_silo(silo) {
            let (replica, end) = (state.replicas[index], self.applied(state, index));
            if replica.promise == 0 || !self.serves(state, replica.promise, index) || replica.durable >= end {
                continue;
            }
            // A sync that nobody hears of is one of the ways in which a power loss may lose less than it could.
            let view = state.view_mut(replica.promise, index);
            if !view.current || view.mode != Mode::Live {
                continue;
            }
            view.durable = view.applied.min(end);
            synced = true;
            state.replicas[index].synced = replica.history;
            state.replicas[index].durable = end;
        }
        synced.then_some(())
    }
}
