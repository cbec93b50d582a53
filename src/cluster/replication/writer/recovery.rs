//! Recovery at attach (rules 12 and 14): votes, one choice a slot and epoch, and adoption.

use std::time::Duration;

use crate::base::clock::Moment;
use crate::base::id::{Seq, SiloId, SlotIndex};
use crate::base::mutant::{Mutant, on};
use crate::cluster::replication::message::{Request, SlotVote};
use crate::cluster::replication::writer::slots::{Choice, Mode, OutReason, Peer, Slot};
use crate::cluster::replication::writer::{Output, Phase, SOURCE_GONE_AFTER, Writer};
use crate::store::slot::Vote;

/// Where a loss is accepted any majority will do, and the one silo that is whole may be the last to vote: all of them are
/// waited for so long.
const ALL_VOTES_WITHIN: Duration = Duration::from_secs(10);
/// An adoption is two or three fsyncs; it is asked for again if nothing came for so long.
const ADOPT_AGAIN_AFTER: Duration = Duration::from_secs(3);

impl Writer {
    /// A silo promised, and reports its history of a slot.
    /// Where it stands by its promise of before, and is in the stream or about to be, it goes on so.
    pub(super) fn voted(&mut self, now: Moment, silo: SiloId, vote: SlotVote, is_the_same: bool) {
        let index = vote.slot.0 as usize;
        let Some(slot) = self.slots.get_mut(index) else { return };
        for (other, adopted, durable) in &vote.peers {
            let reported = slot.reported.entry(*other).or_default();
            *reported = (*reported).max(Vote { adopted: *adopted, applied: *durable });
        }
        let Some(peer) = slot.peer_mut(silo) else { return };
        if is_the_same && !matches!(peer.mode, Mode::Away | Mode::Voted(_)) {
            return;
        }
        peer.applied = Seq::ZERO;
        peer.durable = Seq::ZERO;
        peer.stream_from(now, Seq::ZERO);
        peer.lagging = false;
        peer.mode = Mode::Voted(vote);
        self.find_damaged(index);
        let again = on(Mutant::SecondChoice) && !self.slots[index].adopted;
        if self.slots[index].choice.is_some() && !again {
            self.place(now, index, silo);
        } else {
            self.choose(now, index);
        }
    }

    /// A voter that has less than it once reported durable lost something (rule 14): it neither votes nor counts.
    fn find_damaged(&mut self, index: usize) {
        if self.options.accept_loss || on(Mutant::TornBelowReported) {
            return;
        }
        let epoch = self.options.epoch;
        let slot = &mut self.slots[index];
        // Of one that is to become a member nothing is expected: it may have left the slot before, and forgotten it.
        for peer in slot.peers.iter_mut().filter(|peer| slot.members.contains(&peer.silo)) {
            let Mode::Voted(vote) = &peer.mode else { continue };
            let own = Vote { adopted: epoch, applied: peer.durable_max };
            let known = slot.reported.get(&peer.silo).copied().unwrap_or_default();
            let known = if peer.durable_max > Seq::ZERO { known.max(own) } else { known };
            if vote.vote < known {
                peer.out = Some(OutReason::Damaged);
                peer.mode = Mode::Away;
            }
        }
    }

