//! What cleaning costs, on the real disk: run by `tests/bench/cleaning`, which says where and how large.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::*;
use crate::store::disk::{Disk, RealDisk};
use crate::store::space::SpaceReport;

/// Blocks of one append, and appends between two syncs.
const BATCH: u64 = 8;
const SYNC_EVERY: u64 = 4;

/// What one run came to.
struct Outcome {
    space: SpaceReport,
    /// The longest that 99 % of the appends took, of the worst second and on the whole.
    worst_p99: Duration,
    p99: Duration,
    elapsed: Duration,
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

fn percentile(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times.get(times.len() * 99 / 100).copied().unwrap_or_default()
}

/// As the service's background thread does it.
fn chores(silo: &Silo, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        if silo.checkpoint_due() {
            silo.checkpoint().unwrap();
        } else if silo.tidy_due() {
            silo.tidy().unwrap();
        }
        let began = Instant::now();
        let (cleaned, urgency) = (silo.clean().unwrap(), silo.urgency());
        let rest = match cleaned.more && urgency > 0.0 {
            true => began.elapsed().mul_f64((1.0 - urgency) / urgency),
            false => Duration::from_millis(50),
        };
        std::thread::park_timeout(rest.min(Duration::from_secs(1)));
    }
}

/// Lets the background thread end, also when an assertion fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Fills a silo to a part of what it holds, then writes over `bytes` of it at random.
fn run(capacity_bytes: u64, blocks: u64, bytes: u64) -> Outcome {
    let folder = tempfile::tempdir_in(std::env::var("INFINIT_BENCH_DIR").unwrap_or("/tmp".to_owned())).unwrap();
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(folder.path()));
    Silo::format(disk.clone(), SILO).unwrap();
    let silo = Silo::open(disk, SiloOptions::new(capacity_bytes, Incarnation(1), [1; 16])).unwrap();
    silo.commit(&[commit(SlotState { adopted: Epoch(1), ..SlotState::default() }, Change::Keep)]).unwrap();
    let stop = AtomicBool::new(false);
    let mut outcome = None;
    std::thread::scope(|scope| {
        scope.spawn(|| chores(&silo, &stop));
        let _stop = Stop(&stop);
        let (mut seq, mut puts) = (0, 0u64);
        let mut put = |firsts: &[u64], count: u64| {
            let mut records = Vec::new();
            for first in firsts {
                seq += 1;
                records.push(Op { stamp: stamp(1, seq), first: *first, count, kind: Kind::Data }.record());
            }
            let began = Instant::now();
            silo.append(&records).unwrap();
            let spent = began.elapsed();
            puts += 1;
            if puts.is_multiple_of(SYNC_EVERY) {
                silo.sync().unwrap();
                silo.set_committed(KEY, Seq(seq)).unwrap();
            }
            assert!(silo.takes_writes(0), "{:?}", silo.space());
            spent
        };
        for first in (0..blocks / 32).map(|run| run * 32) {
            put(&[first], 32);
        }
        let (before, began) = (silo.space(), Instant::now());
        let mut chooser = Chooser::new(7);
        let (mut all, mut second, mut worst_p99, mut until) = (Vec::new(), Vec::new(), Duration::ZERO, 1);
        for _ in 0..bytes / BLOCK_BYTES / BATCH {
            let firsts: Vec<u64> = (0..BATCH).map(|_| chooser.below(blocks)).collect();
            second.push(put(&firsts, 1));
            if began.elapsed().as_secs() >= until {
                worst_p99 = worst_p99.max(percentile(&mut second));
                all.append(&mut second);
                until = began.elapsed().as_secs() + 1;
            }
        }
        all.append(&mut second);
        let (after, elapsed) = (silo.space(), began.elapsed());
        let space = SpaceReport {
            written_bytes: after.written_bytes - before.written_bytes,
            moved_bytes: after.moved_bytes - before.moved_bytes,
            removed_segments: after.removed_segments - before.removed_segments,
            ..after
        };
        outcome = Some(Outcome { space, worst_p99, p99: percentile(&mut all), elapsed });
    });
    outcome.unwrap()
}

#[test]
#[ignore = "measures; run by tests/bench/cleaning"]
fn cleaning_at_eighty_percent() {
    let capacity = number("INFINIT_BENCH_MIB", 2048) << 20;
    let percent = number("INFINIT_BENCH_PERCENT", 80);
    let blocks = capacity * percent / 100 / BLOCK_BYTES;
    let bytes = 5 * (capacity - blocks * BLOCK_BYTES);
    for (what, room) in [("without cleaning", 1 << 40), ("with cleaning", capacity)] {
        let Outcome { space, worst_p99, p99, elapsed } = run(room, blocks, bytes);
        let amplification = 1.0 + space.moved_bytes as f64 / space.written_bytes as f64;
        eprintln!(
            "{what}: {} MiB written over in {:.1} s, write amplification {amplification:.2}, {} segments removed, \
             p99 of an append of {BATCH} blocks {p99:.1?}, in the worst second {worst_p99:.1?}, {} MiB of {} MiB used",
            bytes >> 20,
            elapsed.as_secs_f64(),
            space.removed_segments,
            space.used_bytes >> 20,
            room >> 20,
        );
    }
}
