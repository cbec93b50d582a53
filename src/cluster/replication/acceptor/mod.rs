//! A silo's side of replication: promises, the ordered stream, votes, and being brought up to date.
//!
//! Pure: [`Acceptor::handle`] takes a message and pushes effects. The host carries effects out in order; a reply is
//! sent only if everything before it succeeded. If anything fails the silo is faulted and nothing more is sent but
//! refusals, so the machine may change its state at once instead of waiting for completions. Only durability of the
//! stream is asynchronous: [`Acceptor::begin_sync`] and [`Acceptor::end_sync`].
//!
//! A lack of space is no failure: nothing was done, and the machine goes back to where it was, by
//! [`Acceptor::take_back`] for records of the stream and by [`Acceptor::keep`] and [`Acceptor::restore`] for everything
//! else. No answer is given; the writer asks again in its own time.

pub mod slot;

use std::collections::BTreeMap;

use crate::base::clock::Moment;
use crate::base::id::{ConfigNumber, Epoch, Incarnation, NodeId, Seq, SiloId, SlotIndex, SlotKey, VolumeId};
use crate::base::mutant::{Mutant, on};
use crate::base::record::Record;
use crate::cluster::replication::acceptor::slot::Slot;
use crate::cluster::replication::message::{
    Answer, FromSilo, Listing, Parcel, Promised, ReadRefusal, Refusal, Request, ToSilo,
};
use crate::store::slot::{SlotState, Vote};

/// A connection to a writer, numbered by the host.
pub type Session = u64;

/// What the host must do, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Append to the log; the record is of the slot's stream unless it is marked as a transfer.
    Append(Record),
    /// Remember the listing of an extent whose versions were appended as transfers.
    Stage(SlotKey, Listing),
    DropStaging(SlotKey),
    /// Make everything appended so far durable before going on.
    SyncNow,
    /// Make these states durable, with what changes in the index, in one commit.
    Commit(Vec<(SlotKey, SlotState, Change)>),
    /// The slot's majority-durable number rose.
    Committed(SlotKey, Seq),
    /// What the writer reported of the slot's silos.
    Peers(SlotKey, Vec<(SiloId, Epoch, Seq)>),
    /// Somebody waits for durability: run a sync as soon as none runs.
    Sync,
    /// Store these versions of damaged blocks again where they are the indexed ones, and answer how many were.
    Repair {
        session: Session,
        key: SlotKey,
        epoch: Epoch,
        block: u64,
        records: Vec<Record>,
    },
    /// Read and answer; independent of what follows.
    Serve(Session, VolumeId, Request),
    /// List the extents changed above the base, put them into the answer and send it.
    ReplyChanged {
        session: Session,
        key: SlotKey,
        epoch: Epoch,
        attempt: u64,
        base: Seq,
    },
    Reply(Session, FromSilo),
}

/// What a commit changes in the slot's index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Keep,
    /// Put what was staged in the place of everything above `base`.
    Adopt {
        base: Seq,
    },
    /// Drop everything above the last complete history.
    Revert {
        vote: Vote,
    },
    /// The silo has left the slot: its blocks go, its promise stays.
    Vacate,
    /// The volume is gone.
    Forget,
}

/// What does not change while a silo is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    pub silo: SiloId,
    pub incarnation: Incarnation,
    pub chain: Vec<Incarnation>,
    pub boot: [u8; 16],
    /// An fsync of this silo failed once: what the page cache holds proves nothing.
    pub fsync_failed: bool,
}

/// What a silo has space for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// New writes, beside all that was promised.
    pub takes_writes: bool,
    /// Bytes of transfers while it takes no writes: what lies above what was promised and is no use to anybody else. With
    /// it a copy may catch up that lacks little, or only what was trimmed, and let go of what it holds beside that.
    pub transfer_bytes: u64,
}

impl Room {
    pub const AMPLE: Room = Room { takes_writes: true, transfer_bytes: u64::MAX };
    pub const NONE: Room = Room { takes_writes: false, transfer_bytes: 0 };

