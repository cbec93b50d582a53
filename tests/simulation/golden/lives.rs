//! Plain lives: attaching, a silo that is away and catches up, trims, detaching.

use infinit::base::id::SlotIndex;
use infinit::cluster::replication::message::{Request, ToSilo};

use super::super::temper::Shape;
use super::super::trace::Trace;
use super::{Script, is_append};

#[test]
pub fn a_plain_life() {
    let mut s = Script::begin("plain_life", Shape::one(3));
    let w = s.serve(1);
    let a = s.write(w, 0);
    s.flush(w);
    s.expect(w, 0, a);
    s.say("s3 goes down; the others go on, and what they have durably is no longer remembered");
    s.crash(3);
    let b = s.write(w, 1);
    let c = s.write(w, 300);
    s.flush(w);
    s.say("s3 comes back and catches up with the two extents that changed");
    s.open(3);
    s.wait(1500);
    assert_eq!(s.vote(3, 0), s.vote(1, 0));
    let d = s.write(w, 2);
    s.wait(50);
    s.say("the volume is detached, and attached elsewhere without waiting for the lease");
    s.world.writers[w].writer.release();
    s.world.pump(w);
    s.wait(50);
    assert!(s.world.writers[w].released);
    let w = s.serve(3);
    for (block, tag) in [(0, a), (1, b), (300, c), (2, d)] {
        s.expect(w, block, tag);
    }
    s.end();
}

/// Where no copy is on the node itself, reads come from its zone if they can.
#[test]
pub fn reads_come_from_the_nearest_copy() {
    let mut s = Script::begin("nearest_copy", Shape { silos: 4, zones: true, ..Shape::one(3) });
    let reads_of = |s: &Script, silo: usize| s.text().matches(&format!("→ s{silo}: read")).count();
    s.say("of the silos that have a copy, s2 is in the zone of node 4");
    let w = s.serve(4);
    let a = s.write(w, 0);
    for _ in 0..3 {
        s.expect(w, 0, a);
    }
    assert_eq!(reads_of(&s, 2), 3);
    s.say("without it, they come from elsewhere");
    s.crash(2);
    s.wait(500);
    s.expect(w, 0, a);
    assert_eq!((reads_of(&s, 2), reads_of(&s, 1) + reads_of(&s, 3)), (3, 1));
    s.say("it comes back");
    s.open(2);
    s.wait(1500);
    s.expect(w, 0, a);
    assert_eq!(reads_of(&s, 2), 4);
    s.end();
}

/// Rule 15: old clients go on only if nothing that they were answered can be missing, and nobody wrote in between.
#[test]
pub fn old_clients_go_on_only_where_nothing_is_missing() {
    let mut s = Script::begin("resumed_or_not", Shape::one(3));
    let w = s.serve(1);
    let a = s.write(w, 0);
    s.say("the daemon is restarted, and the silos are not");
    s.kill(w);
    let w = s.serve(1);
    assert_eq!(s.resumed(), 1);
    s.expect(w, 0, a);
    s.say("it is restarted after another node wrote");
    s.kill(w);
    let other = s.serve(2);
    let b = s.write(other, 0);
    s.kill(other);
    let w = s.serve(1);
    assert_eq!(s.resumed(), 1);
    s.expect(w, 0, b);
    s.say("it is restarted after two machines lost their power");
    s.kill(w);
    for silo in [2, 3] {
        s.power(silo);
        s.open(silo);
    }
    let w = s.serve(1);
    assert_eq!(s.resumed(), 1);
    s.expect(w, 0, b);
    s.end();
}

/// One position for all slots of a silo would take its progress in one slot for progress in another.
#[test]
pub fn positions_are_of_a_slot_and_not_of_a_silo() {
    let mut s = Script::begin("two_slots", Shape::two());
    let w = s.serve(2);
    s.say("write 1 in slot 0 is answered by s1 and s2, write 2 in slot 1 by s3 and s4");
    s.lose(3, |m| matches!(m, ToSilo::Append(append) if append.record.header.slot == SlotIndex(0)));
    s.lose(2, |m| matches!(m, ToSilo::Append(append) if append.record.header.slot == SlotIndex(1)));
    let a = s.write(w, 0);
    let b = s.write(w, 600);
    s.kill(w);
    s.crash(1);
    s.crash(4);
    s.lose_no_more();
    s.say("s2 and s3 alone recover both: s3's higher number in slot 1 says nothing about slot 0");
    let w = s.serve(3);
    s.expect(w, 0, a);
    s.expect(w, 600, b);
    s.kill(w);
    s.open(1);
    s.open(4);
    s.crash(2);
    s.say("the next take-over finds them without s2 too");
    let w = s.serve(3);
    s.expect(w, 0, a);
    s.expect(w, 600, b);
    s.end();
}

