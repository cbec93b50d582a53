//! One open connection: a task that moves frames between a channel's queues and the socket.
//!
//! The task does both directions, so nothing is locked: it drains the queue into few large records, writes, reads,
//! and hands frames to the consumer. What waits for the consumer is bounded; when it is full the socket is read no
//! further, and the peer's own bound takes effect.
//!
//! Neither side closes an idle connection. Both send a sign of life (an empty frame) each second in which they sent
//! nothing else, and hold the other for dead after five seconds of silence: a stopped process, a pulled cable and a
//! vanished machine look the same. `TCP_USER_TIMEOUT` does the same for bytes that are never acknowledged.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, timeout};

use crate::transport::network::{FRAME_BYTES_MAX, Frame, FrameQueue, RECEIVED_BYTES_MAX, RECEIVED_FRAMES_MAX};
use crate::transport::stream::{SecureStream, StreamError};

/// How often a side that has nothing to say shows that it lives.
pub const SIGN_OF_LIFE_PERIOD: Duration = Duration::from_secs(1);
/// The silence after which the other side counts as dead.
pub const SILENCE_MAX: Duration = Duration::from_secs(5);
/// How long a closing side waits for what it sent last to arrive.
const LINGER: Duration = Duration::from_secs(1);
/// Encrypted bytes that may wait for the socket: enough to keep it busy, little enough that frames still wait where
/// they are counted.
const OUTGOING_BYTES_MAX: usize = 256 << 10;
/// Plain text encrypted in one go.
const BATCH_BYTES: usize = 128 << 10;

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LinkEnd {
    /// This side dropped the channel.
    Dropped,
    /// The other side closed it.
    PeerClosed,
    Silent,
    /// The peer is no longer welcome; why.
    Unwelcome(String),
    Broken(StreamError),
}

impl fmt::Display for LinkEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LinkEnd::Dropped => f.write_str("closed by this node"),
            LinkEnd::PeerClosed => f.write_str("closed by the other node"),
            LinkEnd::Silent => write!(f, "nothing heard for {} s", SILENCE_MAX.as_secs()),
            LinkEnd::Unwelcome(why) => f.write_str(why),
            LinkEnd::Broken(error) => error.fmt(f),
        }
    }
}

/// Asked each second whether the peer may stay: a revoked passport ends its connections.
pub(crate) type StillWelcome = Box<dyn Fn() -> Result<(), String> + Send>;

/// One open connection and its two queues.
pub(crate) struct Link {
    stream: SecureStream,
    queue: FrameQueue,
    queue_ended: bool,
    inlet: Inlet,
    ticks: Interval,
    sent_since_tick: bool,
    last_heard: Instant,
    still_welcome: StillWelcome,
}

impl Link {
    /// A connection after its greeting. Frames come from `queue` and go to the returned receiver.
    pub(crate) fn new(
        stream: SecureStream,
        queue: FrameQueue,
        still_welcome: StillWelcome,
    ) -> (Link, mpsc::Receiver<Bytes>) {
        let (deliver, receiver) = mpsc::channel(RECEIVED_FRAMES_MAX);
        let now = Instant::now();
        let mut ticks = interval_at(now + SIGN_OF_LIFE_PERIOD, SIGN_OF_LIFE_PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let link = Link {
            stream,
            queue,
            queue_ended: false,
            inlet: Inlet::new(deliver),
            ticks,
            sent_since_tick: false,
            last_heard: now,
            still_welcome,
        };
        (link, receiver)
    }

    /// Moves frames until the connection ends, and says why it did.
    pub(crate) async fn run(mut self) -> LinkEnd {
        // Frames that arrived together with the greeting are there before the socket has news.
        let end = match self.hand_over_all() {
            Err(end) => end,
            Ok(_) => poll_fn(|context| self.poll(context)).await,
        };
        if matches!(end, LinkEnd::Dropped | LinkEnd::Unwelcome(_)) {
            // Best effort: the connection is over either way.
            let _ = timeout(LINGER, self.stream.finish()).await;
        }
        end
    }

    /// Goes round until nothing moves. Reading comes before judging silence, so that a side that was itself stopped
    /// for a while does not blame the other; the clock is asked first, so that a busy connection does not starve it.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<LinkEnd> {
        loop {
            let due = self.ticks.poll_tick(context).is_ready();
            let ended = loop {
                match self.turn(context) {
                    Ok(true) => {}
                    Ok(false) if due => break self.tick().err(),
                    Ok(false) => return Poll::Pending,
                    Err(end) => break Some(end),
                }
            };
            if let Some(end) = ended {
                return Poll::Ready(end);
            }
        }
    }

    /// One round; says whether anything moved.
    fn turn(&mut self, context: &mut Context<'_>) -> Result<bool, LinkEnd> {
        let mut moved = self.take_from_queue(context)?;
        match self.stream.poll_flush(context) {
            Poll::Ready(flushed) => flushed.map_err(LinkEnd::Broken)?,
            Poll::Pending => {}
        }
        if self.queue_ended && !self.stream.has_outgoing() {
            return Err(LinkEnd::Dropped);
        }
        moved |= self.read(context)?;
        Ok(moved)
    }

