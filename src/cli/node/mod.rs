//! `infinit node`: the daemon of this machine, and its fellows.

use clap::Subcommand;

use crate::cli::context::Context;
use crate::cli::terminal::Stop;

mod drain;
mod install;
pub mod list;
mod remove;
mod run;
mod show;
mod stop;
mod wait;

#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    Run(run::RunArgs),
    Wait(wait::WaitArgs),
    List(list::ListArgs),
    Show(show::ShowArgs),
    Drain(drain::DrainArgs),
    Remove(remove::RemoveArgs),
    Stop(stop::StopArgs),
    Install(install::InstallArgs),
}

impl NodeCommand {
    pub async fn run(self, context: &Context) -> Result<(), Stop> {
        match self {
            NodeCommand::Run(args) => args.run(context).await,
            NodeCommand::Wait(args) => args.run(context).await,
            NodeCommand::List(args) => args.run(context).await,
            NodeCommand::Show(args) => args.run(context).await,
            NodeCommand::Drain(args) => args.run(context).await,
            NodeCommand::Remove(args) => args.run(context).await,
            NodeCommand::Stop(args) => args.run(context).await,
            NodeCommand::Install(args) => args.run(context).await,
        }
    }
}
