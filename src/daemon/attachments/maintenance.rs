//! Slots of a volume that nobody is attached to are moved in an epoch of its own, which serves nobody and takes no lease: who
//! attaches meanwhile gets the next one at once, and goes on with whatever silos the slots have by then (rule 19).

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::base::clock::wall_seconds;
use crate::base::error::{Fault, Result};
use crate::base::id::VolumeId;
use crate::cluster::replication::driver::Life;
use crate::cluster::replication::writer::WriterOptions;
use crate::cluster::state::command::{Command, Outcome};
use crate::daemon::attachments::recovery::Grounds;
use crate::daemon::attachments::{ATTACH_LIMIT, Attachments, GROUP_LIMIT};
use crate::daemon::mover::{AGAIN_AFTER, Moving};

impl Attachments {
    /// Moves the slots of a volume until nothing is left to move, or somebody attaches.
    pub async fn maintain(&self, id: VolumeId) -> Result<()> {
        let command = Command::Maintain { volume: id, node: self.shared.node, at: wall_seconds() };
        let Outcome::Granted { epoch } = self.shared.group.propose(command, GROUP_LIMIT).await? else {
            return Err(Fault::failed("the cluster answered a maintenance with something else"));
        };
        let end = Instant::now() + ATTACH_LIMIT;
        let state = self.granted_state(id, epoch, end).await?;
        let Some(volume) = state.volumes.get(&id).filter(|volume| volume.epoch == epoch) else { return Ok(()) };
        tracing::info!("slots of '{}' are moved with epoch {epoch}", volume.name);
        let options = self.writer_options(&state, id, volume, epoch, Grounds::default());
        // A writer of this node's may have lost the attachment just now, and not know yet.
        let options = WriterOptions { lease: Duration::ZERO, own_dead: false, ..options };
        let driver = self.start_writer(&state, volume, options);
        let mut life = driver.life();
        let mut known = self.shared.group.state();
        let mut moving = Moving::default();
        loop {
            let now = known.borrow_and_update().clone();
            let is_ours = now.volumes.get(&id).is_some_and(|volume| volume.epoch == epoch);
            let serves = matches!(*life.borrow_and_update(), Life::Serving { .. });
            let moves = now.moves(wall_seconds()).remove(&id).unwrap_or_default();
            if !is_ours || (serves && moves.is_empty() && moving.is_idle()) {
                driver.release();
                return Ok(());
            }
            if serves {
                let report = driver.report().await;
                let ask = |slot, target| driver.reconfigure(slot, target);
                moving.step(Instant::now(), &now, id, moves, report.as_ref(), ask);
                if moving.only_rests() {
                    driver.release();
                    return Err(Fault::timed_out("a silo that is to have a copy is not reached, or has no room"));
                }
            } else if Instant::now() >= end {
                driver.release();
                return Err(Fault::timed_out("a majority of its silos is missing"));
            }
            tokio::select! {
                changed = known.changed() => if changed.is_err() { return Ok(()) },
                changed = life.changed() => {
                    let over = !matches!(*life.borrow(), Life::Recovering | Life::Serving { .. });
                    if changed.is_err() || over {
                        return Ok(());
                    }
                }
                () = sleep(AGAIN_AFTER) => {}
            }
        }
    }
}
