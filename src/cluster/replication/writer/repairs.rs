//! A damaged block is repaired with exactly the version that its silo has indexed, read from another (rule 7).
//!
//! Whoever finds a block damaged, a read, a transfer or a scrub, goes on with another silo at once; the repair follows by
//! itself. If the block is written meanwhile the versions do not match, nothing is stored, and nothing is lost: the
//! damaged bytes are no part of any answer any more.
//!
//! A live silo is asked for its newest version, which is the indexed one if it has applied everything answered. Where the
//! only live silo is the damaged one, nobody could be brought up to date from it, and so nobody would ever become able to
//! give it the block. Then it says which version it has indexed, and the others are asked for exactly this one: they need
//! no place in the writer's history for that, see `version_objection` of the acceptor.

use std::time::Duration;

use crate::base::clock::Moment;
use crate::base::id::{Epoch, Seq, SiloId, SlotIndex, Stamp};
use crate::base::mutant::{Mutant, on};
use crate::cluster::replication::message::{Parcel, ReadRefusal, Request};
use crate::cluster::replication::writer::slots::Mode;
use crate::cluster::replication::writer::{Phase, Writer};

/// Repairs under way at the most; further damage is found again by the next read.
const REPAIRS_MAX: usize = 1024;
/// A question not answered for so long, or one that nobody could answer, is asked again.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Slot, silo and block.
pub type Damage = (usize, SiloId, u64);

/// How a repair ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum RepairEnd {
    /// The silo has the block again, or there is nothing to have any more.
    Mended,
    /// No silo has a whole copy.
    Lost,
    /// The silo went away.
    Gone,
}

/// A block that is being repaired.
#[derive(Clone, Debug)]
pub struct Repair {
    stage: Stage,
    since: Moment,
    /// Silos whose copy is damaged too.
    damaged: Vec<SiloId>,
    /// The version that the damaged silo has indexed, if it had to be asked.
    stamp: Option<Stamp>,
    /// Silos that could not give it, or did not answer: asked again once all others were.
    lacking: Vec<SiloId>,
}

#[derive(Clone, Debug)]
enum Stage {
    /// No silo can give its copy now.
    Waiting,
    /// The damaged silo is asked which version it has indexed.
    Asked {
        id: u64,
    },
    Fetching {
        source: SiloId,
        id: u64,
    },
    /// The version was sent to the damaged silo.
    Sent,
}

impl Writer {
    /// A silo found the block damaged that it should have read.
    pub(super) fn damaged(&mut self, now: Moment, index: usize, silo: SiloId, block: u64) {
        let damage = (index, silo, block);
        if self.phase == Phase::Over || self.repairs.len() >= REPAIRS_MAX || self.repairs.contains_key(&damage) {
            return;
        }
        let repair =
            Repair { stage: Stage::Waiting, since: now, damaged: Vec::new(), stamp: None, lacking: Vec::new() };
        self.repairs.insert(damage, repair);
        self.fetch_copy(now, damage);
    }

    pub(super) fn is_repairing(&self, index: usize, silo: SiloId, block: u64) -> bool {
        self.repairs.contains_key(&(index, silo, block))
    }

    fn end_repair(&mut self, now: Moment, damage: Damage, end: RepairEnd) {
        if self.repairs.remove(&damage).is_some() {
            self.repair_over(now, damage, end);
        }
    }

    /// Whether no silo has a whole copy of the block: each was found damaged, and none is just being given a copy.
    fn is_lost(&self, (index, silo, block): Damage) -> bool {
        let Some(repair) = self.repairs.get(&(index, silo, block)) else { return false };
        self.slots[index].holders().all(|peer| match self.repairs.get(&(index, peer.silo, block)) {
            Some(other) => !matches!(other.stage, Stage::Sent),
            None => repair.damaged.contains(&peer.silo),
        })
    }

    /// A silo's scrub found the block damaged, in the epoch that the silo has adopted.
    pub(super) fn told_of_damage(&mut self, now: Moment, silo: SiloId, slot: SlotIndex, epoch: Epoch, block: u64) {
        let index = slot.0 as usize;
        let live = self.slots.get(index).and_then(|slot| slot.peer(silo)).is_some_and(|peer| peer.is_live());
        // One that is catching up reads its blocks anew anyway, or tells again once it is live.
        if live && epoch == self.options.epoch {
            self.damaged(now, index, silo, block);
        }
    }

