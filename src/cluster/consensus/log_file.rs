//! One redb file a node for the logs of all its Raft groups, with one group commit over all of them.
//!
//! | table | key | value |
//! |---|---|---|
//! | `format` | `"version"` | [`FORMAT`] |
//! | `entries` | (group, index) | CRC32C of key and entry (4 bytes, little endian), then the entry |
//! | `facts` | (group, [`Fact`]) | CRC32C of key and fact, then the fact |
//!
//! All is read at opening, checked, and from then on kept in memory by its owners: a group keeps a few thousand small
//! entries at most. One task writes: it takes everything that waits, commits it in one durable transaction on a
//! blocking thread, and then tells those who waited. A failed commit is final; the file has to be opened anew.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition};
use tokio::sync::{mpsc, oneshot};

use crate::cluster::consensus::runtime;
use crate::store::disk::{Disk, RealDisk};

/// The version of the file's layout.
const FORMAT: u32 = 1;
const FORMATS: TableDefinition<&str, u32> = TableDefinition::new("format");
const ENTRIES: TableDefinition<(u64, u64), &[u8]> = TableDefinition::new("entries");
const FACTS: TableDefinition<(u64, u8), &[u8]> = TableDefinition::new("facts");

/// What follows the name of a file in the making.
const UNFINISHED: &str = ".new";
/// redb's cache: the file is small and read once.
const CACHE_BYTES: usize = 4 << 20;
/// Changes that wait before their senders wait.
const WAITING_MAX: usize = 1_024;
/// How long a change that nobody waits for may stay in memory to ride with another's commit.
const LINGER: Duration = Duration::from_millis(100);

/// A Raft group of this node. The cluster group is number 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupNumber(pub u64);

/// What is kept of a group besides its entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Fact {
    Vote = 0,
    /// How far the log is known to be committed.
    Committed = 1,
    /// How far the log was cut off at the front.
    Purged = 2,
    /// The state as of the last snapshot.
    Snapshot = 3,
}

/// One change of the file.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Entry {
        index: u64,
        bytes: Vec<u8>,
    },
    Fact {
        fact: Fact,
        bytes: Vec<u8>,
    },
    /// Drops the entries from this one on.
    CutFrom(u64),
    /// Drops the entries before this one.
    CutBefore(u64),
}

/// What was found of a group at opening.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub entries: BTreeMap<u64, Vec<u8>>,
    facts: BTreeMap<u8, Vec<u8>>,
}

impl Found {
    pub fn fact(&self, fact: Fact) -> Option<&[u8]> {
        self.facts.get(&(fact as u8)).map(Vec::as_slice)
    }
}

/// Why the file could not be opened or written.
#[derive(Debug)]
pub enum LogError {
    /// Another process has it open.
    InUse,
    Open(DatabaseError),
    Database(redb::Error),
    /// A row does not match its checksum, or cannot be read.
    Damaged {
        group: GroupNumber,
        what: Damage,
    },
    /// Written by a newer Infinit.
    Version(u32),
    /// The file was closed, or an earlier write failed.
    Closed,
    /// The library that runs the group refused its state.
    Inconsistent(String),
}

/// Which row is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    Entry(u64),
    /// An entry is missing between the first and the last.
    Gap(u64),
    Fact(u8),
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LogError::InUse => f.write_str("the cluster log is in use by another process"),
            LogError::Open(error) => write!(f, "cannot open the cluster log: {error}"),
            LogError::Database(error) => write!(f, "cannot read or write the cluster log: {error}"),
            LogError::Damaged { group, what: Damage::Entry(index) } => {
                write!(f, "the cluster log is damaged: entry {index} of group {} does not match its checksum", group.0)
            }
            LogError::Damaged { group, what: Damage::Gap(index) } => {
                write!(f, "the cluster log is damaged: entry {index} of group {} is missing", group.0)
            }
            LogError::Damaged { group, what: Damage::Fact(fact) } => {
                write!(f, "the cluster log is damaged: fact {fact} of group {} does not match its checksum", group.0)
            }
            LogError::Version(version) => {
                write!(f, "the cluster log has format {version}, newer than this Infinit's {FORMAT}")
            }
            LogError::Closed => f.write_str("the cluster log is closed, or a write to it failed"),
            LogError::Inconsistent(why) => write!(f, "the cluster log contradicts itself: {why}"),
        }
    }
}

