//! What a writer and the silos of its slots say to one another, and how that looks on the wire.
//!
//! The two messages of the hot path have a fixed little-endian layout; the rest is postcard behind a kind byte of 0.
//!
//! ```text
//! append, to a silo (then the record as it will stand on the disk)     acknowledgement, from a silo
//! offset size                                                          offset size
//!      0    1  kind: 1                                                      0    1  kind: 1
//!      1    1  bit 0: make it durable                                       1    1  bit 0: takes new writes
//!      2    2  zero                                                         2    2  zero
//!      4    4  configuration of the slot                                    4    4  slot
//!      8   16  silo                                                         8   16  silo
//!     24    8  epoch                                                       24   16  volume
//!     32    8  previous seq of the slot's stream                           40    8  epoch
//!     40    8  the silo's incarnation                                      48    8  the silo's incarnation
//!     48    8  committed (majority-durable) seq of the slot                56    8  applied
//!     56    8  when it was sent, by the writer's clock                     64    8  durable
//!     64       the record                                                  72    8  `sent` of the last frame accepted
//! ```

mod shared_bytes;

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::base::id::{ConfigNumber, Epoch, Incarnation, NodeId, Seq, SiloId, SlotIndex, SlotKey, Stamp, VolumeId};
use crate::base::record::{Record, RecordError};
use crate::store::slot::Vote;
use crate::transport::network::Frame;

const KIND_RARE: u8 = 0;
const KIND_HOT: u8 = 1;
const APPEND_BYTES: usize = 64;
const ACK_BYTES: usize = 80;

/// A message from a writer to one of its silos.
#[derive(Clone, Debug, PartialEq)]
pub enum ToSilo {
    Append(Append),
    Rare(SiloId, VolumeId, Request),
}

/// One record of a slot's stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Append {
    pub silo: SiloId,
    pub config: ConfigNumber,
    pub epoch: Epoch,
    /// The number before this one in the slot's stream.
    pub previous: Seq,
    pub incarnation: Incarnation,
    pub committed: Seq,
    /// When it was sent, by the writer's clock; comes back in the acknowledgement and renews the lease from then.
    pub sent: u64,
    /// The acknowledgement that matters is the durable one.
    pub sync: bool,
    pub record: Record,
}

