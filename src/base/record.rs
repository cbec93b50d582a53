//! The record: one header for the wire and the disk, so that a received frame is appended as it came.
//!
//! ```text
//! offset size
//!      0    4  magic "INFR"
//!      4    1  version (1)
//!      5    1  kind: 1 write, 2 trim, 3 marker, 4 chunk
//!      6    2  flags: bit 0 transfer (a version sent for catching up, outside the slot's stream)
//!      8   16  volume
//!     24    4  slot
//!     28    4  table length in bytes
//!     32    8  position in the volume, bytes (a multiple of 4096)
//!     40    8  length covered in the volume, bytes (a multiple of 4096)
//!     48    8  epoch    \ the stamp the record was first written with, for ever
//!     56    8  seq      /
//!     64    4  payload length in bytes, as stored
//!     68    1  compression of each block: 0 none (1 lz4, 2 zstd: reserved)
//!     69    1  sealing of each block: 0 none (1 AES-256-GCM: reserved)
//!     70    2  zero
//!     72    8  id of the sealing key, 0 none
//!     80    4  CRC32C of the table
//!     84    8  zero
//!     92    4  CRC32C of bytes 0..92
//!     96       the table: for each block of a write { stored length u32, CRC32C of the stored bytes u32 };
//!              a stored length of 0 is a block of zeroes. For a marker the 16 bytes of the snapshot's id, for a
//!              chunk one such entry after the 16 bytes of the chunk's id.
//!              then the payload: the stored bytes of the blocks, one after the other
//! ```
//!
//! All numbers are little-endian. Each block has its own checksum, so that one block of a long write is read and
//! verified alone.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

use crate::base::block::{BLOCK_BYTES, FRAME_DATA_MAX};
use crate::base::id::{Epoch, Seq, SlotIndex, SlotKey, SnapshotId, Stamp, VolumeId};

/// Bytes of the header.
pub const HEADER_BYTES: usize = 96;
/// Bytes of one entry of a write's table.
pub const TABLE_ENTRY_BYTES: usize = 8;
/// The longest payload a record may announce: a chunk of 4 MiB and room for its seal.
pub const PAYLOAD_BYTES_MAX: usize = (4 << 20) + 4096;

const MAGIC: [u8; 4] = *b"INFR";
const VERSION: u8 = 1;
const FLAG_TRANSFER: u16 = 1;

/// What a record does to the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecordKind {
    /// Blocks with their bytes.
    Write,
    /// A range that reads as zeroes and holds no space from here on.
    Trim,
    /// A snapshot's place in the slot's stream.
    Marker,
    /// An immutable chunk of an object or a file.
    Chunk,
}

/// The decoded header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub kind: RecordKind,
    /// A version sent for catching up: not part of the slot's ordered stream.
    pub transfer: bool,
    pub volume: VolumeId,
    pub slot: SlotIndex,
    pub position: u64,
    pub length: u64,
    pub stamp: Stamp,
    pub table_len: u32,
    pub payload_len: u32,
    table_crc: u32,
}

impl Header {
    pub fn key(&self) -> SlotKey {
        SlotKey { volume: self.volume, slot: self.slot }
    }

    /// The bytes of the whole record.
    pub fn record_len(&self) -> usize {
        HEADER_BYTES + self.table_len as usize + self.payload_len as usize
    }

    pub fn first_block(&self) -> u64 {
        self.position / BLOCK_BYTES
    }

    pub fn block_count(&self) -> u64 {
        self.length / BLOCK_BYTES
    }

    /// Decodes the first [`HEADER_BYTES`] of `bytes` and checks everything that the header alone can tell.
    pub fn decode(bytes: &[u8]) -> Result<Header, RecordError> {
        let Some(raw) = bytes.first_chunk::<HEADER_BYTES>() else { return Err(RecordError::Short) };
        if raw[..4] != MAGIC {
            return Err(RecordError::Magic);
        }
        if crc32c::crc32c(&raw[..92]) != u32_at(raw, 92) {
            return Err(RecordError::HeaderChecksum);
        }
        if raw[4] != VERSION {
            return Err(RecordError::Version(raw[4]));
        }
        let kind = match raw[5] {
            1 => RecordKind::Write,
            2 => RecordKind::Trim,
            3 => RecordKind::Marker,
            4 => RecordKind::Chunk,
            other => return Err(RecordError::Kind(other)),
        };
        if raw[68] != 0 || raw[69] != 0 {
            return Err(RecordError::Coding { compression: raw[68], sealing: raw[69] });
        }
        let header = Header {
            kind,
            transfer: u16::from_le_bytes([raw[6], raw[7]]) & FLAG_TRANSFER != 0,
            volume: VolumeId(array_at(raw, 8)),
            slot: SlotIndex(u32_at(raw, 24)),
            table_len: u32_at(raw, 28),
            position: u64_at(raw, 32),
            length: u64_at(raw, 40),
            stamp: Stamp::new(Epoch(u64_at(raw, 48)), Seq(u64_at(raw, 56))),
            payload_len: u32_at(raw, 64),
            table_crc: u32_at(raw, 80),
        };
        header.check_shape().map(|()| header)
    }

