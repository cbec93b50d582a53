//! A silo's host: its keeper on a faulty disk, its crashes, and what must be true of it whenever it stands still.

use std::collections::BTreeMap;
use std::sync::Arc;

use infinit::base::block::BLOCK_BYTES;
use infinit::base::id::{ConfigNumber, Epoch, Incarnation, NodeId, Seq, SiloId, SlotKey, VolumeId};
use infinit::cluster::replication::acceptor::{Room, Session};
use infinit::cluster::replication::keeper::{self, Keeper, Outcome};
use infinit::cluster::replication::message::{Answer, FromSilo, Refusal, Request, ToSilo};
use infinit::store::error::StoreError;
use infinit::store::faulty::{Crash, FaultyDisk};
use infinit::store::silo::{Silo, SiloOptions};
use infinit::store::slot::Vote;

use super::disks::{Backup, FAILED_SYNC};
use super::temper::MS;
use super::world::{Event, Placed, VOLUME, World, silo_id};

/// How often a silo looks whether it has room, as its worker does.
const LOOKS_EVERY: u64 = 200 * MS;

/// What a silo last stood by towards its writers.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    pub promise: Epoch,
    pub vote: Vote,
    pub complete: bool,
    pub durable: Seq,
    /// What the writer reported of the slot's silos.
    reports: BTreeMap<SiloId, Vote>,
    /// It has nothing of the slot but what it promised.
    vacant: bool,
    config: ConfigNumber,
}

impl Standing {
    /// As long as a silo's process lives, it never goes back behind anything that it said: whatever it is sent, what it
    /// drops it drops in the commit that adopts something higher (rules 8, 12 and 14).
    ///
    /// One that is none of the slot's silos may forget what it has, but for its promise (rule 8); and of those that are none
    /// any more nothing need be remembered.
    fn follows(&self, before: &Standing, is_member: bool) -> Result<(), String> {
        let kept = |(silo, report)| self.reports.get(silo).is_some_and(|now| now >= report);
        let reports = self.config > before.config || before.reports.iter().all(kept);
        let has_left = self.vacant && !is_member;
        let stands = self.promise >= before.promise && (has_left || self.vote >= before.vote && reports);
        if stands { Ok(()) } else { Err(format!("went back from {before:?} to {self:?}")) }
    }
}

pub struct SiloHost {
    pub id: SiloId,
    pub disk: FaultyDisk,
    pub boot: u8,
    pub keeper: Option<Keeper>,
    /// Counts openings.
    pub life: u64,
    pub inbox: Vec<(NodeId, Session, ToSilo)>,
    pub working: bool,
    syncing: bool,
    pub slow_until: u64,
    pub full_until: u64,
    /// Others fill its disk until then; 0 while they do not.
    pub filled_until: u64,
    /// Whether the silo had room when it last looked, and when that was.
    room: Room,
    looked_at: u64,
    pub disk_slow_until: u64,
    /// Why this silo may have to stay out for good: what it says is not judged, and nobody waits for it in the end.
    pub out: Option<&'static str>,
    /// Its disk as it was before some opening.
    pub backup: Option<Backup>,
    /// The last opening that the cluster state knows.
    pub confirmed_life: u64,
    pub standing: BTreeMap<SlotKey, Standing>,
    /// The last crash took what was not synced.
    lost_power: bool,
    /// The last crash came in the middle of a call.
    in_call: bool,
}

impl SiloHost {
    pub fn new(at: usize, seed: u64) -> Self {
        let disk = FaultyDisk::new(seed);
        Silo::format(Arc::new(disk.clone()), silo_id(at)).unwrap();
        SiloHost {
            id: silo_id(at),
            disk,
            boot: 0,
            keeper: None,
            life: 0,
            inbox: Vec::new(),
            working: false,
            syncing: false,
            slow_until: 0,
            full_until: 0,
            filled_until: 0,
            room: Room::AMPLE,
            looked_at: 0,
            disk_slow_until: 0,
            out: None,
            backup: None,
            confirmed_life: 0,
            standing: BTreeMap::new(),
            lost_power: false,
            in_call: false,
        }
    }

