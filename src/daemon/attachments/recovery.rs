//! A writer's recovery as the daemon drives it: with the next epoch where one must be given up, and, where too many
//! silos lost data, only if the operator accepts the loss (rule 14).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use crate::base::error::{Fault, Result};
use crate::base::id::{Epoch, VolumeId};
use crate::cluster::replication::driver::{DriverHandle, Life};
use crate::cluster::replication::writer::WriterOptions;
use crate::cluster::replication::writer::report::{Report, SiloState};
use crate::cluster::state::ClusterState;
use crate::cluster::state::command::{AttachMode, Command};
use crate::cluster::state::volume::Volume;
use crate::daemon::api::recovery::{History, RecoverVolume, RecoveredSlot, RecoveredVolume};
use crate::daemon::attachments::proposals::put_all;
use crate::daemon::attachments::{ATTACH_LIMIT, Attachments, GROUP_LIMIT, RELEASE_LIMIT, busy, find};

/// How often a recovery that is not done is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// On which grounds a writer recovers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Grounds {
    /// The epoch that this daemon's clients may still believe in (rule 15).
    pub(super) resumes: Option<Epoch>,
    /// The operator accepts what damaged silos lost.
    pub(super) accept_loss: bool,
}

/// Why a recovery came to no end.
pub(super) enum Stuck {
    /// Too many silos lost what they had on their disks: the others are no majority.
    Damaged(Report),
    Fault(Fault),
}

impl From<Fault> for Stuck {
    fn from(fault: Fault) -> Self {
        Stuck::Fault(fault)
    }
}

impl Stuck {
    /// As a person is told.
    pub(super) fn fault(self, state: &ClusterState, volume: &Volume) -> Fault {
        match self {
            Stuck::Fault(fault) => fault,
            Stuck::Damaged(report) => {
                let damaged = report.slots.iter().filter(|slot| slot.has_too_few_voters());
                let silos = damaged.flat_map(|slot| &slot.silos).filter(|silo| silo.state == SiloState::Damaged);
                let mut nodes: Vec<String> = silos.map(|silo| node_of(state, silo.silo)).collect();
                nodes.sort();
                nodes.dedup();
                Fault::refused(format!(
                    "volume '{0}' lost data: its copies on {1} have less than they once had on their disks, \
                     and the others are no majority",
                    volume.name,
                    nodes.join(", ")
                ))
                .hint(format!(
                    "bring the lost disks back if you can; to go on with what is left: \
                     infinit volume recover {} --accept-loss",
                    volume.name
                ))
            }
        }
    }
}

impl Attachments {
    /// Starts a writer and waits until it serves; with a new epoch each time one must be given up.
    pub(super) async fn recover(
        &self,
        id: VolumeId,
        mut epoch: Epoch,
        grounds: Grounds,
        end: Instant,
    ) -> std::result::Result<(DriverHandle, Epoch, Option<bool>), Stuck> {
        loop {
            let state = self.granted_state(id, epoch, end).await?;
            let volume = state.volumes.get(&id).ok_or_else(|| Fault::not_found("the volume was deleted"))?;
            let options = self.writer_options(&state, id, volume, epoch, grounds);
            let driver = self.start_writer(&state, volume, options);
            match settled(&driver, end).await {
                Settled::Life(Life::Serving { resumed }) => return Ok((driver, epoch, resumed)),
                Settled::Life(Life::GaveUp) => epoch = self.grant(id, AttachMode::Takeover, GROUP_LIMIT).await?,
                Settled::Life(Life::Fenced { .. }) => {
                    let fault = Fault::refused(format!("another node took over volume '{}' meanwhile", volume.name));
                    return Err(fault.hint("infinit status").into());
                }
                Settled::Life(Life::Released | Life::Recovering) => {
                    return Err(Fault::failed("the volume's writer ended").into());
                }
                Settled::Damaged(report) => {
                    driver.release();
                    return Err(Stuck::Damaged(report));
                }
                Settled::Late(report) => {
                    driver.release();
                    return Err(no_majority(&state, volume, report.as_ref()).into());
                }
            }
        }
    }

