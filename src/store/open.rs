//! Opening a silo: what the index remembers, then what the log holds beyond it.
//!
//! After an unclean stop the tail past the checkpoint may be in the page cache only, and a sync that failed before may
//! have left pages that count as clean without being on the disk. So the tail's records are written again, to a new
//! segment, and synced, and one commit lets the log begin there, before the opening returns: all that was recovered is
//! durable (rule 14 of the protocol). A segment written so does not continue the torn one, so that opening again after
//! another crash in the middle finds the old tail, not a part of the new one.
//!
//! The index gets the tail with the next checkpoint, while the silo serves: merging it changes a page of the index for
//! almost every block of it, which on a large index that is not in the page cache takes longer than all the rest.
//!
//! The same sync may have failed of the index, and the note of it may have failed too: then what the page cache holds of the
//! index is not what the disk has, and no sync will ever tell. Therefore the index of a silo that was not closed in order
//! is read from the disk, as after a power loss. A file that is there while the silo is open says so; it need not survive
//! a power loss, after which there is no cache.
//!
//! A slot that was incomplete goes back to its complete prefix: its catching-up begins anew anyway.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, RwLock};

use redb::{ReadTransaction, ReadableTable};

use crate::base::id::{SiloId, SlotKey};
use crate::base::mutant::{Mutant, on};
use crate::base::record::{Record, RecordKind};
use crate::store::ballast::Ballast;
use crate::store::commit::{Change, SlotCommit};
use crate::store::disk::{Disk, DiskFile};
use crate::store::error::{Damage, Fault, Operation, Result, StoreError};
use crate::store::extents::PAGE_BYTES;
use crate::store::index::{Index, Leaves, each_group};
use crate::store::keys::{
    EXTENTS, MARKERS, SILO, SILO_KEY, SLOTS, SiloRow, SlotRow, TRIMS, decode_row, edge_key, encode_row,
    first_of_trim_key, slot_of_key, snapshot, stamp_of_key,
};
use crate::store::log::{Log, LogError};
use crate::store::pages::PageFile;
use crate::store::position::Position;
use crate::store::recent::Recent;
use crate::store::replay::{Tail, replay};
use crate::store::segment::{PREFIX_BYTES, SEGMENT_HEADER_BYTES, segment_number};
use crate::store::silo::{Silo, SiloOptions, extend_chain};
use crate::store::slot::SlotState;
use crate::store::slots::{Content, Slot};
use crate::store::space::Space;
use crate::store::superblock::{
    FAULT_NAME, FORMAT_VERSION, IN_USE_NAME, INDEX_NAME, SUMS_NAME, format_version, identify, lock, raise_format,
};
use crate::store::trims::Trim;
use crate::store::usage::Usage;

/// Records gathered for one write while the tail is written again.
const REWRITE_RECORDS: usize = 256;
/// Their bytes.
const REWRITE_BYTES: usize = 4 << 20;

