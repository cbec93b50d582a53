//! What goes on although something is broken: damaged blocks are repaired, and I/O that waits for too long fails where
//! the policy says so.

use std::time::Duration;

use infinit::cluster::replication::writer::{RequestError, Response};

use super::super::temper::Shape;
use super::super::workload::Kind;
use super::{Script, is_append};

/// The block is read elsewhere at once, and the damaged silo gets exactly the version that it has indexed.
#[test]
pub fn a_damaged_block_is_read_elsewhere_and_repaired() {
    let mut s = Script::begin("damaged_block", Shape::one(3));
    let w = s.serve(1);
    let a = s.write(w, 0);
    let b = s.write(w, 1);
    s.flush(w);
    s.wait(50);
    s.decay(1, 0, a);
    assert!(!s.reads(1, 0) && s.reads(1, 1));
    s.say("s1 is the nearest, and cannot read it; s2's copy is the answer, and goes to s1");
    s.expect(w, 0, a);
    s.wait(50);
    assert!(s.reads(1, 0));
    assert_eq!(s.world.writers[w].writer.report(infinit::base::clock::Moment(0)).repaired_blocks, 1);
    s.say("two of three copies are damaged, s1's again");
    s.decay(1, 1, b);
    s.decay(2, 1, b);
    s.expect(w, 1, b);
    s.wait(50);
    assert!(s.reads(1, 1) && s.reads(2, 1));
    s.end();
}

/// What a silo's scrub found is repaired without anybody having read it; told in another epoch, or of no slot, it is
/// nothing.
#[test]
fn a_block_that_a_scrub_found_damaged_is_repaired() {
    let mut s = Script::begin("scrubbed_block", Shape::one(3));
    let w = s.serve(1);
    let a = s.write(w, 0);
    s.flush(w);
    s.wait(50);
    s.decay(2, 0, a);
    s.say("s2 tells, as its scrub does, first wrongly");
    s.tell_damage(w, 2, 0, 7, 0);
    s.tell_damage(w, 2, 9, 0, 0);
    s.wait(50);
    assert!(!s.reads(2, 0));
    s.tell_damage(w, 2, 0, 0, 0);
    s.wait(50);
    assert!(s.reads(2, 0));
    assert_eq!(s.world.writers[w].writer.report(infinit::base::clock::Moment(0)).repaired_blocks, 1);
    s.end();
}

/// Nobody is given what another version of the block would be.
#[test]
pub fn a_block_without_a_whole_copy_is_an_error_until_it_is_written() {
    let mut s = Script::begin("no_whole_copy", Shape::one(3));
    let w = s.serve(1);
    let a = s.write(w, 0);
    s.flush(w);
    s.wait(50);
    for silo in 1..=3 {
        s.decay(silo, 0, a);
    }
    s.lawful_errors();
    let read = s.ask(w, Kind::Read, 0, 1);
    assert_eq!(s.answer(w, read), Err(RequestError::Unreadable));
    let b = s.write(w, 0);
    s.expect(w, 0, b);
    s.end();
}

/// Each silo lacks another block of what is read at once: none can answer, and nothing is lost.
#[test]
fn what_is_damaged_here_and_there_is_read_once_a_silo_is_repaired() {
    let mut s = Script::begin("damaged_here_and_there", Shape::one(3));
    let w = s.serve(1);
    let tags = [0, 1, 2].map(|block| s.write(w, block));
    s.flush(w);
    s.wait(50);
    for (silo, block) in [(1, 0), (2, 1), (3, 2)] {
        s.decay(silo, block, tags[block as usize]);
    }
    let read = s.ask(w, Kind::Read, 0, 3);
    assert!(s.answer(w, read).is_ok());
    s.wait(50);
    for silo in 1..=3 {
        assert!((0..3).all(|block| s.reads(silo, block)), "s{silo}");
    }
    s.end();
}

