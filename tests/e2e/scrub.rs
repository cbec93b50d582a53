//! What decays on the disk of a running node is found by `volume scrub`, repaired from another copy, counted and shown.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;

use infinit::base::id::SiloId;
use infinit::daemon::api::scrub::{ScrubState, SiloScrub, VolumeScrub};
use infinit::daemon::api::silo::Range;
use infinit::daemon::api::{NodeState, Silo, SiloState, Status, VolumeState, VolumeStatus};
use infinit::daemon::demo::client::Client;
use tokio::runtime::Runtime;

use crate::e2e::cluster::{Cluster, refusal};
use crate::e2e::damage::{BLOCK, place_of, value};

/// Blocks written, each full of a byte of its own.
const BLOCKS: u8 = 100;
/// Bytes that no head and no index is full of.
const FIRST: u8 = 0x81;

/// A volume on three nodes, attached to the first and written there.
fn written() -> (Cluster, Runtime) {
    let cluster = Cluster::new(3);
    cluster.run(0, &["volume", "create", "pg", "--size", "1GiB"]);
    cluster.attach(0, "pg");
    let runtime = Runtime::new().unwrap();
    runtime.block_on(async {
        let client = Client::connect(&cluster.socket(0, "pg"), "pg").await.unwrap();
        for number in 0..BLOCKS {
            client.write(offset(number), value(FIRST + number), false).await.unwrap();
        }
        client.flush().await.unwrap();
    });
    cluster.until_volume(0, "pg", VolumeState::Healthy);
    (cluster, runtime)
}

fn offset(number: u8) -> u64 {
    u64::from(number) * BLOCK as u64
}

/// Reads all blocks through a node.
fn verify(cluster: &Cluster, runtime: &Runtime, node: usize) {
    runtime.block_on(async {
        let client = Client::connect(&cluster.socket(node, "pg"), "pg").await.unwrap();
        for number in 0..BLOCKS {
            let read = client.read(offset(number), BLOCK as u32).await.unwrap();
            assert!(read == value(FIRST + number), "block {number} begins with {}", read[0]);
        }
    });
}

/// Flips a bit of a node's copy of a block, on its disk.
fn decay(cluster: &Cluster, node: usize, number: u8) {
    let (segment, at) = place_of(cluster, node, FIRST + number);
    let file = OpenOptions::new().write(true).open(&segment).unwrap();
    file.write_all_at(&[(FIRST + number) ^ 0x10], at + 1234).unwrap();
}

fn own_silo(status: &Status) -> &Silo {
    &status.nodes.iter().find(|node| node.this).unwrap().silos[0]
}

fn silo_id(cluster: &Cluster, node: usize) -> SiloId {
    own_silo(&cluster.status(node)).id
}

fn of(scrub: &VolumeScrub, silo: SiloId) -> &SiloScrub {
    scrub.silos.iter().find(|told| told.silo == silo).unwrap()
}

#[test]
fn what_decayed_is_found_repaired_counted_and_shown() {
    let (cluster, runtime) = written();
    // Nobody reads these copies: the attached node reads its own.
    for (node, number) in [(1, 3), (1, 4), (1, 90), (2, 50)] {
        decay(&cluster, node, number);
    }
    let silos = [0, 1, 2].map(|node| silo_id(&cluster, node));
    let scrub: VolumeScrub = cluster.ask(2, &["volume", "scrub", "pg"]);
    assert_eq!(scrub.attached_to.as_ref().map(|node| node.name.clone()), Some(cluster.status(0).network.node.name));
    for (silo, damaged) in silos.into_iter().zip([0, 3, 1]) {
        let told = of(&scrub, silo);
        assert_eq!((told.state, told.damaged_blocks, told.repaired_blocks), (ScrubState::Done, damaged, damaged));
        assert_eq!((told.left_blocks, told.checked_bytes), (0, told.total_bytes), "{told:?}");
        assert!(told.total_bytes > u64::from(BLOCKS) * BLOCK as u64 && told.bytes_per_second.is_some(), "{told:?}");
    }
    let status: VolumeStatus = cluster.ask(2, &["volume", "status", "pg"]);
    assert_eq!((status.volume.state, status.repaired_blocks), (VolumeState::Healthy, Some(4)));
    // Every node tells of every silo.
    cluster.until(0, "the repairs are counted", |status| {
        let counts = |silo: SiloId| {
            let silo = status.nodes.iter().flat_map(|node| &node.silos).find(|told| told.id == silo);
            let scrub = silo.and_then(|silo| silo.scrub.as_ref()).unwrap();
            (scrub.found_blocks, scrub.repaired_blocks, scrub.damaged_blocks)
        };
        silos.map(counts) == [(0, 0, 0), (3, 3, 0), (1, 1, 0)] && status.warnings.is_empty()
    });
    let again: VolumeScrub = cluster.ask(0, &["volume", "scrub", "pg"]);
    assert!(again.silos.iter().all(|silo| silo.state == ScrubState::Done && silo.damaged_blocks == 0), "{again:?}");
    // The repaired copies are what their own nodes read: none of them has to ask another.
    for node in [1, 2] {
        cluster.run(node, &["volume", "attach", "pg", "--takeover"]);
        verify(&cluster, &runtime, node);
        let status: VolumeStatus = cluster.ask(node, &["volume", "status", "pg"]);
        assert_eq!(status.repaired_blocks, Some(0));
    }
}

