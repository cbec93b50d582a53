//! One slot in memory: its state, and what was written to it since the last checkpoint.
//!
//! The versions since the last checkpoint are the *overlay*; while a checkpoint runs, the older part of it is *frozen*
//! and being moved into the index. A block's newest version is in the active overlay, else in the frozen one, else in
//! the index, because a slot's stream only goes forward.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError};

use crate::base::block::BLOCK_BYTES;
use crate::base::id::{Seq, SlotKey, SnapshotId, Stamp};
use crate::base::mutant::{Mutant, on};
use crate::base::record::{Record, RecordKind};
use crate::store::extents::Extents;
use crate::store::keys::SlotRow;
use crate::store::position::Position;
use crate::store::segment::payload_offset;
use crate::store::slot::SlotState;
use crate::store::staging::Staging;
use crate::store::trims::{Trim, Trims};
use crate::store::version::{Place, Retention, Version, Versions};

/// Trims of at most so many blocks become holes among the versions of their blocks; longer ones are kept as ranges.
/// File systems discard a few blocks at a time by the thousands, and whole gigabytes rarely.
const HOLES_MAX: u64 = 32;

pub(crate) type Overlay = BTreeMap<u64, Versions>;

/// One slot. Locks are taken in this order: the index's turn, gates by number, the log, the content.
pub(crate) struct Slot {
    pub(crate) key: SlotKey,
    pub(crate) number: u32,
    /// Held while records of the slot are appended and while its history is changed.
    gate: Mutex<()>,
    content: RwLock<Content>,
}

/// What the slot holds in memory.
pub(crate) struct Content {
    pub(crate) state: SlotState,
    /// What the writer reports of the other silos is not in the slot's row yet.
    pub(crate) unsaved_peers: bool,
    /// As in the slot's row: what lies before it in the log is not replayed.
    pub(crate) position: Position,
    /// `applied` as in the slot's row: where replay begins to raise it.
    pub(crate) saved_applied: Seq,
    /// The highest floor of what was adopted; the watermark stands still until it can pass it.
    pub(crate) settles: Seq,
    /// The watermark of what an incomplete slot receives; its own `committed` stands still meanwhile.
    pub(crate) live_committed: Seq,
    pub(crate) active: Overlay,
    pub(crate) frozen: Option<Arc<Frozen>>,
    pub(crate) trims: Trims,
    pub(crate) extents: Extents,
    pub(crate) markers: Markers,
    pub(crate) staging: Option<Staging>,
    /// Groups of the index that hold versions beneath one that was not committed when they were merged, by the number
    /// that the watermark must pass for them to go. Lost at a restart: they then go when the group changes next.
    pub(crate) unsettled: BTreeSet<(Seq, u64)>,
    /// The volume was deleted; nothing may be appended through a handle taken before.
    pub(crate) forgotten: bool,
}

/// The older part of the overlay, which a checkpoint is moving into the index.
pub(crate) struct Frozen {
    pub(crate) overlay: Overlay,
    /// How far the slot's stream went when the overlay was frozen.
    pub(crate) applied: Seq,
}

/// The snapshot markers of a slot.
#[derive(Clone)]
pub(crate) struct Markers {
    /// With the place of the record while the index does not have it.
    list: BTreeMap<Stamp, (SnapshotId, Option<Position>)>,
    stamps: Arc<[Stamp]>,
}

impl Default for Markers {
    fn default() -> Self {
        Self { list: BTreeMap::new(), stamps: [].into() }
    }
}

impl Markers {
    pub(crate) fn insert(&mut self, stamp: Stamp, snapshot: SnapshotId, unsaved: Option<Position>) {
        self.list.insert(stamp, (snapshot, unsaved));
        self.stamps = self.list.keys().copied().collect();
    }

    pub(crate) fn retain(&mut self, mut keep: impl FnMut(Stamp) -> bool) {
        self.list.retain(|stamp, _| keep(*stamp));
        self.stamps = self.list.keys().copied().collect();
    }

    /// Their stamps, oldest first.
    pub(crate) fn stamps(&self) -> Arc<[Stamp]> {
        self.stamps.clone()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Stamp, SnapshotId, Option<Position>)> + '_ {
        self.list.iter().map(|(stamp, (snapshot, unsaved))| (*stamp, *snapshot, *unsaved))
    }

    pub(crate) fn saved_before(&mut self, end: Position) {
        for (_, unsaved) in self.list.values_mut() {
            if unsaved.is_some_and(|at| at < end) {
                *unsaved = None;
            }
        }
    }
}

impl Slot {
    pub(crate) fn new(key: SlotKey, row: SlotRow) -> Self {
        let content = Content {
            saved_applied: row.state.applied,
            state: row.state,
            unsaved_peers: false,
            position: row.position,
            settles: row.settles,
            live_committed: Seq::ZERO,
            active: Overlay::new(),
            frozen: None,
            trims: Trims::default(),
            extents: Extents::default(),
            markers: Markers::default(),
            staging: None,
            unsettled: BTreeSet::new(),
            forgotten: false,
        };
        Self { key, number: row.number, gate: Mutex::new(()), content: RwLock::new(content) }
    }

