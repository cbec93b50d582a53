//! A real cluster group in the world of writers and silos, on its clock and from its seed: every node is a member, grants
//! of epochs and openings of silos are commands, and the group has faults of its own meanwhile.
//!
//! The group lives in the simulation of [`super::group`] and is founded before the world begins. [`World::govern`] lets it
//! come as far as the world's next event; what it decides becomes an event of the world. What is not decided in time is
//! asked again, as a daemon does: an epoch that was granted and never heard of stays unused.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use infinit::base::id::{Epoch, Incarnation, SiloId};
use infinit::cluster::consensus::ProposeError;
use infinit::cluster::consensus::runtime::simulated::{self, Simulation};
use infinit::cluster::state::command::{AttachMode, Command, Outcome, SiloOpening, VolumeCreation};
use infinit::cluster::state::refusal::Refusal;
use infinit::cluster::state::volume::Policy;

use super::dice::Dice;
use super::group::cluster::Cluster as Group;
use super::group::temper::{Fault, Temper};
use super::temper::SECOND;
use super::world::{Event, VOLUME, World, node_id};

/// How long a daemon waits for the group.
const PATIENCE: Duration = Duration::from_secs(3);
const RETRY_NS: u64 = SECOND / 5;
/// How long a founding without faults may take.
const FOUNDED_WITHIN_NS: u64 = 30 * SECOND;

/// What goes wrong in the group while the world goes on.
const FAULTS: [(Fault, u64); 8] = [
    (Fault::Crash, 2),
    (Fault::CrashLeader, 3),
    (Fault::Power, 2),
    (Fault::PowerInCommit, 2),
    (Fault::Isolate, 2),
    (Fault::Deafen, 2),
    (Fault::PauseLeader, 2),
    (Fault::Restart, 1),
];

type Answer = Option<Result<Outcome, ProposeError>>;

/// Events with how long after the decision they come.
type Decided = Arc<Mutex<Vec<(u64, Event)>>>;

pub struct Control {
    simulation: Simulation,
    group: Group,
    /// The moment of the group's simulation at which the world began.
    began_ns: u64,
    decided: Decided,
    /// Attachments that were asked for and are not decided.
    asked: usize,
}

impl Control {
    /// A group of so many members, all of them told of everything, and the volume's name known to them.
    pub fn found(dice: &mut Dice, nodes: usize, traced: bool) -> Result<Control, String> {
        let mut temper = Temper::draw(dice);
        (temper.faults, temper.duration_ns) = (FAULTS.to_vec(), u64::MAX);
        let (lost, repeated) = (temper.lost, temper.repeated);
        (temper.lost, temper.repeated) = (0, 0);
        let simulation = Simulation::start(dice.next());
        let group = Group::new(temper, Dice::new(dice.next()), traced);
        group.found(move |group| {
            let group = group.clone();
            group.clone().outside(async move {
                for _ in 1..nodes {
                    group.admit().await;
                }
                group.shared().finished = true;
            });
        });
        let mut control = Control { simulation, group, began_ns: 0, decided: Decided::default(), asked: 0 };
        while !control.is_founded() {
            if simulated::now_ns() >= FOUNDED_WITHIN_NS || !control.step(FOUNDED_WITHIN_NS) {
                return Err("the group is not founded".to_owned());
            }
        }
        let mut shared = control.group.shared();
        (shared.finished, shared.temper.lost, shared.temper.repeated) = (false, lost, repeated);
        drop(shared);
        control.began_ns = simulated::now_ns();
        Ok(control)
    }

    /// The same if and only if all that the members did was.
    pub fn digest(&self) -> u64 {
        self.simulation.digest()
    }

    /// What came about in the group, and how often.
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        std::mem::take(&mut self.group.shared().counts)
    }

    /// What the group did since this was last asked, for people.
    fn lines(&self) -> Vec<String> {
        self.group.shared().trace.lines.as_mut().map(std::mem::take).unwrap_or_default()
    }

    fn is_founded(&self) -> bool {
        self.group.shared().finished && self.group.is_well()
    }

    /// Faults begin, and end after so long.
    pub fn trouble_for(&self, duration_ns: u64) {
        self.group.shared().temper.duration_ns = self.began_ns + duration_ns;
        let group = self.group.clone();
        self.group.outside(async move { group.break_then_heal().await });
    }

    /// Whether its faults have ended and all its members agree again.
    pub fn is_well(&self) -> bool {
        self.group.shared().finished
    }

    fn step(&self, until_ns: u64) -> bool {
        let goes_on = self.simulation.step(until_ns);
        for (host, event) in self.simulation.overheard() {
            self.group.overhear(host, event);
        }
        goes_on
    }

    fn decided(&self) -> MutexGuard<'_, Vec<(u64, Event)>> {
        self.decided.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Proposes on a node; what comes of it becomes an event.
    fn ask(&self, node: usize, command: Command, then: impl FnOnce(Answer) -> (u64, Event) + 'static) {
        let running = self.group.running().into_iter().find(|(running, ..)| *running == node);
        let answer = running.map(|(node, host, group)| self.group.propose(node, host, group, command, PATIENCE));
        let decided = Arc::clone(&self.decided);
        self.group.outside(async move {
            let answer = match answer {
                // Its process may have died.
                Some(answer) => answer.await.ok(),
                None => None,
            };
            decided.lock().unwrap_or_else(PoisonError::into_inner).push(then(answer));
        });
    }

    /// The volume's last epoch, as far as a node's member knows; none while its process is down.
    pub fn epoch_at(&self, node: usize) -> Option<Epoch> {
        let (_, _, group) = self.group.running().into_iter().find(|(running, ..)| *running == node)?;
        let state = group.state().borrow().clone();
        state.volumes.get(&VOLUME).map(|volume| volume.epoch)
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // The members hold the network, and it holds them.
        let nodes = std::mem::take(&mut self.group.shared().nodes);
        for node in &nodes {
            if let Some(life) = &node.life {
                life.host.kill();
            }
        }
    }
}