    fn check_shape(&self) -> Result<(), RecordError> {
        let aligned = self.position.is_multiple_of(BLOCK_BYTES) && self.length.is_multiple_of(BLOCK_BYTES);
        let fits = self.position.checked_add(self.length).is_some() && self.payload_len as usize <= PAYLOAD_BYTES_MAX;
        let shaped = match self.kind {
            RecordKind::Write => {
                self.length > 0
                    && self.length <= FRAME_DATA_MAX as u64
                    && u64::from(self.table_len) == self.block_count() * TABLE_ENTRY_BYTES as u64
            }
            RecordKind::Trim => self.length > 0 && self.table_len == 0 && self.payload_len == 0,
            RecordKind::Marker => self.table_len == 16 && self.payload_len == 0,
            RecordKind::Chunk => self.table_len == 16 + TABLE_ENTRY_BYTES as u32,
        };
        if aligned && fits && shaped { Ok(()) } else { Err(RecordError::Shape) }
    }

    fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut raw = [0; HEADER_BYTES];
        raw[..4].copy_from_slice(&MAGIC);
        raw[4] = VERSION;
        raw[5] = match self.kind {
            RecordKind::Write => 1,
            RecordKind::Trim => 2,
            RecordKind::Marker => 3,
            RecordKind::Chunk => 4,
        };
        raw[6..8].copy_from_slice(&(if self.transfer { FLAG_TRANSFER } else { 0 }).to_le_bytes());
        raw[8..24].copy_from_slice(&self.volume.0);
        raw[24..28].copy_from_slice(&self.slot.0.to_le_bytes());
        raw[28..32].copy_from_slice(&self.table_len.to_le_bytes());
        raw[32..40].copy_from_slice(&self.position.to_le_bytes());
        raw[40..48].copy_from_slice(&self.length.to_le_bytes());
        raw[48..56].copy_from_slice(&self.stamp.epoch.0.to_le_bytes());
        raw[56..64].copy_from_slice(&self.stamp.seq.0.to_le_bytes());
        raw[64..68].copy_from_slice(&self.payload_len.to_le_bytes());
        raw[80..84].copy_from_slice(&self.table_crc.to_le_bytes());
        let crc = crc32c::crc32c(&raw[..92]);
        raw[92..].copy_from_slice(&crc.to_le_bytes());
        raw
    }
}

/// One block's entry of a write's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableEntry {
    /// Bytes as stored; 0 is a block of zeroes.
    pub stored_len: u32,
    pub crc: u32,
}

/// A record ready to be sent or appended: the encoded header and table, and the payload beside them, uncopied.
#[derive(Clone)]
pub struct Record {
    pub header: Header,
    /// The encoded header and table.
    pub head: Bytes,
    pub payload: Bytes,
    /// The blocks match their checksums: these were made from them, or compared with them.
    verified: bool,
}

impl PartialEq for Record {
    fn eq(&self, other: &Self) -> bool {
        (&self.header, &self.head, &self.payload) == (&other.header, &other.head, &other.payload)
    }
}

impl Eq for Record {}

impl Record {
    /// A write of whole blocks, at most [`FRAME_DATA_MAX`] bytes.
    ///
    /// # Panics
    /// If position or data are not whole blocks, or the data is empty or too long: the caller splits and aligns.
    pub fn write(key: SlotKey, position: u64, stamp: Stamp, data: Bytes) -> Record {
        let mut table = BytesMut::with_capacity(data.len() / BLOCK_BYTES as usize * TABLE_ENTRY_BYTES);
        for block in data.chunks_exact(BLOCK_BYTES as usize) {
            table.put_u32_le(block.len() as u32);
            table.put_u32_le(crc32c::crc32c(block));
        }
        Self::build(RecordKind::Write, key, position, data.len() as u64, stamp, &table, data)
    }

