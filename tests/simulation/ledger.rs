//! What really happened, as an observer sees it who hears every message: each slot's history by epoch, who has how much
//! of it, and what was promised about it. From this follows what a silo's blocks must be, down to stamps and checksums,
//! and which answered writes a recovery may leave out: those that were never flushed, and that a power loss took from
//! so many silos that no majority has them.

use std::collections::{BTreeMap, BTreeSet};

use infinit::base::block::BLOCK_BYTES;
use infinit::base::id::{Epoch, Seq, Stamp};
use infinit::base::record::{Record, RecordKind};
use infinit::store::slot::Vote;

use super::workload::{BLOCK_SECTORS, Tag, tags_of};

const ZEROES: [u8; BLOCK_BYTES as usize] = [0; BLOCK_BYTES as usize];

/// One record of a slot's stream.
#[derive(Clone, Debug)]
pub struct Entry {
    pub op: Tag,
    pub previous: Seq,
    pub first_block: u64,
    pub blocks: u64,
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
    /// Those of them that no flush covers yet.
    unflushed: BTreeSet<Seq>,
    /// Answered writes that this history lacks, lawfully.
    excused: BTreeSet<Stamp>,
}

/// What a block is: its version, and the tag of each sector.
pub type Block = (Stamp, [Tag; BLOCK_SECTORS as usize]);

/// What a record made of one block.
#[derive(Clone, Copy, Debug)]
struct Version {
    stamp: Stamp,
    /// None where it was trimmed.
    data: Option<Data>,
}

#[derive(Clone, Copy, Debug)]
struct Data {
    tags: [Tag; BLOCK_SECTORS as usize],
    crc: u32,
}

/// The epochs that a history is made of, each with its last number, the newest first.
struct Chain(Vec<(Epoch, Seq)>);

impl Chain {
    fn reaches(&self, stamp: Stamp) -> bool {
        let at = self.0.binary_search_by(|(epoch, _)| stamp.epoch.cmp(epoch));
        at.is_ok_and(|at| stamp.seq <= self.0[at].1)
    }
}

/// One slot.
#[derive(Default, Debug)]
pub struct Ledger {
    chapters: BTreeMap<Epoch, Chapter>,
    /// By block, whatever was sent for it, in the order of the stamps: what a history says of a block is the last that
    /// it reaches.
    versions: BTreeMap<u64, Vec<Version>>,
    /// What was lawfully lost, and made known by an epoch that served without it.
    settled: BTreeSet<Stamp>,
    /// A silo of the slot may stay out for good: what it alone had beside one without power may be lost.
    pub outsiders: bool,
    pub majority: usize,
}

impl Ledger {
    pub fn new(silos: usize) -> Self {
        Self { majority: silos / 2 + 1, ..Self::default() }
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
        chapter.entries.insert(stamp.seq, Entry::of(record, previous, op(record)));
        chapter.unflushed.insert(stamp.seq);
        self.note_versions(record)?;
        Ok(true)
    }

    fn note_versions(&mut self, record: &Record) -> Result<(), String> {
        let (header, stamp) = (&record.header, record.header.stamp);
        let mut payload = record.payload.chunks_exact(BLOCK_BYTES as usize);
        for block in header.first_block()..header.first_block() + header.block_count() {
            let data = match (header.kind, payload.next()) {
                (RecordKind::Write, Some(bytes)) => {
                    let mut tags = [0; BLOCK_SECTORS as usize];
                    tags.copy_from_slice(&tags_of(block * BLOCK_BYTES, bytes)?);
                    Some(Data { tags, crc: crc32c::crc32c(bytes) })
                }
                (RecordKind::Write, None) => {
                    Some(Data { tags: [0; BLOCK_SECTORS as usize], crc: crc32c::crc32c(&ZEROES) })
                }
                _ => None,
            };
            let versions = self.versions.entry(block).or_default();
            // An older epoch's writer may still send while a newer one writes.
            let at = versions.iter().rposition(|version| version.stamp < stamp).map_or(0, |at| at + 1);
            versions.insert(at, Version { stamp, data });
        }
        Ok(())
    }

