//! The simulated world: one clock, one queue of events, nodes whose clocks drift, silos, writers and the connections
//! between them. Everything that happens is an event of this queue, in an order that only the seed decides.

use std::collections::BTreeMap;

use infinit::base::clock::Moment;
use infinit::base::id::{ConfigNumber, Epoch, Incarnation, NodeId, Seq, SiloId, SlotIndex, SlotKey, VolumeId};
use infinit::cluster::replication::acceptor::Session;
use infinit::cluster::replication::driver::Proposed;
use infinit::cluster::replication::message::{FromSilo, Request, ToSilo};
use infinit::cluster::replication::writer::reconfigure::Proposal;
use infinit::cluster::state::ClusterState;

use super::control::Control;
use super::dice::Dice;
use super::ledger::Ledger;
use super::network::Connection;
use super::register::Registers;
use super::silos::SiloHost;
use super::temper::{MS, SECOND, Temper};
use super::trace::Trace;
use super::workload::{Op, Tag};
use super::writers::WriterHost;

pub const VOLUME: VolumeId = VolumeId([0xaa; 16]);

/// What is to happen at a moment.
pub enum Event {
    Tick(usize),
    ToSilo(u64, ToSilo),
    ToWriter(u64, FromSilo),
    /// A silo takes what has arrived.
    Work(usize, u64),
    Synced(usize, u64, Vec<(SlotKey, Seq)>, bool),
    Serve(usize, u64, Session, VolumeId, Request),
    Checkpoint(usize, u64),
    Reopen(usize),
    Confirm(usize, u64),
    /// The cluster state's knowledge of silos reaches a writer.
    Inform(usize),
    /// A writer hears that its connection broke.
    Broken(u64),
    Reconnect(usize, usize),
    Client(usize, usize),
    /// A request that waits for a paused process; never in the queue.
    Request(Op),
    Attach(usize),
    /// The cluster group grants an epoch to a node, or is to be asked for it again, or for the volume first; and whether
    /// whoever attaches accepts a loss.
    Granted(usize, Epoch, bool),
    Ask(usize, bool),
    Create(usize, bool),
    /// The cluster group knows the silo's opening, or takes it for another silo.
    Confirmed(usize, u64, bool),
    Thaw(usize),
    /// A silo's disk has space again.
    Freed(usize),
    /// The connection of a writer's clients breaks.
    Leave(usize),
    /// The device of a resumed client asks again.
    SendAgain(usize),
    /// A writer's proposal reaches the cluster state, and the answer the writer.
    /// Asked twice, one of the answers is lost.
    Propose(usize, Proposed, bool),
    Decided(usize, SlotIndex, Result<Proposal, Epoch>),
    /// A silo's node hears what the cluster state was at some time.
    Heard(usize, Epoch, Vec<Placed>),
    /// The cluster state tells old writers that there is a newer one.
    Tell,
    Fault,
}

/// Which silos a slot has, by the cluster state.
#[derive(Clone, Debug)]
pub struct Placed {
    pub config: ConfigNumber,
    pub silos: Vec<usize>,
    /// Those that it was last asked to have.
    pub wanted: Vec<usize>,
}

/// What the cluster state remembers.
#[derive(Default)]
pub struct Cluster {
    /// What decides which silos slots have; of the volume's epoch it is told.
    pub state: ClusterState,
    /// What it says of the slots.
    pub slots: Vec<Placed>,
    pub epoch: Epoch,
    /// The writer with the highest epoch.
    pub holder: Option<usize>,
    pub incarnations: BTreeMap<SiloId, Incarnation>,
}

/// A node's clock: when it booted, and how wrong it goes in parts of a million.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    offset: u64,
    drift_ppm: i64,
}

impl Clock {
    /// A clock that goes wrong by so much.
    pub fn drifting(drift_ppm: i64) -> Self {
        Self { offset: 0, drift_ppm }
    }
}

/// Which messages to a silo are lost.
pub type Losing = fn(&ToSilo) -> bool;

