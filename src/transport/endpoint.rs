//! A node's data plane: it listens for its fellows and dials them.
//!
//! What a stranger can cost is bounded: a greeting may take [`GREETING_TIME_MAX`], so many may be under way
//! ([`GREETINGS_MAX`]; when one more comes the oldest is dropped, so that a crowd of half-open connections does not
//! keep a fellow out), and nothing long is read before a passport was proved.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::{BoxFuture, Either, FutureExt};
use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};
use tracing::debug;

use crate::base::address::Address;
use crate::base::clock::wall_seconds;
use crate::base::error::plain;
use crate::base::id::NodeId;
use crate::transport::callback::{Calls, Stood, far_end, shows_ticket};
use crate::transport::hello::{Greeting, HELLO_BYTES_MAX, Hello, Refused};
use crate::transport::identity::NodeKey;
use crate::transport::link::{Link, SILENCE_MAX, StillWelcome};
use crate::transport::network::{Channel, ConnectError, FrameSender, Home, Network, Purpose};
use crate::transport::passport::Passport;
use crate::transport::resolver::{ResolveError, resolve};
use crate::transport::stream::{SecureStream, StreamError};
use crate::transport::tls::{Tls, TlsError};

/// The time to reach a node over any of its addresses.
pub const CONNECT_TIME_MAX: Duration = Duration::from_secs(3);
/// The time to reach one by any way.
const REACH_TIME_MAX: Duration = Duration::from_secs(6);
/// How much later the less likely way to a node is tried.
const HEAD_START: Duration = Duration::from_millis(300);
/// The part of it that names may take to be resolved; the rest is for dialling.
const NAME_TIME_MAX: Duration = Duration::from_millis(1500);
/// The most addresses of one name that are tried.
const NAME_ADDRESSES_MAX: usize = 4;
/// The time a stranger has to prove who it is.
pub const GREETING_TIME_MAX: Duration = Duration::from_secs(3);
/// The greetings under way at once; a fellow needs milliseconds for one.
pub const GREETINGS_MAX: usize = 128;
/// The connections one node may hold open to this one: a few a purpose, and room for those not yet noticed dead.
pub const CONNECTIONS_PER_NODE_MAX: usize = 64;
/// The nodes that may be joining at once.
pub const JOINS_MAX: usize = 16;
/// The time that a connection for joining may last.
const JOIN_TIME_MAX: Duration = Duration::from_secs(30);
/// How long to wait before accepting again when the system has no more descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What the cluster knows of nodes; asked at each connection, and each second for those that are open.
pub trait Admission: Send + Sync {
    /// Whether this node, whose passport was found genuine, is welcome: a member, not revoked. The reason if not.
    fn admit(&self, passport: &Passport) -> Result<(), String>;
    /// Where the data plane of a node may be reached, best first.
    fn addresses(&self, node: NodeId) -> Vec<Address>;
}

/// The dialling half of the data plane; enough for a node that only wants to join.
#[derive(Clone)]
pub struct Dialer {
    shared: Arc<Shared>,
}

struct Shared {
    node: NodeId,
    passport: Passport,
    tls: Tls,
    admission: Arc<dyn Admission>,
    links: Mutex<Links>,
    calls: Arc<Calls>,
}

/// The open connections.
#[derive(Default)]
struct Links {
    next: u64,
    open: HashMap<u64, OpenLink>,
}

struct OpenLink {
    peer: NodeId,
    purpose: Purpose,
    inbound: bool,
    task: AbortHandle,
}

impl Dialer {
    /// A dialler with this key and passport.
    pub fn new(key: &NodeKey, passport: Passport, admission: Arc<dyn Admission>) -> Result<Dialer, EndpointError> {
        passport
            .verify_holder(passport.network(), key.node(), wall_seconds())
            .map_err(|error| EndpointError::Passport(error.to_string()))?;
        let tls = Tls::new(key)?;
        let shared =
            Shared { node: key.node(), passport, tls, admission, links: Mutex::default(), calls: Arc::default() };
        Ok(Dialer { shared: Arc::new(shared) })
    }

