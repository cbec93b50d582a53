//! The data plane over real sockets on this machine: who gets in, who does not, and what happens to frames.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::*;
use crate::base::address::Address;
use crate::base::id::NetworkId;
use crate::transport::identity::{NetworkKey, TokenKey};
use crate::transport::network::{FRAME_BYTES_MAX, Frame, SendError};
use crate::transport::passport::{Invitation, Role};

#[path = "callback_tests.rs"]
mod callbacks;

const SOON: Duration = Duration::from_secs(5);

/// The members as one network knows them.
#[derive(Default)]
struct Roll {
    members: Mutex<HashMap<NodeId, Vec<Address>>>,
    revoked: Mutex<HashSet<NodeId>>,
}

impl Roll {
    fn enter(&self, node: NodeId, addresses: Vec<SocketAddr>) {
        let addresses = addresses.into_iter().map(Address::from).collect();
        self.members.lock().unwrap().insert(node, addresses);
    }
}

impl Admission for Roll {
    fn admit(&self, passport: &Passport) -> Result<(), String> {
        if self.revoked.lock().unwrap().contains(&passport.node()) {
            return Err("its passport was revoked".into());
        }
        let known = self.members.lock().unwrap().contains_key(&passport.node());
        if known { Ok(()) } else { Err("it is no member".into()) }
    }

    fn addresses(&self, node: NodeId) -> Vec<Address> {
        self.members.lock().unwrap().get(&node).cloned().unwrap_or_default()
    }
}

struct Peer {
    key: NodeKey,
    endpoint: Endpoint,
    arrivals: mpsc::Sender<Channel>,
    incoming: mpsc::Receiver<Channel>,
}

impl Peer {
    fn node(&self) -> NodeId {
        self.endpoint.node()
    }

    async fn accepted(&mut self) -> Channel {
        timeout(SOON, self.incoming.recv()).await.unwrap().unwrap()
    }

    /// A channel from this peer to the other, both ends.
    async fn channel_to(&self, other: &mut Peer, purpose: Purpose) -> (Channel, Channel) {
        let mine = self.endpoint.connect(other.node(), purpose).await.unwrap();
        let theirs = other.accepted().await;
        assert_eq!((mine.peer, theirs.peer), (other.node(), self.node()));
        assert_eq!((mine.purpose, theirs.purpose), (purpose, purpose));
        (mine, theirs)
    }
}

fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

async fn peer_with(key: NodeKey, passport: Passport, roll: &Arc<Roll>) -> Peer {
    let (sender, incoming) = mpsc::channel(16);
    let admission: Arc<dyn Admission> = roll.clone();
    let arrivals = sender.clone();
    let options = EndpointOptions { key: key.clone(), passport, listen: loopback(), admission, incoming: sender };
    let endpoint = Endpoint::bind(options).await.unwrap();
    roll.enter(key.node(), vec![endpoint.address()]);
    Peer { key, endpoint, arrivals, incoming }
}

async fn member(owner: &NetworkKey, roll: &Arc<Roll>) -> Peer {
    let key = NodeKey::generate();
    let passport = Passport::by_network(owner, key.node(), Role::Storage, wall_seconds()).unwrap();
    peer_with(key, passport, roll).await
}

async fn two() -> (NetworkKey, Arc<Roll>, Peer, Peer) {
    let (owner, roll) = (NetworkKey::generate(), Arc::new(Roll::default()));
    let (a, b) = (member(&owner, &roll).await, member(&owner, &roll).await);
    (owner, roll, a, b)
}

fn refusal(result: Result<Channel, ConnectError>) -> String {
    match result {
        Err(ConnectError::Refused(why)) => why,
        Err(other) => panic!("not refused but {other:?}"),
        Ok(_) => panic!("it was let in"),
    }
}

async fn received(channel: &mut Channel) -> Option<Bytes> {
    timeout(SOON, channel.receiver.recv()).await.unwrap()
}

