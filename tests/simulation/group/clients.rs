//! Who proposes and reads: clients of every member, and operators who let machines join and leave. No two commands are
//! the same, so that each can be told in the history. A question belongs to the process that it was put to, and dies
//! with it.

use std::time::Duration;

use infinit::base::id::{Epoch, Incarnation, VolumeId};
use infinit::cluster::consensus::runtime::simulated::{self, Host};
use infinit::cluster::consensus::{Group, ProposeError};
use infinit::cluster::state::ClusterState;
use infinit::cluster::state::command::{AttachMode, Command, Outcome, SiloOpening, VolumeCreation};
use infinit::cluster::state::volume::Policy;
use tokio::sync::oneshot;

use super::cluster::{Cluster, NODES_MAX, Shared, after, id, join, silo};

/// How often an operator tries to admit a machine.
const ADMISSIONS_MAX: usize = 20;
/// Names of volumes, few so that they clash.
const NAMES: u64 = 5;

impl Cluster {
    /// Clients ask until all is to be quiet.
    pub async fn ask_on_and_on(&self) {
        loop {
            let pause = {
                let mut shared = self.shared();
                let mean = shared.temper.think_ns;
                if shared.quiet {
                    return;
                }
                Duration::from_nanos(shared.dice.around(mean))
            };
            after(pause).await;
            self.ask();
        }
    }

    fn ask(&self) {
        let running = self.running();
        let mut guard = self.shared();
        let shared = &mut *guard;
        let Some((node, host, group)) = shared.dice.pick(&running).cloned() else { return };
        let limit = shared.temper.patience(&mut shared.dice);
        if shared.dice.chance(shared.temper.reads) {
            drop(guard);
            return self.read(node, host, group, limit);
        }
        let state = group.state().borrow().clone();
        let command = shared.command(node, &state);
        drop(guard);
        if let Some(command) = command {
            // Nobody waits for it but the judge.
            drop(self.propose(node, host, group, command, limit));
        }
    }

    /// Proposes on a member; the answer is judged, and handed to whoever still waits.
    pub fn propose(
        &self,
        node: usize,
        host: Host,
        group: Group,
        command: Command,
        limit: Duration,
    ) -> oneshot::Receiver<Result<Outcome, ProposeError>> {
        let (sender, receiver) = oneshot::channel();
        let since = self.shared().history.known();
        self.note(|| format!("n{node} is to propose {command} within {limit:?}"));
        let cluster = self.clone();
        host.spawn(async move {
            let asked = simulated::now_ns();
            let answer = group.propose(command.clone(), limit).await;
            let early = Duration::from_nanos(simulated::now_ns() - asked) < limit.mul_f64(0.98);
            let shown = group.state().borrow().clone();
            cluster.judge(node, since, &command, &answer);
            let decided = answer.is_ok();
            let _ = sender.send(answer);
            // A member that stops passes on what it was answered, and sees no more; that it stops is known in a moment.
            after(Duration::from_millis(5)).await;
            let stops = group.status().stopped.is_some() || group.watch_status().has_changed().is_err();
            if decided && early && !stops && !cluster.shared().history.shows(&shown, &command) {
                cluster.fail(format!("n{node} answered {command} and did not show it"));
            }
        });
        receiver
    }

    fn judge(&self, node: usize, since: usize, command: &Command, answer: &Result<Outcome, ProposeError>) {
        let mut guard = self.shared();
        let shared = &mut *guard;
        shared.note(|| format!("n{node} answers {command}: {answer:?}"));
        *shared.counts.entry(answer_name(answer)).or_default() += 1;
        if let Err(why) = shared.history.answered(since, command, answer) {
            shared.fail(format!("n{node}: {why}"));
        }
    }

    fn read(&self, node: usize, host: Host, group: Group, limit: Duration) {
        let (since, cluster) = (self.shared().history.known(), self.clone());
        host.spawn(async move {
            let read = group.current(limit).await;
            let mut guard = cluster.shared();
            let shared = &mut *guard;
            let name = if read.is_ok() { "reads" } else { "reads without answer" };
            *shared.counts.entry(name).or_default() += 1;
            shared.note(|| format!("n{node} reads: {:?}", read.as_ref().map(|state| state.volumes.len())));
            if let Ok(state) = read
                && let Err(why) = shared.history.read(since, &state)
            {
                shared.fail(format!("n{node}: {why}"));
            }
        });
    }

