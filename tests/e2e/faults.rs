//! Disks that fail under running nodes: writes that are refused, and bytes that are gone. The silo goes out of service
//! and says so, or is repaired; the volume goes on with the others; and nobody is ever given wrong data.

use std::fs::OpenOptions;
use std::time::{Duration, Instant};

use bytes::Bytes;
use infinit::base::id::SiloId;
use infinit::daemon::api::scrub::{ScrubState, VolumeScrub};
use infinit::daemon::api::{NodeState, SiloState, VolumeState, VolumeStatus};
use infinit::daemon::demo::client::Client;
use tokio::runtime::Runtime;

use crate::e2e::cluster::{Cluster, PATIENCE};
use crate::e2e::disks::LoopDisk;
use crate::e2e::ledger::{BLOCK_BYTES, fill, value};
use crate::tools::{run, tool};

/// The longest that one write may take while a disk fails: the others answer.
const STALL_MAX: Duration = Duration::from_secs(10);
/// What a node may log in a test of this kind.
const LOG_LINES_MAX: usize = 200;

/// Three nodes, the last with its silo on this disk, and a volume attached to the first.
fn cluster_on(disk: &LoopDisk) -> (Cluster, SiloId) {
    let silo = disk.path().join("silo");
    let cluster = Cluster::with_silos(&[String::new(), String::new(), silo.display().to_string()]);
    cluster.run(0, &["volume", "create", "pg", "--size", "1GiB"]);
    cluster.attach(0, "pg");
    cluster.until_volume(0, "pg", VolumeState::Healthy);
    let silo = cluster.status(2).nodes.into_iter().find(|node| node.this).unwrap().silos[0].id;
    (cluster, silo)
}

/// Writes these blocks in their so manieth life, all at once, and flushes.
async fn write(client: &Client, blocks: std::ops::Range<usize>, life: u64) {
    let put = |block: usize| client.write((block * BLOCK_BYTES) as u64, fill(block, life), false);
    let answers = futures::future::join_all(blocks.map(put)).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    client.flush().await.unwrap();
}

async fn verify(client: &Client, blocks: std::ops::Range<usize>, life: u64) {
    for block in blocks {
        let read: Bytes = client.read((block * BLOCK_BYTES) as u64, BLOCK_BYTES as u32).await.unwrap();
        assert_eq!(value(block, &read), Some(life), "block {block} begins with {:?}", &read[..8]);
    }
}

#[test]
fn a_disk_that_refuses_writes_takes_its_silo_out_of_service_and_the_volume_goes_on() {
    let mut disk = LoopDisk::faulty(512 << 20);
    let (cluster, silo) = cluster_on(&disk);
    let runtime = Runtime::new().unwrap();
    runtime.block_on(async {
        let client = Client::connect(&cluster.socket(0, "pg"), "pg").await.unwrap();
        write(&client, 0..256, 1).await;
    });
    disk.fail(true);
    let end = Instant::now() + PATIENCE;
    let mut life = 1;
    let damaged = || {
        let status = cluster.status(0);
        let told = status.nodes.iter().flat_map(|node| &node.silos).find(|told| told.id == silo).unwrap();
        assert!(status.nodes.iter().all(|node| node.state == NodeState::Up), "{status:#?}");
        let warned = status.warnings.iter().any(|warning| {
            warning.message.contains(&silo.short()) && warning.message.contains("damaged") && warning.hint.is_some()
        });
        told.state == SiloState::Damaged && told.reason.is_some() && warned
    };
    while !damaged() {
        life += 1;
        let began = Instant::now();
        runtime.block_on(async {
            let client = Client::connect(&cluster.socket(0, "pg"), "pg").await.unwrap();
            write(&client, 0..256, life).await;
        });
        let took = began.elapsed();
        assert!(took < STALL_MAX, "256 writes and a flush took {took:?} while a disk failed");
        assert!(Instant::now() < end, "the silo is not out of service: {:#?}", cluster.status(0));
    }
    let said = cluster.log(2).lines().any(|line| line.contains("ERROR") && line.contains("out of service"));
    assert!(said, "{}", cluster.log(2));
    cluster.until_volume(1, "pg", VolumeState::Degraded);
    // A disk that works again is not trusted: what it had acknowledged may be gone.
    disk.fail(false);
    runtime.block_on(async {
        let client = Client::connect(&cluster.socket(0, "pg"), "pg").await.unwrap();
        write(&client, 0..256, life + 1).await;
        verify(&client, 0..256, life + 1).await;
    });
    assert!(damaged());
    // Neither it nor anything that it served is needed to go on elsewhere.
    cluster.run(1, &["volume", "attach", "pg", "--takeover"]);
    runtime.block_on(async {
        let client = Client::connect(&cluster.socket(1, "pg"), "pg").await.unwrap();
        verify(&client, 0..256, life + 1).await;
    });
    // It is said once, and nobody tries for ever: the log must not fill the next disk.
    let log = cluster.log(2);
    assert_eq!(log.lines().filter(|line| line.contains("is out of service")).count(), 1, "{log}");
    assert!(log.lines().count() < LOG_LINES_MAX, "{log}");
    eprintln!("the silo was out of service after {} rounds of 256 writes", life - 1);
    drop(cluster);
}

