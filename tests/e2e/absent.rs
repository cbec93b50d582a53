//! Copies that were away: what they are sent is what they missed, and a disk that lost everything is another one.

use std::process::Stdio;

use infinit::daemon::api::{Node, VolumeState};
use serde_json::Value;

use crate::e2e::acceptance;
use crate::e2e::cluster::{Cluster, PATIENCE, eventually};
use crate::e2e::growth::{Load, until_copies};
use crate::e2e::namespace::Switch;
use crate::tools::{run, tool};

/// What the control plane says meanwhile.
const BESIDE_BYTES: u64 = 2 << 20;

#[test]
fn what_a_copy_missed_is_what_it_is_sent() {
    let switch = Switch::new(3);
    let mut cluster = Cluster::switched(&switch);
    cluster.run(0, &["volume", "create", "pg", "--size", "2GiB"]);
    let uri = cluster.attach(0, "pg").nbd_uri.unwrap();
    until_copies(&cluster, 0, "pg", 3);
    cluster.kill(&[2]);
    // More than the writer remembers, no block twice.
    let mut fio = tool("fio", "fio");
    fio.current_dir(cluster.folder.path()).args(["--name=missed", "--ioengine=nbd", "--rw=randwrite", "--bs=4k"]);
    fio.args(["--iodepth=16", "--fsync=64", "--output-format=json", "--size=2g"]).arg(format!("--uri={uri}"));
    match acceptance() {
        true => fio.args(["--time_based", "--runtime=60", "--rate=4m"]),
        false => fio.arg("--io_size=96m"),
    };
    let told = run(fio.stdin(Stdio::null()));
    let told: Value = serde_json::from_str(&told[told.find('{').unwrap()..]).unwrap();
    let written = told["jobs"][0]["write"]["io_bytes"].as_u64().unwrap();
    let before = switch.received(2);
    cluster.start(2);
    cluster.wait(2);
    cluster.until_volume(0, "pg", VolumeState::Healthy);
    until_copies(&cluster, 0, "pg", 3);
    let moved = switch.received(2) - before;
    eprintln!("{written} bytes were written while the copy was away, {moved} were sent to it");
    assert!(written >= 64 << 20 && moved >= written, "{written}, {moved}");
    assert!(moved < written * 12 / 10 + BESIDE_BYTES, "{moved} bytes for {written}");
}

#[test]
fn a_disk_that_lost_everything_comes_back_as_another_one() {
    let mut cluster = Cluster::new(4);
    cluster.run(0, &["network", "set", "--down-after", "6s"]);
    cluster.run(0, &["volume", "create", "pg", "--size", "1GiB"]);
    cluster.attach(0, "pg");
    let holders = until_copies(&cluster, 0, "pg", 3);
    let victim = (1..4).find(|node| holders.contains(&cluster.id(*node))).unwrap();
    let load = Load::begin(&cluster, 0, "pg");
    load.goes_on(500);
    let silo = |cluster: &Cluster, id: &str| {
        let node: Node = cluster.ask(0, &["node", "show", id]);
        node.silos.iter().map(|silo| silo.id).collect::<Vec<_>>()
    };
    let id = cluster.id(victim);
    let old = silo(&cluster, &id);
    cluster.kill(&[victim]);
    run(tool("rm", "coreutils").arg("-r").arg(cluster.home(victim).join("silo")));
    load.goes_on(500);
    cluster.start(victim);
    cluster.wait(victim);
    // What the old one held is made anew somewhere, and the new one is a silo like any other.
    until_copies(&cluster, 0, "pg", 3);
    let new = eventually(PATIENCE, || silo(&cluster, &id).iter().any(|silo| !old.contains(silo)));
    assert!(new, "it has no new silo: {old:?}");
    load.goes_on(500);
    // All four take part: with four copies each node has one, also the one whose disk is new.
    cluster.run(0, &["volume", "set", "pg", "--replicas", "4"]);
    assert!(until_copies(&cluster, 0, "pg", 4).contains(&id));
    cluster.until_volume(0, "pg", VolumeState::Healthy);
    load.ends(&cluster, 0, victim, "pg");
}
