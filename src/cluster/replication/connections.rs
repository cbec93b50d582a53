//! A writer's connections to its silos: one a node over the network, and none for the silos of its own node.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::base::id::{NodeId, SiloId};
use crate::cluster::replication::message::{FromSilo, Request, ToSilo};
use crate::cluster::replication::service::{SiloSession, Silos};
use crate::transport::network::{FrameSender, Network, Purpose};

/// How soon a broken connection is tried again, and how late at the most.
const RECONNECT_AFTER: Duration = Duration::from_millis(50);
const RECONNECT_AFTER_MAX: Duration = Duration::from_secs(1);

/// What a writer's driver hears from its connections.
pub enum Incoming {
    Connected(NewConnection),
    Disconnected { connection: u64 },
    Message { connection: u64, message: FromSilo },
}

/// A connection to a node that stands.
pub struct NewConnection {
    id: u64,
    node: NodeId,
    sender: FrameSender,
}

enum Link {
    Local { session: SiloSession },
    Remote { node: NodeId },
}

struct Standing {
    id: u64,
    sender: FrameSender,
}

/// The connections of one writer.
pub struct Connections {
    node: NodeId,
    silos: Silos,
    network: Arc<dyn Network>,
    incoming: mpsc::UnboundedSender<Incoming>,
    links: BTreeMap<SiloId, Link>,
    standing: BTreeMap<NodeId, Standing>,
    /// By node, what keeps a connection to it.
    tasks: BTreeMap<NodeId, JoinHandle<()>>,
    next: Arc<AtomicU64>,
}

/// The number that messages of local silos come under.
const LOCAL: u64 = 0;

impl Connections {
    /// Starts connecting to the node of every silo; the driver hears of each connection that stands.
    pub fn new(
        node: NodeId,
        nodes: &BTreeMap<SiloId, NodeId>,
        silos: Silos,
        network: Arc<dyn Network>,
        incoming: mpsc::UnboundedSender<Incoming>,
    ) -> Connections {
        let mut connections = Connections {
            node,
            silos,
            network,
            incoming,
            links: BTreeMap::new(),
            standing: BTreeMap::new(),
            tasks: BTreeMap::new(),
            next: Arc::new(AtomicU64::new(LOCAL + 1)),
        };
        for (silo, at) in nodes {
            connections.add(*silo, *at);
        }
        connections
    }

    /// Connects to one more silo; whether it can be talked to at once.
    pub fn add(&mut self, silo: SiloId, node: NodeId) -> bool {
        match self.links.get(&silo) {
            Some(Link::Local { .. }) => return true,
            Some(Link::Remote { node }) => return self.standing.contains_key(node),
            None => {}
        }
        if node != self.node {
            self.links.insert(silo, Link::Remote { node });
            self.tasks.entry(node).or_insert_with(|| {
                let (network, incoming) = (self.network.clone(), self.incoming.clone());
                tokio::spawn(keep_connected(node, network, incoming, self.next.clone()))
            });
            return self.standing.contains_key(&node);
        }
        let Some(handle) = self.silos.get(silo) else { return false };
        let incoming = self.incoming.clone();
        let session = handle.open(Arc::new(move |message| {
            // The driver may have ended; then nobody waits.
            let _ = incoming.send(Incoming::Message { connection: LOCAL, message });
        }));
        self.links.insert(silo, Link::Local { session });
        true
    }

    /// Lets go of a silo, and of the connection to its node unless others are there.
    pub fn remove(&mut self, silo: SiloId) {
        let Some(Link::Remote { node }) = self.links.remove(&silo) else { return };
        if self.silos_of(node).is_empty() {
            self.standing.remove(&node);
            if let Some(task) = self.tasks.remove(&node) {
                task.abort();
            }
        }
    }

    /// The silos of this node, reachable from the start.
    pub fn local(&self) -> Vec<SiloId> {
        self.links.iter().filter(|(_, link)| matches!(link, Link::Local { .. })).map(|(silo, _)| *silo).collect()
    }

    /// A connection stands: these silos can be talked to.
    pub fn connected(&mut self, connection: NewConnection) -> Vec<SiloId> {
        let NewConnection { id, node, sender } = connection;
        self.standing.insert(node, Standing { id, sender });
        self.silos_of(node)
    }

    /// A connection broke: these silos cannot be talked to.
    pub fn disconnected(&mut self, connection: u64) -> Vec<SiloId> {
        let Some(node) = self.standing.iter().find(|(_, standing)| standing.id == connection).map(|(node, _)| *node)
        else {
            return Vec::new();
        };
        self.standing.remove(&node);
        self.silos_of(node)
    }

    /// Whether a message that came on this connection is of the silo's present one.
    pub fn is_current(&self, connection: u64, silo: SiloId) -> bool {
        match self.links.get(&silo) {
            Some(Link::Local { .. }) => connection == LOCAL,
            Some(Link::Remote { node }) => self.standing.get(node).is_some_and(|standing| standing.id == connection),
            None => false,
        }
    }

    /// Sends a message. If the silo's queue is full its connection is cut: the silos that are lost with it.
    pub fn send(&mut self, silo: SiloId, message: ToSilo) -> Vec<SiloId> {
        match self.links.get(&silo) {
            Some(Link::Local { session }) => {
                match message {
                    ToSilo::Rare(_, _, Request::Read { .. }) => session.ask(self.node, message),
                    message => session.deliver(self.node, message),
                }
                Vec::new()
            }
            Some(Link::Remote { node }) => {
                let node = *node;
                let Some(standing) = self.standing.get(&node) else { return Vec::new() };
                if standing.sender.send(message.encode()).is_ok() {
                    return Vec::new();
                }
                // Dropping the sender closes the connection; its task makes another.
                self.standing.remove(&node);
                self.silos_of(node)
            }
            None => Vec::new(),
        }
    }

    fn silos_of(&self, node: NodeId) -> Vec<SiloId> {
        self.links
            .iter()
            .filter(|(_, link)| matches!(link, Link::Remote { node: at } if *at == node))
            .map(|(silo, _)| *silo)
            .collect()
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        for task in self.tasks.values() {
            task.abort();
        }
    }
}

/// Connects to a node, again and again, and passes on what it says.
async fn keep_connected(
    to: NodeId,
    network: Arc<dyn Network>,
    incoming: mpsc::UnboundedSender<Incoming>,
    next: Arc<AtomicU64>,
) {
    let mut wait = RECONNECT_AFTER;
    loop {
        match network.connect(to, Purpose::Data).await {
            Ok(mut channel) => {
                wait = RECONNECT_AFTER;
                let id = next.fetch_add(1, Ordering::Relaxed);
                let connection = NewConnection { id, node: to, sender: channel.sender };
                if incoming.send(Incoming::Connected(connection)).is_err() {
                    return;
                }
                while let Some(bytes) = channel.receiver.recv().await {
                    match FromSilo::decode(&bytes) {
                        Ok(message) => {
                            if incoming.send(Incoming::Message { connection: id, message }).is_err() {
                                return;
                            }
                        }
                        Err(error) => {
                            tracing::warn!("node {} sent something that is no message: {error}", to.short());
                            break;
                        }
                    }
                }
                if incoming.send(Incoming::Disconnected { connection: id }).is_err() {
                    return;
                }
            }
            Err(error) => tracing::debug!("cannot reach node {}: {error}", to.short()),
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(RECONNECT_AFTER_MAX);
    }
}
