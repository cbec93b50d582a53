//! Overwrites of a silo that is nearly full go on for ever, at little more copying than is needed, and nobody waits for long.

use super::cleaning::{MIB, assert_counts, fresh_small, small, write};
use super::*;

/// What one append may have cleaned before it is done: a step for what it owes, and one for what others left.
const MOVED_AT_ONCE_MAX: u64 = 4 * MIB;

/// A silo that is full to a part of what fits, and the load on it.
struct Load {
    silo: Silo,
    capacity: u64,
    chooser: Chooser,
    /// By block: the number of its last write, 0 if it has none.
    newest: Vec<u64>,
    seq: u64,
    /// The most that was moved while one write was appended.
    moved_at_once: u64,
}

impl Load {
    fn at_eighty_percent(silo: Silo, capacity: u64) -> Self {
        let blocks = silo.space().free_bytes * 8 / 10 / BLOCK_BYTES;
        let newest = vec![0; blocks as usize];
        let mut load = Self { silo, capacity, chooser: Chooser::new(7), newest, seq: 0, moved_at_once: 0 };
        for first in (0..blocks - 8).step_by(8) {
            load.put(first, 8);
        }
        load.moved_at_once = 0;
        load
    }

    fn put(&mut self, first: u64, count: u64) {
        self.seq += 1;
        let before = self.silo.space().moved_bytes;
        self.silo.append(&[write(self.seq, first, count).record()]).unwrap();
        self.moved_at_once = self.moved_at_once.max(self.silo.space().moved_bytes - before);
        self.silo.set_committed(KEY, Seq(self.seq)).unwrap();
        if self.silo.checkpoint_due() {
            self.silo.checkpoint().unwrap();
        }
        let space = self.silo.space();
        assert!(self.silo.takes_writes(0), "{space:?}");
        assert!(space.used_bytes <= self.capacity, "{space:?}");
        self.newest[first as usize..(first + count) as usize].fill(self.seq);
    }

    /// Writes single blocks over what is there, five times what is free, and returns the write amplification.
    fn overwrite(&mut self, mut choose: impl FnMut(&mut Chooser, u64) -> u64, cleans: bool) -> f64 {
        let before = self.silo.space();
        let bytes = 5 * (self.capacity - before.live_bytes);
        let blocks = self.newest.len() as u64;
        while self.silo.space().written_bytes - before.written_bytes < bytes {
            let block = choose(&mut self.chooser, blocks);
            self.put(block, 1);
            if cleans && self.silo.urgency() > 0.3 {
                self.silo.clean().unwrap();
            }
        }
        let after = self.silo.space();
        let written = (after.written_bytes - before.written_bytes) as f64;
        let amplification = 1.0 + (after.moved_bytes - before.moved_bytes) as f64 / written;
        eprintln!("write amplification {amplification:.2}, {} bytes moved at once", self.moved_at_once);
        amplification
    }

    fn verify(&self) {
        for (block, seq) in self.newest.iter().enumerate().filter(|(_, seq)| **seq > 0) {
            let run = self.silo.read(KEY, block as u64, 1).unwrap();
            assert!(run.data == content(stamp(1, *seq)), "block {block}");
        }
        assert_counts(&self.silo, "in the end");
    }
}

#[test]
fn a_silo_at_eighty_percent_takes_overwrites_for_ever() {
    let (_, silo) = fresh_small(1, 96 * MIB);
    let mut load = Load::at_eighty_percent(silo, 96 * MIB);
    let amplification = load.overwrite(|chooser, blocks| chooser.below(blocks), true);
    assert!((1.3..5.0).contains(&amplification), "write amplification {amplification:.2}");
    load.verify();
}

/// Where some blocks are written much more often than others, what is old and not quite full is cleaned, and what is
/// young is left to empty by itself. Whoever cleans the emptiest always copies 2.6 bytes and more for each written.
#[test]
fn what_is_written_often_is_seldom_copied() {
    let (_, silo) = fresh_small(1, 96 * MIB);
    let mut load = Load::at_eighty_percent(silo, 96 * MIB);
    let skewed = |chooser: &mut Chooser, blocks: u64| {
        let hot = blocks / 10;
        if chooser.chance(90) { chooser.below(hot) } else { hot + chooser.below(blocks - hot) }
    };
    let amplification = load.overwrite(skewed, true);
    assert!((1.1..3.0).contains(&amplification), "write amplification {amplification:.2}");
    load.verify();
}

/// Nobody cleans but whoever appends: little by little, long before there is no room.
#[test]
fn appends_that_outrun_cleaning_are_slowed_down_little_by_little() {
    let capacity = 160 * MIB;
    let disk = FaultyDisk::new(1);
    Silo::format(Arc::new(disk.clone()), SILO).unwrap();
    let options = SiloOptions { segment_bytes: 4 << 20, ..small(1, capacity) };
    let silo = Silo::open(Arc::new(disk), options).unwrap();
    silo.commit(&[commit(SlotState { adopted: Epoch(1), ..SlotState::default() }, Change::Keep)]).unwrap();
    let mut load = Load::at_eighty_percent(silo, capacity);
    load.overwrite(|chooser, blocks| chooser.below(blocks), false);
    assert!(load.moved_at_once <= MOVED_AT_ONCE_MAX, "{} bytes were moved at once", load.moved_at_once);
    load.verify();
}
