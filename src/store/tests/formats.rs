//! Silos of earlier formats, kept as text: every later version must open them and find exactly what was stored.
//!
//! `tests/data/silo-N.txt` is what a silo of format N left behind when its process was killed: four slots of three
//! volumes, one of which was deleted, written over two lives and many segments, with a snapshot's marker, trims short
//! and long, a checkpoint in the middle, and an incomplete slot. The file holds each file's bytes, and the state and the
//! blocks of each slot that must be found, which come from the history that was written and not from the silo.
//!
//! A line of the text is one of:
//!
//! ```text
//! file NAME BYTES            a file of so many bytes, zeroes unless said otherwise
//! OFFSET HEX                 these bytes stand at this offset of the file
//! OFFSET xCOUNT HEX          this byte stands there so many times
//! slot VOLUME SLOT ADOPTED APPLIED COMMITTED    a slot that must be found, numbers in decimal
//! block NUMBER EPOCH SEQ CRC                    a block that it must have, and no others
//! ```

use std::fmt::Write as _;
use std::io::IoSlice;

use super::*;
use crate::base::id::SnapshotId;
use crate::store::disk::{Disk, RealDisk};
use crate::store::error::StoreError;
use crate::store::slot::Vote;
use crate::store::superblock::{FORMAT_VERSION, SUPERBLOCK_NAME};

const FORMATS: [(u32, &str); 2] =
    [(1, include_str!("../../../tests/data/silo-1.txt")), (2, include_str!("../../../tests/data/silo-2.txt"))];

/// What must be found in one slot.
#[derive(Debug, PartialEq)]
struct Expected {
    key: SlotKey,
    adopted: u64,
    applied: u64,
    committed: u64,
    blocks: BTreeMap<u64, (Stamp, u32)>,
}

fn key(volume: u8, slot: u32) -> SlotKey {
    SlotKey { volume: VolumeId([volume; 16]), slot: SlotIndex(slot) }
}

/// The record of an operation, in any slot.
fn record(key: SlotKey, op: &Op) -> Record {
    let (position, length) = (op.first * BLOCK_BYTES, op.count * BLOCK_BYTES);
    match op.kind {
        Kind::Data => Record::write(key, position, op.stamp, content(op.stamp).repeat(op.count as usize).into()),
        Kind::Zero => Record::zeroes(key, position, length, op.stamp),
        Kind::Trim => Record::trim(key, position, length, op.stamp),
    }
}

fn expected(key: SlotKey, adopted: u64, committed: u64, history: &[Op]) -> Expected {
    let blocks = fold(history).into_iter().map(|(block, (stamp, kind))| {
        let bytes = if kind == Kind::Data { content(stamp) } else { vec![0; BLOCK_BYTES as usize] };
        (block, (stamp, crc32c::crc32c(&bytes)))
    });
    let applied = history.last().map_or(0, |op| op.stamp.seq.0);
    Expected { key, adopted, applied, committed, blocks: blocks.collect() }
}

/// Writes the kept silo's files into a text; each run of 16 equal bytes or more is one line.
fn to_text(files: &[(String, Vec<u8>)], slots: &[Expected]) -> String {
    let mut text = String::new();
    for (name, bytes) in files {
        writeln!(text, "file {name} {}", bytes.len()).unwrap();
        let (mut at, mut literal) = (0, 0);
        while at < bytes.len() {
            let run = bytes[at..].iter().take_while(|byte| **byte == bytes[at]).count();
            if run < 16 && at + run < bytes.len() {
                at += run;
                continue;
            }
            let end = if run < 16 { at + run } else { at };
            for (index, chunk) in bytes[literal..end].chunks(512).enumerate() {
                let hex: String = chunk.iter().map(|byte| format!("{byte:02x}")).collect();
                writeln!(text, "{} {hex}", literal + index * 512).unwrap();
            }
            if run >= 16 && bytes[at] != 0 {
                writeln!(text, "{at} x{run} {:02x}", bytes[at]).unwrap();
            }
            at += run;
            literal = at;
        }
    }
    for slot in slots {
        let Expected { key, adopted, applied, committed, blocks } = slot;
        writeln!(text, "slot {} {} {adopted} {applied} {committed}", key.volume.0[0], key.slot.0).unwrap();
        for (block, (stamp, crc)) in blocks {
            writeln!(text, "block {block} {} {} {crc:08x}", stamp.epoch.0, stamp.seq.0).unwrap();
        }
    }
    text
}

