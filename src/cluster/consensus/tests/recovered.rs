//! A network that lost its voters and goes on with what one member knows.

use super::*;
use crate::base::id::Epoch;
use crate::cluster::consensus::recovery::{self, Known};
use crate::cluster::state::command::Outcome;

const LATER: VolumeId = VolumeId([8; 16]);

/// Four members, of which two voters are gone for good; of the others, a voter and the one that is only told, the voter alone
/// knows of the last volume.
async fn broken() -> (Cluster, usize, usize) {
    let mut cluster = Cluster::new(4, QUICK).await;
    let leader = cluster.leader(&[0, 1, 2, 3]).await;
    let status = cluster.group(leader).status();
    let told = (0..4).find(|index| !status.voters.contains(&node(*index))).unwrap();
    let group = cluster.group(leader);
    group.propose(create_volume("v", VOLUME, 3), LONG).await.unwrap();
    let known = group.status().applied;
    cluster.settled(told, |status| status.applied >= known).await;
    cluster.net.isolate(node(told), 4, true);
    group.propose(create_volume("w", LATER, 3), LONG).await.unwrap();
    for index in (0..4).filter(|index| *index != leader && *index != told) {
        cluster.kill(index, true);
    }
    cluster.net.isolate(node(told), 4, false);
    (cluster, leader, told)
}

async fn recover(cluster: &mut Cluster, index: usize) -> Known {
    cluster.kill(index, true);
    let file = LogFile::open_on(cluster.disk(index).clone()).await.unwrap();
    let known = recovery::recover_in(&file, node(index)).await.unwrap();
    file.close().await;
    cluster.start(index).await;
    known
}

#[tokio::test]
async fn a_recovered_network_goes_on_and_who_knows_less_is_told() {
    let (mut cluster, voter, told) = broken().await;
    let known = recover(&mut cluster, voter).await;
    assert_eq!((known.generation, known.state.volumes.len(), known.voters.len()), (0, 2, 3));
    cluster.settled(voter, |status| status.leader == Some(node(voter)) && status.generation == 1).await;
    cluster.settled(told, |status| status.has_quorum && status.generation == 1).await;
    let granted = cluster.group(told).propose(take_over(told), LONG).await;
    // Above whatever the lost half may have granted.
    assert_eq!(granted, Ok(Outcome::Granted { epoch: Epoch((1 << 30) + 1) }));
    assert_eq!(cluster.group(told).state().borrow().volumes.len(), 2);
    assert!(!*cluster.group(told).superseded().borrow());
    // It lasts, and can be done again.
    assert_eq!(recover(&mut cluster, voter).await.generation, 1);
    cluster.settled(told, |status| status.has_quorum && status.generation == 2).await;
}

#[tokio::test]
async fn who_knows_more_than_the_recovered_network_is_refused_until_it_forgets() {
    let (mut cluster, voter, told) = broken().await;
    assert_eq!(recover(&mut cluster, told).await.state.volumes.len(), 1);
    cluster.settled(told, |status| status.has_quorum && status.generation == 1).await;
    let mut superseded = cluster.group(voter).superseded();
    tokio::time::timeout(LONG, superseded.wait_for(|is| *is)).await.unwrap().unwrap();
    cluster.settled(voter, |status| !status.has_quorum).await;
    assert_eq!(cluster.group(voter).state().borrow().volumes.len(), 2);
    cluster.kill(voter, true);
    cluster.disks.insert(voter, Disk::default());
    cluster.start(voter).await;
    cluster.settled(voter, |status| status.has_quorum && status.generation == 1).await;
    cluster.group(voter).propose(take_over(voter), LONG).await.unwrap();
    assert_eq!(cluster.group(voter).state().borrow().volumes.len(), 1);
}
