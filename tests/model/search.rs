//! The search: breadth first, so that the first violation found is one of the shortest, over states that are known by
//! the hash of their canonical bytes.
//!
//! A state is remembered by 64 bits. Among `n` states the chance that two share a hash, and that one of them is wrongly
//! left out, is about `n² / 2^65`: one in 4,000 for a hundred million.

use std::hash::{DefaultHasher, Hasher};
use std::time::{Duration, Instant};

use super::actions::{Action, Model};
use super::properties::Violation;
use super::state::{Packed, State};

/// What a search did.
#[derive(Debug)]
pub struct Report {
    pub states: usize,
    pub steps: u64,
    /// How many actions the longest of the shortest ways has.
    pub depth: usize,
    pub took: Duration,
    /// What the table of states and the two frontiers took at the most.
    pub bytes: usize,
    /// The shortest way to a violation.
    pub found: Option<Trace>,
}

#[derive(Debug)]
pub struct Trace {
    pub actions: Vec<Action>,
    pub violation: Violation,
}

/// Looks at every state within the model's bounds, or until a violation is found.
pub fn search(model: &Model) -> Report {
    let began = Instant::now();
    let mut seen = Table::default();
    let first = State::initial(&model.shape).pack(&model.shape);
    let width = first.bytes().len();
    let (mut level, mut next) = (first.bytes().to_vec(), Vec::new());
    seen.insert(hash(&first), 0);
    let mut report = Report { states: 1, steps: 0, depth: 0, took: Duration::ZERO, bytes: 0, found: None };
    while !level.is_empty() && report.found.is_none() {
        for bytes in level.chunks_exact(width) {
            let state = State::unpack(&model.shape, bytes);
            let mut from = None;
            model.candidates(&state, |action| {
                let Some((after, violation)) = model.apply(&state, action) else { return };
                report.steps += 1;
                let packed = after.pack(&model.shape);
                let from = *from.get_or_insert_with(|| hash(&state.pack(&model.shape)));
                if seen.insert(hash(&packed), from) {
                    report.states += 1;
                    next.extend_from_slice(packed.bytes());
                }
                if report.found.is_none()
                    && let Some(violation) = violation
                {
                    report.found = Some(retrace(model, &seen, from, hash(&packed), violation));
                }
            });
            if report.found.is_some() {
                break;
            }
        }
        report.bytes = report.bytes.max(seen.bytes() + level.capacity() + next.capacity());
        report.depth += usize::from(!next.is_empty());
        std::mem::swap(&mut level, &mut next);
        next.clear();
    }
    report.took = began.elapsed();
    report
}

/// The actions that lead to a state, found forwards: names of silos stay what they are along the way, although the table
/// knows states only up to an exchange of silos.
fn retrace(model: &Model, seen: &Table, from: u64, last: u64, violation: Violation) -> Trace {
    let mut hashes = vec![last, from];
    let mut state = State::initial(&model.shape);
    let start = hash(&state.pack(&model.shape));
    while let Some(at) = hashes.last().filter(|at| **at != start) {
        hashes.push(seen.parent(*at));
    }
    let mut actions = Vec::new();
    let mut ends = violation;
    for wanted in hashes.iter().rev().skip(1) {
        let mut step = None;
        model.candidates(&state, |action| {
            if step.is_none()
                && let Some((after, violation)) = model.apply(&state, action)
                && hash(&after.pack(&model.shape)) == *wanted
            {
                step = Some((action, after, violation));
            }
        });
        let (action, after, violation) = step.expect("what one state can do, its mirror images can");
        actions.push(action);
        state = after;
        ends = violation.unwrap_or(ends);
    }
    Trace { actions, violation: ends }
}

fn hash(packed: &Packed) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(packed.bytes());
    // 0 marks a free place of the table.
    hasher.finish().max(1)
}

/// Hashes of states, each with that of the state it was found from. In shards that grow one by one, so that growing never
/// takes twice the memory.
struct Table {
    shards: Vec<Shard>,
}

#[derive(Default)]
struct Shard {
    places: Vec<(u64, u64)>,
    used: usize,
}

const SHARD_BITS: u32 = 6;

impl Default for Table {
    fn default() -> Self {
        Self { shards: (0..1 << SHARD_BITS).map(|_| Shard::default()).collect() }
    }
}

impl Table {
    /// Whether the hash is new.
    fn insert(&mut self, hash: u64, parent: u64) -> bool {
        self.shards[(hash >> (64 - SHARD_BITS)) as usize].insert(hash, parent)
    }

    fn parent(&self, hash: u64) -> u64 {
        let shard = &self.shards[(hash >> (64 - SHARD_BITS)) as usize];
        shard.places[shard.place(hash)].1
    }

    fn bytes(&self) -> usize {
        self.shards.iter().map(|shard| shard.places.len() * size_of::<(u64, u64)>()).sum()
    }
}

impl Shard {
    fn insert(&mut self, hash: u64, parent: u64) -> bool {
        if self.used * 5 >= self.places.len() * 4 {
            self.grow();
        }
        let place = self.place(hash);
        let new = self.places[place].0 == 0;
        if new {
            self.places[place] = (hash, parent);
            self.used += 1;
        }
        new
    }

    /// Where a hash is, or would be.
    fn place(&self, hash: u64) -> usize {
        let mask = self.places.len() - 1;
        let mut at = hash as usize & mask;
        while self.places[at].0 != 0 && self.places[at].0 != hash {
            at = (at + 1) & mask;
        }
        at
    }

    fn grow(&mut self) {
        let size = (self.places.len() * 2).max(1 << 10);
        for (hash, parent) in std::mem::replace(&mut self.places, vec![(0, 0); size]) {
            if hash != 0 {
                let place = self.place(hash);
                self.places[place] = (hash, parent);
            }
        }
    }
}