    /// Chooses the highest history of a majority: once per slot and epoch; later reports change nothing.
    pub(super) fn choose(&mut self, now: Moment, index: usize) {
        let resumes = self.options.resumes;
        let waits = self.options.accept_loss && now.since(self.started) < ALL_VOTES_WITHIN;
        let slot = &mut self.slots[index];
        let has_voted = |peer: &Peer| matches!(peer.mode, Mode::Voted(_));
        // Whose votes count is being asked.
        if slot.is_asked() {
            return;
        }
        if !slot.has_majority(has_voted) || (waits && !slot.peers.iter().all(has_voted)) {
            return;
        }
        let votes: Vec<&SlotVote> = slot
            .peers
            .iter()
            .filter_map(|peer| if let Mode::Voted(vote) = &peer.mode { Some(vote) } else { None })
            .collect();
        let Some(mut highest) = votes.iter().map(|vote| vote.vote).max() else { return };
        if on(Mutant::SeqWithoutEpoch) {
            highest = votes.iter().map(|vote| vote.vote).max_by_key(|vote| vote.applied).unwrap_or(highest);
        }
        let top = votes.iter().map(|vote| vote.vote.applied).max().unwrap_or_default();
        let any = on(Mutant::ResumeOverAnotherEpoch);
        let proofs = votes.iter().filter(|v| v.kept_cache && (any || Some(v.vote.adopted) == resumes)).count();
        let resumed = proofs >= slot.majority() && (any || Some(highest.adopted) == resumes);
        let silos: Vec<SiloId> = slot.peers.iter().map(|peer| peer.silo).collect();
        slot.resumes = resumed;
        slot.choice = Some(Choice { vote: highest, gone_since: None });
        slot.last = highest.applied;
        self.next_seq = self.next_seq.max(top.next());
        for silo in silos {
            self.place(now, index, silo);
        }
        self.place_waiting(now, index);
    }

    /// Brings a silo that voted into the slot: into the stream, by adoption as it is, or by catching up.
    fn place(&mut self, now: Moment, index: usize, silo: SiloId) {
        let epoch = self.options.epoch;
        let slot = &self.slots[index];
        let (Some(choice), Some(peer)) = (slot.choice, slot.peer(silo)) else { return };
        let Mode::Voted(vote) = &peer.mode else { return };
        let (history, committed, incomplete, durable) = (vote.vote, vote.committed, vote.incomplete, vote.durable);
        let remembered = slot.memory_starts() <= history.applied && history.applied <= slot.last;
        if incomplete {
            let base = self.base_of(index, history, committed);
            self.start_catch_up(now, index, silo, base);
        } else if history.adopted == epoch && remembered {
            let ignored = if on(Mutant::GapIgnoredAfterPowerLoss) { slot.answered } else { Seq::ZERO };
            self.join_stream(now, index, silo, history.applied.max(ignored), durable);
        } else if history == choice.vote && remembered {
            self.adopt_as_is(now, index, silo, history);
        } else {
            let base = self.base_of(index, history, committed);
            self.start_catch_up(now, index, silo, base);
        }
    }

    /// From where a silo's history is compared with the slot's: from its end, if it is a part of the chosen one or of
    /// this epoch's; else from its own committed number, up to which all histories agree and what lies beneath is there
    /// (rules 12 and 16). A silo that goes beyond the choice must not be compared from the choice on, although both
    /// agree up to there: if it was ever brought up to date by transfer, it has only the newest version of each block,
    /// and dropping that would uncover nothing.
    fn base_of(&self, index: usize, history: Vote, committed: Seq) -> Seq {
        let slot = &self.slots[index];
        let is_part = |choice: Vote| history.adopted == choice.adopted && history.applied <= choice.applied;
        if history.adopted == self.options.epoch || slot.choice.is_some_and(|choice| is_part(choice.vote)) {
            history.applied
        } else {
            committed.min(history.applied)
        }
    }

    fn adopt_as_is(&mut self, now: Moment, index: usize, silo: SiloId, expected: Vote) {
        let epoch = self.options.epoch;
        let attempt = self.fresh_id();
        let Some(incarnation) = self.links.get(&silo).map(|link| link.incarnation) else { return };
        let slot = &mut self.slots[index];
        let slot_index = slot.index;
        if let Some(peer) = slot.peer_mut(silo) {
            peer.mode = Mode::Adopting { expected, attempt, since: now };
        }
        self.send(silo, Request::AdoptAsIs { slot: slot_index, epoch, incarnation, attempt, expected });
    }

