//! Disks that fill at any moment: whatever there is no space for is refused whole, nothing that was taken is lost, nothing is
//! out of service, and everything goes on once there is space.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::base::block::EXTENT_BLOCKS;
use crate::store::error::StoreError;
use crate::store::faulty::Crash;
use crate::store::slot::Vote;
use crate::store::staging::ExtentListing;

const MIB: u64 = 1 << 20;
/// Single blocks are scattered over so many, so that nearly each is a row of the index by itself.
const SCATTERED: u64 = 1 << 20;
const STEPS: u64 = 80;

/// A slot on a disk that may fill, and what it has taken.
struct Life {
    disk: FaultyDisk,
    silo: Silo,
    chooser: Chooser,
    history: Vec<Op>,
    /// What was refused and is tried again.
    refused: Option<Vec<Op>>,
    refusals: u64,
}

fn options_of(incarnation: u64) -> SiloOptions {
    SiloOptions { segment_bytes: 256 << 10, checkpoint_versions: 600, ..options(incarnation) }
}

/// What may be refused for want of space, and nothing else.
fn taken<T>(result: Result<T>) -> bool {
    match result {
        Ok(_) => true,
        Err(StoreError::NoSpace) => false,
        Err(other) => panic!("{other}"),
    }
}

impl Life {
    fn begin(seed: u64) -> Self {
        let disk = FaultyDisk::new(seed);
        Silo::format(Arc::new(disk.clone()), SILO).unwrap();
        let silo = Silo::open(Arc::new(disk.clone()), options_of(1)).unwrap();
        silo.commit(&[commit(SlotState { adopted: Epoch(1), ..SlotState::default() }, Change::Keep)]).unwrap();
        Self { disk, silo, chooser: Chooser::new(seed), history: Vec::new(), refused: None, refusals: 0 }
    }

    fn last(&self) -> u64 {
        self.history.last().map_or(0, |op| op.stamp.seq.0)
    }

    fn scattered(&mut self, count: u64) -> Vec<Op> {
        let first = self.last() + 1;
        (first..first + count)
            .map(|seq| Op { stamp: stamp(1, seq), first: self.chooser.below(SCATTERED), count: 1, kind: Kind::Zero })
            .collect()
    }

    /// Appends what was refused before, or something new.
    fn append(&mut self) {
        let next = stamp(1, self.last() + 1);
        let ops = match self.refused.take() {
            Some(ops) => ops,
            None if self.chooser.chance(40) => self.scattered(300),
            None => vec![self.chooser.op(next)],
        };
        let records: Vec<Record> = ops.iter().map(Op::record).collect();
        if taken(self.silo.append(&records)) {
            self.history.extend(&ops);
            self.silo.set_committed(KEY, Seq(self.last().saturating_sub(5))).unwrap();
        } else {
            self.refusals += 1;
            self.refused = Some(ops);
        }
    }

    fn state(&self) -> SlotState {
        self.silo.slot(KEY).unwrap()
    }

    /// Is brought up to date with what another silo has beyond its own history; begins anew if there is no space.
    fn catch_up(&mut self) {
        let (before, base) = (self.state(), self.state().applied);
        let vote = Vote { adopted: before.adopted, applied: before.applied };
        if !taken(self.silo.commit(&[commit(SlotState { incomplete: Some(vote), ..before.clone() }, Change::Keep)])) {
            assert_eq!(self.state(), before, "a refused commit changes nothing");
            self.refusals += 1;
            return;
        }
        let mut ahead = self.history.clone();
        let beyond = self.scattered(150);
        ahead.extend(&beyond);
        let floor = ahead.last().unwrap().stamp.seq;
        let applied = SlotState { applied: floor, incomplete: None, adopted: before.adopted, ..self.state() };
        let staged = self.stage(&ahead, base, floor);
        let adopted = staged && taken(self.silo.commit(&[commit(applied, Change::Adopt { base })]));
        if adopted {
            self.history = ahead;
            // What was refused before has another number now.
            self.refused = None;
        } else {
            self.refusals += 1;
            assert_eq!(self.state().incomplete, Some(vote), "a refused adoption changes nothing");
            assert_holds(&self.silo, &self.history, "after a refused adoption");
            self.silo.discard_staging(KEY).unwrap();
            while !taken(self.silo.commit(&[commit(self.state(), Change::Revert { vote })])) {
                self.refusals += 1;
                assert!(self.refusals < 10_000, "a history that cannot go back without space");
                self.lift();
            }
        }
        assert_eq!(self.state().applied.0, self.last());
    }

