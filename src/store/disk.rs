//! The disk seam: the few operations of a directory and of its files that a silo needs. The real disk is here; its
//! faulty twin for tests is in [`crate::store::faulty`]; the index runs on either through [`crate::store::pages`].

use std::cell::RefCell;
use std::fs;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustix::fs::FallocateFlags;
use rustix::io::ReadWriteFlags;

/// The lock of a silo. Dropping it releases the silo.
pub trait DiskLock: Send + Sync {}

/// One flat directory. Creations, removals and new names are durable only after [`Disk::sync_dir`].
pub trait Disk: Send + Sync + 'static {
    /// The names of everything in the directory, in order, folders included.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Opens a file that exists, to read and write.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Creates a file that does not exist yet.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Gives a file another name; whatever had that name is gone.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Makes creations, removals and new names durable.
    fn sync_dir(&self) -> io::Result<()>;
    /// Takes the directory for this process alone; [`io::ErrorKind::WouldBlock`] if it is taken.
    fn lock(&self) -> io::Result<Box<dyn DiskLock>>;
    /// Bytes that can still be written on this disk.
    fn free_bytes(&self) -> io::Result<u64>;
}

/// An open file. Writes are durable only after [`DiskFile::sync_data`].
pub trait DiskFile: Send + Sync + 'static {
    /// Bytes of the file.
    fn size(&self) -> io::Result<u64>;
    /// Cuts the file or extends it with zeroes.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Extends the file to `len` bytes and reserves the space for them, so that writing there cannot lack space.
    fn allocate(&self, len: u64) -> io::Result<()>;
    /// Fills the whole buffer or fails; past the end is [`io::ErrorKind::UnexpectedEof`].
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// As [`DiskFile::read_at`] if the bytes are in memory; false if the disk would be waited for, or something is wrong,
    /// which [`DiskFile::read_at`] tells.
    fn read_at_once(&self, buffer: &mut [u8], offset: u64) -> bool;
    /// Writes all slices one after the other from `offset`, or fails.
    fn write_vectored_at(&self, slices: &mut [IoSlice<'_>], offset: u64) -> io::Result<()>;
    /// As [`DiskFile::write_vectored_at`], for bytes that nobody here is going to read soon: they need no place in the page
    /// cache, if the disk can do without.
    fn write_past_cache(&self, slices: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.write_vectored_at(slices, offset)
    }
    /// Writes zeroes, durably, over a part of the file that is reserved and was never written, so that later writes there
    /// change nothing but its bytes. False if this disk gains nothing by it.
    fn write_zeroes(&self, offset: u64, len: u32) -> io::Result<bool>;
    /// Reads through this handle bring into the page cache what they ask for, and nothing from beyond.
    fn read_no_further(&self) {}
    /// Makes all that was written so far, and the file's length, durable.
    fn sync_data(&self) -> io::Result<()>;
    /// Makes it durable, and lets go of what the page cache holds: what is read from here on comes from the disk. After a
    /// sync that failed the cache may hold what the disk never got.
    fn sync_and_forget(&self) -> io::Result<()>;
}

/// Whether an operation failed for want of space: on the disk, or within what its user may take of it.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Whether what is written is likely to be read here soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caching {
    Keep,
    /// Nobody reads it but after a failure: large batches go past the page cache, which has better uses.
    Bypass,
}

/// The name of the file that carries the lock; it is created on first use and holds nothing.
pub const LOCK_NAME: &str = "lock";
/// The most slices the kernel takes in one call.
const IOV_MAX: usize = 1024;

/// A directory of the operating system.
#[derive(Clone, Debug)]
pub struct RealDisk {
    path: PathBuf,
}

impl RealDisk {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Disk for RealDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = fs::OpenOptions::new().read(true).write(true).open(self.path.join(name))?;
        Ok(Arc::new(RealFile::new(file, self.path.join(name))))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = fs::OpenOptions::new().read(true).write(true).create_new(true).open(self.path.join(name))?;
        Ok(Arc::new(RealFile::new(file, self.path.join(name))))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn sync_dir(&self) -> io::Result<()> {
        fs::File::open(&self.path)?.sync_all()
    }

