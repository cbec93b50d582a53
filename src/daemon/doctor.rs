//! Looks this machine over, and the way to the others. Changes nothing; what it writes to measure a disk has no name.

use std::path::Path;
use std::time::{Duration, Instant};

use futures::future::join_all;
use rustix::fs::{Mode, OFlags, fdatasync, open, statvfs};
use rustix::io::write;
use rustix::process::{Resource, getrlimit};

use crate::base::clock::wall_ms;
use crate::base::units::Size;
use crate::daemon::api::doctor::{Check, Checkup};
use crate::daemon::api::{Network, Node, NodeState, Silo, SiloState};
use crate::daemon::peers::{Ask, Examined, Peers, Told};

/// How long another node may take to say how it sees this one.
const ANSWER_LIMIT: Duration = Duration::from_millis(1500);
/// A connection a volume and node, files of silos: a node with some hundreds of volumes has so many.
const OPEN_FILES_MIN: u64 = 8192;
/// Writes to remember and caches, for a volume or two.
const MEMORY_MIN: u64 = 512 << 20;
/// The cluster's log and its snapshots.
const HOME_MIN: u64 = 1 << 30;
/// Passports and invitations expire by wall time, to the second; people compare times to the minute.
const CLOCK_OFF_WARNING_MS: u64 = 2_000;
const CLOCK_OFF_ERROR_MS: u64 = 60_000;
/// A database that syncs each transaction feels more than this.
const SYNC_SLOW: Duration = Duration::from_millis(20);
const SYNCS: usize = 9;
/// A disk that takes longer is told so; what was asked of it stays asked.
const SYNC_LIMIT: Duration = Duration::from_secs(3);

/// What concerns this machine alone, with or without a node that runs.
pub fn machine(home: &Path) -> Vec<Check> {
    vec![open_files(), memory(), home_disk(home)]
}

/// The whole of it, by the daemon.
pub async fn examine(home: &Path, network: &Network, nodes: &[Node], peers: &Peers) -> Checkup {
    let mut checks = machine(home);
    checks.push(quorum(network));
    for node in nodes.iter().filter(|node| node.this) {
        for silo in &node.silos {
            checks.push(silo_state(silo));
            if let Some(path) = silo.path.clone().filter(|_| silo.state == SiloState::Up) {
                let measured = tokio::task::spawn_blocking(move || sync_time(&path));
                let measured = tokio::time::timeout(SYNC_LIMIT, measured).await.ok().and_then(|ended| ended.ok());
                checks.push(syncs(silo, measured.unwrap_or_else(|| Err(std::io::ErrorKind::TimedOut.into()))));
            }
        }
    }
    let own = nodes.iter().find(|node| node.this);
    let others = nodes.iter().filter(|node| !node.this);
    let asked = others.map(async |node| (node, ask(peers, node).await));
    for (node, answer) in join_all(asked).await {
        checks.extend(way(node, answer));
        if let (Some(theirs), Some(ours)) = (&node.version, own.and_then(|own| own.version.as_ref())) {
            checks.push(version(node, theirs, ours));
        }
    }
    Checkup { checks }
}

fn open_files() -> Check {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let finding = format!("{limit} are allowed");
    if limit >= OPEN_FILES_MIN {
        return Check::ok("open files", finding);
    }
    Check::warning(
        "open files",
        finding,
        format!("in the unit: LimitNOFILE={OPEN_FILES_MIN}, or in the shell: ulimit -n {OPEN_FILES_MIN}"),
    )
}

fn memory() -> Check {
    let told = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = told
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    match kib.map(|kib| kib << 10) {
        None => Check::warning("memory", "/proc/meminfo does not say how much is available", "mount /proc"),
        Some(bytes) if bytes < MEMORY_MIN => Check::warning(
            "memory",
            format!("{} available", Size(bytes)),
            format!("a node needs {} to work with", Size(MEMORY_MIN)),
        ),
        Some(bytes) => Check::ok("memory", format!("{} available", Size(bytes))),
    }
}

fn home_disk(home: &Path) -> Check {
    match statvfs(home) {
        Err(error) => Check::error(
            "home",
            format!("{}: {}", home.display(), std::io::Error::from(error)),
            "infinit network create NAME",
        ),
        Ok(told) => {
            let free = told.f_bavail * told.f_frsize;
            let finding = format!("{} free at {}", Size(free), home.display());
            match free {
                0..HOME_MIN => {
                    Check::warning("home", finding, "make room there: the cluster's log is kept in the home")
                }
                _ => Check::ok("home", finding),
            }
        }
    }
}

fn quorum(network: &Network) -> Check {
    match &network.cluster {
        Some(cluster) if cluster.quorum => {
            let voters = cluster.voters.len();
            Check::ok(
                "quorum",
                format!("a majority of {voters} {} answers", if voters == 1 { "voter" } else { "voters" }),
            )
        }
        _ => Check::error("quorum", "the cluster has none", "start more of the nodes that vote: infinit node list"),
    }
}

fn silo_state(silo: &Silo) -> Check {
    let name = format!("silo {}", silo.id.short());
    let place = silo.path.as_ref().map_or_else(String::new, |path| format!(" at {}", path.display()));
    if silo.state != SiloState::Up {
        let why = silo.reason.as_ref().map_or_else(String::new, |why| format!(": {why}"));
        return Check::error(name, format!("{}{why}{place}", silo.state), "what mends it: infinit status");
    }
    let Some(space) = &silo.space else { return Check::ok(name, format!("up{place}")) };
    let finding = format!("{} of {} free{place}", Size(space.free_bytes), Size(silo.capacity_bytes));
    let hint = "trim or delete what is not needed, or raise its capacity: infinit node run --silo PATH:CAPACITY";
    match space.full {
        true => Check::error(name, format!("full: {finding}"), hint),
        false if space.free_bytes < silo.capacity_bytes / 10 => Check::warning(name, finding, hint),
        false => Check::ok(name, finding),
    }
}