impl std::error::Error for LogError {}

macro_rules! from_redb {
    ($($error:ident),*) => {
        $(impl From<redb::$error> for LogError {
            fn from(error: redb::$error) -> Self {
                LogError::Database(error.into())
            }
        })*
    };
}

from_redb!(TransactionError, TableError, StorageError, CommitError);

/// Called once the changes are durable, or never will be.
type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

enum Request {
    Write {
        group: GroupNumber,
        changes: Vec<Change>,
        done: Done,
    },
    /// A fact that may be lost in a crash, and rides with the next commit.
    Lazy {
        group: GroupNumber,
        fact: Fact,
        bytes: Vec<u8>,
    },
    Close(oneshot::Sender<()>),
}

/// The open file. Cheap to clone; it closes with its last clone, or when told.
#[derive(Clone, Debug)]
pub struct LogFile {
    requests: mpsc::Sender<Request>,
    found: Arc<Mutex<BTreeMap<GroupNumber, Found>>>,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Request")
    }
}

impl LogFile {
    /// Opens or creates the file, and reads and checks all of it.
    pub async fn open(path: PathBuf) -> Result<LogFile, LogError> {
        Self::start(move || {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let name = path.file_name().and_then(|name| name.to_str());
            let name = name.ok_or_else(|| storage(io::ErrorKind::InvalidInput.into()))?;
            let builder = || {
                let mut builder = redb::Builder::new();
                builder.set_cache_size(CACHE_BYTES);
                builder
            };
            make_ready(&RealDisk::new(folder), name, |new| builder().create(folder.join(new)))?;
            builder().open(&path)
        })
        .await
    }

    /// The same on a disk of the caller's: the seam for tests of crashes.
    pub async fn open_on(disk: impl StorageBackend) -> Result<LogFile, LogError> {
        Self::start(move || redb::Builder::new().set_cache_size(CACHE_BYTES).create_with_backend(disk)).await
    }

    async fn start(
        open: impl FnOnce() -> Result<Database, DatabaseError> + Send + 'static,
    ) -> Result<LogFile, LogError> {
        let opened = runtime::spawn_blocking(move || {
            let mut database = open().map_err(|error| match error {
                DatabaseError::DatabaseAlreadyOpen => LogError::InUse,
                other => LogError::Open(other),
            })?;
            // The rows have checksums, but a bit that flips in the tree above them could hide a row, and a vote that is
            // forgotten could be given twice.
            database.check_integrity().map_err(LogError::Open)?;
            let found = read(&database)?;
            Ok::<_, LogError>((database, found))
        });
        let (database, found) = opened.await.map_err(|_| LogError::Closed)??;
        let (requests, waiting) = mpsc::channel(WAITING_MAX);
        runtime::spawn(write_loop(database, waiting));
        Ok(LogFile { requests, found: Arc::new(Mutex::new(found)) })
    }