#[tokio::test]
async fn frames_go_both_ways_whole_and_in_order() {
    let (_, _, a, mut b) = two().await;
    let (mut mine, mut theirs) = a.channel_to(&mut b, Purpose::Data).await;
    let piece = Bytes::from((0..FRAME_BYTES_MAX).map(|i| (i * 7 % 251) as u8).collect::<Vec<u8>>());
    mine.sender.send(Frame::one(piece.clone())).unwrap();
    assert_eq!(received(&mut theirs).await.unwrap(), piece);
    let parts = [piece.slice(..3), piece.slice(..40_000), piece.slice(7..20_000)];
    theirs.sender.send(Frame { parts: parts.clone() }).unwrap();
    assert_eq!(received(&mut mine).await.unwrap(), Bytes::from(parts.concat()));
    assert_eq!(mine.sender.send(Frame::one(vec![0; FRAME_BYTES_MAX + 1])), Err(SendError::TooLong));

    let count = 20_000_u32;
    let sending = mine.sender.clone();
    for number in 0..count {
        sending.send(Frame::one(number.to_le_bytes().repeat(1 + number as usize % 9))).unwrap();
        theirs.sender.send(Frame::one(number.to_be_bytes().to_vec())).unwrap();
    }
    for number in 0..count {
        assert_eq!(received(&mut theirs).await.unwrap()[..4], number.to_le_bytes());
        assert_eq!(received(&mut mine).await.unwrap()[..], number.to_be_bytes());
    }
    assert_eq!(sending.waiting_bytes(), 0);
}

#[tokio::test]
async fn closing_delivers_what_was_sent_and_then_ends() {
    let (_, _, a, mut b) = two().await;
    let (mine, mut theirs) = a.channel_to(&mut b, Purpose::Control).await;
    let left = theirs.sender.clone();
    for number in 0..500_u32 {
        mine.sender.send(Frame::one(vec![number as u8; 5000])).unwrap();
    }
    drop(mine);
    for number in 0..500_u32 {
        assert_eq!(received(&mut theirs).await.unwrap()[0], number as u8);
    }
    assert_eq!(received(&mut theirs).await, None);
    timeout(SOON, left.closed()).await.unwrap();
    assert_eq!(left.send(Frame::one(vec![1])), Err(SendError::Closed));
}

#[tokio::test]
async fn a_slow_reader_fills_the_bounds_and_loses_nothing() {
    let (_, _, a, mut b) = two().await;
    let (mine, mut theirs) = a.channel_to(&mut b, Purpose::Data).await;
    let mut sent = 0_u32;
    // More than the sender's bound, the receiver's bound and the sockets' buffers together is refused in the end.
    let full = timeout(SOON, async {
        loop {
            match mine.sender.send(Frame::one([&sent.to_le_bytes()[..], &[0; 100_000]].concat())) {
                Ok(()) => sent += 1,
                Err(error) => return error,
            }
            tokio::task::yield_now().await;
        }
    });
    assert_eq!(full.await.unwrap(), SendError::Full);
    assert!(mine.sender.waiting_bytes() <= Purpose::Data.queue_bytes_max());
    assert!(sent >= 80, "{sent}");
    for number in 0..sent {
        assert_eq!(received(&mut theirs).await.unwrap()[..4], number.to_le_bytes());
    }
    mine.sender.send(Frame::one(vec![1])).unwrap();
    assert_eq!(received(&mut theirs).await.unwrap()[..], [1]);
}

#[tokio::test]
async fn another_node_at_the_address_is_refused() {
    let (owner, roll, a, b) = two().await;
    let c = member(&owner, &roll).await;
    roll.enter(c.node(), vec![b.endpoint.address()]);
    let why = refusal(a.endpoint.connect(c.node(), Purpose::Data).await);
    assert!(why.contains(&format!("node {} answers there", b.node().short())), "{why}");
    // The next address is tried: the right one works.
    roll.enter(c.node(), vec![b.endpoint.address(), c.endpoint.address()]);
    a.endpoint.connect(c.node(), Purpose::Data).await.unwrap();
    let unknown = a.endpoint.connect(NodeKey::generate().node(), Purpose::Data).await;
    assert_eq!(unknown.err(), Some(ConnectError::Unknown));
}

