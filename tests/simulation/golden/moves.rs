//! Slots whose silos change.

use std::time::Duration;

use infinit::base::id::{ConfigNumber, Epoch, Incarnation, SlotIndex};
use infinit::cluster::replication::message::{Request, ToSilo};
use infinit::cluster::replication::writer::RequestError;
use infinit::cluster::state::command::{Command, Reconfiguration, SiloOpening};
use infinit::cluster::state::member::{Duty, Member, Role};
use infinit::cluster::state::refusal::Refusal;

use super::super::moves::state_of;
use super::super::temper::{SECOND, Shape};
use super::super::workload::Kind;
use super::super::world::{Placed, VOLUME, node_id, silo_id};
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

/// Who is to be the only silo has what was answered before the others are done without.
#[test]
pub fn the_last_current_silo_stays() {
    let mut s = Script::begin("last_current_stays", Shape::one(3));
    let w = s.serve(1);
    s.write(w, 0);
    s.flush(w);
    s.crash(3);
    let b = s.write(w, 0);
    s.flush(w);
    s.say("s3, which lacks the second write and is away, is to be the only one");
    s.world.ask_for_silos(0, &[2]);
    s.wait(5000);
    assert_eq!(s.world.cluster.slots[0].silos, [0, 1, 2]);
    s.expect(w, 0, b);
    s.say("s3 comes and catches up");
    s.open(3);
    assert!(s.world.run_until(20 * SECOND, |world| world.cluster.slots[0].silos == [2]));
    s.wait(5000);
    s.expect(w, 0, b);
    s.end();
}

/// An epoch that only moves slots answers no client, and nobody who attaches waits for it.
#[test]
pub fn a_maintenance_epoch_serves_nobody() {
    let mut s = Script::begin("maintenance_serves_nobody", three_of_five());
    let first = s.serve(1);
    let a = s.write(first, 0);
    s.flush(first);
    s.kill(first);
    s.say("an epoch without a lease moves the slot");
    s.world.temper.lease = Duration::ZERO;
    let mover = s.serve(2);
    for kind in [Kind::Write, Kind::Read, Kind::Flush] {
        let asked = s.ask(mover, kind, 0, 1);
        assert_eq!(s.answer(mover, asked), Err(RequestError::Fenced));
    }
    s.world.ask_for_silos(0, &[0, 1, 3]);
    s.wait(5000);
    s.say("who attaches waits for no lease");
    s.world.temper.lease = Duration::from_secs(2);
    let new = s.attach(3);
    s.wait(200);
    assert!(s.serves(new), "it waits");
    s.expect(new, 0, a);
    s.end();
}

/// A witness gives no silo, and none of its is moved to: what it says in the cluster group is no copy of anything.
#[test]
pub fn a_witness_is_no_copy() {
    let member = |role| Member {
        name: String::new(),
        role,
        passport: Vec::new(),
        data_addresses: Vec::new(),
        discovery_addresses: Vec::new(),
        zone: None,
        joined_at: 0,
        invitation: None,
        duty: Duty::Stores,
    };
    let placed = Placed { config: ConfigNumber(1), silos: vec![0, 1], wanted: vec![0, 1] };
    let mut state = state_of(&Shape::one(2), &[placed]);
    for (at, role) in [Role::Storage, Role::Storage, Role::Witness].into_iter().enumerate() {
        state.members.insert(node_id(at), member(role));
    }
    let chain = vec![Incarnation(1)];
    let opening = SiloOpening { silo: silo_id(2), node: node_id(2), capacity_bytes: 1 << 40, chain };
    assert!(matches!(state.apply(Command::OpenSilo(opening)), Err(Refusal::RoleGivesNoSilos { .. })));
    let change = Reconfiguration {
        volume: VOLUME,
        slot: SlotIndex(0),
        epoch: Epoch::ZERO,
        config: ConfigNumber(1),
        silos: vec![silo_id(0), silo_id(2)],
    };
    assert!(matches!(state.apply(Command::Reconfigure(change)), Err(Refusal::NoSuchSilo { .. })));
    assert!(state.placement_candidates().len() == 2 && state.moves(0).is_empty());
}
