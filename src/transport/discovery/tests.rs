//! Three nodes find each other through one of them, and again after a restart without it.

use std::path::Path;

use tokio::time::Instant;

use super::*;
use crate::transport::identity::NetworkKey;

struct Node {
    key: NodeKey,
    data: Address,
    discovery: Discovery,
}

fn data_address(number: u16) -> Address {
    SocketAddr::from(([127, 0, 0, 1], 7000 + number)).into()
}

async fn start(
    key: &NodeKey,
    network: NetworkId,
    listen: SocketAddr,
    home: &Path,
    seeds: Vec<Seed>,
) -> Result<Discovery, DiscoveryError> {
    let peers_file = home.join(format!("{}.redb", key.node().short()));
    let (key, advertise) = (key.clone(), Vec::new());
    Discovery::start(DiscoveryOptions { key, network, listen, advertise, peers_file, seeds, mdns: false }).await
}

async fn node(number: u16, network: NetworkId, home: &Path, seeds: Vec<Seed>) -> Node {
    let key = NodeKey::generate();
    let discovery = start(&key, network, "127.0.0.1:0".parse().unwrap(), home, seeds).await.unwrap();
    let data = data_address(number);
    discovery.announce(vec![data.clone()]).await.unwrap();
    Node { key, data, discovery }
}

fn seed_of(node: &Node) -> Seed {
    Seed { node: node.key.node(), data: Vec::new(), discovery: vec![node.discovery.address()] }
}

/// Looks a node up until it is found where it is.
async fn find(from: &Discovery, wanted: &Node) {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let found = from.lookup(wanted.key.node()).await;
        if found.contains(&wanted.data) {
            return;
        }
        assert!(Instant::now() < end, "not found, only {found:?}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_find_each_other_through_one_and_again_without_it() {
    let home = tempfile::tempdir().unwrap();
    let network = NetworkKey::generate().network();
    let a = node(1, network, home.path(), Vec::new()).await;
    let b = node(2, network, home.path(), vec![seed_of(&a)]).await;
    let mut c = node(3, network, home.path(), vec![seed_of(&a)]).await;
    find(&b.discovery, &c).await;
    find(&c.discovery, &b).await;
    find(&a.discovery, &b).await;
    find(&a.discovery, &c).await;
    assert_eq!(b.discovery.addresses(c.key.node()), vec![c.data.clone()]);
    assert!(b.discovery.lookup(NodeId::random()).await.is_empty());

    let (b_at, c_at) = (b.discovery.address(), c.discovery.address());
    a.discovery.stop().await;
    b.discovery.stop().await;
    c.discovery.stop().await;
    let b_again = start(&b.key, network, b_at, home.path(), Vec::new()).await.unwrap();
    assert_eq!(b_again.addresses(c.key.node()), vec![c.data.clone()], "known before anyone is asked");
    // C comes back with another data address, and B learns of it from C itself.
    c.data = data_address(33);
    c.discovery = start(&c.key, network, c_at, home.path(), Vec::new()).await.unwrap();
    c.discovery.announce(vec![c.data.clone()]).await.unwrap();
    find(&b_again, &c).await;
    assert_eq!(b_again.addresses(c.key.node()), vec![c.data.clone()]);
    assert!(b_again.peers().await.contains(&c.key.node()));
    assert_eq!(b_again.listen_addresses().await, vec![b_at]);

    b_again.forget(c.key.node()).await.unwrap();
    assert!(b_again.addresses(c.key.node()).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn networks_do_not_mix() {
    let home = tempfile::tempdir().unwrap();
    let (one, other) = (NetworkKey::generate().network(), NetworkKey::generate().network());
    let a = node(1, one, home.path(), Vec::new()).await;
    let stranger = node(2, other, home.path(), vec![seed_of(&a)]).await;
    let fellow = node(3, one, home.path(), vec![seed_of(&a)]).await;
    find(&a.discovery, &fellow).await;
    assert!(stranger.discovery.lookup(fellow.key.node()).await.is_empty());
    assert!(a.discovery.lookup(stranger.key.node()).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seed_may_come_later_and_a_port_in_use_is_said() {
    let home = tempfile::tempdir().unwrap();
    let network = NetworkKey::generate().network();
    let a = node(1, network, home.path(), Vec::new()).await;
    let b = node(2, network, home.path(), Vec::new()).await;
    assert!(b.discovery.lookup(a.key.node()).await.is_empty());
    b.discovery.seed(seed_of(&a)).await.unwrap();
    find(&b.discovery, &a).await;
    let taken = start(&NodeKey::generate(), network, a.discovery.address(), home.path(), Vec::new()).await;
    match taken.err() {
        Some(DiscoveryError::Listen { address, why }) => {
            assert_eq!(address, a.discovery.address());
            assert!(why.contains("in use"), "{why}");
        }
        other => panic!("{other:?}"),
    }
}
