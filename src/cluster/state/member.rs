//! The network's members: how they come in, where they are reached, how they go.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::base::address::Address;
use crate::base::id::{InvitationId, NodeId, SiloId};
use crate::cluster::state::command::{Announcement, Genesis, Join, NewMember, Outcome};
use crate::cluster::state::refusal::Refusal;
use crate::cluster::state::silo::SiloState;
use crate::cluster::state::volume::Volume;
use crate::cluster::state::{ClusterState, Network};

/// How long the uses of an expired invitation are remembered, in seconds: clocks differ.
const INVITATION_KEPT_SECONDS: u64 = 7 * 86_400;

/// Of so many that left, what they proposed last is remembered.
const LEFT_LATELY_MAX: usize = 16;

/// What a member is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Gives silos, may attach volumes, may vote.
    Storage,
    /// Attaches volumes only.
    Client,
    /// A storage node that may also invite others.
    Admin,
    /// Votes in the cluster group, and gives no silos.
    Witness,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Storage => "storage node",
            Role::Client => "client",
            Role::Admin => "admin",
            Role::Witness => "witness",
        })
    }
}

impl Role {
    /// Whether the node may contribute silos.
    pub fn holds_data(self) -> bool {
        match self {
            Role::Storage | Role::Admin => true,
            Role::Client | Role::Witness => false,
        }
    }

    /// Whether the node may vote in the cluster group.
    pub fn votes(self) -> bool {
        match self {
            Role::Storage | Role::Admin | Role::Witness => true,
            Role::Client => false,
        }
    }
}

/// One node of the network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The host name, for people; need not be unique.
    pub name: String,
    pub role: Role,
    /// Opaque here: the transport's type.
    pub passport: Vec<u8>,
    pub data_addresses: Vec<Address>,
    /// Multiaddresses.
    pub discovery_addresses: Vec<String>,
    pub zone: Option<String>,
    /// Seconds since 1970.
    pub joined_at: u64,
    /// The invitation it last joined by; `None` for the founder.
    pub invitation: Option<InvitationId>,
    pub duty: Duty,
}

/// Whether a node's silos hold copies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Duty {
    /// They get their share.
    #[default]
    Stores,
    /// What they have goes elsewhere, and they get nothing.
    Drains,
    /// The same; it will not come back, and leaves the network once they have nothing.
    Leaves,
}

/// How often an invitation was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvitationUse {
    pub uses: u32,
    /// Seconds since 1970.
    pub expires_at: u64,
}

impl Member {
    fn new(new: NewMember, joined_at: u64, invitation: Option<InvitationId>) -> Self {
        let NewMember { name, role, passport, data_addresses, discovery_addresses, zone } = new;
        let duty = Duty::Stores;
        Self { name, role, passport, data_addresses, discovery_addresses, zone, joined_at, invitation, duty }
    }
}

impl ClusterState {
    pub(super) fn genesis(&mut self, genesis: Genesis) -> Result<Outcome, Refusal> {
        if let Some(network) = &self.network {
            if network.id == genesis.network {
                return Ok(Outcome::Done);
            }
            return Err(Refusal::OtherNetwork { network: network.name.clone() });
        }
        self.network = Some(Network { id: genesis.network, name: genesis.name, created_at: genesis.at });
        self.members.insert(genesis.founder, Member::new(genesis.member, genesis.at, None));
        Ok(Outcome::Done)
    }

