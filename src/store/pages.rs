//! The index's file as redb sees it, each page verified when it is read.
//!
//! redb keeps a checksum of every page in the page above it, but looks at them only when it repairs a file: a bit that
//! flips in an inner page sends a lookup astray, and a block that was stored reads as if it never had been. So every
//! page that redb writes gets a CRC32C here, and every page that it reads must match.
//!
//! The checksums of the pages stand in a file of their own, `index.sums`, in sectors of 512 bytes, the unit that a power
//! loss leaves whole:
//!
//! ```text
//! offset size
//!      0  512  head: magic "INFSUMS\1" (the last byte is the version), zeroes, at 508 the CRC32C of what is before it
//!    512  512  of pages 0 to 126 of the index 4 bytes each: CRC32C, 0 if never written; at 508 a CRC32C of the
//!              sector's number (u64) and bytes 0..508. A sector of zeroes is one that was never written.
//!   1024  512  of pages 127 to 253, and so on
//! ```
//!
//! Page 0 is redb's header: 320 bytes which it writes in place, with two slots of their own checksum each, and a byte
//! that says which one counts. That byte must be right too, so bytes 508..512 of the index's file are the CRC32C of those
//! before; they are in the same sector, so header and checksum are the old ones or the new ones together.
//!
//! After a power loss: a commit of redb writes pages that nothing refers to yet, syncs, and then makes a header refer to
//! them. A sync here makes the pages and their checksums durable both before it returns, so whatever the surviving
//! header refers to has its checksum on the disk. The checksums of other pages in the same sector are what they were,
//! and a page of which only one of the two was written is one that nothing refers to.
//!
//! All checksums are kept in memory: 4 bytes a page, and a bit that says whether the page was written or verified in
//! this life, 1 MiB a GiB of index together. Only such pages are looked at by a scrub that goes through the file: what
//! nothing refers to may be anything.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::store::ballast::{Ballast, grow};
use crate::store::disk::{DiskFile, is_full};

/// The unit in which redb reads and writes.
pub(crate) const PAGE_BYTES: usize = 4096;
const SECTOR_BYTES: usize = 512;
/// Where the checksum of a sector stands.
const CRC_AT: usize = SECTOR_BYTES - 4;
/// Checksums of one sector.
const SECTOR_PAGES: usize = CRC_AT / 4;
const MAGIC: [u8; 8] = *b"INFSUMS\x01";
/// Bytes of either file that are read at once where all of it is read.
const CHUNK_BYTES: usize = 1 << 20;

/// The index's file with its checksums.
pub(crate) struct PageFile {
    index: Arc<dyn DiskFile>,
    sums_file: Arc<dyn DiskFile>,
    sums: RwLock<Sums>,
    /// What is wrong with the first page that was found damaged, or could not be read.
    damage: OnceLock<String>,
    /// A transaction is at work that can still be given up: the file may grow beyond what there is space for.
    may_overdraw: AtomicBool,
}

#[derive(Default)]
struct Sums {
    /// By page, 0 if it was never written.
    pages: Vec<u32>,
    /// By page, 64 a word: written or verified in this life.
    known: Vec<u64>,
    /// Sectors that the file does not have as they are here.
    changed: BTreeSet<usize>,
    overdraft: Option<Overdraft>,
}

/// The part of the file that a transaction asked for and that there is no space for. What is written there is kept in
/// memory until the transaction is given up.
struct Overdraft {
    /// Bytes of the file as redb sees it.
    bytes: u64,
    /// Bytes of the file as it is, which have their space.
    backed_bytes: u64,
    /// By offset.
    pages: BTreeMap<u64, Vec<u8>>,
}

