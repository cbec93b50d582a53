//! What must hold while messages are lost and members die.

use super::*;
use crate::base::error::{Fault, Kind};
use crate::base::id::Epoch;
use crate::cluster::consensus::ProposeError;
use crate::cluster::state::command::Outcome;
use crate::cluster::state::refusal::Refusal;

#[tokio::test]
async fn one_voter_becomes_three_and_everybody_knows_everything() {
    let mut cluster = Cluster::new(2, QUICK).await;
    assert_eq!(cluster.group(1).status().voters, BTreeSet::from([node(0)]));
    cluster.join(2, Role::Client).await;
    let with_client = cluster.settled(2, |status| status.has_quorum).await;
    assert_eq!(with_client.voters, BTreeSet::from([node(0)]));
    cluster.join(3, Role::Storage).await;
    for index in 0..4 {
        let status = cluster.settled(index, |status| status.voters.len() == 3 && status.has_quorum).await;
        assert_eq!(status.voters, BTreeSet::from([node(0), node(1), node(3)]));
        assert_eq!(status.learners, BTreeSet::from([node(2)]));
    }
    // The learner proposes as well as any.
    cluster.group(2).propose(create_volume("v", VOLUME, 1), LONG).await.unwrap();
    assert!(cluster.group(2).state().borrow().volumes.contains_key(&VOLUME));
    let newest = cluster.group(2).current(LONG).await.unwrap();
    for index in 0..4 {
        assert_eq!(cluster.group(index).current(LONG).await.unwrap(), newest);
    }
}

#[tokio::test]
async fn a_refusal_reaches_its_proposer() {
    let cluster = Cluster::new(3, QUICK).await;
    for index in 0..3 {
        let refused = cluster.group(index).propose(create_volume("v", VOLUME, 5), LONG).await.unwrap_err();
        assert_eq!(refused, ProposeError::Refused(Refusal::TooFewNodes { replicas: 5, nodes: 3 }));
    }
    let Command::Join(mut large) = join(9, Role::Storage) else { unreachable!() };
    large.member.passport = vec![0; 20_000];
    let large = cluster.group(1).propose(Command::Join(large), LONG).await.unwrap_err();
    assert_eq!(large, ProposeError::TooLarge);
}

/// Every member takes the volume over again and again while messages are lost, repeated and late, the leader is cut
/// off, and members die. Each take-over is granted exactly once, whatever was sent twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_epoch_is_granted_twice_and_no_proposal_carried_out_twice() {
    const EACH: usize = 20;
    let mut cluster = Cluster::new(3, QUICK).await;
    cluster.group(0).propose(create_volume("v", VOLUME, 3), LONG).await.unwrap();
    cluster.net.make_bad(5, 0..6);
    let proposers: Vec<_> = (0..3)
        .map(|index| {
            let group = cluster.group(index);
            tokio::spawn(async move {
                let mut epochs = Vec::new();
                for _ in 0..EACH {
                    match group.propose(take_over(index), LONG).await.unwrap() {
                        Outcome::Granted { epoch } => epochs.push(epoch),
                        other => panic!("{other:?}"),
                    }
                    // One proposer's epochs rise: its proposals are carried out in order.
                    assert!(epochs.is_sorted());
                }
                epochs
            })
        })
        .collect();
    while !proposers.iter().all(|proposer| proposer.is_finished()) {
        let leader = cluster.leader(&[0, 1, 2]).await;
        cluster.net.isolate(node(leader), 3, true);
        tokio::time::sleep(QUICK.stale() * 3).await;
        cluster.net.isolate(node(leader), 3, false);
        tokio::time::sleep(QUICK.stale() * 2).await;
    }
    let mut epochs = BTreeSet::new();
    for proposer in proposers {
        for epoch in proposer.await.unwrap() {
            assert!(epochs.insert(epoch), "epoch {epoch} was granted twice");
        }
    }
    cluster.net.make_bad(0, 0..0);
    assert_eq!(epochs.len(), 3 * EACH);
    for index in 0..3 {
        let state = cluster.group(index).current(LONG).await.unwrap();
        assert_eq!(state.volumes[&VOLUME].epoch, Epoch(3 * EACH as u64));
    }
    cluster.kill(0, true);
    cluster.start(0).await;
    let state = cluster.group(0).current(LONG).await.unwrap();
    assert_eq!(state.volumes[&VOLUME].epoch, Epoch(3 * EACH as u64));
}

