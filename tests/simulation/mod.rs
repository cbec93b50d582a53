//! The replication protocol in simulation: real writers and real silos (acceptor, keeper and store, on a disk in memory
//! that fails) in one thread, on one virtual clock, with everything that may go wrong drawn from one seed.
//!
//! - [`world`] is the clock and the queue of events, [`network`] the connections, [`silos`] and [`writers`] the hosts,
//!   [`faults`] and [`disks`] what goes wrong and how it ends, [`temper`] what a schedule is like, [`workload`] what clients ask for.
//! - [`register`] judges what clients were answered, and knows nothing of how it came about. [`ledger`] overhears every
//!   message and judges each choice of a history, and each silo's blocks, byte for byte.
//! - [`mutants`] proves the teeth: deliberate bugs, each found within a stated number of seeds.
//! - [`group`] is the cluster group, in a simulation of its own. In some schedules [`control`] puts a real one into the
//!   world, where it grants the epochs; in the others these come from a counter.
//! - [`golden`] plays scripts: the schedules in which a wrong variant of the protocol would lose or resurrect writes.
//!
//! A failure prints its seed, the command that replays it, and the last events. `INFINIT_SEED=n` runs one seed alone,
//! `INFINIT_TRACE=1` prints all of its events, `INFINIT_SEEDS=n` runs more than the default, `INFINIT_FIRST=n` begins
//! elsewhere, `INFINIT_EVERY=n` leaves those between out. The long run, on all processors, with its progress on stderr
//! and a summary in one line at the end:
//!
//! ```text
//! INFINIT_SEEDS=100000 cargo test --release --lib simulation::schedules -- --nocapture
//! ```
//!
//! Clocks drift, and boot when they like; that the time of day jumps is no fault here, because nothing of what runs here
//! can read it: `tests/tidy.rs` sees to that.

mod control;
mod dice;
mod disks;
mod faults;
mod golden;
mod group;
mod ledger;
mod moves;
mod mutants;
mod network;
mod register;
mod seeds;
mod silos;
mod temper;
mod trace;
mod workload;
mod world;
mod writers;

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;

use control::Control;
use dice::Dice;
use temper::{FAULTS, FAULTS_BESIDE, Temper};
use world::World;

/// Enough to meet every fault in every company, in a minute and a half of one processor.
const SEEDS: u64 = 1000;
/// One in so many seeds has a real cluster group: each takes longer.
const GOVERNED_EVERY: u64 = 16;
/// Lines of the trace that a failure shows.
const LINES: usize = 120;

struct Run {
    failure: Option<String>,
    digest: (u64, u64),
    lines: Vec<String>,
    counts: BTreeMap<&'static str, u64>,
}

fn run(seed: u64, traced: bool) -> Run {
    run_with(seed, traced, |_| {})
}

/// Runs one seed, its temper changed after it was drawn.
fn run_with(seed: u64, traced: bool, steer: impl FnOnce(&mut Temper)) -> Run {
    let mut dice = Dice::new(seed);
    let mut temper = Temper::draw(&mut dice);
    temper.governed = seed.is_multiple_of(GOVERNED_EVERY);
    steer(&mut temper);
    let control = temper.governed.then(|| Control::found(&mut dice, temper.shape.silos, traced)).transpose();
    let mut world = World::new(temper, dice, traced);
    match control {
        Ok(control) => world.control = control,
        Err(why) => world.fail(why),
    }
    let text = format!("{:?}", world.temper);
    world.note(|| text);
    let panic = catch_unwind(AssertUnwindSafe(|| world.live())).err();
    let panicked = panic.map(|panic| panic_text(panic.as_ref()));
    if let Some(control) = world.control.take() {
        world.trace.mix(&[control.digest()]);
        control.counts().into_iter().for_each(|(what, count)| *world.counts.entry(what).or_default() += count);
    }
    Run {
        failure: world.failure.take().or(panicked.map(|text| format!("panicked: {text}"))),
        digest: (world.trace.digest, world.trace.events),
        lines: world.trace.lines.take().unwrap_or_default(),
        counts: std::mem::take(&mut world.counts),
    }
}

