//! A silo's scrubber: a pass over all that it holds every two weeks, at a bounded rate, scrubs of single volumes that
//! people ask for, at once and as fast as the disk gives, and what becomes of the damage.
//!
//! A damaged block is told to the writer of its volume, which has it repaired from another silo (`writer/repairs.rs`);
//! while no writer is attached it is remembered, across restarts too, and told to the next one. Told again and again until it is whole: a
//! writer may have no copy to give just then. No clock and no thread of its own: the host calls [`Scrubber::step`].

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::id::{SlotKey, VolumeId};
use crate::cluster::replication::scrub_request::{DamagedRun, ScrubRequests, Stage, runs};
use crate::store::error::StoreError;
use crate::store::scrub::{ScrubCursor, ScrubNote, ScrubStep};
use crate::store::silo::Silo;

/// From the end of one pass to the beginning of the next.
pub const PASS_EVERY: Duration = Duration::from_secs(14 * 24 * 3600);
/// The most that a pass reads a second: little beside what disks give. 1 TiB takes 15 hours.
pub const BYTES_A_SECOND_MAX: u64 = 20 << 20;
/// Read by one step.
const STEP_BYTES: usize = 1 << 20;
/// How often damage is looked at again, and told again if it is still there; while somebody waits for it, too.
const TELL_EVERY: Duration = Duration::from_secs(2);
const TELL_EVERY_WAITED_FOR: Duration = Duration::from_secs(1);
/// How often it is looked whether a pass is due.
const IDLE: Duration = Duration::from_secs(60);
/// Bytes after which the state is saved: what a restart reads again at the most.
const SAVE_EVERY_BYTES: u64 = 1 << 30;
/// Damaged blocks that are remembered. A pass leaves the others to the next one; a scrub that was asked for waits for
/// repairs before it reads on.
const DAMAGED_MAX: usize = 4096;
/// More than one step finds.
const DAMAGED_A_STEP_MAX: usize = 512;
/// A scrub that was asked for ends once no block has become whole for so long: far beyond what a repair takes.
pub const GIVE_UP_AFTER: Duration = Duration::from_secs(10);

/// How a silo's scrub stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubReport {
    /// A pass is under way.
    pub running: bool,
    /// Verified by the present pass, or the last one.
    pub scrubbed_bytes: u64,
    /// What there is to verify now.
    pub total_bytes: u64,
    /// When the last pass ended, in seconds of wall time.
    pub finished_at: Option<u64>,
    /// Damaged blocks that were found since the silo was made, and of them those that are whole again.
    pub found: u64,
    pub repaired: u64,
    /// Damaged blocks known now, and the first runs of them.
    pub damaged: u64,
    pub runs: Vec<DamagedRun>,
}

/// What a step asks of the host.
#[derive(Debug)]
pub struct Next {
    /// Blocks to tell their volumes' writers.
    pub tell: Vec<(SlotKey, u64)>,
    /// When to call again.
    pub pause: Duration,
}

/// The scrub of one volume that is under way.
struct Asked {
    volume: VolumeId,
    /// Where it goes on; nothing once all was read.
    cursor: Option<ScrubCursor>,
    /// Damaged blocks that it came across, and those of them that could not be remembered.
    damaged: u64,
    forgotten: u64,
    /// When damage was last found or repaired.
    progress_at: u64,
}

/// The scrubber of one silo.
pub struct Scrubber {
    silo: Arc<Silo>,
    note: ScrubNote,
    saved_bytes: u64,
    requests: ScrubRequests,
    asked: Option<Asked>,
    damaged: BTreeSet<(SlotKey, u64)>,
    /// Damage was found since it was last noted.
    unsaved: bool,
    told_at: u64,
    report: Arc<Mutex<ScrubReport>>,
}

