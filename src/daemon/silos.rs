//! The silos of this node: opened at start, made known to the cluster, rid of volumes that were deleted.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::statvfs;
use tokio::sync::watch;

use crate::base::clock::Moment;
use crate::base::error::{Fault, Kind, Result, plain};
use crate::base::id::{ConfigNumber, Epoch, Incarnation, NetworkId, NodeId, SiloId, SlotKey, VolumeId};
use crate::base::units::Size;
use crate::cluster::consensus::{Group, ProposeError};
use crate::cluster::replication::service::{SiloHandle, SiloService, Silos};
use crate::cluster::state::ClusterState;
use crate::cluster::state::command::{Command, SiloOpening};
use crate::cluster::state::refusal::Refusal;
use crate::daemon::home::make_dir;
use crate::daemon::offline::SiloSpec;
use crate::daemon::peers::{SiloDetails, SiloLife};
use crate::daemon::vitals::{Pulse, Vitals};
use crate::store::disk::{Disk, RealDisk};
use crate::store::error::StoreError;
use crate::store::silo::{Silo, SiloOptions};
use crate::store::superblock;

/// How long one try to tell the cluster of a silo may take, and the pause between two.
const OPEN_LIMIT: Duration = Duration::from_secs(5);
const OPEN_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// The running silos of this node, and those that could not be opened.
pub struct NodeSilos {
    services: Vec<(SiloView, SiloService)>,
    shut: Vec<SiloLife>,
    registry: Silos,
}

impl NodeSilos {
    /// Opens every silo, formats those that are blank, and starts their threads. One that is damaged, or that its disk or
    /// a newer version keeps from being opened, is out of service, and says so; the node serves its others. A directory
    /// that was never a silo of this network is a mistake of whoever named it: nothing starts.
    pub fn open(specs: &[SiloSpec], network: NetworkId, node: NodeId) -> Result<NodeSilos> {
        let boot = boot_id()?;
        let mut silos = NodeSilos { services: Vec::new(), shut: Vec::new(), registry: Silos::default() };
        for spec in specs {
            let silo = match open_silo(spec, boot, network)? {
                Opened::Silo(silo) => *silo,
                Opened::Shut(life) => {
                    tracing::error!("{}", life.fault.as_deref().unwrap_or_default());
                    silos.registry.insert_shut(life.id, life.fault.clone().unwrap_or_default());
                    silos.shut.push(life);
                    continue;
                }
            };
            let capacity = silo.capacity_bytes();
            tracing::info!("silo {} at {}: {}", silo.id().short(), spec.path.display(), Size(capacity));
            let service = SiloService::start(silo, node, boot, tokio::runtime::Handle::current())
                .map_err(|error| Fault::io("start the threads of", &spec.path, &error))?;
            silos.registry.insert(service.handle().clone());
            let handle = service.handle().clone();
            let vitals = Vitals::new(handle.clone());
            silos
                .services
                .push((SiloView { path: spec.path.clone(), capacity_bytes: capacity, handle, vitals }, service));
        }
        Ok(silos)
    }

    pub fn registry(&self) -> &Silos {
        &self.registry
    }

    /// The silos as the rest of the daemon sees them.
    pub fn views(&self) -> SiloViews {
        SiloViews { open: self.services.iter().map(|(view, _)| view.clone()).collect(), shut: self.shut.clone().into() }
    }

    /// Stops every silo and closes it cleanly.
    pub fn stop(self) {
        for (view, service) in self.services {
            if let Err(error) = service.stop() {
                tracing::error!("silo {} was not closed cleanly: {error}", view.path.display());
            }
        }
    }
}

/// The silos of this node as the rest of the daemon sees them: the open ones, as a slice, and what is told of the others.
#[derive(Clone)]
pub struct SiloViews {
    open: Vec<SiloView>,
    shut: Arc<[SiloLife]>,
}

impl SiloViews {
    /// How all of them are. Never waits for a disk.
    pub fn lives(&self) -> Vec<SiloLife> {
        self.open.iter().map(SiloView::life).chain(self.shut.iter().cloned()).collect()
    }
}

impl std::ops::Deref for SiloViews {
    type Target = [SiloView];

    fn deref(&self) -> &[SiloView] {
        &self.open
    }
}

/// A silo as the rest of the daemon sees it.
#[derive(Clone)]
pub struct SiloView {
    pub path: PathBuf,
    pub capacity_bytes: u64,
    pub handle: SiloHandle,
    pub vitals: Vitals,
}

