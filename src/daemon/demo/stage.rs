//! The three nodes of the demonstration: real processes of the running executable, each with a home in a temporary
//! directory, driven by the same command line as everybody's.
//!
//! Whatever happens, dropping the stage ends the processes and removes the directory, unless it was told to leave them.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::base::error::{Fault, Result};

/// The nodes' names, which are also those of their homes.
pub const NODES: [&str; 3] = ["a", "b", "c"];
/// A longer path would leave no room for the sockets in the homes.
const TEMPORARY_PATH_BYTES_MAX: usize = 60;
/// How long a command may take beyond what it is told itself.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

pub struct Stage {
    executable: PathBuf,
    directory: PathBuf,
    processes: [Option<Child>; NODES.len()],
    left: bool,
}

impl Stage {
    /// An empty directory for the homes; nothing runs yet.
    pub fn set() -> Result<Stage> {
        let executable = std::env::current_exe()
            .map_err(|error| Fault::failed(format!("cannot find the running executable: {error}")))?;
        let mut parent = std::env::temp_dir();
        if !parent.is_absolute() || parent.as_os_str().len() > TEMPORARY_PATH_BYTES_MAX {
            parent = PathBuf::from("/tmp");
        }
        let directory = parent.join(format!("infinit-demo-{:08x}", rand::random::<u32>()));
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&directory)
            .map_err(|error| Fault::io("create", &directory, &error))?;
        Ok(Stage { executable, directory, processes: Default::default(), left: false })
    }

    pub fn executable(&self) -> &Path {
        &self.executable
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn home(&self, node: usize) -> PathBuf {
        self.directory.join(NODES[node])
    }

    /// Starts a node. After its first start it needs no options.
    pub fn start(&mut self, node: usize, options: &[&str]) -> Result<()> {
        let path = self.log_path(node);
        let log: File = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(|error| Fault::io("open", &path, &error))?;
        let child = Command::new(&self.executable)
            .arg("--home")
            .arg(self.home(node))
            .args(["--no-color", "node", "run"])
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            // An interrupt from the terminal is the demonstration's, which then ends its nodes itself.
            .process_group(0)
            .spawn()
            .map_err(|error| Fault::io("run", &self.executable, &error))?;
        self.processes[node] = Some(child);
        Ok(())
    }

    /// Sends SIGKILL; returns when.
    pub fn kill(&mut self, node: usize) -> Result<Instant> {
        if let Some(child) = &mut self.processes[node] {
            child.kill().map_err(|error| Fault::failed(format!("cannot kill node {}: {error}", NODES[node])))?;
        }
        Ok(Instant::now())
    }

    /// How a node ended, if it has.
    pub fn ended(&mut self, node: usize) -> Option<ExitStatus> {
        self.processes[node].as_mut().and_then(|child| child.try_wait().ok().flatten())
    }

    /// Asks a node on the command line and reads its JSON.
    pub async fn ask<T: DeserializeOwned>(&self, node: usize, words: &[&str]) -> Result<T> {
        let mut command = tokio::process::Command::new(&self.executable);
        command.arg("--home").arg(self.home(node)).args(["--output", "json"]).args(words).kill_on_drop(true);
        command.stdin(Stdio::null());
        let output = timeout(COMMAND_LIMIT, command.output())
            .await
            .map_err(|_| Fault::timed_out(format!("infinit {} takes too long", words.join(" "))))?
            .map_err(|error| Fault::io("run", &self.executable, &error))?;
        if output.status.success() {
            return serde_json::from_slice(&output.stdout).map_err(|error| {
                Fault::failed(format!("the answer to infinit {} is not understood: {error}", words.join(" ")))
            });
        }
        let errors = String::from_utf8_lossy(&output.stderr);
        let fault = errors.lines().rev().find_map(|line| serde_json::from_str::<Fault>(line).ok());
        Err(fault.unwrap_or_else(|| Fault::failed(format!("infinit {} failed: {}", words.join(" "), output.status))))
    }

    /// Adds to a failure what the nodes said last: their logs go with the directory.
    pub fn explain(&mut self, mut fault: Fault) -> Fault {
        let ended: Vec<usize> = (0..NODES.len()).filter(|node| self.ended(*node).is_some()).collect();
        let told = if ended.is_empty() { (0..NODES.len()).collect() } else { ended };
        for node in told {
            let log = std::fs::read_to_string(self.log_path(node)).unwrap_or_default();
            let grave = log.lines().rev().find(|line| line.contains("ERROR") || line.contains("error: "));
            if let Some(line) = grave.or_else(|| log.lines().rev().find(|line| !line.starts_with("hint: "))) {
                fault.message.push_str(&format!("; the log of node {} says: {}", NODES[node], line.trim()));
            }
        }
        fault
    }

    /// Leaves the nodes running for the user.
    pub fn leave(&mut self) {
        self.left = true;
    }

    fn log_path(&self, node: usize) -> PathBuf {
        self.directory.join(format!("{}.log", NODES[node]))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if self.left {
            return;
        }
        let mut running: Vec<&mut Child> = self.processes.iter_mut().flatten().collect();
        for child in &mut running {
            // It may have ended meanwhile, which is all that is wanted.
            let _ = child.kill();
        }
        for child in running {
            // A process that was killed is gone within moments, and only then are its files nobody's.
            let _ = child.wait();
        }
        if let Err(error) = std::fs::remove_dir_all(&self.directory) {
            tracing::warn!("cannot remove {}: {error}", self.directory.display());
        }
    }
}
