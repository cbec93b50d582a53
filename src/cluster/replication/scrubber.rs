//! A silo's scrubber: a pass over all that it holds every two weeks, at a bounded rate, and what becomes of the damage.
//!
//! A damaged block is told to the writer of its volume, which has it repaired from another silo (`writer/repairs.rs`);
//! while no writer is attached it is remembered and told to the next one. Told again and again until it is whole: a
//! writer may have no copy to give just then. No clock and no thread of its own: the host calls [`Scrubber::step`].

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::id::SlotKey;
use crate::store::error::StoreError;
use crate::store::scrub::{ScrubCursor, ScrubNote};
use crate::store::silo::Silo;

/// From the end of one pass to the beginning of the next.
pub const PASS_EVERY: Duration = Duration::from_secs(14 * 24 * 3600);
/// The most that a pass reads a second: little beside what disks give. 1 TiB takes 15 hours.
pub const BYTES_A_SECOND_MAX: u64 = 20 << 20;
/// Read by one step.
const STEP_BYTES: usize = 1 << 20;
/// How often damage is looked at again, and told again if it is still there.
const TELL_EVERY: Duration = Duration::from_secs(2);
/// How often it is looked whether a pass is due.
const IDLE: Duration = Duration::from_secs(60);
/// Bytes after which the state is saved: what a restart reads again at the most.
const SAVE_EVERY_BYTES: u64 = 1 << 30;
/// Damaged blocks that are remembered; the next pass finds the others.
const DAMAGED_MAX: usize = 4096;

/// How a silo's scrub stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubReport {
    pub running: bool,
    /// Verified by the present pass, or the last one.
    pub scrubbed_bytes: u64,
    /// When the last pass ended, in seconds of wall time.
    pub finished_at: Option<u64>,
    /// Damaged blocks that were found since the silo was made, and of them those that are whole again.
    pub found: u64,
    pub repaired: u64,
    /// Damaged blocks known now.
    pub damaged: u64,
}

/// What a step asks of the host.
#[derive(Debug)]
pub struct Next {
    /// Blocks to tell their volumes' writers.
    pub tell: Vec<(SlotKey, u64)>,
    /// When to call again.
    pub pause: Duration,
}

/// The scrubber of one silo.
pub struct Scrubber {
    silo: Arc<Silo>,
    note: ScrubNote,
    saved_bytes: u64,
    /// A pass was asked for, and is not held back.
    demanded: bool,
    damaged: BTreeSet<(SlotKey, u64)>,
    told_at: u64,
    report: Arc<Mutex<ScrubReport>>,
}

impl Scrubber {
    /// Goes on where the silo's last life was; a silo that has never been scrubbed is due in two weeks.
    pub fn new(silo: Arc<Silo>, now_s: u64) -> Self {
        let note = silo.load_scrub_note().unwrap_or(ScrubNote { finished_at: now_s, ..ScrubNote::default() });
        let scrubber = Self {
            silo,
            saved_bytes: note.bytes,
            note,
            demanded: false,
            damaged: BTreeSet::new(),
            told_at: 0,
            report: Arc::default(),
        };
        scrubber.tell_report();
        scrubber
    }

    /// Where others see how it stands.
    pub fn report(&self) -> Arc<Mutex<ScrubReport>> {
        self.report.clone()
    }

    /// Begins a pass at once, from the start, as fast as the disk gives.
    pub fn demand(&mut self) {
        self.demanded = true;
        self.note.cursor = None;
        self.begin();
        self.tell_report();
    }

    /// Does a little. `now_s` is wall time in seconds.
    pub fn step(&mut self, now_s: u64) -> Next {
        if self.silo.faulted().is_some() {
            self.note.cursor = None;
            self.demanded = false;
            self.tell_report();
            return Next { tell: Vec::new(), pause: IDLE };
        }
        let result = self.advance(now_s).and_then(|pause| Ok((pause, self.look_again(now_s)?)));
        let next = match result {
            Ok((pause, tell)) if self.damaged.is_empty() => Next { tell, pause },
            Ok((pause, tell)) => Next { tell, pause: pause.min(TELL_EVERY) },
            Err(error) => {
                tracing::error!("the scrub of silo {} stopped: {error}", self.silo.id().short());
                self.note.cursor = None;
                self.demanded = false;
                Next { tell: Vec::new(), pause: IDLE }
            }
        };
        self.tell_report();
        next
    }