/// The one whole copy at hand is of an older version: s1's damage must wait.
#[test]
pub fn a_block_is_not_repaired_from_an_older_version() {
    let mut s = Script::begin("older_copy", Shape::one(3));
    let w = s.serve(1);
    s.write(w, 0);
    s.flush(w);
    s.lose(3, is_append);
    s.say("s3 misses the second write");
    let b = s.write(w, 0);
    s.flush(w);
    s.crash(2);
    s.decay(1, 0, b);
    let read = s.ask(w, Kind::Read, 0, 1);
    s.wait(1500);
    assert!(s.is_open(w, read));
    s.say("s2 has it");
    s.open(2);
    s.wait(3500);
    assert!(!s.is_open(w, read) && s.reads(1, 0));
    s.expect(w, 0, b);
    s.end();
}

/// A transfer finds the damage too: the silo that comes back is brought up to date all the same.
#[test]
pub fn a_transfer_from_a_damaged_source_goes_on_from_another() {
    let mut s = Script::begin("damaged_source", Shape::one(3));
    let w = s.serve(1);
    s.write(w, 0);
    s.flush(w);
    s.wait(50);
    s.crash(3);
    let b = s.write(w, 300);
    s.flush(w);
    s.decay(1, 300, b);
    s.open(3);
    s.wait(1500);
    assert_eq!(s.vote(3, 0), s.vote(1, 0));
    assert!(s.reads(1, 300) && s.reads(3, 300));
    s.end();
}

/// The only silo that has the chosen history is damaged, and whoever has the block whole could only be brought up to date
/// from there: it gives exactly the version that is missing, from beneath a later one that the history does not have.
#[test]
pub fn the_only_source_is_repaired_from_a_silo_that_has_not_adopted() {
    let mut s = Script::begin("damaged_only_source", Shape::one(3));
    s.crash(3);
    let w = s.serve(1);
    let a = s.write(w, 0);
    s.flush(w);
    s.wait(50);
    s.say("the second write reaches s2 alone");
    s.lose(1, is_append);
    let b = s.ask(w, Kind::Write, 0, 1);
    s.wait(20);
    assert!(s.is_open(w, b));
    s.kill(w);
    s.crash(2);
    s.checkpoint(1);
    s.decay(1, 0, a);
    s.lose_no_more();
    s.say("s1 and s3 are a majority, and s3 has nothing");
    s.open(3);
    let w = s.attach(3);
    s.wait(4000);
    assert!(!s.serves(w), "s3 cannot be brought up to date");
    s.say("s2 comes back");
    s.open(2);
    s.wait(3000);
    assert!(s.serves(w) && s.reads(1, 0));
    s.expect(w, 0, a);
    s.wait(500);
    assert!(s.vote(1, 0) == s.vote(2, 0) && s.vote(1, 0) == s.vote(3, 0));
    s.end();
}

/// Rule 11 with a limit: what waits fails, what comes fails at once, a numbered write still lands, and no read goes
/// back behind it.
#[test]
pub fn io_that_waits_for_too_long_fails_where_the_policy_says_so() {
    let mut s = Script::begin("io_timeout", Shape::one(3));
    s.world.temper.io_timeout = Some(Duration::from_millis(500));
    let w = s.serve(1);
    let a = s.write(w, 0);
    s.flush(w);
    s.say("the write reaches s1 alone, then s2 and s3 are gone");
    s.lose(2, is_append);
    s.lose(3, is_append);
    s.lawful_errors();
    let late = s.ask(w, Kind::Write, 0, 1);
    s.wait(20);
    s.crash(2);
    s.crash(3);
    let read = s.ask(w, Kind::Read, 0, 1);
    s.wait(300);
    assert!(s.is_open(w, late) && s.is_open(w, read), "they wait");
    for waits in [late, read] {
        assert_eq!(s.answer(w, waits), Err(RequestError::TimedOut));
    }
    let new = s.ask(w, Kind::Write, 1, 1);
    assert_eq!(s.answer(w, new), Err(RequestError::TimedOut));
    let flush = s.ask(w, Kind::Flush, 0, 0);
    assert_eq!(s.answer(w, flush), Err(RequestError::TimedOut));
    s.say("s2 is back: I/O goes on by itself, and the write that had its number has landed");
    s.lose_no_more();
    s.open(2);
    s.wait(1500);
    s.expect(w, 0, late);
    assert_ne!(a, late);
    s.open(3);
    s.wait(1500);
    let flush = s.ask(w, Kind::Flush, 0, 0);
    assert_eq!(s.answer(w, flush), Ok(Response::Done));
    s.end();
}

