//! Reading the log's tail after a stop: record by record until one is torn or foreign, then over to the segment that
//! continues this one only if this one ended in order.
//!
//! A record that does not match its checksums ends the tail. It was either torn by the crash or has decayed since; the
//! second is certain if a later entry says that the log was durable beyond it, and is then reported as a finding. The
//! other silos know what was acknowledged here (rule 14 of the protocol), so a tail cut short by damage is noticed.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use crate::base::block::BLOCK_BYTES;
use crate::base::id::{Epoch, Incarnation, Seq, SiloId, SlotIndex, SlotKey, Stamp, VolumeId};
use crate::base::record::Record;
use crate::store::disk::{Disk, DiskFile};
use crate::store::error::{Result, StoreError};
use crate::store::position::Position;
use crate::store::segment::{
    BadEntry, Entry, PREFIX_BYTES, SEGMENT_HEADER_BYTES, SegmentHeader, entry_bytes, prefix, read_entry, read_prefix,
    segment_name,
};

/// Bytes read at once; a record may be longer.
const READ_BYTES: usize = 1 << 20;

/// Damage that was noticed in the log: these bytes had been durable and are none of what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The number of the segment.
    pub segment: u32,
    /// Where in the segment the unreadable entry begins.
    pub offset: u32,
    pub why: BadEntry,
}

/// Where the tail ends.
#[derive(Debug)]
pub(crate) struct Tail {
    /// Past the last whole record.
    pub(crate) end: Position,
    /// Whether the last segment exists and is one of this silo's, so that it could be continued.
    pub(crate) continuable: bool,
    pub(crate) finding: Option<Finding>,
}

/// Hands over every record from `from` on, with the place of its entry. `numbers` are the segments there are, in order.
pub(crate) fn replay(
    disk: &Arc<dyn Disk>,
    silo: SiloId,
    from: Position,
    numbers: &[u32],
    mut each: impl FnMut(Position, Record) -> Result<()>,
) -> Result<Tail> {
    let mut at = from;
    loop {
        let Some(segment) = Segment::open(disk, silo, at.segment(), numbers)? else {
            return Ok(Tail { end: at, continuable: false, finding: None });
        };
        match segment.walk(&mut at, &mut each)? {
            None => {}
            Some(why) => {
                let damaged = segment.was_durable(at)?;
                let finding = damaged.then_some(Finding { segment: at.segment(), offset: at.offset(), why });
                return Ok(Tail { end: at, continuable: !damaged, finding });
            }
        }
        // The latest: an earlier one was made ahead in another life and never used.
        let continued = numbers.iter().copied().rev().filter(|number| *number > at.segment());
        let Some(next) = find_continuation(disk, silo, at.segment(), continued)? else {
            // The segment ended in order and the next one was lost with its directory entry, or never used.
            return Ok(Tail { end: at, continuable: false, finding: None });
        };
        at = Position::new(next, SEGMENT_HEADER_BYTES);
    }
}

/// What a fuzzer feeds: the bytes of a segment file of the silo with id 0 and number 1. Returns how many records it
/// found. Whatever the bytes, it ends, does not panic and allocates no more than they are long.
pub fn fuzz_segment(bytes: &[u8]) -> usize {
    let mut records = 0;
    let whole = Bytes::copy_from_slice(bytes);
    let mut at = Position::new(1, 0);
    while let Some(rest) = (at.offset() as usize <= whole.len()).then(|| whole.slice(at.offset() as usize..)) {
        let Entry::Record { bytes, .. } = read_entry(SiloId::default(), at, &rest) else { break };
        records += 1;
        at = Position::new(1, at.offset() + bytes);
    }
    if let Some(raw) = bytes.first_chunk() {
        records += usize::from(SegmentHeader::decode(raw).is_some());
    }
    records
}

