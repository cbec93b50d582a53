//! Host names where addresses may stand.

use std::time::{Duration, Instant};

use crate::e2e::cluster::Cluster;

#[test]
fn a_node_listens_at_a_name_and_is_reached_by_one() {
    let mut cluster = Cluster::bare(2);
    cluster.run(0, &["network", "create", "prod"]);
    cluster.start_with(0, &["--listen", "localhost:0", "--advertise", "localhost:0", "--no-mdns"]);
    cluster.wait(0);
    // Who joins is told the name, and so is everybody else.
    let token = cluster.run(0, &["network", "invite"]);
    cluster.run(1, &["network", "join", token.trim()]);
    cluster.start_with(1, &["--listen", "127.0.0.1:0", "--no-mdns"]);
    cluster.wait(1);
    let named = |cluster: &Cluster| {
        let status = cluster.status(1);
        let other = status.nodes.into_iter().find(|node| !node.this).unwrap();
        other.addresses
    };
    let addresses = named(&cluster);
    assert!(addresses.len() == 1 && addresses[0].starts_with("localhost:"), "{addresses:?}");
    // Both are remembered as they were given, with the port that was picked.
    cluster.stop(0);
    cluster.start(0);
    cluster.wait(0);
    cluster.wait(1);
    assert_eq!(named(&cluster), addresses);
}

#[test]
fn a_name_that_does_not_exist_is_refused_soon() {
    let cluster = Cluster::bare(1);
    cluster.run(0, &["network", "create", "prod"]);
    for flag in ["--listen", "--advertise"] {
        let begun = Instant::now();
        // A name that nobody will ever have: RFC 6761, section 6.4.
        let refused = cluster.refused_run(0, &[flag, "no-such-host.invalid:7420"]);
        refused.expect(3, &["no-such-host.invalid", "/etc/hosts", flag]);
        assert!(begun.elapsed() < Duration::from_secs(6), "it took {:?}", begun.elapsed());
    }
}