    /// Appends what was promised.
    fn put(&mut self, op: Op) {
        self.silo.append(&[op.record()]).unwrap();
        self.history.push(op);
        self.silo.set_committed(KEY, Seq(self.last().saturating_sub(5))).unwrap();
    }

    /// What is done beside: a checkpoint or what else lets go of space, and all the cleaning that there is.
    fn chores(&self) {
        if self.silo.checkpoint_due() {
            taken(self.silo.checkpoint());
        } else if self.silo.tidy_due() || self.silo.may_free() {
            taken(self.silo.checkpoint());
            taken(self.silo.tidy());
        }
        while self.silo.clean().is_ok_and(|cleaned| cleaned.more) {}
    }

    /// Stages what a source would send of this history above the base.
    fn stage(&self, ahead: &[Op], base: Seq, floor: Seq) -> bool {
        let blocks = fold(ahead);
        let changed = ahead.iter().filter(|op| op.stamp.seq > base);
        let extents: BTreeSet<u64> = changed.map(|op| op.first / EXTENT_BLOCKS).collect();
        for extent in extents {
            let mut listing = ExtentListing::empty(extent, floor);
            let first = extent * EXTENT_BLOCKS;
            let mut records = Vec::new();
            for (block, (stamp, kind)) in blocks.range(first..first + EXTENT_BLOCKS) {
                listing.set((block - first) as usize);
                if stamp.seq > base {
                    records.push(Op { stamp: *stamp, first: *block, count: 1, kind: *kind }.record().into_transfer());
                }
            }
            if !records.is_empty() && !taken(self.silo.append(&records)) {
                return false;
            }
            self.silo.stage_listing(KEY, &listing).unwrap();
        }
        true
    }

    fn step(&mut self) {
        match self.chooser.below(12) {
            0 => drop(taken(self.silo.checkpoint())),
            1 => drop(taken(self.silo.tidy())),
            2 => drop(taken(self.silo.clean())),
            3 => self.silo.sync().unwrap(),
            4 => drop(taken(self.silo.commit(&[commit(self.state(), Change::Keep)]))),
            5 if self.chooser.chance(30) => self.catch_up(),
            _ => self.append(),
        }
        assert!(self.silo.faulted().is_none());
    }

    fn lift(&self) {
        self.disk.set_capacity(None);
        self.disk.fill_after(None);
    }

    /// Goes on until the script is done, is judged while there is no space, and goes on with space.
    fn run(mut self, what: &str) -> u64 {
        (0..STEPS).for_each(|_| self.step());
        assert_holds(&self.silo, &self.history, what);
        assert_reads(&self.silo, &self.history, 0, BLOCKS as u32, what);
        self.silo.sync().unwrap();
        let refusals = self.refusals;
        if self.chooser.chance(50) {
            self.restart(what);
        }
        self.lift();
        self.silo.clean().unwrap();
        (0..20).for_each(|_| self.append());
        self.silo.checkpoint().unwrap();
        self.catch_up();
        assert_eq!(self.refusals, refusals, "{what}: refused although there is space");
        assert_holds(&self.silo, &self.history, what);
        self.silo.sync().unwrap();
        self.restart(what);
        assert_holds(&self.silo, &self.history, what);
        refusals
    }

    /// Stops and starts again; if there is no space to, once there is.
    fn restart(&mut self, what: &str) {
        let crash = if self.chooser.chance(50) { Crash::Power } else { Crash::Process };
        self.disk.crash(crash);
        let open = |disk: &FaultyDisk| Silo::open(Arc::new(disk.clone()), options_of(2));
        self.silo = match open(&self.disk) {
            Err(StoreError::NoSpace) => {
                self.lift();
                open(&self.disk)
            }
            other => other,
        }
        .unwrap_or_else(|error| panic!("{what}, {crash:?} crash: {error}"));
        assert!(self.silo.faulted().is_none(), "{what}");
        assert_holds(&self.silo, &self.history, what);
    }
}

