//! A request enters: it is ordered against those on the same blocks, completed to whole blocks, and gets its number.

use bytes::{Bytes, BytesMut};

use crate::base::block::{BLOCK_BYTES, FRAME_DATA_MAX, slot_of};
use crate::base::clock::Moment;
use crate::base::id::{Seq, SlotKey, Stamp};
use crate::base::mutant::{Mutant, on};
use crate::base::record::Record;
use crate::cluster::replication::order::RequestId;
use crate::cluster::replication::writer::reads::ReadFor;
use crate::cluster::replication::writer::slots::Retained;
use crate::cluster::replication::writer::{
    Output, Phase, RETAINED_WRITES_MAX, Request, RequestError, Response, Stands, Writer,
};

/// Zeroes and trims carry no data, but are cut at this length so that none takes a store long.
const RANGE_BYTES_MAX: u64 = 1 << 30;
/// A write of zeroes that stays allocated has an entry a block.
const ZERO_BYTES_MAX: u64 = FRAME_DATA_MAX as u64;
/// What a record costs in memory beside its payload.
const RECORD_COST: usize = 256;

/// A request that is neither answered nor a flush.
pub struct Pending {
    pub request: Request,
    /// Records, or reads, that are not done yet.
    pub open: usize,
    /// The first and the last block of an unaligned write, as read.
    pub edges: [Option<Bytes>; 2],
}

impl Writer {
    /// Takes a request of a client. Its answer comes as an output, in any order.
    pub fn submit(&mut self, now: Moment, id: RequestId, request: Request) {
        if self.phase == Phase::Over || self.releasing || self.serves_nobody() {
            self.outputs.push(Output::Answer(id, Err(RequestError::Fenced)));
            return;
        }
        if matches!(request, Request::Flush) && !self.gives_up(now, &request) {
            self.flush(id);
            return;
        }
        if self.gives_up(now, &request) {
            self.outputs.push(Output::Answer(id, Err(RequestError::TimedOut)));
            return;
        }
        self.asked_at = now;
        let (first, end, exclusive) = blocks_of(&request);
        self.pending.insert(id, Pending { request, open: 0, edges: [None, None] });
        if self.order.enter(id, first, end, exclusive) {
            self.run(now, id);
        }
    }

    /// An epoch without a lease is for work on the slots alone (rule 19).
    fn serves_nobody(&self) -> bool {
        self.options.lease.is_zero() && !on(Mutant::MaintenanceServes)
    }

    /// How many requests wait for their turn, for room or for an answer.
    pub fn pending_requests(&self) -> usize {
        self.pending.len() + self.flushes.len()
    }

    pub(super) fn run(&mut self, now: Moment, id: RequestId) {
        let Some(pending) = self.pending.get_mut(&id) else { return };
        match &pending.request {
            Request::Read { first_block, blocks } => {
                let what = ReadFor::Client { id, first_block: *first_block, blocks: u64::from(*blocks), runs: false };
                self.read(now, what);
            }
            Request::Allocation { first_block, blocks } => {
                let what = ReadFor::Client { id, first_block: *first_block, blocks: *blocks, runs: true };
                self.read(now, what);
            }
            Request::Write { position, data, .. } => {
                let end = position + data.len() as u64;
                let (first_block, last_block) = (position / BLOCK_BYTES, (end - 1) / BLOCK_BYTES);
                let cut_front = !position.is_multiple_of(BLOCK_BYTES);
                let cut_back = !end.is_multiple_of(BLOCK_BYTES);
                let front = cut_front || (cut_back && first_block == last_block);
                let back = cut_back && first_block != last_block;
                pending.open = usize::from(front) + usize::from(back);
                if front {
                    self.read(now, ReadFor::Edge { id, edge: 0, block: first_block });
                }
                if back {
                    self.read(now, ReadFor::Edge { id, edge: 1, block: last_block });
                }
                if !front && !back {
                    self.park_or_sequence(now, id);
                }
            }
            Request::Zero { .. } | Request::Trim { .. } => self.park_or_sequence(now, id),
            Request::Flush => {}
        }
    }

    /// One of the blocks that an unaligned write touches in part was read.
    pub(super) fn edge_read(&mut self, now: Moment, id: RequestId, edge: usize, bytes: Bytes) {
        let Some(pending) = self.pending.get_mut(&id) else { return };
        pending.edges[edge] = Some(bytes);
        pending.open -= 1;
        if pending.open > 0 {
            return;
        }
        let edges = std::mem::take(&mut pending.edges);
        if let Request::Write { position, data, .. } = &mut pending.request {
            (*position, *data) = complete(*position, data, &edges);
        }
        self.park_or_sequence(now, id);
    }

