//! Bugs of recovery: what is promised, voted, chosen and adopted, and what is left after a crash.
//!
//! Some would be harmless by themselves because another rule catches them, so that rule is broken with them: a silo that
//! takes an old epoch's records also keeps that epoch's heartbeats from fencing the writer; an adoption that is not synced
//! is so in the replication and in the store, each of which would do it; a silo that forgot a failed sync does not
//! write its tail again either.

use std::time::Duration;

use infinit::base::mutant::Mutant;

use super::super::golden::{disks, epochs, histories};
use super::super::temper::{Fault, MS, Temper};
use super::{Case, general, hunt, script, steered};

const CASES: &[Case] = &[
    general(Mutant::PromiseNotPersisted, 1, 30),
    general(Mutant::VoteBeforePromise, 1, 30),
    script(Mutant::SeqWithoutEpoch, "epochs_come_before_numbers", histories::epochs_come_before_numbers),
    general(Mutant::TailRestamped, 1, 20),
    general(Mutant::AdoptionNotSynced, 1, 60),
    general(Mutant::NoAdoptionOnEmptyTail, 1, 20),
    general(Mutant::SecondChoice, 1, 30),
    general(Mutant::DropBeforeAdoption, 1, 30),
    general(Mutant::ResumeOverAnotherEpoch, 1, 60),
    general(Mutant::OneVoteOverTwoSlots, 1, 30),
    script(
        Mutant::OldEpochAcknowledged,
        "an_old_epoch_lands_nothing_after_…",
        epochs::an_old_epoch_lands_nothing_after_the_promise,
    ),
    steered(Mutant::StaleSuffixKept, "many short epochs", short_epochs, 1, 50),
    steered(Mutant::DurableIsAppliedAtRestart, "a crash upon another, few flushes", crash_upon_crash, 1, 50),
    script(Mutant::RestartAfterFailedSync, "a_failed_sync_is_final", disks::a_failed_sync_is_final),
    script(
        Mutant::TornBelowReported,
        "a_silo_with_less_than_it_reported_…",
        disks::a_silo_with_less_than_it_reported_neither_votes_nor_counts,
    ),
];

#[test]
fn bugs_of_recovery_are_found() {
    hunt(CASES);
}

/// Writers come and go while much is on its way, so that silos are left with ends that nobody else has.
fn short_epochs(temper: &mut Temper) {
    temper.lease = Duration::from_millis(600);
    (temper.clients, temper.depth, temper.think_ns) = (4, 6, 4 * MS);
    temper.latency_ns = (MS, 30 * MS);
    temper.serve_ns = (0, MS);
    temper.sync_ns = (MS, 10 * MS);
    temper.flush_permille = 10;
    temper.io_timeout = None;
    temper.fault_every_ns = 120 * MS;
    temper.faults = vec![
        (Fault::Break, 4),
        (Fault::Partition, 8),
        (Fault::CrashSilo, 2),
        (Fault::CrashWriter, 3),
        (Fault::TakeOver, 3),
        (Fault::TakeOverStorm, 1),
        (Fault::Pause, 2),
    ];
}

/// What a process left in the page cache is taken by the next power loss.
fn crash_upon_crash(temper: &mut Temper) {
    temper.flush_permille = 10;
    temper.checkpoint_ns = 0;
    temper.fault_every_ns = 120 * MS;
    temper.think_ns = 20 * MS;
    temper.faults = vec![(Fault::CrashSilo, 4), (Fault::PowerSilo, 3), (Fault::CrashSiloInCall, 1)];
}
