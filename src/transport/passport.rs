//! Passports and invitations: who belongs to a network, provable offline with the network's public key alone.
//!
//! ```text
//! network key ──signs──▶ passport of the creator (admin)
//!      │                        │
//!      └──signs──▶ invitation ◀─┴─signs (an admin may invite, but makes no admins)
//!                      │ names a one-off key
//!                      ▼
//!                  one-off key ──signs──▶ passport of whoever joined with the token
//! ```
//!
//! The joiner makes its own key and signs its own passport with the token's one-off key, so joining needs no private
//! key of the network to be at hand. What cannot be told offline (how often an invitation was used, whether a
//! passport was revoked, whether the invitation had run out by the time somebody joined) is decided by the cluster
//! group when it admits the node.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::base::id::{InvitationId, NetworkId, NodeId};
use crate::transport::identity::{NetworkKey, NodeKey, Signature, SignedUse, TokenKey, verify};

/// The longest encoded passport: a chain has at most two invitations, each well under 300 bytes.
pub const PASSPORT_BYTES_MAX: usize = 2048;

/// What a node may do in the network; each role includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Attaches volumes.
    Client,
    /// Also contributes silos and votes.
    Storage,
    /// Also invites others.
    Admin,
}

impl Role {
    /// Whether the node may contribute silos.
    pub fn may_store(self) -> bool {
        self >= Role::Storage
    }

    /// Whether the node may invite others.
    pub fn may_invite(self) -> bool {
        self == Role::Admin
    }

    /// The word of the command line.
    pub fn name(self) -> &'static str {
        match self {
            Role::Client => "client",
            Role::Storage => "storage",
            Role::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Who signed an invitation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Issuer {
    Network,
    /// An admin's node key; its passport says that it is one.
    Admin(Box<Passport>),
}

/// The terms of an invitation: everything its issuer signs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvitationTerms {
    pub network: NetworkId,
    pub id: InvitationId,
    /// The highest role a passport made with it may have.
    pub role: Role,
    /// Wall time in seconds since 1970 after which nobody joins with it any more.
    pub expires_at: u64,
    /// How many nodes may join with it; counted by the cluster group.
    pub uses: u32,
    /// The one-off Ed25519 public key whose private half is in the token.
    pub key: [u8; 32],
    pub issuer: Issuer,
}

/// An invitation to a network, signed by the network's key or an admin's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invitation {
    pub terms: InvitationTerms,
    pub signature: Signature,
}

impl Invitation {
    /// An invitation by the network's owner.
    pub fn by_network(
        owner: &NetworkKey,
        role: Role,
        expires_at: u64,
        uses: u32,
        key: &TokenKey,
    ) -> Result<Invitation, PassportError> {
        let terms = InvitationTerms {
            network: owner.network(),
            id: InvitationId::random(),
            role,
            expires_at,
            uses,
            key: key.public(),
            issuer: Issuer::Network,
        };
        let signature = owner.sign(SignedUse::Invitation, &encode(&terms)?);
        Ok(Invitation { terms, signature })
    }

    /// An invitation by an admin. An admin invites clients and storage nodes; only the owner makes admins.
    pub fn by_admin(
        admin: &NodeKey,
        passport: &Passport,
        role: Role,
        expires_at: u64,
        uses: u32,
        key: &TokenKey,
    ) -> Result<Invitation, PassportError> {
        if passport.node() != admin.node() {
            return Err(PassportError::WrongNode);
        }
        let terms = InvitationTerms {
            network: passport.network(),
            id: InvitationId::random(),
            role,
            expires_at,
            uses,
            key: key.public(),
            issuer: Issuer::Admin(Box::new(passport.clone())),
        };
        terms.check_authority()?;
        let signature = admin.sign(SignedUse::Invitation, &encode(&terms)?);
        Ok(Invitation { terms, signature })
    }

