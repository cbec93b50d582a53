//! Reads: from one silo that has adopted the epoch, is complete and has applied what the read needs (rule 7).

use bytes::Bytes;

use crate::base::block::{BLOCK_BYTES, slot_of};
use crate::base::clock::Moment;
use crate::base::id::SiloId;
use crate::base::mutant::{Mutant, on};
use crate::cluster::replication::message::{BlockData, ReadRefusal, Request, Run};
use crate::cluster::replication::order::RequestId;
use crate::cluster::replication::writer::repairs::{Damage, RepairEnd};
use crate::cluster::replication::writer::slots::Peer;
use crate::cluster::replication::writer::{Phase, READ_ELSEWHERE_AFTER, RequestError, Response, Writer};

/// Who reads, and what.
#[derive(Clone, Debug)]
pub enum ReadFor {
    Client {
        id: RequestId,
        first_block: u64,
        blocks: u64,
        runs: bool,
    },
    /// A block that an unaligned write touches in part.
    Edge {
        id: RequestId,
        edge: usize,
        block: u64,
    },
}

/// What was read.
#[derive(Clone, Debug)]
pub enum Got {
    Data(Bytes),
    Runs(Vec<Run>),
}

impl ReadFor {
    pub(super) fn data(data: BlockData) -> Got {
        Got::Data(data.bytes)
    }

    pub(super) fn runs(runs: Vec<Run>) -> Got {
        Got::Runs(runs)
    }

    fn first_block(&self) -> u64 {
        match self {
            ReadFor::Client { first_block, .. } => *first_block,
            ReadFor::Edge { block, .. } => *block,
        }
    }

    fn id(&self) -> RequestId {
        match self {
            ReadFor::Client { id, .. } | ReadFor::Edge { id, .. } => *id,
        }
    }
}

/// A read under way.
pub struct ReadTask {
    what: ReadFor,
    slot: usize,
    state: ReadState,
    /// Silos that could not answer: asked again only when no other is left.
    failed: Vec<SiloId>,
    /// Blocks that silos found damaged: a silo is asked again once those are repaired.
    bad: Vec<Bad>,
}

/// A block of a read that a silo could not read.
struct Bad {
    silo: SiloId,
    block: u64,
    state: BadState,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum BadState {
    Repairing,
    Repaired,
    /// Nobody has a whole copy, or the repair was of no use.
    Lost,
}

impl ReadTask {
    /// The request that it is a part of.
    pub(super) fn request(&self) -> RequestId {
        self.what.id()
    }

    /// Whether the silo can read all of it, as far as is known.
    fn is_whole(&self, silo: SiloId) -> bool {
        !self.bad.iter().any(|bad| bad.silo == silo && bad.state != BadState::Repaired)
    }

    fn is_lost(&self, silo: SiloId) -> bool {
        self.bad.iter().any(|bad| bad.silo == silo && bad.state == BadState::Lost)
    }

    /// The silo found the block damaged. One that was repaired, and is damaged still, is given up.
    fn found_bad(&mut self, silo: SiloId, block: u64) {
        match self.bad.iter_mut().find(|bad| bad.silo == silo && bad.block == block) {
            Some(bad) if bad.state == BadState::Repaired => bad.state = BadState::Lost,
            Some(_) => {}
            None => self.bad.push(Bad { silo, block, state: BadState::Repairing }),
        }
    }
}

enum ReadState {
    /// No silo can serve it now.
    Waiting,
    Asked {
        silo: SiloId,
        since: Moment,
    },
    /// The bytes are in hand, but the lease is not.
    Unleased(Got),
}

impl Writer {
    pub(super) fn read(&mut self, now: Moment, what: ReadFor) {
        let slot = slot_of(what.first_block() * BLOCK_BYTES, self.options.slot_bytes).0 as usize;
        let task = ReadTask { what, slot, state: ReadState::Waiting, failed: Vec::new(), bad: Vec::new() };
        let id = self.fresh_id();
        self.reads.insert(id, task);
        self.ask(now, id);
    }

