//! Disks that lost something, or are not the ones they claim to be: what they vote with is not believed.

use std::sync::Arc;

use infinit::cluster::replication::writer::report::SiloState;
use infinit::store::faulty::FaultyDisk;
use infinit::store::silo::Silo;

use super::super::temper::Shape;
use super::super::world::silo_id;
use super::{Script, is_append};

/// Rule 14: the end of s1's log has decayed, and looks like a write that was torn. But the others remember that s1 had
/// reported it durable.
#[test]
pub fn a_silo_with_less_than_it_reported_neither_votes_nor_counts() {
    let mut s = Script::begin("below_its_report", Shape::one(3));
    let w = s.serve(1);
    let a = s.write(w, 0);
    s.flush(w);
    s.say("s1 and s2 have write 3 durably, and s3 hears of it");
    s.lose(3, is_append);
    let b = s.write(w, 1);
    s.flush(w);
    s.wait(600);
    s.kill(w);
    s.crash(2);
    s.crash(1);
    s.decay(1, 1, b);
    s.lose_no_more();
    s.open(1);
    assert_eq!((s.vote(1, 0), s.vote(3, 0)), ((1, 1, true), (1, 1, true)));
    s.say("s1 and s3 would be a majority, and agree");
    let w = s.attach(3);
    s.wait(4000);
    assert!(!s.serves(w), "write 3 would be lost");
    assert_eq!(s.state_of(w, 1), SiloState::Damaged);
    s.open(2);
    s.wait(2500);
    assert!(s.serves(w), "s2 and s3 are a majority");
    s.expect(w, 0, a);
    s.expect(w, 1, b);
    assert_eq!(s.state_of(w, 1), SiloState::Damaged);
    s.end();
}

/// A disk was replaced, and formatted with the name of the old one.
#[test]
pub fn a_blank_disk_inherits_no_vote() {
    let mut s = Script::begin("blank_disk", Shape::one(3));
    let w = s.serve(1);
    s.lose(3, is_append);
    s.say("s1 and s2 have write 1");
    let a = s.write(w, 0);
    s.flush(w);
    s.kill(w);
    s.crash(2);
    s.crash(1);
    s.lose_no_more();
    s.say("s1 comes back with an empty disk");
    let blank = FaultyDisk::new(5);
    Silo::format(Arc::new(blank.clone()), silo_id(0)).unwrap();
    s.restart_on(1, blank);
    let w = s.attach(3);
    s.wait(4000);
    assert!(!s.serves(w), "write 1 would be lost");
    s.open(2);
    s.wait(2500);
    s.expect(w, 0, a);
    s.end();
}

/// A silo's directory comes back from a backup: the cluster state knows an incarnation that the copy never had.
#[test]
pub fn a_restored_disk_inherits_no_vote() {
    let mut s = Script::begin("restored_disk", Shape::one(3));
    let w = s.serve(1);
    let a = s.write(w, 0);
    s.flush(w);
    let copy = s.copy(1);
    s.crash(1);
    s.open(1);
    s.wait(1500);
    s.lose(3, is_append);
    s.say("s1 and s2 have write 3");
    let b = s.write(w, 1);
    s.flush(w);
    s.kill(w);
    s.crash(2);
    s.crash(1);
    s.lose_no_more();
    s.say("s1 comes back as it was when it was copied");
    s.restart_on(1, copy);
    let w = s.attach(3);
    s.wait(4000);
    assert!(!s.serves(w), "write 3 would be lost");
    s.open(2);
    s.wait(2500);
    s.expect(w, 0, a);
    s.expect(w, 1, b);
    s.end();
}

/// Rule 14: a sync failed, and the pages count as clean although they never reached the disk. A restart heals nothing.
#[test]
pub fn a_failed_sync_is_final() {
    let mut s = Script::begin("failed_sync", Shape::one(3));
    // What is out of service saves nothing, its incarnations neither, and is another silo at its second start.
    (s.world.strangers, s.world.faults_are_lawful) = (true, true);
    let w = s.serve(1);
    let a = s.write(w, 0);
    s.flush(w);
    s.wait(50);
    let later: Vec<_> = (1..9).map(|block| (block, s.write(w, block))).collect();
    s.say("s1's disk fails to sync");
    s.world.silos[0].disk.fail_sync_after(0);
    s.flush(w);
    s.wait(600);
    assert!(matches!(s.state_of(w, 1), SiloState::Faulted(_)));
    s.say("s1 is restarted, and restarted after a power loss");
    s.crash(1);
    s.open(1);
    s.wait(1500);
    s.power(1);
    s.open(1);
    s.wait(1500);
    s.expect(w, 0, a);
    for (block, tag) in later {
        s.expect(w, block, tag);
    }
    assert!(matches!(s.state_of(w, 1), SiloState::Faulted(_)));
    s.end();
}
