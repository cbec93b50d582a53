//! Volumes attached to this node: the writer of each, and the NBD server that its clients talk to.

mod maintenance;
mod proposals;
mod recovery;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::base::clock::wall_seconds;
use crate::base::error::{Fault, Kind, Result};
use crate::base::id::{Epoch, NodeId, SlotIndex, VolumeId};
use crate::cluster::consensus::Group;
use crate::cluster::replication::driver::{DriverHandle, Life, Target};
use crate::cluster::replication::service::Silos;
use crate::cluster::replication::writer::report::Report;
use crate::cluster::replication::writer::{
    Distance, Durability, RETAINED_BYTES_MIN, RETAINED_NODE_BYTES_MAX, Request, WriterOptions,
};
use crate::cluster::state::ClusterState;
use crate::cluster::state::command::{AttachMode, Command, Outcome};
use crate::cluster::state::volume::{self, OnNoQuorum, Volume};
use crate::daemon::api::{AttachVolume, NbdAddress};
use crate::daemon::attachments::recovery::Grounds;
use crate::daemon::data_runtime::DataHandle;
use crate::daemon::home::{self, Home};
use crate::daemon::peers::{Ask, AttachedReport, Peers, Told, not_reached};
use crate::interface::nbd::{Address, Counters, Export, Exports, Refusal, Server};
use crate::transport::network::Network;
use crate::volume::block::attached::AttachedVolume;

/// How long an attach waits for a majority if it is not told.
pub const ATTACH_LIMIT: Duration = Duration::from_secs(30);
/// How long a question to the cluster group may take.
pub const GROUP_LIMIT: Duration = Duration::from_secs(5);
/// How long the old holder may take to flush and let go before the lease is waited out instead.
const HAND_OVER_LIMIT: Duration = Duration::from_secs(3);
/// How long a flush may take at a detach before the volume is let go all the same, if it is forced.
pub const DETACH_LIMIT: Duration = Duration::from_secs(30);
/// How long the end of a lease may take.
const RELEASE_LIMIT: Duration = Duration::from_millis(1500);

/// The attached volumes of this node. Cheap to clone.
#[derive(Clone)]
pub struct Attachments {
    shared: Arc<Shared>,
}

struct Shared {
    node: NodeId,
    home: Home,
    group: Group,
    peers: Peers,
    silos: Silos,
    network: Arc<dyn Network>,
    data: DataHandle,
    open: Mutex<BTreeMap<VolumeId, Arc<Attached>>>,
    /// Counts how often that changed.
    changes: watch::Sender<u64>,
    /// One attach or detach at a time: they are rare, and their steps must not mix.
    turn: tokio::sync::Mutex<()>,
}

/// One attached volume.
pub struct Attached {
    pub volume: VolumeId,
    pub name: String,
    pub epoch: Epoch,
    pub uri: String,
    pub counters: Arc<Counters>,
    driver: DriverHandle,
    address: NbdAddress,
    server: Mutex<Option<Server>>,
}

/// `exports.toml`: what to resume after a restart.
#[derive(Default, Serialize, Deserialize)]
struct ExportsFile {
    #[serde(default)]
    export: Vec<ExportEntry>,
}

#[derive(Clone, Serialize, Deserialize)]
struct ExportEntry {
    volume: VolumeId,
    name: String,
    nbd: NbdAddress,
}

/// The single export of an attached volume's server.
struct OneExport {
    name: String,
    export: Export,
}

impl Exports for OneExport {
    fn list(&self) -> Vec<String> {
        vec![self.name.clone()]
    }

    fn find(&self, name: &str) -> std::result::Result<Export, Refusal> {
        if name == self.name { Ok(self.export.clone()) } else { Err(Refusal::Unknown) }
    }
}

impl Attachments {
    pub fn new(
        node: NodeId,
        home: Home,
        group: Group,
        peers: Peers,
        silos: Silos,
        network: Arc<dyn Network>,
        data: DataHandle,
    ) -> Attachments {
        let shared = Shared {
            node,
            home,
            group,
            peers,
            silos,
            network,
            data,
            open: Mutex::default(),
            changes: watch::Sender::default(),
            turn: tokio::sync::Mutex::default(),
        };
        Attachments { shared: Arc::new(shared) }
    }

