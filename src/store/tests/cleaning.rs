//! Cleaning and full silos: nothing is lost, space comes back, and the capacity is a promise.

use super::*;
use crate::base::id::SnapshotId;
use crate::store::disk::{Disk, RealDisk};
use crate::store::error::StoreError;
use crate::store::faulty::Crash;
use crate::store::index::Leaves;
use crate::store::keys::SEGMENTS;
use crate::store::segment::segment_number;
use crate::store::slot::Vote;
use crate::store::usage::Usage;

pub(super) const MIB: u64 = 1 << 20;

/// A silo so small that the tested blocks fill most of it.
pub(super) fn small(incarnation: u64, capacity_bytes: u64) -> SiloOptions {
    SiloOptions {
        capacity_bytes,
        segment_bytes: 1 << 20,
        checkpoint_log_bytes: 1 << 20,
        checkpoint_versions: 400,
        ..options(incarnation)
    }
}

fn open_small(disk: &FaultyDisk, incarnation: u64, capacity_bytes: u64) -> Result<Silo> {
    Silo::open(Arc::new(disk.clone()), small(incarnation, capacity_bytes))
}

pub(super) fn fresh_small(seed: u64, capacity_bytes: u64) -> (FaultyDisk, Silo) {
    let disk = FaultyDisk::new(seed);
    Silo::format(Arc::new(disk.clone()), SILO).unwrap();
    let silo = open_small(&disk, 1, capacity_bytes).unwrap();
    silo.commit(&[commit(SlotState { adopted: Epoch(1), ..SlotState::default() }, Change::Keep)]).unwrap();
    (disk, silo)
}

fn segments(disk: &FaultyDisk) -> Vec<u32> {
    Disk::list(disk).unwrap().iter().filter_map(|name| segment_number(name)).collect()
}

/// Cleans until there is nothing to do.
fn clean_all(silo: &Silo) {
    while silo.clean().unwrap().more {}
}

/// The counts that cleaning goes by are what the index says.
pub(super) fn assert_counts(silo: &Silo, what: &str) {
    let counted = Usage::count(&silo.index.read().unwrap()).unwrap();
    assert_eq!(silo.usage.all(), counted.all(), "{what}: blocks by segment");
    let saved = Usage::load(&silo.index.read().unwrap()).unwrap().expect("counts match their checksums");
    assert_eq!(saved.all(), counted.all(), "{what}: as saved");
}

pub(super) fn write(seq: u64, first: u64, count: u64) -> Op {
    Op { stamp: stamp(1, seq), first, count, kind: Kind::Data }
}

/// Appends, with everything committed up to a few numbers ago.
fn put(silo: &Silo, history: &mut Vec<Op>, op: Op) {
    silo.append(&[op.record()]).unwrap();
    history.push(op);
    silo.set_committed(KEY, Seq(op.stamp.seq.0.saturating_sub(5))).unwrap();
    if silo.checkpoint_due() {
        silo.checkpoint().unwrap();
    }
}

#[test]
fn trimmed_space_returns_to_the_file_system() {
    let (disk, silo) = fresh(1);
    let mut history: Vec<Op> = (1..=60).map(|seq| write(seq, seq * 32, 32)).collect();
    for op in &history {
        silo.append(&[op.record()]).unwrap();
    }
    silo.checkpoint().unwrap();
    assert_eq!(silo.clean().unwrap().removed, 0, "everything is in use");
    let (before, log) = (silo.used_bytes(), silo.log.allocated_bytes());
    let trim = Op { stamp: stamp(1, 61), first: 0, count: BLOCKS, kind: Kind::Trim };
    silo.append(&[trim.record()]).unwrap();
    history.push(trim);
    silo.checkpoint().unwrap();
    clean_all(&silo);
    assert_eq!(silo.log.allocated_bytes(), log, "an uncommitted trim frees nothing");
    silo.set_committed(KEY, Seq(61)).unwrap();
    assert!(silo.tidy_due());
    silo.tidy().unwrap();
    assert!(!silo.tidy_due());
    clean_all(&silo);
    assert!(silo.used_bytes() + 6 * MIB < before, "{} of {before} bytes are left", silo.used_bytes());
    assert!(segments(&disk).len() <= 2);
    assert_counts(&silo, "after the trim");
    assert_holds(&silo, &history, "after the trim");
    silo.close().unwrap();
    drop(silo);
    assert_holds(&open(&disk, 2).unwrap(), &history, "after a restart");
}