    /// A repeated join by the same invitation uses it once; another invitation renews passport and role.
    pub(super) fn join(&mut self, join: Join) -> Result<Outcome, Refusal> {
        self.founded()?;
        if self.revoked.contains_key(&join.node) {
            return Err(Refusal::Revoked { node: join.node });
        }
        let invitation = join.invitation;
        let known = self.members.get(&join.node);
        if let Some(member) = known
            && member.invitation == Some(invitation.id)
        {
            return Ok(Outcome::Joined { passport: member.passport.clone() });
        }
        if join.at > invitation.expires_at {
            return Err(Refusal::InvitationExpired { expired_at: invitation.expires_at });
        }
        let uses = self.invitations.get(&invitation.id).map_or(0, |used| used.uses);
        if uses >= invitation.uses_max {
            return Err(Refusal::InvitationUsedUp { uses_max: invitation.uses_max });
        }
        if let Some(member) = known
            && member.role.holds_data()
            && !join.member.role.holds_data()
            && self.silos.values().any(|silo| silo.node == join.node)
        {
            return Err(Refusal::HoldsSilos { node: self.node_label(join.node) });
        }
        let joined_at = known.map_or(join.at, |member| member.joined_at);
        let passport = join.member.passport.clone();
        self.invitations.retain(|_, used| used.expires_at.saturating_add(INVITATION_KEPT_SECONDS) >= join.at);
        self.invitations.insert(invitation.id, InvitationUse { uses: uses + 1, expires_at: invitation.expires_at });
        let duty = known.map_or(Duty::Stores, |member| member.duty);
        let member = Member { duty, ..Member::new(join.member, joined_at, Some(invitation.id)) };
        self.members.insert(join.node, member);
        Ok(Outcome::Joined { passport })
    }

    pub(super) fn announce(&mut self, announcement: Announcement) -> Result<Outcome, Refusal> {
        let node = announcement.node;
        let member = self.members.get_mut(&node).ok_or(Refusal::NoSuchNode { node })?;
        member.name = announcement.name;
        member.data_addresses = announcement.data_addresses;
        member.discovery_addresses = announcement.discovery_addresses;
        member.zone = announcement.zone;
        Ok(Outcome::Done)
    }

    /// Whether a node is to go, or all of its silos are lost: what it does is for others to do.
    pub fn is_going(&self, node: NodeId) -> bool {
        let mut silos = self.silos.values().filter(|silo| silo.node == node).peekable();
        let is_lost = silos.peek().is_some() && silos.all(|silo| silo.state == SiloState::Down);
        is_lost || self.members.get(&node).is_none_or(|member| member.duty != Duty::Stores)
    }

    /// Copies of slots that lie on a node.
    pub fn copies_on(&self, node: NodeId) -> u32 {
        let silos = self.volumes.values().flat_map(|volume| volume.slots.iter().flat_map(|slot| &slot.silos));
        silos.filter(|silo| self.silos.get(silo).is_some_and(|info| info.node == node)).count() as u32
    }

    /// Whether a node has copies, or a volume attached.
    pub fn holds_anything(&self, node: NodeId) -> bool {
        let is_attached = |volume: &Volume| volume.attachment.as_ref().is_some_and(|held| held.node == node);
        self.copies_on(node) > 0 || self.volumes.values().any(is_attached)
    }

    /// A node that may store becomes a witness, and the other way round: what a client's passport allows is neither.
    pub(super) fn set_role(&mut self, node: NodeId, role: Role) -> Result<Outcome, Refusal> {
        let member = self.members.get(&node).ok_or(Refusal::NoSuchNode { node })?;
        if !member.role.votes() || !role.votes() {
            return Err(Refusal::RoleGivesNoSilos { node: self.node_label(node) });
        }
        if role == Role::Witness {
            if self.copies_on(node) > 0 {
                return Err(Refusal::HoldsSilos { node: self.node_label(node) });
            }
            self.silos.retain(|_, silo| silo.node != node);
        }
        self.members.entry(node).and_modify(|member| member.role = role);
        Ok(Outcome::Done)
    }