#[tokio::test]
async fn a_foreign_network_is_refused_with_its_reason() {
    let (_, roll, a, _b) = two().await;
    let other = NetworkKey::generate();
    let stranger = member(&other, &roll).await;
    let why = refusal(stranger.endpoint.connect(a.node(), Purpose::Data).await);
    assert!(why.contains(&format!("it is of network {}", other.network().short())), "{why}");
}

#[tokio::test]
async fn a_stolen_passport_is_refused() {
    let (owner, roll, a, _b) = two().await;
    // A thief has somebody's passport, and not the key it was made for.
    let victim = Passport::by_network(&owner, NodeKey::generate().node(), Role::Admin, wall_seconds()).unwrap();
    let thief = NodeKey::generate();
    let admission: Arc<dyn Admission> = roll.clone();
    assert!(matches!(Dialer::new(&thief, victim.clone(), admission.clone()), Err(EndpointError::Passport(_))));
    roll.enter(thief.node(), Vec::new());
    roll.enter(victim.node(), Vec::new());
    let tls = Tls::new(&thief).unwrap();
    let dialer = forged_dialer(thief.node(), victim, tls, admission);
    let why = refusal(dialer.connect_at(a.node(), &[a.endpoint.address().into()], Purpose::Data).await);
    assert!(why.contains("belongs to another node"), "{why}");
}

/// A dialler that does not check itself first, as an attacker's would not.
fn forged_dialer(node: NodeId, passport: Passport, tls: Tls, admission: Arc<dyn Admission>) -> Dialer {
    Dialer {
        shared: Arc::new(Shared { node, passport, tls, admission, links: Mutex::default(), calls: Arc::default() }),
    }
}

#[tokio::test]
async fn a_copied_or_damaged_certificate_is_refused() {
    let (owner, roll, a, mut b) = two().await;
    let admission: Arc<dyn Admission> = roll.clone();
    let passport = Passport::by_network(&owner, b.node(), Role::Storage, wall_seconds()).unwrap();
    let (certificate, _) = libp2p_tls::certificate::generate(&b.key.keypair()).unwrap();
    let (_, own_private) = libp2p_tls::certificate::generate(&NodeKey::generate().keypair()).unwrap();
    let copied = Tls::with_certificate(certificate.clone(), own_private).unwrap();
    let dialer = forged_dialer(b.node(), passport.clone(), copied, admission.clone());
    assert!(dialer.connect_at(a.node(), &[a.endpoint.address().into()], Purpose::Data).await.is_err());

    let (certificate, private) = libp2p_tls::certificate::generate(&b.key.keypair()).unwrap();
    for at in [certificate.len() - 1, certificate.len() / 2, certificate.len() - 100] {
        let mut der = certificate.as_ref().to_vec();
        der[at] ^= 1;
        let damaged = Tls::with_certificate(der.into(), private.clone_key()).unwrap();
        let dialer = forged_dialer(b.node(), passport.clone(), damaged, admission.clone());
        let why = dialer.connect_at(a.node(), &[a.endpoint.address().into()], Purpose::Data).await;
        assert!(matches!(why, Err(ConnectError::Refused(_) | ConnectError::Unreachable(_))));
    }
    a.channel_to(&mut b, Purpose::Data).await;
}

