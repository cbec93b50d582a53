//! What really happened, as an observer sees it who hears every message: each slot's history by epoch, who has how much
//! of it, and what was promised about it. From this follows what a silo's blocks must be, down to stamps and checksums,
//! and which answered writes a recovery may leave out: those that were never flushed, and that a power loss took from
//! so many silos that no majority has them.

use std::collections::{BTreeMap, BTreeSet};

use infinit::base::block::BLOCK_BYTES;
use infinit::base::id::{Epoch, Seq, Stamp};
use infinit::base::record::{Record, RecordKind};
use infinit::store::slot::Vote;

use super::workload::{BLOCK_SECTORS, Tag, block_content, tags_of};

/// One record of a slot's stream.
#[derive(Clone, Debug)]
pub struct Entry {
    pub op: Tag,
    pub previous: Seq,
    pub first_block: u64,
    pub blocks: u64,
    trim: bool,
    tags: Vec<[Tag; BLOCK_SECTORS as usize]>,
    /// When its request was answered.
    pub answered: Option<u64>,
    /// Its client was told that it took too long. It may have been seen all the same.
    given_up: bool,
    /// Durable on a majority, by what was answered: must never be lost.
    pub safe: bool,
    /// A silo lost it with its power.
    pub lost_once: bool,
}

/// One epoch of a slot.
#[derive(Default, Debug)]
struct Chapter {
    /// The history that was chosen: where this epoch goes on from.
    choice: Option<Vote>,
    entries: BTreeMap<Seq, Entry>,
    /// Answered writes that this history lacks, lawfully.
    excused: BTreeSet<Stamp>,
}

/// What a block is: its version, and the tag of each sector.
pub type Block = (Stamp, [Tag; BLOCK_SECTORS as usize]);

/// One slot.
#[derive(Default, Debug)]
pub struct Ledger {
    chapters: BTreeMap<Epoch, Chapter>,
    /// What was lawfully lost, and made known by an epoch that served without it.
    settled: BTreeSet<Stamp>,
    /// A silo of the slot may stay out for good: what it alone had beside one without power may be lost.
    pub outsiders: bool,
    pub majority: usize,
}

impl Ledger {
    pub fn new(silos: usize) -> Self {
        Self { chapters: BTreeMap::new(), settled: BTreeSet::new(), outsiders: false, majority: silos / 2 + 1 }
    }

    /// A writer sent a record of its stream: the first time, it is written down. Returns whether it was new.
    pub fn sequenced(
        &mut self,
        epoch: Epoch,
        previous: Seq,
        record: &Record,
        op: impl FnOnce(&Record) -> Tag,
    ) -> Result<bool, String> {
        let stamp = record.header.stamp;
        if stamp.epoch != epoch {
            return Err(format!("epoch {epoch} sent a record of {stamp:?} in its stream"));
        }
        let chapter = self.chapters.entry(epoch).or_default();
        let Some(choice) = chapter.choice else { return Err(format!("epoch {epoch} wrote before it chose")) };
        if let Some(known) = chapter.entries.get(&stamp.seq) {
            let same = known.previous == previous && known.first_block == record.header.first_block();
            return if same { Ok(false) } else { Err(format!("{stamp:?} was sent twice, and differs")) };
        }
        let last = chapter.entries.last_key_value().map_or(choice.applied, |(seq, _)| *seq);
        if previous != last || stamp.seq <= last {
            return Err(format!("{stamp:?} follows on {previous}, but the stream's end is {last}"));
        }
        let entry = Entry::of(record, previous, op(record))?;
        chapter.entries.insert(stamp.seq, entry);
        Ok(true)
    }

    pub fn choice(&self, epoch: Epoch) -> Option<Vote> {
        self.chapters.get(&epoch)?.choice
    }

    /// A writer chose a history. `holders` counts the silos that have a record. Every answered write must be in it,
    /// but for those that may be lost, and for those of later writers.
    pub fn chosen(
        &mut self,
        epoch: Epoch,
        vote: Vote,
        holders: impl Fn(&Ledger, Stamp) -> usize,
    ) -> Result<(), String> {
        if let Some(before) = self.choice(epoch) {
            return if before == vote {
                Ok(())
            } else {
                Err(format!("epoch {epoch} chose twice: {before:?}, then {vote:?}"))
            };
        }
        if self.chapters.iter().any(|(later, chapter)| *later > epoch && chapter.choice.is_some()) {
            // A majority has promised a later epoch since this one got its votes: nobody will adopt this choice.
            self.chapters.entry(epoch).or_default().choice = Some(vote);
            return Ok(());
        }
        let mut excused = BTreeSet::new();
        let earlier = self.entries().filter(|(stamp, _)| stamp.epoch < epoch);
        for (stamp, entry) in earlier.filter(|(_, entry)| entry.answered.is_some() || entry.safe) {
            if !self.contains(vote, stamp) {
                self.judge(vote, stamp, entry, holders(self, stamp))?;
                excused.insert(stamp);
            }
        }
        let given_up = self.entries().filter(|(stamp, entry)| stamp.epoch < epoch && entry.given_up);
        for (stamp, entry) in given_up {
            if !self.contains(vote, stamp) && self.judge(vote, stamp, entry, holders(self, stamp)).is_ok() {
                excused.insert(stamp);
            }
        }
        let chapter = self.chapters.entry(epoch).or_default();
        chapter.choice = Some(vote);
        chapter.excused = excused;
        Ok(())
    }