impl SiloView {
    /// Never waits for the disk.
    pub fn life(&self) -> SiloLife {
        let Pulse { space, fault, foreign, stalled } = self.vitals.pulse(Moment::now());
        SiloLife {
            id: self.handle.id(),
            path: self.path.clone(),
            capacity_bytes: self.capacity_bytes,
            used_bytes: space.used_bytes,
            fault,
            foreign,
            stalled_ms: stalled.map(|owed| owed.as_millis() as u64),
        }
    }

    /// Neither does this.
    pub fn details(&self) -> SiloDetails {
        let space = self.vitals.pulse(Moment::now()).space;
        SiloDetails { id: self.handle.id(), space, scrub: self.handle.scrub_report() }
    }
}

/// A silo that was to be opened.
enum Opened {
    Silo(Box<Silo>),
    /// There is one, and it is out of service.
    Shut(SiloLife),
}

fn open_silo(spec: &SiloSpec, boot: [u8; 16], network: NetworkId) -> Result<Opened> {
    let io_fault = |doing: &str, error: &std::io::Error| disk_fault(&spec.path, doing, error);
    make_dir(&spec.path).map_err(|error| io_fault("create this directory", &error))?;
    let fault = |error: StoreError| store_fault(&spec.path, &error);
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(&spec.path));
    if superblock::network(&disk).is_some_and(|formatted_for| formatted_for != network) {
        return Err(Fault::refused(format!("the silo at {} belongs to another network", spec.path.display()))
            .hint("choose an empty directory: infinit node run --silo PATH"));
    }
    let stat = statvfs(&spec.path).map_err(|error| io_fault("look at it", &error.into()))?;
    let disk_bytes = stat.f_blocks * stat.f_frsize;
    let capacity_bytes = spec.capacity.map_or(disk_bytes, |size| size.0.min(disk_bytes));
    if let Some(told) = spec.capacity.filter(|told| told.0 > disk_bytes) {
        // More would draw more copies here than there can be room for.
        tracing::warn!(
            "silo {}: its capacity is {told}, and its disk has {}: that counts",
            spec.path.display(),
            Size(disk_bytes)
        );
    }
    let options = SiloOptions::new(capacity_bytes, Incarnation(rand::random()), boot);
    let silo = match Silo::open(disk.clone(), options.clone()) {
        Err(StoreError::NotFormatted | StoreError::HalfFormatted) => {
            Silo::format_for(disk.clone(), SiloId::random(), network).map_err(fault)?;
            Silo::open(disk, options).map_err(fault)?
        }
        Err(error) if puts_out_of_service(&error) => {
            let told = fault(error);
            let hint = told.hint.map(|hint| format!("; {hint}")).unwrap_or_default();
            return Ok(Opened::Shut(SiloLife {
                // Without a readable superblock nobody knows which one it is.
                id: superblock::identify(&disk).unwrap_or_default(),
                path: spec.path.clone(),
                capacity_bytes,
                used_bytes: 0,
                fault: Some(format!("{}{hint}", told.message)),
                foreign: None,
                stalled_ms: None,
            }));
        }
        opened => opened.map_err(fault)?,
    };
    Ok(Opened::Silo(Box::new(silo)))
}

/// Whether a silo that cannot be opened for this is one all the same: it was one, and its node has others to serve.
fn puts_out_of_service(error: &StoreError) -> bool {
    use std::io::ErrorKind;
    match error {
        StoreError::Damaged(_) | StoreError::Newer { .. } | StoreError::NoSpace | StoreError::Index(_) => true,
        StoreError::Faulted(_) => true,
        StoreError::Io { error, .. } => !matches!(
            error.kind(),
            ErrorKind::PermissionDenied | ErrorKind::NotADirectory | ErrorKind::AlreadyExists | ErrorKind::NotFound
        ),
        StoreError::Locked
        | StoreError::NotFormatted
        | StoreError::HalfFormatted
        | StoreError::AlreadyFormatted(_)
        | StoreError::Foreign(_)
        | StoreError::UnknownSlot(_)
        | StoreError::BadRecord(_)
        | StoreError::OutOfRange
        | StoreError::BadBlock { .. } => false,
    }
}

/// A directory that cannot be made or used, and what to do about it.
fn disk_fault(path: &Path, doing: &str, error: &std::io::Error) -> Fault {
    use std::io::ErrorKind;
    const ANOTHER: &str = "infinit node run --silo PATH";
    let (kind, hint) = match error.kind() {
        ErrorKind::PermissionDenied => {
            (Kind::Refused, format!("run this as a user who may write there, or choose another directory: {ANOTHER}"))
        }
        ErrorKind::ReadOnlyFilesystem => {
            (Kind::Failed, format!("mount it for writing, or choose a directory on another file system: {ANOTHER}"))
        }
        ErrorKind::NotADirectory | ErrorKind::AlreadyExists => {
            (Kind::Usage, format!("a file is in the way: choose a directory: {ANOTHER}"))
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            (Kind::Failed, format!("make room there, or choose another directory: {ANOTHER}"))
        }
        _ => (Kind::Failed, format!("choose a directory on a disk: {ANOTHER}")),
    };
    Fault::new(kind, format!("silo {}: cannot {doing}: {}", path.display(), plain(error))).hint(hint)
}

