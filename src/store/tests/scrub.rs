//! Scrub finds what decayed, where reads would not look, and nothing else.

use std::io::IoSlice;

use super::*;
use crate::store::error::{Operation, StoreError};
use crate::store::scrub::{ScrubCursor, ScrubNote, ScrubStep};

fn write(seq: u64, first: u64, count: u64) -> Op {
    Op { stamp: stamp(1, seq), first, count, kind: Kind::Data }
}

/// One pass in small steps, whose sum it is.
fn pass(silo: &Silo) -> Result<ScrubStep> {
    let mut whole = ScrubStep::default();
    let mut at = Some(ScrubCursor::default());
    while let Some(cursor) = at {
        let step = silo.scrub(cursor, None, 64 << 10)?;
        assert_ne!(step.next, Some(cursor), "a step must go on");
        whole.bytes += step.bytes;
        whole.damaged.extend(step.damaged);
        at = step.next;
    }
    Ok(whole)
}

/// A silo with 80 blocks in the index: some written twice, trimmed, or zeroes.
fn scrubbed() -> (FaultyDisk, Silo, Vec<Op>) {
    let (disk, silo) = fresh(1);
    let mut history: Vec<Op> = (1..11).map(|seq| write(seq, seq * 150, 10)).collect();
    history.push(Op { stamp: stamp(1, 11), first: 150, count: 10, kind: Kind::Trim });
    history.push(Op { stamp: stamp(1, 12), first: 300, count: 10, kind: Kind::Zero });
    history.push(write(13, 450, 1));
    for op in &history {
        silo.append(&[op.record()]).unwrap();
    }
    silo.checkpoint().unwrap();
    (disk, silo, history)
}

#[test]
fn a_pass_over_a_whole_silo_reads_all_of_it_and_finds_nothing() {
    let (disk, silo, _) = scrubbed();
    let index = disk.contents("index.redb").unwrap().len() as u64;
    let whole = pass(&silo).unwrap();
    assert_eq!((whole.bytes, whole.damaged), (80 * BLOCK_BYTES + index, Vec::new()));
    assert_eq!(silo.scrub(ScrubCursor::default(), Some(VolumeId([9; 16])), 1 << 20).unwrap().bytes, 0);
}

#[test]
fn damaged_blocks_are_found_until_they_are_repaired() {
    let (disk, silo, history) = scrubbed();
    // The 6th write lies behind five others: its blocks 3 and 9.
    let entry = 16 + 96 + 10 * 8 + 10 * 4096;
    let payload = 64 + 5 * entry + 16 + 96 + 10 * 8;
    assert!(disk.flip_bit("segment-00000001", payload + 3 * 4096 + 7, 1));
    disk.fail_reads("segment-00000001", payload + 9 * 4096..payload + 9 * 4096 + 1);
    let found = pass(&silo).unwrap().damaged;
    assert_eq!(found, [(KEY, 903, stamp(1, 6)), (KEY, 909, stamp(1, 6))]);
    assert!(!silo.is_whole(KEY, 903).unwrap() && silo.is_whole(KEY, 904).unwrap());
    // What is written over is no damage any more; what is repaired neither, even before the next checkpoint.
    silo.append(&[write(14, 909, 1).record()]).unwrap();
    assert_eq!(pass(&silo).unwrap().damaged, [(KEY, 903, stamp(1, 6))]);
    assert_eq!(silo.repair(&history[5].record()).unwrap(), 9);
    assert!(pass(&silo).unwrap().damaged.is_empty());
    silo.checkpoint().unwrap();
    assert!(pass(&silo).unwrap().damaged.is_empty());
    assert!(silo.is_whole(KEY, 903).unwrap());
}

#[test]
fn damage_of_a_version_that_nobody_reads_is_none() {
    let (disk, silo, _) = scrubbed();
    for byte in 64..64 + 3 * (16 + 96 + 10 * 8 + 10 * 4096) {
        // All bytes of the writes that were trimmed or written over with zeroes, every hundredth.
        if byte % 100 == 0 && byte < 64 + 2 * (16 + 96 + 80 + 40_960) {
            disk.flip_bit("segment-00000001", byte, 0);
        }
    }
    assert!(pass(&silo).unwrap().damaged.is_empty());
}

#[test]
fn a_damaged_page_of_a_live_index_takes_the_silo_out_of_service() {
    let (disk, silo, history) = scrubbed();
    pass(&silo).unwrap();
    let pages = disk.contents("index.redb").unwrap().len() as u64 / 4096;
    let damaged = (1..pages).find(|page| {
        disk.flip_bit("index.redb", page * 4096 + 20, 3);
        let found = pass(&silo).is_err();
        disk.flip_bit("index.redb", page * 4096 + 20, 3);
        found
    });
    let fault = silo.faulted().unwrap();
    assert_eq!(fault.operation, Operation::Index);
    assert_eq!(fault.cause, format!("page {} of index.redb does not match its checksum", damaged.unwrap()));
    assert!(matches!(silo.append(&[history[0].record()]), Err(StoreError::Faulted(_))));
    assert!(!silo.takes_writes(0));
}

#[test]
fn how_far_scrubbing_has_come_is_kept_or_begins_anew() {
    let (disk, silo, _) = scrubbed();
    assert_eq!(silo.load_scrub_note(), None);
    let step = silo.scrub(ScrubCursor::default(), None, 4096).unwrap();
    let note = ScrubNote { cursor: step.next, bytes: step.bytes, found: 1 << 40, ..ScrubNote::default() };
    let damaged: Vec<(SlotKey, u64)> = (0..4096).map(|block| (KEY, u64::MAX - block)).collect();
    silo.save_scrub_note(&note, &damaged).unwrap();
    assert_eq!(silo.load_scrub_note(), Some((note, damaged)));
    let shorter = ScrubNote { cursor: None, found: 0, ..note };
    silo.save_scrub_note(&shorter, &[]).unwrap();
    assert_eq!(silo.load_scrub_note(), Some((shorter, Vec::new())));
    // As the first scrubs noted it: without a list.
    let len = disk.contents("scrub").unwrap().len() as u64;
    let file = silo.disk.open("scrub").unwrap();
    let mut row = vec![0; len as usize - 4 - 1];
    file.read_at(&mut row, 4).unwrap();
    file.write_vectored_at(&mut [IoSlice::new(&crc32c::crc32c(&row).to_le_bytes()), IoSlice::new(&row)], 0).unwrap();
    file.set_len(len - 1).unwrap();
    assert_eq!(silo.load_scrub_note(), Some((shorter, Vec::new())));
    disk.flip_bit("scrub", 6, 1);
    assert_eq!(silo.load_scrub_note(), None);
}