/// Versions that a checkpoint had to keep because what replaced them was not committed go once it is.
#[test]
fn what_was_kept_for_the_watermark_goes_when_it_passes() {
    let (_, silo) = fresh(1);
    let mut history: Vec<Op> = (1..=20).map(|seq| write(seq, seq * 32, 32)).collect();
    history.extend((21..=40).map(|seq| write(seq, (seq - 20) * 32, 32)));
    let short = Op { stamp: stamp(1, 41), first: 0, count: 30, kind: Kind::Trim };
    history.push(short);
    for op in &history {
        silo.append(&[op.record()]).unwrap();
    }
    silo.checkpoint().unwrap();
    let live = silo.space().live_bytes;
    assert_eq!(live, 40 * 32 * BLOCK_BYTES);
    silo.set_committed(KEY, Seq(41)).unwrap();
    silo.tidy().unwrap();
    assert_eq!(silo.space().live_bytes, live / 2);
    assert_counts(&silo, "after tidying");
    assert_holds(&silo, &history, "after tidying");
}

#[test]
fn forgotten_slots_free_their_segments() {
    let (disk, silo) = fresh(1);
    for seq in 1..=30 {
        silo.append(&[write(seq, seq * 32, 32).record()]).unwrap();
    }
    silo.checkpoint().unwrap();
    let before = segments(&disk).len();
    silo.commit(&[commit(SlotState::default(), Change::Forget)]).unwrap();
    silo.checkpoint().unwrap();
    clean_all(&silo);
    assert_counts(&silo, "after the slot was forgotten");
    assert_eq!(silo.space().live_bytes, 0);
    assert!(segments(&disk).len() <= 2 && before > 6);
}

/// What a snapshot sees is moved like anything else, and so is what an uncommitted suffix hides.
#[test]
fn versions_that_a_snapshot_or_a_suffix_needs_are_moved() {
    let (disk, silo) = fresh_small(1, 32 * MIB);
    let mut history = Vec::new();
    for seq in 1..=160 {
        put(&silo, &mut history, write(seq, seq * 8, 8));
    }
    silo.append(&[Record::marker(KEY, SnapshotId([2; 16]), stamp(1, 161))]).unwrap();
    let seen = history.clone();
    let mut seq = 162;
    let mut chooser = Chooser::new(3);
    while silo.space().removed_segments < 24 {
        put(&silo, &mut history, write(seq, 32 + chooser.below(1250), 1 + chooser.below(4)));
        silo.clean().unwrap();
        seq += 1;
        assert!(seq < 40_000, "nothing is cleaned: {:?}", silo.space());
    }
    assert!(silo.space().moved_bytes > 0);
    assert_counts(&silo, "after cleaning");
    assert_holds(&silo, &history, "after cleaning");
    silo.sync().unwrap();
    disk.crash(Crash::Power);
    drop(silo);
    let silo = open_small(&disk, 2, 32 * MIB).unwrap();
    assert_holds(&silo, &history, "after a restart");
    // Where the snapshot was taken, all is as it was then: verified down to the bytes.
    let vote = Vote { adopted: Epoch(1), applied: Seq(161) };
    let state = SlotState { committed: Seq(161), ..silo.slot(KEY).unwrap() };
    silo.commit(&[commit(state, Change::Revert { vote })]).unwrap();
    assert_holds(&silo, &seen, "as the snapshot sees it");
    assert_reads(&silo, &seen, 0, BLOCKS as u32, "as the snapshot sees it");
}

