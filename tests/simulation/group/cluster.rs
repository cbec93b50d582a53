//! What everybody in a simulation of the cluster group shares: the members with their processes and disks, the network,
//! the judge, and the trace.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use infinit::base::id::{Epoch, Incarnation, InvitationId, NetworkId, NodeId, SiloId, VolumeId};
use infinit::cluster::consensus::runtime::simulated::{self, Host, Overheard, Sleep};
use infinit::cluster::consensus::{Group, GroupOptions, LogError, LogFile, Storage};
use infinit::cluster::state::command::{Command, Genesis, Invitation, Join, NewMember};
use infinit::cluster::state::level::Level;
use infinit::cluster::state::member::Role;
use infinit::store::faulty::{Crash, FaultyDisk};

use super::super::dice::Dice;
use super::super::trace::Trace;
use super::disk::LogDisk;
use super::history::History;
use super::network::Wire;
use super::temper::Temper;

/// Members there ever are in one simulation, those that left included.
pub const NODES_MAX: usize = 8;

/// How long the only member may take to raise the network's level.
const RAISING_MAX: Duration = Duration::from_secs(10);

/// One machine, and what it remembers over its processes' lives.
pub struct Node {
    pub disk: FaultyDisk,
    pub drift_ppm: i64,
    pub life: Option<Life>,
    /// The incarnations of its silo; empty if it gives none.
    pub chain: Vec<Incarnation>,
    pub gives_silo: bool,
    /// Its log was made to fail: the process may stop by itself, and may not come up.
    pub disk_failed: bool,
    /// It left, and nobody counts on it any more.
    pub gone: bool,
}

/// One process.
#[derive(Clone)]
pub struct Life {
    pub host: Host,
    /// Not there until it has started.
    pub group: Option<Group>,
}

pub struct Shared {
    pub dice: Dice,
    pub temper: Temper,
    pub trace: Trace,
    pub nodes: Vec<Node>,
    /// What happens outside of all members: faults, operators, and what waits in the network.
    pub outside: Host,
    /// Until when nothing goes from one member to another.
    pub cuts: BTreeMap<(usize, usize), u64>,
    pub history: History,
    /// Faults are over.
    pub healing: bool,
    /// Clients ask for nothing new.
    pub quiet: bool,
    pub finished: bool,
    pub failure: Option<String>,
    pub counts: BTreeMap<&'static str, u64>,
    /// Detachments and closings of exports, which nobody asks for twice.
    pub proposed: BTreeSet<(VolumeId, Epoch, bool)>,
    next_tag: u64,
}

#[derive(Clone)]
pub struct Cluster(Arc<Mutex<Shared>>);

/// Members are named by their place.
pub fn id(node: usize) -> NodeId {
    NodeId([node as u8 + 1; 32])
}

pub fn place(id: NodeId) -> usize {
    usize::from(id.0[0]) - 1
}

pub fn silo(node: usize) -> SiloId {
    SiloId([node as u8 + 1; 16])
}

impl Cluster {
    pub fn new(temper: Temper, dice: Dice, traced: bool) -> Cluster {
        Cluster(Arc::new(Mutex::new(Shared {
            dice,
            temper,
            trace: Trace::new(traced),
            nodes: Vec::new(),
            outside: Host::new(0),
            cuts: BTreeMap::new(),
            history: History::default(),
            healing: false,
            quiet: false,
            finished: false,
            failure: None,
            counts: BTreeMap::new(),
            proposed: BTreeSet::new(),
            next_tag: 1,
        })))
    }

