//! What daemons ask of one another over the control plane: consensus, signs of life, reports, hand-over.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::base::clock::Moment;
use crate::base::error::{Fault, Result};
use crate::base::id::{Epoch, NodeId, SiloId, VolumeId};
use crate::cluster::consensus::{Rpc, RpcError as GroupRpcError};
use crate::cluster::replication::writer::report::Report;
use crate::cluster::state::ClusterState;
use crate::transport::network::{Network, Purpose};
use crate::transport::rpc::{RpcClient, RpcError};

/// The service number of the cluster group.
pub const GROUP_SERVICE: u8 = 1;
/// The service number of [`Ask`].
pub const NODE_SERVICE: u8 = 2;
/// How often members are asked for a sign of life, and how long they may take.
const PING_EVERY: Duration = Duration::from_millis(500);
const PING_LIMIT: Duration = Duration::from_millis(1500);
/// A member not heard for so long is shown as down.
const DOWN_AFTER: Duration = Duration::from_secs(3);

/// A question from daemon to daemon.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Ask {
    Ping,
    /// How a volume attached there stands.
    Report(VolumeId),
    /// Flush and let go of a volume, if it is attached with this epoch: another node takes over.
    HandOver {
        volume: VolumeId,
        epoch: Epoch,
    },
    /// Detach a volume for good, within so many milliseconds.
    Detach {
        volume: VolumeId,
        limit_ms: u64,
    },
    /// The asking node leaves the network for good, without running.
    Leave,
}

/// Its answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Told {
    Alive(SignOfLife),
    Report(Option<AttachedReport>),
    Done(Result<()>),
}

/// What a node says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignOfLife {
    pub version: String,
    pub silos: Vec<SiloLife>,
}

/// What a node says of a silo of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiloLife {
    pub id: SiloId,
    pub path: PathBuf,
    pub capacity_bytes: u64,
    pub used_bytes: u64,
    pub fault: Option<String>,
}

/// How an attached volume stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AttachedReport {
    pub nbd_uri: Option<String>,
    pub report: Option<Report>,
}

/// The other members, as this daemon reaches them.
#[derive(Clone)]
pub struct Peers {
    shared: Arc<Shared>,
}

struct Shared {
    node: NodeId,
    network: Arc<dyn Network>,
    clients: Mutex<HashMap<NodeId, RpcClient>>,
    heard: Mutex<HashMap<NodeId, Heard>>,
}

/// When a member was last heard, and what it said.
#[derive(Clone)]
pub struct Heard {
    pub at: Moment,
    pub life: SignOfLife,
}

impl Peers {
    pub fn new(node: NodeId, network: Arc<dyn Network>) -> Self {
        Self { shared: Arc::new(Shared { node, network, clients: Mutex::default(), heard: Mutex::default() }) }
    }

    /// Asks a daemon something.
    pub async fn ask(&self, node: NodeId, ask: &Ask, limit: Duration) -> Result<Told, RpcError> {
        let request = postcard::to_stdvec(ask).map_err(|_| RpcError::TooLong)?;
        let answer = self.shared.client(node).call(NODE_SERVICE, request.into(), limit).await?;
        postcard::from_bytes(&answer).map_err(|_| RpcError::Remote("it answered something else".to_owned()))
    }

    /// What a member last said, if it is up.
    pub fn heard(&self, node: NodeId) -> Option<Heard> {
        let heard = self.shared.heard().get(&node).cloned()?;
        (Moment::now().since(heard.at) < DOWN_AFTER).then_some(heard)
    }

    /// Asks every member for a sign of life, again and again.
    pub async fn listen(self, state: watch::Receiver<Arc<ClusterState>>) {
        let mut tick = tokio::time::interval(PING_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let pinging: Arc<Mutex<HashMap<NodeId, tokio::task::JoinHandle<()>>>> = Arc::default();
        loop {
            tick.tick().await;
            let members: Vec<NodeId> = state.borrow().members.keys().copied().collect();
            let mut pinging = pinging.lock().unwrap_or_else(PoisonError::into_inner);
            pinging.retain(|_, task| !task.is_finished());
            for node in members.into_iter().filter(|node| *node != self.shared.node) {
                let peers = self.clone();
                pinging.entry(node).or_insert_with(|| tokio::spawn(async move { peers.ping(node).await }));
            }
        }
    }

    async fn ping(&self, node: NodeId) {
        if let Ok(Told::Alive(life)) = self.ask(node, &Ask::Ping, PING_LIMIT).await {
            self.shared.heard().insert(node, Heard { at: Moment::now(), life });
        }
    }
}

impl Shared {
    fn client(&self, node: NodeId) -> RpcClient {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let network = &self.network;
        clients.entry(node).or_insert_with(|| RpcClient::new(network.clone(), node, Purpose::Control)).clone()
    }

    fn heard(&self) -> MutexGuard<'_, HashMap<NodeId, Heard>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rpc for Peers {
    fn call(&self, to: NodeId, request: Bytes, limit: Duration) -> BoxFuture<'_, Result<Bytes, GroupRpcError>> {
        Box::pin(async move {
            self.shared.client(to).call(GROUP_SERVICE, request, limit).await.map_err(|error| match error {
                RpcError::Connect(error) => GroupRpcError::Connect(error),
                RpcError::TimedOut => GroupRpcError::TimedOut,
                RpcError::Broken | RpcError::Remote(_) | RpcError::Busy | RpcError::TooLong => GroupRpcError::Broken,
            })
        })
    }
}

/// A daemon that does not answer, as a person is told.
pub fn not_reached(name: &str, error: &RpcError) -> Fault {
    match error {
        RpcError::TimedOut => Fault::timed_out(format!("node {name} did not answer in time")).hint("infinit node list"),
        other => Fault::unreachable(format!("cannot reach node {name}: {other}")).hint("infinit node list"),
    }
}