    /// Changes whenever a volume is attached here, or is no more.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    /// All volumes attached here.
    pub fn all(&self) -> Vec<(VolumeId, Arc<Attached>)> {
        self.shared.open().iter().map(|(id, attached)| (*id, attached.clone())).collect()
    }

    pub fn get(&self, volume: VolumeId) -> Option<Arc<Attached>> {
        self.shared.open().get(&volume).cloned()
    }

    /// The volume of this name, if its writer here holds it as far as is known here.
    fn serving(&self, name: &str) -> Option<Arc<Attached>> {
        let serves = |attached: &&Arc<Attached>| {
            attached.name == name && matches!(*attached.driver.life().borrow(), Life::Serving { .. })
        };
        self.shared.open().values().find(serves).cloned()
    }

    /// Makes this node the volume's writer and serves it. Attaching again what is attached here, at the same address,
    /// changes nothing.
    pub async fn attach(&self, name: &str, request: &AttachVolume) -> Result<Arc<Attached>> {
        let limit = request.timeout_ms.map_or(ATTACH_LIMIT, Duration::from_millis);
        let end = Instant::now() + limit;
        let address = match &request.nbd {
            Some(address) => address.clone(),
            None => NbdAddress::Unix(self.shared.home.nbd_socket(name)),
        };
        // What is served here needs nobody's leave, nor a quorum, to say where.
        if let Some(attached) = self.serving(name) {
            return self.again(&attached, &address, request.nbd.is_some());
        }
        let _turn = timeout(limit, self.shared.turn.lock()).await.map_err(|_| busy(name))?;
        let state = self.shared.group.current(limit.min(GROUP_LIMIT)).await?;
        let (id, volume) = find(&state, name)?;
        if let Some(attached) = self.get(id) {
            return self.again(&attached, &address, request.nbd.is_some());
        }
        let bound = to_address(&address)?;
        let mode = self.mode(&state, id, volume, request.takeover).await?;
        let epoch = self.grant(id, mode, limit.min(GROUP_LIMIT)).await?;
        let (driver, epoch, _) = match self.recover(id, epoch, Grounds::default(), end).await {
            Ok(recovered) => recovered,
            Err(stuck) => {
                self.give_back(id).await;
                return Err(stuck.fault(&state, volume));
            }
        };
        match self.serve(id, name, volume, epoch, driver.clone(), address, bound).await {
            Ok(attached) => Ok(attached),
            Err(fault) => {
                driver.release();
                self.give_back(id).await;
                Err(fault)
            }
        }
    }

    fn again(&self, attached: &Arc<Attached>, address: &NbdAddress, asked: bool) -> Result<Arc<Attached>> {
        if asked && attached.address != *address && to_uri(address, &attached.name) != Some(attached.uri.clone()) {
            return Err(Fault::conflict(format!(
                "volume '{}' is attached here already, at {}",
                attached.name, attached.uri
            ))
            .hint(format!("infinit volume detach {}", attached.name)));
        }
        Ok(attached.clone())
    }

    /// On which ground to ask for the epoch. With `--takeover` the old holder is asked to let go first; if it does
    /// not answer, its lease is waited out.
    async fn mode(&self, state: &ClusterState, id: VolumeId, volume: &Volume, takeover: bool) -> Result<AttachMode> {
        let Some(attachment) = &volume.attachment else { return Ok(AttachMode::Fresh) };
        if attachment.node == self.shared.node {
            return Ok(AttachMode::Takeover);
        }
        if !takeover {
            // The cluster group refuses it too; asked here first, the message can name the node.
            return Ok(AttachMode::Fresh);
        }
        let ask = Ask::HandOver { volume: id, epoch: attachment.epoch };
        match self.shared.peers.ask(attachment.node, &ask, HAND_OVER_LIMIT).await {
            Ok(Told::Done(Ok(()))) => {
                tracing::info!("{} let go of '{}'", state.node_label(attachment.node), volume.name)
            }
            Ok(_) | Err(_) => tracing::warn!(
                "{} does not let go of '{}': its lease of {} ms is waited out",
                state.node_label(attachment.node),
                volume.name,
                volume.policy.lease_ms
            ),
        }
        Ok(AttachMode::Takeover)
    }

