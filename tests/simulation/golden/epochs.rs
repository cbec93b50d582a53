//! One choice an epoch, and what becomes of an epoch whose choice cannot be had any more.

use infinit::base::id::Epoch;
use infinit::cluster::replication::message::{Request, ToSilo};

use super::super::temper::Shape;
use super::super::workload::Kind;
use super::{Script, is_append};

fn is_adoption(message: &ToSilo) -> bool {
    matches!(message, ToSilo::Rare(_, _, Request::AdoptAsIs { .. } | Request::CatchUp { .. }))
}

/// A better report comes after the choice. If it counted, s2 would have adopted one history under epoch 2 and s1
/// another, and the next take-over could not tell them apart.
#[test]
pub fn an_epoch_chooses_once() {
    let mut s = Script::begin("choosing_twice", Shape::one(3));
    let w = s.serve(1);
    let a = s.write(w, 0);
    s.wait(50);
    s.lose(2, is_append);
    s.lose(3, is_append);
    s.say("write 2 reaches s1 alone");
    s.ask(w, Kind::Write, 0, 1);
    s.wait(20);
    s.kill(w);
    s.crash(1);
    s.lose_no_more();
    s.say("epoch 2 chooses (1, 1) from s2 and s3; s2 adopts it, s3 is not asked yet");
    s.lose(3, is_adoption);
    let w = s.attach(2);
    s.wait(2300);
    assert_eq!((s.vote(2, 0), s.vote(3, 0)), ((2, 1, true), (1, 1, true)));
    s.say("s1 comes, waits the lease out that it may have granted, and reports (1, 2)");
    s.open(1);
    s.wait(2500);
    assert!(s.world.writers[w].is_serving(), "s1 and s2 are a majority");
    assert_eq!(s.vote(1, 0), (2, 1, true), "s1 dropped what the choice lacks");
    s.expect(w, 0, a);
    s.kill(w);
    s.crash(2);
    s.lose_no_more();
    let w = s.serve(3);
    s.expect(w, 0, a);
    s.end();
}

/// The only silo with the chosen history goes away before anyone adopted it: the epoch is given up, and the next one
/// may choose what is there.
#[test]
pub fn a_choice_that_is_gone_is_given_up_with_its_epoch() {
    let mut s = Script::begin("source_gone", Shape::one(3));
    let w = s.serve(1);
    let a = s.write(w, 0);
    s.wait(50);
    s.lose(2, is_append);
    s.lose(3, is_append);
    s.say("write 2 reaches s1 alone");
    s.ask(w, Kind::Write, 0, 1);
    s.wait(20);
    s.kill(w);
    s.crash(3);
    s.lose_no_more();
    s.say("epoch 2 chooses (1, 2) from s1 and s2, and s1 dies before it adopts");
    s.lose(1, is_adoption);
    let w = s.attach(2);
    s.wait(2300);
    s.crash(1);
    s.open(3);
    s.wait(3000);
    assert!(!s.world.writers[w].is_running(), "the epoch is given up, although s2 and s3 are a majority");
    s.lose_no_more();
    s.say("epoch 3 chooses anew, and writes");
    let w = s.serve(2);
    s.expect(w, 0, a);
    let b = s.write(w, 0);
    s.kill(w);
    s.crash(3);
    s.open(1);
    let w = s.serve(2);
    s.expect(w, 0, b);
    s.end();
}

/// Rule 8: a silo that has promised and voted takes nothing more of the old epoch, although nobody has adopted the new one
/// yet: its vote is all that it will ever have acknowledged.
#[test]
pub fn an_old_epoch_lands_nothing_after_the_promise() {
    let mut s = Script::begin("old_epoch_after_the_promise", Shape::one(3));
    let old = s.serve(1);
    let a = s.write(old, 0);
    s.say("s2 does not hear of its writer for longer than the lease, and promises to another, who has no majority");
    s.world.partition(old, 1, true, true, 2_600_000_000);
    s.wait(2300);
    let new = s.attach(2);
    s.wait(200);
    s.crash(1);
    s.wait(200);
    s.say("s2 hears of the old writer again; s3 is still the old one's");
    let late = s.ask(old, Kind::Write, 0, 1);
    s.wait(300);
    s.kill(old);
    s.crash(3);
    s.open(1);
    s.wait(5000);
    assert!(s.serves(new), "s1 and s2 are a majority");
    s.expect(new, 0, a);
    assert_ne!(
        s.world.writers[old].answers.get(&late),
        Some(&Ok(infinit::cluster::replication::writer::Response::Done))
    );
    s.end();
}

/// An old writer that was paused lands nothing and shows nothing after another took over.
#[test]
pub fn a_thawed_writer_is_fenced() {
    let mut s = Script::begin("paused_and_thawed", Shape::one(3));
    let old = s.serve(1);
    let a = s.write(old, 0);
    s.wait(50);
    s.say("the writer's process stops; another node waits for its lease and takes over");
    s.world.pause(old, 10_000_000_000);
    let new = s.serve(2);
    s.expect(new, 0, a);
    let b = s.write(new, 0);
    s.say("it goes on, with a read and a write in its socket");
    let read = s.ask(old, Kind::Read, 0, 1);
    let write = s.ask(old, Kind::Write, 0, 1);
    s.world.thaw(old);
    assert!(s.answer(old, read).is_err());
    assert!(s.answer(old, write).is_err());
    s.expect(new, 0, b);
    assert_eq!(s.world.cluster.epoch, Epoch(2));
    s.end();
}
