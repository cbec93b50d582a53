//! Catching up (rule 16): what changed is read from a live silo and sent to the one that is behind, while the stream
//! goes on to both. All of it passes through the writer, so that each silo talks to nobody else and one machine
//! knows how far everything has come.

use std::time::Duration;

use crate::base::clock::Moment;
use crate::base::id::{Seq, SiloId, SlotIndex};
use crate::cluster::replication::message::{Parcel, ReadRefusal, Request};
use crate::cluster::replication::writer::Writer;
use crate::cluster::replication::writer::slots::{Mode, Peer};

/// An answer that takes longer is asked for again.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(3);

/// A source that could not read is asked again if there is no other: a repair takes a few round trips.
const FAILED_AGAIN_AFTER: Duration = Duration::from_millis(200);

/// While clients ask for anything, and in an epoch that serves none, the next part of a transfer is asked for no sooner than so
/// long after the last: foreground first. Parts end soon after half a mebibyte: 30 to 40 MiB/s a slot were measured.
const PACED_EVERY: Duration = Duration::from_millis(25);
/// A client that asked for nothing for so long is not there at the moment.
const FOREGROUND_FOR: Duration = Duration::from_millis(100);

/// A silo that is catching up.
#[derive(Clone, Debug)]
pub struct CatchUp {
    attempt: u64,
    /// Up to here its history agrees with the slot's.
    pub base: Seq,
    /// From here on it takes the stream.
    pub floor: Seq,
    /// The silo's own extents changed above the base: compared too, wherever the source has nothing newer.
    also: Vec<u64>,
    /// The highest number that a listing was read at.
    needs: Seq,
    stage: Stage,
    since: Moment,
    /// When the last part was asked for.
    part_at: Moment,
    cursor: u64,
    /// Silos that could not read what was asked of them: asked again only if there is no other.
    failed: Vec<SiloId>,
    pub moved_bytes: u64,
    /// When it began, and the first extent that was not transferred yet: they go in order.
    pub begun: Moment,
    pub next_extent: u64,
}

#[derive(Clone, Debug)]
enum Stage {
    /// Asked to persist that it is incomplete.
    Asked,
    /// Waits for a source that has applied the floor; the next extent to read.
    NeedsSource {
        from_extent: u64,
    },
    Fetching {
        source: SiloId,
        id: u64,
        from_extent: u64,
    },
    Sending {
        parcel: Parcel,
        next_extent: Option<u64>,
    },
    /// Everything is transferred; waits for the stream to pass what the listings need.
    Finishing,
    Adopting,
}

impl CatchUp {
    /// The attempt, if the silo was asked to adopt.
    pub fn adopting(&self) -> Option<u64> {
        matches!(self.stage, Stage::Adopting).then_some(self.attempt)
    }
}

impl Writer {
    /// The silo takes the stream from its present end on, and what it misses before that by transfer.
    pub(super) fn start_catch_up(&mut self, now: Moment, index: usize, silo: SiloId, base: Seq) {
        let attempt = self.fresh_id();
        let slot = &mut self.slots[index];
        // Nobody can be a source before one silo has adopted the chosen history.
        if !slot.peers.iter().any(|peer| peer.is_live() && peer.silo != silo) {
            return;
        }
        let floor = slot.last;
        let Some(peer) = slot.peer_mut(silo) else { return };
        peer.stream_from(now, floor);
        peer.applied = Seq::ZERO;
        peer.durable = Seq::ZERO;
        peer.mode = Mode::CatchingUp(CatchUp {
            attempt,
            base,
            floor,
            also: Vec::new(),
            needs: floor,
            stage: Stage::Asked,
            since: now,
            part_at: now,
            cursor: 0,
            failed: Vec::new(),
            moved_bytes: 0,
            begun: now,
            next_extent: 0,
        });
        self.ask_stage(now, index, silo);
        // It is no source any more: what it was asked it would answer from a history with holes.
        self.source_gone(index, silo, now);
    }

    /// Silos that could not be placed for want of a source may be now.
    pub(super) fn place_waiting(&mut self, now: Moment, index: usize) {
        for at in 0..self.slots[index].peers.len() {
            if matches!(self.slots[index].peers[at].mode, Mode::Voted(_)) {
                self.tick_peer(index, at, now);
            }
        }
        let fetching: Vec<SiloId> = self.slots[index]
            .peers
            .iter()
            .filter(|p| matches!(&p.mode, Mode::CatchingUp(c) if matches!(c.stage, Stage::NeedsSource { .. })))
            .map(|peer| peer.silo)
            .collect();
        for silo in fetching {
            self.ask_stage(now, index, silo);
        }
    }

