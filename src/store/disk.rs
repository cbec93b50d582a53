//! The disk seam: the few operations of a directory and of its files that a silo needs. The real disk is here; its
//! faulty twin for tests is in [`crate::store::faulty`]; the index runs on either through [`IndexFile`].

use std::fmt;
use std::fs;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FallocateFlags;

use crate::store::ballast::{Ballast, grow};

/// The lock of a silo. Dropping it releases the silo.
pub trait DiskLock: Send + Sync {}

/// One flat directory. Creations and removals are durable only after [`Disk::sync_dir`].
pub trait Disk: Send + Sync + 'static {
    /// The names of everything in the directory, in order, folders included.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Opens a file that exists, to read and write.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Creates a file that does not exist yet.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes creations and removals durable.
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
    /// Writes all slices one after the other from `offset`, or fails.
    fn write_vectored_at(&self, slices: &mut [IoSlice<'_>], offset: u64) -> io::Result<()>;
    /// Makes all that was written so far, and the file's length, durable.
    fn sync_data(&self) -> io::Result<()>;
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
        Ok(Arc::new(RealFile(file)))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = fs::OpenOptions::new().read(true).write(true).create_new(true).open(self.path.join(name))?;
        Ok(Arc::new(RealFile(file)))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
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

struct RealFile(fs::File);

impl DiskFile for RealFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.0, FallocateFlags::empty(), 0, len) {
            // A file system that cannot reserve still works; it then reports a full disk at the write.
            Err(rustix::io::Errno::OPNOTSUPP) => self.0.set_len(len),
            other => Ok(other?),
        }
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    fn write_vectored_at(&self, slices: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
        let mut rest = slices;
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            let some = &rest[..rest.len().min(IOV_MAX)];
            let written = match rustix::io::pwritev(&self.0, some, offset) {
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

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

/// A file as redb wants it. The silo's own lock guards it, so it has none.
pub(crate) struct IndexFile {
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) ballast: Option<Arc<Ballast>>,
}

impl fmt::Debug for IndexFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IndexFile")
    }
}

impl redb::StorageBackend for IndexFile {
    fn len(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if len > self.file.size()? { grow(&*self.file, self.ballast.as_deref(), len) } else { self.file.set_len(len) }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_vectored_at(&mut [IoSlice::new(data)], offset)
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
}
