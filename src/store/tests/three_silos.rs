//! Three silos through writes, lags, catching up, take-overs, crashes and power losses, as the replication protocol
//! drives them. Each silo must always hold exactly the history that it claims with its `(A, S)`, and whatever was
//! durable on two of them must be in every history chosen later.

use proptest::prelude::*;

use super::*;
use crate::store::faulty::Crash;
use crate::store::slot::Vote;

/// A silo with its disk, and the history that it should hold.
struct Machine {
    disk: FaultyDisk,
    silo: Silo,
    history: Vec<Op>,
    /// How much of the history was synced.
    synced: usize,
    catching: Option<Catching>,
}

/// A catching-up under way.
struct Catching {
    base: Seq,
    also: Vec<u64>,
    next_extent: Option<u64>,
}

struct Cluster {
    chooser: Chooser,
    machines: Vec<Machine>,
    epoch: u64,
    /// A majority has adopted the epoch.
    serving: bool,
    /// What the writer of the epoch has written, after the history that it adopted.
    history: Vec<Op>,
    next_seq: u64,
    committed: Seq,
    incarnation: u64,
}

fn last_seq(history: &[Op]) -> Seq {
    history.last().map_or(Seq::ZERO, |op| op.stamp.seq)
}

impl Machine {
    fn state(&self) -> SlotState {
        self.silo.slot(KEY).unwrap()
    }

    fn commit(&self, state: SlotState, change: Change) {
        self.silo.commit(&[commit(state, change)]).unwrap();
    }
}

impl Cluster {
    fn new(seed: u64) -> Self {
        let machine = |index: u64| {
            let (disk, silo) = fresh(seed * 3 + index);
            Machine { disk, silo, history: Vec::new(), synced: 0, catching: None }
        };
        Self {
            chooser: Chooser::new(seed),
            machines: (0..3).map(machine).collect(),
            epoch: 1,
            serving: true,
            history: Vec::new(),
            next_seq: 1,
            committed: Seq::ZERO,
            incarnation: 2,
        }
    }

    /// Complete, of this epoch, with everything that was written.
    fn current(&self, index: usize) -> bool {
        let state = self.machines[index].state();
        state.incomplete.is_none() && state.adopted.0 == self.epoch && state.applied == last_seq(&self.history)
    }

    fn write(&mut self) {
        if !self.serving {
            return;
        }
        let current: Vec<bool> = (0..3).map(|index| self.current(index)).collect();
        let mut ops = Vec::new();
        for _ in 0..=self.chooser.below(4) {
            ops.push(self.chooser.op(stamp(self.epoch, self.next_seq)));
            self.next_seq += 1 + self.chooser.below(3);
        }
        let records: Vec<Record> = ops.iter().map(Op::record).collect();
        self.history.extend(&ops);
        for (machine, current) in self.machines.iter_mut().zip(current) {
            let reached = self.chooser.chance(90);
            if machine.catching.is_some() && !reached {
                // A gap in what it receives live: it has to begin anew.
                machine.catching = None;
                machine.silo.discard_staging(KEY).unwrap();
            } else if reached && (current || machine.catching.is_some()) {
                machine.silo.append(&records).unwrap();
                if current {
                    machine.history.extend(&ops);
                }
            }
        }
    }

    fn commit_watermark(&mut self) {
        let mut synced: Vec<usize> =
            (0..3).filter(|i| self.current(*i)).map(|i| self.machines[i].synced.min(self.history.len())).collect();
        synced.sort_unstable();
        if synced.len() < 2 || !self.serving {
            return;
        }
        self.committed = self.committed.max(last_seq(&self.history[..synced[synced.len() - 2]]));
        for index in 0..3 {
            let receives = self.current(index) || self.machines[index].catching.is_some();
            if receives && self.chooser.chance(80) {
                self.machines[index].silo.set_committed(KEY, self.committed).unwrap();
            }
        }
    }