/// Everything but the hot path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Asks for the promise to refuse lower epochs, and for votes. Sent again, with the same epoch, on reconnection.
    Promote {
        epoch: Epoch,
        holder: NodeId,
        /// The holder's own earlier epochs are dead: it holds its home's lock and has no other writer.
        own_dead: bool,
        lease_ms: u32,
        sent: u64,
        slots: Vec<(SlotIndex, ConfigNumber)>,
    },
    /// Renews the lease, and tells what the slots' silos reported.
    Heartbeat {
        epoch: Epoch,
        incarnation: Incarnation,
        sent: u64,
        slots: Vec<SlotNews>,
    },
    /// Asks for durability up to a number of the slot's stream.
    Sync {
        slot: SlotIndex,
        epoch: Epoch,
        incarnation: Incarnation,
        upto: Seq,
    },
    /// The silo's history is the chosen one already, if it is `expected`: adopt the epoch.
    AdoptAsIs {
        slot: SlotIndex,
        epoch: Epoch,
        incarnation: Incarnation,
        attempt: u64,
        expected: Vote,
    },
    /// Versions will be sent out of prefix; the stream goes on after `floor`. Attempts are numbered, so that a
    /// message of an earlier one is recognised.
    CatchUp {
        slot: SlotIndex,
        epoch: Epoch,
        incarnation: Incarnation,
        attempt: u64,
        base: Seq,
        floor: Seq,
    },
    /// Versions of some extents, as the source had them. `bytes` holds listings and records, see [`Parcel`].
    Transfer {
        slot: SlotIndex,
        epoch: Epoch,
        incarnation: Incarnation,
        attempt: u64,
        cursor: u64,
        parcel: Parcel,
    },
    /// All extents are transferred: adopt the epoch.
    Adopt {
        slot: SlotIndex,
        epoch: Epoch,
        incarnation: Incarnation,
        attempt: u64,
    },
    Read {
        id: u64,
        slot: SlotIndex,
        epoch: Epoch,
        floor: Seq,
        first_block: u64,
        blocks: u32,
    },
    Allocation {
        id: u64,
        slot: SlotIndex,
        epoch: Epoch,
        floor: Seq,
        first_block: u64,
        blocks: u64,
    },
    /// Asks a source for what changed above `base`, in the extents from `from_extent` on and in those of `also`.
    Delta {
        id: u64,
        slot: SlotIndex,
        epoch: Epoch,
        floor: Seq,
        base: Seq,
        from_extent: u64,
        also: Vec<u64>,
    },
    /// The writer is done: the lease ends now.
    Release {
        epoch: Epoch,
    },
    /// Asks for the newest version of one block, with its stamp: another silo's copy of it is damaged.
    Fetch {
        id: u64,
        slot: SlotIndex,
        epoch: Epoch,
        floor: Seq,
        block: u64,
    },
    /// A block that is damaged here, as another silo has it: taken only if it is exactly the indexed version.
    Repair {
        slot: SlotIndex,
        epoch: Epoch,
        incarnation: Incarnation,
        block: u64,
        parcel: Parcel,
    },
    /// Asks a silo which version of a block it has indexed, whether or not it can read it.
    Indexed {
        id: u64,
        slot: SlotIndex,
        epoch: Epoch,
        block: u64,
    },
    /// Asks for exactly this version of a block, wherever in its history the silo has it; answered as [`Request::Fetch`].
    FetchVersion {
        id: u64,
        slot: SlotIndex,
        epoch: Epoch,
        block: u64,
        stamp: Stamp,
    },
    /// The slot's silos are these now, and its configuration has this number.
    Configure {
        slot: SlotIndex,
        epoch: Epoch,
        incarnation: Incarnation,
        config: ConfigNumber,
        silos: Vec<SiloId>,
    },
    /// The silo is none of the slot's, and is not to become one: it may forget what it holds, but for its promise.
    Dismiss {
        slot: SlotIndex,
        epoch: Epoch,
        incarnation: Incarnation,
    },
}

/// What the writer knows of a slot and tells its silos.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotNews {
    pub slot: SlotIndex,
    pub committed: Seq,
    /// `(A, D)` of the slot's silos.
    pub silos: Vec<(SiloId, Epoch, Seq)>,
}

/// Extents with their listings and versions, as a source read them.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parcel {
    pub listings: Vec<Listing>,
    /// Whole transfer records, one after the other.
    #[serde(with = "shared_bytes")]
    pub records: Bytes,
}

/// Which blocks of an extent exist as of `floor`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    pub extent: u64,
    /// One bit a block, the lowest first.
    pub present: [u8; 32],
    pub floor: Seq,
}

impl Parcel {
    /// The records, if every byte belongs to a verified transfer record of this slot.
    pub fn split(&self, key: SlotKey) -> Option<Vec<Record>> {
        let mut bytes = self.records.clone();
        let mut records = Vec::new();
        while !bytes.is_empty() {
            let record = Record::decode(&mut bytes).ok()?;
            if !record.header.transfer || record.header.key() != key || record.verify().is_err() {
                return None;
            }
            records.push(record);
        }
        Some(records)
    }
}

impl fmt::Debug for Parcel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} extents, {} bytes", self.listings.len(), self.records.len())
    }
}

/// A message from a silo to the writer that it is connected with.
#[derive(Clone, Debug, PartialEq)]
pub enum FromSilo {
    Ack(Ack),
    Rare(SiloId, VolumeId, Answer),
}

