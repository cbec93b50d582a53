//! `infinit demo` itself.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::e2e::cluster::{BINARY, Cluster, PATIENCE, eventually, output_within};

/// The demonstration in a folder of its own, where what it leaves behind is seen.
fn demo(folder: &Path, options: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.env("TMPDIR", folder).env_remove("INFINIT_LOG").args(["demo", "--output", "json"]).args(options);
    command.stdin(Stdio::null());
    command
}

fn left_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn the_demonstration_loses_nothing_and_leaves_nothing() {
    let turn = Cluster::bare(0);
    let begun = Instant::now();
    let output = output_within(demo(turn.folder.path(), &[]), 3 * PATIENCE);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let proof: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(proof["writes_lost"], 0, "{proof}");
    assert_eq!(proof["writes_verified"], proof["writes_answered"], "{proof}");
    assert_eq!(proof["bytes_written"], 256 << 20, "{proof}");
    assert!(proof["stall_ms"].as_u64().is_some_and(|ms| ms < 1000), "{proof}");
    assert!(begun.elapsed() < Duration::from_secs(60), "it took {:?}", begun.elapsed());
    assert!(left_in(turn.folder.path()).is_empty());
}

#[test]
fn a_demonstration_that_is_interrupted_cleans_up() {
    let turn = Cluster::bare(0);
    let mut process = demo(turn.folder.path(), &[]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let homes = || left_in(turn.folder.path()).into_iter().map(|name| turn.folder.path().join(name));
    // The second node's log is there once its process is.
    let begun = eventually(PATIENCE, || homes().any(|home| home.join("b.log").exists()));
    let pids: Vec<i32> = homes().flat_map(|home| processes_with(&home)).collect();
    kill_process(Pid::from_raw(process.id().cast_signed()).unwrap(), Signal::INT).unwrap();
    let ended = eventually(PATIENCE, || process.try_wait().unwrap().is_some());
    if !ended {
        process.kill().unwrap();
    }
    let output = process.wait_with_output().unwrap();
    assert!(begun && ended, "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("interrupted"));
    assert!(left_in(turn.folder.path()).is_empty());
    assert!(pids.len() >= 2, "the nodes were not found: {pids:?}");
    assert!(pids.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists()), "{pids:?} still run");
}

#[test]
fn a_demonstration_that_is_kept_runs_on_and_says_how_to_end_it() {
    let turn = Cluster::bare(0);
    let output = output_within(demo(turn.folder.path(), &["--keep"]), 3 * PATIENCE);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let proof: Value = serde_json::from_slice(&output.stdout).unwrap();
    let kept = Path::new(proof["kept"].as_str().unwrap()).to_owned();
    let next: Vec<&str> = proof["next"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    let (last, others) = next.split_last().unwrap();
    let shell = |line: &str| {
        let output = Command::new("sh").args(["-c", line]).stdin(Stdio::null()).output().unwrap();
        (output.status.success(), format!("{line}: {}", String::from_utf8_lossy(&output.stderr)))
    };
    let tried: Vec<(bool, String)> = others.iter().map(|line| shell(line)).collect();
    let pids = processes_with(&kept);
    let ended = shell(last.strip_prefix("to end it: ").unwrap());
    assert!(tried.iter().all(|(good, _)| *good), "{tried:?}");
    assert!(ended.0, "{}", ended.1);
    assert_eq!(pids.len(), 3);
    assert!(left_in(turn.folder.path()).is_empty());
    assert!(eventually(PATIENCE, || pids.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists())));
}

/// The processes whose command line names a path below this one.
fn processes_with(path: &Path) -> Vec<i32> {
    let path = path.to_str().unwrap();
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        words.iter().any(|word| word.starts_with(path.as_bytes())) && words.contains(&b"run".as_slice())
    })
    .collect()
}
