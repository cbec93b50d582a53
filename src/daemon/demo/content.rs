//! What the demonstration writes: the running executable, then generated data. Everything is computed anew to be
//! compared, so that what was written is kept nowhere but in the volume.

use std::path::Path;

use bytes::Bytes;

use crate::base::error::{Fault, Result};

/// Bytes of one write: a multiple of the volume's block, of the size that copying tools use.
pub const PIECE_BYTES: usize = 64 << 10;
/// Bytes of everything.
pub const TOTAL_BYTES: u64 = 256 << 20;
/// The distance between generated pieces, in pieces: the data lies scattered, as a file system's does.
const STRIDE: u64 = 3;

/// The pieces of the copy.
#[derive(Clone, Debug)]
pub struct Content {
    executable: Bytes,
}

impl Content {
    /// Reads the executable; at most half of the whole is taken from it.
    pub fn of(executable: &Path) -> Result<Content> {
        let mut bytes = std::fs::read(executable).map_err(|error| Fault::io("read", executable, &error))?;
        bytes.truncate(TOTAL_BYTES as usize / 2);
        Ok(Content { executable: Bytes::from(bytes) })
    }

    pub fn pieces(&self) -> u64 {
        TOTAL_BYTES / PIECE_BYTES as u64
    }

    /// Where a piece lies in the volume, bytes.
    pub fn offset(&self, piece: u64) -> u64 {
        let copied = self.copied();
        let place = if piece < copied { piece } else { copied + (piece - copied) * STRIDE };
        place * PIECE_BYTES as u64
    }

    /// What a piece holds.
    pub fn piece(&self, piece: u64) -> Bytes {
        if piece < self.copied() {
            let start = piece as usize * PIECE_BYTES;
            let end = self.executable.len().min(start + PIECE_BYTES);
            let mut bytes = self.executable[start..end].to_vec();
            bytes.resize(PIECE_BYTES, 0);
            return Bytes::from(bytes);
        }
        Bytes::from(noise(piece))
    }

    /// Pieces that the executable fills.
    fn copied(&self) -> u64 {
        self.executable.len().div_ceil(PIECE_BYTES) as u64
    }
}

/// Bytes that do not compress and are the same for the same seed (Vigna, xorshift64*, 2016).
fn noise(seed: u64) -> Vec<u8> {
    let mut state = (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(PIECE_BYTES);
    while bytes.len() < PIECE_BYTES {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn pieces_differ_stay_apart_and_fit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("executable");
        std::fs::write(&path, noise(7).repeat(3).split_off(100)).unwrap();
        let content = Content::of(&path).unwrap();
        let offsets: BTreeSet<u64> = (0..content.pieces()).map(|piece| content.offset(piece)).collect();
        assert_eq!(offsets.len() as u64, content.pieces());
        assert!(offsets.iter().all(|offset| offset % PIECE_BYTES as u64 == 0 && *offset < 1 << 30));
        assert!(content.piece(2).ends_with(&[0; 100]) && content.piece(2) == content.piece(2));
        assert_ne!(content.piece(3), content.piece(4));
        assert_eq!(content.piece(content.pieces() - 1).len(), PIECE_BYTES);
    }
}