    fn lock(&self) -> io::Result<Box<dyn DiskLock>> {
        let path = self.path.join(LOCK_NAME);
        let file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(RealLock(file))),
            Err(fs::TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.path)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

struct RealLock(#[expect(dead_code, reason = "held for its lock, which ends when the file is closed")] fs::File);

impl DiskLock for RealLock {}

struct RealFile {
    file: fs::File,
    path: PathBuf,
    /// A second handle, past the page cache; none where the file system has no such thing.
    direct: OnceLock<Option<fs::File>>,
}

/// Writes past the page cache are whole pages at whole pages' places, from memory at a whole page's address.
const PAGE_BYTES: u64 = 4096;
/// What is copied together and written at once.
const BOUNCE_BYTES: usize = 1 << 20;
/// Less than this is not worth waiting for the disk.
const DIRECT_BYTES_MIN: u64 = 256 << 10;

thread_local! {
    /// Aligned memory of the thread that appends, used again and again.
    static BOUNCE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl RealFile {
    fn new(file: fs::File, path: PathBuf) -> Self {
        Self { file, path, direct: OnceLock::new() }
    }

    fn direct(&self) -> Option<&fs::File> {
        let open = || {
            let flags = rustix::fs::OFlags::DIRECT.bits() as i32;
            fs::OpenOptions::new().write(true).custom_flags(flags).open(&self.path).ok()
        };
        self.direct.get_or_init(open).as_ref()
    }

    /// Writes whole pages from `start` to `end`, taken from the front of what is `left`.
    fn write_pages(&self, direct: &fs::File, left: &mut Gather<'_, '_>, start: u64, end: u64) -> io::Result<()> {
        BOUNCE.with_borrow_mut(|bounce| {
            bounce.resize(BOUNCE_BYTES + PAGE_BYTES as usize, 0);
            let shift = bounce.as_ptr().align_offset(PAGE_BYTES as usize);
            let mut at = start;
            while at < end {
                let len = ((end - at) as usize).min(BOUNCE_BYTES);
                let pages = &mut bounce[shift..shift + len];
                left.take(pages);
                match direct.write_all_at(pages, at) {
                    // The file system promised what it cannot do, or not for these sizes.
                    Err(error) if error.kind() == io::ErrorKind::InvalidInput => self.file.write_all_at(pages, at)?,
                    other => other?,
                }
                at += len as u64;
            }
            Ok(())
        })
    }
}

/// Zeroes at a whole page's address.
#[repr(align(4096))]
struct ZeroPages([u8; 128 << 10]);

/// The bytes of several slices, one after the other.
struct Gather<'s, 'b> {
    slices: &'s [IoSlice<'b>],
    used: usize,
}

impl Gather<'_, '_> {
    /// Fills the buffer with the next bytes; there are enough of them.
    fn take(&mut self, mut buffer: &mut [u8]) {
        while let Some(first) = self.slices.first().filter(|_| !buffer.is_empty()) {
            let some = &first[self.used..];
            let len = some.len().min(buffer.len());
            buffer[..len].copy_from_slice(&some[..len]);
            buffer = &mut buffer[len..];
            self.used += len;
            if self.used == first.len() {
                (self.slices, self.used) = (&self.slices[1..], 0);
            }
        }
    }
}

impl DiskFile for RealFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, len) {
            // A file system that cannot reserve still works; it then reports a full disk at the write.
            Err(rustix::io::Errno::OPNOTSUPP) => self.file.set_len(len),
            other => Ok(other?),
        }
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn read_at_once(&self, buffer: &mut [u8], offset: u64) -> bool {
        let len = buffer.len();
        let read = rustix::io::preadv2(&self.file, &mut [IoSliceMut::new(buffer)], offset, ReadWriteFlags::NOWAIT);
        read.is_ok_and(|read| read == len)
    }

    fn write_vectored_at(&self, slices: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
        let mut rest = slices;
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            let some = &rest[..rest.len().min(IOV_MAX)];
            let written = match rustix::io::pwritev(&self.file, some, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => written,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            offset += written as u64;
            IoSlice::advance_slices(&mut rest, written);
        }
        Ok(())
    }