    /// An error unless this history may lack this write.
    fn judge(&self, vote: Vote, stamp: Stamp, entry: &Entry, holders: usize) -> Result<(), String> {
        let inherited = self.chain(vote).iter().any(|(epoch, _)| self.chapters[epoch].excused.contains(&stamp));
        if inherited && !entry.safe {
            return Ok(());
        }
        let what = format!("{stamp:?} of request {} is not in the chosen history {vote:?}", entry.op);
        if entry.safe {
            return Err(format!("{what}, although it was durable on a majority"));
        }
        let may_be_lost = entry.lost_once || self.outsiders;
        if !may_be_lost || holders >= self.majority {
            return Err(format!(
                "{what}, although {holders} silos have it (lost by a power loss: {})",
                entry.lost_once
            ));
        }
        Ok(())
    }

    /// All records of a request were answered.
    pub fn answered(
        &mut self,
        now: u64,
        stamp: Stamp,
        durable: bool,
        holders: impl Fn(&Ledger, Stamp) -> usize,
    ) -> Result<(), String> {
        let later: Vec<(Epoch, Vote)> =
            self.chapters.range(stamp.epoch.next()..).filter_map(|(e, chapter)| Some((*e, chapter.choice?))).collect();
        let Some(entry) = self.entry_mut(stamp) else { return Err(format!("{stamp:?} was answered and never sent")) };
        entry.answered = Some(now);
        entry.safe |= durable;
        let entry = entry.clone();
        for (epoch, vote) in later {
            if !self.contains(vote, stamp) {
                self.judge(vote, stamp, &entry, holders(self, stamp))?;
                if let Some(chapter) = self.chapters.get_mut(&epoch) {
                    chapter.excused.insert(stamp);
                }
            }
        }
        Ok(())
    }

    /// The client of a record was told that it took too long: if it was seen, and then lost by lawful means, whoever
    /// serves next begins anew.
    pub fn given_up(&mut self, stamp: Stamp) {
        if let Some(entry) = self.entry_mut(stamp) {
            entry.given_up = true;
        }
    }

    /// Whether a majority has it on its disks, by what was answered.
    pub fn is_safe(&self, stamp: Stamp) -> bool {
        self.chapters.get(&stamp.epoch).and_then(|c| c.entries.get(&stamp.seq)).is_some_and(|entry| entry.safe)
    }

    /// A majority adopted the epoch, with its data synced: what is in its history is durable for good.
    pub fn adopted(&mut self, epoch: Epoch) {
        let Some(vote) = self.choice(epoch) else { return };
        self.make_safe(vote, |_| true);
    }

    /// A flush of this epoch's writer was answered: of its history, what fits is durable.
    pub fn flushed(&mut self, epoch: Epoch, covers: impl Fn(&Entry) -> bool) {
        self.make_safe(self.end(epoch), covers);
    }

    fn make_safe(&mut self, vote: Vote, covers: impl Fn(&Entry) -> bool) {
        for (epoch, upto) in self.chain(vote) {
            let Some(chapter) = self.chapters.get_mut(&epoch) else { continue };
            for (_, entry) in chapter.entries.range_mut(..=upto) {
                entry.safe |= covers(entry);
            }
        }
    }

    /// A silo lost its power and with it what lies between these two of its votes.
    pub fn lost(&mut self, before: Vote, after: Vote) -> Result<usize, String> {
        let gone: Vec<Stamp> = self.stamps(before).into_iter().filter(|stamp| !self.contains(after, *stamp)).collect();
        for stamp in &gone {
            if let Some(entry) = self.entry_mut(*stamp) {
                entry.lost_once = true;
            }
        }
        if let Some(grown) = self.stamps(after).into_iter().find(|stamp| !self.contains(before, *stamp)) {
            return Err(format!("after a crash the silo votes {after:?} and has {grown:?}, before it was {before:?}"));
        }
        Ok(gone.len())
    }

    /// The same after a crash in the middle of a call, of which it is not known what it had done.
    pub fn lost_at_most(&mut self, before: Vote, after: Vote) {
        let gone: Vec<Stamp> = self.stamps(before).into_iter().filter(|stamp| !self.contains(after, *stamp)).collect();
        for stamp in gone {
            if let Some(entry) = self.entry_mut(stamp) {
                entry.lost_once = true;
            }
        }
    }

    /// The end of an epoch's own history.
    pub fn end(&self, epoch: Epoch) -> Vote {
        let Some(chapter) = self.chapters.get(&epoch) else { return Vote::default() };
        let base = chapter.choice.unwrap_or_default().applied;
        Vote { adopted: epoch, applied: chapter.entries.last_key_value().map_or(base, |(seq, _)| *seq) }
    }

