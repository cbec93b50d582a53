//! End to end: the release binary, real processes on real homes, real clients, real signals.
//!
//! [`cluster`] runs nodes and asks them as people do, on the command line; [`ledger`] is a client that remembers every
//! write it made and says after a crash whether what is there may be there. Each test has a cluster of its own; they
//! run one at a time, because they measure how long things take.
//!
//! `INFINIT_ROUNDS` says how often the tests that kill do so, and `INFINIT_ACCEPTANCE=1` makes everything as large as
//! the acceptance of the product asks for.

mod absent;
mod abuse;
mod balanced;
mod behind_nat;
mod cluster;
mod damage;
mod demo;
mod disks;
mod doctor;
mod faults;
mod fencing;
mod full;
mod growth;
mod kill_a_follower;
mod kill_all;
mod ledger;
mod main_job;
mod mdns;
mod names;
mod namespace;
mod networks;
mod partitions;
mod recovered;
mod refusals;
mod restart_all;
mod scrub;
mod standing;
mod tokens;
mod two_nodes;
mod upgrade;

/// Whether to run at the size of the acceptance.
fn acceptance() -> bool {
    std::env::var_os("INFINIT_ACCEPTANCE").is_some_and(|value| value == "1")
}

/// How many rounds of kills.
fn rounds() -> u64 {
    let asked = std::env::var("INFINIT_ROUNDS").ok().and_then(|rounds| rounds.parse().ok());
    asked.unwrap_or(if acceptance() { 10 } else { 2 })
}
