//! Volumes of mixed size on a cluster that grows and shrinks: they spread over what there is, and little more moves than must.

use std::collections::BTreeMap;

use infinit::daemon::api::VolumeStatus;

use crate::e2e::acceptance;
use crate::e2e::cluster::{Cluster, eventually};
use crate::e2e::growth::{Load, SETTLE, until_voters};

const GIB: u64 = 1 << 30;
const SIZES: [u64; 5] = [1, 8, 2, 16, 4];

/// Where the copies of each volume lie.
type Layout = BTreeMap<String, (u64, Vec<String>)>;

fn layout(cluster: &Cluster, volumes: usize) -> Layout {
    let of = |index: usize| {
        let status: VolumeStatus = cluster.ask(0, &["volume", "status", &name(index)]);
        let nodes = status.slots[0].replicas.iter().map(|replica| replica.node.id.to_string()).collect();
        (name(index), (status.volume.size_bytes, nodes))
    };
    (0..volumes).map(of).collect()
}

fn name(index: usize) -> String {
    format!("volume-{index}")
}

fn bytes_on(layout: &Layout, node: &str) -> u64 {
    layout.values().filter(|(_, nodes)| nodes.iter().any(|other| other == node)).map(|(size, _)| size).sum()
}

/// Waits until nothing is to move.
fn settled(cluster: &Cluster, volumes: usize, nodes: &[String], what: &str, before: &Layout) -> Layout {
    let still = eventually(SETTLE, || {
        let status = cluster.status(0);
        status.volumes.len() == volumes && status.volumes.iter().all(|volume| volume.moving_slots == 0)
    });
    assert!(still, "{what}: something moves still: {:#?}", cluster.status(0).volumes);
    let after = layout(cluster, volumes);
    let loads: Vec<u64> = nodes.iter().map(|node| bytes_on(&after, node)).collect();
    let (least, most) = (loads.iter().min().unwrap(), loads.iter().max().unwrap());
    let largest = SIZES.iter().max().unwrap() * GIB;
    let share = loads.iter().sum::<u64>() / nodes.len() as u64;
    let moved: u64 = after
        .iter()
        .map(|(name, (size, now))| {
            let then = before.get(name).map_or(&now[..], |(_, then)| &then[..]);
            now.iter().filter(|node| !then.contains(node)).count() as u64 * size
        })
        .sum();
    let optimum: u64 = nodes.iter().map(|node| share.saturating_sub(bytes_on(before, node))).sum();
    eprintln!(
        "{what}: {} GiB moved, at least {} had to be; nodes hold {} to {} GiB, the largest volume has {}",
        moved / GIB,
        optimum / GIB,
        least / GIB,
        most / GIB,
        largest / GIB
    );
    assert!(most - least <= largest, "{what}: {loads:?}");
    // What is moved at once may be more than what had to be by the size of a volume a node.
    assert!(before.is_empty() || moved <= optimum + largest * nodes.len() as u64, "{what}: {moved}, {optimum}");
    after
}

#[test]
fn volumes_spread_over_nodes_that_come_and_leave_those_that_go() {
    let volumes = if acceptance() { 40 } else { 15 };
    let mut cluster = Cluster::bare(5);
    cluster.found(&[String::new(), String::new(), String::new()]);
    for index in 0..volumes {
        let size = format!("{}GiB", SIZES[index % SIZES.len()]);
        cluster.run(0, &["volume", "create", &name(index), "--size", &size]);
    }
    let mut nodes: Vec<String> = (0..3).map(|node| cluster.id(node)).collect();
    let used = ["volume-0", "volume-1", "volume-2"];
    let loads = used.map(|name| {
        cluster.attach(0, name);
        Load::begin(&cluster, 0, name)
    });
    let goes_on = || loads.iter().for_each(|load| load.goes_on(500));
    goes_on();
    let mut now = settled(&cluster, volumes, &nodes, "3 nodes", &Layout::new());
    for joining in [3, 4] {
        cluster.add(joining, &[]);
        nodes.push(cluster.id(joining));
        now = settled(&cluster, volumes, &nodes, &format!("{} nodes", nodes.len()), &now);
        goes_on();
    }
    until_voters(&cluster, 0, 5);
    for going in [1, 2] {
        let id = cluster.id(going);
        cluster.run(0, &["node", "drain", &id, "--wait"]);
        nodes.retain(|node| *node != id);
        now = settled(&cluster, volumes, &nodes, &format!("{} nodes", nodes.len()), &now);
        cluster.run(0, &["node", "remove", &id, "--yes"]);
        cluster.kill(&[going]);
        goes_on();
    }
    assert!(now.values().all(|(_, holders)| holders.iter().all(|node| nodes.contains(node))));
    for (name, load) in used.into_iter().zip(loads) {
        load.ends(&cluster, 0, 3, name);
        cluster.run(3, &["volume", "detach", name]);
    }
}