    /// A write of zeroes that keeps the range allocated: no bytes are sent or stored.
    pub fn zeroes(key: SlotKey, position: u64, length: u64, stamp: Stamp) -> Record {
        let table = vec![0; (length / BLOCK_BYTES) as usize * TABLE_ENTRY_BYTES];
        Self::build(RecordKind::Write, key, position, length, stamp, &table, Bytes::new())
    }

    /// A range that reads as zeroes and holds no space.
    pub fn trim(key: SlotKey, position: u64, length: u64, stamp: Stamp) -> Record {
        Self::build(RecordKind::Trim, key, position, length, stamp, &[], Bytes::new())
    }

    /// A snapshot's place in the slot's stream.
    pub fn marker(key: SlotKey, snapshot: SnapshotId, stamp: Stamp) -> Record {
        Self::build(RecordKind::Marker, key, 0, 0, stamp, &snapshot.0, Bytes::new())
    }

    fn build(
        kind: RecordKind,
        key: SlotKey,
        position: u64,
        length: u64,
        stamp: Stamp,
        table: &[u8],
        payload: Bytes,
    ) -> Record {
        let header = Header {
            kind,
            transfer: false,
            volume: key.volume,
            slot: key.slot,
            position,
            length,
            stamp,
            table_len: table.len() as u32,
            payload_len: payload.len() as u32,
            table_crc: crc32c::crc32c(table),
        };
        assert!(header.check_shape().is_ok(), "a record must be made of whole blocks: {header:?}");
        let mut head = BytesMut::with_capacity(HEADER_BYTES + table.len());
        head.put_slice(&header.encode());
        head.put_slice(table);
        Record { header, head: head.freeze(), payload, verified: true }
    }

    /// The same record marked as sent for catching up.
    pub fn into_transfer(mut self) -> Record {
        self.header.transfer = true;
        let mut head = BytesMut::from(&self.head[..]);
        head[..HEADER_BYTES].copy_from_slice(&self.header.encode());
        self.head = head.freeze();
        self
    }

    /// Takes the record at the front of `bytes` without copying it, its header and table verified.
    /// The payload is verified by [`Record::verify`]. What follows the record is left in `bytes`.
    pub fn decode(bytes: &mut Bytes) -> Result<Record, RecordError> {
        let header = Header::decode(bytes)?;
        if bytes.len() < header.record_len() {
            return Err(RecordError::Short);
        }
        let head_len = HEADER_BYTES + header.table_len as usize;
        if crc32c::crc32c(&bytes[HEADER_BYTES..head_len]) != header.table_crc {
            return Err(RecordError::TableChecksum);
        }
        let stored: u64 = table_entries(&header, &bytes[HEADER_BYTES..head_len]).map(|e| u64::from(e.stored_len)).sum();
        let unpacked = header.kind == RecordKind::Write
            && table_entries(&header, &bytes[HEADER_BYTES..head_len])
                .any(|e| e.stored_len != 0 && u64::from(e.stored_len) != BLOCK_BYTES);
        if stored != u64::from(header.payload_len) || unpacked {
            return Err(RecordError::Shape);
        }
        let head = bytes.split_to(head_len);
        let payload = bytes.split_to(header.payload_len as usize);
        Ok(Record { header, head, payload, verified: false })
    }

    /// Checks every stored block against its checksum, and remembers that it was done.
    pub fn verified(mut self) -> Result<Record, RecordError> {
        self.verify()?;
        self.verified = true;
        Ok(self)
    }

    /// Checks every stored block against its checksum, unless that was done when the record came to be.
    pub fn verify(&self) -> Result<(), RecordError> {
        if self.verified {
            return Ok(());
        }
        let mut start = 0;
        for (index, entry) in self.table().enumerate() {
            let end = start + entry.stored_len as usize;
            let stored = self.payload.get(start..end).ok_or(RecordError::Shape)?;
            if entry.stored_len != 0 && crc32c::crc32c(stored) != entry.crc {
                return Err(RecordError::BlockChecksum(index as u32));
            }
            start = end;
        }
        Ok(())
    }