#[test]
fn a_disk_that_fills_at_any_operation_loses_and_faults_nothing() {
    const SEED: u64 = 2;
    let counting = Life::begin(SEED);
    let disk = counting.disk.clone();
    let begun = disk.operations();
    assert_eq!(counting.run("with space"), 0);
    let operations = disk.operations() - begun;
    let mut refused = 0;
    let rounds = 14;
    for round in 0..rounds {
        let at = operations * round / rounds;
        let life = Life::begin(SEED);
        life.disk.fill_after(Some(at));
        refused += u64::from(life.run(&format!("full from operation {at}")) > 0);
    }
    assert!(refused > rounds / 3, "{refused} of {rounds} disks were full when it mattered");
}

/// The index's file grows while a transaction is put together, and would grow in its commit if that were let to.
#[test]
fn a_disk_that_fills_while_the_index_grows_loses_and_faults_nothing() {
    let mut tried = 0;
    // In the second the commit itself would grow it.
    for seed in [0, 5] {
        let mut counting = Life::begin(seed);
        let (mut steps, mut operations, mut bytes) = (0, 0, u64::MAX);
        while counting.silo.index.size() <= bytes {
            (steps, operations, bytes) = (steps + 1, counting.disk.operations(), counting.silo.index.size());
            counting.step();
        }
        for at in 0..counting.disk.operations() - operations {
            let mut life = Life::begin(seed);
            (1..steps).for_each(|_| life.step());
            life.disk.fill_after(Some(at));
            life.step();
            life.restart(&format!("seed {seed}, full from operation {at} of step {steps}"));
            tried += 1;
        }
    }
    assert!(tried > 100, "{tried} operations while the index grew");
}

#[test]
fn a_disk_of_any_size_loses_and_faults_nothing() {
    let mut outcomes = BTreeMap::new();
    for step in 0..10 {
        let bytes = 4 * MIB + step * (1228 << 10) + 4096 * (step % 5);
        let life = Life::begin(step);
        life.disk.set_capacity(Some(bytes));
        let refused = life.run(&format!("a disk of {bytes} bytes")) > 0;
        *outcomes.entry(refused).or_insert(0) += 1;
    }
    assert!(outcomes.len() == 2, "some are too small and some are not: {outcomes:?}");
}

/// Others take all that a disk has left, at any moment and all at once. What was promised is taken then, and as soon as much
/// is trimmed, be it a bit everywhere so that no segment empties by itself, writes are taken again.
#[test]
fn a_disk_that_others_fill_at_any_moment_comes_free_by_trims() {
    const RESERVE: u64 = MIB;
    const CHUNK: u64 = 16;
    const CHUNKS: u64 = 256;
    let mut refusals = 0;
    for seed in 0..24 {
        let mut life = Life::begin(seed);
        life.disk.set_capacity(Some(28 * MIB));
        // Before that the index and its reserve are most of what the silo has.
        let filled_at = 300 + life.chooser.below(600);
        let mut there = BTreeSet::new();
        for step in 0..900 {
            if step == filled_at {
                life.disk.fill_up_to(Some(0));
            }
            let chunk = life.chooser.below(CHUNKS);
            if life.silo.takes_writes(RESERVE) {
                let count = 1 + life.chooser.below(CHUNK);
                life.put(Op { stamp: stamp(1, life.last() + 1), first: chunk * CHUNK, count, kind: Kind::Data });
                there.insert(chunk);
            } else {
                refusals += 1;
            }
            life.chores();
        }
        for chunk in there.iter().step_by(2) {
            life.put(Op { stamp: stamp(1, life.last() + 1), first: chunk * CHUNK, count: CHUNK, kind: Kind::Trim });
            life.chores();
        }
        life.silo.set_committed(KEY, Seq(life.last())).unwrap();
        for _ in 0..3 {
            life.chores();
        }
        let what = format!("seed {seed}, filled at {filled_at}: {:?}", life.silo.space());
        assert!(life.silo.takes_writes(RESERVE), "writes are refused still, {what}");
        assert_holds(&life.silo, &life.history, &what);
        assert_reads(&life.silo, &life.history, 0, (CHUNK * CHUNKS) as u32, &what);
        assert!(life.silo.faulted().is_none(), "{what}");
    }
    assert!(refusals > 1000, "{refusals} writes were refused");
}