    /// Asks the best silo that has what the read needs: the nearest, and of those the one with the least on its way to it.
    fn ask(&mut self, now: Moment, id: u64) {
        let Some(task) = self.reads.get(&id) else { return };
        if self.phase != Phase::Serving {
            return;
        }
        let slot = &self.slots[task.slot];
        let floor = slot.read_floor();
        // What was given up on is still on its way to a majority. Before that one has it, nobody may see it: it could yet
        // be lost, and who reads then would go back behind who reads now.
        let settled = slot.answered >= slot.given_up || on(Mutant::GivenUpWriteSeen);
        let serves = |peer: &Peer| (settled && peer.applied >= floor) || on(Mutant::LaggardServes);
        let able = || self.live(task.slot).filter(|peer| serves(peer) && task.is_whole(peer.silo));
        let fresh = || able().filter(|peer| !task.failed.contains(&peer.silo));
        let chosen = fresh()
            .min_by_key(|peer| (self.options.distance(peer.silo), peer.in_flight_bytes))
            .or_else(|| able().next())
            .map(|peer| peer.silo);
        if slot.holders().all(|peer| task.is_lost(peer.silo)) {
            self.unreadable(now, id);
            return;
        }
        let (epoch, index) = (self.options.epoch, slot.index);
        let Some(task) = self.reads.get_mut(&id) else { return };
        let Some(silo) = chosen else {
            task.state = ReadState::Waiting;
            return;
        };
        task.state = ReadState::Asked { silo, since: now };
        let request = match task.what {
            ReadFor::Client { first_block, blocks, runs: true, .. } => {
                Request::Allocation { id, slot: index, epoch, floor, first_block, blocks }
            }
            ReadFor::Client { first_block, blocks, .. } => {
                Request::Read { id, slot: index, epoch, floor, first_block, blocks: blocks as u32 }
            }
            ReadFor::Edge { block, .. } => {
                Request::Read { id, slot: index, epoch, floor, first_block: block, blocks: 1 }
            }
        };
        self.send(silo, request);
    }

    /// A silo answered a read. A late answer of a silo given up on is as good as any, if its epoch stands: the order
    /// of requests keeps writes to these blocks out until the read is answered.
    pub(super) fn read_done(&mut self, now: Moment, silo: SiloId, id: u64, result: Result<Got, ReadRefusal>) {
        let Some(task) = self.reads.get_mut(&id) else { return };
        match result {
            Ok(got) => {
                task.state = ReadState::Unleased(got);
                self.answer_read(now, id);
            }
            Err(ReadRefusal::Fenced { promise }) => self.fence(promise),
            Err(ReadRefusal::Damaged { block }) => {
                let slot = task.slot;
                task.found_bad(silo, block);
                self.ask(now, id);
                self.damaged(now, slot, silo, block);
                if !self.is_repairing(slot, silo, block) {
                    self.repair_over(now, (slot, silo, block), RepairEnd::Lost);
                }
            }
            Err(ReadRefusal::Behind | ReadRefusal::Faulted(_)) => {
                // If nobody else can serve it, the next tick asks again rather than this answer at once.
                task.state = ReadState::Waiting;
                let first = !task.failed.contains(&silo);
                if first {
                    task.failed.push(silo);
                    self.ask(now, id);
                }
            }
        }
    }