    fn restart(&mut self, index: usize) {
        self.incarnation += 1;
        let how = self.chooser.below(3);
        let machine = &mut self.machines[index];
        let vote = machine.state().vote();
        let incomplete = machine.state().incomplete.is_some();
        match how {
            0 => machine.silo.close().unwrap(),
            1 => machine.disk.crash(Crash::Process),
            _ => machine.disk.crash(Crash::Power),
        }
        // The old handle must let go of the disk's lock before the new one takes it.
        let parked = fresh(0).1;
        drop(std::mem::replace(&mut machine.silo, parked));
        machine.silo = open(&machine.disk, self.incarnation).unwrap();
        machine.catching = None;
        let state = machine.state();
        assert_eq!((state.adopted, state.incomplete), (vote.adopted, None));
        if how == 2 && !incomplete {
            let kept = machine.history.iter().position(|op| op.stamp.seq == state.applied).map_or(0, |at| at + 1);
            assert!(kept >= machine.synced, "{kept} operations were kept of {} synced ones", machine.synced);
            machine.history.truncate(kept);
        } else {
            assert_eq!(state.applied, vote.applied);
        }
        machine.synced = machine.history.len();
        assert!(state.committed <= state.applied, "a comparison from the watermark would miss what was lost");
        assert_holds(&machine.silo, &machine.history, "after a restart");
    }

    /// A silo that fell behind begins to receive, or goes on, or adopts.
    fn catch_up(&mut self, index: usize) {
        let sources: Vec<usize> = (0..3).filter(|i| *i != index && self.current(*i)).collect();
        if !self.serving || sources.is_empty() || self.current(index) {
            return;
        }
        let source = sources[self.chooser.below(sources.len() as u64) as usize];
        if self.machines[index].catching.is_none() {
            let machine = &mut self.machines[index];
            let mut state = machine.state();
            let vote = state.vote();
            state.incomplete = Some(vote);
            state.promise = Epoch(self.epoch);
            machine.commit(state, Change::Keep);
            let catching = machine.prepare(vote, self.epoch);
            machine.catching = Some(catching);
            return;
        }
        if !self.pull(index, source) {
            return;
        }
        let (epoch, committed, history) = (self.epoch, self.committed, self.history.clone());
        self.machines[index].adopt(epoch, committed, history);
    }

    /// Fetches a part of the delta; true once it has all.
    fn pull(&mut self, index: usize, source: usize) -> bool {
        let Some(catching) = self.machines[index].catching.as_ref() else { return false };
        let Some(from) = catching.next_extent else { return true };
        let budget = 1 + self.chooser.below(400_000) as usize;
        let delta = self.machines[source].silo.delta(KEY, catching.base, &catching.also, from, budget).unwrap();
        let machine = &mut self.machines[index];
        for (listing, records) in &delta.extents {
            machine.silo.append(records).unwrap();
            machine.silo.stage_listing(KEY, listing).unwrap();
        }
        if let Some(catching) = machine.catching.as_mut() {
            catching.next_extent = delta.next_extent;
        }
        delta.next_extent.is_none()
    }

    /// A new writer: two silos promise, the higher vote is the source; the other one may or may not follow at once.
    fn take_over(&mut self) {
        self.epoch += 1;
        self.serving = false;
        let out = self.chooser.below(3) as usize;
        let mut pair: Vec<usize> = (0..3).filter(|index| *index != out).collect();
        for &index in &pair {
            let machine = &mut self.machines[index];
            machine.catching = None;
            machine.silo.discard_staging(KEY).unwrap();
            machine.commit(SlotState { promise: Epoch(self.epoch), ..machine.state() }, Change::Keep);
        }
        self.machines[out].catching = None;
        self.machines[out].silo.discard_staging(KEY).unwrap();
        pair.sort_by_key(|index| self.machines[*index].state().vote());
        let (other, source) = (pair[0], pair[1]);
        self.machines[source].become_source();
        self.history = self.machines[source].history.clone();
        assert!(last_seq(&self.history) >= self.committed, "what two silos had durably is lost");
        self.next_seq = last_seq(&self.history).0 + 1 + self.chooser.below(3);
        let vote = self.machines[source].state().vote();
        self.machines[source].adopt_own(self.epoch, vote);
        if self.chooser.chance(25) {
            return;
        }
        let other_vote = self.machines[other].state().vote();
        if other_vote == vote {
            self.machines[other].adopt_own(self.epoch, vote);
        } else {
            let catching = self.machines[other].prepare(other_vote, vote.adopted.0);
            self.machines[other].catching = Some(catching);
            while !self.pull(other, source) {}
            let (epoch, committed, history) = (self.epoch, self.committed, self.history.clone());
            self.machines[other].adopt(epoch, committed, history);
        }
        self.serving = true;
    }

