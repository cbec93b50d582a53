//! `infinit network create`.

use clap::Args;

use crate::cli::context::Context;
use crate::cli::terminal::Stop;
use crate::cli::value;
use crate::daemon::offline;

/// Create a network: its keys, and this machine as its first node
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Give the network this name
    #[arg(value_name = "NAME", value_parser = value::network_name)]
    name: String,
}

impl CreateArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), Stop> {
        let network = offline::create(&context.place()?, &self.name).await?;
        context.terminal.note(&format!(
            "network {} ({}) is created, with this machine as its node {}",
            network.name,
            network.id.short(),
            network.node.name
        ));
        super::hint_start(context, &network).await?;
        context.terminal.show(&network, String::new)
    }
}