impl Silo {
    /// Opens a silo and takes it for this process alone. Everything that is there afterwards is durable.
    ///
    /// A silo with a fault of an earlier life opens to be read; it takes nothing.
    pub fn open(disk: Arc<dyn Disk>, options: SiloOptions) -> Result<Silo> {
        let id = identify(&disk)?;
        let lock = lock(&disk)?;
        let ballast = Arc::new(Ballast::open(disk.clone()).map_err(StoreError::io("open the reserve"))?);
        forget_cached(&disk)?;
        let index = open_index(&disk, &ballast, &options)?;
        let fault = read_fault(&disk)?.filter(|_| !on(Mutant::RestartAfterFailedSync));
        let (mut row, slots) = index.told(load(&index, id))?;
        let was_clean = row.clean;
        let (usage, counted) = index.told(load_usage(&index))?;
        if fault.is_none() {
            row.clean = false;
            extend_chain(&mut row.chain, options.incarnation);
            index.told(index.turn(true).write(Leaves::Nothing, |txn| {
                txn.open_table(SILO)?.insert(SILO_KEY, &encode_row(&row)[..])?;
                if counted { usage.save(txn) } else { Ok(()) }
            }))?;
        }
        let numbers = segment_numbers(&disk)?;
        // The checkpoint may name a segment that nothing was ever written to: the log goes on there.
        let named = row.checkpoint.segment();
        let next_number = numbers.last().map_or(1, |last| last + 1).max(named);
        let next_number = if numbers.contains(&named) { next_number } else { named };
        let log = open_log(&disk, id, &options, next_number, None)?;
        let mut silo = Silo {
            disk,
            id,
            log,
            index,
            recent: Recent::default(),
            ballast,
            slots: RwLock::new(slots),
            row: Mutex::new(row),
            fault: fault.map_or_else(OnceLock::new, OnceLock::from),
            findings: Vec::new(),
            pending_versions: AtomicU64::new(0),
            unsaved_peers: AtomicBool::new(false),
            pending_bytes: AtomicU64::new(0),
            checkpointing: Mutex::new(()),
            usage,
            cleaning: Mutex::default(),
            cleaning_findings: Mutex::default(),
            space: Space::new(next_number),
            options,
            _lock: lock,
        };
        silo.recover(was_clean, &numbers, next_number)?;
        Ok(silo)
    }

    fn recover(&mut self, was_clean: bool, numbers: &[u32], next_number: u32) -> Result<()> {
        let from = self.row().checkpoint;
        let kept = if was_clean { numbers.to_vec() } else { self.make_room_for_tail(from, numbers)? };
        let numbers = &kept[..];
        if from.offset() > SEGMENT_HEADER_BYTES && !numbers.contains(&from.segment()) {
            return Err(StoreError::Damaged(Damage::SegmentMissing(from.segment())));
        }
        let anew = self.log.end();
        let (tail, replayed) = self.replay_tail(from, numbers)?;
        self.findings.extend(tail.finding);
        self.all_slots().iter().for_each(|slot| slot.write().clamp_watermark());
        if self.fault.get().is_some() {
            return Ok(());
        }
        let unclean = !was_clean || replayed > 0 || tail.finding.is_some();
        if !unclean && tail.continuable {
            let (id, disk) = (self.id, self.disk.clone());
            self.log = open_log(&disk, id, &self.options, next_number, Some(tail.end))?;
            self.log.know_cold(numbers.iter().copied().filter(|number| *number > tail.end.segment()));
        }
        self.revert_incomplete()?;
        if unclean {
            self.begin_log_at(anew)?;
        }
        if tail.finding.is_none() {
            self.remove_unused(&tail, numbers)?;
        }
        if unclean {
            // A process that is killed again and again before it comes to clean must not fill its disk with old tails.
            self.remove_dead()?;
        }
        Ok(())
    }

    /// On a disk without room to write the tail again, the segments go that were made ahead and never written to: they
    /// were made for this. Returns those that are left.
    fn make_room_for_tail(&self, from: Position, numbers: &[u32]) -> Result<Vec<u32>> {
        let tail = numbers.iter().filter(|number| **number >= from.segment());
        let tail_bytes: u64 = tail.map(|number| self.log.bytes_of(*number)).sum();
        let free = self.disk.free_bytes().map_err(StoreError::io("look for free space"))?;
        if self.fault.get().is_some() || free > tail_bytes {
            return Ok(numbers.to_vec());
        }
        let mut empty = Vec::new();
        for number in numbers.iter().copied().filter(|number| *number > from.segment() && self.usage.of(*number) == 0) {
            let mut first = [0; PREFIX_BYTES as usize];
            let whole = self.log.bytes_of(number) >= u64::from(SEGMENT_HEADER_BYTES + PREFIX_BYTES);
            if whole {
                let read = self.log.read(number, SEGMENT_HEADER_BYTES, &mut first);
                read.map_err(StoreError::io("read a segment"))?;
            }
            if whole && first == [0; PREFIX_BYTES as usize] {
                empty.push(number);
            }
        }
        self.log.remove(&empty).map_err(StoreError::io("remove unused segments"))?;
        Ok(numbers.iter().copied().filter(|number| !empty.contains(number)).collect())
    }

