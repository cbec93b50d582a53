//! The task that owns the swarm: commands in, events in, and nothing else touches it.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use libp2p::kad::store::{MemoryStore, MemoryStoreConfig, RecordStore};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm, SwarmBuilder, connection_limits, identify, kad, mdns, ping, tcp, tls,
    yamux,
};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};
use tracing::{debug, warn};

use crate::base::address::Address;
use crate::base::clock::wall_ms;
use crate::base::error::plain;
use crate::base::id::{NetworkId, NodeId};
use crate::transport::discovery::book::Book;
use crate::transport::discovery::record::{ADDRESSES_MAX, AddressRecord};
use crate::transport::discovery::{DiscoveryError, DiscoveryOptions, LOOKUP_TIME_MAX};
use crate::transport::identity::{NodeKey, node_id, peer_id};

/// How long to wait for the first address to listen on.
const LISTEN_TIME_MAX: Duration = Duration::from_secs(3);
/// How often connections and the disk are looked after.
const UPKEEP_PERIOD: Duration = Duration::from_secs(1);
/// With fewer connections than this, known peers are dialled.
const CONNECTED_WANTED: usize = 8;
/// The known peers dialled in one round of upkeep.
const DIALS_A_ROUND: usize = 8;
/// Connections are kept: a few idle ones cost less than making them anew.
const IDLE_MAX: Duration = Duration::from_secs(3600);
/// Connections in all, and of one peer: far more than a node uses, few enough to bear.
const CONNECTIONS_MAX: u32 = 512;
const CONNECTIONS_A_PEER_MAX: u32 = 4;
const PENDING_INCOMING_MAX: u32 = 64;
/// A record that is not published again for so long is dropped by those who hold it.
const RECORD_LIFE: Duration = Duration::from_secs(3600);
const PUBLICATION_PERIOD: Duration = Duration::from_secs(600);
const REPLICATION_PERIOD: Duration = Duration::from_secs(300);
/// Records held for others.
const RECORDS_MAX: usize = 4096;

/// What the handle asks of the task.
pub(super) enum Command {
    /// `first` is told when something was found, `finished` when everyone was asked.
    Lookup {
        node: NodeId,
        first: oneshot::Sender<()>,
        finished: oneshot::Sender<()>,
    },
    Announce {
        data: Vec<Address>,
    },
    /// The book has learnt of this node.
    Known {
        node: NodeId,
    },
    Forget {
        node: NodeId,
    },
    Peers {
        reply: oneshot::Sender<Vec<NodeId>>,
    },
    Listening {
        reply: oneshot::Sender<Vec<SocketAddr>>,
    },
}

#[derive(NetworkBehaviour)]
struct Behaviour {
    limits: connection_limits::Behaviour,
    kademlia: kad::Behaviour<MemoryStore>,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    mdns: Toggle<mdns::tokio::Behaviour>,
}

struct Lookup {
    first: Option<oneshot::Sender<()>>,
    /// Dropped, and so answered, with the lookup.
    _finished: oneshot::Sender<()>,
}

/// The swarm and what belongs to it.
pub(super) struct Driver {
    swarm: Swarm<Behaviour>,
    commands: mpsc::Receiver<Command>,
    book: Arc<Book>,
    key: NodeKey,
    protocol: StreamProtocol,
    advertise: Vec<SocketAddr>,
    /// Where the data plane listens, once announced.
    data: Option<Vec<Address>>,
    publication_due: bool,
    lookups: HashMap<kad::QueryId, Lookup>,
    upkeep: Interval,
    next_dial: usize,
    saving: Option<JoinHandle<Result<(), DiscoveryError>>>,
}

impl Driver {
    /// Builds the swarm and waits until it listens; returns the first address.
    pub(super) async fn start(
        options: DiscoveryOptions,
        book: Arc<Book>,
        commands: mpsc::Receiver<Command>,
    ) -> Result<(Driver, SocketAddr), DiscoveryError> {
        let protocol = protocol_name(options.network)?;
        let swarm = build_swarm(&options, protocol.clone())?;
        let mut upkeep = interval(UPKEEP_PERIOD);
        upkeep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut driver = Driver {
            swarm,
            commands,
            book,
            key: options.key,
            protocol,
            advertise: options.advertise,
            data: None,
            publication_due: false,
            lookups: HashMap::new(),
            upkeep,
            next_dial: 0,
            saving: None,
        };
        let address = driver.listen(options.listen).await?;
        for node in driver.book.nodes() {
            driver.make_routable(node);
        }
        Ok((driver, address))
    }

