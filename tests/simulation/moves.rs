//! Slots whose silos change: what operators and placement ask of a writer, what the cluster state makes of its proposals, and
//! what the silos that have left hear of it, sooner or later.

use infinit::base::id::{Epoch, Incarnation, SiloId, SlotIndex};
use infinit::base::mutant::{Mutant, on};
use infinit::cluster::replication::driver::Proposed;
use infinit::cluster::replication::writer::reconfigure::Proposal;
use infinit::cluster::state::ClusterState;
use infinit::cluster::state::command::{Command, Outcome, Reconfiguration};
use infinit::cluster::state::level::Level;
use infinit::cluster::state::refusal::Refusal;
use infinit::cluster::state::silo::{SiloInfo, SiloState};
use infinit::cluster::state::volume::{Policy, SlotPlacement, Volume};

use super::temper::{MS, SECOND, Shape};
use super::world::{Event, Placed, VOLUME, World, key_of, node_id, silo_at, silo_id};

impl World {
    /// Somebody wants a slot of the holder's to have other silos: mostly one is to take the place of another.
    pub fn move_slot(&mut self) {
        let slot = self.dice.below(self.cluster.slots.len() as u64) as usize;
        let mut silos = self.cluster.slots[slot].silos.clone();
        let is_in = |silo: &usize| self.silos[*silo].out.is_none();
        let others: Vec<usize> = (0..self.silos.len()).filter(|silo| !silos.contains(silo) && is_in(silo)).collect();
        match self.dice.below(8) {
            0 if silos.len() > 1 => {
                silos.swap_remove(self.dice.below(silos.len() as u64) as usize);
            }
            1 => silos.extend(self.dice.pick(&others)),
            2 => {
                let mut all: Vec<usize> = (0..self.silos.len()).filter(is_in).collect();
                let wanted = self.dice.between(1, 5.min(all.len() as u64).max(1)) as usize;
                while all.len() > wanted {
                    all.swap_remove(self.dice.below(all.len() as u64) as usize);
                }
                silos = all;
            }
            _ => {
                if let Some(other) = self.dice.pick(&others) {
                    let place = self.dice.below(silos.len() as u64) as usize;
                    silos[place] = *other;
                }
            }
        }
        // Of the new ones as of the old no more may be out than leave a majority.
        let out = silos.iter().filter(|silo| self.silos[**silo].out.is_some()).count();
        if !silos.is_empty() && out <= (silos.len() - 1) / 2 {
            self.ask_for_silos(slot, &silos);
        }
    }

    /// Without faults each move that is asked for comes about.
    pub fn move_in_peace(&mut self) {
        for _ in 0..3 {
            self.move_slot();
            self.run_for(SECOND / 2);
        }
    }

    pub fn ask_for_silos(&mut self, slot: usize, silos: &[usize]) {
        let Some(at) = self.cluster.holder.filter(|at| self.writers[*at].is_serving()) else { return };
        if self.writers[at].is_paused() {
            return;
        }
        self.note(|| format!("w{at}: slot {slot} is to have {:?}", names(silos)));
        self.trace.mix(&[
            self.now,
            40,
            at as u64,
            slot as u64,
            silos.iter().fold(0, |all, silo| all * 16 + *silo as u64),
        ]);
        self.cluster.slots[slot].wanted = silos.to_vec();
        let target: Vec<SiloId> = silos.iter().map(|silo| silo_id(*silo)).collect();
        let known: Vec<(SiloId, Incarnation)> =
            self.cluster.incarnations.iter().map(|(silo, incarnation)| (*silo, *incarnation)).collect();
        let now = self.moment(self.writers[at].node);
        let unknown = self.writers[at].writer.reconfigure(now, SlotIndex(slot as u32), target, &known);
        for silo in unknown {
            if self.writers[at].links[silo_at(silo)].is_some() {
                self.writers[at].writer.connected(now, silo);
            }
        }
        self.pump(at);
    }

    /// No slot of the writer's has the silo any more: the connection goes.
    pub fn let_go_of(&mut self, at: usize, silo: usize) {
        if let Some(id) = self.writers[at].links[silo] {
            let lingers = self.dice.chance(500);
            self.cut(id, lingers);
        }
    }

    /// The writer's node puts a proposal to the cluster state, until it is heard.
    pub fn put_to_cluster(&mut self, at: usize, proposed: Proposed) {
        self.note(|| format!("w{at} proposes {} for slot {}", silo_names(&proposed.silos), proposed.slot));
        let wait = self.away_from_cluster();
        if !self.healing && self.dice.chance(200) {
            // Asked again, for want of an answer, and both arrive: the answer to one of them is heard.
            let later = wait + self.dice.below(3 * SECOND);
            let is_first_heard = self.dice.chance(500);
            self.at(wait, Event::Propose(at, proposed.clone(), is_first_heard));
            self.at(later, Event::Propose(at, proposed, !is_first_heard));
            return;
        }
        self.at(wait, Event::Propose(at, proposed, true));
    }

