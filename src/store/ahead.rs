//! Zeroes written ahead of the log's end, while small writes are synced one by one.
//!
//! A segment's space is reserved when the segment is made, but a file system remembers of reserved space that it was
//! never written. The first write there changes the file's metadata, which the next sync must bring to the disk too: two
//! or three writes where one would do, each waiting for the one before. Where zeroes were written before, a sync writes
//! the records and nothing else. What stands there reads as zeroes before and after, so nothing depends on it.
//!
//! Two things go with it. A record's last page is written whole, padded with the zeroes that stand there: else the
//! kernel would read the page from the disk first. And no append goes where zeroes are being written at that moment.

use std::ops::Range;
use std::sync::Arc;

use crate::base::record::Record;
use crate::store::disk::DiskFile;
use crate::store::error::Operation;
use crate::store::log::{Log, LogError, Writer};
use crate::store::segment::entry_bytes;

/// A sync of less than this is a small one. With more, zeroes take as much of the disk as the records do, and what they
/// save counts for little.
const SMALL_SYNC_BYTES: u64 = 48 << 10;
/// So many small syncs one after the other are a rhythm.
const SMALL_SYNCS: u32 = 8;
/// Zeroes begin so far ahead that appends seldom meet the ones that are being written; in small segments, less.
const DISTANCE_BYTES: u32 = 256 << 10;
const DISTANCE_PARTS: u32 = 16;
/// Written at once, and more once less than this lies ahead.
const CHUNK_BYTES: u32 = 1 << 20;
const PAGE_BYTES: u32 = 4096;

/// What is known of the current segment's bytes beyond the end.
#[derive(Default)]
pub(crate) struct Ahead {
    segment: u32,
    /// Zeroes were written here, durably.
    zeroed: Range<u32>,
    /// They are being written here.
    busy: Option<Range<u32>>,
    small_syncs: u32,
    /// This disk does not take them.
    useless: bool,
}

impl Ahead {
    /// A sync made so many bytes durable.
    pub(super) fn synced(&mut self, bytes: u64) {
        self.small_syncs = if bytes <= SMALL_SYNC_BYTES { (self.small_syncs + 1).min(SMALL_SYNCS) } else { 0 };
    }

    /// Where in this segment zeroes were written.
    pub(super) fn zeroed(&self, segment: u32) -> Range<u32> {
        if segment == self.segment { self.zeroed.clone() } else { 0..0 }
    }
}

/// Bytes from `end` to the end of its page, if that page was zeroed.
pub(super) fn padding(end: u32, zeroed: &Range<u32>) -> usize {
    let page = end / PAGE_BYTES * PAGE_BYTES..end.next_multiple_of(PAGE_BYTES);
    if page.start >= zeroed.start && page.end <= zeroed.end { page.end as usize - end as usize } else { 0 }
}

impl Writer {
    /// Which bytes of which segment to zero next, if any.
    fn next_zeroes(&self) -> Option<(u32, Arc<dyn DiskFile>, Range<u32>)> {
        let (current, ahead) = (self.current.as_ref()?, &self.ahead);
        if ahead.small_syncs < SMALL_SYNCS || ahead.busy.is_some() || ahead.useless {
            return None;
        }
        let distance = DISTANCE_BYTES.min(current.bytes / DISTANCE_PARTS);
        let nearest = current.offset.saturating_add(distance).next_multiple_of(PAGE_BYTES);
        let zeroed = ahead.zeroed(current.number);
        let start = if zeroed.end < nearest { nearest } else { zeroed.end };
        let end = start.saturating_add(CHUNK_BYTES).min(current.bytes / PAGE_BYTES * PAGE_BYTES);
        let far = start - nearest >= CHUNK_BYTES;
        (start < end && !far).then(|| (current.number, current.file.clone(), start..end))
    }
}

impl Writer {
    /// Whether these records would meet zeroes that are being written.
    pub(super) fn meets_zeroes(&self, records: &[Record]) -> bool {
        let (Some(busy), Some(current)) = (&self.ahead.busy, &self.current) else { return false };
        let bytes = records.iter().fold(0_u32, |sum, record| sum.saturating_add(entry_bytes(record.len())));
        // An end mark and the rest of a page may follow the records.
        let reach = bytes.saturating_add(2 * PAGE_BYTES);
        current.offset.saturating_add(reach) > busy.start
    }
}