    pub fn choice(&self, epoch: Epoch) -> Option<Vote> {
        self.chapters.get(&epoch)?.choice
    }

    /// A writer chose a history, and the silos would vote `standing`. Every answered write must be in it, but for those
    /// that may be lost, and for those of later writers.
    pub fn chosen(&mut self, epoch: Epoch, vote: Vote, standing: &[Vote]) -> Result<(), String> {
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
        let chain = self.chain(vote);
        let mut excused = BTreeSet::new();
        let missing = self.entries().filter(|(stamp, _)| stamp.epoch < epoch && !chain.reaches(*stamp));
        for (stamp, entry) in missing {
            if entry.answered.is_some() || entry.safe {
                self.judge(vote, stamp, entry, standing)?;
                excused.insert(stamp);
            } else if entry.given_up && self.judge(vote, stamp, entry, standing).is_ok() {
                excused.insert(stamp);
            }
        }
        let chapter = self.chapters.entry(epoch).or_default();
        chapter.choice = Some(vote);
        chapter.excused = excused;
        Ok(())
    }

    /// An error unless this history may lack this write, while the silos would vote `standing`.
    fn judge(&self, vote: Vote, stamp: Stamp, entry: &Entry, standing: &[Vote]) -> Result<(), String> {
        let inherited = self.chain(vote).0.iter().any(|(epoch, _)| self.chapters[epoch].excused.contains(&stamp));
        if inherited && !entry.safe {
            return Ok(());
        }
        let what = format!("{stamp:?} of request {} is not in the chosen history {vote:?}", entry.op);
        if entry.safe {
            return Err(format!("{what}, although it was durable on a majority"));
        }
        let holders = standing.iter().filter(|vote| self.contains(**vote, stamp)).count();
        let may_be_lost = entry.lost_once || self.outsiders;
        if !may_be_lost || holders >= self.majority {
            return Err(format!(
                "{what}, although {holders} silos have it (lost by a power loss: {})",
                entry.lost_once
            ));
        }
        Ok(())
    }

