//! Where is node X? Discovery over libp2p, so that nodes find each other when addresses change.
//!
//! A swarm (TCP, TLS, Yamux) runs Kademlia under a protocol name of the network's own, identify, ping and, if wanted,
//! mDNS. Each node publishes one [`AddressRecord`] under its node id, signed with its own key: where its data plane
//! and its discovery listen. Whoever holds a record can pass it on, nobody can forge it, and one is never replaced
//! by an older one. What was learnt is kept in redb, so that a restart needs no bootstrap node.
//!
//! What is found here is a hint and nothing more. A stranger who knows the network's id can take part in the
//! address book; the data plane then asks for key and passport.
//!
//! - `record`: the signed record · `book`: what is known of peers, in memory and on disk · `driver`: the task that
//!   owns the swarm.

mod book;
mod driver;
mod record;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::base::address::Address;
use crate::base::id::{NetworkId, NodeId};
use crate::transport::discovery::book::Book;
use crate::transport::discovery::driver::{Command, Driver};
use crate::transport::identity::NodeKey;
use crate::transport::tls::KEY_LOG_VARIABLE;

pub use crate::transport::discovery::record::{ADDRESSES_MAX, AddressRecord, RecordError, fuzz_address_record};

/// The time a lookup may take.
pub const LOOKUP_TIME_MAX: Duration = Duration::from_secs(5);
/// How long a lookup that has found something waits for something newer.
const LOOKUP_SETTLE: Duration = Duration::from_millis(300);
/// Commands that wait for the driver; it never takes long over one.
const COMMANDS_MAX: usize = 256;

/// Somebody to begin with: from a join token or the cluster state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed {
    pub node: NodeId,
    /// Where its data plane listens.
    pub data: Vec<Address>,
    /// Where its discovery listens.
    pub discovery: Vec<SocketAddr>,
}

/// What discovery needs.
pub struct DiscoveryOptions {
    pub key: NodeKey,
    pub network: NetworkId,
    /// Where to listen; port 0 picks a free one.
    pub listen: SocketAddr,
    /// The addresses of this discovery that others are told; empty: those it listens on.
    pub advertise: Vec<SocketAddr>,
    /// The file of known peers, `peers.redb` in the home.
    pub peers_file: PathBuf,
    pub seeds: Vec<Seed>,
    /// Whether to find and be found by multicast on the local network.
    pub mdns: bool,
}

/// A running discovery. Dropping it stops it; [`Discovery::stop`] waits until all is on disk.
pub struct Discovery {
    book: Arc<Book>,
    commands: mpsc::Sender<Command>,
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Discovery {
    /// Starts listening and connecting to known peers. Must be called within a tokio runtime.
    pub async fn start(options: DiscoveryOptions) -> Result<Discovery, DiscoveryError> {
        if std::env::var_os(KEY_LOG_VARIABLE).is_some() {
            return Err(DiscoveryError::KeyLog);
        }
        let book = Arc::new(Book::open(options.peers_file.clone()).await?);
        for seed in &options.seeds {
            book.seed(seed);
        }
        let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
        let (driver, address) = Driver::start(options, book.clone(), receiver).await?;
        Ok(Discovery { book, commands, address, task: tokio::spawn(driver.run()) })
    }

    /// Where it listens, with the port that was picked.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What is known of where a node's data plane is, without asking anyone: its own word first, then the seeds'.
    pub fn addresses(&self, node: NodeId) -> Vec<Address> {
        self.book.data_addresses(node)
    }

    /// Asks the network where a node's data plane is. What was known before is the answer if nobody knows more.
    pub async fn lookup(&self, node: NodeId) -> Vec<Address> {
        let (first, found) = oneshot::channel();
        let (finished, all) = oneshot::channel();
        let asked = async {
            self.commands.send(Command::Lookup { node, first, finished }).await.ok()?;
            found.await.ok()?;
            // Another node may hold a newer record; one that does not answer must not hold this up.
            timeout(LOOKUP_SETTLE, all).await.ok()?.ok()
        };
        // However it ends, the book holds the best that is known.
        let _ = timeout(LOOKUP_TIME_MAX, asked).await;
        self.addresses(node)
    }

    /// Publishes where this node's data plane listens, now and again as peers come and time passes.
    pub async fn announce(&self, data: Vec<Address>) -> Result<(), DiscoveryError> {
        if data.len() > ADDRESSES_MAX {
            return Err(DiscoveryError::TooManyAddresses);
        }
        self.commands.send(Command::Announce { data }).await.map_err(|_| DiscoveryError::Stopped)
    }

    /// Adds somebody known from elsewhere, as from the cluster state.
    pub async fn seed(&self, seed: Seed) -> Result<(), DiscoveryError> {
        self.book.seed(&seed);
        self.commands.send(Command::Known { node: seed.node }).await.map_err(|_| DiscoveryError::Stopped)
    }

    /// Forgets a node that left the network.
    pub async fn forget(&self, node: NodeId) -> Result<(), DiscoveryError> {
        self.book.forget(node);
        self.commands.send(Command::Forget { node }).await.map_err(|_| DiscoveryError::Stopped)
    }

    /// The nodes that discovery is connected to right now.
    pub async fn peers(&self) -> Vec<NodeId> {
        let (reply, answer) = oneshot::channel();
        if self.commands.send(Command::Peers { reply }).await.is_err() {
            return Vec::new();
        }
        answer.await.unwrap_or_default()
    }

    /// The addresses it listens on, one an interface where it listens on all: what a node may tell others.
    pub async fn listen_addresses(&self) -> Vec<SocketAddr> {
        let (reply, answer) = oneshot::channel();
        if self.commands.send(Command::Listening { reply }).await.is_err() {
            return vec![self.address];
        }
        answer.await.unwrap_or_default()
    }

    /// Stops, and returns once what is known is on disk.
    pub async fn stop(self) {
        let Discovery { commands, task, .. } = self;
        drop(commands);
        // The task ends by itself; that it panicked was already said where it did.
        let _ = task.await;
    }
}

/// Why discovery does not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiscoveryError {
    Listen {
        address: SocketAddr,
        why: String,
    },
    /// The file of known peers cannot be used.
    Peers {
        path: PathBuf,
        why: String,
    },
    /// `SSLKEYLOGFILE` is set: libp2p would write session secrets to a file.
    KeyLog,
    /// mDNS, TLS or the transport could not be set up.
    Setup(String),
    TooManyAddresses,
    Stopped,
}

impl fmt::Display for DiscoveryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DiscoveryError::Listen { address, why } => write!(f, "discovery cannot listen on {address}: {why}"),
            DiscoveryError::Peers { path, why } => write!(f, "cannot use the known peers in {}: {why}", path.display()),
            DiscoveryError::KeyLog => {
                write!(f, "{KEY_LOG_VARIABLE} is set: session secrets would be written to a file")
            }
            DiscoveryError::Setup(why) => write!(f, "cannot set up discovery: {why}"),
            DiscoveryError::TooManyAddresses => write!(f, "a node has at most {ADDRESSES_MAX} addresses"),
            DiscoveryError::Stopped => f.write_str("discovery has stopped"),
        }
    }
}

impl std::error::Error for DiscoveryError {}

#[cfg(test)]
mod tests;
