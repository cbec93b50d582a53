//! The index: one redb file, written by one transaction at a time.
//!
//! Every commit is durable and made with quick repair. Measured on an index of 80 million blocks, each a run of its own
//! (305 GiB of data, a file of 6 GiB): opening after a crash took 1.2 s with quick repair and 10.6 s without; a small
//! commit took 1.4 ms with and 0.3 to 3 ms without. Commits are rare and opening must stay fast.
//!
//! A checkpoint writes many bounded transactions; a commit of the replication protocol waits for one of them at the
//! most, because whoever is urgent goes first.
//!
//! A transaction that finds no space is aborted and has changed nothing: [`StoreError::NoSpace`]. redb cannot live through
//! a growth of its file that fails, so it never meets one. While a transaction is being put together the file may grow
//! beyond the disk's end, which redb takes back when the transaction is aborted; and before it is committed, the pages that
//! committing takes are proved to be free in the file. On a disk without room for another growth, what adds to the index
//! must leave some pages more than that, so that what takes from it (trims, cleaning, deleted volumes) can go on.

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use redb::{
    Builder, Database, DatabaseError, ReadTransaction, ReadableDatabase, ReadableTable, Table, TableDefinition,
    WriteTransaction,
};

use crate::base::contained::contain;
use crate::store::ballast::Ballast;
use crate::store::disk::DiskFile;
use crate::store::error::{Damage, Result, StoreError};
use crate::store::group::Group;
use crate::store::keys::{BLOCKS, EXTENTS, FORGOTTEN, MARKERS, SEGMENTS, SILO, SLOTS, TRIMS, place_key, place_of_key};
use crate::store::pages::{Backend, PAGE_BYTES, PageFile, Unsummed};
use crate::store::usage::Tally;

pub(crate) struct Index {
    database: Database,
    file: Arc<PageFile>,
    ballast: Option<Arc<Ballast>>,
    turns: Mutex<Turns>,
    freed: Condvar,
    commits: AtomicU64,
}

#[derive(Default)]
struct Turns {
    taken: bool,
    urgent: usize,
}

/// The right to write to the index. What a transaction is built from stays true while it is held.
pub(crate) struct Turn<'a> {
    index: &'a Index,
}

/// What a transaction leaves free in a file that cannot grow, beside what committing it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leaves {
    /// Nothing: it makes room, or only changes a few rows.
    Nothing,
    /// It moves things, and may leave them a little larger.
    Some,
    /// It adds to the index.
    Enough,
}

impl Leaves {
    fn pages(self) -> usize {
        match self {
            Leaves::Nothing => 0,
            Leaves::Some => 256,
            Leaves::Enough => 512,
        }
    }
}

/// Pages that committing takes: the rows of freed pages, roots, the bookkeeping of the file's pages.
const COMMIT_PAGES: usize = 64;
/// The same in one piece, with what redb adds to a row.
const COMMIT_PIECE_BYTES: usize = COMMIT_PAGES * PAGE_BYTES - 512;
/// redb's record of which pages are free, in one piece: a bit a page and size of piece, for pages of 4 KiB, and some more.
const PAGES_RECORD_PART: u64 = 8192;
/// It is kept for each so many bytes of the file by itself.
const REGION_BYTES: u64 = 4 << 30;
/// Only while a transaction looks for free pages: rows that fill a page each.
const ROOM: TableDefinition<'static, u64, &'static [u8]> = TableDefinition::new("room");
const ROOM_ROW_BYTES: usize = 2500;

/// The table of the groups, open for writing.
pub(crate) type Blocks<'txn> = Table<'txn, &'static [u8; 12], &'static [u8]>;

impl Index {
    /// Opens the file, or makes an index in an empty one.
    pub(crate) fn open(file: PageFile, ballast: Option<Arc<Ballast>>, cache_bytes: usize) -> Result<Index> {
        let file = Arc::new(file);
        let backend = Backend { file: file.clone(), ballast: ballast.clone() };
        let opened = Builder::new().set_cache_size(cache_bytes).create_with_backend(backend);
        let database = opened.map_err(|error| open_error(error, file.damage()))?;
        Ok(Index {
            database,
            file,
            ballast,
            turns: Mutex::default(),
            freed: Condvar::new(),
            commits: AtomicU64::new(0),
        })
    }

