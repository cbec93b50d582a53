//! Two take-overs, and how the history that is chosen must be known again: by the stamps that records were first written
//! with, by epoch before number, and by what the silos themselves recorded.

use infinit::cluster::replication::message::{Request, ToSilo};

use super::super::temper::Shape;
use super::super::workload::Kind;
use super::{Script, is_append};

fn is_catch_up(message: &ToSilo) -> bool {
    matches!(message, ToSilo::Rare(_, _, Request::CatchUp { .. }))
}

/// If recovery gave the tail new stamps, write 2 would be of the interrupted epoch 2, above everything of epoch 1, and
/// come back.
#[test]
pub fn a_tail_is_not_restamped() {
    let mut s = Script::begin("restamping_a_tail", Shape::one(3));
    let w = s.serve(1);
    let a = s.write(w, 0);
    s.wait(50);
    s.lose(2, is_append);
    s.lose(3, is_append);
    s.say("write 2 reaches s1 alone");
    let lost = s.ask(w, Kind::Write, 0, 1);
    s.wait(20);
    assert!(s.is_open(w, lost));
    s.kill(w);
    s.crash(2);
    s.lose_no_more();
    s.say("epoch 2 chooses it from s1 and s3, and dies when s1 alone has adopted it");
    s.lose(3, is_catch_up);
    let w = s.attach(1);
    s.wait(100);
    assert_eq!((s.vote(1, 0), s.vote(3, 0)), ((2, 2, true), (1, 1, true)));
    s.kill(w);
    s.crash(1);
    s.open(2);
    s.lose_no_more();
    s.say("epoch 3 has s2 and s3, where it never was, and writes in its place");
    let w = s.serve(2);
    s.expect(w, 0, a);
    let c = s.write(w, 0);
    s.kill(w);
    s.crash(3);
    s.open(1);
    s.say("epoch 4 finds s1 with write 2 in epoch 2, and s2 with epoch 3");
    let w = s.serve(2);
    s.expect(w, 0, c);
    s.wait(200);
    assert_eq!(s.vote(1, 0), s.vote(2, 0));
    s.end();
}

/// The longer history is the dead one.
#[test]
pub fn epochs_come_before_numbers() {
    let mut s = Script::begin("epoch_before_number", Shape::one(3));
    let w = s.serve(1);
    s.lose(2, is_append);
    s.lose(3, is_append);
    s.say("three writes reach s1 alone");
    for block in 0..3 {
        s.ask(w, Kind::Write, block, 1);
    }
    s.wait(20);
    s.kill(w);
    s.crash(1);
    s.lose_no_more();
    s.say("epoch 2 has s2 and s3, and answers one write");
    let w = s.serve(2);
    let x = s.write(w, 0);
    s.kill(w);
    s.crash(3);
    s.open(1);
    assert_eq!((s.vote(1, 0), s.vote(2, 0)), ((1, 3, true), (2, 1, true)));
    s.say("epoch 3 has s1 with (1, 3) and s2 with (2, 1)");
    let w = s.serve(1);
    s.expect(w, 0, x);
    s.expect(w, 1, 0);
    s.end();
}

/// Epoch 2 decides that write 2 is not part of the history, serves a read that shows it, and writes nothing. Had it
/// left no trace on a majority of the silos, epoch 3 would choose write 2.
#[test]
pub fn ends_are_recorded_where_they_are_voted() {
    let mut s = Script::begin("ends_recorded_at_the_silos", Shape::one(3));
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
    s.say("epoch 2 has s2 and s3, no tail, and serves a read");
    let w = s.serve(2);
    s.expect(w, 0, a);
    s.kill(w);
    s.crash(3);
    s.open(1);
    s.say("epoch 3 has s1 with write 2, and s2, which adopted epoch 2");
    let w = s.serve(2);
    s.expect(w, 0, a);
    s.end();
}
