//! Cleaning under random scripts: writes, trims and zeroes in several epochs, snapshots' markers, suffixes that are dropped,
//! restarts. Whatever is cleaned when, the slot holds what a toy model says, and at each marker what it held then.

use super::*;
use crate::base::id::SnapshotId;
use crate::store::disk::Disk;
use crate::store::faulty::Crash;
use crate::store::slot::Vote;
use crate::store::usage::Usage;

const STEPS: u64 = 700;
const MARKERS_MAX: usize = 4;

/// A slot, and what it should hold.
struct Toy {
    disk: FaultyDisk,
    silo: Silo,
    chooser: Chooser,
    life: u64,
    epoch: u64,
    next_seq: u64,
    history: Vec<Op>,
    /// The stamp of each marker, and how much of the history it sees.
    markers: Vec<(Stamp, usize)>,
    committed: Seq,
    synced: usize,
}

fn options_of(incarnation: u64) -> SiloOptions {
    SiloOptions {
        capacity_bytes: 26 << 20,
        segment_bytes: 1 << 20,
        checkpoint_log_bytes: 1 << 20,
        checkpoint_versions: 300,
        ..options(incarnation)
    }
}

impl Toy {
    fn begin(seed: u64) -> Self {
        let disk = FaultyDisk::new(seed);
        Silo::format(Arc::new(disk.clone()), SILO).unwrap();
        let silo = Silo::open(Arc::new(disk.clone()), options_of(1)).unwrap();
        silo.commit(&[commit(SlotState { adopted: Epoch(1), ..SlotState::default() }, Change::Keep)]).unwrap();
        Self {
            disk,
            silo,
            chooser: Chooser::new(seed),
            life: 1,
            epoch: 1,
            next_seq: 1,
            history: Vec::new(),
            markers: Vec::new(),
            committed: Seq::ZERO,
            synced: 0,
        }
    }

    fn applied(&self) -> Seq {
        self.silo.slot(KEY).unwrap().applied
    }

    fn write(&mut self) {
        let stamp = stamp(self.epoch, self.next_seq);
        self.next_seq += 1;
        let op = match self.chooser.below(20) {
            0 => self.chooser.op(stamp),
            // Some blocks are hot, so that segments empty unevenly.
            n if n < 12 => Op { stamp, first: self.chooser.below(300), count: 1 + n % 4, kind: Kind::Data },
            n => Op { stamp, first: self.chooser.below(BLOCKS - 16), count: 1 + n % 9, kind: Kind::Data },
        };
        self.silo.append(&[op.record()]).unwrap();
        self.history.push(op);
    }

    fn mark(&mut self) {
        if self.markers.len() < MARKERS_MAX {
            let stamp = stamp(self.epoch, self.next_seq);
            self.next_seq += 1;
            self.silo.append(&[Record::marker(KEY, SnapshotId([self.next_seq as u8; 16]), stamp)]).unwrap();
            self.markers.push((stamp, self.history.len()));
        }
    }

    /// A majority has some of what was written.
    fn commit_some(&mut self) {
        let most = self.applied().0 - self.committed.0;
        self.committed = Seq(self.committed.0 + self.chooser.below(most + 1));
        self.silo.set_committed(KEY, self.committed).unwrap();
    }

    /// Another epoch is adopted, of which the chosen history may lack what was not committed.
    fn adopt(&mut self) {
        let state = self.silo.slot(KEY).unwrap();
        let suffix = self.applied().0 - self.committed.0;
        let upto = Seq(self.committed.0 + self.chooser.below(suffix + 1));
        if upto < self.applied() {
            let kept = self.history.iter().take_while(|op| op.stamp.seq <= upto).count();
            let marked = self.markers.iter().filter(|(stamp, _)| stamp.seq <= upto).map(|(stamp, _)| *stamp).max();
            let last = self.history[..kept].last().map(|op| op.stamp).max(marked);
            let Some(last) = last else { return };
            let vote = Vote { adopted: last.epoch, applied: upto };
            self.silo.commit(&[commit(state.clone(), Change::Revert { vote })]).unwrap();
            self.history.truncate(kept);
            self.markers.retain(|(stamp, _)| stamp.seq <= upto);
            self.synced = kept;
        }
        self.epoch += 1;
        let state = SlotState { adopted: Epoch(self.epoch), ..self.silo.slot(KEY).unwrap() };
        self.silo.commit(&[commit(state, Change::Keep)]).unwrap();
        self.synced = self.history.len();
    }