    /// Never held while a member's tasks run or are dropped: they call back.
    pub fn shared(&self) -> MutexGuard<'_, Shared> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn note(&self, text: impl FnOnce() -> String) {
        self.shared().note(text);
    }

    pub fn count(&self, what: &'static str) {
        *self.shared().counts.entry(what).or_default() += 1;
    }

    pub fn fail(&self, why: impl Into<String>) {
        self.shared().fail(why);
    }

    /// Starts something outside of all members.
    pub fn outside(&self, work: impl Future<Output = ()> + 'static) {
        let outside = self.shared().outside;
        outside.spawn(work);
    }

    /// Founds the network, and goes on.
    pub fn found(&self, then: impl FnOnce(&Cluster) + Send + 'static) {
        let founder = self.add_node();
        let cluster = self.clone();
        self.start(founder);
        self.outside(async move {
            let group = cluster.started(founder).await;
            let (host, proposing) = (cluster.shared().nodes[founder].life.as_ref().unwrap().host, cluster.clone());
            let genesis = genesis(founder);
            host.spawn(async move {
                if let Err(error) = group.bootstrap(genesis).await {
                    return proposing.fail(format!("the founding failed: {error}"));
                }
                // As the leader does where all members know the level, which all do here.
                let raised = group.propose(Command::Raise { level: Level::OWN }, RAISING_MAX).await;
                match raised {
                    Ok(_) => then(&proposing),
                    Err(error) => proposing.fail(format!("the level was not raised: {error}")),
                }
            });
        });
    }

    /// Sets everything in motion.
    pub fn go_on(&self) {
        self.note(|| "founded".to_owned());
        let joiners = self.shared().temper.joiners;
        let (joining, asking, breaking) = (self.clone(), self.clone(), self.clone());
        self.outside(async move {
            joining.open_silo(0).await;
            for _ in 0..joiners {
                if let Some(node) = joining.admit().await {
                    joining.open_silo(node).await;
                }
            }
        });
        self.outside(async move { asking.ask_on_and_on().await });
        self.outside(async move { breaking.break_then_heal().await });
    }

    /// A machine more.
    pub fn add_node(&self) -> usize {
        let mut shared = self.shared();
        let seed = shared.dice.next();
        let Shared { temper, dice, .. } = &mut *shared;
        let drift_ppm = temper.drift_ppm(dice);
        let gives_silo = shared.nodes.is_empty() || shared.dice.chance(700);
        shared.nodes.push(Node {
            disk: FaultyDisk::new(seed),
            drift_ppm,
            life: None,
            chain: Vec::new(),
            gives_silo,
            disk_failed: false,
            gone: false,
        });
        shared.nodes.len() - 1
    }

    /// Starts the process of a machine, unless one runs or it is gone for good.
    pub fn start(&self, node: usize) {
        let mut shared = self.shared();
        let (blocking, healing) = (shared.temper.disk_ns, shared.healing);
        let this = &mut shared.nodes[node];
        if this.life.is_some() || this.gone {
            return;
        }
        let host = Host::new(this.drift_ppm);
        host.set_blocking_ns(if healing { 0..=1_000_000 } else { blocking.0..=blocking.1 });
        this.life = Some(Life { host, group: None });
        shared.note(|| format!("n{node} starts"));
        drop(shared);
        let cluster = self.clone();
        host.spawn(async move {
            if let Err(error) = cluster.run(node, host).await {
                cluster.not_started(node, &error);
            }
        });
    }

    async fn run(&self, node: usize, host: Host) -> Result<(), LogError> {
        let (disk, tuning, len) = {
            let shared = self.shared();
            (shared.nodes[node].disk.clone(), shared.temper.tuning, shared.nodes.len())
        };
        let disk = LogDisk::open(&disk, host).map_err(LogError::Open)?;
        let file = LogFile::open_on(disk).await?;
        let group = Group::start(GroupOptions {
            node: id(node),
            storage: Storage::Shared(file),
            rpc: Arc::new(Wire { from: node, cluster: self.clone() }),
            peers: (0..len).filter(|peer| *peer != node).map(id).collect(),
            tuning,
        })
        .await?;
        let mut shared = self.shared();
        shared.note(|| format!("n{node} is up"));
        if let Some(life) = shared.nodes[node].life.as_mut().filter(|life| life.host == host) {
            life.group = Some(group);
        }
        Ok(())
    }

    /// A log is always readable, unless its disk was made to fail.
    fn not_started(&self, node: usize, error: &LogError) {
        self.note(|| format!("n{node} does not start: {error}"));
        let excused = {
            let shared = self.shared();
            shared.nodes[node].disk_failed || shared.nodes[node].disk.is_down()
        };
        let damaged = matches!(error, LogError::Damaged { .. } | LogError::Inconsistent(_) | LogError::Version(_));
        if damaged || !excused {
            self.fail(format!("n{node} cannot open its log: {error}"));
        }
    }

    /// The process ends at once, where it stands.
    pub fn end(&self, node: usize, crash: Crash) {
        let (life, disk) = {
            let mut shared = self.shared();
            shared.nodes[node].disk_failed = false;
            (shared.nodes[node].life.take(), shared.nodes[node].disk.clone())
        };
        if !disk.is_down() {
            disk.crash(crash);
        }
        // What was to fail later fails no more.
        disk.restart();
        disk.fail_sync_after(u64::MAX);
        if let Some(Life { host, group }) = life {
            host.kill();
            drop(group);
            self.note(|| format!("n{node} ends: {crash:?}"));
        }
    }

    /// Starts a machine's process again after a while.
    pub fn start_after(&self, node: usize, duration: Duration) {
        let cluster = self.clone();
        self.outside(async move {
            after(duration).await;
            cluster.start(node);
        });
    }

    /// Waits until a process has started; for members whose disks do not fail.
    async fn started(&self, node: usize) -> Group {
        loop {
            let life = self.shared().nodes[node].life.clone();
            if let Some(group) = life.and_then(|life| life.group) {
                return group;
            }
            after(Duration::from_millis(1)).await;
        }
    }

    /// Those whose processes have started, with what they are known by.
    pub fn running(&self) -> Vec<(usize, Host, Group)> {
        let shared = self.shared();
        let nodes = shared.nodes.iter().enumerate();
        let started = nodes.filter_map(|(at, node)| {
            let life = node.life.as_ref().filter(|life| !life.host.is_dead())?;
            Some((at, life.host, life.group.clone()?))
        });
        started.collect()
    }

    /// The member that most believe to lead.
    pub fn leader(&self) -> Option<usize> {
        let leads = |(node, _, group): &(usize, Host, Group)| group.status().leader == Some(id(*node));
        self.running().iter().find(|running| leads(running)).map(|(node, _, _)| *node)
    }

    pub fn overhear(&self, host: Host, event: Overheard) {
        let mut shared = self.shared();
        let node = shared.nodes.iter().position(|node| node.life.as_ref().is_some_and(|life| life.host == host));
        let Some(node) = node else { return };
        let Shared { history, trace, .. } = &mut *shared;
        if let Overheard::Applied { index, decided: Some(decided), .. } = &event {
            let (command, answer) = &**decided;
            trace.line(simulated::now_ns(), || format!("n{node} applies {index}: {command} → {answer:?}"));
        }
        let judged = history.overhear(&event);
        if let Err(why) = judged {
            shared.fail(format!("n{node}: {why}"));
        }
    }
}