    /// What was found of a group at opening; its owner takes it once.
    pub(super) fn take(&self, group: GroupNumber) -> Found {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).remove(&group).unwrap_or_default()
    }

    /// Queues changes, in order; `done` is called once they are durable or have failed.
    pub(super) async fn write(
        &self,
        group: GroupNumber,
        changes: Vec<Change>,
        done: impl FnOnce(io::Result<()>) + Send + 'static,
    ) {
        let request = Request::Write { group, changes, done: Box::new(done) };
        if let Err(mpsc::error::SendError(Request::Write { done, .. })) = self.requests.send(request).await {
            done(Err(closed()));
        }
    }

    /// Makes changes durable.
    pub(super) async fn write_and_wait(&self, group: GroupNumber, changes: Vec<Change>) -> io::Result<()> {
        let (sender, receiver) = oneshot::channel();
        // Whoever waits may have gone; the change is made all the same.
        self.write(group, changes, move |result| drop(sender.send(result))).await;
        receiver.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Writes a fact some time soon, with whatever is written next.
    pub(super) async fn write_lazily(&self, group: GroupNumber, fact: Fact, bytes: Vec<u8>) -> io::Result<()> {
        self.requests.send(Request::Lazy { group, fact, bytes }).await.map_err(|_| closed())
    }

    /// Writes what waits and lets go of the file; returns once another may open it.
    pub async fn close(&self) {
        let (sender, receiver) = oneshot::channel();
        if self.requests.send(Request::Close(sender)).await.is_ok() {
            // An error means that the task has ended, which is as good.
            let _ = receiver.await;
        }
    }
}

/// Sees to it that the file is there. A new one is made under another name, and gets its own once all of it is on the disk:
/// one whose making was interrupted could not be told from a damaged one.
///
/// What an earlier process could not sync may be in the page cache and nowhere else, and no later sync writes it. What is
/// read must be what the disk has, or a vote or an entry that counts as durable goes with the next loss of power.
pub fn make_ready(
    disk: &impl Disk,
    name: &str,
    make: impl FnOnce(&str) -> Result<Database, DatabaseError>,
) -> Result<(), DatabaseError> {
    match disk.open(name) {
        Ok(file) => return file.sync_and_forget().map_err(storage),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(storage(error)),
    }
    let new = format!("{name}{UNFINISHED}");
    match disk.remove(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(storage(error)),
        _ => {}
    }
    drop(make(&new)?);
    let synced = disk.open(&new).and_then(|file| file.sync_data());
    let named = synced.and_then(|()| disk.rename(&new, name)).and_then(|()| disk.sync_dir());
    named.map_err(storage)
}

fn storage(error: io::Error) -> DatabaseError {
    DatabaseError::Storage(redb::StorageError::Io(error))
}

fn closed() -> io::Error {
    io::Error::other(LogError::Closed)
}

/// The changes of one transaction, and who waits for it.
#[derive(Default)]
struct Batch {
    changes: Vec<(GroupNumber, Change)>,
    waiting: Vec<Done>,
}

impl Batch {
    /// Takes a request and all that wait behind it.
    fn gather(&mut self, first: Option<Request>, requests: &mut mpsc::Receiver<Request>, held: &mut Held) {
        let mut next = first;
        while let Some(request) = next {
            match request {
                Request::Write { group, changes, done } => {
                    self.changes.extend(changes.into_iter().map(|change| (group, change)));
                    self.waiting.push(done);
                }
                Request::Lazy { group, fact, bytes } => drop(held.lazy.insert((group, fact), bytes)),
                Request::Close(sender) => {
                    held.closing = Some(sender);
                    return;
                }
            }
            next = requests.try_recv().ok();
        }
    }
}

/// What the writer holds between two transactions.
#[derive(Default)]
struct Held {
    lazy: BTreeMap<(GroupNumber, Fact), Vec<u8>>,
    closing: Option<oneshot::Sender<()>>,
}

