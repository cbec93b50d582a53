//! What can happen, and what it does: one function an action, each a step of the product's protocol.

use super::properties::Violation;
use super::state::{Mode, NONE, Replica, Set, Shape, State};
use super::variants::Variant;

/// The protocol, or a broken variant of it, within its bounds.
#[derive(Clone, Copy, Debug)]
pub struct Model {
    pub shape: Shape,
    pub variant: Option<Variant>,
}

/// One step. Messages are taken and answered in one step: that an answer is late or lost shows in what its receiver does
/// next, and that is another step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A silo promises the epoch, for all its slots, and votes.
    Promise { epoch: u8, silo: usize },
    /// A broken variant only: it promises what it voted for before.
    Confirm { epoch: u8, silo: usize },
    /// The writer chooses among these replicas' votes.
    Choose { epoch: u8, slot: usize, votes: u8 },
    /// A silo that voted comes into the slot: by going on, by adopting as it is, or by beginning to catch up.
    Place { epoch: u8, replica: usize },
    /// What was compared is sent to a silo that catches up.
    Transfer { epoch: u8, replica: usize, source: usize },
    /// The commit that ends catching up.
    Adopt { epoch: u8, replica: usize },
    /// The next record of the stream.
    Append { epoch: u8, replica: usize },
    /// The writer no longer remembers what a silo lacks.
    FallBehind { epoch: u8, replica: usize },
    /// The writer numbers a write.
    Write { epoch: u8, slot: usize },
    /// A silo syncs its log and tells its writer.
    Sync { silo: usize },
    /// A silo's process dies and comes back. What it knew of the watermark was in memory, and may be forgotten.
    Restart { silo: usize, forgets: bool },
    /// A silo loses power, these unsynced writes, and perhaps (a broken variant) its last adoption.
    PowerLoss { silo: usize, lost: Set, unadopts: bool, forgets: bool },
    /// The same, and the disk loses synced writes too.
    Tear { silo: usize, lost: Set },
    /// The connection between a writer and a silo breaks.
    Cut { epoch: u8, silo: usize },
}

/// A state that an action leads to, and what is wrong with it.
pub type Step = (State, Option<Violation>);

impl Model {
    pub fn is(&self, variant: Variant) -> bool {
        self.variant == Some(variant)
    }

    /// Of a broken variant only what a client sees counts, so that its trace tells what the rule is for.
    pub fn is_whole(&self) -> bool {
        self.variant.is_none()
    }

    /// Hands over every action that might be possible; [`Model::apply`] says if it is.
    pub fn candidates(&self, state: &State, mut each: impl FnMut(Action)) {
        for epoch in self.epochs().filter(|epoch| state.writer(*epoch).alive) {
            for silo in 0..self.shape.silos {
                each(Action::Promise { epoch, silo });
                if self.is(Variant::VoteBeforePromise) {
                    each(Action::Confirm { epoch, silo });
                }
                if state.left.cuts > 0 {
                    each(Action::Cut { epoch, silo });
                }
            }
            for slot in 0..self.shape.slots {
                if !state.writer(epoch).slots[slot].chosen || self.is(Variant::SecondChoice) {
                    self.ballots(slot).for_each(|votes| each(Action::Choose { epoch, slot, votes }));
                }
                each(Action::Write { epoch, slot });
            }
            for replica in 0..self.shape.replicas.len() {
                self.candidates_of(state, epoch, replica, &mut each);
            }
        }
        for silo in 0..self.shape.silos {
            each(Action::Sync { silo });
            self.faults(state, silo, &mut each);
        }
    }

    /// The smallest majorities of a slot, as sets of replicas: a writer chooses as soon as it has one.
    fn ballots(&self, slot: usize) -> impl Iterator<Item = u8> + use<> {
        let all = self.replicas_of_slot(slot).fold(0_u8, |all, replica| all | 1 << replica);
        let majority = self.majority(slot) as u32;
        (0..=all).filter(move |votes| votes & !all == 0 && votes.count_ones() == majority)
    }

    fn candidates_of(&self, state: &State, epoch: u8, replica: usize, each: &mut impl FnMut(Action)) {
        match state.view(epoch, replica).mode {
            Mode::Away | Mode::Asked => {}
            Mode::Voted => each(Action::Place { epoch, replica }),
            Mode::CatchingUp => {
                if state.replicas[replica].staged == NONE {
                    let sources = self.replicas_of_slot(self.slot_of(replica));
                    sources.for_each(|source| each(Action::Transfer { epoch, replica, source }));
                }
                each(Action::Adopt { epoch, replica });
                each(Action::Append { epoch, replica });
                each(Action::FallBehind { epoch, replica });
            }
            Mode::Live => {
                each(Action::Append { epoch, replica });
                each(Action::FallBehind { epoch, replica });
            }
        }
    }

    fn faults(&self, state: &State, silo: usize, each: &mut impl FnMut(Action)) {
        let held = self.replicas_of_silo(silo).fold(0, |held, index| held | state.replicas[index].history);
        let synced = self.replicas_of_silo(silo).fold(0, |held, index| held | state.replicas[index].synced);
        for forgets in [false, true] {
            if state.left.restarts > 0 {
                each(Action::Restart { silo, forgets });
            }
            if state.left.power_losses > 0 {
                let unsynced = held & !synced;
                let losses = (0..=unsynced).filter(|lost| lost & !unsynced == 0);
                losses.for_each(|lost| each(Action::PowerLoss { silo, lost, unadopts: false, forgets }));
                if self.is(Variant::AdoptionNotSynced) {
                    each(Action::PowerLoss { silo, lost: 0, unadopts: true, forgets });
                }
            }
        }
        if state.left.tears > 0 {
            (1..=held).filter(|lost| lost & !held == 0).for_each(|lost| each(Action::Tear { silo, lost }));
        }
    }

