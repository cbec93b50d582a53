//! Bugs of writing: answers too early, too late or for the wrong reason.
//!
//! An acknowledgement from before a silo's restart came on a connection that is no more, and no transport passes it on: the
//! script hands it over all the same.

use infinit::base::mutant::Mutant;
use infinit::cluster::replication::writer::Durability;

use super::super::golden::late;
use super::super::temper::{Fault, MS, Temper};
use super::{Case, general, hunt, script, steered};

const CASES: &[Case] = &[
    general(Mutant::AckBeforeMajority, 1, 100),
    general(Mutant::FlushOnMemory, 1, 100),
    steered(Mutant::FuaWithoutItsSeq, "durable writes, all without power", blackouts, 1, 500),
    // The sync before an adoption would make good what the flush leaves out: the bug leaves it out too.
    general(Mutant::FlushIgnoresTail, 1, 100),
    steered(Mutant::RetainedDroppedAtFirstAck, "silos without power, the writer lives on", silo_blackouts, 1, 500),
    general(Mutant::GapIgnoredAfterPowerLoss, 1, 100),
    script(
        Mutant::AckOfOldIncarnation,
        "an_acknowledgement_from_before_a_…",
        late::an_acknowledgement_from_before_a_restart_does_not_count,
    ),
    general(Mutant::ParallelSubBlockWrites, 1, 100),
    general(Mutant::RefusedSeqSkipped, 1, 100),
    general(Mutant::DeadConnectionExecuted, 1, 100),
];

/// One write at a time waits for the disks, and what it waits for is lost.
fn blackouts(temper: &mut Temper) {
    temper.durability = Durability::Write;
    (temper.clients, temper.depth, temper.think_ns) = (1, 1, 4 * MS);
    temper.sync_ns = (5 * MS, 80 * MS);
    temper.faults = vec![(Fault::PowerAll, 1)];
}

/// Nobody but the writer has what was not flushed.
fn silo_blackouts(temper: &mut Temper) {
    temper.flush_permille = 10;
    temper.sync_ns = (MS, 1500 * MS);
    temper.faults = vec![(Fault::PowerMost, 1)];
}

#[test]
fn bugs_of_writing_are_found() {
    hunt(CASES);
}
