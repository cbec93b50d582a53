//! An exhaustive model of the replication protocol: every state that a few epochs, writes and faults can lead to.
//!
//! The simulation runs the product itself along a few hundred thousand of its possible lives. This is the other half: a
//! small model of the protocol alone, searched breadth first until there is nothing left to find. It uses nothing of the
//! product. It follows what the product does, step by step (`cluster/replication/writer/{recovery,catchup,stream}`,
//! `acceptor/slot`, `store/{commit,open}`), for rules 3, 4, 8 and 12 to 14 and the lease's half of 7:
//!
//! - [`state`]: silos, writers, and what clients were told; canonical bytes, so that states which differ by an exchange of
//!   silos that are alike are one.
//! - [`actions`]: what can happen; one function a step in [`recovery`], [`stream`] and [`faults`].
//! - [`properties`]: what follows at once upon a step, and what must hold after it: no flushed write is lost; no answered
//!   one is but by power losses that took it from a majority; what was gone for a reader stays gone; two histories of one
//!   epoch are beginnings of one another; all agree below their watermarks; no healthy silo is called damaged.
//! - [`search`]: breadth first, so that the first violation is a shortest one. [`story`] tells it.
//! - [`variants`]: the protocol with one rule left out, each with its trace in `traces/`: why the rule is there.
//!
//! `INFINIT_MODEL=full` searches larger bounds (minutes); `INFINIT_GOLDEN=1` writes the traces anew.
//!
//! # Where it abstracts, and why nothing is hidden by it
//!
//! - *A message is taken and answered in one step.* A late answer is a writer that acts later on what it knows: what it
//!   concludes from a vote, and what it does then, are other steps, and the silo may crash in between. A lost request is a
//!   step that never happens; a lost answer is one whose reader does nothing before it asks again.
//! - *A writer never learns that it was fenced, that a connection broke, or that a silo went down*: it believes longer what
//!   it knew than the product does. A dead writer is one that takes no more steps, a silo that is down one that takes part
//!   in none; so attaching, dying and being down are no actions, and a restart is one.
//! - *A lease holds exactly while a majority has promised nobody else*, which is what its clocks guarantee (rule 9).
//! - *Clients want everything*: whatever is answered is flushed as soon as it may be, and read wherever it may be. So what
//!   a recovered history brings counts as flushed once it is served.
//! - *The watermark and the reports of rule 14 arrive at once*, which makes both as high as they can be; a restart may
//!   forget the watermark. Torn disks are modelled where the reports arrived: the product needs two seconds for that.
//! - *Histories are sets of numbered writes*, without blocks: one extent, one parcel a transfer. What lies beneath a block's
//!   newest version, trims and tombstones are the simulation's to check.
//! - *Giving an epoch up* (its source is gone) is a writer that finds nothing more to do. Resuming (15), snapshots (17),
//!   reconfiguration (18 to 20) and `--accept-loss` are not modelled.

mod actions;
mod faults;
mod properties;
mod recovery;
mod search;
mod state;
mod story;
mod stream;
mod variants;

use std::path::Path;
use std::{env, fs};

use actions::Model;
use search::{Report, search};
use state::{Bounds, Shape, State};
use variants::{BROKEN, Broken, Variant};

const NOTHING: Bounds = Bounds { epochs: 0, writes: 0, power_losses: 0, restarts: 0, tears: 0, cuts: 0, tells: true };

/// One slot on three silos.
pub const ONE_SLOT: Shape =
    Shape { replicas: &[(0, 0), (1, 0), (2, 0)], silos: 3, slots: 1, alike: (0, 3), bounds: NOTHING };