    /// The state after an action, if it is possible, with what follows at once.
    pub fn apply(&self, before: &State, action: Action) -> Option<Step> {
        let mut state = *before;
        match action {
            Action::Promise { epoch, silo } => self.promise(&mut state, epoch, silo)?,
            Action::Confirm { epoch, silo } => self.confirm(&mut state, epoch, silo)?,
            Action::Choose { epoch, slot, votes } => self.choose(&mut state, epoch, slot, votes)?,
            Action::Place { epoch, replica } => self.place(&mut state, epoch, replica)?,
            Action::Transfer { epoch, replica, source } => self.transfer(&mut state, epoch, replica, source)?,
            Action::Adopt { epoch, replica } => self.adopt(&mut state, epoch, replica)?,
            Action::Append { epoch, replica } => self.append(&mut state, epoch, replica)?,
            Action::FallBehind { epoch, replica } => self.fall_behind(&mut state, epoch, replica)?,
            Action::Write { epoch, slot } => self.write(&mut state, epoch, slot)?,
            Action::Sync { silo } => self.sync(&mut state, silo)?,
            Action::Restart { silo, forgets } => self.restart(&mut state, silo, forgets)?,
            Action::PowerLoss { silo, lost, unadopts, forgets } => {
                self.power_loss(&mut state, silo, lost, unadopts, forgets)?;
            }
            Action::Tear { silo, lost } => self.tear(&mut state, silo, lost)?,
            Action::Cut { epoch, silo } => self.cut(&mut state, epoch, silo)?,
        }
        let violation = self.settle(&mut state);
        Some((state, violation))
    }

    /// All epochs are granted at the beginning: when a writer attaches shows in its first promise.
    pub fn epochs(&self) -> impl Iterator<Item = u8> + use<> {
        1..=self.shape.bounds.epochs
    }

    pub fn replicas_of_silo(&self, silo: usize) -> impl Iterator<Item = usize> + use<> {
        let all = self.shape.replicas.iter().enumerate();
        all.filter(move |(_, replica)| replica.0 == silo).map(|(index, _)| index)
    }

    pub fn replicas_of_slot(&self, slot: usize) -> impl Iterator<Item = usize> + use<> {
        let all = self.shape.replicas.iter().enumerate();
        all.filter(move |(_, replica)| replica.1 == slot).map(|(index, _)| index)
    }

    pub fn slot_of(&self, replica: usize) -> usize {
        self.shape.replicas[replica].1
    }

    pub fn majority(&self, slot: usize) -> usize {
        self.replicas_of_slot(slot).count() / 2 + 1
    }

    /// The number of a replica's last write in a history of it.
    fn end_of(&self, state: &State, replica: usize, history: impl Fn(&Replica) -> Set) -> u8 {
        if self.is(Variant::OneVoteOverTwoSlots) {
            let ends = self.replicas_of_silo(self.shape.replicas[replica].0);
            return ends.map(|index| state.end_of(history(&state.replicas[index]))).max().unwrap_or(0);
        }
        state.end_of(history(&state.replicas[replica]))
    }

    /// `S`.
    pub fn applied(&self, state: &State, replica: usize) -> u8 {
        self.end_of(state, replica, |replica| replica.history)
    }

    pub fn vote(&self, state: &State, replica: usize) -> (u8, u8) {
        (state.replicas[replica].adopted, self.end_of(state, replica, Replica::complete))
    }

    /// Whether a replica takes the stream of an epoch and may be read in it.
    pub fn serves(&self, state: &State, epoch: u8, replica: usize) -> bool {
        let replica = &state.replicas[replica];
        let adopted = replica.adopted == epoch || self.is(Variant::NoAdoptionOnEmptyTail);
        replica.incomplete == NONE && replica.promise == epoch && adopted
    }

    /// The writes of an epoch's own stream in a slot.
    pub fn stream(&self, state: &State, epoch: u8, slot: usize) -> Set {
        state.only(Set::MAX, |write| write.epoch == epoch && usize::from(write.slot) == slot)
    }

    /// What comes before a number in an epoch's stream.
    pub fn previous(&self, state: &State, epoch: u8, slot: usize, seq: u8) -> u8 {
        let earlier = state.only(self.stream(state, epoch, slot), |write| write.seq < seq);
        if earlier == 0 { state.writer(epoch).slots[slot].choice.1 } else { state.end_of(earlier) }
    }

    /// The number before the first write that the writer still remembers.
    pub fn memory_starts(&self, state: &State, epoch: u8, slot: usize) -> u8 {
        let writer = &state.writer(epoch).slots[slot];
        let retained = state.only(self.stream(state, epoch, slot), |write| write.seq > writer.committed);
        match state.each(retained).map(|(_, write)| write.seq).min() {
            Some(first) => self.previous(state, epoch, slot, first),
            None => writer.last,
        }
    }

    /// Whether the writer's messages reach the silo, and are not refused.
    pub fn reaches(&self, state: &State, epoch: u8, replica: usize) -> bool {
        state.view(epoch, replica).current && state.replicas[replica].promise == epoch
    }
}