    /// One step of a pass, if one is due.
    fn advance(&mut self, now_s: u64) -> Result<Duration, StoreError> {
        let due = now_s.saturating_sub(self.note.finished_at) >= PASS_EVERY.as_secs();
        if self.note.cursor.is_none() && due {
            self.begin();
        }
        let Some(cursor) = self.note.cursor else { return Ok(IDLE) };
        if cursor == ScrubCursor::default() {
            // What is in memory only is on the disk as well, and is to be verified too.
            self.silo.checkpoint()?;
        }
        let step = self.silo.scrub(cursor, None, STEP_BYTES)?;
        for (key, block, stamp) in step.damaged {
            let (silo, slot) = (self.silo.id().short(), key.slot);
            if self.damaged.len() < DAMAGED_MAX && self.damaged.insert((key, block)) {
                tracing::warn!("silo {silo}: block {block} of slot {slot}, version {stamp:?}, is damaged");
                self.note.found += 1;
                self.told_at = 0;
            }
        }
        self.note.bytes += step.bytes;
        self.note.cursor = step.next;
        if step.next.is_none() {
            self.note.finished_at = now_s;
            self.note.passes += 1;
            self.demanded = false;
        }
        if step.next.is_none() || self.note.bytes - self.saved_bytes >= SAVE_EVERY_BYTES {
            self.save();
        }
        let pause = Duration::from_nanos(step.bytes * 1_000_000_000 / BYTES_A_SECOND_MAX);
        Ok(if self.demanded { Duration::ZERO } else { pause })
    }

    fn begin(&mut self) {
        self.note.cursor = Some(ScrubCursor::default());
        self.note.bytes = 0;
        self.saved_bytes = 0;
    }

    /// Which of the damaged blocks are damaged still.
    fn look_again(&mut self, now_s: u64) -> Result<Vec<(SlotKey, u64)>, StoreError> {
        if self.damaged.is_empty() || (self.told_at > 0 && now_s.saturating_sub(self.told_at) < TELL_EVERY.as_secs()) {
            return Ok(Vec::new());
        }
        self.told_at = now_s;
        let mut whole = Vec::new();
        for (key, block) in &self.damaged {
            if self.silo.is_whole(*key, *block)? {
                whole.push((*key, *block));
            }
        }
        for mended in &whole {
            self.damaged.remove(mended);
        }
        if !whole.is_empty() {
            self.note.repaired += whole.len() as u64;
            self.save();
        }
        Ok(self.damaged.iter().copied().collect())
    }

    fn save(&mut self) {
        self.saved_bytes = self.note.bytes;
        if let Err(error) = self.silo.save_scrub_note(&self.note) {
            // The next life reads some of it again.
            tracing::warn!("silo {} cannot note how far its scrub has come: {error}", self.silo.id().short());
        }
    }

