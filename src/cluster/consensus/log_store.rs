//! A group's log and vote as openraft wants them: in memory for reading, in the [`LogFile`] for good.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::OptionalSend;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};

use crate::base::mutant::{self, Mutant};
use crate::cluster::consensus::log_file::{Change, Damage, Fact, Found, GroupNumber, LogError, LogFile};
use crate::cluster::consensus::stored;
use crate::cluster::consensus::types::{Entry, LogId, RaftVote, Types};

/// The log of one group. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct LogStore {
    file: LogFile,
    group: GroupNumber,
    log: Arc<Mutex<Log>>,
}

/// What is in memory: every entry that is kept, written or about to be. openraft reads entries as soon as they are
/// handed over; it answers for none before it is told that they are durable.
#[derive(Debug, Default)]
struct Log {
    entries: BTreeMap<u64, Entry>,
    purged: Option<LogId>,
    committed: Option<LogId>,
    /// The last one that is durable.
    vote: Option<RaftVote>,
}

impl LogStore {
    /// Decodes what the file held of the group.
    pub fn new(file: LogFile, group: GroupNumber, found: &Found) -> Result<Self, LogError> {
        let damaged = |what| LogError::Damaged { group, what };
        let id = |fact: Fact| match found.fact(fact) {
            None => Ok(None),
            Some(bytes) => stored::decode_id(bytes).map_err(|_| damaged(Damage::Fact(fact as u8))),
        };
        let mut log = Log { purged: id(Fact::Purged)?, committed: id(Fact::Committed)?, ..Log::default() };
        if let Some(bytes) = found.fact(Fact::Vote) {
            let vote = stored::decode_vote(bytes).map_err(|_| damaged(Damage::Fact(Fact::Vote as u8)))?;
            log.vote = Some(vote);
        }
        for (index, bytes) in &found.entries {
            let entry = stored::decode_entry(bytes).map_err(|_| damaged(Damage::Entry(*index)))?;
            if entry.log_id.index != *index {
                return Err(damaged(Damage::Entry(*index)));
            }
            log.entries.insert(*index, entry);
        }
        let first_kept = log.purged.map_or(0, |purged| purged.index + 1);
        if let Some((first, _)) = log.entries.first_key_value()
            && *first != first_kept
        {
            return Err(damaged(Damage::Gap(first_kept)));
        }
        Ok(Self { file, group, log: Arc::new(Mutex::new(log)) })
    }

    /// All that is kept, in order.
    pub fn entries(&self) -> Vec<Entry> {
        self.log().entries.values().cloned().collect()
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        // No code that holds the lock can panic half-way through a change.
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<R>(&mut self, range: R) -> Result<Vec<Entry>, io::Error>
    where
        R: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        Ok(self.log().entries.range(range).map(|(_, entry)| entry.clone()).collect())
    }

    async fn read_vote(&mut self) -> Result<Option<RaftVote>, io::Error> {
        Ok(self.log().vote)
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let log = self.log();
        let last = log.entries.last_key_value().map(|(_, entry)| entry.log_id);
        Ok(LogState { last_purged_log_id: log.purged, last_log_id: last.or(log.purged) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &RaftVote) -> Result<(), io::Error> {
        let bytes = stored::encode_vote(vote);
        if mutant::on(Mutant::GroupVoteNotSynced) {
            self.log().vote = Some(*vote);
            return self.file.write_lazily(self.group, Fact::Vote, bytes).await;
        }
        self.file.write_and_wait(self.group, vec![Change::Fact { fact: Fact::Vote, bytes }]).await?;
        self.log().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.log().committed = committed;
        self.file.write_lazily(self.group, Fact::Committed, stored::encode_id(committed)).await
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        let log = self.log();
        // The last commit is written lazily; it never lies beyond what the log holds.
        let last = log.entries.last_key_value().map(|(_, entry)| entry.log_id).or(log.purged);
        Ok(log.committed.min(last))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<_> = entries.into_iter().collect();
        let changes = entries
            .iter()
            .map(|entry| Change::Entry { index: entry.log_id.index, bytes: stored::encode_entry(entry) })
            .collect();
        self.log().entries.extend(entries.into_iter().map(|entry| (entry.log_id.index, entry)));
        if mutant::on(Mutant::GroupEntriesNotSynced) {
            callback.io_completed(Ok(()));
            self.file.write(self.group, changes, |_| ()).await;
            return Ok(());
        }
        self.file.write(self.group, changes, move |result| callback.io_completed(result)).await;
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let from = last.map_or(0, |last| last.index + 1);
        drop(self.log().entries.split_off(&from));
        self.file.write_and_wait(self.group, vec![Change::CutFrom(from)]).await
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        {
            let mut log = self.log();
            log.entries = log.entries.split_off(&(upto.index + 1));
            log.purged = log.purged.max(Some(upto));
        }
        let purged = Change::Fact { fact: Fact::Purged, bytes: stored::encode_id(Some(upto)) };
        self.file.write(self.group, vec![Change::CutBefore(upto.index + 1), purged], |_| ()).await;
        Ok(())
    }
}
