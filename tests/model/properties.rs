//! What follows at once upon every step, and what must hold after it.
//!
//! Nothing here is a choice: a writer answers as soon as a majority has a write, a client flushes all the time and reads
//! whatever may be read, and heartbeats arrive everywhere. All of that only makes the demands harder, and costs no state.

use super::actions::Model;
use super::state::{EPOCHS, Mode, NONE, REPLICAS, Set, State, View, Writer};
use super::variants::Variant;

/// What is wrong with a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// A read of this replica in this epoch lacks a write that was flushed, or answered and taken by no power loss.
    Lost { write: usize, epoch: u8, replica: usize },
    /// It shows a write that an earlier read in a later epoch than the write's showed to be gone.
    CameBack { write: usize, epoch: u8, replica: usize },
    /// Two replicas adopted the same epoch, and neither's history is the beginning of the other's.
    HistoriesDiffer { one: usize, other: usize },
    /// Two replicas differ below both watermarks.
    WatermarksLie { one: usize, other: usize },
    /// A silo that lost nothing that it had synced is taken for damaged.
    HealthyCalledDamaged { replica: usize },
}

impl Model {
    /// Brings a state to rest after a step, and checks it.
    pub fn settle(&self, state: &mut State) -> Option<Violation> {
        for epoch in self.epochs() {
            if state.writer(epoch).alive {
                self.advance(state, epoch);
                self.tell(state, epoch);
            }
        }
        let mended = state.each(state.excused).filter(|(write, _)| self.is_held(state, *write));
        state.excused &= !mended.fold(0, |mended, (write, _)| mended | 1 << write);
        let mut found = self.read(state);
        if found.is_none() && self.is_whole() {
            found = self.compare(state);
        }
        // The broken variants break what makes an old writer powerless.
        if self.variant.is_none() {
            self.retire(state);
        }
        found
    }

    /// What a writer concludes from the acknowledgements it has.
    fn advance(&self, state: &mut State, epoch: u8) {
        let before = *state;
        for index in 0..self.shape.slots {
            let live = self.replicas_of_slot(index).filter(|replica| before.view(epoch, *replica).mode == Mode::Live);
            let needed = if self.is(Variant::ServesBeforeMajority) { 1 } else { self.majority(index) };
            let slot = &mut state.writer_mut(epoch).slots[index];
            if slot.chosen && !slot.adopted && live.count() >= needed {
                slot.adopted = true;
                slot.answered = slot.choice.1;
            }
            if slot.adopted {
                slot.answered = slot.answered.max(self.majority_at(&before, epoch, index, |view| view.applied));
                slot.committed = slot.committed.max(self.majority_at(&before, epoch, index, |view| view.durable));
            }
        }
        let writer = state.writer_mut(epoch);
        let slots = &writer.slots[..self.shape.slots];
        if !writer.serving && slots.iter().all(|slot| slot.adopted) {
            let last = slots.iter().map(|slot| slot.last).max().unwrap_or(0);
            (writer.serving, writer.next_seq) = (true, writer.next_seq.max(last + 1));
        }
        for index in 0..self.shape.slots {
            let slot = state.writer(epoch).slots[index];
            let own = self.stream(state, epoch, index);
            let answered = state.upto(own, slot.answered) & !state.answered & !state.dropped;
            state.answered |= answered;
            for (write, _) in before.each(answered) {
                if before.lost >> write & 1 == 1 && !self.is_held(&before, write) {
                    state.excused |= 1 << write;
                }
            }
            if state.writer(epoch).serving {
                state.flushed |= state.upto(slot.history | own, slot.committed);
            }
        }
    }

    /// The highest number that a majority of a slot's replicas has reached; only live ones count.
    fn majority_at(&self, state: &State, epoch: u8, slot: usize, reached: impl Fn(&View) -> u8) -> u8 {
        let live =
            || self.replicas_of_slot(slot).map(|replica| state.view(epoch, replica)).filter(|v| v.mode == Mode::Live);
        let has = |seq: u8| live().filter(|view| reached(view) >= seq).count() >= self.majority(slot);
        live().map(&reached).filter(|seq| has(*seq)).max().unwrap_or(0)
    }

    /// Heartbeats: what is committed, and how far each silo is durable.
    fn tell(&self, state: &mut State, epoch: u8) {
        for index in 0..self.shape.replicas.len() {
            let (view, applied) = (*state.view(epoch, index), self.applied(state, index));
            let committed = state.writer(epoch).slots[self.slot_of(index)].committed;
            let hears = view.current && self.serves(state, epoch, index) && view.mode == Mode::Live;
            let replica = &mut state.replicas[index];
            if hears {
                replica.watermark = replica.watermark.max(committed.min(applied));
            }
            if view.mode == Mode::Live && view.durable > 0 && self.shape.bounds.tells {
                replica.reported = replica.reported.max((epoch, view.durable));
            }
        }
    }

    /// Whether a majority has a write.
    fn is_held(&self, state: &State, write: usize) -> bool {
        let slot = usize::from(state.writes[write].slot);
        let has = |index: &usize| state.replicas[*index].complete() >> write & 1 == 1;
        self.replicas_of_slot(slot).filter(has).count() >= self.majority(slot)
    }

