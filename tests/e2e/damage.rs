//! Disks that lie: a block that decayed is repaired from another copy, and what a disk lost although it was flushed is
//! told, never papered over.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use bytes::Bytes;
use infinit::daemon::api::recovery::RecoveredVolume;
use infinit::daemon::api::{VolumeState, VolumeStatus};
use infinit::daemon::demo::client::Client;
use tokio::runtime::Runtime;

use crate::e2e::cluster::{Cluster, PATIENCE, eventually};

pub const BLOCK: usize = 4096;
/// Blocks of these tests have this all over, and nothing else on the disks has.
const MARK: u8 = 0xa7;

pub fn value(byte: u8) -> Bytes {
    Bytes::from(vec![byte; BLOCK])
}

/// The segment of a node's silo that holds a block full of this byte, and where in it. What was flushed is on a majority of
/// them, and on the others soon.
pub fn place_of(cluster: &Cluster, node: usize, byte: u8) -> (PathBuf, u64) {
    let mut found = None;
    let is_found = eventually(PATIENCE, || {
        found = look_for(cluster, node, byte);
        found.is_some()
    });
    assert!(is_found, "node {node} has no block of {byte}");
    found.unwrap()
}

fn look_for(cluster: &Cluster, node: usize, byte: u8) -> Option<(PathBuf, u64)> {
    let silo = cluster.home(node).join("silo");
    let mut segments: Vec<PathBuf> = std::fs::read_dir(&silo).unwrap().map(|entry| entry.unwrap().path()).collect();
    segments.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("segment-")));
    segments.iter().find_map(|path| {
        let bytes = std::fs::read(path).unwrap();
        let at = bytes.windows(BLOCK).position(|window| window.iter().all(|b| *b == byte))?;
        Some((path.clone(), at as u64))
    })
}

#[test]
fn a_decayed_block_is_read_elsewhere_and_repaired() {
    let cluster = Cluster::new(3);
    cluster.run(0, &["volume", "create", "pg", "--size", "1GiB"]);
    cluster.attach(0, "pg");
    let runtime = Runtime::new().unwrap();
    let client = runtime.block_on(async {
        let client = Client::connect(&cluster.socket(0, "pg"), "pg").await.unwrap();
        client.write(3 * BLOCK as u64, value(MARK), false).await.unwrap();
        client.flush().await.unwrap();
        client
    });
    let (segment, at) = place_of(&cluster, 0, MARK);
    let file = OpenOptions::new().write(true).open(&segment).unwrap();
    file.write_all_at(&[MARK ^ 4], at + 77).unwrap();
    let read = runtime.block_on(client.read(3 * BLOCK as u64, BLOCK as u32)).unwrap();
    assert!(read == value(MARK), "the block begins with {}", read[0]);
    let repaired = || cluster.log(0).contains("is repaired from another copy");
    assert!(eventually(PATIENCE, repaired), "the log does not say that the block was repaired");
    let status: VolumeStatus = cluster.ask(2, &["volume", "status", "pg"]);
    assert_eq!((status.volume.state, status.repaired_blocks), (VolumeState::Healthy, Some(1)));
    // The old bytes are damaged still; it is the new ones that are read, with the other copies out of reach.
    let read = runtime.block_on(client.read(3 * BLOCK as u64, BLOCK as u32)).unwrap();
    assert!(read == value(MARK), "the block begins with {}", read[0]);
    assert_eq!(cluster.log(0).matches("is repaired from another copy").count(), 1);
}

#[test]
fn what_disks_lost_is_told_and_given_up_only_with_consent() {
    let mut cluster = Cluster::new(3);
    cluster.run(0, &["volume", "create", "pg", "--size", "1GiB"]);
    cluster.attach(0, "pg");
    let runtime = Runtime::new().unwrap();
    runtime.block_on(async {
        let client = Client::connect(&cluster.socket(0, "pg"), "pg").await.unwrap();
        client.write(0, value(MARK), false).await.unwrap();
        client.flush().await.unwrap();
        client.write(BLOCK as u64, value(MARK + 1), false).await.unwrap();
        client.flush().await.unwrap();
    });
    // A detach makes durable what the silos are told of one another.
    cluster.run(0, &["volume", "detach", "pg"]);
    cluster.attach(1, "pg");
    cluster.until_volume(1, "pg", VolumeState::Healthy);
    cluster.run(1, &["volume", "detach", "pg"]);
    cluster.kill(&[0, 1, 2]);
    // Two disks lose the end of what they had synced, as disks do that confirm too early.
    for node in [1, 2] {
        let (segment, at) = place_of(&cluster, node, MARK + 1);
        let file = OpenOptions::new().write(true).open(&segment).unwrap();
        let head = 16 + 104;
        let len = file.metadata().unwrap().len();
        file.write_all_at(&vec![0; (len - (at - head)) as usize], at - head).unwrap();
    }
    for node in 0..3 {
        cluster.start(node);
    }
    for node in 0..3 {
        cluster.wait(node);
    }
    cluster.refused(2, &["volume", "attach", "pg"]).expect(6, &["lost data", "recover pg --accept-loss"]);
    cluster.refused(2, &["volume", "recover", "pg"]).expect(6, &["lost data", "recover pg --accept-loss"]);
    let recovered: RecoveredVolume = cluster.ask(2, &["volume", "recover", "pg", "--accept-loss"]);
    assert!(recovered.lost && recovered.slots.len() == 1, "{recovered:?}");
    cluster.attach(2, "pg");
    let again = cluster.refused(2, &["volume", "recover", "pg", "--accept-loss"]);
    again.expect(4, &["needs no recovery"]);
    runtime.block_on(async {
        let client = Client::connect(&cluster.socket(2, "pg"), "pg").await.unwrap();
        // The copy that is whole is the longest, and wins.
        for block in 0..2 {
            let read = client.read(block * BLOCK as u64, BLOCK as u32).await.unwrap();
            assert!(read == value(MARK + block as u8), "block {block} begins with {}", read[0]);
        }
    });
    cluster.until_volume(2, "pg", VolumeState::Healthy);
    cluster.run(2, &["volume", "detach", "pg"]);
    let whole: RecoveredVolume = cluster.ask(0, &["volume", "recover", "pg"]);
    assert!(!whole.lost);
}
