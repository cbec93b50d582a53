//! Cleaning: segments that nothing refers to are removed; of those others that are worth it what is left is copied forward.
//!
//! A step reads on in one segment, copies what the index refers to there to the cold end of the log ([`crate::store::cold`]),
//! makes the copies durable, and then lets the index point to them, in one transaction that changes a place only where
//! the very version still lies where it was copied from. So whatever happens meanwhile (the block is written, trimmed
//! or dropped, the slot forgotten, its history changed) wins, a stop at any moment leaves the old place or the new one,
//! and no replay needs to know. The segment goes once the index has nothing in it.
//!
//! What is needed is what the index refers to, for whatever reason: the newest version, one that a snapshot sees, one
//! above the watermark or the one beneath it. Cleaning has no opinion of its own. It only prunes the groups that it
//! touches by the rule that checkpoints prune by ([`crate::store::version::Retention`]), lest it copy what may go.
//!
//! What is damaged is left where it is, its segment kept and reported; repaired from another silo it loses its last
//! reference there and goes like any other.
//!
//! When it is worth it is told in [`crate::store::space`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, MutexGuard, PoisonError};

use bytes::Bytes;
use redb::ReadOnlyTable;

use crate::base::block::BLOCK_BYTES;
use crate::base::id::SlotKey;
use crate::base::record::{HEADER_BYTES, Header, Record, RecordKind};
use crate::store::error::{Result, StoreError};
use crate::store::group::Group;
use crate::store::index::{Leaves, change_group};
use crate::store::keys::{BLOCKS, GROUP_BLOCKS, place_key};
use crate::store::position::Position;
use crate::store::replay::Finding;
use crate::store::segment::{BadEntry, PREFIX_BYTES, SEGMENT_HEADER_BYTES, entry_bytes, payload_offset, read_prefix};
use crate::store::silo::Silo;
use crate::store::slots::{Slot, placed_versions};
use crate::store::staging::Staging;
use crate::store::version::{Place, Version};

/// Blocks that one step copies at the most: 2 MiB, one transaction of some ten milliseconds. Appends may wait for it.
const STEP_BLOCKS: usize = 512;
/// Bytes of a segment read at once; longer than any entry of a write.
const READ_BYTES: usize = 1 << 20;
/// Bytes that one step reads at the most, however little it finds.
const STEP_READ_BYTES: u32 = 16 << 20;
const BLOCK: usize = BLOCK_BYTES as usize;
/// The most that the copy of a block takes: it may be a record by itself.
const COPY_BYTES: u64 = entry_bytes(HEADER_BYTES + 4 + BLOCK) as u64;
/// Benefits are compared as whole numbers of so many binary places.
const BENEFIT_BITS: u32 = 16;

/// What a step did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// Bytes of blocks copied forward.
    pub moved_bytes: u64,
    /// Room gained: what was read of a segment that is being emptied, less the copies.
    pub gained_bytes: u64,
    /// Segments removed.
    pub removed: u64,
    /// Whether another step would find something to do now.
    pub more: bool,
    /// Whether it would if there were room on the disk to copy to.
    pub lacks_room: bool,
}

/// Where cleaning stands.
#[derive(Default)]
pub(crate) struct Cleaning {
    /// The segment that is being emptied, and how far it was read.
    victim: Option<(u32, u32)>,
    /// Segments that were read to their end and still hold something: it is damaged, or may not be touched now. They are
    /// not tried again while the index has as many blocks there.
    kept: BTreeMap<u32, u32>,
}

/// Damage that cleaning came across in this life.
#[derive(Default)]
pub(crate) struct Findings {
    /// The first places.
    places: Vec<Finding>,
    count: u64,
    /// Blocks that nobody has looked after yet.
    blocks: Vec<(SlotKey, u64)>,
}

/// Places of damage, and damaged blocks, that are remembered: the scrub finds the others.
const FINDINGS_MAX: usize = 256;

/// A block that the index refers to in the segment being emptied.
struct Live {
    slot: Arc<Slot>,
    block: u64,
    version: Version,
}

/// The blocks of one group that were copied: index in the group, the version as it lay, and where its copy lies.
type GroupMoves = (Arc<Slot>, Vec<(usize, Version, Place)>);

/// What there is to empty.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Choice {
    Victim,
    /// Only what needs more room to copy to than there is.
    NoneFits,
    Nothing,
}

