//! What bad input gets: one line, a hint, and the exit code of its kind, from the real daemon.

use std::time::{Duration, Instant};

use infinit::daemon::api::{DetachedVolume, ReplicaState, SiloState, VolumeState, VolumeStatus};

use crate::e2e::cluster::{Cluster, eventually};

/// Whatever cannot be done without a quorum says so in this time.
const NO_QUORUM_LIMIT: Duration = Duration::from_secs(15);

#[test]
fn volumes_that_cannot_be_are_refused() {
    let cluster = Cluster::new(3);
    let long = "n".repeat(65);
    let create = |words: &[&str]| cluster.refused(0, &[&["volume", "create"], words].concat());
    create(&["pg", "--size", "0GiB"]).expect(2, &["0 bytes", "20GiB"]);
    create(&["pg", "--size", "5000B"]).expect(2, &["5000", "4KiB", "8192B"]);
    create(&["pg", "--size", "65TiB"]).expect(2, &["64TiB"]);
    create(&["a/b", "--size", "1GiB"]).expect(2, &["'/'"]);
    create(&["a\nb", "--size", "1GiB"]).expect(2, &["control character"]);
    create(&[&long, "--size", "1GiB"]).expect(2, &["65 bytes", "64"]);
    create(&["pg", "--size", "1GiB", "--replicas", "8"]).expect(2, &["7, the most"]);
    create(&["pg", "--size", "1GiB", "--replicas", "5"]).expect(1, &["5", "--replicas 3", "--replicas 1"]);
    create(&["pg", "--size", "-1"]).expect(2, &["negative", "20GiB"]);
    create(&["pg", "--size", "1GiB", "--lease", "999ms"]).expect(2, &["999ms", "1s", "10m"]);
    cluster.run(0, &["volume", "create", "pg", "--size", "1GiB"]);
    create(&["pg", "--size", "1GiB"]).expect(4, &["pg"]);
    for verb in [&["attach", "none"][..], &["detach", "none"], &["status", "none"], &["delete", "none", "--yes"]] {
        cluster.refused(1, &[&["volume"], verb].concat()).expect(3, &["none"]);
    }
    assert_eq!(cluster.status(0).volumes.len(), 1);
}

#[test]
fn one_node_has_one_copy() {
    let cluster = Cluster::new(1);
    cluster.refused(0, &["volume", "create", "pg", "--size", "1GiB"]).expect(1, &["3", "--replicas 1"]);
    cluster.run(0, &["volume", "create", "pg", "--size", "1GiB", "--replicas", "1"]);
    cluster.attach(0, "pg");
    cluster.until_volume(0, "pg", VolumeState::Healthy);
}

#[test]
fn what_is_attached_is_attached_once() {
    let cluster = Cluster::new(3);
    cluster.run(0, &["volume", "create", "pg", "--size", "1GiB"]);
    let first = cluster.attach(0, "pg");
    let refused = cluster.refused(1, &["volume", "attach", "pg"]);
    refused.expect(4, &["pg", &first.node.name, "--takeover"]);
    // The same again where it is attached changes nothing.
    assert_eq!(cluster.attach(0, "pg"), first);
    cluster.refused(0, &["volume", "attach", "pg", "--nbd", "tcp:127.0.0.1:0"]).expect(4, &["detach"]);
    for yes in [&[][..], &["--yes"]] {
        let words = [&["volume", "delete", "pg"], yes].concat();
        cluster.refused(2, &words).expect(4, &["pg", &first.node.name, "detach"]);
    }
    for was_attached in [true, false] {
        let detached: DetachedVolume = cluster.ask(2, &["volume", "detach", "pg"]);
        assert_eq!(detached.was_attached, was_attached);
    }
    cluster.until_volume(1, "pg", VolumeState::Detached);
    cluster.attach(1, "pg");
}