    pub(crate) fn gate(&self) -> MutexGuard<'_, ()> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Content> {
        self.content.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The content, unless it is being changed or read alone.
    pub(crate) fn try_read(&self) -> Option<RwLockReadGuard<'_, Content>> {
        match self.content.try_read() {
            Ok(content) => Some(content),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, Content> {
        self.content.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Content {
    pub(crate) fn retention(&self) -> Retention {
        Retention::of(&self.state, self.live_committed, self.markers.stamps())
    }

    /// The row of this slot with the state as it is, but `applied` as given.
    pub(crate) fn row(&self, number: u32, position: Position, applied: Seq) -> SlotRow {
        SlotRow { number, position, settles: self.settles, state: SlotState { applied, ..self.state.clone() } }
    }

    /// Everything up to `seq` is durable on a majority and common to all histories from now on.
    pub(crate) fn advance_watermark(&mut self, seq: Seq) {
        let watermark = match self.state.incomplete {
            Some(_) => &mut self.live_committed,
            None if seq < self.settles => return,
            None => &mut self.state.committed,
        };
        *watermark = (*watermark).max(seq);
    }

    /// After a power loss the watermark may be saved and what it covers lost here, because others had it durably. What is
    /// compared from it later must begin at what is left.
    pub(crate) fn clamp_watermark(&mut self) {
        self.state.committed = self.state.committed.min(self.state.vote().applied);
    }

    /// Makes a record of the slot's stream visible. Returns how many versions that added to the overlay.
    pub(crate) fn apply(&mut self, record: &Record, at: Position) -> u64 {
        let header = &record.header;
        let (first, count, stamp) = (header.first_block(), header.block_count(), header.stamp);
        let mut added = 0;
        match header.kind {
            RecordKind::Write => {
                let versions = placed_versions(record, at);
                added = self.add(versions);
            }
            RecordKind::Trim if count <= HOLES_MAX => {
                let hole = Version { stamp, place: Place::Hole };
                added = self.add((first..first + count).map(|block| (block, hole)));
            }
            RecordKind::Trim => {
                self.trims.insert(Trim { stamp, blocks: first..first + count, unsaved: Some(at) });
                added = 1;
            }
            RecordKind::Marker => {
                if let Some(snapshot) = record.snapshot() {
                    self.markers.insert(stamp, snapshot, Some(at));
                }
            }
            // Chunks belong to no slot's stream; they are refused before they get here.
            RecordKind::Chunk => {}
        }
        if header.kind != RecordKind::Trim || !on(Mutant::StaleTrimForgotten) {
            self.extents.raise_blocks(first, count, stamp.seq);
        }
        self.state.applied = self.state.applied.max(stamp.seq);
        added
    }

    /// Puts what a checkpoint that failed had frozen back beneath what was appended since.
    pub(crate) fn thaw(&mut self) {
        let Some(frozen) = self.frozen.take() else { return };
        let retention = self.retention();
        let newer = std::mem::take(&mut self.active);
        self.active = Arc::try_unwrap(frozen).map_or_else(|shared| shared.overlay.clone(), |frozen| frozen.overlay);
        for (block, versions) in newer {
            let Some(held) = self.active.get_mut(&block) else {
                self.active.insert(block, versions);
                continue;
            };
            versions.as_slice().iter().for_each(|version| held.add(*version, &retention));
        }
    }

    /// Keeps a record that was sent for catching up until a commit adopts it.
    pub(crate) fn stage(&mut self, record: &Record, at: Position) {
        let staging = self.staging.get_or_insert_default();
        match record.header.kind {
            RecordKind::Write => placed_versions(record, at).for_each(|(block, version)| staging.add(block, version)),
            RecordKind::Marker => {
                staging.markers.extend(record.snapshot().map(|snapshot| (record.header.stamp, snapshot)));
            }
            // A trim's effect is in the listings.
            RecordKind::Trim | RecordKind::Chunk => {}
        }
    }

    pub(crate) fn add(&mut self, versions: impl Iterator<Item = (u64, Version)>) -> u64 {
        let retention = Retention::of(&self.state, self.live_committed, self.markers.stamps());
        let mut added = 0;
        for (block, version) in versions {
            self.active.entry(block).and_modify(|held| held.add(version, &retention)).or_insert(Versions::One(version));
            added += 1;
        }
        added
    }

    /// The overlay's newest version of each block in the range that it has one of.
    pub(crate) fn overlaid(&self, blocks: Range<u64>, mut each: impl FnMut(u64, Version)) {
        let frozen = self.frozen.as_ref().map(|frozen| &frozen.overlay);
        for overlay in frozen.into_iter().chain([&self.active]) {
            overlay.range(blocks.clone()).for_each(|(block, versions)| each(*block, versions.newest()));
        }
    }

    /// All versions in the overlay of the blocks in the range, the frozen ones first.
    pub(crate) fn overlaid_versions(&self, blocks: Range<u64>, mut each: impl FnMut(u64, Version)) {
        let frozen = self.frozen.as_ref().map(|frozen| &frozen.overlay);
        for overlay in frozen.into_iter().chain([&self.active]) {
            for (block, versions) in overlay.range(blocks.clone()) {
                versions.as_slice().iter().for_each(|version| each(*block, *version));
            }
        }
    }
}

/// The version of each block of a write whose entry begins at `at`.
pub(crate) fn placed_versions(record: &Record, at: Position) -> impl Iterator<Item = (u64, Version)> + '_ {
    let stamp = record.header.stamp;
    let mut offset = payload_offset(at, &record.header);
    (record.header.first_block()..).zip(record.table()).map(move |(block, entry)| {
        if entry.stored_len == 0 {
            return (block, Version { stamp, place: Place::Zero });
        }
        debug_assert_eq!(u64::from(entry.stored_len), BLOCK_BYTES, "records are decoded with whole blocks only");
        let place = Place::Data { segment: at.segment(), offset, crc: entry.crc };
        offset += entry.stored_len;
        (block, Version { stamp, place })
    })
}
