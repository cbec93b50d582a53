//! What a writer proposes to change of its slots is put to the cluster state, until it is known what became of it.

use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;

use crate::base::id::{Epoch, VolumeId};
use crate::cluster::consensus::{Group, ProposeError};
use crate::cluster::replication::driver::{DriverHandle, Proposed};
use crate::cluster::replication::writer::reconfigure::Proposal;
use crate::cluster::state::command::{Command, Outcome, Reconfiguration};
use crate::cluster::state::refusal::Refusal;
use crate::daemon::attachments::GROUP_LIMIT;

/// How soon the cluster group is asked again while it has no quorum.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// Puts one proposal after the other to the cluster state, as long as the writer lives.
pub(super) async fn put_all(
    group: Group,
    volume: VolumeId,
    epoch: Epoch,
    driver: DriverHandle,
    mut proposals: UnboundedReceiver<Proposed>,
) {
    while let Some(proposed) = proposals.recv().await {
        let slot = proposed.slot;
        match put(&group, volume, epoch, proposed).await {
            Ended::With(proposal) => driver.proposal_ended(slot, proposal),
            // What became of it is for the next writer to see. This one must not take it for refused: the change may be made,
            // and then the silos that it had have no say any more.
            Ended::Fenced(by) => return driver.fence(by),
            Ended::Stopped => return,
        }
    }
}

enum Ended {
    With(Proposal),
    /// Another writer was granted this epoch, or the volume is no more.
    Fenced(Epoch),
    /// This daemon stops.
    Stopped,
}

/// What became of it.
///
/// An attempt of which nothing was heard may still arrive, later than one that is refused for a reason that passes. Then
/// the silos that the slot has are put to the cluster state in place of the new ones: what is taken of the two, the other
/// is not taken any more.
async fn put(group: &Group, volume: VolumeId, epoch: Epoch, proposed: Proposed) -> Ended {
    let Proposed { slot, config, before, silos } = proposed;
    let (mut is_unsure, mut withdraws) = (false, false);
    loop {
        let asked = if withdraws { &before } else { &silos };
        let change = Reconfiguration { volume, slot, epoch, config, silos: asked.clone() };
        match group.propose(Command::Reconfigure(change), GROUP_LIMIT).await {
            Ok(Outcome::Reconfigured { config }) => {
                return Ended::With(Proposal::Decided { config, silos: asked.clone() });
            }
            Err(ProposeError::Refused(Refusal::StaleConfiguration { current, .. })) if withdraws => {
                return Ended::With(Proposal::Decided { config: current, silos });
            }
            Err(ProposeError::Refused(Refusal::StaleEpoch { current, .. })) => return Ended::Fenced(current),
            Err(ProposeError::Refused(Refusal::NoSuchVolume { .. })) => return Ended::Fenced(epoch.next()),
            Err(ProposeError::Refused(refusal)) => {
                tracing::warn!("slot {slot} of volume {} keeps its silos: {refusal}", volume.short());
                if !is_unsure || matches!(refusal, Refusal::StaleConfiguration { .. }) {
                    return Ended::With(Proposal::Refused);
                }
                if withdraws {
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
                withdraws = true;
            }
            Err(ProposeError::Stopped) => return Ended::Stopped,
            Ok(_) | Err(ProposeError::NoQuorum | ProposeError::TimedOut | ProposeError::TooLarge) => {
                is_unsure = true;
                tokio::time::sleep(AGAIN_AFTER).await;
            }
        }
    }
}
