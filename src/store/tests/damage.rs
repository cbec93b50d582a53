//! Decay and failing operations: noticed, never returned as data, and remembered.

use super::*;
use crate::store::disk::Disk;
use crate::store::error::{Damage, Operation, StoreError};
use crate::store::faulty::Crash;

fn write(seq: u64, first: u64, count: u64) -> Op {
    Op { stamp: stamp(1, seq), first, count, kind: Kind::Data }
}

#[test]
fn a_flipped_bit_is_reported_and_repaired_with_the_indexed_version() {
    let (disk, silo) = fresh(1);
    let ops = [write(1, 0, 8), write(2, 100, 1)];
    silo.append(&ops.map(|op| op.record())).unwrap();
    let block_5 = 64 + 16 + 96 + 8 * 8 + 5 * 4096;
    for checkpointed in [false, true] {
        assert!(disk.flip_bit("segment-00000001", block_5 + 77, 2));
        let read = silo.read(KEY, 2, 6);
        assert!(matches!(read, Err(StoreError::BadBlock { block: 5, stamp: s }) if s == stamp(1, 1)), "{read:?}");
        silo.read(KEY, 0, 5).unwrap();
        assert!(matches!(silo.delta(KEY, Seq(0), &[], 0, 1), Err(StoreError::BadBlock { block: 5, .. })));
        assert!(disk.flip_bit("segment-00000001", block_5 + 77, 2));
        if !checkpointed {
            silo.checkpoint().unwrap();
        }
    }
    disk.flip_bit("segment-00000001", block_5, 0);
    let other = Op { stamp: stamp(1, 2), ..ops[0] };
    assert_eq!(silo.repair(&other.record()).unwrap(), 0, "only exactly the indexed version mends");
    assert!(silo.read(KEY, 5, 1).is_err());
    assert_eq!(silo.repair(&ops[0].record()).unwrap(), 8);
    assert_reads(&silo, &ops, 0, 200, "after the repair");
    silo.close().unwrap();
    drop(silo);
    assert_reads(&open(&disk, 2).unwrap(), &ops, 0, 200, "after a restart");
}

#[test]
fn an_unreadable_sector_condemns_its_block_only() {
    let (disk, silo) = fresh(1);
    silo.append(&[write(1, 0, 8).record()]).unwrap();
    let block_5 = 64 + 16 + 96 + 8 * 8 + 5 * 4096;
    disk.fail_reads("segment-00000001", block_5 + 100..block_5 + 101);
    assert!(matches!(silo.read(KEY, 0, 8), Err(StoreError::BadBlock { block: 5, .. })));
    silo.read(KEY, 6, 2).unwrap();
    disk.heal_reads();
    assert_reads(&silo, &[write(1, 0, 8)], 0, 8, "once readable");
}

/// No single flipped bit anywhere in the log makes a read return anything but the truth or an error.
#[test]
fn flipped_bits_in_the_log_are_never_data() {
    let (disk, silo) = fresh(1);
    let history: Vec<Op> = (1..8).map(|seq| write(seq, seq * 3, 2)).collect();
    silo.append(&history.iter().map(Op::record).collect::<Vec<_>>()).unwrap();
    silo.sync().unwrap();
    disk.crash(Crash::Process);
    drop(silo);
    let end = 64 + 7 * (16 + 96 + 16 + 8192);
    let mut chooser = Chooser::new(4);
    let mut cut = 0;
    for round in 0..200 {
        let (byte, bit) = (chooser.below(end), chooser.below(8) as u8);
        let copy = FaultyDisk::new(round);
        for name in ["superblock", "index.redb", "index.sums", "segment-00000001"] {
            let file = crate::store::disk::Disk::create(&copy, name).unwrap();
            let bytes = disk.contents(name).unwrap();
            file.write_vectored_at(&mut [std::io::IoSlice::new(&bytes)], 0).unwrap();
        }
        copy.flip_bit("segment-00000001", byte, bit);
        let silo = open(&copy, 2).unwrap();
        let applied = silo.slot(KEY).unwrap().applied.0 as usize;
        cut += usize::from(applied < history.len());
        assert_holds(&silo, &history[..applied], &format!("bit {bit} of byte {byte}"));
        assert_reads(&silo, &history[..applied], 0, 64, &format!("bit {bit} of byte {byte}"));
    }
    assert!(cut > 150, "the flips must have mattered: {cut}");
}