#[test]
fn damage_that_no_writer_repairs_is_told_at_once_and_repaired_at_the_next_attach() {
    let (cluster, runtime) = written();
    cluster.run(0, &["volume", "detach", "pg"]);
    for number in [3, 4, 90] {
        decay(&cluster, 1, number);
    }
    let silo = silo_id(&cluster, 1);
    let output = cluster.command(2, &["volume", "scrub", "pg", "--output", "json"]).output().unwrap();
    let scrub: VolumeScrub = serde_json::from_slice(&output.stdout).unwrap();
    let told = of(&scrub, silo);
    assert_eq!((told.state, told.damaged_blocks, told.left_blocks), (ScrubState::Done, 3, 3));
    let range = |offset_bytes, length_bytes| Range { offset_bytes, length_bytes };
    assert_eq!(told.left, [range(12288, 8192), range(368_640, 4096)]);
    let output = std::process::Output { stdout: Vec::new(), ..output };
    let refused = refusal("volume scrub pg".to_owned(), &output);
    refused.expect(1, &["3 damaged blocks not repaired", &silo.short(), "12288-20479", "volume attach pg"]);
    cluster.until(0, "the damage is told", |status| {
        let warning = status.warnings.iter().find(|warning| warning.message.contains("3 damaged blocks"));
        warning.is_some_and(|warning| warning.message.contains("bytes 12288-20479 of volume pg"))
    });

    cluster.attach(0, "pg");
    cluster.until(0, "the damage is repaired", |status| {
        let silo = status.nodes.iter().flat_map(|node| &node.silos).find(|told| told.id == silo);
        let scrub = silo.and_then(|silo| silo.scrub.as_ref()).unwrap();
        (scrub.damaged_blocks, scrub.repaired_blocks) == (0, 3) && status.warnings.is_empty()
    });
    cluster.run(1, &["volume", "scrub", "pg"]);
    cluster.run(1, &["volume", "attach", "pg", "--takeover"]);
    verify(&cluster, &runtime, 1);
}

#[test]
fn a_damaged_index_takes_its_silo_out_and_is_named_while_the_volume_goes_on() {
    let (cluster, runtime) = written();
    let silo = silo_id(&cluster, 2);
    // A first scrub leaves nothing for the second to put into the index, so that what decays stays as it is.
    cluster.run(0, &["volume", "scrub", "pg"]);
    decay_index(&cluster.home(2).join("silo/index.redb"));
    let output = cluster.command(0, &["volume", "scrub", "pg", "--output", "json"]).output().unwrap();
    let scrub: VolumeScrub = serde_json::from_slice(&output.stdout).unwrap();
    let told = of(&scrub, silo);
    assert_eq!(told.state, ScrubState::Failed, "{told:?}");
    let output = std::process::Output { stdout: Vec::new(), ..output };
    let refused = refusal("volume scrub pg".to_owned(), &output);
    refused.expect(1, &[&silo.short(), "page", "index.redb", "infinit status"]);
    cluster.until(0, "the silo is out of service", |status| {
        let warning = status.warnings.iter().find(|warning| warning.message.contains(&silo.short()));
        let silo = status.nodes.iter().flat_map(|node| &node.silos).find(|told| told.id == silo).unwrap();
        let reason = silo.reason.clone().unwrap_or_default();
        silo.state == SiloState::Damaged
            && reason.contains("page ")
            && reason.contains("index.redb")
            && warning.is_some_and(|warning| warning.hint.is_some())
    });
    cluster.until_volume(1, "pg", VolumeState::Degraded);
    let status = cluster.status(0);
    assert!(status.nodes.iter().all(|node| node.state == NodeState::Up), "{status:#?}");
    runtime.block_on(async {
        let client = Client::connect(&cluster.socket(0, "pg"), "pg").await.unwrap();
        client.write(offset(0), value(FIRST), true).await.unwrap();
    });
    verify(&cluster, &runtime, 0);
}

/// Flips a bit in every page of an index.
fn decay_index(path: &Path) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let pages = file.metadata().unwrap().len() / 4096;
    let mut byte = [0];
    for page in 0..pages {
        let at = page * 4096 + 30;
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    }
}