#[tokio::test]
async fn a_revoked_node_is_refused_and_its_connections_end() {
    let (_, roll, a, mut b) = two().await;
    let (mut mine, mut theirs) = a.channel_to(&mut b, Purpose::Data).await;
    roll.revoked.lock().unwrap().insert(a.node());
    assert_eq!(received(&mut theirs).await, None);
    assert_eq!(received(&mut mine).await, None);
    let why = refusal(a.endpoint.connect(b.node(), Purpose::Control).await);
    assert!(why.ends_with("its passport was revoked"), "{why}");
    let why = refusal(b.endpoint.connect(a.node(), Purpose::Control).await);
    assert!(why.ends_with("its passport was revoked"), "the dialling side refuses too: {why}");

    roll.revoked.lock().unwrap().clear();
    let (mut mine, _theirs) = a.channel_to(&mut b, Purpose::Data).await;
    assert_eq!(b.endpoint.dialer().connections(), vec![(a.node(), Purpose::Data)]);
    b.endpoint.disconnect(a.node());
    assert_eq!(received(&mut mine).await, None);
    assert!(b.endpoint.dialer().connections().is_empty());
}

#[tokio::test]
async fn a_guest_may_ask_to_join_and_nothing_else() {
    let (owner, roll, mut a, _b) = two().await;
    let (guest, token_key) = (NodeKey::generate(), TokenKey::generate());
    let now = wall_seconds();
    let admission: Arc<dyn Admission> = roll.clone();
    let at = [a.endpoint.address().into()];
    let invitation = Invitation::by_network(&owner, Role::Storage, now + 60, 1, &token_key).unwrap();
    let passport = Passport::by_invitation(&invitation, &token_key, guest.node(), now).unwrap();
    let dialer = Dialer::new(&guest, passport.clone(), admission.clone()).unwrap();
    let mut mine = dialer.connect_at(a.node(), &at, Purpose::Join).await.unwrap();
    let theirs = a.accepted().await;
    assert_eq!((theirs.peer, theirs.purpose), (guest.node(), Purpose::Join));
    theirs.sender.send(Frame::one("welcome")).unwrap();
    assert_eq!(received(&mut mine).await.unwrap(), "welcome");
    let why = refusal(dialer.connect_at(a.node(), &at, Purpose::Control).await);
    assert!(why.ends_with("it is no member"), "{why}");

    let late = Invitation::by_network(&owner, Role::Storage, now, 1, &token_key).unwrap();
    assert!(Passport::by_invitation(&late, &token_key, guest.node(), now).is_err());
    let late_passport = Passport::by_invitation(&late, &token_key, guest.node(), now - 1).unwrap();
    let dialer = Dialer::new(&guest, late_passport, admission.clone()).unwrap();
    let why = refusal(dialer.connect_at(a.node(), &at, Purpose::Join).await);
    assert!(why.ends_with("the invitation has expired"), "{why}");

    let mut tampered = passport;
    tampered.terms.role = Role::Admin;
    let dialer = forged_dialer(guest.node(), tampered, Tls::new(&guest).unwrap(), admission);
    let why = refusal(dialer.connect_at(a.node(), &at, Purpose::Join).await);
    assert!(why.contains("tampered"), "{why}");
}

#[tokio::test]
async fn garbage_and_half_open_connections_disturb_nobody() {
    let (_, _, a, mut b) = two().await;
    let (mine, mut theirs) = a.channel_to(&mut b, Purpose::Data).await;
    let at = b.endpoint.address();
    let mut held = Vec::new();
    for number in 0..GREETINGS_MAX + 40 {
        let mut tcp = TcpStream::connect(at).await.unwrap();
        match number % 4 {
            0 => {}
            1 => tcp.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap(),
            // The beginning of a TLS record that never ends.
            2 => tcp.write_all(&[0x16, 0x03, 0x01, 0x40, 0x00, 0x01]).await.unwrap(),
            _ => tcp.write_all(&[0xff; 64]).await.unwrap(),
        }
        held.push(tcp);
    }
    mine.sender.send(Frame::one("still here")).unwrap();
    assert_eq!(received(&mut theirs).await.unwrap(), "still here");
    let started = Instant::now();
    a.channel_to(&mut b, Purpose::Control).await;
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    // Every one of them is closed once its time is over.
    let ended = timeout(GREETING_TIME_MAX + SOON, async {
        for tcp in &mut held {
            let mut rest = Vec::new();
            // An end or a reset: either way it is closed.
            let _ = tcp.read_to_end(&mut rest).await;
        }
    });
    ended.await.expect("a half-open connection was not closed");
}