    /// Asks a silo that has everything answered for its copy.
    fn fetch_copy(&mut self, now: Moment, damage: Damage) {
        let (index, silo, block) = damage;
        if self.is_lost(damage) {
            // Reads of it say so.
            let silos: Vec<SiloId> = self.slots[index].peers.iter().map(|peer| peer.silo).collect();
            silos.into_iter().for_each(|silo| self.end_repair(now, (index, silo, block), RepairEnd::Lost));
            return;
        }
        let id = self.fresh_id();
        let epoch = self.options.epoch;
        let slot = &self.slots[index];
        let others = slot.peers.iter().map(|peer| peer.silo).filter(|other| *other != silo);
        // Those whose copy of this block waits for a repair itself are not asked.
        let others: Vec<SiloId> = others.filter(|other| !self.repairs.contains_key(&(index, *other, block))).collect();
        let Some(repair) = self.repairs.get_mut(&damage) else { return };
        let floor = if on(Mutant::RepairFromOlder) { Seq::ZERO } else { slot.read_floor() };
        let has_all = |silo: SiloId| slot.peer(silo).is_some_and(|peer| peer.is_live() && peer.applied >= floor);
        let whole: Vec<SiloId> = others.into_iter().filter(|other| !repair.damaged.contains(other)).collect();
        repair.since = now;
        let able: Vec<SiloId> = whole.iter().copied().filter(|other| has_all(*other)).collect();
        let Some(first) = able.first().copied() else {
            return self.fetch_exactly(damage, id, whole);
        };
        let source = able.into_iter().find(|other| !repair.lacking.contains(other)).unwrap_or_else(|| {
            repair.lacking.clear();
            first
        });
        repair.stage = Stage::Fetching { source, id };
        let slot = slot.index;
        self.send(source, Request::Fetch { id, slot, epoch, floor, block });
    }

    /// No live silo can give its copy: of the others at hand one may have exactly the version that is damaged.
    fn fetch_exactly(&mut self, damage: Damage, id: u64, others: Vec<SiloId>) {
        let (index, silo, block) = damage;
        let (slot, epoch) = (&self.slots[index], self.options.epoch);
        let is_at_hand = |other: &SiloId| {
            let takes_part = slot.peer(*other).is_some_and(|peer| !matches!(peer.mode, Mode::Away | Mode::Live));
            takes_part && self.links.get(other).is_some_and(|link| link.promised)
        };
        let at_hand: Vec<SiloId> = others.into_iter().filter(is_at_hand).collect();
        let is_live = slot.peer(silo).is_some_and(|peer| peer.is_live());
        let slot = slot.index;
        let Some(repair) = self.repairs.get_mut(&damage) else { return };
        let source = at_hand.iter().copied().find(|other| !repair.lacking.contains(other));
        match (repair.stamp, source) {
            (Some(stamp), Some(source)) => {
                repair.stage = Stage::Fetching { source, id };
                self.send(source, Request::FetchVersion { id, slot, epoch, block, stamp });
            }
            (None, Some(_)) if is_live => {
                repair.stage = Stage::Asked { id };
                self.send(silo, Request::Indexed { id, slot, epoch, block });
            }
            _ => {
                repair.lacking.clear();
                repair.stage = Stage::Waiting;
            }
        }
    }

    /// The damaged silo told which version it has indexed.
    pub(super) fn indexed(&mut self, now: Moment, from: SiloId, id: u64, result: Result<Option<Stamp>, ReadRefusal>) {
        let asked = self.repairs.iter_mut().find(|((_, silo, _), repair)| {
            *silo == from && matches!(repair.stage, Stage::Asked { id: asked } if asked == id)
        });
        let Some((damage, repair)) = asked else { return };
        let damage = *damage;
        match result {
            Ok(Some(stamp)) => {
                repair.stamp = Some(stamp);
                self.fetch_copy(now, damage);
            }
            Ok(None) => self.end_repair(now, damage, RepairEnd::Mended),
            Err(ReadRefusal::Fenced { promise }) => self.fence(promise),
            Err(_) => repair.stage = Stage::Waiting,
        }
    }

