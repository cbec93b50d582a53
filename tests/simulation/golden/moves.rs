//! Slots whose silos change.

use infinit::cluster::replication::message::{Request, ToSilo};

use super::super::temper::{SECOND, Shape};
use super::super::workload::Kind;
use super::Script;

/// One slot on three of five silos.
fn three_of_five() -> Shape {
    Shape { silos: 5, ..Shape::one(3) }
}

/// What a silo promised for a slot it refuses to break when it has left: the writer that it was fenced from may believe that
/// it is one of the slot's still.
#[test]
pub fn a_promise_outlasts_leaving() {
    let mut s = Script::begin("promise_outlasts_leaving", three_of_five());
    let old = s.serve(1);
    s.say("the writer stands still, and another takes over");
    s.world.pause(old, 10 * SECOND);
    let new = s.serve(2);
    let a = s.write(new, 0);
    s.flush(new);
    s.say("s2 and s3 leave the slot, and once they hear of that they forget what they have of it");
    s.world.ask_for_silos(0, &[0, 3, 4]);
    s.wait(5000);
    assert_eq!((s.vote(2, 0), s.vote(3, 0)), ((0, 0, true), (0, 0, true)));
    s.say("the first one goes on, and does not reach s1");
    s.world.partition(old, 0, true, true, 60 * SECOND);
    s.wait(10_000);
    let read = s.ask(old, Kind::Read, 0, 1);
    s.wait(1000);
    assert!(!s.is_open(old, read) && !s.serves(old), "it was told that it is fenced");
    s.expect(new, 0, a);
    s.end();
}

/// A newcomer that has left before comes again with what it had, and gets what changed since, trims too.
#[test]
pub fn who_comes_again_gets_what_changed() {
    let mut s = Script::begin("comes_again", three_of_five());
    let w = s.serve(1);
    let a = s.write(w, 0);
    s.write(w, 1);
    s.flush(w);
    s.wait(1000);
    s.say("s3 is away, and s4 takes its place");
    s.crash(3);
    s.world.ask_for_silos(0, &[0, 1, 3]);
    s.wait(500);
    s.trim(w, 1, 1);
    let b = s.write(w, 2);
    s.flush(w);
    s.say("s3 comes back, and is to take the place of s2");
    s.open(3);
    s.wait(500);
    s.world.ask_for_silos(0, &[0, 2, 3]);
    s.wait(1000);
    s.say("s1 is gone: what is read now comes from s3 or s4");
    s.crash(1);
    s.wait(1000);
    s.expect(w, 0, a);
    s.expect(w, 1, 0);
    s.expect(w, 2, b);
    s.world.check_content(2);
    s.end();
}

/// What makes a silo write to its disk: also what it is told of the slot's silos, which it keeps.
fn asks_for_sync(message: &ToSilo) -> bool {
    matches!(message, ToSilo::Rare(_, _, Request::Sync { .. } | Request::Configure { .. }))
}

/// What was flushed is on the disks of a majority of the new silos before the old ones are done without.
#[test]
pub fn a_new_majority_has_on_disk_what_was_flushed() {
    let mut s = Script::begin("new_majority_on_disk", three_of_five());
    let w = s.serve(2);
    s.write(w, 1);
    s.flush(w);
    s.say("s4 and s5 are to take the places of s2 and s3, and s5 is away still");
    s.crash(5);
    s.world.ask_for_silos(0, &[0, 3, 4]);
    s.wait(500);
    s.say("s1 and s4 write nothing to their disks: a flush is on those of s2 and s3");
    s.lose(1, asks_for_sync);
    s.lose(4, asks_for_sync);
    let written: Vec<_> = (2..10).map(|block| (block, s.write(w, block))).collect();
    s.flush(w);
    s.say("s5 comes, and gets all there is");
    s.open(5);
    // The cluster state may take its time to decide.
    s.wait(5000);
    s.say("s1 and s4 lose power, s5 dies, and so does the writer");
    s.kill(w);
    s.power(1);
    s.power(4);
    s.crash(5);
    s.lose_no_more();
    s.open(1);
    s.open(4);
    let new = s.serve(3);
    for (block, tag) in written {
        s.expect(new, block, tag);
    }
    s.end();
}
