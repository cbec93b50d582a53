//! What the server says: values in, bytes out. Every function appends to a buffer and cannot fail.

use bytes::BufMut;

use super::errno::Errno;
use super::protocol::{
    BASE_ALLOCATION_ID, BLOCK_SIZE_MIN, BLOCK_SIZE_PREFERRED, FLAG_FIXED_NEWSTYLE, FLAG_NO_ZEROES, INFO_BLOCK_SIZE,
    INFO_EXPORT, INFO_NAME, INIT_MAGIC, OPTION_MAGIC, OPTION_REPLY_MAGIC, PAYLOAD_BYTES_MAX, REP_INFO,
    REP_META_CONTEXT, REP_SERVER, REPLY_BLOCK_STATUS, REPLY_ERROR, REPLY_FLAG_DONE, REPLY_OFFSET_DATA,
    SIMPLE_REPLY_MAGIC, STATE_HOLE, STATE_ZERO, STRING_BYTES_MAX, STRUCTURED_REPLY_MAGIC,
};
use crate::volume::block::device::{Allocation, Extent};

/// The server's first words.
pub fn greeting(out: &mut Vec<u8>) {
    out.put_u64(INIT_MAGIC);
    out.put_u64(OPTION_MAGIC);
    out.put_u16(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES);
}

/// One answer to an option.
pub fn option_reply(out: &mut Vec<u8>, option: u32, kind: u32, data: &[u8]) {
    out.put_u64(OPTION_REPLY_MAGIC);
    out.put_u32(option);
    out.put_u32(kind);
    out.put_u32(data.len() as u32);
    out.put_slice(data);
}

/// One export of the answer to LIST.
pub fn listed_export(out: &mut Vec<u8>, option: u32, name: &str) {
    let data = [&(name.len() as u32).to_be_bytes(), name.as_bytes()].concat();
    option_reply(out, option, REP_SERVER, &data);
}

/// Size and transmission flags, in the answer to INFO or GO.
pub fn export_info(out: &mut Vec<u8>, option: u32, size: u64, flags: u16) {
    let mut data = Vec::with_capacity(12);
    data.put_u16(INFO_EXPORT);
    data.put_u64(size);
    data.put_u16(flags);
    option_reply(out, option, REP_INFO, &data);
}

/// The export's own name, in the answer to INFO or GO.
pub fn name_info(out: &mut Vec<u8>, option: u32, name: &str) {
    let data = [&INFO_NAME.to_be_bytes(), name.as_bytes()].concat();
    option_reply(out, option, REP_INFO, &data);
}

/// The sizes of requests that are served, in the answer to INFO or GO.
pub fn block_size_info(out: &mut Vec<u8>, option: u32) {
    let mut data = Vec::with_capacity(14);
    data.put_u16(INFO_BLOCK_SIZE);
    data.put_u32(BLOCK_SIZE_MIN);
    data.put_u32(BLOCK_SIZE_PREFERRED);
    data.put_u32(PAYLOAD_BYTES_MAX);
    option_reply(out, option, REP_INFO, &data);
}

/// One metadata context, in the answer to LIST_META_CONTEXT (with id 0) or SET_META_CONTEXT.
pub fn meta_context(out: &mut Vec<u8>, option: u32, id: u32, name: &str) {
    let data = [&id.to_be_bytes(), name.as_bytes()].concat();
    option_reply(out, option, REP_META_CONTEXT, &data);
}

/// The answer to EXPORT_NAME, which has no frame of its own. `padded`: the client wants 124 zeroes after it.
pub fn export_name(out: &mut Vec<u8>, size: u64, flags: u16, padded: bool) {
    out.put_u64(size);
    out.put_u16(flags);
    if padded {
        out.put_bytes(0, 124);
    }
}

/// A simple reply: success of anything without structured replies; a read's data follows it.
pub fn simple(out: &mut Vec<u8>, cookie: u64) {
    out.put_u32(SIMPLE_REPLY_MAGIC);
    out.put_u32(0);
    out.put_u64(cookie);
}

/// A simple reply that carries an error.
pub fn simple_error(out: &mut Vec<u8>, cookie: u64, errno: Errno) {
    out.put_u32(SIMPLE_REPLY_MAGIC);
    out.put_u32(errno.code());
    out.put_u64(cookie);
}

/// The only chunk of a structured reply to a read; `length` bytes of data follow it.
pub fn structured_data(out: &mut Vec<u8>, cookie: u64, offset: u64, length: u32) {
    chunk(out, cookie, REPLY_OFFSET_DATA, 8 + length);
    out.put_u64(offset);
}

