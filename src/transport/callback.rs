//! Nodes that only dial out: behind a NAT or a firewall, they are reached by connections that they open themselves.
//!
//! A node that a member cannot dial stands by at that member: it keeps a channel of [`Purpose::Calls`] open to it. Whoever wants
//! a connection to the node then sends a *call* over that channel, with a ticket; the node dials back, shows the
//! ticket, and from there on is the side that listened. Two nodes of which neither can be dialled meet at a member at which both
//! stand by: it calls both and passes bytes from one to the other. It sees nothing of what they say, for the greeting and its TLS
//! are between the two.
//!
//! ```text
//! W wants N, which stands by at W          W wants N, both stand by at R
//!   W ── Call{t} ──▶ N                       W ── Meet{N, t} ──▶ R ── Call{u} ──▶ N
//!   W ◀── TCP, "INFC" t ── N                                     R ◀─ TCP, "INFC" u ── N
//!   W ── TLS, Hello ──▶ N                    W ◀─── Come{t} ──── R
//!                                            W ── TCP, "INFC" t ▶ R
//!                                            W ── TLS, Hello ─────────────────────▶ N
//! ```
//!
//! A ticket is 16 random bytes, good once and for a few seconds, and proves nothing: who steals one from the wire gets a connection
//! on which the other end wants to see the key of the node that it asked for.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional_with_sizes};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::debug;

use crate::base::error::plain;
use crate::base::id::NodeId;
use crate::transport::network::{Channel, ConnectError, Frame, FrameSender};

/// The first byte of a connection that shows a ticket; TLS begins with another one.
pub(super) const FIRST_BYTE: u8 = MAGIC[0];
const MAGIC: [u8; 4] = *b"INFC";
/// How long a call may take until the connection is there.
pub(super) const CALL_TIME_MAX: Duration = Duration::from_millis(2500);
/// The calls of one member that a node answers at once, and the meetings that it may have at one.
const CALLS_MAX: usize = 64;
/// The meetings that one node makes possible at once.
const MEETINGS_MAX: usize = 256;
/// What is read at once of a meeting's bytes, each way.
const PASS_BYTES: usize = 64 << 10;
/// The longest reason why a call is not answered.
const REASON_CHARS_MAX: usize = 200;

/// Names one connection that is to be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Ticket([u8; 16]);

impl Ticket {
    fn random() -> Self {
        Self(rand::random())
    }
}

/// What goes over a channel of calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Note {
    /// To the one that stands by: dial back and show this.
    Call(Ticket),
    /// To the one at which a node stands by: have it meet that one, which stands by there too.
    Meet(NodeId, Ticket),
    /// To the one that asked for a meeting: the other is there, dial and show this.
    Come(Ticket),
    /// Either way: nothing comes of this, and why.
    Declined(Ticket, String),
}

impl Note {
    fn encode(&self) -> Frame {
        // Postcard into a vector fails for no value of this type: all lengths are known.
        Frame::one(postcard::to_stdvec(self).unwrap_or_default())
    }

    fn decode(bytes: &[u8]) -> Option<Note> {
        postcard::from_bytes(bytes).ok()
    }

    fn declined(ticket: Ticket, why: &str) -> Frame {
        Note::Declined(ticket, why.chars().take(REASON_CHARS_MAX).collect()).encode()
    }
}

/// Who stands by where, and what is on its way.
#[derive(Default)]
pub(super) struct Calls {
    open: Mutex<Open>,
    meetings: Arc<AtomicUsize>,
}

#[derive(Default)]
struct Open {
    /// Those that stand by at this node.
    callers: HashMap<NodeId, FrameSender>,
    /// Those at which this node stands by.
    exchanges: HashMap<NodeId, FrameSender>,
    expected: HashMap<Ticket, oneshot::Sender<Result<Arrival, String>>>,
    /// Those that were not reached but by a meeting, last time.
    met: HashSet<NodeId>,
}

