//! Creating a network, inviting to it and joining it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::base::address::Address;
use crate::base::clock::{rfc3339, wall_seconds};
use crate::base::error::{Fault, Kind, Result};
use crate::base::id::NodeId;
use crate::daemon::addresses;
use crate::daemon::api::{self, NodeRef, check_name};
use crate::daemon::home::{Home, KnownNode, NodeFile, create_dir};
use crate::daemon::offline::{Joining, Place};
use crate::daemon::peers::{Ask, NODE_SERVICE, Told};
use crate::transport::endpoint::{Admission, Dialer};
use crate::transport::identity::{NetworkKey, TokenKey};
use crate::transport::network::{ConnectError, Purpose};
use crate::transport::passport::{Invitation, Passport, PassportError, Role};
use crate::transport::rpc::{self, RpcError};
use crate::transport::token::{CONTACTS_MAX, Contact, Token, TokenError};

/// The service number of a request to join.
pub const JOIN_SERVICE: u8 = 3;
/// Where a node listens if it was never told: all addresses, this port.
pub const LISTEN_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 7420);
/// How long one member may take to let a node in: the cluster group must agree.
const JOIN_LIMIT: Duration = Duration::from_secs(15);

/// What mends every token that is refused.
pub const NEW_TOKEN: &str = "on a member: infinit network invite";

/// A node that wants to join says who it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JoinRequest {
    pub passport: Vec<u8>,
    pub name: String,
}

/// The answer to a node that wants to join.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum JoinAnswer {
    Joined { passport: Vec<u8>, created_at: u64, members: Vec<KnownNode> },
    Refused(Fault),
}

/// Makes the network's key, this node's key and its passport.
pub fn create(root: &Path, name: &str) -> Result<api::Network> {
    check_name("network", name)?;
    let home = Home::of(root, name);
    if home.is_there() {
        return Err(Fault::conflict(format!("there is a network '{name}' in {} already", root.display()))
            .hint("choose another name, or see it: infinit network list"));
    }
    create_dir(root)?;
    home.create()?;
    let now = wall_seconds();
    // An interrupted creation left a key behind: it is as good as a new one.
    let network_key = match home.network_key()? {
        Some(key) => key,
        None => {
            let key = NetworkKey::generate();
            home.save_network_key(&key)?;
            key
        }
    };
    let node_key = home.node_key_or_new()?;
    let passport = Passport::by_network(&network_key, node_key.node(), Role::Admin, now).map_err(own_fault)?;
    home.save_passport(&passport)?;
    home.save_network(network_key.network(), now, true, &[])?;
    describe(&home)
}

/// Signs an invitation, with the network's key where it was created, else as an admin.
pub fn invite(home: &Home, request: &api::Invite, contacts: Vec<Contact>) -> Result<api::Invitation> {
    if request.uses == 0 || request.expires_ms < 1000 {
        return Err(Fault::usage("an invitation needs at least one use and one second")
            .hint("infinit network invite --expires 1h --uses 1"));
    }
    let role = role_from(request.role)?;
    let expires_at = wall_seconds() + request.expires_ms / 1000;
    let key = TokenKey::generate();
    let invitation = match home.network_key()? {
        Some(owner) => Invitation::by_network(&owner, role, expires_at, request.uses, &key),
        None => Invitation::by_admin(&home.node_key()?, &home.passport()?, role, expires_at, request.uses, &key),
    };
    let invitation = invitation.map_err(|error| {
        Fault::refused(format!("this node may not invite a {}: {error}", role.name()))
            .hint("invite from the machine where the network was created, or from an admin's")
    })?;
    let id = invitation.terms.id;
    let token = Token::new(home.name.clone(), invitation, key, contacts)
        .map_err(|error| Fault::failed(error.to_string()).hint("give the network a shorter name"))?;
    Ok(api::Invitation {
        id,
        token: token.to_string(),
        role: request.role,
        expires_at: rfc3339(expires_at),
        uses: request.uses,
    })
}

/// This node as somebody to dial, as far as it knows its addresses without running.
pub async fn own_contact(home: &Home) -> Result<Contact> {
    let NodeFile { listen, advertise, .. } = home.node_file()?;
    let addresses = match (listen, advertise) {
        // A name to listen on is not asked for if it is not what the others are told.
        (Some(listen), Some(advertise)) if advertise.port() != 0 || listen.ip().is_none() => {
            vec![if advertise.port() == 0 { advertise.with_port(listen.port()) } else { advertise }]
        }
        (Some(listen), advertise) => addresses::advertised(addresses::listening(&listen).await?, advertise.as_ref()),
        (None, advertise) => addresses::advertised(LISTEN_DEFAULT, advertise.as_ref()),
    };
    Ok(Contact { node: home.node_key()?.node(), addresses })
}

