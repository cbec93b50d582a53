//! What goes wrong while a schedule runs, and how everything is made well again in the end.

use std::sync::atomic::Ordering;

use infinit::base::block::BLOCK_BYTES;
use infinit::base::id::Epoch;
use infinit::cluster::replication::writer::report::SiloState;
use infinit::store::faulty::Crash;

use super::temper::{Fault, MS, SECOND};
use super::workload::{Kind, Op, hot_blocks};
use super::world::{Event, HEALED_WITHIN, World, key_of, silo_at};

impl World {
    /// Runs a whole schedule: some silos, a first writer, faults, and the end in which all must be well.
    pub fn live(&mut self) {
        self.hot = hot_blocks(&mut self.dice, &self.temper.clone());
        for silo in 0..self.silos.len() {
            self.reopen(silo);
        }
        let node = self.dice.below(self.silos.len() as u64) as usize;
        self.at(10 * MS, Event::Attach(node));
        if !self.temper.faults.is_empty() {
            let wait = self.dice.around(self.temper.fault_every_ns) + 300 * MS;
            self.at(wait, Event::Fault);
        }
        if let Some(control) = &self.control {
            control.trouble_for(self.temper.fault_ns);
        }
        self.run_for(self.temper.fault_ns);
        self.heal();
    }

    pub fn fault(&mut self) {
        if self.healing {
            return;
        }
        let wait = self.dice.around(self.temper.fault_every_ns);
        self.at(wait, Event::Fault);
        let total: u64 = self.temper.faults.iter().map(|(_, weight)| weight).sum();
        let mut roll = self.dice.below(total);
        let faults = self.temper.faults.clone();
        for (fault, weight) in faults {
            if roll < weight {
                self.trace.mix(&[self.now, 30, fault as u64]);
                self.count(fault.name());
                self.strike(fault);
                return;
            }
            roll -= weight;
        }
    }

    fn strike(&mut self, fault: Fault) {
        let silo = self.dice.below(self.silos.len() as u64) as usize;
        let node = self.dice.below(self.silos.len() as u64) as usize;
        let alive: Vec<usize> = (0..self.writers.len()).filter(|at| self.writers[*at].is_running()).collect();
        let writer = self.dice.pick(&alive).copied();
        match fault {
            Fault::Break => self.break_one(),
            Fault::Partition => self.part(writer, silo),
            Fault::CrashSilo => self.crash_silo(silo, Crash::Process),
            Fault::PowerSilo => self.crash_silo(silo, Crash::Power),
            Fault::CrashSiloInCall => {
                let crash = if self.dice.chance(500) { Crash::Power } else { Crash::Process };
                let after = self.dice.below(12);
                self.crash_silo_after(silo, after, crash);
            }
            Fault::PowerAll => self.power_all(),
            Fault::CrashWriter => {
                if let Some(writer) = writer {
                    self.kill_writer(writer);
                    let same = self.dice.chance(600);
                    let node = if same { self.writers[writer].node } else { node };
                    let wait = self.dice.around(300 * MS).min(2 * SECOND);
                    self.at(wait, Event::Attach(node));
                }
            }
            Fault::TakeOver => self.at(0, Event::Attach(node)),
            Fault::TakeOverStorm => {
                let mut wait = 0;
                for _ in 0..self.dice.between(2, 4) {
                    let node = self.dice.below(self.silos.len() as u64) as usize;
                    self.at(wait, Event::Attach(node));
                    wait += self.dice.around(self.temper.lease.as_nanos() as u64 / 2);
                }
            }
            Fault::Pause => {
                if let Some(writer) = writer {
                    let duration = self.dice.around(self.temper.lease.as_nanos() as u64);
                    self.pause(writer, duration.min(10 * SECOND));
                }
            }
            Fault::SlowSilo => {
                self.silos[silo].slow_until = self.now + self.dice.between(100 * MS, 3 * SECOND);
            }
            Fault::FullSilo => {
                self.silos[silo].full_until = self.now + self.dice.between(100 * MS, 2 * SECOND);
            }
            Fault::TellFence => self.tell_fence(),
            Fault::Detach => self.detach(),
            Fault::Isolate => self.isolate(node),
            Fault::PowerMost => self.power_most(),
            Fault::SlowDisk => {
                self.silos[silo].disk_slow_until = self.now + self.dice.between(100 * MS, 3 * SECOND);
            }
            Fault::ClientLeaves => self.client_leaves(writer),
            // Accepting a loss is for those who have one; where there is none, nothing may be lost.
            Fault::Recover if self.silos.iter().all(|silo| silo.out.is_none()) => self.attach_as(node, true),
            Fault::Recover => {}
            Fault::Status => {
                for at in alive {
                    let now = self.moment(self.writers[at].node);
                    let report = self.writers[at].writer.report(now);
                    self.trace.mix(&[report.pending_requests as u64, report.retained_bytes as u64]);
                }
            }
            Fault::BitFlip => self.flip_bit(silo),
            Fault::FailedSync => self.fail_sync(silo),
            Fault::BlankSilo => self.replace_by_blank(silo),
            Fault::RestoredSilo => self.restore_older(silo),
            Fault::FillDisk => self.fill_disk(silo),
            Fault::LeaveSuspended => self.suspend_and_leave(),
            Fault::RestartWriter => self.restart_writer(),
            Fault::Move => self.move_slot(),
        }
    }