/// What was given up on may yet be lost: a read that saw it before a majority has it would let the next one go back.
#[test]
pub fn a_write_that_was_given_up_on_is_seen_once_a_majority_has_it() {
    let mut s = Script::begin("given_up_and_seen", Shape::one(3));
    s.world.temper.io_timeout = Some(Duration::from_millis(500));
    let w = s.serve(1);
    let a = s.write(w, 0);
    s.flush(w);
    s.say("the write reaches s1 alone, and is given up on");
    s.lose(2, is_append);
    s.lose(3, is_append);
    s.lawful_errors();
    let late = s.ask(w, Kind::Write, 0, 1);
    s.wait(20);
    s.crash(2);
    s.crash(3);
    assert_eq!(s.answer(w, late), Err(RequestError::TimedOut));
    s.say("s2 is back, and is not sent the write yet: s1 must not show it");
    s.open(2);
    s.wait(800);
    s.ask(w, Kind::Read, 0, 1);
    s.wait(300);
    s.say("for then it is gone");
    s.kill(w);
    s.crash(1);
    s.lose_no_more();
    s.open(3);
    let w = s.serve(2);
    s.expect(w, 0, a);
    s.end();
}

/// Space is let go of only by what is durable on a majority; a client that is refused may never flush.
#[test]
pub fn what_is_trimmed_while_silos_are_full_becomes_durable_by_itself() {
    let mut s = Script::begin("trimmed_while_full", Shape::one(3));
    let w = s.serve(1);
    s.write(w, 0);
    s.flush(w);
    s.wait(50);
    for silo in 0..2 {
        s.world.silos[silo].full_until = u64::MAX;
    }
    s.say("s1 and s2 take no new writes any more; the client trims, and never flushes");
    s.trim(w, 0, 1);
    s.wait(1500);
    for silo in 0..3 {
        let state = s.world.silos[silo].keeper.as_ref().unwrap().silo().slots()[0].1.clone();
        assert_eq!(state.committed, state.applied, "s{} may let go of what was trimmed", silo + 1);
    }
    s.end();
}

/// Its silo has no room for a single block, and it would have none for ever if it got nothing: what it holds it must keep
/// until it adopts.
#[test]
fn a_copy_that_lacks_only_what_was_trimmed_catches_up_on_a_full_silo() {
    let mut s = Script::begin("trimmed_behind_while_full", Shape::one(3));
    let w = s.serve(1);
    s.write(w, 0);
    s.flush(w);
    s.wait(50);
    s.crash(3);
    s.say("s3 misses one write, and the trim of that and of all else");
    s.write(w, 300);
    s.trim(w, 0, 301);
    s.flush(w);
    s.world.silos[2].full_until = u64::MAX;
    s.open(3);
    s.wait(2000);
    assert_eq!(s.vote(3, 0), s.vote(1, 0));
    s.expect(w, 0, 0);
    s.say("what another lacks has bytes, and waits for room");
    s.crash(3);
    let b = s.write(w, 1);
    s.flush(w);
    s.open(3);
    s.wait(2000);
    assert_ne!(s.vote(3, 0), s.vote(1, 0));
    s.world.silos[2].full_until = 0;
    s.wait(4000);
    assert_eq!(s.vote(3, 0), s.vote(1, 0));
    s.expect(w, 1, b);
    s.end();
}