    /// Sends what the stage of a silo's catching up asks for.
    fn ask_stage(&mut self, now: Moment, index: usize, silo: SiloId) {
        let epoch = self.options.epoch;
        let Some(incarnation) = self.links.get(&silo).map(|link| link.incarnation) else { return };
        let slot = self.slots[index].index;
        let Some(catch_up) = self.catch_up(index, silo) else { return };
        catch_up.since = now;
        let (attempt, base, floor, cursor) = (catch_up.attempt, catch_up.base, catch_up.floor, catch_up.cursor);
        let request = match &catch_up.stage {
            Stage::Asked => Request::CatchUp { slot, epoch, incarnation, attempt, base, floor },
            Stage::Sending { parcel, .. } => {
                Request::Transfer { slot, epoch, incarnation, attempt, cursor, parcel: parcel.clone() }
            }
            Stage::Adopting => Request::Adopt { slot, epoch, incarnation, attempt },
            Stage::NeedsSource { from_extent } | Stage::Fetching { from_extent, .. } => {
                let from_extent = *from_extent;
                self.fetch(now, index, silo, from_extent);
                return;
            }
            Stage::Finishing => return,
        };
        self.send(silo, request);
    }

    /// The silo persisted that it is incomplete.
    pub(super) fn catching_up(&mut self, now: Moment, silo: SiloId, slot: SlotIndex, attempt: u64, changed: Vec<u64>) {
        let index = slot.0 as usize;
        if index >= self.slots.len() {
            return;
        }
        let Some(catch_up) = self.catch_up(index, silo) else { return };
        if matches!(catch_up.stage, Stage::Asked) && catch_up.attempt == attempt {
            catch_up.also = changed;
            catch_up.stage = Stage::NeedsSource { from_extent: 0 };
            self.ask_stage(now, index, silo);
            self.pump(now, index);
        }
    }

    /// Asks a live silo that has applied the floor; without one, waits.
    fn fetch(&mut self, now: Moment, index: usize, silo: SiloId, from_extent: u64) {
        let epoch = self.options.epoch;
        let id = self.fresh_id();
        let Some(catch_up) = self.catch_up(index, silo) else { return };
        let (base, floor, failed) = (catch_up.base, catch_up.floor, catch_up.failed.clone());
        let also = catch_up.also.iter().copied().filter(|extent| *extent >= from_extent).collect();
        let able = || self.live(index).filter(|peer| peer.applied >= floor && peer.silo != silo);
        let fresh = || able().filter(|peer| !failed.contains(&peer.silo));
        let source =
            fresh().min_by_key(|peer| self.options.distance(peer.silo)).or_else(|| able().next()).map(|peer| peer.silo);
        let slot = self.slots[index].index;
        let Some(catch_up) = self.catch_up(index, silo) else { return };
        let Some(source) = source else {
            catch_up.stage = Stage::NeedsSource { from_extent };
            return;
        };
        catch_up.stage = Stage::Fetching { source, id, from_extent };
        catch_up.part_at = now;
        self.send(source, Request::Delta { id, slot, epoch, floor, base, from_extent, also });
    }

    /// A source answered: what it read goes to the silo that is behind.
    pub(super) fn delta_done(
        &mut self,
        now: Moment,
        source: SiloId,
        id: u64,
        result: Result<(Parcel, Option<u64>), ReadRefusal>,
    ) {
        let Some((index, silo)) = self.fetching(source, Some(id)) else { return };
        let (parcel, next_extent) = match result {
            Ok(read) => read,
            Err(ReadRefusal::Fenced { promise }) => return self.fence(promise),
            Err(ReadRefusal::Damaged { block }) => {
                self.source_failed(index, silo, source);
                return self.damaged(now, index, source, block);
            }
            Err(ReadRefusal::Behind | ReadRefusal::Faulted(_)) => return self.source_failed(index, silo, source),
        };
        let Some(catch_up) = self.catch_up(index, silo) else { return };
        catch_up.cursor += 1;
        catch_up.moved_bytes += parcel.records.len() as u64;
        catch_up.next_extent = next_extent.unwrap_or(u64::MAX);
        let highest = parcel.listings.iter().map(|listing| listing.floor).max();
        catch_up.needs = catch_up.needs.max(highest.unwrap_or_default());
        catch_up.stage = Stage::Sending { parcel, next_extent };
        self.ask_stage(now, index, silo);
    }