    fn step(&mut self) {
        let index = self.chooser.below(3) as usize;
        match self.chooser.below(100) {
            0..40 => self.write(),
            40..50 => {
                let machine = &mut self.machines[index];
                machine.silo.sync().unwrap();
                machine.synced = machine.history.len();
            }
            50..60 => self.commit_watermark(),
            60..66 => self.machines[index].silo.checkpoint().unwrap(),
            66..84 => self.catch_up(index),
            84..89 => self.restart(index),
            89..93 => self.take_over(),
            _ => self.check(index),
        }
    }

    fn check(&mut self, index: usize) {
        let machine = &self.machines[index];
        if machine.state().incomplete.is_none() {
            assert_holds(&machine.silo, &machine.history, "at rest");
            let count = 1 + self.chooser.below(300) as u32;
            let first = self.chooser.below(BLOCKS - u64::from(count));
            assert_reads(&machine.silo, &machine.history, first, count, "at rest");
        }
    }
}

impl Machine {
    /// What to compare with a source whose history ends in `epoch`: above the vote in the same epoch, else above what is
    /// common to all.
    fn prepare(&self, vote: Vote, epoch: u64) -> Catching {
        let base = if vote.adopted.0 == epoch { vote.applied } else { self.state().committed };
        Catching { base, also: self.silo.changed_extents(KEY, base).unwrap(), next_extent: Some(0) }
    }

    fn adopt(&mut self, epoch: u64, committed: Seq, history: Vec<Op>) {
        let Some(catching) = self.catching.take() else { return };
        let state = SlotState {
            adopted: Epoch(epoch),
            promise: Epoch(epoch),
            applied: last_seq(&history),
            committed,
            incomplete: None,
            ..self.state()
        };
        self.commit(state, Change::Adopt { base: catching.base });
        self.history = history;
        self.synced = self.history.len();
        assert_holds(&self.silo, &self.history, "after adopting");
    }

    /// Adopts an epoch whose history is the one that this silo votes with.
    fn adopt_own(&mut self, epoch: u64, vote: Vote) {
        let state = SlotState {
            adopted: Epoch(epoch),
            promise: Epoch(epoch),
            applied: vote.applied,
            incomplete: None,
            ..self.state()
        };
        self.commit(state, Change::Adopt { base: vote.applied });
        self.synced = self.history.len();
        assert_holds(&self.silo, &self.history, "after adopting its own");
    }

    fn become_source(&mut self) {
        let state = self.state();
        if let Some(vote) = state.incomplete {
            self.commit(state, Change::Revert { vote });
            assert_holds(&self.silo, &self.history, "after going back to its vote");
        }
    }
}

fn run(seed: u64, steps: usize) {
    let mut cluster = Cluster::new(seed);
    for _ in 0..steps {
        cluster.step();
    }
    for index in 0..3 {
        cluster.restart(index);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 0, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn every_silo_holds_the_history_it_claims(seed in any::<u32>()) {
        run(seed.into(), 250);
    }
}

/// Seeds that once found a fault: a segment made ahead in an earlier life was taken for the continuation of the log; a
/// watermark that followed at once after an adoption made a later comparison begin too high.
#[test]
fn seeds_that_found_faults_stay_quiet() {
    for seed in [1_563_797_529, 1079] {
        run(seed, 250);
    }
}
