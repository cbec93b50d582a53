//! The attached writer of a volume: orders requests, numbers writes, streams them to the silos of each slot, answers
//! at a majority, and recovers the slots' histories when it is attached.
//!
//! Pure: events come in through [`Writer`]'s methods with the time, and [`Output`]s are taken with
//! [`Writer::take_outputs`]. The write path in order of its files: [`requests`] (a request enters, is ordered and
//! gets its number) → [`stream`] (records go out, acknowledgements come back, answers are given) → [`flush`];
//! [`reads`], [`repairs`], [`suspension`]; [`recovery`] (promises, votes, the choice, adoption) and [`catchup`] bring silos to the stream;
//! [`links`] is what is known of each silo; [`reconfigure`] changes which silos a slot has; [`report`] tells people.

pub mod catchup;
pub mod flush;
pub mod half;
pub mod links;
pub mod reads;
pub mod reconfigure;
pub mod recovery;
pub mod repairs;
pub mod report;
pub mod requests;
pub mod slots;
pub mod stream;
pub mod suspension;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use crate::base::clock::Moment;
use crate::base::id::{ConfigNumber, Epoch, Incarnation, NodeId, Seq, SiloId, SlotIndex, VolumeId};
use crate::base::mutant::{Mutant, on};
use crate::cluster::replication::message::{self, Answer, FromSilo, Refusal, Run, ToSilo};
use crate::cluster::replication::order::{Order, RequestId};
use crate::cluster::replication::writer::flush::Flush;
use crate::cluster::replication::writer::links::Link;
use crate::cluster::replication::writer::reads::{ReadFor, ReadTask};
use crate::cluster::replication::writer::repairs::{Damage, Repair};
use crate::cluster::replication::writer::requests::Pending;
use crate::cluster::replication::writer::slots::Slot;

/// Bytes of writes that a volume remembers until a majority has them durably (rule 4).
pub const RETAINED_BYTES_MAX: usize = 64 << 20;
/// Bytes of writes that all volumes attached to a node remember together: their shares shrink beyond 16 volumes.
pub const RETAINED_NODE_BYTES_MAX: usize = 1 << 30;
/// No volume's share is smaller, so that each still keeps its silos' disks busy.
pub const RETAINED_BYTES_MIN: usize = 1 << 20;
/// Writes that a volume remembers.
pub const RETAINED_WRITES_MAX: usize = 65_536;
/// Bytes of the stream on their way to one silo of one slot, sent and not acknowledged (rule 4).
pub const WINDOW_BYTES: usize = 8 << 20;
/// Without an acknowledgement for so long, the stream is sent again from what was acknowledged. Connections are
/// ordered and reliable, so this is for a peer that lost its place, not for the network's sake.
pub const RESEND_AFTER: Duration = Duration::from_secs(2);
/// A read that a silo has not answered for so long is asked of another.
pub const READ_ELSEWHERE_AFTER: Duration = Duration::from_millis(500);
/// A chosen history whose every holder is gone for so long is given up, with the epoch (rule 12).
pub const SOURCE_GONE_AFTER: Duration = Duration::from_secs(2);

/// When a write is answered (rule 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// A majority handed it to its operating systems; a flush makes it durable.
    Flush,
    /// A majority has it on its disks.
    Write,
}

/// What a writer is started with.
#[derive(Clone, Debug)]
pub struct WriterOptions {
    pub volume: VolumeId,
    pub epoch: Epoch,
    pub node: NodeId,
    /// This node's earlier epochs of this volume are dead; see `Request::Promote`.
    pub own_dead: bool,
    /// The epoch that this daemon's clients may still believe in, after a restart (rule 15).
    pub resumes: Option<Epoch>,
    pub lease: Duration,
    pub durability: Durability,
    /// I/O to a slot without a majority fails after so long; without a limit it waits (rule 11).
    pub io_timeout: Option<Duration>,
    /// Silos that lost something they once reported durable vote all the same: the operator accepts the loss (rule 14).
    pub accept_loss: bool,
    pub slot_bytes: u64,
    /// The silos of each slot, in order of the slots.
    pub slots: Vec<(ConfigNumber, Vec<SiloId>)>,
    /// The incarnations that the cluster state knows.
    pub incarnations: BTreeMap<SiloId, Incarnation>,
    /// How near silos are; those that are not named are away.
    pub distances: BTreeMap<SiloId, Distance>,
}

impl WriterOptions {
    /// Reads and transfers come from the nearest silo that can give them.
    pub(super) fn distance(&self, silo: SiloId) -> Distance {
        self.distances.get(&silo).copied().unwrap_or(Distance::Away)
    }
}

