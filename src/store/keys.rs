//! Every table of the index, its keys and its values.
//!
//! | table | key | value | why so |
//! |---|---|---|---|
//! | `silo` | 0 | version byte, postcard [`SiloRow`] | one row, replaced at opening, checkpoint and confirmation |
//! | `slots` | volume, slot | version byte, postcard [`SlotRow`] | found by name; gives the slot its short number |
//! | `blocks` | number u32, group u64 | packed runs of versions ([`pack`]) | one slot's blocks lie side by side in order |
//! | `extents` | number u32, page u64 | 256 × u64 | a checkpoint rewrites the changed pages only |
//! | `trims` | number u32, epoch, seq, first block | end block u64 | pending long trims, oldest first |
//! | `markers` | number u32, epoch, seq | snapshot | live snapshot markers, oldest first |
//! | `forgotten` | number u32 | nothing | numbers whose rows are still being removed, piece by piece |
//! | `segments` | segment u32 | count u32, CRC32C u32 | blocks that `blocks` has in each segment: what cleaning goes by |
//!
//! Numbers in keys are big-endian, so that redb's byte order is their order; in values they are little-endian. A slot's
//! number is 4 bytes instead of its name's 20 and is never used again, so that forgetting a volume is one small
//! transaction and the rest is removed later.
//!
//! # The packed group
//!
//! A value of `blocks` holds all versions of 64 neighbouring blocks:
//!
//! ```text
//! offset size
//!      0    1  version (1)
//!             then runs of blocks with one stamp, side by side in one segment:
//!      0    1  low 6 bits: first block in the group; high 2 bits: 0 data, 1 zero, 2 hole (3 coded data: reserved)
//!      1    1  number of blocks less one
//!      2    6  epoch (below 2^48)
//!      8    8  seq
//!     16    4  segment                          \
//!     20    4  offset of the first stored byte   > data only
//!     24   4n  CRC32C of each block             /
//! ```
//!
//! 64 was chosen by measurement, redb 4.5 with 64 MiB of cache, quick repair, two cores. Loading 8 million blocks
//! (30 GiB of data) written in runs of 32 took 1.2 s at 64 a value, 1.8 s at 32, 9.9 s at one; then random single
//! updates, 32,768 a commit, ran at 91,000, 67,000 and 23,000 a second. When every block is a run of its own, 16 to 128
//! a value differ little (25,000 to 43,000 updates a second) and the file takes 40 to 80 bytes a block.

use redb::TableDefinition;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::base::block::BLOCK_BYTES;
use crate::base::id::{Epoch, Incarnation, Seq, SiloId, SlotIndex, SlotKey, SnapshotId, Stamp, VolumeId};
use crate::store::error::{Damage, Result, StoreError};
use crate::store::position::Position;
use crate::store::slot::SlotState;
use crate::store::version::{Place, Version};

pub(crate) const SILO: TableDefinition<u8, &[u8]> = TableDefinition::new("silo");
pub(crate) const SLOTS: TableDefinition<&[u8; 20], &[u8]> = TableDefinition::new("slots");
pub(crate) const BLOCKS: TableDefinition<&[u8; 12], &[u8]> = TableDefinition::new("blocks");
pub(crate) const EXTENTS: TableDefinition<&[u8; 12], &[u8]> = TableDefinition::new("extents");
pub(crate) const TRIMS: TableDefinition<&[u8; 28], u64> = TableDefinition::new("trims");
pub(crate) const MARKERS: TableDefinition<&[u8; 20], &[u8; 16]> = TableDefinition::new("markers");
pub(crate) const FORGOTTEN: TableDefinition<u32, ()> = TableDefinition::new("forgotten");
pub(crate) const SEGMENTS: TableDefinition<u32, u64> = TableDefinition::new("segments");

/// The only key of the table `silo`.
pub(crate) const SILO_KEY: u8 = 0;
/// Blocks of one value of `blocks`.
pub(crate) const GROUP_BLOCKS: u64 = 64;
/// Epochs are stored in six bytes.
pub(crate) const EPOCH_MAX: u64 = (1 << 48) - 1;

const ROW_VERSION: u8 = 1;
const RUN_HEAD_BYTES: usize = 16;

