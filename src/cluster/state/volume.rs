//! Volumes: their policy, where their slots lie, who may write them.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::base::block::{self, BLOCK_BYTES, VOLUME_BYTES_MAX};
use crate::base::id::{ConfigNumber, Epoch, NodeId, SiloId, SlotIndex, VolumeId};
use crate::cluster::placement::{self, Candidate};
use crate::cluster::state::ClusterState;
use crate::cluster::state::command::{AttachMode, Outcome, VolumeCreation};
use crate::cluster::state::level::Level;
use crate::cluster::state::member::Duty;
use crate::cluster::state::refusal::Refusal;
use crate::cluster::state::silo::SiloState;

/// The longest name of a volume, in bytes.
pub const VOLUME_NAME_BYTES_MAX: usize = 64;
/// What a lost half of the network could not have granted before it is told: a billion take-overs.
const OUTLIVED_EPOCHS: u64 = 1 << 30;
/// The most copies.
pub const REPLICAS_MAX: u8 = 7;
/// The shortest and longest lease, in milliseconds: below, a hiccup fences a writer; above, a take-over takes for ever.
/// The one place that says so: the control API and the command line ask [`check_lease`].
pub const LEASE_MS: std::ops::RangeInclusive<u32> = 1_000..=600_000;

/// When a write is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Durability {
    /// Once a majority's operating systems have it; durable with the next flush, as with any disk.
    #[default]
    Flush,
    /// Once a majority's disks have it.
    Write,
}

/// What I/O does without a majority of a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnNoQuorum {
    /// It waits and resumes by itself.
    #[default]
    Suspend,
    /// It fails after so long.
    Error { after_ms: u32 },
}

/// How a volume is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Policy {
    /// Copies of each slot, on as many nodes.
    pub replicas: u8,
    pub durability: Durability,
    /// How long a writer that is cut off stays the only one, in milliseconds.
    pub lease_ms: u32,
    pub on_no_quorum: OnNoQuorum,
}

impl Default for Policy {
    fn default() -> Self {
        Self { replicas: 3, durability: Durability::Flush, lease_ms: 5_000, on_no_quorum: OnNoQuorum::Suspend }
    }
}

/// Where one slot lies: a fact, which placement only proposes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotPlacement {
    pub silos: Vec<SiloId>,
    pub config: ConfigNumber,
}

/// Who writes the volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    pub node: NodeId,
    pub epoch: Epoch,
    /// Seconds since 1970.
    pub since: u64,
    /// Its old clients may not be served again, until the user attaches anew.
    pub export_closed: bool,
}

/// A block volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Unique.
    pub name: String,
    pub size_bytes: u64,
    pub slot_bytes: u64,
    pub policy: Policy,
    /// The last epoch granted; never falls.
    pub epoch: Epoch,
    pub attachment: Option<Attachment>,
    pub slots: Vec<SlotPlacement>,
    /// Seconds since 1970.
    pub created_at: u64,
}

impl Volume {
    /// The bytes of one of its slots: the last may be shorter.
    pub fn slot_len(&self, slot: SlotIndex) -> u64 {
        slot_len(self.size_bytes, self.slot_bytes, slot)
    }
}

fn slot_len(size_bytes: u64, slot_bytes: u64, slot: SlotIndex) -> u64 {
    let start = u64::from(slot.0).saturating_mul(slot_bytes);
    size_bytes.saturating_sub(start).min(slot_bytes)
}

impl ClusterState {
    /// Bytes of slots placed on each silo that has any, as if every volume were full.
    pub fn placed_bytes(&self) -> BTreeMap<SiloId, u64> {
        let mut placed = BTreeMap::new();
        for volume in self.volumes.values() {
            for (index, slot) in volume.slots.iter().enumerate() {
                for silo in &slot.silos {
                    *placed.entry(*silo).or_default() += volume.slot_len(SlotIndex(index as u32));
                }
            }
        }
        placed
    }