fn creation(at: u64) -> Command {
    let policy = Policy { replicas: 1, ..Policy::default() };
    Command::CreateVolume(VolumeCreation { id: VOLUME, name: "simulated".into(), size_bytes: 1 << 30, policy, at })
}

impl World {
    /// Lets the group, if there is one, come as far as the next event that lies before `until`.
    pub fn govern(&mut self, until: u64) {
        // What it decides meanwhile may be the next event, or a later one: then the group goes on, or questions that are
        // answered at once would keep its time from passing.
        while self.govern_until_decided(until) {}
    }

    /// The same, but no further than until something is decided; whether something was.
    fn govern_until_decided(&mut self, until: u64) -> bool {
        let next = self.next_at().map_or(until, |next| next.min(until));
        let Some(control) = &self.control else { return false };
        let limit = control.began_ns + next;
        while control.decided().is_empty() && control.step(limit) {}
        let decided = std::mem::take(&mut *control.decided());
        let failure = control.group.shared().failure.clone();
        let told = control.lines();
        let goes_on = !decided.is_empty() && failure.is_none();
        if !decided.is_empty() {
            self.now = self.now.max(simulated::now_ns() - control.began_ns);
        }
        if let Some(lines) = &mut self.trace.lines {
            lines.extend(told.into_iter().map(|line| format!("    group {}", line.trim_start())));
        }
        for (after, event) in decided {
            self.at(after, event);
        }
        if let Some(why) = failure {
            self.fail(format!("the cluster group: {why}"));
        }
        goes_on
    }

    /// A node's daemon asks the group for the next epoch.
    pub fn ask_for_epoch(&mut self, node: usize, accept_loss: bool) {
        self.note(|| format!("node {} asks for an epoch", node + 1));
        let Some(control) = &mut self.control else { return };
        control.asked += 1;
        let at = control.group.shared().tag();
        let command = Command::Attach { volume: VOLUME, node: node_id(node), mode: AttachMode::Takeover, at };
        control.ask(node, command, move |answer| match answer {
            Some(Ok(Outcome::Granted { epoch })) => (0, Event::Granted(node, epoch, accept_loss)),
            Some(Err(ProposeError::Refused(Refusal::NoSuchVolume { .. }))) => (0, Event::Create(node, accept_loss)),
            _ => (RETRY_NS, Event::Ask(node, accept_loss)),
        });
    }

    /// Asks again; the first question is settled.
    pub fn ask_again(&mut self, node: usize, accept_loss: bool) {
        self.count("epochs asked for again");
        self.decided_one();
        self.ask_for_epoch(node, accept_loss);
    }

    /// The first attach creates the volume; that fails as long as the group knows no silo.
    pub fn create_volume(&mut self, node: usize, accept_loss: bool) {
        let Some(control) = &mut self.control else { return };
        let at = control.group.shared().tag();
        control.ask(node, creation(at), move |_| (RETRY_NS, Event::Ask(node, accept_loss)));
    }

    /// The group granted an epoch, unless a later one was heard of before.
    pub fn granted(&mut self, node: usize, epoch: Epoch, accept_loss: bool) {
        self.decided_one();
        if epoch <= self.cluster.epoch {
            return self.count("grants heard too late");
        }
        self.cluster.epoch = epoch;
        self.begin_writer(node, accept_loss);
        self.let_old_writers_know();
    }

    fn decided_one(&mut self) {
        if let Some(control) = &mut self.control {
            control.asked -= 1;
        }
    }

    /// A silo's opening is told to the group.
    pub fn ask_to_open(&mut self, silo: usize, life: u64, id: SiloId, chain: Vec<Incarnation>) {
        let Some(control) = &self.control else { return };
        // No two commands are the same, so that the judge can tell them apart.
        let capacity_bytes = (1 << 40) + control.group.shared().tag();
        let opening = SiloOpening { silo: id, node: node_id(silo), capacity_bytes, chain };
        control.ask(silo, Command::OpenSilo(opening), move |answer| match answer {
            Some(Ok(_)) => (0, Event::Confirmed(silo, life, true)),
            Some(Err(ProposeError::Refused(_))) => (0, Event::Confirmed(silo, life, false)),
            _ => (RETRY_NS, Event::Confirm(silo, life)),
        });
    }

    /// Whether nobody waits for an epoch, and the group has nothing left to mend.
    pub fn is_governed_well(&self) -> bool {
        self.control.as_ref().is_none_or(|control| control.asked == 0 && control.is_well())
    }
}
