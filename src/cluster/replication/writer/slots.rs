//! One slot as its writer sees it: the stream, what is remembered of it, and how far each silo has come.

use std::collections::{BTreeMap, VecDeque};

use crate::base::clock::Moment;
use crate::base::id::{ConfigNumber, Epoch, Seq, SiloId, SlotIndex};
use crate::base::mutant::{Mutant, on};
use crate::base::record::Record;
use crate::cluster::replication::message::SlotVote;
use crate::cluster::replication::order::RequestId;
use crate::cluster::replication::writer::RESEND_AFTER;
use crate::cluster::replication::writer::catchup::CatchUp;
use crate::cluster::replication::writer::reconfigure::Reconfiguration;
use crate::store::slot::Vote;

/// A write that is remembered until a majority has it durably.
pub struct Retained {
    pub seq: Seq,
    pub previous: Seq,
    pub record: Record,
    /// The request to answer, until it is answered.
    pub request: Option<RequestId>,
    /// The answer needs durability.
    pub durable: bool,
    /// Silos sync once they have it: for the answer, or because a flush is expected.
    pub sync: bool,
}

/// Where in the memory the first write after `seq` is. Asked with every write and every acknowledgement, mostly for one of
/// the last writes: the search begins there, since a search of the whole would miss the processor's caches.
pub fn after(retained: &VecDeque<Retained>, seq: Seq) -> usize {
    let is_later = |index: usize| retained[index].seq > seq;
    let (mut low, mut high, mut step) = (retained.len(), retained.len(), 1);
    // All from `high` on are later.
    while low > 0 && is_later(low - 1) {
        high = low - 1;
        low = high.saturating_sub(step);
        step *= 2;
    }
    while low < high {
        let middle = low.midpoint(high);
        if is_later(middle) { high = middle } else { low = middle + 1 }
    }
    high
}

/// How a silo takes part in a slot.
#[derive(Clone, Debug)]
pub enum Mode {
    /// Not connected, or no promise yet.
    Away,
    /// It voted, and waits for the choice or for its turn.
    Voted(SlotVote),
    /// Its history is the chosen one; asked to adopt the epoch.
    Adopting {
        expected: Vote,
        attempt: u64,
        since: Moment,
    },
    CatchingUp(CatchUp),
    /// Adopted and complete: it counts.
    Live,
}

/// Why a silo does not take part at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutReason {
    /// It has less than it once reported durable (rule 14).
    Damaged,
    /// It does not descend from the silo that the cluster knows.
    Foreign,
    /// It took itself out of service.
    Faulted(String),
}

/// One silo of a slot.
pub struct Peer {
    pub silo: SiloId,
    pub mode: Mode,
    pub out: Option<OutReason>,
    /// The last record of the stream that was sent on this connection.
    pub sent: Seq,
    pub applied: Seq,
    pub durable: Seq,
    /// The most that the silo ever reported durable in this epoch.
    pub durable_max: Seq,
    /// Records sent and not acknowledged.
    pub in_flight: VecDeque<(Seq, usize)>,
    pub in_flight_bytes: usize,
    /// The last time the stream moved.
    pub progress_at: Moment,
    /// Durability up to here was asked for.
    pub sync_asked: Seq,
    /// Since when that is not answered, as far as a tick has seen.
    sync_owed_since: Option<Moment>,
    /// The silo is behind what is remembered: it must catch up.
    pub lagging: bool,
}

impl Peer {
    pub(super) fn new(silo: SiloId) -> Self {
        Self {
            silo,
            mode: Mode::Away,
            out: None,
            sent: Seq::ZERO,
            applied: Seq::ZERO,
            durable: Seq::ZERO,
            durable_max: Seq::ZERO,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            progress_at: Moment::default(),
            sync_asked: Seq::ZERO,
            sync_owed_since: None,
            lagging: false,
        }
    }

    pub fn is_live(&self) -> bool {
        matches!(self.mode, Mode::Live)
    }

    /// The stream goes on after `seq` on this connection.
    pub fn stream_from(&mut self, now: Moment, seq: Seq) {
        self.sent = seq;
        self.in_flight.clear();
        self.in_flight_bytes = 0;
        self.progress_at = now;
        self.sync_asked = Seq::ZERO;
        self.sync_owed_since = None;
    }

