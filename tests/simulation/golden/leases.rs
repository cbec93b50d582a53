//! Two writers that see different silos: the old one keeps s1 alone, the new one has the others and writes. What the old
//! one then reads would be stale; only its lease tells it so (rules 7 and 9).

use std::time::Duration;

use super::super::temper::Shape;
use super::super::workload::Kind;
use super::super::world::Clock;
use super::Script;

const MINUTE: u64 = 60_000_000_000;

/// A script with an old writer on node 1 that serves, and block 0 written.
fn begin(name: &'static str, lease: Duration) -> (Script, usize) {
    let mut s = Script::begin(name, Shape::one(3));
    s.world.temper.lease = lease;
    let old = s.serve(1);
    s.write(old, 0);
    s.wait(1000);
    (s, old)
}

/// From here on the old writer reaches s1 alone.
fn isolate(s: &mut Script, old: usize) {
    s.say("the old writer is cut off from s2 and s3, and hears nothing of it");
    for silo in [1, 2] {
        s.world.partition(old, silo, true, true, MINUTE);
    }
}

/// A new writer on node 2 takes over, as soon as s2 and s3 let it, and writes what the old one has.
fn take_over(s: &mut Script) {
    let new = s.attach(2);
    s.world.partition(new, 0, true, true, MINUTE);
    let serves = s.world.run_until(30_000_000_000, |world| world.writers[new].is_serving());
    assert!(serves, "w{new} does not serve\n{}", s.text());
    s.write(new, 0);
    s.wait(1);
}

/// The old writer is asked for the block: it must not answer.
fn ask_the_old(mut s: Script, old: usize) {
    let read = s.ask(old, Kind::Read, 0, 1);
    s.wait(20);
    assert!(s.is_open(old, read), "the lease is over");
    s.end();
}

/// The holder's clock is slow and the silos' are fast, each by a hundredth.
#[test]
pub fn drifting_clocks_leave_no_gap() {
    let mut s = Script::begin("drifting_clocks", Shape::one(3));
    s.world.temper.lease = Duration::from_secs(5);
    s.world.clocks = vec![Clock::drifting(-10_000), Clock::drifting(10_000), Clock::drifting(10_000)];
    let old = s.serve(1);
    s.write(old, 0);
    s.wait(1000);
    isolate(&mut s, old);
    take_over(&mut s);
    ask_the_old(s, old);
}

/// The silos restart, and remember nothing of when they granted the lease.
#[test]
pub fn a_restarted_silo_waits_the_lease_out() {
    let (mut s, old) = begin("restarted_silos", Duration::from_secs(2));
    isolate(&mut s, old);
    restart(&mut s);
    take_over(&mut s);
    ask_the_old(s, old);
}

/// The same, and the lease that they wait for is the longest, not the first.
#[test]
pub fn a_longer_lease_is_remembered() {
    let (mut s, first) = begin("lengthened_lease", Duration::from_millis(600));
    s.kill(first);
    s.say("the lease is 5 seconds from now on");
    s.world.temper.lease = Duration::from_secs(5);
    let old = s.serve(1);
    s.wait(1000);
    isolate(&mut s, old);
    restart(&mut s);
    take_over(&mut s);
    ask_the_old(s, old);
}

/// The old writer stands still while its lease runs out; the first thing it gets to do is a read.
#[test]
pub fn a_lease_is_checked_when_the_bytes_are_there() {
    let (mut s, old) = begin("lease_after_pause", Duration::from_secs(2));
    isolate(&mut s, old);
    s.world.pause(old, MINUTE);
    take_over(&mut s);
    s.world.thaw(old);
    ask_the_old(s, old);
}

fn restart(s: &mut Script) {
    for silo in [2, 3] {
        s.crash(silo);
        s.open(silo);
    }
}
