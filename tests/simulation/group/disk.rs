//! Where a simulated member keeps its log: one file on the disk in memory that fails. A process whose machine goes down in
//! the middle of an operation dies there.

use std::fmt;
use std::io::{self, IoSlice};
use std::sync::Arc;

use infinit::cluster::consensus::make_ready;
use infinit::cluster::consensus::runtime::simulated::{self, Host};
use infinit::store::disk::{Disk, DiskFile};
use infinit::store::faulty::FaultyDisk;
use redb::{DatabaseError, StorageBackend, StorageError};

const FILE: &str = "cluster.redb";

pub struct LogDisk {
    disk: FaultyDisk,
    file: Arc<dyn DiskFile>,
    host: Host,
}

impl LogDisk {
    /// The file, for a process; made if it is not there.
    pub fn open(disk: &FaultyDisk, host: Host) -> Result<LogDisk, DatabaseError> {
        let on = |file| LogDisk { disk: disk.clone(), file, host };
        let failed = |error| DatabaseError::Storage(StorageError::Io(error));
        let made = make_ready(disk, FILE, |new| {
            let file = disk.create(new).map_err(failed)?;
            redb::Builder::new().create_with_backend(on(file))
        });
        // A process whose machine goes down dies there.
        if made.is_err() && disk.is_down() {
            host.kill();
        }
        made?;
        disk.open(FILE).map(on).map_err(failed)
    }

    fn judged<T>(&self, result: io::Result<T>) -> io::Result<T> {
        if result.is_err() && self.disk.is_down() {
            self.host.kill();
        }
        result
    }
}

impl fmt::Debug for LogDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(FILE)
    }
}

impl StorageBackend for LogDisk {
    fn len(&self) -> io::Result<u64> {
        self.judged(self.file.size())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.judged(self.file.read_at(out, offset))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.judged(self.file.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.judged(self.file.sync_data())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        simulated::mix(offset ^ u64::from(crc32c::crc32c(data)) << 32);
        self.judged(self.file.write_vectored_at(&mut [IoSlice::new(data)], offset))
    }
}
