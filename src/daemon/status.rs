//! What people see of the cluster: put together from the cluster state, signs of life and the writers' reports.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::base::clock::{rfc3339, wall_seconds};
use crate::base::error::{Fault, Result};
use crate::base::id::{NodeId, SiloId, SlotIndex, VolumeId};
use crate::cluster::consensus::{Group, GroupStatus};
use crate::cluster::state::ClusterState;
use crate::cluster::state::member::{Duty, Member, Role};
use crate::cluster::state::plan::Move;
use crate::cluster::state::volume::{Attachment, Durability, OnNoQuorum, Volume};
use crate::daemon::api::{self, NodeRef, NodeState, SiloState, VolumeState, Warning};
use crate::daemon::attachments::{Attachments, find};
use crate::daemon::copies::{self, Copy, View, Word};
use crate::daemon::home::Home;
use crate::daemon::membership;
use crate::daemon::moving;
use crate::daemon::peers::{self, Ask, AttachedReport, Peers, SignOfLife, SiloLife, Told};
use crate::daemon::silos::{SiloView, SiloViews};
use crate::daemon::standing::{Standing, UNKNOWN_AT_MOST};

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
    silos: SiloViews,
    /// Since when this daemon runs, in seconds since 1970.
    since: u64,
}

impl Observer {
    pub fn new(
        home: Home,
        node: NodeId,
        group: Group,
        peers: Peers,
        attachments: Attachments,
        silos: SiloViews,
    ) -> Self {
        Self { home, node, group, peers, attachments, silos, since: wall_seconds() }
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
        let state = self.state();
        let moves = state.moves(wall_seconds());
        for (id, volume) in &state.volumes {
            let moving = moves.get(id).map_or(0, Vec::len);
            volumes.push(self.volume_status(&nodes, *id, volume, moving).await.volume);
        }
        let warnings = warnings(&self.group.status(), &nodes, &volumes);
        let moving = moving::total(volumes.iter().filter_map(|volume| volume.moving));
        let network = self.network().unwrap_or_else(|_| self.unknown_network());
        api::Status { network, nodes, volumes, moving, warnings }
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
            down_after_ms: self.state().settings.down_after_ms,
        });
        Ok(network)
    }

    /// Waits until it is known whether these are up, or the time is over.
    pub async fn heard(&self, nodes: &[NodeId], limit: Duration) {
        self.peers.known(nodes, limit.min(UNKNOWN_AT_MOST)).await;
    }

    /// Who is up is told once every member was asked, or the time is over.
    pub async fn ready(&self, limit: Duration) -> Result<api::Ready> {
        let state = self.state();
        let reached = state.members.iter().filter(|(_, member)| !member.data_addresses.is_empty());
        let members: Vec<NodeId> = reached.map(|(node, _)| *node).collect();
        self.heard(&members, limit).await;
        let nodes = self.nodes();
        let count = |state: NodeState| nodes.iter().filter(|node| node.state == state).count() as u32;
        Ok(api::Ready {
            node: self.node_ref(self.node),
            network: self.home.name.clone(),
            nodes_up: count(NodeState::Up),
            nodes_unknown: count(NodeState::Unknown),
            nodes: nodes.len() as u32,
        })
    }

    pub fn nodes(&self) -> Vec<api::Node> {
        let state = self.state();
        let status = self.group.status();
        // Planned only while somebody goes.
        let goes = |member: &Member| member.duty != Duty::Stores;
        let moves = state.members.values().any(goes).then(|| state.moves(wall_seconds()));
        let node = |(id, member): (&NodeId, &Member)| {
            let (node_state, since, life) = match self.standing(*id) {
                Standing::Up { since, life } => (NodeState::Up, Some(since), Some(life)),
                _ if member.data_addresses.is_empty() => (NodeState::Joining, None, None),
                Standing::Unknown => (NodeState::Unknown, None, None),
                Standing::Down { since } => (NodeState::Down, since, None),
            };
            api::Node {
                id: *id,
                name: state.node_label(*id),
                role: match member.role {
                    Role::Storage => api::Role::Storage,
                    Role::Client => api::Role::Client,
                    Role::Admin => api::Role::Admin,
                    Role::Witness => api::Role::Witness,
                },
                state: node_state,
                since: since.map(rfc3339),
                this: *id == self.node,
                voter: status.voters.contains(id),
                leader: status.leader == Some(*id),
                zone: member.zone.clone(),
                addresses: member.data_addresses.iter().map(ToString::to_string).collect(),
                version: life.as_ref().map(|life| life.version.clone()),
                duty: match member.duty {
                    Duty::Stores => api::going::Duty::Stores,
                    Duty::Drains => api::going::Duty::Drains,
                    Duty::Leaves => api::going::Duty::Leaves,
                },
                copies: state.copies_on(*id),
                waits: moves.as_ref().filter(|_| goes(member)).and_then(|moves| waits(&state, *id, moves)),
                silos: silos_of(&state, *id, node_state, life.as_ref()),
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

    fn standing(&self, node: NodeId) -> Standing {
        if node != self.node {
            return self.peers.standing(node);
        }
        let silos = self.silos.lives();
        let details = self.silos.iter().map(SiloView::details).collect();
        let life = SignOfLife { run: self.peers.run(), version: peers::own_version(), silos, details, unheard: false };
        Standing::Up { since: self.since, life }
    }

    pub async fn volumes(&self) -> Vec<api::Volume> {
        self.status().await.volumes
    }

    pub async fn volume(&self, name: &str) -> Result<api::VolumeStatus> {
        let state = self.state();
        let (id, volume) = find(&state, name)?;
        let moving = state.moves(wall_seconds()).get(&id).map_or(0, Vec::len);
        Ok(self.volume_status(&self.nodes(), id, volume, moving).await)
    }

    async fn volume_status(
        &self,
        nodes: &[api::Node],
        id: VolumeId,
        volume: &Volume,
        moving: usize,
    ) -> api::VolumeStatus {
        let state = self.state();
        let report = match &volume.attachment {
            Some(attachment) => self.report(attachment, id).await,
            None => None,
        };
        let labels = labels(nodes);
        let label = |node: NodeId| labels.get(&node).cloned().unwrap_or_else(|| node.short());
        let holder = volume.attachment.as_ref().map(|attachment| label(attachment.node));
        let slots: Vec<(api::Slot, Option<String>)> = (0..volume.slots.len())
            .map(|index| slot(&state, nodes, &labels, volume, index, holder.as_deref(), report.as_ref()))
            .collect();
        let (health, reason, mend) = health(volume, holder.as_deref(), report.as_ref(), &slots);
        let slots: Vec<api::Slot> = slots.into_iter().map(|(slot, _)| slot).collect();
        let clients = report.as_ref().map(|report| report.clients);
        let written = report.as_ref().and_then(|report| report.report.as_ref());
        let repaired_blocks = written.map(|report| report.repaired_blocks);
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
            replicas: volume.policy.replicas,
            durability: match volume.policy.durability {
                Durability::Flush => api::Durability::Flush,
                Durability::Write => api::Durability::Write,
            },
            lease_ms: u64::from(volume.policy.lease_ms),
            io_timeout_ms: match volume.policy.on_no_quorum {
                OnNoQuorum::Suspend => None,
                OnNoQuorum::Error { after_ms } => Some(after_ms.into()),
            },
            created_at: rfc3339(volume.created_at),
            state: health,
            reason,
            mend,
            missing_copies: moving::missing(&slots, usize::from(volume.policy.replicas)),
            moving_slots: moving as u32,
            moving: moving::of_slots(&slots),
            attachment,
        };
        api::VolumeStatus { volume, clients, repaired_blocks, slots }
    }

    async fn report(&self, attachment: &Attachment, id: VolumeId) -> Option<AttachedReport> {
        if attachment.node == self.node {
            return self.attachments.report(id).await;
        }
        match self.peers.ask(attachment.node, &Ask::Report(id), REPORT_LIMIT).await {
            Ok(Told::Report(report)) => report.map(AttachedReport::whole),
            Ok(_) | Err(_) => None,
        }
    }
}

/// Why copies do not leave a node that is to be emptied.
fn waits(state: &ClusterState, node: NodeId, moves: &BTreeMap<VolumeId, Vec<Move>>) -> Option<String> {
    let stuck = state.stuck_on(node, moves);
    let names: Vec<&str> = stuck.iter().filter_map(|id| Some(state.volumes.get(id)?.name.as_str())).collect();
    let (copies, has) = match names.len() {
        1 => ("a copy of volume", "has"),
        _ => ("copies of the volumes", "have"),
    };
    (!names.is_empty())
        .then(|| format!("{copies} {} {has} nowhere to go: no other node has room for them", names.join(", ")))
}

/// The silos of a node: those that the cluster knows to be its own, and others that it has open.
fn silos_of(state: &ClusterState, node: NodeId, node_state: NodeState, life: Option<&SignOfLife>) -> Vec<api::Silo> {
    let told: BTreeMap<SiloId, &SiloLife> =
        life.into_iter().flat_map(|life| &life.silos).map(|silo| (silo.id, silo)).collect();
    let details = |id: SiloId| life?.details.iter().find(|details| details.id == id);
    let word = |id: &SiloId| told.get(id).map(|life| Word { life, details: details(*id) });
    let names = |volume: VolumeId| state.volumes.get(&volume).map(|volume| volume.name.clone());
    let own = state.silos.iter().filter(|(_, info)| info.node == node);
    let mut silos: Vec<api::Silo> =
        own.map(|(id, info)| copies::silo(*id, info, node_state, word(id), &names)).collect();
    // Not those of the cluster: of several whose ids cannot be read, each is told.
    let strangers = life.into_iter().flat_map(|life| &life.silos);
    let strangers = strangers.filter(|told| state.silos.get(&told.id).is_none_or(|info| info.node != node));
    let unfit = strangers.filter(|told| told.foreign.is_some() || told.fault.is_some());
    silos.extend(unfit.map(copies::stranger));
    silos
}

/// What nodes are called in sentences: by their names, and where several have the same, by their ids too.
fn labels(nodes: &[api::Node]) -> BTreeMap<NodeId, String> {
    let label = |node: &api::Node| {
        let alone = nodes.iter().filter(|other| other.name == node.name).count() == 1;
        if alone { node.name.clone() } else { format!("{} ({})", node.name, node.id.short()) }
    };
    nodes.iter().map(|node| (node.id, label(node))).collect()
}

/// One slot of a volume, and what would mend it.
fn slot(
    state: &ClusterState,
    nodes: &[api::Node],
    labels: &BTreeMap<NodeId, String>,
    volume: &Volume,
    index: usize,
    holder: Option<&str>,
    report: Option<&AttachedReport>,
) -> (api::Slot, Option<String>) {
    let placed = &volume.slots[index];
    let told = report.and_then(|report| report.report.as_ref()).and_then(|report| report.slots.get(index));
    let copy = |silo: &SiloId| {
        let home = state.silos.get(silo)?.node;
        let node = nodes.iter().find(|node| node.id == home)?;
        Some(Copy {
            node: NodeRef { id: node.id, name: node.name.clone() },
            label: labels.get(&node.id)?,
            node_state: node.state,
            silo: node.silos.iter().find(|of_node| of_node.id == *silo)?,
            told: told.and_then(|told| told.silos.iter().find(|told| told.silo == *silo)),
        })
    };
    let copies: Vec<Copy<'_>> = placed.silos.iter().filter_map(copy).collect();
    let newcomers = told.into_iter().flat_map(|told| &told.silos).map(|told| &told.silo);
    let joining: Vec<Copy<'_>> = newcomers.filter(|silo| !placed.silos.contains(silo)).filter_map(copy).collect();
    let slot = SlotIndex(index as u32);
    let start = u64::from(slot.0) * volume.slot_bytes;
    let range = start..start + volume.slot_len(slot);
    let view = View { holder, told, wanted: usize::from(volume.policy.replicas), range };
    copies::slot(slot, placed, &copies, &joining, &view)
}

/// What is wrong beyond single volumes.
fn warnings(group: &GroupStatus, nodes: &[api::Node], volumes: &[api::Volume]) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let labels = labels(nodes);
    let label = |node: &api::Node| labels.get(&node.id).cloned().unwrap_or_default();
    if !group.has_quorum {
        let down = |node: &&api::Node| node.state == NodeState::Down && group.voters.contains(&node.id);
        let down: Vec<String> = nodes.iter().filter(down).map(label).collect();
        let there = group.voters.len() - down.len();
        let missing = (group.voters.len() / 2 + 1).saturating_sub(there);
        let hint = match copies::start(&down, missing) {
            Some(hint) if missing > 0 => hint,
            _ => "the nodes are agreeing on a leader: infinit node wait".to_owned(),
        };
        let message = "the cluster has no quorum: volumes cannot be created, attached, detached or deleted, and no \
                       node can join";
        warnings.push(Warning { message: message.to_owned(), hint: Some(hint) });
    }
    for node in nodes.iter().filter(|node| node.state == NodeState::Down) {
        let since = node.since.as_ref().map_or_else(String::new, |since| format!(" since {since}"));
        warnings.push(Warning {
            message: format!("node {} is down{since}", label(node)),
            hint: Some("on that machine: infinit node run".to_owned()),
        });
    }
    for (node, silo) in nodes.iter().flat_map(|node| node.silos.iter().map(move |silo| (node, silo))) {
        if let Some(reason) = &silo.reason {
            let message = format!("silo {} on {} is {}: {reason}", silo.id.short(), label(node), silo.state);
            warnings.push(Warning { message, hint: silo_hint(silo.state).map(ToOwned::to_owned) });
        }
        warnings.extend(copies::full(silo, &label(node)));
        warnings.extend(copies::damaged_blocks(silo, &label(node), volumes));
    }
    warnings
}

