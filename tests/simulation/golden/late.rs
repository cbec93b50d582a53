//! What was sent on a connection that is no more arrives after all, when the writer has come back to the silo.

use infinit::cluster::replication::message::{Request, ToSilo};
use infinit::cluster::replication::writer::Response;

use super::super::temper::Shape;
use super::super::workload::Kind;
use super::{Script, is_append};

fn is_catch_up(message: &ToSilo) -> bool {
    matches!(message, ToSilo::Rare(_, _, Request::CatchUp { .. }))
}

fn is_promotion(message: &ToSilo) -> bool {
    matches!(message, ToSilo::Rare(_, _, Request::Promote { .. }))
}

/// s2 has promised on the connection that stands, and hears late what it was asked on the one before. Did it take that for
/// the writer's connection, its acknowledgements would go nowhere, and nothing would ever be answered.
#[test]
pub fn a_late_promotion_changes_nothing() {
    let mut s = Script::begin("late_promotion", Shape::one(3));
    s.crash(3);
    s.delay(2, is_promotion);
    let w = s.attach(1);
    s.wait(100);
    s.say("what s2 is asked is on its way when the connection breaks; on the next one it is asked anew");
    s.arrive(|_| false);
    s.cut(w, 2);
    s.wait(1000);
    assert!(s.serves(w));
    let a = s.write(w, 0);
    s.arrive(is_promotion);
    let b = s.write(w, 1);
    s.flush(w);
    s.expect(w, 0, a);
    s.expect(w, 1, b);
    s.end();
}

/// The writer wanted s3 to catch up, and then found that it need not. Had s3 obeyed the late request, it would have
/// acknowledged as one that counts what it held as incomplete, and have dropped it at its next start.
#[test]
pub fn a_late_request_to_catch_up_is_not_obeyed() {
    let mut s = Script::begin("late_catch_up", Shape::one(3));
    let w = s.serve(1);
    let a = s.write(w, 0);
    s.flush(w);
    s.wait(50);
    s.delay(3, is_append);
    s.say("write 2 is on its way to s3 when the connection breaks");
    let b = s.write(w, 1);
    s.cut(w, 3);
    s.delay(3, is_catch_up);
    s.say("the others have it durably, so that s3 must catch up; the connection breaks again before it is told to");
    s.flush(w);
    s.wait(600);
    assert_eq!(s.vote(3, 0), (1, 1, true));
    s.cut(w, 3);
    s.say("write 2 arrives, s3 is up to date and takes the stream");
    s.arrive(is_append);
    s.wait(600);
    assert_eq!(s.vote(3, 0), (1, 2, true));
    s.say("the request to catch up arrives");
    s.arrive(is_catch_up);
    s.lose(2, is_append);
    let c = s.write(w, 2);
    s.flush(w);
    s.kill(w);
    s.crash(1);
    s.crash(3);
    s.open(3);
    s.lose_no_more();
    s.say("s3 and s2 have all of it");
    let w = s.serve(2);
    for (block, tag) in [(0, a), (1, b), (2, c)] {
        s.expect(w, block, tag);
    }
    s.end();
}

/// Rule 1: s2 had the write and said so, and then lost it with its power. What it said before counts for the opening that
/// said it: were it believed of the new one, the write would be answered although s1 alone has it.
#[test]
pub fn an_acknowledgement_from_before_a_restart_does_not_count() {
    let mut s = Script::begin("late_acknowledgement", Shape::one(3));
    let w = s.serve(1);
    let a = s.write(w, 0);
    s.flush(w);
    s.wait(50);
    s.delay_acks(2);
    s.lose(3, is_append);
    let b = s.ask(w, Kind::Write, 0, 1);
    s.wait(5);
    assert_eq!(s.vote(2, 0), (1, 2, true));
    s.say("s2 loses its power and the write with it, before anybody heard of it");
    s.world.silos[1].disk.lose_all_unsynced();
    s.power(2);
    s.lose(2, is_append);
    s.open(2);
    s.wait(600);
    assert_eq!(s.vote(2, 0), (1, 1, true));
    s.acks_arrive();
    s.wait(50);
    assert!(s.is_open(w, b), "nobody but s1 has it\n{}", s.text());
    s.say("s1 is gone, and the write with it");
    s.kill(w);
    s.crash(1);
    s.lose_no_more();
    let w = s.serve(2);
    s.expect(w, 0, a);
    s.end();
}

/// s2 had all of it durably and said so, but nobody heard it on a connection that goes on: whoever waits for the flush
/// must not wait for ever.
#[test]
fn a_flush_whose_answer_is_lost_is_asked_for_again() {
    let mut s = Script::begin("lost_sync_answer", Shape::one(3));
    s.crash(3);
    let w = s.serve(1);
    let a = s.write(w, 0);
    s.wait(50);
    s.delay_acks(2);
    let flush = s.ask(w, Kind::Flush, 0, 0);
    s.wait(500);
    s.acks_are_lost();
    s.wait(1000);
    assert!(s.is_open(w, flush), "it was lost");
    assert_eq!(s.answer(w, flush), Ok(Response::Done));
    s.expect(w, 0, a);
    s.end();
}
