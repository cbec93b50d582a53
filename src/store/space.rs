//! Space: what a silo may take, what it keeps for what must never be refused, and how hard cleaning is to work.
//!
//! The capacity bounds segments, index and the index's room to grow together; the disk's own end bounds them as well,
//! since other programs write there too. From the top:
//!
//! | free, down to what is left of the segments in use | what happens |
//! |---|---|
//! | ample | only segments that are nearly empty are cleaned |
//! | the margin or less | those worth it are cleaned, the faster the less there is, against a credit earned by writes |
//! | a few segments above the reserve | without pause; whoever appends lends a hand, the more the less there is |
//! | the reserve | new writes are refused; those that were promised, trims and cleaning go on |
//!
//! Waiting as long as possible lets segments empty by themselves, which is what keeps the copying small; the margin
//! makes it steady instead of sudden. The credit bounds what an idle silo copies for later.
//!
//! Appends that outrun cleaning are slowed down little by little: each owes a part of its bytes, from none to some times
//! as many, as room that cleaning gains, whoever cleans; and once a step's worth is owed, whoever appends makes a step.
//! So an append waits for a step or two, not for all that has come to be missing.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::base::block::BLOCK_BYTES;
use crate::store::ballast::growth_bytes;
use crate::store::cleaning::Cleaned;
use crate::store::error::{Operation, Result, StoreError};
use crate::store::log::LogError;
use crate::store::silo::Silo;

/// Segments above the reserve below which an append owes the most; before one that takes another segment nothing else
/// counts than that there are more.
const LAST_SEGMENTS: u64 = 2;
const LAST_TIMES: u64 = 8;
/// Segments above the reserve that cleaning keeps free, as far as there is anything to clean.
const CRITICAL_SEGMENTS: u64 = 3;
/// Free bytes that lie in segments in use may be no whole segment for anybody: three of them, each half used on average.
/// So much above the reserve, all of it counted, an append owes room for twice its bytes; this many segments further up it
/// owes nothing, and cleaning begins to pause.
const LENDING_SEGMENTS_FROM: u64 = 4;
const LENDING_SEGMENTS: u64 = 2;
const LENDING_TIMES_MAX: u64 = 2;
/// What may be owed before whoever appends cleans.
const OWED_BYTES_MAX: u64 = 1 << 20;
/// The margin above that in which it speeds up: so many segments, or this part of the capacity.
const MARGIN_SEGMENTS: u64 = 4;
const MARGIN_PART: u64 = 128;
/// With so many times the reserve at hand, nothing is made ahead for a full disk.
const AMPLE_TIMES: u64 = 16;
/// Bytes that may be copied for each byte appended, below the margin: what random writes need where 19 of 20 are in use.
const CREDIT_TIMES: u64 = 20;
/// The most credit, in segments.
const CREDIT_SEGMENTS: u64 = 8;
/// The fullest segment that is cleaned, in percent, while space is ample, below the margin, and when it is critical.
const FULLEST_PERCENT: [u64; 3] = [10, 90, 95];

/// A checkpoint for the sake of the room comes after this part of what makes one due, while writes are taken: each costs
/// about as much as the cleaning of as many bytes.
const SHORT_PARTS: u64 = 2;

/// How often the room is looked at while it is ample, for each segment appended.
const LOOKS_A_SEGMENT: u64 = 4;

/// The counters of one opening.
#[derive(Default)]
pub(crate) struct Space {
    /// The number of the first segment of this life.
    pub(crate) first_segment: u32,
    reserve_bytes: AtomicU64,
    written_bytes: AtomicU64,
    moved_bytes: AtomicU64,
    removed_segments: AtomicU64,
    credit_bytes: AtomicU64,
    /// Room that appends owe.
    owed_bytes: AtomicU64,
    /// Bytes that may be appended before the room is looked at again.
    ample_bytes: AtomicU64,
    /// How far the segment that is being emptied was read.
    emptied_bytes: AtomicU64,
    /// Something was trimmed since the last checkpoint began.
    pub(crate) trimmed: AtomicBool,
}