    /// The ends that are no whole pages go through the page cache, as what stands beside them on their pages did.
    fn write_past_cache(&self, slices: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let end = offset + slices.iter().map(|slice| slice.len() as u64).sum::<u64>();
        let (first_page, end_page) = (offset.next_multiple_of(PAGE_BYTES), end / PAGE_BYTES * PAGE_BYTES);
        let direct = if end_page.saturating_sub(first_page) >= DIRECT_BYTES_MIN { self.direct() } else { None };
        let Some(direct) = direct else { return self.write_vectored_at(slices, offset) };
        let mut left = Gather { slices, used: 0 };
        let mut edge = [0; PAGE_BYTES as usize];
        let front = &mut edge[..(first_page - offset) as usize];
        left.take(front);
        self.file.write_all_at(front, offset)?;
        self.write_pages(direct, &mut left, first_page, end_page)?;
        let back = &mut edge[..(end - end_page) as usize];
        left.take(back);
        self.file.write_all_at(back, end_page)
    }

    /// Past the page cache, which has no use for zeroes. The handle is another than that of the records, so that a failure
    /// to write those back is not told to this sync instead of theirs.
    fn write_zeroes(&self, mut offset: u64, len: u32) -> io::Result<bool> {
        let Some(direct) = self.direct() else { return Ok(false) };
        let end = offset + u64::from(len);
        let pages = Box::new(ZeroPages([0; 128 << 10]));
        while offset < end {
            let some = &pages.0[..(end - offset).min(pages.0.len() as u64) as usize];
            match direct.write_all_at(some, offset) {
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Ok(false),
                other => other?,
            }
            offset += some.len() as u64;
        }
        direct.sync_data()?;
        Ok(true)
    }

    fn read_no_further(&self) {
        // Only advice; a file system that knows none reads ahead as it likes.
        let _ = rustix::fs::fadvise(&self.file, 0, None, rustix::fs::Advice::Random);
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn sync_and_forget(&self) -> io::Result<()> {
        self.file.sync_data()?;
        Ok(rustix::fs::fadvise(&self.file, 0, None, rustix::fs::Advice::DontNeed)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_real_directory_is_listed_locked_and_written_in_slices() {
        let folder = tempfile::tempdir().unwrap();
        let disk = RealDisk::new(folder.path());
        let lock = disk.lock().unwrap();
        assert_eq!(disk.lock().err().unwrap().kind(), io::ErrorKind::WouldBlock);
        drop(lock);
        let _again = disk.lock().unwrap();

        let file = disk.create("a").unwrap();
        assert!(disk.create("a").is_err());
        file.allocate(1 << 20).unwrap();
        assert_eq!(file.size().unwrap(), 1 << 20);
        let bytes: Vec<Vec<u8>> = (0..3000u32).map(|i| vec![i as u8; 1 + i as usize % 7]).collect();
        let mut slices: Vec<IoSlice> = bytes.iter().map(|b| IoSlice::new(b)).collect();
        file.write_vectored_at(&mut slices, 10).unwrap();
        file.sync_data().unwrap();
        let whole = bytes.concat();
        let mut read = vec![0; whole.len()];
        disk.open("a").unwrap().read_at(&mut read, 10).unwrap();
        assert_eq!(read, whole);
        assert_eq!(disk.list().unwrap(), ["a", LOCK_NAME]);
        disk.sync_dir().unwrap();
        disk.remove("a").unwrap();
        assert_eq!(disk.open("a").err().unwrap().kind(), io::ErrorKind::NotFound);
        assert!(disk.free_bytes().unwrap() > 0);
    }

    #[test]
    fn what_goes_past_the_cache_is_read_back_between_what_does_not() {
        // Beside this program, not where temporary files are: that may be memory, which has nothing past the cache.
        let folder = tempfile::tempdir_in(std::env::current_exe().unwrap().parent().unwrap()).unwrap();
        let disk = RealDisk::new(folder.path());
        let file = disk.create("a").unwrap();
        file.allocate(8 << 20).unwrap();
        file.read_no_further();
        let mut expected = Vec::new();
        for (round, len) in [100, 300_000, 5, 1 << 20, 4096, (2 << 20) + 7, 262_144 + 8191].into_iter().enumerate() {
            let bytes: Vec<u8> = (0..len).map(|i| (i * 7 + round * 31) as u8).collect();
            let (front, back) = bytes.split_at(len / 3);
            let mut slices = [IoSlice::new(front), IoSlice::new(&[]), IoSlice::new(back)];
            file.write_past_cache(&mut slices, expected.len() as u64).unwrap();
            expected.extend_from_slice(&bytes);
            let mut read = vec![0; expected.len()];
            disk.open("a").unwrap().read_at(&mut read, 0).unwrap();
            assert!(read == expected, "after write {round} of {len} bytes");
        }
        file.sync_data().unwrap();
    }
}
