//! What daemons ask of one another over the control plane: consensus, signs of life, reports, hand-over.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, join_all};
use serde::{Deserialize, Deserializer, Serialize};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::base::address::Address;
use crate::base::clock::{Moment, wall_seconds};
use crate::base::error::{Fault, Result};
use crate::base::id::{Epoch, NodeId, SiloId, VolumeId};
use crate::cluster::consensus::{Rpc, RpcError as GroupRpcError};
use crate::cluster::replication::scrubber::ScrubReport;
use crate::cluster::replication::writer::report::{Change, Report};
use crate::cluster::state::ClusterState;
use crate::daemon::scrubs::SiloSaid;
use crate::daemon::standing::{Standing, Track};
use crate::interface::nbd::Counts;
use crate::store::space::SpaceReport;
use crate::transport::network::{Network, Purpose};
use crate::transport::rpc::{RpcClient, RpcError};

/// The service number of the cluster group.
pub const GROUP_SERVICE: u8 = 1;
/// The service number of [`Ask`].
pub const NODE_SERVICE: u8 = 2;
/// How often members that were not heard just before are asked for a sign of life, and how long they may take.
const PING_EVERY: Duration = Duration::from_millis(500);
const PING_LIMIT: Duration = Duration::from_millis(1500);
/// How long a node that stops waits for its fellows to take its good-bye.
const GOODBYE_LIMIT: Duration = Duration::from_millis(300);

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
    /// The asking daemon stops; this run of it will not be heard again.
    Goodbye {
        run: u64,
    },
    /// The asking node leaves the network for good, without running.
    Leave,
    /// How the scrub of a volume stands on these of the node's silos; begin it first, if so.
    Scrub {
        volume: VolumeId,
        silos: Vec<SiloId>,
        begin: bool,
    },
    /// How the asked node sees the asking one.
    Examine,
    /// Where a node is reached, as far as the asked one knows.
    Whereabouts(NodeId),
    /// Whether the cluster group works, as far as the asked one knows.
    Quorum,
}

/// Its answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Told {
    Alive(SignOfLife),
    Report(Option<AttachedReport>),
    Done(Result<()>),
    Scrub(Vec<SiloSaid>),
    Examined(Examined),
    Whereabouts(Vec<Address>),
    Quorum {
        has_quorum: bool,
        /// How often the network was recovered.
        generation: u64,
    },
}

/// How a node sees another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Examined {
    /// Its own wall clock, milliseconds since 1970.
    pub wall_ms: u64,
    /// It reaches the asking node.
    pub hears_you: bool,
    /// It cannot dial the asking node, which stands by and dials back.
    pub calls_you: bool,
}

/// What a node says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignOfLife {
    /// Drawn at random at each start of the daemon.
    pub run: u64,
    pub version: String,
    pub silos: Vec<SiloLife>,
    /// More of them, by their ids. Daemons of 0.1.0 send neither this nor what follows, and do not mind it.
    #[serde(deserialize_with = "nothing_from_older_ones")]
    pub details: Vec<SiloDetails>,
    /// It has dialled the asking node in vain.
    #[serde(deserialize_with = "nothing_from_older_ones")]
    pub unheard: bool,
}

/// How a silo's room is used, and what damage is known on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiloDetails {
    pub id: SiloId,
    pub space: SpaceReport,
    pub scrub: ScrubReport,
}

/// Where the message ends before this field, there is none.
fn nothing_from_older_ones<'de, T: Deserialize<'de> + Default, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(T::deserialize(deserializer).unwrap_or_default())
}

/// What a node says of a silo of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiloLife {
    pub id: SiloId,
    pub path: PathBuf,
    pub capacity_bytes: u64,
    pub used_bytes: u64,
    /// Why its disk is out of service.
    pub fault: Option<String>,
    /// Why the cluster does not take it.
    pub foreign: Option<String>,
    /// For how long its disk has owed an answer, in milliseconds, if that is too long.
    pub stalled_ms: Option<u64>,
}

/// How an attached volume stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AttachedReport {
    pub nbd_uri: Option<String>,
    pub report: Option<Report>,
    /// What its clients have asked for.
    pub clients: Counts,
    /// A part of the report. The last field: daemons of 0.1.0 do not send it, and do not mind it.
    #[serde(deserialize_with = "nothing_from_older_ones")]
    changes: Vec<Change>,
}

