//! The format of a segment, the append-only file that is both the log and the place of all block data.
//!
//! ```text
//! offset size
//!      0    8  magic "INFSEG\0\1": the last byte is the version
//!      8   16  silo
//!     24    4  number of this segment
//!     28    4  number of the segment that this one continues; 0 if it begins anew, after an unclean stop
//!     32    8  incarnation that created it
//!     40   20  zero
//!     60    4  CRC32C of bytes 0..60
//!     64       entries, each at a multiple of 8
//! ```
//!
//! An entry is a prefix, then a record as of `base/record.rs`, padded with zeroes to a multiple of 8:
//!
//! ```text
//! offset size
//!      0    4  CRC32C of bytes 4..16, the silo, the segment's number and the entry's offset
//!      4    4  length of the record in bytes; 0 marks the end of a segment that another one continues
//!      8    8  up to where the log was durable when this was written (segment << 32 | offset)
//! ```
//!
//! The checksum binds an entry to its place, so that bytes of another silo, another segment or an earlier use of the
//! disk are never taken for a record. The durable position tells a torn write from damage: whatever lies before the
//! position that a later entry names was on the disk once.
//!
//! A segment is allocated and synced, its directory too, before anything is written to it, and never written again once
//! another continues it. Chunks, compressed and sealed blocks need no change here: the record's header names them.

use std::fmt;

use bytes::Bytes;

use crate::base::id::{Incarnation, SiloId};
use crate::base::record::{HEADER_BYTES, Header, PAYLOAD_BYTES_MAX, Record, RecordError};
use crate::store::position::Position;

/// Bytes before the first entry.
pub(crate) const SEGMENT_HEADER_BYTES: u32 = 64;
/// Bytes before each record, and of an end mark.
pub(crate) const PREFIX_BYTES: u32 = 16;

const MAGIC: [u8; 7] = *b"INFSEG\0";
const VERSION: u8 = 1;
const ALIGNMENT: u32 = 8;
/// The longest record: a trim's table is empty, a write's and a chunk's are a few hundred bytes.
const RECORD_BYTES_MAX: u32 = PAYLOAD_BYTES_MAX as u32 + 65_536;

/// What a segment says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) silo: SiloId,
    pub(crate) number: u32,
    pub(crate) continues: u32,
    pub(crate) incarnation: Incarnation,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES as usize] {
        let mut raw = [0; SEGMENT_HEADER_BYTES as usize];
        raw[..7].copy_from_slice(&MAGIC);
        raw[7] = VERSION;
        raw[8..24].copy_from_slice(&self.silo.0);
        raw[24..28].copy_from_slice(&self.number.to_le_bytes());
        raw[28..32].copy_from_slice(&self.continues.to_le_bytes());
        raw[32..40].copy_from_slice(&self.incarnation.0.to_le_bytes());
        let crc = crc32c::crc32c(&raw[..60]);
        raw[60..].copy_from_slice(&crc.to_le_bytes());
        raw
    }

    /// `None` if this is no segment of a version known here.
    pub(crate) fn decode(raw: &[u8; SEGMENT_HEADER_BYTES as usize]) -> Option<Self> {
        let whole = raw[..7] == MAGIC && raw[7] == VERSION && crc32c::crc32c(&raw[..60]) == le_u32(raw, 60);
        let mut silo = SiloId::default();
        silo.0.copy_from_slice(&raw[8..24]);
        whole.then(|| Self {
            silo,
            number: le_u32(raw, 24),
            continues: le_u32(raw, 28),
            incarnation: Incarnation(le_u64(raw, 32)),
        })
    }
}

/// The name of a segment's file.
pub(crate) fn segment_name(number: u32) -> String {
    format!("segment-{number:08x}")
}

/// The number in a segment's name.
pub(crate) fn segment_number(name: &str) -> Option<u32> {
    let digits = name.strip_prefix("segment-")?;
    let number = u32::from_str_radix(digits, 16).ok()?;
    (segment_name(number) == name).then_some(number)
}

/// Bytes that a record of this length takes in a segment.
pub(crate) const fn entry_bytes(record_len: usize) -> u32 {
    PREFIX_BYTES + (record_len as u32).next_multiple_of(ALIGNMENT)
}

/// The prefix of a record of this length, or with 0 the end mark, at a place of a silo's log.
pub(crate) fn prefix(silo: SiloId, at: Position, record_len: u32, durable: Position) -> [u8; PREFIX_BYTES as usize] {
    let mut raw = [0; PREFIX_BYTES as usize];
    raw[4..8].copy_from_slice(&record_len.to_le_bytes());
    raw[8..].copy_from_slice(&durable.0.to_le_bytes());
    let crc = prefix_crc(silo, at, &raw);
    raw[..4].copy_from_slice(&crc.to_le_bytes());
    raw
}

fn prefix_crc(silo: SiloId, at: Position, raw: &[u8; PREFIX_BYTES as usize]) -> u32 {
    let mut bound = [0; 36];
    bound[..12].copy_from_slice(&raw[4..]);
    bound[12..28].copy_from_slice(&silo.0);
    bound[28..].copy_from_slice(&at.0.to_le_bytes());
    crc32c::crc32c(&bound)
}

