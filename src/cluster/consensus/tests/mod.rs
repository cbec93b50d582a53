//! A cluster group in one process: a network that loses, delays, repeats and parts, and disks that survive their
//! process or lose what was not synced.
//!
//! Time is real here, and so are tokio's threads: what the seeds of `tests/simulation/group` cannot show. The tests use a
//! quicker tuning where the product's own timing is not what they are about.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use rand::Rng;
use redb::StorageBackend;

use crate::base::id::{Incarnation, InvitationId, NetworkId, NodeId, SiloId, VolumeId};
use crate::cluster::consensus::{Group, GroupOptions, GroupStatus, LogFile, Rpc, RpcError, Storage, Tuning};
use crate::cluster::state::command::{
    AttachMode, Command, Genesis, Invitation, Join, NewMember, SiloOpening, VolumeCreation,
};
use crate::cluster::state::member::Role;
use crate::cluster::state::volume::Policy;
use crate::transport::network::ConnectError;

mod faults;
mod files;
mod leader;
mod messages;
mod recovered;

/// What no proposal and no wait in these tests may take, on however busy a machine.
pub(super) const LONG: Duration = Duration::from_secs(60);

/// Six times as quick as the product.
pub(super) const QUICK: Tuning = Tuning {
    heartbeat: Duration::from_millis(40),
    election_min: Duration::from_millis(120),
    election_max: Duration::from_millis(240),
    snapshot_every: 2_000,
    log_kept: 1_000,
};

pub(super) fn node(index: usize) -> NodeId {
    NodeId([index as u8 + 1; 32])
}

/// The network between the members.
#[derive(Default)]
pub(super) struct Net {
    state: Mutex<NetState>,
}

#[derive(Default)]
struct NetState {
    members: BTreeMap<NodeId, Group>,
    /// Which life of a node is running: its earlier ones send nothing more.
    lives: BTreeMap<NodeId, u32>,
    /// Directed links that carry nothing.
    cut: BTreeSet<(NodeId, NodeId)>,
    /// Of a hundred messages, so many are lost, and as many repeated.
    lost_percent: u32,
    delay_ms: Range<u64>,
    /// Requests to remember, for tests that tamper with them.
    recorded: Option<Vec<(NodeId, Bytes)>>,
}

impl Net {
    pub fn parted(&self, from: NodeId, to: NodeId, parted: bool) {
        let mut state = self.state.lock().unwrap();
        for link in [(from, to), (to, from)] {
            if parted {
                state.cut.insert(link);
            } else {
                state.cut.remove(&link);
            }
        }
    }

    pub fn isolate(&self, node: NodeId, others: usize, isolated: bool) {
        for other in (0..others).map(self::node).filter(|other| *other != node) {
            self.parted(node, other, isolated);
        }
    }

    pub fn make_bad(&self, lost_percent: u32, delay_ms: Range<u64>) {
        let mut state = self.state.lock().unwrap();
        (state.lost_percent, state.delay_ms) = (lost_percent, delay_ms);
    }

    pub fn record(&self) {
        self.state.lock().unwrap().recorded = Some(Vec::new());
    }

    pub fn recorded(&self) -> Vec<(NodeId, Bytes)> {
        self.state.lock().unwrap().recorded.take().unwrap()
    }

    /// One way of a message: whether it arrives, after how long.
    fn way(&self, from: NodeId, to: NodeId) -> (bool, Duration) {
        let state = self.state.lock().unwrap();
        let mut random = rand::rng();
        let arrives = !state.cut.contains(&(from, to)) && !random.random_ratio(state.lost_percent, 100);
        let delay = if state.delay_ms.is_empty() { 0 } else { random.random_range(state.delay_ms.clone()) };
        (arrives, Duration::from_millis(delay))
    }

    fn repeats(&self) -> bool {
        rand::rng().random_ratio(self.state.lock().unwrap().lost_percent, 100)
    }

    fn life(&self, node: NodeId) -> u32 {
        self.state.lock().unwrap().lives.get(&node).copied().unwrap_or(0)
    }

    fn member(&self, node: NodeId) -> Option<Group> {
        self.state.lock().unwrap().members.get(&node).cloned()
    }
}

/// One member's end of the network.
struct Wire {
    node: NodeId,
    life: u32,
    net: Arc<Net>,
}

