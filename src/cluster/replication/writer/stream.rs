//! Records go out to the silos of a slot, acknowledgements come back, and writes are answered at a majority.

use crate::base::clock::Moment;
use crate::base::id::{Seq, SiloId, SlotIndex};
use crate::base::mutant::{Mutant, on};
use crate::cluster::replication::message::{Ack, Append, ToSilo};
use crate::cluster::replication::order::RequestId;
use crate::cluster::replication::writer::slots::{Mode, Peer, after};
use crate::cluster::replication::writer::{Output, Phase, RESEND_AFTER, WINDOW_BYTES, Writer};

impl Writer {
    /// Sends every silo of a slot what it lacks of the stream, as far as its window allows.
    pub(super) fn pump(&mut self, now: Moment, index: usize) {
        for peer in 0..self.slots[index].peers.len() {
            self.pump_peer(now, index, peer);
        }
    }

    fn pump_peer(&mut self, now: Moment, index: usize, peer: usize) {
        let slot = &mut self.slots[index];
        let memory_starts = slot.memory_starts();
        let peer = &mut slot.peers[peer];
        let streams = peer.is_live() || matches!(peer.mode, Mode::CatchingUp(_));
        let Some(link) = self.links.get(&peer.silo) else { return };
        // What was pending when the release began has failed: nothing more of it goes out.
        if !streams || !link.promised || peer.sent >= slot.last || self.releasing {
            return;
        }
        if peer.sent < memory_starts {
            peer.lagging = true;
            return;
        }
        let from = after(&slot.retained, peer.sent);
        for retained in slot.retained.range(from..) {
            if peer.in_flight_bytes >= WINDOW_BYTES {
                break;
            }
            if peer.in_flight.is_empty() {
                peer.progress_at = now;
            }
            let append = Append {
                silo: peer.silo,
                config: slot.config,
                epoch: self.options.epoch,
                previous: retained.previous,
                incarnation: link.incarnation,
                committed: slot.committed,
                sent: now.0,
                sync: retained.sync,
                record: retained.record.clone(),
            };
            let cost = retained.record.len();
            peer.sent = retained.seq;
            peer.in_flight.push_back((retained.seq, cost));
            peer.in_flight_bytes += cost;
            if retained.sync {
                peer.sync_asked = peer.sync_asked.max(retained.seq);
            }
            self.outputs.push(Output::Send(peer.silo, ToSilo::Append(append)));
        }
    }

    /// A silo tells how far the stream has come.
    pub(super) fn acknowledged(&mut self, now: Moment, ack: Ack) {
        if !self.is_current(ack.silo, ack.epoch, ack.incarnation) {
            return;
        }
        self.renewed(now, ack.silo, ack.sent);
        if let Some(link) = self.links.get_mut(&ack.silo) {
            link.takes_writes = ack.takes_writes;
        }
        let index = ack.key.slot.0 as usize;
        let Some(slot) = self.slots.get_mut(index) else { return };
        let last = slot.last;
        let Some(peer) = slot.peer_mut(ack.silo) else { return };
        if !peer.is_live() && !matches!(peer.mode, Mode::CatchingUp(_)) {
            return;
        }
        // A number above the stream's end would be another history's: never believed.
        let (applied, durable) = (ack.applied.min(last), ack.durable.min(last));
        if applied > peer.applied || durable > peer.durable {
            peer.progress_at = now;
        }
        peer.applied = peer.applied.max(applied);
        peer.reached(durable);
        while peer.in_flight.front().is_some_and(|(seq, _)| *seq <= applied) {
            let Some((_, cost)) = peer.in_flight.pop_front() else { break };
            peer.in_flight_bytes -= cost;
        }
        if peer.is_live() {
            peer.durable_max = peer.durable_max.max(peer.durable);
            self.advance(now, index);
        }
        self.pump(now, index);
        self.finish_catch_up(now, index, ack.silo);
    }