    fn boot_id(&self) -> [u8; 16] {
        [self.boot; 16]
    }

    /// Takes note of what the silo has told the world.
    fn stand(&mut self, slots: &[Placed]) -> Result<(), String> {
        let Some(keeper) = &self.keeper else { return Ok(()) };
        // A silo that is out of service says nothing of what it has, and what it has may go.
        let in_service = keeper.silo().faulted().is_none();
        for (key, slot) in keeper.acceptor().slots() {
            let state = slot.state();
            let complete = state.incomplete.is_none();
            let durable = if !in_service {
                Seq::ZERO
            } else if complete {
                slot.durable().min(state.applied)
            } else {
                state.vote().applied
            };
            let of = |(silo, adopted, applied): &(SiloId, Epoch, Seq)| {
                (*silo, Vote { adopted: *adopted, applied: *applied })
            };
            let reports = state.peers.iter().map(of).collect();
            let vacant = complete && state.vote() == Vote::default();
            let (promise, config) = (state.promise, state.config);
            let standing = Standing { promise, vote: state.vote(), complete, durable, reports, vacant, config };
            let is_member = slots[key.slot.0 as usize].silos.iter().any(|silo| silo_id(*silo) == self.id);
            let followed = self.standing.get(key).map_or(Ok(()), |before| standing.follows(before, is_member));
            self.standing.insert(*key, standing);
            followed.map_err(|why| format!("s{} slot {} {why}", self.id.0[0], key.slot))?;
        }
        Ok(())
    }
}

impl World {
    pub fn reopen(&mut self, silo: usize) {
        if self.silos[silo].keeper.is_some() {
            return;
        }
        let now = self.moment(silo);
        let incarnation = Incarnation(self.dice.next());
        if !self.healing && self.temper.clients > 0 && self.dice.chance(60) {
            let after = self.dice.below(30);
            let power = self.dice.chance(500);
            self.silos[silo].disk.crash_after(after, if power { Crash::Power } else { Crash::Process });
            self.silos[silo].lost_power |= power;
        }
        self.back_up(silo);
        let host = &mut self.silos[silo];
        let options = SiloOptions {
            segment_bytes: 384 << 10,
            index_cache_bytes: 256 << 10,
            checkpoint_log_bytes: 1 << 20,
            checkpoint_versions: 4096,
            ..SiloOptions::new(8 << 30, incarnation, host.boot_id())
        };
        let opened = match Silo::open(Arc::new(host.disk.clone()), options) {
            Ok(opened) => opened,
            Err(_) if host.disk.is_down() || host.out == Some(FAILED_SYNC) => return self.died_in_opening(silo),
            Err(StoreError::NoSpace) if host.filled_until > 0 => return self.lacks_space_to_open(silo),
            Err(error) => {
                let why = format!("s{} cannot be opened: {error}", silo + 1);
                return self.fail(why);
            }
        };
        if !opened.findings().is_empty() {
            let why = format!("s{} was opened with findings {:?}", silo + 1, opened.findings());
            return self.fail(why);
        }
        let before = std::mem::take(&mut host.standing);
        let (power, in_call) = (host.lost_power, host.in_call);
        host.keeper = Some(Keeper::new(Arc::new(opened), host.boot_id(), now));
        host.life += 1;
        host.inbox.clear();
        (host.working, host.syncing) = (false, false);
        (host.room, host.looked_at) = (Room::AMPLE, 0);
        let stood = host.stand(&self.cluster.slots);
        let life = host.life;
        self.trace.mix(&[self.now, 5, silo as u64, life]);
        self.note(|| format!("s{} opened", silo + 1));
        self.check(stood);
        let judged = self.silos[silo].out.is_none();
        for (key, standing) in before.into_iter().filter(|_| judged) {
            let result = self.compare_reopened(silo, key, &standing, power, in_call);
            self.check(result);
        }
        self.check_content(silo);
        let confirm = self.temper.confirm_ns;
        self.at(confirm, Event::Confirm(silo, life));
        if self.temper.checkpoint_ns > 0 {
            let wait = self.dice.around(self.temper.checkpoint_ns);
            self.at(wait, Event::Checkpoint(silo, life));
        }
    }