/// Reaches any node that the token names, proves the invitation, and keeps the passport that the cluster answers.
pub async fn join(place: &Place, text: &str) -> Result<Joining> {
    let token: Token = text.parse().map_err(unreadable)?;
    let (root, home) = (&place.home, Home::of(&place.home, &token.network_name));
    if home.is_there() {
        let known = home.network()?;
        // Asked before the token is: a member needs none, whatever has become of it.
        if known.id == token.network() {
            return Ok(Joining::Already(describe(&home)?));
        }
        return Err(Fault::conflict(format!(
            "{} holds another network named '{}' already: {}, and the token is for {}",
            root.display(),
            token.network_name,
            known.id.short(),
            token.network().short()
        ))
        .hint("join with another home: infinit --home DIR network join TOKEN"));
    }
    let now = wall_seconds();
    token.verify(now).map_err(|error| match error {
        PassportError::InvitationExpired => {
            let expired_at = rfc3339(token.invitation.terms.expires_at);
            Fault::refused(format!("the token is refused: its invitation expired at {expired_at}")).hint(NEW_TOKEN)
        }
        other => refused(other),
    })?;
    create_dir(root)?;
    home.create()?;
    let key = home.node_key_or_new()?;
    let passport = Passport::by_invitation(&token.invitation, &token.key, key.node(), now).map_err(refused)?;
    let dialer = Dialer::new(&key, passport.clone(), Arc::new(Anyone)).map_err(|e| Fault::failed(e.to_string()))?;
    let request = JoinRequest { passport: passport.encode().map_err(own_fault)?, name: addresses::host_name() };
    let (passport, created_at, members) = ask_contacts(&dialer, &token.contacts, &request).await?;
    let passport = Passport::decode(&passport).map_err(own_fault)?;
    passport.verify_holder(token.network(), key.node(), now).map_err(refused)?;
    home.save_passport(&passport)?;
    let members: Vec<Contact> =
        members.into_iter().map(|known| Contact { node: known.node, addresses: known.addresses }).collect();
    home.save_network(token.network(), created_at, false, &members)?;
    Ok(Joining::Joined(describe(&home)?))
}

async fn ask_contacts(
    dialer: &Dialer,
    contacts: &[Contact],
    request: &JoinRequest,
) -> Result<(Vec<u8>, u64, Vec<KnownNode>)> {
    let mut last =
        Fault::unreachable("the token names no node to dial").hint("infinit network invite, on a running node");
    for contact in contacts {
        match ask_contact(dialer, contact, request).await {
            Ok(JoinAnswer::Joined { passport, created_at, members }) => return Ok((passport, created_at, members)),
            Ok(JoinAnswer::Refused(fault)) if fault.kind == Kind::Refused => return Err(fault),
            Ok(JoinAnswer::Refused(fault)) | Err(fault) => last = fault,
        }
    }
    Err(last)
}

async fn ask_contact(dialer: &Dialer, contact: &Contact, request: &JoinRequest) -> Result<JoinAnswer> {
    let places = contact.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let channel =
        dialer.connect_at(contact.node, &contact.addresses, Purpose::Join).await.map_err(|error| match error {
            ConnectError::Refused(why) => {
                Fault::refused(format!("the network refuses this node: {why}")).hint(NEW_TOKEN)
            }
            ConnectError::Unknown | ConnectError::Unreachable(_) => {
                Fault::unreachable(format!("no node of the network answers at {places}: {error}"))
                    .hint("is a node running there? infinit node run")
            }
        })?;
    let bytes = postcard::to_stdvec(request).map_err(|error| Fault::failed(error.to_string()))?;
    let answer =
        rpc::ask(channel, JOIN_SERVICE, Bytes::from(bytes), JOIN_LIMIT).await.map_err(|error| match error {
            RpcError::TimedOut => Fault::timed_out(format!("{places} did not answer in time"))
                .hint("has the cluster a quorum? infinit status, on a member"),
            other => Fault::unreachable(format!("{places}: {other}")).hint("try again"),
        })?;
    postcard::from_bytes(&answer).map_err(|_| Fault::failed(format!("{places} answered something else")))
}