impl PageFile {
    /// Makes the checksums of an index that has none, or of an empty file, and makes them durable. The index must be
    /// whole and closed.
    pub(crate) fn create(index: Arc<dyn DiskFile>, sums_file: Arc<dyn DiskFile>) -> io::Result<PageFile> {
        let mut head = [0; SECTOR_BYTES];
        head[..8].copy_from_slice(&MAGIC);
        seal(&mut head, None);
        sums_file.write_vectored_at(&mut [IoSlice::new(&head)], 0)?;
        let file = PageFile::of(index, sums_file, Sums::default());
        let size = file.index.size()?;
        if size > 0 {
            let mut header = [0; SECTOR_BYTES];
            file.index.read_at(&mut header, 0)?;
            seal(&mut header, None);
            file.index.write_vectored_at(&mut [IoSlice::new(&header)], 0)?;
        }
        let mut buffer = vec![0; CHUNK_BYTES];
        let mut at = PAGE_BYTES as u64;
        while at < size {
            let chunk = &mut buffer[..CHUNK_BYTES.min((size - at) as usize)];
            file.index.read_at(chunk, at)?;
            file.sums_mut().note(at, chunk);
            at += chunk.len() as u64;
        }
        file.sync()?;
        Ok(file)
    }

    /// Opens an index with the checksums that were made for it.
    pub(crate) fn open(index: Arc<dyn DiskFile>, sums_file: Arc<dyn DiskFile>) -> io::Result<PageFile> {
        let mut head = [0; SECTOR_BYTES];
        let size = sums_file.size()?;
        if size >= SECTOR_BYTES as u64 {
            sums_file.read_at(&mut head, 0)?;
        }
        if head[..8] != MAGIC || !is_sealed(&head, None) {
            return Err(damaged("the head of index.sums does not match its checksum".to_owned()));
        }
        let mut sums = Sums::default();
        let mut buffer = vec![0; CHUNK_BYTES];
        let mut at = SECTOR_BYTES as u64;
        // A file that was cut in the middle of a sector by a power loss lacks a sector that nothing refers to.
        while at + SECTOR_BYTES as u64 <= size {
            let left = (size - at) as usize / SECTOR_BYTES * SECTOR_BYTES;
            let chunk = &mut buffer[..CHUNK_BYTES.min(left)];
            sums_file.read_at(chunk, at)?;
            for (index, sector) in chunk.as_chunks::<SECTOR_BYTES>().0.iter().enumerate() {
                let number = at as usize / SECTOR_BYTES - 1 + index;
                if !is_sealed(sector, Some(number)) && sector.iter().any(|byte| *byte != 0) {
                    return Err(damaged(format!("sector {} of index.sums does not match its checksum", number + 1)));
                }
                let entries = sector[..CRC_AT].as_chunks::<4>().0.iter();
                sums.pages.extend(entries.map(|raw| u32::from_le_bytes(*raw)));
            }
            at += chunk.len() as u64;
        }
        sums.resize((index.size()? / PAGE_BYTES as u64) as usize);
        Ok(PageFile::of(index, sums_file, sums))
    }

    fn of(index: Arc<dyn DiskFile>, sums_file: Arc<dyn DiskFile>, sums: Sums) -> PageFile {
        let (sums, damage, may_overdraw) = (RwLock::new(sums), OnceLock::new(), AtomicBool::new(false));
        PageFile { index, sums_file, sums, damage, may_overdraw }
    }

    /// Whether the file may grow beyond the disk's end from here on. redb cannot live through a growth that fails, but it
    /// takes back one that was granted when its transaction is aborted: so the transaction goes on as if there were
    /// space, and whoever runs it asks whether there was before it is committed.
    pub(crate) fn allow_overdraft(&self, allow: bool) {
        self.may_overdraw.store(allow, Ordering::Relaxed);
    }

    /// Whether the transaction at work lacks space: it must be aborted.
    pub(crate) fn is_overdrawn(&self) -> bool {
        self.sums().overdraft.is_some()
    }

    /// Bytes of the index as redb sees it.
    fn len(&self) -> io::Result<u64> {
        self.sums().overdraft.as_ref().map_or_else(|| self.index.size(), |overdraft| Ok(overdraft.bytes))
    }

    /// Bytes that the index and its checksums take.
    pub(crate) fn size(&self) -> io::Result<u64> {
        Ok(self.index.size()? + self.sums_file.size()?)
    }

    /// The pages that there are.
    pub(crate) fn pages(&self) -> u64 {
        self.sums().pages.len() as u64
    }

