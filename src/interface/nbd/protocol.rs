//! The numbers of the NBD protocol (doc/proto.md of the NBD project) and the limits this server sets.
//!
//! Everything on the wire is big-endian.

use std::time::Duration;

/// First words of the server: `NBDMAGIC`.
pub const INIT_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// `IHAVEOPT`: announces the newstyle handshake, and starts every option of the client.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

/// Handshake flags of the server, and the same bits in the client's answer.
pub const FLAG_FIXED_NEWSTYLE: u16 = 1 << 0;
pub const FLAG_NO_ZEROES: u16 = 1 << 1;

/// Transmission flags.
pub const FLAG_HAS_FLAGS: u16 = 1 << 0;
pub const FLAG_READ_ONLY: u16 = 1 << 1;
pub const FLAG_SEND_FLUSH: u16 = 1 << 2;
pub const FLAG_SEND_FUA: u16 = 1 << 3;
pub const FLAG_SEND_TRIM: u16 = 1 << 5;
pub const FLAG_SEND_WRITE_ZEROES: u16 = 1 << 6;
pub const FLAG_SEND_DF: u16 = 1 << 7;
pub const FLAG_CAN_MULTI_CONN: u16 = 1 << 8;
pub const FLAG_SEND_CACHE: u16 = 1 << 10;
pub const FLAG_SEND_FAST_ZERO: u16 = 1 << 11;

/// Option types.
pub const OPT_EXPORT_NAME: u32 = 1;
pub const OPT_ABORT: u32 = 2;
pub const OPT_LIST: u32 = 3;
pub const OPT_INFO: u32 = 6;
pub const OPT_GO: u32 = 7;
pub const OPT_STRUCTURED_REPLY: u32 = 8;
pub const OPT_LIST_META_CONTEXT: u32 = 9;
pub const OPT_SET_META_CONTEXT: u32 = 10;

/// Option reply types.
pub const REP_ACK: u32 = 1;
pub const REP_SERVER: u32 = 2;
pub const REP_INFO: u32 = 3;
pub const REP_META_CONTEXT: u32 = 4;
pub const REP_ERR_UNSUP: u32 = (1 << 31) + 1;
pub const REP_ERR_INVALID: u32 = (1 << 31) + 3;
pub const REP_ERR_UNKNOWN: u32 = (1 << 31) + 6;
pub const REP_ERR_SHUTDOWN: u32 = (1 << 31) + 7;
pub const REP_ERR_TOO_BIG: u32 = (1 << 31) + 9;

/// Kinds of information in a `REP_INFO`.
pub const INFO_EXPORT: u16 = 0;
pub const INFO_NAME: u16 = 1;
pub const INFO_BLOCK_SIZE: u16 = 3;

/// Commands.
pub const CMD_READ: u16 = 0;
pub const CMD_WRITE: u16 = 1;
pub const CMD_DISC: u16 = 2;
pub const CMD_FLUSH: u16 = 3;
pub const CMD_TRIM: u16 = 4;
pub const CMD_CACHE: u16 = 5;
pub const CMD_WRITE_ZEROES: u16 = 6;
pub const CMD_BLOCK_STATUS: u16 = 7;

/// Command flags.
pub const CMD_FLAG_FUA: u16 = 1 << 0;
pub const CMD_FLAG_NO_HOLE: u16 = 1 << 1;
pub const CMD_FLAG_DF: u16 = 1 << 2;
pub const CMD_FLAG_REQ_ONE: u16 = 1 << 3;
pub const CMD_FLAG_FAST_ZERO: u16 = 1 << 4;

/// Structured replies: the flag of the last chunk, and the types of chunks.
pub const REPLY_FLAG_DONE: u16 = 1 << 0;
pub const REPLY_OFFSET_DATA: u16 = 1;
pub const REPLY_BLOCK_STATUS: u16 = 5;
pub const REPLY_ERROR: u16 = (1 << 15) + 1;

/// The one metadata context, and the id it gets once it is selected.
pub const BASE_ALLOCATION: &str = "base:allocation";
pub const BASE_ALLOCATION_ID: u32 = 1;
/// Flags of `base:allocation`.
pub const STATE_HOLE: u32 = 1 << 0;
pub const STATE_ZERO: u32 = 1 << 1;

/// Bytes of the header of an option: magic, option, length.
pub const OPTION_HEADER_BYTES: usize = 16;
/// Bytes of a request without its payload.
pub const REQUEST_BYTES: usize = 28;

/// Any byte may be addressed: the volume reads, changes and writes whole blocks where it must.
pub const BLOCK_SIZE_MIN: u32 = 1;
/// The volume's block: requests of this alignment need no read before the write.
pub const BLOCK_SIZE_PREFERRED: u32 = 4096;
/// The largest read or write that is carried out. What the specification names as the size that clients may assume
/// without being told, so that no client has to be refused.
pub const PAYLOAD_BYTES_MAX: u32 = 32 << 20;
/// A write that is too large is still read to its end and refused, up to here; beyond it, the client is not taken for
/// one and its connection is closed.
pub const PAYLOAD_DRAIN_BYTES_MAX: u32 = 64 << 20;

/// The longest option that is read: two of the specification's longest strings (4096 bytes) and a great many queries.
pub const OPTION_BYTES_MAX: u32 = 64 << 10;
/// A longer option is thrown away and answered with "too big" up to here; beyond it, the connection is closed.
pub const OPTION_DRAIN_BYTES_MAX: u32 = 1 << 20;
/// The specification's longest string.
pub const STRING_BYTES_MAX: usize = 4096;
/// A client that has not chosen an export by then is none: clients take a few milliseconds.
pub const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

/// Requests of one connection that the device works on at once. Twice the deepest queue of the kernel's client (128);
/// with more waiting, the socket is simply not read.
pub const REQUESTS_MAX: usize = 256;
/// Bytes of payload (of writes) and of answers (of reads) of one connection that the device works on at once: one of
/// the largest requests, or 256 of 128 KiB. One request is always let in.
pub const REQUEST_BYTES_IN_FLIGHT_MAX: usize = 32 << 20;
/// Answers that wait for a client that does not read them; with more waiting, the socket is not read either.
pub const ANSWER_BYTES_MAX: usize = 512 << 10;
/// Connections of one listener: a client rarely opens more than 16, and each may hold the limits above.
pub const CONNECTIONS_MAX: usize = 256;
/// How long a stop waits for the requests in flight before it cuts the connections.
pub const STOP_MAX: Duration = Duration::from_secs(5);
/// The most extents in one answer to BLOCK_STATUS (32 KiB); the client asks again for the rest.
pub const EXTENTS_MAX: usize = 4096;
/// A CACHE request is carried out in reads of this size, one after another.
pub const CACHE_STEP_BYTES: u32 = 1 << 20;