    /// The silo has so much durably.
    pub fn reached(&mut self, durable: Seq) {
        if durable > self.durable {
            self.durable = durable;
            self.sync_owed_since = None;
        }
    }

    /// Durability that is not answered for long is asked for again by whoever wants it: as with the stream, the answer may
    /// be lost with the place of a peer, and a slow disk takes the same question twice.
    pub fn tick_sync(&mut self, now: Moment) {
        if self.sync_asked <= self.durable {
            self.sync_owed_since = None;
        } else if now.since(*self.sync_owed_since.get_or_insert(now)) >= RESEND_AFTER {
            self.sync_asked = Seq::ZERO;
            self.sync_owed_since = None;
        }
    }
}

/// The history that a writer chose for a slot: once per epoch (rule 12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    pub vote: Vote,
    /// Every silo that holds this history is gone since.
    pub gone_since: Option<Moment>,
}

/// One slot.
pub struct Slot {
    pub index: SlotIndex,
    pub config: ConfigNumber,
    /// The silos of the configuration: what majorities are of.
    pub members: Vec<SiloId>,
    /// The members, and the silos that are to become some.
    pub peers: Vec<Peer>,
    /// The members are being changed.
    pub change: Option<Reconfiguration>,
    /// The cluster state refused a change to half of the members.
    pub half_refused_at: Option<Moment>,
    pub choice: Option<Choice>,
    /// A majority adopted the epoch: the slot serves.
    pub adopted: bool,
    /// The end of the stream.
    pub last: Seq,
    /// Everything up to here is applied on a majority, and answered unless the answer needs durability.
    pub answered: Seq,
    /// Writes up to here may have been given up on: a read must see either all of what took effect or wait for it.
    pub given_up: Seq,
    /// `W`: everything up to here is durable on a majority.
    pub committed: Seq,
    pub retained: VecDeque<Retained>,
    pub retained_bytes: usize,
    /// The last write whose answer needs durability.
    pub durable_wanted: Seq,
    /// What silos report of one another: the highest `(A, D)` of each.
    pub reported: BTreeMap<SiloId, Vote>,
    /// Since when no majority is live.
    pub suspended_since: Option<Moment>,
    /// The voters that prove they kept everything since the old epoch are a majority, and nobody wrote in between.
    pub resumes: bool,
}

impl Slot {
    pub fn new(index: usize, (config, silos): &(ConfigNumber, Vec<SiloId>)) -> Self {
        Self {
            index: SlotIndex(index as u32),
            config: *config,
            members: silos.clone(),
            change: None,
            half_refused_at: None,
            peers: silos.iter().map(|silo| Peer::new(*silo)).collect(),
            choice: None,
            adopted: false,
            last: Seq::ZERO,
            answered: Seq::ZERO,
            given_up: Seq::ZERO,
            committed: Seq::ZERO,
            retained: VecDeque::new(),
            retained_bytes: 0,
            durable_wanted: Seq::ZERO,
            reported: BTreeMap::new(),
            suspended_since: None,
            resumes: false,
        }
    }

    /// What a read must have seen.
    pub fn read_floor(&self) -> Seq {
        self.answered.max(self.given_up)
    }

    /// The size of a majority of the whole configured set.
    pub fn majority(&self) -> usize {
        majority_of(&self.members)
    }

    /// The sets of which a majority each is needed: the configured one, and from the proposal of another until its outcome
    /// is known that one too (rule 18).
    fn sets(&self) -> impl Iterator<Item = &[SiloId]> {
        let proposed = self.change.as_ref().and_then(Reconfiguration::proposed);
        std::iter::once(&self.members[..]).chain(proposed.filter(|_| !on(Mutant::SingleMajorityWhileProposed)))
    }

    pub fn has_majority(&self, mut counts: impl FnMut(&Peer) -> bool) -> bool {
        self.sets().all(|set| self.in_set(set).filter(|peer| counts(peer)).count() >= majority_of(set))
    }

    fn in_set(&self, set: &[SiloId]) -> impl Iterator<Item = &Peer> {
        self.peers.iter().filter(|peer| set.contains(&peer.silo))
    }

