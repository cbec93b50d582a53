//! Bugs of slots whose silos change.

use infinit::base::mutant::Mutant;

use super::super::golden::moves;
use super::super::temper::{Fault, MS, Shape, Temper};
use super::{Case, hunt, script, steered};

const CASES: &[Case] = &[
    steered(Mutant::SingleMajorityWhileProposed, "many moves", many_moves, 238, 2000),
    steered(Mutant::NewcomerCountsAtOnce, "many moves", many_moves, 1, 2000),
    script(Mutant::CommitBeforeDurable, "new_majority_on_disk", moves::a_new_majority_has_on_disk_what_was_flushed),
    steered(Mutant::StaleConfigurationAccepted, "many moves", many_moves, 264, 2000),
    steered(Mutant::OverlappingChanges, "many moves", many_moves, 1, 2000),
    steered(Mutant::TakenForRefused, "many moves", many_moves, 229, 5000),
    steered(Mutant::HalfUnasked, "halves", halves, 4, 3000),
    script(Mutant::LastCurrentRemoved, "the_last_current_silo_stays", moves::the_last_current_silo_stays),
    script(Mutant::MaintenanceServes, "a_maintenance_epoch_serves_nobody", moves::a_maintenance_epoch_serves_nobody),
    script(Mutant::WitnessHoldsData, "a_witness_is_no_copy", moves::a_witness_is_no_copy),
    script(Mutant::PromiseDroppedOnLeaving, "a_promise_outlasts_leaving", moves::a_promise_outlasts_leaving),
];

/// Silos come and go, and now and then a writer or the power does.
fn many_moves(temper: &mut Temper) {
    let kept = [Fault::Break, Fault::CrashWriter, Fault::TakeOver, Fault::PowerSilo, Fault::PowerMost, Fault::Isolate];
    temper.faults.retain(|(fault, _)| kept.contains(fault));
    temper.faults.push((Fault::Move, 30));
    temper.shape.silos = temper.shape.silos.max(5);
    temper.fault_every_ns = 150 * MS;
    (temper.latency_ns, temper.rough) = ((MS / 5, 2 * MS), (0, 0, 0));
    temper.governed = false;
}

/// Two copies, one of which is lost again and again, and writers that do not hear of one another.
fn halves(temper: &mut Temper) {
    many_moves(temper);
    temper.shape = Shape::one(2);
    temper.shape.silos = 3;
    temper.faults = vec![
        (Fault::Move, 20),
        (Fault::Isolate, 10),
        (Fault::Partition, 10),
        (Fault::CrashWriter, 10),
        (Fault::TakeOver, 10),
        (Fault::CrashSilo, 10),
    ];
    temper.fault_every_ns = 600 * MS;
}

#[test]
fn bugs_of_moving_are_found() {
    hunt(CASES);
}