    /// The silos that new slots may be placed on, with what lies on them already.
    pub fn placement_candidates(&self) -> Vec<Candidate> {
        let placed = self.placed_bytes();
        let in_service = self.silos.iter().filter(|(_, silo)| silo.state == SiloState::InService);
        in_service
            .filter_map(|(id, silo)| {
                let member = self.members.get(&silo.node).filter(|member| member.duty == Duty::Stores)?;
                Some(Candidate {
                    silo: *id,
                    node: silo.node,
                    zone: member.zone.clone(),
                    capacity_bytes: silo.capacity_bytes,
                    placed_bytes: placed.get(id).copied().unwrap_or(0),
                })
            })
            .collect()
    }

    pub(super) fn create_volume(&mut self, creation: VolumeCreation) -> Result<Outcome, Refusal> {
        self.founded()?;
        let VolumeCreation { id, name, size_bytes, policy, at } = creation;
        if let Some(volume) = self.volumes.get(&id)
            && volume.name == name
            && volume.size_bytes == size_bytes
            && volume.policy == policy
        {
            return Ok(Outcome::Created { volume: id });
        }
        check_name(&name)?;
        check_size(size_bytes)?;
        check_policy(&policy, self.level)?;
        if self.volumes.contains_key(&id) || self.deleted.contains_key(&id) {
            return Err(Refusal::VolumeIdUsed { volume: id });
        }
        if self.volume_named(&name).is_some() {
            return Err(Refusal::NameTaken { name });
        }
        let slot_bytes = block::slot_bytes(size_bytes);
        let lengths = (0..block::slot_count(size_bytes, slot_bytes))
            .map(|slot| slot_len(size_bytes, slot_bytes, SlotIndex(slot)));
        let placed = placement::place_volume(id, lengths, usize::from(policy.replicas), self.placement_candidates());
        let slots =
            placed.map_err(|few| Refusal::TooFewNodes { replicas: policy.replicas, nodes: few.nodes as u32 })?;
        let slots = slots.into_iter().map(|silos| SlotPlacement { silos, config: ConfigNumber(1) }).collect::<Vec<_>>();
        let volume = Volume {
            name,
            size_bytes,
            slot_bytes,
            policy,
            epoch: Epoch::ZERO,
            attachment: None,
            slots,
            created_at: at,
        };
        self.volumes.insert(id, volume);
        Ok(Outcome::Created { volume: id })
    }

    pub(super) fn attach(&mut self, id: VolumeId, node: NodeId, mode: AttachMode, at: u64) -> Result<Outcome, Refusal> {
        if !self.members.contains_key(&node) {
            return Err(Refusal::NoSuchNode { node });
        }
        let volume = self.volumes.get(&id).ok_or(Refusal::NoSuchVolume { volume: id })?;
        let held = volume.attachment.as_ref();
        let allowed = match (mode, held) {
            (AttachMode::Takeover, _) | (AttachMode::Fresh, None) => true,
            (AttachMode::Fresh, Some(held)) => held.node == node && held.export_closed,
            (AttachMode::Resume { epoch }, Some(held)) => {
                held.node == node && held.epoch == epoch && !held.export_closed
            }
            (AttachMode::Resume { .. }, None) => false,
        };
        if !allowed {
            return Err(match (mode, held) {
                (AttachMode::Fresh, Some(held)) => {
                    Refusal::Attached { volume: volume.name.clone(), node: held.node, host: self.node_label(held.node) }
                }
                _ => Refusal::NotResumable { volume: volume.name.clone() },
            });
        }
        let volume = self.volumes.get_mut(&id).ok_or(Refusal::NoSuchVolume { volume: id })?;
        let epoch = volume.epoch.next();
        volume.epoch = epoch;
        volume.attachment = Some(Attachment { node, epoch, since: at, export_closed: false });
        Ok(Outcome::Granted { epoch })
    }

    /// The network goes on with less than it may have known: whatever writers it had admitted, the next has a higher epoch.
    pub fn outlive(&mut self) {
        for volume in self.volumes.values_mut() {
            volume.epoch = Epoch(volume.epoch.0 + OUTLIVED_EPOCHS);
        }
    }

