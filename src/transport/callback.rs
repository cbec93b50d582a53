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

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional_with_sizes};
use tokio::net::TcpStream;
use tokio::sync::{Notify, oneshot};
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
/// The calls of one member that a node answers at once.
const CALLS_MAX: usize = 256;
/// The meetings that one node makes possible at once, in all and for each that asks.
const MEETINGS_MAX: usize = 1024;
const MEETINGS_OF_ONE_MAX: usize = 256;
/// The members that are asked at once for a meeting.
const ASKED_MAX: usize = 4;
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
    /// To the one that stands by: it can be dialled, and need not.
    Needless,
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
}

#[derive(Default)]
struct Open {
    /// Those that stand by at this node.
    callers: HashMap<NodeId, Caller>,
    /// Those at which this node stands by.
    exchanges: HashMap<NodeId, Exchange>,
    expected: HashMap<Ticket, oneshot::Sender<Result<Arrival, String>>>,
    /// Those that were reached by a meeting, last time.
    met: HashSet<NodeId>,
    /// The meetings that were asked for, by whom.
    meetings: HashMap<NodeId, usize>,
}

#[derive(Clone)]
struct Caller {
    sender: FrameSender,
    needless: Arc<Notify>,
}

#[derive(Clone)]
struct Exchange {
    sender: FrameSender,
    /// Where it was found to be the one that it is.
    at: SocketAddr,
}