/// Two slots over four silos: two silos have both, one more each has one.
pub const TWO_SLOTS: Shape = Shape {
    replicas: &[(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (3, 1)],
    silos: 4,
    slots: 2,
    alike: (1, 3),
    bounds: NOTHING,
};

const fn one(bounds: Bounds) -> Shape {
    Shape { bounds, ..ONE_SLOT }
}

const fn two(bounds: Bounds) -> Shape {
    Shape { bounds, ..TWO_SLOTS }
}

const fn bounds(epochs: u8, writes: u8, power_losses: u8) -> Bounds {
    Bounds { epochs, writes, power_losses, ..NOTHING }
}

/// What every run of the tests searches, and how many states that is: another number is another model.
const QUICK: [(Shape, usize); 4] = [
    (one(bounds(3, 2, 1)), 1_741_423),
    (one(bounds(2, 2, 2)), 604_190),
    (one(Bounds { restarts: 1, tears: 1, cuts: 1, ..bounds(2, 1, 1) }), 733_199),
    (two(bounds(2, 1, 0)), 240_046),
];

/// What `INFINIT_MODEL=full` searches besides.
const FULL: [Shape; 5] = [
    one(bounds(3, 2, 2)),
    one(Bounds { restarts: 1, ..bounds(3, 2, 2) }),
    one(Bounds { restarts: 1, tears: 1, cuts: 1, ..bounds(3, 1, 1) }),
    one(Bounds { cuts: 1, ..bounds(3, 2, 1) }),
    two(bounds(2, 2, 0)),
];

fn summary(model: &Model, report: &Report) -> String {
    let (shape, bounds) = (&model.shape, &model.shape.bounds);
    format!(
        "{} slot(s) on {} silos, {} epochs, {} writes, {} power losses, {} restarts, {} tears, {} cuts: {} states, {} steps, \
         depth {}, {:.1} s, {} MiB",
        shape.slots,
        shape.silos,
        bounds.epochs,
        bounds.writes,
        bounds.power_losses,
        bounds.restarts,
        bounds.tears,
        bounds.cuts,
        report.states,
        report.steps,
        report.depth,
        report.took.as_secs_f64(),
        report.bytes >> 20
    )
}

/// Searches everything within a shape's bounds, and finds nothing wrong.
fn assert_clean(shape: Shape) -> usize {
    let model = Model { shape, variant: None };
    let report = search(&model);
    println!("{}", summary(&model, &report));
    if let Some(trace) = &report.found {
        panic!("the protocol is broken:\n{}", story::tell(&model, trace));
    }
    report.states
}

#[test]
fn the_protocol_is_clean() {
    let searched = QUICK.map(|(shape, _)| assert_clean(shape));
    assert_eq!(searched, QUICK.map(|(_, states)| states), "the model is another than it was");
    if env::var("INFINIT_MODEL").is_ok_and(|which| which == "full") {
        for shape in FULL {
            assert_clean(shape);
        }
    }
}

/// Every state of a long trace comes back from its bytes, and has the same ones if two silos change places.
#[test]
fn a_state_is_its_bytes() {
    let broken = BROKEN.iter().find(|broken| broken.variant == Variant::TornBelowReported).unwrap();
    let model = Model { shape: broken.shape, variant: Some(broken.variant) };
    let mut state = State::initial(&model.shape);
    for action in search(&model).found.unwrap().actions {
        (state, _) = model.apply(&state, action).unwrap();
        let packed = state.pack(&model.shape);
        let unpacked = State::unpack(&model.shape, packed.bytes());
        assert_eq!(unpacked.pack(&model.shape).bytes(), packed.bytes());
        for (one, other) in [(0, 1), (0, 2), (1, 2)] {
            let mut exchanged = state;
            exchanged.replicas.swap(one, other);
            exchanged.views.iter_mut().for_each(|views| views.swap(one, other));
            assert_eq!(exchanged.pack(&model.shape).bytes(), packed.bytes());
        }
    }
    assert!(state.flushed != 0 && state.left.tears == 0, "the trace went through the faults");
}

/// The trace of a broken variant, as it is kept.
fn trace_of(broken: &Broken) -> String {
    let model = Model { shape: broken.shape, variant: Some(broken.variant) };
    let report = search(&model);
    println!("{}: {}", broken.name, summary(&model, &report));
    let trace = report.found.unwrap_or_else(|| panic!("{}: nothing goes wrong within its bounds", broken.name));
    format!("{}\n\n{}", broken.rule, story::tell(&model, &trace))
}

#[test]
fn every_broken_variant_gives_its_trace() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/model/traces");
    let rewrites = env::var_os("INFINIT_GOLDEN").is_some();
    for broken in &BROKEN {
        let path = folder.join(broken.name).with_extension("txt");
        let trace = trace_of(broken);
        if rewrites {
            fs::write(&path, &trace).unwrap();
        }
        let kept = fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(trace, kept, "{}: its trace is another; INFINIT_GOLDEN=1 writes it anew", broken.name);
    }
    let kept = fs::read_dir(folder).unwrap().count();
    assert_eq!(kept, BROKEN.len(), "a trace of no variant is left");
}
