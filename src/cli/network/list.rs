//! `infinit network list`.

use clap::Args;

use crate::cli::context::Context;
use crate::cli::terminal::Stop;
use crate::daemon::offline;

/// List the networks that this machine belongs to
#[derive(Debug, Args)]
pub struct ListArgs {}

impl ListArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), Stop> {
        let networks = offline::list(&context.home()?).await?;
        if networks.is_empty() {
            context.terminal.hint("there is none yet: infinit network create NAME, or infinit network join TOKEN");
        }
        context.terminal.show(&networks, || super::table(&context.terminal, &networks))
    }
}