    /// Starts a writer with connections to its silos, and with somebody who puts to the cluster state what it proposes.
    pub(super) fn start_writer(&self, state: &ClusterState, volume: &Volume, options: WriterOptions) -> DriverHandle {
        let silos = volume.slots.iter().flat_map(|slot| &slot.silos);
        let nodes = silos.filter_map(|silo| Some((*silo, state.silos.get(silo)?.node))).collect();
        let (id, epoch) = (options.volume, options.epoch);
        let (proposals, proposed) = mpsc::unbounded_channel();
        let driver = {
            let _data = self.shared.data.enter();
            let (silos, network) = (self.shared.silos.clone(), self.shared.network.clone());
            DriverHandle::start(options, &nodes, silos, network, proposals)
        };
        tokio::spawn(put_all(self.shared.group.clone(), id, epoch, driver.clone(), proposed));
        driver.follow(self.shared.group.state());
        driver
    }

    /// The cluster state once this member knows of the grant: the slots' silos are those that the epoch was granted with, or
    /// later ones.
    pub(super) async fn granted_state(&self, id: VolumeId, epoch: Epoch, end: Instant) -> Result<Arc<ClusterState>> {
        let mut state = self.shared.group.state();
        let knows = |state: &Arc<ClusterState>| state.volumes.get(&id).is_none_or(|volume| volume.epoch >= epoch);
        let known = timeout(end.saturating_duration_since(Instant::now()), state.wait_for(knows)).await;
        match known {
            Ok(Ok(state)) => Ok(state.clone()),
            Ok(Err(_)) => Err(Fault::failed("the node stops")),
            Err(_) => {
                Err(Fault::timed_out("this node has not heard yet of what the cluster granted it")
                    .hint("infinit status"))
            }
        }
    }

    /// Makes a volume attachable again whose silos lost too much, from what is left of it (rule 14). Without such damage
    /// nothing is lost; with it, nothing is done unless the loss is accepted.
    pub async fn recover_volume(&self, name: &str, request: &RecoverVolume) -> Result<RecoveredVolume> {
        let limit = request.timeout_ms.map_or(ATTACH_LIMIT, Duration::from_millis);
        let end = Instant::now() + limit;
        let _turn = timeout(limit, self.shared.turn.lock()).await.map_err(|_| busy(name))?;
        let state = self.shared.group.current(limit.min(GROUP_LIMIT)).await?;
        let (id, volume) = find(&state, name)?;
        if self.get(id).is_some() {
            return Err(Fault::conflict(format!("volume '{name}' is attached here and served: it needs no recovery"))
                .hint(format!("infinit volume status {name}")));
        }
        let mode = match &volume.attachment {
            None => AttachMode::Fresh,
            Some(attachment) if attachment.node == self.shared.node => AttachMode::Takeover,
            Some(attachment) => {
                let (label, id) = (state.node_label(attachment.node), attachment.node.short());
                return Err(Fault::conflict(format!("volume '{name}' is attached to node {label} ({id})"))
                    .hint(format!("there: infinit volume recover {name}; or first: infinit volume detach {name}")));
            }
        };
        let epoch = self.grant(id, mode, limit.min(GROUP_LIMIT)).await?;
        let mut recovered = self.recover(id, epoch, Grounds::default(), end).await;
        let lossy = matches!(recovered, Err(Stuck::Damaged(_))) && request.accept_loss;
        if lossy {
            tracing::warn!("volume '{name}' is recovered from what is left of it: the operator accepts the loss");
            let epoch = self.grant(id, AttachMode::Takeover, GROUP_LIMIT).await?;
            recovered = self.recover(id, epoch, Grounds { resumes: None, accept_loss: true }, end).await;
        }
        let (driver, epoch, _) = match recovered {
            Ok(recovered) => recovered,
            Err(stuck) => {
                self.give_back(id).await;
                return Err(stuck.fault(&state, volume));
            }
        };
        if lossy {
            brought_along(&driver, end).await;
        }
        let report = driver.report().await;
        driver.release();
        let mut life = driver.life();
        // The lease ends by itself if the silos cannot be reached.
        let _ = timeout(RELEASE_LIMIT, life.wait_for(|life| *life == Life::Released)).await;
        self.shared.group.propose(Command::Detach { volume: id, epoch }, GROUP_LIMIT).await?;
        let slots = report.into_iter().flat_map(|report| report.slots).filter_map(|slot| {
            let (chosen, known) = (slot.chosen?, slot.known);
            let history = |vote: crate::store::slot::Vote| History { epoch: vote.adopted, write: vote.applied };
            Some(RecoveredSlot { slot: slot.slot, from: history(chosen), known: history(chosen.max(known)) })
        });
        Ok(RecoveredVolume { id, name: name.to_owned(), lost: lossy, slots: slots.collect() })
    }
}

