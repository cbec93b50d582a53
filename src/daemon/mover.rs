//! Slots go where they should lie: the cluster state says where that is, and whoever writes a volume moves its slots. Of one
//! that nobody is attached to, the leader of the cluster group does (`attachments/maintenance`).
//!
//! A few slots of a volume move at a time. One that is on its way goes on as long as it ends well, whatever else changes
//! meanwhile: else a cluster that changes often would begin much and end little.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::base::clock::wall_seconds;
use crate::base::id::{ConfigNumber, NodeId, SiloId, SlotIndex, VolumeId};
use crate::cluster::consensus::Group;
use crate::cluster::replication::driver::Target;
use crate::cluster::replication::writer::report::{Report, SiloReport, SiloState};
use crate::cluster::state::ClusterState;
use crate::cluster::state::level::Level;
use crate::cluster::state::plan::Move;
use crate::daemon::attachments::Attachments;

/// A writer that gave a move up is asked again after so long.
pub const AGAIN_AFTER: Duration = Duration::from_secs(2);
/// Slots of one volume that move at the same time.
const MOVES_A_VOLUME: usize = 2;
/// Volumes that the leader has move at the same time.
const MAINTAINED_MAX: usize = 4;
/// What could not be maintained is tried again after so long.
const MAINTAIN_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// A move that comes no further for so long gives its place to others, and is tried again after a rest.
const STUCK_AFTER: Duration = Duration::from_secs(30);
const REST: Duration = Duration::from_secs(60);

/// What was asked of a volume's writer and is not done.
#[derive(Default)]
pub struct Moving {
    slots: BTreeMap<SlotIndex, Begun>,
    /// Those that were stuck, and since when they rest.
    resting: BTreeMap<SlotIndex, Instant>,
}

/// A slot that moves.
struct Begun {
    config: ConfigNumber,
    silos: Vec<SiloId>,
    /// What was seen of it last, and since when nothing else.
    seen: Option<Vec<(SiloId, SiloState, u64)>>,
    since: Instant,
}

impl Begun {
    fn look(&mut self, now: Instant, slot: SlotIndex, report: Option<&Report>) {
        let reported = report.and_then(|report| report.slots.iter().find(|reported| reported.slot == slot.0));
        let silos = reported.map(|reported| reported.silos.iter());
        let seen = silos.map(|silos| {
            let moved = |silo: &SiloReport| silo.moved_bytes.unwrap_or(0).wrapping_add(silo.change.position);
            silos.map(|silo| (silo.silo, silo.state.clone(), moved(silo))).collect::<Vec<_>>()
        });
        if seen != self.seen {
            (self.seen, self.since) = (seen, now);
        }
    }
}

impl Moving {
    pub fn is_idle(&self) -> bool {
        self.slots.is_empty()
    }

    /// Whether something is to move and nothing can for now.
    pub fn only_rests(&self) -> bool {
        self.slots.is_empty() && !self.resting.is_empty()
    }

    /// Forgets what is done or is not to be done any more, begins what there is room for, and asks the writer for all of it:
    /// asked again, it goes on as it is. `report` is the writer's last.
    pub fn step(
        &mut self,
        now: Instant,
        state: &ClusterState,
        volume: VolumeId,
        moves: Vec<Move>,
        report: Option<&Report>,
        mut ask: impl FnMut(SlotIndex, Vec<Target>),
    ) {
        let Some(volume) = state.volumes.get(&volume) else { return };
        let planned: BTreeMap<SlotIndex, (ConfigNumber, Vec<SiloId>)> =
            moves.into_iter().map(|planned| (planned.slot, (planned.config, planned.silos))).collect();
        let candidates: BTreeSet<SiloId> =
            state.placement_candidates().into_iter().map(|candidate| candidate.silo).collect();
        let replicas = usize::from(volume.policy.replicas);
        self.resting.retain(|_, since| now.duration_since(*since) < REST);
        let mut given_up = Vec::new();
        let resting = &mut self.resting;
        self.slots.retain(|slot, begun| {
            let Some(placed) = volume.slots.get(slot.0 as usize) else { return false };
            if placed.config != begun.config {
                return false;
            }
            begun.look(now, *slot, report);
            // A plan that changes does not end what was begun and is as good: else much would begin and little end.
            let is_planned = planned.get(slot).is_some_and(|(_, silos)| *silos == begun.silos);
            let is_as_good = begun.silos.len() == replicas && begun.silos.iter().all(|silo| candidates.contains(silo));
            let is_stuck = now.duration_since(begun.since) >= STUCK_AFTER;
            if is_stuck {
                resting.insert(*slot, now);
            }
            let goes_on = (is_planned || is_as_good) && !is_stuck;
            if !goes_on {
                given_up.push((*slot, placed.silos.clone()));
            }
            goes_on
        });
        for (slot, (config, silos)) in planned {
            if self.slots.len() < MOVES_A_VOLUME && !self.resting.contains_key(&slot) {
                self.slots.entry(slot).or_insert(Begun { config, silos, seen: None, since: now });
            }
        }
        given_up.retain(|(slot, _)| !self.slots.contains_key(slot));
        let begun = self.slots.iter().map(|(slot, begun)| (*slot, begun.silos.clone()));
        for (slot, silos) in given_up.into_iter().chain(begun) {
            let known = silos.iter().filter_map(|silo| Some((silo, state.silos.get(silo)?)));
            let target =
                known.map(|(silo, info)| Target { silo: *silo, node: info.node, incarnation: info.incarnation });
            ask(slot, target.collect());
        }
    }
}

