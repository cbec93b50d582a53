//! The log: the chain of segments that records are appended to and block data is read from.
//!
//! One thread appends, one syncs, any number read. A batch is written with one vectored write (a second one where it
//! runs into the next segment, which is made before anything of the batch is written, so that a full disk refuses
//! the batch whole). A sync takes note of the end under the lock and syncs outside of it, so that appends go on.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::base::id::{Incarnation, SiloId};
use crate::base::record::Record;
use crate::store::disk::{Disk, DiskFile};
use crate::store::error::Operation;
use crate::store::position::Position;
use crate::store::segment::{
    PREFIX_BYTES, SEGMENT_HEADER_BYTES, SegmentHeader, entry_bytes, prefix, segment_name, segment_number,
};

/// Segment files held open for reading; a silo of 1 TiB has 16,384 segments, a process often 1,024 descriptors.
const HANDLES_MAX: usize = 256;
const PADDING: [u8; 8] = [0; 8];

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
    /// One sync at a time; a second one finds its work done.
    syncing: Mutex<()>,
    durable: AtomicU64,
    allocated_bytes: AtomicU64,
    handles: Mutex<Handles>,
}

struct Writer {
    current: Option<Current>,
    /// Segments that were left behind and are not synced yet, oldest first.
    left: Vec<Arc<dyn DiskFile>>,
    /// Segments made ahead, durable and empty, in the order of their use.
    spares: VecDeque<(u32, Arc<dyn DiskFile>)>,
    next_number: u32,
}

struct Current {
    number: u32,
    file: Arc<dyn DiskFile>,
    offset: u32,
}

/// Open files by segment, the longest unused closed first.
#[derive(Default)]
struct Handles {
    open: BTreeMap<u32, (Arc<dyn DiskFile>, u64)>,
    uses: u64,
}