    async fn listen(&mut self, listen: SocketAddr) -> Result<SocketAddr, DiscoveryError> {
        let cannot = |why: String| DiscoveryError::Listen { address: listen, why };
        // libp2p shares its port with any process of the same user; a plain socket tells whether somebody has it.
        TcpListener::bind(listen).map_err(|error| cannot(plain(&error)))?;
        self.swarm.listen_on(multiaddr(listen)).map_err(|error| cannot(error.to_string()))?;
        let first = async {
            loop {
                match self.swarm.select_next_some().await {
                    SwarmEvent::NewListenAddr { address, .. } => match socket_address(&address) {
                        Some(address) => return Ok(address),
                        None => continue,
                    },
                    SwarmEvent::ListenerClosed { reason: Err(error), .. } | SwarmEvent::ListenerError { error, .. } => {
                        return Err(error.to_string());
                    }
                    _ => {}
                }
            }
        };
        match timeout(LISTEN_TIME_MAX, first).await {
            Ok(Ok(address)) => Ok(address),
            Ok(Err(why)) => Err(cannot(why)),
            Err(_) => Err(cannot("no interface to listen on".into())),
        }
    }

    /// Runs until the handle is dropped, then puts on disk what is not there yet.
    pub(super) async fn run(mut self) {
        loop {
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) => self.obey(command),
                    None => break,
                },
                event = self.swarm.select_next_some() => self.react(event),
                _ = self.upkeep.tick() => self.look_after(),
            }
        }
        if let Some(saving) = self.saving.take() {
            // A failure is seen again in the last attempt below.
            let _ = saving.await;
        }
        let book = self.book.clone();
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || book.save()).await {
            warn!(%error, "known peers were not saved");
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Lookup { node, first, finished } => {
                let id = self.swarm.behaviour_mut().kademlia.get_record(kad::RecordKey::new(&node.0));
                self.lookups.insert(id, Lookup { first: Some(first), _finished: finished });
            }
            Command::Announce { data } => {
                self.data = Some(data);
                self.publish();
            }
            Command::Known { node } => {
                self.make_routable(node);
                self.dial(node);
            }
            Command::Forget { node } => {
                if let Some(peer) = peer_id(node) {
                    self.swarm.behaviour_mut().kademlia.remove_peer(&peer);
                    // Not connected is as good as disconnected.
                    let _ = self.swarm.disconnect_peer_id(peer);
                }
                self.swarm.behaviour_mut().kademlia.remove_record(&kad::RecordKey::new(&node.0));
            }
            // A caller that gave up meanwhile does not mind.
            Command::Peers { reply } => drop(reply.send(self.swarm.connected_peers().filter_map(node_id).collect())),
            Command::Listening { reply } => drop(reply.send(self.listen_addresses())),
        }
    }

    fn react(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(BehaviourEvent::Kademlia(event)) => self.react_to_kademlia(event),
            SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. })) => {
                self.meet(peer_id, &info);
            }
            SwarmEvent::Behaviour(BehaviourEvent::Mdns(mdns::Event::Discovered(found))) => {
                for (peer, address) in found {
                    self.swarm.behaviour_mut().kademlia.add_address(&peer, address);
                    self.dial_peer(peer, Vec::new());
                }
            }
            SwarmEvent::NewListenAddr { .. } | SwarmEvent::ExpiredListenAddr { .. } => self.publication_due = true,
            SwarmEvent::OutgoingConnectionError { peer_id, error, .. } => {
                debug!(peer = ?peer_id, %error, "discovery could not connect");
            }
            _ => {}
        }
    }

    /// A peer said who it is: one of this network becomes routable, another is sent away.
    fn meet(&mut self, peer: PeerId, info: &identify::Info) {
        let Some(node) = node_id(&peer) else { return };
        if !info.protocols.contains(&self.protocol) {
            // It may be gone already, which is as good.
            let _ = self.swarm.disconnect_peer_id(peer);
            return;
        }
        let addresses: Vec<SocketAddr> =
            info.listen_addrs.iter().filter_map(socket_address).take(ADDRESSES_MAX).collect();
        for address in &addresses {
            self.swarm.behaviour_mut().kademlia.add_address(&peer, multiaddr(*address));
        }
        self.book.learn_discovery(node, &addresses);
        self.publication_due = true;
    }

    fn react_to_kademlia(&mut self, event: kad::Event) {
        match event {
            kad::Event::InboundRequest { request: kad::InboundRequest::PutRecord { record: Some(record), .. } } => {
                self.keep(record)
            }
            kad::Event::OutboundQueryProgressed { id, result, step, .. } => {
                if let kad::QueryResult::GetRecord(Ok(kad::GetRecordOk::FoundRecord(found))) = result
                    && let Some(record) = verified(&found.record)
                {
                    self.book.learn(record);
                    let first = self.lookups.get_mut(&id).and_then(|lookup| lookup.first.take());
                    // A caller that gave up meanwhile does not mind.
                    first.map(|first| first.send(()));
                }
                if step.last {
                    self.lookups.remove(&id);
                }
            }
            _ => {}
        }
    }

    /// Holds a record for the network, if it is its node's word and newer than what is held.
    fn keep(&mut self, record: kad::Record) {
        let Some(word) = verified(&record) else { return };
        let store = self.swarm.behaviour_mut().kademlia.store_mut();
        let held = store.get(&record.key).and_then(|held| verified(&held)).map_or(0, |held| held.sequence());
        if word.sequence() >= held
            && let Err(error) = store.put(record)
        {
            debug!(?error, "no room for another address record");
        }
        if word.node() != self.key.node() {
            self.book.learn(word);
        }
    }

    /// Signs and publishes where this node is, if it has announced itself.
    fn publish(&mut self) {
        self.publication_due = false;
        let Some(data) = self.data.clone() else { return };
        let mut discovery = if self.advertise.is_empty() { self.listen_addresses() } else { self.advertise.clone() };
        discovery.truncate(ADDRESSES_MAX);
        let sequence = wall_ms().max(self.book.sequence(self.key.node()).saturating_add(1));
        let signed = AddressRecord::sign(&self.key, data, discovery, sequence)
            .and_then(|record| record.encode().map(|bytes| (record, bytes)));
        let (record, bytes) = match signed {
            Ok(signed) => signed,
            Err(error) => return warn!(%error, "this node's addresses cannot be published"),
        };
        self.book.learn(record);
        let record = kad::Record::new(self.key.node().0.to_vec(), bytes);
        // The record is held here too; that nobody else took it yet is mended when peers come.
        if let Err(error) = self.swarm.behaviour_mut().kademlia.put_record(record, kad::Quorum::One) {
            warn!(?error, "this node's addresses cannot be published");
        }
    }

    /// Each second: publish if peers or addresses came, dial known peers if few are connected, save the book.
    fn look_after(&mut self) {
        if self.publication_due {
            self.publish();
        }
        if self.swarm.connected_peers().count() < CONNECTED_WANTED {
            let known: Vec<NodeId> = self.book.nodes().into_iter().filter(|node| *node != self.key.node()).collect();
            for offset in 0..known.len().min(DIALS_A_ROUND) {
                self.dial(known[(self.next_dial + offset) % known.len()]);
            }
            self.next_dial = self.next_dial.wrapping_add(DIALS_A_ROUND);
        }
        let idle = self.saving.as_ref().is_none_or(JoinHandle::is_finished);
        if idle && self.book.is_unsaved() {
            let book = self.book.clone();
            self.saving = Some(tokio::task::spawn_blocking(move || {
                book.save().inspect_err(|error| warn!(%error, "known peers were not saved"))
            }));
        }
    }

    fn make_routable(&mut self, node: NodeId) {
        let Some(peer) = peer_id(node) else { return };
        if node == self.key.node() {
            return;
        }
        for address in self.book.discovery_addresses(node) {
            self.swarm.behaviour_mut().kademlia.add_address(&peer, multiaddr(address));
        }
    }

    fn dial(&mut self, node: NodeId) {
        let addresses: Vec<Multiaddr> = self.book.discovery_addresses(node).into_iter().map(multiaddr).collect();
        if let Some(peer) = peer_id(node)
            && node != self.key.node()
            && !addresses.is_empty()
        {
            self.dial_peer(peer, addresses);
        }
    }

    fn dial_peer(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) {
        let options = DialOpts::peer_id(peer)
            .condition(PeerCondition::DisconnectedAndNotDialing)
            .addresses(addresses)
            .extend_addresses_through_behaviour()
            .build();
        // Connected or being dialled already, or no address: nothing to do about it here.
        let _ = self.swarm.dial(options);
    }

    fn listen_addresses(&self) -> Vec<SocketAddr> {
        self.swarm.listeners().filter_map(socket_address).collect()
    }
}

