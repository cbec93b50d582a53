//! A disk in memory that fails as disks do, from a seed: for the store's own tests and for the simulation of a cluster.
//!
//! Each file has what the processes see (the page cache) and what would survive a power loss. An unsynced write, cut
//! or extension is, at a power loss, kept, lost or torn at 512 bytes, each by itself, so order is lost too; so are
//! unsynced creations and removals. A process crash keeps everything that was written. After either, old handles and
//! the old lock are dead, and the directory can be opened anew.
//!
//! A failed sync behaves as on Linux: the pages count as clean from then on, so a later sync succeeds although they
//! may never have reached the disk.

mod content;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::store::disk::{Disk, DiskFile, DiskLock};
use crate::store::faulty::content::{Dice, Inode};

/// How a machine goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// The process dies; the operating system keeps what was written.
    Process,
    /// The machine loses power; what was not synced is lost in part.
    Power,
}

/// The disk. Clones are the same disk.
#[derive(Clone)]
pub struct FaultyDisk {
    state: Arc<Mutex<State>>,
}

struct State {
    dice: Dice,
    /// Handles of an earlier life of the machine are dead.
    life: u64,
    /// Set between a scheduled crash and [`FaultyDisk::restart`]: nothing works.
    down: Option<Crash>,
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    locked: bool,
    operations: u64,
    crash_at: Option<(u64, Crash)>,
    failing_syncs: Option<u64>,
    failing_writes: Option<u64>,
    capacity_bytes: Option<u64>,
    /// From this operation on there is no space for anything.
    full_at: Option<u64>,
    creates_nothing: bool,
    unreadable: BTreeMap<String, Vec<Range<u64>>>,
    loses_all: bool,
}

impl FaultyDisk {
    /// An empty disk without faults; the seed decides what a power loss spares.
    pub fn new(seed: u64) -> Self {
        let state = State {
            dice: Dice::new(seed),
            life: 0,
            down: None,
            inodes: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            locked: false,
            operations: 0,
            crash_at: None,
            failing_syncs: None,
            failing_writes: None,
            capacity_bytes: None,
            full_at: None,
            creates_nothing: false,
            unreadable: BTreeMap::new(),
            loses_all: false,
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// The machine goes down and comes up again at once.
    pub fn crash(&self, crash: Crash) {
        let mut state = self.state();
        state.down = Some(crash);
        state.restart();
    }

    /// Crashes at the given operation that changes something, counted from now (0: the next one). A write under way
    /// is torn. From then on everything fails until [`FaultyDisk::restart`].
    pub fn crash_after(&self, operations: u64, crash: Crash) {
        let mut state = self.state();
        state.crash_at = Some((state.operations + operations, crash));
    }

    /// Comes up after a scheduled crash; forgets a schedule that was not reached.
    pub fn restart(&self) {
        let mut state = self.state();
        state.crash_at = None;
        state.restart();
    }

    /// From here on a power loss takes all that was not synced, and not what chance says.
    pub fn lose_all_unsynced(&self) {
        self.state().loses_all = true;
    }

    /// Whether a scheduled crash has happened.
    pub fn is_down(&self) -> bool {
        self.state().down.is_some()
    }

    /// How many operations that change something were done.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// The sync after `syncs` more of them fails, once.
    pub fn fail_sync_after(&self, syncs: u64) {
        self.state().failing_syncs = Some(syncs);
    }

    /// The write after `writes` more of them fails, once.
    pub fn fail_write_after(&self, writes: u64) {
        self.state().failing_writes = Some(writes);
    }

    /// The disk is full once its files take so many bytes; `None` is no limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity_bytes = bytes;
    }

    /// Others fill the disk to its last byte after so many operations that change something, counted from now; `None`
    /// gives the space back.
    pub fn fill_after(&self, operations: Option<u64>) {
        let mut state = self.state();
        state.full_at = operations.map(|operations| state.operations + operations);
    }

    /// Others leave no more than so many bytes of the disk free; `None` gives the space back.
    pub fn fill_up_to(&self, left_bytes: Option<u64>) {
        let mut state = self.state();
        state.capacity_bytes = left_bytes.map(|left| state.used_bytes() + left);
    }

    /// No file can be created, as on a directory that has become read-only, until it can again.
    pub fn refuse_files(&self, refuse: bool) {
        self.state().creates_nothing = refuse;
    }

    /// Reading any of these bytes of this file fails.
    pub fn fail_reads(&self, name: &str, bytes: Range<u64>) {
        self.state().unreadable.entry(name.to_owned()).or_default().push(bytes);
    }

    /// Reads work again everywhere.
    pub fn heal_reads(&self) {
        self.state().unreadable.clear();
    }

    /// Flips one bit of a file for good, as a decaying medium does. False if there is no such byte.
    pub fn flip_bit(&self, name: &str, byte: u64, bit: u8) -> bool {
        let mut state = self.state();
        let Some(&inode) = state.names.get(name) else { return false };
        state.inodes[inode].flip_bit(byte, bit)
    }

    /// Another disk with what the processes see on this one, all of it durable: a backup.
    pub fn copy(&self, seed: u64) -> FaultyDisk {
        let (copy, state) = (FaultyDisk::new(seed), self.state());
        let mut other = copy.state();
        other.inodes = state.inodes.iter().map(Inode::copy).collect();
        other.names.clone_from(&state.names);
        other.durable_names.clone_from(&state.names);
        drop(other);
        copy
    }

    /// The bytes of a file as the processes see them.
    pub fn contents(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.state();
        let inode = &state.inodes[*state.names.get(name)?];
        let mut bytes = vec![0; inode.len() as usize];
        inode.read(&mut bytes, 0).ok()?;
        Some(bytes)
    }

    /// The names of the files that hold data or length changes that a power loss may take.
    pub fn unsynced(&self) -> BTreeSet<String> {
        let state = self.state();
        let dirty = |(name, &inode): (&String, &usize)| state.inodes[inode].is_dirty().then(|| name.clone());
        state.names.iter().filter_map(dirty).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic of one test thread leaves plain data behind; the others may go on and report.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state for an operation of a handle of the given life.
    fn alive(&self, life: u64) -> io::Result<MutexGuard<'_, State>> {
        let state = self.state();
        if state.life != life || state.down.is_some() { Err(gone()) } else { Ok(state) }
    }
}

fn gone() -> io::Error {
    io::Error::other("the machine is down")
}

impl State {
    fn restart(&mut self) {
        let power = self.down.take() == Some(Crash::Power);
        if power && self.loses_all {
            self.names.clone_from(&self.durable_names);
            self.inodes.iter_mut().for_each(Inode::lose_unsynced);
        } else if power {
            let (names, durable) = (self.names.clone(), self.durable_names.clone());
            let changed = names.keys().chain(durable.keys()).collect::<BTreeSet<_>>();
            for name in changed {
                // Each unsynced creation and removal is lost or kept by itself.
                if names.get(name) != durable.get(name) && self.dice.coin() {
                    match durable.get(name) {
                        Some(inode) => self.names.insert(name.clone(), *inode),
                        None => self.names.remove(name),
                    };
                }
            }
            for inode in &mut self.inodes {
                inode.lose_power(&mut self.dice);
            }
            self.durable_names = self.names.clone();
        }
        self.life += 1;
        self.locked = false;
    }

