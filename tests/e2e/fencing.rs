//! A writer that stands still while another takes over must land nothing and serve nothing when it goes on.

use std::time::{Duration, Instant};

use bytes::Bytes;
use infinit::daemon::api::{Attachment, VolumeState};
use infinit::daemon::demo::client::{Client, NbdError};
use tokio::runtime::Runtime;
use tokio::time::timeout;

use crate::e2e::cluster::{Cluster, PATIENCE, eventually};

const BLOCK: usize = 4096;
const LEASE: Duration = Duration::from_secs(4);
/// A heartbeat may have renewed the lease this long before the writer stood still.
const LEASE_LEFT_MIN: Duration = Duration::from_millis(2500);
/// What a take-over may take beyond the lease: a new leader, if the old one stands still, and the recovery.
const TAKEOVER_EXTRA: Duration = Duration::from_secs(8);
/// A take-over from a holder that answers.
const TAKEOVER_LIVING_MAX: Duration = Duration::from_secs(1);

fn value(byte: u8) -> Bytes {
    Bytes::from(vec![byte; BLOCK])
}

fn cluster() -> Cluster {
    let cluster = Cluster::new(3);
    cluster.run(0, &["volume", "create", "pg", "--size", "1GiB", "--lease", "4s"]);
    cluster.attach(0, "pg");
    cluster
}

async fn write(client: &Client, block: u64, byte: u8) -> Result<(), NbdError> {
    client.write(block * BLOCK as u64, value(byte), false).await
}

async fn read(client: &Client, block: u64) -> Result<Bytes, NbdError> {
    client.read(block * BLOCK as u64, BLOCK as u32).await
}

#[test]
fn a_writer_that_was_frozen_is_fenced() {
    let cluster = cluster();
    let runtime = Runtime::new().unwrap();
    let old = runtime.block_on(async {
        let old = Client::connect(&cluster.socket(0, "pg"), "pg").await.unwrap();
        for block in 0..4 {
            write(&old, block, 1).await.unwrap();
        }
        old
    });

    cluster.freeze(0);
    let begun = Instant::now();
    let attached: Attachment = cluster.ask(1, &["volume", "attach", "pg", "--takeover"]);
    let took = begun.elapsed();
    eprintln!("taken over from a frozen writer after {took:?}, with a lease of {LEASE:?}");
    assert!(took >= LEASE_LEFT_MIN, "the lease was not waited out: {took:?}");
    assert!(took < LEASE + TAKEOVER_EXTRA, "the take-over took {took:?}");

    // What the old writer finds in its socket when it goes on: a write, reads of what it has in its own silo.
    let (late_write, late_reads) = {
        let (first, second) = (old.clone(), old.clone());
        let late_write = runtime.spawn(async move { write(&first, 0, 9).await });
        let late_reads = runtime.spawn(async move { (read(&second, 1).await, read(&second, 2).await) });
        (late_write, late_reads)
    };
    let new = runtime.block_on(async {
        let new = Client::connect(&cluster.socket(1, "pg"), "pg").await.unwrap();
        for block in 0..3 {
            assert_eq!(read(&new, block).await.unwrap(), value(1), "what was answered is gone");
            write(&new, block, 2).await.unwrap();
        }
        new.flush().await.unwrap();
        new
    });

    cluster.thaw(0);
    let (landed, (first, second)) = runtime.block_on(async {
        let landed = timeout(PATIENCE, late_write).await.expect("the late write is never answered").unwrap();
        (landed, timeout(PATIENCE, late_reads).await.expect("the late reads are never answered").unwrap())
    });
    assert!(landed.is_err(), "the old writer answered a write");
    assert!(first.is_err() && second.is_err(), "the old writer served {first:?} and {second:?}");
    says_that_it_was_fenced(&cluster, &attached);
    let refused = runtime.block_on(Client::connect(&cluster.socket(0, "pg"), "pg"));
    assert!(refused.is_err(), "the old writer's export is open");
    runtime.block_on(async {
        for block in 0..4 {
            let expected = if block < 3 { 2 } else { 1 };
            assert_eq!(read(&new, block).await.unwrap(), value(expected), "block {block}");
        }
    });
    // A writer of its own copies must not see anything of the late write either.
    cluster.run(0, &["volume", "attach", "pg", "--takeover"]);
    runtime.block_on(async {
        let again = Client::connect(&cluster.socket(0, "pg"), "pg").await.unwrap();
        for block in 0..4 {
            let expected = if block < 3 { 2 } else { 1 };
            assert_eq!(read(&again, block).await.unwrap(), value(expected), "block {block} back on the old node");
        }
    });
}

fn says_that_it_was_fenced(cluster: &Cluster, attached: &Attachment) {
    let holder = |status: &infinit::daemon::api::Status| {
        status.volumes.iter().any(|v| v.attachment.as_ref().is_some_and(|a| a.node.id == attached.node.id))
    };
    cluster.until(0, "the volume is attached elsewhere", holder);
    assert!(eventually(PATIENCE, || cluster.log(0).contains("fenced")), "the log does not say that it was fenced");
    cluster.until_volume(0, "pg", VolumeState::Healthy);
}

#[test]
fn a_take_over_from_a_living_holder_is_immediate() {
    let cluster = cluster();
    let runtime = Runtime::new().unwrap();
    let old = runtime.block_on(async {
        let old = Client::connect(&cluster.socket(0, "pg"), "pg").await.unwrap();
        write(&old, 0, 1).await.unwrap();
        old
    });
    for (from, to) in [(0, 1), (1, 2), (2, 0)] {
        let begun = Instant::now();
        let attached: Attachment = cluster.ask(to, &["volume", "attach", "pg", "--takeover"]);
        let took = begun.elapsed();
        eprintln!("taken over from node {from} by node {to} after {took:?}");
        assert!(took < TAKEOVER_LIVING_MAX, "it took {took:?}");
        assert!(attached.epoch.0 > 1);
        assert!(!cluster.socket(from, "pg").exists(), "the old holder's socket is still there");
        runtime.block_on(async {
            let client = Client::connect(&cluster.socket(to, "pg"), "pg").await.unwrap();
            assert_eq!(read(&client, 0).await.unwrap(), value(1));
        });
    }
    assert!(runtime.block_on(write(&old, 0, 9)).is_err(), "the first holder's client is still served");
}