    /// What is wrong with the index, if something was found to be: it cannot be used any more.
    pub(crate) fn damage(&self) -> Option<&str> {
        self.damage.get().map(String::as_str)
    }

    /// Verifies pages on the disk that were written or read in this life. Whatever else the index refers to is verified
    /// when it is read.
    pub(crate) fn verify(&self, pages: Range<u64>) -> io::Result<()> {
        let mut buffer = vec![0; PAGE_BYTES];
        for page in pages {
            let offset = page * PAGE_BYTES as u64;
            if page == 0 {
                // Held, so that it is not written meanwhile.
                let _sums = self.sums();
                self.read_header(0, &mut [0; 8])?;
            } else if self.sums().is_known(page as usize) {
                let read = self.index.read_at(&mut buffer, offset);
                if read.is_err() || self.sums().check(offset, &buffer).is_some() {
                    // It may have been written or cut off in between: once more, while nothing is.
                    let sums = self.sums_mut();
                    if sums.is_known(page as usize) {
                        self.index.read_at(&mut buffer, offset).map_err(|error| self.unreadable(page, &error))?;
                        self.judge(sums.check(offset, &buffer))?;
                    }
                }
            }
        }
        Ok(())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if offset < PAGE_BYTES as u64 {
            return self.read_header(offset as usize, out);
        }
        aligned(offset, out.len())?;
        let page = offset / PAGE_BYTES as u64;
        if let Some(kept) = self.sums().overdraft.as_ref().and_then(|overdraft| overdraft.pages.get(&offset)) {
            out.copy_from_slice(kept.get(..out.len()).ok_or(io::ErrorKind::InvalidInput)?);
            return Ok(());
        }
        self.index.read_at(out, offset).map_err(|error| self.unreadable(page, &error))?;
        let bad = self.sums().check(offset, out);
        self.judge(bad)?;
        let mut sums = self.sums_mut();
        (page as usize..page as usize + out.len() / PAGE_BYTES).for_each(|page| sums.set_known(page, true));
        Ok(())
    }

