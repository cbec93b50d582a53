//! Nodes that nobody can dial: they are called, and meet one another.

use tokio::task::JoinHandle;

use super::*;
use crate::transport::callback::Stood;

/// A member whose addresses nobody knows.
async fn hidden(owner: &NetworkKey, roll: &Arc<Roll>) -> Peer {
    let peer = member(owner, roll).await;
    roll.enter(peer.node(), vec![]);
    peer
}

/// Has one stand by at another; returns once it does.
async fn stands_by(hidden: &Peer, at: &Peer) -> JoinHandle<Stood> {
    let standing = hidden.endpoint.dialer().stand_by(at.node(), hidden.arrivals.clone()).await.unwrap();
    let task = tokio::spawn(standing);
    until(|| at.endpoint.dialer().calls(hidden.node())).await;
    task
}

async fn until(is_so: impl Fn() -> bool) {
    let so = async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, so).await.unwrap();
}

async fn talk(mine: &mut Channel, theirs: &mut Channel) {
    mine.sender.send(Frame::one(vec![1; 300_000])).unwrap();
    theirs.sender.send(Frame::one(vec![2; 70_000])).unwrap();
    assert_eq!(received(theirs).await.unwrap(), vec![1; 300_000]);
    assert_eq!(received(mine).await.unwrap(), vec![2; 70_000]);
}

#[tokio::test]
async fn who_only_dials_out_is_called() {
    let (owner, roll, a, _) = two().await;
    let mut b = hidden(&owner, &roll).await;
    assert_eq!(a.endpoint.connect(b.node(), Purpose::Data).await.err(), Some(ConnectError::Unknown));
    let standing_by = stands_by(&b, &a).await;
    for purpose in [Purpose::Control, Purpose::Data] {
        let (mut mine, mut theirs) = a.channel_to(&mut b, purpose).await;
        talk(&mut mine, &mut theirs).await;
    }
    // Its own way out is as it was.
    b.endpoint.connect(a.node(), Purpose::Control).await.unwrap();
    // Many at once.
    let many = futures::future::join_all((0..12).map(|_| a.endpoint.connect(b.node(), Purpose::Control))).await;
    assert!(many.iter().all(Result::is_ok));

    standing_by.abort();
    a.endpoint.disconnect(b.node());
    until(|| !a.endpoint.dialer().calls(b.node())).await;
    assert_eq!(a.endpoint.connect(b.node(), Purpose::Data).await.err(), Some(ConnectError::Unknown));
}

#[tokio::test]
async fn who_can_be_dialled_after_all_need_not_stand_by() {
    let (_, _, a, mut b) = two().await;
    let standing_by = stands_by(&b, &a).await;
    // Called or dialled, it is reached.
    let (mut mine, mut theirs) = a.channel_to(&mut b, Purpose::Control).await;
    talk(&mut mine, &mut theirs).await;
    // A call that nobody answers leaves it to be dialled.
    a.endpoint.dialer().shared.calls.dismiss(b.node());
    assert_eq!(timeout(SOON, standing_by).await.unwrap().unwrap(), Stood::Needless);
    until(|| !a.endpoint.dialer().calls(b.node())).await;
    let (mut mine, mut theirs) = a.channel_to(&mut b, Purpose::Data).await;
    talk(&mut mine, &mut theirs).await;
}

#[tokio::test]
async fn a_call_that_is_not_answered_leaves_the_node_to_be_dialled() {
    let (_, _, a, mut b) = two().await;
    // It says that it stands by, and does nothing.
    let addresses = [Address::from(a.endpoint.address())];
    let idle = b.endpoint.dialer().connect_at(a.node(), &addresses, Purpose::Calls).await.unwrap();
    until(|| a.endpoint.dialer().calls(b.node())).await;
    let begun = Instant::now();
    let (mut mine, mut theirs) = a.channel_to(&mut b, Purpose::Data).await;
    assert!(begun.elapsed() < Duration::from_secs(2), "the call was waited for");
    talk(&mut mine, &mut theirs).await;
    until(|| !a.endpoint.dialer().calls(b.node())).await;
    drop(idle);
}

#[tokio::test]
async fn two_that_only_dial_out_meet_where_both_stand_by() {
    let (owner, roll, a, other) = two().await;
    let (b, mut c) = (hidden(&owner, &roll).await, hidden(&owner, &roll).await);
    let _kept = (stands_by(&b, &a).await, stands_by(&b, &other).await);
    let Err(ConnectError::Unreachable(why)) = b.endpoint.connect(c.node(), Purpose::Data).await else { panic!() };
    assert!(why.contains("the other does not stand by there"), "{why}");
    let at_a = stands_by(&c, &a).await;
    for purpose in [Purpose::Data, Purpose::Control, Purpose::Data] {
        let (mut mine, mut theirs) = b.channel_to(&mut c, purpose).await;
        talk(&mut mine, &mut theirs).await;
    }
    // It ends with the end, not with the one between.
    let (mine, mut theirs) = b.channel_to(&mut c, Purpose::Data).await;
    drop(mine);
    assert_eq!(received(&mut theirs).await, None);
    at_a.abort();
    a.endpoint.disconnect(c.node());
    assert!(b.endpoint.connect(c.node(), Purpose::Data).await.is_err());
}

#[tokio::test]
async fn nobody_gets_in_by_a_call_who_would_not_by_dialling() {
    let (owner, roll, a, _) = two().await;
    let b = hidden(&owner, &roll).await;
    let stranger = member(&owner, &roll).await;
    roll.members.lock().unwrap().remove(&stranger.node());
    let refused = stranger.endpoint.dialer().stand_by(a.node(), stranger.arrivals.clone()).await;
    assert!(matches!(refused, Err(ConnectError::Refused(_))));
    assert!(!a.endpoint.dialer().calls(stranger.node()));

    // Revoked while it stands by: its channel ends, and it is not called any more.
    let standing_by = stands_by(&b, &a).await;
    roll.revoked.lock().unwrap().insert(b.node());
    assert_eq!(timeout(SOON, standing_by).await.unwrap().unwrap(), Stood::Broken);
    until(|| !a.endpoint.dialer().calls(b.node())).await;
}

#[tokio::test]
async fn a_ticket_that_nobody_waits_for_opens_nothing() {
    let (_, _, a, mut b) = two().await;
    for preamble in [&b"INFC"[..], &[b'I'; 20], b"INFC0123456789abcdef", b"INFC0123456789abcdef\x16\x03\x01"] {
        let mut tcp = TcpStream::connect(a.endpoint.address()).await.unwrap();
        tcp.write_all(preamble).await.unwrap();
        tcp.shutdown().await.unwrap();
        // An end or a reset, and not one byte.
        let ended = timeout(SOON, tcp.read(&mut [0; 16])).await.unwrap();
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    }
    let (mut mine, mut theirs) = a.channel_to(&mut b, Purpose::Control).await;
    talk(&mut mine, &mut theirs).await;
}
