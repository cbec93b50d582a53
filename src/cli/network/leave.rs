//! `infinit network leave`.

use clap::Args;

use crate::cli::context::Context;
use crate::cli::terminal::Stop;
use crate::daemon::api::{Left, Network};

/// Leave the network: this machine's passport is revoked and its node stops
#[derive(Debug, Args)]
pub struct LeaveArgs {}

impl LeaveArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), Stop> {
        let client = context.daemon().await?;
        let network: Network = client.get("/v1/network").await?;
        let what = format!("leaving network {}", network.name);
        context.terminal.confirm(context.yes, &what, "gives up this machine's copies")?;
        let left: Left = client.post("/v1/network/leave", &serde_json::json!({})).await?;
        context.terminal.note(&format!("left network {} ({})", left.name, left.id.short()));
        context.terminal.show(&left, String::new)
    }
}