    /// The epochs that a history is made of, each with its last number, the newest first.
    fn chain(&self, vote: Vote) -> Vec<(Epoch, Seq)> {
        let mut chain = Vec::new();
        let mut at = vote;
        while let Some(chapter) = self.chapters.get(&at.adopted) {
            chain.push((at.adopted, at.applied));
            let Some(parent) = chapter.choice else { break };
            at = Vote { adopted: parent.adopted, applied: parent.applied.min(at.applied) };
        }
        chain
    }

    pub fn contains(&self, vote: Vote, stamp: Stamp) -> bool {
        self.chain(vote).iter().any(|(epoch, upto)| {
            *epoch == stamp.epoch && stamp.seq <= *upto && self.chapters[epoch].entries.contains_key(&stamp.seq)
        })
    }

    fn stamps(&self, vote: Vote) -> Vec<Stamp> {
        let mut stamps: Vec<Stamp> = Vec::new();
        for (epoch, upto) in self.chain(vote) {
            stamps.extend(self.chapters[&epoch].entries.range(..=upto).map(|(seq, _)| Stamp::new(epoch, *seq)));
        }
        stamps.sort_unstable();
        stamps
    }

    /// What the blocks of a silo with this history must be.
    pub fn content(&self, vote: Vote) -> BTreeMap<u64, Block> {
        let mut blocks = BTreeMap::new();
        for stamp in self.stamps(vote) {
            let entry = &self.chapters[&stamp.epoch].entries[&stamp.seq];
            for index in 0..entry.blocks {
                if entry.trim {
                    blocks.remove(&(entry.first_block + index));
                } else {
                    blocks.insert(entry.first_block + index, (stamp, entry.tags[index as usize]));
                }
            }
        }
        blocks
    }

    /// Compares a silo's digest with its history.
    pub fn compare(&self, vote: Vote, digest: &BTreeMap<u64, (Stamp, u32)>) -> Result<(), String> {
        let expected = self.content(vote);
        let all: BTreeSet<u64> = expected.keys().chain(digest.keys()).copied().collect();
        for block in all {
            match (expected.get(&block), digest.get(&block)) {
                (Some((stamp, tags)), Some((has, crc))) => {
                    if stamp != has {
                        return Err(format!("block {block} has version {has:?} and should have {stamp:?}"));
                    }
                    if crc32c::crc32c(&block_content(block, tags)) != *crc {
                        return Err(format!("block {block} of version {stamp:?} has other bytes than {tags:?}"));
                    }
                }
                (Some((stamp, _)), None) => return Err(format!("block {block} of version {stamp:?} is absent")),
                (None, Some((has, _))) => {
                    return Err(format!("block {block} has version {has:?} and should be absent"));
                }
                (None, None) => {}
            }
        }
        Ok(())
    }

    /// The sectors of what this epoch, which now serves, lawfully left out, and no epoch that served before it; and whether
    /// any of it had been answered.
    pub fn settle(&mut self, epoch: Epoch) -> (BTreeSet<u64>, bool) {
        let (mut sectors, mut was_answered) = (BTreeSet::new(), false);
        let Some(chapter) = self.chapters.get(&epoch) else { return (sectors, false) };
        let fresh: Vec<Stamp> = chapter.excused.difference(&self.settled).copied().collect();
        for stamp in &fresh {
            let Some(entry) = self.chapters.get(&stamp.epoch).and_then(|c| c.entries.get(&stamp.seq)) else { continue };
            let first = entry.first_block * BLOCK_SECTORS;
            sectors.extend(first..first + entry.blocks * BLOCK_SECTORS);
            was_answered |= entry.answered.is_some();
        }
        self.settled.extend(fresh);
        (sectors, was_answered)
    }

    fn entries(&self) -> impl Iterator<Item = (Stamp, &Entry)> {
        self.chapters
            .iter()
            .flat_map(|(epoch, chapter)| chapter.entries.iter().map(|(seq, entry)| (Stamp::new(*epoch, *seq), entry)))
    }

    fn entry_mut(&mut self, stamp: Stamp) -> Option<&mut Entry> {
        self.chapters.get_mut(&stamp.epoch)?.entries.get_mut(&stamp.seq)
    }
}

impl Entry {
    fn of(record: &Record, previous: Seq, op: Tag) -> Result<Self, String> {
        let header = &record.header;
        let (first_block, blocks) = (header.first_block(), header.block_count());
        let mut tags = Vec::new();
        if header.kind == RecordKind::Write {
            let zeroes = record.payload.is_empty();
            for index in 0..blocks {
                let mut block = [0; BLOCK_SECTORS as usize];
                if !zeroes {
                    let at = (index * BLOCK_BYTES) as usize;
                    let bytes = &record.payload[at..at + BLOCK_BYTES as usize];
                    block.copy_from_slice(&tags_of((first_block + index) * BLOCK_BYTES, bytes)?);
                }
                tags.push(block);
            }
        }
        let trim = header.kind == RecordKind::Trim;
        Ok(Self {
            op,
            previous,
            first_block,
            blocks,
            trim,
            tags,
            answered: None,
            given_up: false,
            safe: false,
            lost_once: false,
        })
    }
}
