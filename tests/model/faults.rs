//! Faults: what a restart, a power loss, a torn disk or a broken connection leaves (rule 14).

use super::actions::Model;
use super::state::{NONE, Replica, Set, State};
use super::variants::Variant;

impl Model {
    /// What a new life of a silo finds. `lost` are writes that did not outlast the old one.
    pub(super) fn reopen(&self, state: &mut State, silo: usize, lost: Set, forgets: bool) {
        for index in self.replicas_of_silo(silo) {
            let replica = &mut state.replicas[index];
            if replica.incomplete != NONE && !self.is(Variant::IncompleteNotDurable) {
                replica.history = replica.incomplete;
            }
            replica.incomplete = NONE;
            replica.stop_catching_up();
            replica.history &= !lost;
            replica.synced &= !lost;
            if self.is(Variant::PromiseNotPersisted) {
                replica.promise = replica.adopted;
            }
            if !self.is(Variant::DurableIsAppliedAtRestart) {
                replica.synced = replica.history;
            }
            let history = replica.history;
            let end = state.end_of(history);
            let replica = &mut state.replicas[index];
            replica.durable = end;
            replica.watermark = if forgets { 0 } else { replica.watermark.min(end) };
            for epoch in self.epochs() {
                state.view_mut(epoch, index).current = false;
            }
        }
    }

    pub(super) fn forgets_nothing(&self, state: &State, silo: usize) -> bool {
        self.replicas_of_silo(silo).all(|index| state.replicas[index].watermark == 0)
    }

    pub(super) fn restart(&self, state: &mut State, silo: usize, forgets: bool) -> Option<()> {
        if state.left.restarts == 0 || (forgets && self.forgets_nothing(state, silo)) {
            return None;
        }
        let before = *state;
        self.reopen(state, silo, 0, forgets);
        if *state == before {
            return None;
        }
        state.left.restarts -= 1;
        Some(())
    }

    /// Whether these are the last of a replica's writes that are not synced, for each replica of the silo.
    pub(super) fn may_lose(&self, state: &State, silo: usize, lost: Set, synced: impl Fn(&Replica) -> Set) -> bool {
        let mut able = 0;
        for index in self.replicas_of_silo(silo) {
            let replica = &state.replicas[index];
            // A silo that catches up goes back to what was synced anyway.
            let unsynced = if replica.incomplete == NONE { replica.history & !synced(replica) } else { 0 };
            let gone = unsynced & lost;
            let first = state.each(gone).next().map_or(u8::MAX, |(_, write)| write.seq);
            if state.only(unsynced, |write| write.seq > first) & !gone != 0 {
                return false;
            }
            able |= gone;
        }
        able == lost
    }

    pub(super) fn power_loss(
        &self,
        state: &mut State,
        silo: usize,
        lost: Set,
        unadopts: bool,
        forgets: bool,
    ) -> Option<()> {
        let has_shadow = self.replicas_of_silo(silo).any(|index| state.replicas[index].shadow.0 != NONE);
        if state.left.power_losses == 0
            || (unadopts && (!has_shadow || lost != 0))
            || (forgets && self.forgets_nothing(state, silo))
            || !self.may_lose(state, silo, lost, |replica| replica.synced)
        {
            return None;
        }
        let before = *state;
        for index in self.replicas_of_silo(silo) {
            let replica = &mut state.replicas[index];
            if unadopts && replica.shadow.0 != NONE {
                state.lost |= replica.history & !replica.shadow.1;
                (replica.adopted, replica.history) = replica.shadow;
                replica.synced = replica.history;
            }
            replica.shadow = (NONE, 0);
        }
        self.reopen(state, silo, lost, forgets);
        if *state == before {
            return None;
        }
        state.left.power_losses -= 1;
        state.lost |= lost;
        self.excuse(state);
        Some(())
    }

    pub(super) fn tear(&self, state: &mut State, silo: usize, lost: Set) -> Option<()> {
        if state.left.tears == 0 || !self.may_lose(state, silo, lost, |_| 0) {
            return None;
        }
        for index in self.replicas_of_silo(silo) {
            let replica = &mut state.replicas[index];
            if replica.synced & lost == 0 {
                continue;
            }
            replica.torn = 1;
            let left = (replica.adopted, state.end_of(state.replicas[index].history & !lost));
            if left >= state.replicas[index].reported {
                return None;
            }
        }
        state.left.tears -= 1;
        state.lost |= lost;
        self.reopen(state, silo, lost, false);
        self.excuse(state);
        Some(())
    }

    pub(super) fn cut(&self, state: &mut State, epoch: u8, silo: usize) -> Option<()> {
        let mut replicas = self.replicas_of_silo(silo);
        if state.left.cuts == 0 || !replicas.any(|index| self.reaches(state, epoch, index)) {
            return None;
        }
        state.left.cuts -= 1;
        for index in self.replicas_of_silo(silo) {
            state.view_mut(epoch, index).current = false;
        }
        Some(())
    }
}