impl Scrubber {
    /// Goes on where the silo's last life was; a silo that has never been scrubbed is due in two weeks.
    pub fn new(silo: Arc<Silo>, now_s: u64) -> Self {
        let never = || (ScrubNote { finished_at: now_s, ..ScrubNote::default() }, Vec::new());
        let (note, damaged) = silo.load_scrub_note().unwrap_or_else(never);
        let scrubber = Self {
            silo,
            saved_bytes: note.bytes,
            note,
            requests: ScrubRequests::default(),
            asked: None,
            damaged: damaged.into_iter().collect(),
            unsaved: false,
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

    /// Where others ask for a volume's scrub.
    pub fn requests(&self) -> ScrubRequests {
        self.requests.clone()
    }

    /// The host says how long the last step took: it is the time that a scrub's rate is told by.
    pub fn spent(&self, time: Duration) {
        if let Some(Asked { volume, cursor: Some(_), .. }) = &self.asked {
            self.requests.change(*volume, |request| request.busy_ms += time.as_millis() as u64);
        }
    }

    /// Does a little. `now_s` is wall time in seconds; `has_writer` says whether a volume's writer is connected.
    pub fn step(&mut self, now_s: u64, has_writer: &dyn Fn(VolumeId) -> bool) -> Next {
        if let Some(fault) = self.silo.faulted() {
            self.stop(&StoreError::Faulted(fault.clone()));
            self.tell_report();
            return Next { tell: Vec::new(), pause: IDLE };
        }
        let next = match self.work(now_s, has_writer) {
            Ok((pause, tell)) if self.damaged.is_empty() => Next { tell, pause },
            Ok((pause, tell)) => Next { tell, pause: pause.min(self.tell_every()) },
            Err(error) => {
                tracing::error!("the scrub of silo {} stopped: {error}", self.silo.id().short());
                self.stop(&error);
                Next { tell: Vec::new(), pause: IDLE }
            }
        };
        self.tell_report();
        next
    }

    fn stop(&mut self, why: &StoreError) {
        self.note.cursor = None;
        self.asked = None;
        self.requests.fail_all(&why.to_string());
    }

    fn work(
        &mut self,
        now_s: u64,
        has_writer: &dyn Fn(VolumeId) -> bool,
    ) -> Result<(Duration, Vec<(SlotKey, u64)>), StoreError> {
        self.take_cleanings_damage()?;
        self.begin_asked(now_s)?;
        let pause = match self.asked.take() {
            Some(mut asked) => {
                let result = self.advance_asked(&mut asked, now_s, has_writer);
                self.asked = Some(asked);
                result?
            }
            None => self.advance(now_s)?,
        };
        let tell = self.look_again(now_s)?;
        self.judge_asked(now_s, has_writer);
        Ok((pause, tell))
    }

    /// Cleaning reads as well, and what it finds damaged is repaired as what the scrub finds.
    fn take_cleanings_damage(&mut self) -> Result<(), StoreError> {
        for (key, block) in self.silo.take_damaged() {
            if !self.silo.is_whole(key, block)? {
                self.remember(key, block);
            }
        }
        Ok(())
    }

    /// Whether the block is remembered; none is that would be one too many.
    fn remember(&mut self, key: SlotKey, block: u64) -> bool {
        if self.damaged.contains(&(key, block)) {
            return true;
        }
        if self.damaged.len() >= DAMAGED_MAX {
            return false;
        }
        self.damaged.insert((key, block));
        self.note.found += 1;
        self.unsaved = true;
        self.told_at = 0;
        true
    }

    /// Takes the next request, if none is under way.
    fn begin_asked(&mut self, now_s: u64) -> Result<(), StoreError> {
        if self.asked.is_some() {
            return Ok(());
        }
        let Some(volume) = self.requests.next() else { return Ok(()) };
        // What is in memory only is on the disk as well, and is to be verified too.
        self.silo.checkpoint()?;
        let total_bytes = self.silo.scrub_bytes(volume)?;
        self.requests.change(volume, |request| {
            request.stage = Stage::Reading;
            request.total_bytes = total_bytes;
        });
        let cursor = Some(ScrubCursor::default());
        self.asked = Some(Asked { volume, cursor, damaged: 0, forgotten: 0, progress_at: now_s });
        Ok(())
    }

    /// One step of a scrub that was asked for.
    fn advance_asked(
        &mut self,
        asked: &mut Asked,
        now_s: u64,
        has_writer: &dyn Fn(VolumeId) -> bool,
    ) -> Result<Duration, StoreError> {
        let Some(cursor) = asked.cursor else { return Ok(TELL_EVERY_WAITED_FOR) };
        let crowded = self.damaged.len() + DAMAGED_A_STEP_MAX > DAMAGED_MAX;
        if crowded && !asked.is_stuck(now_s, has_writer) {
            return Ok(TELL_EVERY_WAITED_FOR);
        }
        let step = self.silo.scrub(cursor, Some(asked.volume), STEP_BYTES)?;
        let (found, forgotten) = self.take_damage(&step);
        asked.damaged += found;
        asked.forgotten += forgotten;
        if found > 0 {
            asked.progress_at = now_s;
        }
        asked.cursor = step.next;
        self.requests.change(asked.volume, |request| {
            request.checked_bytes += step.bytes;
            request.damaged = asked.damaged;
            if step.next.is_none() {
                request.stage = Stage::Repairing;
            }
        });
        Ok(Duration::ZERO)
    }

    /// Tells how the scrub that was asked for stands, and ends it when nothing more can come of it.
    fn judge_asked(&mut self, now_s: u64, has_writer: &dyn Fn(VolumeId) -> bool) {
        let Some(asked) = &self.asked else { return };
        let of_volume = || self.damaged.iter().filter(|(key, _)| key.volume == asked.volume);
        let remembered = of_volume().count() as u64;
        let left = runs(of_volume());
        let unrepaired = remembered + asked.forgotten;
        let over = asked.cursor.is_none() && (remembered == 0 || asked.is_stuck(now_s, has_writer));
        self.requests.change(asked.volume, |request| {
            // Damage of the volume that was known before counts as found by this scrub too.
            request.damaged = asked.damaged.max(unrepaired);
            request.repaired = request.damaged - unrepaired;
            request.left = left;
            if over {
                request.stage = Stage::Done { had_writer: has_writer(asked.volume) };
            }
        });
        if over {
            self.save();
            self.asked = None;
        }
    }

    /// One step of a pass, if one is due.
    fn advance(&mut self, now_s: u64) -> Result<Duration, StoreError> {
        let due = now_s.saturating_sub(self.note.finished_at) >= PASS_EVERY.as_secs();
        if self.note.cursor.is_none() && due {
            self.note.cursor = Some(ScrubCursor::default());
            self.note.bytes = 0;
            self.saved_bytes = 0;
        }
        let Some(cursor) = self.note.cursor else { return Ok(IDLE) };
        if cursor == ScrubCursor::default() {
            // What is in memory only is on the disk as well, and is to be verified too.
            self.silo.checkpoint()?;
        }
        let step = self.silo.scrub(cursor, None, STEP_BYTES)?;
        self.take_damage(&step);
        self.note.bytes += step.bytes;
        self.note.cursor = step.next;
        if step.next.is_none() {
            self.note.finished_at = now_s;
            self.note.passes += 1;
        }
        if step.next.is_none() || self.note.bytes - self.saved_bytes >= SAVE_EVERY_BYTES {
            self.save();
        }
        Ok(Duration::from_nanos(step.bytes * 1_000_000_000 / BYTES_A_SECOND_MAX))
    }

    /// Remembers what a step found; how much that was, and how much of it could not be remembered.
    fn take_damage(&mut self, step: &ScrubStep) -> (u64, u64) {
        let mut forgotten = 0;
        for (key, block, stamp) in &step.damaged {
            let known = self.damaged.contains(&(*key, *block));
            if !self.remember(*key, *block) {
                forgotten += 1;
            } else if !known {
                let (silo, slot) = (self.silo.id().short(), key.slot);
                tracing::warn!("silo {silo}: block {block} of slot {slot}, version {stamp:?}, is damaged");
            }
        }
        (step.damaged.len() as u64, forgotten)
    }

    fn tell_every(&self) -> Duration {
        if self.asked.is_some() { TELL_EVERY_WAITED_FOR } else { TELL_EVERY }
    }

    /// Which of the damaged blocks are damaged still.
    fn look_again(&mut self, now_s: u64) -> Result<Vec<(SlotKey, u64)>, StoreError> {
        let told = self.told_at > 0 && now_s.saturating_sub(self.told_at) < self.tell_every().as_secs();
        if self.damaged.is_empty() || told {
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
            if let Some(asked) = &mut self.asked {
                asked.progress_at = now_s;
            }
        }
        if self.unsaved || !whole.is_empty() {
            self.save();
        }
        Ok(self.damaged.iter().copied().collect())
    }

    fn save(&mut self) {
        self.saved_bytes = self.note.bytes;
        self.unsaved = false;
        let damaged: Vec<(SlotKey, u64)> = self.damaged.iter().copied().collect();
        if let Err(error) = self.silo.save_scrub_note(&self.note, &damaged) {
            // The next life reads some of it again.
            tracing::warn!("silo {} cannot note how far its scrub has come: {error}", self.silo.id().short());
        }
    }

    fn tell_report(&self) {
        let report = ScrubReport {
            running: self.note.cursor.is_some(),
            scrubbed_bytes: self.note.bytes,
            total_bytes: self.silo.scrub_bytes_all(),
            finished_at: (self.note.passes > 0).then_some(self.note.finished_at),
            found: self.note.found,
            repaired: self.note.repaired,
            damaged: self.damaged.len() as u64,
            runs: runs(&self.damaged),
        };
        *self.report.lock().unwrap_or_else(PoisonError::into_inner) = report;
    }
}

impl Asked {
    /// Whether no repair is to be hoped for now.
    fn is_stuck(&self, now_s: u64, has_writer: &dyn Fn(VolumeId) -> bool) -> bool {
        !has_writer(self.volume) || now_s.saturating_sub(self.progress_at) >= GIVE_UP_AFTER.as_secs()
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

    fn attached(_: VolumeId) -> bool {
        true
    }

    fn detached(_: VolumeId) -> bool {
        false
    }

    /// Flips a bit of the only version of a block.
    fn decay(disk: &FaultyDisk, seq: u64) {
        let contents = disk.contents("segment-00000001").unwrap();
        let at = contents.windows(4096).position(|window| window == [seq as u8; 4096]).unwrap() as u64;
        // Every 256th block has the same bytes: the first of them is the lowest.
        disk.flip_bit("segment-00000001", at + 9, 1);
    }

    /// Steps until the scrub that was asked for has read all there is; what was told.
    fn read_all(scrubber: &mut Scrubber, now_s: u64, has_writer: &dyn Fn(VolumeId) -> bool) -> Vec<(SlotKey, u64)> {
        let mut told = Vec::new();
        loop {
            let next = scrubber.step(now_s, has_writer);
            told.extend(next.tell);
            if scrubber.asked.as_ref().is_none_or(|asked| asked.cursor.is_none()) {
                return told;
            }
            assert_eq!(next.pause, Duration::ZERO, "a scrub that was asked for is not held back");
        }
    }

    /// Steps until the pass ends; how long it would have taken, and what was told.
    fn pass(scrubber: &mut Scrubber, now_s: u64) -> (Duration, Vec<(SlotKey, u64)>) {
        let (mut taken, mut told) = (Duration::ZERO, Vec::new());
        loop {
            let next = scrubber.step(now_s, &attached);
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
        assert_eq!(scrubber.step(100 * DAY + 5, &attached).pause, IDLE);
        assert!(!scrubber.report.lock().unwrap().running);
        let (taken, told) = pass(&mut scrubber, 115 * DAY);
        let report = scrubber.report.lock().unwrap().clone();
        assert!(report.scrubbed_bytes > 1000 * 4096 && told.is_empty());
        assert_eq!((report.finished_at, report.found, report.damaged), (Some(115 * DAY), 0, 0));
        // The last step's pause is not part of it.
        let least = Duration::from_secs_f64((report.scrubbed_bytes - (2 << 20)) as f64 / BYTES_A_SECOND_MAX as f64);
        assert!(taken >= least, "{taken:?} for {} bytes", report.scrubbed_bytes);
        assert!(!scrubber.report.lock().unwrap().running);
        assert_eq!(scrubber.step(128 * DAY, &attached).pause, IDLE);
        assert!(scrubber.step(130 * DAY, &attached).pause < IDLE, "the next one is due");
    }

    #[test]
    fn a_restart_goes_on_where_the_pass_was() {
        let (disk, silo) = silo();
        let mut scrubber = Scrubber::new(silo.clone(), 0);
        scrubber.step(20 * DAY, &attached);
        scrubber.step(20 * DAY, &attached);
        scrubber.save();
        let before = scrubber.note;
        assert!(before.cursor.is_some() && before.bytes > 0);
        drop((scrubber, silo));
        disk.crash(crate::store::faulty::Crash::Process);
        assert_eq!(Scrubber::new(opened(&disk, 2), 21 * DAY).note, before);
    }

    #[test]
    fn a_scrub_that_was_asked_for_reads_the_volume_and_the_index_and_tells_damage_until_it_is_repaired() {
        let (disk, silo) = silo();
        decay(&disk, 77);
        let mut scrubber = Scrubber::new(silo.clone(), 0);
        let requests = scrubber.requests();
        requests.add(KEY.volume);
        assert_eq!(read_all(&mut scrubber, 10, &attached), [(KEY, 77)]);
        let request = requests.of(KEY.volume).unwrap();
        assert_eq!((request.stage.clone(), request.damaged, request.repaired), (Stage::Repairing, 1, 0));
        assert_eq!(request.checked_bytes, request.total_bytes);
        assert!(request.total_bytes > 1000 * 4096);
        assert_eq!(request.left, [DamagedRun { key: KEY, first_block: 77, blocks: 1 }]);
        assert_eq!(scrubber.step(10, &attached).tell, [], "not at once again");
        assert_eq!(scrubber.step(11, &attached).tell, [(KEY, 77)]);
        silo.repair(&record(77)).unwrap();
        assert_eq!(scrubber.step(13, &attached).tell, []);
        let request = requests.of(KEY.volume).unwrap();
        assert_eq!((request.stage, request.damaged, request.repaired), (Stage::Done { had_writer: true }, 1, 1));
        assert_eq!(request.left, []);
        let report = scrubber.report.lock().unwrap().clone();
        assert_eq!((report.found, report.repaired, report.damaged, report.finished_at), (1, 1, 0, None));
        assert_eq!(scrubber.step(14, &attached).pause, IDLE);
    }

    #[test]
    fn without_a_writer_a_scrub_ends_at_once_and_the_damage_is_told_to_the_next() {
        let (disk, silo) = silo();
        decay(&disk, 77);
        let mut scrubber = Scrubber::new(silo.clone(), 0);
        let requests = scrubber.requests();
        requests.add(KEY.volume);
        read_all(&mut scrubber, 10, &detached);
        let request = requests.of(KEY.volume).unwrap();
        assert_eq!((request.stage, request.damaged, request.repaired), (Stage::Done { had_writer: false }, 1, 0));
        let report = scrubber.report.lock().unwrap().clone();
        assert_eq!((report.damaged, report.runs), (1, vec![DamagedRun { key: KEY, first_block: 77, blocks: 1 }]));
        let again = Scrubber::new(silo.clone(), 0);
        assert_eq!(again.damaged, BTreeSet::from([(KEY, 77)]), "a restart does not forget it");
        let next = scrubber.step(13, &detached);
        assert_eq!((next.tell, next.pause), (vec![(KEY, 77)], TELL_EVERY));
        silo.repair(&record(77)).unwrap();
        let next = scrubber.step(16, &attached);
        assert_eq!((next.tell, next.pause), (vec![], IDLE));
        assert_eq!(Scrubber::new(silo.clone(), 0).damaged.len(), 0);
        // A scrub of a volume that is not here verifies the index only.
        requests.add(VolumeId([9; 16]));
        read_all(&mut scrubber, 20, &detached);
        let request = requests.of(VolumeId([9; 16])).unwrap();
        assert_eq!((request.stage, request.damaged), (Stage::Done { had_writer: false }, 0));
        assert_eq!(request.checked_bytes, request.total_bytes);
    }

    #[test]
    fn what_nobody_repairs_is_left_and_named() {
        let (disk, silo) = silo();
        decay(&disk, 77);
        decay(&disk, 78);
        let mut scrubber = Scrubber::new(silo, 0);
        let requests = scrubber.requests();
        requests.add(KEY.volume);
        read_all(&mut scrubber, 10, &attached);
        let over = |scrubber: &mut Scrubber, now_s| {
            scrubber.step(now_s, &attached);
            requests.of(KEY.volume).unwrap().is_over()
        };
        assert!(!over(&mut scrubber, 10 + GIVE_UP_AFTER.as_secs() - 1));
        assert!(over(&mut scrubber, 10 + GIVE_UP_AFTER.as_secs()));
        let request = requests.of(KEY.volume).unwrap();
        assert_eq!((request.stage, request.damaged, request.repaired), (Stage::Done { had_writer: true }, 2, 0));
        assert_eq!(request.left, [DamagedRun { key: KEY, first_block: 77, blocks: 2 }]);
    }

    #[test]
    fn more_damage_than_is_remembered_waits_for_repairs_or_is_counted() {
        let (disk, silo) = silo();
        decay(&disk, 77);
        let mut scrubber = Scrubber::new(silo, 0);
        let elsewhere = |block| (SlotKey { volume: VolumeId([2; 16]), slot: SlotIndex(0) }, block);
        scrubber.damaged = (0..DAMAGED_MAX as u64).map(elsewhere).collect();
        // None of these is read again in this test.
        scrubber.told_at = 10;
        let requests = scrubber.requests();
        requests.add(KEY.volume);
        assert_eq!(scrubber.step(10, &attached).pause, TELL_EVERY_WAITED_FOR);
        assert_eq!(requests.of(KEY.volume).unwrap().checked_bytes, 0);
        // Nobody repairs them: it is read on, and what is found is counted only.
        read_all(&mut scrubber, 10, &detached);
        let request = requests.of(KEY.volume).unwrap();
        assert_eq!((request.stage, request.damaged, request.repaired), (Stage::Done { had_writer: false }, 1, 0));
        assert_eq!(request.left, []);
    }

    #[test]
    fn a_damaged_index_ends_the_scrub_and_the_silo() {
        let (disk, silo) = silo();
        let mut scrubber = Scrubber::new(silo.clone(), 0);
        let requests = scrubber.requests();
        requests.add(KEY.volume);
        read_all(&mut scrubber, 1, &attached);
        let pages = disk.contents("index.redb").unwrap().len() as u64 / 4096;
        for page in 0..pages {
            disk.flip_bit("index.redb", page * 4096 + 30, 0);
        }
        requests.add(KEY.volume);
        while silo.faulted().is_none() {
            scrubber.step(3, &attached);
        }
        assert!(silo.faulted().unwrap().cause.contains("index.redb"));
        let Stage::Failed(why) = requests.of(KEY.volume).unwrap().stage else { panic!("it goes on") };
        assert!(why.contains("index.redb"), "{why}");
        assert_eq!(scrubber.step(4, &attached).pause, IDLE);
        // One that is asked for now ends as well.
        requests.add(KEY.volume);
        scrubber.step(5, &attached);
        assert!(requests.of(KEY.volume).unwrap().is_over());
    }
}
