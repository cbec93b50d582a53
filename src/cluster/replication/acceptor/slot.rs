//! One slot on one silo.

use std::time::Duration;

use crate::base::clock::Moment;
use crate::base::id::{ConfigNumber, Epoch, Incarnation, Seq, SiloId, SlotIndex, SlotKey};
use crate::base::mutant::{Mutant, on};
use crate::base::record::RecordKind;
use crate::cluster::replication::acceptor::{Change, Effect, Opening, Promotion, Room, Session};
use crate::cluster::replication::message::{
    Ack, Answer, Append, FromSilo, Parcel, ReadRefusal, Refusal, Request, SlotNews, SlotVote,
};
use crate::store::slot::{SlotState, Vote};

/// The state of one slot on this silo: what is durable of it, and what lasts as long as the process.
#[derive(Clone)]
pub struct Slot {
    key: SlotKey,
    state: SlotState,
    /// `D`: everything up to here is on the disk.
    durable: Seq,
    /// Until then only the holder's own daemon may replace the promise.
    leased_until: Option<Moment>,
    lease: Duration,
    /// Highest number somebody waits for to be durable.
    sync_wanted: Seq,
    /// How far the stream had come when the sync began that is running; none once the history is another, whose
    /// numbers that sync says nothing about.
    syncing: Option<Seq>,
    catching_up: Option<CatchingUp>,
    /// The writer's connection, on which it was promised the epoch last: where acknowledgements go. What directs recovery
    /// and catching up counts on this one alone. A frame of an earlier connection may arrive late, when the writer has
    /// long placed the silo anew from another vote.
    session: Session,
    /// When that was asked for, by the holder's clock.
    asked: u64,
    /// `sent` of the last frame accepted.
    sent: u64,
    /// A gap was reported and nothing accepted since.
    gap_reported: bool,
    /// How far the stream had come when the first of those records was taken that the host has not written yet.
    written: Option<Seq>,
    /// The last attempt to catch up in this epoch: messages of earlier ones are refused.
    attempt: u64,
    /// What a deliberate bug votes with: the history as it was when an epoch was first asked for.
    #[cfg(test)]
    early: Option<(Epoch, Vote)>,
}

/// Versions are arriving out of prefix; lost at a restart, which starts the transfer again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct CatchingUp {
    attempt: u64,
    base: Seq,
    /// The stream's place: the last live record applied, from `floor` on.
    live: Seq,
    /// The last parcel taken.
    cursor: Option<u64>,
    /// The highest floor a listing was read at: the stream must have come so far before the epoch is adopted.
    needs: Seq,
}

impl Slot {
    /// The slot as the store recovered it. Opening made the whole tail durable, so `D = S`. A lease that an earlier
    /// opening granted may still run: the longest ever granted is waited out (rule 9).
    pub fn recovered(key: SlotKey, state: SlotState, now: Moment) -> Self {
        let granted = state.holder.is_some() && !on(Mutant::RestartedGrantsAtOnce);
        let waits = granted.then(|| now + Duration::from_millis(state.lease_ms_max));
        Self {
            key,
            durable: state.vote().applied,
            leased_until: waits,
            lease: Duration::from_millis(state.lease_ms_max),
            sync_wanted: Seq::ZERO,
            syncing: None,
            catching_up: None,
            session: 0,
            asked: 0,
            sent: 0,
            gap_reported: false,
            written: None,
            attempt: 0,
            #[cfg(test)]
            early: None,
            state,
        }
    }

    pub fn state(&self) -> &SlotState {
        &self.state
    }

    pub fn promise(&self) -> Epoch {
        self.state.promise
    }

    /// The last record of the stream that is applied.
    pub fn applied(&self) -> Seq {
        self.catching_up.map_or(self.state.applied, |c| c.live)
    }

    pub fn durable(&self) -> Seq {
        self.durable
    }

    /// Whether records were taken that the host has not written yet.
    pub fn has_unwritten(&self) -> bool {
        self.written.is_some()
    }

    /// Everything that was taken is in the log.
    pub fn wrote(&mut self) {
        self.written = None;
    }

