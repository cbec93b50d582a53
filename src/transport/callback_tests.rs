//! Nodes that nobody can dial: they are called, and meet one another.

use super::*;

/// A member whose addresses nobody knows.
async fn hidden(owner: &NetworkKey, roll: &Arc<Roll>) -> Peer {
    let peer = member(owner, roll).await;
    roll.enter(peer.node(), vec![]);
    peer
}

/// Has one stand by at another; returns once it does.
async fn stands_by(hidden: &Peer, at: &Peer) -> tokio::task::JoinHandle<Result<(), ConnectError>> {
    let (dialer, node, incoming) = (hidden.endpoint.dialer().clone(), at.node(), hidden.arrivals.clone());
    let task = tokio::spawn(async move { dialer.stand_by(node, incoming).await });
    let there = async {
        while !at.endpoint.dialer().calls(hidden.node()) {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, there).await.unwrap();
    task
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
    let many = futures::future::join_all((0..20).map(|_| a.endpoint.connect(b.node(), Purpose::Control))).await;
    assert!(many.iter().all(Result::is_ok));

    standing_by.abort();
    a.endpoint.disconnect(b.node());
    assert_eq!(a.endpoint.connect(b.node(), Purpose::Data).await.err(), Some(ConnectError::Unknown));
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
    assert!(matches!(refused, Err(ConnectError::Refused(_))), "{refused:?}");
    assert!(!a.endpoint.dialer().calls(stranger.node()));

    // Revoked while it stands by: its channel ends, and it is not called any more.
    let standing_by = stands_by(&b, &a).await;
    roll.revoked.lock().unwrap().insert(b.node());
    timeout(SOON, standing_by).await.unwrap().unwrap().unwrap();
    assert!(!a.endpoint.dialer().calls(b.node()));
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
