//! The geometry of block volumes: 4 KiB blocks, 1 MiB extents, slots of at least 32 GiB.

use crate::base::id::SlotIndex;

/// Bytes of a block: the unit that is versioned, checksummed and stored.
pub const BLOCK_BYTES: u64 = 4096;
/// Blocks of an extent: the unit whose last change a silo remembers for catching up.
pub const EXTENT_BLOCKS: u64 = 256;
/// The largest volume: 64 TiB.
pub const VOLUME_BYTES_MAX: u64 = 64 << 40;
/// The smallest slot: 32 GiB, so that a small volume has one.
pub const SLOT_BYTES_MIN: u64 = 32 << 30;
/// The most slots a new volume has.
pub const SLOTS_MAX: u64 = 64;
/// The most data in one frame, so that a 4 KiB write never waits behind a long one.
pub const FRAME_DATA_MAX: usize = 128 << 10;

/// The bytes of a slot of a new volume: a power of two of at least 32 GiB such that 64 slots hold the volume.
pub fn slot_bytes(volume_bytes: u64) -> u64 {
    let mut slot = SLOT_BYTES_MIN;
    while slot * SLOTS_MAX < volume_bytes {
        slot *= 2;
    }
    slot
}

/// How many slots a volume has.
pub fn slot_count(volume_bytes: u64, slot_bytes: u64) -> u32 {
    volume_bytes.div_ceil(slot_bytes) as u32
}

/// The slot that holds a byte of a volume.
pub fn slot_of(position: u64, slot_bytes: u64) -> SlotIndex {
    SlotIndex((position / slot_bytes) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_volume_has_one_slot_and_the_largest_sixty_four() {
        assert_eq!(slot_count(1 << 30, slot_bytes(1 << 30)), 1);
        assert_eq!(slot_count(1 << 40, slot_bytes(1 << 40)), 32);
        assert_eq!(slot_count(VOLUME_BYTES_MAX, slot_bytes(VOLUME_BYTES_MAX)), 64);
    }
}
