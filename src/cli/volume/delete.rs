//! `infinit volume delete`.

use clap::Args;

use crate::cli::context::Context;
use crate::cli::terminal::Stop;
use crate::cli::value;
use crate::daemon::api::DeletedVolume;

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
        let what = format!("delete volume {}", self.name);
        context.terminal.confirm(context.yes, &what, "destroys all it holds")?;
        let deleted: DeletedVolume = client.delete(&super::route(&self.name, "")).await?;
        context.terminal.note(&format!("volume {} is deleted", deleted.name));
        context.terminal.show(&deleted, String::new)
    }
}