/// Full: new writes are refused, reads and trims go on, and what a trim frees is taken again, all by itself.
#[test]
fn a_full_silo_recovers_by_itself() {
    for limited_by_disk in [false, true] {
        let (disk, silo) = if limited_by_disk { fresh_small(1, 1 << 40) } else { fresh_small(1, 32 * MIB) };
        if limited_by_disk {
            disk.set_capacity(Some(32 * MIB));
        }
        let reserve = 2 * MIB;
        let mut history: Vec<Op> = Vec::new();
        let fill = |silo: &Silo, history: &mut Vec<Op>| {
            let mut taken = 0;
            while silo.takes_writes(reserve) {
                let seq = history.len() as u64 + 1;
                put(silo, history, write(seq, seq * 8, 8));
                silo.clean().unwrap();
                taken += 1;
            }
            taken
        };
        assert!(fill(&silo, &mut history) > 240);
        assert!(silo.space().full && silo.space().free_bytes < 2 * MIB, "{:?}", silo.space());
        assert_holds(&silo, &history, "when full");
        // What was promised still goes in.
        for _ in 0..reserve / (9 * BLOCK_BYTES) {
            let seq = history.len() as u64 + 1;
            put(&silo, &mut history, write(seq, seq * 8, 8));
        }
        let blocks = history.len() as u64 * 8;
        for round in 0..3 {
            // In pieces as a file system discards them.
            for first in (0..blocks / 2).step_by(16) {
                let seq = history.len() as u64 + 1;
                put(&silo, &mut history, Op { stamp: stamp(1, seq), first, count: 16, kind: Kind::Trim });
            }
            silo.set_committed(KEY, history.last().unwrap().stamp.seq).unwrap();
            silo.checkpoint().unwrap();
            silo.tidy().unwrap();
            clean_all(&silo);
            assert!(silo.takes_writes(reserve), "round {round}: {:?}", silo.space());
            let mut back = Vec::new();
            for first in (0..blocks / 4).step_by(8) {
                let seq = history.len() as u64 + 1;
                put(&silo, &mut history, write(seq, first, 8));
                back.push(silo.takes_writes(reserve));
            }
            assert!(back.iter().all(|takes| *takes), "round {round}: {:?}", silo.space());
        }
        assert_holds(&silo, &history, "in the end");
        assert_counts(&silo, "in the end");
        assert!(silo.faulted().is_none());
        let capacity = silo.used_bytes();
        assert!(capacity <= 32 * MIB, "{capacity}");
        drop(silo);
        disk.crash(Crash::Process);
        let silo = open_small(&disk, 2, 32 * MIB).unwrap();
        assert_holds(&silo, &history, "after a restart");
    }
}

/// Other programs fill the disk to its last byte: what was promised is taken, nothing is faulted, and the index grows
/// into the room that was kept for it.
#[test]
fn a_disk_that_others_fill_faults_nothing() {
    let (disk, silo) = fresh_small(1, 1 << 40);
    disk.set_capacity(Some(40 * MIB));
    let reserve = 2 * MIB;
    let mut history = Vec::new();
    for seq in 1..=100 {
        assert!(silo.takes_writes(reserve));
        put(&silo, &mut history, write(seq, seq * 16, 16));
        silo.clean().unwrap();
    }
    let others = disk.create("of another program").unwrap();
    others.allocate(disk.free_bytes().unwrap()).unwrap();
    assert_eq!(disk.free_bytes().unwrap(), 0);
    let mut promised = 0;
    while promised < reserve {
        promised += if silo.takes_writes(reserve) { 0 } else { 2 * BLOCK_BYTES + 256 };
        let seq = history.len() as u64 + 1;
        put(&silo, &mut history, write(seq, seq * 70, 2));
    }
    silo.checkpoint().unwrap();
    assert!(silo.faulted().is_none() && !silo.takes_writes(reserve) && silo.space().full);
    assert_holds(&silo, &history, "on a full disk");
    disk.remove("of another program").unwrap();
    silo.clean().unwrap();
    assert!(silo.takes_writes(reserve), "{:?}", silo.space());
}