#[tokio::test]
async fn a_minority_says_so_in_bounded_time_and_catches_up_later() {
    let cluster = Cluster::new(3, QUICK).await;
    let leader = cluster.leader(&[0, 1, 2]).await;
    let others: Vec<_> = (0..3).filter(|index| *index != leader).collect();
    cluster.net.isolate(node(leader), 3, true);
    cluster.settled(leader, |status| !status.has_quorum).await;
    let alone = cluster.group(leader);
    let limit = Duration::from_millis(700);
    let asked = std::time::Instant::now();
    let proposed = alone.propose(create_volume("lost", VolumeId([1; 16]), 1), limit).await;
    assert_eq!(proposed, Err(ProposeError::NoQuorum));
    let read = alone.current(limit).await;
    assert_eq!(read, Err(ProposeError::NoQuorum));
    assert!(asked.elapsed() < 3 * limit, "{:?}", asked.elapsed());
    assert_eq!(Fault::from(ProposeError::NoQuorum).kind, Kind::Unreachable);
    // The others go on.
    cluster.leader(&others).await;
    cluster.group(others[0]).propose(create_volume("v", VOLUME, 3), LONG).await.unwrap();
    assert!(!alone.state().borrow().volumes.contains_key(&VOLUME));
    cluster.net.isolate(node(leader), 3, false);
    cluster.settled(leader, |status| status.has_quorum).await;
    assert!(alone.current(LONG).await.unwrap().volumes.contains_key(&VOLUME));
}

#[tokio::test]
async fn a_read_includes_what_was_answered_elsewhere() {
    let cluster = Cluster::new(3, QUICK).await;
    cluster.net.make_bad(0, 0..8);
    for round in 0..20u8 {
        let (writer, reader) = (usize::from(round) % 3, (usize::from(round) + 1) % 3);
        let id = VolumeId([round + 1; 16]);
        cluster.group(writer).propose(create_volume(&format!("v{round}"), id, 3), LONG).await.unwrap();
        assert!(cluster.group(writer).state().borrow().volumes.contains_key(&id));
        assert!(cluster.group(reader).current(LONG).await.unwrap().volumes.contains_key(&id));
    }
}

#[tokio::test]
async fn all_members_die_at_once_and_need_nothing_but_their_disks() {
    let mut cluster = Cluster::new(3, QUICK).await;
    cluster.group(0).propose(create_volume("v", VOLUME, 3), LONG).await.unwrap();
    for round in 1..=6u64 {
        let index = round as usize % 3;
        let granted = cluster.group(index).propose(take_over(index), LONG).await.unwrap();
        assert_eq!(granted, Outcome::Granted { epoch: Epoch(round) });
        for index in 0..3 {
            cluster.kill(index, round % 2 == 0);
        }
        for index in 0..3 {
            cluster.start(index).await;
        }
        let state = cluster.group((index + 1) % 3).current(LONG).await.unwrap();
        assert_eq!(state.volumes[&VOLUME].epoch, Epoch(round));
    }
}

#[tokio::test]
async fn a_member_far_behind_gets_a_snapshot() {
    let tuning = Tuning { snapshot_every: 30, log_kept: 5, ..QUICK };
    let mut cluster = Cluster::new(3, tuning).await;
    cluster.group(0).propose(create_volume("v", VOLUME, 3), LONG).await.unwrap();
    let behind = (cluster.leader(&[0, 1, 2]).await + 1) % 3;
    let proposer = (behind + 1) % 3;
    cluster.kill(behind, true);
    for _ in 0..150 {
        cluster.group(proposer).propose(take_over(proposer), LONG).await.unwrap();
    }
    cluster.start(behind).await;
    let last = cluster.group(proposer).current(LONG).await.unwrap();
    assert_eq!(cluster.group(behind).current(LONG).await.unwrap(), last);
    // A new one starts from nothing but the snapshot.
    cluster.join(3, Role::Storage).await;
    let seen = cluster.group(3).current(LONG).await.unwrap();
    assert_eq!(seen.volumes[&VOLUME].epoch, Epoch(150));
    // And all of them come back from their snapshots and what follows.
    for index in 0..4 {
        cluster.kill(index, true);
    }
    for index in 0..4 {
        cluster.start(index).await;
    }
    for index in 0..4 {
        assert_eq!(cluster.group(index).current(LONG).await.unwrap(), seen);
    }
}

#[tokio::test]
async fn a_node_leaves_and_its_vote_goes_to_another() {
    let mut cluster = Cluster::new(3, QUICK).await;
    cluster.join(3, Role::Storage).await;
    cluster.group(3).propose(open_silo(3), LONG).await.unwrap();
    let leader = cluster.leader(&[0, 1, 2, 3]).await;
    let leaving = (leader + 1) % 3;
    let command = Command::Leave { node: node(leaving), at: 9 };
    cluster.group(leader).propose(command, LONG).await.unwrap();
    let stays = |status: &GroupStatus| {
        status.voters.len() == 3 && !status.voters.contains(&node(leaving)) && !status.learners.contains(&node(leaving))
    };
    cluster.settled(leader, stays).await;
    cluster.kill(leaving, false);
    cluster.group(3).propose(create_volume("v", VOLUME, 3), LONG).await.unwrap();
}
