//! What goes wrong with a silo's disk for good: bits that decay, a sync that fails, a blank disk in the place of the old
//! one, an older copy of it. After most of these the silo stays out until somebody replaces it, so that of a slot at most
//! as many are struck as leave a majority.

use std::collections::BTreeSet;
use std::sync::Arc;

use infinit::base::block::BLOCK_BYTES;
use infinit::cluster::replication::writer::report::SiloState;
use infinit::store::disk::Disk;
use infinit::store::faulty::{Crash, FaultyDisk};
use infinit::store::silo::Silo;

use super::temper::{MS, SECOND};
use super::workload::{Tag, block_content};
use super::world::{Event, World, key_of, silo_at};

pub const FAILED_SYNC: &str = "a sync of it fails";
pub const BLANK: &str = "its disk was replaced by a blank one";
/// Others take a disk's last byte after so many of the silo's operations at the most, or leave so many bytes.
const FILLED_WITHIN: u64 = 40;
const LEFT_BYTES_MAX: u64 = 1 << 20;
pub const RESTORED: &str = "its disk was restored from an older copy";

/// A silo's disk as it was before an opening.
pub struct Backup {
    disk: FaultyDisk,
    /// The openings before it.
    life: u64,
}

impl World {
    /// Whether every slot of a silo has a majority of others that are neither out nor decaying: of a block that decayed on
    /// one silo only one more may have a copy.
    fn can_spare(&self, silo: usize) -> bool {
        let decays = |at: usize| self.decayed.values().any(|decaying| *decaying == at);
        let is_struck = |at: usize| at == silo || decays(at) || self.silos[at].out.is_some();
        let bears = |silos: &Vec<usize>| silos.iter().filter(|at| is_struck(**at)).count() <= (silos.len() - 1) / 2;
        self.cluster.slots.iter().flat_map(|slot| [&slot.silos, &slot.wanted]).filter(|s| s.contains(&silo)).all(bears)
    }

    /// Marks a silo as one that may have to stay out.
    fn put_out(&mut self, silo: usize, why: &'static str) -> bool {
        let lawful = self.silos[silo].out.is_none() && self.can_spare(silo);
        if lawful {
            self.note(|| format!("s{}: {why}", silo + 1));
            self.silos[silo].out = Some(why);
            for (slot, placed) in self.cluster.slots.iter().enumerate() {
                self.ledgers[slot].outsiders |= placed.silos.contains(&silo) || placed.wanted.contains(&silo);
            }
            self.count(why);
        }
        lawful
    }

    pub fn fail_sync(&mut self, silo: usize) {
        if self.put_out(silo, FAILED_SYNC) {
            let syncs = self.dice.below(6);
            self.silos[silo].disk.fail_sync_after(syncs);
        }
    }

    /// Others fill the disk for a while, to the last byte in the middle of some call, or nearly.
    pub fn fill_disk(&mut self, silo: usize) {
        let duration = self.dice.between(100 * MS, 3 * SECOND);
        let (to_the_last, after) = (self.dice.chance(600), self.dice.below(FILLED_WITHIN));
        let left = self.dice.below(LEFT_BYTES_MAX);
        let host = &mut self.silos[silo];
        if to_the_last {
            host.disk.fill_after(Some(after));
        } else {
            host.disk.fill_up_to(Some(left));
        }
        host.filled_until = host.filled_until.max(self.now + duration);
        self.note(|| format!("the disk of s{} fills up for {} ms", silo + 1, duration / MS));
        self.at(duration, Event::Freed(silo));
    }

    pub fn free_disk(&mut self, silo: usize) {
        let host = &mut self.silos[silo];
        if host.filled_until > 0 && host.filled_until <= self.now {
            host.filled_until = 0;
            host.disk.fill_after(None);
            host.disk.fill_up_to(None);
            self.note(|| format!("the disk of s{} has space again", silo + 1));
        }
    }

    /// Somebody puts a blank disk where the silo was, and gives it the silo's name.
    pub fn replace_by_blank(&mut self, silo: usize) {
        let known = self.cluster.incarnations.contains_key(&self.silos[silo].id);
        if self.silos[silo].keeper.is_none() || !known || !self.put_out(silo, BLANK) {
            return;
        }
        let disk = FaultyDisk::new(self.dice.next());
        if let Err(error) = Silo::format(Arc::new(disk.clone()), self.silos[silo].id) {
            return self.fail(format!("a blank disk cannot be formatted: {error}"));
        }
        self.exchange(silo, disk);
    }