/// How long a write of 4 KiB and its sync take in a directory: the median of several.
fn sync_time(path: &Path) -> std::io::Result<Duration> {
    let file = open(path, OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR)?;
    let block = [0x5a; 4096];
    let mut took = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        let begun = Instant::now();
        write(&file, &block)?;
        fdatasync(&file)?;
        took.push(begun.elapsed());
    }
    took.sort_unstable();
    Ok(took[SYNCS / 2])
}

fn syncs(silo: &Silo, took: std::io::Result<Duration>) -> Check {
    let name = format!("syncs of {}", silo.id.short());
    match took {
        Err(error) => {
            Check::warning(name, format!("cannot be measured: {error}"), "what the kernel says: journalctl -k")
        }
        Ok(took) => {
            let finding = format!("{:.1} ms for 4KiB", took.as_secs_f64() * 1000.0);
            if took > SYNC_SLOW {
                return Check::warning(
                    name,
                    finding,
                    "a disk that syncs faster makes databases faster: an SSD with power-loss protection",
                );
            }
            Check::ok(name, finding)
        }
    }
}

/// What another node says of this one, and how far its clock is ahead of this one's, in milliseconds.
struct Answer {
    hears_us: bool,
    calls_us: bool,
    ahead_ms: i64,
}

async fn ask(peers: &Peers, node: &Node) -> Option<Answer> {
    if node.state != NodeState::Up {
        return None;
    }
    let (sent, begun) = (wall_ms(), Instant::now());
    match peers.ask(node.id, &Ask::Examine, ANSWER_LIMIT).await {
        Ok(Told::Examined(Examined { wall_ms, hears_you, calls_you })) => {
            let middle = sent + begun.elapsed().as_millis() as u64 / 2;
            let ahead_ms = (wall_ms as i64).saturating_sub(middle as i64);
            Some(Answer { hears_us: hears_you, calls_us: calls_you, ahead_ms })
        }
        Ok(_) | Err(_) => None,
    }
}

fn way(node: &Node, answer: Option<Answer>) -> Vec<Check> {
    let name = format!("node {}", node.name);
    let there = node.addresses.first().map_or_else(String::new, |address| format!(" at {address}"));
    match (node.state, answer) {
        (NodeState::Joining, _) => {
            vec![Check::warning(name, "has joined and was never heard", "on that machine: infinit node run")]
        }
        (NodeState::Down | NodeState::Unknown, _) => {
            let hint = "is it running, and does a firewall let its port through? on that machine: infinit node show";
            vec![Check::error(name, format!("is not reached{there}"), hint)]
        }
        (NodeState::Up, None) => {
            vec![Check::warning(name, "is reached, and does not say how it sees this node", "upgrade it")]
        }
        (NodeState::Up, Some(answer)) => {
            let both = if answer.hears_us && answer.calls_us {
                let finding = format!("is reached{there}, and has this node dial back: it cannot dial it");
                Check::ok(name.clone(), finding)
            } else if answer.hears_us {
                Check::ok(name.clone(), format!("is reached{there}, and reaches this node"))
            } else {
                let hint =
                    "let this node's port through, or say where it is reached: infinit node run --advertise HOST:PORT";
                Check::error(name.clone(), format!("is reached{there}, and does not reach this node"), hint)
            };
            vec![both, clock(node, answer.ahead_ms)]
        }
    }
}

fn clock(node: &Node, ahead_ms: i64) -> Check {
    let name = format!("clock of {}", node.name);
    let off = ahead_ms.unsigned_abs();
    let finding = match ahead_ms {
        _ if off < 1000 => "agrees with this machine's".to_owned(),
        1.. => format!("is {} s ahead of this machine's", off / 1000),
        _ => format!("is {} s behind this machine's", off / 1000),
    };
    let hint = "set both by the network: timedatectl set-ntp true";
    match off {
        0..CLOCK_OFF_WARNING_MS => Check::ok(name, finding),
        CLOCK_OFF_WARNING_MS..CLOCK_OFF_ERROR_MS => Check::warning(name, finding, hint),
        _ => Check::error(name, finding, hint),
    }
}

fn version(node: &Node, theirs: &str, ours: &str) -> Check {
    let name = format!("version of {}", node.name);
    if theirs == ours {
        return Check::ok(name, theirs);
    }
    Check::warning(name, format!("{theirs}, and this node runs {ours}"), "run the same version on all nodes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::api::doctor::Verdict;

    #[test]
    fn this_machine_is_looked_over() {
        let folder = tempfile::tempdir().unwrap();
        let names: Vec<String> = machine(folder.path()).into_iter().map(|check| check.name).collect();
        assert_eq!(names, ["open files", "memory", "home"]);
        let gone = folder.path().join("gone");
        let home = machine(&gone).pop().unwrap();
        assert_eq!(home.verdict, Verdict::Error);
        assert!(home.finding.contains("gone") && home.hint.is_some(), "{home:?}");
        assert!(sync_time(&gone).is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "it left something behind");
    }
}
