//! Nodes of one local network find each other by multicast alone, when every address they remember is of no use.

use std::time::Duration;

use infinit::daemon::api::NodeState;

use crate::e2e::cluster::Cluster;
use crate::e2e::namespace::Namespace;

/// Far longer than it takes to be found where mDNS is on.
const NOT_FOUND_LIMIT: &str = "6s";
/// What a person would wait for.
const FOUND_LIMIT: Duration = Duration::from_secs(30);

#[test]
fn machines_whose_addresses_all_changed_find_each_other_by_mdns() {
    assert!(rustix::process::geteuid().is_root(), "network namespaces are made by root alone: run the tests as root");
    let machines = [Namespace::new(), Namespace::new()];
    machines[0].wire(&machines[1]);
    machines[0].address("192.0.2.1/24");
    machines[1].address("192.0.2.2/24");
    let mut cluster = Cluster::within(&machines);
    let run = ["--listen", "0.0.0.0:7420", "--no-mdns"];
    cluster.run(0, &["network", "create", "prod"]);
    cluster.start_with(0, &run);
    cluster.wait(0);
    let token = cluster.run(0, &["network", "invite"]);
    cluster.run(1, &["network", "join", token.trim()]);
    cluster.start_with(1, &run);
    cluster.wait(1);
    cluster.until(1, "both are up", |status| status.nodes.iter().all(|node| node.state == NodeState::Up));

    for node in 0..2 {
        cluster.stop(node);
    }
    machines[0].address("198.51.100.1/24");
    machines[1].address("198.51.100.2/24");
    for node in 0..2 {
        cluster.start_with(node, &["--no-mdns"]);
    }
    // The first is all the voters there are; the second knows addresses that lead nowhere.
    cluster.wait(0);
    cluster.refused(1, &["node", "wait", "--timeout", NOT_FOUND_LIMIT]).expect(7, &["not ready"]);

    for node in 0..2 {
        cluster.stop(node);
        cluster.start(node);
    }
    cluster.wait(1);
    let took = cluster.until(1, "both are up where they are now", |status| {
        status.nodes.iter().all(|node| {
            node.state == NodeState::Up && node.addresses.iter().any(|address| address.starts_with("198.51.100."))
        })
    });
    assert!(took < FOUND_LIMIT, "it took {took:?}");
}
