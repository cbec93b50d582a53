//! The teeth of the simulation: deliberate bugs, one at a time, each found within a stated number of seeds.
//!
//! A [`Case`] names the bug (see [`infinit::base::mutant`]), how it is looked for, and within how many seeds it must be
//! found, counted from seed 1. So that the default run is short, each search begins at `first`, shortly before the seed
//! that finds it; `INFINIT_MUTANTS=full` begins at 1 and prints how many seeds it takes, `INFINIT_MUTANT=Name` looks for
//! one alone. A schedule that finds a bug must be clean without it: otherwise it proves nothing.
//!
//! A bug that is not found is a hole in the checks or in the faults, to be closed there.

mod catching_up;
mod group;
mod moving;
mod reading;
mod recovery;
mod writing;

use std::panic::{AssertUnwindSafe, catch_unwind};

use infinit::base::mutant::{Mutant, with};

use super::temper::Temper;
use super::{group as cluster_group, number, panic_text, run_with};

/// How a bug is looked for.
#[derive(Clone, Copy)]
pub enum How {
    /// By the schedules that everything is tested with.
    General,
    /// By schedules whose temper is changed after it was drawn; the text says how.
    Steered(&'static str, fn(&mut Temper)),
    /// By the schedules of the cluster group, their temper changed after it was drawn; the text says how.
    Group(&'static str, fn(&mut cluster_group::temper::Temper)),
    /// By one script, which must fail; the text names it. It counts as one seed.
    Script(&'static str, fn()),
}

impl How {
    fn text(self) -> &'static str {
        match self {
            How::General => "any schedule",
            How::Steered(text, _) | How::Group(text, _) | How::Script(text, _) => text,
        }
    }
}

/// One deliberate bug and where it is found.
pub struct Case {
    pub mutant: Mutant,
    pub how: How,
    /// The default search begins with this seed.
    pub first: u64,
    /// The bug must be found by this seed.
    pub seeds_max: u64,
}

/// Found by the general schedules.
pub const fn general(mutant: Mutant, first: u64, seeds_max: u64) -> Case {
    Case { mutant, how: How::General, first, seeds_max }
}

/// Found by general schedules that are steered towards something.
pub const fn steered(mutant: Mutant, text: &'static str, steer: fn(&mut Temper), first: u64, seeds_max: u64) -> Case {
    Case { mutant, how: How::Steered(text, steer), first, seeds_max }
}

/// Found by schedules of the cluster group that are steered towards something.
pub const fn grouped(
    mutant: Mutant,
    text: &'static str,
    steer: fn(&mut cluster_group::temper::Temper),
    first: u64,
    seeds_max: u64,
) -> Case {
    Case { mutant, how: How::Group(text, steer), first, seeds_max }
}

/// Found by a script.
pub const fn script(mutant: Mutant, text: &'static str, play: fn()) -> Case {
    Case { mutant, how: How::Script(text, play), first: 1, seeds_max: 1 }
}

/// What one seed, or the script, says of the product with this bug or with none.
fn failure(how: How, mutant: Option<Mutant>, seed: u64) -> Option<String> {
    with(mutant, || match how {
        How::General => run_with(seed, false, |_| {}).failure,
        How::Steered(_, steer) => run_with(seed, false, steer).failure,
        How::Group(_, steer) => cluster_group::run_with(seed, false, steer).failure,
        How::Script(_, play) => catch_unwind(AssertUnwindSafe(play)).err().map(|panic| panic_text(panic.as_ref())),
    })
}

/// The first seed that finds a bug, and what it says.
fn search(case: &Case, first: u64) -> Option<(u64, String)> {
    (first..=case.seeds_max).find_map(|seed| Some((seed, failure(case.how, Some(case.mutant), seed)?)))
}

/// Looks for each bug of a table, prints where it was found, and fails naming all that were not.
pub fn hunt(cases: &[Case]) {
    let full = std::env::var("INFINIT_MUTANTS").is_ok_and(|value| value == "full");
    let only = std::env::var("INFINIT_MUTANT").ok();
    let mut missed = Vec::new();
    println!("{:<30} {:>7} {:>7}  {:<40} what was found", "mutant", "seed", "within", "found by");
    for case in cases {
        let name = format!("{:?}", case.mutant);
        if only.as_ref().is_some_and(|only| *only != name) {
            continue;
        }
        let first = number("INFINIT_FIRST").unwrap_or(if full { 1 } else { case.first });
        let Some((seed, what)) = search(case, first) else {
            println!("{name:<30} {:>7} {:>7}  {:<40} NOT FOUND", "-", case.seeds_max, case.how.text());
            missed.push(name);
            continue;
        };
        let what: String = what.lines().next().unwrap_or_default().chars().take(150).collect();
        println!("{name:<30} {seed:>7} {:>7}  {:<40} {what}", case.seeds_max, case.how.text());
        if let Some(why) = failure(case.how, None, seed) {
            missed.push(format!("{name} (seed {seed} fails without it too: {why})"));
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}