/// What the silo as a whole remembers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SiloRow {
    pub(crate) id: SiloId,
    /// Stopped in order: nothing lies in the log past the checkpoint, and all of it is durable.
    pub(crate) clean: bool,
    /// The index holds everything that was appended before this place.
    pub(crate) checkpoint: Position,
    /// The incarnations since the last one that the cluster state confirmed, that one first.
    pub(crate) chain: Vec<Incarnation>,
    /// The number that the next new slot gets.
    pub(crate) next_slot: u32,
}

/// What the index remembers of a slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SlotRow {
    pub(crate) number: u32,
    /// Records of this slot before this place are in the index, or belong to no history any more.
    pub(crate) position: Position,
    /// The watermark stands still until it can pass this: see [`crate::store::history`].
    pub(crate) settles: Seq,
    /// `applied` is as of where replay begins for this slot, not later: replay raises it.
    pub(crate) state: SlotState,
}

/// The bytes of a row: a version, then its fields.
pub(crate) fn encode_row<T: Serialize>(row: &T) -> Vec<u8> {
    let mut bytes = vec![ROW_VERSION];
    // Rows are plain structs of numbers and lists, which postcard always encodes.
    bytes.extend(postcard::to_stdvec(row).expect("a row of numbers and lists can be encoded"));
    bytes
}

/// Reads a row; `kind` names it if it is damaged.
pub(crate) fn decode_row<T: DeserializeOwned>(kind: &'static str, bytes: &[u8]) -> Result<T> {
    let damaged = StoreError::Damaged(Damage::IndexRow(kind));
    match bytes.split_first() {
        Some((&ROW_VERSION, row)) => postcard::from_bytes(row).map_err(|_| damaged),
        Some((&newer, _)) if newer > ROW_VERSION => {
            Err(StoreError::Newer { found: newer.into(), known: ROW_VERSION.into() })
        }
        _ => Err(damaged),
    }
}

pub(crate) fn slot_key(key: SlotKey) -> [u8; 20] {
    let mut raw = [0; 20];
    raw[..16].copy_from_slice(&key.volume.0);
    raw[16..].copy_from_slice(&key.slot.0.to_be_bytes());
    raw
}

pub(crate) fn slot_of_key(raw: &[u8; 20]) -> SlotKey {
    let [volume @ .., a, b, c, d] = *raw;
    SlotKey { volume: VolumeId(volume), slot: SlotIndex(u32::from_be_bytes([a, b, c, d])) }
}

/// The key of a group in `blocks` or of a page in `extents`.
pub(crate) fn place_key(number: u32, place: u64) -> [u8; 12] {
    let mut raw = [0; 12];
    raw[..4].copy_from_slice(&number.to_be_bytes());
    raw[4..].copy_from_slice(&place.to_be_bytes());
    raw
}

/// The group or page of a key.
pub(crate) fn place_of_key(raw: &[u8; 12]) -> u64 {
    let [_, _, _, _, place @ ..] = *raw;
    u64::from_be_bytes(place)
}

pub(crate) fn marker_key(number: u32, stamp: Stamp) -> [u8; 20] {
    let mut raw = [0; 20];
    raw[..4].copy_from_slice(&number.to_be_bytes());
    raw[4..12].copy_from_slice(&stamp.epoch.0.to_be_bytes());
    raw[12..].copy_from_slice(&stamp.seq.0.to_be_bytes());
    raw
}

pub(crate) fn trim_key(number: u32, stamp: Stamp, first: u64) -> [u8; 28] {
    let mut raw = [0; 28];
    raw[..20].copy_from_slice(&marker_key(number, stamp));
    raw[20..].copy_from_slice(&first.to_be_bytes());
    raw
}

/// The lowest key of a slot number (`rest` 0), or the highest (0xff).
pub(crate) fn edge_key<const N: usize>(number: u32, rest: u8) -> [u8; N] {
    let mut raw = [rest; N];
    raw[..4].copy_from_slice(&number.to_be_bytes());
    raw
}

/// The stamp in a key of `trims` or `markers`.
pub(crate) fn stamp_of_key(raw: &[u8]) -> Stamp {
    Stamp::new(Epoch(be_u64(raw, 4)), Seq(be_u64(raw, 12)))
}

