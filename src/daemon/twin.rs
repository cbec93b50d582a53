//! A node is one process. A home that was copied to another machine makes two with one identity, which would vote twice and take
//! each other's place: the one that starts later finds the other and does not run.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::base::address::Address;
use crate::base::error::{Fault, Result};
use crate::base::id::NodeId;
use crate::daemon::home::{Home, NetworkFile};
use crate::daemon::membership::Anyone;
use crate::daemon::peers::{Ask, NODE_SERVICE, Told};
use crate::transport::endpoint::Dialer;
use crate::transport::network::Purpose;
use crate::transport::rpc;

/// How long whoever may know of another process is waited for: a start must not take long for what hardly ever is.
const LIMIT: Duration = Duration::from_millis(1000);

/// Fails if another process answers to this node's name, `run` telling it from others. `own` is where this process listens, and
/// nobody else can: an address that is advertised may lead to either.
pub async fn refuse(home: &Home, network: &NetworkFile, node: NodeId, run: u64, own: &[Address]) -> Result<()> {
    let passport = home.passport()?;
    let dialer =
        Dialer::new(&home.node_key()?, passport, Arc::new(Anyone)).map_err(|e| Fault::failed(e.to_string()))?;
    let (ours, others): (Vec<_>, Vec<_>) = network.contacts.iter().partition(|known| known.node == node);
    let places =
        others.iter().flat_map(|known| known.addresses.iter().map(|place| (known.node, std::slice::from_ref(place))));
    let told = places.map(|(other, place)| ask::<Told>(&dialer, other, place, Ask::Whereabouts(node)));
    let told = join_all(told).await.into_iter().flatten();
    let mut places: BTreeSet<Address> = ours.into_iter().flat_map(|known| known.addresses.clone()).collect();
    places.extend(told.flat_map(|told| if let Told::Whereabouts(places) = told { places } else { Vec::new() }));
    places.retain(|place| !own.contains(place));
    let asked = places.iter().map(async |place| {
        let told = ask::<Told>(&dialer, node, std::slice::from_ref(place), Ask::Ping).await;
        let runs = matches!(told, Some(Told::Alive(life)) if life.run != run);
        runs.then_some(place)
    });
    match join_all(asked).await.into_iter().flatten().next() {
        None => Ok(()),
        Some(place) => {
            Err(Fault::conflict(format!("node {} runs already, at {place}: this home is a copy", node.short()))
                .hint("stop it there, or join with a new home here: infinit --home DIR network join TOKEN"))
        }
    }
}

/// Asks a node, without being one that runs. `None` if it does not answer soon.
pub async fn ask<T: DeserializeOwned>(dialer: &Dialer, node: NodeId, places: &[Address], ask: Ask) -> Option<T> {
    let request = Bytes::from(postcard::to_stdvec(&ask).ok()?);
    let answer = async {
        let channel = dialer.connect_at(node, places, Purpose::Control).await.ok()?;
        rpc::ask(channel, NODE_SERVICE, request, LIMIT).await.ok()
    };
    postcard::from_bytes(&timeout(LIMIT, answer).await.ok()??).ok()
}