impl AttachedReport {
    pub fn new(nbd_uri: String, report: Option<Report>, clients: Counts) -> Self {
        let changes = report.as_ref().map_or_else(Vec::new, Report::changes);
        Self { nbd_uri: Some(nbd_uri), report, clients, changes }
    }

    /// As it was before it was sent.
    pub fn whole(mut self) -> Self {
        if let Some(report) = &mut self.report {
            report.take_changes(std::mem::take(&mut self.changes));
        }
        self
    }
}

/// What this daemon calls itself. For tests alone, `INFINIT_TEST_VERSION` has it pass for another version, so that an upgrade can
/// be watched.
pub fn own_version() -> String {
    std::env::var("INFINIT_TEST_VERSION").unwrap_or_else(|_| env!("CARGO_PKG_VERSION").to_owned())
}

/// The other members, as this daemon reaches them.
#[derive(Clone)]
pub struct Peers {
    shared: Arc<Shared>,
}

struct Shared {
    node: NodeId,
    /// Of this daemon.
    run: u64,
    network: Arc<dyn Network>,
    clients: Mutex<HashMap<NodeId, RpcClient>>,
    tracks: Mutex<HashMap<NodeId, Track>>,
    /// Tells when more is known of somebody.
    learned: watch::Sender<()>,
}

impl Peers {
    pub fn new(node: NodeId, network: Arc<dyn Network>) -> Self {
        let shared = Shared {
            node,
            run: rand::random(),
            network,
            clients: Mutex::default(),
            tracks: Mutex::default(),
            learned: watch::Sender::new(()),
        };
        Self { shared: Arc::new(shared) }
    }

    /// This daemon's node.
    pub fn node(&self) -> NodeId {
        self.shared.node
    }

    /// What tells this run of the daemon from others.
    pub fn run(&self) -> u64 {
        self.shared.run
    }

    /// Asks a daemon something.
    pub async fn ask(&self, node: NodeId, ask: &Ask, limit: Duration) -> Result<Told, RpcError> {
        let request = postcard::to_stdvec(ask).map_err(|_| RpcError::TooLong)?;
        let answer = self.shared.client(node).call(NODE_SERVICE, request.into(), limit).await?;
        postcard::from_bytes(&answer).map_err(|_| RpcError::Remote("it answered something else".to_owned()))
    }

    /// How another member stands.
    pub fn standing(&self, node: NodeId) -> Standing {
        self.shared.tracks().get(&node).map_or(Standing::Unknown, |track| track.standing(Moment::now()))
    }

    /// Returns once nobody of these is unknown, or the time is over.
    pub async fn known(&self, nodes: &[NodeId], limit: Duration) {
        let mut learned = self.shared.learned.subscribe();
        let unknown = |node: &NodeId| *node != self.shared.node && matches!(self.standing(*node), Standing::Unknown);
        let all = async {
            while nodes.iter().any(unknown) {
                // The sender lives as long as this; a member of whom nothing is learned is looked at again.
                let _ = timeout(PING_EVERY, learned.changed()).await;
            }
        };
        // Who is unknown still is told to be so.
        let _ = timeout(limit, all).await;
    }

    /// Asks every member for a sign of life, again and again; one that is new at once.
    pub async fn listen(self, mut state: watch::Receiver<Arc<ClusterState>>) {
        let mut tick = tokio::time::interval(PING_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut pinging: HashMap<NodeId, tokio::task::JoinHandle<()>> = HashMap::new();
        let mut said: HashMap<NodeId, bool> = HashMap::new();
        let mut learned = self.shared.learned.subscribe();
        loop {
            let all = tokio::select! {
                _ = tick.tick() => true,
                changed = state.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    false
                }
                // The sender lives as long as this.
                _ = learned.changed() => false,
            };
            let now = state.borrow_and_update().clone();
            pinging.retain(|_, task| !task.is_finished());
            for (node, member) in now.members.iter().filter(|(node, _)| **node != self.shared.node) {
                let node = *node;
                if member.data_addresses.is_empty() {
                    // It has just joined, and has not said yet where it is reached.
                    continue;
                }
                let new = self.shared.begin(node);
                if new || all && self.shared.is_due(node) {
                    let peers = self.clone();
                    pinging.entry(node).or_insert_with(|| tokio::spawn(async move { peers.ping(node).await }));
                }
            }
            self.shared.tracks().retain(|node, _| now.members.contains_key(node));
            self.tell_changes(&now, &mut said);
        }
    }

