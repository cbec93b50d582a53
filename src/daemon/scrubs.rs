//! Scrubs of volumes: asked of every node that has a copy, and put together from what they tell.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use serde::{Deserialize, Serialize};

use crate::base::block::BLOCK_BYTES;
use crate::base::error::Result;
use crate::base::id::{NodeId, SiloId, VolumeId};
use crate::cluster::consensus::Group;
use crate::cluster::replication::scrub_request::{DamagedRun, ScrubRequest, Stage};
use crate::cluster::state::ClusterState;
use crate::cluster::state::volume::Volume;
use crate::daemon::api::NodeRef;
use crate::daemon::api::scrub::{ScrubState, SiloScrub, VolumeScrub};
use crate::daemon::api::silo::Range;
use crate::daemon::attachments::find;
use crate::daemon::peers::{Ask, Peers, Told};
use crate::daemon::silos::{SiloView, SiloViews};
use crate::daemon::standing::Standing;

/// How long a node may take to say how its scrubs stand, which it knows without its disks.
const ANSWER_LIMIT: Duration = Duration::from_millis(1500);

/// What a node says of the scrub of a volume on one of its silos.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SiloSaid {
    pub silo: SiloId,
    /// Nothing if none was asked for since the node was started.
    pub request: Option<ScrubRequest>,
}

/// Asks for scrubs and looks at them. Cheap to clone.
#[derive(Clone)]
pub struct Scrubs {
    node: NodeId,
    group: Group,
    peers: Peers,
    silos: SiloViews,
}

/// What is known of a node's silos.
type Said = Result<BTreeMap<SiloId, Option<ScrubRequest>>, String>;

impl Scrubs {
    pub fn new(node: NodeId, group: Group, peers: Peers, silos: SiloViews) -> Self {
        Self { node, group, peers, silos }
    }

    /// The scrub of a volume on those of its silos that are within reach, begun now if it is not under way.
    pub async fn scrub(&self, name: &str, begin: bool) -> Result<VolumeScrub> {
        let state = self.group.state().borrow().clone();
        let (id, volume) = find(&state, name)?;
        let mut nodes: BTreeMap<NodeId, Vec<SiloId>> = BTreeMap::new();
        for silo in volume.slots.iter().flat_map(|slot| &slot.silos) {
            if let Some(info) = state.silos.get(silo) {
                let of_node = nodes.entry(info.node).or_default();
                if !of_node.contains(silo) {
                    of_node.push(*silo);
                }
            }
        }
        let asked = nodes.into_iter().map(async |(node, silos)| {
            let said = self.ask(&state, node, id, &silos, begin).await;
            let of_silo = |silo: SiloId| {
                let node = NodeRef { id: node, name: state.node_label(node) };
                silo_scrub(silo, node, &said)
            };
            silos.into_iter().map(of_silo).collect::<Vec<_>>()
        });
        let silos = join_all(asked).await.into_iter().flatten().collect();
        let attached_to = attached_to(&state, volume);
        Ok(VolumeScrub { id, name: volume.name.clone(), attached_to, silos })
    }

    async fn ask(&self, state: &ClusterState, node: NodeId, volume: VolumeId, silos: &[SiloId], begin: bool) -> Said {
        if node == self.node {
            return Ok(by_silo(tell(&self.silos, volume, silos, begin)));
        }
        let label = state.node_label(node);
        if let Standing::Down { .. } = self.peers.standing(node) {
            return Err(format!("node {label} is down"));
        }
        let ask = Ask::Scrub { volume, silos: silos.to_vec(), begin };
        match self.peers.ask(node, &ask, ANSWER_LIMIT).await {
            Ok(Told::Scrub(said)) => Ok(by_silo(said)),
            Ok(_) => Err(format!("node {label} answered something else")),
            Err(error) => Err(format!("node {label} does not answer: {error}")),
        }
    }
}

/// What this node says of the scrub of a volume on its own silos; begins it there first if that is asked.
pub fn tell(views: &[SiloView], volume: VolumeId, silos: &[SiloId], begin: bool) -> Vec<SiloSaid> {
    let asked = views.iter().map(|view| &view.handle).filter(|handle| silos.contains(&handle.id()));
    asked
        .map(|handle| {
            if begin {
                handle.scrub(volume);
            }
            SiloSaid { silo: handle.id(), request: handle.scrub_of(volume) }
        })
        .collect()
}