    /// Refused where the copies could not go elsewhere for want of nodes: then there would be fewer than the policy says.
    pub(super) fn set_duty(&mut self, node: NodeId, duty: Duty) -> Result<Outcome, Refusal> {
        let member = self.members.get(&node).ok_or(Refusal::NoSuchNode { node })?;
        if member.duty == duty {
            return Ok(Outcome::Done);
        }
        if member.duty == Duty::Stores {
            if self.members.len() == 1 {
                return Err(Refusal::LastMember);
            }
            self.check_room_without(node)?;
        }
        if duty == Duty::Leaves {
            self.check_copies_without(node)?;
            // Whoever attaches gets a higher epoch, and waits out the lease.
            for volume in self.volumes.values_mut() {
                volume.attachment.take_if(|attachment| attachment.node == node);
            }
        }
        self.members.entry(node).and_modify(|member| member.duty = duty);
        Ok(Outcome::Done)
    }

    /// Whether the slots that have copies on this node, or on one that is to go too, find as many nodes without it.
    fn check_room_without(&self, node: NodeId) -> Result<(), Refusal> {
        let candidates = self.placement_candidates();
        let stays: BTreeSet<SiloId> =
            candidates.iter().filter(|silo| silo.node != node).map(|silo| silo.silo).collect();
        let others: BTreeSet<NodeId> = candidates.iter().map(|silo| silo.node).filter(|other| *other != node).collect();
        let nodes = others.len();
        let is_to_go = |silo: &SiloId| !stays.contains(silo);
        let is_concerned = |volume: &&Volume| volume.slots.iter().any(|slot| slot.silos.iter().any(is_to_go));
        for volume in self.volumes.values().filter(is_concerned) {
            if nodes < usize::from(volume.policy.replicas) {
                let (volume, replicas) = (volume.name.clone(), volume.policy.replicas);
                return Err(Refusal::NoRoomElsewhere {
                    node: self.node_label(node),
                    volume,
                    replicas,
                    nodes: nodes as u32,
                });
            }
        }
        Ok(())
    }

    /// Whether each slot has a copy elsewhere: what a node that will not come back has alone is lost with it, and a person is to
    /// say so.
    fn check_copies_without(&self, node: NodeId) -> Result<(), Refusal> {
        let stays = |other: NodeId| self.members.get(&other).is_some_and(|member| member.duty != Duty::Leaves);
        let is_elsewhere =
            |silo: &SiloId| self.silos.get(silo).is_some_and(|info| info.node != node && stays(info.node));
        let is_lost = |volume: &&Volume| volume.slots.iter().any(|slot| !slot.silos.iter().any(is_elsewhere));
        match self.volumes.values().find(is_lost) {
            Some(volume) => Err(Refusal::LastCopy { node: self.node_label(node), volume: volume.name.clone() }),
            None => Ok(()),
        }
    }

    /// Those that left last: what they had proposed may still arrive, and is to be known again.
    pub fn left_lately(&self) -> BTreeSet<NodeId> {
        let mut left: Vec<(u64, NodeId)> = self.revoked.iter().map(|(node, at)| (*at, *node)).collect();
        left.sort_unstable();
        left.into_iter().rev().take(LEFT_LATELY_MAX).map(|(_, node)| node).collect()
    }

    pub(super) fn leave(&mut self, node: NodeId, at: u64) -> Result<Outcome, Refusal> {
        self.founded()?;
        if self.revoked.contains_key(&node) {
            return Ok(Outcome::Done);
        }
        if !self.members.contains_key(&node) {
            return Err(Refusal::NoSuchNode { node });
        }
        if self.members.len() == 1 {
            return Err(Refusal::LastMember);
        }
        for volume in self.volumes.values() {
            if volume.attachment.as_ref().is_some_and(|attachment| attachment.node == node) {
                return Err(Refusal::NodeAttached { node: self.node_label(node), volume: volume.name.clone() });
            }
            let mut silos = volume.slots.iter().flat_map(|slot| &slot.silos);
            if silos.any(|silo| self.silos.get(silo).is_some_and(|info| info.node == node)) {
                return Err(Refusal::NodeHoldsSlots { node: self.node_label(node), volume: volume.name.clone() });
            }
        }
        self.members.remove(&node);
        self.silos.retain(|_, silo| silo.node != node);
        self.revoked.insert(node, at);
        Ok(Outcome::Done)
    }
}