    /// The entries of the table, one a block of a write.
    pub fn table(&self) -> impl Iterator<Item = TableEntry> + '_ {
        table_entries(&self.header, &self.head[HEADER_BYTES..])
    }

    /// The snapshot of a marker.
    pub fn snapshot(&self) -> Option<SnapshotId> {
        (self.header.kind == RecordKind::Marker).then(|| SnapshotId(array_at(&self.head, HEADER_BYTES)))
    }

    /// The bytes of the whole record.
    pub fn len(&self) -> usize {
        self.head.len() + self.payload.len()
    }

    pub fn is_empty(&self) -> bool {
        false
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let h = &self.header;
        write!(f, "{:?} {:?} at {}+{}", h.kind, h.stamp, h.position, h.length)
    }
}

/// The checksum entries of a table, without the id before those of a chunk.
pub fn table_entries<'a>(header: &Header, table: &'a [u8]) -> impl Iterator<Item = TableEntry> + 'a {
    let entries = match header.kind {
        RecordKind::Write => table,
        RecordKind::Chunk => table.get(16..).unwrap_or_default(),
        RecordKind::Trim | RecordKind::Marker => &[],
    };
    entries.chunks_exact(TABLE_ENTRY_BYTES).map(|e| TableEntry { stored_len: u32_at(e, 0), crc: u32_at(e, 4) })
}

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordError {
    /// Fewer bytes than the record needs.
    Short,
    /// Not a record at all.
    Magic,
    HeaderChecksum,
    TableChecksum,
    /// The checksum of the block with this index in the record does not match.
    BlockChecksum(u32),
    /// Written by a newer Infinit.
    Version(u8),
    Kind(u8),
    /// A compression or sealing that this version does not know.
    Coding {
        compression: u8,
        sealing: u8,
    },
    /// Lengths that contradict one another.
    Shape,
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecordError::Short => f.write_str("the record is cut short"),
            RecordError::Magic => f.write_str("there is no record here"),
            RecordError::HeaderChecksum => f.write_str("the record's header does not match its checksum"),
            RecordError::TableChecksum => f.write_str("the record's table does not match its checksum"),
            RecordError::BlockChecksum(index) => write!(f, "block {index} of the record does not match its checksum"),
            RecordError::Version(version) => write!(f, "the record has version {version}, newer than this Infinit"),
            RecordError::Kind(kind) => write!(f, "the record is of unknown kind {kind}"),
            RecordError::Coding { compression, sealing } => {
                write!(f, "the record is compressed ({compression}) or sealed ({sealing}) in an unknown way")
            }
            RecordError::Shape => f.write_str("the record's lengths contradict one another"),
        }
    }
}

impl std::error::Error for RecordError {}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: SlotKey = SlotKey { volume: VolumeId([7; 16]), slot: SlotIndex(3) };
    const STAMP: Stamp = Stamp { epoch: Epoch(5), seq: Seq(99) };

    fn bytes_of(record: &Record) -> Bytes {
        [&record.head[..], &record.payload[..]].concat().into()
    }

    #[test]
    fn a_record_reads_back_and_leaves_what_follows() {
        let write = Record::write(KEY, 8192, STAMP, Bytes::from(vec![3; 8192]));
        let trim = Record::trim(KEY, 0, 1 << 40, STAMP);
        let marker = Record::marker(KEY, SnapshotId([9; 16]), STAMP);
        let zeroes = Record::zeroes(KEY, 4096, 8192, STAMP).into_transfer();
        let all = [write, trim, marker, zeroes];
        let mut bytes: Bytes = all.iter().map(bytes_of).collect::<Vec<_>>().concat().into();
        for record in &all {
            let read = Record::decode(&mut bytes).unwrap();
            assert_eq!(&read, record);
            read.verify().unwrap();
        }
        assert!(bytes.is_empty());
        assert_eq!(all[2].snapshot(), Some(SnapshotId([9; 16])));
        assert!(all[3].header.transfer);
    }

    #[test]
    fn any_flipped_bit_is_noticed() {
        let whole = bytes_of(&Record::write(KEY, 0, STAMP, Bytes::from(vec![0x5a; 4096])));
        for bit in 0..whole.len() * 8 {
            let mut damaged = whole.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let read = Record::decode(&mut damaged.into()).and_then(|record| record.verify());
            assert!(read.is_err(), "bit {bit} went unnoticed");
        }
    }

    #[test]
    fn a_cut_record_is_short() {
        let whole = bytes_of(&Record::write(KEY, 0, STAMP, Bytes::from(vec![1; 4096])));
        for len in [0, 1, 95, 96, 103, 104, whole.len() - 1] {
            assert_eq!(Record::decode(&mut whole.slice(..len)), Err(RecordError::Short));
        }
    }
}