    /// Opens a channel to a node at one of these addresses, tried in turn, within [`CONNECT_TIME_MAX`]. Names are
    /// resolved anew each time.
    pub async fn connect_at(
        &self,
        node: NodeId,
        addresses: &[Address],
        purpose: Purpose,
    ) -> Result<Channel, ConnectError> {
        Ok(self.connected_at(node, addresses, purpose).await?.0)
    }

    /// As [`Self::connect_at`], with the address that it was.
    async fn connected_at(
        &self,
        node: NodeId,
        addresses: &[Address],
        purpose: Purpose,
    ) -> Result<(Channel, SocketAddr), ConnectError> {
        let end = Instant::now() + CONNECT_TIME_MAX;
        let (places, unresolved) = places(addresses).await;
        let mut worst = unresolved.map_or(ConnectError::Unknown, |why| ConnectError::Unreachable(why.to_string()));
        for (index, address) in places.iter().enumerate() {
            // One address that swallows everything must not use up the time of the others.
            let share = end.saturating_duration_since(Instant::now()) / (places.len() - index) as u32;
            let error = match timeout(share, self.shared.dial(node, *address, purpose)).await {
                Ok(Ok(channel)) => return Ok((channel, *address)),
                Ok(Err(error)) => error,
                Err(_) => ConnectError::Unreachable(format!("{address} does not answer")),
            };
            if !matches!(worst, ConnectError::Refused(_)) {
                worst = error;
            }
        }
        Err(worst)
    }

    /// Opens a channel to a member: dials it, calls it if it stands by here, and meets it where both stand by; whatever is there
    /// first. What is likelier has a head start.
    async fn reach(&self, to: NodeId, purpose: Purpose) -> Result<Channel, ConnectError> {
        let calls = &self.shared.calls;
        let (is_caller, met_before) = (calls.is_caller(to), calls.met(to));
        let addresses = self.shared.admission.addresses(to);
        if !is_caller && !calls.may_meet() {
            return self.connect_at(to, &addresses, purpose).await;
        }
        let dialled = async {
            if is_caller || met_before {
                sleep(HEAD_START).await;
            }
            let channel = self.connect_at(to, &addresses, purpose).await?;
            calls.dismiss(to);
            calls.set_met(to, false);
            Ok(channel)
        };
        let otherwise = async {
            if is_caller {
                return self.shared.greet_called(calls.call(to).await, to, purpose).await;
            }
            if !met_before {
                sleep(HEAD_START).await;
            }
            let channel = self.shared.greet_called(calls.meet(to, dial_tcp).await, to, purpose).await?;
            calls.set_met(to, true);
            Ok(channel)
        };
        match timeout(REACH_TIME_MAX, select_ok([dialled.boxed(), otherwise.boxed()])).await {
            Ok(reached) => reached,
            Err(_) => Err(ConnectError::Unreachable("it does not answer in time".to_owned())),
        }
    }

    /// Begins to stand by at a member that cannot dial this node. What is returned lasts as long as the connection to it: this node is
    /// told when to dial back, and `incoming` gets the channels that come of it.
    pub async fn stand_by(
        &self,
        at: NodeId,
        incoming: mpsc::Sender<Channel>,
    ) -> Result<BoxFuture<'static, Stood>, ConnectError> {
        let addresses = self.shared.admission.addresses(at);
        let (channel, found) = self.connected_at(at, &addresses, Purpose::Calls).await?;
        let shared = self.shared.clone();
        let answer = move |tcp| {
            let (shared, incoming) = (shared.clone(), incoming.clone());
            async move { shared.received(tcp, &incoming, "a call").await }
        };
        Ok(self.shared.calls.clone().stand_by(channel, found, dial_tcp, answer).boxed())
    }

    /// Whether a node was last reached by a meeting at a third one.
    pub fn meets(&self, node: NodeId) -> bool {
        self.shared.calls.met(node)
    }

    /// Whether a node stands by here, and is called instead of dialled.
    pub fn calls(&self, node: NodeId) -> bool {
        self.shared.calls.is_caller(node)
    }

    /// Ends all connections with a node, whichever side opened them.
    pub fn disconnect(&self, node: NodeId) {
        self.shared.links().open.retain(|_, link| {
            if link.peer == node {
                link.task.abort();
            }
            link.peer != node
        });
    }

    /// The open connections: the other end and the purpose of each.
    pub fn connections(&self) -> Vec<(NodeId, Purpose)> {
        self.shared.links().open.values().map(|link| (link.peer, link.purpose)).collect()
    }
}

