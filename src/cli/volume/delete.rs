//! `infinit volume delete`.

use clap::Args;

use crate::base::error::Fault;
use crate::base::units::Size;
use crate::cli::context::Context;
use crate::cli::terminal::Stop;
use crate::cli::value;
use crate::daemon::api::{DeletedVolume, VolumeStatus};

/// Delete a volume and all it holds; it must not be attached
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// Delete the volume of this name
    #[arg(value_name = "NAME", value_parser = value::volume_name)]
    name: String,
}

impl DeleteArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), Stop> {
        let client = context.daemon().await?;
        // Asked first, so that nobody confirms what cannot be done.
        let status: VolumeStatus = client.get(&super::route(&self.name, "")).await?;
        if let (Some(attachment), false) = (&status.volume.attachment, context.yes) {
            // With --yes the cluster decides, which may have heard of a detach that this node has not.
            let host = &attachment.node.name;
            return Err(Fault::conflict(format!(
                "volume '{}' is attached to node {host} and cannot be deleted",
                self.name
            ))
            .hint(format!("infinit volume detach {}", self.name))
            .into());
        }
        let what = format!("deleting volume {} ({})", self.name, Size(status.volume.size_bytes));
        context.terminal.confirm(context.yes, &what, "destroys all it holds")?;
        let deleted: DeletedVolume = client.delete(&super::route(&self.name, "")).await?;
        context.terminal.note(&format!("volume {} is deleted", deleted.name));
        context.terminal.show(&deleted, String::new)
    }
}
