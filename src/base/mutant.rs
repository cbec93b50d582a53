//! Deliberate bugs, each a rule of the design broken in one place, to prove that the simulation would find it.
//!
//! Product code asks [`on`] where the bug would sit. Outside of unit tests the answer is a constant `false`: no bug is
//! in a binary that anybody runs. `tests/simulation/mutants` switches them on, one at a time, and counts the seeds.

/// A deliberate bug. The names say what the product then does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mutant {
    // Writing.
    AckBeforeMajority,
    FlushOnMemory,
    FuaWithoutItsSeq,
    FlushIgnoresTail,
    RetainedDroppedAtFirstAck,
    GapIgnoredAfterPowerLoss,
    AckOfOldIncarnation,
    ParallelSubBlockWrites,
    RefusedSeqSkipped,
    DeadConnectionExecuted,
    // Recovery.
    PromiseNotPersisted,
    VoteBeforePromise,
    SeqWithoutEpoch,
    TailRestamped,
    AdoptionNotSynced,
    NoAdoptionOnEmptyTail,
    SecondChoice,
    DropBeforeAdoption,
    ResumeOverAnotherEpoch,
    OneVoteOverTwoSlots,
    OldEpochAcknowledged,
    StaleSuffixKept,
    DurableIsAppliedAtRestart,
    RestartAfterFailedSync,
    TornBelowReported,
    // Reading and the lease.
    GivenUpWriteSeen,
    LaggardServes,
    ReadOfInFlight,
    LeaseCheckedBeforeBytes,
    NoDriftMargin,
    RestartedGrantsAtOnce,
    LengthenedLeaseForgotten,
    // Catching up and the store.
    IncompleteNotDurable,
    LateCatchUpObeyed,
    LatePromotionObeyed,
    LaggardCounts,
    TombstoneBeforeLaggard,
    StaleTrimForgotten,
    IncompleteCleansTombstone,
    RepairFromOlder,
    AnyVersionForTheNamed,
    BlankVotes,
    RestoredVotes,
    CheckpointCoversUnsynced,
    CleaningDropsSnapshotVersion,
    // Reconfiguration.
    SingleMajorityWhileProposed,
    CommitBeforeDurable,
    NewcomerCountsAtOnce,
    PromiseDroppedOnLeaving,
    StaleConfigurationAccepted,
    OverlappingChanges,
    TakenForRefused,
    HalfUnasked,
    LastCurrentRemoved,
    MaintenanceServes,
    WitnessHoldsData,
    // The cluster group.
    GroupVoteNotSynced,
    GroupEntriesNotSynced,
    GroupProposalRepeated,
    GroupReadsLocalState,
    GroupReadUnconfirmed,
    GroupLeaderRestored,
    GroupSnapshotForgotten,
}

#[cfg(test)]
thread_local! {
    static ON: std::cell::Cell<Option<Mutant>> = const { std::cell::Cell::new(None) };
}

/// Whether this thread runs with the bug.
#[cfg(test)]
pub fn on(mutant: Mutant) -> bool {
    ON.get() == Some(mutant)
}

/// Whether this thread runs with any bug.
#[cfg(test)]
pub fn any() -> bool {
    ON.get().is_some()
}

/// Whether this thread runs with the bug: never.
#[cfg(not(test))]
#[inline(always)]
pub const fn on(_: Mutant) -> bool {
    false
}

/// Runs something on this thread with a bug, or with none.
#[cfg(test)]
pub fn with<T>(mutant: Option<Mutant>, run: impl FnOnce() -> T) -> T {
    struct Restore(Option<Mutant>);
    impl Drop for Restore {
        fn drop(&mut self) {
            ON.set(self.0);
        }
    }
    let _restore = Restore(ON.replace(mutant));
    run()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bug_is_on_for_one_run_of_one_thread() {
        assert!(!on(Mutant::SecondChoice));
        with(Some(Mutant::SecondChoice), || {
            assert!(on(Mutant::SecondChoice) && !on(Mutant::LaggardServes));
            assert!(std::thread::spawn(|| !on(Mutant::SecondChoice)).join().unwrap());
        });
        assert!(!on(Mutant::SecondChoice));
    }
}