/// What a step has gathered.
#[derive(Default)]
struct Harvest {
    copies: Vec<Record>,
    live: Vec<Live>,
    bad: Vec<Finding>,
    bad_blocks: Vec<(SlotKey, u64)>,
}

impl Silo {
    /// One bounded step of cleaning. Runs in the background, one at a time.
    ///
    /// Does nothing where there is no need yet; call again while [`Cleaned::more`], at the pace that
    /// [`Silo::urgency`] asks for.
    pub fn clean(&self) -> Result<Cleaned> {
        self.clean_if(|_| true)
    }

    /// The same, if there is a need still once nobody else cleans.
    pub(crate) fn clean_if(&self, is_needed: impl Fn(&Silo) -> bool) -> Result<Cleaned> {
        self.check_fault()?;
        let mut cleaning = self.cleaning.lock().unwrap_or_else(PoisonError::into_inner);
        if !is_needed(self) {
            return Ok(Cleaned { more: true, ..Cleaned::default() });
        }
        let removed = self.remove_dead()?;
        let mut cleaned = Cleaned { removed, gained_bytes: removed * self.segment_bytes(), ..Cleaned::default() };
        self.prepare_reserve()?;
        let mut choice = self.choose(&mut cleaning);
        if choice == Choice::Victim {
            let (moved, emptied) = self.empty_some(&mut cleaning)?;
            cleaned.moved_bytes = moved;
            cleaned.gained_bytes += emptied.saturating_sub(moved);
            cleaned.removed += self.remove_dead()?;
            choice = self.choose(&mut cleaning);
        }
        (cleaned.more, cleaned.lacks_room) = (choice == Choice::Victim, choice == Choice::NoneFits);
        self.space.cleaned(&cleaned);
        self.space.emptied(cleaning.victim.map_or(0, |(_, offset)| offset));
        Ok(cleaned)
    }

    /// Damage that cleaning came across in this life: the first places of it. The bytes are left where they are.
    pub fn cleaning_findings(&self) -> Vec<Finding> {
        self.findings_of_cleaning().places.clone()
    }

    /// How many places that were.
    pub(crate) fn cleaning_found(&self) -> u64 {
        self.findings_of_cleaning().count
    }

    /// Blocks that cleaning found damaged since the last call, for whoever sees to repairs.
    pub fn take_damaged(&self) -> Vec<(SlotKey, u64)> {
        std::mem::take(&mut self.findings_of_cleaning().blocks)
    }

    /// A lock of its own: a step of cleaning holds the other for long.
    fn findings_of_cleaning(&self) -> MutexGuard<'_, Findings> {
        self.cleaning_findings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes the segments before the checkpoint that nothing refers to.
    pub(crate) fn remove_dead(&self) -> Result<u64> {
        let dead: Vec<u32> = self.cleanable().into_iter().filter(|(_, blocks)| *blocks == 0).map(|(n, _)| n).collect();
        self.log.remove(&dead).map_err(StoreError::io("remove a segment"))?;
        Ok(dead.len() as u64)
    }

    /// The segments that cleaning may touch, with the blocks that the index has there.
    ///
    /// Not those that a replay would read, nor those that are staged or being copied to. Past damage that was found at
    /// the opening lies what could not be replayed: it stays for this life, for whoever wants to look at it.
    fn cleanable(&self) -> Vec<(u32, u32)> {
        let checkpoint = self.row().checkpoint.segment();
        let mut pinned: BTreeSet<u32> = BTreeSet::new();
        for slot in self.all_slots() {
            pinned.extend(slot.read().staging.iter().flat_map(Staging::pins));
        }
        let damaged = self.findings.iter().map(|finding| finding.segment).min();
        let kept = |number: u32| damaged.is_some_and(|first| (first..self.space.first_segment).contains(&number));
        let counts = self.usage.all();
        let free = |number: &u32| {
            let unread = *number < checkpoint || self.log.is_cold(*number);
            unread && !pinned.contains(number) && !kept(*number) && !self.log.is_cold_end(*number)
        };
        let numbers = self.log.numbers().into_iter().filter(free);
        numbers.map(|number| (number, counts.get(&number).copied().unwrap_or(0))).collect()
    }