/// The disk that a text describes, and what must be found on it.
fn from_text(text: &str) -> (FaultyDisk, Vec<Expected>) {
    let disk = FaultyDisk::new(1);
    let mut slots: Vec<Expected> = Vec::new();
    let mut file = None;
    let number = |word: &str| word.parse::<u64>().unwrap();
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["file", name, bytes] => {
                let made = disk.create(name).unwrap();
                made.set_len(number(bytes)).unwrap();
                file = Some(made);
            }
            ["slot", volume, slot, adopted, applied, committed] => slots.push(Expected {
                key: key(volume.parse().unwrap(), slot.parse().unwrap()),
                adopted: number(adopted),
                applied: number(applied),
                committed: number(committed),
                blocks: BTreeMap::new(),
            }),
            ["block", block, epoch, seq, crc] => {
                let crc = u32::from_str_radix(crc, 16).unwrap();
                slots.last_mut().unwrap().blocks.insert(number(block), (stamp(number(epoch), number(seq)), crc));
            }
            [at, count, byte] => {
                let bytes = vec![u8::from_str_radix(byte, 16).unwrap(); number(&count[1..]) as usize];
                file.as_ref().unwrap().write_vectored_at(&mut [IoSlice::new(&bytes)], number(at)).unwrap();
            }
            [at, hex] => {
                let bytes = data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap();
                file.as_ref().unwrap().write_vectored_at(&mut [IoSlice::new(&bytes)], number(at)).unwrap();
            }
            _ => panic!("not a line of a kept silo: {line}"),
        }
    }
    (disk, slots)
}

fn small_segments(incarnation: u64) -> SiloOptions {
    SiloOptions { segment_bytes: 64 << 10, ..options(incarnation) }
}

fn assert_found(silo: &Silo, slots: &[Expected], what: &str) {
    assert_eq!(silo.slots().len(), slots.len(), "{what}");
    for slot in slots {
        let state = silo.slot(slot.key).unwrap();
        assert_eq!((state.adopted, state.applied), (Epoch(slot.adopted), Seq(slot.applied)), "{what}: {:?}", slot.key);
        assert_eq!((state.committed, state.incomplete), (Seq(slot.committed), None), "{what}: {:?}", slot.key);
        assert_eq!(silo.digest(slot.key).unwrap(), slot.blocks, "{what}: {:?}", slot.key);
        let run = silo.read(slot.key, 0, BLOCKS as u32).unwrap();
        for (block, bytes) in run.data.chunks(BLOCK_BYTES as usize).enumerate() {
            let zero = vec![0; BLOCK_BYTES as usize];
            let expected = slot.blocks.get(&(block as u64)).map_or(crc32c::crc32c(&zero), |(_, crc)| *crc);
            assert_eq!(crc32c::crc32c(bytes), expected, "{what}: block {block} of {:?}", slot.key);
        }
    }
}

#[test]
fn silos_of_every_earlier_format_hold_exactly_what_was_stored() {
    for (format, text) in FORMATS {
        let (disk, slots) = from_text(text);
        for (life, how) in (10..).zip(["as it was left", "after an unclean stop", "after a clean stop"]) {
            let silo = Silo::open(Arc::new(disk.clone()), small_segments(life)).unwrap();
            let what = format!("format {format}, {how}");
            assert!(silo.findings().is_empty(), "{what}: {:?}", silo.findings());
            assert_eq!(silo.chain()[..2], [Incarnation(1), Incarnation(2)], "{what}");
            assert_found(&silo, &slots, &what);
            // What the old version wrote can be written over, cleaned and trimmed by this one.
            silo.checkpoint().unwrap();
            assert_found(&silo, &slots, &what);
            if life == 11 {
                silo.close().unwrap();
            }
        }
    }
}

#[test]
fn the_newest_format_is_kept() {
    // Whoever raises the format adds what the version before leaves behind, and this is where it is noticed.
    assert_eq!(FORMATS.last().map(|(format, _)| *format), Some(FORMAT_VERSION));
}

#[test]
fn a_silo_of_a_newer_format_is_refused_and_left_alone() {
    let (disk, _) = from_text(FORMATS[0].1);
    let mut raw = disk.contents(SUPERBLOCK_NAME).unwrap();
    raw[8..12].copy_from_slice(&(FORMAT_VERSION + 1).to_le_bytes());
    let crc = crc32c::crc32c(&raw[..508]);
    raw[508..].copy_from_slice(&crc.to_le_bytes());
    disk.open(SUPERBLOCK_NAME).unwrap().write_vectored_at(&mut [IoSlice::new(&raw)], 0).unwrap();
    let before: Vec<_> = disk.list().unwrap().into_iter().map(|name| (disk.contents(&name), name)).collect();
    let refused = Silo::open(Arc::new(disk.clone()), small_segments(10)).err().unwrap();
    assert!(matches!(refused, StoreError::Newer { found, known } if found == known + 1), "{refused}");
    assert!(refused.to_string().contains("newer Infinit"), "{refused}");
    assert!(matches!(Silo::format(Arc::new(disk.clone()), SILO), Err(StoreError::Newer { .. })));
    let after: Vec<_> = disk.list().unwrap().into_iter().map(|name| (disk.contents(&name), name)).collect();
    assert!(before == after, "nothing may be written to it");
}