    /// How long it takes to reach the cluster state, or to hear of it: long now and then.
    fn away_from_cluster(&mut self) -> u64 {
        if !self.healing && self.dice.chance(250) { self.dice.below(4 * SECOND) } else { self.dice.below(30 * MS) }
    }

    /// The cluster state decides, whether the writer still lives or not.
    pub fn propose(&mut self, at: usize, proposed: Proposed, is_heard: bool) {
        let Proposed { slot, config, silos, .. } = proposed;
        let (index, epoch) = (slot.0 as usize, self.writers[at].epoch);
        let state = &mut self.cluster.state;
        if let Some(volume) = state.volumes.get_mut(&VOLUME) {
            volume.epoch = self.cluster.epoch;
        }
        let change = Reconfiguration { volume: VOLUME, slot, epoch, config, silos: silos.clone() };
        let proposal = match state.apply(Command::Reconfigure(change)) {
            Ok(Outcome::Reconfigured { config }) => Ok(Proposal::Decided { config, silos }),
            Err(Refusal::StaleEpoch { current, .. }) if !on(Mutant::TakenForRefused) => Err(current),
            _ => Ok(Proposal::Refused),
        };
        let decided = &state.volumes[&VOLUME].slots[index];
        let placed = &mut self.cluster.slots[index];
        placed.config = decided.config;
        placed.silos = decided.silos.iter().map(|silo| silo_at(*silo)).collect();
        self.ledgers[index].majority = placed.silos.len() / 2 + 1;
        self.trace.mix(&[self.now, 41, at as u64, self.cluster.slots[index].config.0.into()]);
        self.note(|| format!("the cluster state answers w{at}: {proposal:?}"));
        let is_decided = matches!(proposal, Ok(Proposal::Decided { .. }));
        self.count(if is_decided { "moves committed" } else { "moves refused" });
        if is_heard {
            let wait = self.away_from_cluster();
            self.at(wait, Event::Decided(at, slot, proposal));
        }
        self.tell_of_slots();
    }

    /// The answer; or that another writer was granted the next epoch, and what became of the change is for that one to see.
    pub fn decided(&mut self, at: usize, slot: SlotIndex, proposal: Result<Proposal, Epoch>) {
        if self.writers[at].is_paused() {
            self.writers[at].held.push(Event::Decided(at, slot, proposal));
        } else if self.writers[at].is_running() {
            let now = self.moment(self.writers[at].node);
            match proposal {
                Ok(proposal) => self.writers[at].writer.proposal_ended(now, slot, proposal),
                Err(by) => self.writers[at].writer.fence(by),
            }
            self.pump(at);
        }
    }

    /// Every silo's node hears what the cluster state is now, some time later.
    pub fn tell_of_slots(&mut self) {
        for silo in 0..self.silos.len() {
            let wait = self.away_from_cluster();
            let slots = self.cluster.slots.clone();
            self.at(wait, Event::Heard(silo, self.cluster.epoch, slots));
        }
    }

    pub fn hear_of_slots(&mut self, silo: usize, epoch: Epoch, slots: &[Placed]) {
        let left = slots.iter().enumerate().filter(|(_, placed)| !placed.silos.contains(&silo));
        let left: Vec<_> = left.map(|(slot, placed)| (key_of(slot), epoch, placed.config)).collect();
        let host = &mut self.silos[silo];
        let Some(keeper) = host.keeper.as_mut().filter(|_| !left.is_empty()) else { return };
        let outcome = keeper.left(&left);
        self.trace.mix(&[self.now, 42, silo as u64]);
        self.outcome(silo, outcome);
    }
}

/// The cluster state of a world with this volume, whose silos are all known.
pub fn state_of(shape: &Shape, slots: &[Placed]) -> ClusterState {
    let info = |at: usize| SiloInfo {
        node: node_id(at),
        capacity_bytes: 1 << 40,
        incarnation: Incarnation::default(),
        state: SiloState::InService,
    };
    let placement = |placed: &Placed| SlotPlacement {
        silos: placed.silos.iter().map(|s| silo_id(*s)).collect(),
        config: placed.config,
    };
    let volume = Volume {
        name: "simulated".to_owned(),
        size_bytes: shape.volume_bytes,
        slot_bytes: shape.slot_bytes,
        policy: Policy::default(),
        epoch: Epoch::ZERO,
        attachment: None,
        slots: slots.iter().map(placement).collect(),
        created_at: 0,
    };
    ClusterState {
        silos: (0..shape.silos).map(|at| (silo_id(at), info(at))).collect(),
        volumes: [(VOLUME, volume)].into(),
        level: Level::OWN,
        ..ClusterState::default()
    }
}

fn names(silos: &[usize]) -> String {
    silos.iter().map(|silo| format!("s{}", silo + 1)).collect::<Vec<_>>().join(" ")
}

fn silo_names(silos: &[SiloId]) -> String {
    names(&silos.iter().map(|silo| silo_at(*silo)).collect::<Vec<_>>())
}