    /// Makes sure that there is a segment to empty, if one is worth it now.
    ///
    /// Where nothing can be made to copy to, the room at hand must do for all that is left of a segment: one that is half
    /// emptied gives nothing back, and the room is gone. So it is the emptiest then, also in place of one that was begun.
    fn choose(&self, cleaning: &mut Cleaning) -> Choice {
        let candidates = self.cleanable();
        let room = self.room_for_copies();
        let fits = |blocks: u32| room.is_none_or(|room| u64::from(blocks) * COPY_BYTES <= room);
        if let Some((victim, _)) = cleaning.victim
            && candidates.iter().any(|(number, blocks)| *number == victim && fits(*blocks))
        {
            return Choice::Victim;
        }
        cleaning.victim = None;
        cleaning.kept.retain(|number, held| candidates.contains(&(*number, *held)));
        let percent = self.fullest_percent();
        // What was copied is not copied again for the sake of what the copies took beside their blocks.
        let holds = |number: u32| self.log.copies_in(number).map_or(self.segment_bytes() / BLOCK_BYTES, u64::from);
        let is_worth = |number: u32, blocks: u32| u64::from(blocks) * 100 <= holds(number) * percent;
        let newest = self.log.next_number();
        let worth: Vec<(u32, u32)> = candidates
            .into_iter()
            .filter(|(number, blocks)| is_worth(*number, *blocks) && !cleaning.kept.contains_key(number))
            .collect();
        let best = match room {
            None => worth.iter().max_by_key(|(number, blocks)| self.benefit(*number, *blocks, newest)),
            Some(_) => worth.iter().filter(|(_, blocks)| fits(*blocks)).min_by_key(|(_, blocks)| *blocks),
        };
        cleaning.victim = best.map(|(number, _)| (*number, SEGMENT_HEADER_BYTES));
        match best {
            Some(_) => Choice::Victim,
            None if worth.is_empty() => Choice::Nothing,
            None => Choice::NoneFits,
        }
    }

    /// What cleaning a segment is worth: the room that it gives, for as long as that is likely to stay, for what is read
    /// and written to get it (Rosenblum and Ousterhout, 1992, "cost-benefit"). What is young empties by itself if it is
    /// left alone; what is old and half empty will be so for long.
    fn benefit(&self, number: u32, blocks: u32, newest: u32) -> u64 {
        let (all, live) = (self.log.bytes_of(number) / BLOCK_BYTES, u64::from(blocks));
        let age = u64::from(newest.saturating_sub(number)).max(1);
        ((all.saturating_sub(live) * age) << BENEFIT_BITS) / (all + live).max(1)
    }

    /// Copies some of what is left in the chosen segment; returns how many bytes, and how many were read through.
    fn empty_some(&self, cleaning: &mut Cleaning) -> Result<(u64, u64)> {
        let Some((victim, offset)) = cleaning.victim else { return Ok((0, 0)) };
        let mut harvest = Harvest::default();
        let next = match self.harvest(victim, offset, &mut harvest) {
            // One unreadable sector leaves the segment as it is; what can be read of it is read by whoever needs it.
            Err(StoreError::Io { .. }) => {
                harvest = Harvest::default();
                harvest.bad.push(Finding { segment: victim, offset, why: BadEntry::Unreadable });
                None
            }
            other => other?,
        };
        let copied = self.relocate(&harvest)?;
        let bytes = copied as u64 * BLOCK_BYTES;
        if copied < harvest.live.len() {
            // There was no room for more. What was copied is no longer there when this part is read again.
            return Ok((bytes, 0));
        }
        self.findings_of_cleaning().add(harvest.bad, harvest.bad_blocks);
        cleaning.victim = next.map(|offset| (victim, offset));
        let left = self.usage.of(victim);
        if next.is_none() && left > 0 {
            cleaning.kept.insert(victim, left);
            return Ok((bytes, 0));
        }
        let end = next.map_or(self.log.bytes_of(victim), u64::from);
        Ok((bytes, end - u64::from(offset)))
    }