/// How a recovery stands.
enum Settled {
    Life(Life),
    Damaged(Report),
    /// The time is up.
    Late(Option<Report>),
}

async fn settled(driver: &DriverHandle, end: Instant) -> Settled {
    let mut life = driver.life();
    loop {
        let left = end.saturating_duration_since(Instant::now());
        match timeout(left.min(LOOK_EVERY), life.wait_for(|life| *life != Life::Recovering)).await {
            Ok(Ok(life)) => return Settled::Life(life.clone()),
            // The writer's task is gone.
            Ok(Err(_)) => return Settled::Life(Life::Released),
            Err(_) => {}
        }
        match driver.report().await {
            Some(report) if report.slots.iter().any(|slot| slot.has_too_few_voters()) => {
                return Settled::Damaged(report);
            }
            report if left.is_zero() => return Settled::Late(report),
            _ => {}
        }
    }
}

/// Waits for the copies that are still being brought to what was chosen: the loss is accepted for this epoch alone, and
/// one that lost something and does not adopt it is held for damaged by every later writer.
async fn brought_along(driver: &DriverHandle, end: Instant) {
    let mut life = driver.life();
    while let Some(report) = driver.report().await {
        let silos = report.slots.iter().flat_map(|slot| &slot.silos);
        let late: Vec<String> = silos
            .filter(|silo| matches!(silo.state, SiloState::CatchingUp | SiloState::Joining))
            .map(|silo| silo.silo.short())
            .collect();
        let left = end.saturating_duration_since(Instant::now());
        if late.is_empty() {
            return;
        }
        if left.is_zero() {
            tracing::warn!("the recovery ends without silos that did not come along in time: {}", late.join(", "));
            return;
        }
        if timeout(left.min(LOOK_EVERY), life.wait_for(|life| !matches!(life, Life::Serving { .. }))).await.is_ok() {
            return;
        }
    }
}

fn node_of(state: &ClusterState, silo: crate::base::id::SiloId) -> String {
    state.silos.get(&silo).map_or_else(|| silo.short(), |info| state.node_label(info.node))
}

/// Why an attach did not come to an end in time.
pub(super) fn no_majority(state: &ClusterState, volume: &Volume, report: Option<&Report>) -> Fault {
    let silos = report.into_iter().flat_map(|report| &report.slots).flat_map(|slot| &slot.silos);
    let mut whys: Vec<String> = Vec::new();
    for silo in silos {
        let node = node_of(state, silo.silo);
        let why = match &silo.state {
            SiloState::Live | SiloState::CatchingUp => continue,
            SiloState::Joining => format!("{node} has not adopted it yet"),
            SiloState::Leased(ms) => format!("{node} keeps another holder's lease for {ms} ms"),
            SiloState::Unreachable => format!("{node} cannot be reached"),
            SiloState::Damaged => format!("{node} lost data"),
            SiloState::Foreign => format!("{node} has another disk"),
            SiloState::Faulted(why) => format!("{node}: {why}"),
        };
        if !whys.contains(&why) {
            whys.push(why);
        }
    }
    Fault::timed_out(format!("volume '{}' has no majority of its silos: {}", volume.name, whys.join(", ")))
        .hint("start those nodes, then attach again")
}
