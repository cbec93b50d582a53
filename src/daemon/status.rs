//! What people see of the cluster: put together from the cluster state, signs of life and the writers' reports.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::base::clock::rfc3339;
use crate::base::error::{Fault, Result};
use crate::base::id::{NodeId, SiloId, SlotIndex, VolumeId};
use crate::cluster::consensus::Group;
use crate::cluster::replication::writer::report::{SiloReport, SiloState, SlotReport};
use crate::cluster::state::ClusterState;
use crate::cluster::state::member::{Member, Role};
use crate::cluster::state::volume::{Attachment, Durability, Volume};
use crate::daemon::api::{self, NodeRef, NodeState, ReplicaState, VolumeState, Warning};
use crate::daemon::attachments::{Attachments, find};
use crate::daemon::home::Home;
use crate::daemon::membership;
use crate::daemon::peers::{Ask, AttachedReport, Peers, SignOfLife, SiloLife, Told};
use crate::daemon::silos::SiloView;

/// How long the node that a volume is attached to may take to report.
const REPORT_LIMIT: Duration = Duration::from_millis(1500);

/// Looks at everything, changes nothing. Cheap to clone.
#[derive(Clone)]
pub struct Observer {
    home: Home,
    node: NodeId,
    group: Group,
    peers: Peers,
    attachments: Attachments,
    silos: Vec<SiloView>,
}

impl Observer {
    pub fn new(
        home: Home,
        node: NodeId,
        group: Group,
        peers: Peers,
        attachments: Attachments,
        silos: Vec<SiloView>,
    ) -> Self {
        Self { home, node, group, peers, attachments, silos }
    }

    fn state(&self) -> std::sync::Arc<ClusterState> {
        self.group.state().borrow().clone()
    }

    pub fn node_ref(&self, node: NodeId) -> NodeRef {
        NodeRef { id: node, name: self.state().node_label(node) }
    }

    /// One screen of everything.
    pub async fn status(&self) -> api::Status {
        let nodes = self.nodes();
        let mut volumes = Vec::new();
        for (id, volume) in &self.state().volumes {
            volumes.push(self.volume_status(*id, volume).await.volume);
        }
        let warnings = self.warnings(&nodes);
        let network = self.network().unwrap_or_else(|_| self.unknown_network());
        api::Status { network, nodes, volumes, warnings }
    }

    fn unknown_network(&self) -> api::Network {
        api::Network {
            id: crate::base::id::NetworkId::default(),
            name: self.home.name.clone(),
            role: api::Role::Storage,
            owner: false,
            node: self.node_ref(self.node),
            cluster: None,
        }
    }

    pub fn network(&self) -> Result<api::Network> {
        let status = self.group.status();
        let mut network = membership::describe(&self.home)?;
        network.node = self.node_ref(self.node);
        network.cluster = Some(api::Cluster {
            quorum: status.has_quorum,
            leader: status.leader.map(|leader| self.node_ref(leader)),
            voters: status.voters.iter().map(|voter| self.node_ref(*voter)).collect(),
        });
        Ok(network)
    }

    pub fn ready(&self) -> Result<api::Ready> {
        let nodes = self.nodes();
        let up = nodes.iter().filter(|node| node.state == NodeState::Up).count();
        Ok(api::Ready {
            node: self.node_ref(self.node),
            network: self.home.name.clone(),
            nodes_up: up as u32,
            nodes: nodes.len() as u32,
        })
    }

    pub fn nodes(&self) -> Vec<api::Node> {
        let state = self.state();
        let status = self.group.status();
        let node = |(id, member): (&NodeId, &Member)| {
            let life = self.life(*id);
            let joining = member.data_addresses.is_empty();
            let node_state = match (&life, joining) {
                (Some(_), _) => NodeState::Up,
                (None, true) => NodeState::Joining,
                (None, false) => NodeState::Down,
            };
            api::Node {
                id: *id,
                name: state.node_label(*id),
                role: match member.role {
                    Role::Storage => api::Role::Storage,
                    Role::Client => api::Role::Client,
                    Role::Admin => api::Role::Admin,
                },
                state: node_state,
                since: None,
                this: *id == self.node,
                voter: status.voters.contains(id),
                leader: status.leader == Some(*id),
                zone: member.zone.clone(),
                addresses: member.data_addresses.iter().map(ToString::to_string).collect(),
                version: life.as_ref().map(|life| life.version.clone()),
                silos: self.silos_of(&state, *id, life.as_ref()),
            }
        };
        state.members.iter().map(node).collect()
    }

