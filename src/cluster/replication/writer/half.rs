//! A slot with an even number of silos that has lost half of them (rule 20). What was answered lies on more than half, so
//! either half has all of it, and nothing can be decided without it: a half that promised this epoch and lacks nothing may become
//! the whole, if the cluster state takes it. Two copies survive the loss of one so.
//!
//! A writer that serves knows what it answered, and moves the slot to the half as to any other set. One that recovers asks
//! first, and chooses among that half alone only once the cluster state has taken it. Who was left out comes again as
//! any newcomer does.

use std::time::Duration;

use crate::base::clock::Moment;
use crate::base::id::{Seq, SiloId};
use crate::base::mutant::{Mutant, on};
use crate::cluster::replication::message::Request;
use crate::cluster::replication::writer::slots::{Mode, OutReason, Peer};
use crate::cluster::replication::writer::{Phase, Writer};

/// A silo that says nothing for so long is taken for lost: it is asked for a sign of life every half second, and what waits
/// for it should not wait for five.
pub const SILENT_AFTER: Duration = Duration::from_millis(2500);

/// After a restart of the whole cluster some nodes come later than others.
const SILENT_AFTER_RESTART: Duration = Duration::from_secs(10);
/// A writer that did nothing for so long stood still itself, and knows nothing of the silos' silence.
pub(super) const STOOD_STILL_AFTER: Duration = Duration::from_secs(1);
/// What the cluster state refused it is asked again after so long.
const REFUSED_FOR: Duration = Duration::from_secs(2);

impl Writer {
    /// Has the half that is there become the whole, once the other is lost.
    pub(super) fn tick_half(&mut self, now: Moment, index: usize) {
        let slot = &self.slots[index];
        let is_refused = slot.half_refused_at.is_some_and(|at| now.since(at) < REFUSED_FOR);
        if self.phase == Phase::Over || self.releasing || self.options.accept_loss || slot.is_asked() || is_refused {
            return;
        }
        if !self.lacks_half(now, index) {
            return;
        }
        let slot = &self.slots[index];
        let members = || slot.peers.iter().filter(|peer| slot.is_member(peer.silo));
        let whole: Vec<&Peer> = members().filter(|peer| self.is_whole(peer) && !self.is_silent(now, peer)).collect();
        if whole.len() * 2 != slot.members.len() {
            return;
        }
        if self.phase == Phase::Serving {
            let whole = whole.iter().map(|peer| peer.silo).collect();
            self.reconfigure(now, slot.index, whole, &[]);
        } else if slot.choice.is_none() {
            let (longest, owes) = longest(&whole);
            if owes.is_empty() || on(Mutant::HalfUnasked) {
                self.ask_for_half(index, longest);
            } else {
                self.have_synced(now, index, &owes);
            }
        }
    }

    /// Exactly half of an even number of members is lost.
    pub(super) fn lacks_half(&self, now: Moment, index: usize) -> bool {
        let slot = &self.slots[index];
        let members = slot.peers.iter().filter(|peer| slot.is_member(peer.silo));
        let is_even = slot.members.len().is_multiple_of(2);
        is_even && members.filter(|peer| self.is_silent(now, peer)).count() * 2 == slot.members.len()
    }

    /// What these voted with must be on their disks before others are done without: they are asked to sync, and to vote
    /// again.
    fn have_synced(&mut self, now: Moment, index: usize, silos: &[(SiloId, Seq)]) {
        let (slot, epoch) = (self.slots[index].index, self.options.epoch);
        for (silo, upto) in silos {
            let Some(link) = self.links.get(silo).filter(|link| link.promised && !link.is_asked_again()) else {
                continue;
            };
            let incarnation = link.incarnation;
            self.send(*silo, Request::Sync { slot, epoch, incarnation, upto: *upto });
            self.out_of_step(now, *silo, None);
        }
    }

    /// Has all that was answered, as far as it can tell.
    fn is_whole(&self, peer: &Peer) -> bool {
        match &peer.mode {
            Mode::Live => true,
            Mode::Voted(vote) => self.phase == Phase::Recovering && !vote.incomplete,
            Mode::Adopting { .. } | Mode::CatchingUp(_) | Mode::Away => false,
        }
    }

    /// It will not answer, or nothing that helps.
    fn is_silent(&self, now: Moment, peer: &Peer) -> bool {
        let Some(link) = self.links.get(&peer.silo) else { return true };
        let restarts = self.phase == Phase::Recovering && self.options.resumes.is_some();
        let term = if restarts { SILENT_AFTER_RESTART } else { SILENT_AFTER };
        let heard = link.heard.max(self.awake_since);
        match link.out {
            Some(OutReason::Faulted(_) | OutReason::Damaged) => true,
            Some(OutReason::Foreign) => link.foreign_since.is_some_and(|since| now.since(since) >= term),
            None => peer.out.is_some() || now.since(heard) >= term,
        }
    }
}

/// Of voters that together have all that was answered, those with the longest history: each of them has it (rule 12). And what
/// of that they are not known to have on their disks.
fn longest(voters: &[&Peer]) -> (Vec<SiloId>, Vec<(SiloId, Seq)>) {
    let votes = || {
        voters.iter().filter_map(|peer| match &peer.mode {
            Mode::Voted(vote) => Some((peer.silo, vote)),
            _ => None,
        })
    };
    let highest = votes().map(|(_, vote)| vote.vote).max().unwrap_or_default();
    let longest = || votes().filter(|(_, vote)| vote.vote == highest);
    let owes = longest().filter(|(_, vote)| vote.durable < vote.vote.applied);
    (longest().map(|(silo, _)| silo).collect(), owes.map(|(silo, vote)| (silo, vote.vote.applied)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::{Epoch, SlotIndex};
    use crate::cluster::replication::message::SlotVote;
    use crate::store::slot::Vote;

    #[test]
    fn of_a_half_only_the_longest_histories_count_and_their_ends_must_be_on_disks() {
        let voter = |number: u8, epoch, applied, durable| {
            let mut peer = Peer::new(SiloId([number; 16]));
            peer.mode = Mode::Voted(SlotVote {
                slot: SlotIndex(0),
                vote: Vote { adopted: Epoch(epoch), applied: Seq(applied) },
                durable: Seq(durable),
                committed: Seq(0),
                incomplete: false,
                kept_cache: false,
                peers: Vec::new(),
            });
            peer
        };
        let (short, long) = (voter(1, 5, 90, 90), voter(2, 5, 95, 93));
        let older = voter(3, 4, 99, 99);
        let silo = |number: u8| SiloId([number; 16]);
        assert_eq!(longest(&[&short, &long, &older]), (vec![silo(2)], vec![(silo(2), Seq(95))]));
        let same = voter(4, 5, 90, 90);
        assert_eq!(longest(&[&short, &same]), (vec![silo(1), silo(4)], vec![]));
    }
}