/// How far a slot's stream has come on a silo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    pub silo: SiloId,
    pub key: SlotKey,
    pub epoch: Epoch,
    pub incarnation: Incarnation,
    pub applied: Seq,
    pub durable: Seq,
    pub takes_writes: bool,
    pub sent: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    Promised(Promised),
    /// The frame was not taken; `slot` is none if it concerns the whole volume.
    Refused {
        slot: Option<SlotIndex>,
        epoch: Epoch,
        reason: Refusal,
    },
    /// A frame did not follow on `applied`: send again from there.
    Gap {
        slot: SlotIndex,
        epoch: Epoch,
        incarnation: Incarnation,
        applied: Seq,
    },
    Renewed {
        epoch: Epoch,
        incarnation: Incarnation,
        sent: u64,
    },
    /// Ready to receive; these extents changed here above the base.
    CatchingUp {
        slot: SlotIndex,
        epoch: Epoch,
        incarnation: Incarnation,
        attempt: u64,
        changed: Vec<u64>,
    },
    Transferred {
        slot: SlotIndex,
        epoch: Epoch,
        incarnation: Incarnation,
        attempt: u64,
        cursor: u64,
    },
    Adopted {
        slot: SlotIndex,
        epoch: Epoch,
        incarnation: Incarnation,
        attempt: u64,
        applied: Seq,
    },
    Read {
        id: u64,
        result: Result<BlockData, ReadRefusal>,
    },
    Allocation {
        id: u64,
        result: Result<Vec<Run>, ReadRefusal>,
    },
    Delta {
        id: u64,
        result: Result<(Parcel, Option<u64>), ReadRefusal>,
    },
    Released {
        epoch: Epoch,
    },
    /// The block's version as a transfer record; nothing if it holds no data.
    Fetched {
        id: u64,
        result: Result<Parcel, ReadRefusal>,
    },
    /// So many blocks were stored again: none if the version sent is not the indexed one.
    Repaired {
        slot: SlotIndex,
        epoch: Epoch,
        incarnation: Incarnation,
        block: u64,
        mended: u64,
    },
    /// The silo found a block damaged that nobody asked for: it is to be repaired.
    Damaged {
        slot: SlotIndex,
        epoch: Epoch,
        block: u64,
    },
    /// The stamp of a block's version; none if it holds no data.
    Indexed {
        id: u64,
        result: Result<Option<Stamp>, ReadRefusal>,
    },
}

/// A promise, with the vote of each slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promised {
    pub epoch: Epoch,
    pub incarnation: Incarnation,
    /// Incarnations back to the last that the cluster state confirmed, the newest last.
    pub chain: Vec<Incarnation>,
    pub sent: u64,
    pub takes_writes: bool,
    pub slots: Vec<SlotVote>,
}

/// What a silo reports of a slot once it has promised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotVote {
    pub slot: SlotIndex,
    pub vote: Vote,
    pub incomplete: bool,
    pub durable: Seq,
    pub committed: Seq,
    /// The page cache was kept since `vote.adopted` was adopted, and no fsync failed.
    pub kept_cache: bool,
    pub peers: Vec<(SiloId, Epoch, Seq)>,
}

/// The bytes of a run of blocks; holes are zeroes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockData {
    #[serde(with = "shared_bytes")]
    pub bytes: Bytes,
}

impl fmt::Debug for BlockData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.bytes.len())
    }
}

/// A run of blocks of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    pub blocks: u64,
    pub kind: RunKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunKind {
    Data,
    Zero,
    Hole,
}

/// Why a silo did not take a frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// A higher epoch was promised.
    Fenced { promise: Epoch },
    /// Another holder's lease still runs.
    Leased { epoch: Epoch, remaining_ms: u64 },
    /// The slot has another configuration here.
    Configuration { current: ConfigNumber },
    /// The frame was meant for an earlier opening of the silo.
    Incarnation { current: Incarnation },
    /// The epoch was not promised or not adopted here, or the history is not the expected one.
    OutOfStep,
    /// The silo is out of service.
    Faulted(String),
    /// The silo is not open here.
    Unknown,
}

/// Why a silo did not read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReadRefusal {
    Fenced {
        promise: Epoch,
    },
    /// The silo has not applied what the read needs, or is incomplete.
    Behind,
    /// A stored block does not match its checksum.
    Damaged {
        block: u64,
    },
    Faulted(String),
}

impl ToSilo {
    pub fn silo(&self) -> SiloId {
        match self {
            ToSilo::Append(append) => append.silo,
            ToSilo::Rare(silo, _, _) => *silo,
        }
    }

    pub fn volume(&self) -> VolumeId {
        match self {
            ToSilo::Append(append) => append.record.header.volume,
            ToSilo::Rare(_, volume, _) => *volume,
        }
    }