impl Shared {
    pub fn note(&mut self, text: impl FnOnce() -> String) {
        self.trace.events += 1;
        self.trace.line(simulated::now_ns(), text);
    }

    pub fn fail(&mut self, why: impl Into<String>) {
        if self.failure.is_none() {
            let why = why.into();
            self.note(|| format!("FAILED {why}"));
            self.failure = Some(why);
        }
    }

    /// A number that no command had before.
    pub fn tag(&mut self) -> u64 {
        self.next_tag += 1;
        self.next_tag
    }
}

/// Ready after so long.
pub fn after(duration: Duration) -> Sleep {
    simulated::pass(duration)
}

fn member(node: usize) -> NewMember {
    NewMember {
        name: format!("n{node}"),
        role: Role::Storage,
        passport: vec![node as u8; 8],
        data_addresses: vec![],
        discovery_addresses: vec![],
        zone: None,
    }
}

fn genesis(node: usize) -> Command {
    let network = NetworkId([9; 32]);
    Command::Genesis(Genesis { network, name: "simulated".into(), founder: id(node), member: member(node), at: 1 })
}

pub fn join(node: usize, at: u64) -> Command {
    let mut invitation = [0; 16];
    invitation[..8].copy_from_slice(&at.to_le_bytes());
    let invitation = Invitation { id: InvitationId(invitation), uses_max: 1, expires_at: at };
    Command::Join(Join { node: id(node), member: member(node), invitation, at })
}
