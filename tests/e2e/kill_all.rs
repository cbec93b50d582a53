//! All nodes are killed at once under load and started again: what was answered is there, and the volume is served
//! again where it was attached.

use std::time::{Duration, Instant};

use infinit::daemon::api::VolumeState;
use tokio::runtime::Runtime;

use crate::e2e::cluster::{Cluster, PATIENCE};
use crate::e2e::ledger::{Ledger, connect_by};
use crate::e2e::rounds;

const BLOCKS: usize = 1024;
/// Writes that must be answered before the kill.
const ANSWERS: u64 = 1500;
/// Longer than anything else takes, so that whoever waits the lease out is found out.
const LEASE: &str = "30s";
const SERVED_LIMIT: Duration = Duration::from_secs(15);

#[test]
fn everything_is_killed_under_load_and_nothing_answered_is_lost() {
    let mut cluster = Cluster::new(3);
    cluster.run(0, &["volume", "create", "pg", "--size", "1GiB", "--lease", LEASE]);
    cluster.attach(0, "pg");
    let socket = cluster.socket(0, "pg");
    let runtime = Runtime::new().unwrap();
    let ledger = Ledger::new(BLOCKS);
    for round in 0..rounds() {
        let (before, flushes) = (ledger.answered(), ledger.flushes());
        let load = {
            let (ledger, socket) = (ledger.clone(), socket.clone());
            runtime.spawn(async move { ledger.load(&socket, "pg", round).await })
        };
        let end = Instant::now() + PATIENCE;
        // The load is the event that is waited for; it is counted, not announced.
        while ledger.answered() < before + ANSWERS * (round + 1) {
            assert!(Instant::now() < end && !load.is_finished(), "the load stands at {}", ledger.answered());
            std::thread::yield_now();
        }
        cluster.kill(&[[0, 1, 2], [2, 1, 0], [1, 0, 2]][round as usize % 3]);
        runtime.block_on(load).unwrap();
        let killed_after = ledger.answered() - before;
        let started = Instant::now();
        for node in 0..3 {
            cluster.start(node);
        }
        let client = runtime.block_on(connect_by(&socket, "pg", started + SERVED_LIMIT));
        assert!(client.is_some(), "not served again {SERVED_LIMIT:?} after the start: {:?}", why(&cluster));
        let served = started.elapsed();
        runtime.block_on(ledger.check(&socket, "pg"));
        eprintln!(
            "round {round}: {killed_after} writes and {} flushes answered, served again after {served:?}",
            ledger.flushes() - flushes
        );
        cluster.until_volume(1, "pg", VolumeState::Healthy);
        assert!(cluster.volume(1, "pg").attachment.is_some_and(|attachment| attachment.nbd_uri.is_some()));
    }
    // Another node's copy tells the same.
    cluster.run(2, &["volume", "attach", "pg", "--takeover"]);
    runtime.block_on(ledger.check(&cluster.socket(2, "pg"), "pg"));
}

/// What the status says for the volume not being served.
fn why(cluster: &Cluster) -> (VolumeState, Option<String>) {
    cluster.wait(0);
    let volume = cluster.volume(0, "pg");
    (volume.state, volume.reason)
}
