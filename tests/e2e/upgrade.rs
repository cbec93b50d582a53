//! Nodes of neighbouring versions in one network, and clocks that disagree.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use infinit::daemon::api::VolumeState;
use infinit::daemon::api::doctor::{Checkup, Verdict};
use infinit::daemon::demo::client::NbdError;
use tokio::runtime::Runtime;

use crate::e2e::cluster::{Cluster, PATIENCE, eventually, output_within};
use crate::e2e::growth::{Load, until_copies};
use crate::e2e::ledger::{Ledger, connect_by};

#[test]
fn a_network_is_upgraded_one_node_after_the_other_and_then_can_what_is_new() {
    let mut cluster = Cluster::bare(3);
    cluster.variables = vec![("INFINIT_TEST_VERSION", "0.1.0")];
    cluster.found(&[String::new(), String::new(), String::new()]);
    cluster.run(0, &["volume", "create", "pg", "--size", "1GiB"]);
    cluster.attach(0, "pg");
    let load = Load::begin(&cluster, 0, "pg");
    let set = ["volume", "set", "pg", "--replicas", "1"];
    cluster.refused(0, &set).expect(1, &["older version", "upgrade it"]);
    cluster.variables.clear();
    for node in [1, 2] {
        cluster.stop(node);
        load.goes_on(200);
        cluster.start(node);
        cluster.wait(node);
        until_copies(&cluster, 0, "pg", 3);
        load.goes_on(200);
        cluster.refused(node, &set).expect(1, &["older version"]);
    }
    cluster.run(1, &["volume", "detach", "pg"]);
    let known = load.lost();
    cluster.stop(0);
    cluster.start(0);
    cluster.wait(0);
    cluster.attach(0, "pg");
    known.check(&cluster, 0, "pg");
    let load = Load::go_on(&cluster, 0, "pg", known);
    // It is known to all a moment later.
    assert!(
        eventually(PATIENCE, || output_within(cluster.command(2, &set), PATIENCE).status.success()),
        "it is refused still"
    );
    until_copies(&cluster, 0, "pg", 1);
    load.goes_on(200);
    load.ends(&cluster, 0, 1, "pg");
}

#[test]
fn a_clock_that_is_a_year_off_stops_nothing_and_is_told() {
    let mut cluster = Cluster::bare(3);
    cluster.found(&[String::new(), String::new()]);
    cluster.variables = vec![("INFINIT_TEST_CLOCK_OFFSET", "31536000")];
    let token = {
        // The token is good by the clock of whoever invites.
        let variables = std::mem::take(&mut cluster.variables);
        let token = cluster.run(0, &["network", "invite"]);
        cluster.variables = variables;
        token
    };
    cluster.refused(2, &["network", "join", token.trim()]).expect(6, &["expired", "network invite"]);
    cluster.variables.clear();
    cluster.run(2, &["network", "join", token.trim()]);
    cluster.variables = vec![("INFINIT_TEST_CLOCK_OFFSET", "31536000")];
    cluster.start_with(2, &["--listen", "127.0.0.1:0", "--no-mdns"]);
    cluster.variables.clear();
    cluster.wait(2);
    cluster.run(0, &["volume", "create", "pg", "--size", "1GiB"]);
    cluster.attach(2, "pg");
    let load = Load::begin(&cluster, 2, "pg");
    load.goes_on(500);
    until_copies(&cluster, 2, "pg", 3);
    load.ends(&cluster, 0, 1, "pg");
    let output = cluster.command(0, &["doctor", "--output", "json"]).output().unwrap();
    let checkup: Checkup = serde_json::from_slice(&output.stdout).unwrap();
    let clocks: Vec<_> = checkup.checks.iter().filter(|check| check.name.starts_with("clock")).collect();
    let bad: Vec<_> = clocks.iter().filter(|check| check.verdict == Verdict::Error).collect();
    assert!(bad.len() == 1 && bad[0].finding.contains("ahead"), "{clocks:#?}");
    assert_eq!(output.status.code(), Some(1));
}

const BLOCKS: usize = 256;

/// Writes one block after the other, and again what was not answered when its connection was lost. Returns the longest that
/// one took.
async fn write_on(ledger: Arc<Ledger>, socket: PathBuf, ended: Arc<AtomicBool>) -> Duration {
    let reconnect = async || connect_by(&socket, "pg", Instant::now() + PATIENCE).await.expect("the export is gone");
    let mut client = reconnect().await;
    let mut longest = Duration::ZERO;
    for block in (0..BLOCKS).cycle() {
        if ended.load(Ordering::Relaxed) {
            break;
        }
        let begun = Instant::now();
        while let Err(error) = ledger.put_one(&client, block).await {
            assert_eq!(error, NbdError::Lost, "a write was refused");
            client = reconnect().await;
        }
        longest = longest.max(begun.elapsed());
    }
    longest
}

#[test]
fn all_nodes_are_restarted_one_after_the_other_under_load_without_an_error() {
    let mut cluster = Cluster::new(3);
    cluster.run(0, &["volume", "create", "pg", "--size", "1GiB"]);
    cluster.attach(0, "pg");
    let runtime = Runtime::new().unwrap();
    let (ledger, ended) = (Ledger::new(BLOCKS), Arc::new(AtomicBool::new(false)));
    let load = runtime.spawn(write_on(ledger.clone(), cluster.socket(0, "pg"), ended.clone()));
    let goes_on = || {
        let before = ledger.answered();
        assert!(eventually(PATIENCE, || ledger.answered() >= before + 200), "the load hangs");
    };
    goes_on();
    for node in 0..3 {
        cluster.run(node, &["node", "stop", "--keep-attached"]);
        cluster.ended(node);
        cluster.start(node);
        cluster.run(node, &["node", "wait", "--copies", "--timeout", "60s"]);
        assert_eq!(cluster.volume(0, "pg").state, VolumeState::Healthy);
        goes_on();
    }
    ended.store(true, Ordering::Relaxed);
    let longest = runtime.block_on(load).unwrap();
    eprintln!("the longest write took {longest:?}");
    runtime.block_on(ledger.check(&cluster.socket(0, "pg"), "pg"));
}
