//! Flush means disk (rule 3): answered once everything answered before it is durable on a majority of each slot.

use crate::base::id::Seq;
use crate::cluster::replication::message::Request;
use crate::cluster::replication::order::RequestId;
use crate::cluster::replication::writer::{Output, Phase, RETAINED_WRITES_MAX, Response, Writer};

/// A flush that waits.
pub struct Flush {
    /// By slot: what must be durable. None until recovery tells what there is.
    targets: Option<Vec<Seq>>,
}

impl Writer {
    /// Takes a flush: it covers every write whose answer was issued before, recovered ones included.
    pub(super) fn flush(&mut self, id: RequestId) {
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
                targets.iter().zip(slots).all(|(target, slot)| slot.committed >= *target).then_some(*id)
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
        self.sync_if_half_full(index);
    }

    /// The writer flushes on its own when half of what it may remember is used (rule 4): everything that was sent, one
    /// sync a silo at a time.
    pub(super) fn sync_if_half_full(&mut self, index: usize) {
        let slot = &self.slots[index];
        let share = self.slots.len().clamp(1, 8);
        let bytes = self.retained_bytes_max / share / 2;
        let writes = RETAINED_WRITES_MAX / share / 2;
        if slot.retained_bytes >= bytes || slot.retained.len() >= writes {
            self.ask_for_sync(index, slot.last, true);
        }
    }

    /// `idle`: only silos that no sync was asked of which they have not done yet.
    fn ask_for_sync(&mut self, index: usize, upto: Seq, idle: bool) {
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