    /// The next tick asks another, if there is one.
    fn source_failed(&mut self, index: usize, silo: SiloId, source: SiloId) {
        let Some(catch_up) = self.catch_up(index, silo) else { return };
        if !catch_up.failed.contains(&source) {
            catch_up.failed.push(source);
        }
        if let Stage::Fetching { from_extent, .. } = catch_up.stage {
            catch_up.stage = Stage::NeedsSource { from_extent };
        }
    }

    /// The silo took a parcel.
    pub(super) fn transferred(&mut self, now: Moment, silo: SiloId, slot: SlotIndex, attempt: u64, cursor: u64) {
        let index = slot.0 as usize;
        if index >= self.slots.len() {
            return;
        }
        let Some(catch_up) = self.catch_up(index, silo) else { return };
        let Stage::Sending { next_extent, .. } = catch_up.stage else { return };
        if cursor != catch_up.cursor || attempt != catch_up.attempt {
            return;
        }
        match next_extent {
            Some(from_extent) => {
                catch_up.stage = Stage::NeedsSource { from_extent };
                if self.may_go_on(now, index, silo) {
                    self.ask_stage(now, index, silo);
                }
            }
            None => {
                catch_up.stage = Stage::Finishing;
                self.finish_catch_up(now, index, silo);
            }
        }
    }

    /// Everything is transferred and the stream has passed every listing's floor: the silo may adopt.
    pub(super) fn finish_catch_up(&mut self, now: Moment, index: usize, silo: SiloId) {
        let Some(applied) = self.slots[index].peer(silo).map(|peer| peer.applied) else { return };
        let Some(catch_up) = self.catch_up(index, silo) else { return };
        // Before its first acknowledgement the silo stands at the floor, where its stream starts.
        let stands = applied.max(catch_up.floor);
        if matches!(catch_up.stage, Stage::Finishing) && stands >= catch_up.needs {
            catch_up.stage = Stage::Adopting;
            self.ask_stage(now, index, silo);
        }
    }

    /// The source of some catching-up is gone: another is asked.
    pub(super) fn source_gone(&mut self, index: usize, source: SiloId, now: Moment) {
        let behind: Vec<SiloId> = self.slots[index]
            .peers
            .iter()
            .filter(|p| {
                matches!(&p.mode, Mode::CatchingUp(c)
                    if matches!(c.stage, Stage::Fetching { source: at, .. } if at == source))
            })
            .map(|peer| peer.silo)
            .collect();
        for silo in behind {
            self.ask_stage(now, index, silo);
        }
    }

    pub(super) fn tick_catch_up(&mut self, now: Moment, index: usize, silo: SiloId) {
        let Some(catch_up) = self.catch_up(index, silo) else { return };
        let (floor, failed) = (catch_up.floor, catch_up.failed.clone());
        let needs = matches!(catch_up.stage, Stage::NeedsSource { .. });
        let soon = now.since(catch_up.since) >= FAILED_AGAIN_AFTER;
        let is_fresh = |peer: &Peer| peer.applied >= floor && peer.silo != silo && !failed.contains(&peer.silo);
        let waiting = needs && (soon || self.live(index).any(is_fresh)) && self.may_go_on(now, index, silo);
        let Some(catch_up) = self.catch_up(index, silo) else { return };
        if waiting || now.since(catch_up.since) >= ASK_AGAIN_AFTER {
            self.ask_stage(now, index, silo);
        }
    }

    /// Whether the next part is to be asked for now, or by a later tick.
    fn may_go_on(&mut self, now: Moment, index: usize, silo: SiloId) -> bool {
        let is_asked = !self.pending.is_empty() || now.since(self.asked_at) < FOREGROUND_FOR;
        let is_paced = is_asked || self.options.lease.is_zero();
        let Some(catch_up) = self.catch_up(index, silo) else { return false };
        !is_paced || now.since(catch_up.part_at) >= PACED_EVERY
    }

    fn catch_up(&mut self, index: usize, silo: SiloId) -> Option<&mut CatchUp> {
        match &mut self.slots[index].peer_mut(silo)?.mode {
            Mode::CatchingUp(catch_up) => Some(catch_up),
            Mode::Away | Mode::Voted(_) | Mode::Adopting { .. } | Mode::Live => None,
        }
    }

    fn fetching(&self, source: SiloId, wanted: Option<u64>) -> Option<(usize, SiloId)> {
        self.slots.iter().enumerate().find_map(|(index, slot)| {
            let silo = slot.peers.iter().find(|peer| {
                matches!(&peer.mode, Mode::CatchingUp(c)
                    if matches!(c.stage, Stage::Fetching { source: at, id, .. }
                        if at == source && wanted.is_none_or(|wanted| wanted == id)))
            })?;
            Some((index, silo.silo))
        })
    }
}