    /// The holder keeps one silo, mostly its own, and hears nothing of the next writer, which reaches all others: each
    /// may believe that it is alone. In between the others may lose their memory of the lease, or the holder the time.
    fn isolate(&mut self, node: usize) {
        let Some(old) = self.cluster.holder.filter(|at| self.writers[*at].is_serving()) else { return };
        let own = self.writers[old].node;
        let kept = if self.dice.chance(800) { own } else { node };
        let next = (own + 1 + self.dice.below(self.silos.len() as u64 - 1) as usize) % self.silos.len();
        let lease = self.temper.lease.as_nanos() as u64 * u64::from(self.temper.lease_factor_max);
        let duration = self.dice.between(lease / 2, 2 * lease);
        let crash = *self.dice.pick(&[None, None, Some(Crash::Process), Some(Crash::Power)]).unwrap_or(&None);
        for silo in (0..self.silos.len()).filter(|silo| *silo != kept) {
            self.partition(old, silo, true, true, duration);
            if let Some(crash) = crash {
                self.crash_silo(silo, crash);
            }
        }
        if self.dice.chance(300) {
            let pause = self.dice.between(lease / 2, 3 * lease / 2);
            self.pause(old, pause);
        }
        self.attach_as(next, false);
        self.partition(self.writers.len() - 1, kept, true, true, duration);
    }

    /// A majority of a slot's silos, or all of them, lose their power while the writers live on.
    fn power_most(&mut self) {
        let slot = self.dice.below(self.temper.shape.slots.len() as u64) as usize;
        let silos = self.cluster.slots[slot].silos.clone();
        let first = self.dice.below(silos.len() as u64) as usize;
        let struck = self.dice.between(silos.len() as u64 / 2 + 1, silos.len() as u64) as usize;
        for at in 0..struck {
            self.crash_silo(silos[(first + at) % silos.len()], Crash::Power);
        }
    }

    /// A client's connection breaks with a request under way.
    fn client_leaves(&mut self, writer: Option<usize>) {
        let Some(writer) = writer else { return };
        let open: Vec<u64> = self.writers[writer].ops.keys().copied().collect();
        if let Some(id) = self.dice.pick(&open)
            && let Some(op) = self.writers[writer].ops.get(id)
        {
            op.left.store(true, Ordering::Relaxed);
        }
    }

    /// The holder reaches no majority of a slot for a while; in the middle of it its clients' connection breaks.
    fn suspend_and_leave(&mut self) {
        let Some(at) = self.cluster.holder.filter(|at| self.writers[*at].is_serving()) else { return };
        let slot = self.dice.below(self.temper.shape.slots.len() as u64) as usize;
        let silos = self.cluster.slots[slot].silos.clone();
        let duration = self.dice.between(200 * MS, 3 * SECOND);
        for silo in silos.iter().take(silos.len() / 2 + 1) {
            self.partition(at, *silo, true, true, duration);
        }
        let wait = self.dice.below(duration);
        self.at(wait, Event::Leave(at));
    }