/// A store's error as a person is told.
fn store_fault(path: &Path, error: &StoreError) -> Fault {
    let (kind, hint) = match error {
        StoreError::Io { doing, error } => return disk_fault(path, doing, error),
        StoreError::Index(redb::Error::Io(error)) => return disk_fault(path, "use its index", error),
        StoreError::NoSpace => (Kind::Failed, "make room on that disk, or choose another directory with --silo"),
        StoreError::Locked => (Kind::Conflict, "stop the other daemon, or choose another --silo"),
        StoreError::Foreign(_) => (Kind::Refused, "choose an empty directory: infinit node run --silo PATH"),
        StoreError::Newer { .. } => (Kind::Failed, "install the newer infinit again"),
        _ => (
            Kind::Failed,
            "its volumes live on in their other copies: start with an empty one, infinit node run --silo PATH",
        ),
    };
    Fault::new(kind, format!("silo {}: {error}", path.display())).hint(hint)
}

/// The random id that Linux draws at each boot.
fn boot_id() -> Result<[u8; 16]> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let text = std::fs::read_to_string(path).map_err(|error| Fault::io("read", path, &error))?;
    let digits: String = text.trim().chars().filter(|c| *c != '-').collect();
    let id: VolumeId = digits.parse().map_err(|_| Fault::failed("the kernel's boot id reads unlike one"))?;
    Ok(id.0)
}

/// Tells the cluster of a silo's opening until it knows: until then the silo keeps its chain of incarnations.
pub async fn announce(view: SiloView, node: NodeId, may_store: bool, group: Group) {
    let mut state = group.state();
    let silo = view.handle.silo().clone();
    let opening = SiloOpening { silo: silo.id(), node, capacity_bytes: view.capacity_bytes, chain: silo.chain() };
    loop {
        match group.propose(Command::OpenSilo(opening.clone()), OPEN_LIMIT).await {
            Ok(_) => {
                view.handle.confirmed();
                return;
            }
            Err(ProposeError::Refused(Refusal::RoleGivesNoSilos { .. })) if may_store => {
                // It was a witness until now, and says so while this is asked.
                let holds_data =
                    |state: &Arc<ClusterState>| state.members.get(&node).is_some_and(|member| member.role.holds_data());
                if state.wait_for(holds_data).await.is_err() {
                    return;
                }
            }
            Err(ProposeError::Refused(refusal)) => {
                tracing::error!("silo {} is not taken into the cluster: {refusal}", view.path.display());
                view.vitals.retire(refusal.to_string());
                return;
            }
            Err(ProposeError::Stopped) => return,
            Err(ProposeError::NoQuorum | ProposeError::TimedOut | ProposeError::TooLarge) => {
                tokio::time::sleep(OPEN_AGAIN_AFTER).await;
            }
        }
    }
}

/// Lets the silos forget volumes once the cluster state says that they were deleted, and slots that others hold.
pub async fn forget_deleted(views: SiloViews, mut state: watch::Receiver<Arc<ClusterState>>) {
    let mut done: BTreeSet<VolumeId> = BTreeSet::new();
    loop {
        let now = state.borrow_and_update().clone();
        for view in views.iter() {
            let left = left_by(&now, view);
            if !left.is_empty() {
                view.handle.left(left);
            }
        }
        let fresh: Vec<VolumeId> = now.deleted.keys().filter(|id| !done.contains(id)).copied().collect();
        for volume in fresh {
            for view in views.iter() {
                if view.handle.silo().slots().iter().any(|(key, _)| key.volume == volume) {
                    view.handle.forget(volume);
                }
            }
            done.insert(volume);
        }
        if state.changed().await.is_err() {
            return;
        }
    }
}