/// How a silo's space is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpaceReport {
    /// Bytes on the disk: segments and index, with what is made ahead.
    pub used_bytes: u64,
    /// Bytes of blocks that the index refers to; what was appended since the last checkpoint is not in it.
    pub live_bytes: u64,
    /// Bytes of new writes that could be taken, once all is cleaned that can be.
    pub free_bytes: u64,
    /// New writes are refused.
    pub full: bool,
    /// How much is to become free before they are taken again, while they are refused for want of space.
    pub missing_bytes: u64,
    /// Bytes appended by clients and other silos since the opening.
    pub written_bytes: u64,
    /// Bytes of blocks copied forward by cleaning since then.
    pub moved_bytes: u64,
    /// Segments removed since then.
    pub removed_segments: u64,
    /// Damaged places that cleaning came across since then.
    pub cleaning_found: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Zone {
    Ample,
    Margin,
    Critical,
}

impl Space {
    pub(crate) fn new(first_segment: u32) -> Self {
        Self { first_segment, ..Self::default() }
    }

    /// Takes note of an append, which earns credit.
    pub(crate) fn written(&self, bytes: u64, segment_bytes: u32) {
        self.written_bytes.fetch_add(bytes, Ordering::Relaxed);
        let most = CREDIT_SEGMENTS * u64::from(segment_bytes);
        let earn = |credit: u64| Some((credit + bytes * CREDIT_TIMES).min(most));
        // The closure always gives a value, so this cannot fail.
        let _ = self.credit_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, earn);
        let spend = |ample: u64| Some(ample.saturating_sub(bytes));
        // As above.
        let _ = self.ample_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend);
    }

    /// Takes note of a step of cleaning, which costs credit and pays what is owed.
    pub(crate) fn cleaned(&self, cleaned: &Cleaned) {
        self.pay(cleaned.gained_bytes);
        self.moved_bytes.fetch_add(cleaned.moved_bytes, Ordering::Relaxed);
        self.removed_segments.fetch_add(cleaned.removed, Ordering::Relaxed);
        let cost = |credit: u64| Some(credit.saturating_sub(cleaned.moved_bytes));
        // As above.
        let _ = self.credit_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, cost);
    }

    /// Takes note of how far the segment that is being emptied was read, 0 if there is none.
    pub(crate) fn emptied(&self, bytes: u32) {
        self.emptied_bytes.store(u64::from(bytes), Ordering::Relaxed);
    }

    fn emptied_bytes(&self) -> u64 {
        self.emptied_bytes.load(Ordering::Relaxed)
    }

    fn owes_a_step(&self) -> bool {
        self.owed_bytes.load(Ordering::Relaxed) >= OWED_BYTES_MAX
    }

    fn pay(&self, bytes: u64) {
        let pay = |owed: u64| Some(owed.saturating_sub(bytes));
        // As above.
        let _ = self.owed_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, pay);
    }
}

impl Silo {
    /// How the silo's space is used.
    pub fn space(&self) -> SpaceReport {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let live_bytes = self.usage.total() * BLOCK_BYTES;
        let in_segments = self.log.allocated_bytes() - self.log.spare_bytes();
        let reclaimable = in_segments.saturating_sub(live_bytes + live_bytes / 32);
        let promised = load(&self.space.reserve_bytes);
        let reserve = promised + CRITICAL_SEGMENTS * self.segment_bytes();
        let full = !self.takes_writes(promised);
        SpaceReport {
            used_bytes: self.used_bytes(),
            live_bytes,
            free_bytes: (self.room_bytes() + reclaimable).saturating_sub(reserve),
            full,
            missing_bytes: if full { self.missing_bytes(promised) } else { 0 },
            written_bytes: load(&self.space.written_bytes),
            moved_bytes: load(&self.space.moved_bytes),
            removed_segments: load(&self.space.removed_segments),
            cleaning_found: self.cleaning_found(),
        }
    }