/// Leaves a network whose node does not run: a network that never ran is only removed, else another member tells the
/// cluster.
pub async fn leave(place: &Place) -> Result<api::Left> {
    let home = Home::find(place, "network leave")?;
    let network = home.network()?;
    let node = home.node_key()?;
    let others: Vec<&KnownNode> = network.contacts.iter().filter(|known| known.node != node.node()).collect();
    let ran = home.file("cluster.redb").exists();
    if !network.founder || ran {
        if others.is_empty() {
            return Err(Fault::failed("the last member cannot leave the network").hint(format!(
                "to end network {}, remove {} and its silos",
                network.name,
                home.dir().display()
            )));
        }
        let dialer =
            Dialer::new(&node, home.passport()?, Arc::new(Anyone)).map_err(|e| Fault::failed(e.to_string()))?;
        tell_others(&dialer, &others).await.map_err(|fault| match fault.kind {
            Kind::Unreachable | Kind::TimedOut => fault.hint(format!(
                "start a node of network {}: {}",
                network.name,
                place.command("node run", &network.name)
            )),
            _ => fault,
        })?;
    }
    home.remove()?;
    Ok(api::Left { id: network.id, name: network.name })
}

/// Says to the first member that answers that this node leaves.
async fn tell_others(dialer: &Dialer, others: &[&KnownNode]) -> Result<()> {
    let request = Bytes::from(postcard::to_stdvec(&Ask::Leave).map_err(|error| Fault::failed(error.to_string()))?);
    let mut last = Fault::unreachable("no other member is known");
    for known in others {
        let places = known.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let channel = match dialer.connect_at(known.node, &known.addresses, Purpose::Control).await {
            Ok(channel) => channel,
            Err(ConnectError::Refused(why)) => {
                last = Fault::refused(format!("the network refuses this node: {why}")).hint("infinit network list");
                continue;
            }
            Err(error) => {
                last = Fault::unreachable(format!("no other member answers: {error}"));
                continue;
            }
        };
        match rpc::ask(channel, NODE_SERVICE, request.clone(), JOIN_LIMIT).await {
            Ok(answer) => match postcard::from_bytes(&answer) {
                Ok(Told::Done(done)) => return done,
                Ok(_) | Err(_) => last = Fault::failed(format!("{places} answered something else")),
            },
            Err(error) => last = Fault::unreachable(format!("{places}: {error}")),
        }
    }
    Err(last)
}

/// A network as this home knows it, without the cluster.
pub fn describe(home: &Home) -> Result<api::Network> {
    let file = home.network()?;
    let passport = home.passport()?;
    Ok(api::Network {
        id: file.id,
        name: file.name,
        role: role_to(passport.role()),
        owner: home.network_key()?.is_some(),
        node: NodeRef { id: passport.node(), name: addresses::host_name() },
        cluster: None,
    })
}

fn role_from(role: api::Role) -> Result<Role> {
    match role {
        api::Role::Storage => Ok(Role::Storage),
        api::Role::Client => Ok(Role::Client),
        api::Role::Admin => Ok(Role::Admin),
        api::Role::Witness => Err(Fault::usage("a witness joins with an invitation for storage")
            .hint("infinit network invite, and on that machine: infinit node run --role witness")),
    }
}

pub fn role_to(role: Role) -> api::Role {
    match role {
        Role::Storage => api::Role::Storage,
        Role::Client => api::Role::Client,
        Role::Admin => api::Role::Admin,
    }
}

/// The nodes a token names: those that were reached lately, this one first.
pub fn contacts_of(this: Contact, members: impl Iterator<Item = (NodeId, Vec<Address>)>) -> Vec<Contact> {
    let others = members.filter(|(node, addresses)| *node != this.node && !addresses.is_empty());
    let others = others.map(|(node, addresses)| Contact { node, addresses });
    std::iter::once(this.clone()).chain(others).take(CONTACTS_MAX).collect()
}

fn refused(error: PassportError) -> Fault {
    Fault::refused(format!("the token is refused: {error}")).hint(NEW_TOKEN)
}

/// Text that is no token of this version.
fn unreadable(error: TokenError) -> Fault {
    let hint = match error {
        TokenError::Version(_) => "install the same version of infinit as on the machine that invited".to_owned(),
        TokenError::NotAToken | TokenError::Cut | TokenError::Mistyped => {
            format!("copy the whole line again, or make a new token {NEW_TOKEN}")
        }
        TokenError::Tampered | TokenError::Contents => NEW_TOKEN.to_owned(),
    };
    Fault::refused(format!("the token is refused: {error}")).hint(hint)
}

fn own_fault(error: PassportError) -> Fault {
    Fault::failed(format!("this node's passport: {error}"))
}

/// A node that joins takes the contacts of its token at their word: their passports prove the network.
pub struct Anyone;

impl Admission for Anyone {
    fn admit(&self, _passport: &Passport) -> std::result::Result<(), String> {
        Ok(())
    }

    fn addresses(&self, _node: NodeId) -> Vec<Address> {
        Vec::new()
    }
}