/// The first of two that succeeds; what both say if none does.
async fn select_ok(ways: [BoxFuture<'_, Result<Channel, ConnectError>>; 2]) -> Result<Channel, ConnectError> {
    let [dialled, otherwise] = ways;
    let first = futures::future::select(dialled, otherwise).await;
    let (first, other) = match first {
        Either::Left((first, other)) | Either::Right((first, other)) => (first, other),
    };
    let Err(first) = first else { return first };
    let other = match other.await {
        Ok(channel) => return Ok(channel),
        Err(other) => other,
    };
    Err(match (first, other) {
        (ConnectError::Unknown, why) | (why, ConnectError::Unknown) => why,
        // Whoever refuses is there.
        (refused @ ConnectError::Refused(_), _) | (_, refused @ ConnectError::Refused(_)) => refused,
        (one, other) => ConnectError::Unreachable(format!("{one}; {other}")),
    })
}

/// The addresses behind a node's addresses and names, in their order, and why a name has none.
async fn places(addresses: &[Address]) -> (Vec<SocketAddr>, Option<ResolveError>) {
    let resolving = addresses.iter().map(|address| resolve(address, NAME_TIME_MAX));
    let mut places: Vec<SocketAddr> = Vec::new();
    let mut unresolved = None;
    for resolved in futures::future::join_all(resolving).await {
        match resolved {
            Ok(found) => places.extend(found.into_iter().take(NAME_ADDRESSES_MAX)),
            Err(why) => unresolved = Some(why),
        }
    }
    (places, unresolved)
}

impl Network for Dialer {
    fn connect(&self, to: NodeId, purpose: Purpose) -> BoxFuture<'_, Result<Channel, ConnectError>> {
        Box::pin(self.reach(to, purpose))
    }
}

impl Shared {
    fn links(&self) -> MutexGuard<'_, Links> {
        // A panic while the lock was held leaves nothing half done: each use is one insertion, removal or count.
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hello(&self, purpose: Purpose) -> Greeting {
        let (network, passport) = (self.passport.network(), self.passport.clone());
        Greeting::Hello(Box::new(Hello { network, purpose, passport }))
    }

    async fn dial(self: &Arc<Self>, to: NodeId, at: SocketAddr, purpose: Purpose) -> Result<Channel, ConnectError> {
        let tcp = dial_tcp(at).await?;
        self.greet(tcp, to, at, purpose).await
    }

    /// Goes on with a connection that came of a call.
    async fn greet_called(
        self: &Arc<Self>,
        called: Result<TcpStream, ConnectError>,
        to: NodeId,
        purpose: Purpose,
    ) -> Result<Channel, ConnectError> {
        let tcp = called?;
        let unreachable = |error: std::io::Error| ConnectError::Unreachable(plain(&error));
        // It was accepted, or dialled, elsewhere; from here on it belongs to whoever asked for it.
        let tcp = tcp.into_std().and_then(TcpStream::from_std).map_err(unreachable)?;
        tune(&tcp).map_err(unreachable)?;
        let at = far_end(&tcp)?;
        match timeout(GREETING_TIME_MAX, self.greet(tcp, to, at, purpose)).await {
            Ok(greeted) => greeted,
            Err(_) => Err(ConnectError::Unreachable(format!("{at}: the greeting took too long"))),
        }
    }

    /// The part of the one that wants something of another.
    async fn greet(
        self: &Arc<Self>,
        tcp: TcpStream,
        to: NodeId,
        at: SocketAddr,
        purpose: Purpose,
    ) -> Result<Channel, ConnectError> {
        let unreachable = |why: String| ConnectError::Unreachable(format!("{at}: {why}"));
        let config = self.tls.client(to).map_err(|error| unreachable(error.to_string()))?;
        let greeted = async {
            let mut stream = SecureStream::client(tcp, config, at)?;
            let peer = stream.handshake().await?;
            let hello = self.introduce(&mut stream, peer, purpose).await?;
            Ok((stream, peer, hello.passport))
        };
        let (stream, peer, passport) = greeted.await.map_err(|error| match error {
            GreetingError::Stream(StreamError::WrongPeer(why)) => ConnectError::Refused(format!("{at}: {why}")),
            GreetingError::Stream(error) => unreachable(error.to_string()),
            GreetingError::Refused(refused) => ConnectError::Refused(format!("{at}: {refused}")),
        })?;
        Ok(self.open(stream, peer, passport, purpose, false, Home::here()))
    }