    fn tell_report(&self) {
        let report = ScrubReport {
            running: self.note.cursor.is_some(),
            scrubbed_bytes: self.note.bytes,
            finished_at: (self.note.passes > 0).then_some(self.note.finished_at),
            found: self.note.found,
            repaired: self.note.repaired,
            damaged: self.damaged.len() as u64,
        };
        *self.report.lock().unwrap_or_else(PoisonError::into_inner) = report;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::{Epoch, Incarnation, Seq, SiloId, SlotIndex, Stamp, VolumeId};
    use crate::base::record::Record;
    use crate::store::commit::{Change, SlotCommit};
    use crate::store::faulty::FaultyDisk;
    use crate::store::silo::SiloOptions;
    use crate::store::slot::SlotState;

    const KEY: SlotKey = SlotKey { volume: VolumeId([1; 16]), slot: SlotIndex(0) };
    const DAY: u64 = 24 * 3600;

    fn opened(disk: &FaultyDisk, incarnation: u64) -> Arc<Silo> {
        let options = SiloOptions::new(1 << 30, Incarnation(incarnation), [1; 16]);
        Arc::new(Silo::open(Arc::new(disk.clone()), options).unwrap())
    }

    fn record(seq: u64) -> Record {
        Record::write(KEY, seq * 4096, Stamp::new(Epoch(1), Seq(seq)), vec![seq as u8; 4096].into())
    }

    /// A silo with 1,000 blocks.
    fn silo() -> (FaultyDisk, Arc<Silo>) {
        let disk = FaultyDisk::new(1);
        Silo::format(Arc::new(disk.clone()), SiloId([1; 16])).unwrap();
        let silo = opened(&disk, 1);
        let state = SlotState { adopted: Epoch(1), ..SlotState::default() };
        silo.commit(&[SlotCommit { key: KEY, state, change: Change::Keep }]).unwrap();
        silo.append(&(1..=1000).map(record).collect::<Vec<_>>()).unwrap();
        (disk, silo)
    }

    /// Steps until the pass ends; how long it would have taken, and what was told.
    fn pass(scrubber: &mut Scrubber, now_s: u64) -> (Duration, Vec<(SlotKey, u64)>) {
        let (mut taken, mut told) = (Duration::ZERO, Vec::new());
        loop {
            let next = scrubber.step(now_s);
            told.extend(next.tell);
            if !scrubber.report.lock().unwrap().running {
                return (taken, told);
            }
            taken += next.pause;
        }
    }

    #[test]
    fn a_pass_begins_every_two_weeks_and_keeps_to_its_rate() {
        let (_, silo) = silo();
        let mut scrubber = Scrubber::new(silo, 100 * DAY);
        assert_eq!(scrubber.step(100 * DAY + 5).pause, IDLE);
        assert!(!scrubber.report.lock().unwrap().running);
        let (taken, told) = pass(&mut scrubber, 115 * DAY);
        let report = *scrubber.report.lock().unwrap();
        assert!(report.scrubbed_bytes > 1000 * 4096 && told.is_empty());
        assert_eq!((report.finished_at, report.found, report.damaged), (Some(115 * DAY), 0, 0));
        // The last step's pause is not part of it.
        let least = Duration::from_secs_f64((report.scrubbed_bytes - (2 << 20)) as f64 / BYTES_A_SECOND_MAX as f64);
        assert!(taken >= least, "{taken:?} for {} bytes", report.scrubbed_bytes);
        assert!(!scrubber.report.lock().unwrap().running);
        assert_eq!(scrubber.step(128 * DAY).pause, IDLE);
        assert!(scrubber.step(130 * DAY).pause < IDLE, "the next one is due");
    }

    #[test]
    fn a_restart_goes_on_where_the_pass_was() {
        let (disk, silo) = silo();
        let mut scrubber = Scrubber::new(silo.clone(), 0);
        scrubber.step(20 * DAY);
        scrubber.step(20 * DAY);
        scrubber.save();
        let before = scrubber.note;
        assert!(before.cursor.is_some() && before.bytes > 0);
        drop((scrubber, silo));
        disk.crash(crate::store::faulty::Crash::Process);
        assert_eq!(Scrubber::new(opened(&disk, 2), 21 * DAY).note, before);
    }

    #[test]
    fn damage_is_told_until_it_is_repaired_and_counted() {
        let (disk, silo) = silo();
        let contents = disk.contents("segment-00000001").unwrap();
        let at = contents.windows(4096).position(|window| window == [77; 4096]).unwrap() as u64;
        disk.flip_bit("segment-00000001", at + 9, 1);
        let mut scrubber = Scrubber::new(silo.clone(), 0);
        scrubber.demand();
        let (taken, told) = pass(&mut scrubber, 10);
        assert_eq!((taken, told), (Duration::ZERO, vec![(KEY, 77)]), "a pass that was asked for is not held back");
        assert_eq!(scrubber.step(11).tell, [], "not at once again");
        let next = scrubber.step(13);
        assert_eq!((next.tell, next.pause), (vec![(KEY, 77)], TELL_EVERY));
        silo.repair(&record(77)).unwrap();
        let next = scrubber.step(16);
        assert_eq!((next.tell, next.pause), (vec![], IDLE));
        let report = *scrubber.report.lock().unwrap();
        assert_eq!((report.found, report.repaired, report.damaged), (1, 1, 0));
    }

    #[test]
    fn a_damaged_index_ends_the_pass_and_the_silo() {
        let (disk, silo) = silo();
        let mut scrubber = Scrubber::new(silo.clone(), 0);
        scrubber.demand();
        pass(&mut scrubber, 1);
        let pages = disk.contents("index.redb").unwrap().len() as u64 / 4096;
        for page in 0..pages {
            disk.flip_bit("index.redb", page * 4096 + 30, 0);
        }
        scrubber.demand();
        assert_eq!(scrubber.step(2).pause, Duration::ZERO);
        while silo.faulted().is_none() {
            scrubber.step(3);
        }
        assert!(silo.faulted().unwrap().cause.contains("index.redb"));
        assert_eq!(scrubber.step(4).pause, IDLE);
        assert!(!scrubber.report.lock().unwrap().running);
    }
}