/// What becomes of a ticket.
enum Arrival {
    /// It was shown on this connection.
    Shown(TcpStream),
    /// It is to be shown.
    Come,
}

/// A ticket that is waited for; forgotten once nobody waits.
struct Expected<'a> {
    calls: &'a Calls,
    ticket: Ticket,
    arrives: oneshot::Receiver<Result<Arrival, String>>,
}

impl Drop for Expected<'_> {
    fn drop(&mut self) {
        self.calls.open().expected.remove(&self.ticket);
    }
}

impl Expected<'_> {
    async fn arrival(mut self) -> Result<Arrival, String> {
        match timeout(CALL_TIME_MAX, &mut self.arrives).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err("the call was dropped".to_owned()),
            Err(_) => Err("no answer to a call".to_owned()),
        }
    }

    /// The connection on which the ticket was shown.
    async fn shown(self) -> Result<TcpStream, String> {
        match self.arrival().await? {
            Arrival::Shown(tcp) => Ok(tcp),
            Arrival::Come => Err("a call was answered with a call".to_owned()),
        }
    }
}

impl Calls {
    fn open(&self) -> MutexGuard<'_, Open> {
        // Each use is one insertion, removal or look-up, so a panic elsewhere leaves nothing half done.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn expect(&self) -> Expected<'_> {
        let (deliver, arrives) = oneshot::channel();
        let ticket = Ticket::random();
        self.open().expected.insert(ticket, deliver);
        Expected { calls: self, ticket, arrives }
    }

    /// Whether a node stands by here.
    pub(super) fn is_caller(&self, node: NodeId) -> bool {
        self.open().callers.get(&node).is_some_and(|sender| !sender.is_closed())
    }

    /// Whether a node was reached by a meeting last time.
    pub(super) fn met(&self, node: NodeId) -> bool {
        self.open().met.contains(&node)
    }

    /// A node was reached by a meeting, and not otherwise.
    pub(super) fn has_met(&self, node: NodeId) {
        self.open().met.insert(node);
    }

    /// A node was reached otherwise, or not at all.
    pub(super) fn forget_met(&self, node: NodeId) {
        self.open().met.remove(&node);
    }

    /// A connection from a node that stands by here.
    pub(super) async fn call(&self, node: NodeId) -> Result<TcpStream, ConnectError> {
        let caller = self.open().callers.get(&node).cloned();
        let unreachable = |why: String| ConnectError::Unreachable(format!("the node only dials out: {why}"));
        let Some(caller) = caller else { return Err(ConnectError::Unknown) };
        let expected = self.expect();
        caller.send(Note::Call(expected.ticket).encode()).map_err(|error| unreachable(error.to_string()))?;
        expected.shown().await.map_err(unreachable)
    }

    /// A connection to a node through a member at which both stand by: the first of them that has one. `dial` connects to a
    /// member by TCP.
    pub(super) async fn meet<D, F>(&self, node: NodeId, dial: D) -> Result<TcpStream, ConnectError>
    where
        D: Fn(NodeId) -> F,
        F: Future<Output = Result<TcpStream, String>>,
    {
        let exchanges: Vec<_> = self.open().exchanges.iter().map(|(at, sender)| (*at, sender.clone())).collect();
        let mut worst = ConnectError::Unknown;
        for (at, sender) in exchanges.into_iter().filter(|(at, _)| *at != node) {
            let met = async {
                let expected = self.expect();
                let ticket = expected.ticket;
                sender.send(Note::Meet(node, ticket).encode()).map_err(|error| error.to_string())?;
                match expected.arrival().await? {
                    Arrival::Come => {}
                    Arrival::Shown(_) => return Err("a ticket was shown that was not given out".to_owned()),
                }
                let mut tcp = dial(at).await?;
                show(&mut tcp, ticket).await?;
                Ok(tcp)
            };
            match met.await {
                Ok(tcp) => return Ok(tcp),
                Err(why) => worst = ConnectError::Unreachable(format!("through {}: {why}", at.short())),
            }
        }
        Err(worst)
    }

    /// Takes a connection whose first byte says that it shows a ticket.
    pub(super) async fn arrives(&self, mut tcp: TcpStream) -> Result<(), String> {
        let mut preamble = [0; 20];
        tcp.read_exact(&mut preamble).await.map_err(|error| plain(&error))?;
        let ticket = ticket_in(&preamble).ok_or("that is no ticket")?;
        let deliver = self.open().expected.remove(&ticket).ok_or("nobody waits for this ticket")?;
        // Who has stopped waiting closes it.
        let _ = deliver.send(Ok(Arrival::Shown(tcp)));
        Ok(())
    }

    /// Serves a node that stands by here, until its channel ends.
    pub(super) async fn serve_caller(self: Arc<Self>, mut channel: Channel) {
        let node = channel.peer;
        self.open().callers.insert(node, channel.sender.clone());
        let mut meetings = JoinSet::new();
        while let Some(bytes) = channel.receiver.recv().await {
            while meetings.try_join_next().is_some() {}
            match Note::decode(&bytes) {
                Some(Note::Meet(other, ticket)) => {
                    let place = Place::take(&self.meetings, MEETINGS_MAX).filter(|_| meetings.len() < CALLS_MAX);
                    let other = self.open().callers.get(&other).cloned();
                    let declined = match (place, other) {
                        (Some(place), Some(other)) => {
                            let calls = self.clone();
                            let asked = channel.sender.clone();
                            meetings.spawn(async move {
                                if let Err(why) = calls.introduce(ticket, &asked, &other).await {
                                    // Who is gone needs no answer.
                                    let _ = asked.send(Note::declined(ticket, &why));
                                }
                                drop(place);
                            });
                            continue;
                        }
                        (None, _) => "it makes too many meetings possible already",
                        (_, None) => "the other does not stand by there",
                    };
                    if channel.sender.send(Note::declined(ticket, declined)).is_err() {
                        break;
                    }
                }
                Some(Note::Declined(ticket, why)) => self.declined(ticket, &why),
                Some(Note::Call(_) | Note::Come(_)) | None => break,
            }
        }
        let mut open = self.open();
        // A newer channel of the same node may have taken its place.
        if open.callers.get(&node).is_some_and(FrameSender::is_closed) {
            open.callers.remove(&node);
        }
    }

    /// Has two meet here: the one that asks, with its ticket, and the other, which is called.
    async fn introduce(&self, ticket: Ticket, asks: &FrameSender, other: &FrameSender) -> Result<(), String> {
        let called = self.expect();
        other.send(Note::Call(called.ticket).encode()).map_err(|error| error.to_string())?;
        let mut called = called.shown().await?;
        let (deliver, arrives) = oneshot::channel();
        if self.open().expected.insert(ticket, deliver).is_some() {
            return Err("that ticket is in use".to_owned());
        }
        let asking = Expected { calls: self, ticket, arrives };
        asks.send(Note::Come(ticket).encode()).map_err(|error| error.to_string())?;
        let mut asking = asking.shown().await?;
        // However it ends, both ends see that it did.
        let _ = copy_bidirectional_with_sizes(&mut asking, &mut called, PASS_BYTES, PASS_BYTES).await;
        Ok(())
    }

    fn declined(&self, ticket: Ticket, why: &str) {
        let readable = why.chars().filter(|c| !c.is_control()).take(REASON_CHARS_MAX).collect();
        self.answered(ticket, Err(readable));
    }

    fn answered(&self, ticket: Ticket, how: Result<Arrival, String>) {
        if let Some(waits) = self.open().expected.remove(&ticket) {
            // Who has stopped waiting need not know.
            let _ = waits.send(how);
        }
    }

    /// Stands by at a member until the channel ends: answers each call with a connection that was dialled and has shown its ticket.
    pub(super) async fn stand_by<D, F, A, G>(self: Arc<Self>, mut channel: Channel, dial: D, answer: A)
    where
        D: Fn(NodeId) -> F + Send + 'static,
        F: Future<Output = Result<TcpStream, String>> + Send + 'static,
        A: Fn(TcpStream) -> G + Clone + Send + 'static,
        G: Future<Output = ()> + Send,
    {
        let at = channel.peer;
        self.open().exchanges.insert(at, channel.sender.clone());
        let mut answering = JoinSet::new();
        while let Some(bytes) = channel.receiver.recv().await {
            while answering.try_join_next().is_some() {}
            match Note::decode(&bytes) {
                Some(Note::Call(ticket)) if answering.len() < CALLS_MAX => {
                    let (dialling, answer, sender) = (dial(at), answer.clone(), channel.sender.clone());
                    answering.spawn(async move {
                        let dialled = async {
                            let mut tcp = dialling.await?;
                            show(&mut tcp, ticket).await?;
                            Ok(tcp)
                        };
                        match dialled.await {
                            Ok(tcp) => answer(tcp).await,
                            Err::<_, String>(why) => {
                                debug!(at = %at.short(), %why, "cannot call back");
                                // Who is gone needs no answer.
                                let _ = sender.send(Note::declined(ticket, &why));
                            }
                        }
                    });
                }
                Some(Note::Call(ticket)) => {
                    // Who is gone needs no answer.
                    let _ = channel.sender.send(Note::declined(ticket, "it answers too many calls already"));
                }
                Some(Note::Come(ticket)) => self.answered(ticket, Ok(Arrival::Come)),
                Some(Note::Declined(ticket, why)) => self.declined(ticket, &why),
                Some(Note::Meet(..)) | None => break,
            }
        }
        let mut open = self.open();
        if open.exchanges.get(&at).is_some_and(FrameSender::is_closed) {
            open.exchanges.remove(&at);
        }
    }
}