/// Inputs for [`fuzz_segment`] that are valid: a segment of two records and its end.
pub fn fuzz_segment_inputs() -> Vec<Vec<u8>> {
    let (silo, durable) = (SiloId::default(), Position::new(1, SEGMENT_HEADER_BYTES));
    let header = SegmentHeader { silo, number: 1, continues: 0, incarnation: Incarnation(5) };
    let mut segment = header.encode().to_vec();
    let key = SlotKey { volume: VolumeId([1; 16]), slot: SlotIndex(0) };
    let stamp = |seq| Stamp::new(Epoch(1), Seq(seq));
    let data = Bytes::from(vec![7; BLOCK_BYTES as usize]);
    for record in [Record::write(key, 0, stamp(1), data), Record::trim(key, 0, BLOCK_BYTES, stamp(2))] {
        // A few kilobytes.
        let at = Position::new(1, segment.len() as u32);
        segment.extend_from_slice(&prefix(silo, at, record.len() as u32, durable));
        segment.extend_from_slice(&record.head);
        segment.extend_from_slice(&record.payload);
        segment.resize(at.offset() as usize + entry_bytes(record.len()) as usize, 0);
    }
    let end = Position::new(1, segment.len() as u32);
    segment.extend_from_slice(&prefix(silo, end, 0, durable));
    vec![segment]
}

fn find_continuation(
    disk: &Arc<dyn Disk>,
    silo: SiloId,
    number: u32,
    candidates: impl Iterator<Item = u32>,
) -> Result<Option<u32>> {
    for candidate in candidates {
        let file = disk.open(&segment_name(candidate)).map_err(StoreError::io("open a segment"))?;
        if read_header(&*file, silo, candidate)?.is_some_and(|header| header.continues == number) {
            return Ok(Some(candidate));
        }
    }
    Ok(None)
}

/// The header of a segment, if it is one of this silo under this number.
fn read_header(file: &dyn DiskFile, silo: SiloId, number: u32) -> Result<Option<SegmentHeader>> {
    let mut raw = [0; SEGMENT_HEADER_BYTES as usize];
    match file.read_at(&mut raw, 0) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other.map_err(StoreError::io("read a segment's header"))?,
    }
    Ok(SegmentHeader::decode(&raw).filter(|header| header.silo == silo && header.number == number))
}

/// One segment being read.
struct Segment {
    file: Arc<dyn DiskFile>,
    silo: SiloId,
    number: u32,
    size: u64,
}

impl Segment {
    fn open(disk: &Arc<dyn Disk>, silo: SiloId, number: u32, numbers: &[u32]) -> Result<Option<Segment>> {
        if !numbers.contains(&number) {
            return Ok(None);
        }
        let file = disk.open(&segment_name(number)).map_err(StoreError::io("open a segment"))?;
        if read_header(&*file, silo, number)?.is_none() {
            return Ok(None);
        }
        let size = file.size().map_err(StoreError::io("size a segment"))?;
        Ok(Some(Segment { file, silo, number, size }))
    }

    /// Hands over the records from `at` on and moves it past them. Returns why it stopped; nothing at an end mark.
    fn walk(
        &self,
        at: &mut Position,
        each: &mut impl FnMut(Position, Record) -> Result<()>,
    ) -> Result<Option<BadEntry>> {
        let mut held = Bytes::new();
        loop {
            match read_entry(self.silo, *at, &held) {
                Entry::Record { record, bytes } => {
                    each(*at, record)?;
                    *at = Position::new(self.number, at.offset() + bytes);
                    held = held.slice(bytes as usize..);
                }
                Entry::End => return Ok(None),
                Entry::Bad(why) => return Ok(Some(why)),
                Entry::Short(needed) => {
                    if u64::from(at.offset()) + needed as u64 > self.size {
                        return Ok(Some(BadEntry::Prefix));
                    }
                    held = self.read(at.offset(), needed.max(READ_BYTES))?;
                }
            }
        }
    }