fn by_silo(said: Vec<SiloSaid>) -> BTreeMap<SiloId, Option<ScrubRequest>> {
    said.into_iter().map(|said| (said.silo, said.request)).collect()
}

fn attached_to(state: &ClusterState, volume: &Volume) -> Option<NodeRef> {
    let attachment = volume.attachment.as_ref()?;
    Some(NodeRef { id: attachment.node, name: state.node_label(attachment.node) })
}

/// A volume's range, from where a silo keeps its blocks: they are numbered across the volume.
pub fn range(run: &DamagedRun) -> Range {
    Range { offset_bytes: run.first_block * BLOCK_BYTES, length_bytes: run.blocks * BLOCK_BYTES }
}

fn silo_scrub(silo: SiloId, node: NodeRef, said: &Said) -> SiloScrub {
    let (state, reason) = match said {
        Err(why) => (ScrubState::Unreachable, Some(why.clone())),
        Ok(said) => match said.get(&silo) {
            None => (ScrubState::Unreachable, Some(format!("node {} runs without it", node.name))),
            Some(None) => (ScrubState::NotBegun, Some(format!("node {} was started anew", node.name))),
            Some(Some(request)) => match &request.stage {
                Stage::Waiting => (ScrubState::Waiting, None),
                Stage::Reading => (ScrubState::Reading, None),
                Stage::Repairing => (ScrubState::Repairing, None),
                Stage::Done { .. } => (ScrubState::Done, None),
                Stage::Failed(why) => (ScrubState::Failed, Some(why.clone())),
            },
        },
    };
    let request = said.as_ref().ok().and_then(|said| said.get(&silo)).and_then(Option::as_ref);
    let count = |of: fn(&ScrubRequest) -> u64| request.map_or(0, of);
    let rate = |request: &ScrubRequest| (request.checked_bytes * 1000).checked_div(request.busy_ms);
    SiloScrub {
        silo,
        node,
        state,
        reason,
        total_bytes: count(|request| request.total_bytes),
        checked_bytes: count(|request| request.checked_bytes),
        bytes_per_second: request.and_then(rate),
        damaged_blocks: count(|request| request.damaged),
        repaired_blocks: count(|request| request.repaired),
        left_blocks: count(|request| request.damaged - request.repaired),
        left: request.map(|request| request.left.iter().map(range).collect()).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::{SlotIndex, SlotKey};

    #[test]
    fn what_a_node_says_is_shown_as_it_is_and_what_it_does_not_say_as_unreachable() {
        let (silo, volume) = (SiloId([1; 16]), VolumeId([2; 16]));
        let node = || NodeRef { id: NodeId([3; 32]), name: "host-b".into() };
        let key = SlotKey { volume, slot: SlotIndex(1) };
        let request = ScrubRequest {
            volume,
            stage: Stage::Done { had_writer: true },
            total_bytes: 9 << 20,
            checked_bytes: 9 << 20,
            busy_ms: 500,
            damaged: 5,
            repaired: 3,
            left: vec![DamagedRun { key, first_block: 10, blocks: 2 }],
        };
        let told = silo_scrub(silo, node(), &Ok(BTreeMap::from([(silo, Some(request))])));
        assert_eq!((told.state, told.reason), (ScrubState::Done, None));
        assert_eq!((told.damaged_blocks, told.repaired_blocks, told.left_blocks), (5, 3, 2));
        assert_eq!(told.bytes_per_second, Some(18 << 20));
        assert_eq!(told.left, [Range { offset_bytes: 40960, length_bytes: 8192 }]);
        assert_eq!(told.left[0].to_string(), "40960-49151");
        let told = silo_scrub(silo, node(), &Err("node host-b is down".into()));
        assert_eq!((told.state, told.reason.as_deref()), (ScrubState::Unreachable, Some("node host-b is down")));
        let told = silo_scrub(silo, node(), &Ok(BTreeMap::new()));
        assert_eq!(
            (told.state, told.reason.as_deref()),
            (ScrubState::Unreachable, Some("node host-b runs without it"))
        );
        let told = silo_scrub(silo, node(), &Ok(BTreeMap::from([(silo, None)])));
        assert_eq!((told.state, told.total_bytes, told.bytes_per_second), (ScrubState::NotBegun, 0, None));
    }
}