    pub fn node(&self, name: &str) -> Result<api::Node> {
        let nodes = self.nodes();
        let mut found: Vec<api::Node> = if name == "self" {
            nodes.into_iter().filter(|node| node.this).collect()
        } else {
            let hit =
                |node: &api::Node| node.name == name || (name.len() >= 4 && node.id.to_string().starts_with(name));
            nodes.into_iter().filter(hit).collect()
        };
        match (found.pop(), found.is_empty()) {
            (Some(node), true) => Ok(node),
            (Some(_), false) => {
                Err(Fault::usage(format!("several nodes are called '{name}'"))
                    .hint("name it by its id: infinit node list"))
            }
            (None, _) => Err(Fault::not_found(format!("there is no node '{name}'")).hint("infinit node list")),
        }
    }

    /// What a node said of itself lately; none if it is down.
    fn life(&self, node: NodeId) -> Option<SignOfLife> {
        if node == self.node {
            let silos = self.silos.iter().map(SiloView::life).collect();
            return Some(SignOfLife { version: env!("CARGO_PKG_VERSION").to_owned(), silos });
        }
        self.peers.heard(node).map(|heard| heard.life)
    }

    fn silos_of(&self, state: &ClusterState, node: NodeId, life: Option<&SignOfLife>) -> Vec<api::Silo> {
        let told: BTreeMap<SiloId, &SiloLife> =
            life.into_iter().flat_map(|life| &life.silos).map(|silo| (silo.id, silo)).collect();
        let silo = |(id, info): (&SiloId, &crate::cluster::state::silo::SiloInfo)| {
            let told = told.get(id);
            let fault = told.and_then(|told| told.fault.clone());
            api::Silo {
                id: *id,
                state: match (told, &fault) {
                    (Some(_), Some(_)) => api::SiloState::Damaged,
                    (Some(_), None) => api::SiloState::Up,
                    (None, _) => api::SiloState::Down,
                },
                reason: fault,
                path: told.map(|told| told.path.clone()),
                capacity_bytes: info.capacity_bytes,
                used_bytes: told.map_or(0, |told| told.used_bytes),
            }
        };
        state.silos.iter().filter(|(_, info)| info.node == node).map(silo).collect()
    }

    pub async fn volumes(&self) -> Vec<api::Volume> {
        self.status().await.volumes
    }

    pub async fn volume(&self, name: &str) -> Result<api::VolumeStatus> {
        let state = self.state();
        let (id, volume) = find(&state, name)?;
        Ok(self.volume_status(id, volume).await)
    }

    async fn volume_status(&self, id: VolumeId, volume: &Volume) -> api::VolumeStatus {
        let state = self.state();
        let report = match &volume.attachment {
            Some(attachment) => self.report(attachment, id).await,
            None => None,
        };
        let slots: Vec<api::Slot> =
            (0..volume.slots.len()).map(|index| self.slot(&state, volume, index, report.as_ref())).collect();
        let (health, reason, mend) = health(&state, volume, report.as_ref(), &slots);
        let attachment = volume.attachment.as_ref().map(|attachment| api::Attachment {
            node: self.node_ref(attachment.node),
            epoch: attachment.epoch,
            since: rfc3339(attachment.since),
            nbd_uri: report.as_ref().and_then(|report| report.nbd_uri.clone()),
        });
        let volume = api::Volume {
            id,
            name: volume.name.clone(),
            size_bytes: volume.size_bytes,
            used_bytes: None,
            replicas: volume.policy.replicas,
            durability: match volume.policy.durability {
                Durability::Flush => api::Durability::Flush,
                Durability::Write => api::Durability::Write,
            },
            lease_ms: u64::from(volume.policy.lease_ms),
            created_at: rfc3339(volume.created_at),
            state: health,
            reason,
            mend,
            attachment,
        };
        api::VolumeStatus { volume, slots }
    }

    async fn report(&self, attachment: &Attachment, id: VolumeId) -> Option<AttachedReport> {
        if attachment.node == self.node {
            return self.attachments.report(id).await;
        }
        match self.peers.ask(attachment.node, &Ask::Report(id), REPORT_LIMIT).await {
            Ok(Told::Report(report)) => report,
            Ok(Told::Alive(_) | Told::Done(_)) | Err(_) => None,
        }
    }