    /// Brings the tail's records into memory, and unless the silo is faulted into a new segment first.
    fn replay_tail(&self, from: Position, numbers: &[u32]) -> Result<(Tail, u64)> {
        let mut replayed = 0;
        let mut batch: Vec<(Position, Record)> = Vec::new();
        let mut bytes = 0;
        let tail = replay(&self.disk, self.id, from, numbers, |at, record| {
            replayed += 1;
            if self.is_needed(at, &record) {
                bytes += record.len();
                batch.push((at, record));
            }
            if batch.len() >= REWRITE_RECORDS || bytes >= REWRITE_BYTES {
                bytes = 0;
                self.restore(std::mem::take(&mut batch))?;
            }
            Ok(())
        })?;
        self.restore(batch)?;
        Ok((tail, replayed))
    }

    /// Whether a record of the tail belongs to the history of a slot that is still here.
    fn is_needed(&self, at: Position, record: &Record) -> bool {
        let header = &record.header;
        if header.transfer || header.kind == RecordKind::Chunk {
            return false;
        }
        let Ok(slot) = self.find(header.key()) else { return false };
        let content = slot.read();
        let beyond = content.state.incomplete.is_some_and(|vote| header.stamp > vote.stamp());
        at >= content.position && !beyond
    }

    fn restore(&self, batch: Vec<(Position, Record)>) -> Result<()> {
        let (mut places, records): (Vec<Position>, Vec<Record>) = batch.into_iter().unzip();
        let bytes: usize = records.iter().map(Record::len).sum();
        if self.fault.get().is_none() && !records.is_empty() && !self.trusts_the_tail()? {
            // What was there before must fit again: the silo's own limit does not count here.
            places = self.log.append(&records, u64::MAX).map_err(|error| match error {
                LogError::NoSpace => StoreError::NoSpace,
                other => self.log_failure(other),
            })?;
        }
        let mut added = 0;
        for (record, at) in records.iter().zip(places) {
            if let Ok(slot) = self.find(record.header.key()) {
                added += slot.write().apply(record, at);
            }
        }
        // A checkpoint is due when it would have been without the stop.
        self.pending_versions.fetch_add(added, Ordering::Relaxed);
        self.pending_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(())
    }

    /// The tail was written anew from here on: it is made durable, and then takes the old one's place.
    ///
    /// The slots' rows stay as they are: what the old tail would have added to them, the new one does.
    fn begin_log_at(&self, anew: Position) -> Result<()> {
        if self.trusts_the_tail()? {
            return self.checkpoint();
        }
        if !on(Mutant::CheckpointCoversUnsynced) {
            self.sync_log()?;
        }
        let turn = self.index.turn(true);
        let row = SiloRow { checkpoint: anew, clean: false, ..self.row().clone() };
        self.guard(turn.write(Leaves::Nothing, |txn| {
            txn.open_table(SILO)?.insert(SILO_KEY, &encode_row(&row)[..])?;
            Ok(())
        }))?;
        *self.row() = row;
        Ok(())
    }

    /// Whether what the page cache held counts as durable; only as a deliberate bug.
    fn trusts_the_tail(&self) -> Result<bool> {
        let after_failure = on(Mutant::RestartAfterFailedSync) && read_fault(&self.disk)?.is_some();
        Ok(after_failure || on(Mutant::DurableIsAppliedAtRestart))
    }

    fn revert_incomplete(&self) -> Result<()> {
        let revert = |(key, state): (SlotKey, SlotState)| {
            let vote = state.incomplete?;
            Some(SlotCommit { key, state, change: Change::Revert { vote } })
        };
        let commits: Vec<SlotCommit> = self.slots().into_iter().filter_map(revert).collect();
        if commits.is_empty() { Ok(()) } else { self.commit(&commits) }
    }

