//! `infinit volume set`.

use clap::Args;

use crate::cli::context::Context;
use crate::cli::terminal::Stop;
use crate::cli::value;
use crate::daemon::api::Volume;
use crate::daemon::api::going::SetVolume;

/// Change what a volume is kept by, while it is in use
#[derive(Debug, Args)]
pub struct SetArgs {
    /// Change the volume of this name
    #[arg(value_name = "NAME", value_parser = value::volume_name)]
    name: String,
    /// Keep so many copies, 1 to 7, each on another node
    #[arg(long, value_name = "N", value_parser = value::replicas, required = true)]
    replicas: Option<u8>,
}

impl SetArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), Stop> {
        let request = SetVolume { replicas: self.replicas };
        let volume: Volume = context.daemon().await?.patch(&super::route(&self.name, ""), &request).await?;
        let copies = if volume.replicas == 1 { "1 copy".to_owned() } else { format!("{} copies", volume.replicas) };
        context.terminal.note(&format!("volume {} is to have {copies}", volume.name));
        context.terminal.hint(&format!("how far that is: infinit volume status {}", volume.name));
        context.terminal.show(&volume, String::new)
    }
}