    /// Somebody restores the silo from a copy that is older than what the cluster state knows.
    pub fn restore_older(&mut self, silo: usize) {
        let host = &self.silos[silo];
        let Some(backup) = host.backup.as_ref().filter(|backup| backup.life < host.confirmed_life) else { return };
        let disk = backup.disk.clone();
        if host.keeper.is_some() && self.put_out(silo, RESTORED) {
            self.exchange(silo, disk);
        }
    }

    fn exchange(&mut self, silo: usize, disk: FaultyDisk) {
        self.crash_silo(silo, Crash::Process);
        self.silos[silo].standing.clear();
        self.silos[silo].filled_until = 0;
        self.silos[silo].disk = disk;
    }

    /// Now and then a copy of a closed silo is made.
    pub fn back_up(&mut self, silo: usize) {
        let may = self.temper.clients > 0 && self.silos[silo].life > 0 && self.silos[silo].backup.is_none();
        if may && self.dice.chance(300) {
            let seed = self.dice.next();
            let host = &mut self.silos[silo];
            host.backup = Some(Backup { disk: host.disk.copy(seed), life: host.life });
        }
    }

    /// A bit of a block decays where one silo has it, and of what a majority has on its disks, so that there is a whole
    /// copy: each block on one silo only, and only where one more may be out. Only what is behind the last checkpoint: a bad
    /// record in the log's tail cannot be told from a torn one, and is for rule 14.
    pub fn flip_bit(&mut self, silo: usize) {
        let shape = &self.temper.shape;
        let out = |silos: &[usize]| silos.iter().filter(|at| self.silos[**at].out.is_some()).count();
        let bears = |silos: &[usize]| out(silos) < (silos.len() - 1) / 2;
        let may = |slot: &usize| shape.slots[*slot].contains(&silo) && bears(&shape.slots[*slot]);
        let slots: Vec<usize> = (0..shape.slots.len()).filter(may).collect();
        let Some(slot) = self.dice.pick(&slots).copied() else { return };
        let host = &self.silos[silo];
        let Some(keeper) = host.keeper.as_ref().filter(|_| host.out.is_none()) else { return };
        let vote = host.standing.get(&key_of(slot)).filter(|standing| standing.complete).map(|standing| standing.vote);
        let (Some(vote), Ok(())) = (vote, keeper.silo().checkpoint()) else { return };
        let ledger = &self.ledgers[slot];
        let is_safe = |stamp, tags: &[Tag]| ledger.is_safe(stamp) && tags.iter().any(|tag| *tag > 0);
        let is_whole = |block| self.decayed.get(&(slot, block)).is_none_or(|decaying| *decaying == silo);
        let mut written: Vec<_> = ledger.content(vote).into_iter().collect();
        written.retain(|(block, (stamp, tags))| is_safe(*stamp, tags) && is_whole(*block));
        let Some((block, (_, tags))) = self.dice.pick(&written).copied() else { return };
        let bytes = block_content(block, &tags);
        let (byte, bit) = (self.dice.below(BLOCK_BYTES), self.dice.below(8) as u8);
        let disk = self.silos[silo].disk.clone();
        let mut flipped = BTreeSet::new();
        for name in disk.list().unwrap_or_default() {
            let Some(contents) = disk.contents(&name) else { continue };
            let heads = contents.windows(8).enumerate().filter(|(_, window)| *window == &bytes[..8]).map(|(at, _)| at);
            for at in heads.filter(|at| contents[*at..].starts_with(&bytes)) {
                if disk.flip_bit(&name, at as u64 + byte, bit) {
                    flipped.insert((name.clone(), at));
                }
            }
        }
        if !flipped.is_empty() {
            self.decays = true;
            self.decayed.insert((slot, block), silo);
            self.count("blocks decayed");
        }
        self.note(|| format!("s{} has a flipped bit in block {block}: {flipped:?}", silo + 1));
    }

    /// What is not the silo that the cluster knows takes part in nothing.
    pub fn check_outsiders(&mut self, at: usize) {
        let is_another = |why: Option<&str>| matches!(why, Some(BLANK | RESTORED));
        if !self.silos.iter().any(|silo| is_another(silo.out)) || !self.writers[at].is_running() {
            return;
        }
        let report = self.writers[at].writer.report(self.moment(self.writers[at].node));
        let mut silos = report.slots.iter().flat_map(|slot| &slot.silos);
        // Until the writer hears that the connection to the old one broke, it may take it for live.
        let counts = |silo: usize| is_another(self.silos[silo].out) && self.leads_to_present(at, silo);
        let wrong = silos.find(|silo| counts(silo_at(silo.silo)) && silo.state == SiloState::Live);
        if let Some(silo) = wrong.map(|silo| silo_at(silo.silo)) {
            let why = self.silos[silo].out.unwrap_or_default();
            self.fail(format!("w{at} counts s{} although {why}", silo + 1));
        }
    }
}
