//! The twin of the data plane in memory: several nodes in one process, for tests of what is built on channels.
//!
//! It keeps the promises that the real one makes (frames whole and in order, bounded queues, ends that are noticed),
//! and lets a test do what a network does: cut a link, hold it still, heal it, take a node away.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::base::id::NodeId;
use crate::transport::endpoint::CONNECT_TIME_MAX;
use crate::transport::network::{
    Channel, ConnectError, FrameQueue, FrameSender, Home, Network, Purpose, RECEIVED_FRAMES_MAX,
};

/// The state of the way between two nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Open,
    /// Frames wait, nothing breaks: a cable that is out for a moment.
    Still,
    /// Connections break and no new ones come about.
    Cut,
}

/// A network of nodes in this process.
#[derive(Clone, Default)]
pub struct MemoryNetwork {
    shared: Arc<Mutex<Hub>>,
}

#[derive(Default)]
struct Hub {
    nodes: HashMap<NodeId, mpsc::Sender<Channel>>,
    ways: HashMap<(NodeId, NodeId), watch::Sender<Way>>,
    /// Nodes whose passports are revoked.
    refused: HashSet<NodeId>,
}

impl Hub {
    fn way(&mut self, a: NodeId, b: NodeId) -> &watch::Sender<Way> {
        self.ways.entry((a.min(b), a.max(b))).or_insert_with(|| watch::channel(Way::Open).0)
    }
}

impl MemoryNetwork {
    pub fn new() -> MemoryNetwork {
        MemoryNetwork::default()
    }

    /// Adds a node, or brings it back after [`MemoryNetwork::remove`]. Channels that others open go to `incoming`.
    pub fn add(&self, node: NodeId, incoming: mpsc::Sender<Channel>) -> MemoryEndpoint {
        self.hub().nodes.insert(node, incoming);
        MemoryEndpoint { network: self.clone(), node }
    }

    /// Takes a node away, as if its machine had lost power: its connections break, no new ones come about.
    pub fn remove(&self, node: NodeId) {
        let mut hub = self.hub();
        hub.nodes.remove(&node);
        for (ends, way) in &hub.ways {
            if ends.0 == node || ends.1 == node {
                // Those who hold the old way see it cut; new connections get a new one.
                way.send_replace(Way::Cut);
            }
        }
        hub.ways.retain(|ends, _| ends.0 != node && ends.1 != node);
    }

    /// Breaks the connections between two nodes, and keeps new ones from coming about until healed.
    pub fn cut(&self, a: NodeId, b: NodeId) {
        self.hub().way(a, b).send_replace(Way::Cut);
    }

    /// Lets frames between two nodes wait until healed, without breaking anything.
    pub fn hold(&self, a: NodeId, b: NodeId) {
        self.hub().way(a, b).send_replace(Way::Still);
    }

    /// Opens the way between two nodes again.
    pub fn heal(&self, a: NodeId, b: NodeId) {
        self.hub().way(a, b).send_replace(Way::Open);
    }

    /// Refuses a node's connections from now on, as when its passport is revoked.
    pub fn refuse(&self, node: NodeId) {
        self.hub().refused.insert(node);
    }

    fn hub(&self) -> MutexGuard<'_, Hub> {
        // Each use is complete in itself, so a panic elsewhere leaves nothing half done.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One node's place in a [`MemoryNetwork`].
#[derive(Clone)]
pub struct MemoryEndpoint {
    network: MemoryNetwork,
    node: NodeId,
}

impl MemoryEndpoint {
    pub fn node(&self) -> NodeId {
        self.node
    }

    async fn open(&self, to: NodeId, purpose: Purpose) -> Result<Channel, ConnectError> {
        let (incoming, mut way) = {
            let mut hub = self.network.hub();
            if hub.refused.contains(&self.node) || hub.refused.contains(&to) {
                return Err(ConnectError::Refused("its passport was revoked".into()));
            }
            if !hub.nodes.contains_key(&self.node) {
                return Err(ConnectError::Unreachable("this node is down".into()));
            }
            let Some(incoming) = hub.nodes.get(&to).cloned() else {
                return Err(ConnectError::Unreachable(format!("node {} is down", to.short())));
            };
            (incoming, hub.way(self.node, to).subscribe())
        };
        let unreachable = || ConnectError::Unreachable(format!("node {} does not answer", to.short()));
        // A way that is still lets nobody through until it is healed; one that is cut says so at once.
        let settled = timeout(CONNECT_TIME_MAX, way.wait_for(|way| *way != Way::Still)).await;
        if !settled.is_ok_and(|way| way.is_ok_and(|way| *way == Way::Open)) {
            return Err(unreachable());
        }
        let (my_sender, my_queue) = FrameSender::bounded(purpose.queue_bytes_max());
        let (their_sender, their_queue) = FrameSender::bounded(purpose.queue_bytes_max());
        let (to_them, their_receiver) = mpsc::channel(RECEIVED_FRAMES_MAX);
        let (to_me, my_receiver) = mpsc::channel(RECEIVED_FRAMES_MAX);
        // One task a direction; when one ends it takes the other along, as a broken connection does.
        let (both, other) = watch::channel(());
        let both = Arc::new(both);
        tokio::spawn(carry(my_queue, to_them, way.clone(), other.clone(), both.clone()));
        tokio::spawn(carry(their_queue, to_me, way, other, both));
        let theirs =
            Channel { peer: self.node, purpose, sender: their_sender, receiver: their_receiver, home: Home::here() };
        incoming.send(theirs).await.map_err(|_| unreachable())?;
        Ok(Channel { peer: to, purpose, sender: my_sender, receiver: my_receiver, home: Home::here() })
    }
}

impl Network for MemoryEndpoint {
    fn connect(&self, to: NodeId, purpose: Purpose) -> BoxFuture<'_, Result<Channel, ConnectError>> {
        Box::pin(self.open(to, purpose))
    }
}