    /// Whether new writes may be taken while `reserve_bytes` stay free for what must never be refused: sequenced
    /// writes, recovery and trims of every slot (rule 6 of the protocol).
    pub fn takes_writes(&self, reserve_bytes: u64) -> bool {
        let has_room = self.has_index_room() && self.room_bytes() >= reserve_bytes + self.segment_bytes();
        // Somebody else may have taken what was ample, and nothing is appended that would have it looked at again.
        if self.space.reserve_bytes.swap(reserve_bytes, Ordering::Relaxed) != reserve_bytes || !has_room {
            self.space.ample_bytes.store(0, Ordering::Relaxed);
        }
        self.fault.get().is_none() && has_room
    }

    /// Bytes that may be written while new writes are refused, so that `reserve_bytes` stay free: they are less than a
    /// segment and the rest of one, of which a half is left for what records take beside their own bytes.
    pub fn room_above(&self, reserve_bytes: u64) -> u64 {
        let free = self.room_bytes() + self.log.open_bytes();
        if self.has_index_room() { free.saturating_sub(reserve_bytes) / 2 } else { 0 }
    }

    /// What [`Self::takes_writes`] lacks.
    fn missing_bytes(&self, reserve_bytes: u64) -> u64 {
        let room = (reserve_bytes + self.segment_bytes()).saturating_sub(self.room_bytes());
        let index = growth_bytes(self.index.size()) + self.segment_bytes();
        let index = index.saturating_sub(self.free_on_disk_bytes());
        room.max(if self.has_index_room() { 0 } else { index })
    }

    /// How hard cleaning should work, from 0 (there is no hurry) to 1 (without pause).
    pub fn urgency(&self) -> f64 {
        (1.0 - self.above_lending_bytes() as f64 / self.margin_bytes() as f64).clamp(0.0, 1.0)
    }

    /// The fullest segment that is worth cleaning now, in percent of the blocks that it could hold.
    pub(crate) fn fullest_percent(&self) -> u64 {
        let has_credit = || self.space.credit_bytes.load(Ordering::Relaxed) > 0;
        match self.zone() {
            Zone::Ample => FULLEST_PERCENT[0],
            Zone::Margin => FULLEST_PERCENT[if has_credit() { 1 } else { 0 }],
            Zone::Critical => FULLEST_PERCENT[2],
        }
    }

    /// Whoever appends makes room itself where the background cannot keep up: a part of what it takes, and before a
    /// write would have to be refused while there is something to clean, all of it.
    pub(crate) fn make_room(&self, bytes: u64) -> Result<()> {
        if self.is_ample() {
            return Ok(());
        }
        self.space.owed_bytes.fetch_add(self.owed_for(bytes), Ordering::Relaxed);
        // Twice as many, for what a record takes beside its own bytes.
        let is_last = |silo: &Silo| silo.is_low() && silo.log.open_bytes() < 2 * bytes;
        let mut merged = false;
        while self.space.owes_a_step() || is_last(self) {
            let cleaned = match self.clean_if(|silo| silo.space.owes_a_step() || is_last(silo)) {
                // What cannot be cleaned now is no reason to refuse the append.
                Err(StoreError::NoSpace | StoreError::Io { .. }) => return Ok(()),
                other => other?,
            };
            if cleaned.more || cleaned.removed > 0 {
                continue;
            }
            // There is nothing to gain for whoever owes it.
            self.space.pay(u64::MAX);
            if merged || !is_last(self) || self.pending_bytes.load(Ordering::Relaxed) < self.segment_bytes() {
                return Ok(());
            }
            match self.checkpoint() {
                Err(StoreError::NoSpace) => return Ok(()),
                other => other?,
            }
            merged = true;
        }
        Ok(())
    }