    /// The log had no space for what was taken last: the stream stands where it stood, or at `reached` if some of it was
    /// written. The writer sends again from there after a while, of its own accord: to report a gap would only have it
    /// sent at once.
    pub fn take_back(&mut self, reached: Option<Seq>) {
        let Some(written) = self.written.take() else { return };
        let stands = reached.unwrap_or(written).max(written);
        match &mut self.catching_up {
            Some(catching_up) => catching_up.live = stands,
            None => {
                self.state.applied = stands;
                // It was told together with a record that is not here now.
                self.state.committed = self.state.committed.min(stands);
            }
        }
        self.gap_reported = true;
    }

    /// A message to this slot came to nothing for want of space, but the store had gone back to the complete history
    /// already.
    pub fn went_back(&mut self) {
        self.revert();
    }

    pub fn wants_sync(&self) -> bool {
        self.sync_wanted > self.durable && self.applied() > self.durable
    }

    /// A sync begins; it covers everything applied up to the number returned.
    pub fn begin_sync(&mut self) -> Seq {
        let mark = self.applied();
        self.syncing = Some(mark);
        mark
    }

    /// The sync that began at `mark` succeeded.
    pub fn synced(&mut self, mark: Seq) {
        if let Some(reach) = self.syncing.take() {
            self.durable = self.durable.max(reach.min(mark));
        }
    }

    /// Why this promotion is refused, if it is.
    pub fn objection(&self, now: Moment, ask: &Promotion, config: ConfigNumber) -> Option<Refusal> {
        let state = &self.state;
        if config < state.config {
            return Some(Refusal::Configuration { current: state.config });
        }
        let same = ask.epoch == state.promise && state.holder == Some(ask.holder);
        if ask.epoch < state.promise || (ask.epoch == state.promise && !same) {
            return Some(Refusal::Fenced { promise: state.promise });
        }
        self.lease_objection(now, ask)
    }

    /// Whether an earlier holder's lease runs: it counts on it for all slots of the silo's, so the next waits for each of them.
    pub fn lease_objection(&self, now: Moment, ask: &Promotion) -> Option<Refusal> {
        let own = ask.own_dead && self.state.holder == Some(ask.holder);
        if own || ask.epoch <= self.state.promise {
            return None;
        }
        let until = self.leased_until.filter(|until| *until > now)?;
        let remaining_ms = until.since(now).as_millis() as u64 + 1;
        Some(Refusal::Leased { epoch: self.state.promise, remaining_ms })
    }

    /// Whether the holder has asked again since: what it asked before comes late, on a connection that is no more.
    pub fn asked_since(&self, ask: &Promotion) -> bool {
        let same = ask.epoch == self.state.promise && self.state.holder == Some(ask.holder);
        same && ask.sent < self.asked && !on(Mutant::LatePromotionObeyed)
    }

    /// Takes the promise, and says what must be durable before the vote is told. A higher epoch ends a catching-up
    /// that was under way: the slot goes back to its last complete history, which is what it votes with (rule 13).
    pub fn promise_epoch(
        &mut self,
        now: Moment,
        session: Session,
        ask: &Promotion,
        config: ConfigNumber,
    ) -> Option<(SlotState, Change)> {
        self.session = session;
        (self.asked, self.sent) = (ask.sent, ask.sent);
        self.lease = Duration::from_millis(u64::from(ask.lease_ms));
        self.leased_until = Some(now + self.lease);
        self.gap_reported = false;
        let before = self.state.clone();
        #[cfg(test)]
        self.early.take_if(|_| ask.epoch == before.promise);
        let mut change = Change::Keep;
        if ask.epoch > self.state.promise {
            change = self.revert();
            self.attempt = 0;
        }
        self.state.promise = ask.epoch;
        self.state.holder = Some(ask.holder);
        self.state.config = config;
        if self.state.lease_ms_max == 0 || !on(Mutant::LengthenedLeaseForgotten) {
            self.state.lease_ms_max = self.state.lease_ms_max.max(u64::from(ask.lease_ms));
        }
        if on(Mutant::PromiseNotPersisted) && change == Change::Keep && before.promise > Epoch::ZERO {
            return None;
        }
        (self.state != before || change != Change::Keep).then(|| (self.state.clone(), change))
    }