    /// A process's death loses nothing, a machine's nothing that was said to be durable.
    fn compare_reopened(
        &mut self,
        silo: usize,
        key: SlotKey,
        before: &Standing,
        power: bool,
        in_call: bool,
    ) -> Result<(), String> {
        let after = self.silos[silo].standing.get(&key).cloned().unwrap_or_default();
        let what = || format!("s{} slot {} was {before:?} and is {after:?} after a crash", silo + 1, key.slot);
        self.trace.mix(&[after.vote.adopted.0, after.vote.applied.0, after.promise.0]);
        if after.promise < before.promise {
            return Err(format!("{}: it forgot its promise", what()));
        }
        if self.decays {
            if power {
                self.ledgers[key.slot.0 as usize].lost_at_most(before.vote, after.vote);
            }
            return Ok(());
        }
        let is_member = self.cluster.slots[key.slot.0 as usize].silos.contains(&silo);
        if in_call && !is_member && (after.vacant || before.vacant) {
            return Ok(());
        }
        let least = if power { Vote { applied: before.durable, ..before.vote } } else { before.vote };
        if after.vote < least {
            return Err(format!("{}: it lost what it may not lose", what()));
        }
        if !in_call && after.promise != before.promise {
            return Err(format!("{}: it promised by itself", what()));
        }
        if !in_call && !power && after.vote != before.vote {
            return Err(format!("{}: it has another history", what()));
        }
        if power && !in_call {
            let lost = self.ledgers[key.slot.0 as usize].lost(before.vote, after.vote)?;
            if lost > 0 {
                self.count("records lost by power losses");
                self.note(|| format!("s{} slot {} lost {lost} records with its power", silo + 1, key.slot));
            }
        } else if power {
            self.ledgers[key.slot.0 as usize].lost_at_most(before.vote, after.vote);
        }
        Ok(())
    }

    pub fn confirm(&mut self, silo: usize, life: u64) {
        let host = &mut self.silos[silo];
        let (id, disk_down) = (host.id, host.disk.is_down());
        let Some(keeper) = host.keeper.as_mut().filter(|_| host.life == life && !disk_down) else { return };
        let opening = keeper.acceptor().opening().clone();
        if self.control.is_some() {
            return self.ask_to_open(silo, life, id, opening.chain);
        }
        let known = self.cluster.incarnations.get(&id);
        let known = known.is_none_or(|known| opening.chain.contains(known));
        self.confirmed(silo, life, known);
    }

    /// The cluster state has heard of a silo's opening, and knows the silo or takes it for another.
    pub fn confirmed(&mut self, silo: usize, life: u64, known: bool) {
        let host = &mut self.silos[silo];
        let (id, disk_down) = (host.id, host.disk.is_down());
        let Some(keeper) = host.keeper.as_mut().filter(|_| host.life == life && !disk_down) else { return };
        let opening = keeper.acceptor().opening().clone();
        let stranger = !known;
        if stranger && self.strangers {
            keeper.retire("another silo".to_owned());
            return self.note(|| format!("s{} is not the silo that the cluster state knows", silo + 1));
        }
        if stranger {
            if host.out.is_some() {
                keeper.retire("the cluster knows another silo of this name".to_owned());
                return self.count("silos turned away");
            }
            let why = format!("s{} is not the silo that the cluster state knows", silo + 1);
            return self.fail(why);
        }
        self.cluster.incarnations.insert(id, opening.incarnation);
        host.confirmed_life = life;
        let result = keeper.confirmed();
        for writer in 0..self.writers.len() {
            if !self.writers[writer].is_dead() {
                let wait = self.latency();
                self.at(wait, Event::Inform(writer));
            }
        }
        if let Err(error) = result
            && !self.faults_are_lawful
        {
            self.fail_unless_lawful(silo, "cannot be confirmed", &error);
        }
    }