    /// Verifies all of an index that has no checksums of its pages yet, by those that redb keeps in the pages above.
    pub(crate) fn verify_unsummed(file: &Arc<dyn DiskFile>, cache_bytes: usize) -> Result<()> {
        let check = || {
            let opened = Builder::new().set_cache_size(cache_bytes).create_with_backend(Unsummed(file.clone()));
            opened.and_then(|mut database| database.check_integrity().map(drop))
        };
        // redb trusts the rows that it keeps for itself before it has verified them, and panics where they make no sense.
        match contain(check) {
            Some(checked) => checked.map_err(|error| open_error(error, None)),
            None => Err(StoreError::Damaged(Damage::Index("its records of its own pages make no sense".to_owned()))),
        }
    }

    /// Makes every table, so that readers find them.
    pub(crate) fn create_tables(txn: &WriteTransaction) -> Result<()> {
        txn.open_table(SILO)?;
        txn.open_table(SLOTS)?;
        txn.open_table(BLOCKS)?;
        txn.open_table(EXTENTS)?;
        txn.open_table(TRIMS)?;
        txn.open_table(MARKERS)?;
        txn.open_table(FORGOTTEN)?;
        txn.open_table(SEGMENTS)?;
        Ok(())
    }

    /// Waits for the right to write; whoever is urgent goes before whoever is not.
    pub(crate) fn turn(&self, urgent: bool) -> Turn<'_> {
        let mut turns = self.turns();
        turns.urgent += usize::from(urgent);
        while turns.taken || (!urgent && turns.urgent > 0) {
            turns = self.freed.wait(turns).unwrap_or_else(PoisonError::into_inner);
        }
        turns.urgent -= usize::from(urgent);
        turns.taken = true;
        Turn { index: self }
    }

    pub(crate) fn read(&self) -> Result<ReadTransaction> {
        Ok(self.database.begin_read()?)
    }

    /// How many commits have been made: what a transaction that begins from here on sees is no older.
    pub(crate) fn commits(&self) -> u64 {
        self.commits.load(Ordering::Acquire)
    }

    /// The result of using the index; if that failed on a damaged page, this page is what is wrong.
    pub(crate) fn told<T>(&self, result: Result<T>) -> Result<T> {
        match (result, self.file.damage()) {
            (Err(StoreError::Index(_) | StoreError::Damaged(_)), Some(what)) => {
                Err(StoreError::Damaged(Damage::Index(what.to_owned())))
            }
            (other, _) => other,
        }
    }

    /// The file's pages, to be scrubbed.
    pub(crate) fn file(&self) -> &Arc<PageFile> {
        &self.file
    }

    /// Whether the file can grow once more, come what may.
    pub(crate) fn can_grow(&self) -> bool {
        self.ballast.as_ref().is_none_or(|ballast| ballast.assures_growth(self.size()))
    }

    /// Bytes of the file and its checksums.
    pub(crate) fn size(&self) -> u64 {
        // The size is for accounting only; a disk that cannot even tell it fails at the next transaction.
        self.file.size().unwrap_or(0)
    }

    fn turns(&self) -> MutexGuard<'_, Turns> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn<'_> {
    /// One durable transaction, of which nothing remains if it fails.
    pub(crate) fn write<T>(&self, leaves: Leaves, work: impl FnOnce(&WriteTransaction) -> Result<T>) -> Result<T> {
        let mut txn = self.index.database.begin_write()?;
        txn.set_quick_repair(true);
        let file = &self.index.file;
        file.allow_overdraft(true);
        let done = work(&txn).and_then(|done| self.index.leave(&txn, leaves).map(|()| done));
        file.allow_overdraft(false);
        let done = if file.is_overdrawn() { Err(StoreError::NoSpace) } else { done };
        match done {
            Ok(done) => {
                let committed = txn.commit();
                // Counted also if it failed: nobody knows what of it there is.
                self.index.commits.fetch_add(1, Ordering::Release);
                committed?;
                Ok(done)
            }
            // Without space nothing has happened, which an abort that fails would belie.
            Err(StoreError::NoSpace) => {
                txn.abort()?;
                Err(StoreError::NoSpace)
            }
            Err(error) => {
                // After a failure of the file aborting fails too, and says only that something failed before.
                let _ = txn.abort();
                Err(error)
            }
        }
    }
}

