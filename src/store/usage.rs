//! How much of each segment is needed: the blocks that the index refers to there, counted in the transactions that change
//! the index, so that cleaning knows the emptiest segments and a segment with nothing in it can be removed at once.
//!
//! What only memory refers to lies in segments at or past the checkpoint, which are never cleaned, or is staged, which
//! pins its segments ([`crate::store::staging`]). Whatever the index keeps for whatever reason (a snapshot, an
//! uncommitted suffix, what lies beneath it) is counted and therefore kept: cleaning needs no rule of its own for it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::{ReadTransaction, ReadableTable, TableError, WriteTransaction};

use crate::store::error::{Damage, Result, StoreError};
use crate::store::index::{Leaves, Turn};
use crate::store::keys::{BLOCKS, SEGMENTS, unpack};
use crate::store::pages::PageFile;
use crate::store::silo::Silo;
use crate::store::version::{Place, Version};

/// What one transaction changes: blocks gained or lost, by segment.
pub(crate) struct Tally {
    blocks: BTreeMap<u32, i64>,
    file: Arc<PageFile>,
}

impl Tally {
    /// Whether there is space for what the transaction has changed so far.
    pub(crate) fn check_room(&self) -> Result<()> {
        if self.file.is_overdrawn() { Err(StoreError::NoSpace) } else { Ok(()) }
    }

    /// A version came (1) or went (-1).
    pub(crate) fn change(&mut self, version: &Version, by: i64) {
        if let Place::Data { segment, .. } = version.place {
            *self.blocks.entry(segment).or_default() += by;
        }
    }
}

/// The blocks that the index has in each segment, as committed. A segment that is not named has none.
#[derive(Default)]
pub(crate) struct Usage {
    blocks: Mutex<BTreeMap<u32, u32>>,
}

impl Usage {
    /// Reads the counts. An index of a version that did not count, or one in which a count does not match its checksum,
    /// is counted anew: `None`.
    pub(crate) fn load(txn: &ReadTransaction) -> Result<Option<Usage>> {
        let table = match txn.open_table(SEGMENTS) {
            Err(TableError::TableDoesNotExist(_)) => return Ok(None),
            other => other?,
        };
        let mut blocks = BTreeMap::new();
        for row in table.iter()? {
            let (segment, value) = row?;
            let Some(count) = decode(segment.value(), value.value()) else { return Ok(None) };
            blocks.insert(segment.value(), count);
        }
        Ok(Some(Usage { blocks: Mutex::new(blocks) }))
    }

    /// Counts all that the index refers to, forgotten slots included until their rows are gone.
    pub(crate) fn count(txn: &ReadTransaction) -> Result<Usage> {
        let mut blocks: BTreeMap<u32, u32> = BTreeMap::new();
        for row in txn.open_table(BLOCKS)?.iter()? {
            for (_, version) in unpack(row?.1.value())? {
                if let Place::Data { segment, .. } = version.place {
                    *blocks.entry(segment).or_default() += 1;
                }
            }
        }
        Ok(Usage { blocks: Mutex::new(blocks) })
    }

    /// Replaces what the index says.
    pub(crate) fn save(&self, txn: &WriteTransaction) -> Result<()> {
        txn.delete_table(SEGMENTS)?;
        let mut table = txn.open_table(SEGMENTS)?;
        for (segment, count) in &*self.blocks() {
            table.insert(segment, encode(*segment, *count))?;
        }
        Ok(())
    }

    /// The blocks that the index has in this segment.
    pub(crate) fn of(&self, segment: u32) -> u32 {
        self.blocks().get(&segment).copied().unwrap_or(0)
    }

    /// The same for all segments that have any.
    pub(crate) fn all(&self) -> BTreeMap<u32, u32> {
        self.blocks().clone()
    }

    /// All blocks that the index refers to.
    pub(crate) fn total(&self) -> u64 {
        self.blocks().values().map(|count| u64::from(*count)).sum()
    }

    /// Puts the changes into the transaction; they count once it is committed.
    fn change(&self, txn: &WriteTransaction, tally: &Tally) -> Result<BTreeMap<u32, u32>> {
        let blocks = self.blocks();
        let mut changed = BTreeMap::new();
        let mut table = txn.open_table(SEGMENTS)?;
        for (segment, by) in tally.blocks.iter().filter(|(_, by)| **by != 0) {
            let before = i64::from(blocks.get(segment).copied().unwrap_or(0));
            // Fewer than none cannot be: the counts and the index contradict one another.
            let count = u32::try_from(before + by).map_err(|_| StoreError::Damaged(Damage::IndexRow("segments")))?;
            if count == 0 {
                table.remove(segment)?;
            } else {
                table.insert(segment, encode(*segment, count))?;
            }
            changed.insert(*segment, count);
        }
        Ok(changed)
    }

    fn commit(&self, changed: BTreeMap<u32, u32>) {
        let mut blocks = self.blocks();
        for (segment, count) in changed {
            if count == 0 {
                blocks.remove(&segment);
            } else {
                blocks.insert(segment, count);
            }
        }
    }

    fn blocks(&self) -> MutexGuard<'_, BTreeMap<u32, u32>> {
        // Only whole changes are made under the lock.
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Silo {
    /// One durable transaction of the index that may change which blocks are referred to; `work` tallies what it
    /// changes. A lack of space leaves all as it was; any other failure is final for the silo.
    pub(crate) fn change_index<T>(
        &self,
        turn: &Turn<'_>,
        leaves: Leaves,
        work: impl FnOnce(&WriteTransaction, &mut Tally) -> Result<T>,
    ) -> Result<T> {
        let mut tally = Tally { blocks: BTreeMap::new(), file: self.index.file().clone() };
        let (done, changed) = self.guard(turn.write(leaves, |txn| {
            let done = work(txn, &mut tally)?;
            Ok((done, self.usage.change(txn, &tally)?))
        }))?;
        self.usage.commit(changed);
        Ok(done)
    }
}

/// A count as stored: the lower half is the count, the upper a checksum of it and of the segment's number. A count that
/// decayed to zero would have a segment removed that is needed.
fn encode(segment: u32, count: u32) -> u64 {
    u64::from(checksum(segment, count)) << 32 | u64::from(count)
}

fn decode(segment: u32, value: u64) -> Option<u32> {
    let count = value as u32;
    (checksum(segment, count) == (value >> 32) as u32).then_some(count)
}

fn checksum(segment: u32, count: u32) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&segment.to_le_bytes()), &count.to_le_bytes())
}