fn silo_hint(state: SiloState) -> Option<&'static str> {
    match state {
        SiloState::Up | SiloState::Unknown => None,
        SiloState::Down => Some("on that machine, name all its silos: infinit node run --silo DIR"),
        SiloState::Damaged => {
            Some("volumes go on with their other copies; on that machine, a new disk: infinit node run --silo DIR")
        }
        SiloState::Foreign => {
            Some("on that machine, put the former silo back, or give an empty directory: infinit node run --silo DIR")
        }
        SiloState::Stalled => Some("on that machine, look after the disk: journalctl -k says more"),
    }
}

/// A volume's health from its slots': the worst of them; why, and what would mend it.
fn health(
    volume: &Volume,
    holder: Option<&str>,
    report: Option<&AttachedReport>,
    slots: &[(api::Slot, Option<String>)],
) -> (VolumeState, Option<String>, Option<String>) {
    let name = &volume.name;
    let of_slot = |(slot, mend): &(api::Slot, Option<String>)| {
        let reason = slot.reason.as_ref().map(|reason| format!("slot {}: {reason}", slot.slot));
        (slot.state, reason, mend.clone())
    };
    let (Some(attachment), Some(holder)) = (&volume.attachment, holder) else {
        let stuck = slots.iter().find(|(slot, _)| copies::unattachable(slot)).map(of_slot);
        return stuck.unwrap_or((VolumeState::Detached, None, None));
    };
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
    let worst = slots.iter().find(|(slot, _)| slot.state == VolumeState::Suspended);
    let worst = worst.or_else(|| slots.iter().find(|(slot, _)| slot.state == VolumeState::Degraded));
    // One that is healthy has a reason too if it takes no new writes.
    let worst = worst.or_else(|| slots.iter().find(|(slot, _)| slot.reason.is_some()));
    worst.map_or((VolumeState::Healthy, None, None), of_slot)
}
