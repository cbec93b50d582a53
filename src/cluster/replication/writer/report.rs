//! What people are told of a volume: each slot's health, each silo's place in it, and what would mend it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::block::{BLOCK_BYTES, EXTENT_BLOCKS};
use crate::base::clock::Moment;
use crate::base::id::{Seq, SiloId};
use crate::cluster::replication::writer::catchup::CatchUp;
use crate::cluster::replication::writer::slots::{Mode, OutReason, Peer, Slot, after};
use crate::cluster::replication::writer::{Phase, Writer};
use crate::store::slot::Vote;

/// A writer's state at a moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub epoch: u64,
    pub serving: bool,
    pub slots: Vec<SlotReport>,
    /// Requests that are not answered yet, and how many of those are reads that no silo can serve now.
    pub pending_requests: usize,
    pub waiting_reads: usize,
    pub retained_bytes: usize,
    pub retained_writes: usize,
    /// Damaged blocks that were stored again from another copy since the volume was attached.
    pub repaired_blocks: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotReport {
    pub slot: u32,
    /// How many silos must be live for I/O.
    pub majority: usize,
    /// A majority adopted the epoch and is live now.
    pub serving: bool,
    pub suspended_ms: Option<u64>,
    /// The history that was chosen at the attach; none yet if no majority voted.
    pub chosen: Option<Vote>,
    /// The most that any of the silos is known to have had on its disk.
    pub known: Vote,
    pub silos: Vec<SiloReport>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiloReport {
    pub silo: SiloId,
    pub state: SiloState,
    /// Records of the slot's stream that this silo has not applied, and the bytes they carry; none where that is not known:
    /// it is away or receives a transfer, and what it lacks is no longer all remembered.
    pub behind_writes: Option<u64>,
    pub behind_bytes: Option<u64>,
    /// Bytes moved to it so far, while it receives a transfer.
    pub moved_bytes: Option<u64>,
    pub takes_writes: bool,
    /// Sent apart from the rest, which daemons of 0.1.0 read: [`Report::changes`].
    #[serde(skip)]
    pub change: Change,
}

/// How a silo's place in a slot changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// How long a transfer to it has taken so far.
    pub elapsed_ms: u64,
    /// The volume's bytes up to here are compared and moved, as far as they are the slot's.
    pub position: u64,
    /// It is not one of the slot's yet: it is being brought up to date to become one.
    pub newcomer: bool,
    /// Another is to take its place.
    pub leaves: bool,
}

impl Report {
    /// What is sent apart: a change for each silo, in the order of the slots.
    pub fn changes(&self) -> Vec<Change> {
        self.slots.iter().flat_map(|slot| slot.silos.iter().map(|silo| silo.change)).collect()
    }

    /// Puts what was sent apart into its place.
    pub fn take_changes(&mut self, changes: Vec<Change>) {
        let silos = self.slots.iter_mut().flat_map(|slot| &mut slot.silos);
        for (silo, change) in silos.zip(changes) {
            silo.change = change;
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SiloState {
    /// Complete and in the stream.
    Live,
    /// Connected; promising, voting or adopting.
    Joining,
    /// Another holder's lease runs out on it in about so many milliseconds.
    Leased(u64),
    CatchingUp,
    Unreachable,
    /// It lost something that it had reported durable.
    Damaged,
    /// It is not the silo that the cluster knows.
    Foreign,
    Faulted(String),
}

impl SlotReport {
    /// So many silos lost what they had reported durable that the others are no majority (rule 14).
    pub fn has_too_few_voters(&self) -> bool {
        let whole = self.silos.iter().filter(|silo| !silo.change.newcomer && silo.state != SiloState::Damaged).count();
        self.chosen.is_none() && whole < self.majority
    }
}

impl Writer {
    pub fn report(&self, now: Moment) -> Report {
        Report {
            epoch: self.options.epoch.0,
            serving: self.phase == Phase::Serving,
            slots: self.slots.iter().map(|slot| self.slot_report(slot, now)).collect(),
            pending_requests: self.pending_requests(),
            waiting_reads: self.reads_waiting(),
            retained_bytes: self.retained_bytes,
            retained_writes: self.retained_writes,
            repaired_blocks: self.repaired_blocks,
        }
    }

    fn slot_report(&self, slot: &Slot, now: Moment) -> SlotReport {
        SlotReport {
            slot: slot.index.0,
            majority: slot.majority(),
            serving: slot.adopted && slot.has_majority(Peer::is_live),
            suspended_ms: slot.suspended_since.map(|since| now.since(since).as_millis() as u64),
            chosen: slot.choice.map(|choice| choice.vote),
            known: slot.reported.values().copied().max().unwrap_or_default(),
            silos: slot.peers.iter().map(|peer| self.silo_report(slot, peer, now)).collect(),
        }
    }

    fn silo_report(&self, slot: &Slot, peer: &Peer, now: Moment) -> SiloReport {
        let link = self.links.get(&peer.silo);
        let out = link.and_then(|link| link.out.as_ref()).or(peer.out.as_ref());
        let leased = link.and_then(|link| link.leased_until).map(|until| until.since(now)).unwrap_or_default();
        let state = match (&peer.mode, out) {
            (_, Some(OutReason::Damaged)) => SiloState::Damaged,
            (_, Some(OutReason::Foreign)) => SiloState::Foreign,
            (_, Some(OutReason::Faulted(why))) => SiloState::Faulted(why.clone()),
            (Mode::Live, None) => SiloState::Live,
            (Mode::CatchingUp(_), None) => SiloState::CatchingUp,
            (Mode::Voted(_) | Mode::Adopting { .. }, None) => SiloState::Joining,
            (Mode::Away, None) if leased > Duration::ZERO => SiloState::Leased(leased.as_millis() as u64),
            (Mode::Away, None) if link.is_some_and(|link| link.connected) => SiloState::Joining,
            (Mode::Away, None) => SiloState::Unreachable,
        };
        let behind = match &peer.mode {
            Mode::Live | Mode::Away => lacks(slot, peer.applied),
            Mode::CatchingUp(_) | Mode::Voted(_) | Mode::Adopting { .. } => None,
        };
        let transfer = if let Mode::CatchingUp(catch_up) = &peer.mode { Some(catch_up) } else { None };
        let position = |catch_up: &CatchUp| catch_up.next_extent.saturating_mul(EXTENT_BLOCKS * BLOCK_BYTES);
        SiloReport {
            silo: peer.silo,
            state,
            behind_writes: behind.map(|(writes, _)| writes),
            behind_bytes: behind.map(|(_, bytes)| bytes),
            moved_bytes: transfer.map(|catch_up| catch_up.moved_bytes),
            takes_writes: link.is_none_or(|link| link.takes_writes),
            change: Change {
                elapsed_ms: transfer.map_or(0, |catch_up| now.since(catch_up.begun).as_millis() as u64),
                position: transfer.map_or(0, position),
                newcomer: !slot.is_member(peer.silo),
                leaves: slot.change.as_ref().is_some_and(|change| !change.target.contains(&peer.silo)),
            },
        }
    }
}

/// The records after `applied` and the bytes they carry, if all of them are still remembered.
fn lacks(slot: &Slot, applied: Seq) -> Option<(u64, u64)> {
    if !slot.adopted || applied < slot.memory_starts() {
        return None;
    }
    let from = after(&slot.retained, applied);
    let records = slot.retained.range(from..);
    Some((records.len() as u64, records.map(|retained| retained.record.payload.len() as u64).sum()))
}