    async fn ping(&self, node: NodeId) {
        let answer = self.ask(node, &Ask::Ping, PING_LIMIT).await;
        if let Some(track) = self.shared.tracks().get_mut(&node) {
            match answer {
                Ok(Told::Alive(life)) => track.answered(Moment::now(), wall_seconds(), life),
                Ok(_) | Err(_) => track.failed(wall_seconds()),
            }
        }
        self.shared.learned.send_replace(());
    }

    /// Logs, once, that a member is gone and that it is back.
    fn tell_changes(&self, state: &ClusterState, said: &mut HashMap<NodeId, bool>) {
        for (node, member) in state.members.iter().filter(|(node, _)| **node != self.shared.node) {
            let (node, called) = (*node, format!("{} ({})", member.name, node.short()));
            let up = match self.standing(node) {
                Standing::Unknown => continue,
                Standing::Up { .. } => true,
                Standing::Down { .. } => false,
            };
            match (said.insert(node, up), up) {
                (Some(true), true) | (Some(false), false) => {}
                (None, true) => tracing::debug!("node {called} is reached"),
                (Some(false), true) => tracing::info!("node {called} is reached again"),
                (_, false) if self.shared.said_goodbye(node) => {
                    tracing::info!("node {called} was stopped");
                }
                (_, false) => tracing::warn!("node {called} is not reached"),
            }
        }
    }

    /// Another daemon says that it stops.
    pub fn goodbye_of(&self, node: NodeId, run: u64) {
        if let Some(track) = self.shared.tracks().get_mut(&node) {
            track.said_goodbye(wall_seconds(), run);
        }
        self.shared.learned.send_replace(());
    }

    /// Tells the members that are up that this daemon stops, so that they need not find out.
    pub async fn say_goodbye(&self) {
        let nodes: Vec<NodeId> = self.shared.tracks().keys().copied().collect();
        let up = nodes.into_iter().filter(|node| matches!(self.standing(*node), Standing::Up { .. }));
        let ask = Ask::Goodbye { run: self.shared.run };
        // Who does not hear it finds out by itself.
        join_all(up.map(|node| self.ask(node, &ask, GOODBYE_LIMIT))).await;
    }
}

impl Shared {
    fn client(&self, node: NodeId) -> RpcClient {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let network = &self.network;
        clients.entry(node).or_insert_with(|| RpcClient::new(network.clone(), node, Purpose::Control)).clone()
    }

    /// Whether a member is asked for the first time.
    fn begin(&self, node: NodeId) -> bool {
        match self.tracks().entry(node) {
            Entry::Occupied(_) => false,
            Entry::Vacant(vacant) => {
                vacant.insert(Track::new(Moment::now()));
                true
            }
        }
    }

    fn is_due(&self, node: NodeId) -> bool {
        self.tracks().get(&node).is_none_or(|track| track.is_due(Moment::now()))
    }

    fn said_goodbye(&self, node: NodeId) -> bool {
        self.tracks().get(&node).is_some_and(Track::has_left)
    }

    fn tracks(&self) -> MutexGuard<'_, HashMap<NodeId, Track>> {
        self.tracks.lock().unwrap_or_else(PoisonError::into_inner)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn daemons_of_the_first_version_and_later_ones_understand_each_other() {
        let scrub = ScrubReport { damaged: 7, ..ScrubReport::default() };
        let details = SiloDetails { id: SiloId([1; 16]), space: SpaceReport::default(), scrub };
        let life =
            SignOfLife { run: 5, version: "0.1.0".into(), silos: Vec::new(), details: vec![details], unheard: true };
        let whole = postcard::to_stdvec(&Told::Alive(life.clone())).unwrap();
        let Ok(Told::Alive(read)) = postcard::from_bytes(&whole) else { panic!("it is not understood") };
        assert_eq!(read, life);

        /// As 0.1.0 has it.
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct First {
            run: u64,
            version: String,
            silos: Vec<SiloLife>,
        }
        let (kind, rest) = whole.split_first().unwrap();
        let first = First { run: 5, version: "0.1.0".into(), silos: Vec::new() };
        assert_eq!(postcard::from_bytes::<First>(rest).unwrap(), first);
        let old = [&[*kind][..], &postcard::to_stdvec(&first).unwrap()].concat();
        let Ok(Told::Alive(read)) = postcard::from_bytes(&old) else { panic!("it is not understood") };
        assert_eq!(read, SignOfLife { details: Vec::new(), unheard: false, ..life });
    }
}