impl Index {
    /// Makes sure that the transaction can be committed without the file's growing, and, where it could not grow, that there
    /// is something left then: takes so many pages and gives them back, which lets the file grow now, or overdraws it. That
    /// there is room is no reason to leave the growth to the commit: others may take all of it in between.
    fn leave(&self, txn: &WriteTransaction, leaves: Leaves) -> Result<()> {
        if self.file.is_overdrawn() {
            return Ok(());
        }
        let size = self.size();
        let record = vec![0; (size.min(REGION_BYTES) / PAGES_RECORD_PART) as usize + ROOM_ROW_BYTES];
        let mut rows: Vec<&[u8]> = vec![&record; size.div_ceil(REGION_BYTES) as usize];
        let (piece, row) = (vec![0; COMMIT_PIECE_BYTES], [0; ROOM_ROW_BYTES]);
        if self.can_grow() {
            // In one piece, which is far quicker; if there is none the file grows.
            rows.push(&piece);
        } else {
            rows.resize(rows.len() + COMMIT_PAGES + leaves.pages(), &row);
        }
        let mut table = txn.open_table(ROOM)?;
        for (number, row) in (0..).zip(&rows) {
            table.insert(number, *row)?;
        }
        // Pages that this very transaction took are free again at once.
        for number in 0..rows.len() as u64 {
            table.remove(number)?;
        }
        drop(table);
        txn.delete_table(ROOM)?;
        Ok(())
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.index.turns().taken = false;
        self.index.freed.notify_all();
    }
}

/// Why an index cannot be opened, told by its damaged page if there is one.
fn open_error(error: DatabaseError, damage: Option<&str>) -> StoreError {
    match (error, damage) {
        (_, Some(what)) => StoreError::Damaged(Damage::Index(what.to_owned())),
        (DatabaseError::Storage(redb::StorageError::Io(error)), None) => {
            StoreError::Io { doing: "read the index", error }
        }
        (other, None) => StoreError::Damaged(Damage::Index(other.to_string())),
    }
}

/// Calls `each` with the groups of a slot that exist within a range, in order, until it says stop (`false`).
pub(crate) fn each_group(
    table: &impl ReadableTable<&'static [u8; 12], &'static [u8]>,
    number: u32,
    groups: RangeInclusive<u64>,
    mut each: impl FnMut(u64, &[u8]) -> Result<bool>,
) -> Result<()> {
    let (first, last) = (place_key(number, *groups.start()), place_key(number, *groups.end()));
    for row in table.range::<&[u8; 12]>(&first..=&last)? {
        let (key, value) = row?;
        if !each(place_of_key(key.value()), value.value())? {
            break;
        }
    }
    Ok(())
}

/// Changes one group of a slot and tallies what that changes in the segments; an empty group is removed, an unchanged
/// one is not written. Fails as soon as the transaction lacks space, which is then known to come to nothing.
pub(crate) fn change_group(
    table: &mut Blocks<'_>,
    tally: &mut Tally,
    number: u32,
    group: u64,
    change: impl FnOnce(&mut Group),
) -> Result<()> {
    tally.check_room()?;
    let key = place_key(number, group);
    let (mut content, before) = match table.get(&key)? {
        Some(value) => (Group::unpack(value.value())?, Some(value.value().to_vec())),
        None => (Group::empty(), None),
    };
    let held = content.clone();
    change(&mut content);
    let after = content.pack();
    if after != before {
        held.compare(&content, |version, by| tally.change(version, by));
    }
    match after {
        _ if after == before => {}
        Some(bytes) => {
            table.insert(&key, &bytes[..])?;
        }
        None => {
            table.remove(&key)?;
        }
    }
    Ok(())
}