/// Has the volumes that are attached to this node move, for as long as it runs.
pub async fn move_attached(attachments: Attachments, mut state: watch::Receiver<Arc<ClusterState>>) {
    let mut moving: BTreeMap<VolumeId, Moving> = BTreeMap::new();
    let mut attached = attachments.watch();
    loop {
        let now = state.borrow_and_update().clone();
        attached.mark_unchanged();
        moving.retain(|id, _| attachments.get(*id).is_some());
        let all = attachments.all();
        let mut moves =
            if now.level >= Level(1) && !all.is_empty() { now.moves(wall_seconds()) } else { BTreeMap::new() };
        let mut waits = false;
        for (id, attached) in all {
            let of_volume = moves.remove(&id).unwrap_or_default();
            waits |= !of_volume.is_empty();
            let moving = moving.entry(id).or_default();
            let report = if moving.is_idle() { None } else { attached.report().await };
            let ask = |slot, target| attached.reconfigure(slot, target);
            moving.step(Instant::now(), &now, id, of_volume, report.as_ref(), ask);
        }
        let is_idle = !waits && moving.values().all(Moving::is_idle);
        let settles = moving.keys().filter_map(|id| settles_in(&now, *id)).min();
        let again = if is_idle { settles } else { Some(AGAIN_AFTER) };
        tokio::select! {
            changed = state.changed() => if changed.is_err() { return },
            changed = attached.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(again.unwrap_or_default()), if again.is_some() => {}
        }
    }
}

/// How long until an attachment of a volume has lasted long enough to have a copy nearby, if it has not yet.
fn settles_in(state: &ClusterState, id: VolumeId) -> Option<Duration> {
    let at = state.settled_at(state.volumes.get(&id)?)?;
    at.checked_sub(wall_seconds()).filter(|left| *left > 0).map(Duration::from_secs)
}

/// The volumes that this node moves, and those that could not be moved just now: they keep no other from its turn.
#[derive(Default)]
struct Busy {
    moving: BTreeSet<VolumeId>,
    resting: BTreeSet<VolumeId>,
}

impl Busy {
    fn begin(&mut self, id: VolumeId) -> bool {
        let may = self.moving.len() < MAINTAINED_MAX && !self.resting.contains(&id);
        may && self.moving.insert(id)
    }

    fn rest(&mut self, id: VolumeId) {
        self.moving.remove(&id);
        self.resting.insert(id);
    }

    fn end(&mut self, id: VolumeId) {
        self.moving.remove(&id);
        self.resting.remove(&id);
    }
}

fn open(busy: &Mutex<Busy>) -> MutexGuard<'_, Busy> {
    busy.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has the volumes move that nobody is attached to, whenever this node leads the cluster group.
pub async fn move_detached(attachments: Attachments, node: NodeId, group: Group) {
    let (mut state, mut status) = (group.state(), group.watch_status());
    let busy: Arc<Mutex<Busy>> = Arc::default();
    loop {
        let now = state.borrow_and_update().clone();
        let leads = status.borrow_and_update().leader == Some(node) && now.level >= Level(1);
        let moves = if leads { now.moves(wall_seconds()) } else { BTreeMap::new() };
        let waits = !moves.is_empty();
        for id in moves.into_keys() {
            let is_free = now.volumes.get(&id).is_some_and(|volume| volume.attachment.is_none());
            if !is_free || !open(&busy).begin(id) {
                continue;
            }
            let (attachments, busy) = (attachments.clone(), busy.clone());
            tokio::spawn(async move {
                if let Err(fault) = attachments.maintain(id).await {
                    tracing::info!("volume {} is not moved for now: {fault}", id.short());
                    open(&busy).rest(id);
                    tokio::time::sleep(MAINTAIN_AGAIN_AFTER).await;
                }
                open(&busy).end(id);
            });
        }
        tokio::select! {
            changed = state.changed() => if changed.is_err() { return },
            changed = status.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(AGAIN_AFTER), if waits => {}
        }
    }
}