    /// Checks the chain up to the network's key. Says nothing about expiry by now: see [`Invitation::verify_open`].
    pub fn verify(&self, network: NetworkId) -> Result<(), PassportError> {
        if self.terms.network != network {
            return Err(PassportError::ForeignNetwork(self.terms.network));
        }
        let signer = match &self.terms.issuer {
            Issuer::Network => network.0,
            Issuer::Admin(passport) => passport.node().0,
        };
        if !verify(&signer, SignedUse::Invitation, &encode(&self.terms)?, &self.signature) {
            return Err(PassportError::Tampered);
        }
        self.terms.check_authority()?;
        match &self.terms.issuer {
            Issuer::Network => Ok(()),
            // An invitation outlives the passport of the admin who gave it, but not one that was never valid.
            Issuer::Admin(passport) => passport.verify_chain(network),
        }
    }

    /// [`Invitation::verify`], and that one can still join with it at `now` (seconds since 1970).
    pub fn verify_open(&self, network: NetworkId, now: u64) -> Result<(), PassportError> {
        self.verify(network)?;
        if now >= self.terms.expires_at { Err(PassportError::InvitationExpired) } else { Ok(()) }
    }
}

impl InvitationTerms {
    /// That the issuer may give this role. It also bounds the chain: an admin's passport stems from the network's
    /// key directly or through one invitation by it.
    fn check_authority(&self) -> Result<(), PassportError> {
        let Issuer::Admin(passport) = &self.issuer else { return Ok(()) };
        if passport.network() != self.network {
            return Err(PassportError::ForeignNetwork(passport.network()));
        }
        let by_owner = match &passport.authority {
            Authority::Network { .. } => true,
            Authority::Invited { invitation, .. } => invitation.terms.issuer == Issuer::Network,
        };
        if by_owner && passport.role().may_invite() && !self.role.may_invite() {
            Ok(())
        } else {
            Err(PassportError::RoleEscalation)
        }
    }
}

/// What a passport says: everything that is signed besides the chain itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassportTerms {
    pub network: NetworkId,
    pub node: NodeId,
    pub role: Role,
    /// Wall time in seconds since 1970.
    pub issued_at: u64,
    pub expires_at: Option<u64>,
}

/// What makes a passport valid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Authority {
    /// The network's key over the terms.
    Network { signature: Signature },
    /// The invitation's one-off key over the terms and the invitation.
    Invited { invitation: Box<Invitation>, signature: Signature },
}

/// Proof that a node belongs to a network, in a role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passport {
    pub terms: PassportTerms,
    pub authority: Authority,
}

impl Passport {
    /// A passport by the network's owner: the creator's own.
    pub fn by_network(owner: &NetworkKey, node: NodeId, role: Role, now: u64) -> Result<Passport, PassportError> {
        let terms = PassportTerms { network: owner.network(), node, role, issued_at: now, expires_at: None };
        let signature = owner.sign(SignedUse::Passport, &encode(&terms)?);
        Ok(Passport { terms, authority: Authority::Network { signature } })
    }

    /// The passport a joiner makes for itself with a token's invitation and one-off key.
    pub fn by_invitation(
        invitation: &Invitation,
        key: &TokenKey,
        node: NodeId,
        now: u64,
    ) -> Result<Passport, PassportError> {
        if key.public() != invitation.terms.key {
            return Err(PassportError::Tampered);
        }
        invitation.verify_open(invitation.terms.network, now)?;
        let network = invitation.terms.network;
        let terms = PassportTerms { network, node, role: invitation.terms.role, issued_at: now, expires_at: None };
        let signature = key.sign(SignedUse::Passport, &encode(&(&terms, invitation))?);
        let invitation = Box::new(invitation.clone());
        Ok(Passport { terms, authority: Authority::Invited { invitation, signature } })
    }

    pub fn network(&self) -> NetworkId {
        self.terms.network
    }

    pub fn node(&self) -> NodeId {
        self.terms.node
    }

    pub fn role(&self) -> Role {
        self.terms.role
    }

    /// The invitation it was made with; `None` for one that the owner signed.
    pub fn invitation(&self) -> Option<&Invitation> {
        match &self.authority {
            Authority::Network { .. } => None,
            Authority::Invited { invitation, .. } => Some(invitation),
        }
    }

    /// Checks network, chain and expiry, offline. `now` is wall time in seconds since 1970.
    pub fn verify(&self, network: NetworkId, now: u64) -> Result<(), PassportError> {
        self.verify_chain(network)?;
        match self.terms.expires_at {
            Some(end) if now >= end => Err(PassportError::Expired),
            _ => Ok(()),
        }
    }