    /// The room that an append of so many bytes owes.
    fn owed_for(&self, bytes: u64) -> u64 {
        if self.is_low() {
            return bytes * LAST_TIMES;
        }
        let reach = LENDING_SEGMENTS * self.segment_bytes();
        let above =
            self.all_free_bytes().saturating_sub(self.reserve_bytes() + LENDING_SEGMENTS_FROM * self.segment_bytes());
        bytes * LENDING_TIMES_MAX * reach.saturating_sub(above) / reach
    }

    /// Makes ahead what must be there when the disk is full: a segment to clean into, which makes room for all else, room
    /// for the index to grow, and the reserve for what was promised. The first is made while the disk is ample still, of
    /// which others may take the rest at once.
    pub(crate) fn prepare_reserve(&self) -> Result<()> {
        let limit = self.hard_limit_bytes();
        self.log.prepare_cold(limit).map_err(|error| self.log_failure(error))?;
        let growth = growth_bytes(self.index.size());
        let reserve = self.reserve_bytes() + CRITICAL_SEGMENTS * self.segment_bytes();
        if self.room_bytes() - self.log.spare_bytes() >= AMPLE_TIMES * (reserve + growth) {
            return Ok(());
        }
        let missing = growth.saturating_sub(self.ballast.bytes());
        if self.left_bytes() >= missing {
            let kept = self.ballast.keep(growth);
            kept.map_err(|error| self.fail(Operation::Write, crate::base::error::plain(&error)))?;
        }
        let limit = self.log_limit_bytes().saturating_sub(self.missing_growth_bytes());
        while self.log.spare_bytes() < reserve {
            match self.log.prepare_next(limit) {
                Ok(()) => {}
                Err(LogError::NoSpace) => break,
                Err(other) => return Err(self.log_failure(other)),
            }
        }
        Ok(())
    }

    /// Bytes that segments may take: the index and the room made for it have their part of the capacity. What that room
    /// still lacks does not count here: an index that has just grown must not stop the cleaning that makes room again.
    pub(crate) fn hard_limit_bytes(&self) -> u64 {
        self.options.capacity_bytes.saturating_sub(self.index.size() + self.ballast.bytes())
    }

    /// The same for whatever is appended: cleaning needs a segment to begin with, of the capacity and of the disk.
    pub(crate) fn log_limit_bytes(&self) -> u64 {
        let for_cleaning = if self.log.has_cold_spare() { 0 } else { self.segment_bytes() };
        let on_disk = self.log.allocated_bytes() + self.free_on_disk_bytes();
        self.hard_limit_bytes().min(on_disk).saturating_sub(for_cleaning)
    }

    /// The room for copies, where no segment can be made for them and none is there.
    pub(crate) fn room_for_copies(&self) -> Option<u64> {
        let limit = self.hard_limit_bytes().min(self.log.allocated_bytes() + self.free_on_disk_bytes());
        let can_make = self.log.allocated_bytes() + self.segment_bytes() <= limit;
        (!self.log.has_cold_spare() && !can_make).then(|| self.log.cold_room_bytes())
    }

    pub(crate) fn segment_bytes(&self) -> u64 {
        u64::from(self.options.segment_bytes)
    }

    /// Whether cleaning works without pause, and anything that a checkpoint lets go is welcome.
    pub fn is_short(&self) -> bool {
        !self.is_ample() && self.zone() == Zone::Critical
    }

    /// Whether an append does nothing but append: it makes no room, and no checkpoint that is overdue.
    pub fn is_at_ease(&self) -> bool {
        self.is_ample() && !self.checkpoint_overdue()
    }