    /// Reads on in a segment until enough is gathered; where to go on, none at its end.
    fn harvest(&self, segment: u32, from: u32, harvest: &mut Harvest) -> Result<Option<u32>> {
        let size = self.log.bytes_of(segment) as u32;
        let table = self.index.read()?.open_table(BLOCKS)?;
        let mut at = Position::new(segment, from);
        let mut held = Bytes::new();
        let mut held_from = from;
        let mut bad_since = None;
        while at.offset() + PREFIX_BYTES <= size {
            if harvest.live.len() >= STEP_BLOCKS || at.offset() - from >= STEP_READ_BYTES {
                return Ok(Some(at.offset()));
            }
            let mut rest = held.slice((at.offset() - held_from) as usize..);
            if rest.len() < READ_BYTES / 2 && held_from as usize + held.len() < size as usize {
                (held, held_from) = (self.read_segment(segment, at.offset(), size)?, at.offset());
                rest = held.clone();
            }
            let Some((record_len, _)) = read_prefix(self.id, at, &rest) else {
                // Past the last entry there are zeroes; a damaged prefix has entries behind it.
                let zero = is_zero(&rest[..rest.len().min(READ_BYTES / 2)]);
                bad_since = if zero { bad_since } else { bad_since.or(Some(at.offset())) };
                let skipped = if zero { (rest.len().min(READ_BYTES / 2) as u32 / 8).max(1) * 8 } else { 8 };
                at = Position::new(segment, at.offset() + skipped);
                continue;
            };
            if let Some(offset) = bad_since.take() {
                harvest.bad.push(Finding { segment, offset, why: BadEntry::Prefix });
            }
            if record_len == 0 {
                return Ok(None);
            }
            let entry = rest.slice(..rest.len().min(entry_bytes(record_len as usize) as usize));
            self.harvest_entry(&table, at, &entry, harvest)?;
            at = Position::new(segment, at.offset().saturating_add(entry_bytes(record_len as usize)));
        }
        Ok(None)
    }

    fn read_segment(&self, segment: u32, offset: u32, size: u32) -> Result<Bytes> {
        let mut buffer = vec![0; READ_BYTES.min((size - offset) as usize)];
        self.log.read(segment, offset, &mut buffer).map_err(StoreError::io("read a segment"))?;
        Ok(buffer.into())
    }

    /// Gathers what the index refers to in one entry.
    fn harvest_entry(
        &self,
        table: &ReadOnlyTable<&'static [u8; 12], &'static [u8]>,
        at: Position,
        entry: &Bytes,
        harvest: &mut Harvest,
    ) -> Result<()> {
        let header = match Header::decode(entry.get(PREFIX_BYTES as usize..).unwrap_or_default()) {
            Ok(header) => header,
            Err(error) => {
                let why = BadEntry::Record(error);
                harvest.bad.push(Finding { segment: at.segment(), offset: at.offset(), why });
                return Ok(());
            }
        };
        // The blocks of a slot that is gone are no longer anybody's; their rows go by themselves.
        let Ok(slot) = self.find(header.key()) else { return Ok(()) };
        if header.kind != RecordKind::Write {
            return Ok(());
        }
        let first = payload_offset(at, &header);
        let live = live_in(table, &slot, at.segment(), &header, first)?;
        let mut start = 0;
        while start < live.len() {
            let run = 1 + live[start..].windows(2).take_while(|pair| follows(&pair[0], &pair[1])).count();
            self.copy_run(&slot, at, entry, &live[start..start + run], harvest);
            start += run;
        }
        Ok(())
    }

    /// Makes a record of neighbouring blocks of one entry, if their bytes are what they should be.
    fn copy_run(&self, slot: &Arc<Slot>, at: Position, entry: &Bytes, run: &[(u64, Version)], harvest: &mut Harvest) {
        let mut good = Vec::with_capacity(run.len());
        for (index, (block, version)) in run.iter().enumerate() {
            let Place::Data { offset, crc, .. } = version.place else { continue };
            let start = (offset - at.offset()) as usize;
            let bytes = entry.get(start..start + BLOCK).filter(|bytes| crc32c::crc32c(bytes) == crc);
            match bytes {
                Some(_) => good.push((*block, start)),
                None => {
                    let why = BadEntry::Record(crate::base::record::RecordError::BlockChecksum(index as u32));
                    harvest.bad.push(Finding { segment: at.segment(), offset, why });
                    harvest.bad_blocks.push((slot.key, *block));
                }
            }
        }
        if good.len() < run.len() {
            // Blocks beside a damaged one are copied one by one.
            for (block, version) in run {
                if let Some((_, start)) = good.iter().find(|(found, _)| found == block) {
                    harvest.add(slot, entry.slice(*start..start + BLOCK), &[(*block, *version)]);
                }
            }
        } else if let Some((_, start)) = good.first() {
            harvest.add(slot, entry.slice(*start..start + run.len() * BLOCK), run);
        }
    }