    /// Asks the cluster group for the next epoch.
    async fn grant(&self, id: VolumeId, mode: AttachMode, limit: Duration) -> Result<Epoch> {
        let command = Command::Attach { volume: id, node: self.shared.node, mode, at: wall_seconds() };
        match self.shared.group.propose(command, limit).await? {
            Outcome::Granted { epoch } => Ok(epoch),
            _ => Err(Fault::failed("the cluster answered an attach with something else")),
        }
    }

    fn writer_options(
        &self,
        state: &ClusterState,
        id: VolumeId,
        volume: &Volume,
        epoch: Epoch,
        grounds: Grounds,
    ) -> WriterOptions {
        let silos = volume.slots.iter().flat_map(|slot| &slot.silos);
        let known = silos.filter_map(|silo| Some((*silo, state.silos.get(silo)?)));
        WriterOptions {
            volume: id,
            epoch,
            node: self.shared.node,
            // This daemon holds its home's lock and runs one writer a volume, so every earlier epoch of it is dead.
            own_dead: true,
            resumes: grounds.resumes,
            accept_loss: grounds.accept_loss,
            lease: Duration::from_millis(u64::from(volume.policy.lease_ms)),
            durability: match volume.policy.durability {
                volume::Durability::Flush => Durability::Flush,
                volume::Durability::Write => Durability::Write,
            },
            io_timeout: match volume.policy.on_no_quorum {
                OnNoQuorum::Suspend => None,
                OnNoQuorum::Error { after_ms } => Some(Duration::from_millis(after_ms.into())),
            },
            slot_bytes: volume.slot_bytes,
            slots: volume.slots.iter().map(|slot| (slot.config, slot.silos.clone())).collect(),
            incarnations: known.map(|(silo, info)| (silo, info.incarnation)).collect(),
            // Of all silos: the slots may come to have others.
            distances: state
                .silos
                .iter()
                .filter_map(|(id, info)| Some((*id, self.distance(state, info.node)?)))
                .collect(),
        }
    }

    fn distance(&self, state: &ClusterState, node: NodeId) -> Option<Distance> {
        if node == self.shared.node {
            return Some(Distance::Here);
        }
        let zone = |node| state.members.get(&node)?.zone.as_ref();
        (zone(node)? == zone(self.shared.node)?).then_some(Distance::Zone)
    }

    #[allow(clippy::too_many_arguments)]
    async fn serve(
        &self,
        id: VolumeId,
        name: &str,
        volume: &Volume,
        epoch: Epoch,
        driver: DriverHandle,
        address: NbdAddress,
        bound: Address,
    ) -> Result<Arc<Attached>> {
        if let NbdAddress::Unix(path) = &address
            && let Some(dir) = path.parent()
        {
            home::create_dir(dir)?;
        }
        let device = AttachedVolume::new(driver.clone(), volume.size_bytes, volume.slot_bytes);
        let export = Export::new(Arc::new(device));
        let counters = export.counters.clone();
        let exports = Arc::new(OneExport { name: name.to_owned(), export });
        let starting = self.shared.data.spawn(async move { Server::start(&bound, exports).await });
        let server = starting.await.map_err(|error| Fault::failed(error.to_string()))??;
        let uri = server.uri(name);
        // A port that was picked is kept, so that clients find the export again after a restart.
        let address = match server.address() {
            Address::Unix(path) => NbdAddress::Unix(path.clone()),
            Address::Tcp(address) => NbdAddress::Tcp(*address),
        };
        let attached = Arc::new(Attached {
            volume: id,
            name: name.to_owned(),
            epoch,
            uri,
            counters,
            driver,
            address,
            server: Mutex::new(Some(server)),
        });
        self.shared.open().insert(id, attached.clone());
        self.shared.share_memory();
        self.shared.save_exports();
        tokio::spawn(watch_over(self.clone(), attached.clone()));
        tracing::info!("volume '{name}' is attached with epoch {epoch}: {}", attached.uri);
        Ok(attached)
    }