    /// The dialler's part of the greeting.
    async fn introduce(
        &self,
        stream: &mut SecureStream,
        peer: NodeId,
        purpose: Purpose,
    ) -> Result<Hello, GreetingError> {
        stream.send(self.hello(purpose).encode()).await?;
        let theirs = match Greeting::decode(&stream.receive(HELLO_BYTES_MAX).await?) {
            Ok(Greeting::Hello(hello)) => *hello,
            Ok(Greeting::Refusal(reason)) => return Err(Refused::ByPeer(reason).into()),
            Ok(Greeting::Accepted) => return Err(Refused::Garbage.into()),
            Err(refused) => return Err(refused.into()),
        };
        let checked = theirs.check(self.passport.network(), peer, wall_seconds()).and_then(|()| match purpose {
            // Who joins knows no members yet; that the passport is of this network must do.
            Purpose::Join => Ok(()),
            Purpose::Control | Purpose::Data | Purpose::Calls => {
                self.admission.admit(&theirs.passport).map_err(Refused::Admission)
            }
        });
        match checked {
            Ok(()) => {
                stream.send(Greeting::Accepted.encode()).await?;
                Ok(theirs)
            }
            Err(refused) => Err(refuse(stream, refused).await),
        }
    }

    /// Takes a connection, in time or not at all.
    async fn received(self: &Arc<Self>, tcp: TcpStream, incoming: &mpsc::Sender<Channel>, from: impl fmt::Display) {
        match timeout(GREETING_TIME_MAX, self.receive(tcp, incoming)).await {
            Ok(Ok(())) => {}
            Ok(Err(GreetingError::Refused(why))) => debug!(%from, %why, "a connection was refused"),
            Ok(Err(GreetingError::Stream(why))) => debug!(%from, %why, "a greeting broke off"),
            Err(_) => debug!(%from, "a greeting took too long"),
        }
    }

    /// The listener's part of the greeting.
    async fn receive(self: &Arc<Self>, tcp: TcpStream, incoming: &mpsc::Sender<Channel>) -> Result<(), GreetingError> {
        let broken = |error: std::io::Error| StreamError::Io(plain(&error));
        tune(&tcp).map_err(broken)?;
        match shows_ticket(&tcp).await.map_err(broken)? {
            Some(false) => {}
            Some(true) => return self.calls.arrives(tcp).await.map_err(|why| StreamError::Protocol(why).into()),
            None => return Err(StreamError::Closed.into()),
        }
        let mut stream = SecureStream::server(tcp, self.tls.server())?;
        let peer = stream.handshake().await?;
        let theirs = match Greeting::decode(&stream.receive(HELLO_BYTES_MAX).await?) {
            Ok(Greeting::Hello(hello)) => *hello,
            Ok(_) => return Err(refuse(&mut stream, Refused::Garbage).await),
            Err(refused) => return Err(refuse(&mut stream, refused).await),
        };
        if let Err(refused) = self.judge(&theirs, peer) {
            return Err(refuse(&mut stream, refused).await);
        }
        // Room for the channel first: a node that is too busy to take it does not say welcome.
        let Ok(place) = incoming.reserve().await else { return Err(StreamError::Closed.into()) };
        stream.send(self.hello(theirs.purpose).encode()).await?;
        match Greeting::decode(&stream.receive(HELLO_BYTES_MAX).await?) {
            Ok(Greeting::Accepted) => {}
            Ok(Greeting::Refusal(reason)) => return Err(Refused::ByPeer(reason).into()),
            Ok(Greeting::Hello(_)) => return Err(Refused::Garbage.into()),
            Err(refused) => return Err(refused.into()),
        }
        let channel = match theirs.purpose {
            Purpose::Data => {
                let home = Home::thread().map_err(|error| StreamError::Io(plain(&error)))?;
                let entered = home.enter();
                let stream = stream.moved()?;
                let channel = self.open(stream, peer, theirs.passport, theirs.purpose, true, home.clone());
                drop(entered);
                channel
            }
            _ => self.open(stream, peer, theirs.passport, theirs.purpose, true, Home::here()),
        };
        match channel.purpose {
            Purpose::Calls => drop(tokio::spawn(self.calls.clone().serve_caller(channel))),
            _ => place.send(channel),
        }
        Ok(())
    }

