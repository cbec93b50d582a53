//! Carries out an acceptor's effects on a store: synchronous, so that a thread drives it in the daemon and a loop in
//! simulation.
//!
//! A full silo is no failing one. What it has no space for it does not take: the acceptor goes back to where it was, nobody
//! is answered, and the writer asks again after a second or three. Records of the stream are written together; where
//! there is no space for all, each slot's are tried one by one, so that a trim gets through beside a large write. Before
//! any message that asks for more than a record or a sync, what was taken is written, so that it is judged on what is
//! there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::BytesMut;

use crate::base::clock::Moment;
use crate::base::id::{ConfigNumber, Epoch, NodeId, Seq, SiloId, SlotKey, VolumeId};
use crate::base::mutant::{Mutant, on};
use crate::base::record::Record;
use crate::cluster::replication::acceptor::slot::Slot;
use crate::cluster::replication::acceptor::{Acceptor, Change, Effect, Opening, Room, Session};
use crate::cluster::replication::message::{
    Answer, BlockData, FromSilo, Listing, Parcel, ReadRefusal, Refusal, Request, Run, RunKind, ToSilo,
};
use crate::cluster::replication::writer::RETAINED_BYTES_MAX;
use crate::store::commit::{self, SlotCommit};
use crate::store::disk::Caching;
use crate::store::error::StoreError;
use crate::store::read::Allocation;
use crate::store::silo::Silo;
use crate::store::staging::ExtentListing;

/// The most that one answer to a delta carries: enough to keep a connection busy, little enough that writes do not
/// wait long behind it.
const DELTA_BYTES: usize = 512 << 10;

/// What may still be sent for a volume after a silo said that it takes no new writes: all that its writer remembers, as
/// records, each in the smallest that a block takes.
const RESERVE_BYTES_A_VOLUME: u64 = RETAINED_BYTES_MAX as u64 / 32 * 33;

/// One silo's acceptor and its store.
pub struct Keeper {
    acceptor: Acceptor,
    silo: Arc<Silo>,
    batch: Vec<Record>,
    /// The replies that were given before the first record of the batch was taken.
    batch_since: usize,
    /// Deleted volumes that there was no space to forget.
    forgetting: BTreeSet<VolumeId>,
    /// The node that the silo is of: its own writers read from it.
    node: Option<NodeId>,
    /// Whether the message at hand, and every record of the batch, is of a writer of another node.
    foreign: bool,
    batch_is_foreign: bool,
    effects: Vec<Effect>,
}

/// What a batch of messages asks of the host.
#[derive(Default)]
pub struct Outcome {
    /// To send, in order.
    pub replies: Vec<(Session, FromSilo)>,
    /// To read and answer with [`serve`], in any order.
    pub serves: Vec<(Session, VolumeId, Request)>,
    /// Somebody waits for durability: start a sync unless one runs.
    pub sync: bool,
}

impl Keeper {
    pub fn new(silo: Arc<Silo>, boot: [u8; 16], now: Moment) -> Self {
        let opening = Opening {
            silo: silo.id(),
            incarnation: silo.incarnation(),
            chain: silo.chain(),
            boot,
            fsync_failed: silo.faulted().is_some(),
        };
        let mut acceptor = Acceptor::new(opening, silo.slots(), now);
        if let Some(why) = silo.faulted() {
            acceptor.set_fault(why.to_string());
        }
        Self {
            acceptor,
            silo,
            batch: Vec::new(),
            batch_since: 0,
            forgetting: BTreeSet::new(),
            node: None,
            foreign: false,
            batch_is_foreign: true,
            effects: Vec::new(),
        }
    }

    /// The node that the silo is of: what writers of other nodes write is not read here, but after a failure.
    pub fn set_node(&mut self, node: NodeId) {
        self.node = Some(node);
    }

    pub fn silo(&self) -> &Arc<Silo> {
        &self.silo
    }

    pub fn acceptor(&self) -> &Acceptor {
        &self.acceptor
    }

    /// The cluster state knows the present incarnation.
    pub fn confirmed(&mut self) -> Result<(), StoreError> {
        if self.silo.faulted().is_some() {
            // It saved no incarnation of this opening, and says nothing in its name but refusals.
            return Ok(());
        }
        self.silo.confirm(self.silo.incarnation())?;
        self.acceptor.confirmed();
        Ok(())
    }