/// The slots that a silo holds something of and is none of the silos of. Where copies are wanted still, it is likely to become
/// one again, and to lack little then.
fn left_by(state: &ClusterState, view: &SiloView) -> Vec<(SlotKey, Epoch, ConfigNumber)> {
    let silo = view.handle.silo();
    let held = silo.slots().into_iter().filter(|(_, held)| held.adopted > Epoch::ZERO || held.incomplete.is_some());
    held.filter_map(|(key, _)| {
        let volume = state.volumes.get(&key.volume)?;
        let placed = volume.slots.get(key.slot.0 as usize)?;
        let is_full = placed.silos.len() >= usize::from(volume.policy.replicas);
        (is_full && !placed.silos.contains(&silo.id())).then_some((key, volume.epoch, placed.config))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::replication::message::{Answer, FromSilo, Refusal, Request, ToSilo};

    #[tokio::test]
    async fn a_silo_that_cannot_be_opened_keeps_no_other_from_being_served() {
        let folder = tempfile::tempdir().unwrap();
        let spec = |name: &str| SiloSpec { path: folder.path().join(name), capacity: Some(Size(1 << 30)) };
        let specs = ["a", "b", "c", "d"].map(spec);
        let (network, node) = (NetworkId([3; 32]), NodeId([7; 32]));
        let silos = NodeSilos::open(&specs, network, node).unwrap();
        let ids: Vec<SiloId> = silos.views().lives().iter().map(|life| life.id).collect();
        silos.stop();
        // The header of one index, all of the next, and the superblock of the third.
        let damage = |name: &str, file: &str, bytes: &[u8]| {
            use std::os::unix::fs::FileExt;
            let path = folder.path().join(name).join(file);
            std::fs::OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, 8).unwrap();
        };
        damage("a", "index.redb", &[0x55; 64]);
        std::fs::write(folder.path().join("b").join("index.redb"), b"").unwrap();
        damage("c", "superblock", &[0x55; 32]);
        let silos = NodeSilos::open(&specs, network, node).unwrap();
        let views = silos.views();
        assert_eq!(views.iter().map(|view| view.handle.id()).collect::<Vec<_>>(), [ids[3]]);
        let shut: Vec<SiloLife> = views.lives().into_iter().filter(|life| life.fault.is_some()).collect();
        assert_eq!(shut.iter().map(|life| life.id).collect::<Vec<_>>(), [ids[0], ids[1], SiloId::default()]);
        for (life, names) in shut.iter().zip(["index.redb", "index.redb", "superblock"]) {
            let fault = life.fault.as_deref().unwrap_or_default();
            assert!(fault.contains(names) && fault.contains("--silo PATH"), "{fault}");
            assert!(fault.contains(&life.path.display().to_string()), "{fault}");
        }
        let message = ToSilo::Rare(ids[0], VolumeId([1; 16]), Request::Release { epoch: Epoch(1) });
        let told = silos.registry().refusal(ids[0], &message);
        let FromSilo::Rare(_, _, Answer::Refused { reason: Refusal::Faulted(why), .. }) = told else {
            panic!("{told:?}")
        };
        assert!(why.contains("index.redb"), "{why}");
        silos.stop();
        // Whoever has a silo's handle keeps its lock.
        drop(views);
        std::fs::create_dir(folder.path().join("e")).unwrap();
        std::fs::write(folder.path().join("e").join("holiday.jpg"), b"").unwrap();
        let refused = NodeSilos::open(&[spec("d"), spec("e")], network, node).err().unwrap();
        assert!(refused.message.contains("holiday.jpg"), "{}", refused.message);
    }

    #[tokio::test]
    async fn a_silo_has_no_more_capacity_than_its_disk() {
        let folder = tempfile::tempdir().unwrap();
        let stat = statvfs(folder.path()).unwrap();
        let disk = stat.f_blocks * stat.f_frsize;
        for (index, (told, counts)) in
            [(Some(1 << 60), disk), (None, disk), (Some(1 << 30), 1 << 30)].iter().enumerate()
        {
            let spec = SiloSpec { path: folder.path().join(index.to_string()), capacity: told.map(Size) };
            let silos = NodeSilos::open(&[spec], NetworkId([3; 32]), NodeId([7; 32])).unwrap();
            assert_eq!(silos.views().lives()[0].capacity_bytes, *counts);
            silos.stop();
        }
    }

    #[test]
    fn a_directory_that_cannot_be_a_silo_is_refused_with_what_to_do() {
        let cases = [
            (rustix::io::Errno::ACCESS, Kind::Refused, "user"),
            (rustix::io::Errno::ROFS, Kind::Failed, "writing"),
            (rustix::io::Errno::NOTDIR, Kind::Usage, "file"),
            (rustix::io::Errno::EXIST, Kind::Usage, "file"),
            (rustix::io::Errno::NOSPC, Kind::Failed, "room"),
            (rustix::io::Errno::NOENT, Kind::Failed, "disk"),
        ];
        for (errno, kind, word) in cases {
            let fault = disk_fault(Path::new("/x"), "create this directory", &errno.into());
            let hint = fault.hint.unwrap_or_default();
            assert_eq!(fault.kind, kind, "{errno}");
            assert!(fault.message.starts_with("silo /x: cannot create this directory: "), "{}", fault.message);
            assert!(hint.contains(word) && hint.contains("--silo PATH"), "{hint}");
        }
    }
}