    pub fn all_leave(&mut self, at: usize) {
        self.note(|| format!("w{at}: all clients leave"));
        self.writers[at].ops.values().for_each(|op| op.left.store(true, Ordering::Relaxed));
    }

    /// The holder's process ends and starts again, and the device that its client has stays (rule 15).
    fn restart_writer(&mut self) {
        let Some(at) = self.cluster.holder.filter(|at| self.writers[*at].is_serving()) else { return };
        self.writers[at].has_live_client = true;
        self.kill_writer(at);
        let wait = self.dice.below(300 * MS);
        self.at(wait, Event::Attach(self.writers[at].node));
    }

    fn break_one(&mut self) {
        let standing: Vec<u64> = self.connections.iter().filter(|(_, c)| c.stands).map(|(id, _)| *id).collect();
        if let Some(id) = self.dice.pick(&standing).copied() {
            let lingers = self.dice.chance(500);
            self.cut(id, lingers);
        }
    }

    fn part(&mut self, writer: Option<usize>, silo: usize) {
        let Some(writer) = writer else { return };
        let duration = self.dice.around(SECOND).min(6 * SECOND);
        let way = self.dice.below(4);
        self.partition(writer, silo, way != 0, way != 1, duration);
        if self.dice.chance(500)
            && let Some(id) = self.writers[writer].links[silo]
        {
            let lingers = self.dice.chance(500);
            self.cut(id, lingers);
        }
    }

    fn power_all(&mut self) {
        self.note(|| "all lose their power".to_owned());
        for silo in 0..self.silos.len() {
            self.crash_silo(silo, Crash::Power);
        }
        for writer in 0..self.writers.len() {
            if !self.writers[writer].is_dead() {
                self.kill_writer(writer);
            }
        }
        let node = self.dice.below(self.silos.len() as u64) as usize;
        let wait = self.dice.around(SECOND).min(3 * SECOND);
        self.at(wait, Event::Attach(node));
    }

    /// The cluster state tells old writers that there is a newer one. With a cluster group each node hears it from its own
    /// member, sooner or later; at the end, until all have.
    pub fn tell_fence(&mut self) {
        let epoch = self.cluster.epoch;
        let mut all = true;
        for at in 0..self.writers.len() {
            let member = self.control.as_ref().map(|control| control.epoch_at(self.writers[at].node));
            let heard = member.map_or(epoch, |known| known.unwrap_or(Epoch::ZERO));
            if self.writers[at].is_running() && self.writers[at].epoch < heard {
                self.writers[at].writer.fence(heard);
                self.pump(at);
            }
            all &= !self.writers[at].is_running() || self.writers[at].epoch >= epoch;
        }
        if self.healing && !all {
            self.at(200 * MS, Event::Tell);
        }
    }

    /// The user detaches the volume and attaches it elsewhere at once.
    fn detach(&mut self) {
        let Some(at) = self.cluster.holder.filter(|at| self.writers[*at].is_serving()) else { return };
        self.note(|| format!("w{at} is asked to let go"));
        self.writers[at].writer.release();
        self.pump(at);
        let node = self.dice.below(self.silos.len() as u64) as usize;
        let wait = self.dice.below(200 * MS);
        self.at(wait, Event::Attach(node));
    }

    /// Ends all faults and waits until everything is as it should be.
    pub fn heal(&mut self) {
        self.healing = true;
        self.note(|| "all faults end".to_owned());
        self.blocked.clear();
        for silo in 0..self.silos.len() {
            (self.silos[silo].slow_until, self.silos[silo].full_until) = (0, 0);
            self.silos[silo].filled_until = self.silos[silo].filled_until.min(self.now);
            self.free_disk(silo);
            self.silos[silo].disk_slow_until = 0;
            self.silos[silo].disk.fail_sync_after(1 << 60);
            // A crash that was ordered and has not come yet never does.
            self.silos[silo].disk.crash_after(1 << 60, Crash::Process);
            let wait = self.dice.below(SECOND);
            self.at(wait, Event::Reopen(silo));
        }
        for at in 0..self.writers.len() {
            self.thaw(at);
        }
        self.tell_fence();
        let governed = self.run_until(HEALED_WITHIN, |world| world.is_governed_well());
        self.expect(governed, "the cluster group is not well");
        let healed = self.run_until(HEALED_WITHIN, |world| world.holder_serves() && world.is_governed_well());
        self.expect(healed, "no writer serves");
        self.run_for(SECOND);
        if self.temper.faults.iter().any(|(fault, _)| *fault == Fault::Move) {
            self.move_in_peace();
        }
        (self.quiet, self.settled) = (true, true);
        let answered = self.run_until(HEALED_WITHIN, |world| world.is_all_answered());
        self.expect(answered, "requests are not answered");
        self.read_all_back();
        let equal = self.run_until(HEALED_WITHIN, |world| world.is_all_live());
        self.expect(equal, "some silo is not live");
        self.compare_all();
        self.let_go();
    }