    fn read_header(&self, offset: usize, out: &mut [u8]) -> io::Result<()> {
        let mut sector = [0; SECTOR_BYTES];
        self.index.read_at(&mut sector, 0).map_err(|error| self.unreadable(0, &error))?;
        self.judge((!is_sealed(&sector, None)).then_some(0))?;
        let wanted = sector[..CRC_AT].get(offset..offset + out.len());
        out.copy_from_slice(wanted.ok_or(io::ErrorKind::InvalidInput)?);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if offset < PAGE_BYTES as u64 {
            if offset != 0 || data.len() > CRC_AT {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            let mut sector = [0; SECTOR_BYTES];
            sector[..data.len()].copy_from_slice(data);
            seal(&mut sector, None);
            let _sums = self.sums_mut();
            return self.index.write_vectored_at(&mut [IoSlice::new(&sector)], 0);
        }
        aligned(offset, data.len())?;
        // Held until both are done, so that a scrub does not see one without the other.
        let mut sums = self.sums_mut();
        if let Some(overdraft) = &mut sums.overdraft
            && offset + data.len() as u64 > overdraft.backed_bytes
        {
            if !self.may_overdraw.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            overdraft.pages.insert(offset, data.to_vec());
            return Ok(());
        }
        self.index.write_vectored_at(&mut [IoSlice::new(data)], offset)?;
        sums.note(offset, data);
        Ok(())
    }

    /// Cuts the index or lets it grow, at the cost of the ballast if the disk is full, and beyond the disk's end if a
    /// transaction can still be given up. Its checksums grow before it, so that writing them cannot lack space. The file
    /// itself is never longer than it has space for: a stop in the middle would leave pages that the next life takes for
    /// safe to write.
    fn set_len(&self, len: u64, ballast: Option<&Ballast>) -> io::Result<()> {
        let pages = (len / PAGE_BYTES as u64) as usize;
        // Held, so that a scrub does not look for what is being cut off.
        let mut sums = self.sums_mut();
        let before = self.index.size()?;
        let may_overdraw = self.may_overdraw.load(Ordering::Relaxed);
        if let Some(overdraft) = sums.overdraft.as_mut().filter(|overdraft| len > overdraft.backed_bytes) {
            if len > overdraft.bytes && !may_overdraw {
                return Err(io::ErrorKind::StorageFull.into());
            }
            overdraft.bytes = len;
        } else if len > before {
            let kept = ballast.map_or(0, Ballast::bytes);
            match self.grow(ballast, len) {
                Err(error) if is_full(&error) && may_overdraw => {
                    // What was allocated of it goes back to the ballast.
                    self.index.set_len(before)?;
                    if let Some(ballast) = ballast {
                        ballast.keep(kept)?;
                    }
                    sums.overdraft = Some(Overdraft { bytes: len, backed_bytes: before, pages: BTreeMap::new() });
                }
                other => other?,
            }
        } else {
            self.index.set_len(len)?;
            sums.overdraft = None;
        }
        sums.resize(pages);
        Ok(())
    }

    /// Makes room for more pages and their checksums.
    fn grow(&self, ballast: Option<&Ballast>, len: u64) -> io::Result<()> {
        let sectors = 1 + (len as usize / PAGE_BYTES).div_ceil(SECTOR_PAGES);
        grow(&*self.sums_file, ballast, (sectors * SECTOR_BYTES) as u64)?;
        grow(&*self.index, ballast, len)
    }

    fn sync(&self) -> io::Result<()> {
        let mut sectors: Vec<(usize, [u8; SECTOR_BYTES])> = Vec::new();
        {
            let mut sums = self.sums_mut();
            let changed = std::mem::take(&mut sums.changed);
            sectors.extend(changed.into_iter().map(|number| (number, sums.sector(number))));
        }
        for run in sectors.chunk_by(|(number, _), (next, _)| number + 1 == *next) {
            let mut slices: Vec<IoSlice<'_>> = run.iter().map(|(_, sector)| IoSlice::new(sector)).collect();
            self.sums_file.write_vectored_at(&mut slices, ((run[0].0 + 1) * SECTOR_BYTES) as u64)?;
        }
        if !sectors.is_empty() {
            self.sums_file.sync_data()?;
        }
        self.index.sync_data()
    }

    /// Turns a page that does not match into the index's end.
    fn judge(&self, bad: Option<u64>) -> io::Result<()> {
        let Some(page) = bad else { return Ok(()) };
        let what = format!("page {page} of index.redb does not match its checksum");
        Err(damaged(self.damage.get_or_init(|| what).clone()))
    }

    fn unreadable(&self, page: u64, error: &io::Error) -> io::Error {
        let what = format!("page {page} of index.redb cannot be read: {}", crate::base::error::plain(error));
        io::Error::new(error.kind(), self.damage.get_or_init(|| what).clone())
    }

    fn sums(&self) -> RwLockReadGuard<'_, Sums> {
        self.sums.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn sums_mut(&self) -> RwLockWriteGuard<'_, Sums> {
        self.sums.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sums {
    fn resize(&mut self, pages: usize) {
        self.pages.resize(pages, 0);
        self.known.resize(pages.div_ceil(64), 0);
        for page in pages..self.known.len() * 64 {
            self.set_known(page, false);
        }
    }

    /// Takes note of pages that are being written.
    fn note(&mut self, offset: u64, data: &[u8]) {
        let first = (offset / PAGE_BYTES as u64) as usize;
        for (page, bytes) in (first..).zip(data.chunks(PAGE_BYTES)) {
            if page >= self.pages.len() {
                self.resize(page + 1);
            }
            self.pages[page] = sum(bytes);
            self.set_known(page, true);
            self.changed.insert(page / SECTOR_PAGES);
        }
    }

    /// The first page that does not match.
    fn check(&self, offset: u64, data: &[u8]) -> Option<u64> {
        let first = offset / PAGE_BYTES as u64;
        let mut pages = (first..).zip(data.chunks(PAGE_BYTES));
        pages.find(|(page, bytes)| self.pages.get(*page as usize) != Some(&sum(bytes))).map(|(page, _)| page)
    }

    fn is_known(&self, page: usize) -> bool {
        self.known.get(page / 64).is_some_and(|word| word & (1 << (page % 64)) != 0)
    }

    fn set_known(&mut self, page: usize, known: bool) {
        if let Some(word) = self.known.get_mut(page / 64) {
            *word = *word & !(1 << (page % 64)) | u64::from(known) << (page % 64);
        }
    }

    fn sector(&self, number: usize) -> [u8; SECTOR_BYTES] {
        let mut sector = [0; SECTOR_BYTES];
        let pages = self.pages.iter().skip(number * SECTOR_PAGES).take(SECTOR_PAGES);
        for (raw, sum) in sector[..CRC_AT].as_chunks_mut::<4>().0.iter_mut().zip(pages) {
            *raw = sum.to_le_bytes();
        }
        seal(&mut sector, Some(number));
        sector
    }
}

/// The checksum of a page, never 0: that is a page that was never written.
fn sum(page: &[u8]) -> u32 {
    crc32c::crc32c(page).max(1)
}

fn seal(sector: &mut [u8; SECTOR_BYTES], number: Option<usize>) {
    let crc = sector_crc(sector, number);
    sector[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
}

fn is_sealed(sector: &[u8; SECTOR_BYTES], number: Option<usize>) -> bool {
    sector[CRC_AT..] == sector_crc(sector, number).to_le_bytes()
}

fn sector_crc(sector: &[u8; SECTOR_BYTES], number: Option<usize>) -> u32 {
    let bound = number.map_or(0, |number| crc32c::crc32c(&(number as u64).to_le_bytes()));
    crc32c::crc32c_append(bound, &sector[..CRC_AT])
}

fn aligned(offset: u64, len: usize) -> io::Result<()> {
    let whole = offset.is_multiple_of(PAGE_BYTES as u64) && len.is_multiple_of(PAGE_BYTES);
    if whole { Ok(()) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

fn damaged(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// The file as redb wants it. The silo's own lock guards it, so it has none.
pub(crate) struct Backend {
    pub(crate) file: Arc<PageFile>,
    pub(crate) ballast: Option<Arc<Ballast>>,
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Backend")
    }
}

impl redb::StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len, self.ballast.as_deref())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write(offset, data)
    }
}

/// The file of an index that has no checksums yet.
pub(crate) struct Unsummed(pub(crate) Arc<dyn DiskFile>);

impl fmt::Debug for Unsummed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Unsummed")
    }
}

