//! The silos of a slot change under its writer (rule 18).
//!
//! A newcomer gets the stream from the start and catches up as any silo does that is behind; it counts nowhere. Once every
//! newcomer is live the new set is proposed: from there on majorities of the old and of the new set are needed for
//! everything, and once a majority of the new one has durably what was answered until then, the cluster state is asked
//! to take it. The outcome may be long in coming, or get lost; until it is known both majorities stay. A writer that dies
//! meanwhile leaves nothing to mend: the next one is told the one set or the other by the cluster state, which takes no
//! change of an older epoch, and either has all that was answered.

use crate::base::clock::Moment;
use crate::base::id::{ConfigNumber, Incarnation, Seq, SiloId, SlotIndex};
use crate::base::mutant::{Mutant, on};
use crate::cluster::replication::message::Request;
use crate::cluster::replication::writer::links::Link;
use crate::cluster::replication::writer::slots::{Mode, Peer, Slot, majority_of};
use crate::cluster::replication::writer::{Output, Phase, Writer};

/// A change of a slot's silos.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reconfiguration {
    /// The silos that the slot is to have.
    pub target: Vec<SiloId>,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Newcomers are brought up to date.
    Filling,
    /// Both majorities are needed. The new set is to have this much durably before the cluster state is asked.
    Proposed { answered: Seq },
    /// The cluster state was asked.
    Asked,
}

impl Reconfiguration {
    /// The set of which majorities are needed too.
    pub fn proposed(&self) -> Option<&[SiloId]> {
        (self.stage != Stage::Filling).then_some(&self.target[..])
    }

    /// The cluster state was asked, and has not answered.
    pub fn is_asked(&self) -> bool {
        self.stage == Stage::Asked
    }
}

/// What became of a proposal. Whoever asks the cluster state asks until it knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proposal {
    /// The cluster state has these silos, with this number: the new ones, or the old ones again.
    Decided { config: ConfigNumber, silos: Vec<SiloId> },
    /// It has what it had, and will never take this change.
    Refused,
}

impl Writer {
    /// Begins to change the silos of a slot, or changes where it is to go while the cluster state was not asked yet.
    /// `incarnations` are those that the cluster state knows. Returns the silos that connections are needed to.
    pub fn reconfigure(
        &mut self,
        now: Moment,
        slot: SlotIndex,
        target: Vec<SiloId>,
        incarnations: &[(SiloId, Incarnation)],
    ) -> Vec<SiloId> {
        let index = slot.0 as usize;
        let Some(slot) = self.slots.get_mut(index) else { return Vec::new() };
        let asked = slot.change.as_ref().is_some_and(|change| change.stage == Stage::Asked);
        let same = slot.change.as_ref().is_some_and(|change| change.target == target);
        let overlaps = asked && !on(Mutant::OverlappingChanges);
        if self.phase != Phase::Serving || self.releasing || overlaps || same || target.is_empty() {
            return Vec::new();
        }
        let was_proposed = slot.change.take().is_some_and(|change| change.proposed().is_some());
        self.let_others_go(index, &target, true);
        if was_proposed {
            self.majorities_changed(now, index);
        }
        let slot = &mut self.slots[index];
        let newcomers: Vec<SiloId> = target.iter().copied().filter(|silo| slot.peer(*silo).is_none()).collect();
        if slot.members.len() == target.len() && target.iter().all(|silo| slot.is_member(*silo)) {
            return Vec::new();
        }
        slot.peers.extend(newcomers.iter().map(|silo| Peer::new(*silo)));
        slot.change = Some(Reconfiguration { target, stage: Stage::Filling });
        let mut unknown = Vec::new();
        for silo in newcomers {
            match self.links.get(&silo) {
                // It has promised for other slots, which go on meanwhile.
                Some(link) if link.connected => self.promote_more(now, silo),
                Some(_) => {}
                None => {
                    let known = incarnations.iter().find(|(id, _)| *id == silo).map(|(_, incarnation)| *incarnation);
                    self.links.insert(silo, Link::new(known));
                    unknown.push(silo);
                }
            }
        }
        self.tick_change(now, index);
        unknown
    }

    /// Asks the cluster state before anything is chosen: until it has answered, nobody votes.
    pub(super) fn ask_for_half(&mut self, index: usize, half: Vec<SiloId>) {
        let slot = &mut self.slots[index];
        if on(Mutant::HalfUnasked) {
            slot.members = half;
            return;
        }
        slot.change = Some(Reconfiguration { target: half.clone(), stage: Stage::Asked });
        let (slot, config, before) = (slot.index, slot.config, slot.members.clone());
        self.outputs.push(Output::Reconfigure { slot, config, before, silos: half });
    }