/// A silo that crashed while it was being brought up to date has later blocks and lacks earlier ones.
#[test]
pub fn a_hole_is_not_elected() {
    let mut s = Script::begin("crash_in_backfill", Shape::one(3));
    let w = s.serve(1);
    let a = s.write(w, 0);
    s.flush(w);
    s.wait(50);
    s.crash(3);
    let b = s.write(w, 300);
    s.flush(w);
    s.say("s3 is sent what it lacks, out of prefix, and the stream beside it, but never told to adopt");
    s.lose(3, |m| matches!(m, ToSilo::Rare(_, _, Request::Transfer { .. } | Request::Adopt { .. })));
    s.open(3);
    s.wait(600);
    let c = s.write(w, 600);
    s.flush(w);
    assert_eq!(s.vote(3, 0), (1, 1, false), "incomplete, with its last complete vote");
    s.say("writer, s1 and s3 die in the middle of it");
    s.kill(w);
    s.crash(1);
    s.crash(3);
    s.open(3);
    s.lose_no_more();
    s.say("s2 and s3: s2 is chosen, although s3 had stored write 3");
    let w = s.serve(3);
    for (block, tag) in [(0, a), (300, b), (600, c)] {
        s.expect(w, block, tag);
    }
    s.wait(300);
    assert_eq!(s.vote(3, 0), s.vote(2, 0));
    s.end();
}

/// What the source does not name is absent at the receiver.
#[test]
pub fn a_trimmed_block_stays_away() {
    let mut s = Script::begin("trim_then_catch_up", Shape::one(3));
    let w = s.serve(1);
    let a = s.write(w, 0);
    s.write(w, 1);
    s.write(w, 300);
    s.flush(w);
    s.wait(50);
    s.say("s3 has all three blocks and misses the trims of two of them");
    s.crash(3);
    s.trim(w, 1, 1);
    s.trim(w, 256, 100);
    s.flush(w);
    for silo in 0..2 {
        let life = s.world.silos[silo].life;
        s.world.checkpoint_once(silo, life);
    }
    s.open(3);
    s.wait(1500);
    assert_eq!(s.vote(3, 0), s.vote(1, 0));
    s.say("s3 serves the next epoch's reads");
    s.kill(w);
    s.crash(1);
    let w = s.serve(3);
    s.expect(w, 0, a);
    s.expect(w, 1, 0);
    s.expect(w, 300, 0);
    s.end();
}

/// A trim comes by the stream before the version that it hides was adopted from a transfer: it is not cleaned until then.
#[test]
pub fn an_incomplete_silo_cleans_no_trim() {
    let mut s = Script::begin("trim_before_adoption", Shape::one(3));
    let w = s.serve(1);
    let a = s.write(w, 0);
    s.flush(w);
    s.wait(50);
    s.crash(3);
    s.write(w, 300);
    s.flush(w);
    s.say("s3 is sent block 300, and is not told to adopt yet");
    s.lose(3, |m| matches!(m, ToSilo::Rare(_, _, Request::Adopt { .. })));
    s.open(3);
    s.wait(600);
    s.say("the block is trimmed, durably everywhere; s3 hears so and makes checkpoints");
    s.trim(w, 300, 1);
    s.flush(w);
    s.write(w, 1);
    s.wait(50);
    s.checkpoint(3);
    s.checkpoint(3);
    s.lose_no_more();
    s.wait(3500);
    assert_eq!(s.vote(3, 0), s.vote(1, 0));
    s.world.check_content(2);
    s.kill(w);
    s.crash(1);
    let w = s.serve(3);
    s.expect(w, 0, a);
    s.expect(w, 300, 0);
    s.end();
}

/// {a silo with a stale suffix, a current one} alone can attach.
#[test]
pub fn a_stale_suffix_and_a_current_silo_are_enough() {
    let mut s = Script::begin("stale_suffix", Shape::one(3));
    let w = s.serve(1);
    let a = s.write(w, 0);
    s.wait(50);
    s.say("s1 alone has what the writer sent last");
    s.lose(2, is_append);
    s.lose(3, is_append);
    let lost = s.ask(w, super::super::workload::Kind::Write, 0, 1);
    s.wait(20);
    assert!(s.is_open(w, lost));
    s.kill(w);
    s.crash(1);
    s.lose_no_more();
    let w = s.serve(2);
    s.expect(w, 0, a);
    let b = s.write(w, 1);
    s.kill(w);
    s.crash(3);
    s.open(1);
    s.say("s1, whose end is stale, and s2, which is current");
    let w = s.serve(2);
    s.expect(w, 0, a);
    s.expect(w, 1, b);
    s.wait(200);
    assert_eq!(s.vote(1, 0), s.vote(2, 0));
    s.end();
}

#[test]
pub fn traces_are_kept_only_if_asked_for() {
    let mut trace = Trace::new(false);
    trace.line(0, || unreachable!("nobody reads it"));
    assert!(trace.lines.is_none());
}
