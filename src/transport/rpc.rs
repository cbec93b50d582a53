//! Requests and answers over a channel: small messages that one node asks of another.
//!
//! ```text
//! offset size   a request                  offset size   an answer
//!      0    8   number, little-endian           0    8   the request's number
//!      8    1   service                         8    1   0 answer, 1 error (UTF-8)
//!      9        the request                     9        the answer
//! ```
//!
//! Requests are pipelined and answered in any order. A connection is made when a call needs one; after a failure
//! calls fail at once with the last reason until the pause is over. When a connection breaks, the calls in flight on
//! it fail at once; whether they were carried out is then unknown, so services must bear being asked again.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::future::{BoxFuture, FutureExt, Shared};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tracing::error;

use crate::base::id::NodeId;
use crate::transport::network::{
    Channel, ConnectError, FRAME_BYTES_MAX, Frame, FrameSender, Network, Purpose, SendError,
};

const HEAD_BYTES: usize = 9;
const STATUS_ANSWER: u8 = 0;
const STATUS_ERROR: u8 = 1;
/// The requests of one connection that are handled at once; more wait in the connection.
pub const CONCURRENT_REQUESTS_MAX: usize = 64;
/// The calls to one node that wait for an answer.
pub const CALLS_MAX: usize = 4096;
/// The longest request or answer.
pub const MESSAGE_BYTES_MAX: usize = FRAME_BYTES_MAX - HEAD_BYTES;
/// The pause after the first failure to connect; doubled with each, up to [`RETRY_PAUSE_MAX`].
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(50);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Answers requests. A Join channel needs a handler of its own, that serves joining alone: its peer is no member.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request of a node; the error is text for the caller. Runs on even if the connection breaks.
    fn handle(&self, from: NodeId, service: u8, request: Bytes) -> BoxFuture<'static, Result<Bytes, String>>;
}

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RpcError {
    /// The node is not reachable, or refuses us.
    Connect(ConnectError),
    /// The connection broke before the answer; the request may have been carried out.
    Broken,
    /// No answer in time; the request may have been carried out.
    TimedOut,
    /// The other node answered with an error.
    Remote(String),
    /// Too much is waiting for this node already.
    Busy,
    /// The request is longer than [`MESSAGE_BYTES_MAX`].
    TooLong,
}

impl fmt::Display for RpcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RpcError::Connect(error) => error.fmt(f),
            RpcError::Broken => f.write_str("the connection broke before the answer"),
            RpcError::TimedOut => f.write_str("no answer in time"),
            RpcError::Remote(why) => f.write_str(why),
            RpcError::Busy => f.write_str("too much is waiting for this node already"),
            RpcError::TooLong => f.write_str("the request is too long"),
        }
    }
}

impl std::error::Error for RpcError {}

/// Calls to one node, over one connection at a time.
#[derive(Clone)]
pub struct RpcClient {
    shared: Arc<ClientShared>,
}

struct ClientShared {
    network: Arc<dyn Network>,
    peer: NodeId,
    purpose: Purpose,
    state: Mutex<State>,
}

type Connecting = Shared<BoxFuture<'static, Result<Arc<Wire>, ConnectError>>>;

enum State {
    Down { failures: u32, retry: Option<(Instant, ConnectError)> },
    Connecting { failures: u32, attempt: Connecting },
    Up(Arc<Wire>),
}

/// What a call goes over.
enum Way {
    Stands(Arc<Wire>),
    Attempt(Connecting),
}

impl RpcClient {
    /// A client for one node; connects at the first call.
    pub fn new(network: Arc<dyn Network>, peer: NodeId, purpose: Purpose) -> RpcClient {
        let state = Mutex::new(State::Down { failures: 0, retry: None });
        RpcClient { shared: Arc::new(ClientShared { network, peer, purpose, state }) }
    }

    pub fn peer(&self) -> NodeId {
        self.shared.peer
    }

    /// Whether a connection stands right now.
    pub fn is_connected(&self) -> bool {
        matches!(&*self.shared.state(), State::Up(wire) if !wire.is_broken())
    }

