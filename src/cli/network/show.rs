//! `infinit network show`.

use clap::Args;

use crate::cli::context::Context;
use crate::cli::terminal::Stop;
use crate::daemon::api::Network;
use crate::daemon::offline;

/// Show the network: its id, this machine's role, who votes
#[derive(Debug, Args)]
pub struct ShowArgs {}

impl ShowArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), Stop> {
        let network: Network = match context.client()?.connect().await? {
            Some(_) => context.daemon().await?.get("/v1/network").await?,
            None => offline::show(&context.place()?).await?,
        };
        context.terminal.show(&network, || super::facts(&context.terminal, &network))
    }
}