    /// The cluster does not take this silo: it serves nothing from here on.
    pub fn retire(&mut self, why: String) {
        if on(Mutant::BlankVotes) || on(Mutant::RestoredVotes) {
            return;
        }
        self.acceptor.set_fault(why);
    }

    /// Whether the silo has room for new writes beside what it keeps for those that are sequenced already (rule 6).
    pub fn room(&self) -> Room {
        // Of those that it has left it keeps the promise, and no room.
        let held = self.acceptor.slots().filter(|(_, slot)| !slot.is_vacant());
        let volumes: BTreeSet<VolumeId> = held.map(|(key, _)| key.volume).collect();
        let promised = volumes.len().max(1) as u64 * RESERVE_BYTES_A_VOLUME;
        if self.silo.takes_writes(promised) {
            return Room::AMPLE;
        }
        Room { takes_writes: false, transfer_bytes: self.silo.room_above(promised) }
    }

    /// Lets the writers know whether there is room, if that has changed.
    pub fn set_room(&mut self, room: Room) -> Outcome {
        let mut outcome = Outcome::default();
        let mut effects = Vec::new();
        self.acceptor.set_room(room, &mut effects);
        self.carry_out(&mut effects, &mut outcome);
        outcome
    }

    /// Takes a batch of messages: their records are appended with one write.
    pub fn process(&mut self, now: Moment, messages: impl IntoIterator<Item = (NodeId, Session, ToSilo)>) -> Outcome {
        let mut outcome = Outcome::default();
        if !self.acceptor.is_faulted()
            && let Some(fault) = self.silo.faulted()
        {
            // Work in the background met it: who asks for signs of life alone must hear of it too.
            self.fault(&StoreError::Faulted(fault), &mut outcome);
        }
        for (from, session, message) in messages {
            let mut effects = std::mem::take(&mut self.effects);
            self.foreign = self.node.is_some_and(|node| node != from);
            let asks = asks(&message);
            if asks != Asks::Little {
                self.finish(&mut outcome);
            }
            let volume = message.volume();
            let kept = (asks == Asks::Change).then(|| self.acceptor.keep(volume));
            let replies = outcome.replies.len();
            self.acceptor.handle(now, from, session, message, &mut effects);
            match kept {
                None => self.carry_out(&mut effects, &mut outcome),
                Some(kept) => match self.try_all(&mut effects, &mut outcome) {
                    Ok(()) => {}
                    Err(StoreError::NoSpace) => {
                        outcome.replies.truncate(replies);
                        self.restore(volume, kept);
                    }
                    Err(error) => self.fault(&error, &mut outcome),
                },
            }
            self.effects = effects;
        }
        self.finish(&mut outcome);
        outcome
    }

    /// Carries out all effects of a message that is not of the stream, its records written.
    fn try_all(&mut self, effects: &mut Vec<Effect>, outcome: &mut Outcome) -> Result<(), StoreError> {
        let done = effects.drain(..).try_for_each(|effect| self.carry_out_one(effect, outcome));
        effects.clear();
        done.and_then(|()| self.write_batch())
    }

    /// There was no space for what a message to this volume asked for.
    fn restore(&mut self, volume: VolumeId, kept: Vec<(SlotKey, Slot)>) {
        self.batch.clear();
        self.batch_is_foreign = true;
        let silo = &self.silo;
        self.acceptor.restore(volume, kept, |key| silo.slot(key).is_some_and(|state| state.incomplete.is_none()));
    }

    /// What a sync that starts now will make durable; none if nobody waits.
    pub fn begin_sync(&mut self) -> Vec<(SlotKey, Seq)> {
        self.acceptor.begin_sync()
    }

    /// The sync begun with these marks ended.
    pub fn end_sync(&mut self, marks: &[(SlotKey, Seq)], result: Result<(), StoreError>) -> Outcome {
        let mut outcome = Outcome::default();
        match result {
            Ok(()) => {
                let mut effects = Vec::new();
                self.acceptor.end_sync(marks, &mut effects);
                self.carry_out(&mut effects, &mut outcome);
                self.finish(&mut outcome);
            }
            Err(error) => self.fault(&error, &mut outcome),
        }
        outcome
    }