#[test]
fn without_a_daemon_or_a_quorum_it_says_so_soon() {
    let mut cluster = Cluster::new(3);
    cluster.run(0, &["volume", "create", "pg", "--size", "1GiB"]);
    cluster.run(0, &["volume", "create", "idle", "--size", "1GiB"]);
    let attached = cluster.attach(0, "pg");
    cluster.kill(&[1, 2]);
    cluster.refused(1, &["status"]).expect(5, &["no daemon", "node run"]);
    cluster.refused(1, &["volume", "list"]).expect(5, &["no daemon", "node run"]);
    for words in [
        &["volume", "create", "new", "--size", "1GiB"][..],
        &["volume", "attach", "idle"],
        &["volume", "delete", "idle", "--yes"],
    ] {
        let begun = Instant::now();
        let refused = cluster.refused(0, words);
        assert!(begun.elapsed() < NO_QUORUM_LIMIT, "{words:?} took {:?}", begun.elapsed());
        refused.expect(if refused.code == 7 { 7 } else { 5 }, &["quorum"]);
    }
    cluster.refused(0, &["node", "wait", "--timeout", "1s"]).expect(7, &["quorum"]);
    // Where it is attached needs no quorum to be said, and another address is refused as ever.
    assert_eq!(cluster.attach(0, "pg"), attached);
    cluster.refused(0, &["volume", "attach", "pg", "--nbd", "tcp:127.0.0.1:0"]).expect(4, &["already", "detach"]);
    // The status needs nobody, and says what is wrong and what would mend it.
    cluster.until(0, "there is no quorum, and why", |status| {
        let volume = status.volumes.iter().find(|volume| volume.name == "pg");
        let suspended =
            volume.is_some_and(|v| v.state == VolumeState::Suspended && v.reason.is_some() && v.mend.is_some());
        suspended && status.warnings.iter().any(|warning| warning.message.contains("quorum") && warning.hint.is_some())
    });
    for node in 1..3 {
        cluster.start(node);
    }
    cluster.wait(0);
    cluster.until_volume(0, "pg", VolumeState::Healthy);
    // What got no answer may come about later; what is new now is done.
    cluster.run(0, &["volume", "create", "newer", "--size", "1GiB"]);
}

#[test]
fn a_home_a_silo_and_a_port_belong_to_one_daemon() {
    let mut cluster = Cluster::new(2);
    let home = cluster.home(0).to_str().unwrap().to_owned();
    cluster.refused_run(0, &[]).expect(4, &["another daemon", &home]);
    let address = cluster.status(0).nodes.iter().find(|node| node.this).unwrap().addresses[0].clone();
    cluster.stop(1);
    let taken = cluster.home(0).join("silo").to_str().unwrap().to_owned();
    cluster.refused_run(1, &["--silo", &taken]).expect(4, &[&taken, "another process", "--silo"]);
    cluster.refused_run(1, &["--listen", &address]).expect(4, &[&address, "--listen"]);
    // What was refused was not remembered.
    cluster.start(1);
    cluster.wait(1);
}