/// The first block in a key of `trims`.
pub(crate) fn first_of_trim_key(raw: &[u8; 28]) -> u64 {
    be_u64(raw, 20)
}

pub(crate) fn snapshot(raw: &[u8; 16]) -> SnapshotId {
    SnapshotId(*raw)
}

fn be_u64(raw: &[u8], at: usize) -> u64 {
    raw[at..at + 8].iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// A version of one block of a group: the block's index in the group first.
pub(crate) type Entry = (u8, Version);

/// Packs a group's versions, which must be in order of block, then of stamp.
pub(crate) fn pack(entries: &[Entry]) -> Vec<u8> {
    // Of each run the first and the last entry, and of each entry the next one of its run: few allocations, many groups.
    let mut runs: Vec<(usize, usize, u8)> = Vec::with_capacity(entries.len());
    let mut next = vec![usize::MAX; entries.len()];
    for (at, entry) in entries.iter().enumerate() {
        // A block's older versions interleave with its neighbours' newer ones: look back a few runs for one to extend.
        let fitting = runs.iter_mut().rev().take(8).find(|(_, last, _)| continues(&entries[*last], entry));
        match fitting {
            Some((_, last, more)) => {
                next[*last] = at;
                (*last, *more) = (at, *more + 1);
            }
            None => runs.push((at, at, 0)),
        }
    }
    let mut bytes = Vec::with_capacity(1 + entries.len() * (RUN_HEAD_BYTES + 12));
    bytes.push(ROW_VERSION);
    for (at, _, more) in runs {
        let (first, version) = entries[at];
        let kind = match version.place {
            Place::Data { .. } => 0,
            Place::Zero => 1,
            Place::Hole => 2u8,
        };
        bytes.extend([first | kind << 6, more]);
        bytes.extend_from_slice(&version.stamp.epoch.0.to_le_bytes()[..6]);
        bytes.extend_from_slice(&version.stamp.seq.0.to_le_bytes());
        if let Place::Data { segment, offset, .. } = version.place {
            bytes.extend_from_slice(&segment.to_le_bytes());
            bytes.extend_from_slice(&offset.to_le_bytes());
        }
        let mut of_run = Some(&entries[at]);
        let mut at = at;
        while let Some((_, version)) = of_run {
            if let Place::Data { crc, .. } = version.place {
                bytes.extend_from_slice(&crc.to_le_bytes());
            }
            at = next[at];
            of_run = entries.get(at);
        }
    }
    bytes
}

/// Asked of each entry for several runs, and nearly always in vain: the cheapest question comes first.
fn continues((block, version): &Entry, (next_block, next): &Entry) -> bool {
    *next_block == block + 1
        && version.stamp == next.stamp
        && match (version.place, next.place) {
            (Place::Data { segment, offset, .. }, Place::Data { segment: next_segment, offset: next_offset, .. }) => {
                segment == next_segment && offset.checked_add(BLOCK_BYTES as u32) == Some(next_offset)
            }
            (place, next_place) => place == next_place,
        }
}

/// Unpacks a group into versions in order of block, then of stamp.
pub(crate) fn unpack(bytes: &[u8]) -> Result<Vec<Entry>> {
    let mut entries = read_runs(bytes).ok_or(StoreError::Damaged(Damage::IndexRow("blocks")))?;
    entries.sort_by_key(|(block, version)| (*block, version.stamp));
    Ok(entries)
}

/// What a fuzzer feeds: any bytes as each kind of row of the index. Whatever they are, nothing panics, and no row makes
/// more versions than a group has blocks for each of its runs.
pub fn fuzz_rows(bytes: &[u8]) {
    let entries = unpack(bytes).map_or(0, |entries| entries.len());
    assert!(entries <= bytes.len() * GROUP_BLOCKS as usize, "{entries} versions out of {} bytes", bytes.len());
    // Whether they are rows is not asked here.
    let _ = (decode_row::<SlotRow>("slot", bytes), decode_row::<SiloRow>("silo", bytes));
}

fn read_runs(bytes: &[u8]) -> Option<Vec<Entry>> {
    let (&ROW_VERSION, mut rest) = bytes.split_first()? else { return None };
    let mut entries = Vec::with_capacity(rest.len() / (RUN_HEAD_BYTES + 12) + 1);
    while !rest.is_empty() {
        let (head, tail) = rest.split_first_chunk::<RUN_HEAD_BYTES>()?;
        let (first, count) = (head[0] & 63, u64::from(head[1]) + 1);
        if u64::from(first) + count > GROUP_BLOCKS {
            return None;
        }
        let mut epoch = [0; 8];
        epoch[..6].copy_from_slice(&head[2..8]);
        let (_, seq) = head.split_last_chunk::<8>()?;
        let stamp = Stamp::new(Epoch(u64::from_le_bytes(epoch)), Seq(u64::from_le_bytes(*seq)));
        rest = match head[0] >> 6 {
            0 => read_data(&mut entries, first, count, stamp, tail)?,
            kind @ (1 | 2) => {
                let place = if kind == 1 { Place::Zero } else { Place::Hole };
                entries.extend((first..).take(count as usize).map(|block| (block, Version { stamp, place })));
                tail
            }
            _ => return None,
        };
    }
    Some(entries)
}

fn read_data<'a>(entries: &mut Vec<Entry>, first: u8, count: u64, stamp: Stamp, bytes: &'a [u8]) -> Option<&'a [u8]> {
    let (segment, rest) = bytes.split_first_chunk::<4>()?;
    let (offset, rest) = rest.split_first_chunk::<4>()?;
    let (crcs, rest) = rest.split_at_checked(4 * count as usize)?;
    let mut offset = u32::from_le_bytes(*offset);
    for (block, crc) in (first..).zip(crcs.as_chunks::<4>().0) {
        let place = Place::Data { segment: u32::from_le_bytes(*segment), offset, crc: u32::from_le_bytes(*crc) };
        entries.push((block, Version { stamp, place }));
        offset = offset.checked_add(BLOCK_BYTES as u32)?;
    }
    Some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn version() -> impl Strategy<Value = Version> {
        let place = prop_oneof![
            4 => (1u32..3, 0u32..6, any::<u32>())
                .prop_map(|(segment, at, crc)| Place::Data { segment, offset: at * 4096, crc }),
            1 => Just(Place::Zero),
            1 => Just(Place::Hole),
        ];
        (0u64..3, 0u64..4, place)
            .prop_map(|(epoch, seq, place)| Version { stamp: Stamp::new(Epoch(epoch), Seq(seq)), place })
    }

    proptest! {
        #[test]
        fn a_group_unpacks_to_what_was_packed(entries in prop::collection::vec((0u8..64, version()), 0..120)) {
            let mut entries = entries;
            entries.sort_by_key(|(block, version)| (*block, version.stamp));
            entries.dedup_by_key(|(block, version)| (*block, version.stamp));
            prop_assert_eq!(unpack(&pack(&entries)).unwrap(), entries);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut versioned = vec![ROW_VERSION];
            versioned.extend(&bytes);
            let _ = (unpack(&bytes), unpack(&versioned));
            let _ = (decode_row::<SlotRow>("slot", &bytes), decode_row::<SiloRow>("silo", &versioned));
        }
    }

    #[test]
    fn a_sequential_group_is_small() {
        let stamp = Stamp::new(Epoch(1), Seq(9));
        let data = |i: u8| Place::Data { segment: 4, offset: u32::from(i) * 4096, crc: i.into() };
        let entries: Vec<Entry> = (0..64).map(|i| (i, Version { stamp, place: data(i) })).collect();
        assert_eq!(pack(&entries).len(), 1 + 24 + 64 * 4);
    }

    #[test]
    fn keys_read_back() {
        let key = SlotKey { volume: VolumeId([3; 16]), slot: SlotIndex(77) };
        assert_eq!(slot_of_key(&slot_key(key)), key);
        assert_eq!(place_of_key(&place_key(5, 1 << 40)), 1 << 40);
        let stamp = Stamp::new(Epoch(3), Seq(1 << 33));
        assert_eq!(stamp_of_key(&trim_key(5, stamp, 42)), stamp);
        assert_eq!(first_of_trim_key(&trim_key(5, stamp, 42)), 42);
        assert!(marker_key(5, stamp) < marker_key(6, Stamp::ZERO));
    }
}
