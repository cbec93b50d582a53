//! Bytes from outside: whatever they are, they are answered and change nothing.

use super::*;
use crate::cluster::consensus::CLUSTER_GROUP;
use crate::cluster::consensus::wire::{self, Answer, Failure, Request};

/// Gives a tampered message its right checksum, so that what lies behind it is put to the test.
fn with_checksum(mut message: Vec<u8>) -> Bytes {
    if message.len() >= 13 {
        let sum = crc32c::crc32c(&message[13..]);
        message[9..13].copy_from_slice(&sum.to_le_bytes());
    }
    message.into()
}

fn tampered(message: &[u8]) -> Vec<u8> {
    let mut random = rand::rng();
    let mut message = message.to_vec();
    for _ in 0..random.random_range(1..4) {
        let at = random.random_range(0..message.len());
        match random.random_range(0..4) {
            0 => message[at] ^= 1 << random.random_range(0..8),
            1 => message[at] = random.random(),
            2 => message.truncate(at.max(1)),
            _ => message.insert(at, random.random()),
        }
    }
    message
}

#[tokio::test]
async fn no_bytes_harm_a_member() {
    let cluster = Cluster::new(3, QUICK).await;
    cluster.net.record();
    cluster.group(1).propose(create_volume("v", VOLUME, 3), LONG).await.unwrap();
    cluster.group(1).current(LONG).await.unwrap();
    let leader = cluster.leader(&[0, 1, 2]).await;
    cluster.group(leader).hand_over().await;
    cluster.leader(&[0, 1, 2]).await;
    let recorded = cluster.net.recorded();
    assert!(recorded.len() > 5);

    let stranger = NodeId([0xee; 32]);
    let group = cluster.group(0);
    let before = cluster.group(0).current(LONG).await.unwrap();
    let mut read = 0;
    for round in 0..20_000usize {
        let (sender, message) = &recorded[round % recorded.len()];
        let bytes: Bytes = match round % 4 {
            0 => (0..rand::rng().random_range(0..200)).map(|_| rand::random::<u8>()).collect(),
            // Damaged on the way, from a member: the checksum finds it.
            1 => tampered(message).into(),
            // Well-formed and forged.
            _ => with_checksum(tampered(message)),
        };
        read += usize::from(wire::decode::<Request>(CLUSTER_GROUP, &bytes).is_ok());
        if round % 4 == 1 && bytes == *message {
            continue;
        }
        let from = if round % 4 == 1 { *sender } else { stranger };
        let answer = group.serve(from, bytes).await;
        let answer: Answer = wire::decode(CLUSTER_GROUP, &answer).unwrap();
        let harmless = matches!(
            answer,
            Answer::Failed(Failure::Malformed | Failure::OtherGroup | Failure::Forged)
                | Answer::ReadIndex(_)
                | Answer::NotLeader(_)
        );
        assert!(harmless, "{answer:?}");
    }
    assert!(read > 500, "only {read} tampered messages could be read at all");
    assert_eq!(cluster.group(0).current(LONG).await.unwrap(), before);
    cluster.group(0).propose(take_over(0), LONG).await.unwrap();
}

#[tokio::test]
async fn nobody_speaks_for_another() {
    let cluster = Cluster::new(3, QUICK).await;
    cluster.net.record();
    cluster.group(1).propose(create_volume("v", VOLUME, 3), LONG).await.unwrap();
    let leader = cluster.leader(&[0, 1, 2]).await;
    cluster.group(leader).hand_over().await;
    cluster.leader(&[0, 1, 2]).await;
    let mut forged = 0;
    for (sender, message) in cluster.net.recorded() {
        let request: Request = wire::decode(CLUSTER_GROUP, &message).unwrap();
        let other = NodeId([sender.0[0] + 1; 32]);
        if !matches!(request, Request::ReadIndex) {
            assert_eq!(wire::check(sender, &request), Ok(()));
            assert_eq!(wire::check(other, &request), Err(Failure::Forged));
            forged += 1;
        }
    }
    assert!(forged > 3);
}