    /// An attach failed after its epoch was granted: the volume is free again, unless somebody took it meanwhile.
    async fn give_back(&self, id: VolumeId) {
        let state = self.shared.group.state().borrow().clone();
        let Some(attachment) = state.volumes.get(&id).and_then(|volume| volume.attachment.clone()) else { return };
        if attachment.node == self.shared.node {
            let command = Command::Detach { volume: id, epoch: attachment.epoch };
            if let Err(error) = self.shared.group.propose(command, GROUP_LIMIT).await {
                tracing::warn!("cannot give a volume back: {error}");
            }
        }
    }

    /// Flushes, ends the lease and lets go of a volume attached here; false if it is not.
    pub async fn detach(&self, id: VolumeId, limit: Duration) -> Result<bool> {
        let end = Instant::now() + limit;
        let name = self.get(id).map(|attached| attached.name.clone()).unwrap_or_default();
        let _turn = timeout(limit, self.shared.turn.lock()).await.map_err(|_| busy(&name))?;
        let Some(attached) = self.get(id) else { return Ok(false) };
        attached.let_go(end.saturating_duration_since(Instant::now())).await?;
        self.forget(&attached);
        let command = Command::Detach { volume: id, epoch: attached.epoch };
        self.shared.group.propose(command, GROUP_LIMIT).await?;
        tracing::info!("volume '{}' is detached", attached.name);
        Ok(true)
    }

    /// Another node takes over: flush, end the lease, and let go. The cluster state is the other's to change.
    pub async fn hand_over(&self, id: VolumeId, epoch: Epoch) -> Result<()> {
        let _turn = self.shared.turn.lock().await;
        let Some(attached) = self.get(id).filter(|attached| attached.epoch == epoch) else { return Ok(()) };
        attached.let_go(HAND_OVER_LIMIT).await?;
        self.forget(&attached);
        tracing::info!("volume '{}' is handed over", attached.name);
        Ok(())
    }

    /// Detaches everything, for a graceful stop. What cannot be flushed in time stays attached: it is resumed at the
    /// next start, as after a crash.
    pub async fn detach_all(&self, limit: Duration) {
        let all: Vec<VolumeId> = self.shared.open().keys().copied().collect();
        let detached = all.into_iter().map(|id| async move {
            if let Err(fault) = self.detach(id, limit).await {
                tracing::warn!("a volume stays attached: {fault}");
            }
        });
        futures::future::join_all(detached).await;
    }

    /// Stops serving, for a restart: what is in flight is answered and flushed, and everything stays attached, to be resumed at
    /// the next start as after a crash, and sooner. Clients that connect again go on.
    pub async fn leave_attached(&self, limit: Duration) {
        let all = self.all();
        let left = all.iter().map(|(_, attached)| async move {
            if let Err(fault) = attached.let_go(limit).await {
                tracing::warn!("{fault}");
            }
        });
        futures::future::join_all(left).await;
    }

    /// After a restart: attaches again what was attached here, if nothing answered was lost (rule 15).
    pub async fn resume_all(&self) {
        let file: ExportsFile = match home::load(&self.shared.home.file("exports.toml")) {
            Ok(file) => file,
            Err(_) if !self.shared.home.file("exports.toml").exists() => return,
            Err(fault) => {
                tracing::error!("{fault}: no volume is attached again");
                return;
            }
        };
        for entry in file.export {
            let attachments = self.clone();
            tokio::spawn(async move { attachments.resume(entry).await });
        }
    }