    /// Back to the last complete history, if versions out of prefix were stored.
    fn revert(&mut self) -> Change {
        self.catching_up = None;
        let Some(vote) = self.state.incomplete.take() else { return Change::Keep };
        self.state.adopted = vote.adopted;
        self.state.applied = vote.applied;
        self.state.committed = self.state.committed.min(vote.applied);
        // The host syncs before it reverts, so everything that is left is durable.
        self.durable = vote.applied;
        self.forget_syncs();
        Change::Revert { vote }
    }

    /// Reads the vote before the promise.
    #[cfg(test)]
    pub fn read_vote_early(&mut self, epoch: Epoch) {
        if on(Mutant::VoteBeforePromise) && self.early.is_none_or(|(asked, _)| asked != epoch) {
            self.early = Some((epoch, self.state.vote()));
        }
    }

    /// Takes another slot's number for this one's.
    #[cfg(test)]
    pub fn share_number(&mut self, highest: Seq) {
        if on(Mutant::OneVoteOverTwoSlots) && self.state.incomplete.is_none() {
            self.state.applied = self.state.applied.max(highest);
        }
    }

    /// What this silo reports of the slot, once the promise is durable.
    pub fn vote(&self, opening: &Opening) -> SlotVote {
        #[cfg(test)]
        let early = self.early.filter(|(epoch, _)| *epoch == self.state.promise && self.state.adopted < *epoch);
        #[cfg(not(test))]
        let early: Option<(Epoch, Vote)> = None;
        SlotVote {
            slot: self.key.slot,
            vote: early.map_or(self.state.vote(), |(_, vote)| vote),
            incomplete: self.state.incomplete.is_some(),
            durable: self.durable,
            committed: self.state.committed,
            kept_cache: self.state.adopted_boot == opening.boot && !opening.fsync_failed,
            peers: self.state.peers.clone(),
        }
    }

    /// Ends the epoch's lease; the state to persist, if it was this epoch's.
    pub fn release(&mut self, epoch: Epoch) -> Option<SlotState> {
        if self.state.promise != epoch || self.state.holder.is_none() {
            return None;
        }
        self.leased_until = None;
        self.state.holder = None;
        Some(self.state.clone())
    }

    /// One record of the stream (rule 1): taken only if it follows on what is applied.
    pub fn append(
        &mut self,
        now: Moment,
        session: Session,
        append: Append,
        opening: &Opening,
        takes_writes: bool,
        out: &mut Vec<Effect>,
    ) {
        let epoch = append.epoch;
        let late = on(Mutant::OldEpochAcknowledged) && epoch == self.state.adopted && epoch < self.state.promise;
        if late {
            self.session = session;
        }
        if let Some(reason) = self.frame_objection(epoch, append.incarnation, opening).filter(|_| !late) {
            out.push(self.refuse(session, opening, epoch, reason));
            return;
        }
        if append.config != self.state.config {
            let reason = Refusal::Configuration { current: self.state.config };
            out.push(self.refuse(session, opening, epoch, reason));
            return;
        }
        if !self.follows(epoch) {
            out.push(self.refuse(session, opening, epoch, Refusal::OutOfStep));
            return;
        }
        let seq = append.record.header.stamp.seq;
        let follows_on = append.previous == self.applied() || on(Mutant::GapIgnoredAfterPowerLoss);
        if seq > self.applied() && !follows_on {
            if !self.gap_reported {
                self.gap_reported = true;
                let applied = self.applied();
                let gap = Answer::Gap { slot: self.key.slot, epoch, incarnation: opening.incarnation, applied };
                out.push(self.reply(self.session, opening, gap));
            }
            return;
        }
        self.gap_reported = false;
        self.renew(now, append.sent);
        if on(Mutant::NoAdoptionOnEmptyTail) && self.catching_up.is_none() && self.state.adopted != epoch {
            self.commit_adoption(epoch, Change::Keep, opening, out);
        }
        if append.sync {
            self.sync_wanted = self.sync_wanted.max(seq);
        }
        if seq > self.applied() {
            self.written.get_or_insert(self.applied());
            match &mut self.catching_up {
                Some(catching_up) => catching_up.live = seq,
                None => self.state.applied = seq,
            }
            let refused = !takes_writes && append.record.header.kind == RecordKind::Write;
            if !(refused && on(Mutant::RefusedSeqSkipped)) {
                out.push(Effect::Append(append.record));
            }
        }
        self.learn_committed(append.committed, out);
        if self.wants_sync() {
            out.push(Effect::Sync);
        }
        out.push(self.ack(opening, takes_writes));
    }