pub struct World {
    pub now: u64,
    order: u64,
    queue: BTreeMap<(u64, u64), Event>,
    pub dice: Dice,
    pub temper: Temper,
    pub trace: Trace,
    pub clocks: Vec<Clock>,
    pub silos: Vec<SiloHost>,
    pub writers: Vec<WriterHost>,
    pub connections: BTreeMap<u64, Connection>,
    /// Until when nothing goes from a writer to a silo, and back.
    pub blocked: BTreeMap<(usize, usize), (u64, u64)>,
    pub cluster: Cluster,
    /// The group that decides what `cluster` remembers, in schedules that have one.
    pub control: Option<Control>,
    pub ledgers: Vec<Ledger>,
    pub registers: Registers,
    pub hot: Vec<u64>,
    pub next_tag: Tag,
    pub next_connection: u64,
    /// Faults are over.
    pub healing: bool,
    /// Clients ask for nothing new.
    pub quiet: bool,
    /// All is well: nobody takes over any more but who is told to.
    pub settled: bool,
    /// Writers attach anew by themselves after they ended.
    pub persistent: bool,
    /// Bits decay on the disks: reads of damaged blocks are refused.
    pub decays: bool,
    /// A silo may be another than the cluster state knows: it is told so and retires.
    pub strangers: bool,
    /// A silo may take itself out of service.
    pub faults_are_lawful: bool,
    /// Where they did: by slot and block, the one silo whose copy decayed.
    pub decayed: BTreeMap<(usize, u64), usize>,
    /// A script expects errors, and looks at them itself.
    pub errors_are_lawful: bool,
    /// Messages that a script loses: to this silo, if this says so.
    pub losses: Vec<(usize, Losing)>,
    /// Messages that a script keeps under way: to this silo, if this says so.
    pub late: Vec<(usize, Losing)>,
    /// Each with its connection.
    pub under_way: Vec<(u64, ToSilo)>,
    /// A silo whose acknowledgements a script keeps under way.
    pub late_acks: Option<usize>,
    /// Each with its writer.
    pub acks_under_way: Vec<(usize, FromSilo)>,
    pub failure: Option<String>,
    pub counts: BTreeMap<&'static str, u64>,
}

impl World {
    pub fn new(temper: Temper, dice: Dice, traced: bool) -> Self {
        let ledgers = temper.shape.slots.iter().map(|silos| Ledger::new(silos.len())).collect();
        let placed =
            |silos: &Vec<usize>| Placed { config: ConfigNumber(1), silos: silos.clone(), wanted: silos.clone() };
        let slots: Vec<Placed> = temper.shape.slots.iter().map(placed).collect();
        let state = super::moves::state_of(&temper.shape, &slots);
        let mut world = World {
            now: 0,
            order: 0,
            queue: BTreeMap::new(),
            dice,
            temper,
            trace: Trace::new(traced),
            clocks: Vec::new(),
            silos: Vec::new(),
            writers: Vec::new(),
            connections: BTreeMap::new(),
            blocked: BTreeMap::new(),
            cluster: Cluster { state, slots, ..Cluster::default() },
            control: None,
            ledgers,
            registers: Registers::default(),
            hot: Vec::new(),
            next_tag: 1,
            next_connection: 1,
            healing: false,
            quiet: false,
            settled: false,
            persistent: true,
            decays: false,
            strangers: false,
            faults_are_lawful: false,
            decayed: BTreeMap::new(),
            errors_are_lawful: false,
            losses: Vec::new(),
            late: Vec::new(),
            under_way: Vec::new(),
            late_acks: None,
            acks_under_way: Vec::new(),
            failure: None,
            counts: BTreeMap::new(),
        };
        for at in 0..world.temper.shape.silos {
            let offset = world.dice.below(SECOND);
            let drift = world.dice.between(0, 2 * DRIFT_PPM_MAX) as i64 - DRIFT_PPM_MAX as i64;
            let extreme = DRIFT_PPM_MAX as i64 * if drift < 0 { -1 } else { 1 };
            let clock = Clock { offset, drift_ppm: if world.temper.extreme_drift { extreme } else { drift } };
            world.clocks.push(clock);
            let seed = world.dice.next();
            world.silos.push(SiloHost::new(at, seed));
        }
        world
    }

    pub fn moment(&self, node: usize) -> Moment {
        let clock = self.clocks[node];
        let wrong = (self.now as i128 * i128::from(clock.drift_ppm) / 1_000_000) as i64;
        Moment((clock.offset + 1000 * SECOND).saturating_add_signed(self.now as i64 + wrong))
    }

    pub fn at(&mut self, after: u64, event: Event) {
        self.order += 1;
        self.queue.insert((self.now + after, self.order), event);
    }

    /// When the next event comes.
    pub fn next_at(&self) -> Option<u64> {
        self.queue.first_key_value().map(|((at, _), _)| *at)
    }

