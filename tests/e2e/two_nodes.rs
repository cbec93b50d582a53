//! Two nodes and a witness: either node may be lost, and nothing that was answered is.

use std::time::{Duration, Instant};

use infinit::daemon::api::{Node, NodeState, Role};

use crate::e2e::cluster::{Cluster, PATIENCE, eventually};
use crate::e2e::growth::{Load, until_copies, until_voters};
use crate::e2e::rounds;

/// The longest that I/O may wait for a node that is gone.
const STALL_MAX: Duration = Duration::from_secs(5);

/// Two storage nodes, and a third that only votes.
fn with_a_witness() -> Cluster {
    let mut cluster = Cluster::bare(3);
    cluster.found(&[String::new(), String::new()]);
    cluster.add(2, &["--role", "witness"]);
    until_voters(&cluster, 0, 3);
    let witness: Node = cluster.ask(0, &["node", "show", &cluster.id(2)]);
    assert_eq!((witness.role, witness.silos.len()), (Role::Witness, 0));
    cluster
}

#[test]
fn either_of_two_nodes_is_lost_in_turn_and_nothing_with_it() {
    let mut cluster = with_a_witness();
    cluster.run(0, &["volume", "create", "pg", "--size", "1GiB", "--replicas", "2"]);
    cluster.attach(0, "pg");
    let mut holder = 0;
    let mut ledger = None;
    for round in 0..rounds() {
        let other = 1 - holder;
        let load = match ledger.take() {
            None => Load::begin(&cluster, holder, "pg"),
            Some(ledger) => Load::go_on(&cluster, holder, "pg", ledger),
        };
        load.goes_on(500);
        // The one that holds a copy only.
        cluster.kill(&[other]);
        let killed = Instant::now();
        // More than can have been on the way.
        load.goes_on(200);
        let stall = killed.elapsed();
        eprintln!("round {round}: I/O went on {stall:?} after the loss of the other node");
        assert!(stall < STALL_MAX, "I/O waited {stall:?}");
        load.goes_on(500);
        cluster.start(other);
        cluster.wait(other);
        until_copies(&cluster, holder, "pg", 2);
        // The one that the volume is attached to.
        load.goes_on(500);
        cluster.kill(&[holder]);
        let known = load.lost();
        cluster.run(other, &["volume", "attach", "pg", "--takeover"]);
        known.check(&cluster, other, "pg");
        cluster.start(holder);
        cluster.wait(holder);
        until_copies(&cluster, other, "pg", 2);
        ledger = Some(known);
        holder = other;
    }
}

#[test]
fn a_witness_stores_nothing_and_says_so() {
    let mut cluster = with_a_witness();
    let refused = cluster.refused(0, &["volume", "create", "pg", "--size", "1GiB"]);
    refused.expect(1, &["3 nodes with a silo", "there are 2", "--replicas 2"]);
    cluster.stop(2);
    let silo = cluster.folder.path().join("silo");
    cluster.refused_run(2, &["--silo", silo.to_str().unwrap()]).expect(2, &["witness", "--role storage"]);
    cluster.start_with(2, &["--role", "storage"]);
    cluster.wait(2);
    let id = cluster.id(2);
    let stores = eventually(PATIENCE, || {
        let node: Node = cluster.ask(0, &["node", "show", &id]);
        node.role == Role::Storage && node.state == NodeState::Up && node.silos.len() == 1
    });
    assert!(stores, "it stores nothing still");
    cluster.run(0, &["volume", "create", "pg", "--size", "1GiB"]);
}