    /// Whether a node that dialled is let in, for what it wants.
    fn judge(&self, theirs: &Hello, peer: NodeId) -> Result<(), Refused> {
        let now = wall_seconds();
        theirs.check(self.passport.network(), peer, now)?;
        let admitted = self.admission.admit(&theirs.passport).map_err(Refused::Admission);
        if theirs.purpose == Purpose::Join {
            // A member may ask again: the answer to its first request may have been lost.
            admitted.or_else(|_| {
                let joining = theirs.passport.verify_joining(self.passport.network(), peer, now);
                joining.map_err(Refused::Passport)
            })?;
        } else {
            admitted?;
        }
        let links = self.links();
        let inbound = links.open.values().filter(|link| link.inbound);
        let full = if theirs.purpose == Purpose::Join {
            inbound.filter(|link| link.purpose == Purpose::Join).count() >= JOINS_MAX
        } else {
            inbound.filter(|link| link.peer == peer).count() >= CONNECTIONS_PER_NODE_MAX
        };
        if full { Err(Refused::Connections) } else { Ok(()) }
    }

    /// Starts the connection's task.
    fn open(
        self: &Arc<Self>,
        stream: SecureStream,
        peer: NodeId,
        passport: Passport,
        purpose: Purpose,
        inbound: bool,
        home: Home,
    ) -> Channel {
        let (sender, queue) = FrameSender::bounded(purpose.queue_bytes_max());
        let (link, receiver) = Link::new(stream, queue, self.still_welcome(passport, purpose));
        let shared = self.clone();
        // The lock is held until the entry is there, so that a task that ends at once finds it to remove.
        let mut links = self.links();
        let id = links.next;
        links.next += 1;
        let task = home.spawn(async move {
            let end = link.run().await;
            debug!(peer = %peer.short(), ?purpose, %end, "connection ended");
            shared.links().open.remove(&id);
        });
        links.open.insert(id, OpenLink { peer, purpose, inbound, task: task.abort_handle() });
        Channel { peer, purpose, sender, receiver, home }
    }

    fn still_welcome(self: &Arc<Self>, passport: Passport, purpose: Purpose) -> StillWelcome {
        let shared = self.clone();
        let opened = Instant::now();
        Box::new(move || match (purpose, passport.terms.expires_at) {
            (Purpose::Join, _) if opened.elapsed() > JOIN_TIME_MAX => Err("joining took too long".into()),
            (Purpose::Join, _) => Ok(()),
            (_, Some(expires_at)) if wall_seconds() >= expires_at => Err("the passport has expired".into()),
            _ => shared.admission.admit(&passport),
        })
    }
}

/// Says why before closing, so that the other side's error does too.
async fn refuse(stream: &mut SecureStream, refused: Refused) -> GreetingError {
    // If the refusal does not arrive, the other side still sees that the connection was closed.
    if stream.send(Greeting::Refusal(refused.to_string()).encode()).await.is_ok() {
        let _ = stream.finish().await;
    }
    GreetingError::Refused(refused)
}

async fn dial_tcp(at: SocketAddr) -> Result<TcpStream, ConnectError> {
    let unreachable = |error: std::io::Error| ConnectError::Unreachable(format!("{at}: {}", plain(&error)));
    let tcp = TcpStream::connect(at).await.map_err(unreachable)?;
    tune(&tcp).map_err(unreachable)?;
    Ok(tcp)
}

/// Frames leave at once; a machine that vanished is noticed by the system too.
fn tune(tcp: &TcpStream) -> std::io::Result<()> {
    tcp.set_nodelay(true)?;
    sockopt::set_socket_keepalive(tcp, true)?;
    sockopt::set_tcp_keepidle(tcp, SILENCE_MAX)?;
    sockopt::set_tcp_keepintvl(tcp, Duration::from_secs(1))?;
    sockopt::set_tcp_keepcnt(tcp, 3)?;
    sockopt::set_tcp_user_timeout(tcp, SILENCE_MAX.as_millis() as u32)?;
    Ok(())
}

