//! What a silo is and refuses, on the real disk where that matters.

use super::*;
use crate::base::id::SnapshotId;
use crate::base::record::RecordError;
use crate::store::disk::{Disk, RealDisk};
use crate::store::error::{Damage, StoreError};
use crate::store::superblock::identify;

#[test]
fn a_silo_on_a_real_disk_keeps_what_it_was_given() {
    let folder = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(folder.path()));
    assert!(matches!(Silo::open(disk.clone(), options(1)), Err(StoreError::NotFormatted)));
    Silo::format(disk.clone(), SILO).unwrap();
    let silo = Silo::open(disk.clone(), options(1)).unwrap();
    assert!(matches!(Silo::open(disk.clone(), options(2)), Err(StoreError::Locked)));
    silo.commit(&[commit(SlotState { adopted: Epoch(1), ..SlotState::default() }, Change::Keep)]).unwrap();
    let mut chooser = Chooser::new(5);
    let history: Vec<Op> = (1..400).map(|seq| chooser.op(stamp(1, seq))).collect();
    for batch in history.chunks(7) {
        silo.append(&batch.iter().map(Op::record).collect::<Vec<_>>()).unwrap();
    }
    silo.sync().unwrap();
    assert_holds(&silo, &history, "before the stop");
    drop(silo);
    // Dropped without a close: an unclean stop.
    let silo = Silo::open(disk.clone(), options(2)).unwrap();
    assert_holds(&silo, &history, "after an unclean stop");
    assert_eq!(silo.slot(KEY).unwrap().applied, Seq(399));
    silo.close().unwrap();
    let log = silo.log.allocated_bytes();
    drop(silo);
    let silo = Silo::open(disk, options(3)).unwrap();
    assert_holds(&silo, &history, "after a clean stop");
    assert_reads(&silo, &history, 0, BLOCKS as u32, "after a clean stop");
    assert!(silo.log.allocated_bytes() <= log, "a clean stop leaves nothing to write again");
    assert_eq!(silo.chain(), [Incarnation(1), Incarnation(2), Incarnation(3)]);
    silo.confirm(Incarnation(2)).unwrap();
    assert_eq!(silo.chain(), [Incarnation(2), Incarnation(3)]);
}

