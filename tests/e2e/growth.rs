//! Nodes come and go, and the copies follow: under load, by themselves where they should.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use infinit::daemon::api::going::RemovedNode;
use infinit::daemon::api::{Node, NodeState, ReplicaState, SiloState, VolumeState, VolumeStatus};
use infinit::daemon::demo::client::NbdError;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::e2e::cluster::{Cluster, PATIENCE, eventually, voters};
use crate::e2e::ledger::Ledger;

const BLOCKS: usize = 2048;
/// Within this, a cluster that changed has moved what it had to.
pub const SETTLE: Duration = Duration::from_secs(180);

/// A client that writes all the time, and remembers what.
pub struct Load {
    known: Known,
    working: JoinHandle<Vec<NbdError>>,
}

/// What a client knows that must be there.
pub struct Known {
    runtime: Runtime,
    ledger: Arc<Ledger>,
}

impl Known {
    /// Reads everything where the volume is attached.
    pub fn check(&self, cluster: &Cluster, node: usize, volume: &str) {
        self.runtime.block_on(self.ledger.check(&cluster.socket(node, volume), volume));
    }
}

impl Load {
    pub fn begin(cluster: &Cluster, node: usize, volume: &'static str) -> Load {
        let known = Known { runtime: Runtime::new().unwrap(), ledger: Ledger::new(BLOCKS) };
        Load::go_on(cluster, node, volume, known)
    }

    pub fn go_on(cluster: &Cluster, node: usize, volume: &'static str, known: Known) -> Load {
        let (socket, client) = (cluster.socket(node, volume), known.ledger.clone());
        let working = known.runtime.spawn(async move { client.load_until_refused(&socket, volume, 7).await });
        Load { known, working }
    }

    /// Returns once so many requests more are answered.
    pub fn goes_on(&self, requests: u64) {
        let before = self.known.ledger.answered();
        assert!(eventually(PATIENCE, || self.known.ledger.answered() >= before + requests), "the load hangs");
        assert!(!self.working.is_finished(), "the load has ended");
    }

    /// Returns once its connections are lost.
    pub fn lost(self) -> Known {
        let (known, ended) = self.refused();
        assert!(ended.iter().all(|ended| *ended == NbdError::Lost), "requests failed: {ended:?}");
        known
    }

    /// Returns once nobody serves it any more, and how it was told.
    pub fn refused(self) -> (Known, Vec<NbdError>) {
        let ended = self.known.runtime.block_on(async { timeout(PATIENCE, self.working).await });
        (self.known, ended.expect("the load hangs").unwrap())
    }

    /// Nothing is answered within a time.
    pub fn stands_still(&self, time: Duration) {
        // What is on its way arrives.
        let settled = || {
            let before = self.known.ledger.answered();
            std::thread::sleep(time);
            self.known.ledger.answered() == before
        };
        assert!(eventually(PATIENCE, settled), "the load goes on");
    }

    /// Ends it by a detach, and reads everything again where another node attaches.
    pub fn ends(self, cluster: &Cluster, detacher: usize, reader: usize, volume: &str) {
        // After a partition both may still look for the others.
        cluster.wait(detacher);
        cluster.wait(reader);
        cluster.run(detacher, &["volume", "detach", volume]);
        let known = self.lost();
        cluster.attach(reader, volume);
        known.check(cluster, reader, volume);
    }
}

fn volume(cluster: &Cluster, node: usize, name: &str) -> VolumeStatus {
    cluster.ask(node, &["volume", "status", name])
}

/// The nodes that hold copies of the volume's only slot.
fn holders(status: &VolumeStatus) -> BTreeSet<String> {
    status.slots[0].replicas.iter().map(|replica| replica.node.id.to_string()).collect()
}

/// Waits until so many copies are all that the volume has, all as good as can be seen.
pub fn until_copies(cluster: &Cluster, node: usize, name: &str, copies: usize) -> BTreeSet<String> {
    let mut last = None;
    let came = eventually(PATIENCE, || {
        let status = volume(cluster, node, name);
        let wanted = match status.volume.state {
            VolumeState::Detached => ReplicaState::Idle,
            _ => ReplicaState::UpToDate,
        };
        let slots = status.slots.iter();
        let settled = status.volume.moving_slots == 0
            && slots.clone().all(|slot| {
                slot.replicas.len() == copies
                    && slot.joining.is_empty()
                    && slot.replicas.iter().all(|replica| replica.state == wanted && !replica.leaves)
            });
        last = Some(status);
        settled
    });
    let last = last.unwrap();
    assert!(came, "volume {name} never had {copies} copies: {last:#?}");
    holders(&last)
}

pub fn until_voters(cluster: &Cluster, node: usize, nodes: usize) {
    cluster.until(node, "there are as many voters as there should be", |status| {
        status.network.cluster.as_ref().is_some_and(|cluster| cluster.voters.len() == voters(nodes))
    });
}