    /// Removes the segments behind the tail, which nothing refers to: made ahead and never used, or cut off by a tear.
    /// Copies that cleaning made lie behind the tail too, in segments that no other continues: the index has those.
    fn remove_unused(&self, tail: &Tail, numbers: &[u32]) -> Result<()> {
        let referred = self.all_slots().iter().map(|slot| slot.read().position.segment()).max().unwrap_or(0);
        let current = self.log.end().segment();
        let unused = |number: &u32| {
            let behind = *number > tail.end.segment() && *number > referred && *number != current;
            behind && self.usage.of(*number) == 0
        };
        let unused: Vec<u32> = numbers.iter().copied().filter(unused).collect();
        self.log.remove(&unused).map_err(StoreError::io("remove unused segments"))
    }
}

/// If the silo was not closed in order, what the page cache holds of its index is forgotten; and notes that it is open.
fn forget_cached(disk: &Arc<dyn Disk>) -> Result<()> {
    match disk.open(IN_USE_NAME) {
        Ok(_) => {
            for name in [INDEX_NAME, SUMS_NAME] {
                match disk.open(name) {
                    // What is missing is told where it is needed.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    other => other
                        .and_then(|file| file.sync_and_forget())
                        .map_err(StoreError::io("read the index from the disk"))?,
                }
            }
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            disk.create(IN_USE_NAME).map(drop).map_err(StoreError::io("note that the silo is open"))
        }
        Err(error) => Err(StoreError::Io { doing: "see whether the silo was closed", error }),
    }
}

fn open_index(disk: &Arc<dyn Disk>, ballast: &Arc<Ballast>, options: &SiloOptions) -> Result<Index> {
    let file = open_index_file(disk, INDEX_NAME)?;
    if format_version(disk)? < FORMAT_VERSION {
        add_sums(disk, &file, options.index_cache_bytes)?;
    }
    let sums = open_index_file(disk, SUMS_NAME)?;
    let pages = PageFile::open(file, sums).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => StoreError::Damaged(Damage::Index(error.to_string())),
        _ => StoreError::Io { doing: "read the index's checksums", error },
    })?;
    Index::open(pages, Some(ballast.clone()), options.index_cache_bytes)
}

/// One of the index's two files, which are never empty.
fn open_index_file(disk: &Arc<dyn Disk>, name: &str) -> Result<Arc<dyn DiskFile>> {
    let missing = || StoreError::Damaged(Damage::Index(format!("{name} is missing or empty")));
    let file = match disk.open(name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(missing()),
        other => other.map_err(StoreError::io("open the index"))?,
    };
    if file.size().map_err(StoreError::io("size the index"))? == 0 {
        return Err(missing());
    }
    Ok(file)
}

/// Makes a silo of format 1 one of format 2: its index is verified by redb's own checksums as a whole, once, and then
/// gets those of its pages. Interrupted at any point, it begins anew.
fn add_sums(disk: &Arc<dyn Disk>, file: &Arc<dyn DiskFile>, cache_bytes: usize) -> Result<()> {
    Index::verify_unsummed(file, cache_bytes)?;
    let io = StoreError::io;
    let left = disk.list().map_err(io("list the silo's directory"))?.iter().any(|name| name == SUMS_NAME);
    if left {
        disk.remove(SUMS_NAME).map_err(io("remove checksums that were not finished"))?;
    }
    let sums = disk.create(SUMS_NAME).map_err(io("create the index's checksums"))?;
    PageFile::create(file.clone(), sums).and_then(|_| disk.sync_dir()).map_err(io("write the index's checksums"))?;
    raise_format(disk)
}

