//! Bugs of the cluster group: something answered is lost, done twice, or not seen.

use infinit::base::mutant::Mutant;

use super::super::group::temper::{Fault, MS, SECOND, Temper};
use super::{Case, grouped, hunt};

const CASES: &[Case] = &[
    grouped(Mutant::GroupVoteNotSynced, "power lost in elections", elections, 1, 200),
    grouped(Mutant::GroupEntriesNotSynced, "power lost in commits", blackouts, 1, 200),
    grouped(Mutant::GroupProposalRepeated, "any schedule", any, 1, 20),
    grouped(Mutant::GroupReadsLocalState, "any schedule", any, 1, 20),
    grouped(Mutant::GroupReadUnconfirmed, "leaders cut off and paused", usurpers, 1, 100),
    grouped(Mutant::GroupLeaderRestored, "leaders crashed in commits", restored, 1, 400),
    grouped(Mutant::GroupSnapshotForgotten, "snapshots, members restarted", stragglers, 1, 100),
];

fn any(_: &mut Temper) {}

/// Leaders fall all the time, and whoever votes loses power.
fn elections(temper: &mut Temper) {
    temper.joiners = 5;
    temper.disk_ns = (MS, 100 * MS);
    temper.fault_every_ns = 200 * MS;
    temper.outage_ns = 100 * MS;
    temper.faults =
        vec![(Fault::PowerInCommit, 3), (Fault::Power, 3), (Fault::PauseLeader, 2), (Fault::PowerLeader, 2)];
}

/// Everybody loses power while much is under way.
fn blackouts(temper: &mut Temper) {
    temper.joiners = 3;
    temper.disk_ns = (5 * MS, 80 * MS);
    (temper.think_ns, temper.fault_every_ns, temper.outage_ns) = (20 * MS, SECOND, 300 * MS);
    temper.faults = vec![(Fault::PowerAll, 2), (Fault::PowerLeader, 1)];
}

/// A leader that does not know that there is another one, and readers who ask it.
fn usurpers(temper: &mut Temper) {
    temper.joiners = 3;
    (temper.reads, temper.hasty, temper.think_ns) = (500, 0, 20 * MS);
    (temper.fault_every_ns, temper.outage_ns) = (SECOND, 2 * SECOND);
    temper.faults = vec![(Fault::PauseLeader, 2), (Fault::Isolate, 2), (Fault::Split, 1)];
}

/// Leaders come back at once, without the entries that they had sent.
fn restored(temper: &mut Temper) {
    temper.joiners = 3;
    temper.disk_ns = (5 * MS, 80 * MS);
    (temper.think_ns, temper.fault_every_ns, temper.outage_ns) = (20 * MS, 400 * MS, 20 * MS);
    temper.faults = vec![(Fault::PowerLeader, 3), (Fault::CrashLeader, 1), (Fault::Deafen, 1)];
}

/// Members that were away need snapshots, and restart soon after.
fn stragglers(temper: &mut Temper) {
    temper.joiners = 4;
    (temper.tuning.snapshot_every, temper.tuning.log_kept) = (8, 0);
    (temper.think_ns, temper.fault_every_ns, temper.outage_ns) = (30 * MS, 400 * MS, SECOND);
    temper.faults = vec![(Fault::Crash, 3), (Fault::Power, 2), (Fault::Isolate, 1)];
}

#[test]
fn bugs_of_the_cluster_group_are_found() {
    hunt(CASES);
}
