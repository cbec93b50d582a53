//! Answers on their way out: headers packed together, data passed on uncopied, all sent with as few calls as possible.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes};

/// The slices given to one vectored write; the kernel takes up to 1024, beyond 64 nothing is gained.
pub const SLICES_MAX: usize = 64;

/// A queue of bytes to send.
#[derive(Default)]
pub struct Outbox {
    /// The bytes of all `Piece::Packed`, in order, of which the first `packed_sent` are gone.
    packed: Vec<u8>,
    packed_sent: usize,
    pieces: VecDeque<Piece>,
    len: usize,
}

enum Piece {
    /// So many of the packed bytes.
    Packed(usize),
    Data(Bytes),
}

impl Outbox {
    /// Bytes not yet sent.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends what `write` puts into the buffer.
    pub fn pack(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let before = self.packed.len();
        write(&mut self.packed);
        let added = self.packed.len() - before;
        self.len += added;
        match self.pieces.back_mut() {
            Some(Piece::Packed(length)) => *length += added,
            _ if added > 0 => self.pieces.push_back(Piece::Packed(added)),
            _ => {}
        }
    }

    /// Appends data without copying it.
    pub fn data(&mut self, data: Bytes) {
        if !data.is_empty() {
            self.len += data.len();
            self.pieces.push_back(Piece::Data(data));
        }
    }

    /// Fills `slices` with what is to be sent next, and says how many it filled.
    pub fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>; SLICES_MAX]) -> usize {
        let mut at = self.packed_sent;
        let mut count = 0;
        for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
            *slice = match piece {
                Piece::Packed(length) => {
                    at += length;
                    IoSlice::new(&self.packed[at - length..at])
                }
                Piece::Data(data) => IoSlice::new(data),
            };
            count += 1;
        }
        count
    }

    /// Drops the first `sent` bytes.
    pub fn advance(&mut self, mut sent: usize) {
        self.len -= sent;
        while sent > 0 {
            let Some(piece) = self.pieces.front_mut() else { break };
            let (part, whole) = match piece {
                Piece::Packed(length) => {
                    let part = sent.min(*length);
                    *length -= part;
                    self.packed_sent += part;
                    (part, *length == 0)
                }
                Piece::Data(data) => {
                    let part = sent.min(data.len());
                    data.advance(part);
                    (part, data.is_empty())
                }
            };
            if whole {
                self.pieces.pop_front();
            }
            sent -= part;
        }
        if self.packed_sent == self.packed.len() {
            self.packed.clear();
            self.packed_sent = 0;
        } else if self.packed_sent > PACKED_SENT_MAX {
            self.packed.drain(..self.packed_sent);
            self.packed_sent = 0;
        }
    }
}

/// A client that always leaves something unread must not make the packed bytes grow for ever.
const PACKED_SENT_MAX: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Sends at most `most` bytes and returns them.
    fn send(outbox: &mut Outbox, most: usize) -> Vec<u8> {
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let count = outbox.slices(&mut slices);
        let mut sent: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.iter().copied()).collect();
        sent.truncate(most);
        outbox.advance(sent.len());
        sent
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out_in_order(
            steps in prop::collection::vec((any::<bool>(), 0usize..5000, 0usize..9000), 1..200)
        ) {
            let (mut outbox, mut expected, mut received) = (Outbox::default(), Vec::new(), Vec::new());
            for (index, (packed, length, sent)) in steps.into_iter().enumerate() {
                let bytes = vec![index as u8; length];
                expected.extend_from_slice(&bytes);
                if packed {
                    outbox.pack(|out| out.extend_from_slice(&bytes));
                } else {
                    outbox.data(bytes.into());
                }
                received.extend(send(&mut outbox, sent));
                prop_assert_eq!(outbox.len(), expected.len() - received.len());
            }
            while !outbox.is_empty() {
                received.extend(send(&mut outbox, usize::MAX));
            }
            prop_assert_eq!(received, expected);
            prop_assert!(outbox.pieces.is_empty() && outbox.packed.is_empty());
        }
    }
}