    /// Another machine starts and is admitted by some member, if there may be one more.
    pub async fn admit(&self) -> Option<usize> {
        if self.shared().nodes.len() >= NODES_MAX {
            return None;
        }
        let node = self.add_node();
        self.start(node);
        for _ in 0..ADMISSIONS_MAX {
            let running = self.running();
            let asked = {
                let mut shared = self.shared();
                if shared.healing {
                    return None;
                }
                let (at, others) = (shared.tag(), running.iter().filter(|(other, ..)| *other != node));
                let others: Vec<_> = others.cloned().collect();
                shared.dice.pick(&others).cloned().map(|other| (other, join(node, at)))
            };
            let Some(((other, host, group), command)) = asked else {
                after(Duration::from_millis(100)).await;
                continue;
            };
            let answer = self.propose(other, host, group, command, Duration::from_secs(3)).await;
            if matches!(answer, Ok(Ok(_))) {
                self.count("admitted");
                return Some(node);
            }
        }
        None
    }

    /// A member tells that it opened its silo, until it is heard; if it gives one.
    pub async fn open_silo(&self, node: usize) {
        for _ in 0..ADMISSIONS_MAX {
            let running = self.running().into_iter().find(|(running, ..)| *running == node);
            let opening = self.shared().opening(node);
            let Some(opening) = opening else { return };
            if let Some((node, host, group)) = running {
                let answer = self.propose(node, host, group, opening, Duration::from_secs(3)).await;
                if matches!(answer, Ok(Ok(_))) {
                    return;
                }
            }
            if self.shared().healing {
                return;
            }
            after(Duration::from_millis(100)).await;
        }
    }

    /// An operator removes a member, on another one.
    pub async fn dismiss(&self, node: usize) {
        let others: Vec<_> = self.running().into_iter().filter(|(other, ..)| *other != node).collect();
        let asked = {
            let mut shared = self.shared();
            let at = shared.tag();
            shared.dice.pick(&others).cloned().map(|other| (other, Command::Leave { node: id(node), at }))
        };
        let Some(((other, host, group), command)) = asked else { return };
        let answer = self.propose(other, host, group, command, Duration::from_secs(3)).await;
        if matches!(answer, Ok(Ok(_))) {
            self.count("dismissed");
        }
    }
}

fn answer_name(answer: &Result<Outcome, ProposeError>) -> &'static str {
    match answer {
        Ok(_) => "accepted",
        Err(ProposeError::Refused(_)) => "refused",
        Err(ProposeError::NoQuorum) => "no quorum",
        Err(ProposeError::TimedOut) => "timed out",
        Err(ProposeError::TooLarge) => "too large",
        Err(ProposeError::Stopped) => "stopped",
    }
}

impl Shared {
    /// Something that a client of this member may want, as far as the member knows the volumes there are.
    pub fn command(&mut self, node: usize, state: &ClusterState) -> Option<Command> {
        let at = self.tag();
        let volumes: Vec<_> = state.volumes.iter().map(|(id, volume)| (*id, volume.epoch)).collect();
        let kind = self.dice.below(20);
        if kind == 19 {
            return self.opening(node);
        }
        let Some((volume, epoch)) = self.dice.pick(&volumes).copied().filter(|_| kind > 2) else {
            return Some(self.creation(at));
        };
        Some(match kind {
            3..=9 => Command::Attach { volume, node: id(node), mode: AttachMode::Takeover, at },
            10..=11 => Command::Attach { volume, node: id(node), mode: AttachMode::Fresh, at },
            12 => Command::Attach { volume, node: id(node), mode: AttachMode::Resume { epoch }, at },
            13..=15 => self.once(Command::Detach { volume, epoch })?,
            16 => self.once(Command::CloseExport { volume, epoch })?,
            _ => Command::DeleteVolume { volume, at },
        })
    }

    pub fn creation(&mut self, at: u64) -> Command {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&at.to_le_bytes());
        let replicas = if self.dice.chance(500) { 1 } else { 3 };
        let policy = Policy { replicas, ..Policy::default() };
        let name = format!("v{}", self.dice.below(NAMES));
        Command::CreateVolume(VolumeCreation { id: VolumeId(id), name, size_bytes: 1 << 30, policy, at })
    }

    fn opening(&mut self, node: usize) -> Option<Command> {
        let incarnation = Incarnation(self.tag());
        let this = &mut self.nodes[node];
        if !this.gives_silo {
            return None;
        }
        this.chain.push(incarnation);
        let chain = this.chain.clone();
        Some(Command::OpenSilo(SiloOpening { silo: silo(node), node: id(node), capacity_bytes: 1 << 40, chain }))
    }

    /// The command, unless it was proposed before.
    fn once(&mut self, command: Command) -> Option<Command> {
        let (volume, epoch, closes) = match &command {
            Command::Detach { volume, epoch } => (*volume, *epoch, false),
            Command::CloseExport { volume, epoch } => (*volume, *epoch, true),
            _ => return Some(command),
        };
        (epoch > Epoch::ZERO && self.proposed.insert((volume, epoch, closes))).then_some(command)
    }
}