    /// Whether there was ample room when it was last looked at, less than a part of a segment ago: asking the disk at
    /// each append would cost more than the append.
    fn is_ample(&self) -> bool {
        if self.space.ample_bytes.load(Ordering::Relaxed) == 0 && self.zone() == Zone::Ample {
            self.space.ample_bytes.store(self.segment_bytes() / LOOKS_A_SEGMENT, Ordering::Relaxed);
        }
        self.space.ample_bytes.load(Ordering::Relaxed) > 0
    }

    /// Whether a checkpoint would let go of space: something was trimmed, or, where every byte counts, written over.
    pub fn may_free(&self) -> bool {
        // What was transferred and given up is no version, and takes its space until a checkpoint has passed it.
        let bytes = self.pending_bytes.load(Ordering::Relaxed);
        let pending = self.pending_versions.load(Ordering::Relaxed) > 0 || bytes >= self.segment_bytes();
        let (trimmed, merges) = (self.space.trimmed.load(Ordering::Relaxed), bytes);
        let is_short = || merges >= self.options.checkpoint_log_bytes / SHORT_PARTS && self.is_short();
        // Asked with every batch of writes: the disk is asked only where it may matter.
        pending && (trimmed || !self.is_ample() && (is_short() || self.is_full()))
    }

    /// Whether the index can grow once more, come what may.
    fn has_index_room(&self) -> bool {
        let growth = growth_bytes(self.index.size());
        self.ballast.bytes() >= growth || self.disk.free_bytes().is_ok_and(|free| free >= growth + self.segment_bytes())
    }

    /// Whether the next segment or two are the last for new writes.
    fn is_low(&self) -> bool {
        self.room_bytes() < self.reserve_bytes() + LAST_SEGMENTS * self.segment_bytes()
    }

    /// Whether new writes are refused for want of room.
    fn is_full(&self) -> bool {
        self.room_bytes() < self.reserve_bytes() + self.segment_bytes()
    }

    /// Bytes for new segments: those made ahead, and what is left.
    fn room_bytes(&self) -> u64 {
        let left = self.log_limit_bytes().saturating_sub(self.log.allocated_bytes());
        left.saturating_sub(self.missing_growth_bytes()) + self.log.spare_bytes()
    }

    /// What the index would grow by beyond the room that is made for it.
    fn missing_growth_bytes(&self) -> u64 {
        growth_bytes(self.index.size()).saturating_sub(self.ballast.bytes())
    }

    /// Bytes of the capacity, and of the disk, that nothing takes.
    fn left_bytes(&self) -> u64 {
        let within = self.options.capacity_bytes.saturating_sub(self.used_bytes());
        within.min(self.free_on_disk_bytes())
    }

    /// Bytes that the disk has left for anybody; none if it does not tell.
    fn free_on_disk_bytes(&self) -> u64 {
        self.disk.free_bytes().unwrap_or(0)
    }

    fn reserve_bytes(&self) -> u64 {
        self.space.reserve_bytes.load(Ordering::Relaxed)
    }

    /// All that can still be written, down to what is left of the segments in use and what was gained of the one that is
    /// being emptied: it shrinks and grows little by little, where the room does so by whole segments.
    fn all_free_bytes(&self) -> u64 {
        self.room_bytes() + self.log.open_bytes() + self.log.cold_room_bytes() + self.space.emptied_bytes()
    }

    /// How much of it lies above what makes an append lend a hand.
    fn above_lending_bytes(&self) -> u64 {
        let lending = (LENDING_SEGMENTS_FROM + LENDING_SEGMENTS) * self.segment_bytes();
        self.all_free_bytes().saturating_sub(self.reserve_bytes() + lending)
    }

    fn margin_bytes(&self) -> u64 {
        (MARGIN_SEGMENTS * self.segment_bytes()).max(self.options.capacity_bytes / MARGIN_PART)
    }

    fn zone(&self) -> Zone {
        match self.above_lending_bytes() {
            0 => Zone::Critical,
            above if above < self.margin_bytes() => Zone::Margin,
            _ => Zone::Ample,
        }
    }
}
