//! A cluster of real processes: started, asked, killed, frozen, started again, and gone with the test.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use infinit::base::error::Fault;
use infinit::daemon::api::{Attachment, Invitation, NodeState, Role, SiloState, Status, Volume, VolumeState};
use rustix::process::{Pid, Signal, kill_process};
use serde::de::DeserializeOwned;

use crate::e2e::namespace::{Namespace, Switch};

/// The binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_infinit");
/// How long whatever is waited for may take: far beyond what is promised, which is measured apart.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How long a command may take that is to end by itself.
const COMMAND_MAX: Duration = Duration::from_secs(120);
/// Between two questions whether something has come about: real processes announce nothing to a test.
const PAUSE: Duration = Duration::from_millis(25);
/// The last lines of each log that a failed test shows.
const LOG_LINES: usize = 25;

/// One cluster at a time: the tests measure times.
static TURN: Mutex<()> = Mutex::new(());

pub struct Cluster {
    nodes: Vec<Node>,
    pub folder: tempfile::TempDir,
    /// Variables that every command and node gets.
    pub variables: Vec<(&'static str, &'static str)>,
    _turn: MutexGuard<'static, ()>,
}

struct Node {
    home: PathBuf,
    /// The words before every command, if it lives in a network of its own.
    enter: Vec<String>,
    process: Option<Child>,
}

/// How the command line refused.
#[derive(Debug)]
pub struct Refused {
    pub call: String,
    pub code: i32,
    pub fault: Fault,
}

impl Cluster {
    /// Homes without anything, and nothing running.
    pub fn bare(nodes: usize) -> Cluster {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = tempfile::Builder::new().prefix("inf").tempdir().unwrap();
        let home = |node: usize| folder.path().join(format!("{node}"));
        let nodes = (0..nodes).map(|node| Node { home: home(node), enter: Vec::new(), process: None });
        Cluster { nodes: nodes.collect(), folder, variables: Vec::new(), _turn: turn }
    }

    /// As [`Self::bare`], each node in a network of its own.
    pub fn within(machines: &[Namespace]) -> Cluster {
        let mut cluster = Cluster::bare(machines.len());
        for (node, machine) in cluster.nodes.iter_mut().zip(machines) {
            node.enter = machine.enter();
        }
        cluster
    }

    /// Nodes that run, know one another, and have a silo each, by the commands that a user types.
    pub fn new(nodes: usize) -> Cluster {
        let mut cluster = Cluster::bare(nodes);
        cluster.found(&vec![String::new(); nodes]);
        cluster
    }

    /// As [`Self::new`], each node with the silo that is named for it, `PATH` or `PATH:CAPACITY`.
    pub fn with_silos(silos: &[String]) -> Cluster {
        let mut cluster = Cluster::bare(silos.len());
        cluster.found(silos);
        cluster
    }

    /// Makes a bare cluster one that runs; a node whose silo has no name has one in its home.
    pub fn found(&mut self, silos: &[String]) {
        let (cluster, nodes) = (self, silos.len());
        for (node, silo) in silos.iter().enumerate() {
            if node == 0 {
                cluster.run(0, &["network", "create", "prod"]);
                let options = ["--listen", "127.0.0.1:0", "--no-mdns", "--silo", silo];
                cluster.start_with(0, &options[..if silo.is_empty() { 3 } else { 5 }]);
                cluster.wait(0);
            } else {
                let options = ["--silo", silo];
                cluster.add(node, &options[..if silo.is_empty() { 0 } else { 2 }]);
            }
        }
        let voters = voters(nodes);
        for node in 0..nodes {
            cluster.until(node, "all nodes are up with their silos and votes", |status| {
                let up = status.nodes.iter().filter(|n| n.state == NodeState::Up && n.silos.iter().any(is_up)).count();
                up == nodes && status.network.cluster.as_ref().is_some_and(|c| c.voters.len() == voters)
            });
        }
    }