    /// Asks a service of the node. `limit` bounds everything, connecting included.
    pub async fn call(&self, service: u8, request: Bytes, limit: Duration) -> Result<Bytes, RpcError> {
        let asked = async {
            let wire = self.shared.wire().await.map_err(RpcError::Connect)?;
            wire.call(service, request).await
        };
        timeout(limit, asked).await.unwrap_or(Err(RpcError::TimedOut))
    }
}

impl ClientShared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Each use replaces the whole state in one go, so a panic elsewhere leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection that stands, or the one that comes of the attempt under way or begun here.
    async fn wire(self: &Arc<Self>) -> Result<Arc<Wire>, ConnectError> {
        let attempt = match self.standing_or_attempt()? {
            Way::Stands(wire) => return Ok(wire),
            Way::Attempt(attempt) => attempt,
        };
        attempt.await
    }

    fn standing_or_attempt(self: &Arc<Self>) -> Result<Way, ConnectError> {
        let mut state = self.state();
        let failures = match &*state {
            State::Up(wire) if !wire.is_broken() => return Ok(Way::Stands(wire.clone())),
            State::Up(_) => 0,
            // An attempt that ended without setting the state was cut off with its runtime.
            State::Connecting { failures, attempt } if attempt.peek().is_some() => *failures,
            State::Connecting { attempt, .. } => return Ok(Way::Attempt(attempt.clone())),
            State::Down { retry: Some((at, error)), .. } if Instant::now() < *at => return Err(error.clone()),
            State::Down { failures, .. } => *failures,
        };
        let attempt = self.begin(failures);
        *state = State::Connecting { failures, attempt: attempt.clone() };
        Ok(Way::Attempt(attempt))
    }

    /// Connects in a task of its own, so that a call with a short limit does not throw the attempt away.
    fn begin(self: &Arc<Self>, failures: u32) -> Connecting {
        let (network, peer, purpose) = (self.network.clone(), self.peer, self.purpose);
        let client: Weak<ClientShared> = Arc::downgrade(self);
        let task = tokio::spawn(async move {
            let result = network.connect(peer, purpose).await.map(Wire::start);
            if let Some(client) = client.upgrade() {
                *client.state() = match &result {
                    Ok(wire) => State::Up(wire.clone()),
                    Err(error) => {
                        let pause = RETRY_PAUSE_MIN * 2_u32.saturating_pow(failures.min(10));
                        let retry = Some((Instant::now() + pause.min(RETRY_PAUSE_MAX), error.clone()));
                        State::Down { failures: failures + 1, retry }
                    }
                };
            }
            result
        });
        async move { task.await.unwrap_or_else(|_| Err(ConnectError::Unreachable("connecting was cut off".into()))) }
            .boxed()
            .shared()
    }
}

/// Asks once over a channel of its own, as a node that wants to join does.
pub async fn ask(channel: Channel, service: u8, request: Bytes, limit: Duration) -> Result<Bytes, RpcError> {
    let wire = Wire::start(channel);
    timeout(limit, wire.call(service, request)).await.unwrap_or(Err(RpcError::TimedOut))
}

/// One connection with its calls in flight.
struct Wire {
    sender: FrameSender,
    calls: Arc<Mutex<Calls>>,
    next: AtomicU64,
}

#[derive(Default)]
struct Calls {
    waiting: HashMap<u64, oneshot::Sender<Result<Bytes, RpcError>>>,
    broken: bool,
}

/// Forgets a call when its caller has stopped waiting.
struct CallGuard<'a> {
    calls: &'a Mutex<Calls>,
    number: u64,
}

impl Drop for CallGuard<'_> {
    fn drop(&mut self) {
        lock(self.calls).waiting.remove(&self.number);
    }
}