/// What a panic says.
fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// A kind of schedules: what its test is called, how its faults are, and how one seed of it runs.
struct Schedules<R> {
    test: &'static str,
    seeds: u64,
    faults: Vec<&'static str>,
    run: R,
}

impl<R: Fn(u64, bool) -> Run + Sync> Schedules<R> {
    /// Runs all seeds, or the one that the environment asks for, and shows the first that fails.
    fn check(&self) {
        if let Some(seed) = number("INFINIT_SEED") {
            let traced = number("INFINIT_TRACE").is_some();
            let run = (self.run)(seed, traced);
            if traced && run.failure.is_none() {
                println!("{}", run.lines.join("\n"));
            }
            println!("seed {seed}: {:?}, {} events", run.counts, run.digest.1);
            assert!(run.failure.is_none(), "{}", self.show(seed, &run.failure.unwrap_or_default()));
            return;
        }
        let first = number("INFINIT_FIRST").unwrap_or(1);
        let every = number("INFINIT_EVERY").unwrap_or(1).max(1);
        let seeds = first..first + number("INFINIT_SEEDS").unwrap_or(self.seeds) * every;
        let tally = seeds::run_all(seeds, every, &self.faults, |seed| (self.run)(seed, false));
        println!("{tally}");
        if let Some((seed, failure)) = tally.failed.first_key_value() {
            panic!("{}\n{tally}\nseeds that failed: {:?}", self.show(*seed, failure), tally.failed.keys());
        }
    }

    fn show(&self, seed: u64, failure: &str) -> String {
        let again = (self.run)(seed, true);
        let all = number("INFINIT_TRACE").is_some();
        let skipped = if all { 0 } else { again.lines.len().saturating_sub(LINES) };
        let lines = again.lines[skipped..].join("\n");
        format!(
            "seed {seed} failed: {failure}\n{lines}\n\nseed {seed} failed: {failure}\nreplay it with\n    \
             INFINIT_SEED={seed} cargo test --release --lib simulation::{}\nINFINIT_TRACE=1 prints all {} events.",
            self.test,
            again.lines.len()
        )
    }
}

#[test]
fn schedules_lose_nothing_and_end_well() {
    let faults = FAULTS.iter().chain(&FAULTS_BESIDE).map(|(fault, _)| fault.name()).collect();
    Schedules { test: "schedules", seeds: SEEDS, faults, run }.check();
}

#[test]
fn the_same_seed_gives_the_same_events() {
    for seed in [3, 14, 159, GOVERNED_EVERY] {
        assert_eq!(run(seed, false).digest, run(seed, true).digest, "seed {seed}");
    }
    assert_ne!(run(3, false).digest, run(4, false).digest);
}

/// Addresses, hash seeds, the time of day and the environment differ between processes; the events do not.
#[test]
fn another_process_sees_the_same_events() {
    digests_of_two_processes(module_path!(), [14, 5 * GOVERNED_EVERY], |seed| run(seed, false).digest);
}

/// The body of the test `another_process_sees_the_same_events` in a module, which runs itself in other processes.
fn digests_of_two_processes(module: &str, seeds: [u64; 2], digest: impl Fn(u64) -> (u64, u64)) {
    let told = |seed, digest: (u64, u64)| format!("digest of seed {seed}: {digest:?}");
    if let Some(seed) = number("INFINIT_DIGEST") {
        println!("{}", told(seed, digest(seed)));
        return;
    }
    let (_, path) = module.split_once("::").unwrap();
    let test = format!("{path}::another_process_sees_the_same_events");
    for seed in seeds {
        let here = told(seed, digest(seed));
        for other in ["1", "2"] {
            let mut process = Command::new(std::env::current_exe().unwrap());
            process.args(["--exact", &test, "--nocapture"]).env("INFINIT_DIGEST", seed.to_string());
            let output = process.env("INFINIT_PROCESS", other).output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(text.contains(&here), "{here} here, and there:\n{text}");
        }
    }
}