    async fn resume(&self, entry: ExportEntry) {
        // Whatever epochs the attempts take, what the clients believe in is the one before them all.
        let mut believed = None;
        loop {
            match self.try_resume(&entry, &mut believed).await {
                Ok(()) => return,
                Err(fault) if fault.kind == Kind::Refused => {
                    tracing::error!("volume '{}' is not attached again: {fault}", entry.name);
                    return;
                }
                Err(fault) => {
                    tracing::warn!("volume '{}' is not attached again yet: {fault}", entry.name);
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
            }
        }
    }

    async fn try_resume(&self, entry: &ExportEntry, believed: &mut Option<Epoch>) -> Result<()> {
        let state = self.shared.group.current(GROUP_LIMIT).await?;
        let _turn = self.shared.turn.lock().await;
        if self.get(entry.volume).is_some() {
            return Ok(());
        }
        let Some(volume) = state.volumes.get(&entry.volume) else { return Ok(()) };
        let mine = volume.attachment.as_ref().filter(|a| a.node == self.shared.node && !a.export_closed);
        let Some(attachment) = mine else {
            tracing::warn!("volume '{}' was taken over or detached while this node was down", entry.name);
            return Ok(());
        };
        let resumes = Some(*believed.get_or_insert(attachment.epoch));
        let mode = AttachMode::Resume { epoch: attachment.epoch };
        let epoch = self.grant(entry.volume, mode, GROUP_LIMIT).await?;
        let end = Instant::now() + ATTACH_LIMIT;
        let grounds = Grounds { resumes, accept_loss: false };
        let recovered = self.recover(entry.volume, epoch, grounds, end).await;
        let (driver, epoch, resumed) = recovered.map_err(|stuck| stuck.fault(&state, volume))?;
        if resumed == Some(true) {
            let bound = to_address(&entry.nbd)?;
            self.serve(entry.volume, &entry.name, volume, epoch, driver, entry.nbd.clone(), bound).await?;
            return Ok(());
        }
        tracing::error!(
            "volume '{}' was attached here when the machines lost power: its old clients are not served again, \
             because answers they had may be lost; attach it anew",
            entry.name
        );
        driver.release();
        let command = Command::CloseExport { volume: entry.volume, epoch };
        self.shared.group.propose(command, GROUP_LIMIT).await?;
        self.shared.save_exports();
        Ok(())
    }

    /// How a volume attached here stands.
    pub async fn report(&self, id: VolumeId) -> Option<AttachedReport> {
        let attached = self.get(id)?;
        let report = attached.driver.report().await;
        Some(AttachedReport::new(attached.uri.clone(), report, attached.counters.counts()))
    }

    /// Removes a volume from the open ones, if it is still this attachment.
    fn forget(&self, attached: &Arc<Attached>) {
        let mut open = self.shared.open();
        if open.get(&attached.volume).is_some_and(|present| Arc::ptr_eq(present, attached)) {
            open.remove(&attached.volume);
        }
        drop(open);
        self.shared.share_memory();
        self.shared.save_exports();
    }

    /// Asks the node that a volume is attached to for its detach.
    pub async fn detach_elsewhere(&self, name: &str, node: NodeId, id: VolumeId, limit: Duration) -> Result<()> {
        let ask = Ask::Detach { volume: id, limit_ms: limit.as_millis() as u64 };
        match self.shared.peers.ask(node, &ask, limit + Duration::from_secs(1)).await {
            Ok(Told::Done(result)) => result,
            Ok(_) => Err(Fault::failed(format!("node {name} answered something else"))),
            Err(error) => Err(not_reached(name, &error)),
        }
    }
}

impl Shared {
    fn open(&self) -> MutexGuard<'_, BTreeMap<VolumeId, Arc<Attached>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives each attached volume its share of the writes that this node remembers (rule 4).
    fn share_memory(&self) {
        self.changes.send_modify(|changes| *changes += 1);
        let open = self.open();
        let share = (RETAINED_NODE_BYTES_MAX / open.len().max(1)).max(RETAINED_BYTES_MIN);
        open.values().for_each(|attached| attached.driver.set_retained_bytes_max(share));
    }

