//! The network's members: how they come in, where they are reached, how they go.

use serde::{Deserialize, Serialize};

use crate::base::address::Address;
use crate::base::id::{InvitationId, NodeId};
use crate::cluster::state::command::{Announcement, Genesis, Join, NewMember, Outcome};
use crate::cluster::state::refusal::Refusal;
use crate::cluster::state::{ClusterState, Network};

/// How long the uses of an expired invitation are remembered, in seconds: clocks differ.
const INVITATION_KEPT_SECONDS: u64 = 7 * 86_400;

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
}

impl Role {
    /// Whether the node may contribute silos, and so be a voter of the cluster group.
    pub fn holds_data(self) -> bool {
        match self {
            Role::Storage | Role::Admin => true,
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
        Self { name, role, passport, data_addresses, discovery_addresses, zone, joined_at, invitation }
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
        self.members.insert(join.node, Member::new(join.member, joined_at, Some(invitation.id)));
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