    /// The silo takes everything that has arrived.
    pub fn work(&mut self, silo: usize, life: u64) {
        let now = self.moment(silo);
        let host = &mut self.silos[silo];
        host.working = false;
        let (full, looks) = (host.full_until > self.now, self.now >= host.looked_at + LOOKS_EVERY);
        let Some(keeper) = host.keeper.as_mut().filter(|_| host.life == life) else { return };
        let messages = std::mem::take(&mut host.inbox);
        self.trace.mix(&[self.now, 6, silo as u64, messages.len() as u64]);
        if looks {
            (host.room, host.looked_at) = (keeper.room(), self.now);
        }
        let told = keeper.set_room(if full { Room::NONE } else { host.room });
        let mut outcome = keeper.process(now, messages);
        outcome.replies.splice(0..0, told.replies);
        self.outcome(silo, outcome);
    }

    pub fn outcome(&mut self, silo: usize, outcome: Outcome) {
        if self.silos[silo].disk.is_down() {
            return self.died_in_call(silo);
        }
        let stood = self.silos[silo].stand(&self.cluster.slots);
        self.check(stood);
        let adopted =
            outcome.replies.iter().any(|(_, reply)| matches!(reply, FromSilo::Rare(_, _, Answer::Adopted { .. })));
        for (session, reply) in outcome.replies {
            let faulted = Refusal::Faulted(String::new());
            if !self.faults_are_lawful
                && let FromSilo::Rare(_, _, Answer::Refused { reason, .. }) = &reply
                && self.silos[silo].out.is_none()
                && std::mem::discriminant(reason) == std::mem::discriminant(&faulted)
            {
                let why = format!("s{} is out of service: {reason:?}", silo + 1);
                self.fail(why);
            }
            self.send_to_writer(session, reply);
        }
        let life = self.silos[silo].life;
        for (session, volume, request) in outcome.serves {
            let (least, most) = self.temper.serve_ns;
            let wait = self.dice.between(least, most);
            self.at(wait, Event::Serve(silo, life, session, volume, request));
        }
        if outcome.sync {
            self.begin_sync(silo);
        }
        if adopted {
            self.check_content(silo);
        }
    }

    fn begin_sync(&mut self, silo: usize) {
        let early = self.dice.chance(700);
        let (least, most) = self.temper.sync_ns;
        let slow = self.silos[silo].disk_slow_until > self.now;
        let wait = self.dice.between(least, most) + if slow { self.dice.between(100 * MS, 2000 * MS) } else { 0 };
        let host = &mut self.silos[silo];
        let Some(keeper) = host.keeper.as_mut().filter(|_| !host.syncing) else { return };
        let marks = keeper.begin_sync();
        if marks.is_empty() {
            return;
        }
        host.syncing = true;
        let life = host.life;
        // What is appended while a sync runs may reach the disk with it or not.
        let failed = if early { keeper.silo().sync().err() } else { None };
        if let Some(error) = failed {
            let outcome = keeper.end_sync(&marks, Err(error));
            return self.outcome(silo, outcome);
        }
        self.at(wait, Event::Synced(silo, life, marks, early));
    }

    pub fn synced(&mut self, silo: usize, life: u64, marks: &[(SlotKey, Seq)], early: bool) {
        let host = &mut self.silos[silo];
        let Some(keeper) = host.keeper.as_mut().filter(|_| host.life == life) else { return };
        host.syncing = false;
        self.trace.mix(&[self.now, 7, silo as u64]);
        let result = if early { Ok(()) } else { keeper.silo().sync() };
        let outcome = keeper.end_sync(marks, result);
        self.outcome(silo, outcome);
    }

