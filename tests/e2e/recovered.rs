//! A network whose voters are lost for good goes on with what one node knows, if a person says so.

use std::time::Duration;

use infinit::daemon::api::NodeState;

use crate::e2e::cluster::Cluster;
use crate::e2e::growth::{Load, until_voters};

#[test]
fn a_network_that_lost_its_voters_goes_on_with_what_one_node_knows() {
    let mut cluster = Cluster::bare(3);
    cluster.found(&[String::new()]);
    // Its only copy lies on the node that will be left.
    cluster.run(0, &["volume", "create", "pg", "--size", "1GiB", "--replicas", "1"]);
    cluster.attach(0, "pg");
    let load = Load::begin(&cluster, 0, "pg");
    load.goes_on(500);
    cluster.run(0, &["volume", "detach", "pg"]);
    let known = load.lost();
    cluster.add(1, &[]);
    cluster.add(2, &[]);
    until_voters(&cluster, 0, 3);

    // While it works, and while the daemon runs, nothing is recovered.
    cluster.refused(0, &["network", "recover", "--yes"]).expect(4, &["another daemon", "node stop"]);
    cluster.stop(0);
    cluster.refused(0, &["network", "recover", "--yes"]).expect(4, &["has a quorum", "node run"]);
    cluster.refused(0, &["network", "recover", "--follow", "--yes"]).expect(6, &["recovered", "node run"]);

    // It knows all that the others do when they are lost.
    let other = cluster.id(2);
    cluster.start(0);
    cluster.wait(0);
    cluster.until(0, "all are up", |status| status.nodes.iter().all(|node| node.state == NodeState::Up));
    cluster.kill(&[1, 2]);
    cluster.stop(0);
    // Nobody is asked without a terminal.
    cluster.refused(0, &["network", "recover"]).expect(2, &["recovering network prod", "--yes"]);
    let said = cluster.run(0, &["network", "recover", "--yes", "--output", "json"]);
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&said["nodes"], &said["volumes"], &said["generation"]), (&3.into(), &1.into(), &0.into()), "{said}");
    assert!(said["kept"].as_str().is_some_and(|kept| std::path::Path::new(kept).exists()), "{said}");

    cluster.start(0);
    cluster.wait(0);
    cluster.attach(0, "pg");
    known.check(&cluster, 0, "pg");
    cluster.run(0, &["volume", "create", "new", "--size", "1GiB", "--replicas", "1"]);

    // One of them comes back after all, and is told; the other is given up.
    cluster.start(1);
    cluster.wait(1);
    cluster.until(1, "the other is told", |status| status.volumes.iter().any(|volume| volume.name == "new"));
    cluster.until(0, "the third is down", |status| {
        status.nodes.iter().any(|node| node.id.to_string() == other && node.state == NodeState::Down)
    });
    // It may have the only copy of this one.
    cluster.run(0, &["volume", "delete", "new", "--yes"]);
    cluster.run(0, &["node", "remove", &other, "--dead", "--yes"]);
    let gone = cluster.until(0, "the third is gone", |status| status.nodes.len() == 2);
    assert!(gone < Duration::from_secs(30), "{gone:?}");
}