    /// Counts an operation that changes something; fails if the machine crashes at it.
    fn step(&mut self) -> io::Result<()> {
        if self.down.is_some() {
            return Err(gone());
        }
        if let Some((at, crash)) = self.crash_at
            && self.operations >= at
        {
            self.down = Some(crash);
            return Err(gone());
        }
        self.operations += 1;
        Ok(())
    }

    fn used_bytes(&self) -> u64 {
        self.names.values().map(|&inode| self.inodes[inode].allocated_bytes()).sum()
    }

    fn free_bytes(&self) -> u64 {
        if self.full_at.is_some_and(|at| self.operations >= at) {
            return 0;
        }
        self.capacity_bytes.map_or(1 << 50, |capacity| capacity.saturating_sub(self.used_bytes()))
    }

    fn take_space(&self, bytes: u64) -> io::Result<()> {
        if bytes > self.free_bytes() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn check_readable(&self, inode: usize, offset: u64, len: u64) -> io::Result<()> {
        for (name, ranges) in &self.unreadable {
            let hit = ranges.iter().any(|range| offset < range.end && range.start < offset + len);
            if hit && self.names.get(name) == Some(&inode) {
                return Err(io::Error::other("unreadable sector"));
            }
        }
        Ok(())
    }
}

/// Counts down a scheduled fault; true when its turn has come.
fn due(countdown: &mut Option<u64>) -> bool {
    match countdown {
        Some(0) => {
            *countdown = None;
            true
        }
        Some(left) => {
            *left -= 1;
            false
        }
        None => false,
    }
}

impl Disk for FaultyDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        let life = self.state().life;
        Ok(self.alive(life)?.names.keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let life = self.state().life;
        let state = self.alive(life)?;
        let inode = *state.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(FaultyFile { disk: self.clone(), life, inode }))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        state.step()?;
        if state.creates_nothing {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        if state.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = state.inodes.len();
        state.inodes.push(Inode::default());
        state.names.insert(name.to_owned(), inode);
        Ok(Arc::new(FaultyFile { disk: self.clone(), life: state.life, inode }))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        state.names.remove(name).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        let inode = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), inode);
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        if due(&mut state.failing_syncs) {
            return Err(io::Error::other("the directory could not be synced"));
        }
        state.durable_names = state.names.clone();
        Ok(())
    }

    fn lock(&self) -> io::Result<Box<dyn DiskLock>> {
        let mut state = self.state();
        if state.down.is_some() {
            return Err(gone());
        }
        if state.locked {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        state.locked = true;
        Ok(Box::new(FaultyLock { disk: self.clone(), life: state.life }))
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(self.state().free_bytes())
    }
}