impl Log {
    /// Whether zeroes should be written.
    pub(crate) fn zeroes_due(&self) -> bool {
        self.writer().next_zeroes().is_some()
    }

    /// Writes the next zeroes, if there should be any, beside appends and syncs.
    pub(crate) fn zero_ahead(&self) -> Result<(), LogError> {
        let (segment, file, range) = {
            let mut writer = self.writer();
            let Some(next) = writer.next_zeroes() else { return Ok(()) };
            writer.ahead.busy = Some(next.2.clone());
            next
        };
        let written = file.write_zeroes(range.start.into(), range.end - range.start);
        let mut writer = self.writer();
        let ahead = &mut writer.ahead;
        ahead.busy = None;
        self.settled.notify_all();
        match written {
            Ok(true) if ahead.segment == segment && ahead.zeroed.end == range.start => ahead.zeroed.end = range.end,
            Ok(true) => (ahead.segment, ahead.zeroed) = (segment, range),
            Ok(false) => ahead.useless = true,
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => ahead.useless = true,
            Err(error) => return Err(LogError::Failed(Operation::Write, error)),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use bytes::Bytes;

    use super::*;
    use crate::base::id::{Epoch, Incarnation, Seq, SiloId, SlotIndex, SlotKey, Stamp, VolumeId};
    use crate::store::disk::{Caching, RealDisk};
    use crate::store::segment::{Entry, SEGMENT_HEADER_BYTES, read_entry};

    const SILO: SiloId = SiloId([3; 16]);
    const KEY: SlotKey = SlotKey { volume: VolumeId([1; 16]), slot: SlotIndex(0) };

    fn record(seq: u64) -> Record {
        let len = (1 + seq * seq * 7 % 6) * 4096;
        Record::write(KEY, 0, Stamp::new(Epoch(1), Seq(seq)), Bytes::from(vec![seq as u8 | 1; len as usize]))
    }

    #[test]
    fn only_pages_that_were_zeroed_are_padded() {
        let zeroed = 8192..16384;
        assert_eq!(padding(8193, &zeroed), 4095);
        assert_eq!(padding(16383, &zeroed), 1);
        for end in [8192, 12288, 16384, 16385, 8191, 0] {
            assert_eq!(padding(end, &zeroed), 0, "end {end}");
        }
        assert_eq!(padding(8193, &(0..0)), 0);
    }

    #[test]
    fn appends_beside_the_zeroing_lose_nothing() {
        // Beside this program, not where temporary files are: that may be memory, which has nothing past the cache.
        let folder = tempfile::tempdir_in(std::env::current_exe().unwrap().parent().unwrap()).unwrap();
        let disk = Arc::new(RealDisk::new(folder.path()));
        let log = Log::open(disk, SILO, Incarnation(1), 4 << 20, 1, None).unwrap();
        let (done, mut places, mut in_zeroes) = (AtomicBool::new(false), Vec::new(), 0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    log.zero_ahead().unwrap();
                }
            });
            for seq in 1..1500 {
                places.extend(log.append_with(&[record(seq)], || u64::MAX, Caching::Keep).unwrap());
                let writer = log.writer();
                let current = writer.current.as_ref().unwrap();
                in_zeroes += u32::from(writer.ahead.zeroed(current.number).contains(&current.offset));
                drop(writer);
                if seq % 500 > 50 {
                    log.sync().unwrap();
                }
            }
            done.store(true, Ordering::Relaxed);
        });
        assert!(in_zeroes > 100, "only {in_zeroes} records met zeroes");
        for (seq, at) in (1..1500).zip(&places) {
            let mut bytes = vec![0; entry_bytes(record(seq).len()) as usize];
            log.read(at.segment(), at.offset(), &mut bytes).unwrap();
            let Entry::Record { record: read, .. } = read_entry(SILO, *at, &bytes.into()) else {
                panic!("{seq} is gone")
            };
            assert_eq!(read.payload, record(seq).payload, "{seq}");
        }
        let whole: u64 = log.numbers().iter().map(|number| log.bytes_of(*number)).sum();
        assert!(whole > 4 << 20 && places[0].offset() == SEGMENT_HEADER_BYTES);
    }
}