/// How far a silo is from the writer, nearest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Distance {
    /// On this node.
    Here,
    /// In this node's zone.
    Zone,
    Away,
}

/// Tells whether the client of a request still waits for it.
pub type Stands = std::sync::Arc<dyn Fn() -> bool + Send + Sync>;

/// What a client asks for. Positions and lengths are bytes within the volume; the caller has checked the range.
#[derive(Clone)]
pub enum Request {
    /// Whole blocks within one slot.
    Read {
        first_block: u64,
        blocks: u32,
    },
    Write {
        position: u64,
        data: Bytes,
        fua: bool,
        stands: Stands,
    },
    /// Whole blocks read as zeroes from here on, and stay allocated.
    Zero {
        position: u64,
        length: u64,
        fua: bool,
        stands: Stands,
    },
    /// Whole blocks read as zeroes from here on, and hold no space.
    Trim {
        position: u64,
        length: u64,
        fua: bool,
        stands: Stands,
    },
    Flush,
    /// The allocation of whole blocks within one slot.
    Allocation {
        first_block: u64,
        blocks: u64,
    },
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    Done,
    Data(Bytes),
    Runs(Vec<Run>),
}

/// Why a request was not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// No majority of the slot's silos takes new writes.
    NoSpace,
    /// The client was gone before the request got its number.
    Abandoned,
    /// Another writer took over, or this one was released.
    Fenced,
    /// Every silo that could have these bytes says that they are damaged.
    Unreadable,
    /// A majority of the slot's silos is missing for longer than the policy lets I/O wait. A write may still take
    /// effect.
    TimedOut,
}

/// What the driver must do.
#[derive(Clone, Debug)]
pub enum Output {
    Send(SiloId, ToSilo),
    Answer(RequestId, Result<Response, RequestError>),
    /// All slots are recovered: requests are served from here on.
    Serving {
        /// Old clients may go on (rule 15): nobody wrote since, and nothing answered was lost. None if not asked.
        resumed: Option<bool>,
    },
    /// A higher epoch was promised somewhere: every pending request was answered with [`RequestError::Fenced`].
    Fenced {
        promise: Epoch,
    },
    /// The chosen history cannot be had any more: ask for the next epoch and start again.
    GiveUp,
    /// A majority of every slot let go of the lease.
    Released,
    /// The cluster state is to be asked to take these silos for the slot, if its epoch and configuration are these still;
    /// [`Writer::proposal_ended`] says what came of it.
    Reconfigure {
        slot: SlotIndex,
        config: ConfigNumber,
        /// Those that it has until then.
        before: Vec<SiloId>,
        silos: Vec<SiloId>,
    },
    /// No slot has this silo any more.
    Disconnect(SiloId),
}

/// Where a writer is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Recovering,
    Serving,
    /// Fenced, given up or released: it does nothing any more.
    Over,
}

/// The machine.
pub struct Writer {
    options: WriterOptions,
    started: Moment,
    /// Since when the writer has ticked without standing still, and when it last did.
    awake_since: Moment,
    ticked_at: Moment,
    phase: Phase,
    next_seq: Seq,
    slots: Vec<Slot>,
    links: BTreeMap<SiloId, Link>,
    order: Order,
    pending: BTreeMap<RequestId, Pending>,
    /// When a client last asked for something.
    asked_at: Moment,
    /// Writes that wait for room among the retained ones, for recovery, or for space.
    parked: VecDeque<RequestId>,
    reads: BTreeMap<u64, ReadTask>,
    flushes: BTreeMap<RequestId, Flush>,
    rhythm: flush::Rhythm,
    repairs: BTreeMap<Damage, Repair>,
    repaired_blocks: u64,
    next_id: u64,
    retained_bytes: usize,
    retained_writes: usize,
    /// This volume's share of what the node remembers.
    retained_bytes_max: usize,
    releasing: bool,
    released: BTreeSet<SiloId>,
    next_heartbeat: Moment,
    outputs: Vec<Output>,
}

impl Writer {
    pub fn new(options: WriterOptions, now: Moment) -> Self {
        let mut links = BTreeMap::new();
        for silo in options.slots.iter().flat_map(|(_, silos)| silos) {
            links.entry(*silo).or_insert_with(|| Link::new(options.incarnations.get(silo).copied()));
        }
        let slots = options.slots.iter().enumerate().map(|(index, slot)| Slot::new(index, slot)).collect();
        Self {
            options,
            started: now,
            awake_since: now,
            ticked_at: now,
            phase: Phase::Recovering,
            next_seq: Seq(1),
            slots,
            links,
            order: Order::default(),
            pending: BTreeMap::new(),
            asked_at: Moment::default(),
            parked: VecDeque::new(),
            reads: BTreeMap::new(),
            flushes: BTreeMap::new(),
            rhythm: flush::Rhythm::default(),
            repairs: BTreeMap::new(),
            repaired_blocks: 0,
            next_id: 1,
            retained_bytes: 0,
            retained_writes: 0,
            retained_bytes_max: RETAINED_BYTES_MAX,
            releasing: false,
            released: BTreeSet::new(),
            next_heartbeat: now,
            outputs: Vec::new(),
        }
    }