    /// The lease and what the writer knows of the slot's silos.
    #[allow(clippy::too_many_arguments)]
    pub fn heartbeat(
        &mut self,
        now: Moment,
        epoch: Epoch,
        incarnation: Incarnation,
        sent: u64,
        news: SlotNews,
        opening: &Opening,
        out: &mut Vec<Effect>,
    ) {
        if self.frame_objection(epoch, incarnation, opening).is_some() {
            return;
        }
        self.renew(now, sent);
        if self.follows(epoch) {
            self.learn_committed(news.committed, out);
        }
        self.learn_reports(&news.silos, out);
    }

    /// What the writer says that the slot's silos have durably. It only rises, whatever order the news come in.
    fn learn_reports(&mut self, news: &[(SiloId, Epoch, Seq)], out: &mut Vec<Effect>) {
        let before = self.state.peers.clone();
        for (silo, adopted, durable) in news {
            match self.state.peers.iter_mut().find(|(known, _, _)| known == silo) {
                Some((_, epoch, seq)) => (*epoch, *seq) = (*epoch, *seq).max((*adopted, *durable)),
                None => self.state.peers.push((*silo, *adopted, *durable)),
            }
        }
        if self.state.peers != before {
            out.push(Effect::Peers(self.key, self.state.peers.clone()));
        }
    }

    /// The requests of recovery and catching up.
    pub fn request(
        &mut self,
        session: Session,
        request: Request,
        opening: &Opening,
        room: &mut Room,
        out: &mut Vec<Effect>,
    ) {
        let (epoch, incarnation) = match &request {
            Request::Sync { epoch, incarnation, .. }
            | Request::AdoptAsIs { epoch, incarnation, .. }
            | Request::CatchUp { epoch, incarnation, .. }
            | Request::Transfer { epoch, incarnation, .. }
            | Request::Adopt { epoch, incarnation, .. }
            | Request::Repair { epoch, incarnation, .. }
            | Request::Configure { epoch, incarnation, .. }
            | Request::Dismiss { epoch, incarnation, .. } => (*epoch, *incarnation),
            _ => return,
        };
        if let Some(reason) = self.frame_objection(epoch, incarnation, opening) {
            out.push(self.refuse(session, opening, epoch, reason));
            return;
        }
        let directs = !matches!(request, Request::Sync { .. } | Request::Repair { .. });
        if directs && session != self.session && !on(Mutant::LateCatchUpObeyed) {
            out.push(self.refuse(session, opening, epoch, Refusal::OutOfStep));
            return;
        }
        let taken = match request {
            Request::Sync { upto, .. } => self.sync(upto, opening, room.takes_writes, out),
            Request::AdoptAsIs { attempt, expected, .. } => self.adopt_as_is(epoch, attempt, expected, opening, out),
            Request::CatchUp { attempt, base, floor, .. } => self.catch_up(epoch, attempt, base, floor, out),
            // What is left of a full silo was promised to the stream. The writer asks again.
            Request::Transfer { parcel, .. } if !room.takes(&parcel) => true,
            Request::Transfer { attempt, cursor, parcel, .. } => self.transfer(attempt, cursor, parcel, opening, out),
            Request::Adopt { attempt, .. } => self.adopt(epoch, attempt, opening, out),
            Request::Repair { block, parcel, .. } => self.repair(epoch, block, &parcel, out),
            Request::Configure { config, silos, .. } => self.configure(config, &silos, out),
            Request::Dismiss { .. } => {
                self.vacate(self.state.config, out);
                true
            }
            _ => return,
        };
        if !taken {
            out.push(self.refuse(session, opening, epoch, Refusal::OutOfStep));
        }
    }

