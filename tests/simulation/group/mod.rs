//! The cluster group in simulation: real members (openraft, the log in redb on a disk in memory that fails, the state
//! machine, the keeper of the membership) in one thread on virtual time, with everything that may go wrong drawn from one
//! seed.
//!
//! - [`cluster`] is what all share: the members' processes, started and ended. [`network`] carries their messages, [`disk`]
//!   keeps their logs, [`faults`] is what goes wrong and how it ends, [`temper`] what a schedule is like, [`clients`] who
//!   proposes and reads.
//! - [`history`] judges: what each member applied, what its state was then, and what clients were answered.
//!
//! A failure prints its seed, the command that replays it, and the last events; `INFINIT_SEED` and the other variables of
//! [`super`] work here too.

mod clients;
pub mod cluster;
mod disk;
mod faults;
mod history;
mod network;
pub mod temper;

use std::panic::{AssertUnwindSafe, catch_unwind};

use infinit::cluster::consensus::runtime::simulated::{self, Simulation};

use super::dice::Dice;
use super::{Run, Schedules, digests_of_two_processes, panic_text};
use cluster::Cluster;
use temper::{SECOND, Temper};

/// About half a minute on one core.
const SEEDS: u64 = 300;

fn run(seed: u64, traced: bool) -> Run {
    run_with(seed, traced, |_| {})
}

/// Runs one seed, its temper changed after it was drawn.
pub fn run_with(seed: u64, traced: bool, steer: impl FnOnce(&mut Temper)) -> Run {
    let mut dice = Dice::new(seed);
    let mut temper = Temper::draw(&mut dice);
    steer(&mut temper);
    let text = format!("{temper:?}");
    let simulation = Simulation::start(dice.next());
    let cluster = Cluster::new(temper, dice, traced);
    cluster.note(|| text);
    let panic = catch_unwind(AssertUnwindSafe(|| live(&simulation, &cluster))).err();
    let panicked = panic.map(|panic| format!("panicked: {}", panic_text(panic.as_ref())));
    let digest = simulation.digest();
    // What members do while they are dropped is of no interest.
    let ending = catch_unwind(AssertUnwindSafe(move || drop(simulation))).err();
    let mut shared = cluster.shared();
    let nodes = std::mem::take(&mut shared.nodes);
    let ended = ending.map(|panic| format!("panicked at the end: {}", panic_text(panic.as_ref())));
    let run = Run {
        failure: shared.failure.take().or(panicked).or(ended),
        digest: (digest, shared.trace.events),
        lines: shared.trace.lines.take().unwrap_or_default(),
        counts: std::mem::take(&mut shared.counts),
    };
    drop(shared);
    // The members hold the network, and it holds them.
    drop(nodes);
    run
}

/// Lets everything happen until the schedule has ended well, or not.
fn live(simulation: &Simulation, cluster: &Cluster) {
    cluster.found(Cluster::go_on);
    let limit = cluster.shared().temper.limit_ns();
    loop {
        let goes_on = simulation.step(limit);
        for (host, event) in simulation.overheard() {
            cluster.overhear(host, event);
        }
        let shared = cluster.shared();
        if shared.failure.is_some() || shared.finished {
            return;
        }
        drop(shared);
        if !goes_on {
            return cluster.fail(format!("nothing ended within {} s", simulated::now_ns() / SECOND));
        }
    }
}

#[test]
fn schedules_agree_on_one_history_and_end_well() {
    let faults = temper::FAULTS.iter().map(|(fault, _)| fault.name()).collect();
    Schedules { test: "group::schedules", seeds: SEEDS, faults, run }.check();
}

#[test]
fn the_same_seed_gives_the_same_events() {
    for seed in [2, 71] {
        assert_eq!(run(seed, false).digest, run(seed, true).digest, "seed {seed}");
    }
    assert_ne!(run(2, false).digest, run(3, false).digest);
}

/// Addresses, hash seeds, the time of day and the environment differ between processes; the events do not.
#[test]
fn another_process_sees_the_same_events() {
    digests_of_two_processes(module_path!(), [4, 13], |seed| run(seed, false).digest);
}