    /// Bytes that carrying it out writes; none if it may take long, as a commit, a transfer and a repair do.
    pub fn light_bytes(&self) -> Option<usize> {
        use Request::{Allocation, Delta, Fetch, Heartbeat, Read, Sync};
        match self {
            ToSilo::Append(append) => Some(append.record.payload.len()),
            ToSilo::Rare(.., Heartbeat { .. } | Sync { .. } | Read { .. }) => Some(0),
            ToSilo::Rare(.., Allocation { .. } | Delta { .. } | Fetch { .. }) => Some(0),
            ToSilo::Rare(..) => None,
        }
    }

    /// Whether it is a write that is to be made durable at once.
    pub fn is_synced_write(&self) -> bool {
        matches!(self, ToSilo::Append(append) if append.sync)
    }

    pub fn encode(self) -> Frame {
        match self {
            ToSilo::Append(append) => append.encode(),
            ToSilo::Rare(silo, volume, request) => rare(&(silo, volume, request)),
        }
    }

    pub fn decode(mut bytes: Bytes) -> Result<ToSilo, BadMessage> {
        match bytes.first() {
            Some(&KIND_HOT) => {
                if bytes.len() < APPEND_BYTES {
                    return Err(BadMessage::Short);
                }
                let head = bytes.split_to(APPEND_BYTES);
                let record = Record::decode(&mut bytes).map_err(BadMessage::Record)?;
                if !bytes.is_empty() {
                    return Err(BadMessage::Trailing);
                }
                Ok(ToSilo::Append(Append {
                    sync: head[1] & 1 != 0,
                    config: ConfigNumber(u32::from_le_bytes(at(&head, 4))),
                    silo: SiloId(at(&head, 8)),
                    epoch: Epoch(u64_at(&head, 24)),
                    previous: Seq(u64_at(&head, 32)),
                    incarnation: Incarnation(u64_at(&head, 40)),
                    committed: Seq(u64_at(&head, 48)),
                    sent: u64_at(&head, 56),
                    record,
                }))
            }
            Some(&KIND_RARE) => {
                postcard::from_bytes(&bytes[1..]).map(|(s, v, r)| ToSilo::Rare(s, v, r)).map_err(|_| BadMessage::Rare)
            }
            Some(&kind) => Err(BadMessage::Kind(kind)),
            None => Err(BadMessage::Short),
        }
    }
}

impl Append {
    fn encode(self) -> Frame {
        let mut head = BytesMut::with_capacity(APPEND_BYTES);
        head.put_u8(KIND_HOT);
        head.put_u8(u8::from(self.sync));
        head.put_u16_le(0);
        head.put_u32_le(self.config.0);
        head.put_slice(&self.silo.0);
        head.put_u64_le(self.epoch.0);
        head.put_u64_le(self.previous.0);
        head.put_u64_le(self.incarnation.0);
        head.put_u64_le(self.committed.0);
        head.put_u64_le(self.sent);
        Frame { parts: [head.freeze(), self.record.head, self.record.payload] }
    }
}

impl FromSilo {
    pub fn volume(&self) -> VolumeId {
        match self {
            FromSilo::Ack(ack) => ack.key.volume,
            FromSilo::Rare(_, volume, _) => *volume,
        }
    }

    pub fn silo(&self) -> SiloId {
        match self {
            FromSilo::Ack(ack) => ack.silo,
            FromSilo::Rare(silo, _, _) => *silo,
        }
    }

    pub fn encode(&self) -> Frame {
        let ack = match self {
            FromSilo::Ack(ack) => ack,
            FromSilo::Rare(silo, volume, answer) => return rare(&(silo, volume, answer)),
        };
        let mut out = BytesMut::with_capacity(ACK_BYTES);
        out.put_u8(KIND_HOT);
        out.put_u8(u8::from(ack.takes_writes));
        out.put_u16_le(0);
        out.put_u32_le(ack.key.slot.0);
        out.put_slice(&ack.silo.0);
        out.put_slice(&ack.key.volume.0);
        out.put_u64_le(ack.epoch.0);
        out.put_u64_le(ack.incarnation.0);
        out.put_u64_le(ack.applied.0);
        out.put_u64_le(ack.durable.0);
        out.put_u64_le(ack.sent);
        Frame::one(out)
    }