    /// Nodes on a switch, that run and know one another.
    pub fn switched(switch: &Switch) -> Cluster {
        let mut cluster = Cluster::within(&switch.machines);
        let nodes = switch.machines.len();
        for node in 0..nodes {
            if node == 0 {
                cluster.run(0, &["network", "create", "prod"]);
            } else {
                let token = cluster.run(0, &["network", "invite"]);
                cluster.run(node, &["network", "join", token.trim()]);
            }
            cluster.start_with(node, &["--listen", &switch.listen(node), "--no-mdns"]);
            cluster.wait(node);
        }
        for node in 0..nodes {
            cluster.until(node, "all nodes are up and vote", |status| {
                let up = status.nodes.iter().filter(|node| node.state == NodeState::Up).count();
                up == nodes && status.network.cluster.as_ref().is_some_and(|c| c.voters.len() == voters(nodes))
            });
        }
        cluster
    }

    /// Has a node join that has nothing yet, and returns once it is ready.
    pub fn add(&mut self, node: usize, options: &[&str]) {
        let token = self.run(0, &["network", "invite"]);
        self.run(node, &["network", "join", token.trim()]);
        self.start_with(node, &[&["--listen", "127.0.0.1:0", "--no-mdns"], options].concat());
        self.wait(node);
        let stores = !options.contains(&"witness");
        self.until(node, "it is all there", |status| {
            let this = status.nodes.iter().find(|node| node.this);
            this.is_some_and(|this| match stores {
                true => this.silos.iter().any(is_up),
                false => this.role == Role::Witness && this.silos.is_empty(),
            })
        });
    }

    /// The id of a node: on one machine all have the same name.
    pub fn id(&self, node: usize) -> String {
        let this: infinit::daemon::api::Node = self.ask(node, &["node", "show"]);
        this.id.to_string()
    }

    pub fn home(&self, node: usize) -> &Path {
        &self.nodes[node].home
    }

    /// The NBD socket of a volume attached there.
    pub fn socket(&self, node: usize, volume: &str) -> PathBuf {
        self.home(node).join("nbd").join(format!("{volume}.sock"))
    }

    pub fn log(&self, node: usize) -> String {
        std::fs::read_to_string(self.log_path(node)).unwrap_or_default()
    }

    /// Starts a node as it was started last.
    pub fn start(&mut self, node: usize) {
        self.start_with(node, &[]);
    }

    pub fn start_with(&mut self, node: usize, options: &[&str]) {
        assert!(self.nodes[node].process.is_none(), "node {node} runs already");
        let log = OpenOptions::new().create(true).append(true).open(self.log_path(node)).unwrap();
        let mut command = self.command(node, &["node", "run"]);
        let process = command.args(options).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        self.nodes[node].process = Some(process);
    }

    /// Returns once the node says that it is ready.
    pub fn wait(&self, node: usize) {
        self.run(node, &["node", "wait", "--timeout", "60s"]);
    }

    /// SIGKILL to all of them at once; returns once they are gone.
    pub fn kill(&mut self, nodes: &[usize]) {
        for node in nodes {
            self.signal(*node, Signal::KILL);
        }
        for node in nodes {
            let status = self.nodes[*node].process.take().unwrap().wait().unwrap();
            assert!(!status.success(), "node {node} ended by itself before it was killed");
        }
    }

    /// SIGTERM; returns once the node has ended, well.
    pub fn stop(&mut self, node: usize) {
        self.signal(node, Signal::TERM);
        self.ended(node);
    }

    /// Waits for a node that was told to stop.
    pub fn ended(&mut self, node: usize) {
        let mut process = self.nodes[node].process.take().unwrap();
        let mut status = None;
        let ended = eventually(PATIENCE, || {
            status = process.try_wait().unwrap();
            status.is_some()
        });
        if !ended {
            process.kill().unwrap();
            process.wait().unwrap();
            panic!("node {node} did not stop");
        }
        assert!(status.is_some_and(|status| status.success()), "node {node} did not end well: {status:?}");
    }