    fn sync(&mut self, upto: Seq, opening: &Opening, takes_writes: bool, out: &mut Vec<Effect>) -> bool {
        if upto <= self.durable {
            out.push(self.ack(opening, takes_writes));
            return true;
        }
        self.sync_wanted = self.sync_wanted.max(upto);
        if self.wants_sync() {
            out.push(Effect::Sync);
        }
        true
    }

    fn adopt_as_is(
        &mut self,
        epoch: Epoch,
        attempt: u64,
        expected: Vote,
        opening: &Opening,
        out: &mut Vec<Effect>,
    ) -> bool {
        if self.state.incomplete.is_some() {
            return false;
        }
        if self.state.adopted != epoch {
            if self.state.vote() != expected {
                return false;
            }
            if on(Mutant::NoAdoptionOnEmptyTail) {
                let (slot, incarnation, applied) = (self.key.slot, opening.incarnation, self.state.applied);
                let answer = Answer::Adopted { slot, epoch, incarnation, attempt, applied };
                out.push(self.reply(self.session, opening, answer));
                return true;
            }
            self.commit_adoption(epoch, Change::Keep, opening, out);
        }
        out.push(self.adopted(attempt, opening));
        true
    }

    /// Persists "incomplete" before anything out of prefix is stored (rule 13).
    fn catch_up(&mut self, epoch: Epoch, attempt: u64, base: Seq, floor: Seq, out: &mut Vec<Effect>) -> bool {
        let again = self.catching_up.is_some_and(|c| c.attempt == attempt);
        if !again {
            if attempt <= self.attempt {
                return false;
            }
            self.attempt = attempt;
            if self.state.incomplete.is_some() {
                out.push(Effect::SyncNow);
                let change = self.revert();
                out.push(Effect::Commit(vec![(self.key, self.state.clone(), change)]));
            }
            // Not before: if there is no space for the commit, the catching-up that was under way stands.
            out.push(Effect::DropStaging(self.key));
            if on(Mutant::DropBeforeAdoption) && base < self.state.applied {
                let vote = Vote { applied: base, ..self.state.vote() };
                self.state.incomplete = Some(vote);
                let change = self.revert();
                out.push(Effect::Commit(vec![(self.key, self.state.clone(), change)]));
            }
            self.state.incomplete = Some(self.state.vote());
            self.forget_syncs();
            self.catching_up = Some(CatchingUp { attempt, base, live: floor, cursor: None, needs: floor });
            if !on(Mutant::IncompleteNotDurable) {
                out.push(Effect::Commit(vec![(self.key, self.state.clone(), Change::Keep)]));
            }
        }
        self.gap_reported = false;
        out.push(Effect::ReplyChanged { session: self.session, key: self.key, epoch, attempt, base });
        true
    }

    fn transfer(
        &mut self,
        attempt: u64,
        cursor: u64,
        parcel: Parcel,
        opening: &Opening,
        out: &mut Vec<Effect>,
    ) -> bool {
        let Some(catching_up) = self.catching_up.as_mut().filter(|c| c.attempt == attempt) else { return false };
        let known = catching_up.cursor.is_some_and(|last| cursor <= last);
        if !known {
            let Some(records) = parcel.split(self.key) else { return false };
            for listing in &parcel.listings {
                catching_up.needs = catching_up.needs.max(listing.floor);
            }
            catching_up.cursor = Some(cursor);
            out.extend(records.into_iter().map(Effect::Append));
            out.extend(parcel.listings.iter().map(|listing| Effect::Stage(self.key, *listing)));
        }
        let (slot, epoch) = (self.key.slot, self.state.promise);
        let answer = Answer::Transferred { slot, epoch, incarnation: opening.incarnation, attempt, cursor };
        out.push(self.reply(self.session, opening, answer));
        true
    }

