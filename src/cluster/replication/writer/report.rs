//! What people are told of a volume: each slot's health, each silo's place in it, and what would mend it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::clock::Moment;
use crate::base::id::{Seq, SiloId};
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
        let damaged = self.silos.iter().filter(|silo| silo.state == SiloState::Damaged).count();
        self.chosen.is_none() && self.silos.len() - damaged < self.majority
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
        let moved_bytes = if let Mode::CatchingUp(catch_up) = &peer.mode { Some(catch_up.moved_bytes) } else { None };
        SiloReport {
            silo: peer.silo,
            state,
            behind_writes: behind.map(|(writes, _)| writes),
            behind_bytes: behind.map(|(_, bytes)| bytes),
            moved_bytes,
            takes_writes: link.is_none_or(|link| link.takes_writes),
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
