//! The cluster state as bytes, in snapshots and on the wire: a version, then the state in postcard's encoding.
//!
//! | version | what is new |
//! |---|---|
//! | 1 | |
//! | 2 | a member's duty; settings and level of the network |

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::base::address::Address;
use crate::base::id::{InvitationId, NodeId, SiloId, VolumeId};
use crate::cluster::state::level::Level;
use crate::cluster::state::member::{Duty, InvitationUse, Member, Role};
use crate::cluster::state::settings::Settings;
use crate::cluster::state::silo::SiloInfo;
use crate::cluster::state::volume::Volume;
use crate::cluster::state::{ClusterState, Network};

/// The versions of a stored state. New versions are added at the end; old ones stay and are converted when read.
#[derive(Deserialize)]
#[cfg_attr(test, derive(Serialize))]
enum Versioned {
    V1(First),
    V2(ClusterState),
}

/// The same, borrowed, for writing. What all members understand says which: one that is older reads no newer one.
#[derive(Serialize)]
enum VersionedRef<'a> {
    V1(FirstRef<'a>),
    V2(&'a ClusterState),
}

#[derive(Serialize)]
struct FirstRef<'a> {
    network: &'a Option<Network>,
    members: BTreeMap<NodeId, FirstMemberRef<'a>>,
    revoked: &'a BTreeMap<NodeId, u64>,
    invitations: &'a BTreeMap<InvitationId, InvitationUse>,
    silos: &'a BTreeMap<SiloId, SiloInfo>,
    volumes: &'a BTreeMap<VolumeId, Volume>,
    deleted: &'a BTreeMap<VolumeId, u64>,
}

#[derive(Serialize)]
struct FirstMemberRef<'a> {
    name: &'a str,
    role: Role,
    passport: &'a [u8],
    data_addresses: &'a [Address],
    discovery_addresses: &'a [String],
    zone: &'a Option<String>,
    joined_at: u64,
    invitation: Option<InvitationId>,
}

impl<'a> From<&'a ClusterState> for FirstRef<'a> {
    fn from(state: &'a ClusterState) -> Self {
        // Of the lowest level, the rest is as it is in every new state.
        let ClusterState { network, members, revoked, invitations, silos, volumes, deleted, settings: _, level: _ } =
            state;
        let members = members.iter().map(|(node, member)| (*node, member.into())).collect();
        Self { network, members, revoked, invitations, silos, volumes, deleted }
    }
}

impl<'a> From<&'a Member> for FirstMemberRef<'a> {
    fn from(member: &'a Member) -> Self {
        let Member { name, role, passport, data_addresses, discovery_addresses, zone, joined_at, invitation, duty: _ } =
            member;
        let (role, joined_at, invitation) = (*role, *joined_at, *invitation);
        Self { name, role, passport, data_addresses, discovery_addresses, zone, joined_at, invitation }
    }
}

/// Version 1.
#[derive(Deserialize)]
#[cfg_attr(test, derive(Serialize))]
struct First {
    network: Option<Network>,
    members: BTreeMap<NodeId, FirstMember>,
    revoked: BTreeMap<NodeId, u64>,
    invitations: BTreeMap<InvitationId, InvitationUse>,
    silos: BTreeMap<SiloId, SiloInfo>,
    volumes: BTreeMap<VolumeId, Volume>,
    deleted: BTreeMap<VolumeId, u64>,
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(Serialize))]
struct FirstMember {
    name: String,
    role: Role,
    passport: Vec<u8>,
    data_addresses: Vec<Address>,
    discovery_addresses: Vec<String>,
    zone: Option<String>,
    joined_at: u64,
    invitation: Option<InvitationId>,
}

impl From<FirstMember> for Member {
    fn from(member: FirstMember) -> Self {
        let FirstMember { name, role, passport, data_addresses, discovery_addresses, zone, joined_at, invitation } =
            member;
        let duty = Duty::Stores;
        Self { name, role, passport, data_addresses, discovery_addresses, zone, joined_at, invitation, duty }
    }
}

impl From<First> for ClusterState {
    fn from(state: First) -> Self {
        let First { network, members, revoked, invitations, silos, volumes, deleted } = state;
        let members = members.into_iter().map(|(node, member)| (node, member.into())).collect();
        let (settings, level) = (Settings::default(), Level::default());
        Self { network, members, revoked, invitations, silos, volumes, deleted, settings, level }
    }
}

/// Bytes that are no cluster state, or one of a newer Infinit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadState;

impl fmt::Display for BadState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the cluster state is damaged or was written by a newer Infinit")
    }
}

impl std::error::Error for BadState {}

impl ClusterState {
    /// The state as stored in snapshots, with its version in front.
    pub fn encode(&self) -> Vec<u8> {
        // Serializing plain maps and integers into a growing vector has no way to fail.
        let version = match self.level {
            Level(0) => VersionedRef::V1(self.into()),
            Level(_) => VersionedRef::V2(self),
        };
        postcard::to_stdvec(&version).expect("a cluster state is always serializable")
    }

    /// Reads a state of this or an older version.
    pub fn decode(bytes: &[u8]) -> Result<Self, BadState> {
        match postcard::take_from_bytes(bytes) {
            Ok((Versioned::V1(state), [])) => Ok(state.into()),
            // Of the lowest level nothing is written so: it would be read as another when it is stored again.
            Ok((Versioned::V2(state), [])) if state.level > Level(0) => Ok(state),
            Ok(_) | Err(_) => Err(BadState),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::NetworkId;

    #[test]
    fn a_state_of_the_first_version_is_read() {
        let node = NodeId([7; 32]);
        let network = Network { id: NetworkId([1; 32]), name: "prod".to_owned(), created_at: 5 };
        let member = FirstMember {
            name: "host-a".to_owned(),
            role: Role::Admin,
            passport: vec![1, 2, 3],
            data_addresses: vec!["192.0.2.1:7420".parse().unwrap()],
            discovery_addresses: vec!["/ip4/192.0.2.1/tcp/7421".to_owned()],
            zone: Some("rack-1".to_owned()),
            joined_at: 6,
            invitation: None,
        };
        let first = First {
            network: Some(network),
            members: BTreeMap::from([(node, member)]),
            revoked: BTreeMap::from([(NodeId([8; 32]), 9)]),
            invitations: BTreeMap::new(),
            silos: BTreeMap::new(),
            volumes: BTreeMap::new(),
            deleted: BTreeMap::from([(VolumeId([4; 16]), 10)]),
        };
        let bytes = postcard::to_stdvec(&Versioned::V1(first)).unwrap();
        let state = ClusterState::decode(&bytes).unwrap();
        assert_eq!((state.members[&node].name.as_str(), state.members[&node].duty), ("host-a", Duty::Stores));
        assert_eq!((state.settings, state.deleted.len()), (Settings::default(), 1));
        assert_eq!(state.encode(), bytes, "an older member reads it");
        let raised = ClusterState { level: Level(1), ..state };
        assert_eq!(ClusterState::decode(&raised.encode()), Ok(raised));
    }
}
