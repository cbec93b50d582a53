//! A node behind a NAT or a firewall is not reached by who dials it. It finds out by their signs of life, which say whether they hear
//! it, and stands by at each member that does not (`transport/callback`).

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::base::id::NodeId;
use crate::cluster::state::ClusterState;
use crate::daemon::peers::{Ask, Peers, Told};
use crate::daemon::standing::Standing;
use crate::transport::callback::Stood;
use crate::transport::endpoint::Dialer;
use crate::transport::network::Channel;

/// How often it is looked who does not hear this node.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// For how long somebody that this node reaches must not have heard it: who has just started dials soon.
const UNHEARD_FOR: Duration = Duration::from_secs(3);
/// A member where this node could not stand by is tried again after so long; one where it did, at once and for so long.
const AGAIN_AFTER: Duration = Duration::from_secs(10);
const RETURN_FOR: Duration = Duration::from_secs(30);
const RETURN_PAUSE_MIN: Duration = Duration::from_millis(100);
const RETURN_PAUSE_MAX: Duration = Duration::from_secs(1);
/// How long a question may take.
const ASK_LIMIT: Duration = Duration::from_secs(1);

/// Stands by wherever it is needed, for as long as the daemon runs. `contacts` are the members that the home remembers.
pub async fn where_needed(
    dialer: Dialer,
    peers: Peers,
    contacts: Vec<NodeId>,
    state: watch::Receiver<Arc<ClusterState>>,
    incoming: mpsc::Sender<Channel>,
) {
    let mut tick = interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut unheard_since: HashMap<NodeId, Instant> = HashMap::new();
    let mut standing_by: HashMap<NodeId, (JoinHandle<()>, Instant)> = HashMap::new();
    loop {
        tick.tick().await;
        let now = state.borrow().clone();
        standing_by.retain(|node, (task, begun)| {
            if now.network.is_some() && !now.members.contains_key(node) {
                task.abort();
            }
            !task.is_finished() || begun.elapsed() < AGAIN_AFTER
        });
        let unheard = if now.network.is_some() {
            now.members.keys().copied().filter(|node| says_unheard(&peers, *node)).collect()
        } else {
            // The cluster state comes from a leader, which must reach this node first.
            unheard_by(&peers, &contacts).await
        };
        unheard_since.retain(|node, _| unheard.contains(node));
        for node in unheard {
            let since = *unheard_since.entry(node).or_insert_with(Instant::now);
            // One that is met at a third cannot be dialled.
            if since.elapsed() >= UNHEARD_FOR && !standing_by.contains_key(&node) && !dialer.meets(node) {
                let task = tokio::spawn(stand_by(dialer.clone(), node, incoming.clone()));
                standing_by.insert(node, (task, Instant::now()));
            }
        }
    }
}

/// Stands by at a member for as long as that is of use and possible.
async fn stand_by(dialer: Dialer, node: NodeId, incoming: mpsc::Sender<Channel>) {
    let mut stood = None;
    let mut pause = RETURN_PAUSE_MIN;
    loop {
        match dialer.stand_by(node, incoming.clone()).await {
            Ok(standing) => {
                if stood.is_none() {
                    tracing::info!("node {} cannot dial this node, which dials back when it is called", node.short());
                }
                match standing.await {
                    Stood::Needless => {
                        tracing::info!("node {} can dial this node again", node.short());
                        return;
                    }
                    Stood::Broken => (stood, pause) = (Some(Instant::now()), RETURN_PAUSE_MIN),
                }
            }
            Err(why) => {
                tracing::debug!("cannot stand by at {}: {why}", node.short());
                if stood.is_none_or(|since: Instant| since.elapsed() > RETURN_FOR) {
                    return;
                }
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETURN_PAUSE_MAX);
    }
}

/// Whether a member that is reached says that it does not reach this node.
fn says_unheard(peers: &Peers, node: NodeId) -> bool {
    matches!(peers.standing(node), Standing::Up { life, .. } if life.unheard)
}

/// Those of these that are reached, and do not reach this node.
async fn unheard_by(peers: &Peers, contacts: &[NodeId]) -> BTreeSet<NodeId> {
    let asked = contacts.iter().filter(|node| **node != peers.node()).map(async |node| {
        match peers.ask(*node, &Ask::Examine, ASK_LIMIT).await {
            Ok(Told::Examined(examined)) if !examined.hears_you => Some(*node),
            Ok(_) | Err(_) => None,
        }
    });
    join_all(asked).await.into_iter().flatten().collect()
}