#[tokio::test]
async fn a_silent_peer_is_noticed() {
    let (owner, roll, _a, mut b) = two().await;
    let key = NodeKey::generate();
    roll.enter(key.node(), Vec::new());
    let passport = Passport::by_network(&owner, key.node(), Role::Storage, wall_seconds()).unwrap();
    let dialer = Dialer::new(&key, passport, roll.clone()).unwrap();
    // A peer that greets and then stops, as a process under SIGSTOP: its sockets stand, nobody reads or writes.
    let tcp = TcpStream::connect(b.endpoint.address()).await.unwrap();
    let config = dialer.shared.tls.client(b.node()).unwrap();
    let mut stream = SecureStream::client(tcp, config, b.endpoint.address()).unwrap();
    let node = stream.handshake().await.unwrap();
    dialer.shared.introduce(&mut stream, node, Purpose::Data).await.unwrap();
    let mut theirs = b.accepted().await;
    let started = Instant::now();
    let end = timeout(SILENCE_MAX + Duration::from_secs(3), theirs.receiver.recv()).await.unwrap();
    assert_eq!(end, None);
    assert!(started.elapsed() >= SILENCE_MAX - Duration::from_secs(1), "{:?}", started.elapsed());
    assert!(theirs.sender.is_closed());
}

#[tokio::test]
async fn idle_connections_stay_and_a_closed_endpoint_is_noticed_at_once() {
    let (_, _, a, mut b) = two().await;
    let (mut mine, theirs) = a.channel_to(&mut b, Purpose::Control).await;
    let idle = timeout(SILENCE_MAX + Duration::from_secs(2), mine.receiver.recv()).await;
    assert!(idle.is_err(), "an idle connection was closed");
    theirs.sender.send(Frame::one("awake")).unwrap();
    assert_eq!(received(&mut mine).await.unwrap(), "awake");
    let started = Instant::now();
    b.endpoint.close();
    assert_eq!(received(&mut mine).await, None);
    assert!(started.elapsed() < Duration::from_secs(1));
    let gone = a.endpoint.connect(b.node(), Purpose::Control).await;
    assert!(matches!(&gone, Err(ConnectError::Unreachable(why)) if why.contains("refused")), "{:?}", gone.err());
}

#[tokio::test]
async fn one_node_cannot_hold_every_connection() {
    let (_, _, a, mut b) = two().await;
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS_PER_NODE_MAX {
        held.push(a.channel_to(&mut b, Purpose::Control).await);
    }
    let why = refusal(a.endpoint.connect(b.node(), Purpose::Control).await);
    assert!(why.contains("too many connections"), "{why}");
    drop(held);
}

#[tokio::test]
async fn a_port_in_use_and_a_bad_passport_have_their_errors() {
    let (owner, roll, a, _b) = two().await;
    let admission: Arc<dyn Admission> = roll;
    let (incoming, _keep) = mpsc::channel(1);
    let passport = Passport::by_network(&owner, a.node(), Role::Storage, wall_seconds()).unwrap();
    let listen = a.endpoint.address();
    let options = EndpointOptions {
        key: a.key.clone(),
        passport,
        listen,
        admission: admission.clone(),
        incoming: incoming.clone(),
    };
    assert_eq!(Endpoint::bind(options).await.err(), Some(EndpointError::InUse(listen)));
    let mut foreign = Passport::by_network(&owner, a.node(), Role::Storage, 1).unwrap();
    foreign.terms.network = NetworkId::random();
    let options = EndpointOptions { key: a.key.clone(), passport: foreign, listen: loopback(), admission, incoming };
    assert!(matches!(Endpoint::bind(options).await, Err(EndpointError::Passport(_))));
}

