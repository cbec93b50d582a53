//! Links that fail, one way or both: who is cut off waits, who has a majority goes on, and nobody answers what is stale.

use std::time::{Duration, Instant};

use infinit::daemon::api::{VolumeState, VolumeStatus};
use infinit::transport::SILENCE_MAX;

use crate::e2e::cluster::{Cluster, PATIENCE, eventually};
use crate::e2e::growth::{Load, until_copies};
use crate::e2e::namespace::Switch;

/// What the control plane says in a few minutes.
const BESIDE_BYTES: u64 = 16 << 20;
const STILL: Duration = Duration::from_secs(2);

/// Three nodes on a switch, and a volume on all of them.
fn three() -> (Switch, Cluster) {
    let switch = Switch::new(3);
    let cluster = Cluster::switched(&switch);
    cluster.run(0, &["volume", "create", "pg", "--size", "1GiB"]);
    cluster.attach(0, "pg");
    (switch, cluster)
}

#[test]
fn a_writer_that_is_cut_off_waits_and_is_fenced_once_another_took_over() {
    let (switch, cluster) = three();
    let load = Load::begin(&cluster, 0, "pg");
    load.goes_on(500);
    switch.cut(&[0], &[1, 2]);
    load.stands_still(STILL);
    cluster.until_volume(0, "pg", VolumeState::Suspended);
    cluster.run(1, &["volume", "attach", "pg", "--takeover"]);
    switch.heal();
    let (known, ended) = load.refused();
    assert!(!ended.is_empty());
    assert!(eventually(PATIENCE, || cluster.log(0).contains("fenced")), "the log does not say that it was fenced");
    known.check(&cluster, 1, "pg");
    let load = Load::go_on(&cluster, 1, "pg", known);
    load.goes_on(500);
    load.ends(&cluster, 2, 0, "pg");
}

#[test]
fn a_link_that_works_one_way_only_stops_nothing_that_has_a_majority() {
    let (switch, cluster) = three();
    let load = Load::begin(&cluster, 0, "pg");
    load.goes_on(500);
    for (from, to) in [(0, 1), (1, 0)] {
        switch.deafen(from, to);
        let cut = Instant::now();
        // Longer than any silence is borne.
        while cut.elapsed() < 2 * SILENCE_MAX {
            load.goes_on(100);
        }
        cluster.until_volume(0, "pg", VolumeState::Degraded);
        switch.heal();
        cluster.until_volume(0, "pg", VolumeState::Healthy);
    }
    load.ends(&cluster, 0, 1, "pg");
}

#[test]
fn an_attached_volume_goes_on_without_the_control_plane() {
    let switch = Switch::new(5);
    let cluster = Cluster::switched(&switch);
    cluster.run(0, &["volume", "create", "pg", "--size", "1GiB"]);
    let ids: Vec<String> = (0..5).map(|node| cluster.id(node)).collect();
    let holders = until_copies(&cluster, 0, "pg", 3);
    let (with, without): (Vec<usize>, Vec<usize>) = (0..5).partition(|node| holders.contains(&ids[*node]));
    cluster.attach(with[0], "pg");
    let load = Load::begin(&cluster, with[0], "pg");
    load.goes_on(500);
    // A majority of the copies is on this side, of the voters on neither.
    switch.cut(&[with[0], with[1]], &[with[2], without[0], without[1]]);
    switch.cut(&[with[2]], &without);
    let cut = Instant::now();
    while cut.elapsed() < Duration::from_secs(12) {
        load.goes_on(200);
    }
    cluster.refused(with[0], &["volume", "create", "new", "--size", "1GiB"]).expect(5, &["quorum"]);
    switch.heal();
    cluster.until_volume(with[0], "pg", VolumeState::Healthy);
    load.ends(&cluster, with[0], without[0], "pg");
}

#[test]
fn a_flapping_link_moves_no_copy_and_loses_nothing() {
    let (switch, cluster) = three();
    let load = Load::begin(&cluster, 0, "pg");
    load.goes_on(500);
    let flaps = if crate::e2e::acceptance() { 50 } else { 4 };
    let written = || -> u64 {
        let status: VolumeStatus = cluster.ask(0, &["volume", "status", "pg"]);
        status.clients.map_or(0, |clients| clients.written_bytes)
    };
    let before = (written(), switch.received(2));
    for _ in 0..flaps {
        switch.cut(&[2], &[0, 1]);
        let cut = Instant::now();
        while cut.elapsed() < Duration::from_secs(3) {
            load.goes_on(10);
        }
        switch.heal();
        let healed = Instant::now();
        while healed.elapsed() < Duration::from_secs(3) {
            load.goes_on(10);
        }
    }
    cluster.until_volume(0, "pg", VolumeState::Healthy);
    until_copies(&cluster, 0, "pg", 3);
    let (written, received) = (written() - before.0, switch.received(2) - before.1);
    eprintln!("{written} bytes were written in {flaps} flaps, and {received} sent to the node behind the link");
    // Neither more than what it was there for and what it missed, nor a copy anew each time.
    assert!(received < 2 * written + BESIDE_BYTES, "{received} bytes for {written}");
    load.ends(&cluster, 0, 2, "pg");
}
