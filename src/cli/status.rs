//! `infinit status`: everything on one screen.

use std::time::Duration;

use clap::Args;
use tokio::time::{MissedTickBehavior, interval};

use crate::cli::client::Client;
use crate::cli::context::Context;
use crate::cli::terminal::{Stop, Terminal, clean};
use crate::cli::{node, volume};
use crate::daemon::api::{NodeState, Status, Volume, VolumeState};

/// How often the screen is drawn anew.
const REDRAW_EVERY: Duration = Duration::from_secs(1);

/// Show the network, its nodes and volumes, and what would mend what is wrong
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Draw it anew every second until interrupted
    #[arg(long)]
    watch: bool,
}

impl StatusArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), Stop> {
        let client = context.daemon().await?;
        if self.watch {
            return watch(&client, &context.terminal).await;
        }
        let status: Status = client.get("/v1/status").await?;
        context.terminal.show(&status, || screen(&context.terminal, &status))
    }
}

/// Begins only before a daemon; then goes on while it is away: that too is something to see.
async fn watch(client: &Client, terminal: &Terminal) -> Result<(), Stop> {
    client.get::<Status>("/v1/status").await?;
    let mut redraw = interval(REDRAW_EVERY);
    redraw.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        redraw.tick().await;
        match client.get::<Status>("/v1/status").await {
            Ok(status) => terminal.redraw(&status, || screen(terminal, &status))?,
            Err(fault) if terminal.is_json() => terminal.fault(&fault),
            Err(fault) => terminal.redraw(&fault, || format!("{}\n", clean(&fault.message)))?,
        }
    }
}

/// One line for the network, a table of nodes, one of volumes, and the problems with what would mend them.
fn screen(terminal: &Terminal, status: &Status) -> String {
    let mut text = headline(terminal, status);
    text.push('\n');
    text.push_str(&node::list::table(terminal, &status.nodes));
    if !status.volumes.is_empty() {
        text.push('\n');
        text.push_str(&volume::list::table(terminal, &status.volumes));
    }
    if let Some(moving) = &status.moving {
        text.push_str(&format!("\nmoving: {}\n", volume::status::moving(moving)));
    }
    let problems = problems(status);
    text.push('\n');
    if problems.is_empty() {
        text.push_str("no problems\n");
    } else {
        text.push_str(&format!("{}\n", terminal.bold("problems")));
    }
    for (problem, mend) in problems {
        text.push_str(&format!("  {}\n", clean(&problem)));
        if let Some(mend) = mend {
            text.push_str(&format!("    to mend it: {}\n", clean(&mend)));
        }
    }
    text
}

fn headline(terminal: &Terminal, status: &Status) -> String {
    let network = &status.network;
    let up = status.nodes.iter().filter(|node| node.state == NodeState::Up).count();
    let unknown = match status.nodes.iter().filter(|node| node.state == NodeState::Unknown).count() {
        0 => String::new(),
        unknown => format!(", {unknown} not asked yet"),
    };
    let nodes = match status.nodes.len() {
        1 => "1 node".to_owned(),
        all => format!("{all} nodes"),
    };
    let agreement = match &network.cluster {
        None => "cluster unknown".to_owned(),
        Some(cluster) if !cluster.quorum => "no quorum".to_owned(),
        Some(cluster) => {
            let leader = cluster.leader.as_ref().map_or_else(String::new, |leader| format!(", leader {}", leader.name));
            format!("quorum of {}{leader}", cluster.voters.len())
        }
    };
    let name = terminal.bold(&clean(&network.name)).into_owned();
    format!("network {name} ({}): {nodes}, {up} up{unknown}, {}\n", network.id.short(), clean(&agreement))
}

/// What is wrong, each with what would mend it.
fn problems(status: &Status) -> Vec<(String, Option<String>)> {
    let warnings = status.warnings.iter().map(|warning| (warning.message.clone(), warning.hint.clone()));
    let volumes = status.volumes.iter().filter(|volume| wrong(volume)).map(|volume| {
        let reason = volume.reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
        (format!("volume {} is {}{reason}", volume.name, volume.state), volume.mend.clone())
    });
    warnings.chain(volumes).collect()
}

fn wrong(volume: &Volume) -> bool {
    match volume.state {
        VolumeState::Degraded | VolumeState::Suspended => true,
        // A detached volume has a reason when something keeps it from being attached.
        VolumeState::Healthy | VolumeState::Detached => volume.reason.is_some(),
    }
}