    pub(super) fn close_export(&mut self, id: VolumeId, epoch: Epoch) -> Result<Outcome, Refusal> {
        let volume = self.volumes.get_mut(&id).ok_or(Refusal::NoSuchVolume { volume: id })?;
        let current = volume.epoch;
        match &mut volume.attachment {
            Some(attachment) if attachment.epoch == epoch => {
                attachment.export_closed = true;
                Ok(Outcome::Done)
            }
            _ => Err(Refusal::StaleEpoch { volume: volume.name.clone(), epoch, current }),
        }
    }

    pub(super) fn detach(&mut self, id: VolumeId, epoch: Epoch) -> Result<Outcome, Refusal> {
        let volume = self.volumes.get_mut(&id).ok_or(Refusal::NoSuchVolume { volume: id })?;
        let current = volume.epoch;
        if epoch != current {
            return Err(Refusal::StaleEpoch { volume: volume.name.clone(), epoch, current });
        }
        volume.attachment = None;
        Ok(Outcome::Done)
    }

    /// Another number of copies: the slots follow.
    pub(super) fn set_replicas(&mut self, id: VolumeId, replicas: u8) -> Result<Outcome, Refusal> {
        let volume = self.volumes.get(&id).ok_or(Refusal::NoSuchVolume { volume: id })?;
        let policy = Policy { replicas, ..volume.policy };
        check_policy(&policy, self.level)?;
        if replicas > volume.policy.replicas {
            let nodes: BTreeSet<NodeId> = self.placement_candidates().into_iter().map(|silo| silo.node).collect();
            if nodes.len() < usize::from(replicas) {
                return Err(Refusal::TooFewNodes { replicas, nodes: nodes.len() as u32 });
            }
        }
        self.volumes.entry(id).and_modify(|volume| volume.policy = policy);
        Ok(Outcome::Done)
    }

    pub(super) fn delete_volume(&mut self, id: VolumeId, at: u64) -> Result<Outcome, Refusal> {
        if self.deleted.contains_key(&id) {
            return Ok(Outcome::Done);
        }
        let volume = self.volumes.get(&id).ok_or(Refusal::NoSuchVolume { volume: id })?;
        if let Some(held) = &volume.attachment {
            return Err(Refusal::DeleteAttached { volume: volume.name.clone(), host: self.node_label(held.node) });
        }
        self.volumes.remove(&id);
        self.deleted.insert(id, at);
        Ok(Outcome::Done)
    }
}

fn check_name(name: &str) -> Result<(), Refusal> {
    let bad = name.is_empty()
        || name.len() > VOLUME_NAME_BYTES_MAX
        || name.chars().any(|letter| letter == '/' || letter.is_control());
    if bad { Err(Refusal::BadName { name: printable(name) }) } else { Ok(()) }
}

/// The name as it may stand in a message: one line, not endless.
fn printable(name: &str) -> String {
    name.chars().take(VOLUME_NAME_BYTES_MAX).flat_map(|letter| letter.escape_debug()).collect()
}

fn check_size(size_bytes: u64) -> Result<(), Refusal> {
    if size_bytes == 0 || !size_bytes.is_multiple_of(BLOCK_BYTES) || size_bytes > VOLUME_BYTES_MAX {
        return Err(Refusal::BadSize { size_bytes });
    }
    Ok(())
}

fn check_policy(policy: &Policy, level: Level) -> Result<(), Refusal> {
    let is_known = level >= Level(1) || !policy.replicas.is_multiple_of(2);
    if !(1..=REPLICAS_MAX).contains(&policy.replicas) || !is_known {
        return Err(Refusal::BadReplicas { replicas: policy.replicas });
    }
    check_lease(u64::from(policy.lease_ms)).map(|_| ())
}

/// The term of a lease, if it is one that a volume may have.
pub fn check_lease(lease_ms: u64) -> Result<u32, Refusal> {
    let term = u32::try_from(lease_ms).unwrap_or(u32::MAX);
    if LEASE_MS.contains(&term) { Ok(term) } else { Err(Refusal::BadLease { lease_ms: term }) }
}