#[test]
fn a_cluster_grows_from_one_node_to_five_and_shrinks_again_under_load() {
    let mut cluster = Cluster::bare(5);
    cluster.found(&[String::new()]);
    for name in ["pg", "cold"] {
        cluster.run(0, &["volume", "create", name, "--size", "1GiB", "--replicas", "1"]);
        cluster.attach(0, name);
    }
    let cold = Load::begin(&cluster, 0, "cold");
    cold.goes_on(1000);
    cluster.run(0, &["volume", "detach", "cold"]);
    let cold = cold.lost();
    let load = Load::begin(&cluster, 0, "pg");
    load.goes_on(1000);

    cluster.add(1, &[]);
    cluster.refused(0, &["volume", "set", "pg", "--replicas", "3"]).expect(1, &["3 nodes", "there are 2"]);
    cluster.add(2, &[]);
    until_voters(&cluster, 0, 3);
    for name in ["pg", "cold"] {
        cluster.run(1, &["volume", "set", name, "--replicas", "3"]);
        assert_eq!(until_copies(&cluster, 0, name, 3).len(), 3);
    }
    load.goes_on(500);
    let refused = cluster.refused(0, &["node", "drain", &cluster.id(1)]);
    refused.expect(1, &["3 copies", "2 nodes with a silo", "--replicas 2"]);

    cluster.add(3, &[]);
    cluster.add(4, &[]);
    until_voters(&cluster, 4, 5);
    cluster.run(4, &["volume", "set", "pg", "--replicas", "5"]);
    until_copies(&cluster, 0, "pg", 5);
    load.goes_on(500);
    cluster.run(4, &["volume", "set", "pg", "--replicas", "3"]);
    for name in ["pg", "cold"] {
        until_copies(&cluster, 0, name, 3);
    }

    for going in [1, 2] {
        let id = cluster.id(going);
        cluster.refused(0, &["node", "remove", &id, "--yes"]).expect(4, &["holds data", "infinit node drain"]);
        let node: Node = cluster.ask(0, &["node", "drain", &id, "--wait"]);
        assert_eq!(node.copies, 0);
        for name in ["pg", "cold"] {
            assert!(!until_copies(&cluster, 0, name, 3).contains(&id));
        }
        load.goes_on(500);
        let removed: RemovedNode = cluster.ask(0, &["node", "remove", &id, "--yes"]);
        assert_eq!(removed.node.id.to_string(), id);
        cluster.until(3, "it is gone", |status| status.nodes.iter().all(|node| node.id.to_string() != id));
        cluster.kill(&[going]);
    }
    until_voters(&cluster, 0, 3);
    load.goes_on(500);
    load.ends(&cluster, 0, 4, "pg");
    cluster.attach(3, "cold");
    cold.check(&cluster, 3, "cold");
}

#[test]
fn a_node_that_dies_is_replaced_by_itself_and_one_that_comes_back_is_taken_back() {
    let mut cluster = Cluster::new(5);
    cluster.run(0, &["network", "set", "--down-after", "6s"]);
    cluster.run(0, &["volume", "create", "pg", "--size", "1GiB"]);
    let first = holders(&volume(&cluster, 0, "pg"));
    let ids: Vec<String> = (0..5).map(|node| cluster.id(node)).collect();
    let other = (0..5).find(|node| !first.contains(&ids[*node])).unwrap();
    cluster.attach(other, "pg");
    let now = until_copies(&cluster, other, "pg", 3);
    assert!(now.contains(&ids[other]), "no copy lies where the volume is attached");
    let holding: Vec<usize> = (0..5).filter(|node| *node != other && now.contains(&ids[*node])).collect();
    let load = Load::begin(&cluster, other, "pg");
    load.goes_on(500);
    for victim in &holding {
        cluster.kill(&[*victim]);
        let id = &ids[*victim];
        let replaced = eventually(PATIENCE, || !holders(&volume(&cluster, other, "pg")).contains(id));
        assert!(replaced, "it is not replaced: {:#?}", volume(&cluster, other, "pg"));
        until_copies(&cluster, other, "pg", 3);
        load.goes_on(500);
    }
    // The first comes back, and counts again; the second never does.
    cluster.start(holding[0]);
    cluster.wait(holding[0]);
    cluster.until(other, "its silo serves", |status| {
        let back = status.nodes.iter().find(|node| node.id.to_string() == ids[holding[0]]);
        back.is_some_and(|node| {
            node.state == NodeState::Up && node.silos.iter().all(|silo| silo.state == SiloState::Up)
        })
    });
    cluster.refused(other, &["node", "remove", &ids[holding[0]], "--dead", "--yes"]).expect(4, &["it answers"]);
    cluster.run(other, &["node", "remove", &ids[holding[1]], "--dead", "--yes"]);
    until_copies(&cluster, other, "pg", 3);
    load.goes_on(500);
    load.ends(&cluster, other, holding[0], "pg");
}

#[test]
fn a_short_absence_moves_no_copy() {
    let mut cluster = Cluster::new(4);
    cluster.run(0, &["volume", "create", "pg", "--size", "1GiB"]);
    cluster.attach(0, "pg");
    until_copies(&cluster, 0, "pg", 3);
    let before = volume(&cluster, 0, "pg");
    let ids: Vec<String> = (0..4).map(|node| cluster.id(node)).collect();
    let victim = (1..4).find(|node| holders(&before).contains(&ids[*node])).unwrap();
    let load = Load::begin(&cluster, 0, "pg");
    for _ in 0..3 {
        cluster.kill(&[victim]);
        cluster.until_volume(0, "pg", VolumeState::Degraded);
        load.goes_on(200);
        cluster.start(victim);
        cluster.wait(victim);
        cluster.until_volume(0, "pg", VolumeState::Healthy);
    }
    let after = volume(&cluster, 0, "pg");
    assert_eq!(holders(&after), holders(&before));
    assert_eq!(after.slots[0].configuration, before.slots[0].configuration);
    load.ends(&cluster, 0, 1, "pg");
}
