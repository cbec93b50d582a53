//! `infinit network leave`.

use clap::Args;

use crate::cli::context::Context;
use crate::cli::terminal::Stop;
use crate::daemon::api::{Left, Network};
use crate::daemon::offline::{self, Place};

/// Leave the network: this machine's passport is revoked and its node stops
#[derive(Debug, Args)]
pub struct LeaveArgs {}

impl LeaveArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), Stop> {
        let place = context.place()?;
        let served = context.served().await?;
        // The daemon of another network of this home has no part in it.
        let by_daemon = served.filter(|network| place.network.as_ref().is_none_or(|meant| *meant == network.name));
        let left = match by_daemon {
            Some(network) => {
                confirm(context, &network)?;
                context.daemon().await?.post("/v1/network/leave", &serde_json::json!({})).await?
            }
            None => alone(context, &place).await?,
        };
        context.terminal.note(&format!("left network {} ({})", left.name, left.id.short()));
        context.terminal.show(&left, String::new)
    }
}

/// Without a daemon of that network.
async fn alone(context: &Context, place: &Place) -> Result<Left, Stop> {
    let network = offline::leaving(place).await?;
    confirm(context, &network)?;
    let spinner = context.terminal.spinner(format!("leaving network {}", network.name));
    let left = offline::leave(place).await;
    spinner.finish_and_clear();
    Ok(left?)
}

fn confirm(context: &Context, network: &Network) -> Result<(), Stop> {
    let what = format!("leaving network {}", network.name);
    let why = if network.owner {
        "gives up this machine's copies, and the network's key with which it invites"
    } else {
        "gives up this machine's copies"
    };
    Ok(context.terminal.confirm(context.yes, &what, why)?)
}