    /// A silo adopted the epoch durably, with everything up to `applied` on its disk.
    pub(super) fn adopted(&mut self, now: Moment, silo: SiloId, slot: SlotIndex, attempt: u64, applied: Seq) {
        let index = slot.0 as usize;
        let Some(peer) = self.slots.get(index).and_then(|slot| slot.peer(silo)) else { return };
        let asked = match &peer.mode {
            Mode::Adopting { attempt, .. } => Some(*attempt),
            Mode::CatchingUp(catch_up) => catch_up.adopting(),
            Mode::Away | Mode::Voted(_) | Mode::Live => None,
        };
        if asked == Some(attempt) {
            self.join_stream(now, index, silo, applied, applied);
        }
    }

    /// The silo is complete and in this epoch: it counts, and the stream goes on from what it has.
    fn join_stream(&mut self, now: Moment, index: usize, silo: SiloId, applied: Seq, durable: Seq) {
        let slot = &mut self.slots[index];
        let last = slot.last;
        let Some(peer) = slot.peer_mut(silo) else { return };
        let (applied, durable) = (applied.min(last), durable.min(last));
        let caught_up = matches!(peer.mode, Mode::CatchingUp(_));
        peer.mode = Mode::Live;
        peer.applied = applied;
        peer.durable = durable;
        peer.durable_max = peer.durable_max.max(durable);
        if !caught_up {
            peer.stream_from(now, applied);
        }
        let first = !slot.adopted && slot.has_majority(|peer| peer.is_live());
        if first {
            // Everything up to the choice was synced by a majority before it adopted.
            slot.adopted = true;
            slot.answered = slot.answered.max(slot.choice.map_or(Seq::ZERO, |choice| choice.vote.applied));
        }
        slot.note_suspension(now);
        self.pump(now, index);
        self.advance(now, index);
        self.ask_for_syncs(index);
        self.check_serving(now);
        self.place_waiting(now, index);
        self.retry_reads(now);
    }

    /// Gives the epoch up if the chosen history cannot be had from anyone any more (rule 12). As long as it was not
    /// adopted by a majority, nothing was answered in this epoch.
    pub(super) fn check_choice(&mut self, index: usize, now: Moment) {
        if self.phase != Phase::Recovering {
            return;
        }
        let epoch = self.options.epoch;
        // The next epoch asks for the half that is there before it chooses (rule 20).
        let is_halved = self.lacks_half(now, index);
        let slot = &mut self.slots[index];
        let adopted = slot.adopted;
        let held = slot.choice.is_none_or(|choice| holds(slot, epoch, choice.vote));
        let Some(choice) = &mut slot.choice else { return };
        if adopted || held && !is_halved {
            choice.gone_since = None;
            return;
        }
        let since = *choice.gone_since.get_or_insert(now);
        if now.since(since) >= SOURCE_GONE_AFTER {
            self.end();
            self.outputs.push(Output::GiveUp);
        }
    }

    /// What is asked of one silo of a slot, asked again if the answer is overdue.
    pub(super) fn tick_peer(&mut self, index: usize, at: usize, now: Moment) {
        let chosen = self.slots[index].choice.is_some();
        let peer = &self.slots[index].peers[at];
        let silo = peer.silo;
        match &peer.mode {
            Mode::Adopting { expected, since, .. } if now.since(*since) >= ADOPT_AGAIN_AFTER => {
                let expected = *expected;
                self.adopt_as_is(now, index, silo, expected);
            }
            Mode::CatchingUp(_) => self.tick_catch_up(now, index, silo),
            Mode::Voted(_) if chosen => self.place(now, index, silo),
            Mode::Adopting { .. } | Mode::Away | Mode::Voted(_) | Mode::Live => {}
        }
    }
}

/// Whether some silo at hand still has the chosen history.
fn holds(slot: &Slot, epoch: crate::base::id::Epoch, chosen: Vote) -> bool {
    slot.peers.iter().any(|peer| match &peer.mode {
        Mode::Live => true,
        Mode::Adopting { expected, .. } => *expected == chosen,
        Mode::Voted(vote) => !vote.incomplete && (vote.vote == chosen || vote.vote.adopted == epoch),
        Mode::CatchingUp(_) | Mode::Away => false,
    })
}
