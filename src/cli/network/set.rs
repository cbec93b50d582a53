//! `infinit network set`.

use clap::Args;

use crate::base::units::Span;
use crate::cli::context::Context;
use crate::cli::terminal::Stop;
use crate::cli::value;
use crate::daemon::api::Network;
use crate::daemon::api::going::SetNetwork;

/// Change what holds for the whole network
#[derive(Debug, Args)]
pub struct SetArgs {
    /// Make the copies on a node or disk anew elsewhere once nobody has reached it for this time, 5s to 30d
    #[arg(long, value_name = "TIME", value_parser = value::positive_span, required = true)]
    down_after: Option<Span>,
}

impl SetArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), Stop> {
        let request = SetNetwork { down_after_ms: self.down_after.map(value::millis) };
        let network: Network = context.daemon().await?.patch("/v1/network", &request).await?;
        context.terminal.note(&format!("network {} is set", network.name));
        context.terminal.show(&network, || super::facts(&context.terminal, &network))
    }
}