    /// A repair has ended: reads that waited for it ask again, or give the block up.
    pub(super) fn repair_over(&mut self, now: Moment, (index, silo, block): Damage, end: RepairEnd) {
        let mut waiting = Vec::new();
        for (id, task) in self.reads.iter_mut().filter(|(_, task)| task.slot == index) {
            let is_it = |bad: &Bad| (bad.silo, bad.block, bad.state) == (silo, block, BadState::Repairing);
            let Some(at) = task.bad.iter().position(is_it) else { continue };
            match end {
                RepairEnd::Mended => task.bad[at].state = BadState::Repaired,
                RepairEnd::Lost => task.bad[at].state = BadState::Lost,
                RepairEnd::Gone => drop(task.bad.remove(at)),
            }
            if matches!(task.state, ReadState::Waiting) {
                waiting.push(*id);
            }
        }
        for id in waiting {
            self.ask(now, id);
        }
    }

    /// The lease is checked once the bytes are in hand: a majority still promises to nobody else, so nothing newer
    /// was written by another.
    fn answer_read(&mut self, now: Moment, id: u64) {
        let Some(task) = self.reads.get(&id) else { return };
        let checked = if on(Mutant::LeaseCheckedBeforeBytes) { now.min(self.next_heartbeat) } else { now };
        if !matches!(task.state, ReadState::Unleased(_)) || !self.lease_holds(task.slot, checked) {
            return;
        }
        let Some(ReadTask { what, state: ReadState::Unleased(got), .. }) = self.reads.remove(&id) else { return };
        match (what, got) {
            (ReadFor::Client { id, .. }, Got::Data(bytes)) => self.finish(now, id, Ok(Response::Data(bytes))),
            (ReadFor::Client { id, .. }, Got::Runs(runs)) => self.finish(now, id, Ok(Response::Runs(runs))),
            (ReadFor::Edge { id, edge, .. }, Got::Data(bytes)) => self.edge_read(now, id, edge, bytes),
            (ReadFor::Edge { .. }, Got::Runs(_)) => {}
        }
    }

    fn unreadable(&mut self, now: Moment, id: u64) {
        let Some(task) = self.reads.remove(&id) else { return };
        let request = task.what.id();
        self.reads.retain(|_, other| other.what.id() != request);
        self.finish(now, request, Err(RequestError::Unreadable));
    }

    /// Something changed that reads may have waited for.
    pub(super) fn retry_reads(&mut self, now: Moment) {
        let waiting: Vec<u64> =
            self.reads.iter().filter(|(_, t)| matches!(t.state, ReadState::Waiting)).map(|(id, _)| *id).collect();
        for id in waiting {
            self.ask(now, id);
        }
    }

    /// A lease was renewed.
    pub(super) fn leases_changed(&mut self, now: Moment) {
        let ready: Vec<u64> =
            self.reads.iter().filter(|(_, t)| matches!(t.state, ReadState::Unleased(_))).map(|(id, _)| *id).collect();
        for id in ready {
            self.answer_read(now, id);
        }
    }

    /// The connection to a silo broke: its reads are asked elsewhere.
    pub(super) fn reads_of_gone(&mut self, now: Moment, silo: SiloId) {
        let asked: Vec<u64> = self
            .reads
            .iter()
            .filter(|(_, task)| matches!(task.state, ReadState::Asked { silo: at, .. } if at == silo))
            .map(|(id, _)| *id)
            .collect();
        for id in asked {
            self.ask(now, id);
        }
    }

    pub(super) fn tick_reads(&mut self, now: Moment) {
        let mut late = Vec::new();
        for (id, task) in &mut self.reads {
            match task.state {
                ReadState::Asked { silo, since } if now.since(since) >= READ_ELSEWHERE_AFTER => {
                    task.failed.push(silo);
                    late.push(*id);
                }
                ReadState::Waiting => {
                    task.failed.clear();
                    late.push(*id);
                }
                ReadState::Asked { .. } | ReadState::Unleased(_) => {}
            }
        }
        for id in late {
            self.ask(now, id);
        }
        self.leases_changed(now);
    }

    /// Whether anything is being read; for the report.
    pub(super) fn reads_waiting(&self) -> usize {
        self.reads.values().filter(|task| !matches!(task.state, ReadState::Asked { .. })).count()
    }
}