    fn slot(&self, state: &ClusterState, volume: &Volume, index: usize, report: Option<&AttachedReport>) -> api::Slot {
        let placed = &volume.slots[index];
        let told: Option<&SlotReport> =
            report.and_then(|report| report.report.as_ref()).and_then(|report| report.slots.get(index));
        let replicas: Vec<api::Replica> = placed
            .silos
            .iter()
            .map(|silo| {
                let node = state.silos.get(silo).map(|info| info.node).unwrap_or_default();
                let told = told.and_then(|told| told.silos.iter().find(|s| s.silo == *silo));
                let up = self.life(node).is_some_and(|life| life.silos.iter().any(|s| s.id == *silo));
                replica(*silo, self.node_ref(node), told, up)
            })
            .collect();
        let up = replicas.iter().filter(|replica| replica.state == ReplicaState::UpToDate).count();
        let majority = placed.silos.len() / 2 + 1;
        let health = match told {
            Some(told) if !told.serving => VolumeState::Suspended,
            _ if up < majority => VolumeState::Suspended,
            _ if up < placed.silos.len() => VolumeState::Degraded,
            _ => VolumeState::Healthy,
        };
        let behind: Vec<String> = replicas
            .iter()
            .filter(|replica| replica.state != ReplicaState::UpToDate)
            .map(|replica| match replica.state {
                ReplicaState::CatchingUp => {
                    format!("the copy on {} is {} writes behind", replica.node.name, replica.behind_writes)
                }
                other => format!("the copy on {} is {other}", replica.node.name),
            })
            .collect();
        api::Slot {
            slot: SlotIndex(index as u32),
            configuration: placed.config,
            state: health,
            reason: (!behind.is_empty()).then(|| behind.join(", ")),
            replicas,
        }
    }

    fn warnings(&self, nodes: &[api::Node]) -> Vec<Warning> {
        let mut warnings = Vec::new();
        let status = self.group.status();
        if !status.has_quorum {
            warnings.push(Warning {
                message: "the cluster has no quorum: volumes that are attached go on, nothing can be changed"
                    .to_owned(),
                hint: Some("start the nodes that are down".to_owned()),
            });
        }
        for node in nodes.iter().filter(|node| node.state == NodeState::Down) {
            warnings.push(Warning {
                message: format!("node {} is down", node.name),
                hint: Some("on that machine: infinit node run".to_owned()),
            });
        }
        for (node, silo) in nodes.iter().flat_map(|node| node.silos.iter().map(move |silo| (node, silo))) {
            if let Some(reason) = &silo.reason {
                warnings.push(Warning {
                    message: format!("silo {} on {} is out of service: {reason}", silo.id.short(), node.name),
                    hint: None,
                });
            }
        }
        warnings
    }
}

/// A volume's health from its slots': the worst of them.
fn health(
    state: &ClusterState,
    volume: &Volume,
    report: Option<&AttachedReport>,
    slots: &[api::Slot],
) -> (VolumeState, Option<String>, Option<String>) {
    let Some(attachment) = &volume.attachment else { return (VolumeState::Detached, None, None) };
    let name = &volume.name;
    let holder = state.node_label(attachment.node);
    if attachment.export_closed {
        let reason = "the machines lost power while it was attached, and answered writes may be lost".to_owned();
        return (
            VolumeState::Suspended,
            Some(reason),
            Some(format!("check its clients, then: infinit volume attach {name}")),
        );
    }
    if report.is_none_or(|report| report.report.is_none()) {
        let reason = format!("node {holder}, which it is attached to, does not serve it");
        let mend = format!("start that node, or elsewhere: infinit volume attach {name} --takeover");
        return (VolumeState::Suspended, Some(reason), Some(mend));
    }
    let worst = slots.iter().find(|slot| slot.state == VolumeState::Suspended);
    let worst = worst.or_else(|| slots.iter().find(|slot| slot.state == VolumeState::Degraded));
    match worst {
        None => (VolumeState::Healthy, None, None),
        Some(slot) => {
            let reason = slot.reason.as_ref().map(|reason| format!("slot {}: {reason}", slot.slot));
            let down: Vec<String> = slot
                .replicas
                .iter()
                .filter(|replica| replica.state == ReplicaState::Down)
                .map(|replica| replica.node.name.clone())
                .collect();
            let mend = (!down.is_empty()).then(|| format!("start node {}", down.join(" or ")));
            (slot.state, reason, mend)
        }
    }
}

/// One copy: as its writer sees it if there is one, else whether its node is up.
fn replica(silo: SiloId, node: NodeRef, told: Option<&SiloReport>, up: bool) -> api::Replica {
    let state = match told.map(|told| &told.state) {
        Some(SiloState::Live) => ReplicaState::UpToDate,
        Some(SiloState::CatchingUp | SiloState::Joining | SiloState::Leased(_)) => ReplicaState::CatchingUp,
        Some(SiloState::Unreachable) => ReplicaState::Down,
        Some(SiloState::Damaged | SiloState::Foreign | SiloState::Faulted(_)) => ReplicaState::Damaged,
        None if up => ReplicaState::UpToDate,
        None => ReplicaState::Down,
    };
    let behind_writes = told.and_then(|told| told.behind_writes).unwrap_or_default();
    api::Replica { silo, node, state, behind_bytes: 0, behind_writes }
}