/// A damaged record is left where it is and reported; its neighbours move, and its segment goes once it is repaired.
#[test]
fn a_damaged_block_is_left_in_place_and_reported() {
    let (disk, silo) = fresh_small(1, 24 * MIB);
    let mut history = Vec::new();
    for seq in 1..=60 {
        put(&silo, &mut history, write(seq, seq * 16, 16));
    }
    silo.checkpoint().unwrap();
    // Most of every record of the first segment is written over; one block of the rest decays.
    for seq in 61..=80 {
        put(&silo, &mut history, write(seq, (seq - 60) * 16, 15));
    }
    silo.set_committed(KEY, Seq(80)).unwrap();
    silo.checkpoint().unwrap();
    let first = *segments(&disk).first().unwrap();
    let left = 16 + 15;
    let flipped = (0..256 << 10).step_by(512).find(|byte| {
        disk.flip_bit(&crate::store::segment::segment_name(first), *byte, 1);
        let bad = matches!(silo.read(KEY, left, 1), Err(StoreError::BadBlock { .. }));
        if !bad {
            disk.flip_bit(&crate::store::segment::segment_name(first), *byte, 1);
        }
        bad
    });
    assert!(flipped.is_some());
    clean_all(&silo);
    let findings = silo.cleaning_findings();
    assert!(findings.len() == 1 && findings[0].segment == first, "{findings:?}");
    assert!(segments(&disk).contains(&first) && silo.usage.of(first) == 1);
    assert!(matches!(silo.read(KEY, left, 1), Err(StoreError::BadBlock { .. })));
    let whole = Op { count: 1, first: left, ..history[0] };
    assert_eq!(silo.repair(&whole.record()).unwrap(), 1);
    silo.checkpoint().unwrap();
    clean_all(&silo);
    assert!(!segments(&disk).contains(&first));
    assert_holds(&silo, &history, "after the repair");
    assert_reads(&silo, &history, 0, BLOCKS as u32, "after the repair");
}

/// An index of a version that did not count is counted at the opening.
#[test]
fn an_index_without_counts_is_counted() {
    for damaged in [false, true] {
        let (disk, silo) = fresh(1);
        let history: Vec<Op> = (1..=40).map(|seq| write(seq, seq * 20, 32)).collect();
        for op in &history {
            silo.append(&[op.record()]).unwrap();
        }
        silo.close().unwrap();
        silo.index
            .turn(false)
            .write(Leaves::Nothing, |txn| {
                if damaged {
                    txn.open_table(SEGMENTS)?.insert(1, 3)?;
                } else {
                    txn.delete_table(SEGMENTS)?;
                }
                Ok(())
            })
            .unwrap();
        drop(silo);
        let silo = open(&disk, 2).unwrap();
        assert_counts(&silo, "as counted");
        assert!(silo.space().live_bytes > 0);
        clean_all(&silo);
        assert_holds(&silo, &history, "after the opening");
    }
}

