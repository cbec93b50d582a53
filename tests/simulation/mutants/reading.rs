//! Bugs of reading and of the lease: somebody sees what is no longer, or not yet, so.

use std::time::Duration;

use infinit::base::mutant::Mutant;

use super::super::golden::leases;
use super::super::temper::{Fault, MS, Temper};
use super::{Case, hunt, script, steered};

const CASES: &[Case] = &[
    // Connections are in order, so that a read comes after the writes before it: only where messages get lost is a silo
    // behind when it is asked.
    steered(Mutant::LaggardServes, "a lossy network, many reads", lossy, 1, 100),
    steered(Mutant::ReadOfInFlight, "isolated holders, many reads", isolated, 1, 100),
    // The bytes are those of the moment they were asked for, and so is a lease checked then: what hurts is a check made
    // before the request came, so that is the bug.
    script(Mutant::LeaseCheckedBeforeBytes, "lease_after_pause", leases::a_lease_is_checked_when_the_bytes_are_there),
    script(Mutant::NoDriftMargin, "drifting_clocks", leases::drifting_clocks_leave_no_gap),
    script(Mutant::RestartedGrantsAtOnce, "restarted_silos", leases::a_restarted_silo_waits_the_lease_out),
    script(Mutant::LengthenedLeaseForgotten, "lengthened_lease", leases::a_longer_lease_is_remembered),
];

/// Many read what others are writing, and the holder has its own silo alone until the next one comes without it.
fn isolated(temper: &mut Temper) {
    (temper.hot_blocks, temper.read_permille) = (2, 650);
    (temper.clients, temper.depth, temper.think_ns) = (4, 6, 4 * MS);
    (temper.latency_ns, temper.serve_ns) = ((MS / 5, 2 * MS), (0, MS));
    temper.lease = Duration::from_millis(1500);
    temper.io_timeout = None;
    temper.fault_every_ns = 400 * MS;
    temper.faults = vec![(Fault::Isolate, 3), (Fault::Partition, 3), (Fault::CrashWriter, 1)];
}

fn lossy(temper: &mut Temper) {
    temper.rough = (30, 10, 50);
    temper.read_permille = 650;
}

#[test]
fn bugs_of_reading_and_of_the_lease_are_found() {
    hunt(CASES);
}