/// Passes bytes on in pieces of a few bytes, with one bit flipped at `damage`.
async fn pass_on(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    piece: usize,
    damage: Option<usize>,
) {
    let (mut buffer, mut passed) = (vec![0; piece], 0);
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if let Some(at) = damage
            && (passed..passed + read).contains(&at)
        {
            buffer[at - passed] ^= 0x10;
        }
        passed += read;
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

/// A greeting and some frames over a way that cuts into pieces and may damage a byte. What was received.
async fn talk_over(piece: usize, damage: Option<usize>, to_server: bool) -> Result<Vec<Bytes>, StreamError> {
    let (near_key, far_key) = (NodeKey::generate(), NodeKey::generate());
    let (near_tls, far_tls) = (Tls::new(&near_key).unwrap(), Tls::new(&far_key).unwrap());
    let (listener, middle) =
        (TcpListener::bind(loopback()).await.unwrap(), TcpListener::bind(loopback()).await.unwrap());
    let at = middle.local_addr().unwrap();
    let near_tcp = TcpStream::connect(at).await.unwrap();
    let (from_near, to_near) = middle.accept().await.unwrap().0.into_split();
    let (from_far, to_far) = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap().into_split();
    let passing = [
        tokio::spawn(pass_on(from_near, to_far, piece, damage.filter(|_| to_server))),
        tokio::spawn(pass_on(from_far, to_near, piece, damage.filter(|_| !to_server))),
    ];
    let frames: Vec<Bytes> = [1, 5000, 40_000, 3].map(|len| Bytes::from(vec![len as u8; len])).to_vec();
    let far = tokio::spawn(async move {
        let mut far = SecureStream::server(listener.accept().await.unwrap().0, far_tls.server())?;
        far.handshake().await?;
        for _ in 0..4 {
            let frame = far.receive(FRAME_BYTES_MAX).await?;
            far.send(frame).await?;
        }
        far.finish().await
    });
    let near = tokio::spawn(async move {
        let mut near = SecureStream::client(near_tcp, near_tls.client(far_key.node()).unwrap(), at)?;
        assert_eq!(near.handshake().await?, far_key.node());
        let mut back = Vec::new();
        for frame in frames {
            near.send(frame).await?;
            back.push(near.receive(FRAME_BYTES_MAX).await?);
        }
        near.finish().await?;
        Ok(back)
    });
    // A way that is damaged may leave an end waiting for bytes that never come; a panic of either is a failure.
    let patience = damage.map_or(SOON, |_| Duration::from_millis(200));
    let result = timeout(patience, near).await;
    if damage.is_none() {
        far.await.unwrap().unwrap();
    } else if let Ok(ended) = timeout(Duration::from_millis(10), far).await {
        assert!(ended.is_ok(), "the listening end panicked");
    }
    for task in passing {
        task.abort();
    }
    result.map_or(Err(StreamError::Closed), |ended| ended.unwrap())
}

#[tokio::test]
async fn any_cut_into_pieces_is_put_together_again() {
    for piece in [1, 2, 7, 100, 1447, 16_390, 100_000] {
        let back = talk_over(piece, None, true).await.unwrap();
        let lengths: Vec<usize> = back.iter().map(Bytes::len).collect();
        assert_eq!(lengths, [1, 5000, 40_000, 3], "in pieces of {piece}");
    }
}

#[tokio::test]
async fn no_damaged_byte_gets_through_or_makes_anything_panic() {
    for at in (0..1200).step_by(13).chain([1500, 3000, 20_000, 46_000]) {
        for to_server in [true, false] {
            let result = talk_over(500, Some(at), to_server).await;
            // One byte is free: the legacy version of a TLS record, which nobody looks at.
            if let Ok(back) = result {
                assert!(back.iter().all(|frame| frame.iter().all(|byte| *byte == frame.len() as u8)), "byte {at}");
            }
        }
    }
}

/// Bytes a frame, frames in flight, frames in all.
const WORKLOADS: [(usize, usize, usize); 4] =
    [(4096, 1, 20_000), (4096, 32, 200_000), (128 << 10, 1, 5_000), (128 << 10, 16, 16_000)];

/// Not a test of right and wrong: `cargo test --release -- --ignored --nocapture measure` prints what the data plane
/// does on this machine beside plain TCP.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn measure_the_data_plane() {
    let (_, _, a, mut b) = two().await;
    let (mut mine, mut theirs) = a.channel_to(&mut b, Purpose::Data).await;
    let echo = theirs.sender.clone();
    let echoing = tokio::spawn(async move {
        while let Some(frame) = theirs.receiver.recv().await {
            // Long frames are only counted; small ones are answered.
            let answer = if frame.len() > 8192 { frame.slice(..8) } else { frame };
            echo.send(Frame::one(answer)).unwrap();
        }
    });
    let payload = Bytes::from(vec![5_u8; 128 << 10]);
    for (len, depth, count) in [(4096, 1, 20_000), (4096, 32, 200_000), (128 << 10, 1, 5_000), (128 << 10, 16, 16_000)]
    {
        let (cpu, started) = (cpu_seconds(), Instant::now());
        let mut sent = 0;
        for _ in 0..depth {
            mine.sender.send(Frame::one(payload.slice(..len))).unwrap();
            sent += 1;
        }
        for _ in 0..count {
            assert!(mine.receiver.recv().await.is_some());
            if sent < count {
                mine.sender.send(Frame::one(payload.slice(..len))).unwrap();
                sent += 1;
            }
        }
        report("TLS", len, depth, count, started.elapsed(), cpu_seconds() - cpu);
    }
    drop(mine);
    echoing.await.unwrap();
    plain_tcp_floor(&payload).await;
}