    /// Lets go of the silos that are neither members nor among these. Those that never were members forget what they have; one
    /// that was may be the last that has it, and whether it is not is for the cluster state to say.
    fn let_others_go(&mut self, index: usize, kept: &[SiloId], dismisses: bool) {
        let slot = &mut self.slots[index];
        let Slot { members, peers, .. } = slot;
        let goes = |silo: &SiloId| !members.contains(silo) && !kept.contains(silo);
        let gone: Vec<SiloId> = peers.iter().map(|peer| peer.silo).filter(goes).collect();
        peers.retain(|peer| !gone.contains(&peer.silo));
        let (slot, epoch) = (slot.index, self.options.epoch);
        for silo in &gone {
            if let Some(link) = self.links.get(silo).filter(|link| link.promised && dismisses) {
                let incarnation = link.incarnation;
                self.send(*silo, Request::Dismiss { slot, epoch, incarnation });
            }
        }
        let slots = &self.slots;
        let is_used = |silo: &SiloId| slots.iter().any(|slot| slot.peer(*silo).is_some());
        for silo in gone.into_iter().filter(|silo| !is_used(silo)) {
            self.links.remove(&silo);
            self.outputs.push(Output::Disconnect(silo));
        }
    }

    /// Moves a change on as far as it can go.
    pub(super) fn tick_change(&mut self, now: Moment, index: usize) {
        let slot = &self.slots[index];
        let Some(change) = &slot.change else { return };
        let (stage, target) = (change.stage, change.target.clone());
        let is_live = |silo: &&SiloId| slot.peer(**silo).is_some_and(Peer::is_live);
        let newcomers = || target.iter().filter(|silo| !slot.is_member(**silo));
        let filled = newcomers().all(|silo| is_live(&silo)) || on(Mutant::NewcomerCountsAtOnce);
        // Without a majority of the new set at hand nothing could be written.
        let unchecked = on(Mutant::NewcomerCountsAtOnce) || on(Mutant::LastCurrentRemoved);
        let enough = target.iter().filter(is_live).count() >= majority_of(&target) || unchecked;
        match stage {
            Stage::Filling if filled && enough && !self.releasing => {
                let answered = slot.answered;
                self.set_stage(index, Stage::Proposed { answered });
                self.slots[index].note_suspension(now);
                self.tick_change(now, index);
            }
            // Nobody was asked: until they are back, the old majority does alone.
            Stage::Proposed { .. } if !filled || !enough => {
                self.set_stage(index, Stage::Filling);
                self.majorities_changed(now, index);
            }
            Stage::Proposed { answered } => {
                let durable = slot.majority_of_set_at(&target, |peer| peer.durable);
                let early = on(Mutant::CommitBeforeDurable) || unchecked;
                if durable >= answered || early {
                    let (slot, config, before) = (slot.index, slot.config, slot.members.clone());
                    self.set_stage(index, Stage::Asked);
                    self.outputs.push(Output::Reconfigure { slot, config, before, silos: target });
                } else {
                    self.ask_for_sync(index, answered, true);
                }
            }
            Stage::Filling | Stage::Asked => {}
        }
    }

    fn set_stage(&mut self, index: usize, to: Stage) {
        if let Some(change) = &mut self.slots[index].change {
            change.stage = to;
        }
    }

    /// The cluster state has answered.
    pub fn proposal_ended(&mut self, now: Moment, slot: SlotIndex, proposal: Proposal) {
        let index = slot.0 as usize;
        let change = self.slots.get(index).and_then(|slot| slot.change.as_ref());
        if self.phase == Phase::Over || change.is_none_or(|change| change.stage != Stage::Asked) {
            return;
        }
        self.slots[index].change = None;
        let is_refused = proposal == Proposal::Refused;
        if let Proposal::Decided { config, silos } = proposal {
            self.take_set(now, index, config, silos);
        }
        self.let_others_go(index, &[], is_refused);
        self.slots[index].half_refused_at = is_refused.then_some(now);
        if self.slots[index].choice.is_none() {
            self.choose(now, index);
        }
        self.majorities_changed(now, index);
        self.check_released();
    }

    /// Other majorities are needed from here on.
    fn majorities_changed(&mut self, now: Moment, index: usize) {
        self.slots[index].note_suspension(now);
        self.advance(now, index);
        self.ask_for_syncs(index);
        self.leases_changed(now);
        self.retry_reads(now);
    }

    /// The slot has the new silos, and they are told.
    fn take_set(&mut self, now: Moment, index: usize, config: ConfigNumber, silos: Vec<SiloId>) {
        let slot = &mut self.slots[index];
        (slot.config, slot.members) = (config, silos.clone());
        let slot_index = slot.index;
        let left: Vec<SiloId> = slot.peers.iter().map(|p| p.silo).filter(|silo| !silos.contains(silo)).collect();
        slot.reported.retain(|silo, _| silos.contains(silo));
        for silo in left {
            if let Some(peer) = self.slots[index].peer_mut(silo) {
                peer.mode = Mode::Away;
            }
            self.source_gone(index, silo, now);
            self.reads_of_gone(now, silo);
            self.repairs_of_gone(now, silo);
        }
        let epoch = self.options.epoch;
        for silo in &silos {
            let Some(link) = self.links.get(silo).filter(|link| link.promised) else { continue };
            let incarnation = link.incarnation;
            let silos = silos.clone();
            self.send(*silo, Request::Configure { slot: slot_index, epoch, incarnation, config, silos });
        }
    }
}