    /// The volume was deleted.
    pub fn forget(&mut self, volume: VolumeId) -> Outcome {
        let mut outcome = Outcome::default();
        let mut effects = Vec::new();
        self.acceptor.forget(volume, &mut effects);
        match self.try_all(&mut effects, &mut outcome) {
            Ok(()) => {}
            Err(StoreError::NoSpace) => drop(self.forgetting.insert(volume)),
            Err(error) => self.fault(&error, &mut outcome),
        }
        outcome
    }

    /// What the cluster state says of slots that this silo is none of.
    pub fn left(&mut self, slots: &[(SlotKey, Epoch, ConfigNumber)]) -> Outcome {
        let mut outcome = Outcome::default();
        for (key, epoch, config) in slots {
            let kept = self.acceptor.keep(key.volume);
            let mut effects = Vec::new();
            self.acceptor.left(*key, *epoch, *config, &mut effects);
            match self.try_all(&mut effects, &mut outcome) {
                Ok(()) => {}
                // What cannot be let go now is let go when the cluster state changes again.
                Err(StoreError::NoSpace) => self.restore(key.volume, kept),
                Err(error) => self.fault(&error, &mut outcome),
            }
        }
        outcome
    }

    /// Tries again to forget the volumes that there was no space to forget.
    pub fn forget_rest(&mut self) {
        let slots = if self.forgetting.is_empty() { Vec::new() } else { self.silo.slots() };
        for volume in std::mem::take(&mut self.forgetting) {
            let of_volume = slots.iter().filter(|(key, _)| key.volume == volume);
            let commits: Vec<SlotCommit> = of_volume
                .map(|(key, state)| SlotCommit { key: *key, state: state.clone(), change: commit::Change::Forget })
                .collect();
            match self.silo.commit(&commits) {
                Ok(()) => {}
                Err(StoreError::NoSpace) => drop(self.forgetting.insert(volume)),
                Err(error) => self.fault(&error, &mut Outcome::default()),
            }
        }
    }

    fn carry_out(&mut self, effects: &mut Vec<Effect>, outcome: &mut Outcome) {
        for effect in effects.drain(..) {
            if let Err(error) = self.carry_out_one(effect, outcome) {
                self.fault(&error, outcome);
                break;
            }
        }
        effects.clear();
    }

    fn carry_out_one(&mut self, effect: Effect, outcome: &mut Outcome) -> Result<(), StoreError> {
        match effect {
            Effect::Append(record) => {
                if self.batch.is_empty() {
                    self.batch_since = outcome.replies.len();
                }
                self.batch.push(record);
                self.batch_is_foreign &= self.foreign;
            }
            Effect::Reply(session, mut reply) => {
                self.tell_watermarks(&mut reply);
                outcome.replies.push((session, reply));
            }
            Effect::Sync => outcome.sync = true,
            Effect::Committed(key, seq) => self.silo.set_committed(key, seq)?,
            Effect::Peers(key, peers) => self.silo.set_peers(key, peers)?,
            Effect::Serve(session, volume, request) => {
                self.write_batch()?;
                outcome.serves.push((session, volume, request));
            }
            Effect::Stage(key, listing) => {
                self.write_batch()?;
                self.silo.stage_listing(key, &listing_to_store(&listing))?;
            }
            Effect::DropStaging(key) => {
                self.write_batch()?;
                self.silo.discard_staging(key)?;
            }
            Effect::SyncNow => {
                self.write_batch()?;
                self.silo.sync()?;
            }
            Effect::Commit(commits) => {
                self.write_batch()?;
                let commits: Vec<SlotCommit> = commits
                    .into_iter()
                    .map(|(key, state, change)| SlotCommit { key, state, change: change_to_store(change) })
                    .collect();
                self.silo.commit(&commits)?;
            }
            Effect::Repair { session, key, epoch, block, records } => {
                self.write_batch()?;
                let mended = self.repair(key, block, &records)?;
                let incarnation = self.acceptor.opening().incarnation;
                let answer = Answer::Repaired { slot: key.slot, epoch, incarnation, block, mended };
                outcome.replies.push((session, FromSilo::Rare(self.silo.id(), key.volume, answer)));
            }
            Effect::ReplyChanged { session, key, epoch, attempt, base } => {
                self.write_batch()?;
                let changed = self.silo.changed_extents(key, base)?;
                let incarnation = self.acceptor.opening().incarnation;
                let answer = Answer::CatchingUp { slot: key.slot, epoch, incarnation, attempt, changed };
                outcome.replies.push((session, FromSilo::Rare(self.silo.id(), key.volume, answer)));
            }
        }
        Ok(())
    }

