//! What clients ask for. Each write fills its sectors with its own number, so that a read tells who wrote what it saw.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Bytes, BytesMut};
use infinit::base::block::BLOCK_BYTES;
use infinit::cluster::replication::writer::Request;

use super::dice::Dice;
use super::temper::{Shape, Temper};

pub const SECTOR: u64 = 512;
pub const BLOCK_SECTORS: u64 = BLOCK_BYTES / SECTOR;

/// The number of an operation; 0 stands for zeroes.
pub type Tag = u64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Read,
    Write,
    Zero,
    Trim,
    Flush,
    Allocation,
}

/// One request of a client.
#[derive(Clone, Debug)]
pub struct Op {
    pub tag: Tag,
    pub kind: Kind,
    pub position: u64,
    pub length: u64,
    pub fua: bool,
    /// The client is gone before the request gets its turn.
    pub gone: bool,
    /// Set once the client has left; a request that has no number yet dies with it.
    pub left: Arc<AtomicBool>,
    pub submitted: u64,
}

impl Op {
    /// A request of a client that stays.
    pub fn new(tag: Tag, kind: Kind, position: u64, length: u64) -> Self {
        Self { tag, kind, position, length, fua: false, gone: false, left: Arc::default(), submitted: 0 }
    }

    pub fn changes(&self) -> bool {
        matches!(self.kind, Kind::Write | Kind::Zero | Kind::Trim)
    }

    pub fn first_block(&self) -> u64 {
        self.position / BLOCK_BYTES
    }

    pub fn end_block(&self) -> u64 {
        (self.position + self.length).div_ceil(BLOCK_BYTES)
    }

    pub fn request(&self) -> Request {
        let (gone, left) = (self.gone, self.left.clone());
        let stands = Arc::new(move || !gone && !left.load(Ordering::Relaxed));
        let (position, length, fua) = (self.position, self.length, self.fua);
        let blocks = self.length / BLOCK_BYTES;
        match self.kind {
            Kind::Read => Request::Read { first_block: self.first_block(), blocks: blocks as u32 },
            Kind::Allocation => Request::Allocation { first_block: self.first_block(), blocks },
            Kind::Write => Request::Write { position, data: content(self.tag, position, length), fua, stands },
            Kind::Zero => Request::Zero { position, length, fua, stands },
            Kind::Trim => Request::Trim { position, length, fua, stands },
            Kind::Flush => Request::Flush,
        }
    }
}

/// The bytes of one sector with this tag.
fn fill(sector: u64, tag: Tag, out: &mut [u8]) {
    let word = tag.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ sector;
    for (index, chunk) in out.chunks_exact_mut(8).enumerate() {
        let value = if index == 0 { tag } else { word.wrapping_add(index as u64) };
        chunk.copy_from_slice(&value.to_le_bytes());
    }
}

/// What an operation writes; whole sectors.
pub fn content(tag: Tag, position: u64, length: u64) -> Bytes {
    let mut out = BytesMut::zeroed(length as usize);
    for (index, sector) in out.chunks_exact_mut(SECTOR as usize).enumerate() {
        fill(position / SECTOR + index as u64, tag, sector);
    }
    out.freeze()
}

/// The bytes of a block whose sectors have these tags.
pub fn block_content(block: u64, tags: &[Tag; BLOCK_SECTORS as usize]) -> [u8; BLOCK_BYTES as usize] {
    let mut out = [0; BLOCK_BYTES as usize];
    for (index, sector) in out.chunks_exact_mut(SECTOR as usize).enumerate() {
        if tags[index] != 0 {
            fill(block * BLOCK_SECTORS + index as u64, tags[index], sector);
        }
    }
    out
}

/// The tags of the sectors that begin at `position`; an error if any is torn or garbage.
pub fn tags_of(position: u64, bytes: &[u8]) -> Result<Vec<Tag>, String> {
    let mut tags = Vec::with_capacity(bytes.len() / SECTOR as usize);
    let mut expected = [0; SECTOR as usize];
    for (index, sector) in bytes.chunks_exact(SECTOR as usize).enumerate() {
        let mut raw = [0; 8];
        raw.copy_from_slice(&sector[..8]);
        let tag = u64::from_le_bytes(raw);
        if tag == 0 {
            expected.fill(0);
        } else {
            fill(position / SECTOR + index as u64, tag, &mut expected);
        }
        if sector != expected {
            return Err(format!(
                "sector {} is torn or misplaced; it begins with {tag}",
                position / SECTOR + index as u64
            ));
        }
        tags.push(tag);
    }
    Ok(tags)
}

/// The blocks that clients mostly touch: at the edges of extents and slots, and some in between.
pub fn hot_blocks(dice: &mut Dice, temper: &Temper) -> Vec<u64> {
    let blocks = temper.shape.volume_bytes / BLOCK_BYTES;
    let edges = [0, 255, 256, 511, 512, 767, 768, blocks - 1];
    (0..temper.hot_blocks)
        .map(|_| if dice.chance(500) { edges[dice.below(8) as usize] } else { dice.below(blocks) })
        .collect()
}

/// Draws a client's next request.
pub fn draw(dice: &mut Dice, temper: &Temper, hot: &[u64], tag: Tag, now: u64) -> Op {
    let roll = dice.below(1000);
    let flush = temper.flush_permille;
    let kind = match roll {
        _ if roll < flush => Kind::Flush,
        _ if roll < flush + 30 => Kind::Allocation,
        _ if roll < flush + 80 => Kind::Trim,
        _ if roll < flush + 120 => Kind::Zero,
        _ if roll < flush + 120 + temper.read_permille => Kind::Read,
        _ => Kind::Write,
    };
    let first = hot[dice.below(hot.len() as u64) as usize];
    let (position, length) = match kind {
        Kind::Flush => (0, 0),
        Kind::Write => write_range(dice, first),
        Kind::Read | Kind::Allocation => (first * BLOCK_BYTES, dice.between(1, 12) * BLOCK_BYTES),
        Kind::Trim if dice.chance(150) => (first * BLOCK_BYTES, dice.between(33, 400) * BLOCK_BYTES),
        Kind::Zero | Kind::Trim => (first * BLOCK_BYTES, dice.between(1, 16) * BLOCK_BYTES),
    };
    let end = end_of(&temper.shape, kind, position);
    let length = length.min(end - position);
    let fua = matches!(kind, Kind::Write | Kind::Zero | Kind::Trim) && dice.chance(100);
    Op { fua, gone: dice.chance(10), submitted: now, ..Op::new(tag, kind, position, length) }
}

fn write_range(dice: &mut Dice, first: u64) -> (u64, u64) {
    match dice.below(100) {
        0..3 => (first * BLOCK_BYTES, dice.between(30, 80) * BLOCK_BYTES),
        3..60 => (first * BLOCK_BYTES, dice.between(1, 4) * BLOCK_BYTES),
        _ => (first * BLOCK_BYTES + dice.below(BLOCK_SECTORS) * SECTOR, dice.between(1, 20) * SECTOR),
    }
}

/// Reads stay within a slot, as their caller splits them; the rest ends with the volume.
fn end_of(shape: &Shape, kind: Kind, position: u64) -> u64 {
    match kind {
        Kind::Read | Kind::Allocation => (position / shape.slot_bytes + 1) * shape.slot_bytes,
        _ => shape.volume_bytes,
    }
}
