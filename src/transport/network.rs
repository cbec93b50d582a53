//! The one seam between the cluster and the network: ordered channels of frames between two nodes.

use std::fmt;

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::sync::mpsc;

use crate::base::id::NodeId;

/// What a channel is for: each purpose has connections of its own, so that a snapshot never delays a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Requests and answers: consensus, status, hand-over.
    Control,
    /// The replication of volumes.
    Data,
}

/// One message: up to three pieces that are sent as one without being copied together, and received as one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    pub parts: [Bytes; 3],
}

impl Frame {
    pub fn one(bytes: impl Into<Bytes>) -> Self {
        Self { parts: [bytes.into(), Bytes::new(), Bytes::new()] }
    }

    pub fn len(&self) -> usize {
        self.parts.iter().map(Bytes::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The message as one piece; copies only if there are several.
    pub fn into_bytes(self) -> Bytes {
        if self.parts[1].is_empty() && self.parts[2].is_empty() {
            let [first, ..] = self.parts;
            return first;
        }
        self.parts.concat().into()
    }
}

/// One end of an ordered, authenticated connection. Dropping the sender closes it; the receiver ends when it breaks.
pub struct Channel {
    pub peer: NodeId,
    pub purpose: Purpose,
    pub sender: FrameSender,
    pub receiver: mpsc::Receiver<Bytes>,
}

/// The sending half: bounded by bytes, so that a slow peer is cut off instead of filling the memory.
#[derive(Clone)]
pub struct FrameSender {
    pub(crate) queue: mpsc::UnboundedSender<Frame>,
    pub(crate) waiting_bytes: std::sync::Arc<std::sync::atomic::AtomicUsize>,
    pub(crate) waiting_bytes_max: usize,
}

/// The frame was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    /// More than the bound is waiting for this peer.
    Full,
    Closed,
}

impl FrameSender {
    /// Queues a frame without waiting.
    pub fn send(&self, frame: Frame) -> Result<(), SendError> {
        use std::sync::atomic::Ordering::Relaxed;
        let len = frame.len();
        let waiting = self.waiting_bytes.fetch_add(len, Relaxed);
        if waiting > 0 && waiting + len > self.waiting_bytes_max {
            self.waiting_bytes.fetch_sub(len, Relaxed);
            return Err(SendError::Full);
        }
        self.queue.send(frame).map_err(|_| SendError::Closed)
    }

    pub fn is_closed(&self) -> bool {
        self.queue.is_closed()
    }

    /// Bytes queued and not yet handed to the connection.
    pub fn waiting_bytes(&self) -> usize {
        self.waiting_bytes.load(std::sync::atomic::Ordering::Relaxed)
    }
}

/// Why a node could not be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectError {
    /// No address of this node is known.
    Unknown,
    /// Nothing answers, or the connection broke; the text says at which address and why.
    Unreachable(String),
    /// One side refused the other: a wrong key, a revoked passport, another network, another version.
    Refused(String),
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConnectError::Unknown => f.write_str("no address of this node is known"),
            ConnectError::Unreachable(why) => f.write_str(why),
            ConnectError::Refused(why) => write!(f, "refused: {why}"),
        }
    }
}

impl std::error::Error for ConnectError {}

/// A way to reach nodes; the real one is TLS over TCP, its twin lives in memory.
pub trait Network: Send + Sync + 'static {
    /// Opens a channel to a node. Takes no longer than a few seconds.
    fn connect(&self, to: NodeId, purpose: Purpose) -> BoxFuture<'_, Result<Channel, ConnectError>>;
}
