//! A node that holds a copy is killed under load, and comes back: nobody notices but the status.

use std::process::{Child, Stdio};
use std::time::Duration;

use infinit::daemon::api::VolumeState;
use serde_json::Value;

use crate::e2e::cluster::{Cluster, PATIENCE, eventually};
use crate::e2e::rounds;
use crate::tools::tool;

/// Each block of this much is written once a round, and verified; the rate makes it last over the kill and the return.
const SIZE_MIB: u64 = 64;
const RATE: u64 = 1500;
/// The longest that any request may take, as fio sees it.
const STALL_NS_MAX: u64 = 1_000_000_000;
/// The status tells the truth within this time.
const STATUS_LIMIT: Duration = Duration::from_secs(5);

/// Writes at random with a flush every 32, reads all back and compares; shares no content with another round.
fn fio(cluster: &Cluster, uri: &str, round: u64) -> Child {
    let mut fio = tool("fio", "fio");
    fio.current_dir(cluster.folder.path()).args(["--name=kill", "--ioengine=nbd", "--rw=randwrite", "--bs=4k"]);
    fio.args(["--iodepth=16", "--fsync=32", "--verify=crc32c", "--verify_fatal=1", "--output-format=json"]);
    fio.arg(format!("--size={SIZE_MIB}m")).arg(format!("--rate_iops=,{RATE}")).arg(format!("--randseed={}", round + 1));
    fio.arg("--allrandrepeat=0").arg(format!("--output=fio-{round}.json")).arg(format!("--uri={uri}"));
    fio.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Bytes in the silos of a node, as it says itself.
fn used(cluster: &Cluster, node: usize) -> u64 {
    let status = cluster.status(node);
    status.nodes.iter().filter(|node| node.this).flat_map(|node| &node.silos).filter_map(|silo| silo.used_bytes).sum()
}

#[test]
fn a_copy_is_killed_and_comes_back_under_load() {
    let mut cluster = Cluster::new(3);
    cluster.run(0, &["volume", "create", "pg", "--size", "1GiB"]);
    let uri = cluster.run(0, &["volume", "attach", "pg"]).trim().to_owned();
    for round in 0..rounds() {
        cluster.until_volume(0, "pg", VolumeState::Healthy);
        let victim = 1 + round as usize % 2;
        let before = used(&cluster, 0);
        let mut load = fio(&cluster, &uri, round);
        let under_load = eventually(PATIENCE, || used(&cluster, 0) > before + (4 << 20));
        let running = under_load && load.try_wait().unwrap().is_none();
        if running {
            cluster.kill(&[victim]);
            let noticed = cluster.until_volume(0, "pg", VolumeState::Degraded);
            let still = load.try_wait().unwrap().is_none();
            cluster.start(victim);
            let mended = cluster.until_volume(0, "pg", VolumeState::Healthy);
            eprintln!("round {round}: degraded after {noticed:?}, healthy {mended:?} after the start");
            assert!(noticed < STATUS_LIMIT, "the status took {noticed:?} to say degraded");
            assert!(still, "the load ended before the status told: it was no test");
        }
        let ended = eventually(2 * PATIENCE, || load.try_wait().unwrap().is_some());
        if !ended {
            load.kill().unwrap();
        }
        let output = load.wait_with_output().unwrap();
        assert!(running && ended && output.status.success(), "fio: {}", String::from_utf8_lossy(&output.stderr));
        let stall = longest(&cluster, round);
        eprintln!("round {round}: the longest request took {} ms", stall / 1_000_000);
        assert!(stall < STALL_NS_MAX, "a request took {stall} ns");
    }
}

/// The longest time that any request took, ns.
fn longest(cluster: &Cluster, round: u64) -> u64 {
    let text = std::fs::read_to_string(cluster.folder.path().join(format!("fio-{round}.json"))).unwrap();
    let start = text.find('{').unwrap();
    let told: Value = serde_json::from_str(&text[start..]).unwrap();
    let job = &told["jobs"][0];
    assert_eq!(job["error"], 0, "{told}");
    assert_eq!(job["write"]["total_ios"], SIZE_MIB << 8, "{told}");
    assert_eq!(job["read"]["total_ios"], SIZE_MIB << 8, "{told}");
    let max = |kind: &str, time: &str| job[kind][time]["max"].as_u64().unwrap_or_else(|| panic!("{kind}: {told}"));
    max("write", "clat_ns").max(max("sync", "lat_ns")).max(max("read", "clat_ns"))
}
