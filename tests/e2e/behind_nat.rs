//! Nodes behind routers that translate addresses: they only dial out, and take part all the same.

use infinit::daemon::api::VolumeState;
use infinit::daemon::api::doctor::Checkup;

use crate::e2e::cluster::Cluster;
use crate::e2e::growth::{Load, until_copies};
use crate::e2e::namespace::Switch;

#[test]
fn nodes_that_only_dial_out_hold_copies_and_write_to_one_another() {
    let mut switch = Switch::new(3);
    switch.hide(1);
    switch.hide(2);
    let mut cluster = Cluster::switched(&switch);
    let told: Checkup = cluster.ask(1, &["doctor"]);
    assert!(told.checks.iter().any(|check| check.finding.contains("has this node dial back")), "{told:?}");

    cluster.run(0, &["volume", "create", "pg", "--size", "1GiB"]);
    // The one that all reach calls the others.
    cluster.attach(0, "pg");
    let load = Load::begin(&cluster, 0, "pg");
    load.goes_on(500);
    until_copies(&cluster, 0, "pg", 3);
    cluster.run(0, &["volume", "detach", "pg"]);
    let known = load.lost();

    // One that nobody can dial reaches another through the one that both can.
    cluster.attach(1, "pg");
    known.check(&cluster, 1, "pg");
    let load = Load::go_on(&cluster, 1, "pg", known);
    load.goes_on(500);
    until_copies(&cluster, 1, "pg", 3);
    // Which is gone, and comes back.
    cluster.kill(&[0]);
    cluster.until_volume(1, "pg", VolumeState::Suspended);
    cluster.start(0);
    load.goes_on(500);
    until_copies(&cluster, 1, "pg", 3);
    // So does the other.
    cluster.kill(&[2]);
    load.goes_on(500);
    cluster.start(2);
    cluster.wait(2);
    until_copies(&cluster, 1, "pg", 3);
    load.ends(&cluster, 1, 2, "pg");
}
