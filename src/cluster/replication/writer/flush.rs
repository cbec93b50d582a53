//! Flush means disk (rule 3): answered once everything answered before it is durable on a majority of each slot.

use crate::base::id::{Seq, SiloId};
use crate::base::mutant::{Mutant, on};
use crate::cluster::replication::message::Request;
use crate::cluster::replication::order::RequestId;
use crate::cluster::replication::writer::slots::Slot;
use crate::cluster::replication::writer::{Output, Phase, RETAINED_WRITES_MAX, Response, Writer};

/// Requests over which the rhythm is judged: enough to be sure, few enough to follow a change.
const RHYTHM_REQUESTS: u32 = 64;
/// Fewer flushes than this tell nothing.
const RHYTHM_FLUSHES_MIN: u32 = 8;

/// Whether the client flushes about as often as it writes. Then silos begin to sync with the write, without being asked:
/// the disk is at work while the answer travels and the flush comes. With several writes a flush a sync begun with the
/// first of them would only delay the one that counts, so those are left to the flush.
#[derive(Default)]
pub struct Rhythm {
    writes: u32,
    flushes: u32,
}

impl Rhythm {
    /// A write comes; whether a flush is expected to follow.
    pub(super) fn written(&mut self) -> bool {
        self.writes += 1;
        self.fade();
        self.flushes >= RHYTHM_FLUSHES_MIN && self.flushes * 4 >= self.writes * 3
    }

    fn flushed(&mut self) {
        self.flushes += 1;
        self.fade();
    }

    /// What was long ago counts for less and less.
    fn fade(&mut self) {
        if self.writes + self.flushes >= RHYTHM_REQUESTS * 2 {
            self.writes /= 2;
            self.flushes /= 2;
        }
    }
}

/// A flush that waits.
pub struct Flush {
    /// By slot: what must be durable. None until recovery tells what there is.
    targets: Option<Vec<Seq>>,
}

impl Writer {
    /// Takes a flush: it covers every write whose answer was issued before, recovered ones included.
    pub(super) fn flush(&mut self, id: RequestId) {
        self.rhythm.flushed();
        let targets = (self.phase == Phase::Serving).then(|| self.flush_targets());
        self.flushes.insert(id, Flush { targets });
        for index in 0..self.slots.len() {
            self.ask_for_syncs(index);
        }
        self.answer_flushes();
    }

    fn flush_targets(&self) -> Vec<Seq> {
        self.slots.iter().map(|slot| slot.answered).collect()
    }

    /// More became durable in a slot, or it began to serve.
    pub(super) fn flushed(&mut self, _index: usize) {
        if !self.flushes.is_empty() {
            self.answer_flushes();
        }
    }

    fn answer_flushes(&mut self) {
        if self.phase != Phase::Serving {
            return;
        }
        let fresh = self.flush_targets();
        let slots = &self.slots;
        let done: Vec<RequestId> = self
            .flushes
            .iter_mut()
            .filter_map(|(id, flush)| {
                let targets = flush.targets.get_or_insert_with(|| fresh.clone());
                let is_durable = |(target, slot): (&Seq, &Slot)| slot.committed >= *target || on(Mutant::FlushOnMemory);
                targets.iter().zip(slots).all(is_durable).then_some(*id)
            })
            .collect();
        for id in done {
            self.flushes.remove(&id);
            self.outputs.push(Output::Answer(id, Ok(Response::Done)));
        }
    }

    /// What somebody waits for to be durable in a slot.
    fn wanted(&self, index: usize) -> Seq {
        let flushes = self.flushes.values().filter_map(|flush| flush.targets.as_ref().map(|targets| targets[index]));
        let writes = self.slots[index].durable_wanted;
        flushes.max().unwrap_or_default().max(writes)
    }

    /// Asks every live silo of a slot for the durability that somebody waits for, once each.
    pub(super) fn ask_for_syncs(&mut self, index: usize) {
        let wanted = self.wanted(index);
        if wanted > self.slots[index].committed {
            self.ask_for_sync(index, wanted, false);
        }
        self.sync_if_pressed(index);
    }

    /// The writer flushes on its own, everything that was sent, one sync a silo at a time: when half of what it may remember
    /// is used (rule 4), and while a silo has no room for new writes. What was trimmed or written over there lets go of its
    /// space only once the trim is durable on a majority, and a client that is refused may never flush.
    pub(super) fn sync_if_pressed(&mut self, index: usize) {
        let slot = &self.slots[index];
        let share = self.slots.len().clamp(1, 8);
        let bytes = self.retained_bytes_max / share / 2;
        let writes = RETAINED_WRITES_MAX / share / 2;
        let full = |silo: &SiloId| self.links.get(silo).is_some_and(|link| link.promised && !link.takes_writes);
        let short = slot.last > slot.committed && slot.peers.iter().any(|peer| full(&peer.silo));
        if short || slot.retained_bytes >= bytes || slot.retained.len() >= writes {
            self.ask_for_sync(index, slot.last, true);
        }
    }

    /// `idle`: only silos that no sync was asked of which they have not done yet.
    pub(super) fn ask_for_sync(&mut self, index: usize, upto: Seq, idle: bool) {
        let slot = &mut self.slots[index];
        let epoch = self.options.epoch;
        let mut asked = Vec::new();
        for peer in slot.peers.iter_mut().filter(|peer| peer.is_live()) {
            let reach = upto.min(peer.sent);
            let busy = idle && peer.sync_asked > peer.durable;
            if reach > peer.durable && reach > peer.sync_asked && !busy {
                peer.sync_asked = reach;
                asked.push((peer.silo, reach));
            }
        }
        let slot = slot.index;
        for (silo, upto) in asked {
            let Some(incarnation) = self.links.get(&silo).map(|link| link.incarnation) else { continue };
            self.send(silo, Request::Sync { slot, epoch, incarnation, upto });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn play(rhythm: &mut Rhythm, writes: u32, flushes: u32) -> bool {
        let expected = (0..writes).fold(false, |_, _| rhythm.written());
        (0..flushes).for_each(|_| rhythm.flushed());
        expected
    }

    #[test]
    fn a_flush_is_expected_while_there_are_about_as_many_as_writes() {
        let mut rhythm = Rhythm::default();
        assert!(!(0..RHYTHM_FLUSHES_MIN).any(|_| play(&mut rhythm, 1, 1)), "too early to tell");
        assert!((0..500).all(|_| play(&mut rhythm, 1, 1)));
        play(&mut rhythm, RHYTHM_REQUESTS, 0);
        assert!(!play(&mut rhythm, 1, 0), "a long row of writes ends it");
        let mut bursts = Rhythm::default();
        play(&mut bursts, 32, 32);
        assert!((0..50).all(|_| {
            let expected = bursts.written();
            play(&mut bursts, 31, 32);
            expected
        }));
        let mut rare = Rhythm::default();
        assert!(!(0..100).any(|_| play(&mut rare, 4, 1)));
    }
}