    /// Gives the request its numbers now, or once there is room. Requests on the same blocks are ordered already, so
    /// those that are parked may be taken in any order.
    fn park_or_sequence(&mut self, now: Moment, id: RequestId) {
        if self.parked.is_empty() && self.has_room(id) {
            self.sequence(now, id);
        } else {
            self.parked.push_back(id);
        }
    }

    /// Sequences what was parked and has room now.
    pub(super) fn unpark(&mut self, now: Moment) {
        if self.parked.is_empty() || self.phase != Phase::Serving {
            return;
        }
        for id in std::mem::take(&mut self.parked) {
            if self.has_room(id) {
                self.sequence(now, id);
            } else {
                self.parked.push_back(id);
            }
        }
    }

    /// Whether the write fits among those remembered: of the volume, and of each of its slots, so that one suspended
    /// slot does not starve the others.
    fn has_room(&self, id: RequestId) -> bool {
        if self.phase != Phase::Serving {
            return false;
        }
        let Some(pending) = self.pending.get(&id) else { return true };
        let bytes = if let Request::Write { data, .. } = &pending.request { data.len() } else { 0 };
        let empty = self.retained_writes == 0;
        let slot_bytes_max = self.retained_bytes_max / self.slots.len().clamp(1, 8);
        let slot_writes_max = RETAINED_WRITES_MAX / self.slots.len().clamp(1, 8);
        let fits = self.retained_bytes + bytes <= self.retained_bytes_max && self.retained_writes < RETAINED_WRITES_MAX;
        let slots_fit = self.slots[self.slots_of(&pending.request)].iter().all(|slot| {
            slot.retained.is_empty()
                || (slot.retained_bytes + bytes <= slot_bytes_max && slot.retained.len() < slot_writes_max)
        });
        (empty || fits) && slots_fit
    }

    /// The request gets its numbers: from here on it is driven to a majority, whatever becomes of its client.
    fn sequence(&mut self, now: Moment, id: RequestId) {
        let Some(pending) = self.pending.get(&id) else { return };
        let request = pending.request.clone();
        if !stands(&request) {
            self.finish(now, id, Err(RequestError::Abandoned));
            return;
        }
        if !matches!(request, Request::Trim { .. }) && !self.has_space(&request) {
            self.finish(now, id, Err(RequestError::NoSpace));
            return;
        }
        let (position, length) = range_of(&request);
        let most = match &request {
            Request::Write { .. } => FRAME_DATA_MAX as u64,
            Request::Zero { .. } => ZERO_BYTES_MAX,
            _ => RANGE_BYTES_MAX,
        };
        let mut at = position;
        let mut touched = Vec::new();
        while at < position + length {
            let index = slot_of(at, self.options.slot_bytes);
            let slot_end = (u64::from(index.0) + 1) * self.options.slot_bytes;
            let len = (position + length - at).min(most).min(slot_end - at);
            let stamp = Stamp::new(self.options.epoch, self.next_seq);
            let key = SlotKey { volume: self.options.volume, slot: index };
            let (record, durable) = match &request {
                Request::Write { data, fua, .. } => {
                    let start = (at - position) as usize;
                    (Record::write(key, at, stamp, data.slice(start..start + len as usize)), *fua)
                }
                Request::Zero { fua, .. } => (Record::zeroes(key, at, len, stamp), *fua),
                Request::Trim { fua, .. } => (Record::trim(key, at, len, stamp), *fua),
                Request::Read { .. } | Request::Allocation { .. } | Request::Flush => return,
            };
            self.retain(index.0 as usize, id, record, durable);
            if touched.last() != Some(&(index.0 as usize)) {
                touched.push(index.0 as usize);
            }
            at += len;
        }
        for index in touched {
            self.pump(now, index);
            self.sync_if_pressed(index);
        }
    }

    fn retain(&mut self, index: usize, id: RequestId, record: Record, fua: bool) {
        let seq = self.next_seq;
        self.next_seq = seq.next();
        let durable = fua || self.options.durability == super::Durability::Write;
        let cost = record.payload.len() + RECORD_COST;
        let slot = &mut self.slots[index];
        let previous = std::mem::replace(&mut slot.last, seq);
        let sync = durable || self.rhythm.written();
        slot.retained.push_back(Retained { seq, previous, record, request: Some(id), durable, sync });
        slot.retained_bytes += cost;
        if durable {
            slot.durable_wanted = seq;
        }
        self.retained_bytes += cost;
        self.retained_writes += 1;
        if let Some(pending) = self.pending.get_mut(&id) {
            pending.open += 1;
        }
    }

    /// Forgets what a majority has durably.
    pub(super) fn forget_upto(&mut self, index: usize, seq: Seq, answered: &mut Vec<RequestId>) {
        let slot = &mut self.slots[index];
        while slot.retained.front().is_some_and(|first| first.seq <= seq) {
            let Some(gone) = slot.retained.pop_front() else { return };
            let cost = gone.record.payload.len() + RECORD_COST;
            slot.retained_bytes -= cost;
            self.retained_bytes -= cost;
            self.retained_writes -= 1;
            answered.extend(gone.request);
        }
    }