impl Log {
    /// A log with these segments on the disk. It continues at `end` if that is given; else the next append begins a
    /// new segment.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        silo: SiloId,
        incarnation: Incarnation,
        segment_bytes: u32,
        next_number: u32,
        end: Option<Position>,
    ) -> io::Result<Log> {
        let mut allocated = 0;
        for number in disk.list()?.iter().filter_map(|name| segment_number(name)) {
            allocated += disk.open(&segment_name(number))?.size()?;
        }
        let current = match end {
            Some(end) => {
                let file = disk.open(&segment_name(end.segment()))?;
                Some(Current { number: end.segment(), file, offset: end.offset() })
            }
            None => None,
        };
        let durable = end.unwrap_or(Position::new(next_number, SEGMENT_HEADER_BYTES));
        Ok(Log {
            disk,
            silo,
            incarnation,
            segment_bytes,
            writer: Mutex::new(Writer { current, left: Vec::new(), spares: VecDeque::new(), next_number }),
            syncing: Mutex::new(()),
            durable: AtomicU64::new(durable.0),
            allocated_bytes: AtomicU64::new(allocated),
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

    /// Bytes that the segments take on the disk.
    pub(crate) fn allocated_bytes(&self) -> u64 {
        self.allocated_bytes.load(Ordering::Relaxed)
    }

    /// Writes a batch and says where the entry of each record begins. `limit_bytes` bounds all segments together.
    pub(crate) fn append(&self, records: &[Record], limit_bytes: u64) -> Result<Vec<Position>, LogError> {
        let mut writer = self.writer();
        for _ in writer.spares.len()..self.rolls(&writer, records)? {
            self.make_spare(&mut writer, limit_bytes)?;
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
            let Some(current) = writer.current.as_mut() else { unreachable!("a record fits only in a segment") };
            self.write(current, some, durable, &mut places).map_err(|e| LogError::Failed(Operation::Write, e))?;
            rest = later;
        }
        Ok(places)
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
        self.writer().left.drain(..left.len());
        self.durable.fetch_max(end.0, Ordering::AcqRel);
        Ok(end)
    }

    /// Makes the next segment ahead of its use once this one is half full, so that no append waits for it. A full
    /// disk is no failure here: the append that needs the segment will be refused.
    pub(crate) fn prepare(&self, limit_bytes: u64) -> Result<(), LogError> {
        let mut writer = self.writer();
        let half_full = writer.current.as_ref().is_some_and(|current| current.offset > self.segment_bytes / 2);
        if !half_full || !writer.spares.is_empty() {
            return Ok(());
        }
        match self.make_spare(&mut writer, limit_bytes) {
            Err(LogError::NoSpace) => Ok(()),
            other => other,
        }
    }

    /// Fills `buffer` from a segment.
    pub(crate) fn read(&self, segment: u32, offset: u32, buffer: &mut [u8]) -> io::Result<()> {
        let file = self.handle(segment)?;
        file.read_at(buffer, u64::from(offset))
    }

    /// Removes segments that hold nothing any more.
    pub(crate) fn remove(&self, numbers: &[u32]) -> io::Result<()> {
        for number in numbers {
            self.handles().open.remove(number);
            let name = segment_name(*number);
            let bytes = self.disk.open(&name)?.size()?;
            self.disk.remove(&name)?;
            self.allocated_bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        if numbers.is_empty() { Ok(()) } else { self.disk.sync_dir() }
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        // A panic while the lock was held has ended the appending task; the others only read what is there.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handles(&self) -> MutexGuard<'_, Handles> {
        self.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many new segments a batch needs.
    fn rolls(&self, writer: &Writer, records: &[Record]) -> Result<usize, LogError> {
        let (mut rolls, mut offset) = (0, writer.current.as_ref().map_or(self.segment_bytes, |c| c.offset));
        for record in records {
            if self.room(SEGMENT_HEADER_BYTES) < entry_bytes(record.len()) {
                return Err(LogError::TooLong);
            }
            if self.room(offset) < entry_bytes(record.len()) {
                rolls += 1;
                offset = SEGMENT_HEADER_BYTES;
            }
            offset += entry_bytes(record.len());
        }
        Ok(rolls)
    }

    /// How many of these records fit in the current segment.
    fn fitting(&self, current: Option<&Current>, records: &[Record]) -> usize {
        let Some(mut offset) = current.map(|current| current.offset) else { return 0 };
        let fits = |record: &&Record| {
            let bytes = entry_bytes(record.len());
            let room = self.room(offset) >= bytes;
            offset = offset.saturating_add(bytes);
            room
        };
        records.iter().take_while(fits).count()
    }

    /// Bytes left for entries after this offset; an end mark must always fit.
    fn room(&self, offset: u32) -> u32 {
        self.segment_bytes.saturating_sub(offset).saturating_sub(PREFIX_BYTES)
    }

    fn write(
        &self,
        current: &mut Current,
        records: &[Record],
        durable: Position,
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
        current.file.write_vectored_at(&mut slices, u64::from(start))
    }

    /// Ends the current segment in order and goes on in the next one, which was made before.
    fn roll(&self, writer: &mut Writer) -> Result<(), LogError> {
        let Some((number, file)) = writer.spares.pop_front() else { return Err(LogError::NoSpace) };
        let next = Current { number, file, offset: SEGMENT_HEADER_BYTES };
        if let Some(last) = writer.current.replace(next) {
            let at = Position::new(last.number, last.offset);
            let end = prefix(self.silo, at, 0, self.durable());
            let written = last.file.write_vectored_at(&mut [IoSlice::new(&end)], u64::from(last.offset));
            written.map_err(|error| LogError::Failed(Operation::Write, error))?;
            writer.left.push(last.file);
        }
        Ok(())
    }

    /// Makes a segment that continues the last one: allocated, with its header, file and directory synced.
    fn make_spare(&self, writer: &mut Writer, limit_bytes: u64) -> Result<(), LogError> {
        if self.allocated_bytes() + u64::from(self.segment_bytes) > limit_bytes {
            return Err(LogError::NoSpace);
        }
        let number = writer.next_number;
        let last = writer.spares.back().map(|(number, _)| *number);
        let continues = last.or(writer.current.as_ref().map(|current| current.number)).unwrap_or(0);
        let header = SegmentHeader { silo: self.silo, number, continues, incarnation: self.incarnation };
        let name = segment_name(number);
        let failed = |error| LogError::Failed(Operation::Write, error);
        let file = match self.disk.create(&name) {
            Err(error) if error.kind() == io::ErrorKind::StorageFull => return Err(LogError::NoSpace),
            other => other.map_err(failed)?,
        };
        if let Err(error) = file.allocate(u64::from(self.segment_bytes)) {
            if error.kind() != io::ErrorKind::StorageFull {
                return Err(failed(error));
            }
            self.disk.remove(&name).map_err(failed)?;
            return Err(LogError::NoSpace);
        }
        file.write_vectored_at(&mut [IoSlice::new(&header.encode())], 0).map_err(failed)?;
        file.sync_data().and_then(|()| self.disk.sync_dir()).map_err(|e| LogError::Failed(Operation::Sync, e))?;
        self.allocated_bytes.fetch_add(u64::from(self.segment_bytes), Ordering::Relaxed);
        writer.next_number += 1;
        writer.spares.push_back((number, file));
        Ok(())
    }

    fn handle(&self, segment: u32) -> io::Result<Arc<dyn DiskFile>> {
        let mut handles = self.handles();
        handles.uses += 1;
        let uses = handles.uses;
        if let Some((file, used)) = handles.open.get_mut(&segment) {
            *used = uses;
            return Ok(file.clone());
        }
        let file = self.disk.open(&segment_name(segment))?;
        if handles.open.len() >= HANDLES_MAX
            && let Some(oldest) = handles.open.iter().min_by_key(|(_, (_, used))| *used).map(|(number, _)| *number)
        {
            handles.open.remove(&oldest);
        }
        handles.open.insert(segment, (file.clone(), uses));
        Ok(file)
    }
}

impl Writer {
    fn end(&self) -> Position {
        match &self.current {
            Some(current) => Position::new(current.number, current.offset),
            None => {
                let number = self.spares.front().map_or(self.next_number, |(number, _)| *number);
                Position::new(number, SEGMENT_HEADER_BYTES)
            }
        }
    }
}