    /// Takes a transfer into account, if there is room for it.
    fn takes(&mut self, parcel: &Parcel) -> bool {
        let bytes = parcel.records.len() as u64;
        let fits = self.takes_writes || bytes <= self.transfer_bytes;
        if fits {
            self.transfer_bytes = self.transfer_bytes.saturating_sub(bytes);
        }
        fits
    }
}

/// All slots of one silo.
pub struct Acceptor {
    opening: Opening,
    slots: BTreeMap<SlotKey, Slot>,
    room: Room,
    fault: Option<String>,
    /// The slots of which records were taken that the host has not written yet.
    unwritten: Vec<SlotKey>,
}

impl Acceptor {
    /// The acceptor of a silo just opened, with the states recovered from its store.
    pub fn new(opening: Opening, states: Vec<(SlotKey, SlotState)>, now: Moment) -> Self {
        let slots = states.into_iter().map(|(key, state)| (key, Slot::recovered(key, state, now))).collect();
        Self { opening, slots, room: Room::AMPLE, fault: None, unwritten: Vec::new() }
    }

    pub fn opening(&self) -> &Opening {
        &self.opening
    }

    /// The chain was confirmed by the cluster state up to the present incarnation.
    pub fn confirmed(&mut self) {
        self.opening.chain = vec![self.opening.incarnation];
    }

    /// Whether there is space for new writes goes out with every acknowledgement, and with one of its own when it
    /// changes: a writer that was refused space asks for nothing that would be acknowledged.
    pub fn set_room(&mut self, room: Room, out: &mut Vec<Effect>) {
        let before = std::mem::replace(&mut self.room, room);
        if before.takes_writes != room.takes_writes && self.fault.is_none() {
            let told = self.slots.values().filter(|slot| slot.has_writer());
            out.extend(told.map(|slot| slot.ack(&self.opening, room.takes_writes)));
        }
    }

    /// The silo is out of service for good: every frame is refused with the first reason. Whether that is news.
    pub fn set_fault(&mut self, why: String) -> bool {
        let is_news = self.fault.is_none();
        self.fault.get_or_insert(why);
        is_news
    }

    /// All records that were taken are in the log.
    pub fn wrote(&mut self) {
        for key in std::mem::take(&mut self.unwritten) {
            self.slots.get_mut(&key).into_iter().for_each(Slot::wrote);
        }
    }

    /// There was no space for the records that were taken last, but for those of some slots up to the given numbers. Says
    /// of each slot where it stands.
    pub fn take_back(&mut self, reached: &BTreeMap<SlotKey, Seq>, out: &mut Vec<Effect>) {
        for key in std::mem::take(&mut self.unwritten) {
            if let Some(slot) = self.slots.get_mut(&key) {
                slot.take_back(reached.get(&key).copied());
                out.push(slot.ack(&self.opening, self.room.takes_writes));
            }
        }
    }

    /// The slots of a volume as they are, for [`Acceptor::restore`].
    pub fn keep(&self, volume: VolumeId) -> Vec<(SlotKey, Slot)> {
        self.of_volume(volume).map(|(key, slot)| (*key, slot.clone())).collect()
    }

    /// There was no space for what a message to this volume asked for: its slots are as they were. `went_back` tells of
    /// those that the store has taken back to their complete history in spite of that.
    pub fn restore(&mut self, volume: VolumeId, kept: Vec<(SlotKey, Slot)>, went_back: impl Fn(SlotKey) -> bool) {
        self.slots.retain(|key, _| key.volume != volume);
        self.slots.extend(kept);
        let incomplete = |slot: &Slot| slot.state().incomplete.is_some();
        for (key, slot) in self.slots.iter_mut().filter(|(key, slot)| key.volume == volume && incomplete(slot)) {
            if went_back(*key) {
                slot.went_back();
            }
        }
    }

    /// Whether the silo is out of service.
    pub fn is_faulted(&self) -> bool {
        self.fault.is_some()
    }

    pub fn slots(&self) -> impl Iterator<Item = (&SlotKey, &Slot)> {
        self.slots.iter()
    }