fn open_log(
    disk: &Arc<dyn Disk>,
    id: SiloId,
    options: &SiloOptions,
    next_number: u32,
    end: Option<Position>,
) -> Result<Log> {
    let opened = Log::open(disk.clone(), id, options.incarnation, options.segment_bytes, next_number, end);
    opened.map_err(StoreError::io("open the log"))
}

fn segment_numbers(disk: &Arc<dyn Disk>) -> Result<Vec<u32>> {
    let names = disk.list().map_err(StoreError::io("list the silo's directory"))?;
    let mut numbers: Vec<u32> = names.iter().filter_map(|name| segment_number(name)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// The failure that an earlier life noted.
fn read_fault(disk: &Arc<dyn Disk>) -> Result<Option<Fault>> {
    let file = match disk.open(FAULT_NAME) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(StoreError::io("open the note of the fault"))?,
    };
    let size = file.size().map_err(StoreError::io("size the note of the fault"))?;
    let mut bytes = vec![0; size.min(4096) as usize];
    file.read_at(&mut bytes, 0).map_err(StoreError::io("read the note of the fault"))?;
    let text = String::from_utf8_lossy(&bytes);
    let (word, cause) = text.split_once('\n').unwrap_or((&text, "unknown"));
    let known = [Operation::Write, Operation::Sync, Operation::Commit, Operation::Index];
    // A note that was torn is a note all the same: what failed was then most likely a sync.
    let operation = known.into_iter().find(|operation| operation.word() == word).unwrap_or(Operation::Sync);
    Ok(Some(Fault { operation, cause: cause.trim_end().to_owned() }))
}

fn load(index: &Index, id: SiloId) -> Result<(SiloRow, BTreeMap<SlotKey, Arc<Slot>>)> {
    let txn = index.read()?;
    let missing = || StoreError::Damaged(Damage::IndexRow("silo"));
    let table = txn.open_table(SILO).map_err(|_| missing())?;
    let row: SiloRow = decode_row("silo", table.get(SILO_KEY)?.ok_or_else(missing)?.value())?;
    if row.id != id {
        return Err(StoreError::Damaged(Damage::IndexOfAnother(row.id)));
    }
    let mut slots = BTreeMap::new();
    for entry in txn.open_table(SLOTS)?.iter()? {
        let (key, value) = entry?;
        let (key, row) = (slot_of_key(key.value()), decode_row::<SlotRow>("slot", value.value())?);
        let slot = Slot::new(key, row);
        load_content(&txn, slot.number, &mut slot.write())?;
        slots.insert(key, Arc::new(slot));
    }
    Ok((row, slots))
}

/// The blocks that the index has in each segment, and whether they had to be counted.
fn load_usage(index: &Index) -> Result<(Usage, bool)> {
    let txn = index.read()?;
    match Usage::load(&txn)? {
        Some(usage) => Ok((usage, false)),
        None => Ok((Usage::count(&txn)?, true)),
    }
}

fn load_content(txn: &ReadTransaction, number: u32, content: &mut Content) -> Result<()> {
    each_group(&txn.open_table(EXTENTS)?, number, 0..=u64::MAX, |page, bytes| {
        let raw: &[u8; PAGE_BYTES] = bytes.try_into().map_err(|_| StoreError::Damaged(Damage::IndexRow("extents")))?;
        content.extents.load(page, raw);
        Ok(true)
    })?;
    for entry in txn.open_table(TRIMS)?.range::<&[u8; 28]>(&edge_key(number, 0)..=&edge_key(number, 0xff))? {
        let (key, end) = entry?;
        let blocks = first_of_trim_key(key.value())..end.value();
        content.trims.insert(Trim { stamp: stamp_of_key(key.value()), blocks, unsaved: None });
    }
    for entry in txn.open_table(MARKERS)?.range::<&[u8; 20]>(&edge_key(number, 0)..=&edge_key(number, 0xff))? {
        let (key, value) = entry?;
        content.markers.insert(stamp_of_key(key.value()), snapshot(value.value()), None);
    }
    Ok(())
}
