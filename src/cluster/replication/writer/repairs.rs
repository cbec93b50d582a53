//! A damaged block is repaired with exactly the version that its silo has indexed, read from another (rule 7).
//!
//! Whoever finds a block damaged, a read, a transfer or a scrub, goes on with another silo at once; the repair follows by
//! itself. If the block is written meanwhile the versions do not match, nothing is stored, and nothing is lost: the
//! damaged bytes are no part of any answer any more.

use std::time::Duration;

use crate::base::clock::Moment;
use crate::base::id::{Epoch, Seq, SiloId, SlotIndex};
use crate::base::mutant::{Mutant, on};
use crate::cluster::replication::message::{Parcel, ReadRefusal, Request};
use crate::cluster::replication::writer::{Phase, Writer};

/// Repairs under way at the most; further damage is found again by the next read.
const REPAIRS_MAX: usize = 1024;
/// A question not answered for so long, or one that nobody could answer, is asked again.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Slot, silo and block.
pub type Damage = (usize, SiloId, u64);

/// A block that is being repaired.
#[derive(Clone, Debug)]
pub struct Repair {
    stage: Stage,
    since: Moment,
    /// Silos whose copy is damaged too.
    damaged: Vec<SiloId>,
}

#[derive(Clone, Debug)]
enum Stage {
    /// No silo can give its copy now.
    Waiting,
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
        self.repairs.insert(damage, Repair { stage: Stage::Waiting, since: now, damaged: Vec::new() });
        self.fetch_copy(now, damage);
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
        let id = self.fresh_id();
        let epoch = self.options.epoch;
        let slot = &self.slots[index];
        let others = slot.peers.iter().map(|peer| peer.silo).filter(|other| *other != silo);
        // Those whose copy of this block waits for a repair itself are not asked.
        let others: Vec<SiloId> = others.filter(|other| !self.repairs.contains_key(&(index, *other, block))).collect();
        let Some(repair) = self.repairs.get_mut(&damage) else { return };
        if repair.damaged.len() + 1 >= slot.peers.len() {
            // There is no whole copy; reads of it say so.
            self.repairs.remove(&damage);
            return;
        }
        let floor = if on(Mutant::RepairFromOlder) { Seq::ZERO } else { slot.read_floor() };
        let able = |silo: SiloId| slot.peer(silo).is_some_and(|peer| peer.is_live() && peer.applied >= floor);
        let source = others.into_iter().filter(|other| !repair.damaged.contains(other)).find(|other| able(*other));
        repair.since = now;
        let Some(source) = source else {
            repair.stage = Stage::Waiting;
            return;
        };
        repair.stage = Stage::Fetching { source, id };
        let slot = slot.index;
        self.send(source, Request::Fetch { id, slot, epoch, floor, block });
    }

    /// A silo gave its copy: it goes to the one whose copy is damaged.
    pub(super) fn fetched(&mut self, now: Moment, from: SiloId, id: u64, result: Result<Parcel, ReadRefusal>) {
        let asked = self.repairs.iter_mut().find(
            |(_, repair)| matches!(repair.stage, Stage::Fetching { source, id: asked } if source == from && asked == id),
        );
        let Some((damage, repair)) = asked else { return };
        let (index, silo, block) = *damage;
        match result {
            Ok(parcel) if parcel.records.is_empty() => {
                // The block holds no data any more.
                self.repairs.remove(&(index, silo, block));
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
                self.fetch_copy(now, (index, silo, block));
                self.damaged(now, index, from, block);
            }
            Err(ReadRefusal::Behind | ReadRefusal::Faulted(_)) => repair.stage = Stage::Waiting,
        }
    }

    /// The silo stored the block again, or found that it was written meanwhile.
    pub(super) fn repaired(&mut self, silo: SiloId, slot: SlotIndex, block: u64, mended: u64) {
        if self.repairs.remove(&(slot.0 as usize, silo, block)).is_some() {
            self.repaired_blocks += mended;
        }
    }

    /// The connection to a silo broke: its own repairs wait for the next read, those that it was the source of are asked
    /// of another.
    pub(super) fn repairs_of_gone(&mut self, gone: SiloId) {
        self.repairs.retain(|(_, silo, _), _| *silo != gone);
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
            self.fetch_copy(now, damage);
        }
    }
}