    /// The slots that a request touches.
    pub(super) fn slots_of(&self, request: &Request) -> std::ops::RangeInclusive<usize> {
        let (position, length) = range_of(request);
        let first = slot_of(position, self.options.slot_bytes).0 as usize;
        let last = slot_of(position + length.max(1) - 1, self.options.slot_bytes).0 as usize;
        first..=last
    }

    /// Whether a majority of every slot concerned takes new writes, as far as it is known (rule 6). Silos that are
    /// away may have space; only those that say no count against.
    fn has_space(&self, request: &Request) -> bool {
        self.slots[self.slots_of(request)]
            .iter()
            .all(|slot| slot.has_majority(|peer| self.links.get(&peer.silo).is_none_or(|link| link.takes_writes)))
    }

    /// One record or read of a request is done.
    pub(super) fn part_done(&mut self, now: Moment, id: RequestId) {
        let Some(pending) = self.pending.get_mut(&id) else { return };
        pending.open -= 1;
        if pending.open == 0 {
            self.finish(now, id, Ok(Response::Done));
        }
    }

    /// Answers a request and lets those run that waited for it.
    pub(super) fn finish(&mut self, now: Moment, id: RequestId, result: Result<Response, RequestError>) {
        if self.pending.remove(&id).is_none() {
            return;
        }
        self.outputs.push(Output::Answer(id, result));
        let mut free = Vec::new();
        self.order.leave(id, &mut free);
        for id in free {
            self.run(now, id);
        }
    }
}

/// The bytes a request covers.
fn range_of(request: &Request) -> (u64, u64) {
    match request {
        Request::Read { first_block, blocks } => (first_block * BLOCK_BYTES, u64::from(*blocks) * BLOCK_BYTES),
        Request::Allocation { first_block, blocks } => (first_block * BLOCK_BYTES, blocks * BLOCK_BYTES),
        Request::Write { position, data, .. } => (*position, data.len() as u64),
        Request::Zero { position, length, .. } | Request::Trim { position, length, .. } => (*position, *length),
        Request::Flush => (0, 0),
    }
}

/// The blocks that a request touches, and whether it changes them.
fn blocks_of(request: &Request) -> (u64, u64, bool) {
    let (position, length) = range_of(request);
    let part = !position.is_multiple_of(BLOCK_BYTES) || !length.is_multiple_of(BLOCK_BYTES);
    let parallel = on(Mutant::ParallelSubBlockWrites) && part;
    let exclusive = !matches!(request, Request::Read { .. } | Request::Allocation { .. }) && !parallel;
    (position / BLOCK_BYTES, (position + length).div_ceil(BLOCK_BYTES), exclusive)
}

fn stands(request: &Request) -> bool {
    let check: &Stands = match request {
        Request::Write { stands, .. } | Request::Zero { stands, .. } | Request::Trim { stands, .. } => stands,
        Request::Read { .. } | Request::Allocation { .. } | Request::Flush => return true,
    };
    check() || on(Mutant::DeadConnectionExecuted)
}

/// Completes an unaligned write to whole blocks with what was read of its first and its last one.
fn complete(position: u64, data: &Bytes, edges: &[Option<Bytes>; 2]) -> (u64, Bytes) {
    let end = position + data.len() as u64;
    let start = position / BLOCK_BYTES * BLOCK_BYTES;
    let whole = end.next_multiple_of(BLOCK_BYTES) - start;
    let mut out = BytesMut::zeroed(whole as usize);
    if let Some(front) = &edges[0] {
        out[..front.len()].copy_from_slice(front);
    }
    if let Some(back) = &edges[1] {
        out[whole as usize - back.len()..].copy_from_slice(back);
    }
    let offset = (position - start) as usize;
    out[offset..offset + data.len()].copy_from_slice(data);
    (start, out.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unaligned_write_is_completed_to_whole_blocks() {
        let front = Bytes::from(vec![1; 4096]);
        let back = Bytes::from(vec![2; 4096]);
        let (position, bytes) = complete(4000, &Bytes::from(vec![9; 4200]), &[Some(front.clone()), Some(back)]);
        assert_eq!((position, bytes.len()), (0, 12288));
        assert_eq!((bytes[3999], bytes[4000], bytes[8199], bytes[8200]), (1, 9, 9, 2));
        let (position, bytes) = complete(512, &Bytes::from(vec![9; 512]), &[Some(front), None]);
        assert_eq!((position, bytes.len()), (0, 4096));
        assert_eq!((bytes[511], bytes[512], bytes[1023], bytes[1024]), (1, 9, 9, 1));
    }
}