async fn write_loop(database: Database, mut requests: mpsc::Receiver<Request>) {
    let database = Arc::new(database);
    let mut held = Held::default();
    loop {
        let mut lingered = false;
        let next = if held.lazy.is_empty() {
            requests.recv().await
        } else {
            runtime::timeout(LINGER, requests.recv()).await.unwrap_or_else(|_| {
                lingered = true;
                None
            })
        };
        let mut last = next.is_none() && !lingered;
        let mut batch = Batch::default();
        batch.gather(next, &mut requests, &mut held);
        last |= held.closing.is_some();
        if last || lingered || !batch.waiting.is_empty() {
            let lazy = std::mem::take(&mut held.lazy).into_iter();
            batch.changes.extend(lazy.map(|((group, fact), bytes)| (group, Change::Fact { fact, bytes })));
            last |= commit_batch(&database, batch).await.is_err();
        }
        if last {
            break;
        }
    }
    requests.close();
    while let Some(request) = requests.recv().await {
        match request {
            Request::Write { done, .. } => done(Err(closed())),
            Request::Lazy { .. } => (),
            Request::Close(sender) => held.closing = Some(sender),
        }
    }
    // Dropping it closes the file; should that panic, the file is closed all the same.
    let _ = runtime::spawn_blocking(move || drop(database)).await;
    if let Some(sender) = held.closing {
        let _ = sender.send(());
    }
}

/// Commits a batch on a blocking thread and tells those who wait.
async fn commit_batch(database: &Arc<Database>, batch: Batch) -> Result<(), ()> {
    let Batch { changes, waiting } = batch;
    let database = Arc::clone(database);
    let committed = runtime::spawn_blocking(move || commit(&database, &changes)).await;
    let result = match committed {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(LogError::Closed.to_string()),
    };
    for done in waiting {
        done(result.clone().map_err(io::Error::other));
    }
    result.map_err(|_| ())
}

fn commit(database: &Database, changes: &[(GroupNumber, Change)]) -> Result<(), LogError> {
    if changes.is_empty() {
        return Ok(());
    }
    let transaction = database.begin_write()?;
    {
        let mut entries = transaction.open_table(ENTRIES)?;
        let mut facts = transaction.open_table(FACTS)?;
        for (GroupNumber(group), change) in changes {
            match change {
                Change::Entry { index, bytes } => {
                    let row = seal(*group, *index, bytes);
                    entries.insert((*group, *index), row.as_slice())?;
                }
                Change::Fact { fact, bytes } => {
                    let fact = *fact as u8;
                    let row = seal(*group, u64::from(fact), bytes);
                    facts.insert((*group, fact), row.as_slice())?;
                }
                Change::CutFrom(index) => entries.retain_in((*group, *index)..=(*group, u64::MAX), |_, _| false)?,
                Change::CutBefore(index) => entries.retain_in((*group, 0)..(*group, *index), |_, _| false)?,
            }
        }
    }
    transaction.commit()?;
    Ok(())
}

/// Reads the whole file, and makes it one if it is new.
fn read(database: &Database) -> Result<BTreeMap<GroupNumber, Found>, LogError> {
    let transaction = database.begin_write()?;
    {
        let mut formats = transaction.open_table(FORMATS)?;
        let version = formats.get("version")?.map(|version| version.value());
        match version {
            None => drop(formats.insert("version", FORMAT)?),
            Some(FORMAT) => (),
            Some(other) => return Err(LogError::Version(other)),
        }
        transaction.open_table(ENTRIES)?;
        transaction.open_table(FACTS)?;
    }
    transaction.commit()?;

    let mut groups: BTreeMap<GroupNumber, Found> = BTreeMap::new();
    let transaction = database.begin_read()?;
    for row in transaction.open_table(ENTRIES)?.iter()? {
        let (key, value) = row?;
        let (group, index) = key.value();
        let damaged = |what| LogError::Damaged { group: GroupNumber(group), what };
        let bytes = unseal(group, index, value.value()).ok_or(damaged(Damage::Entry(index)))?;
        let entries = &mut groups.entry(GroupNumber(group)).or_default().entries;
        if let Some((last, _)) = entries.last_key_value()
            && last + 1 != index
        {
            return Err(damaged(Damage::Gap(last + 1)));
        }
        entries.insert(index, bytes.to_vec());
    }
    for row in transaction.open_table(FACTS)?.iter()? {
        let (key, value) = row?;
        let (group, fact) = key.value();
        let bytes = unseal(group, u64::from(fact), value.value())
            .ok_or(LogError::Damaged { group: GroupNumber(group), what: Damage::Fact(fact) })?;
        groups.entry(GroupNumber(group)).or_default().facts.insert(fact, bytes.to_vec());
    }
    Ok(groups)
}