    /// The silos that may have what was answered: not those that are just being filled.
    pub fn holders(&self) -> impl Iterator<Item = &Peer> {
        self.peers.iter().filter(|peer| self.is_member(peer.silo) || peer.is_live())
    }

    /// The cluster state is asked for other silos.
    pub fn is_asked(&self) -> bool {
        self.change.as_ref().is_some_and(Reconfiguration::is_asked)
    }

    pub fn is_member(&self, silo: SiloId) -> bool {
        self.members.contains(&silo)
    }

    pub fn peer(&self, silo: SiloId) -> Option<&Peer> {
        self.peers.iter().find(|peer| peer.silo == silo)
    }

    pub fn peer_mut(&mut self, silo: SiloId) -> Option<&mut Peer> {
        self.peers.iter_mut().find(|peer| peer.silo == silo)
    }

    /// The highest number that a majority has reached; only live silos count.
    pub fn majority_at(&self, reached: impl Fn(&Peer) -> Seq) -> Seq {
        self.sets().map(|set| self.majority_of_set_at(set, &reached)).min().unwrap_or_default()
    }

    /// The same of one set.
    pub fn majority_of_set_at(&self, set: &[SiloId], reached: impl Fn(&Peer) -> Seq) -> Seq {
        let counts =
            |peer: &&Peer| peer.is_live() || (on(Mutant::LaggardCounts) && matches!(peer.mode, Mode::CatchingUp(_)));
        let mut seqs: Vec<Seq> = self.in_set(set).filter(counts).map(reached).collect();
        seqs.sort_unstable_by(|a, b| b.cmp(a));
        seqs.get(majority_of(set) - 1).copied().unwrap_or_default()
    }

    /// The number before the first remembered write: from there on the stream can be sent from memory.
    pub fn memory_starts(&self) -> Seq {
        self.retained.front().map_or(self.last, |first| first.previous)
    }

    /// The connection to a silo broke.
    pub fn broken(&mut self, now: Moment, silo: SiloId) {
        if let Some(peer) = self.peer_mut(silo) {
            peer.mode = Mode::Away;
            peer.stream_from(now, peer.applied);
        }
        self.note_suspension(now);
    }

    pub fn note_suspension(&mut self, now: Moment) {
        if self.has_majority(Peer::is_live) {
            self.suspended_since = None;
        } else {
            self.suspended_since.get_or_insert(now);
        }
    }

    /// `(A, D)` of the slot's silos, for the heartbeat.
    pub fn reports(&self, epoch: Epoch) -> Vec<(SiloId, Epoch, Seq)> {
        let mut reports = self.reported.clone();
        for peer in self.peers.iter().filter(|peer| peer.durable_max > Seq::ZERO) {
            let own = Vote { adopted: epoch, applied: peer.durable_max };
            let report = reports.entry(peer.silo).or_default();
            *report = own.max(*report);
        }
        reports.into_iter().map(|(silo, vote)| (silo, vote.adopted, vote.applied)).collect()
    }
}

/// The size of a majority of a set of silos.
pub fn majority_of(set: &[SiloId]) -> usize {
    set.len() / 2 + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::{SlotKey, Stamp, VolumeId};

    #[test]
    fn the_first_write_after_a_number_is_found_wherever_it_is() {
        let key = SlotKey { volume: VolumeId([1; 16]), slot: SlotIndex(0) };
        // The numbers of one slot have gaps: a volume's writes go to several.
        let retained = |seq: u64| Retained {
            seq: Seq(seq),
            previous: Seq(seq.saturating_sub(1)),
            record: Record::trim(key, 0, 4096, Stamp::new(Epoch(1), Seq(seq))),
            request: None,
            durable: false,
            sync: false,
        };
        for count in 0..70_u64 {
            let memory: VecDeque<Retained> = (1..=count).map(|number| retained(number * 3)).collect();
            for seq in 0..=count * 3 + 2 {
                let expected = memory.iter().position(|held| held.seq > Seq(seq)).unwrap_or(memory.len());
                assert_eq!(after(&memory, Seq(seq)), expected, "after {seq} of {count}");
            }
        }
    }
}
