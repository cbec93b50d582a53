//! Requests about nodes that go, and about what volumes and the network are kept by.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Path, State};
use tokio::time::timeout;

use crate::base::clock::wall_seconds;
use crate::base::error::{Fault, Result};
use crate::base::units::Size;
use crate::cluster::state::command::Command;
use crate::cluster::state::level::Level;
use crate::cluster::state::member::Duty;
use crate::daemon::api::going::{DrainNode, RemoveNode, RemovedNode, SetNetwork, SetVolume};
use crate::daemon::api::{self, Network, Node, NodeRef, NodeState, SiloState, Volume};
use crate::daemon::attachments::{GROUP_LIMIT, find};
use crate::daemon::control::{Answer, Control, parse};

/// How long it may take until all members are known to understand what is asked.
const RAISE_LIMIT: Duration = Duration::from_secs(5);

pub(super) async fn drain(State(control): State<Control>, Path(name): Path<String>, body: Bytes) -> Answer<Node> {
    Answer(match parse(&body) {
        Ok(request) => control.drain(&name, request).await,
        Err(fault) => Err(fault),
    })
}

pub(super) async fn remove(
    State(control): State<Control>,
    Path(name): Path<String>,
    body: Bytes,
) -> Answer<RemovedNode> {
    Answer(match parse(&body) {
        Ok(request) => control.remove(&name, request).await,
        Err(fault) => Err(fault),
    })
}

pub(super) async fn set_volume(
    State(control): State<Control>,
    Path(name): Path<String>,
    body: Bytes,
) -> Answer<Volume> {
    Answer(match parse(&body) {
        Ok(request) => control.set_volume(&name, request).await,
        Err(fault) => Err(fault),
    })
}

pub(super) async fn set_network(State(control): State<Control>, body: Bytes) -> Answer<Network> {
    Answer(match parse(&body) {
        Ok(request) => control.set_network(request).await,
        Err(fault) => Err(fault),
    })
}

impl Control {
    /// A state that all members understand so much of: a network that was just created, or whose last node was just
    /// upgraded, gets there within a second or two.
    async fn understood(&self, level: Level) -> Result<()> {
        self.group.current(GROUP_LIMIT).await?;
        let mut state = self.group.state();
        match timeout(RAISE_LIMIT, state.wait_for(|state| state.level >= level)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(Fault::failed("the node stops")),
            Err(_) => {
                let old =
                    |node: &&Node| node.version.as_deref().is_some_and(|version| Level::of_version(version) < level);
                let nodes = self.observer.nodes();
                let old: Vec<&str> = nodes.iter().filter(old).map(|node| node.name.as_str()).collect();
                let fault = |message: String| Err(Fault::failed(message));
                match old.as_slice() {
                    [] => fault("a node that may run an older version is down".to_owned())
                        .map_err(|fault| fault.hint("start it, or wait ten minutes: infinit node list")),
                    old => fault(format!("an older version still runs on {}", old.join(", ")))
                        .map_err(|fault| fault.hint("upgrade it there, then: infinit node run")),
                }
            }
        }
    }

    async fn drain(&self, name: &str, request: DrainNode) -> Result<Node> {
        self.understood(Level(1)).await?;
        let node = self.observer.node(name)?;
        let duty = if request.cancel { Duty::Stores } else { Duty::Drains };
        if !request.cancel && node.duty == api::going::Duty::Stores {
            room_without(&node, &self.observer.nodes())?;
        }
        self.group.propose(Command::SetDuty { node: node.id, duty }, GROUP_LIMIT).await?;
        self.observer.node(&node.id.to_string())
    }

    async fn remove(&self, name: &str, request: RemoveNode) -> Result<RemovedNode> {
        self.group.current(GROUP_LIMIT).await?;
        let node = self.observer.node(name)?;
        if node.this {
            return Err(Fault::conflict(format!("{} is this machine's own node", node.name))
                .hint("it leaves by itself: infinit network leave"));
        }
        let node_ref = NodeRef { id: node.id, name: node.name.clone() };
        if request.dead {
            // It was not heard yet by a daemon that has just started.
            self.observer.heard(&[node.id], GROUP_LIMIT).await;
        }
        let node = self.observer.node(&node.id.to_string())?;
        if request.dead && node.state == NodeState::Unknown {
            return Err(Fault::failed(format!("whether node {} is dead is not known yet", node.name))
                .hint("try again in some seconds: infinit node list"));
        }
        let is_empty = !self.group.state().borrow().holds_anything(node.id);
        if !request.dead || (is_empty && node.state != NodeState::Up) {
            self.group.propose(Command::Leave { node: node.id, at: wall_seconds() }, GROUP_LIMIT).await?;
            tracing::info!("node {} ({}) is removed", node.name, node.id.short());
            return Ok(RemovedNode { node: node_ref, copies: 0 });
        }
        if node.state == NodeState::Up {
            return Err(Fault::conflict(format!("node {} is not dead: it answers", node.name))
                .hint(format!("infinit node drain {} --wait, then: infinit node remove {}", node.name, node.name)));
        }
        self.understood(Level(1)).await?;
        self.group.propose(Command::SetDuty { node: node.id, duty: Duty::Leaves }, GROUP_LIMIT).await?;
        tracing::info!("node {} ({}) is given up, and leaves", node.name, node.id.short());
        Ok(RemovedNode { node: node_ref, copies: node.copies })
    }

    async fn set_volume(&self, name: &str, request: SetVolume) -> Result<Volume> {
        let state = self.group.current(GROUP_LIMIT).await?;
        let (volume, _) = find(&state, name)?;
        let Some(replicas) = request.replicas else {
            return Err(Fault::usage("nothing is to be set").hint("infinit volume set NAME --replicas 3"));
        };
        api::check_replicas(replicas)?;
        self.understood(Level(1)).await?;
        self.group.propose(Command::SetReplicas { volume, replicas }, GROUP_LIMIT).await?;
        tracing::info!("volume '{name}' is to have {replicas} copies");
        self.observer.volume(name).await.map(|status| status.volume)
    }

    async fn set_network(&self, request: SetNetwork) -> Result<Network> {
        let Some(down_after_ms) = request.down_after_ms else {
            return Err(Fault::usage("nothing is to be set").hint("infinit network set --down-after 10m"));
        };
        self.understood(Level(1)).await?;
        self.group.propose(Command::SetDownAfter { down_after_ms }, GROUP_LIMIT).await?;
        self.observer.network()
    }
}

/// Refuses where the silos of the others, as far as they tell, have no room for what lies on this node.
fn room_without(node: &Node, all: &[Node]) -> Result<()> {
    let space = |node: &Node| {
        node.silos.iter().filter(|silo| silo.state == SiloState::Up).filter_map(|silo| silo.space).collect::<Vec<_>>()
    };
    let held: u64 = space(node).iter().map(|space| space.live_bytes).sum();
    let others = all.iter().filter(|other| other.id != node.id && other.duty == api::going::Duty::Stores);
    if others.clone().any(|other| other.state == NodeState::Unknown) {
        // Just started: the drain waits for room by itself.
        return Ok(());
    }
    let free: u64 = others.flat_map(space).map(|space| space.free_bytes).sum();
    if held <= free {
        return Ok(());
    }
    let message = format!(
        "node {} holds {}, and the silos of the other nodes have room for {}",
        node.name,
        Size(held),
        Size(free)
    );
    Err(Fault::failed(message).hint("add a node or a silo, or raise a capacity: infinit node run --silo PATH:CAPACITY"))
}
