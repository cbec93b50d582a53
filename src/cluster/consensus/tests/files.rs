//! The log file: one commit for all who wait, and damage that is told, not suffered.

use redb::{ReadableDatabase, ReadableTable, TableDefinition};

use super::*;
use crate::base::error::{Fault, Kind};
use crate::cluster::consensus::log_file::{Change, Fact};
use crate::cluster::consensus::{CLUSTER_GROUP, Damage, GroupNumber, LogError, ProposeError};

const ENTRIES: TableDefinition<(u64, u64), &[u8]> = TableDefinition::new("entries");
const FACTS: TableDefinition<(u64, u8), &[u8]> = TableDefinition::new("facts");

fn entry(index: u64) -> Change {
    Change::Entry { index, bytes: vec![index as u8; 100] }
}

#[tokio::test]
async fn those_who_wait_together_share_a_commit() {
    let disk = Disk::default();
    let file = LogFile::open_on(disk.clone()).await.unwrap();
    let before = disk.syncs();
    let writes = (0..400u64).map(|index| {
        let file = file.clone();
        // Two groups, one log.
        async move { file.write_and_wait(GroupNumber(index % 2), vec![entry(index / 2)]).await }
    });
    for written in futures::future::join_all(writes).await {
        written.unwrap();
    }
    let commits = disk.syncs() - before;
    assert!(commits <= 40, "{commits} commits for 400 writes");
    let file = LogFile::open_on(disk.kill(true)).await.unwrap();
    for group in [GroupNumber(0), GroupNumber(1)] {
        assert_eq!(file.take(group).entries.keys().copied().collect::<Vec<_>>(), (0..200).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn cuts_and_facts_are_kept_and_lazy_facts_follow_soon() {
    let disk = Disk::default();
    let file = LogFile::open_on(disk.clone()).await.unwrap();
    let group = GroupNumber(4);
    file.write_and_wait(group, (0..10).map(entry).collect()).await.unwrap();
    let vote = Change::Fact { fact: Fact::Vote, bytes: b"vote".to_vec() };
    file.write_and_wait(group, vec![Change::CutFrom(8), Change::CutBefore(3), vote]).await.unwrap();
    file.write_lazily(group, Fact::Committed, b"six".to_vec()).await.unwrap();
    file.close().await;
    assert!(file.write_and_wait(group, vec![entry(8)]).await.is_err());
    let found = LogFile::open_on(disk.kill(true)).await.unwrap().take(group);
    assert_eq!(found.entries.keys().copied().collect::<Vec<_>>(), vec![3, 4, 5, 6, 7]);
    assert_eq!(found.fact(Fact::Vote), Some(&b"vote"[..]));
    assert_eq!(found.fact(Fact::Committed), Some(&b"six"[..]));
    assert_eq!(found.fact(Fact::Purged), None);
}

#[tokio::test]
async fn a_disk_that_fails_ends_the_file_for_good() {
    let disk = Disk::default();
    let file = LogFile::open_on(disk.clone()).await.unwrap();
    file.write_and_wait(CLUSTER_GROUP, vec![entry(0)]).await.unwrap();
    disk.kill(false);
    assert!(file.write_and_wait(CLUSTER_GROUP, vec![entry(1)]).await.is_err());
    assert!(file.write_and_wait(CLUSTER_GROUP, vec![entry(1)]).await.is_err());
    file.close().await;
}

#[tokio::test]
async fn a_member_whose_disk_fails_stops_and_the_others_go_on() {
    let cluster = Cluster::new(3, QUICK).await;
    let leader = cluster.leader(&[0, 1, 2]).await;
    cluster.disk(leader).kill(false);
    let failing = cluster.group(leader).propose(create_volume("v", VOLUME, 3), Duration::from_secs(5)).await;
    assert!(failing.is_err());
    let stopped = cluster.settled(leader, |status| status.stopped.is_some()).await;
    assert!(!stopped.has_quorum && stopped.leader.is_none());
    let refused = cluster.group(leader).propose(take_over(leader), LONG).await;
    assert_eq!(refused, Err(ProposeError::Stopped));
    let others: Vec<_> = (0..3).filter(|index| *index != leader).collect();
    cluster.leader(&others).await;
    cluster.group(others[0]).propose(create_volume("w", VolumeId([8; 16]), 3), LONG).await.unwrap();
}

/// A group of one on a real file, with some entries in it.
async fn founded(path: &std::path::Path) {
    let group = start(path).await.unwrap();
    group.bootstrap(genesis()).await.unwrap();
    group.bootstrap(genesis()).await.unwrap();
    group.propose(open_silo(0), LONG).await.unwrap();
    group.propose(create_volume("v", VOLUME, 1), LONG).await.unwrap();
    group.shutdown().await;
}

async fn start(path: &std::path::Path) -> Result<Group, LogError> {
    let net = Arc::new(Net::default());
    Group::start(GroupOptions {
        node: node(0),
        storage: Storage::File(path.to_owned()),
        rpc: Arc::new(Wire { node: node(0), life: 0, net }),
        peers: vec![],
        tuning: QUICK,
    })
    .await
}

#[tokio::test]
async fn a_stopped_group_opens_its_file_again_and_no_other_may_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cluster.redb");
    founded(&path).await;
    let group = start(&path).await.unwrap();
    // What was committed is there before any leader is.
    assert!(group.state().borrow().volumes.contains_key(&VOLUME));
    let second = start(&path).await.err().unwrap();
    assert!(matches!(second, LogError::InUse), "{second:?}");
    assert_eq!(Fault::from(second).kind, Kind::Conflict);
    assert!(group.current(LONG).await.unwrap().volumes.contains_key(&VOLUME));
    group.shutdown().await;
    start(&path).await.unwrap().shutdown().await;
}

#[tokio::test]
async fn damage_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cluster.redb");
    founded(&path).await;
    let whole = std::fs::read(&path).unwrap();

    let tampered = |tamper: &dyn Fn(&redb::WriteTransaction)| {
        std::fs::write(&path, &whole).unwrap();
        let database = redb::Database::open(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        tamper(&transaction);
        transaction.commit().unwrap();
    };
    tampered(&|transaction| {
        let mut entries = transaction.open_table(ENTRIES).unwrap();
        let mut row = entries.get((0, 2)).unwrap().unwrap().value().to_vec();
        *row.last_mut().unwrap() ^= 1;
        entries.insert((0, 2), row.as_slice()).unwrap();
    });
    let error = start(&path).await.err().unwrap();
    assert!(matches!(error, LogError::Damaged { what: Damage::Entry(2), .. }), "{error}");
    assert!(Fault::from(error).hint.is_some());

    // A whole row in another's place.
    tampered(&|transaction| {
        let mut entries = transaction.open_table(ENTRIES).unwrap();
        let row = entries.get((0, 2)).unwrap().unwrap().value().to_vec();
        entries.insert((0, 3), row.as_slice()).unwrap();
    });
    let error = start(&path).await.err().unwrap();
    assert!(matches!(error, LogError::Damaged { what: Damage::Entry(3), .. }), "{error}");

    tampered(&|transaction| drop(transaction.open_table(ENTRIES).unwrap().remove((0, 2)).unwrap()));
    let error = start(&path).await.err().unwrap();
    assert!(matches!(error, LogError::Damaged { what: Damage::Gap(2), .. }), "{error}");

    tampered(&|transaction| drop(transaction.open_table(FACTS).unwrap().insert((0, 0), &b"1234vote"[..]).unwrap()));
    let error = start(&path).await.err().unwrap();
    assert!(matches!(error, LogError::Damaged { what: Damage::Fact(0), .. }), "{error}");

    tampered(&|transaction| {
        const FORMATS: TableDefinition<&str, u32> = TableDefinition::new("format");
        drop(transaction.open_table(FORMATS).unwrap().insert("version", 2).unwrap());
    });
    let error = start(&path).await.err().unwrap();
    assert!(matches!(error, LogError::Version(2)), "{error}");

    std::fs::write(&path, b"no database at all").unwrap();
    assert!(matches!(start(&path).await.err().unwrap(), LogError::Open(_)));
    std::fs::write(&path, &whole).unwrap();
    let database = redb::Database::open(&path).unwrap();
    let kept = database.begin_read().unwrap().open_table(ENTRIES).unwrap().iter().unwrap().count();
    assert!(kept >= 4);
}