/// What an endpoint needs.
pub struct EndpointOptions {
    pub key: NodeKey,
    /// This node's own passport; it names the network.
    pub passport: Passport,
    /// Where to listen; port 0 picks a free one.
    pub listen: SocketAddr,
    pub admission: Arc<dyn Admission>,
    /// Where the channels go that others open.
    pub incoming: mpsc::Sender<Channel>,
}

/// The data plane of a running node. Dropping it stops listening; open channels live on until they are dropped.
pub struct Endpoint {
    dialer: Dialer,
    address: SocketAddr,
    listening: AbortHandle,
}

impl Endpoint {
    /// Starts listening. Must be called within a tokio runtime.
    pub async fn bind(options: EndpointOptions) -> Result<Endpoint, EndpointError> {
        let dialer = Dialer::new(&options.key, options.passport, options.admission)?;
        let listen = options.listen;
        let cannot = |error: std::io::Error| match error.kind() {
            ErrorKind::AddrInUse => EndpointError::InUse(listen),
            _ => EndpointError::Listen { address: listen, why: plain(&error) },
        };
        let listener = TcpListener::bind(listen).await.map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;
        let task = tokio::spawn(accept_all(listener, dialer.shared.clone(), options.incoming));
        Ok(Endpoint { dialer, address, listening: task.abort_handle() })
    }

    /// Where it listens, with the port that was picked.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn node(&self) -> NodeId {
        self.dialer.shared.node
    }

    /// The dialling half, to be shared.
    pub fn dialer(&self) -> &Dialer {
        &self.dialer
    }

    /// Ends all connections with a node at once, as when its passport was revoked.
    pub fn disconnect(&self, node: NodeId) {
        self.dialer.disconnect(node);
    }

    /// Stops listening and ends every connection.
    pub fn close(&self) {
        self.listening.abort();
        for (_, link) in self.dialer.shared.links().open.drain() {
            link.task.abort();
        }
    }
}

impl Network for Endpoint {
    fn connect(&self, to: NodeId, purpose: Purpose) -> BoxFuture<'_, Result<Channel, ConnectError>> {
        self.dialer.connect(to, purpose)
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

async fn accept_all(listener: TcpListener, shared: Arc<Shared>, incoming: mpsc::Sender<Channel>) {
    let mut greetings: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let (tcp, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                debug!(why = %plain(&error), "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        greetings.retain(|greeting| !greeting.is_finished());
        if greetings.len() >= GREETINGS_MAX
            && let Some(oldest) = greetings.pop_front()
        {
            oldest.abort();
        }
        let (shared, incoming) = (shared.clone(), incoming.clone());
        let task = tokio::spawn(async move { shared.received(tcp, &incoming, from).await });
        greetings.push_back(task.abort_handle());
    }
}

/// Why a greeting did not end in a connection.
#[derive(Debug)]
enum GreetingError {
    Stream(StreamError),
    Refused(Refused),
}

impl From<StreamError> for GreetingError {
    fn from(error: StreamError) -> Self {
        GreetingError::Stream(error)
    }
}

impl From<Refused> for GreetingError {
    fn from(refused: Refused) -> Self {
        GreetingError::Refused(refused)
    }
}

/// Why a node cannot listen or dial at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointError {
    /// Another process listens there.
    InUse(SocketAddr),
    Listen {
        address: SocketAddr,
        why: String,
    },
    /// This node's own passport is not good; why.
    Passport(String),
    Tls(TlsError),
}

impl From<TlsError> for EndpointError {
    fn from(error: TlsError) -> Self {
        EndpointError::Tls(error)
    }
}

impl fmt::Display for EndpointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EndpointError::InUse(address) => write!(f, "the port of {address} is in use by another process"),
            EndpointError::Listen { address, why } => write!(f, "cannot listen on {address}: {why}"),
            EndpointError::Passport(why) => write!(f, "this node's own passport is not accepted: {why}"),
            EndpointError::Tls(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for EndpointError {}

#[cfg(test)]
#[path = "endpoint_tests.rs"]
mod tests;