    /// [`Passport::verify`], and that it is this node's: the one that the connection's key proved.
    pub fn verify_holder(&self, network: NetworkId, node: NodeId, now: u64) -> Result<(), PassportError> {
        if self.terms.node != node {
            return Err(PassportError::WrongNode);
        }
        self.verify(network, now)
    }

    /// [`Passport::verify_holder`] for a node that is joining: its invitation must still be open at `now`.
    pub fn verify_joining(&self, network: NetworkId, node: NodeId, now: u64) -> Result<(), PassportError> {
        self.verify_holder(network, node, now)?;
        self.invitation().map_or(Ok(()), |invitation| invitation.verify_open(network, now))
    }

    /// The chain of signatures and roles up to the network's key, whatever the time. Its depth is bounded: an
    /// invitation by an admin is checked only after the admin's own chain was found to have one invitation at most.
    fn verify_chain(&self, network: NetworkId) -> Result<(), PassportError> {
        if self.terms.network != network {
            return Err(PassportError::ForeignNetwork(self.terms.network));
        }
        match &self.authority {
            Authority::Network { signature } => {
                let signed = verify(&network.0, SignedUse::Passport, &encode(&self.terms)?, signature);
                if signed { Ok(()) } else { Err(PassportError::Tampered) }
            }
            Authority::Invited { invitation, signature } => {
                let bytes = encode(&(&self.terms, invitation))?;
                if !verify(&invitation.terms.key, SignedUse::Passport, &bytes, signature) {
                    return Err(PassportError::Tampered);
                }
                invitation.verify(network)?;
                if self.terms.role > invitation.terms.role {
                    return Err(PassportError::RoleEscalation);
                }
                if self.terms.issued_at >= invitation.terms.expires_at {
                    return Err(PassportError::InvitationExpired);
                }
                Ok(())
            }
        }
    }

    /// The bytes that go over the wire and into the home.
    pub fn encode(&self) -> Result<Vec<u8>, PassportError> {
        encode(self)
    }

    /// Reads what [`Passport::encode`] wrote; any bytes are safe. The result still has to be verified.
    pub fn decode(bytes: &[u8]) -> Result<Passport, PassportError> {
        if bytes.len() > PASSPORT_BYTES_MAX {
            return Err(PassportError::Damaged);
        }
        match postcard::take_from_bytes(bytes) {
            Ok((passport, [])) => Ok(passport),
            _ => Err(PassportError::Damaged),
        }
    }
}

/// Why a passport or an invitation is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PassportError {
    /// Of another network than this one.
    ForeignNetwork(NetworkId),
    /// The passport ran out.
    Expired,
    /// The invitation had run out, or runs out before the passport was made.
    InvitationExpired,
    /// A signature does not match.
    Tampered,
    /// It belongs to another node.
    WrongNode,
    /// It grants a role that its issuer may not grant.
    RoleEscalation,
    /// The bytes are no passport.
    Damaged,
}

impl fmt::Display for PassportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PassportError::ForeignNetwork(other) => write!(f, "it is of another network ({})", other.short()),
            PassportError::Expired => f.write_str("the passport has expired"),
            PassportError::InvitationExpired => f.write_str("the invitation has expired"),
            PassportError::Tampered => f.write_str("a signature does not match: it was tampered with"),
            PassportError::WrongNode => f.write_str("the passport belongs to another node"),
            PassportError::RoleEscalation => f.write_str("it grants a role that its issuer may not grant"),
            PassportError::Damaged => f.write_str("it is damaged"),
        }
    }
}

impl std::error::Error for PassportError {}

/// Fuzz entry: decodes any bytes as a passport and checks its chain.
pub fn fuzz_passport(bytes: &[u8]) {
    if let Ok(passport) = Passport::decode(bytes) {
        // A chain that happens to verify is fine; what matters is that no bytes make this panic or run away.
        let _ = passport.verify(passport.network(), 0);
    }
}