/// The same exchange over bare TCP sockets, a task an end, frames written and read whole.
async fn plain_tcp_floor(payload: &Bytes) {
    for (len, depth, count) in WORKLOADS {
        let listener = TcpListener::bind(loopback()).await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut far, _) = listener.accept().await.unwrap();
        near.set_nodelay(true).unwrap();
        far.set_nodelay(true).unwrap();
        let (cpu, started) = (cpu_seconds(), Instant::now());
        let answer_len = if len > 8192 { 8 } else { len };
        let echo = tokio::spawn(async move {
            let mut frame = vec![0; len];
            for _ in 0..count {
                far.read_exact(&mut frame).await.unwrap();
                far.write_all(&frame[..answer_len]).await.unwrap();
            }
        });
        let payload = payload.clone();
        let drive = tokio::spawn(async move {
            let mut frame = vec![0; answer_len];
            let (mut read, mut write) = near.into_split();
            let window = Arc::new(tokio::sync::Semaphore::new(depth));
            let opened = window.clone();
            let writing = tokio::spawn(async move {
                for _ in 0..count {
                    opened.acquire().await.unwrap().forget();
                    write.write_all(&payload[..len]).await.unwrap();
                }
            });
            for _ in 0..count {
                read.read_exact(&mut frame).await.unwrap();
                window.add_permits(1);
            }
            writing.await.unwrap();
        });
        echo.await.unwrap();
        drive.await.unwrap();
        report("TCP", len, depth, count, started.elapsed(), cpu_seconds() - cpu);
    }
}

fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn report(what: &str, len: usize, depth: usize, count: usize, time: Duration, cpu: f64) {
    let (rate, gigabytes) = (count as f64 / time.as_secs_f64(), (count * len) as f64 / 1e9);
    let speed = gigabytes * 1e3 / time.as_secs_f64();
    println!(
        "{what} {len:>7} B, {depth:>2} in flight: {rate:>8.0} round trips/s {speed:>6.0} MB/s {:.2} CPU s/GB",
        cpu / gigabytes
    );
}