    /// A silo gave its copy: it goes to the one whose copy is damaged.
    pub(super) fn fetched(&mut self, now: Moment, from: SiloId, id: u64, result: Result<Parcel, ReadRefusal>) {
        let asked = self.repairs.iter_mut().find(
            |(_, repair)| matches!(repair.stage, Stage::Fetching { source, id: asked } if source == from && asked == id),
        );
        let Some((damage, repair)) = asked else { return };
        let damage = *damage;
        let (index, silo, block) = damage;
        let is_live = self.slots[index].peer(from).is_some_and(|peer| peer.is_live());
        match result {
            Ok(parcel) if parcel.records.is_empty() && is_live => {
                // The block holds no data any more.
                self.end_repair(now, damage, RepairEnd::Mended);
            }
            Ok(parcel) if parcel.records.is_empty() => {
                repair.lacking.push(from);
                self.fetch_copy(now, damage);
            }
            Ok(parcel) => {
                repair.stage = Stage::Sent;
                repair.since = now;
                let Some(incarnation) = self.links.get(&silo).map(|link| link.incarnation) else { return };
                let (slot, epoch) = (self.slots[index].index, self.options.epoch);
                self.send(silo, Request::Repair { slot, epoch, incarnation, block, parcel });
            }
            Err(ReadRefusal::Fenced { promise }) => self.fence(promise),
            Err(ReadRefusal::Damaged { .. }) => {
                repair.damaged.push(from);
                self.fetch_copy(now, damage);
                // One that catches up gets its blocks anew anyway, or is found out once it is live. If all is lost, it is
                // not tried again before somebody asks for the block.
                if is_live && self.is_repairing(index, silo, block) {
                    self.damaged(now, index, from, block);
                }
            }
            Err(ReadRefusal::Behind | ReadRefusal::Faulted(_)) => {
                repair.lacking.push(from);
                repair.stage = Stage::Waiting;
            }
        }
    }

    /// The silo stored the block again, or found that it was written meanwhile.
    pub(super) fn repaired(&mut self, now: Moment, silo: SiloId, slot: SlotIndex, block: u64, mended: u64) {
        let index = slot.0 as usize;
        if !self.is_repairing(index, silo, block) {
            return;
        }
        self.repaired_blocks += mended;
        // Others may have its copy now.
        let same_block = |(at, _, other): &Damage| (*at, *other) == (index, block);
        for (_, repair) in self.repairs.iter_mut().filter(|(damage, _)| same_block(damage)) {
            repair.damaged.retain(|other| *other != silo);
        }
        self.end_repair(now, (index, silo, block), RepairEnd::Mended);
    }

    /// The connection to a silo broke: its own repairs wait for the next read, those that it was the source of are asked
    /// of another.
    pub(super) fn repairs_of_gone(&mut self, now: Moment, gone: SiloId) {
        let of_gone: Vec<Damage> = self.repairs.keys().filter(|(_, silo, _)| *silo == gone).copied().collect();
        of_gone.into_iter().for_each(|damage| self.end_repair(now, damage, RepairEnd::Gone));
        for repair in self.repairs.values_mut() {
            if matches!(repair.stage, Stage::Fetching { source, .. } if source == gone) {
                repair.stage = Stage::Waiting;
            }
        }
    }

    pub(super) fn tick_repairs(&mut self, now: Moment) {
        let due = self.repairs.iter().filter(|(_, repair)| now.since(repair.since) >= ASK_AGAIN_AFTER);
        let due: Vec<Damage> = due.map(|(damage, _)| *damage).collect();
        for damage in due {
            // One that does not answer is asked again only if there is no other.
            if let Some(repair) = self.repairs.get_mut(&damage)
                && let Stage::Fetching { source, .. } = repair.stage
            {
                repair.lacking.push(source);
            }
            self.fetch_copy(now, damage);
        }
    }
}
