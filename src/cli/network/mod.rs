//! `infinit network`: a network is a key pair, and the machines that hold a passport signed with it.

use clap::Subcommand;

use crate::base::units::Span;
use crate::cli::context::Context;
use crate::cli::table::{Grid, Tone, optional, plain};
use crate::cli::terminal::{Stop, Terminal};
use crate::daemon::api::Network;
use crate::daemon::offline;

mod create;
mod invite;
mod join;
mod leave;
mod list;
mod recover;
mod set;
mod show;

#[derive(Debug, Subcommand)]
pub enum NetworkCommand {
    Create(create::CreateArgs),
    Join(join::JoinArgs),
    Invite(invite::InviteArgs),
    List(list::ListArgs),
    Show(show::ShowArgs),
    Set(set::SetArgs),
    Leave(leave::LeaveArgs),
    Recover(recover::RecoverArgs),
}

impl NetworkCommand {
    pub async fn run(self, context: &Context) -> Result<(), Stop> {
        match self {
            NetworkCommand::Create(args) => args.run(context).await,
            NetworkCommand::Join(args) => args.run(context).await,
            NetworkCommand::Invite(args) => args.run(context).await,
            NetworkCommand::List(args) => args.run(context).await,
            NetworkCommand::Show(args) => args.run(context).await,
            NetworkCommand::Set(args) => args.run(context).await,
            NetworkCommand::Leave(args) => args.run(context).await,
            NetworkCommand::Recover(args) => args.run(context).await,
        }
    }
}

/// Says how to start the node of a network that is new in this home: word for word, since a home may have several
/// networks, and runs the node of one at a time.
async fn hint_start(context: &Context, network: &Network) -> Result<(), Stop> {
    let place = context.place()?;
    // What was asked for is done: a neighbour that cannot be read is no failure.
    if offline::list(&place.home).await.map_or(0, |networks| networks.len()) < 2 {
        context.terminal.hint("start the node: infinit node run --silo PATH");
        return Ok(());
    }
    let start = format!("{} --silo PATH", place.command("node run", &network.name));
    match context.served().await.unwrap_or(None) {
        Some(served) => context.terminal.hint(&format!(
            "a home runs one node at a time, now that of network {}: {} node stop, then {start}",
            served.name, place.program
        )),
        None => context.terminal.hint(&format!("start the node: {start}")),
    }
    Ok(())
}

fn facts(terminal: &Terminal, network: &Network) -> String {
    let mut grid = Grid::bare(terminal);
    grid.fact("network", network.name.clone());
    grid.fact("id", network.id.to_string());
    grid.fact("this node", format!("{} ({})", network.node.name, network.node.id.short()));
    grid.fact("role", network.role.to_string());
    grid.fact("key", if network.owner { "held here: this machine may invite" } else { "not held here" }.to_owned());
    match &network.cluster {
        None => grid.fact("cluster", "no daemon runs here".to_owned()),
        Some(cluster) => {
            let tone = if cluster.quorum { Tone::Good } else { Tone::Bad };
            let quorum = if cluster.quorum { "quorum" } else { "no quorum" };
            grid.row(vec![("cluster".to_owned(), Tone::Faint), (quorum.to_owned(), tone)]);
            grid.fact("leader", cluster.leader.as_ref().map(|leader| leader.name.clone()));
            let voters: Vec<&str> = cluster.voters.iter().map(|voter| voter.name.as_str()).collect();
            grid.fact("voters", voters.join(", "));
            grid.fact("down after", Span(std::time::Duration::from_millis(cluster.down_after_ms)).to_string());
        }
    }
    grid.finish()
}

fn table(terminal: &Terminal, networks: &[Network]) -> String {
    let mut grid = Grid::new(terminal, &["NAME", "ID", "ROLE", "KEY", "NODE"]);
    for network in networks {
        let key = network.owner.then(|| "held here".to_owned());
        grid.row(vec![
            plain(&network.name),
            plain(network.id.short()),
            plain(network.role.to_string()),
            optional(key),
            plain(&network.node.name),
        ]);
    }
    grid.finish()
}
