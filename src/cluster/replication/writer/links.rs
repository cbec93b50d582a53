//! What the writer knows of each silo, whatever the slot: connection, promise, lease, space.

use std::time::Duration;

use crate::base::clock::Moment;
use crate::base::id::{Incarnation, SiloId, SlotIndex};
use crate::base::mutant::{Mutant, on};
use crate::cluster::replication::message::{Promised, Request, SlotNews};
use crate::cluster::replication::writer::slots::{Mode, OutReason, Slot};
use crate::cluster::replication::writer::{Phase, Writer};

/// How often silos are told of one another at the least; more often where a lease is short.
const HEARTBEAT_MAX: Duration = Duration::from_millis(500);
/// How long after a refusal the promise is asked for again, at the most.
const PROMOTE_AGAIN_AFTER: Duration = Duration::from_millis(200);
/// How long an answer to a promotion may take before it is asked for again: a promise costs an fsync or two.
const PROMOTE_LOST_AFTER: Duration = Duration::from_secs(1);

/// One silo as the writer sees it.
#[derive(Clone, Debug)]
pub struct Link {
    pub connected: bool,
    /// When it last said anything.
    pub heard: Moment,
    /// The promise of this epoch was given on this connection.
    pub promised: bool,
    /// The incarnation of the promise.
    pub incarnation: Incarnation,
    /// The last incarnation that the silo or the cluster state told: a silo that does not descend from it is another.
    last: Option<Incarnation>,
    /// What the silo's incarnation descends from, as far as it told.
    chain: Vec<Incarnation>,
    pub takes_writes: bool,
    /// Until then, by the writer's clock and with a margin, the silo promises to nobody else (rule 9).
    pub lease_until: Moment,
    ask_at: Option<Moment>,
    /// When the promise was asked for, 0 if it is not: an answer to an earlier question is stale. Asked again for want of
    /// an answer it is the same question, so that a silo that takes long is not asked for ever.
    asked: u64,
    /// Another holder's lease keeps the silo from promising until about then.
    pub leased_until: Option<Moment>,
    pub out: Option<OutReason>,
    /// Since when it is taken for another silo: that may end, once the cluster state says more.
    pub foreign_since: Option<Moment>,
}

impl Link {
    pub fn new(incarnation: Option<Incarnation>) -> Self {
        Self {
            connected: false,
            heard: Moment::default(),
            promised: false,
            incarnation: incarnation.unwrap_or_default(),
            last: incarnation,
            chain: Vec::new(),
            takes_writes: true,
            lease_until: Moment::default(),
            ask_at: None,
            asked: 0,
            leased_until: None,
            out: None,
            foreign_since: None,
        }
    }

    /// It will be asked for its promise, or was and has not answered.
    pub(super) fn is_asked_again(&self) -> bool {
        self.ask_at.is_some() || self.asked != 0
    }

    /// The cluster state knows this incarnation. Unless that is old news, the silo's chain may begin there now.
    pub(super) fn confirmed(&mut self, incarnation: Incarnation) {
        if self.chain.contains(&incarnation) || self.last == Some(incarnation) {
            return;
        }
        self.last = Some(incarnation);
        if self.out == Some(OutReason::Foreign) {
            self.out = None;
        }
    }

    /// The connection is gone. The lease stands: the silo granted it, whatever became of the connection.
    pub fn broken(&mut self) {
        self.connected = false;
        self.promised = false;
        self.ask_at = None;
        self.asked = 0;
        self.leased_until = None;
        if matches!(self.out, Some(OutReason::Faulted(_))) {
            self.out = None;
        }
    }
}

impl Writer {
    /// Asks a silo for the promise of this epoch, for all slots it holds.
    pub(super) fn promote(&mut self, now: Moment, silo: SiloId) {
        if let Some(link) = self.links.get_mut(&silo) {
            link.promised = false;
        }
        self.promote_more(now, silo);
    }

    /// The same because there are more slots: what it promised for the others stands.
    pub(super) fn promote_more(&mut self, now: Moment, silo: SiloId) {
        let slots = self
            .slots
            .iter()
            .filter(|slot| slot.peers.iter().any(|peer| peer.silo == silo))
            .map(|slot| (slot.index, slot.config))
            .collect();
        let Some(link) = self.links.get_mut(&silo) else { return };
        link.ask_at = Some(now + PROMOTE_LOST_AFTER);
        if link.asked == 0 {
            link.asked = now.0;
        }
        let sent = link.asked;
        let request = Request::Promote {
            epoch: self.options.epoch,
            holder: self.options.node,
            own_dead: self.options.own_dead,
            lease_ms: self.options.lease.as_millis() as u32,
            sent,
            slots,
        };
        self.send(silo, request);
    }

