//! The one seam between the cluster and the network: ordered channels of frames between two nodes.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::runtime::{EnterGuard, Handle};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::base::id::NodeId;

/// What a channel is for: each purpose has connections of its own, so that a snapshot never delays a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Purpose {
    /// Requests and answers: consensus, status, hand-over.
    Control,
    /// The replication of volumes.
    Data,
    /// One request and its answer, by a node that is no member yet but holds an invitation.
    Join,
    /// The dialler only dials out: over this it is told when it is to dial back.
    Calls,
}

impl Purpose {
    /// The bytes that may wait in a sender for a slow peer. Data: rule 4 of the replication protocol. Control: a
    /// few snapshots of the cluster state. Join: one request, or one answer with the state of a large cluster.
    pub fn queue_bytes_max(self) -> usize {
        match self {
            Purpose::Data => 8 << 20,
            Purpose::Control => 32 << 20,
            Purpose::Join => 8 << 20,
            Purpose::Calls => 1 << 20,
        }
    }
}

/// The longest frame; a peer that announces a longer one is cut off.
pub const FRAME_BYTES_MAX: usize = 8 << 20;
/// The received frames that wait for their consumer, by number: beyond, the peer is read no further.
pub const RECEIVED_FRAMES_MAX: usize = 1024;
/// The received frames that wait for their consumer, by bytes (a single frame may be longer).
pub const RECEIVED_BYTES_MAX: usize = 8 << 20;

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

/// Where a connection's tasks run.
#[derive(Clone, Debug)]
pub struct Home {
    runtime: Handle,
    /// Its thread ends once every clone is dropped.
    _kept: Option<Arc<oneshot::Sender<()>>>,
}

impl Home {
    /// The runtime of the caller.
    pub fn here() -> Home {
        Home { runtime: Handle::current(), _kept: None }
    }

    /// A thread of its own, on which a task may wait for a disk without holding up anything but its connection.
    pub fn thread() -> std::io::Result<Home> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (kept, dropped) = oneshot::channel::<()>();
        std::thread::Builder::new().name("serve".into()).spawn(move || {
            // Nothing is ever sent: the end is that nobody can send any more.
            let _ = runtime.block_on(dropped);
        })?;
        Ok(Home { runtime: handle, _kept: Some(Arc::new(kept)) })
    }

    /// Until the guard is dropped, what this thread opens and spawns belongs there.
    pub fn enter(&self) -> EnterGuard<'_> {
        self.runtime.enter()
    }

    /// Runs a task there; the place lasts as long as the task.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        let home = self.clone();
        self.runtime.spawn(async move {
            task.await;
            drop(home);
        })
    }
}

/// One end of an ordered, authenticated connection. Dropping the sender closes it; the receiver ends when it breaks.
pub struct Channel {
    pub peer: NodeId,
    pub purpose: Purpose,
    pub sender: FrameSender,
    pub receiver: mpsc::Receiver<Bytes>,
    /// Where the connection runs; who uses it there wakes no other thread.
    pub home: Home,
}

/// The sending half: bounded by bytes, so that a slow peer is cut off instead of filling the memory.
#[derive(Clone)]
pub struct FrameSender {
    queue: mpsc::UnboundedSender<Frame>,
    waiting_bytes: Arc<AtomicUsize>,
    waiting_bytes_max: usize,
}

/// The frame was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    /// More than the bound is waiting for this peer.
    Full,
    /// The frame is longer than [`FRAME_BYTES_MAX`]; the peer would cut the connection.
    TooLong,
    Closed,
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SendError::Full => "too much is waiting for this node already",
            SendError::TooLong => "the message is longer than the limit of 8 MiB",
            SendError::Closed => "the connection is closed",
        })
    }
}

impl std::error::Error for SendError {}

impl FrameSender {
    /// A sender and the queue that a connection drains, bounded to so many waiting bytes.
    pub(crate) fn bounded(waiting_bytes_max: usize) -> (FrameSender, FrameQueue) {
        let (queue, frames) = mpsc::unbounded_channel();
        let waiting_bytes = Arc::new(AtomicUsize::new(0));
        let sender = FrameSender { queue, waiting_bytes: waiting_bytes.clone(), waiting_bytes_max };
        (sender, FrameQueue { frames, waiting_bytes })
    }

    /// Queues a frame without waiting. An empty frame is a sign of life: the peer's receiver does not see it.
    pub fn send(&self, frame: Frame) -> Result<(), SendError> {
        let len = frame.len();
        if len > FRAME_BYTES_MAX {
            return Err(SendError::TooLong);
        }
        let waiting = self.waiting_bytes.fetch_add(len, Ordering::Relaxed);
        let taken = if waiting > 0 && waiting + len > self.waiting_bytes_max {
            Err(SendError::Full)
        } else {
            self.queue.send(frame).map_err(|_| SendError::Closed)
        };
        if taken.is_err() {
            self.waiting_bytes.fetch_sub(len, Ordering::Relaxed);
        }
        taken
    }

    pub fn is_closed(&self) -> bool {
        self.queue.is_closed()
    }

    /// Whether both are of one connection.
    pub(crate) fn same_channel(&self, other: &FrameSender) -> bool {
        self.queue.same_channel(&other.queue)
    }

    /// Completes once the connection is gone.
    pub async fn closed(&self) {
        self.queue.closed().await;
    }

    /// Bytes queued and not yet handed to the connection.
    pub fn waiting_bytes(&self) -> usize {
        self.waiting_bytes.load(Ordering::Relaxed)
    }
}

/// The other end of a [`FrameSender`]: what a connection takes its frames from. Dropping it closes the sender.
pub(crate) struct FrameQueue {
    frames: mpsc::UnboundedReceiver<Frame>,
    waiting_bytes: Arc<AtomicUsize>,
}

impl FrameQueue {
    /// The next frame, or `None` once every sender is dropped and the queue is empty.
    pub(crate) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Frame>> {
        self.frames.poll_recv(context)
    }

    /// The next frame, or `None` once every sender is dropped and the queue is empty.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        self.frames.recv().await
    }

    /// Says that so many bytes taken from the queue are on their way.
    pub(crate) fn handed_over(&self, bytes: usize) {
        self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_sender_is_bounded_by_bytes_but_takes_one_long_frame() {
        let (sender, mut queue) = FrameSender::bounded(100);
        sender.send(Frame::one(vec![0; 200])).unwrap();
        assert_eq!(sender.send(Frame::one(vec![0; 1])), Err(SendError::Full));
        assert_eq!(sender.waiting_bytes(), 200);
        let frame = queue.next().await.unwrap();
        queue.handed_over(frame.len());
        sender.send(Frame::one(vec![0; 60])).unwrap();
        sender.send(Frame::one(vec![0; 40])).unwrap();
        assert_eq!(sender.send(Frame::one(vec![0; 1])), Err(SendError::Full));
        assert_eq!(sender.send(Frame::one(vec![0; FRAME_BYTES_MAX + 1])), Err(SendError::TooLong));
        drop(queue);
        assert_eq!(sender.send(Frame::default()), Err(SendError::Closed));
        assert!(sender.is_closed());
        sender.closed().await;
    }

    #[test]
    fn a_frame_of_one_piece_is_not_copied() {
        let piece = Bytes::from(vec![7; 10]);
        assert_eq!(Frame::one(piece.clone()).into_bytes().as_ptr(), piece.as_ptr());
        let three = Frame { parts: [piece.slice(..2), piece.slice(..3), piece] };
        assert_eq!((three.len(), three.into_bytes().len()), (15, 15));
    }
}