/// Carries frames one way until an end is dropped, the way is cut, or the other direction has ended.
async fn carry(
    mut queue: FrameQueue,
    deliver: mpsc::Sender<Bytes>,
    mut way: watch::Receiver<Way>,
    mut other: watch::Receiver<()>,
    both: Arc<watch::Sender<()>>,
) {
    let mut cut = way.clone();
    let moving = async {
        while let Some(frame) = queue.next().await {
            let opened = way.wait_for(|way| *way != Way::Still).await.is_ok_and(|way| *way == Way::Open);
            let len = frame.len();
            let bytes = frame.into_bytes();
            if !opened || (!bytes.is_empty() && deliver.send(bytes).await.is_err()) {
                return;
            }
            queue.handed_over(len);
        }
    };
    tokio::select! {
        () = moving => {}
        _ = cut.wait_for(|way| *way == Way::Cut) => {}
        _ = other.changed() => {}
    }
    both.send_replace(());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::network::{Frame, SendError};
    use std::time::Duration;

    struct Pair {
        network: MemoryNetwork,
        a: MemoryEndpoint,
        b: MemoryEndpoint,
        incoming: mpsc::Receiver<Channel>,
    }

    fn pair() -> Pair {
        let network = MemoryNetwork::new();
        let (to_a, _) = mpsc::channel(4);
        let (to_b, incoming) = mpsc::channel(4);
        let (a, b) = (network.add(NodeId::random(), to_a), network.add(NodeId::random(), to_b));
        Pair { network, a, b, incoming }
    }

    impl Pair {
        async fn channel(&mut self) -> (Channel, Channel) {
            let mine = self.a.connect(self.b.node(), Purpose::Data).await.unwrap();
            (mine, self.incoming.recv().await.unwrap())
        }
    }

    #[tokio::test]
    async fn frames_arrive_in_order_and_an_end_is_noticed() {
        let mut pair = pair();
        let (mine, mut theirs) = pair.channel().await;
        assert_eq!((mine.peer, theirs.peer), (pair.b.node(), pair.a.node()));
        for number in 0..2000_u32 {
            mine.sender.send(Frame::one(number.to_le_bytes().to_vec())).unwrap();
        }
        mine.sender.send(Frame::default()).unwrap();
        for number in 0..2000_u32 {
            assert_eq!(theirs.receiver.recv().await.unwrap()[..], number.to_le_bytes());
        }
        drop(mine);
        assert_eq!(theirs.receiver.recv().await, None);
        theirs.sender.closed().await;
    }

    #[tokio::test]
    async fn a_slow_reader_is_bounded() {
        let mut pair = pair();
        let (mine, mut theirs) = pair.channel().await;
        pair.network.hold(pair.a.node(), pair.b.node());
        let mut sent = 0;
        while mine.sender.send(Frame::one(vec![0; 1 << 20])).is_ok() {
            sent += 1;
        }
        assert_eq!(mine.sender.send(Frame::one(vec![0; 1 << 20])), Err(SendError::Full));
        assert_eq!(sent, 8);
        pair.network.heal(pair.a.node(), pair.b.node());
        for _ in 0..sent {
            assert!(theirs.receiver.recv().await.is_some());
        }
    }

    #[tokio::test]
    async fn a_way_is_cut_held_and_healed() {
        let mut pair = pair();
        let (mine, mut theirs) = pair.channel().await;
        let (a, b) = (pair.a.node(), pair.b.node());
        pair.network.hold(a, b);
        mine.sender.send(Frame::one("late")).unwrap();
        let waiting = tokio::time::timeout(Duration::from_millis(50), theirs.receiver.recv()).await;
        assert!(waiting.is_err(), "a frame got through a way that is still");
        pair.network.heal(a, b);
        assert_eq!(theirs.receiver.recv().await.unwrap(), "late");
        pair.network.cut(a, b);
        assert_eq!(theirs.receiver.recv().await, None);
        mine.sender.closed().await;
        assert!(matches!(pair.b.connect(a, Purpose::Data).await, Err(ConnectError::Unreachable(_))));
        pair.network.heal(a, b);
        pair.channel().await;
    }

    #[tokio::test]
    async fn a_node_goes_and_comes_back() {
        let mut pair = pair();
        let (mut mine, _theirs) = pair.channel().await;
        let b = pair.b.node();
        pair.network.remove(b);
        assert_eq!(mine.receiver.recv().await, None);
        assert!(matches!(pair.a.connect(b, Purpose::Data).await, Err(ConnectError::Unreachable(_))));
        assert!(matches!(pair.b.connect(pair.a.node(), Purpose::Data).await, Err(ConnectError::Unreachable(_))));
        let (incoming, receiver) = mpsc::channel(4);
        pair.network.add(b, incoming);
        pair.incoming = receiver;
        pair.channel().await;
        pair.network.refuse(b);
        assert!(matches!(pair.a.connect(b, Purpose::Data).await, Err(ConnectError::Refused(_))));
    }
}