/// One of a bounded number.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(taken: &Arc<AtomicUsize>, max: usize) -> Option<Place> {
        let before = taken.fetch_add(1, Ordering::Relaxed);
        let place = Place(taken.clone());
        (before < max).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Shows a ticket, as the first thing on a connection.
async fn show(tcp: &mut TcpStream, ticket: Ticket) -> Result<(), String> {
    tcp.write_all(&[&MAGIC[..], &ticket.0].concat()).await.map_err(|error| plain(&error))
}

fn ticket_in(preamble: &[u8; 20]) -> Option<Ticket> {
    let (magic, ticket) = preamble.split_first_chunk::<4>()?;
    (*magic == MAGIC).then_some(Ticket(ticket.try_into().ok()?))
}

/// Whether a connection begins with a ticket; `None` if it ends before it begins.
pub(super) async fn shows_ticket(tcp: &TcpStream) -> std::io::Result<Option<bool>> {
    let mut first = [0];
    Ok((tcp.peek(&mut first).await? == 1).then_some(first[0] == FIRST_BYTE))
}

/// The other end of a connection, for messages.
pub(super) fn far_end(tcp: &TcpStream) -> Result<SocketAddr, ConnectError> {
    tcp.peer_addr().map_err(|error| ConnectError::Unreachable(plain(&error)))
}

/// Fuzz entry: reads any bytes as what goes over a channel of calls, and as a ticket.
pub fn fuzz_calls(bytes: &[u8]) {
    if let Some(note) = Note::decode(bytes) {
        assert_eq!(Note::decode(&note.encode().into_bytes()), Some(note));
    }
    let mut preamble = [0; 20];
    let len = bytes.len().min(preamble.len());
    preamble[..len].copy_from_slice(&bytes[..len]);
    let _ = ticket_in(&preamble).map(|ticket| Bytes::copy_from_slice(&ticket.0));
}