    fn adopt(&mut self, epoch: Epoch, attempt: u64, opening: &Opening, out: &mut Vec<Effect>) -> bool {
        let done = self.state.adopted == epoch && self.state.incomplete.is_none() && self.attempt == attempt;
        if done {
            out.push(self.adopted(attempt, opening));
            return true;
        }
        let Some(catching_up) = self.catching_up.filter(|c| c.attempt == attempt) else { return false };
        if catching_up.live < catching_up.needs {
            return false;
        }
        self.state.applied = catching_up.live;
        self.commit_adoption(epoch, Change::Adopt { base: catching_up.base }, opening, out);
        out.push(self.adopted(attempt, opening));
        true
    }

    /// A damaged block as another silo has it (rule 7): the store takes it only if it is exactly the indexed version.
    fn repair(&mut self, epoch: Epoch, block: u64, parcel: &Parcel, out: &mut Vec<Effect>) -> bool {
        let Some(records) = parcel.split(self.key) else { return false };
        if self.state.adopted != epoch || self.state.incomplete.is_some() {
            return false;
        }
        out.push(Effect::Repair { session: self.session, key: self.key, epoch, block, records });
        true
    }

    /// The slot has other silos from here on. What was reported of those that are none any more says nothing if they come
    /// again: then they come as any newcomer does.
    fn configure(&mut self, config: ConfigNumber, silos: &[SiloId], out: &mut Vec<Effect>) -> bool {
        if config > self.state.config {
            self.state.config = config;
            self.state.peers.retain(|(silo, ..)| silos.contains(silo));
            out.push(Effect::Commit(vec![(self.key, self.state.clone(), Change::Keep)]));
        }
        true
    }

    /// Whether the silo is none of the slot's, or has nothing of it yet.
    pub fn is_vacant(&self) -> bool {
        self.state.adopted == Epoch::ZERO && self.state.incomplete.is_none()
    }

    /// Forgets all but what it promised (rule 8), and of which configuration it is none: who knows an older one must not take
    /// it for a member that has nothing.
    pub fn vacate(&mut self, left: ConfigNumber, out: &mut Vec<Effect>) {
        let SlotState { promise, holder, lease_ms_max, .. } = self.state.clone();
        let config = self.state.config.max(left);
        let kept = SlotState { config, promise, holder, lease_ms_max, ..SlotState::default() };
        if self.state == kept {
            return;
        }
        self.state = if on(Mutant::PromiseDroppedOnLeaving) { SlotState::default() } else { kept };
        self.catching_up = None;
        self.durable = Seq::ZERO;
        self.forget_syncs();
        out.push(Effect::DropStaging(self.key));
        out.push(Effect::Commit(vec![(self.key, self.state.clone(), Change::Vacate)]));
    }

    /// One fsynced commit, with the data synced before it (rule 12).
    fn commit_adoption(&mut self, epoch: Epoch, change: Change, opening: &Opening, out: &mut Vec<Effect>) {
        self.catching_up = None;
        self.state.incomplete = None;
        self.state.adopted = epoch;
        self.state.adopted_boot = opening.boot;
        self.forget_syncs();
        if !on(Mutant::FlushIgnoresTail) {
            self.durable = self.state.applied;
        }
        if !on(Mutant::AdoptionNotSynced) && !on(Mutant::FlushIgnoresTail) {
            out.push(Effect::SyncNow);
        }
        out.push(Effect::Commit(vec![(self.key, self.state.clone(), change)]));
    }

    /// The numbers that somebody waits for, or that a sync is running for, are another history's.
    fn forget_syncs(&mut self) {
        self.sync_wanted = Seq::ZERO;
        self.syncing = None;
    }

    /// Why a read of this epoch and floor is not served here (rule 7).
    pub fn read_objection(&self, epoch: Epoch, floor: Seq) -> Option<ReadRefusal> {
        if epoch < self.state.promise {
            return Some(ReadRefusal::Fenced { promise: self.state.promise });
        }
        let serves = epoch == self.state.promise
            && (self.state.adopted == epoch || on(Mutant::NoAdoptionOnEmptyTail))
            && self.state.incomplete.is_none()
            && (self.state.applied >= floor || on(Mutant::LaggardServes));
        (!serves).then_some(ReadRefusal::Behind)
    }