/// The first byte on the disk of the second half of what a file has there, by the map of its extents.
fn middle_of(path: &std::path::Path) -> u64 {
    let map = run(tool("filefrag", "e2fsprogs").args(["-v", "-b1"]).arg(path));
    // `   0:        0..  8388607:   34603008..  42991615:  8388608:   last,eof`
    let extents: Vec<(u64, u64)> = map
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let (first, last) = fields.get(2)?.split_once("..")?;
            Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
        })
        .collect();
    let (first, last) = *extents.last().unwrap_or_else(|| panic!("{} has no extents:\n{map}", path.display()));
    first + (last - first) / 2
}

#[test]
fn a_disk_that_lost_its_end_is_repaired_or_out_of_service_and_never_believed() {
    const BLOCKS: usize = 6000;
    let disk = LoopDisk::new(512 << 20);
    let (cluster, silo) = cluster_on(&disk);
    let runtime = Runtime::new().unwrap();
    runtime.block_on(async {
        let client = Client::connect(&cluster.socket(0, "pg"), "pg").await.unwrap();
        for first in (0..BLOCKS).step_by(1000) {
            write(&client, first..first + 1000, 1).await;
        }
    });
    cluster.run(0, &["volume", "scrub", "pg"]);
    let folder = disk.path().join("silo");
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().for_each(|path| LoopDisk::forget(path));
    let segment = files.iter().find(|path| path.file_name().is_some_and(|name| name == "segment-00000001")).unwrap();
    let end = middle_of(segment);
    let image = OpenOptions::new().write(true).open(disk.image()).unwrap();
    let bytes = image.metadata().unwrap().len();
    image.set_len(end).unwrap();
    image.set_len(bytes).unwrap();

    let output = cluster.command(0, &["volume", "scrub", "pg", "--output", "json"]).output().unwrap();
    let scrub: VolumeScrub = serde_json::from_slice(&output.stdout).unwrap();
    let told = scrub.silos.iter().find(|told| told.silo == silo).unwrap();
    let others = scrub.silos.iter().filter(|told| told.silo != silo);
    assert!(others.into_iter().all(|told| told.state == ScrubState::Done && told.damaged_blocks == 0), "{scrub:#?}");
    let faulted = told.state == ScrubState::Failed;
    eprintln!("cut at {end} of {bytes}: {told:?}");
    assert!(faulted || told.repaired_blocks > 0, "nothing was found: {told:#?}");
    if faulted {
        cluster.until(0, "the silo is out of service", |status| {
            status
                .nodes
                .iter()
                .flat_map(|node| &node.silos)
                .any(|told| told.id == silo && told.state == SiloState::Damaged)
        });
        cluster.until_volume(0, "pg", VolumeState::Degraded);
    } else {
        assert!(output.status.success(), "{told:#?}");
    }
    // The node with the damaged disk serves the volume: from its own copy if that is whole, else from the others.
    for node in [2, 0] {
        cluster.run(node, &["volume", "attach", "pg", "--takeover"]);
        runtime.block_on(async {
            let client = Client::connect(&cluster.socket(node, "pg"), "pg").await.unwrap();
            verify(&client, 0..BLOCKS, 1).await;
        });
        let status: VolumeStatus = cluster.ask(node, &["volume", "status", "pg"]);
        assert!(faulted || status.repaired_blocks == Some(0), "{status:#?}");
    }
    drop(cluster);
}
