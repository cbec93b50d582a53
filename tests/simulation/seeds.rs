//! Many seeds, each a world of its own, on as many threads as there are processors; and what they come to in one line.

use std::collections::BTreeMap;
use std::fmt;
use std::hint::black_box;
use std::num::NonZero;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::Run;

/// After so many seeds a long run says how far it is.
const TOLD_EVERY: u64 = 1000;
/// glibc's allocator gives memory back and asks for it again all the time, page by page, until it has once seen as much as
/// this freed in one piece; more it does not count.
const KEPT_BYTES: usize = 31 << 20;

/// What came of some seeds.
#[derive(Default)]
pub struct Tally {
    seeds: u64,
    threads: usize,
    took: Duration,
    events: u64,
    counts: BTreeMap<&'static str, u64>,
    /// What of it is faults.
    faults: Vec<&'static str>,
    /// By seed, what was wrong.
    pub failed: BTreeMap<u64, String>,
}

impl Tally {
    fn add(&mut self, seed: u64, run: Run) {
        self.seeds += 1;
        self.events += run.digest.1;
        for (what, count) in run.counts {
            *self.counts.entry(what).or_default() += count;
        }
        if let Some(failure) = run.failure {
            eprintln!("seed {seed} failed: {}", failure.lines().next().unwrap_or_default());
            self.failed.insert(seed, failure);
        }
    }
}

/// Runs every so manieth of these seeds; one that fails stops no other. `faults` says which of the counts are told as faults.
pub fn run_all(seeds: Range<u64>, every: u64, faults: &[&'static str], run: impl Fn(u64) -> Run + Sync) -> Tally {
    drop(black_box(vec![0_u8; KEPT_BYTES]));
    let all = (seeds.end - seeds.start).div_ceil(every);
    let (began, next) = (Instant::now(), AtomicU64::new(seeds.start));
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let tally = Mutex::new(Tally { threads, faults: faults.to_vec(), ..Tally::default() });
    let work = || {
        loop {
            let seed = next.fetch_add(every, Ordering::Relaxed);
            if seed >= seeds.end {
                return;
            }
            let run = run(seed);
            let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
            tally.add(seed, run);
            if tally.seeds.is_multiple_of(TOLD_EVERY) {
                let (done, failed, took) = (tally.seeds, tally.failed.len(), began.elapsed().as_secs());
                eprintln!("{done} of {all} seeds in {took} s, {failed} failed");
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let mut tally = tally.into_inner().unwrap_or_else(PoisonError::into_inner);
    tally.took = began.elapsed();
    tally
}

impl fmt::Display for Tally {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |what: &str| self.counts.get(what).copied().unwrap_or(0);
        let told = |names: &mut dyn Iterator<Item = &str>| {
            names.map(|name| format!("{name} {}", count(name))).collect::<Vec<_>>().join(", ")
        };
        let (seeds, failed, threads) = (self.seeds, self.failed.len(), self.threads);
        let (took, events, answered) = (self.took.as_secs(), self.events, count("answered"));
        write!(out, "{seeds} seeds, {failed} failed, in {took} s on {threads} threads: ")?;
        write!(out, "{events} events, {answered} requests answered; ")?;
        write!(out, "faults: {}; ", told(&mut self.faults.iter().copied()))?;
        let others = self.counts.keys().copied().filter(|name| *name != "answered" && !self.faults.contains(name));
        write!(out, "and so came about: {}", told(&mut { others }))
    }
}
