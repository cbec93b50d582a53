//! Who is a member, and where it is reached: the cluster state first, then what discovery heard, then what the home
//! remembers.

use std::sync::{Arc, OnceLock, Weak};

use tokio::sync::watch;

use crate::base::address::Address;
use crate::base::id::NodeId;
use crate::cluster::state::ClusterState;
use crate::daemon::home::KnownNode;
use crate::transport::discovery::Discovery;
use crate::transport::endpoint::Admission;
use crate::transport::passport::Passport;

/// Answers the data plane's questions about nodes.
pub struct Directory {
    state: OnceLock<watch::Receiver<Arc<ClusterState>>>,
    discovery: OnceLock<Weak<Discovery>>,
    contacts: Vec<KnownNode>,
}

impl Directory {
    pub fn new(contacts: Vec<KnownNode>) -> Self {
        Self { state: OnceLock::new(), discovery: OnceLock::new(), contacts }
    }

    /// The cluster state is there; said once, at start.
    pub fn set_state(&self, state: watch::Receiver<Arc<ClusterState>>) {
        // Said once, by the node's start.
        let _ = self.state.set(state);
    }

    /// Discovery runs; said once, at start.
    pub fn set_discovery(&self, discovery: &Arc<Discovery>) {
        // Said once, by the node's start.
        let _ = self.discovery.set(Arc::downgrade(discovery));
    }

    fn state(&self) -> Option<Arc<ClusterState>> {
        self.state.get().map(|state| state.borrow().clone())
    }
}

impl Admission for Directory {
    /// A node that has just joined knows no members yet: until the first state arrives it takes the genuine passport
    /// of those that reach it.
    fn admit(&self, passport: &Passport) -> Result<(), String> {
        let Some(state) = self.state().filter(|state| state.network.is_some()) else { return Ok(()) };
        if state.revoked.contains_key(&passport.node()) {
            return Err("its passport was revoked".to_owned());
        }
        if state.members.contains_key(&passport.node()) {
            return Ok(());
        }
        Err("it is not a member of the network, or joined only now".to_owned())
    }

    fn addresses(&self, node: NodeId) -> Vec<Address> {
        let mut found =
            self.state().and_then(|s| s.members.get(&node).map(|m| m.data_addresses.clone())).unwrap_or_default();
        let heard =
            self.discovery.get().and_then(Weak::upgrade).map(|discovery| discovery.addresses(node)).unwrap_or_default();
        let known = self.contacts.iter().filter(|known| known.node == node).flat_map(|known| known.addresses.clone());
        for address in heard.into_iter().chain(known) {
            if !found.contains(&address) {
                found.push(address);
            }
        }
        found
    }
}