/// What stands at a place of a segment.
#[derive(Debug)]
pub(crate) enum Entry {
    /// A whole record, its checksums verified, and the bytes of its entry.
    Record { record: Record, bytes: u32 },
    /// The segment ends here in order; another may continue it.
    End,
    /// At least so many bytes are needed to tell.
    Short(usize),
    /// Nothing that was written here.
    Bad(BadEntry),
}

/// Why there is no record at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadEntry {
    /// The prefix does not match this place.
    Prefix,
    /// The record is none.
    Record(RecordError),
    /// The disk does not give the bytes.
    Unreadable,
}

impl fmt::Display for BadEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadEntry::Prefix => f.write_str("nothing was written here"),
            BadEntry::Record(error) => error.fmt(f),
            BadEntry::Unreadable => f.write_str("the disk cannot read it"),
        }
    }
}

/// Reads the entry at the front of `bytes`, which stands at `at` in the log.
pub(crate) fn read_entry(silo: SiloId, at: Position, bytes: &Bytes) -> Entry {
    let Some((record_len, _)) = read_prefix(silo, at, bytes) else {
        return if bytes.len() < PREFIX_BYTES as usize {
            Entry::Short(PREFIX_BYTES as usize)
        } else {
            Entry::Bad(BadEntry::Prefix)
        };
    };
    if record_len == 0 {
        return Entry::End;
    }
    if !(HEADER_BYTES as u32..=RECORD_BYTES_MAX).contains(&record_len) {
        return Entry::Bad(BadEntry::Prefix);
    }
    let whole = entry_bytes(record_len as usize) as usize;
    if bytes.len() < whole {
        return Entry::Short(whole);
    }
    let mut content = bytes.slice(PREFIX_BYTES as usize..PREFIX_BYTES as usize + record_len as usize);
    let read = Record::decode(&mut content).and_then(|record| record.verify().map(|()| record));
    match read {
        Ok(record) if content.is_empty() => Entry::Record { record, bytes: whole as u32 },
        Ok(_) => Entry::Bad(BadEntry::Record(RecordError::Shape)),
        Err(error) => Entry::Bad(BadEntry::Record(error)),
    }
}

/// The record's length and the durable position that the prefix names, if it was written for this place.
pub(crate) fn read_prefix(silo: SiloId, at: Position, bytes: &[u8]) -> Option<(u32, Position)> {
    let raw = bytes.first_chunk::<{ PREFIX_BYTES as usize }>()?;
    (prefix_crc(silo, at, raw) == le_u32(raw, 0)).then(|| (le_u32(raw, 4), Position(le_u64(raw, 8))))
}

/// Where the stored bytes of a record begin, in an entry at this place.
pub(crate) fn payload_offset(at: Position, header: &Header) -> u32 {
    at.offset() + PREFIX_BYTES + HEADER_BYTES as u32 + header.table_len
}

fn le_u32(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

fn le_u64(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::{Epoch, Seq, SlotIndex, SlotKey, Stamp, VolumeId};

    const SILO: SiloId = SiloId([4; 16]);
    const AT: Position = Position(7 << 32 | 128);

    fn entry() -> Vec<u8> {
        let key = SlotKey { volume: VolumeId([1; 16]), slot: SlotIndex(0) };
        let record = Record::write(key, 0, Stamp::new(Epoch(1), Seq(2)), Bytes::from(vec![9; 4096]));
        let mut bytes = prefix(SILO, AT, record.len() as u32, Position(3)).to_vec();
        bytes.extend_from_slice(&record.head);
        bytes.extend_from_slice(&record.payload);
        bytes
    }

    #[test]
    fn an_entry_is_bound_to_its_place() {
        let bytes = Bytes::from(entry());
        let Entry::Record { record, bytes: taken } = read_entry(SILO, AT, &bytes) else { panic!("no record") };
        assert_eq!((taken as usize, record.header.stamp.seq), (bytes.len(), Seq(2)));
        assert_eq!(read_prefix(SILO, AT, &bytes).unwrap().1, Position(3));
        for (silo, at) in [(SiloId([5; 16]), AT), (SILO, Position(AT.0 + 8)), (SILO, Position(8 << 32 | 128))] {
            assert!(matches!(read_entry(silo, at, &bytes), Entry::Bad(BadEntry::Prefix)));
        }
        let end = Bytes::copy_from_slice(&prefix(SILO, AT, 0, Position(3)));
        assert!(matches!(read_entry(SILO, AT, &end), Entry::End));
    }

    #[test]
    fn no_flipped_bit_or_cut_passes() {
        let whole = entry();
        for bit in 0..whole.len() * 8 {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(!matches!(read_entry(SILO, AT, &damaged.into()), Entry::Record { .. }), "bit {bit}");
        }
        for len in [0, 15, 16, 100, whole.len() - 1] {
            let Entry::Short(needed) = read_entry(SILO, AT, &whole[..len].to_vec().into()) else { panic!("{len}") };
            assert!(needed > len && needed <= whole.len());
        }
    }

    #[test]
    fn headers_and_names_read_back() {
        let header = SegmentHeader { silo: SILO, number: 9, continues: 8, incarnation: Incarnation(77) };
        assert_eq!(SegmentHeader::decode(&header.encode()), Some(header));
        let mut damaged = header.encode();
        damaged[25] ^= 1;
        assert_eq!(SegmentHeader::decode(&damaged), None);
        assert_eq!(segment_number(&segment_name(0x12ab)), Some(0x12ab));
        assert_eq!(segment_number("segment-12ab"), None);
    }
}