    /// Encrypts what waits in the queue, as long as the socket keeps up.
    fn take_from_queue(&mut self, context: &mut Context<'_>) -> Result<bool, LinkEnd> {
        let mut staged = 0;
        let mut frames = 0;
        while !self.queue_ended && staged < BATCH_BYTES && self.stream.outgoing_bytes() < OUTGOING_BYTES_MAX {
            match self.queue.poll_next(context) {
                Poll::Ready(Some(frame)) => {
                    frames += 1;
                    staged += frame.len();
                    self.stream.stage(frame);
                }
                Poll::Ready(None) => self.queue_ended = true,
                Poll::Pending => break,
            }
        }
        if frames > 0 {
            self.stream.advance().map_err(LinkEnd::Broken)?;
            self.queue.handed_over(staged);
            self.sent_since_tick = true;
        }
        Ok(frames > 0)
    }

    /// Reads once and hands over the frames that are whole.
    fn read(&mut self, context: &mut Context<'_>) -> Result<bool, LinkEnd> {
        let mut moved = false;
        match self.inlet.poll_ready(context) {
            Poll::Pending => return Ok(false),
            Poll::Ready(true) => moved |= self.hand_over_all()?,
            Poll::Ready(false) => {}
        }
        if self.inlet.is_blocked() {
            return Ok(true);
        }
        if self.stream.is_peer_closed() {
            return Err(LinkEnd::PeerClosed);
        }
        match self.stream.poll_fill(context) {
            Poll::Pending => Ok(moved),
            Poll::Ready(Err(error)) => Err(LinkEnd::Broken(error)),
            Poll::Ready(Ok(false)) => Err(LinkEnd::PeerClosed),
            Poll::Ready(Ok(true)) => {
                self.last_heard = Instant::now();
                self.stream.advance().map_err(LinkEnd::Broken)?;
                self.hand_over_all()?;
                Ok(true)
            }
        }
    }

    fn hand_over_all(&mut self) -> Result<bool, LinkEnd> {
        let mut moved = false;
        while !self.inlet.is_blocked() {
            match self.stream.take_frame(FRAME_BYTES_MAX).map_err(LinkEnd::Broken)? {
                None => break,
                Some(frame) if frame.is_empty() => {}
                Some(frame) => self.inlet.offer(frame),
            }
            moved = true;
        }
        Ok(moved)
    }

    /// Each second: a sign of life if nothing else was sent, and whether the peer is alive and may stay.
    fn tick(&mut self) -> Result<(), LinkEnd> {
        (self.still_welcome)().map_err(LinkEnd::Unwelcome)?;
        if self.inlet.deliver.is_closed() {
            return Err(LinkEnd::Dropped);
        }
        // A side that does not read because its consumer is slow cannot tell whether the other is silent.
        if self.inlet.is_blocked() {
            self.last_heard = Instant::now();
        } else if self.last_heard.elapsed() > SILENCE_MAX {
            return Err(LinkEnd::Silent);
        }
        if !self.sent_since_tick && !self.stream.has_outgoing() {
            self.stream.stage(Frame::default());
            self.stream.advance().map_err(LinkEnd::Broken)?;
        }
        self.sent_since_tick = false;
        Ok(())
    }
}

/// The way to the consumer, bounded by frames and by bytes.
struct Inlet {
    deliver: mpsc::Sender<Bytes>,
    /// The lengths of the frames delivered last; as many as still wait are looked at.
    lengths: VecDeque<usize>,
    bytes: usize,
    /// A frame that found no room.
    held: Option<Bytes>,
    /// Completes when the consumer has taken at least one frame more.
    room: Option<BoxFuture<'static, ()>>,
}

impl Inlet {
    fn new(deliver: mpsc::Sender<Bytes>) -> Self {
        Self { deliver, lengths: VecDeque::new(), bytes: 0, held: None, room: None }
    }

    fn is_blocked(&self) -> bool {
        self.held.is_some()
    }

    /// Delivers a frame, or holds it until there is room. Without a consumer it is dropped: what this side has still
    /// to say goes out first, and the next tick ends the connection.
    fn offer(&mut self, frame: Bytes) {
        let waiting = self.deliver.max_capacity() - self.deliver.capacity();
        while self.lengths.len() > waiting {
            self.bytes -= self.lengths.pop_front().unwrap_or(0);
        }
        let len = frame.len();
        if waiting > 0 && self.bytes + len > RECEIVED_BYTES_MAX {
            return self.hold(frame, waiting);
        }
        match self.deliver.try_send(frame) {
            Ok(()) => {
                self.lengths.push_back(len);
                self.bytes += len;
            }
            Err(mpsc::error::TrySendError::Full(frame)) => self.hold(frame, waiting),
            Err(mpsc::error::TrySendError::Closed(_)) => {}
        }
    }

    fn hold(&mut self, frame: Bytes, waiting: usize) {
        let deliver = self.deliver.clone();
        let one_more = deliver.max_capacity() - waiting + 1;
        self.held = Some(frame);
        self.room = Some(Box::pin(async move {
            // An error means that the consumer is gone, which the next offer notices.
            let _ = deliver.reserve_many(one_more).await;
        }));
    }

    /// Waits for room if a frame is held; says whether one was and has been delivered since.
    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<bool> {
        let Some(room) = &mut self.room else { return Poll::Ready(false) };
        if Pin::new(room).poll(context).is_pending() {
            return Poll::Pending;
        }
        self.room = None;
        match self.held.take() {
            Some(frame) => {
                self.offer(frame);
                Poll::Ready(true)
            }
            None => Poll::Ready(false),
        }
    }
}