struct FaultyLock {
    disk: FaultyDisk,
    life: u64,
}

impl DiskLock for FaultyLock {}

impl Drop for FaultyLock {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        if state.life == self.life {
            state.locked = false;
        }
    }
}

struct FaultyFile {
    disk: FaultyDisk,
    life: u64,
    inode: usize,
}

impl DiskFile for FaultyFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.disk.alive(self.life)?.inodes[self.inode].len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.alive(self.life)?;
        state.step()?;
        state.inodes[self.inode].set_len(len);
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.alive(self.life)?;
        state.step()?;
        state.take_space(len.saturating_sub(state.inodes[self.inode].allocated_bytes()))?;
        state.inodes[self.inode].allocate(len);
        Ok(())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let state = self.disk.alive(self.life)?;
        state.check_readable(self.inode, offset, buffer.len() as u64)?;
        state.inodes[self.inode].read(buffer, offset)
    }

    fn read_at_once(&self, buffer: &mut [u8], offset: u64) -> bool {
        self.read_at(buffer, offset).is_ok()
    }

    fn write_vectored_at(&self, slices: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut data = Vec::with_capacity(slices.iter().map(|slice| slice.len()).sum());
        slices.iter().for_each(|slice| data.extend_from_slice(slice));
        let mut guard = self.disk.alive(self.life)?;
        let state = &mut *guard;
        if let Err(error) = state.step() {
            // The crash came in the middle of this write: a part of it was done.
            let done = state.dice.below(data.len() as u64 / 512 + 1) as usize * 512;
            data.truncate(done);
            state.inodes[self.inode].write(offset, data);
            return Err(error);
        }
        if due(&mut state.failing_writes) {
            return Err(io::Error::other("the write failed"));
        }
        state.take_space(state.inodes[self.inode].missing_bytes(offset, data.len() as u64))?;
        state.inodes[self.inode].write(offset, data);
        Ok(())
    }

    fn write_zeroes(&self, offset: u64, len: u32) -> io::Result<bool> {
        self.write_vectored_at(&mut [IoSlice::new(&vec![0; len as usize])], offset)?;
        self.sync_data()?;
        Ok(true)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut guard = self.disk.alive(self.life)?;
        let state = &mut *guard;
        state.step()?;
        if due(&mut state.failing_syncs) {
            state.inodes[self.inode].fail_sync(&mut state.dice);
            return Err(io::Error::other("the sync failed"));
        }
        state.inodes[self.inode].sync();
        Ok(())
    }

    fn sync_and_forget(&self) -> io::Result<()> {
        self.sync_data()?;
        self.disk.alive(self.life)?.inodes[self.inode].forget_cache();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(file: &Arc<dyn DiskFile>, offset: u64, data: &[u8]) -> io::Result<()> {
        file.write_vectored_at(&mut [IoSlice::new(data)], offset)
    }

    #[test]
    fn a_power_loss_spares_what_was_synced_and_tears_the_rest() {
        let mut outcomes = BTreeSet::new();
        for seed in 0..64 {
            let disk = FaultyDisk::new(seed);
            let file = disk.create("f").unwrap();
            write(&file, 0, &[1; 1024]).unwrap();
            file.sync_data().unwrap();
            disk.sync_dir().unwrap();
            write(&file, 512, &[2; 1024]).unwrap();
            disk.create("never synced").unwrap();
            assert_eq!(disk.unsynced(), BTreeSet::from(["f".to_owned()]));
            disk.crash(Crash::Power);
            assert!(write(&file, 0, &[3]).is_err(), "an old handle must be dead");
            let bytes = disk.contents("f").unwrap();
            assert_eq!(bytes[..512], [1; 512]);
            outcomes.insert((bytes.len(), bytes[512], bytes.get(1024).copied(), disk.list().unwrap().len()));
        }
        assert!(outcomes.len() > 6, "kept, lost and torn must all occur: {outcomes:?}");
    }

    #[test]
    fn a_process_crash_keeps_everything_and_frees_the_lock() {
        let disk = FaultyDisk::new(1);
        let _lock = disk.lock().unwrap();
        assert!(disk.lock().is_err());
        let file = disk.create("f").unwrap();
        write(&file, 0, b"kept").unwrap();
        disk.crash(Crash::Process);
        assert_eq!(disk.contents("f").unwrap(), b"kept");
        assert!(disk.lock().is_ok());
    }

    #[test]
    fn a_failed_sync_is_not_made_good_by_a_later_one() {
        let lost = (0..32).filter(|&seed| {
            let disk = FaultyDisk::new(seed);
            let file = disk.create("f").unwrap();
            disk.sync_dir().unwrap();
            write(&file, 0, &[7; 512]).unwrap();
            disk.fail_sync_after(0);
            assert!(file.sync_data().is_err());
            file.sync_data().unwrap();
            assert_eq!(disk.contents("f").unwrap(), [7; 512], "the page cache still has it");
            disk.crash(Crash::Power);
            disk.contents("f").unwrap() != [7; 512]
        });
        assert!(lost.count() > 4);
    }

    #[test]
    fn a_sync_takes_what_is_seen_and_nothing_that_came_later() {
        let disk = FaultyDisk::new(1);
        let file = disk.create("f").unwrap();
        disk.sync_dir().unwrap();
        write(&file, 0, &[1; 6000]).unwrap();
        file.set_len(5000).unwrap();
        write(&file, 5500, &[2; 4096 * 3]).unwrap();
        file.sync_data().unwrap();
        let synced = disk.contents("f").unwrap();
        assert_eq!((synced[4999], synced[5000], synced[5499], synced[5500]), (1, 0, 0, 2));
        write(&file, 0, &[3; 512]).unwrap();
        disk.crash(Crash::Process);
        assert_eq!(disk.contents("f").unwrap()[..513], [[3; 512].as_slice(), &[1]].concat());
        let left = (0..16).map(|seed| {
            let disk = disk.copy(seed);
            let file = disk.open("f").unwrap();
            write(&file, 512, &[4; 512]).unwrap();
            disk.fail_sync_after(0);
            assert!(file.sync_data().is_err());
            // The page counts as clean: a later sync of the same chunk does not bring it to the disk.
            write(&file, 1024, &[5; 512]).unwrap();
            file.sync_data().unwrap();
            disk.crash(Crash::Power);
            let left = disk.contents("f").unwrap();
            assert_eq!((left[0], left[1024], left[1536]), (3, 5, 1));
            assert_eq!(left[4096..], synced[4096..]);
            left[512]
        });
        assert_eq!(left.collect::<BTreeSet<u8>>(), BTreeSet::from([1, 4]));
    }

    #[test]
    fn a_full_disk_refuses_what_is_not_reserved() {
        let disk = FaultyDisk::new(1);
        disk.set_capacity(Some(16 << 10));
        let file = disk.create("f").unwrap();
        file.allocate(8 << 10).unwrap();
        write(&file, 0, &[1; 8 << 10]).unwrap();
        assert_eq!(write(&file, 8 << 10, &[1; 12 << 10]).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(disk.free_bytes().unwrap(), 8 << 10);
        disk.set_capacity(None);
        disk.fill_up_to(Some(8 << 10));
        assert!(write(&file, 8 << 10, &[1; 12 << 10]).is_err());
        disk.fill_up_to(None);
        write(&file, 8 << 10, &[1; 12 << 10]).unwrap();
    }

    #[test]
    fn a_scheduled_crash_stops_everything_until_the_restart() {
        let disk = FaultyDisk::new(1);
        let file = disk.create("f").unwrap();
        disk.crash_after(1, Crash::Process);
        write(&file, 0, &[1; 4096]).unwrap();
        assert!(write(&file, 4096, &[2; 4096]).is_err());
        assert!(disk.is_down() && disk.create("g").is_err() && disk.open("f").is_err());
        disk.restart();
        let bytes = disk.contents("f").unwrap();
        assert_eq!(bytes[..4096], [1; 4096]);
        assert!(bytes.len().is_multiple_of(512));
        disk.fail_reads("f", 100..101);
        let file = disk.open("f").unwrap();
        assert!(file.read_at(&mut [0; 8], 96).is_err());
        file.read_at(&mut [0; 8], 101).unwrap();
        disk.heal_reads();
        let copy = disk.copy(2);
        assert!(disk.flip_bit("f", 0, 0));
        copy.crash(Crash::Power);
        assert_eq!(copy.contents("f").unwrap()[0], 1, "a copy is another disk");
        assert_eq!(disk.contents("f").unwrap()[0], 0);
    }
}