fn protocol_name(network: NetworkId) -> Result<StreamProtocol, DiscoveryError> {
    let name = format!("/infinit/{}/kad/1", &network.to_string()[..16]);
    StreamProtocol::try_from_owned(name).map_err(|error| DiscoveryError::Setup(error.to_string()))
}

fn build_swarm(options: &DiscoveryOptions, protocol: StreamProtocol) -> Result<Swarm<Behaviour>, DiscoveryError> {
    let setup = |why: String| DiscoveryError::Setup(why);
    let network = options.network;
    let with_mdns = options.mdns;
    let swarm = SwarmBuilder::with_existing_identity(options.key.keypair())
        .with_tokio()
        .with_tcp(tcp::Config::default().nodelay(true), tls::Config::new, yamux::Config::default)
        .map_err(|error| setup(error.to_string()))?
        .with_behaviour(|key| {
            let mdns = if with_mdns {
                Some(mdns::tokio::Behaviour::new(mdns::Config::default(), key.public().to_peer_id())?)
            } else {
                None
            };
            let limits = connection_limits::ConnectionLimits::default()
                .with_max_pending_incoming(Some(PENDING_INCOMING_MAX))
                .with_max_established(Some(CONNECTIONS_MAX))
                .with_max_established_per_peer(Some(CONNECTIONS_A_PEER_MAX));
            let version = format!("/infinit/{}/1", &network.to_string()[..16]);
            Ok(Behaviour {
                limits: connection_limits::Behaviour::new(limits),
                kademlia: kademlia(key.public().to_peer_id(), protocol),
                identify: identify::Behaviour::new(
                    identify::Config::new(version, key.public())
                        .with_agent_version(format!("infinit/{}", env!("CARGO_PKG_VERSION")))
                        .with_push_listen_addr_updates(true),
                ),
                ping: ping::Behaviour::default(),
                mdns: mdns.into(),
            })
        })
        .map_err(|error| setup(error.to_string()))?
        .with_swarm_config(|config| config.with_idle_connection_timeout(IDLE_MAX))
        .build();
    Ok(swarm)
}

