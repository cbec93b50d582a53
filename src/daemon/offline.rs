//! What the command line does without a daemon, or to become one.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::base::address::Address;
use crate::base::error::Result;
use crate::base::units::Size;
use crate::daemon::api::{Invitation, Invite, Left, Network};
use crate::daemon::home::Home;
use crate::daemon::regroup::{self, Recoverable};
use crate::daemon::{demo as demonstration, membership, node};

/// Which of this machine's networks is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// An absolute path; may not exist yet.
    pub home: PathBuf,
    /// Needed where the home has several networks.
    pub network: Option<String>,
    /// The program and the options that lead to this home, for hints: `infinit --home /data`.
    pub program: String,
}

impl Place {
    /// The command that does `verb` for one network of this home, word for word.
    pub fn command(&self, verb: &str, network: &str) -> String {
        format!("{} {verb} --network {network}", self.program)
    }
}

/// How a request to join ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Joining {
    Joined(Network),
    /// This machine was a member already; nothing was done.
    Already(Network),
}

/// A directory to store blocks in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiloSpec {
    /// An absolute path.
    pub path: PathBuf,
    /// The most it may hold; what its file system holds if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<Size>,
}

/// How to run this machine's node. What is absent is as it was last time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunOptions {
    pub silos: Vec<SiloSpec>,
    pub listen: Option<Address>,
    pub advertise: Option<Address>,
    pub zone: Option<String>,
    /// Vote and store nothing; as it was last time if absent.
    pub witness: Option<bool>,
    /// Find peers of the local network by multicast.
    pub mdns: bool,
}

/// What a demonstration tells while it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DemoEvent {
    /// A step that begins, in a few words.
    Step(String),
    /// So many bytes of the copy are done, of so many.
    Copied { bytes: u64, total_bytes: u64 },
}

/// What a demonstration proved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DemoProof {
    pub bytes_written: u64,
    pub writes_answered: u64,
    pub writes_verified: u64,
    pub writes_lost: u64,
    /// The longest a write waited while a node was killed.
    pub stall_ms: u64,
    /// Where the cluster is, if it was left running.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept: Option<PathBuf>,
    /// Commands to try next, if it was left running.
    pub next: Vec<String>,
}

/// `network create`: keys, genesis, and this machine as its first node.
pub async fn create(place: &Place, name: &str) -> Result<Network> {
    membership::create(&place.home, name)
}

/// `network join`: this node's key, and a passport from the network that the token names.
pub async fn join(place: &Place, token: &str) -> Result<Joining> {
    membership::join(place, token).await
}

/// What leaving a network without its daemon would give up; a person is asked before [`leave`].
pub async fn leaving(place: &Place) -> Result<Network> {
    membership::describe(&Home::find(place, "network leave")?)
}

/// `network leave` without a daemon of that network: another member is told.
pub async fn leave(place: &Place) -> Result<Left> {
    membership::leave(place).await
}

/// The command that starts this home's node, word for word: it names a network where the home has several.
pub fn start_command(place: &Place) -> String {
    const START: &str = "node run";
    match (&place.network, Home::all(&place.home).as_deref()) {
        (Some(network), _) => place.command(START, network),
        (None, Ok([first, _, ..])) => place.command(START, &first.name),
        (None, _) => format!("{} {START}", place.program),
    }
}

/// `network invite` without a daemon, signed by the network's key if this machine holds it.
pub async fn invite(place: &Place, request: &Invite) -> Result<Invitation> {
    let home = Home::find(place, "network invite")?;
    let this = membership::own_contact(&home).await?;
    membership::invite(&home, request, vec![this])
}

/// `network list`: the networks of this home.
pub async fn list(home: &Path) -> Result<Vec<Network>> {
    Home::all(home)?.iter().map(membership::describe).collect()
}

/// `network show` without a daemon.
pub async fn show(place: &Place) -> Result<Network> {
    membership::describe(&Home::find(place, "network show")?)
}

/// `network recover`: what this home's node knows of its network; nothing is changed yet.
pub async fn recoverable(place: &Place) -> Result<Recoverable> {
    regroup::look(Home::find(place, "network recover")?).await
}

/// `node run`: returns once the node has stopped.
pub async fn run(place: &Place, options: RunOptions) -> Result<()> {
    node::run(Home::find(place, "node run")?, options).await
}

/// `demo`: a cluster of real processes, a node killed, everything read back.
pub async fn demo(keep: bool, tell: &mut (dyn FnMut(DemoEvent) + Send)) -> Result<DemoProof> {
    demonstration::run(keep, tell).await
}

/// What of this machine can be looked over without a node that runs.
pub fn examine(place: &Place) -> Vec<crate::daemon::api::doctor::Check> {
    crate::daemon::doctor::machine(&place.home)
}