    /// A silo gave its promise, and votes.
    pub(super) fn promised(&mut self, now: Moment, silo: SiloId, promised: Promised) {
        let lease = self.options.lease;
        let Some(link) = self.links.get_mut(&silo) else { return };
        if promised.epoch != self.options.epoch || !link.connected || promised.sent != link.asked {
            return;
        }
        let foreign = link.last.is_some_and(|last| last != promised.incarnation && !promised.chain.contains(&last));
        if foreign && !on(Mutant::BlankVotes) && !on(Mutant::RestoredVotes) {
            link.out = Some(OutReason::Foreign);
            link.foreign_since.get_or_insert(now);
            return;
        }
        let is_the_same = link.promised && link.incarnation == promised.incarnation;
        link.foreign_since = None;
        link.incarnation = promised.incarnation;
        link.last = Some(promised.incarnation);
        link.chain = promised.chain;
        link.promised = true;
        link.asked = 0;
        link.out = None;
        link.ask_at = None;
        link.leased_until = None;
        link.takes_writes = promised.takes_writes;
        link.lease_until = link.lease_until.max(lease_end(promised.sent, lease));
        let told: Vec<SlotIndex> = promised.slots.iter().map(|vote| vote.slot).collect();
        for vote in promised.slots {
            self.voted(now, silo, vote, is_the_same);
        }
        // A slot that took the silo in while the answer was under way.
        let is_untold = |slot: &Slot| slot.peer(silo).is_some() && !told.contains(&slot.index);
        if self.slots.iter().any(is_untold) {
            self.promote_more(now, silo);
        }
        self.leases_changed(now);
    }

    /// Another writer's lease still runs on this silo: ask again when it may have ended.
    pub(super) fn leased(&mut self, now: Moment, silo: SiloId, remaining_ms: u64) {
        let Some(link) = self.links.get_mut(&silo) else { return };
        let remaining = Duration::from_millis(remaining_ms);
        link.asked = 0;
        link.leased_until = Some(now + remaining);
        link.ask_at = Some(now + remaining.min(PROMOTE_AGAIN_AFTER));
    }

    pub(super) fn faulted(&mut self, silo: SiloId, why: String) {
        if let Some(link) = self.links.get_mut(&silo) {
            link.promised = false;
            link.ask_at = None;
            link.out = Some(OutReason::Faulted(why));
        }
        for slot in &mut self.slots {
            if let Some(peer) = slot.peer_mut(silo) {
                peer.mode = Mode::Away;
            }
        }
    }

    /// The silo and the writer disagree on where they are: promise and vote again.
    pub(super) fn out_of_step(&mut self, now: Moment, silo: SiloId, _slot: Option<SlotIndex>) {
        let Some(link) = self.links.get_mut(&silo) else { return };
        if link.connected && link.ask_at.is_none() {
            link.promised = false;
            link.asked = 0;
            link.ask_at = Some(now + PROMOTE_AGAIN_AFTER);
        }
    }

    /// A frame sent at `sent` was accepted: the lease runs from then.
    pub(super) fn renewed(&mut self, now: Moment, silo: SiloId, sent: u64) {
        let end = lease_end(sent, self.options.lease);
        let Some(link) = self.links.get_mut(&silo) else { return };
        let was_valid = link.lease_until > now;
        link.lease_until = link.lease_until.max(end);
        if !was_valid {
            self.leases_changed(now);
        }
    }

    pub(super) fn tick_links(&mut self, now: Moment) {
        let due: Vec<SiloId> = self
            .links
            .iter()
            .filter(|(_, link)| !self.releasing && link.connected && link.ask_at.is_some_and(|at| at <= now))
            .map(|(silo, _)| *silo)
            .collect();
        for silo in due {
            self.promote(now, silo);
        }
        if now >= self.next_heartbeat && self.phase != Phase::Over && !self.releasing {
            let every = if self.options.lease.is_zero() { HEARTBEAT_MAX } else { self.options.lease / 8 };
            self.next_heartbeat = now + every.min(HEARTBEAT_MAX);
            self.heartbeat(now);
        }
    }

    /// Renews the leases and tells every silo what the others reported (rules 9 and 14).
    pub(super) fn heartbeat(&mut self, now: Moment) {
        let epoch = self.options.epoch;
        let targets: Vec<_> =
            self.links.iter().filter(|(_, link)| link.promised).map(|(silo, link)| (*silo, link.incarnation)).collect();
        for (silo, incarnation) in targets {
            let slots = self
                .slots
                .iter()
                .filter(|slot| slot.peers.iter().any(|peer| peer.silo == silo))
                .map(|slot| SlotNews { slot: slot.index, committed: slot.committed, silos: slot.reports(epoch) })
                .collect();
            self.send(silo, Request::Heartbeat { epoch, incarnation, sent: now.0, slots });
        }
    }

    /// A majority of the slot's silos promises to nobody else now (rule 7). Any member's promise counts.
    pub(super) fn lease_holds(&self, slot: usize, now: Moment) -> bool {
        self.slots[slot].has_majority(|peer| self.links.get(&peer.silo).is_some_and(|link| link.lease_until > now))
    }
}

/// Nine tenths of the term, counted from the sending.
fn lease_end(sent: u64, lease: Duration) -> Moment {
    let tenths = if on(Mutant::NoDriftMargin) { 10 } else { 9 };
    Moment(sent) + lease * tenths / 10
}