    /// Remembers what to resume. Without it a restart only means to attach by hand.
    fn save_exports(&self) {
        let export = self
            .open()
            .values()
            .map(|a| ExportEntry { volume: a.volume, name: a.name.clone(), nbd: a.address.clone() })
            .collect();
        if let Err(fault) = home::save(&self.home.file("exports.toml"), &ExportsFile { export }) {
            tracing::warn!("{fault}");
        }
    }
}

impl Attached {
    /// How its writer stands; none once it has ended.
    pub async fn report(&self) -> Option<Report> {
        self.driver.report().await
    }

    /// A slot is to have these silos from now on.
    pub fn reconfigure(&self, slot: SlotIndex, target: Vec<Target>) {
        self.driver.reconfigure(slot, target);
    }

    /// Answers what is in flight, flushes, and ends the lease.
    async fn let_go(&self, limit: Duration) -> Result<()> {
        let server = self.server.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(server) = server {
            server.stop().await;
        }
        let flushed = timeout(limit, self.driver.request(Request::Flush)).await;
        self.driver.release();
        let mut life = self.driver.life();
        // The lease ends by itself if the silos cannot be reached.
        let _ = timeout(RELEASE_LIMIT, life.wait_for(|l| *l == Life::Released)).await;
        match flushed {
            Ok(_) => Ok(()),
            Err(_) => Err(Fault::timed_out(format!(
                "volume '{}' could not be flushed in time: a majority of its silos is missing",
                self.name
            ))
            .hint("infinit volume status")),
        }
    }
}

/// Steps down when another writer takes over.
async fn watch_over(attachments: Attachments, attached: Arc<Attached>) {
    let mut life = attached.driver.life();
    let mut state: watch::Receiver<Arc<ClusterState>> = attachments.shared.group.state();
    loop {
        tokio::select! {
            ended = was_fenced(&mut life) => {
                if ended {
                    fenced_off(&attachments, &attached).await;
                }
                return;
            }
            changed = state.changed() => {
                if changed.is_err() {
                    return;
                }
                let now = state.borrow_and_update().clone();
                match now.volumes.get(&attached.volume) {
                    Some(volume) if volume.epoch > attached.epoch => attached.driver.fence(volume.epoch),
                    Some(_) => {}
                    None => attached.driver.fence(attached.epoch),
                }
            }
        }
    }
}

/// Waits until the writer ends; whether because another took over.
async fn was_fenced(life: &mut watch::Receiver<Life>) -> bool {
    let ended = life.wait_for(|life| !matches!(life, Life::Serving { .. } | Life::Recovering)).await;
    matches!(ended.as_deref(), Ok(Life::Fenced { .. } | Life::GaveUp))
}

async fn fenced_off(attachments: &Attachments, attached: &Arc<Attached>) {
    tracing::warn!(
        "volume '{}' was fenced: another node took over from epoch {}; its clients here are cut off",
        attached.name,
        attached.epoch
    );
    let server = attached.server.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(server) = server {
        server.abort();
        server.stop().await;
    }
    attachments.forget(attached);
}

pub fn find<'a>(state: &'a ClusterState, name: &str) -> Result<(VolumeId, &'a Volume)> {
    state.volume_named(name).ok_or_else(|| {
        Fault::not_found(format!("there is no volume '{name}'")).hint("infinit volume list, or infinit volume create")
    })
}

fn to_address(address: &NbdAddress) -> Result<Address> {
    match address {
        NbdAddress::Unix(path) => Address::unix(PathBuf::clone(path)),
        NbdAddress::Tcp(address) => Address::tcp(*address),
    }
}

fn to_uri(address: &NbdAddress, name: &str) -> Option<String> {
    to_address(address).ok().map(|address| address.uri(name))
}

fn busy(name: &str) -> Fault {
    Fault::timed_out(format!("volume '{name}': another attach or detach on this node takes its time"))
        .hint("infinit status")
}