#[test]
fn homes_and_silos_that_are_not_ours_to_open_are_refused() {
    let mut cluster = Cluster::new(2);
    cluster.stop(1);
    let foreign = cluster.folder.path().join("pictures");
    std::fs::create_dir(&foreign).unwrap();
    std::fs::write(foreign.join("cat.jpg"), "a cat").unwrap();
    let foreign_path = foreign.to_str().unwrap();
    cluster.refused_run(1, &["--silo", foreign_path]).expect(6, &[foreign_path, "cat.jpg", "--silo"]);
    assert_eq!(std::fs::read(foreign.join("cat.jpg")).unwrap(), b"a cat");

    let below_a_file = foreign.join("cat.jpg/silo");
    for (path, code, words) in [
        ("/proc/foo", 1, ["/proc/foo", "cannot create"]),
        (below_a_file.to_str().unwrap(), 2, ["cat.jpg/silo", "a file is in the way"]),
        (foreign.join("cat.jpg").to_str().unwrap(), 2, ["cat.jpg", "a file is in the way"]),
    ] {
        cluster.refused_run(1, &["--silo", path]).expect(code, &[words[0], words[1], "--silo PATH"]);
    }

    // A silo that cannot be opened is out of service, and says why; its node is not.
    let superblock = cluster.home(1).join("silo/superblock");
    let good = std::fs::read(&superblock).unwrap();
    let mut damaged = good.clone();
    damaged[20] ^= 1;
    let mut newer = good.clone();
    newer[8..12].copy_from_slice(&99_u32.to_le_bytes());
    let sum = crc32c::crc32c(&newer[..508]);
    newer[508..].copy_from_slice(&sum.to_le_bytes());
    for (bytes, words) in [(&damaged, ["damaged", "checksum"]), (&newer, ["format 99", "newer"])] {
        std::fs::write(&superblock, bytes).unwrap();
        cluster.start(1);
        cluster.wait(1);
        let nodes = cluster.status(1).nodes;
        let silos: Vec<_> = nodes.iter().filter(|node| node.this).flat_map(|node| &node.silos).collect();
        let told = |reason: &str| words.iter().all(|word| reason.contains(word));
        assert!(silos.iter().any(|silo| silo.reason.as_deref().is_some_and(told)), "{words:?}: {silos:?}");
        cluster.stop(1);
        assert!(std::fs::read(&superblock).unwrap() == *bytes, "the silo was written to");
    }
    std::fs::write(&superblock, &good).unwrap();

    let file = cluster.home(1).join("networks/prod/network.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("version = 1", "version = 99")).unwrap();
    cluster.refused_run(1, &[]).expect(1, &["version 99", "network.toml", "newer"]);
    std::fs::write(&file, text).unwrap();
    cluster.start(1);
    cluster.wait(1);
}

#[test]
fn a_silo_of_another_network_is_refused() {
    let mut cluster = Cluster::bare(2);
    for node in 0..2 {
        cluster.run(node, &["network", "create", "prod"]);
        cluster.start_with(node, &["--listen", "127.0.0.1:0", "--no-mdns"]);
        cluster.wait(node);
    }
    cluster.stop(0);
    cluster.stop(1);
    let other = cluster.home(0).join("silo").to_str().unwrap().to_owned();
    cluster.refused_run(1, &["--silo", &other]).expect(6, &[&other, "network"]);
}

#[test]
fn a_copy_of_a_silo_from_a_backup_is_not_taken_for_the_silo() {
    let mut cluster = Cluster::new(3);
    cluster.stop(2);
    let (silo, backup) = (cluster.home(2).join("silo"), cluster.folder.path().join("backup"));
    let copy = |from: &std::path::Path, to: &std::path::Path| {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    };
    copy(&silo, &backup);
    // It lives on, and its incarnation with it.
    cluster.start(2);
    cluster.wait(2);
    cluster.until(0, "node 2 is up again", |status| {
        status.nodes.iter().all(|node| node.state == infinit::daemon::api::NodeState::Up)
    });
    cluster.run(0, &["volume", "create", "pg", "--size", "1GiB"]);
    cluster.attach(0, "pg");
    cluster.until_volume(0, "pg", VolumeState::Healthy);
    cluster.stop(2);
    std::fs::remove_dir_all(&silo).unwrap();
    copy(&backup, &silo);
    cluster.start(2);
    cluster.until_volume(0, "pg", VolumeState::Degraded);
    assert!(
        eventually(NO_QUORUM_LIMIT, || cluster.log(2).contains("not taken into the cluster")),
        "{}",
        cluster.log(2)
    );
    cluster.until(0, "the silo is foreign", |status| {
        let told = status.warnings.iter().any(|warning| warning.message.contains("foreign") && warning.hint.is_some());
        told && status.nodes.iter().flat_map(|node| &node.silos).any(|silo| silo.state == SiloState::Foreign)
    });
    let status: VolumeStatus = cluster.ask(0, &["volume", "status", "pg"]);
    let copies: Vec<_> = status.slots[0].replicas.iter().map(|replica| replica.state).collect();
    assert_eq!(copies.iter().filter(|state| **state == ReplicaState::Foreign).count(), 1, "{status:#?}");
    assert!(status.volume.reason.as_ref().is_some_and(|reason| reason.contains("foreign")), "{status:#?}");
    assert!(status.volume.mend.as_ref().is_some_and(|mend| mend.contains("put back")), "{status:#?}");
}