fn kademlia(local: PeerId, protocol: StreamProtocol) -> kad::Behaviour<MemoryStore> {
    let mut config = kad::Config::new(protocol);
    config
        // Records are looked at before they are held, see `keep`.
        .set_record_filtering(kad::StoreInserts::FilterBoth)
        .set_record_ttl(Some(RECORD_LIFE))
        .set_publication_interval(Some(PUBLICATION_PERIOD))
        .set_replication_interval(Some(REPLICATION_PERIOD))
        .set_query_timeout(LOOKUP_TIME_MAX)
        .set_parallelism(NonZeroUsize::new(3).unwrap_or(NonZeroUsize::MIN));
    let store = MemoryStoreConfig { max_records: RECORDS_MAX, max_value_bytes: 1024, ..Default::default() };
    let mut kademlia = kad::Behaviour::with_config(local, MemoryStore::with_config(local, store), config);
    // Every node holds records: none waits for an address that somebody outside confirms.
    kademlia.set_mode(Some(kad::Mode::Server));
    kademlia
}

/// The word in a record, if it is the word of the node that the record is about.
fn verified(record: &kad::Record) -> Option<AddressRecord> {
    let word = AddressRecord::decode(&record.value).ok()?;
    (record.key.as_ref() == word.node().0).then_some(word)
}

fn multiaddr(address: SocketAddr) -> Multiaddr {
    Multiaddr::empty().with(address.ip().into()).with(Protocol::Tcp(address.port()))
}

fn socket_address(address: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = address.iter();
    let ip = match parts.next()? {
        Protocol::Ip4(ip) => ip.into(),
        Protocol::Ip6(ip) => ip.into(),
        _ => return None,
    };
    match parts.next()? {
        Protocol::Tcp(port) => Some(SocketAddr::new(ip, port)),
        _ => None,
    }
}