    /// Why a version that is named by its stamp is not given away here. Unlike a read, this does not ask what the block
    /// holds in the writer's history, so it needs no adoption and no floor: an epoch has one writer, which uses each
    /// number once, and a record keeps its first stamp for ever. So whoever has a version of that stamp, in a stale
    /// suffix, beneath it, or while it catches up, has the same bytes.
    pub fn version_objection(&self, epoch: Epoch) -> Option<ReadRefusal> {
        if epoch < self.state.promise {
            return Some(ReadRefusal::Fenced { promise: self.state.promise });
        }
        (epoch > self.state.promise).then_some(ReadRefusal::Behind)
    }

    /// Whether a writer follows how far the stream has come here.
    pub fn has_writer(&self) -> bool {
        self.state.holder.is_some() && self.follows(self.state.promise)
    }

    /// How far the stream has come here.
    pub fn ack(&self, opening: &Opening, takes_writes: bool) -> Effect {
        let late = on(Mutant::OldEpochAcknowledged) && self.catching_up.is_none();
        let ack = Ack {
            silo: opening.silo,
            key: self.key,
            epoch: if late { self.state.adopted } else { self.state.promise },
            incarnation: opening.incarnation,
            applied: self.applied(),
            durable: self.durable.min(self.applied()),
            takes_writes,
            sent: self.sent,
        };
        Effect::Reply(self.session, FromSilo::Ack(ack))
    }

    fn follows(&self, epoch: Epoch) -> bool {
        let adopted = self.state.adopted == epoch || on(Mutant::NoAdoptionOnEmptyTail);
        self.catching_up.is_some() || (adopted && self.state.incomplete.is_none())
    }

    fn frame_objection(&self, epoch: Epoch, incarnation: Incarnation, opening: &Opening) -> Option<Refusal> {
        if epoch < self.state.promise {
            return Some(Refusal::Fenced { promise: self.state.promise });
        }
        if incarnation != opening.incarnation {
            return Some(Refusal::Incarnation { current: opening.incarnation });
        }
        (epoch > self.state.promise).then_some(Refusal::OutOfStep)
    }

    fn renew(&mut self, now: Moment, sent: u64) {
        // A released lease is over, even if a frame sent before the release arrives after it.
        if self.state.holder.is_some() {
            self.sent = self.sent.max(sent);
            self.leased_until = Some(now + self.lease);
        }
    }

    /// The committed number rises only while the silo is complete: it is the point up to which this silo's own
    /// history agrees with all others.
    fn learn_committed(&mut self, committed: Seq, out: &mut Vec<Effect>) {
        if on(Mutant::IncompleteCleansTombstone) && self.state.incomplete.is_some() {
            out.push(Effect::Committed(self.key, committed.min(self.applied())));
        }
        let committed = committed.min(self.state.applied);
        if self.state.incomplete.is_none() && committed > self.state.committed {
            self.state.committed = committed;
            out.push(Effect::Committed(self.key, committed));
        }
    }

    fn adopted(&self, attempt: u64, opening: &Opening) -> Effect {
        let (slot, epoch, applied) = (self.key.slot, self.state.adopted, self.state.applied);
        let answer = Answer::Adopted { slot, epoch, incarnation: opening.incarnation, attempt, applied };
        self.reply(self.session, opening, answer)
    }

    fn refuse(&self, session: Session, opening: &Opening, epoch: Epoch, reason: Refusal) -> Effect {
        let slot: Option<SlotIndex> = Some(self.key.slot);
        self.reply(session, opening, Answer::Refused { slot, epoch, reason })
    }

    fn reply(&self, session: Session, opening: &Opening, answer: Answer) -> Effect {
        Effect::Reply(session, FromSilo::Rare(opening.silo, self.key.volume, answer))
    }
}