    /// After a power loss: answered writes that it took from a majority, and that no flush covers, may be lost.
    pub fn excuse(&self, state: &mut State) {
        let unsafe_ones = state.each(state.answered & !state.flushed);
        let gone = unsafe_ones.filter(|(write, _)| !self.is_held(state, *write));
        state.excused |= gone.fold(0, |gone, (write, _)| gone | 1 << write);
    }

    /// Reads whatever may be read, wherever the lease holds: a majority promised nobody else.
    fn read(&self, state: &mut State) -> Option<Violation> {
        let mut readable = [(0, 0); EPOCHS * REPLICAS];
        let mut count = 0;
        for epoch in self.epochs().filter(|epoch| state.writer(*epoch).serving) {
            for replica in (0..self.shape.replicas.len()).filter(|replica| self.is_readable(state, epoch, *replica)) {
                readable[count] = (epoch, replica);
                count += 1;
            }
        }
        for (epoch, replica) in &readable[..count] {
            let (seen, all) = (state.replicas[*replica].history, state.of_slot(self.slot_of(*replica)));
            let missing = (state.flushed | (state.answered & !state.excused)) & all & !seen;
            if let Some((write, _)) = state.each(missing).next() {
                return Some(Violation::Lost { write, epoch: *epoch, replica: *replica });
            }
            state.dropped |= state.only(all & !seen, |write| write.epoch < *epoch);
        }
        for (epoch, replica) in &readable[..count] {
            let seen = state.replicas[*replica].history;
            if let Some((write, _)) = state.each(seen & state.dropped).next() {
                return Some(Violation::CameBack { write, epoch: *epoch, replica: *replica });
            }
        }
        None
    }

    fn is_readable(&self, state: &State, epoch: u8, replica: usize) -> bool {
        let (slot, view) = (self.slot_of(replica), state.view(epoch, replica));
        let floor = state.writer(epoch).slots[slot].answered;
        let promised = |replica: &usize| state.replicas[*replica].promise == epoch;
        view.mode == Mode::Live
            && view.current
            && view.applied >= floor
            && self.serves(state, epoch, replica)
            && self.applied(state, replica) >= floor
            && self.replicas_of_slot(slot).filter(promised).count() >= self.majority(slot)
    }

    /// Histories of one epoch are beginnings of one another, and all agree below their watermarks.
    fn compare(&self, state: &State) -> Option<Violation> {
        for one in 0..self.shape.replicas.len() {
            let replica = &state.replicas[one];
            if replica.reported > (replica.adopted, state.end_of(replica.synced)) && replica.torn == 0 {
                return Some(Violation::HealthyCalledDamaged { replica: one });
            }
            for other in (0..one).filter(|other| self.slot_of(*other) == self.slot_of(one)) {
                let (a, b) = (&state.replicas[one], &state.replicas[other]);
                let (x, y) = (a.complete(), b.complete());
                let agree = |upto: u8| state.upto(x, upto) == state.upto(y, upto);
                if a.adopted == b.adopted && !agree(state.end_of(x).min(state.end_of(y))) {
                    return Some(Violation::HistoriesDiffer { one: other, other: one });
                }
                if !agree(a.watermark.min(b.watermark)) {
                    return Some(Violation::WatermarksLie { one: other, other: one });
                }
            }
        }
        None
    }

    /// Forgets what can have no effect any more, so that states that differ in nothing else are one.
    fn retire(&self, state: &mut State) {
        state.answered = (state.answered | state.flushed) & !state.dropped;
        state.excused &= !state.flushed & !state.dropped;
        state.lost &= !state.flushed & !state.dropped;
        let replicas = 0..self.shape.replicas.len();
        for replica in &mut state.replicas[replicas.clone()] {
            // It was compared just now with what is synced here, and only a tear takes that away.
            if state.left.tears == 0 && replica.torn == 0 || replica.reported.0 < replica.adopted {
                replica.reported = (0, 0);
            }
        }
        for epoch in self.epochs() {
            if replicas.clone().all(|index| state.replicas[index].promise > epoch) {
                *state.writer_mut(epoch) = Writer::default();
                state.views[usize::from(epoch) - 1] = Default::default();
            }
        }
        for epoch in self.epochs() {
            for index in 0..self.shape.replicas.len() {
                let chosen = state.writer(epoch).slots[self.slot_of(index)].chosen;
                if state.replicas[index].promise <= epoch {
                    continue;
                }
                let view = state.view_mut(epoch, index);
                view.current = false;
                if view.mode == Mode::CatchingUp || (chosen && view.mode == Mode::Voted) {
                    *view = View::default();
                }
            }
        }
        debug_assert!(state.replicas.iter().all(|replica| replica.staged == NONE || replica.is_catching_up()));
    }
}

/// The writes of a set as a reader calls them.
pub fn names(state: &State, set: Set) -> String {
    let names: Vec<String> = state.each(set).map(|(index, _)| format!("w{}", index + 1)).collect();
    if names.is_empty() { "nothing".to_owned() } else { names.join(" ") }
}