    fn expect(&mut self, so: bool, otherwise: &str) {
        if so || self.failure.is_some() {
            return;
        }
        let holder = self.writers.get(self.cluster.holder.unwrap_or(0));
        let report = holder.map(|holder| holder.writer.report(self.moment(holder.node)));
        self.fail(format!("{otherwise} within {HEALED_WITHIN} ns: {report:#?}"));
    }

    fn holder_serves(&self) -> bool {
        self.cluster.holder.is_some_and(|at| self.writers[at].is_serving())
    }

    fn is_all_answered(&self) -> bool {
        self.holder_serves() && self.cluster.holder.is_some_and(|at| self.writers[at].ops.is_empty())
    }

    fn is_all_live(&self) -> bool {
        let Some(at) = self.cluster.holder.filter(|at| self.writers[*at].is_serving()) else { return false };
        let report = self.writers[at].writer.report(self.moment(self.writers[at].node));
        report.pending_requests == 0
            && report
                .slots
                .iter()
                .flat_map(|slot| &slot.silos)
                .filter(|silo| self.silos[silo_at(silo.silo)].out.is_none())
                .all(|silo| silo.state == SiloState::Live && silo.behind_writes == Some(0))
    }

    /// A client reads the whole volume, piece by piece, and flushes.
    fn read_all_back(&mut self) {
        let Some(at) = self.cluster.holder else { return };
        let step = 128 * BLOCK_BYTES;
        for position in (0..self.temper.shape.volume_bytes).step_by(step as usize) {
            let tag = self.fresh_tag();
            let kind = Kind::Read;
            self.submit(at, Op::new(tag, kind, position, step));
        }
        let tag = self.fresh_tag();
        self.submit(at, Op::new(tag, Kind::Flush, 0, 0));
        let read = self.run_until(HEALED_WITHIN, |world| world.is_all_answered());
        self.expect(read, "the volume cannot be read back");
    }

    /// All silos of a slot hold the same, and what the ledger says.
    fn compare_all(&mut self) {
        for silo in 0..self.silos.len() {
            self.check_content(silo);
            self.check_readable(silo);
        }
        let Some(at) = self.cluster.holder else { return };
        let epoch = self.writers[at].epoch;
        for slot in 0..self.ledgers.len() {
            let end = self.ledgers[slot].end(epoch);
            for silo in self.cluster.slots[slot].silos.clone() {
                if self.silos[silo].out.is_some() {
                    continue;
                }
                let vote = self.silos[silo].standing.get(&key_of(slot)).map(|standing| standing.vote);
                if vote != Some(end) && self.failure.is_none() {
                    self.fail(format!("s{} slot {slot} ends at {vote:?} and should at {end:?}", silo + 1));
                }
            }
        }
    }

    /// The volume is detached in order, and another node serves it at once.
    fn let_go(&mut self) {
        let Some(at) = self.cluster.holder.filter(|_| self.failure.is_none()) else { return };
        self.persistent = false;
        self.writers[at].writer.release();
        self.pump(at);
        let released = self.run_until(5 * SECOND, |world| world.writers[at].released);
        self.expect(released, "the volume is not released");
        let node = (self.writers[at].node + 1) % self.silos.len();
        self.attach(node);
        let begun = self.now;
        let serves = self.run_until(HEALED_WITHIN, |world| world.holder_serves());
        self.expect(serves, "nobody serves after an orderly detach");
        self.persistent = true;
        let took = self.now - begun;
        self.trace.mix(&[took]);
    }
}
