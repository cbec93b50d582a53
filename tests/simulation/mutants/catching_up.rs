//! Bugs of catching up and of the store: silos that lack something, and what is cleaned too early.
//!
//! Where another rule would catch a bug, that one is broken with it: an incomplete silo that cleans trims also believes
//! the writer's watermark; a repair from an older version asks silos that are behind, and stores what is not the indexed
//! version, and so does one that is given any version for the one it named; a silo that does not descend from the known one is neither kept out by the writer nor retired. The cleaning
//! of a version that a snapshot sees is found by a property of `store/version.rs`: nothing here reads snapshots yet.

use infinit::base::mutant::Mutant;

use super::super::golden::{disks, late, limits, lives};
use super::super::temper::{Fault, MS, Temper};
use super::{Case, general, hunt, script, steered};

const CASES: &[Case] = &[
    general(Mutant::IncompleteNotDurable, 15, 120),
    script(
        Mutant::LateCatchUpObeyed,
        "a_late_request_to_catch_up_is_not_…",
        late::a_late_request_to_catch_up_is_not_obeyed,
    ),
    script(Mutant::LatePromotionObeyed, "a_late_promotion_changes_nothing", late::a_late_promotion_changes_nothing),
    steered(Mutant::LaggardCounts, "much to catch up with", much_to_catch_up_with, 120, 600),
    general(Mutant::TombstoneBeforeLaggard, 40, 200),
    steered(Mutant::StaleTrimForgotten, "much to catch up with", much_to_catch_up_with, 10, 100),
    script(
        Mutant::IncompleteCleansTombstone,
        "an_incomplete_silo_cleans_no_trim",
        lives::an_incomplete_silo_cleans_no_trim,
    ),
    script(
        Mutant::RepairFromOlder,
        "a_block_is_not_repaired_from_an_old…",
        limits::a_block_is_not_repaired_from_an_older_version,
    ),
    script(
        Mutant::AnyVersionForTheNamed,
        "the_only_source_is_repaired_from_a_…",
        limits::the_only_source_is_repaired_from_a_silo_that_has_not_adopted,
    ),
    script(Mutant::BlankVotes, "a_blank_disk_inherits_no_vote", disks::a_blank_disk_inherits_no_vote),
    script(Mutant::RestoredVotes, "a_restored_disk_inherits_no_vote", disks::a_restored_disk_inherits_no_vote),
    general(Mutant::CheckpointCoversUnsynced, 1, 30),
    script(
        Mutant::GivenUpWriteSeen,
        "a_write_that_was_given_up_on_is_seen_…",
        limits::a_write_that_was_given_up_on_is_seen_once_a_majority_has_it,
    ),
];

#[test]
fn bugs_of_catching_up_are_found() {
    hunt(CASES);
}

/// Memory is short because all is flushed soon, connections break, and the writer dies while silos catch up.
fn much_to_catch_up_with(temper: &mut Temper) {
    temper.flush_permille = 250;
    temper.latency_ns = (MS, 30 * MS);
    temper.sync_ns = (MS, 10 * MS);
    temper.serve_ns = (0, 20 * MS);
    temper.hot_blocks = 24;
    (temper.clients, temper.depth, temper.think_ns) = (3, 4, 4 * MS);
    temper.fault_every_ns = 120 * MS;
    temper.checkpoint_ns = 300 * MS;
    temper.io_timeout = None;
    temper.faults = vec![
        (Fault::Break, 4),
        (Fault::Partition, 6),
        (Fault::CrashSilo, 4),
        (Fault::CrashWriter, 2),
        (Fault::TakeOver, 1),
    ];
}