impl redb::StorageBackend for Unsummed {
    fn len(&self) -> io::Result<u64> {
        self.0.size()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_vectored_at(&mut [IoSlice::new(data)], offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::disk::Disk;
    use crate::store::faulty::{Crash, FaultyDisk};

    fn files(disk: &FaultyDisk) -> (Arc<dyn DiskFile>, Arc<dyn DiskFile>) {
        (disk.open("index").unwrap(), disk.open("sums").unwrap())
    }

    fn fresh(pages: u64) -> (FaultyDisk, PageFile) {
        let disk = FaultyDisk::new(1);
        let file = PageFile::create(disk.create("index").unwrap(), disk.create("sums").unwrap()).unwrap();
        disk.sync_dir().unwrap();
        file.set_len((pages + 1) * PAGE_BYTES as u64, None).unwrap();
        file.write(0, &[7; 320]).unwrap();
        for page in 1..=pages {
            file.write(page * PAGE_BYTES as u64, &[page as u8; PAGE_BYTES]).unwrap();
        }
        file.sync().unwrap();
        (disk, file)
    }

    fn read(file: &PageFile, page: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; PAGE_BYTES];
        file.read(page * PAGE_BYTES as u64, &mut bytes).map(|()| bytes)
    }

    #[test]
    fn what_was_synced_reads_back_after_a_power_loss_and_nothing_else_is_believed() {
        let (disk, file) = fresh(300);
        file.write(5 * PAGE_BYTES as u64, &[99; PAGE_BYTES]).unwrap();
        disk.crash(Crash::Power);
        let (index, sums) = files(&disk);
        let file = PageFile::open(index, sums).unwrap();
        for page in (1..=300).filter(|page| *page != 5) {
            assert_eq!(read(&file, page).unwrap(), [page as u8; PAGE_BYTES]);
        }
        // Nothing refers to it; whatever of the unsynced write survived, it is the old page or an error.
        assert!(read(&file, 5).map_or(true, |bytes| bytes == [5; PAGE_BYTES]));
        let mut header = [0; 320];
        file.read(0, &mut header).unwrap();
        assert_eq!(header, [7; 320]);
        assert!(file.read(100, &mut [0; 500]).is_err() && file.write(10, &[0; 10]).is_err());
    }

    #[test]
    fn a_flipped_bit_is_named_wherever_it_is() {
        for (name, byte, what) in [
            ("index", 9, "page 0 of index.redb"),
            ("index", 509, "page 0 of index.redb"),
            ("index", 4096 * 200 + 77, "page 200 of index.redb"),
            ("sums", 3, "the head of index.sums"),
            ("sums", 512 + 40, "sector 1 of index.sums"),
            ("sums", 1024 + 510, "sector 2 of index.sums"),
        ] {
            let (disk, file) = fresh(300);
            drop(file);
            assert!(disk.flip_bit(name, byte, 4));
            let (index, sums) = files(&disk);
            let found = PageFile::open(index, sums)
                .and_then(|file| file.read(0, &mut [0; 320]).and_then(|()| read(&file, 200).map(drop)));
            assert!(found.as_ref().is_err_and(|error| error.to_string().contains(what)), "{what}: {found:?}");
        }
    }

    #[test]
    fn a_file_is_never_longer_than_it_has_space_for() {
        let (disk, file) = fresh(3);
        let bytes_of = |pages: u64| pages * PAGE_BYTES as u64;
        disk.fill_after(Some(0));
        assert!(is_full(&file.set_len(bytes_of(9), None).unwrap_err()));
        file.allow_overdraft(true);
        file.set_len(bytes_of(9), None).unwrap();
        file.set_len(bytes_of(12), None).unwrap();
        file.write(bytes_of(11), &[5; PAGE_BYTES]).unwrap();
        assert_eq!((file.len().unwrap(), read(&file, 11).unwrap()), (bytes_of(12), vec![5; PAGE_BYTES]));
        file.allow_overdraft(false);
        assert!(file.is_overdrawn() && is_full(&file.set_len(bytes_of(13), None).unwrap_err()));
        let size_of = |disk: &FaultyDisk| files(disk).0.size().unwrap();
        let stopped = disk.copy(2);
        assert_eq!(size_of(&stopped), bytes_of(4), "a stop now leaves no page without its space");
        file.set_len(bytes_of(4), None).unwrap();
        assert!(!file.is_overdrawn() && file.len().unwrap() == bytes_of(4) && read(&file, 3).is_ok());
        disk.fill_after(None);
        file.set_len(bytes_of(9), None).unwrap();
        assert!(!file.is_overdrawn() && size_of(&disk) == bytes_of(9));
    }

    #[test]
    fn a_scrub_of_the_file_looks_past_caches() {
        let (disk, file) = fresh(300);
        file.verify(0..file.pages()).unwrap();
        assert!(disk.flip_bit("index", 4096 * 17, 0));
        assert!(file.damage().is_none());
        let found = file.verify(0..file.pages()).unwrap_err();
        assert_eq!(found.to_string(), "page 17 of index.redb does not match its checksum");
        assert_eq!(file.damage(), Some("page 17 of index.redb does not match its checksum"));
    }

    #[test]
    fn a_page_swapped_for_another_or_lost_is_noticed() {
        let (disk, file) = fresh(300);
        drop(file);
        let (index, sums) = files(&disk);
        index.write_vectored_at(&mut [IoSlice::new(&[8; PAGE_BYTES])], 9 * PAGE_BYTES as u64).unwrap();
        index.write_vectored_at(&mut [IoSlice::new(&[0; PAGE_BYTES])], 10 * PAGE_BYTES as u64).unwrap();
        let file = PageFile::open(index, sums).unwrap();
        assert!(read(&file, 9).is_err() && read(&file, 10).is_err() && read(&file, 11).is_ok());
    }
}