#[test]
fn a_failed_sync_is_final_across_restarts() {
    let (disk, silo) = fresh(1);
    let ops = [write(1, 0, 8), write(2, 100, 1)];
    silo.append(&[ops[0].record()]).unwrap();
    silo.sync().unwrap();
    let state = SlotState { adopted_boot: [1; 16], ..silo.slot(KEY).unwrap() };
    assert!(silo.kept_page_cache(&state));
    silo.append(&[ops[1].record()]).unwrap();
    disk.fail_sync_after(0);
    assert!(matches!(silo.sync(), Err(StoreError::Faulted(fault)) if fault.operation == Operation::Sync));
    assert!(!silo.kept_page_cache(&state) && !silo.takes_writes(0));
    for refused in [silo.sync(), silo.append(&[]), silo.checkpoint(), silo.commit(&[]), silo.close()] {
        assert!(matches!(refused, Err(StoreError::Faulted(_))));
    }
    assert_holds(&silo, &ops, "reads go on");
    drop(silo);
    for life in 2..4 {
        let silo = open(&disk, life).unwrap();
        assert_eq!(silo.faulted().unwrap().operation, Operation::Sync);
        assert!(matches!(silo.append(&[ops[1].record()]), Err(StoreError::Faulted(_))));
        assert_holds(&silo, &ops, "reads go on after a restart");
        assert_reads(&silo, &ops, 0, 200, "reads go on after a restart");
    }
}

#[test]
fn failed_writes_and_commits_are_final_too() {
    let (disk, silo) = fresh(1);
    silo.append(&[write(1, 0, 8).record()]).unwrap();
    disk.fail_write_after(0);
    let failed = silo.append(&[write(2, 0, 8).record()]);
    assert!(matches!(failed, Err(StoreError::Faulted(fault)) if fault.operation == Operation::Write));
    assert_holds(&silo, &[write(1, 0, 8)], "the failed write is not seen");

    let (disk, silo) = fresh(2);
    disk.fail_sync_after(0);
    let failed = silo.commit(&[commit(silo.slot(KEY).unwrap(), Change::Keep)]);
    assert!(matches!(failed, Err(StoreError::Faulted(fault)) if fault.operation == Operation::Commit));
    drop(silo);
    assert_eq!(open(&disk, 2).unwrap().faulted().unwrap().operation, Operation::Commit);
}

/// A sync of the index fails, and so does the note of it. What the next life finds in the index is what the disk has: it
/// is still there after a power loss.
#[test]
fn a_failed_sync_of_the_index_that_could_not_be_noted_misleads_nobody() {
    let mut lost = 0;
    for seed in 0..60 {
        let (disk, silo) = fresh(seed);
        let state = |promise| SlotState { promise: Epoch(promise), ..silo.slot(KEY).unwrap() };
        let history: Vec<Op> = (1..60).map(|seq| write(seq, seq * 70 % 1900, 2)).collect();
        silo.append(&history.iter().map(Op::record).collect::<Vec<_>>()).unwrap();
        silo.commit(&[commit(state(2), Change::Keep)]).unwrap();
        disk.refuse_files(true);
        disk.fail_sync_after(seed % 4);
        let failed = if seed % 2 == 0 { silo.checkpoint() } else { silo.commit(&[commit(state(3), Change::Keep)]) };
        let failed = failed.and_then(|()| silo.commit(&[commit(state(3), Change::Keep)]));
        assert!(matches!(failed, Err(StoreError::Faulted(_))), "{failed:?}");
        drop(silo);
        disk.crash(Crash::Process);
        disk.refuse_files(false);
        let silo = open(&disk, 2).unwrap();
        assert!(silo.faulted().is_none(), "the note could not be written");
        let found = silo.slot(KEY).unwrap();
        assert!(found.promise >= Epoch(2));
        lost += u64::from(found.promise == Epoch(2));
        assert_holds(&silo, &history[..found.applied.0 as usize], "in the next life");
        silo.append(&[write(60, 5, 3).record()]).unwrap();
        silo.sync().unwrap();
        drop(silo);
        disk.crash(Crash::Power);
        let silo = open(&disk, 3).unwrap();
        assert_eq!(silo.slot(KEY).unwrap().promise, found.promise, "what was found is durable");
        let kept: Vec<Op> = history[..found.applied.0 as usize].iter().copied().chain([write(60, 5, 3)]).collect();
        assert_holds(&silo, &kept, "after a power loss");
    }
    assert!(lost > 5, "some syncs must have lost what they failed to write: {lost}");
}

/// Copies every file of a disk.
fn copy_of(disk: &FaultyDisk, seed: u64) -> FaultyDisk {
    let copy = FaultyDisk::new(seed);
    for name in Disk::list(disk).unwrap().into_iter().filter(|name| name != "lock") {
        let bytes = disk.contents(&name).unwrap();
        let file = copy.create(&name).unwrap();
        file.write_vectored_at(&mut [std::io::IoSlice::new(&bytes)], 0).unwrap();
    }
    copy
}