    /// Makes the copies durable, then lets the index point to them wherever it still points to what was copied. Returns of
    /// how many blocks there was room for a copy.
    fn relocate(&self, harvest: &Harvest) -> Result<usize> {
        let places = self.log.append_copies(&harvest.copies, self.hard_limit_bytes());
        let places = places.map_err(|error| self.log_failure(error))?;
        self.log.sync_copies().map_err(|error| self.log_failure(error))?;
        let copied = harvest.copies.iter().zip(places).flat_map(|(copy, at)| placed_versions(copy, at));
        let mut groups: BTreeMap<(u32, u64), GroupMoves> = BTreeMap::new();
        let mut count = 0;
        for (live, (block, copy)) in harvest.live.iter().zip(copied) {
            count += 1;
            debug_assert_eq!((live.block, live.version.stamp), (block, copy.stamp));
            let group = groups.entry((live.slot.number, block / GROUP_BLOCKS));
            let (_, moves) = group.or_insert_with(|| (live.slot.clone(), Vec::new()));
            moves.push(((block % GROUP_BLOCKS) as usize, live.version, copy.place));
        }
        if groups.is_empty() {
            return Ok(0);
        }
        let turn = self.index.turn(false);
        self.change_index(&turn, Leaves::Some, |txn, tally| {
            let mut table = txn.open_table(BLOCKS)?;
            for ((number, group), (slot, moves)) in &groups {
                let retention = slot.read().retention();
                change_group(&mut table, tally, *number, *group, |blocks| {
                    for (index, from, to) in moves {
                        blocks.relocate(*index, *from, *to);
                    }
                    blocks.prune(&retention);
                })?;
            }
            Ok(())
        })?;
        Ok(count)
    }
}

impl Findings {
    fn add(&mut self, places: Vec<Finding>, blocks: Vec<(SlotKey, u64)>) {
        self.count += places.len() as u64;
        for place in places {
            tracing::warn!("segment {} is damaged at {}: {}", place.segment, place.offset, place.why);
            if self.places.len() < FINDINGS_MAX {
                self.places.push(place);
            }
        }
        let room = FINDINGS_MAX.saturating_sub(self.blocks.len());
        self.blocks.extend(blocks.into_iter().take(room));
    }
}

impl Harvest {
    fn add(&mut self, slot: &Arc<Slot>, data: Bytes, run: &[(u64, Version)]) {
        let Some((first, version)) = run.first() else { return };
        // Marked as a transfer, a copy is no part of any slot's stream, whoever reads the segment.
        let copy = Record::write(slot.key, first * BLOCK_BYTES, version.stamp, data).into_transfer();
        self.copies.push(copy);
        self.live.extend(run.iter().map(|(block, version)| Live {
            slot: slot.clone(),
            block: *block,
            version: *version,
        }));
    }
}

/// The blocks of a record that the index refers to at this very place, in order, without those that may go.
fn live_in(
    table: &ReadOnlyTable<&'static [u8; 12], &'static [u8]>,
    slot: &Slot,
    segment: u32,
    header: &Header,
    first_offset: u32,
) -> Result<Vec<(u64, Version)>> {
    let (first, count) = (header.first_block(), header.block_count());
    let payload = first_offset..first_offset + header.payload_len;
    let retention = slot.read().retention();
    let mut live = Vec::new();
    for group in first / GROUP_BLOCKS..=(first + count - 1) / GROUP_BLOCKS {
        let Some(value) = table.get(&place_key(slot.number, group))? else { continue };
        let mut blocks = Group::unpack(value.value())?;
        blocks.prune(&retention);
        for index in 0..GROUP_BLOCKS {
            let here = |version: &&Version| match version.place {
                Place::Data { segment: held, offset, .. } => held == segment && payload.contains(&offset),
                Place::Zero | Place::Hole => false,
            };
            let block = group * GROUP_BLOCKS + index;
            live.extend(blocks.block(index as usize).iter().find(here).map(|version| (block, *version)));
        }
    }
    Ok(live)
}

fn is_zero(bytes: &[u8]) -> bool {
    const ZEROES: [u8; BLOCK] = [0; BLOCK];
    bytes.chunks(BLOCK).all(|chunk| *chunk == ZEROES[..chunk.len()])
}

/// Whether the second block lies behind the first, in the volume and in the segment.
fn follows((block, version): &(u64, Version), (next_block, next): &(u64, Version)) -> bool {
    match (version.place, next.place) {
        (Place::Data { offset, .. }, Place::Data { offset: next_offset, .. }) => {
            *next_block == block + 1 && next_offset == offset + BLOCK as u32
        }
        _ => false,
    }
}

/// Bytes of an entry that must be there to tell what it is.
const _: () = assert!(READ_BYTES / 2 > PREFIX_BYTES as usize + HEADER_BYTES + (128 << 10) + 256);
