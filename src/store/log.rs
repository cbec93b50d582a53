//! The log: the chain of segments that records are appended to and block data is read from.
//!
//! One thread appends, one syncs, any number read. A batch is written with one vectored write (a second one where it
//! runs into the next segment, which is made before anything of the batch is written, so that a full disk refuses
//! the batch whole). A sync takes note of the end under the lock and syncs outside of it, so that appends go on.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::base::id::{Incarnation, SiloId};
use crate::base::record::Record;
use crate::store::ahead::{Ahead, padding};
use crate::store::cold::Cold;
use crate::store::disk::{Caching, Disk, DiskFile, is_full};
use crate::store::error::Operation;
use crate::store::position::Position;
use crate::store::segment::{
    PREFIX_BYTES, SEGMENT_HEADER_BYTES, SegmentHeader, entry_bytes, prefix, segment_name, segment_number,
};

/// Segment files held open for reading; a silo of 1 TiB has 16,384 segments, a process often 1,024 descriptors.
const HANDLES_MAX: usize = 256;
const PADDING: [u8; 8] = [0; 8];
const ZEROES: [u8; 4096] = [0; 4096];

/// Why the log did not take something.
#[derive(Debug)]
pub(crate) enum LogError {
    /// Nothing was written.
    NoSpace,
    /// A record does not fit in a segment. Nothing was written.
    TooLong,
    /// Final: what is on the disk is not known any more.
    Failed(Operation, io::Error),
}

pub(crate) struct Log {
    disk: Arc<dyn Disk>,
    silo: SiloId,
    incarnation: Incarnation,
    segment_bytes: u32,
    writer: Mutex<Writer>,
    /// Zeroes ahead of the end have been written, or a segment was made.
    pub(super) settled: Condvar,
    /// One sync at a time; a second one finds its work done.
    syncing: Mutex<()>,
    durable: AtomicU64,
    allocated_bytes: AtomicU64,
    /// Every segment on the disk with the bytes it takes.
    files: Mutex<BTreeMap<u32, u64>>,
    pub(super) cold: Cold,
    handles: Mutex<Handles>,
}

pub(super) struct Writer {
    pub(super) current: Option<Current>,
    pub(super) ahead: Ahead,
    /// Segments that were left behind and are not synced yet, oldest first.
    left: Vec<Arc<dyn DiskFile>>,
    /// Segments made ahead, durable and empty, in the order of their use.
    spares: VecDeque<(u32, Arc<dyn DiskFile>)>,
    /// One more is being made.
    is_making: bool,
    next_number: u32,
    /// The number of the first segment of this life, until it is made: the log's end may have been named by it.
    first_number: Option<u32>,
}

/// A segment that is being appended to.
pub(crate) struct Current {
    pub(super) number: u32,
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) offset: u32,
    /// Bytes of the segment.
    pub(super) bytes: u32,
}

/// Open files by segment, the longest unused closed first.
#[derive(Default)]
struct Handles {
    open: BTreeMap<u32, (Arc<dyn DiskFile>, u64)>,
    uses: u64,
}