/// An operation of the kept silo's histories, whose records fit in segments of 64 KiB.
fn small_op(chooser: &mut Chooser, stamp: Stamp) -> Op {
    let (kind, most) = match chooser.below(8) {
        0 => (Kind::Zero, 32),
        1 => (Kind::Trim, 32),
        2 => (Kind::Trim, 700),
        _ => (Kind::Data, 3),
    };
    let count = 1 + chooser.below(most);
    Op { stamp, first: chooser.below(BLOCKS - count), count, kind }
}

fn write(
    silo: &Silo,
    key: SlotKey,
    history: &mut Vec<Op>,
    chooser: &mut Chooser,
    epoch: u64,
    seqs: std::ops::Range<u64>,
) {
    for seq in seqs {
        let op = small_op(chooser, stamp(epoch, seq));
        silo.append(&[record(key, &op)]).unwrap();
        history.push(op);
    }
}

fn adopt(silo: &Silo, key: SlotKey, epoch: u64) {
    let state = SlotState {
        promise: Epoch(epoch),
        adopted: Epoch(epoch),
        peers: vec![(SiloId([9; 16]), Epoch(epoch), Seq(3))],
        ..silo.slot(key).unwrap_or_default()
    };
    silo.commit(&[SlotCommit { key, state, change: Change::Keep }]).unwrap();
}

/// Makes the kept silo of the format that this version writes: run it before the format is raised.
#[test]
#[ignore = "writes tests/data"]
fn keep_a_silo_of_this_format() {
    let folder = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(folder.path()));
    Silo::format(disk.clone(), SILO).unwrap();
    let mut chooser = Chooser::new(2026);
    let keys = [key(1, 0), key(1, 1), key(2, 0), key(3, 0)];
    let mut histories = [const { Vec::new() }; 4];
    let silo = Silo::open(disk.clone(), small_segments(1)).unwrap();
    for (key, history) in keys.iter().zip(&mut histories) {
        adopt(&silo, *key, 1);
        write(&silo, *key, history, &mut chooser, 1, 1..20);
    }
    silo.set_committed(keys[0], Seq(12)).unwrap();
    silo.append(&[Record::marker(keys[1], SnapshotId([7; 16]), stamp(1, 20))]).unwrap();
    silo.checkpoint().unwrap();
    write(&silo, keys[0], &mut histories[0], &mut chooser, 1, 20..30);
    write(&silo, keys[1], &mut histories[1], &mut chooser, 1, 21..30);
    silo.close().unwrap();
    drop(silo);
    let silo = Silo::open(disk.clone(), small_segments(2)).unwrap();
    adopt(&silo, keys[0], 2);
    write(&silo, keys[0], &mut histories[0], &mut chooser, 2, 30..45);
    let forget = SlotCommit { key: keys[3], state: SlotState::default(), change: Change::Forget };
    silo.commit(&[forget]).unwrap();
    silo.checkpoint().unwrap();
    // What an incomplete slot receives beyond its complete prefix is none of its history after a restart.
    let vote = Vote { adopted: Epoch(1), applied: Seq(19) };
    let state = SlotState { promise: Epoch(2), incomplete: Some(vote), ..silo.slot(keys[2]).unwrap() };
    silo.commit(&[SlotCommit { key: keys[2], state, change: Change::Keep }]).unwrap();
    write(&silo, keys[2], &mut Vec::new(), &mut chooser, 2, 60..66);
    write(&silo, keys[0], &mut histories[0], &mut chooser, 2, 45..52);
    write(&silo, keys[1], &mut histories[1], &mut chooser, 1, 30..36);
    silo.sync().unwrap();
    // Copied while it is open: what a process that was killed leaves behind.
    let mut files = Vec::new();
    for name in disk.list().unwrap().into_iter().filter(|name| name != "lock") {
        files.push((name.clone(), std::fs::read(folder.path().join(&name)).unwrap()));
    }
    let committed = [12, 0, 0];
    let slots: Vec<Expected> =
        (0..3).map(|at| expected(keys[at], if at == 0 { 2 } else { 1 }, committed[at], &histories[at])).collect();
    let text = to_text(&files, &slots);
    let (copy, parsed) = from_text(&text);
    assert_eq!(parsed, slots);
    assert!(files.iter().all(|(name, bytes)| copy.contents(name).as_ref() == Some(bytes)));
    std::fs::write(format!("tests/data/silo-{FORMAT_VERSION}.txt"), text).unwrap();
}