    fn restart(&mut self, what: &str) {
        let crash = if self.chooser.chance(50) { Crash::Power } else { Crash::Process };
        self.disk.crash(crash);
        self.life += 1;
        self.silo = Silo::open(Arc::new(self.disk.clone()), options_of(self.life)).unwrap();
        let applied = self.applied();
        let kept = self.history.iter().take_while(|op| op.stamp.seq <= applied).count();
        assert!(kept >= self.synced, "{what}: {kept} kept of {} synced", self.synced);
        self.history.truncate(kept);
        self.markers.retain(|(stamp, _)| stamp.seq <= applied);
        self.committed = self.committed.min(applied);
        (self.next_seq, self.synced) = (applied.0 + 1, kept);
    }

    fn step(&mut self, what: &str) {
        match self.chooser.below(60) {
            0 => self.mark(),
            1 => self.adopt(),
            2 if self.chooser.chance(40) => self.restart(what),
            2..=5 => self.commit_some(),
            6 | 7 => self.silo.checkpoint().unwrap(),
            8 => self.silo.tidy().unwrap(),
            9 => {
                self.silo.sync().unwrap();
                self.synced = self.history.len();
            }
            10..=20 => drop(self.silo.clean().unwrap()),
            _ => self.write(),
        }
        if self.silo.checkpoint_due() {
            self.silo.checkpoint().unwrap();
        }
    }

    fn judge(&self, what: &str) {
        let counted = Usage::count(&self.silo.index.read().unwrap()).unwrap();
        assert_eq!(self.silo.usage.all(), counted.all(), "{what}: blocks by segment");
        assert_holds(&self.silo, &self.history, what);
        assert_reads(&self.silo, &self.history, 0, BLOCKS as u32, what);
    }

    /// Goes back, on a copy of the disk, to each marker that is committed.
    fn judge_markers(self, what: &str) -> usize {
        self.silo.close().unwrap();
        drop(self.silo);
        let committed = self.markers.iter().filter(|(stamp, _)| stamp.seq <= self.committed);
        committed
            .map(|(stamp, seen)| {
                let copy = self.disk.copy(9);
                let silo = Silo::open(Arc::new(copy), options_of(self.life + 1)).unwrap();
                while silo.clean().unwrap().more {}
                let vote = Vote { adopted: stamp.epoch, applied: stamp.seq };
                silo.commit(&[commit(silo.slot(KEY).unwrap(), Change::Revert { vote })]).unwrap();
                let what = format!("{what}, at marker {stamp:?}");
                assert_holds(&silo, &self.history[..*seen], &what);
                assert_reads(&silo, &self.history[..*seen], 0, BLOCKS as u32, &what);
            })
            .count()
    }
}

#[test]
fn random_scripts_hold_what_a_toy_model_holds_whatever_is_cleaned() {
    let (mut moved, mut marked, mut removed) = (0, 0, 0);
    for seed in 1..=12 {
        let mut toy = Toy::begin(seed);
        for step in 0..STEPS {
            let what = format!("seed {seed}, step {step}");
            toy.step(&what);
            if step % 175 == 174 {
                toy.judge(&what);
            }
            let names = Disk::list(&toy.disk).unwrap();
            assert!(names.len() < 40, "{what}: {names:?}");
        }
        let space = toy.silo.space();
        (moved, removed) = (moved + space.moved_bytes, removed + space.removed_segments);
        marked += toy.judge_markers(&format!("seed {seed}"));
    }
    assert!(moved > 512 << 10 && removed > 8 && marked > 24, "{moved} bytes, {removed} segments, {marked} markers");
}