impl Rpc for Wire {
    fn call(&self, to: NodeId, request: Bytes, _limit: Duration) -> BoxFuture<'_, Result<Bytes, RpcError>> {
        Box::pin(async move {
            if self.net.life(self.node) != self.life {
                return std::future::pending().await;
            }
            if let Some(recorded) = &mut self.net.state.lock().unwrap().recorded {
                recorded.push((self.node, request.clone()));
            }
            let (arrives, delay) = self.net.way(self.node, to);
            tokio::time::sleep(delay).await;
            if !arrives {
                return std::future::pending().await;
            }
            let Some(member) = self.net.member(to) else {
                return Err(RpcError::Connect(ConnectError::Unreachable("connection refused".into())));
            };
            if self.net.repeats() {
                let (member, from, request) = (member.clone(), self.node, request.clone());
                tokio::spawn(async move { member.serve(from, request).await });
            }
            // A member goes on with a request whose sender has given up.
            let from = self.node;
            let answer = tokio::spawn(async move { member.serve(from, request).await }).await;
            let (arrives, delay) = self.net.way(to, self.node);
            tokio::time::sleep(delay).await;
            if !arrives {
                return std::future::pending().await;
            }
            answer.map_err(|_| RpcError::Broken)
        })
    }
}

/// A disk in memory that remembers what was synced.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk(Arc<Mutex<DiskState>>);

#[derive(Debug, Default)]
struct DiskState {
    live: Vec<u8>,
    synced: Vec<u8>,
    dirty: Vec<Range<usize>>,
    syncs: usize,
    /// Its process is dead: nothing more reaches it.
    dead: bool,
}

impl Disk {
    /// Kills the process that uses the disk. What comes back is the disk as the next process finds it: all that was
    /// written, or after a power loss what was synced.
    pub fn kill(&self, power_loss: bool) -> Disk {
        let mut state = self.0.lock().unwrap();
        state.dead = true;
        let bytes = if power_loss { state.synced.clone() } else { state.live.clone() };
        Disk(Arc::new(Mutex::new(DiskState { live: bytes.clone(), synced: bytes, ..DiskState::default() })))
    }

    pub fn syncs(&self) -> usize {
        self.0.lock().unwrap().syncs
    }

    fn alive(&self) -> io::Result<std::sync::MutexGuard<'_, DiskState>> {
        let state = self.0.lock().unwrap();
        if state.dead { Err(io::Error::other("the process is dead")) } else { Ok(state) }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.alive()?.live.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.alive()?;
        let range = offset as usize..offset as usize + out.len();
        out.copy_from_slice(state.live.get(range).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.alive()?;
        state.live.resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut guard = self.alive()?;
        let state = &mut *guard;
        state.synced.resize(state.live.len(), 0);
        for range in state.dirty.drain(..) {
            let end = range.end.min(state.live.len());
            if range.start < end {
                state.synced[range.start..end].copy_from_slice(&state.live[range.start..end]);
            }
        }
        state.syncs += 1;
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.alive()?;
        let range = offset as usize..offset as usize + data.len();
        state.live.get_mut(range.clone()).ok_or(io::ErrorKind::UnexpectedEof)?.copy_from_slice(data);
        state.dirty.push(range);
        Ok(())
    }
}

/// Members with their disks.
pub(super) struct Cluster {
    pub net: Arc<Net>,
    disks: BTreeMap<usize, Disk>,
    tuning: Tuning,
}