fn encode(value: &impl Serialize) -> Result<Vec<u8>, PassportError> {
    postcard::to_stdvec(value).map_err(|_| PassportError::Damaged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: u64 = 1_795_305_600;

    struct Setting {
        owner: NetworkKey,
        admin: NodeKey,
        admin_passport: Passport,
        key: TokenKey,
        node: NodeKey,
    }

    fn setting() -> Setting {
        let (owner, admin) = (NetworkKey::generate(), NodeKey::generate());
        let admin_passport = Passport::by_network(&owner, admin.node(), Role::Admin, NOW).unwrap();
        Setting { owner, admin, admin_passport, key: TokenKey::generate(), node: NodeKey::generate() }
    }

    impl Setting {
        fn network(&self) -> NetworkId {
            self.owner.network()
        }

        fn invited(&self, role: Role) -> Passport {
            let invitation = Invitation::by_network(&self.owner, role, NOW + 60, 1, &self.key).unwrap();
            Passport::by_invitation(&invitation, &self.key, self.node.node(), NOW).unwrap()
        }

        /// An invitation by an admin whose terms nobody checked before signing.
        fn forged_invitation(&self, passport: &Passport, role: Role) -> Invitation {
            let terms = InvitationTerms {
                network: self.network(),
                id: InvitationId::random(),
                role,
                expires_at: NOW + 60,
                uses: 1,
                key: self.key.public(),
                issuer: Issuer::Admin(Box::new(passport.clone())),
            };
            let signature = self.admin.sign(SignedUse::Invitation, &encode(&terms).unwrap());
            Invitation { terms, signature }
        }

        /// A passport signed with the one-off key over whatever terms.
        fn forged_passport(&self, invitation: &Invitation, role: Role) -> Passport {
            let terms = PassportTerms {
                network: self.network(),
                node: self.node.node(),
                role,
                issued_at: NOW,
                expires_at: None,
            };
            let signature = self.key.sign(SignedUse::Passport, &encode(&(&terms, invitation)).unwrap());
            Passport { terms, authority: Authority::Invited { invitation: Box::new(invitation.clone()), signature } }
        }
    }

    #[test]
    fn the_owner_admins_and_their_guests_are_accepted() {
        let s = setting();
        s.admin_passport.verify_holder(s.network(), s.admin.node(), NOW).unwrap();
        s.invited(Role::Admin).verify_joining(s.network(), s.node.node(), NOW).unwrap();
        let invitation = Invitation::by_admin(&s.admin, &s.admin_passport, Role::Storage, NOW + 60, 2, &s.key).unwrap();
        let guest = Passport::by_invitation(&invitation, &s.key, s.node.node(), NOW).unwrap();
        guest.verify_joining(s.network(), s.node.node(), NOW).unwrap();
        let bytes = guest.encode().unwrap();
        assert!(bytes.len() < PASSPORT_BYTES_MAX / 2, "{} bytes", bytes.len());
        assert_eq!(Passport::decode(&bytes).unwrap(), guest);
    }

    #[test]
    fn an_admin_that_was_itself_invited_by_the_owner_may_invite() {
        let s = setting();
        let invitation = Invitation::by_network(&s.owner, Role::Admin, NOW + 60, 1, &s.key).unwrap();
        let admin = Passport::by_invitation(&invitation, &s.key, s.admin.node(), NOW).unwrap();
        let guest_key = TokenKey::generate();
        let invitation = Invitation::by_admin(&s.admin, &admin, Role::Client, NOW + 60, 1, &guest_key).unwrap();
        let guest = Passport::by_invitation(&invitation, &guest_key, s.node.node(), NOW).unwrap();
        guest.verify(s.network(), NOW).unwrap();
        assert!(guest.encode().unwrap().len() <= PASSPORT_BYTES_MAX);
    }

    #[test]
    fn a_foreign_network_is_refused() {
        let (s, other) = (setting(), setting());
        let refused = s.invited(Role::Storage).verify(other.network(), NOW);
        assert_eq!(refused, Err(PassportError::ForeignNetwork(s.network())));
        let mut renamed = s.invited(Role::Storage);
        renamed.terms.network = other.network();
        assert_eq!(renamed.verify(other.network(), NOW), Err(PassportError::Tampered));
    }

    #[test]
    fn an_expired_passport_or_invitation_is_refused() {
        let s = setting();
        let mut passport = s.admin_passport.clone();
        passport.terms.expires_at = Some(NOW + 10);
        let signature = s.owner.sign(SignedUse::Passport, &encode(&passport.terms).unwrap());
        passport.authority = Authority::Network { signature };
        passport.verify(s.network(), NOW + 9).unwrap();
        assert_eq!(passport.verify(s.network(), NOW + 10), Err(PassportError::Expired));

        let guest = s.invited(Role::Storage);
        guest.verify(s.network(), NOW + 1_000_000).unwrap();
        let joining = guest.verify_joining(s.network(), s.node.node(), NOW + 60);
        assert_eq!(joining, Err(PassportError::InvitationExpired));
        let invitation = guest.invitation().unwrap();
        let late = Passport::by_invitation(invitation, &s.key, s.node.node(), NOW + 60);
        assert_eq!(late.unwrap_err(), PassportError::InvitationExpired);
    }

    #[test]
    fn another_nodes_passport_is_refused() {
        let s = setting();
        let refused = s.invited(Role::Storage).verify_holder(s.network(), s.admin.node(), NOW);
        assert_eq!(refused, Err(PassportError::WrongNode));
        let refused = Invitation::by_admin(&s.node, &s.admin_passport, Role::Client, NOW + 1, 1, &s.key);
        assert_eq!(refused.unwrap_err(), PassportError::WrongNode);
    }

    #[test]
    fn no_role_grows_along_the_chain() {
        let s = setting();
        let invitation = Invitation::by_network(&s.owner, Role::Client, NOW + 60, 1, &s.key).unwrap();
        let forged = s.forged_passport(&invitation, Role::Storage);
        assert_eq!(forged.verify(s.network(), NOW), Err(PassportError::RoleEscalation));

        let refused = Invitation::by_admin(&s.admin, &s.admin_passport, Role::Admin, NOW + 60, 1, &s.key);
        assert_eq!(refused.unwrap_err(), PassportError::RoleEscalation);
        let forged = s.forged_passport(&s.forged_invitation(&s.admin_passport, Role::Admin), Role::Admin);
        assert_eq!(forged.verify(s.network(), NOW), Err(PassportError::RoleEscalation));

        let storage = Passport::by_network(&s.owner, s.admin.node(), Role::Storage, NOW).unwrap();
        let forged = s.forged_passport(&s.forged_invitation(&storage, Role::Client), Role::Client);
        assert_eq!(forged.verify(s.network(), NOW), Err(PassportError::RoleEscalation));
    }

    #[test]
    fn an_invitation_by_nobodys_key_is_refused() {
        let s = setting();
        let stranger = NetworkKey::generate();
        let mut invitation = Invitation::by_network(&stranger, Role::Storage, NOW + 60, 1, &s.key).unwrap();
        invitation.terms.network = s.network();
        invitation.signature = stranger.sign(SignedUse::Invitation, &encode(&invitation.terms).unwrap());
        let forged = s.forged_passport(&invitation, Role::Storage);
        assert_eq!(forged.verify(s.network(), NOW), Err(PassportError::Tampered));
        let other_key = TokenKey::generate();
        let refused = Passport::by_invitation(&invitation, &other_key, s.node.node(), NOW);
        assert_eq!(refused.unwrap_err(), PassportError::Tampered);
    }

    #[test]
    fn no_single_bit_of_a_passport_can_change() {
        let s = setting();
        let bytes = s.invited(Role::Storage).encode().unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let accepted = Passport::decode(&bad)
                .is_ok_and(|passport| passport.verify_holder(s.network(), s.node.node(), NOW).is_ok());
            assert!(!accepted, "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_safe(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
            fuzz_passport(&bytes);
        }

        #[test]
        fn deep_chains_of_any_kind_are_safe(depth in 0_usize..200, seed in any::<u8>()) {
            // Nested admin passports: the shape that would recurse deepest.
            let one = [&[seed; 32][..], &[seed; 32][..], &[2, 0, 0, 1], &[seed; 48], &[2, 0, 1], &[seed; 32], &[1]].concat();
            fuzz_passport(&one.repeat(depth));
        }
    }
}