#[test]
fn threads_append_sync_checkpoint_and_read_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(folder.path()));
    Silo::format(disk.clone(), SILO).unwrap();
    let silo = Silo::open(disk, SiloOptions { checkpoint_versions: 500, ..options(1) }).unwrap();
    silo.commit(&[commit(SlotState { adopted: Epoch(1), ..SlotState::default() }, Change::Keep)]).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let stopped = || stop.load(std::sync::atomic::Ordering::Relaxed);
    let mut chooser = Chooser::new(9);
    let history: Vec<Op> = (1..3000).map(|seq| chooser.op(stamp(1, seq))).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stopped() {
                silo.sync().unwrap();
                if silo.checkpoint_due() {
                    silo.checkpoint().unwrap();
                }
                let state = SlotState { promise: Epoch(1), ..silo.slot(KEY).unwrap() };
                silo.commit(&[commit(state, Change::Keep)]).unwrap();
            }
        });
        scope.spawn(|| {
            let mut reader = Chooser::new(3);
            while !stopped() {
                let applied = silo.slot(KEY).unwrap().applied.0;
                let first = reader.below(BLOCKS - 64);
                let run = silo.read(KEY, first, 64).unwrap();
                // Whatever it reads is a version that was there at some moment since, whole.
                for block in run.data.chunks(BLOCK_BYTES as usize) {
                    let seq = u64::from_le_bytes(block[..8].try_into().unwrap());
                    assert!(seq == 0 || block == content(stamp(1, seq)));
                }
                assert!(silo.slot(KEY).unwrap().applied.0 >= applied);
            }
        });
        for (index, batch) in history.chunks(5).enumerate() {
            silo.append(&batch.iter().map(Op::record).collect::<Vec<_>>()).unwrap();
            if index % 10 == 0 {
                silo.set_committed(KEY, batch[0].stamp.seq).unwrap();
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert_holds(&silo, &history, "after all threads");
}

#[test]
fn what_cannot_be_stored_is_refused_whole() {
    let (_, silo) = fresh(1);
    let good = Op { stamp: stamp(1, 1), first: 0, count: 1, kind: Kind::Data };
    let whole = Op { stamp: stamp(1, 2), ..good }.record();
    let mut bytes = [&whole.head[..], &vec![0; BLOCK_BYTES as usize]].concat().into();
    let bad = Record::decode(&mut bytes).unwrap();
    let refused = silo.append(&[good.record(), bad]);
    assert!(matches!(refused, Err(StoreError::BadRecord(RecordError::BlockChecksum(0)))));
    let unknown = SlotKey { slot: SlotIndex(9), ..KEY };
    let refused = silo.append(&[good.record(), Record::trim(unknown, 0, BLOCK_BYTES, stamp(1, 2))]);
    assert!(matches!(refused, Err(StoreError::UnknownSlot(key)) if key == unknown));
    let beyond = Record::trim(KEY, 64 << 40, BLOCK_BYTES, stamp(1, 2));
    assert!(matches!(silo.append(&[good.record(), beyond]), Err(StoreError::OutOfRange)));
    assert!(matches!(silo.read(KEY, u64::MAX - 1, 4), Err(StoreError::OutOfRange)));
    assert_holds(&silo, &[], "after refusals");
    assert_eq!(silo.slot(KEY).unwrap().applied, Seq::ZERO);
}

#[test]
fn a_full_silo_refuses_batches_whole_and_still_reads() {
    let disk = FaultyDisk::new(1);
    Silo::format(Arc::new(disk.clone()), SILO).unwrap();
    let small = SiloOptions { capacity_bytes: 12 << 20, ..options(1) };
    let silo = Silo::open(Arc::new(disk.clone()), small).unwrap();
    silo.commit(&[commit(SlotState { adopted: Epoch(1), ..SlotState::default() }, Change::Keep)]).unwrap();
    assert!(silo.takes_writes(1 << 20) && !silo.takes_writes(12 << 20));
    let mut history = Vec::new();
    let refused = loop {
        let seq = history.len() as u64 + 1;
        let ops: Vec<Op> = (0..8)
            .map(|i| Op { stamp: stamp(1, seq + i), first: (seq + i) % 1000, count: 32, kind: Kind::Data })
            .collect();
        match silo.append(&ops.iter().map(Op::record).collect::<Vec<_>>()) {
            Ok(()) => history.extend(ops),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, StoreError::NoSpace), "{refused}");
    assert!(history.len() > 16 && silo.used_bytes() <= 12 << 20 && !silo.takes_writes(1 << 20));
    assert_holds(&silo, &history, "when full");
    assert!(silo.faulted().is_none());
    // The disk itself may be full first.
    disk.set_capacity(Some(0));
    let (_, other) = fresh(2);
    drop(other);
    assert!(matches!(silo.append(&vec![history[0].record(); 8]), Err(StoreError::NoSpace)));
    drop(silo);
    disk.set_capacity(None);
    let silo = open(&disk, 2).unwrap();
    assert_holds(&silo, &history, "after a restart");
}

#[test]
fn a_long_trim_costs_one_range_and_is_carried_out_once_committed() {
    let (disk, silo) = fresh(1);
    let write = Op { stamp: stamp(1, 1), first: 1000, count: 32, kind: Kind::Data };
    silo.append(&[write.record()]).unwrap();
    let trim = Op { stamp: stamp(1, 2), first: 0, count: 32 << 18, kind: Kind::Trim };
    silo.append(&[trim.record()]).unwrap();
    assert_holds(&silo, &[write, trim], "after the trim");
    assert_eq!(silo.changed_extents(KEY, Seq(1)).unwrap().len(), 32 << 10);
    silo.checkpoint().unwrap();
    // Not committed yet: going back uncovers what was there.
    let vote = crate::store::slot::Vote { adopted: Epoch(1), applied: Seq(1) };
    silo.commit(&[commit(silo.slot(KEY).unwrap(), Change::Revert { vote })]).unwrap();
    assert_holds(&silo, &[write], "after going back");
    silo.append(&[trim.record()]).unwrap();
    silo.set_committed(KEY, Seq(2)).unwrap();
    silo.checkpoint().unwrap();
    assert!(silo.find(KEY).unwrap().read().trims.iter().next().is_none(), "the trim was carried out");
    assert_holds(&silo, &[], "after the trim was carried out");
    drop(silo);
    assert_holds(&open(&disk, 2).unwrap(), &[], "after a restart");
}

#[test]
fn markers_pin_versions_and_survive() {
    let (disk, silo) = fresh(1);
    let op = |seq| Op { stamp: stamp(1, seq), first: 3, count: 1, kind: Kind::Data };
    silo.append(&[op(1).record(), Record::marker(KEY, SnapshotId([2; 16]), stamp(1, 2)), op(3).record()]).unwrap();
    silo.set_committed(KEY, Seq(3)).unwrap();
    silo.checkpoint().unwrap();
    silo.append(&[op(4).record(), op(5).record()]).unwrap();
    silo.set_committed(KEY, Seq(5)).unwrap();
    silo.close().unwrap();
    drop(silo);
    let silo = open(&disk, 2).unwrap();
    assert_holds(&silo, &[op(5)], "now");
    let vote = crate::store::slot::Vote { adopted: Epoch(1), applied: Seq(2) };
    let state = SlotState { committed: Seq(2), ..silo.slot(KEY).unwrap() };
    silo.commit(&[commit(state, Change::Revert { vote })]).unwrap();
    assert_holds(&silo, &[op(1)], "as the snapshot sees it");
}

#[test]
fn forgetting_a_slot_leaves_nothing_and_its_name_can_be_used_again() {
    let (disk, silo) = fresh(1);
    let write = |seq| Op { stamp: stamp(1, seq), first: seq * 40, count: 32, kind: Kind::Data };
    silo.append(&[write(1).record(), write(2).record()]).unwrap();
    silo.checkpoint().unwrap();
    silo.append(&[write(3).record()]).unwrap();
    silo.commit(&[commit(SlotState::default(), Change::Forget)]).unwrap();
    assert!(matches!(silo.read(KEY, 0, 1), Err(StoreError::UnknownSlot(_))));
    assert!(silo.slots().is_empty());
    silo.commit(&[commit(SlotState { adopted: Epoch(1), ..SlotState::default() }, Change::Keep)]).unwrap();
    assert_holds(&silo, &[], "a new slot of the same name");
    silo.append(&[write(7).record()]).unwrap();
    disk.crash(crate::store::faulty::Crash::Process);
    drop(silo);
    let silo = open(&disk, 2).unwrap();
    assert_holds(&silo, &[write(7)], "after a restart");
    silo.checkpoint().unwrap();
    assert_holds(&silo, &[write(7)], "after the old rows were removed");
}

#[test]
fn a_foreign_or_damaged_directory_is_told_as_such() {
    let disk = FaultyDisk::new(1);
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    disk.create("photos").unwrap();
    assert!(matches!(open(&disk, 1), Err(StoreError::Foreign(name)) if name == "photos"));

    let (disk, silo) = fresh(1);
    drop(silo);
    shared.create("unrelated").unwrap();
    disk.remove("index.redb").unwrap();
    assert!(matches!(open(&disk, 2), Err(StoreError::Damaged(Damage::Index(_)))));

    let (disk, silo) = fresh(1);
    silo.append(&[Op { stamp: stamp(1, 1), first: 0, count: 1, kind: Kind::Data }.record()]).unwrap();
    silo.close().unwrap();
    drop(silo);
    disk.remove("segment-00000001").unwrap();
    assert!(matches!(open(&disk, 2), Err(StoreError::Damaged(Damage::SegmentMissing(1)))));

    let (disk, silo) = fresh(1);
    drop(silo);
    let other = FaultyDisk::new(2);
    Silo::format(Arc::new(other.clone()), SiloId([7; 16])).unwrap();
    for name in ["index.redb", "index.sums"] {
        let bytes = other.contents(name).unwrap();
        disk.remove(name).unwrap();
        disk.create(name).unwrap().write_vectored_at(&mut [std::io::IoSlice::new(&bytes)], 0).unwrap();
    }
    assert!(matches!(open(&disk, 2), Err(StoreError::Damaged(Damage::IndexOfAnother(SiloId([7, ..]))))));
    let shared: Arc<dyn Disk> = Arc::new(disk);
    assert_eq!(identify(&shared).unwrap(), SILO);
}
