//! What people are told of nodes, silos and copies is true at once: after a start, after a stop, and in between.

use std::time::{Duration, Instant};

use bytes::Bytes;
use infinit::daemon::api::{NodeState, Ready, ReplicaState, SiloState, Status, VolumeState, VolumeStatus};
use infinit::daemon::demo::client::Client;
use tokio::runtime::Runtime;

use crate::e2e::cluster::{Cluster, PATIENCE, eventually};

/// Far less than it takes to notice that a node is not heard any more.
const AT_ONCE: Duration = Duration::from_secs(1);

/// How the nodes stand, in the order of the answering node's list.
fn states(status: &Status) -> Vec<NodeState> {
    status.nodes.iter().map(|node| node.state).collect()
}

#[test]
fn a_node_that_starts_or_stops_is_shown_as_it_is_at_once() {
    let mut cluster = Cluster::new(3);
    cluster.stop(2);
    let stopped = Instant::now();
    for node in 0..2 {
        let status = cluster.status(node);
        let down: Vec<_> = status.nodes.iter().filter(|node| node.state == NodeState::Down).collect();
        assert_eq!(down.len(), 1, "{status:#?}");
        assert!(down[0].since.is_some());
        assert!(down[0].silos.iter().all(|silo| silo.state == SiloState::Down && silo.used_bytes.is_none()));
    }
    assert!(stopped.elapsed() < AT_ONCE, "the question took {:?}", stopped.elapsed());
    assert!(eventually(PATIENCE, || cluster.log(0).contains("was stopped")), "{}", cluster.log(0));

    // From its first answer on it calls nobody down who is not.
    cluster.start(2);
    let mut seen = Vec::new();
    let all_up = eventually(PATIENCE, || {
        let output = cluster.command(2, &["status", "--output", "json"]).output().unwrap();
        let status = output.status.success().then(|| serde_json::from_slice::<Status>(&output.stdout).unwrap());
        seen.extend(status.as_ref().map(states));
        status.is_some_and(|status| status.nodes.len() == 3 && states(&status).iter().all(|s| *s == NodeState::Up))
    });
    assert!(all_up && seen.iter().flatten().all(|state| *state != NodeState::Down), "{seen:?}");
    assert!(eventually(PATIENCE, || cluster.log(0).contains("is reached again")), "{}", cluster.log(0));

    for node in 0..3 {
        cluster.stop(node);
    }
    for node in 0..3 {
        cluster.start(node);
    }
    for node in 0..3 {
        cluster.wait(node);
    }
    cluster.stop(1);
    cluster.start(1);
    let ready: Ready = cluster.ask(1, &["node", "wait", "--timeout", "60s"]);
    assert_eq!((ready.nodes_up, ready.nodes), (3, 3));
}

#[test]
fn copies_are_told_to_be_what_is_known_of_them() {
    let mut cluster = Cluster::new(3);
    let runtime = Runtime::new().unwrap();
    cluster.run(0, &["volume", "create", "pg", "--size", "1GiB"]);
    let status = |cluster: &Cluster, node: usize| cluster.ask::<VolumeStatus>(node, &["volume", "status", "pg"]);
    let copies = |status: &VolumeStatus| -> Vec<ReplicaState> {
        status.slots.iter().flat_map(|slot| &slot.replicas).map(|replica| replica.state).collect()
    };
    let told = status(&cluster, 0);
    assert_eq!(copies(&told), [ReplicaState::Idle; 3]);
    assert_eq!((told.volume.state, told.clients), (VolumeState::Detached, None));

    cluster.attach(0, "pg");
    cluster.until_volume(0, "pg", VolumeState::Healthy);
    let client = runtime.block_on(async {
        let client = Client::connect(&cluster.socket(0, "pg"), "pg").await.unwrap();
        for block in 0..3 {
            client.write(block * 4096, Bytes::from(vec![1; 4096]), false).await.unwrap();
        }
        client.flush().await.unwrap();
        client.flush().await.unwrap();
        client.trim(0, 4096).await.unwrap();
        client.read(0, 8192).await.unwrap();
        client
    });
    // The node that does not have it attached knows as much.
    for node in 0..2 {
        let counts = status(&cluster, node).clients.unwrap();
        assert_eq!((counts.connections, counts.connections_open, counts.errors), (1, 1, 0));
        assert_eq!((counts.reads, counts.writes, counts.flushes, counts.trims), (1, 3, 2, 1));
        assert_eq!((counts.read_bytes, counts.written_bytes), (8192, 3 * 4096));
    }

    cluster.kill(&[2]);
    cluster.until_volume(0, "pg", VolumeState::Degraded);
    runtime.block_on(client.write(0, Bytes::from(vec![2; 4096]), false)).unwrap();
    let told = status(&cluster, 0);
    assert_eq!(copies(&told).iter().filter(|copy| **copy == ReplicaState::Down).count(), 1, "{told:#?}");
    let reason = told.volume.reason.clone().unwrap_or_default();
    assert!(reason.contains("is down") || reason.contains("cannot be reached"), "{reason}");
    assert!(!reason.contains(" 0B") && !reason.contains(" 0 writes"), "{reason}");
    let log = |cluster: &Cluster| cluster.log(0).matches("is not reached").count();
    assert!(eventually(PATIENCE, || log(&cluster) == 1), "{}", cluster.log(0));
    assert!(!cluster.log(0).contains("openraft"), "{}", cluster.log(0));

    cluster.kill(&[1]);
    let lost = |status: &Status| status.warnings.iter().any(|warning| warning.message.contains("no quorum"));
    cluster.until(0, "the quorum is lost and both are down", |status| {
        lost(status) && states(status).iter().filter(|state| **state == NodeState::Down).count() == 2
    });
    let status = cluster.status(0);
    let warning = status.warnings.iter().find(|warning| warning.message.contains("no quorum")).unwrap();
    let hint = warning.hint.clone().unwrap_or_default();
    for node in status.nodes.iter().filter(|node| node.state == NodeState::Down) {
        assert!(hint.starts_with("start node ") && hint.contains(&node.id.short()), "{hint}");
    }
    assert!(hint.contains(" or "), "{hint}");
}

#[test]
fn a_daemon_whose_log_nobody_reads_goes_on() {
    let cluster = Cluster::bare(1);
    cluster.run(0, &["network", "create", "prod"]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = cluster.command(0, &["node", "run", "--listen", "127.0.0.1:0", "--no-mdns"]);
    let mut daemon = command.stderr(writer).spawn().unwrap();
    cluster.wait(0);
    cluster.run(0, &["volume", "create", "pg", "--size", "1GiB", "--replicas", "1"]);
    cluster.attach(0, "pg");
    cluster.run(0, &["node", "stop"]);
    assert!(daemon.wait().unwrap().success());
}