    /// Takes one message of a writer and pushes what is to be done.
    pub fn handle(&mut self, now: Moment, from: NodeId, session: Session, message: ToSilo, out: &mut Vec<Effect>) {
        let volume = message.volume();
        if let Some(why) = &self.fault {
            let reason = Refusal::Faulted(why.clone());
            out.push(self.refused(session, volume, None, Epoch::ZERO, reason));
            return;
        }
        match message {
            ToSilo::Append(append) => {
                let key = append.record.header.key();
                let epoch = append.epoch;
                let Some(slot) = self.slots.get_mut(&key) else {
                    out.push(self.refused(session, volume, Some(key.slot), epoch, Refusal::OutOfStep));
                    return;
                };
                let was_written = !slot.has_unwritten();
                slot.append(now, session, append, &self.opening, self.room.takes_writes, out);
                if was_written && slot.has_unwritten() {
                    self.unwritten.push(key);
                }
            }
            ToSilo::Rare(_, _, request) => self.request(now, from, session, volume, request, out),
        }
    }

    fn request(
        &mut self,
        now: Moment,
        from: NodeId,
        session: Session,
        volume: VolumeId,
        request: Request,
        out: &mut Vec<Effect>,
    ) {
        match request {
            Request::Promote { epoch, holder, own_dead, lease_ms, sent, slots } => {
                if holder != from {
                    out.push(self.refused(session, volume, None, epoch, Refusal::OutOfStep));
                    return;
                }
                let ask = Promotion { epoch, holder, own_dead, lease_ms, sent };
                self.promote(now, session, volume, ask, &slots, out);
            }
            Request::Heartbeat { epoch, incarnation, sent, slots } => {
                for news in slots {
                    let key = SlotKey { volume, slot: news.slot };
                    if let Some(slot) = self.slots.get_mut(&key) {
                        slot.heartbeat(now, epoch, incarnation, sent, news, &self.opening, out);
                    }
                }
                let fence = self.of_volume(volume).map(|(_, slot)| slot.promise()).max().unwrap_or_default();
                if fence > epoch && on(Mutant::OldEpochAcknowledged) {
                    return;
                }
                let reply = if fence > epoch {
                    Answer::Refused { slot: None, epoch, reason: Refusal::Fenced { promise: fence } }
                } else if fence < epoch || incarnation != self.opening.incarnation {
                    let reason = Refusal::Incarnation { current: self.opening.incarnation };
                    Answer::Refused { slot: None, epoch, reason }
                } else {
                    Answer::Renewed { epoch, incarnation, sent }
                };
                out.push(self.reply(session, volume, reply));
            }
            Request::Release { epoch } => self.release(session, volume, epoch, out),
            Request::Read { .. }
            | Request::Allocation { .. }
            | Request::Delta { .. }
            | Request::Fetch { .. }
            | Request::Indexed { .. }
            | Request::FetchVersion { .. } => self.serve(session, volume, request, out),
            Request::Sync { slot, .. }
            | Request::AdoptAsIs { slot, .. }
            | Request::CatchUp { slot, .. }
            | Request::Transfer { slot, .. }
            | Request::Adopt { slot, .. }
            | Request::Repair { slot, .. }
            | Request::Configure { slot, .. }
            | Request::Dismiss { slot, .. } => {
                let key = SlotKey { volume, slot };
                let Some(state) = self.slots.get_mut(&key) else {
                    out.push(self.refused(session, volume, Some(slot), Epoch::ZERO, Refusal::OutOfStep));
                    return;
                };
                state.request(session, request, &self.opening, &mut self.room, out);
            }
        }
    }