    pub fn phase(&self) -> Phase {
        self.phase
    }

    pub fn epoch(&self) -> Epoch {
        self.options.epoch
    }

    /// The silos that this writer wants connections to.
    pub fn silos(&self) -> impl Iterator<Item = SiloId> + '_ {
        self.links.keys().copied()
    }

    pub fn take_outputs(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.outputs)
    }

    /// A connection to the silo's node stands.
    pub fn connected(&mut self, now: Moment, silo: SiloId) {
        if self.phase == Phase::Over {
            return;
        }
        self.disconnected(now, silo);
        if let Some(link) = self.links.get_mut(&silo) {
            link.connected = true;
            if self.releasing {
                self.send(silo, message::Request::Release { epoch: self.options.epoch });
            } else {
                self.promote(now, silo);
            }
        }
    }

    /// The cluster state took note of a silo's incarnation: from there on its chain may begin there.
    pub fn confirmed(&mut self, silo: SiloId, incarnation: Incarnation) {
        if let Some(link) = self.links.get_mut(&silo) {
            link.confirmed(incarnation);
        }
    }

    /// The connection broke; what was under way on it is asked elsewhere or again.
    pub fn disconnected(&mut self, now: Moment, silo: SiloId) {
        let Some(link) = self.links.get_mut(&silo) else { return };
        link.broken();
        for index in 0..self.slots.len() {
            self.slots[index].broken(now, silo);
            self.source_gone(index, silo, now);
        }
        self.reads_of_gone(now, silo);
        self.repairs_of_gone(now, silo);
    }

    /// A message of a silo. What belongs to another epoch or to an earlier opening of the silo is dropped.
    pub fn message(&mut self, now: Moment, message: FromSilo) {
        if self.phase == Phase::Over {
            return;
        }
        let silo = message.silo();
        if let Some(link) = self.links.get_mut(&silo) {
            link.heard = now;
        }
        match message {
            FromSilo::Ack(ack) => self.acknowledged(now, ack),
            FromSilo::Rare(_, _, answer) => self.answer(now, silo, answer),
        }
    }

    fn answer(&mut self, now: Moment, silo: SiloId, answer: Answer) {
        match answer {
            Answer::Promised(promised) => self.promised(now, silo, promised),
            Answer::Refused { slot, epoch, reason } => self.refused(now, silo, slot, epoch, reason),
            Answer::Gap { slot, epoch, incarnation, applied } => {
                if self.is_current(silo, epoch, incarnation) {
                    self.gap(now, silo, slot, applied);
                }
            }
            Answer::Renewed { epoch, incarnation, sent } => {
                if self.is_current(silo, epoch, incarnation) {
                    self.renewed(now, silo, sent);
                }
            }
            Answer::CatchingUp { slot, epoch, incarnation, attempt, changed } => {
                if self.is_current(silo, epoch, incarnation) {
                    self.catching_up(now, silo, slot, attempt, changed);
                }
            }
            Answer::Transferred { slot, epoch, incarnation, attempt, cursor } => {
                if self.is_current(silo, epoch, incarnation) {
                    self.transferred(now, silo, slot, attempt, cursor);
                }
            }
            Answer::Adopted { slot, epoch, incarnation, attempt, applied } => {
                if self.is_current(silo, epoch, incarnation) {
                    self.adopted(now, silo, slot, attempt, applied);
                }
            }
            Answer::Read { id, result } => self.read_done(now, silo, id, result.map(ReadFor::data)),
            Answer::Allocation { id, result } => self.read_done(now, silo, id, result.map(ReadFor::runs)),
            Answer::Delta { id, result } => self.delta_done(now, silo, id, result),
            Answer::Fetched { id, result } => self.fetched(now, silo, id, result),
            Answer::Indexed { id, result } => self.indexed(now, silo, id, result),
            Answer::Repaired { slot, epoch, incarnation, block, mended } => {
                if self.is_current(silo, epoch, incarnation) {
                    self.repaired(now, silo, slot, block, mended);
                }
            }
            Answer::Damaged { slot, epoch, block } => self.told_of_damage(now, silo, slot, epoch, block),
            Answer::Released { epoch } => self.let_go(silo, epoch),
        }
    }

    /// Lets time pass: heartbeats, retries, and what waited for a lease.
    pub fn tick(&mut self, now: Moment) {
        if self.phase == Phase::Over {
            return;
        }
        if now.since(self.ticked_at) >= half::STOOD_STILL_AFTER {
            self.awake_since = now;
        }
        self.ticked_at = now;
        self.tick_links(now);
        for index in 0..self.slots.len() {
            self.tick_slot(index, now);
        }
        self.tick_reads(now);
        self.tick_repairs(now);
        self.tick_suspension(now);
        self.unpark(now);
    }

    /// Whether nothing is under way that time could change, but for the next heartbeat.
    pub fn is_at_rest(&self) -> bool {
        let idle = self.pending.is_empty() && self.parked.is_empty() && self.reads.is_empty();
        let done = self.flushes.is_empty() && self.repairs.is_empty() && !self.releasing;
        let whole = self.slots.iter().all(|slot| slot.change.is_none() && slot.peers.iter().all(slots::Peer::is_live));
        self.phase == Phase::Serving && idle && done && whole
    }

    /// This volume's share of the bytes of writes that the node may remember, at most [`RETAINED_BYTES_MAX`]. What is
    /// remembered above a share that shrank is released as ever, once a majority has it durably.
    pub fn set_retained_bytes_max(&mut self, bytes: usize) {
        self.retained_bytes_max = bytes.min(RETAINED_BYTES_MAX);
    }

    /// Another writer is known to have a higher epoch (from the cluster state): stops here.
    pub fn fence(&mut self, promise: Epoch) {
        if self.phase != Phase::Over {
            self.end();
            self.outputs.push(Output::Fenced { promise });
        }
    }

    /// Lets the lease go everywhere. The driver has flushed before; what is still pending fails, and fails now: from
    /// the first silo's letting go on, another writer may take over.
    pub fn release(&mut self) {
        if self.phase == Phase::Over || self.releasing {
            return;
        }
        self.releasing = true;
        self.fail_pending();
        // The last reports, which the release makes durable; sent at no time, they renew no lease of this writer's.
        self.heartbeat(Moment::default());
        let epoch = self.options.epoch;
        let connected: Vec<SiloId> = self.links.iter().filter(|(_, link)| link.connected).map(|(s, _)| *s).collect();
        for silo in connected {
            self.send(silo, message::Request::Release { epoch });
        }
        self.check_released();
    }

    fn let_go(&mut self, silo: SiloId, epoch: Epoch) {
        if self.releasing && epoch == self.options.epoch {
            self.released.insert(silo);
            self.check_released();
        }
    }

    fn check_released(&mut self) {
        let everywhere = self.slots.iter().all(|slot| slot.has_majority(|peer| self.released.contains(&peer.silo)));
        if everywhere && self.phase != Phase::Over {
            self.end();
            self.outputs.push(Output::Released);
        }
    }

    /// Ends this writer: everything pending fails.
    fn end(&mut self) {
        self.phase = Phase::Over;
        self.fail_pending();
    }

    fn fail_pending(&mut self) {
        let ids: Vec<RequestId> = self.pending.keys().chain(self.flushes.keys()).copied().collect();
        for id in ids {
            self.outputs.push(Output::Answer(id, Err(RequestError::Fenced)));
        }
        self.pending.clear();
        self.flushes.clear();
        self.parked.clear();
        self.reads.clear();
        self.repairs.clear();
    }

    fn refused(&mut self, now: Moment, silo: SiloId, slot: Option<SlotIndex>, epoch: Epoch, reason: Refusal) {
        if epoch != self.options.epoch && !matches!(reason, Refusal::Faulted(_)) {
            return;
        }
        match reason {
            // Even if the promise is this epoch: then its lease was released, and it is over.
            Refusal::Fenced { promise } => self.fence(promise),
            Refusal::Leased { remaining_ms, .. } => self.leased(now, silo, remaining_ms),
            Refusal::Faulted(why) => self.faulted(silo, why),
            Refusal::Configuration { .. } | Refusal::Incarnation { .. } | Refusal::OutOfStep | Refusal::Unknown => {
                self.out_of_step(now, silo, slot);
            }
        }
    }

    fn is_current(&self, silo: SiloId, epoch: Epoch, incarnation: Incarnation) -> bool {
        let is_same = |link: &Link| link.incarnation == incarnation || on(Mutant::AckOfOldIncarnation);
        epoch == self.options.epoch && self.links.get(&silo).is_some_and(|link| link.promised && is_same(link))
    }

    fn send(&mut self, silo: SiloId, request: message::Request) {
        self.outputs.push(Output::Send(silo, ToSilo::Rare(silo, self.options.volume, request)));
    }

    fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
}