    pub fn decode(bytes: &[u8]) -> Result<FromSilo, BadMessage> {
        match bytes.first() {
            Some(&KIND_HOT) if bytes.len() == ACK_BYTES => Ok(FromSilo::Ack(Ack {
                takes_writes: bytes[1] & 1 != 0,
                silo: SiloId(at(bytes, 8)),
                key: SlotKey { volume: VolumeId(at(bytes, 24)), slot: SlotIndex(u32::from_le_bytes(at(bytes, 4))) },
                epoch: Epoch(u64_at(bytes, 40)),
                incarnation: Incarnation(u64_at(bytes, 48)),
                applied: Seq(u64_at(bytes, 56)),
                durable: Seq(u64_at(bytes, 64)),
                sent: u64_at(bytes, 72),
            })),
            Some(&KIND_HOT) | None => Err(BadMessage::Short),
            Some(&KIND_RARE) => {
                postcard::from_bytes(&bytes[1..]).map(|(s, v, a)| FromSilo::Rare(s, v, a)).map_err(|_| BadMessage::Rare)
            }
            Some(&kind) => Err(BadMessage::Kind(kind)),
        }
    }
}

/// Why bytes from a peer are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadMessage {
    Short,
    Trailing,
    Kind(u8),
    Rare,
    Record(RecordError),
}

impl fmt::Display for BadMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadMessage::Short => f.write_str("the message is cut short"),
            BadMessage::Trailing => f.write_str("bytes follow the message"),
            BadMessage::Kind(kind) => write!(f, "unknown kind of message {kind}"),
            BadMessage::Rare => f.write_str("the message cannot be decoded"),
            BadMessage::Record(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for BadMessage {}

fn rare<T: Serialize>(message: &T) -> Frame {
    // Encoding to memory fails only for types that postcard cannot express, and these are not among them.
    let bytes = postcard::to_extend(message, vec![KIND_RARE]).expect("messages are plain data");
    Frame::one(bytes)
}

fn at<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[offset..offset + N]);
    array
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(at(bytes, offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append() -> Append {
        let key = SlotKey { volume: VolumeId([4; 16]), slot: SlotIndex(2) };
        Append {
            silo: SiloId([1; 16]),
            config: ConfigNumber(3),
            epoch: Epoch(9),
            previous: Seq(10),
            incarnation: Incarnation(77),
            committed: Seq(8),
            sent: 123,
            sync: true,
            record: Record::write(key, 4096, Stamp::new(Epoch(9), Seq(11)), Bytes::from(vec![1; 4096])),
        }
    }

    #[test]
    fn messages_read_back() {
        let message = ToSilo::Append(append());
        assert_eq!(ToSilo::decode(message.clone().encode().into_bytes()), Ok(message));
        let parcel = Parcel { listings: vec![], records: Bytes::from_static(b"abc") };
        let transfer = Request::Transfer {
            slot: SlotIndex(1),
            epoch: Epoch(2),
            incarnation: Incarnation(3),
            attempt: 1,
            cursor: 4,
            parcel: parcel.clone(),
        };
        let message = ToSilo::Rare(SiloId([1; 16]), VolumeId([2; 16]), transfer);
        assert_eq!(ToSilo::decode(message.clone().encode().into_bytes()), Ok(message));
        let ack = Ack {
            silo: SiloId([1; 16]),
            key: append().record.header.key(),
            epoch: Epoch(1),
            incarnation: Incarnation(2),
            applied: Seq(3),
            durable: Seq(4),
            takes_writes: true,
            sent: 5,
        };
        assert_eq!(FromSilo::decode(&FromSilo::Ack(ack).encode().into_bytes()), Ok(FromSilo::Ack(ack)));
        let answer = Answer::Delta { id: 7, result: Ok((parcel, Some(9))) };
        let answer = FromSilo::Rare(SiloId([1; 16]), VolumeId([2; 16]), answer);
        assert_eq!(FromSilo::decode(&answer.encode().into_bytes()), Ok(answer));
    }

    #[test]
    fn cut_messages_are_refused() {
        let whole = ToSilo::Append(append()).encode().into_bytes();
        for len in 0..whole.len() {
            assert!(ToSilo::decode(whole.slice(..len)).is_err());
        }
    }
}
