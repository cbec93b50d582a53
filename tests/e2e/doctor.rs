//! `infinit doctor` on a cluster that is well, on one that is not, and without a node.

use infinit::daemon::api::doctor::{Checkup, Verdict};

use crate::e2e::cluster::Cluster;

/// What it finds, and whether it ends well.
fn examine(cluster: &Cluster, node: usize) -> (Checkup, bool) {
    let output = cluster.command(node, &["doctor", "--output", "json"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    (serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")), output.status.success())
}

fn verdict(checkup: &Checkup, name: &str) -> Verdict {
    let found = checkup.checks.iter().find(|check| check.name.starts_with(name));
    found.unwrap_or_else(|| panic!("nothing is said of {name}: {checkup:#?}")).verdict
}

#[test]
fn what_is_wrong_is_told_with_what_to_do() {
    let mut cluster = Cluster::new(3);
    let (checkup, well) = examine(&cluster, 0);
    assert!(well && checkup.worst() < Verdict::Error, "{checkup:#?}");
    for name in ["home", "memory", "quorum", "silo", "node", "clock", "version"] {
        assert_eq!(verdict(&checkup, name), Verdict::Ok, "{name}: {checkup:#?}");
    }
    assert_eq!(checkup.checks.iter().filter(|check| check.name.starts_with("node ")).count(), 2);
    let text = cluster.run(0, &["doctor"]);
    assert!(text.lines().skip(1).all(|line| line.starts_with("OK") || line.starts_with("WARNING")), "{text}");

    cluster.kill(&[2]);
    cluster.until(0, "it is down", |status| {
        status.nodes.iter().any(|node| node.state == infinit::daemon::api::NodeState::Down)
    });
    let (checkup, well) = examine(&cluster, 0);
    let errors: Vec<_> = checkup.checks.iter().filter(|check| check.verdict == Verdict::Error).collect();
    assert!(!well && errors.len() == 1 && errors[0].name.starts_with("node "), "{checkup:#?}");
    assert!(errors[0].hint.is_some());

    let (checkup, well) = examine(&cluster, 2);
    assert!(!well);
    assert_eq!(verdict(&checkup, "node"), Verdict::Error);
    assert_eq!(verdict(&checkup, "home"), Verdict::Ok);
}