fn lock(calls: &Mutex<Calls>) -> MutexGuard<'_, Calls> {
    // Each use is one insertion or removal, so a panic elsewhere leaves nothing half done.
    calls.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Wire {
    fn start(channel: Channel) -> Arc<Wire> {
        let calls = Arc::new(Mutex::new(Calls::default()));
        tokio::spawn(receive_answers(channel.receiver, calls.clone()));
        Arc::new(Wire { sender: channel.sender, calls, next: AtomicU64::new(0) })
    }

    fn is_broken(&self) -> bool {
        self.sender.is_closed() || lock(&self.calls).broken
    }

    async fn call(&self, service: u8, request: Bytes) -> Result<Bytes, RpcError> {
        if request.len() > MESSAGE_BYTES_MAX {
            return Err(RpcError::TooLong);
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        {
            let mut calls = lock(&self.calls);
            if calls.broken {
                return Err(RpcError::Broken);
            }
            if calls.waiting.len() >= CALLS_MAX {
                return Err(RpcError::Busy);
            }
            calls.waiting.insert(number, answer);
        }
        let _guard = CallGuard { calls: &self.calls, number };
        self.sender.send(message(number, service, request)).map_err(|error| match error {
            SendError::Full => RpcError::Busy,
            SendError::TooLong => RpcError::TooLong,
            SendError::Closed => RpcError::Broken,
        })?;
        answered.await.unwrap_or(Err(RpcError::Broken))
    }
}

async fn receive_answers(mut receiver: mpsc::Receiver<Bytes>, calls: Arc<Mutex<Calls>>) {
    while let Some(bytes) = receiver.recv().await {
        let Some((number, status, body)) = split(bytes) else { break };
        let answer = match status {
            STATUS_ANSWER => Ok(body),
            STATUS_ERROR => Err(RpcError::Remote(String::from_utf8_lossy(&body).into_owned())),
            // A peer that answers nonsense is cut off.
            _ => break,
        };
        // A caller that gave up meanwhile does not mind.
        if let Some(waiting) = lock(&calls).waiting.remove(&number) {
            let _ = waiting.send(answer);
        }
    }
    let mut calls = lock(&calls);
    calls.broken = true;
    calls.waiting.clear();
}

fn message(number: u64, tag: u8, body: Bytes) -> Frame {
    let mut head = BytesMut::with_capacity(HEAD_BYTES);
    head.put_u64_le(number);
    head.put_u8(tag);
    Frame { parts: [head.freeze(), body, Bytes::new()] }
}

fn split(mut bytes: Bytes) -> Option<(u64, u8, Bytes)> {
    if bytes.len() < HEAD_BYTES {
        return None;
    }
    let (number, tag) = (bytes.get_u64_le(), bytes.get_u8());
    Some((number, tag, bytes))
}

/// Answers the requests of one channel until it ends. On a Join channel that is one request.
pub async fn serve(mut channel: Channel, handler: Arc<dyn Handler>) {
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            Some(ended) = running.join_next(), if !running.is_empty() => {
                if let Err(panicked) = ended {
                    // The caller must not wait for an answer that never comes: closing fails its calls at once.
                    error!(peer = %channel.peer.short(), %panicked, "answering a request failed");
                    break;
                }
                if channel.purpose == Purpose::Join {
                    break;
                }
            }
            frame = channel.receiver.recv(), if running.len() < CONCURRENT_REQUESTS_MAX => {
                let Some((number, service, request)) = frame.and_then(split) else { break };
                if channel.purpose == Purpose::Join && number > 0 {
                    break;
                }
                let answering = handler.handle(channel.peer, service, request);
                let sender = channel.sender.clone();
                running.spawn(async move {
                    let (status, body) = match answering.await {
                        Ok(body) if body.len() > MESSAGE_BYTES_MAX => {
                            (STATUS_ERROR, Bytes::from_static(b"the answer is too long"))
                        }
                        Ok(body) => (STATUS_ANSWER, body),
                        Err(why) => (STATUS_ERROR, why.into()),
                    };
                    // A peer that is gone, or does not read its answers, does not get this one.
                    let _ = sender.send(message(number, status, body));
                });
            }
        }
    }
    // A handler under way is not cut off in the middle of what it does.
    running.detach_all();
}

/// Fuzz entry: reads any bytes as a request or an answer.
pub fn fuzz_message(bytes: &[u8]) {
    // Whatever it is taken for, it must not panic.
    let _ = split(Bytes::copy_from_slice(bytes));
}

#[cfg(test)]
#[path = "rpc_tests.rs"]
mod tests;