    pub fn serve(&mut self, silo: usize, life: u64, session: Session, volume: VolumeId, request: &Request) {
        let host = &self.silos[silo];
        let Some(keeper) = host.keeper.as_ref().filter(|_| host.life == life && !host.disk.is_down()) else { return };
        let at_once = keeper::serve_at_once(keeper.silo(), volume, request);
        let reply = keeper::serve(keeper.silo(), volume, request);
        let differs = at_once.is_some_and(|at_once| at_once != reply);
        let bad = match &reply {
            FromSilo::Rare(_, _, Answer::Read { result: Err(refusal), .. })
            | FromSilo::Rare(_, _, Answer::Allocation { result: Err(refusal), .. })
            | FromSilo::Rare(_, _, Answer::Delta { result: Err(refusal), .. })
            | FromSilo::Rare(_, _, Answer::Fetched { result: Err(refusal), .. }) => Some(format!("{refusal:?}")),
            _ => None,
        };
        if differs {
            return self.fail(format!("s{} reads other bytes at once than from its index: {request:?}", silo + 1));
        }
        let decays = self.decays;
        let lawful = |refusal: &String| {
            let decayed = decays && refusal.starts_with("Damaged");
            decayed || refusal.starts_with("Behind") || refusal.starts_with("Fenced")
        };
        let judged = bad.filter(|_| host.out.is_none());
        if let Some(refusal) = judged.filter(|refusal| !lawful(refusal)) {
            let why = format!("s{} cannot read {request:?}: {refusal}", silo + 1);
            return self.fail(why);
        }
        self.trace.mix(&[self.now, 8, silo as u64]);
        self.send_to_writer(session, reply);
    }

    pub fn checkpoint(&mut self, silo: usize, life: u64) {
        self.checkpoint_once(silo, life);
        let wait = self.dice.around(self.temper.checkpoint_ns);
        self.at(wait, Event::Checkpoint(silo, life));
    }

    pub fn checkpoint_once(&mut self, silo: usize, life: u64) {
        // What others reported is saved more often than a checkpoint is made.
        let reports_only = self.dice.chance(300);
        let host = &mut self.silos[silo];
        let Some(keeper) = host.keeper.as_mut().filter(|_| host.life == life) else { return };
        self.trace.mix(&[self.now, 9, silo as u64]);
        let store = keeper.silo();
        let store = store.clone();
        let zeroed = store.zero_ahead().and_then(|()| store.save_peers());
        if let Err(error) = zeroed.and_then(|()| if reports_only { Ok(()) } else { store.checkpoint() }) {
            self.fail_unless_lawful(silo, "cannot make a checkpoint", &error);
        } else {
            match store.clean() {
                Ok(cleaned) if cleaned.removed > 0 => self.count("cleanings that removed segments"),
                Ok(_) => {}
                Err(error) => self.fail_unless_lawful(silo, "cannot be cleaned", &error),
            }
        }
        self.check_content(silo);
    }

    /// A call on a silo's store failed: it crashed in the middle, is out of service, lacks space while its disk is filled,
    /// or should not have failed.
    fn fail_unless_lawful(&mut self, silo: usize, what: &str, error: &StoreError) {
        let host = &self.silos[silo];
        if host.disk.is_down() {
            self.died_in_call(silo);
        } else if matches!(error, StoreError::NoSpace) && host.filled_until > 0 {
            self.count("calls refused for space");
        } else if host.out.is_none() {
            self.fail(format!("s{} {what}: {error}", silo + 1));
        }
    }

    /// The disk crashed in the middle of a call: the process is gone, and whatever it had in mind to say.
    fn died_in_call(&mut self, silo: usize) {
        self.note(|| format!("s{} died in the middle of a call", silo + 1));
        self.silos[silo].in_call = true;
        self.gone(silo);
        self.silos[silo].disk.restart();
    }