    /// Promises an epoch for all slots asked for, or for none (rules 8 and 9).
    fn promote(
        &mut self,
        now: Moment,
        session: Session,
        volume: VolumeId,
        ask: Promotion,
        slots: &[(SlotIndex, ConfigNumber)],
        out: &mut Vec<Effect>,
    ) {
        let known = |(index, _): &(SlotIndex, ConfigNumber)| self.slots.get(&SlotKey { volume, slot: *index });
        if slots.iter().filter_map(known).any(|slot| slot.asked_since(&ask)) {
            return;
        }
        for (index, config) in slots {
            let key = SlotKey { volume, slot: *index };
            // One that is new here has nothing against it, and begins only if none of the others has.
            let Some(slot) = self.slots.get_mut(&key) else { continue };
            #[cfg(test)]
            slot.read_vote_early(ask.epoch);
            if let Some(reason) = slot.objection(now, &ask, *config) {
                out.push(self.refused(session, volume, Some(*index), ask.epoch, reason));
                return;
            }
        }
        let is_asked = |key: &SlotKey| slots.iter().any(|(index, _)| *index == key.slot);
        let others = self.of_volume(volume).filter(|(key, _)| !is_asked(key));
        let objection = others.filter_map(|(key, slot)| Some((*key, slot.lease_objection(now, &ask)?))).next();
        if let Some((key, reason)) = objection {
            out.push(self.refused(session, volume, Some(key.slot), ask.epoch, reason));
            return;
        }
        #[cfg(test)]
        self.share_numbers(volume);
        let mut commits = Vec::new();
        let mut votes = Vec::new();
        for (index, config) in slots {
            let key = SlotKey { volume, slot: *index };
            let slot = self.slots.entry(key).or_insert_with(|| Slot::recovered(key, SlotState::default(), now));
            if let Some(commit) = slot.promise_epoch(now, session, &ask, *config) {
                commits.push((key, commit.0, commit.1));
            }
            votes.push(slot.vote(&self.opening));
        }
        let reverted: Vec<SlotKey> = commits
            .iter()
            .filter(|(_, _, change)| matches!(change, Change::Revert { .. }))
            .map(|(key, ..)| *key)
            .collect();
        if !reverted.is_empty() {
            out.push(Effect::SyncNow);
        }
        if !commits.is_empty() {
            out.push(Effect::Commit(commits));
        }
        // Not before: if there is no space for the commit, the catching-up that was under way stands.
        out.extend(reverted.into_iter().map(Effect::DropStaging));
        let promised = Promised {
            epoch: ask.epoch,
            incarnation: self.opening.incarnation,
            chain: self.opening.chain.clone(),
            sent: ask.sent,
            takes_writes: self.room.takes_writes,
            slots: votes,
        };
        out.push(self.reply(session, volume, Answer::Promised(promised)));
    }

    /// One position for all slots, as a deliberate bug has it.
    #[cfg(test)]
    fn share_numbers(&mut self, volume: VolumeId) {
        let highest = self.of_volume(volume).map(|(_, slot)| slot.state().vote().applied).max().unwrap_or_default();
        self.slots.iter_mut().filter(|(key, _)| key.volume == volume).for_each(|(_, slot)| slot.share_number(highest));
    }

    /// Ends the lease of an epoch, durably, so that a restart of this silo has nothing to wait out.
    fn release(&mut self, session: Session, volume: VolumeId, epoch: Epoch, out: &mut Vec<Effect>) {
        let mut commits = Vec::new();
        for (key, slot) in self.slots.iter_mut().filter(|(key, _)| key.volume == volume) {
            if let Some(state) = slot.release(epoch) {
                commits.push((*key, state, Change::Keep));
            }
        }
        if !commits.is_empty() {
            out.push(Effect::Commit(commits));
        }
        out.push(self.reply(session, volume, Answer::Released { epoch }));
    }