/// A silo whose index has inner pages: a block in each of many groups, a third of them with data.
fn with_large_index() -> (FaultyDisk, Vec<Op>) {
    let (disk, silo) = fresh(1);
    let kind = |seq: u64| if seq.is_multiple_of(8) { Kind::Data } else { Kind::Zero };
    let history: Vec<Op> = (1..3000)
        .map(|seq| Op { stamp: stamp(1, seq), first: seq * 64 + seq % 7, count: 1, kind: kind(seq) })
        .collect();
    for batch in history.chunks(100) {
        silo.append(&batch.iter().map(Op::record).collect::<Vec<_>>()).unwrap();
    }
    silo.checkpoint().unwrap();
    silo.close().unwrap();
    (disk, history)
}

/// The answer of a silo of which a file was damaged; nothing if it says that it is.
fn unless_refused<T>(answer: Result<T>, what: &str) -> Option<T> {
    match answer {
        Ok(told) => Some(told),
        Err(StoreError::Damaged(_) | StoreError::Faulted(_) | StoreError::Newer { .. } | StoreError::Io { .. }) => None,
        Err(other) => panic!("{what}: {other}"),
    }
}

/// What a silo of which a file was damaged says of its whole content, block by block and as a whole; nothing if it
/// refuses. Whatever it says must be the truth.
fn tells(disk: &FaultyDisk, history: &[Op], what: &str) -> Option<()> {
    let silo = unless_refused(open(disk, 2), what)?;
    let whole = unless_refused(silo.digest(KEY), what);
    if whole.is_some() {
        assert_holds(&silo, history, what);
    }
    for op in history.iter().step_by(7) {
        let Some(run) = unless_refused(silo.read(KEY, op.first, 1), what) else { continue };
        let bytes = if op.kind == Kind::Data { content(op.stamp) } else { vec![0; BLOCK_BYTES as usize] };
        assert!(run.data == bytes, "{what}: block {} reads wrong", op.first);
    }
    if whole.is_none() {
        let fault = silo.faulted().unwrap_or_else(|| panic!("{what}: not out of service"));
        assert_eq!(fault.operation, Operation::Index, "{what}");
        assert!(fault.cause.contains("index."), "{what}: {fault}");
        assert!(matches!(silo.append(&[]), Err(StoreError::Faulted(_))));
    }
    whole.map(drop)
}

/// No flipped bit in any page of the index, or of its checksums, makes a lookup answer anything but the truth or an
/// error, and none makes it panic or hang.
#[test]
fn flipped_bits_in_the_index_are_never_believed() {
    let (disk, history) = with_large_index();
    assert!(tells(&copy_of(&disk, 0), &history, "undamaged").is_some());
    let mut chooser = Chooser::new(6);
    let mut refused = BTreeMap::new();
    for name in ["index.redb", "index.sums", "superblock"] {
        let size = disk.contents(name).unwrap().len() as u64;
        let pages = size.div_ceil(4096);
        for page in 0..pages {
            let in_use = (page + 1) * 4096 <= size;
            let bytes = if in_use { 4096 } else { size % 4096 };
            // Where a page's own head is, where redb's header and slots are, and anywhere.
            for byte in [if page == 0 { 9 } else { 4 }, chooser.below(320), chooser.below(bytes)] {
                let (byte, bit) = (page * 4096 + byte.min(bytes - 1), chooser.below(8) as u8);
                let copy = copy_of(&disk, page);
                assert!(copy.flip_bit(name, byte, bit));
                let what = format!("bit {bit} of byte {byte} of {name}");
                let told = tells(&copy, &history, &what);
                *refused.entry(name).or_insert(0) += usize::from(told.is_none());
                assert!(told.is_none() || name == "index.redb", "{what} was not noticed");
            }
        }
    }
    assert!(refused["index.redb"] > 60, "the flips must have mattered: {refused:?}");
}

/// A silo of the first format has no checksums of its index's pages: damage is found when it gets them.
#[test]
fn a_damaged_index_is_not_given_checksums() {
    let (disk, _) = with_large_index();
    let pages = disk.contents("index.redb").unwrap().len() as u64 / 4096;
    let mut raw = disk.contents("superblock").unwrap();
    raw[8] = 1;
    let crc = crc32c::crc32c(&raw[..508]);
    raw[508..].copy_from_slice(&crc.to_le_bytes());
    disk.open("superblock").unwrap().write_vectored_at(&mut [std::io::IoSlice::new(&raw)], 0).unwrap();
    disk.remove("index.sums").unwrap();
    assert!(open(&copy_of(&disk, 0), 2).is_ok());
    let mut refused = 0;
    for page in 1..pages {
        let copy = copy_of(&disk, page);
        copy.flip_bit("index.redb", page * 4096 + 40, 1);
        match open(&copy, 2) {
            Ok(silo) => drop(silo.digest(KEY).unwrap()),
            Err(error) => {
                assert!(matches!(error, StoreError::Damaged(Damage::Index(_))), "page {page}: {error}");
                assert!(!Disk::list(&copy).unwrap().contains(&"index.sums".to_owned()));
                refused += 1;
            }
        }
    }
    assert!(refused > 10, "the flips must have mattered: {refused}");
}
