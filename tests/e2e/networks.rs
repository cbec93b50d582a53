//! Several networks in one home, membership that is there already, and leaving.

use infinit::daemon::api::Network;

use crate::e2e::cluster::{Cluster, PATIENCE, output_within, refusal};
use crate::tools::{run, tool};

#[test]
fn networks_of_one_home_are_told_apart() {
    let mut cluster = Cluster::new(2);
    let created = cluster.command(1, &["network", "create", "other"]).output().unwrap();
    let told = String::from_utf8_lossy(&created.stderr).into_owned();
    assert!(created.status.success(), "{told}");
    assert!(told.contains("network prod") && told.contains("node run --network other"), "{told}");
    cluster.refused(1, &["--network", "other", "volume", "list"]).expect(3, &["prod", "other"]);

    cluster.stop(1);
    let start = format!("infinit --home {} node run --network prod", cluster.home(1).display());
    cluster.refused_run(1, &[]).expect(2, &["other, prod", &start]);
    cluster.refused(1, &["volume", "list"]).expect(5, &["node run --network"]);
    cluster.start_with(1, &["--network", "prod"]);
    cluster.wait(1);

    // A network that nobody else ever saw goes without its daemon, beside that of another.
    cluster.refused(1, &["--network", "other", "network", "leave"]).expect(2, &["other", "key", "--yes"]);
    cluster.run(1, &["--network", "other", "network", "leave", "--yes"]);
    let left: Vec<Network> = cluster.ask(1, &["network", "list"]);
    assert_eq!(left.iter().map(|network| network.name.as_str()).collect::<Vec<_>>(), ["prod"]);
    cluster.refused(1, &["--network", "other", "network", "leave", "--yes"]).expect(3, &["other"]);
}

#[test]
fn a_name_in_use_is_not_joined_over_and_a_stopped_node_can_leave() {
    let mut cluster = Cluster::new(2);
    let elsewhere = cluster.folder.path().join("elsewhere");
    let elsewhere = ["--home", elsewhere.to_str().unwrap()];
    cluster.run(0, &[&elsewhere[..], &["network", "create", "prod"]].concat());
    let token = cluster.run(0, &[&elsewhere[..], &["network", "invite"]].concat());
    cluster.refused(1, &["network", "join", token.trim()]).expect(4, &["another network named 'prod'", "--home DIR"]);

    cluster.stop(1);
    cluster.run(1, &["network", "leave", "--yes"]);
    cluster.until(0, "the other has left", |status| status.nodes.len() == 1);
    assert!(!cluster.home(1).join("networks/prod").exists());

    // Who is alone is told how a network ends.
    cluster.stop(0);
    cluster.refused(0, &["network", "leave", "--yes"]).expect(1, &["last member", "networks/prod"]);
}

#[test]
fn a_copied_home_does_not_run_beside_the_first() {
    let mut cluster = Cluster::new(2);
    let copy = cluster.folder.path().join("copy");
    cluster.stop(1);
    run(tool("cp", "coreutils").arg("-a").args([cluster.home(1), &copy]));
    cluster.start(1);
    cluster.wait(1);
    let (home, silo) = (copy.to_str().unwrap(), copy.join("other"));
    let words =
        ["--home", home, "node", "run", "--listen", "127.0.0.2:0", "--no-mdns", "--silo", silo.to_str().unwrap()];
    let output = output_within(cluster.command(1, &words), PATIENCE);
    refusal("the copy".to_owned(), &output).expect(4, &["runs already", "copy", "network join"]);
    cluster.run(1, &["volume", "list"]);
}