    pub fn fail(&mut self, why: impl Into<String>) {
        if self.failure.is_none() {
            let why = why.into();
            self.note(|| format!("FAILED {why}"));
            self.failure = Some(why);
        }
    }

    pub fn check(&mut self, result: Result<(), String>) {
        if let Err(why) = result {
            self.fail(why);
        }
    }

    pub fn note(&mut self, text: impl FnOnce() -> String) {
        self.trace.line(self.now, text);
    }

    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// Lets the next event happen, if it lies before `until`; false once none does, or something failed.
    pub fn step(&mut self, until: u64) -> bool {
        self.govern(until);
        let Some(next) = self.queue.first_entry().filter(|_| self.failure.is_none()) else { return false };
        if next.key().0 > until {
            self.now = until;
            return false;
        }
        let ((at, _), event) = next.remove_entry();
        self.now = self.now.max(at);
        self.happen(event);
        true
    }

    pub fn run_for(&mut self, duration: u64) {
        let until = self.now + duration;
        while self.step(until) {}
    }

    /// Runs until something is so, for so long at the most; whether it became so.
    pub fn run_until(&mut self, limit: u64, mut done: impl FnMut(&World) -> bool) -> bool {
        let until = self.now + limit;
        loop {
            if done(self) {
                return true;
            }
            if !self.step(until) {
                return done(self);
            }
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Tick(writer) => self.tick(writer),
            Event::ToSilo(connection, message) => self.arrive_at_silo(connection, message),
            Event::ToWriter(connection, message) => self.arrive_at_writer(connection, message),
            Event::Work(silo, life) => self.work(silo, life),
            Event::Synced(silo, life, marks, early) => self.synced(silo, life, &marks, early),
            Event::Serve(silo, life, session, volume, request) => self.serve(silo, life, session, volume, &request),
            Event::Checkpoint(silo, life) => self.checkpoint(silo, life),
            Event::Reopen(silo) => self.reopen(silo),
            Event::Confirm(silo, life) => self.confirm(silo, life),
            Event::Inform(writer) => self.inform(writer),
            Event::Broken(connection) => self.hear_of_break(connection),
            Event::Reconnect(writer, silo) => self.reconnect(writer, silo),
            Event::Client(writer, client) => self.client(writer, client),
            Event::Attach(node) if !self.settled => self.attach(node),
            Event::Attach(_) => {}
            Event::Granted(node, epoch, accept_loss) => self.granted(node, epoch, accept_loss),
            Event::Ask(node, accept_loss) => self.ask_again(node, accept_loss),
            Event::Create(node, accept_loss) => self.create_volume(node, accept_loss),
            Event::Confirmed(silo, life, known) => self.confirmed(silo, life, known),
            Event::Thaw(writer) => self.thaw(writer),
            Event::Freed(silo) => self.free_disk(silo),
            Event::Leave(writer) => self.all_leave(writer),
            Event::SendAgain(writer) => self.send_again(writer),
            Event::Propose(writer, proposed, is_heard) => self.propose(writer, proposed, is_heard),
            Event::Decided(writer, slot, proposal) => self.decided(writer, slot, proposal),
            Event::Heard(silo, epoch, slots) => self.hear_of_slots(silo, epoch, &slots),
            Event::Tell => self.tell_fence(),
            Event::Fault => self.fault(),
            Event::Request(_) => {}
        }
    }

    /// A time of the order of a message's.
    pub fn latency(&mut self) -> u64 {
        let (least, most) = self.temper.latency_ns;
        self.dice.between(least, most)
    }
}

pub fn silo_id(at: usize) -> SiloId {
    SiloId([at as u8 + 1; 16])
}

pub fn silo_at(silo: SiloId) -> usize {
    usize::from(silo.0[0]) - 1
}

pub fn node_id(at: usize) -> NodeId {
    NodeId([at as u8 + 1; 32])
}

pub fn key_of(slot: usize) -> SlotKey {
    SlotKey { volume: VOLUME, slot: SlotIndex(slot as u32) }
}

/// A clock gains or loses a hundredth at the most.
const DRIFT_PPM_MAX: u64 = 10_000;
/// The longest that anything may take once all is well.
pub const HEALED_WITHIN: u64 = 60 * SECOND;
/// How often a writer looks at the clock.
pub const TICK: u64 = 25 * MS;