impl Log {
    /// A log with the segments on the disk. It continues at `end` if that is given; else the next append begins the
    /// segment `first_number`, which does not exist.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        silo: SiloId,
        incarnation: Incarnation,
        segment_bytes: u32,
        first_number: u32,
        end: Option<Position>,
    ) -> io::Result<Log> {
        let mut files = BTreeMap::new();
        for number in disk.list()?.iter().filter_map(|name| segment_number(name)) {
            files.insert(number, disk.open(&segment_name(number))?.size()?);
        }
        let allocated = files.values().sum();
        let current = match end {
            Some(end) => {
                let file = disk.open(&segment_name(end.segment()))?;
                // It may have been made when segments were of another size.
                let bytes = u32::try_from(file.size()?).unwrap_or(segment_bytes);
                Some(Current { number: end.segment(), file, offset: end.offset(), bytes })
            }
            None => None,
        };
        let durable = end.unwrap_or(Position::new(first_number, SEGMENT_HEADER_BYTES));
        let next_number = files.keys().next_back().map_or(0, |last| *last).max(first_number) + 1;
        let first_number = end.is_none().then_some(first_number);
        Ok(Log {
            disk,
            silo,
            incarnation,
            segment_bytes,
            writer: Mutex::new(Writer {
                current,
                ahead: Ahead::default(),
                left: Vec::new(),
                spares: VecDeque::new(),
                is_making: false,
                next_number,
                first_number,
            }),
            settled: Condvar::new(),
            syncing: Mutex::new(()),
            durable: AtomicU64::new(durable.0),
            allocated_bytes: AtomicU64::new(allocated),
            files: Mutex::new(files),
            cold: Cold::default(),
            handles: Mutex::default(),
        })
    }

    /// Where the next record goes, or past the end of the segment before it.
    pub(crate) fn end(&self) -> Position {
        self.writer().end()
    }

    /// Everything before this place survives a power loss.
    pub(crate) fn durable(&self) -> Position {
        Position(self.durable.load(Ordering::Acquire))
    }

    /// Bytes of a segment.
    pub(crate) fn bytes_of(&self, number: u32) -> u64 {
        self.files().get(&number).copied().unwrap_or(0)
    }

    /// Bytes of the segments made ahead.
    pub(crate) fn spare_bytes(&self) -> u64 {
        self.writer().spares.len() as u64 * u64::from(self.segment_bytes)
    }

    /// Bytes left in the segment that is being appended to.
    pub(crate) fn open_bytes(&self) -> u64 {
        self.writer().current.as_ref().map_or(0, |current| u64::from(current.room()))
    }

    /// The number that the next segment gets.
    pub(crate) fn next_number(&self) -> u32 {
        self.writer().next_number
    }

    /// The segments on the disk.
    pub(crate) fn numbers(&self) -> Vec<u32> {
        self.files().keys().copied().collect()
    }

    pub(crate) fn segment_bytes(&self) -> u32 {
        self.segment_bytes
    }

    /// Bytes that the segments take on the disk.
    pub(crate) fn allocated_bytes(&self) -> u64 {
        self.allocated_bytes.load(Ordering::Relaxed)
    }

    /// Writes a batch and says where the entry of each record begins. `limit_bytes` bounds all segments together.
    pub(crate) fn append(&self, records: &[Record], limit_bytes: u64) -> Result<Vec<Position>, LogError> {
        self.append_with(records, || limit_bytes, Caching::Keep)
    }

    /// As [`Log::append`]; the limit is asked for only where a segment is to be made.
    pub(crate) fn append_with(
        &self,
        records: &[Record],
        limit_bytes: impl Fn() -> u64,
        caching: Caching,
    ) -> Result<Vec<Position>, LogError> {
        let mut writer = self.ready_for(records)?;
        for _ in writer.spares.len()..self.rolls(&writer, records)? {
            self.make_spare(&mut writer, limit_bytes())?;
        }
        let mut places = Vec::with_capacity(records.len());
        let mut rest = records;
        while !rest.is_empty() {
            let fitting = self.fitting(writer.current.as_ref(), rest);
            if fitting == 0 {
                self.roll(&mut writer)?;
                continue;
            }
            let (some, later) = rest.split_at(fitting);
            let durable = self.durable();
            let Writer { current: Some(current), ahead, .. } = &mut *writer else {
                unreachable!("a record fits only in a segment")
            };
            let zeroed = ahead.zeroed(current.number);
            self.write(current, some, durable, caching, &zeroed, &mut places)
                .map_err(|e| LogError::Failed(Operation::Write, e))?;
            rest = later;
        }
        Ok(places)
    }

    /// The writer, once nothing that is done beside is in the way of these records.
    fn ready_for(&self, records: &[Record]) -> Result<MutexGuard<'_, Writer>, LogError> {
        let mut writer = self.writer();
        loop {
            let awaited = writer.is_making && self.rolls(&writer, records)? > writer.spares.len();
            if !awaited && !writer.meets_zeroes(records) {
                return Ok(writer);
            }
            writer = self.settled.wait(writer).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Makes everything appended before the call durable; returns up to where that is.
    pub(crate) fn sync(&self) -> Result<Position, LogError> {
        let _one = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        let (left, current, end) = {
            let writer = self.writer();
            let current = writer.current.as_ref().map(|current| current.file.clone());
            (writer.left.clone(), current, writer.end())
        };
        if self.durable() >= end && left.is_empty() {
            return Ok(end);
        }
        for file in left.iter().chain(&current) {
            file.sync_data().map_err(|e| LogError::Failed(Operation::Sync, e))?;
        }
        let mut writer = self.writer();
        writer.left.drain(..left.len());
        let before = self.durable();
        let small = before.segment() == end.segment() && before <= end;
        writer.ahead.synced(if small { end.0 - before.0 } else { u64::MAX });
        drop(writer);
        self.durable.fetch_max(end.0, Ordering::AcqRel);
        Ok(end)
    }

    /// Makes the next segment ahead of its use once this one is half full, so that no append waits for it. A full
    /// disk is no failure here: the append that needs the segment will be refused.
    pub(crate) fn prepare(&self, limit_bytes: impl FnOnce() -> u64) -> Result<(), LogError> {
        let (number, continues) = {
            let mut writer = self.writer();
            let half_full = writer.current.as_ref().is_some_and(|current| current.offset > current.bytes / 2);
            if !half_full || !writer.spares.is_empty() || writer.is_making {
                return Ok(());
            }
            writer.is_making = true;
            let (number, continues) = writer.next_spare();
            // Cleaning draws numbers too.
            writer.next_number = writer.next_number.max(number + 1);
            (number, continues)
        };
        // Appends go on meanwhile; one that needs the segment waits for it.
        let made = self.make_segment(number, continues, limit_bytes());
        let mut writer = self.writer();
        writer.is_making = false;
        self.settled.notify_all();
        match made {
            Ok(file) => writer.add_spare(number, file),
            Err(LogError::NoSpace) if writer.next_number == number + 1 => writer.next_number = number,
            Err(LogError::NoSpace) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Makes one more segment ahead.
    pub(crate) fn prepare_next(&self, limit_bytes: u64) -> Result<(), LogError> {
        self.make_spare(&mut self.settled(self.writer()), limit_bytes)
    }

    /// Fills `buffer` from a segment.
    pub(crate) fn read(&self, segment: u32, offset: u32, buffer: &mut [u8]) -> io::Result<()> {
        let file = self.handle(segment)?;
        file.read_at(buffer, u64::from(offset))
    }

    /// The same if the bytes are in memory and nobody holds the open files; false if something would be waited for, or is
    /// wrong, which [`Log::read`] tells.
    pub(crate) fn read_at_once(&self, segment: u32, offset: u32, buffer: &mut [u8]) -> bool {
        let Ok(mut handles) = self.handles.try_lock() else { return false };
        let Some(file) = handles.find(segment) else { return false };
        drop(handles);
        file.read_at_once(buffer, u64::from(offset))
    }

    /// Removes segments that hold nothing any more.
    pub(crate) fn remove(&self, numbers: &[u32]) -> io::Result<()> {
        for number in numbers {
            self.handles().open.remove(number);
            let name = segment_name(*number);
            self.disk.remove(&name)?;
            self.forget_cold(*number);
            let bytes = self.files().remove(number).unwrap_or(0);
            self.allocated_bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        if numbers.is_empty() { Ok(()) } else { self.disk.sync_dir() }
    }

    pub(super) fn writer(&self) -> MutexGuard<'_, Writer> {
        // A panic while the lock was held has ended the appending task; the others only read what is there.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handles(&self) -> MutexGuard<'_, Handles> {
        self.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many new segments a batch needs.
    fn rolls(&self, writer: &Writer, records: &[Record]) -> Result<usize, LogError> {
        let (mut rolls, mut room) = (0, writer.current.as_ref().map_or(0, Current::room));
        for record in records {
            let (bytes, fresh) = (entry_bytes(record.len()), room_after(self.segment_bytes, SEGMENT_HEADER_BYTES));
            if fresh < bytes {
                return Err(LogError::TooLong);
            }
            if room < bytes {
                rolls += 1;
                room = fresh;
            }
            room -= bytes;
        }
        Ok(rolls)
    }

    /// How many of these records fit in the current segment.
    pub(super) fn fitting(&self, current: Option<&Current>, records: &[Record]) -> usize {
        let Some(mut room) = current.map(Current::room) else { return 0 };
        let fits = |record: &&Record| {
            let bytes = entry_bytes(record.len());
            let fits = room >= bytes;
            room = room.saturating_sub(bytes);
            fits
        };
        records.iter().take_while(fits).count()
    }

    pub(super) fn write(
        &self,
        current: &mut Current,
        records: &[Record],
        durable: Position,
        caching: Caching,
        zeroed: &Range<u32>,
        places: &mut Vec<Position>,
    ) -> io::Result<()> {
        let start = current.offset;
        let mut prefixes = Vec::with_capacity(records.len());
        for record in records {
            let at = Position::new(current.number, current.offset);
            prefixes.push(prefix(self.silo, at, record.len() as u32, durable));
            places.push(at);
            current.offset += entry_bytes(record.len());
        }
        let mut slices = Vec::with_capacity(records.len() * 4);
        for (record, prefix) in records.iter().zip(&prefixes) {
            let padding = record.len().next_multiple_of(8) - record.len();
            let parts = [&prefix[..], &record.head[..], &record.payload[..], &PADDING[..padding]];
            slices.extend(parts.into_iter().filter(|part| !part.is_empty()).map(IoSlice::new));
        }
        slices.push(IoSlice::new(&ZEROES[..padding(current.offset, zeroed)]));
        match caching {
            Caching::Keep => current.file.write_vectored_at(&mut slices, u64::from(start)),
            Caching::Bypass => current.file.write_past_cache(&mut slices, u64::from(start)),
        }
    }

    /// Ends the current segment in order and goes on in the next one, which was made before.
    fn roll(&self, writer: &mut Writer) -> Result<(), LogError> {
        let Some((number, file)) = writer.spares.pop_front() else { return Err(LogError::NoSpace) };
        let next = Current { number, file, offset: SEGMENT_HEADER_BYTES, bytes: self.segment_bytes };
        if let Some(last) = writer.current.replace(next) {
            let at = Position::new(last.number, last.offset);
            let end = prefix(self.silo, at, 0, self.durable());
            let written = last.file.write_vectored_at(&mut [IoSlice::new(&end)], u64::from(last.offset));
            written.map_err(|error| LogError::Failed(Operation::Write, error))?;
            writer.left.push(last.file);
        }
        Ok(())
    }

    /// Makes a segment that continues the last one.
    fn make_spare(&self, writer: &mut Writer, limit_bytes: u64) -> Result<(), LogError> {
        let (number, continues) = writer.next_spare();
        let file = self.make_segment(number, continues, limit_bytes)?;
        writer.add_spare(number, file);
        Ok(())
    }

    /// Waits until no segment is being made beside.
    fn settled<'w>(&self, mut writer: MutexGuard<'w, Writer>) -> MutexGuard<'w, Writer> {
        while writer.is_making {
            writer = self.settled.wait(writer).unwrap_or_else(PoisonError::into_inner);
        }
        writer
    }

    /// A number for a segment that is not of the chain.
    pub(super) fn take_number(&self) -> u32 {
        let mut writer = self.writer();
        writer.next_number += 1;
        writer.next_number - 1
    }

    /// Makes a segment: allocated, with its header, file and directory synced.
    pub(super) fn make_segment(
        &self,
        number: u32,
        continues: u32,
        limit_bytes: u64,
    ) -> Result<Arc<dyn DiskFile>, LogError> {
        let bytes = u64::from(self.segment_bytes);
        let take = |allocated: u64| (allocated + bytes <= limit_bytes).then_some(allocated + bytes);
        if self.allocated_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_err() {
            return Err(LogError::NoSpace);
        }
        let made = self.make_file(number, continues);
        if made.is_ok() {
            self.files().insert(number, bytes);
        } else {
            self.allocated_bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        made
    }

    fn make_file(&self, number: u32, continues: u32) -> Result<Arc<dyn DiskFile>, LogError> {
        let header = SegmentHeader { silo: self.silo, number, continues, incarnation: self.incarnation };
        let name = segment_name(number);
        let failed = |error| LogError::Failed(Operation::Write, error);
        let file = match self.disk.create(&name) {
            Err(error) if is_full(&error) => return Err(LogError::NoSpace),
            other => other.map_err(failed)?,
        };
        if let Err(error) = file.allocate(u64::from(self.segment_bytes)) {
            if !is_full(&error) {
                return Err(failed(error));
            }
            self.disk.remove(&name).map_err(failed)?;
            return Err(LogError::NoSpace);
        }
        file.write_vectored_at(&mut [IoSlice::new(&header.encode())], 0).map_err(failed)?;
        file.sync_data().and_then(|()| self.disk.sync_dir()).map_err(|e| LogError::Failed(Operation::Sync, e))?;
        Ok(file)
    }

    fn files(&self) -> MutexGuard<'_, BTreeMap<u32, u64>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handle(&self, segment: u32) -> io::Result<Arc<dyn DiskFile>> {
        let mut handles = self.handles();
        if let Some(file) = handles.find(segment) {
            return Ok(file);
        }
        let file = self.disk.open(&segment_name(segment))?;
        // What lies ahead is about to be written, perhaps past the cache, which must not hold its old content then.
        file.read_no_further();
        if handles.open.len() >= HANDLES_MAX
            && let Some(oldest) = handles.open.iter().min_by_key(|(_, (_, used))| *used).map(|(number, _)| *number)
        {
            handles.open.remove(&oldest);
        }
        let uses = handles.uses;
        handles.open.insert(segment, (file.clone(), uses));
        Ok(file)
    }
}

impl Handles {
    fn find(&mut self, segment: u32) -> Option<Arc<dyn DiskFile>> {
        self.uses += 1;
        let (file, used) = self.open.get_mut(&segment)?;
        *used = self.uses;
        Some(file.clone())
    }
}

impl Current {
    /// Bytes left for entries.
    pub(super) fn room(&self) -> u32 {
        room_after(self.bytes, self.offset)
    }
}

/// Bytes left for entries after this offset; an end mark must always fit.
fn room_after(bytes: u32, offset: u32) -> u32 {
    bytes.saturating_sub(offset).saturating_sub(PREFIX_BYTES)
}

impl Writer {
    /// The number of the next segment of the chain, and of the one before it.
    fn next_spare(&self) -> (u32, u32) {
        let number = self.first_number.unwrap_or(self.next_number);
        let last = self.spares.back().map(|(number, _)| *number);
        (number, last.or(self.current.as_ref().map(|current| current.number)).unwrap_or(0))
    }

    fn add_spare(&mut self, number: u32, file: Arc<dyn DiskFile>) {
        if self.first_number.take().is_none() {
            self.next_number = self.next_number.max(number + 1);
        }
        self.spares.push_back((number, file));
    }

    fn end(&self) -> Position {
        match &self.current {
            Some(current) => Position::new(current.number, current.offset),
            None => {
                let ahead = self.spares.front().map(|(number, _)| *number).or(self.first_number);
                let number = ahead.unwrap_or(self.next_number);
                Position::new(number, SEGMENT_HEADER_BYTES)
            }
        }
    }
}
