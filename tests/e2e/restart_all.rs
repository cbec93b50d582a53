//! All nodes stop and start again at once, with nothing but their homes.

use std::time::Instant;

use infinit::daemon::api::VolumeState;
use tokio::runtime::Runtime;

use crate::e2e::cluster::{Cluster, PATIENCE};
use crate::e2e::ledger::{Ledger, connect_by};
use infinit::daemon::demo::client::Client;

const BLOCKS: usize = 256;

async fn write_all(ledger: &Ledger, client: &Client) {
    let writes = (0..BLOCKS).map(|block| ledger.put_one(client, block));
    for written in futures::future::join_all(writes).await {
        written.unwrap();
    }
}

#[test]
fn a_cluster_stops_and_starts_without_flags_and_keeps_its_data() {
    let mut cluster = Cluster::new(3);
    let runtime = Runtime::new().unwrap();
    let ledger = Ledger::new(BLOCKS);
    cluster.run(0, &["volume", "create", "pg", "--size", "1GiB"]);
    cluster.attach(0, "pg");
    let socket = cluster.socket(0, "pg");
    runtime.block_on(async {
        let client = Client::connect(&socket, "pg").await.unwrap();
        write_all(&ledger, &client).await;
    });
    let addresses = listening(&cluster);
    // One is stopped by the command, the others by the signal; the last has no quorum left to say so to.
    cluster.run(1, &["node", "stop"]);
    cluster.ended(1);
    cluster.stop(0);
    cluster.stop(2);
    for node in 0..3 {
        cluster.start(node);
    }
    for node in 0..3 {
        cluster.wait(node);
    }
    assert_eq!(listening(&cluster), addresses, "the ports were not kept");
    cluster.until_volume(1, "pg", VolumeState::Detached);
    cluster.attach(1, "pg");
    runtime.block_on(ledger.check(&cluster.socket(1, "pg"), "pg"));
}

#[test]
fn a_cluster_that_was_killed_starts_without_flags_and_serves_again() {
    let mut cluster = Cluster::new(3);
    let runtime = Runtime::new().unwrap();
    let ledger = Ledger::new(BLOCKS);
    cluster.run(0, &["volume", "create", "pg", "--size", "1GiB"]);
    cluster.attach(0, "pg");
    let socket = cluster.socket(0, "pg");
    runtime.block_on(async {
        let client = Client::connect(&socket, "pg").await.unwrap();
        write_all(&ledger, &client).await;
    });
    cluster.kill(&[0, 1, 2]);
    for node in [2, 1, 0] {
        cluster.start(node);
    }
    for node in 0..3 {
        cluster.wait(node);
    }
    let client = runtime.block_on(connect_by(&socket, "pg", Instant::now() + PATIENCE));
    assert!(client.is_some(), "the volume is not served again");
    runtime.block_on(ledger.check(&socket, "pg"));
}

fn listening(cluster: &Cluster) -> Vec<Vec<String>> {
    cluster.status(0).nodes.into_iter().map(|node| node.addresses).collect()
}