    /// Answers what a majority has, releases what a majority has durably.
    pub(super) fn advance(&mut self, now: Moment, index: usize) {
        let slot = &mut self.slots[index];
        if !slot.adopted {
            return;
        }
        let first =
            || slot.peers.iter().filter(|peer| peer.is_live()).map(|peer| peer.applied).max().unwrap_or_default();
        let applied = if on(Mutant::AckBeforeMajority) { first() } else { slot.majority_at(|peer| peer.applied) };
        let durable = slot.majority_at(|peer| peer.durable);
        let mut answered: Vec<RequestId> = Vec::new();
        if applied > slot.answered {
            let from = after(&slot.retained, slot.answered);
            for retained in slot.retained.range_mut(from..) {
                if retained.seq > applied {
                    break;
                }
                let early = on(Mutant::FuaWithoutItsSeq) && retained.previous <= durable;
                if !retained.durable || early {
                    answered.extend(retained.request.take());
                }
            }
            slot.answered = applied;
        }
        if on(Mutant::RetainedDroppedAtFirstAck) {
            let kept = slot.retained.iter().find(|retained| retained.request.is_some());
            let upto = kept.map_or(slot.last, |retained| retained.previous);
            self.forget_upto(index, upto, &mut answered);
        }
        let slot = &mut self.slots[index];
        let released = durable > slot.committed;
        if released {
            slot.committed = durable;
            self.forget_upto(index, durable, &mut answered);
        }
        for id in answered {
            self.part_done(now, id);
        }
        if released {
            self.flushed(index);
            self.unpark(now);
        }
        self.retry_reads(now);
    }

    /// A silo misses a record: the stream goes on from what it has.
    pub(super) fn gap(&mut self, now: Moment, silo: SiloId, index: SlotIndex, applied: Seq) {
        let index = index.0 as usize;
        let Some(peer) = self.slots.get_mut(index).and_then(|slot| slot.peer_mut(silo)) else { return };
        if peer.sent <= applied {
            return;
        }
        peer.stream_from(now, applied);
        self.pump(now, index);
    }

    /// Resends, starts catching up where the memory does not reach, and keeps recovery going.
    pub(super) fn tick_slot(&mut self, index: usize, now: Moment) {
        for at in 0..self.slots[index].peers.len() {
            let peer = &mut self.slots[index].peers[at];
            if !peer.in_flight.is_empty() && now.since(peer.progress_at) >= RESEND_AFTER {
                // A silo that is catching up stands at its floor before its first acknowledgement.
                let floor = if let Mode::CatchingUp(catch_up) = &peer.mode { catch_up.floor } else { Seq::ZERO };
                peer.stream_from(now, peer.applied.max(floor));
                self.pump_peer(now, index, at);
            }
            let peer = &mut self.slots[index].peers[at];
            peer.tick_sync(now);
            if peer.lagging {
                peer.lagging = false;
                let silo = peer.silo;
                self.fell_behind(now, index, silo);
            }
            self.tick_peer(index, at, now);
        }
        self.slots[index].note_suspension(now);
        if self.slots[index].choice.is_none() {
            self.choose(now, index);
        }
        self.ask_for_syncs(index);
        self.check_choice(index, now);
        self.tick_half(now, index);
        self.tick_change(now, index);
    }

    /// A live silo is behind what is remembered: it catches up from another.
    fn fell_behind(&mut self, now: Moment, index: usize, silo: SiloId) {
        let Some(peer) = self.slots[index].peer_mut(silo) else { return };
        if peer.is_live() {
            let base = peer.applied;
            self.start_catch_up(now, index, silo, base);
        } else if matches!(peer.mode, Mode::CatchingUp(_)) {
            // The stream outran the window while it was catching up: start again with a later floor.
            self.out_of_step(now, silo, None);
        }
    }

    /// Whether requests can be served at all: a majority of every slot adopted the epoch.
    pub(super) fn check_serving(&mut self, now: Moment) {
        if self.phase != Phase::Recovering || !self.slots.iter().all(|slot| slot.adopted) {
            return;
        }
        self.phase = Phase::Serving;
        let highest = self.slots.iter().map(|slot| slot.last).max().unwrap_or_default();
        self.next_seq = self.next_seq.max(highest.next());
        let resumed = self.options.resumes.map(|_| self.slots.iter().all(|slot| slot.resumes));
        self.outputs.push(Output::Serving { resumed });
        self.retry_reads(now);
        self.unpark(now);
        for index in 0..self.slots.len() {
            self.flushed(index);
        }
    }

    /// The silos of a slot that count, and whether they are enough.
    pub(super) fn live(&self, index: usize) -> impl Iterator<Item = &Peer> {
        self.slots[index].peers.iter().filter(|peer| peer.is_live())
    }
}