    /// Stores damaged blocks again. What cannot be taken leaves them damaged, which the next read finds out; only a
    /// failing disk takes the silo out of service.
    fn repair(&self, key: SlotKey, block: u64, records: &[Record]) -> Result<u64, StoreError> {
        let mut mended = 0;
        for record in records {
            match self.silo.repair(record) {
                Ok(blocks) => mended += blocks,
                Err(StoreError::NoSpace | StoreError::OutOfRange | StoreError::BadRecord(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let (silo, slot) = (self.silo.id().short(), key.slot);
        if mended > 0 {
            tracing::warn!("silo {silo}: block {block} of slot {slot} was damaged and is repaired from another copy");
        }
        Ok(mended)
    }

    /// The point up to which this silo's history agrees with all others is the store's to say: after an adoption it
    /// stands still until the writer's watermark has passed what was transferred.
    fn tell_watermarks(&self, reply: &mut FromSilo) {
        let FromSilo::Rare(_, volume, Answer::Promised(promised)) = reply else { return };
        for vote in &mut promised.slots {
            let key = SlotKey { volume: *volume, slot: vote.slot };
            if let Some(state) = self.silo.slot(key) {
                vote.committed = vote.committed.min(state.committed);
            }
        }
    }

    /// Writes the records of the stream that were taken, as far as there is space.
    fn finish(&mut self, outcome: &mut Outcome) {
        if self.batch.is_empty() {
            return;
        }
        match self.write_batch() {
            Ok(()) => self.acceptor.wrote(),
            Err(StoreError::NoSpace) => {
                let records = std::mem::take(&mut self.batch);
                if let Err(error) = self.write_some(&records, outcome) {
                    self.fault(&error, outcome);
                }
            }
            Err(error) => self.fault(&error, outcome),
        }
    }

    /// Writes the batch; without space for all of it, it stays as it is.
    fn write_batch(&mut self) -> Result<(), StoreError> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let caching = if self.batch_is_foreign { Caching::Bypass } else { Caching::Keep };
        let result = self.silo.append_with(&self.batch, caching);
        if !matches!(result, Err(StoreError::NoSpace)) {
            self.batch.clear();
        }
        self.batch_is_foreign = true;
        result
    }

    /// Writes the records one by one, of each slot until there is no space for one, and takes the rest back with
    /// everything that was said on the strength of it.
    fn write_some(&mut self, records: &[Record], outcome: &mut Outcome) -> Result<(), StoreError> {
        let mut reached: BTreeMap<SlotKey, Seq> = BTreeMap::new();
        let mut ended: BTreeSet<SlotKey> = BTreeSet::new();
        for record in records {
            let key = record.header.key();
            if ended.contains(&key) {
                continue;
            }
            match self.silo.append(std::slice::from_ref(record)) {
                Ok(()) => drop(reached.insert(key, record.header.stamp.seq)),
                Err(StoreError::NoSpace) => drop(ended.insert(key)),
                Err(error) => return Err(error),
            }
        }
        let taken_back: BTreeSet<SlotKey> = records.iter().map(|record| record.header.key()).collect();
        for key in &taken_back {
            self.silo.clamp_committed(*key)?;
        }
        let mut index = 0;
        outcome.replies.retain(|(_, reply)| {
            index += 1;
            let told = match reply {
                FromSilo::Ack(ack) => taken_back.contains(&ack.key),
                FromSilo::Rare(_, volume, Answer::Gap { slot, .. }) => {
                    taken_back.contains(&SlotKey { volume: *volume, slot: *slot })
                }
                FromSilo::Rare(..) => false,
            };
            index <= self.batch_since || !told
        });
        let mut effects = Vec::new();
        self.acceptor.take_back(&reached, &mut effects);
        effects.into_iter().try_for_each(|effect| self.carry_out_one(effect, outcome))
    }

    /// Something before a reply failed: no reply of this batch is sent, and the silo is out of service.
    fn fault(&mut self, error: &StoreError, outcome: &mut Outcome) {
        self.batch.clear();
        self.batch_is_foreign = true;
        if self.acceptor.set_fault(error.to_string()) {
            tracing::error!("silo {} is out of service: {error}", self.silo.id().short());
        }
        let reason = Refusal::Faulted(error.to_string());
        for (_, reply) in &mut outcome.replies {
            let answer = Answer::Refused { slot: None, epoch: Epoch::ZERO, reason: reason.clone() };
            *reply = FromSilo::Rare(reply.silo(), reply.volume(), answer);
        }
        outcome.serves.clear();
        outcome.sync = false;
    }
}

/// What a message asks of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asks {
    /// To add a record to the batch, or nothing at once.
    Little,
    /// To read what is written.
    Read,
    /// To change slots durably on the strength of what is written.
    Change,
}

fn asks(message: &ToSilo) -> Asks {
    let ToSilo::Rare(_, _, request) = message else { return Asks::Little };
    match request {
        Request::Sync { .. } | Request::Heartbeat { .. } => Asks::Little,
        Request::Read { .. }
        | Request::Allocation { .. }
        | Request::Delta { .. }
        | Request::Fetch { .. }
        | Request::Indexed { .. }
        | Request::FetchVersion { .. } => Asks::Read,
        Request::Promote { .. }
        | Request::Release { .. }
        | Request::AdoptAsIs { .. }
        | Request::CatchUp { .. }
        | Request::Transfer { .. }
        | Request::Adopt { .. }
        | Request::Repair { .. }
        | Request::Configure { .. }
        | Request::Dismiss { .. } => Asks::Change,
    }
}

/// Reads from the store and answers; may run on any thread. What is read is given away only if the slot serves the
/// epoch still: it may have promised another and changed its history in between (rules 7 and 12).
pub fn serve(silo: &Silo, volume: VolumeId, request: &Request) -> FromSilo {
    let answer = match request {
        Request::Read { id, slot, epoch, first_block, blocks, .. } => {
            let key = SlotKey { volume, slot: *slot };
            let read = silo.read(key, *first_block, *blocks);
            let result = read.map(|run| BlockData { bytes: run.data }).map_err(read_refusal);
            Answer::Read { id: *id, result: still_serves(silo, key, *epoch).and(result) }
        }
        Request::Allocation { id, slot, epoch, first_block, blocks, .. } => {
            let key = SlotKey { volume, slot: *slot };
            let runs = silo.status(key, *first_block, *blocks).map_err(read_refusal);
            let result = runs.map(|runs| runs.into_iter().map(run_of).collect());
            Answer::Allocation { id: *id, result: still_serves(silo, key, *epoch).and(result) }
        }
        Request::Delta { id, slot, epoch, base, from_extent, also, .. } => {
            let key = SlotKey { volume, slot: *slot };
            let delta = silo.delta(key, *base, also, *from_extent, DELTA_BYTES).map_err(read_refusal);
            let result = delta.map(|delta| {
                let mut parcel = Parcel::default();
                let mut records = BytesMut::new();
                for (listing, versions) in delta.extents {
                    parcel.listings.push(listing_from_store(&listing));
                    for record in versions {
                        records.extend_from_slice(&record.head);
                        records.extend_from_slice(&record.payload);
                    }
                }
                parcel.records = records.freeze();
                (parcel, delta.next_extent)
            });
            Answer::Delta { id: *id, result: still_serves(silo, key, *epoch).and(result) }
        }
        Request::Fetch { id, slot, epoch, block, .. } => {
            let key = SlotKey { volume, slot: *slot };
            let result = silo.version(key, *block).map_err(read_refusal).map(parcel_of);
            Answer::Fetched { id: *id, result: still_serves(silo, key, *epoch).and(result) }
        }
        Request::Indexed { id, slot, epoch, block } => {
            let key = SlotKey { volume, slot: *slot };
            let result = silo.indexed(key, *block).map_err(read_refusal);
            Answer::Indexed { id: *id, result: still_serves(silo, key, *epoch).and(result) }
        }
        // The stamp says which bytes these are, whatever the slot has promised or adopted in between.
        Request::FetchVersion { id, slot, block, stamp, .. } => {
            let key = SlotKey { volume, slot: *slot };
            let newest = on(Mutant::AnyVersionForTheNamed);
            let version = if newest { silo.version(key, *block) } else { silo.version_of(key, *block, *stamp) };
            Answer::Fetched { id: *id, result: version.map_err(read_refusal).map(parcel_of) }
        }
        // The acceptor serves nothing else.
        _ => Answer::Refused { slot: None, epoch: Epoch::ZERO, reason: Refusal::OutOfStep },
    };
    FromSilo::Rare(silo.id(), volume, answer)
}

/// As [`serve`], for a short read that neither asks the disk nor waits for anybody; none for whatever else.
pub fn serve_at_once(silo: &Silo, volume: VolumeId, request: &Request) -> Option<FromSilo> {
    let Request::Read { id, slot, epoch, first_block, blocks, .. } = request else { return None };
    let key = SlotKey { volume, slot: *slot };
    let run = silo.read_at_once(key, *first_block, *blocks)?;
    let result = still_serves(silo, key, *epoch).map(|()| BlockData { bytes: run.data });
    Some(FromSilo::Rare(silo.id(), volume, Answer::Read { id: *id, result }))
}

fn parcel_of(version: Option<Record>) -> Parcel {
    let mut records = BytesMut::new();
    if let Some(record) = version {
        records.extend_from_slice(&record.head);
        records.extend_from_slice(&record.payload);
    }
    Parcel { listings: Vec::new(), records: records.freeze() }
}

/// Whether the slot is complete in this epoch, as far as is durable.
fn still_serves(silo: &Silo, key: SlotKey, epoch: Epoch) -> Result<(), ReadRefusal> {
    let Some(state) = silo.slot(key) else { return Err(ReadRefusal::Behind) };
    if state.promise > epoch {
        return Err(ReadRefusal::Fenced { promise: state.promise });
    }
    let adopted = state.adopted == epoch || on(Mutant::NoAdoptionOnEmptyTail);
    if adopted && state.incomplete.is_none() { Ok(()) } else { Err(ReadRefusal::Behind) }
}

/// What a message for a silo that is not open here is answered.
pub fn refusal(silo: SiloId, message: &ToSilo, reason: Refusal) -> FromSilo {
    let epoch = match message {
        ToSilo::Append(append) => append.epoch,
        ToSilo::Rare(_, _, Request::Promote { epoch, .. }) => *epoch,
        ToSilo::Rare(..) => Epoch::ZERO,
    };
    let answer = Answer::Refused { slot: None, epoch, reason };
    FromSilo::Rare(silo, message.volume(), answer)
}

fn read_refusal(error: StoreError) -> ReadRefusal {
    match error {
        StoreError::BadBlock { block, .. } => ReadRefusal::Damaged { block },
        other => ReadRefusal::Faulted(other.to_string()),
    }
}

fn run_of((blocks, kind): (u64, Allocation)) -> Run {
    let kind = match kind {
        Allocation::Data => RunKind::Data,
        Allocation::Zero => RunKind::Zero,
        Allocation::Hole => RunKind::Hole,
    };
    Run { blocks, kind }
}

fn change_to_store(change: Change) -> commit::Change {
    match change {
        Change::Keep => commit::Change::Keep,
        Change::Adopt { base } => commit::Change::Adopt { base },
        Change::Revert { vote } => commit::Change::Revert { vote },
        Change::Vacate => commit::Change::Vacate,
        Change::Forget => commit::Change::Forget,
    }
}

fn listing_to_store(listing: &Listing) -> ExtentListing {
    ExtentListing { extent: listing.extent, present: listing.present, floor: listing.floor }
}

fn listing_from_store(listing: &ExtentListing) -> Listing {
    Listing { extent: listing.extent, present: listing.present, floor: listing.floor }
}