    pub fn freeze(&self, node: usize) {
        self.signal(node, Signal::STOP);
    }

    pub fn thaw(&self, node: usize) {
        self.signal(node, Signal::CONT);
    }

    fn signal(&self, node: usize, signal: Signal) {
        kill_process(self.pid(node), signal).unwrap();
    }

    fn pid(&self, node: usize) -> Pid {
        let process = self.nodes[node].process.as_ref().unwrap_or_else(|| panic!("node {node} does not run"));
        Pid::from_raw(process.id().cast_signed()).unwrap()
    }

    /// The command line with this node's home.
    pub fn command(&self, node: usize, words: &[&str]) -> Command {
        let mut command = match self.nodes[node].enter.split_first() {
            None => Command::new(BINARY),
            Some((program, options)) => {
                let mut command = Command::new(program);
                command.args(options).arg(BINARY);
                command
            }
        };
        command.env_remove("INFINIT_LOG").env("INFINIT_HOME", self.home(node)).env("NO_COLOR", "1");
        command.args(words).stdin(Stdio::null()).envs(self.variables.iter().copied());
        command
    }

    /// Runs a command that must succeed; returns what it printed for scripts.
    pub fn run(&self, node: usize, words: &[&str]) -> String {
        let output = output_within(self.command(node, words), COMMAND_MAX);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {}: {errors}", call(node, words), output.status);
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command that must succeed; returns its JSON.
    pub fn ask<T: DeserializeOwned>(&self, node: usize, words: &[&str]) -> T {
        let text = self.run(node, &[words, &["--output", "json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}: {text}", call(node, words)))
    }

    /// Runs a command that must be refused, in one line with a hint for people and as JSON for scripts.
    pub fn refused(&self, node: usize, words: &[&str]) -> Refused {
        let output = output_within(self.command(node, &[words, &["--output", "json"]].concat()), COMMAND_MAX);
        refusal(call(node, words), &output)
    }

    /// As [`Self::refused`] by a second process that must not become the node's daemon.
    pub fn refused_run(&self, node: usize, options: &[&str]) -> Refused {
        let output = output_within(self.command(node, &[&["node", "run"], options].concat()), PATIENCE);
        refusal(call(node, &["node", "run"]), &output)
    }

    pub fn status(&self, node: usize) -> Status {
        self.ask(node, &["status"])
    }

    pub fn volume(&self, node: usize, name: &str) -> Volume {
        let status = self.status(node);
        let found = status.volumes.into_iter().find(|volume| volume.name == name);
        found.unwrap_or_else(|| panic!("node {node} knows no volume {name}"))
    }

    /// Asks for the status until it is as it should be, and returns how long that took.
    pub fn until(&self, node: usize, what: &str, mut as_meant: impl FnMut(&Status) -> bool) -> Duration {
        let begun = Instant::now();
        let mut last = None;
        let came = eventually(PATIENCE, || {
            let status = self.status(node);
            let good = as_meant(&status);
            last = Some(status);
            good
        });
        assert!(came, "node {node} never saw that {what}; at last it said: {last:#?}");
        begun.elapsed()
    }

    pub fn until_volume(&self, node: usize, name: &str, state: VolumeState) -> Duration {
        self.until(node, &format!("volume {name} is {state}"), |status| {
            status.volumes.iter().any(|volume| volume.name == name && volume.state == state)
        })
    }

    pub fn attach(&self, node: usize, volume: &str) -> Attachment {
        self.ask(node, &["volume", "attach", volume])
    }

    pub fn invite(&self, node: usize, options: &[&str]) -> Invitation {
        self.ask(node, &[&["network", "invite"], options].concat())
    }

    fn log_path(&self, node: usize) -> PathBuf {
        self.folder.path().join(format!("{node}.log"))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            if let Some(process) = &mut node.process {
                // It may have ended already.
                let _ = process.kill();
                let _ = process.wait();
            }
        }
        if std::thread::panicking() {
            for node in 0..self.nodes.len() {
                let log = self.log(node);
                let skipped = log.lines().count().saturating_sub(LOG_LINES);
                let tail: Vec<&str> = log.lines().skip(skipped).collect();
                eprintln!("--- the log of node {node} ends\n{}", tail.join("\n"));
            }
        }
    }
}

impl Refused {
    /// Checks the exit code, words of the message, and that a hint follows.
    #[track_caller]
    pub fn expect(&self, code: i32, words: &[&str]) -> &Self {
        let Refused { call, fault, .. } = self;
        assert_eq!(self.code, code, "{call}: {fault:?}");
        assert_eq!(i32::from(fault.kind.exit_code()), code, "{call}: {fault:?}");
        assert_eq!(fault.message.lines().count(), 1, "{call}: {fault:?}");
        assert!(fault.hint.as_ref().is_some_and(|hint| hint.lines().count() == 1), "{call}: {fault:?}");
        let text = format!("{} {}", fault.message, fault.hint.as_deref().unwrap_or_default());
        for word in words {
            assert!(text.contains(word), "{call}: '{word}' is missing from: {text}");
        }
        self
    }
}

pub fn refusal(call: String, output: &std::process::Output) -> Refused {
    let errors = String::from_utf8_lossy(&output.stderr);
    let code = output.status.code().unwrap_or_else(|| panic!("{call}: {}: {errors}", output.status));
    assert_ne!(code, 0, "{call} was not refused");
    assert!(output.stdout.is_empty(), "{call} printed {}", String::from_utf8_lossy(&output.stdout));
    let last = errors.lines().last().unwrap_or_default();
    let fault = serde_json::from_str(last).or_else(|_| {
        // A daemon logs before; then people read the error and its hint.
        let line = |prefix: &str| errors.lines().find_map(|line| line.strip_prefix(prefix).map(str::to_owned));
        let kind = (1..=7).map(kind_of).find(|kind| i32::from(kind.exit_code()) == code);
        match (kind, line("error: ")) {
            (Some(kind), Some(message)) => Ok(Fault { kind, message, hint: line("hint: ") }),
            _ => Err(()),
        }
    });
    let fault = fault.unwrap_or_else(|()| panic!("{call} ended with {code} and said no error: {errors}"));
    Refused { call, code, fault }
}

fn kind_of(code: u8) -> infinit::base::error::Kind {
    use infinit::base::error::Kind;
    match code {
        2 => Kind::Usage,
        3 => Kind::NotFound,
        4 => Kind::Conflict,
        5 => Kind::Unreachable,
        6 => Kind::Refused,
        7 => Kind::TimedOut,
        _ => Kind::Failed,
    }
}

/// Runs a command that should end soon, and ends it if it does not.
pub fn output_within(mut command: Command, limit: Duration) -> std::process::Output {
    let process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = Pid::from_child(&process);
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(process.wait_with_output().unwrap()));
    receiver.recv_timeout(limit).unwrap_or_else(|_| {
        // It may have ended this moment.
        let _ = kill_process(pid, Signal::KILL);
        let errors = receiver.recv().unwrap().stderr;
        panic!("{command:?} still ran after {limit:?}: {}", String::from_utf8_lossy(&errors));
    })
}

/// Asks until the answer is yes or the time is over, and says which.
pub fn eventually(limit: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if is_so() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(PAUSE);
    }
}

/// How many of so many nodes vote.
pub fn voters(nodes: usize) -> usize {
    match nodes {
        0..=2 => 1,
        3..=4 => 3,
        _ => 5,
    }
}

fn is_up(silo: &infinit::daemon::api::Silo) -> bool {
    silo.state == SiloState::Up
}

fn call(node: usize, words: &[&str]) -> String {
    format!("node {node}: infinit {}", words.join(" "))
}