    /// The same while it was being opened.
    fn died_in_opening(&mut self, silo: usize) {
        self.note(|| format!("s{} died while it was opened", silo + 1));
        let host = &mut self.silos[silo];
        host.disk.restart();
        if host.lost_power {
            host.boot = host.boot.wrapping_add(1);
        }
        let wait = self.dice.below(500 * MS);
        self.at(wait, Event::Reopen(silo));
    }

    /// It is opened once there is space.
    fn lacks_space_to_open(&mut self, silo: usize) {
        self.note(|| format!("s{} cannot be opened for want of space", silo + 1));
        self.count("openings refused for space");
        let wait = self.dice.between(100 * MS, 500 * MS);
        self.at(wait, Event::Reopen(silo));
    }

    /// A silo's process or machine goes down between two calls.
    pub fn crash_silo(&mut self, silo: usize, crash: Crash) {
        if self.silos[silo].keeper.is_none() {
            return;
        }
        self.trace.mix(&[self.now, 10, silo as u64]);
        self.note(|| format!("s{} crashes: {crash:?}", silo + 1));
        self.silos[silo].in_call = false;
        self.silos[silo].lost_power = crash == Crash::Power;
        self.silos[silo].disk.crash(crash);
        self.silos[silo].disk.restart();
        self.gone(silo);
    }

    /// A silo will go down in the middle of one of its next calls.
    pub fn crash_silo_after(&mut self, silo: usize, operations: u64, crash: Crash) {
        if self.silos[silo].keeper.is_some() {
            self.silos[silo].lost_power = crash == Crash::Power;
            self.silos[silo].disk.crash_after(operations, crash);
        }
    }

    fn gone(&mut self, silo: usize) {
        let host = &mut self.silos[silo];
        host.keeper = None;
        host.inbox.clear();
        if host.lost_power {
            host.boot = host.boot.wrapping_add(1);
        }
        self.cut_all_of_silo(silo);
        let most = if self.healing { 200 * MS } else { 2500 * MS };
        let wait = self.dice.around(most / 3).min(most);
        if self.persistent {
            self.at(wait, Event::Reopen(silo));
        }
    }

    /// Every block that a silo has can be read from it, whoever answers the clients.
    pub fn check_readable(&mut self, silo: usize) {
        let blocks = (self.temper.shape.volume_bytes / BLOCK_BYTES) as u32;
        let Some(keeper) = self.silos[silo].keeper.as_ref().filter(|_| !self.decays) else { return };
        // One that is out of service is asked for nothing, and its index may give nothing more.
        if keeper.silo().faulted().is_some() {
            return;
        }
        let of_volume = keeper.acceptor().slots().filter(|(key, _)| key.volume == VOLUME);
        let bad = of_volume.filter_map(|(key, _)| Some((key.slot, keeper.silo().read(*key, 0, blocks).err()?))).next();
        if let Some((slot, error)) = bad {
            self.fail(format!("s{} slot {slot} cannot be read: {error}", silo + 1));
        }
    }

    /// A complete silo has exactly the blocks that its history says.
    pub fn check_content(&mut self, silo: usize) {
        let host = &self.silos[silo];
        let Some(keeper) = host.keeper.as_ref().filter(|_| host.out.is_none()) else { return };
        let mut wrong = None;
        for (key, slot) in keeper.acceptor().slots() {
            if key.volume != VOLUME || slot.state().incomplete.is_some() {
                continue;
            }
            let vote = slot.state().vote();
            let compared = match keeper.silo().digest(*key) {
                Ok(digest) => self.ledgers[key.slot.0 as usize].compare(vote, &digest),
                Err(error) => Err(error.to_string()),
            };
            if let Err(why) = compared {
                wrong = Some(format!("s{} slot {} with history {vote:?}: {why}", silo + 1, key.slot));
            }
        }
        if let Some(why) = wrong {
            self.fail(why);
        }
    }
}