/// A row: the checksum, which covers the key too, in front of the bytes.
fn seal(group: u64, place: u64, bytes: &[u8]) -> Vec<u8> {
    let mut row = Vec::with_capacity(4 + bytes.len());
    row.extend_from_slice(&checksum(group, place, bytes).to_le_bytes());
    row.extend_from_slice(bytes);
    row
}

fn unseal(group: u64, place: u64, row: &[u8]) -> Option<&[u8]> {
    let (sum, bytes) = row.split_first_chunk::<4>()?;
    (u32::from_le_bytes(*sum) == checksum(group, place, bytes)).then_some(bytes)
}

fn checksum(group: u64, place: u64, bytes: &[u8]) -> u32 {
    let key = crc32c::crc32c_append(crc32c::crc32c(&group.to_le_bytes()), &place.to_le_bytes());
    crc32c::crc32c_append(key, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::disk::DiskFile;
    use crate::store::faulty::{Crash, FaultyDisk};

    struct OnDisk(Arc<dyn DiskFile>);

    impl fmt::Debug for OnDisk {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a file")
        }
    }

    impl StorageBackend for OnDisk {
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
            self.0.write_vectored_at(&mut [io::IoSlice::new(data)], offset)
        }
    }

    /// Wherever the making of the file is interrupted, the next start makes it anew or has it whole.
    #[test]
    fn a_file_whose_making_was_interrupted_is_made_anew() {
        let builder = redb::Builder::new;
        let mut interrupted = 0;
        for crash in [Crash::Process, Crash::Power] {
            for step in 0.. {
                let disk = FaultyDisk::new(step);
                let make = |new: &str| builder().create_with_backend(OnDisk(disk.create(new).map_err(storage)?));
                disk.crash_after(step, crash);
                let made = make_ready(&disk, "log", make);
                if made.is_ok() {
                    break;
                }
                interrupted += 1;
                disk.restart();
                make_ready(&disk, "log", make).unwrap();
                builder().create_with_backend(OnDisk(disk.open("log").unwrap())).unwrap();
                assert_eq!(disk.list().unwrap(), ["log"]);
            }
        }
        assert!(interrupted > 10, "{interrupted}");
    }

    /// No flipped bit in the file makes a row disappear or change: it is told, or does no harm.
    #[tokio::test]
    async fn a_flipped_bit_never_hides_a_row() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let group = GroupNumber(0);
        let file = LogFile::open(path.clone()).await.unwrap();
        let entries = (0..300).map(|index| Change::Entry { index, bytes: vec![index as u8; 100] });
        let vote = Change::Fact { fact: Fact::Vote, bytes: b"vote".to_vec() };
        file.write_and_wait(group, entries.chain([vote]).collect()).await.unwrap();
        file.close().await;
        let whole = std::fs::read(&path).unwrap();
        let mut told = 0;
        // redb's own header decides which of two commits counts; the pages are what is looked at here.
        for page in 1..whole.len() / 4096 {
            for byte in [2, 9, 20, 60, 600, 3000] {
                let mut flipped = whole.clone();
                flipped[page * 4096 + byte] ^= 4;
                std::fs::write(&path, &flipped).unwrap();
                match LogFile::open(path.clone()).await {
                    Ok(file) => {
                        let found = file.take(group);
                        assert_eq!(found.entries.len(), 300, "byte {byte} of page {page}");
                        assert!(found.entries.iter().all(|(index, bytes)| *bytes == vec![*index as u8; 100]));
                        assert_eq!(found.fact(Fact::Vote), Some(&b"vote"[..]), "byte {byte} of page {page}");
                        file.close().await;
                    }
                    Err(error) => {
                        assert!(!error.to_string().is_empty());
                        told += 1;
                    }
                }
            }
        }
        assert!(told > 20, "the flips must have mattered: {told}");
    }
}
