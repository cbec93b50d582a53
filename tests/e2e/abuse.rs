//! Wrong requests by the thousand at the export of a replicated volume: as against the memory device, and the copies are
//! whole afterwards.

use infinit::daemon::api::{NodeState, VolumeState};

use crate::e2e::cluster::Cluster;
use crate::nbd::abuse::{self, Target};

#[test]
fn an_abused_volume_serves_on() {
    let cluster = Cluster::new(3);
    cluster.run(0, &["volume", "create", "pg", "--size", "1GiB"]);
    let attached = cluster.attach(1, "pg");
    let target = Target {
        socket: cluster.socket(1, "pg"),
        uri: attached.nbd_uri.expect("an attached volume has an export"),
        export: "pg".to_owned(),
    };
    abuse::abuse(&target, abuse::rounds(), 7);
    cluster.until_volume(1, "pg", VolumeState::Healthy);
    let status = cluster.status(2);
    assert!(status.nodes.iter().all(|node| node.state == NodeState::Up), "{status:#?}");
    // What is left of it can be let go and had elsewhere, at once.
    cluster.run(0, &["volume", "attach", "pg", "--takeover"]);
    cluster.until_volume(0, "pg", VolumeState::Healthy);
}