impl Cluster {
    /// The first `count` nodes, joined, each with a silo; three of them vote if there are as many.
    pub async fn new(count: usize, tuning: Tuning) -> Cluster {
        if std::env::var("RUST_LOG").is_ok() {
            // A second test in the same process finds it set.
            let _ =
                tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).try_init();
        }
        let mut cluster = Cluster { net: Arc::default(), disks: BTreeMap::new(), tuning };
        cluster.start(0).await;
        cluster.group(0).bootstrap(genesis()).await.unwrap();
        cluster.group(0).propose(open_silo(0), LONG).await.unwrap();
        for index in 1..count {
            cluster.join(index, Role::Storage).await;
            cluster.group(0).propose(open_silo(index), LONG).await.unwrap();
        }
        let voters = if count < 3 { 1 } else { 3 };
        for index in 0..count {
            cluster.settled(index, |status| status.has_quorum && status.voters.len() == voters).await;
        }
        cluster
    }

    /// Starts a node that knows the first one, and has it admitted there.
    pub async fn join(&mut self, index: usize, role: Role) {
        self.start(index).await;
        self.group(0).propose(join(index, role), LONG).await.unwrap();
    }

    pub async fn start(&mut self, index: usize) {
        let disk = self.disks.entry(index).or_default().clone();
        let options = GroupOptions {
            node: node(index),
            storage: Storage::Shared(LogFile::open_on(disk).await.unwrap()),
            rpc: Arc::new(Wire { node: node(index), life: self.net.life(node(index)), net: Arc::clone(&self.net) }),
            peers: vec![node(0)],
            tuning: self.tuning,
        };
        let group = Group::start(options).await.unwrap();
        self.net.state.lock().unwrap().members.insert(node(index), group);
    }

    /// The process of a node dies at once.
    pub fn kill(&mut self, index: usize, power_loss: bool) {
        let disk = self.disks[&index].kill(power_loss);
        self.disks.insert(index, disk);
        let mut state = self.net.state.lock().unwrap();
        *state.lives.entry(node(index)).or_default() += 1;
        let group = state.members.remove(&node(index));
        drop(state);
        drop(group);
    }

    pub fn group(&self, index: usize) -> Group {
        self.net.member(node(index)).unwrap()
    }

    pub fn disk(&self, index: usize) -> &Disk {
        &self.disks[&index]
    }

    /// Waits until a member's status is as wanted.
    pub async fn settled(&self, index: usize, wanted: impl Fn(&GroupStatus) -> bool) -> GroupStatus {
        let mut status = self.group(index).watch_status();
        let settled = tokio::time::timeout(LONG, status.wait_for(|status| wanted(status))).await;
        match settled {
            Ok(status) => status.unwrap().clone(),
            Err(_) => panic!("node {index} is {:?}", self.group(index).status()),
        }
    }

    /// The member that leads, once all that run agree on one.
    pub async fn leader(&self, running: &[usize]) -> usize {
        let mut watches: Vec<_> = running.iter().map(|index| self.group(*index).watch_status()).collect();
        let agreed = async {
            loop {
                let leaders: BTreeSet<_> = watches.iter_mut().map(|watch| watch.borrow_and_update().leader).collect();
                if let (Some(Some(leader)), 1) = (leaders.first(), leaders.len()) {
                    return usize::from(leader.0[0]) - 1;
                }
                let changes = watches.iter_mut().map(|watch| Box::pin(watch.changed()));
                futures::future::select_all(changes).await.0.unwrap();
            }
        };
        tokio::time::timeout(LONG, agreed).await.expect("the members agree on a leader")
    }
}

pub(super) fn genesis() -> Command {
    Command::Genesis(Genesis {
        network: NetworkId([9; 32]),
        name: "test".into(),
        founder: node(0),
        member: member(0, Role::Storage),
        at: 1,
    })
}

fn member(index: usize, role: Role) -> NewMember {
    NewMember {
        name: format!("host-{index}"),
        role,
        passport: vec![index as u8; 200],
        data_addresses: vec![],
        discovery_addresses: vec![],
        zone: None,
    }
}

pub(super) fn join(index: usize, role: Role) -> Command {
    Command::Join(Join {
        node: node(index),
        member: member(index, role),
        invitation: Invitation { id: InvitationId([1; 16]), uses_max: 100, expires_at: 1_000 },
        at: 2 + index as u64,
    })
}

pub(super) fn open_silo(index: usize) -> Command {
    Command::OpenSilo(SiloOpening {
        silo: SiloId([index as u8 + 1; 16]),
        node: node(index),
        capacity_bytes: 1 << 40,
        chain: vec![Incarnation(1)],
    })
}

pub(super) const VOLUME: VolumeId = VolumeId([7; 16]);

pub(super) fn create_volume(name: &str, id: VolumeId, replicas: u8) -> Command {
    let policy = Policy { replicas, ..Policy::default() };
    Command::CreateVolume(VolumeCreation { id, name: name.into(), size_bytes: 1 << 30, policy, at: 3 })
}

pub(super) fn take_over(index: usize) -> Command {
    Command::Attach { volume: VOLUME, node: node(index), mode: AttachMode::Takeover, at: 4 }
}