/// How standing by ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stood {
    /// The member can dial this node after all.
    Needless,
    Broken,
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
        self.open().callers.get(&node).is_some_and(|caller| !caller.sender.is_closed())
    }

    /// A node that stands by here was dialled: it need not.
    pub(super) fn dismiss(&self, node: NodeId) {
        if let Some(caller) = self.open().callers.remove(&node) {
            caller.needless.notify_one();
        }
    }

    /// Whether this node stands by anywhere.
    pub(super) fn may_meet(&self) -> bool {
        self.open().exchanges.values().any(|exchange| !exchange.sender.is_closed())
    }

    /// Whether a node was reached by a meeting last time.
    pub(super) fn met(&self, node: NodeId) -> bool {
        self.open().met.contains(&node)
    }

    /// Whether a node was now reached by a meeting, or otherwise.
    pub(super) fn set_met(&self, node: NodeId, met: bool) {
        let mut open = self.open();
        if met {
            open.met.insert(node);
        } else {
            open.met.remove(&node);
        }
    }

    /// A connection from a node that stands by here.
    pub(super) async fn call(&self, node: NodeId) -> Result<TcpStream, ConnectError> {
        let caller = self.open().callers.get(&node).cloned();
        let Some(Caller { sender, .. }) = caller else { return Err(ConnectError::Unknown) };
        let called = self.called(&sender).await;
        called.map_err(|why| ConnectError::Unreachable(format!("the node only dials out: {why}")))
    }

    /// A connection from whoever is at the other end.
    async fn called(&self, sender: &FrameSender) -> Result<TcpStream, String> {
        let expected = self.expect();
        sender.send(Note::Call(expected.ticket).encode()).map_err(|error| error.to_string())?;
        tokio::select! {
            biased;
            shown = expected.shown() => shown,
            () = sender.closed() => Err("its connection is gone".to_owned()),
        }
    }

    /// A connection to a node through a member at which both stand by: the first that has one. `dial` connects by TCP.
    pub(super) async fn meet<D, F>(&self, node: NodeId, dial: D) -> Result<TcpStream, ConnectError>
    where
        D: Fn(SocketAddr) -> F,
        F: Future<Output = Result<TcpStream, ConnectError>>,
    {
        let exchanges: Vec<(NodeId, Exchange)> = {
            let open = self.open();
            // In the order of the table, which is another one in each process.
            let usable = open.exchanges.iter().filter(|(at, exchange)| **at != node && !exchange.sender.is_closed());
            usable.map(|(at, exchange)| (*at, exchange.clone())).take(ASKED_MAX).collect()
        };
        let asked = exchanges.into_iter().map(async |(at, exchange)| {
            let expected = self.expect();
            let ticket = expected.ticket;
            let sent = exchange.sender.send(Note::Meet(node, ticket).encode()).map_err(|error| error.to_string());
            let arrival = match sent {
                Ok(()) => expected.arrival().await,
                Err(why) => Err(why),
            };
            (at, exchange, ticket, arrival)
        });
        let mut asked: FuturesUnordered<_> = asked.collect();
        let mut worst = ConnectError::Unknown;
        while let Some((through, exchange, ticket, arrival)) = asked.next().await {
            let met = async {
                match arrival? {
                    Arrival::Come => {}
                    Arrival::Shown(_) => return Err("a ticket was shown that was not given out".to_owned()),
                }
                let mut tcp = dial(exchange.at).await.map_err(|error| error.to_string())?;
                show(&mut tcp, ticket).await?;
                Ok(tcp)
            };
            match met.await {
                Ok(tcp) => return Ok(tcp),
                Err(why) => worst = ConnectError::Unreachable(format!("through {}: {why}", through.short())),
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

    /// Serves a node that stands by here, until its channel ends or it need not.
    pub(super) async fn serve_caller(self: Arc<Self>, mut channel: Channel) {
        let node = channel.peer;
        let caller = Caller { sender: channel.sender.clone(), needless: Arc::default() };
        self.open().callers.insert(node, caller.clone());
        let _listed = Listed { calls: &self, node, sender: &caller.sender };
        let mut meetings = JoinSet::new();
        loop {
            let bytes = tokio::select! {
                received = channel.receiver.recv() => match received {
                    Some(bytes) => bytes,
                    None => return,
                },
                () = caller.needless.notified() => {
                    // It finds out by the end of the channel too.
                    let _ = channel.sender.send(Note::Needless.encode());
                    return;
                }
            };
            while meetings.try_join_next().is_some() {}
            match Note::decode(&bytes) {
                Some(Note::Meet(other, ticket)) => {
                    let (calls, asks) = (self.clone(), channel.sender.clone());
                    meetings.spawn(async move {
                        if let Err(why) = calls.introduce(ticket, node, &asks, other).await {
                            // Who is gone needs no answer.
                            let _ = asks.send(Note::declined(ticket, &why));
                        }
                    });
                }
                Some(Note::Declined(ticket, why)) => self.declined(ticket, &why),
                Some(Note::Call(_) | Note::Come(_) | Note::Needless) | None => return,
            }
        }
    }

    /// Has two meet here: the one that asks, with its ticket, and another, which is called.
    async fn introduce(&self, ticket: Ticket, node: NodeId, asks: &FrameSender, other: NodeId) -> Result<(), String> {
        let Some(_place) = Place::take(self, node) else {
            return Err("it makes too many meetings possible already".to_owned());
        };
        let other = self.open().callers.get(&other).map(|caller| caller.sender.clone());
        let other = other.ok_or("the other does not stand by there")?;
        let mut called = self.called(&other).await?;
        let (deliver, arrives) = oneshot::channel();
        match self.open().expected.entry(ticket) {
            Entry::Vacant(vacant) => vacant.insert(deliver),
            Entry::Occupied(_) => return Err("that ticket is in use".to_owned()),
        };
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

    /// Stands by at a member, which was found there, until the channel ends: answers each call with a connection that was dialled
    /// and has shown its ticket.
    pub(super) async fn stand_by<D, F, A, G>(
        self: Arc<Self>,
        mut channel: Channel,
        at: SocketAddr,
        dial: D,
        answer: A,
    ) -> Stood
    where
        D: Fn(SocketAddr) -> F + Send + 'static,
        F: Future<Output = Result<TcpStream, ConnectError>> + Send + 'static,
        A: Fn(TcpStream) -> G + Clone + Send + 'static,
        G: Future<Output = ()> + Send,
    {
        let node = channel.peer;
        self.open().exchanges.insert(node, Exchange { sender: channel.sender.clone(), at });
        let sender = channel.sender.clone();
        let _listed = Listed { calls: &self, node, sender: &sender };
        let mut answering = JoinSet::new();
        while let Some(bytes) = channel.receiver.recv().await {
            while answering.try_join_next().is_some() {}
            match Note::decode(&bytes) {
                Some(Note::Call(ticket)) if answering.len() < CALLS_MAX => {
                    let (dialling, answer, sender) = (dial(at), answer.clone(), sender.clone());
                    answering.spawn(async move {
                        let dialled = async {
                            let mut tcp = dialling.await.map_err(|error| error.to_string())?;
                            show(&mut tcp, ticket).await?;
                            Ok(tcp)
                        };
                        match dialled.await {
                            Ok(tcp) => answer(tcp).await,
                            Err::<_, String>(why) => {
                                debug!(at = %node.short(), %why, "cannot call back");
                                // Who is gone needs no answer.
                                let _ = sender.send(Note::declined(ticket, &why));
                            }
                        }
                    });
                }
                Some(Note::Call(ticket)) => {
                    // Who is gone needs no answer.
                    let _ = sender.send(Note::declined(ticket, "it answers too many calls already"));
                }
                Some(Note::Come(ticket)) => self.answered(ticket, Ok(Arrival::Come)),
                Some(Note::Declined(ticket, why)) => self.declined(ticket, &why),
                Some(Note::Needless) => return Stood::Needless,
                Some(Note::Meet(..)) | None => return Stood::Broken,
            }
        }
        Stood::Broken
    }
}

/// An entry of the lists of who stands by where, for as long as its channel is served.
struct Listed<'a> {
    calls: &'a Calls,
    node: NodeId,
    sender: &'a FrameSender,
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        let mut open = self.calls.open();
        // A newer channel of the same node may have taken its place.
        if open.callers.get(&self.node).is_some_and(|caller| caller.sender.same_channel(self.sender)) {
            open.callers.remove(&self.node);
        }
        if open.exchanges.get(&self.node).is_some_and(|exchange| exchange.sender.same_channel(self.sender)) {
            open.exchanges.remove(&self.node);
        }
    }
}

/// A meeting, counted for the one that asked for it.
struct Place<'a> {
    calls: &'a Calls,
    node: NodeId,
}

impl Place<'_> {
    fn take(calls: &Calls, node: NodeId) -> Option<Place<'_>> {
        let mut open = calls.open();
        if open.meetings.values().sum::<usize>() >= MEETINGS_MAX {
            return None;
        }
        let own = open.meetings.entry(node).or_default();
        if *own >= MEETINGS_OF_ONE_MAX {
            return None;
        }
        *own += 1;
        Some(Place { calls, node })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Entry::Occupied(mut own) = self.calls.open().meetings.entry(self.node) {
            *own.get_mut() -= 1;
            if *own.get() == 0 {
                own.remove();
            }
        }
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