/// An error as a structured reply, with a line for a person (cut to what the protocol carries).
pub fn structured_error(out: &mut Vec<u8>, cookie: u64, errno: Errno, message: &str) {
    let mut end = message.len().min(STRING_BYTES_MAX);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    chunk(out, cookie, REPLY_ERROR, 6 + end as u32);
    out.put_u32(errno.code());
    out.put_u16(end as u16);
    out.put_slice(&message.as_bytes()[..end]);
}

/// The answer to BLOCK_STATUS: neighbours that are alike are joined, the total never exceeds `length`, and there are
/// at most `count_max` descriptors.
pub fn block_status(out: &mut Vec<u8>, cookie: u64, extents: &[Extent], length: u32, count_max: usize) {
    let descriptors = descriptors(extents, length, count_max);
    chunk(out, cookie, REPLY_BLOCK_STATUS, 4 + 8 * descriptors.len() as u32);
    out.put_u32(BASE_ALLOCATION_ID);
    for (length, state) in descriptors {
        out.put_u32(length);
        out.put_u32(state);
    }
}

/// The header of a chunk that is the last of its reply.
fn chunk(out: &mut Vec<u8>, cookie: u64, kind: u16, length: u32) {
    out.put_u32(STRUCTURED_REPLY_MAGIC);
    out.put_u16(REPLY_FLAG_DONE);
    out.put_u16(kind);
    out.put_u64(cookie);
    out.put_u32(length);
}

/// `(length, state)` of each descriptor.
fn descriptors(extents: &[Extent], length: u32, count_max: usize) -> Vec<(u32, u32)> {
    let mut joined: Vec<(u32, u32)> = Vec::new();
    let mut left = length;
    for extent in extents {
        let full = joined.len() == count_max;
        let part = extent.length.min(u64::from(left)) as u32;
        if part == 0 {
            continue;
        }
        let state = state(extent.allocation);
        match joined.last_mut() {
            Some(last) if last.1 == state => last.0 += part,
            _ if full => break,
            _ => joined.push((part, state)),
        }
        left -= part;
    }
    joined
}

fn state(allocation: Allocation) -> u32 {
    match allocation {
        Allocation::Data => 0,
        Allocation::Zero => STATE_ZERO,
        Allocation::Hole => STATE_HOLE | STATE_ZERO,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out);
        out
    }

    #[test]
    fn replies_have_the_lengths_of_the_specification() {
        assert_eq!(bytes(greeting).len(), 18);
        assert_eq!(bytes(|out| simple(out, 1)).len(), 16);
        assert_eq!(bytes(|out| structured_data(out, 1, 0, 4096)).len(), 28);
        assert_eq!(bytes(|out| export_name(out, 1, 1, true)).len(), 134);
        assert_eq!(bytes(|out| export_name(out, 1, 1, false)).len(), 10);
        let error = bytes(|out| structured_error(out, 1, Errno::Io, "gone"));
        assert_eq!(&error[16..20], 10u32.to_be_bytes());
        assert_eq!(&error[26..], b"gone");
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let error = bytes(|out| structured_error(out, 1, Errno::Io, &"é".repeat(4000)));
        assert!(std::str::from_utf8(&error[26..]).is_ok());
        assert!(error.len() <= 26 + STRING_BYTES_MAX);
    }

    #[test]
    fn alike_neighbours_are_joined_and_the_request_is_not_exceeded() {
        let extent = |length, allocation| Extent { length, allocation };
        let disk = [
            extent(100, Allocation::Data),
            extent(50, Allocation::Data),
            extent(50, Allocation::Hole),
            extent(1 << 40, Allocation::Zero),
        ];
        assert_eq!(descriptors(&disk, 300, 9), [(150, 0), (50, 3), (100, 2)]);
        assert_eq!(descriptors(&disk, 300, 1), [(150, 0)]);
        assert_eq!(descriptors(&disk, 120, 9), [(120, 0)]);
    }

    proptest! {
        #[test]
        fn descriptors_are_never_empty_nor_too_long(
            lengths in prop::collection::vec(1u64..1 << 33, 1..20), length in 1u32.., count_max in 1usize..5,
        ) {
            let kinds = [Allocation::Data, Allocation::Zero, Allocation::Hole];
            let extents: Vec<_> =
                lengths.iter().map(|&l| Extent { length: l, allocation: kinds[l as usize % 3] }).collect();
            let found = descriptors(&extents, length, count_max);
            prop_assert!(!found.is_empty() && found.len() <= count_max);
            prop_assert!(found.iter().all(|d| d.0 > 0));
            prop_assert!(found.iter().map(|d| u64::from(d.0)).sum::<u64>() <= u64::from(length));
            prop_assert!(found.windows(2).all(|pair| pair[0].1 != pair[1].1));
        }
    }
}