    fn serve(&mut self, session: Session, volume: VolumeId, request: Request, out: &mut Vec<Effect>) {
        let (id, index, epoch, floor) = match &request {
            Request::Read { id, slot, epoch, floor, .. }
            | Request::Allocation { id, slot, epoch, floor, .. }
            | Request::Delta { id, slot, epoch, floor, .. }
            | Request::Fetch { id, slot, epoch, floor, .. } => (*id, *slot, *epoch, *floor),
            Request::Indexed { id, slot, epoch, .. } | Request::FetchVersion { id, slot, epoch, .. } => {
                (*id, *slot, *epoch, Seq::ZERO)
            }
            _ => return,
        };
        let refusal = match self.slots.get(&SlotKey { volume, slot: index }) {
            Some(slot) if matches!(request, Request::FetchVersion { .. }) => slot.version_objection(epoch),
            Some(slot) => slot.read_objection(epoch, floor),
            None => Some(ReadRefusal::Behind),
        };
        let Some(refusal) = refusal else {
            out.push(Effect::Serve(session, volume, request));
            return;
        };
        let answer = match request {
            Request::Read { .. } => Answer::Read { id, result: Err(refusal) },
            Request::Allocation { .. } => Answer::Allocation { id, result: Err(refusal) },
            Request::Fetch { .. } | Request::FetchVersion { .. } => Answer::Fetched { id, result: Err(refusal) },
            Request::Indexed { .. } => Answer::Indexed { id, result: Err(refusal) },
            _ => Answer::Delta { id, result: Err(refusal) },
        };
        out.push(self.reply(session, volume, answer));
    }

    /// The numbers that a sync started now will have made durable; none if nobody waits, or the silo is out of service:
    /// whoever waits there waits for ever.
    pub fn begin_sync(&mut self) -> Vec<(SlotKey, Seq)> {
        if self.fault.is_some() {
            return Vec::new();
        }
        let waiting = self.slots.iter_mut().filter(|(_, slot)| slot.wants_sync());
        waiting.map(|(key, slot)| (*key, slot.begin_sync())).collect()
    }

    /// A sync begun with these marks succeeded: acknowledges what is durable now, and says if another is wanted, by
    /// these slots or by one that asked while it ran.
    pub fn end_sync(&mut self, marks: &[(SlotKey, Seq)], out: &mut Vec<Effect>) {
        for (key, mark) in marks {
            if let Some(slot) = self.slots.get_mut(key) {
                slot.synced(*mark);
                out.push(slot.ack(&self.opening, self.room.takes_writes));
            }
        }
        if self.slots.values().any(Slot::wants_sync) {
            out.push(Effect::Sync);
        }
    }

    /// The volume was deleted: its slots are forgotten.
    pub fn forget(&mut self, volume: VolumeId, out: &mut Vec<Effect>) {
        let keys: Vec<SlotKey> = self.of_volume(volume).map(|(key, _)| *key).collect();
        let commits: Vec<_> = keys.iter().map(|key| (*key, SlotState::default(), Change::Forget)).collect();
        self.slots.retain(|key, _| key.volume != volume);
        if !commits.is_empty() {
            out.push(Effect::Commit(commits));
        }
    }

    /// What the cluster state says of a slot that this silo is none of: its configuration, and its volume's epoch. What the
    /// silo holds of it may go, unless it is being brought up to date to become one: whoever does that has the volume's
    /// last epoch and the slot's last configuration, and the silo promised both to it durably. So one that has older ones
    /// is no part of any change to come either, however late this silo hears of what the cluster decides.
    pub fn left(&mut self, key: SlotKey, epoch: Epoch, config: ConfigNumber, out: &mut Vec<Effect>) {
        if self.fault.is_some() {
            return;
        }
        let Some(slot) = self.slots.get_mut(&key) else { return };
        if slot.promise() < epoch || slot.state().config < config {
            slot.vacate(config, out);
        }
    }

    fn of_volume(&self, volume: VolumeId) -> impl Iterator<Item = (&SlotKey, &Slot)> {
        self.slots.iter().filter(move |(key, _)| key.volume == volume)
    }

    fn reply(&self, session: Session, volume: VolumeId, answer: Answer) -> Effect {
        Effect::Reply(session, FromSilo::Rare(self.opening.silo, volume, answer))
    }

    fn refused(
        &self,
        session: Session,
        volume: VolumeId,
        slot: Option<SlotIndex>,
        epoch: Epoch,
        reason: Refusal,
    ) -> Effect {
        self.reply(session, volume, Answer::Refused { slot, epoch, reason })
    }
}

/// What a writer asks for with a promotion.
#[derive(Clone, Copy, Debug)]
pub struct Promotion {
    pub epoch: Epoch,
    pub holder: NodeId,
    pub own_dead: bool,
    pub lease_ms: u32,
    pub sent: u64,
}