    /// All records of a request were answered, while the silos would vote `standing`.
    pub fn answered(&mut self, now: u64, stamp: Stamp, durable: bool, standing: &[Vote]) -> Result<(), String> {
        let later: Vec<(Epoch, Vote)> =
            self.chapters.range(stamp.epoch.next()..).filter_map(|(e, chapter)| Some((*e, chapter.choice?))).collect();
        let Some(entry) = self.entry_mut(stamp) else { return Err(format!("{stamp:?} was answered and never sent")) };
        entry.answered = Some(now);
        entry.safe |= durable;
        let entry = entry.clone();
        for (epoch, vote) in later {
            if !self.contains(vote, stamp) {
                self.judge(vote, stamp, &entry, standing)?;
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
        for (epoch, upto) in self.chain(vote).0 {
            let Some(Chapter { entries, unflushed, .. }) = self.chapters.get_mut(&epoch) else { continue };
            let covered = unflushed.extract_if(..=upto, |seq| entries.get(seq).is_some_and(&covers));
            for seq in covered.collect::<Vec<_>>() {
                entries.entry(seq).and_modify(|entry| entry.safe = true);
            }
        }
    }

    /// A silo lost its power and with it what lies between these two of its votes.
    pub fn lost(&mut self, before: Vote, after: Vote) -> Result<usize, String> {
        let lost = self.lost_at_most(before, after);
        let had = self.chain(before);
        if let Some(grown) = self.stamps(after).find(|stamp| !had.reaches(*stamp)) {
            return Err(format!("after a crash the silo votes {after:?} and has {grown:?}, before it was {before:?}"));
        }
        Ok(lost)
    }

    /// The same after a crash in the middle of a call, of which it is not known what it had done.
    pub fn lost_at_most(&mut self, before: Vote, after: Vote) -> usize {
        let has = self.chain(after);
        let gone: Vec<Stamp> = self.stamps(before).filter(|stamp| !has.reaches(*stamp)).collect();
        for stamp in &gone {
            if let Some(entry) = self.entry_mut(*stamp) {
                entry.lost_once = true;
            }
        }
        gone.len()
    }

    /// The end of an epoch's own history.
    pub fn end(&self, epoch: Epoch) -> Vote {
        let Some(chapter) = self.chapters.get(&epoch) else { return Vote::default() };
        let base = chapter.choice.unwrap_or_default().applied;
        Vote { adopted: epoch, applied: chapter.entries.last_key_value().map_or(base, |(seq, _)| *seq) }
    }

    fn chain(&self, vote: Vote) -> Chain {
        let mut chain = Vec::new();
        let mut at = vote;
        while let Some(chapter) = self.chapters.get(&at.adopted) {
            chain.push((at.adopted, at.applied));
            let Some(parent) = chapter.choice else { break };
            at = Vote { adopted: parent.adopted, applied: parent.applied.min(at.applied) };
        }
        Chain(chain)
    }

    fn contains(&self, vote: Vote, stamp: Stamp) -> bool {
        let is_known = self.chapters.get(&stamp.epoch).is_some_and(|chapter| chapter.entries.contains_key(&stamp.seq));
        is_known && self.chain(vote).reaches(stamp)
    }

    /// The records of a history.
    fn stamps(&self, vote: Vote) -> impl Iterator<Item = Stamp> {
        let of =
            |(epoch, upto)| self.chapters[&epoch].entries.range(..=upto).map(move |(seq, _)| Stamp::new(epoch, *seq));
        self.chain(vote).0.into_iter().flat_map(of)
    }

    /// What a history says of the blocks that were ever written: the last version of each that it reaches.
    fn blocks(&self, vote: Vote) -> impl Iterator<Item = (u64, Stamp, Data)> {
        let chain = self.chain(vote);
        self.versions.iter().filter_map(move |(block, versions)| {
            let version = versions.iter().rfind(|version| chain.reaches(version.stamp))?;
            Some((*block, version.stamp, version.data?))
        })
    }

    /// What the blocks of a silo with this history must be.
    pub fn content(&self, vote: Vote) -> BTreeMap<u64, Block> {
        self.blocks(vote).map(|(block, stamp, data)| (block, (stamp, data.tags))).collect()
    }

    /// Compares a silo's digest with its history.
    pub fn compare(&self, vote: Vote, digest: &BTreeMap<u64, (Stamp, u32)>) -> Result<(), String> {
        let mut matched = 0;
        for (block, stamp, Data { tags, crc }) in self.blocks(vote) {
            match digest.get(&block) {
                Some((has, _)) if *has != stamp => {
                    return Err(format!("block {block} has version {has:?} and should have {stamp:?}"));
                }
                Some((_, has)) if *has != crc => {
                    return Err(format!("block {block} of version {stamp:?} has other bytes than {tags:?}"));
                }
                Some(_) => matched += 1,
                None => return Err(format!("block {block} of version {stamp:?} is absent")),
            }
        }
        if matched == digest.len() {
            return Ok(());
        }
        let expected = self.content(vote);
        let surplus = digest.iter().find(|(block, _)| !expected.contains_key(block));
        surplus
            .map_or(Ok(()), |(block, (has, _))| Err(format!("block {block} has version {has:?} and should be absent")))
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
    fn of(record: &Record, previous: Seq, op: Tag) -> Self {
        Self {
            op,
            previous,
            first_block: record.header.first_block(),
            blocks: record.header.block_count(),
            answered: None,
            given_up: false,
            safe: false,
            lost_once: false,
        }
    }
}