/// One life with cleaning in it, crashed at every few operations of its disk.
#[test]
fn a_crash_at_any_operation_of_cleaning_loses_nothing() {
    fn life(disk: &FaultyDisk, history: &mut Vec<Op>, synced: &mut usize, seed: u64) -> Result<u64> {
        let silo = open_small(disk, 1, 20 * MIB)?;
        silo.commit(&[commit(SlotState { adopted: Epoch(1), ..SlotState::default() }, Change::Keep)])?;
        let mut chooser = Chooser::new(seed);
        for seq in 1..=1200 {
            let op = match seq {
                1..=200 => write(seq, (seq - 1) * 8, 8),
                _ if chooser.chance(10) => chooser.op(stamp(1, seq)),
                _ => write(seq, chooser.below(1600), 1 + chooser.below(4)),
            };
            history.push(op);
            silo.append(&[op.record()])?;
            silo.set_committed(KEY, Seq(seq.saturating_sub(5)))?;
            if silo.checkpoint_due() {
                silo.checkpoint()?;
            }
            if seq.is_multiple_of(12) {
                silo.sync()?;
                *synced = history.len();
                silo.clean()?;
            }
        }
        Ok(silo.space().moved_bytes)
    }
    let formatted = |seed| {
        let disk = FaultyDisk::new(seed);
        Silo::format(Arc::new(disk.clone()), SILO).unwrap();
        disk
    };
    let counting = formatted(0);
    let before = counting.operations();
    let moved = life(&counting, &mut Vec::new(), &mut 0, 5).unwrap();
    assert!(moved > MIB, "the life is to clean much: {moved}");
    let operations = counting.operations() - before;
    let rounds = 40;
    for round in 0..rounds {
        for crash in [Crash::Power, Crash::Process] {
            let at = operations * (2 * round + u64::from(crash == Crash::Power)) / (2 * rounds);
            let disk = formatted(at);
            disk.crash_after(at, crash);
            let (mut history, mut synced) = (Vec::new(), 0);
            let _ = life(&disk, &mut history, &mut synced, 5);
            assert!(disk.is_down());
            disk.restart();
            let what = format!("{crash:?} crash at operation {at} of {operations}");
            let silo = open_small(&disk, 2, 20 * MIB).unwrap_or_else(|error| panic!("{what}: {error}"));
            let Some(state) = silo.slot(KEY) else { continue };
            let kept = state.applied.0 as usize;
            assert!(kept >= synced, "{what}: {kept} kept of {synced} synced");
            assert_counts(&silo, &what);
            assert_holds(&silo, &history[..kept], &what);
            assert_reads(&silo, &history[..kept], 0, BLOCKS as u32, &what);
            clean_all(&silo);
            assert_holds(&silo, &history[..kept], &what);
            assert_reads(&silo, &history[..kept], 0, BLOCKS as u32, &what);
        }
    }
}

/// Readers never see that what they look for is being moved under their hands.
#[test]
fn readers_and_writers_go_on_while_a_real_silo_is_cleaned() {
    let folder = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(folder.path()));
    Silo::format(disk.clone(), SILO).unwrap();
    let silo = Silo::open(disk, small(1, 32 * MIB)).unwrap();
    silo.commit(&[commit(SlotState { adopted: Epoch(1), ..SlotState::default() }, Change::Keep)]).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let stopped = || stop.load(std::sync::atomic::Ordering::Relaxed);
    let mut history = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stopped() {
                if silo.checkpoint_due() {
                    silo.checkpoint().unwrap();
                }
                silo.clean().unwrap();
            }
        });
        scope.spawn(|| {
            let mut reader = Chooser::new(3);
            while !stopped() {
                let run = silo.read(KEY, reader.below(1500), 32).unwrap();
                for block in run.data.chunks(BLOCK_BYTES as usize) {
                    let seq = u64::from_le_bytes(block[..8].try_into().unwrap());
                    assert!(seq == 0 || block == content(stamp(1, seq)));
                }
                silo.delta(KEY, Seq::ZERO, &[], reader.below(5), 1 << 18).unwrap();
            }
        });
        let mut chooser = Chooser::new(9);
        for seq in 1..8000 {
            let op = if seq <= 200 { write(seq, (seq - 1) * 8, 8) } else { write(seq, chooser.below(1500), 1) };
            silo.append(&[op.record()]).unwrap();
            silo.set_committed(KEY, Seq(seq)).unwrap();
            history.push(op);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert!(silo.space().moved_bytes > 0 && silo.used_bytes() <= 32 * MIB, "{:?}", silo.space());
    assert_counts(&silo, "after all threads");
    assert_holds(&silo, &history, "after all threads");
}