    /// Whether a later entry of this segment says that the log was durable beyond `bad`.
    fn was_durable(&self, bad: Position) -> Result<bool> {
        let mut offset = bad.offset() + 8;
        while u64::from(offset) + u64::from(PREFIX_BYTES) <= self.size {
            let held = self.read(offset, READ_BYTES)?;
            let steps = (held.len() - PREFIX_BYTES as usize) / 8 + 1;
            for step in 0..steps {
                let at = Position::new(self.number, offset + step as u32 * 8);
                if read_prefix(self.silo, at, &held[step * 8..]).is_some_and(|(_, durable)| durable > bad) {
                    return Ok(true);
                }
            }
            offset += steps as u32 * 8;
        }
        Ok(false)
    }

    /// Up to `len` bytes, fewer at the end of the file.
    fn read(&self, offset: u32, len: usize) -> Result<Bytes> {
        let left = self.size.saturating_sub(u64::from(offset));
        let mut buffer = vec![0; len.min(left as usize)];
        self.file.read_at(&mut buffer, u64::from(offset)).map_err(StoreError::io("read a segment"))?;
        Ok(buffer.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::{Epoch, Incarnation, Seq, SlotIndex, SlotKey, Stamp, VolumeId};
    use crate::store::faulty::FaultyDisk;
    use crate::store::log::Log;
    use crate::store::segment::prefix;
    use proptest::prelude::*;

    const SILO: SiloId = SiloId([3; 16]);

    fn record(seq: u64) -> Record {
        let key = SlotKey { volume: VolumeId([1; 16]), slot: SlotIndex(0) };
        Record::write(key, seq * 4096, Stamp::new(Epoch(1), Seq(seq)), vec![seq as u8; 4096].into())
    }

    fn seqs(disk: &FaultyDisk, numbers: &[u32]) -> (Vec<u64>, Tail) {
        let disk: Arc<dyn Disk> = Arc::new(disk.clone());
        let mut seen = Vec::new();
        let tail = replay(&disk, SILO, Position::new(1, SEGMENT_HEADER_BYTES), numbers, |_, record| {
            seen.push(record.header.stamp.seq.0);
            Ok(())
        });
        (seen, tail.unwrap())
    }

    fn log(disk: &FaultyDisk) -> Log {
        Log::open(Arc::new(disk.clone()), SILO, Incarnation(1), 1 << 16, 1, None).unwrap()
    }

    #[test]
    fn records_are_replayed_over_segments_that_ended_in_order() {
        let disk = FaultyDisk::new(1);
        let log = log(&disk);
        let records: Vec<Record> = (1..40).map(record).collect();
        log.append(&records, u64::MAX).unwrap();
        let (seen, tail) = seqs(&disk, &[1, 2, 3]);
        assert_eq!(seen, (1..40).collect::<Vec<_>>());
        assert_eq!(tail.end, log.end());
        assert_eq!(seqs(&disk, &[1, 3]).0.len(), 15, "a missing segment ends the tail");
    }

    #[test]
    fn damage_is_told_from_a_torn_write() {
        let disk = FaultyDisk::new(1);
        let log = log(&disk);
        log.append(&[record(1), record(2)], u64::MAX).unwrap();
        let second = u64::from(SEGMENT_HEADER_BYTES) + 16 + 104 + 4096;
        disk.flip_bit(&segment_name(1), second + 500, 1);
        let (seen, tail) = seqs(&disk, &[1]);
        assert_eq!((seen, tail.finding), (vec![1], None), "the second record was never durable");
        disk.flip_bit(&segment_name(1), second + 500, 1);
        log.sync().unwrap();
        log.append(&[record(3)], u64::MAX).unwrap();
        disk.flip_bit(&segment_name(1), second + 500, 1);
        let (seen, tail) = seqs(&disk, &[1]);
        assert_eq!(seen, [1]);
        assert_eq!(tail.finding.unwrap().offset, second as u32);
    }

    proptest! {
        #[test]
        fn arbitrary_segments_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), len in any::<u32>()) {
            fuzz_segment(&bytes);
            // The same bytes behind a prefix that is right.
            let mut framed = prefix(SiloId::default(), Position::new(1, 0), len % 500, Position(0)).to_vec();
            framed.extend(&bytes);
            fuzz_segment(&framed);
        }
    }
}
